"""What the step of every optimizer can do besides its rule, for both fronts."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Generic, TypeVar, overload

import numpy as np

from dlkernels import _core
from dlkernels.optim.rule import Argument, is_number

__all__ = [
    "ARGUMENTS",
    "AVERAGE",
    "AVERAGED",
    "Extra",
    "Extras",
    "count_average",
    "extras_of",
    "inverse_scale",
    "take_extras",
    "unchosen",
]

Value = TypeVar("Value")

#: The state that holds a parameter's moving average.
AVERAGE = "ema"
#: A group's key beside ``ema_decay``: how many steps the averages have taken. Before the first they
#: may be there, so that a checkpoint can be loaded into them, and mean nothing.
AVERAGED = "ema_steps"

Groups = Sequence[dict[str, Any]]


#: The arguments of every class, as its signature and docstring have them.
ARGUMENTS = (
    Argument(
        "max_grad_norm",
        None,
        "Clip the norm of all gradients together to this, with the coefficient of "
        "`torch.nn.utils.clip_grad_norm_`; the gradients stay as they are.",
        keyword=True,
        annotation=float | None,
    ),
    Argument(
        "write_back", False, "Leave the gradients as the rule saw them, unscaled and clipped.", True
    ),
    Argument(
        "ema_decay",
        None,
        "Keep moving averages of the parameters, ``ema = ema_decay * ema + (1 - ema_decay) * p``, "
        'the first step a copy; state ``"ema"``, in the dtype of parameter or state, whichever is '
        "wider.",
        keyword=True,
        annotation=float | None,
    ),
    Argument("zero_grads", False, "Leave the gradients zero.", True),
)


@dataclass(frozen=True)
class Extras:
    """The options of a step. They stand in the parameter groups, and so in state dicts and in
    whatever wraps an optimizer; those of the first group count for all.

    Attributes:
        max_grad_norm: What the norm of all gradients together is clipped to.
        write_back: Leave the gradients as the rule saw them.
        ema_decay: Weight of the past in the parameters' moving average.
        zero_grads: Leave the gradients zero.
        scaler_in_step: A GradScaler leaves unscaling and skipping to the step; torch only.
    """

    max_grad_norm: float | None = None
    write_back: bool = False
    ema_decay: float | None = None
    zero_grads: bool = False
    scaler_in_step: bool = False

    def checked(self, operation: str) -> Extras:
        """Itself.

        Raises:
            TypeError: Something is no number, or neither True nor False.
            ValueError: A number is out of range.
        """
        for field in fields(self):
            value, is_flag = getattr(self, field.name), field.default is False
            if (
                isinstance(value, (bool, np.bool_))
                if is_flag
                else value is None or is_number(value)
            ):
                continue
            raise TypeError(
                f"{operation}: {field.name}: expected "
                f"{'True or False' if is_flag else 'a number or None'}, got {reprlib.repr(value)}"
            )
        if self.max_grad_norm is not None and not self.max_grad_norm >= 0:
            raise ValueError(f"Invalid max_grad_norm value: {self.max_grad_norm}")
        if self.ema_decay is not None and not 0 <= self.ema_decay <= 1:
            raise ValueError(f"Invalid ema_decay value: {self.ema_decay}")
        return self

    @property
    def any(self) -> bool:
        """Whether a step does anything besides its rule."""
        return self != Extras()

    @property
    def chosen(self) -> dict[str, Any]:
        """A group's keys: those that are not as torch's optimizers are."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        keys = {
            field.name: values[field.name]
            for field in fields(self)
            if values[field.name] != field.default
        }
        return {**keys, AVERAGED: 0} if self.ema_decay is not None else keys

    def for_kernel(
        self, groups: Groups, unscale: float, checks: bool, is_skipped: bool
    ) -> _core.StepExtras:
        """As the kernels take them.

        Args:
            groups: The parameter groups.
            unscale: Factor of the gradients.
            checks: A gradient that is not finite skips the step.
            is_skipped: The step is skipped.
        """
        step = _core.StepExtras()
        step.unscale, step.skips_nonfinite, step.is_skipped = unscale, checks, is_skipped
        step.write_back, step.zero_grads = self.write_back, self.zero_grads
        if self.max_grad_norm is not None:
            step.max_norm = self.max_grad_norm
        if self.ema_decay is not None:
            step.average_weight = 1 - self.ema_decay
            step.average_copies = not groups[0].get(AVERAGED)
        return step


def count_average(groups: Groups) -> None:
    """Counts a step of the averages."""
    steps = groups[0].get(AVERAGED, 0) + 1
    for group in groups:
        group[AVERAGED] = steps


_FIELDS = [(field.name, field.default) for field in fields(Extras)]
_NAMES, _DEFAULTS = zip(*_FIELDS, strict=True)


@lru_cache(maxsize=16, typed=True)
def _extras(operation: str, *values: Any) -> Extras:
    return Extras(*values).checked(operation)


def extras_of(operation: str, groups: Groups) -> Extras:
    """What the groups say.

    Raises:
        TypeError: Something is no number, or neither True nor False.
        ValueError: A number is out of range.
    """
    values: tuple[Any, ...] = tuple(map((groups[0] if groups else {}).get, _NAMES, _DEFAULTS))
    try:
        return _extras(operation, *values)
    except TypeError:  # also of what has no hash
        return Extras(*values).checked(operation)


def unchosen(group: Mapping[str, Any]) -> list[str]:
    """The keys of a group that stand there only because every group has them."""
    names = [name for name, default in _FIELDS if group.get(name) == default]
    return [*names, AVERAGED] if group.get("ema_decay") is None else names


def take_extras(operation: str, groups: Groups, given: Mapping[str, Any]) -> None:
    """Brings the last of the groups, which is new, to what the others have.

    Args:
        operation: The optimizer's name.
        groups: The parameter groups.
        given: The new one as it came.

    Raises:
        ValueError: It came with another value.
    """
    first, new = groups[0], groups[-1]
    if first is new and AVERAGED in new:  # a group of another optimizer
        new[AVERAGED] = 0
    for name, default in _FIELDS:
        value = first.get(name, default)
        if name in given and given[name] != value:
            raise ValueError(
                f"{operation}: {name}: expected that of the first group, {value!r}, as it counts "
                f"for all, got {given[name]!r}"
            )
    shared = {name: first[name] for name in (*dict(_FIELDS), AVERAGED) if name in first}
    for name in (*dict(_FIELDS), AVERAGED):
        new.pop(name, None)
    new.update(shared)
    extras_of(operation, groups)


class Extra(Generic[Value]):
    """One of `Extras` as an attribute of an optimizer, which may be changed between steps: that of
    its groups."""

    def __set_name__(self, owner: type, name: str) -> None:
        """Takes the attribute's name."""
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Extra[Value]: ...
    @overload
    def __get__(self, instance: Any, owner: type) -> Value: ...
    def __get__(self, instance: Any, owner: type) -> Extra[Value] | Value:
        """The value."""
        if instance is None:
            return self
        value: Value = getattr(
            extras_of(type(instance).__name__, instance.param_groups), self._name
        )
        return value

    def __set__(self, instance: Any, value: Value) -> None:
        """Checks the value."""
        changes: dict[str, Any] = {self._name: value}
        operation = type(instance).__name__
        replace(extras_of(operation, instance.param_groups), **changes).checked(operation)
        for group in instance.param_groups:
            group.update(changes)


def inverse_scale(operation: str, scale: Any) -> float:
    """The factor that undoes a loss scale, rounded as `torch.amp.GradScaler` rounds it.

    Raises:
        TypeError: It is no number.
        ValueError: It is not positive, or float32 cannot hold the factor.
    """
    if isinstance(scale, str) or not hasattr(scale, "__float__"):
        raise TypeError(f"{operation}: grad_scale: expected a number, got {reprlib.repr(scale)}")
    number = float(scale)
    with np.errstate(over="ignore", under="ignore"):
        inverse = float(np.float32(1 / number)) if number > 0 else 0.0
    if not 0 < inverse < float("inf"):
        raise ValueError(
            f"{operation}: grad_scale: expected a positive number whose inverse float32 holds, "
            f"got {number}"
        )
    return inverse
