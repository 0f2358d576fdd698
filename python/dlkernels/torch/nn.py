"""Twins of ``torch.nn`` modules: subclasses of torch's own, so arguments, repr and state dicts are
the same, whose forward calls `functional`.
"""

from __future__ import annotations

import torch

from dlkernels.torch._tools import know_modules as _know_modules
from dlkernels.torch.functional import _TWINS

_MODULES = {module.__name__: module for twin in _TWINS.values() for module in twin.modules}

#: Our modules by torch's.
TWINS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    getattr(torch.nn, name): module for name, module in _MODULES.items() if hasattr(torch.nn, name)
}

__all__ = list(_MODULES)

globals().update(_MODULES)
for _module in _MODULES.values():
    _module.__module__ = __name__
_know_modules(_MODULES.values())


def __dir__() -> list[str]:
    return sorted(__all__)
