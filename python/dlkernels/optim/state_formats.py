"""States of optimizers in fewer bits, for both fronts: which parameters have them, and how they
become float32 and come from it. The formats are ``csrc/simd/dynamic_map.h`` and ``split_float.h``.

A state in eight bits is ``<name>_8bit``, the array of codes in the parameter's shape and order in
memory, and ``<name>_absmax``, one float32 for each 256 of its elements as they lie there. Under its
own name there is nothing that another library could take for it. The low halves of a parameter's
float32 are ``master_low``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from dlkernels import _core
from dlkernels.optim.rule import Argument, Rule

__all__ = [
    "ARGUMENTS",
    "DEFAULTS",
    "LOW",
    "check",
    "codes_name",
    "decode",
    "encode",
    "has_formats",
    "held",
    "is_scales",
    "join",
    "kind_of",
    "options",
    "rounding",
    "scale_count",
    "scales_name",
    "signed_slots",
    "split",
]

BLOCK = 256
LOW = "master_low"
#: A group's keys. ``rounding_step`` counts the group's steps, for the random numbers of the next.
DEFAULTS: dict[str, Any] = {
    "state_dtype": None,
    "master": None,
    "seed": 0,
    "min_8bit_size": 4096,
    "rounding_step": 0,
}


#: The constructors' arguments, as signatures and docstrings have them.
ARGUMENTS = (
    Argument(
        "state_dtype",
        None,
        '``"8bit"`` keeps states as codes of the dynamic map with a scale for each 256 elements, '
        'as bitsandbytes does: 2 bytes for Adam\'s two instead of 8. ``"bf16"`` rounds them to '
        "bfloat16 at random, so that the mean of many roundings is the number (over NumPy arrays "
        "it needs ml_dtypes). None: the dtype of the parameter.",
        keyword=True,
        annotation=str | None,
    ),
    Argument(
        "master",
        None,
        '``"split16"`` keeps of each bfloat16 parameter the lower half of the float32 that it '
        "stands for, and states in float32: what is trained are float32 parameters, bit by bit, "
        "and the bfloat16 ones are those, rounded. Others are left alone.",
        keyword=True,
        annotation=str | None,
    ),
    Argument(
        "seed",
        0,
        "Of the random numbers, which are a function of it, the step, and the element.",
        keyword=True,
        annotation=int,
    ),
    Argument(
        "min_8bit_size",
        4096,
        "Parameters with fewer elements keep states in float32.",
        keyword=True,
        annotation=int,
    ),
)


def options(
    state_dtype: str | None, master: str | None, seed: int, min_8bit_size: int
) -> dict[str, Any]:
    """A group's, from a constructor's arguments."""
    return {
        **DEFAULTS,
        "state_dtype": state_dtype,
        "master": master,
        "seed": seed,
        "min_8bit_size": min_8bit_size,
    }


def check(operation: str, rule: Rule, group: Mapping[str, Any]) -> None:
    """Raises ValueError for what a group cannot have, TypeError for what is no such thing."""
    for name in ("seed", "min_8bit_size"):
        if not isinstance(group.get(name, 0), Integral):
            got = reprlib.repr(group[name])
            raise TypeError(f"{operation}: {name}: expected an integer, got {got}")
    for name, known in (("state_dtype", ("bf16", "8bit")), ("master", ("split16",))):
        value = group.get(name)
        if value is not None and not (isinstance(value, str) and value in known):
            expected = ", ".join(map(repr, (None, *known)))
            raise ValueError(
                f"{operation}: {name}: expected one of {expected}, got {reprlib.repr(value)}"
            )
    if group.get("state_dtype") is None:
        return
    if not rule.signed:
        raise ValueError(
            f"{operation}: state_dtype: expected None, got {group['state_dtype']!r}; "
            "it is for SGD, Adam, AdamW, Adagrad, RMSprop and Lion"
        )
    if group.get("centered"):
        raise ValueError(
            f"{operation}: state_dtype: expected None with centered=True, got "
            f"{group['state_dtype']!r}: the difference of two averages that are rounded so "
            "coarsely may be negative"
        )


def has_formats(group: Mapping[str, Any]) -> bool:
    """Whether states of a group may be in other formats than its parameters."""
    return group.get("state_dtype") is not None or group.get("master") is not None


def kind_of(group: Mapping[str, Any], size: int, has_master: bool) -> str | None:
    """What a parameter's states are kept in: ``"8bit"``, ``"bf16"``, ``"wide"`` (float32, of a
    float64 parameter float64) or None (the parameter's dtype)."""
    dtype = group.get("state_dtype")
    if dtype == "8bit":
        return "8bit" if size >= group["min_8bit_size"] else "wide"
    if dtype is None and has_master:
        return "wide"
    return dtype if isinstance(dtype, str) else None


def rounding(group: Mapping[str, Any]) -> tuple[int, int] | None:
    """What a step of this group rounds at random with."""
    if group.get("state_dtype") != "bf16":
        return None
    return int(group["seed"]) % 2**64, int(group["rounding_step"]) % 2**32


def signed_slots(rule: Rule, groups: list[dict[str, Any]]) -> list[bool]:
    """Which of the slots have a sign, for a kernel; empty where no group has formats."""
    for group in groups:
        if has_formats(group):
            return list(rule.signs)
    return []


def codes_name(name: str) -> str:
    """What the codes of a state in eight bits are called."""
    return f"{name}_8bit"


def held(state: Mapping[str, Any], name: str) -> Any:
    """A state, or its codes; None without one."""
    return state.get(codes_name(name), state.get(name))


def scales_name(name: str) -> str:
    """What the scales of a state in eight bits are called."""
    return f"{name}_absmax"


def is_scales(name: str) -> bool:
    """Whether a state's name is that of scales."""
    return name.endswith("_absmax")


def scale_count(size: int) -> int:
    """How many there are."""
    return -(-size // BLOCK)


def _copy(
    kernel: str, operation: str, name: str, param: Any, state: tuple[Any, ...], signed: bool
) -> None:
    _core.optimizer_step(
        kernel,
        operation,
        [name],
        False,
        [param],
        [param],
        [state],
        [0],
        [()],
        [signed],
        [None],
        _core.StepExtras(),
    )


def encode(operation: str, name: str, values: Any, codes: Any, scales: Any, signed: bool) -> None:
    """Numbers to codes."""
    _copy("encode_state", operation, name, values, (codes, scales, None), signed)


def decode(operation: str, name: str, codes: Any, scales: Any, values: Any, signed: bool) -> None:
    """Codes to numbers."""
    # A step writes what it reads; without a code for -1 that would change the scale.
    codes, scales = (x.clone() if hasattr(x, "clone") else x.copy() for x in (codes, scales))
    _copy("decode_state", operation, name, values, (codes, scales, None), signed)


def split(operation: str, values: Any, param: Any, low: Any) -> None:
    """float32 to a bfloat16 parameter and its low half."""
    _copy("decode_state", operation, "master", param, (values, None, low), True)


def join(operation: str, param: Any, low: Any, values: Any) -> None:
    """A bfloat16 parameter and its low half to float32."""
    _copy("encode_state", operation, "master", param, (values, None, low), True)
