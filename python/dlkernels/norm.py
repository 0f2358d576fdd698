"""Batch normalization for NumPy arrays and anything with ``__dlpack__``.

Channels are axis 1, as torch has them. An array may lie in memory channel by channel (NCHW) or with
its channels side by side (channels last, ``(N, C)``): both are read in that order, and results have
the input's. Statistics are sums in float64; they and all results are the same bits for any
number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dlkernels import _core
from dlkernels._arguments import Array, as_array, as_optional, as_output

__all__ = ["batch_norm", "batch_norm_backward"]


class BatchNormGradients(NamedTuple):
    """What `batch_norm_backward` returns.

    Attributes:
        input: Of the input's shape and dtype.
        weight: Of shape ``(C,)``; None without ``weight``.
        bias: Of shape ``(C,)``; None without ``bias``.
        residual: Of the input's shape and dtype; None without ``residual``.
    """

    input: Any
    weight: Any
    bias: Any
    residual: Any


def batch_norm(
    input: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Array | None = None,
    out: Array | None = None,
) -> Any:
    """Batch normalization (`torch.nn.functional.batch_norm`), with what follows it in one pass.

    ``activation((input - mean) / sqrt(var + eps) * weight + bias + residual)``, each channel with
    its own mean and (biased) variance.

    Args:
        input: ``(N, C)`` or ``(N, C, d1, ...)``, floating.
        running_mean: ``(C,)``. In training: updated in place to ``(1 - momentum) * running_mean +
            momentum * mean``, or None to keep none. Else what is normalized with.
        running_var: ``(C,)``, likewise, with the unbiased variance.
        weight: ``(C,)``; None for ones.
        bias: ``(C,)``; None for zeros.
        training: Normalize with the statistics of this batch, not with the running ones.
        momentum: What the batch's statistics weigh in the running ones.
        eps: Added to the variance; more than 0 in training.
        activation: ``None``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: For ``"leaky_relu"``.
        residual: Of the input's shape and dtype, added before the activation.
        out: Where the result goes, of the input's shape and dtype; may be ``input`` or
            ``residual`` itself.

    Parameters and statistics are of the input's dtype, or all of float32 with an input of a half
    type.

    Returns:
        An array like ``input``, of its memory order (or ``out``). A NaN stays in its channel.

    Raises:
        TypeError: A dtype is not floating, or does not go with the input's.
        ValueError: A shape does not match; a channel of one element, or ``eps`` of 0, in training;
            no running statistics otherwise; ``out`` or a running statistic is read-only or
            overlaps another array.

    Example:
        >>> import numpy as np
        >>> x = np.array([[1.0, 10.0], [3.0, 10.0], [5.0, 40.0]])
        >>> mean, var = np.zeros(2), np.ones(2)
        >>> batch_norm(x, mean, var, training=True).round(4).tolist()
        [[-1.2247, -0.7071], [0.0, -0.7071], [1.2247, 1.4142]]
        >>> mean.round(4).tolist(), var.round(4).tolist()
        ([0.3, 2.0], [1.3, 30.9])
        >>> batch_norm(x, mean, var, activation="relu").round(4).tolist()
        [[0.6139, 1.4392], [2.368, 1.4392], [4.1222, 6.836]]
    """
    operation = "batch_norm"
    input = as_array(input, operation, "input")
    if training is True:  # they are written to
        running_mean = as_output(running_mean, operation, "running_mean")
        running_var = as_output(running_var, operation, "running_var")
    else:
        running_mean = as_optional(running_mean, operation, "running_mean", input)
        running_var = as_optional(running_var, operation, "running_var", input)
    return _core.batch_norm(
        input,
        as_optional(weight, operation, "weight", input),
        as_optional(bias, operation, "bias", input),
        running_mean,
        running_var,
        training,
        momentum,
        eps,
        activation,
        negative_slope,
        as_optional(residual, operation, "residual", input),
        False,
        as_output(out, operation),
    )[0]


def batch_norm_backward(
    grad_output: Array,
    input: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Array | None = None,
) -> BatchNormGradients:
    """Gradients of `batch_norm`, given what it was given.

    In training the statistics are taken from ``input`` again. What the activation passes is
    computed again too, to the bit as `batch_norm` has it.

    Args:
        grad_output: The gradient of the result, of its shape and dtype, of any memory order.
        input: As for `batch_norm`.
        running_mean: As for `batch_norm`; not needed in training.
        running_var: As for `batch_norm`; not needed in training.
        weight: As for `batch_norm`.
        bias: As for `batch_norm`.
        training: As for `batch_norm`.
        eps: As for `batch_norm`.
        activation: As for `batch_norm`.
        negative_slope: As for `batch_norm`.
        residual: As for `batch_norm`.

    Returns:
        The gradients of ``input``, ``weight``, ``bias`` and ``residual``.

    Raises:
        TypeError: A dtype is not floating, or does not go with the input's.
        ValueError: A shape does not match, or no running statistics although not training.

    Example:
        >>> import numpy as np
        >>> x = np.array([[1.0], [3.0], [5.0]])
        >>> grad = np.array([[1.0], [0.0], [0.0]])
        >>> grads = batch_norm_backward(grad, x, weight=np.ones(1), training=True)
        >>> grads.input.round(4).tolist(), grads.weight.round(4).tolist()
        ([[0.1021], [-0.2041], [0.1021]], [-1.2247])
    """
    operation = "batch_norm_backward"
    input = as_array(input, operation, "input")
    return BatchNormGradients(
        *_core.batch_norm_backward(
            as_array(grad_output, operation, "grad_output", input),
            input,
            as_optional(weight, operation, "weight", input),
            as_optional(bias, operation, "bias", input),
            as_optional(running_mean, operation, "running_mean", input),
            as_optional(running_var, operation, "running_var", input),
            None,
            None,
            training,
            eps,
            activation,
            negative_slope,
            as_optional(residual, operation, "residual", input),
            None,
            (True, weight is not None, bias is not None, residual is not None),
        )
    )
