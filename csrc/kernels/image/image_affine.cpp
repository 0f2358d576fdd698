// Images times a number plus a number, one pair per channel, from one layout and type to another:
// normalization ((x / 255 - mean) / std, as x * (1 / (255 std)) - mean / std) and its inverse.
//
// One pass: 5 bytes per element from uint8 to float32, where a chain of torch operations moves 39.
// A block of pixels is converted to the computing type, transposed in L1 if the layouts differ, and
// written with one multiply-add. Three channels of uint8 side by side, the usual photograph, are
// taken apart by byte shuffles instead (16 pixels in 15 operations).
// float64 computes in float64, everything else in float32. To uint8: clamped to [0, 255], nearest
// even, NaN is 0.
// Error: 1 eps of |x * factor| + |shift| (factor and shift are rounded from float64, then the sum;
// 1.5 without a fused multiply-add); half types are rounded once.
// Reference: torchvision.transforms.v2: to_dtype(scale=True), normalize.
#include "kernels/image/args.h"
#include "simd/bytes.h"
#include "simd/loops.h"

namespace dlk::DLK_ISA {
namespace {

// --- any type as the computing one, and back

template <class T, class C> DLK_INLINE Vec<C> load_as(const T* p, WholeVec) {
  if constexpr (sizeof(T) == 1)
    return load_bytes<C>(p);
  else if constexpr (sizeof(Compute<T>) == sizeof(C))
    return load(p);
  else {
    Vec<C> r; // float to double
    constexpr int lanes = kNativeBytes / sizeof(C);
    DLK_PARTS(for (int lane = 0; lane < lanes; ++lane) r.part[i][lane] =
                  C(load_scalar(p + i * lanes + lane));)
    return r;
  }
}
template <class T, class C> DLK_INLINE Vec<C> load_as(const T* p, StreamedVec) {
  return load_as<T, C>(p, WholeVec{});
}
template <class T, class C> DLK_INLINE Vec<C> load_as(const T* p, PartialVec lanes) {
  alignas(kVecBytes) T values[Vec<C>::kLanes] = {};
  for (int64_t lane = 0; lane < lanes.count; ++lane)
    values[lane] = p[lane];
  return load_as<T, C>(values, WholeVec{});
}

template <class C> DLK_INLINE int64_t covered(PartialVec lanes) {
  return lanes.count;
}
template <class C, class Lanes> DLK_INLINE int64_t covered(Lanes) {
  return Vec<C>::kLanes;
}

template <class T, class C, class Lanes> DLK_INLINE void store_as(T* p, Vec<C> v, Lanes lanes) {
  const int64_t count = covered<C>(lanes);
  if constexpr (sizeof(T) == 1)
    store_bytes(p, v, count);
  else if constexpr (sizeof(Compute<T>) == sizeof(C))
    store_lanes(p, v, lanes);
  else {
    alignas(kVecBytes) C values[Vec<C>::kLanes];
    store(values, v);
    for (int64_t lane = 0; lane < count; ++lane) // double to float
      store_scalar(p + lane, Compute<T>(values[lane]));
  }
}

// --- blocks

// `size` elements side by side, in the computing type.
template <class T, class C> DLK_BLOCK void convert(const void* from, C* to, int64_t size) {
  const T* p = static_cast<const T*>(from);
  for_each_vec<C>(size, [&](int64_t i, auto lanes)
                            DLK_BODY { store_lanes(to + i, load_as<T, C>(p + i, lanes), lanes); });
}
template <class C> using Convert = void (*)(const void* from, C* to, int64_t size);

// Pixels of channels side by side to planes of `pixels`, and back.
template <class C> DLK_INLINE void transpose(const C* from, C* to, int64_t rows, int64_t columns) {
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t row = 0; row < rows; ++row)
      to[column * rows + row] = from[row * columns + column];
}
template <class C> void to_planes(const C* from, C* to, int64_t pixels, int64_t channels) {
  channels == 3 ? transpose(from, to, pixels, 3) : transpose(from, to, pixels, channels);
}
template <class C> void from_planes(const C* from, C* to, int64_t pixels, int64_t channels) {
  channels == 3 ? transpose(from, to, 3, pixels) : transpose(from, to, channels, pixels);
}

// body(index, lanes), past the cache where the type allows.
template <class T, class C, class Body>
DLK_INLINE void for_each_to(const T* to, int64_t size, bool nontemporal, Body&& body) {
  if constexpr (sizeof(T) > 1 && sizeof(Compute<T>) == sizeof(C))
    for_each_vec_to(to, size, nontemporal, body);
  else
    for_each_vec<C>(size, body);
}

template <class Out, class C> class Pass {
public:
  Pass(const ImageAffineArgs& args, Convert<C> convert)
      : args_(args), convert_(convert), factor_(static_cast<const C*>(args.factor)),
        shift_(static_cast<const C*>(args.shift)) {}

  // `pixels` of one row, from the first of them.
  void block(const char* in, Out* out, int64_t pixels) const {
    alignas(kVecBytes) C mixed[kImageBlockElems];  // channels side by side
    alignas(kVecBytes) C planes[kImageBlockElems]; // or each by itself
    const int64_t channels = args_.channels, elems = pixels * channels;
    const int64_t in_plane_bytes = args_.input.plane_stride * item_size(args_.input.dtype);
    const int64_t out_plane = args_.output.plane_stride;
    if (in_plane_bytes) {
      for (int64_t c = 0; c < channels; ++c)
        convert_(in + c * in_plane_bytes, planes + c * pixels, pixels);
    } else if (out_plane && channels == 3 && args_.input.dtype == DType::uint8) {
      uint8_t* bytes = reinterpret_cast<uint8_t*>(mixed);
      to_byte_planes(reinterpret_cast<const uint8_t*>(in), bytes, pixels);
      for (int64_t c = 0; c < channels; ++c)
        plane(bytes + c * pixels, out + c * out_plane, pixels, c);
      return;
    } else {
      convert_(in, mixed, elems);
      if (out_plane)
        to_planes(mixed, planes, pixels, channels);
    }
    if (out_plane) {
      for (int64_t c = 0; c < channels; ++c)
        plane(planes + c * pixels, out + c * out_plane, pixels, c);
      return;
    }
    if (in_plane_bytes)
      from_planes(planes, mixed, pixels, channels);
    side_by_side(mixed, out, elems);
  }

private:
  template <class From>
  DLK_INLINE void plane(const From* from, Out* to, int64_t pixels, int64_t channel) const {
    const Vec<C> factor(factor_[channel]), shift(shift_[channel]);
    for_each_to<Out, C>(to, pixels, args_.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
      store_as(to + i, fma(load_as<From, C>(from + i, lanes), factor, shift), lanes);
    });
  }

  // The factors and shifts come in the order of the elements, again and again.
  DLK_INLINE void side_by_side(const C* from, Out* to, int64_t elems) const {
    const int64_t period = args_.channels * args_.repeats;
    for (int64_t begin = 0; begin < elems; begin += period) {
      const int64_t size = elems - begin < period ? elems - begin : period;
      for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
        const Vec<C> factor = load_lanes(factor_ + i, lanes), shift = load_lanes(shift_ + i, lanes);
        store_as(to + begin + i, fma(load_lanes(from + begin + i, lanes), factor, shift), lanes);
      });
    }
  }

  const ImageAffineArgs& args_;
  Convert<C> convert_;
  const C *factor_, *shift_;
};

template <class Out, class C> void run(const ImageAffineArgs& args, Convert<C> convert) {
  const Pass<Out, C> pass(args, convert);
  const int64_t in_item = item_size(args.input.dtype), channels = args.channels;
  const int64_t in_pixel = args.input.plane_stride ? 1 : channels;
  const int64_t out_pixel = args.output.plane_stride ? 1 : channels;
  // Whole lines of every type in all but the last.
  int64_t block = kImageBlockElems / channels;
  block = block > kImageBlockPixels ? kImageBlockPixels : block > 64 ? block / 64 * 64 : block;
  const int64_t row_blocks = chunk_count(args.columns, block);
  const int64_t blocks = args.images * args.rows * row_blocks;
  constexpr int64_t chunk_blocks = 8;
  const int64_t elems = args.images * args.rows * args.columns * channels;
  parallel_chunks(chunk_count(blocks, chunk_blocks), elems, [&](int64_t first, int64_t last, int) {
    const int64_t end = last * chunk_blocks < blocks ? last * chunk_blocks : blocks;
    for (int64_t index = first * chunk_blocks; index < end; ++index) {
      const int64_t column = index % row_blocks * block, row = index / row_blocks % args.rows;
      const int64_t image = index / row_blocks / args.rows;
      const int64_t pixels = args.columns - column < block ? args.columns - column : block;
      const ImageLayout &in = args.input, &out = args.output;
      const int64_t from = image * in.image_stride + row * in.row_stride + column * in_pixel;
      const int64_t to = image * out.image_stride + row * out.row_stride + column * out_pixel;
      pass.block(static_cast<const char*>(in.data) + from * in_item,
                 static_cast<Out*>(out.data) + to, pixels);
    }
  });
}

// Calls f with a value of the type that `dtype`, floating or uint8, names.
template <class F> DLK_INLINE void with_image_type(DType dtype, F f) {
  dtype == DType::uint8 ? f(uint8_t{}) : with_storage_type(dtype, f);
}

} // namespace

void image_affine(ImageAffineArgs& args) noexcept {
  const bool in_double = args.input.dtype == DType::float64 || args.output.dtype == DType::float64;
  with_image_type(args.input.dtype, [&](auto in) {
    using In = decltype(in);
    if (in_double) {
      with_image_type(args.output.dtype,
                      [&](auto out) { run<decltype(out), double>(args, convert<In, double>); });
    } else if constexpr (sizeof(In) < 8) {
      with_image_type(args.output.dtype, [&](auto out) {
        if constexpr (sizeof(out) < 8)
          run<decltype(out), float>(args, convert<In, float>);
      });
    }
  });
}

} // namespace dlk::DLK_ISA
