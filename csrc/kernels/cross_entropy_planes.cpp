// Softmax cross-entropy where the classes are strided and positions lie side by side: (N, C, H, W)
// in NCHW. The mathematics is cross_entropy.cpp's; here a vector holds one class of 16 positions.
//
// Bytes per float32 logit: forward 4; with gradient 8 while classes * 64 positions fit in L2 (256
// KB at 1000 classes), 12 beyond. The exponential is computed again for the gradient: a scratch
// tile would double what has to stay in cache. Sums over classes go block by block into double.
// Plain stores: a tile is many 256-byte runs, too short for streaming to pay.
// Error: as cross_entropy.cpp. Reference: torch.nn.functional.cross_entropy, (N, C, d1, ...).
#include "kernels/class_rows.h"

namespace dlk::DLK_ISA {
namespace {

// One tile: up to kPlaneTile neighbouring positions of one batch entry.
template <class T> struct Tile {
  using C = Compute<T>;
  using Int = typename LaneTraits<C>::Int;

  const CrossEntropyArgs& args;
  const SoftTarget<T> soft;
  const bool has_soft, has_indices;
  int64_t batch, first, positions;          // positions [first, first + positions) of `batch`
  alignas(kVecBytes) Int index[kPlaneTile]; // the target; -1 for none
  alignas(kVecBytes) Int live[kPlaneTile];  // all ones unless ignored
  alignas(kVecBytes) C reference[kPlaneTile];
  alignas(kVecBytes) C factor[kPlaneTile], scale[kPlaneTile], hard_scale[kPlaneTile];
  double hard[kPlaneTile], sum[kPlaneTile], mass[kPlaneTile], dot[kPlaneTile];

  explicit Tile(const CrossEntropyArgs& a)
      : args(a), soft(a), has_soft(a.target_probability.data || soft.uniform != 0),
        has_indices(!a.target_probability.data) {}

  const T* logits() const {
    return static_cast<const T*>(args.logits.data) + element_offset(args.logits, batch, first);
  }
  const T* probabilities() const {
    return static_cast<const T*>(args.target_probability.data) +
           element_offset(args.target_probability, batch, first);
  }

  void set(int64_t tile) {
    const int64_t tiles = chunk_count(args.positions, kPlaneTile);
    batch = tile / tiles;
    first = tile % tiles * kPlaneTile;
    positions = args.positions - first < kPlaneTile ? args.positions - first : kPlaneTile;
    for (int64_t s = 0; s < kPlaneTile; ++s) {
      const int64_t target =
          has_indices && s < positions ? load_index(args.target, batch, first + s) : -1;
      const bool ignored = has_indices && s < positions && target == args.ignore_index;
      index[s] = Int(ignored ? -1 : target);
      live[s] = ignored || s >= positions ? 0 : -1;
      hard[s] =
          has_indices && live[s]
              ? double(soft.keep) * (soft.weight ? double(load_scalar(soft.weight + target)) : 1)
              : 0;
      mass[s] = dot[s] = 0;
    }
  }

  double class_weight(int64_t c) const {
    return soft.weight ? double(load_scalar(soft.weight + c)) : 1;
  }

  // q of class c at positions [s, s + lanes)
  template <class Lanes>
  DLK_INLINE Vec<C> soft_at(int64_t c, C weight, int64_t s, Lanes lanes) const {
    Vec<C> q(soft.uniform);
    if (!has_indices)
      q = fma(load_lanes(probabilities() + c * args.target_probability.class_stride + s, lanes),
              Vec<C>(soft.keep), q);
    return q * Vec<C>(weight);
  }

  template <class Lanes> DLK_INLINE Vec<C> value_at(int64_t c, int64_t s, Lanes lanes) const {
    const Vec<C> x = load_lanes(logits() + c * args.logits.class_stride + s, lanes);
    if (args.softcap == 0)
      return x;
    return tanh(x * Vec<C>(C(1 / args.softcap))) * Vec<C>(C(args.softcap));
  }

  // mass = sum of q, dot = sum of q (x - shift), per position, in double per class
  void soft_sums() {
    alignas(kVecBytes) C q_lane[Vec<C>::kLanes], dot_lane[Vec<C>::kLanes];
    for (int64_t c = 0; c < args.classes; ++c) {
      const C weight = C(class_weight(c));
      for_each_vec<C>(positions, [&](int64_t s, auto lanes) DLK_BODY {
        const Vec<C> q = soft_at(c, weight, s, lanes);
        store(q_lane, q);
        store(dot_lane, q * (value_at(c, s, lanes) - load(reference + s)));
        for (int64_t lane = 0; lane < Vec<C>::kLanes; ++lane) {
          mass[s + lane] += double(q_lane[lane]);
          dot[s + lane] += double(dot_lane[lane]);
        }
      });
    }
  }

  // What multiplies p, q and the hard target in the gradient of position s.
  void set_gradient(int64_t s, double grad_output, double lse) {
    const double row_scale = live[s] ? args.row_scale * grad_output : 0;
    factor[s] = live[s] ? C((row_scale * (hard[s] + mass[s]) +
                             grad_output * args.z_scale * 2 * args.z_loss * lse) /
                            sum[s])
                        : C(0);
    scale[s] = C(row_scale);
    hard_scale[s] = C(row_scale * hard[s]);
  }

  void write_gradient() const {
    T* grad =
        static_cast<T*>(args.grad_logits.data) + element_offset(args.grad_logits, batch, first);
    const Vec<C> zero(C(0)), one(C(1));
    for (int64_t c = 0; c < args.classes; ++c) {
      const C weight = C(class_weight(c));
      T* grad_class = grad + c * args.grad_logits.class_stride;
      for_each_vec<C>(positions, [&](int64_t s, auto lanes) DLK_BODY {
        const Vec<C> x = value_at(c, s, lanes);
        const Vec<C> e = exp_nonpositive(x - load(reference + s));
        Vec<C> g = e * load(factor + s);
        if (has_soft)
          g = fma(soft_at(c, weight, s, lanes), -load(scale + s), g);
        const IntVec<C> hit = equal(load_int(index + s), IntVec<C>(Int(c)));
        g = g - select(hit, load(hard_scale + s), zero);
        if (args.softcap != 0) {
          const Vec<C> t = x * Vec<C>(C(1 / args.softcap));
          g = g * fma(-t, t, one);
        }
        store_lanes(grad_class + s, select(load_int(live + s), g, zero), lanes);
      });
    }
  }
  static DLK_INLINE IntVec<C> load_int(const Int* p) {
    return bits_of(load(reinterpret_cast<const C*>(p)));
  }
};

template <class T> void forward(CrossEntropyArgs& args) {
  using C = Compute<T>;
  const int64_t tiles = args.batches * chunk_count(args.positions, kPlaneTile);
  const int64_t work = args.batches * args.positions * args.classes;
  parallel_chunks(tiles, work, [&](int64_t begin, int64_t end, int) {
    Tile<T> tile(args);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      tile.set(chunk);
      const T* x = tile.logits();
      plane_exp_sums(x, args.logits.class_stride, args.classes, tile.positions, args.softcap,
                     tile.reference, tile.sum);
      if (tile.has_soft)
        tile.soft_sums();
      CompensatedSum tile_loss;
      for (int64_t s = 0; s < tile.positions; ++s) {
        const int64_t row = tile.batch * args.positions + tile.first + s;
        const double log_sum = log_scalar(tile.sum[s]);
        const double lse = double(tile.reference[s]) + log_sum;
        double ce = 0;
        if (tile.live[s]) {
          if (tile.index[s] >= 0) {
            double value = double(load_scalar(x + tile.index[s] * args.logits.class_stride + s));
            if (args.softcap != 0)
              value = args.softcap * tanh_scalar(value / args.softcap);
            const double gap = double(tile.reference[s]) - value + log_sum;
            ce = tile.hard[s] * (gap < 0 ? 0 : gap); // lse >= x_y but for rounding
          }
          if (tile.has_soft)
            ce += tile.mass[s] * log_sum - tile.dot[s];
          tile_loss.add(args.row_scale * ce + args.z_scale * args.z_loss * lse * lse);
        }
        if (args.row_lse)
          args.row_lse[row] = tile.live[s] || args.visit_ignored ? lse : 0;
        if (args.row_loss)
          store_scalar(static_cast<T*>(args.row_loss) + row,
                       C(tile.live[s] ? ce + args.z_loss * lse * lse : 0));
        if (args.row_argmax && (tile.live[s] || args.visit_ignored))
          args.row_argmax[row] = argmax_strided(x + s, args.logits.class_stride, args.classes);
        if (args.grad_logits.data) {
          tile.set_gradient(s, grad_output_of<T>(args, row), lse);
        }
      }
      if (args.grad_logits.data)
        tile.write_gradient();
      args.loss_partials[chunk] = tile_loss.total();
    }
  });
  CompensatedSum sum;
  for (int64_t tile = 0; tile < tiles; ++tile)
    sum.add(args.loss_partials[tile]);
  args.loss_sum = sum.total();
}

} // namespace

void cross_entropy_planes(CrossEntropyArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) { forward<decltype(type)>(args); });
}

} // namespace dlk::DLK_ISA
