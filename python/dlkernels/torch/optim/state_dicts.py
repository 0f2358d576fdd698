"""State dicts: those of torch, with states in the dtypes and formats they were saved in."""

from __future__ import annotations

from typing import Any

import torch

from dlkernels.optim import state_formats as formats
from dlkernels.optim.step_options import AVERAGE, AVERAGED, Extras
from dlkernels.torch._tools import outside_graphs
from dlkernels.torch.optim.routing import Steps
from dlkernels.torch.optim.shards import scales_like

__all__ = ["StateDicts"]


class StateDicts(Steps):
    """State dicts."""

    _being_loaded: dict[str, Any] | None = None

    @outside_graphs
    def state_dict(self) -> dict[str, Any]:
        """As torch's."""
        if self._blank is not None:
            self._blank.fill()
        taken: dict[str, Any] = super().state_dict()
        return taken

    @outside_graphs
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but states keep the dtypes they were saved with: torch casts them to their
        parameter's, so float32 moments of a bfloat16 parameter would lose what they are kept for.

        Where what is loaded says nothing of this optimizer's `state_dtype` and `master`, or of what
        its step does besides its rule (it is torch's), they stay, and states are brought to them.

        Raises:
            ValueError: As torch; or states in eight bits are of other shapes, or cut into other
                parts. Nothing has changed then.
        """
        names = (*formats.DEFAULTS, *vars(Extras()))
        own = [
            {name: group[name] for name in names if name in group} for group in self.param_groups
        ]
        handle = self.register_load_state_dict_pre_hook(
            lambda _, loaded: setattr(self, "_being_loaded", loaded)
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self._being_loaded = None
        has_averages = any(AVERAGE in state for state in self.state.values())
        for group, options in zip(self.param_groups, own, strict=True):
            for name, value in options.items():
                group.setdefault(name, value)
            if group.get("ema_decay") is not None:
                group[AVERAGED] = group.get(AVERAGED, 1) if has_averages else 0
            if formats.has_formats(group):
                for param in group["params"]:
                    if param in self.state:
                        self._format_state(group, param, self.state[param])

    def __setstate__(self, state: dict[str, Any]) -> None:
        loaded = self._being_loaded
        if loaded is not None:
            ids = [i for group in loaded["param_groups"] for i in group["params"]]
            params = [param for group in self.param_groups for param in group["params"]]
            for saved_id, param in zip(ids, params, strict=True):
                saved = loaded["state"].get(saved_id, {})
                self._check_codes(param, saved)
                for name, value in saved.items():
                    if torch.is_tensor(value) and state["state"][param][name].dtype != value.dtype:
                        state["state"][param][name] = value.to(device=param.device)
        with torch.device("cpu"):
            super().__setstate__(state)
        self._blank = None
        if "_now" not in self.__dict__:  # copied or unpickled
            self._now = {"grad_norm": None, "shows_averages": False}
            self._own_defaults = {}

    def _check_codes(self, param: torch.Tensor, saved: dict[str, Any]) -> None:
        for name in self._rule.slots:
            codes, scales = formats.codes_name(name), formats.scales_name(name)
            if codes not in saved:
                continue
            for key, expected in ((codes, param.shape), (scales, scales_like(param).shape)):
                if saved[key].shape != expected:
                    raise ValueError(
                        f"{type(self).__name__}: load_state_dict: {key}: expected shape "
                        f"{tuple(expected)}, got {tuple(saved[key].shape)}; what "
                        "float32_state_dict() gives loads on any number of processes"
                    )
