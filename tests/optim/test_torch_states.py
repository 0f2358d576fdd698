"""`state_dtype` and `master` of `dlkernels.torch.optim`: the same numbers as over NumPy arrays,
state dicts in and out, and what they work with."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import dlkernels.optim
import dlkernels.torch.optim as optim
from dlkernels import _core
from optim.problems import parameters, set_grads
from optim.state_references import dynamic_map
from torch_support import bits

RULES = {
    "sgd": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "sgd-nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.01}),
    "adamw": ("AdamW", {"lr": 0.01}),
    "amsgrad": ("AdamW", {"lr": 0.01, "amsgrad": True}),
    "adagrad": ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "momentum": 0.9}),
    "lion": ("Lion", {"lr": 0.01}),
}
RULE = pytest.mark.parametrize("rule", RULES)
FORMATS = {
    "8bit": {"state_dtype": "8bit", "min_8bit_size": 0},
    "bf16": {"state_dtype": "bf16", "seed": 3},
    "split16": {"master": "split16"},
    "8bit-split16": {"state_dtype": "8bit", "min_8bit_size": 0, "master": "split16"},
    "bf16-split16": {"state_dtype": "bf16", "seed": 9, "master": "split16"},
}
FORMAT = pytest.mark.parametrize("format", FORMATS)
SHAPES = ((40_000,), (3, 5), (0,), (), (129, 40))
STATES = (
    "momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "sum", "square_avg",
)  # fmt: skip


def make(rule, params, **extra):
    name, options = RULES[rule]
    return getattr(optim, name)(params, **options, **extra)


def run(optimizer, steps):
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for step in steps:
        set_grads(params, step)
        optimizer.step()
    return optimizer


def all_bits(optimizer):
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return [bits(param) for param in params] + [
        {name: bits(value) for name, value in optimizer.state[param].items()}
        for param in params
        if param in optimizer.state
    ]


@FORMAT
@RULE
def test_steps_are_those_over_arrays(rule, format):
    params = parameters(SHAPES, torch.float32)
    arrays = [param.detach().numpy().copy() for param in params]
    name, options = RULES[rule]
    mine = make(rule, params, **FORMATS[format])
    theirs = getattr(dlkernels.optim, name)(arrays, **options, **FORMATS[format])
    for step in range(3):
        set_grads(params, step)
        mine.step()
        theirs.step([param.grad.numpy() for param in params])
        for param, array in zip(params, arrays, strict=True):
            assert param.detach().numpy().tobytes() == array.tobytes()
    for param, state in zip(params, theirs.state, strict=True):
        for name in STATES:
            for key in (name, name + "_8bit", name + "_absmax"):
                if key in state:
                    assert bits(mine.state[param][key])[1] == state[key].tobytes(), key


@pytest.mark.sampled(3)
@FORMAT
@RULE
@pytest.mark.parametrize("way", ["saved", "pickled", "copied"])
def test_going_on_is_going_on_bit_by_bit(rule, format, way):
    whole = run(make(rule, parameters(SHAPES, torch.bfloat16), **FORMATS[format]), range(4))
    half = run(make(rule, parameters(SHAPES, torch.bfloat16), **FORMATS[format]), range(2))
    if way == "saved":
        file = io.BytesIO()
        torch.save(half.state_dict(), file)
        file.seek(0)
        resumed = make(rule, [torch.nn.Parameter(p.detach().clone()) for p in
                              half.param_groups[0]["params"]])  # fmt: skip
        resumed.load_state_dict(torch.load(file, weights_only=True))
    else:
        resumed = pickle.loads(pickle.dumps(half)) if way == "pickled" else copy.deepcopy(half)
    run(resumed, range(2, 4))
    assert all_bits(resumed) == all_bits(whole)


@FORMAT
@RULE
def test_plain_state_dicts_go_out_and_come_in(rule, format):
    optimizer = run(make(rule, parameters(SHAPES, torch.bfloat16), **FORMATS[format]), range(3))
    plain = optimizer.float32_state_dict()
    masters = optimizer.master_parameters()
    assert all(master.dtype == torch.float32 for master in masters)
    for state in plain["state"].values():
        assert all(state[name].dtype == torch.float32 for name in STATES if name in state)
    theirs = optimizer._torch_class(
        [torch.nn.Parameter(master.clone()) for master in masters], **RULES[rule][1]
    )
    theirs.load_state_dict(copy.deepcopy(plain))  # which takes the tensors, not their values
    assert theirs.state_dict()["param_groups"] == plain["param_groups"]
    set_grads(theirs.param_groups[0]["params"], 3)
    theirs.step()

    again = make(rule, parameters(SHAPES, torch.bfloat16), **FORMATS[format])
    again.load_state_dict(copy.deepcopy(plain))
    again.load_master_parameters(masters)
    assert again.param_groups[0]["state_dtype"] == FORMATS[format].get("state_dtype")
    if "8bit" in format:
        # -1 has no code, so a block whose largest number is negative gets another scale.
        for index, state in again.float32_state_dict()["state"].items():
            for name in filter(state.__contains__, STATES):
                expected = plain["state"][index][name]
                largest = expected.abs().max().item() if expected.numel() else 0
                torch.testing.assert_close(state[name], expected, rtol=0, atol=0.0071 * largest)
        return
    assert all_bits(again) == all_bits(optimizer)
    for step in range(2):
        run(again, [step])
    run(optimizer, range(2))
    if "bf16" not in format:  # whose random numbers start anew
        assert all_bits(again) == all_bits(optimizer)


@RULE
@pytest.mark.parametrize("foreach", [False, True])
def test_torchs_class_refuses_codes(rule, foreach):
    """None of its ways of stepping takes them for states, or begins anew; the numbers that
    bfloat16 states are it does take."""
    for format in ("8bit", "bf16"):
        optimizer = run(make(rule, parameters(SHAPES, torch.float32), **FORMATS[format]), range(2))
        params = parameters(SHAPES, torch.float32)
        theirs = optimizer._torch_class(params, **RULES[rule][1], foreach=foreach)
        set_grads(params, 3)
        if format == "8bit":
            before = [bits(param) for param in params]
            theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            with pytest.raises((KeyError, AttributeError, TypeError)):
                theirs.step()
            assert [bits(param) for param in params] == before
        else:
            theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            assert [
                bits(value)
                for state in theirs.state_dict()["state"].values()
                for value in state.values()
            ] == [
                bits(value)
                for state in optimizer.float32_state_dict()["state"].values()
                for value in state.values()
            ]
            theirs.step()


@RULE
def test_codes_of_other_shapes_are_refused_before_anything_changes(rule):
    optimizer = run(make(rule, parameters(SHAPES, torch.bfloat16), **FORMATS["8bit"]), range(2))
    before = all_bits(optimizer)
    for end, changed in (
        ("_absmax", lambda value: value[:-1]),
        ("_8bit", lambda value: value.reshape(-1, 2)),
    ):
        saved = optimizer.state_dict()
        name = next(name for name in saved["state"][0] if name.endswith(end))
        saved["state"][0] = {**saved["state"][0], name: changed(saved["state"][0][name])}
        with pytest.raises(ValueError, match=f"{name}: expected shape .*float32_state_dict"):
            optimizer.load_state_dict(saved)
        assert all_bits(optimizer) == before
    run(optimizer, range(2, 3))


@RULE
def test_master_parameters_before_the_first_step(rule):
    params = parameters(SHAPES, torch.bfloat16)
    generator = torch.Generator().manual_seed(5)
    values = [torch.randn(param.shape, generator=generator) for param in params]
    mine = make(rule, params, master="split16")
    mine.load_master_parameters(values)
    theirs = make(rule, [torch.nn.Parameter(value.clone()) for value in values])
    for step in range(3):
        set_grads(params, step)
        for param, other in zip(params, theirs.param_groups[0]["params"], strict=True):
            other.grad = param.grad.float()
        mine.step()
        theirs.step()
    for master, other in zip(
        mine.master_parameters(), theirs.param_groups[0]["params"], strict=True
    ):
        assert bits(master) == bits(other)


def test_codes_and_scales_are_those_of_bitsandbytes():
    param = torch.nn.Parameter(torch.zeros(5000))
    optimizer = optim.AdamW([param], state_dtype="8bit")
    param.grad = torch.randn(5000)
    optimizer.step()
    state = optimizer.state[param]
    assert {name: (value.dtype, tuple(value.shape)) for name, value in state.items()} == {
        "step": (torch.float32, ()),
        "exp_avg_8bit": (torch.uint8, (5000,)),
        "exp_avg_absmax": (torch.float32, (20,)),
        "exp_avg_sq_8bit": (torch.uint8, (5000,)),
        "exp_avg_sq_absmax": (torch.float32, (20,)),
    }
    plain = optimizer.float32_state_dict()["state"][0]
    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        scales = np.repeat(state[name + "_absmax"].numpy(), 256)[:5000]
        expected = dynamic_map(signed)[state[name + "_8bit"].numpy()] * scales
        np.testing.assert_allclose(plain[name].numpy(), expected, rtol=4e-7)


@FORMAT
def test_states_take_the_bytes_they_should(format):
    param = torch.nn.Parameter(torch.zeros(1 << 16, dtype=torch.bfloat16))
    optimizer = optim.AdamW([param], **FORMATS[format])
    param.grad = torch.ones_like(param)
    optimizer.step()
    size = sum(value.nbytes for name, value in optimizer.state[param].items() if name != "step")
    expected = {"8bit": 2 + 2 * 4 / 256, "bf16": 4, "split16": 10}
    expected["8bit-split16"], expected["bf16-split16"] = expected["8bit"] + 2, 6
    assert size == expected[format] * (1 << 16)


@FORMAT
@pytest.mark.parametrize("layout", ["channels_last", "slice", "grad"])
def test_layouts(format, layout):
    values = torch.randn(4, 24, 10, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    results = []
    for given in ("dense", layout):
        param = values.clone()
        if given == "channels_last":
            param = param.to(memory_format=torch.channels_last)
        elif given == "slice":
            param = torch.zeros(4, 24, 11, 30, dtype=torch.bfloat16)[:, :, :10]
            param.copy_(values)
        param = torch.nn.Parameter(param)
        optimizer = optim.AdamW([param], lr=0.1, **FORMATS[format])
        for step in range(3):
            set_grads([param], step)
            if given == "grad":
                param.grad = param.grad.to(memory_format=torch.channels_last)
            optimizer.step()
        results.append(param.detach().float())
    if layout == "channels_last" and format != "split16":  # blocks and random numbers go by memory
        torch.testing.assert_close(results[1], results[0], atol=0.05, rtol=0.02)
    else:
        assert torch.equal(results[1], results[0])


def test_the_default_seed_is_torchs():
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(
            all_bits(
                run(optim.AdamW(parameters(SHAPES, torch.bfloat16), state_dtype="bf16"), range(2))
            )
        )
    assert results[0] == results[1] != results[2]


def test_late_gradients_and_new_groups():
    params = parameters([5000, 5000, 5000])
    optimizer = optim.AdamW(params[:2], state_dtype="8bit")
    set_grads(params[:1], 0)
    optimizer.step()
    set_grads(params[:2], 1)
    optimizer.step()
    optimizer.add_param_group({"params": params[2:], "state_dtype": "bf16"})
    set_grads(params, 2)
    optimizer.step()
    assert [set(optimizer.state[p]) & {"exp_avg", "exp_avg_8bit"} for p in params] == [
        {"exp_avg_8bit"}, {"exp_avg_8bit"}, {"exp_avg"},
    ]  # fmt: skip
    assert optimizer.state[params[2]]["exp_avg"].dtype == torch.bfloat16
    assert [optimizer.state[p]["step"].item() for p in params] == [3, 2, 1]


def test_small_parameters_and_the_step_without_handles(monkeypatch):
    results = []
    for available in (True, False):
        monkeypatch.setattr(_core, "torch_handles_available", lambda available=available: available)
        optimizer = optim.AdamW(
            parameters(SHAPES, torch.bfloat16), state_dtype="8bit", master="split16"
        )
        run(optimizer, range(3))
        results.append(all_bits(optimizer))
        states = [optimizer.state[p] for p in optimizer.param_groups[0]["params"]]
        assert ["exp_avg_8bit" in state for state in states] == [True, False, False, False, True]
    assert results[0] == results[1]


def test_versions_are_bumped_and_lr_0_changes_nothing():
    params = parameters(SHAPES, torch.bfloat16)
    optimizer = optim.AdamW(params, lr=0.0, master="split16", state_dtype="8bit")
    before, versions = [bits(p) for p in params], [p._version for p in params]
    run(optimizer, range(2))
    assert [bits(p) for p in params] == before
    assert all(p._version > v for p, v in zip(params, versions, strict=True) if p.numel())


@pytest.mark.parametrize("name", ["Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop"])
def test_what_is_not_supported_says_so(name):
    with pytest.raises(ValueError, match=f"{name}: state_dtype: expected None"):
        getattr(optim, name)(parameters(SHAPES, torch.bfloat16), state_dtype="8bit")
    wide = [torch.nn.Parameter(p.detach().float()) for p in parameters(SHAPES, torch.bfloat16)]
    mine = getattr(optim, name)(parameters(SHAPES, torch.bfloat16), master="split16")
    theirs = getattr(optim, name)(wide)
    for step in range(3):
        set_grads(mine.param_groups[0]["params"], step)
        for param, other in zip(mine.param_groups[0]["params"], wide, strict=True):
            other.grad = param.grad.float()
        mine.step()
        theirs.step()
    for master, other in zip(mine.master_parameters(), wide, strict=True):
        assert bits(master) == bits(other)


@pytest.mark.parametrize("momentum", [-0.5, 0, float("nan")])
def test_a_group_whose_momentum_is_not_positive_keeps_none(momentum):
    params, changed = parameters(SHAPES, torch.bfloat16), parameters(SHAPES, torch.bfloat16)
    optimizers = [optim.RMSprop(p, state_dtype="bf16", seed=1) for p in (params, changed)]
    optimizers[1].param_groups[0]["momentum"] = momentum  # torch checks it in the constructor
    for step in range(2):
        for optimizer, own in zip(optimizers, (params, changed), strict=True):
            set_grads(own, step)
            optimizer.step()
    assert "momentum_buffer" not in optimizers[1].state[changed[0]]
    for param, other in zip(params, changed, strict=True):
        assert bits(param) == bits(other)


def test_what_is_refused():
    params = parameters(SHAPES, torch.bfloat16)
    with pytest.raises(
        ValueError, match="AdamW: state_dtype: expected one of None, 'bf16', '8bit'"
    ):
        optim.AdamW(params, state_dtype="fp8")
    with pytest.raises(ValueError, match="SGD: master: expected one of"):
        optim.SGD(params, master=True)
    with pytest.raises(ValueError, match=r"RMSprop: state_dtype: .* centered"):
        optim.RMSprop(params, centered=True, state_dtype="bf16")
    with pytest.raises(ValueError, match="AdamW: master: expected bfloat16"):
        optim.AdamW(parameters(SHAPES, torch.float16), master="split16")
    optimizer = optim.SGD(params)
    with pytest.raises(ValueError, match="SGD: state_dtype"):
        optimizer.add_param_group(
            {"params": parameters(SHAPES, torch.bfloat16), "state_dtype": "4bit"}
        )
    assert len(optimizer.param_groups) == 1
    optimizer = optim.AdamW(params, state_dtype="8bit", differentiable=True)
    set_grads(params, 0)
    with pytest.raises(RuntimeError, match="AdamW: state_dtype and master are for dense"):
        optimizer.step()
    with pytest.raises(ValueError, match="AdamW: values: expected 5 tensors, got 1"):
        optimizer.load_master_parameters([params[0]])
    with pytest.raises(ValueError, match=r"AdamW: values\[0\]: expected shape"):
        optimizer.load_master_parameters([p.detach().flatten()[:2] for p in params])


def test_a_skipped_step_takes_no_random_numbers():
    def trained(skips):
        params = parameters(SHAPES, torch.bfloat16)
        optimizer = optim.Adam(params, state_dtype="bf16", seed=3, scaler_in_step=True)
        for step in range(4):
            set_grads(params, step)
            if skips and step == 2:
                optimizer.found_inf = torch.tensor(1.0)
                optimizer.step()
            optimizer.found_inf = torch.tensor(0.0)
            optimizer.step()
        assert optimizer.param_groups[0]["rounding_step"] == 4
        return all_bits(optimizer)

    assert trained(True) == trained(False)


def test_a_state_dict_brings_the_seed_and_its_counter():
    def make_with(seed):
        return optim.Adam(parameters(SHAPES, torch.bfloat16), state_dtype="bf16", seed=seed)

    whole, half, other = (run(make_with(3), range(4)), run(make_with(3), range(2)), make_with(4))
    other.load_state_dict(copy.deepcopy(half.state_dict()))
    group = other.param_groups[0]
    assert (group["seed"], group["rounding_step"]) == (3, 2)
    for mine, theirs in zip(group["params"], half.param_groups[0]["params"], strict=True):
        mine.data.copy_(theirs)
    assert all_bits(run(other, range(2, 4))) == all_bits(whole)


def test_the_momentum_of_rmsprop_has_its_sign():
    """In eight bits it is that of torch to the coarseness of the codes, below zero too."""
    options = {"lr": 0.1, "momentum": 0.9}
    mine, theirs = (torch.nn.Parameter(torch.zeros(4096)) for _ in range(2))
    optimizer = optim.RMSprop([mine], state_dtype="8bit", **options)
    reference = torch.optim.RMSprop([theirs], **options)
    for step in range(3):
        set_grads([mine, theirs], step)
        theirs.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    momentum = optimizer.float32_state_dict()["state"][0]["momentum_buffer"]
    expected = reference.state_dict()["state"][0]["momentum_buffer"]
    assert (expected < -1).sum() > 500
    error = (momentum - expected).abs() / expected.abs().max()
    assert error.max() < 0.05
    assert (momentum.sign() == expected.sign())[expected.abs() > 0.1 * expected.abs().max()].all()
