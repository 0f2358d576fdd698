"""The dropouts, and what is fused with them."""

from __future__ import annotations

from typing import Any

import numpy as np

import dlkernels
from operation import Arrays, Call, Exact, Operation, Options, Shape, row_shapes
from support import dropout_mask


def _any_shapes(size: int) -> list[Shape]:
    return [(size,), (3, size)]


def _dropout_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    return {
        name: rng.standard_normal(shape).astype(dtype) for name in ("x", "residual", "grad_output")
    }


def _kept(x: np.ndarray, options: Options, plane_dims: int) -> np.ndarray:
    """Which elements are kept, of planes in an array (N, C, ...) if `plane_dims` is 2."""
    shape = x.shape[:plane_dims] if plane_dims else x.shape
    mask = dropout_mask(options["seed"], options["p"], shape)
    return mask.reshape(*shape, *[1] * (x.ndim - len(shape)))


def _dropout_factor(x: np.ndarray, options: Options, plane_dims: int = 0) -> np.ndarray:
    keep = 1 - options["p"]
    return _kept(x, options, plane_dims) * (1 / keep if keep else 0.0)


def _alpha_factors(
    x: np.ndarray, options: Options, plane_dims: int
) -> tuple[np.ndarray, np.ndarray | float]:
    """What is multiplied and what is added."""
    p, dropped = options["p"], -1.7580993408473766
    kept = _kept(x, options, plane_dims)
    if p == 1:
        return kept * 0.0, 0.0
    a = 1 / np.sqrt((dropped**2 * p + 1) * (1 - p))
    return kept * a, np.where(kept, 0, dropped * a) - dropped * a * p


def _dropout_operation(name: str, *, alpha: bool = False, plane_dims: int = 0) -> Operation:
    forward, backward = (getattr(dlkernels, name + suffix) for suffix in ("", "_backward"))

    def factors(x: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray | float]:
        if alpha:
            return _alpha_factors(x, options, plane_dims)
        return _dropout_factor(x, options, plane_dims), 0.0

    def reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
        factor, shift = factors(a["x"], options)
        product = a["x"] * factor
        return (Exact(product + shift, np.abs(product) + np.abs(shift)),)

    return Operation(
        name,
        _dropout_sample,
        shapes=row_shapes if plane_dims else _any_shapes,
        options=(
            {"p": 0.5, "seed": 1},
            {"p": 0.1, "seed": 2**63 + 5},
            {"p": 0.97, "seed": 2**32},
            {"p": 1.0, "seed": 3},
        ),
        calls=[
            Call(
                name,
                run=lambda a, o, out: (forward(a["x"], out=out, **o),),
                reference=reference,
                eps=(1.5,),
                out=0,
                in_place=("x",),
                torch_twin=f"functional.{name}",
            ),
            Call(
                f"{name}_backward",
                run=lambda a, o, out: (backward(a["grad_output"], **o),),
                reference=lambda a, o: (Exact(a["grad_output"] * factors(a["grad_output"], o)[0]),),
                eps=(1.5,),
            ),
        ],
    )


def _dropout_add_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    product = a["x"] * _dropout_factor(a["x"], options)
    return (Exact(product + a["residual"], np.abs(product) + np.abs(a["residual"])),)


DROPOUT_ADD = Operation(
    "dropout_add",
    _dropout_sample,
    shapes=_any_shapes,
    options=({"p": 0.5, "seed": 1}, {"p": 0.1, "seed": 7}, {"p": 0.0}),
    calls=[
        Call(
            "dropout_add",
            run=lambda a, o, out: (dlkernels.dropout_add(a["x"], a["residual"], out=out, **o),),
            reference=lambda a, o: _dropout_add_reference(a, {"seed": 0, **o}),
            eps=(1.5,),
            out=0,
            in_place=("x", "residual"),
            bytes_per_element=12,
            torch_twin="functional.dropout_add",
        ),
    ],
)


def _bias_act_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    names = ("x", "grad_output")
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name in names}
    return {**arrays, "bias": rng.standard_normal(shape[-1:]).astype(dtype)}


def _rounded_sum(a: Arrays) -> np.ndarray:
    """x + bias as the kernel has it: rounded, but for float64, to float32."""
    total = a["x"] + a["bias"]
    return total if total.dtype == np.longdouble else total.astype(np.float32).astype(np.float64)


def _bias_act_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    hidden = _rounded_sum(a)
    return (Exact(np.maximum(hidden, 0) * _dropout_factor(hidden, {"seed": 0, **options})),)


def _bias_act_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    hidden = _rounded_sum(a)
    grad = a["grad_output"] * (hidden > 0) * _dropout_factor(hidden, {"seed": 0, **options})
    rows = tuple(range(grad.ndim - 1))
    return Exact(grad), Exact(grad.sum(axis=rows), np.abs(grad).sum(axis=rows))


BIAS_ACT_DROPOUT = Operation(
    "bias_act_dropout",
    _bias_act_sample,
    shapes=_any_shapes,
    options=({"p": 0.5, "seed": 1}, {"p": 0.1, "seed": 7}, {"p": 0.0}),
    calls=[
        Call(
            "bias_act_dropout",
            run=lambda a, o, out: (
                dlkernels.bias_act_dropout(a["x"], a["bias"], "relu", out=out, **o),
            ),
            reference=_bias_act_reference,
            eps=(1.5,),
            out=0,
            in_place=("x",),
            torch_twin="functional.bias_act_dropout",
        ),
        Call(
            "bias_act_dropout_backward",
            run=lambda a, o, out: dlkernels.bias_act_dropout_backward(
                a["grad_output"], a["x"], a["bias"], "relu", **o
            ),
            reference=_bias_act_backward_reference,
            eps=(1.5, 1.5),
            bytes_per_element=12,
        ),
    ],
    free_rows=("x",),
)


OPERATIONS = [
    _dropout_operation("dropout"),
    _dropout_operation("alpha_dropout", alpha=True),
    _dropout_operation("feature_alpha_dropout", alpha=True, plane_dims=2),
    DROPOUT_ADD,
    BIAS_ACT_DROPOUT,
]
