"""What is measured, against whom, and what was promised.

One `Case` is one operation at one size and one type. Everything a reader needs in order to doubt a
number stands in its entry: who runs it and how, the bytes the operation cannot avoid moving, and
the targets. The cases themselves are in `cases/`, one file for each family of operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bench.peers.dlkernels import OURS
from bench.peers.torch import COMPILED, EMPTY, TORCH, TUNED
from bench.workload import Builder, Workload

Metric = Literal["speedup", "percent of roof", "microseconds", "page faults", "peak"]


@dataclass(frozen=True)
class Target:
    """One promise about our number.

    Attributes:
        metric: What is promised. A speedup is against the fastest of `peers`; the page faults are
            minor ones per call in steady state; the peak is the memory above the inputs, in units
            of the input's size.
        bound: At least this (speedup, percent of roof) or at most this (the others).
        peers: The peers a speedup is measured against; empty for the other metrics.
    """

    metric: Metric
    bound: float
    peers: tuple[str, ...] = ()

    @property
    def at_least(self) -> bool:
        """Whether larger is better."""
        return self.metric in ("speedup", "percent of roof")

    @property
    def short(self) -> str:
        """The promise, where the peer it is about is already named."""
        return f"≥ {self.bound:g}x" if self.metric == "speedup" else self.text

    @property
    def text(self) -> str:
        """The promise in words, for tables."""
        match self.metric:
            case "speedup":
                return f"≥ {self.bound:g}x {' and '.join(self.peers)}"
            case "percent of roof":
                return f"≥ {self.bound:g} % of the roof"
            case "microseconds":
                return f"≤ {self.bound:g} µs"
            case "page faults":
                return f"< {self.bound:g} page faults"
            case "peak":
                return f"≤ {self.bound:g} buffers above the input"

    def met_by(self, value: float) -> bool:
        """Whether a measured value keeps the promise."""
        if self.metric == "page faults":
            return value < self.bound
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Case:
    """One operation at one size and type.

    Attributes:
        table: The table the case is printed in.
        title: The operation in words.
        shape: rows x classes, a plain count, N x C x H x W, or arrays x length.
        peers: Who runs it, in the order of a round.
        build: How a peer shaped like torch runs it.
        special: How others run it, by their names, and ours where that is not by the torch front.
        dtype: A torch type name.
        layout: A torch memory format's name.
        batch: Calls per sample. One sample should last some milliseconds, so that the clock and
            the waking of sleeping threads do not show.
        tight: Time the loop around all calls of a sample instead of each call, because reading the
            clock would cost as much as the call itself.
        bytes_per_element: What cannot be avoided: every input read once, every output written once.
            The workload's passes say which memory that is; its speed is the case's roof.
        peak: Whether the peak memory of a step is measured too, for ours and for torch.
        quick: Whether `--quick` runs the case.
        telling: Whether it stands in README.md.
        first: Whether it is run before those with large arrays, which leave the heap fragmented.
        targets: What the project promises.
    """

    table: str
    title: str
    shape: tuple[int, ...]
    peers: tuple[str, ...]
    build: Builder
    special: Mapping[str, Callable[[Case], Workload]] = field(default_factory=dict)
    dtype: str = "float32"
    layout: str = "contiguous_format"
    batch: int = 1
    tight: bool = False
    bytes_per_element: float | None = None
    peak: bool = False
    quick: bool = False
    telling: bool = False
    first: bool = False
    targets: tuple[Target, ...] = ()

    @property
    def elements(self) -> int:
        """How many elements the operation works on."""
        return math.prod(self.shape)

    @property
    def shape_text(self) -> str:
        """The shape as people write it, with whole millions shortened."""
        return "x".join(
            f"{size // 1_000_000}M" if size and size % 1_000_000 == 0 else str(size)
            for size in self.shape
        )

    @property
    def name(self) -> str:
        """A unique, readable name."""
        special = (self.layout, "contiguous_format"), (self.dtype, "float32")
        suffix = "".join(f" {value}" for value, usual in special if value != usual)
        return f"{self.title} {self.shape_text}{suffix}"

    @property
    def bytes_moved(self) -> float | None:
        """The bytes one call cannot avoid moving, where that is the meaningful measure."""
        return None if self.bytes_per_element is None else self.bytes_per_element * self.elements


def faster(bound: float, *peers: str) -> Target:
    """Ours is at least `bound` times as fast as the fastest of `peers`."""
    return Target("speedup", bound, peers)


def against(default: float, tuned: float, *compiled: float) -> tuple[Target, ...]:
    """The columns of the promised tables: torch, torch tuned, and where given torch.compile."""
    targets = faster(default, TORCH), faster(tuned, TUNED)
    return (*targets, *(faster(bound, COMPILED) for bound in compiled))


# Tables that have rows of several families.
SMALL, TRAINED, CALLS = "16 K elements", "16 x 64", "call overhead"
EAGER = (OURS, TORCH, TUNED)
AND_COMPILED = (*EAGER, COMPILED)


def small(
    name: str, build: Builder, shape: tuple[int, ...] = (16384,), quick: bool = False
) -> Case:
    """A forward call that stays in the cache."""
    return Case(
        SMALL,
        f"{name} forward, no grad",
        shape,
        EAGER,
        build,
        batch=1000,
        tight=True,
        quick=quick,
        targets=(faster(0.9, TORCH, TUNED),),
    )


def small_trained(name: str, build: Builder, *targets: Target, quick: bool = False) -> Case:
    """What a call costs beside its arithmetic. An autograd.Function that does nothing takes 24 us,
    and 0.8 times as fast is 6 us more."""
    return Case(
        TRAINED,
        f"{name} fwd+bwd",
        (16, 64),
        (OURS, TORCH, EMPTY),
        build,
        batch=500,
        quick=quick,
        targets=(faster(0.8, EMPTY), *targets),
    )
