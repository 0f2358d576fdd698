"""Steps by kernels: from the table that the last step left, or from nothing."""

from __future__ import annotations

from typing import Any

import torch

from dlkernels import _core
from dlkernels.optim import state_formats as formats
from dlkernels.optim.rule import overflow_text
from dlkernels.optim.step_options import AVERAGE, Extras
from dlkernels.torch.optim.options_in_torch import grad_norm_tensor
from dlkernels.torch.optim.shards import LocalShards, has_shards
from dlkernels.torch.optim.states import States

__all__ = ["KernelSteps"]


class KernelSteps(States):
    """Steps by kernels."""

    # Never copied or saved: torch's own __getstate__ names what is.
    _table: _core.ParameterTable | None = None

    def _groups_and_slots(self, averages: bool) -> tuple[list[Any], list[Any]]:
        average = (AVERAGE,) if averages else ()
        return (
            [group["params"] for group in self.param_groups],
            [(*self._rule.used_slots(group), *average) for group in self.param_groups],
        )

    def _run(
        self,
        table: _core.ParameterTable,
        groups: list[Any],
        slots: list[Any],
        state: dict[Any, Any],
        extras: _core.StepExtras,
    ) -> bool:
        """One step of a table, with the settings that it expects."""
        asked = table.expected(groups, slots, state)
        settings: list[tuple[Any, ...]] = []
        while True:
            for number, scalars, fresh, single in asked:
                group = self.param_groups[number]
                after, numbers = self._rule.advance(group, scalars, fresh, single)
                rounding = formats.rounding(group)
                settings.append((number, scalars, fresh, single, after, numbers, rounding))
            found = table.step(groups, slots, state, settings, extras)
            if isinstance(found, bool):
                return found
            asked = found

    def _step_by_table(self, options: Extras, extras: _core.StepExtras) -> bool:
        """The step from what the last one left; False, and nothing done, where it does not fit."""
        if self._table is None:
            return False
        groups, slots = self._groups_and_slots(options.ema_decay is not None)
        try:
            is_done = self._run(self._table, groups, slots, self.state, extras)
        except TypeError:  # no kernel for one of the tensors
            return False
        except OverflowError as error:
            raise self._overflow(error) from None
        if is_done:
            self._take_norm(extras)
        return is_done

    def _step_by_kernel(self, extras: _core.StepExtras, averages: bool) -> bool:
        """False, and nothing done, where no kernel takes the tensors."""
        known = {param for param, own in self.state.items() if own}
        fresh = self._make_states()
        averaged = self._make_averages() if averages else []
        is_done = False
        try:
            groups, slots = self._groups_and_slots(averages)
            if has_shards(groups):
                if not self._rule.elementwise:
                    raise TypeError("needs all of a parameter")
                is_done = self._step_shards(LocalShards(groups, self.state, fresh), slots, extras)
            else:
                table = self._new_table(groups, slots, self.state, fresh)
                is_done = self._run(table, groups, slots, self.state, extras)
                self._table = table if is_done and not extras.is_skipped else None
        except TypeError as error:
            if any(formats.has_formats(group) for group in self.param_groups):
                raise self._no_kernel(error) from None
        except OverflowError as error:
            raise self._overflow(error) from None
        finally:
            if not is_done or extras.is_skipped:
                self._forget_states(fresh)
                for param in averaged:
                    del self.state[param][AVERAGE]
        if is_done:
            self._take_norm(extras)
        if is_done and extras.is_skipped:  # there was no first step
            for param in set(self.state) - known:
                del self.state[param]
        return is_done

    def _new_table(
        self, groups: list[Any], slots: list[Any], state: dict[Any, Any], fresh: list[torch.Tensor]
    ) -> _core.ParameterTable:
        has_average = any(AVERAGE in names for names in slots)
        return _core.ParameterTable(
            type(self).__name__,
            self._rule.kernel,
            [*self._rule.slots, *([AVERAGE] if has_average else [])],
            has_average,
            list(self._rule.scalars),
            groups,
            slots,
            state,
            fresh,
            _core.torch_handles_available(),
            formats.signed_slots(self._rule, self.param_groups),
            [formats.rounding(group) is not None for group in self.param_groups],
        )

    def _step_shards(self, shards: LocalShards, slots: list[Any], extras: _core.StepExtras) -> bool:
        """The step of this process's parts of DTensors, whose tensors are made anew every time."""
        table = self._new_table(shards.groups, slots, shards.state, shards.fresh)
        is_done = self._run(table, shards.groups, slots, shards.state, extras)
        if is_done:
            shards.count_versions()
        return is_done

    def _take_norm(self, extras: _core.StepExtras) -> None:
        if extras.max_norm >= 0:
            self._now["grad_norm"] = grad_norm_tensor(extras.norm, extras.norm_is_double)

    def _overflow(self, error: OverflowError) -> RuntimeError:
        what = overflow_text(error, self._rule, self.param_groups)
        return RuntimeError(f"value cannot be converted to type float without overflow: {what}")
