"""The activations' twins against torch: all of the spec table, then what is relu's alone."""

import copy
import functools
import inspect
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as TF

import dlkernels.torch.nn as dnn
from activations.specs import ACTIVATIONS as SPECS
from dlkernels.torch import explain, functional
from dlkernels.torch.functional import relu, relu_
from support import ISAS, isa_level
from torch_support import DTYPES

ACTIVATIONS = pytest.mark.parametrize("activation", SPECS, ids=lambda a: a.name)

SIZES = [0, 1, 7, 15, 16, 17, 31, 33, 64, 127, 1000, 4099]
SPECIAL = [
    float("nan"),
    -float("nan"),
    0.0,
    -0.0,
    float("inf"),
    -float("inf"),
    1e-40,
    -1e-40,
    1.5,
    -2,
]


def same_bits(a, b):
    """NaN equals NaN, and -0.0 is not 0.0."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(
        a.nan_to_num(7.0, 1e9, -1e9), b.nan_to_num(7.0, 1e9, -1e9)
    )


def assert_same(a, b):
    assert same_bits(a, b)
    numbers = ~a.isnan()
    assert torch.equal(a.signbit() & numbers, b.signbit() & numbers)


def assert_agrees(activation, ours, theirs):
    """Exact activations bit by bit, others to torch's rounding."""
    if activation.eps == (0, 0):
        assert_same(ours, theirs)
        return
    assert ours.dtype == theirs.dtype
    slack = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 2e-6}
    bound = slack.get(ours.dtype, activation.torch_float64)
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound, equal_nan=True)


def twins(activation, suffix=""):
    """Pairs (ours, torch's) for every set of options."""
    name = activation.name + suffix
    theirs = getattr(TF, name, None) or getattr(torch, name, None)
    ours = getattr(functional, name, None)
    assert (ours is None) == (theirs is None)
    if ours is None:
        return
    for options in activation.options:
        yield functools.partial(ours, **options), functools.partial(theirs, **options)


def modules(activation, **keywords):
    """Pairs of modules for every set of options."""
    name = activation.row.module
    for options in activation.options:
        yield tuple(getattr(nn, name)(**options, **keywords) for nn in (dnn, torch.nn))


def assert_same_outcome(ours, theirs, value):
    """The same tensor, or an error of the same type and text."""
    outcomes = []
    for function in (ours, theirs):
        try:
            outcomes.append(function(copy.deepcopy(value)))
        except Exception as error:
            outcomes.append((type(error), str(error)))
    if isinstance(outcomes[1], torch.Tensor):
        assert outcomes[0].dtype is outcomes[1].dtype
        assert torch.equal(*outcomes)
    else:
        assert outcomes[0] == outcomes[1]


def takes_inplace(activation):
    return "inplace" in inspect.signature(getattr(functional, activation.name)).parameters


def in_place_pairs(activation):
    """Every way to write over the input."""
    yield from twins(activation, "_")
    if takes_inplace(activation):
        for ours, theirs in twins(activation):
            yield (functools.partial(f, inplace=True) for f in (ours, theirs))
        yield from modules(activation, inplace=True)


def with_grad(function, x, grad_output):
    leaf = x.detach().requires_grad_()
    output = function(leaf)
    (grad,) = torch.autograd.grad(output, leaf, grad_output)
    return output.detach(), grad


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "sliced": lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1:-2],
    "every second": lambda x: torch.stack((x, x), -1)[..., 0],
    "expanded": lambda x: x[:1].expand(3, -1, -1, -1),
    "flipped": lambda x: x.flip(2),
}


@ACTIVATIONS
def test_signature_is_torchs(activation):
    for suffix in ("", "_"):
        ours = getattr(functional, activation.name + suffix, None)
        theirs = getattr(TF, activation.name + suffix, None)
        if theirs is None:
            continue
        try:
            expected = inspect.signature(theirs)
        except ValueError:  # compiled: called with every argument by the other tests
            continue
        given = inspect.signature(ours)
        assert list(given.parameters) == list(expected.parameters)
        for name, parameter in expected.parameters.items():
            assert given.parameters[name].default == parameter.default
            assert given.parameters[name].kind == parameter.kind
    assert getattr(functional, activation.name).__module__ == "dlkernels.torch.functional"


@ACTIVATIONS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_size_and_special_value(activation, dtype):
    for ours, theirs in twins(activation):
        for size in SIZES:
            x = torch.tensor((SPECIAL * (size // len(SPECIAL) + 1))[:size]).to(dtype)
            x[::2] = torch.randn(x[::2].shape).to(dtype)
            x[: len(SPECIAL)] = torch.tensor(SPECIAL[:size])
            grad_output = torch.randn(size).to(dtype)
            expected, expected_grad = with_grad(theirs, x, grad_output)
            finite = x.isfinite()  # torch's derivative at infinity is often NaN
            for level in ISAS:
                with isa_level(level):
                    output, grad = with_grad(ours, x, grad_output)
                    again = ours(x)
                for limit in activation.limits:  # NaN, torch's, is nothing to agree with
                    expected[x == limit] = output[x == limit]
                assert_agrees(activation, output, expected)
                assert_agrees(activation, grad[finite], expected_grad[finite])
                assert_agrees(activation, again, expected)


def test_gradient_at_nan_is_one_and_at_zero_is_zero():
    x = torch.tensor([float("nan"), 0.0, -0.0, 1e-45, -1e-45])
    _, grad = with_grad(relu, x, torch.full((5,), 3.0))
    assert grad.tolist() == [3.0, 0.0, 0.0, 3.0, 0.0]
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0, 2.0])
    _, grad = with_grad(relu, -torch.ones(5), special)
    assert grad.tolist() == [0.0] * 5  # selected, not multiplied by zero


@pytest.mark.sampled(3)
@ACTIVATIONS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_memory_formats(activation, name, dtype):
    """With a gradient in every layout, among them others than the output's."""
    x = LAYOUTS[name](torch.randn(3, 5, 4, 6).to(dtype))
    for ours, theirs in twins(activation):
        for other in LAYOUTS.values():
            grad_output = other(torch.randn(3, 5, 4, 6).to(dtype))
            output, grad = with_grad(ours, x, grad_output)
            expected, expected_grad = with_grad(theirs, x, grad_output)
            assert_agrees(activation, output, expected)
            assert_agrees(activation, grad, expected_grad)
            if activation.name != "logsigmoid":  # torch's is row-major, whatever came
                assert output.stride() == expected.stride()


@pytest.mark.sampled(3)
@ACTIVATIONS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_in_place(activation, name, dtype):
    base = torch.randn(3, 5, 4, 6).to(dtype)
    for ours, theirs in in_place_pairs(activation):
        if name == "expanded":  # elements that share a place: torch's error, threshold too
            with pytest.raises(RuntimeError, match=r"^unsupported operation: more than one"):
                ours(LAYOUTS[name](base))
            if activation.name != "threshold":
                assert_same_outcome(ours, theirs, LAYOUTS[name](base))
            continue
        x, their_x = LAYOUTS[name](base.clone()), LAYOUTS[name](base.clone())
        version, address = x._version, x.data_ptr()
        result = ours(x)
        assert result is x
        assert x.data_ptr() == address
        assert x._version == version + 1
        assert_agrees(activation, x, theirs(their_x))
        leaf = base.clone().requires_grad_()
        hidden = LAYOUTS[name](leaf * 1)
        version = hidden._version
        output = ours(hidden)
        assert output is hidden
        assert hidden._version == version + 1
        grad_output = torch.randn(3, 5, 4, 6).to(dtype)
        (grad,) = torch.autograd.grad(output, leaf, grad_output)
        their_leaf = base.clone().requires_grad_()
        their_output = theirs(LAYOUTS[name](their_leaf * 1))
        assert_agrees(activation, output.detach(), their_output.detach())
        assert_agrees(
            activation, grad, torch.autograd.grad(their_output, their_leaf, grad_output)[0]
        )


def test_in_place_on_a_slice_leaves_the_rest_alone():
    whole = torch.full((40,), -1.0)
    relu_(whole[3:20])
    relu_(whole[24:36:3])
    expected = torch.full((40,), -1.0)
    expected[3:20] = 0
    expected[24:36:3] = 0
    assert torch.equal(whole, expected)


def unbound(leaf):
    return (leaf * 1).unbind(0)[0]


@ACTIVATIONS
@pytest.mark.parametrize(
    "make", [lambda x: x, lambda x: x[:2], lambda x: x.view(-1), unbound], ids=range(4)
)
def test_in_place_where_autograd_forbids_it_raises_before_any_write(activation, make):
    def attempt(function):
        leaf = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
        made = make(leaf)
        before = leaf.detach().clone()
        with pytest.raises(RuntimeError) as raised:
            function(made)
        assert torch.equal(leaf.detach(), before)
        assert torch.equal(made.detach(), make(before))
        return str(raised.value)

    for ours, theirs in in_place_pairs(activation):
        assert attempt(ours) == attempt(theirs)


def test_in_place_under_no_grad_and_inference_mode():
    leaf = torch.tensor([-1.0, 2.0], requires_grad=True)
    with torch.no_grad():
        relu_(leaf)
    assert leaf.tolist() == [0.0, 2.0]
    assert leaf._version == 1
    with torch.inference_mode():
        x = torch.tensor([-1.0, 2.0])
        assert relu_(x).tolist() == [0.0, 2.0]
        inference = torch.tensor([-1.0, 2.0])
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        relu_(inference)


def test_in_place_breaks_what_others_saved_as_torch_does():
    x = torch.randn(5, requires_grad=True) * 1
    square = x * x
    relu_(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0,), (1,), (100,), (1000, 33)])
def test_one_bit_per_element_is_saved(shape, dtype):
    saved = []

    def pack(tensor):
        saved.append(tensor.untyped_storage().nbytes())
        return tensor

    x = torch.randn(shape, requires_grad=True)
    for function in (lambda: relu(x.to(dtype)), lambda: relu_(x.to(dtype, copy=True))):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = function()
        assert sum(saved) <= output.numel() / 8 + 16
    copies = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: copies.append(t.clone()) or len(copies) - 1, lambda i: copies[i].clone()
    ):
        output = relu(x)
    (grad,) = torch.autograd.grad(output, x, torch.ones(shape))
    assert torch.equal(grad, (x > 0).float())


def test_the_result_may_be_written_to_before_backward():
    x = torch.randn(50, requires_grad=True)
    output = relu(x)
    output.detach().zero_()
    (grad,) = torch.autograd.grad(output, x, torch.ones(50))
    assert torch.equal(grad, (x > 0).float())


@ACTIVATIONS
def test_derivatives_of_both_orders(activation):
    x = torch.from_numpy(activation.smooth_points()).requires_grad_()
    functions = [ours for ours, _ in twins(activation)]
    functions += [lambda x, f=f: f(x.t()) for f, _ in twins(activation)]
    functions += [lambda x, f=f: f(x * 1) for f, _ in in_place_pairs(activation)]
    for function in functions:
        assert torch.autograd.gradcheck(function, x, check_batched_grad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, x, fast_mode=True)
    for ours, theirs in twins(activation):
        jacobians = [
            torch.autograd.functional.jacobian(f, x, vectorize=True) for f in (ours, theirs)
        ]
        torch.testing.assert_close(*jacobians)


@ACTIVATIONS
def test_double_backward_in_other_layouts(activation):
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    for pair in twins(activation):
        if activation.name == "hardsigmoid":  # torch's has no second derivative
            pair = (pair[0], lambda x: TF.relu6(x + 3) / 6)
        grads = []
        for function in pair:
            g = torch.linspace(-1, 1, 120).reshape(2, 3, 4, 5).requires_grad_()
            (first,) = torch.autograd.grad(function(x), x, g, create_graph=True)
            v = torch.linspace(2, 3, 120).reshape(5, 4, 3, 2).permute(3, 2, 1, 0)
            grads.append(torch.autograd.grad(first, g, v)[0])
        assert_agrees(activation, *grads)


@ACTIVATIONS
def test_forward_mode_derivative(activation):
    x, tangent = torch.randn(2, 30)
    for pair in twins(activation):
        results = []
        for function in pair:
            with torch.autograd.forward_ad.dual_level():
                dual = function(torch.autograd.forward_ad.make_dual(x, tangent))
                results.append(torch.autograd.forward_ad.unpack_dual(dual).tangent)
        assert torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_integers(dtype):
    x = torch.tensor([3, 0, -5]).to(dtype)
    result = relu(x)
    assert result.dtype is dtype
    assert torch.equal(result, torch.relu(x))
    assert torch.equal(relu_(x.clone()), torch.relu(x))


@ACTIVATIONS
@pytest.mark.parametrize(
    "bad",
    [torch.tensor([True]), torch.tensor([1j]), torch.tensor([1, -2]), [1.0], None, "text"],
    ids=str,
)
def test_what_no_kernel_takes_gives_what_torch_gives(activation, bad):
    for suffix in ("", "_"):
        for pair in twins(activation, suffix):
            assert_same_outcome(*pair, bad)


@ACTIVATIONS
def test_parameters_that_are_wrong_raise_what_torch_raises(activation):
    x = torch.ones(3)
    for parameter in activation.row.parameters:
        for bad in (None, "none of them", [1.0]):
            options = {**activation.options[-1], parameter.name: bad}
            raised = []
            for module in (functional, TF):
                with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
                    getattr(module, activation.name)(x, **options)
                raised.append((caught.type, str(caught.value)))
            assert raised[0] == raised[1]


@pytest.mark.parametrize(
    ("name", "options"),
    [("hardtanh", (2.0, 1.0)), ("celu", (0.0,)), ("celu", (-1.5,)), ("elu", (-1.5,))],
)
def test_parameters_that_are_torchs_alone(name, options):
    """An error of torch's, or a function that cannot be inverted."""
    ours, theirs = getattr(functional, name), getattr(TF, name)
    for requires_grad in (False, True):
        x = torch.linspace(-3, 3, 50, requires_grad=requires_grad)
        outcomes = []
        for function in (ours, theirs):
            try:
                y = function(x, *options)
                outcomes.append((y, *(torch.autograd.grad(y.sum(), x) if requires_grad else ())))
            except (RuntimeError, ValueError) as error:
                outcomes.append(str(error))
        if isinstance(outcomes[1], str):
            assert outcomes[0] == outcomes[1]
        else:
            torch.testing.assert_close(*outcomes, rtol=2e-6, atol=2e-6)
    assert explain(ours, x, *options) == "torch: parameters that the kernel does not take"
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    if name != "hardtanh" and options[0]:
        torch.testing.assert_close(compiled(x, *options), theirs(x, *options))


def test_a_negative_slope_in_place_has_a_gradient():
    """torch, which looks at the result, has an error for it; the mask is right."""
    x = torch.linspace(-3, 3, 7).requires_grad_()
    y = functional.leaky_relu_(x * 1, -0.5)
    (grad,) = torch.autograd.grad(y, x, torch.ones(7))
    assert grad.tolist() == [-0.5] * 4 + [1.0] * 3


@pytest.mark.parametrize(
    ("names", "bytes_per_element"),
    [
        (("relu6", "hardtanh", "leaky_relu", "hardsigmoid"), 1 / 8),
        (("sigmoid", "tanh", "elu", "celu", "selu", "softsign", "logsigmoid"), 4),
    ],
)
def test_what_is_saved(names, bytes_per_element):
    """A bit, or the output, which the next layer keeps anyway: never the input."""
    for name in names:
        x = torch.randn(4096, requires_grad=True)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t) or t, lambda t: t
        ):
            y = getattr(functional, name)(x)
        assert sum(t.untyped_storage().nbytes() for t in saved) == 4096 * bytes_per_element
        assert all(t.data_ptr() != x.data_ptr() for t in saved)
        if bytes_per_element == 4:
            assert saved[0].data_ptr() == y.data_ptr()


@ACTIVATIONS
def test_negated_views_and_their_gradients(activation):
    negated = torch.complex(torch.randn(9), torch.randn(9)).conj().imag
    assert negated.is_neg()
    for pair in twins(activation):
        assert_agrees(activation, *(function(negated) for function in pair))
        grads = []
        for function in pair:
            x = torch.linspace(-1, 1, 9).requires_grad_()
            wave = torch.complex(torch.ones(9), function(x)).conj()
            grads.append(torch.autograd.grad(wave, x, torch.full((9,), 2 + 3j))[0])
        assert_agrees(activation, *grads)


@ACTIVATIONS
def test_module(activation):
    x = torch.linspace(-3, 4, 20)
    places = [{}, {"inplace": True}] if takes_inplace(activation) else [{}]
    for keywords in places:
        for ours, theirs in modules(activation, **keywords):
            assert repr(ours) == repr(theirs)
            assert isinstance(ours, type(theirs))
            assert list(ours.state_dict()) == []
            assert type(ours).forward is not type(theirs).forward
            for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
                assert_agrees(activation, module(x.clone()), theirs(x.clone()))


@ACTIVATIONS
def test_explain_activations(activation):
    x = torch.ones(3, 4)
    for options in activation.options:
        function = getattr(functional, activation.name)
        assert explain(function, x, **options) == "kernel: called directly"
        assert explain(function, x.long(), **options) == "torch: no kernel for torch.int64"
        in_place = getattr(functional, f"{activation.name}_", None)
        if in_place is not None:
            assert explain(in_place, x, **options) == "kernel: called directly"
            assert explain(in_place, x[:, ::2], **options).startswith("torch: in place on a view")


def test_explain():
    x = torch.ones(3, 4)
    assert explain(relu, x) == "kernel: called directly"
    assert explain(relu, input=x, inplace=True) == "kernel: called directly"
    assert explain(relu, x.long()) == "torch: no kernel for torch.int64"
    assert explain(relu_, x[:, ::2]).startswith("torch: in place on a view")
    assert explain(relu, x[:, ::2]) == "kernel: called directly"
    assert explain(relu_, x.clone().requires_grad_()).startswith(
        "torch: in place on a view, a leaf"
    )
    for bad in ((TF.relu, x), (relu,), (relu, x, 1, 2, 3)):
        with pytest.raises(TypeError):
            explain(*bad)


def test_large_outputs_of_two_threads_and_one_agree():
    import dlkernels

    x = torch.randn(1 << 20)
    results = []
    for threads, layout in itertools.product((1, 2), (x, x.view(1024, 1024).t())):
        with dlkernels.num_threads(threads):
            results.append(with_grad(relu, layout, torch.ones_like(layout))[1].sum())
    assert len({float(r) for r in results}) == 1
