"""What an optimizer does between its kernel and its users, once for both fronts: which states it
keeps, how its step count and other numbers advance, what its kernel computes with.

The arithmetic here is torch's own, on Python floats, in the order of ``torch/optim``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ADAM", "SGD", "Rule"]

Group = Mapping[str, Any]
Numbers = tuple[float, ...]


def _uses_all(group: Group) -> tuple[bool, ...]:
    return (True, True, True)


def _no_scalars(group: Group) -> Numbers:
    return (0.0,)


def _no_fill(group: Group) -> Numbers:
    return (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Rule:
    """An optimizer as its kernel takes it.

    Attributes:
        kernel: Its name in ``csrc/kernels/kernels.def``.
        slots: Names of the tensors of a parameter's state, in the kernel's order; at most three.
        advance: ``(group, scalars, fresh, single) -> (scalars after this step, numbers)``, where
            ``numbers`` are what the kernel's functor is made from, at most twelve. ``fresh``: the
            parameter's first step, of a rule whose states start from the gradient. ``single``: the
            scalars are kept in float32.
        check: Raises torch's ValueError for a group's bad value.
        uses: Which of ``slots`` a group keeps.
        scalars: Names of the numbers of a parameter's state.
        first_scalars: Their values before the first step.
        fill: What the slots hold before the first step.
    """

    kernel: str
    slots: tuple[str, ...]
    advance: Callable[[Group, Numbers, bool, bool], tuple[Numbers, Numbers]]
    check: Callable[[Group], None]
    uses: Callable[[Group], tuple[bool, ...]] = _uses_all
    scalars: tuple[str, ...] = ("step",)
    first_scalars: Callable[[Group], Numbers] = _no_scalars
    fill: Callable[[Group], Numbers] = _no_fill

    def used_slots(self, group: Group) -> tuple[str | None, ...]:
        """The slots' names, None for those that this group does not keep."""
        return tuple(
            name if used else None
            for name, used in zip(self.slots, self.uses(group), strict=False)
        )


def _check_nonnegative(group: Group, **labels: str) -> None:
    for name, label in labels.items():
        if not group[name] >= 0.0:
            raise ValueError(f"Invalid {label}: {group[name]}")


def _check_betas(group: Group) -> None:
    for index, beta in enumerate(group["betas"]):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")


def _decay(group: Group) -> tuple[float, float]:
    """The coupled weight decay, and the factor of the parameter for a decoupled one."""
    decay = float(group["weight_decay"])
    if group.get("decoupled_weight_decay"):
        return 0.0, 1 - group["lr"] * decay if decay else 1.0
    return decay, 1.0


# --- SGD


def _check_sgd(group: Group) -> None:
    _check_nonnegative(
        group,
        lr="learning rate",
        momentum="momentum value",
        weight_decay="weight_decay value",
    )
    if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")


def _advance_sgd(
    group: Group, scalars: Numbers, fresh: bool, single: bool
) -> tuple[Numbers, Numbers]:
    return (), (
        -group["lr"],
        float(group["momentum"]),
        1 - float(group["dampening"]),
        float(group["weight_decay"]),
        bool(group["nesterov"]),
        bool(group["maximize"]),
        fresh,
    )


SGD = Rule(
    kernel="sgd",
    slots=("momentum_buffer",),
    advance=_advance_sgd,
    check=_check_sgd,
    uses=lambda group: (group["momentum"] != 0,),
    scalars=(),
    first_scalars=lambda group: (),
)


# --- Adam, AdamW


def _check_adam(group: Group) -> None:
    _check_nonnegative(group, lr="learning rate", eps="epsilon value")
    _check_betas(group)
    _check_nonnegative(group, weight_decay="weight_decay value")


def _advance_adam(
    group: Group, scalars: Numbers, fresh: bool, single: bool
) -> tuple[Numbers, Numbers]:
    step = scalars[0] + 1
    beta1, beta2 = group["betas"]
    bias_correction1 = 1 - beta1**step
    bias_correction2 = 1 - beta2**step
    coupled, factor = _decay(group)
    return (step,), (
        -(group["lr"] / bias_correction1),
        1 - beta1,
        beta2,
        1 - beta2,
        bias_correction2**0.5,
        float(group["eps"]),
        coupled,
        factor,
        bool(group["maximize"]),
    )


ADAM = Rule(
    kernel="adam",
    slots=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    advance=_advance_adam,
    check=_check_adam,
    uses=lambda group: (True, True, bool(group["amsgrad"])),
)
