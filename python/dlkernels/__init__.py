"""Fast CPU kernels for deep learning, for NumPy arrays, torch tensors and other CPU arrays.

Environment variables, read once, at import; a value that makes no sense is an ``ImportError``:

``DLKERNELS_ISA``
    ``baseline``, ``avx2`` or ``avx512``: the instruction set to use, instead of the best that the
    processor supports.
``DLKERNELS_NUM_THREADS``
    The most threads an operation may use, instead of what OpenMP says.
``DLKERNELS_POOL_LIMIT``
    The most bytes of dropped results to keep for reuse (``512M``, ``2G``), instead of a quarter of
    the memory.
``DLKERNELS_CACHE_BYTES``
    The size of the last-level cache (``32M``), instead of what the system reports (of which at most
    16 MiB a processor are counted on).
"""

from __future__ import annotations

import ctypes as _ctypes
import importlib.util as _importlib_util
import os as _os


def _load_openmp() -> None:
    """Loads the one OpenMP runtime of the process, before ``_core`` asks for it.

    The loader tells libraries apart by name, so whichever ``libgomp.so.1`` comes first, torch's own
    or the system's, serves everyone after it. Where the system has none, torch's is found without
    importing torch.
    """
    try:
        _ctypes.CDLL("libgomp.so.1")
        return
    except OSError:
        pass
    torch_spec = _importlib_util.find_spec("torch")
    for folder in (torch_spec and torch_spec.submodule_search_locations) or ():
        try:
            _ctypes.CDLL(_os.path.join(folder, "lib", "libgomp.so.1"))
            return
        except OSError:
            pass
    raise ImportError(
        "dlkernels needs the OpenMP library libgomp.so.1, which was not found; install it with "
        "`apt install libgomp1` (or your distribution's package for it) or `pip install torch`"
    )


_load_openmp()

# ruff: noqa: E402, F403  (these need OpenMP to be loaded; each family lists its own names)
import inspect as _inspect

from . import activations, class_losses, elementwise_losses, image, norm, optim
from . import dropout as _dropout
from ._core import build_info as _build_info
from .activations import *
from .class_losses import *
from .dropout import *
from .elementwise_losses import *
from .norm import *
from .runtime import (
    active_isa,
    empty_cache,
    get_num_threads,
    memory_stats,
    num_threads,
    set_isa,
    set_num_threads,
    tune_malloc,
)

__version__: str = _build_info()["version"]

__all__ = [
    "__version__",
    "active_isa",
    "empty_cache",
    "get_num_threads",
    "image",
    "memory_stats",
    "num_threads",
    "optim",
    "set_isa",
    "set_num_threads",
    "tune_malloc",
]
__all__ += activations.__all__
__all__ += class_losses.__all__
__all__ += _dropout.__all__
__all__ += elementwise_losses.__all__
__all__ += norm.__all__

for _name in __all__:
    if _inspect.isfunction(globals()[_name]):
        globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
