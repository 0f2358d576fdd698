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


#: Whose weights have no derivative, in torch neither.
NO_GRADIENT = (
    "nll_loss",
    "cross_entropy",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)


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
    """The result, the first derivative both ways, and the second; zeros where there is none."""
    leaves = [t for t in arguments.values() if t.requires_grad]
    result = call.function(**arguments, **call.options)
    if not leaves:
        return [result]

    def derive(output, grad, **options):
        found = torch.autograd.grad(output, leaves, grad, allow_unused=True, **options)
        pairs = zip(found, leaves, strict=True)
        return [torch.zeros_like(leaf) if grad is None else grad for grad, leaf in pairs]

    first = derive(result, grads[0], retain_graph=True)
    again = derive(result, grads[0], create_graph=True)
    total = sum((grad * grads[1]).sum() for grad in again)
    second = derive(total, None) if total.requires_grad else list(map(torch.zeros_like, leaves))
    return [t.detach() for t in (result, *first, *again, *second)]


@FOREIGN
@pytest.mark.parametrize("call", SAMPLED_CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_twin(call, foreign, dtype):
    name = call.function.__name__
    results = []
    for own in ({}, foreign):
        arguments = {key: t.clone() for key, t in call.arguments(dtype).items()}
        for key, tensor in arguments.items():
            constant = key.startswith("running") or ("weight" in key and name in NO_GRADIENT)
            if tensor.is_floating_point() and not constant and not name.endswith("_"):
                tensor.requires_grad_()
        copies = {key: t.detach().clone() for key, t in arguments.items()}
        shape = call.function(**copies, **call.options).shape
        grads = [
            torch.linspace(-1, 2, shape.numel(), dtype=dtype).reshape(shape),
            torch.tensor(0.5, dtype=dtype),
        ]
        with defaults(**own):
            results.append(derivatives(call, arguments, grads))
    # A default device is a mode, under which torch sees operators: other sums, the same accuracy.
    tolerance = 0.0 if "dtype" in foreign else 1e-5 if dtype is torch.float32 else 1e-13
    torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)


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
            drawn = [{}, {"seed": 3}, {"generator": generator}]
            results.append([dlt.functional.dropout(x, **options) for options in drawn])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
