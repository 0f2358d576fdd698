"""The activations' twins, made from the rows of `dlkernels.activations`: functions for `functional`
(and their in-place forms), modules for `nn`, and what autograd needs of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import increment_version

from dlkernels import _core
from dlkernels.activations import ACTIVATIONS, Activation, define
from dlkernels.torch import _composite as composite
from dlkernels.torch._eager import Function, is_first_order
from dlkernels.torch._layout import with_strides
from dlkernels.torch._route import (
    KERNEL,
    TORCH,
    check_in_place,
    in_transform,
    is_batched,
    is_plain,
    route,
)
from dlkernels.torch._tools import Proxy, as_leaf

__all__ = ["FUNCTIONS", "MODULES"]

#: A kernel's complaints about its arguments, made before anything is written: the call then goes to
#: torch, which has an error of its own, or an answer.
_REFUSED = (TypeError, ValueError)


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
        return _masked_grad(grad_output, mask, ctx.stride, ctx.arguments), None, None


def _masked_grad(grad_output: Tensor, mask: Tensor, stride: Any, arguments: Any) -> Tensor:
    """grad_output through the mask of an output with these strides."""
    if is_first_order(grad_output):
        grad_output = with_strides(grad_output, stride)
        index, a, b = arguments
        grad: Tensor = _core.activation_backward(index, grad_output, None, mask, a, b)
    elif is_batched(grad_output):
        grad = composite.masked_backward(grad_output, mask, stride, *arguments)
    else:
        grad = _MaskedBackward.call(with_strides(grad_output, stride), mask, arguments)
    return grad


class _MaskedBackward(Function):
    """Linear in grad_output, so its own backward is itself."""

    @staticmethod
    def forward(ctx: Any, grad_output: Tensor, mask: Tensor, arguments: Any) -> Tensor:
        index, a, b = ctx.arguments = arguments
        ctx.stride = grad_output.stride()
        ctx.save_for_backward(mask)
        grad: Tensor = _core.activation_backward(index, grad_output, None, mask, a, b)
        return grad

    @staticmethod
    def backward(ctx: Any, grad_grad: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        return _masked_grad(grad_grad, mask, ctx.stride, ctx.arguments), None, None


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
            grad = composite.activation_backward(grad_output, saved, index, a, b)
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
        except _REFUSED:
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
            output = torch.ops.dlkernels.activation_masked(input, row.index, a, b)[0]
        else:
            at = input.clone() if inplace and row.saves == "input" else input
            output = torch.ops.dlkernels.activation(at, row.index, a, b)
        return input.copy_(output) if inplace else output
    # Exported graphs have no writes, and an operator that writes cannot be taken apart there.
    if inplace and not torch.compiler.is_exporting():
        torch.ops.dlkernels.activation_(input, row.index, a, b)
        return input
    output = torch.ops.dlkernels.activation(input, row.index, a, b)
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


def is_in_place(function: Any, arguments: dict[str, Any]) -> bool:
    """Whether a twin called with these arguments writes over its input."""
    return function.__name__.endswith("_") or bool(arguments.get("inplace"))


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


def _functions(row: Activation) -> dict[str, Callable[..., Tensor]]:
    """The twin, and where torch has one its in-place form."""
    theirs = getattr(F, row.name)
    signature = _signature(row, theirs)
    functions = {row.name: _function(row, row.name, theirs, signature)}
    in_place = f"{row.name}_"
    theirs = getattr(F, in_place, None) or getattr(torch, in_place, None)
    if theirs is not None:
        kept = [p for p in signature.parameters.values() if p.name != "inplace"]
        signature = signature.replace(parameters=kept)
        functions[in_place] = _function(row, in_place, theirs, signature)
    return functions


_ROW_OF = {function: row for row in ACTIVATIONS.values() for function in _functions(row).values()}
#: The twins by their names in `dlkernels.torch.functional`.
FUNCTIONS: dict[str, Callable[..., Tensor]] = {function.__name__: function for function in _ROW_OF}


def is_taken(function: Any, arguments: dict[str, Any]) -> bool:
    """Whether the kernel works with the parameters of a twin's call."""
    row = _ROW_OF[function]
    values = [arguments.get(p.name, p.default) for p in row.parameters]
    return not row.restricted or takes(row, arguments["input"], *values)


# --- modules


def _module(row: Activation) -> type[torch.nn.Module]:
    """A subclass of torch's module whose forward calls our function."""
    theirs = getattr(torch.nn, row.module)
    function = FUNCTIONS[row.name]
    names = [name for name in inspect.signature(function).parameters if name != "input"]
    passed = "".join(f", {name}=self.{name}" for name in names)
    forward = define(
        "forward",
        "(self, input: Tensor) -> Tensor",
        f"as_leaf(self, input) if type(input) is Proxy else function(input{passed})",
        globals(),
        function=function,
        Proxy=Proxy,
        as_leaf=as_leaf,
    )
    forward.__qualname__ = f"{row.module}.forward"
    forward.__doc__ = f"`functional.{row.name}` of `input`."
    members = {
        "forward": forward,
        "__doc__": f"`torch.nn.{row.module}` on `functional.{row.name}`.",
        "__module__": "dlkernels.torch.nn",
    }
    return type(row.module, (theirs,), members)


#: The modules by their names in `dlkernels.torch.nn`.
MODULES = {row.module: _module(row) for row in ACTIVATIONS.values()}
