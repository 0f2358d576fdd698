"""Batch normalization's twins against torch: the function, the modules, the fused forms."""

import copy
import inspect
import itertools
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as TF
from torch.utils.checkpoint import checkpoint

import dlkernels
import dlkernels.torch.nn as dnn
from dlkernels.torch import explain
from dlkernels.torch.functional import batch_norm
from torch_support import DTYPES

#: Rounding of a result and of what it is made from.
BOUND = {torch.float32: 4e-6, torch.float64: 1e-13, torch.bfloat16: 1.2e-2, torch.float16: 1.5e-3}
ACTIVATIONS = [None, "relu", "leaky_relu", "silu"]
SLOPE = 0.2

SHAPES = {
    "NC": (6, 5),
    "NC many": (3, 70),
    "NCL": (4, 5, 7),
    "NCHW": (3, 5, 4, 6),
    "NCHW wide": (2, 35, 3, 3),
    "NC11": (8, 33, 1, 1),
    "C1": (4, 1, 3, 3),
    "NCDHW": (2, 5, 2, 3, 4),
}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def layouts(x):
    """The tensor in every way that it may lie in memory."""
    yield x.contiguous()
    if x.dim() in CHANNELS_LAST:
        yield x.contiguous(memory_format=CHANNELS_LAST[x.dim()])
    yield x.transpose(0, -1).contiguous().transpose(0, -1)
    yield x.transpose(1, -1).contiguous().transpose(1, -1)
    yield torch.stack((x, x), -1)[..., 0]


def pairs_of_layouts(x, other):
    """Each layout of the one with the same one of the other, and with another."""
    first, second = list(layouts(x)), list(layouts(other))
    for index in range(len(first)):
        yield first[index], second[index]
        yield first[index], second[index - 1 - index % 2]


def in_torch(
    x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
    activation=None, residual=None, negative_slope=0.01,
):  # fmt: skip
    """What a user of torch writes."""
    y = TF.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    if residual is not None:
        y = y + residual
    if activation == "leaky_relu":
        return TF.leaky_relu(y, negative_slope)
    return y if activation is None else getattr(TF, activation)(y)


def inputs(shape, dtype=torch.float32, parameters=None, seed=0):
    """(x, running mean, running variance, weight, bias), parameters and statistics of a dtype."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    x = normal(*shape) * 2 + normal(1, channels, *([1] * (len(shape) - 2)))
    vectors = (normal(channels), normal(channels).square() + 0.5, normal(channels) + 1)
    vectors = (*vectors, normal(channels))
    parameters = dtype if parameters is None else parameters
    return x.to(dtype), *(v.to(parameters) for v in vectors)


def run(function, tensors, grad, training=True, residual=None, **options):
    """(output, gradients of x, weight, bias and residual, running statistics after)."""
    x, mean, var, weight, bias = tensors
    mean, var = (None if s is None else s.clone() for s in (mean, var))
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias, residual) if t is not None]
    given = iter(leaves)
    x, weight, bias, residual = (
        None if t is None else next(given) for t in (x, weight, bias, residual)
    )
    if residual is not None:
        options["residual"] = residual
    y = function(x, mean, var, weight, bias, training, **options)
    grads = torch.autograd.grad(y, leaves, grad)
    return y.detach(), *grads, *(s for s in (mean, var) if s is not None)


def assert_close(ours, theirs, dtype=None, factor=1.0):
    """Within the rounding of a dtype, relative to the largest element of each tensor."""
    assert len(ours) == len(theirs)
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        a, b = a.detach(), b.detach()
        if not a.is_floating_point():
            assert torch.equal(a, b), index
            continue
        bound = factor * BOUND[dtype or a.dtype]
        scale = max(1.0, float(b.double().abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(
            a.double(), b.double(), rtol=0, atol=bound * scale,
            msg=lambda text, index=index: f"result {index}: {text}",
        )  # fmt: skip


# --- against torch


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_agrees_with_torch_in_every_layout(shape, dtype, training):
    grad = torch.randn(shape, dtype=torch.float64).to(dtype)
    for parameters in {dtype, torch.float32} if dtype.itemsize == 2 else {dtype}:
        tensors = inputs(shape, dtype, parameters)
        theirs = run(in_torch, tensors, grad, training)
        expected = run(in_torch, [t.double() for t in tensors], grad.double(), training)
        for x, given in pairs_of_layouts(tensors[0], grad):
            result = run(batch_norm, (x, *tensors[1:]), given, training)
            # Gradients of half parameters and statistics are rounded to them.
            assert_close(result, expected, dtype, 3.0)
            assert [t.dtype for t in result] == [t.dtype for t in theirs]
            assert [t.shape for t in result] == [t.shape for t in theirs]


def test_memory_formats_are_kept():
    for shape in SHAPES.values():
        x, *vectors = inputs(shape)
        for kind in ("contiguous", "channels last"):
            if kind == "channels last":
                if x.dim() not in CHANNELS_LAST:
                    continue
                x = x.contiguous(memory_format=CHANNELS_LAST[x.dim()])
            for activation, residual in itertools.product(ACTIVATIONS, (None, torch.randn(shape))):
                y, dx, *_ = run(
                    batch_norm, (x, *vectors), torch.randn(shape), activation=activation,
                    residual=residual,
                )  # fmt: skip
                assert y.stride() == x.stride()
                assert dx.stride() == x.stride()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
def test_fused_forms_are_the_composed_ones(activation, with_residual, training):
    for shape, dtype in itertools.product(((3, 5, 4, 6), (9, 20), (2, 3, 2, 3, 4)), DTYPES):
        tensors = inputs(shape, dtype, torch.float64 if dtype == torch.float64 else torch.float32)
        generator = torch.Generator().manual_seed(1)
        grad, extra = (
            torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in "ab"
        )
        options = {"activation": activation, "training": training, "negative_slope": SLOPE}
        wide = [t.double() for t in tensors]
        doubled = extra.double() if with_residual else None
        # Within rounding of zero the two would be free to disagree about the sign.
        z, *_ = run(in_torch, wide, grad.double(), training, doubled)
        assert z.abs().min() > 1e-6
        expected = run(in_torch, wide, grad.double(), residual=doubled, **options)
        pairs = pairs_of_layouts(tensors[0], extra)
        for x, residual in pairs if with_residual else ((x, None) for x in layouts(tensors[0])):
            result = run(batch_norm, (x, *tensors[1:]), grad, residual=residual, **options)
            assert_close(result, expected, dtype, 3.0)


def test_every_set_of_parameters():
    shape = (4, 5, 6)
    x, mean, var, weight, bias = inputs(shape)
    grad = torch.randn(shape)
    for w, b, s in itertools.product((None, weight), (None, bias), (False, True)):
        tensors = (x, mean if s else None, var if s else None, w, b)
        for training in (True, False) if s else (True,):
            result, expected = (run(f, tensors, grad, training) for f in (batch_norm, in_torch))
            assert_close(result, expected)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.7, 1.0, -1.2, 2])
def test_running_statistics(momentum):
    for dtype, parameters in ((torch.float32, None), (torch.bfloat16, torch.float32)):
        tensors = inputs((4, 5, 6), dtype, parameters)
        results = []
        for function in (batch_norm, in_torch):
            mean, var = tensors[1].clone(), tensors[2].clone()
            for _ in range(3):
                function(tensors[0], mean, var, training=True, momentum=momentum)
            results.append((mean, var))
        assert_close(*results)
        if momentum == 0:
            assert torch.equal(results[0][0], tensors[1])
            assert torch.equal(results[0][1], tensors[2])


def test_running_statistics_of_any_stride():
    x, mean, var, weight, bias = inputs((4, 5, 6))
    expected = run(in_torch, (x, mean, var, weight, bias), torch.ones(4, 5, 6))
    table = torch.stack((mean, var, weight, bias), 1)
    columns = table.unbind(1)
    y = batch_norm(x, *columns, training=True)
    assert_close([y, columns[0], columns[1]], [expected[0], *expected[-2:]])
    assert torch.equal(table[:, 2], weight)


def test_gradients_only_of_what_asks_for_them():
    x, mean, var, weight, bias = inputs((4, 5, 3, 3))
    residual, grad = torch.randn(x.shape), torch.randn(x.shape)
    for activation in ACTIVATIONS:
        for asks in itertools.product((False, True), repeat=4):
            if not any(asks):
                continue
            results = []
            for function in (batch_norm, in_torch):
                tensors = [
                    t.detach().requires_grad_(ask)
                    for t, ask in zip((x, weight, bias, residual), asks, strict=True)
                ]
                y = function(
                    tensors[0], mean.clone(), var.clone(), tensors[1], tensors[2], True,
                    residual=tensors[3], activation=activation,
                )  # fmt: skip
                y.backward(grad)
                results.append([t.grad for t in tensors])
            assert [g is not None for g in results[0]] == list(asks)
            assert_close(*([g for g in grads if g is not None] for grads in results), factor=4)


def test_one_tensor_in_two_places():
    x = torch.randn(4, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    vector = torch.rand(5, dtype=torch.float64, requires_grad=True)
    for activation in ACTIVATIONS:

        def twice(function, x, vector, activation=activation):
            return function(x, None, None, vector, vector, True, residual=x, activation=activation)

        grads = [
            torch.autograd.grad(twice(f, x, vector).sin().sum(), (x, vector))
            for f in (batch_norm, in_torch)
        ]
        assert_close(*grads)
        assert torch.autograd.gradgradcheck(
            lambda x, v, twice=twice: twice(batch_norm, x, v), (x, vector), fast_mode=True
        )


# --- numbers


def test_accuracy_at_a_mean_far_from_zero():
    """No worse than the centred form in float32, where torch folds mean and weight together."""
    generator = torch.Generator().manual_seed(0)
    x = 100 + 1e-2 * torch.randn(16, 4, 20, 20, generator=generator)
    expected = TF.batch_norm(x.double(), None, None, training=True)
    dims = (0, 2, 3)
    mean = x.mean(dims, keepdim=True)
    centred = (x - mean) * (x.var(dims, correction=0, keepdim=True) + 1e-5).rsqrt()
    allowed = (centred - expected).abs().max()
    for y in (x, x.contiguous(memory_format=torch.channels_last)):
        result = batch_norm(y, None, None, training=True)
        assert (result - expected).abs().max() <= allowed


def test_sums_that_float32_would_lose():
    """torch's mean of these is 4096 in channels_last: all the ones are gone."""
    x = torch.ones(1, 2, 64, 64)
    x[:, :, 0, 0] = 2.0**24
    for y in (x, x.contiguous(memory_format=torch.channels_last)):
        mean, var = torch.zeros(2), torch.zeros(2)
        batch_norm(y, mean, var, training=True, momentum=1.0)
        exact = torch.tensor(2.0**24 + 4095, dtype=torch.float64)
        assert torch.equal(mean, (exact / 4096).float().expand(2))
        assert torch.equal(var, x[:, 0].double().var().float().expand(2))
        bias = torch.zeros(2, requires_grad=True)
        batch_norm(y, None, None, None, bias, True).backward(y)
        assert torch.equal(bias.grad, exact.float().expand(2))


def test_a_nan_poisons_its_channel_alone():
    x, mean, var, weight, bias = inputs((4, 5, 6, 6))
    grad = torch.randn(x.shape)
    clean = run(batch_norm, (x, mean, var, weight, bias), grad)
    x[1, 3, 2, 2] = torch.nan
    for y in (x, x.contiguous(memory_format=torch.channels_last)):
        result = run(batch_norm, (y, mean, var, weight, bias), grad)
        for a, b in zip(result[:2], clean[:2], strict=True):
            assert a[:, 3].isnan().all()
            others = [0, 1, 2, 4]
            assert_close([a[:, others]], [b[:, others]])
        for a in (result[2], *result[4:]):
            assert a.isnan().tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("shape", [(4, 3, 60, 60), (8, 300, 2, 2), (700, 70)], ids=str)
def test_threads_do_not_change_a_bit(shape):
    tensors = inputs(shape)
    grad, residual = torch.randn(shape), torch.randn(shape)
    formats = [torch.contiguous_format] + [torch.channels_last] * (len(shape) == 4)
    for memory_format in formats:
        x = tensors[0].contiguous(memory_format=memory_format)
        results = []
        for threads in (1, 2, 3):
            with dlkernels.num_threads(threads):
                results.append(
                    run(batch_norm, (x, *tensors[1:]), grad, residual=residual, activation="relu")
                )
        for result in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


# --- autograd


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_derivatives(activation, with_residual, training):
    for shape in ((5, 3), (2, 3, 2, 2)):
        x, mean, var, weight, bias = inputs(shape, torch.float64)
        leaves = [x, weight, bias, *([torch.randn_like(x)] if with_residual else [])]
        for leaf in leaves:
            leaf.requires_grad_()

        def function(x, weight, bias, residual=None, mean=mean, var=var):
            return batch_norm(
                x, mean.clone(), var.clone(), weight, bias, training,
                activation=activation, residual=residual, negative_slope=SLOPE,
            )  # fmt: skip

        assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_second_derivatives_of_half_and_channels_last():
    tensors = inputs((3, 5, 4, 4), torch.bfloat16, torch.float32)
    x = tensors[0].contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = tensors[3].requires_grad_()
    grads = []
    for function in (batch_norm, in_torch):
        y = function(x, None, None, weight, None, True)
        dx, dw = torch.autograd.grad(y.float().pow(3).sum(), (x, weight), create_graph=True)
        assert dx.dtype == x.dtype
        grads.append(torch.autograd.grad(dx.float().square().sum() + dw.sum(), (x, weight)))
    assert_close(*grads, torch.bfloat16, 8)


def test_batches_of_gradients():
    x, mean, var, weight, bias = inputs((4, 3, 2, 2), torch.float64)
    leaves = [t.requires_grad_() for t in (x, weight, bias, torch.randn_like(x))]
    grad = torch.randn(5, *x.shape, dtype=torch.float64)
    for activation in ACTIVATIONS:
        results = [
            torch.autograd.grad(
                f(x, mean, var, weight, bias, True, residual=leaves[3], activation=activation),
                leaves,
                grad,
                is_grads_batched=True,
            )
            for f in (batch_norm, in_torch)
        ]
        assert_close(*results)


def test_what_is_saved_for_backward():
    """The input and two numbers per channel, and where a residual was added a bit per element."""
    x, mean, var, weight, bias = inputs((8, 16, 20, 20))
    x.requires_grad_()
    residual = torch.randn_like(x, requires_grad=True)
    for activation, added in itertools.product(ACTIVATIONS, (None, residual)):
        saved = []

        def pack(tensor, saved=saved):
            saved.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = batch_norm(x, mean, var, weight, bias, True, activation=activation, residual=added)
        own = [t for t in saved if t is not x and t is not residual]
        size = sum(t.numel() * t.element_size() for t in own)
        masked = activation in ("relu", "leaky_relu") and added is not None
        # mean and 1 / std in float64, weight and bias in float32
        assert size <= x.numel() / 8 * masked + 2 * (8 + 4) * 16 + 64
        assert (any(t is residual for t in saved)) == (activation == "silu" and added is not None)
        y.backward(torch.ones_like(y))


def test_backward_twice_and_two_forwards():
    x, mean, var, weight, bias = inputs((4, 5, 6))
    x.requires_grad_()
    for training in (True, False):
        y = batch_norm(x, mean, var, weight, bias, training, activation="relu", residual=x * 2)
        # Another step of training must not change what the first one's gradient is.
        batch_norm(x * 3, mean, var, weight, bias, True)
        fresh = inputs((4, 5, 6))
        z = in_torch(
            x, *fresh[1:], training, activation="relu", residual=x * 2
        ) if training else None  # fmt: skip
        first = torch.autograd.grad(y.sin().sum(), x, retain_graph=True)
        second = torch.autograd.grad(y.sin().sum(), x)
        assert torch.equal(first[0], second[0])
        if training:
            assert_close(first, torch.autograd.grad(z.sin().sum(), x), factor=8)


def test_frozen_backward_keeps_the_statistics_it_was_made_with():
    x, mean, var, weight, bias = inputs((4, 5, 6))
    x.requires_grad_()
    expected = torch.autograd.grad(in_torch(x, mean, var, weight, bias).sum(), x)
    y = batch_norm(x, mean, var, weight, bias)
    batch_norm(x.detach() + 5, mean, var, training=True, momentum=0.9)
    assert_close(torch.autograd.grad(y.sum(), x), expected)


def test_writes_are_seen_by_autograd():
    x, mean, var, weight, bias = inputs((4, 5, 6))
    versions = mean._version, var._version
    batch_norm(x, mean, var, training=True)
    assert (mean._version, var._version) == (versions[0] + 1, versions[1] + 1)
    batch_norm(x, mean, var)
    assert mean._version == versions[0] + 1
    leaf = x.clone().requires_grad_()
    hidden = leaf * 1
    y = batch_norm(hidden, mean, var, weight, bias, True)
    hidden.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_without_gradients():
    x, mean, var, weight, bias = inputs((4, 5, 6))
    weight.requires_grad_()
    expected = in_torch(x, mean.clone(), var.clone(), weight.detach(), bias, True)
    with torch.no_grad():
        y = batch_norm(x, mean.clone(), var.clone(), weight, bias, True)
    assert not y.requires_grad
    assert_close([y], [expected])
    with torch.inference_mode():
        statistics = mean.clone(), var.clone()
        y = batch_norm(x, *statistics, weight, bias, True)
        assert y.is_inference()
        assert not torch.equal(statistics[0], mean)
    assert_close([y], [expected])


def test_checkpointing():
    tensors = inputs((4, 5, 6, 6))
    x = tensors[0].requires_grad_()

    def block(x):
        return batch_norm(x, None, None, training=True, activation="relu", residual=x)

    expected = torch.autograd.grad(block(x).square().sum(), x)
    result = torch.autograd.grad(checkpoint(block, x, use_reentrant=False).square().sum(), x)
    assert torch.equal(result[0], expected[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_transforms_go_to_torch():
    x, mean, var, weight, bias = inputs((4, 3, 2, 2), torch.float64)

    def both(run):
        return run(batch_norm), run(in_torch)

    def gradient(function):
        return torch.func.grad(
            lambda x: function(x, mean, var, weight, bias, activation="silu").sum()
        )(x)

    def per_sample(function):
        return torch.func.vmap(lambda x: function(x, mean, var, weight, bias))(
            x.expand(2, *x.shape)
        )

    def directional(function):
        f = lambda x: function(x, None, None, weight, bias, True, residual=x)  # noqa: E731
        return torch.func.jvp(f, (x,), (torch.ones_like(x).cumsum(0),))[1]

    for transform in (gradient, per_sample, directional):
        torch.testing.assert_close(*both(transform))


def test_autocast_does_what_torch_does():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tensors = inputs((4, 5, 3, 3), dtype, torch.float32)
        x = tensors[0].requires_grad_()
        residual = torch.randn(x.shape)
        for half in (torch.bfloat16, torch.float16):
            outputs = []
            for function in (batch_norm, in_torch):
                with torch.autocast("cpu", half):
                    y = function(*(t.detach() for t in tensors), True, activation="relu")
                    z = function(x, None, None, training=True, activation="relu", residual=residual)
                outputs.append((y, z, torch.autograd.grad(z, x, torch.ones_like(z))[0]))
            assert [t.dtype for t in outputs[0]] == [t.dtype for t in outputs[1]]
            assert_close(outputs[0][:2], outputs[1][:2], dtype, 3)


# --- errors and corners


def outcome(function, *args, **kwargs):
    """A tensor, or an error's type and text."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error), str(error).splitlines()[0]


def test_dtypes_are_refused_and_taken_as_torch_does():
    x, mean, var, weight, bias = inputs((4, 3, 2, 2))
    choices = [None, *DTYPES]
    taken = 0
    for dtype, w, b, s in itertools.product(DTYPES, choices, choices, choices):
        tensors = [
            x.to(dtype),
            *(None if s is None else t.to(s) for t in (mean, var)),
            None if w is None else weight.to(w),
            None if b is None else bias.to(b),
        ]
        for training in (True, False):
            copies = [[None if t is None else t.clone() for t in tensors] for _ in "ab"]
            ours, theirs = (
                outcome(f, *c, training)
                for f, c in zip((batch_norm, TF.batch_norm), copies, strict=True)
            )
            if isinstance(theirs, tuple):
                assert ours == theirs
                # torch itself moves the statistics before it finds some of these.
                for after, before in zip(copies[0][1:3], tensors[1:3], strict=True):
                    assert before is None or torch.equal(after, before)
            else:
                taken += 1
                assert ours.dtype == theirs.dtype
                assert explain(batch_norm, *tensors, training).startswith("kernel")
                assert_close([ours], [theirs], dtype, 6)
    assert taken == 70


ERRORS = {
    "one value per channel": ((1, 3), {"training": True}),
    "one value per channel, 4D": ((1, 3, 1, 1), {"training": True}),
    "eps zero": ((4, 3), {"training": True, "eps": 0.0}),
    "eps negative": ((4, 3), {"training": True, "eps": -1e-5}),
    "eps negative, evaluation": ((4, 3), {"training": False, "eps": -1e-5}),
    "no statistics": ((4, 3), {"training": False, "running_mean": None, "running_var": None}),
    "no mean": ((4, 3), {"training": False, "running_mean": None}),
    "no variance": ((4, 3), {"training": False, "running_var": None}),
    "no mean, training": ((4, 3), {"training": True, "running_mean": None}),
    "no variance, training": ((4, 3), {"training": True, "running_var": None}),
    "mean's size": ((4, 3), {"training": True, "running_mean": torch.ones(4)}),
    "variance's size": ((4, 3), {"training": False, "running_var": torch.ones(2)}),
    "weight's size": ((4, 3), {"training": True, "weight": torch.ones(4)}),
    "bias's size": ((4, 3), {"training": True, "bias": torch.ones(4)}),
    "1D": ((3,), {"training": True}),
    "0D": ((), {"training": True}),
    "momentum None": ((4, 3), {"training": True, "momentum": None}),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_torchs(case):
    shape, changes = ERRORS[case]
    arguments = {
        "running_mean": torch.zeros(3),
        "running_var": torch.ones(3),
        "weight": torch.ones(3),
        "bias": torch.zeros(3),
        **changes,
    }
    x = torch.randn(shape)
    expected = outcome(TF.batch_norm, x, **arguments)
    assert isinstance(expected, tuple)
    assert issubclass(expected[0], Exception)
    before = {k: v.clone() for k, v in arguments.items() if isinstance(v, torch.Tensor)}
    assert outcome(batch_norm, x, **arguments) == expected
    assert outcome(batch_norm, x.requires_grad_(), **arguments) == expected
    for name, value in before.items():
        assert torch.equal(arguments[name], value), name
    assert outcome(batch_norm, x.int(), **arguments)[0] is not None


def test_integers_are_refused_as_torch_does():
    x = torch.ones(4, 3, dtype=torch.int32)
    assert outcome(batch_norm, x, None, None, training=True) == outcome(
        TF.batch_norm, x, None, None, training=True
    )


def test_errors_of_the_fused_arguments():
    x, mean, var, *_ = inputs((4, 5, 6))
    kept = mean.clone()
    with pytest.raises(ValueError, match=r"activation: expected None, 'relu', .*, got 'gelu'"):
        batch_norm(x, mean, var, training=True, activation="gelu")
    with pytest.raises(ValueError, match=r"residual: expected shape \(4, 5, 6\), got \(4, 5, 1\)"):
        batch_norm(x, mean, var, training=True, residual=x[..., :1])
    with pytest.raises(TypeError, match=r"residual: expected a tensor, got int"):
        batch_norm(x, mean, var, training=True, residual=1)
    assert torch.equal(mean, kept)
    with pytest.raises(ValueError, match="got 'gelu'"):
        dnn.BatchNormAct2d(5, activation="gelu")
    with pytest.raises(ValueError, match="got 'gelu'"):
        dnn.SyncBatchNorm(5, activation="gelu")


def test_signature_is_torchs_and_three_keywords():
    ours = inspect.signature(batch_norm).parameters
    theirs = inspect.signature(TF.batch_norm).parameters
    assert list(ours) == [*theirs, "activation", "residual", "negative_slope"]
    for name in theirs:
        assert ours[name].default == theirs[name].default
        assert ours[name].kind == theirs[name].kind


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0), (4, 0, 5)], ids=str)
def test_empty_batches(shape):
    channels = shape[1]
    for training, activation in itertools.product((True, False), ACTIVATIONS):
        results = []
        for function in (batch_norm, in_torch):
            leaves = [
                t.requires_grad_()
                for t in (torch.ones(shape), torch.ones(channels), torch.ones(channels))
            ]
            mean, var = torch.ones(channels), torch.ones(channels)
            given = leaves[1:] if channels else (None, None)
            y = function(leaves[0], mean, var, *given, training, activation=activation)
            grads = torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True)
            results.append((y, *grads, mean, var))
        for a, b in zip(*results, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)


def test_a_variance_of_zero():
    """A constant channel is finite in training; in evaluation without eps it is not."""
    x = torch.full((4, 2, 3), 5.0)
    for eps, training in ((1e-5, True), (0.0, False)):
        results = [
            f(x, torch.full((2,), 5.0), torch.zeros(2), training=training, eps=eps)
            for f in (batch_norm, TF.batch_norm)
        ]
        assert torch.equal(results[0].isnan(), results[1].isnan())
        assert torch.equal(results[0].isnan(), torch.full(x.shape, not training))


def test_expanded_and_negated_tensors():
    x, mean, var, weight, bias = inputs((4, 5, 3, 3))
    leaf = x.requires_grad_()
    results = [
        torch.autograd.grad(f(leaf, None, None, weight, bias, True, activation="silu").sum(), leaf)
        for f in (batch_norm, in_torch)
    ]
    assert_close(*results)
    expanded = x.detach()[:, :, :1].expand(4, 5, 3, 3)
    negated = torch.complex(x.detach(), x.detach()).conj().imag
    for other in (expanded, negated):
        result, expected = (
            run(f, (other, mean, var, weight, bias), torch.ones(x.shape).cumsum(0))
            for f in (batch_norm, in_torch)
        )
        assert_close(result, expected, factor=4)
    negative = torch.complex(x.detach(), x.detach()).conj().imag
    assert negative.is_neg()
    y = batch_norm(leaf, None, None, weight, bias, True)
    assert_close(torch.autograd.grad(y, leaf, negative), run(
        in_torch, (x, None, None, weight, bias), negative.resolve_neg())[1:2])  # fmt: skip


def test_explain():
    x, mean, var, weight, bias = inputs((4, 5, 6))
    assert explain(batch_norm, x, mean, var, weight, bias) == "kernel: called directly"
    assert explain(batch_norm, x, None, None, training=True, residual=x).startswith("kernel")
    mixed = explain(batch_norm, x, mean.double(), var.double())
    assert mixed == "torch: an empty batch, an error, or dtypes or shapes that do not match"
    assert explain(batch_norm, x.to("meta"), None, None, training=True) == (
        "torch: a tensor is on meta, the kernels run on the CPU"
    )
    assert explain(batch_norm, x, mean.to("meta"), var) == (
        "torch: a tensor is on meta, the kernels run on the CPU"
    )
    assert explain(batch_norm, x[:0], mean, var).startswith("torch")


def test_other_devices_go_to_torch():
    x = torch.randn(4, 5, 6, device="meta")
    module = dnn.BatchNormAct1d(5, device="meta")
    assert module(x, x).is_meta
    assert dnn.BatchNorm1d(5, device="meta")(x).is_meta


# --- modules

PLAIN = {
    1: (dnn.BatchNorm1d, torch.nn.BatchNorm1d),
    2: (dnn.BatchNorm2d, torch.nn.BatchNorm2d),
    3: (dnn.BatchNorm3d, torch.nn.BatchNorm3d),
}
FUSED = {1: dnn.BatchNormAct1d, 2: dnn.BatchNormAct2d, 3: dnn.BatchNormAct3d}
SETTINGS = [
    {},
    {"bias": False},
    {"affine": False},
    {"track_running_stats": False},
    {"momentum": None},
    {"momentum": 0.0},
    {"eps": 0.1, "momentum": 0.5, "dtype": torch.float64},
]


def images(dims, dtype=torch.float32, count=4):
    return torch.randn(count, 5, *([3] * dims), dtype=dtype)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dims", PLAIN)
def test_modules_train_and_evaluate_like_torchs(dims, settings):
    ours, theirs = (kind(5, **settings) for kind in PLAIN[dims])
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, type(theirs))
    with torch.no_grad():
        for module in (ours, theirs):
            for parameter in module.parameters():
                parameter.copy_(torch.linspace(0.5, 2, 5))
    for step in range(6):
        if step == 4:
            ours.eval()
            theirs.eval()
        x = images(dims, settings.get("dtype", torch.float32))
        results = []
        for module in (ours, theirs):
            leaf = x.clone().requires_grad_()
            y = module(leaf)
            module.zero_grad()
            y.sin().sum().backward()
            results.append([y.detach(), leaf.grad, *(p.grad for p in module.parameters())])
        assert_close(*results, factor=2)
        states = [module.state_dict() for module in (ours, theirs)]
        assert list(states[0]) == list(states[1])
        assert_close(*(list(s.values()) for s in states))
        if "num_batches_tracked" in states[0]:
            assert states[0]["num_batches_tracked"].item() == min(step + 1, 4)


@pytest.mark.parametrize("dims", PLAIN)
def test_modules_refuse_what_torchs_refuse(dims):
    for kind in (0, 1):
        module = PLAIN[dims][kind](5)
        expected = PLAIN[dims][1](5)
        for wrong in (torch.randn(2, 5, *([2] * (dims + 1))), torch.randn(5)):
            assert outcome(module, wrong) == outcome(expected, wrong)
        wrong = torch.randn(1, 5, *([1] * dims))
        assert outcome(module, wrong) == outcome(expected, wrong)
        wrong = torch.randn(2, 4, *([3] * dims))
        assert outcome(module, wrong) == outcome(expected, wrong)
        assert outcome(FUSED[dims](5), wrong) == outcome(expected, wrong)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dims", FUSED)
def test_fused_modules_are_torchs_and_what_follows(dims, activation):
    fused = FUSED[dims](5, activation=activation, negative_slope=SLOPE)
    plain = PLAIN[dims][1](5)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(torch.linspace(0.5, 2, 5))
    fused.load_state_dict(plain.state_dict())
    for step in range(4):
        if step == 3:
            fused.eval()
            plain.eval()
        x, residual = images(dims), images(dims)
        for added in (None, residual):
            results = []
            for module in (fused, plain):
                leaf = x.clone().requires_grad_()
                extra = None if added is None else added.clone().requires_grad_()
                if module is fused:
                    y = fused(leaf) if extra is None else fused(leaf, extra)
                else:
                    y = plain(leaf) if extra is None else plain(leaf) + extra
                    if activation is not None:
                        options = {"negative_slope": SLOPE} if activation == "leaky_relu" else {}
                        y = getattr(TF, activation)(y, **options)
                module.zero_grad()
                y.sin().sum().backward()
                grads = [p.grad for p in module.parameters()]
                results.append([y.detach(), leaf.grad, *grads])
                if extra is not None:
                    results[-1].append(extra.grad)
            assert_close(*results, factor=2)
    back = PLAIN[dims][1](5)
    back.load_state_dict(fused.state_dict())
    assert_close(list(back.state_dict().values()), list(plain.state_dict().values()))


def test_fused_modules_say_what_they_do():
    assert repr(dnn.BatchNormAct2d(3)) == (
        "BatchNormAct2d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, "
        "track_running_stats=True, activation='relu')"
    )
    text = repr(dnn.BatchNormAct1d(3, activation="leaky_relu", negative_slope=0.2))
    assert text.endswith("activation='leaky_relu', negative_slope=0.2)")
    assert repr(dnn.BatchNormAct1d(3, activation=None)).endswith("track_running_stats=True)")


def test_old_state_dicts_and_missing_keys():
    for ours, theirs in PLAIN.values():
        state = theirs(5).state_dict()
        del state["num_batches_tracked"]
        module = ours(5)
        module.num_batches_tracked.fill_(3)
        old = copy.copy(state)
        old._metadata = copy.deepcopy(state._metadata)
        old._metadata[""]["version"] = 1
        module.load_state_dict(old)
        assert module.num_batches_tracked == 3
        with pytest.raises(RuntimeError, match="num_batches_tracked"):
            module.load_state_dict(state)


def test_modules_can_be_copied_and_pickled():
    for kind in (*(ours for ours, _ in PLAIN.values()), *FUSED.values(), dnn.SyncBatchNorm):
        module = kind(5)
        x = images({"1": 1, "2": 2, "3": 3}.get(kind.__name__[-2], 2))
        expected = copy.deepcopy(module)(x)
        assert torch.equal(pickle.loads(pickle.dumps(module))(x), expected)
        assert kind.__module__ == "dlkernels.torch.nn"
        assert getattr(dnn, kind.__name__) is kind


def test_functional_call_and_parametrization():
    module = dnn.BatchNorm1d(3)
    x = torch.randn(6, 3)
    swapped = {"weight": torch.full((3,), 2.0), "bias": torch.ones(3)}
    y = torch.func.functional_call(module, swapped, (x,))
    assert_close([y], [TF.batch_norm(x, None, None, *swapped.values(), training=True)])

    class Double(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    torch.nn.utils.parametrize.register_parametrization(module, "weight", Double())
    y = module(x)
    assert_close([y], [2 * TF.batch_norm(x, None, None, training=True)])
    y.sin().sum().backward()
    assert module.parametrizations.weight.original.grad is not None


def test_jit_trace_records_torchs_operators():
    module = dnn.BatchNormAct2d(3).eval()
    x = torch.randn(2, 3, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, x)
    assert_close([traced(x)], [module(x)])
