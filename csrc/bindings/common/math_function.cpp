// The functions of simd/math.h by name, for the tests of their accuracy.
#include "bindings/bind.h"
#include "bindings/call.h"
#include "kernels/common/args.h"

#include <iterator>

namespace dlk {
namespace {

py::object math_function(const std::string& name, py::handle x_object) {
  constexpr const char* names[] = {
      "exp",        "exp_nonpositive", "log",      "tanh",  "exp_bounded", "expm1_nonpositive",
      "log1p_unit", "sigmoid",         "softplus", "gauss", "normal_cdf"};
  MathFunctionArgs args{};
  args.function = -1;
  for (int index = 0; index < int(std::size(names)); ++index)
    if (name == names[index])
      args.function = index;
  DLK_CHECK(args.function >= 0, "math_function: no function named ", name);
  const TensorView x = view_of(x_object, "math_function", "input");
  DLK_CHECK_TYPE(x.dtype == DType::float32 || x.dtype == DType::float64,
                 "math_function: input: expected float32 or float64, got ", dtype_name(x.dtype));
  DLK_CHECK(x.contiguous(), "math_function: input: expected a contiguous array");
  TensorView y;
  py::object result = make_array_like(x, x.dtype, y);
  args.dtype = x.dtype;
  args.size = x.size();
  args.input = x.data;
  args.output = y.data;
  runtime::kernels().math_function(args);
  return result;
}

} // namespace

DLK_BINDINGS(m) {
  m.def("math_function", &math_function, "A function of csrc/simd/math.h on an array; for tests.");
}

} // namespace dlk
