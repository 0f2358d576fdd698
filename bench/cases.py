"""What is measured, against whom, and what was promised.

One `Case` is one operation at one size and one type. Everything a reader needs in order to doubt a
number stands in its entry: the peers, the bytes the operation cannot avoid moving, the memory speed
they are held against, and the targets. Nothing here runs anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

# The peers, by the names the reports print. `peers.py` says how each is run.
OURS = "dlkernels"
TORCH = "torch"
TUNED = "torch tuned"
TUNE_MALLOC = "torch + tune_malloc()"
COMPILED = "torch.compile tuned"
JAX = "JAX jit"
FOREACH = "torch foreach"
FUSED = "torch fused"
NUMPY = "NumPy"

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
        family: The table the case is printed in.
        title: The operation in words.
        operation: The key under which `peers.py` builds it.
        shape: rows x classes, a plain count, N x C x H x W, or arrays x length.
        peers: Who runs it, in the order of a round.
        dtype: A torch type name.
        batch: Calls per sample. One sample should last some milliseconds, so that the clock and
            the waking of sleeping threads do not show.
        tight: Time the loop around all calls of a sample instead of each call, because reading the
            clock would cost as much as the call itself.
        bytes_per_element: What cannot be avoided: every input read once, every output written once.
        roof: The memory speed (a name from `roofline.KINDS`) those bytes are held against.
        peak: Whether the peak memory of a step is measured too, for ours and for torch.
        quick: Whether `--quick` runs the case.
        targets: What the project promises.
    """

    family: str
    title: str
    operation: str
    shape: tuple[int, ...]
    peers: tuple[str, ...]
    dtype: str = "float32"
    batch: int = 1
    tight: bool = False
    bytes_per_element: float | None = None
    roof: str | None = None
    peak: bool = False
    quick: bool = False
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
        suffix = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.title} {self.shape_text}{suffix}"

    @property
    def bytes_moved(self) -> float | None:
        """The bytes one call cannot avoid moving, where that is the meaningful measure."""
        return None if self.bytes_per_element is None else self.bytes_per_element * self.elements


def faster(bound: float, *peers: str) -> Target:
    """Ours is at least `bound` times as fast as the fastest of `peers`."""
    return Target("speedup", bound, peers)


def cross_entropy_targets(default: float, tuned: float, compiled: float) -> tuple[Target, ...]:
    """The three columns of the promised table."""
    return (faster(default, TORCH), faster(tuned, TUNED), faster(compiled, COMPILED, JAX))


EAGER_AND_COMPILED = (OURS, TORCH, TUNED, COMPILED, JAX)
WITH_TUNE_MALLOC = (OURS, TORCH, TUNED, TUNE_MALLOC, COMPILED, JAX)

# Cross-entropy, forward and backward: the logits are read once, and their gradient, the only thing
# of their size that must be written, is written once: 4 + 4 bytes per float32 logit, 2 + 2 per
# bfloat16.
CROSS_ENTROPY = (
    Case(
        "cross-entropy",
        "cross-entropy fwd+bwd",
        "cross_entropy_train",
        (2048, 32000),
        WITH_TUNE_MALLOC,
        bytes_per_element=8,
        roof="nt copy",
        peak=True,
        targets=(
            *cross_entropy_targets(12, 3, 2.5),
            Target("percent of roof", 55),
            Target("page faults", 100),
            # One buffer of the logits' size; the last 2 % are row sums and allocator rounding.
            Target("peak", 1.02),
        ),
    ),
    Case(
        "cross-entropy",
        "cross-entropy fwd+bwd",
        "cross_entropy_train",
        (512, 128256),
        EAGER_AND_COMPILED,
        bytes_per_element=8,
        roof="nt copy",
        targets=cross_entropy_targets(12, 3, 2.5),
    ),
    Case(
        "cross-entropy",
        "cross-entropy fwd+bwd",
        "cross_entropy_train",
        (4096, 1000),
        EAGER_AND_COMPILED,
        batch=5,
        bytes_per_element=8,
        roof="nt copy",
        quick=True,
        targets=cross_entropy_targets(2.5, 2.2, 1.5),
    ),
    Case(
        "cross-entropy",
        "cross-entropy fwd+bwd",
        "cross_entropy_train",
        (2048, 32000),
        EAGER_AND_COMPILED,
        dtype="bfloat16",
        bytes_per_element=4,
        roof="nt copy",
        targets=cross_entropy_targets(6, 2.5, 1.5),
    ),
    Case(
        "cross-entropy",
        "cross-entropy fwd+bwd",
        "cross_entropy_train",
        (128, 10),
        EAGER_AND_COMPILED,
        batch=200,
        quick=True,
        targets=(faster(1, TORCH), faster(1, TUNED)),
    ),
    Case(
        "cross-entropy",
        "cross-entropy forward, no grad",
        "cross_entropy_forward",
        (2048, 32000),
        EAGER_AND_COMPILED,
        bytes_per_element=4,
        roof="read",
    ),
    Case(
        "cross-entropy",
        "NumPy cross_entropy_with_grad",
        "cross_entropy_numpy",
        (2048, 32000),
        (OURS, NUMPY, TORCH, TUNED),
        bytes_per_element=8,
        roof="nt copy",
    ),
)

# ReLU: forward reads 4 and writes 4 bytes; saving one bit per element costs 1/8 byte written
# forward and 1/8 read backward, which itself reads 4 and writes 4.
RELU = (
    Case(
        "relu",
        "relu forward",
        "relu_forward",
        (32_000_000,),
        EAGER_AND_COMPILED,
        bytes_per_element=8,
        roof="nt copy",
        targets=(faster(3, TORCH), faster(1, TUNED)),
    ),
    Case(
        "relu",
        "relu fwd+bwd",
        "relu_train",
        (32_000_000,),
        WITH_TUNE_MALLOC,
        bytes_per_element=16.25,
        roof="nt copy",
        targets=(faster(3, TORCH), faster(1, TUNED)),
    ),
    Case(
        "relu",
        "relu in place",
        "relu_inplace",
        (32_000_000,),
        (OURS, TORCH),
        bytes_per_element=8,
        roof="in place",
    ),
    Case(
        "relu",
        "relu forward",
        "relu_forward",
        (1_000_000,),
        EAGER_AND_COMPILED,
        batch=50,
        bytes_per_element=8,
        roof="nt copy",
        quick=True,
    ),
)

# SGD with momentum reads parameter, gradient and momentum, and writes parameter and momentum:
# 20 bytes per element, at the speed of an in-place pass.
SGD = (
    Case(
        "SGD",
        "SGD momentum step",
        "sgd_momentum",
        (1, 50_000_000),
        (OURS, TORCH, FOREACH, FUSED),
        bytes_per_element=20,
        roof="in place",
        targets=(faster(1, FUSED),),
    ),
    Case(
        "SGD",
        "SGD momentum step",
        "sgd_momentum",
        (5000, 64),
        (OURS, TORCH, FOREACH, FUSED),
        batch=3,
        quick=True,
        targets=(faster(10, FUSED),),
    ),
)

# Two arrays are read and the gradient of one is written: 12 bytes per element.
ELEMENTWISE_LOSSES = tuple(
    Case(
        "elementwise losses",
        f"{name} fwd+bwd",
        f"{name}_train",
        (32_000_000,),
        (OURS, TORCH, TUNED, COMPILED),
        bytes_per_element=12,
        roof="nt copy",
        targets=(faster(5, TORCH), faster(2.5, TUNED)),
    )
    for name in ("mse_loss", "kl_div", "binary_cross_entropy_with_logits")
)

OVERHEAD = (
    Case(
        "call overhead",
        "NumPy cross_entropy call",
        "cross_entropy_numpy_call",
        (4, 4),
        (OURS, NUMPY),
        batch=5000,
        tight=True,
        quick=True,
        targets=(Target("microseconds", 3),),
    ),
    Case(
        "call overhead",
        "NumPy relu call",
        "relu_numpy_call",
        (4, 4),
        (OURS, NUMPY),
        batch=5000,
        tight=True,
        quick=True,
    ),
    Case(
        "call overhead",
        "torch cross_entropy call, no grad",
        "cross_entropy_forward",
        (4, 4),
        (OURS, TORCH),
        batch=5000,
        tight=True,
        quick=True,
        targets=(Target("microseconds", 4),),
    ),
)

# Not our kernel at all: what `dlkernels.tune_malloc()` does for torch's own batch norm.
TUNE_MALLOC_ONLY = (
    Case(
        "allocator",
        "torch batch norm fwd+bwd",
        "batch_norm_train",
        (32, 64, 112, 112),
        (TORCH, TUNED, TUNE_MALLOC),
    ),
)

# Thousands of small tensors come first, while the heap is whole: the cases with large ones leave it
# in pieces, and every peer would wait for the same cache misses (1 ms here).
MANY_SMALL = tuple(case for case in SGD if case.shape[0] > 1)

CASES = (
    *MANY_SMALL,
    *CROSS_ENTROPY,
    *RELU,
    *ELEMENTWISE_LOSSES,
    *(case for case in SGD if case not in MANY_SMALL),
    *OVERHEAD,
    *TUNE_MALLOC_ONLY,
)
