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

_LIBRARY = torch.library.Library("dlkernels", "DEF")

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
_LIBRARY.define("activation(Tensor input, int index, float a, float b) -> Tensor")
_LIBRARY.define("activation_masked(Tensor input, int index, float a, float b) -> (Tensor, Tensor)")
_LIBRARY.define(
    "activation_masked_backward(Tensor grad_output, Tensor mask, int index, float a, float b) "
    "-> Tensor"
)
_LIBRARY.define(
    "activation_backward(Tensor grad_output, Tensor saved, int index, float a, float b) -> Tensor"
)
_LIBRARY.define("activation_(Tensor(a!) input, int index, float a, float b) -> ()")


def _implement(name: str) -> Any:
    """Registers a function as the operator's CPU implementation."""

    def register(function: Any) -> Any:
        _LIBRARY.impl(name, function, "CPU")
        return function

    return register


#: Every operator in torch's own operations; see `decompositions`.
_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {}


def _decomposes(name: str) -> Any:
    """Registers a function as the same in torch's operations, in the layout of the kernel's result.

    It takes the operator's arguments. torch's own table has it too, which torch.onnx reads.
    """

    def register(function: Any) -> Any:
        operator = getattr(torch.ops.dlkernels, name).default
        _DECOMPOSITIONS[operator] = function
        register_decomposition(operator, unsafe=True)(function)
        # Fakes would look into the table too, if this one did not say that there are better ones.
        register_decomposition(operator, type="meta", unsafe=True)(operator)
        return function

    return register


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What takes operators of ours apart into torch's, beside torch's own table.

    torch.onnx finds them by itself. Without them an exported program keeps our operators.

    Returns:
        `torch.export.default_decompositions` and every operator of ``torch.ops.dlkernels``, for
        `torch.export.ExportedProgram.run_decompositions`.

    Example:
        >>> import torch
        >>> torch.ops.dlkernels.softmax.default in decompositions()
        True
    """
    table: dict[Any, Callable[..., Any]] = torch.export.default_decompositions()
    table.update(_DECOMPOSITIONS)
    return table


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


# --- activations


@_implement("activation")
def _activation(input: Tensor, index: int, a: float, b: float) -> Tensor:
    output: Tensor = _core.activation(index, input, None, False, a, b)
    return output


@_implement("activation_masked")
def _activation_masked(input: Tensor, index: int, a: float, b: float) -> tuple[Tensor, Tensor]:
    output, mask = _core.activation(index, input, None, True, a, b)
    return output, mask


@_implement("activation_masked_backward")
def _activation_masked_backward(
    grad_output: Tensor, mask: Tensor, index: int, a: float, b: float
) -> Tensor:
    grad: Tensor = _core.activation_backward(index, grad_output, None, mask, a, b)
    return grad


@_implement("activation_backward")
def _activation_backward(
    grad_output: Tensor, saved: Tensor, index: int, a: float, b: float
) -> Tensor:
    grad: Tensor = _core.activation_backward(index, grad_output, saved, None, a, b)
    return grad


@_implement("activation_")
def _activation_in_place(input: Tensor, index: int, a: float, b: float) -> None:
    _core.activation(index, input, input, False, a, b)


def _activation_in_place_autograd(keyset: Any, input: Tensor, *args: Any) -> None:
    """Tells autograd of the write, as torch's own in-place operators do."""
    increment_version(input)
    with torch._C._AutoDispatchBelowADInplaceOrView():
        below = keyset & torch._C._after_ADInplaceOrView_keyset
        torch.ops.dlkernels.activation_.default.redispatch(below, input, *args)


_LIBRARY.impl("activation_", _activation_in_place_autograd, "ADInplaceOrView", with_keyset=True)


def _activation_in_place_negated(input: Tensor, *args: Any) -> None:
    """On a view whose memory holds the negated values, which torch does itself for operators that
    return something.
    """
    output = input.resolve_neg()
    torch.ops.dlkernels.activation_(output, *args)
    input.copy_(output)


_LIBRARY.impl("activation_", _activation_in_place_negated, "Negative")


@torch.library.register_fake("dlkernels::activation", lib=_LIBRARY)
def _(input: Tensor, index: int, a: float, b: float) -> Any:
    return layout.empty_like(input)


@torch.library.register_fake("dlkernels::activation_masked", lib=_LIBRARY)
def _(input: Tensor, index: int, a: float, b: float) -> Any:
    mask = input.new_empty([(input.numel() + 15) // 16 * 2], dtype=torch.uint8)
    return layout.empty_like(input), mask


@torch.library.register_fake("dlkernels::activation_masked_backward", lib=_LIBRARY)
def _(grad_output: Tensor, mask: Tensor, index: int, a: float, b: float) -> Any:
    return layout.empty_like(grad_output)


@torch.library.register_fake("dlkernels::activation_backward", lib=_LIBRARY)
def _(grad_output: Tensor, saved: Tensor, index: int, a: float, b: float) -> Any:
    return layout.empty_like(saved)


@torch.library.register_fake("dlkernels::activation_", lib=_LIBRARY)
def _(input: Tensor, index: int, a: float, b: float) -> None:
    return None


def _save_activation_masked(ctx: Any, inputs: Any, output: Any) -> None:
    _, *ctx.arguments = inputs
    ctx.stride = output[0].stride()
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate_activation_masked(ctx: Any, grad_output: Tensor, _grad_mask: Any) -> Any:
    (mask,) = ctx.saved_tensors
    grad = with_strides(grad_output, ctx.stride)
    grad = torch.ops.dlkernels.activation_masked_backward(grad, mask, *ctx.arguments)
    return grad, None, None, None


torch.library.register_autograd(
    "dlkernels::activation_masked",
    _differentiate_activation_masked,
    setup_context=_save_activation_masked,
    lib=_LIBRARY,
)


def _save_activation_masked_backward(ctx: Any, inputs: Any, output: Any) -> None:
    grad_output, mask, *ctx.arguments = inputs
    ctx.stride = grad_output.stride()
    ctx.save_for_backward(mask)


def _differentiate_activation_masked_backward(ctx: Any, grad_grad: Tensor) -> Any:
    (mask,) = ctx.saved_tensors
    grad = with_strides(grad_grad, ctx.stride)
    grad = torch.ops.dlkernels.activation_masked_backward(grad, mask, *ctx.arguments)
    return grad, None, None, None, None


torch.library.register_autograd(
    "dlkernels::activation_masked_backward",
    _differentiate_activation_masked_backward,
    setup_context=_save_activation_masked_backward,
    lib=_LIBRARY,
)


def _save_activation(ctx: Any, inputs: Any, output: Any) -> None:
    input, *ctx.arguments = inputs
    row = composite.ACTIVATION_ROWS[ctx.arguments[0]]
    ctx.save_for_backward(output if row.saves == "output" else input)


def _differentiate_activation(ctx: Any, grad_output: Tensor) -> Any:
    (saved,) = ctx.saved_tensors
    grad = torch.ops.dlkernels.activation_backward(grad_output, saved, *ctx.arguments)
    return grad, None, None, None


torch.library.register_autograd(
    "dlkernels::activation",
    _differentiate_activation,
    setup_context=_save_activation,
    lib=_LIBRARY,
)


def _save_activation_backward(ctx: Any, inputs: Any, output: Any) -> None:
    grad_output, saved, *ctx.arguments = inputs
    ctx.save_for_backward(grad_output, saved)


def _differentiate_activation_backward(ctx: Any, grad_grad: Tensor) -> Any:
    grad_output, saved = ctx.saved_tensors
    if composite.ACTIVATION_ROWS[ctx.arguments[0]].saves == "mask":  # linear in pieces
        grad = torch.ops.dlkernels.activation_backward(grad_grad, saved, *ctx.arguments)
        return grad, None, None, None, None

    def backward(grad_output: Tensor, saved: Tensor) -> Tensor:
        return composite.activation_backward(grad_output, saved, *ctx.arguments)

    grads = composite.differentiate_all(backward, (grad_output, saved), grad_grad)
    return *grads, None, None, None


torch.library.register_autograd(
    "dlkernels::activation_backward",
    _differentiate_activation_backward,
    setup_context=_save_activation_backward,
    lib=_LIBRARY,
)


@_decomposes("activation")
def _(input: Tensor, index: int, a: float, b: float) -> Tensor:
    return laid_out(composite.activation(input, index, a, b), layout.dense(input))


@_decomposes("activation_masked")
def _(input: Tensor, index: int, a: float, b: float) -> tuple[Tensor, Tensor]:
    output = laid_out(composite.activation(input, index, a, b), layout.dense(input))
    return output, composite.activation_mask(input, layout.dense(input), index, a, b)


@_decomposes("activation_masked_backward")
def _(grad_output: Tensor, mask: Tensor, index: int, a: float, b: float) -> Tensor:
    strides = layout.dense(grad_output)
    grad = composite.masked_backward(grad_output, mask, strides, index, a, b)
    return laid_out(grad, strides)


@_decomposes("activation_backward")
def _(grad_output: Tensor, saved: Tensor, index: int, a: float, b: float) -> Tensor:
    grad = composite.activation_backward(grad_output, saved, index, a, b)
    return laid_out(grad, layout.dense(saved))


@_decomposes("activation_")
def _(input: Tensor, index: int, a: float, b: float) -> None:
    input.copy_(composite.activation(input, index, a, b))
