"""Another default dtype or device reaches no result: every twin, module and derivative, and image
preprocessing, as under torch's own defaults."""

import contextlib

import numpy as np
import pytest
import torch

import dlkernels.torch as dlt
from twins import SAMPLED_CALLS

FOREIGN = pytest.mark.parametrize(
    "foreign",
    [
        {"dtype": torch.bfloat16}, {"dtype": torch.float16}, {"dtype": torch.float64},
        {"device": "meta"},
    ],
    ids=lambda it: str(next(iter(it.values()))),
)  # fmt: skip


@contextlib.contextmanager
def defaults(dtype=torch.float32, device=None):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device) if device else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)


def derivatives(call, arguments, grads):
    """The result, and where there is one the first and the second derivative, both ways."""
    leaves = [t for t in arguments.values() if t.requires_grad]
    result = call.function(**arguments, **call.options)
    if not leaves:
        return [result]
    first = torch.autograd.grad(result, leaves, grads[0], retain_graph=True, allow_unused=True)
    found = [result.detach(), *first]
    again = torch.autograd.grad(result, leaves, grads[0], create_graph=True, allow_unused=True)
    again = [grad for grad in again if grad is not None and grad.requires_grad]
    if again:
        total = sum((grad * grads[1]).sum() for grad in again)
        found += [grad.detach() for grad in again]
        found += torch.autograd.grad(total, leaves, allow_unused=True)
    return [t for t in found if t is not None]


@FOREIGN
@pytest.mark.parametrize("call", SAMPLED_CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_twin(call, foreign, dtype):
    in_place = call.function.__name__.endswith("_")
    results = []
    for own in ({}, foreign):
        arguments = {name: t.clone() for name, t in call.arguments(dtype).items()}
        if not in_place:
            for name, tensor in arguments.items():
                if tensor.is_floating_point() and not name.startswith("running"):
                    tensor.requires_grad_()
        shape = call.function(**{k: t.clone() for k, t in arguments.items()}, **call.options).shape
        grads = [torch.linspace(-1, 2, shape.numel(), dtype=dtype).reshape(shape),
                 torch.tensor(0.5, dtype=dtype)]  # fmt: skip
        with defaults(**own):
            results.append(derivatives(call, arguments, grads))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0, equal_nan=True)


@FOREIGN
def test_image_preprocessing(foreign):
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    results = []
    for own in ({}, foreign):
        with defaults(**own):
            results.append(dlt.image.Normalize((0.5,) * 3, (0.25,) * 3, layout="HWC")(image))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@FOREIGN
def test_maxout_of_many_pieces(foreign):
    """Whose winners are numbers of several bits."""
    values = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    results = []
    for own in ({}, foreign):
        x = values.clone().requires_grad_()
        with defaults(**own):
            grad = torch.autograd.grad(
                dlt.functional.maxout(x, 20).sum(), x, create_graph=True
            )[0]  # fmt: skip
        results.append(grad.detach())
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@FOREIGN
def test_seeds_that_are_drawn(foreign):
    results = []
    for own in ({}, foreign):
        x = torch.ones(100)
        generator = torch.Generator().manual_seed(3)
        with defaults(**own):
            torch.manual_seed(5)
            results.append((dlt.functional.dropout(x), dlt.functional.dropout(x, seed=3),
                            dlt.functional.dropout(x, generator=generator)))  # fmt: skip
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
