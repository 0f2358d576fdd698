// OptimizerStep: one parameter with its gradient and states, checked.
#include "bindings/optim/step_operands.h"

#include "bindings/call.h"

#include <algorithm>

namespace dlk {

// A block of codes has one writer, so the arrays of a parameter that has codes become one array:
// those with other strides than the codes are copied.
void OptimizerStep::copy_as_codes(Operands& operands, const TensorView& codes,
                                  bool writes_gradient) {
  for (int k = 0; k < kOperands; ++k) {
    TensorView& view = operands.views[k];
    if (!operands.is_there[k] || std::equal(view.strides, view.strides + view.ndim, codes.strides))
      continue;
    TensorView like = codes, copy;
    owners_.push_back(make_array_like(like, view.dtype, copy));
    copy_elements(view, copy);
    if (k != kGradStream || writes_gradient)
      copies_.emplace_back(copy, view);
    view = copy;
  }
}

void OptimizerStep::add(py::handle param_object, py::handle grad_object, PyObject* const* states,
                        int32_t setting, bool writes_gradient, size_t index, size_t number) {
  const char* operation = names_->operation.c_str();
  Operands operands;
  TensorView* const own = operands.views;
  own[kParamStream] = output_view_of(param_object, operation, "params");
  operands.is_there[kParamStream] = true;
  const TensorView& param = own[0];
  const auto check_shape = [&](const TensorView& view, const char* name) {
    DLK_CHECK(same_shape(view, param), operation, ": ", name, "[", index, "]: expected shape ",
              shape_text(param), ", got ", shape_text(view));
  };
  check_floating(param, operation, "params");
  if (!grad_object.is_none()) {
    TensorView& grad = own[kGradStream];
    grad = writes_gradient ? output_view_of(grad_object, operation, "grads")
                           : view_of(grad_object, operation, "grads");
    check_floating(grad, operation, "grads");
    check_shape(grad, "grads");
    operands.is_there[kGradStream] = true;
  }
  const auto is_given = [&](int state) { return states[state] && states[state] != Py_None; };
  const TensorView* codes = nullptr;
  for (size_t slot = 0; slot < names_->slots.size(); ++slot) {
    if (!is_given(int(slot)))
      continue;
    const char* name = names_->slots[slot].c_str();
    const int stream = names_->stream(slot);
    TensorView& view = own[stream];
    view = output_view_of(states[slot], operation, name);
    operands.is_there[stream] = true;
    if (view.dtype != DType::uint8 || slot >= names_->signed_slots.size()) {
      check_floating(view, operation, name);
      check_shape(view, name);
      if (stream != kAverageStream && view.dtype == DType::bfloat16 &&
          settings_[size_t(setting)].rounds)
        operands.formats[stream] = StreamFormat::random;
      continue;
    }
    check_shape(view, name);
    DLK_CHECK(view.dense(), operation, ": ", name, "[", index, "]: expected codes without gaps");
    if (!codes)
      codes = &view;
    DLK_CHECK(std::equal(view.strides, view.strides + view.ndim, codes->strides), operation, ": ",
              name, "[", index, "]: expected codes in the order of the others'");
    operands.formats[stream] =
        names_->signed_slots[slot] ? StreamFormat::signed_codes : StreamFormat::unsigned_codes;
    const std::string scales_name = std::string(name) + "_absmax";
    DLK_CHECK(is_given(kOptimizerScales + int(slot)), operation, ": ", scales_name, "[", index,
              "]: expected the scales of ", name);
    const TensorView scales =
        output_view_of(states[kOptimizerScales + slot], operation, scales_name.c_str());
    const int64_t blocks = (param.size() + kOptimizerBlock - 1) / kOptimizerBlock;
    DLK_CHECK_TYPE(scales.dtype == DType::float32, operation, ": ", scales_name, "[", index,
                   "]: expected float32, got ", dtype_name(scales.dtype));
    DLK_CHECK(scales.ndim == 1 && scales.contiguous() && scales.shape[0] == blocks, operation, ": ",
              scales_name, "[", index, "]: expected ", blocks, " numbers side by side, got shape ",
              shape_text(scales));
    operands.scales[stream] = scales.data;
    if (scales.kind == ArrayKind::dlpack)
      owners_.push_back(scales.owner);
  }
  if (is_given(kOptimizerLow)) {
    TensorView& low = own[kLowOperand];
    low = output_view_of(states[kOptimizerLow], operation, "master_low");
    DLK_CHECK_TYPE(low.dtype == DType::int16 && param.dtype == DType::bfloat16, operation,
                   ": master_low[", index, "]: expected int16 for a bfloat16 parameter, got ",
                   dtype_name(low.dtype), " for ", dtype_name(param.dtype));
    check_shape(low, "master_low");
    operands.is_there[kLowOperand] = true;
    operands.formats[kParamStream] = StreamFormat::split;
  }
  for (const TensorView& view : operands.views)
    if (view.kind == ArrayKind::dlpack)
      owners_.push_back(view.owner);
  if (memory_) {
    memory_->add(param, "params", index, true);
    if (operands.is_there[kGradStream])
      memory_->add(own[kGradStream], "grads", index, writes_gradient);
    for (size_t slot = 0; slot < names_->slots.size(); ++slot)
      if (is_given(int(slot)))
        memory_->add(own[names_->stream(slot)], names_->slots[slot].c_str(), index, true);
    if (operands.is_there[kLowOperand])
      memory_->add(own[kLowOperand], "master_low", index, true);
  }
  if (codes && Dims(operands).count > 1)
    copy_as_codes(operands, *codes, writes_gradient);
  add_arrays(operands, setting, int32_t(number));
}

} // namespace dlk
