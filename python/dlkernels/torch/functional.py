"""Twins of ``torch.nn.functional``: the same names, arguments, defaults and errors, on our kernels.

Plain CPU tensors in float32, float64, bfloat16 and float16 go straight to a kernel; compiled
graphs, modes and subclasses see the operators of `dlkernels.torch.ops`; everything else goes to
torch's own function. `dlkernels.torch.explain` says which.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction

from dlkernels import _core
from dlkernels._arguments import number
from dlkernels.torch import _composite as composite
from dlkernels.torch import activations, elementwise_losses
from dlkernels.torch import dropout as dropouts
from dlkernels.torch._eager import Function, is_first_order, loss_gradient
from dlkernels.torch._route import KERNEL, OPERATOR, TORCH, is_plain, reason, route
from dlkernels.torch._tools import script_as
from dlkernels.torch.norm import batch_norm, explain_batch_norm

__all__ = ["batch_norm", "cross_entropy", "log_softmax", "nll_loss", "softmax"]

_INDEX_DTYPES = (torch.int64, torch.uint8)
#: A kernel's complaints about its arguments, made before anything is written: the call then goes to
#: torch, which has an error of its own, or an answer after all (an unbatched input's target may
#: have size 1).
_REFUSED = (TypeError, ValueError, IndexError)
_autocasting = torch.is_autocast_enabled
_HALF = (torch.bfloat16, torch.float16)

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

    Differs from torch in that an ignored row has a zero gradient even where it holds NaN, and in
    that half types are summed in float64.

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
    if _autocasting("cpu"):
        input, target, weight = _autocast(input), _autocast(target), _autocast(weight)
    cap = 0.0
    if softcap is not None or type(z_loss) is not float or z_loss != 0.0:
        cap = _checked_softcap(z_loss, softcap)
    way = _cross_entropy_route(input, target, weight)
    if way == OPERATOR:
        loss: Tensor = torch.ops.dlkernels.cross_entropy(
            input, target, weight, reduction, ignore_index, label_smoothing, z_loss, cap
        )
        return loss
    arguments = (ignore_index, reduction, label_smoothing, z_loss, cap)
    if way == KERNEL:
        try:
            if not (input.requires_grad and torch.is_grad_enabled()):
                loss = _core.cross_entropy(
                    input, target, weight, *arguments, False, None, False, False, 1.0
                )
            elif inplace:
                whole = _whole_tensor(input)
                loss, _ = _CrossEntropyInPlace.call(
                    whole, input.detach(), target, weight, arguments
                )
            else:
                loss = _CrossEntropy.call(input, target, weight, arguments)
            return loss
        except _REFUSED as error:
            refusal = error.with_traceback(None)
    loss = composite.cross_entropy(input, target, weight, *arguments)
    if way == KERNEL and inplace:
        raise refusal
    return loss


def _checked_softcap(z_loss: float, softcap: float | None) -> float:
    """The softcap as the kernels take it: 0 for none."""
    z_loss = number(z_loss, "cross_entropy", "z_loss")
    if not math.isfinite(z_loss):
        raise ValueError(f"cross_entropy: z_loss: expected a finite number, got {z_loss}")
    if softcap is None:
        return 0.0
    softcap = number(softcap, "cross_entropy", "softcap")
    if not 0 < softcap < math.inf:
        raise ValueError(
            f"cross_entropy: softcap: expected a positive finite number, got {softcap}"
        )
    return softcap


def _autocast(tensor: Any) -> Any:
    """What CPU autocast makes of an argument of a function that it runs in float32."""
    return tensor.float() if isinstance(tensor, Tensor) and tensor.dtype in _HALF else tensor


def _cross_entropy_route(input: Tensor, target: Tensor, weight: Tensor | None) -> str:
    """`route`, and torch where it has an error to raise or a gradient that the kernel lacks."""
    way = KERNEL if is_plain(input, target, weight) else route(input, target, weight)
    if way == TORCH or target is None:
        return TORCH
    if target.requires_grad or (weight is not None and weight.requires_grad):
        return TORCH
    if target.dtype not in _INDEX_DTYPES and target.dtype is not input.dtype:
        return TORCH
    if input.dim() == 0 or (weight is not None and weight.dtype is not input.dtype):
        return TORCH
    return way


def _whole_tensor(input: Tensor) -> Tensor:
    """What in-place autograd is told of: `input`, or the tensor that it is a view of all of."""
    whole = input._base if input._is_view() else input
    assert whole is not None
    view_of = "a view of " if whole is not input else ""
    if whole.is_leaf or input.is_leaf:
        raise RuntimeError(
            f"{view_of}a leaf Variable that requires grad is being used in an in-place operation."
        )
    if whole.numel() != input.numel() or whole.dtype is not input.dtype:
        raise RuntimeError(
            "cross_entropy: inplace=True: the logits are a view of a part of another tensor; "
            "expected a tensor of their own or a view of all of one"
        )
    return whole


class _CrossEntropy(Function):
    """Forward makes the gradient too, for grad_output = 1, in one pass over the logits.

    Backward hands it out if grad_output is 1, else makes it again with the right one: as many bytes
    as scaling it would be, without the second rounding. float16 (whose small gradients need the
    loss scale before they are rounded) and ``"none"`` make no gradient in forward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        arguments: Any,
    ) -> Tensor:
        with_grad = arguments[1] != "none" and input.dtype is not torch.float16
        result = _core.cross_entropy(  # type: ignore[call-arg]
            input, target, weight, *arguments, with_grad, None, False, False, 1.0
        )
        loss: Tensor
        loss, ctx.grad, _, _ = result if with_grad else (result, None, None, None)
        ctx.arguments = arguments
        ctx.save_for_backward(input, target, weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if not is_first_order(grad_output):
            input, target, weight = ctx.saved_tensors
            grad = composite.differentiate(
                lambda x: composite.cross_entropy(x, target, weight, *ctx.arguments),
                input,
                grad_output,
            )
            return grad, None, None, None
        # Dropped here, so that whoever receives it is its only owner and may keep it; a second
        # backward makes it again.
        grad, ctx.grad = ctx.grad, None
        scale = loss_gradient(grad_output, ctx.arguments[1])
        if grad is not None and scale == 1.0:
            return grad, None, None, None
        try:
            input, target, weight = ctx.saved_tensors
        except RuntimeError:  # the logits were written to since
            if grad is None:
                raise
            return grad.mul_(scale), None, None, None
        grad = _core.cross_entropy(  # type: ignore[call-arg]
            input, target, weight, *ctx.arguments, True, grad, False, False, scale
        )[1]
        return grad, None, None, None


class _CrossEntropyInPlace(Function):
    """The gradient, for grad_output = 1, written over the logits.

    Args:
        whole: The tensor that autograd knows, which becomes the second output.
        input: The logits: `whole` itself, or a view of all of it, detached.
    """

    @staticmethod
    def forward(
        ctx: Any,
        whole: Tensor,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        arguments: Any,
    ) -> tuple[Tensor, Tensor]:
        loss, _, _, _ = _core.cross_entropy(  # type: ignore[call-arg]
            input, target, weight, *arguments, True, input, False, False, 1.0
        )
        offset = input.storage_offset() - whole.storage_offset()
        ctx.geometry = input.shape, input.stride(), offset
        ctx.mark_dirty(whole)
        ctx.save_for_backward(whole)
        ctx.set_materialize_grads(False)
        return loss, whole

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor | None, grad_whole: Tensor | None) -> Any:
        if grad_whole is not None:
            raise RuntimeError(
                "cross_entropy: the logits were overwritten by their gradient (inplace=True) and "
                "cannot be differentiated again"
            )
        if grad_output is None:
            return None, None, None, None, None
        (grad,) = ctx.saved_tensors
        if grad_output.dim():
            shape, stride, offset = ctx.geometry
            scaled = torch.empty_strided(grad.shape, grad.stride(), dtype=grad.dtype)
            torch.mul(
                grad.as_strided(shape, stride, grad.storage_offset() + offset),
                grad_output.unsqueeze(min(1, len(shape) - 1)),
                out=scaled.as_strided(shape, stride, offset),
            )
            grad = scaled
        elif grad_output.item() != 1.0:
            grad = grad * grad_output
        return grad, None, None, None, None


# --- softmax and log_softmax


def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """`torch.nn.functional.softmax`: ``exp(input) / sum(exp(input))`` along `dim`.

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
        dim = F._get_softmax_dim(name, input.dim(), stacklevel + 1)  # type: ignore[attr-defined]
    if dtype is not None and dtype is not input.dtype:
        input = input.to(dtype=dtype)
    way = KERNEL if is_plain(input) else route(input)
    if type(dim) is not int:  # torch has words for a bool, or a float
        way = TORCH
    output: Tensor
    if way == OPERATOR:
        output = torch.ops.dlkernels.softmax(input, dim, logarithm)
        return output
    if way == KERNEL:
        try:
            if input.requires_grad and torch.is_grad_enabled():
                output = _Softmax.call(input, dim, logarithm)
            else:
                output = _core.softmax(input, dim, logarithm, None)
            return output
        except _REFUSED:
            pass
    return (F.log_softmax if logarithm else F.softmax)(input, dim)


class _Softmax(Function):
    """Saves its result and nothing else, as torch does."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: int, logarithm: bool) -> Tensor:
        output: Tensor = _core.softmax(input, dim, logarithm, None)
        ctx.dim, ctx.logarithm = dim, logarithm
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        (output,) = ctx.saved_tensors
        if is_first_order(grad_output):
            grad = _core.softmax_backward(
                grad_output.resolve_neg(), output, ctx.dim, ctx.logarithm, None
            )
        else:
            grad = composite.softmax_backward(grad_output, output, ctx.dim, ctx.logarithm)
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
    if _autocasting("cpu"):
        input, weight = _autocast(input), _autocast(weight)
    way = _nll_loss_route(input, target, weight)
    loss: Tensor
    if way == OPERATOR:
        loss = torch.ops.dlkernels.nll_loss(input, target, weight, reduction, ignore_index)
        return loss
    if way == KERNEL:
        try:
            if input.requires_grad and torch.is_grad_enabled():
                loss = _NllLoss.call(input, target, weight, ignore_index, reduction)
            else:
                loss = _core.nll_loss(input, target, weight, ignore_index, reduction)
            return loss
        except _REFUSED:
            pass
    return composite.nll_loss(input, target, weight, ignore_index, reduction)


def _nll_loss_route(input: Tensor, target: Tensor, weight: Tensor | None) -> str:
    way = KERNEL if is_plain(input, target, weight) else route(input, target, weight)
    if way == TORCH or target is None:
        return TORCH
    if target.dtype not in _INDEX_DTYPES or input.dim() == 0:
        return TORCH
    if weight is not None and (weight.requires_grad or weight.dtype is not input.dtype):
        return TORCH
    return way


class _NllLoss(Function):
    @staticmethod
    def forward(
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
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, target, weight = ctx.saved_tensors
        ignore_index, reduction = ctx.arguments
        if is_first_order(grad_output):
            scale = loss_gradient(grad_output, reduction)
            grad = _core.nll_loss_backward(scale, input, target, weight, ignore_index, reduction)
        else:
            grad = composite.differentiate(
                lambda x: composite.nll_loss(x, target, weight, ignore_index, reduction),
                input,
                grad_output,
            )
        return grad, None, None, None, None


# --- activations: made in `activations` and `units`

_MADE = {twin.function: twin for twin in activations.TWINS}
for _function in _MADE:
    _function.__module__ = __name__
    globals()[_function.__name__] = _function
__all__ += sorted(function.__name__ for function in _MADE)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Tensor]:
        """The activations and elementwise losses, for type checkers."""


# --- dropouts: made in `dropout`

globals().update(dropouts.FUNCTIONS)
__all__ += sorted(dropouts.FUNCTIONS)
# --- elementwise losses: made in `elementwise_losses`

globals().update(elementwise_losses.FUNCTIONS)
__all__ += sorted(elementwise_losses.FUNCTIONS)

_TWINS = (
    cross_entropy,
    log_softmax,
    nll_loss,
    softmax,
    batch_norm,
    *_MADE,
    *dropouts.FUNCTIONS.values(),
    *elementwise_losses.FUNCTIONS.values(),
)

for _twin in _TWINS:
    script_as(_twin, getattr(F, _twin.__name__, None))
    torch.fx.wrap(_twin.__name__)  # recorded under this name, with the kernel

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
        >>> explain(softmax, torch.ones(3), dim=0)
        'kernel: called directly'
    """
    if function not in _TWINS:
        raise TypeError(f"explain: expected a function of dlkernels.torch, got {function!r}")
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    if function is batch_norm:
        return explain_batch_norm(bound)
    if function in _MADE:
        return _MADE[function].explain(bound)
    if function in elementwise_losses.FUNCTIONS.values():
        operands, why_torch = elementwise_losses.explained(function, bound)
        way = reason(*(x for x in operands if not isinstance(x, float)))
        return way if way.startswith(TORCH) or why_torch is None else why_torch
    input, target, weight = bound["input"], bound.get("target"), bound.get("weight")
    if _autocasting("cpu") and function in (cross_entropy, nll_loss):
        input, target, weight = _autocast(input), _autocast(target), _autocast(weight)
    way = reason(input, target, weight)
    if way.startswith(TORCH):
        return way
    if function in (cross_entropy, nll_loss):
        loss_route = _cross_entropy_route if function is cross_entropy else _nll_loss_route
        if loss_route(input, bound["target"], weight) == TORCH:
            return (
                f"{TORCH}: dtypes that do not match, a target or weight that requires grad, or 0-d"
            )
    return way
