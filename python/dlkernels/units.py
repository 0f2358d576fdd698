"""Activations of several operands, for NumPy arrays and anything with ``__dlpack__``: a learned
slope (`prelu`), gates (`glu`, `swiglu`) and the largest of several pieces (`maxout`).

Arrays may have any strides, in float32, float64, bfloat16 (``ml_dtypes``) or float16; results are
of the kind that came in.
"""

from __future__ import annotations

from typing import Any

from dlkernels import _core
from dlkernels._arguments import Array, as_array, as_output

__all__ = [
    "glu",
    "glu_backward",
    "maxout",
    "maxout_backward",
    "prelu",
    "prelu_backward",
    "swiglu",
    "swiglu_backward",
]


def prelu(x: Array, weight: Array, *, out: Array | None = None) -> Any:
    """``x`` where ``x > 0``, else ``weight * x`` (`torch.nn.functional.prelu`); one rounding.

    Args:
        x: Any shape, floating; its channels are axis 1.
        weight: One slope for all, or one per channel; of x's dtype.
        out: Where the result goes, of x's shape and dtype; may be ``x`` itself.

    Returns:
        An array like ``x`` (or ``out``).

    Raises:
        TypeError: A dtype is not floating or they differ.
        ValueError: ``weight`` has neither one element nor one per channel; ``out`` has another
            shape, is read-only or overlaps ``x`` in part.

    Example:
        >>> import numpy as np
        >>> prelu(np.array([[-1.0, -1.0], [2.0, 2.0]]), np.array([0.25, 0.5])).tolist()
        [[-0.25, -0.5], [2.0, 2.0]]
    """
    x = as_array(x, "prelu", "input")
    return _core.prelu(x, as_array(weight, "prelu", "weight", x), as_output(out, "prelu"))


def prelu_backward(grad_output: Array, x: Array, weight: Array) -> tuple[Any, Any]:
    """Gradients of `prelu` for its input and its weight, both in one pass over the data.

    The weight's is summed in float64 from short sums in the computing type, in an order that the
    shape alone decides: the same bits for any number of threads.

    Args:
        grad_output: The gradient of the result, of its shape and dtype.
        x: The input of `prelu`.
        weight: The weight of `prelu`.

    Returns:
        An array like ``x`` and one like ``weight``.

    Raises:
        TypeError: A dtype is not floating or they differ.
        ValueError: The shapes do not match.

    Example:
        >>> import numpy as np
        >>> x, weight = np.array([[-1.0, 3.0], [-2.0, -4.0]]), np.array([0.25, 0.5])
        >>> dx, dweight = prelu_backward(np.ones((2, 2)), x, weight)
        >>> dx.tolist(), dweight.tolist()
        ([[0.25, 1.0], [0.25, 0.5]], [-3.0, -4.0])
    """
    x = as_array(x, "prelu_backward", "input")
    gradients: tuple[Any, Any] = _core.prelu_backward(
        as_array(grad_output, "prelu_backward", "grad_output", x),
        x,
        as_array(weight, "prelu_backward", "weight", x),
    )
    return gradients


def glu(x: Array, axis: int = -1) -> Any:
    """``a * sigmoid(b)`` for the halves ``a, b`` of ``x`` (`torch.nn.functional.glu`).

    Args:
        x: At least one dimension, floating; of even length along ``axis``.
        axis: The axis that is cut in half.

    Returns:
        A row-major array, half as long along ``axis``.

    Raises:
        IndexError: There is no such axis.
        TypeError: The dtype is not floating.
        ValueError: The length along ``axis`` is odd.

    Example:
        >>> import numpy as np
        >>> glu(np.array([2.0, 4.0, 0.0, 0.0])).tolist()
        [1.0, 2.0]
    """
    return _core.gated_halves(as_array(x, "glu", "input"), axis, False)


def glu_backward(grad_output: Array, x: Array, axis: int = -1) -> Any:
    """Gradient of `glu`.

    Args:
        grad_output: The gradient of the result, of its shape and dtype.
        x: The input of `glu`.
        axis: As given to `glu`.

    Returns:
        A row-major array of x's shape.

    Raises:
        IndexError: There is no such axis.
        TypeError: A dtype is not floating or they differ.
        ValueError: The shapes do not match.

    Example:
        >>> import numpy as np
        >>> glu_backward(np.ones(2), np.array([2.0, 4.0, 0.0, 0.0])).tolist()
        [0.5, 0.5, 0.5, 1.0]
    """
    x = as_array(x, "glu_backward", "x")
    grad_output = as_array(grad_output, "glu_backward", "grad_output", x)
    return _core.gated_halves_backward(grad_output, x, axis, False)


def swiglu(gate: Array, up: Array | None = None, *, axis: int = -1) -> Any:
    """``silu(gate) * up`` in one pass, with ``silu(x) = x * sigmoid(x)`` (Shazeer, 2020).

    Args:
        gate: Floating, any shape; or with ``up`` left out, gate and up side by side along ``axis``
            (one matrix product for both).
        up: Of gate's shape and dtype.
        axis: The axis that is cut in half where ``up`` is left out.

    Returns:
        A row-major array of the shape of ``up``.

    Raises:
        IndexError: There is no such axis.
        TypeError: A dtype is not floating or they differ.
        ValueError: The shapes differ, or the length along ``axis`` is odd.

    Example:
        >>> import numpy as np
        >>> swiglu(np.array([0.0, 1.0]), np.array([3.0, 2.0])).round(4).tolist()
        [0.0, 1.4621]
        >>> swiglu(np.array([0.0, 1.0, 3.0, 2.0])).round(4).tolist()
        [0.0, 1.4621]
    """
    if up is None:
        return _core.gated_halves(as_array(gate, "swiglu", "input"), axis, True)
    gate = as_array(gate, "swiglu", "gate")
    return _core.swiglu(gate, as_array(up, "swiglu", "up", gate))


def swiglu_backward(
    grad_output: Array, gate: Array, up: Array | None = None, *, axis: int = -1
) -> Any:
    """Gradients of `swiglu`, in one pass.

    Args:
        grad_output: The gradient of the result, of its shape and dtype.
        gate: As given to `swiglu`.
        up: As given to `swiglu`.
        axis: As given to `swiglu`.

    Returns:
        ``(dgate, dup)``; where ``up`` is left out, one row-major array of gate's shape.

    Raises:
        IndexError: There is no such axis.
        TypeError: A dtype is not floating or they differ.
        ValueError: The shapes do not match.

    Example:
        >>> import numpy as np
        >>> dgate, dup = swiglu_backward(np.ones(2), np.array([0.0, 1.0]), np.array([3.0, 2.0]))
        >>> dgate.round(4).tolist(), dup.round(4).tolist()
        ([1.5, 1.8553], [0.0, 0.7311])
    """
    gate = as_array(gate, "swiglu_backward", "gate")
    grad_output = as_array(grad_output, "swiglu_backward", "grad_output", gate)
    if up is None:
        return _core.gated_halves_backward(grad_output, gate, axis, True)
    return _core.swiglu_backward(grad_output, gate, as_array(up, "swiglu_backward", "up", gate))


def maxout(x: Array, pieces: int, axis: int = 1, *, return_index: bool = False) -> Any:
    """The largest of every ``pieces`` neighbours along an axis (Goodfellow et al., 2013). Exact.

    On the result of a linear map to ``pieces * n`` features it is the maximum over ``pieces``
    linear maps to ``n``. A NaN is the largest.

    Args:
        x: At least one dimension, floating; its length along ``axis`` a multiple of ``pieces``.
        pieces: How many neighbours compete, 1 to 256.
        axis: Their axis.
        return_index: Also return who won (the first of equal ones), for `maxout_backward`: uint8,
            ``ceil(log2(pieces))`` bits an element.

    Returns:
        A row-major array, ``pieces`` times shorter along ``axis``; with ``return_index`` a tuple
        ``(y, index)``.

    Raises:
        IndexError: There is no such axis.
        TypeError: The dtype is not floating.
        ValueError: ``pieces`` is out of range or does not divide the length.

    Example:
        >>> import numpy as np
        >>> maxout(np.array([[1.0, 5.0, -2.0, -3.0]]), 2).tolist()
        [[5.0, -2.0]]
    """
    return _core.maxout(as_array(x, "maxout", "input"), pieces, axis, return_index)


def maxout_backward(grad_output: Array, index: Array, pieces: int, axis: int = 1) -> Any:
    """Gradient of `maxout`: ``grad_output`` in the winner's place, 0 in the others'.

    Args:
        grad_output: The gradient of the result, of its shape and dtype.
        index: What ``maxout(..., return_index=True)`` returned.
        pieces: As given to `maxout`.
        axis: As given to `maxout`.

    Returns:
        A row-major array, ``pieces`` times longer along ``axis``.

    Raises:
        IndexError: There is no such axis.
        TypeError: The dtype is not floating.
        ValueError: ``index`` is not of this shape.

    Example:
        >>> import numpy as np
        >>> y, index = maxout(np.array([[1.0, 5.0, -2.0, -3.0]]), 2, return_index=True)
        >>> maxout_backward(np.array([[1.0, 10.0]]), index, 2).tolist()
        [[0.0, 1.0, 10.0, 0.0]]
    """
    grad_output = as_array(grad_output, "maxout_backward", "grad_output")
    return _core.maxout_backward(grad_output, index, pieces, axis)
