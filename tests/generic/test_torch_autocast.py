"""What CPU autocast makes of the twins is what it makes of torch's own functions."""

import warnings

import pytest
import torch

from torch_support import DTYPES, HALF
from twins import SAMPLED_CALLS, TWIN_CALLS

#: The digits that two ways of rounding intermediate results to a half type leave alike.
TOLERANCE = {torch.bfloat16: 4e-2, torch.float16: 6e-3}


def _dtypes(call):
    """Dtypes of the main tensor, and of the parameters that go with it."""
    for dtype in DTYPES:
        yield dtype, dtype
        if dtype in HALF and {"weight", "bias", "running_mean"} & call.arguments().keys():
            yield dtype, torch.float32


def _outcome(function, call, dtype, parameter_dtype):
    """The result, and the gradients of all that have one; or the kind of error."""
    arguments = call.arguments(dtype)
    for name in ("weight", "bias", "running_mean", "running_var", "pos_weight"):
        if name in arguments:
            arguments[name] = arguments[name].to(parameter_dtype)
    options = {k: v for k, v in call.options.items() if k != "seed"}
    leaves = [
        t.requires_grad_()
        for n, t in arguments.items()
        if t.is_floating_point() and n in ("input", "inputs", "weight", "bias")
        and not (n == "weight" and "target" in arguments)
        and not call.written
    ]  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function(**arguments, **options)
    except (RuntimeError, ValueError, TypeError) as error:
        return type(error)
    if not leaves:
        return (result,)
    grad = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).reshape(result.shape)
    return result.detach(), *torch.autograd.grad(result, leaves, grad)


def _compare(ours, theirs, is_random):
    if isinstance(ours, type) or isinstance(theirs, type):
        assert ours is theirs
        return
    assert [t.dtype for t in ours] == [t.dtype for t in theirs]
    if is_random:
        return
    for own, other in zip(ours, theirs, strict=True):
        close = TOLERANCE.get(own.dtype, 2e-2)
        torch.testing.assert_close(own, other, rtol=close, atol=close)


@pytest.mark.parametrize("call", SAMPLED_CALLS)
def test_dtypes_and_values_are_torchs(call):
    if call.theirs is None:
        pytest.skip("torch has no such function")
    for dtype, parameter_dtype in _dtypes(call):
        for autocast_dtype in (*HALF, None):
            with torch.autocast("cpu", autocast_dtype, enabled=autocast_dtype is not None):
                ours = _outcome(call.function, call, dtype, parameter_dtype)
                theirs = _outcome(call.theirs, call, dtype, parameter_dtype)
            _compare(ours, theirs, is_random="dropout" in call.name)


def test_the_sweep_covers_every_twin_of_a_function_of_torchs():
    swept = {call.function.__name__ for call in TWIN_CALLS if call.theirs is not None}
    missing = {call.function.__name__ for call in TWIN_CALLS} - swept
    assert missing == {
        "bias_act_dropout",
        "cross_entropy_of_distributions",
        "dropout_add",
        "entropy",
        "kl_divergence",
        "maxout",
        "sigmoid_focal_loss",
        "swiglu",
    }
