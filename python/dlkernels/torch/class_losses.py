"""The twins of `dlkernels.class_losses`: losses over class logits, and the softmax family."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction

from dlkernels import _core
from dlkernels._arguments import flag, number
from dlkernels.torch import _layout as layout
from dlkernels.torch._differentiate import differentiated
from dlkernels.torch._eager import Function, is_first_order, loss_gradient
from dlkernels.torch._operator import REFUSED, Operation, Twin, module, operands
from dlkernels.torch._route import KERNEL, TORCH, is_plain, reason, route
from dlkernels.torch._tools import Proxy, as_leaf

__all__ = ["TWINS"]

_INDEX_DTYPES = (torch.int64, torch.uint8)
_autocasting = torch.is_autocast_enabled
_HALF = (torch.bfloat16, torch.float16)


def _autocast(tensor: Any) -> Any:
    """What CPU autocast makes of an argument of a function that it runs in float32."""
    return tensor.float() if isinstance(tensor, Tensor) and tensor.dtype in _HALF else tensor


def _loss_shape(input: Tensor, reduction: str) -> list[Any]:
    """The input's shape without its class dimension, or that of a number."""
    if reduction != "none" or input.dim() == 1:
        return []
    return [input.shape[0], *input.shape[2:]]


def _loss_fake(
    input: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str, *_: Any
) -> Tensor:
    return input.new_empty(_loss_shape(input, reduction))


# --- cross_entropy


def _cross_entropy_in_torch(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
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


def _accepts_cross_entropy(input: Tensor, target: Any, weight: Tensor | None, *_: Any) -> bool:
    if target is None or input.dim() == 0:
        return False
    if target.requires_grad or (weight is not None and weight.requires_grad):
        return False
    if target.dtype not in _INDEX_DTYPES and target.dtype is not input.dtype:
        return False
    return weight is None or weight.dtype is input.dtype


def _cross_entropy_gradient(scale: Any, *arguments: Any) -> Any:
    return _core.cross_entropy(*arguments, True, None, False, False, scale)[1]  # type: ignore[call-arg]


#: The gradients of what is not differentiated.
_MISSING = (None,) * 7


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
        *arguments: Any,
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
            grad = differentiated(_cross_entropy_in_torch)(
                grad_output, *ctx.saved_tensors, *ctx.arguments
            )
            return grad, *_MISSING
        # Dropped here, so that whoever receives it is its only owner and may keep it; a second
        # backward makes it again.
        grad, ctx.grad = ctx.grad, None
        scale = loss_gradient(grad_output, ctx.arguments[1])
        if grad is not None and scale == 1.0:
            return grad, *_MISSING
        try:
            input, target, weight = ctx.saved_tensors
        except RuntimeError:  # the logits were written to since
            if grad is None:
                raise
            return grad.mul_(scale), *_MISSING
        grad = _core.cross_entropy(  # type: ignore[call-arg]
            input, target, weight, *ctx.arguments, True, grad, False, False, scale
        )[1]
        return grad, *_MISSING


_ARGUMENTS = (
    "Tensor input, Tensor target, Tensor? weight, str reduction, int ignore_index, "
    "float label_smoothing, float z_loss, float softcap"
)

# A compiled graph reads the logits once for the loss and once for the gradient: it has no place
# where a gradient made in forward could be handed out untouched.
_cross_entropy = Operation(
    "cross_entropy",
    f"({_ARGUMENTS}) -> Tensor",
    _core.cross_entropy,
    _loss_fake,
    _cross_entropy_in_torch,
    constants=(False, None, False, False, 1.0),
    order=(0, 1, 2, 4, 3, 5, 6, 7),
    backward=Operation(
        "cross_entropy_backward",
        f"(Tensor grad_output, {_ARGUMENTS}) -> Tensor",
        _cross_entropy_gradient,
        lambda grad_output, input, *_: layout.empty(input, layout.cross_entropy_gradient(input)),
        differentiated(_cross_entropy_in_torch),
        order=(0, 1, 2, 3, 5, 4, 6, 7, 8),
        reduction=5,
    ),
    accepts=_accepts_cross_entropy,
    function=_CrossEntropy,
).call


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
    arguments = (input, target, weight, ignore_index, reduction, label_smoothing, z_loss, cap)
    if inplace is not False and flag(inplace, "cross_entropy", "inplace"):
        return _cross_entropy_in_place(*arguments)
    loss: Tensor | None = _cross_entropy(*arguments)
    return _cross_entropy_in_torch(*arguments) if loss is None else loss


def _cross_entropy_in_place(input: Tensor, target: Tensor, weight: Any, *others: Any) -> Tensor:
    arguments = (input, target, weight, *others)
    way = KERNEL if is_plain(input, target, weight) else route(input, target, weight)
    if way != KERNEL or not _accepts_cross_entropy(*arguments):
        loss: Tensor | None = _cross_entropy(*arguments)
        return _cross_entropy_in_torch(*arguments) if loss is None else loss
    try:
        if input.requires_grad and torch.is_grad_enabled():
            whole = _whole_tensor(input)
            return _CrossEntropyInPlace.call(whole, input.detach(), target, weight, others)[0]  # type: ignore[no-any-return]
        return _core.cross_entropy(*arguments, False, None, False, False, 1.0)  # type: ignore[call-arg, no-any-return]
    except REFUSED as error:
        refusal = error.with_traceback(None)
    _cross_entropy_in_torch(*arguments)  # its error
    raise refusal


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


def _whole_tensor(input: Tensor) -> Tensor:
    """The tensor that autograd marks dirty: `input`, or the tensor that it is a view of all of."""
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


class _CrossEntropyInPlace(Function):
    """The gradient, for grad_output = 1, written over the logits.

    Args:
        whole: The tensor that autograd marks dirty, which becomes the second output.
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


def _softmax_in_torch(input: Tensor, dim: int, logarithm: bool) -> Tensor:
    return (F.log_softmax if logarithm else F.softmax)(input, dim)


def _softmax_gradient_in_torch(
    grad_output: Tensor, output: Tensor, dim: int, logarithm: bool
) -> Tensor:
    """torch's own, which is differentiable again and which torch.func's transforms take."""
    backward = torch._log_softmax_backward_data if logarithm else torch._softmax_backward_data
    return backward(grad_output, output, dim, output.dtype)


_softmax = Operation(
    "softmax",
    "(Tensor input, int dim, bool logarithm) -> Tensor",
    _core.softmax,
    lambda input, *_: layout.empty_like(input),
    _softmax_in_torch,
    constants=(None,),
    saves="output",
    backward=Operation(
        "softmax_backward",
        "(Tensor grad_output, Tensor output, int dim, bool logarithm) -> Tensor",
        _core.softmax_backward,
        lambda grad_output, output, *_: layout.empty_like(output),
        _softmax_gradient_in_torch,
        constants=(None,),
    ),
).call


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
    if dim is None:
        dim = F._get_softmax_dim("softmax", input.dim(), _stacklevel)  # type: ignore[attr-defined]
    if dtype is not None and dtype is not input.dtype:
        input = input.to(dtype=dtype)
    # torch raises its own error for a bool, or a float.
    output: Tensor | None = _softmax(input, dim, False) if type(dim) is int else None
    return F.softmax(input, dim) if output is None else output


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
    if dim is None:
        dim = F._get_softmax_dim("log_softmax", input.dim(), _stacklevel)  # type: ignore[attr-defined]
    if dtype is not None and dtype is not input.dtype:
        input = input.to(dtype=dtype)
    # torch raises its own error for a bool, or a float.
    output: Tensor | None = _softmax(input, dim, True) if type(dim) is int else None
    return F.log_softmax(input, dim) if output is None else output


# --- nll_loss


def _nll_loss_in_torch(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def _nll_loss_gradient_in_torch(grad_output: Tensor, input: Tensor, *others: Any) -> Any:
    # torch's gradient fails for inputs that are not contiguous.
    return differentiated(_nll_loss_in_torch)(grad_output, input.contiguous(), *others)


def _accepts_nll_loss(input: Tensor, target: Any, weight: Tensor | None, *_: Any) -> bool:
    if target is None or target.dtype not in _INDEX_DTYPES or input.dim() == 0:
        return False
    return weight is None or not (weight.requires_grad or weight.dtype is not input.dtype)


_nll_loss = Operation(
    "nll_loss",
    "(Tensor input, Tensor target, Tensor? weight, str reduction, int ignore_index) -> Tensor",
    _core.nll_loss,
    _loss_fake,
    _nll_loss_in_torch,
    order=(0, 1, 2, 4, 3),
    backward=Operation(
        "nll_loss_backward",
        "(Tensor grad_output, Tensor input, Tensor target, Tensor? weight, str reduction, "
        "int ignore_index) -> Tensor",
        _core.nll_loss_backward,
        lambda grad_output, input, *_: layout.empty(input, layout.nll_gradient(input)),
        _nll_loss_gradient_in_torch,
        order=(0, 1, 2, 3, 5, 4),
        reduction=5,
    ),
    accepts=_accepts_nll_loss,
).call


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
    arguments = (input, target, weight, ignore_index, reduction)
    loss: Tensor | None = _nll_loss(*arguments)
    return _nll_loss_in_torch(*arguments) if loss is None else loss


# --- modules


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` on `functional.cross_entropy`.

    Args:
        weight: As torch.
        size_average: As torch.
        ignore_index: As torch.
        reduce: As torch.
        reduction: As torch.
        label_smoothing: As torch.
        z_loss: See `functional.cross_entropy`.
        softcap: See `functional.cross_entropy`.
        inplace: See `functional.cross_entropy`.
    """

    # For a module of torch's that became one of ours by its class.
    z_loss: float = 0.0
    softcap: float | None = None
    inplace: bool = False

    def __init__(
        self,
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
    ) -> None:
        """See the class."""
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss, self.softcap, self.inplace = z_loss, softcap, inplace

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of `input` (logits) against `target`."""
        if type(input) is Proxy:
            return as_leaf(self, input, target)
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
            inplace=self.inplace,
        )


class Softmax(torch.nn.Softmax):
    """`torch.nn.Softmax` on `functional.softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        """softmax of `input` along ``self.dim``."""
        if type(input) is Proxy:
            return as_leaf(self, input)
        return softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(torch.nn.LogSoftmax):
    """`torch.nn.LogSoftmax` on `functional.log_softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        """log_softmax of `input` along ``self.dim``."""
        if type(input) is Proxy:
            return as_leaf(self, input)
        return log_softmax(input, self.dim, _stacklevel=5)


# --- what is in torch's place


def _explain(accepts: Callable[..., bool], arguments: dict[str, Any]) -> str:
    """Which way a loss goes, whose operation accepts such tensors."""
    tensors = [arguments.get(name) for name in ("input", "target", "weight")]
    if _autocasting("cpu"):
        tensors = [_autocast(tensor) for tensor in tensors]
    way = reason(*tensors)
    if not way.startswith(TORCH) and not accepts(*tensors):
        return f"{TORCH}: dtypes that do not match, a target or weight that requires grad, or 0-d"
    return way


#: Every twin of the family.
TWINS = (
    Twin(cross_entropy, partial(_explain, _accepts_cross_entropy), (CrossEntropyLoss,)),
    Twin(nll_loss, partial(_explain, _accepts_nll_loss), (module(torch.nn.NLLLoss, nll_loss),)),
    Twin(softmax, operands("input"), (Softmax,)),
    Twin(log_softmax, operands("input"), (LogSoftmax,)),
)
