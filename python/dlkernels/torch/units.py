"""The twins of `dlkernels.units`: prelu, glu, swiglu and maxout, their modules and operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkernels import _core
from dlkernels._arguments import integer
from dlkernels.torch import _composite as composite
from dlkernels.torch import _layout as layout
from dlkernels.torch._eager import Function, is_first_order
from dlkernels.torch._layout import laid_out
from dlkernels.torch._route import KERNEL, OPERATOR, check_tensors, is_plain, route
from dlkernels.torch._tools import Proxy, as_leaf
from dlkernels.torch.ops import _decomposes

__all__ = ["FUNCTIONS", "MODULES", "operands"]

#: A kernel's complaints about its arguments, made before anything is written: the call then goes to
#: torch, which has an error of its own, or an answer.
_REFUSED = (TypeError, ValueError, IndexError)
_autocasting = torch.is_autocast_enabled
_SINGLE = (torch.float32, torch.bfloat16, torch.float16)


# --- the same in torch's operations: other devices, second derivatives


def _glu(input: Tensor, dim: int, silu: bool) -> Tensor:
    if not silu:
        output: Tensor = F.glu(input, dim)
        return output
    return _swiglu(*input.chunk(2, dim))


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    output: Tensor = F.silu(gate) * up
    return output


def _maxout(input: Tensor, pieces: int, dim: int) -> Tensor:
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
    return composite.as_bytes(planes)


def _maxout_rows(shape: Any, dim: int) -> tuple[Any, Any]:
    """The result as the kernel walks it: rows whose numbers are packed together."""
    outer, inner = math.prod(shape[: dim + 1]), math.prod(shape[dim + 1 :])
    return (1, outer) if inner == 1 else (outer, inner)


# --- units whose backward reads their inputs


@dataclass(frozen=True)
class _Unit:
    """One operator pair.

    Attributes:
        name: The operator's name; its gradient's is ``{name}_backward``.
        tensors: The names of its tensors.
        parameters: The rest of its schema, each with a comma before it.
        forward: The kernel.
        backward: The kernel of the gradients, one for each tensor, in a tuple.
        composite: The same as forward in torch's operations.
        fake: What the result looks like, from the arguments.
    """

    name: str
    tensors: tuple[str, ...]
    parameters: str
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, ...]]
    composite: Callable[..., Tensor]
    fake: Callable[..., Tensor]

    def gradients(self, grad_output: Tensor, tensors: Any, parameters: Any) -> tuple[Any, ...]:
        """Of every tensor, in torch's operations: differentiable again."""
        return composite.differentiate_all(
            lambda *tensors: self.composite(*tensors, *parameters), tensors, grad_output
        )


def _half_shape(input: Tensor, dim: int) -> list[Any]:
    shape = list(input.shape)
    shape[dim] = shape[dim] // 2
    return shape


_UNITS = {
    unit.name: unit
    for unit in (
        _Unit(
            "prelu",
            ("input", "weight"),
            "",
            _core.prelu,
            _core.prelu_backward,
            F.prelu,
            lambda input, weight: layout.empty_like(input),
        ),
        _Unit(
            "gated",
            ("input",),
            ", int dim, bool silu",
            _core.gated_halves,
            lambda *args: (_core.gated_halves_backward(*args),),
            _glu,
            lambda input, dim, silu: input.new_empty(_half_shape(input, dim)),
        ),
        _Unit(
            "swiglu",
            ("gate", "up"),
            "",
            _core.swiglu,
            _core.swiglu_backward,
            _swiglu,
            lambda gate, up: gate.new_empty(gate.shape),
        ),
    )
}


class _Differentiable(Function):
    """A unit called on plain tensors."""

    @staticmethod
    def forward(ctx: Any, unit: _Unit, parameters: Any, *tensors: Tensor) -> Tensor:
        ctx.unit, ctx.parameters = unit, parameters
        ctx.save_for_backward(*tensors)
        return unit.forward(*tensors, *parameters)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        unit, parameters, tensors = ctx.unit, ctx.parameters, ctx.saved_tensors
        if is_first_order(grad_output):
            return None, None, *unit.backward(grad_output.resolve_neg(), *tensors, *parameters)
        return None, None, *unit.gradients(grad_output, tensors, parameters)


def _call(name: str, tensors: tuple[Tensor, ...], *parameters: Any) -> Any:
    """The unit's result, whichever way it goes; None where that is torch's."""
    way = KERNEL if is_plain(*tensors) else route(*tensors)
    if way == KERNEL:
        unit = _UNITS[name]
        try:
            if torch.is_grad_enabled():
                for tensor in tensors:
                    if tensor.requires_grad:
                        return _Differentiable.call(unit, parameters, *tensors)
            return unit.forward(*tensors, *parameters)
        except _REFUSED:
            return None
    if way == OPERATOR and all(t.dtype is tensors[0].dtype for t in tensors):
        return getattr(torch.ops.dlkernels, name)(*tensors, *parameters)
    return None


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
    output = _call("prelu", (input, weight)) if isinstance(weight, Tensor) else None
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
    output = _call("gated", (input,), dim, False) if _has_even(input, dim) else None
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
        output = _call("gated", (gate,), dim, True)
        return _glu(gate, dim, True) if output is None else output
    output = _call("swiglu", (gate, up)) if _are_alike(gate, up) else None
    if output is not None:
        return output  # type: ignore[no-any-return]
    check_tensors("swiglu", gate=gate, up=up)
    return _swiglu(gate, up)


def _odd_halves(input: Tensor, dim: int) -> Tensor:
    check_tensors("swiglu", gate=input)
    dim = integer(dim, "swiglu", "dim")
    raise RuntimeError(
        f"swiglu: Halving dimension must be even, but dimension {dim % input.dim()} is size "
        f"{input.shape[dim]}"
    )


def _has_even(input: Any, dim: Any) -> bool:
    """Whether `input` has two halves along `dim`; torch has words for it where not."""
    try:
        return bool(input.shape[dim] % 2 == 0)
    except (AttributeError, IndexError, TypeError):
        return False


def _are_alike(gate: Any, up: Any) -> bool:
    """Whether no broadcasting or promotion is asked for."""
    return isinstance(gate, Tensor) and isinstance(up, Tensor) and gate.shape == up.shape


# --- maxout, whose backward reads the winners' numbers


class _Maxout(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, pieces: int, dim: int) -> Tensor:
        ctx.arguments = pieces, dim
        output: Tensor
        output, index = _core.maxout(input, pieces, dim, True)
        ctx.save_for_backward(index)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        if is_first_order(grad_output):
            grad = _core.maxout_backward(grad_output.resolve_neg(), index, *ctx.arguments)
        else:
            grad = _maxout_scatter(grad_output, index, *ctx.arguments)
        return grad, None, None


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
    way = KERNEL if is_plain(input) else route(input)
    if way == KERNEL:
        try:
            if torch.is_grad_enabled() and input.requires_grad:
                output: Tensor = _Maxout.call(input, pieces, dim)
            else:
                output = _core.maxout(input, pieces, dim, False)
            return output
        except _REFUSED:
            pass
    if way == OPERATOR and 1 <= pieces <= 256 and input.shape[dim] % pieces == 0:
        output = torch.ops.dlkernels.maxout(input, pieces, dim)[0]
        return output
    check_tensors("maxout", input=input)
    return _maxout(input, integer(pieces, "maxout", "pieces"), integer(dim, "maxout", "dim"))


# --- operators

_LIBRARY = torch.library.Library("dlkernels", "FRAGMENT")


def _register(unit: _Unit) -> None:
    """Defines, implements, fakes and differentiates a unit and its gradient."""
    name, backward_name = unit.name, f"{unit.name}_backward"
    count = len(unit.tensors)
    tensors = ", ".join(f"Tensor {tensor}" for tensor in unit.tensors)
    results = "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"
    _LIBRARY.define(f"{name}({tensors}{unit.parameters}) -> Tensor")
    _LIBRARY.define(f"{backward_name}(Tensor grad_output, {tensors}{unit.parameters}) -> {results}")
    _LIBRARY.impl(name, unit.forward, "CPU")

    def unpacked(results: Any) -> Any:
        return results[0] if count == 1 else results

    def as_tuple(results: Any) -> Any:
        return (results,) if count == 1 else results

    def backward(*args: Any) -> Any:
        return unpacked(unit.backward(*args))

    _LIBRARY.impl(backward_name, backward, "CPU")

    def fake_backward(grad_output: Tensor, *args: Any) -> Any:
        like = layout.empty_like if name == "prelu" else lambda x: x.new_empty(x.shape)
        first, *others = args[:count]
        return unpacked((like(first), *(x.new_empty(x.shape) for x in others)))

    torch.library.register_fake(f"dlkernels::{name}", unit.fake, lib=_LIBRARY)
    torch.library.register_fake(f"dlkernels::{backward_name}", fake_backward, lib=_LIBRARY)

    def save(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.parameters = inputs[count:]

    def differentiate(ctx: Any, grad_output: Tensor) -> Any:
        operator = getattr(torch.ops.dlkernels, backward_name)
        gradients = as_tuple(operator(grad_output, *ctx.saved_tensors, *ctx.parameters))
        return *gradients, *[None] * len(ctx.parameters)

    def save_backward(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[: 1 + count])
        ctx.parameters = inputs[1 + count :]

    def differentiate_backward(ctx: Any, *grad_grads: Any) -> Any:
        def weighted(grad_output: Tensor, *tensors: Tensor) -> Tensor:
            gradients = unit.gradients(grad_output, tensors, ctx.parameters)
            pairs = zip(gradients, grad_grads, strict=True)
            total: Tensor = sum((g * gg).sum() for g, gg in pairs if gg is not None)
            return total

        one = ctx.saved_tensors[0].new_ones(())
        gradients = composite.differentiate_all(weighted, ctx.saved_tensors, one)
        return *gradients, *[None] * len(ctx.parameters)

    def decompose(*args: Any) -> Tensor:
        output = unit.composite(*args)
        return laid_out(output, unit.fake(*args).stride())

    def decompose_backward(grad_output: Tensor, *args: Any) -> Any:
        tensors = args[:count]
        found = unit.gradients(grad_output, tensors, args[count:])
        fakes = as_tuple(fake_backward(grad_output, *args))
        pairs = zip(found, fakes, strict=True)
        return unpacked(tuple(laid_out(grad, like.stride()) for grad, like in pairs))

    _decomposes(name)(decompose)
    _decomposes(backward_name)(decompose_backward)

    for target, formula, setup in (
        (name, differentiate, save),
        (backward_name, differentiate_backward, save_backward),
    ):
        torch.library.register_autograd(
            f"dlkernels::{target}", formula, setup_context=setup, lib=_LIBRARY
        )


for _unit in _UNITS.values():
    _register(_unit)

_LIBRARY.define("maxout(Tensor input, int pieces, int dim) -> (Tensor, Tensor)")
_LIBRARY.define("maxout_backward(Tensor grad_output, Tensor index, int pieces, int dim) -> Tensor")


def _maxout_impl(input: Tensor, pieces: int, dim: int) -> tuple[Tensor, Tensor]:
    output, index = _core.maxout(input, pieces, dim, True)
    return output, index


_LIBRARY.impl("maxout", _maxout_impl, "CPU")
_LIBRARY.impl("maxout_backward", _core.maxout_backward, "CPU")


@torch.library.register_fake("dlkernels::maxout", lib=_LIBRARY)
def _(input: Tensor, pieces: int, dim: int) -> Any:
    dim = dim % input.dim()
    shape = list(input.shape)
    shape[dim] = shape[dim] // pieces
    rows, cols = _maxout_rows(shape, dim)
    index_bytes = rows * ((cols + 15) // 16) * 2 * (pieces - 1).bit_length()
    return input.new_empty(shape), input.new_empty([index_bytes], dtype=torch.uint8)


@torch.library.register_fake("dlkernels::maxout_backward", lib=_LIBRARY)
def _(grad_output: Tensor, index: Tensor, pieces: int, dim: int) -> Any:
    shape = list(grad_output.shape)
    shape[dim] = shape[dim] * pieces
    return grad_output.new_empty(shape)


@_decomposes("maxout")
def _(input: Tensor, pieces: int, dim: int) -> tuple[Tensor, Tensor]:
    dim = dim % input.dim()
    output, winners = input.unflatten(dim, (-1, pieces)).max(dim + 1)
    return output.contiguous(), _packed_winners(winners, pieces, dim)


@_decomposes("maxout_backward")
def _(grad_output: Tensor, index: Tensor, pieces: int, dim: int) -> Tensor:
    return _maxout_scatter(grad_output, index, pieces, dim).contiguous()


def _save_maxout(ctx: Any, inputs: Any, output: Any) -> None:
    _, *ctx.arguments = inputs
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate_maxout(ctx: Any, grad_output: Tensor, _grad_index: Any) -> Any:
    (index,) = ctx.saved_tensors
    grad = torch.ops.dlkernels.maxout_backward(grad_output, index, *ctx.arguments)
    return grad, None, None


def _save_maxout_backward(ctx: Any, inputs: Any, output: Any) -> None:
    _, index, *ctx.arguments = inputs
    ctx.save_for_backward(index)


def _differentiate_maxout_backward(ctx: Any, grad_grad: Tensor) -> Any:
    """Linear in grad_output: the winners' places of the gradient's gradient."""
    (index,) = ctx.saved_tensors
    pieces, dim = ctx.arguments
    shape = list(grad_grad.shape)
    shape[dim] = shape[dim] // pieces
    ones = _maxout_scatter(grad_grad.new_ones(shape), index, pieces, dim)
    dim = dim % grad_grad.dim()
    return (ones * grad_grad).unflatten(dim, (-1, pieces)).sum(dim + 1), None, None, None


torch.library.register_autograd(
    "dlkernels::maxout", _differentiate_maxout, setup_context=_save_maxout, lib=_LIBRARY
)
torch.library.register_autograd(
    "dlkernels::maxout_backward",
    _differentiate_maxout_backward,
    setup_context=_save_maxout_backward,
    lib=_LIBRARY,
)


# --- modules


class PReLU(torch.nn.PReLU):
    """`torch.nn.PReLU` on `functional.prelu`."""

    def forward(self, input: Tensor) -> Tensor:
        """`functional.prelu` of `input`."""
        if type(input) is Proxy:
            return as_leaf(self, input)
        return prelu(input, self.weight)


class GLU(torch.nn.GLU):
    """`torch.nn.GLU` on `functional.glu`."""

    def forward(self, input: Tensor) -> Tensor:
        """`functional.glu` of `input`."""
        if type(input) is Proxy:
            return as_leaf(self, input)
        return glu(input, self.dim)


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


#: The twins by their names in `dlkernels.torch.functional`.
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function for function in (glu, maxout, prelu, swiglu)
}
#: The modules by their names in `dlkernels.torch.nn`.
MODULES: dict[str, type[torch.nn.Module]] = {
    module.__name__: module for module in (GLU, Maxout, PReLU, SwiGLU)
}
for _made in (*FUNCTIONS.values(), *MODULES.values()):
    _made.__module__ = (
        "dlkernels.torch.nn" if isinstance(_made, type) else "dlkernels.torch.functional"
    )


def operands(arguments: dict[str, Any]) -> list[Any]:
    """The tensors among a twin's arguments, the input first."""
    names = ("input", "gate", "weight", "up")
    return [arguments[name] for name in names if arguments.get(name) is not None]
