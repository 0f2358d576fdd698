"""The relu twin of the torch front against torch."""

import copy
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as TF

import dlkernels.torch.nn as dnn
from dlkernels.torch import explain
from dlkernels.torch.functional import relu, relu_

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_size_and_special_value(dtype, isa):
    for size in SIZES:
        x = torch.tensor((SPECIAL * (size // len(SPECIAL) + 1))[:size]).to(dtype)
        grad_output = torch.randn(size).to(dtype)
        output, grad = with_grad(relu, x, grad_output)
        expected, expected_grad = with_grad(TF.relu, x, grad_output)
        assert_same(output, expected)
        assert_same(grad, expected_grad)
        assert_same(relu(x), expected)


def test_gradient_at_nan_is_one_and_at_zero_is_zero():
    x = torch.tensor([float("nan"), 0.0, -0.0, 1e-45, -1e-45])
    _, grad = with_grad(relu, x, torch.full((5,), 3.0))
    assert grad.tolist() == [3.0, 0.0, 0.0, 3.0, 0.0]
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0, 2.0])
    _, grad = with_grad(relu, -torch.ones(5), special)
    assert grad.tolist() == [0.0] * 5  # selected, not multiplied by zero


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_memory_formats(name, dtype):
    """With a gradient in every layout, among them others than the output's."""
    x = LAYOUTS[name](torch.randn(3, 5, 4, 6).to(dtype))
    for other in LAYOUTS.values():
        grad_output = other(torch.randn(3, 5, 4, 6).to(dtype))
        output, grad = with_grad(relu, x, grad_output)
        expected, expected_grad = with_grad(TF.relu, x, grad_output)
        assert_same(output, expected)
        assert_same(grad, expected_grad)
        assert output.stride() == expected.stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_in_place(name, dtype):
    base = torch.randn(3, 5, 4, 6).to(dtype)
    if name == "expanded":
        shared = LAYOUTS[name](base)
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
            relu_(shared)
        return
    for function in (relu_, lambda x: relu(x, inplace=True), dnn.ReLU(inplace=True)):
        x, theirs = LAYOUTS[name](base.clone()), LAYOUTS[name](base.clone())
        version, address = x._version, x.data_ptr()
        result = function(x)
        assert result is x
        assert x.data_ptr() == address
        assert x._version == version + 1
        assert_same(x, torch.relu_(theirs))
        leaf = base.clone().requires_grad_()
        hidden = LAYOUTS[name](leaf * 1)
        version = hidden._version
        output = function(hidden)
        assert output is hidden
        assert hidden._version == version + 1
        grad_output = torch.randn(3, 5, 4, 6).to(dtype)
        (grad,) = torch.autograd.grad(output, leaf, grad_output)
        their_leaf = base.clone().requires_grad_()
        their_output = torch.relu_(LAYOUTS[name](their_leaf * 1))
        assert_same(output.detach(), their_output.detach())
        assert_same(grad, torch.autograd.grad(their_output, their_leaf, grad_output)[0])


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


@pytest.mark.parametrize(
    "make", [lambda x: x, lambda x: x[:2], lambda x: x.view(-1), unbound], ids=range(4)
)
@pytest.mark.parametrize("function", [relu_, dnn.ReLU(inplace=True)], ids=["relu_", "ReLU"])
def test_in_place_where_autograd_forbids_it_raises_before_any_write(make, function):
    def attempt(function):
        leaf = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
        made = make(leaf)
        before = leaf.detach().clone()
        with pytest.raises(RuntimeError) as raised:
            function(made)
        assert torch.equal(leaf.detach(), before)
        assert torch.equal(made.detach(), make(before))
        return str(raised.value)

    assert attempt(function) == attempt(torch.relu_)


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


def test_derivatives_of_both_orders():
    x = torch.randn(4, 5, dtype=torch.float64)
    x = torch.where(x.abs() < 0.1, 0.5, x).requires_grad_()
    for function in (relu, lambda x: relu_(x * 1), lambda x: relu(x.t())):
        assert torch.autograd.gradcheck(function, x, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, x)
    jacobian = torch.autograd.functional.jacobian(relu, x, vectorize=True)
    assert torch.equal(jacobian.reshape(20, 20), torch.diag((x > 0).double().flatten()))


def test_double_backward_in_other_layouts():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    grads = []
    for function in (relu, TF.relu):
        g = torch.linspace(-1, 1, 120).reshape(2, 3, 4, 5).requires_grad_()
        (first,) = torch.autograd.grad(function(x), x, g, create_graph=True)
        v = torch.linspace(2, 3, 120).reshape(5, 4, 3, 2).permute(3, 2, 1, 0)
        grads.append(torch.autograd.grad(first, g, v)[0])
    assert torch.equal(*grads)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_derivative():
    x, tangent = torch.randn(2, 30)
    with torch.autograd.forward_ad.dual_level():
        dual = relu(torch.autograd.forward_ad.make_dual(x, tangent))
        result = torch.autograd.forward_ad.unpack_dual(dual).tangent
    assert torch.equal(result, tangent * (x > 0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_integers(dtype):
    x = torch.tensor([3, 0, -5]).to(dtype)
    result = relu(x)
    assert result.dtype is dtype
    assert torch.equal(result, torch.relu(x))
    assert torch.equal(relu_(x.clone()), torch.relu(x))


@pytest.mark.parametrize(
    "bad", [torch.tensor([True]), torch.tensor([1j]), [1.0], None, torch.ones(2).numpy()]
)
def test_bad_inputs_raise_what_torch_raises(bad):
    for ours, theirs in ((relu, TF.relu), (relu_, torch.relu_)):
        with pytest.raises((RuntimeError, TypeError, NotImplementedError)) as expected:
            theirs(bad)
        with pytest.raises(expected.type) as raised:
            ours(bad)
        assert str(raised.value) == str(expected.value)


def test_negated_views_and_their_gradients():
    negated = torch.complex(torch.randn(9), torch.randn(9)).conj().imag
    assert negated.is_neg()
    assert torch.equal(relu(negated), torch.relu(negated))
    grads = []
    for function in (relu, torch.relu):
        x = torch.linspace(-1, 1, 9).requires_grad_()
        wave = torch.complex(torch.ones(9), function(x)).conj()
        grads.append(torch.autograd.grad(wave, x, torch.full((9,), 2 + 3j))[0])
    assert torch.equal(*grads)


def test_module():
    ours, theirs = dnn.ReLU(inplace=True), torch.nn.ReLU(inplace=True)
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, torch.nn.ReLU)
    assert list(ours.state_dict()) == []
    for module in (dnn.ReLU(), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert module(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]


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
