"""Every peer: one module for each library, found by its being here.

What keeps the comparison fair:

- The same inputs for everybody, made from the same seed, and dense random output gradients.
- A peer that needs other allocator settings, or brings its own thread pool, runs in a child
  process that obeys one-line commands, so that its samples still fall between ours in time (A, B,
  A, B, ...) and only one of them ever runs. One fresh child per case, so that no peer pays for the
  heap another case left behind.
- After a sample its process sleeps before anyone else starts. OpenMP's worker threads spin for some
  milliseconds after a parallel region (8 measured here), waiting for the next; with as many threads
  as cores they would eat the next peer's time. Setting GOMP_SPINCOUNT instead would change how
  everybody runs; sleeping changes nothing but the benchmark's length.
- A sample begins with a call that is not timed. A core that slept through the other peers' samples
  wakes slowly (a 10 ms call took 15 after 200 ms of sleep), which is the benchmark's doing: in a
  training step the cores are awake.
- A peer gives back its result and its gradients inside its own time, as a training step does.
  Given back later, they would be charged to nobody, or to whoever comes next.
- Before anything is timed, each peer's result is compared with torch's (or NumPy's).
"""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.case import Case
    from bench.workload import Workload


@dataclass(frozen=True)
class Peer:
    """How a peer is run.

    Attributes:
        name: What the reports print.
        build: Makes its workload of a case that has none of the peer's own; None if only those do.
        modules: What must be importable.
        library: What the linker must find.
        child: Whether it needs a process of its own.
        environment: What that process is started with, beyond the benchmark's own environment.
        colour: In the picture: red for ours, grey for eager torch, blue for compilers.
        marker: In the picture; they differ too, for readers and printers without colour.
    """

    name: str
    build: Callable[[Case], Workload] | None
    modules: tuple[str, ...] = ("torch",)
    library: str = ""
    child: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    colour: str = "#5f6368"
    marker: str = "o"

    def workload(self, case: Case) -> Workload:
        """Builds a case."""
        build = case.special.get(self.name, self.build)
        if build is None:
            raise NotImplementedError(f"{case.name} has no form for {self.name}")
        return build(case)

    def missing(self) -> list[str]:
        """The modules and the library this machine does not have."""
        names = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if self.library and ctypes.util.find_library(self.library) is None:
            names.append(f"lib{self.library}")
        return names


_LIBRARIES = [
    importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
]
PEERS: Mapping[str, Peer] = {peer.name: peer for library in _LIBRARIES for peer in library.PEERS}
