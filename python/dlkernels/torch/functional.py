"""Twins of ``torch.nn.functional``: the same names, arguments, defaults and errors, on our kernels.

Plain CPU tensors in float32, float64, bfloat16 and float16 go straight to a kernel; compiled graphs,
modes and subclasses see the operators of `dlkernels.torch.ops`; everything else goes to torch's own
function. `dlkernels.torch.explain` says which.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import _reduction

from dlkernels import _core
from dlkernels.activations import ACTIVATIONS, Activation
from dlkernels.torch import ops
from dlkernels.torch._route import KERNEL, OPERATOR, TORCH, reason, route

__all__ = ["cross_entropy", "log_softmax", "nll_loss", "relu", "relu_", "softmax"]

_INDEX_DTYPES = (torch.int64, torch.uint8)

# --- cross_entropy


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
    inplace: bool = False,
) -> Tensor:
    """`torch.nn.functional.cross_entropy`, its gradient made in the same pass over the logits.

    Differs from torch in that an ignored row has a zero gradient even where it holds NaN, and in that
    half types are summed in float64 (torch's float16 mean over 32769 rows is inf).

    Args:
        input: Logits, ``(C,)``, ``(N, C)`` or ``(N, C, d1, ...)``, in any memory format.
        target: Class indices (int64 or uint8), or probabilities of the input's shape.
        weight: A factor per class, ``(C,)``, of the input's dtype.
        size_average: Deprecated, as in torch.
        ignore_index: Rows with this target give no loss and no gradient.
        reduce: Deprecated, as in torch.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: In [0, 1].
        z_loss: Adds ``z_loss * logsumexp**2`` per row that counts (its mean under ``"mean"``).
        softcap: If given, logits are first squashed to ``softcap * tanh(input / softcap)``.
        inplace: Write the gradient over ``input`` in forward, which marks it dirty: its values are
            gone. A later loss scale multiplies the rounded gradient: prefer ``False`` for float16.

    Returns:
        The loss, of the input's dtype (float32 under CPU autocast).

    Raises:
        IndexError: A target is out of bounds; nothing is written.
        RuntimeError: As torch; also where ``inplace`` meets a leaf that requires grad.
        ValueError: As torch; also where ``softcap`` is not positive.
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if torch.is_autocast_enabled("cpu") and input.is_floating_point():
        input = input.float()
        weight = weight.float() if weight is not None else None
        target = target.float() if target.is_floating_point() else target
    way = _cross_entropy_route(input, target, weight)
    if way == TORCH:
        return _composite_cross_entropy(
            input, target, weight, reduction, ignore_index, label_smoothing, z_loss, softcap
        )
    cap = 0.0
    if softcap is not None:
        if not softcap > 0:
            raise ValueError(f"cross_entropy: softcap: expected a positive number, got {softcap}")
        cap = softcap
    if way == OPERATOR:
        loss: Tensor = torch.ops.dlkernels.cross_entropy(
            input, target, weight, reduction, ignore_index, label_smoothing, z_loss, cap
        )
        return loss
    arguments = (weight, ignore_index, reduction, label_smoothing, z_loss, cap)
    if not (input.requires_grad and torch.is_grad_enabled()):
        loss = _core.cross_entropy(input, target, *arguments, False, None, False, False, 1.0)
        return loss
    if inplace:
        if input.is_leaf:
            raise RuntimeError(
                "a leaf Variable that requires grad is being used in an in-place operation."
            )
        loss, _ = _CrossEntropyInPlace.apply(input, target, arguments)
        return loss
    loss = _CrossEntropy.apply(input, target, arguments)
    return loss


def _cross_entropy_route(input: Tensor, target: Tensor, weight: Tensor | None) -> str:
    """`route`, and torch where it has an error to raise or a gradient that the kernel lacks."""
    way = route(input, target, weight)
    if way == TORCH or (target.requires_grad or (weight is not None and weight.requires_grad)):
        return TORCH
    if target.dtype not in _INDEX_DTYPES and target.dtype is not input.dtype:
        return TORCH
    if input.dim() == 0 or (weight is not None and weight.dtype is not input.dtype):
        return TORCH
    return way


def _composite_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
) -> Tensor:
    """The same loss in torch's own operations, differentiable any number of times."""
    if softcap:
        input = softcap * torch.tanh(input / softcap)
    loss = F.cross_entropy(
        input,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    if z_loss == 0:
        return loss
    penalty = z_loss * torch.logsumexp(input, 0 if input.dim() == 1 else 1).square()
    if target.shape != input.shape:
        counts = target != ignore_index
        penalty = torch.where(counts, penalty, torch.zeros_like(penalty))
        if reduction == "mean":
            return loss + penalty.sum() / counts.sum()
    return loss + (penalty if reduction == "none" else getattr(penalty, reduction)())


class _CrossEntropy(torch.autograd.Function):
    """Forward makes the gradient too, for grad_output = 1, in one pass over the logits.

    Backward hands it out if grad_output is 1, else makes it again with the right one: as many bytes as
    scaling it would be, without the second rounding. float16 (whose small gradients need the loss scale
    before they are rounded) and ``"none"`` make no gradient in forward.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, input: Tensor, target: Tensor, arguments: tuple[Any, ...]
    ) -> Tensor:
        with_grad = arguments[2] != "none" and input.dtype is not torch.float16
        result = _core.cross_entropy(
            input, target, *arguments, with_grad, None, False, False, 1.0
        )
        loss: Tensor
        loss, ctx.grad = result[:2] if with_grad else (result, None)
        ctx.arguments = arguments
        ctx.save_for_backward(input, target)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        weight, ignore_index, reduction, label_smoothing, z_loss, softcap = ctx.arguments
        if torch.is_grad_enabled():  # create_graph
            input, target = ctx.saved_tensors
            loss = _composite_cross_entropy(
                input, target, weight, reduction, ignore_index, label_smoothing, z_loss, softcap
            )
            (grad,) = torch.autograd.grad(loss, input, grad_output, create_graph=True)
            return grad, None, None
        # Dropped here, so that whoever receives it is its only owner and may keep it; a second
        # backward makes it again.
        grad, ctx.grad = ctx.grad, None
        scale = grad_output if reduction == "none" else grad_output.item()
        if grad is None or scale != 1.0:
            input, target = ctx.saved_tensors
            grad = _core.cross_entropy(
                input, target, *ctx.arguments, True, grad, False, False, scale
            )[1]
        return grad, None, None


class _CrossEntropyInPlace(torch.autograd.Function):
    """The gradient, for grad_output = 1, written over the logits, which become the second output."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, input: Tensor, target: Tensor, arguments: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        loss, _, _, _ = _core.cross_entropy(
            input, target, *arguments, True, input, False, False, 1.0
        )
        ctx.class_dim = min(1, input.dim() - 1)
        ctx.mark_dirty(input)
        ctx.save_for_backward(input)
        ctx.set_materialize_grads(False)
        return loss, input

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor | None, grad_input: Tensor | None) -> Any:  # type: ignore[override]
        if grad_input is not None:
            raise RuntimeError(
                "cross_entropy: the logits were overwritten by their gradient (inplace=True) and "
                "cannot be differentiated again"
            )
        if grad_output is None:
            return None, None, None
        (grad,) = ctx.saved_tensors
        if grad_output.dim():
            grad = grad * grad_output.unsqueeze(ctx.class_dim)
        elif grad_output.item() != 1.0:
            grad = grad * grad_output
        return grad, None, None


# --- softmax and log_softmax


def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """`torch.nn.functional.softmax`: ``exp(input) / sum(exp(input))`` along `dim`. Max error 4 ULP.

    Args:
        input: Any shape, in any memory format.
        dim: The dimension that sums to one.
        dtype: The input is cast to it first.

    Returns:
        A tensor like ``input``.

    Raises:
        IndexError: ``dim`` is out of range.
    """
    return _softmax(input, dim, dtype, _stacklevel, logarithm=False)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """`torch.nn.functional.log_softmax`: ``input - log(sum(exp(input)))`` along `dim`.

    Args:
        input: Any shape, in any memory format.
        dim: The dimension that is normalized.
        dtype: The input is cast to it first.

    Returns:
        A tensor like ``input``.

    Raises:
        IndexError: ``dim`` is out of range.
    """
    return _softmax(input, dim, dtype, _stacklevel, logarithm=True)


def _softmax(
    input: Tensor, dim: int | None, dtype: torch.dtype | None, stacklevel: int, logarithm: bool
) -> Tensor:
    if dim is None:
        name = "log_softmax" if logarithm else "softmax"
        dim = F._get_softmax_dim(name, input.dim(), stacklevel + 1)
    if dtype is not None and dtype is not input.dtype:
        input = input.to(dtype)
    way = route(input)
    output: Tensor
    if way == TORCH:
        output = (F.log_softmax if logarithm else F.softmax)(input, dim)
    elif way == OPERATOR:
        output = torch.ops.dlkernels.softmax(input, dim, logarithm)
    elif input.requires_grad and torch.is_grad_enabled():
        output = _Softmax.apply(input, dim, logarithm)
    else:
        output = _core.softmax(input, dim, logarithm, None)
    return output


class _Softmax(torch.autograd.Function):
    """Saves its result, as torch does."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: int, logarithm: bool) -> Tensor:  # type: ignore[override]
        output: Tensor = _core.softmax(input, dim, logarithm, None)
        ctx.dim, ctx.logarithm = dim, logarithm
        ctx.save_for_backward(input, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        input, output = ctx.saved_tensors
        if torch.is_grad_enabled():
            again = (F.log_softmax if ctx.logarithm else F.softmax)(input, ctx.dim)
            (grad,) = torch.autograd.grad(again, input, grad_output, create_graph=True)
        else:
            grad = _core.softmax_backward(grad_output, output, ctx.dim, ctx.logarithm, None)
        return grad, None, None


# --- nll_loss


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`torch.nn.functional.nll_loss`; sums and divisors in float64 for every dtype.

    Args:
        input: Log-probabilities, ``(C,)``, ``(N, C)`` or ``(N, C, d1, ...)``.
        target: Class indices, int64 or uint8.
        weight: A factor per class, ``(C,)``, of the input's dtype.
        size_average: Deprecated, as in torch.
        ignore_index: Rows with this target count nothing.
        reduce: Deprecated, as in torch.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, of the input's dtype (float32 under CPU autocast).

    Raises:
        IndexError: A target is out of bounds.
        ValueError: As torch.
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if torch.is_autocast_enabled("cpu") and input.is_floating_point():
        input = input.float()
        weight = weight.float() if weight is not None else None
    way = route(input, target, weight)
    if target.dtype not in _INDEX_DTYPES or input.dim() == 0:
        way = TORCH
    if weight is not None and (weight.requires_grad or weight.dtype is not input.dtype):
        way = TORCH
    if way == TORCH:
        return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)
    loss: Tensor
    if way == OPERATOR:
        loss = torch.ops.dlkernels.nll_loss(input, target, weight, reduction, ignore_index)
    elif input.requires_grad and torch.is_grad_enabled():
        loss = _NllLoss.apply(input, target, weight, ignore_index, reduction)
    else:
        loss = _core.nll_loss(input, target, weight, ignore_index, reduction)
    return loss


class _NllLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: str,
    ) -> Tensor:
        ctx.arguments = ignore_index, reduction
        ctx.save_for_backward(input, target, weight)
        loss: Tensor = _core.nll_loss(input, target, weight, ignore_index, reduction)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        input, target, weight = ctx.saved_tensors
        ignore_index, reduction = ctx.arguments
        if torch.is_grad_enabled():
            loss = F.nll_loss(
                input, target, weight, ignore_index=ignore_index, reduction=reduction
            )
            (grad,) = torch.autograd.grad(loss, input, grad_output, create_graph=True)
        else:
            scale = ops.grad_argument(grad_output, reduction)
            grad = _core.nll_loss_backward(scale, input, target, weight, ignore_index, reduction)
        return grad, None, None, None, None


# --- activations


class _MaskedActivation(torch.autograd.Function):
    """An activation that saves one bit per element for its backward."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, index: int, inplace: bool) -> Tensor:  # type: ignore[override]
        output, mask = _core.activation(
            index, input, input if inplace else None, True, 0.0, 0.0
        )
        if inplace:
            ctx.mark_dirty(input)
            output = input
        ctx.index = index
        ctx.stride = output.stride()
        ctx.save_for_backward(mask)
        return output  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        (mask,) = ctx.saved_tensors
        grad = _MaskedActivationBackward.apply(
            ops.with_strides(grad_output, ctx.stride), mask, ctx.index
        )
        return grad, None, None


class _MaskedActivationBackward(torch.autograd.Function):
    """Linear in grad_output, so its own backward is itself."""

    @staticmethod
    def forward(ctx: Any, grad_output: Tensor, mask: Tensor, index: int) -> Tensor:  # type: ignore[override]
        ctx.index = index
        ctx.stride = grad_output.stride()
        ctx.save_for_backward(mask)
        grad: Tensor = _core.activation_backward(index, grad_output, None, mask, 0.0, 0.0)
        return grad

    @staticmethod
    def backward(ctx: Any, grad_grad: Tensor) -> Any:  # type: ignore[override]
        (mask,) = ctx.saved_tensors
        grad = _MaskedActivationBackward.apply(
            ops.with_strides(grad_grad, ctx.stride), mask, ctx.index
        )
        return grad, None, None


def _activation(row: Activation, input: Tensor, inplace: bool) -> Tensor:
    """Forward of a masked activation, whichever way it goes."""
    way = route(input)
    # The mask goes by memory order: an in-place result must lie there without gaps.
    if way != TORCH and inplace and not (input.is_contiguous() or _is_dense(input)):
        way = TORCH
    index = row.index
    output: Tensor
    if way == TORCH:
        output = getattr(torch, row.name + "_" if inplace else row.name)(input)
    elif input.requires_grad and torch.is_grad_enabled():
        if way == OPERATOR:
            output = torch.ops.dlkernels.activation_masked(input, index, 0.0, 0.0)[0]
            if inplace:
                output = input.copy_(output)
        else:
            output = _MaskedActivation.apply(input, index, inplace)
    elif inplace:
        if way == OPERATOR:
            torch.ops.dlkernels.activation_(input, index, 0.0, 0.0)
        else:
            _core.activation(index, input, input, False, 0.0, 0.0)
            increment_version(input)
        output = input
    elif way == OPERATOR:
        output = torch.ops.dlkernels.activation(input, index, 0.0, 0.0)
    else:
        output = _core.activation(index, input, None, False, 0.0, 0.0)
    return output


def _is_dense(input: Tensor) -> bool:
    return torch._prims_common.is_non_overlapping_and_dense_or_false(input)  # type: ignore[no-any-return]


_RELU = ACTIVATIONS["relu"]


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.relu`, one bit per element saved for backward instead of the result.

    Args:
        input: Any shape, in any memory format.
        inplace: Write the result over ``input``.

    Returns:
        ``max(input, 0)``; NaN stays NaN. Exact.
    """
    return _activation(_RELU, input, inplace)


def relu_(input: Tensor) -> Tensor:
    """`relu` over its input (`torch.relu_`)."""
    return _activation(_RELU, input, True)


# --- explain


def explain(function: Any, *args: Any, **kwargs: Any) -> str:
    """Says which way a call of a twin with these arguments would go, and why; nothing is computed.

    Args:
        function: A function of this module.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        A line that starts with ``"kernel"``, ``"operator"`` or ``"torch"``.

    Raises:
        TypeError: ``function`` is none of this module's.

    Example:
        >>> import torch
        >>> explain(relu, torch.ones(3))
        'kernel: called directly'
    """
    if function not in (cross_entropy, log_softmax, nll_loss, relu, relu_, softmax):
        raise TypeError(f"explain: expected a function of dlkernels.torch, got {function!r}")
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    if not tensors:
        raise TypeError("explain: expected at least one tensor among the arguments")
    way = reason(*tensors)
    if function is cross_entropy and way.startswith((KERNEL, OPERATOR)):
        input, target, *weight = tensors
        if _cross_entropy_route(input, target, weight[0] if weight else None) == TORCH:
            return f"{TORCH}: dtypes that do not match, or a target or weight that requires grad"
    return way
