"""The elementwise losses from NumPy: special values, broadcasting, every gradient, what is
refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dlkernels
from dlkernels.elementwise_losses import LOSSES
from elementwise_losses.specs import ELEMENTWISE_LOSSES, LossSpec
from support import DTYPES, Foreign, assert_same_bits, bits

EVERY = pytest.mark.parametrize("spec", ELEMENTWISE_LOSSES, ids=lambda s: s.name)
DTYPE = pytest.mark.parametrize("dtype", DTYPES)


@EVERY
@DTYPE
def test_special_values(spec: LossSpec, dtype: str, isa: str) -> None:
    """In a whole vector and in a partial one."""
    function = getattr(dlkernels, spec.name)
    for operands, parameters, expected in spec.special:
        for size in (1, 37):
            arrays = {k: np.full(size, v, DTYPES[dtype]) for k, v in operands.items()}
            each = function(**arrays, **parameters, reduction="none")
            exact = np.full(size, expected).astype(DTYPES[dtype])
            np.testing.assert_allclose(
                each.astype(np.float64),
                exact.astype(np.float64),
                rtol=2e-7 if dtype == "float32" else 4e-16 if dtype == "float64" else 8e-3,
                err_msg=f"{operands} {parameters}",
            )


@EVERY
def test_every_gradient_is_a_difference(spec: LossSpec, isa: str) -> None:
    """Of every operand that has one, all made in one pass, against central differences."""
    row = LOSSES[spec.name]
    step = 1e-6
    for options in spec.options:
        arrays = spec.arrays(np.random.default_rng(5), (3, 4), DTYPES["float64"], options)
        for name in ("target", "p", "q", "var"):  # away from 0
            if name in arrays:
                arrays[name] = 0.8 * arrays[name] + 0.12
        if spec.name == "binary_cross_entropy":
            arrays["input"] = 0.05 + 0.9 * arrays["input"]
        if "input" in arrays and spec.name in ("l1_loss", "smooth_l1_loss", "huber_loss"):
            for kink in (0, 0.5, 1, 2):
                gap = np.abs(np.abs(arrays["input"] - arrays["target"]) - kink)
                arrays["input"] = np.where(gap < 0.01, arrays["input"] + 0.03, arrays["input"])
        wrt = [name for name in spec.names(options) if name in row.differentiable]
        keywords = spec.keywords(arrays, options)
        _, *grads = getattr(dlkernels, f"{spec.name}_with_grad")(**keywords, wrt=wrt)
        for name, grad in zip(wrt, grads, strict=True):
            expected = np.empty_like(grad)
            for at in np.ndindex(*grad.shape):
                ends = []
                for sign in (1, -1):
                    moved = arrays[name].copy()
                    moved[at] += sign * step
                    ends.append(np.sum(getattr(dlkernels, spec.name)(**{**keywords, name: moved})))
                expected[at] = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-8, err_msg=name)


SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((5, 1), (5, 37)), ((1, 37), (5, 37)), ((5, 37), (37,)), ((5, 37), (5, 1)), ((5, 1), (1, 37)),
    ((3, 1, 37), (5, 1)), ((), (5, 37)), ((4, 1, 3, 1, 2), (1, 5, 1, 2, 1)), ((0, 4), (1, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), SHAPES)
@DTYPE
def test_broadcasting(
    first: tuple[int, ...], second: tuple[int, ...], dtype: str, isa: str
) -> None:
    """As if expanded, with gradients summed along what was broadcast."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(first).astype(DTYPES[dtype])
    t = rng.standard_normal(second).astype(DTYPES[dtype])
    wide_x, wide_t = (a.astype(np.float64) for a in np.broadcast_arrays(x, t))
    difference = wide_x - wide_t
    each, dx, dt = dlkernels.mse_loss_with_grad(x, t, reduction="none", wrt=("input", "target"))
    eps = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 1e-2, "float16": 2e-3}[dtype]
    np.testing.assert_allclose(each.astype(np.float64), difference**2, rtol=eps, atol=1e-7)
    for grad, shape, sign in ((dx, first, 2), (dt, second, -2)):
        missing = difference.ndim - len(shape)
        summed = tuple(range(missing)) + tuple(missing + i for i, n in enumerate(shape) if n == 1)
        full = sign * difference
        expected = full.sum(axis=summed).reshape(shape)
        room = np.abs(full).sum(axis=summed).reshape(shape)
        assert grad.shape == shape
        assert (np.abs(grad.astype(np.float64) - expected) <= eps * room + 1e-30).all()


def test_broadcast_operands_are_not_expanded() -> None:
    """Memory for that would come from the pool."""
    x = np.ones((1024, 1030), np.float32)
    before = dlkernels.memory_stats()
    for other in (x[:1], x[:, :1], x[0], np.broadcast_to(x[:1], x.shape), x[::-1]):
        dlkernels.mse_loss(x, other)
        dlkernels.gaussian_nll_loss(x, x, np.ones((1024, 1), np.float32))
        dlkernels.binary_cross_entropy_with_logits(x, x, pos_weight=x[0])
    after = dlkernels.memory_stats()
    assert after["hits"] + after["misses"] == before["hits"] + before["misses"]
    dlkernels.mse_loss(x, np.asfortranarray(x))  # one of the two is copied
    after = dlkernels.memory_stats()
    assert after["hits"] + after["misses"] == before["hits"] + before["misses"] + 1


def test_operands_of_many_dimensions_that_do_not_join(isa: str) -> None:
    """Twelve dimensions, every other one broadcast, or permuted: beyond what a kernel takes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2,) * 12)
    t = rng.standard_normal((2, 1) * 6)
    other = rng.standard_normal((2,) * 12).transpose(rng.permutation(12))
    for target in (t, other):
        loss, grad, dt = dlkernels.mse_loss_with_grad(x, target, wrt=("input", "target"))
        np.testing.assert_allclose(loss, ((x - target) ** 2).mean(), rtol=1e-12)
        np.testing.assert_allclose(grad, 2 * (x - target) / x.size, rtol=1e-12)
        assert dt.shape == target.shape
    out = np.full((2,) * 12 + (2,), 77.0)[..., 0].transpose(rng.permutation(12))
    loss, grad = dlkernels.mse_loss_with_grad(x, t, out=out)
    assert grad is out
    np.testing.assert_allclose(out, 2 * (x - t) / x.size, rtol=1e-12)


def test_a_variance_for_each_row(isa: str) -> None:
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2, 6, 9))
    rows = rng.uniform(0.1, 2, 6)
    expected = dlkernels.gaussian_nll_loss_with_grad(x, t, rows[:, None], wrt=("input", "var"))
    results = dlkernels.gaussian_nll_loss_with_grad(x, t, rows, wrt=("input", "var"))
    assert results[2].shape == (6,)
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, np.reshape(value, np.shape(result)), rtol=1e-14)
    for number in (0.5, 1):
        full = np.full_like(x, number)
        assert dlkernels.gaussian_nll_loss(x, t, number) == dlkernels.gaussian_nll_loss(x, t, full)


def test_nothing_is_written_before_a_domain_is_checked(isa: str) -> None:
    x, t = np.full((2, 40), 0.5, np.float32)
    t[33] = 1.5
    for function, arguments, message in [
        (dlkernels.binary_cross_entropy_with_grad, (x, t), "all elements of target"),
        (dlkernels.binary_cross_entropy_with_grad, (t, x), "all elements of input"),
        (dlkernels.gaussian_nll_loss_with_grad, (x, x, 0.5 - t), "var has negative"),
    ]:
        out = np.full(40, 77, np.float32)
        with pytest.raises(ValueError, match=message):
            function(*arguments, out=out)
        assert (out == 77).all()
    for wrong in (np.nan, -0.1):
        t[33] = wrong
        with pytest.raises(ValueError, match="all elements of target should be between 0 and 1"):
            dlkernels.binary_cross_entropy(x, t)


def test_batchmean() -> None:
    x, t = np.log(np.full((4, 5), 0.2)), np.full((4, 5), 0.1)
    total = dlkernels.kl_div(x, t, reduction="sum")
    assert dlkernels.kl_div(x, t, reduction="batchmean") == total / 4
    _, grad = dlkernels.kl_div_with_grad(x, t, reduction="batchmean")
    np.testing.assert_allclose(grad, -t / 4)
    assert dlkernels.kl_div(x[0, 0], t[0, 0], reduction="batchmean") == pytest.approx(total / 20)


def test_sums_are_as_good_as_their_addends(isa: str) -> None:
    """A float32 sum of a million tenths, and one large loss among small ones."""
    x = np.full(1_000_000, 0.1, np.float32)
    zero = np.zeros_like(x)
    exact = float(np.float32(0.1)) * x.size
    assert dlkernels.l1_loss(x, zero, reduction="sum") == np.float32(exact)
    x[0] = 2.0**24
    assert dlkernels.l1_loss(x, zero, reduction="sum") == np.float32(exact - 0.1 + 2.0**24)
    half = np.full(70_000, 2, np.float16)
    assert dlkernels.mse_loss(half, np.zeros_like(half)) == 4


@EVERY
def test_arguments_that_are_refused(spec: LossSpec) -> None:
    row = LOSSES[spec.name]
    arrays = spec.arrays(np.random.default_rng(0), (3, 4), DTYPES["float32"], {})
    keywords = {**spec.keywords(arrays, {}), **spec.options[0]}
    before = {name: bits(value) for name, value in arrays.items()}
    functions: list[Any] = [getattr(dlkernels, spec.name)]
    functions.append(getattr(dlkernels, f"{spec.name}_with_grad"))
    for function in functions:
        if row.reduction is not None:
            with pytest.raises(ValueError, match="average is not a valid value for reduction"):
                function(**{**keywords, "reduction": "average"})
        else:
            with pytest.raises(IndexError, match="Dimension out of range"):
                function(**{**keywords, "axis": 2})
            for base in (0, 1, -2):
                with pytest.raises(ValueError, match="base: expected above 0 and not 1"):
                    function(**{**keywords, "base": base})
    for wrt in ("nothing", (), ("input", "color")):
        with pytest.raises(ValueError, match=f"{spec.name}: wrt: expected"):
            functions[1](**keywords, wrt=wrt)
    assert {name: bits(value) for name, value in arrays.items()} == before


def test_parameters_out_of_their_range() -> None:
    x = np.ones(3, np.float32)
    for call, message in [
        (lambda: dlkernels.huber_loss(x, x, delta=0), "huber_loss: delta: expected above 0, got 0"),
        (lambda: dlkernels.huber_loss(x, x, delta=np.nan), "delta: expected above 0, got nan"),
        (lambda: dlkernels.smooth_l1_loss(x, x, beta=-1), "beta: expected at least 0, got -1"),
        (lambda: dlkernels.sigmoid_focal_loss(x, x, alpha=2), "alpha must be in the range"),
        (lambda: dlkernels.gaussian_nll_loss(x, x, -1.0), "var has negative"),
        (lambda: dlkernels.gaussian_nll_loss(x, x, np.ones((2, 3), np.float32)), "incorrect size"),
        (lambda: dlkernels.mse_loss(x, x, weight=x[:1]), "mse_loss: weight: expected the input's"),
        (lambda: dlkernels.binary_cross_entropy(x, x[:1]), "target: expected the input's shape"),
        (
            lambda: dlkernels.binary_cross_entropy_with_logits(x, x, pos_weight=x[None]),
            "pos_weight: expected a shape that can be broadcast to",
        ),
        (
            lambda: dlkernels.mse_loss_with_grad(x[:1], x, out=np.empty(1, np.float32)),
            "out: expected None, since the input is broadcast",
        ),
        (
            lambda: dlkernels.mse_loss_with_grad(x, x, wrt="target", out=np.empty_like(x)),
            "out: expected None, since the input's gradient is not wanted",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=r"weight: expected the input's shape \(3,\), got \(\)"):
        dlkernels.mse_loss(x, x, weight=0.5)
    with pytest.raises(TypeError, match="weight: expected dtype float32, got float64"):
        dlkernels.mse_loss(x, x, weight=np.ones(3))


def test_results_follow_the_input() -> None:
    x, t = np.ones((2, 3, 4), np.float32)[0], np.zeros((3, 4), np.float32)
    assert isinstance(dlkernels.mse_loss(x, Foreign(t)), np.float32)
    loss, grad = dlkernels.mse_loss_with_grad(Foreign(x), t)
    assert isinstance(loss, Foreign)
    assert isinstance(grad, Foreign)
    columns = np.asfortranarray(x)
    each, grad = dlkernels.mse_loss_with_grad(columns, columns, reduction="none")
    assert each.strides == grad.strides == columns.strides
    assert dlkernels.mse_loss([1.0, 2.0], [0.0, 0.0]) == 2.5
    assert_same_bits(dlkernels.mse_loss(x, t, reduction="none"), np.ones((3, 4), np.float32))
