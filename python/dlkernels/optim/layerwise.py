"""Rules whose steps depend on norms of whole parameters."""

from __future__ import annotations

from dataclasses import replace

from dlkernels.optim.adam import ADAM
from dlkernels.optim.rule import (
    MAXIMIZE,
    Argument,
    Group,
    Numbers,
    Rule,
    check_nonnegative,
    learning_rate,
)
from dlkernels.optim.sgd import MOMENTUM, SGD

__all__ = ["LAMB", "LARS"]


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
    formula="""
        ``m`` and ``v`` as `Adam`;
        ``u = (m / (1 - beta1**t)) / (sqrt(v) / sqrt(1 - beta2**t) + eps) + weight_decay * p``,
        where 0 / 0 counts as 0; ``p -= lr * (norm(p) / norm(u)) * u``. The ratio of the two norms,
        each of a whole parameter, is not clipped (the paper's phi is the identity), and 1 where one
        of them is 0. The norms are of float64 sums, whose bits do not depend on the number of
        threads.
    """,
    arguments=(
        learning_rate(1e-3),
        Argument("betas", (0.9, 0.999), "Decay of the averages of the gradient and of its square."),
        Argument("eps", 1e-6, "Added to the denominator."),
        Argument(
            "weight_decay", 0.0, "Decoupled weight decay, a part of the step whose norm is taken."
        ),
        MAXIMIZE,
        Argument(
            "bias_correction",
            True,
            "Divide the averages by ``1 - beta**t``; without, as if that were 1.",
            keyword=True,
        ),
    ),
    slots=("exp_avg", "exp_avg_sq"),
    advance=_advance_lamb,
    check=ADAM.check,
    elementwise=False,
)


def _check_lars(group: Group) -> None:
    SGD.check(group)
    check_nonnegative(group, trust_coefficient="trust_coefficient value", eps="epsilon value")


def _advance_lars(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    return (), (
        group["lr"],
        *SGD.advance(group, scalars, fresh, single)[1][1:],
        group["trust_coefficient"],
        group["eps"],
    )


LARS = Rule(
    kernel="lars",
    formula="""
        ``r = trust_coefficient * norm(p) / (norm(grad) + weight_decay * norm(p) + eps)``, of a
        whole parameter, 1 where one of the two norms is 0;
        ``d = lr * r * (grad + weight_decay * p)``;
        ``b = momentum * b + (1 - dampening) * d`` (``b = d`` at a parameter's first step);
        ``p -= d + momentum * b if nesterov else b``. As in the paper the buffer holds steps with
        their learning rate, unlike that of `SGD`. Norms as `LAMB`.
    """,
    arguments=(
        learning_rate(0.1),
        replace(MOMENTUM[0], default=0.9),
        *MOMENTUM[1:],
        Argument(
            "trust_coefficient",
            1e-3,
            "How much a parameter may move, as a part of its norm, at ``lr=1``.",
            keyword=True,
        ),
        Argument("eps", 1e-8, "Added to the denominator of the ratio.", keyword=True),
        MAXIMIZE,
    ),
    raises=SGD.raises,
    slots=("momentum_buffer",),
    advance=_advance_lars,
    check=_check_lars,
    when=SGD.when,
    scalars=(),
    first_scalars=SGD.first_scalars,
    elementwise=False,
)
