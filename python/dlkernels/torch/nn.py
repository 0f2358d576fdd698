"""Twins of ``torch.nn`` modules: subclasses of torch's own, so arguments, repr and state dicts are
the same, whose forward calls `functional`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dlkernels.torch import activations, class_losses, elementwise_losses
from dlkernels.torch import dropout as dropouts
from dlkernels.torch._tools import know_modules
from dlkernels.torch.norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    BatchNormAct1d,
    BatchNormAct2d,
    BatchNormAct3d,
)
from dlkernels.torch.sync_norm import SyncBatchNorm

__all__ = []


# --- activations: made in `activations`

_MADE = [
    module
    for twin in (*activations.TWINS, *class_losses.TWINS, *elementwise_losses.TWINS)
    for module in twin.modules
]
for _module in _MADE:
    _module.__module__ = __name__
    globals()[_module.__name__] = _module
__all__ += sorted(module.__name__ for module in _MADE)

# --- batch norm: in `norm` and `sync_norm`

__all__ += [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "SyncBatchNorm",
]
# --- dropouts: made in `dropout`

globals().update(dropouts.MODULES)
__all__ += sorted(dropouts.MODULES)

know_modules(globals()[name] for name in __all__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[torch.nn.Module]:
        """The activations and elementwise losses, for type checkers."""
