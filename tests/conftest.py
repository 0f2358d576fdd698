"""Fixtures for every test."""

from __future__ import annotations

import gc
import random
import sys
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

import dlkernels
from dlkernels import _core
from support import ISAS, isa_level


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Makes what is left of sampled tests slow; which ones is the same in every run."""
    seen: Counter[tuple[str, str]] = Counter()
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker is None:
            continue
        key = (item.location[0], item.location[2].split("[")[0])
        if seen[key] % marker.args[0]:
            item.add_marker(pytest.mark.slow)
        seen[key] += 1


def pytest_collection_finish() -> None:
    """The garbage collector leaves alone what is here from now on: thousands of tests and torch,
    a second's work for each of the many collections that tests ask for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set this processor has, one after the other, in this process."""
    with isa_level(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _seeds(request: pytest.FixtureRequest) -> None:
    """The generators of torch, NumPy and Python start alike in every run of a test."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (for torch's own sample databases)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """`torch.compile` without the graphs of earlier tests, and with none left behind."""
    import torch

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    gc.collect()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that are the same in every run of a test, whatever else runs."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def _settings_restored() -> Iterator[None]:
    """No test leaves its thread count, instruction set or pool limit behind."""
    level, threads = _core.active_isa(), _core.num_threads_limit()
    limit = _core.memory_stats()["limit_bytes"]
    yield
    if _core.active_isa() != level:
        _core.set_isa(level)
    if _core.num_threads_limit() != threads:
        dlkernels.set_num_threads(threads)
    if _core.memory_stats()["limit_bytes"] != limit:
        _core.set_pool_limit(limit)
