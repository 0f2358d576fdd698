"""How torch's own tools treat our modules and functions: `torch.fx`, `torch.jit.script`, eager
quantization and `torch.compile`.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx
from torch._compile import _disable_dynamo
from torch.ao.quantization import fuser_method_mappings
from torch.jit import _builtins

__all__ = ["Proxy", "as_leaf", "know_modules", "outside_graphs", "script_as"]


#: What a traced forward is given; no Tensor, whatever its annotation says.
Proxy: Any = fx.Proxy

#: `torch.compiler.disable`, whose import of the compiler (seconds) waits for the first call.
outside_graphs = _disable_dynamo

# --- torch.fx: modules of ours are leaves, as torch's are


def as_leaf(module: torch.nn.Module, *args: Any) -> torch.Tensor:
    """What `forward` returns where `torch.fx` traces it: one call of the module.

    Args:
        module: The module.
        args: forward's arguments, the first a `torch.fx.Proxy`.

    Raises:
        TypeError: A subclass has a forward of its own, so that the call would be of that one.
    """
    for kind in type(module).__mro__:
        if "forward" in vars(kind):
            if kind.__module__.startswith("dlkernels."):
                break
            raise TypeError(
                f"torch.fx: {type(module).__name__} calls the forward of a module of "
                "dlkernels.torch in its own; expected a leaf: name the class in the tracer's "
                "is_leaf_module"
            )
    tracer = args[0].tracer
    call: torch.Tensor = tracer.create_proxy("call_module", tracer.path_of_module(module), args, {})
    return call


# --- torch.jit.script: torch's own forward


def script_as(function: Any, theirs: Callable[..., Any] | None) -> None:
    """Makes `torch.jit.script` take torch's function in the place of ours, or say what to use."""

    def prepare() -> Any:
        if theirs is None:
            raise _not_scriptable(f"dlkernels.torch.functional.{function.__name__}")
        return theirs

    function.__prepare_scriptable__ = prepare
    if inspect.isbuiltin(theirs):
        _builtins._register_builtin(function, _builtins._find_builtin(theirs))


def _not_scriptable(name: str) -> RuntimeError:
    return RuntimeError(
        f"torch.jit.script: {name} has no counterpart in torch to be scripted as; use "
        "torch.compile or torch.export, or torch.jit.trace"
    )


def _prepare_scriptable(module: Any) -> Any:
    own = _torchs_own(module)
    if own is not module:
        name = type(own).__name__
        warnings.warn(
            f"torch.jit.script: dlkernels.torch.nn.{name} is scripted as torch.nn.{name}, and "
            "torch puts it in the place of ours in the model that was given",
            stacklevel=2,
        )
    return own


def _torchs_own(module: Any) -> Any:
    """The module of torch's with the same parameters, buffers and options."""
    kind = type(module)
    if not kind.__module__.startswith("dlkernels."):
        return module  # a subclass, whose forward is compiled as it stands
    theirs = _torchs_class(kind)
    options = [
        (name, default)
        for name, default in _OWN_OPTIONS
        if getattr(module, name, default) not in (default, None)
    ]
    if theirs is None or options:
        extra = f" with {options[0][0]}" if options and theirs is not None else ""
        raise _not_scriptable(f"dlkernels.torch.nn.{kind.__name__}{extra}")
    own = copy.copy(module)
    own.__class__ = theirs
    return own


#: Options of ours that torch's modules lack, and what they are where they do nothing.
_OWN_OPTIONS = (
    ("activation", None), ("z_loss", 0.0), ("softcap", None), ("seed", None), ("generator", None)
)  # fmt: skip


def _torchs_class(kind: type) -> Any:
    """What a class of ours is a twin of; None where torch has none."""
    for base in kind.__mro__:
        if base.__module__.startswith("torch.nn.modules."):
            return None if base in (torch.nn.Module, _BatchNorm) else base
    return None


_BatchNorm = torch.nn.modules.batchnorm._BatchNorm


# --- eager quantization: fuse_modules and fuse_modules_qat


def _fuser(method: Callable[..., Any]) -> Callable[..., Any]:
    def fuse(is_qat: bool, *modules: Any) -> Any:
        return method(is_qat, *(_torchs_own(m) if _is_ours(m) else m for m in modules))

    return fuse


def _is_ours(module: Any) -> bool:
    return type(module).__module__.startswith("dlkernels.")


def know_modules(modules: Iterable[type[torch.nn.Module]]) -> None:
    """Tells `torch.jit.script` and eager quantization of modules of ours."""
    twins: dict[Any, type] = {}
    for kind in modules:
        kind.__prepare_scriptable__ = _prepare_scriptable  # type: ignore[attr-defined]
        theirs = _torchs_class(kind)
        if theirs is not None and theirs.__name__ == kind.__name__:
            twins[theirs] = kind
    known = fuser_method_mappings._DEFAULT_OP_LIST_TO_FUSER_METHOD
    for kinds, method in list(known.items()):
        ways = [(kind, twins[kind]) if kind in twins else (kind,) for kind in kinds]
        for way in itertools.product(*ways):
            known.setdefault(way, _fuser(method))
