"""Batch normalization in training.

Forward reads 4 bytes and writes 4; backward reads 8 (its input and the gradient) and writes 4. An
activation changes nothing. A residual is 4 more to read and its gradient 4 more to write.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from bench.case import AND_COMPILED, EAGER, Case, Target, against, faster, small_trained
from bench.peers.onednn import ONEDNN, BatchNormForward
from bench.peers.torch import IN_PLACE, TORCH, TUNE_MALLOC, TUNED
from bench.roofline import Pass, reads, writes
from bench.workload import Front, Workload, forward, magnitude, normal, train


def batch_norm_of(front: Front) -> Any:
    """The function with ``residual`` and ``activation``, which torch has none of."""
    if front.is_ours:
        return front.functional.batch_norm
    from torch.nn import functional

    def batch_norm(
        *args: Any, residual: Any = None, activation: str | None = None, **kwargs: Any
    ) -> Any:
        y = functional.batch_norm(*args, **kwargs)
        if residual is not None:
            y = y.add_(residual) if front.in_place else y + residual
        return y if activation is None else getattr(functional, activation)(y, front.in_place)

    return front.wrap(batch_norm)


def norm_vectors(case: Case) -> tuple[Any, ...]:
    """Running mean and variance, weight and bias of a case's channels."""
    import torch

    channels = case.shape[1]
    affine = torch.ones(channels, requires_grad=True), torch.zeros(channels, requires_grad=True)
    return torch.zeros(channels), torch.ones(channels), *affine


def train_batch_norm(
    case: Case, front: Front, activation: str | None = None, with_residual: bool = False
) -> Workload:
    """Forward and backward from a dense random gradient."""
    x = normal(case, seed=0).requires_grad_()
    upstream = normal(case, seed=2)
    vectors = norm_vectors(case)
    residual = normal(case, seed=3).requires_grad_() if with_residual else None
    inputs = [x] if residual is None else [x, residual]

    def passes(y: Any) -> Sequence[Pass]:
        grads = [leaf.grad for leaf in inputs]
        return [*reads(*inputs), *writes(y)], [*reads(x, upstream), *writes(*grads)]

    function = batch_norm_of(front)
    options: dict[str, Any] = {"training": True}
    if activation is not None:
        options |= {"residual": residual, "activation": activation}
    return train(
        functools.partial(function, x, *vectors, **options),
        [*inputs, *vectors[2:]],
        upstream,
        passes,
    )


def forward_batch_norm(case: Case, front: Front) -> Workload:
    """The forward pass alone."""
    mean, variance, weight, bias = norm_vectors(case)

    def function(x: Any) -> Any:
        return batch_norm(x, mean, variance, weight, bias, training=True)

    batch_norm = batch_norm_of(front)
    return forward(function, normal(case, seed=0))


def backward_batch_norm(case: Case, front: Front) -> Workload:
    """The backward pass alone; the forward pass before it, and its result, are not timed."""
    x = normal(case, seed=0).requires_grad_()
    upstream = normal(case, seed=2)
    vectors = norm_vectors(case)
    batch_norm = batch_norm_of(front)
    made: list[Any] = []

    def reset() -> None:
        made.clear()
        made.append(batch_norm(x, *vectors, training=True))

    def passes(_: Any) -> Sequence[Pass]:
        return ([*reads(x, upstream), *writes(x.grad)],)

    return Workload(
        lambda: made[0].backward(upstream),
        lambda _: magnitude(x.grad),
        leaves=(x, *vectors[2:]),
        reset=reset,
        passes=passes,
    )


def in_onednn(case: Case) -> Workload:
    """The forward pass, of buffers that are made once."""
    _, _, weight, bias = norm_vectors(case)
    run = BatchNormForward(normal(case, seed=0), weight.detach(), bias.detach(), eps=1e-5)
    return Workload(run, magnitude)


LAYOUTS = ("contiguous_format", "channels_last")
FEATURE_MAPS = ((32, 64, 112, 112), (32, 256, 56, 56))
with_relu = functools.partial(train_batch_norm, activation="relu")
with_add_and_relu = functools.partial(with_relu, with_residual=True)

CASES = (
    *(
        Case(
            "batch norm",
            f"{title} fwd+bwd",
            shape,
            peers,
            build,
            layout=layout,
            bytes_per_element=nbytes,
            telling=shape == FEATURE_MAPS[0]
            and (title, layout) in (("BN+ReLU", LAYOUTS[0]), ("BN", LAYOUTS[1])),
            targets=targets[LAYOUTS.index(layout)],
        )
        for title, peers, build, nbytes, targets in (
            ("BN", AND_COMPILED, train_batch_norm, 20, (against(4, 1.9, 5), against(4, 1.7, 5))),
            ("BN+ReLU", (*AND_COMPILED, IN_PLACE), with_relu, 20, (against(7, 2.5, 8),) * 2),
            (
                *("BN+add+ReLU", (*AND_COMPILED, IN_PLACE), with_add_and_relu, 28),
                (against(7, 2.5, 8),) * 2,
            ),
        )
        for shape in FEATURE_MAPS
        for layout in LAYOUTS
    ),
    *(
        Case(
            "batch norm",
            "BN fwd+bwd",
            shape,
            AND_COMPILED,
            train_batch_norm,
            batch=batch,
            quick=True,
            targets=against(1.3, 1.3),
        )
        for shape, batch in (((32, 512, 7, 7), 5), ((4096, 512), 5), ((8, 2048, 1, 1), 200))
    ),
    # One way at a time, against the roof. oneDNN has its buffers made once for all calls.
    *(
        Case(
            "batch norm",
            "BN forward",
            FEATURE_MAPS[0],
            (*EAGER, ONEDNN),
            forward_batch_norm,
            {ONEDNN: in_onednn},
            layout=layout,
            bytes_per_element=8,
            targets=(faster(1, ONEDNN), Target("percent of roof", 65)),
        )
        for layout in LAYOUTS
    ),
    *(
        Case(
            "batch norm",
            "BN backward",
            FEATURE_MAPS[0],
            EAGER,
            backward_batch_norm,
            layout=layout,
            bytes_per_element=12,
            targets=(Target("percent of roof", 60),),
        )
        for layout in LAYOUTS
    ),
    small_trained("batch_norm", train_batch_norm),
    # Not our kernel at all: what `dlkernels.tune_malloc()` does for torch's own batch norm.
    Case(
        "allocator",
        "torch batch norm fwd+bwd",
        FEATURE_MAPS[0],
        (TORCH, TUNED, TUNE_MALLOC),
        train_batch_norm,
    ),
)
