"""The torch front: `functional`, `nn` and `optim`, twins of torch's own with the same arguments,
defaults, errors and state dicts.

>>> import torch
>>> import dlkernels.torch.functional as F
>>> float(F.cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3])))
1.3862943649291992
"""

from __future__ import annotations

from dlkernels.torch import functional, image, nn, optim
from dlkernels.torch._operator import decompositions
from dlkernels.torch.functional import explain

__all__ = ["decompositions", "explain", "functional", "image", "nn", "optim"]

for _function in (decompositions, explain):
    _function.__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
