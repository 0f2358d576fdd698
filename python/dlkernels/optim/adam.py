"""Rules of Adam and its variants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dlkernels.optim.rule import (
    BIT_EQUAL,
    MAXIMIZE,
    TWO_UNITS,
    Argument,
    Group,
    Numbers,
    Rule,
    check_betas,
    check_nonnegative,
    learning_rate,
    weight_decays,
)

__all__ = ["ADAM", "ADAMAX", "ADAMW", "NADAM", "RADAM"]


def _arguments(lr: float, eps: str = "Added to the denominator.") -> tuple[Argument, ...]:
    return (
        learning_rate(lr),
        Argument("betas", (0.9, 0.999), "Decay of the averages of the gradient and of its square."),
        Argument("eps", 1e-8, eps),
    )


_AMSGRAD = Argument("amsgrad", False, "Divide by the largest average so far.")
_DECOUPLED = Argument(
    "decoupled_weight_decay", False, "``p *= 1 - lr * weight_decay`` instead of an L2 penalty."
)


def _check_adam(group: Group) -> None:
    check_nonnegative(group, lr="learning rate", eps="epsilon value")
    check_betas(group)
    check_nonnegative(group, weight_decay="weight_decay value")


def _advance_adam(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    step = scalars[0] + 1
    beta1, beta2 = group["betas"]
    bias_correction1 = 1 - beta1**step
    bias_correction2 = 1 - beta2**step
    coupled, factor = weight_decays(group)
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
    formula="""
        In this order, each sum with its product one fma: ``g = grad + weight_decay * p``;
        ``m += (1 - beta1) * (g - m)``; ``v = beta2 * v + (1 - beta2) * g * g``;
        ``d = sqrt(max over time of v if amsgrad else v) / sqrt(1 - beta2**t) + eps``;
        ``p += (-lr / (1 - beta1**t) * m) / d``; square root and divisions correctly rounded.
    """,
    accuracy=TWO_UNITS,
    arguments=(
        *_arguments(1e-3),
        Argument("weight_decay", 0.0, "L2 penalty; with ``decoupled_weight_decay`` that of AdamW."),
        _AMSGRAD,
        MAXIMIZE,
        replace(_DECOUPLED, keyword=True),
    ),
    slots=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    advance=_advance_adam,
    check=_check_adam,
    when={"max_exp_avg_sq": "amsgrad"},
    signed=(True, False, False),
)

ADAMW = replace(
    ADAM,
    formula="""
        `Adam` whose weight decay shrinks the parameter first, ``p *= 1 - lr * weight_decay``, and
        does not enter the averages.
    """,
    arguments=(
        *_arguments(1e-3),
        Argument("weight_decay", 1e-2, "Decoupled weight decay."),
        _AMSGRAD,
        MAXIMIZE,
        replace(_DECOUPLED, default=True, shown=False),
    ),
)


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
    formula="""
        ``g = grad + weight_decay * p``; ``m += (1 - beta1) * (g - m)``;
        ``u = max(beta2 * u, abs(g) + eps)``; ``p += (-lr / (1 - beta1**t) * m) / u``.
    """,
    accuracy=BIT_EQUAL,
    arguments=(
        *_arguments(2e-3, eps="Added to the size of the gradient."),
        Argument("weight_decay", 0.0, "L2 penalty."),
        MAXIMIZE,
    ),
    slots=("exp_avg", "exp_inf"),
    advance=_advance_adamax,
    check=_check_adam,
)


def _check_nadam(group: Group) -> None:
    _check_adam(group)
    check_nonnegative(group, momentum_decay="momentum_decay value")


def _advance_nadam(
    group: Group, scalars: Numbers, fresh: bool, single: int
) -> tuple[Numbers, Numbers]:
    step, mu_product = scalars[0] + 1, scalars[1]
    lr, (beta1, beta2), decay = group["lr"], group["betas"], group["momentum_decay"]
    mu = beta1 * (1.0 - 0.5 * (0.96 ** (step * decay)))
    mu_next = beta1 * (1.0 - 0.5 * (0.96 ** ((step + 1) * decay)))
    # The product is rounded to the precision it is kept in.
    mu_product = float(np.float32(mu_product) * np.float32(mu)) if single & 2 else mu_product * mu
    coupled, factor = weight_decays(group)
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
    formula="""
        ``m`` and ``v`` as `Adam`; with ``mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` and
        ``d = sqrt(v / (1 - beta2**t)) + eps``,
        ``p += (-lr * (1 - mu_t) / (1 - prod(mu)) * g) / d`` and
        ``p += (-lr * mu_(t+1) / (1 - prod(mu) * mu_(t+1)) * m) / d``; square root and divisions
        correctly rounded.
    """,
    accuracy=TWO_UNITS,
    arguments=(
        *_arguments(2e-3),
        Argument("weight_decay", 0.0, "L2 penalty."),
        Argument("momentum_decay", 4e-3, "Rate at which ``mu`` approaches ``beta1``."),
        _DECOUPLED,
        MAXIMIZE,
    ),
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
    coupled, factor = weight_decays(group)
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
    formula="""
        ``m`` and ``v`` as `Adam`; ``p -= m / (1 - beta1**t) * lr * a * r``, where rectification
        ``r`` and ``a = 1 / (sqrt(v) + eps) * sqrt(1 - beta2**t)`` are left out while the variance
        of ``v`` is not tractable (``rho_t <= 5``); square root and divisions correctly rounded.
    """,
    accuracy=TWO_UNITS,
    arguments=(
        *_arguments(1e-3),
        Argument("weight_decay", 0.0, "L2 penalty."),
        _DECOUPLED,
        MAXIMIZE,
    ),
    slots=("exp_avg", "exp_avg_sq"),
    advance=_advance_radam,
    check=_check_adam,
)
