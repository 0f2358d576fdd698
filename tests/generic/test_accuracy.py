"""How far results are from the exact ones: the functions of simd/math.h, then every operation."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dlkernels
import specs
from class_losses.specs import CROSS_ENTROPY, SOFTMAX
from dlkernels import _core
from operation import Call, Exact, Operation, Options, tolerance, widened
from scalar_functions import MATH_FUNCTIONS, MathFunction, normal_cdf
from support import (
    DTYPES,
    FMA_ISAS,
    HALF,
    ISAS,
    SIZES,
    assert_same_bits,
    eps,
    isa_level,
    needs_two_fma_isas,
    shifted,
    ulp_error,
    wide_dtype,
)

FUNCTIONS = pytest.mark.parametrize("function", MATH_FUNCTIONS, ids=lambda f: f.name)
FLOATS = pytest.mark.parametrize("dtype", ["float32", "float64"])
CASES = pytest.mark.parametrize(
    ("operation", "call"), [pytest.param(op, call, id=call.name) for op, call in specs.cases()]
)


# --- simd/math.h


@functools.cache
def _arguments(function: MathFunction, dtype: str) -> np.ndarray:
    """About 2^18 arguments: one from every stretch of the bit patterns, and of the ranges."""
    rng = np.random.default_rng(1)
    item = DTYPES[dtype].itemsize
    stretch_bits = 8 * item - 17
    stretches = np.arange(2**17, dtype=np.uint64) << np.uint64(stretch_bits)
    patterns = stretches + rng.integers(0, 2**stretch_bits, 2**17, dtype=np.uint64)
    parts = [patterns.astype(f"u{item}").view(DTYPES[dtype])]
    count = 2**17 // len(function.ranges[dtype])
    parts += [rng.uniform(low, high, count) for low, high in function.ranges[dtype]]
    x = np.concatenate([part.astype(DTYPES[dtype]) for part in parts])
    return function.within(x)


def _math_error(function: MathFunction, x: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        exact = function.reference(x.astype(wide_dtype(dtype)))
    return ulp_error(_core.math_function(function.name, x), exact, dtype)


def _math_bound(function: MathFunction, dtype: str, isa: str) -> float:
    return (function.ulp if isa in FMA_ISAS else function.baseline_ulp)[dtype]


@FUNCTIONS
@FLOATS
def test_math_function(function: MathFunction, dtype: str, isa: str) -> None:
    x = _arguments(function, dtype)
    error = _math_error(function, x, dtype)
    worst = int(error.argmax())
    bound = _math_bound(function, dtype, isa)
    assert error[worst] <= bound, (
        f"{function.name}({x[worst]!r}) is {error[worst]:.3f} ULP off; math.h says {bound}"
    )


@FUNCTIONS
@FLOATS
def test_math_special_values(function: MathFunction, dtype: str, isa: str) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    for argument, result in function.special:
        x = DTYPES[dtype].type(argument)
        expected = DTYPES[dtype].type(result)
        if abs(argument) == 1e-45:
            x = np.copysign(tiny, x)
            expected = np.copysign(tiny, expected) if abs(result) == 1e-45 else expected
        # In a whole vector and in a partial one.
        for size in (1, 37):
            y = _core.math_function(function.name, np.full(size, x, dtype))
            assert np.array_equal(y, np.full(size, expected), equal_nan=True), (argument, y[0])
            assert np.isnan(expected) or np.array_equal(
                np.signbit(y), np.full(size, np.signbit(expected))
            ), argument


@FUNCTIONS
@FLOATS
def test_math_subnormals(function: MathFunction, dtype: str, isa: str) -> None:
    """Nothing is flushed to zero, neither arguments nor results."""
    info = np.finfo(dtype)
    fraction = np.random.default_rng(2).uniform(0, 1, 500)
    x = (fraction * float(info.smallest_normal)).astype(dtype)  # arguments that are subnormal
    if function.name in ("exp", "exp_nonpositive"):  # results that are
        low, high = np.log(float(info.smallest_normal)), np.log(float(info.smallest_subnormal))
        x = np.concatenate([x, (low + fraction * (high - low)).astype(dtype)])
        y = _core.math_function(function.name, x)[500:]
        assert (y > 0).mean() > 0.9
        assert (y < info.smallest_normal).all()
    assert _math_error(function, x, dtype).max() <= _math_bound(function, dtype, isa)


@needs_two_fma_isas
@FUNCTIONS
@FLOATS
def test_math_function_has_the_same_bits_on_avx2_and_avx512(
    function: MathFunction, dtype: str
) -> None:
    results = []
    for level in FMA_ISAS:
        with isa_level(level):
            results.append(_core.math_function(function.name, _arguments(function, dtype)))
    assert_same_bits(results[0], results[1], function.name)


@pytest.mark.slow
@FUNCTIONS
def test_math_function_everywhere(function: MathFunction, isa: str) -> None:
    """All 2^32 float32 arguments."""
    step = 2**22
    worst = (0.0, 0.0)
    for first in range(0, 2**32, step):
        x = np.arange(first, first + step, dtype=np.uint32).view(np.float32)
        x = function.within(x)
        if x.size:
            error = _math_error(function, x, "float32")
            at = int(error.argmax())
            worst = max(worst, (float(error[at]), float(x[at])))
    assert worst[0] <= _math_bound(function, "float32", isa), f"at {worst[1]!r}"


def test_a_float32_reference_is_not_mistaken_for_an_exact_one() -> None:
    """The measure sees one unit in the last place, and takes specials for what they are."""
    x = np.float32(1.5)
    assert ulp_error(np.nextafter(x, np.float32(2)), np.float64(x), "float32") == 1
    assert ulp_error(np.float32(0), np.float64(2.0**-149), "float32") == 1
    assert ulp_error(np.float32(np.nan), np.float64(1), "float32") == np.inf
    assert ulp_error(np.float32(np.inf), np.float64(1), "float32") == np.inf
    assert ulp_error(np.float32(np.inf), np.float64(3.5e38), "float32") == 0
    assert ulp_error(np.float32(-np.inf), np.float64(3.5e38), "float32") == np.inf
    assert ulp_error(np.float32(np.nan), np.float64(np.nan), "float32") == 0


# --- every operation


def _own_copies(arrays: dict[str, Any], offset: int) -> dict[str, Any]:
    """Copies whose first elements lie `offset` elements past a 64-byte boundary."""
    return {
        name: shifted(value, offset) if isinstance(value, np.ndarray) else value
        for name, value in arrays.items()
    }


def _samples(
    operation: Operation, dtype: str
) -> Iterator[tuple[Options, tuple[int, ...], dict[str, Any]]]:
    """Every size with the first options; with each of the others a third of the sizes."""
    for number, options in enumerate(operation.options):
        for size in SIZES[number % 3 :: 3] if number else SIZES:
            for shape in operation.shapes(size):
                yield options, shape, operation.arrays(shape, DTYPES[dtype], options)


@pytest.mark.sampled(3)
@CASES
@pytest.mark.parametrize("dtype", DTYPES)
def test_operation(operation: Operation, call: Call, dtype: str) -> None:
    """Within the stated bound of the exact result on every level, and the same from every start."""
    for options, shape, arrays in _samples(operation, dtype):
        label = f"{call.name} {dict(options)} {shape}"
        with np.errstate(all="ignore"):
            exact = call.reference(widened(arrays, dtype), options)
        for level in ISAS:
            with isa_level(level):
                results = call.run(_own_copies(arrays, 0), options, None)
                offset = 1 + (sum(shape) % 3)
                elsewhere = call.run(_own_copies(arrays, offset), options, None)
            assert_same_bits(elsewhere, results, f"{label} {level} from element {offset}:")
            assert len(results) == len(exact)
            for index, result in enumerate(results):
                _check_result(result, exact[index], call.eps[index], dtype, f"{label} {level}")


def _check_result(result: Any, exact: Exact, bound: float, dtype: str, label: str) -> None:
    result = np.asarray(result)
    if dtype in HALF and result.dtype == np.float32:  # log-sum-exp stays float32
        dtype = "float32"
    assert result.dtype == DTYPES[dtype], label
    assert result.shape == exact.value.shape, label
    value = exact.value
    with np.errstate(invalid="ignore"):
        error = np.abs(result.astype(value.dtype) - value)
        allowed = tolerance(exact, bound, dtype)
        fine = (error <= allowed) | (np.isnan(value) & np.isnan(result.astype(value.dtype)))
    if not fine.all():
        at = tuple(int(i) for i in np.unravel_index(np.argmin(fine), fine.shape))
        pytest.fail(
            f"{label}: {int((~fine).sum())} of {fine.size} off, at {at}: {result[at]!r}, exact "
            f"{float(value[at])!r}, error {float(error[at] / allowed[at]):.2f} of what is allowed"
        )


@needs_two_fma_isas
@CASES
@pytest.mark.parametrize("dtype", DTYPES)
def test_operation_has_the_same_bits_on_avx2_and_avx512(
    operation: Operation, call: Call, dtype: str
) -> None:
    for options, shape, arrays in _samples(operation, dtype):
        results = []
        for level in FMA_ISAS:
            with isa_level(level):
                results.append(call.run(_own_copies(arrays, 0), options, None))
        assert_same_bits(results[0], results[1], f"{call.name} {dict(options)} {shape}")


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 6), ("float64", 9)])
def test_gelu_keeps_the_digits_of_its_negative_tail(dtype: str, bound: float) -> None:
    """Where 1 + erf has none left."""
    x = np.concatenate([np.linspace(-5, 5, 100_001), np.linspace(-12, -4, 50_001)]).astype(dtype)
    exact = x.astype(wide_dtype(dtype)) * normal_cdf(x.astype(wide_dtype(dtype)))
    for level in FMA_ISAS:
        with isa_level(level):
            error = ulp_error(dlkernels.gelu(x), exact, dtype)
            assert error[x >= -5].max() <= bound
            assert error.max() <= bound + 1


@pytest.mark.slow
def test_gelu_everywhere() -> None:
    """Every float32 from -5 to -2^-30, where torch loses all digits; on the best level."""
    first, last = np.array([-(2.0**-30), -5.0], np.float32).view(np.uint32)
    worst = 0.0
    for start in range(int(first), int(last) + 1, 2**22):
        stop = min(start + 2**22, int(last) + 1)
        x = np.arange(start, stop, dtype=np.uint32).view(np.float32)
        exact = x.astype(np.float64) * normal_cdf(x.astype(np.float64))
        worst = max(worst, float(ulp_error(dlkernels.gelu(x), exact, "float32").max()))
    assert worst <= 6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_tails_of_softplus_and_logsigmoid_have_all_their_digits(dtype: str, isa: str) -> None:
    x = np.linspace(-80, 80, 20_001).astype(dtype)
    wide = x.astype(wide_dtype(dtype))
    exact = np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide)))
    soft = np.where(x > 20, wide, exact)  # a straight line from there on
    assert ulp_error(dlkernels.softplus(x), soft, dtype).max() <= 3
    assert ulp_error(-dlkernels.logsigmoid(-x), exact, dtype).max() <= 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_rows_sum_to_one(dtype: str, isa: str) -> None:
    x = np.random.default_rng(3).normal(0, 4, (50, 700)).astype(DTYPES[dtype])
    total = dlkernels.softmax(x).astype(np.float64).sum(axis=1)
    assert np.abs(total - 1).max() <= 8 * eps(dtype)


@pytest.mark.parametrize("shift", [0.0, 80.0, -90.0, 3e4, 1e7, -4e9, 2e20, -3e37])
@pytest.mark.parametrize("operation", [CROSS_ENTROPY, SOFTMAX], ids=lambda op: op.name)
def test_a_shift_of_the_logits_costs_no_accuracy(
    operation: Operation, shift: float, isa: str
) -> None:
    """exp(3e4) overflows, log-sum-exp must not; and only distances from the row's largest count."""
    rng = np.random.default_rng(4)
    for shape in ((20, 90), (3, 90, 70), (2, 5000)):
        logits = ((2 * rng.standard_normal(shape)) + np.float64(shift)).astype(np.float32)
        arrays = {
            "logits": logits,
            "x": logits,
            "target": rng.integers(0, shape[1], (shape[0], *shape[2:])),
        }
        call = operation.calls[1 if operation is CROSS_ENTROPY else 0]
        options = {"reduction": "none"}
        exact = call.reference(widened(arrays, "float32"), options)
        for index, result in enumerate(call.run(arrays, options, None)):
            label = f"{call.name} {shape} result {index}"
            _check_result(result, exact[index], call.eps[index], "float32", label)


def test_a_certain_row_has_no_loss(isa: str) -> None:
    """A class alone, or one far above the others: the loss is 0 or a little more, never less."""
    for value in (0.0, 2.5, -7.3, 80.1, 1e4):
        logits, target = np.array([[value]], np.float32), np.array([0])
        loss, grad = dlkernels.cross_entropy_with_grad(logits, target)
        assert loss == 0, value
        assert np.abs(grad).max() <= eps("float32")
        far = np.array([[value - 40, value, value - 50]], np.float32)
        assert 0 <= dlkernels.cross_entropy(far, np.array([1])) <= 1e-15, value
        assert (dlkernels.log_softmax(far) <= 0).all()
        planes = np.repeat(far[:, :, None], 70, axis=2)
        assert 0 <= dlkernels.cross_entropy(planes, np.ones((1, 70), int)) <= 1e-15, value


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_logits_stay_accurate(dtype: str, isa: str) -> None:
    """Logits of GPT-like spread, a row longer than a block, its maximum at the end."""
    rng = np.random.default_rng(5)
    logits = (8 * rng.standard_normal((6, 9000))).astype(dtype)
    logits[:, -1] = 60
    target = rng.integers(0, 9000, 6)
    target[0] = 8999
    arrays = {"logits": logits, "target": target}
    exact = CROSS_ENTROPY.calls[1].reference(widened(arrays, dtype), {})
    results = CROSS_ENTROPY.calls[1].run(arrays, {}, None)
    for result, expected in zip(results, exact, strict=True):
        _check_result(result, expected, 8, dtype, "wide logits")
    x = SOFTMAX.calls[0].reference(widened({"x": logits}, dtype), {})
    _check_result(dlkernels.softmax(logits), x[0], 9, dtype, "softmax of wide logits")
