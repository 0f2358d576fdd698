"""Twins of ``torch.nn`` modules: subclasses of torch's own, so arguments, repr and state dicts are
the same, whose forward calls `functional`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlkernels.torch import activations, elementwise_losses
from dlkernels.torch import dropout as dropouts
from dlkernels.torch import functional as F
from dlkernels.torch._tools import Proxy, as_leaf, know_modules
from dlkernels.torch.norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    BatchNormAct1d,
    BatchNormAct2d,
    BatchNormAct3d,
)
from dlkernels.torch.sync_norm import SyncBatchNorm

__all__ = ["CrossEntropyLoss", "LogSoftmax", "NLLLoss", "Softmax"]


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` on `functional.cross_entropy`.

    Args:
        args: torch's arguments.
        z_loss: See `functional.cross_entropy`.
        softcap: See `functional.cross_entropy`.
        inplace: See `functional.cross_entropy`.
        kwargs: torch's keyword arguments.
    """

    # For a module of torch's that became one of ours by its class.
    z_loss: float = 0.0
    softcap: float | None = None
    inplace: bool = False

    def __init__(
        self,
        *args: Any,
        z_loss: float = 0.0,
        softcap: float | None = None,
        inplace: bool = False,
        **kwargs: Any,
    ) -> None:
        """See the class."""
        super().__init__(*args, **kwargs)
        self.z_loss, self.softcap, self.inplace = z_loss, softcap, inplace

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of `input` (logits) against `target`."""
        if type(input) is Proxy:
            return as_leaf(self, input, target)
        return F.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
            inplace=self.inplace,
        )


class NLLLoss(torch.nn.NLLLoss):
    """`torch.nn.NLLLoss` on `functional.nll_loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of `input` (log-probabilities) against `target`."""
        if type(input) is Proxy:
            return as_leaf(self, input, target)
        return F.nll_loss(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class Softmax(torch.nn.Softmax):
    """`torch.nn.Softmax` on `functional.softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        """softmax of `input` along ``self.dim``."""
        if type(input) is Proxy:
            return as_leaf(self, input)
        return F.softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(torch.nn.LogSoftmax):
    """`torch.nn.LogSoftmax` on `functional.log_softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        """log_softmax of `input` along ``self.dim``."""
        if type(input) is Proxy:
            return as_leaf(self, input)
        return F.log_softmax(input, self.dim, _stacklevel=5)


# --- activations: made in `activations`

_MADE = [module for twin in activations.TWINS for module in twin.modules]
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

# --- elementwise losses: made in `elementwise_losses`

globals().update(elementwise_losses.MODULES)
__all__ += sorted(elementwise_losses.MODULES)

know_modules(globals()[name] for name in __all__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[torch.nn.Module]:
        """The activations and elementwise losses, for type checkers."""
