"""Twins of ``torch.optim`` optimizers: subclasses of torch's own, so arguments, groups, hooks and
state dicts are the same, whose step updates every parameter of every group in one parallel region.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import increment_version
from torch.optim.sgd import sgd as torch_sgd

from dlkernels import _core

__all__ = ["SGD"]


def _state_names(group: dict[str, Any]) -> tuple[str, ...]:
    """The tensors that a step of this group keeps per parameter."""
    return ("momentum_buffer",) if group["momentum"] != 0 else ()


def _numbers(group: dict[str, Any]) -> tuple[float, float, float, float, bool, bool]:
    """The group's hyper-parameters as the kernel takes them."""
    return (
        float(group["lr"]),
        float(group["momentum"]),
        float(group["dampening"]),
        float(group["weight_decay"]),
        bool(group["nesterov"]),
        bool(group["maximize"]),
    )


class SGD(torch.optim.SGD):
    """`torch.optim.SGD`, bit-equal to its float32 loop on AVX2 and AVX-512.

    ``g = grad + weight_decay * p``; ``b = momentum * b + (1 - dampening) * g`` (``b = g`` at a
    parameter's first step); ``p -= lr * (g + momentum * b if nesterov else b)``. Parameters in
    bfloat16 and float16 are computed in float32 and rounded once. Gradients and momenta may have
    other strides than their parameter, and parameters may be slices. ``foreach`` and ``fused`` are
    accepted and change nothing. With ``differentiable=True``, or where a parameter or gradient is
    sparse, complex, on another device or of mixed dtypes, the step is torch's own.

    Args:
        params: As torch.
        lr: As torch; a tensor is read at every step.
        momentum: As torch.
        dampening: As torch.
        weight_decay: As torch.
        nesterov: As torch.
        maximize: As torch.
        foreach: Accepted for compatibility.
        differentiable: Hand every step to torch.
        fused: Accepted for compatibility.
    """

    # Never copied or saved: torch's own __getstate__ names what is.
    _table: _core.ParameterTable | None = None
    # fused=True is torch's to check only where torch's fused step runs.
    _need_device_dtype_check_for_fused = False

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
        # torch sets it for fused=True; a GradScaler then leaves the unscaling to step().
        self.__dict__.pop("_step_supports_amp_scaling", None)

    @torch._dynamo.disable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
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
            self._step_by_list()
        return loss

    def _step_by_table(self) -> bool:
        """The step from what the last one left; False, and nothing done, where it does not fit."""
        if self._table is None:
            return False
        try:
            return _core.sgd_table(
                self._table,
                [group["params"] for group in self.param_groups],
                [_state_names(group) for group in self.param_groups],
                self.state,
                [_numbers(group) for group in self.param_groups],
            )
        except TypeError:  # no kernel for one of the tensors
            return False

    def _step_by_list(self) -> None:
        """The step from nothing: makes the buffers of first steps, and the table for the next."""
        calls, touched, fresh = [], [], []
        for group in self.param_groups:
            params, grads, buffers, missing = _core.gather(
                group["params"], self.state, "momentum_buffer"
            )
            touched += params
            has_momentum = group["momentum"] != 0
            if has_momentum:
                for i in missing:
                    buffers[i] = torch.empty_like(params[i])
                    fresh.append((params[i], buffers[i]))
                touched += buffers
            calls.append(
                (
                    params,
                    grads,
                    buffers if has_momentum else None,
                    missing if has_momentum else [],
                    *_numbers(group),
                )
            )
        kinds = {type(tensor) for params, grads, *_ in calls for tensor in (*params, *grads)}
        if kinds - {torch.Tensor, torch.nn.Parameter}:  # a DTensor has no memory of its own
            self._step_in_torch()
            return
        try:
            _core.sgd(calls)
        except TypeError:
            self._step_in_torch()
            return
        for param, buffer in fresh:
            self.state[param]["momentum_buffer"] = buffer
        increment_version(touched)
        if _core.torch_handles_available():
            self._table = _core.ParameterTable(
                [group["params"] for group in self.param_groups],
                [_state_names(group) for group in self.param_groups],
                self.state,
            )

    def _step_in_torch(self) -> None:
        """The same step by torch's loop; its fused one goes wrong where strides differ."""
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            for group in self.param_groups:
                params: list[torch.Tensor] = []
                grads: list[torch.Tensor] = []
                buffers: list[torch.Tensor | None] = []
                has_sparse_grad = self._init_group(group, params, grads, buffers)
                torch_sgd(
                    params,
                    grads,
                    buffers,
                    has_sparse_grad=has_sparse_grad,
                    foreach=False,
                    fused=False,
                    weight_decay=group["weight_decay"],
                    momentum=group["momentum"],
                    lr=group["lr"],
                    dampening=group["dampening"],
                    nesterov=group["nesterov"],
                    maximize=group["maximize"],
                )
                if group["momentum"] != 0:
                    for param, buffer in zip(params, buffers, strict=True):
                        self.state[param]["momentum_buffer"] = buffer
