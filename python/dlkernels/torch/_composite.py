"""The kernels' functions in torch's own operations: for gradients of gradients, batches of
gradients, and tensors that no kernel takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlkernels import _core
from dlkernels.activations import ACTIVATIONS


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
) -> Tensor:
    """The same loss in torch's own operations, differentiable any number of times."""
    if softcap:
        input = softcap * torch.tanh(input / softcap)
    loss = F.cross_entropy(
        input,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    if z_loss == 0:
        return loss
    penalty = z_loss * torch.logsumexp(input, 0 if input.dim() == 1 else 1).square()
    if target.shape != input.shape:
        counts = target != ignore_index
        penalty = torch.where(counts, penalty, torch.zeros_like(penalty))
        if reduction == "mean":
            return loss + penalty.sum() / counts.sum()
    return loss + (penalty if reduction == "none" else getattr(penalty, reduction)())


def differentiate(
    function: Callable[[Tensor], Tensor], input: Tensor, grad_output: Tensor
) -> Tensor:
    """`function`'s gradient through torch's own operations, inside a backward: differentiable again
    under create_graph, and good for a batch of grad_output.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        if not create_graph:
            input = input.detach().requires_grad_()
        output = function(input)
        (grad,) = torch.autograd.grad(output, input, grad_output, create_graph=create_graph)
    return grad


def differentiate_all(
    function: Callable[..., Any], inputs: Sequence[Tensor], grad_output: Any
) -> tuple[Tensor, ...]:
    """The gradients of `function`, whose result may be a tuple as `grad_output` then is, for every
    one of its inputs, inside a backward.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # A view, because one tensor may be two of the inputs: each gets its own part.
        at = [
            x.view_as(x) if create_graph and x.requires_grad else x.detach().requires_grad_()
            for x in inputs
        ]
        return torch.autograd.grad(
            function(*at), at, grad_output, create_graph=create_graph, materialize_grads=True
        )


def softmax_backward(grad_output: Tensor, output: Tensor, dim: int, logarithm: bool) -> Tensor:
    """torch's own, which is differentiable again and knows torch.func's transforms."""
    backward = torch._log_softmax_backward_data if logarithm else torch._softmax_backward_data
    return backward(grad_output, output, dim, output.dtype)


#: The activations by their number.
ACTIVATION_ROWS = {row.index: row for row in ACTIVATIONS.values()}


def activation_backward(
    grad_output: Tensor, saved: Tensor, index: int, a: float, b: float
) -> Tensor:
    """The gradient of an activation that saves its input or its output."""
    row = ACTIVATION_ROWS[index]
    values = {p.name: p.from_number(x) for p, x in zip(row.parameters, (a, b), strict=False)}
    if row.derivative is not None:
        grad: Tensor = grad_output * row.derivative(saved, *values.values())
        return grad
    function = getattr(F, row.name)
    return differentiate(lambda x: function(x, **values), saved, grad_output)


def unpacked(mask: Tensor, shape: Any, stride: Any) -> Tensor:
    """The bits of a mask as booleans, for a tensor that lies in memory with these strides."""
    bits = mask.unsqueeze(1).bitwise_right_shift(torch.arange(8, dtype=torch.uint8)).bitwise_and(1)
    return bits.flatten().bool().as_strided(shape, stride)


def masked_backward(
    grad_output: Tensor, mask: Tensor, stride: Any, index: int, a: float, b: float
) -> Tensor:
    """The gradient of an activation that saves a mask: one factor where a bit is set, else another,
    which are asked of the kernel."""
    passes = unpacked(mask, grad_output.shape, stride)
    ones, one_passes = np.ones(2), np.array([1, 0], np.uint8)
    set_factor, clear_factor = _core.activation_backward(index, ones, None, one_passes, a, b)
    return torch.where(
        passes,
        grad_output * float(set_factor),
        grad_output * float(clear_factor) if clear_factor else 0.0,
    )


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
    """Batch normalization, the residual added, the activation, in torch's own operations."""
    output = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return finish_batch_norm(output, residual, activation, negative_slope)


def finish_batch_norm(
    output: Tensor, residual: Tensor | None, activation: str | None, negative_slope: float
) -> Tensor:
    """What may follow a normalization."""
    if residual is not None:
        output = output + residual
    if activation == "leaky_relu":
        return F.leaky_relu(output, negative_slope)
    finished: Tensor = output if activation is None else getattr(F, activation)(output)
    return finished


def batch_norm_backward(
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
        normalize: The normalization of an input with a weight and a bias.
    """
    if passes is not None:
        slope = negative_slope if activation == "leaky_relu" else 0.0
        grad_output = torch.where(passes, grad_output, grad_output * slope if slope else 0.0)
        activation = None
    grads: list[Tensor | None] = [None, None, None, None]
    if activation is None:
        tensors = [*tensors[:3], None]
        grads[3] = grad_output if want[3] else None
    chosen = [i for i, tensor in enumerate(tensors) if want[i] and tensor is not None]

    def function(*at: Tensor) -> Tensor:
        filled: Any = list(tensors)
        for i, tensor in zip(chosen, at, strict=True):
            filled[i] = tensor
        return finish_batch_norm(normalize(*filled[:3]), filled[3], activation, negative_slope)

    if chosen:
        at = [tensor for i, tensor in enumerate(tensors) if i in chosen and tensor is not None]
        for i, grad in zip(chosen, differentiate_all(function, at, grad_output), strict=True):
            grads[i] = grad
    return grads


def normalization(
    mean: Tensor, spread: Tensor, training: bool, eps: float
) -> Callable[..., Tensor]:
    """torch's, as `batch_norm_backward` takes it, in evaluation with these running statistics."""
    statistics: Any = (None, None) if training else (mean, spread)
    rest: Any = training, 0.0, eps
    return lambda *affine: F.batch_norm(affine[0], *statistics, *affine[1:], *rest)
