"""The normalizations' twins."""

from __future__ import annotations

from dlkernels.torch._operator import Twin
from dlkernels.torch.norm import modules
from dlkernels.torch.norm.batch import batch_norm, explain_batch_norm
from dlkernels.torch.norm.sync import SyncBatchNorm

__all__ = ["TWINS"]

#: Every twin of the family.
TWINS = (
    Twin(
        batch_norm,
        explain_batch_norm,
        (
            modules.BatchNorm1d,
            modules.BatchNorm2d,
            modules.BatchNorm3d,
            modules.BatchNormAct1d,
            modules.BatchNormAct2d,
            modules.BatchNormAct3d,
            SyncBatchNorm,
        ),
    ),
)
