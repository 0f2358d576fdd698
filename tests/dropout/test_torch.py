"""The dropouts' twins: torch's arguments and errors, seeds, autograd, compiled graphs."""

import contextlib
import copy
import functools
import inspect
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from torch.utils.checkpoint import checkpoint

import dlkernels
import dlkernels.torch.nn as dnn
from dlkernels.torch import explain, functional
from support import (
    SOME_OR_ALL,
    dropout_mask,
)
from torch_support import DTYPES

pytestmark = [
    # torch's own, from inside its compiler
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]

#: Every twin of a function of torch's, with a shape it takes and its dimensions that the mask has.
TWINS = {
    "dropout": ((3, 5, 4, 6), 4),
    "alpha_dropout": ((3, 5, 4, 6), 4),
    "dropout1d": ((3, 5, 24), 2),
    "dropout2d": ((3, 5, 4, 6), 2),
    "dropout3d": ((3, 5, 2, 2, 6), 2),
    "feature_alpha_dropout": ((3, 5, 4, 6), 2),
}
MODULES = {
    "Dropout": (3, 5, 24),
    "Dropout1d": (3, 5, 24),
    "Dropout2d": (3, 5, 4, 6),
    "Dropout3d": (3, 5, 2, 2, 6),
    "AlphaDropout": (3, 5, 24),
    "FeatureAlphaDropout": (3, 5, 24),
}
EACH = pytest.mark.parametrize("name", TWINS)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
OPS = torch.ops.dlkernels


def twin(name, **keywords):
    return functools.partial(getattr(functional, name), **{"training": True, **keywords})


def sample(name, dtype=torch.float32):
    return torch.rand(TWINS[name][0]).to(dtype) + 1


def factor(name, x, seed, p):
    """What the seed multiplies by: positive where it keeps an element."""
    shape, dims = x.shape, TWINS[name][1]
    mask = torch.from_numpy(dropout_mask(seed, p, tuple(shape[:dims])))
    return mask.view(*shape[:dims], *[1] * (x.dim() - dims)).expand(shape)


LAYOUTS = {
    "contiguous": lambda x: x,
    "permuted": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "sliced": lambda x: TF.pad(x, (1, 2))[..., 1:-2],
    "every second": lambda x: torch.stack((x, x), -1)[..., 0],
    "flipped": lambda x: x.flip(1),
}


@EACH
def test_signature_is_torchs_and_a_seed(name):
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (functional, TF))
    assert list(ours) == [*theirs, "seed", "generator"]
    for parameter in theirs:
        assert ours[parameter].default == theirs[parameter].default
        assert ours[parameter].kind == theirs[parameter].kind
    for parameter in ("seed", "generator"):
        assert ours[parameter].kind is inspect.Parameter.KEYWORD_ONLY


@EACH
@DTYPE
def test_values_are_torchs(name, dtype):
    """What is kept is multiplied by torch's number, rounded once where torch rounds thrice."""
    x = torch.ones(TWINS[name][0], dtype=dtype).repeat(8, *[1] * (len(TWINS[name][0]) - 1))
    for p in (0.1, 0.5, 0.75):
        ours = twin(name)(x, p, seed=1).double().unique()
        theirs = getattr(TF, name)(x, p, True).double().unique()
        assert len(ours) == 2
        slack = {torch.bfloat16: 1e-2, torch.float16: 1e-3}.get(dtype, 1e-7)
        torch.testing.assert_close(ours, theirs, rtol=slack, atol=slack)
        if name == "dropout":
            assert torch.equal(ours, theirs)


@EACH
@DTYPE
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_mask_and_its_gradient(name, dtype, layout):
    base = sample(name, dtype)
    expected = twin(name, p=0.4, seed=3)(base)
    mask = factor(name, base, 3, 0.4)
    for other in LAYOUTS.values():
        leaf = LAYOUTS[layout](base.clone()).detach().requires_grad_()
        made = LAYOUTS[layout](leaf) if layout == "flipped" else leaf
        made = made.flip(1) if layout == "flipped" else made
        output = twin(name, p=0.4, seed=3)(made)
        if layout != "flipped":
            assert torch.equal(output, expected)
        grad_output = other(torch.rand(base.shape).to(dtype) + 1)
        (grad,) = torch.autograd.grad(output, leaf, grad_output)
        assert torch.equal((grad.flip(1).flip(1)) != 0, mask)
    if layout == "channels last":
        assert output.stride() == leaf.stride()


@EACH
def test_it_follows_manual_seed_with_one_draw_a_call(name):
    x = sample(name)
    torch.manual_seed(5)
    first, second = twin(name)(x), twin(name)(x)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(twin(name)(x), first)
    assert torch.equal(twin(name)(x * 1), second)
    assert not torch.equal(first, second)
    assert torch.equal(torch.rand(3), after)
    torch.manual_seed(5)
    for _ in range(2):
        torch.randint(2**63 - 1, ())
    assert torch.equal(torch.rand(3), after)


@EACH
def test_a_generator_of_its_own(name):
    x = sample(name)
    state = torch.get_rng_state()
    results = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(7)
        results.append([twin(name)(x, generator=generator) for _ in range(2)])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[0][1])


@EACH
def test_seeds(name):
    """A number or a tensor of one; nothing is drawn; NumPy has the same mask."""
    x = sample(name)
    state = torch.get_rng_state()
    for seed in (0, 11, -1, 2**63 + 4):
        expected = twin(name, p=0.3)(x, seed=seed)
        signed = seed if seed < 2**63 else seed - 2**64
        assert torch.equal(twin(name, p=0.3)(x, seed=torch.tensor(signed)), expected)
        assert torch.equal(twin(name, p=0.3)(x, seed=seed % 2**64), expected)
        numpy = getattr(dlkernels, name)(x.numpy(), 0.3, seed=seed)
        assert np.array_equal(numpy, expected.numpy())
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="seed and generator: expected one of them"):
        twin(name)(x, seed=1, generator=torch.Generator())
    with pytest.raises(TypeError, match="seed: expected a whole number"):
        twin(name)(x, seed="one")


@EACH
def test_nothing_to_drop(name):
    x = sample(name)
    state = torch.get_rng_state()
    for keywords in ({"training": False}, {"p": 0.0}, {"p": 0.0, "inplace": True}):
        assert twin(name, **keywords)(x) is x
        assert twin(name, seed=1, **keywords)(x) is x
    empty = x[:0]
    assert twin(name)(empty).shape == empty.shape
    assert torch.equal(torch.get_rng_state(), state)


FUSED = {
    "dropout_add": lambda x, p, **keywords: functional.dropout_add(x, x, p, **keywords),
    "bias_act_dropout": lambda x, p, **keywords: functional.bias_act_dropout(
        x, x[0], "relu", p, **keywords
    ),
}


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("way", ["kernel", "autograd", "operator"])
def test_fused_operations_draw_a_seed_only_where_something_is_dropped(name, way):
    """In training one number, from the default generator or the one given; else none."""
    x = torch.randn(4, 5, requires_grad=way == "autograd")
    mode = torch.device("cpu") if way == "operator" else contextlib.nullcontext()
    own = torch.Generator().manual_seed(3)
    states = torch.get_rng_state(), own.get_state()
    with mode:
        for training, p in ((False, 0.5), (True, 0.0)):
            FUSED[name](x, p, training=training)
            FUSED[name](x, p, training=training, generator=own)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(own.get_state(), states[1])
    with mode:
        FUSED[name](x, 0.5)
        FUSED[name](x, 0.5, generator=own)
    after = torch.rand(3), torch.rand(3, generator=own)
    torch.set_rng_state(states[0])
    own.set_state(states[1])
    for generator in (torch.default_generator, own):
        torch.randint(2**63 - 1, (), generator=generator)
    expected = torch.rand(3), torch.rand(3, generator=own)
    assert all(map(torch.equal, after, expected))


@EACH
@DTYPE
def test_everything_dropped_and_special_values(name, dtype):
    x = -sample(name, dtype)
    x.view(-1)[[0, -1]] = torch.tensor([float("nan"), float("inf")], dtype=dtype)
    for number in (1, torch.tensor(1)):
        ours = twin(name, p=1.0, seed=number)(x)
        assert torch.equal(ours, torch.zeros_like(x))
        assert not ours.signbit().any()


def _routes(function, x):
    """The result and the gradient by every way there is: kernels, torch's operations, operators."""

    def gradient(create_graph):
        at = x.clone().requires_grad_()
        y = function(at)
        (grad,) = torch.autograd.grad(y, at, g, create_graph=create_graph)
        return y.detach(), grad.detach()

    g = torch.where(torch.arange(x.numel()).view_as(x) % 3 == 1, torch.inf, 2.0).to(x.dtype)
    yield "kernel", gradient(False)
    yield "create_graph", gradient(True)
    yield "func", torch.func.vjp(function, x)[0], torch.func.vjp(function, x)[1](g)[0]
    batched = torch.func.vmap(torch.func.vjp(function, x)[1])(torch.stack([g, g]))[0][1]
    yield "vmap", (function(x), batched)
    compiled = torch.compile(function, backend="aot_eager")
    at = x.clone().requires_grad_()
    y = compiled(at)
    yield "compile", (y.detach(), torch.autograd.grad(y, at, g)[0])


@EACH
def test_what_is_dropped_is_gone_by_every_way(name):
    """Infinities and NaN give what any dropped number gives, in both directions."""
    ones = torch.ones(TWINS[name][0])
    odd = torch.tensor([torch.inf, torch.nan, -torch.inf]).repeat(ones.numel() // 3).view_as(ones)
    function = twin(name, p=0.5, seed=torch.tensor(3))
    plain = function(ones)
    dropped = plain == plain.min()
    for way, *results in _routes(function, odd):
        y, grad = results if len(results) == 2 else results[0]
        assert torch.equal(y[dropped], plain[dropped]), way
        assert not y[~dropped].isfinite().any(), way
        assert torch.equal(grad[dropped], torch.zeros_like(grad[dropped])), way
    inplace = twin(name, p=0.5, seed=3, inplace=True)(odd.clone())
    assert torch.equal(inplace[dropped], plain[dropped])


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "elu"])
def test_what_is_dropped_is_gone_in_fused_operations(activation):
    odd = torch.tensor([torch.inf, torch.nan, -torch.inf, 1.0]).repeat(30).view(20, 6)
    seed = torch.tensor(3)
    dropped = functional.dropout(torch.ones_like(odd), 0.5, seed=3) == 0
    bias, residual = torch.zeros(6), torch.full_like(odd, 0.25)

    def fused(x):
        return functional.bias_act_dropout(x, bias, activation, 0.5, seed=seed)

    def added(x):
        return functional.dropout_add(x, residual, 0.5, seed=seed)

    for function, value in ((fused, 0.0), (added, 0.25)):
        for way, *results in _routes(function, odd):
            y, grad = results if len(results) == 2 else results[0]
            assert (y[dropped] == value).all(), way
            assert (grad[dropped] == 0).all(), way


def outcome(function, *args, **keywords):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            shape = function(*args, **keywords).shape
        except Exception as error:
            return type(error), str(error)
    return shape, [str(warning.message) for warning in caught]


@EACH
def test_errors_and_warnings_are_torchs(name):
    ours, theirs = getattr(functional, name), getattr(TF, name)
    x = sample(name)
    for p in (-0.1, 1.5, float("nan"), "0.5", None):
        assert outcome(ours, x, p, True) == outcome(theirs, x, p, True)
        assert outcome(ours, x, p, False) == outcome(theirs, x, p, False)
    for dims in range(8):
        value = torch.ones([2] * dims)
        for training in (True, False):
            assert outcome(ours, value, 0.5, training) == outcome(theirs, value, 0.5, training)
        if isinstance(outcome(theirs, value, 0.5, True)[0], torch.Size):
            assert outcome(ours, value, 0.5, True, seed=1)[0] == value.shape
    for value in (x.long(), x > 0, torch.complex(x, x), None, [1.0]):
        for training in (True, False):
            expected = outcome(theirs, value, 0.5, training)
            assert outcome(ours, value, 0.5, training) == expected
            assert outcome(ours, value, 0.5, training, seed=1) == expected


@pytest.mark.parametrize(("name", "dims"), [("dropout1d", 2), ("dropout3d", 4), ("dropout2d", 3)])
def test_unbatched_channels(name, dims):
    """dropout2d takes (N, C, L) for what it is given, as torch does, with its warning."""
    x = torch.ones([6] * dims)
    batched = name == "dropout2d"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        y = getattr(functional, name)(x, 0.5, seed=1)
        last = getattr(functional, name)(x.movedim(0, -1).contiguous().movedim(-1, 0), 0.5, seed=1)
        own = x.clone()
        assert getattr(functional, name)(own, 0.5, True, True, seed=1) is own
    lead = (6, 6) if batched else (6,)
    mask = torch.from_numpy(dropout_mask(1, 0.5, lead)).view(*lead, *[1] * (dims - len(lead)))
    for result in (y, last, own):
        assert torch.equal(result, 2.0 * mask.expand(x.shape))


# --- in place


@EACH
@DTYPE
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_place(name, dtype, layout):
    base = sample(name, dtype)
    x = LAYOUTS[layout](base.clone())
    expected = twin(name, p=0.3, seed=4)(x)
    version, address = x._version, x.data_ptr()
    assert twin(name, p=0.3, seed=4, inplace=True)(x) is x
    assert x.data_ptr() == address
    assert x._version > version
    torch.testing.assert_close(x, expected)
    leaf = base.clone().requires_grad_()
    hidden = LAYOUTS[layout](leaf * 1)
    output = twin(name, p=0.3, seed=4, inplace=True)(hidden)
    assert output is hidden
    (grad,) = torch.autograd.grad(output, leaf, torch.ones_like(output))
    other_leaf = base.clone().requires_grad_()
    output = twin(name, p=0.3, seed=4)(LAYOUTS[layout](other_leaf * 1))
    (expected,) = torch.autograd.grad(output, other_leaf, torch.ones_like(output))
    torch.testing.assert_close(grad, expected)


@EACH
def test_in_place_where_autograd_forbids_it(name):
    errors = []
    for function in (twin(name, inplace=True), functools.partial(getattr(TF, name), training=True)):
        leaf = sample(name).requires_grad_()
        before = leaf.detach().clone()
        with pytest.raises(RuntimeError) as caught:
            function(leaf, p=0.5, inplace=True)
        assert torch.equal(leaf.detach(), before)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_in_place_under_inference_mode_and_no_grad():
    with torch.inference_mode():
        x = torch.ones(40)
        assert functional.dropout(x, 0.5, True, True, seed=1) is x
    leaf = torch.ones(40, requires_grad=True)
    with torch.no_grad():
        functional.dropout(leaf, 0.5, True, True, seed=1)
    assert torch.equal(leaf.detach(), x.clone())


# --- autograd


def doubles(name):
    return sample(name, torch.float64).requires_grad_()


@EACH
def test_derivatives_of_both_orders(name):
    x = doubles(name)
    for function in (twin(name, seed=2), lambda x: twin(name, seed=2, inplace=True)(x * 1)):
        assert torch.autograd.gradcheck(function, x, check_batched_grad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, x, fast_mode=True)


@EACH
def test_a_bit_per_element_is_saved_for_backward(name):
    """For planes not even that."""
    saved = []

    def pack(tensor):
        saved.append(tensor.untyped_storage().nbytes())
        return tensor

    x = sample(name).requires_grad_()
    for function in (twin(name), lambda x: twin(name, inplace=True)(x * 1)):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = function(x)
        assert sum(saved) <= (x.numel() / 8 + 8 if TWINS[name][1] == x.dim() else 0)
        (grad,) = torch.autograd.grad(output, x, torch.ones_like(x))
        assert torch.equal(grad != 0, output > (0 if "alpha" not in name else 0.5))


def test_bits_that_are_refused():
    """A wrong number of them would be read past their end."""
    x = torch.ones(100)
    tail = (1, 0.5, False, 0, 0, True)
    _, kept = dlkernels._core.dropout("dropout", x, None, None, *tail, None, True)
    assert kept.numel() == 16
    again = dlkernels._core.dropout("dropout", x, None, None, 77, *tail[1:], kept, False)
    assert torch.equal(again, functional.dropout(x, 0.5, seed=1))
    for wrong in (kept[:-1], kept[:8], kept.view(2, 8), kept.char(), kept.repeat(2)[::2]):
        with pytest.raises(ValueError, match="kept: expected 16 contiguous, aligned uint8"):
            dlkernels._core.dropout("dropout", x, None, None, *tail, wrong, False)
    with pytest.raises(ValueError, match="kept: expected"):
        dlkernels._core.dropout(
            "dropout", x[None], None, None, 1, 0.5, False, 2, 0, True, kept, False
        )


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_draws_the_same_mask(reentrant):
    def block(x):
        hidden = functional.dropout(x, 0.5) * 3
        hidden = functional.bias_act_dropout(hidden, hidden.detach()[0], "relu", 0.3)
        return functional.alpha_dropout(functional.dropout_add(hidden, x, 0.2), 0.1, True)

    grads = []
    for run in (block, lambda x: checkpoint(block, x, use_reentrant=reentrant)):
        torch.manual_seed(3)
        x = torch.linspace(-1, 1, 600).view(6, 100).requires_grad_()
        output = run(x * 1)
        output.square().sum().backward()
        grads.append((output.detach(), x.grad))
        torch.rand(1)
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_backward_twice_and_after_the_input_is_gone():
    x = torch.ones(100, requires_grad=True)
    hidden = x * 1
    output = functional.dropout(hidden, 0.5, seed=1)
    hidden.detach().zero_()
    first, second = (
        torch.autograd.grad(output, x, torch.ones(100), retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, output.detach())
    assert torch.equal(first, second)


# --- the fused ones


@DTYPE
def test_dropout_add(dtype):
    x, residual, grad_output = torch.randn(3, 7, 33).to(dtype)
    for p, training in ((0.3, True), (0.0, True), (0.3, False), (1.0, True)):
        for transposed in (False, True):
            a, b = (t.clone().requires_grad_() for t in (x, residual))
            second = b.t().contiguous().t() if transposed else b
            output = functional.dropout_add(a, second, p, training, seed=5)
            drop = p if training else 0.0
            exact = functional.dropout(a.double(), drop, True, seed=5) + b.double()
            slack = {torch.bfloat16: 1e-2, torch.float16: 1e-3}.get(dtype, 3e-7)
            torch.testing.assert_close(output.double(), exact, rtol=slack, atol=slack)
            grad, residual_grad = torch.autograd.grad(output, (a, b), grad_output)
            assert torch.equal(residual_grad, grad_output)
            expected = functional.dropout(grad_output, drop, True, seed=5)
            assert torch.equal(grad, expected)
    with pytest.raises(ValueError, match=r"residual: expected shape \(7, 33\), got \(33,\)"):
        functional.dropout_add(x, residual[0])
    mixed = functional.dropout_add(x, residual.double(), 0.3, seed=5)
    assert mixed.dtype is torch.float64


@pytest.mark.parametrize("activation", sorted(dlkernels.activations.ACTIVATIONS))
@pytest.mark.parametrize("bias", [True, False])
def test_bias_act_dropout(activation, bias):
    row = dlkernels.activations.ACTIVATIONS[activation]
    options = {
        p.name: p.example if p.example is not None else 0.25
        for p in row.parameters
        if p.default is inspect.Parameter.empty
    }
    x = torch.randn(2, 5, 33, requires_grad=True)
    b = torch.randn(33, requires_grad=True) if bias else None
    inputs = (x, b) if bias else (x,)
    for p in (0.25, 0.0):
        output = functional.bias_act_dropout(x, b, activation, p, seed=6, **options)
        hidden = getattr(TF, activation)(x + b if bias else x * 1, **options)
        expected = functional.dropout(hidden, p, seed=6)
        torch.testing.assert_close(output, expected, rtol=3e-6, atol=3e-6)
        grad_output = torch.randn(2, 5, 33)
        torch.testing.assert_close(
            torch.autograd.grad(output, inputs, grad_output),
            torch.autograd.grad(expected, inputs, grad_output),
            rtol=1e-5,
            atol=1e-5,
        )
    assert torch.equal(
        functional.bias_act_dropout(x, b, activation, 0.9, False, **options).detach(),
        functional.bias_act_dropout(x, b, activation, 0.0, **options).detach(),
    )


def test_fused_derivatives_of_both_orders():
    x = torch.linspace(-2, 2.1, 24, dtype=torch.float64).view(4, 6).requires_grad_()
    b = torch.linspace(1, 2, 6, dtype=torch.float64).requires_grad_()
    residual = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    seed = torch.tensor(9)
    for function, inputs in (
        (lambda x, r: functional.dropout_add(x, r, 0.3, seed=1), (x, residual)),
        (lambda x, b: functional.bias_act_dropout(x, b, "relu", 0.3, seed=1), (x, b)),
        (lambda x: functional.bias_act_dropout(x, None, "relu", 0.3, seed=1), (x,)),
        (lambda x, r: OPS.dropout_add(x, r, seed, 0.3), (x, residual)),
        (lambda x, b: OPS.bias_act_dropout(x, b, seed, 0.3, 0, 0.0, 0.0), (x, b)),
        (lambda x: OPS.bias_act_dropout(x, None, seed, 0.3, 0, 0.0, 0.0), (x,)),
        (lambda x: OPS.dropout(x, seed, 0.3, True, 2), (x,)),
    ):
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_bias_act_dropout_is_checked():
    x, bias = torch.ones(4, 3), torch.ones(3)
    with pytest.raises(ValueError, match="activation: expected one of"):
        functional.bias_act_dropout(x, bias, "linear")
    with pytest.raises(ValueError, match=r"bias: expected shape \(3,\), got \(4,\)"):
        functional.bias_act_dropout(x, torch.ones(4))
    with pytest.raises(TypeError, match="relu has no argument slope"):
        functional.bias_act_dropout(x, bias, slope=1.0)
    mixed = functional.bias_act_dropout(x, bias.double(), "relu", 0.5, seed=1)
    assert mixed.dtype is torch.float64
    assert functional.bias_act_dropout(torch.ones(()), None, "relu", 0.0).shape == ()


# --- modules


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    ours, theirs = (getattr(nn, name)(0.3, inplace=False) for nn in (dnn, torch.nn))
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert ours.state_dict() == {}
    x = torch.rand(MODULES[name]) + 1
    torch.manual_seed(2)
    expected = ours(x)
    for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.manual_seed(2)
        assert torch.equal(module(x), expected)
    assert ours.eval()(x) is x
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        getattr(dnn, name)(1.5)
    seeded = getattr(dnn, name)(0.3, seed=4)
    assert torch.equal(seeded(x), seeded(x))
    in_place = getattr(dnn, name)(0.3, True, seed=4)
    own = x.clone()
    assert in_place(own) is own
    assert torch.equal(own, seeded(x))
    own_generator = getattr(dnn, name)(0.3, generator=torch.Generator().manual_seed(1))
    again = copy.deepcopy(own_generator)
    assert torch.equal(own_generator(x), again(x))


# --- operators, compiled graphs, other tensors


def every_twin(x, bias):
    images = x.view(2, 3, 4, -1)
    hidden = functional.dropout(x * 2, 0.4) + functional.alpha_dropout(x, 0.2, True)
    hidden = functional.dropout_add(hidden, x, 0.1)
    hidden = functional.bias_act_dropout(hidden, bias, "relu", 0.3)
    hidden = functional.dropout(hidden * 1, 0.5, inplace=True)
    images = functional.dropout2d(images) + functional.feature_alpha_dropout(images, 0.3, True)
    volume = functional.dropout3d(images) + functional.dropout1d(images[0].flatten(1))[:, :1, None]
    return hidden.square().sum() + volume.square().sum()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_every_twin_compiles_in_one_graph(backend):
    """aot_eager draws what eager draws; inductor has numbers of its own, which follow
    torch.manual_seed, or torch's with fallback_random."""
    from torch._inductor import config

    compiled = torch.compile(every_twin, fullgraph=True, backend=backend)
    results = []
    with config.patch(fallback_random=True):
        for function in (every_twin, compiled, compiled):
            torch.manual_seed(8)
            x = torch.linspace(-1, 1, 240).view(6, 40).requires_grad_()
            bias = torch.linspace(-1, 1, 40).requires_grad_()
            loss = function(x, bias)
            results.append((loss.detach(), *torch.autograd.grad(loss, (x, bias))))
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)
        assert not torch.equal(compiled(x, bias), compiled(x, bias))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_compiled_seeds():
    """inductor's own numbers follow torch.manual_seed, call by call; a seed is a seed."""
    compiled = torch.compile(lambda x: functional.dropout(x, 0.5), fullgraph=True)
    x = torch.ones(1000)
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        runs.append([compiled(x) for _ in range(3)])
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(runs[0][0], runs[0][1])
    seeded = torch.compile(lambda x, s: functional.dropout(x, 0.5, seed=s), fullgraph=True)
    for seed in (5, 6, 2**63 - 1, -1):
        assert torch.equal(seeded(x, seed), functional.dropout(x, 0.5, seed=seed))
        tensor = torch.tensor(seed)
        assert torch.equal(seeded(x, tensor), functional.dropout(x, 0.5, seed=seed))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpointing_in_a_compiled_graph():
    def block(x):
        return functional.dropout(x * 2, 0.5).sin()

    compiled = torch.compile(
        lambda x: checkpoint(block, x, use_reentrant=False), fullgraph=True, backend="aot_eager"
    )
    x = torch.linspace(1, 2, 400).requires_grad_()
    output = compiled(x)
    (grad,) = torch.autograd.grad(output.sum(), x)
    assert torch.equal(grad != 0, output != 0)


def operator_samples():
    x = torch.randn(2, 3, 4, 5)
    seed, bias = torch.tensor(3), torch.randn(5)
    for layout in LAYOUTS.values():
        for grad in (False, True):
            at, other = (layout(t).detach().requires_grad_(grad) for t in (x, x * 2))
            for alpha, dims in ((False, 0), (True, 0), (False, 2), (True, 2), (False, 1)):
                yield OPS.dropout, (at, seed, 0.3, alpha, dims)
                yield OPS.dropout_backward, (at, seed, 0.3, alpha, dims)
            yield OPS.dropout_add, (at, other, seed, 0.3)
            for b in (None, bias.clone().requires_grad_(grad)):
                tail = (seed, 0.3, 0, 0.0, 0.0)
                yield OPS.bias_act_dropout, (at, b, *tail)
                yield OPS.bias_act_dropout_backward, (at, other, b, *tail)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by the check itself
@SOME_OR_ALL
def test_operators(some):
    for operator, sample in some(operator_samples(), 13):
        torch.library.opcheck(operator, sample)


def test_explain():
    x = torch.ones(3, 4)
    assert explain(functional.dropout, x) == "kernel: called directly"
    assert explain(functional.alpha_dropout, x.long()) == "torch: no kernel for torch.int64"
    assert explain(functional.dropout_add, x, x) == "kernel: called directly"
    assert explain(functional.dropout2d, x.to("meta")).startswith("torch: a tensor is on meta")
    with torch.device("cpu"):  # a mode, to torch
        assert explain(functional.dropout, x).startswith("operator: torch.ops.dlkernels")


@EACH
def test_other_tensors_go_to_torch(name):
    x = sample(name)
    assert twin(name)(x.to("meta")).is_meta
    assert twin(name)(x.to("meta"), seed=1).is_meta
    negated = torch.complex(x, x).conj().imag
    expected = twin(name, seed=1)(negated.resolve_neg())
    torch.testing.assert_close(twin(name, seed=1)(negated), expected)


@EACH
def test_transforms_with_a_seed_have_its_mask(name):
    """Without one torch.func asks torch's own function, which has a word to say on randomness."""
    x = sample(name)
    seeded = twin(name, seed=1)
    expected = seeded(x)
    torch.testing.assert_close(torch.func.vmap(seeded)(x[None])[0], expected)
    _, tangent = torch.func.jvp(seeded, (x,), (torch.ones_like(x),))
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(seeded(leaf), leaf, torch.ones_like(x))
    torch.testing.assert_close(tangent, grad)
    torch.testing.assert_close(torch.func.grad(lambda x: seeded(x).sum())(x), grad)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(twin(name))(x[None])


def test_subclasses_see_the_operators():
    class Meters(torch.Tensor):
        pass

    x = torch.ones(50).as_subclass(Meters)
    y = functional.dropout(x, 0.5, seed=1)
    assert isinstance(y, Meters)
    assert torch.equal(y.as_subclass(torch.Tensor), functional.dropout(torch.ones(50), seed=1))


def test_a_wider_dropout_is_as_fast_to_ask_for():
    """The statistics of torch's own: the mean of many draws."""
    x = torch.ones(1000, 1000)
    torch.manual_seed(0)
    for p in (0.1, 0.5):
        y = functional.dropout(x, p)
        assert abs(y.mean().item() - 1) < 5e-3
        assert abs((y == 0).double().mean().item() - p) < 2e-3
