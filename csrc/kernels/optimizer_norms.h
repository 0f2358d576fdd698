// Rules whose step depends on norms of whole parameters: two passes over the table of pieces, each
// one parallel region.
//
//   template <class Kind> struct Sums {         // pass 1; Kind: see below
//     static constexpr int kReads, kWrites;     // bit k: stream k (parameter, gradient, states)
//     explicit Sums(const double* numbers);
//     void step(Vec<C>* x);                     // one vector of every stream, in registers
//     Wide<C> sums[2];
//   };
//   double factor(const double* numbers, double sum0, double sum1);  // of one parameter
//   template <class Kind> struct Step {         // pass 2, the same but for
//     explicit Step(const double* numbers, double factor);
//   };
//
// The sums are of doubles: each piece's lanes in one fixed order, and the pieces of a parameter in
// theirs, so the bits do not depend on threads. They do on how a parameter is cut into pieces:
// where its strides join into one walk that is every 16384 elements.
#pragma once

#include "kernels/optimizer_loop.h"
#include "kernels/wide_sums.h"

namespace dlk::DLK_ISA {

// What a pass computes in, and whether what it stores is rounded, so that another pass has to start
// from the same streams to come to the same numbers.
template <class ComputeType, bool kRoundsStored> struct PassKind {
  using C = ComputeType;
  static constexpr bool kRounds = kRoundsStored;
};

// A piece whose streams are of one type and side by side.
template <class T, class Pass>
DLK_INLINE void pass_over_streams(Pass& pass, void* const* streams, int64_t begin, int64_t size) {
  using C = Compute<T>;
  for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
    Vec<C> x[kOptimizerStreams];
    for (int k = 0; k < kOptimizerStreams; ++k)
      if (Pass::kReads >> k & 1) {
        const T* source = static_cast<const T*>(streams[k]) + begin + i;
        fetch_ahead(source);
        x[k] = load_lanes(source, lanes);
      }
    pass.step(x);
    for (int k = 0; k < kOptimizerStreams; ++k)
      if (Pass::kWrites >> k & 1)
        store_lanes(static_cast<T*>(streams[k]) + begin + i, x[k], lanes);
  });
}

// One with gaps or of several dtypes.
template <class C, class Pass>
DLK_BLOCK void pass_over_blocks(Pass& pass, const OptimizerArray& array,
                                const OptimizerLayout& layout, int64_t begin, int64_t end) {
  alignas(kVecBytes) C blocks[kOptimizerStreams][kOptimizerBlock];
  void* pointers[kOptimizerStreams];
  for (int k = 0; k < kOptimizerStreams; ++k)
    pointers[k] = blocks[k];
  for (int64_t first = begin; first < end; first += kOptimizerBlock) {
    const int64_t size = end - first < kOptimizerBlock ? end - first : kOptimizerBlock;
    const auto address = [&](int k) {
      return static_cast<char*>(array.streams[k]) +
             first * layout.strides[k] * item_size(layout.dtypes[k]);
    };
    for (int k = 0; k < kOptimizerStreams; ++k)
      if (Pass::kReads >> k & 1)
        read_block(blocks[k], address(k), layout.dtypes[k], layout.strides[k], size);
    pass_over_streams<C>(pass, pointers, 0, size);
    for (int k = 0; k < kOptimizerStreams; ++k)
      if (Pass::kWrites >> k & 1)
        write_block(blocks[k], address(k), layout.dtypes[k], layout.strides[k], size);
  }
}

// make(PassKind) gives the pass, finish(pass) takes what is left of it.
template <class Make, class Finish>
DLK_BLOCK void pass_over_piece(const OptimizerArgs& args, const OptimizerChunk& chunk, Make make,
                               Finish finish) {
  const OptimizerArray& array = args.arrays[chunk.array];
  const OptimizerLayout& layout = args.layouts[array.layout];
  if (layout.plain)
    return with_storage_type(layout.dtypes[0], [&](auto type) DLK_BODY {
      using T = decltype(type);
      auto pass = make(PassKind<Compute<T>, kIsHalf<T>>{});
      pass_over_streams<T>(pass, array.streams, chunk.begin, chunk.end - chunk.begin);
      finish(pass);
    });
  bool has_double = false;
  for (int k = 0; k < kOptimizerStreams; ++k)
    has_double |= array.streams[k] && layout.dtypes[k] == DType::float64;
  const auto in = [&](auto kind) DLK_BODY {
    auto pass = make(kind);
    pass_over_blocks<typename decltype(kind)::C>(pass, array, layout, chunk.begin, chunk.end);
    finish(pass);
  };
  if (has_double)
    in(PassKind<double, true>{});
  else
    in(PassKind<float, true>{});
}

// From each piece's sums to each parameter's factor, which takes the place of the first of them.
template <class Factor> DLK_INLINE void combine_sums(const OptimizerArgs& args, Factor factor) {
  for (int64_t begin = 0, end = 0; begin < args.chunk_count; begin = end) {
    const auto array_of = [&](int64_t chunk) -> const OptimizerArray& {
      return args.arrays[args.chunks[chunk].array];
    };
    double sums[2] = {};
    for (; end < args.chunk_count && array_of(end).param == array_of(begin).param; ++end) {
      sums[0] += args.sums[2 * end];
      sums[1] += args.sums[2 * end + 1];
    }
    const double own = factor(args.settings[array_of(begin).setting].numbers, sums[0], sums[1]);
    for (int64_t chunk = begin; chunk < end; ++chunk)
      args.sums[2 * chunk] = own;
  }
}

template <template <class> class Sums> DLK_INLINE void sum_pieces(const OptimizerArgs& args) {
  parallel_chunks(args.chunk_count, args.total_elems, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) {
      const OptimizerChunk& chunk = args.chunks[index];
      const double* numbers = args.settings[args.arrays[chunk.array].setting].numbers;
      pass_over_piece(
          args, chunk,
          [&](auto kind) DLK_BODY { return Sums<decltype(kind)>(numbers); },
          [&](const auto& pass) DLK_BODY {
            args.sums[2 * index] = sum_lanes(pass.sums[0]);
            args.sums[2 * index + 1] = sum_lanes(pass.sums[1]);
          });
    }
  });
}

template <template <class> class Step>
DLK_INLINE void step_piece(const OptimizerArgs& args, int64_t index) {
  const OptimizerChunk& chunk = args.chunks[index];
  const double* numbers = args.settings[args.arrays[chunk.array].setting].numbers;
  pass_over_piece(
      args, chunk,
      [&](auto kind) DLK_BODY { return Step<decltype(kind)>(numbers, args.sums[2 * index]); },
      [](const auto&) DLK_BODY {});
}

} // namespace dlk::DLK_ISA
