"""Dropout from NumPy: the generator, the mask and what it does not depend on, special cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dlkernels
from activations.specs import ACTIVATIONS
from dlkernels import _core
from operation import Exact, tolerance
from support import (
    DTYPES,
    ISAS,
    assert_same_bits,
    dropout_mask,
    dropout_numbers,
    eps,
    in_one_test,
    isa_level,
    on_every_isa,
    philox,
)

DTYPE = pytest.mark.parametrize("dtype", DTYPES)

#: Every function that draws one number for each element.
ELEMENTS = ("dropout", "alpha_dropout")
#: Every function that draws one for each channel, with a shape it takes.
PLANES = {
    "dropout1d": (3, 5, 40),
    "dropout2d": (3, 5, 4, 10),
    "dropout3d": (3, 5, 2, 4, 5),
    "feature_alpha_dropout": (3, 5, 4, 10),
}


def kept(y: np.ndarray) -> np.ndarray:
    """Which elements of a dropout of ones were kept: they are the positive ones."""
    return np.asarray(y).astype(np.float64) > 0


# --- the generator


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [
        # The known answers that come with the authors' library, Random123.
        ([0] * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: int, block: list[int], isa: str) -> None:
    assert list(_core.philox(key, *counter)) == block
    ours: Any = tuple(counter)
    assert [int(word) for word in philox(key, ours)] == block


def test_every_element_has_its_number(isa: str) -> None:
    """Of a long array on several threads, and of every short one."""
    for seed in (0, 1, -1, 2**63, 2**64 - 1, 0x0123456789ABCDEF):
        for size in (*range(1, 131), 70_001):
            y = dlkernels.dropout(np.ones(size, np.float32), 0.3, seed=seed)
            assert np.array_equal(kept(y), dropout_mask(seed, 0.3, (size,))), (seed, size)


def test_blocks_beyond_the_first_counter_word() -> None:
    """The reference's counter carries into the second word, as the kernel's must."""
    first, second = (philox(5, (0, high, 0, 0)) for high in (0, 1))
    assert [int(w) for w in first] != [int(w) for w in second]
    assert list(_core.philox(5, 0, 1, 0, 0)) == [int(w) for w in second]


# --- the mask


def test_the_fraction_kept() -> None:
    """Within four standard deviations, for probabilities from near 0 to near 1."""
    ones = np.ones(4_000_000, np.float32)
    for seed, p in enumerate((0.001, 0.1, 0.25, 0.5, 0.9, 0.999)):
        fraction = kept(dlkernels.dropout(ones, p, seed=seed)).mean()
        assert abs(fraction - (1 - p)) < 4 * np.sqrt(p * (1 - p) / ones.size) + 2.0**-17, p


def test_the_fraction_is_exact_to_two_to_the_minus_16() -> None:
    """The limit, number by number: of all 65536 numbers so many keep an element."""
    numbers = dropout_numbers(1, 1 << 21)
    ones = np.ones(numbers.size, np.float32)
    for p in (0.1, 1 / 3, 0.5, 2.0**-16, 1 - 2.0**-16, 0.7):
        mask = kept(dlkernels.dropout(ones, p, seed=1))
        below = int(numbers[mask].max()) + 1 if mask.any() else 0
        assert not (numbers[~mask] < below).any()
        assert abs(below / 65536 - (1 - p)) <= 2.0**-16, p


def test_chi_square() -> None:
    """All 256 patterns of eight neighbours are as frequent as they should be, within a block and
    across the boundary of two; within five standard deviations of chi-square."""
    weights = 1 << np.arange(8)
    for seed, p in ((1, 0.5), (2, 0.25), (3, 0.9)):
        mask = kept(dlkernels.dropout(np.ones(1 << 22, np.float32), p, seed=seed))
        for shift in (0, 4):
            patterns = mask[shift : mask.size - 8 + shift].reshape(-1, 8) @ weights
            counts = np.bincount(patterns, minlength=256)
            ones = np.array([bin(pattern).count("1") for pattern in range(256)])
            expected = patterns.size * (1 - p) ** ones * p ** (8 - ones)
            enough = expected > 10
            chi_square = ((counts - expected) ** 2 / expected)[enough].sum()
            degrees = enough.sum() - 1
            assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees), (p, shift, chi_square)


def test_seeds_are_independent() -> None:
    """Neighbouring seeds, and the two halves of one: masks agree in half of their places."""
    masks = [
        kept(dlkernels.dropout(np.ones(1 << 20, np.float32), 0.5, seed=seed))
        for seed in (0, 1, 2, 1 << 32, 1 << 63)
    ]
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            assert abs((mask == other).mean() - 0.5) < 5 * 0.5 / 1024
        for distance in (1, 8, 64, 16384):
            assert abs((mask[distance:] == mask[:-distance]).mean() - 0.5) < 6 * 0.5 / 1000


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "every other": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1],
    "batch inside": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "rows apart": lambda x: np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 3)])[..., :-3],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [*ELEMENTS, *PLANES])
def test_the_mask_goes_by_index(name: str, layout: str, isa: str) -> None:
    """Not by memory: the same for every layout of input, output and gradient, threads and type."""
    shape = PLANES.get(name, (3, 5, 4, 10))
    forward, backward = (getattr(dlkernels, name + suffix) for suffix in ("", "_backward"))
    x = np.random.default_rng(1).uniform(1, 2, shape).astype(np.float32)
    expected, gradient = forward(x, 0.4, seed=9), backward(x, 0.4, seed=9)
    plane_dims = x.ndim if name in ELEMENTS else 2
    mask = dropout_mask(9, 0.4, shape[:plane_dims]).reshape(
        *shape[:plane_dims], *[1] * (x.ndim - plane_dims)
    )
    assert np.array_equal(gradient != 0, np.broadcast_to(mask, shape))
    laid_out = LAYOUTS[layout](x)
    assert_same_bits(forward(laid_out, 0.4, seed=9), expected)
    assert_same_bits(backward(laid_out, 0.4, seed=9), gradient)
    out = LAYOUTS[layout](np.full(shape, 77, np.float32))
    assert forward(x, 0.4, seed=9, out=out) is out
    assert_same_bits(out, expected)
    own = LAYOUTS[layout](x.copy())
    assert_same_bits(forward(own, 0.4, seed=9, out=own), expected)
    if layout == "channels last":
        assert forward(laid_out, 0.4, seed=9).strides == laid_out.strides


def test_the_mask_of_large_images_goes_by_index(isa: str) -> None:
    """Several chunks, on several threads, more channels than a word has bits."""
    x = np.random.default_rng(2).uniform(1, 2, (3, 131, 50, 60)).astype(np.float32)
    last = LAYOUTS["channels last"](x)
    mask = dropout_mask(4, 0.3, x.shape[:2])
    for threads in (1, 3):
        with dlkernels.num_threads(threads):
            expected = dlkernels.dropout2d(x, 0.3, seed=4)
            assert np.array_equal(expected[:, :, 7, 9] > 0, mask)
            assert_same_bits(dlkernels.dropout2d(last, 0.3, seed=4), expected)
            assert np.array_equal(
                dlkernels.dropout(last, 0.3, seed=4) > 0, dropout_mask(4, 0.3, x.shape)
            )


@DTYPE
def test_the_mask_is_the_same_for_every_dtype(dtype: str, isa: str) -> None:
    for size in (5, 64, 40_000):
        y = dlkernels.dropout(np.ones(size, DTYPES[dtype]), 0.3, seed=6)
        assert np.array_equal(kept(y), dropout_mask(6, 0.3, (size,)))


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "dropout_add"])
@DTYPE
def test_every_level_and_number_of_threads_gives_one_mask(name: str, dtype: str) -> None:
    x = np.random.default_rng(3).standard_normal(100_003).astype(DTYPES[dtype])
    others = (x[::-1].copy(),) if name == "dropout_add" else ()
    masks = []
    for level in ISAS:
        for threads in (1, 2, 5):
            with isa_level(level), dlkernels.num_threads(threads):
                y = getattr(dlkernels, name)(x, *others, 0.2, seed=8).astype(np.float64)
                masks.append(np.abs(y - (others[0] if others else 0)) > 1e-9)
    for mask in masks[1:]:
        assert (mask == masks[0]).mean() > 0.99  # -0.0 and x itself small
        if name == "dropout":
            assert np.array_equal(mask, masks[0])


# --- values


def test_statistics_of_alpha_dropout() -> None:
    """Mean 0 and variance 1 stay, of SELU's domain."""
    x = np.random.default_rng(4).standard_normal(2_000_000).astype(np.float32)
    for p in (0.1, 0.5, 0.8):
        y = dlkernels.alpha_dropout(x, p, seed=1).astype(np.float64)
        assert abs(y.mean()) < 5e-3
        assert abs(y.var() - 1) < 1e-2


def test_worked_values_of_alpha_dropout(isa: str) -> None:
    y = dlkernels.alpha_dropout(np.ones(100), 0.5, seed=1)
    assert {round(float(value), 4) for value in y} == {1.6656, -0.7792}


@pytest.mark.parametrize("name", [*ELEMENTS, *PLANES])
def test_nothing_to_drop(name: str) -> None:
    """Evaluation and p = 0 return the argument itself, or a copy in `out`."""
    x = np.ones(PLANES.get(name, (7,)), np.float32)
    forward, backward = (getattr(dlkernels, name + suffix) for suffix in ("", "_backward"))
    for keywords in ({"training": False}, {"p": 0.0}, {"p": 0.0, "seed": 1}):
        assert forward(x, **keywords) is x
        assert backward(x, **keywords) is x
        out = np.zeros_like(x)
        assert forward(x, out=out, **keywords) is out
        assert np.array_equal(out, x)


@pytest.mark.parametrize("name", [*ELEMENTS, *PLANES])
@DTYPE
def test_everything_dropped(name: str, dtype: str, isa: str) -> None:
    """p = 1 gives 0, whatever was there; so does a p that rounds to 1, for which alpha_dropout
    shifts."""
    x = np.full(PLANES.get(name, (70,)), -2.0, DTYPES[dtype])
    x.reshape(-1)[[3, -1]] = np.nan, np.inf
    for function in (getattr(dlkernels, name), getattr(dlkernels, f"{name}_backward")):
        y = function(x, 1.0, seed=1).astype(np.float64)
        assert (y == 0).all()
        assert not np.signbit(y).any()
    near = getattr(dlkernels, name)(np.ones_like(x), 1 - 1e-9, seed=1).astype(np.float64)
    assert len(np.unique(near)) == 1
    assert np.isfinite(near).all()
    assert near.reshape(-1)[0] <= 0


@DTYPE
def test_special_values(dtype: str, isa: str) -> None:
    """0 where x is dropped, whatever it was, where torch has NaN."""
    for value in (np.nan, np.inf, -np.inf, -0.0):
        x = np.full(100, value, DTYPES[dtype])
        y = dlkernels.dropout(x, 0.5, seed=2).astype(np.float64)
        mask = dropout_mask(2, 0.5, (100,))
        np.testing.assert_array_equal(y[mask], value)
        assert (y[~mask] == 0).all()
        assert not np.signbit(y[~mask]).any()
        if value == 0:
            assert np.signbit(y[mask]).all()


@pytest.mark.parametrize("name", [*ELEMENTS, *PLANES])
@DTYPE
def test_what_is_dropped_is_gone(name: str, dtype: str, isa: str) -> None:
    """Infinities and NaN give what any dropped number gives, in both directions."""
    shape = PLANES.get(name, (200,))
    odd = np.resize([np.inf, -np.inf, np.nan, 1.0], shape).astype(DTYPES[dtype])
    for function in (getattr(dlkernels, name), getattr(dlkernels, f"{name}_backward")):
        plain = function(np.ones(shape, DTYPES[dtype]), 0.5, seed=3).astype(np.float64)
        dropped = plain == plain.min()
        assert 0 < dropped.sum() < dropped.size
        y = function(odd, 0.5, seed=3).astype(np.float64)
        np.testing.assert_array_equal(y[dropped], plain[dropped])
        assert not np.isfinite(y[~dropped & ~np.isfinite(odd.astype(np.float64))]).any()


@DTYPE
def test_what_is_dropped_is_gone_in_fused_operations(dtype: str, isa: str) -> None:
    x = np.resize([np.inf, np.nan, -np.inf], (20, 10)).astype(DTYPES[dtype])
    kept = dropout_mask(5, 0.5, x.shape)
    residual = np.full(x.shape, 0.25, DTYPES[dtype])
    y = dlkernels.dropout_add(x, residual, 0.5, seed=5).astype(np.float64)
    assert (y[~kept] == 0.25).all()
    bias, ones = np.zeros(10, DTYPES[dtype]), np.ones(x.shape, DTYPES[dtype])
    for activation in ("relu", "gelu", "silu", "elu"):
        y = dlkernels.bias_act_dropout(x, bias, activation, 0.5, seed=5).astype(np.float64)
        assert (y[~kept] == 0).all()
        for g in (ones, x):
            dx, _ = dlkernels.bias_act_dropout_backward(g, x, bias, activation, 0.5, seed=5)
            assert (dx.astype(np.float64)[~kept] == 0).all()


def test_probabilities_that_are_refused() -> None:
    x = np.ones(5, np.float32)
    for p in (-0.1, 1.5, float("nan"), float("inf")):
        for call in (
            lambda p=p: dlkernels.dropout(x, p, seed=1),
            lambda p=p: dlkernels.alpha_dropout(x, p, seed=1),
            lambda p=p: dlkernels.dropout_backward(x, p, False),
            lambda p=p: dlkernels.dropout_add(x, x, p, seed=1),
            lambda p=p: dlkernels.bias_act_dropout(x, x, "relu", p, seed=1),
        ):
            with pytest.raises(ValueError, match=r"p: expected a probability in \[0, 1\], got"):
                call()


def test_seeds_that_are_refused() -> None:
    x = np.ones(5, np.float32)
    for seed, error, message in [
        (None, TypeError, "dropout: seed: expected a whole number, got None"),
        (1.5, TypeError, "dropout: seed: expected a whole number, got float"),
        ("1", TypeError, "dropout: seed: expected a whole number, got str"),
        (2**64, ValueError, "dropout: seed: expected a number of 64 bits"),
        (-(2**63) - 1, ValueError, "dropout: seed: expected a number of 64 bits"),
    ]:
        with pytest.raises(error, match=message):
            dlkernels.dropout(x, seed=seed)
        with pytest.raises(error):
            dlkernels.bias_act_dropout(x, None, seed=seed)
    assert_same_bits(dlkernels.dropout(x, seed=np.int64(-1)), dlkernels.dropout(x, seed=2**64 - 1))


@pytest.mark.parametrize("name", [n for n in PLANES if n != "feature_alpha_dropout"])
def test_dimensions_that_are_refused(name: str) -> None:
    shape = PLANES[name]
    for wrong in (shape[:-1], (*shape, 1)):
        for suffix, argument in (("", "input"), ("_backward", "grad_output")):
            with pytest.raises(
                ValueError, match=rf"{name}{suffix}: {argument}: expected {len(shape)} dimensions"
            ):
                getattr(dlkernels, name + suffix)(np.ones(wrong, np.float32), seed=1)
    with pytest.raises(ValueError, match="feature_alpha_dropout: input: expected at least 2"):
        dlkernels.feature_alpha_dropout(np.ones(3, np.float32), seed=1)


def test_lists_are_accepted() -> None:
    assert dlkernels.dropout([1.0] * 8, seed=1).tolist() == [2, 0, 2, 0, 2, 0, 0, 0]
    assert dlkernels.dropout_add([1.0, 1.0], [0.5, 0.5], seed=1).tolist() == [2.5, 0.5]
    assert dlkernels.bias_act_dropout([1.0, 1.0], [0.5, 0.5], seed=1).tolist() == [3, 0]


# --- the fused ones


@DTYPE
def test_dropout_add_backward(dtype: str) -> None:
    g = np.random.default_rng(5).standard_normal(1000).astype(DTYPES[dtype])
    dx, dresidual = dlkernels.dropout_add_backward(g, 0.3, seed=2)
    assert dresidual is g
    assert_same_bits(dx, dlkernels.dropout_backward(g, 0.3, seed=2))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
@pytest.mark.parametrize("bias", [True, False])
@in_one_test("dtype", DTYPES)
@on_every_isa
def test_bias_act_dropout_with_every_activation(activation: Any, bias: bool, dtype: str) -> None:
    """Of the activation's own value at the rounded sum: only the factor is rounded besides."""
    rng = np.random.default_rng(6)
    compute = np.float64 if dtype == "float64" else np.float32
    for options in activation.options:
        for shape in ((1, 1), (7, 33), (5, 3, 65), (3, 2100)):
            x, g = rng.standard_normal((2, *shape)).astype(DTYPES[dtype])
            b = rng.standard_normal(shape[-1]).astype(DTYPES[dtype]) if bias else None
            hidden = x.astype(compute) + (b.astype(compute) if bias else compute(0))
            factor = dropout_mask(3, 0.2, shape) / (1 - 0.2)
            forward = getattr(dlkernels, activation.name)(hidden, **options)
            saved = forward if activation.row.saves == "output" else hidden
            backward = getattr(dlkernels, f"{activation.name}_backward")
            scaled = (g.astype(compute) * factor).astype(compute)
            grad = backward(scaled, saved, **options).astype(np.float64)
            y = dlkernels.bias_act_dropout(x, b, activation.name, 0.2, seed=3, **options)
            dx, db = dlkernels.bias_act_dropout_backward(
                g, x, b, activation.name, 0.2, seed=3, **options
            )
            rows = tuple(range(len(shape) - 1))
            for result, value, scale in (
                (y, forward * factor, None),
                (dx, grad, None),
                (db, grad.sum(axis=rows), np.abs(grad).sum(axis=rows)),
            ):
                if result is None:
                    assert not bias
                    continue
                assert result.dtype == DTYPES[dtype]
                exact = Exact(np.asarray(value, np.float64), scale)
                error = np.abs(result.astype(np.float64) - exact.value)
                assert (error <= tolerance(exact, 4, dtype)).all(), (options, shape)


def test_the_gradient_of_a_bias_is_summed_in_float64(isa: str) -> None:
    """2^24 + 1 is no float32: ones added to it one by one would be lost."""
    g = np.ones((5000, 3), np.float32)
    g[0] = 2.0**24
    x = np.ones((5000, 3), np.float32)
    _, db = dlkernels.bias_act_dropout_backward(g, x, np.ones(3, np.float32), training=False)
    assert_same_bits(db, np.full(3, np.float32(2.0**24 + 4999)))
    results = []
    for threads in (1, 2, 7):
        with dlkernels.num_threads(threads):
            noise = np.random.default_rng(7).standard_normal((5000, 37)).astype(np.float32)
            bias = np.zeros(37, np.float32)
            results.append(dlkernels.bias_act_dropout_backward(noise, noise, bias, seed=1)[1])
    for result in results[1:]:
        assert_same_bits(result, results[0])
    assert np.abs(results[0]).max() > eps("float32")


def test_bias_act_dropout_is_checked() -> None:
    x, bias = np.ones((4, 3), np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"activation: expected one of .*relu.*; got 'linear'"):
        dlkernels.bias_act_dropout(x, bias, "linear", seed=1)
    with pytest.raises(TypeError, match="relu has no argument slope"):
        dlkernels.bias_act_dropout(x, bias, "relu", seed=1, slope=1.0)
    with pytest.raises(ValueError, match=r"bias: expected shape \(3,\), got \(4,\)"):
        dlkernels.bias_act_dropout(x, np.ones(4, np.float32), seed=1)
    with pytest.raises(ValueError, match="input: expected at least 1 dimension"):
        dlkernels.bias_act_dropout(np.float32(1) * np.ones(()), None, seed=1)
    with pytest.raises(ValueError, match="no activation of index"):
        _core.bias_act_dropout(x, bias, None, 1, 0.5, 1000, 0.0, 0.0)
    out = bias[None].repeat(4, 0)
    assert dlkernels.bias_act_dropout(x, bias, out=out, training=False) is out
    with pytest.raises(ValueError, match=r"out: .* got a partial overlap"):
        dlkernels.bias_act_dropout(x[:1], bias, out=bias[None], training=False)
