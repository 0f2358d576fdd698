"""Rules that divide by the sizes of past gradients, without bias correction."""

from __future__ import annotations

from dlkernels.optim.rule import (
    MAXIMIZE,
    TWO_UNITS,
    Argument,
    Group,
    Numbers,
    Rule,
    check_nonnegative,
    learning_rate,
)

__all__ = ["ADADELTA", "ADAGRAD", "RMSPROP"]


def _check_adagrad(group: Group) -> None:
    check_nonnegative(
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
    formula="""
        ``g = grad + weight_decay * p``; ``sum += g * g``;
        ``p += (-lr / (1 + (t - 1) * lr_decay) * g) / (sqrt(sum) + eps)``; square root and division
        correctly rounded.
    """,
    accuracy=TWO_UNITS,
    arguments=(
        learning_rate(1e-2),
        Argument("lr_decay", 0.0, "Decay of the learning rate."),
        Argument("weight_decay", 0.0, "L2 penalty."),
        Argument("initial_accumulator_value", 0.0, "What the sums start from."),
        Argument("eps", 1e-10, "Added to the denominator."),
        MAXIMIZE,
    ),
    slots=("sum",),
    advance=_advance_adagrad,
    check=_check_adagrad,
    fill=lambda group: (group["initial_accumulator_value"],),
    signed=(False,),
)


def _check_rmsprop(group: Group) -> None:
    check_nonnegative(
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
    formula="""
        ``g = grad + weight_decay * p``; ``v = alpha * v + (1 - alpha) * g * g``; if centered
        ``a += (1 - alpha) * (g - a)``; ``d = sqrt(v - a * a if centered else v) + eps``;
        ``p += (-lr * g) / d``, or with momentum ``b = momentum * b + g / d``, ``p -= lr * b``;
        square root and division correctly rounded.
    """,
    accuracy=TWO_UNITS,
    arguments=(
        learning_rate(1e-2),
        Argument("alpha", 0.99, "Decay of the averages."),
        Argument("eps", 1e-8, "Added to the denominator."),
        Argument("weight_decay", 0.0, "L2 penalty."),
        Argument("momentum", 0.0, "Momentum factor; 0 keeps no buffers."),
        Argument("centered", False, "Divide by the standard deviation instead."),
        MAXIMIZE,
    ),
    slots=("square_avg", "momentum_buffer", "grad_avg"),
    advance=_advance_rmsprop,
    check=_check_rmsprop,
    when={"momentum_buffer": "momentum", "grad_avg": "centered"},
    is_kept=lambda value: value > 0,  # a group's momentum may be negative: none for torch
    signed=(False, True, True),
)


def _check_adadelta(group: Group) -> None:
    check_nonnegative(group, lr="learning rate")
    if not 0.0 <= group["rho"] <= 1.0:
        raise ValueError(f"Invalid rho value: {group['rho']}")
    check_nonnegative(group, eps="epsilon value", weight_decay="weight_decay value")


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
    formula="""
        ``g = grad + weight_decay * p``; ``v = rho * v + (1 - rho) * g * g``;
        ``u = sqrt(w + eps) / sqrt(v + eps) * g``; ``w = rho * w + (1 - rho) * u * u``;
        ``p -= lr * u``; square roots and division correctly rounded.
    """,
    accuracy=TWO_UNITS.replace("Averages", "The averages ``v``", 1),
    arguments=(
        learning_rate(1.0),
        Argument("rho", 0.9, "Decay of the averages."),
        Argument("eps", 1e-6, "Added below both square roots."),
        Argument("weight_decay", 0.0, "L2 penalty."),
        MAXIMIZE,
    ),
    slots=("square_avg", "acc_delta"),
    advance=_advance_adadelta,
    check=_check_adadelta,
)
