"""What the twins share: constructor, groups, wrappers of other libraries."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dlkernels.optim import constructors, step_options
from dlkernels.optim import state_formats as formats
from dlkernels.optim.rule import Argument, Rule
from dlkernels.optim.step_options import Extra, Extras, take_extras
from dlkernels.torch._tools import outside_graphs
from dlkernels.torch.optim import loops
from dlkernels.torch.optim.shards import takes_scales
from dlkernels.torch.optim.state_dicts import StateDicts
from dlkernels.torch.optim.states import States

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["KernelOptimizer"]


#: What every twin takes besides the arguments of torch's class.
ARGUMENTS = (
    *step_options.ARGUMENTS,
    Argument(
        "scaler_in_step",
        False,
        "Have a `torch.amp.GradScaler` leave the unscaling to the step; where a gradient is not "
        "finite, the step does nothing.",
        keyword=True,
    ),
    *(
        replace(
            argument,
            default=None,
            annotation=int | None,
            text=f"{argument.text} None: `torch.initial_seed()`.",
        )
        if argument.name == "seed"
        else argument
        for argument in formats.ARGUMENTS
    ),
)

_PARAMS = "Tensors, pairs of a name and a tensor, or groups, as torch's optimizers take them."
_NORM = (
    "With ``max_grad_norm``, what `torch.nn.utils.clip_grad_norm_` would have returned at the last "
    "step; else None."
)
_VALUE_ERROR = "{}; or ``state_dtype`` or ``master`` is unknown, or not for this optimizer."


def _signature(kind: type) -> inspect.Signature:
    try:
        return inspect.signature(kind, eval_str=True)
    except NameError:  # imported for type checkers only
        return inspect.signature(kind)


def _documented(text: str, rule: Rule, theirs: Mapping[str, inspect.Parameter]) -> str:
    """A twin's docstring; `theirs`: the arguments of torch's class."""
    texts = {argument.name: argument for argument in (*rule.arguments, *loops.TORCH_ARGUMENTS)}
    arguments = [
        replace(texts[name], default=parameter.default, shown=True)
        for name, parameter in theirs.items()
        if name in texts
    ]
    return constructors.document(
        text,
        rule,
        {
            "Args": constructors.argument_texts(_PARAMS, (*arguments, *ARGUMENTS)),
            "Attributes": {
                "state": f"By parameter; here {constructors.state_text(rule)}.",
                "grad_norm": _NORM,
            },
            "Raises": {
                "TypeError": "Something is no number, or neither True nor False.",
                "ValueError": _VALUE_ERROR.format(rule.raises),
            },
        },
    )


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


class KernelOptimizer(StateDicts):
    """Comes before torch's class among the bases of a twin, and replaces its step."""

    # fused=True is torch's to check only where torch's fused step runs.
    _need_device_dtype_check_for_fused = False
    __signature__: ClassVar[inspect.Signature | None]
    scaler_in_step = Extra[bool]()

    def __init_subclass__(cls, rule: Rule | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if rule is None:
            if "__init__" in vars(cls):
                cls.__signature__ = None  # its own, not that of its base
            return
        cls._rule = rule
        cls._torch_class = next(
            base
            for base in cls.__mro__
            if issubclass(base, torch.optim.Optimizer) and not issubclass(base, States)
        )
        theirs = _signature(cls._torch_class).parameters
        own = (
            inspect.Parameter(
                argument.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=argument.default,
                annotation=argument.kind,
            )
            for argument in ARGUMENTS
        )
        cls.__signature__ = inspect.Signature([*theirs.values(), *own], return_annotation=None)
        if cls.__doc__ is not None:
            cls.__doc__ = _documented(cls.__doc__, rule, theirs)

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
                self._format_state(group, param, self.state[param])
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

    @outside_graphs
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
