"""Activations. Forward reads 4 bytes and writes 4; backward reads the gradient and what was kept,
the input or the output, and writes 4. relu keeps one bit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.case import (
    CALLS,
    EAGER,
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
from bench.roofline import Pass, updates
from bench.workload import (
    Builder,
    Front,
    Workload,
    forward_of,
    magnitude,
    normal,
    nothing,
    train_of,
)


def with_slope(x: Any) -> tuple[Any, ...]:
    """The operands of prelu, with one slope for all."""
    import torch

    return x, torch.full((1,), 0.25, requires_grad=True)


#: Every twin of one tensor, with the arguments that it needs beside it.
TWINS: Mapping[str, Mapping[str, Any]] = {
    **{
        name: {}
        for name in (
            *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
            *("sigmoid", "tanh", "softplus", "softsign", "logsigmoid", "hardtanh", "hardsigmoid"),
            "hardswish",
        )
    },
    "threshold": {"threshold": 0.1, "value": 0.0},
    "prelu": {"operands": with_slope},
    "glu": {"dim": -1},
}


def train(name: str) -> Builder:
    """Forward and backward."""
    return train_of(name, keeps_a_tensor=name != "relu", **TWINS[name])


def in_place(name: str, refill: bool = True) -> Builder:
    """Over the input itself, which is refilled before each call, outside the timer.

    A refill leaves the data in the cache. Without one, from the second call on no element is
    negative, which changes nothing for kernels without branches.
    """

    def build(case: Case, front: Front) -> Workload:
        import torch

        source = normal(case, seed=0)
        x = source.clone()

        def reset() -> None:
            x.copy_(source)

        def passes(y: Any) -> Sequence[Pass]:
            return (updates(y),)

        return Workload(
            functools.partial(getattr(front.functional, name), x, inplace=True),
            magnitude,
            reset=reset if refill else nothing,
            passes=passes,
            context=torch.no_grad,
        )

    return build


def relu_in_jax(case: Case) -> Workload:
    """Forward."""
    import jax as library

    return jax.jitted(library.nn.relu, normal(case, seed=0))


def relu_and_grad_in_jax(case: Case) -> Workload:
    """Forward and backward."""
    import jax as library

    def relu_and_grad(x: Any, upstream: Any) -> Any:
        y, pullback = library.vjp(library.nn.relu, x)
        return y, pullback(upstream)[0]

    return jax.jitted(relu_and_grad, normal(case, seed=0), normal(case, seed=2))


def on_numpy(case: Case, function: Callable[[Any], Any]) -> Workload:
    """A function of one array."""
    return numpy.call(function, normal(case, seed=0).numpy())


def our_numpy_relu(case: Case) -> Workload:
    """The NumPy front."""
    import dlkernels

    return on_numpy(case, dlkernels.relu)


def plain_numpy_relu(case: Case) -> Workload:
    """What one writes without it."""
    import numpy as np

    return on_numpy(case, lambda x: np.maximum(x, 0))


LARGE, IN_CACHE = (32_000_000,), (1_000_000,)
ROOF = Target("percent of roof", 75)

RELU = (
    Case(
        "relu",
        "relu forward",
        LARGE,
        (*EAGER, COMPILED, JAX),
        forward_of("relu"),
        {JAX: relu_in_jax},
        bytes_per_element=8,
        targets=(*against(4, 1.1), ROOF),
    ),
    Case(
        "relu",
        "relu fwd+bwd",
        LARGE,
        (*EAGER, TUNE_MALLOC, COMPILED, JAX),
        train("relu"),
        {JAX: relu_and_grad_in_jax},
        bytes_per_element=16,
        telling=True,
        targets=against(3, 1),
    ),
    Case(
        "relu",
        "relu in place",
        LARGE,
        (OURS, TORCH),
        in_place("relu", refill=False),
        bytes_per_element=8,
    ),
    Case(
        "relu",
        "relu forward",
        IN_CACHE,
        (*EAGER, COMPILED, JAX),
        forward_of("relu"),
        {JAX: relu_in_jax},
        batch=50,
        bytes_per_element=8,
        quick=True,
    ),
)

CASES = (
    *RELU,
    *(
        Case(
            "activations",
            f"{name} forward",
            LARGE,
            EAGER,
            forward_of(name),
            bytes_per_element=8,
            targets=(*against(default, tuned), ROOF),
        )
        for name, default, tuned in (
            ("leaky_relu", 4, 1.1),
            ("sigmoid", 4, 1.1),
            ("silu", 4, 1.1),
            ("tanh", 8, 5),
        )
    ),
    *(
        Case(
            "activations",
            f"{name} fwd+bwd",
            LARGE,
            EAGER,
            train(name),
            bytes_per_element=20,
            telling=name == "gelu",
            targets=against(default, tuned),
        )
        for name, default, tuned in (
            ("tanh", 7, 2.8),
            ("elu", 5, 1.8),
            ("gelu", 4, 1.4),
            ("prelu", 9, 4.5),
        )
    ),
    # In cache and in place: never slower.
    *(
        Case(
            "activations",
            f"{name} {where}",
            IN_CACHE,
            EAGER,
            build(name),
            batch=50,
            targets=(faster(1, TORCH, TUNED),),
        )
        for where, build, names in (
            ("forward", forward_of, ("leaky_relu", "sigmoid", "tanh", "silu", "gelu", "elu")),
            ("in place", in_place, ("relu", "leaky_relu", "elu", "silu")),
        )
        for name in names
    ),
    *(
        small(
            name,
            forward_of(name, **options),
            (256, 64) if name == "glu" else (16384,),
            quick=name in ("relu", "gelu"),
        )
        for name, options in TWINS.items()
    ),
    *(small_trained(name, train(name), quick=name == "relu") for name in TWINS if name != "glu"),
    Case(
        CALLS,
        "NumPy relu call",
        (4, 4),
        (OURS, NUMPY),
        forward_of("relu"),
        {OURS: our_numpy_relu, NUMPY: plain_numpy_relu},
        batch=5000,
        tight=True,
        quick=True,
    ),
)
