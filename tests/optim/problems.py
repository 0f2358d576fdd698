"""Parameters and gradients for the tests of torch's optimizers: the same every time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def parameters(
    sizes: Iterable[Any], dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[torch.nn.Parameter]:
    """One of each size or shape."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype))
        for size in sizes
    ]


def set_grads(
    params: Iterable[torch.Tensor],
    step: int,
    dtype: torch.dtype | None = None,
    scale: float = 1.0,
) -> None:
    """The gradients of a step, in the parameters' dtypes or another."""
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        grad = scale * torch.randn(param.shape, generator=generator, dtype=torch.float64)
        if dtype not in (None, param.dtype):
            param.grad_dtype = dtype
        param.grad = grad.to(dtype or param.dtype)
