"""Losses over classes, and the softmax functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import dlkernels
from operation import (
    Arrays,
    Call,
    Exact,
    Operation,
    Options,
    Shape,
    gradient_first,
    nonempty_row_shapes,
    reduced,
    row_shapes,
)


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    if x.shape[axis] == 0:
        return x
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _axis(options: Options) -> int:
    return options.get("axis", 1)


def _softmax_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    axis = _axis(options)
    x = (2 * rng.standard_normal(shape)).astype(dtype)
    log_output = _log_softmax(x.astype(np.float64), axis)
    return {
        "x": x,
        "grad_output": rng.standard_normal(shape).astype(dtype),
        "output": np.exp(log_output).astype(dtype),
        "log_output": log_output.astype(dtype),
    }


def _distance(x: np.ndarray, axis: int) -> np.ndarray:
    """How far below its row's largest each element is. Its exponential's error grows by half an eps
    for each 1, because the argument is rounded, and by a tenth, because log2(e) is."""
    return x.max(axis=axis, keepdims=True, initial=-np.inf) - x if x.size else x


def _softmax_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    axis = _axis(options)
    value = np.exp(_log_softmax(a["x"], axis))
    return (Exact(value, value * (1 + 0.07 * _distance(a["x"], axis)), underflow=1.0),)


def _log_softmax_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    value = _log_softmax(a["x"], _axis(options))
    return (Exact(value, 1 + np.abs(value)),)


def _softmax_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    y, g, axis = a["output"], a["grad_output"], _axis(options)
    total, size = ((part).sum(axis=axis, keepdims=True) for part in (g * y, np.abs(g * y)))
    return (Exact(y * (g - total), y * (np.abs(g) + size)),)


def _log_softmax_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    y, g, axis = np.exp(a["log_output"]), a["grad_output"], _axis(options)
    total, size = ((part).sum(axis=axis, keepdims=True) for part in (g, np.abs(g)))
    return (Exact(g - y * total, np.abs(g) + y * size),)


SOFTMAX = Operation(
    "softmax",
    _softmax_sample,
    shapes=row_shapes,
    options=({}, {"axis": -1}, {"axis": 0}),
    calls=[
        Call(
            "softmax",
            run=lambda a, o, out: (dlkernels.softmax(a["x"], _axis(o), out=out),),
            reference=_softmax_reference,
            eps=(9,),
            out=0,
            in_place=("x",),
            bytes_per_element=8,
            torch_twin="functional.softmax",
        ),
        Call(
            "softmax_backward",
            run=lambda a, o, out: (
                dlkernels.softmax_backward(a["grad_output"], a["output"], _axis(o), out=out),
            ),
            reference=_softmax_backward_reference,
            eps=(8,),
            out=0,
            in_place=("grad_output", "output"),
            bytes_per_element=12,
        ),
    ],
)

LOG_SOFTMAX = Operation(
    "log_softmax",
    _softmax_sample,
    shapes=row_shapes,
    options=({}, {"axis": -1}, {"axis": 0}),
    calls=[
        Call(
            "log_softmax",
            run=lambda a, o, out: (dlkernels.log_softmax(a["x"], _axis(o), out=out),),
            reference=_log_softmax_reference,
            eps=(4,),
            out=0,
            in_place=("x",),
            bytes_per_element=8,
            torch_twin="functional.log_softmax",
        ),
        Call(
            "log_softmax_backward",
            run=lambda a, o, out: (
                dlkernels.log_softmax_backward(
                    a["grad_output"], a["log_output"], _axis(o), out=out
                ),
            ),
            reference=_log_softmax_backward_reference,
            eps=(8,),
            out=0,
            in_place=("grad_output", "log_output"),
            bytes_per_element=12,
        ),
    ],
)


# --- losses

_LOSS_KEYWORDS = ("ignore_index", "reduction", "label_smoothing", "z_loss", "softcap")


def _loss_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    classes = shape[1]
    rows = (shape[0], *shape[2:])
    logits = (2 * rng.standard_normal(shape)).astype(dtype)
    arrays: dict[str, Any] = {"logits": logits}
    if options.get("probabilities"):
        arrays["target"] = np.exp(_log_softmax(2 * rng.standard_normal(shape), 1)).astype(dtype)
    else:
        target = rng.integers(0, classes, rows)
        ignore_index = options.get("ignore_index", -100)
        if ignore_index != -100 and target.size:
            target.reshape(-1)[:: 1 + target.size // 2] = ignore_index
        arrays["target"] = target
    if options.get("weight"):
        arrays["weight"] = rng.uniform(0.25, 2, classes).astype(dtype)
    return arrays


def loss_keywords(arrays: Arrays, options: Options) -> dict[str, Any]:
    """The keyword arguments of a loss's front for a sample."""
    keywords = {name: options[name] for name in _LOSS_KEYWORDS if name in options}
    if "weight" in arrays:
        keywords["weight"] = arrays["weight"]
    return keywords


class _Rows(NamedTuple):
    """Class losses broadcast to the logits' shape, (rows as shape, classes at axis 1)."""

    soft: np.ndarray  # q: what every class's log-probability is multiplied by, negated
    counted: np.ndarray  # 1 where the row is not ignored
    divisor: Any  # of a mean


def _loss_rows(a: Arrays, options: Options, name: str) -> _Rows:
    x, target = a[name], a["target"]
    classes = x.shape[1]
    one = x.dtype.type(1)
    weight = a.get("weight", np.ones(classes, x.dtype)).reshape(1, -1, *[1] * (x.ndim - 2))
    smoothing = x.dtype.type(options.get("label_smoothing", 0.0))
    if options.get("probabilities"):
        counted = np.ones((x.shape[0], 1, *x.shape[2:]), x.dtype)
        soft = weight * (target * (one - smoothing) + smoothing / classes)
        return _Rows(soft, counted, x.dtype.type(counted.size))
    target = np.expand_dims(target, 1)
    counted = (target != options.get("ignore_index", -100)).astype(x.dtype)
    index = np.arange(classes).reshape(1, -1, *[1] * (x.ndim - 2))
    one_hot = (index == target).astype(x.dtype)
    soft = counted * weight * (one_hot * (one - smoothing) + smoothing / max(classes, 1))
    return _Rows(soft, counted, (counted * weight * one_hot).sum())


def _cross_entropy_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    """Loss, gradient and log-sum-exp."""
    x = a["logits"]
    soft, counted, divisor = _loss_rows(a, options, "logits")
    softcap, z_loss = options.get("softcap"), options.get("z_loss", 0.0)
    capped = softcap * np.tanh(x / softcap) if softcap else x
    slope = 1 - np.tanh(x / softcap) ** 2 if softcap else np.ones_like(x)
    top = capped.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(capped - top).sum(axis=1, keepdims=True))
    lse = top + log_sum
    logp = (capped - top) - log_sum
    is_mean = options.get("reduction", "mean") == "mean"
    row_scale = 1 / divisor if is_mean and divisor else 1
    z_scale = z_loss * (1 / counted.sum() if is_mean and counted.sum() else 1)

    ce = -(soft * logp).sum(axis=1)
    # The cap is a rounded tanh: its errors grow with what it returns.
    noise = np.abs(capped).max(axis=1) if softcap else 0
    ce_scale = (soft * (1 + np.abs(logp))).sum(axis=1) * (1 + noise)
    z = counted[:, 0] * z_loss * lse[:, 0] ** 2
    z_noise = np.abs(z) + counted[:, 0] * z_loss * np.abs(lse[:, 0]) * (1 + noise)
    if is_mean:
        z, z_noise = (part * (divisor / max(counted.sum(), 1)) for part in (z, z_noise))
    loss = Exact(reduced(ce + z, options, divisor), reduced(ce_scale + z_noise, options, divisor))

    p = np.exp(logp)
    mass = soft.sum(axis=1, keepdims=True)
    factor = row_scale * mass + 2 * z_scale * counted * lse
    grad = (p * factor - row_scale * soft) * slope
    factor_scale = row_scale * mass + 2 * z_scale * counted * (1 + np.abs(lse))
    distance = 1 + (top - capped) / 8 + (np.abs(capped) + np.abs(top) if softcap else 0)
    grad_scale = p * factor_scale * distance + row_scale * soft
    if softcap:  # 1 - tanh^2 cancels
        grad_scale = grad_scale * (slope + np.tanh(x / softcap) ** 2)
    lse_scale = (1 + np.abs(lse[:, 0])) * (1 + noise)
    underflow = np.abs(factor)  # what a weight is multiplied by
    return loss, Exact(grad, grad_scale, underflow), Exact(lse[:, 0], lse_scale)


def _cross_entropy_with_grad(a: Arrays, options: Options, out: Any) -> tuple[Any, ...]:
    return dlkernels.cross_entropy_with_grad(
        a["logits"], a["target"], out=out, return_lse=True, **loss_keywords(a, options)
    )


CROSS_ENTROPY_OPTIONS: tuple[Options, ...] = (
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight": True},
    {"ignore_index": 0},
    {"label_smoothing": 0.1},
    {"z_loss": 0.01},
    {"softcap": 5.0},
    {"probabilities": True},
    {"probabilities": True, "weight": True, "label_smoothing": 0.2, "reduction": "none"},
    {"weight": True, "ignore_index": -1, "label_smoothing": 0.3, "reduction": "sum"},
    {"weight": True, "ignore_index": 0, "label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 10.0},
)

CROSS_ENTROPY = Operation(
    "cross_entropy",
    _loss_sample,
    shapes=nonempty_row_shapes,
    options=CROSS_ENTROPY_OPTIONS,
    calls=[
        Call(
            "cross_entropy",
            run=lambda a, options, out: (
                dlkernels.cross_entropy(a["logits"], a["target"], **loss_keywords(a, options)),
            ),
            reference=lambda a, options: _cross_entropy_reference(a, options)[:1],
            eps=(4,),
            bytes_per_element=4,
            torch_twin="functional.cross_entropy",
        ),
        Call(
            "cross_entropy_with_grad",
            run=lambda a, options, out: gradient_first(_cross_entropy_with_grad(a, options, out)),
            reference=lambda a, options: gradient_first(_cross_entropy_reference(a, options)),
            eps=(8, 4, 4),
            out=0,
            in_place=("logits",),
            bytes_per_element=8,
        ),
    ],
)


def _nll_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    arrays = _loss_sample(rng, shape, dtype, options)
    logits = arrays.pop("logits")
    arrays["log_probabilities"] = _log_softmax(logits.astype(np.float64), 1).astype(dtype)
    if options.get("reduction") == "none":
        arrays["grad_output"] = rng.standard_normal((shape[0], *shape[2:])).astype(dtype)
    return arrays


def _nll_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    soft, _, divisor = _loss_rows(a, options, "log_probabilities")
    rows = -(soft * a["log_probabilities"]).sum(axis=1)
    scale = reduced(np.abs(rows), options, divisor)
    return (Exact(reduced(rows, options, divisor), scale),)


def _nll_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    soft, _, divisor = _loss_rows(a, options, "log_probabilities")
    reduction = options.get("reduction", "mean")
    grad_output = np.expand_dims(a["grad_output"], 1) if reduction == "none" else 1.0
    scale = 1 / divisor if reduction == "mean" and divisor else 1
    return (Exact(-soft * grad_output * scale),)


NLL_LOSS = Operation(
    "nll_loss",
    _nll_sample,
    shapes=nonempty_row_shapes,
    options=(
        {},
        {"reduction": "sum"},
        {"reduction": "none"},
        {"weight": True, "ignore_index": 1},
        {"weight": True, "ignore_index": 0, "reduction": "none"},
    ),
    calls=[
        Call(
            "nll_loss",
            run=lambda a, o, out: (
                dlkernels.nll_loss(a["log_probabilities"], a["target"], **loss_keywords(a, o)),
            ),
            reference=_nll_reference,
            eps=(3,),
            bytes_per_element=4,
            torch_twin="functional.nll_loss",
        ),
        Call(
            "nll_loss_backward",
            run=lambda a, o, out: (
                dlkernels.nll_loss_backward(
                    a.get("grad_output", 1.0),
                    a["log_probabilities"],
                    a["target"],
                    **loss_keywords(a, o),
                ),
            ),
            reference=_nll_backward_reference,
            eps=(3,),
            bytes_per_element=4,
        ),
    ],
)


OPERATIONS = [SOFTMAX, LOG_SOFTMAX, NLL_LOSS, CROSS_ENTROPY]
