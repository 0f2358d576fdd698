"""Autograd functions of eager calls, without what torch does around them: half of the time that a
call with a gradient takes of a thousand elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionMeta

from dlkernels import _core
from dlkernels.torch._route import is_batched

_is_grad_enabled, _is_plain = torch.is_grad_enabled, _core.is_plain


class _FunctionMeta(FunctionMeta):
    def __init__(cls, name: str, bases: Any, attrs: Any) -> None:
        super().__init__(name, bases, attrs)
        function: Any = cls
        function._backward_cls.apply = function.backward
        function.call = super(torch.autograd.Function, function).apply  # type: ignore[misc]


class Function(torch.autograd.Function, metaclass=_FunctionMeta):
    """torch's, for tensors that `route` found plain.

    `call` is `apply` without its look for torch.func's transforms and for tensors that outlived
    one: `route` has had the first, and kernels refuse the second. And autograd's engine calls
    `backward` itself, not through two functions of torch's that look for it.
    """

    call: Callable[..., Any]


def is_first_order(grad_output: Tensor) -> bool:
    """Whether a backward is neither recorded itself nor for a batch of gradients at once: then it
    may call a kernel, else it takes torch's operations."""
    return not _is_grad_enabled() and (_is_plain(grad_output) or not is_batched(grad_output))


def loss_gradient(grad_output: Tensor, reduction: str) -> Any:
    """A loss's grad_output as the kernels take it: a float, or one value per row."""
    if reduction == "none":
        return grad_output.resolve_neg()
    try:
        return _core.number_of(grad_output)
    except TypeError:  # a half type, or a negated view
        return grad_output.item()
