"""DeepSpeed's optimizers for the processor; torch in everything else."""

from __future__ import annotations

import functools
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

from bench.peers import Peer
from bench.workload import Front, Workload

if TYPE_CHECKING:
    from bench.case import Case

DEEPSPEED = "DeepSpeed"


def build(case: Case) -> Workload:
    """Its classes under torch's names, with torch's defaults."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import torch
    from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad  # type: ignore[import-not-found]
    from deepspeed.ops.adam import DeepSpeedCPUAdam  # type: ignore[import-not-found]

    optimizers = SimpleNamespace(
        AdamW=functools.partial(DeepSpeedCPUAdam, adamw_mode=True, weight_decay=0.01),
        Adagrad=functools.partial(DeepSpeedCPUAdagrad, eps=1e-10),
    )
    return case.build(case, Front(torch.nn.functional, torch.nn, optimizers))


PEERS = (Peer(DEEPSPEED, build, ("torch", "deepspeed"), colour="#7a4fa3", marker="p"),)
