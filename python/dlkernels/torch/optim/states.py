"""How states are made, and the operations on tensors that `StateMethods` needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dlkernels.optim import state_formats as formats
from dlkernels.optim.states import StateMethods
from dlkernels.optim.step_options import AVERAGE
from dlkernels.torch.optim.shards import local_part, local_scales, scales_like

__all__ = ["MomentumFromFirstStep", "States"]

_DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "bfloat16", "float16", "int16", "uint8")
}


class TorchArrays:
    """`dlkernels.optim.states.Arrays`."""

    plural = "tensors"

    def is_array(self, value: Any) -> bool:
        return torch.is_tensor(value)

    def dtype(self, array: Tensor) -> str:
        return str(array.dtype).removeprefix("torch.")

    def shape(self, array: Tensor) -> tuple[int, ...]:
        return tuple(array.shape)

    def size(self, array: Tensor) -> int:
        return array.numel()

    def detached(self, array: Tensor) -> Tensor:
        return array.detach()

    def copy(self, array: Tensor, dtype: str | None = None) -> Tensor:
        return array.detach().to(array.dtype if dtype is None else _DTYPES[dtype], copy=True)

    def cast(self, array: Tensor, dtype: str) -> Tensor:
        return array.to(_DTYPES[dtype])

    def full_like(self, array: Tensor, fill: float, dtype: str) -> Tensor:
        return torch.full_like(array, fill, dtype=_DTYPES[dtype], requires_grad=False)

    def scales_like(self, param: Tensor) -> Tensor:
        return scales_like(param)

    @torch.no_grad()
    def assign(self, array: Tensor, values: Tensor) -> None:
        array.copy_(values)

    def written(self, array: Tensor) -> None:
        torch.autograd.graph.increment_version(array)

    def local(self, array: Tensor) -> Tensor:
        return local_part(array)

    def local_scales(self, scales: Tensor, codes: Tensor) -> Tensor:
        return local_scales(scales, codes)


class States(StateMethods, torch.optim.Optimizer):
    """The states of an optimizer's parameters."""

    _arrays = TorchArrays()

    # Without a value in the class, and not assigned to later: what wraps an optimizer in a subclass
    # of its class, as Lightning does, passes on what it does not find there, and keeps what it is
    # given.
    _own_defaults: dict[str, Any]  # of the groups, besides torch's
    _now: dict[str, Any]  # "grad_norm": the last one; "shows_averages": within ema_weights()

    def _entries(self) -> Iterator[tuple[dict[str, Any], Tensor, dict[str, Any]]]:
        for group in self.param_groups:
            for param in group["params"]:
                yield group, param, self.state.get(param, {})

    def _keep_state(self, param: Tensor, state: dict[str, Any]) -> None:
        self.state[param] = state

    def _check_codes_for(self, param: Tensor) -> None:
        if param.device.type != "cpu" or param.is_complex():
            raise self._no_kernel()

    def _make_states(self, blank: bool = False) -> list[torch.Tensor]:
        """Makes what is missing of the states of parameters with gradients, as torch makes it, and
        raises what torch raises; with `blank` no step follows at once. Returns the parameters whose
        states hold nothing yet."""
        init_group: Callable[..., Any] = self._init_group  # type: ignore[attr-defined]
        lists = len(inspect.signature(init_group).parameters) - 1
        with torch.device("cpu"):
            for group in self.param_groups:
                if not formats.has_formats(group):
                    init_group(group, *([] for _ in range(lists)))
                    continue
                for param in group["params"]:  # so that one at a time is of torch's size
                    if param.grad is None:
                        continue
                    state = self.state[param]
                    if any(formats.codes_name(name) in state for name in self._rule.slots):
                        continue
                    low = state.pop(formats.LOW, None)  # torch asks whether there is any
                    init_group({**group, "params": [param]}, *([] for _ in range(lists)))
                    if low is not None:
                        state[formats.LOW] = low
                    self._format_state(group, param, state)
        return []

    def _make_averages(self) -> list[torch.Tensor]:
        """Makes what is missing of the averages of parameters with gradients; returns those."""
        # The first average of all is a copy; one that comes later starts from where its parameter
        # stood all the while.
        missing = [
            param
            for group in self.param_groups
            for param in group["params"]
            if param.grad is not None and AVERAGE not in self.state[param]
        ]
        for param in missing:
            self._make_average(param)
        return missing

    def _make_average(self, param: torch.Tensor) -> None:
        own = self.state[param]
        dtype = param.dtype
        for value in map(own.get, self._rule.slots):
            if torch.is_tensor(value) and value.is_floating_point():
                dtype = torch.promote_types(dtype, value.dtype)
        own[AVERAGE] = param.detach().to(dtype, copy=True)

    def _forget_states(self, fresh: list[torch.Tensor]) -> None:
        """Takes back what `_make_states` returned."""

    def _no_kernel(self, reason: TypeError | None = None) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__}: state_dtype and master are for dense real tensors on the CPU, "
            "with differentiable=False" + (f" ({reason})" if reason else "")
        )


class MomentumFromFirstStep(States):
    """One whose momentum buffer is its first step."""

    def _make_states(self, blank: bool = False) -> list[torch.Tensor]:
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
            buffer = torch.empty_like(param, requires_grad=False)
            # -0 is what the first step's sum would start from.
            self.state[param]["momentum_buffer"] = buffer.fill_(-0.0) if blank else buffer
        for group in self.param_groups:
            if formats.has_formats(group):
                for param in group["params"]:
                    if param.grad is not None:
                        self._format_state(group, param, self.state[param])
        return fresh

    def _forget_states(self, fresh: list[torch.Tensor]) -> None:
        for param in fresh:
            for name in ("momentum_buffer", "momentum_buffer_8bit", "momentum_buffer_absmax"):
                self.state[param].pop(name, None)
