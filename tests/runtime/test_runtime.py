"""Threads, processes, environment variables, the command line."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import threadpoolctl

import dlkernels
import specs
from dlkernels import _core
from operation import Call
from support import (
    ISAS,
    assert_same_bits,
    bits,
    isa_level,
    run_in_fork,
    run_python,
    run_python_json,
)

MIB = 1 << 20


def _workload() -> tuple[Any, ...]:
    """Something of everything, above the grain and with memory of the pool."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((300, 1003)).astype(np.float32)
    target = rng.integers(0, 1003, 300)
    results = dlkernels.cross_entropy_with_grad(logits, target, return_lse=True)
    param, grad = rng.standard_normal((2, 100_000))
    optimizer = dlkernels.optim.SGD([param], momentum=0.9)
    optimizer.step([grad])
    optimizer.step([grad])
    planes = dlkernels.softmax(logits.reshape(3, 100, 1003), 1)
    return (*results, dlkernels.relu(logits), planes, param)


# --- numbers of threads


def test_set_num_threads() -> None:
    for count in (1, 2, 5):
        dlkernels.set_num_threads(count)
        assert dlkernels.get_num_threads() == count
    dlkernels.set_num_threads(0)
    assert dlkernels.get_num_threads() >= 1
    for wrong in (-1, -100):
        with pytest.raises(ValueError, match="set_num_threads: count: expected at least 0"):
            dlkernels.set_num_threads(wrong)


def test_num_threads_context() -> None:
    dlkernels.set_num_threads(3)
    with dlkernels.num_threads(2):
        assert dlkernels.get_num_threads() == 2
        with dlkernels.num_threads(5):
            assert dlkernels.get_num_threads() == 5
        assert dlkernels.get_num_threads() == 2
    assert dlkernels.get_num_threads() == 3
    with pytest.raises(KeyError), dlkernels.num_threads(1):
        raise KeyError
    assert dlkernels.get_num_threads() == 3
    with pytest.raises(ValueError, match="at least 0"), dlkernels.num_threads(-2):
        pass
    assert dlkernels.get_num_threads() == 3


def test_the_context_is_its_threads_own() -> None:
    """Another thread's limit stays what it was, while set_num_threads holds for threads to come."""
    seen: list[int] = []

    def note() -> None:
        seen.append(dlkernels.get_num_threads())

    def in_a_thread() -> int:
        thread = threading.Thread(target=note)
        thread.start()
        thread.join()
        return seen.pop()

    dlkernels.set_num_threads(4)
    with dlkernels.num_threads(2):
        assert in_a_thread() == 4
    dlkernels.set_num_threads(3)
    assert in_a_thread() == 3


def test_openmp_limits_are_honoured() -> None:
    """threadpoolctl finds the OpenMP runtime in use, and its limit is ours."""
    dlkernels.set_num_threads(0)
    libraries = [
        entry for entry in threadpoolctl.threadpool_info() if entry["user_api"] == "openmp"
    ]
    assert libraries
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert dlkernels.get_num_threads() == 1
        limited = _workload()
    with threadpoolctl.threadpool_limits(3, user_api="openmp"):
        assert dlkernels.get_num_threads() == 3
    assert_same_bits(_workload(), limited)


# --- environment variables

_STATE = """
import json, dlkernels
from dlkernels import _core
print(json.dumps({
    "threads": dlkernels.get_num_threads(), "limit": _core.num_threads_limit(),
    "isa": dlkernels.active_isa(), "reason": _core.isa_reason(),
    "pool": dlkernels.memory_stats()["limit_bytes"], "cache": _core.last_level_cache_bytes(),
}))
"""


def test_defaults() -> None:
    state = run_python_json(_STATE, OMP_NUM_THREADS="3")
    assert state["threads"] == 3
    assert state["limit"] == 0
    assert state["isa"] == ISAS[-1]
    assert state["reason"] == "best supported"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    assert 0 < state["pool"] <= memory / 4
    assert 256 * 1024 <= state["cache"] <= min(1 << 30, 16 * MIB * (os.cpu_count() or 1))


def test_environment_num_threads() -> None:
    state = run_python_json(_STATE, DLKERNELS_NUM_THREADS="5", OMP_NUM_THREADS="2")
    assert state["threads"] == state["limit"] == 5


@pytest.mark.parametrize("level", ISAS)
def test_environment_isa(level: str) -> None:
    state = run_python_json(_STATE, DLKERNELS_ISA=level)
    assert state["isa"] == level
    assert state["reason"] == "DLKERNELS_ISA"


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("12345", 12345), ("3K", 3072), ("512M", 512 * MIB), ("2g", 2048 * MIB)],
)
def test_environment_bytes(text: str, size: int) -> None:
    state = run_python_json(_STATE, DLKERNELS_POOL_LIMIT=text, DLKERNELS_CACHE_BYTES=text)
    assert state["pool"] == state["cache"] == size


def test_empty_environment_variables_count_as_unset() -> None:
    names = ("NUM_THREADS", "ISA", "POOL_LIMIT", "CACHE_BYTES")
    state = run_python_json(_STATE, **{f"DLKERNELS_{name}": "" for name in names})
    assert state["reason"] == "best supported"
    assert state["limit"] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUM_THREADS", "0"),
        ("NUM_THREADS", "-1"),
        ("NUM_THREADS", "two"),
        ("NUM_THREADS", "2.5"),
        ("ISA", "sse9"),
        ("ISA", "AVX2 "),
        ("POOL_LIMIT", "-5"),
        ("POOL_LIMIT", "many"),
        ("POOL_LIMIT", "5T"),
        ("POOL_LIMIT", "99999999999G"),
        ("CACHE_BYTES", "1MB"),
    ],
)
def test_environment_values_that_make_no_sense(name: str, value: str) -> None:
    """An ImportError that names the variable and what was in it."""
    name = f"DLKERNELS_{name}"
    result = run_python("import dlkernels", check=False, **{name: value})
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: {name}: ")
    assert value in last
    if name == "DLKERNELS_ISA":
        assert last.endswith(f"valid here: {', '.join(ISAS)}")


def test_an_unsupported_level_is_refused() -> None:
    missing = [level for level in _core.compiled_isas() if level not in ISAS]
    if not missing:
        pytest.skip("this processor supports every level that is compiled in")
    for level in missing:
        result = run_python("import dlkernels", check=False, DLKERNELS_ISA=level)
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: DLKERNELS_ISA: ")
        assert f'"{level}" is not supported' in last
        assert last.endswith(f"valid here: {', '.join(ISAS)}")
        with pytest.raises(ValueError, match="is not supported"):
            dlkernels.set_isa(level)


def test_set_isa() -> None:
    before = dlkernels.active_isa()
    for level in ISAS:
        dlkernels.set_isa(level)
        assert dlkernels.active_isa() == level
        assert _core.isa_reason() == "set_isa"
    for wrong in ("", "sse2", "avx1024"):
        with pytest.raises(ValueError, match=rf"unknown level .*valid here: {', '.join(ISAS)}"):
            dlkernels.set_isa(wrong)
    dlkernels.set_isa(before)


def test_torch_is_not_imported() -> None:
    code = """
import sys, dlkernels, dlkernels.__main__
dlkernels.relu([1.0])
print([name for name in sys.modules if name.split(".")[0] == "torch"])
"""
    assert run_python(code).stdout.strip() == "[]"


def test_without_openmp_the_import_says_what_to_install() -> None:
    code = """
import ctypes, importlib.util
real = ctypes.CDLL
def missing(name, *rest, **keywords):
    if name and "gomp" in str(name):
        raise OSError("no such file")
    return real(name, *rest, **keywords)
ctypes.CDLL = missing
import dlkernels
"""
    result = run_python(code, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: dlkernels needs the OpenMP library libgomp.so.1")
    assert "apt install libgomp1" in last


# --- the command line


def test_command_line_json() -> None:
    code = """
import runpy, sys
sys.argv[1:] = ["--json"]
runpy.run_module("dlkernels", run_name="__main__")
"""
    found = run_python_json(code, DLKERNELS_NUM_THREADS="2")
    assert found["dlkernels"] == dlkernels.__version__
    assert found["isa_active"] == ISAS[-1]
    assert found["isa_supported"] == list(ISAS)
    assert found["isa_compiled"] == _core.compiled_isas()
    assert found["threads"] == found["threads_limit"] == 2
    assert found["environment"]["DLKERNELS_NUM_THREADS"] == "2"
    assert found["numpy"] == np.__version__
    assert found["compiler"]
    assert len(found["openmp_loaded"]) == 1
    assert os.path.exists(found["openmp_loaded"][0])
    assert found["pool_limit_bytes"] > 0
    assert "torch" in found


def test_command_line_text() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "dlkernels"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    for word in (
        dlkernels.__version__,
        "instruction set",
        "OpenMP",
        "libgomp",
        "pool limit",
        "NumPy",
    ):
        assert word in result.stdout
    assert not result.stderr


# --- children


def _check_in_child(expected: tuple[bytes, ...]) -> None:
    assert _core.in_forked_child()
    assert dlkernels.get_num_threads() == 1
    for _ in range(3):  # the pool of results too
        assert tuple(bits(result) for result in _workload()) == expected
    before = dlkernels.memory_stats()
    large = dlkernels.relu(np.ones(2 * MIB, np.float32))
    address = large.ctypes.data
    del large
    assert dlkernels.relu(np.ones(2 * MIB, np.float32)).ctypes.data == address
    assert dlkernels.memory_stats()["hits"] > before["hits"]
    dlkernels.empty_cache()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_fork_after_parallel_work(threads: int) -> None:
    """OpenMP's threads are not there in the child: it must neither wait for them nor crash."""
    with dlkernels.num_threads(threads):
        expected = tuple(bits(result) for result in _workload())

        def run(note: Callable[[str], None]) -> None:
            note("computing")
            _check_in_child(expected)
            note("forking again")
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    _check_in_child(expected)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0

        run_in_fork(run, timeout=120)
        assert not _core.in_forked_child()
        assert dlkernels.get_num_threads() == threads
        assert tuple(bits(result) for result in _workload()) == expected


def test_fork_while_other_threads_work() -> None:
    """The pool's lock is never left locked in the child."""
    stop = threading.Event()
    x = np.ones(MIB // 2, np.float32)

    def work() -> None:
        while not stop.is_set():
            dlkernels.relu(x)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(10):
            run_in_fork(lambda note: dlkernels.empty_cache() or bits(dlkernels.relu(x)))
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def _in_multiprocessing_child(seed: int) -> float:
    logits = np.random.default_rng(seed).standard_normal((200, 1000)).astype(np.float32)
    return float(dlkernels.cross_entropy(logits, np.arange(200)))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_multiprocessing_fork() -> None:
    expected = [_in_multiprocessing_child(seed) for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_in_multiprocessing_child, range(4)).get(timeout=120) == expected


def test_results_made_before_a_fork_outlive_it() -> None:
    result = dlkernels.relu(np.full(MIB, 3, np.float32))

    def run(note: Callable[[str], None]) -> None:
        nonlocal result
        assert (result == 3).all()
        result = None  # its memory goes to the child's pool
        assert (dlkernels.relu(np.full(MIB, 5, np.float32)) == 5).all()

    run_in_fork(run)
    assert (result == 3).all()


# --- Python threads


@pytest.mark.parametrize("own_arrays", [False, True], ids=["shared arrays", "own arrays"])
def test_eight_threads_at_once(own_arrays: bool) -> None:
    """From eight threads, each with a limit of its own, on small and large arrays."""
    samples = []
    for operation, call in specs.cases():
        for shape in (operation.shapes(65)[0], (70_001,) if operation.elementwise else (33, 4099)):
            options = operation.options[-1]
            samples.append((call, options, operation.arrays(shape, np.dtype(np.float32), options)))

    def copies(call: Call, arrays: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.copy() if own_arrays or name in call.updates else value
            for name, value in arrays.items()
        }

    expected = [call.run(copies(call, arrays), options, None) for call, options, arrays in samples]
    failures: list[str] = []
    barrier = threading.Barrier(8, timeout=120)

    def work(number: int) -> None:
        try:
            barrier.wait()
            with dlkernels.num_threads(1 + number % 4):
                for turn in range(3):
                    for index in range(len(samples)):
                        call, options, arrays = samples[(index + number) % len(samples)]
                        results = call.run(copies(call, arrays), options, None)
                        assert_same_bits(results, expected[(index + number) % len(samples)])
                        if turn == number % 3 and index == number:
                            dlkernels.empty_cache()
        except BaseException as error:
            failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures, failures[0]


def test_the_level_may_change_while_threads_work() -> None:
    x = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
    expected = bits(dlkernels.relu(x))
    stop, wrong = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            if bits(dlkernels.relu(x)) != expected:
                wrong.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(50):
        for level in ISAS:
            with isa_level(level):
                pass
    stop.set()
    thread.join()
    assert not wrong


# --- the end of the process

_DAEMONS = """
import threading, time
import numpy as np
import dlkernels
x = np.ones({size}, np.float32)
out = np.empty_like(x)
started = threading.Barrier(3)
def work():
    dlkernels.gelu(x, out=out)
    started.wait()
    while True:
        dlkernels.gelu(x, out=out)
        dlkernels.softmax(x)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
started.wait()
time.sleep(0.05)
"""


@pytest.mark.parametrize("size", [20_000, 1_000_000])
def test_daemon_threads_do_not_keep_the_process_from_ending_well(size: int) -> None:
    """Python ends them where they ask for the GIL: on their way out of an operation."""
    for _ in range(2):
        result = run_python(_DAEMONS.format(size=size))
        assert result.stderr == ""


_NO_ROOM = """
import os, resource
import numpy as np
import dlkernels
x = np.ones(1_000_000, np.float32)
out, large = np.empty_like(x), np.ones(50_000_000, np.float32)
def threads():
    return len(os.listdir("/proc/self/task")) - others
others = 0
others = threads() - 1
def limit(room):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    room = resource.RLIM_INFINITY if room is None else used + room
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
limit({room})
dlkernels.gelu(x, out=out)
print(threads())
try:
    dlkernels.gelu(large)
except MemoryError:
    print("MemoryError")
limit(None)
with dlkernels.num_threads(1):
    assert (out == dlkernels.gelu(x)).all()
dlkernels.gelu(x)
print(threads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="about Linux's limits")
@pytest.mark.parametrize(("room", "threads"), [(2, "1"), (13, "1"), (150, "4")])
def test_without_room_for_threads_operations_run_on_one(room: int, threads: str) -> None:
    """libgomp would end the process."""
    source = _NO_ROOM.format(room=room * 2**20)
    result = run_python(source, OMP_NUM_THREADS="4")
    assert result.stdout.split() == [threads, "MemoryError", "4"]


# --- the C library

_MALLOC = """
import json, resource
import numpy as np
import dlkernels

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.empty(64 * 2**20, np.uint8)[::4096] = 1
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 4

found = {"before": faults(), "enabled": dlkernels.tune_malloc()}
faults()
found["during"] = faults()
found["disabled"] = dlkernels.tune_malloc(False)
found["after"] = faults()
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc")
def test_tune_malloc() -> None:
    found = run_python_json(_MALLOC)
    assert found["enabled"] is found["disabled"] is True
    assert found["before"] > 20, "this machine's malloc keeps its memory by itself"
    assert found["during"] < 0.1 * found["before"]
    assert found["after"] > 0.5 * found["before"]


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_an_old_libgomp_is_enough() -> None:
    """Nothing newer than OpenMP 4.5's symbols, so that torch's libgomp can serve us."""
    text = subprocess.run(
        ["objdump", "-T", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    versions = {
        tuple(map(int, found)) for found in re.findall(r"\b(?:GOMP|OMP)_(\d+)\.(\d+)\)", text)
    }
    assert versions
    assert max(versions) <= (4, 5), versions
    needed = subprocess.run(
        ["objdump", "-p", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert "libgomp.so.1" in needed


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="Python has its GIL")
def test_the_gil_stays_off() -> None:
    code = "import sys, dlkernels; assert not sys._is_gil_enabled()"
    run_python(code)
