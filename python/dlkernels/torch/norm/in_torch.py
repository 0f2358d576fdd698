"""Batch normalization in torch's own operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkernels.torch._differentiate import differentiate_chosen


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    """Batch normalization by torch's own function, the residual added, the activation."""
    output = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return finish(output, residual, activation, negative_slope)


#: Something's mean over these dimensions.
Average = Callable[[Tensor, Sequence[int]], Tensor]


def normalized(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    statistics: tuple[Tensor, Tensor] | Average,
) -> Tensor:
    """The normalization in operations for any layout, in float64.

    torch's own takes a tensor with dimensions of size 1 for one of another memory format, by their
    strides, and then has a wrong gradient.

    Args:
        input: ``(N, C, *)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: Added to the variance.
        statistics: The mean and the variance, or how to average.
    """
    dims = [dim for dim in range(input.dim()) if dim != 1]
    shape = [-1] + [1] * (input.dim() - 2)
    x = input.double()
    if isinstance(statistics, tuple):
        mean, variance = statistics
        x = x - mean.double().view(shape)
        variance = variance.double()
    else:
        x = x - statistics(x, dims).view(shape)
        variance = statistics(x.square(), dims)
    x = x * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        x = x * weight.double().view(shape)
    if bias is not None:
        x = x + bias.double().view(shape)
    return x


def batch_norm_of_any_strides(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    """`batch_norm` whose derivatives are right for any strides, for torch.func's transforms."""
    statistics: Any = torch.mean if training else (running_mean, running_var)
    if training and running_mean is not None:  # torch alone may move them inside a transform
        F.batch_norm(input.detach(), running_mean, running_var, None, None, True, momentum, eps)
    output = normalized(input, weight, bias, eps, statistics)
    return finish(output, residual, activation, negative_slope).to(input.dtype)


def finish(
    output: Tensor, residual: Tensor | None, activation: str | None, negative_slope: float
) -> Tensor:
    """What may follow a normalization."""
    if residual is not None:
        output = output + residual
    if activation == "leaky_relu":
        return F.leaky_relu(output, negative_slope)
    finished: Tensor = output if activation is None else getattr(F, activation)(output)
    return finished


def gradients(
    grad_output: Tensor,
    tensors: Sequence[Tensor | None],
    passes: Tensor | None,
    activation: str | None,
    negative_slope: float,
    want: Sequence[bool],
    normalize: Callable[..., Tensor],
) -> list[Tensor | None]:
    """The gradients of input, weight, bias and residual, as far as they are wanted.

    Args:
        grad_output: The gradient of the result.
        tensors: The input, weight, bias, and the residual where the gradient depends on it.
        passes: Where the activation's input was positive, if that cannot be made again.
        activation: As `batch_norm` had it.
        negative_slope: As `batch_norm` had it.
        want: Which of the four.
        normalize: The normalization of an input with a weight and a bias, in float64.
    """
    if passes is not None:
        slope = negative_slope if activation == "leaky_relu" else 0.0
        grad_output = torch.where(passes, grad_output, grad_output * slope if slope else 0.0)
        activation = None
    if activation is None:
        tensors = [*tensors[:3], None]
    chosen = [i for i, tensor in enumerate(tensors) if want[i] and tensor is not None]

    def function(input: Tensor, weight: Any, bias: Any, residual: Any) -> Tensor:
        output = finish(normalize(input, weight, bias), residual, activation, negative_slope)
        return output.to(grad_output.dtype)

    grads = differentiate_chosen(function, tensors, chosen, grad_output)
    if activation is None and want[3]:
        grads[3] = grad_output
    return grads


def normalization(
    mean: Tensor, spread: Tensor, training: bool, eps: float
) -> Callable[..., Tensor]:
    """As `gradients` takes it, in evaluation with these running statistics."""
    statistics: Any = torch.mean if training else (mean, spread)
    return lambda input, weight, bias: normalized(input, weight, bias, eps, statistics)
