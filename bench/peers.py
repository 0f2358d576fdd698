"""Who is measured, and how each of them runs a case.

Every peer turns a case into a `Workload`: a call to time, and what must happen between calls. Ours
and torch as its users run it share the benchmark's own process. A peer that needs other allocator
settings, or brings its own thread pool, lives in a child process that obeys one-line commands, so
that its samples still fall between ours in time (A, B, A, B, ...) and only one of them ever runs.

What keeps the comparison fair:

- The same inputs for everybody, made from the same seed, and dense random output gradients.
- One fresh child per case, so that no peer pays for the heap another case left behind.
- After a sample its process sleeps `SETTLE_SECONDS` before anyone else starts. OpenMP's worker
  threads spin for some milliseconds after a parallel region (8 measured here), waiting for the
  next; with as many threads as cores they would eat the next peer's time. Setting GOMP_SPINCOUNT
  instead would change how everybody runs; sleeping changes nothing but the benchmark's length.
- A sample begins with a call that is not timed. A core that slept through the other peers' samples
  wakes slowly (a 10 ms call took 15 after 200 ms of sleep), which is the benchmark's doing: in a
  training step the cores are awake.
- Results are freed, and `.grad` reset, outside the timer: the price of unmapping is not charged to
  torch, the price of touching fresh memory is.
- Before anything is timed, each peer's result is compared with torch's (or NumPy's).
"""

from __future__ import annotations

import contextlib
import ctypes.util
import dataclasses
import functools
import gc
import importlib.util
import itertools
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench import cases
from bench.cases import Case

ROOT = Path(__file__).resolve().parent.parent
SETTLE_SECONDS = 0.02
# Fewer page faults than this are noise; a buffer worth measuring takes hundreds.
SETTLED_FAULTS = 50
# A sample takes under two seconds; what takes long is the first compilation of a peer's kernels.
CHILD_TIMEOUT_SECONDS = 300

# glibc keeps what it is given: no page faults in steady state. Set before the process starts.
TUNED_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}


# ------------------------------------------------------------------------------------------------
# A workload and one sample of it
# ------------------------------------------------------------------------------------------------


def nothing() -> None:
    """The reset of a workload that needs none."""


@dataclass(frozen=True)
class Workload:
    """One case as one peer runs it.

    Attributes:
        run: The call that is timed.
        fingerprint: A number made from the result of `run`, to compare the peers' answers.
        reset: What is done before each call, outside the timer.
        context: Entered around a sample, outside the timer; the no-grad mode, for example.
    """

    run: Callable[[], object]
    fingerprint: Callable[[Any], float]
    reset: Callable[[], None] = nothing
    context: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext


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
                seconds += time.perf_counter() - start
                del result
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    time.sleep(SETTLE_SECONDS)
    return Sample(seconds / case.batch, faults / case.batch)


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
        work.reset()
    faults: list[float] = []
    for _ in range(limit):
        faults.append(take_sample(case, work).faults)
        last = faults[-3:]
        if len(last) == 3 and max(last) - min(last) < SETTLED_FAULTS:
            break
    return fingerprint


# ------------------------------------------------------------------------------------------------
# Fronts shaped like torch: torch itself, torch.compile, and ours
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TorchFront:
    """The functions a torch-shaped peer offers, under torch's names and signatures.

    Attributes:
        functional: A module with the names of ``torch.nn.functional``.
    """

    functional: Any
    cross_entropy: Callable[..., Any]
    relu: Callable[..., Any]
    batch_norm: Callable[..., Any]  # also with residual= and activation=
    dropout: Callable[..., Any]
    alpha_dropout: Callable[..., Any]
    normalize_images: Callable[..., Any]
    optimizer: Callable[[cases.Optimizer, list[Any]], Any]
    whole_step: Callable[[list[Any]], Callable[[], object]]  # clip, AdamW, average, zero
    loss: Callable[[str], Callable[..., Any]]  # an elementwise loss by its name
    is_ours: bool = False


def make_whole_step(**optimizer_options: Any) -> Callable[[list[Any]], Callable[[], object]]:
    """What one writes in torch."""
    import torch
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    average = get_ema_multi_avg_fn(0.999)

    def whole_step(parameters: list[Any]) -> Callable[[], object]:
        optimizer = torch.optim.AdamW(parameters, **optimizer_options)
        averages = [parameter.detach().clone() for parameter in parameters]

        def run() -> None:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            average(averages, [parameter.detach() for parameter in parameters], 1)
            optimizer.zero_grad(set_to_none=False)

        return run

    return whole_step


def torch_eager(in_place: bool = False, **optimizer_options: Any) -> TorchFront:
    """torch as it comes; `optimizer_options` choose one of its implementations, and `in_place` says
    whether what follows a batch norm is written over its result, as torchvision's networks do.
    """
    import torch
    from torch.nn import functional

    def batch_norm(
        *args: Any, residual: Any = None, activation: str | None = None, **kwargs: Any
    ) -> Any:
        y = functional.batch_norm(*args, **kwargs)
        if residual is not None:
            y = y.add_(residual) if in_place else y + residual
        return y if activation is None else getattr(functional, activation)(y, inplace=in_place)

    return TorchFront(
        functional=functional,
        cross_entropy=functional.cross_entropy,
        relu=functional.relu,
        batch_norm=batch_norm,
        dropout=functional.dropout,
        alpha_dropout=functional.alpha_dropout,
        normalize_images=normalize_images,
        optimizer=lambda rule, parameters: getattr(torch.optim, rule.name)(
            parameters, **rule.options, **optimizer_options
        ),
        whole_step=make_whole_step(**optimizer_options),
        loss=lambda name: getattr(functional, name),
    )


def torch_compiled() -> TorchFront:
    """torch.compile, each function on its own, for fixed shapes."""
    import torch

    eager = torch_eager()
    compiled = functools.partial(torch.compile, dynamic=False)
    return TorchFront(
        functional=None,
        cross_entropy=compiled(eager.cross_entropy),
        relu=compiled(eager.relu),
        batch_norm=compiled(eager.batch_norm),
        dropout=compiled(eager.dropout),
        alpha_dropout=compiled(eager.alpha_dropout),
        normalize_images=compiled(eager.normalize_images),
        optimizer=eager.optimizer,
        whole_step=eager.whole_step,
        loss=lambda name: compiled(eager.loss(name)),
    )


def our_torch_front() -> TorchFront:
    """The twins of dlkernels."""
    import dlkernels.torch.functional as twins
    import dlkernels.torch.optim as our_optimizers
    from dlkernels.torch import image

    eager = torch_eager()
    return dataclasses.replace(
        eager,
        functional=twins,
        cross_entropy=twins.cross_entropy,
        relu=twins.relu,
        batch_norm=twins.batch_norm,
        dropout=twins.dropout,
        alpha_dropout=twins.alpha_dropout,
        normalize_images=image.normalize,
        optimizer=lambda rule, parameters: getattr(our_optimizers, rule.name)(
            parameters, **rule.options, **rule.own_options
        ),
        whole_step=lambda parameters: (
            our_optimizers.AdamW(
                parameters, max_grad_norm=1.0, ema_decay=0.999, zero_grads=True
            ).step
        ),
        loss=lambda name: getattr(twins, name),
        is_ours=True,
    )


def normalize_images(x: Any, mean: Any, std: Any) -> Any:
    """What one writes in torch: pictures of bytes, channels last, to normalized planes."""
    import torch

    mean, std = torch.tensor(mean), torch.tensor(std)
    return ((x.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def normal(case: Case, seed: int) -> Any:
    """A torch tensor of the case's shape, type and layout; the same for every peer."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(case.shape, generator=generator).to(getattr(torch, case.dtype))
    return x.contiguous(memory_format=getattr(torch, case.layout))


def class_targets(case: Case) -> Any:
    """One random class per row, int64."""
    import torch

    rows, classes = case.shape
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(1))


def magnitude(tensor: Any) -> float:
    """The sum of absolute values, added up in float64."""
    import torch

    return float(tensor.detach().abs().sum(dtype=torch.float64))


def train_cross_entropy(case: Case, front: TorchFront) -> Workload:
    """Loss and gradient of the logits, a leaf that requires it."""
    logits = normal(case, seed=0).requires_grad_()
    target = class_targets(case)

    def run() -> object:
        loss = front.cross_entropy(logits, target)
        loss.backward()
        return loss

    def reset() -> None:
        logits.grad = None

    return Workload(run, lambda loss: float(loss.detach()) + magnitude(logits.grad), reset)


def forward_cross_entropy(case: Case, front: TorchFront) -> Workload:
    """The loss alone, as in evaluation."""
    import torch

    run = functools.partial(front.cross_entropy, normal(case, seed=0), class_targets(case))
    return Workload(run, float, context=torch.no_grad)


def forward_relu(case: Case, front: TorchFront) -> Workload:
    """A fresh output, no gradient."""
    import torch

    run = functools.partial(front.relu, normal(case, seed=0))
    return Workload(run, magnitude, context=torch.no_grad)


def train_relu(case: Case, front: TorchFront) -> Workload:
    """Forward, and backward from a dense random gradient."""
    x = normal(case, seed=0).requires_grad_()
    upstream = normal(case, seed=2)

    def run() -> object:
        y = front.relu(x)
        y.backward(upstream)
        return y

    def reset() -> None:
        x.grad = None

    return Workload(run, lambda y: magnitude(y) + magnitude(x.grad), reset)


def inplace_relu(case: Case, front: TorchFront) -> Workload:
    """Over the input itself.

    From the second call on no element is negative. That changes nothing for kernels without
    branches, and spares everyone a refill that would leave the data in the cache.
    """
    import torch

    run = functools.partial(front.relu, normal(case, seed=0), inplace=True)
    return Workload(run, magnitude, context=torch.no_grad)


def forward_dropout(case: Case, front: TorchFront) -> Workload:
    """A fresh output, no gradient."""
    import torch

    x = normal(case, seed=0)
    run = functools.partial(front.dropout, x, 0.1)
    return Workload(run, lambda y: scale_of_kept(y, x), context=torch.no_grad)


def train_dropout(case: Case, front: TorchFront) -> Workload:
    """Forward, and backward from a dense random gradient, of one of the two dropouts."""
    alpha = case.operation.startswith("alpha")
    function = front.alpha_dropout if alpha else front.dropout
    x = normal(case, seed=0).requires_grad_()
    upstream = normal(case, seed=2)

    def run() -> object:
        y = function(x, 0.1, True)
        y.backward(upstream)
        return y

    def reset() -> None:
        x.grad = None

    def fingerprint(y: Any) -> float:
        return scale_of_kept(x.grad, upstream) + round(float(y.detach().var()), 1)

    return Workload(run, fingerprint, reset)


def inplace_dropout(case: Case, front: TorchFront) -> Workload:
    """Over the input itself, which dwindles and so starts each sample anew."""
    import torch

    x = torch.ones(case.shape)

    def run() -> object:
        return front.dropout(x, 0.1, True, True)

    return Workload(run, lambda y: scale_of_kept(y, 1.0), lambda: x.fill_(1.0), torch.no_grad)


def scale_of_kept(y: Any, x: Any) -> float:
    """What a dropout multiplied by what it kept, and about how much it dropped: the same for
    everybody's random numbers."""
    dropped = y.detach() == 0
    kept = magnitude(y) / magnitude(x * ~dropped)
    return kept + round(1 - float(dropped.double().mean()), 1)


def images(case: Case, front: TorchFront) -> Workload:
    """A batch of pictures of bytes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, case.shape, generator=generator, dtype=torch.uint8)
    statistics = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    run = functools.partial(front.normalize_images, x, *statistics)
    return Workload(run, magnitude, context=torch.no_grad)


#: The activations that are measured, with the arguments they need beside the input.
ACTIVATION_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    **{name: {} for name in cases.TWINS},
    "threshold": {"threshold": 0.1, "value": 0.0},
    **{name: {"dim": -1} for name in ("glu", "softmax", "log_softmax")},
}


def activation_operands(name: str, x: Any) -> tuple[Any, ...]:
    """The input, and of prelu one slope for all."""
    import torch

    return (x, torch.full((1,), 0.25, requires_grad=True)) if name == "prelu" else (x,)


def forward_activation(name: str, case: Case, front: TorchFront) -> Workload:
    """A fresh output, no gradient."""
    import torch

    function = getattr(front.functional, name)
    operands = activation_operands(name, normal(case, seed=0))
    run = functools.partial(function, *operands, **ACTIVATION_ARGUMENTS[name])
    return Workload(run, magnitude, context=torch.no_grad)


def inplace_activation(name: str, case: Case, front: TorchFront) -> Workload:
    """Over the input itself, which is refilled before each call, outside the timer."""
    import torch

    source = normal(case, seed=0)
    x = source.clone()
    run = functools.partial(getattr(front.functional, name), x, inplace=True)

    def reset() -> None:
        x.copy_(source)

    return Workload(run, magnitude, reset, torch.no_grad)


def train_activation(name: str, case: Case, front: TorchFront) -> Workload:
    """Forward, and backward from a dense random gradient."""
    function = getattr(front.functional, name)
    x = normal(case, seed=0).requires_grad_()
    upstream = normal(case, seed=2)
    operands = activation_operands(name, x)
    keywords = ACTIVATION_ARGUMENTS[name]

    def run() -> object:
        y = function(*operands, **keywords)
        y.backward(upstream)
        return y

    def reset() -> None:
        for leaf in operands:
            leaf.grad = None

    return Workload(run, lambda y: magnitude(y) + magnitude(x.grad), reset)


def forward_elementwise_loss(name: str, case: Case, front: TorchFront) -> Workload:
    """The loss alone, of numbers in [0, 1]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    count = 3 if name == "gaussian_nll_loss" else 2  # the last is a variance
    operands = [torch.rand(case.shape, generator=generator) for _ in range(count)]
    keywords = {"reduction": "batchmean"} if name == "kl_div" else {}
    run = functools.partial(getattr(front.functional, name), *operands, **keywords)
    return Workload(run, float, context=torch.no_grad)


def train_elementwise_loss(case: Case, front: TorchFront, name: str) -> Workload:
    """Loss and gradient of the input; targets in [0, 1]."""
    import torch

    x = normal(case, seed=0)
    if name == "kl_div":
        x = torch.log_softmax(x, 0)
    x.requires_grad_()
    target = torch.rand(case.shape, generator=torch.Generator().manual_seed(1))
    loss_of = front.loss(name)

    def run() -> object:
        loss = loss_of(x, target, reduction="sum" if name == "kl_div" else "mean")
        loss.backward()
        return loss

    def reset() -> None:
        x.grad = None

    return Workload(run, lambda loss: float(loss.detach()) + magnitude(x.grad), reset)


def optimizer_step(case: Case, front: TorchFront, rule: cases.Optimizer) -> Workload:
    """One step over all arrays, gradients present."""
    import torch

    arrays, length = case.shape
    shapes: tuple[tuple[int, ...], ...] = ((length,),) * arrays
    if case.shape == cases.GPT2:
        shapes = cases.GPT2_SHAPES
    dtype = getattr(torch, rule.own_dtype if front.is_ours else "float32")
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for shape in shapes:
        parameter = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        parameter.grad = torch.randn(shape, generator=generator).to(dtype)
        parameters.append(parameter)
    optimizer = front.optimizer(rule, parameters)
    return Workload(optimizer.step, lambda _: sum(map(magnitude, parameters)))


def whole_step(case: Case, front: TorchFront) -> Workload:
    """All that follows backward; the gradient it leaves zero comes back outside the timer."""
    import torch

    generator = torch.Generator().manual_seed(0)
    parameter = torch.randn(case.shape, generator=generator).requires_grad_()
    gradient = torch.randn(case.shape, generator=generator)
    parameter.grad = gradient.clone()
    run = front.whole_step([parameter])
    return Workload(run, lambda _: magnitude(parameter), lambda: parameter.grad.copy_(gradient))


def norm_vectors(case: Case) -> tuple[Any, ...]:
    """Running mean and variance, weight and bias of a case's channels."""
    import torch

    channels = case.shape[1]
    affine = torch.ones(channels, requires_grad=True), torch.zeros(channels, requires_grad=True)
    return torch.zeros(channels), torch.ones(channels), *affine


def train_batch_norm(
    case: Case, front: TorchFront, activation: str | None = None, with_residual: bool = False
) -> Workload:
    """Training mode, forward and backward from a dense random gradient."""
    x = normal(case, seed=0).requires_grad_()
    upstream = normal(case, seed=2)
    vectors = norm_vectors(case)
    options: dict[str, Any] = {"training": True}
    if activation is not None:
        options["activation"] = activation
    leaves = [x, *vectors[2:]]
    if with_residual:
        options["residual"] = normal(case, seed=3).requires_grad_()
        leaves.append(options["residual"])

    def run() -> object:
        y = front.batch_norm(x, *vectors, **options)
        y.backward(upstream)
        return y

    def reset() -> None:
        for leaf in leaves:
            leaf.grad = None

    return Workload(
        run, lambda y: magnitude(y) + sum(magnitude(leaf.grad) for leaf in leaves), reset
    )


def forward_batch_norm(case: Case, front: TorchFront) -> Workload:
    """Training mode, the forward pass alone."""
    import torch

    run = functools.partial(
        front.batch_norm, normal(case, seed=0), *norm_vectors(case), training=True
    )
    return Workload(run, magnitude, context=torch.no_grad)


def backward_batch_norm(case: Case, front: TorchFront) -> Workload:
    """The backward pass alone; a fresh forward pass before each is not timed."""
    x = normal(case, seed=0).requires_grad_()
    upstream = normal(case, seed=2)
    vectors = norm_vectors(case)
    made: list[Any] = []

    def reset() -> None:
        for leaf in (x, *vectors[2:]):
            leaf.grad = None
        made[:] = [front.batch_norm(x, *vectors, training=True)]

    def run() -> None:
        made.pop().backward(upstream)

    return Workload(run, lambda _: magnitude(x.grad), reset)


def digits_step(case: Case, front: TorchFront) -> Workload:
    """Forward, backward and update of a small classifier."""
    import torch

    nn: Any = torch.nn
    optimizers: Any = torch.optim
    if front.is_ours:
        from dlkernels.torch import nn
        from dlkernels.torch import optim as optimizers

    rows, features = case.shape
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Linear(features, 128), nn.ReLU()),
        *(torch.nn.Linear(128, 128), nn.ReLU()),
        torch.nn.Linear(128, 10),
    )
    optimizer = optimizers.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    x, target = normal(case, seed=0), torch.arange(rows) % 10

    def run() -> object:
        loss = criterion(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return Workload(run, lambda loss: float(loss.detach()))


TORCH_OPERATIONS: Mapping[str, Callable[[Case, TorchFront], Workload]] = {
    "cross_entropy_train": train_cross_entropy,
    # What a torch user writes to get what cross_entropy_with_grad returns.
    "cross_entropy_numpy": train_cross_entropy,
    "cross_entropy_forward": forward_cross_entropy,
    "relu_forward": forward_relu,
    "relu_train": train_relu,
    "relu_inplace": inplace_relu,
    "dropout_forward": forward_dropout,
    "dropout_train": train_dropout,
    "alpha_dropout_train": train_dropout,
    "dropout_inplace": inplace_dropout,
    "normalize_images": images,
    **{
        f"{name}_forward": functools.partial(forward_elementwise_loss, name)
        for name in cases.LOSSES
    },
    **{
        f"{name}_train": functools.partial(train_elementwise_loss, name=name)
        for name in cases.LOSSES
        if name not in ("binary_cross_entropy", "gaussian_nll_loss")
    },
    **{
        f"step {title}": functools.partial(optimizer_step, rule=rule)
        for title, rule in cases.OPTIMIZERS.items()
    },
    "whole_step": whole_step,
    "digits_step": digits_step,
    "batch_norm_train": train_batch_norm,
    "batch_norm_relu_train": functools.partial(train_batch_norm, activation="relu"),
    "batch_norm_add_relu_train": functools.partial(
        train_batch_norm, activation="relu", with_residual=True
    ),
    "batch_norm_forward": forward_batch_norm,
    "batch_norm_backward": backward_batch_norm,
    **{
        f"{name}_{kind}": functools.partial(build, name)
        for kind, build, names in (
            ("forward", forward_activation, cases.TWINS),
            ("overwritten", inplace_activation, ("relu", "leaky_relu", "elu", "silu")),
            ("train", train_activation, cases.TWINS),
        )
        for name in names
        if f"{name}_{kind}" not in ("relu_forward", "relu_train")
    },
}


# ------------------------------------------------------------------------------------------------
# NumPy: ours, and what one writes without us
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumpyFront:
    """The functions a NumPy-shaped peer offers."""

    cross_entropy: Callable[..., Any]
    cross_entropy_with_grad: Callable[..., Any]
    relu: Callable[..., Any]


def our_numpy_front() -> NumpyFront:
    """The NumPy functions of dlkernels."""
    import dlkernels

    return NumpyFront(dlkernels.cross_entropy, dlkernels.cross_entropy_with_grad, dlkernels.relu)


def plain_numpy() -> NumpyFront:
    """A few lines of NumPy, as careful with overflow as they must be and no cleverer."""
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

    def cross_entropy(logits: Any, target: Any) -> float:
        shifted = logits - logits.max(axis=1, keepdims=True)
        total = np.exp(shifted).sum(axis=1)
        return float((np.log(total) - shifted[np.arange(len(target)), target]).mean())

    return NumpyFront(cross_entropy, cross_entropy_with_grad, lambda x: np.maximum(x, 0))


def numpy_workload(case: Case, front: NumpyFront) -> Workload:
    """Builds one of the NumPy cases."""
    import numpy as np

    logits = normal(case, seed=0).numpy()
    if case.operation == "relu_numpy_call":
        run = functools.partial(front.relu, logits)
        return Workload(run, lambda y: float(np.abs(y).sum(dtype=np.float64)))
    target = class_targets(case).numpy()
    if case.operation == "cross_entropy_numpy_call":
        return Workload(functools.partial(front.cross_entropy, logits, target), float)
    return Workload(
        functools.partial(front.cross_entropy_with_grad, logits, target),
        lambda pair: float(pair[0]) + float(np.abs(pair[1]).sum(dtype=np.float64)),
    )


NUMPY_OPERATIONS = ("cross_entropy_numpy", "cross_entropy_numpy_call", "relu_numpy_call")


# ------------------------------------------------------------------------------------------------
# JAX
# ------------------------------------------------------------------------------------------------


def jax_workload(case: Case) -> Workload:
    """The same operations under `jax.jit`, waiting for each result as its user would."""
    import jax
    import jax.numpy as jnp
    import ml_dtypes
    import numpy as np

    numpy_dtype = ml_dtypes.bfloat16 if case.dtype == "bfloat16" else np.dtype(case.dtype)
    x = jnp.asarray(normal(case, seed=0).float().numpy().astype(numpy_dtype))

    def mean_loss(logits: Any, target: Any) -> Any:
        wide = logits.astype(jnp.float32)
        chosen = jnp.take_along_axis(wide, target[:, None], axis=1)[:, 0]
        return (jax.nn.logsumexp(wide, axis=1) - chosen).mean()

    def relu_and_grad(x: Any, upstream: Any) -> Any:
        y, pullback = jax.vjp(jax.nn.relu, x)
        return y, pullback(upstream)[0]

    def total(result: Any) -> float:
        return sum(
            float(np.abs(np.asarray(part).astype(np.float32)).sum(dtype=np.float64))
            for part in jax.tree_util.tree_leaves(result)
        )

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    if case.operation in ("cross_entropy_train", "cross_entropy_forward"):
        training = case.operation == "cross_entropy_train"
        function = jax.value_and_grad(mean_loss) if training else mean_loss
        arguments = (x, jnp.asarray(class_targets(case).numpy().astype(np.int32)))
    elif case.operation == "relu_train":
        function = relu_and_grad
        arguments = (x, jnp.asarray(normal(case, seed=2).numpy()))
    elif case.operation == "relu_forward":
        function, arguments = jax.nn.relu, (x,)
    else:
        raise NotImplementedError(f"no JAX form of {case.operation}")
    compiled = jax.jit(function)
    return Workload(lambda: jax.block_until_ready(compiled(*arguments)), total)


# ------------------------------------------------------------------------------------------------
# The peers
# ------------------------------------------------------------------------------------------------


def build_ours(case: Case) -> Workload:
    """dlkernels, through its NumPy or its torch front."""
    if case.operation in NUMPY_OPERATIONS:
        return numpy_workload(case, our_numpy_front())
    return TORCH_OPERATIONS[case.operation](case, our_torch_front())


def build_torch(case: Case, **options: Any) -> Workload:
    """torch, eager."""
    return TORCH_OPERATIONS[case.operation](case, torch_eager(**options))


def build_empty(case: Case) -> Workload:
    """An autograd.Function of one tensor that does nothing; the answer is torch's."""
    import torch

    class Empty(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return torch.empty_like(x)

        @staticmethod
        def backward(ctx: Any, grad_output: Any) -> Any:
            return grad_output

    x = normal(case, seed=0).requires_grad_()
    upstream = normal(case, seed=2)
    answer = build_torch(case)

    def run() -> object:
        y = Empty.apply(x)
        y.backward(upstream)
        return y

    def reset() -> None:
        x.grad = None

    return Workload(run, lambda _: answer.fingerprint(answer.run()), reset)


def build_compiled(case: Case) -> Workload:
    """torch.compile."""
    return TORCH_OPERATIONS[case.operation](case, torch_compiled())


def build_after_tune_malloc(case: Case) -> Workload:
    """torch, eager, after our one call that keeps glibc from handing memory back."""
    import dlkernels

    if not dlkernels.tune_malloc(True):
        raise RuntimeError("tune_malloc() does nothing with this C library")
    return build_torch(case)


def build_deepspeed(case: Case) -> Workload:
    """torch, but for the optimizer's step."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    kinds = {
        "AdamW": functools.partial(DeepSpeedCPUAdam, adamw_mode=True, weight_decay=0.01),
        "Adagrad": functools.partial(DeepSpeedCPUAdagrad, eps=1e-10),
    }
    front = dataclasses.replace(
        torch_eager(),
        optimizer=lambda rule, parameters: kinds[rule.name](parameters, **rule.options),
    )
    return TORCH_OPERATIONS[case.operation](case, front)


def build_onednn(case: Case) -> Workload:
    """oneDNN's own batch norm, on buffers that are made once."""
    from bench.onednn import BatchNormForward

    if case.operation != "batch_norm_forward":
        raise NotImplementedError(f"no oneDNN form of {case.operation}")
    _, _, weight, bias = norm_vectors(case)
    run = BatchNormForward(normal(case, seed=0), weight.detach(), bias.detach(), eps=1e-5)
    return Workload(run, magnitude)


@dataclass(frozen=True)
class Peer:
    """How a peer is run.

    Attributes:
        build: Makes its workload of a case.
        modules: What must be importable.
        library: What the linker must find.
        child: Whether it needs a process of its own.
        environment: What that process is started with, beyond the benchmark's own environment.
    """

    build: Callable[[Case], Workload]
    modules: tuple[str, ...] = ("torch",)
    library: str = ""
    child: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The modules and the library this machine does not have."""
        names = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if self.library and ctypes.util.find_library(self.library) is None:
            names.append(f"lib{self.library}")
        return names


PEERS: Mapping[str, Peer] = {
    cases.OURS: Peer(build_ours, ("torch", "dlkernels")),
    cases.TORCH: Peer(build_torch),
    cases.EMPTY: Peer(build_empty),
    cases.FOREACH: Peer(functools.partial(build_torch, foreach=True)),
    cases.FUSED: Peer(functools.partial(build_torch, fused=True)),
    cases.DEEPSPEED: Peer(build_deepspeed, ("torch", "deepspeed")),
    cases.NUMPY: Peer(lambda case: numpy_workload(case, plain_numpy())),
    cases.TUNED: Peer(build_torch, child=True, environment=TUNED_ALLOCATOR),
    cases.IN_PLACE: Peer(
        functools.partial(build_torch, in_place=True), child=True, environment=TUNED_ALLOCATOR
    ),
    cases.ONEDNN: Peer(build_onednn, library="dnnl", child=True),
    cases.TUNE_MALLOC: Peer(build_after_tune_malloc, ("torch", "dlkernels"), child=True),
    cases.COMPILED: Peer(
        build_compiled,
        child=True,
        # One compiling thread: a pool of compile workers would outlive the compilation.
        environment={**TUNED_ALLOCATOR, "TORCHINDUCTOR_COMPILE_THREADS": "1"},
    ),
    cases.JAX: Peer(
        jax_workload,
        ("torch", "jax", "ml_dtypes"),
        child=True,
        environment={"JAX_PLATFORMS": "cpu"},
    ),
}


# ------------------------------------------------------------------------------------------------
# Runners: a peer in this process, or in a child
# ------------------------------------------------------------------------------------------------


class Runner(Protocol):
    """Something that has built and warmed up one case and can be sampled."""

    fingerprint: float

    def sample(self) -> Sample:
        """One batch of calls."""

    def close(self) -> None:
        """Lets go of the memory."""


class LocalRunner:
    """A peer in the benchmark's own process."""

    def __init__(self, case: Case, peer: str, warmup_limit: int) -> None:
        """Builds and warms up."""
        self._case = case
        self._work: Workload | None = PEERS[peer].build(case)
        self.fingerprint = warm_up(case, self._work, warmup_limit)

    def sample(self) -> Sample:
        """One batch of calls."""
        assert self._work is not None
        return take_sample(self._case, self._work)

    def close(self) -> None:
        """Lets go of the memory."""
        self._work = None
        gc.collect()


class ChildRunner:
    """A peer in a process of its own, which waits on a pipe while others are measured."""

    def __init__(self, case: Case, peer: str, warmup_limit: int, command: str = "samples") -> None:
        """Starts the child and waits until it is warm."""
        # A file, not a pipe: nobody reads it while the child runs, and a full pipe would block it.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.peers", command, case.name, peer, str(warmup_limit)],
            cwd=ROOT,
            env={**os.environ, **PEERS[peer].environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self.fingerprint = float(self._answer()["value"])
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        """The child's next line; its error is raised here as ours."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], CHILD_TIMEOUT_SECONDS)
        if not ready:
            raise TimeoutError(f"no answer within {CHILD_TIMEOUT_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(last[0] if last else f"ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def sample(self) -> Sample:
        """Lets the child run one batch of calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"sample\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Sample(answer["seconds"], answer["faults"])

    def close(self) -> None:
        """Ends the child: politely by closing its input, and if it does not listen, by force."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def start(case: Case, peer: str, warmup_limit: int) -> Runner:
    """Builds and warms up one peer for one case, wherever it has to live."""
    kind = ChildRunner if PEERS[peer].child else LocalRunner
    return kind(case, peer, warmup_limit)


def peak_memory(case: Case, peer: str) -> float:
    """The most memory three steps need beyond their inputs, in units of the logits' size.

    Measured in a child of its own, because a high-water mark remembers everything before it.
    """
    runner = ChildRunner(case, peer, warmup_limit=1, command="peak")
    runner.close()
    return runner.fingerprint


def first_line(error: BaseException) -> str:
    """What went wrong, short enough for a table."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


# ------------------------------------------------------------------------------------------------
# The child's side
# ------------------------------------------------------------------------------------------------


def use_threads(threads: int) -> None:
    """Holds this process to a number of threads, and to as many processors.

    The processors count too: XLA sizes its pool by them and has no other switch.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)


def resident_bytes(field_name: str) -> int:
    """VmRSS (now) or VmHWM (the high-water mark) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field_name}")


def measure_peak(case: Case, peer: str) -> float:
    """The child's side of `peak_memory`.

    ru_maxrss would not do: a child inherits its parent's. The kernel's own mark can be reset.
    """
    import torch

    # A small case first, so that code pages, thread stacks and caches are not counted. It must not
    # be the case itself: a pool would keep the block, and the steps would seem to need nothing.
    small = dataclasses.replace(case, shape=(64, 1000))
    warm_up(small, PEERS[peer].build(small), 1)
    gc.collect()
    work = PEERS[peer].build(case)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    for _ in range(3):
        work.reset()
        work.run()
    item_bytes = torch.empty((), dtype=getattr(torch, case.dtype)).element_size()
    return (resident_bytes("VmHWM") - before) / (case.elements * item_bytes)


def serve(arguments: list[str]) -> None:
    """Builds and warms up a case, then takes one sample per line of input until it ends."""
    # Libraries print; the answers go where nothing else can write.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        command, case_name, peer, warmup_limit = arguments
        case = next(case for case in cases.CASES if case.name == case_name)
        use_threads(int(os.environ["OMP_NUM_THREADS"]))
        gc.disable()
        if command == "peak":
            answer(value=measure_peak(case, peer))
            return
        work = PEERS[peer].build(case)
        answer(value=warm_up(case, work, int(warmup_limit)))
        for _ in sys.stdin:
            sample = take_sample(case, work)
            answer(seconds=sample.seconds, faults=sample.faults)
    except Exception as error:
        answer(error=first_line(error))


if __name__ == "__main__":
    serve(sys.argv[1:])
