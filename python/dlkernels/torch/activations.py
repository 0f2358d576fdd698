"""The activations' twins: functions for `functional` (and their in-place forms), modules for `nn`.

Those of one operand are made from the rows of `dlkernels.activations`; prelu, glu, swiglu and
maxout are written below them.
"""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import increment_version

from dlkernels import _core
from dlkernels._arguments import integer
from dlkernels._define import define
from dlkernels.activations import ACTIVATIONS, Activation
from dlkernels.torch import _layout as layout
from dlkernels.torch._bits import as_bytes, byte_count, packed, unpacked
from dlkernels.torch._differentiate import differentiated
from dlkernels.torch._eager import Function, is_first_order
from dlkernels.torch._layout import with_strides
from dlkernels.torch._operator import LIBRARY, REFUSED, Operation, Twin, module, operands
from dlkernels.torch._route import (
    KERNEL,
    TORCH,
    check_in_place,
    check_tensors,
    in_transform,
    is_batched,
    is_plain,
    reason,
    route,
)
from dlkernels.torch._tools import Proxy, as_leaf

__all__ = ["TWINS", "in_torch", "may_overwrite"]

# --- in torch's operations

#: The activations by their number.
_ROWS = {row.index: row for row in ACTIVATIONS.values()}


def _values(index: int, a: float, b: float) -> tuple[Any, dict[str, Any]]:
    """An activation's row, and its parameters as its function in torch takes them."""
    row = _ROWS[index]
    parameters = zip(row.parameters, (a, b), strict=False)
    return row, {p.name: p.from_number(x) for p, x in parameters}


def in_torch(input: Tensor, index: int, a: float, b: float) -> Tensor:
    """An activation by its number."""
    row, values = _values(index, a, b)
    output: Tensor = getattr(F, row.name)(input, **values)
    return output


def _gradient_in_torch(
    grad_output: Tensor, saved: Tensor, index: int, a: float, b: float
) -> Tensor:
    """The gradient of an activation that saves its input or its output."""
    row, values = _values(index, a, b)
    if row.derivative is not None:
        grad: Tensor = grad_output * row.derivative(torch, saved, *values.values())
        return grad
    if row.saves == "mask":  # linear in pieces, which torch does not say of all of them
        slope = differentiated(in_torch)(torch.ones_like(saved), saved.detach(), index, a, b)
        slope = slope.detach()
        return torch.where(slope != 0, grad_output * slope, 0.0)
    return differentiated(in_torch)(grad_output, saved, index, a, b)  # type: ignore[no-any-return]


def _factors(index: int, a: float, b: float) -> tuple[float, float]:
    """What an activation's gradient is multiplied by where a bit of its mask is set, and where it
    is not: asked of the kernel."""
    ones, one_passes = np.ones(2), np.array([1, 0], np.uint8)
    set_factor, clear_factor = _core.activation_backward(index, ones, None, one_passes, a, b)
    return float(set_factor), float(clear_factor)


def _masked_in_torch(input: Tensor, index: int, a: float, b: float) -> tuple[Tensor, Tensor]:
    """The result and its mask."""
    clear_factor = _factors(index, a, b)[1]
    slope = differentiated(in_torch)(torch.ones_like(input), input.detach(), index, a, b)
    mask = packed(slope != clear_factor, layout.dense(input))
    return in_torch(input, index, a, b), mask


def _masked_gradient(
    grad_output: Tensor, mask: Tensor, stride: Any, index: int, a: float, b: float
) -> Tensor:
    """The gradient of an activation that saves a mask, for a result with these strides."""
    passes = unpacked(mask, grad_output.shape, stride)
    set_factor, clear_factor = _factors(index, a, b)
    return torch.where(
        passes,
        grad_output * set_factor,
        grad_output * clear_factor if clear_factor else 0.0,
    )


def _masked_gradient_in_torch(
    grad_output: Tensor, mask: Tensor, index: int, a: float, b: float
) -> Tensor:
    return _masked_gradient(grad_output, mask, layout.dense(grad_output), index, a, b)


# --- operations of one operand: which activation is a number


def _like_first(first: Tensor, *_: Any) -> Tensor:
    return layout.empty_like(first)


_SAVING = Operation(
    "activation",
    "(Tensor input, int index, float a, float b) -> Tensor",
    lambda input, index, a, b: _core.activation(index, input, None, False, a, b),
    _like_first,
    in_torch,
    saves=lambda inputs, results: results if _ROWS[inputs[1]].saves == "output" else inputs[:1],
    backward=Operation(
        "activation_backward",
        "(Tensor grad_output, Tensor saved, int index, float a, float b) -> Tensor",
        lambda grad, saved, index, a, b: _core.activation_backward(index, grad, saved, None, a, b),
        lambda grad_output, saved, *_: layout.empty_like(saved),
        _gradient_in_torch,
    ),
)

_MASKED_GRADIENT = Operation(
    "activation_masked_backward",
    "(Tensor grad_output, Tensor mask, int index, float a, float b) -> Tensor",
    lambda grad, mask, index, a, b: _core.activation_backward(index, grad, None, mask, a, b),
    _like_first,
    _masked_gradient_in_torch,
    is_own_transpose=True,
    by_memory=True,
)

_MASKED = Operation(
    "activation_masked",
    "(Tensor input, int index, float a, float b) -> (Tensor, Tensor)",
    lambda input, index, a, b: _core.activation(index, input, None, True, a, b),
    lambda input, *_: (
        layout.empty_like(input),
        input.new_empty([byte_count(input.numel())], dtype=torch.uint8),
    ),
    _masked_in_torch,
    saves="others",
    backward=_MASKED_GRADIENT,
    by_memory=True,
)


def _write_in_torch(input: Tensor, *arguments: Any) -> None:
    input.copy_(in_torch(input, *arguments))


def _write(input: Tensor, index: int, a: float, b: float) -> None:
    _core.activation(index, input, input, False, a, b)


_IN_PLACE = Operation(
    "activation_",
    "(Tensor(a!) input, int index, float a, float b) -> ()",
    _write,
    lambda *_: None,
    _write_in_torch,
)


def _write_with_autograd(keyset: Any, input: Tensor, *args: Any) -> None:
    """Tells autograd of the write, as torch's own in-place operators do."""
    increment_version(input)
    with torch._C._AutoDispatchBelowADInplaceOrView():
        below = keyset & torch._C._after_ADInplaceOrView_keyset
        torch.ops.dlkernels.activation_.default.redispatch(below, input, *args)


LIBRARY.impl("activation_", _write_with_autograd, "ADInplaceOrView", with_keyset=True)


def _write_negated(input: Tensor, *args: Any) -> None:
    """On a view whose memory holds the negated values, which torch does itself for operators that
    return something.
    """
    output = input.resolve_neg()
    _IN_PLACE.operator(output, *args)
    input.copy_(output)


LIBRARY.impl("activation_", _write_negated, "Negative")

# --- eager calls


class _Masked(Function):
    """An activation that saves one bit per element for its backward."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, inplace: bool, arguments: Any) -> Tensor:
        index, a, b = ctx.arguments = arguments
        output, mask = _core.activation(index, input, input if inplace else None, True, a, b)
        if inplace:
            ctx.mark_dirty(input)
            output = input
        ctx.stride = output.stride()
        ctx.save_for_backward(mask)
        return output  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        index, a, b = ctx.arguments
        if is_first_order(grad_output):
            grad_output = with_strides(grad_output, ctx.stride)
            grad = _core.activation_backward(index, grad_output, None, mask, a, b)
        elif is_batched(grad_output):
            grad = _masked_gradient(grad_output, mask, ctx.stride, index, a, b)
        else:
            grad_output = with_strides(grad_output, ctx.stride)
            grad = _MASKED_GRADIENT.operator(grad_output, mask, index, a, b)
        return grad, None, None


class _Saving(Function):
    """An activation that saves its input or its output; torch differentiates its gradient.

    Args:
        input: The input.
        copy: A copy of the input, which the gradient then goes to, where the input is overwritten
            and needed; else None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        copy: Tensor | None,
        saves_output: bool,
        inplace: bool,
        arguments: Any,
    ) -> Tensor:
        index, a, b = ctx.arguments = arguments
        output: Tensor = _core.activation(index, input, input if inplace else None, False, a, b)
        if inplace:
            ctx.mark_dirty(input)
        ctx.copied = copy is not None
        saved = copy if copy is not None else input
        ctx.save_for_backward(output if saves_output else saved)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        (saved,) = ctx.saved_tensors
        index, a, b = ctx.arguments
        if is_first_order(grad_output):
            grad = _core.activation_backward(index, grad_output.resolve_neg(), saved, None, a, b)
        else:
            grad = _gradient_in_torch(grad_output, saved, index, a, b)
        if ctx.copied:
            return None, grad, None, None, None
        return grad, None, None, None, None


def _forward(row: Activation, input: Tensor, inplace: bool, a: Any, b: Any) -> Any:
    """The result, whichever way it goes; None where that is torch's."""
    try:
        if row.restricted and (a, b) != row.defaults and not takes(row, input, a, b):
            return None
    except ValueError:  # arrays
        return None
    way = KERNEL if not inplace and is_plain(input) else route(input)
    if way == KERNEL:
        if inplace and not may_overwrite(input):
            check_in_place(input)
            return None
        index = row.index
        try:
            if input.requires_grad and torch.is_grad_enabled():
                if row.saves == "mask":
                    return _Masked.call(input, inplace, (index, a, b))
                saves_output = row.saves == "output"
                copy = input.clone() if inplace and not saves_output else None
                return _Saving.call(input, copy, saves_output, inplace, (index, a, b))
            if not inplace:
                return _core.activation(index, input, None, False, a, b)
            _core.activation(index, input, input, False, a, b)
        except REFUSED:
            return None
        if not input.is_inference():
            increment_version(input)
        return input
    if way == TORCH:
        # torch's own derivative of this one is rounded to float32, whatever the dtype.
        if row.name == "hardsigmoid" and not inplace and _is_double(input) and in_transform():
            inside = (input > -3) & (input < 3)
            return torch.where(inside, (input + 3) / 6, F.hardsigmoid(input.detach()))
        return None
    if a is None or b is None:
        return None
    if input.requires_grad and torch.is_grad_enabled():
        if row.saves == "mask":
            output = _MASKED.operator(input, row.index, a, b)[0]
        else:
            at = input.clone() if inplace and row.saves == "input" else input
            output = _SAVING.operator(at, row.index, a, b)
        return input.copy_(output) if inplace else output
    # Exported graphs have no writes, and an operator that writes cannot be taken apart there.
    if inplace and not torch.compiler.is_exporting():
        _IN_PLACE.operator(input, row.index, a, b)
        return input
    output = _SAVING.operator(input, row.index, a, b)
    return input.copy_(output) if inplace else output


def _is_double(input: Any) -> bool:
    return isinstance(input, Tensor) and input.dtype is torch.float64


def takes(row: Activation, input: Any, *numbers: Any) -> bool:
    """Whether the kernel works with these parameters; torch has its error, or an answer, if not."""
    needs_grad = torch.is_grad_enabled() and isinstance(input, Tensor) and input.requires_grad
    requirements = (row.requirement, row.gradient_requirement if needs_grad else None)
    try:
        values = numbers[: len(row.parameters)]
        return all(r is None or r.holds(*values) for r in requirements)
    except (TypeError, ValueError):  # no numbers
        return False


def may_overwrite(input: Tensor) -> bool:
    """Whether an activation may write over `input`; torch does it, or has its error, where not."""
    # The mask goes by memory order: the result must lie there without gaps.
    if not (input.is_contiguous() or _is_dense(input)):
        return False
    if input.is_inference() and not torch.is_inference_mode_enabled():
        return False
    if input.requires_grad and torch.is_grad_enabled():
        return not (input.is_leaf or input._is_view())
    return True


def _is_dense(input: Tensor) -> bool:
    return torch._prims_common.is_non_overlapping_and_dense_or_false(input)


# --- functions


def _choice(activation: str, name: str, choices: tuple[str, ...], value: Any) -> float | None:
    """The kernel's number for a string; None, which no kernel takes, where torch has an error."""
    return float(choices.index(value)) if isinstance(value, str) and value in choices else None


def _signature(row: Activation, function: Any) -> inspect.Signature:
    """torch's own; the row's where torch's is compiled and does not tell."""
    try:
        own = inspect.signature(function)
    except ValueError:
        plain = inspect.Parameter("input", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        own = inspect.Signature([plain, *(p.argument for p in row.parameters)])
    typed = [
        p.replace(annotation=Tensor if p.name == "input" else p.annotation)
        for p in own.parameters.values()
    ]
    return own.replace(parameters=typed, return_annotation=Tensor)


_DOCUMENTATION = """{summary}

Args:
    input: Any shape, in any memory format.{parameters}

Returns:
    A tensor like ``input``.
"""


def _function(row: Activation, name: str, theirs: Any, signature: inspect.Signature) -> Any:
    """The twin of `theirs`, a function of torch's with this signature."""
    arguments = list(signature.parameters)
    inplace = "inplace" if "inplace" in arguments else str(name.endswith("_"))
    passed = ", ".join(
        p.name if p.name == "input" else f"{p.name}={p.name}" for p in signature.parameters.values()
    )
    function = define(
        name,
        str(signature),
        f"theirs({passed}) if (output := forward(row, input, {inplace}, {row.numbers('choice')}))"
        " is None else output",
        globals(),
        row=row,
        forward=_forward,
        choice=_choice,
        theirs=theirs,
    )
    function.__module__ = "dlkernels.torch.functional"  # which is where it is looked for
    parameters = "".join(f"\n    {p.name}: {p.description}" for p in row.parameters)
    if inplace == "inplace":
        parameters += "\n    inplace: Write the result over ``input``."
    function.__doc__ = _DOCUMENTATION.format(
        summary=f"`{row.name}` over its input." if name.endswith("_") else row.summary,
        parameters=parameters,
    )
    return function


def _explain(row: Activation, writes: bool, arguments: dict[str, Any]) -> str:
    """`Twin.explain`, where `writes` is whether the function is an in-place form."""
    input = arguments["input"]
    way = reason(input)
    if way.startswith(TORCH):
        return way
    values = [arguments.get(p.name, p.default) for p in row.parameters]
    if row.restricted and not takes(row, input, *values):
        return f"{TORCH}: parameters that the kernel does not take"
    writes = writes or bool(arguments.get("inplace"))
    if writes and way.startswith(KERNEL) and not may_overwrite(input):
        return f"{TORCH}: in place on a view, a leaf or a tensor with gaps in memory"
    return way


def _twins(row: Activation) -> list[Twin]:
    """The twin, and where torch has one its in-place form."""
    theirs = getattr(F, row.name)
    signature = _signature(row, theirs)
    function = _function(row, row.name, theirs, signature)
    modules = (module(getattr(torch.nn, row.module), function),)
    twins = [Twin(function, partial(_explain, row, False), modules)]
    name = f"{row.name}_"
    theirs = getattr(F, name, None) or getattr(torch, name, None)
    if theirs is not None:
        kept = [p for p in signature.parameters.values() if p.name != "inplace"]
        function = _function(row, name, theirs, signature.replace(parameters=kept))
        twins.append(Twin(function, partial(_explain, row, True)))
    return twins


# --- activations of several operands: in torch's operations


def _glu(input: Tensor, dim: int, silu: bool) -> Tensor:
    if not silu:
        output: Tensor = F.glu(input, dim)
        return output
    return _swiglu_in_torch(*input.chunk(2, dim))


def _swiglu_in_torch(gate: Tensor, up: Tensor) -> Tensor:
    output: Tensor = F.silu(gate) * up
    return output


def _maxout_in_torch(input: Tensor, pieces: int, dim: int) -> Tensor:
    parts = input.unflatten(dim, (-1, pieces))
    output: Tensor = parts.max(dim + 1 if dim >= 0 else dim).values
    return output


def _maxout_scatter(grad_output: Tensor, index: Tensor, pieces: int, dim: int) -> Tensor:
    """grad_output in the winners' places, from their packed numbers."""
    dim = dim % grad_output.dim()
    rows, cols = _maxout_rows(grad_output.shape, dim)
    bits = (pieces - 1).bit_length()
    planes = index.reshape(rows, -1, bits, 2, 1) if bits else index.new_zeros(rows, 0, 0, 2, 1)
    device = index.device
    places = torch.arange(8, dtype=torch.uint8, device=device)
    ones = planes.bitwise_right_shift(places).bitwise_and(1)
    values = 2 ** torch.arange(bits, dtype=torch.int64, device=device).view(-1, 1)
    winners = (ones.flatten(3).long() * values).sum(2).flatten(1)[:, :cols]
    if not bits:
        winners = torch.zeros(rows, cols, dtype=torch.int64, device=device)
    winners = winners.reshape(grad_output.shape).unsqueeze(dim + 1)
    numbers = torch.arange(pieces, dtype=torch.int64, device=device).view(
        -1, *[1] * (grad_output.dim() - dim - 1)
    )
    shape = [
        *grad_output.shape[:dim],
        grad_output.shape[dim] * pieces,
        *grad_output.shape[dim + 1 :],
    ]
    return torch.where(winners == numbers, grad_output.unsqueeze(dim + 1), 0.0).reshape(shape)


def _packed_winners(winners: Tensor, pieces: int, dim: int) -> Tensor:
    """The winners' numbers as the kernel packs them: of every row one plane after the other for 16
    elements at a time, a bit for each."""
    rows, cols = _maxout_rows(winners.shape, dim)
    bits = (pieces - 1).bit_length()
    padded = F.pad(winners.reshape(rows, cols), (0, -cols % 16)).to(torch.uint8)
    places = torch.arange(max(bits, 1), dtype=torch.uint8, device=winners.device)[:bits]
    planes = padded.view(rows, -1, 1, 16).bitwise_right_shift(places.view(-1, 1)).bitwise_and(1)
    return as_bytes(planes)


def _maxout_rows(shape: Any, dim: int) -> tuple[Any, Any]:
    """The result as rows whose numbers the kernel packs together."""
    outer, inner = math.prod(shape[: dim + 1]), math.prod(shape[dim + 1 :])
    return (1, outer) if inner == 1 else (outer, inner)


# --- their operations


def _half_shape(input: Tensor, dim: int) -> list[Any]:
    shape = list(input.shape)
    shape[dim] = shape[dim] // 2
    return shape


def _have_one_dtype(first: Tensor, second: Tensor) -> bool:
    return first.dtype is second.dtype


def _row_major(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in tensors)


_prelu = Operation(
    "prelu",
    "(Tensor input, Tensor weight) -> Tensor",
    _core.prelu,
    _like_first,
    F.prelu,
    backward=Operation(
        "prelu_backward",
        "(Tensor grad_output, Tensor input, Tensor weight) -> (Tensor, Tensor)",
        _core.prelu_backward,
        lambda grad_output, input, weight: (layout.empty_like(input), *_row_major(weight)),
        differentiated(F.prelu, 2),
    ),
    fits=_have_one_dtype,
).call

_gated = Operation(
    "gated",
    "(Tensor input, int dim, bool silu) -> Tensor",
    _core.gated_halves,
    lambda input, dim, silu: input.new_empty(_half_shape(input, dim)),
    _glu,
    backward=Operation(
        "gated_backward",
        "(Tensor grad_output, Tensor input, int dim, bool silu) -> Tensor",
        _core.gated_halves_backward,
        lambda grad_output, input, *_: input.new_empty(input.shape),
        differentiated(_glu),
    ),
).call

_swiglu = Operation(
    "swiglu",
    "(Tensor gate, Tensor up) -> Tensor",
    _core.swiglu,
    lambda gate, up: gate.new_empty(gate.shape),
    _swiglu_in_torch,
    backward=Operation(
        "swiglu_backward",
        "(Tensor grad_output, Tensor gate, Tensor up) -> (Tensor, Tensor)",
        _core.swiglu_backward,
        lambda grad_output, gate, up: _row_major(gate, up),
        differentiated(_swiglu_in_torch, 2),
    ),
    fits=_have_one_dtype,
).call


def _winners_in_torch(input: Tensor, pieces: int, dim: int) -> tuple[Tensor, Tensor]:
    dim = dim % input.dim()
    output, winners = input.unflatten(dim, (-1, pieces)).max(dim + 1)
    return output, _packed_winners(winners, pieces, dim)


def _maxout_fake(input: Tensor, pieces: int, dim: int) -> tuple[Tensor, Tensor]:
    dim = dim % input.dim()
    shape = list(input.shape)
    shape[dim] = shape[dim] // pieces
    rows, cols = _maxout_rows(shape, dim)
    index_bytes = rows * byte_count(cols) * (pieces - 1).bit_length()
    return input.new_empty(shape), input.new_empty([index_bytes], dtype=torch.uint8)


def _maxout_backward_fake(grad_output: Tensor, index: Tensor, pieces: int, dim: int) -> Tensor:
    shape = list(grad_output.shape)
    shape[dim] = shape[dim] * pieces
    return grad_output.new_empty(shape)


#: Backward reads the winners' numbers.
_maxout = Operation(
    "maxout",
    "(Tensor input, int pieces, int dim) -> (Tensor, Tensor)",
    _core.maxout,
    _maxout_fake,
    _winners_in_torch,
    constants=(True,),
    eager_constants=(False,),
    saves="others",
    backward=Operation(
        "maxout_backward",
        "(Tensor grad_output, Tensor index, int pieces, int dim) -> Tensor",
        _core.maxout_backward,
        _maxout_backward_fake,
        _maxout_scatter,
    ),
    fits=lambda input, pieces, dim: 1 <= pieces <= 256 and input.shape[dim] % pieces == 0,
).call

# --- their functions

_autocasting = torch.is_autocast_enabled
_SINGLE = (torch.float32, torch.bfloat16, torch.float16)


def _autocast(tensor: Any) -> Any:
    """What CPU autocast makes of an argument of a function that it runs in half precision."""
    if isinstance(tensor, Tensor) and tensor.is_cpu and tensor.dtype in _SINGLE:
        return tensor.to(torch.get_autocast_dtype("cpu"))
    return tensor


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """`torch.nn.functional.prelu`; the gradient of ``weight`` in the same pass as the input's.

    Args:
        input: Any shape, in any memory format; its channels are dimension 1.
        weight: One slope for all, or one per channel; of the input's dtype.

    Returns:
        A tensor like ``input``; under CPU autocast of autocast's dtype.

    Raises:
        RuntimeError: As torch.
    """
    if _autocasting("cpu"):
        input, weight = _autocast(input), _autocast(weight)
    output = _prelu(input, weight) if isinstance(weight, Tensor) else None
    return F.prelu(input, weight) if output is None else output


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """`torch.nn.functional.glu`: ``a * sigmoid(b)`` for the halves of ``input`` along ``dim``.

    Args:
        input: At least one dimension, of even length along ``dim``.
        dim: The dimension that is cut in half.

    Returns:
        A contiguous tensor, half as long along ``dim``.

    Raises:
        RuntimeError: As torch.
    """
    output = _gated(input, dim, False) if _has_even(input, dim) else None
    return F.glu(input, dim) if output is None else output


def swiglu(gate: Tensor, up: Tensor | None = None, dim: int = -1) -> Tensor:
    """``silu(gate) * up`` in one pass, and both gradients in one (torch has no name for it).

    Args:
        gate: Any shape; or with ``up`` left out, gate and up side by side along ``dim``: one matrix
            product for both, and one gradient for it, without the copy that `torch.chunk` costs.
        up: Of gate's shape and dtype.
        dim: The dimension that is cut in half where ``up`` is left out.

    Returns:
        A contiguous tensor of the shape of ``up``.

    Raises:
        RuntimeError: The length along ``dim`` is odd, or ``gate`` and ``up`` do not go together.

    Example:
        >>> import torch
        >>> swiglu(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 2.0]))
        tensor([0.0000, 1.4621])
    """
    if up is None:
        if not _has_even(gate, dim):
            return _odd_halves(gate, dim)
        output = _gated(gate, dim, True)
        if output is None:
            check_tensors("swiglu", gate=gate)
            return _glu(gate, dim, True)
        return output  # type: ignore[no-any-return]
    output = _swiglu(gate, up) if _are_alike(gate, up) else None
    if output is not None:
        return output  # type: ignore[no-any-return]
    check_tensors("swiglu", gate=gate, up=up)
    return _swiglu_in_torch(gate, up)


def _odd_halves(input: Tensor, dim: int) -> Tensor:
    check_tensors("swiglu", gate=input)
    dim = integer(dim, "swiglu", "dim")
    raise RuntimeError(
        f"swiglu: Halving dimension must be even, but dimension {dim % input.dim()} is size "
        f"{input.shape[dim]}"
    )


def _has_even(input: Any, dim: Any) -> bool:
    """Whether `input` has two halves along `dim`; torch raises its own error where not."""
    try:
        return bool(input.shape[dim] % 2 == 0)
    except (AttributeError, IndexError, TypeError):
        return False


def _are_alike(gate: Any, up: Any) -> bool:
    """Whether no broadcasting or promotion is asked for."""
    return isinstance(gate, Tensor) and isinstance(up, Tensor) and gate.shape == up.shape


def maxout(input: Tensor, pieces: int, dim: int = 1) -> Tensor:
    """The largest of every ``pieces`` neighbours along a dimension (Goodfellow et al., 2013).

    For backward, ``ceil(log2(pieces))`` bits an element are kept. Exact; of equal neighbours the
    first gets the gradient, and a NaN is the largest.

    Args:
        input: At least one dimension; its length along ``dim`` a multiple of ``pieces``.
        pieces: How many neighbours compete, 1 to 256.
        dim: Their dimension.

    Returns:
        A contiguous tensor, ``pieces`` times shorter along ``dim``.

    Raises:
        IndexError: There is no such dimension.
        RuntimeError: ``pieces`` does not divide the length.

    Example:
        >>> import torch
        >>> maxout(torch.tensor([[1.0, 5.0, -2.0, -3.0]]), 2)
        tensor([[ 5., -2.]])
    """
    output: Tensor | None = _maxout(input, pieces, dim)
    if output is not None:
        return output
    check_tensors("maxout", input=input)
    return _maxout_in_torch(
        input, integer(pieces, "maxout", "pieces"), integer(dim, "maxout", "dim")
    )


# --- modules


class PReLU(torch.nn.PReLU):
    """`torch.nn.PReLU` on `functional.prelu`."""

    def forward(self, input: Tensor) -> Tensor:
        """`functional.prelu` of `input`."""
        if type(input) is Proxy:
            return as_leaf(self, input)
        return prelu(input, self.weight)


class SwiGLU(torch.nn.Module):
    """`functional.swiglu` as a module.

    Args:
        dim: The dimension that is cut in half where `up` is left out.
    """

    def __init__(self, dim: int = -1) -> None:
        """See the class."""
        super().__init__()
        self.dim = dim

    def forward(self, gate: Tensor, up: Tensor | None = None) -> Tensor:
        """`functional.swiglu` of `gate` and `up`."""
        if type(gate) is Proxy:
            return as_leaf(self, gate, up)
        return swiglu(gate, up, self.dim)

    def extra_repr(self) -> str:
        """The argument."""
        return f"dim={self.dim}"


class Maxout(torch.nn.Module):
    """`functional.maxout` as a module.

    Args:
        pieces: How many neighbours compete.
        dim: Their dimension.
    """

    def __init__(self, pieces: int, dim: int = 1) -> None:
        """See the class."""
        super().__init__()
        self.pieces, self.dim = pieces, dim

    def forward(self, input: Tensor) -> Tensor:
        """`functional.maxout` of `input`."""
        if type(input) is Proxy:
            return as_leaf(self, input)
        return maxout(input, self.pieces, self.dim)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"pieces={self.pieces}, dim={self.dim}"


#: Every twin of the family.
TWINS = (
    *(twin for row in ACTIVATIONS.values() for twin in _twins(row)),
    Twin(prelu, operands("input", "weight"), (PReLU,)),
    Twin(glu, operands("input"), (module(torch.nn.GLU, glu),)),
    Twin(swiglu, operands("gate", "up"), (SwiGLU,)),
    Twin(maxout, operands("input"), (Maxout,)),
)
