"""What the tests of the torch front share: dtypes, and every bit of tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALF = (torch.bfloat16, torch.float16)


def bits(value: Any) -> Any:
    """The dtype and the bytes of a tensor, for comparing every bit; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    flat = value.detach().contiguous().flatten()
    return value.dtype, flat.view(torch.uint8).numpy().tobytes()


def assert_same_bits(
    first: Iterable[torch.Tensor], second: Iterable[torch.Tensor], what: Any = ""
) -> None:
    """As many tensors, of the same dtypes and bits (NaN and the sign of zero too)."""
    for a, b in zip(first, second, strict=True):
        assert bits(a) == bits(b), what
