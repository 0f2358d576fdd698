"""What the step of every optimizer can do besides its rule, once for both fronts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypedDict, TypeVar, overload

import numpy as np

from dlkernels import _core

__all__ = ["AVERAGE", "Extra", "Extras", "StepArguments", "inverse_scale", "with_keywords"]

Value = TypeVar("Value")

#: The state that holds a parameter's moving average.
AVERAGE = "ema"


class StepArguments(TypedDict, total=False):
    """The keyword arguments of every class, from NumPy."""

    max_grad_norm: float | None
    write_back: bool
    ema_decay: float | None
    zero_grads: bool


@dataclass(frozen=True)
class Extras:
    """The keyword arguments of every class.

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

    def __post_init__(self) -> None:
        """Raises ValueError for a number out of range."""
        if self.max_grad_norm is not None and not self.max_grad_norm >= 0:
            raise ValueError(f"Invalid max_grad_norm value: {self.max_grad_norm}")
        if self.ema_decay is not None and not 0 <= self.ema_decay <= 1:
            raise ValueError(f"Invalid ema_decay value: {self.ema_decay}")

    @property
    def any(self) -> bool:
        """Whether a step does anything besides its rule."""
        return self != Extras()

    def for_kernel(self, unscale: float, looks: bool, is_skipped: bool) -> _core.StepExtras:
        """As the kernels take them.

        Args:
            unscale: Factor of the gradients.
            looks: A gradient that is not finite skips the step.
            is_skipped: The step is skipped.
        """
        step = _core.StepExtras()
        step.unscale, step.skips_nonfinite, step.is_skipped = unscale, looks, is_skipped
        step.write_back, step.zero_grads = self.write_back, self.zero_grads
        if self.max_grad_norm is not None:
            step.max_norm = self.max_grad_norm
        if self.ema_decay is not None:
            step.average_weight = 1 - self.ema_decay
        return step


class Extra(Generic[Value]):
    """One of `Extras` as an attribute of an optimizer, which may be changed between steps."""

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
        value: Value = getattr(instance._extras, self._name)
        return value

    def __set__(self, instance: Any, value: Value) -> None:
        """Checks the value."""
        changes: dict[str, Any] = {self._name: value}
        instance._extras = replace(instance._extras, **changes)


def inverse_scale(scale: Any) -> float:
    """The factor that undoes a loss scale, rounded as `torch.amp.GradScaler` rounds it."""
    number = float(scale)
    if not number > 0:
        raise ValueError(f"grad_scale: expected a positive number, got {number}")
    return float(np.float32(1 / number))


def with_keywords(signature: inspect.Signature, owner: Mapping[str, Any]) -> inspect.Signature:
    """The signature with the fields of `Extras` that are attributes of a class as further
    keyword-only arguments."""
    named = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    added = [
        field.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, field in inspect.signature(Extras).parameters.items()
        if name in owner
    ]
    return signature.replace(parameters=[*named, *added])
