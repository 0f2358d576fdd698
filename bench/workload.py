"""What is timed: a call, what comes before and after it, and the bytes that it moves.

A family's file says how each of its cases is run by a peer shaped like torch (a `Front`): torch
itself, torch.compile, and ours. The builders here are what several families have in common. torch
is imported when a workload is built, because the number of threads is set before.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.roofline import Pass, Roof, reads, writes

if TYPE_CHECKING:
    from bench.case import Case

SETTLE_SECONDS = 0.02
# Fewer page faults than this are noise; a buffer worth measuring takes hundreds.
SETTLED_FAULTS = 50


def nothing() -> None:
    """The reset of a workload that needs none."""


def no_passes(_: object) -> Sequence[Pass]:
    """Of a workload that is not held against the memory."""
    return ()


@dataclass(frozen=True)
class Workload:
    """One case as one peer runs it.

    Attributes:
        run: The call that is timed.
        fingerprint: A number made from the result of `run`, to compare the peers' answers.
        leaves: Tensors whose gradients are given back inside the timer, after the result: a peer
            pays for unmapping its own memory, and nobody else does.
        reset: What is done before each call, outside the timer.
        passes: Of a result: the memory that a call reads, writes and updates, one entry for each
            time it goes through it. A bit for each element, where one is kept, is left out.
        context: Entered around a sample, outside the timer; the no-grad mode, for example.
    """

    run: Callable[[], object]
    fingerprint: Callable[[Any], float]
    leaves: Sequence[Any] = ()
    reset: Callable[[], None] = nothing
    passes: Callable[[Any], Sequence[Pass]] = no_passes
    context: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext

    def release(self) -> None:
        """Gives the gradients back."""
        for leaf in self.leaves:
            leaf.grad = None


@dataclass(frozen=True)
class Front:
    """The functions of a peer shaped like torch.

    Attributes:
        functional: Has the names of ``torch.nn.functional``.
        nn: Has the names of ``torch.nn``.
        optim: Has the names of ``torch.optim``.
        wrap: Applied to what a family's file composes from torch's operations.
        optimizer_options: Which of torch's implementations is taken.
        in_place: Whether what follows a batch norm is written over its result.
        is_ours: Whether these are the twins.
    """

    functional: Any
    nn: Any
    optim: Any
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    in_place: bool = False
    is_ours: bool = False


Builder = Callable[["Case", Front], Workload]


# ------------------------------------------------------------------------------------------------
# One sample
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Seconds and minor page faults of one call (the mean over a batch)."""

    seconds: float
    faults: float


def take_sample(case: Case, work: Workload) -> Sample:
    """Wakes the cores, runs a batch of calls, then lets the worker threads fall asleep."""
    seconds = 0.0
    with work.context():
        work.reset()
        work.run()
        work.release()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        if case.tight:
            run = work.run
            start = time.perf_counter()
            for _ in itertools.repeat(None, case.batch):
                run()
            seconds = time.perf_counter() - start
        else:
            for _ in range(case.batch):
                work.reset()
                start = time.perf_counter()
                result = work.run()
                del result
                work.release()
                seconds += time.perf_counter() - start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    time.sleep(SETTLE_SECONDS)
    return Sample(seconds / case.batch, faults / case.batch)


def sample_roof(work: Workload, roof: Roof) -> float:
    """Seconds that the memory takes for the bytes of one call, where that call has them."""
    with work.context():
        work.reset()
        result = work.run()
        passes = work.passes(result)
        roof.seconds(passes)
        seconds = roof.seconds(passes)
        del result, passes
        work.release()
    time.sleep(SETTLE_SECONDS)
    return seconds


def warm_up(case: Case, work: Workload, limit: int) -> float:
    """Takes the result's fingerprint, then calls until nothing changes any more.

    The fingerprint comes first because its temporaries rearrange the heap. Then samples are thrown
    away until three in a row take as many page faults as each other, `limit` at most: a heap that
    keeps its memory may need a dozen calls to find its final shape, and a peer measured before that
    would look several times slower than it is.
    """
    with work.context():
        work.reset()
        fingerprint = work.fingerprint(work.run())
        work.release()
    faults: list[float] = []
    for _ in range(limit):
        faults.append(take_sample(case, work).faults)
        last = faults[-3:]
        if len(last) == 3 and max(last) - min(last) < SETTLED_FAULTS:
            break
    return fingerprint


# ------------------------------------------------------------------------------------------------
# What several families build from
# ------------------------------------------------------------------------------------------------


def normal(case: Case, seed: int) -> Any:
    """A torch tensor of the case's shape, type and layout; the same for every peer."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(case.shape, generator=generator).to(getattr(torch, case.dtype))
    return x.contiguous(memory_format=getattr(torch, case.layout))


def uniform(case: Case, seed: int) -> Any:
    """A float32 torch tensor of the case's shape, in [0, 1)."""
    import torch

    return torch.rand(case.shape, generator=torch.Generator().manual_seed(seed))


def magnitude(tensor: Any) -> float:
    """The sum of absolute values, added up in float64."""
    import torch

    return float(tensor.detach().abs().sum(dtype=torch.float64))


def forward(function: Callable[..., Any], *inputs: Any, **keywords: Any) -> Workload:
    """A fresh result, no gradient: every tensor is read once and the result written once."""
    import torch

    def passes(y: Any) -> Sequence[Pass]:
        read = reads(*(x for x in inputs if isinstance(x, torch.Tensor)))
        return ([*read, *writes(y)],)

    run = functools.partial(function, *inputs, **keywords)
    return Workload(run, magnitude, passes=passes, context=torch.no_grad)


def train(
    function: Callable[[], Any],
    leaves: Sequence[Any],
    upstream: Any = None,
    passes: Callable[[Any], Sequence[Pass]] = no_passes,
) -> Workload:
    """Forward, and backward from a dense gradient, or of a loss where there is none."""

    def run() -> object:
        y = function()
        y.backward(upstream)
        return y

    def fingerprint(y: Any) -> float:
        return magnitude(y) + sum(magnitude(leaf.grad) for leaf in leaves)

    return Workload(run, fingerprint, leaves, passes=passes)


def one_tensor(x: Any) -> tuple[Any, ...]:
    """The operands of most functions."""
    return (x,)


def forward_of(
    name: str, operands: Callable[[Any], tuple[Any, ...]] = one_tensor, **keywords: Any
) -> Builder:
    """A function of ``torch.nn.functional`` by its name, without a gradient."""

    def build(case: Case, front: Front) -> Workload:
        inputs = operands(normal(case, seed=0))
        return forward(getattr(front.functional, name), *inputs, **keywords)

    return build


def train_of(
    name: str,
    operands: Callable[[Any], tuple[Any, ...]] = one_tensor,
    keeps_a_tensor: bool = True,
    **keywords: Any,
) -> Builder:
    """The same with backward, which reads the gradient and, if it keeps one, a tensor as large."""

    def build(case: Case, front: Front) -> Workload:
        x = normal(case, seed=0).requires_grad_()
        upstream = normal(case, seed=2)
        leaves = operands(x)

        def passes(y: Any) -> Sequence[Pass]:
            kept = reads(x) if keeps_a_tensor else []
            return [*reads(x), *writes(y)], [*kept, *reads(upstream), *writes(x.grad)]

        function = functools.partial(getattr(front.functional, name), *leaves, **keywords)
        return train(function, leaves, upstream, passes)

    return build
