"""Fake tensors are like the real ones: every operator, forward and backward, for inputs that lie in
memory in any way.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dlkernels.torch import functional as F
from dlkernels.torch import nn as dnn
from operators import NAMES, OPS, SAMPLES, Draw


def test_every_operator_is_drawn():
    assert sorted(SAMPLES) == NAMES


def _described(results):
    results = [results] if isinstance(results, torch.Tensor) else results or ()
    return [(r.shape, r.stride(), r.dtype, r.storage_offset()) for r in results]


def _check(name, seeds):
    operator = getattr(OPS, name)
    for seed in seeds:
        arguments = SAMPLES[name](Draw(f"{name} {seed}"))
        lies = [(a.shape, a.stride()) for a in arguments if isinstance(a, torch.Tensor)]
        with torch.no_grad():
            mode = FakeTensorMode()
            fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
            with mode:
                expected = _described(operator(*fakes))
            assert _described(operator(*arguments)) == expected, (seed, lies)


@pytest.mark.parametrize("name", NAMES)
def test_results_lie_as_their_fakes_say(name):
    _check(name, range(10))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_results_lie_as_their_fakes_say_drawn(name):
    _check(name, range(10, 410))


LAYOUTS = {
    "permuted": lambda: torch.randn(7, 3, 5).permute(1, 2, 0),
    "cropped": lambda: torch.randn(3, 6, 7).transpose(1, 2)[:, :5],
    "cropped channels_last": lambda: torch.randn(3, 5, 4, 6).to(memory_format=torch.channels_last)[
        :, :, 1:, 1:
    ],
    "one row": lambda: torch.randn(5, 3).t().unsqueeze(-1),
}


def batch_norm(x, residual):
    weight = torch.linspace(0.5, 1.5, 5, dtype=x.dtype)
    return F.batch_norm(x, None, None, weight, None, True, activation="relu", residual=residual)


def losses(x, residual):
    target = torch.arange(x.numel() // 5).reshape([x.shape[0], *x.shape[2:]]) % 5
    loss = F.cross_entropy(x + 0 * residual, target, reduction="sum")
    other = F.nll_loss(F.log_softmax(x, 1), target, reduction="none")
    return loss * F.mse_loss(F.gelu(x), residual, reduction="none") + other.sum()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("function", "dynamic"),
    [
        (batch_norm, False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((batch_norm, True), (losses, False), (losses, True))
        ),
    ],
)
def test_compiled_graphs_of_odd_layouts(function, dynamic):
    """Forward and backward, with a dynamic shape too, through the compiler."""
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for layout in LAYOUTS.values():
        x = layout().requires_grad_()
        residual = layout()
        grad = torch.randn(x.shape)
        results = []
        for run in (function, compiled):
            result = run(x, residual)
            results.append((result.detach(), torch.autograd.grad(result, x, grad)[0]))
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_batch_norm_of_permuted_rows():
    torch._dynamo.reset()
    x = torch.randn(7, 3, 5).permute(1, 2, 0)
    module = dnn.BatchNorm1d(5)
    torch.testing.assert_close(torch.compile(module)(x), dnn.BatchNorm1d(5)(x))
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sizes_that_are_known_when_it_runs():
    """A mask chooses how many rows there are: no size to compare with."""
    torch._dynamo.reset()

    def function(x):
        rows = x[x[:, 0] > 0]
        hidden = F.relu(F.gelu(rows)) + F.softmax(rows, 1)
        return F.mse_loss(hidden, rows, reduction="none")

    x = torch.randn(9, 5)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), function(x))
        x.requires_grad_()
        for run in (function, compiled):
            run(x).sum().backward()
    torch._dynamo.reset()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_mask_of_an_odd_layout_is_read_in_its_order(layout):
    """In second derivatives, which unpack it; in the operator's."""
    x, residual = layout().double().requires_grad_(), layout().double()

    def function(x):
        with torch.device("cpu"):  # a mode, to torch
            return batch_norm(x, residual).square().sum()

    def reference(x):
        normal = torch.nn.functional.batch_norm(
            x, None, None, torch.linspace(0.5, 1.5, 5).double(), None, True
        )
        return torch.relu(normal + residual).square().sum()

    found = []
    for run in (function, reference):
        (grad,) = torch.autograd.grad(run(x), x, create_graph=True)
        found.append((grad.detach(), torch.autograd.grad(grad.square().sum(), x)[0]))
    torch.testing.assert_close(*found)
