"""Where results lie, what is read and written, what is kept and given back."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlkernels
import specs
from dlkernels import _core
from operation import Call, Operation
from support import (
    DTYPES,
    SIZES,
    Foreign,
    assert_same_bits,
    bits,
    fresh_like,
    guarded,
    in_one_test,
    on_every_isa,
    run_in_fork,
    run_python_json,
)

CASES = pytest.mark.parametrize(
    ("operation", "call"), [pytest.param(op, call, id=call.name) for op, call in specs.cases()]
)
CASES_WITH_OUT = pytest.mark.parametrize(
    ("operation", "call"),
    [pytest.param(op, call, id=call.name) for op, call in specs.cases() if call.out is not None],
)
MIB = 1 << 20


@pytest.fixture
def empty_pool() -> Iterator[None]:
    """A pool that keeps nothing yet, with room for 64 MiB."""
    gc.collect()
    _core.set_pool_limit(64 * MIB)
    dlkernels.empty_cache()
    yield
    gc.collect()
    dlkernels.empty_cache()


# --- not a byte too many


@pytest.mark.sampled(3)
@CASES
def test_nothing_outside_is_touched(operation: Operation, call: Call, isa: str) -> None:
    """Inputs, outputs and what is updated in place end (and begin) at an unreadable page."""

    def run(note: Callable[[str], None]) -> None:
        for dtype in DTYPES:
            for size in SIZES:
                # Every option on some sizes, every size with some option.
                options = operation.options[size % len(operation.options)]
                for shape in operation.shapes(size):
                    arrays = operation.arrays(shape, DTYPES[dtype], options)
                    copies = {
                        name: value.copy() if isinstance(value, np.ndarray) else value
                        for name, value in arrays.items()
                    }
                    expected = call.run(copies, options, None)
                    for edge in ("end", "start")[: 1 + (size % 4 != 0)]:
                        note(f"{call.name} {dtype} {shape} {dict(options)} {edge}")
                        fenced = {
                            name: guarded(value, edge) if isinstance(value, np.ndarray) else value
                            for name, value in arrays.items()
                        }
                        out = None
                        if call.out is not None:
                            out = guarded(fresh_like(np.asarray(expected[call.out])), edge)
                        results = call.run(fenced, options, out)
                        assert_same_bits(results, expected, f"{dtype} {shape} {edge}")

    run_in_fork(run, timeout=120)


@pytest.mark.parametrize("edge", ["end", "start"])
def test_the_guard_page_guards(edge: str) -> None:
    def run(note: Callable[[str], None]) -> None:
        array = guarded(np.zeros(10, np.float32), edge)
        note("inside")
        array.sum()
        beyond = array.ctypes.data + (array.nbytes if edge == "end" else -4)
        note("outside")
        ctypes.c_float.from_address(beyond).value = 1.0

    with pytest.raises(pytest.fail.Exception, match="SIGSEGV, at: outside"):
        run_in_fork(run)


@CASES_WITH_OUT
@in_one_test("dtype", DTYPES)
@on_every_isa
def test_what_lies_beside_out_is_left_alone(operation: Operation, call: Call, dtype: str) -> None:
    for size in (0, 1, 7, 16, 33, 1000):
        for shape in operation.shapes(size):
            arrays = operation.arrays(shape, DTYPES[dtype], operation.options[0])
            expected = np.asarray(call.run(arrays, operation.options[0], None)[call.out])
            for before in (1, 16):
                room = fresh_like(np.empty(expected.size + before + 40, DTYPES[dtype]))
                out = room[before : before + expected.size].reshape(expected.shape)
                result = call.run(arrays, operation.options[0], out)[call.out]
                assert result is out
                assert_same_bits(out, expected)
                outside = np.concatenate([room[:before], room[before + expected.size :]])
                assert (outside == 77).all()


@CASES
@on_every_isa
def test_inputs_are_only_read(operation: Operation, call: Call) -> None:
    for options in operation.options:
        arrays = operation.arrays(operation.shapes(1000)[0], DTYPES["float32"], options)
        before = {name: bits(value) for name, value in arrays.items()}
        for name, value in arrays.items():
            if name not in call.updates:
                value.flags.writeable = False
        call.run(arrays, options, None)
        for name, value in arrays.items():
            assert name in call.updates or bits(value) == before[name], name


# --- alignment, ownership


@CASES
def test_large_results_are_aligned(operation: Operation, call: Call) -> None:
    """Results in the pool's memory (1 MiB and more) start at a multiple of 64 bytes."""
    shape = (300_000,) if operation.elementwise else (4, 75_000)
    arrays = operation.arrays(shape, DTYPES["float32"], operation.options[0])
    for result in call.run(arrays, operation.options[0], None):
        if np.asarray(result).nbytes >= MIB and not call.updates:
            assert result.ctypes.data % 64 == 0
            assert result.flags.writeable
            assert result.flags.aligned


def test_results_of_other_arrays_are_aligned() -> None:
    for size in (1, 100, 300_000):
        assert dlkernels.relu(Foreign(np.ones(size, np.float32))).array.ctypes.data % 64 == 0


@CASES
def test_references_are_not_leaked(operation: Operation, call: Call) -> None:
    arrays = operation.arrays(operation.shapes(33)[0], DTYPES["float32"], operation.options[-1])
    options = operation.options[-1]
    call.run(arrays, options, None)
    before = {name: sys.getrefcount(value) for name, value in arrays.items()}
    nothing = sys.getrefcount(None)
    for _ in range(300):
        results = call.run(arrays, options, None)
    for result in results:
        if not any(result is value for value in arrays.values()):
            assert sys.getrefcount(result) <= 3  # `results`, `result`, the argument
    del results, result
    assert {name: sys.getrefcount(value) for name, value in arrays.items()} == before
    if sys.version_info < (3, 12):  # None is immortal from then on
        assert abs(sys.getrefcount(None) - nothing) < 100


def test_references_are_not_leaked_by_errors() -> None:
    logits = np.zeros((3, 5), np.float32)
    target, wrong = np.array([0, 1, 7]), np.zeros((3, 4), np.float32)
    arrays = (logits, target, wrong)
    before = [sys.getrefcount(array) for array in arrays]
    for _ in range(200):
        with pytest.raises(IndexError):
            dlkernels.cross_entropy_with_grad(logits, target)
        with pytest.raises(ValueError, match="out"):
            dlkernels.softmax(logits, out=wrong)
    gc.collect()
    assert [sys.getrefcount(array) for array in arrays] == before


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_memory_does_not_grow() -> None:
    """10^4 calls of everything: NumPy results, other arrays' results, large results and errors."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((16, 50)).astype(np.float32)
    target = rng.integers(0, 50, 16)
    foreign = Foreign(logits)
    param, grad = rng.standard_normal((2, 300)).astype(np.float32)
    optimizer = dlkernels.optim.SGD([param], lr=1e-6, momentum=0.9)
    large = np.zeros(MIB // 4 + 5, np.float32)
    weight = np.ones(50, np.float32)

    def run(count: int) -> None:
        for index in range(count):
            dlkernels.cross_entropy_with_grad(logits, target, return_lse=True, weight=weight)
            dlkernels.cross_entropy(logits.T[:, ::-1].T, target, reduction="none")
            dlkernels.softmax(foreign)
            dlkernels.relu(logits[:, ::2])
            optimizer.step([grad])
            if index % 50 == 0:
                dlkernels.relu(large)
                with pytest.raises(IndexError):
                    dlkernels.cross_entropy(logits, target + 50)

    run(300)
    gc.collect()
    before = _resident_bytes()
    run(10_000)
    gc.collect()
    # A leak of one 64-byte object a call would be 640 KB a line above.
    assert _resident_bytes() - before < 512 * 1024


# --- the pool


def test_the_pool_hands_the_same_memory_out_again(empty_pool: None) -> None:
    x = np.ones((1024, 1024), np.float32)
    start = dlkernels.memory_stats()
    assert start["idle_bytes"] == 0
    first = dlkernels.relu(x)
    address = first.ctypes.data
    during = dlkernels.memory_stats()
    assert during["misses"] == start["misses"] + 1
    assert during["hits"] == start["hits"]
    assert 4 * MIB <= during["in_use_bytes"] - start["in_use_bytes"] <= 4.5 * MIB
    assert during["peak_in_use_bytes"] >= during["in_use_bytes"]
    del first
    idle = dlkernels.memory_stats()
    assert idle["in_use_bytes"] == start["in_use_bytes"]
    assert 4 * MIB <= idle["idle_bytes"] <= 4.5 * MIB
    second = dlkernels.softmax(x)
    assert second.ctypes.data == address
    after = dlkernels.memory_stats()
    assert after["hits"] == start["hits"] + 1
    assert after["misses"] == during["misses"]
    assert after["idle_bytes"] == 0


def test_memory_is_kept_while_any_view_of_it_lives(empty_pool: None) -> None:
    in_use = dlkernels.memory_stats()["in_use_bytes"]
    result = dlkernels.relu(np.ones((1024, 512), np.float32))
    view = result[5:, ::3]
    del result
    assert dlkernels.memory_stats()["in_use_bytes"] > in_use
    other = dlkernels.relu(np.zeros((1024, 512), np.float32))
    assert (view == 1).all()
    assert not np.shares_memory(other, view)
    del view, other
    assert dlkernels.memory_stats()["in_use_bytes"] == in_use


def test_small_results_stay_out_of_the_pool(empty_pool: None) -> None:
    before = dlkernels.memory_stats()
    small = dlkernels.relu(np.ones(MIB // 4 - 1, np.float32))
    assert dlkernels.memory_stats() == before
    at_least = dlkernels.relu(np.ones(MIB // 4, np.float32))
    assert dlkernels.memory_stats()["misses"] == before["misses"] + 1
    del small, at_least


def test_empty_cache_gives_back_what_is_idle_alone(empty_pool: None) -> None:
    x = np.ones(MIB, np.float32)
    kept, dropped = dlkernels.relu(x), dlkernels.relu(x)
    del dropped
    before = dlkernels.memory_stats()
    assert before["idle_bytes"] > 0
    dlkernels.empty_cache()
    after = dlkernels.memory_stats()
    assert after["idle_bytes"] == 0
    assert after["released"] == before["released"] + 1
    assert after["in_use_bytes"] == before["in_use_bytes"] > 0
    assert (kept == 1).all()


def test_the_oldest_blocks_go_first(empty_pool: None) -> None:
    """Above the limit the block that was dropped longest ago is released."""
    _core.set_pool_limit(10 * MIB)
    assert dlkernels.memory_stats()["limit_bytes"] == 10 * MIB
    sizes = (2, 3, 4)  # MiB: three size classes
    results = [dlkernels.relu(np.ones(size * MIB // 4, np.float32)) for size in sizes]
    addresses = [result.ctypes.data for result in results]
    released = dlkernels.memory_stats()["released"]
    while results:
        results.pop(0)
    assert dlkernels.memory_stats()["idle_bytes"] == 9 * MIB
    results = [dlkernels.relu(np.ones(2 * MIB // 4, np.float32)) for _ in range(2)]
    assert results[0].ctypes.data == addresses[0]
    results.clear()  # 3, 4, 2, 2 MiB: the 3 goes
    stats = dlkernels.memory_stats()
    assert stats["idle_bytes"] == 8 * MIB
    assert stats["released"] == released + 1
    misses = stats["misses"]
    four = dlkernels.relu(np.ones(4 * MIB // 4, np.float32))
    assert four.ctypes.data == addresses[2]
    three = dlkernels.relu(np.ones(3 * MIB // 4, np.float32))
    assert dlkernels.memory_stats()["misses"] == misses + 1
    del three, four


def test_a_lower_limit_releases_at_once(empty_pool: None) -> None:
    results = [dlkernels.relu(np.ones(MIB, np.float32)) for _ in range(3)]
    results.clear()
    assert dlkernels.memory_stats()["idle_bytes"] == 12 * MIB
    _core.set_pool_limit(5 * MIB)
    assert dlkernels.memory_stats()["idle_bytes"] == 4 * MIB
    _core.set_pool_limit(0)
    assert dlkernels.memory_stats()["idle_bytes"] == 0
    dlkernels.relu(np.ones(MIB, np.float32))
    assert dlkernels.memory_stats()["idle_bytes"] == 0
    with pytest.raises(ValueError, match="at least 0"):
        _core.set_pool_limit(-1)


def test_idle_memory_never_exceeds_the_limit(empty_pool: None) -> None:
    _core.set_pool_limit(16 * MIB)
    rng = np.random.default_rng(0)
    held: list[Any] = []
    for _ in range(200):
        if held and rng.random() < 0.5:
            held.pop(int(rng.integers(len(held))))
        else:
            held.append(dlkernels.relu(np.zeros(int(rng.integers(MIB // 4, 2 * MIB)), np.float32)))
            del held[:-6]
        stats = dlkernels.memory_stats()
        assert 0 <= stats["idle_bytes"] <= 16 * MIB
    held.clear()


def test_results_may_be_dropped_by_another_thread(empty_pool: None) -> None:
    in_use = dlkernels.memory_stats()["in_use_bytes"]
    results = [dlkernels.relu(np.ones(MIB, np.float32)) for _ in range(2)]
    thread = threading.Thread(target=results.clear)
    thread.start()
    thread.join()
    assert dlkernels.memory_stats()["in_use_bytes"] == in_use
    assert dlkernels.memory_stats()["idle_bytes"] == 8 * MIB


def test_results_of_other_arrays_come_from_the_pool(empty_pool: None) -> None:
    in_use = dlkernels.memory_stats()["in_use_bytes"]
    result = dlkernels.relu(Foreign(np.ones(MIB, np.float32)))
    assert dlkernels.memory_stats()["in_use_bytes"] == in_use + 4 * MIB
    del result
    gc.collect()
    assert dlkernels.memory_stats()["in_use_bytes"] == in_use
    assert dlkernels.memory_stats()["idle_bytes"] == 4 * MIB


# --- page faults, cache


def test_page_faults_at_steady_state() -> None:
    """A step with outputs of 64 MiB touches no fresh memory: NumPy's own way costs 16384 faults."""
    code = """
import json, resource
import numpy as np
import dlkernels

logits = np.random.default_rng(0).standard_normal((2048, 8192), dtype=np.float32)
target = np.arange(2048)
param, grad = np.zeros((2, 2**20), np.float32)
optimizer = dlkernels.optim.SGD([param], momentum=0.9)

def step():
    loss, grad_logits = dlkernels.cross_entropy_with_grad(logits, target)
    dlkernels.relu(logits)
    optimizer.step([grad])

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    step()
before = faults()
for _ in range(5):
    step()
print(json.dumps((faults() - before) / 5))
"""
    assert run_python_json(code) < 100


_NONTEMPORAL = """
import json, zlib
import numpy as np
import dlkernels, specs
from dlkernels import _core
from support import DTYPES, bits, isa_level, shifted

sums = {}
for level in _core.supported_isas():
    with isa_level(level):
        for operation, call in specs.cases():
            for dtype in DTYPES:
                for shape in [(5, 1003), (4, 3, 517), (7, 64), (5015,)]:
                    if operation.elementwise != (len(shape) == 1):
                        continue
                    for options in operation.options[-2:]:
                        arrays = operation.arrays(shape, DTYPES[dtype], options)
                        out = None
                        for offset in (0, 1, 7):
                            moved = {k: shifted(v, offset) for k, v in arrays.items()}
                            if call.out is not None:
                                if out is None:
                                    out = np.asarray(call.run(moved, options, None)[call.out])
                                out = shifted(out, (offset * 5) % 16)
                            results = call.run(moved, options, out)
                            key = f"{level} {call.name} {dtype} {shape} {options} {offset}"
                            sums[key] = zlib.crc32(b"".join(bits(r) for r in results))
print(json.dumps({"cache": _core.last_level_cache_bytes(), "sums": sums}))
"""


def test_stores_past_the_cache_write_the_same_bits() -> None:
    """Outputs larger than the cache are streamed: with one of 1 KiB that is every output here."""
    plain = run_python_json(_NONTEMPORAL, DLKERNELS_CACHE_BYTES="1G")
    streamed = run_python_json(_NONTEMPORAL, DLKERNELS_CACHE_BYTES="1K")
    assert plain["cache"] == 1 << 30
    assert streamed["cache"] == 1024
    different = [key for key, value in plain["sums"].items() if streamed["sums"][key] != value]
    assert len(plain["sums"]) > 500
    assert not different, f"{len(different)} differ, such as {different[:3]}"


# --- the floating-point environment


def test_the_floating_point_environment_is_left_alone(isa: str) -> None:
    """Rounding mode, flags that flush subnormals to zero: as they were, in this thread."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    rounding = libm.fegetround()
    environment, after = (ctypes.create_string_buffer(64) for _ in range(2))
    libm.fegetenv(environment)
    for operation, call in specs.cases():
        shape = (40_000,) if operation.elementwise else (10, 4099)
        arrays = operation.arrays(shape, DTYPES["float32"], operation.options[-1])
        call.run(arrays, operation.options[-1], None)
    assert libm.fegetround() == rounding
    libm.fegetenv(after)
    # glibc's fenv_t on x86-64 ends with MXCSR; its low six bits say what happened, and may change.
    control, control_after = (
        int.from_bytes(buffer[28:32], "little") & ~0x3F for buffer in (environment, after)
    )
    assert control == control_after
    smallest = np.array([np.finfo(np.float32).smallest_subnormal])
    assert (smallest * np.float32(1) > 0).all()
    assert dlkernels.relu(smallest)[0] > 0
