"""Activations for NumPy arrays and anything with ``__dlpack__``.

One row per elementwise activation, below: it makes the two functions here and their torch twins.
Behind them stand those of several operands: `prelu`, `glu`, `swiglu` and `maxout`. Arrays may have
any strides, in float32, float64, bfloat16 (``ml_dtypes``) or float16; results are of the kind that
came in. An element's value never depends on where it stands.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dlkernels import _core
from dlkernels._arguments import Array, as_array, as_output, type_text
from dlkernels._define import define

__all__ = [
    "celu",
    "celu_backward",
    "elu",
    "elu_backward",
    "gelu",
    "gelu_backward",
    "glu",
    "glu_backward",
    "hardsigmoid",
    "hardsigmoid_backward",
    "hardswish",
    "hardswish_backward",
    "hardtanh",
    "hardtanh_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "logsigmoid",
    "logsigmoid_backward",
    "maxout",
    "maxout_backward",
    "mish",
    "mish_backward",
    "prelu",
    "prelu_backward",
    "relu",
    "relu6",
    "relu6_backward",
    "relu_backward",
    "selu",
    "selu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softplus",
    "softplus_backward",
    "softsign",
    "softsign_backward",
    "swiglu",
    "swiglu_backward",
    "tanh",
    "tanh_backward",
    "threshold",
    "threshold_backward",
]


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
class Requirement:
    """What an activation's parameters have to be.

    Attributes:
        text: The parameter and what is expected of it, for the error.
        holds: Whether it is so, from the parameters in their order.
    """

    text: str
    holds: Callable[..., bool]

    def check(self, name: str, *values: Any) -> None:
        """Raises ValueError if it is not so. (What is no number is left to the kernel.)"""
        try:
            holds = bool(self.holds(*values))
        except (TypeError, ValueError, RuntimeError):
            return
        if not holds:
            raise ValueError(f"{name}: {self.text}, got {', '.join(map(str, values))}")


@dataclass(frozen=True)
class Activation:
    """What the fronts need of one activation.

    Attributes:
        name: Its name in ``csrc/kernels/activations/list.h`` and in ``torch.nn.functional``.
        module: The name of its ``torch.nn`` module.
        summary: The first lines of its docstring: formula, torch's name, special values, error.
        gradient: The first lines of its backward's docstring.
        example: Three arguments, and the function and its derivative there to four decimals.
        parameters: Its arguments besides the input, at most two.
        derivative: For an activation whose backward needs the output: ``dy/dx`` in terms of
            ``(torch, y, *parameters)``, in y's dtype and to the kernel's accuracy. What torch
            differentiates for second derivatives.
        requirement: What its parameters have to be, where not every number will do.
        gradient_requirement: The same for its gradient. Where either does not hold, torch's twins
            leave the call to torch.
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
    requirement: Requirement | None = None
    gradient_requirement: Requirement | None = None
    #: Whether some parameters are not for the kernel, and the numbers that certainly are.
    restricted: bool = field(init=False)
    defaults: tuple[Any, ...] = field(init=False)
    # Looked up once: a compiled graph cannot call the extension for them.
    index: int = field(init=False)
    saves: Literal["mask", "input", "output"] = field(init=False)

    def __post_init__(self) -> None:
        """Asks the kernels."""
        restricted = self.requirement is not None or self.gradient_requirement is not None
        object.__setattr__(self, "restricted", restricted)
        defaults = [p.default for p in self.parameters]
        object.__setattr__(self, "defaults", tuple([*defaults, 0.0, 0.0][:2]))
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


def _choice(activation: str, name: str, choices: tuple[str, ...], value: str) -> float:
    if not isinstance(value, str) or value not in choices:
        expected = " or ".join(map(repr, choices))
        got = repr(value) if isinstance(value, str) else type_text(value)
        raise ValueError(f"{activation}: {name}: expected {expected}, got {got}")
    return float(choices.index(value))


_FORWARD = """\
{summary}

Args:
    x: Any shape, floating; integers and Python numbers are float64.{parameters}
    out: Where the result goes, of x's shape and dtype; may be ``x`` itself.

Returns:
    An array like ``x`` (or ``out``).

Raises:
    RuntimeError: A torch tensor requires grad (outside ``torch.no_grad()``).
    TypeError: The dtype is neither floating nor an integer of NumPy.
    ValueError: ``out`` has another shape, may not be written to, or overlaps itself or, in part,
        ``x``.

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
    plain_names = [p.name for p in row.parameters if not p.choices]
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
    for name, arguments, body, requirement, doc in (
        (
            row.name,
            forward,
            f"_core.activation({row.index}, as_array(x, {row.name!r}, 'input'), "
            f"out if out is None else as_output(out, {row.name!r}), False, {numbers})",
            row.requirement,
            _FORWARD,
        ),
        (
            f"{row.name}_backward",
            backward,
            f"_core.activation_backward({row.index}, as_array(grad_output, "
            f"'{row.name}_backward', 'grad_output', {saved}), "
            f"as_array({saved}, '{row.name}_backward', {saved!r}), None, {numbers})",
            row.gradient_requirement or row.requirement,
            _BACKWARD,
        ),
    ):
        required = ""
        if requirement is not None:
            body = f"require({name!r}, {', '.join(plain_names)}) or {body}"
            required = f"\n    ValueError: {requirement.text}."
        check = requirement and requirement.check
        function = define(
            name, f"({arguments}) -> Any", body, globals(), require=check,
            Array=Array, as_array=as_array, as_output=as_output,
        )  # fmt: skip
        doc = doc.replace("Raises:", f"Raises:{required}")
        function.__doc__ = textwrap.indent(doc.format(**texts), "    ").strip()
        functions.append(function)
    return functions[0], functions[1]


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

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

relu6, relu6_backward = _define(
    Activation(
        "relu6",
        module="ReLU6",
        summary="``min(max(x, 0), 6)`` (`torch.nn.functional.relu6`); NaN stays NaN. Exact.",
        gradient="Gradient of `relu6`: ``grad_output`` where ``0 < x < 6``, else 0 (at NaN too,\n"
        "as in torch).",
        example=([-1.0, 2.0, 7.0], [0.0, 2.0, 6.0], [0.0, 1.0, 0.0]),
    )
)

hardtanh, hardtanh_backward = _define(
    Activation(
        "hardtanh",
        module="Hardtanh",
        summary="``min(max(x, min_val), max_val)`` (`torch.nn.functional.hardtanh`); NaN stays\n"
        "NaN. Exact.",
        gradient="Gradient of `hardtanh`: ``grad_output`` where ``min_val < x < max_val``, else\n"
        "0 (at NaN too).",
        parameters=(
            Parameter("min_val", "The lower limit.", default=-1.0),
            Parameter("max_val", "The upper limit.", default=1.0),
        ),
        example=([-3.0, 0.5, 2.0], [-1.0, 0.5, 1.0], [0.0, 1.0, 0.0]),
        requirement=Requirement(
            "min_val: expected at most max_val", lambda min_val, max_val: min_val <= max_val
        ),
    )
)

threshold, threshold_backward = _define(
    Activation(
        "threshold",
        module="Threshold",
        summary="``x`` where ``x > threshold`` (or is NaN), else ``value``\n"
        "(`torch.nn.functional.threshold`). Exact.",
        gradient="Gradient of `threshold`: ``grad_output`` where ``x > threshold`` (or is NaN),\n"
        "else 0.",
        parameters=(
            Parameter("threshold", "What ``x`` must exceed.", example=0.5),
            Parameter("value", "What stands for the rest.", example=7.0),
        ),
        example=([-1.0, 0.0, 2.0], [7.0, 7.0, 2.0], [0.0, 0.0, 1.0]),
    )
)

leaky_relu, leaky_relu_backward = _define(
    Activation(
        "leaky_relu",
        module="LeakyReLU",
        summary="``x`` where ``x > 0``, else ``negative_slope * x``\n"
        "(`torch.nn.functional.leaky_relu`); one rounding.",
        gradient="Gradient of `leaky_relu`: ``grad_output`` where ``x > 0``, else times\n"
        "``negative_slope``.",
        parameters=(Parameter("negative_slope", "The factor below 0.", default=0.01),),
        example=([-1.0, 0.0, 2.0], [-0.01, 0.0, 2.0], [0.01, 0.01, 1.0]),
    )
)

hardsigmoid, hardsigmoid_backward = _define(
    Activation(
        "hardsigmoid",
        module="Hardsigmoid",
        summary="``min(max(x + 3, 0), 6) / 6`` (`torch.nn.functional.hardsigmoid`); NaN stays\n"
        "NaN.",
        gradient="Gradient of `hardsigmoid`: ``grad_output / 6`` where ``-3 < x < 3``, else 0\n"
        "(at NaN too).",
        example=([-1.0, 0.0, 2.0], [0.3333, 0.5, 0.8333], [0.1667, 0.1667, 0.1667]),
    )
)

hardswish, hardswish_backward = _define(
    Activation(
        "hardswish",
        module="Hardswish",
        summary="``x * min(max(x + 3, 0), 6) / 6`` (`torch.nn.functional.hardswish`); -inf\n"
        "gives its limit, -0, where torch has NaN.",
        gradient="Gradient of `hardswish`: ``grad_output`` times 0 below -3, 1 above 3, ``x / 3\n"
        "+ 1 / 2`` between.",
        example=([-1.0, 0.0, 2.0], [-0.3333, 0.0, 1.6667], [0.1667, 0.5, 1.1667]),
    )
)

softsign, softsign_backward = _define(
    Activation(
        "softsign",
        module="Softsign",
        summary="``x / (1 + |x|)`` (`torch.nn.functional.softsign`), to 1 ULP; infinities give\n"
        "their limits, 1 and -1, where torch has NaN.",
        gradient="Gradient of `softsign`, ``grad_output * (1 - |y|)**2``, from its result ``y``,\n"
        "which is all that is kept: the derivative is off by 2 eps of 1, not of itself.",
        example=([-1.0, 0.0, 2.0], [-0.5, 0.0, 0.6667], [0.25, 1.0, 0.1111]),
        derivative=lambda torch, y: (1 - abs(y)) ** 2,
    )
)

sigmoid, sigmoid_backward = _define(
    Activation(
        "sigmoid",
        module="Sigmoid",
        summary="``1 / (1 + exp(-x))`` (`torch.sigmoid`), to 3 ULP.",
        gradient="Gradient of `sigmoid`, ``grad_output * y * (1 - y)``, from its result ``y``.",
        example=([-1.0, 0.0, 2.0], [0.2689, 0.5, 0.8808], [0.1966, 0.25, 0.105]),
        derivative=lambda torch, y: y * (1 - y),
    )
)

tanh, tanh_backward = _define(
    Activation(
        "tanh",
        module="Tanh",
        summary="``tanh(x)`` (`torch.tanh`), to 3.5 ULP; keeps -0.0.",
        gradient="Gradient of `tanh`, ``grad_output * (1 - y**2)``, from its result ``y``.",
        example=([-1.0, 0.0, 2.0], [-0.7616, 0.0, 0.964], [0.42, 1.0, 0.0707]),
        derivative=lambda torch, y: (1 - y) * (1 + y),
    )
)

logsigmoid, logsigmoid_backward = _define(
    Activation(
        "logsigmoid",
        module="LogSigmoid",
        summary="``log(1 / (1 + exp(-x)))`` (`torch.nn.functional.logsigmoid`), to 2 ULP in\n"
        "both tails.",
        gradient="Gradient of `logsigmoid`, ``grad_output * (1 - exp(y))``, from its result\n"
        "``y``.",
        example=([-1.0, 0.0, 2.0], [-1.3133, -0.6931, -0.1269], [0.7311, 0.5, 0.1192]),
        derivative=lambda torch, y: -torch.expm1(y),
    )
)

elu, elu_backward = _define(
    Activation(
        "elu",
        module="ELU",
        summary="``x`` where ``x > 0``, else ``alpha * (exp(x) - 1)``\n"
        "(`torch.nn.functional.elu`), to 3 ULP.",
        gradient="Gradient of `elu`, ``grad_output`` where ``y > 0``, else ``grad_output * (y +\n"
        "alpha)``, from its result ``y``, which is all that is kept: the derivative is\n"
        "off by half an ULP of ``alpha``, not of itself.",
        parameters=(
            Parameter(
                "alpha",
                "The limit at -inf, negated; its gradient needs one that is not negative.",
                default=1.0,
            ),
        ),
        example=([-1.0, 0.0, 2.0], [-0.6321, 0.0, 2.0], [0.3679, 1.0, 1.0]),
        derivative=lambda torch, y, alpha: torch.where(y > 0, 1.0, y + alpha),
        gradient_requirement=Requirement(
            "alpha: expected no negative number, since the gradient is made from the result",
            lambda alpha: alpha >= 0,
        ),
    )
)

celu, celu_backward = _define(
    Activation(
        "celu",
        module="CELU",
        summary="``x`` where ``x > 0``, else ``alpha * (exp(x / alpha) - 1)``\n"
        "(`torch.nn.functional.celu`), to 4 ULP.",
        gradient="Gradient of `celu`, ``grad_output`` where ``y > 0``, else ``grad_output * (y /\n"
        "alpha + 1)``, from its result ``y``; see `elu_backward`.",
        parameters=(Parameter("alpha", "The limit at -inf, negated; positive.", default=1.0),),
        example=([-1.0, 0.0, 2.0], [-0.6321, 0.0, 2.0], [0.3679, 1.0, 1.0]),
        derivative=lambda torch, y, alpha: torch.where(y > 0, 1.0, y / alpha + 1),
        requirement=Requirement("alpha: expected a positive number", lambda alpha: alpha > 0),
    )
)

selu, selu_backward = _define(
    Activation(
        "selu",
        module="SELU",
        summary="`elu` with alpha 1.67326..., times 1.05070... (`torch.nn.functional.selu`), to\n"
        "3 ULP.",
        gradient="Gradient of `selu` from its result; see `elu_backward`.",
        example=([-1.0, 0.0, 2.0], [-1.1113, 0.0, 2.1014], [0.6468, 1.7581, 1.0507]),
        derivative=lambda torch, y: torch.where(y > 0, _SELU_SCALE, y + _SELU_SCALE * _SELU_ALPHA),
    )
)

softplus, softplus_backward = _define(
    Activation(
        "softplus",
        module="Softplus",
        summary="``log(1 + exp(beta * x)) / beta``, and ``x`` where ``beta * x > threshold``\n"
        "(`torch.nn.functional.softplus`), to 3 ULP if ``beta`` is a power of two, in\n"
        "both tails.",
        gradient="Gradient of `softplus`, ``grad_output / (1 + exp(-beta * x))``;\n"
        "``grad_output`` above ``threshold``.",
        parameters=(
            Parameter("beta", "How sharp its bend is.", default=1.0),
            Parameter("threshold", "Where it is a straight line from.", default=20.0),
        ),
        example=([-1.0, 0.0, 2.0], [0.3133, 0.6931, 2.1269], [0.2689, 0.5, 0.8808]),
    )
)

silu, silu_backward = _define(
    Activation(
        "silu",
        module="SiLU",
        summary="``x / (1 + exp(-x))`` (`torch.nn.functional.silu`), to 3 ULP; -inf gives its\n"
        "limit, -0, where torch has NaN.",
        gradient="Gradient of `silu`; 0 and 1 at the infinities, where torch has NaN.",
        example=([-1.0, 0.0, 2.0], [-0.2689, 0.0, 1.7616], [0.0723, 0.5, 1.0908]),
    )
)

mish, mish_backward = _define(
    Activation(
        "mish",
        module="Mish",
        summary="``x * tanh(log(1 + exp(x)))`` (`torch.nn.functional.mish`), to 5 ULP; -inf\n"
        "gives its limit, -0, where torch has NaN.",
        gradient="Gradient of `mish`; 0 and 1 at the infinities, where torch has NaN.",
        example=([-1.0, 0.0, 2.0], [-0.3034, 0.0, 1.944], [0.0592, 0.6, 1.0693]),
    )
)

gelu, gelu_backward = _define(
    Activation(
        "gelu",
        module="GELU",
        summary="``x * erfc(-x / sqrt(2)) / 2`` (`torch.nn.functional.gelu`), to 6 ULP for\n"
        "``x >= -5``, 7 down to the smallest results (float64: 9). With\n"
        '``approximate="tanh"``, ``x / 2 * (1 + tanh(u))``, ``u = sqrt(2 / pi) * (x + 0.044715\n'
        "* x**3)``, to ``4 + |2 u|`` ULP. Infinities give their limits, where torch has NaN.",
        gradient="Gradient of `gelu`; 0 and 1 at the infinities, where torch has NaN.",
        parameters=(
            Parameter(
                "approximate",
                '``"none"`` or ``"tanh"``.',
                default="none",
                choices=("none", "tanh"),
            ),
        ),
        example=([-1.0, 0.0, 2.0], [-0.1587, 0.0, 1.9545], [-0.0833, 0.5, 1.0852]),
    )
)


# --- several operands: a learned slope, gates, and the largest of several pieces


def prelu(x: Array, weight: Array, *, out: Array | None = None) -> Any:
    """``x`` where ``x > 0``, else ``weight * x`` (`torch.nn.functional.prelu`); one rounding.

    Args:
        x: Any shape, floating; its channels are axis 1.
        weight: One slope for all, or one per channel; of x's dtype.
        out: Where the result goes, of x's shape and dtype; may be ``x`` itself.

    Returns:
        An array like ``x`` (or ``out``).

    Raises:
        TypeError: A dtype is not floating or they differ.
        ValueError: ``weight`` has neither one element nor one per channel; ``out`` has another
            shape, is read-only or overlaps ``x`` in part.

    Example:
        >>> import numpy as np
        >>> prelu(np.array([[-1.0, -1.0], [2.0, 2.0]]), np.array([0.25, 0.5])).tolist()
        [[-0.25, -0.5], [2.0, 2.0]]
    """
    x = as_array(x, "prelu", "input")
    return _core.prelu(x, as_array(weight, "prelu", "weight", x), as_output(out, "prelu"))


def prelu_backward(grad_output: Array, x: Array, weight: Array) -> tuple[Any, Any]:
    """Gradients of `prelu` for its input and its weight, both in one pass over the data.

    The weight's is summed in float64 from short sums in the computing type, in an order that the
    shape alone decides: the same bits for any number of threads.

    Args:
        grad_output: The gradient of the result, of its shape and dtype.
        x: The input of `prelu`.
        weight: The weight of `prelu`.

    Returns:
        An array like ``x`` and one like ``weight``.

    Raises:
        TypeError: A dtype is not floating or they differ.
        ValueError: The shapes do not match.

    Example:
        >>> import numpy as np
        >>> x, weight = np.array([[-1.0, 3.0], [-2.0, -4.0]]), np.array([0.25, 0.5])
        >>> dx, dweight = prelu_backward(np.ones((2, 2)), x, weight)
        >>> dx.tolist(), dweight.tolist()
        ([[0.25, 1.0], [0.25, 0.5]], [-3.0, -4.0])
    """
    x = as_array(x, "prelu_backward", "input")
    gradients: tuple[Any, Any] = _core.prelu_backward(
        as_array(grad_output, "prelu_backward", "grad_output", x),
        x,
        as_array(weight, "prelu_backward", "weight", x),
    )
    return gradients


def glu(x: Array, axis: int = -1) -> Any:
    """``a * sigmoid(b)`` for the halves ``a, b`` of ``x`` (`torch.nn.functional.glu`).

    Args:
        x: At least one dimension, floating; of even length along ``axis``.
        axis: The axis that is cut in half.

    Returns:
        A row-major array, half as long along ``axis``.

    Raises:
        IndexError: There is no such axis.
        TypeError: The dtype is not floating.
        ValueError: The length along ``axis`` is odd.

    Example:
        >>> import numpy as np
        >>> glu(np.array([2.0, 4.0, 0.0, 0.0])).tolist()
        [1.0, 2.0]
    """
    return _core.gated_halves(as_array(x, "glu", "input"), axis, False)


def glu_backward(grad_output: Array, x: Array, axis: int = -1) -> Any:
    """Gradient of `glu`.

    Args:
        grad_output: The gradient of the result, of its shape and dtype.
        x: The input of `glu`.
        axis: As given to `glu`.

    Returns:
        A row-major array of x's shape.

    Raises:
        IndexError: There is no such axis.
        TypeError: A dtype is not floating or they differ.
        ValueError: The shapes do not match.

    Example:
        >>> import numpy as np
        >>> glu_backward(np.ones(2), np.array([2.0, 4.0, 0.0, 0.0])).tolist()
        [0.5, 0.5, 0.5, 1.0]
    """
    x = as_array(x, "glu_backward", "x")
    grad_output = as_array(grad_output, "glu_backward", "grad_output", x)
    return _core.gated_halves_backward(grad_output, x, axis, False)


def swiglu(gate: Array, up: Array | None = None, *, axis: int = -1) -> Any:
    """``silu(gate) * up`` in one pass, with ``silu(x) = x * sigmoid(x)`` (Shazeer, 2020).

    Args:
        gate: Floating, any shape; or with ``up`` left out, gate and up side by side along ``axis``
            (one matrix product for both).
        up: Of gate's shape and dtype.
        axis: The axis that is cut in half where ``up`` is left out.

    Returns:
        A row-major array of the shape of ``up``.

    Raises:
        IndexError: There is no such axis.
        TypeError: A dtype is not floating or they differ.
        ValueError: The shapes differ, or the length along ``axis`` is odd.

    Example:
        >>> import numpy as np
        >>> swiglu(np.array([0.0, 1.0]), np.array([3.0, 2.0])).round(4).tolist()
        [0.0, 1.4621]
        >>> swiglu(np.array([0.0, 1.0, 3.0, 2.0])).round(4).tolist()
        [0.0, 1.4621]
    """
    if up is None:
        return _core.gated_halves(as_array(gate, "swiglu", "input"), axis, True)
    gate = as_array(gate, "swiglu", "gate")
    return _core.swiglu(gate, as_array(up, "swiglu", "up", gate))


def swiglu_backward(
    grad_output: Array, gate: Array, up: Array | None = None, *, axis: int = -1
) -> Any:
    """Gradients of `swiglu`, in one pass.

    Args:
        grad_output: The gradient of the result, of its shape and dtype.
        gate: As given to `swiglu`.
        up: As given to `swiglu`.
        axis: As given to `swiglu`.

    Returns:
        ``(dgate, dup)``; where ``up`` is left out, one row-major array of gate's shape.

    Raises:
        IndexError: There is no such axis.
        TypeError: A dtype is not floating or they differ.
        ValueError: The shapes do not match.

    Example:
        >>> import numpy as np
        >>> dgate, dup = swiglu_backward(np.ones(2), np.array([0.0, 1.0]), np.array([3.0, 2.0]))
        >>> dgate.round(4).tolist(), dup.round(4).tolist()
        ([1.5, 1.8553], [0.0, 0.7311])
    """
    gate = as_array(gate, "swiglu_backward", "gate")
    grad_output = as_array(grad_output, "swiglu_backward", "grad_output", gate)
    if up is None:
        return _core.gated_halves_backward(grad_output, gate, axis, True)
    return _core.swiglu_backward(grad_output, gate, as_array(up, "swiglu_backward", "up", gate))


def maxout(x: Array, pieces: int, axis: int = 1, *, return_index: bool = False) -> Any:
    """The largest of every ``pieces`` neighbours along an axis (Goodfellow et al., 2013). Exact.

    On the result of a linear map to ``pieces * n`` features it is the maximum over ``pieces``
    linear maps to ``n``. A NaN is the largest.

    Args:
        x: At least one dimension, floating; its length along ``axis`` a multiple of ``pieces``.
        pieces: How many neighbours compete, 1 to 256.
        axis: Their axis.
        return_index: Also return who won (the first of equal ones), for `maxout_backward`: uint8,
            ``ceil(log2(pieces))`` bits an element.

    Returns:
        A row-major array, ``pieces`` times shorter along ``axis``; with ``return_index`` a tuple
        ``(y, index)``.

    Raises:
        IndexError: There is no such axis.
        TypeError: The dtype is not floating.
        ValueError: ``pieces`` is out of range or does not divide the length.

    Example:
        >>> import numpy as np
        >>> maxout(np.array([[1.0, 5.0, -2.0, -3.0]]), 2).tolist()
        [[5.0, -2.0]]
    """
    return _core.maxout(as_array(x, "maxout", "input"), pieces, axis, return_index)


def maxout_backward(grad_output: Array, index: Array, pieces: int, axis: int = 1) -> Any:
    """Gradient of `maxout`: ``grad_output`` in the winner's place, 0 in the others'.

    Args:
        grad_output: The gradient of the result, of its shape and dtype.
        index: What ``maxout(..., return_index=True)`` returned.
        pieces: As given to `maxout`.
        axis: As given to `maxout`.

    Returns:
        A row-major array, ``pieces`` times longer along ``axis``.

    Raises:
        IndexError: There is no such axis.
        TypeError: The dtype is not floating.
        ValueError: ``index`` is not of this shape.

    Example:
        >>> import numpy as np
        >>> y, index = maxout(np.array([[1.0, 5.0, -2.0, -3.0]]), 2, return_index=True)
        >>> maxout_backward(np.array([[1.0, 10.0]]), index, 2).tolist()
        [[0.0, 1.0, 10.0, 0.0]]
    """
    grad_output = as_array(grad_output, "maxout_backward", "grad_output")
    return _core.maxout_backward(grad_output, index, pieces, axis)
