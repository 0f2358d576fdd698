"""Twins of ``torch.optim`` optimizers: subclasses of torch's own, so arguments, groups, hooks and
state dicts are the same, whose step updates every parameter of every group in one parallel region.

Every class takes any mixture of float32, float64, bfloat16 and float16 for a parameter, its
gradient and its states, in any strides; float64 where one of them is, else float32 is computed in,
and every result rounded once. ``foreach``, ``fused`` and ``capturable`` are accepted and change
nothing. With ``differentiable=True``, or where a tensor is sparse, complex, a subclass or on
another device, the step is torch's own. Of a DTensor (FSDP2's ``fully_shard``, with parameters on
the CPU) each process updates its own part. States keep their dtypes in ``load_state_dict``.
The step with which `torch.distributed.checkpoint` makes the states of a fresh optimizer (of zeros
at a rate of 0) makes them and does nothing else: the next step is the first.

Where parameters, states or gradients lie in one another's memory, the step is torch's loop, one
parameter after the other. That is found when tensors are first seen (later where others come in
their place), not at every step. A number of the step that is finite but not in float32
(``lr=1e39``) is a RuntimeError for parameters that are computed in float32; what float32 rounds to
zero (``eps=1e-320``) is zero, as in torch.

Besides torch's arguments every class has some of its own, by keyword, that do in the step what else
goes over the parameters; each alone and all together equal to doing them one after another. They
may be changed between steps: they are attributes, and where one is not as torch's optimizers are it
is a key of every group, of which the first counts. So they are in state dicts, and a resumed
optimizer goes on averaging without being told to; and they work through wrappers:
``wrapper.param_groups[0]["max_grad_norm"] = 1.0`` through any, attributes and methods through
Lightning's, and ``AdamW.within(wrapper)`` is what accelerate, or another, has wrapped.
``examples/averages.py`` has callbacks for Lightning, transformers and accelerate that evaluate and
save averages.

``max_grad_norm``
    Clips the norm of all gradients together, as `torch.nn.utils.clip_grad_norm_`; ``grad_norm`` is
    then what that returns (in float32 also for half gradients). The gradients stay as they are. The
    norm is that of the parameters which this optimizer has, and of DTensors over all processes;
    each process of a ZeroRedundancyOptimizer has some of them only.
``scaler_in_step``
    Has a `torch.amp.GradScaler` leave the unscaling to the step; where a gradient is not finite,
    the step does nothing. (Lightning refuses to clip gradients by itself with such an optimizer.)
``ema_decay``
    Keeps moving averages of the parameters, ``ema = ema_decay * ema + (1 - ema_decay) * p``, as
    `torch.optim.swa_utils.get_ema_multi_avg_fn` does, the first step a copy; state ``"ema"``, in
    the dtype of parameter or state, whichever is wider. See ``ema_parameters`` and ``ema_weights``.
``zero_grads``
    Leaves the gradients zero, as ``zero_grad(set_to_none=False)`` after the step.
``write_back``
    Leaves the gradients unscaled and clipped.

SGD, Adam, AdamW, Adagrad, RMSprop (not centered) and Lion keep their states in other formats with
``state_dtype=``, whatever the parameter's dtype; every class takes ``master=``. Both are
keyword-only, and may differ by group:

- ``state_dtype="8bit"``: codes of the dynamic map with a scale for each 256 elements, as
  bitsandbytes has them: state ``exp_avg_8bit`` is uint8, ``exp_avg_absmax`` float32. Parameters of
  less than ``min_8bit_size=4096`` elements keep states in float32. A block of 256 that holds a NaN
  or an infinity becomes NaN; one whose numbers are all below the smallest normal float32 becomes 0.
  Of a DTensor each process has blocks of its own part, so a distributed checkpoint fits the number
  of processes that saved it; a DTensor cut along two axes of its mesh is refused.
- ``state_dtype="bf16"``: bfloat16, rounded at random, so that the mean of many roundings is the
  number. The random numbers are a function of ``seed=`` (`torch.initial_seed()` by default), of the
  group's number of steps, of the parameter's number and the element's, and the same for any number
  of threads.
- ``master="split16"``: of a bfloat16 parameter the lower half of the float32 that it stands for is
  kept (``master_low``, int16), and its states in float32: what is trained is bit by bit a float32
  parameter, of which the bfloat16 one is the nearest, at the middle the one away from zero. Writing
  to a parameter keeps its low half. Parameters in float32 and float64 are left alone.

`state_dict` holds all of it, and going on from one is going on bit by bit, also through distributed
checkpoints, which load what the optimizer has that they are loaded into: make it with the same
arguments. The state dict of an optimizer with ``state_dtype="8bit"`` is not for torch's class: it
loads there, but the first step is an error, for want of ``exp_avg`` or as SGD's
``momentum_buffer`` is no tensor. `float32_state_dict()` and `master_parameters()` are what torch's
class would have, and what loads on another number of processes.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dlkernels import _core
from dlkernels.optim import rule as rules
from dlkernels.optim import state_formats as formats
from dlkernels.optim.step_options import (
    AVERAGE,
    AVERAGED,
    Extra,
    Extras,
    count_average,
    extras_of,
    inverse_scale,
    take_extras,
    with_keywords,
)
from dlkernels.torch.optim import loops
from dlkernels.torch.optim.blank_states import BlankStates, is_zero
from dlkernels.torch.optim.whole_step import grad_norm_tensor, step_with_extras
from dlkernels.torch.optim.shards import (
    LocalShards,
    has_shards,
    local_part,
    local_scales,
    scales_like,
    takes_scales,
)

if TYPE_CHECKING:
    from typing_extensions import Self

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


@contextlib.contextmanager
def _left_alone_on_failure(params: Any) -> Iterator[None]:
    """Parameter groups of a caller, to which torch adds keys, are as they came after an exception;
    only what was an iterator of parameters stays the list of them."""
    groups = [group for group in params if isinstance(group, dict)] if params is not None else []
    before = [dict(group) for group in groups]
    try:
        yield
    except Exception:
        for group, own in zip(groups, before, strict=True):
            listed = group.get("params")
            group.clear()
            group.update(own)
            if isinstance(own.get("params"), Iterator):
                group["params"] = listed
        raise


class _KernelOptimizer(torch.optim.Optimizer):
    """Comes before torch's class among the bases of a twin, and replaces its step."""

    _rule: ClassVar[rules.Rule]
    _torch_class: ClassVar[type[torch.optim.Optimizer]]
    # Never copied or saved: torch's own __getstate__ names what is.
    _table: _core.ParameterTable | None = None
    _being_loaded: dict[str, Any] | None = None
    _blank: BlankStates | None = None
    # fused=True is torch's to check only where torch's fused step runs.
    _need_device_dtype_check_for_fused = False
    # Without a value in the class, and not assigned to later: what wraps an optimizer in a subclass
    # of its class, as Lightning does, passes on what it does not find there, and keeps what it is
    # given.
    _own_defaults: dict[str, Any]  # of the groups, besides torch's
    _now: dict[str, Any]  # "grad_norm": the last one; "shows_averages": within ema_weights()

    max_grad_norm = Extra[float | None]()
    write_back = Extra[bool]()
    ema_decay = Extra[float | None]()
    zero_grads = Extra[bool]()
    scaler_in_step = Extra[bool]()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._torch_class = next(
            base
            for base in cls.__mro__
            if issubclass(base, torch.optim.Optimizer) and not issubclass(base, _KernelOptimizer)
        )
        cls.__signature__ = with_keywords(  # type: ignore[attr-defined]
            inspect.signature(cls._torch_class), vars(_KernelOptimizer)
        )

    def __init__(
        self,
        *args: Any,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
        **keywords: Any,
    ) -> None:
        """As torch's, and see the module."""
        self._own_defaults = (
            Extras(max_grad_norm, write_back, ema_decay, zero_grads, scaler_in_step)
            .checked(type(self).__name__)
            .chosen
        )
        if state_dtype is not None or master is not None:
            self._own_defaults |= formats.options(
                state_dtype, master, torch.initial_seed() if seed is None else seed, min_8bit_size
            )
        self._now = {"grad_norm": None, "shows_averages": False}
        params = args[0] if args else keywords.pop("params", None)
        if params is not None:
            params = params if isinstance(params, torch.Tensor) else list(params)
            args = (params, *args[1:])
        with _left_alone_on_failure(params), torch.device("cpu"):
            super().__init__(*args, **keywords)
        self.__dict__.pop("_need_device_dtype_check_for_fused", None)
        # torch sets it for fused=True.
        self.__dict__.pop("_step_supports_amp_scaling", None)
        for group in self.param_groups:  # Adagrad has made them by now
            for param in filter(self.state.__contains__, group["params"]):
                self._format_state(group, param)
                if self.ema_decay is not None:
                    self._make_average(param)

    def __getattr__(self, name: str) -> Any:
        # Asked by a GradScaler, which then leaves the unscaling to step().
        if name == "_step_supports_amp_scaling" and self.scaler_in_step:
            return True
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def within(cls, wrapped: Any) -> Self:
        """The optimizer of this class that another library has wrapped: Lightning and Fabric, which
        pass attributes on, accelerate, whose wrapper (also that of transformers' ``Trainer``) shows
        no more than the groups, or a ZeroRedundancyOptimizer.

        Args:
            wrapped: The wrapper, or an optimizer itself.

        Raises:
            TypeError: There is none.
        """
        inner = wrapped
        while True:
            held = [vars(inner).get(name) for name in ("optimizer", "_optimizer", "optim")]
            found = [value for value in held if isinstance(value, torch.optim.Optimizer)]
            if not found:
                break
            inner = found[0]
        if not isinstance(inner, cls):
            raise TypeError(
                f"{cls.__name__}: within: expected a wrapper of one, got {type(inner).__name__}"
            )
        return inner

    @property
    def grad_norm(self) -> torch.Tensor | None:
        """With ``max_grad_norm``, what `torch.nn.utils.clip_grad_norm_` would have returned at the
        last step."""
        return self._now["grad_norm"]  # type: ignore[no-any-return]

    @torch._dynamo.disable
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; a group may have `state_dtype`, `master`, `seed` and `min_8bit_size` of its
        own.

        Raises:
            ValueError: One of them is unknown, or not for this optimizer, or the group has another
                value of an option of the step than the first one.
        """
        if not self.param_groups:
            self.defaults.update(self._own_defaults)
        given = dict(param_group)
        before = len(self.param_groups)
        with _left_alone_on_failure([param_group]):
            super().add_param_group(param_group)
            group = self.param_groups[-1]
            if formats.has_formats(group):
                for name, value in formats.DEFAULTS.items():
                    group.setdefault(name, value)
            try:
                take_extras(type(self).__name__, self.param_groups, given)
                self._check_formats(group)
            except Exception:
                del self.param_groups[before:]
                raise

    def _check_formats(self, group: dict[str, Any]) -> None:
        operation = type(self).__name__
        formats.check(operation, self._rule, group)
        for param in group["params"]:
            if group.get("state_dtype") == "8bit" and not takes_scales(param):
                raise ValueError(
                    f"{operation}: state_dtype: expected '8bit' for parameters that are cut along "
                    f"one axis of their mesh, got {param.placements}"
                )
            if group.get("master") is None:
                continue
            if param.dtype == torch.float16:
                raise ValueError(
                    f"{operation}: master: expected bfloat16 parameters (or float32 and float64, "
                    "which need none), got float16"
                )

    @torch._dynamo.disable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step.

        Args:
            closure: Reevaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, or None.
        """
        if self._now["shows_averages"]:
            raise RuntimeError(f"{type(self).__name__}: step: called within ema_weights()")
        if closure is None and not self.state and self._has_nothing_to_do():
            self._make_blank_states()
            return None
        if self._blank is not None:
            self._blank.remove()
            self._blank = None
        options = extras_of(type(self).__name__, self.param_groups)
        is_differentiable = any(group["differentiable"] for group in self.param_groups)
        if is_differentiable and options.any:
            raise ValueError(
                f"{type(self).__name__}: step: differentiable=True excludes max_grad_norm, "
                "write_back, ema_decay, zero_grads and scaler_in_step"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        extras = self._kernel_extras(options)
        if is_differentiable:
            self._step_in_torch()
        elif not self._step_by_table(options, extras):
            self._step_anew(options, extras)
        if extras.is_skipped:
            return loss
        if options.ema_decay is not None and (
            self.param_groups[0].get(AVERAGED)
            or any(p.grad is not None for group in self.param_groups for p in group["params"])
        ):
            count_average(self.param_groups)
        for group in self.param_groups:
            if formats.rounding(group):
                group["rounding_step"] += 1
        return loss

    def _has_nothing_to_do(self) -> bool:
        """Whether this is the step with which `torch.distributed.checkpoint` makes the states of an
        optimizer that has none, of zeros at a rate of 0."""
        if any(bool(group["lr"] != 0) for group in self.param_groups):
            return False
        grads = [param.grad for group in self.param_groups for param in group["params"]]
        return any(grad is not None for grad in grads) and all(
            grad is None or (not grad.is_sparse and is_zero(grad)) for grad in grads
        )

    def _make_blank_states(self) -> None:
        self._table = None
        self._make_states(blank=True)
        if self.ema_decay is not None:
            self._make_averages()
        self._blank = BlankStates(self._rule, self.param_groups, self.state)

    def _kernel_extras(self, options: Extras) -> _core.StepExtras:
        if not options.scaler_in_step:
            return options.for_kernel(self.param_groups, 1.0, False, False)
        scale, found = self.__dict__.get("grad_scale"), self.__dict__.get("found_inf")
        # Looking for what is not finite takes a pass, unless the norm is wanted anyway.
        looks = found is None or options.max_grad_norm is not None
        return options.for_kernel(
            self.param_groups,
            1.0 if scale is None else inverse_scale(type(self).__name__, scale),
            looks and not (scale is None and found is None),
            found is not None and float(found) != 0,
        )

    def _take_norm(self, extras: _core.StepExtras) -> None:
        if extras.max_norm >= 0:
            self._now["grad_norm"] = grad_norm_tensor(extras.norm, extras.norm_is_double)

    def ema_parameters(self) -> list[torch.Tensor]:
        """The moving averages, in the order of the parameters over all groups; before its first
        gradient, the parameter itself.

        Raises:
            RuntimeError: No averages are kept (``ema_decay`` is None).
        """
        if self.ema_decay is None:
            raise RuntimeError(f"{type(self).__name__}: ema_parameters: needs ema_decay")
        if not self.param_groups[0].get(AVERAGED):
            return [param.detach() for group in self.param_groups for param in group["params"]]
        return [
            self.state.get(param, {}).get(AVERAGE, param.detach())
            for group in self.param_groups
            for param in group["params"]
        ]

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[None]:
        """A context in which the parameters have the values of their averages.

        They have their own again afterwards, also after an exception; autograd is told of both
        writes.

        Raises:
            RuntimeError: No averages are kept, it is entered twice, or a step is taken within.
        """
        averages = self.ema_parameters()
        if self._now["shows_averages"]:
            raise RuntimeError(f"{type(self).__name__}: ema_weights: entered twice")
        params = [param for group in self.param_groups for param in group["params"]]
        own = [param.detach().clone() for param in params]
        self._now["shows_averages"] = True
        try:
            with torch.no_grad():
                for param, average in zip(params, averages, strict=True):
                    param.copy_(average)
            yield
        finally:
            with torch.no_grad():
                for param, value in zip(params, own, strict=True):
                    param.copy_(value)
            self._now["shows_averages"] = False

    def _groups_and_slots(self, averages: bool) -> tuple[list[Any], list[Any]]:
        average = (AVERAGE,) if averages else ()
        return (
            [group["params"] for group in self.param_groups],
            [(*self._rule.used_slots(group), *average) for group in self.param_groups],
        )

    def _advance(
        self, group: int, scalars: rules.Numbers, fresh: bool, single: int
    ) -> tuple[rules.Numbers, rules.Numbers, tuple[int, int] | None]:
        options = self.param_groups[group]
        return *self._rule.advance(options, scalars, fresh, single), formats.rounding(options)

    def _step_by_table(self, options: Extras, extras: _core.StepExtras) -> bool:
        """The step from what the last one left; False, and nothing done, where it does not fit."""
        if self._table is None:
            return False
        groups, slots = self._groups_and_slots(options.ema_decay is not None)
        try:
            is_done = self._table.step(groups, slots, self.state, self._advance, extras)
        except TypeError:  # no kernel for one of the tensors
            return False
        except OverflowError as error:
            raise self._overflow(error) from None
        if is_done:
            self._take_norm(extras)
        return is_done

    def _step_anew(self, options: Extras, extras: _core.StepExtras) -> None:
        """The step from nothing: makes the states of first steps, and the table for the next."""
        self._table = None
        averages = options.ema_decay is not None
        if not options.any:
            self._step_rule(extras)
        elif has_shards(group["params"] for group in self.param_groups):
            self._step_around(extras, averages, self._step_rule)
        elif not self._step_by_kernel(extras, averages):
            self._step_around(extras, averages, self._step_in_torch)

    def _step_rule(self, extras: _core.StepExtras | None = None) -> None:
        """The step and nothing else."""
        if not self._step_by_kernel(extras or _core.StepExtras(), False):
            self._step_in_torch()

    def _step_around(
        self, extras: _core.StepExtras, averages: bool, step: Callable[[], None]
    ) -> None:
        """A step with the rest in torch's operations."""
        params = [param for group in self.param_groups for param in group["params"]]
        norm = step_with_extras(params, self.state, extras, averages, step)
        if norm is not None:
            self._now["grad_norm"] = norm

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
                is_done = table.step(groups, slots, self.state, self._advance, extras)
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
        is_done = table.step(shards.groups, slots, shards.state, self._advance, extras)
        if is_done:
            shards.count_versions()
        return is_done

    def _make_averages(self) -> list[torch.Tensor]:
        """Makes what is missing of the averages of parameters with gradients; returns those."""
        # The first average of all is a copy; one that comes later starts from where its parameter
        # stood all the while.
        missing = [
            param
            for group in self.param_groups
            for param in group["params"]
            if param.grad is not None and AVERAGE not in self.state[param]
        ]
        for param in missing:
            self._make_average(param)
        return missing

    def _make_average(self, param: torch.Tensor) -> None:
        own = self.state[param]
        dtype = param.dtype
        for value in map(own.get, self._rule.slots):
            if torch.is_tensor(value) and value.is_floating_point():
                dtype = torch.promote_types(dtype, value.dtype)
        own[AVERAGE] = param.detach().to(dtype, copy=True)

    def _make_states(self, blank: bool = False) -> list[torch.Tensor]:
        """Makes what is missing of the states of parameters with gradients, as torch makes it, and
        raises what torch raises; with `blank` no step follows at once. Returns the parameters whose
        states hold nothing yet."""
        init_group: Callable[..., Any] = self._init_group
        lists = len(inspect.signature(init_group).parameters) - 1
        with torch.device("cpu"):
            for group in self.param_groups:
                if not formats.has_formats(group):
                    init_group(group, *([] for _ in range(lists)))
                    continue
                for param in group["params"]:  # so that one at a time is of torch's size
                    if param.grad is None:
                        continue
                    state = self.state[param]
                    if any(formats.codes_name(name) in state for name in self._rule.slots):
                        continue
                    low = state.pop(formats.LOW, None)  # torch asks whether there is any
                    init_group({**group, "params": [param]}, *([] for _ in range(lists)))
                    if low is not None:
                        state[formats.LOW] = low
                    self._format_state(group, param)
        return []

    def _format_state(self, group: dict[str, Any], param: torch.Tensor) -> None:
        """Brings what a parameter has of its state to its group's formats."""
        state = self.state[param]
        operation = type(self).__name__
        has_master = group.get("master") is not None and param.dtype == torch.bfloat16
        kind = formats.kind_of(group, param.numel(), has_master)
        wide = torch.float64 if param.dtype == torch.float64 else torch.float32
        slots = self._rule.used_slots(group)
        fills = self._rule.fill(group)
        is_first = has_master and not float(state.get("step", 1))
        for name, signed, fill in zip(
            slots, self._rule.signed or [True] * len(slots), fills[: len(slots)], strict=True
        ):
            if kind is None or name is None:
                continue
            value, codes, scales = (
                state.get(name),
                formats.codes_name(name),
                formats.scales_name(name),
            )
            if codes in state:
                if kind == "8bit":
                    continue
                value = self._decoded(name, state.pop(codes), state.pop(scales), signed)
            elif not torch.is_tensor(value):
                continue
            elif is_first and fill:  # torch has rounded it to the parameter's dtype
                value = torch.full_like(value, fill, dtype=wide)
            if kind == "8bit":
                if param.device.type != "cpu" or param.is_complex():
                    raise self._no_kernel()
                del state[name]
                state[codes] = torch.empty_like(param, dtype=torch.uint8, requires_grad=False)
                state[scales] = scales_like(param)
                formats.encode(
                    operation,
                    name,
                    local_part(value),
                    local_part(state[codes]),
                    local_scales(state[scales], param),
                    signed,
                )
            else:
                state[name] = value.to(torch.bfloat16 if kind == "bf16" else wide)
        if has_master and formats.LOW not in state:
            state[formats.LOW] = torch.zeros_like(param, dtype=torch.int16, requires_grad=False)

    def _decoded(
        self, name: str, codes: torch.Tensor, scales: torch.Tensor, signed: bool
    ) -> torch.Tensor:
        values = torch.empty_like(codes, dtype=torch.float32)
        formats.decode(
            type(self).__name__,
            name,
            local_part(codes),
            local_scales(scales, codes),
            local_part(values),
            signed,
        )
        return values

    def _forget_states(self, fresh: list[torch.Tensor]) -> None:
        """Takes back what `_make_states` returned."""

    def _no_kernel(self, reason: TypeError | None = None) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__}: state_dtype and master are for dense real tensors on the CPU, "
            "with differentiable=False" + (f" ({reason})" if reason else "")
        )

    def _overflow(self, error: OverflowError) -> RuntimeError:
        what = rules.overflow_text(error, self.param_groups)
        return RuntimeError(f"value cannot be converted to type float without overflow: {what}")

    def _step_in_torch(self) -> None:
        """The same step by torch; its fused one goes wrong where strides differ, so on the CPU by
        its loop."""
        if any(formats.has_formats(group) for group in self.param_groups):
            raise self._no_kernel()
        step = self._torch_class.step
        while getattr(step, "hooked", False):  # hooks have run, or will
            step = step.__wrapped__  # type: ignore[attr-defined]
        flags: list[dict[str, Any]] = [
            {name: group[name] for name in ("foreach", "fused", "capturable") if name in group}
            for group in self.param_groups
        ]
        for group, saved in zip(self.param_groups, flags, strict=True):
            if all(param.device.type == "cpu" for param in group["params"]):
                group.update(dict.fromkeys(saved, False))
        # A scaler's, which torch's loop does not take.
        scaler = {name: self.__dict__.pop(name, None) for name in ("grad_scale", "found_inf")}
        try:
            with torch.device("cpu"):
                step(self)
        finally:
            self.__dict__.update(
                {name: value for name, value in scaler.items() if value is not None}
            )
            for group, saved in zip(self.param_groups, flags, strict=True):
                group.update(saved)

    @torch._dynamo.disable
    def state_dict(self) -> dict[str, Any]:
        """As torch's."""
        if self._blank is not None:
            self._blank.fill()
        taken: dict[str, Any] = super().state_dict()
        return taken

    @torch._dynamo.disable
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
                        self._format_state(group, param)

    def float32_state_dict(self) -> dict[str, Any]:
        """The state dict that this optimizer would have without `state_dtype` and `master`, with
        states in float32. It loads into torch's class, and into this one in any format and on any
        number of processes. (`master_parameters` has the parameters.)
        """
        plain: dict[str, Any] = self.state_dict()
        slots = dict(
            zip(self._rule.slots, self._rule.signed or [True] * len(self._rule.slots), strict=True)
        )
        for index, state in plain["state"].items():
            values = {name: value for name, value in state.items() if name != formats.LOW}
            for name in filter(state.__contains__, slots):
                if torch.is_tensor(state[name]) and state[name].dtype == torch.bfloat16:
                    values[name] = state[name].float()
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

    def master_parameters(self) -> list[torch.Tensor]:
        """Every parameter in float32, in the order of the groups: with ``master="split16"`` what
        its bfloat16 is the rounded half of. float64 parameters stay float64.
        """
        result = []
        for param in (param for group in self.param_groups for param in group["params"]):
            low = self.state.get(param, {}).get(formats.LOW)
            dtype = torch.float64 if param.dtype == torch.float64 else torch.float32
            values = param.detach().to(dtype, copy=True)
            if low is not None:
                formats.join(
                    type(self).__name__, local_part(param), local_part(low), local_part(values)
                )
            result.append(values)
        return result

    @torch.no_grad()
    def load_master_parameters(self, values: list[torch.Tensor]) -> None:
        """Sets every parameter to these numbers, and with ``master="split16"`` its low half too.

        Args:
            values: As `master_parameters` gives them, of any floating dtype.

        Raises:
            ValueError: Their number or a shape is wrong.
        """
        operation = type(self).__name__
        pairs = [(group, param) for group in self.param_groups for param in group["params"]]
        if len(values) != len(pairs):
            raise ValueError(
                f"{operation}: values: expected {len(pairs)} tensors, got {len(values)}"
            )
        for index, ((_, param), value) in enumerate(zip(pairs, values, strict=True)):
            if value.shape != param.shape:
                raise ValueError(
                    f"{operation}: values[{index}]: expected shape {tuple(param.shape)}, "
                    f"got {tuple(value.shape)}"
                )
        for (group, param), value in zip(pairs, values, strict=True):
            if group.get("master") is None or param.dtype != torch.bfloat16:
                param.copy_(value)
                continue
            low = torch.empty_like(param, dtype=torch.int16, requires_grad=False)
            wide = value.detach().to(torch.float32, copy=True)
            formats.split(operation, local_part(wide), local_part(param), local_part(low))
            torch.autograd.graph.increment_version(param)
            self.state[param][formats.LOW] = low

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


class _MomentumFromFirstStep(_KernelOptimizer):
    """One whose momentum buffer is its first step."""

    def _make_states(self, blank: bool = False) -> list[torch.Tensor]:
        fresh = [
            param
            for group in self.param_groups
            if group["momentum"] != 0
            for param in group["params"]
            if param.grad is not None
            and not param.grad.is_sparse
            and self.state.get(param, {}).get("momentum_buffer") is None
        ]
        for param in fresh:
            buffer = torch.empty_like(param, requires_grad=False)
            # -0 is what the first step's sum would start from.
            self.state[param]["momentum_buffer"] = buffer.fill_(-0.0) if blank else buffer
        for group in self.param_groups:
            if formats.has_formats(group):
                for param in group["params"]:
                    if param.grad is not None:
                        self._format_state(group, param)
        return fresh

    def _forget_states(self, fresh: list[torch.Tensor]) -> None:
        for param in fresh:
            for name in ("momentum_buffer", "momentum_buffer_8bit", "momentum_buffer_absmax"):
                self.state[param].pop(name, None)


class SGD(_MomentumFromFirstStep, torch.optim.SGD):
    """`torch.optim.SGD`, bit-equal to its float32 loop on AVX2 and AVX-512.

    ``g = grad + weight_decay * p``; ``b = momentum * b + (1 - dampening) * g`` (``b = g`` at a
    parameter's first step); ``p -= lr * (g + momentum * b if nesterov else b)``; each sum with its
    product one fma. Parameters in bfloat16 and float16 are computed in float32 and rounded once.

    Args: those of torch. Tensors ``lr`` and ``weight_decay`` are read at every step.
    """

    _rule = rules.SGD

    def _format_state(self, group: dict[str, Any], param: torch.Tensor) -> None:
        super()._format_state(group, param)
        state = self.state[param]
        if formats.codes_name("momentum_buffer") in state:
            # torch's takes a missing buffer for a first step, of any tensor it might read too much.
            state["momentum_buffer"] = 0


class Adam(_KernelOptimizer, torch.optim.Adam):
    """`torch.optim.Adam` (Kingma and Ba 2015).

    In this order, each sum with its product one fma: ``g = grad + weight_decay * p``;
    ``m += (1 - beta1) * (g - m)``; ``v = beta2 * v + (1 - beta2) * g * g``;
    ``d = sqrt(max over time of v if amsgrad else v) / sqrt(1 - beta2**t) + eps``;
    ``p += (-lr / (1 - beta1**t) * m) / d``, with square root and divisions correctly rounded.
    float32 and float64 moments are bit-equal to torch's loop on AVX2 and AVX-512, parameters within
    two units in the last place per step (three of what is added, where that is more).

    Args: those of torch. Tensors ``lr`` and ``betas`` are read at every step.
    """

    _rule = rules.ADAM


class AdamW(Adam, torch.optim.AdamW):
    """`torch.optim.AdamW` (Loshchilov and Hutter 2019): `Adam` whose weight decay shrinks the
    parameter first, ``p *= 1 - lr * weight_decay``, and does not enter the moments.

    Args: those of torch.
    """


class Adagrad(_KernelOptimizer, torch.optim.Adagrad):
    """`torch.optim.Adagrad` (Duchi et al. 2011).

    ``g = grad + weight_decay * p``; ``sum += g * g``;
    ``p += (-lr / (1 + (t - 1) * lr_decay) * g) / (sqrt(sum) + eps)``, with square root and division
    correctly rounded. Sparse gradients go to torch.
    float32 and float64 averages are bit-equal to torch's loop on AVX2 and AVX-512, parameters
    within two units in the last place per step
    (where what is added is the larger, a few units of that).

    Args: those of torch.
    """

    _rule = rules.ADAGRAD


class RMSprop(_KernelOptimizer, torch.optim.RMSprop):
    """`torch.optim.RMSprop` (Hinton's lecture 6e, Graves 2013).

    ``g = grad + weight_decay * p``; ``v = alpha * v + (1 - alpha) * g * g``; if centered
    ``a += (1 - alpha) * (g - a)``; ``d = sqrt(v - a * a if centered else v) + eps``;
    ``p += (-lr * g) / d``, or with momentum ``b = momentum * b + g / d``, ``p -= lr * b``; square
    root and division correctly rounded. float32 and float64 averages are bit-equal to torch's loop
    on AVX2 and AVX-512, parameters within two units in the last place per step
    (where what is added is the larger, a few units of that).

    Args: those of torch.
    """

    _rule = rules.RMSPROP


class Adadelta(_KernelOptimizer, torch.optim.Adadelta):
    """`torch.optim.Adadelta` (Zeiler 2012).

    ``g = grad + weight_decay * p``; ``v = rho * v + (1 - rho) * g * g``;
    ``u = sqrt(w + eps) / sqrt(v + eps) * g``; ``w = rho * w + (1 - rho) * u * u``; ``p -= lr * u``,
    with square roots and division correctly rounded. ``v`` in float32 and float64 is bit-equal to
    torch's loop on AVX2 and AVX-512, parameters are within two units in the last place per step
    (where what is added is the larger, a few units of that).

    Args: those of torch.
    """

    _rule = rules.ADADELTA


class Adamax(_KernelOptimizer, torch.optim.Adamax):
    """`torch.optim.Adamax` (Kingma and Ba 2015), bit-equal to its float32 loop on AVX2 and AVX-512.

    ``g = grad + weight_decay * p``; ``m += (1 - beta1) * (g - m)``;
    ``u = max(beta2 * u, abs(g) + eps)``; ``p += (-lr / (1 - beta1**t) * m) / u``.

    Args: those of torch.
    """

    _rule = rules.ADAMAX


class NAdam(_KernelOptimizer, torch.optim.NAdam):
    """`torch.optim.NAdam` (Dozat 2016).

    ``m`` and ``v`` as `Adam`; with ``mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` and
    ``d = sqrt(v / (1 - beta2**t)) + eps``, ``p += (-lr * (1 - mu_t) / (1 - prod(mu)) * g) / d`` and
    ``p += (-lr * mu_(t+1) / (1 - prod(mu) * mu_(t+1)) * m) / d``; square root and divisions
    correctly rounded. float32 and float64 averages are bit-equal to torch's loop on AVX2 and
    AVX-512, parameters within two units in the last place per step
    (where what is added is the larger, a few units of that).

    Args: those of torch.
    """

    _rule = rules.NADAM


class RAdam(_KernelOptimizer, torch.optim.RAdam):
    """`torch.optim.RAdam` (Liu et al. 2020).

    ``m`` and ``v`` as `Adam`; ``p -= m / (1 - beta1**t) * lr * a * r``, where rectification ``r``
    and ``a = 1 / (sqrt(v) + eps) * sqrt(1 - beta2**t)`` are left out while ``rho_t <= 5``; square
    root and divisions correctly rounded. float32 and float64 averages are bit-equal to torch's loop
    on AVX2 and AVX-512, parameters within two units in the last place per step
    (where what is added is the larger, a few units of that).

    Args: those of torch.
    """

    _rule = rules.RADAM


class ASGD(_KernelOptimizer, torch.optim.ASGD):
    """`torch.optim.ASGD` (Polyak and Juditsky 1992), bit-equal to its float32 loop.

    ``p = p * (1 - lambd * eta) - eta * (grad + weight_decay * p)``; ``ax += (p - ax) * mu``; then
    ``eta = lr / (1 + lambd * lr * t)**alpha`` and ``mu = 1 / max(1, t - t0)`` for the next step.

    Args: those of torch.
    """

    _rule = rules.ASGD


class Rprop(_KernelOptimizer, torch.optim.Rprop):
    """`torch.optim.Rprop` (Riedmiller and Braun 1993), bit-equal to its float32 loop.

    Each element's step grows by ``etas[1]`` while its gradient keeps its sign; where it changes the
    step shrinks by ``etas[0]`` and the gradient counts as zero. ``p -= sign(g) * step``.

    Args: those of torch.
    """

    _rule = rules.RPROP


class Lion(_KernelOptimizer, loops.Lion):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2).

    ``c = m + (1 - beta1) * (g - m)``; ``p = p * (1 - lr * weight_decay) - lr * sign(c)``;
    ``m += (1 - beta2) * (g - m)``; each sum with its product one fma. State: ``exp_avg``.

    Args:
        params: As torch's optimizers.
        lr: Learning rate.
        betas: Weights of the average in the step, and in itself.
        weight_decay: Decoupled weight decay.
        foreach: Accepted for compatibility.
        maximize: Ascend instead.
        capturable: Accepted for compatibility.
        differentiable: Keep the step on autograd's record.
        fused: Accepted for compatibility.

    Raises:
        ValueError: A number is out of range.
        RuntimeError: A gradient is sparse.
    """

    _rule = rules.LION


class LAMB(_KernelOptimizer, loops.LAMB):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2).

    ``m`` and ``v`` as `Adam`;
    ``u = (m / (1 - beta1**t)) / (sqrt(v) / sqrt(1 - beta2**t) + eps) + weight_decay * p``, where
    0 / 0 counts as 0; ``p -= lr * (norm(p) / norm(u)) * u``. The ratio of the two norms, each of a
    whole parameter, is not clipped (the paper's phi is the identity), and 1 where one of them is 0.
    The norms are of float64 sums, whose bits do not depend on the number of threads; those of
    DTensors are torch's, over all processes. State: ``step``, ``exp_avg``, ``exp_avg_sq``.

    Args:
        params: As torch's optimizers.
        lr: Learning rate.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay, a part of the step whose norm is taken.
        foreach: Accepted for compatibility.
        maximize: Ascend instead.
        capturable: Accepted for compatibility.
        differentiable: Keep the step on autograd's record.
        fused: Accepted for compatibility.
        bias_correction: Divide the averages by ``1 - beta**t``; without, as if that were 1.

    Raises:
        ValueError: A number is out of range.
        RuntimeError: A gradient is sparse.
    """

    _rule = rules.LAMB


class LARS(_MomentumFromFirstStep, loops.LARS):
    """LARS (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1).

    ``r = trust_coefficient * norm(p) / (norm(grad) + weight_decay * norm(p) + eps)``, of a whole
    parameter, 1 where one of the two norms is 0; ``d = lr * r * (grad + weight_decay * p)``;
    ``b = momentum * b + (1 - dampening) * d`` (``b = d`` at a parameter's first step);
    ``p -= d + momentum * b if nesterov else b``. As in the paper the buffer holds steps with their
    learning rate, unlike that of `SGD`. Norms as `LAMB`. State: ``momentum_buffer``.

    Args:
        params: As torch's optimizers.
        lr: Learning rate.
        momentum: Momentum factor; 0 keeps no buffers.
        dampening: Dampening of the momentum.
        weight_decay: L2 penalty.
        nesterov: Nesterov momentum; needs a momentum and no dampening.
        trust_coefficient: How much a parameter may move, as a part of its norm, at ``lr=1``.
        eps: Added to the denominator of the ratio.
        maximize: Ascend instead.
        foreach: Accepted for compatibility.
        capturable: Accepted for compatibility.
        differentiable: Keep the step on autograd's record.
        fused: Accepted for compatibility.

    Raises:
        ValueError: A number is out of range, or nesterov lacks its momentum.
        RuntimeError: A gradient is sparse.
    """

    _rule = rules.LARS
