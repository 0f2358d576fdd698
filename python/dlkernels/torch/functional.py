"""Twins of ``torch.nn.functional``: the same names, arguments, defaults and errors, on our kernels.

Plain CPU tensors in float32, float64, bfloat16 and float16 go straight to a kernel; compiled
graphs, modes and subclasses see the operators of ``torch.ops.dlkernels``; everything else goes to
torch's own function. `dlkernels.torch.explain` says which.
"""

from __future__ import annotations

import inspect as _inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dlkernels.torch import activations as _activations
from dlkernels.torch import class_losses as _class_losses
from dlkernels.torch import dropout as _dropout
from dlkernels.torch import elementwise_losses as _elementwise_losses
from dlkernels.torch import norm as _norm
from dlkernels.torch._tools import script_as as _script_as

_FAMILIES = (_activations, _class_losses, _dropout, _elementwise_losses, _norm)

_TWINS = {twin.function: twin for family in _FAMILIES for twin in family.TWINS}

#: Our functions by torch's.
TWINS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    twin.theirs: function for function, twin in _TWINS.items() if twin.theirs is not None
}

__all__ = [function.__name__ for function in _TWINS]

for _function in _TWINS:
    _function.__module__ = __name__
    globals()[_function.__name__] = _function
    _script_as(_function, getattr(torch.nn.functional, _function.__name__, None))
    torch.fx.wrap(_function.__name__)  # recorded under this name, with the kernel


def __dir__() -> list[str]:
    return sorted(__all__)


def explain(function: Any, *args: Any, **kwargs: Any) -> str:
    """Says which way a call of a twin with these arguments would go, and why; nothing is computed.

    Args:
        function: A function of `dlkernels.torch.functional`.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        A line that starts with ``"kernel"``, ``"operator"`` or ``"torch"``.

    Raises:
        TypeError: ``function`` is none of these.

    Example:
        >>> import torch
        >>> from dlkernels.torch import functional
        >>> explain(functional.softmax, torch.ones(3), dim=0)
        'kernel: called directly'
    """
    if function not in _TWINS:
        raise TypeError(f"explain: expected a function of dlkernels.torch, got {function!r}")
    bound = _inspect.signature(function).bind(*args, **kwargs).arguments
    line: str = _TWINS[function].explain(bound)
    return line
