"""dlkernels, through its torch front; a case says so where it is the NumPy front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.peers import Peer
from bench.workload import Front, Workload

if TYPE_CHECKING:
    from bench.case import Case

OURS = "dlkernels"


def build(case: Case) -> Workload:
    """The twins in torch's place."""
    import dlkernels.torch as dlt

    return case.build(case, Front(dlt.functional, dlt.nn, dlt.optim, is_ours=True))


PEERS = (Peer(OURS, build, ("torch", "dlkernels"), colour="#d1495b"),)
