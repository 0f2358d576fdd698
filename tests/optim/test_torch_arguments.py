"""What `dlkernels.torch.optim` takes and refuses besides tensors of its own: negated views, memory
that is shared, numbers that float32 cannot hold, another default dtype or device, and what a
constructor that fails leaves behind."""

import contextlib
import copy

import pytest
import torch

import dlkernels.torch.optim as ours
from optim.problems import parameters

EVERY = pytest.mark.parametrize("name", ours.__all__)
#: Options that make every state there is.
OPTIONS = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}
FORMATTED = ("SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Lion")


def make(name, params, **options):
    return getattr(ours, name)(params, **{**OPTIONS.get(name, {}), **options})


def loop(name, params, **options):
    """torch's loop, or ours in torch's operations."""
    return getattr(ours, name)._torch_class(
        params, foreach=False, **{**OPTIONS.get(name, {}), **options}
    )


def gradient(param, step):
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(param.shape, generator=generator).to(param.dtype)


# --- negated views


def negated(tensor, way):
    """Memory that holds the negation of what it shows."""
    memory = (-tensor.detach()).clone()
    if way == "transposed":
        memory = memory.t().contiguous().t()
    elif way == "every second":
        memory = torch.stack([memory, memory], -1)[..., 0]
    view = torch._neg_view(memory)
    assert view.is_neg()
    assert torch.equal(view, tensor)
    return view


WAY = pytest.mark.parametrize("way", ["row-major", "transposed", "every second"])


@WAY
@EVERY
def test_negated_gradients(name, way):
    """At the first step and later, where the parameters are known already."""
    for shape in ((5, 6), (1, 1)):
        mine, theirs = parameters([shape]), parameters([shape])
        optimizer, reference = make(name, mine), make(name, theirs)
        for step in range(4):
            grad = gradient(mine[0], step)
            mine[0].grad = grad if step == 1 else negated(grad, way)
            theirs[0].grad = grad
            optimizer.step()
            reference.step()
        torch.testing.assert_close(mine, theirs)


@WAY
def test_negated_parameters_and_states(way):
    mine, theirs = parameters([(5, 6)]), parameters([(5, 6)])
    optimizer, reference = make("Adam", mine), make("Adam", theirs)
    for step in range(4):
        mine[0].grad, theirs[0].grad = gradient(mine[0], step), gradient(mine[0], step)
        optimizer.step()
        reference.step()
        state = optimizer.state[mine[0]]
        if step == 0:
            mine[0].data = negated(mine[0].data, way)
        elif step == 1:
            state["exp_avg"] = negated(state["exp_avg"], way)
            state["step"] = torch._neg_view(-state["step"])
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(state, reference.state[theirs[0]])


@WAY
@pytest.mark.parametrize(
    "extras", [{"max_grad_norm": 0.5, "write_back": True}, {"zero_grads": True, "ema_decay": 0.5}]
)
def test_negated_gradients_with_the_rest_of_a_step(extras, way):
    results = []
    for is_negated in (True, False):
        params = parameters([(5, 6)])
        optimizer = make("Adam", params, **extras)
        for step in range(3):
            grad = gradient(params[0], step)
            params[0].grad = negated(grad, way) if is_negated else grad
            optimizer.step()
        averages = optimizer.ema_parameters() if "ema_decay" in extras else []
        results.append([*params, params[0].grad.resolve_neg(), *averages])
    torch.testing.assert_close(*results)


def test_negated_options():
    results = []
    for sign in (-1, 1):
        params = parameters([7])
        flip = torch._neg_view if sign < 0 else torch.clone
        optimizer = make("SGD", params, lr=flip(torch.tensor(sign * 0.5)), scaler_in_step=True)
        params[0].grad = torch.ones(7)
        optimizer.grad_scale = flip(torch.tensor(sign * 4.0))
        optimizer.found_inf = flip(torch.tensor(0.0))
        optimizer.step()
        optimizer.found_inf = flip(torch.tensor(sign * 1.0))
        optimizer.step()
        results.append(params[0].detach())
    assert torch.equal(*results)
    assert not torch.equal(results[0], parameters([7])[0])


@pytest.mark.parametrize("way", ["row-major", "every second"])
def test_negated_gradients_of_formats_are_not_taken_as_they_lie(way):
    """Right or refused, and nothing written."""
    for options in ({"state_dtype": "8bit", "min_8bit_size": 1}, {"state_dtype": "bf16"}):
        param = torch.nn.Parameter(torch.ones(300))
        param.grad = negated(torch.ones(300), way)
        optimizer = ours.Adam([param], **options)
        with pytest.raises(RuntimeError, match=r"Adam: state_dtype .*resolve_neg"):
            optimizer.step()
        assert (param == 1).all()


# --- memory


def tied(case):
    base = torch.nn.Parameter(torch.linspace(-1, 1, 22_500).reshape(150, 150))
    if case == "twice":
        return [base, base]
    views = {
        "the same memory": base.detach(),
        "a part": base.detach()[3:50],
        "transposed": base.detach().t(),
        "a column": base.detach()[:, 3],
    }
    return [base, torch.nn.Parameter(views[case])]


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name in ours.__all__ for case in ("twice", "a part")]
    + [("SGD", case) for case in ("the same memory", "transposed", "a column")],
)
def test_parameters_that_share_memory_are_updated_in_order(name, case):
    results = []
    for build in (make, loop):
        params = tied(case)
        optimizer = build(name, params)
        for step in range(2):
            for index, param in enumerate(params):
                param.grad = gradient(param, step + 10 * index)
            optimizer.step()
        results.append([p.detach() for p in params])
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("extras", [{"max_grad_norm": 0.5}, {"ema_decay": 0.5, "zero_grads": True}])
def test_parameters_that_share_memory_with_the_rest_of_a_step(extras):
    params, reference = tied("a part"), tied("a part")
    optimizer, theirs = make("SGD", params, **extras), loop("SGD", reference)
    for index, (param, other) in enumerate(zip(params, reference, strict=True)):
        param.grad, other.grad = gradient(param, index), gradient(param, index)
    if "max_grad_norm" in extras:
        torch.nn.utils.clip_grad_norm_(reference, 0.5)
    optimizer.step()
    theirs.step()
    torch.testing.assert_close(params, reference)
    if "ema_decay" in extras:
        assert torch.equal(optimizer.ema_parameters()[0], reference[0])
        assert (params[0].grad == 0).all()


@EVERY
def test_gradients_and_states_in_the_memory_of_parameters(name):
    for disturb in ("gradient", "gradient of another", "state"):
        results = []
        for build in (make, loop):
            params = parameters([9, 9])
            optimizer = build(name, params)
            if disturb == "state":
                for param in params:
                    param.grad = torch.ones(9)
                optimizer.step()
                names = [key for key, value in optimizer.state[params[0]].items() if value.ndim]
                if names:
                    optimizer.state[params[0]][names[0]] = optimizer.state[params[1]][names[0]]
            for _ in range(2):
                own = disturb == "gradient"
                params[0].grad = params[0 if own else 1].detach().flip(0)
                params[1].grad = params[1 if own else 0].detach()
                optimizer.step()
            results.append([p.detach() for p in params])
        torch.testing.assert_close(*results, equal_nan=True)


def test_formats_refuse_shared_memory():
    params = tied("a part")
    for index, param in enumerate(params):
        param.grad = gradient(param, index)
    before = params[0].detach().clone()
    with pytest.raises(RuntimeError, match=r"Adam: .*params\[1\]: expected memory of its own"):
        ours.Adam(params, state_dtype="8bit").step()
    assert torch.equal(params[0], before)


def test_parameters_side_by_side_in_one_memory_take_the_kernel():
    base = torch.zeros(64)
    params = [torch.nn.Parameter(base[start : start + 16]) for start in range(0, 64, 16)]
    params.append(torch.nn.Parameter(torch.zeros(6, 6)[:, 2]))
    optimizer = ours.SGD(params, lr=1.0)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert optimizer._table is not None
    assert (base == -1).all()


def test_parameters_that_overlap_themselves_are_refused():
    memory = torch.zeros(40)
    param = torch.nn.Parameter(memory.as_strided((6, 5), (4, 4)))
    param.grad = torch.ones(6, 5)
    with pytest.raises((RuntimeError, ValueError)):
        ours.SGD([param], lr=1.0).step()
    assert (memory == 0).all()


# --- numbers that float32 cannot hold


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 1e39}),
        ("SGD", {"weight_decay": 1e300}),
        ("SGD", {"momentum": 1e39}),
        ("SGD", {"momentum": 0.9, "dampening": 1e300}),
        ("Adam", {"lr": 1e38}),  # over 1 - beta1
        ("Adam", {"lr": 1e30, "betas": (1 - 1e-16, 0.999)}),
        ("Adam", {"weight_decay": 1e300}),
        ("AdamW", {"weight_decay": 1e300}),
        ("Adagrad", {"lr": 1e39}),
        ("RMSprop", {"alpha": 1e39}),
        ("Adadelta", {"lr": 1e300}),
        ("Adamax", {"lr": 1e38}),
        ("NAdam", {"lr": 1e39}),
        ("RAdam", {"lr": 1e39}),
        ("ASGD", {"weight_decay": 1e300}),
        ("Rprop", {"step_sizes": (1e-6, 1e300)}),
        ("Rprop", {"etas": (0.5, 1e39)}),
        ("Lion", {"lr": 1e39}),
        ("LAMB", {"lr": 1e39}),
        ("LARS", {"lr": 1e39}),
        ("SGD", {"lr": torch.tensor(1e39, dtype=torch.float64)}),
    ],
)
def test_numbers_too_large_for_float32_are_refused(name, options):
    for dtype in (torch.float32, torch.bfloat16):
        param = torch.nn.Parameter(torch.ones(5, dtype=dtype))
        optimizer = getattr(ours, name)([param], **options)
        param.grad = torch.ones(5, dtype=dtype)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="without overflow: " + name):
                optimizer.step()
        assert (param == 1).all()
        states = [value for value in optimizer.state[param].values() if value.ndim]
        assert name == "Rprop" or all((value == 0).all() for value in states)
    results = []
    for build in (getattr(ours, name), getattr(ours, name)._torch_class):
        param = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
        param.grad = torch.ones(5, dtype=torch.float64)
        build([param], **options).step()
        results.append(param.detach())
    torch.testing.assert_close(*results, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Adam", {"eps": 1e-320}),
        ("Adagrad", {"eps": 1e-320}),
        ("RMSprop", {"eps": 1e-320}),
        ("Adamax", {"eps": 1e-320}),
        ("NAdam", {"eps": 1e-320}),
        ("Adadelta", {"eps": 1e-30}),
        ("Adam", {"betas": (1 - 1e-16, 1 - 1e-16)}),
        ("Adam", {"betas": (1e-320, 1e-320)}),
        ("Adamax", {"betas": (0.9, 1 - 1e-16)}),
        ("RAdam", {"betas": (1 - 1e-9, 1 - 1e-9)}),
        ("NAdam", {"betas": (1 - 1e-9, 1 - 1e-9)}),
        ("NAdam", {"momentum_decay": 1e300}),
        ("ASGD", {"t0": 1e300}),
        ("Adagrad", {"lr_decay": 1e300}),
        ("SGD", {"lr": 1e-320}),
        ("SGD", {"lr": float("inf")}),
    ],
)
def test_numbers_that_float32_rounds_are_torchs(name, options):
    """Also where that is NaN: eps = 1e-320 is 0 in float32, and 0 / 0 of a zero gradient NaN."""
    results = []
    for build in (getattr(ours, name), getattr(torch.optim, name)):
        param = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        optimizer = build([param], foreach=False, **options)
        for step in range(3):
            param.grad = torch.tensor([1.0, 0.0, step - 2.0])
            optimizer.step()
        results.append(param.detach())
    torch.testing.assert_close(*results, equal_nan=True)


# --- another default dtype or device


@contextlib.contextmanager
def defaults(dtype=torch.float32, device=None):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device) if device else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)


FOREIGN = pytest.mark.parametrize(
    "foreign",
    [
        {"dtype": torch.bfloat16}, {"dtype": torch.float16}, {"dtype": torch.float64},
        {"device": "meta"},
    ],
    ids=lambda it: str(next(iter(it.values()))),
)  # fmt: skip


def trained(name, foreign, options, steps=3, resumed=False):
    params = parameters([300, (5, 7)])
    grads = [[gradient(param, step) for param in params] for step in range(steps)]
    with defaults(**foreign):
        optimizer = make(name, params, **options)
        for step in range(steps):
            for param, grad in zip(params, grads[step], strict=True):
                param.grad = grad
            optimizer.step()
            if resumed:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = make(name, params, **options)
                optimizer.load_state_dict(saved)
        norm = [] if optimizer.grad_norm is None else [optimizer.grad_norm]
        averages = optimizer.ema_parameters() if "ema_decay" in options else []
        plain = optimizer.float32_state_dict()["state"]
    return [*params, *norm, *averages, optimizer.state_dict()["state"], plain]


@FOREIGN
@EVERY
def test_defaults_do_not_reach_a_step(name, foreign):
    options = {"max_grad_norm": 0.5, "ema_decay": 0.5}
    # float64 makes torch's counts float64, which hold the same numbers
    check = {"rtol": 0, "atol": 0, "check_dtype": foreign.get("dtype") != torch.float64}
    for resumed in (False, True):
        plain = trained(name, {}, options, resumed=resumed)
        result = trained(name, foreign, options, resumed=resumed)
        if name not in ("NAdam", "ASGD") or check["check_dtype"]:
            torch.testing.assert_close(result, plain, **check)
    if name in FORMATTED:
        options = {"state_dtype": "8bit", "min_8bit_size": 1, "seed": 1}
        if name == "RMSprop":
            options["centered"] = False
        torch.testing.assert_close(
            trained(name, foreign, options), trained(name, {}, options), **check
        )


def test_lamb_counts_beyond_256():
    with defaults(torch.bfloat16):
        param = torch.nn.Parameter(torch.ones(3, dtype=torch.float32))
        param.grad = torch.ones(3, dtype=torch.float32)
        optimizer = ours.LAMB([param])
        for _ in range(300):
            optimizer.step()
    assert optimizer.state[param]["step"] == 300


# --- constructors that fail


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"state_dtype": "4bit"},
        {"master": "float8"},
        {"seed": "a", "master": "split16"},
    ],
    ids=repr,
)
@EVERY
def test_a_constructor_that_fails_leaves_groups_alone(name, wrong):
    groups = [{"params": parameters([3]), "lr": 0.5}, {"params": iter(parameters([4]))}]
    before = [dict(group) for group in groups]
    with pytest.raises((TypeError, ValueError)):
        getattr(ours, name)([*groups, {"params": ["a"], **wrong}])
    with pytest.raises((TypeError, ValueError)):
        getattr(ours, name)((group for group in groups), **wrong)
    assert [group.keys() for group in groups] == [group.keys() for group in before]
    assert groups[0] == before[0]
    optimizer = getattr(ours, name)(groups)
    assert "state_dtype" not in optimizer.param_groups[0]
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]


def test_a_group_that_is_refused_is_left_alone():
    optimizer = ours.Adam(parameters([3]))
    group = {"params": parameters([3]), "state_dtype": "4bit"}
    before = dict(group)
    with pytest.raises(ValueError, match="state_dtype"):
        optimizer.add_param_group(group)
    assert group == before
    assert len(optimizer.param_groups) == 1
    group["state_dtype"] = "8bit"
    group["seed"] = "a"
    with pytest.raises(TypeError, match="Adam: seed: expected an integer, got 'a'"):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


# --- what they are called with, and how they print


@EVERY
def test_arguments_of_the_wrong_kind(name):
    params = parameters([3])
    for argument in ("max_grad_norm", "ema_decay"):
        for value in ("a", [1.0], 1j):
            with pytest.raises(TypeError, match=f"^{name}: {argument}: expected a number or None"):
                getattr(ours, name)(params, **{argument: value})
            with pytest.raises(TypeError, match=f"^{name}: {argument}: expected a number or None"):
                setattr(getattr(ours, name)(params), argument, value)
    for argument in ("write_back", "zero_grads", "scaler_in_step"):
        with pytest.raises(TypeError, match=f"^{name}: {argument}: expected True or False, got 'n"):
            getattr(ours, name)(params, **{argument: "no"})
    for argument in ("seed", "min_8bit_size"):
        with pytest.raises(TypeError, match=f"^{name}: {argument}: expected an integer, got 1.5"):
            getattr(ours, name)(params, master="split16", **{argument: 1.5})


@pytest.mark.parametrize("name", ["Lion", "LAMB", "LARS"])
def test_arguments_of_the_wrong_kind_where_torch_has_no_such_class(name):
    wrong = {"lr": "a", "weight_decay": None, "maximize": "no"}
    wrong |= {"momentum": [0.9], "nesterov": 2} if name == "LARS" else {"betas": (0.9, "a")}
    for argument, value in wrong.items():
        with pytest.raises(TypeError, match=f"^{name}: {argument}: expected "):
            getattr(ours, name)(parameters([3]), **{argument: value})
    if name != "LARS":
        with pytest.raises(ValueError, match=f"^{name}: betas: expected a pair of numbers"):
            getattr(ours, name)(parameters([3]), betas=(0.9,))


@EVERY
def test_arguments_of_torch_raise_what_torch_raises(name):
    for options in ({"lr": "a"}, {"lr": None}, {"betas": (0.9,)}, {"weight_decay": "a"}, {"x": 1}):
        raised = []
        for build in (getattr(ours, name), getattr(ours, name)._torch_class):
            try:
                build(parameters([3]), **options)
            except Exception as error:
                text = str(error).replace(build.__name__, "").replace("_KernelOptimizer", "")
                raised.append((type(error), text))
            else:
                raised.append(None)
        assert raised[0] == raised[1], options


@EVERY
def test_repr_shows_the_options(name):
    plain = repr(make(name, parameters([3])))
    options = {"max_grad_norm": 1.5, "ema_decay": 0.5, "zero_grads": True, "scaler_in_step": True}
    optimizer = make(name, parameters([3]), **options)
    for key, value in options.items():
        assert f"    {key}: {value}\n" in repr(optimizer)
        assert key not in plain
    optimizer = make(name, parameters([3]), master="split16", seed=5)
    assert "    master: split16\n" in repr(optimizer)
    assert "    seed: 5\n" in repr(optimizer)
