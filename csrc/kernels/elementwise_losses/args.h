// Arguments of the elementwise losses.
#pragma once

#include "core/dtype.h"
#include "core/strided.h"

namespace dlk {

// An operand (nullptr: `value` everywhere) or a result (nullptr: not wanted). Strides are in
// elements, one for each dimension of LossArgs; an operand's last is 0 or 1, a result's 1.
constexpr int kLossDims = 8;
struct LossArray {
  void* data = nullptr;
  bool wide = false; // a result that is still to be summed: in the computing type
  double value = 1;
  int64_t strides[kLossDims];
};

enum LossOperand : int { kLossInput, kLossTarget, kLossThird, kLossFourth, kLossGradOutput };
constexpr int kLossOperands = 5;
enum LossResult : int { kEachLoss, kGradInput, kGradTarget, kGradThird };
constexpr int kLossResults = 4;

struct LossArgs {
  DType dtype;
  int32_t loss; // index into DLK_ELEMENTWISE_LOSSES
  double parameters[2] = {0, 0};
  int ndim = 0; // at least 1; the last dimension is the innermost
  int64_t shape[kLossDims];
  int64_t size = 0;
  LossArray operands[kLossOperands], results[kLossResults];
  double scale = 1;        // gradients: times the gradient of the loss
  double third_offset = 0; // taken from third's gradient before it is scaled
  bool with_value = true;  // gradients: make the loss in the same pass
  bool nontemporal = false;
  double* partials = nullptr; // forward, one a piece: see loss_pieces
  bool lines = false;         // sum each line (along the last dimension) by itself, into
  void* line_sums = nullptr;  // [lines] of sums_dtype
  DType sums_dtype = DType::float32;
  double loss_sum = 0; // result, of all; without `lines`
  int32_t refused = 0; // result: LossRefusal
};

// Pieces whose sums are made one by one: stretches of elements, or of each line.
constexpr int64_t kLossPieceElems = 16384;
[[gnu::always_inline]] constexpr int64_t pieces_of_line(int64_t line_elems) {
  return line_elems > kLossPieceElems ? chunk_count(line_elems, kLossPieceElems) : 1;
}
[[gnu::always_inline]] constexpr int64_t loss_pieces(int64_t lines, int64_t line_elems,
                                                     bool by_line) {
  return by_line ? lines * pieces_of_line(line_elems)
                 : chunk_count(lines * line_elems, kLossPieceElems);
}

} // namespace dlk
