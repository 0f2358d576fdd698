"""Batch normalization's function. The activation that follows and the residual added before it are
done in the same passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from dlkernels import _core
from dlkernels._arguments import number, type_text
from dlkernels.torch._bits import unpacked
from dlkernels.torch._eager import Function, is_first_order
from dlkernels.torch._operator import REFUSED
from dlkernels.torch._route import (
    FLOATING,
    KERNEL,
    OPERATOR,
    TORCH,
    check_tensors,
    in_transform,
    is_plain,
    reason,
    route,
)
from dlkernels.torch.norm import in_torch, operators

__all__ = ["batch_norm", "check_activation", "check_fused", "explain_batch_norm"]

ACTIVATIONS = (None, "relu", "leaky_relu", "silu")

_HALF = (torch.bfloat16, torch.float16)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, with the residual and activation that follow it.

    ``activation((input - mean) / sqrt(var + eps) * weight + bias + residual)``, the statistics over
    everything but dimension 1. They are summed in float64, in every memory format.

    Args:
        input: ``(N, C, *)``, in any memory format.
        running_mean: ``(C,)``, or None; updated in place in training.
        running_var: ``(C,)``, or None; updated in place in training, with the unbiased variance.
        weight: ``(C,)``, of the input's dtype or float32, as all the others of that shape.
        bias: ``(C,)``.
        training: Normalize by this batch's statistics, not by the running ones.
        momentum: The running statistics move by this share.
        eps: Added to the variance.
        activation: None, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        residual: Added before the activation; of the input's shape.
        negative_slope: Of ``"leaky_relu"``.

    Returns:
        A tensor like ``input``.

    Raises:
        RuntimeError: As torch.
        ValueError: As torch; also where the activation is another, or the residual's shape is not
            the input's.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> batch_norm(x, None, None, training=True, eps=1e-12, activation="relu").tolist()
        [[0.0], [1.0]]
    """
    if activation is not None or residual is not None:
        check_fused(input, activation, residual)
        negative_slope = number(negative_slope, "batch_norm", "negative_slope")
    tensors = (input, running_mean, running_var, weight, bias, residual)
    way = KERNEL if is_plain(*tensors) else route(*tensors)
    output: Tensor
    # The kernel would take one of the statistics alone, which torch refuses.
    if way == KERNEL and (running_mean is None) == (running_var is None):
        try:
            if torch.is_grad_enabled() and (
                input.requires_grad
                or (weight is not None and weight.requires_grad)
                or (bias is not None and bias.requires_grad)
                or (residual is not None and residual.requires_grad)
            ):
                output = _BatchNorm.call(
                    input, weight, bias, residual, running_mean, running_var,
                    training, momentum, eps, activation, negative_slope,
                )  # fmt: skip
            else:
                output = _core.batch_norm(
                    input, weight, bias, running_mean, running_var,
                    training, momentum, eps, activation, negative_slope, residual, False, None,
                )[0]  # fmt: skip
            if training and running_mean is not None and not running_mean.is_inference():
                increment_version((running_mean, running_var))  # type: ignore[arg-type]
            return output
        except REFUSED:
            pass
    elif way == OPERATOR and _has_kernel(
        input, running_mean, running_var, weight, bias, residual, training, eps
    ):
        return operators.batch_norm(
            input, running_mean, running_var, weight, bias, residual,
            training, momentum, eps, activation, negative_slope,
        )  # fmt: skip
    if isinstance(momentum, Tensor):  # a count of batches, in a compiled module
        momentum = 1.0 / float(momentum)
    if (
        way == TORCH
        and in_transform()
        and isinstance(input, Tensor)
        and input.is_cpu
        and input.dtype in FLOATING
        and _has_kernel(input, running_mean, running_var, weight, bias, residual, training, eps)
    ):
        return in_torch.batch_norm_of_any_strides(
            input, running_mean, running_var, weight, bias, residual,
            training, momentum, eps, activation, negative_slope,
        )  # fmt: skip
    # torch moves the statistics before it finds some errors: they get copies until all is well.
    refused = way == KERNEL and training is True and running_mean is not None
    statistics: Any = running_mean, running_var
    moved: Any = [s if s is None or not refused else s.clone() for s in statistics]
    output = in_torch.batch_norm(  # type: ignore[call-arg]
        input, *moved, weight, bias, residual,
        training, momentum, eps, activation, negative_slope,
    )  # fmt: skip
    if refused:
        with torch.no_grad():
            for statistic, value in zip(statistics, moved, strict=True):
                statistic.copy_(value)
    return output


def check_activation(activation: str | None) -> None:
    """Raises ValueError if there is no such activation."""
    if activation is not None and not (isinstance(activation, str) and activation in ACTIVATIONS):
        got = repr(activation) if isinstance(activation, str) else type_text(activation)
        raise ValueError(
            f"batch_norm: activation: expected None, 'relu', 'leaky_relu' or 'silu', got {got}"
        )


def check_fused(input: Any, activation: str | None, residual: Any) -> None:
    """Checks what torch's function does not take."""
    check_activation(activation)
    check_tensors("batch_norm", input=input, residual=input if residual is None else residual)
    if residual is None:
        return
    if residual.shape != input.shape:
        raise ValueError(
            f"batch_norm: residual: expected shape {tuple(input.shape)}, "
            f"got {tuple(residual.shape)}"
        )


def _has_kernel(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    eps: float,
) -> bool:
    """Whether a kernel takes these tensors, which `route` let through."""
    if input.dim() < 2 or input.numel() == 0 or not (eps > 0 or (eps == 0 and not training)):
        return False
    channels = input.shape[1]
    if training and input.numel() == channels:
        return False
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        return False
    if residual is not None and residual.dtype is not input.dtype:
        return False
    vectors = [v for v in (running_mean, running_var, weight, bias) if v is not None]
    dtypes = {v.dtype for v in vectors}
    allowed = (input.dtype, torch.float32) if input.dtype in _HALF else (input.dtype,)
    return (
        len(dtypes) <= 1
        and all(dtype in allowed for dtype in dtypes)
        and all(v.dim() == 1 and v.shape[0] == channels for v in vectors)
    )


class _BatchNorm(Function):
    """Saves its input and two numbers per channel; of the activation one bit per element where a
    residual was added, else nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        activation: str | None,
        negative_slope: float,
    ) -> Tensor:
        output: Tensor
        output, mean, spread, mask = _core.batch_norm(
            input, weight, bias, running_mean, running_var,
            training, momentum, eps, activation, negative_slope, residual, True, None,
        )  # fmt: skip
        if not training and running_mean is not None and running_var is not None:
            # Copies, for a step of training may come before backward.
            mean, spread = running_mean.clone(), running_var.clone()
        if activation != "silu":
            residual = None
        if mask is not None:
            ctx.stride = output.stride()
        ctx.arguments = training, eps, activation, negative_slope
        ctx.save_for_backward(input, weight, bias, residual, mean, spread, mask)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        tensors: Any
        grads: Any
        *tensors, mean, spread, mask = ctx.saved_tensors
        want = ctx.needs_input_grad[:4]
        if not is_first_order(grad_output):
            training, eps, activation, negative_slope = ctx.arguments
            shape = grad_output.shape
            passes = None if mask is None else unpacked(mask, shape, ctx.stride)
            normalize = in_torch.normalization(mean, spread, training, eps)
            grads = in_torch.gradients(
                grad_output, tensors, passes, activation, negative_slope, want, normalize
            )
        else:
            grads = operators.call_backward(  # type: ignore[call-arg]
                grad_output, *tensors, mean, spread, mask, *ctx.arguments, want
            )
        return *grads, *_NO_GRADS


#: For the arguments of `_BatchNorm` that are no leaves.
_NO_GRADS = (None,) * 7


def explain_batch_norm(arguments: dict[str, Any]) -> str:
    """Which way a call of `batch_norm` with these arguments would go, and why."""
    input = arguments["input"]
    names = ("running_mean", "running_var", "weight", "bias", "residual")
    tensors: Any = [arguments.get(name) for name in names]
    way = reason(input, *tensors)
    training, eps = arguments.get("training", False), arguments.get("eps", 1e-5)
    if not way.startswith(TORCH) and not _has_kernel(input, *tensors, training, eps):  # type: ignore[call-arg]
        return f"{TORCH}: an empty batch, an error, or dtypes or shapes that do not match"
    return way
