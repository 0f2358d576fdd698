"""Batch normalization under torch.compile, export, modes and subclasses; see also
`test_torch_compile`, which checks its operators.
"""

import copy
import functools
import itertools

import pytest
import torch

import dlkernels.torch.nn as dnn
from dlkernels.torch import explain
from dlkernels.torch.functional import batch_norm
from support import SOME_OR_ALL
from torch_support import DispatchLog

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    # torch's own, from inside its compiler
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ACTIVATIONS = (None, "relu", "leaky_relu", "silu")


def every_form(x, mean, var, weight, bias, activations=ACTIVATIONS):
    """A scalar out of every combination of arguments."""
    total = batch_norm(x.detach(), mean, var).sum() + batch_norm(x, None, None, training=True).max()
    for activation, residual in itertools.product(activations, (None, x * 2)):
        for training in (False, True):
            y = batch_norm(
                x, mean, var, weight, bias, training,
                activation=activation, residual=residual, negative_slope=0.2,
            )  # fmt: skip
            total = total + y.sin().sum()
    return total


def arguments(rows, memory_format=torch.contiguous_format):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 5, 4, 3, generator=generator).contiguous(memory_format=memory_format)
    vectors = [torch.rand(5, generator=generator) + 0.5 for _ in range(4)]
    return x, *vectors


def loss_and_grads(function, x, mean, var, weight, bias):
    statistics = mean.clone(), var.clone()
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    loss = function(leaves[0], *statistics, *leaves[1:])
    return loss.detach(), *torch.autograd.grad(loss, leaves), *statistics


@pytest.mark.sampled(3)
@SOME_OR_ALL
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_every_form_compiles_in_one_graph(memory_format, some):
    is_last = memory_format is torch.channels_last
    form = functools.partial(every_form, activations=some(ACTIVATIONS[is_last:], 4))
    compiled = torch.compile(form, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (4, 7):
        given = arguments(rows, memory_format)
        expected = loss_and_grads(form, *given)
        result = loss_and_grads(compiled, *given)
        torch.testing.assert_close(result, expected, rtol=2e-5, atol=2e-5)
        with torch.no_grad():
            ours, theirs = (
                (f(given[0], *(s := [v.clone() for v in given[1:]])), *s) for f in (compiled, form)
            )
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


class Block(torch.nn.Module):
    """What a residual network is made of."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.first = torch.nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.first_norm = dnn.BatchNormAct2d(4, momentum=momentum)
        self.second = torch.nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.second_norm = dnn.BatchNormAct2d(4, momentum=momentum, activation="silu")
        self.last_norm = dnn.BatchNorm2d(4, momentum=momentum, bias=False)

    def forward(self, x):
        hidden = self.first_norm(self.first(x))
        return self.last_norm(self.second_norm(self.second(hidden), x)).square().mean()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_modules_train_compiled_as_they_do_eagerly(momentum, backend):
    if backend == "inductor" and momentum is None:
        backend = "eager"  # the graph is the same but for one division
    torch.manual_seed(0)
    eager = Block(momentum).to(memory_format=torch.channels_last)
    model = copy.deepcopy(eager)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.randn(6, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        losses = []
        for run, module in ((eager, eager), (compiled, model)):
            module.zero_grad()
            loss = run(x)
            loss.backward()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter -= 0.5 * parameter.grad
            losses.append(loss.detach())
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        model.state_dict(), eager.state_dict(), rtol=2e-5, atol=2e-5, check_device=False
    )
    assert model.first_norm.num_batches_tracked == 3
    eager.eval()
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), eager(x), rtol=2e-5, atol=2e-5)


def test_errors_are_torchs_in_a_compiled_graph():
    compiled = torch.compile(batch_norm, backend="eager")
    x = torch.randn(1, 3)
    with pytest.raises(Exception, match="Expected more than 1 value per channel when training"):
        compiled(x, None, None, training=True)
    with pytest.raises(Exception, match=r"eps must be positive during training, but got 0\.0"):
        compiled(torch.randn(4, 3), None, None, training=True, eps=0.0)
    with pytest.raises(Exception, match="activation: expected None, 'relu'"):
        compiled(torch.randn(4, 3), None, None, training=True, activation="gelu")


def test_tensors_without_a_kernel_compile_too():
    """Mixed dtypes that torch promotes, an empty batch."""
    compiled = torch.compile(batch_norm, fullgraph=True, backend="eager")
    x, residual = torch.randn(4, 3).bfloat16(), torch.randn(4, 3)
    options = {"training": True, "residual": residual, "activation": "relu"}
    torch.testing.assert_close(
        compiled(x, None, None, **options), batch_norm(x, None, None, **options)
    )
    mean, var = torch.zeros(3), torch.ones(3)
    assert compiled(torch.ones(0, 3), mean, var, training=True).shape == (0, 3)
    assert torch.equal(mean, torch.zeros(3))


def test_a_dispatch_mode_sees_our_operators():
    given = arguments(4)
    expected = loss_and_grads(every_form, *given)
    with DispatchLog() as log:
        assert explain(batch_norm, *given).startswith("operator: torch.ops.dlkernels")
        result = loss_and_grads(every_form, *given)
    torch.testing.assert_close(result, expected, rtol=2e-5, atol=2e-5)
    seen = {name for name in log.names if name.startswith(("dlkernels.", "aten.native_batch"))}
    assert seen == {"dlkernels.batch_norm.default", "dlkernels.batch_norm_backward.default"}


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    with FakeTensorMode():
        x, mean, var, weight, bias = arguments(4, torch.channels_last)
        x.requires_grad_()
        y = batch_norm(x, mean, var, weight, bias, True, activation="relu", residual=x)
        y.sum().backward()
    assert isinstance(y, FakeTensor)
    assert y.stride() == x.stride() == x.grad.stride()


class Meters(torch.Tensor):
    """A subclass that asks for nothing: results keep its type."""


def test_a_tensor_subclass():
    x, *vectors = arguments(4)
    y = batch_norm(x.as_subclass(Meters), *(v.clone() for v in vectors), training=True)
    assert isinstance(y, Meters)
    assert torch.equal(y.as_subclass(torch.Tensor), batch_norm(x, *vectors, training=True))


def test_export():
    model = Block().eval()
    x = torch.randn(6, 4, 5, 5)
    for strict in (False, True):
        program = torch.export.export(model, (x,), strict=strict)
        called = {str(node.target) for node in program.graph.nodes}
        assert "dlkernels.batch_norm.default" in called
        torch.testing.assert_close(program.module()(x), model(x))


def test_operators_can_be_differentiated_twice():
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.rand(2, dtype=torch.float64, requires_grad=True) for _ in "wb")
    residual = torch.randn_like(x, requires_grad=True)
    running = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for activation, training, added in itertools.product(ACTIVATIONS, (True, False), (True, False)):

        def function(x, weight, bias, *residual, activation=activation, training=training):
            return torch.ops.dlkernels.batch_norm(
                x, weight, bias, *(residual or (None,)), *running, training, 0.1, 1e-5, activation,
                0.2, True,
            )[0]  # fmt: skip

        leaves = x, weight, bias, *([residual] if added else [])
        assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)
    y = torch.ops.dlkernels.batch_norm(
        x, None, None, None, *running, True, 0.1, 1e-5, None, 0.2, False
    )[0]
    with pytest.raises(RuntimeError, match="save=False keeps nothing"):
        y.sum().backward()
