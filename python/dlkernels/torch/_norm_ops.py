"""Batch normalization as operators of ``torch.ops.dlkernels``; see `dlkernels.torch.ops`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlkernels import _core
from dlkernels.torch import _composite as composite
from dlkernels.torch import _layout as layout
from dlkernels.torch._layout import laid_out
from dlkernels.torch.ops import _LIBRARY, _decomposes, _implement

# An operator with an autograd formula may not write to its arguments: this one returns what the
# running statistics become.
_LIBRARY.define(
    "batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, "
    "Tensor? running_mean, Tensor? running_var, bool training, float momentum, float eps, "
    "str? activation, float negative_slope, bool save) "
    "-> (Tensor output, Tensor mean, Tensor spread, Tensor mask, Tensor running_mean, "
    "Tensor running_var)"
)
_LIBRARY.define(
    "batch_norm_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, "
    "Tensor? residual, Tensor mean, Tensor spread, Tensor? mask, bool training, float eps, "
    "str? activation, float negative_slope, bool[] want) -> (Tensor, Tensor, Tensor, Tensor)"
)


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
    results = torch.ops.dlkernels.batch_norm(
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


@_implement("batch_norm")
def _batch_norm(
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


@torch.library.register_fake("dlkernels::batch_norm", lib=_LIBRARY)
def _(
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
        mask = input.new_empty([(input.numel() + 15) // 16 * 2], dtype=torch.uint8)
    if training and running_mean is not None:
        new_mean, new_var = (r.new_empty(r.shape) for r in (running_mean, running_var))
    return output, *(
        nothing.clone() if tensor is nothing else tensor
        for tensor in (mean, spread, mask, new_mean, new_var)
    )


@_decomposes("batch_norm")
def _(input: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
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
                laid_out(r.clone(memory_format=torch.contiguous_format), (1,))
                for r in (running_mean, running_var)
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
            new_mean, new_var = laid_out(new_mean, (1,)), laid_out(new_var, (1,))
        mean, spread = (mean.double(), spread.double()) if save else (nothing, nothing)
    strides = layout.batch_norm(input)
    if residual is not None:
        output = output + residual
    if save and _makes_mask(activation, residual):
        mask = composite.packed(output > 0, strides)
    output = composite.finish_batch_norm(output, None, activation, negative_slope)
    kept = (mean, spread, mask, new_mean, new_var)
    return laid_out(output, strides), *(
        nothing.clone() if tensor is nothing else tensor for tensor in kept
    )


def _save_batch_norm(ctx: Any, inputs: Any, output: Any) -> None:
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


def _differentiate_batch_norm(ctx: Any, grad_output: Tensor, *_others: Any) -> Any:
    if not ctx.save:
        raise RuntimeError("dlkernels::batch_norm: save=False keeps nothing for backward")
    want = list(ctx.needs_input_grad[:4])
    passed_on = ctx.arguments[2] is None and want[3]
    want[3] = want[3] and not passed_on
    found = torch.ops.dlkernels.batch_norm_backward(
        grad_output, *ctx.saved_tensors, *ctx.arguments, want
    )
    grads = [grad if wanted else None for grad, wanted in zip(found, want, strict=True)]
    if passed_on:
        grads[3] = grad_output
    return *grads, *([None] * 8)


torch.library.register_autograd(
    "dlkernels::batch_norm",
    _differentiate_batch_norm,
    setup_context=_save_batch_norm,
    lib=_LIBRARY,
)


@_implement("batch_norm_backward")
def _batch_norm_backward(grad_output: Tensor, input: Tensor, *args: Any) -> tuple[Tensor, ...]:
    grads = call_backward(grad_output, input, *args)
    if grads[3] is grad_output:  # an operator returns none of its arguments
        copy = layout.empty(input, layout.batch_norm(input)).copy_(grad_output)
        grads = (*grads[:3], copy)
    return tuple(_nothing(input) if grad is None else grad for grad in grads)


@torch.library.register_fake("dlkernels::batch_norm_backward", lib=_LIBRARY)
def _(grad_output: Tensor, input: Tensor, weight: Any, bias: Any, *args: Any) -> Any:
    strides = layout.batch_norm(input)

    def grad(like: Tensor) -> Tensor:
        return layout.empty(like, strides if like is input else (1,))

    return tuple(
        grad(like) if wanted else _nothing(input)
        for like, wanted in zip((input, weight, bias, input), args[-1], strict=True)
    )


@_decomposes("batch_norm_backward")
def _(grad_output: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    tensors, (mean, spread, mask, training, eps, activation, negative_slope, want) = (
        arguments[:4], arguments[4:]
    )  # fmt: skip
    input = tensors[0]
    strides = layout.batch_norm(input)
    passes = None if mask is None else composite.unpacked(mask, input.shape, strides)
    normalize = composite.normalization(mean, spread, training, eps)
    grads = composite.batch_norm_backward(
        grad_output, tensors, passes, activation, negative_slope, want, normalize
    )
    return tuple(
        _nothing(input) if grad is None else laid_out(grad, strides) if grad.dim() > 1 else grad
        for grad in grads
    )


def _save_batch_norm_backward(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.training, ctx.eps, activation, negative_slope, ctx.want = inputs
    ctx.activation = activation, negative_slope
    ctx.save_for_backward(*tensors)


def _differentiate_batch_norm_backward(ctx: Any, *grad_grads: Any) -> Any:
    *tensors, mean, spread, mask = ctx.saved_tensors
    shape, stride = tensors[1].shape, layout.batch_norm(tensors[1])
    passes = None if mask is None else composite.unpacked(mask, shape, stride)
    normalize = composite.normalization(mean, spread, ctx.training, ctx.eps)
    chosen = [i for i, tensor in enumerate(tensors) if tensor is not None]
    wanted = [i for i, want in enumerate(ctx.want) if want]

    def backward(*at: Tensor) -> tuple[Tensor | None, ...]:
        filled: list[Any] = [None] * len(tensors)
        for i, tensor in zip(chosen, at, strict=True):
            filled[i] = tensor
        grads = composite.batch_norm_backward(  # type: ignore[call-arg]
            filled[0], filled[1:], passes, *ctx.activation, ctx.want, normalize
        )
        return tuple(grads[i] for i in wanted)

    found = composite.differentiate_all(
        backward, [tensors[i] for i in chosen], [grad_grads[i] for i in wanted]
    )
    grads: list[Any] = [None] * 13
    for i, grad in zip(chosen, found, strict=True):
        grads[i] = grad
    return tuple(grads)


torch.library.register_autograd(
    "dlkernels::batch_norm_backward",
    _differentiate_batch_norm_backward,
    setup_context=_save_batch_norm_backward,
    lib=_LIBRARY,
)
