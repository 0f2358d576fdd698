// Softmax cross-entropy where the classes are strided and positions lie side by side: (N, C, H, W)
// in NCHW. The mathematics and the bits are cross_entropy.cpp's; here a vector holds one class of
// 16 positions (log_sum_exp_planes.h).
//
// Bytes per float32 logit: forward 4; with gradient 8: a tile is read once and its exponentials are
// kept in scratch, which up to 2048 classes fits in L2; beyond 32768 classes (float64: 16384) 12,
// with the exponential made again. Plain stores: a tile is many 256-byte runs, too short for
// streaming to pay.
//
// Error: as cross_entropy.cpp. Reference: torch.nn.functional.cross_entropy of (N, C, d1, ...).
#include "kernels/class_losses/log_sum_exp_planes.h"
#include "kernels/class_losses/targets.h"

namespace dlk::DLK_ISA {
namespace {

// Neighbouring positions of one batch entry.
template <class T> struct Tile {
  using C = Compute<T>;
  using Int = typename LaneTraits<C>::Int;

  const CrossEntropyArgs& args;
  const SoftTarget<T> soft;
  const bool has_soft, has_indices;
  PlaneExpSum<T> row;
  TileSums<C> exp_sums, mass_sums, dot_sums;
  int64_t batch, first, positions;          // positions [first, first + positions) of `batch`
  alignas(kVecBytes) Int index[kPlaneTile]; // the target; -1 for none
  alignas(kVecBytes) Int live[kPlaneTile];  // all ones unless ignored
  alignas(kVecBytes) C scale[kPlaneTile], hard_scale[kPlaneTile];
  double hard[kPlaneTile], log_sum[kPlaneTile], coefficient[kPlaneTile];
  CompensatedSum mass[kPlaneTile], dot[kPlaneTile]; // of q, and of q (x - anchor)

  Tile(const CrossEntropyArgs& a, int thread)
      : args(a), soft(a), has_soft(a.target_probability.data || soft.uniform != 0),
        has_indices(!a.target_probability.data),
        row(a.scratch, a.scratch_bytes_per_thread, thread, a.logits, a.classes, a.softcap) {}

  const T* logits() const {
    return static_cast<const T*>(args.logits.data) + element_offset(args.logits, batch, first);
  }
  const T* probabilities() const {
    return static_cast<const T*>(args.target_probability.data) +
           element_offset(args.target_probability, batch, first);
  }

  void set(int64_t tile) {
    const int64_t tiles = chunk_count(args.positions, row.tile);
    batch = tile / tiles;
    first = tile % tiles * row.tile;
    positions = args.positions - first < row.tile ? args.positions - first : row.tile;
    row.set(logits(), positions);
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
      mass[s] = dot[s] = CompensatedSum();
    }
  }

  // q of class c at positions [s, s + lanes)
  template <class Lanes> DLK_INLINE Vec<C> soft_at(int64_t c, int64_t s, Lanes lanes) const {
    Vec<C> q(soft.uniform);
    if (!has_indices)
      q = fma(load_lanes(probabilities() + c * args.target_probability.class_stride + s, lanes),
              Vec<C>(soft.keep), q);
    return soft.weight ? q * Vec<C>(load_scalar(soft.weight + c)) : q;
  }

  // Everything that is summed over classes.
  template <bool kGrad> DLK_BLOCK void add_up() {
    for_each_block<C>(args.classes, [&](int64_t begin, int64_t size) DLK_BODY {
      if (!has_soft)
        return row.template add<kGrad>(begin, size, exp_sums, [](auto...) DLK_BODY {});
      double old[kPlaneTile];
      for (int64_t s = 0; s < kPlaneTile; ++s)
        old[s] = row.final_anchor(s);
      mass_sums.clear(size);
      dot_sums.clear(size);
      row.template add<kGrad>(
          begin, size, exp_sums,
          [&](int64_t c, int64_t s, Vec<C> value, Vec<C> shift, auto lanes) DLK_BODY {
            const Vec<C> q = soft_at(c, s, lanes);
            C *mass_part = mass_sums.at(c - begin, s), *dot_part = dot_sums.at(c - begin, s);
            store(mass_part, load(mass_part) + q);
            store(dot_part, fma(q, value - shift, load(dot_part)));
          });
      const C *masses = mass_sums.total(size, positions), *dots = dot_sums.total(size, positions);
      for (int64_t s = 0; s < positions; ++s) {
        const double anchor = row.final_anchor(s);
        if (begin && old[s] != anchor)
          dot[s].add(mass[s].total() * (old[s] - anchor));
        mass[s].add(double(masses[s]));
        dot[s].add(double(dots[s]));
      }
    });
    alignas(kVecBytes) double sums[kPlaneTile];
    for (int64_t s = 0; s < kPlaneTile; ++s)
      sums[s] = row.total(s);
    for (int64_t s = 0; s < kPlaneTile; s += Vec<double>::kLanes)
      store(log_sum + s, log(load(sums + s)));
  }

  // The cross-entropy of a position that is not ignored.
  double loss(int64_t s) const {
    double ce = 0;
    if (index[s] >= 0) {
      double value =
          double(load_scalar(logits() + int64_t(index[s]) * args.logits.class_stride + s));
      if (args.softcap != 0)
        value = double(capped(Vec<C>(C(value)), args.softcap).part[0][0]);
      const double gap = row.final_anchor(s) - value + log_sum[s];
      ce = hard[s] * (gap < 0 ? 0 : gap); // lse >= x_y but for rounding
    }
    if (has_soft)
      ce += mass[s].total() * log_sum[s] - dot[s].total();
    return ce;
  }

  // What multiplies p, q and the hard target in the gradient of position s.
  void set_gradient(int64_t s, double grad_output, double lse) {
    const double ce_scale = live[s] ? cross_entropy_scale(args) * grad_output : 0;
    coefficient[s] = live[s] ? (ce_scale * (hard[s] + mass[s].total()) +
                                grad_output * args.z_scale * 2 * args.z_loss * lse) /
                                   row.total(s)
                             : 0;
    scale[s] = C(ce_scale);
    hard_scale[s] = C(ce_scale * hard[s]);
  }

  DLK_BLOCK void write_gradient() const {
    T* grad =
        static_cast<T*>(args.grad_logits.data) + element_offset(args.grad_logits, batch, first);
    const Vec<C> zero(C(0)), one(C(1));
    alignas(kVecBytes) C factors[kPlaneTile];
    for_each_block<C>(args.classes, [&](int64_t begin, int64_t size) DLK_BODY {
      row.block_factors(begin, coefficient, factors);
      const C* shifts = row.anchors_of(begin);
      for (int64_t c = begin; c < begin + size; ++c) {
        T* grad_class = grad + c * args.grad_logits.class_stride;
        for_each_vec<C>(positions, [&](int64_t s, auto lanes) DLK_BODY {
          Vec<C> g = row.exp_at(c, s, shifts, lanes) * load(factors + s);
          if (has_soft)
            g = fma(soft_at(c, s, lanes), -load(scale + s), g);
          const IntVec<C> hit = equal(load_int(index + s), IntVec<C>(Int(c)));
          g = g - select(hit, load(hard_scale + s), zero);
          if (args.softcap != 0) {
            const T* x = logits() + c * args.logits.class_stride;
            const Vec<C> t = squashed(load_lanes(x + s, lanes), args.softcap);
            g = g * fma(-t, t, one);
          }
          store_lanes(grad_class + s, select(load_int(live + s), g, zero), lanes);
        });
      }
    });
  }
  static DLK_INLINE IntVec<C> load_int(const Int* p) {
    return bits_of(load(reinterpret_cast<const C*>(p)));
  }
};

template <class T, bool kGrad> void forward(CrossEntropyArgs& args) {
  using C = Compute<T>;
  const int64_t tiles =
      args.batches * chunk_count(args.positions, plane_tile(args.classes, sizeof(C)));
  const int64_t work = args.batches * args.positions * args.classes;
  parallel_chunks(tiles, work, [&](int64_t begin, int64_t end, int thread) {
    Tile<T> tile(args, thread);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      tile.set(chunk);
      tile.template add_up<kGrad>();
      CompensatedSum tile_loss;
      for (int64_t s = 0; s < tile.positions; ++s) {
        const int64_t at = tile.batch * args.positions + tile.first + s;
        const double lse = tile.row.final_anchor(s) + tile.log_sum[s];
        const double ce = tile.live[s] ? tile.loss(s) : 0;
        if (tile.live[s])
          tile_loss.add(args.row_scale * ce + args.z_scale * args.z_loss * lse * lse);
        if (args.row_lse)
          args.row_lse[at] = tile.live[s] || args.visit_ignored ? lse : 0;
        if (args.row_loss)
          store_scalar(static_cast<T*>(args.row_loss) + at,
                       C(tile.live[s] ? ce + args.z_loss * lse * lse : 0));
        if (args.row_argmax && (tile.live[s] || args.visit_ignored))
          args.row_argmax[at] =
              argmax_strided(tile.logits() + s, args.logits.class_stride, args.classes);
        if (kGrad)
          tile.set_gradient(s, grad_output_of<T>(args, at), lse);
      }
      if (kGrad)
        tile.write_gradient();
      keep_partial(args, chunk, tile_loss);
    }
  });
  args.loss_sum = sum_of_partials(args, tiles);
}

} // namespace

void cross_entropy_planes(CrossEntropyArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    args.grad_logits.data ? forward<T, true>(args) : forward<T, false>(args);
  });
}

} // namespace dlk::DLK_ISA
