"""Twins of ``torch.nn.functional``: the same names, arguments, defaults and errors, on our kernels.

Plain CPU tensors in float32, float64, bfloat16 and float16 go straight to a kernel; compiled
graphs, modes and subclasses see the operators of `dlkernels.torch.ops`; everything else goes to
torch's own function. `dlkernels.torch.explain` says which.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkernels.torch import activations, class_losses, elementwise_losses
from dlkernels.torch import dropout as dropouts
from dlkernels.torch._route import reason
from dlkernels.torch._tools import script_as
from dlkernels.torch.norm import batch_norm, explain_batch_norm

__all__ = ["batch_norm"]

# --- activations: made in `activations` and `units`

_MADE = {
    twin.function: twin
    for twin in (*activations.TWINS, *class_losses.TWINS, *elementwise_losses.TWINS)
}
for _function in _MADE:
    _function.__module__ = __name__
    globals()[_function.__name__] = _function
__all__ += sorted(function.__name__ for function in _MADE)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Tensor]:
        """The activations and elementwise losses, for type checkers."""


# --- dropouts: made in `dropout`

globals().update(dropouts.FUNCTIONS)
__all__ += sorted(dropouts.FUNCTIONS)
_TWINS = (
    batch_norm,
    *_MADE,
    *dropouts.FUNCTIONS.values(),
)

for _twin in _TWINS:
    script_as(_twin, getattr(F, _twin.__name__, None))
    torch.fx.wrap(_twin.__name__)  # recorded under this name, with the kernel

# --- explain


def explain(function: Any, *args: Any, **kwargs: Any) -> str:
    """Says which way a call of a twin with these arguments would go, and why; nothing is computed.

    Args:
        function: A function of this module.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        A line that starts with ``"kernel"``, ``"operator"`` or ``"torch"``.

    Raises:
        TypeError: ``function`` is none of this module's.

    Example:
        >>> import torch
        >>> explain(softmax, torch.ones(3), dim=0)
        'kernel: called directly'
    """
    if function not in _TWINS:
        raise TypeError(f"explain: expected a function of dlkernels.torch, got {function!r}")
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    if function is batch_norm:
        return explain_batch_norm(bound)
    if function in _MADE:
        return _MADE[function].explain(bound)
    return reason(bound["input"])
