"""What a step of `dlkernels.optim` does besides its rule, over NumPy arrays: each alone and all
together the same bits as one after the other."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

import dlkernels
from dlkernels import optim
from support import DTYPES, assert_same_bits

EVERY = pytest.mark.parametrize("name", optim.__all__)
DTYPE = pytest.mark.parametrize("dtype", DTYPES)
#: Options that make every state there is.
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}
EXTRAS: dict[str, dict[str, Any]] = {
    "clip": {"max_grad_norm": 0.5},
    "clip, written back": {"max_grad_norm": 0.5, "write_back": True},
    "average": {"ema_decay": 0.9},
    "zero": {"zero_grads": True},
    "all": {"max_grad_norm": 0.5, "ema_decay": 0.9, "zero_grads": True},
}
SHAPES = [(33,), (0,), (3, 5), (257,), (33_000,)]


def make(name: str, params: list[Any], **more: Any) -> Any:
    return getattr(optim, name)(params, **{**OPTIONS.get(name, {}), **more})


def parameters(dtype: str = "float32") -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(DTYPES[dtype]) for shape in SHAPES]


def gradients(step: int, dtype: str = "float32", scale: float = 1.0) -> list[Any]:
    """The third parameter has its first gradient late, the first has none at the third step."""
    rng = np.random.default_rng(100 + step)
    grads: list[Any] = [
        (scale * rng.standard_normal(shape)).astype(DTYPES[dtype]) for shape in SHAPES
    ]
    for index, without in ((2, 0), (0, 2)):
        if step == without:
            grads[index] = None
    return grads


def wide(dtype: str) -> type:
    return np.float64 if dtype == "float64" else np.float32


def scaled(grads: list[Any], factor: float, dtype: str) -> list[Any]:
    """A product in float32, or float64, that is rounded once."""
    compute = wide(dtype)
    return [
        grad if grad is None else (grad.astype(compute) * compute(factor)).astype(grad.dtype)
        for grad in grads
    ]


def average(start: Any, end: Any, decay: float, dtype: str) -> Any:
    """`torch.lerp`'s formula with the sum rounded once, from long double."""
    compute = wide(dtype)
    start, end = start.astype(compute), end.astype(compute)
    difference = (end - start).astype(np.longdouble)
    return (start + np.longdouble(compute(1 - decay)) * difference).astype(compute)


def state_arrays(optimizer: Any) -> list[Any]:
    return [
        np.asarray(value)
        for state in optimizer.state
        for name, value in sorted(state.items())
        if name != "ema"
    ]


@DTYPE
@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_each_alone_and_all_together(name: str, extras: dict[str, Any], dtype: str) -> None:
    mine, theirs = parameters(dtype), parameters(dtype)
    optimizer, plain = make(name, mine, **extras), make(name, theirs)
    averages: list[Any] = []
    for step in range(4):
        given, apart = gradients(step, dtype), gradients(step, dtype)
        optimizer.step(given)
        if "max_grad_norm" in extras:
            squares = [
                np.square(grad.astype(np.float64)).sum() for grad in apart if grad is not None
            ]
            norm = optimizer.grad_norm
            assert abs(norm - np.sqrt(sum(squares))) <= 1.2e-7 * norm
            compute = wide(dtype)
            one = compute(1)
            coefficient = one / (compute(norm) + compute(1e-6)) * compute(0.5)
            apart = scaled(apart, min(one, coefficient), dtype)
        plain.step(apart)
        averages = [
            param.copy() if not step else average(old, param, 0.9, dtype).astype(param.dtype)
            for old, param in zip(averages or theirs, theirs, strict=True)
        ]
        assert_same_bits(tuple(mine), tuple(theirs), f"step {step}")
        assert_same_bits(tuple(state_arrays(optimizer)), tuple(state_arrays(plain)))
        if "ema_decay" in extras and dtype == "float64":  # long double is rounded, too
            for own, expected in zip(optimizer.ema_parameters(), averages, strict=True):
                np.testing.assert_array_max_ulp(own, expected, maxulp=1)
            averages = [own.copy() for own in optimizer.ema_parameters()]
        elif "ema_decay" in extras:
            assert_same_bits(tuple(optimizer.ema_parameters()), tuple(averages), "averages")
        expected = gradients(step, dtype)
        if extras.get("write_back"):
            expected = apart
        if extras.get("zero_grads"):
            expected = [None if grad is None else np.zeros_like(grad) for grad in apart]
        for actual, grad in zip(given, expected, strict=True):
            assert (actual is None) == (grad is None)
            if grad is not None:
                assert_same_bits(actual, grad)


@EVERY
def test_every_class_takes_them(name: str) -> None:
    params = parameters()
    before = [param.copy() for param in params]
    optimizer = make(name, params, **EXTRAS["all"])
    for step in range(3):
        optimizer.step(gradients(step))
    assert all(not np.array_equal(a, b) for a, b in zip(params, before, strict=True) if a.size)
    assert optimizer.grad_norm > 100
    for argument in ("max_grad_norm", "write_back", "ema_decay", "zero_grads"):
        parameter = inspect.signature(getattr(optim, name)).parameters[argument]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match="beta"):
        getattr(optim, name)(params, beta=3)


@EVERY
def test_a_loss_scale(name: str) -> None:
    """The gradients are divided, an infinity skips the step and leaves no state."""
    mine, theirs = parameters(), parameters()
    optimizer = make(name, mine, **EXTRAS["all"])
    plain = make(name, theirs, **EXTRAS["all"])
    for step in range(5):
        bad = step in (0, 3)
        grads = gradients(step + 5, scale=1000.0)
        inverse = float(np.float32(1 / 1000.0))
        apart = scaled(grads, inverse, "float32")
        if bad:
            grads[4][30_000] = np.inf
        optimizer.step(grads, grad_scale=1000.0)
        assert optimizer.found_inf is bad
        assert all((grad == 0).all() for grad in grads)
        if not bad:
            plain.step(apart)
        assert_same_bits(tuple(mine), tuple(theirs), f"step {step}")
        assert_same_bits(tuple(state_arrays(optimizer)), tuple(state_arrays(plain)))
        assert_same_bits(tuple(optimizer.ema_parameters()), tuple(plain.ema_parameters()))


@DTYPE
def test_any_number_of_threads(dtype: str) -> None:
    results = []
    for threads in (1, 2, 3):
        params = parameters(dtype)
        optimizer = make("Adam", params, **EXTRAS["all"])
        with dlkernels.num_threads(threads):
            for step in range(3):
                optimizer.step(gradients(step, dtype))
        results.append((*params, *optimizer.ema_parameters(), np.float64(optimizer.grad_norm)))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_slices_are_written_and_nothing_beside_them() -> None:
    base, grads = np.ones((20, 30), np.float32), np.ones((20, 60), np.float32)
    optimizer = optim.SGD([base[::2, 1::3]], lr=0.5, **EXTRAS["all"])
    optimizer.step([grads[10:, 5:25:2]])
    assert (base[1::2] == 1).all()
    assert (base[:, ::3] == 1).all()
    assert (base[:, 2::3] == 1).all()
    assert (base[::2, 1::3] != 1).all()
    assert grads.sum() == grads.size - 100
    assert (grads[10:, 5:25:2] == 0).all()


def test_averages_are_swapped_in_and_back() -> None:
    params = parameters()
    optimizer = make("SGD", params, lr=0.5, ema_decay=0.5)
    for step in range(3):
        optimizer.step(gradients(step))
    own = tuple(param.copy() for param in params)
    averages = tuple(value.copy() for value in optimizer.ema_parameters())
    with optimizer.ema_weights():
        assert_same_bits(tuple(params), averages)
        with pytest.raises(RuntimeError, match="ema_weights"):
            optimizer.step(gradients(4))
        with pytest.raises(RuntimeError, match="twice"), optimizer.ema_weights():
            pass
    assert_same_bits(tuple(params), own)
    with pytest.raises(KeyError), optimizer.ema_weights():
        raise KeyError
    assert_same_bits(tuple(params), own)
    assert_same_bits(tuple(optimizer.ema_parameters()), averages)
    with pytest.raises(RuntimeError, match="ema_decay"):
        make("SGD", params).ema_parameters()
    optimizer.param_groups[0]["ema_decay"] = "slow"
    with pytest.raises(TypeError, match="ema_decay: expected a number or None, got 'slow'"):
        optimizer.ema_parameters()


def test_an_optimizer_pickled_by_an_earlier_version():
    optimizer = optim.AdamW([np.ones(5)])
    for name in ("_now", "_checked"):
        del vars(optimizer)[name]
    loaded = pickle.loads(pickle.dumps(optimizer))
    loaded.step([np.ones(5)])
    assert loaded.state[0]["step"] == 1


def test_an_average_is_as_wide_as_the_states() -> None:
    params = parameters("bfloat16")
    optimizer = make("Adam", params, ema_decay=0.999)
    optimizer.step(gradients(5, "bfloat16"))
    for state in optimizer.state:
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            state[key] = state[key].astype(np.float32)
        del state["ema"]
    optimizer.step(gradients(6, "bfloat16"))
    assert optimizer.ema_parameters()[0].dtype == np.float32


def test_copies_and_state_dicts_keep_what_they_need() -> None:
    params = parameters()
    optimizer = make("Adam", params, **EXTRAS["all"])
    optimizer.step(gradients(5))
    twin, other = copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))
    third_params = [param.copy() for param in params]
    third = make("Adam", third_params, **EXTRAS["all"])
    third.load_state_dict(optimizer.state_dict())
    for each in (optimizer, twin, other, third):
        each.step(gradients(6))
    expected = (*params, *optimizer.ema_parameters())
    for each in (twin, other, third):
        assert_same_bits((*each.param_groups[0]["params"], *each.ema_parameters()), expected)


@pytest.mark.parametrize(
    "bad",
    [{"max_grad_norm": -1.0}, {"max_grad_norm": np.nan}, {"ema_decay": 1.5}, {"ema_decay": np.nan}],
    ids=repr,
)
@EVERY
def test_bad_values(name: str, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        make(name, parameters(), **bad)
    optimizer = make(name, parameters())
    argument, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=argument):
        setattr(optimizer, argument, value)


def test_gradients_that_cannot_be_written() -> None:
    params = [np.ones(33, np.float32), np.ones(33, np.float32)]
    optimizer = optim.SGD(params, zero_grads=True)
    locked = np.ones(33, np.float32)
    locked.flags.writeable = False
    shared = np.ones(33, np.float32)
    for grads in ([shared, locked], [shared, shared]):
        with pytest.raises(ValueError, match="grads"):
            optimizer.step(grads)
    assert (np.stack(params) == 1).all()
    assert (shared == 1).all()
    with pytest.raises(ValueError, match="grad_scale"):
        optimizer.step([shared, shared.copy()], grad_scale=0.0)
    optim.SGD(params, max_grad_norm=1.0).step([shared, locked])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_that_run_backwards(dtype: str) -> None:
    """A stride of -1, in the norm, in the step and in what is written back."""
    rng = np.random.default_rng(1)
    grad = rng.standard_normal(1000).astype(DTYPES[dtype])
    for extras in ({"max_grad_norm": 0.5}, {"max_grad_norm": 0.5, "write_back": True}):
        results = []
        for turned in (True, False):
            params = parameters(dtype)[3:4]
            own = grad[:257].copy()
            optimizer = make("Adam", params, **extras)
            optimizer.step([own[::-1] if turned else own[::-1].copy()])
            norm = np.array(optimizer.grad_norm)
            results.append((*params, *state_arrays(optimizer), norm))
            if turned and "write_back" in extras:
                written = own[::-1]
                assert abs(np.linalg.norm(written.astype(float)) - 0.5) < 0.01
        assert_same_bits(*results)
        expected = np.linalg.norm(grad[:257].astype(np.float64))
        assert abs(results[0][-1] - expected) <= 1e-6 * expected
