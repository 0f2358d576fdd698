"""Batch normalization."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import dlkernels
from operation import Arrays, Call, Exact, Operation, Options, Shape, nonempty_row_shapes


def _norm_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    channels = shape[1]
    arrays = {
        "x": (2 * rng.standard_normal(shape) + 1).astype(dtype),
        "grad_output": rng.standard_normal(shape).astype(dtype),
    }
    if options.get("affine", True):
        arrays["weight"] = rng.uniform(0.5, 1.5, channels).astype(dtype)
        arrays["bias"] = rng.standard_normal(channels).astype(dtype)
    if options.get("residual"):
        arrays["residual"] = rng.standard_normal(shape).astype(dtype)
    if not options.get("training"):
        arrays["running_mean"] = rng.standard_normal(channels).astype(dtype)
        arrays["running_var"] = rng.uniform(0.5, 2, channels).astype(dtype)
    return arrays


_NORM_ARRAYS = ("weight", "bias", "residual", "running_mean", "running_var")
_NORM_OPTIONS = ("training", "activation", "negative_slope", "eps")


def norm_keywords(arrays: Arrays, options: Options) -> dict[str, Any]:
    """The keyword arguments of a batch normalization for a sample."""
    return {
        **{name: arrays[name] for name in _NORM_ARRAYS if name in arrays},
        **{name: options[name] for name in _NORM_OPTIONS if name in options},
    }


class _Norm(NamedTuple):
    """A batch normalization before its activation, and the magnitudes of its terms."""

    centred: np.ndarray  # (x - mean) / std
    magnitude: np.ndarray  # (|x| + |mean|, or the mean of |x|) / std
    factor: np.ndarray  # weight / std
    z: np.ndarray
    z_scale: np.ndarray


def _norm(a: Arrays, options: Options) -> _Norm:
    x = a["x"]
    axes = (0, *range(2, x.ndim))

    def spread(vector: np.ndarray) -> np.ndarray:
        return vector.reshape(1, -1, *[1] * (x.ndim - 2))

    if options.get("training"):
        mean = x.mean(axis=axes, keepdims=True) if x.size else spread(np.zeros(x.shape[1]))
        var = ((x - mean) ** 2).mean(axis=axes, keepdims=True) if x.size else mean
        mean_scale = np.abs(x).mean(axis=axes, keepdims=True) if x.size else mean
    else:
        mean, var = spread(a["running_mean"]), spread(a["running_var"])
        mean_scale = np.abs(mean)
    invstd = 1 / np.sqrt(var + x.dtype.type(options.get("eps", 1e-5)))
    weight, bias = (
        spread(a.get("weight", np.ones(x.shape[1]))),
        spread(a.get("bias", np.zeros(x.shape[1]))),
    )
    residual = a.get("residual", np.zeros_like(x))
    centred, magnitude = (x - mean) * invstd, (np.abs(x) + mean_scale) * invstd
    z = centred * weight + bias + residual
    z_scale = magnitude * np.abs(weight) + np.abs(bias) + np.abs(residual)
    return _Norm(centred, magnitude, weight * invstd, z, z_scale)


def _norm_activation(z: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """The activation and its derivative."""
    name = options.get("activation")
    if name is None:
        return z, np.ones_like(z)
    if name == "silu":
        s = 1 / (1 + np.exp(-z))
        return z * s, s * (1 + z * (1 - s))
    slope = 0.0 if name == "relu" else z.dtype.type(options.get("negative_slope", 0.01))
    return np.where(z > 0, z, slope * z), np.where(z > 0, 1, slope + 0 * z)


def _batch_norm_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    norm = _norm(a, options)
    y, _ = _norm_activation(norm.z, options)
    return (Exact(y, norm.z_scale + np.abs(y)),)


def _batch_norm_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    norm, g = _norm(a, options), a["grad_output"]
    dy = g * _norm_activation(norm.z, options)[1]
    curved = norm.z_scale if options.get("activation") == "silu" else 0
    dy_scale = np.abs(g) * (1 + curved)
    dx, dx_scale = dy, dy_scale
    if options.get("training") and g.size:
        axes = (0, *range(2, g.ndim))
        mean, projection = (part.mean(axis=axes, keepdims=True) for part in (dy, dy * norm.centred))
        mean_scale, projection_scale = (
            part.mean(axis=axes, keepdims=True) for part in (dy_scale, dy_scale * norm.magnitude)
        )
        dx = dy - mean - norm.centred * projection
        dx_scale = dy_scale + mean_scale + norm.magnitude * projection_scale
    results = [Exact(dx * norm.factor, dx_scale * np.abs(norm.factor))]
    if "residual" in a:
        results.append(Exact(dy, dy_scale))
    return tuple(results)


def _batch_norm_backward(a: Arrays, options: Options) -> tuple[Any, ...]:
    grads = dlkernels.batch_norm_backward(a["grad_output"], a["x"], **norm_keywords(a, options))
    return (grads.input,) if grads.residual is None else (grads.input, grads.residual)


BATCH_NORM = Operation(
    "batch_norm",
    _norm_sample,
    shapes=nonempty_row_shapes,
    options=(
        {"training": True, "residual": True, "activation": "relu"},
        {},
        {"training": True},
        {"training": True, "activation": "leaky_relu", "negative_slope": 0.2, "affine": False},
        {"training": True, "residual": True, "activation": "silu", "eps": 0.01},
        {"residual": True, "activation": "silu"},
    ),
    calls=[
        Call(
            "batch_norm",
            run=lambda a, o, out: (dlkernels.batch_norm(a["x"], out=out, **norm_keywords(a, o)),),
            reference=_batch_norm_reference,
            # 2 for float32; float64's statistics are sums of as many float64s, no wider
            eps=(8,),
            out=0,
            in_place=("x",),
            bytes_per_element=8,
        ),
        Call(
            "batch_norm_backward",
            run=lambda a, o, out: _batch_norm_backward(a, o),
            reference=_batch_norm_backward_reference,
            eps=(8, 4),
            bytes_per_element=12,
        ),
    ],
)

OPERATIONS = [BATCH_NORM]
