"""What the tests of the torch front share: dtypes, every bit of tensors, several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.multiprocessing
from torch.utils._python_dispatch import TorchDispatchMode

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


class DispatchLog(TorchDispatchMode):
    """Notes the operators that torch is called for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


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
