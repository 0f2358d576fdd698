"""Twins of ``torch.optim`` optimizers: subclasses of torch's own, so arguments, groups, hooks and
state dicts are the same, whose step updates every parameter of every group in one parallel region.

Every class takes any mixture of float32, float64, bfloat16 and float16 for a parameter, its
gradient and its states, in any strides; float64 where one of them is, else float32 is computed in,
and every result rounded once. ``foreach``, ``fused`` and ``capturable`` are accepted and change
nothing. With ``differentiable=True``, or where a tensor is sparse, complex, a subclass or on
another device, the step is torch's own. States keep their dtypes in ``load_state_dict``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import torch

from dlkernels import _core
from dlkernels import _optimizer_rules as rules

__all__ = ["SGD", "Adam", "AdamW"]


class _KernelOptimizer(torch.optim.Optimizer):
    """Comes before torch's class among the bases of a twin, and replaces its step."""

    _rule: ClassVar[rules.Rule]
    _torch_class: ClassVar[type[torch.optim.Optimizer]]
    # Never copied or saved: torch's own __getstate__ names what is.
    _table: _core.ParameterTable | None = None
    # fused=True is torch's to check only where torch's fused step runs.
    _need_device_dtype_check_for_fused = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._torch_class = next(
            base for base in cls.__mro__ if base.__module__.startswith("torch.optim.")
        )
        cls.__signature__ = inspect.signature(cls._torch_class)  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **keywords: Any) -> None:
        """As torch's."""
        super().__init__(*args, **keywords)
        # torch sets it for fused=True; a GradScaler then leaves the unscaling to step().
        self.__dict__.pop("_step_supports_amp_scaling", None)
        self.__dict__.pop("_need_device_dtype_check_for_fused", None)

    @torch._dynamo.disable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Performs one step.

        Args:
            closure: Reevaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if any(group["differentiable"] for group in self.param_groups):
            self._step_in_torch()
        elif not self._step_by_table():
            self._step_anew()
        return loss

    def _groups_and_slots(self) -> tuple[list[Any], list[Any]]:
        return (
            [group["params"] for group in self.param_groups],
            [self._rule.used_slots(group) for group in self.param_groups],
        )

    def _advance(
        self, group: int, scalars: rules.Numbers, fresh: bool, single: bool
    ) -> tuple[rules.Numbers, rules.Numbers]:
        return self._rule.advance(self.param_groups[group], scalars, fresh, single)

    def _step_by_table(self) -> bool:
        """The step from what the last one left; False, and nothing done, where it does not fit."""
        if self._table is None:
            return False
        try:
            return self._table.step(*self._groups_and_slots(), self.state, self._advance)
        except TypeError:  # no kernel for one of the tensors
            return False

    def _step_anew(self) -> None:
        """The step from nothing: makes the states of first steps, and the table for the next."""
        self._table = None
        fresh = self._make_states()
        is_done = False
        try:
            groups, slots = self._groups_and_slots()
            table = _core.ParameterTable(
                type(self).__name__,
                self._rule.kernel,
                list(self._rule.slots),
                list(self._rule.scalars),
                groups,
                slots,
                self.state,
                fresh,
                _core.torch_handles_available(),
            )
            is_done = table.step(groups, slots, self.state, self._advance)
        except TypeError:
            pass
        finally:
            if not is_done:
                self._forget_states(fresh)
        if is_done:
            self._table = table
        else:
            self._step_in_torch()

    def _make_states(self) -> list[torch.Tensor]:
        """Makes what is missing of the states of parameters with gradients, as torch makes it, and
        raises what torch raises. Returns the parameters whose states hold nothing yet."""
        lists = len(inspect.signature(self._torch_class._init_group).parameters) - 2  # type: ignore[attr-defined]
        for group in self.param_groups:
            self._init_group(group, *([] for _ in range(lists)))  # type: ignore[attr-defined]
        return []

    def _forget_states(self, fresh: list[torch.Tensor]) -> None:
        """Takes back what `_make_states` returned."""

    def _step_in_torch(self) -> None:
        """The same step by torch; its fused one goes wrong where strides differ, so on the CPU by
        its loop."""
        step = self._torch_class.step
        while getattr(step, "hooked", False):  # hooks have run, or will
            step = step.__wrapped__  # type: ignore[attr-defined]
        flags = [
            {name: group[name] for name in ("foreach", "fused", "capturable") if name in group}
            for group in self.param_groups
        ]
        for group, saved in zip(self.param_groups, flags, strict=True):
            if all(param.device.type == "cpu" for param in group["params"]):
                group.update(dict.fromkeys(saved, False))
        try:
            step(self)  # type: ignore[call-arg]
        finally:
            for group, saved in zip(self.param_groups, flags, strict=True):
                group.update(saved)

    @staticmethod
    def _process_value_according_to_param_policy(
        param: torch.Tensor,
        value: torch.Tensor,
        param_id: int,
        param_groups: list[dict[Any, Any]],
        key: Hashable = None,
    ) -> torch.Tensor:
        # torch casts a state to its parameter's dtype: float32 moments of a bfloat16 parameter
        # would lose what they are kept for.
        if key != "step" and param.is_floating_point() and value.is_floating_point():
            return value.to(device=param.device)
        return torch.optim.Optimizer._process_value_according_to_param_policy(
            param, value, param_id, param_groups, key
        )


class SGD(_KernelOptimizer, torch.optim.SGD):
    """`torch.optim.SGD`, bit-equal to its float32 loop on AVX2 and AVX-512.

    ``g = grad + weight_decay * p``; ``b = momentum * b + (1 - dampening) * g`` (``b = g`` at a
    parameter's first step); ``p -= lr * (g + momentum * b if nesterov else b)``; each sum with its
    product one fma. Parameters in bfloat16 and float16 are computed in float32 and rounded once.

    Args: those of torch. Tensors ``lr`` and ``weight_decay`` are read at every step.
    """

    _rule = rules.SGD

    def _make_states(self) -> list[torch.Tensor]:
        fresh = [
            param
            for group in self.param_groups
            if group["momentum"] != 0
            for param in group["params"]
            if param.grad is not None
            and not param.grad.is_sparse
            and self.state.get(param, {}).get("momentum_buffer") is None
        ]
        for param in fresh:
            self.state[param]["momentum_buffer"] = torch.empty_like(param)
        return fresh

    def _forget_states(self, fresh: list[torch.Tensor]) -> None:
        for param in fresh:
            del self.state[param]["momentum_buffer"]


class Adam(_KernelOptimizer, torch.optim.Adam):
    """`torch.optim.Adam` (Kingma and Ba 2015).

    In this order, each sum with its product one fma: ``g = grad + weight_decay * p``;
    ``m += (1 - beta1) * (g - m)``; ``v = beta2 * v + (1 - beta2) * g * g``;
    ``d = sqrt(max over time of v if amsgrad else v) / sqrt(1 - beta2**t) + eps``;
    ``p += (-lr / (1 - beta1**t) * m) / d``, with square root and divisions correctly rounded.
    float32 and float64 moments are bit-equal to torch's loop on AVX2 and AVX-512, parameters within
    two units in the last place per step.

    Args: those of torch. Tensors ``lr`` and ``betas`` are read at every step.
    """

    _rule = rules.ADAM


class AdamW(Adam, torch.optim.AdamW):
    """`torch.optim.AdamW` (Loshchilov and Hutter 2019): `Adam` whose weight decay shrinks the
    parameter first, ``p *= 1 - lr * weight_decay``, and does not enter the moments.

    Args: those of torch.
    """
