"""What the optimizers over NumPy arrays share: constructor, groups, step, state dicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import is_
from typing import Any

import numpy as np
from numpy import ndarray

from dlkernels import _core
from dlkernels._arguments import as_output, is_torch_tensor
from dlkernels.optim import constructors, step_options
from dlkernels.optim import state_formats as formats
from dlkernels.optim.rule import Numbers, Rule, overflow_text
from dlkernels.optim.states import StateMethods
from dlkernels.optim.step_options import (
    AVERAGE,
    AVERAGED,
    Extras,
    count_average,
    extras_of,
    inverse_scale,
    take_extras,
    unchosen,
)

__all__ = ["Optimizer"]

_EXTRAS = tuple(argument.name for argument in step_options.ARGUMENTS)

Array = Any
Params = Iterable[Array] | Iterable[dict[str, Any]]

_PARAMS = (
    "Writable arrays (float32, float64, bfloat16 or float16, any strides), or dicts with "
    '``"params"`` and that group\'s own values of the arguments below. No two may share memory.'
)
_GROUPS = "One dict per group; values may be changed between steps (a schedule of ``lr``)."
_STATE = (
    "One dict per parameter, over all groups, empty before its first step; here {}. Its arrays may "
    "be of another floating dtype than the parameter."
)
_NORM = "With ``max_grad_norm``, the norm of the last step's gradients; else None."
_FOUND = "Whether the last step was skipped, see `step`."
_TYPE_ERROR = "Something is no array of a floating dtype, no number, or no flag."
_VALUE_ERROR = "{}; or an array is read-only, overlaps itself, or shares memory with another."


class NumpyArrays:
    """`dlkernels.optim.states.Arrays`."""

    plural = "arrays"

    def is_array(self, value: Any) -> bool:
        return value is not None

    def dtype(self, array: Array) -> str:
        return np.asarray(array).dtype.name

    def shape(self, array: Array) -> tuple[int, ...]:
        return np.shape(array)

    def size(self, array: Array) -> int:
        return np.asarray(array).size

    def detached(self, array: Array) -> Array:
        return array

    def copy(self, array: Array, dtype: str | None = None) -> Array:
        return array.copy() if dtype is None else np.array(array, _dtype(dtype))

    def cast(self, array: Array, dtype: str) -> Array:
        return array.astype(_dtype(dtype))

    def full_like(self, array: Array, fill: float, dtype: str) -> Array:
        return np.full_like(array, fill, dtype=_dtype(dtype), subok=False)

    def scales_like(self, param: Array) -> Array:
        return np.empty(formats.scale_count(self.size(param)), np.float32)

    def assign(self, array: Array, values: Array) -> None:
        array[...] = np.asarray(values).astype(array.dtype)

    def written(self, array: Array) -> None:
        pass

    def local(self, array: Array) -> Array:
        return array

    def local_scales(self, scales: Array, codes: Array) -> Array:
        return scales


class Optimizer(StateMethods):
    """An optimizer over NumPy arrays. A class with a `rule` gets its constructor and the rest of
    its docstring from that."""

    _arrays = NumpyArrays()

    param_groups: list[dict[str, Any]]
    state: list[dict[str, Any]]
    defaults: dict[str, Any]
    grad_norm: float | None
    found_inf: bool

    def __init_subclass__(cls, rule: Rule | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if rule is None:
            return
        cls._rule = rule
        arguments = (
            *rule.arguments,
            *(formats.ARGUMENTS if rule.signed else ()),
            *step_options.ARGUMENTS,
        )
        cls.__init__ = constructors.make_init(  # type: ignore[method-assign]
            f"{cls.__module__}.{cls.__name__}",
            "Params",
            arguments,
            Optimizer._construct,
            Params=Params,
        )
        if cls.__doc__ is not None:
            cls.__doc__ = constructors.document(
                cls.__doc__,
                rule,
                {
                    "Args": constructors.argument_texts(_PARAMS, arguments),
                    "Attributes": {
                        "param_groups": _GROUPS,
                        "state": _STATE.format(constructors.state_text(rule)),
                        "grad_norm": _NORM,
                        "found_inf": _FOUND,
                    },
                    "Raises": {
                        "TypeError": _TYPE_ERROR,
                        "ValueError": _VALUE_ERROR.format(rule.raises),
                    },
                },
            )

    def _construct(self, params: Params, arguments: dict[str, Any]) -> None:
        """What every constructor does, with its arguments besides the parameters by name."""
        operation, rule = type(self).__name__, self._rule
        self.grad_norm = None
        self.found_inf = False
        self._now = {"shows_averages": False}
        extras = Extras(**{name: arguments.pop(name) for name in _EXTRAS}).checked(operation)
        self.defaults = {
            **{argument.name: argument.default for argument in rule.arguments},
            **(formats.DEFAULTS if rule.signed else {}),
            **arguments,
            **{name: getattr(extras, name) for name in _EXTRAS},
            AVERAGED: 0,
        }
        self.param_groups = []
        self.state = []
        self._checked: dict[int, tuple[tuple[Any, ...], tuple[str | None, ...]]] = {}
        if _is_array(params) or isinstance(params, dict):
            raise TypeError(
                f"{operation}: params: expected a list of arrays or of dicts, "
                f"got {type(params).__name__}"
            )
        entries = _listed(operation, params)
        if not entries:
            raise ValueError(f"{operation}: params: expected at least one array, got none")
        if not isinstance(entries[0], dict):
            entries = [{"params": entries}]
        for entry in entries:
            self.add_param_group(entry)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # What an earlier version pickled has neither of the two.
        vars(self).update({"_now": {"shows_averages": False}, "_checked": {}, **state})

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} (\n"]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}\n")
            hidden = ["params", *unchosen(group)]
            if not formats.has_formats(group):
                hidden += formats.DEFAULTS
            lines += [f"    {key}: {group[key]}\n" for key in sorted(group) if key not in hidden]
        return "".join([*lines, ")"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters: a dict with ``"params"`` and that group's own values of the arguments.

        Raises:
            TypeError: Something is no array of a floating dtype, or a value is no number.
            ValueError: A key is unknown, a value out of range, or an array is read-only, overlaps
                itself or shares memory with another.
        """
        if not isinstance(param_group, dict):
            raise TypeError(
                f"{type(self).__name__}: params: expected a dict, as others are, "
                f"got {type(param_group).__name__}"
            )
        if "params" not in param_group:
            raise ValueError(
                f"{type(self).__name__}: params: expected a group with 'params', got none"
            )
        params = param_group["params"]
        params = [params] if _is_array(params) else _listed(type(self).__name__, params)
        group = {**self.defaults, **param_group, "params": params}
        unknown = set(group) - {*self.defaults, "params"}
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: params: unknown keys {sorted(unknown)} in a group"
            )
        self._rule.check_types(type(self).__name__, group)
        self._rule.check(group)
        _core.check_parameters(type(self).__name__, [*self._parameters(), *params])
        self._check_formats(group)
        take_extras(type(self).__name__, [*self.param_groups, group], param_group)
        self.param_groups.append(group)
        self.state += [{} for _ in group["params"]]

    def _check_formats(self, group: dict[str, Any]) -> None:
        formats.check(type(self).__name__, self._rule, group)
        for param in group["params"] if group.get("master") is not None else ():
            if np.asarray(param).dtype == np.float16:
                raise ValueError(
                    f"{type(self).__name__}: master: expected bfloat16 parameters (or float32 and "
                    "float64, which need none), got float16"
                )

    def _fresh_state(self, group: dict[str, Any], param: Array) -> dict[str, Any]:
        rule = self._rule
        state: dict[str, Any] = dict(zip(rule.scalars, rule.first_scalars(group), strict=True))
        # What is to be stored in fewer bits, or beside a split parameter, starts in full.
        is_half = np.asarray(param).dtype.itemsize == 2
        dtype = np.float32 if formats.has_formats(group) and is_half else None
        for name, fill in zip(rule.used_slots(group), rule.fill(group), strict=False):
            if name is not None:
                state[name] = self._filled(name, param, fill, dtype)
        self._format_state(group, param, state)
        return state

    def _filled(self, name: str, param: Array, fill: float, dtype: Any) -> Array:
        with np.errstate(over="ignore"):
            filled = np.full_like(param, fill, dtype=dtype, subok=False)
        if np.isfinite(fill) and not np.isfinite(filled).all():
            raise ValueError(
                f"{type(self).__name__}: {name}: expected to start from a number that "
                f"{filled.dtype} holds, got {fill}"
            )
        return filled

    def step(self, grads: Sequence[Array | None], *, grad_scale: float | None = None) -> None:
        """Updates every parameter in place.

        Args:
            grads: One gradient per parameter, in their order over all groups, of the parameter's
                shape and any floating dtype; None leaves a parameter as it is.
            grad_scale: What the loss was multiplied by: the gradients are divided by it before
                anything else. If one of them is not finite nothing is updated, and ``found_inf``
                is True.

        Raises:
            RuntimeError: Within ``ema_weights()``; or something is a torch tensor that requires
                grad, outside ``torch.no_grad()``: `dlkernels.torch.optim` is for those.
            TypeError: Something is no array, or not of a floating dtype.
            ValueError: The number of gradients, a shape or a group's value is wrong, a parameter
                is read-only, or a gradient that is to be written; parameters and states share
                memory, or a gradient does with one of them (but may be its own parameter); or
                float32, where it is computed in, cannot hold a number of the step. Nothing is
                updated then.
        """
        if self._now["shows_averages"]:
            raise RuntimeError(f"{type(self).__name__}: step: called within ema_weights()")
        rule, groups, operation = self._rule, self.param_groups, type(self).__name__
        options = extras_of(operation, groups)
        averages = options.ema_decay is not None
        extras = options.for_kernel(
            groups,
            1.0 if grad_scale is None else inverse_scale(operation, grad_scale),
            grad_scale is not None,
            False,
        )
        grads = grads if type(grads) is list else _listed(operation, grads, "grads")
        if len(grads) != len(self.state):
            raise ValueError(
                f"{operation}: grads: expected {len(self.state)} arrays, got {len(grads)}"
            )
        signed = formats.signed_slots(rule, groups)
        params: list[Array] = []
        states: list[tuple[Array | None, ...]] = []
        setting_of: list[int] = []
        settings: list[Numbers] = []
        rounding: list[tuple[int, int] | None] = []
        indices: dict[tuple[Any, ...], int] = {}
        updates: list[tuple[int, dict[str, Any]]] = []
        next_scalars: list[Numbers] = []
        for number, group in enumerate(groups):
            names = self._used_slots(number)
            needed = {*names, *rule.scalars} - {None}
            for param in group["params"]:
                index = len(params)
                params.append(param)
                state, grad = self.state[index], grads[index]
                if grad is None:
                    states.append(_average_alone(state, names, signed) if averages else ())
                    setting_of.append(0)
                    continue
                if type(param) is not ndarray:
                    as_output(param, operation, "params")
                if type(grad) is not ndarray:
                    is_torch_tensor(grad, operation, "grads")
                fresh = False
                if signed or not state.keys() >= needed:
                    state, fresh = self._completed(group, param, state, names)
                scalars = tuple(map(state.get, rule.scalars))
                setting = indices.setdefault((number, scalars, fresh), len(settings))
                if setting == len(settings):
                    after, numbers = rule.advance(group, scalars, fresh, 0)  # type: ignore[arg-type]
                    next_scalars.append(after)
                    settings.append(numbers)
                    rounding.append(formats.rounding(group) if signed else None)
                own = list(map(state.get, names))  # type: ignore[arg-type]
                if signed:
                    own = [None if name is None else formats.held(state, name) for name in names]
                for name, value in zip(names, own, strict=True):
                    if value is None and name is not None:
                        raise TypeError(f"{operation}: {name}: expected an array, got NoneType")
                if averages:
                    if AVERAGE not in state:
                        state = {**state, AVERAGE: _average_like(param, own)}
                    own.append(state[AVERAGE])
                if signed:
                    own += _format_states(state, names, averages)
                states.append(tuple(own))
                setting_of.append(setting)
                updates.append((index, state))
        try:
            _core.optimizer_step(
                rule.kernel,
                operation,
                [*rule.slots, *([AVERAGE] if averages else [])],
                averages,
                params,
                grads,
                states,
                setting_of,
                settings,
                signed,
                rounding,
                extras,
            )
        except OverflowError as error:
            raise ValueError(overflow_text(error, rule, groups)) from None
        self.found_inf = extras.is_skipped
        if extras.max_norm >= 0:
            with np.errstate(over="ignore"):
                self.grad_norm = float(
                    (np.float64 if extras.norm_is_double else np.float32)(extras.norm)
                )
        if extras.is_skipped:
            return
        for index, state in updates:
            state.update(zip(rule.scalars, next_scalars[setting_of[index]], strict=True))
            self.state[index] = state
        if averages and updates:
            count_average(groups)
        if signed:
            for group in groups:
                if formats.rounding(group):
                    group["rounding_step"] += 1

    def _used_slots(self, number: int) -> tuple[str | None, ...]:
        """The slots that a group keeps; checks its arguments, unless they are the very ones of the
        last step."""
        group, rule = self.param_groups[number], self._rule
        values = tuple(map(group.get, rule.names))
        if number in self._checked:
            last, slots = self._checked[number]
            if all(map(is_, values, last)):
                return slots
        rule.check_types(type(self).__name__, group)
        rule.check(group)
        slots = rule.used_slots(group)
        if all(map(_is_immutable, values)):
            self._checked[number] = values, slots
        else:
            self._checked.pop(number, None)
        return slots

    def _completed(
        self,
        group: dict[str, Any],
        param: Array,
        state: dict[str, Any],
        names: Sequence[str | None],
    ) -> tuple[dict[str, Any], bool]:
        """A parameter's state with what a step needs, and whether this is its first step."""
        fresh = any(
            name is not None and name not in state and formats.codes_name(name) not in state
            for name in names
        )
        lacks_low = group.get("master") is not None and formats.LOW not in state
        if fresh or lacks_low or any(name not in state for name in self._rule.scalars):
            state = {**self._fresh_state(group, param), **state}
        return state, fresh

    def _entries(self) -> Iterator[tuple[dict[str, Any], Array, dict[str, Any]]]:
        states = iter(self.state)
        for group in self.param_groups:
            for param in group["params"]:
                yield group, param, next(states)

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
                f"{type(self).__name__}: state_dict: expected "
                f"{len(self.param_groups)} groups and {len(self.state)} states, "
                f"got {len(groups)} and {len(states)}"
            )
        for group, saved in zip(self.param_groups, groups, strict=True):
            group.update(saved)
        self.state = [_copied(state) for state in states]
        for group, param, state in self._entries():
            if state:
                self._format_state(group, param, state)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "__dlpack__")


def _is_immutable(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_immutable, value))
    return value is None or isinstance(value, (int, float, np.generic))


def _listed(operation: str, values: Any, argument: str = "params") -> list[Any]:
    if isinstance(values, (str, bytes, dict, set, frozenset)) or not isinstance(values, Iterable):
        raise TypeError(
            f"{operation}: {argument}: expected a list of arrays, got {type(values).__name__}"
        )
    return list(values)


def _dtype(name: str) -> Any:
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("state_dtype='bf16' over NumPy arrays needs ml_dtypes") from error
    return ml_dtypes.bfloat16


def _average_alone(
    state: dict[str, Any], names: Sequence[str | None], signed: Sequence[bool]
) -> tuple[Array | None, ...]:
    """The states of a parameter without a gradient, whose average goes on."""
    if AVERAGE not in state:
        return ()
    own = [*(None for _ in names), state[AVERAGE]]
    return (*own, *(_format_states(state, [None for _ in names], True) if signed else []))


def _format_states(
    state: dict[str, Any], names: Sequence[str | None], averages: bool
) -> list[Array | None]:
    """What comes after the states in their formats: their scales, and a parameter's low half."""
    scales = [None if name is None else state.get(formats.scales_name(name)) for name in names]
    return [*scales, *([None] if averages else []), state.get(formats.LOW)]


def _average_like(param: Array, states: Sequence[Array | None]) -> Array:
    """What an average starts as: the parameter, in its dtype or a wider one of a state."""
    widest = max(
        (array for array in (param, *states) if array is not None),
        key=lambda array: array.dtype.itemsize,
    )
    return np.array(param, dtype=widest.dtype)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.copy() if hasattr(value, "copy") else value for name, value in state.items()
    }
