"""The same bits for any number of threads, any split, any place in memory, and at every run."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import dlkernels
import specs
from operation import Call, Operation, Options
from optim.specs import SGD
from support import DTYPES, ISAS, assert_same_bits, isa_level, on_every_isa, shifted

CASES = pytest.mark.parametrize(
    ("operation", "call"), [pytest.param(op, call, id=call.name) for op, call in specs.cases()]
)
ELEMENTWISE = pytest.mark.parametrize(
    ("operation", "call"),
    [pytest.param(op, call, id=call.name) for op, call in specs.cases() if op.elementwise],
)
DTYPE = pytest.mark.parametrize("dtype", DTYPES)

# Two of the four take the time of a suite that runs before every change; the rest is `slow`.
SOME_DTYPES = pytest.mark.parametrize(
    "dtype",
    [
        name if name in ("float32", "bfloat16") else pytest.param(name, marks=pytest.mark.slow)
        for name in DTYPES
    ],
)

#: Elements from which on several threads work.
GRAIN_ELEMS = 32768


def _large_shapes(operation: Operation) -> list[tuple[int, ...]]:
    """More chunks than threads, and a last one that is not full: rows longer and shorter than a
    chunk, and planes."""
    if operation.elementwise:
        return [(5 * GRAIN_ELEMS + 77,)]
    return [(33, 4099), (5003, 13), (3, 11, 5001)]


def _run(call: Call, arrays: dict[str, Any], options: Options) -> tuple[Any, ...]:
    own = {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in arrays.items()
    }
    return call.run(own, options, None)


@pytest.mark.sampled(3)
@CASES
@SOME_DTYPES
def test_number_of_threads(operation: Operation, call: Call, dtype: str, isa: str) -> None:
    for index, shape in enumerate(_large_shapes(operation)):
        # All options on the first shape, a rotating one on the others.
        count = len(operation.options)
        for which in range(count) if index == 0 else [index % count, (index + 4) % count]:
            options = operation.options[which]
            arrays = operation.arrays(shape, DTYPES[dtype], options)
            with dlkernels.num_threads(1):
                expected = _run(call, arrays, options)
            for threads in (2, 3, 8) if which == 0 else (2 + which % 2,):
                with dlkernels.num_threads(threads):
                    assert dlkernels.get_num_threads() == threads
                    results = _run(call, arrays, options)
                assert_same_bits(
                    results, expected, f"{call.name} {options} {shape} {threads} threads"
                )


@DTYPE
@pytest.mark.parametrize("classes", [1, 10, 32, 64, 65])
def test_rows_one_by_one(dtype: str, classes: int, isa: str, rng: np.random.Generator) -> None:
    """Several rows are worked on at once, more or fewer at the end."""
    for function, rows in itertools.product(
        (dlkernels.softmax, dlkernels.log_softmax), (1, 2, 7, 16, 17, 37)
    ):
        x = rng.standard_normal((rows, classes)).astype(DTYPES[dtype])
        single = [function(x[row : row + 1]) for row in range(rows)]
        assert_same_bits((function(x),), (np.concatenate(single),), f"{function.__name__} {rows}")


@CASES
@on_every_isa
def test_repeated_runs(operation: Operation, call: Call) -> None:
    shape = _large_shapes(operation)[0]
    options = operation.options[-1]
    arrays = operation.arrays(shape, DTYPES["float32"], options)
    expected = _run(call, arrays, options)
    for _ in range(2):
        assert_same_bits(_run(call, arrays, options), expected, call.name)


@pytest.mark.sampled(3)
@ELEMENTWISE
@DTYPE
def test_split_anywhere(operation: Operation, call: Call, dtype: str, isa: str) -> None:
    """In two parts, computed by themselves, an array gives what it gives as a whole."""
    for options in operation.options:
        whole = operation.arrays((GRAIN_ELEMS + 1234,), DTYPES[dtype], options)
        expected = _run(call, whole, options)
        for split in (0, 1, 3, 8, 15, 16, 17, 100, 16383, 16384, 16385, GRAIN_ELEMS + 1):
            parts = []
            for piece in (slice(None, split), slice(split, None)):
                arrays = {name: value[piece].copy() for name, value in whole.items()}
                parts.append(call.run(arrays, options, None))
            results = tuple(np.concatenate(pair) for pair in zip(*parts, strict=True))
            assert_same_bits(results, expected, f"{call.name} {options} split at {split}")


@pytest.mark.sampled(3)
@ELEMENTWISE
@DTYPE
def test_position(operation: Operation, call: Call, dtype: str, isa: str) -> None:
    """An element's result is the same wherever it stands: every element of a long array alone, and
    the same one in every lane."""
    for options in operation.options:
        whole = operation.arrays((67,), DTYPES[dtype], options)
        expected = _run(call, whole, options)
        for index in range(67):
            alone = {name: value[index : index + 1].copy() for name, value in whole.items()}
            results = call.run(alone, options, None)
            assert_same_bits(
                results, tuple(part[index : index + 1] for part in expected), call.name
            )
        everywhere = {name: np.repeat(value[5:6], 67) for name, value in whole.items()}
        for part in call.run(everywhere, options, None):
            assert len({element.tobytes() for element in part}) == 1


@DTYPE
def test_rows_of_a_cross_entropy_do_not_depend_on_their_batch(
    dtype: str, isa: str, rng: np.random.Generator
) -> None:
    keywords = {
        "weight": rng.uniform(0.5, 2, 1003).astype(DTYPES[dtype]),
        "label_smoothing": 0.1,
        "reduction": "none",
        "z_loss": 1e-3,
    }
    logits = rng.standard_normal((70, 1003)).astype(DTYPES[dtype])
    target = rng.integers(0, 1003, 70)

    def run(rows: Any) -> tuple[Any, ...]:
        return dlkernels.cross_entropy_with_grad(
            logits[rows].copy(),
            target[rows].copy(),
            return_lse=True,
            return_argmax=True,
            **keywords,
        )

    expected = run(slice(None))
    for rows in (slice(0, 1), slice(3, 4), slice(17, 59), [69, 2, 2, 40], slice(None, None, -1)):
        assert_same_bits(run(rows), tuple(part[rows] for part in expected), f"rows {rows}")


@DTYPE
def test_positions_of_a_plane_do_not_depend_on_their_tile(
    dtype: str, isa: str, rng: np.random.Generator
) -> None:
    """(With one position the classes lie side by side: those are rows, summed in another order.)"""
    logits = rng.standard_normal((2, 7, 300)).astype(DTYPES[dtype])
    target = rng.integers(0, 7, (2, 300))

    def run(positions: slice) -> tuple[Any, ...]:
        return dlkernels.cross_entropy_with_grad(
            logits[..., positions].copy(),
            target[..., positions].copy(),
            reduction="none",
            label_smoothing=0.1,
        )

    loss, grad = run(slice(None))
    for positions in (slice(0, 2), slice(1, 90), slice(63, 66), slice(64, 128), slice(298, 300)):
        assert_same_bits(run(positions), (loss[:, positions], grad[..., positions]), str(positions))


@DTYPE
@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_rows_do_not_depend_on_their_batch(
    dtype: str, axis: int, isa: str, rng: np.random.Generator
) -> None:
    """(A single column would be a row: its classes lie side by side.)"""
    x = rng.standard_normal((150, 131)).astype(DTYPES[dtype])
    for function in (dlkernels.softmax, dlkernels.log_softmax):
        expected = function(x, axis)
        for part in (slice(0, 2), slice(5, 70), slice(64, 129)):
            window = (slice(None), part) if axis == 0 else (part, slice(None))
            assert_same_bits(function(x[window].copy(), axis), expected[window].copy())


@DTYPE
def test_sgd_over_many_arrays_is_sgd_over_one(
    dtype: str, isa: str, rng: np.random.Generator
) -> None:
    """However the parameters are cut into arrays, over several steps."""
    size = 2 * GRAIN_ELEMS + 321
    cuts = [0, 1, 2, 17, 5000, 5001, 21384, 21400, 60000, size]
    start = rng.standard_normal(size).astype(DTYPES[dtype])
    grads = [rng.standard_normal(size).astype(DTYPES[dtype]) for _ in range(3)]
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}

    whole = start.copy()
    optimizer = dlkernels.optim.SGD([whole], **settings)
    for grad in grads:
        optimizer.step([grad])

    def cut(array: np.ndarray) -> list[np.ndarray]:
        return [array[a:b] for a, b in itertools.pairwise(cuts)]

    for threads in (1, 3):
        pieces = [shifted(piece, index % 5) for index, piece in enumerate(cut(start))]
        optimizer = dlkernels.optim.SGD(pieces, **settings)
        with dlkernels.num_threads(threads):
            for grad in grads:
                optimizer.step(cut(grad))
        assert_same_bits(np.concatenate(pieces), whole, f"{threads} threads")


def test_levels_differ_where_the_contract_lets_them() -> None:
    """That levels really change: without a fused multiply-add SGD rounds in other places."""
    if len(ISAS) < 2:
        pytest.skip("one level alone")
    arrays = SGD.arrays((4096,), DTYPES["float32"], SGD.options[3])
    results = []
    for level in ("baseline", ISAS[-1]):
        with isa_level(level):
            results.append(_run(SGD.calls[0], arrays, SGD.options[3])[0])
    assert not np.array_equal(results[0], results[1])
