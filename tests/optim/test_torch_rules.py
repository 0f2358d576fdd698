"""Every class of `dlkernels.torch.optim` against torch's: numbers, groups, states, what is taken
and what is refused. `test_torch_sgd.py` has SGD's own."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch

import dlkernels
import dlkernels.torch.optim as ours
import dlkernels.torch.optim.loops as loops
from dlkernels import _core
from optim.problems import parameters, set_grads
from support import FMA_ISAS, ISAS, isa_level
from torch_support import assert_same_bits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's test modules use what torch deprecates
    from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

NAMES = [name for name in ours.__all__ if hasattr(torch.optim, name)]
INFOS = [info for info in optim_db if info.optim_cls.__name__ in NAMES]
BY_NAME = pytest.mark.parametrize("name", NAMES)
EVERY = pytest.mark.parametrize("name", ours.__all__)
BY_INFO = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.optim_cls.__name__)

OPTIONS = {
    "SGD": [{"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}],
    "Adam": [{}, {"amsgrad": True, "maximize": True, "weight_decay": 0.1, "betas": (0.3, 0.8)}],
    "AdamW": [{"lr": 0.01}, {"amsgrad": True, "weight_decay": 0.3}],
    "Adagrad": [{}, {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}],
    "RMSprop": [
        {},
        {"momentum": 0.9, "maximize": True},
        {"centered": True},
        {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
    ],
    "Adadelta": [{}, {"weight_decay": 0.1, "rho": 0.3, "maximize": True}],
    "Adamax": [{}, {"weight_decay": 0.1, "maximize": True}],
    "NAdam": [{"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}],
    "RAdam": [
        {"lr": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"betas": (0.8, 0.5), "maximize": True},
    ],
    "ASGD": [{}, {"weight_decay": 0.1, "t0": 2, "lambd": 0.1, "alpha": 0.5}],
    "Rprop": [{}, {"maximize": True, "lr": 0.1}],
    "Lion": [{}, {"weight_decay": 0.1, "maximize": True, "lr": 0.1}],
    "LAMB": [{}, {"weight_decay": 0.1, "maximize": True, "lr": 0.1, "bias_correction": False}],
    "LARS": [
        {},
        {"momentum": 0.0, "weight_decay": 0.1, "maximize": True},
        {"dampening": 0.3, "weight_decay": 0.1, "trust_coefficient": 0.1},
        {"nesterov": True, "lr": 1.0, "trust_coefficient": 0.5},
    ],
}
CASES = pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in NAMES for options in OPTIONS[name]],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "defaults",
)
#: Bit-equal to torch's loop: no square root.
EXACT = {"SGD", "Adamax", "ASGD", "Rprop"}
#: States that a square root goes into.
ROUNDED_STATES = {"acc_delta", "momentum_buffer"}

SIZES = [0, 1, 7, 16, 17, 33, 100, 16385]


def torch_loop(name, params, **options):
    return getattr(torch.optim, name)(params, foreach=False, **options)


def our(name, params, **options):
    return getattr(ours, name)(params, **options)


def results(optimizer, params):
    return [param.detach() for param in params] + [
        value for param in params for value in optimizer.state[param].values()
    ]


# --- numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@CASES
def test_each_step_is_torchs_to_two_units(name, options, dtype):
    """States bit-equal, parameters within two units in the last place, and three of what was added;
    from torch's own state before each of eight steps."""
    for level in FMA_ISAS:
        theirs, mine = parameters(SIZES, dtype), parameters(SIZES, dtype)
        reference, optimizer = torch_loop(name, theirs, **options), our(name, mine, **options)
        with isa_level(level):
            for step in range(8):
                before = [param.detach().clone() for param in theirs]
                old = copy.deepcopy(reference.state_dict())
                for param, value in zip(mine, before, strict=True):
                    param.data.copy_(value)
                if step:
                    optimizer.load_state_dict(old)
                set_grads(theirs, step)
                set_grads(mine, step)
                reference.step()
                optimizer.step()
                for a, b, start in zip(mine, theirs, before, strict=True):
                    a, b, start = (x.detach().numpy() for x in (a, b, start))
                    if name in EXACT:
                        assert np.array_equal(a, b)
                    # torch's square root is off by up to one unit, then two more roundings
                    bound = 2 * np.spacing(np.abs(start)) + 3 * np.spacing(np.abs(b - start))
                    # at least two units of what the parameter is now
                    bound = np.maximum(bound, 2 * np.spacing(np.abs(b)))
                    if options.get("momentum"):  # the step is itself a sum of such
                        bound = 4 * np.spacing(np.abs(start) + 1)
                    assert (np.abs(a - b) <= bound).all()
                for a, b in zip(mine, theirs, strict=True):
                    state, expected = optimizer.state[a], reference.state[b]
                    assert list(state) == list(expected)
                    for key, value in expected.items():
                        assert state[key].dtype is value.dtype
                        if name not in EXACT and key in ROUNDED_STATES:
                            torch.testing.assert_close(state[key], value, rtol=1e-6, atol=1e-5)
                        else:
                            assert torch.equal(state[key], value), key
        assert optimizer._table is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@EVERY
def test_half_types_compute_in_float32_and_round_once(name, dtype):
    """One step is that of float32 copies, rounded."""
    for options in OPTIONS[name]:
        mine = parameters(SIZES, dtype)
        wide = [torch.nn.Parameter(param.detach().float()) for param in mine]
        optimizer, reference = our(name, mine, **options), our(name, wide, **options)
        for step in range(3):
            set_grads(mine, step)
            for a, b in zip(mine, wide, strict=True):
                b.data.copy_(a.data)
                b.grad = a.grad.float()
                for key, value in optimizer.state.get(a, {}).items():
                    reference.state[b][key].copy_(value)
            optimizer.step()
            reference.step()
            if name == "Rprop" and not step:  # its first steps are lr, rounded
                continue
            for a, b in zip(mine, wide, strict=True):
                assert torch.equal(a, b.to(dtype))
                for key, value in reference.state[b].items():
                    assert optimizer.state[a][key].dtype is (
                        value.dtype if value.ndim == 0 else dtype
                    )
                    assert torch.equal(
                        optimizer.state[a][key], value.to(optimizer.state[a][key].dtype)
                    )


MIXTURES = [
    (torch.bfloat16, torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16, torch.float32),
    (torch.float32, torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float32, torch.float64),
    (torch.float32, torch.float32, torch.float16),
    (torch.float64, torch.float16, torch.float32),
]


@pytest.mark.parametrize("dtypes", MIXTURES, ids=lambda d: "-".join(str(x)[6:] for x in d))
@EVERY
def test_any_mixture_of_dtypes(name, dtypes):
    """What the widest float type of the three computes, each result rounded once."""
    param_dtype, grad_dtype, state_dtype = dtypes
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    options = OPTIONS[name][-1]
    mine = parameters([33, 300], param_dtype)
    copies = [torch.nn.Parameter(param.detach().to(wide, copy=True)) for param in mine]
    optimizer, reference = our(name, mine, **options), our(name, copies, **options)
    for step in range(3):
        set_grads(mine, step, grad_dtype)
        for a, b in zip(mine, copies, strict=True):
            b.data.copy_(a.data)
            b.grad = a.grad.to(wide)
            for key, value in optimizer.state.get(a, {}).items():
                reference.state[b][key].copy_(value)
        optimizer.step()
        reference.step()
        for a, b in zip(mine, copies, strict=True):
            rounds_first = name == "Rprop" and not step  # its first steps are lr, rounded
            assert rounds_first or torch.equal(a, b.to(param_dtype))
            for key, value in reference.state[b].items():
                state = optimizer.state[a]
                assert rounds_first or torch.equal(state[key], value.to(state[key].dtype))
                if not step and value.ndim:
                    state[key] = value.to(state_dtype, copy=True)
    assert optimizer._table is not None


@pytest.mark.skipif(not FMA_ISAS, reason="needs a fused multiply-add")
@EVERY
def test_the_same_bits_for_any_threads_split_level_and_strides(name):
    whole = parameters([34_000, 5])
    grads = [param.detach().cos() for param in whole]
    for options in OPTIONS[name]:
        expected = None
        for level, threads, pieces, stride in (
            ("avx2" if "avx2" in ISAS else FMA_ISAS[0], 1, 1, 1),
            (FMA_ISAS[-1], 3, 1, 1),
            (FMA_ISAS[-1], 2, 7, 1),
            (FMA_ISAS[-1], 2, 3, 2),
            ("avx2" if "avx2" in ISAS else FMA_ISAS[0], 2, 5, 3),
        ):
            if not getattr(ours, name)._rule.elementwise:
                pieces = 1
            params = []
            for param, grad in zip(whole, grads, strict=True):
                room = torch.zeros(param.numel(), stride)
                room[:, 0] = param.detach()
                for piece, part in zip(
                    room[:, 0].tensor_split(pieces), grad.tensor_split(pieces), strict=True
                ):
                    params.append(torch.nn.Parameter(piece))
                    assert params[-1].data_ptr() == piece.data_ptr()
                    params[-1].grad = part
            optimizer = our(name, params, **options)
            with isa_level(level), dlkernels.num_threads(threads):
                for _ in range(4):
                    optimizer.step()
            result = torch.cat([param.detach() for param in params])
            expected = result if expected is None else expected
            assert torch.equal(result, expected)


@EVERY
def test_layouts(name):
    """Strides of parameter, gradient and states in any combination; nothing outside is written."""
    options = OPTIONS[name][-1]
    x = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.Parameter(x.clone())
    reference = our(name, [plain], **options)
    layouts = {}
    for label, view in {
        "transposed": lambda t: t.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "slices": lambda t: torch.stack((t, t + 1), -1)[..., 0],
        "window": lambda t: torch.nn.functional.pad(t, (1, 2, 3, 1))[:, 3:-1, 1:-2],
    }.items():
        param = torch.nn.Parameter(view(x))
        layouts[label] = (param, our(name, [param], **options), view)
    for step in range(3):
        grad = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(5 + step))
        plain.grad = grad
        reference.step()
        for label, (param, optimizer, view) in layouts.items():
            param.grad = grad if label == "transposed" else view(grad)
            storage = torch.empty(0).set_(param.detach().untyped_storage())
            outside = torch.ones_like(storage, dtype=torch.bool)
            outside.as_strided(param.shape, param.stride(), param.storage_offset()).fill_(False)
            before = storage[outside].clone()
            optimizer.step()
            if getattr(ours, name)._rule.elementwise:
                assert torch.equal(param, plain), label
            else:
                torch.testing.assert_close(param, plain, rtol=1e-6, atol=1e-7)
                param.data.copy_(plain)
            assert torch.equal(storage[outside], before), label
            for key, value in reference.state[plain].items():
                assert torch.equal(optimizer.state[param][key], value)
                if value.ndim and step == 0:
                    optimizer.state[param][key] = view(value)


# --- torch's database


def trained_by(make, name, options, dtype, contiguous):
    """Three parameters after seven steps in which gradients come and go, and the optimizer."""
    torch.manual_seed(0)
    weight = torch.randn(10, 5) if contiguous else torch.randn(10, 5, 2)[..., 0]
    weight = torch.nn.Parameter(weight.to(dtype))
    bias = torch.nn.Parameter(torch.randn(10).to(dtype))
    frozen = torch.nn.Parameter(torch.randn(3).to(dtype))
    empty = torch.nn.Parameter(torch.empty(0, dtype=dtype))
    x = torch.randn(5).to(dtype)
    optimizer = make(name, [weight, bias, frozen, empty], **copy.deepcopy(options))
    for step in range(7):
        optimizer.zero_grad()
        (weight.mv(x) + bias).pow(2).sum().backward()
        empty.grad = torch.empty_like(empty)
        weight.requires_grad_(step != 3)
        if step == 2:
            bias.grad = None
        if step >= 4:
            frozen.grad = torch.ones_like(frozen)
        optimizer.step()
    return weight, bias, frozen, optimizer


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float32, torch.bfloat16),
        *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float64, torch.float16)),
    ],
    ids=str,
)
@BY_INFO
def test_optim_db_inputs(info, dtype):
    name = info.optim_cls.__name__
    contiguous = dtype in (torch.float32, torch.float16)
    tolerances = {torch.float32: 1e-5, torch.float64: 1e-7}.get(dtype, 4e-2)
    for case in info.optim_inputs_func(device="cpu", dtype=dtype):
        if case.kwargs.get("differentiable") or case.kwargs.get("capturable"):
            continue
        plain = {key: value for key, value in case.kwargs.items() if key != "foreach"}
        *theirs, their_optimizer = trained_by(torch_loop, name, plain, dtype, contiguous)
        for extra in ({}, {"foreach": True}, {"capturable": True}, {"fused": True}):
            if any(key not in info.optim_cls.__init__.__code__.co_varnames for key in extra):
                continue
            *mine, my_optimizer = trained_by(our, name, case.kwargs | extra, dtype, contiguous)
            for a, b in zip(mine, theirs, strict=True):
                assert a.isfinite().all()
                # torch's float16 squares underflow, and then 0 / 0
                b = torch.where(b.isfinite(), b, a) if dtype is torch.float16 else b
                torch.testing.assert_close(a, b, rtol=tolerances, atol=tolerances)
            assert [list(state) for state in my_optimizer.state.values()] == [
                list(state) for state in their_optimizer.state.values()
            ]


@BY_INFO
def test_optim_db_error_inputs(info):
    optimizer_class = getattr(ours, info.optim_cls.__name__)
    cases = list(info.optim_error_inputs_func(device="cpu", dtype=torch.float32))
    assert cases
    for case in cases:
        given = case.optimizer_error_input
        if case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(case.error_type, match=case.error_regex):
                optimizer_class(given.params, **given.kwargs)
        else:
            optimizer = optimizer_class(given.params, **given.kwargs)
            with pytest.raises(case.error_type, match=case.error_regex):
                optimizer.step()


# --- groups, states, hooks


@BY_NAME
def test_the_groups_and_the_signature_are_torchs(name):
    import inspect

    mine, theirs = our(name, parameters([3])), getattr(torch.optim, name)(parameters([3]))
    assert isinstance(mine, getattr(torch.optim, name))
    assert mine.param_groups[0].keys() == theirs.param_groups[0].keys()
    assert repr(mine) == repr(theirs)
    signature = inspect.signature(type(theirs))
    ours_first = list(inspect.signature(type(mine)).parameters.values())
    assert ours_first[: len(signature.parameters)] == list(signature.parameters.values())
    assert mine.step.__func__ is type(mine).step
    if "fused" in mine.defaults:
        assert not hasattr(our(name, parameters([3]), fused=True), "_step_supports_amp_scaling")


@CASES
def test_state_dicts_go_both_ways(name, options):
    mine, theirs = parameters([40, 3]), parameters([40, 3])
    pair = []
    for make, params in ((our, mine), (torch_loop, theirs)):
        optimizer = make(name, params, **options)
        for step in range(3):
            set_grads(params, step)
            optimizer.step()
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        pair.append(torch.load(file, weights_only=True))
    assert pair[0]["param_groups"][0].keys() == pair[1]["param_groups"][0].keys()
    for params, make, saved in ((mine, our, pair[1]), (theirs, torch_loop, pair[0])):
        optimizer = make(name, params, **options)
        optimizer.load_state_dict(saved)
        set_grads(params, 7)
        optimizer.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@EVERY
def test_older_state_dicts(name):
    """Without the flags that came later, and with a number for a step."""
    params = parameters([40])
    optimizer = our(name, params)
    set_grads(params, 0)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    for flag in ("foreach", "fused", "capturable", "differentiable", "maximize"):
        saved["param_groups"][0].pop(flag, None)
    for state in saved["state"].values():
        if "step" in state:
            state["step"] = state["step"].item()
    optimizer.load_state_dict(saved)
    before = params[0].detach().clone()
    optimizer.step()
    assert optimizer._table is not None
    assert not torch.equal(before, params[0])


@EVERY
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_deepcopy_and_pickle(name, clone):
    params = parameters([40, 3])
    optimizer = our(name, params, **OPTIONS[name][-1])
    set_grads(params, 0)
    optimizer.step()
    twin = clone(optimizer)
    copied = twin.param_groups[0]["params"]
    for stepped, owner in ((params, optimizer), (copied, twin)):
        set_grads(stepped, 9)
        owner.step()
    assert_same_bits(results(optimizer, params), results(twin, copied))


@pytest.mark.parametrize("name", [name for name in ours.__all__ if name not in ("SGD", "Lion")])
def test_float32_states_of_bfloat16_parameters_survive_loading(name):
    params = parameters([40], torch.bfloat16)
    optimizer = our(name, params)
    set_grads(params, 0)
    optimizer.step()
    for key, value in optimizer.state[params[0]].items():
        optimizer.state[params[0]][key] = value.float() + (value.ndim > 0) / 3
    saved = copy.deepcopy(optimizer.state_dict())
    fresh = our(name, params)
    fresh.load_state_dict(saved)
    for key, value in saved["state"][0].items():
        assert fresh.state[params[0]][key].dtype is torch.float32
        assert torch.equal(fresh.state[params[0]][key], value)
    optimizer.step()
    assert optimizer.state[params[0]].keys() == saved["state"][0].keys()


@BY_NAME
def test_groups_late_gradients_and_schedulers(name):
    outcomes = []
    for make in (our, torch_loop):
        params = parameters([17, 33, 5, 8])
        optimizer = make(
            name, [{"params": params[:1], "lr": 0.05}, {"params": params[1:3]}], lr=0.01
        )
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        for step in range(6):
            if step == 1:
                optimizer.add_param_group({"params": params[3:], "lr": 0.1})
            set_grads(params, step)
            if step < 3:
                params[1].grad = None
            if step == 4:
                params[0].grad = None
            optimizer.step()
            scheduler.step()
        outcomes.append((params, [list(state) for state in optimizer.state.values()]))
    torch.testing.assert_close(outcomes[0][0], outcomes[1][0], rtol=1e-5, atol=1e-6)
    assert outcomes[0][1] == outcomes[1][1]


@BY_NAME
def test_tensor_learning_rates_and_betas(name):
    outcomes = []
    for make in (our, torch_loop):
        params = parameters([33])
        rate = torch.tensor(0.01)
        options = {}
        if name in ("Adam", "AdamW"):
            options["betas"] = (torch.tensor(0.8), torch.tensor(0.9))
        optimizer = make(name, params, lr=rate, **options)
        for step in range(3):
            rate.fill_(0.01 / (step + 1))
            set_grads(params, step)
            optimizer.step()
        assert optimizer.param_groups[0]["lr"] is rate
        outcomes.append(params)
    torch.testing.assert_close(*outcomes, rtol=1e-5, atol=1e-6)


@BY_NAME
def test_a_learning_rate_and_gradient_of_zero_change_no_bit(name):
    """What a distributed checkpoint does to have the states made."""
    params = parameters(SIZES)
    params[5].data[:3] = torch.tensor([-0.0, 1e-42, float("inf")])
    before = [param.detach().clone() for param in params]
    optimizer = our(name, params, lr=0.0)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for a, b in zip(params, before, strict=True):
        assert np.array_equal(a.detach().numpy().view(np.int32), b.numpy().view(np.int32))
    assert all(set(optimizer.state[param]) for param in params) or name == "SGD"


@EVERY
def test_versions_are_counted_and_nothing_is_kept_without_gradients(name):
    params = parameters([33, 0, 5])
    optimizer = our(name, params)
    optimizer.step()
    assert optimizer.state_dict()["state"].keys() <= {0, 1, 2}
    product = params[0] * params[0]
    for step in range(3):
        set_grads(params, step)
        versions = [p._version for p in params]
        states = [(v, v._version) for s in optimizer.state.values() for v in s.values()]
        optimizer.step()
        assert all(p._version > v for p, v in zip(params, versions, strict=True))
        assert all(value._version > version for value, version in states)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@EVERY
def test_without_torchs_exported_functions(name, monkeypatch):
    """Another torch may not have them: the step goes through Python's views of tensors."""
    options = OPTIONS[name][-1]
    expected, params = parameters(SIZES), parameters(SIZES)
    reference = our(name, expected, **options)
    for step in range(3):
        set_grads(expected, step)
        reference.step()
    monkeypatch.setattr(_core, "torch_handles_available", lambda: False)
    optimizer = our(name, params, **options)
    for step in range(3):
        set_grads(params, step)
        versions = [p._version for p in params]
        optimizer.step()
        assert all(p._version > v for p, v in zip(params, versions, strict=True))
    assert optimizer._table is not None
    assert_same_bits(results(reference, expected), results(optimizer, params))


@BY_NAME
def test_grad_scaler(name):
    outcomes = []
    for make in (our, torch_loop):
        params = parameters([33, 7])
        optimizer = make(name, params)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(sum(((p - step) ** 2).sum() for p in params)).backward()
            if step in (0, 2):  # the very first step too
                params[0].grad[3] = float("inf")
            scaler.step(optimizer)
            scaler.update()
        outcomes.append(params)
    torch.testing.assert_close(*outcomes, rtol=1e-5, atol=1e-6)


# --- what goes to torch


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@BY_NAME
def test_sparse_gradients_are_torchs(name):
    outcomes = []
    for make in (our, torch_loop):
        param = torch.nn.Parameter(torch.ones(6, 4))
        param.grad = torch.sparse_coo_tensor(
            [[0, 3, 3]], torch.full((3, 4), 2.0), (6, 4), check_invariants=False
        )
        optimizer = make(name, [param])
        try:
            optimizer.step()
            optimizer.step()
            outcomes.append(param.detach())
        except RuntimeError as error:
            outcomes.append(str(error))
    if isinstance(outcomes[0], str):
        assert outcomes[0] == outcomes[1]
        assert name not in ("SGD", "Adagrad")
    else:
        assert torch.equal(*outcomes)


@BY_NAME
def test_complex_parameters_are_torchs(name):
    outcomes = []
    for make in (our, torch_loop):
        params = [
            torch.nn.Parameter(torch.full((4,), 1 + 2j)),
            torch.nn.Parameter(torch.ones(3)),
        ]
        optimizer = make(name, params)
        for step in range(3):
            params[0].grad = torch.full((4,), step + 1j)
            params[1].grad = torch.full((3,), 2.0)
            optimizer.step()
        outcomes.append([param.detach() for param in params])
    torch.testing.assert_close(*outcomes)


# Adamax's own differentiable step fails in backward
@pytest.mark.parametrize("name", [name for name in NAMES if name != "Adamax"])
def test_differentiable_steps_are_torchs(name):
    outcomes = []
    for make in (our, torch_loop):
        leaf = torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_()
        param = leaf.clone()
        optimizer = make(name, [param], differentiable=True)
        for _ in range(2):
            param.grad = torch.sin(param.detach()) + 1.5
            optimizer.step()
        param.sum().backward()
        outcomes.append((param.detach(), leaf.grad))
    torch.testing.assert_close(*outcomes)


# --- what torch has not


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in ours.__all__ if name not in NAMES for options in OPTIONS[name]],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_those_that_torch_lacks_are_their_loops(name, options, dtype):
    mine, theirs = parameters(SIZES, dtype), parameters(SIZES, dtype)
    for params in (mine, theirs):
        params[-1].data.zero_()  # its norm is zero
    optimizer, reference = our(name, mine, **options), getattr(loops, name)(theirs, **options)
    tolerances = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {}
    for step in range(5):
        set_grads(mine, step)
        set_grads(theirs, step)
        for params in (mine, theirs):
            params[2].grad = torch.zeros_like(params[2])
        optimizer.step()
        reference.step()
    assert optimizer._table is not None
    torch.testing.assert_close(mine, theirs, **tolerances)
    for a, b in zip(mine, theirs, strict=True):
        assert list(optimizer.state[a]) == list(reference.state[b])
        torch.testing.assert_close(optimizer.state[a], reference.state[b], **tolerances)
    assert repr(optimizer) == repr(reference)


@pytest.mark.parametrize("name", ["LAMB", "LARS", "Lion"])
def test_complex_parameters_are_pairs_of_numbers(name):
    outcomes = []
    for is_complex in (True, False):
        value = torch.tensor([[1.0, 2.0], [-3.0, 0.5]])
        param = torch.nn.Parameter(torch.view_as_complex(value) if is_complex else value)
        optimizer = our(name, [param], **OPTIONS[name][-1])
        for step in range(3):
            grad = torch.tensor([[0.5, -1.0], [2.0, step - 1.0]])
            param.grad = torch.view_as_complex(grad) if is_complex else grad
            optimizer.step()
        param = param.detach()
        outcomes.append(torch.view_as_real(param) if is_complex else param)
    torch.testing.assert_close(*outcomes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_layerwise_steps_may_be_differentiable(name):
    def stepped(leaf):
        param = leaf.clone()
        optimizer = our(name, [param], lr=0.3, weight_decay=0.1, differentiable=True)
        param.grad = torch.linspace(-1, 2, 5, dtype=torch.float64)
        optimizer.step()
        return param

    leaf = torch.linspace(0.5, 1, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(stepped, leaf)


@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_norms_are_of_the_whole_parameter(name):
    """A parameter of several pieces, and one with gaps, of which each row is a piece."""
    x = torch.randn(70, 1000, generator=torch.Generator().manual_seed(0))
    for factor in (1e-3, 1.0, 1e18):  # squares beyond float32
        room = torch.zeros(70, 2000)
        room[:, :1000] = x * factor
        params = [torch.nn.Parameter(x * factor), torch.nn.Parameter(room[:, :1000])]
        reference = torch.nn.Parameter(x.double() * factor)
        for param in (*params, reference):
            optimizer = (our if param is not reference else loop)(name, [param], lr=0.1)
            param.grad = x.cos().to(param.dtype) * factor
            optimizer.step()
            if param is reference:
                for mine in params:
                    torch.testing.assert_close(
                        mine.double(), reference, rtol=1e-6, atol=1e-6 * factor
                    )


def loop(name, params, **options):
    return getattr(loops, name)(params, **options)


def test_lions_derivative():
    leaf = torch.ones(3, requires_grad=True)
    param = leaf.clone()
    param.grad = torch.ones(3)
    our("Lion", [param], lr=0.5, weight_decay=1.0, differentiable=True).step()
    param.sum().backward()
    assert torch.equal(leaf.grad, torch.full((3,), 0.5))


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("LAMB", "LARS", "Lion"), {"lr": -1.0}, "Invalid learning rate: -1.0"),
        (("LAMB", "Lion"), {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        (("LAMB", "Lion"), {"betas": (0.5, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        (("LAMB", "LARS", "Lion"), {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        (("LAMB", "LARS", "Lion"), {"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        (("LAMB", "LARS"), {"eps": -1e-8}, "Invalid epsilon value: -1e-08"),
        (("LARS",), {"momentum": -0.1}, "Invalid momentum value: -0.1"),
        (("LARS",), {"trust_coefficient": -1}, "Invalid trust_coefficient value: -1"),
        (("LARS",), {"nesterov": True, "dampening": 0.1}, "Nesterov momentum requires"),
    ],
)
def test_those_that_torch_lacks_refuse(names, options, message):
    for name in names:
        with pytest.raises(ValueError, match=message):
            our(name, parameters([3]), **options)
        param = parameters([6])[0]
        param.grad = torch.sparse_coo_tensor([[0]], [1.0], (6,), check_invariants=False)
        with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
            our(name, [param]).step()
