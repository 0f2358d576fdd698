"""Arguments and numbers at the ends of their ranges: results are those of exact arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dlkernels
from activations.specs import ACTIVATIONS, GLU, SWIGLU, ActivationSpec
from operation import Exact, Operation, tolerance, widened
from support import (
    DTYPES,
    FMA_ISAS,
    HALF,
    bits,
    eps,
    in_one_test,
    overflow_threshold,
    smallest_normal,
    ulp_error,
    wide_dtype,
)

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


def _check(result: Any, exact: Exact, bound: float, dtype: str, label: str) -> None:
    result = np.asarray(result).astype(exact.value.dtype)
    with np.errstate(all="ignore"):
        allowed = tolerance(exact, bound, dtype)
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
            exact = call.reference(widened(arrays, dtype), options)
            results = call.run(arrays, options, None)
        for index, result in enumerate(results):
            label = f"{call.name} {dict(options)} {dtype} result {index}"
            _check(np.ravel(result), _flat(exact[index]), call.eps[index], dtype, label)


def _flat(exact: Exact) -> Exact:
    scale = None if exact.scale is None else np.ravel(exact.scale)
    return Exact(np.ravel(exact.value), scale, exact.underflow)


def _check_activation(spec: ActivationSpec, dtype: str, count: int) -> None:
    x = _arguments(dtype, count)
    for options in spec.options:
        arrays = {"x": x, "grad_output": _factors(dtype, x.size, 4e9)}
        if spec.row.saves == "output":
            arrays["output"] = getattr(dlkernels, spec.name)(x, **options)
        _check_calls(spec.operation(), arrays, options, dtype)


@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
@DTYPE
def test_activations_of_any_argument(spec: ActivationSpec, dtype: str) -> None:
    _check_activation(spec, dtype, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
@DTYPE
def test_activations_of_very_many_arguments(spec: ActivationSpec, dtype: str, isa: str) -> None:
    if isa in FMA_ISAS:
        _check_activation(spec, dtype, 2**16 if dtype in HALF else 2**20)


@DTYPE
def test_gated_units_of_any_argument(dtype: str, isa: str) -> None:
    gate = _arguments(dtype, 2000)
    up, grad = _factors(dtype, gate.size, 6e4), _factors(dtype, gate.size + 2, 6e4)[2:]
    _check_calls(SWIGLU, {"gate": gate, "up": up, "grad_output": grad}, {}, dtype)
    halves = {"x": np.stack([up, gate], axis=1), "grad_output": grad[:, None]}
    _check_calls(GLU, halves, {}, dtype)


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


@pytest.mark.parametrize(
    ("dtype", "first", "last"), [("float32", -104, -80), ("float64", -746, -700)]
)
@pytest.mark.parametrize(("name", "bound"), [("silu", 3), ("mish", 5), ("gelu", 7.5)])
def test_tails_have_their_digits_until_they_are_subnormal(
    name: str, bound: float, dtype: str, first: float, last: float, isa: str
) -> None:
    """x e^x is normal a little farther than e^x."""
    x = np.linspace(first, last, 5001).astype(dtype)
    if name == "gelu":
        bound += 2 * (dtype == "float64")
        x = -np.sqrt(-2 * x)
    spec = next(spec for spec in ACTIVATIONS if spec.name == name)
    exact = spec.function(x.astype(wide_dtype(dtype)))
    exact = getattr(exact, "value", exact)
    if isa in FMA_ISAS:
        assert ulp_error(getattr(dlkernels, name)(x), exact, dtype).max() <= bound


# --- numbers that the computing type cannot hold

_HUGE = (1e300, -1e300, 1e39)


def _scalar_calls() -> dict[str, Any]:
    x, zero = np.array([-3, -0.5, 0, 0.5, 3], np.float32), np.zeros(5, np.float32)
    logits, target = x[None], np.array([1])
    image = np.full((3, 2, 2), 7, np.uint8)

    def typed(array: np.ndarray, dtype: Any) -> np.ndarray:
        return array if array.dtype == np.uint8 else array.astype(dtype)

    def of(function: Any, *arrays: np.ndarray, **keywords: Any) -> Any:
        return lambda v, dtype: function(
            *(typed(a, dtype) for a in arrays), **{k: w(v) for k, w in keywords.items()}
        )

    def same(v: float) -> float:
        return v

    def of_loss(name: str, parameter: str) -> Any:
        extra = {"var": lambda v: 1.0} if name == "gaussian_nll_loss" else {}
        more = {"log_input": lambda v: False} if name == "poisson_nll_loss" else {}
        function = getattr(dlkernels, f"{name}_with_grad")
        return of(function, abs(x), zero, **{parameter: abs}, **extra, **more)

    dropped = {"activation": lambda v: "leaky_relu", "p": lambda v: 0.5, "seed": lambda v: 1}
    return {
        "leaky_relu negative_slope": of(dlkernels.leaky_relu, x, negative_slope=same),
        "leaky_relu_backward": of(dlkernels.leaky_relu_backward, x, x, negative_slope=same),
        "elu alpha": of(dlkernels.elu, x, alpha=abs),
        "celu alpha": of(dlkernels.celu, x, alpha=abs),
        "hardtanh max_val": of(dlkernels.hardtanh, x, max_val=abs),
        "threshold threshold": of(dlkernels.threshold, x, threshold=same, value=lambda v: 7.0),
        "threshold value": of(dlkernels.threshold, x, threshold=lambda v: 0.0, value=same),
        "softplus beta": of(dlkernels.softplus, x, beta=same),
        "softplus threshold": of(dlkernels.softplus, x, threshold=same),
        "bias_act_dropout": of(
            dlkernels.bias_act_dropout, x[None], zero, negative_slope=same, **dropped
        ),
        "cross_entropy z_loss": of(
            lambda x, z_loss: dlkernels.cross_entropy_with_grad(x, target, z_loss=z_loss),
            logits, z_loss=same,
        ),
        "cross_entropy softcap": of(
            lambda x, softcap: dlkernels.cross_entropy_with_grad(x, target, softcap=softcap),
            logits, softcap=abs,
        ),
        "smooth_l1_loss beta": of_loss("smooth_l1_loss", "beta"),
        "huber_loss delta": of_loss("huber_loss", "delta"),
        "gaussian_nll_loss eps": of_loss("gaussian_nll_loss", "eps"),
        "gaussian_nll_loss var": of(dlkernels.gaussian_nll_loss_with_grad, x, zero, var=abs),
        "poisson_nll_loss eps": of_loss("poisson_nll_loss", "eps"),
        "sigmoid_focal_loss gamma": of(
            dlkernels.sigmoid_focal_loss_with_grad, x, zero, gamma=abs
        ),
        "normalize std": lambda v, dtype: dlkernels.image.normalize(
            image, 0.5, v, dtype=np.dtype(dtype).name
        ),
        "normalize mean": lambda v, dtype: dlkernels.image.normalize(
            image, v, 0.5, dtype=np.dtype(dtype).name
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", _scalar_calls())
@in_one_test("value", [*_HUGE, 1e-320, -1e-320, 1e-39, 1e37, 1e-37])
@in_one_test("dtype", ["float32", "bfloat16"])
def test_a_number_is_refused_or_taken_as_in_double(name: str, value: float, dtype: str) -> None:
    """Never as infinity, or as 0 to divide by: what float32 cannot hold is an error, or the result
    is that of float64, rounded."""
    call = _scalar_calls()[name]
    with np.errstate(all="ignore"):
        try:
            results = call(value, DTYPES[dtype])
        except ValueError as error:
            refusal = str(error)
            results = None
        if results is None:
            assert all(word in refusal for word in name.split())
            return
        exact = call(value, np.float64)
    results, exact = (r if isinstance(r, tuple) else (r,) for r in (results, exact))
    for result, expected in zip(results, exact, strict=True):
        result, expected = np.float64(result), np.float64(expected)
        size = np.abs(expected) + smallest_normal(dtype)
        with np.errstate(all="ignore"):
            fine = (np.abs(result - expected) <= 40 * eps(dtype) * np.maximum(size, 1e-30)) | (
                (np.abs(expected) > 3e38) & (np.abs(result) > 3e38)
            )
        assert (fine | (np.isnan(result) & np.isnan(expected))).all(), (result, expected)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_huge_unsigned_target_is_out_of_bounds(reduction: str) -> None:
    """Whatever ignore_index is: 2**64 - 1 is not -1."""
    x = np.zeros((3, 4), np.float32)
    for dtype in ("uint8", "uint16", "uint32", "uint64"):
        most = np.iinfo(dtype).max
        target = np.array([0, most, 1], dtype)
        for function in (dlkernels.cross_entropy, dlkernels.nll_loss):
            with pytest.raises(IndexError, match=f"Target {most} is out of bounds"):
                function(x, target, ignore_index=-1, reduction=reduction)
    for dtype in ("int8", "int16", "int32", "int64"):
        loss = dlkernels.cross_entropy(x, np.array([0, -1, 1], dtype), ignore_index=-1)
        assert loss == np.float32(np.log(4))


# --- one class, and rows however they lie

_LOSS_OPTIONS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"weight": True, "label_smoothing": 1.0},
    {"z_loss": 0.01},
    {"softcap": 5.0, "weight": True, "label_smoothing": 0.2},
]


@DTYPE
def test_one_class_has_no_gradient(dtype: str, isa: str) -> None:
    """Its softmax is 1 whatever the logit; z_loss still has its own."""
    rng = np.random.default_rng(1)
    logits = (30 * rng.standard_normal((40, 1, 3))).astype(DTYPES[dtype])
    weight = np.array([0.3], DTYPES[dtype])
    probabilities = rng.uniform(0, 1, logits.shape).astype(DTYPES[dtype])
    indices = np.zeros((40, 3), int)
    for axis in (slice(None), 0):
        x = logits[..., axis]
        for target in (indices[:, axis], probabilities[..., axis]):
            for smoothing in (0.0, 0.1, 0.7, 1.0):
                for w in (None, weight):
                    loss, grad = dlkernels.cross_entropy_with_grad(
                        x, target, weight=w, label_smoothing=smoothing, softcap=20.0
                    )
                    assert loss == 0
                    assert (grad == 0).all()
        _, grad = dlkernels.cross_entropy_with_grad(x, indices[:, axis], z_loss=0.5)
        exact = x.astype(np.float64) / indices[:, axis].size
        assert np.abs(grad - exact).max() <= 2 * eps(dtype) * np.abs(exact).max()


def _same_but_nan(a: Any, b: Any, label: str) -> None:
    for x, y in zip(a, b, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        nan = np.isnan(x.astype(np.float64))
        assert np.array_equal(nan, np.isnan(y.astype(np.float64))), label
        assert bits(np.where(nan, 0, x)) == bits(np.where(nan, 0, y)), label


@pytest.mark.parametrize("classes", [1, 2, 7, 16, 17, 33, 64, 65, 257, 2049])
@DTYPE
def test_a_rows_bits_do_not_depend_on_how_it_lies(classes: int, dtype: str, isa: str) -> None:
    """Softmax and its relatives of classes side by side and of strided ones."""
    _check_layouts(classes, dtype, 2, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "classes", [3, 8, 31, 32, 63, 100, 255, 513, 2047, 2048, 4097, 8193, 20000]
)
@DTYPE
def test_a_rows_bits_do_not_depend_on_how_it_lies_at_all(
    classes: int, dtype: str, isa: str
) -> None:
    _check_layouts(classes, dtype, 3, 71)


def _check_layouts(classes: int, dtype: str, batch: int, positions: int) -> None:
    rng = np.random.default_rng(classes)
    shape = (batch, positions, classes)
    rows = (3 * rng.standard_normal(shape)).astype(DTYPES[dtype])
    rows[0, 0] = -np.inf
    rows[0, 1, : classes // 2] = -np.inf
    rows[0, 2, -1] = 60  # stands out in the last block
    grad_rows = rng.standard_normal(shape).astype(DTYPES[dtype])
    target = rng.integers(0, classes, shape[:2])
    weight = rng.uniform(0.5, 2, classes).astype(DTYPES[dtype])
    share = rng.dirichlet(np.ones(classes), shape[:2]).astype(DTYPES[dtype])

    def results(layout: Any) -> Iterator[tuple[str, Any]]:
        x, grad, probabilities = layout(rows), layout(grad_rows), layout(share)
        t = target if x.ndim == 3 else target.reshape(-1)
        for name in ("softmax", "log_softmax"):
            y = getattr(dlkernels, name)(x, axis=1)
            back = getattr(dlkernels, f"{name}_backward")(grad, y, axis=1)
            yield name, (y, back)
        for options in _LOSS_OPTIONS:
            keywords = {**options, **({"weight": weight} if "weight" in options else {})}
            for reduction in ("mean", "none"):
                yield (
                    f"{options} {reduction}",
                    dlkernels.cross_entropy_with_grad(x, t, reduction=reduction, **keywords),
                )
            yield (
                f"{options} shares",
                dlkernels.cross_entropy_with_grad(x, probabilities, **keywords),
            )

    def in_rows(a: np.ndarray) -> np.ndarray:  # (N, L, C) -> (N, C, L), C innermost in memory
        return a.transpose(0, 2, 1)

    def in_planes(a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a.transpose(0, 2, 1))

    def flat(a: np.ndarray) -> np.ndarray:
        return a.reshape(-1, classes)

    def flat_fortran(a: np.ndarray) -> np.ndarray:
        return np.asfortranarray(flat(a))

    with np.errstate(all="ignore"):
        for layouts in ((in_rows, in_planes), (flat, flat_fortran)):
            for (label, a), (_, b) in zip(*map(results, layouts), strict=True):
                _same_but_nan(a, b, f"{label} {layouts[0].__name__}")


@pytest.mark.parametrize("layout", ["C", "F"])
def test_float64_losses_of_very_many_classes(layout: Any, isa: str) -> None:
    """To a few roundings, however many classes there are."""
    rng = np.random.default_rng(2)
    classes = 60_000
    x = np.asarray(rng.standard_normal((2, classes)), order=layout)
    target, weight = np.array([3, 4]), rng.uniform(0.5, 2, classes)
    wide = x.astype(np.longdouble)
    log_p = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    for smoothing, w in ((0.0, None), (1.0, weight)):
        loss = dlkernels.cross_entropy(
            x, target, weight=w, label_smoothing=smoothing, reduction="none"
        )
        exact = -log_p[[0, 1], target] if w is None else -(log_p * w).sum(axis=1) / classes
        assert np.abs(loss / exact - 1).max() <= (2 if isa in FMA_ISAS else 4) * eps("float64")


# --- broadcast operands of half types


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ["mse_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss"])
def test_the_gradient_of_a_broadcast_half_operand_is_rounded_once(
    name: str, dtype: str, isa: str
) -> None:
    rng = np.random.default_rng(3)
    wide = rng.uniform(0.1, 2, (64, 4001)).astype(DTYPES[dtype])
    narrow = rng.uniform(0.1, 2, (64, 1)).astype(DTYPES[dtype])
    function = getattr(dlkernels, f"{name}_with_grad")
    for reduction in ("sum", "mean"):
        _, grad = function(narrow, wide, reduction=reduction)
        _, exact = function(narrow.astype(np.float64), wide.astype(np.float64), reduction=reduction)
        error = ulp_error(grad, exact, dtype)
        assert error.max() <= 0.51
