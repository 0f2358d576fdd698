"""Optimizers that torch has not, written in torch's operations as its own are: what the twins of
`dlkernels.torch.optim` inherit arguments, groups and state dicts from, and what steps where no
kernel applies (``differentiable=True``, complex parameters, other devices)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT, _use_grad_for_differentiable

__all__ = ["Lion"]


def _check(lr: float | Tensor, betas: tuple[float, float], weight_decay: float) -> None:
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not lr >= 0.0:
        raise ValueError(f"Invalid learning rate: {lr}")
    for index, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if not weight_decay >= 0.0:
        raise ValueError(f"Invalid weight_decay value: {weight_decay}")


class _Loop(torch.optim.Optimizer):
    """One parameter after the other; a subclass has `_make_state` and `_update`."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name in ("maximize", "capturable", "differentiable"):
                group.setdefault(name, False)
            for name in ("foreach", "fused"):
                group.setdefault(name, None)

    def _init_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in group["params"]:
            if param.grad is None:
                continue
            if param.grad.is_sparse:
                raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
            params.append(param)
            if not self.state[param]:
                self._make_state(param, self.state[param])

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = []
            self._init_group(group, params)
            for param in params:
                assert param.grad is not None
                grad = -param.grad if group["maximize"] else param.grad
                self._update(group, param, grad, self.state[param])
        return loss

    def _make_state(self, param: Tensor, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def _update(
        self, group: dict[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]
    ) -> None:
        raise NotImplementedError


class Lion(_Loop):
    """Chen et al. 2023, algorithm 2."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        """See `dlkernels.torch.optim.Lion`."""
        _check(lr, betas, weight_decay)
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _make_state(self, param: Tensor, state: dict[str, Any]) -> None:
        state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)

    def _update(
        self, group: dict[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]
    ) -> None:
        lr, (beta1, beta2), average = group["lr"], group["betas"], state["exp_avg"]
        if param.is_complex():
            param, grad = torch.view_as_real(param), torch.view_as_real(grad)
            average = torch.view_as_real(average)
        sign = average.lerp(grad, 1 - beta1).sign()
        param.mul_(1 - lr * group["weight_decay"]).add_(sign * lr, alpha=-1)
        average.lerp_(grad, 1 - beta2)
