"""Image normalization: from the bytes of a decoded picture to what a network takes, in one pass.

Arrays may be NumPy's or anything with ``__dlpack__``, one image ``(H, W, C)`` or ``(C, H, W)`` or a
batch of them, with any strides; results are of the kind that came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlkernels import _core
from dlkernels._arguments import Array, as_output, as_pixels, number, type_text

__all__ = ["denormalize", "normalize"]


def __dir__() -> list[str]:
    return sorted(__all__)


_LAYOUTS = ("HWC", "CHW")


def is_channels_last(operation: str, argument: str, layout: str) -> bool:
    """Whether a layout has its channels last; what is none is a ValueError."""
    if not isinstance(layout, str) or layout not in _LAYOUTS:
        got = repr(layout) if isinstance(layout, str) else type_text(layout)
        raise ValueError(f"{operation}: {argument}: expected 'HWC' or 'CHW', got {got}")
    return layout == "HWC"


def numbers(operation: str, argument: str, values: Any) -> list[float]:
    """A number, or one per channel, as a list; what is neither is an error."""
    if isinstance(values, (int, float)):
        return [number(values, operation, argument)]
    if isinstance(values, (list, tuple)):
        return [number(value, operation, argument) for value in values]
    try:
        array = np.atleast_1d(np.asarray(values))
    except (TypeError, ValueError, RuntimeError):
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise TypeError(
            f"{operation}: {argument}: expected a number or one per channel, got "
            f"{type_text(values)}"
        )
    if array.ndim != 1:
        raise ValueError(
            f"{operation}: {argument}: expected a number or one per channel, got shape "
            f"{array.shape}"
        )
    listed: list[float] = array.astype(np.float64).tolist()
    return listed


def _dtype_name(operation: str, dtype: Any) -> str:
    """ "" for None."""
    if dtype is None:
        return ""
    if isinstance(dtype, str) or str(dtype).startswith("torch."):
        return str(dtype).removeprefix("torch.")
    try:
        return str(np.dtype(dtype).name)
    except (TypeError, ValueError):
        raise TypeError(
            f"{operation}: dtype: expected a floating dtype, got {type_text(dtype)}"
        ) from None


def _run(
    operation: str,
    x: Array,
    mean: Any,
    std: Any,
    scale: float | None,
    layout: str,
    out_layout: str,
    dtype: Any,
    out: Array | None,
) -> Any:
    return _core.image_normalize(
        operation,
        as_pixels(x, operation),
        as_output(out, operation),
        numbers(operation, "mean", mean),
        numbers(operation, "std", std),
        scale,
        operation == "denormalize",
        is_channels_last(operation, "layout", layout),
        is_channels_last(operation, "out_layout", out_layout),
        _dtype_name(operation, dtype),
    )


def normalize(
    x: Array,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    *,
    scale: float | None = None,
    layout: str = "HWC",
    out_layout: str = "CHW",
    dtype: Any = None,
    out: Array | None = None,
) -> Any:
    """``(x * scale - mean) / std`` per channel, in another layout and dtype, in one pass.

    What ``torchvision.transforms.v2`` does with ``to_dtype(scale=True)``, ``normalize`` and a
    permutation. Computed as ``x * (scale / std) + (-mean / std)``, the two numbers rounded once
    from float64.

    Args:
        x: uint8 or floating, one image or a batch: 3 or 4 dimensions, at most 4096 channels.
        mean: One number per channel, or one for all.
        std: One number per channel, or one for all; not 0.
        scale: What x is multiplied by first: 1/255 for uint8 and 1 for floating dtypes if None.
        layout: Where x has its channels: ``"HWC"`` or ``"CHW"``.
        out_layout: Where the result has them.
        dtype: The result's: float32, float64, bfloat16 or float16, by name or as NumPy's or torch's
            object. If None, that of `out` or of a floating `x`, else float32.
        out: Where the result goes; may be ``x`` itself if neither layout nor dtype changes.

    Returns:
        An array of the kind of ``x``, row-major (or ``out``).

    Raises:
        TypeError: A dtype is none of these, or `out` has another.
        ValueError: `std` is 0; the numbers of channels differ; a layout is unknown; `out` has
            another shape, is read-only or overlaps `x`.

    Example:
        >>> import numpy as np
        >>> image = np.array([[[0, 128, 255]]], np.uint8)
        >>> y = normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        >>> y.shape, y.dtype.name, [f"{value:.4f}" for value in y.flat]
        ((3, 1, 1), 'float32', ['-2.1179', '0.2052', '2.6400'])
    """
    return _run("normalize", x, mean, std, scale, layout, out_layout, dtype, out)


def denormalize(
    x: Array,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    *,
    scale: float | None = None,
    layout: str = "CHW",
    out_layout: str = "HWC",
    dtype: Any = None,
    out: Array | None = None,
) -> Any:
    """The inverse of `normalize`: ``(x * std + mean) / scale``, by default as a picture's bytes.

    Args:
        x: Floating, one image or a batch: 3 or 4 dimensions, at most 4096 channels.
        mean: As `normalize` had it.
        std: As `normalize` had it.
        scale: As `normalize` had it; if None, 1/255 for a result of uint8, else 1.
        layout: Where x has its channels: ``"HWC"`` or ``"CHW"``.
        out_layout: Where the result has them.
        dtype: The result's: uint8 (if None, and there is no `out`) or a floating one. To uint8,
            values are clamped to [0, 255] and rounded to the nearest, ties to even; NaN is 0.
        out: Where the result goes; may be ``x`` itself if neither layout nor dtype changes.

    Returns:
        An array of the kind of ``x``, row-major (or ``out``).

    Raises:
        TypeError: A dtype is none of these, or `out` has another.
        ValueError: As `normalize`.

    Example:
        >>> import numpy as np
        >>> image = np.array([[[0, 128, 255]]], np.uint8)
        >>> statistics = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        >>> denormalize(normalize(image, *statistics), *statistics).tolist()
        [[[0, 128, 255]]]
    """
    return _run("denormalize", x, mean, std, scale, layout, out_layout, dtype, out)
