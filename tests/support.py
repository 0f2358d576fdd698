"""What the tests share: units in the last place, arrays at the edge of memory, child processes."""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import inspect
import json
import mmap
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import pytest

from dlkernels import _core

ROOT = Path(__file__).resolve().parents[1]

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
HALF = ("bfloat16", "float16")

#: Around every vector width and its multiples, and a few that are longer.
SIZES = (0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 127, 128, 129, 1000, 4099)

ISAS = tuple(_core.supported_isas())
#: The levels with a fused multiply-add, which give the same bits.
FMA_ISAS = tuple(level for level in ISAS if level != "baseline")

needs_two_fma_isas = pytest.mark.skipif(
    len(FMA_ISAS) < 2, reason=f"needs AVX2 and AVX-512; this processor has {', '.join(ISAS)}"
)

_MANTISSA_BITS = {"float32": 23, "float64": 52, "bfloat16": 7, "float16": 10}
_MINIMUM_EXPONENT = {"float32": -126, "float64": -1022, "bfloat16": -126, "float16": -14}


# --- numbers


def eps(dtype: str) -> float:
    """The distance from 1 to the next number."""
    return 2.0 ** -_MANTISSA_BITS[dtype]


def smallest_normal(dtype: str) -> float:
    """The smallest number with a full mantissa."""
    return 2.0 ** _MINIMUM_EXPONENT[dtype]


def compute_dtype(dtype: str) -> str:
    """What a kernel computes a storage type in."""
    return "float64" if dtype == "float64" else "float32"


def wide_dtype(dtype: str) -> type:
    """What a reference computes in: wider than the kernel."""
    return np.longdouble if dtype == "float64" else np.float64


def ulp(x: Any, dtype: str) -> np.ndarray:
    """The unit in the last place of `dtype` at every magnitude in `x`."""
    x = np.asarray(x)
    _, exponent = np.frexp(np.where(np.isfinite(x), x, 0))
    lowest = _MINIMUM_EXPONENT[dtype]
    exponent = np.where(x == 0, lowest, np.maximum(exponent - 1, lowest))
    return np.ldexp(
        x.dtype.type(1) if x.dtype == np.longdouble else 1.0, exponent - _MANTISSA_BITS[dtype]
    )


def overflow_threshold(dtype: str) -> np.longdouble:
    """Magnitudes from here on round to infinity."""
    exponent = {"float32": 127, "float64": 1023, "bfloat16": 127, "float16": 15}[dtype]
    return np.ldexp(np.longdouble(2) - np.longdouble(eps(dtype)) / 2, exponent)


def ulp_error(actual: Any, expected: Any, dtype: str) -> np.ndarray:
    """|actual - expected| in units in the last place; specials are 0 where equal, else inf."""
    expected = np.asarray(expected)
    actual = np.asarray(actual).astype(expected.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(actual - expected) / ulp(expected, dtype)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    # One that rounds to infinity, or would with the next error.
    beyond = np.abs(expected.astype(np.longdouble)) >= overflow_threshold(dtype) * (1 - eps(dtype))
    same |= beyond & np.isinf(actual) & (np.sign(actual) == np.sign(expected))
    return np.where(same, 0, np.where(np.isfinite(error), error, np.inf)).astype(np.float64)


def bits(x: Any) -> bytes:
    """The bytes of an array, for comparing every bit (NaN and the sign of zero too)."""
    return np.ascontiguousarray(x).tobytes()


def assert_same_bits(actual: Any, expected: Any, label: str = "") -> None:
    """Both are one array, or tuples of arrays, of the same shapes, dtypes and bits."""
    actual = actual if isinstance(actual, tuple) else (actual,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(actual) == len(expected)
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype, f"{label} result {index}"
        assert a.shape == b.shape, f"{label} result {index}"
        if bits(a) != bits(b):
            unsigned = f"u{a.dtype.itemsize}"
            differ = np.flatnonzero(
                np.ascontiguousarray(a).reshape(-1).view(unsigned)
                != np.ascontiguousarray(b).reshape(-1).view(unsigned)
            )
            first = int(differ[0])
            pytest.fail(
                f"{label} result {index}: {differ.size} of {a.size} elements differ in their bits, "
                f"the first at {first}: {a.reshape(-1)[first]!r} and {b.reshape(-1)[first]!r}"
            )


# --- random numbers


def philox(key: int, counter: tuple[Any, Any, Any, Any]) -> list[np.ndarray]:
    """The four words of Philox 4x32-10's blocks, as its authors define it, of arrays of words."""
    low, high = key & 0xFFFFFFFF, key >> 32
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a = (second >> half) ^ b ^ np.uint64(low)
        c = (first >> half) ^ d ^ np.uint64(high)
        b, d = second & mask, first & mask
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]


def dropout_numbers(seed: int, size: int) -> np.ndarray:
    """The numbers of 16 bits that decide which of `size` elements a dropout keeps."""
    block = np.arange(-(-size // 8), dtype=np.uint64)
    zero = np.zeros_like(block)
    words = philox(
        seed % 2**64, (block & np.uint64(0xFFFFFFFF), block >> np.uint64(32), zero, zero)
    )
    halves = [part for word in words for part in (word & np.uint64(0xFFFF), word >> np.uint64(16))]
    return np.stack(halves, axis=-1).reshape(-1)[:size]


def dropout_mask(seed: int, p: float, shape: tuple[int, ...]) -> np.ndarray:
    """Which elements a dropout keeps."""
    numbers = dropout_numbers(seed, int(np.prod(shape, dtype=np.int64)))
    return (numbers < round((1 - p) * 65536)).reshape(shape)


# --- arrays in special places

_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(array: np.ndarray, edge: str = "end") -> np.ndarray:
    """A copy whose last byte is the last before an unreadable page (`edge="start"`: whose first is
    the first after one). It is aligned to its element alone."""
    array = np.asarray(array)
    pages = max(1, -(-array.nbytes // _PAGE))
    memory = mmap.mmap(-1, (pages + 2) * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (0, pages + 1):
        if _libc.mprotect(address + page * _PAGE, _PAGE, 0) != 0:  # PROT_NONE
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = (pages + 1) * _PAGE - array.nbytes if edge == "end" else _PAGE
    copy = np.ndarray(array.shape, array.dtype, buffer=memory, offset=offset)
    copy[...] = array
    return copy


def shifted(array: np.ndarray, elements: int) -> np.ndarray:
    """A copy that starts `elements` elements past a 64-byte boundary."""
    array = np.asarray(array)
    item = array.dtype.itemsize
    room = np.empty(array.size * item + 128 + elements * item, np.uint8)
    start = -room.ctypes.data % 64 + elements * item
    copy = room[start : start + array.size * item].view(array.dtype).reshape(array.shape)
    copy[...] = array
    assert array.size == 0 or copy.ctypes.data % 64 == elements * item % 64
    return copy


def fresh_like(array: np.ndarray) -> np.ndarray:
    """An array of the same shape filled with what no result should hold."""
    return np.full(array.shape, 77, array.dtype)


class Foreign:
    """An array of another library: nothing but DLPack around NumPy memory."""

    def __init__(self, array: np.ndarray, *, old: bool = False) -> None:
        self.array = array
        self.old = old  # from before the keyword arguments of __dlpack__

    def __dlpack__(self, **keywords: Any) -> Any:
        if self.old:
            if keywords:
                raise TypeError("__dlpack__() takes no keyword arguments")
            return self.array.__dlpack__()
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __array_namespace__(self, api_version: str | None = None) -> type[ForeignNamespace]:
        return ForeignNamespace


class ForeignNamespace:
    """The module such an array belongs to."""

    @staticmethod
    def from_dlpack(value: Any) -> Foreign:
        return Foreign(np.from_dlpack(value))


# --- the process


@contextmanager
def isa_level(level: str) -> Iterator[None]:
    """Runs a block on one instruction set."""
    before = _core.active_isa()
    _core.set_isa(level)
    try:
        yield
    finally:
        _core.set_isa(before)


def run_in_fork(function: Callable[[Callable[[str], None]], None], timeout: float = 120.0) -> None:
    """Runs `function(note)` in a forked child and fails, with its last note, unless it ends well.

    `note` says where it is, for the case that the child is killed by a signal.
    """
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
        child = os.fork()
    if child == 0:
        _run_as_child(function, read_end, write_end)
    os.close(write_end)
    deadline = time.monotonic() + timeout
    status = None
    os.set_blocking(read_end, False)
    output = b""
    while status is None and time.monotonic() < deadline:
        output += _read_available(read_end)
        found, code = os.waitpid(child, os.WNOHANG)
        if found:
            status = code
        else:
            time.sleep(0.005)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    output += _read_available(read_end)
    os.close(read_end)
    notes = output.decode(errors="replace").splitlines()
    last = "\n".join(notes[-12:])
    if status is None:
        pytest.fail(f"the forked child was still running after {timeout:g} s, at: {last}")
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        pytest.fail(f"the forked child was killed by {name}, at: {notes[-1] if notes else ''}")
    if os.WEXITSTATUS(status) != 0:
        pytest.fail(f"the forked child failed: {last}")


def _run_as_child(function: Callable[..., None], read_end: int, write_end: int) -> NoReturn:
    code = 1
    try:
        os.close(read_end)
        faulthandler.disable()  # the note says where
        function(lambda text: os.write(write_end, text.encode() + b"\n"))
        code = 0
    except BaseException:
        os.write(write_end, traceback.format_exc()[-4000:].encode())
    finally:
        os._exit(code)


def _read_available(descriptor: int) -> bytes:
    output = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except BlockingIOError:
            return output
        if not part:
            return output
        output += part


def run_python(
    code: str, *, timeout: float = 120, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a new interpreter whose DLKERNELS_* variables are `environment` alone."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DLKERNELS_")}
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), *sys.path])
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check and result.returncode != 0:
        pytest.fail(f"the child ended with {result.returncode}: {result.stderr[-3000:]}")
    return result


def run_python_json(code: str, **keywords: Any) -> Any:
    """The JSON that `code` prints."""
    return json.loads(run_python(code, **keywords).stdout)


def in_one_test(name: str, values: Iterable[Any]) -> Callable[[Callable[..., None]], Any]:
    """Like `pytest.mark.parametrize`, but one test goes over all values: where there is so little
    to do that a test for each would take several times as long."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)

        @functools.wraps(test)
        def over_all(**arguments: Any) -> None:
            for value in values:
                try:
                    test(**arguments, **{name: value})
                except BaseException:
                    print(f"with {name} = {value!r}")  # which pytest shows of a failed test
                    raise

        others = [p for key, p in signature.parameters.items() if key != name]
        over_all.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return over_all

    return decorate


def on_every_isa(test: Callable[..., None]) -> Any:
    """One test goes over the instruction sets (the fixture `isa` makes a test of each)."""

    takes_it = "isa" in inspect.signature(test).parameters

    @in_one_test("isa", ISAS)
    @functools.wraps(test)
    def on_isa(isa: str, **arguments: Any) -> None:
        with isa_level(isa):
            test(**arguments, **({"isa": isa} if takes_it else {}))

    return on_isa


#: A test of many samples that takes long for each: a fixture-like argument `some`, which picks a
#: few of them, and in the slow tests all.
SOME_OR_ALL = pytest.mark.parametrize(
    "some",
    [
        pytest.param(lambda samples, every: list(samples)[::every], id="some"),
        pytest.param(lambda samples, every: list(samples), id="all", marks=pytest.mark.slow),
    ],
)
