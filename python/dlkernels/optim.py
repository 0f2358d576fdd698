"""Optimizers over lists of NumPy arrays, updated in place: one parallel region a step, any number
of arrays. `dlkernels.torch.optim` has the same steps as `torch.optim.Optimizer` subclasses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from dlkernels import _core
from dlkernels import _optimizer_rules as rules

__all__ = ["SGD", "Adam", "AdamW"]

Array = Any
Params = Iterable[Array] | Iterable[dict[str, Any]]


class _Optimizer:
    """What every optimizer shares; see `SGD` for its attributes and methods."""

    _rule: ClassVar[rules.Rule]

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: list[dict[str, Any]] = []
        entries: list[Any] = list(params)
        if not entries:
            raise ValueError(f"{self._name}: params: expected at least one array, got none")
        if not isinstance(entries[0], dict):
            entries = [{"params": entries}]
        for entry in entries:
            self.add_param_group(entry)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters: a dict with ``"params"`` and that group's own values of the arguments.

        Raises:
            ValueError: A key is unknown, or a value out of range.
        """
        group = {**self.defaults, **param_group, "params": list(param_group["params"])}
        unknown = set(group) - {*self.defaults, "params"}
        if unknown:
            raise ValueError(f"{self._name}: params: unknown keys {sorted(unknown)} in a group")
        self._rule.check(group)
        self.param_groups.append(group)
        self.state += [{} for _ in group["params"]]

    def _fresh_state(self, group: dict[str, Any], param: Array) -> dict[str, Any]:
        rule = self._rule
        state: dict[str, Any] = dict(zip(rule.scalars, rule.first_scalars(group), strict=True))
        for name, fill in zip(rule.used_slots(group), rule.fill(group), strict=False):
            if name is not None:
                state[name] = np.full_like(param, fill, subok=False)
        return state

    def step(self, grads: Sequence[Array | None]) -> None:
        """Updates every parameter in place.

        Args:
            grads: One gradient per parameter, in their order over all groups, of the parameter's
                shape and any floating dtype; None leaves a parameter as it is.

        Raises:
            TypeError: Something is no array, or not of a floating dtype.
            ValueError: The number of gradients, a shape or a group's value is wrong, or a parameter
                is read-only. Nothing is updated then.
        """
        rule = self._rule
        grads = list(grads)
        if len(grads) != len(self.state):
            raise ValueError(
                f"{self._name}: grads: expected {len(self.state)} arrays, got {len(grads)}"
            )
        params: list[Array] = []
        states: list[tuple[Array | None, ...]] = []
        setting_of: list[int] = []
        settings: list[rules.Numbers] = []
        indices: dict[tuple[Any, ...], int] = {}
        updates: list[tuple[int, dict[str, Any]]] = []
        next_scalars: list[rules.Numbers] = []
        for number, group in enumerate(self.param_groups):
            rule.check(group)
            names = rule.used_slots(group)
            for param in group["params"]:
                index = len(params)
                params.append(param)
                if grads[index] is None:
                    states.append(())
                    setting_of.append(0)
                    continue
                state = self.state[index]
                fresh = any(name is not None and name not in state for name in names)
                if fresh or any(name not in state for name in rule.scalars):
                    state = {**self._fresh_state(group, param), **state}
                scalars = tuple(state[name] for name in rule.scalars)
                setting = indices.setdefault((number, scalars, fresh), len(settings))
                if setting == len(settings):
                    after, numbers = rule.advance(group, scalars, fresh, False)
                    next_scalars.append(after)
                    settings.append(numbers)
                states.append(tuple(None if name is None else state[name] for name in names))
                setting_of.append(setting)
                updates.append((index, state))
        _core.optimizer_step(
            rule.kernel,
            self._name,
            list(rule.slots),
            params,
            grads,
            states,
            setting_of,
            settings,
        )
        for index, state in updates:
            state.update(zip(rule.scalars, next_scalars[setting_of[index]], strict=True))
            self.state[index] = state

    def state_dict(self) -> dict[str, Any]:
        """The groups' numbers and copies of the states, enough to go on from."""
        return {
            "param_groups": [
                {key: value for key, value in group.items() if key != "params"}
                for group in self.param_groups
            ],
            "state": [_copied(state) for state in self.state],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave. States keep their dtypes.

        Raises:
            ValueError: It is of another number of groups or parameters.
        """
        groups, states = state_dict["param_groups"], state_dict["state"]
        if len(groups) != len(self.param_groups) or len(states) != len(self.state):
            raise ValueError(
                f"{self._name}: state_dict: expected "
                f"{len(self.param_groups)} groups and {len(self.state)} states, "
                f"got {len(groups)} and {len(states)}"
            )
        for group, saved in zip(self.param_groups, groups, strict=True):
            group.update(saved)
        self.state = [_copied(state) for state in states]


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.copy() if hasattr(value, "copy") else value for name, value in state.items()
    }


class SGD(_Optimizer):
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
        state: One dict per parameter, over all groups, empty before its first step; here
            ``"momentum_buffer"``. Its arrays may be of another floating dtype than the parameter.

    Raises:
        ValueError: A number is negative, or nesterov lacks its momentum.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> SGD([w], lr=0.5).step([np.array([2.0, 0.0])])
        >>> w.tolist()
        [0.0, 2.0]
    """

    _rule = rules.SGD

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )


class Adam(_Optimizer):
    """Adam (`torch.optim.Adam`; Kingma and Ba 2015), over NumPy arrays.

    In this order, each line correctly rounded: ``g = grad + weight_decay * p``;
    ``m += (1 - beta1) * (g - m)``; ``v = beta2 * v + (1 - beta2) * g * g``;
    ``d = sqrt(max over time of v if amsgrad else v) / sqrt(1 - beta2**t) + eps``;
    ``p += (-lr / (1 - beta1**t) * m) / d``. float32 and float64 moments are bit-equal to torch's on
    AVX2 and AVX-512, parameters within two units in the last place per step.

    Args:
        params: As `SGD`.
        lr: Learning rate.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: L2 penalty; with ``decoupled_weight_decay`` AdamW's.
        amsgrad: Divide by the largest average so far.
        maximize: Ascend instead.
        decoupled_weight_decay: ``p *= 1 - lr * weight_decay`` instead of adding to the gradient.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"step"``, ``"exp_avg"``, ``"exp_avg_sq"``, with amsgrad
            ``"max_exp_avg_sq"``.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Adam([w], lr=0.5, eps=0).step([np.array([2.0, -4.0])])
        >>> w.round(6).tolist()
        [0.5, 2.5]
    """

    _rule = rules.ADAM

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )


class AdamW(Adam):
    """AdamW (`torch.optim.AdamW`; Loshchilov and Hutter 2019), over NumPy arrays.

    `Adam` whose weight decay shrinks the parameter first, ``p *= 1 - lr * weight_decay``, and does
    not enter the averages.

    Args:
        params: As `SGD`.
        lr: Learning rate.
        betas: As `Adam`.
        eps: As `Adam`.
        weight_decay: Decoupled weight decay.
        amsgrad: As `Adam`.
        maximize: Ascend instead.

    Attributes:
        param_groups: As `SGD`.
        state: As `Adam`.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> AdamW([w], lr=0.5, weight_decay=0.5).step([np.array([0.0])])
        >>> w.tolist()
        [0.75]
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
        )
