"""Tensors whose memory holds the negation of their values (the imaginary part of a conjugate, and
every view of one): each tensor argument of everything, on both fronts.
"""

import itertools

import numpy as np
import pytest
import torch

import dlkernels
import dlkernels.torch as dlt
import specs
from activations.specs import ACTIVATIONS
from dlkernels.torch import image
from dlkernels.torch.norm import sync as sync_norm
from support import DTYPES
from twins import SAMPLED_CALLS


def negated(x):
    """The same values in row-major memory that holds their negation."""
    view = torch._neg_view((-x.detach()).contiguous())
    assert view.is_neg()
    assert view.is_contiguous()
    assert torch.equal(view, x)
    return view


def test_the_imaginary_part_of_a_conjugate_laid_out_anew():
    x = torch.tensor([1 + 2j, 3 + 4j]).conj().imag.as_strided((2,), (1,))
    assert x.is_neg()
    assert x.stride() == (1,)
    assert dlt.functional.relu(x).tolist() == [0.0, 0.0]
    assert dlt.functional.relu(torch._neg_view(torch.ones(1))).tolist() == [0.0]


def results_of(call, arguments, grad):
    """The result, and the gradient of every floating argument that has one."""
    leaves = {n: t for n, t in arguments.items() if t.requires_grad}
    result = call.function(**arguments, **call.options)
    found = {"result": result.detach()}
    if leaves:
        grads = torch.autograd.grad(result, list(leaves.values()), grad(result), allow_unused=True)
        found |= {f"grad of {n}": g for n, g in zip(leaves, grads, strict=True)}
    return found | {name: arguments[name].detach().clone() for name in call.written}


@pytest.mark.parametrize("call", SAMPLED_CALLS)
def test_every_tensor_of_every_twin(call):
    def run(place, wants_grad):
        arguments = {n: t.clone() for n, t in call.arguments().items()}
        if place in arguments:
            arguments[place] = negated(arguments[place])
        if wants_grad and not call.function.__name__.endswith("_"):
            main = next(iter(arguments.values()))
            main.requires_grad_()

        def grad(result):
            made = torch.linspace(-1, 2, result.numel()).reshape(result.shape)
            return negated(made) if place == "grad_output" else made

        return results_of(call, arguments, grad)

    for wants_grad in (False, True):
        expected = run(None, wants_grad)
        for place in (*call.arguments(), "grad_output"):
            found = run(place, wants_grad)
            for what, value in expected.items():
                torch.testing.assert_close(found[what], value, msg=f"{what} for negated {place}")


@pytest.mark.parametrize("call", SAMPLED_CALLS)
def test_every_tensor_of_every_operator(call):
    """As compiled graphs and modes call them."""
    with torch.no_grad(), torch.device("cpu"):  # a mode, to torch
        expected = call.function(**call.arguments(), **call.options)
        for place in call.arguments():
            arguments = call.arguments()
            arguments[place] = negated(arguments[place])
            torch.testing.assert_close(call.function(**arguments, **call.options), expected)


def test_images():
    x = torch.rand(3, 4, 5)
    expected = image.normalize(x, 0.5, 2.0)
    torch.testing.assert_close(image.normalize(negated(x), 0.5, 2.0), expected)
    out = negated(torch.zeros(expected.shape))
    image.normalize(x, 0.5, 2.0, out=out)
    torch.testing.assert_close(out.resolve_neg(), expected)


def test_batch_norm_over_processes():
    process_group = torch.distributed
    process_group.init_process_group("gloo", store=process_group.HashStore(), rank=0, world_size=1)
    try:
        x, residual = torch.rand(4, 3), torch.rand(4, 3)
        weight, bias = torch.rand(3), torch.rand(3)
        running = torch.zeros(3), torch.ones(3)
        world = process_group.group.WORLD
        rest = running, world, 0.1, 1e-5, "relu", 0.0
        tensors = [x, weight, bias, residual]
        expected = sync_norm._synchronized(*tensors, *rest)
        for place in range(4):
            mixed = [negated(t) if i == place else t for i, t in enumerate(tensors)]
            torch.testing.assert_close(sync_norm._synchronized(*mixed, *rest), expected)
    finally:
        process_group.destroy_process_group()


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Lion"])
def test_gradients_of_optimizers(name, size):
    steps = []
    for negates in (False, True):
        x = torch.nn.Parameter(torch.linspace(-1, 1, size))
        optimizer = getattr(dlt.optim, name)([x], lr=0.1)
        for _ in range(3):
            grad = torch.linspace(1, 2, size)
            x.grad = negated(grad) if negates else grad
            optimizer.step()
        steps.append(x.detach().clone())
    torch.testing.assert_close(*steps)


def _places():
    alike = {activation.name for activation in ACTIVATIONS[3:]}
    for operation, call in specs.cases():
        options = operation.options[0]
        arrays = operation.arrays(operation.shapes(9)[-1], DTYPES["float32"], options)
        for name, value in arrays.items():
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
                marks = pytest.mark.slow if operation.name in alike else ()
                yield pytest.param(operation, call, name, id=f"{call.name}-{name}", marks=marks)


@pytest.mark.parametrize(("operation", "call", "name"), list(_places()))
def test_the_numpy_front_refuses_them(operation, call, name):
    options = operation.options[0]
    arrays = operation.arrays(operation.shapes(9)[-1], DTYPES["float32"], options)
    tensors = {
        n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in arrays.items()
    }
    tensors[name] = torch._neg_view(tensors[name])
    kept = {n: t.clone() for n, t in tensors.items() if isinstance(t, torch.Tensor)}
    try:
        call.run(tensors, options, None)
        refusal = None
    except TypeError as error:
        refusal = str(error)
    if refusal is None:  # then it does not read it
        assert call.run({**tensors, name: None}, options, None) is not None
    else:
        assert "negative bit" in refusal
    for n, value in kept.items():
        assert torch.equal(tensors[n], value)


def test_the_numpy_front_refuses_out():
    for x, out in itertools.product((torch.ones(4), np.ones(4)), (torch.zeros(4),)):
        with pytest.raises(TypeError, match=r"out: .*negative bit"):
            dlkernels.relu(x, out=torch._neg_view(out.to(torch.as_tensor(x).dtype)))
