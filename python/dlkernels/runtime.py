"""How the operations run: threads, instruction set, memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from . import _core
from ._arguments import flag, integer, type_text

__all__ = [
    "MemoryStats",
    "active_isa",
    "empty_cache",
    "get_num_threads",
    "memory_stats",
    "num_threads",
    "set_isa",
    "set_num_threads",
    "tune_malloc",
]


class MemoryStats(TypedDict):
    """What `memory_stats` returns."""

    in_use_bytes: int
    """Under arrays now, in whole size classes."""
    idle_bytes: int
    """Kept for reuse."""
    peak_in_use_bytes: int
    """The highest `in_use_bytes` so far."""
    limit_bytes: int
    """What `idle_bytes` never exceeds."""
    hits: int
    """Requests met by kept memory."""
    misses: int
    """Requests that took fresh memory."""
    released: int
    """Blocks given back to the system."""


def _checked_count(operation: str, count: int) -> int:
    value = integer(count, operation, "count")
    if not 0 <= value < 2**31:
        raise ValueError(f"{operation}: count: expected at least 0 and below 2**31, got {value}")
    return value


def set_num_threads(count: int) -> None:
    """Limits how many threads an operation uses; results do not depend on it.

    The limit holds for the calling thread, and for threads that use this package for the first time
    later on.

    Args:
        count: The most threads to use; 0 to follow OpenMP (``OMP_NUM_THREADS``,
            ``torch.set_num_threads``, ``threadpoolctl``), which is how it starts.

    Raises:
        TypeError: ``count`` is no integer.
        ValueError: ``count`` is negative.
    """
    _core.set_num_threads(_checked_count("set_num_threads", count))


def get_num_threads() -> int:
    """Returns how many threads an operation called here may use.

    It is 1 inside an OpenMP region, and in a child made by ``fork``, where OpenMP does not work.

    >>> import dlkernels
    >>> with dlkernels.num_threads(1):
    ...     dlkernels.get_num_threads()
    1
    """
    return _core.thread_count()


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Limits the threads of the operations in a ``with`` block, for the calling thread.

    Args:
        count: As in `set_num_threads`.

    Raises:
        TypeError: ``count`` is no integer.
        ValueError: ``count`` is negative.
    """
    count = _checked_count("num_threads", count)
    before = _core.num_threads_limit()
    _core.set_num_threads(count, new_threads_too=False)
    try:
        yield
    finally:
        _core.set_num_threads(before, new_threads_too=False)


def set_isa(level: str) -> None:
    """Chooses the instruction set for the whole process; for tests and comparisons.

    Args:
        level: ``"baseline"``, ``"avx2"`` or ``"avx512"``.

    Raises:
        TypeError: ``level`` is no string.
        ValueError: ``level`` is unknown or not supported here.
    """
    if not isinstance(level, str):
        raise TypeError(f"set_isa: level: expected a string, got {type_text(level)}")
    _core.set_isa(level)


def active_isa() -> str:
    """Returns the instruction set in use.

    >>> import dlkernels
    >>> dlkernels.active_isa() in ("baseline", "avx2", "avx512")
    True
    """
    return _core.active_isa()


def empty_cache() -> None:
    """Gives the memory that is kept for reuse back to the system.

    Results of 1 MiB and more lie in memory that is kept when the last array on it is dropped,
    because fresh memory costs far more to touch than to write. Memory still in use is not affected.
    """
    _core.empty_cache()


def memory_stats() -> MemoryStats:
    """Returns what the pool of result memory holds and did, as a dictionary.

    >>> import dlkernels
    >>> dlkernels.empty_cache()
    >>> dlkernels.memory_stats()["idle_bytes"]
    0
    """
    return _core.memory_stats()


def tune_malloc(enable: bool = True) -> bool:
    """Keeps the C library from handing memory back to the system at every free.

    By itself, glibc returns large blocks at once, and touching fresh ones costs most of the time of
    many operations on large arrays: torch's own as well. This is one switch for the whole process,
    and the process then holds on to the most memory it ever used.

    Args:
        enable: ``False`` goes back to glibc's defaults, except that its threshold for large blocks
            no longer adapts, and returns what is free.

    Returns:
        Whether it was done: ``False`` where the C library is not glibc.
    """
    return _core.tune_malloc(flag(enable, "tune_malloc", "enable"))
