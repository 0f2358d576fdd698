"""What a step of `dlkernels.torch.optim` does besides its rule: clipping, a GradScaler's work,
moving averages, zeroing; each alone and all together the same bits as one after the other."""

import copy
import inspect
import pickle

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import dlkernels
import dlkernels.torch.optim as ours
from optim import problems
from optim.problems import parameters
from support import FMA_ISAS, isa_level, needs_two_fma_isas
from torch_support import DTYPES, assert_same_bits

EVERY = pytest.mark.parametrize("name", ours.__all__)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
#: Options that make every state there is.
OPTIONS = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}
EXTRAS = {
    "clip": {"max_grad_norm": 0.5},
    "clip, written back": {"max_grad_norm": 0.5, "write_back": True},
    "norm below the maximum": {"max_grad_norm": 1e4},
    "average": {"ema_decay": 0.9},
    "average of the last": {"ema_decay": 0.3},
    "zero": {"zero_grads": True},
    "all": {"max_grad_norm": 0.5, "ema_decay": 0.9, "zero_grads": True},
}
SIZES = [33, 0, 1, 257, 16_500]


def set_grads(params, step, scale=1.0, dtype=None):
    """The third parameter has its first gradient late, the first has none at the third step."""
    problems.set_grads(params, step, dtype, scale)
    for index, without in ((2, 0), (0, 2)):
        if step == without and index < len(params):
            params[index].grad = None


def our(name, params, **more):
    return getattr(ours, name)(params, **{**OPTIONS.get(name, {}), **more})


def states(optimizer, params):
    return [
        value
        for param in params
        for name, value in sorted(optimizer.state.get(param, {}).items())
        if name != "ema"
    ]


def grads_of(params):
    return [param.grad for param in params if param.grad is not None]


class Apart:
    """The same work in torch's functions around a plain step of ours."""

    def __init__(self, name, params, extras):
        self.params, self.extras = params, extras
        self.optimizer = our(name, params)
        self.averaged = AveragedModel(
            torch.nn.ParameterList(params),
            multi_avg_fn=get_ema_multi_avg_fn(extras.get("ema_decay", 0.5)),
        )

    def step(self, norm, scale=None):
        if scale is not None:
            inverse = torch.tensor(scale, dtype=torch.float64).reciprocal().float()
            found = torch.zeros(1)
            for grad in grads_of(self.params):
                torch._amp_foreach_non_finite_check_and_unscale_([grad], found, inverse)
            if found:
                norm = None
        if norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.params, self.extras["max_grad_norm"], norm)
        if scale is None or not found:
            self.optimizer.step()
            self.averaged.update_parameters(torch.nn.ParameterList(self.params))
        if self.extras.get("zero_grads"):
            self.optimizer.zero_grad(set_to_none=False)

    def averages(self):
        return list(self.averaged.parameters())


def check_against_apart(name, extras, dtype, steps=4, grad_dtype=None):
    mine, theirs = parameters(SIZES, dtype), parameters(SIZES, dtype)
    optimizer, apart = our(name, mine, **extras), Apart(name, theirs, extras)
    for step in range(steps):
        set_grads(mine, step, dtype=grad_dtype)
        set_grads(theirs, step, dtype=grad_dtype)
        before = [grad.clone() for grad in grads_of(mine)]
        exact = torch.nn.utils.get_total_norm([grad.double() for grad in before])
        optimizer.step()
        norm = optimizer.grad_norm
        if "max_grad_norm" in extras:
            assert norm.ndim == 0
            is_double = (grad_dtype or dtype) is torch.float64
            assert norm.dtype is (torch.float64 if is_double else torch.float32)
            assert abs(norm.double() - exact) <= 1.2e-7 * exact
        else:
            assert norm is None
        apart.step(norm)
        assert_same_bits(mine, theirs, f"parameters at step {step}")
        assert_same_bits(states(optimizer, mine), states(apart.optimizer, theirs), "states")
        if "ema_decay" in extras:
            assert_same_bits(optimizer.ema_parameters(), apart.averages(), f"average at {step}")
        if extras.get("write_back") or extras.get("zero_grads"):
            assert_same_bits(grads_of(mine), grads_of(theirs), "gradients written")
        else:
            assert_same_bits(grads_of(mine), before, "gradients left alone")
    return optimizer


@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS)
@EVERY
def test_each_alone_and_all_together(name, extras):
    optimizer = check_against_apart(name, extras, torch.float32)
    assert optimizer._table is not None


@DTYPE
@pytest.mark.parametrize("name", ["SGD", "Adam", "Lion"])
def test_every_dtype(name, dtype):
    for extras in (EXTRAS["all"], {**EXTRAS["clip, written back"], "ema_decay": 0.3}):
        check_against_apart(name, extras, dtype)


def test_gradients_of_another_dtype():
    check_against_apart("Adam", EXTRAS["all"], torch.float32, grad_dtype=torch.bfloat16)
    check_against_apart("Adam", EXTRAS["all"], torch.bfloat16, grad_dtype=torch.float32)
    check_against_apart("SGD", EXTRAS["clip, written back"], torch.float32, 4, torch.float64)


def test_baseline_has_the_same_norm():
    norms = set()
    for level in ("baseline", *FMA_ISAS):
        with isa_level(level):
            params = parameters(SIZES)
            set_grads(params, 1)
            optimizer = our("SGD", params, max_grad_norm=1.0)
            optimizer.step()
            norms.add(float(optimizer.grad_norm))
    assert len(norms) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_clip_coefficient_is_torchs(dtype):
    """For many norms and maxima: every bit."""
    generator = torch.Generator().manual_seed(0)
    for value, maximum in torch.rand(300, 2, generator=generator).tolist():
        mine, theirs = (torch.nn.Parameter(torch.zeros(2, dtype=dtype)) for _ in range(2))
        mine.grad = torch.tensor([3.0, 4.0], dtype=dtype) * value * 10
        theirs.grad = mine.grad.clone()
        optimizer = ours.SGD([mine], max_grad_norm=maximum, write_back=True)
        optimizer.step()
        torch.nn.utils.clip_grads_with_norm_([theirs], maximum, optimizer.grad_norm)
        assert torch.equal(mine.grad, theirs.grad)


# --- layouts, groups, threads


def strided(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    bases = [torch.randn(40, 300, generator=generator, dtype=dtype) for _ in range(3)]
    return [
        torch.nn.Parameter(bases[0].t()),
        torch.nn.Parameter(bases[1][:, ::2]),
        torch.nn.Parameter(bases[2][:, :1]),
    ], bases


@EVERY
def test_strides_of_every_kind(name):
    """Transposed parameters, slices with gaps, gradients that lie otherwise; nothing beside them is
    written."""
    extras = EXTRAS["all"]
    (mine, bases), (theirs, _) = strided(), strided()
    outside = bases[1][:, 1::2].clone(), bases[2][:, 1:].clone()
    optimizer, apart = our(name, mine, **extras), Apart(name, theirs, extras)
    for step in range(3):
        for params in (mine, theirs):
            generator = torch.Generator().manual_seed(step)
            for param in params:
                space = torch.randn(*param.shape, 2, generator=generator)
                param.grad = space[..., 0]
        optimizer.step()
        apart.step(optimizer.grad_norm)
        assert_same_bits(mine, theirs)
        assert_same_bits(states(optimizer, mine), states(apart.optimizer, theirs))
        assert_same_bits(optimizer.ema_parameters(), apart.averages())
        assert all((param.grad == 0).all() for param in mine)
    assert torch.equal(bases[1][:, 1::2], outside[0])
    assert torch.equal(bases[2][:, 1:], outside[1])


def test_the_norm_is_over_all_groups():
    params = parameters(SIZES)
    set_grads(params, 1)
    optimizer = ours.SGD(
        [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], lr=0.1, max_grad_norm=1.0
    )
    optimizer.step()
    expected = torch.nn.utils.get_total_norm([param.grad.double() for param in params])
    assert optimizer.grad_norm == expected.float()


def test_no_gradients_at_all():
    optimizer = our("Adam", parameters(SIZES), **EXTRAS["all"])
    optimizer.step()
    assert optimizer.grad_norm == 0
    assert not optimizer.state
    assert_same_bits(optimizer.ema_parameters(), optimizer.param_groups[0]["params"])


def run(name, extras, dtype):
    params = parameters([33, 100_000, 257], dtype)
    optimizer = our(name, params, **extras)
    for step in range(3):
        set_grads(params, step)
        optimizer.step()
    return [*params, *states(optimizer, params), *optimizer.ema_parameters(), optimizer.grad_norm]


@DTYPE
def test_any_number_of_threads(dtype):
    expected = None
    for threads in (1, 2, 3):
        with dlkernels.num_threads(threads):
            actual = run("Adam", EXTRAS["all"], dtype)
        expected = expected or actual
        assert_same_bits(actual, expected, f"{threads} threads")


@needs_two_fma_isas
@EVERY
def test_levels_give_the_same_bits(name):
    results = []
    for level in FMA_ISAS:
        with isa_level(level):
            results.append(run(name, EXTRAS["all"], torch.float32))
    assert_same_bits(*results)


# --- GradScaler


@pytest.mark.parametrize("extras", [{}, EXTRAS["clip, written back"], EXTRAS["all"]], ids=repr)
@EVERY
def test_a_scaler_leaves_unscaling_and_skipping_to_the_step(name, extras):
    """An infinity at the first step and later, and what follows from each."""
    mine, theirs = parameters(SIZES), parameters(SIZES)
    optimizer = our(name, mine, **extras, scaler_in_step=True)
    apart = Apart(name, theirs, extras)
    scaler = torch.amp.GradScaler("cpu", init_scale=1000.0, growth_interval=3)
    scaler.scale(torch.ones(()))  # makes its tensors
    for step in range(6):
        scale = scaler.get_scale()
        bad = step in (0, 3)
        for params in (mine, theirs):
            set_grads(params, step, scale)
            if bad:
                params[-1].grad[7] = float("inf")
        before = [grad.clone() for grad in grads_of(mine)]
        frozen = [x.clone() for x in (*mine, *states(optimizer, mine))]
        versions = [param._version for param in mine]
        scaler.step(optimizer)
        scaler.update()
        apart.step(optimizer.grad_norm if "max_grad_norm" in extras and not bad else None, scale)
        assert_same_bits(mine, theirs, f"parameters at step {step}")
        assert_same_bits(states(optimizer, mine), states(apart.optimizer, theirs))
        if bad:
            assert_same_bits((*mine, *states(optimizer, mine)), frozen)
            assert scaler.get_scale() == scale / 2
            assert [param._version for param in mine] == versions
        if "ema_decay" in extras and step:
            assert_same_bits(optimizer.ema_parameters(), apart.averages())
        if extras.get("zero_grads"):
            assert all((grad == 0).all() for grad in grads_of(mine))
        elif not extras:
            assert_same_bits(grads_of(mine), before)
        elif not bad:
            assert_same_bits(grads_of(mine), grads_of(theirs))
        assert not hasattr(optimizer, "grad_scale")


def test_a_skipped_first_step_leaves_no_state():
    for name in ours.__all__:
        params = parameters(SIZES)
        optimizer = our(name, params, ema_decay=0.9, scaler_in_step=True)
        had = copy.deepcopy(optimizer.state_dict()["state"])
        set_grads(params, 1)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
        optimizer.step()
        assert optimizer.state_dict()["state"].keys() == had.keys()


def test_any_nonzero_found_inf_skips():
    """As it is where several devices found one each."""
    for found in (1.0, 2.0, float("nan")):
        params = parameters(SIZES)
        before = [param.detach().clone() for param in params]
        set_grads(params, 1)
        optimizer = our("SGD", params, scaler_in_step=True)
        optimizer.found_inf = torch.tensor(found)
        optimizer.step()
        assert_same_bits(params, before)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_scale_alone_makes_the_step_look_itself(value):
    params = parameters(SIZES)
    set_grads(params, 1, 8.0)
    optimizer = our("Adam", params, scaler_in_step=True)
    optimizer.grad_scale = 8.0
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == 1
    before = [param.detach().clone() for param in params]
    params[3].grad[200] = value
    optimizer.step()
    assert_same_bits(params, before)
    assert optimizer.state[params[0]]["step"] == 1


def test_without_the_flag_a_scaler_does_it_all():
    params = parameters(SIZES)
    optimizer = our("Adam", params, fused=True, max_grad_norm=1.0)
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)
    optimizer.grad_scale = torch.tensor(1e9)  # nobody's business
    set_grads(params, 1)
    optimizer.step()
    assert optimizer.grad_norm > 1


# --- versions


def test_autograd_is_told_of_what_is_written():
    for extras, grads in ((EXTRAS["clip"], 0), (EXTRAS["clip, written back"], 1), ({}, 0)):
        params = parameters([33, 257])
        optimizer = our("Adam", params, ema_decay=0.9, **extras)
        for step in range(2):
            set_grads(params, step + 3)
            before = [tensor._version for tensor in params]
            of_grads = [param.grad._version for param in params]
            of_averages = [optimizer.state[param]["ema"]._version for param in params if step]
            optimizer.step()
            assert all(p._version > v for p, v in zip(params, before, strict=True))
            assert [p.grad._version - v for p, v in zip(params, of_grads, strict=True)] == [
                grads
            ] * 2
            for param, version in zip(params, of_averages, strict=False):
                assert optimizer.state[param]["ema"]._version > version


# --- averages


def test_averages_are_swapped_in_and_back():
    params = parameters(SIZES)
    optimizer = our("SGD", params, lr=0.5, ema_decay=0.5)
    for step in range(3):
        set_grads(params, step)
        optimizer.step()
    own = [param.detach().clone() for param in params]
    averages = [average.clone() for average in optimizer.ema_parameters()]
    versions = [param._version for param in params]
    with optimizer.ema_weights():
        assert torch.is_grad_enabled()
        assert_same_bits(params, averages)
        assert all(p._version > v for p, v in zip(params, versions, strict=True))
        with pytest.raises(RuntimeError, match="ema_weights"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="twice"), optimizer.ema_weights():
            pass
    assert_same_bits(params, own)
    with pytest.raises(KeyError), optimizer.ema_weights():
        raise KeyError
    assert_same_bits(params, own)
    assert_same_bits(optimizer.ema_parameters(), averages)
    optimizer.step()


def test_averages_need_a_decay():
    optimizer = our("SGD", parameters(SIZES))
    with pytest.raises(RuntimeError, match="ema_decay"):
        optimizer.ema_parameters()
    with pytest.raises(RuntimeError, match="ema_decay"), optimizer.ema_weights():
        pass


def test_an_average_is_as_wide_as_the_states():
    params = parameters(SIZES, torch.bfloat16)
    optimizer = our("Adam", params, ema_decay=0.999)
    set_grads(params, 3)
    optimizer.step()
    assert optimizer.state[params[0]]["ema"].dtype is torch.bfloat16
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            state[key] = state[key].float()
        del state["ema"]
    optimizer.load_state_dict(saved)
    for step in range(20):
        set_grads(params, 3)
        optimizer.step()
        if not step:
            first = optimizer.state[params[0]]["ema"].clone()
    average = optimizer.state[params[0]]["ema"]
    assert average.dtype is torch.float32
    assert not torch.equal(average, first)  # a bfloat16 would stand still
    with optimizer.ema_weights():
        assert torch.equal(params[0], average.bfloat16())


# --- states, copies, signatures


@EVERY
def test_state_dicts_both_ways_with_torchs_class(name):
    params = parameters(SIZES)
    optimizer = our(name, params, **EXTRAS["all"])
    for step in range(3):
        set_grads(params, step)
        optimizer.step()
    saved = optimizer.state_dict()
    plain = our(name, parameters(SIZES)).param_groups[0]
    assert set(saved["param_groups"][0]) - set(plain) == {*EXTRAS["all"], "ema_steps"}
    again = [torch.nn.Parameter(param.detach().clone()) for param in params]
    other = our(name, again, **EXTRAS["all"])
    other.load_state_dict(copy.deepcopy(saved))
    if hasattr(torch.optim, name):
        twins = [torch.nn.Parameter(param.detach().clone()) for param in params]
        theirs = getattr(torch.optim, name)(twins, **OPTIONS.get(name, {}))
        theirs.load_state_dict(copy.deepcopy(saved))
        assert_same_bits([theirs.state[p]["ema"] for p in twins], optimizer.ema_parameters())
        set_grads(twins, 4)
        theirs.step()
        back = our(name, [p.detach().clone().requires_grad_() for p in twins], **EXTRAS["all"])
        back.load_state_dict(theirs.state_dict())
        back.step()
    set_grads(params, 4)
    set_grads(again, 4)
    optimizer.step()
    other.step()
    assert_same_bits(params, again)
    assert_same_bits(optimizer.ema_parameters(), other.ema_parameters())


def test_a_state_dict_of_torchs_starts_the_averages():
    params, twins = parameters(SIZES), parameters(SIZES)
    theirs = torch.optim.Adam(twins)
    set_grads(twins, 3)
    theirs.step()
    optimizer = ours.Adam(params, ema_decay=0.9)
    optimizer.load_state_dict(theirs.state_dict())
    set_grads(params, 4)
    optimizer.step()
    assert_same_bits(optimizer.ema_parameters(), params)


def test_copies_keep_the_arguments():
    extras = {**EXTRAS["all"], "write_back": True, "scaler_in_step": True}
    params = parameters(SIZES)
    optimizer = our("Adam", params, **extras)
    set_grads(params, 3)
    optimizer.step()
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        for name, value in extras.items():
            assert getattr(twin, name) == value
        assert twin._step_supports_amp_scaling
        twins = twin.param_groups[0]["params"]
        set_grads(twins, 4)
        set_grads(params, 4)
        twin.step()
        assert_same_bits(twin.ema_parameters(), [twin.state[p]["ema"] for p in twins])
    optimizer.step()
    assert_same_bits(params, twins)


def test_arguments_may_change_between_steps():
    params = parameters(SIZES)
    optimizer = our("SGD", params)
    for step, (name, value) in enumerate(
        [("ema_decay", 0.9), ("max_grad_norm", 1.0), ("zero_grads", True), ("ema_decay", None)]
    ):
        setattr(optimizer, name, value)
        set_grads(params, step + 3)
        optimizer.step()
    assert optimizer.grad_norm is not None
    assert (params[0].grad == 0).all()
    with pytest.raises(ValueError, match="ema_decay"):
        optimizer.ema_decay = 2.0
    assert optimizer.ema_decay is None


@EVERY
def test_signature(name):
    signature = inspect.signature(getattr(ours, name))
    for argument in ("max_grad_norm", "write_back", "ema_decay", "zero_grads", "scaler_in_step"):
        assert signature.parameters[argument].kind is inspect.Parameter.KEYWORD_ONLY
    if hasattr(torch.optim, name):
        theirs = inspect.signature(getattr(torch.optim, name)).parameters
        assert list(signature.parameters)[: len(theirs)] == list(theirs)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_grad_norm": -1.0},
        {"max_grad_norm": float("nan")},
        {"ema_decay": -0.1},
        {"ema_decay": 1.1},
        {"ema_decay": float("nan")},
    ],
    ids=repr,
)
@EVERY
def test_bad_values(name, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        our(name, parameters(SIZES), **bad)


def test_two_parameters_with_one_gradient():
    """Which one of them would find it zero would be a matter of luck."""
    params = parameters([33, 33])
    params[0].grad = params[1].grad = torch.ones(33)
    before = [param.detach().clone() for param in params]
    with pytest.raises(ValueError, match="grads"):
        our("SGD", params, zero_grads=True).step()
    assert_same_bits(params, before)
    our("SGD", params, max_grad_norm=1.0).step()


def test_a_gradient_that_cannot_be_written():
    params = parameters([33])
    params[0].grad = torch.ones(1).expand(33)
    before = [param.detach().clone() for param in params]
    with pytest.raises((ValueError, RuntimeError)):
        our("SGD", params, zero_grads=True).step()
    assert_same_bits(params, before)


# --- where torch steps


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of torch's own Adagrad
@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_sparse_gradients(name):
    def make():
        table = torch.nn.Embedding(50, 8, sparse=True)
        with torch.no_grad():
            table.weight.copy_(torch.linspace(-1, 1, 400).view(50, 8))
        return table

    extras = {"max_grad_norm": 0.1, "ema_decay": 0.9, "zero_grads": True}
    mine, dense = make(), make()
    optimizer = getattr(ours, name)(mine.parameters(), lr=0.1, **extras)
    reference = getattr(torch.optim, name)(dense.parameters(), lr=0.1)
    averages = dense.weight.detach().clone()
    for step in range(3):
        rows = torch.tensor([step, 3, 3, 7])
        mine(rows).square().sum().backward()
        dense(rows).square().sum().backward()
        norm = dense.weight.grad.coalesce().values().norm()
        dense.weight.grad = dense.weight.grad * min(1.0, float(0.1 / (norm + 1e-6)))
        reference.step()
        averages = torch.lerp(averages, dense.weight.detach(), 0.1 if step else 1.0)
        reference.zero_grad()
        optimizer.step()
        torch.testing.assert_close(optimizer.grad_norm, norm)
        torch.testing.assert_close(mine.weight, dense.weight)
        torch.testing.assert_close(optimizer.ema_parameters()[0], averages)
        assert mine.weight.grad.coalesce().values().abs().sum() == 0
        mine.weight.grad = None


def test_complex_parameters():
    mine, theirs = (torch.nn.Parameter(torch.randn(9, dtype=torch.complex64)) for _ in range(2))
    theirs.data.copy_(mine.data)
    optimizer = ours.Adam([mine], max_grad_norm=0.5, ema_decay=0.9, scaler_in_step=True)
    reference = torch.optim.Adam([theirs])
    average = None
    for _step in range(3):
        grad = torch.randn(9, dtype=torch.complex64)
        mine.grad, theirs.grad = grad * 4, grad.clone()
        optimizer.grad_scale = 4.0
        optimizer.step()
        norm = torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        reference.step()
        copied = theirs.detach().clone()
        average = copied if average is None else torch.lerp(average, copied, 0.1)
        torch.testing.assert_close(optimizer.grad_norm, norm)
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(optimizer.ema_parameters()[0], average)
        assert torch.equal(mine.grad, grad * 4)
    mine.grad[2] = float("nan")
    optimizer.step()
    torch.testing.assert_close(mine, theirs)


def test_differentiable_steps_exclude_them():
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match="differentiable"):
        ours.Adam([param], differentiable=True, ema_decay=0.5).step()
    assert torch.equal(param, torch.ones(3))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@EVERY
def test_a_skipped_step_leaves_zeros_where_gradients_are_zeroed(name, bad):
    """Not 0 x NaN, though they are unscaled and clipped in place."""
    params = parameters(SIZES)
    optimizer = our(
        name, params, write_back=True, zero_grads=True, max_grad_norm=0.5, scaler_in_step=True
    )
    before = [param.detach().clone() for param in params]
    set_grads(params, 1)
    params[-1].grad[3] = bad
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)
    optimizer.step()
    assert_same_bits(params, before)
    assert all((grad == 0).all() for grad in grads_of(params))


def test_averages_in_torchs_operations_are_of_every_parameter():
    """A complex parameter takes the step there; the real one has no gradient at the last."""
    real = torch.nn.Parameter(torch.zeros(2))
    pair = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    optimizer = ours.SGD([real, pair], lr=1.0, ema_decay=0.5)
    for step in range(3):
        real.grad = None if step == 2 else torch.ones(2)
        pair.grad = torch.ones(2, dtype=torch.complex64)
        optimizer.step()
    # -1, then (-1 - 2) / 2, then (-1.5 - 2) / 2
    assert optimizer.ema_parameters()[0].tolist() == [-1.75, -1.75]
    assert torch.view_as_real(optimizer.ema_parameters()[1])[:, 0].tolist() == [-2.25, -2.25]
