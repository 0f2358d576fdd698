// Vectors of parameters and statistics, of any floating type, to doubles and back; and what a
// variance divides by. They are short beside the arrays that they belong to: plain loops.
#include "kernels/norm/args.h"
#include "simd/loops.h"

namespace dlk::DLK_ISA {

void load_doubles(DoubleVectorArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    const auto* data = static_cast<const decltype(type)*>(args.data);
    for (int64_t i = 0; i < args.size; ++i)
      args.values[i] = double(load_scalar(data + i * args.stride));
  });
}

// Half types are rounded from float.
void store_doubles(DoubleVectorArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    auto* data = static_cast<T*>(args.data);
    for (int64_t i = 0; i < args.size; ++i)
      store_scalar(data + i * args.stride, Compute<T>(args.values[i]));
  });
}

void inverse_stds(DoubleVectorArgs& args) noexcept {
  const Vec<double> one(1), eps(args.eps);
  for_each_vec<double>(args.size, [&](int64_t i, auto lanes) DLK_BODY {
    store_lanes(args.values + i, one / sqrt(load_lanes(args.values + i, lanes) + eps), lanes);
  });
}

} // namespace dlk::DLK_ISA
