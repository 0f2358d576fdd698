"""What is measured, against whom, and what was promised.

One `Case` is one operation at one size and one type. Everything a reader needs in order to doubt a
number stands in its entry: the peers, the bytes the operation cannot avoid moving, the memory speed
they are held against, and the targets. Nothing here runs anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

# The peers, by the names the reports print. `peers.py` says how each is run.
OURS = "dlkernels"
TORCH = "torch"
TUNED = "torch tuned"
TUNE_MALLOC = "torch + tune_malloc()"
COMPILED = "torch.compile tuned"
JAX = "JAX jit"
FOREACH = "torch foreach"
FUSED = "torch fused"
DEEPSPEED = "DeepSpeed"
NUMPY = "NumPy"
IN_PLACE = "torch tuned, in place"
ONEDNN = "oneDNN"
EMPTY = "empty Function"

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
        layout: A torch memory format's name.
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
    layout: str = "contiguous_format"
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
        targets=(faster(4, TORCH), faster(1.1, TUNED), Target("percent of roof", 75)),
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

# Dropout reads 4 and writes 4 bytes each way, and keeps nothing for backward.
WITHOUT_JAX = (OURS, TORCH, TUNED, COMPILED)
DROPOUT = (
    Case(
        "dropout",
        "dropout forward",
        "dropout_forward",
        (32_000_000,),
        WITHOUT_JAX,
        bytes_per_element=8,
        roof="nt copy",
        targets=(Target("percent of roof", 75),),
    ),
    Case(
        "dropout",
        "dropout fwd+bwd",
        "dropout_train",
        (32_000_000,),
        WITHOUT_JAX,
        bytes_per_element=16,
        roof="nt copy",
        targets=(faster(14, TORCH), faster(10, TUNED)),
    ),
    Case(
        "dropout",
        "alpha_dropout fwd+bwd",
        "alpha_dropout_train",
        (32_000_000,),
        WITHOUT_JAX,
        bytes_per_element=16,
        roof="nt copy",
        targets=(faster(14, TORCH), faster(10, TUNED)),
    ),
    Case(
        "dropout",
        "dropout in place",
        "dropout_inplace",
        (32_000_000,),
        (OURS, TORCH),
        bytes_per_element=8,
        roof="in place",
        targets=(faster(1, TORCH),),
    ),
    Case(
        "dropout",
        "dropout fwd+bwd",
        "dropout_train",
        (1_000_000,),
        WITHOUT_JAX,
        batch=10,
        bytes_per_element=16,
        roof="nt copy",
        quick=True,
        targets=(faster(1, TORCH),),
    ),
    Case(
        "dropout",
        "dropout forward",
        "dropout_forward",
        (16384,),
        WITHOUT_JAX,
        batch=200,
        quick=True,
        targets=(faster(0.9, TORCH), faster(0.9, TUNED)),
    ),
)

# A byte in, a float32 out.
IMAGES = (
    Case(
        "images",
        "uint8 NHWC to normalized NCHW",
        "normalize_images",
        (64, 224, 224, 3),
        WITHOUT_JAX,
        bytes_per_element=5,
        roof="nt copy",
        targets=(faster(5, TORCH), faster(3, TUNED)),
    ),
)

EAGER = (OURS, TORCH, TUNED)
SIZE = (32_000_000,)


def activation_forward(name: str, default: float, tuned: float) -> Case:
    """Reads 4 bytes and writes 4."""
    return Case(
        "activations",
        f"{name} forward",
        f"{name}_forward",
        SIZE,
        EAGER,
        bytes_per_element=8,
        roof="nt copy",
        targets=(faster(default, TORCH), faster(tuned, TUNED), Target("percent of roof", 75)),
    )


def activation_train(
    name: str, default: float, tuned: float, shape: tuple[int, ...] = SIZE
) -> Case:
    """Backward reads the gradient and what was kept (the input or the output), and writes 4."""
    return Case(
        "activations",
        f"{name} fwd+bwd",
        f"{name}_train",
        shape,
        EAGER,
        bytes_per_element=20,
        roof="nt copy",
        targets=(faster(default, TORCH), faster(tuned, TUNED)),
    )


ACTIVATIONS = (
    activation_forward("leaky_relu", 4, 1.1),
    activation_forward("sigmoid", 4, 1.1),
    activation_forward("silu", 4, 1.1),
    activation_forward("tanh", 8, 5),
    activation_train("tanh", 7, 2.8),
    activation_train("elu", 5, 1.8),
    activation_train("gelu", 4, 1.4),
    activation_train("prelu", 9, 4.5),
    activation_train("softmax", 5, 1.2, (500_000, 64)),
    # In cache and in place: never slower.
    *(
        Case(
            "activations",
            f"{name} {where}",
            f"{name}_{'overwritten' if where == 'in place' else where}",
            (1_000_000,),
            EAGER,
            batch=50,
            targets=(faster(1, TORCH, TUNED),),
        )
        for name, where in (
            ("leaky_relu", "forward"),
            ("sigmoid", "forward"),
            ("tanh", "forward"),
            ("silu", "forward"),
            ("gelu", "forward"),
            ("elu", "forward"),
            ("relu", "in place"),
            ("leaky_relu", "in place"),
            ("elu", "in place"),
            ("silu", "in place"),
        )
    ),
)

#: Every twin of one tensor.
TWINS = (
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "sigmoid",
    "tanh",
    "softplus",
    "softsign",
    "logsigmoid",
    "hardtanh",
    "hardsigmoid",
    "hardswish",
    "threshold",
    "prelu",
    "glu",
    "softmax",
    "log_softmax",
)
#: Every elementwise loss.
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
SMALL_TWINS = tuple(
    Case(
        "16 K elements",
        f"{name} forward, no grad",
        f"{name}_forward",
        (256, 64) if name in ("glu", "softmax", "log_softmax") else (16384,),
        EAGER,
        batch=1000,
        tight=True,
        quick=name in ("relu", "gelu"),
        targets=(faster(0.9, TORCH, TUNED),),
    )
    for name in (*TWINS, *LOSSES)
)
# What a call costs beside its arithmetic. An autograd.Function that does nothing takes 24 us, and
# 0.8 times as fast is 6 us more.
SMALL_TRAINED = tuple(
    Case(
        "16 x 64",
        f"{name} fwd+bwd",
        f"{name}_train",
        (16, 64),
        (OURS, TORCH, EMPTY),
        batch=500,
        quick=name in ("relu", "mse_loss", "cross_entropy"),
        targets=(
            faster(0.8, EMPTY),
            *([faster(1, TORCH)] if name in ("mse_loss", "cross_entropy") else []),
        ),
    )
    for name in (
        *(name for name in TWINS if name != "glu"),
        *(name for name in LOSSES if name not in ("binary_cross_entropy", "gaussian_nll_loss")),
        "cross_entropy",
        "batch_norm",
        "dropout",
    )
)
# Of the network of examples/train_digits.py, on 128 random rows.
DIGITS = (
    Case(
        "16 x 64",
        "digits training step",
        "digits_step",
        (128, 64),
        (OURS, TORCH),
        batch=50,
        quick=True,
        targets=(faster(1.1, TORCH),),
    ),
)


@dataclass(frozen=True)
class Optimizer:
    """One optimizer, and what is promised of it on one array of 50 M elements, in place.

    Attributes:
        name: Of torch's class.
        nbytes: Per element: all but the gradient are read and written.
        options: Arguments of the class.
        others: Who has it beside torch's loop and foreach.
        times: How many times as fast as the best of them.
        roof_percent: Of the speed of an in-place pass.
        own_options: Arguments that our class alone has.
        own_dtype: Of our parameters and gradients.
    """

    name: str
    nbytes: int
    options: dict[str, float] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    times: float = 1.0
    roof_percent: float | None = None
    own_options: dict[str, str] = field(default_factory=dict)
    own_dtype: str = "float32"

    @property
    def peers(self) -> tuple[str, ...]:
        """In the order of a round."""
        return (OURS, TORCH, FOREACH, *self.others)

    @property
    def targets(self) -> tuple[Target, ...]:
        """For one large array."""
        against = faster(self.times, *self.peers[1:])
        if self.roof_percent is None:
            return (against,)
        return (against, Target("percent of roof", self.roof_percent))


OPTIMIZERS = {
    "SGD momentum": Optimizer("SGD", 20, {"lr": 1e-3, "momentum": 0.9}, (FUSED,), roof_percent=90),
    "AdamW": Optimizer("AdamW", 28, {}, (FUSED, DEEPSPEED), roof_percent=90),
    "Adagrad": Optimizer("Adagrad", 20, {}, (FUSED, DEEPSPEED), roof_percent=90),
    # Two states of a byte; torch's are float32.
    "AdamW 8-bit": Optimizer(
        "AdamW", 16, {}, (FUSED,), times=1.3, own_options={"state_dtype": "8bit"}
    ),
    # Parameters of two halves, gradients of one; torch's are float32.
    "AdamW split16": Optimizer(
        name="AdamW",
        nbytes=26,
        others=(FUSED,),
        times=1.05,
        own_options={"master": "split16"},
        own_dtype="bfloat16",
    ),
    **{
        title: Optimizer(name, nbytes, options, times=times, roof_percent=85)
        for title, name, nbytes, options, times in (
            ("RMSprop", "RMSprop", 20, {}, 3.5),
            ("RMSprop momentum", "RMSprop", 28, {"momentum": 0.9}, 3.5),
            ("RMSprop centered", "RMSprop", 28, {"centered": True}, 3.5),
            (
                "RMSprop momentum centered",
                "RMSprop",
                36,
                {"momentum": 0.9, "centered": True},
                3.5,
            ),
            ("Adamax", "Adamax", 28, {}, 3.5),
            ("Adadelta", "Adadelta", 28, {}, 3.5),
            ("NAdam", "NAdam", 28, {}, 3.5),
            ("RAdam", "RAdam", 28, {}, 3.5),
            ("Rprop", "Rprop", 28, {}, 3.5),
            ("ASGD", "ASGD", 20, {}, 2.0),
        )
    },
}
# GPT-2 small: two embeddings, the last norm, and twelve times two norms, attention and MLP.
_GPT2_BLOCK = (
    (768,),
    (768,),
    (768, 2304),
    (2304,),
    (768, 768),
    (768,),
    (768,),
    (768,),
    (768, 3072),
    (3072,),
    (3072, 768),
    (768,),
)
GPT2_SHAPES: tuple[tuple[int, ...], ...] = (
    *((50257, 768), (1024, 768), *_GPT2_BLOCK * 12, (768,), (768,)),
)
GPT2 = (len(GPT2_SHAPES), sum(math.prod(shape) for shape in GPT2_SHAPES))


def _step(title: str, shape: tuple[int, ...], targets: tuple[Target, ...], **more: Any) -> Case:
    rule = OPTIMIZERS[title]
    return Case("optimizers", f"{title} step", f"step {title}", shape, rule.peers,
                targets=targets, **more)  # fmt: skip


STEPS = (
    *(
        _step(
            title,
            (1, 50_000_000),
            rule.targets,
            bytes_per_element=rule.nbytes,
            roof="in place",
        )
        for title, rule in OPTIMIZERS.items()
    ),
    _step("SGD momentum", (5000, 64), (faster(10, FUSED),), batch=3, quick=True),
    _step("AdamW", (5000, 64), (faster(25, FUSED), faster(15, DEEPSPEED)), batch=3, quick=True),
    _step("AdamW", GPT2, (faster(1, FUSED), faster(4.5, TORCH))),
    # The norm's pass over the gradients, then the step, which also reads and writes the averages
    # and zeroes the gradients.
    Case(
        "optimizers",
        "clip + AdamW + EMA + zero_grad step",
        "whole_step",
        (1, 50_000_000),
        (OURS, TORCH, FUSED),
        bytes_per_element=44,
        roof="in place",
        targets=(faster(1.3, FUSED), faster(3.5, TORCH)),
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

# Batch normalization in training. Forward reads 4 bytes and writes 4; backward reads 8 (its input
# and the gradient) and writes 4. An activation changes nothing. A residual is 4 more to read and
# its gradient 4 more to write, and a bit to remember the sign of the sum, written and read once.
LAYOUTS = ("contiguous_format", "channels_last")
FEATURE_MAPS = ((32, 64, 112, 112), (32, 256, 56, 56))
NORM_PEERS = (OURS, TORCH, TUNED, COMPILED)


def norm_targets(default: float, tuned: float, compiled: float) -> tuple[Target, ...]:
    """The three columns of the promised table."""
    return (faster(default, TORCH), faster(tuned, TUNED), faster(compiled, COMPILED))


def norm_cases(
    title: str,
    operation: str,
    peers: tuple[str, ...],
    bytes_per_element: float,
    targets: tuple[Target, ...],
    channels_last_targets: tuple[Target, ...],
) -> tuple[Case, ...]:
    """Both shapes, in both layouts."""
    return tuple(
        Case(
            "batch norm",
            title,
            operation,
            shape,
            peers,
            layout=layout,
            bytes_per_element=bytes_per_element,
            roof="nt copy",
            targets=channels_last_targets if layout == "channels_last" else targets,
        )
        for shape in FEATURE_MAPS
        for layout in LAYOUTS
    )


BATCH_NORM = (
    *norm_cases(
        *("BN fwd+bwd", "batch_norm_train", NORM_PEERS, 20),
        norm_targets(4, 1.9, 5),
        norm_targets(4, 1.7, 5),
    ),
    *norm_cases(
        *("BN+ReLU fwd+bwd", "batch_norm_relu_train", (*NORM_PEERS, IN_PLACE), 20),
        norm_targets(7, 2.5, 8),
        norm_targets(7, 2.5, 8),
    ),
    *norm_cases(
        *("BN+add+ReLU fwd+bwd", "batch_norm_add_relu_train", (*NORM_PEERS, IN_PLACE), 28.25),
        norm_targets(7, 2.5, 8),
        norm_targets(7, 2.5, 8),
    ),
    *(
        Case(
            "batch norm",
            "BN fwd+bwd",
            "batch_norm_train",
            shape,
            NORM_PEERS,
            batch=batch,
            quick=True,
            targets=(faster(1.3, TORCH), faster(1.3, TUNED)),
        )
        for shape, batch in (((32, 512, 7, 7), 5), ((4096, 512), 5), ((8, 2048, 1, 1), 200))
    ),
    # One way at a time, against the roof. oneDNN has its buffers made once for all calls.
    *(
        Case(
            "batch norm",
            title,
            operation,
            FEATURE_MAPS[0],
            peers,
            layout=layout,
            bytes_per_element=bytes_per_element,
            roof="nt copy",
            targets=targets,
        )
        for title, operation, peers, bytes_per_element, targets in (
            (
                *("BN forward", "batch_norm_forward", (OURS, TORCH, TUNED, ONEDNN), 8),
                (faster(1, ONEDNN), Target("percent of roof", 65)),
            ),
            (
                *("BN backward", "batch_norm_backward", (OURS, TORCH, TUNED), 12),
                (Target("percent of roof", 60),),
            ),
        )
        for layout in LAYOUTS
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
MANY_SMALL = tuple(case for case in STEPS if case.shape[0] == 5000)

CASES = (
    *MANY_SMALL,
    *CROSS_ENTROPY,
    *RELU,
    *DROPOUT,
    *IMAGES,
    *ACTIVATIONS,
    *SMALL_TWINS,
    *SMALL_TRAINED,
    *DIGITS,
    *ELEMENTWISE_LOSSES,
    *(case for case in STEPS if case not in MANY_SMALL),
    *BATCH_NORM,
    *OVERHEAD,
    *TUNE_MALLOC_ONLY,
)
