"""The kernels as operators of ``torch.ops.dlkernels``: what torch.compile, export, FakeTensor,
modes and tensor subclasses see.

Every operator is defined, implemented for the CPU, given a fake and, where it is differentiable, an
autograd formula, once, when this module is imported. Eager calls on plain tensors do not come
through here (an operator with a Python autograd formula costs 45 µs, a direct call 4): see
`functional`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import register_decomposition
from torch.autograd.graph import increment_version

from dlkernels import _core
from dlkernels.torch import _composite as composite
from dlkernels.torch import _layout as layout
from dlkernels.torch._eager import loss_gradient
from dlkernels.torch._layout import laid_out, with_strides

from dlkernels.torch._operator import LIBRARY as _LIBRARY, _decompose, decompositions  # noqa: E402,F401

_LOSS_ARGUMENTS = (
    "Tensor input, Tensor target, Tensor? weight, str reduction, int ignore_index, "
    "float label_smoothing, float z_loss, float softcap"
)

# A compiled graph reads the logits once for the loss and once for the gradient: it has no place
# where a gradient made in forward could be handed out untouched.
_LIBRARY.define(f"cross_entropy({_LOSS_ARGUMENTS}) -> Tensor")
_LIBRARY.define(f"cross_entropy_backward(Tensor grad_output, {_LOSS_ARGUMENTS}) -> Tensor")
_LIBRARY.define("softmax(Tensor input, int dim, bool logarithm) -> Tensor")
_LIBRARY.define(
    "softmax_backward(Tensor grad_output, Tensor output, int dim, bool logarithm) -> Tensor"
)
_LIBRARY.define(
    "nll_loss(Tensor input, Tensor target, Tensor? weight, str reduction, int ignore_index) "
    "-> Tensor"
)
_LIBRARY.define(
    "nll_loss_backward(Tensor grad_output, Tensor input, Tensor target, Tensor? weight, "
    "str reduction, int ignore_index) -> Tensor"
)


def _implement(name: str) -> Any:
    """Registers a function as the operator's CPU implementation."""

    def register(function: Any) -> Any:
        _LIBRARY.impl(name, function, "CPU")
        return function

    return register


def _decomposes(name: str) -> Any:
    """Registers a function as the same in torch's operations, in the layout of the kernel's result.

    It takes the operator's arguments. torch's own table has it too, which torch.onnx reads.
    """

    def register(function: Any) -> Any:
        _decompose(getattr(torch.ops.dlkernels, name).default, function)
        return function

    return register


def _rows_shape(input: Tensor) -> list[Any]:
    """The input's shape without its class dimension."""
    return [] if input.dim() == 1 else [input.shape[0], *input.shape[2:]]


def _loss_shape(input: Tensor, reduction: str) -> list[Any]:
    return _rows_shape(input) if reduction == "none" else []


# --- cross_entropy


@_implement("cross_entropy")
def _cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, *numbers: Any
) -> Tensor:
    return _call_cross_entropy(None, input, target, weight, reduction, *numbers)


@_implement("cross_entropy_backward")
def _cross_entropy_backward(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    *numbers: Any,
) -> Tensor:
    grad = loss_gradient(grad_output, reduction)
    return _call_cross_entropy(grad, input, target, weight, reduction, *numbers)


def _call_cross_entropy(
    grad_output: Any,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
) -> Tensor:
    """The loss, or with a `grad_output` the gradient."""
    with_grad = grad_output is not None
    result: Any = _core.cross_entropy(
        input, target, weight, ignore_index, reduction, label_smoothing, z_loss, softcap,
        with_grad, None, False, False, grad_output if with_grad else 1.0,
    )  # fmt: skip
    output: Tensor = result[1] if with_grad else result
    return output


@torch.library.register_fake("dlkernels::cross_entropy", lib=_LIBRARY)
def _(input: Tensor, target: Tensor, weight: Any, reduction: str, *args: Any) -> Any:
    return input.new_empty(_loss_shape(input, reduction))


@torch.library.register_fake("dlkernels::cross_entropy_backward", lib=_LIBRARY)
def _(grad_output: Tensor, input: Tensor, *args: Any) -> Any:
    return layout.empty(input, layout.cross_entropy_gradient(input))


def _save_cross_entropy(ctx: Any, inputs: Any, output: Any) -> None:
    input, target, weight, *ctx.arguments = inputs
    ctx.save_for_backward(input, target, weight)


def _differentiate_cross_entropy(ctx: Any, grad_output: Tensor) -> Any:
    input, target, weight = ctx.saved_tensors
    grad = torch.ops.dlkernels.cross_entropy_backward(
        grad_output, input, target, weight, *ctx.arguments
    )
    return grad, *([None] * 7)


torch.library.register_autograd(
    "dlkernels::cross_entropy",
    _differentiate_cross_entropy,
    setup_context=_save_cross_entropy,
    lib=_LIBRARY,
)


def _save_cross_entropy_backward(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.arguments = _core_order(inputs[4:])
    ctx.save_for_backward(*inputs[:4])


def _core_order(arguments: Any) -> tuple[Any, ...]:
    """(reduction, ignore_index, ...) of a schema as the kernels take them."""
    reduction, ignore_index, *numbers = arguments
    return ignore_index, reduction, *numbers


def _differentiate_cross_entropy_backward(ctx: Any, grad_grad: Tensor) -> Any:
    grad_output, input, target, weight = ctx.saved_tensors

    def backward(grad_output: Tensor, input: Tensor) -> Tensor:
        return composite.differentiate(
            lambda x: composite.cross_entropy(x, target, weight, *ctx.arguments),
            input,
            grad_output,
        )

    grads = composite.differentiate_all(backward, (grad_output, input), grad_grad)
    return *grads, *([None] * 7)


torch.library.register_autograd(
    "dlkernels::cross_entropy_backward",
    _differentiate_cross_entropy_backward,
    setup_context=_save_cross_entropy_backward,
    lib=_LIBRARY,
)


@_decomposes("cross_entropy")
def _(input: Tensor, target: Tensor, weight: Tensor | None, *arguments: Any) -> Tensor:
    return composite.cross_entropy(input, target, weight, *_core_order(arguments))


@_decomposes("cross_entropy_backward")
def _(
    grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, *arguments: Any
) -> Tensor:
    grad = composite.differentiate(
        lambda x: composite.cross_entropy(x, target, weight, *_core_order(arguments)),
        input,
        grad_output,
    )
    return laid_out(grad, layout.cross_entropy_gradient(input))


# --- softmax


@_implement("softmax")
def _softmax(input: Tensor, dim: int, logarithm: bool) -> Tensor:
    output: Tensor = _core.softmax(input, dim, logarithm, None)
    return output


@_implement("softmax_backward")
def _softmax_backward(grad_output: Tensor, output: Tensor, dim: int, logarithm: bool) -> Tensor:
    grad: Tensor = _core.softmax_backward(grad_output, output, dim, logarithm, None)
    return grad


@torch.library.register_fake("dlkernels::softmax", lib=_LIBRARY)
def _(input: Tensor, dim: int, logarithm: bool) -> Any:
    return layout.empty_like(input)


@torch.library.register_fake("dlkernels::softmax_backward", lib=_LIBRARY)
def _(grad_output: Tensor, output: Tensor, dim: int, logarithm: bool) -> Any:
    return layout.empty_like(output)


def _save_softmax(ctx: Any, inputs: Any, output: Tensor) -> None:
    _, ctx.dim, ctx.logarithm = inputs
    ctx.save_for_backward(output)


def _differentiate_softmax(ctx: Any, grad_output: Tensor) -> Any:
    (output,) = ctx.saved_tensors
    grad = torch.ops.dlkernels.softmax_backward(grad_output, output, ctx.dim, ctx.logarithm)
    return grad, None, None


torch.library.register_autograd(
    "dlkernels::softmax", _differentiate_softmax, setup_context=_save_softmax, lib=_LIBRARY
)


def _save_softmax_backward(ctx: Any, inputs: Any, output: Tensor) -> None:
    grad_output, output, ctx.dim, ctx.logarithm = inputs
    ctx.save_for_backward(grad_output, output)


def _differentiate_softmax_backward(ctx: Any, grad_grad: Tensor) -> Any:
    def backward(grad_output: Tensor, output: Tensor) -> Tensor:
        return composite.softmax_backward(grad_output, output, ctx.dim, ctx.logarithm)

    return *composite.differentiate_all(backward, ctx.saved_tensors, grad_grad), None, None


torch.library.register_autograd(
    "dlkernels::softmax_backward",
    _differentiate_softmax_backward,
    setup_context=_save_softmax_backward,
    lib=_LIBRARY,
)


@_decomposes("softmax")
def _(input: Tensor, dim: int, logarithm: bool) -> Tensor:
    output = (F.log_softmax if logarithm else F.softmax)(input, dim)
    return laid_out(output, layout.dense(input))


@_decomposes("softmax_backward")
def _(grad_output: Tensor, output: Tensor, dim: int, logarithm: bool) -> Tensor:
    grad = composite.softmax_backward(grad_output, output, dim, logarithm)
    return laid_out(grad, layout.dense(output))


# --- nll_loss


@_implement("nll_loss")
def _nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, ignore_index: int
) -> Tensor:
    loss: Tensor = _core.nll_loss(input, target, weight, ignore_index, reduction)
    return loss


@_implement("nll_loss_backward")
def _nll_loss_backward(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
) -> Tensor:
    grad: Tensor = _core.nll_loss_backward(
        loss_gradient(grad_output, reduction), input, target, weight, ignore_index, reduction
    )
    return grad


@torch.library.register_fake("dlkernels::nll_loss", lib=_LIBRARY)
def _(input: Tensor, target: Tensor, weight: Any, reduction: str, ignore_index: int) -> Any:
    return input.new_empty(_loss_shape(input, reduction))


@torch.library.register_fake("dlkernels::nll_loss_backward", lib=_LIBRARY)
def _(grad_output: Tensor, input: Tensor, *args: Any) -> Any:
    return layout.empty(input, layout.nll_gradient(input))


def _save_nll_loss(ctx: Any, inputs: Any, output: Tensor) -> None:
    input, target, weight, *ctx.arguments = inputs
    ctx.save_for_backward(input, target, weight)


def _differentiate_nll_loss(ctx: Any, grad_output: Tensor) -> Any:
    input, target, weight = ctx.saved_tensors
    grad = torch.ops.dlkernels.nll_loss_backward(grad_output, input, target, weight, *ctx.arguments)
    return grad, None, None, None, None


torch.library.register_autograd(
    "dlkernels::nll_loss", _differentiate_nll_loss, setup_context=_save_nll_loss, lib=_LIBRARY
)


def _save_nll_loss_backward(ctx: Any, inputs: Any, output: Any) -> None:
    _, _, target, weight, *ctx.arguments = inputs
    ctx.save_for_backward(target, weight)


def _differentiate_nll_loss_backward(ctx: Any, grad_grad: Tensor) -> Any:
    """The loss is linear in its input, so the gradient's gradient is the loss of it."""
    grad = torch.ops.dlkernels.nll_loss(grad_grad, *ctx.saved_tensors, *ctx.arguments)
    return grad, *([None] * 5)


torch.library.register_autograd(
    "dlkernels::nll_loss_backward",
    _differentiate_nll_loss_backward,
    setup_context=_save_nll_loss_backward,
    lib=_LIBRARY,
)


@_decomposes("nll_loss")
def _(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, ignore_index: int
) -> Tensor:
    return composite.nll_loss(input, target, weight, ignore_index, reduction)


@_decomposes("nll_loss_backward")
def _(
    grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, *arguments: Any
) -> Tensor:
    grad = composite.differentiate(
        lambda x: composite.nll_loss(x, target, weight, *_core_order(arguments)),
        input.contiguous(),  # torch's gradient of others fails
        grad_output,
    )
    return laid_out(grad, layout.nll_gradient(input))
