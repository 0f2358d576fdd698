"""torch's own sample and error databases, run against the twins."""

import copy
import functools
import itertools
import warnings

import pytest
import torch
import torch.nn.functional as TF

from activations.specs import ACTIVATIONS as SPECS
from dlkernels.activations import ACTIVATIONS
from dlkernels.elementwise_losses import LOSSES
from dlkernels.torch import functional, nn
from dlkernels.torch.elementwise_losses import TWINS as LOSS_TWINS
from torch_support import DTYPES

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:Using a target size"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides"),
]


#: The twins in op_db, as it calls them but for `nn.functional.`, with their variants.
NAMES = (
    *("cross_entropy", "nll_loss", "softmax", "softmax-with_dtype"),
    *("log_softmax", "log_softmax-with_dtype", "batch_norm", "prelu", "glu"),
    *ACTIVATIONS,
    *(name for name in LOSSES if hasattr(TF, name)),
)


@functools.cache
def database():
    """The entries of `NAMES`. It takes seconds to import: for those who run such a test alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's test modules use what torch deprecates
        from torch.testing._internal.common_methods_invocations import op_db
    found = {}
    for op in op_db:
        name = op.name.removeprefix("nn.functional.")
        found[f"{name}-{op.variant_test_name}" if op.variant_test_name else name] = op
    return {name: found[name] for name in NAMES}


def module_entries(kind):
    """The entries of module_db for a class of torch's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db
    return [entry for entry in module_db if entry.module_cls is kind]


#: How far torch's own float64 results may be off, where that is more than rounding.
TORCH_FLOAT64 = {activation.name: activation.torch_float64 for activation in SPECS}


def as_torch(name):
    """The twin with op_db's positional arguments: torch.softmax takes (input, dim, dtype)."""
    twin = getattr(functional, name.split("-")[0])
    if twin in (functional.softmax, functional.log_softmax):
        return lambda x, dim, dtype=None: twin(x, dim, dtype=dtype)
    return twin


def run(function, sample):
    """(output or exception, gradients of the differentiable tensors) on fresh copies."""
    leaves = []

    def fresh(value):
        if not isinstance(value, torch.Tensor):
            return value
        leaf = value.detach().requires_grad_(value.requires_grad)
        if leaf.requires_grad:
            leaves.append(leaf)
        return leaf

    input = fresh(sample.input)
    args = [fresh(a) for a in sample.args]
    kwargs = {k: fresh(v) for k, v in sample.kwargs.items()}
    try:
        output = function(input, *args, **kwargs)
    except Exception as error:
        return error, []
    if not output.requires_grad:
        return output, []
    torch.manual_seed(7)
    grad_output = torch.randn(output.shape, dtype=torch.float64).to(output.dtype)
    return output, torch.autograd.grad(output, leaves, grad_output, allow_unused=True)


def assert_close(ours, theirs, name, float64=1e-12):
    assert (ours is None) == (theirs is None), name
    if ours is None:
        return
    assert ours.dtype == theirs.dtype, name
    assert ours.shape == theirs.shape, name
    # torch rounds a half type's logarithms, sums and divisors where ours does not.
    slack = {torch.bfloat16: 4e-2, torch.float16: 1e-2, torch.float32: 3e-6}
    bound = slack.get(ours.dtype, float64)
    torch.testing.assert_close(
        ours, theirs, rtol=bound, atol=bound, equal_nan=True, msg=lambda text: f"{name}: {text}"
    )


def widened(sample):
    """The same in float64."""

    def wide(value):
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            return value
        return value.detach().double().requires_grad_(value.requires_grad)

    other = copy.copy(sample)
    other.input, other.args = wide(sample.input), tuple(map(wide, sample.args))
    other.kwargs = {k: wide(v) for k, v in sample.kwargs.items()}
    return other


def assert_rounded_once(ours, exact, dtype, name, units):
    """Of torch's result in float64, up to `units`; elements where torch has NaN are left out (its
    0 log 0 has a gradient of NaN)."""
    if exact is None:
        assert ours is None, name
        return
    assert ours.dtype == dtype, name
    known = ~exact.isnan()
    bound = units * torch.finfo(dtype).eps
    scale = exact[known].abs()
    scale = scale[scale.isfinite()].max().item() if scale.isfinite().any() else 0.0
    torch.testing.assert_close(
        ours.double()[known], exact[known].to(dtype).double(), rtol=bound, atol=bound * scale,
        msg=lambda text: f"{name}: {text}",
    )  # fmt: skip


def describe(sample):
    shapes = [tuple(sample.input.shape), *(getattr(a, "shape", a) for a in sample.args)]
    return f"{shapes} {sample.kwargs}"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_samples_agree_with_torch_forward_and_backward(name, dtype):
    op, twin = database()[name], as_torch(name)
    float64 = max(1e-12, TORCH_FLOAT64.get(twin.__name__, 0.0))
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=True))
    assert samples
    for sample in samples:
        # Of these losses torch rounds every step of a half type.
        is_exact = dtype in (torch.bfloat16, torch.float16) and twin.__name__ in LOSSES
        theirs, their_grads = run(op.op, widened(sample) if is_exact else sample)
        ours, our_grads = run(twin, sample)
        what = describe(sample)
        if is_exact and not isinstance(theirs, Exception):
            assert_rounded_once(ours, theirs, dtype, what, units=2)
            largest = max(grad.numel() for grad in their_grads)
            for a, b in zip(our_grads, their_grads, strict=True):
                # Along what was broadcast rounded gradients are summed.
                assert_rounded_once(a, b, dtype, what, units=2 if b.numel() == largest else 16)
            continue
        if isinstance(theirs, Exception):
            assert isinstance(ours, type(theirs)), (what, theirs, ours)
            continue
        if isinstance(ours, Exception):
            raise AssertionError(what) from ours
        assert_close(ours, theirs, what, float64)
        assert ours.requires_grad == theirs.requires_grad, what
        assert len(our_grads) == len(their_grads)
        for ours_grad, theirs_grad in zip(our_grads, their_grads, strict=True):
            assert_close(ours_grad, theirs_grad, what, float64)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", NAMES)
def test_strided_and_transposed_samples_give_the_same_result(name):
    """Samples again with their input stepping over every second element, and back to front."""
    op, twin = database()[name], as_torch(name)
    samples = op.sample_inputs("cpu", torch.float32, requires_grad=True)
    for sample in itertools.islice(samples, 0, None, 3):
        x = sample.input.detach()
        spread = torch.full((*x.shape, 2), torch.nan)[..., 0].copy_(x).requires_grad_()
        turned = x.mT.contiguous().mT if x.dim() > 1 else x
        expected, expected_grads = run(twin, sample)
        for other in (spread, turned.detach().requires_grad_()):
            moved = copy.copy(sample)
            moved.input = other
            result, grads = run(twin, moved)
            assert_close(result, expected, describe(sample))
            assert_close(grads[0], expected_grads[0], describe(sample))


MODULES = {
    kind.__name__: (kind, getattr(nn, kind.__name__))
    for kind in (
        torch.nn.CrossEntropyLoss,
        torch.nn.NLLLoss,
        torch.nn.Softmax,
        torch.nn.LogSoftmax,
        torch.nn.BatchNorm1d,
        torch.nn.BatchNorm2d,
        torch.nn.BatchNorm3d,
        *(getattr(torch.nn, row.module) for row in ACTIVATIONS.values()),
        *(getattr(torch.nn, m.__name__) for twin in LOSS_TWINS for m in twin.modules),
    )
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_modules_agree_with_torch(name, dtype):
    theirs, ours = MODULES[name]
    entries = module_entries(theirs)
    if not entries:
        pytest.skip(f"module_db has no {name}")
    (info,) = entries
    for module_input in info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=True
    ):
        args, kwargs = module_input.constructor_input.args, module_input.constructor_input.kwargs
        x, *rest = module_input.forward_input.args
        assert not module_input.forward_input.kwargs
        results = []
        for kind in (theirs, ours):
            leaf = x.detach().clone().requires_grad_()
            module = kind(*args, **kwargs).to(dtype)
            try:
                # relu's inplace=True must not meet a leaf
                output = module(leaf * 1, *rest)
            except Exception as error:
                results.append((error, None))
                continue
            torch.manual_seed(7)
            grad = torch.randn(output.shape, dtype=torch.float64).to(output.dtype)
            results.append((output, torch.autograd.grad(output, leaf, grad)[0]))
        (expected, expected_grad), (result, grad) = results
        what = f"{args} {kwargs} {tuple(x.shape)}"
        if isinstance(expected, Exception):
            assert isinstance(result, type(expected)), what
            continue
        if isinstance(result, Exception):
            raise AssertionError(what) from result
        assert_close(result, expected, what)
        assert_close(grad, expected_grad, what)


@pytest.mark.parametrize(
    "name", ["CrossEntropyLoss", "NLLLoss", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]
)
def test_module_error_inputs_raise_what_torch_raises(name):
    """op_db has no error inputs for these functions; module_db has some for their modules."""
    theirs, ours = MODULES[name]
    (info,) = module_entries(theirs)
    cases = list(
        info.module_error_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
        )
    )
    assert cases
    for case in cases:
        assert case.error_on.name == "FORWARD_ERROR"
        construct = case.module_error_input.constructor_input
        module = ours(*construct.args, **construct.kwargs)
        forward = case.module_error_input.forward_input
        with pytest.raises(case.error_type, match=case.error_regex):
            module(*forward.args, **forward.kwargs)
