"""Rules that step by the sign."""

from __future__ import annotations

from dlkernels.optim.rule import (
    BIT_EQUAL,
    MAXIMIZE,
    Argument,
    Group,
    Numbers,
    Rule,
    check_betas,
    check_nonnegative,
    learning_rate,
)

__all__ = ["LION", "RPROP"]


def _check_rprop(group: Group) -> None:
    check_nonnegative(group, lr="learning rate")
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
    formula="""
        Each element's step grows by ``etas[1]`` while its gradient keeps its sign; where it changes
        the step shrinks by ``etas[0]`` and the gradient counts as zero. ``p -= sign(g) * step``.
    """,
    accuracy=BIT_EQUAL,
    arguments=(
        Argument("lr", 1e-2, "First step of every element."),
        Argument("etas", (0.5, 1.2), "Factors of the steps."),
        Argument("step_sizes", (1e-6, 50), "Smallest and largest step."),
        MAXIMIZE,
    ),
    slots=("prev", "step_size"),
    advance=_advance_rprop,
    check=_check_rprop,
    fill=lambda group: (0.0, float(group["lr"])),
)


def _check_lion(group: Group) -> None:
    check_nonnegative(group, lr="learning rate")
    check_betas(group)
    check_nonnegative(group, weight_decay="weight_decay value")


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
    formula="""
        ``c = m + (1 - beta1) * (g - m)``; ``p = p * (1 - lr * weight_decay) - lr * sign(c)``;
        ``m += (1 - beta2) * (g - m)``; each sum with its product one fma; the sign of zero and of
        NaN is 0.
    """,
    arguments=(
        learning_rate(1e-4),
        Argument("betas", (0.9, 0.99), "Weights of the average in the step, and in itself."),
        Argument("weight_decay", 0.0, "Decoupled weight decay."),
        MAXIMIZE,
    ),
    slots=("exp_avg",),
    advance=_advance_lion,
    check=_check_lion,
    scalars=(),
    first_scalars=lambda group: (),
    signed=(True,),
)
