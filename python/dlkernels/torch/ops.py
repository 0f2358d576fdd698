"""The kernels as operators of ``torch.ops.dlkernels``: what torch.compile, export, FakeTensor,
modes and tensor subclasses see.

Every operator is defined, implemented for the CPU, given a fake and, where it is differentiable, an
autograd formula, once, when this module is imported. Eager calls on plain tensors do not come
through here (an operator with a Python autograd formula costs 45 µs, a direct call 4): see
`functional`.
"""

from __future__ import annotations

from typing import Any

import torch


from dlkernels.torch._operator import LIBRARY as _LIBRARY, _decompose, decompositions  # noqa: E402,F401


def _implement(name: str) -> Any:
    """Registers a function as the operator's CPU implementation."""

    def register(function: Any) -> Any:
        _LIBRARY.impl(name, function, "CPU")
        return function

    return register


def _decomposes(name: str) -> Any:
    """Registers a function as the same in torch's operations, in the layout of the kernel's result.

    It takes the operator's arguments. torch's own table has it too, which torch.onnx reads.
    """

    def register(function: Any) -> Any:
        _decompose(getattr(torch.ops.dlkernels, name).default, function)
        return function

    return register
