"""Optimizers over lists of NumPy arrays, updated in place: one parallel region a step, any number
of arrays. `dlkernels.torch.optim` has the same steps as `torch.optim.Optimizer` subclasses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dlkernels import _core

__all__ = ["SGD"]

Array = Any


class SGD:
    """Stochastic gradient descent with momentum (`torch.optim.SGD`), over NumPy arrays.

    ``g = grad + weight_decay * p``; ``b = momentum * b + (1 - dampening) * g`` (``b = g`` at an
    array's first step); ``p -= lr * (g + momentum * b if nesterov else b)``. As in torch the
    learning rate stays outside ``b``: after a change of ``lr`` the whole past moves at the new
    rate. float32 and float64 results are bit-equal to torch's on AVX2 and AVX-512.

    Args:
        params: Writable arrays (float32, float64, bfloat16 or float16, any strides), or dicts with
            ``"params"`` and that group's own values of the arguments below.
        lr: Learning rate.
        momentum: Momentum factor; 0 keeps no buffers.
        dampening: Dampening of the momentum.
        weight_decay: L2 penalty.
        nesterov: Nesterov momentum; needs a momentum and no dampening.
        maximize: Ascend instead.

    Attributes:
        param_groups: One dict per group; values may be changed between steps (a schedule of
            ``lr``).
        momentum_buffers: One array (or None before its first step) per parameter, over all groups.

    Raises:
        ValueError: A number is negative, or nesterov lacks its momentum.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> SGD([w], lr=0.5).step([np.array([2.0, 0.0])])
        >>> w.tolist()
        [0.0, 2.0]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        """See the class."""
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        entries = list(params)
        if not entries:
            raise ValueError("SGD: params: expected at least one array, got none")
        if not isinstance(entries[0], dict):
            entries = [{"params": entries}]
        self.param_groups: list[dict[str, Any]] = []
        self.momentum_buffers: list[Array | None] = []
        for entry in entries:
            group = {**defaults, **entry, "params": list(entry["params"])}
            unknown = set(group) - {*defaults, "params"}
            if unknown:
                raise ValueError(f"SGD: params: unknown keys {sorted(unknown)} in a group")
            _check_group(group)
            self.param_groups.append(group)
            self.momentum_buffers += [None] * len(group["params"])

    def step(self, grads: Sequence[Array | None]) -> None:
        """Updates every parameter in place.

        Args:
            grads: One gradient per parameter, in their order over all groups, of the parameter's
                shape and dtype; None leaves a parameter as it is.

        Raises:
            TypeError: A dtype does not match.
            ValueError: The number of gradients or a shape is wrong, or a parameter is read-only.
                Nothing is updated then.
        """
        grads = list(grads)
        if len(grads) != len(self.momentum_buffers):
            raise ValueError(
                f"SGD: grads: expected {len(self.momentum_buffers)} arrays, got {len(grads)}"
            )
        calls = []
        fresh: dict[int, Array] = {}
        offset = 0
        for group in self.param_groups:
            _check_group(group)
            params = group["params"]
            present = [i for i in range(len(params)) if grads[offset + i] is not None]
            buffers: list[Array] | None = None
            first_steps: list[int] = []
            if group["momentum"] != 0:
                buffers = []
                for i in present:
                    buffer = self.momentum_buffers[offset + i]
                    if buffer is None:
                        first_steps.append(len(buffers))
                        buffer = fresh[offset + i] = np.empty_like(params[i], subok=False)
                    buffers.append(buffer)
            calls.append(
                (
                    [params[i] for i in present],
                    [grads[offset + i] for i in present],
                    buffers,
                    first_steps,
                    float(group["lr"]),
                    float(group["momentum"]),
                    float(group["dampening"]),
                    float(group["weight_decay"]),
                    bool(group["nesterov"]),
                    bool(group["maximize"]),
                )
            )
            offset += len(params)
        _core.sgd(calls)
        for index, buffer in fresh.items():
            self.momentum_buffers[index] = buffer

    def state_dict(self) -> dict[str, Any]:
        """The groups' numbers and copies of the momentum buffers, enough to go on from."""
        return {
            "param_groups": [
                {key: value for key, value in group.items() if key != "params"}
                for group in self.param_groups
            ],
            "momentum_buffers": [
                None if buffer is None else buffer.copy() for buffer in self.momentum_buffers
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave.

        Raises:
            ValueError: It is of another number of groups or parameters.
        """
        groups, buffers = state_dict["param_groups"], state_dict["momentum_buffers"]
        if len(groups) != len(self.param_groups) or len(buffers) != len(self.momentum_buffers):
            raise ValueError(
                "SGD: state_dict: expected "
                f"{len(self.param_groups)} groups and {len(self.momentum_buffers)} buffers, "
                f"got {len(groups)} and {len(buffers)}"
            )
        for group, saved in zip(self.param_groups, groups, strict=True):
            group.update(saved)
        self.momentum_buffers = [None if buffer is None else buffer.copy() for buffer in buffers]


def _check_group(group: dict[str, Any]) -> None:
    for name, label in (
        ("lr", "learning rate"),
        ("momentum", "momentum value"),
        ("weight_decay", "weight_decay value"),
    ):
        if group[name] < 0.0:
            raise ValueError(f"Invalid {label}: {group[name]}")
    if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")
