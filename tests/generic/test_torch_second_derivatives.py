"""Derivatives that go through torch's operations: in the dtype of the input, with its digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from activations.specs import ACTIVATIONS, ActivationSpec
from dlkernels.torch import functional
from elementwise_losses.specs import ELEMENTWISE_LOSSES, LossSpec
from operation import exact_of


def _step(x: np.ndarray) -> np.ndarray:
    """Small beside the distances to 0 and 1, where losses have their poles."""
    return np.minimum(np.minimum(np.abs(x), np.abs(1 - x)) + np.longdouble(1e-6), 1) / 1000


def _slope(function: Any, x: np.ndarray) -> np.ndarray:
    """The derivative of an elementwise function in long double, to 1e-13."""
    step = _step(x)
    ends = [(function(x + k * step) - function(x - k * step)) / (2 * k * step) for k in (1, 2, 3)]
    return (15 * ends[0] - 6 * ends[1] + ends[2]) / 10


def _derivatives(function: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first under create_graph, and the second of an elementwise function."""
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    if not first.requires_grad:
        return first, torch.zeros_like(x)
    return first, torch.autograd.grad(first.sum(), x)[0]


def _check(actual: torch.Tensor, exact: np.ndarray, label: str) -> None:
    assert actual.dtype is torch.float64
    error = np.abs(actual.detach().numpy() - exact).max()
    assert error <= 1e-12 * max(1, np.abs(exact).max()), f"{label}: off by {error}"


@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
def test_activations_in_float64(spec: ActivationSpec) -> None:
    twin = getattr(functional, spec.name)
    for options in spec.options:
        points = spec.smooth_points()

        def first(x: np.ndarray, options: Any = options) -> np.ndarray:
            saved = x
            if spec.row.saves == "output":
                saved = exact_of(spec.function(x, **options)).value
            one = np.ones_like(x)
            return np.asarray(exact_of(spec.gradient(one, saved, **options)).value)

        wide = points.astype(np.longdouble)
        x = torch.from_numpy(points).requires_grad_()
        one, two = _derivatives(lambda x, options=options: twin(x, **options), x)
        _check(one, first(wide), f"{spec.name} {dict(options)}, the first")
        _check(two, _slope(first, wide), f"{spec.name} {dict(options)}, the second")
        if spec.torch_float64 > 1e-12:  # torch.func runs torch's own, whose constants are float32
            continue
        scalar = torch.func.grad(torch.func.grad(lambda x, options=options: twin(x, **options)))
        vmapped = torch.func.vmap(scalar)(x.detach().flatten())
        _check(vmapped, _slope(first, wide).ravel(), f"{spec.name} {dict(options)}, torch.func")


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "logsigmoid", "elu", "celu", "selu"])
def test_activations_at_the_ends(name: str) -> None:
    """Under create_graph as without: no 0 * inf where one branch is infinite, no digits lost."""
    for dtype in (torch.float64, torch.float32):
        x = torch.tensor([-torch.inf, -30, -1e-12, 1e-12, 30, torch.inf], dtype=dtype)
        x.requires_grad_()
        y = getattr(functional, name)(x)
        (plain,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        (differentiable,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        torch.testing.assert_close(
            differentiable.detach(), plain, rtol=4 * torch.finfo(dtype).eps, atol=0
        )


@pytest.mark.parametrize("spec", ELEMENTWISE_LOSSES, ids=lambda spec: spec.name)
def test_losses_in_float64(spec: LossSpec) -> None:
    twin = getattr(functional, spec.torch_name or spec.name)
    row = spec.row
    name = row.inputs[0]
    for options in spec.options:
        if options.get("reduction") == "mean":
            continue
        arrays = spec.arrays(np.random.default_rng(4), (7, 9), np.dtype(np.float64), options)
        numbers = {k: v for k, v in options.items() if k not in ("weight", "pos_weight")}
        for parameter in ("reduction", "axis"):
            numbers.pop(parameter, None)
        weight = arrays.get("weight", np.ones(()))

        def first(x: np.ndarray, arrays: Any = arrays, numbers: Any = numbers) -> np.ndarray:
            wide = {key: value.astype(np.longdouble) for key, value in arrays.items()}
            with np.errstate(all="ignore"):
                return np.asarray(spec.gradients[name](wide | {name: x}, **numbers)[0])

        operands = {key: torch.from_numpy(value) for key, value in arrays.items()}
        x = operands[name].requires_grad_()
        extra = {} if row.reduction is None else {"reduction": "sum"}

        def loss(x: Any, operands: Any = operands, more: Any = numbers | extra) -> torch.Tensor:
            rest = [value for key, value in operands.items() if key in row.inputs[1:]]
            others = {k: v for k, v in operands.items() if k not in row.inputs}
            result: torch.Tensor = twin(x, *rest, **others, **more)
            return result

        one, two = _derivatives(loss, x)
        wide = arrays[name].astype(np.longdouble)
        _check(one, first(wide) * weight, f"{spec.name} {dict(options)}, the first")
        smooth = _slope(first, wide)
        # not across a kink
        near = np.abs(_slope(first, wide + 4 * _step(wide)) - smooth) > 0.2 * (1 + np.abs(smooth))
        at = ~near & ~np.isnan(smooth)
        assert at.mean() > 0.5
        exact = np.where(at, smooth * weight, 0)
        _check(torch.where(torch.from_numpy(at), two, 0.0), exact, f"{spec.name}, the second")
