"""What batch normalization promises beyond what every operation does: statistics, layouts, the
activation and the residual, and the pieces for several processes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import dlkernels
from dlkernels import _core
from support import DTYPES, FMA_ISAS, assert_same_bits, bits, isa_level, needs_two_fma_isas

DTYPE = pytest.mark.parametrize("dtype", DTYPES)
ACTIVATIONS = (None, "relu", "leaky_relu", "silu")


def channels_last(x: np.ndarray) -> np.ndarray:
    """The same values with the channels side by side in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "channels last": channels_last,
}
LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)

#: Every rank, few and many channels, planes of whole and of broken bytes and vectors.
SHAPES = [
    (9, 5),
    (70, 64),
    (3, 4, 9),
    (4, 33, 7, 7),
    (2, 64, 4, 4),
    (2, 3, 40, 50),
    (2, 5, 3, 4, 5),
]


def forward(
    x: np.ndarray, activation: str | None = None, residual: Any = None, **extra: Any
) -> tuple[Any, ...]:
    """`_core.batch_norm` in training, saving what backward needs."""
    return _core.batch_norm(
        x,
        extra.get("weight"),
        extra.get("bias"),
        extra.get("running_mean"),
        extra.get("running_var"),
        extra.get("training", True),
        extra.get("momentum", 0.1),
        extra.get("eps", 1e-5),
        activation,
        0.2,
        residual,
        True,
        None,
    )


def backward(
    grad: np.ndarray,
    x: np.ndarray,
    saved: tuple[Any, ...],
    activation: str | None = None,
    residual: Any = None,
    **extra: Any,
) -> tuple[Any, ...]:
    """`_core.batch_norm_backward` for what `forward` saved."""
    _, mean, invstd, mask = saved
    return _core.batch_norm_backward(
        grad,
        x,
        extra.get("weight"),
        extra.get("bias"),
        extra.get("running_mean"),
        extra.get("running_var"),
        mean,
        invstd,
        extra.get("training", True),
        extra.get("eps", 1e-5),
        activation,
        0.2,
        residual if mask is None else None,
        mask,
        (True, True, True, residual is not None),
    )


# --- statistics


@LAYOUT
def test_one_large_value_does_not_hide_the_small_ones(layout: str, isa: str) -> None:
    """[2^24, 1 x 4095]: float32 sums lose every 1."""
    x = np.ones((16, 3, 16, 16), np.float32)
    for channel, place in enumerate((0, 77, -1)):
        x[:, channel] = np.roll(np.concatenate([[2**24], np.ones(4095)]), place).reshape(16, 16, 16)
    mean, squares = _core.batch_norm_stats(LAYOUTS[layout](x))
    exact = (2**24 + 4095) / 4096
    assert (mean == exact).all()
    np.testing.assert_allclose(squares, (2**24 - 1) ** 2 * 4095 / 4096, rtol=1e-9)
    running_mean = np.zeros(3, np.float32)
    forward(LAYOUTS[layout](x), running_mean=running_mean, momentum=1.0)
    assert (running_mean == np.float32(exact)).all()


@LAYOUT
@pytest.mark.parametrize("mean", [0.0, 100.0, -3e4])
def test_a_mean_far_above_the_deviation_costs_nothing_more(
    layout: str, mean: float, isa: str, rng: np.random.Generator
) -> None:
    """No worse than the centred form on the rounded mean: E[x^2] - E[x]^2 would return noise."""
    x = (mean + 1e-2 * max(1.0, abs(mean) / 100) * rng.standard_normal((8, 5, 23, 23))).astype(
        np.float32
    )
    wide = x.astype(np.float64)
    exact_mean = wide.mean(axis=(0, 2, 3), keepdims=True)
    invstd = 1 / np.sqrt(((wide - exact_mean) ** 2).mean(axis=(0, 2, 3), keepdims=True) + 1e-5)
    y = forward(LAYOUTS[layout](x))[0]
    centred = (x - exact_mean.astype(np.float32)) * invstd.astype(np.float32)
    exact = (wide - exact_mean) * invstd
    assert np.abs(y - exact).max() <= np.abs(centred - exact).max() + 4e-7
    _, squares = _core.batch_norm_stats(LAYOUTS[layout](x))
    np.testing.assert_allclose(squares, ((wide - exact_mean) ** 2).sum(axis=(0, 2, 3)), rtol=1e-9)


@LAYOUT
def test_a_nan_stays_in_its_channel(layout: str, isa: str, rng: np.random.Generator) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        x = rng.standard_normal((4, 19, 9, 11)).astype(np.float32)
        grad = rng.standard_normal(x.shape).astype(np.float32)
        clean = forward(LAYOUTS[layout](x))
        clean_grads = backward(grad, LAYOUTS[layout](x), clean)
        x[2, 7, 5, 3] = bad
        poisoned = forward(LAYOUTS[layout](x))
        grads = backward(grad, LAYOUTS[layout](x), poisoned)
        others = np.arange(19) != 7
        for result, expected in ((poisoned[0], clean[0]), (grads[0], clean_grads[0])):
            assert np.isnan(result[:, 7]).all()
            assert_same_bits(result[:, others], expected[:, others])


@LAYOUT
@DTYPE
def test_running_statistics(layout: str, dtype: str, isa: str, rng: np.random.Generator) -> None:
    x = LAYOUTS[layout](rng.normal(3, 2, (6, 10, 5, 7)).astype(DTYPES[dtype]))
    wide = x.astype(np.float64)
    parameter = np.float64 if dtype == "float64" else np.float32
    for momentum in (0.1, 0.0, 1.0):
        mean, var = rng.standard_normal(10).astype(parameter), np.ones(10, parameter)
        kept = mean.copy()
        forward(x, running_mean=mean, running_var=var, momentum=momentum)
        np.testing.assert_allclose(
            mean, (1 - momentum) * kept + momentum * wide.mean(axis=(0, 2, 3)), rtol=1e-6, atol=1e-6
        )
        np.testing.assert_allclose(
            var, (1 - momentum) + momentum * wide.var(axis=(0, 2, 3), ddof=1), rtol=1e-6
        )


# --- bits


def _everything(x: np.ndarray, grad: np.ndarray, residual: np.ndarray) -> tuple[Any, ...]:
    saved = forward(x, "relu", residual)
    return (*saved, *backward(grad, x, saved, "relu", residual), *_core.batch_norm_stats(x))


#: Channels shared out, and chunks of them; columns, and chunks of rows; rows taken together.
LARGE = [
    (2, 3, 150, 151),
    (4, 40, 33, 33),
    (3, 64, 40, 41),
    (700, 96),
    (5000, 20),
    (40, 2048, 1, 1),
]


@LAYOUT
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_bits_do_not_depend_on_the_threads(
    layout: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    x, grad, residual = (
        LAYOUTS[layout](part.astype(np.float32)) for part in rng.standard_normal((3, *shape))
    )
    with dlkernels.num_threads(1):
        expected = _everything(x, grad, residual)
    for threads in (2, 3, 5, 8):
        with dlkernels.num_threads(threads):
            assert_same_bits(_everything(x, grad, residual), expected, f"{threads} threads")


@needs_two_fma_isas
@LAYOUT
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_bits_do_not_depend_on_the_level(
    layout: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    x, grad, residual = (
        LAYOUTS[layout](part.astype(np.float32)) for part in rng.standard_normal((3, *shape))
    )
    results = []
    for level in FMA_ISAS:
        with isa_level(level):
            results.append(_everything(x, grad, residual))
    assert_same_bits(results[0], results[1])


# --- layouts


@LAYOUT
@pytest.mark.parametrize("shape", [(8, 64, 64, 65), (4, 32, 9, 33, 37)], ids=str)
def test_layouts_are_kept_and_nothing_is_copied(
    layout: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """A copy of these arrays would come from the pool; only results do."""

    def requests() -> int:
        stats = dlkernels.memory_stats()
        return stats["hits"] + stats["misses"]

    x, grad, residual = (
        LAYOUTS[layout](part.astype(np.float32)) for part in rng.standard_normal((3, *shape))
    )
    before = requests()
    saved = forward(x, "silu", residual)
    assert requests() == before + 1
    grads = backward(grad, x, saved, "silu", residual)
    assert requests() == before + 3
    for result in (saved[0], grads[0], grads[3]):
        assert result.strides == x.strides


@pytest.mark.parametrize("shape", [(4, 21, 6, 7), (3, 32, 4, 5, 6)], ids=str)
def test_gradients_of_any_layout(
    shape: tuple[int, ...], isa: str, rng: np.random.Generator
) -> None:
    """The gradient and the residual may lie otherwise than the input, or be a broadcast scalar."""
    x, grad, residual = (part.astype(np.float32) for part in rng.standard_normal((3, *shape)))
    for own, other in itertools.permutations(LAYOUTS.values()):
        saved = forward(own(x), "relu", own(residual))
        assert_same_bits(forward(own(x), "relu", other(residual)), saved)
        expected = backward(own(grad), own(x), saved, "relu", own(residual))
        results = backward(other(grad), own(x), saved, "relu", other(residual))
        assert_same_bits(results, expected)
        assert results[0].strides == own(x).strides
        ones = np.broadcast_to(np.float32(1), shape)
        assert_same_bits(
            backward(ones, own(x), saved, "relu", residual),
            backward(own(ones.copy()), own(x), saved, "relu", residual),
        )


def test_windows_keep_their_order(rng: np.random.Generator) -> None:
    room = rng.standard_normal((4, 48, 6, 7)).astype(np.float32)
    for window in (
        room[::2],
        room[:, 3:37],
        channels_last(room)[:, :32],
        channels_last(room)[::-1],
    ):
        expected = forward(np.ascontiguousarray(window))[0]
        result = forward(window)[0]
        np.testing.assert_allclose(result, expected, atol=1e-6)
        side_by_side = window.strides[1] == 4
        assert (result.strides[1] == 4) == side_by_side


# --- activation and residual


def _reference(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, activation: str | None, residual: Any
) -> np.ndarray:
    axes = (0, *range(2, x.ndim))
    wide = x.astype(np.float64)
    spread = (slice(None), *[None] * (x.ndim - 2))
    z = (wide - wide.mean(axis=axes, keepdims=True)) / np.sqrt(
        wide.var(axis=axes, keepdims=True) + 1e-5
    )
    z = z * weight.astype(np.float64)[spread] + bias.astype(np.float64)[spread]
    if residual is not None:
        z = z + residual.astype(np.float64)
    if activation == "silu":
        return z / (1 + np.exp(-z))
    slope = {None: 1.0, "relu": 0.0, "leaky_relu": 0.2}[activation]
    return np.where(z > 0, z, slope * z)


@LAYOUT
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_the_function(
    layout: str, with_residual: bool, activation: str | None, isa: str, rng: np.random.Generator
) -> None:
    """All four, against central differences in float64."""
    for shape in ((7, 5), (3, 4, 3, 3)):
        x = LAYOUTS[layout](rng.standard_normal(shape))
        residual = rng.standard_normal(shape) if with_residual else None
        affine = {"weight": rng.uniform(0.5, 1.5, shape[1]), "bias": rng.standard_normal(shape[1])}
        grad = rng.standard_normal(shape)
        saved = forward(x, activation, residual, **affine)
        results = backward(grad, x, saved, activation, residual, **affine)
        arguments = [x, affine["weight"], affine["bias"]]
        arguments += [residual] if residual is not None else []
        for argument, result in zip(arguments, results, strict=False):
            step = 1e-6
            for index in itertools.islice(np.ndindex(argument.shape), 0, None, 3):
                kept = argument[index]
                values = []
                for moved in (kept + step, kept - step):
                    argument[index] = moved
                    y = _reference(x, affine["weight"], affine["bias"], activation, residual)
                    values.append((y * grad).sum())
                argument[index] = kept
                slope = (values[0] - values[1]) / (2 * step)
                assert abs(result[index] - slope) < 1e-6 * (1 + abs(slope)), (shape, index)


@LAYOUT
@DTYPE
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_the_mask_is_one_bit_an_element_and_forward_s_own(
    layout: str, dtype: str, activation: str, isa: str, rng: np.random.Generator
) -> None:
    """What passes the gradient is what passed the value, to the bit, in memory order."""
    for shape in SHAPES:
        x, residual = (
            LAYOUTS[layout](part.astype(DTYPES[dtype])) for part in rng.standard_normal((2, *shape))
        )
        y, mean, invstd, mask = forward(x, activation, residual)
        assert mask.dtype == np.uint8
        assert mask.size <= (x.size + 15) // 16 * 2
        in_memory = np.argsort([-stride for stride in y.strides], kind="stable")
        signs = y.transpose(in_memory).reshape(-1).astype(np.float64)
        passes = np.unpackbits(mask, bitorder="little")[: x.size]
        assert np.array_equal(passes[signs != 0] == 1, signs[signs != 0] > 0)
        assert not np.unpackbits(mask, bitorder="little")[x.size :].any()
        grad = np.ones(shape, DTYPES[dtype])
        grads = backward(grad, x, (y, mean, invstd, mask), activation, residual)
        slope = DTYPES[dtype].type(0 if activation == "relu" else 0.2)
        expected = np.where(passes, DTYPES[dtype].type(1), slope)
        assert_same_bits(grads[3].transpose(in_memory).reshape(-1), expected)


@LAYOUT
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu"])
def test_fused_is_as_one_after_the_other(
    layout: str, activation: str, isa: str, rng: np.random.Generator
) -> None:
    """Float32: the same bits as the normalization, the sum, the activation by themselves."""
    for shape in SHAPES:
        x, residual, grad = (
            LAYOUTS[layout](part.astype(np.float32)) for part in rng.standard_normal((3, *shape))
        )
        plain = forward(x)
        z = plain[0] + residual
        fused = forward(x, activation, residual)
        if activation == "relu":
            assert_same_bits(fused[0], dlkernels.relu(z))
        elif activation == "leaky_relu":
            assert_same_bits(fused[0], np.where(z < 0, z * np.float32(0.2), z))
        else:
            np.testing.assert_allclose(fused[0], z / (1 + np.exp(-z)), rtol=1e-6, atol=1e-7)
        grads = backward(grad, x, fused, activation, residual)
        if activation == "relu":
            passed = dlkernels.relu_backward(grad, z)
            assert_same_bits(grads[3], passed)
            assert_same_bits(grads[:3], backward(passed, x, plain)[:3])


# --- dtypes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@LAYOUT
def test_half_types_with_parameters_of_either_type(
    layout: str, dtype: str, isa: str, rng: np.random.Generator
) -> None:
    half = DTYPES[dtype]
    x = LAYOUTS[layout](rng.standard_normal((5, 8, 6, 7)).astype(half))
    grad = rng.standard_normal(x.shape).astype(half)
    weight, bias = rng.uniform(0.5, 1.5, 8).astype(half), rng.standard_normal(8).astype(half)
    results = []
    for parameter in (half, np.dtype(np.float32)):
        affine = {"weight": weight.astype(parameter), "bias": bias.astype(parameter)}
        running = {"running_mean": np.zeros(8, parameter), "running_var": np.ones(8, parameter)}
        saved = forward(x, "relu", **affine, **running)
        assert saved[0].dtype == half
        assert saved[1].dtype == saved[2].dtype == np.float64
        grads = backward(grad, x, saved, "relu", **affine)
        assert grads[0].dtype == half
        assert grads[1].dtype == grads[2].dtype == parameter
        results.append((saved[0], grads[0]))
    assert_same_bits(*results)
    mixed = {"weight": weight, "bias": bias.astype(np.float32)}
    with pytest.raises(TypeError, match="mixed dtype"):
        forward(x, **mixed)
    with pytest.raises(TypeError, match=f"weight: expected dtype {dtype} or float32, got float64"):
        forward(x, weight=weight.astype(np.float64))


# --- given statistics, several processes


@LAYOUT
@DTYPE
def test_the_pieces_are_the_whole(
    layout: str, dtype: str, isa: str, rng: np.random.Generator
) -> None:
    """What a process does of a normalization over several gives one process's bits."""
    for shape, activation in zip(SHAPES, itertools.cycle(ACTIVATIONS), strict=False):
        x, grad, residual = (
            LAYOUTS[layout](part.astype(DTYPES[dtype])) for part in rng.standard_normal((3, *shape))
        )
        count = x.size / shape[1]
        mean, squares = _core.batch_norm_stats(x)
        assert mean.dtype == squares.dtype == np.float64
        invstd = 1 / np.sqrt(squares / count + 1e-5)
        given = (x, None, None, mean, invstd)
        saved = forward(x, activation, residual)
        y, mask = _core.batch_norm_elemt(*given, activation, 0.2, residual, True)
        assert_same_bits(y, saved[0])
        assert (mask is None) == (saved[3] is None)
        if mask is not None:
            assert_same_bits(mask, saved[3])
        rest = (activation, 0.2, residual if mask is None else None, mask)
        sums = _core.batch_norm_backward_reduce(grad, *given, *rest)
        results = _core.batch_norm_backward_elemt(grad, *given, *sums, count, *rest, True, True)
        expected = backward(grad, x, saved, activation, residual)
        assert_same_bits(results, (expected[0], expected[3]))
        narrow = np.float64 if dtype == "float64" else np.float32
        assert_same_bits(sums[0].astype(narrow), expected[2])


def test_moments_of_parts_merge_to_those_of_the_whole(rng: np.random.Generator) -> None:
    x = rng.normal(1e3, 1, (11, 6, 8, 9))
    whole_mean, whole_squares = _core.batch_norm_stats(x)
    parts = [_core.batch_norm_stats(part) for part in (x[:3], x[3:4], x[4:])]
    counts = np.array([3, 1, 7])[:, None] * 72.0
    means, squares = (np.stack(column) for column in zip(*parts, strict=True))
    mean = (means * counts).sum(axis=0) / counts.sum()
    merged = squares.sum(axis=0) + ((means - mean) ** 2 * counts).sum(axis=0)
    np.testing.assert_allclose(mean, whole_mean, rtol=1e-14)
    np.testing.assert_allclose(merged, whole_squares, rtol=1e-11)


@LAYOUT
def test_frozen_statistics(layout: str, isa: str, rng: np.random.Generator) -> None:
    x, grad = (LAYOUTS[layout](part) for part in rng.standard_normal((2, 4, 6, 5, 3)))
    mean, var = rng.standard_normal(6), rng.uniform(0.5, 2, 6)
    weight, bias = rng.uniform(0.5, 1.5, 6), rng.standard_normal(6)
    keywords = {"running_mean": mean, "running_var": var, "weight": weight, "bias": bias}
    spread = (slice(None), None, None)
    invstd = 1 / np.sqrt(var + 1e-5)
    before = [bits(mean), bits(var)]
    y = dlkernels.batch_norm(x, **keywords)
    expected = (x - mean[spread]) * (invstd * weight)[spread] + bias[spread]
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    grads = dlkernels.batch_norm_backward(grad, x, **keywords)
    np.testing.assert_allclose(grads.input, grad * (weight * invstd)[spread], rtol=1e-12)
    np.testing.assert_allclose(grads.bias, grad.sum(axis=(0, 2, 3)), rtol=1e-12)
    centred = (x - mean[spread]) * invstd[spread]
    np.testing.assert_allclose(grads.weight, (grad * centred).sum(axis=(0, 2, 3)), rtol=1e-11)
    assert [bits(mean), bits(var)] == before
    assert grads.residual is None


# --- refused, empty


def test_what_is_refused() -> None:
    x, two = np.ones((4, 2, 3), np.float32), np.ones(2, np.float32)
    three = np.ones(3, np.float32)
    norm = dlkernels.batch_norm
    for call, message in (
        (lambda: norm(x), "running_mean must be defined in evaluation mode"),
        (lambda: norm(x, two), "running_var must be defined in evaluation mode"),
        (lambda: norm(x, three, two), "running_mean should contain 2 elements not 3"),
        (lambda: norm(x, two, two, three), "weight should contain 2 elements not 3"),
        (lambda: norm(x[0, 0]), r"expected at least 2 dimensions \(got 1\)"),
        (
            lambda: norm(x[:1, :, :1], training=True),
            r"Expected more than 1 value per channel when training, got input size \[1, 2, 1\]",
        ),
        (
            lambda: norm(x, training=True, eps=0.0),
            "batch_norm eps must be positive during training, but got 0",
        ),
        (lambda: norm(x, two, two, eps=-1.0), "batch_norm eps must be non-negative, but got -1"),
        (
            lambda: norm(x, two, two, activation="tanh"),
            "activation: expected None, 'relu', 'leaky_relu' or 'silu', got 'tanh'",
        ),
        (
            lambda: norm(x, two, two, residual=x[:2]),
            r"residual: expected shape \(4, 2, 3\), got \(2, 2, 3\)",
        ),
        (lambda: norm(x, two, two, training=True), "running_var: expected memory of its own"),
        (lambda: norm(x, two, two, two, out=x, residual=x[::-1]), "overlap"),
    ):
        before = bits(x), bits(two)
        with pytest.raises(ValueError, match=message):
            call()
        assert (bits(x), bits(two)) == before
    locked = two.copy()
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="running_mean: expected an array that can be written to"):
        norm(x, locked, two, training=True)
    norm(x, locked, locked)


@DTYPE
def test_empty_batches(dtype: str, isa: str) -> None:
    for shape in ((0, 3), (0, 3, 4), (2, 3, 0), (0, 3, 4, 5), (2, 0, 4)):
        x = np.ones(shape, DTYPES[dtype])
        channels = shape[1]
        mean, var = np.full(channels, 0.5, DTYPES[dtype]), np.full(channels, 2, DTYPES[dtype])
        saved = forward(x, "relu", x, running_mean=mean, running_var=var, momentum=1.0)
        assert saved[0].shape == shape
        assert (mean == 0.5).all()
        assert (var == 2).all()
        grads = backward(x, x, saved, "relu", x, weight=mean, bias=var)
        assert grads[0].shape == grads[3].shape == shape
        assert not grads[1].any()
        assert not grads[2].any()


@pytest.mark.parametrize("shape", [(4, 3, 224, 224), (8, 2048, 1, 1), (33, 2048, 1, 1)], ids=str)
def test_few_and_many_channels_are_shared_out(shape: tuple[int, ...]) -> None:
    """Correct where a channel is cut up, and where it is less than a vector of rows."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape, dtype=np.float32)
    for layout in LAYOUTS.values():
        with dlkernels.num_threads(2):
            y = forward(layout(x))[0]
        assert np.abs(y.mean(axis=(0, 2, 3), dtype=np.float64)).max() < 1e-6
        var = y.var(axis=(0, 2, 3), dtype=np.float64)
        expected = x.var(axis=(0, 2, 3), dtype=np.float64)
        np.testing.assert_allclose(var, expected / (expected + 1e-5), rtol=1e-5)
