"""What torch's tools make of our modules and functions: torch.fx, torch.jit.script and eager
quantization take them as torch's own.
"""

import copy
import warnings

import pytest
import torch
from torch.ao import quantization
from torch.fx import symbolic_trace

import dlkernels.torch as dlt
from dlkernels.torch import nn
from twins import MODULE_CALLS

F = dlt.functional
scripted = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


# --- torch.fx


@pytest.mark.parametrize("call", MODULE_CALLS, ids=[call.name for call in MODULE_CALLS])
def test_modules_are_leaves(call):
    module, inputs = call.ours(**call.arguments).eval(), call.inputs()

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential()
            self.inner.twin = module

        def forward(self, first, second=None, third=None):
            return self.inner.twin(*(first, second, third)[: len(inputs)])

    traced = symbolic_trace(Model())
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert calls == ["inner.twin"]
    assert _targets(traced) == []
    torch.testing.assert_close(traced(*inputs), module(*inputs), equal_nan=True)


def _targets(traced):
    return [node.target for node in traced.graph.nodes if node.op == "call_function"]


def test_traced_functions_keep_the_kernel():
    def function(x, target):
        y = F.gelu(F.batch_norm(x, None, None, training=True, activation="relu"))
        return F.cross_entropy(F.dropout(y, 0.5, seed=1), target, label_smoothing=0.1)

    traced = symbolic_trace(function)
    assert _targets(traced) == [F.batch_norm, F.gelu, F.dropout, F.cross_entropy]
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(traced(x, target), function(x, target))


def test_functions_by_their_own_names_are_not_lost():
    from dlkernels.torch.functional import gelu, mse_loss, prelu, softmax

    for function in (
        lambda x: gelu(x),
        lambda x: softmax(x, 1),
        lambda x: mse_loss(x, x),
        lambda x: prelu(x, torch.ones(1)),
    ):
        with pytest.raises(TypeError, match=r"torch\.fx: .*expected .*torch\.fx\.wrap\('name'\)"):
            symbolic_trace(function)


def test_a_subclass_with_its_own_forward_is_no_leaf():
    class Scaled(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input * 2)

    with pytest.raises(TypeError, match=r"torch\.fx: Scaled calls the forward .* is_leaf_module"):
        symbolic_trace(torch.nn.Sequential(Scaled(3)))

    class Named(nn.BatchNorm2d):
        pass

    traced = symbolic_trace(torch.nn.Sequential(Named(3)))
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == ["0"]


# --- torch.jit.script


@scripted
@pytest.mark.parametrize("call", MODULE_CALLS, ids=[call.name for call in MODULE_CALLS])
def test_scripted_modules_run_torchs_forward(call):
    module, inputs = call.ours(**call.arguments).eval(), call.inputs()
    if call.theirs is None:
        expected = rf"torch\.jit\.script: .*{call.name}.*torch\.compile"
        with pytest.raises(RuntimeError, match=expected):
            torch.jit.script(module)
        return
    if call.name in ("SyncBatchNorm", "GaussianNLLLoss"):
        pytest.skip("torch cannot script its own")
    with pytest.warns(UserWarning, match=f"{call.name} is scripted as torch.nn.{call.name}"):
        made = torch.jit.script(module)
    torch.testing.assert_close(made(*inputs), module(*inputs), rtol=1e-4, atol=1e-5)
    assert type(module) is call.ours


@scripted
def test_options_that_torch_lacks_are_not_dropped_in_a_script():
    for module in (nn.Dropout(0.5, seed=1), nn.CrossEntropyLoss(z_loss=0.1)):
        with pytest.raises(RuntimeError, match=r"torch\.jit\.script: .* with (seed|z_loss) has no"):
            torch.jit.script(module)


@scripted
def test_scripted_models():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.randn(2, 3, 6, 6)
    expected = model(x)
    with pytest.warns(UserWarning, match="puts it in the place of ours in the model"):
        made = torch.jit.script(model)
    torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-5)


def _of_gelu_and_softmax(x: torch.Tensor) -> torch.Tensor:
    return F.softmax(F.gelu(x), 1) + F.relu(x)


def _of_swiglu(x: torch.Tensor) -> torch.Tensor:
    return F.swiglu(x, x)


@scripted
def test_scripted_functions_are_torchs():
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.jit.script(_of_gelu_and_softmax)(x), _of_gelu_and_softmax(x))
    with pytest.raises(RuntimeError, match="swiglu has no counterpart in torch"):
        torch.jit.script(_of_swiglu)


# --- eager quantization


def _conv(dimensions):
    convolution = getattr(torch.nn, f"Conv{dimensions}d")(3, 4, 3)
    norm = getattr(nn, f"BatchNorm{dimensions}d")(4)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return torch.nn.Sequential(convolution, norm, nn.ReLU())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("count", [2, 3])
def test_fuse_modules(dimensions, count):
    model = _conv(dimensions).eval()
    x = torch.randn(2, 3, *[6] * dimensions)
    expected = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fused = quantization.fuse_modules(model, [[str(i) for i in range(count)]])
    assert isinstance(fused[1], torch.nn.Identity)
    assert not isinstance(fused[0], torch.nn.BatchNorm2d)
    torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(model[1], torch.nn.modules.batchnorm._BatchNorm)


def test_fuse_modules_qat():
    model = _conv(2).train()
    x = torch.randn(2, 3, 6, 6)
    expected = copy.deepcopy(model)(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fused = quantization.fuse_modules_qat(model, [["0", "1", "2"]])
    assert type(fused[0]).__name__ == "ConvBnReLU2d"
    torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)
