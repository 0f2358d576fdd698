"""Arguments and numbers at the ends of their ranges: results are still those of exact arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dlkernels
import specs
from specs import ActivationSpec, Call, Operation
from support import DTYPES, HALF, bits, eps, isa_level, overflow_threshold, smallest_normal
from support import FMA_ISAS, compute_dtype, ulp_error, wide_dtype

DTYPE = pytest.mark.parametrize("dtype", DTYPES)

# --- activations and gated units: values clamped for one purpose, exponentials that are subnormal


def _arguments(dtype: str, count: int) -> np.ndarray:
    """Finite numbers: some of every exponent, and many where exponentials end."""
    item = DTYPES[dtype].itemsize
    patterns = np.linspace(0, 2.0 ** (8 * item), count, endpoint=False).astype(f"u{item}")
    with np.errstate(invalid="ignore"):
        some = patterns.view(DTYPES[dtype]).astype(np.float64)
    end = 1130 if dtype == "float64" else 135
    parts = [
        some[np.isfinite(some)],
        np.linspace(-end, end, count),
        np.linspace(-18, 18, count // 4),
        [200, -200, 1e3, -1e3, 6e4, -6e4, -91.19, -90],
    ]
    if dtype not in HALF:
        parts.append([1e30, -1e30, np.finfo(dtype).max, -np.finfo(dtype).max])
    x = np.concatenate([np.asarray(part, np.float64) for part in parts])
    with np.errstate(over="ignore"):
        x = x.astype(DTYPES[dtype])
    return x[np.isfinite(x.astype(np.float64))]


def _factors(dtype: str, size: int, largest: float) -> np.ndarray:
    """Numbers to multiply by, of every size up to `largest`."""
    largest = min(largest, 3e4) if dtype == "float16" else largest
    values = np.array([1, -3, largest, -0.7 / largest, 0.37 * largest])
    return np.resize(values, size).astype(DTYPES[dtype])


def _check(result: Any, exact: specs.Exact, bound: float, dtype: str, label: str) -> None:
    result = np.asarray(result).astype(exact.value.dtype)
    with np.errstate(all="ignore"):
        allowed = specs.tolerance(exact, bound, dtype)
        fine = np.abs(result - exact.value) <= allowed
        beyond = np.abs(exact.value) + allowed >= overflow_threshold(dtype)
        fine |= beyond & np.isinf(result) & (np.sign(result) == np.sign(exact.value))
    if not fine.all():
        at = int(np.argmin(fine))
        pytest.fail(
            f"{label}: {(~fine).sum()} of {fine.size} off, first {at}: {result[at]!r}, exact "
            f"{exact.value[at]!r}, allowed {allowed[at]!r}"
        )


def _check_calls(operation: Operation, arrays: Any, options: Any, dtype: str) -> None:
    for call in operation.calls:
        with np.errstate(all="ignore"):
            exact = call.reference(specs.widened(arrays, dtype), options)
            results = call.run(arrays, options, None)
        for index, result in enumerate(results):
            label = f"{call.name} {dict(options)} {dtype} result {index}"
            _check(np.ravel(result), _flat(exact[index]), call.eps[index], dtype, label)


def _flat(exact: specs.Exact) -> specs.Exact:
    scale = None if exact.scale is None else np.ravel(exact.scale)
    return specs.Exact(np.ravel(exact.value), scale, exact.underflow)


def _check_activation(spec: ActivationSpec, dtype: str, count: int) -> None:
    x = _arguments(dtype, count)
    for options in spec.options:
        arrays = {"x": x, "grad_output": _factors(dtype, x.size, 1e30)}
        if spec.row.saves == "output":
            arrays["output"] = getattr(dlkernels, spec.name)(x, **options)
        _check_calls(spec.operation(), arrays, options, dtype)


@pytest.mark.parametrize("spec", specs.ACTIVATIONS, ids=lambda spec: spec.name)
@DTYPE
def test_activations_of_any_argument(spec: ActivationSpec, dtype: str) -> None:
    _check_activation(spec, dtype, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("spec", specs.ACTIVATIONS, ids=lambda spec: spec.name)
@DTYPE
def test_activations_of_very_many_arguments(spec: ActivationSpec, dtype: str, isa: str) -> None:
    if isa in FMA_ISAS:
        _check_activation(spec, dtype, 2**16 if dtype in HALF else 2**20)


@DTYPE
def test_gated_units_of_any_argument(dtype: str, isa: str) -> None:
    gate = _arguments(dtype, 2000)
    up, grad = _factors(dtype, gate.size, 1e15), _factors(dtype, gate.size + 2, 1e15)[2:]
    _check_calls(specs.SWIGLU, {"gate": gate, "up": up, "grad_output": grad}, {}, dtype)
    halves = {"x": np.stack([up, gate], axis=1), "grad_output": grad[:, None]}
    _check_calls(specs.GLU, halves, {}, dtype)


@DTYPE
def test_a_large_gate_passes_whole(dtype: str, isa: str) -> None:
    """swiglu's gradient of up is silu(gate), which is gate where that is large."""
    gate = np.array([200, 1000, 6e4, np.inf], DTYPES[dtype])
    one = np.ones_like(gate)
    d_gate, d_up = dlkernels.swiglu_backward(one, gate, one)
    assert np.array_equal(d_up, gate)
    assert np.array_equal(d_gate, one)
    low = np.array([-np.inf, -1e4], DTYPES[dtype])
    for part in dlkernels.swiglu_backward(one[:2], low, one[:2]):
        assert (part == 0).all()


@pytest.mark.parametrize(("dtype", "first", "last"), [("float32", -104, -80), ("float64", -746, -700)])
@pytest.mark.parametrize(("name", "bound"), [("silu", 3), ("mish", 5), ("gelu", 7.5)])
def test_tails_have_their_digits_until_they_are_subnormal(
    name: str, bound: float, dtype: str, first: float, last: float, isa: str
) -> None:
    """x e^x is normal a little farther than e^x."""
    x = np.linspace(first, last, 5001).astype(dtype)
    if name == "gelu":
        bound += 2 * (dtype == "float64")
        x = -np.sqrt(-2 * x)
    spec = next(spec for spec in specs.ACTIVATIONS if spec.name == name)
    exact = spec.function(x.astype(wide_dtype(dtype)))
    exact = getattr(exact, "value", exact)
    if isa in FMA_ISAS:
        assert ulp_error(getattr(dlkernels, name)(x), exact, dtype).max() <= bound
