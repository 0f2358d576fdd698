"""What both fronts do to an optimizer's states: formats, float32 copies, averages. The few
operations on arrays that differ between NumPy and torch are an `Arrays`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dlkernels.optim import state_formats as formats
from dlkernels.optim.rule import Rule
from dlkernels.optim.step_options import AVERAGE, AVERAGED

__all__ = ["Arrays", "StateMethods"]

Array = Any


class Arrays(Protocol):
    """Arrays of one front. A dtype is its name: ``"float32"``."""

    #: What they are called in errors.
    plural: str

    def is_array(self, value: Any) -> bool:
        """Whether this is one."""

    def dtype(self, array: Array) -> str:
        """The name of the dtype."""

    def shape(self, array: Array) -> tuple[int, ...]:
        """The shape."""

    def size(self, array: Array) -> int:
        """The number of elements."""

    def detached(self, array: Array) -> Array:
        """The same array, without its autograd graph."""

    def copy(self, array: Array, dtype: str | None = None) -> Array:
        """A copy, in another dtype."""

    def cast(self, array: Array, dtype: str) -> Array:
        """In another dtype; maybe the same array."""

    def full_like(self, array: Array, fill: float, dtype: str) -> Array:
        """A new array of the same shape and order in memory."""

    def scales_like(self, param: Array) -> Array:
        """A new array for the scales of a state in eight bits."""

    def assign(self, array: Array, values: Array) -> None:
        """Writes values of another dtype to an array."""

    def written(self, array: Array) -> None:
        """Increments the version of an array that a kernel wrote."""

    def local(self, array: Array) -> Array:
        """The part of a distributed array that this process has."""

    def local_scales(self, scales: Array, codes: Array) -> Array:
        """The same of the scales of codes."""


class StateMethods:
    """The methods of an optimizer that both fronts have."""

    _rule: ClassVar[Rule]
    _arrays: ClassVar[Arrays]
    param_groups: list[dict[str, Any]]
    _now: dict[str, Any]  # "shows_averages": within ema_weights()

    # --- of the front

    if TYPE_CHECKING:  # torch's class, which has it, comes after this one

        def state_dict(self) -> dict[str, Any]:
            """The groups' numbers and the states."""

    def _entries(self) -> Iterator[tuple[dict[str, Any], Array, dict[str, Any]]]:
        """Each parameter with its group and state, over all groups."""
        raise NotImplementedError

    def _keep_state(self, param: Array, state: dict[str, Any]) -> None:
        """Makes a dict of `_entries` the parameter's state, where it had none."""

    def _check_codes_for(self, param: Array) -> None:
        """Raises for a parameter whose states cannot be codes."""

    def _parameters(self) -> list[Array]:
        return [param for group in self.param_groups for param in group["params"]]

    # --- formats

    def _format_state(self, group: dict[str, Any], param: Array, state: dict[str, Any]) -> None:
        """Brings what a parameter has of its state to the formats of its group."""
        if not formats.has_formats(group):
            return
        arrays, rule = self._arrays, self._rule
        dtype = arrays.dtype(param)
        has_master = group.get("master") is not None and dtype == "bfloat16"
        kind = formats.kind_of(group, arrays.size(param), has_master)
        wide = "float64" if dtype == "float64" else "float32"
        # What a first step starts from may have been rounded to the parameter's dtype.
        is_first = has_master and not float(state.get("step", 1))
        for name, signed, fill in zip(
            rule.used_slots(group), rule.signs, rule.fill(group), strict=False
        ):
            if kind is None or name is None:
                continue
            codes, scales = formats.codes_name(name), formats.scales_name(name)
            if codes in state:
                if kind == "8bit":
                    continue
                value = self._decoded(name, state.pop(codes), state.pop(scales), signed)
            elif not arrays.is_array(value := state.get(name)):
                continue
            elif is_first and fill:
                value = arrays.full_like(value, fill, wide)
            if kind == "8bit":
                self._check_codes_for(param)
                del state[name]
                state[codes] = arrays.full_like(param, 0, "uint8")
                state[scales] = arrays.scales_like(param)
                formats.encode(
                    type(self).__name__,
                    name,
                    arrays.local(value),
                    arrays.local(state[codes]),
                    arrays.local_scales(state[scales], param),
                    signed,
                )
            else:
                state[name] = arrays.cast(value, "bfloat16" if kind == "bf16" else wide)
        if has_master and formats.LOW not in state:
            state[formats.LOW] = arrays.full_like(param, 0, "int16")

    def _decoded(self, name: str, codes: Array, scales: Array, signed: bool) -> Array:
        arrays = self._arrays
        values = arrays.full_like(codes, 0, "float32")
        formats.decode(
            type(self).__name__,
            name,
            arrays.local(codes),
            arrays.local_scales(scales, codes),
            arrays.local(values),
            signed,
        )
        return values

    # --- in float32

    def float32_state_dict(self) -> dict[str, Any]:
        """`state_dict` as it would be without `state_dtype` and `master`: states in float32. It
        loads into this class in any format and on any number of processes; that of
        `dlkernels.torch.optim` into torch's class too. (`master_parameters` has the parameters.)
        """
        plain = self.state_dict()
        states = plain["state"]
        for key in states if isinstance(states, dict) else range(len(states)):
            state = {name: value for name, value in states[key].items() if name != formats.LOW}
            for name, signed in zip(self._rule.slots, self._rule.signs, strict=True):
                codes, value = state.pop(formats.codes_name(name), None), state.get(name)
                if codes is not None:
                    scales = state.pop(formats.scales_name(name))
                    state[name] = self._decoded(name, codes, scales, signed)
                elif self._arrays.is_array(value) and self._arrays.dtype(value) == "bfloat16":
                    state[name] = self._arrays.cast(value, "float32")
            states[key] = state
        for group in plain["param_groups"]:
            for name in formats.DEFAULTS:
                group.pop(name, None)
        return plain

    def master_parameters(self) -> list[Array]:
        """Every parameter in float32, in the order of the groups: with ``master="split16"`` what
        its bfloat16 is the rounded half of. float64 parameters stay float64.
        """
        arrays, result = self._arrays, []
        for _, param, state in self._entries():
            wide = "float64" if arrays.dtype(param) == "float64" else "float32"
            values = arrays.copy(param, wide)
            if formats.LOW in state:
                low = state[formats.LOW]
                formats.join(
                    type(self).__name__,
                    arrays.local(param),
                    arrays.local(low),
                    arrays.local(values),
                )
            result.append(values)
        return result

    def load_master_parameters(self, values: Sequence[Array]) -> None:
        """Sets every parameter to these numbers, and with ``master="split16"`` its low half too.

        Args:
            values: As `master_parameters` gives them, of any floating dtype.

        Raises:
            ValueError: Their number or a shape is wrong.
        """
        arrays, operation = self._arrays, type(self).__name__
        entries = list(self._entries())
        if len(values) != len(entries):
            raise ValueError(
                f"{operation}: values: expected {len(entries)} {arrays.plural}, got {len(values)}"
            )
        for index, ((_, param, _), value) in enumerate(zip(entries, values, strict=True)):
            if arrays.shape(value) != arrays.shape(param):
                raise ValueError(
                    f"{operation}: values[{index}]: expected shape {arrays.shape(param)}, "
                    f"got {arrays.shape(value)}"
                )
        for (group, param, state), value in zip(entries, values, strict=True):
            if group.get("master") is None or arrays.dtype(param) != "bfloat16":
                arrays.assign(param, value)
                continue
            low = arrays.full_like(param, 0, "int16")
            wide = arrays.copy(value, "float32")
            formats.split(operation, arrays.local(wide), arrays.local(param), arrays.local(low))
            arrays.written(param)
            state[formats.LOW] = low
            self._keep_state(param, state)

    # --- averages

    def ema_parameters(self) -> list[Array]:
        """The moving averages, in the order of the parameters over all groups; before its first
        gradient, the parameter itself.

        Raises:
            RuntimeError: No averages are kept (``ema_decay`` is None).
        """
        if self.param_groups[0].get("ema_decay") is None:
            raise RuntimeError(f"{type(self).__name__}: ema_parameters: needs ema_decay")
        has_averages = bool(self.param_groups[0].get(AVERAGED))
        return [
            state[AVERAGE] if has_averages and AVERAGE in state else self._arrays.detached(param)
            for _, param, state in self._entries()
        ]

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[None]:
        """A context in which the parameters have the values of their averages; they have their own
        again afterwards, also after an exception. Autograd counts both writes.

        Raises:
            RuntimeError: No averages are kept, it is entered twice, or a step is taken within.
        """
        averages, params = self.ema_parameters(), self._parameters()
        if self._now["shows_averages"]:
            raise RuntimeError(f"{type(self).__name__}: ema_weights: entered twice")
        own = [self._arrays.copy(param) for param in params]
        self._now["shows_averages"] = True
        try:
            for param, average in zip(params, averages, strict=True):
                self._arrays.assign(param, average)
            yield
        finally:
            for param, value in zip(params, own, strict=True):
                self._arrays.assign(param, value)
            self._now["shows_averages"] = False
