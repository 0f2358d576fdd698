"""Optimizers that torch does not have, written in torch's operations as its own are: what the twins
of `dlkernels.torch.optim` inherit arguments, groups and state dicts from, and what steps where no
kernel applies (``differentiable=True``, complex parameters, other devices)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT, _use_grad_for_differentiable

from dlkernels.optim import layerwise, sign
from dlkernels.optim.constructors import make_init
from dlkernels.optim.rule import Argument, Rule

__all__ = ["LAMB", "LARS", "TORCH_ARGUMENTS", "Lion"]

_UNUSED = "Accepted for compatibility."
#: Those of every class of torch's, besides ``maximize``.
TORCH_ARGUMENTS = (
    Argument("foreach", None, _UNUSED, keyword=True, annotation=bool | None),
    Argument("capturable", False, _UNUSED, keyword=True),
    Argument(
        "differentiable",
        False,
        "Keep the step on autograd's record; it is then torch's own.",
        keyword=True,
    ),
    Argument("fused", None, _UNUSED, keyword=True, annotation=bool | None),
)


def _count(steps: float) -> Tensor:
    return torch.tensor(float(steps), dtype=torch.float32, device="cpu")


def _as_real(*tensors: Tensor | None) -> list[Any]:
    """Complex tensors as pairs of numbers, others as they are."""
    return [
        torch.view_as_real(tensor) if tensor is not None and tensor.is_complex() else tensor
        for tensor in tensors
    ]


def _norm(tensor: Tensor) -> Tensor:
    """Of a copy: a derivative needs what the step overwrites."""
    norm: Tensor = torch.linalg.vector_norm(tensor.to(torch.float64, copy=True))
    return norm


def _ratio(above: Tensor, below: Tensor, unless_zero: Tensor) -> Tensor:
    """above / below; 1 where `above` or the last one is zero."""
    is_zero = (above == 0) | (unless_zero == 0)
    return torch.where(is_zero, 1.0, above / torch.where(is_zero, 1.0, below))


class _Loop(torch.optim.Optimizer):
    """One parameter after the other; a subclass has a rule, `_make_state` and `_update`."""

    _rule: ClassVar[Rule]

    def __init_subclass__(cls, rule: Rule | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if rule is None:
            return
        cls._rule = rule
        lr, *others = rule.arguments
        cls.__init__ = make_init(  # type: ignore[method-assign]
            f"{cls.__module__}.{cls.__name__}",
            "ParamsT",
            (replace(lr, annotation=float | Tensor), *others, *TORCH_ARGUMENTS),
            _Loop._construct,
            ParamsT=ParamsT,
            torch=torch,
        )

    def _construct(self, params: ParamsT, arguments: dict[str, Any]) -> None:
        lr = arguments["lr"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        numbers = {
            name: value for name, value in arguments.items() if not isinstance(value, Tensor)
        }
        self._rule.check_types(type(self).__name__, numbers)
        self._rule.check(arguments)
        super().__init__(params, arguments)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name in ("maximize", "capturable", "differentiable"):
                group.setdefault(name, False)
            for name in ("foreach", "fused"):
                group.setdefault(name, None)
        for own in self.state.values():
            if "step" in own and not torch.is_tensor(own["step"]):
                own["step"] = _count(own["step"])

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


class Lion(_Loop, rule=sign.LION):
    """Chen et al. 2023, algorithm 2."""

    def _make_state(self, param: Tensor, state: dict[str, Any]) -> None:
        state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)

    def _update(
        self, group: dict[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]
    ) -> None:
        lr, (beta1, beta2), average = group["lr"], group["betas"], state["exp_avg"]
        param, grad, average = _as_real(param, grad, average)
        sign = average.lerp(grad, 1 - beta1).sign()
        param.mul_(1 - lr * group["weight_decay"]).add_(sign * lr, alpha=-1)
        average.lerp_(grad, 1 - beta2)


class LAMB(_Loop, rule=layerwise.LAMB):
    """You et al. 2020, algorithm 2."""

    def _make_state(self, param: Tensor, state: dict[str, Any]) -> None:
        state["step"] = _count(0)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)

    def _update(
        self, group: dict[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["betas"]
        state["step"] += 1
        step = state["step"].item()
        correction1, correction2 = (
            1 - beta**step if group["bias_correction"] else 1.0 for beta in (beta1, beta2)
        )
        param, grad, first, second = _as_real(param, grad, state["exp_avg"], state["exp_avg_sq"])
        first.lerp_(grad.to(first.dtype), 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        # a zero's root has no derivative
        root = torch.where(second == 0, 0.0, torch.where(second == 0, 1.0, second).sqrt())
        denominator = root / correction2**0.5 + group["eps"]
        update = torch.where(first == 0, 0.0, first / correction1 / denominator)
        update = update + group["weight_decay"] * param
        norm, update_norm = _norm(param), _norm(update)
        param.sub_((group["lr"] * _ratio(norm, update_norm, update_norm)).to(param.dtype) * update)


class LARS(_Loop, rule=layerwise.LARS):
    """You, Gitman and Ginsburg 2017, algorithm 1."""

    def _make_state(self, param: Tensor, state: dict[str, Any]) -> None:
        """Momentum starts from the first step."""

    def _update(
        self, group: dict[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]
    ) -> None:
        decay, momentum = group["weight_decay"], group["momentum"]
        norms = [_norm(tensor) for tensor in _as_real(param, grad)]
        ratio = _ratio(
            group["trust_coefficient"] * norms[0],
            norms[1] + decay * norms[0] + group["eps"],
            norms[1],
        )
        if momentum and (is_first := state.get("momentum_buffer") is None):
            state["momentum_buffer"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        param, grad, buffer = _as_real(param, grad, state.get("momentum_buffer"))
        step = (grad + decay * param) * (group["lr"] * ratio).to(param.dtype)
        if momentum:
            buffer.mul_(momentum).add_(step, alpha=1 if is_first else 1 - group["dampening"])
            step = step + momentum * buffer if group["nesterov"] else buffer
        param.sub_(step)
