"""Twins of the elementwise losses, made from the rows of `dlkernels.elementwise_losses`.

Functions for `functional`, modules for `nn`, operators, and what autograd needs of them.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction

from dlkernels import _core
from dlkernels._arguments import type_text
from dlkernels._define import define
from dlkernels.elementwise_losses import LOSSES, Loss
from dlkernels.torch import _layout as layout
from dlkernels.torch._differentiate import differentiate_chosen
from dlkernels.torch._eager import Function, is_first_order, loss_gradient
from dlkernels.torch._layout import with_strides
from dlkernels.torch._operator import REFUSED, Operation, Twin, module
from dlkernels.torch._route import KERNEL, OPERATOR, TORCH, check_tensors, is_plain, reason, route

__all__ = ["TWINS"]

_autocasting = torch.is_autocast_enabled
_HALF = (torch.bfloat16, torch.float16)


# --- the losses in torch's own operations


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
    reduction: str = "none",
) -> Tensor:
    """`torchvision.ops.sigmoid_focal_loss` in torch's operations."""
    check_tensors("sigmoid_focal_loss", inputs=inputs, targets=targets)
    LOSSES["sigmoid_focal_loss"].checked_numbers(alpha=alpha, gamma=gamma)
    if not isinstance(reduction, str) or reduction not in ("none", "mean", "sum"):
        got = reduction if isinstance(reduction, str) else type_text(reduction)
        raise ValueError(
            f"Invalid Value for arg 'reduction': '{got} \n Supported reduction modes: "
            "'none', 'mean', 'sum'"
        )
    p = torch.sigmoid(inputs)
    loss = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    loss = loss * (1 - (p * targets + (1 - p) * (1 - targets))) ** gamma
    if alpha >= 0:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    return _reduced(loss, reduction)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    reduced: Tensor = loss if reduction == "none" else getattr(loss, reduction)()
    return reduced


def entropy(p: Tensor, dim: int = -1, *, base: float | None = None) -> Tensor:
    """``-sum(p * log(p))`` in torch's operations."""
    check_tensors("entropy", p=p)
    return -torch.xlogy(p, p).sum(dim) * _unit("entropy", base)


def cross_entropy_of_distributions(
    p: Tensor, q: Tensor, dim: int = -1, *, base: float | None = None
) -> Tensor:
    """``-sum(p * log(q))`` in torch's operations."""
    check_tensors("cross_entropy_of_distributions", p=p, q=q)
    return -torch.xlogy(p, q).sum(dim) * _unit("cross_entropy_of_distributions", base)


def kl_divergence(p: Tensor, q: Tensor, dim: int = -1, *, base: float | None = None) -> Tensor:
    """``sum(p * log(p / q))`` in torch's operations."""
    check_tensors("kl_divergence", p=p, q=q)
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim) * _unit("kl_divergence", base)


def _unit(name: str, base: float | None) -> float:
    return LOSSES[name].checked_numbers(base=base)[1]


_OWN: dict[str, Callable[..., Tensor]] = {f.__name__: f for f in (
    sigmoid_focal_loss, entropy, cross_entropy_of_distributions, kl_divergence
)}  # fmt: skip


def _in_torch(
    key: str,
    operands: tuple[Any, ...],
    a: float,
    b: float,
    reduction: str,
    dim: int | None,
) -> Tensor:
    """The loss of a kernel's arguments, differentiable any number of times."""
    x, t, third, fourth = operands
    weight = {} if third is None else {"weight": third}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller has been warned
        match key:
            case "mse_loss" | "l1_loss":
                return getattr(F, key)(x, t, reduction=reduction, **weight)  # type: ignore[no-any-return]
            case "smooth_l1_loss":
                return F.smooth_l1_loss(x, t, reduction=reduction, beta=a)
            case "huber_loss":
                return F.huber_loss(x, t, reduction=reduction, delta=a, **weight)
            case "kl_div" | "kl_div_log_target":
                return F.kl_div(x, t, reduction=reduction, log_target=key != "kl_div")
            case "binary_cross_entropy":
                loss: Tensor = _BinaryCrossEntropy.apply(x, t)
                return _reduced(loss if third is None else loss * third, reduction)
            case "binary_cross_entropy_with_logits":
                return F.binary_cross_entropy_with_logits(
                    x, t, third, reduction=reduction, pos_weight=fourth
                )
            case "gaussian_nll_loss":
                return _gaussian(x, t, third, a, b, reduction)
            case "poisson_nll_loss" | "poisson_nll_loss_of_log":
                of_log = key != "poisson_nll_loss"
                return F.poisson_nll_loss(
                    x, t, log_input=of_log, full=a != 0, eps=b, reduction=reduction
                )
            case "sigmoid_focal_loss":
                return sigmoid_focal_loss(x, t, a, b, reduction)
    assert dim is not None
    loss = _OWN[key](x, dim) if t is None else _OWN[key](x, t, dim)
    return loss * a


class _BinaryCrossEntropy(torch.autograd.Function):
    """Of every element. torch's own second derivative has 1e-12 too much in its denominator."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, t: Tensor) -> Tensor:
        return F.binary_cross_entropy(x, t, reduction="none")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        x, t = ctx.saved_tensors
        grad = grad_t = None
        if ctx.needs_input_grad[0]:
            grad = grad_output * (x - t) / (x * (1 - x)).clamp(min=1e-12)
        if ctx.needs_input_grad[1]:
            grad_t = grad_output * ((1 - x).log() - x.log())
        return grad, grad_t


def _gaussian(
    x: Tensor, t: Tensor, var: Any, eps: float, constant: float, reduction: str
) -> Tensor:
    """torch's without its look at the values, which a compiled graph cannot take."""
    variance = torch.full_like(x, var) if isinstance(var, float) else var
    if variance.shape != x.shape and variance.shape == x.shape[:-1]:
        variance = variance.unsqueeze(-1)
    variance = variance + (variance.clamp(min=eps) - variance).detach()
    loss = 0.5 * (torch.log(variance) + (x - t) ** 2 / variance) + constant
    return _reduced(loss, reduction)


_KEYS = {
    _core.elementwise_loss_index(key): key
    for key in (
        *LOSSES, "kl_div_log_target", "poisson_nll_loss_of_log"
    )
}  # fmt: skip


# --- autograd


class _ElementwiseLoss(Function):
    """Forward makes the gradients too, for grad_output = 1, in one pass over the operands.

    Backward hands them out if grad_output is 1, else makes them again with the right one: that
    reads what scaling them would not, but rounds once, and costs nothing where loss.backward() is
    called, as it mostly is. float16 (whose small gradients need the loss scale before they are
    rounded), ``"none"`` and sums along a dimension make no gradient in forward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        arguments: tuple[tuple[int, float, float], str, int | None, int],
        input: Tensor,
        target: Tensor | None,
        third: Any,
        fourth: Tensor | None,
    ) -> Tensor:
        numbers, reduction, dim, wrt = ctx.arguments = arguments
        constant = ctx.constant = third if type(third) is float else None
        ctx.save_for_backward(input, target, third if constant is None else None, fourth)
        made_here = reduction != "none" and input.dtype is not torch.float16
        result = _core.elementwise_loss(
            *numbers, input, target, third, fourth, reduction, dim, wrt if made_here else 0,
            None, None,
        )  # fmt: skip
        loss: Tensor
        loss, *grads = result if made_here else (result,)
        ctx.grads = grads or None
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if not is_first_order(grad_output):
            return None, *_differentiate(ctx, grad_output)
        # Dropped here, so that whoever receives them is their only owner and may keep them; a
        # second backward makes them again.
        grads, ctx.grads = ctx.grads, None
        numbers, reduction, dim, wrt = ctx.arguments
        scale = loss_gradient(grad_output, reduction)
        if grads is not None and scale == 1.0:
            return None, *grads, None
        try:
            operands = _saved_operands(ctx)
        except RuntimeError:  # an operand was written to since
            if grads is None:
                raise
            grads = [None if grad is None else grad.mul_(scale) for grad in grads]
            return None, *grads, None
        _, *grads = _core.elementwise_loss(  # type: ignore[call-arg]
            *numbers, *operands, reduction, dim, wrt, None, scale
        )
        return None, *grads, None


def _saved_operands(ctx: Any) -> tuple[Any, ...]:
    input, target, third, fourth = ctx.saved_tensors
    return input, target, third if ctx.constant is None else ctx.constant, fourth


def _differentiate(ctx: Any, grad_output: Tensor) -> list[Tensor | None]:
    """The gradients through torch's operations."""
    operands = _saved_operands(ctx)
    (index, a, b), reduction, dim, wrt = ctx.arguments
    return differentiate_chosen(
        lambda *at: _in_torch(_KEYS[index], at, a, b, reduction, dim),
        operands,
        [place for place in range(3) if wrt >> place & 1],
        grad_output,
    )


# --- operators


def _kernel(
    input: Tensor, target: Any, third: Any, fourth: Any, loss: int, a: float, b: float,
    reduction: str, dim: int | None,
) -> Tensor:  # fmt: skip
    try:
        result: Tensor = _core.elementwise_loss(
            loss, a, b, input, target, third, fourth, reduction, dim, 0, None, None
        )
    except ValueError as error:
        if "all elements of" in str(error):  # what torch raises in a compiled graph
            raise RuntimeError(str(error)) from None
        raise
    return with_strides(result, _strides(input, _shape(input, target, third, reduction, dim)))


def _gradient_kernel(
    grad_output: Tensor, input: Tensor, target: Any, third: Any, fourth: Any, loss: int, a: float,
    b: float, reduction: str, dim: int | None, which: int,
) -> Tensor:  # fmt: skip
    grad_argument = loss_gradient(grad_output, "none" if dim is not None else reduction)
    results = _core.elementwise_loss(
        loss, a, b, input, target, third, fourth, reduction, dim, 1 << which, None, grad_argument
    )
    grad: Tensor = results[1 + which]
    return with_strides(grad, layout.dense((input, target, third)[which]))


def _shape(input: Tensor, target: Any, third: Any, reduction: str, dim: int | None) -> Any:
    """The shape of the result."""
    if reduction != "none":
        return torch.Size(())
    shape = input.shape if target is None else torch.broadcast_shapes(input.shape, target.shape)
    if third is not None:
        short = third.dim() + 1 == input.dim() and third.shape == input.shape[:-1]
        third_shape = (*third.shape, 1) if short else third.shape
        shape = torch.broadcast_shapes(shape, third_shape)
    if dim is not None:
        axis = dim % len(shape)
        shape = torch.Size((*shape[:axis], *shape[axis + 1 :]))
    return shape


def _strides(input: Tensor, shape: Any) -> tuple[Any, ...]:
    """The strides of a result of this shape."""
    return layout.dense(input) if input.shape == shape else layout.row_major(shape)


def _fake(
    input: Tensor, target: Any, third: Any, fourth: Any, loss: int, a: float, b: float,
    reduction: str, dim: int | None,
) -> Tensor:  # fmt: skip
    shape = _shape(input, target, third, reduction, dim)
    return input.new_empty_strided(shape, _strides(input, shape))


def _of_operator(
    input: Tensor, target: Any, third: Any, fourth: Any, loss: int, *numbers: Any
) -> Tensor:
    return _in_torch(_KEYS[loss], (input, target, third, fourth), *numbers)


def _gradient_of_operator(grad_output: Tensor, *arguments: Any) -> Tensor:
    operands, (*others, which) = arguments[:4], arguments[4:]
    grads: Any = differentiate_chosen(
        lambda *at: _of_operator(*at, *others), operands, (which,), grad_output
    )
    return grads[which]  # type: ignore[no-any-return]


_ARGUMENTS = (
    "Tensor input, Tensor? target, Tensor? third, Tensor? fourth, int loss, float a, float b, "
    "str reduction, int? dim"
)

#: Of one of the operands.
_GRADIENT = Operation(
    "elementwise_loss_backward",
    f"(Tensor grad_output, {_ARGUMENTS}, int which) -> Tensor",
    _gradient_kernel,
    lambda grad_output, *arguments: layout.empty_like(arguments[arguments[-1]]),
    _gradient_of_operator,
)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.arguments = inputs[4:]


def _backward(ctx: Any, grad_output: Tensor) -> Any:
    grads = [
        _GRADIENT.operator(grad_output, *ctx.saved_tensors, *ctx.arguments, which)
        if ctx.needs_input_grad[which]
        else None
        for which in range(3)
    ]
    return *grads, *([None] * 6)


_LOSS = Operation(
    "elementwise_loss",
    f"({_ARGUMENTS}) -> Tensor",
    _kernel,
    _fake,
    _of_operator,
    autograd=(_save, _backward),
)


# --- which way


def _way(row: Loss, input: Any, target: Any, third: Any, fourth: Any) -> str:
    """`route`, and torch where it has an error to raise, a promotion or a gradient that the kernel
    lacks."""
    constant = type(third) is float and "var" in row.differentiable
    tensors = (input, target, None if constant else third, fourth)
    way = KERNEL if is_plain(*tensors) else route(*tensors)
    if way == TORCH:
        return TORCH
    if target is None:
        if len(row.inputs) > 1:
            return TORCH
    elif target.dtype is not input.dtype:
        return TORCH
    if third is None:
        if "var" in row.differentiable:
            return TORCH
    elif not constant and (
        third.dtype is not input.dtype
        or (third.requires_grad and row.operands[0].name not in row.differentiable)
    ):
        return TORCH
    if fourth is not None and (fourth.dtype is not input.dtype or fourth.requires_grad):
        return TORCH
    if way == OPERATOR and not _shapes_fit(row, input, target, third, fourth):
        return TORCH
    return way


def _names(row: Loss) -> tuple[str, ...]:
    """The operands' names, in the kernels' places."""
    inputs = row.inputs if len(row.inputs) > 1 else (*row.inputs, "")
    return (*inputs, *(operand.name for operand in row.operands))


def _shapes_fit(row: Loss, input: Tensor, target: Any, third: Any, fourth: Any) -> bool:
    """What the kernels check when they run; for a compiled graph, while it is made."""
    if row.same_shape and target.shape != input.shape:
        return False
    if "var" in row.differentiable:
        return isinstance(third, float) or third.shape == input.shape
    for weight in (third, fourth):
        if weight is None:
            continue
        if row.weight_as_input:
            if weight.shape != input.shape:
                return False
        elif weight.dim() > input.dim() or any(
            own not in (1, size)
            for own, size in zip(reversed(weight.shape), reversed(input.shape), strict=False)
        ):
            return False
    return True


def _autocast(row: Loss, operands: list[Any]) -> bool:
    """Casts what torch's CPU autocast runs in float32; False where it does something else."""
    if not any(isinstance(x, Tensor) and x.dtype in _HALF for x in operands):
        return True
    if row.module is None or "var" in row.differentiable:
        return False
    if row.weight_as_input and operands[2] is not None:
        return False
    operands[:] = [x.float() if isinstance(x, Tensor) and x.dtype in _HALF else x for x in operands]
    return True


#: Losses whose operands torch warns to be of different sizes.
_WARNED = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def _forward(
    row: Loss,
    input: Any,
    target: Any,
    third: Any,
    fourth: Any,
    numbers: tuple[int, float, float],
    reduction: str,
    dim: int | None,
) -> Any:
    """The loss from a kernel; None where it is torch's."""
    if row.reduction is not None and not (
        isinstance(reduction, str) and reduction in row.reductions
    ):
        return None
    if _autocasting("cpu"):
        operands = [input, target, third, fourth]
        if not _autocast(row, operands):
            return None
        input, target, third, fourth = operands
    way = _way(row, input, target, third, fourth)
    if way == TORCH:
        return None
    if way == OPERATOR:
        if isinstance(third, float):
            third = third * torch.ones_like(input)
        return _LOSS.operator(input, target, third, fourth, *numbers, reduction, dim)
    try:
        if torch.is_grad_enabled():
            wrt = 1 if input.requires_grad else 0
            if target is not None and target.requires_grad:
                wrt += 2
            if isinstance(third, Tensor) and third.requires_grad:
                wrt += 4
            if wrt:
                return _ElementwiseLoss.call(
                    (numbers, reduction, dim, wrt), input, target, third, fourth
                )
        return _core.elementwise_loss(
            *numbers, input, target, third, fourth, reduction, dim, 0, None, None
        )
    except REFUSED:
        return None


def _numbers(row: Loss, **parameters: Any) -> tuple[int, float, float] | None:
    """What the kernel takes for the parameters; None where torch has an error for them."""
    try:
        return row.numbers(**parameters) if row.error(**parameters) is None else None
    except (TypeError, ValueError, OverflowError):  # no numbers
        return None


def _compute(
    row: Loss,
    input: Any,
    target: Any,
    third: Any,
    fourth: Any,
    numbers: tuple[int, float, float] | None,
    size_average: Any,
    reduce: Any,
    reduction: Any,
    dim: int | None,
) -> Any:
    """The loss from a kernel, with torch's warnings; None where it is torch's.

    Args:
        row: The loss.
        input: The first operand.
        target: The second, if there is one.
        third: A weight or variance, if there is one.
        fourth: The weight of positive targets, if there is one.
        numbers: What the kernel takes for the row's parameters.
        size_average: Deprecated, as in torch.
        reduce: Deprecated, as in torch.
        reduction: How the losses are put together.
        dim: The dimension a loss of distributions is summed along.
    """
    is_legacy = size_average is not None or reduce is not None
    if numbers is None or (is_legacy and reduction == "batchmean"):
        return None
    used = _reduction.legacy_get_string(size_average, reduce) if is_legacy else reduction
    loss = _forward(row, input, target, third, fourth, numbers, used, dim)
    if loss is None:
        return loss
    if row.name in _WARNED and input.shape != target.shape:
        message = (
            f"Using a target size ({target.size()}) that is different to the input size "
            f"({input.size()}). This will likely lead to incorrect results due to "
            "broadcasting. Please ensure they have the same size."
        )
    elif row.name == "kl_div" and reduction == "mean" and not is_legacy:
        message = (
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math "
            "definition."
            "'mean' will be changed to behave the same as 'batchmean' in the next major release."
        )
    else:
        return loss
    if not torch.compiler.is_compiling():  # which has no place for a warning
        warnings.warn(message, stacklevel=3)
    return loss


def _twin_names(row: Loss, arguments: dict[str, Any]) -> tuple[str, ...]:
    """The operands' names in a twin: torchvision says inputs and targets."""
    names = _names(row)
    return ("inputs", "targets", *names[2:]) if "inputs" in arguments else names


# --- functions

_DOCUMENTATION = """{summary}

Args:{arguments}

Returns:
    The loss, of the input's dtype.
"""

_DESCRIPTIONS = {
    "input": "Any shape, in any memory format.",
    "target": "A shape that can be broadcast with the input's.",
    "size_average": "Deprecated, as in torch.",
    "reduce": "Deprecated, as in torch.",
    "reduction": "As in torch.",
    "dim": "The dimension that is summed.",
    "inputs": "Logits, any shape.",
    "targets": "Of the inputs' shape, in [0, 1].",
    "p": "Probabilities, any shape.",
    "q": "Probabilities, of a shape that can be broadcast with p's.",
}


def _function(row: Loss) -> Any:
    """The twin, with torch's own signature."""
    theirs = _OWN.get(row.name) or getattr(F, row.name)
    signature = inspect.signature(theirs, eval_str=True)
    names = list(signature.parameters)
    text = ", ".join(
        f"{'*, ' if p.kind == p.KEYWORD_ONLY else ''}{p.name}"
        + ("" if p.default is p.empty else f"={p.default!r}")
        for p in signature.parameters.values()
    )
    given = ", ".join(
        f"{p.name}={p.name}" if p.kind == p.KEYWORD_ONLY else p.name
        for p in signature.parameters.values()
    )
    operands = [name or "None" for name in _twin_names(row, dict.fromkeys(names))]
    operands += ["None"] * (4 - len(operands))
    parameters = ", ".join(f"{p.name}={p.name}" for p in row.parameters)
    numbers = f"numbers(row, {parameters})" if parameters else "fixed"
    reductions = [name if name in names else "None" for name in ("size_average", "reduce")]
    reductions.append("reduction" if "reduction" in names else "'none'")
    dim = "dim" if "dim" in names else "None"
    function = define(
        row.name,
        f"({text})",
        f"theirs({given}) if (loss := compute(row, {', '.join(operands)}, {numbers}, "
        f"{', '.join(reductions)}, {dim})) is None else loss",
        globals(),
        row=row,
        theirs=theirs,
        compute=_compute,
        numbers=_numbers,
        fixed=None if parameters else row.numbers(),
    )
    function.__signature__ = signature
    function.__annotations__ = dict(getattr(theirs, "__annotations__", {}))
    function.__module__ = "dlkernels.torch.functional"  # which is where it is looked for
    described = {a.name: a.description for a in (*row.operands, *row.parameters)}
    function.__doc__ = _DOCUMENTATION.format(
        summary=row.summary,
        arguments="".join(
            f"\n    {name}: " + {**_DESCRIPTIONS, **described}[name].replace("\n", "\n        ")
            for name in names
        ),
    )
    return function


def _explain(row: Loss, signature: inspect.Signature, arguments: dict[str, Any]) -> str:
    """`Twin.explain`, of a function with this signature."""
    operands = [arguments.get(n) if n else None for n in _twin_names(row, arguments)]
    operands += [None] * (4 - len(operands))
    casts = not _autocasting("cpu") or _autocast(row, operands)
    way = reason(*(x for x in operands if not isinstance(x, float)))
    if way.startswith(TORCH):
        return way
    if not casts:
        return f"{TORCH}: what autocast makes of it"
    defaults = {name: p.default for name, p in signature.parameters.items()}
    given = {**defaults, **arguments}
    if row.error(**{p.name: given[p.name] for p in row.parameters}) is not None:
        return f"{TORCH}: an argument out of its range"
    try:
        if _way(row, *operands) != TORCH:
            return way
    except AttributeError:
        pass
    return (
        f"{TORCH}: dtypes that do not match, or an operand without a derivative that requires grad"
    )


def _twin(row: Loss) -> Twin:
    function = _function(row)
    theirs = row.module and getattr(torch.nn, row.module)
    modules = (module(theirs, function),) if theirs else ()
    return Twin(function, partial(_explain, row, inspect.signature(function)), modules)


#: Every twin of the family.
TWINS = tuple(map(_twin, LOSSES.values()))
