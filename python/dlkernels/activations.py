"""Elementwise activations for NumPy arrays and anything with ``__dlpack__``.

One row per activation, below: it makes the two functions here and their torch twins. Arrays may
have any shape and strides, in float32, float64, bfloat16 (``ml_dtypes``) or float16; results are of
the kind that came in. An element's value never depends on where it stands.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dlkernels import _core

__all__ = ["relu", "relu_backward"]

#: A NumPy array, or any array on the CPU with ``__dlpack__``; sequences of numbers are converted.
Array = Any


@dataclass(frozen=True)
class Parameter:
    """An argument of an activation, one of the two numbers that its kernel takes.

    Attributes:
        name: Its name, as torch's.
        description: For the docstring.
        default: Its default value; none by default.
        choices: For a string: the values it may have, in the order of the kernel's numbers.
        example: Its value in the docstring's example, where it has no default.
    """

    name: str
    description: str
    default: Any = inspect.Parameter.empty
    choices: tuple[str, ...] = ()
    example: float | None = None

    @property
    def argument(self) -> inspect.Parameter:
        """As it stands in a signature: strings by keyword alone, as torch has them."""
        kind = "KEYWORD_ONLY" if self.choices else "POSITIONAL_OR_KEYWORD"
        return inspect.Parameter(
            self.name,
            getattr(inspect.Parameter, kind),
            default=self.default,
            annotation="str" if self.choices else "float",
        )

    def from_number(self, number: float) -> Any:
        """The argument for the kernel's number."""
        return self.choices[int(number)] if self.choices else number


@dataclass(frozen=True)
class Activation:
    """What the fronts need to know of one activation.

    Attributes:
        name: Its name in ``csrc/kernels/activations.h`` and in ``torch.nn.functional``.
        module: The name of its ``torch.nn`` module.
        summary: The first lines of its docstring: formula, torch's name, special values, error.
        gradient: The first lines of its backward's docstring.
        example: Three arguments, and the function and its derivative there to four decimals.
        parameters: Its arguments besides the input, at most two.
        derivative: For an activation whose backward needs the output: ``dy/dx`` in terms of
            ``(y, *parameters)``, in operations that NumPy and torch share. What torch
            differentiates for second derivatives.
        index: Its number in the kernels' list.
        saves: What its backward reads: a bit per element, or the input or output itself.
    """

    name: str
    module: str
    summary: str
    gradient: str
    example: tuple[Sequence[float], Sequence[float], Sequence[float]]
    parameters: tuple[Parameter, ...] = ()
    derivative: Callable[..., Any] | None = None
    # Looked up once: a compiled graph cannot call the extension for them.
    index: int = field(init=False)
    saves: Literal["mask", "input", "output"] = field(init=False)

    def __post_init__(self) -> None:
        """Asks the kernels."""
        object.__setattr__(self, "index", _core.activation_index(self.name))
        object.__setattr__(self, "saves", _core.activation_saves(self.index))
        if (self.saves == "output") != (self.derivative is not None):
            raise ValueError(f"{self.name}: derivative goes with a kernel that saves the output")

    def numbers(self, choice: str) -> str:
        """The kernel's two numbers as source text in terms of the arguments.

        Args:
            choice: The function that makes a number of a string: it takes this activation's name,
                the argument's, the choices and the string.
        """
        texts = [
            f"{choice}({self.name!r}, {p.name!r}, {p.choices}, {p.name})" if p.choices else p.name
            for p in self.parameters
        ]
        return ", ".join([*texts, "0.0", "0.0"][:2])


#: Every activation by its name.
ACTIVATIONS: dict[str, Activation] = {}


def define(
    name: str, arguments: str, body: str, namespace: dict[str, Any], **constants: Any
) -> Any:
    """Makes a function from source text, so that it has a true signature and costs what a written
    one does.

    Args:
        name: Its name.
        arguments: Its arguments and result, as in source.
        body: The expression it returns.
        namespace: Its globals.
        constants: What else the body may name.

    Returns:
        The function.
    """
    source = f"""
def make({", ".join(constants)}):
    def {name}{arguments}:
        return {body}
    return {name}
"""
    made: dict[str, Any] = {}
    code = compile(source, f"<dlkernels {name}>", "exec", dont_inherit=True)
    exec(code, namespace, made)
    function = made["make"](**constants)
    function.__qualname__ = name
    function.__module__ = namespace["__name__"]
    return function


def _choice(activation: str, name: str, choices: tuple[str, ...], value: str) -> float:
    if value not in choices:
        expected = " or ".join(map(repr, choices))
        raise ValueError(f"{activation}: {name}: expected {expected}, got {value!r}")
    return float(choices.index(value))


def _as_array(value: Array) -> Array:
    if isinstance(value, (list, tuple, int, float)):
        return np.asarray(value, dtype=np.float32)
    return value


_FORWARD = """\
{summary}

Args:
    x: Any shape, floating.{parameters}
    out: Where the result goes, of x's shape and dtype; may be ``x`` itself.

Returns:
    An array like ``x`` (or ``out``).

Raises:
    TypeError: The dtype is not floating.
    ValueError: ``out`` has another shape, is read-only or overlaps ``x`` in part.

Example:
    >>> import numpy as np
    >>> {name}(np.array({x}){values}).round(4).tolist()
    {y}
"""

_BACKWARD = """\
{gradient}

Args:
    grad_output: The gradient of the result, of its shape and dtype.
    {saved}: {saved_description}{parameters}

Returns:
    An array like ``{saved}``.

Raises:
    TypeError: A dtype is not floating or they differ.
    ValueError: The shapes differ.

Example:
    >>> import numpy as np
    >>> {saved} = {saved_example}
    >>> {name}_backward(np.ones({count}), {saved}{values}).round(4).tolist()
    {dx}
"""

_SAVED_DESCRIPTIONS = {
    "input": "The input of `{name}`.",
    "mask": "The input of `{name}`.",
    "output": "The result of `{name}`.",
}


def _define(row: Activation) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Enters the row into `ACTIVATIONS` and makes its function and the gradient's."""
    ACTIVATIONS[row.name] = row
    saved = "output" if row.saves == "output" else "x"
    plain = [str(p.argument) for p in row.parameters if not p.choices]
    by_keyword = [str(p.argument) for p in row.parameters if p.choices]
    forward = ", ".join(["x: Array", *plain, "*", *by_keyword, "out: Array | None = None"])
    star = ["*"] if by_keyword else []
    backward = ", ".join(["grad_output: Array", f"{saved}: Array", *plain, *star, *by_keyword])
    values = "".join(f", {p.example}" for p in row.parameters if p.example is not None)
    x, y, dx = (list(map(float, values)) for values in row.example)
    texts = {
        "name": row.name,
        "summary": row.summary,
        "gradient": row.gradient,
        "parameters": "".join(f"\n    {p.name}: {p.description}" for p in row.parameters),
        "x": x,
        "y": y,
        "dx": dx,
        "count": len(x),
        "values": values,
        "saved": saved,
        "saved_description": _SAVED_DESCRIPTIONS[row.saves].format(name=row.name),
        "saved_example": f"{row.name}(np.array({x}){values})"
        if saved == "output"
        else f"np.array({x})",
    }
    numbers = row.numbers("_choice")
    functions = []
    for name, arguments, body, doc in (
        (
            row.name,
            forward,
            f"_core.activation({row.index}, _as_array(x), out, False, {numbers})",
            _FORWARD,
        ),
        (
            f"{row.name}_backward",
            backward,
            f"_core.activation_backward({row.index}, grad_output, {saved}, None, {numbers})",
            _BACKWARD,
        ),
    ):
        function = define(name, f"({arguments}) -> Any", body, globals())
        function.__doc__ = textwrap.indent(doc.format(**texts), "    ").strip()
        functions.append(function)
    return functions[0], functions[1]


relu, relu_backward = _define(
    Activation(
        "relu",
        module="ReLU",
        summary="``max(x, 0)`` (`torch.relu`); NaN stays NaN and -0.0 stays -0.0. Exact.",
        gradient="Gradient of `relu`: ``grad_output`` where ``x > 0`` (or is NaN), else 0.\n"
        "``x`` may be the result of `relu` as well.",
        example=([-1.0, 0.0, 2.0], [0.0, 0.0, 2.0], [0.0, 0.0, 1.0]),
    )
)
