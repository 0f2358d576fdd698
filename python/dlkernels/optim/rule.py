"""An optimizer as both fronts and its kernel take it: what arguments it has, which states it keeps,
how its step count and bias corrections advance, what its kernel computes with.

The arithmetic is torch's own, on Python floats, in the order of ``torch/optim``.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

__all__ = [
    "BIT_EQUAL",
    "MAXIMIZE",
    "TWO_UNITS",
    "Argument",
    "Group",
    "Numbers",
    "Rule",
    "check_betas",
    "check_nonnegative",
    "is_number",
    "learning_rate",
    "overflow_text",
    "weight_decays",
]

#: How a rule's results compare to those of torch's loop over single tensors, on AVX2 and AVX-512.
BIT_EQUAL = "Results in float32 and float64 have the bits of torch's loop on AVX2 and AVX-512."
TWO_UNITS = (
    "Averages in float32 and float64 have the bits of torch's loop on AVX2 and AVX-512; parameters "
    "are within two units in the last place per step (where what is added is the larger, a few "
    "units of that)."
)

Group = Mapping[str, Any]
Numbers = tuple[float, ...]


def is_number(value: Any) -> bool:
    """Whether this is a real number, or an array of no dimensions that holds one."""
    if isinstance(value, (Real, np.bool_)):
        return True
    if getattr(value, "shape", None) != () or not hasattr(value, "__float__"):
        return False
    return getattr(value.dtype, "kind", "f") in "fiubV"  # V: ml_dtypes


@dataclass(frozen=True)
class Argument:
    """An argument of a constructor and a key of the groups.

    Attributes:
        name: Its name.
        default: Its default; of a rule's argument a number, a pair of numbers or a flag, as every
            value of it is.
        text: Its line in the docstring.
        keyword: Whether it is keyword-only.
        shown: Whether the constructor has it; else it is a key of the groups alone.
        annotation: Its type, where the default does not tell.
    """

    name: str
    default: Any
    text: str = ""
    keyword: bool = False
    shown: bool = True
    annotation: Any = None

    @property
    def kind(self) -> Any:
        """Its type."""
        if self.annotation is not None:
            return self.annotation
        if isinstance(self.default, tuple):
            return tuple[float, float]
        return bool if isinstance(self.default, bool) else float

    @property
    def source(self) -> str:
        """The argument as in a signature."""
        return f"{self.name}: {inspect.formatannotation(self.kind)} = {self.default!r}"

    def check(self, operation: str, value: Any) -> None:
        """Raises for what is no number, pair of numbers or flag where it should be.

        Raises:
            TypeError: It is something else.
            ValueError: It is another number of numbers.
        """
        if isinstance(self.default, tuple):
            expected = "a pair of numbers"
            holds = isinstance(value, (tuple, list, np.ndarray)) and all(map(is_number, value))
            if holds and len(value) != 2:
                raise ValueError(
                    f"{operation}: {self.name}: expected {expected}, got {reprlib.repr(value)}"
                )
        elif isinstance(self.default, bool):
            expected, holds = "True or False", isinstance(value, (bool, np.bool_))
        else:
            expected, holds = "a number", is_number(value)
        if not holds:
            raise TypeError(
                f"{operation}: {self.name}: expected {expected}, got {reprlib.repr(value)}"
            )


def learning_rate(default: float) -> Argument:
    """The first argument of every rule."""
    return Argument("lr", default, "Learning rate.")


#: The last one.
MAXIMIZE = Argument("maximize", False, "Ascend instead.", keyword=True)


def _no_scalars(group: Group) -> Numbers:
    return (0.0,)


def _no_fill(group: Group) -> Numbers:
    return (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Rule:
    """An optimizer.

    Attributes:
        kernel: Its name in ``kernels.def``.
        formula: What a step does, for docstrings.
        accuracy: How its results compare to torch's, for docstrings.
        arguments: Those of its constructor, besides the parameters.
        slots: Names of the tensors of a parameter's state, in the kernel's order; at most three.
        advance: ``(group, scalars, fresh, single) -> (scalars after this step, numbers)``, where
            ``numbers`` are what the kernel's functor is made from, at most twelve. ``fresh``: the
            parameter's first step, of a rule whose states start from the gradient. Bit k of
            ``single``: scalar k is kept in float32.
        check: Raises torch's ValueError for a group's bad value.
        raises: What that says, for docstrings.
        when: Slots that a group keeps only with some values of an argument: the name of the
            argument.
        is_kept: Whether an argument of `when` has such a value.
        scalars: Names of the numbers of a parameter's state.
        first_scalars: Their values before the first step.
        fill: What the slots hold before the first step.
        signed: Which of the slots have a sign, for a rule whose states may be kept in eight bits or
            bfloat16 whatever the parameter is.
        elementwise: Whether an element's step depends on no other element.
    """

    kernel: str
    formula: str
    arguments: tuple[Argument, ...]
    slots: tuple[str, ...]
    advance: Callable[[Group, Numbers, bool, int], tuple[Numbers, Numbers]]
    check: Callable[[Group], None]
    accuracy: str = ""
    raises: str = "A number is negative or out of range"
    when: Mapping[str, str] = field(default_factory=dict)
    is_kept: Callable[[Any], Any] = bool
    scalars: tuple[str, ...] = ("step",)
    first_scalars: Callable[[Group], Numbers] = _no_scalars
    fill: Callable[[Group], Numbers] = _no_fill
    signed: tuple[bool, ...] = ()
    elementwise: bool = True
    #: Of the arguments.
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Collects the names."""
        object.__setattr__(self, "names", tuple(argument.name for argument in self.arguments))

    @property
    def signs(self) -> tuple[bool, ...]:
        """Which of the slots may hold negative numbers; all, where that was not said."""
        return self.signed or (True,) * len(self.slots)

    def used_slots(self, group: Group) -> tuple[str | None, ...]:
        """The slots' names, None for those that this group does not keep."""
        when = self.when
        if not when:
            return self.slots
        return tuple(
            [
                name if name not in when or self.is_kept(group[when[name]]) else None
                for name in self.slots
            ]
        )

    def check_types(self, operation: str, group: Group) -> None:
        """Raises for an argument in a group that is no number, pair of numbers or flag where it
        should be.

        Raises:
            TypeError: It is something else.
            ValueError: It is another number of numbers.
        """
        for argument in self.arguments:
            if argument.name in group:
                argument.check(operation, group[argument.name])


def overflow_text(error: OverflowError, rule: Rule, groups: Iterable[Group]) -> str:
    """What is wrong where a number of a step is finite, but not in float32; with the arguments that
    are so themselves."""
    largest = float(np.finfo(np.float32).max)
    values = [
        (argument.name, group.get(argument.name)) for group in groups for argument in rule.arguments
    ]
    named = {
        f"{name}={float(value)}"
        for name, value in values
        if value is not None and is_number(value) and largest < abs(float(value)) < np.inf
    }
    return f"{error} ({', '.join(sorted(named))})" if named else str(error)


# --- what rules share


def check_nonnegative(group: Group, **labels: str) -> None:
    """Raises torch's ValueError for a negative argument; `labels`: what torch calls each."""
    for name, label in labels.items():
        if not group[name] >= 0.0:
            raise ValueError(f"Invalid {label}: {group[name]}")


def check_betas(group: Group) -> None:
    """Raises torch's ValueError for a beta outside [0, 1)."""
    for index, beta in enumerate(group["betas"]):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")


def weight_decays(group: Group) -> tuple[float, float]:
    """The coupled weight decay, and the factor of the parameter for a decoupled one."""
    decay = group["weight_decay"]
    if group.get("decoupled_weight_decay"):
        return 0.0, 1 - group["lr"] * decay if decay else 1.0
    return decay, 1.0
