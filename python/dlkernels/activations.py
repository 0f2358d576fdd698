"""Elementwise activations for NumPy arrays and anything with ``__dlpack__``.

One row of `ACTIVATIONS` per activation; the torch front makes its twins from the same rows.
Arrays may have any shape and strides, in float32, float64, bfloat16 (``ml_dtypes``) or float16;
results are of the kind that came in. An element's value never depends on where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dlkernels import _core

__all__ = ["relu", "relu_backward"]

#: A NumPy array, or any array on the CPU with ``__dlpack__``; sequences of numbers are converted.
Array = Any


@dataclass(frozen=True)
class Activation:
    """What the fronts need to know of one activation.

    Attributes:
        name: Its name in ``csrc/kernels/activations.h`` and in ``torch.nn.functional``.
        saves: What its backward reads: a bit per element, or the input or output itself.
        module: The name of its ``torch.nn`` module.
        index: Its number in the kernels' list.
    """

    name: str
    saves: Literal["mask", "input", "output"]
    module: str
    index: int = field(init=False)

    def __post_init__(self) -> None:
        """Looks the index up once: a compiled graph cannot call the extension for it."""
        object.__setattr__(self, "index", _core.activation_index(self.name))


ACTIVATIONS = {row.name: row for row in [Activation("relu", saves="mask", module="ReLU")]}

_RELU = ACTIVATIONS["relu"].index


def _as_array(value: Array) -> Array:
    if isinstance(value, (list, tuple, int, float)):
        return np.asarray(value, dtype=np.float32)
    return value


def relu(x: Array, *, out: Array | None = None) -> Any:
    """``max(x, 0)`` (`torch.relu`); NaN stays NaN and -0.0 stays -0.0. Exact.

    Args:
        x: Any shape, floating.
        out: Where the result goes, of x's shape and dtype; may be ``x`` itself.

    Returns:
        An array like ``x`` (or ``out``).

    Raises:
        TypeError: The dtype is not floating.
        ValueError: ``out`` has another shape, is read-only or overlaps ``x`` in part.

    Example:
        >>> import numpy as np
        >>> relu(np.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    return _core.activation(_RELU, _as_array(x), out, False, 0.0, 0.0)


def relu_backward(grad_output: Array, x: Array) -> Any:
    """Gradient of `relu`: ``grad_output`` where ``x > 0`` (or is NaN), else 0.

    Args:
        grad_output: The gradient of the result, of x's shape and dtype.
        x: The input of `relu`, or its result: both give the same.

    Returns:
        An array like ``x``.

    Raises:
        TypeError: A dtype is not floating or they differ.
        ValueError: The shapes differ.

    Example:
        >>> import numpy as np
        >>> relu_backward(np.array([5.0, 5.0]), np.array([-1.0, 2.0])).tolist()
        [0.0, 5.0]
    """
    return _core.activation_backward(_RELU, grad_output, x, None, 0.0, 0.0)
