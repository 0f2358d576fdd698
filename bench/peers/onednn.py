"""oneDNN's own batch normalization, straight through its C library (2.x; on Debian `libdnnl2`),
with every buffer made once and used again, which torch's way to it does not do.

Each case says what of it is run.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

from bench.peers import Peer

ONEDNN = "oneDNN"

_FORWARD_TRAINING, _USE_SCALE_SHIFT = 64, 2
_FLOAT32, _CPU, _IN_ORDER = 3, 1, 1
_SOURCE, _RESULT, _SCALE_SHIFT, _MEAN, _VARIANCE = 1, 17, 33, 49, 50
# The descriptors are plain structs, of at most 4 KB; the library alone looks inside.
_DESCRIPTOR_BYTES = 16384


class _Argument(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_int), ("memory", ctypes.c_void_p))


class BatchNormForward:
    """Batch normalization of a float32 torch tensor in training, forward, of fixed memory.

    Args:
        x: The input, in any memory format.
        weight: One per channel.
        bias: One per channel.
        eps: Added to the variance.

    Raises:
        RuntimeError: The library is missing or refuses.
    """

    def __init__(self, x: Any, weight: Any, bias: Any, eps: float) -> None:
        """Builds the primitive and its memory."""
        import torch

        name = ctypes.util.find_library("dnnl")
        if name is None or not name.endswith(".so.2"):
            raise RuntimeError(f"expected oneDNN 2.x (on Debian: apt install libdnnl2), got {name}")
        self._library = ctypes.CDLL(name)
        self._kept: list[Any] = []
        self.output = torch.empty_like(x)
        self._engine, self._stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("dnnl_engine_create", ctypes.byref(self._engine), _CPU, ctypes.c_size_t(0))
        self._call("dnnl_stream_create", ctypes.byref(self._stream), self._engine, _IN_ORDER)
        data = self._describe(x)
        operation = ctypes.create_string_buffer(_DESCRIPTOR_BYTES)
        self._call(
            "dnnl_batch_normalization_forward_desc_init",
            operation, _FORWARD_TRAINING, data, ctypes.c_float(eps), _USE_SCALE_SHIFT,
        )  # fmt: skip
        description, self._primitive = ctypes.c_void_p(), ctypes.c_void_p()
        self._call(
            "dnnl_primitive_desc_create",
            ctypes.byref(description), operation, None, self._engine, None,
        )  # fmt: skip
        self._call("dnnl_primitive_create", ctypes.byref(self._primitive), description)
        channels = x.shape[1]
        tensors = {
            _SOURCE: x,
            _RESULT: self.output,
            _SCALE_SHIFT: torch.stack((weight, bias)),
            _MEAN: torch.empty(channels),
            _VARIANCE: torch.empty(channels),
        }
        self._arguments = (_Argument * len(tensors))(
            *(_Argument(arg, self._memory(tensor)) for arg, tensor in tensors.items())
        )

    def __call__(self) -> Any:
        """Runs it; returns the output, always the same tensor."""
        count = len(self._arguments)
        self._call("dnnl_primitive_execute", self._primitive, self._stream, count, self._arguments)
        self._call("dnnl_stream_wait", self._stream)
        return self.output

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise RuntimeError(f"{function} returned {status}")

    def _describe(self, tensor: Any) -> Any:
        dims = (ctypes.c_int64 * 12)(*tensor.shape)
        strides = (ctypes.c_int64 * 12)(*tensor.stride())
        descriptor = ctypes.create_string_buffer(_DESCRIPTOR_BYTES)
        self._call(
            "dnnl_memory_desc_init_by_strides",
            descriptor, tensor.dim(), dims, _FLOAT32, strides,
        )  # fmt: skip
        return descriptor

    def _memory(self, tensor: Any) -> Any:
        self._kept.append(tensor)
        memory = ctypes.c_void_p()
        pointer = ctypes.c_void_p(tensor.data_ptr())
        descriptor = self._describe(tensor)
        self._call("dnnl_memory_create", ctypes.byref(memory), descriptor, self._engine, pointer)
        return memory


PEERS = (Peer(ONEDNN, None, library="dnnl", child=True, colour="#4f772d", marker="h"),)
