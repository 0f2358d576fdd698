"""What autograd promises of every twin called eagerly: the calls take a way of their own to it."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import dlkernels
import dlkernels.torch as dlt
from dlkernels.activations import ACTIVATIONS
from dlkernels.elementwise_losses import LOSSES
from dlkernels.torch import functional as F

ROWS, COLS = 6, 8
RNG = np.random.default_rng(7)


def tensor(*shape: int) -> torch.Tensor:
    """Numbers in (0.1, 0.9), where every twin is defined."""
    return torch.from_numpy(RNG.uniform(0.1, 0.9, shape))


OTHER, INDICES = tensor(ROWS, COLS), torch.arange(ROWS)
VECTOR = tensor(COLS)
ARGUMENTS: dict[str, tuple[Any, ...]] = {"threshold": (0.5, 0.25)}

#: Every twin as a function of one tensor.
CALLS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **{name: lambda x, n=name: getattr(F, n)(x, *ARGUMENTS.get(n, ())) for name in ACTIVATIONS},
    **{name: lambda x, n=name: getattr(F, n)(x, OTHER, reduction="mean") for name in LOSSES},
    "kl_div": lambda x: F.kl_div(x, OTHER, reduction="batchmean"),
    "gaussian_nll_loss": lambda x: F.gaussian_nll_loss(x, OTHER, OTHER),
    "entropy": lambda x: F.entropy(x),
    "cross_entropy_of_distributions": lambda x: F.cross_entropy_of_distributions(OTHER, x),
    "kl_divergence": lambda x: F.kl_divergence(x, OTHER),
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "cross_entropy": lambda x: F.cross_entropy(x, INDICES),
    "nll_loss": lambda x: F.nll_loss(x, INDICES),
    "prelu": lambda x: F.prelu(x, VECTOR),
    "glu": lambda x: F.glu(x),
    "swiglu": lambda x: F.swiglu(x, OTHER),
    "maxout": lambda x: F.maxout(x, 2),
    "batch_norm": lambda x: F.batch_norm(x, None, None, VECTOR, VECTOR, True),
    "dropout": lambda x: F.dropout(x, 0.5, seed=1),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, True, seed=1),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.5, True, seed=1),
    "dropout1d": lambda x: F.dropout1d(x[None], 0.5, seed=1),
    "dropout2d": lambda x: F.dropout2d(x[None, None], 0.5, seed=1),
    "dropout3d": lambda x: F.dropout3d(x[None, None, None], 0.5, seed=1),
    "dropout_add": lambda x: F.dropout_add(x, OTHER, 0.5, seed=1),
    "bias_act_dropout": lambda x: F.bias_act_dropout(x, VECTOR, "silu", 0.5, seed=1),
    "normalize": lambda x: dlt.image.normalize(x.view(ROWS, COLS, 1), 0.5, 0.25),
}
#: Twins that keep nothing, so that nothing can be freed or written to before backward.
KEEP_NOTHING = {"dropout2d", "dropout3d", "dropout1d", "feature_alpha_dropout", "normalize"}

every_twin = pytest.mark.parametrize("name", sorted(CALLS))


def leaf() -> torch.Tensor:
    return tensor(ROWS, COLS).requires_grad_()


def test_every_twin_is_here() -> None:
    """In-place twins are tested with their families."""
    names = {twin.__name__ for twin in F._TWINS}
    assert {name for name in names if not name.endswith("_")} <= set(CALLS)


def own_calls(function: Callable[[], Any]) -> int:
    """How many Python functions of ours are entered."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        path = frame.f_code.co_filename
        count += event == "call" and (path.startswith("<dlkernels ") or path.startswith(OURS))

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


OURS = str(Path(dlkernels.__file__).parent)
#: Most of what a twin enters: those of one family do the same, more or less.
MOST_CALLS = {
    **dict.fromkeys(ACTIVATIONS, 8),
    **dict.fromkeys(LOSSES, 14),
    **{name: 13 for name in CALLS if "dropout" in name},
    "normalize": 19,
}


@every_twin
def test_a_twin_enters_few_functions(name: str) -> None:
    """Forward and backward together; the time of a small call is that of its Python."""
    x = leaf()
    grad = torch.ones_like(CALLS[name](x))
    calls = own_calls(lambda: torch.autograd.backward(CALLS[name](x), grad))
    assert 0 < calls <= MOST_CALLS.get(name, 8)


#: Functions entered by a call without a gradient, one with, and its backward.
FRAMES = {
    "relu": (3, 4, 3),
    "silu": (3, 4, 2),
    "gelu": (4, 5, 2),
    "cross_entropy": (3, 4, 3),
    "nll_loss": (3, 4, 2),
    "softmax": (2, 3, 1),
    "prelu": (2, 3, 1),
    "swiglu": (3, 4, 1),
    "maxout": (2, 3, 1),
    "mse_loss": (5, 6, 3),
    "batch_norm": (2, 3, 3),
    "dropout": (6, 6, 2),
    "dropout_add": (6, 6, 3),
    "bias_act_dropout": (8, 9, 2),
}


@pytest.mark.parametrize("name", FRAMES)
def test_no_call_enters_more_functions_than_it_needs(name: str) -> None:
    x = leaf()
    results: list[torch.Tensor] = []
    call = lambda at: results.append(CALLS[name](at))  # noqa: E731
    call(x)
    grad = torch.ones_like(results[0])
    counts = (
        own_calls(lambda: call(x.detach())),
        own_calls(lambda: call(x)),
        own_calls(lambda: torch.autograd.backward(results[-1], grad)),
    )
    assert all(count <= most for count, most in zip(counts, FRAMES[name], strict=True)), counts


def test_frames_of_numpy_calls() -> None:
    x, target = np.ones((4, 4), np.float32), np.arange(4)
    assert own_calls(lambda: dlkernels.relu(x)) == 2
    assert own_calls(lambda: dlkernels.cross_entropy(x, target)) == 4


@every_twin
def test_a_freed_graph_is_an_error(name: str) -> None:
    if name in KEEP_NOTHING:
        pytest.skip("there is nothing to free, as in torch's own")
    y = CALLS[name](leaf())
    y.backward(torch.ones_like(y))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward(torch.ones_like(y))


@every_twin
def test_a_retained_graph_gives_the_same_again(name: str) -> None:
    x = leaf()
    y = CALLS[name](x)
    grad = torch.ones_like(y)
    first, second = (torch.autograd.grad(y, x, grad, retain_graph=True)[0] for _ in range(2))
    assert first.equal(second)
    assert first.data_ptr() != second.data_ptr()


@every_twin
def test_gradients_agree_on_every_way(name: str) -> None:
    """Recorded, for a batch of gradients, and scaled."""
    x = leaf()
    y = CALLS[name](x)
    grad = tensor(*y.shape)
    want = torch.autograd.grad(y, x, grad, retain_graph=True)[0]
    recorded = torch.autograd.grad(y, x, grad, create_graph=True)[0]
    assert torch.allclose(recorded, want, rtol=1e-6, atol=1e-9)
    batch = torch.stack([grad, 3 * grad])
    batched = torch.autograd.grad(y, x, batch, is_grads_batched=True)[0]
    assert torch.allclose(batched, torch.stack([want, 3 * want]), rtol=1e-6, atol=1e-9)


@every_twin
def test_saved_tensors_pass_through_hooks(name: str) -> None:
    x = leaf()
    want = torch.autograd.grad(CALLS[name](x).sum(), x)[0]
    packed = []

    def pack(saved: torch.Tensor) -> int:
        packed.append(saved.detach().clone())
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda place: packed[place]):
        y = CALLS[name](x)
    assert packed or name in KEEP_NOTHING
    assert torch.autograd.grad(y.sum(), x)[0].equal(want)


@every_twin
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(name: str, reentrant: bool) -> None:
    x = leaf()
    want = torch.autograd.grad(CALLS[name](x).sum(), x)[0]
    checkpoint(CALLS[name], x, use_reentrant=reentrant).sum().backward()
    assert x.grad is not None
    assert x.grad.equal(want)


@every_twin
def test_nothing_outlives_backward(name: str) -> None:
    """Neither by a reference from the result nor in a cycle."""
    x = leaf()
    gc.disable()
    try:
        inner = x * 1
        outlives = weakref.ref(inner)
        y = CALLS[name](inner)
        y.backward(torch.ones_like(y))
        del inner
        assert outlives() is None
        inner = x * 1
        y, outlives = CALLS[name](inner), weakref.ref(inner)
        del inner, y  # without a backward
        assert outlives() is None
    finally:
        gc.enable()


@every_twin
def test_a_tensor_that_outlived_a_transform(name: str) -> None:
    kept = []

    def function(x: torch.Tensor) -> torch.Tensor:
        kept.append(x)
        return x.sum()

    x = leaf().detach()
    torch.func.grad(function)(x)
    assert torch.allclose(CALLS[name](kept[0]), CALLS[name](x), rtol=1e-12)


@pytest.mark.filterwarnings("ignore")  # anomaly mode shows where the call was
@pytest.mark.parametrize("name", ["cross_entropy", "relu", "silu"])
def test_anomaly_mode_names_the_call(name: str) -> None:
    with torch.autograd.detect_anomaly(check_nan=True):
        y = CALLS[name](leaf())
        with pytest.raises(RuntimeError, match=r"Function '_\w+Backward' returned nan values"):
            y.backward(torch.full_like(y, torch.nan))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss", "mse_loss"])
def test_a_negated_grad_output_of_a_loss(name: str) -> None:
    x = leaf()
    want = torch.autograd.grad(CALLS[name](x), x)[0]
    negated = torch._neg_view(torch.tensor(2.0, dtype=torch.float64))
    got = torch.autograd.grad(CALLS[name](x), x, negated)[0]
    assert torch.allclose(got, -2 * want, rtol=1e-12)
    half = x.detach().bfloat16().requires_grad_()
    call = {
        "cross_entropy": lambda: F.cross_entropy(half, INDICES),
        "nll_loss": lambda: F.nll_loss(half, INDICES),
        "mse_loss": lambda: F.mse_loss(half, OTHER.bfloat16()),
    }[name]
    scale = torch.tensor(4.0, dtype=torch.bfloat16)
    scaled = torch.autograd.grad(call(), half, scale)[0]
    assert torch.allclose(scaled, 4 * torch.autograd.grad(call(), half)[0], rtol=1e-2)
