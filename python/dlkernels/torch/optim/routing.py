"""What a step is made of: a kernel where one takes the tensors, else torch's operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from dlkernels import _core
from dlkernels.optim import state_formats as formats
from dlkernels.optim.step_options import (
    AVERAGED,
    Extras,
    count_average,
    extras_of,
    inverse_scale,
)
from dlkernels.torch._tools import outside_graphs
from dlkernels.torch.optim.blank_states import BlankStates, is_zero
from dlkernels.torch.optim.options_in_torch import step_with_extras
from dlkernels.torch.optim.shards import has_shards
from dlkernels.torch.optim.step import KernelSteps

__all__ = ["Steps"]


class Steps(KernelSteps):
    """The step."""

    _torch_class: ClassVar[type[torch.optim.Optimizer]]
    _blank: BlankStates | None = None

    @outside_graphs
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step.

        Args:
            closure: Reevaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, or None.
        """
        if self._now["shows_averages"]:
            raise RuntimeError(f"{type(self).__name__}: step: called within ema_weights()")
        if closure is None and not self.state and self._has_nothing_to_do():
            self._make_blank_states()
            return None
        if self._blank is not None:
            self._blank.remove()
            self._blank = None
        options = extras_of(type(self).__name__, self.param_groups)
        is_differentiable = False
        for group in self.param_groups:
            is_differentiable = is_differentiable or group["differentiable"]
        if is_differentiable and options.any:
            raise ValueError(
                f"{type(self).__name__}: step: differentiable=True excludes max_grad_norm, "
                "write_back, ema_decay, zero_grads and scaler_in_step"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        extras = self._kernel_extras(options)
        if is_differentiable:
            self._step_in_torch()
        elif not self._step_by_table(options, extras):
            self._step_anew(options, extras)
        if extras.is_skipped:
            return loss
        if options.ema_decay is not None and (
            self.param_groups[0].get(AVERAGED)
            or any(p.grad is not None for group in self.param_groups for p in group["params"])
        ):
            count_average(self.param_groups)
        for group in self.param_groups:
            if formats.rounding(group):
                group["rounding_step"] += 1
        return loss

    def _has_nothing_to_do(self) -> bool:
        """Whether this is the step with which `torch.distributed.checkpoint` makes the states of an
        optimizer that has none, of zeros at a rate of 0."""
        if any(bool(group["lr"] != 0) for group in self.param_groups):
            return False
        grads = [param.grad for group in self.param_groups for param in group["params"]]
        return any(grad is not None for grad in grads) and all(
            grad is None or (not grad.is_sparse and is_zero(grad)) for grad in grads
        )

    def _make_blank_states(self) -> None:
        self._table = None
        self._make_states(blank=True)
        if self.param_groups[0].get("ema_decay") is not None:
            self._make_averages()
        self._blank = BlankStates(self._rule, self.param_groups, self.state)

    def _kernel_extras(self, options: Extras) -> _core.StepExtras:
        if not options.scaler_in_step:
            return options.for_kernel(self.param_groups, 1.0, False, False)
        scale, found = self.__dict__.get("grad_scale"), self.__dict__.get("found_inf")
        # Another pass over the gradients, unless the norm is wanted anyway.
        checks = found is None or options.max_grad_norm is not None
        return options.for_kernel(
            self.param_groups,
            1.0 if scale is None else inverse_scale(type(self).__name__, scale),
            checks and not (scale is None and found is None),
            found is not None and float(found) != 0,
        )

    def _step_anew(self, options: Extras, extras: _core.StepExtras) -> None:
        """The step from nothing: makes the states of first steps, and the table for the next."""
        self._table = None
        averages = options.ema_decay is not None
        if not options.any:
            self._step_rule(extras)
        elif has_shards(group["params"] for group in self.param_groups):
            self._step_around(extras, averages, self._step_rule)
        elif not self._step_by_kernel(extras, averages):
            self._step_around(extras, averages, self._step_in_torch)

    def _step_rule(self, extras: _core.StepExtras | None = None) -> None:
        """The step and nothing else."""
        if not self._step_by_kernel(extras or _core.StepExtras(), False):
            self._step_in_torch()

    def _step_around(
        self, extras: _core.StepExtras, averages: bool, step: Callable[[], None]
    ) -> None:
        """A step with the rest in torch's operations."""
        params = [param for group in self.param_groups for param in group["params"]]
        norm = step_with_extras(params, self.state, extras, averages, step)
        if norm is not None:
            self._now["grad_norm"] = norm

    def _step_in_torch(self) -> None:
        """The same step by torch; its fused one goes wrong where strides differ, so on the CPU by
        its loop."""
        if any(formats.has_formats(group) for group in self.param_groups):
            raise self._no_kernel()
        step = self._torch_class.step
        while getattr(step, "hooked", False):  # hooks have run, or will
            step = step.__wrapped__  # type: ignore[attr-defined]
        flags: list[dict[str, Any]] = [
            {name: group[name] for name in ("foreach", "fused", "capturable") if name in group}
            for group in self.param_groups
        ]
        for group, saved in zip(self.param_groups, flags, strict=True):
            if all(param.device.type == "cpu" for param in group["params"]):
                group.update(dict.fromkeys(saved, False))
        # A scaler's, which torch's loop does not take.
        scaler = {name: self.__dict__.pop(name, None) for name in ("grad_scale", "found_inf")}
        try:
            with torch.device("cpu"):
                step(self)
        finally:
            self.__dict__.update(
                {name: value for name, value in scaler.items() if value is not None}
            )
            for group, saved in zip(self.param_groups, flags, strict=True):
                group.update(saved)
