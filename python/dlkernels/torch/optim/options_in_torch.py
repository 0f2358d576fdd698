"""The options of a step (`dlkernels.optim.step_options`) in torch's operations, around a step that
no kernel takes: sparse and complex gradients, other devices, DTensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dlkernels import _core
from dlkernels.optim.step_options import AVERAGE

__all__ = ["grad_norm_tensor", "step_with_extras"]


def grad_norm_tensor(norm: float, is_double: bool) -> Tensor:
    """A norm as `torch.nn.utils.clip_grad_norm_` returns it."""
    dtype = torch.float64 if is_double else torch.float32
    return torch.tensor(norm, dtype=dtype, device="cpu")


def _whole(value: Any) -> Tensor:
    """Over all processes, of a DTensor."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore[no-any-return]


def _values(grad: Tensor) -> Tensor:
    return grad._values() if grad.is_sparse else grad


def _total_norm(values: list[Tensor]) -> Tensor:
    is_double = any(value.dtype in (torch.float64, torch.complex128) for value in values)
    squares = 0.0
    for value in values:
        real = torch.view_as_real(value) if value.is_complex() else value
        squares += float(_whole(torch.linalg.vector_norm(real, dtype=torch.float64))) ** 2
    return grad_norm_tensor(squares**0.5, is_double)


@torch.no_grad()
def step_with_extras(
    params: list[Tensor],
    state: dict[Tensor, dict[str, Any]],
    extras: _core.StepExtras,
    averages: bool,
    step: Callable[[], None],
) -> Tensor | None:
    """Unscales, clips, steps, averages and zeroes, one after the other.

    Args:
        params: The optimizer's.
        state: The optimizer's.
        extras: What to do.
        averages: Keep moving averages.
        step: The rule's step, from the gradients that the parameters have then.

    Returns:
        The gradients' norm, if they are clipped.
    """
    live = [param for param in params if param.grad is not None]
    given: list[Any] = [param.grad for param in live]
    originals = [grad.coalesce() if grad.is_sparse else grad for grad in given]
    scales = extras.unscale != 1 or extras.max_norm >= 0
    grads = originals
    if scales and not extras.write_back:
        grads = [grad.clone() for grad in originals]
    values = [_values(grad) for grad in grads]
    is_skipped = extras.is_skipped or (
        extras.skips_nonfinite
        and not all(bool(_whole(torch.isfinite(value).all())) for value in values)
    )
    extras.is_skipped = is_skipped
    if extras.unscale != 1:
        for value in values:
            value.mul_(extras.unscale)
    norm = None
    if extras.max_norm >= 0:
        norm = _total_norm(values)
        coefficient = float(torch.clamp(extras.max_norm / (norm + 1e-6), max=1.0))
        for value in values:
            value.mul_(coefficient)
    before = [param.grad for param in live]
    try:
        for param, grad in zip(live, grads, strict=True):
            param.grad = grad
        if not is_skipped:
            _step_and_average(params, live, state, extras, averages, step)
    finally:
        if not extras.write_back:
            for param, kept in zip(live, before, strict=True):
                param.grad = kept
    if extras.zero_grads:
        for param in live:
            param.grad.zero_()  # type: ignore[union-attr]
    return norm


def _step_and_average(
    params: list[Tensor],
    live: list[Tensor],
    state: dict[Tensor, dict[str, Any]],
    extras: _core.StepExtras,
    averages: bool,
    step: Callable[[], None],
) -> None:
    def has_average(param: Tensor) -> bool:
        return AVERAGE in state.get(param, {})

    starts = {param: param.detach().clone() for param in live if not has_average(param)}
    step()
    if not averages:
        return
    for param, start in starts.items():
        state[param][AVERAGE] = start
    for param in filter(has_average, params):
        average = state[param][AVERAGE]
        if extras.average_copies:
            average.copy_(param)
        else:
            average.lerp_(param.to(average.dtype), extras.average_weight)
