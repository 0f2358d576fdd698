"""`dlkernels.optim` over NumPy arrays: the formulas, groups, state, and what is refused."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from typing import Any

import numpy as np
import pytest

import dlkernels
from dlkernels.optim import SGD
from support import DTYPES, FMA_ISAS, assert_same_bits, bits, eps, isa_level

DTYPE = pytest.mark.parametrize("dtype", DTYPES)

SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.05},
    {"lr": 0.1, "maximize": True},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.1, "momentum": 0.8, "nesterov": True},
    {"lr": 0.1, "momentum": 0.9, "dampening": -0.2, "weight_decay": 0.1, "maximize": True},
    {"lr": 0.0, "momentum": 0.5},
]


class Reference:
    """torch.optim.SGD's formula in the dtype of its arrays; `fused` rounds a + b * c once."""

    def __init__(self, params: list[np.ndarray], dtype: type, fused: bool, **settings: Any) -> None:
        self.params = [param.astype(dtype) for param in params]
        self.buffers: list[np.ndarray | None] = [None] * len(params)
        self.settings, self.dtype, self.fused = settings, dtype, fused

    def multiply_add(self, a: np.ndarray, b: float, c: np.ndarray) -> np.ndarray:
        if self.fused:  # float32 products are exact in long double, and sums nearly always
            wide = a.astype(np.longdouble) * np.longdouble(self.dtype(b)) + c
            return wide.astype(self.dtype)
        return a * self.dtype(b) + c

    def step(self, grads: list[np.ndarray | None]) -> None:
        s = self.settings
        momentum, decay = s.get("momentum", 0.0), s.get("weight_decay", 0.0)
        for index, grad in enumerate(grads):
            if grad is None:
                continue
            param, g = self.params[index], grad.astype(self.dtype)
            g = -g if s.get("maximize") else g
            g = self.multiply_add(param, decay, g) if decay else g
            if momentum:
                buffer = self.buffers[index]
                if buffer is None:
                    buffer = g
                else:
                    keep = 1 - s.get("dampening", 0.0)
                    buffer = self.multiply_add(g, keep, buffer * self.dtype(momentum))
                self.buffers[index] = buffer
                g = self.multiply_add(buffer, momentum, g) if s.get("nesterov") else buffer
            self.params[index] = self.multiply_add(g, -s["lr"], param)


def _buffers(optimizer: SGD) -> list[Any]:
    return [state.get("momentum_buffer") for state in optimizer.state]


def _problem(dtype: str = "float32", steps: int = 4) -> tuple[list[Any], list[list[Any]]]:
    rng = np.random.default_rng(0)
    shapes = [(7,), (3, 5), (), (2, 3, 4), (40_000,), (0,)]
    params = [np.asarray(rng.standard_normal(shape)).astype(DTYPES[dtype]) for shape in shapes]
    grads = [
        [np.asarray(rng.standard_normal(shape)).astype(DTYPES[dtype]) for shape in shapes]
        for _ in range(steps)
    ]
    return params, grads


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
@DTYPE
def test_against_float64(settings: dict[str, Any], dtype: str, isa: str) -> None:
    params, grads = _problem(dtype)
    reference = Reference(params, np.longdouble, fused=False, **settings)
    optimizer = SGD(params, **settings)
    for step in grads:
        assert optimizer.step(step) is None
        reference.step(step)
    for param, exact in zip(params, reference.params, strict=True):
        # Four steps, each rounding the parameter and its momentum once or twice, all below 8.
        error = np.abs(param.astype(np.longdouble) - exact)
        assert error.max(initial=0) <= 4 * 4 * eps(dtype)
    if settings.get("momentum"):
        for buffer, exact in zip(_buffers(optimizer), reference.buffers, strict=True):
            assert np.abs(buffer.astype(np.longdouble) - exact).max(initial=0) <= 4 * 4 * eps(dtype)
    else:
        assert _buffers(optimizer) == [None] * len(params)


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
@pytest.mark.parametrize("level", FMA_ISAS or ["avx2"])
def test_float32_bits_are_those_of_the_fused_formula(settings: dict[str, Any], level: str) -> None:
    if level not in FMA_ISAS:
        pytest.skip("needs a fused multiply-add")
    params, grads = _problem()
    reference = Reference(params, np.float32, fused=True, **settings)
    with isa_level(level):
        optimizer = SGD(params, **settings)
        for step in grads:
            optimizer.step(step)
            reference.step(step)
    assert_same_bits(tuple(params), tuple(reference.params))


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_baseline_bits_are_those_of_the_plain_formula(settings: dict[str, Any]) -> None:
    params, grads = _problem()
    reference = Reference(params, np.float32, fused=False, **settings)
    with isa_level("baseline"):
        optimizer = SGD(params, **settings)
        for step in grads:
            optimizer.step(step)
            reference.step(step)
    assert_same_bits(tuple(params), tuple(reference.params))


def test_groups(isa: str) -> None:
    params, grads = _problem()
    expected = [param.copy() for param in params]
    optimizer = SGD(
        [{"params": params[:2]}, {"params": iter(params[2:]), "lr": 0.5, "momentum": 0.0}],
        lr=0.1,
        momentum=0.9,
    )
    alone = [SGD(expected[:2], lr=0.1, momentum=0.9), SGD(expected[2:], lr=0.5)]
    for step in grads:
        optimizer.step(step)
        alone[0].step(step[:2])
        alone[1].step(step[2:])
    assert_same_bits(tuple(params), tuple(expected))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert [buffer is None for buffer in _buffers(optimizer)] == [False] * 2 + [True] * 4


def test_groups_of_several_dtypes(isa: str) -> None:
    arrays = {name: np.full(100, 2, dtype) for name, dtype in DTYPES.items()}
    optimizer = SGD(list(arrays.values()), lr=0.25, momentum=0.5)
    for _ in range(2):
        optimizer.step([np.ones(100, dtype) for dtype in DTYPES.values()])
    for name, array in arrays.items():
        assert array.dtype == DTYPES[name]
        assert (array.astype(float) == 2 - 0.25 - 0.25 * 1.5).all(), name


def test_the_learning_rate_may_change_between_steps() -> None:
    """It stays outside the momentum: the whole past moves at the new rate."""
    w = np.array([0.0])
    optimizer = SGD([w], lr=1.0, momentum=0.5)
    optimizer.step([np.array([1.0])])
    assert w[0] == -1
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step([np.array([0.0])])
    np.testing.assert_allclose(w[0], -1 - 0.1 * 0.5)


def test_many_steps_go_downhill(isa: str) -> None:
    rng = np.random.default_rng(1)
    target = rng.standard_normal(50).astype(np.float32)
    w = np.zeros(50, np.float32)
    optimizer = SGD([w], lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(300):
        optimizer.step([w - target])
    np.testing.assert_allclose(w, target, atol=1e-5)


@DTYPE
def test_any_strides(dtype: str, isa: str) -> None:
    """Slices, transposes, backwards, each array in its own way; nothing outside is written."""
    rng = np.random.default_rng(2)

    def laid_out(array: np.ndarray, kind: int) -> tuple[np.ndarray, np.ndarray]:
        """The array in a larger room, and the room."""
        room = np.full((40, 60), 77, array.dtype)
        windows = [
            room[3:15, 5:25],
            room[::3, ::3][:12, :20],
            room.T[4:16, 3:23],
            room[::-1, ::-1][7:19, 1:21],
            room[:24:2, 40:20:-1],
        ]
        window = windows[kind % len(windows)]
        window[...] = array
        return window, room

    for kind in range(5):
        start = rng.standard_normal((12, 20)).astype(DTYPES[dtype])
        grads = [rng.standard_normal((12, 20)).astype(DTYPES[dtype]) for _ in range(3)]
        expected = start.copy()
        param, room = laid_out(start, kind)
        settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
        one, other = SGD([expected], **settings), SGD([param], **settings)
        for step, grad in enumerate(grads):
            one.step([grad])
            other.step([laid_out(grad, kind + step)[0]])
        assert_same_bits(param, expected, f"layout {kind}")
        assert (room == 77).sum() == room.size - param.size
        buffer, _ = laid_out(np.asarray(_buffers(other)[0]), kind + 2)
        other.state[0]["momentum_buffer"] = buffer
        one.step([grads[0]])
        other.step([grads[0]])
        assert_same_bits(param, expected, f"layout {kind}, buffer with strides")


def test_four_dimensions_with_strides(isa: str) -> None:
    rng = np.random.default_rng(3)
    room = rng.standard_normal((4, 7, 6, 9)).astype(np.float32)
    before = room.copy()
    param = room[1:, ::2, :, ::3].transpose(3, 1, 0, 2)
    grad = rng.standard_normal(param.shape).astype(np.float32)
    expected = param.copy()
    SGD([expected], lr=0.1).step([grad])
    SGD([param], lr=0.1).step([grad])
    assert_same_bits(param, expected)
    assert (room != before).sum() <= param.size


def test_late_gradients(isa: str) -> None:
    """None leaves a parameter and its buffer as they are; the first gradient starts the buffer."""
    params, grads = _problem()
    reference = Reference(params, np.longdouble, fused=False, lr=0.1, momentum=0.9)
    optimizer = SGD(params, lr=0.1, momentum=0.9)
    for turn, step in enumerate(grads):
        some = [grad if (turn + index) % 3 else None for index, grad in enumerate(step)]
        optimizer.step(some)
        reference.step(some)
        assert [buffer is None for buffer in _buffers(optimizer)] == [
            buffer is None for buffer in reference.buffers
        ]
    for param, exact in zip(params, reference.params, strict=True):
        assert np.abs(param - exact).max(initial=0) < 1e-5
    before = [bits(param) for param in params]
    optimizer.step([None] * len(params))
    assert [bits(param) for param in params] == before


def test_state_dict_round_trip(isa: str) -> None:
    params, grads = _problem()
    optimizer = SGD([{"params": params[:1], "lr": 0.3}, {"params": params[1:]}], momentum=0.9)
    for step in grads[:2]:
        optimizer.step(step)
    state = optimizer.state_dict()
    assert set(state) == {"param_groups", "state"}
    assert state["param_groups"][0]["lr"] == 0.3
    assert "params" not in state["param_groups"][0]
    kept = copy.deepcopy(state)
    copies = [param.copy() for param in params]
    for step in grads[2:]:
        optimizer.step(step)
    # What state_dict gave does not move with the optimizer, nor does it move with what it loads.
    other = SGD([{"params": copies[:1]}, {"params": copies[1:]}], lr=99.0)
    other.load_state_dict(state)
    for step in grads[2:]:
        other.step(step)
    assert_same_bits(tuple(copies), tuple(params))
    for saved, before in zip(state["state"], kept["state"], strict=True):
        assert_same_bits(saved["momentum_buffer"], before["momentum_buffer"])
    assert state["param_groups"] == kept["param_groups"]
    assert SGD([np.zeros(1)]).state_dict()["state"] == [{}]


def test_state_dicts_that_do_not_fit() -> None:
    optimizer = SGD([np.zeros(2), np.zeros(2)], momentum=0.9)
    for other in (
        SGD([np.zeros(2)], momentum=0.9),
        SGD([{"params": [np.zeros(2)]}, {"params": [np.zeros(2)]}], momentum=0.9),
    ):
        with pytest.raises(ValueError, match=r"SGD: state_dict: expected 1 groups and 2 states"):
            optimizer.load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.1}, "Invalid learning rate: -0.1"),
        ({"momentum": -1.0}, "Invalid momentum value: -1.0"),
        ({"weight_decay": -2.0}, "Invalid weight_decay value: -2.0"),
        ({"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "Nesterov momentum requires"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SGD([np.zeros(2)], **settings)
    optimizer = SGD([np.zeros(2)])
    optimizer.param_groups[0].update(settings)
    with pytest.raises(ValueError, match=message):
        optimizer.step([np.zeros(2)])


def test_groups_that_are_refused() -> None:
    with pytest.raises(ValueError, match="SGD: params: expected at least one array"):
        SGD([])
    with pytest.raises(ValueError, match=r"SGD: params: unknown keys \['learning_rate'\]"):
        SGD([{"params": [np.zeros(1)], "learning_rate": 0.1}])
    with pytest.raises(ValueError, match="Invalid learning rate"):
        SGD([{"params": [np.zeros(1)]}, {"params": [np.zeros(1)], "lr": -1}])


def _locked(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    ("param", "grad", "error", "message"),
    [
        (np.zeros(4), np.zeros(5), ValueError, r"SGD: grads\[2\]: .*\(4,\).*\(5,\)"),
        (np.zeros(4), np.zeros((4, 1)), ValueError, r"SGD: grads\[2\]: .*\(4,\).*\(4, 1\)"),
        (np.zeros(4), np.zeros(4, np.int32), TypeError, "SGD: grads: .*floating dtype.*int32"),
        (np.zeros(4), [0.0] * 4, TypeError, "SGD: grads: expected an array, got list"),
        (np.zeros(4), np.zeros(4, ">f8"), TypeError, "SGD: grads: .*byte order"),
    ],
)
def test_nothing_is_updated_if_one_array_is_wrong(
    param: Any, grad: Any, error: type[Exception], message: str, momentum: float
) -> None:
    good = [np.ones(3), np.ones(40_000, np.float32), np.ones(3)]
    grads = [np.ones_like(array) for array in good]
    optimizer = SGD([*good[:2], param, good[2]], lr=0.1, momentum=momentum)
    with pytest.raises(error, match=message):
        optimizer.step([*grads[:2], grad, grads[2]])
    assert all((array == 1).all() for array in good)
    assert _buffers(optimizer) == [None] * 4
    optimizer.step([*grads[:2], None, grads[2]])
    assert all((array == np.ones_like(array) - array.dtype.type(0.1)).all() for array in good)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_nothing_is_updated_if_an_array_has_been_locked(momentum: float) -> None:
    params = [np.ones(3), np.ones(4), np.ones(3)]
    optimizer = SGD(params, lr=0.1, momentum=momentum)
    _locked(params[1])
    with pytest.raises(ValueError, match=r"SGD: params: .*read-only"):
        optimizer.step([np.ones_like(array) for array in params])
    assert all((array == 1).all() for array in params)
    assert _buffers(optimizer) == [None] * 3


def test_momentum_buffers_that_do_not_fit() -> None:
    w = np.ones(4)
    optimizer = SGD([w], lr=0.1, momentum=0.9)
    for wrong, error in [
        (np.ones(5), ValueError),
        (np.ones(4, np.int32), TypeError),
        (_locked(np.ones(4)), ValueError),
    ]:
        optimizer.state = [{"momentum_buffer": wrong}]
        with pytest.raises(error, match="SGD: "):
            optimizer.step([np.ones(4)])
        assert (w == 1).all()
        assert (wrong == 1).all()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_number_of_gradients(count: int) -> None:
    w = [np.ones(2), np.ones(2)]
    with pytest.raises(ValueError, match=f"SGD: grads: expected 2 arrays, got {count}"):
        SGD(w, lr=0.1).step([np.ones(2)] * count)
    assert all((array == 1).all() for array in w)


def test_special_values(isa: str) -> None:
    grad = np.array([np.nan, np.inf, -np.inf, 0.0, 1e-45], np.float32)
    w = np.ones(5, np.float32)
    SGD([w], lr=1.0).step([grad])
    assert np.array_equal(w, [np.nan, -np.inf, np.inf, 1, 1], equal_nan=True)
    w = np.array([1e-45, -1e-45], np.float32)
    SGD([w], lr=0.5).step([np.zeros(2, np.float32)])
    assert np.array_equal(w, np.array([1e-45, -1e-45], np.float32))


def test_thousands_of_arrays(isa: str) -> None:
    params = [np.full(1 + index % 64, 1, np.float32) for index in range(3000)]
    grads = [np.full(param.shape, index, np.float32) for index, param in enumerate(params)]
    with dlkernels.num_threads(2):
        SGD(params, lr=1.0).step(grads)
    for index, param in enumerate(params):
        assert (param == 1 - index).all()


@pytest.mark.parametrize("name", dlkernels.optim.__all__)
def test_state_dicts_have_the_options_of_the_step(name: str) -> None:
    """Resumed without the arguments, it goes on averaging and clipping, bit by bit."""

    def made(**options: Any) -> tuple[np.ndarray, Any]:
        param = np.linspace(-1, 1, 300, dtype=np.float32)
        return param, getattr(dlkernels.optim, name)([param], lr=0.1, **options)

    def run(optimizer: Any, steps: range) -> None:
        for step in steps:
            optimizer.step([np.random.default_rng(step).standard_normal(300, dtype=np.float32)])

    param, optimizer = made(ema_decay=0.9, max_grad_norm=0.5)
    run(optimizer, range(2))
    other, loaded = made()
    other[:] = param
    loaded.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    assert (loaded.ema_decay, loaded.max_grad_norm) == (0.9, 0.5)
    for given in (optimizer, loaded):
        run(given, range(2, 4))
    assert param.tobytes() == other.tobytes()
    (first,), (second,) = optimizer.ema_parameters(), loaded.ema_parameters()
    assert first.tobytes() == second.tobytes()
    assert optimizer.grad_norm == loaded.grad_norm


# --- what a call costs


@pytest.mark.parametrize("name", dlkernels.optim.__all__)
def test_a_step_takes_few_python_frames(name: str) -> None:
    optimizer = getattr(dlkernels.optim, name)([np.ones(64, np.float32)], lr=1e-3)
    grads = [np.ones(64, np.float32)]
    optimizer.step(grads)
    frames: list[str] = []

    def count(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            frames.append(frame.f_code.co_name)

    sys.setprofile(count)
    try:
        optimizer.step(grads)
    finally:
        sys.setprofile(None)
    assert len(frames) < 12, frames


def test_a_group_is_checked_again_where_it_has_changed() -> None:
    w, betas = np.ones(3), [0.9, 0.99]
    optimizer = dlkernels.optim.Adam([w], betas=betas)  # a list may be changed in place
    optimizer.step([w])
    betas[0] = 2.0
    with pytest.raises(ValueError, match="Invalid beta parameter at index 0"):
        optimizer.step([w])
    optimizer.param_groups[0]["betas"] = (0.9, 0.99)
    optimizer.step([w])
    for name, value in (("lr", -1.0), ("lr", "a"), ("amsgrad", 1), ("betas", (0.9, 2.0))):
        before = optimizer.param_groups[0][name]
        optimizer.param_groups[0][name] = value
        with pytest.raises((ValueError, TypeError), match=r"Invalid|expected"):
            optimizer.step([w])
        optimizer.param_groups[0][name] = before
        optimizer.step([w])
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.step([w])
    assert "max_exp_avg_sq" in optimizer.state[0]


# --- what is made from the rules


@pytest.mark.parametrize("name", dlkernels.optim.__all__)
def test_classes_are_as_if_they_were_written(name: str) -> None:
    kind = getattr(dlkernels.optim, name)
    signature = inspect.signature(kind, eval_str=True)
    assert next(iter(signature.parameters)) == "params"
    assert kind.__module__ == kind.__init__.__module__ == "dlkernels.optim"
    assert inspect.getsource(kind).startswith(f"class {name}(")
    assert inspect.getsource(kind.__init__).startswith("    def __init__(\n        self,\n")
    text = inspect.getdoc(kind)
    for argument, parameter in signature.parameters.items():
        assert f"\n    {argument}: " in text
        if parameter.default is not parameter.empty:
            assert f" Default: {parameter.default!r}." in " ".join(text.split())
    assert "\nRaises:\n" in text
    assert "\nExample:\n" in text
    with pytest.raises(TypeError, match=rf"{name}\.__init__\(\) got an unexpected keyword"):
        kind([np.ones(1)], unknown=1)
    optimizer = pickle.loads(pickle.dumps(kind([np.ones(2)])))
    assert type(optimizer) is kind
