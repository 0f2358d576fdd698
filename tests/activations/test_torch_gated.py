"""The twins of prelu, glu, swiglu and maxout against torch."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as TF

import dlkernels
import dlkernels.torch.nn as dnn
from dlkernels.torch import explain, functional
from dlkernels.torch.functional import glu, maxout, prelu, swiglu
from support import SOME_OR_ALL
from torch_support import DTYPES

OPS = torch.ops.dlkernels
SLACK = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 3e-6, torch.float64: 1e-13}

pytestmark = [
    # torch's own, from inside its compiler
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def torch_swiglu(gate, up=None, dim=-1):
    if up is None:
        gate, up = gate.chunk(2, dim)
    return TF.silu(gate) * up


def torch_maxout(x, pieces, dim=1):
    return x.unflatten(dim, (-1, pieces)).max(dim % x.dim() + 1).values


def close(ours, theirs):
    bound = SLACK[ours.dtype]
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound, equal_nan=True)


def agree(ours, theirs, *tensors):
    """The same result and the same gradients."""
    leaves = [[t.detach().clone().requires_grad_() for t in tensors] for _ in range(2)]
    outputs = [f(*group) for f, group in zip((ours, theirs), leaves, strict=True)]
    close(outputs[0].detach(), outputs[1].detach())
    close(ours(*tensors), outputs[1].detach())
    grad_output = torch.randn(outputs[0].shape, dtype=torch.float64).to(outputs[0].dtype)
    results = [
        torch.autograd.grad(output, group, grad_output)
        for output, group in zip(outputs, leaves, strict=True)
    ]
    for mine, their, tensor in zip(*results, tensors, strict=True):
        # A gradient summed over more than its result's shape: torch rounds on the way.
        scale = outputs[0].numel() ** 0.5 if tensor.numel() < outputs[0].numel() else 1.0
        close(mine / scale, their / scale)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "sliced": lambda x: TF.pad(x, (1, 2))[..., 1:-2],
    "flipped": lambda x: x.flip(2),
    "expanded": lambda x: x[:1].expand(3, -1, -1, -1),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_prelu_layouts(dtype, layout, channels, isa):
    for inner in ((4, 6), (17, 19)):
        x = LAYOUTS[layout](torch.randn(3, channels, *inner).to(dtype))
        for weight in (torch.tensor([0.25]), torch.tensor(-0.5), torch.randn(channels)):
            agree(prelu, TF.prelu, x, weight.to(dtype))
            assert prelu(x, weight.to(dtype)).stride() == TF.prelu(x, weight.to(dtype)).stride()


@pytest.mark.parametrize("shape", [(), (0,), (5,), (0, 3), (4, 0), (4, 3), (2, 3, 0), (70, 33)])
def test_prelu_shapes(shape):
    x = torch.randn(shape)
    agree(prelu, TF.prelu, x, torch.tensor([0.3]))
    if len(shape) > 1:
        agree(prelu, TF.prelu, x, torch.randn(shape[1]))


def test_prelu_special_values():
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-40, -1e-40]])
    for weight in (torch.tensor([0.5]), torch.randn(7)):
        agree(prelu, TF.prelu, x, weight)
        assert torch.equal(prelu(x, weight).signbit(), TF.prelu(x, weight).signbit())


@pytest.mark.parametrize(
    "shape", [(4096 * 40 + 5,), (6, 3, 300, 100), (40, 64, 8, 8), (3000, 130)], ids=str
)
def test_the_weights_gradient_is_the_same_for_any_number_of_threads(shape):
    x, grad_output = torch.randn(2, *shape).unbind(0)
    for weight in (torch.tensor([0.25]), torch.randn(shape[1] if len(shape) > 1 else 1)):
        results = []
        for threads in (1, 2, 3):
            with dlkernels.num_threads(threads):
                leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
                results.append(torch.autograd.grad(prelu(*leaves), leaves, grad_output))
        for again in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))
        wide = [t.double().requires_grad_() for t in (x, weight)]
        (exact,) = torch.autograd.grad(TF.prelu(*wide), wide[1], grad_output.double())
        terms = torch.where(x > 0, 0, x * grad_output).double().abs().sum() / weight.numel()
        assert (results[0][1].double() - exact).abs().max() <= 1e-6 * terms


def test_prelu_of_what_no_kernel_takes():
    for x, weight in (
        (torch.randn(2, 3), torch.randn(2)),
        (torch.randn(3), torch.randn(3)),
        (torch.randn(3), torch.randn(1, dtype=torch.float64)),
        (torch.randn(2, 3), torch.randn(1, 3)),
        (torch.randn(3), None),
        ([1.0], torch.randn(1)),
    ):
        raised = []
        for function in (prelu, TF.prelu):
            with pytest.raises((RuntimeError, TypeError)) as caught:
                function(x, weight)
            raised.append((caught.type, str(caught.value)))
        assert raised[0] == raised[1]
    assert prelu(torch.ones(2, device="meta"), torch.ones(1, device="meta")).is_meta


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_glu_and_swiglu(dtype, layout, isa):
    x = LAYOUTS[layout](torch.randn(3, 6, 4, 8).to(dtype))
    for dim in (1, -1, 2, -4 if x.shape[0] % 2 == 0 else 3):
        agree(lambda x, dim=dim: glu(x, dim), lambda x, dim=dim: TF.glu(x, dim), x)
        agree(lambda x, dim=dim: swiglu(x, dim=dim), lambda x, dim=dim: torch_swiglu(x, dim=dim), x)
    agree(swiglu, torch_swiglu, x, LAYOUTS[layout](torch.randn(3, 6, 4, 8).to(dtype)))
    agree(swiglu, torch_swiglu, *x.chunk(2, -1))
    agree(swiglu, torch_swiglu, *x.chunk(2, 1))


def test_glu_and_swiglu_of_every_length(isa):
    for length in (0, 2, 14, 30, 32, 34, 66, 2000, 40000):
        agree(glu, TF.glu, torch.randn(3, length))
        agree(swiglu, torch_swiglu, torch.randn(3, length))
        agree(swiglu, torch_swiglu, torch.randn(length), torch.randn(length))
    agree(swiglu, torch_swiglu, torch.tensor(2.0), torch.tensor(-3.0))


def test_swiglu_of_strides_that_say_nothing():
    """A dimension of size 1 may have any stride, a broadcast one has 0."""
    x, up = torch.randn(12), torch.randn(3, 1, 4)
    for gate in (
        x.as_strided((3, 1, 4), (4, 99, 1)),
        x.as_strided((3, 1, 4), (0, 0, 1)),
        torch.randn(3, 5, 4)[:, :1],
        torch.randn(3, 1, 8)[..., 4:],
        torch.randn(4, 1, 3).permute(2, 1, 0),
    ):
        agree(swiglu, torch_swiglu, gate, up)
    gate = torch.randn(400).as_strided((3, 1, 2, 4), (100, 100, 4, 1))
    agree(swiglu, torch_swiglu, gate, torch.randn(3, 1, 2, 4))


def test_swiglu_broadcasts_and_promotes_as_torch():
    gate, up = torch.randn(3, 1), torch.randn(4, dtype=torch.float64)
    assert torch.equal(swiglu(gate, up), torch_swiglu(gate, up))
    assert torch.equal(swiglu(gate, up.float()), torch_swiglu(gate, up.float()))


def test_what_glu_refuses():
    for bad in (
        (torch.randn(3),),
        (torch.tensor(1.0),),
        (torch.randn(4), 3),
        (torch.randn(4), "a"),
    ):
        raised = []
        for function in (glu, TF.glu):
            with pytest.raises((RuntimeError, TypeError, IndexError)) as caught:
                function(*bad)
            raised.append((caught.type, str(caught.value)))
        assert raised[0] == raised[1]
    with pytest.raises(RuntimeError, match="Halving dimension must be even"):
        swiglu(torch.randn(2, 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 7])
def test_maxout(dtype, pieces, isa):
    for shape, dim in (((3, 4 * pieces), 1), ((2, 3 * pieces, 5, 7), 1), ((33 * pieces,), 0)):
        x = torch.randn(shape).to(dtype)
        agree(
            lambda x, dim=dim: maxout(x, pieces, dim),
            lambda x, dim=dim: torch_maxout(x, pieces, dim),
            x,
        )
    x = torch.randn(2, 5, 6 * pieces, 3)[:, ::2]
    agree(lambda x: maxout(x, pieces, -2), lambda x: torch_maxout(x, pieces, 2), x)


def test_maxout_takes_the_first_of_equals_and_nan():
    nan = float("nan")
    x = torch.tensor([[1.0, 1.0, 0.0], [nan, 2.0, nan], [3.0, nan, 9.0]]).requires_grad_()
    y = maxout(x, 3)
    assert y[0].item() == 1
    assert y[1:].isnan().all()
    (grad,) = torch.autograd.grad(y, x, torch.ones(3, 1))
    assert grad.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(("pieces", "bits"), [(2, 1), (3, 2), (4, 2), (5, 3), (17, 5)])
def test_maxout_saves_bits(pieces, bits):
    saved = []
    x = torch.randn(1000, 16 * pieces, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.untyped_storage().nbytes()) or t, lambda t: t
    ):
        y = maxout(x, pieces)
    assert sum(saved) == y.numel() * bits / 8


def test_what_maxout_refuses():
    for bad in ((torch.randn(2, 3), 2), (torch.randn(2, 3), 3, 5), (torch.tensor(1.0), 1)):
        with pytest.raises((RuntimeError, IndexError)):
            maxout(*bad)


CASES = [
    (prelu, TF.prelu, lambda: (torch.randn(4, 3, 5), torch.randn(3))),
    (prelu, TF.prelu, lambda: (torch.randn(40), torch.randn(1))),
    (glu, TF.glu, lambda: (torch.randn(3, 8),)),
    (swiglu, torch_swiglu, lambda: (torch.randn(3, 8),)),
    (swiglu, torch_swiglu, lambda: (torch.randn(3, 8), torch.randn(3, 8))),
    (lambda x: maxout(x, 3), lambda x: torch_maxout(x, 3), lambda: (torch.randn(4, 6),)),
    (lambda x: maxout(x, 2), lambda x: torch_maxout(x, 2), lambda: (torch.randn(2, 4, 3),)),
]


@pytest.mark.parametrize(("ours", "theirs", "make"), CASES, ids=range(len(CASES)))
def test_derivatives_of_both_orders(ours, theirs, make):
    tensors = [t.double() for t in make()]
    tensors = [torch.where(t.abs() < 0.05, 0.1, t).requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(ours, tensors, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(ours, tensors, fast_mode=True)


@pytest.mark.parametrize(("ours", "theirs", "make"), CASES, ids=range(len(CASES)))
def test_compiled_in_one_graph(ours, theirs, make):
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    agree(compiled, theirs, *make())
    torch._dynamo.reset()


def operator_samples(requires_grad):
    def leaf(*shape, memory_format=torch.contiguous_format):
        made = torch.empty(shape, memory_format=memory_format).normal_()
        return made.requires_grad_(requires_grad)

    channels_last = leaf(2, 3, 4, 4, memory_format=torch.channels_last)
    for x in (leaf(4, 3, 5), channels_last, leaf(7, 3)):
        for weight in (leaf(3), leaf(1)):
            yield OPS.prelu, (x, weight)
            yield OPS.prelu_backward, (leaf(*x.shape), x, weight)
    for silu in (False, True):
        yield OPS.gated, (leaf(3, 6, 4), 1, silu)
        yield OPS.gated_backward, (leaf(3, 3, 4), leaf(3, 6, 4), 1, silu)
    yield OPS.swiglu, (leaf(3, 5), leaf(3, 5))
    yield OPS.swiglu_backward, (leaf(3, 5), leaf(3, 5), leaf(3, 5))
    for pieces in (1, 2, 3):
        yield OPS.maxout, (leaf(3, 6, 4), pieces, 1)
        y, index = OPS.maxout(leaf(3, 6, 4).detach(), pieces, 1)
        yield OPS.maxout_backward, (leaf(*y.shape), index, pieces, 1)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by the check itself
@SOME_OR_ALL
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad, some):
    for operator, sample in some(operator_samples(requires_grad), 5):
        results = torch.library.opcheck(operator.default, sample)
        assert set(results.values()) == {"SUCCESS"}, (operator, results)


def test_modules():
    x = torch.randn(2, 6, 4)
    for ours, theirs in (
        (dnn.PReLU(), torch.nn.PReLU()),
        (dnn.PReLU(6, 0.1), torch.nn.PReLU(6, 0.1)),
        (dnn.GLU(1), torch.nn.GLU(1)),
    ):
        assert repr(ours) == repr(theirs)
        ours.load_state_dict(theirs.state_dict())
        for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            close(module(x), theirs(x))
    assert repr(dnn.Maxout(3)) == "Maxout(pieces=3, dim=1)"
    assert torch.equal(dnn.Maxout(3)(x), torch_maxout(x, 3))
    assert repr(dnn.SwiGLU(1)) == "SwiGLU(dim=1)"
    gate, up = x.chunk(2, 1)
    for output in (dnn.SwiGLU(1)(x), dnn.SwiGLU()(gate, up)):
        close(output, TF.silu(gate) * up)


def test_signatures_and_explain():
    assert list(inspect.signature(glu).parameters) == list(inspect.signature(TF.glu).parameters)
    x = torch.randn(2, 4)
    assert explain(prelu, x, torch.ones(1)) == "kernel: called directly"
    assert explain(prelu, x, torch.ones(1, device="meta")).startswith("torch: a tensor is on meta")
    for function in (glu, swiglu):
        assert explain(function, x) == "kernel: called directly"
    assert explain(maxout, x, 2) == "kernel: called directly"
    assert functional.prelu.__module__ == "dlkernels.torch.functional"
