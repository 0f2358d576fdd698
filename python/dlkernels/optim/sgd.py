"""Rules of stochastic gradient descent: SGD with momentum, and averaged."""

from __future__ import annotations

from dlkernels.optim.rule import (
    BIT_EQUAL,
    MAXIMIZE,
    Argument,
    Group,
    Numbers,
    Rule,
    check_nonnegative,
    learning_rate,
)

__all__ = ["ASGD", "MOMENTUM", "SGD"]

MOMENTUM = (
    Argument("momentum", 0.0, "Momentum factor; 0 keeps no buffers."),
    Argument("dampening", 0.0, "Dampening of the momentum."),
    Argument("weight_decay", 0.0, "L2 penalty."),
    Argument("nesterov", False, "Nesterov momentum; needs a momentum and no dampening."),
)


def _check_sgd(group: Group) -> None:
    check_nonnegative(
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
    formula="""
        ``g = grad + weight_decay * p``; ``b = momentum * b + (1 - dampening) * g`` (``b = g`` at a
        parameter's first step); ``p -= lr * (g + momentum * b if nesterov else b)``; each sum with
        its product one fma. As in torch the learning rate stays outside ``b``: after a change of
        ``lr`` the whole past moves at the new rate.
    """,
    accuracy=BIT_EQUAL,
    arguments=(
        learning_rate(1e-3),
        *MOMENTUM,
        MAXIMIZE,
    ),
    raises="A number is negative or out of range, or nesterov lacks its momentum",
    slots=("momentum_buffer",),
    advance=_advance_sgd,
    check=_check_sgd,
    when={"momentum_buffer": "momentum"},
    scalars=(),
    first_scalars=lambda group: (),
    signed=(True,),
)


def _check_asgd(group: Group) -> None:
    check_nonnegative(group, lr="learning rate", weight_decay="weight_decay value")


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
    formula="""
        ``p = p * (1 - lambd * eta) - eta * (grad + weight_decay * p)``; ``ax += (p - ax) * mu``;
        then ``eta = lr / (1 + lambd * lr * t)**alpha`` and ``mu = 1 / max(1, t - t0)`` for the next
        step; ``ax`` is the average.
    """,
    accuracy=BIT_EQUAL,
    arguments=(
        learning_rate(1e-2),
        Argument("lambd", 1e-4, "Decay term."),
        Argument("alpha", 0.75, "Power of the decay of ``eta``."),
        Argument("t0", 1e6, "Step at which the averaging starts."),
        Argument("weight_decay", 0.0, "L2 penalty."),
        MAXIMIZE,
    ),
    slots=("ax",),
    advance=_advance_asgd,
    check=_check_asgd,
    scalars=("step", "eta", "mu"),
    first_scalars=lambda group: (0.0, float(group["lr"]), 1.0),
)
