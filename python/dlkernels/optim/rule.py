"""What an optimizer does between its kernel and its users, once for both fronts: which states it
keeps, how its step count and other numbers advance, what its kernel computes with.

The arithmetic here is torch's own, on Python floats, in the order of ``torch/optim``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

__all__ = [
    "ADADELTA",
    "ADAGRAD",
    "ADAM",
    "ADAMAX",
    "ASGD",
    "LAMB",
    "LARS",
    "LION",
    "NADAM",
    "RADAM",
    "RMSPROP",
    "RPROP",
    "SGD",
    "Rule",
    "check_types",
    "is_number",
    "overflow_text",
]

Group = Mapping[str, Any]
Numbers = tuple[float, ...]


#: Arguments that are two numbers, and that are True or False; the others are one number.
_PAIRS = ("betas", "etas", "step_sizes")
_FLAGS = (
    "amsgrad",
    "bias_correction",
    "centered",
    "decoupled_weight_decay",
    "maximize",
    "nesterov",
)
#: Keys of a group that are no arguments of the rule.
_FORMAT_KEYS = ("state_dtype", "master", "seed", "min_8bit_size", "rounding_step")
_STEP_KEYS = ("max_grad_norm", "write_back", "ema_decay", "zero_grads", "scaler_in_step")
_NOT_HERE = ("params", *_FORMAT_KEYS, *_STEP_KEYS, "ema_steps")


def is_number(value: Any) -> bool:
    """Whether this is a real number, or an array of no dimensions that holds one."""
    if isinstance(value, (Real, np.bool_)):
        return True
    if getattr(value, "shape", None) != () or not hasattr(value, "__float__"):
        return False
    return getattr(value.dtype, "kind", "f") in "fiubV"  # V: ml_dtypes


def check_types(operation: str, group: Group) -> None:
    """Raises for an argument that is no number, pair of numbers or flag where it should be.

    Args:
        operation: Who is asked.
        group: A parameter group; of its keys those that are the rule's.

    Raises:
        TypeError: It is something else.
        ValueError: It is another number of numbers.
    """
    for name, value in group.items():
        if name in _NOT_HERE:
            continue
        if name in _PAIRS:
            expected = "a pair of numbers"
            holds = isinstance(value, (tuple, list, np.ndarray)) and all(map(is_number, value))
            if holds and len(value) != 2:
                raise ValueError(
                    f"{operation}: {name}: expected {expected}, got {reprlib.repr(value)}"
                )
        elif name in _FLAGS:
            expected, holds = "True or False", isinstance(value, (bool, np.bool_))
        else:
            expected, holds = "a number", is_number(value)
        if not holds:
            raise TypeError(f"{operation}: {name}: expected {expected}, got {reprlib.repr(value)}")


def overflow_text(error: OverflowError, groups: Iterable[Group]) -> str:
    """What is wrong where a number of a step is finite, but not in float32; with the arguments that
    are so themselves."""
    largest = float(np.finfo(np.float32).max)
    named = {
        f"{name}={float(value)}"
        for group in groups
        for name, value in group.items()
        if name not in _NOT_HERE and is_number(value) and largest < abs(float(value)) < np.inf
    }
    return f"{error} ({', '.join(sorted(named))})" if named else str(error)


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
            parameter's first step, of a rule whose states start from the gradient. Bit k of
            ``single``: scalar k is kept in float32.
        check: Raises torch's ValueError for a group's bad value.
        uses: Which of ``slots`` a group keeps.
        scalars: Names of the numbers of a parameter's state.
        first_scalars: Their values before the first step.
        fill: What the slots hold before the first step.
        signed: Which of the slots have a sign, for a rule whose states may be kept in eight bits or
            bfloat16 whatever the parameter is.
        elementwise: Whether an element's step depends on no other element.
    """

    kernel: str
    slots: tuple[str, ...]
    advance: Callable[[Group, Numbers, bool, int], tuple[Numbers, Numbers]]
    check: Callable[[Group], None]
    uses: Callable[[Group], tuple[bool, ...]] = _uses_all
    scalars: tuple[str, ...] = ("step",)
    first_scalars: Callable[[Group], Numbers] = _no_scalars
    fill: Callable[[Group], Numbers] = _no_fill
    signed: tuple[bool, ...] = ()
    elementwise: bool = True

    def used_slots(self, group: Group) -> tuple[str | None, ...]:
        """The slots' names, None for those that this group does not keep."""
        return tuple(
            name if used else None for name, used in zip(self.slots, self.uses(group), strict=False)
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
    decay = group["weight_decay"]
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
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    return (), (
        -group["lr"],
        group["momentum"],
        1 - group["dampening"],
        group["weight_decay"],
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
    signed=(True,),
)


# --- Adam, AdamW


def _check_adam(group: Group) -> None:
    _check_nonnegative(group, lr="learning rate", eps="epsilon value")
    _check_betas(group)
    _check_nonnegative(group, weight_decay="weight_decay value")


def _advance_adam(
    group: Group, scalars: Numbers, fresh: bool, single: int
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
        group["eps"],
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
    signed=(True, False, False),
)


# --- Adagrad


def _check_adagrad(group: Group) -> None:
    _check_nonnegative(
        group,
        lr="learning rate",
        lr_decay="lr_decay value",
        weight_decay="weight_decay value",
        initial_accumulator_value="initial_accumulator_value value",
        eps="epsilon value",
    )


def _advance_adagrad(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    step = scalars[0] + 1
    return (step,), (
        -(group["lr"] / (1 + (step - 1) * group["lr_decay"])),
        group["eps"],
        group["weight_decay"],
        bool(group["maximize"]),
    )


ADAGRAD = Rule(
    kernel="adagrad",
    slots=("sum",),
    advance=_advance_adagrad,
    check=_check_adagrad,
    fill=lambda group: (group["initial_accumulator_value"],),
    signed=(False,),
)


# --- RMSprop, Adadelta


def _check_rmsprop(group: Group) -> None:
    _check_nonnegative(
        group,
        lr="learning rate",
        eps="epsilon value",
        momentum="momentum value",
        weight_decay="weight_decay value",
        alpha="alpha value",
    )


def _advance_rmsprop(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    return (scalars[0] + 1,), (
        -group["lr"],
        group["alpha"],
        1 - group["alpha"],
        group["eps"],
        group["momentum"],
        group["weight_decay"],
        bool(group["maximize"]),
    )


RMSPROP = Rule(
    kernel="rmsprop",
    slots=("square_avg", "momentum_buffer", "grad_avg"),
    advance=_advance_rmsprop,
    check=_check_rmsprop,
    uses=lambda group: (True, group["momentum"] > 0, bool(group["centered"])),
    signed=(False, True, True),
)


def _check_adadelta(group: Group) -> None:
    _check_nonnegative(group, lr="learning rate")
    if not 0.0 <= group["rho"] <= 1.0:
        raise ValueError(f"Invalid rho value: {group['rho']}")
    _check_nonnegative(group, eps="epsilon value", weight_decay="weight_decay value")


def _advance_adadelta(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    return (scalars[0] + 1,), (
        -group["lr"],
        group["rho"],
        1 - group["rho"],
        group["eps"],
        group["weight_decay"],
        bool(group["maximize"]),
    )


ADADELTA = Rule(
    kernel="adadelta",
    slots=("square_avg", "acc_delta"),
    advance=_advance_adadelta,
    check=_check_adadelta,
)


# --- Adamax, NAdam, RAdam


def _advance_adamax(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    step = scalars[0] + 1
    beta1, beta2 = group["betas"]
    return (step,), (
        -(group["lr"] / (1 - beta1**step)),
        1 - beta1,
        beta2,
        group["eps"],
        group["weight_decay"],
        bool(group["maximize"]),
    )


ADAMAX = Rule(
    kernel="adamax",
    slots=("exp_avg", "exp_inf"),
    advance=_advance_adamax,
    check=_check_adam,
)


def _check_nadam(group: Group) -> None:
    _check_adam(group)
    _check_nonnegative(group, momentum_decay="momentum_decay value")


def _advance_nadam(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    step, mu_product = scalars[0] + 1, scalars[1]
    lr, (beta1, beta2), decay = group["lr"], group["betas"], group["momentum_decay"]
    mu = beta1 * (1.0 - 0.5 * (0.96 ** (step * decay)))
    mu_next = beta1 * (1.0 - 0.5 * (0.96 ** ((step + 1) * decay)))
    # The product is rounded to the precision it is kept in.
    mu_product = float(np.float32(mu_product) * np.float32(mu)) if single & 2 else mu_product * mu
    coupled, factor = _decay(group)
    return (step, mu_product), (
        -lr * (1.0 - mu) / (1.0 - mu_product),
        (-lr * mu_next) / (1.0 - mu_product * mu_next),
        1 - beta1,
        beta2,
        1 - beta2,
        1 - beta2**step,
        group["eps"],
        coupled,
        factor,
        bool(group["maximize"]),
    )


NADAM = Rule(
    kernel="nadam",
    slots=("exp_avg", "exp_avg_sq"),
    advance=_advance_nadam,
    check=_check_nadam,
    scalars=("step", "mu_product"),
    first_scalars=lambda group: (0.0, 1.0),
)


def _advance_radam(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    step = scalars[0] + 1
    beta1, beta2 = group["betas"]
    bias_correction2 = 1 - beta2**step
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * (beta2**step) / bias_correction2
    rectification = 0.0
    if rho > 5.0:
        rectification = (
            (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        ) ** 0.5
    coupled, factor = _decay(group)
    return (step,), (
        group["lr"],
        1 - beta1,
        beta2,
        1 - beta2,
        1 - beta1**step,
        bias_correction2**0.5,
        group["eps"],
        rectification,
        coupled,
        factor,
        bool(group["maximize"]),
    )


RADAM = Rule(
    kernel="radam",
    slots=("exp_avg", "exp_avg_sq"),
    advance=_advance_radam,
    check=_check_adam,
)


# --- ASGD


def _check_asgd(group: Group) -> None:
    _check_nonnegative(group, lr="learning rate", weight_decay="weight_decay value")


def _advance_asgd(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    step, eta, mu = scalars
    step += 1
    lr, lambd = float(group["lr"]), group["lambd"]
    next_eta = lr / ((1 + lambd * lr * step) ** group["alpha"])
    return (step, next_eta, 1 / max(1, step - group["t0"])), (
        -eta,
        1 - lambd * eta,
        mu,
        group["weight_decay"],
        bool(group["maximize"]),
    )


ASGD = Rule(
    kernel="asgd",
    slots=("ax",),
    advance=_advance_asgd,
    check=_check_asgd,
    scalars=("step", "eta", "mu"),
    first_scalars=lambda group: (0.0, float(group["lr"]), 1.0),
)


# --- Rprop, Lion


def _check_rprop(group: Group) -> None:
    _check_nonnegative(group, lr="learning rate")
    if not 0.0 < group["etas"][0] < 1.0 < group["etas"][1]:
        raise ValueError(f"Invalid eta values: {group['etas'][0]}, {group['etas'][1]}")


def _advance_rprop(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    return (scalars[0] + 1,), (
        *group["etas"],
        *group["step_sizes"],
        bool(group["maximize"]),
    )


RPROP = Rule(
    kernel="rprop",
    slots=("prev", "step_size"),
    advance=_advance_rprop,
    check=_check_rprop,
    fill=lambda group: (0.0, float(group["lr"])),
)


def _check_lion(group: Group) -> None:
    _check_nonnegative(group, lr="learning rate")
    _check_betas(group)
    _check_nonnegative(group, weight_decay="weight_decay value")


def _advance_lion(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    beta1, beta2 = group["betas"]
    return (), (
        group["lr"],
        1 - beta1,
        1 - beta2,
        1 - group["lr"] * group["weight_decay"],
        bool(group["maximize"]),
    )


LION = Rule(
    kernel="lion",
    slots=("exp_avg",),
    advance=_advance_lion,
    check=_check_lion,
    scalars=(),
    first_scalars=lambda group: (),
    signed=(True,),
)


# --- LAMB, LARS


def _advance_lamb(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    step = scalars[0] + 1
    beta1, beta2 = group["betas"]
    corrects = group["bias_correction"]
    return (step,), (
        group["lr"],
        1 - beta1,
        beta2,
        1 - beta2,
        1 / (1 - beta1**step) if corrects else 1.0,
        (1 - beta2**step) ** 0.5 if corrects else 1.0,
        group["eps"],
        group["weight_decay"],
        bool(group["maximize"]),
    )


LAMB = Rule(
    kernel="lamb",
    slots=("exp_avg", "exp_avg_sq"),
    advance=_advance_lamb,
    check=_check_adam,
    elementwise=False,
)


def _check_lars(group: Group) -> None:
    _check_sgd(group)
    _check_nonnegative(group, trust_coefficient="trust_coefficient value", eps="epsilon value")


def _advance_lars(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    return (), (
        group["lr"],
        *_advance_sgd(group, scalars, fresh, single)[1][1:],
        group["trust_coefficient"],
        group["eps"],
    )


LARS = Rule(
    kernel="lars",
    slots=("momentum_buffer",),
    advance=_advance_lars,
    check=_check_lars,
    uses=SGD.uses,
    scalars=(),
    first_scalars=SGD.first_scalars,
    elementwise=False,
)
