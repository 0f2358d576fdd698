"""Optimizers over lists of NumPy arrays, updated in place: one parallel region a step, any number
of arrays. `dlkernels.torch.optim` has the same steps as `torch.optim.Optimizer` subclasses.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dlkernels import _core
from dlkernels import _optimizer_rules as rules
from dlkernels import _state_formats as formats
from dlkernels._arguments import as_output, is_torch_tensor
from dlkernels._optimizer_extras import (
    AVERAGE,
    AVERAGED,
    Extra,
    Extras,
    StepArguments,
    count_average,
    extras_of,
    inverse_scale,
    take_extras,
    unchosen,
    with_keywords,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
]

Array = Any
Params = Iterable[Array] | Iterable[dict[str, Any]]


class _Optimizer:
    """What every optimizer shares; see `SGD` for its attributes and methods."""

    _rule: ClassVar[rules.Rule]

    max_grad_norm = Extra[float | None]()
    write_back = Extra[bool]()
    ema_decay = Extra[float | None]()
    zero_grads = Extra[bool]()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.__signature__ = with_keywords(  # type: ignore[attr-defined]
            inspect.signature(cls.__init__), vars(_Optimizer)
        )

    def __init__(self, params: Params, defaults: dict[str, Any], extras: StepArguments) -> None:
        unknown = set(extras) - set(StepArguments.__annotations__)
        if unknown:
            raise TypeError(
                f"{self._name}.__init__() got an unexpected keyword argument {min(unknown)!r}"
            )
        self.grad_norm: float | None = None
        self.found_inf = False
        self._shows_averages = False
        self.defaults = {**defaults, **vars(Extras(**extras).checked(self._name)), AVERAGED: 0}
        del self.defaults["scaler_in_step"]
        self.param_groups: list[dict[str, Any]] = []
        self.state: list[dict[str, Any]] = []
        if _is_array(params) or isinstance(params, dict):
            raise TypeError(
                f"{self._name}: params: expected a list of arrays or of dicts, "
                f"got {type(params).__name__}"
            )
        entries = _listed(self._name, params)
        if not entries:
            raise ValueError(f"{self._name}: params: expected at least one array, got none")
        if not isinstance(entries[0], dict):
            entries = [{"params": entries}]
        for entry in entries:
            self.add_param_group(entry)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        lines = [f"{self._name} (\n"]
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
                f"{self._name}: params: expected a dict, as others are, "
                f"got {type(param_group).__name__}"
            )
        if "params" not in param_group:
            raise ValueError(f"{self._name}: params: expected a group with 'params', got none")
        params = param_group["params"]
        params = [params] if _is_array(params) else _listed(self._name, params)
        group = {**self.defaults, **param_group, "params": params}
        unknown = set(group) - {*self.defaults, "params"}
        if unknown:
            raise ValueError(f"{self._name}: params: unknown keys {sorted(unknown)} in a group")
        rules.check_types(self._name, group)
        self._rule.check(group)
        _core.check_parameters(self._name, [*self._parameters(), *params])
        self._check_formats(group)
        take_extras(self._name, [*self.param_groups, group], param_group)
        self.param_groups.append(group)
        self.state += [{} for _ in group["params"]]

    def _check_formats(self, group: dict[str, Any]) -> None:
        formats.check(self._name, self._rule, group)
        for param in group["params"] if group.get("master") is not None else ():
            if np.asarray(param).dtype == np.float16:
                raise ValueError(
                    f"{self._name}: master: expected bfloat16 parameters (or float32 and float64, "
                    "which need none), got float16"
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
                f"{self._name}: {name}: expected to start from a number that {filled.dtype} holds, "
                f"got {fill}"
            )
        return filled

    def _format_state(self, group: dict[str, Any], param: Array, state: dict[str, Any]) -> None:
        """Brings a state to its group's formats."""
        if not formats.has_formats(group):
            return
        like = np.asarray(param)
        has_master = group["master"] is not None and like.dtype.name == "bfloat16"
        kind = formats.kind_of(group, like.size, has_master)
        wide = np.float64 if like.dtype == np.float64 else np.float32
        slots = self._rule.used_slots(group)
        for name, signed in zip(slots, self._rule.signed or [True] * len(slots), strict=True):
            if kind is None or name is None or formats.held(state, name) is None:
                continue
            codes, scales = formats.codes_name(name), formats.scales_name(name)
            if codes in state:
                if kind == "8bit":
                    continue
                state[name] = self._decoded(name, state.pop(codes), state.pop(scales), signed)
            value = state[name]
            if kind == "8bit":
                del state[name]
                state[codes] = np.empty_like(like, dtype=np.uint8, subok=False)
                state[scales] = np.empty(formats.scale_count(like.size), np.float32)
                formats.encode(self._name, name, value, state[codes], state[scales], signed)
            else:
                state[name] = value.astype(_bfloat16() if kind == "bf16" else wide)
        if has_master and formats.LOW not in state:
            state[formats.LOW] = np.zeros_like(like, dtype=np.int16, subok=False)

    def _decoded(self, name: str, codes: Array, scales: Array, signed: bool) -> Array:
        values = np.empty_like(codes, dtype=np.float32)
        formats.decode(self._name, name, codes, scales, values, signed)
        return values

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
        if self._shows_averages:
            raise RuntimeError(f"{self._name}: step: called within ema_weights()")
        rule = self._rule
        options = extras_of(self._name, self.param_groups)
        averages = options.ema_decay is not None
        extras = options.for_kernel(
            self.param_groups,
            1.0 if grad_scale is None else inverse_scale(self._name, grad_scale),
            grad_scale is not None,
            False,
        )
        grads = _listed(self._name, grads, "grads")
        if len(grads) != len(self.state):
            raise ValueError(
                f"{self._name}: grads: expected {len(self.state)} arrays, got {len(grads)}"
            )
        params: list[Array] = []
        states: list[tuple[Array | None, ...]] = []
        own: list[Array | None]
        setting_of: list[int] = []
        settings: list[rules.Numbers] = []
        rounding: list[tuple[int, int] | None] = []
        signed = formats.signed_slots(rule, self.param_groups)
        indices: dict[tuple[Any, ...], int] = {}
        updates: list[tuple[int, dict[str, Any]]] = []
        next_scalars: list[rules.Numbers] = []
        for number, group in enumerate(self.param_groups):
            rules.check_types(self._name, group)
            rule.check(group)
            names = rule.used_slots(group)
            for param in group["params"]:
                index = len(params)
                params.append(param)
                state = self.state[index]
                if grads[index] is None:
                    own = []
                    if averages and AVERAGE in state:
                        own = [*(None for _ in names), state[AVERAGE]]
                        if signed:
                            own += _format_states(state, [None for _ in names], True)
                    states.append(tuple(own))
                    setting_of.append(0)
                    continue
                as_output(param, self._name, "params")
                is_torch_tensor(grads[index], self._name, "grads")
                fresh = any(
                    name is not None and name not in state and formats.codes_name(name) not in state
                    for name in names
                )
                lacks_low = group.get("master") is not None and formats.LOW not in state
                if fresh or lacks_low or any(name not in state for name in rule.scalars):
                    state = {**self._fresh_state(group, param), **state}
                scalars = tuple(state[name] for name in rule.scalars)
                setting = indices.setdefault((number, scalars, fresh), len(settings))
                if setting == len(settings):
                    after, numbers = rule.advance(group, scalars, fresh, 0)
                    next_scalars.append(after)
                    settings.append(numbers)
                    rounding.append(formats.rounding(group))
                for name in names:
                    if name is not None and formats.held(state, name) is None:
                        raise TypeError(f"{self._name}: {name}: expected an array, got NoneType")
                own = [None if name is None else formats.held(state, name) for name in names]
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
                self._name,
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
            raise ValueError(rules.overflow_text(error, self.param_groups)) from None
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
            count_average(self.param_groups)
        for group in self.param_groups:
            if formats.rounding(group):
                group["rounding_step"] += 1

    def ema_parameters(self) -> list[Array]:
        """The moving averages, in the order of the parameters over all groups; before its first
        gradient, the parameter itself.

        Raises:
            RuntimeError: No averages are kept (``ema_decay`` is None).
        """
        if self.ema_decay is None:
            raise RuntimeError(f"{self._name}: ema_parameters: needs ema_decay")
        return [
            state.get(AVERAGE, param)
            for param, state in zip(self._parameters(), self.state, strict=True)
        ]

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[None]:
        """A context in which the parameters' arrays have the values of their averages; they have
        their own again afterwards, also after an exception.

        Raises:
            RuntimeError: No averages are kept, it is entered twice, or a step is taken within.
        """
        averages, params = self.ema_parameters(), self._parameters()
        if self._shows_averages:
            raise RuntimeError(f"{self._name}: ema_weights: entered twice")
        own = [param.copy() for param in params]
        self._shows_averages = True
        try:
            for param, average in zip(params, averages, strict=True):
                param[...] = average
            yield
        finally:
            for param, value in zip(params, own, strict=True):
                param[...] = value
            self._shows_averages = False

    def _parameters(self) -> list[Array]:
        return [param for group in self.param_groups for param in group["params"]]

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
        for group, param, state in self._each():
            if state:
                self._format_state(group, param, state)

    def _each(self) -> Iterator[tuple[dict[str, Any], Array, dict[str, Any]]]:
        states = iter(self.state)
        for group in self.param_groups:
            for param in group["params"]:
                yield group, param, next(states)

    def float32_state_dict(self) -> dict[str, Any]:
        """`state_dict` as it would be without `state_dtype` and `master`: states in float32. It
        loads into an optimizer with any format. (`master_parameters` has the parameters.)
        """
        plain = self.state_dict()
        slots = dict(zip(self._rule.slots, self._rule.signed, strict=False))
        for index, state in enumerate(plain["state"]):
            values = {name: value for name, value in state.items() if name != formats.LOW}
            for name in filter(state.__contains__, slots):
                if state[name].dtype.name == "bfloat16":
                    values[name] = state[name].astype(np.float32)
            for name in slots:
                codes = values.pop(formats.codes_name(name), None)
                if codes is not None:
                    scales = values.pop(formats.scales_name(name))
                    values[name] = self._decoded(name, codes, scales, slots[name])
            plain["state"][index] = values
        for group in plain["param_groups"]:
            for name in formats.DEFAULTS:
                group.pop(name, None)
        return plain

    def master_parameters(self) -> list[Array]:
        """Every parameter in float32, in the order of the groups: with ``master="split16"`` what
        its bfloat16 is the rounded half of. float64 parameters stay float64.
        """
        result = []
        for _, param, state in self._each():
            array = np.asarray(param)
            values = array.astype(np.float64 if array.dtype == np.float64 else np.float32)
            if formats.LOW in state:
                formats.join(self._name, param, state[formats.LOW], values)
            result.append(values)
        return result

    def load_master_parameters(self, values: Sequence[Array]) -> None:
        """Sets every parameter to these numbers, and with ``master="split16"`` its low half too.

        Args:
            values: As `master_parameters` gives them, of any floating dtype.

        Raises:
            ValueError: Their number or a shape is wrong.
        """
        if len(values) != len(self.state):
            raise ValueError(
                f"{self._name}: values: expected {len(self.state)} arrays, got {len(values)}"
            )
        pairs = list(zip(self._each(), values, strict=True))
        for index, ((_, param, _), value) in enumerate(pairs):
            if np.shape(value) != np.shape(param):
                raise ValueError(
                    f"{self._name}: values[{index}]: expected shape {np.shape(param)}, "
                    f"got {np.shape(value)}"
                )
        for (group, param, state), value in pairs:
            if group.get("master") is None or np.asarray(param).dtype.name != "bfloat16":
                param[...] = np.asarray(value).astype(param.dtype)
                continue
            low = np.empty_like(param, dtype=np.int16, subok=False)
            formats.split(self._name, np.array(value, np.float32), param, low)
            state[formats.LOW] = low


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "__dlpack__")


def _listed(operation: str, values: Any, argument: str = "params") -> list[Any]:
    if isinstance(values, (str, bytes, dict, set, frozenset)) or not isinstance(values, Iterable):
        raise TypeError(
            f"{operation}: {argument}: expected a list of arrays, got {type(values).__name__}"
        )
    return list(values)


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("state_dtype='bf16' over NumPy arrays needs ml_dtypes") from error
    return ml_dtypes.bfloat16


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


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum (`torch.optim.SGD`), over NumPy arrays.

    ``g = grad + weight_decay * p``; ``b = momentum * b + (1 - dampening) * g`` (``b = g`` at an
    array's first step); ``p -= lr * (g + momentum * b if nesterov else b)``. As in torch the
    learning rate stays outside ``b``: after a change of ``lr`` the whole past moves at the new
    rate. float32 and float64 results are bit-equal to torch's on AVX2 and AVX-512.

    Args:
        params: Writable arrays (float32, float64, bfloat16 or float16, any strides), or dicts with
            ``"params"`` and that group's own values of the arguments below. No two may share
            memory.
        lr: Learning rate.
        momentum: Momentum factor; 0 keeps no buffers.
        dampening: Dampening of the momentum.
        weight_decay: L2 penalty.
        nesterov: Nesterov momentum; needs a momentum and no dampening.
        maximize: Ascend instead.
        state_dtype: ``"8bit"`` keeps states as codes of the dynamic map with a scale for each 256
            elements, as bitsandbytes does: 2 bytes for Adam's two instead of 8. ``"bf16"`` rounds
            them to bfloat16 at random, so that the mean of many roundings is the number; it needs
            ml_dtypes. None: the dtype of the parameter.
        master: ``"split16"`` keeps of each bfloat16 parameter the lower half of the float32 that it
            stands for, and states in float32: what is trained are float32 parameters, bit by bit,
            and the bfloat16 ones are those, rounded. Others are left alone.
        seed: Of the random numbers, which are a function of it, the step, and the element.
        min_8bit_size: Parameters with fewer elements keep states in float32.
        extras: What the step does besides, in the same pass over the arrays, each alone and all
            together equal to doing them one after another; attributes too, which may be changed
            between steps. ``max_grad_norm``: clip the norm of all gradients together to this, with
            `torch.nn.utils.clip_grad_norm_`'s coefficient; they stay as they are.
            ``ema_decay``: keep moving averages of the parameters, ``ema = ema_decay * ema +
            (1 - ema_decay) * p``, the first step a copy; state ``"ema"``, in the dtype of parameter
            or state, whichever is wider. ``zero_grads``: leave the gradients zero. ``write_back``:
            leave them divided and clipped.

    Attributes:
        param_groups: One dict per group; values may be changed between steps (a schedule of
            ``lr``).
        state: One dict per parameter, over all groups, empty before its first step; here
            ``"momentum_buffer"``. Its arrays may be of another floating dtype than the parameter.
        grad_norm: With ``max_grad_norm``, the norm of the last step's gradients; else None.
        found_inf: Whether the last step was skipped, see `step`.

    Raises:
        TypeError: Something is no array of a floating dtype, no number, or no flag.
        ValueError: A number is negative or out of range, or nesterov lacks its momentum; or an
            array is read-only, overlaps itself, or shares memory with another.

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
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        **extras: Unpack[StepArguments],
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
                **formats.options(state_dtype, master, seed, min_8bit_size),
            },
            extras,
        )


class Adam(_Optimizer):
    """Adam (`torch.optim.Adam`; Kingma and Ba 2015), over NumPy arrays.

    In this order, each line correctly rounded: ``g = grad + weight_decay * p``;
    ``m += (1 - beta1) * (g - m)``; ``v = beta2 * v + (1 - beta2) * g * g``;
    ``d = sqrt(max over time of v if amsgrad else v) / sqrt(1 - beta2**t) + eps``;
    ``p += (-lr / (1 - beta1**t) * m) / d``. float32 and float64 moments are bit-equal to torch's on
    AVX2 and AVX-512, parameters within two units in the last place per step
    (where what is added is the larger, a few units of that).

    Args:
        params: As `SGD`.
        lr: Learning rate.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: L2 penalty; with ``decoupled_weight_decay`` AdamW's.
        amsgrad: Divide by the largest average so far.
        maximize: Ascend instead.
        decoupled_weight_decay: ``p *= 1 - lr * weight_decay`` instead of adding to the gradient.
        state_dtype: As `SGD`.
        master: As `SGD`.
        seed: As `SGD`.
        min_8bit_size: As `SGD`.
        extras: As `SGD`.

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
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        **extras: Unpack[StepArguments],
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
                **formats.options(state_dtype, master, seed, min_8bit_size),
            },
            extras,
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
        state_dtype: As `SGD`.
        master: As `SGD`.
        seed: As `SGD`.
        min_8bit_size: As `SGD`.
        extras: As `SGD`.

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
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        **extras: Unpack[StepArguments],
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
            state_dtype=state_dtype,
            master=master,
            seed=seed,
            min_8bit_size=min_8bit_size,
            **extras,
        )


class Adagrad(_Optimizer):
    """Adagrad (`torch.optim.Adagrad`; Duchi et al. 2011), over NumPy arrays.

    ``g = grad + weight_decay * p``; ``sum += g * g``;
    ``p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum) + eps)``.
    float32 and float64 averages are bit-equal to torch's on AVX2 and AVX-512, parameters within two
    units in the last place per step.

    Args:
        params: As `SGD`.
        lr: Learning rate.
        lr_decay: Decay of the learning rate.
        weight_decay: L2 penalty.
        initial_accumulator_value: What the sums start from.
        eps: Added to the denominator.
        maximize: Ascend instead.
        state_dtype: As `SGD`.
        master: As `SGD`.
        seed: As `SGD`.
        min_8bit_size: As `SGD`.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"step"``, ``"sum"``.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Adagrad([w], lr=0.5, eps=0).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """

    _rule = rules.ADAGRAD

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        **extras: Unpack[StepArguments],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
                **formats.options(state_dtype, master, seed, min_8bit_size),
            },
            extras,
        )


class RMSprop(_Optimizer):
    """RMSprop (`torch.optim.RMSprop`; Hinton's lecture 6e, Graves 2013), over NumPy arrays.

    ``g = grad + weight_decay * p``; ``v = alpha * v + (1 - alpha) * g * g``; if centered
    ``a += (1 - alpha) * (g - a)``; ``d = sqrt(v - a * a if centered else v) + eps``;
    ``p -= lr * g / d``, or with momentum ``b = momentum * b + g / d``, ``p -= lr * b``.
    float32 and float64 averages are bit-equal to torch's on AVX2 and AVX-512, parameters within two
    units in the last place per step.

    Args:
        params: As `SGD`.
        lr: Learning rate.
        alpha: Decay of the averages.
        eps: Added to the denominator.
        weight_decay: L2 penalty.
        momentum: Momentum factor; 0 keeps no buffers.
        centered: Divide by the deviation instead.
        maximize: Ascend instead.
        state_dtype: As `SGD`.
        master: As `SGD`.
        seed: As `SGD`.
        min_8bit_size: As `SGD`.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"step"``, ``"square_avg"``, with momentum
            ``"momentum_buffer"``, centered ``"grad_avg"``.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> RMSprop([w], lr=0.5, alpha=0.0, eps=0).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """

    _rule = rules.RMSPROP

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        **extras: Unpack[StepArguments],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
                **formats.options(state_dtype, master, seed, min_8bit_size),
            },
            extras,
        )


class Adadelta(_Optimizer):
    """Adadelta (`torch.optim.Adadelta`; Zeiler 2012), over NumPy arrays.

    ``g = grad + weight_decay * p``; ``v = rho * v + (1 - rho) * g * g``;
    ``u = sqrt(w + eps) / sqrt(v + eps) * g``; ``w = rho * w + (1 - rho) * u * u``; ``p -= lr * u``.
    ``v`` in float32 and float64 is bit-equal to torch's on AVX2 and AVX-512, parameters are within
    two units in the last place per step
    (where what is added is the larger, a few units of that).

    Args:
        params: As `SGD`.
        lr: Learning rate.
        rho: Decay of the averages.
        eps: Added below both square roots.
        weight_decay: L2 penalty.
        maximize: Ascend instead.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"step"``, ``"square_avg"``, ``"acc_delta"``.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> Adadelta([w], rho=0.0, eps=1.0).step([np.array([0.0])])
        >>> w.tolist()
        [1.0]
    """

    _rule = rules.ADADELTA

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **extras: Unpack[StepArguments],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "rho": rho,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            extras,
        )


class Adamax(_Optimizer):
    """Adamax (`torch.optim.Adamax`; Kingma and Ba 2015), over NumPy arrays.

    ``g = grad + weight_decay * p``; ``m += (1 - beta1) * (g - m)``;
    ``u = max(beta2 * u, abs(g) + eps)``; ``p -= lr / (1 - beta1**t) * m / u``.
    float32 and float64 results are bit-equal to torch's on AVX2 and AVX-512.

    Args:
        params: As `SGD`.
        lr: Learning rate.
        betas: Decay of the averages.
        eps: Added to the gradient's size.
        weight_decay: L2 penalty.
        maximize: Ascend instead.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"step"``, ``"exp_avg"``, ``"exp_inf"``.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Adamax([w], lr=0.5, eps=0).step([np.array([2.0, -4.0])])
        >>> w.round(6).tolist()
        [0.5, 2.5]
    """

    _rule = rules.ADAMAX

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **extras: Unpack[StepArguments],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            extras,
        )


class NAdam(_Optimizer):
    """NAdam (`torch.optim.NAdam`; Dozat 2016), over NumPy arrays.

    `Adam` with Nesterov's momentum: with ``mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2)``
    and ``d = sqrt(v / (1 - beta2**t)) + eps``, ``p -= lr * (1 - mu_t) / (1 - prod(mu)) * g / d``
    and ``p -= lr * mu_(t+1) / (1 - prod(mu) * mu_(t+1)) * m / d``. float32 and float64 averages are
    bit-equal to torch's on AVX2 and AVX-512, parameters within two units in the last place per
    step
    (where what is added is the larger, a few units of that).

    Args:
        params: As `SGD`.
        lr: Learning rate.
        betas: Decay of the averages.
        eps: Added to the denominator.
        weight_decay: L2 penalty.
        momentum_decay: Rate at which ``mu`` approaches ``beta1``.
        decoupled_weight_decay: ``p *= 1 - lr * weight_decay`` instead of adding to the gradient.
        maximize: Ascend instead.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"step"``, ``"mu_product"``, ``"exp_avg"``,
            ``"exp_avg_sq"``.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> NAdam([w], weight_decay=0.5, decoupled_weight_decay=True, lr=0.5).step([np.zeros(1)])
        >>> w.tolist()
        [0.75]
    """

    _rule = rules.NADAM

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **extras: Unpack[StepArguments],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            extras,
        )


class RAdam(_Optimizer):
    """RAdam (`torch.optim.RAdam`; Liu et al. 2020), over NumPy arrays.

    `Adam` whose first steps, while the variance of its second average is not tractable
    (``rho_t <= 5``), are ``p -= lr * m / (1 - beta1**t)``, and whose later ones are rectified.
    float32 and float64 averages are bit-equal to torch's on AVX2 and AVX-512, parameters within two
    units in the last place per step.

    Args:
        params: As `SGD`.
        lr: Learning rate.
        betas: Decay of the averages.
        eps: Added to the denominator.
        weight_decay: L2 penalty.
        decoupled_weight_decay: ``p *= 1 - lr * weight_decay`` instead of adding to the gradient.
        maximize: Ascend instead.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"step"``, ``"exp_avg"``, ``"exp_avg_sq"``.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> RAdam([w], lr=0.5).step([np.array([2.0])])
        >>> w.round(6).tolist()
        [0.0]
    """

    _rule = rules.RADAM

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **extras: Unpack[StepArguments],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            extras,
        )


class ASGD(_Optimizer):
    """Averaged SGD (`torch.optim.ASGD`; Polyak and Juditsky 1992), over NumPy arrays.

    ``p = p * (1 - lambd * eta) - eta * (grad + weight_decay * p)``; ``ax += (p - ax) * mu``; then
    ``eta = lr / (1 + lambd * lr * t)**alpha`` and ``mu = 1 / max(1, t - t0)`` for the next step.
    float32 and float64 results follow torch's formulas bit by bit on AVX2 and AVX-512; ``eta`` and
    ``mu`` are Python's floats where torch keeps float32.

    Args:
        params: As `SGD`.
        lr: Learning rate.
        lambd: Decay term.
        alpha: Power of the decay of ``eta``.
        t0: Step at which the averaging starts.
        weight_decay: L2 penalty.
        maximize: Ascend instead.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"step"``, ``"eta"``, ``"mu"``, ``"ax"``, the average.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> ASGD([w], lr=0.5, lambd=0.0).step([np.array([2.0, 0.0])])
        >>> w.tolist()
        [0.0, 2.0]
    """

    _rule = rules.ASGD

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **extras: Unpack[StepArguments],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "lambd": lambd,
                "alpha": alpha,
                "t0": t0,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            extras,
        )


class Rprop(_Optimizer):
    """Rprop (`torch.optim.Rprop`; Riedmiller and Braun 1993), over NumPy arrays.

    Each element's step grows by ``etas[1]`` while its gradient keeps its sign; where it changes the
    step shrinks by ``etas[0]`` and the gradient counts as zero. ``p -= sign(g) * step``.
    float32 and float64 results are bit-equal to torch's.

    Args:
        params: As `SGD`.
        lr: First step of every element.
        etas: Factors of the steps.
        step_sizes: Smallest and largest step.
        maximize: Ascend instead.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"step"``, ``"prev"``, ``"step_size"``.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Rprop([w], lr=0.5).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """

    _rule = rules.RPROP

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        maximize: bool = False,
        **extras: Unpack[StepArguments],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "etas": etas,
                "step_sizes": step_sizes,
                "maximize": maximize,
            },
            extras,
        )


class Lion(_Optimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2), over NumPy arrays.

    ``c = m + (1 - beta1) * (g - m)``; ``p = p * (1 - lr * weight_decay) - lr * sign(c)``;
    ``m += (1 - beta2) * (g - m)``; the sign of zero and of NaN is 0.

    Args:
        params: As `SGD`.
        lr: Learning rate.
        betas: Weights of the average in the step, and in itself.
        weight_decay: Decoupled weight decay.
        maximize: Ascend instead.
        state_dtype: As `SGD`.
        master: As `SGD`.
        seed: As `SGD`.
        min_8bit_size: As `SGD`.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"exp_avg"``.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Lion([w], lr=0.5).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """

    _rule = rules.LION

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        **extras: Unpack[StepArguments],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "weight_decay": weight_decay,
                "maximize": maximize,
                **formats.options(state_dtype, master, seed, min_8bit_size),
            },
            extras,
        )


class LAMB(_Optimizer):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), over NumPy arrays.

    ``m`` and ``v`` as `Adam`;
    ``u = (m / (1 - beta1**t)) / (sqrt(v) / sqrt(1 - beta2**t) + eps) + weight_decay * p``, where
    0 / 0 counts as 0; ``p -= lr * (norm(p) / norm(u)) * u``. The ratio of the two norms, each of a
    whole array, is not clipped (the paper's phi is the identity), and 1 where one of them is 0. The
    norms are of float64 sums, whose bits do not depend on the number of threads.

    Args:
        params: As `SGD`.
        lr: Learning rate.
        betas: As `Adam`.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay, a part of the step whose norm is taken.
        maximize: Ascend instead.
        bias_correction: Divide the averages by ``1 - beta**t``; without, as if that were 1.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`: ``"step"``, ``"exp_avg"``, ``"exp_avg_sq"``.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import numpy as np
        >>> w = np.array([3.0, 4.0])
        >>> LAMB([w], lr=0.2, eps=0).step([np.array([1.0, 0.0])])
        >>> w.round(6).tolist()
        [2.0, 4.0]
    """

    _rule = rules.LAMB

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        bias_correction: bool = True,
        **extras: Unpack[StepArguments],
    ) -> None:
        """See the class."""
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "bias_correction": bias_correction,
            },
            extras,
        )


class LARS(_Optimizer):
    """LARS (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1), over NumPy arrays.

    ``r = trust_coefficient * norm(p) / (norm(grad) + weight_decay * norm(p) + eps)``, of a whole
    array, 1 where one of the two norms is 0; ``d = lr * r * (grad + weight_decay * p)``;
    ``b = momentum * b + (1 - dampening) * d`` (``b = d`` at an array's first step);
    ``p -= d + momentum * b if nesterov else b``. As in the paper the buffer holds steps with their
    learning rate, unlike that of `SGD`. Norms as `LAMB`.

    Args:
        params: As `SGD`.
        lr: Learning rate.
        momentum: As `SGD`.
        dampening: As `SGD`.
        weight_decay: L2 penalty.
        nesterov: As `SGD`.
        trust_coefficient: How much an array may move, as a part of its norm, at ``lr=1``.
        eps: Added to the denominator of the ratio.
        maximize: Ascend instead.
        extras: As `SGD`.

    Attributes:
        param_groups: As `SGD`.
        state: As `SGD`.

    Raises:
        ValueError: A number is out of range, or nesterov lacks its momentum.

    Example:
        >>> import numpy as np
        >>> w = np.array([3.0, 4.0])
        >>> LARS([w], lr=1.0, trust_coefficient=0.1, eps=0).step([np.array([0.0, 20.0])])
        >>> w.round(6).tolist()
        [3.0, 3.5]
    """

    _rule = rules.LARS

    def __init__(
        self,
        params: Params,
        lr: float = 0.1,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        maximize: bool = False,
        **extras: Unpack[StepArguments],
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
                "trust_coefficient": trust_coefficient,
                "eps": eps,
                "maximize": maximize,
            },
            extras,
        )
