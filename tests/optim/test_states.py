"""States of optimizers in eight bits and bfloat16, and split float32 parameters, over NumPy arrays:
the formats against their definitions, steps against steps in float32, what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dlkernels
from dlkernels import optim
from dlkernels.optim import state_formats as formats
from optim.state_references import (
    dynamic_map,
    exact_map,
    largest_of_blocks,
    nearest_codes,
    noise,
    round_at_random,
    split,
)
from support import FMA_ISAS, ISAS, assert_same_bits, bits, isa_level, needs_two_fma_isas

BF16 = np.dtype(ml_dtypes.bfloat16)
SIGNED = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
ISA = pytest.mark.parametrize("isa", ISAS)
SIZES = (1, 255, 256, 257, 4095, 4096, 4097, 16383, 16385)

#: Every rule with states in other formats: options, and which states have a sign.
RULES: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, bool]]] = {
    "sgd": (optim.SGD, {"lr": 0.1, "momentum": 0.9}, {"momentum_buffer": True}),
    "nesterov": (
        optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"momentum_buffer": True},
    ),
    "adam": (
        optim.Adam,
        {"lr": 0.01, "weight_decay": 0.1},
        {"exp_avg": True, "exp_avg_sq": False},
    ),
    "adamw": (optim.AdamW, {"lr": 0.01}, {"exp_avg": True, "exp_avg_sq": False}),
    "amsgrad": (
        optim.AdamW,
        {"lr": 0.01, "amsgrad": True},
        {"exp_avg": True, "exp_avg_sq": False, "max_exp_avg_sq": False},
    ),
    "adagrad": (optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.125}, {"sum": False}),
    "rmsprop": (optim.RMSprop, {"lr": 0.01}, {"square_avg": False}),
    "rmsprop-momentum": (
        optim.RMSprop,
        {"lr": 0.01, "momentum": 0.9},
        {"square_avg": False, "momentum_buffer": True},
    ),
    "lion": (optim.Lion, {"lr": 0.01}, {"exp_avg": True}),
}
RULE = pytest.mark.parametrize("rule", RULES)


def encode(x: np.ndarray, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    codes, scales = np.empty(x.shape, np.uint8), np.empty(formats.scale_count(x.size), np.float32)
    formats.encode("test", "x", x.copy(), codes, scales, signed)
    return codes, scales


def decode(codes: np.ndarray, scales: np.ndarray, signed: bool) -> np.ndarray:
    values = np.empty(codes.shape, np.float32)
    formats.decode("test", "x", codes, scales, values, signed)
    return values


def ordered(x: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of float32, so that neighbours differ by one."""
    whole = x.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(whole < 0, -(whole & 0x7FFFFFFF), whole)


def states_sample(size: int, signed: bool, seed: int = 0) -> np.ndarray:
    """Numbers of seven decades and more."""
    rng = np.random.default_rng(seed)
    x = (10.0 ** rng.uniform(-8, 0, size) * rng.choice([-1, 1], size)).astype(np.float32)
    return x if signed else np.abs(x)


# --- the formats


@SIGNED
@ISA
def test_codes_stand_for_the_numbers_of_bitsandbytes(signed: bool, isa: str) -> None:
    most = 2 if not signed and isa in FMA_ISAS else 4  # units in the last place of the map
    codes, table = np.arange(256, dtype=np.uint8), dynamic_map(signed)
    with isa_level(isa):
        for scale in (1.0, 0.37, 2.0**-100):
            values = decode(codes, np.array([scale], np.float32), signed)
            expected = table * np.float32(scale)
            assert np.abs(ordered(values) - ordered(expected)).max() <= most + 1
        values = decode(codes, np.ones(1, np.float32), signed)
    assert np.abs(ordered(values) - ordered(table)).max() <= most
    assert values[127 if signed else 0] == 0
    assert values[255] == 1


@SIGNED
@ISA
def test_a_number_gets_the_code_of_the_nearest(signed: bool, isa: str) -> None:
    rng = np.random.default_rng(3)
    table = exact_map(signed)
    middles = (table[1:] + table[:-1]) / 2
    near = (middles[:, None] * (1 + rng.uniform(-1e-3, 1e-3, (255, 40)))).ravel()
    near = np.concatenate([near, table, middles, states_sample(9000, signed)]).astype(np.float32)
    near = near[: near.size // 256 * 256].reshape(-1, 256)
    near[:, 0] = 1
    x = (near * 10.0 ** rng.uniform(-20, 20, (len(near), 1))).astype(np.float32).ravel()
    with isa_level(isa):
        codes, scales = encode(x, signed)
    assert_same_bits(scales, largest_of_blocks(x))
    expected, close = nearest_codes(x, scales, signed)
    distance = np.abs(codes.astype(int) - expected)
    assert np.all(distance[~close] == 0)
    assert np.all(distance <= 1)
    assert close.mean() < 0.1


@SIGNED
@ISA
def test_codes_of_codes_are_the_same(signed: bool, isa: str) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (16, 256), dtype=np.uint8)
    codes[:, 5] = 255
    scales = (10.0 ** rng.uniform(-30, 30, 16)).astype(np.float32)
    with isa_level(isa):
        again, scales_again = encode(decode(codes.ravel(), scales, signed), signed)
    assert_same_bits(again, codes.ravel())
    assert_same_bits(scales_again, scales)


@needs_two_fma_isas
@SIGNED
def test_codes_are_the_same_on_avx2_and_avx512(signed: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 0x3F800000, 1 << 20, dtype=np.int32).view(np.float32).copy()
    x = np.concatenate([x, states_sample(1 << 18, signed)])
    x[::256] = 1
    if signed:
        x[1::2] *= -1
    results = []
    for isa in FMA_ISAS:
        with isa_level(isa):
            codes, scales = encode(x, signed)
            results.append((codes, scales, decode(codes, scales, signed)))
    for result in results[1:]:
        assert_same_bits(result, results[0])


@SIGNED
@ISA
def test_blocks_of_zeros_nan_and_subnormals(signed: bool, isa: str) -> None:
    x = np.full((6, 256), 0.5, np.float32)
    x[0] = 0
    x[1, 7] = np.nan
    x[2, 9] = np.inf
    x[3] = 1e-40
    x[4] = np.finfo(np.float32).max
    x[5] = np.finfo(np.float32).tiny
    with isa_level(isa):
        codes, scales = encode(x.ravel(), signed)
        values = decode(codes, scales, signed).reshape(x.shape)
    zero = 127 if signed else 0
    assert np.all(codes.reshape(x.shape)[:4] == zero)
    assert np.isnan(scales[1:3]).all()
    assert scales[0] == scales[3] == 0
    assert np.all(values[[0, 3]] == 0)
    assert np.isnan(values[1:3]).all()
    assert_same_bits(values[4:], x[4:])


@ISA
def test_unsigned_states_below_zero_become_zero(isa: str) -> None:
    with isa_level(isa):
        codes, _ = encode(np.array([1, -0.5, -1, 0], np.float32), False)
    assert codes.tolist() == [255, 0, 0, 0]


SPECIAL = np.array(
    [
        0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.5, 3.3961775e38, 3.4028235e38, -3.4028235e38,
        1e-45, -1e-40, 1.00390625, 1.01171875, 65280.0, 2.0**-126,
    ],
    np.float32,
)  # fmt: skip


@ISA
@pytest.mark.parametrize("size", SIZES)
def test_parameters_split_into_halves_are_themselves(size: int, isa: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-(2**31), 2**31, size, dtype=np.int64).astype(np.int32).view(np.float32).copy()
    x[: SPECIAL.size] = SPECIAL[:size]
    x[20:40] = (rng.integers(0x3F80, 0x4080, x[20:40].size, dtype=np.uint32) * 65536 + 0x8000).view(
        np.float32
    )
    high, low, joined = np.empty(size, BF16), np.empty(size, np.int16), np.empty(size, np.float32)
    with isa_level(isa):
        formats.split("test", x.copy(), high, low)
        formats.join("test", high, low, joined)
    is_nan = np.isnan(x)
    assert_same_bits(joined[~is_nan], x[~is_nan])
    assert np.isnan(joined[is_nan]).all()
    assert np.isnan(high.astype(np.float32)[is_nan]).all()
    assert np.array_equal(np.signbit(joined), np.signbit(x))
    expected_high, expected_low = split(x[~is_nan])
    assert_same_bits(high.view(np.uint16)[~is_nan], expected_high)
    assert_same_bits(low[~is_nan], expected_low)


# --- steps


def problem(size: int, steps: int, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-3, 0, size)
    param = rng.standard_normal(size).astype(np.float32)
    grads = [(rng.standard_normal(size) * scale).astype(np.float32) for _ in range(steps)]
    for grad in grads:
        grad[512:1024] = 0
    return param, grads


def float32_step(
    rule: str, param: np.ndarray, grad: np.ndarray, state: dict[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    """A step with states in float32, which other tests hold to its formula."""
    cls, options, _ = RULES[rule]
    param = param.copy()
    optimizer = cls([param], **options)
    optimizer.state[0] = {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in state.items()
    }
    optimizer.step([grad])
    return param, optimizer.state[0]


@RULE
@pytest.mark.parametrize("size", SIZES)
def test_steps_in_eight_bits_are_float32_steps_between_codes(rule: str, size: int) -> None:
    cls, options, signed = RULES[rule]
    param, grads = problem(size, 4)
    mine = param.copy()
    optimizer = cls([mine], **options, state_dtype="8bit", min_8bit_size=0)
    state: dict[str, Any] = {}
    for grad in grads:
        optimizer.step([grad])
        param, after = float32_step(rule, param, grad, state)
        assert_same_bits(mine, param)
        state = {name: value for name, value in after.items() if name not in signed}
        own = optimizer.state[0]
        for name, sign in signed.items():
            codes, scales = encode(after[name], sign)
            assert_same_bits((own[name + "_8bit"], own[name + "_absmax"]), (codes, scales), name)
            state[name] = decode(codes, scales, sign)


@RULE
@pytest.mark.parametrize("size", [1, 63, 64, 65, 257, 4097, 16385])
def test_steps_in_bfloat16_are_float32_steps_rounded_at_random(rule: str, size: int) -> None:
    cls, options, signed = RULES[rule]
    other = np.ones(3, np.float32)
    param, grads = problem(size, 4)
    mine = param.copy()
    seed = 2**40 + 5
    optimizer = cls([other, mine], **options, state_dtype="bf16", seed=seed)
    slots = optimizer._rule.slots
    state: dict[str, Any] = {}
    for step, grad in enumerate(grads):
        optimizer.step([None, grad])
        param, after = float32_step(rule, param, grad, state)
        assert_same_bits(mine, param)
        state = {name: value for name, value in after.items() if name not in signed}
        for name in signed:
            numbers = noise(seed, step, 1, slots.index(name), size)
            expected = round_at_random(after[name], numbers)
            assert_same_bits(optimizer.state[1][name].view(np.uint16), expected, name)
            state[name] = expected.view(BF16).astype(np.float32)


@RULE
@pytest.mark.parametrize("size", SIZES)
def test_split_parameters_have_the_trajectory_of_float32_ones(rule: str, size: int) -> None:
    cls, options, _ = RULES[rule]
    start, grads = problem(size, 6)
    live = start.astype(BF16)
    wide = live.astype(np.float32)
    mine = cls([live], **options, master="split16")
    theirs = cls([wide], **options)
    for grad in grads:
        grad = grad.astype(BF16)
        mine.step([grad])
        theirs.step([grad])
        assert_same_bits(mine.master_parameters()[0], wide)
        assert_same_bits(live.view(np.uint16), split(wide)[0])
    for name, value in theirs.state[0].items():
        assert_same_bits(np.asarray(mine.state[0][name]), np.asarray(value), name)


def test_rounding_at_random_has_the_mean_of_the_number() -> None:
    size, count = 64, 400
    x = np.linspace(1, 1.03, size, dtype=np.float32)
    total = np.zeros(size)
    for seed in range(count):
        optimizer = optim.SGD([np.zeros(size, np.float32)], lr=0, momentum=0.9, state_dtype="bf16",
                              seed=seed)  # fmt: skip
        optimizer.step([x])
        total += optimizer.state[0]["momentum_buffer"].astype(np.float64)
    assert np.abs(total / count - x).max() < 4 * 2.0**-7 / 2 / count**0.5
    assert abs((total / count - x).mean()) < 4 * 2.0**-7 / 2 / (count * size) ** 0.5


def test_rounding_at_random_keeps_what_is_exact_and_special() -> None:
    numbers = np.concatenate([SPECIAL] * 8)
    optimizer = optim.SGD([np.zeros(numbers.size, np.float32)], lr=0, momentum=0.9,
                          state_dtype="bf16")  # fmt: skip
    optimizer.step([numbers])
    state = optimizer.state[0]["momentum_buffer"].astype(np.float32)
    exact = (numbers.view(np.uint32) & 0xFFFF == 0) & ~np.isnan(numbers)
    assert_same_bits(state[exact], numbers[exact])
    assert np.isnan(state[np.isnan(numbers)]).all()
    assert np.isfinite(state[np.isfinite(numbers)]).all()


OPTIONS: dict[str, dict[str, Any]] = {
    "8bit": {"state_dtype": "8bit", "min_8bit_size": 0},
    "bf16": {"state_dtype": "bf16", "seed": 3},
    "split16": {"master": "split16"},
    "8bit-split16": {"state_dtype": "8bit", "min_8bit_size": 0, "master": "split16"},
    "bf16-split16": {"state_dtype": "bf16", "master": "split16"},
}
FORMAT = pytest.mark.parametrize("format", OPTIONS)


def run(rule: str, format: str, params: list[Any], steps: int = 3, optimizer: Any = None) -> Any:
    cls, options, _ = RULES[rule]
    optimizer = optimizer or cls(params, **options, **OPTIONS[format])
    for step in range(steps):
        rng = np.random.default_rng(step)
        grads = []
        for param in params:
            grad = np.zeros_like(param)
            grad[...] = rng.standard_normal(param.shape).astype(param.dtype)
            grads.append(grad)
        optimizer.step(grads)
    return optimizer


def make_params(dtype: Any = BF16) -> list[Any]:
    rng = np.random.default_rng(7)
    return [
        rng.standard_normal(shape).astype(dtype)
        for shape in ((70_000,), (3, 5), (0,), (), (40, 129))
    ]


def all_bits(optimizer: Any) -> list[bytes]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = [np.asarray(state[name]) for state in optimizer.state for name in sorted(state)]
    return [bits(array) for array in params + states]


@FORMAT
@pytest.mark.parametrize("rule", ["adamw", "sgd", "rmsprop-momentum"])
def test_bits_do_not_depend_on_threads_or_level(rule: str, format: str) -> None:
    results = []
    for isa in FMA_ISAS:
        with isa_level(isa):
            for threads in (1, 2, 3):
                with dlkernels.num_threads(threads):
                    results.append(all_bits(run(rule, format, make_params())))
    assert all(result == results[0] for result in results[1:])


@FORMAT
@RULE
def test_going_on_from_a_state_dict_is_going_on(rule: str, format: str) -> None:
    whole = run(rule, format, make_params(), 4)
    half = run(rule, format, make_params(), 2)
    saved = pickle.loads(pickle.dumps(half.state_dict()))
    params = [param.copy() for param in half.param_groups[0]["params"]]
    resumed = RULES[rule][0](params, **RULES[rule][1])
    resumed.load_state_dict(saved)
    for optimizer, own in ((resumed, params), (copy.deepcopy(half), None)):
        own = own or optimizer.param_groups[0]["params"]
        for step in (2, 3):
            rng = np.random.default_rng(step)
            optimizer.step([rng.standard_normal(param.shape).astype(param.dtype) for param in own])
        assert all_bits(optimizer) == all_bits(whole)


@FORMAT
@RULE
def test_plain_state_dicts_go_out_and_come_in(rule: str, format: str) -> None:
    cls, options, signed = RULES[rule]
    optimizer = run(rule, format, make_params())
    plain = optimizer.float32_state_dict()
    assert "state_dtype" not in plain["param_groups"][0]
    for state in plain["state"]:
        assert all(np.asarray(state[name]).dtype == np.float32 for name in signed if name in state)
        assert not any(name.endswith("_absmax") or name == "master_low" for name in state)
    again = cls(
        [param.copy() for param in optimizer.param_groups[0]["params"]],
        **options,
        **OPTIONS[format],
    )
    again.load_state_dict(plain)
    again.load_master_parameters(optimizer.master_parameters())
    if "8bit" in format:
        # -1 has no code, so a block whose largest number is negative gets another scale.
        for a, b in zip(again.float32_state_dict()["state"], plain["state"], strict=True):
            for name, value in b.items():
                largest = np.abs(value).max(initial=0)
                np.testing.assert_allclose(a[name], value, rtol=0, atol=0.0071 * largest)
    else:
        assert all_bits(again) == all_bits(optimizer)
    wide = cls(optimizer.master_parameters(), **options)
    wide.load_state_dict(plain)
    for a, b in zip(wide.state, plain["state"], strict=True):
        assert all(bits(np.asarray(a[name])) == bits(np.asarray(b[name])) for name in b)


@FORMAT
@RULE
def test_strides_change_nothing(rule: str, format: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 12, 30, 11)).astype(BF16)
    grads = [rng.standard_normal(values.shape).astype(BF16) for _ in range(3)]
    results = []
    for layout in ("dense", "gaps", "grad"):
        param = values.copy()
        if layout == "gaps":
            memory = np.full((2, 12, 31, 22), 7, BF16)
            param = memory[:, :, :30, ::2]
            param[...] = values
        cls, options, _ = RULES[rule]
        optimizer = cls([param], **options, **OPTIONS[format])
        for grad in grads:
            if layout == "grad":
                grad = np.asfortranarray(grad)
            optimizer.step([grad])
        if layout == "gaps":
            assert np.all(memory[:, :, 30:] == 7)
            assert np.all(memory[:, :, :, 1::2] == 7)
        results.append((param, optimizer.state[0]))
    for param, state in results[1:]:
        assert_same_bits(param, results[0][0])
        for name, value in results[0][1].items():
            assert_same_bits(np.asarray(state[name]), np.asarray(value), name)


@FORMAT
def test_memory_order_of_the_parameter_is_that_of_its_blocks(format: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 12, 30, 11)).astype(BF16)
    grads = [rng.standard_normal(values.shape).astype(BF16) for _ in range(3)]
    results = []
    for last in (False, True):
        if last:
            param = np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1)
        else:
            param = np.ascontiguousarray(np.moveaxis(values, 1, -1))
        optimizer = optim.AdamW([param], lr=0.01, **OPTIONS[format])
        for grad in grads:
            optimizer.step([grad if last else np.moveaxis(grad, 1, -1)])
        state = optimizer.state[0]
        if last:
            param = np.moveaxis(param, 1, -1)
            state = {
                name: np.moveaxis(value, 1, -1) if np.ndim(value) == 4 else value
                for name, value in state.items()
            }
        results.append((param, state))
    assert_same_bits(results[1][0], results[0][0])
    for name, value in results[0][1].items():
        assert_same_bits(np.asarray(results[1][1][name]), np.asarray(value), name)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, BF16, np.float32], ids=str)
@pytest.mark.parametrize("state_dtype", ["8bit", "bf16"])
def test_parameters_of_every_dtype(dtype: Any, state_dtype: str) -> None:
    results = []
    for state in (None, state_dtype):
        param = np.linspace(-1, 1, 5000).astype(dtype)
        optimizer = optim.AdamW([param], lr=0.01, state_dtype=state)
        for step in range(10):
            grad = np.random.default_rng(step).standard_normal(5000).astype(dtype) + param
            optimizer.step([grad])
        results.append(param.astype(np.float64))
    assert np.abs(results[1] - results[0]).max() < 0.05
    if state_dtype == "8bit":
        assert optimizer.state[0]["exp_avg_8bit"].dtype == np.uint8
    else:
        assert optimizer.state[0]["exp_avg"].dtype == BF16


def test_small_parameters_keep_float32_states() -> None:
    params = [np.ones(4095, BF16), np.ones(4096, BF16)]
    optimizer = optim.AdamW(params, state_dtype="8bit")
    optimizer.step([np.ones(4095, BF16), np.ones(4096, BF16)])
    assert ["exp_avg_8bit" in state for state in optimizer.state] == [False, True]


@pytest.mark.parametrize("format", ["8bit", "bf16"])
@RULE
def test_training_ends_where_float32_training_ends(rule: str, format: str) -> None:
    cls, options, _ = RULES[rule]
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((64, 300)).astype(np.float32)
    targets = inputs @ rng.standard_normal((300, 20)).astype(np.float32) / 17
    losses = []
    for extra in ({}, OPTIONS[format]):
        weight = np.zeros((300, 20), np.float32)
        optimizer = cls([weight], **{**options, "weight_decay": 0}, **extra)
        for _ in range(120):
            error = inputs @ weight - targets
            optimizer.step([inputs.T @ error / 64])
        losses.append(float(np.mean((inputs @ weight - targets) ** 2)))
    assert losses[1] < 1.5 * losses[0] + 0.02 * float(np.mean(targets**2))


def test_a_nan_stays_in_its_block() -> None:
    grad = np.ones(1024, np.float32)
    grad[300] = np.nan
    param = np.zeros(1024, np.float32)
    optimizer = optim.AdamW([param], state_dtype="8bit", min_8bit_size=0)
    optimizer.step([grad])
    assert np.isnan(param).sum() == 1
    optimizer.step([np.ones(1024, np.float32)])
    assert np.flatnonzero(np.isnan(param)).tolist() == list(range(256, 512))


def test_groups_have_formats_of_their_own() -> None:
    params = [np.ones(5000, np.float32) for _ in range(3)]
    optimizer = optim.AdamW(
        [
            {"params": params[:1]},
            {"params": params[1:2], "state_dtype": "bf16"},
            {"params": params[2:], "state_dtype": None},
        ],
        state_dtype="8bit",
    )
    optimizer.step([np.ones(5000, np.float32)] * 3)
    held = [formats.held(state, "exp_avg").dtype for state in optimizer.state]
    assert held == [np.uint8, BF16, np.float32]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.AdamW(p, state_dtype="4bit"), "AdamW: state_dtype: expected one of"),
        (lambda p: optim.SGD(p, master="fp32"), "SGD: master: expected one of"),
        (
            lambda p: optim.RMSprop(p, centered=True, state_dtype="8bit"),
            "RMSprop: state_dtype: expected None with centered=True",
        ),
        (
            lambda p: optim.AdamW([p[0].astype(np.float16)], master="split16"),
            "AdamW: master: expected bfloat16 parameters",
        ),
    ],
)
def test_what_is_no_format_is_refused(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make([np.ones(3, np.float32)])


def test_states_that_do_not_fit_are_refused_before_anything_is_written() -> None:
    param = np.ones(5000, np.float32)
    grad = np.ones(5000, np.float32)
    optimizer = optim.Lion([param], state_dtype="8bit")
    optimizer.step([grad])
    before = param.copy()
    good = optimizer.state[0]
    scales = good["exp_avg_absmax"]
    for name, value, error in (
        ("exp_avg_absmax", scales[:-1], ValueError),
        ("exp_avg_absmax", scales.astype(np.float64), TypeError),
        ("exp_avg_8bit", good["exp_avg_8bit"].reshape(50, 100), ValueError),
        ("exp_avg_8bit", np.zeros(10_000, np.uint8)[::2], ValueError),
    ):
        optimizer.state[0] = {**good, name: value}
        with pytest.raises(error, match=f"Lion: {name.removesuffix('_8bit')}"):
            optimizer.step([grad])
    optimizer.state[0] = {"exp_avg_8bit": good["exp_avg_8bit"]}
    with pytest.raises(ValueError, match="Lion: exp_avg_absmax"):
        optimizer.step([grad])
    assert_same_bits(param, before)
