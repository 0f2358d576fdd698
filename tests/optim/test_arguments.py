"""What optimizers over NumPy arrays refuse, and when: arguments of the wrong kind, arrays that a
step could not update, memory that two of them share, numbers that float32 cannot hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dlkernels import _core, optim
from dlkernels.optim.state_formats import DEFAULTS

EVERY = pytest.mark.parametrize("name", optim.__all__)
FLAGS = {"nesterov", "maximize", "centered", "amsgrad", "decoupled_weight_decay", "bias_correction"}
FLAGS |= {"write_back", "zero_grads"}
PAIRS = {"betas", "etas", "step_sizes"}


def locked(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


# --- arrays


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ([1.0, 2.0], TypeError, r"params\[1\]: expected an array, got list"),
        ({"w": np.zeros(2)}, TypeError, r"params\[1\]: expected an array, got dict"),
        ("weights", TypeError, r"params\[1\]: expected an array, got str"),
        (None, TypeError, r"params\[1\]: expected an array, got None$"),
        (1.5, TypeError, r"params\[1\]: expected an array, got float"),
        (np.zeros(4, int), TypeError, r"params\[1\]: expected a floating dtype .*int64"),
        (np.zeros(4, bool), TypeError, r"params\[1\]: expected a floating dtype .*bool"),
        (np.zeros(4, complex), TypeError, r"params\[1\]: .*complex"),
        (np.zeros(4, ">f8"), TypeError, r"params\[1\]: .*byte order"),
        (np.array(["a"]), TypeError, r"params\[1\]: "),
        (locked(np.zeros(4)), ValueError, r"params\[1\]: .*read-only"),
        (np.broadcast_to(np.zeros(1), 4), ValueError, r"params\[1\]: "),
    ],
    ids=repr,
)
@EVERY
def test_constructors_refuse_what_a_step_would(
    name: str, wrong: Any, error: type[Exception], message: str
) -> None:
    good = np.ones(3)
    with pytest.raises(error, match=f"^{name}: {message}"):
        getattr(optim, name)([good, wrong])
    optimizer = getattr(optim, name)([good])
    with pytest.raises(error, match=f"^{name}: {message}"):
        optimizer.add_param_group({"params": [wrong]})
    assert len(optimizer.param_groups) == len(optimizer.state) == 1
    optimizer.step([np.ones(3)])


@pytest.mark.parametrize(
    "params", [np.zeros((2, 3)), np.float32(1), {"params": [np.zeros(2)]}, "ab", 3, None], ids=repr
)
def test_params_are_a_list_of_arrays_or_dicts(params: Any) -> None:
    with pytest.raises(TypeError, match=f"SGD: params: .*{type(params).__name__}"):
        optim.SGD(params)


def test_groups_are_dicts_of_lists() -> None:
    w = np.zeros(2)
    with pytest.raises(TypeError, match="SGD: params: expected a dict, as others are, got ndarray"):
        optim.SGD([{"params": [np.zeros(3)]}, w])
    with pytest.raises(ValueError, match="SGD: params: expected a group with 'params'"):
        optim.SGD([{"lr": 0.1}])
    with pytest.raises(TypeError, match="SGD: params: expected a list of arrays, got set"):
        optim.SGD([{"params": {1, 2}}])
    optimizer = optim.SGD([{"params": w}], lr=1.0)  # one array is a list of one
    optimizer.step([np.ones(2)])
    assert w.tolist() == [-1, -1]
    for grads in (None, 1.0, {"w": w}):
        with pytest.raises(TypeError, match=f"SGD: grads: .*{type(grads).__name__}"):
            optimizer.step(grads)


# --- numbers, pairs and flags


@EVERY
def test_arguments_of_the_wrong_kind(name: str) -> None:
    make = getattr(optim, name)
    w = np.zeros(2)
    wrong: list[Any]
    for argument in inspect.signature(make).parameters:
        if argument in ("self", "params"):
            continue
        if argument in PAIRS:
            wrong = [0.9, "ab", (0.9, "a"), (0.9, None), {0.1: 0.9, 0.5: 1}]
        elif argument in FLAGS:
            wrong = ["no", 1.0, [], np.zeros(2)]
        elif argument in ("state_dtype", "master"):
            with pytest.raises(ValueError, match=f"{name}: {argument}: expected one of None, .*3"):
                make([w], **{argument: 3})
            continue
        elif argument in ("seed", "min_8bit_size"):
            wrong = ["a", 1.5, None]
        else:
            wrong = ["a", [0.1], 1j, np.zeros(2), np.array("a")]
        for value in wrong:
            with pytest.raises(TypeError, match=f"^{name}: {argument}: expected .*, got "):
                make([w], **{argument: value})
            optimizer = make([w])
            if argument in optimizer.param_groups[0]:
                optimizer.param_groups[0][argument] = value
                if argument not in DEFAULTS:
                    with pytest.raises(TypeError, match=f"^{name}: {argument}: expected "):
                        optimizer.step([np.ones(2)])
            else:
                with pytest.raises(TypeError, match=f"^{name}: {argument}: expected "):
                    setattr(optimizer, argument, value)
    assert (w == 0).all()


def test_pairs_are_of_two_numbers() -> None:
    for betas in ((0.9,), (), (0.9, 0.99, 0.999)):
        with pytest.raises(ValueError, match=r"Adam: betas: expected a pair of numbers, got \("):
            optim.Adam([np.zeros(2)], betas=betas)


def test_every_kind_of_number_will_do() -> None:
    numbers = [
        0.5, np.float32(0.5), np.float64(0.5), np.float16(0.5), np.array(0.5),
        np.array(0.5, np.float32), ml_dtypes.bfloat16(0.5),
    ]  # fmt: skip
    for number in numbers:
        w = np.ones(2)
        optim.SGD([w], lr=number).step([np.ones(2)])
        assert w.tolist() == [0.5, 0.5]
    w = np.ones(2)
    optim.Adam([w], lr=1, betas=[0.5, np.float32(0.5)], max_grad_norm=np.float32(9)).step([w])
    assert np.abs(w).max() < 1e-7


def test_the_loss_scale() -> None:
    w = np.ones(2, np.float32)
    optimizer = optim.SGD([w], lr=1.0)
    for scale in ("a", [2.0], 1j):
        with pytest.raises(TypeError, match="SGD: grad_scale: expected a number, got "):
            optimizer.step([w], grad_scale=scale)
    for scale in (0.0, -1.0, np.nan, np.inf, 1e-39, 1e300, 1e-320):
        with pytest.raises(ValueError, match="SGD: grad_scale: expected a positive number whose"):
            optimizer.step([w], grad_scale=scale)
    assert (w == 1).all()


# --- memory


def overlapping() -> list[tuple[str, list[np.ndarray]]]:
    base, square, wide = np.ones(16), np.ones((6, 6)), np.ones(16)
    return [
        ("twice", [base, base]),
        ("a part", [base, base[3:5]]),
        ("halves that meet", [base[:9], base[8:]]),
        ("every second and all", [base[::2], base]),
        ("transposed", [square, square.T]),
        ("a column", [square, square[:, 2]]),
        ("backwards", [base, base[::-1]]),
        ("other dtypes", [wide, wide.view(np.float32)[:5]]),
        ("far apart", [base, *(np.ones(5) for _ in range(20)), base[:1]]),
    ]


@pytest.mark.parametrize("case", range(len(overlapping())), ids=[x[0] for x in overlapping()])
def test_parameters_that_share_memory_are_refused(case: int) -> None:
    params = overlapping()[case][1]
    message = r"SGD: params\[\d+\]: expected memory of its own, got memory of params\[0\]"
    with pytest.raises(ValueError, match=message):
        optim.SGD(params)
    with pytest.raises(ValueError, match=message):
        optim.SGD([{"params": params[:1]}, {"params": params[1:]}])
    optimizer = optim.SGD(params[:1])
    optimizer.param_groups[0]["params"] += params[1:]
    optimizer.state += [{} for _ in params[1:]]
    with pytest.raises(ValueError, match=message):
        optimizer.step([np.ones_like(param) for param in params])
    assert (params[0] == 1).all()


def test_arrays_in_each_others_gaps_are_not() -> None:
    base, square = np.zeros(16), np.zeros((6, 6))
    params = [base[:8:2], base[1:8:2], base[8:], *square[:3], *square[3:].T, np.zeros(0)]
    for _ in range(2):
        optim.SGD(params, lr=1.0, momentum=0.5).step([np.ones_like(param) for param in params])
    assert (base == -2).all()
    assert (square == -2).all()


def test_states_and_gradients_that_share_memory_are_refused() -> None:
    p, q = np.ones(8), np.ones(8)
    optimizer = optim.SGD([p, q], lr=1.0, momentum=0.5)
    message = r"SGD: grads\[\d\]: expected memory of its own, got memory of params\[\d\]"
    for grads in ([q, p], [p[::-1], q], [np.ones(8), p], [np.ones(8), p.view(np.float32)[:8]]):
        with pytest.raises(ValueError, match=message):
            optimizer.step(grads)
    both = np.zeros(12)
    for states in ([p, np.zeros(8)], [both[:8], both[4:]], [np.zeros(8), p]):
        optimizer.state = [{"momentum_buffer": state} for state in states]
        with pytest.raises(ValueError, match=r"SGD: (momentum_buffer|params)\[\d\]: "):
            optimizer.step([np.ones(8), np.ones(8)])
    averaging = optim.SGD([p, q], ema_decay=0.5)
    averaging.state = [{"ema": p}, {}]
    with pytest.raises(ValueError, match=r"SGD: ema\[0\]: .* params\[0\]"):
        averaging.step([np.ones(8), np.ones(8)])
    assert (np.stack([p, q]) == 1).all()


def test_gradients_may_be_one_array_or_their_parameter() -> None:
    p, q, shared = np.ones(8), np.ones(8), np.ones(8)
    optim.SGD([p, q], lr=0.5).step([shared, shared])
    optim.AdamW([q], lr=0.5, weight_decay=0.5, eps=0, betas=(0.5, 0.5)).step([q])
    assert (p == 0.5).all()
    assert np.allclose(q, 0.5 * 0.75 - 0.5)  # the gradient as it was before the decay
    zeroing = optim.SGD([p, q], zero_grads=True)
    for grads in ([p, q], [shared, shared], [shared, shared[::-1]], [np.append(shared, 1)[1:], p]):
        with pytest.raises(ValueError, match="SGD: grads"):
            zeroing.step(grads)


def test_arrays_that_overlap_themselves_are_refused() -> None:
    windows = np.lib.stride_tricks.as_strided(np.zeros(40), (6, 5), (32, 32))
    with pytest.raises(ValueError, match=r"SGD: params\[0\]: expected each element in a place"):
        optim.SGD([windows])
    w = np.zeros((6, 5))
    optimizer = optim.SGD([w], momentum=0.9)
    optimizer.state = [{"momentum_buffer": windows}]
    with pytest.raises(ValueError, match="SGD: momentum_buffer: expected each element in a place"):
        optimizer.step([np.ones((6, 5))])


# --- numbers that float32 cannot hold

#: Arguments for which such a number is no number of the step.
HARMLESS = {"t0", "max_grad_norm", "ema_decay", "dampening", "lr_decay", "momentum_decay", "alpha"}
HARMLESS |= {"seed", "min_8bit_size", "rho"}
NEEDED: dict[tuple[str, str], dict[str, Any]] = {
    ("NAdam", "weight_decay"): {"decoupled_weight_decay": True},
}


def large(name: str) -> list[tuple[str, Any]]:
    """What a number of every argument comes to that is too large for float32."""
    values = []
    for argument, parameter in inspect.signature(getattr(optim, name)).parameters.items():
        if argument in {"initial_accumulator_value", *HARMLESS, *FLAGS}:
            continue
        if argument == "step_sizes":
            values.append((argument, (1e-6, 1e43)))
        elif argument == "etas":
            values.append((argument, (0.5, 1e43)))
        elif argument != "betas" and isinstance(parameter.default, (int, float)):
            values.append((argument, 1e43))
    return values


@EVERY
def test_numbers_too_large_for_float32_are_refused(name: str) -> None:
    for argument, value in large(name):
        for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
            w, other = np.ones(5, dtype), np.ones(3, np.float64)
            options = {argument: value, **NEEDED.get((name, argument), {})}
            optimizer = getattr(optim, name)([other, w], **options)
            with pytest.raises(ValueError, match=rf"^{name}: .*1e\+43"):
                optimizer.step([np.ones(3), np.ones(5, dtype)])
            assert (w == 1).all()
            assert (other == 1).all()
            assert optimizer.state == [{}, {}]
        w = np.ones(5)
        getattr(optim, name)([w], **options).step([np.ones(5)])
        assert np.isfinite(w).all(), argument


def test_what_states_start_from() -> None:
    for dtype, value in ((np.float32, 1e39), (np.float16, 1e5)):
        optimizer = optim.Adagrad([np.ones(2, dtype)], initial_accumulator_value=value)
        with pytest.raises(ValueError, match="Adagrad: sum: expected to start from a number that"):
            optimizer.step([np.ones(2, dtype)])
    optim.Adagrad([np.ones(2, np.float32)], initial_accumulator_value=np.inf).step([np.ones(2)])


def test_norms_beyond_float32_are_infinite_and_warn_of_nothing() -> None:
    w = np.ones(64, np.float32)
    optimizer = optim.SGD([w], max_grad_norm=1e300)
    optimizer.step([np.full(64, 3e38, np.float32)])
    assert optimizer.grad_norm == np.inf


# --- repr


@EVERY
def test_repr(name: str) -> None:
    optimizer = getattr(optim, name)([np.zeros(2)], lr=0.25)
    text = repr(optimizer)
    assert text.startswith(f"{name} (\nParameter Group 0\n")
    assert text.endswith("\n)")
    assert "    lr: 0.25\n" in text
    assert "seed" not in text
    assert "None" not in text
    shown = ["max_grad_norm: 1.5", "write_back: True", "ema_decay: 0.5", "zero_grads: True"]
    optimizer = getattr(optim, name)(
        [{"params": [np.zeros(2)]}, {"params": [np.zeros(2)], "lr": 0.5}],
        max_grad_norm=1.5, write_back=True, ema_decay=0.5, zero_grads=True,
    )  # fmt: skip
    for line in shown:
        assert f"    {line}\n" in repr(optimizer)
    assert "Parameter Group 1\n" in repr(optimizer)
    if optimizer._rule.signed:
        text = repr(getattr(optim, name)([np.zeros(2)], state_dtype="8bit", seed=7))
        assert "    state_dtype: 8bit\n" in text
        assert "    seed: 7\n" in text


# --- objects that were never made


@pytest.mark.parametrize(
    ("make", "use"),
    [
        (lambda: _core.StepExtras, lambda it: it.norm),
        (lambda: _core.StepExtras, lambda it: it.zero_grads),
        (lambda: _core.StepExtras, lambda it: setattr(it, "max_norm", 1.0)),
        (lambda: _core.ParameterTable, lambda it: it.step([], [], {}, [], _core.StepExtras())),
        (lambda: _core.Exporter, lambda it: it.__dlpack__()),
        (lambda: _core.Exporter, lambda it: it.__dlpack_device__()),
    ],
)
def test_objects_without_init_are_refused(
    make: Callable[[], Any], use: Callable[[Any], Any]
) -> None:
    kind = make()
    with pytest.raises(TypeError, match="__init__"):
        use(kind.__new__(kind))
