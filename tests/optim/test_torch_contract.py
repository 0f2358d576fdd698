"""What a user of any `torch.optim.Optimizer` relies on, for every class of `dlkernels.torch.optim`:
what torch's own suite tests of its classes, and uses that it does not."""

import copy
import io
import itertools
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

import dlkernels.torch.optim as ours
from optim.problems import parameters, set_grads
from torch_support import assert_same_bits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's test modules use what torch deprecates
    from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

NAMES = [name for name in ours.__all__ if hasattr(torch.optim, name)]
INFOS = [info for info in optim_db if info.optim_cls.__name__ in NAMES]
BY_NAME = pytest.mark.parametrize("name", NAMES)
EVERY = pytest.mark.parametrize("name", ours.__all__)
#: Options that make every state there is.
OPTIONS = {
    "SGD": {"momentum": 0.9},
    "Adam": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}


def our(name, params, **options):
    return getattr(ours, name)(params, **{**OPTIONS.get(name, {}), **options})


def torch_loop(name, params, **options):
    options = {**OPTIONS.get(name, {}), "foreach": False, **options}
    return getattr(torch.optim, name)(params, **options)


def trained(name, steps=2, **options):
    params = parameters((33, 7))
    optimizer = our(name, params, **options)
    for step in range(steps):
        set_grads(params, step)
        optimizer.step()
    return optimizer, params


def state_values(optimizer):
    return [value for state in optimizer.state.values() for value in state.values()]


# --- torch's database


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.optim_cls.__name__)
def test_optim_db_error_inputs(info, dtype):
    optimizer_class = getattr(ours, info.optim_cls.__name__)
    for case in info.optim_error_inputs_func(device="cpu", dtype=dtype):
        given = case.optimizer_error_input
        if case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(case.error_type, match=case.error_regex):
                optimizer_class(given.params, **given.kwargs)
        else:
            optimizer = optimizer_class(given.params, **given.kwargs)
            with pytest.raises(case.error_type, match=case.error_regex):
                optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@EVERY
def test_it_goes_downhill(name, dtype):
    """Also a parameter and an input with gaps, with and without schedules."""
    rates = {"Adadelta": 5.0, "Adagrad": 0.3, "SGD": 0.002, "ASGD": 0.005, "RAdam": 0.1}
    rates |= {"LAMB": 0.03, "LARS": 3.0}
    for contiguous, scheduled in itertools.product((True, False), repeat=2):
        torch.manual_seed(0)
        weight = torch.randn(10, 5) if contiguous else torch.randn(10, 5, 2)[..., 0]
        x = torch.randn(5) if contiguous else torch.randn(5, 2)[..., 0]
        weight, bias = (torch.nn.Parameter(t.to(dtype)) for t in (weight, torch.randn(10)))
        optimizer = our(name, [weight, bias], lr=rates.get(name, 0.02))
        schedulers = [
            lr_scheduler.StepLR(optimizer, 10, 0.9), lr_scheduler.ReduceLROnPlateau(optimizer)
        ] if scheduled else []  # fmt: skip
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = (weight.mv(x.to(dtype)) + bias).pow(2).sum()
            loss.backward()
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step(*([loss.detach()] if scheduler is schedulers[-1] else []))
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.98 * losses[0]


# --- states


@EVERY
def test_saving_and_loading_with_weights_only(name):
    optimizer, params = trained(name)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = [torch.nn.Parameter(param.detach().clone()) for param in params]
    loaded = our(name, others, lr=0.77)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert loaded.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for stepped, owner in ((params, optimizer), (others, loaded)):
        set_grads(stepped, 9)
        owner.step()
    assert_same_bits(params, others)
    assert_same_bits(state_values(optimizer), state_values(loaded))


@EVERY
def test_named_parameters_and_their_state_dicts(name):
    optimizer, params = trained(name)
    others = [torch.nn.Parameter(param.detach().clone()) for param in params]
    named = our(name, [("a", others[0]), ("b", others[1])])
    named.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch's shares tensors
    assert named.state_dict()["param_groups"][0]["param_names"] == ["a", "b"]
    optimizer.load_state_dict(copy.deepcopy(named.state_dict()))
    for stepped, owner in ((params, optimizer), (others, named)):
        set_grads(stepped, 9)
        owner.step()
    assert_same_bits(params, others)
    with pytest.raises(ValueError, match="all optimizer params should be with/without names"):
        our(name, [("a", params[0]), params[1]])


@EVERY
def test_state_dict_hooks(name):
    optimizer, _ = trained(name)
    seen = []
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: seen.append("saved") or state)
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("loading"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("first"), prepend=True)
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["saving", "saved", "first", "loading", "loaded"]


@BY_NAME
def test_it_prints_as_torchs(name):
    assert repr(our(name, parameters((33, 7)))) == repr(
        torch_loop(name, parameters((33, 7)), foreach=None)
    )


@EVERY
def test_only_gradients_make_a_step(name):
    """None is none; a parameter without one keeps its bits and has no state."""
    params = parameters((5, 6, 0))
    optimizer = our(name, params)
    params[0].grad, params[2].grad = torch.ones(5), torch.ones(0)
    kept = params[1].detach().clone()
    for _ in range(2):
        optimizer.step()
    assert torch.equal(params[1], kept)
    assert params[1] not in optimizer.state or name == "Adagrad"
    if "step" in optimizer.state[params[0]]:
        assert optimizer.state[params[0]]["step"] == optimizer.state[params[2]]["step"] == 2


# --- steps of nothing


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"maximize": True}], ids=str)
@EVERY
def test_zeros_at_a_learning_rate_of_zero_change_no_number(name, options):
    """What distributed checkpoints do to have states made; every bit stays. A second one is a first
    step, and every bit stays where torch's do."""
    if name == "Rprop" and "weight_decay" in options:
        options = {}
    outcomes = []
    for make in (our, torch_loop) if name in NAMES else (our,):
        params = parameters((33, 7))
        # of an infinity a decayed share is none, nor of its norm
        is_share = "weight_decay" in options or not getattr(ours, name)._rule.elementwise
        special = 1.0 if is_share else float("inf")
        params[0].data[:4] = torch.tensor([-0.0, 1e-42, special, 0.0])
        before = [param.detach().clone() for param in params]
        optimizer = make(name, params, lr=0.0, **options)
        for param in params:
            param.grad = torch.zeros_like(param)
        if make is our and not optimizer.state:  # but Adagrad's
            optimizer.step()
            assert_same_bits(params, before)
        optimizer.step()
        for a, b in zip(params, before, strict=True):
            assert np.array_equal(a.detach().numpy(), b.numpy(), equal_nan=True)
        outcomes.append(params)
        if make is our and "maximize" not in options:
            assert_same_bits(params, before)
    assert_same_bits(outcomes[0], outcomes[-1])


# --- where optimizers are used


@EVERY
def test_optimizers_in_backward(name):
    """One optimizer per parameter, stepped while backward goes on, and no gradient kept."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    whole = copy.deepcopy(model)
    optimizers = {param: our(name, [param]) for param in model.parameters()}

    def step(param):
        optimizers[param].step()
        optimizers[param].zero_grad()

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(step)
    optimizer = our(name, whole.parameters())
    for seed in range(4):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
        model(x).square().mean().backward()
        optimizer.zero_grad()
        whole(x).square().mean().backward()
        optimizer.step()
    assert all(param.grad is None for param in model.parameters())
    assert_same_bits(model.parameters(), whole.parameters())


@EVERY
def test_schedules_of_every_number(name):
    """Schedulers wrap step, read and write groups: rates, and momentum or betas with them."""
    outcomes = []
    for make in (our, torch_loop) if name in NAMES else (our, our):
        params = parameters((33, 7))
        optimizer = make(name, [{"params": params[:1]}, {"params": params[1:], "lr": 0.02}])
        cycled = {"momentum", "betas"} & optimizer.defaults.keys()
        schedulers = [
            lr_scheduler.OneCycleLR(
                optimizer, 0.05, total_steps=12, cycle_momentum=bool(cycled)
            ),
            lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.9),
        ]  # fmt: skip
        for step in range(6):
            set_grads(params, step)
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        outcomes.append(params)
    torch.testing.assert_close(*outcomes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [None, True])
@EVERY
def test_a_step_that_is_skipped_leaves_no_trace(name, fused):
    """A GradScaler that found an infinity, at the very first step and later."""
    params = parameters((33, 7))
    optimizer = our(name, params, fused=fused) if name in _FUSED else our(name, params)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for step in range(3):
        before = copy.deepcopy([[p.detach() for p in params], state_values(optimizer)])
        optimizer.zero_grad()
        scaler.scale(sum((param - step).square().sum() for param in params)).backward()
        bad = step in (0, 2)
        if bad:
            params[0].grad[3] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        if bad:
            assert_same_bits(params, before[0])
            assert_same_bits(state_values(optimizer), before[1])
        else:
            assert all(param.isfinite().all() for param in params)
            assert not torch.equal(params[0], before[0][0])


_FUSED = [name for name in NAMES if "fused" in torch_loop(name, parameters((33, 7))).defaults]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["AdamW", "RMSprop", "Lion"])
def test_compiled_models(name):
    """Gradients as a compiled backward leaves them."""
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Tanh(), torch.nn.Flatten())
    other = copy.deepcopy(plain)
    losses = []
    for model, net in ((plain, plain), (torch.compile(other, backend="aot_eager"), other)):
        optimizer = our(name, net.parameters())
        losses.append([])
        for seed in range(3):
            x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
            loss = model(x.to(memory_format=torch.channels_last)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(
        list(plain.parameters()), list(other.parameters()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "name", [name for name in ours.__all__ if getattr(ours, name)._rule.elementwise]
)
def test_sizes_around_a_vector_and_a_piece(name):
    """Of one element more or less, at any offset, each element's bits are the same."""
    sizes = (1, 2, 15, 16, 17, 31, 63, 64, 65, 255, 256, 257, 4095, 4099, 16383, 16384, 16385)
    start, *grads = torch.randn(3, sum(sizes), generator=torch.Generator().manual_seed(3))
    joined = torch.nn.Parameter(start.clone())
    pieces = [torch.nn.Parameter(piece) for piece in start.clone().split(sizes)]
    whole, split = our(name, [joined]), our(name, pieces)
    for grad in grads:
        joined.grad = grad
        for piece, part in zip(pieces, grad.split(sizes), strict=True):
            piece.grad = part
        whole.step()
        split.step()
    assert_same_bits(joined.split(sizes), pieces)


# --- uses of a step


@BY_NAME
def test_layers_frozen_and_thawed(name):
    """Gradients that are missing for some steps, for some parameters, and an empty parameter."""
    mine, theirs = parameters((33, 0, 7)), parameters((33, 0, 7))
    first, second = our(name, mine), torch_loop(name, theirs)
    for step in range(7):
        for params in (mine, theirs):
            set_grads(params, step)
            for index, param in enumerate(params):
                if step == 2 or (index == 0 and 3 <= step < 5):
                    param.grad = None
        first.step()
        second.step()
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=3e-6)
            assert first.state[a].keys() == second.state[b].keys()
            for key, value in first.state[a].items():
                torch.testing.assert_close(value, second.state[b][key], rtol=1e-6, atol=3e-6)


@EVERY
def test_a_step_in_a_compiled_function(name):
    """It stays outside the graph, and is the same step."""
    mine, theirs = parameters((33, 7)), parameters((33, 7))
    first, second = our(name, mine), our(name, theirs)
    compiled = torch.compile(lambda: second.step(), backend="eager")
    for step in range(3):
        set_grads(mine, step)
        set_grads(theirs, step)
        first.step()
        compiled()
    assert_same_bits(mine, theirs)


@EVERY
def test_copies_have_every_public_attribute(name):
    optimizer, _ = trained(name, steps=0)

    def public_attributes(of):
        return {key for key in vars(of) if not key.startswith("_")}

    assert public_attributes(copy.deepcopy(optimizer)) == public_attributes(optimizer)
    set_grads(optimizer.param_groups[0]["params"], 0)
    optimizer.step()
    assert public_attributes(copy.deepcopy(optimizer)) == public_attributes(optimizer)


@pytest.mark.filterwarnings("ignore:Sparse invariant")
@pytest.mark.parametrize(("name", "options"), [("SGD", {"lr": 4.8e-3}), ("Adagrad", {"lr": 0.1})])
def test_rosenbrock_by_sparse_gradients(name, options):
    """A gradient of one coordinate at a time: torch's own path, and ours for a dense one."""

    def gradient(point):
        x, y = point.tolist()
        return [-400 * x * (y - x * x) - 2 * (1 - x), 200 * (y - x * x)]

    sparse, dense = (torch.nn.Parameter(torch.tensor([1.5, 1.5])) for _ in range(2))
    optimizers = [getattr(ours, name)([param], **options) for param in (sparse, dense)]
    for step in range(200):
        for param, optimizer in zip((sparse, dense), optimizers, strict=True):
            wanted = gradient(param.detach())
            grad = torch.zeros(2)
            grad[step % 2] = wanted[step % 2]
            param.grad = grad if param is dense else torch.sparse_coo_tensor(
                [[step % 2]], [wanted[step % 2]], (2,), check_invariants=True
            )  # fmt: skip
            optimizer.step()
        torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-6)
    x, y = sparse.tolist()
    assert 100 * (y - x * x) ** 2 + (1 - x) ** 2 < 1  # it was 56
