"""DTensors (`torch.distributed.tensor`, what FSDP2's ``fully_shard`` makes of parameters) as the
plain tensors that this process holds of them: an elementwise step needs no more, and no other
process."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dlkernels.optim import state_formats as formats

__all__ = [
    "LocalShards",
    "has_shards",
    "is_shard",
    "local_part",
    "local_scales",
    "scales_like",
    "takes_scales",
]


def is_shard(value: Any) -> bool:
    """Whether this is a DTensor."""
    # Nobody has made one where the module is not loaded, which takes a second.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def has_shards(groups: Iterable[Iterable[Tensor]]) -> bool:
    """Whether one of the parameters is a DTensor."""
    return any(is_shard(param) for group in groups for param in group)


def local_part(value: Any) -> Tensor:
    """This process's part of a DTensor; a tensor itself."""
    return (value.to_local() if is_shard(value) else value).detach()  # type: ignore[no-any-return]


def _sharded_axes(param: Any) -> list[int]:
    """The axes of the mesh over which a DTensor is cut; -1 for one where it is neither cut nor the
    same for all, or cut in a way of its own."""
    from torch.distributed.tensor import Replicate, Shard

    kinds = [type(placement) for placement in param.placements]
    return [
        axis if kind is Shard else -1 for axis, kind in enumerate(kinds) if kind is not Replicate
    ]


def takes_scales(param: Any) -> bool:
    """Whether a parameter's states may be in eight bits: of a DTensor that is cut along one axis of
    its mesh at most."""
    if not is_shard(param):
        return True
    axes = _sharded_axes(param)
    return len(axes) <= 1 and -1 not in axes


def scales_like(param: Any) -> Tensor:
    """Room for the scales of a state of a parameter's layout: one for each 256 of its elements. Of
    a DTensor each process has those of its part, in a row of (processes, scales of the largest
    part), so that a checkpoint of another number of processes does not fit.
    """
    if not is_shard(param):
        count = formats.scale_count(param.numel())
        return torch.zeros(count, dtype=torch.float32, device=param.device)
    from torch.distributed.tensor import DTensor, Replicate, Shard

    rows, largest = 1, param.numel()
    placements: list[Any] = [Replicate()] * len(param.placements)
    for axis in _sharded_axes(param):
        placements[axis] = Shard(0)
        rows = param.device_mesh.size(axis)
        length = max(1, param.shape[param.placements[axis].dim])
        largest = largest // length * -(-length // rows)
    count = formats.scale_count(largest)
    return DTensor.from_local(
        torch.zeros(1, count, dtype=torch.float32, device=param.device),
        param.device_mesh,
        placements,
        run_check=False,
        shape=torch.Size((rows, count)),
        stride=(count, 1),
    )


def local_scales(scales: Tensor, codes: Tensor) -> Tensor:
    """The scales of this process's part of codes, as a kernel takes them."""
    if not is_shard(scales):
        return scales.detach()
    count = formats.scale_count(local_part(codes).numel())
    return local_part(scales).view(-1)[:count]


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
                name: _local_state(name, value, param) for name, value in own.items()
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


def _local_state(name: str, value: Any, param: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if formats.is_scales(name) and is_shard(value):
        return local_scales(value, param)
    return _part_like(value, param)


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
