// The list of activations, that everything else is made from: dispatch, the binding, both Python
// fronts' names.
#pragma once

namespace dlk {
enum class Saved { input, output, mask };
}

// DLK_ACTIVATION(name, Functor, what backward needs): the order is the index the kernel takes.
// clang-format off
#define DLK_ACTIVATIONS(DLK_ACTIVATION)                                                            \
  DLK_ACTIVATION(relu, Relu, mask)                                                                 \
  DLK_ACTIVATION(relu6, Relu6, mask)                                                               \
  DLK_ACTIVATION(hardtanh, Hardtanh, mask)                                                         \
  DLK_ACTIVATION(threshold, Threshold, mask)                                                       \
  DLK_ACTIVATION(leaky_relu, LeakyRelu, mask)                                                      \
  DLK_ACTIVATION(hardsigmoid, Hardsigmoid, mask)                                                   \
  DLK_ACTIVATION(hardswish, Hardswish, input)                                                      \
  DLK_ACTIVATION(softsign, Softsign, output)                                                       \
  DLK_ACTIVATION(sigmoid, Sigmoid, output)                                                         \
  DLK_ACTIVATION(tanh, Tanh, output)                                                               \
  DLK_ACTIVATION(logsigmoid, Logsigmoid, output)                                                   \
  DLK_ACTIVATION(elu, Elu, output)                                                                 \
  DLK_ACTIVATION(celu, Celu, output)                                                               \
  DLK_ACTIVATION(selu, Selu, output)                                                               \
  DLK_ACTIVATION(softplus, Softplus, input)                                                        \
  DLK_ACTIVATION(silu, Silu, input)                                                                \
  DLK_ACTIVATION(mish, Mish, input)                                                                \
  DLK_ACTIVATION(gelu, Gelu, input)
// clang-format on
