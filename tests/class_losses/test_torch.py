"""The loss and softmax twins of the torch front against torch."""

import copy
import itertools
import pickle
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import dlkernels
import dlkernels.torch.nn as dnn
from dlkernels.torch import explain
from dlkernels.torch.functional import cross_entropy, log_softmax, nll_loss, softmax
from torch_support import DTYPES, HALF

#: For the longest tests: two at every change, the others in `make test-slow`.
SOME_DTYPES = [
    *(torch.float32, torch.bfloat16),
    *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float64, torch.float16)),
]

# --- what the comparisons share


def contiguous(x):
    return x.contiguous()


def channels_last(x):
    """Classes innermost in memory, with 3 dimensions or more."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x.contiguous()


def transposed(x):
    """The first dimension innermost."""
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


def sliced(x):
    """As ``logits[:, :-1]`` of a language model: gaps between rows, and around them."""
    whole = torch.full([s + 2 for s in x.shape], torch.nan, dtype=x.dtype)
    return whole[tuple(slice(1, -1) for _ in x.shape)].copy_(x)


def spread(x):
    """Every second element."""
    return torch.full((*x.shape, 2), torch.nan, dtype=x.dtype)[..., 0].copy_(x)


LAYOUTS = [contiguous, channels_last, transposed, sliced, spread]

SHAPES = [(5,), (1, 1), (4, 7), (33, 130), (3, 6, 5), (2, 5, 3, 4), (2, 17, 2, 3, 2)]


def target_shape(shape):
    return () if len(shape) == 1 else (shape[0], *shape[2:])


def problem(shape, dtype=torch.float32, seed=0, ignored=None, scale=3.0):
    """Logits, class indices (a few of them `ignored`) and class weights."""
    generator = torch.Generator().manual_seed(seed)
    classes = shape[0] if len(shape) == 1 else shape[1]
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
    target = torch.randint(0, classes, target_shape(shape), generator=generator)
    if ignored is not None and target.dim() and target.numel() > 1:
        target.view(-1)[:: max(2, target.numel() // 3)] = ignored
    weight = (torch.rand(classes, generator=generator, dtype=torch.float64) + 0.25).to(dtype)
    return x, target, weight


def random_like(output, seed=1):
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    return grad.to(output.dtype)


def with_grad(function, x, *args, **kwargs):
    """(output, gradient at x) for a random grad_output."""
    leaf = x.detach().requires_grad_()
    output = function(leaf, *args, **kwargs)
    (grad,) = torch.autograd.grad(output, leaf, random_like(output))
    return output.detach(), grad


def float64_of(value):
    is_floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if is_floating else value


def in_float64(function, x, *args, **kwargs):
    """`with_grad` of torch's function on the same values, computed in float64."""
    leaf = x.detach().double().requires_grad_()
    output = function(leaf, *map(float64_of, args), **{k: float64_of(v) for k, v in kwargs.items()})
    grad_output = random_like(output.to(x.dtype)).double()
    (grad,) = torch.autograd.grad(output, leaf, grad_output)
    return output.detach(), grad


def worst(actual, expected, scale=0.0):
    """The largest error, as a fraction of the largest value, or of `scale` if that is larger."""
    if actual.numel() == 0:
        return 0.0
    largest = max(float(expected.abs().max()), scale, 1e-30)
    return float((actual.double() - expected).abs().max()) / largest


def assert_no_worse_than_torch(ours, theirs, expected, label="", grad_scale=1.0):
    """Our (output, grad) is as near to the float64 one as torch's, give or take a few roundings of
    what they are made from: logarithms of about 1, and gradients of about `grad_scale`.
    """
    for name, our, their, right in zip(("output", "grad"), ours, theirs, expected, strict=True):
        assert our.dtype == their.dtype, (label, name)
        assert our.shape == their.shape, (label, name)
        rounding = torch.finfo(our.dtype).eps
        slack = (2 if our.dtype in HALF else 4 if our.dtype is torch.float32 else 64) * rounding
        scale = 1.0 if name == "output" else grad_scale
        error, bar = worst(our, right, scale), worst(their, right, scale)
        assert error <= bar + slack, f"{label} {name}: error {error:.3g}, torch's {bar:.3g}"


# --- against torch

#: torch's results and the float64 ones, which do not change with our layouts and instruction sets.
_JUDGED = {}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cross_entropy_is_as_accurate_as_torch(dtype, layout, isa):
    settings = itertools.product(SHAPES, ("mean", "sum", "none"), (None, -100, 2))
    for number, (shape, reduction, ignored) in enumerate(settings):
        x, target, weight = problem(shape, dtype, ignored=ignored)
        options = {"reduction": reduction, "ignore_index": -100 if ignored is None else ignored}
        if ignored is not None and (target == ignored).all():
            continue
        # Of these pairs two, others each time.
        pairs = ((0.0, None), (0.0, weight), (0.1, None), (0.3, weight))
        for label_smoothing, w in (pairs[number % 4], pairs[(number + 1 + number // 4 % 3) % 4]):
            arguments = {"weight": w, "label_smoothing": label_smoothing, **options}
            key = (shape, dtype, reduction, ignored, label_smoothing, w is None)
            if key not in _JUDGED:
                _JUDGED[key] = (
                    with_grad(TF.cross_entropy, x, target, **arguments),
                    in_float64(TF.cross_entropy, x, target, **arguments),
                )
            assert_no_worse_than_torch(
                with_grad(cross_entropy, layout(x), target, **arguments),
                *_JUDGED[key],
                f"{shape} {arguments}",
                grad_scale=1 / max(1, target.shape.numel()) if reduction == "mean" else 1.0,
            )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cross_entropy_with_probabilities_is_as_accurate_as_torch(dtype, layout):
    for shape, reduction, label_smoothing, weighted in itertools.product(
        SHAPES, ("mean", "sum", "none"), (0.0, 0.2), (False, True)
    ):
        x, _, weight = problem(shape, dtype)
        target = torch.rand(shape, generator=torch.Generator().manual_seed(5)).to(dtype)
        arguments = {
            "reduction": reduction,
            "label_smoothing": label_smoothing,
            "weight": weight if weighted else None,
        }
        expected = in_float64(TF.cross_entropy, x, target, **arguments)
        theirs = with_grad(TF.cross_entropy, x, target, **arguments)
        for our_target in (target, layout(target)):
            ours = with_grad(cross_entropy, layout(x), our_target, **arguments)
            rows = max(1, target.shape[:1].numel() * target.shape[2:].numel())
            grad_scale = 1 / rows if reduction == "mean" else 1.0
            assert_no_worse_than_torch(
                ours, theirs, expected, f"{shape} {arguments}", grad_scale=grad_scale
            )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nll_loss_is_as_accurate_as_torch(dtype, layout):
    for shape, reduction, ignored, weighted in itertools.product(
        SHAPES, ("mean", "sum", "none"), (None, 1), (False, True)
    ):
        x, target, weight = problem(shape, dtype, ignored=ignored)
        if ignored is not None and (target == ignored).all():
            continue
        x = x.double().log_softmax(0 if x.dim() == 1 else 1).to(dtype)
        arguments = {
            "reduction": reduction,
            "ignore_index": -100 if ignored is None else ignored,
            "weight": weight if weighted else None,
        }
        assert_no_worse_than_torch(
            with_grad(nll_loss, layout(x), target, **arguments),
            with_grad(TF.nll_loss, x, target, **arguments),
            in_float64(TF.nll_loss, x, target, **arguments),
            f"{shape} {arguments}",
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("ours", "theirs"), [(softmax, TF.softmax), (log_softmax, TF.log_softmax)], ids=["soft", "log"]
)
def test_softmax_is_as_accurate_as_torch(ours, theirs, dtype, layout):
    for shape in SHAPES:
        x, _, _ = problem(shape, dtype)
        for dim in range(-len(shape), len(shape)):
            expected = in_float64(theirs, x, dim)
            # log_softmax's backward is g - e^y sum(g)
            grad_sums = random_like(expected[0]).sum(dim).abs().max()
            assert_no_worse_than_torch(
                with_grad(ours, layout(x), dim),
                with_grad(theirs, x, dim),
                expected,
                f"{shape} dim {dim}",
                grad_scale=max(1.0, float(grad_sums)) if ours is log_softmax else 1.0,
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_expanded_input_and_target(dtype):
    row, _, _ = problem((1, 9), dtype)
    target = torch.tensor([3]).expand(6)
    for function in (cross_entropy, nll_loss):
        torch_function = getattr(TF, function.__name__)
        result, grad = with_grad(function, row.expand(6, 9), target)
        expected, expected_grad = in_float64(torch_function, row.expand(6, 9), target)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(result.double(), expected, rtol=2 * eps, atol=eps)
        torch.testing.assert_close(grad.double(), expected_grad, rtol=4 * eps, atol=eps)
    for function, theirs in ((softmax, TF.softmax), (log_softmax, TF.log_softmax)):
        result, grad = with_grad(function, row.expand(6, 9), 1)
        expected, expected_grad = in_float64(theirs, row.expand(6, 9), 1)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(result.double(), expected, rtol=4 * eps, atol=eps)
        torch.testing.assert_close(grad.double(), expected_grad, rtol=8 * eps, atol=8 * eps)


def test_the_gradient_has_the_logits_memory_format():
    x, target, _ = problem((2, 5, 3, 4))
    x = x.to(memory_format=torch.channels_last)
    _, grad = with_grad(cross_entropy, x, target)
    assert grad.stride() == x.stride()
    assert log_softmax(x, 1).stride() == x.stride()


@pytest.mark.parametrize("target_dtype", [torch.int64, torch.uint8])
def test_target_dtypes(target_dtype):
    x, target, _ = problem((9, 5))
    expected = TF.cross_entropy(x, target)
    result = cross_entropy(x, target.to(target_dtype))
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(nll_loss(x, target.to(target_dtype)), TF.nll_loss(x, target))


def test_half_sums_and_divisors_do_not_overflow_or_round():
    """torch's float16 mean over 32769 rows is inf, its bfloat16 divisor of 257 rows is 256."""
    for rows, dtype in ((32769, torch.float16), (257, torch.bfloat16)):
        x, target, _ = problem((rows, 10), dtype, scale=2.0)
        expected, expected_grad = in_float64(TF.cross_entropy, x, target)
        result, grad = with_grad(cross_entropy, x, target)
        eps = torch.finfo(dtype).eps
        assert abs(float(result) - float(expected)) <= eps * float(expected)
        # float16's gradients of 1/32769 are subnormal, in steps of 6e-8
        smallest = torch.finfo(dtype).smallest_normal * eps
        torch.testing.assert_close(grad.double(), expected_grad, rtol=2 * eps, atol=float(smallest))
        log_probabilities = x.float().log_softmax(1).to(dtype)
        expected = TF.nll_loss(log_probabilities.double(), target)
        assert abs(float(nll_loss(log_probabilities, target)) - float(expected)) <= eps * 10


# --- semantics, number by number


def both(*args, **kwargs):
    ours = with_grad(cross_entropy, *args, **kwargs)
    theirs = with_grad(TF.cross_entropy, *args, **kwargs)
    return ours, theirs


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_rows_ignored(reduction):
    x, target, weight = problem((4, 3))
    target.fill_(-100)
    for options in ({}, {"weight": weight}, {"label_smoothing": 0.1}, {"z_loss": 0.1}):
        leaf = x.clone().requires_grad_()
        loss = cross_entropy(leaf, target, reduction=reduction, **options)
        assert torch.isnan(loss).all() if reduction == "mean" else (loss == 0).all()
        loss.backward(torch.ones_like(loss))
        assert (leaf.grad == 0).all()
    result = nll_loss(x, target, reduction=reduction)
    torch.testing.assert_close(result, TF.nll_loss(x, target, reduction=reduction), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_are_not_negative_nor_log_probabilities_positive(dtype, isa):
    """A row that is certain: torch gives 0 or more, its terms being 0 and log(1 + something)."""
    generator = torch.Generator().manual_seed(0)
    for classes in (1, 2, 3, 33):
        x = torch.rand(200, classes, generator=generator, dtype=torch.float64)
        x[:, 0] += torch.linspace(0, 40, 200)
        x = x.to(dtype)
        assert (log_softmax(x, 1) <= 0).all()
        assert (softmax(x, 1) <= 1).all()
        assert (cross_entropy(x, zeros(200), reduction="none") >= 0).all()
        if classes == 1:
            assert (cross_entropy(x, zeros(200), reduction="none") == 0).all()
            assert (log_softmax(x, 1) == 0).all()
            assert (softmax(x, 1) == 1).all()


def test_a_total_weight_of_zero_is_nan_as_in_torch():
    x, target, _ = problem((4, 3))
    weight = torch.zeros(3)
    (ours, our_grad), (theirs, their_grad) = both(x, target, weight=weight)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert torch.isnan(ours)
    torch.testing.assert_close(our_grad, their_grad, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3), (2, 5, 0), (2, 5, 3, 0)])
def test_empty_batches(shape):
    x = torch.zeros(shape)
    target = torch.zeros(target_shape(shape), dtype=torch.long)
    for reduction in ("mean", "sum", "none"):
        for function in (cross_entropy, nll_loss):
            theirs, their_grad = with_grad(
                getattr(TF, function.__name__), x, target, reduction=reduction
            )
            ours, our_grad = with_grad(function, x, target, reduction=reduction)
            torch.testing.assert_close(ours, theirs, equal_nan=True)
            assert our_grad.shape == their_grad.shape == x.shape
    assert softmax(x, 1).shape == x.shape
    assert with_grad(log_softmax, x, 1)[1].shape == x.shape


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_unbatched(reduction):
    x, target, weight = problem((7,))
    for options in ({}, {"weight": weight}, {"label_smoothing": 0.2, "weight": weight}):
        (ours, our_grad), (theirs, their_grad) = both(x, target, reduction=reduction, **options)
        assert ours.shape == ()
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(our_grad, their_grad)
    # torch takes a target of one element too, though its backward does not
    one = target.reshape(1)
    ours = cross_entropy(x, one, reduction=reduction)
    torch.testing.assert_close(ours, TF.cross_entropy(x, one, reduction=reduction))


def test_negative_label_smoothing_is_none():
    x, target, _ = problem((4, 3))
    assert torch.equal(cross_entropy(x, target, label_smoothing=-0.5), cross_entropy(x, target))


def test_ignore_index_may_be_out_of_range_or_negative():
    x, target, _ = problem((6, 3))
    for ignore_index in (7, 10**9, -1, -(2**62), 0):
        marked = target.clone()
        marked[::2] = ignore_index
        (ours, our_grad), (theirs, their_grad) = both(x, marked, ignore_index=ignore_index)
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        torch.testing.assert_close(our_grad, their_grad)


def test_mean_with_probabilities_divides_by_rows_and_not_by_weights():
    x, _, weight = problem((4, 3))
    target = torch.rand(4, 3) * 2  # not normalized
    (ours, our_grad), (theirs, their_grad) = both(x, target, weight=weight)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(our_grad, their_grad)
    total = cross_entropy(x, target, weight=weight, reduction="sum")
    torch.testing.assert_close(ours, total / 4)


INF = float("inf")
NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "target"),
    [
        ([INF, 0.0, 1.0], 0),
        ([INF, 0.0, 1.0], 1),
        ([-INF, 0.0, 1.0], 1),
        ([-INF, 0.0, 1.0], 0),
        ([-INF, -INF, -INF], 1),
        ([NAN, 0.0, 1.0], 1),
        ([1e38, -1e38, 0.0], 1),
        ([1e38, 1e38, 0.0], 1),
    ],
)
def test_infinite_and_nan_logits(row, target):
    x = torch.tensor([row, [0.5, 0.25, -1.0]])
    indices = torch.tensor([target, 1])
    for options in ({}, {"label_smoothing": 0.1}, {"reduction": "none"}):
        (ours, our_grad), (theirs, their_grad) = both(x, indices, **options)
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        torch.testing.assert_close(our_grad, their_grad, equal_nan=True)
    for function, torch_function in ((softmax, TF.softmax), (log_softmax, TF.log_softmax)):
        ours, theirs = function(x, 1), torch_function(x, 1)
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_a_probability_of_zero_at_minus_infinity_is_nan():
    x = torch.tensor([[-INF, 0.0]])
    target = torch.tensor([[0.0, 1.0]])
    assert torch.isnan(TF.cross_entropy(x, target))
    assert torch.isnan(cross_entropy(x, target))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nan_in_an_ignored_row_gives_it_a_zero_gradient(reduction):
    """Where torch gives that row NaN."""
    x, target, weight = problem((4, 3))
    x[1] = torch.tensor([NAN, INF, -INF])
    target[1] = -100
    for options in (
        {},
        {"weight": weight},
        {"label_smoothing": 0.2},
        {"z_loss": 0.1, "softcap": 5.0},
    ):
        loss, grad = with_grad(cross_entropy, x, target, reduction=reduction, **options)
        assert torch.isfinite(loss).all()
        assert (grad[1] == 0).all()
        assert torch.isfinite(grad).all()


def test_a_nan_grad_output_leaves_ignored_rows_zero():
    x, target, _ = problem((4, 3))
    target[2] = -100
    leaf = x.clone().requires_grad_()
    cross_entropy(leaf, target).backward(torch.tensor(NAN))
    assert (leaf.grad[2] == 0).all()
    assert torch.isnan(leaf.grad[[0, 1, 3]]).all()


# --- errors


X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
X3 = torch.zeros(2, 3, 3)
T = torch.tensor([0, 1])


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.long)


CE, NLL = "cross_entropy", "nll_loss"
SOFT, LOG = "softmax", "log_softmax"
BAD_CALLS = [
    (CE, (X, torch.tensor([0, 7])), {}),
    (CE, (X, torch.tensor([-1, 0])), {}),
    (CE, (X, torch.tensor([0, 3])), {"reduction": "none"}),
    (CE, (X, torch.tensor([0, 3])), {"reduction": "sum", "label_smoothing": 0.1}),
    (CE, (X, torch.tensor([0, 3])), {"size_average": False}),
    (CE, (X3, zeros(2, 3) + 9), {}),
    (CE, (torch.zeros(3), torch.tensor(3)), {}),
    (CE, (X, zeros(3)), {}),
    (CE, (X, zeros()), {}),
    (CE, (X, zeros(2, 1)), {}),
    (CE, (X3, zeros(2, 4)), {}),
    (CE, (X3, zeros(2)), {}),
    (CE, (torch.zeros(2, 3, 3, 5), zeros(2, 3, 4)), {}),
    (CE, (torch.zeros(3), zeros(2)), {}),
    (CE, (torch.tensor(1.0), zeros()), {}),
    (CE, (X, T), {"reduction": "foo"}),
    (CE, (X, T), {"reduction": None}),
    (CE, (X, T), {"label_smoothing": 1.5}),
    (CE, (X, T), {"label_smoothing": "a"}),
    (CE, (X, T), {"ignore_index": 1.5}),
    (CE, (X, T), {"ignore_index": 2**70}),
    (CE, (X, torch.rand(2, 3)), {"label_smoothing": 1.5}),
    (CE, (X, torch.rand(2, 3)), {"ignore_index": 1}),
    (CE, (X, zeros(2, 3)), {}),
    (CE, (X, T.int()), {}),
    (CE, (X, T.float()), {}),
    (CE, (X, T.bool()), {}),
    (CE, (X, T, torch.ones(4)), {}),
    (CE, (X, T, torch.ones(3, 1)), {}),
    (CE, (X, T, torch.tensor(1.0)), {}),
    (CE, (X, T, torch.ones(3).double()), {}),
    (CE, (X, T, torch.ones(4)), {"label_smoothing": 0.1}),
    (CE, (X, torch.rand(2, 3), torch.ones(4)), {}),
    (CE, (X, T, torch.ones(3, requires_grad=True)), {}),
    (CE, (X, T, [1.0, 1.0, 1.0]), {}),
    (CE, (X.long(), T), {}),
    (CE, (X.cfloat(), T), {}),
    (CE, (X.bool(), T), {}),
    (CE, (X.numpy(), T), {}),
    (CE, (X.tolist(), T), {}),
    (CE, (X, T.numpy()), {}),
    (CE, (X, T.tolist()), {}),
    (CE, (X, None), {}),
    (NLL, (X, torch.tensor([0, 7])), {}),
    (NLL, (X, torch.tensor([0, 7])), {"reduction": "none"}),
    (NLL, (X3, zeros(2, 3) - 1), {}),
    (NLL, (X, zeros(3)), {}),
    (NLL, (X, zeros()), {}),
    (NLL, (X, zeros(2, 1)), {}),
    (NLL, (X, zeros(2, 3)), {}),
    (NLL, (X3, zeros(2, 4)), {}),
    (NLL, (X3, zeros(2)), {}),
    (NLL, (torch.zeros(2, 3, 3, 2), zeros(2, 4, 2)), {}),
    (NLL, (torch.zeros(3), zeros(2)), {}),
    (NLL, (torch.tensor(1.0), zeros()), {}),
    (NLL, (X, T, torch.ones(4)), {}),
    (NLL, (X, T, torch.ones(3).double()), {}),
    (NLL, (X, T.int()), {}),
    (NLL, (X, X), {}),
    (NLL, (X.long(), T), {}),
    (NLL, (X, T), {"reduction": "foo"}),
    (NLL, (X, None), {}),
    (SOFT, (X, 2), {}),
    (SOFT, (X, -3), {}),
    (SOFT, (X, 1.0), {}),
    (SOFT, (torch.tensor(1.0), 1), {}),
    (SOFT, (X.long(), 1), {}),
    (SOFT, (X.numpy(), 1), {}),
    (SOFT, (X, 1), {"dtype": torch.int32}),
    (LOG, (X, 2), {}),
    (LOG, (X.bool(), 1), {}),
    (LOG, (X.cfloat(), 4), {}),
]


@pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")
@pytest.mark.parametrize(
    "call", BAD_CALLS, ids=[f"{i}-{call[0]}" for i, call in enumerate(BAD_CALLS)]
)
def test_bad_calls_raise_what_torch_raises(call):
    name, args, kwargs = call
    with pytest.raises(Exception) as expected:  # noqa: PT011  (torch decides which)
        getattr(TF, name)(*args, **kwargs)
    before = [a.clone() for a in args if isinstance(a, torch.Tensor)]
    for wants_grad in (False, True):
        tensors = list(args)
        if isinstance(args[0], torch.Tensor) and args[0].is_floating_point():
            tensors[0] = args[0].clone().requires_grad_(wants_grad)
        with pytest.raises(expected.type) as raised:
            globals()[name](*tensors, **kwargs)
        assert type(raised.value) is type(expected.value)
        assert str(raised.value) == str(expected.value)
    after = [a for a in args if isinstance(a, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"softcap": 0.0},
        {"softcap": -1.0},
        {"softcap": NAN},
        {"softcap": INF},
        {"z_loss": NAN},
        {"z_loss": INF},
    ],
)
@pytest.mark.parametrize("x", [X, X.clone().requires_grad_(), X.to("meta")], ids=range(3))
def test_bad_extras_are_value_errors_that_name_the_argument(x, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"cross_entropy: {name}: expected"):
        cross_entropy(x, T.to(x.device), **options)


def test_an_out_of_range_target_found_late_leaves_in_place_logits_alone():
    x = torch.randn(3000, 40)
    target = zeros(3000)
    target[2999] = 40
    logits = x.clone().requires_grad_() * 1
    before = logits.detach().clone()
    with pytest.raises(IndexError, match=r"^Target 40 is out of bounds\.$"):
        cross_entropy(logits, target, inplace=True)
    assert torch.equal(logits.detach(), before)
    assert logits._version == 0


# --- derivatives


def extras():
    weight = torch.tensor([0.5, 2.0, 1.5, 0.25], dtype=torch.float64)
    yield {}
    yield {"weight": weight, "label_smoothing": 0.2, "ignore_index": 1}
    yield {"z_loss": 0.3, "softcap": 4.0, "ignore_index": 2, "weight": weight}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 4, 3)])
def test_cross_entropy_gradients_of_both_orders(shape, reduction):
    x, target, _ = problem(shape, torch.float64, scale=1.0)
    target = torch.where(target == 2, 0, target)
    if target.dim():
        target.view(-1)[0] = 1
        target.view(-1)[1] = 2
    probabilities = torch.rand(
        shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    x.requires_grad_()
    for options in extras():
        if options.get("ignore_index") == int(target.view(-1)[0]) and target.dim() == 0:
            continue
        cases = [(target, options)]
        no_ignoring = {k: v for k, v in options.items() if k != "ignore_index"}
        cases.append((probabilities, no_ignoring))
        for t, kwargs in cases:

            def function(x, t=t, kwargs=kwargs):
                return cross_entropy(x, t, reduction=reduction, **kwargs)

            assert torch.autograd.gradcheck(
                function, x, check_batched_grad=True, check_forward_ad=False, fast_mode=True
            )
            assert torch.autograd.gradgradcheck(function, x, fast_mode=True)


def test_softmax_and_nll_loss_gradients_of_both_orders():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1, 3, 0])
    weight = torch.tensor([0.5, 2.0, 1.5, 0.25], dtype=torch.float64)
    for function in (
        lambda x: softmax(x, 0),
        lambda x: log_softmax(x, 1),
        lambda x: nll_loss(x, target, weight),
        lambda x: nll_loss(x, target, reduction="none"),
    ):
        assert torch.autograd.gradcheck(function, x, check_batched_grad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, x, fast_mode=True)


def test_forward_mode_derivatives():
    x, tangent = torch.randn(2, 3, 4, dtype=torch.float64)
    target = torch.tensor([1, 3, 0])
    for ours, theirs in (
        (lambda x: cross_entropy(x, target), lambda x: TF.cross_entropy(x, target)),
        (lambda x: softmax(x, 1), lambda x: TF.softmax(x, 1)),
        (lambda x: nll_loss(x, target), lambda x: TF.nll_loss(x, target)),
    ):
        results = []
        for function in (ours, theirs):
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(x, tangent)
                results.append(torch.autograd.forward_ad.unpack_dual(function(dual)).tangent)
        assert results[0] is not None
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_second_backward_gives_the_same_bits(dtype, reduction):
    x, target, weight = problem((70, 33), dtype, ignored=-100)
    leaf = x.clone().requires_grad_()
    for options in ({}, {"weight": weight, "label_smoothing": 0.1, "z_loss": 0.01}):
        loss = cross_entropy(leaf, target, reduction=reduction, **options)
        for grad_output in (torch.ones_like(loss), random_like(loss)):
            first, second, third = (
                torch.autograd.grad(loss, leaf, grad_output, retain_graph=True)[0].clone()
                for _ in range(3)
            )
            assert torch.equal(first, second)
            assert torch.equal(first, third)
        again = cross_entropy(leaf, target, reduction=reduction, **options)
        assert torch.equal(
            torch.autograd.grad(again, leaf, torch.ones_like(loss))[0],
            torch.autograd.grad(loss, leaf, torch.ones_like(loss))[0],
        )


def test_a_backward_without_retain_graph_cannot_be_repeated():
    leaf = X.clone().requires_grad_()
    loss = cross_entropy(leaf, T)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_gradients_accumulate_and_are_not_shared():
    leaf = X.clone().requires_grad_()
    loss = cross_entropy(leaf, T)
    loss.backward(retain_graph=True)
    first = leaf.grad.clone()
    loss.backward()
    torch.testing.assert_close(leaf.grad, 2 * first)
    one = torch.autograd.grad(cross_entropy(leaf, T), leaf)[0]
    one.zero_()
    assert not torch.equal(torch.autograd.grad(cross_entropy(leaf, T), leaf)[0], one)


@pytest.mark.parametrize("scale", [1.0, 0.0, -2.5, 32768.0, 1e-3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grad_output(dtype, scale):
    x, target, _ = problem((16, 33), dtype)
    leaf = x.clone().requires_grad_()
    cross_entropy(leaf, target).backward(torch.tensor(scale, dtype=dtype))
    reference = x.double().requires_grad_()
    exact = float(torch.tensor(scale, dtype=dtype))
    (TF.cross_entropy(reference, target) * exact).backward()
    info = torch.finfo(dtype)
    subnormal = info.smallest_normal * info.eps
    error = (leaf.grad.double() - reference.grad).abs().max()
    assert error <= 2 * info.eps * reference.grad.abs().max() + subnormal


@pytest.mark.parametrize(("autocast", "scale"), [(False, 2.0**15), (True, 2.0**16)])
def test_a_float16_loss_scale_saves_gradients_from_underflow(autocast, scale):
    """Gradients of 1e-8 are below float16; scaled before they are rounded, they are not."""
    rows = 4096
    x = torch.zeros(rows, 8, dtype=torch.float16)
    x[:, 0] = 10.0
    target = zeros(rows)
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        loss = cross_entropy(leaf, target)
    (loss.float() * scale).backward()
    reference = x.double().requires_grad_()
    (TF.cross_entropy(reference, target) * scale).backward()
    assert float(reference.grad[0, 1]) / scale < 2**-25  # unscaled it rounds to zero
    assert (leaf.grad[:, 1:] > 0).all()
    torch.testing.assert_close(leaf.grad.double(), reference.grad, rtol=2e-3, atol=6e-8)


def test_a_target_or_weight_that_requires_grad():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, t: cross_entropy(x, t, label_smoothing=0.1, z_loss=0.2),
        (x, target),
        fast_mode=True,
    )
    # as torch: only a weight for probabilities is differentiable
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(cross_entropy(x, target, weight), (x, target, weight))
    theirs = torch.autograd.grad(TF.cross_entropy(x, target, weight), (x, target, weight))
    torch.testing.assert_close(ours, theirs)


# --- z_loss and softcap


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_z_loss_and_softcap_are_the_composite_formulas(dtype, reduction, isa):
    for shape, layout in itertools.product([(6,), (9, 33), (3, 6, 5)], [contiguous, channels_last]):
        x, target, weight = problem(shape, dtype, ignored=-100)
        probabilities = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        for z_loss, softcap, w, smoothing, t in itertools.product(
            (0.0, 0.05), (None, 2.5), (None, weight), (0.0, 0.1), (target, probabilities)
        ):
            leaf = x.double().requires_grad_()
            capped = leaf if softcap is None else softcap * torch.tanh(leaf / softcap)
            reference = TF.cross_entropy(
                capped,
                float64_of(t),
                None if w is None else w.double(),
                label_smoothing=smoothing,
                reduction=reduction,
            )
            penalty = z_loss * torch.logsumexp(capped, 0 if len(shape) == 1 else 1) ** 2
            counts = torch.ones_like(penalty) if t is probabilities else (t != -100).double()
            penalty = penalty * counts
            if reduction == "mean":
                penalty = penalty.sum() / counts.sum()
            elif reduction == "sum":
                penalty = penalty.sum()
            reference = reference + penalty
            grad_output = random_like(reference.to(dtype))
            (expected,) = torch.autograd.grad(reference, leaf, grad_output.double())
            ours = layout(x).detach().requires_grad_()
            loss = cross_entropy(
                ours,
                t,
                w,
                reduction=reduction,
                label_smoothing=smoothing,
                z_loss=z_loss,
                softcap=softcap,
            )
            (grad,) = torch.autograd.grad(loss, ours, grad_output)
            eps = torch.finfo(dtype).eps
            tolerance = 64 * eps if dtype not in HALF else 2 * eps
            assert worst(loss.detach(), reference.detach()) <= tolerance
            assert worst(grad, expected) <= tolerance


def test_z_loss_and_softcap_where_torch_does_the_work():
    """A target that requires grad goes to torch's functions: the same numbers must come out."""
    x = torch.randn(5, 4, dtype=torch.float64)
    target = torch.rand(5, 4, dtype=torch.float64)
    for reduction in ("mean", "sum", "none"):
        options = {"z_loss": 0.3, "softcap": 2.0, "reduction": reduction}
        ours = cross_entropy(x, target, **options)
        theirs = cross_entropy(x, target.clone().requires_grad_(), **options)
        torch.testing.assert_close(ours, theirs.detach())


# --- inplace=True


def overwritten(x, target, view=lambda logits: logits, **options):
    """(loss, gradient at x, the logits tensor) of an in-place call on ``view(x * 1)``."""
    leaf = x.clone().requires_grad_()
    logits = leaf * 1
    address = logits.data_ptr()
    loss = cross_entropy(view(logits), target, inplace=True, **options)
    (grad,) = torch.autograd.grad(loss, leaf, random_like(loss))
    assert logits.data_ptr() == address
    return loss.detach(), grad, logits


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(5,), (33, 130), (2, 5, 3, 4)])
def test_inplace_gives_the_same_loss_and_gradient(shape, dtype, reduction):
    x, target, weight = problem(shape, dtype, ignored=-100)
    options = {"weight": weight, "label_smoothing": 0.1, "reduction": reduction}
    loss, grad, logits = overwritten(x, target, **options)
    expected_loss, expected_grad = with_grad(cross_entropy, x, target, **options)
    assert torch.equal(loss, expected_loss)
    eps = torch.finfo(dtype).eps  # the gradient is rounded before grad_output scales it
    assert worst(grad, expected_grad.double()) <= 4 * eps
    unscaled = x.clone().requires_grad_()
    plain = cross_entropy(unscaled, target, **options)
    plain.backward(torch.ones_like(plain))
    assert torch.equal(logits.detach(), unscaled.grad)


VIEWS = {
    "flattened": ((2, 3, 5), lambda y: y.view(-1, 5), (6,)),
    "transposed": ((5, 6), lambda y: y.t(), (6,)),
    "classes moved": ((2, 3, 5), lambda y: y.movedim(-1, 1), (2, 3)),
    "view of a view": ((2, 3, 5), lambda y: y.flatten(0, 1).unsqueeze(0).squeeze(0), (6,)),
}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", VIEWS)
def test_inplace_on_a_view_of_all_of_the_logits(name, reduction):
    shape, view, rows = VIEWS[name]
    x = torch.randn(shape)
    target = torch.randint(0, 5, rows)
    loss, grad, logits = overwritten(x, target, view, reduction=reduction)
    leaf = x.clone().requires_grad_()
    expected = TF.cross_entropy(view(leaf * 1), target, reduction=reduction)
    torch.testing.assert_close(loss, expected.detach())
    (expected_grad,) = torch.autograd.grad(expected, leaf, random_like(expected))
    torch.testing.assert_close(grad, expected_grad)
    assert logits._version == 1


def test_inplace_on_a_view_of_a_part_is_refused_before_any_write():
    leaf = torch.randn(4, 6, 5, requires_grad=True)
    for part in (lambda y: y[:, :-1].movedim(-1, 1), lambda y: y.unbind(0)[0]):
        logits = leaf * 1
        before = logits.detach().clone()
        view = part(logits)
        with pytest.raises(RuntimeError, match=r"inplace=True.*view of a part"):
            cross_entropy(view, zeros(*target_shape(view.shape)), inplace=True)
        assert torch.equal(logits.detach(), before)
        logits.sum().backward()  # the graph is as it was


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.view(6, 4)], ids=["leaf", "view"])
def test_inplace_on_a_leaf_is_refused_before_any_write(view):
    leaf = torch.randn(6, 4, requires_grad=True)
    before = leaf.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        cross_entropy(view(leaf), zeros(6), inplace=True)
    assert torch.equal(leaf.detach(), before)
    assert leaf._version == 0


def test_inplace_marks_the_logits_dirty():
    x, target, _ = problem((6, 4))
    leaf = x.clone().requires_grad_()
    logits = leaf * 1
    kept = logits.exp()  # saves its result, not the logits
    squared = logits * logits  # saves the logits
    version = logits._version
    loss = cross_entropy(logits, target, inplace=True)
    assert logits._version > version
    kept.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward(retain_graph=True)
    loss.backward()


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.view(2, 3, 4)], ids=["same", "view"])
def test_overwritten_logits_cannot_be_differentiated_further(view):
    x, target, _ = problem((6, 4))
    leaf = x.clone().requires_grad_()
    logits = leaf * 1
    loss = cross_entropy(logits, target, inplace=True)
    with pytest.raises(RuntimeError, match="overwritten by their gradient"):
        (loss + view(logits).sum()).backward()


def test_inplace_twice_backward_and_double_backward():
    x, target, _ = problem((6, 4))
    leaf = x.clone().requires_grad_()
    loss = cross_entropy(leaf * 1, target, inplace=True)
    first = torch.autograd.grad(loss, leaf, retain_graph=True)[0].clone()
    (scaled,) = torch.autograd.grad(loss, leaf, torch.tensor(3.0), retain_graph=True)
    torch.testing.assert_close(scaled, 3 * first)
    (again,) = torch.autograd.grad(loss, leaf, create_graph=True)
    assert torch.equal(first, again.detach())
    with pytest.raises(RuntimeError):
        torch.autograd.grad(again.sum(), leaf)


def test_inplace_without_a_gradient_to_make_leaves_the_logits_alone():
    x, target, _ = problem((6, 4))
    before = x.clone()
    cross_entropy(x, target, inplace=True)
    with torch.no_grad():
        cross_entropy(x.requires_grad_(), target, inplace=True)
    assert torch.equal(x.detach(), before)
    assert x._version == 0


def test_inplace_on_expanded_logits_is_refused():
    leaf = torch.randn(1, 4, requires_grad=True)
    logits = (leaf * 1).expand(6, 4)
    with pytest.raises(RuntimeError):
        cross_entropy(logits, zeros(6), inplace=True)


# --- what the graph keeps


def test_logits_written_to_after_forward():
    """As in torch the gradient is still right, or autograd says no: never a wrong gradient."""
    x, target, _ = problem((6, 4))
    for reduction, scale, dtype in itertools.product(
        ("mean", "sum", "none"), (1.0, 3.0), (torch.float32, torch.float16)
    ):
        leaf = x.to(dtype).requires_grad_()
        expected = with_grad(
            lambda x, t, r=reduction, s=scale: cross_entropy(x, t, reduction=r) * s, leaf, target
        )[1]
        logits = leaf * 1
        loss = cross_entropy(logits, target, reduction=reduction) * scale
        with torch.no_grad():
            logits.zero_()
        keeps_gradient = reduction != "none" and dtype is torch.float32
        if keeps_gradient:
            (grad,) = torch.autograd.grad(loss, leaf, random_like(loss))
            torch.testing.assert_close(grad, expected)
        else:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                torch.autograd.grad(loss, leaf, random_like(loss))


def test_softmax_input_may_be_written_to_after_forward():
    for function in (softmax, log_softmax):
        leaf = X.clone().requires_grad_()
        hidden = leaf * 1
        result = function(hidden, 1)
        hidden.detach().zero_()
        (grad,) = torch.autograd.grad(result, leaf, random_like(result))
        torch.testing.assert_close(grad, with_grad(function, X, 1)[1])
        result = function(leaf * 1, 1)
        result.detach().zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.sum().backward()


def test_a_weight_written_to_after_forward_is_noticed():
    leaf, weight = X.clone().requires_grad_(), torch.ones(3)
    loss = cross_entropy(leaf, T, weight, reduction="none")
    weight.fill_(5.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()


def saved_bytes(function):
    """What autograd saves, as seen by its hooks: {storage: bytes}."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function()
    return storages, output


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_graph_holds_at_most_the_logits_and_one_buffer(dtype):
    rows, classes = 512, 4096
    leaf = torch.randn(rows, classes).to(dtype).requires_grad_()
    target = zeros(rows)
    size = leaf.numel() * leaf.element_size()
    dlkernels.empty_cache()
    before = dlkernels.memory_stats()["in_use_bytes"]
    storages, loss = saved_bytes(lambda: cross_entropy(leaf, target))
    assert set(storages) <= {leaf.data_ptr(), target.data_ptr()}
    held = dlkernels.memory_stats()["in_use_bytes"] - before
    assert held <= size
    loss.backward()
    assert leaf.grad.data_ptr() != leaf.data_ptr()
    held = dlkernels.memory_stats()["in_use_bytes"] - before
    assert held <= size, "the gradient is the buffer, not another one"
    del loss
    leaf.grad = None
    assert dlkernels.memory_stats()["in_use_bytes"] == before


def test_inplace_holds_nothing_beyond_the_logits():
    seen = []

    class Capture(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(grad.data_ptr())
            return grad

    logits = Capture.apply(torch.randn(512, 2048, requires_grad=True))
    before = dlkernels.memory_stats()
    cross_entropy(logits, zeros(512), inplace=True).backward()
    after = dlkernels.memory_stats()
    assert seen == [logits.data_ptr()]
    assert after["in_use_bytes"] == before["in_use_bytes"]
    assert after["misses"] + after["hits"] == before["misses"] + before["hits"]


def test_softmax_saves_its_result_only():
    leaf = torch.randn(8, 9, requires_grad=True)
    for function in (softmax, log_softmax):
        storages, output = saved_bytes(lambda f=function: f(leaf * 1, 1))
        assert sum(storages.values()) == output.numel() * 4


def test_dropping_the_loss_frees_the_graph_without_the_garbage_collector():
    import gc

    gc.collect()
    gc.disable()
    try:
        logits = torch.randn(4, 5, requires_grad=True) * 1
        gone = weakref.ref(logits)
        loss = cross_entropy(logits, zeros(4))
        loss.backward()
        with pytest.raises(IndexError):
            cross_entropy(logits, zeros(4) + 9)
        del loss, logits
        assert gone() is None
    finally:
        gc.enable()


# --- autocast


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype, amp):
    x, target, weight = problem((6, 4), dtype)
    probabilities = torch.rand(6, 4).to(dtype)
    for ours, theirs, args in (
        (cross_entropy, TF.cross_entropy, (target,)),
        (cross_entropy, TF.cross_entropy, (target, weight)),
        (cross_entropy, TF.cross_entropy, (probabilities, weight)),
        (nll_loss, TF.nll_loss, (target, weight)),
        (softmax, TF.softmax, (1,)),
        (log_softmax, TF.log_softmax, (1,)),
    ):
        with torch.autocast("cpu", dtype=amp):
            result, grad = with_grad(ours, x, *args)
            expected, expected_grad = with_grad(theirs, x, *args)
        assert grad.dtype == x.dtype
        for a, b in ((result, expected), (grad, expected_grad)):
            bound = 1e-2 if a.dtype in HALF else 1e-5
            torch.testing.assert_close(a, b, rtol=2 * bound, atol=bound)


# --- modules


def test_modules_interchange_with_torch():
    weight = torch.rand(4)
    arguments = {"weight": weight, "ignore_index": 2, "label_smoothing": 0.1, "reduction": "sum"}
    ours, theirs = dnn.CrossEntropyLoss(**arguments), torch.nn.CrossEntropyLoss(**arguments)
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, torch.nn.CrossEntropyLoss)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]
    fresh = dnn.CrossEntropyLoss(torch.zeros(4))
    fresh.load_state_dict(theirs.state_dict())
    assert torch.equal(fresh.weight, weight)
    torch.nn.CrossEntropyLoss(torch.zeros(4)).load_state_dict(ours.state_dict())
    x, target, _ = problem((6, 4))
    expected = theirs(x, target)
    for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(module(x, target), expected)
    for kind in ("NLLLoss", "Softmax", "LogSoftmax"):
        ours, theirs = getattr(dnn, kind)(), getattr(torch.nn, kind)()
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())


def test_module_extras():
    x, target, _ = problem((6, 4))
    module = pickle.loads(pickle.dumps(dnn.CrossEntropyLoss(z_loss=0.1, softcap=3.0)))
    assert torch.equal(module(x, target), cross_entropy(x, target, z_loss=0.1, softcap=3.0))
    logits = x.clone().requires_grad_() * 1
    dnn.CrossEntropyLoss(inplace=True)(logits, target).backward()
    assert logits._version == 1


def test_modules_take_torch_only_keywords():
    """Positional and deprecated arguments as torch has them."""
    x, target, weight = problem((6, 4))
    with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
        result = cross_entropy(x, target, weight, False)
    torch.testing.assert_close(result, TF.cross_entropy(x, target, weight, reduction="sum"))
    with pytest.warns(UserWarning, match="Implicit dimension choice for softmax"):
        softmax(x)
    with pytest.warns(UserWarning, match="Implicit dimension choice for log_softmax"):
        dnn.LogSoftmax()(x)


def test_softmax_dtype_argument():
    x = torch.randn(3, 4).bfloat16()
    for ours, theirs in ((softmax, TF.softmax), (log_softmax, TF.log_softmax)):
        result = ours(x, 1, dtype=torch.float32)
        assert result.dtype is torch.float32
        torch.testing.assert_close(result, theirs(x, 1, dtype=torch.float32))
        ints = torch.arange(4)
        torch.testing.assert_close(
            ours(ints, 0, dtype=torch.float64), theirs(ints, 0, dtype=torch.float64)
        )


def test_scalars_and_negated_views():
    assert softmax(torch.tensor(3.0), 0) == 1.0
    assert abs(log_softmax(torch.tensor(3.0), -1)) < 1e-6
    negated = torch.complex(torch.randn(3, 4), torch.randn(3, 4)).conj().imag
    assert negated.is_neg()
    target = zeros(3)
    torch.testing.assert_close(cross_entropy(negated, target), TF.cross_entropy(negated, target))
    torch.testing.assert_close(
        cross_entropy(X.T, zeros(3), negated[0, :2].abs()),
        TF.cross_entropy(X.T, zeros(3), negated[0, :2].abs()),
    )
    torch.testing.assert_close(softmax(negated, 1), TF.softmax(negated, 1))
    # and as grad_output: the backward of conj() of complex() makes one
    for function, theirs in (
        (lambda x: softmax(x, 1), lambda x: TF.softmax(x, 1)),
        (
            lambda x: cross_entropy(x, target, reduction="none"),
            lambda x: TF.cross_entropy(x, target, reduction="none"),
        ),
    ):
        grads = []
        for f in (function, theirs):
            leaf = torch.arange(12.0).reshape(3, 4).sin().requires_grad_()
            output = f(leaf)
            wave = torch.complex(torch.ones_like(output), output).conj()
            (grad,) = torch.autograd.grad(wave, leaf, torch.full_like(wave, 2 + 3j))
            grads.append(grad)
        torch.testing.assert_close(*grads)


def test_explain_names_the_loss_routes():
    x, target, weight = problem((6, 4))
    assert explain(cross_entropy, x, target) == "kernel: called directly"
    assert explain(nll_loss, target=target, input=x, weight=weight).startswith("kernel")
    assert explain(softmax, x, 1).startswith("kernel")
    for function, arguments in (
        (cross_entropy, (x, torch.rand(6, 4).requires_grad_())),
        (cross_entropy, (x, target, weight.double())),
        (cross_entropy, (x, target.int())),
        (nll_loss, (x, target.int())),
    ):
        assert explain(function, *arguments).startswith("torch: dtypes that do not match, ")


def test_results_do_not_depend_on_the_number_of_threads():
    x, target, weight = problem((500, 300), ignored=-100)
    results = []
    for threads in (1, 2, 3, 8):
        with dlkernels.num_threads(threads):
            results.append(with_grad(cross_entropy, x, target, weight, label_smoothing=0.1))
    for loss, grad in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_numpy_and_torch_fronts_agree_bit_for_bit():
    x, target, weight = problem((50, 30))
    loss, grad = dlkernels.cross_entropy_with_grad(
        x.numpy(), target.numpy(), weight=weight.numpy(), z_loss=0.1
    )
    leaf = x.clone().requires_grad_()
    torch_loss = cross_entropy(leaf, target, weight, z_loss=0.1)
    torch_loss.backward()
    assert np.array_equal(grad, leaf.grad.numpy())
    assert float(loss) == torch_loss.item()
