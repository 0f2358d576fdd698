"""Losses of classes, and softmax.

Cross-entropy, forward and backward: the logits are read once, and their gradient, the only thing of
their size that must be written, is written once: 4 + 4 bytes per float32 logit, 2 + 2 per bfloat16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from bench.case import (
    AND_COMPILED,
    CALLS,
    EAGER,
    TRAINED,
    Case,
    Target,
    against,
    faster,
    small,
    small_trained,
)
from bench.peers import jax, numpy
from bench.peers.dlkernels import OURS
from bench.peers.jax import JAX
from bench.peers.numpy import NUMPY
from bench.peers.torch import COMPILED, TORCH, TUNE_MALLOC, TUNED
from bench.roofline import Pass, reads, writes
from bench.workload import (
    Front,
    Workload,
    forward,
    forward_of,
    normal,
    train,
    train_of,
)


def class_targets(case: Case) -> Any:
    """One random class per row, int64."""
    import torch

    rows, classes = case.shape
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(1))


def train_cross_entropy(case: Case, front: Front) -> Workload:
    """Loss and gradient of the logits, a leaf that requires it."""
    logits = normal(case, seed=0).requires_grad_()

    def passes(_: Any) -> Sequence[Pass]:
        return ([*reads(logits), *writes(logits.grad)],)

    loss = functools.partial(front.functional.cross_entropy, logits, class_targets(case))
    return train(loss, (logits,), passes=passes)


def cross_entropy(case: Case, front: Front) -> Workload:
    """The loss alone, as in evaluation."""
    logits = normal(case, seed=0)
    loss = functools.partial(front.functional.cross_entropy, target=class_targets(case))
    return forward(loss, logits)


def in_jax(case: Case, with_grad: bool) -> Workload:
    """The loss, and the gradient of the logits."""
    import jax as library
    import jax.numpy as jnp

    def mean_loss(logits: Any, target: Any) -> Any:
        wide = logits.astype(jnp.float32)
        chosen = jnp.take_along_axis(wide, target[:, None], axis=1)[:, 0]
        return (library.nn.logsumexp(wide, axis=1) - chosen).mean()

    function = library.value_and_grad(mean_loss) if with_grad else mean_loss
    return jax.jitted(function, normal(case, seed=0), class_targets(case))


def on_numpy(case: Case, function: Callable[[Any, Any], Any]) -> Workload:
    """A function of logits and classes."""
    return numpy.call(function, normal(case, seed=0).numpy(), class_targets(case).numpy())


def our_numpy(case: Case, name: str) -> Workload:
    """The NumPy front."""
    import dlkernels

    return on_numpy(case, getattr(dlkernels, name))


def plain_numpy(case: Case) -> Workload:
    """The loss without it."""
    import numpy as np

    def cross_entropy(logits: Any, target: Any) -> float:
        shifted = logits - logits.max(axis=1, keepdims=True)
        total = np.exp(shifted).sum(axis=1)
        return float((np.log(total) - shifted[np.arange(len(target)), target]).mean())

    return on_numpy(case, cross_entropy)


def plain_numpy_with_grad(case: Case) -> Workload:
    """Loss and gradient without it."""
    import numpy as np

    def cross_entropy_with_grad(logits: Any, target: Any) -> tuple[float, Any]:
        rows = np.arange(len(target))
        shifted = logits - logits.max(axis=1, keepdims=True)
        grad = np.exp(shifted)
        total = grad.sum(axis=1, keepdims=True)
        loss = float((np.log(total[:, 0]) - shifted[rows, target]).mean())
        grad /= total
        grad[rows, target] -= 1
        grad /= len(target)
        return loss, grad

    return on_numpy(case, cross_entropy_with_grad)


def digits_step(case: Case, front: Front) -> Workload:
    """Forward, backward and update of the network of examples/train_digits.py, on random rows."""
    import torch

    rows, features = case.shape
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Linear(features, 128), front.nn.ReLU()),
        *(torch.nn.Linear(128, 128), front.nn.ReLU()),
        torch.nn.Linear(128, 10),
    )
    optimizer = front.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    criterion = front.nn.CrossEntropyLoss()
    x, target = normal(case, seed=0), torch.arange(rows) % 10

    def run() -> object:
        loss = criterion(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return Workload(run, lambda loss: float(loss.detach()))


WITH_JAX = (*AND_COMPILED, JAX)


def cross_entropy_case(
    shape: tuple[int, ...],
    targets: tuple[Target, ...],
    bytes_per_element: float | None = 8,
    peers: tuple[str, ...] = WITH_JAX,
    **more: Any,
) -> Case:
    """Forward and backward."""
    return Case(
        "class losses",
        "cross-entropy fwd+bwd",
        shape,
        peers,
        train_cross_entropy,
        {JAX: functools.partial(in_jax, with_grad=True)},
        bytes_per_element=bytes_per_element,
        targets=targets,
        **more,
    )


def promised(default: float, tuned: float, compiled: float) -> tuple[Target, ...]:
    """The three columns of the promised table."""
    return (*against(default, tuned), faster(compiled, COMPILED, JAX))


CASES = (
    cross_entropy_case(
        (2048, 32000),
        (
            *promised(12, 3, 2.5),
            Target("percent of roof", 55),
            Target("page faults", 100),
            # One buffer of the logits' size; the last 2 % are row sums and allocator rounding.
            Target("peak", 1.02),
        ),
        peers=(*EAGER, TUNE_MALLOC, COMPILED, JAX),
        peak=True,
        telling=True,
    ),
    cross_entropy_case((512, 128256), promised(12, 3, 2.5)),
    cross_entropy_case((4096, 1000), promised(2.5, 2.2, 1.5), batch=5, quick=True),
    cross_entropy_case((2048, 32000), promised(6, 2.5, 1.5), 4, dtype="bfloat16"),
    cross_entropy_case((128, 10), against(1, 1), None, batch=200, quick=True),
    Case(
        "class losses",
        "cross-entropy forward, no grad",
        (2048, 32000),
        WITH_JAX,
        cross_entropy,
        {JAX: functools.partial(in_jax, with_grad=False)},
        bytes_per_element=4,
    ),
    Case(
        "class losses",
        "NumPy cross_entropy_with_grad",
        (2048, 32000),
        (OURS, NUMPY, TORCH, TUNED),
        train_cross_entropy,  # what a torch user writes to get the same
        {
            OURS: functools.partial(our_numpy, name="cross_entropy_with_grad"),
            NUMPY: plain_numpy_with_grad,
        },
        bytes_per_element=8,
    ),
    Case(
        "class losses",
        "softmax fwd+bwd",
        (500_000, 64),
        EAGER,
        train_of("softmax", dim=-1),
        bytes_per_element=20,
        targets=against(5, 1.2),
    ),
    *(small(name, forward_of(name, dim=-1), (256, 64)) for name in ("softmax", "log_softmax")),
    *(small_trained(name, train_of(name, dim=-1)) for name in ("softmax", "log_softmax")),
    small_trained("cross_entropy", train_cross_entropy, faster(1, TORCH), quick=True),
    Case(
        TRAINED,
        "digits training step",
        (128, 64),
        (OURS, TORCH),
        digits_step,
        batch=50,
        quick=True,
        targets=(faster(1.1, TORCH),),
    ),
    Case(
        CALLS,
        "NumPy cross_entropy call",
        (4, 4),
        (OURS, NUMPY),
        cross_entropy,
        {OURS: functools.partial(our_numpy, name="cross_entropy"), NUMPY: plain_numpy},
        batch=5000,
        tight=True,
        quick=True,
        targets=(Target("microseconds", 3),),
    ),
    Case(
        CALLS,
        "torch cross_entropy call, no grad",
        (4, 4),
        (OURS, TORCH),
        cross_entropy,
        batch=5000,
        tight=True,
        quick=True,
        targets=(Target("microseconds", 4),),
    ),
)
