"""Where results lie in memory, from where their inputs lie: what the kernels do, for fakes.

Sizes and strides may be symbolic. What cannot be known then counts as false.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import is_contiguous_or_false

_Ints = Sequence[Any]


def _holds(condition: Any) -> bool:
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


def _is_one(size: Any) -> bool:
    return _holds(size == 1)


def row_major(shape: _Ints) -> tuple[Any, ...]:
    """Strides of an array without gaps, its last dimension innermost."""
    strides: list[Any] = []
    stride: Any = 1
    for size in reversed(shape):
        strides.insert(0, stride)
        stride = stride * (1 if _holds(size == 0) else size)
    return tuple(strides)


def _is_dense(shape: _Ints, strides: _Ints) -> bool:
    """Whether some order of the dimensions is row-major, those of size 1 aside."""
    left = [dim for dim, size in enumerate(shape) if not _is_one(size)]
    expected: Any = 1
    while left:
        dim = next((dim for dim in left if _holds(strides[dim] == expected)), None)
        if dim is None:
            return False
        expected = expected * shape[dim]
        left.remove(dim)
    return True


def dense(input: Tensor) -> tuple[Any, ...]:
    """The strides of a result that lies like `input`: its own where it has no gaps, else without
    gaps in the same order of dimensions (`dense_strides_like` of the bindings).
    """
    shape, strides = input.shape, input.stride()
    if any(_holds(size == 0) for size in shape):
        return row_major(shape)
    if is_contiguous_or_false(input) or _is_dense(shape, strides):
        return strides
    # From the outermost dimension to the innermost. A broadcast one says nothing and stays.
    order: list[int] = []
    for dim in range(len(shape)):
        order.append(dim)
        place = dim
        for other in range(dim - 1, -1, -1):
            if _holds(strides[dim] == 0) or _holds(strides[order[other]] >= strides[dim]):
                break
            if not _holds(strides[order[other]] == 0):
                order[place], order[other] = order[other], order[place]
                place = other
    found: list[Any] = [0] * len(shape)
    stride: Any = 1
    for dim in reversed(order):
        found[dim] = stride
        stride = stride * shape[dim]
    return tuple(found)


class _Classes:
    """An array with classes (or channels) along `axis` as the kernels read it: one stride each for
    what comes before, for the classes, and for the positions behind.
    """

    def __init__(self, shape: _Ints, strides: _Ints, axis: int) -> None:
        before, behind = range(axis), range(axis + 1, len(shape))
        self.is_even = True
        self.has_one_batch, self.batch = self._collapsed(shape, strides, before)
        self.has_one_position, self.position = self._collapsed(shape, strides, behind)
        self.has_one_class = not shape or _is_one(shape[axis])
        self.stride = 1 if self.has_one_class else strides[axis]
        self.positions: Any = 1
        for dim in behind:
            self.positions = self.positions * shape[dim]

    def _collapsed(self, shape: _Ints, strides: _Ints, dims: range) -> tuple[bool, Any]:
        stride: Any = 0
        expected: Any = None
        for dim in reversed(dims):
            if _is_one(shape[dim]):
                continue
            if expected is None:
                stride = expected = strides[dim]
            elif not _holds(strides[dim] == expected):
                self.is_even = False
            expected = expected * shape[dim]
        return expected is None, stride

    @property
    def is_rows(self) -> bool:
        return _is_one(self.stride)

    @property
    def is_planes(self) -> bool:
        return not self.has_one_position and _is_one(self.position)


def _is_broadcast(shape: _Ints, strides: _Ints) -> bool:
    return any(
        _holds(stride == 0) and not _is_one(size)
        for size, stride in zip(shape, strides, strict=True)
    )


def _chosen(input: Tensor, fits: bool) -> tuple[Any, ...]:
    return dense(input) if fits or 0 in input.shape else row_major(input.shape)


def cross_entropy_gradient(input: Tensor) -> tuple[Any, ...]:
    """The strides of the gradient of the logits: like them, row-major where a kernel cannot read
    them.
    """
    shape, strides = input.shape, input.stride()
    classes = _Classes(shape, strides, min(1, len(shape) - 1))
    swapped = classes.has_one_position and _is_one(classes.batch)
    is_readable = classes.is_rows or classes.is_planes or swapped
    return _chosen(input, classes.is_even and is_readable and not _is_broadcast(shape, strides))


def nll_gradient(input: Tensor) -> tuple[Any, ...]:
    """The strides of the gradient of log-probabilities, likewise."""
    classes = _Classes(input.shape, dense(input), min(1, input.dim() - 1))
    return _chosen(input, classes.is_even and (classes.is_rows or classes.is_planes))


def batch_norm(input: Tensor) -> tuple[Any, ...]:
    """The strides of a normalized input and of its gradient, likewise."""
    classes = _Classes(input.shape, dense(input), 1)
    rows = classes.is_rows and not classes.has_one_class
    if rows and not classes.has_one_batch and not classes.has_one_position:
        fits = _holds(classes.batch == classes.positions * classes.position)
    elif rows or classes.is_planes:
        fits = True
    else:
        fits = classes.has_one_position and (classes.has_one_batch or _is_one(classes.batch))
    return _chosen(input, classes.is_even and fits)


def empty(input: Tensor, strides: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the input's shape with these strides, without values."""
    made: Tensor = input.new_empty_strided(input.shape, strides, dtype=dtype or input.dtype)
    return made


def empty_like(input: Tensor) -> Tensor:
    """What a kernel makes for a result that lies like its input."""
    return empty(input, dense(input))


def with_strides(tensor: Tensor, strides: Sequence[Any]) -> Tensor:
    """`tensor` laid out with these strides, itself where it is."""
    if tensor.stride() == strides:
        return tensor.resolve_neg()
    lying = _lying(tensor, strides)
    if lying is not None:
        return lying
    return tensor.new_empty_strided(tensor.shape, strides).copy_(tensor)


def laid_out(tensor: Tensor, strides: Sequence[Any]) -> Tensor:
    """`with_strides` for graphs in which nothing is written to."""
    lying = _lying(tensor, strides)
    if lying is not None:
        return lying
    laid: Tensor = torch.ops.aten.copy(tensor.new_empty_strided(tensor.shape, strides), tensor)
    return laid


def _lying(tensor: Tensor, strides: Sequence[Any]) -> Tensor | None:
    """`tensor` with these strides where that takes no copy."""
    own = tensor.stride()
    if own == tuple(strides):
        return tensor.resolve_neg()
    if all(
        _is_one(size) or _holds(a == b)
        for size, a, b in zip(tensor.shape, own, strides, strict=True)
    ):
        return tensor.resolve_neg().as_strided(tensor.shape, strides)
    return None
