"""Masks of one bit per element, packed as the kernels do, in torch's operations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkernels.torch._layout import laid_out

__all__ = ["as_bytes", "byte_count", "packed", "unpacked"]


def byte_count(size: Any) -> Any:
    """The bytes of a mask of so many elements: the kernels write 16 bits at a time."""
    return (size + 15) // 16 * 2


def unpacked(mask: Tensor, shape: Any, stride: Any) -> Tensor:
    """The bits of a mask as booleans, for a tensor that lies in memory with these strides."""
    places = torch.arange(8, dtype=torch.uint8, device=mask.device)
    bits = mask.unsqueeze(1).bitwise_right_shift(places).bitwise_and(1)
    return bits.flatten().bool().as_strided(shape, stride)


def packed(passes: Tensor, stride: Any) -> Tensor:
    """The mask of booleans, in the memory order of a tensor with these strides."""
    size = passes.numel()
    in_order = laid_out(passes.to(torch.uint8), stride).as_strided((size,), (1,))
    return as_bytes(F.pad(in_order, (0, -size % 16)))


def as_bytes(bits: Tensor) -> Tensor:
    """Zeros and ones, eight in a byte, the first one lowest."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return bits.view(-1, 8).bitwise_left_shift(places).sum(1, dtype=torch.uint8)
