"""Batch normalization's operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlkernels import _core
from dlkernels.torch import _layout as layout
from dlkernels.torch._bits import byte_count, packed, unpacked
from dlkernels.torch._operator import Operation
from dlkernels.torch.norm import in_torch


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    """`functional.batch_norm` through its operator.

    Args:
        momentum: Also the number of batches so far, as a tensor, for their plain average.
    """
    counted = isinstance(momentum, Tensor)
    differentiable = (input, weight, bias, residual)
    save = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in differentiable
    )
    results = _BATCH_NORM.operator(
        input, weight, bias, residual, running_mean, running_var,
        training, 1.0 if counted else momentum, eps, activation, negative_slope, save,
    )  # fmt: skip
    output: Tensor = results[0]
    if training and running_mean is not None and running_var is not None:
        with torch.no_grad():
            for running, moved in ((running_mean, results[4]), (running_var, results[5])):
                if counted:
                    running.add_((moved - running) / momentum)
                else:
                    running.copy_(moved)
    return output


def call_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    spread: Tensor,
    mask: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
    want: Sequence[bool],
) -> tuple[Any, ...]:
    """The wanted gradients of input, weight, bias and residual; None for the others.

    Args:
        mean: The running mean, or in training this batch's.
        spread: The running variance, or in training this batch's 1 / sqrt(var + eps).
    """
    wanted = tuple(want)
    passed_on = activation is None and wanted[3]  # the residual's gradient is grad_output itself
    if passed_on:
        wanted = (*wanted[:3], False)
    statistics: Any = (None, None, mean, spread) if training else (mean, spread, None, None)
    grads = _core.batch_norm_backward(  # type: ignore[call-arg]
        grad_output.resolve_neg(), input, weight, bias, *statistics,
        training, eps, activation, negative_slope, residual, mask, wanted,
    )  # fmt: skip
    return (*grads[:3], grad_output) if passed_on else grads


def _kernel(
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
    save: bool,
) -> tuple[Tensor, ...]:
    running: Any = running_mean, running_var
    if training:
        running = tuple(None if r is None else _copy(r) for r in running)
    output, mean, spread, mask = _core.batch_norm(  # type: ignore[call-arg]
        input, weight, bias, *running, training, momentum, eps, activation, negative_slope,
        residual, save, None,
    )  # fmt: skip
    if save and not training:  # copies, for a step of training may come before backward
        mean, spread = (None if r is None else _copy(r) for r in running)
    kept = (mean, spread, mask, *(running if training else (None, None)))
    return output, *(_nothing(input) if tensor is None else tensor for tensor in kept)


def _copy(vector: Tensor) -> Tensor:
    copy: Tensor = vector.new_empty(vector.shape).copy_(vector)
    return copy


def _nothing(input: Tensor) -> Tensor:
    """What an operator returns for a result that is not there."""
    return input.new_empty([0])


def _makes_mask(activation: str | None, residual: Tensor | None) -> bool:
    return residual is not None and activation in ("relu", "leaky_relu")


def _fake(
    input: Tensor,
    weight: Any,
    bias: Any,
    residual: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    negative_slope: float,
    save: bool,
) -> Any:
    output, nothing = layout.empty(input, layout.batch_norm(input)), _nothing(input)
    mean = spread = mask = new_mean = new_var = nothing
    if save and not training:
        mean, spread = (r.new_empty(r.shape) for r in (running_mean, running_var))
    elif save:
        shape = [input.shape[1]]
        mean, spread = (input.new_empty(shape, dtype=torch.float64) for _ in range(2))
    if save and _makes_mask(activation, residual):
        mask = input.new_empty([byte_count(input.numel())], dtype=torch.uint8)
    if training and running_mean is not None:
        new_mean, new_var = (r.new_empty(r.shape) for r in (running_mean, running_var))
    return output, *(
        nothing.clone() if tensor is nothing else tensor
        for tensor in (mean, spread, mask, new_mean, new_var)
    )


def _in_torch(input: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    weight, bias, residual, running_mean, running_var, training, *others = arguments
    momentum, eps, activation, negative_slope, save = others
    aten, nothing = torch.ops.aten, _nothing(input)
    mean = spread = mask = new_mean = new_var = nothing
    if not training:
        output, _, _ = aten._native_batch_norm_legit_no_training(
            input, weight, bias, running_mean, running_var, momentum, eps
        )
        if save:
            mean, spread = (
                r.clone(memory_format=torch.contiguous_format) for r in (running_mean, running_var)
            )
    else:
        if running_mean is None or running_var is None:
            output, mean, spread = aten._native_batch_norm_legit.no_stats(
                input, weight, bias, True, momentum, eps
            )
        else:
            output, mean, spread, new_mean, new_var = aten._native_batch_norm_legit_functional(
                input, weight, bias, running_mean, running_var, True, momentum, eps
            )
        mean, spread = (mean.double(), spread.double()) if save else (nothing, nothing)
    strides = layout.batch_norm(input)
    if residual is not None:
        output = output + residual
    if save and _makes_mask(activation, residual):
        mask = packed(output > 0, strides)
    output = in_torch.finish(output, None, activation, negative_slope)
    kept = (mean, spread, mask, new_mean, new_var)
    return output, *(nothing.clone() if tensor is nothing else tensor for tensor in kept)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    input, weight, bias, residual, _, _, training, _, eps, *rest = inputs
    activation, negative_slope, ctx.save = rest
    _, mean, spread, mask, new_mean, new_var = output
    ctx.mark_non_differentiable(mean, spread, mask, new_mean, new_var)
    if not _makes_mask(activation, residual):
        mask = None
    if activation != "silu":
        residual = None
    ctx.arguments = training, eps, activation, negative_slope
    ctx.save_for_backward(input, weight, bias, residual, mean, spread, mask)


def _differentiate(ctx: Any, grad_output: Tensor, *_others: Any) -> Any:
    if not ctx.save:
        raise RuntimeError("dlkernels::batch_norm: save=False keeps nothing for backward")
    want = list(ctx.needs_input_grad[:4])
    passed_on = ctx.arguments[2] is None and want[3]
    want[3] = want[3] and not passed_on
    found = _GRADIENTS.operator(grad_output, *ctx.saved_tensors, *ctx.arguments, want)
    grads = [grad if wanted else None for grad, wanted in zip(found, want, strict=True)]
    if passed_on:
        grads[3] = grad_output
    return *grads, *([None] * 8)


def _gradients_kernel(grad_output: Tensor, input: Tensor, *args: Any) -> tuple[Tensor, ...]:
    grads = call_backward(grad_output, input, *args)
    if grads[3] is grad_output:  # an operator returns none of its arguments
        copy = layout.empty(input, layout.batch_norm(input)).copy_(grad_output)
        grads = (*grads[:3], copy)
    return tuple(_nothing(input) if grad is None else grad for grad in grads)


def _gradients_fake(grad_output: Tensor, input: Tensor, weight: Any, bias: Any, *args: Any) -> Any:
    strides = layout.batch_norm(input)

    def grad(like: Tensor) -> Tensor:
        return layout.empty(like, strides if like is input else (1,))

    return tuple(
        grad(like) if wanted else _nothing(input)
        for like, wanted in zip((input, weight, bias, input), args[-1], strict=True)
    )


def _gradients_in_torch(grad_output: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    tensors, (mean, spread, mask, training, eps, activation, negative_slope, want) = (
        arguments[:4], arguments[4:]
    )  # fmt: skip
    input = tensors[0]
    strides = layout.batch_norm(input)
    passes = None if mask is None else unpacked(mask, input.shape, strides)
    normalize = in_torch.normalization(mean, spread, training, eps)
    grads = in_torch.gradients(
        grad_output, tensors, passes, activation, negative_slope, want, normalize
    )
    return tuple(_nothing(input) if grad is None else grad for grad in grads)


_GRADIENTS = Operation(
    "batch_norm_backward",
    "(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, "
    "Tensor mean, Tensor spread, Tensor? mask, bool training, float eps, str? activation, "
    "float negative_slope, bool[] want) -> (Tensor, Tensor, Tensor, Tensor)",
    _gradients_kernel,
    _gradients_fake,
    _gradients_in_torch,
)

# An operator with an autograd formula may not write to its arguments: this one returns what the
# running statistics become.
_BATCH_NORM = Operation(
    "batch_norm",
    "(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? running_mean, "
    "Tensor? running_var, bool training, float momentum, float eps, str? activation, "
    "float negative_slope, bool save) -> (Tensor output, Tensor mean, Tensor spread, Tensor mask, "
    "Tensor running_mean, Tensor running_var)",
    _kernel,
    _fake,
    _in_torch,
    autograd=(_save, _differentiate),
)
