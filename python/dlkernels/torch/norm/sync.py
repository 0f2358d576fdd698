"""Batch normalization over the batches of several processes, on the CPU."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dlkernels import _core
from dlkernels.torch._bits import unpacked
from dlkernels.torch._tools import Proxy, as_leaf, outside_graphs
from dlkernels.torch.norm import in_torch, modules
from dlkernels.torch.norm.batch import check_fused

__all__ = ["SyncBatchNorm"]


class _Sum(torch.autograd.Function):
    """The sum over the processes, which can be differentiated."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = input.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return _Sum.apply(grad_output, ctx.group), None


class _SyncBatchNorm(torch.autograd.Function):
    """Each process sums its own part; counts, means and sums of squared deviations are merged in
    float64, in the order of the ranks, so that all come to the same bits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        group: Any,
        arguments: tuple[float, float, str | None, float],
    ) -> Tensor:
        momentum, eps, activation, negative_slope = arguments
        count, mean, m2 = _gather_statistics(input, group)
        invstd = (m2 / max(count, 1.0) + eps).rsqrt()
        ctx.group, ctx.count, ctx.eps = group, count, eps
        ctx.activation = activation, negative_slope
        output, mask = torch.empty_like(input), None
        if input.numel() > 0:
            output, mask = _core.batch_norm_elemt(  # type: ignore[call-arg]
                input, weight, bias, mean, invstd, *ctx.activation, residual, True
            )
        ctx.stride = output.stride()
        if count > 0:
            for statistic, new in zip(running, (mean, m2 / (count - 1)), strict=True):
                if statistic is not None:
                    statistic.copy_(torch.lerp(statistic.double(), new, momentum))
        ctx.save_for_backward(
            input, weight, bias, residual if activation == "silu" else None, mean, invstd, mask
        )
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, weight, bias, residual, mean, invstd, mask = ctx.saved_tensors
        want = wants_input, wants_weight, wants_bias, wants_residual = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():
            passes = None if mask is None else unpacked(mask, input.shape, ctx.stride)

            def average(x: Tensor, dims: Any) -> Tensor:
                total: Tensor = _Sum.apply(x.sum(dims), ctx.group)
                count: float = max(ctx.count, 1.0)
                return total / count

            return *in_torch.gradients(  # type: ignore[call-arg]
                grad_output, (input, weight, bias, residual), passes, *ctx.activation, want,
                lambda x, weight, bias: in_torch.normalized(x, weight, bias, ctx.eps, average),
            ), None, None, None  # fmt: skip
        grad_output = grad_output.resolve_neg()
        channels = input.shape[1]
        rest: Any = (*ctx.activation, residual, mask)
        at: Any = (input, weight, bias, mean, invstd)
        empty = input.numel() == 0
        if empty:
            sums = torch.zeros(2 * channels, dtype=torch.float64, device=input.device)
        else:
            sums = torch.cat(_core.batch_norm_backward_reduce(grad_output, *at, *rest))
        grads: list[Any] = [None] * 7
        # Their sums over the processes are left to whoever adds up all parameters' gradients.
        if wants_weight and weight is not None:
            grads[1] = (sums[channels:] * invstd).to(weight.dtype)
        if wants_bias and bias is not None:
            grads[2] = sums[:channels].to(bias.dtype, copy=True)
        if wants_input:
            dist.all_reduce(sums, group=ctx.group)
        passed_on = wants_residual and ctx.activation[0] is None
        if empty:
            grads[0] = torch.zeros_like(input) if wants_input else None
            grads[3] = torch.zeros_like(input) if wants_residual else None
        elif wants_input or (wants_residual and not passed_on):
            grads[0], grads[3] = _core.batch_norm_backward_elemt(  # type: ignore[call-arg]
                grad_output, *at, sums[:channels], sums[channels:], ctx.count, *rest,
                wants_input, wants_residual and not passed_on,
            )  # fmt: skip
        if passed_on:
            grads[3] = grad_output
        return tuple(grads)


def _gather_statistics(input: Tensor, group: Any) -> tuple[float, Tensor, Tensor]:
    """How many elements a channel has in all processes, their mean, and the sum of their squared
    deviations from it.
    """
    channels = input.shape[1]
    own = torch.zeros(2 * channels + 1, dtype=torch.float64, device=input.device)
    if input.numel() > 0:
        own[0] = input.numel() // channels
        own[1 : channels + 1], own[channels + 1 :] = _core.batch_norm_stats(input)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, own, group=group)
    table = torch.stack(gathered)
    counts, means, m2s = table[:, :1], table[:, 1 : channels + 1], table[:, channels + 1 :]
    count = float(counts.sum())
    if count == 1:
        raise ValueError(
            "Expected more than 1 value per channel when training, got 1 in all processes together"
        )
    # From the first mean that stands for something: no digits are lost where all are alike.
    start = means[int((counts > 0).byte().argmax())]
    mean = start + (counts * (means - start)).sum(0) / max(count, 1.0)
    # Without the processes that have no elements, whose zeros say nothing.
    apart = torch.where(counts > 0, means - mean, 0.0)
    return count, mean, (m2s + counts * apart.square()).sum(0)


@outside_graphs
def _synchronized(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: tuple[Tensor | None, Tensor | None],
    group: Any,
    momentum: Any,
    *arguments: Any,
) -> Tensor:
    """The function, outside compiled graphs, where a count of batches may have stayed a tensor."""
    if isinstance(momentum, Tensor):
        momentum = 1.0 / float(momentum)
    tensors = (None if t is None else t.resolve_neg() for t in (input, weight, bias, residual))
    output: Tensor = _SyncBatchNorm.apply(*tensors, running, group, (momentum, *arguments))
    return output


def _is_known(module: torch.nn.Module) -> bool:
    """Whether the module does what torch's batch norms or ours do."""
    theirs = (torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm)
    known = (*theirs, modules.BatchNorm2d, modules.BatchNormAct2d, SyncBatchNorm)
    own = type(module).forward
    return "forward" not in vars(module) and any(own is kind.forward for kind in known)


class SyncBatchNorm(modules.Activated):
    """`torch.nn.SyncBatchNorm` for CPU tensors, which torch's own refuses.

    In training, the statistics are those of the batches of all processes of a group of
    ``torch.distributed`` (gloo), which may differ in size and be empty; so are the gradients of the
    input. Those of weight and bias are this process's share, as torch's: `DistributedDataParallel`
    adds them up. In evaluation, outside ``torch.distributed`` and in a group of one it is
    `functional.batch_norm`; tensors on other devices take torch's way. Forward and backward are
    collective: every process of the group has to call them. It is no subclass of
    ``torch.nn.SyncBatchNorm``, because `DistributedDataParallel` refuses that one on the CPU.

    Args:
        num_features: As torch.
        eps: As torch.
        momentum: As torch.
        affine: As torch.
        track_running_stats: As torch.
        process_group: As torch.
        device: As torch.
        dtype: As torch.
        bias: As torch.
        activation: As in `BatchNormAct2d`; none by default.
        negative_slope: As in `BatchNormAct2d`.

    Raises:
        ValueError: There is no such activation.
    """

    __module__ = "dlkernels.torch.nn"
    # For a module of torch's that became one of ours by its class.
    process_group: Any | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        negative_slope: float = 0.01,
    ) -> None:
        """See the class."""
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self.process_group = process_group
        self.set_activation(activation, negative_slope)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def _check_non_zero_input_channels(self, input: Tensor) -> None:
        if input.size(1) == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(batch_norm(input) + residual)`` over the batches of the group."""
        if type(input) is Proxy:
            return as_leaf(self, input, residual)
        self._check_input_dim(input)
        self._check_non_zero_input_channels(input)
        activation = self.activation, self.negative_slope
        if not self._synchronizes():
            return modules.normalize(self, input, *activation, residual)
        if not input.is_cpu:
            output: Tensor = torch.nn.SyncBatchNorm.forward(self, input)  # type: ignore[arg-type]
            return in_torch.finish(output, residual, *activation)
        check_fused(input, activation[0], residual)
        _, momentum = modules.statistics_of(self)
        running = modules.running_statistics(self)
        group = self.process_group or dist.group.WORLD
        output = _synchronized(
            input, self.weight, self.bias, residual, running, group, momentum, self.eps, *activation
        )
        return output

    def _synchronizes(self) -> bool:
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return False
        return dist.get_world_size(self.process_group or dist.group.WORLD) > 1

    @classmethod
    def convert_sync_batchnorm(cls, module: Any, process_group: Any | None = None) -> Any:
        """Puts this module in the place of every batch norm, torch's or ours, within `module`.

        Activations and the places of residuals are kept. A subclass with a forward of its own is
        left as it is, with a warning.

        Args:
            module: The model.
            process_group: Whose processes share their statistics; all by default.

        Returns:
            ``module``, or its replacement where it is a batch norm itself. Parameters and buffers
            are the same tensors as before.
        """
        converted = module
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and not _is_known(module):
            warnings.warn(
                f"convert_sync_batchnorm: {type(module).__name__} has a forward of its own and "
                "stays as it is, with the statistics of one process",
                stacklevel=2,
            )
        elif isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            converted = cls(
                module.num_features,
                module.eps,
                module.momentum,
                module.affine,
                module.track_running_stats,
                process_group,
                bias=module.bias is not None,
            )
            if isinstance(module, modules.Activated):
                converted.set_activation(module.activation, module.negative_slope)
            if module.affine:
                converted.weight, converted.bias = module.weight, module.bias
            converted.running_mean = module.running_mean
            converted.running_var = module.running_var
            converted.num_batches_tracked = module.num_batches_tracked
            converted.training = module.training
            if hasattr(module, "qconfig"):
                converted.qconfig = module.qconfig
        for name, child in module.named_children():
            converted.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return converted
