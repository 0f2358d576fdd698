"""What the tests of the torch front share: dtypes, every bit of tensors, several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.multiprocessing

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


def run_processes(function: Callable[..., None], count: int, *arguments: Any) -> None:
    """Runs `function(rank, *arguments)` in so many new processes, and raises what one of them does.

    They are forked from one that has done nothing but import: that takes most of the time.
    """
    multiprocessing.set_forkserver_preload(
        ["torch.distributed.checkpoint", "torch.distributed.fsdp", "dlkernels.torch", "pytest"]
    )
    torch.multiprocessing.start_processes(
        function, arguments, nprocs=count, start_method="forkserver"
    )
