"""Losses over class logits, and the softmax family, for NumPy arrays and anything with
``__dlpack__``.

Every function takes an array of shape ``(N, C)``, ``(N, C, d1, ...)`` or ``(C,)`` in float32,
float64, bfloat16 (``ml_dtypes``) or float16 and returns the kind of array it was given. Half types
are computed in float32 and rounded once; sums and divisors are float64 throughout.
"""

from __future__ import annotations

from typing import Any

from dlkernels import _core
from dlkernels._arguments import Array, as_array, as_optional, as_output, as_target, number

__all__ = [
    "cross_entropy",
    "cross_entropy_with_grad",
    "log_softmax",
    "log_softmax_backward",
    "nll_loss",
    "nll_loss_backward",
    "nll_loss_with_grad",
    "softmax",
    "softmax_backward",
]


def cross_entropy(
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    return_lse: bool = False,
    return_argmax: bool = False,
) -> Any:
    """Softmax cross-entropy between logits and class targets.

    ``-log softmax(logits)[target]`` per row, computed as log-sum-exp minus the target's logit in
    one pass over the logits; the meaning of every argument is
    `torch.nn.functional.cross_entropy`'s.

    Args:
        logits: Shape ``(N, C)``, ``(N, C, d1, ...)`` or ``(C,)``, unnormalized; any strides. Read
            where it lies if its classes or its positions are contiguous, else copied once.
        target: Class indices of any integer dtype, shape ``(N,)``, ``(N, d1, ...)`` or ``()``; or
            class probabilities of the logits' shape and dtype.
        weight: A factor per class, shape ``(C,)``, of the logits' dtype.
        ignore_index: Rows with this target give no loss and a zero gradient, even where they hold
            NaN (torch gives those a NaN gradient). For class indices only.
        reduction: ``"mean"`` (over the weights of the targets that count; over the rows for
            probabilities), ``"sum"`` or ``"none"``.
        label_smoothing: In [0, 1]: how much of each target is spread evenly over the classes.
        z_loss: Adds ``z_loss * log_sum_exp**2`` per row that counts (under ``"mean"``, its mean
            over those rows), which keeps the logits' scale from drifting (PaLM, 2022).
        softcap: If given, logits are first squashed to ``softcap * tanh(logits / softcap)``.
        return_lse: Also return the log-sum-exp of every row (ignored ones too), float64 for float64
            logits, else float32.
        return_argmax: Also return the class of every row's largest logit, int64.

    Returns:
        The loss, of the logits' dtype: a scalar, or an array of the target's shape under
        ``"none"``. With ``return_lse`` or ``return_argmax`` a tuple ``(loss, lse, argmax)`` of
        those asked for.

    Raises:
        IndexError: A target is neither ``ignore_index`` nor a class.
        TypeError: A dtype is not supported or does not match.
        ValueError: Shapes do not match, or an argument is out of its range.

    Example:
        >>> import numpy as np
        >>> logits = np.array([[2.0, 0.0], [0.0, 2.0]], dtype=np.float32)
        >>> round(float(cross_entropy(logits, np.array([0, 1]))), 4)
        0.1269
    """
    logits = as_array(logits, "cross_entropy", "input")
    result = _core.cross_entropy(
        logits,
        as_target(target, "cross_entropy", logits),
        as_optional(weight, "cross_entropy", "weight", logits),
        ignore_index,
        reduction,
        label_smoothing,
        z_loss,
        0.0 if softcap is None else _softcap(softcap),
        False,
        None,
        return_lse,
        return_argmax,
        1.0,
    )
    if not (return_lse or return_argmax):
        return result
    loss, _, lse, argmax = result
    extras = ((lse,) if return_lse else ()) + ((argmax,) if return_argmax else ())
    return (loss, *extras)


def cross_entropy_with_grad(
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    out: Array | None = None,
    return_lse: bool = False,
    return_argmax: bool = False,
) -> tuple[Any, ...]:
    """`cross_entropy` and its gradient with respect to the logits, in one pass over the logits.

    Args:
        logits: As in `cross_entropy`, like every argument not named here.
        target: As in `cross_entropy`.
        weight: As in `cross_entropy`.
        ignore_index: As in `cross_entropy`.
        reduction: As in `cross_entropy`; under ``"none"`` the gradient is that of the sum.
        label_smoothing: As in `cross_entropy`.
        z_loss: As in `cross_entropy`.
        softcap: As in `cross_entropy`.
        out: Where the gradient goes: an array of the logits' shape and dtype. ``out=logits`` writes
            it over them. Any other overlap is refused.
        return_lse: As in `cross_entropy`.
        return_argmax: As in `cross_entropy`.

    Returns:
        ``(loss, dlogits)``, followed by the extras asked for. Under ``"mean"`` with every target
        ignored the loss is NaN and the gradient zero, as in torch.

    Raises:
        IndexError: As `cross_entropy`.
        TypeError: As `cross_entropy`.
        ValueError: As `cross_entropy`; also where ``out`` is read-only or overlaps the logits in
            part.

    Example:
        >>> import numpy as np
        >>> logits = np.zeros((1, 4), dtype=np.float32)
        >>> loss, dlogits = cross_entropy_with_grad(logits, np.array([3]))
        >>> dlogits.tolist()
        [[0.25, 0.25, 0.25, -0.75]]
    """
    logits = as_array(logits, "cross_entropy", "input")
    loss, grad, lse, argmax = _core.cross_entropy(
        logits,
        as_target(target, "cross_entropy", logits),
        as_optional(weight, "cross_entropy", "weight", logits),
        ignore_index,
        reduction,
        label_smoothing,
        z_loss,
        0.0 if softcap is None else _softcap(softcap),
        True,
        as_output(out, "cross_entropy"),
        return_lse,
        return_argmax,
        1.0,
    )
    extras = ((lse,) if return_lse else ()) + ((argmax,) if return_argmax else ())
    return (loss, grad, *extras)


def _softcap(softcap: float) -> float:
    cap = number(softcap, "cross_entropy", "softcap")
    if not cap > 0:
        raise ValueError(
            f"cross_entropy: softcap: expected a positive number or None, got {softcap}"
        )
    return cap


def nll_loss(
    log_probabilities: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """Negative log-likelihood of class targets (`torch.nn.functional.nll_loss`).

    Args:
        log_probabilities: Shape ``(N, C)``, ``(N, C, d1, ...)`` or ``(C,)``, floating.
        target: Class indices, shape ``(N,)``, ``(N, d1, ...)`` or ``()``, any integer dtype.
        weight: A factor per class, shape ``(C,)``, of the input's dtype.
        ignore_index: Rows with this target count nothing.
        reduction: ``"mean"`` (over the weights of the targets that count), ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or an array of the target's shape under ``"none"``, of the input's dtype.

    Raises:
        IndexError: A target is neither ``ignore_index`` nor a class.
        TypeError: A dtype is not supported or does not match.
        ValueError: Shapes do not match.

    Example:
        >>> import numpy as np
        >>> float(nll_loss(np.array([[-0.5, -1.0]]), np.array([1])))
        1.0
    """
    operands = _nll_operands("nll_loss", log_probabilities, target, weight)
    return _core.nll_loss(*operands, ignore_index, reduction)


def _nll_operands(
    operation: str, input: Array, target: Array, weight: Array | None
) -> tuple[Array, Array, Array | None]:
    input = as_array(input, operation, "input")
    weight = as_optional(weight, operation, "weight", input)
    return input, as_target(target, operation, input), weight


def nll_loss_backward(
    grad_output: Array | float,
    log_probabilities: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """Gradient of `nll_loss` with respect to its input.

    Args:
        grad_output: The gradient of the loss: a number, or under ``"none"`` an array of the
            target's shape and the input's dtype.
        log_probabilities: As in `nll_loss`; only its shape, dtype and layout matter.
        target: As in `nll_loss`.
        weight: As in `nll_loss`.
        ignore_index: As in `nll_loss`.
        reduction: As in `nll_loss`.

    Returns:
        An array like ``log_probabilities``.

    Raises:
        IndexError: As `nll_loss`.
        TypeError: As `nll_loss`.
        ValueError: As `nll_loss`.

    Example:
        >>> import numpy as np
        >>> nll_loss_backward(1.0, np.array([[-0.5, -1.0]]), np.array([1])).tolist()
        [[0.0, -1.0]]
    """
    operation = "nll_loss_backward"
    operands = _nll_operands(operation, log_probabilities, target, weight)
    if not isinstance(grad_output, float):
        grad_output = as_array(grad_output, operation, "grad_output", operands[0])
        if getattr(grad_output, "shape", None) == ():
            grad_output = number(grad_output, operation, "grad_output")
    return _core.nll_loss_backward(grad_output, *operands, ignore_index, reduction)


def nll_loss_with_grad(
    log_probabilities: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Any, Any]:
    """`nll_loss` and its gradient: the targets' elements are read, the gradient is written.

    Args:
        log_probabilities: As in `nll_loss`.
        target: As in `nll_loss`.
        weight: As in `nll_loss`.
        ignore_index: As in `nll_loss`.
        reduction: As in `nll_loss`; under ``"none"`` the gradient is that of the sum.

    Returns:
        ``(loss, gradient)``, the gradient like ``log_probabilities``.

    Raises:
        IndexError: As `nll_loss`.
        TypeError: As `nll_loss`.
        ValueError: As `nll_loss`.

    Example:
        >>> import numpy as np
        >>> loss, grad = nll_loss_with_grad(np.array([[-0.5, -1.0]]), np.array([1]))
        >>> float(loss), grad.tolist()
        (1.0, [[0.0, -1.0]])
    """
    operands = _nll_operands("nll_loss", log_probabilities, target, weight)
    arguments = *operands, ignore_index
    loss = _core.nll_loss(*arguments, reduction)
    of_sum = "sum" if reduction == "none" else reduction
    return loss, _core.nll_loss_backward(1.0, *arguments, of_sum)


def softmax(x: Array, axis: int = -1, *, out: Array | None = None) -> Any:
    """``exp(x) / sum(exp(x))`` along one axis (`torch.softmax`).

    A weight d below the row's largest is within ``9 + 0.63 d`` ULP (the exponent is rounded, as in
    torch); weights below 2**-126 may be 0.

    Args:
        x: Any shape, floating; any strides.
        axis: The axis that sums to one.
        out: Where the result goes, of x's shape and dtype; may be ``x`` itself.

    Returns:
        An array like ``x`` (or ``out``).

    Raises:
        IndexError: ``axis`` is out of range.
        TypeError: The dtype is not floating.
        ValueError: ``out`` has another shape, is read-only or overlaps ``x`` in part.

    Example:
        >>> import numpy as np
        >>> softmax(np.array([[3.0, 7.0, 4.0]])).round(4).tolist()
        [[0.0171, 0.9362, 0.0466]]
    """
    return _core.softmax(as_array(x, "softmax", "input"), axis, False, as_output(out, "softmax"))


def log_softmax(x: Array, axis: int = -1, *, out: Array | None = None) -> Any:
    """``x - log(sum(exp(x)))`` along one axis (`torch.log_softmax`).

    Args:
        x: As in `softmax`.
        axis: As in `softmax`.
        out: As in `softmax`.

    Returns:
        An array like ``x`` (or ``out``).

    Raises:
        IndexError: As `softmax`.
        TypeError: As `softmax`.
        ValueError: As `softmax`.

    Example:
        >>> import numpy as np
        >>> log_softmax(np.zeros(4)).round(4).tolist()
        [-1.3863, -1.3863, -1.3863, -1.3863]
    """
    return _core.softmax(
        as_array(x, "log_softmax", "input"), axis, True, as_output(out, "log_softmax")
    )


def softmax_backward(
    grad_output: Array, output: Array, axis: int = -1, *, out: Array | None = None
) -> Any:
    """Gradient of `softmax`: ``output * (grad_output - sum(grad_output * output))``.

    Args:
        grad_output: The gradient of the result, like ``output``.
        output: What `softmax` returned.
        axis: The axis it was taken along.
        out: Where the gradient goes; may be ``grad_output`` or ``output`` itself.

    Returns:
        An array like ``output`` (or ``out``).

    Raises:
        IndexError: As `softmax`.
        TypeError: As `softmax`.
        ValueError: As `softmax`; also where the shapes differ.
    """
    return _softmax_backward("softmax_backward", grad_output, output, axis, out)


def _softmax_backward(
    operation: str, grad_output: Array, output: Array, axis: int, out: Array | None
) -> Any:
    output = as_array(output, operation, "output")
    grad_output = as_array(grad_output, operation, "grad_output", output)
    logarithm = operation == "log_softmax_backward"
    return _core.softmax_backward(grad_output, output, axis, logarithm, as_output(out, operation))


def log_softmax_backward(
    grad_output: Array, output: Array, axis: int = -1, *, out: Array | None = None
) -> Any:
    """Gradient of `log_softmax`: ``grad_output - exp(output) * sum(grad_output)``.

    Args:
        grad_output: As in `softmax_backward`.
        output: What `log_softmax` returned.
        axis: As in `softmax_backward`.
        out: As in `softmax_backward`.

    Returns:
        An array like ``output`` (or ``out``).

    Raises:
        IndexError: As `softmax_backward`.
        TypeError: As `softmax_backward`.
        ValueError: As `softmax_backward`.
    """
    return _softmax_backward("log_softmax_backward", grad_output, output, axis, out)
