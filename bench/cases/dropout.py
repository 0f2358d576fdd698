"""Dropout reads 4 bytes and writes 4 each way, and keeps nothing for backward."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from bench.case import AND_COMPILED, Case, Target, against, faster, small_trained
from bench.peers.dlkernels import OURS
from bench.peers.torch import TORCH
from bench.roofline import Pass, updates
from bench.workload import Builder, Front, Workload, forward_of, magnitude, normal, train_of

#: The share that is dropped.
P = 0.1


def scale_of_kept(y: Any, x: Any) -> float:
    """What a dropout multiplied by what it kept, and about how much it dropped: the same for
    everybody's random numbers."""
    dropped = y.detach() == 0
    kept = magnitude(y) / magnitude(x * ~dropped)
    return kept + round(1 - float(dropped.double().mean()), 1)


def forward(case: Case, front: Front) -> Workload:
    """A fresh output, no gradient."""
    work = forward_of("dropout", p=P)(case, front)
    x = normal(case, seed=0)
    return dataclasses.replace(work, fingerprint=lambda y: scale_of_kept(y, x))


def train(name: str) -> Builder:
    """Forward, and backward from a dense random gradient."""

    def build(case: Case, front: Front) -> Workload:
        work = train_of(name, keeps_a_tensor=False, p=P, training=True)(case, front)
        (x,) = work.leaves
        upstream = normal(case, seed=2)

        def fingerprint(y: Any) -> float:
            kept = scale_of_kept(x.grad, upstream)
            return kept + round(float(y.detach().var()), 1) if name == "alpha_dropout" else kept

        return dataclasses.replace(work, fingerprint=fingerprint)

    return build


def in_place(case: Case, front: Front) -> Workload:
    """Over the input itself, which dwindles and so is filled anew before each call."""
    import torch

    x = torch.ones(case.shape)

    def passes(y: Any) -> Sequence[Pass]:
        return (updates(y),)

    return Workload(
        functools.partial(front.functional.dropout, x, P, True, True),
        lambda y: scale_of_kept(y, torch.ones(())),
        reset=lambda: x.fill_(1.0),
        passes=passes,
        context=torch.no_grad,
    )


LARGE = (32_000_000,)

CASES = (
    Case(
        "dropout",
        "dropout forward",
        LARGE,
        AND_COMPILED,
        forward,
        bytes_per_element=8,
        targets=(Target("percent of roof", 75),),
    ),
    *(
        Case(
            "dropout",
            f"{name} fwd+bwd",
            LARGE,
            AND_COMPILED,
            train(name),
            bytes_per_element=16,
            telling=name == "dropout",
            targets=against(14, 10),
        )
        for name in ("dropout", "alpha_dropout")
    ),
    Case(
        "dropout",
        "dropout in place",
        LARGE,
        (OURS, TORCH),
        in_place,
        bytes_per_element=8,
        targets=(faster(1, TORCH),),
    ),
    Case(
        "dropout",
        "dropout fwd+bwd",
        (1_000_000,),
        AND_COMPILED,
        train("dropout"),
        batch=10,
        bytes_per_element=16,
        quick=True,
        targets=(faster(1, TORCH),),
    ),
    Case(
        "dropout",
        "dropout forward",
        (16384,),
        AND_COMPILED,
        forward,
        batch=200,
        quick=True,
        targets=against(0.9, 0.9),
    ),
    small_trained("dropout", train("dropout")),
)
