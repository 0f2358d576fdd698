"""Losses of element against element, and of distributions, for NumPy arrays and anything with
``__dlpack__``.

One row per loss, below: it makes the two functions here and their torch twins. Operands have any
shape and strides, in float32, float64, bfloat16 (``ml_dtypes``) or float16, all of one dtype; they
are broadcast as torch does and read where they lie, broadcast ones too. Copied, once, is an operand
whose elements are not side by side along the dimension that is innermost in memory. Half types are
computed in float32 and rounded once; sums and divisors are float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlkernels import _core
from dlkernels._arguments import (
    Array,
    as_array,
    as_optional,
    as_output,
    flag,
    integer,
    number,
    type_text,
)
from dlkernels._define import define

__all__: list[str] = []

_REDUCTIONS = ("none", "mean", "sum")


@dataclass(frozen=True)
class Argument:
    """A number of a loss, or an operand besides input and target.

    Attributes:
        name: Its name, as torch's.
        description: For the docstring.
        default: Its default value as source text; none if it must be given.
        annotation: Its type as source text.
    """

    name: str
    description: str
    default: str | None = None
    annotation: str = "float"

    @property
    def text(self) -> str:
        """As it stands in a signature."""
        default = "" if self.default is None else f" = {self.default}"
        return f"{self.name}: {self.annotation}{default}"


@dataclass(frozen=True)
class Loss:
    """What the fronts need of one loss.

    Attributes:
        name: Its name here and in ``torch.nn.functional``.
        summary: The first lines of its docstring: formula, torch's name, what differs.
        kernel: From the parameters to the key in ``csrc/kernels/elementwise_losses/list.h`` and the
            two numbers that the functor takes.
        example: Lines of a doctest.
        module: The name of its ``torch.nn`` module, if there is one.
        inputs: The names of the first two operands; the second may be missing.
        operands: What it reads besides them, at most two.
        parameters: Its numbers.
        error: From the parameters to what is wrong with them, or None.
        differentiable: The operands that have a gradient, of the first three.
        reduction: The default; None for a loss of distributions, which is summed along an axis.
        reductions: Those it accepts.
        same_shape: Input and target are not broadcast with each other.
        weight_as_input: A weight has the input's shape; else it is broadcast to it.
    """

    name: str
    summary: str
    kernel: Callable[..., tuple[str, float, float]]
    example: str
    module: str | None = None
    inputs: tuple[str, ...] = ("input", "target")
    operands: tuple[Argument, ...] = ()
    parameters: tuple[Argument, ...] = ()
    error: Callable[..., str | None] = lambda **_: None
    differentiable: tuple[str, ...] = ("input", "target")
    reduction: str | None = "mean"
    reductions: tuple[str, ...] = _REDUCTIONS
    same_shape: bool = False
    weight_as_input: bool = False
    # Looked up once: a compiled graph cannot call the extension for them.
    indices: dict[str, int] = field(init=False, default_factory=dict)

    def numbers(self, **parameters: Any) -> tuple[int, float, float]:
        """The kernel's index and its two numbers."""
        key, a, b = self.kernel(**parameters)
        if key not in self.indices:
            self.indices[key] = _core.elementwise_loss_index(key)
        return self.indices[key], float(a), float(b)

    def checked_numbers(self, **parameters: Any) -> tuple[int, float, float]:
        """The same, or a TypeError or ValueError."""
        for parameter in self.parameters:
            value = parameters[parameter.name]
            if parameter.annotation == "bool":
                flag(value, self.name, parameter.name)
            elif value is not None or "None" not in parameter.annotation:
                parameters[parameter.name] = number(value, self.name, parameter.name)
        message = self.error(**parameters)
        if message is not None:
            raise ValueError(f"{self.name}: {message}")
        return self.numbers(**parameters)

    def bits(self, wrt: Sequence[str]) -> int:
        """The operands in `wrt` as the kernels take them: a bit for each."""
        bits = 0
        if not isinstance(wrt, (str, list, tuple)):
            raise TypeError(
                f"{self.name}: wrt: expected some of {self.differentiable}, got {type_text(wrt)}"
            )
        for name in (wrt,) if isinstance(wrt, str) else wrt:
            if not isinstance(name, str) or name not in self.differentiable:
                got = repr(name) if isinstance(name, str) else type_text(name)
                raise ValueError(
                    f"{self.name}: wrt: expected some of {self.differentiable}, got {got}"
                )
            bits |= 1 << (*self.inputs, *(o.name for o in self.operands)).index(name)
        if not bits:
            raise ValueError(f"{self.name}: wrt: expected one of {self.differentiable} or more")
        return bits


#: Every loss by its name.
LOSSES: dict[str, Loss] = {}

_DOCUMENTATION = """{summary}

Args:{arguments}

Returns:
    {returns}

Raises:
    TypeError: A dtype is not supported or does not match.
    ValueError: Shapes do not go together, or an argument is out of its range.

Example:{example}
"""


def _variance(value: Any, operation: str, argument: str, like: Array) -> Any:
    """A Python number as a float: the same everywhere; or an array."""
    if isinstance(value, (int, float)):
        return number(value, operation, argument)
    return as_array(value, operation, argument, like)


def _with_gradients(
    row: Loss, bits: int, result: tuple[Any, ...], wrt: Sequence[str]
) -> tuple[Any, ...]:
    """The loss and the gradients in the order of `wrt`."""
    names = (*row.inputs, *(operand.name for operand in row.operands))
    order = (wrt,) if isinstance(wrt, str) else wrt
    return (result[0], *(result[1 + names.index(name)] for name in order))


def _described(arguments: Sequence[tuple[str, str]]) -> str:
    lines = []
    for name, description in arguments:
        lines.append(f"\n    {name}: " + description.replace("\n", "\n        "))
    return "".join(lines)


def _define(row: Loss) -> None:
    """Makes the two functions of a row and lists the row and them."""
    of_distributions = row.reduction is None
    needed = [o for o in row.operands if o.default is None]
    extra = [a.text for a in (*row.operands, *row.parameters) if a not in needed]
    positional = [*(f"{name}: Array" for name in row.inputs), *(o.text for o in needed)]
    passed = ", ".join(f"{p.name}={p.name}" for p in row.parameters)
    # Errors have the kernels' names; numbers and sequences take the dtype of the first operand.
    first = f"({row.inputs[0]} := as_array({row.inputs[0]}, row.name, 'input'))"
    operands = [first] + [
        f"as_array({name}, row.name, 'target', {row.inputs[0]})" for name in row.inputs[1:]
    ]
    operands += ["None"] * (2 - len(row.inputs))
    thirds = [
        f"{'variance' if o.default is None else 'as_optional'}({o.name}, row.name, {o.name!r}, "
        f"{row.inputs[0]})"
        for o in row.operands
    ]
    operands += [*thirds, "None", "None"][:2]
    if of_distributions:
        positional.append("axis: int = -1")
        reduction = "'none', integer(axis, row.name, 'axis')"
    else:
        extra.append(f"reduction: str = {row.reduction!r}")
        reduction = "reduction, None"
    core = f"core(*row.checked_numbers({passed}), {', '.join(operands)}, {reduction}"
    constants = {
        "row": row,
        "core": _core.elementwise_loss,
        "Array": Array,
        "as_array": as_array,
        "as_optional": as_optional,
        "as_output": as_output,
        "integer": integer,
        "variance": _variance,
        "with_gradients": _with_gradients,
    }
    described = [
        (row.inputs[0], _INPUT if not of_distributions else _DISTRIBUTION),
        *([(row.inputs[1], _TARGET_AS_INPUT if row.same_shape else _TARGET)]
          if len(row.inputs) > 1 else []),
        *([("axis", "The axis that is summed.")] if of_distributions else []),
        *((a.name, a.description) for a in (*row.operands, *row.parameters)),
    ]  # fmt: skip
    if not of_distributions:
        divisor = _WEIGHTED_MEAN if row.weight_as_input and row.name != "huber_loss" else _MEAN
        batch = ', ``"batchmean"`` (the sum over the first dimension)'
        known = batch if "batchmean" in row.reductions else ""
        described.append(("reduction", f'``"mean"`` ({divisor}), ``"sum"``{known} or ``"none"``.'))
    sums = "An array without that axis" if of_distributions else "A scalar, or each loss"
    suffix = "" if of_distributions else ' under ``"none"``'
    arguments = ", ".join([*positional, "*", *extra])
    function = define(
        row.name, f"({arguments}) -> Any", f"{core}, 0, None, None)", globals(), **constants
    )
    function.__doc__ = _DOCUMENTATION.format(
        summary=row.summary,
        arguments=_described(described),
        returns=f"{sums}{suffix}, of the input's dtype.",
        example=row.example,
    )
    name = f"{row.name}_with_grad"
    arguments += f", wrt: Sequence[str] = ({row.inputs[0]!r},), out: Array | None = None"
    gradients = define(
        name,
        f"({arguments}) -> tuple[Any, ...]",
        f"with_gradients(row, (bits := row.bits(wrt)), {core}, bits, as_output(out, row.name), "
        "None), wrt)",
        globals(),
        **constants,
    )
    names = ", ".join(f"``{name!r}``" for name in row.differentiable)
    gradients.__doc__ = _DOCUMENTATION.format(
        summary=f"`{row.name}` and its gradients, in one pass.",
        arguments=_described(
            [
                *((name, f"As in `{row.name}`.") for name, _ in described),
                ("wrt", f"What to differentiate with respect to: some of {names}."),
                (
                    "out",
                    "Where the first operand's gradient goes: an array of its shape and dtype.\n"
                    "It may be an operand itself; any other overlap is refused.",
                ),
            ]
        ),
        returns="``(loss, *gradients)``, the gradients in the order of ``wrt``"
        + ("; they are those of the\n    sum of all." if of_distributions else "")
        + ("" if of_distributions else ';\n    under ``"none"`` they are those of the sum.'),
        example=_gradient_example(row),
    )
    for made in (function, gradients):
        made.__module__ = __name__
        globals()[made.__name__] = made
        __all__.append(made.__name__)
    LOSSES[row.name] = row


def _gradient_example(row: Loss) -> str:
    """The loss's example again, for the number of results."""
    call = row.example.strip().splitlines()
    setup = "".join(f"\n    {line.strip()}" for line in call[:-2])
    expression = call[-2].strip().removeprefix(">>> ")
    start = expression.index(f"{row.name}(")
    depth, end = 0, start
    for end in range(start, len(expression)):
        depth += {"(": 1, ")": -1}.get(expression[end], 0)
        if depth == 0 and expression[end] == ")":
            break
    inner = expression[start : end + 1].replace(f"{row.name}(", f"{row.name}_with_grad(", 1)
    return f"{setup}\n    >>> loss, grad = {inner}\n    >>> grad.shape\n    (2,)"


_INPUT = "Any shape, floating."
_TARGET = "A shape that can be broadcast with the input's; of its dtype."
_TARGET_AS_INPUT = "Of the input's shape and dtype."
_DISTRIBUTION = "Probabilities, any shape, floating."
_MEAN = "over all elements"
_WEIGHTED_MEAN = "over all elements; with a weight, over the sum of the weights"


def _weight(description: str) -> Argument:
    return Argument("weight", description, "None", "Array | None")


_SAME_WEIGHT = _weight("A factor for each loss, of the input's shape and dtype.")
_FITTING_WEIGHT = _weight(
    "A factor for each loss, of a shape that can be broadcast to the input's."
)
_EXAMPLE = """
    >>> import numpy as np
    >>> x, y = np.array([0.25, 0.5]), np.array([0.75, 0.0])
    >>> round(float({call}), 4)
    {result}"""


def _example(name: str, result: float, extra: str = "") -> str:
    return _EXAMPLE.format(call=f"{name}(x, y{extra})", result=result)


_define(
    Loss(
        "mse_loss",
        "``(input - target)**2`` (`torch.nn.functional.mse_loss`).",
        lambda: ("mse_loss", 0, 0),
        _example("mse_loss", 0.25),
        module="MSELoss",
        operands=(_SAME_WEIGHT,),
        differentiable=("input", "target", "weight"),
        weight_as_input=True,
    )
)

_define(
    Loss(
        "l1_loss",
        "``abs(input - target)`` (`torch.nn.functional.l1_loss`); its derivative is 0 at 0.",
        lambda: ("l1_loss", 0, 0),
        _example("l1_loss", 0.5),
        module="L1Loss",
        operands=(_SAME_WEIGHT,),
        differentiable=("input", "target", "weight"),
        weight_as_input=True,
    )
)

_define(
    Loss(
        "smooth_l1_loss",
        "``d**2 / (2 * beta)`` where ``d = abs(input - target)`` is below ``beta``, else\n"
        "``d - beta / 2`` (`torch.nn.functional.smooth_l1_loss`).",
        lambda beta: ("smooth_l1_loss" if beta else "l1_loss", beta, 0),
        _example("smooth_l1_loss", 0.125),
        module="SmoothL1Loss",
        parameters=(Argument("beta", "Where it turns linear, at least 0.", "1.0"),),
        error=lambda beta: None if beta >= 0 else f"beta: expected at least 0, got {beta}",
    )
)

_define(
    Loss(
        "huber_loss",
        "``d**2 / 2`` where ``d = abs(input - target)`` is at most ``delta``, else\n"
        "``delta * (d - delta / 2)`` (`torch.nn.functional.huber_loss`).",
        lambda delta: ("huber_loss", delta, 0),
        _example("huber_loss", 0.125),
        module="HuberLoss",
        operands=(_SAME_WEIGHT,),
        parameters=(Argument("delta", "Where it turns linear, above 0.", "1.0"),),
        error=lambda delta: None if delta > 0 else f"delta: expected above 0, got {delta}",
        differentiable=("input", "target", "weight"),
        weight_as_input=True,
    )
)

_define(
    Loss(
        "kl_div",
        "``target * (log(target) - input)`` with ``0 log 0 = 0``: the input is a logarithm\n"
        "(`torch.nn.functional.kl_div`; `kl_divergence` takes two distributions).",
        lambda log_target: ("kl_div_log_target" if log_target else "kl_div", 0, 0),
        _example("kl_div", -0.2016),
        module="KLDivLoss",
        parameters=(Argument("log_target", "The target is a logarithm too.", "False", "bool"),),
        reductions=(*_REDUCTIONS, "batchmean"),
    )
)

_define(
    Loss(
        "binary_cross_entropy",
        "``-target * log(input) - (1 - target) * log(1 - input)``, each logarithm at least -100\n"
        "(`torch.nn.functional.binary_cross_entropy`). Both operands must lie in [0, 1].",
        lambda: ("binary_cross_entropy", 0, 0),
        _example("binary_cross_entropy", 0.9024),
        module="BCELoss",
        operands=(_FITTING_WEIGHT,),
        same_shape=True,
    )
)

_define(
    Loss(
        "binary_cross_entropy_with_logits",
        "`binary_cross_entropy` of ``sigmoid(input)``, without the detour\n"
        "(`torch.nn.functional.binary_cross_entropy_with_logits`). An infinite logit gives the\n"
        "limit: no loss where the target agrees, else an infinite one (torch mostly gives NaN).",
        lambda: ("binary_cross_entropy_with_logits", 0, 0),
        _example("binary_cross_entropy_with_logits", 0.8063),
        module="BCEWithLogitsLoss",
        operands=(
            _FITTING_WEIGHT,
            Argument(
                "pos_weight",
                "A factor for the loss of positive targets, of a shape that can be broadcast to\n"
                "the input's.",
                "None",
                "Array | None",
            ),
        ),
        same_shape=True,
    )
)

_define(
    Loss(
        "gaussian_nll_loss",
        "``(log(v) + (input - target)**2 / v) / 2`` with ``v = max(var, eps)``\n"
        "(`torch.nn.functional.gaussian_nll_loss`).",
        lambda full, eps: ("gaussian_nll_loss", eps, 0.5 * math.log(2 * math.pi) if full else 0),
        _example("gaussian_nll_loss", -0.0966, ", 0.5"),
        module="GaussianNLLLoss",
        operands=(
            Argument(
                "var",
                "The variances, not negative: of the input's shape, that without its last\n"
                "dimension or with one dimension of 1; or a number.",
                annotation="Array | float",
            ),
        ),
        parameters=(
            Argument("full", "Add the constant ``log(2 pi) / 2``.", "False", "bool"),
            Argument("eps", "The smallest variance; its gradient passes there.", "1e-6"),
        ),
        differentiable=("input", "target", "var"),
    )
)

_define(
    Loss(
        "poisson_nll_loss",
        "``exp(input) - target * input``, or ``input - target * log(input + eps)`` where the\n"
        "input is no logarithm (`torch.nn.functional.poisson_nll_loss`).",
        lambda log_input, full, eps: (
            "poisson_nll_loss_of_log" if log_input else "poisson_nll_loss",
            1 if full else 0,
            eps,
        ),
        _example("poisson_nll_loss", 1.3726),
        module="PoissonNLLLoss",
        parameters=(
            Argument("log_input", "The input is the logarithm of the rate.", "True", "bool"),
            Argument(
                "full",
                "Add Stirling's approximation of ``log(target!)`` where the target exceeds 1.",
                "False",
                "bool",
            ),
            Argument("eps", "Keeps a rate of 0 from an infinite logarithm.", "1e-8"),
        ),
    )
)

_define(
    Loss(
        "sigmoid_focal_loss",
        "Binary cross-entropy of ``sigmoid(input)`` times ``(1 - p)**gamma``, p the probability\n"
        "given to the target, and a balance of the two targets (Lin et al., 2017;\n"
        "`torchvision.ops.sigmoid_focal_loss`).",
        lambda alpha, gamma: ("sigmoid_focal_loss", alpha, gamma),
        _EXAMPLE.format(
            call="sigmoid_focal_loss(x, y).sum()",
            result=0.3357,
        ),
        parameters=(
            Argument(
                "alpha", "The weight of a target of 1, in [0, 1]; 0 has the rest. -1: none.", "0.25"
            ),
            Argument("gamma", "How much less a loss counts that is small already.", "2"),
        ),
        error=lambda alpha, gamma: (
            None
            if 0 <= alpha <= 1 or alpha == -1
            else f"Invalid alpha value: {alpha}. alpha must be in the range [0,1] or -1 for ignore."
        ),
        reduction="none",
        same_shape=True,
    )
)

_BASE = Argument("base", "Of the logarithm; None: e.", "None", "float | None")


def _of_base(key: str) -> Callable[..., tuple[str, float, float]]:
    return lambda base: (key, 1 if base is None else 1 / math.log(base), 0)


def _wrong_base(base: float | None) -> str | None:
    fine = base is None or (base > 0 and base != 1)
    return None if fine else f"base: expected above 0 and not 1, got {base}"


_DISTRIBUTIONS = """
    >>> p, q = [0.5, 0.5], [0.25, 0.75]
    >>> round(float({call}), 4)
    {result}"""

_define(
    Loss(
        "entropy",
        "``-sum(p * log(p))`` along an axis, with ``0 log 0 = 0``: the information of a draw.",
        _of_base("entropy"),
        _DISTRIBUTIONS.format(call="entropy(p, base=2)", result=1.0),
        inputs=("p",),
        parameters=(_BASE,),
        error=_wrong_base,
        differentiable=("p",),
        reduction=None,
    )
)

_define(
    Loss(
        "cross_entropy_of_distributions",
        "``-sum(p * log(q))`` along an axis, with ``0 log 0 = 0``: `entropy` of p plus\n"
        "`kl_divergence` of p from q.",
        _of_base("cross_entropy_of_distributions"),
        _DISTRIBUTIONS.format(call="cross_entropy_of_distributions(p, q)", result=0.837),
        inputs=("p", "q"),
        parameters=(_BASE,),
        error=_wrong_base,
        differentiable=("p", "q"),
        reduction=None,
    )
)

_define(
    Loss(
        "kl_divergence",
        "``sum(p * log(p / q))`` along an axis, with ``0 log 0 = 0`` (`scipy.stats.entropy` of\n"
        "two arguments; `kl_div` takes a logarithm).",
        _of_base("kl_divergence"),
        _DISTRIBUTIONS.format(call="kl_divergence(p, q)", result=0.1438),
        inputs=("p", "q"),
        parameters=(_BASE,),
        error=_wrong_base,
        differentiable=("p", "q"),
        reduction=None,
    )
)
