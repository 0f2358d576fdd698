"""DTensors (`torch.distributed.tensor`, what FSDP2's ``fully_shard`` makes of parameters) as the
plain tensors that this process holds of them: an elementwise step needs no more, and no other
process."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["LocalShards", "has_shards", "is_shard"]


def is_shard(value: Any) -> bool:
    """Whether this is a DTensor."""
    # Nobody has made one where the module is not loaded, which takes a second.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def has_shards(groups: Iterable[Iterable[Tensor]]) -> bool:
    """Whether one of the parameters is a DTensor."""
    return any(is_shard(param) for group in groups for param in group)


class LocalShards:
    """Parameters and states as `dlkernels._core.ParameterTable` takes them, with this process's
    part in the place of each DTensor.

    Args:
        groups: The parameters of each group.
        state: An optimizer's.
        fresh: Parameters at their first step.

    Attributes:
        groups: The same, of plain tensors.
        state: The same, keyed by those.
        fresh: The same, of those.

    Raises:
        TypeError: A gradient or state lies otherwise than its parameter, or is none.
    """

    @torch.no_grad()
    def __init__(
        self,
        groups: list[list[Tensor]],
        state: Mapping[Tensor, dict[str, Any]],
        fresh: list[Tensor],
    ) -> None:
        """See the class."""
        self._written: list[Tensor] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        local: dict[Tensor, Tensor] = {}
        for group in groups:
            for param in group:
                local[param] = self._localize(param, state.get(param))
        self.groups = [[local[param] for param in group] for group in groups]
        self.fresh = [local[param] for param in fresh]

    def _localize(self, param: Tensor, own: dict[str, Any] | None) -> Tensor:
        if not is_shard(param):
            if own is not None:
                self.state[param] = own
            return param
        shard = _part_like(param, param)
        if own is not None:
            self.state[shard] = {
                name: _part_like(value, param) if isinstance(value, Tensor) else value
                for name, value in own.items()
            }
        if param.grad is not None:
            grad = _part_like(param.grad, param)
            if grad.dtype is not shard.dtype:
                shard.grad_dtype = grad.dtype
            shard.grad = grad
            self._written.append(param)
            self._written += [value for value in (own or {}).values() if is_shard(value)]
        return shard

    def count_versions(self) -> None:
        """Tells autograd of a step; the parts were told by their table."""
        torch.autograd.graph.increment_version(self._written)


def _part_like(value: Any, param: Any) -> Tensor:
    """This process's part of a tensor that is laid out over the processes as a parameter is."""
    if value.ndim == 0 and not is_shard(value):  # a step count
        return value  # type: ignore[no-any-return]
    if (
        not is_shard(value)
        or value.placements != param.placements
        or value.device_mesh != param.device_mesh
    ):
        raise TypeError("laid out otherwise than its parameter")
    return value.to_local().detach()  # type: ignore[no-any-return]
