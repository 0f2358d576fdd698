"""States that are made before the first step, so that a checkpoint can be loaded into them:
`torch.distributed.checkpoint` takes a step for that, of zeros at a rate of 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlkernels.optim.rule import Rule
from dlkernels.torch.optim.shards import is_shard

__all__ = ["BlankStates", "is_zero"]


def is_zero(grad: Tensor) -> bool:
    """Whether all of a gradient is; of a DTensor, in every process."""
    count: Any = torch.count_nonzero(grad)
    return int(count.full_tensor() if is_shard(count) else count) == 0


class BlankStates:
    """States that hold nothing yet. A first step is a first step with or without them, so they are
    removed before it, unless something has been loaded into their tensors.

    Args:
        rule: The optimizer's.
        groups: Its groups.
        state: Its states, all of them new.
    """

    def __init__(
        self, rule: Rule, groups: list[dict[str, Any]], state: dict[Tensor, dict[str, Any]]
    ) -> None:
        """See the class."""
        self._rule, self._state = rule, state
        self._params = [
            (group, param) for group in groups for param in group["params"] if state.get(param)
        ]
        self._made: dict[Tensor, dict[str, tuple[Any, int]]] = {}
        self.fill()

    @torch.no_grad()
    def fill(self) -> None:
        """Gives them what they start from, which may depend on the learning rate."""
        for group, param in self._params:
            if self._is_loaded(param):
                continue
            own, rule = self._state[param], self._rule
            starts = [
                *zip(rule.scalars, rule.first_scalars(group), strict=True),
                *zip(rule.used_slots(group), rule.fill(group), strict=False),
            ]
            for name, number in starts:
                if number and torch.is_tensor(value := own.get(name or "")):
                    value.fill_(number)
            self._made[param] = {name: (value, _version(value)) for name, value in own.items()}

    def remove(self) -> None:
        """Removes them."""
        for _, param in self._params:
            own = self._state.get(param, {})
            if self._is_loaded(param):
                continue
            for name, (value, _) in self._made[param].items():
                if own.get(name) is value:
                    del own[name]
            if not own:
                self._state.pop(param, None)

    def _is_loaded(self, param: Tensor) -> bool:
        made, own = self._made.get(param, {}), self._state.get(param, {})
        return any(
            own.get(name) is value and _version(value) != version
            for name, (value, version) in made.items()
        )


def _version(value: Any) -> int:
    return value._version if torch.is_tensor(value) else 0
