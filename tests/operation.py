"""What an operation's entry in its family's `specs.py` is made of: the operation once, with its
reference, samples and bounds.

References are plain NumPy on float64 (long double for float64), on the very values the kernel is
given. An operation is a list of *calls*: usually its forward and its backward. A call takes a
dictionary of arrays made by the sampler and returns a tuple of results; its reference takes the
same dictionary, widened, and returns for each result the exact values and the scale that its error
is measured against.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from support import HALF, compute_dtype, eps, smallest_normal, ulp, wide_dtype

Arrays = Mapping[str, Any]
Options = Mapping[str, Any]
Shape = tuple[int, ...]


class Exact(NamedTuple):
    """What a reference says of one result.

    Attributes:
        value: The exact values, wide.
        scale: The magnitude that rounding errors are in proportion to; the value's own where this
            is None. Where terms cancel it is larger than the value.
        underflow: Softmax weights below the smallest normal number may be 0: this times that number
            may be missing.
    """

    value: np.ndarray
    scale: np.ndarray | None = None
    underflow: Any = 0.0


@dataclass(frozen=True, eq=False)
class Call:
    """One way to call an operation.

    Attributes:
        name: Its name in the NumPy front.
        run: `run(arrays, options, out)` -> results; `out` is an array for the first result in
            `results_out`, or None.
        reference: `reference(wide arrays, options)` -> one Exact for each result.
        eps: Largest error of each result, in the computing dtype's eps times its scale. A result of
            a half type may be off by another half unit in its last place.
        out: The result (by position) that `out=` can hold; None: it has no `out=`.
        in_place: The inputs whose own memory may be `out`.
        updates: The inputs it writes to: they are its results, in that order.
        bytes_per_element: Memory traffic at best, float32.
        torch_twin: Its twin below `dlkernels.torch`; None where only autograd calls it there.
    """

    name: str
    run: Callable[[Arrays, Options, Any], tuple[Any, ...]]
    reference: Callable[[Arrays, Options], tuple[Exact, ...]]
    eps: tuple[float, ...]
    out: int | None = None
    in_place: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    bytes_per_element: float = 8
    torch_twin: str | None = None


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation.

    Attributes:
        name: Its name.
        sample: `sample(rng, shape, dtype, options)` -> the arrays its calls take. Those listed in
            `main` have the shape asked for.
        shapes: The shapes that exercise a size.
        calls: How it is called: forward first.
        options: The sets of options to test.
        elementwise: An element of a result depends on the same element of the inputs alone, so that
            every split of them gives the same bits.
        free_rows: The inputs that may have any number of rows, in any number of dimensions.
        broadcasts: Its operands are broadcast, so that a shape may have one more dimension.
    """

    name: str
    sample: Callable[[np.random.Generator, Shape, np.dtype, Options], dict[str, Any]]
    shapes: Callable[[int], Sequence[Shape]]
    calls: Sequence[Call]
    options: Sequence[Options] = field(default_factory=lambda: ({},))
    elementwise: bool = False
    free_rows: Sequence[str] = ()
    broadcasts: bool = False

    def arrays(self, shape: Shape, dtype: np.dtype, options: Options) -> dict[str, Any]:
        """The sample for this shape: the same every time."""
        seed = zlib.crc32(repr((self.name, shape, dtype.name, sorted(options.items()))).encode())
        return self.sample(np.random.default_rng(seed), shape, dtype, options)


def widened(arrays: Arrays, dtype: str) -> dict[str, Any]:
    """The floating arrays in the dtype references compute in, the rest as they are."""
    wide = wide_dtype(dtype)
    return {
        name: value.astype(wide)
        if isinstance(value, np.ndarray) and value.dtype.kind not in "iu"
        else value
        for name, value in arrays.items()
    }


def tolerance(exact: Exact, bound_eps: float, dtype: str) -> np.ndarray:
    """How far each element may be from `exact.value`."""
    compute = compute_dtype(dtype)
    scale = np.abs(exact.value if exact.scale is None else exact.scale)
    allowed = bound_eps * np.maximum(scale * eps(compute), ulp(scale, compute) if bound_eps else 0)
    allowed = allowed + exact.underflow * smallest_normal(compute)
    if dtype in HALF:
        # Rounded once more; the rounding is of a value that may already be off.
        allowed = allowed + 0.5 * ulp(np.abs(exact.value) + allowed, dtype)
    return allowed


# --- what several families' entries use


def exact_of(result: np.ndarray | Exact) -> Exact:
    """The values alone, if their own magnitude is the scale."""
    return result if isinstance(result, Exact) else Exact(result)


def row_shapes(size: int) -> list[Shape]:
    """Classes or channels side by side, as many as `size`; then positions side by side."""
    return [(3, size), (2, 3, size)]


def nonempty_row_shapes(size: int) -> list[Shape]:
    """The same where there must be a class or channel: size 0 is then an empty batch."""
    return [(3, size) if size else (0, 5), (2, 3, size)]


def reduced(rows: np.ndarray, options: Options, divisor: Any) -> np.ndarray:
    """The losses of a batch by the `reduction` of the options."""
    reduction = options.get("reduction", "mean")
    if reduction == "none":
        return rows
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(rows.sum() / divisor if reduction == "mean" else rows.sum())


def gradient_first(results: tuple[Any, ...]) -> tuple[Any, ...]:
    """The results of a `*_with_grad` function in the order of those of a `*_backward`."""
    return (results[1], results[0], *results[2:])
