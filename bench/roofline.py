"""The memory roofs of the machine, measured in the same run as everything else.

A kernel that only moves bytes cannot beat the memory, so its time is best read as a share of what
the memory can do. Clouds and laptops drift by tens of percent within minutes; the roofs are
therefore sampled between the cases, all through the run, and the median of all samples counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Name -> bytes the pass is credited with per float. An ordinary copy really moves 12 (the line it
# overwrites is read first); like every copy it is credited with the 8 its user asked for.
KINDS = {"read": 4, "in place": 8, "copy": 8, "nt copy": 8}

FLOATS = 64 * 1024 * 1024  # 256 MiB per buffer: far beyond any cache


class Roofline:
    """Measures the roofs, and remembers every sample.

    Each time with buffers of its own: on a virtual machine the same pass can be half as fast again
    in other memory, and what is measured against a roof does not lie in one place either.
    """

    def __init__(self) -> None:
        """Compiles the passes for exactly this processor."""
        compiler = shutil.which("g++")
        if compiler is None:
            raise RuntimeError("the roofline needs g++, which was not found")
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "roofline.so"
            # Without the last flag GCC turns the plain copy into memcpy, which may stream.
            subprocess.run(
                [
                    *(compiler, "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
                    "-fno-tree-loop-distribute-patterns",
                    *(str(Path(__file__).with_name("roofline.cpp")), "-o", str(library)),
                ],
                check=True,
            )
            self._library = ctypes.CDLL(str(library))
        self._library.roof_open.argtypes = [ctypes.c_int64]
        self._passes: dict[str, Callable[[], object]] = {
            kind: getattr(self._library, "roof_" + kind.replace(" ", "_")) for kind in KINDS
        }
        self.samples: dict[str, list[float]] = {kind: [] for kind in KINDS}

    @contextlib.contextmanager
    def _buffers(self) -> Iterator[None]:
        """Maps the buffers and warms them up, and gives them back."""
        if self._library.roof_open(FLOATS) != 0:
            raise MemoryError("no memory for the roofline's two buffers of 256 MiB")
        try:
            for one_pass in self._passes.values():
                one_pass()
            yield
        finally:
            self._library.roof_close()

    def measure(self, repeats: int) -> None:
        """Adds `repeats` samples of each roof, in GB/s, on cores that are awake."""
        with self._buffers():
            for _ in range(repeats):
                for kind, one_pass in self._passes.items():
                    start = time.perf_counter()
                    one_pass()
                    seconds = time.perf_counter() - start
                    self.samples[kind].append(KINDS[kind] * FLOATS / seconds / 1e9)

    def medians(self) -> dict[str, float]:
        """The roofs so far, in GB/s."""
        return {kind: statistics.median(values) for kind, values in self.samples.items()}
