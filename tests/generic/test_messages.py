"""Numbers, sequences and tables as arrays, and what is said of wrong arguments: every parameter of
every function of both fronts.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import dlkernels
import dlkernels.torch as dlt
from dlkernels.activations import ACTIVATIONS
from dlkernels.elementwise_losses import LOSSES
from support import DTYPES, bits
from twins import TWIN_CALLS, TwinCall

# --- one call of every function of the NumPy front

ROWS, CHANNELS = 4, 6


def _x(*shape: int) -> np.ndarray:
    size = int(np.prod(shape))
    return np.linspace(-1, 1, size, dtype=np.float32).reshape(shape)


def _p(*shape: int) -> np.ndarray:
    return np.abs(_x(*shape)) / 2 + 0.1


def _numpy_calls() -> dict[str, dict[str, Any]]:
    """The arguments of one call of each, by the names of its parameters."""
    rows = (ROWS, CHANNELS)
    calls: dict[str, dict[str, Any]] = {}
    for name, row in ACTIVATIONS.items():
        numbers = {p.name: 0.5 for p in row.parameters if p.default is inspect.Parameter.empty}
        saved = "output" if row.saves == "output" else "x"
        calls[name] = {"x": _x(*rows), **numbers}
        calls[f"{name}_backward"] = {"grad_output": _x(*rows), saved: _p(*rows), **numbers}
    for name, loss in LOSSES.items():
        arrays = {n: _p(*rows) for n in (*loss.inputs, *(o.name for o in loss.operands))}
        calls[name] = calls[f"{name}_with_grad"] = arrays
    for name in ("dropout", "alpha_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d",
                 "dropout3d"):  # fmt: skip
        dims = int(name[-2]) if name[-1] == "d" else 0
        x = _x(2, 3, *[2] * dims)
        calls[name] = {"x": x, "seed": 1}
        calls[f"{name}_backward"] = {"grad_output": x, "seed": 1}
    target = np.arange(ROWS) % CHANNELS
    classes = {"target": target, "weight": _p(CHANNELS)}
    vectors = {n: _p(CHANNELS) for n in ("running_mean", "running_var", "weight", "bias")}
    return calls | {
        "dropout_add": {"x": _x(*rows), "residual": _x(*rows), "seed": 1},
        "dropout_add_backward": {"grad_output": _x(*rows), "seed": 1},
        "bias_act_dropout": {"x": _x(*rows), "bias": _x(CHANNELS), "seed": 1},
        "bias_act_dropout_backward": {
            "grad_output": _x(*rows), "x": _x(*rows), "bias": _x(CHANNELS), "seed": 1
        },
        "cross_entropy": {"logits": _x(*rows), **classes},
        "cross_entropy_with_grad": {"logits": _x(*rows), **classes},
        "nll_loss": {"log_probabilities": _x(*rows), **classes},
        "nll_loss_with_grad": {"log_probabilities": _x(*rows), **classes},
        "nll_loss_backward": {"grad_output": 1.0, "log_probabilities": _x(*rows), **classes},
        "softmax": {"x": _x(*rows)},
        "log_softmax": {"x": _x(*rows)},
        "softmax_backward": {"grad_output": _x(*rows), "output": _p(*rows)},
        "log_softmax_backward": {"grad_output": _x(*rows), "output": _x(*rows)},
        "batch_norm": {"input": _x(*rows), "residual": _x(*rows), **vectors},
        "batch_norm_backward": {
            "grad_output": _x(*rows), "input": _x(*rows), "residual": _x(*rows), **vectors
        },
        "prelu": {"x": _x(*rows), "weight": _p(CHANNELS)},
        "prelu_backward": {"grad_output": _x(*rows), "x": _x(*rows), "weight": _p(CHANNELS)},
        "glu": {"x": _x(*rows)},
        "glu_backward": {"grad_output": _x(ROWS, CHANNELS // 2), "x": _x(*rows)},
        "swiglu": {"gate": _x(*rows), "up": _x(*rows)},
        "swiglu_backward": {"grad_output": _x(*rows), "gate": _x(*rows), "up": _x(*rows)},
        "maxout": {"x": _x(*rows), "pieces": 2},
        "maxout_backward": {
            "grad_output": _x(ROWS, CHANNELS // 2),
            "index": dlkernels.maxout(_x(*rows), 2, return_index=True)[1],
            "pieces": 2,
        },
        "image.normalize": {"x": _x(4, 5, 3), "mean": 0.5, "std": 0.25},
        "image.denormalize": {"x": _x(3, 4, 5), "mean": 0.5, "std": 0.25},
    }  # fmt: skip


NUMPY_CALLS = _numpy_calls()


def _function(name: str) -> Callable[..., Any]:
    *folder, name = name.split(".")
    function: Callable[..., Any] = getattr(dlkernels.image if folder else dlkernels, name)
    return function


def test_every_function_has_a_call() -> None:
    families = ("activations", "class_losses", "elementwise_losses", "norm")
    public = {name for family in families for name in getattr(dlkernels, family).__all__}
    public |= set(dlkernels._dropout.__all__) | {f"image.{n}" for n in dlkernels.image.__all__}
    assert public == set(NUMPY_CALLS)
    for name, arguments in NUMPY_CALLS.items():
        _function(name)(**arguments)


# --- numbers and sequences


def _floats(result: Any) -> Iterator[Any]:
    for part in result if isinstance(result, tuple) else (result,):
        if part is not None and np.asarray(part).dtype.kind == "f":
            yield part


#: Whose arrays of floats are not all that decides the result's dtype.
def _lists(arguments: dict[str, Any], dtype: type | None) -> dict[str, Any]:
    """The same with sequences for the arrays of floats, of ints or of floats."""
    made = {}
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            value = value if dtype is None else np.ceil(value).astype(dtype)
            value = value.tolist()
        made[name] = value
    return made


@pytest.mark.parametrize("name", NUMPY_CALLS)
def test_python_numbers_and_sequences_are_float64(name: str) -> None:
    """Of ints as of floats; NumPy's integers and bools likewise."""
    function, arguments = _function(name), NUMPY_CALLS[name]
    if name == "image.denormalize":
        arguments = {**arguments, "dtype": "float64"}
    written = name == "batch_norm"
    for dtype in (None, np.int64, np.bool_):
        lists = _lists(arguments, dtype)
        exact = {
            key: np.array(value, np.float64) if isinstance(value, list) else value
            for key, value in lists.items()
        }
        expected = function(**exact)
        integers = {
            key: np.array(value) if isinstance(value, list) else value
            for key, value in lists.items()
        }
        ways = [lists] if name.startswith("image") or dtype is None else [lists, integers]
        for given in ways:
            given = dict(given)
            if written:
                given |= {k: exact[k] for k in ("running_mean", "running_var")}
            result = function(**given)
            for part in _floats(result):
                assert np.asarray(part).dtype == np.float64
            parts = zip(_floats(result), _floats(expected), strict=True)
            assert all(bits(a) == bits(b) for a, b in parts)


#: Elementwise functions: what they make of one number.
SCALAR = [
    *(name for name in NUMPY_CALLS if name.removesuffix("_backward") in ACTIVATIONS),
    "softmax", "log_softmax", "softmax_backward", "dropout", "dropout_backward", "alpha_dropout",
    "dropout_add", "swiglu", "swiglu_backward", "mse_loss", "mse_loss_with_grad", "prelu",
    "prelu_backward", "huber_loss_with_grad", "gaussian_nll_loss_with_grad", "kl_div",
]  # fmt: skip


@pytest.mark.parametrize("name", SCALAR)
def test_numbers_give_numbers(name: str) -> None:
    """NumPy's scalars keep their dtype; 0-d arrays give scalars, as in NumPy's own functions."""
    function, arguments = _function(name), NUMPY_CALLS[name]
    arrays = [key for key, value in arguments.items() if isinstance(value, np.ndarray)]

    def run(make: Callable[[float], Any]) -> Any:
        return function(**arguments | {key: make(0.5) for key in arrays})

    for dtype in DTYPES.values():
        for make in (dtype.type, lambda v, dtype=dtype: np.array(v, dtype)):
            result = run(make)
            for part in result if isinstance(result, tuple) else (result,):
                assert type(part) is dtype.type, (make, part)
    for result in (run(float), run(lambda v: 1), run(lambda v: True), run(lambda v: np.int32(1))):
        for part in result if isinstance(result, tuple) else (result,):
            assert type(part) is np.float64


def test_numbers_take_the_dtype_of_the_array_they_go_with() -> None:
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        x = _x(3, 2).astype(dtype)
        assert dlkernels.prelu(x, 0.25).dtype == dtype
        assert dlkernels.prelu(x, [0.25, 0.5]).dtype == dtype
        assert dlkernels.mse_loss(x, 0.5).dtype == dtype
        assert dlkernels.cross_entropy(x, [0, 1, 0], weight=[1, 2]).dtype == dtype
        assert dlkernels.cross_entropy(x, [[0.5, 0.5]] * 3).dtype == dtype
        assert dlkernels.batch_norm(x, [0, 0], [1, 1], weight=[1, 2]).dtype == dtype
        assert dlkernels.swiglu(x, x.astype(float).tolist()).dtype == dtype
    x = torch.ones(3, 2)
    assert dlkernels.prelu(x, 0.25).dtype is torch.float32
    assert dlkernels.mse_loss(x, [0.5, 0.25]).dtype is torch.float32


def test_sequences_that_hold_no_numbers_are_refused() -> None:
    for value, error in [
        ([[1.0], [1.0, 2.0]], ValueError),
        (["a"], TypeError),
        ([None], TypeError),
        ([object()], TypeError),
        ([1j], TypeError),
        (1j, TypeError),
        ([10**400], TypeError),
        (10**400, ValueError),
        ([torch.ones((), requires_grad=True)], ValueError),
    ]:
        with pytest.raises(error, match=r"^softmax: input: expected .*, got "):
            dlkernels.softmax(value)
    assert dlkernels.relu(2**70) == 2.0**70


# --- tables


def test_tables_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    series = pandas.Series([-1.0, 2.0])
    assert dlkernels.relu(series).tolist() == [0, 2]
    assert dlkernels.relu(pandas.Series([-1, 2], dtype="float32")).dtype == np.float32
    assert dlkernels.relu(pandas.Series([-1, 2])).dtype == np.float64
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    np.testing.assert_allclose(dlkernels.softmax(frame), dlkernels.softmax(frame.to_numpy()))
    assert dlkernels.cross_entropy(frame, pandas.Series([0, 1])) > 0
    mixed = pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
    masked = pandas.Series([1, None], dtype="Int64")
    for table in (mixed, masked, pandas.DataFrame({"a": [1.0], "b": [1]})):
        with pytest.raises(TypeError, match=r"^softmax: input: .*pandas.*pass its \.to_numpy\(\)"):
            dlkernels.softmax(table)
    with pytest.raises(TypeError, match="relu: out: expected an array, got pandas"):
        dlkernels.relu(np.ones(2), out=series)
    assert series.tolist() == [-1, 2]


def test_tables_of_polars_and_xarray() -> None:
    polars = pytest.importorskip("polars")
    assert dlkernels.relu(polars.Series([-1.0, 2.0])).tolist() == [0, 2]
    for table in (polars.Series([1.0, None]), polars.DataFrame({"a": [1.0], "b": ["x"]})):
        with pytest.raises(TypeError, match=r"^relu: input: .*polars.*pass its \.to_numpy\(\)"):
            dlkernels.relu(table)
    xarray = pytest.importorskip("xarray")
    assert dlkernels.relu(xarray.DataArray(np.array([-1.0, 2.0]))).tolist() == [0, 2]
    with pytest.raises(TypeError, match=r"^relu: input: .*xarray.*pass a NumPy array made of it"):
        dlkernels.relu(xarray.Dataset({"a": ("x", [1.0])}))


# --- torch tensors that require grad


@pytest.mark.parametrize("name", NUMPY_CALLS)
def test_graphs_of_torch_are_not_cut_in_silence(name: str) -> None:
    """Whichever argument it is; under no_grad there is no graph to cut."""
    function, arguments = _function(name), NUMPY_CALLS[name]
    tensors = {
        key: torch.tensor(value) if isinstance(value, np.ndarray) else value
        for key, value in arguments.items()
    }
    floating = [
        key for key, value in tensors.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    ]  # fmt: skip
    for key in floating:
        given = tensors | {key: tensors[key].clone().requires_grad_()}
        with pytest.raises(RuntimeError, match=r"\w+: \w+: expected .*requires grad.*dlkernels\."):
            function(**given)
        with torch.no_grad():
            function(**given)
    if "out" in inspect.signature(function).parameters and not name.startswith("image"):
        out = torch.zeros(tensors[floating[0]].shape).requires_grad_()
        with pytest.raises(RuntimeError, match=r"\w+: out: expected .*requires grad"):
            function(**tensors, out=out)
        assert not out.any()


def test_optimizers_of_the_numpy_front_refuse_leaves() -> None:
    p = torch.zeros(3, requires_grad=True)
    sgd = dlkernels.optim.SGD([p], lr=1.0)
    with pytest.raises(RuntimeError, match=r"^SGD: params: .*requires grad.*dlkernels\.torch"):
        sgd.step([torch.ones(3)])
    with pytest.raises(RuntimeError, match=r"^SGD: grads: .*requires grad"):
        dlkernels.optim.SGD([torch.zeros(3)], lr=1.0).step([torch.ones(3, requires_grad=True)])
    assert not p.any()
    with torch.no_grad():
        sgd.step([torch.ones(3)])
    assert p.tolist() == [-1, -1, -1]
    assert p._version == 1


# --- wrong values for every parameter

WRONG = {
    "text": "a",
    "None": None,
    "an object": object(),
    "complex": 1j,
    "a list": [1, "a"],
    "a dict": {"a": 1},
    "a set": {1},
    "a type": float,
    "huge": 10**400,
    "64 bits": 2**63,
    "nan": float("nan"),
    "an array": np.ones((2, 3, 2), np.int16),
    "an array of objects": np.array([None, "a"]),
}

#: What Python, NumPy and pybind11 say by themselves.
LEAKS = re.compile(
    r"incompatible function arguments|must be real number|cannot be interpreted|not supported bet"
    r"|has no attribute|unsupported operand|[Ii]nvoked with|arg\d|can't convert|could not convert"
    r"|' object is not|is not iterable|unhashable|truth value|too large to|Unable to cast|NoneType"
    r"|__\w+__|only (length-1|0-dimensional|integer)|setting an array|a real number is required"
    r"|must be str|bad operand|Cannot interpret|inhomogeneous|object at 0x|takes from|unexpected kw"
)
ERRORS = (TypeError, ValueError, IndexError, RuntimeError, NotImplementedError)

#: What torch says of values, whose words the NumPy front has as well.
TORCHS_WORDS = re.compile(
    r"is not a valid value for reduction|label_smoothing must be between|ignore_index is not supp"
    r"|Expected (target size|input batch_size|floating point type)|is out of bounds|out of range"
    r"|batch_norm eps must be|weight tensor should be defined|^target: expected an integer"
    r"|should be between 0 and 1|^var (has|is of)|must be defined in eval|^Expected more than 1 val"
    r"|Invalid alpha value"
)


def _wrong_message(message: str, operation: str) -> str | None:
    """What is wrong with it; None if nothing is."""
    if leak := LEAKS.search(message):
        return f"says {leak[0]!r}: {message}"
    ours = re.match(rf"{operation}(_backward|_with_grad)?: [\w' ]+: .*expected .*got ", message)
    if (ours or TORCHS_WORDS.search(message)) and "\n" not in message:
        return None
    return f"does not name operation, argument, expected, got: {message}"


@pytest.mark.parametrize("name", NUMPY_CALLS)
def test_wrong_arguments_of_the_numpy_front(name: str) -> None:
    """Refused in words that name operation and argument, with nothing written; or taken, where a
    value makes sense."""
    function = _function(name)
    operation = name.rpartition(".")[2].removesuffix("_with_grad").removesuffix("_backward")
    parameters = inspect.signature(function).parameters
    refused = 0
    for key in parameters:
        for what, value in WRONG.items():
            arguments = {
                k: v.copy() if isinstance(v, np.ndarray) else v
                for k, v in NUMPY_CALLS[name].items()
            }
            if name == "batch_norm":
                arguments["training"] = True
            given = arguments | ({"alpha": value} if key == "parameters" else {key: value})
            kept = {k: bits(v) for k, v in arguments.items() if isinstance(v, np.ndarray)}
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    function(**given)
                except ERRORS as error:
                    refused += 1
                    wrong = _wrong_message(str(error), operation)
                    if key == "parameters":
                        wrong = None if "relu has no argument alpha" in str(error) else str(error)
                    written = [k for k, v in kept.items() if bits(arguments[k]) != v]
                    if wrong or written:
                        pytest.fail(f"{key}={what}: wrote to {written}, {wrong}")
                except OverflowError as error:
                    pytest.fail(f"{key}={what}: {error}")
    assert refused > len(parameters)


def test_wrong_arguments_of_the_runtime() -> None:
    for function, argument in (
        (dlkernels.set_num_threads, "count"),
        (lambda count: dlkernels.num_threads(count).__enter__(), "count"),
        (dlkernels.set_isa, "level"),
        (dlkernels.tune_malloc, "enable"),
    ):
        for value in ("a", None, object(), 1j, [1], 10**400, -1, float("nan"), {}):
            if argument == "enable" and isinstance(value, int):
                continue
            with pytest.raises((TypeError, ValueError), match="expected") as caught:
                function(value)
            assert not LEAKS.search(str(caught.value)), str(caught.value)


def _error(function: Callable[..., Any], given: dict[str, Any]) -> Exception | None:
    try:
        function(**given)
    except Exception as error:
        return error
    return None


def _torchs_error(call: TwinCall, key: str, given: dict[str, Any]) -> Exception | None:
    """What torch's function says, without the arguments that it lacks."""
    name = call.function.__name__
    theirs = call.theirs or getattr(torch.nn.functional, name, None)
    if theirs is None:
        return None
    try:
        known = set(inspect.signature(theirs).parameters)
    except ValueError:  # a builtin
        known = set(given) - {"seed"}
    if key not in known:
        return None
    return _error(theirs, {k: v for k, v in given.items() if k in known})


def _torch_outcome(call: TwinCall, key: str, value: Any) -> None:
    tensors = call.arguments()
    given = {**tensors, **call.options, key: value}
    kept = {k: v.clone() for k, v in tensors.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error = _error(call.function, given)
        if error is None:
            return
        own = _torchs_error(call, key, given)
    for k, v in kept.items():
        assert torch.equal(tensors[k], v), f"{key}={value!r} wrote to {k}"
    # A position is named where there was one.
    texts = [re.sub(r" \(position \d+\)", "", str(e)) for e in (error, own)]
    torchs = re.match(r"\w+\(\): argument '\w+'.* must be .*, not \w+$", str(error))
    if not torchs and (type(error) is not type(own) or texts[0] != texts[1]):
        assert isinstance(error, ERRORS), f"{key}={str(value)[:30]}: {error!r}"
        assert not LEAKS.search(str(error)), f"{key}={str(value)[:30]}: {error}"


@pytest.mark.sampled(2)
@pytest.mark.parametrize("call", TWIN_CALLS, ids=[call.name for call in TWIN_CALLS])
def test_wrong_arguments_of_the_torch_front(call: TwinCall) -> None:
    """Torch's words where torch has the function and the argument; else our own."""
    for key in inspect.signature(call.function).parameters:
        for value in WRONG.values():
            _torch_outcome(call, key, value)


@pytest.mark.parametrize("operation", ["normalize", "denormalize"])
def test_wrong_arguments_of_torchs_images(operation: str) -> None:
    function = getattr(dlt.image, operation)
    arguments = {"input": torch.rand(3, 4, 5), "mean": 0.5, "std": 0.5, "layout": "CHW"}
    transform = getattr(dlt.image, operation.capitalize())
    for run, names in (
        (
            lambda **given: function(**{**arguments, **given}),
            inspect.signature(function).parameters,
        ),
        (
            lambda **given: transform(**{"mean": 0.5, "std": 0.5, **given}),
            inspect.signature(transform).parameters,
        ),
        (lambda image: transform(0.5, 0.5)(image), ("image",)),
    ):
        for key in names:
            for value in WRONG.values():
                try:
                    run(**{key: value})
                except ERRORS as error:
                    if wrong := _wrong_message(str(error), operation):
                        pytest.fail(f"{key}={value!r}: {wrong}")
