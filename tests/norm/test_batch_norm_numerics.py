"""How far batch normalization may be off where means are far from zero; and that what follows it
is the activation of that name, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dlkernels
import dlkernels.torch as dlt
from dlkernels import _core
from dlkernels.activations import ACTIVATIONS as ACTIVATION_ROWS
from support import DTYPES, assert_same_bits, bits

ACTIVATIONS = ("relu", "leaky_relu", "silu")


def channels_last(x: np.ndarray) -> np.ndarray:
    """The same values with the channels side by side in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


LAYOUTS = {"contiguous": np.ascontiguousarray, "channels last": channels_last}
LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)

#: Those that are summed in one piece, in several, and by several threads.
SHAPES = [(10000, 1), (16, 16, 1, 13), (70, 64), (3, 5, 60, 60), (700, 3)]


# --- references


def reference(x: np.ndarray, grad: np.ndarray, weight: Any, bias: Any) -> dict[str, np.ndarray]:
    """Results, gradients and statistics in long double."""
    x, grad, weight, bias = (np.asarray(a, np.longdouble) for a in (x, grad, weight, bias))
    axes = (0, *range(2, x.ndim))

    def spread(vector: np.ndarray) -> np.ndarray:
        return vector.reshape(1, -1, *[1] * (x.ndim - 2))

    mean = x.mean(axes, keepdims=True)
    squares = ((x - mean) ** 2).sum(axes, keepdims=True)
    count = np.longdouble(x.size // x.shape[1])
    invstd = 1 / np.sqrt(squares / count + np.longdouble(1e-5))
    centred = (x - mean) * invstd
    dx = grad - grad.mean(axes, keepdims=True)
    dx = dx - centred * (grad * centred).mean(axes, keepdims=True)
    return {
        "y": centred * spread(weight) + spread(bias),
        "dx": dx * invstd * spread(weight),
        "dweight": (grad * centred).sum(axes),
        "dbias": grad.sum(axes),
        "mean": mean.reshape(-1),
        "var": (squares / (count - 1)).reshape(-1),
    }


def by_torch(function: Any, x: np.ndarray, grad: np.ndarray, weight: Any, bias: Any) -> Any:
    """The same by a function of torch's or ours, for arrays of any strides."""
    leaf, w, b = (torch.from_numpy(a).requires_grad_() for a in (x, weight, bias))
    statistics = [torch.zeros_like(w, requires_grad=False) for _ in range(2)]
    y = function(leaf, *statistics, w, b, True, 1.0)
    y.backward(torch.from_numpy(grad))
    tensors = (y.detach(), leaf.grad, w.grad, b.grad, *statistics)
    return dict(zip(("y", "dx", "dweight", "dbias", "mean", "var"), tensors, strict=True))


def errors(found: dict[str, Any], exact: dict[str, np.ndarray], x: np.ndarray) -> dict[str, float]:
    """In eps of the largest result of each."""
    eps = np.finfo(x.dtype).eps
    return {
        name: float(np.abs(np.asarray(found[name]) - value).max() / np.abs(value).max() / eps)
        for name, value in exact.items()
    }


def parameters(channels: int, dtype: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    weight = rng.uniform(0.5, 1.5, channels).astype(dtype)
    return weight, rng.standard_normal(channels).astype(dtype)


# --- float32: nothing of the mean is lost


def _far(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (1000 + 0.01 * rng.standard_normal(shape)).astype(np.float32)


@LAYOUT
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_mean_far_from_zero(
    layout: str, shape: tuple[int, ...], isa: str, rng: np.random.Generator
) -> None:
    """4 eps, of what comes back and of the gradients, for a gradient of any mean."""
    x = LAYOUTS[layout](_far(rng, shape))
    weight, bias = parameters(shape[1], np.float32, rng)
    for grad_mean in (0.0, 10.0):
        grad = LAYOUTS[layout]((grad_mean + rng.standard_normal(shape)).astype(np.float32))
        exact = reference(x, grad, weight, bias)
        found = by_torch(dlt.functional.batch_norm, x, grad, weight, bias)
        for name, error in errors(found, exact, x).items():
            assert error <= 4, (name, error, grad_mean)
        grads = dlkernels.batch_norm_backward(grad, x, weight=weight, bias=bias, training=True)
        assert_same_bits(grads.input, np.asarray(found["dx"]))
        pieces = _in_pieces(x, grad, weight, bias)
        assert_same_bits(pieces, (np.asarray(found["y"]), np.asarray(found["dx"])))


def _in_pieces(x: np.ndarray, grad: np.ndarray, weight: Any, bias: Any) -> tuple[Any, Any]:
    """As several processes do it."""
    count = x.size // x.shape[1]
    mean, squares = _core.batch_norm_stats(x)
    invstd = 1 / np.sqrt(squares / count + 1e-5)
    y, _ = _core.batch_norm_elemt(x, weight, bias, mean, invstd, None, 0.0, None, False)
    at = (grad, x, weight, bias, mean, invstd)
    sums = _core.batch_norm_backward_reduce(*at, None, 0.0, None, None)
    dx, _ = _core.batch_norm_backward_elemt(*at, *sums, count, None, 0.0, None, None, True, False)
    return y, dx


@LAYOUT
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_mean_far_from_zero_before_an_activation(
    layout: str, activation: str, isa: str, rng: np.random.Generator
) -> None:
    x = torch.from_numpy(LAYOUTS[layout](_far(rng, (6, 5, 20, 20))))
    residual, grad = (
        torch.from_numpy(LAYOUTS[layout](rng.standard_normal(x.shape).astype(np.float32)))
        for _ in range(2)
    )
    for added in (None, residual):
        results = []
        for wide in (False, True):
            # the residual decides where a rectifier bends: nothing is close to it
            leaf = (x.double() if wide else x).detach().requires_grad_()
            y = dlt.functional.batch_norm(
                leaf, None, None, training=True, activation=activation,
                residual=None if added is None else added.to(leaf.dtype),
            )  # fmt: skip
            y.backward(grad.to(y.dtype))
            results.append((y.detach(), leaf.grad))
        for ours, exact in zip(*results, strict=True):
            assert (ours - exact).abs().max() <= 4 * 2.0**-23 * exact.abs().max()


# --- what follows is the activation of that name


SPECIALS = [np.inf, -np.inf, np.nan, 0.0, -0.0, -90.0, -103.0, 90.0, -88.5, 1e-30, -1e-30]


def _with_one_nan(x: np.ndarray) -> np.ndarray:
    """The same with one NaN for all: the sign of a NaN means nothing."""
    return np.where(np.isnan(x), np.array(np.nan, x.dtype), x)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@LAYOUT
def test_the_activation_is_the_activation(
    layout: str, activation: str, dtype: str, with_residual: bool, isa: str,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Of a normalization by 0 and 1, forward and backward, specials too."""
    values = np.concatenate([SPECIALS, 20 * rng.standard_normal(181)])
    z = LAYOUTS[layout](np.resize(values, (4, 6, 1, 37)).astype(DTYPES[dtype]))
    grad = LAYOUTS[layout](np.resize(values[::-1], z.shape).astype(DTYPES[dtype]))
    slope = {"negative_slope": 0.3} if activation == "leaky_relu" else {}
    expected = getattr(dlkernels, activation)(z, **slope)
    statistics = [np.zeros(6, z.dtype), np.ones(6, z.dtype)]
    # -0 + -0 is -0: what is added leaves the sign of a zero
    nothing = np.full(6, -0.0, z.dtype)
    keywords: dict[str, Any] = {"activation": activation, "bias": nothing, "eps": 0.0, **slope}
    x = z
    if with_residual:
        x, keywords["residual"] = LAYOUTS[layout](np.full_like(z, -0.0)), z
    y = dlkernels.batch_norm(x, *statistics, **keywords)
    assert bits(_with_one_nan(y)) == bits(_with_one_nan(expected))
    grads = dlkernels.batch_norm_backward(grad, x, *statistics, **keywords)
    row = ACTIVATION_ROWS[activation]
    numbers = slope.get("negative_slope", 0.0), 0.0
    saved, mask = z, None
    if row.saves == "mask":
        saved, (_, mask) = None, _core.activation(row.index, z, None, True, *numbers)
    derived = _core.activation_backward(row.index, grad, saved, mask, *numbers)
    found = grads.residual if with_residual else grads.input
    assert bits(_with_one_nan(found)) == bits(_with_one_nan(derived))
