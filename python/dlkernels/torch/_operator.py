"""The record that an operation of the torch front is, and what is made of it.

An `Operation` is one operator of ``torch.ops.dlkernels``, which torch.compile, export, FakeTensor,
modes and tensor subclasses see, and the short way that an eager call on plain tensors takes to the
same kernel (an operator with an autograd formula in Python costs 45 µs, a direct call 4). A `Twin`
is a public function, or module, in the place of torch's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._decomp import register_decomposition
from torch.autograd import forward_ad as _forward_ad

from dlkernels import _core
from dlkernels._define import define
from dlkernels.torch._differentiate import differentiate_chosen
from dlkernels.torch._eager import Function, loss_gradient
from dlkernels.torch._layout import laid_out, with_strides
from dlkernels.torch._route import KERNEL, OPERATOR, TORCH, is_batched, reason, route
from dlkernels.torch._tools import Proxy, as_leaf

__all__ = ["LIBRARY", "REFUSED", "Operation", "Twin", "decompositions", "module", "operands"]

LIBRARY = torch.library.Library("dlkernels", "DEF")

#: A kernel's complaints about its arguments, made before anything is written: the call then goes to
#: torch, which raises its own error, or has an answer.
REFUSED = (TypeError, ValueError, IndexError)

_is_grad_enabled, _is_plain = torch.is_grad_enabled, _core.is_plain
_is_dynamo_compiling = torch.compiler.is_dynamo_compiling

#: What `Operation.saves` may be: all tensors among the arguments, the first result, or the others.
Saves = str | Callable[[Any, Any], Sequence[Any]]


@dataclass(eq=False)
class Operation:
    """One operation, or the gradient of one, registered when it is made.

    Attributes:
        name: Its name in ``torch.ops.dlkernels``.
        schema: Its arguments, tensors first, and its results.
        kernel: Computes it, from the arguments and `constants`. It checks them before it writes.
        fake: The results without values, as they lie in memory.
        in_torch: The same in torch's operations, in any layout: differentiable any number of times.
        constants: What `kernel` takes behind the arguments.
        order: Where the schema has them in another order: the places there of the arguments, as all
            functions here take them.
        saves: What is kept for backward: ``"inputs"`` (all tensors), ``"output"``, ``"others"``
            (the results behind the first), or a function of the arguments and the tuple of results
            (which the usual `function` cannot follow).
        backward: The operation of its gradient. It takes the gradient of the first result, what was
            saved, and the arguments that are no tensors; it gives the gradients of the first
            arguments. If there is none, `in_torch` is differentiated.
        is_own_transpose: Whether it is a linear function of its first argument that is its own
            gradient, for the same other arguments.
        by_memory: Whether what is saved follows the order of the first result in memory: its
            gradient then has to.
        autograd: Where the gradient comes in another way: what is kept (as torch's
            ``setup_context``) and the formula.
        function: The autograd function of eager calls, if it is not the usual one; it takes the
            arguments.
        accepts: Whether a call whose tensors `route` let through is for the kernel: it is torch's
            where torch raises an error that the kernel does not, or has a gradient that it lacks.
        fits: Whether the operator takes such a call; it is torch's if not. (A kernel that is called
            directly says so itself.)
        eager_constants: What `kernel` takes instead of `constants` where nothing is kept.
        reduction: For a loss's gradient: the place of the reduction among its arguments; `kernel`
            takes what `loss_gradient` makes of the first.
        operator: The operator, to call.
    """

    name: str
    schema: str
    kernel: Callable[..., Any]
    fake: Callable[..., Any]
    in_torch: Callable[..., Any]
    constants: tuple[Any, ...] = ()
    order: tuple[int, ...] | None = None
    saves: Saves = "inputs"
    backward: Operation | None = None
    is_own_transpose: bool = False
    by_memory: bool = False
    autograd: tuple[Callable[..., None], Callable[..., Any]] | None = None
    function: type[Function] | None = None
    accepts: Callable[..., bool] | None = None
    fits: Callable[..., bool] | None = None
    eager_constants: tuple[Any, ...] | None = None
    reduction: int | None = None
    operator: Callable[..., Any] = field(init=False)

    def __post_init__(self) -> None:
        """Registers it."""
        LIBRARY.define(self.name + self.schema)
        packet = getattr(torch.ops.dlkernels, self.name)
        self.operator = packet.default
        arguments = packet.default._schema.arguments
        self._count = len(arguments)
        self._tensors = sum("Tensor" in str(argument.type) for argument in arguments)
        self._results = len(packet.default._schema.returns)
        LIBRARY.impl(self.name, self._kernel_of_operator(), "CPU")
        name = f"dlkernels::{self.name}"
        torch.library.register_fake(name, self._ordered(self.fake), lib=LIBRARY)
        _decompose(packet.default, self._ordered(self._decomposition))
        if self._results:
            save, formula = self.autograd or self._autograd()
            torch.library.register_autograd(name, formula, setup_context=save, lib=LIBRARY)

    # --- the operator

    def _ordered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the arguments as one of the schema's."""
        order = self.order
        if order is None:
            return function
        return lambda *arguments: function(*(arguments[place] for place in order))

    def _kernel_of_operator(self) -> Callable[..., Any]:
        kernel, constants, reduction = self.kernel, self.constants, self.reduction
        if reduction is not None:

            def of_loss(grad_output: Tensor, *others: Any) -> Any:
                grad = loss_gradient(grad_output, others[reduction - 1])
                return kernel(grad, *others, *constants)

            return self._ordered(of_loss)
        if not constants:
            return self._ordered(kernel)
        return self._ordered(lambda *arguments: kernel(*arguments, *constants))

    def _decomposition(self, *arguments: Any) -> Any:
        """`in_torch` in the layout of the kernel's results."""
        results = self.in_torch(*arguments)
        if results is None:  # in place
            return None
        if isinstance(results, Tensor):
            return laid_out(results, self.fake(*arguments).stride())
        pairs = zip(results, self.fake(*arguments), strict=True)
        return tuple(laid_out(result, like.stride()) for result, like in pairs)

    def _autograd(self) -> tuple[Callable[..., None], Callable[..., Any]]:
        """What the operator keeps for backward, and its formula."""
        tensors, missing = self._tensors, [None] * self._count
        operator, in_torch = self.operator, self._ordered(self.in_torch)
        backward: Any = self.backward and self.backward.operator
        if self.is_own_transpose:
            backward = operator

        def save(ctx: Any, inputs: Any, output: Any) -> None:
            results = (output,) if isinstance(output, Tensor) else output
            if backward is not None:
                ctx.mark_non_differentiable(*results[1:])
            ctx.save_for_backward(*self._saved(inputs, results))
            ctx.parameters = inputs[tensors:]
            if self.by_memory:
                ctx.stride = results[0].stride()

        def by_operation(ctx: Any, grad_output: Tensor, *_: Any) -> Any:
            if self.by_memory:
                grad_output = with_strides(grad_output, ctx.stride)
            found = backward(grad_output, *ctx.saved_tensors, *ctx.parameters)
            found = (found,) if isinstance(found, Tensor) else found
            # An operator returns a gradient also for a tensor that was not given.
            wanted = zip(found, ctx.needs_input_grad, strict=False)
            return *(grad if needed else None for grad, needed in wanted), *missing[len(found) :]

        def by_torch(ctx: Any, *grad_outputs: Any) -> Any:
            wanted = [place for place in range(tensors) if ctx.needs_input_grad[place]]
            grads = grad_outputs if len(grad_outputs) > 1 else grad_outputs[0]
            found = differentiate_chosen(
                lambda *at: in_torch(*at, *ctx.parameters), ctx.saved_tensors, wanted, grads
            )
            return *found, *missing[len(found) :]

        return save, by_torch if backward is None else by_operation

    def _saved(self, inputs: Any, results: Any) -> Sequence[Any]:
        if callable(self.saves):
            chosen: Sequence[Any] = self.saves(inputs, results)
            return chosen
        first = int(self.is_own_transpose)
        ways: dict[str, Sequence[Any]] = {
            "inputs": inputs[first : self._tensors], "output": results[:1], "others": results[1:]
        }  # fmt: skip
        return ways[self.saves]

    # --- eager calls: what depends on the operation is looked up here, once

    @cached_property
    def call(self) -> Callable[..., Any]:
        """Computes it, straight or through the operator; None where the call is torch's."""
        return self._make_call(self.function or self._make_function())

    def _make_function(self) -> type[Function]:
        operation = self.backward
        assert operation is not None
        kernel, constants, tensors = self.kernel, self.constants, self._tensors
        gradients, gradient_constants = operation.kernel, operation.constants
        in_torch, is_single = operation.in_torch, operation._results == 1
        reduction = operation.reduction and operation.reduction - operation._tensors
        missing = (None,) * (self._count - operation._results)

        def keep_inputs(ctx: Any, *arguments: Any) -> Any:
            ctx.parameters = arguments[tensors:]
            ctx.save_for_backward(*arguments[:tensors])
            return kernel(*arguments, *constants)

        def keep_output(ctx: Any, *arguments: Any) -> Any:
            ctx.parameters = arguments[tensors:]
            output = kernel(*arguments, *constants)
            ctx.save_for_backward(output)
            return output

        def keep_others(ctx: Any, *arguments: Any) -> Any:
            ctx.parameters = arguments[tensors:]
            output, *others = kernel(*arguments, *constants)
            ctx.save_for_backward(*others)
            return output

        def backward(ctx: Any, grad_output: Tensor) -> Any:
            saved, parameters = ctx.saved_tensors, ctx.parameters
            # `is_first_order`
            if not _is_grad_enabled() and (_is_plain(grad_output) or not is_batched(grad_output)):
                if reduction is None:
                    grad: Any = grad_output.resolve_neg()
                else:
                    grad = loss_gradient(grad_output, parameters[reduction])
                found = gradients(grad, *saved, *parameters, *gradient_constants)
            else:
                found = in_torch(grad_output, *saved, *parameters)
            return (found, *missing) if is_single else (*found, *missing)

        keep = {"inputs": keep_inputs, "output": keep_output, "others": keep_others}
        members = {
            "forward": staticmethod(keep[str(self.saves)]),
            "backward": staticmethod(backward),
            "__module__": __name__,
        }
        name = "".join(word.capitalize() for word in self.name.split("_"))
        return type(f"_{name}", (Function,), members)

    def _make_call(self, function: type[Function]) -> Callable[..., Any]:
        kernel, tensors, operator = self.kernel, self._tensors, self.operator
        constants = self.constants if self.eager_constants is None else self.eager_constants
        differentiable, is_single = function.call, self._results == 1
        accepts, fits = self.accepts, self.fits
        order = self.order and tuple(map(self.order.index, range(self._count)))

        def call(*arguments: Any) -> Any:
            operands = arguments[:tensors]
            # `is_plain`
            if (
                not _is_dynamo_compiling()
                and _is_plain(*operands)
                and _forward_ad._current_level < 0
            ):
                way = KERNEL
            else:
                way = route(*operands)
            if accepts is not None and way != TORCH and not accepts(*arguments):
                return None
            if way == KERNEL:
                try:
                    if _is_grad_enabled():
                        for operand in operands:
                            if operand is not None and operand.requires_grad:
                                return differentiable(*arguments)
                    return kernel(*arguments, *constants)
                except REFUSED:
                    return None
            if way == OPERATOR and (fits is None or fits(*arguments)):
                if order is not None:
                    arguments = tuple(arguments[place] for place in order)
                results = operator(*arguments)
                return results if is_single else results[0]
            return None

        return call


@dataclass(frozen=True, eq=False)
class Twin:
    """A public function, in the place of torch's of the same name where there is one.

    Attributes:
        function: The function.
        explain: Which way a call with these arguments, by name, would go, and why.
        modules: The modules that call it.
    """

    function: Callable[..., Tensor]
    explain: Callable[[dict[str, Any]], str]
    modules: tuple[type[torch.nn.Module], ...] = ()

    @property
    def theirs(self) -> Any:
        """torch's function; None where it has none."""
        name = self.function.__name__
        in_place = getattr(torch, name, None) if name.endswith("_") else None
        return getattr(torch.nn.functional, name, in_place)


def operands(*names: str) -> Callable[[dict[str, Any]], str]:
    """How `explain` looks at a call where nothing counts but these tensors."""
    return lambda arguments: reason(*(arguments.get(name) for name in names))


def module(theirs: type[torch.nn.Module], function: Callable[..., Tensor]) -> Any:
    """A subclass of a module of torch's whose forward calls our function."""
    name = theirs.__name__
    inputs = list(inspect.signature(theirs.forward).parameters)[1:]
    parameters = inspect.signature(function).parameters
    names = [n for n in parameters if n not in ("size_average", "reduce")]
    has = {*getattr(theirs, "__constants__", ()), *inspect.signature(theirs.__init__).parameters}
    passed = "".join(f", {name}=self.{name}" for name in names[len(inputs) :] if name in has)
    given = ", ".join(inputs)
    forward = define(
        "forward",
        f"(self, {', '.join(f'{name}: Tensor' for name in inputs)}) -> Tensor",
        f"as_leaf(self, {given}) if type({inputs[0]}) is Proxy else function({given}{passed})",
        globals(),
        owner=name,
        function=function,
        Proxy=Proxy,
        as_leaf=as_leaf,
    )
    # By place: PoissonNLLLoss calls its input log_input, which is a flag of the function.
    typed = zip(inputs, parameters.values(), strict=False)
    forward.__annotations__ = {n: p.annotation for n, p in typed} | {"return": Tensor}
    of = "`input`" if len(inputs) == 1 else "the arguments"
    forward.__doc__ = f"`functional.{function.__name__}` of {of}."
    members = {
        "forward": forward,
        "__doc__": f"`torch.nn.{name}` on `functional.{function.__name__}`.",
        "__module__": "dlkernels.torch.nn",
    }
    if theirs.__init__ is torch.nn.Module.__init__:  # which tells nothing of its arguments
        members["__signature__"] = inspect.Signature(return_annotation=None)
    return type(name, (theirs,), members)


# --- decompositions

_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {}


def _decompose(operator: Any, function: Callable[..., Any]) -> None:
    """Registers the same in torch's operations. torch's own table has it too, which torch.onnx
    reads."""
    _DECOMPOSITIONS[operator] = function
    register_decomposition(operator, unsafe=True)(function)
    # Without one for "meta" too, fakes of symbolic shapes would run the decomposition.
    register_decomposition(operator, type="meta", unsafe=True)(operator)


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
