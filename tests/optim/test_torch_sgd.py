"""`dlkernels.torch.optim.SGD` against `torch.optim.SGD`."""

import copy
import io
import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dlkernels import _core
from dlkernels.torch import functional
from dlkernels.torch.optim import SGD
from optim.problems import parameters, set_grads
from support import FMA_ISAS, isa_level
from torch_support import DispatchLog, assert_same_bits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's test modules use what torch deprecates
    from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

(OPTIM_INFO,) = (entry for entry in optim_db if entry.optim_cls is torch.optim.SGD)

SIZES = [0, 1, 2, 7, 15, 16, 17, 31, 33, 64, 127, 1000, 4099, 16383, 16385, 40000]

GRID = [
    {"lr": lr, "momentum": m, "dampening": d, "weight_decay": w, "nesterov": n, "maximize": x}
    for lr, m, d, w, n, x in itertools.product(
        (0.1,), (0.0, 0.9), (0.0, 0.5), (0.0, 0.01), (False, True), (False, True)
    )
    if not (n and (m == 0 or d != 0))
] + [{"lr": 1e-4, "momentum": 0.99}, {"lr": 7.3, "weight_decay": 0.3}, {"lr": 0.0}]


def buffers(optimizer):
    return [
        state["momentum_buffer"]
        for p in optimizer.param_groups[0]["params"]
        for state in [optimizer.state.get(p, {})]
        if state.get("momentum_buffer") is not None
    ]


@pytest.fixture(params=FMA_ISAS)
def fma_isa(request):
    """An instruction set with a fused multiply-add, which torch's loop uses too."""
    with isa_level(request.param):
        yield request.param


def run(optimizer_class, params, steps=4, **options):
    optimizer = optimizer_class(params, **options)
    for step in range(steps):
        set_grads(params, step)
        assert optimizer.step() is None
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", GRID, ids=lambda o: "-".join(f"{v:g}" for v in o.values()))
def test_bit_equal_to_the_loop(options, dtype, fma_isa):
    ours, theirs = parameters(SIZES, dtype), parameters(SIZES, dtype)
    our_sgd = run(SGD, ours, **options)
    their_sgd = run(torch.optim.SGD, theirs, foreach=False, **options)
    assert_same_bits(ours, theirs)
    assert_same_bits(buffers(our_sgd), buffers(their_sgd))
    assert len(buffers(our_sgd)) == (len(SIZES) if options.get("momentum") else 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("nesterov", [False, True])
def test_half_types_are_computed_in_float32_and_rounded_once(dtype, nesterov, isa):
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    params = parameters(SIZES, dtype)
    optimizer = SGD(params, **options)
    buffer = [torch.zeros_like(p, dtype=torch.float32) for p in params]
    for step in range(4):
        set_grads(params, step)
        before = [p.detach().float() for p in params]
        optimizer.step()
        for i, param in enumerate(params):
            g = param.grad.float() + 0.01 * before[i]
            exact = g if step == 0 else 0.9 * buffer[i] + g
            direction = g + 0.9 * exact if nesterov else exact
            expected = before[i] - 0.05 * direction
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(
                param.detach().float(), expected, rtol=eps / 2 * 1.01, atol=eps * 1e-3
            )
            buffer[i] = optimizer.state[param]["momentum_buffer"].float()
            assert optimizer.state[param]["momentum_buffer"].dtype is dtype
            torch.testing.assert_close(buffer[i], exact, rtol=eps / 2 * 1.01, atol=eps * 1e-3)


# --- torch's database


def instances(info):
    return info.optim_inputs_func(device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("contiguous", [True, False])
def test_optim_db_inputs(contiguous):
    count = 0
    for case in instances(OPTIM_INFO):
        for extra in ({}, {"foreach": True}, {"fused": True}, {"foreach": False}):
            count += 1
            pairs = []
            for optimizer_class, given in ((SGD, extra), (torch.optim.SGD, {"foreach": False})):
                torch.manual_seed(0)
                weight = torch.randn(10, 5, 2)[..., 0] if not contiguous else torch.randn(10, 5)
                weight = torch.nn.Parameter(weight)
                bias = torch.nn.Parameter(torch.randn(10))
                empty = torch.nn.Parameter(torch.empty(0))
                x = torch.randn(5)
                # some of the database's options come as tensors that both must not share
                kwargs = copy.deepcopy({**case.kwargs, **given})
                optimizer = optimizer_class([weight, bias, empty], **kwargs)
                if kwargs.get("differentiable"):
                    continue
                for step in range(7):
                    optimizer.zero_grad()
                    (weight.mv(x) + bias).pow(2).sum().backward()
                    if step == 2:
                        bias.grad = None
                    optimizer.step()
                pairs.append((weight, bias))
            if pairs:
                for a, b in zip(*pairs, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert count >= 4 * 5


def test_optim_db_error_inputs():
    cases = list(OPTIM_INFO.optim_error_inputs_func(device="cpu", dtype=torch.float32))
    assert cases
    for case in cases:
        given = case.optimizer_error_input
        if case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(case.error_type, match=case.error_regex):
                SGD(given.params, **given.kwargs)
        else:
            optimizer = SGD(given.params, **given.kwargs)
            with pytest.raises(case.error_type, match=case.error_regex):
                optimizer.step()


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"momentum": -0.1},
        {"weight_decay": -1.0},
        {"nesterov": True},
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        {"lr": torch.tensor([0.1, 0.2])},
        {"fused": True, "foreach": True},
        {"fused": True, "differentiable": True},
        {"unknown": 1},
    ],
)
def test_bad_arguments_raise_what_torch_raises(options):
    with pytest.raises((ValueError, RuntimeError, TypeError)) as expected:
        torch.optim.SGD(parameters([3]), **options)
    with pytest.raises(expected.type) as raised:
        SGD(parameters([3]), **options)
    assert str(raised.value) == str(expected.value)


# --- groups, states, hooks


@pytest.mark.parametrize("option", ["foreach", "fused"])
@pytest.mark.parametrize("value", [None, False, True])
def test_foreach_and_fused_are_kept_and_change_nothing(option, value):
    params, theirs = parameters([33]), parameters([33])
    optimizer = run(SGD, params, lr=0.1, momentum=0.9, **{option: value})
    assert optimizer.param_groups[0][option] is value
    assert optimizer.defaults[option] is value
    late = torch.nn.Parameter(torch.zeros(2))
    optimizer.add_param_group({"params": [late]})
    assert optimizer.param_groups[1][option] is value
    # a GradScaler must unscale by itself
    assert not hasattr(optimizer, "_step_supports_amp_scaling")
    run(torch.optim.SGD, theirs, lr=0.1, momentum=0.9, foreach=False)
    torch.testing.assert_close(params, theirs)


def test_the_groups_are_torchs():
    options = {"lr": 0.1, "momentum": 0.9}
    ours, theirs = SGD(parameters([3]), **options), torch.optim.SGD(parameters([3]), **options)
    assert isinstance(ours, torch.optim.SGD)
    assert list(ours.param_groups[0]) == list(theirs.param_groups[0])
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_state_dicts_round_trip_with_torch(momentum):
    options = {"lr": 0.1, "momentum": momentum}
    ours, theirs = parameters([40, 3]), parameters([40, 3])
    our_sgd = run(SGD, ours, 2, **options)
    their_sgd = run(torch.optim.SGD, theirs, 2, foreach=False, **options)
    for a, b in ((our_sgd, their_sgd), (their_sgd, our_sgd)):
        first, second = a.state_dict(), b.state_dict()
        assert first.keys() == second.keys()
        assert first["state"].keys() == second["state"].keys()
    swapped_ours = SGD(ours, lr=9.0)
    swapped_ours.load_state_dict(their_sgd.state_dict())
    swapped_theirs = torch.optim.SGD(theirs, lr=9.0)
    swapped_theirs.load_state_dict(our_sgd.state_dict())
    assert swapped_ours.param_groups[0]["momentum"] == momentum
    for params, optimizer in ((ours, swapped_ours), (theirs, swapped_theirs)):
        set_grads(params, 5)
        optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_save_and_load_with_weights_only():
    params = parameters([40, 3])
    optimizer = run(SGD, params, 2, lr=0.1, momentum=0.9)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    fresh = SGD(copy.deepcopy(params), lr=5.0)
    fresh.load_state_dict(loaded)
    assert_same_bits(buffers(fresh), buffers(optimizer))
    assert fresh.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_deepcopy_and_pickle(clone):
    params = parameters([40, 3])
    optimizer = run(SGD, params, 2, lr=0.1, momentum=0.9)
    twin = clone(optimizer)
    assert type(twin) is SGD
    copied = twin.param_groups[0]["params"]
    for stepped, owner in ((params, optimizer), (copied, twin)):
        set_grads(stepped, 9)
        owner.step()
    assert_same_bits(params, copied)
    assert params[0] is not copied[0]


def test_groups_have_their_own_options_and_may_be_added():
    for optimizer_class, results in ((SGD, ours := []), (torch.optim.SGD, theirs := [])):
        params = parameters([17, 33, 5, 8])
        optimizer = optimizer_class(
            [{"params": params[:1], "lr": 0.5}, {"params": params[1:3], "momentum": 0.9}],
            lr=0.1,
            weight_decay=0.01,
        )
        set_grads(params, 0)
        optimizer.step()
        optimizer.add_param_group({"params": params[3:], "maximize": True, "momentum": 0.5})
        for step in range(1, 4):
            set_grads(params, step)
            optimizer.step()
        results.extend(params)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_named_parameters():
    model = torch.nn.Linear(3, 2)
    optimizer = SGD(model.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


def test_a_closure_is_evaluated_with_gradients_and_its_value_returned():
    param = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = SGD([param], lr=0.25)

    def closure():
        optimizer.zero_grad()
        assert torch.is_grad_enabled()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 4.0
    assert param.item() == 1.0
    result = param.clone()
    differentiable = SGD([result], lr=0.25, differentiable=True)

    def other():
        result.grad = torch.ones(1)
        return 17

    assert differentiable.step(other) == 17


def test_learning_rate_schedulers():
    results = []
    for optimizer_class in (SGD, torch.optim.SGD):
        params = parameters([33])
        optimizer = optimizer_class(params, lr=0.5, momentum=0.9)
        schedulers = [
            torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
        ]
        rates = []
        for step in range(6):
            set_grads(params, step)
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        results.append((params[0], rates))
    assert results[0][1] == results[1][1]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-7)


def test_step_hooks_run_once_and_in_order():
    for differentiable in (False, True):
        # torch patches its own class's step when one is made: ours must not run those hooks twice
        torch.optim.SGD(parameters([1]), lr=0.1)
        params = parameters([5])
        if differentiable:  # such a step writes to its parameters as autograd sees it: no leaves
            params = [params[0].clone()]
        optimizer = SGD(params, lr=0.1, differentiable=differentiable)
        seen = []
        optimizer.register_step_pre_hook(lambda *_, seen=seen: seen.append("before"))
        optimizer.register_step_post_hook(lambda *_, seen=seen: seen.append("after"))
        handle = register_optimizer_step_pre_hook(lambda *_, seen=seen: seen.append("global"))
        try:
            params[0].grad = torch.ones(5)
            optimizer.step()
        finally:
            handle.remove()
        assert seen == ["global", "before", "after"]


def test_the_profiler_sees_the_step():
    params = parameters([5])
    optimizer = SGD(params, lr=0.1)
    set_grads(params, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            optimizer.step()
            optimizer.zero_grad()
    names = {event.key for event in profile.key_averages()}
    assert "Optimizer.step#SGD.step" in names


def test_the_profiler_names_operations():
    """Forward and backward, eager, by the operation that the kernel does."""
    x = torch.randn(8, 6).requires_grad_()
    target = torch.arange(8) % 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            y = functional.batch_norm(functional.gelu(x), None, None, training=True)
            loss = functional.cross_entropy(functional.dropout(y), target)
            (loss + functional.mse_loss(y, x)).backward()
    names = {event.key for event in profile.key_averages()}
    for name in ("gelu", "batch_norm", "cross_entropy", "dropout", "mse_loss"):
        assert f"dlkernels::{name}" in names
    for name in ("gelu_backward", "batch_norm_backward"):
        assert f"dlkernels::{name}" in names


def test_step_is_a_plain_bound_method():
    optimizer = SGD(parameters([3]))
    assert optimizer.step.__func__ is type(optimizer).step
    assert optimizer.step.__self__ is optimizer


@pytest.mark.parametrize("fused", [None, True])
def test_grad_scaler(fused):
    results = []
    for optimizer_class, kwargs in ((SGD, {"fused": fused}), (torch.optim.SGD, {})):
        params = parameters([33, 7])
        optimizer = optimizer_class(params, lr=0.1, momentum=0.9, **kwargs)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(4):
            optimizer.zero_grad()
            loss = sum(((p - step) ** 2).sum() for p in params)
            scaler.scale(loss).backward()
            if step in (0, 2):  # the very first step too
                params[0].grad[3] = float("inf")
            scaler.step(optimizer)
            scaler.update()
        results.append([*params, *buffers(optimizer)])
        assert scaler.get_scale() == 256.0
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_tensor_options_are_read_at_every_step():
    params, theirs = parameters([33]), parameters([33])
    rate = torch.tensor(0.5)
    optimizer = SGD(params, lr=rate, weight_decay=torch.tensor(0.1), momentum=0.9)
    other = torch.optim.SGD(theirs, lr=0.5, weight_decay=float(torch.tensor(0.1)), momentum=0.9)
    for step, value in enumerate((0.5, 0.25, 0.125)):
        rate.fill_(value)
        other.param_groups[0]["lr"] = value
        set_grads(params, step)
        set_grads(theirs, step)
        optimizer.step()
        other.step()
    torch.testing.assert_close(params, theirs, rtol=1e-6, atol=1e-7)
    assert optimizer.param_groups[0]["lr"] is rate


# --- gradients that come late, or not at all


def test_missing_and_late_gradients():
    for options in ({"momentum": 0.9, "dampening": 0.5}, {}):
        results = []
        for optimizer_class in (SGD, torch.optim.SGD):
            params = parameters([16, 33, 0, 5])
            optimizer = optimizer_class(params, lr=0.1, **options)
            assert optimizer.step() is None
            assert not optimizer.state_dict()["state"]
            for step in range(6):
                set_grads(params, step)
                if step < 3:
                    params[1].grad = None  # its first step is when it first has one
                if step == 4:
                    params[0].grad = None
                optimizer.step()
                if step == 0:
                    states = optimizer.state_dict()["state"]
                    assert 1 not in states
            results.append([*params, *buffers(optimizer)])
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


def test_the_first_step_takes_the_gradient_without_dampening():
    param = torch.nn.Parameter(torch.zeros(1))
    optimizer = SGD([param], lr=1.0, momentum=0.9, dampening=0.5)
    param.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.state[param]["momentum_buffer"].item() == 1.0
    optimizer.step()
    assert optimizer.state[param]["momentum_buffer"].item() == pytest.approx(1.4)


def test_a_learning_rate_of_zero_changes_no_bit():
    params = parameters(SIZES)
    params[5].data[:3] = torch.tensor([-0.0, 1e-42, float("inf")])
    before = [p.detach().clone() for p in params]
    optimizer = SGD(params, lr=0.0, momentum=0.9)
    for step in range(2):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        set_grads(params[:4], step)
        optimizer.step()
    for a, b in zip(params, before, strict=True):
        assert np.array_equal(a.detach().numpy().view(np.int32), b.numpy().view(np.int32))
    assert all("momentum_buffer" in optimizer.state[p] for p in params)


# --- layouts


CHANNELS_LAST = {"memory_format": torch.channels_last}


def layouts():
    """(name, parameter, gradient, momentum buffer or None) that lie differently in memory."""
    x = torch.arange(240.0).reshape(4, 5, 3, 4).sin()
    g, b = x.cos(), (2 * x).sin()
    yield "contiguous", x, g, b
    yield "transposed gradient", x, g.mT.contiguous().mT, b
    yield "channels_last parameter, contiguous state", x.contiguous(**CHANNELS_LAST), g, b
    yield (
        "contiguous parameter, channels_last gradient, transposed state",
        x,
        g.contiguous(**CHANNELS_LAST),
        b.transpose(0, 3).contiguous().transpose(0, 3),
    )
    yield "expanded gradient", x, g[:1].expand(4, -1, -1, -1), b
    yield (
        "every second element",
        torch.stack((x, x), -1)[..., 0],
        torch.stack((g, g), -1)[..., 1],
        b,
    )
    yield "sliced", torch.nn.functional.pad(x, (1, 2))[..., 1:-2], g, b
    yield "no state yet", x.contiguous(**CHANNELS_LAST), g, None
    yield "unaligned", torch.cat((x.flatten(), x.flatten()))[1:241].view(4, 5, 3, 4), g, b


@pytest.mark.parametrize("case", list(layouts()), ids=lambda case: case[0])
def test_layouts_of_parameter_gradient_and_state(case):
    _, x, g, b = case
    results = []
    for optimizer_class, mine in ((SGD, True), (torch.optim.SGD, False)):
        # our copy keeps the storage with its neighbours, so that what lies between is seen
        storage = torch.empty(0).set_(x.untyped_storage()).clone()
        outside = torch.ones_like(storage, dtype=torch.bool)
        view = storage.as_strided(x.shape, x.stride(), x.storage_offset())
        outside.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(False)
        before = storage.clone()
        param = torch.nn.Parameter(view)
        assert param.data_ptr() == view.data_ptr()
        optimizer = optimizer_class([param], lr=0.1, momentum=0.9, nesterov=True)
        if b is not None:
            optimizer.state[param]["momentum_buffer"] = b.clone(memory_format=torch.preserve_format)
        for scale in (1, 2):
            param.grad = g * scale if mine else (g * scale).contiguous()
            if mine and g.stride() != g.contiguous().stride():
                param.grad = (
                    torch.empty_strided(g.shape, g.stride()).copy_(g * scale)
                    if 0 not in g.stride()
                    else g[:1].mul(scale).expand(4, -1, -1, -1)
                )
            optimizer.step()
        assert torch.equal(storage[outside], before[outside])
        results.append((param.detach(), optimizer.state[param]["momentum_buffer"]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_a_contiguous_checkpoint_into_a_channels_last_model():
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(3, 4, 3)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    first = SGD(plain.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(2, 3, 8, 8)
    plain(x).square().mean().backward()
    first.step()
    last.load_state_dict(plain.state_dict())
    second = SGD(last.parameters(), lr=0.1, momentum=0.9)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model, optimizer in ((plain, first), (last, second)):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(
        list(plain.parameters()), list(last.parameters()), rtol=1e-5, atol=1e-6
    )


def test_parameters_that_overlap_themselves_are_refused_before_any_write():
    shared = torch.zeros(1).expand(4)
    param = torch.nn.Parameter(shared)
    param.grad = torch.ones(4)
    for optimizer_class in (torch.optim.SGD, SGD):
        with pytest.raises((RuntimeError, ValueError)):
            optimizer_class([param], lr=0.1).step()
    assert shared[0] == 0


def test_version_counters_are_bumped():
    params = parameters([33, 0, 5])
    optimizer = SGD(params, lr=0.1, momentum=0.9)
    product = params[0] * params[0]
    set_grads(params, 0)
    versions = [p._version for p in params]
    optimizer.step()
    assert all(p._version > v for p, v in zip(params, versions, strict=True))
    buffer = optimizer.state[params[0]]["momentum_buffer"]
    version = buffer._version
    optimizer.step()
    assert buffer._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


# --- what goes to torch


def compare_with_torch(make_grads, make_params, **options):
    results = []
    for optimizer_class in (SGD, torch.optim.SGD):
        params = make_params()
        optimizer = optimizer_class(params, **options)
        for step in range(3):
            for param, grad in zip(params, make_grads(step), strict=True):
                param.grad = grad
            optimizer.step()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(*results)


def test_sparse_gradients():
    def grads(step):
        indices = torch.tensor([[0, 3, 3]])
        values = torch.full((3, 4), step + 1.0)
        return [
            torch.sparse_coo_tensor(indices, values, (6, 4), check_invariants=False),
            torch.ones(5),
        ]

    def params():
        return [torch.nn.Parameter(torch.ones(6, 4)), torch.nn.Parameter(torch.ones(5))]

    compare_with_torch(grads, params, lr=0.1)
    compare_with_torch(grads, params, lr=0.1, maximize=True)
    param = params()[0]
    param.grad = grads(0)[0]
    assert SGD([param], lr=0.1, fused=True).step() is None


def test_complex_and_mixed_dtypes():
    compare_with_torch(
        lambda step: [torch.full((4,), step + 1j), torch.ones(3)],
        lambda: [
            torch.nn.Parameter(torch.ones(4, dtype=torch.cfloat)),
            torch.nn.Parameter(torch.ones(3)),
        ],
        lr=0.1,
        momentum=0.9,
    )
    params = [
        torch.nn.Parameter(torch.ones(9, dtype=dtype))
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    ]
    for param in params:
        param.grad = torch.ones_like(param)
    SGD(params, lr=0.5).step()
    assert all((p == 0.5).all() for p in params)


def test_a_negated_gradient():
    grads = [torch.complex(torch.ones(5), torch.arange(5.0)).conj().imag]
    assert grads[0].is_neg()
    compare_with_torch(lambda step: grads, lambda: parameters([5]), lr=0.1, momentum=0.5)


def test_differentiable():
    for optimizer_class, results in ((SGD, ours := []), (torch.optim.SGD, theirs := [])):
        leaf = torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_()
        param = leaf.clone()
        rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        optimizer = optimizer_class([param], lr=rate, weight_decay=0.5, differentiable=True)
        for _ in range(2):
            param.grad = torch.sin(param.detach())
            optimizer.step()
        param.sum().backward()
        results.extend((param.detach(), leaf.grad, rate.grad))
    torch.testing.assert_close(ours, theirs)


def test_steps_under_a_dispatch_mode():
    """A mode sees states being made; the steps are those without one."""
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    params, others = parameters(SIZES), parameters(SIZES)
    with DispatchLog() as log:
        optimizer = run(SGD, params, **options)
    assert "aten.empty_like.default" in log.names
    assert not any("add_" in name for name in log.names)  # torch's loop
    plain = run(SGD, others, **options)
    assert_same_bits(params, others)
    assert_same_bits(buffers(optimizer), buffers(plain))
    assert all((value != 0).any() for value in params if value.numel())


def test_parameters_on_meta():
    """As torch's: nothing is computed, and there are states of their shapes and strides."""
    states = []
    for optimizer_class in (SGD, torch.optim.SGD):
        params = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in ((3,), (4, 5))]
        params[1].data = params[1].data.t()
        optimizer = optimizer_class(params, lr=0.1, momentum=0.9)
        versions = [param._version for param in params]
        for _ in range(2):
            for param in params:
                param.grad = torch.empty_like(param)
            optimizer.step()
        assert all(map(int.__gt__, (param._version for param in params), versions))
        states.append([optimizer.state[param]["momentum_buffer"] for param in params])
    for ours, theirs in zip(*states, strict=True):
        assert ours.is_meta
        assert (ours.shape, ours.stride(), ours.dtype) == (
            theirs.shape, theirs.stride(), theirs.dtype,
        )  # fmt: skip


# --- in use


def test_many_small_parameters():
    ours, theirs = parameters([64] * 500), parameters([64] * 500)
    run(SGD, ours, 3, lr=0.1, momentum=0.9, weight_decay=0.01)
    run(torch.optim.SGD, theirs, 3, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=False)
    if _core.active_isa() == "baseline":
        torch.testing.assert_close(ours, theirs)
    else:
        assert_same_bits(ours, theirs)


def test_optimizers_in_backward():
    """One optimizer per parameter, stepping from a hook as soon as its gradient is there."""
    models = []
    for optimizer_class in (SGD, torch.optim.SGD):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        optimizers = {p: optimizer_class([p], lr=0.1, momentum=0.9) for p in model.parameters()}

        def step(param, optimizers=optimizers):
            optimizers[param].step()
            optimizers[param].zero_grad()

        for param in model.parameters():
            param.register_post_accumulate_grad_hook(step)
        for _ in range(3):
            model(torch.ones(5, 8)).square().mean().backward()
        assert all(p.grad is None for p in model.parameters())
        models.append(model)
    torch.testing.assert_close(
        list(models[0].parameters()), list(models[1].parameters()), rtol=1e-5, atol=1e-7
    )


def test_threads_do_not_change_a_bit():
    import dlkernels

    results = []
    for threads in (1, 2, 5):
        params = parameters([100_000, 3, 70_001])
        with dlkernels.num_threads(threads):
            run(SGD, params, 3, lr=0.1, momentum=0.9, nesterov=True)
        results.append(params)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])
