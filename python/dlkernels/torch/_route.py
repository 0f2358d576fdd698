"""Which way a call goes: straight to a kernel, through the registered operator, or to torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad as _forward_ad
from torch.nn import Parameter

from dlkernels import _core
from dlkernels._arguments import type_text
from dlkernels.torch._tools import Proxy

#: The ways, as `explain` names them.
KERNEL = "kernel"
OPERATOR = "operator"
TORCH = "torch"

_PLAIN = (Tensor, Parameter)
FLOATING = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))

_STRIDED = torch.strided

_is_compiling = torch.compiler.is_compiling
_function_modes = torch._C._len_torch_function_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._functorch.peek_interpreter_stack
_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
_jit_tracing = torch._C._get_tracing_state


def _watch() -> None:
    """Tells the extension what a plain tensor is. Inference mode and autocast leave it plain."""
    if not _core.watch_torch(Tensor, Parameter):
        return
    with torch.inference_mode():
        _core.accept_torch_state()
    with torch.autocast("cpu", torch.bfloat16):
        _core.accept_torch_state()


_watch()

_is_dynamo_compiling = torch.compiler.is_dynamo_compiling
_is_plain = _core.is_plain


def is_plain(input: Tensor, *others: Tensor | None) -> bool:
    """Whether `route` has no objection but for the tensors' devices, layouts and dtypes, which a
    kernel checks anyway: the same in a tenth of the time. False is no answer."""
    # Dynamo, which cannot look into the extension, stops at the first of these.
    return (
        not _is_dynamo_compiling() and _is_plain(input, *others) and _forward_ad._current_level < 0
    )


def check_in_place(input: Tensor) -> None:
    """torch's RuntimeError if two elements of what is to be overwritten share a place. torch itself
    looks no further than at strides of 0."""
    if not input.is_contiguous() and _core.overlaps_itself(input.shape, input.stride()):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a "
            "single memory location. Please clone() the tensor before performing the operation."
        )


def check_tensors(operation: str, **operands: Any) -> None:
    """Raises TypeError if one is no tensor."""
    for name, value in operands.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{operation}: {name}: expected a tensor, got {type_text(value)}")


def is_batched(grad_output: Tensor) -> bool:
    """Whether a backward runs for a batch of gradients at once, which needs torch's functions."""
    return _legacy_batched(grad_output) or _transforms() is not None


def in_transform() -> bool:
    """Whether torch.func or forward-mode differentiation is active, outside the compiler."""
    return not _is_compiling() and (_transforms() is not None or _forward_ad._current_level >= 0)


def _is_distributed(kind: type) -> bool:
    """A DTensor's sharding rules know torch's operators, not ours."""
    return kind.__module__.startswith("torch.distributed.")


def route(input: Tensor, *others: Tensor | None, dtypes: frozenset[torch.dtype] = FLOATING) -> str:
    """The way for a call whose main tensor is `input`, of one of these dtypes; the others must be
    plain CPU tensors too.

    A kernel may still refuse a tensor (a negated view), before it writes anything.
    """
    plain = True
    if type(input) is Proxy:
        raise TypeError(
            "torch.fx: a function of dlkernels.torch.functional was imported by its own name; "
            "expected it to be called as `functional.name(...)`, or `torch.fx.wrap('name')` beside "
            "its import, so that it is recorded"
        )
    try:
        if input.dtype not in dtypes:
            return TORCH
        if is_plain(input, *others):
            for tensor in (input, *others):
                if tensor is not None and not (tensor.is_cpu and tensor.layout is _STRIDED):
                    return TORCH
            return KERNEL
        for tensor in (input, *others):
            if tensor is None:
                continue
            if type(tensor) not in _PLAIN:
                plain = False
                if _is_distributed(type(tensor)):
                    return TORCH
            if not tensor.is_cpu or tensor.layout is not _STRIDED:
                return TORCH
    except AttributeError:  # not a tensor: torch raises its own error
        return TORCH
    if _is_compiling():
        return OPERATOR
    if in_transform() or _jit_tracing() is not None:
        return TORCH
    if not plain or _function_modes() or _dispatch_modes():
        return OPERATOR
    return KERNEL


def reason(input: Any, *others: Any) -> str:
    """`route` in words, for `explain`."""
    for tensor in (input, *(other for other in others if other is not None)):
        if not isinstance(tensor, Tensor):
            return f"{TORCH}: {type(tensor).__name__} is not a tensor"
        if not tensor.is_cpu:
            return f"{TORCH}: a tensor is on {tensor.device}, the kernels run on the CPU"
        if tensor.layout is not _STRIDED:
            return f"{TORCH}: a tensor has layout {tensor.layout}"
        if tensor.is_neg():
            return f"{TORCH}: a tensor is a negated view"
        if _is_distributed(type(tensor)):
            return f"{TORCH}: a tensor is a DTensor"
    if input.dtype not in FLOATING:
        return f"{TORCH}: no kernel for {input.dtype}"
    way = route(input, *others)
    if way == TORCH:
        if _transforms() is not None:
            return f"{TORCH}: inside a torch.func transform"
        if _jit_tracing() is not None:
            return f"{TORCH}: inside torch.jit.trace"
        return f"{TORCH}: inside forward-mode differentiation"
    if way == OPERATOR:
        return f"{OPERATOR}: torch.ops.dlkernels, for a compiled graph, a mode or a tensor subclass"
    return f"{KERNEL}: called directly"
