"""Which way a call goes: straight to a kernel, through the registered operator, or to torch itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

#: The ways, as `explain` names them.
KERNEL = "kernel"
OPERATOR = "operator"
TORCH = "torch"

_PLAIN = (Tensor, Parameter)
_FLOATING = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))

_function_modes = torch._C._len_torch_function_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._functorch.peek_interpreter_stack


def route(input: Tensor, *others: Tensor | None) -> str:
    """The way for a call whose main tensor is `input`; the others must be plain CPU tensors too."""
    if input.dtype not in _FLOATING:
        return TORCH
    plain = True
    for tensor in (input, *others):
        if tensor is None:
            continue
        if type(tensor) not in _PLAIN:
            plain = False
        if not tensor.is_cpu or tensor.layout is not torch.strided:
            return TORCH
    if torch.compiler.is_compiling():
        return OPERATOR
    if _transforms() is not None:  # vmap and its like know torch's functions, not ours
        return TORCH
    if not plain or _function_modes() or _dispatch_modes():
        return OPERATOR
    return TORCH if input.is_neg() else KERNEL


def reason(input: Any, *others: Any) -> str:
    """`route` in words, for `explain`."""
    for tensor in (input, *others):
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            return f"{TORCH}: {type(tensor).__name__} is not a tensor"
        if not tensor.is_cpu:
            return f"{TORCH}: a tensor is on {tensor.device}, the kernels run on the CPU"
        if tensor.layout is not torch.strided:
            return f"{TORCH}: a tensor has layout {tensor.layout}"
    if input.dtype not in _FLOATING:
        return f"{TORCH}: no kernel for {input.dtype}"
    way = route(input, *others)
    if way == TORCH and _transforms() is not None:
        return f"{TORCH}: inside a torch.func transform"
    if way == TORCH:
        return f"{TORCH}: the tensor is a negated view"
    if way == OPERATOR:
        return f"{OPERATOR}: torch.ops.dlkernels, for a compiled graph, a mode or a tensor subclass"
    return f"{KERNEL}: called directly"
