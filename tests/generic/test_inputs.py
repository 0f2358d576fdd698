"""What goes in and what is refused: shapes, strides, dtypes, kinds of array, targets, specials."""

from __future__ import annotations

import itertools
from collections import UserDict
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dlkernels
import specs
from activations.specs import ACTIVATIONS, ActivationSpec
from dlkernels import _core
from operation import Call, Operation, tolerance, widened
from support import (
    DTYPES,
    ISAS,
    Foreign,
    assert_same_bits,
    bits,
    fresh_like,
    in_one_test,
    isa_level,
    on_every_isa,
)

CASES = pytest.mark.parametrize(
    ("operation", "call"), [pytest.param(op, call, id=call.name) for op, call in specs.cases()]
)
CASES_WITH_OUT = pytest.mark.parametrize(
    ("operation", "call"),
    [pytest.param(op, call, id=call.name) for op, call in specs.cases() if call.out is not None],
)
DTYPE = pytest.mark.parametrize("dtype", DTYPES)
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def _arrays(operation: Operation, dtype: str = "float32", size: int = 37) -> dict[str, Any]:
    return operation.arrays(operation.shapes(size)[0], DTYPES[dtype], operation.options[0])


def _run(operation: Operation, call: Call, arrays: dict[str, Any]) -> tuple[Any, ...]:
    return call.run(arrays, operation.options[0], None)


def _copies(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: np.array(value, copy=True, order="K") for name, value in arrays.items()}


# --- strides

#: The same values, laid out otherwise.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "every other element": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "a window of a larger array": lambda x: np.pad(x, [(1, 2)] * x.ndim)[
        tuple(slice(1, -2) for _ in x.shape)
    ],
    "backwards": lambda x: np.ascontiguousarray(np.flip(x))[(slice(None, None, -1),) * x.ndim],
    "backwards along the last": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "Fortran order": lambda x: np.asfortranarray(x),
    "channels last": lambda x: (
        np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if x.ndim > 1 else x
    ),
    "unaligned": lambda x: _unaligned(x),
}


def _unaligned(x: np.ndarray) -> np.ndarray:
    """At an odd address: no element is where its type wants it."""
    room = np.zeros(x.nbytes + 1, np.uint8)
    moved = room[1:].view(x.dtype).reshape(x.shape)
    moved[...] = x
    return moved


#: A third of the samples, and in the slow tests the others.
PART = pytest.mark.parametrize(
    "part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)


@CASES
@PART
def test_strides(operation: Operation, call: Call, part: int) -> None:
    """Whatever the strides, results are as good as those of a contiguous copy; elementwise they are
    the same in every bit."""
    shapes = (*operation.shapes(37), (7, 5) if operation.elementwise else (2, 5, 3, 4))
    samples = itertools.product(DTYPES, shapes, operation.options)
    for number, (dtype, shape, options) in enumerate(samples):
        arrays = operation.arrays(shape, DTYPES[dtype], options)
        exact = call.reference(widened(arrays, dtype), options)
        expected = {}
        for level in ISAS:
            with isa_level(level):
                expected[level] = call.run(_copies(arrays), options, None)
        for layout in list(LAYOUTS)[(number + part) % 3 :: 3]:
            for value in arrays.values():
                assert np.array_equal(LAYOUTS[layout](value), value)
            for level in ISAS:
                with isa_level(level):
                    fresh = {key: LAYOUTS[layout](value) for key, value in _copies(arrays).items()}
                    results = call.run(fresh, options, None)
                for index, result in enumerate(results):
                    result, other = np.asarray(result), np.asarray(expected[level][index])
                    label = f"{dtype} {layout} {options} {shape} {level} result {index}"
                    assert result.shape == other.shape, label
                    assert result.dtype == other.dtype, label
                    if operation.elementwise:
                        assert_same_bits(result, other, label)
                    error = np.abs(result.astype(np.float64) - exact[index].value)
                    allowed = tolerance(exact[index], call.eps[index], result.dtype.name)
                    assert (error <= allowed).all(), label


@CASES_WITH_OUT
@in_one_test("layout", LAYOUTS)
@on_every_isa
def test_strides_of_out(operation: Operation, call: Call, layout: str) -> None:
    """`out` may lie anyhow; nothing but its own elements is written."""
    for shape in (
        *operation.shapes(37),
        *([(2, 5, 3, 4)] if not operation.elementwise else [(7, 5)]),
    ):
        arrays = operation.arrays(shape, DTYPES["float32"], operation.options[0])
        expected = call.run(arrays, operation.options[0], None)[call.out]
        if layout == "a window of a larger array":
            room = np.full([n + 3 for n in expected.shape], 77, np.float32)
            out = room[tuple(slice(1, -2) for _ in expected.shape)]
        elif layout == "every other element":
            room = np.full([*expected.shape[:-1], 2 * expected.shape[-1]], 77, np.float32)
            out = room[..., ::2]
        else:
            room = out = LAYOUTS[layout](fresh_like(expected))
        result = call.run(arrays, operation.options[0], out)[call.out]
        assert result is out
        assert_same_bits(out, expected, f"{call.name} {shape}")
        assert (room == 77).sum() == room.size - out.size


@CASES
@on_every_isa
def test_broadcast_inputs(operation: Operation, call: Call) -> None:
    """Stride 0 along any dimension."""
    for shape in (*operation.shapes(37), *([] if operation.elementwise else [(3, 4, 5)])):
        for axis in range(len(shape)):
            arrays = operation.arrays(shape, DTYPES["float32"], operation.options[0])
            spread = {}
            for name, value in arrays.items():
                if value.shape == shape and name not in call.updates:
                    one = np.take(value, [0], axis=axis)
                    spread[name] = np.broadcast_to(one, shape)
                    assert spread[name].strides[axis] == 0 or shape[axis] == 1
                else:
                    spread[name] = value.copy()
            expected = call.run(_copies(spread), operation.options[0], None)
            fresh = {
                name: value.copy() if name in call.updates else value
                for name, value in spread.items()
            }
            results = call.run(fresh, operation.options[0], None)
            for result, value in zip(results, expected, strict=True):
                np.testing.assert_allclose(result, value, rtol=2e-6, atol=1e-6)


def test_results_lie_like_their_input(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 5, 3, 4)).astype(np.float32)
    for layout in ("Fortran order", "channels last"):
        laid_out = LAYOUTS[layout](x)
        assert laid_out.strides != x.strides
        assert dlkernels.relu(laid_out).strides == laid_out.strides
        assert dlkernels.relu_backward(x, laid_out).strides == laid_out.strides
    assert dlkernels.softmax(laid_out, 1).strides == laid_out.strides
    target = rng.integers(0, 5, (2, 3, 4))
    assert dlkernels.cross_entropy_with_grad(laid_out, target)[1].strides == laid_out.strides
    assert dlkernels.nll_loss_backward(1.0, laid_out, target).strides == laid_out.strides
    columns = np.asfortranarray(x.reshape(10, 12))
    assert dlkernels.softmax(columns).strides == columns.strides
    grad = dlkernels.cross_entropy_with_grad(columns, rng.integers(0, 12, 10))[1]
    assert grad.strides == columns.strides


def _contiguous(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


#: Logits of about 2 MiB that a kernel can read where they lie.
WALKABLE: dict[str, Callable[[], np.ndarray]] = {
    "rows": lambda: _contiguous((512, 1030)),
    "columns": lambda: np.asfortranarray(_contiguous((512, 1030))),
    "NCHW": lambda: _contiguous((2, 33, 64, 128)),
    "channels last": lambda: LAYOUTS["channels last"](_contiguous((2, 33, 64, 128))),
    "a window of rows": lambda: _contiguous((520, 1100))[5:517, 60:1090],
    "a window of NCHW": lambda: _contiguous((4, 36, 64, 128))[1::2, 3:],
    "a window of channels last": lambda: LAYOUTS["channels last"](_contiguous((4, 36, 64, 128)))[
        ::3, 2:35
    ],
    "rows backwards": lambda: _contiguous((512, 1030))[::-1],
}


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("layout", WALKABLE)
def test_large_logits_are_not_copied(
    layout: str, probabilities: bool, rng: np.random.Generator
) -> None:
    """Memory for a copy of these logits would come from the pool; only the gradient's does."""
    logits = WALKABLE[layout]()
    classes = logits.shape[1]
    target = rng.integers(0, classes, (logits.shape[0], *logits.shape[2:])).astype(np.int32)
    if probabilities:
        target = abs(WALKABLE[layout]())

    def requests() -> int:
        stats = dlkernels.memory_stats()
        return stats["hits"] + stats["misses"]

    expected = dlkernels.cross_entropy(logits.copy(), target.copy())
    before = requests()
    loss = dlkernels.cross_entropy(logits, target)
    assert requests() == before, "the loss alone needs no large memory"
    _, grad = dlkernels.cross_entropy_with_grad(logits, target)
    assert requests() == before + 1, "the gradient needs one buffer"
    np.testing.assert_allclose(loss, expected, rtol=2e-6)
    out = np.empty_like(grad)
    assert out.strides == grad.strides
    dlkernels.cross_entropy_with_grad(logits, target, out=out)
    assert requests() == before + 1, "out is written where it lies"
    assert_same_bits(out, grad)
    own = WALKABLE[layout]()
    dlkernels.cross_entropy_with_grad(own, target, out=own)
    assert requests() == before + 1, "in place"
    assert_same_bits(own, grad)


def test_what_no_kernel_can_walk_is_copied_once(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((64, 200, 100)).astype(np.float32)[:, ::2, ::2]
    target = rng.integers(0, 100, (64, 50))
    before = dlkernels.memory_stats()
    loss = dlkernels.cross_entropy(logits, target)
    after = dlkernels.memory_stats()
    assert after["hits"] + after["misses"] == before["hits"] + before["misses"] + 1
    assert loss == dlkernels.cross_entropy(logits.copy(), target)


# --- shapes


@DTYPE
def test_zero_dimensions(dtype: str, isa: str) -> None:
    for value in (2.5, -2.5):
        x = np.array(value, DTYPES[dtype])
        result = dlkernels.relu(x)
        assert result.shape == ()
        assert result.dtype == x.dtype
        assert float(result) == max(value, 0)
        assert float(dlkernels.softmax(x)) == 1
        assert float(dlkernels.softmax(x, -1)) == 1
        assert float(dlkernels.log_softmax(x, 0)) == 0


@CASES
@in_one_test("dtype", DTYPES)
@on_every_isa
def test_empty(operation: Operation, call: Call, dtype: str) -> None:
    for options in operation.options:
        if operation.elementwise:
            shapes = [(0,), (0, 3), (3, 0, 2)]
        elif "axis" in options or call.name.endswith(("softmax", "softmax_backward")):
            shapes = [(0, 5), (0, 5, 7), (2, 5, 0), (5, 0)]  # the axis itself is not empty
            shapes = [shape for shape in shapes if shape[options.get("axis", 1)] != 0]
        else:
            shapes = [(0, 5), (0, 5, 7), (2, 5, 0)]
        for shape in shapes:
            arrays = operation.arrays(shape, DTYPES[dtype], options)
            for result in call.run(arrays, options, None):
                result = np.asarray(result)
                if result.ndim:
                    assert result.size == 0 or not result.any()  # sums of no rows are 0
                elif options.get("reduction", "mean") == "mean":
                    assert np.isnan(result.astype(np.float64))
                else:
                    assert result == 0


def test_softmax_along_an_axis_of_no_elements() -> None:
    for shape, axis in (((3, 0), 1), ((0, 3), 0), ((2, 0, 4), 1), ((0,), 0)):
        x = np.zeros(shape, np.float32)
        assert dlkernels.softmax(x, axis).shape == shape
        assert dlkernels.log_softmax(x, axis).shape == shape
        assert dlkernels.softmax_backward(x, x, axis).shape == shape


def test_empty_batch() -> None:
    logits, target = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    loss, grad = dlkernels.cross_entropy_with_grad(logits, target)
    assert np.isnan(loss)
    assert grad.shape == (0, 4)
    assert dlkernels.cross_entropy(logits, target, reduction="sum") == 0
    assert dlkernels.cross_entropy(logits, target, reduction="none").shape == (0,)
    assert np.isnan(dlkernels.nll_loss(logits, target))


@DTYPE
def test_unbatched_cross_entropy(dtype: str, isa: str) -> None:
    logits = np.random.default_rng(1).standard_normal(11).astype(DTYPES[dtype])
    target = np.array(4)
    weight = np.linspace(0.5, 2, 11).astype(DTYPES[dtype])
    loss, grad, lse, argmax = dlkernels.cross_entropy_with_grad(
        logits, target, return_lse=True, return_argmax=True, reduction="sum", weight=weight
    )
    batch = dlkernels.cross_entropy_with_grad(
        logits[None],
        target[None],
        return_lse=True,
        return_argmax=True,
        reduction="sum",
        weight=weight,
    )
    assert_same_bits(loss, batch[0])
    assert_same_bits(grad, batch[1][0])
    assert np.shape(lse) == np.shape(argmax) == ()
    assert argmax == logits.astype(float).argmax()
    # With one row the weight cancels out of a mean.
    assert_same_bits(
        dlkernels.cross_entropy(logits, target),
        dlkernels.cross_entropy(logits, target, reduction="none"),
    )
    np.testing.assert_allclose(
        float(dlkernels.cross_entropy(logits, 4, weight=weight)),
        float(dlkernels.cross_entropy(logits, 4)),
        rtol=1e-2 if dtype in ("bfloat16", "float16") else 1e-6,
    )


def test_n_dimensional_cross_entropy_is_that_of_its_rows(
    rng: np.random.Generator, isa: str
) -> None:
    logits = rng.standard_normal((3, 7, 4, 5)).astype(np.float32)
    target = rng.integers(-1, 7, (3, 4, 5))
    weight = rng.uniform(0.5, 1.5, 7).astype(np.float32)
    keywords = {"weight": weight, "ignore_index": -1, "label_smoothing": 0.2}
    rows, row_targets = np.moveaxis(logits, 1, -1).reshape(-1, 7), target.reshape(-1)
    for reduction in ("mean", "sum", "none"):
        loss, grad, lse, argmax = dlkernels.cross_entropy_with_grad(
            logits, target, reduction=reduction, return_lse=True, return_argmax=True, **keywords
        )
        expected = dlkernels.cross_entropy_with_grad(
            rows, row_targets, reduction=reduction, return_lse=True, return_argmax=True, **keywords
        )
        np.testing.assert_allclose(np.ravel(loss), np.ravel(expected[0]), rtol=1e-6)
        np.testing.assert_allclose(
            np.moveaxis(grad, 1, -1).reshape(-1, 7), expected[1], rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(lse.reshape(-1), expected[2], rtol=1e-6)
        assert np.array_equal(argmax.reshape(-1), expected[3])
        assert lse.shape == argmax.shape == target.shape


# --- kinds of array


@CASES
@in_one_test("old", [False, True])
def test_any_dlpack_array(operation: Operation, call: Call, old: bool) -> None:
    """Results come back as the kind that came in, on memory of our own."""
    if call.updates:
        pytest.skip("a list of arrays that are updated in place has no results")
    dtypes = ["float32", "float64", "float16"]
    for dtype in dtypes:
        arrays = _arrays(operation, dtype)
        expected = _run(operation, call, arrays)
        foreign = {name: Foreign(value, old=old) for name, value in arrays.items()}
        for result, value in zip(_run(operation, call, foreign), expected, strict=True):
            assert isinstance(result, Foreign)
            assert result.array.flags.writeable or old or result.array.ndim == 0
            assert_same_bits(result.array, value, call.name)


def test_results_follow_the_first_argument(rng: np.random.Generator) -> None:
    logits, target = rng.standard_normal((4, 5)).astype(np.float32), rng.integers(0, 5, 4)
    loss, grad = dlkernels.cross_entropy_with_grad(logits, Foreign(target))
    assert isinstance(grad, np.ndarray)
    assert isinstance(loss, np.float32)
    loss, grad = dlkernels.cross_entropy_with_grad(Foreign(logits), target)
    assert isinstance(grad, Foreign)
    assert isinstance(loss, Foreign)


def test_sgd_updates_dlpack_arrays_in_place(rng: np.random.Generator) -> None:
    param, grad = rng.standard_normal((2, 100)).astype(np.float32)
    expected = param.copy()
    dlkernels.optim.SGD([expected], lr=0.5).step([grad])
    dlkernels.optim.SGD([Foreign(param)], lr=0.5).step([Foreign(grad)])
    assert_same_bits(param, expected)


def test_arrays_on_another_device_are_refused() -> None:
    class OnDevice(Foreign):
        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

    with pytest.raises(TypeError, match=r"relu: input: expected an array in CPU memory.*2:0"):
        dlkernels.relu(OnDevice(np.ones(3, np.float32)))


def test_a_failing_dlpack_is_reported() -> None:
    class Failing(Foreign):
        def __dlpack__(self, **keywords: Any) -> Any:
            raise BufferError("cannot lend this")

    with pytest.raises(TypeError, match=r"softmax: input: .*cannot lend this"):
        dlkernels.softmax(Failing(np.ones(3, np.float32)))


def test_numpy_results_are_plain(rng: np.random.Generator) -> None:
    """Scalars as NumPy's reductions give them; subclasses give plain arrays."""

    class Sub(np.ndarray):
        pass

    logits, target = rng.standard_normal((4, 5)), rng.integers(0, 5, 4)
    assert isinstance(dlkernels.cross_entropy(logits, target), np.float64)
    assert isinstance(dlkernels.cross_entropy(logits.astype(np.float16), target), np.float16)
    assert isinstance(
        dlkernels.cross_entropy(logits.astype(ml_dtypes.bfloat16), target), ml_dtypes.bfloat16
    )
    assert type(dlkernels.relu(logits.view(Sub))) is np.ndarray


def test_lists_are_accepted() -> None:
    assert dlkernels.relu([-1.0, 2.0]).tolist() == [0, 2]
    assert dlkernels.relu((1, -2)).tolist() == [1, 0]
    assert float(dlkernels.relu(-3.5)) == 0
    np.testing.assert_allclose(dlkernels.softmax([[0.0, 0.0]]), [[0.5, 0.5]])
    np.testing.assert_allclose(dlkernels.log_softmax([0.0, 0.0]), -np.log([2, 2]))
    np.testing.assert_allclose(dlkernels.cross_entropy([[0.0, 0.0]], [1]), np.log(2))
    np.testing.assert_allclose(dlkernels.cross_entropy([0.0, 0.0], 1), np.log(2))
    np.testing.assert_allclose(dlkernels.nll_loss([[-1.0, -2.0]], [1]), 2)


# --- refused


REFUSED_DTYPES = [
    "complex64",
    "object",
    "S3",
    "M8[s]",
    "f4,i4",
    *["float128"][: hasattr(np, "float128")],
]


@CASES
def test_dtypes_that_are_refused(operation: Operation, call: Call) -> None:
    arrays = _arrays(operation)
    for name, dtype in itertools.product(_names_of(operation, call, arrays), REFUSED_DTYPES):
        wrong = {**_copies(arrays), name: np.zeros(arrays[name].shape, np.dtype(dtype))}
        before = {key: bits(value) for key, value in wrong.items() if value.dtype != object}
        with pytest.raises(TypeError, match=_names_itself(call)):
            _run(operation, call, wrong)
        assert all(bits(wrong[key]) == value for key, value in before.items()), (name, dtype)


def _names_itself(call: Call) -> str:
    """Errors name the operation and the argument. (Of a target some say what torch says.)"""
    name = call.name.removesuffix("_with_grad").replace("sgd", "SGD")
    ours = rf"^{name}: \w+(\[0\])?: expected "
    return rf"{ours}|^target: expected |^Expected floating point type for target"


def _names_of(operation: Operation, call: Call, arrays: dict[str, Any]) -> list[str]:
    """The arrays a call uses."""

    used: set[str] = set()

    class Noting(UserDict):  # type: ignore[type-arg]
        def __getitem__(self, key: str) -> Any:
            used.add(key)
            return super().__getitem__(key)

    call.run(Noting(_copies(arrays)), operation.options[0], None)
    return [name for name in arrays if name in used]


@CASES
def test_what_is_no_array_is_refused(operation: Operation, call: Call) -> None:
    arrays = _arrays(operation)
    values = ("text", None, object(), {1: 2}, np.float32)
    for name, value in itertools.product(_names_of(operation, call, arrays), values):
        if isinstance(value, dict) and name == "param":
            continue  # a group of parameters
        if value is None and name in ("grad", "weight", "bias", "residual", "up"):
            continue  # a parameter without a gradient; an argument that need not be there
        with pytest.raises(TypeError):
            _run(operation, call, {**_copies(arrays), name: value})


@CASES
def test_wrong_byte_order_is_refused(operation: Operation, call: Call) -> None:
    arrays = _arrays(operation)
    for name in _names_of(operation, call, arrays):
        if arrays[name].dtype.itemsize == 1:
            continue
        swapped = arrays[name].astype(arrays[name].dtype.newbyteorder())
        with pytest.raises(TypeError, match=r"expected the machine's byte order, got dtype [<>]"):
            _run(operation, call, {**_copies(arrays), name: swapped})


@CASES
def test_mixed_dtypes_are_refused(operation: Operation, call: Call) -> None:
    if (call.torch_twin or "").startswith("optim."):
        pytest.skip("optimizers take any mixture")
    arrays = _arrays(operation)
    names = [name for name in _names_of(operation, call, arrays) if arrays[name].dtype.kind == "f"]
    if len(names) < 2:
        pytest.skip("one array alone")
    for name in names:
        with pytest.raises(TypeError, match=r"expected dtype float\d\d, got float\d\d"):
            _run(operation, call, {**_copies(arrays), name: arrays[name].astype(np.float64)})


@CASES
def test_wrong_shapes_are_refused(operation: Operation, call: Call) -> None:
    arrays = _arrays(operation)
    names = _names_of(operation, call, arrays)
    if len(names) < 2:
        pytest.skip("one array alone")
    for name in names:
        wrongs = [arrays[name][:-1], arrays[name][None]]
        if call.name == "prelu" and name == "x":
            wrongs = wrongs[1:]  # any number of rows goes with its slopes
        elif name in operation.free_rows or operation.broadcasts:
            wrongs = wrongs[:1]
        if operation.elementwise or call.name.startswith(("softmax", "log_softmax")):
            wrongs.append(arrays[name][..., :-1])
        for wrong in wrongs:
            with pytest.raises(ValueError, match=r"[Ee]xpected"):
                _run(operation, call, {**_copies(arrays), name: wrong.copy()})


def test_masked_arrays_are_refused() -> None:
    masked = np.ma.masked_array(np.ones(3, np.float32), mask=[0, 1, 0])
    with pytest.raises(TypeError, match="relu: input: expected a plain array, got a masked array"):
        dlkernels.relu(masked)


def test_strides_in_parts_of_an_element_are_refused() -> None:
    records = np.zeros(4, dtype=[("a", np.uint8), ("x", np.float32)])
    with pytest.raises(
        ValueError, match="relu: input: expected strides in whole elements of 4 bytes"
    ):
        dlkernels.relu(records["x"])


def test_arguments_that_are_refused() -> None:
    logits, target = np.zeros((2, 3), np.float32), np.array([0, 1])
    for keywords, message in [
        ({"reduction": "avg"}, "avg is not a valid value for reduction"),
        ({"reduction": None}, "None is not a valid value for reduction"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be between 0.0 and 1.0. Got: 1.5"),
        ({"label_smoothing": float("nan")}, "label_smoothing must be between"),
        ({"softcap": 0.0}, "cross_entropy: softcap: expected a positive number or None, got 0"),
        ({"softcap": -1.0}, "cross_entropy: softcap: expected a positive number or None, got -1"),
        ({"softcap": float("inf")}, "cross_entropy: softcap: expected a positive finite number"),
        ({"z_loss": float("inf")}, "cross_entropy: z_loss: expected a finite number"),
        ({"weight": np.ones(4, np.float32)}, r"all 3 classes or no classes.*\[4\]"),
    ]:
        for function in (dlkernels.cross_entropy, dlkernels.cross_entropy_with_grad):
            with pytest.raises(ValueError, match=message):
                function(logits, target, **keywords)
    with pytest.raises(ValueError, match="ignore_index is not supported for floating point target"):
        dlkernels.cross_entropy(logits, logits, ignore_index=0)
    with pytest.raises(ValueError, match=r"Expected input batch_size \(2\) to match target.*\(3\)"):
        dlkernels.cross_entropy(logits, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"Expected target size \[2, 4\], got \[2, 5\]"):
        dlkernels.cross_entropy(np.zeros((2, 3, 4)), np.zeros((2, 5), np.int64))
    with pytest.raises(ValueError, match="expected 1 or more dimensions"):
        dlkernels.cross_entropy(np.float64(1) * np.array(1.0, ndmin=0)[()] + np.zeros(()), target)
    with pytest.raises(IndexError, match=r"Dimension out of range .*\[-2, 1\], but got 2"):
        dlkernels.softmax(logits, 2)
    with pytest.raises(TypeError, match="Expected floating point type for target with class prob"):
        dlkernels.cross_entropy(logits, np.zeros((2, 3), np.int64))


# --- out


@CASES_WITH_OUT
@in_one_test("dtype", DTYPES)
@on_every_isa
def test_in_place(operation: Operation, call: Call, dtype: str) -> None:
    """`out` may be an input itself, with any strides: the results have the same bits."""
    shapes = (*operation.shapes(129), *([] if operation.elementwise else [(40, 70), (2, 5, 3, 4)]))
    layouts = (lambda x: x.copy(), *LAYOUTS.values())
    # Every layout with some of the options, every one of the options with some layout.
    deal = itertools.cycle(operation.options)
    for (shape, layout), options in zip(itertools.product(shapes, layouts), deal, strict=False):
        arrays = operation.arrays(shape, DTYPES[dtype], options)
        expected = call.run({key: layout(value) for key, value in arrays.items()}, options, None)
        for name in call.in_place:
            laid_out = {key: layout(value.copy()) for key, value in arrays.items()}
            out = laid_out[name]
            results = call.run(laid_out, options, out)
            assert results[call.out] is out
            assert_same_bits(results, expected, f"{call.name} {options} {shape} in {name}")


@CASES_WITH_OUT
def test_partial_overlap_is_refused(operation: Operation, call: Call) -> None:
    """And nothing is written."""
    options = operation.options[0]
    for shape in operation.shapes(40):
        for name in call.in_place:
            arrays = operation.arrays(shape, DTYPES["float32"], options)
            size = arrays[name].size
            room = np.zeros(size + 20, np.float32)
            arrays[name] = room[10 : 10 + size].reshape(shape)
            arrays[name][...] = 0.1
            windows = [room[start : start + size].reshape(shape) for start in (0, 9, 11, 20)]
            windows.append(arrays[name][..., ::-1])
            windows.append(
                np.lib.stride_tricks.as_strided(room[10:], shape, arrays[name].strides[::-1])
            )
            if windows[-1].strides == arrays[name].strides:
                windows.pop()
            for out in windows:
                before = bits(room)
                with pytest.raises(ValueError, match="overlap"):
                    call.run(arrays, options, out)
                assert bits(room) == before


def test_interleaved_memory_is_no_overlap(rng: np.random.Generator) -> None:
    room = rng.standard_normal((30, 40)).astype(np.float32)
    for x, out in [
        (room[:, ::2], room[:, 1::2]),
        (room[::2], room[1::2]),
        (room[:, :7], room[:, 7:14]),
    ]:
        expected = dlkernels.softmax(x.copy())
        kept = x.copy()
        assert dlkernels.softmax(x, out=out) is out
        assert_same_bits(out, expected)
        assert_same_bits(x, kept)


@CASES_WITH_OUT
def test_out_that_is_refused(operation: Operation, call: Call) -> None:
    """Read-only, expanded, of another shape or dtype: nothing is written."""
    options = operation.options[0]
    for shape in operation.shapes(12):
        arrays = operation.arrays(shape, DTYPES["float32"], options)
        expected = np.asarray(call.run(arrays, options, None)[call.out])
        good = fresh_like(expected)
        locked = good.copy()
        locked.flags.writeable = False
        spread = np.lib.stride_tricks.as_strided(good, shape, (0,) * len(shape))
        for out, error, message in [
            (locked, ValueError, "out: expected an array that can be written to, got a read-only"),
            (spread, ValueError, "out: expected each element in a place of its own"),
            (np.full((*shape, 1), 77, np.float32), ValueError, "out: expected shape"),
            (good[..., :-1], ValueError, "out: expected shape"),
            (good.astype(np.float64), TypeError, "out: expected dtype float32, got float64"),
            (good.astype(good.dtype.newbyteorder()), TypeError, "out: .*byte order"),
        ]:
            with pytest.raises(error, match=message) as caught:
                call.run(arrays, options, out)
            assert call.name.removesuffix("_with_grad") in str(caught.value)
            assert (out == 77).all()
            assert (good == 77).all()
        with pytest.raises(TypeError, match="out: expected an array, got list"):
            call.run(arrays, options, [1.0])


# --- targets


@pytest.mark.parametrize("shape", [(6, 9), (2, 9, 70)])
@in_one_test("integer", INTEGERS)
@on_every_isa
def test_integer_targets(integer: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    logits = rng.standard_normal(shape).astype(np.float32)
    target = rng.integers(0, 9, (shape[0], *shape[2:]))
    expected = dlkernels.cross_entropy_with_grad(logits, target)
    for layout in ("every other element", "backwards"):
        laid_out = LAYOUTS[layout](target.astype(integer))
        assert_same_bits(dlkernels.cross_entropy_with_grad(logits, laid_out), expected, integer)
    logp = dlkernels.log_softmax(logits, 1)
    assert_same_bits(
        dlkernels.nll_loss(logp, target.astype(integer)), dlkernels.nll_loss(logp, target)
    )
    assert_same_bits(
        dlkernels.nll_loss_backward(1.0, logp, target.astype(integer)),
        dlkernels.nll_loss_backward(1.0, logp, target),
    )


@pytest.mark.parametrize("bad", [7, -1, 5, 10**12, -(2**62)])
@pytest.mark.parametrize("shape", [(400, 5), (3, 5, 130)])
@in_one_test("reduction", ["mean", "sum", "none"])
@on_every_isa
def test_targets_out_of_bounds(bad: int, reduction: str, shape: tuple[int, ...]) -> None:
    """An IndexError with the target in it, and nothing is written."""
    rng = np.random.default_rng(7)
    logits = rng.standard_normal(shape).astype(np.float32)
    target = rng.integers(0, 5, (shape[0], *shape[2:]))
    message = rf"^Target {bad} is out of bounds\.$"
    for place in (0, target.size // 2, target.size - 1):
        wrong = target.copy()
        wrong.reshape(-1)[place] = bad
        out, before = fresh_like(logits), bits(logits)
        with pytest.raises(IndexError, match=message):
            dlkernels.cross_entropy_with_grad(logits, wrong, out=out, reduction=reduction)
        assert (out == 77).all()
        with pytest.raises(IndexError, match=message):
            dlkernels.cross_entropy_with_grad(logits, wrong, out=logits, reduction=reduction)
        assert bits(logits) == before
        for function in (dlkernels.cross_entropy, dlkernels.nll_loss):
            with pytest.raises(IndexError, match=message):
                function(logits, wrong, reduction=reduction)
        with pytest.raises(IndexError, match=message):
            dlkernels.nll_loss_backward(1.0, logits, wrong)
        # Unless it is the one to ignore.
        dlkernels.cross_entropy_with_grad(logits, wrong, reduction=reduction, ignore_index=bad)


def test_the_first_target_out_of_bounds_is_named(isa: str) -> None:
    logits = np.zeros((50_000, 2), np.float32)
    target = np.zeros(50_000, np.int64)
    target[[49_000, 30_001, 30_002]] = [9, 7, 8]
    for threads in (1, 3):
        with (
            dlkernels.num_threads(threads),
            pytest.raises(IndexError, match=r"^Target 7 is out of bounds\.$"),
        ):
            dlkernels.cross_entropy(logits, target)


def test_large_unsigned_targets_are_out_of_bounds() -> None:
    with pytest.raises(IndexError, match="is out of bounds"):
        dlkernels.cross_entropy(np.zeros((1, 3)), np.array([2**64 - 1], np.uint64))


# --- ignored rows


@pytest.mark.parametrize("shape", [(6, 9), (2, 9, 5), (2, 9, 70)])
@in_one_test("dtype", DTYPES)
@on_every_isa
def test_all_ignored(shape: tuple[int, ...], dtype: str) -> None:
    logits = np.random.default_rng(8).standard_normal(shape).astype(DTYPES[dtype])
    target = np.full((shape[0], *shape[2:]), 3)
    for keywords in (
        {},
        {"label_smoothing": 0.1, "z_loss": 0.1},
        {"weight": np.ones(9, DTYPES[dtype])},
    ):
        loss, grad = dlkernels.cross_entropy_with_grad(logits, target, ignore_index=3, **keywords)
        assert np.isnan(float(loss))
        assert not grad.any()
        loss, grad = dlkernels.cross_entropy_with_grad(
            logits, target, ignore_index=3, reduction="sum", **keywords
        )
        assert loss == 0
        assert not grad.any()
    logp = dlkernels.log_softmax(logits, 1)
    assert np.isnan(float(dlkernels.nll_loss(logp, target, ignore_index=3)))
    assert not dlkernels.nll_loss_backward(1.0, logp, target, ignore_index=3).any()


@pytest.mark.parametrize("shape", [(6, 9), (2, 9, 5), (2, 9, 70)])
@in_one_test("poison", [np.nan, np.inf, -np.inf])
@in_one_test("dtype", DTYPES)
@on_every_isa
def test_ignored_rows_may_hold_anything(poison: float, shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(9)
    logits = rng.standard_normal(shape).astype(DTYPES[dtype])
    target = rng.integers(0, 9, (shape[0], *shape[2:]))
    target[1] = -100
    expected = dlkernels.cross_entropy_with_grad(logits, target, label_smoothing=0.1)
    poisoned = logits.copy()
    poisoned[1] = poison
    loss, grad = dlkernels.cross_entropy_with_grad(poisoned, target, label_smoothing=0.1)
    assert_same_bits((loss, grad), expected)
    assert not grad[1].any()
    assert not np.signbit(grad[1].astype(float)).any()
    assert grad[0].any()


def test_extras_cover_ignored_rows(isa: str) -> None:
    for shape in ((6, 9), (2, 9, 70)):
        logits = np.random.default_rng(10).standard_normal(shape)
        target = np.zeros((shape[0], *shape[2:]), np.int64)
        target[1] = -100
        _, lse, argmax = dlkernels.cross_entropy(
            logits, target, return_lse=True, return_argmax=True, reduction="sum"
        )
        np.testing.assert_allclose(lse, np.log(np.exp(logits).sum(axis=1)), rtol=1e-14)
        assert np.array_equal(argmax, logits.argmax(axis=1))
        assert argmax.dtype == np.int64


def test_argmax_takes_the_first(isa: str) -> None:
    logits = np.array([[1, 3, 3, 0], [-np.inf] * 4, [0, np.nan, 5, np.nan], [2, 2, 2, 2]])
    for rows in (logits, np.repeat(logits.astype(np.float32)[:, :, None], 70, axis=2)):
        target = np.zeros((4, *rows.shape[2:]), np.int64)
        _, argmax = dlkernels.cross_entropy(rows, target, return_argmax=True, reduction="none")
        assert np.array_equal(argmax.reshape(4, -1)[:, -1], [1, 0, 1, 0])


# --- special values of logits

LAYOUTS_OF_A_ROW = {
    "row": lambda row: (row[None], (0,)),
    "plane": lambda row: (np.repeat(row[None, :, None], 70, axis=2), (0, 5)),
    "long row": lambda row: (np.concatenate([row, np.full(5000, -60.0, row.dtype)])[None], (0,)),
}


@pytest.mark.parametrize("layout", LAYOUTS_OF_A_ROW)
@in_one_test("dtype", DTYPES)
@on_every_isa
def test_special_logits(layout: str, dtype: str) -> None:
    inf, nan = np.inf, np.nan

    def run(row: list[float], target: int, **keywords: Any) -> tuple[float, np.ndarray]:
        logits, at = LAYOUTS_OF_A_ROW[layout](np.array(row, DTYPES[dtype]))
        targets = np.full((logits.shape[0], *logits.shape[2:]), target)
        loss, grad = dlkernels.cross_entropy_with_grad(
            logits, targets, reduction="none", **keywords
        )
        grad = np.moveaxis(grad, 1, -1)[at][: len(row)]
        return float(loss[at]), grad.astype(np.float64)

    half = np.log(2)
    loss, grad = run([0, -inf, 0], 0)  # -inf is a class that cannot be
    assert abs(loss - half) < 1e-2
    assert np.abs(grad - [-0.5, 0, 0.5]).max() < 1e-2
    assert grad[1] == 0
    loss, _ = run([0, -inf, 0], 1)
    assert loss == inf
    loss, _ = run([0, -inf, 0], 0, label_smoothing=0.1)
    assert loss == inf
    loss, grad = run([0, inf, 0], 1)
    assert np.isnan(loss)
    loss, grad = run([0, nan, 0], 0)
    assert np.isnan(loss)
    assert np.isnan(grad).all()
    if layout != "long row":
        loss, grad = run([-inf, -inf, -inf], 0)
        assert np.isnan(loss)
        assert np.isnan(grad).all()
    logits, at = LAYOUTS_OF_A_ROW[layout](np.array([0, -inf, 0], DTYPES[dtype]))
    target = np.zeros_like(logits)
    target[:, 0] = 1
    loss = dlkernels.cross_entropy(logits, target, reduction="none")
    assert np.isnan(float(loss[at]))  # 0 * -inf


@pytest.mark.parametrize("layout", ["row", "plane", "long row"])
def test_special_softmax(layout: str, isa: str) -> None:
    inf, nan = np.inf, np.nan

    def run(function: Callable[..., Any], row: list[float]) -> list[float]:
        x, at = LAYOUTS_OF_A_ROW[layout](np.array(row, np.float32))
        return np.moveaxis(function(x, 1), 1, -1)[at][: len(row)].tolist()

    assert run(dlkernels.softmax, [0, -inf, 0]) == [0.5, 0, 0.5]
    result = run(dlkernels.log_softmax, [0, -inf, 0])
    assert result[1] == -inf
    np.testing.assert_allclose(result[0], -np.log(2), rtol=1e-6)
    assert np.isnan(run(dlkernels.softmax, [0, nan, 0])).all()
    assert np.isnan(run(dlkernels.log_softmax, [0, nan, 0])).all()
    assert np.isnan(run(dlkernels.softmax, [0, inf, 0]))[1]
    if layout != "long row":
        assert np.isnan(run(dlkernels.softmax, [-inf, -inf])).all()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
@in_one_test("dtype", ["float32", "float64"])
@on_every_isa
def test_special_values_of_activations(activation: ActivationSpec, dtype: str) -> None:
    """In a whole vector and in a partial one; 1e-45 stands for the smallest subnormal number."""
    forward, backward = (
        getattr(dlkernels, activation.name + suffix) for suffix in ("", "_backward")
    )
    options = activation.options[0]

    def number(value: float) -> np.ndarray:
        tiny = abs(value) == 1e-45
        return np.copysign(np.finfo(dtype).smallest_subnormal if tiny else abs(value), value)

    for value, result, derivative in activation.special:
        for size in (1, 40):
            x = np.full(size, number(value), dtype)
            y = forward(x, **options)
            expected = np.full(size, number(result), dtype)
            np.testing.assert_array_equal(y, expected, str(value))
            if not np.isnan(result):
                assert (np.signbit(y) == np.signbit(expected)).all(), value
            if derivative is not None:
                saved = y if activation.row.saves == "output" else x
                grad = backward(np.full(size, 3, dtype), saved, **options)
                np.testing.assert_array_equal(grad, np.full(size, 3 * derivative, dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_a_mask_is_for_activations_that_save_one(activation: ActivationSpec) -> None:
    """It would be left unwritten, or stand for an array that is not there."""
    x = np.linspace(-1, 1, 20)
    index, numbers = activation.row.index, activation.numbers(activation.options[0])
    mask = np.full(4, 255, np.uint8)
    if activation.row.saves == "mask":
        _, mask = _core.activation(index, x, None, True, *numbers)
        assert mask.size == 4
        grad = _core.activation_backward(index, x, None, mask, *numbers)
        assert_same_bits(grad, _core.activation_backward(index, x, x, None, *numbers))
        return
    with pytest.raises(ValueError, match="mask: expected none, since backward needs the"):
        _core.activation(index, x, None, True, *numbers)
    with pytest.raises(ValueError, match="mask: expected none, since backward needs the"):
        _core.activation_backward(index, x, None, mask, *numbers)


def test_negative_label_smoothing_is_none() -> None:
    logits, target = np.random.default_rng(11).standard_normal((4, 5)), np.array([0, 1, 2, 3])
    assert dlkernels.cross_entropy(logits, target, label_smoothing=-0.5) == dlkernels.cross_entropy(
        logits, target
    )


# --- sums of half types


def test_float16_divisor_beyond_its_range(isa: str) -> None:
    """32769 rows: the divisor of the mean is no float16, and the sum of losses overflows one."""
    rng = np.random.default_rng(12)
    logits = rng.standard_normal((32769, 40)).astype(np.float16)
    target = rng.integers(0, 40, 32769)
    loss, grad = dlkernels.cross_entropy_with_grad(logits, target)
    exact = dlkernels.cross_entropy_with_grad(logits.astype(np.float64), target)
    assert loss == np.float16(exact[0])
    assert np.abs(grad.astype(float) - exact[1]).max() <= 1.001 * 2.0**-25
    logp = dlkernels.log_softmax(logits)
    exact_nll = dlkernels.nll_loss(logp.astype(np.float64), target)
    assert dlkernels.nll_loss(logp, target) == np.float16(exact_nll)
    weight = np.full(40, 1.5, np.float16)
    assert dlkernels.cross_entropy(logits, target, weight=weight) == loss


def test_bfloat16_divisor_between_its_numbers(isa: str) -> None:
    """257 is no bfloat16: a divisor of 256 would be 0.4 % off."""
    rng = np.random.default_rng(13)
    logits = rng.standard_normal((257, 300)).astype(ml_dtypes.bfloat16)
    target = rng.integers(0, 300, 257)
    loss, grad = dlkernels.cross_entropy_with_grad(logits, target)
    exact = dlkernels.cross_entropy_with_grad(logits.astype(np.float64), target)
    assert loss == ml_dtypes.bfloat16(exact[0])
    hard = np.take_along_axis(grad.astype(float), target[:, None], 1)
    exact_hard = np.take_along_axis(exact[1], target[:, None], 1)
    assert abs((hard / exact_hard).mean() - 1) < 5e-4


def test_math_functions_are_checked() -> None:
    with pytest.raises(ValueError, match="no function named sine"):
        _core.math_function("sine", np.ones(3, np.float32))


def test_parameters_of_activations_are_checked() -> None:
    x = np.ones(3)
    with pytest.raises(ValueError, match="hardtanh: min_val: expected at most max_val"):
        dlkernels.hardtanh(x, 2.0, 1.0)
    for function in (dlkernels.celu, lambda x, alpha: dlkernels.celu_backward(x, x, alpha)):
        for alpha in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="alpha: expected a positive number"):
                function(x, alpha)
    np.testing.assert_allclose(dlkernels.elu(-x, -1.0), 1 - np.exp(-1.0))
    with pytest.raises(ValueError, match="elu_backward: alpha: expected no negative number"):
        dlkernels.elu_backward(x, x, -1.0)
    with pytest.raises(ValueError, match="gelu: approximate: expected 'none' or 'tanh'"):
        dlkernels.gelu(x, approximate="erf")


def test_operands_of_units_are_checked() -> None:
    x = np.ones((2, 6), np.float32)
    with pytest.raises(ValueError, match="weight: expected 1 element or one for each of 6"):
        dlkernels.prelu(x, np.ones(2, np.float32))
    with pytest.raises(TypeError, match="prelu: weight: expected dtype float32, got float64"):
        dlkernels.prelu(x, np.ones(6))
    with pytest.raises(ValueError, match="prelu_backward: grad_output: expected shape"):
        dlkernels.prelu_backward(x[:1], x, np.ones(6, np.float32))
    with pytest.raises(ValueError, match="glu: input: expected an even length along axis 1, got 3"):
        dlkernels.glu(x[:, :3])
    with pytest.raises(IndexError, match="glu: axis 2 is out of range"):
        dlkernels.glu(x, 2)
    with pytest.raises(ValueError, match="swiglu: up: expected shape"):
        dlkernels.swiglu(x, x[:1])
    with pytest.raises(TypeError, match="swiglu: gate: expected a real floating"):
        dlkernels.swiglu(x.astype(complex), x.astype(complex))
    with pytest.raises(ValueError, match="maxout: pieces: expected 1 to 256, got 0"):
        dlkernels.maxout(x, 0)
    with pytest.raises(ValueError, match="maxout: input: expected a multiple of 4 along axis 1"):
        dlkernels.maxout(x, 4)
    _, index = dlkernels.maxout(x, 3, return_index=True)
    with pytest.raises(ValueError, match="maxout_backward: index: expected"):
        dlkernels.maxout_backward(np.ones((2, 60), np.float32), index, 3)


@pytest.mark.parametrize("shape", [(2, 30), (2, 3, 21), (2, 10, 1), (1, 4, 1003)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_maxout_backward_refuses_numbers_that_no_piece_has(
    shape: tuple[int, ...], dtype: str, isa: str
) -> None:
    for pieces in (3, 5, 6, 7):
        x = np.random.default_rng(0).standard_normal((shape[0], pieces * shape[1], *shape[2:]))
        y, index = dlkernels.maxout(x.astype(dtype), pieces, return_index=True)
        # Bits beyond the end do not count.
        dlkernels.maxout_backward(np.ones_like(y), index, pieces)
        bad = index.copy()
        bits = (pieces - 1).bit_length()
        bad[: 2 * bits : 2] |= 4  # element 2 in every plane: the largest number of so many bits
        text = f"maxout_backward: index: expected numbers below {pieces}"
        with pytest.raises(ValueError, match=text):
            dlkernels.maxout_backward(np.ones_like(y), bad, pieces)
