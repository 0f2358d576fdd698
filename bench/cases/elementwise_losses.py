"""Elementwise losses: two arrays are read and the gradient of one is written, 12 bytes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from bench.case import AND_COMPILED, Case, against, faster, small, small_trained
from bench.peers.torch import TORCH
from bench.roofline import Pass, reads, writes
from bench.workload import Builder, Front, Workload, normal, uniform
from bench.workload import forward as forward_workload
from bench.workload import train as train_workload

LOSSES = (
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "kl_div",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "poisson_nll_loss",
    "gaussian_nll_loss",
)
#: Their input is any number.
TRAINED = tuple(
    name for name in LOSSES if name not in ("binary_cross_entropy", "gaussian_nll_loss")
)


def forward(name: str) -> Builder:
    """The loss alone, of numbers in [0, 1); a third operand is a variance."""

    def build(case: Case, front: Front) -> Workload:
        operands = [uniform(case, seed) for seed in range(3 if name == "gaussian_nll_loss" else 2)]
        keywords = {"reduction": "batchmean"} if name == "kl_div" else {}
        return forward_workload(getattr(front.functional, name), *operands, **keywords)

    return build


def train(name: str) -> Builder:
    """Loss and gradient of the input; targets in [0, 1)."""

    def build(case: Case, front: Front) -> Workload:
        x = normal(case, seed=0)
        if name == "kl_div":
            x = x.log_softmax(0)
        x.requires_grad_()
        target = uniform(case, seed=1)

        def passes(_: Any) -> Sequence[Pass]:
            return ([*reads(x, target), *writes(x.grad)],)

        loss = functools.partial(
            getattr(front.functional, name),
            x,
            target,
            reduction="sum" if name == "kl_div" else "mean",
        )
        return train_workload(loss, (x,), passes=passes)

    return build


CASES = (
    *(
        Case(
            "elementwise losses",
            f"{name} fwd+bwd",
            (32_000_000,),
            AND_COMPILED,
            train(name),
            bytes_per_element=12,
            telling=name == "mse_loss",
            targets=against(5, 2.5),
        )
        for name in ("mse_loss", "kl_div", "binary_cross_entropy_with_logits")
    ),
    *(small(name, forward(name)) for name in LOSSES),
    *(
        small_trained(
            name,
            train(name),
            *([faster(1, TORCH)] if name == "mse_loss" else []),
            quick=name == "mse_loss",
        )
        for name in TRAINED
    ),
)
