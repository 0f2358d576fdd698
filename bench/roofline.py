"""What the memory of a case can do: the same bytes moved over the same memory, nothing computed.

On a virtual machine the same pass can be half as fast again in other memory, and clouds and laptops
drift by tens of percent within minutes. So a case's roof is not a figure of the machine: it is
sampled in every round, over the very buffers that our call has just used.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

# A tensor or array, and what happens to its bytes; updated is read and written.
Access = tuple[Literal["read", "write", "update"], Any]
# Memory that is gone through side by side, once.
Pass = Sequence[Access]

_KINDS = {"read": 0, "write": 1, "update": 2}


def reads(*arrays: Any) -> list[Access]:
    """Arrays that are only read."""
    return [("read", array) for array in arrays]


def writes(*arrays: Any) -> list[Access]:
    """Arrays whose old contents do not matter."""
    return [("write", array) for array in arrays]


def updates(*arrays: Any) -> list[Access]:
    """Arrays that are read and written back."""
    return [("update", array) for array in arrays]


def bytes_moved(passes: Sequence[Pass]) -> int:
    """The bytes that passes read and write."""
    return sum(
        int(array.nbytes) * (2 if kind == "update" else 1)
        for one_pass in passes
        for kind, array in one_pass
    )


class _Stretch(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("bytes", ctypes.c_int64), ("kind", ctypes.c_int64))


class Roof:
    """Moves bytes as fast as this processor can."""

    def __init__(self) -> None:
        """Compiles the pass for exactly this processor."""
        compiler = shutil.which("g++")
        if compiler is None:
            raise RuntimeError("the roofs need g++, which was not found")
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "roofline.so"
            subprocess.run(
                [
                    *(compiler, "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
                    *(str(Path(__file__).with_name("roofline.cpp")), "-o", str(library)),
                ],
                check=True,
            )
            self._library = ctypes.CDLL(str(library))

    def seconds(self, passes: Sequence[Pass]) -> float:
        """Runs the passes one after the other. What is only read or updated keeps its contents."""
        calls = []
        for one_pass in passes:
            stretches = (_Stretch * len(one_pass))(
                *(_Stretch(_address(array), array.nbytes, _KINDS[kind]) for kind, array in one_pass)
            )
            calls.append((stretches, ctypes.c_int64(len(stretches))))
        start = time.perf_counter()
        for arguments in calls:
            self._library.roof_pass(*arguments)
        return time.perf_counter() - start


def _address(array: Any) -> int:
    """Where a torch tensor or a NumPy array lies; its memory has no gaps."""
    return int(array.data_ptr() if hasattr(array, "data_ptr") else array.ctypes.data)
