"""Image normalization for torch: functions on tensors, and transforms for a data set.

See `dlkernels.image` for what is computed. Tensors on the CPU, uint8 or floating, go to the kernel
(under torch.compile and the like to its operator), others through torch's own operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlkernels import _core
from dlkernels._arguments import number, type_text
from dlkernels.image import is_channels_last, numbers
from dlkernels.torch._eager import Function, is_first_order
from dlkernels.torch._operator import Operation
from dlkernels.torch._route import KERNEL, OPERATOR, check_tensors, is_batched, route
from dlkernels.torch._tools import Proxy, as_leaf

__all__ = ["Denormalize", "Normalize", "denormalize", "normalize"]


def __dir__() -> list[str]:
    return sorted(__all__)


_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_DTYPES = frozenset((*_FLOATING, torch.uint8))

#: mean, std, scale, whether it is the inverse, whether channels come last in the input and in the
#: result, the result's dtype: as the operator takes them.
_Arguments = tuple[list[float], list[float], float, bool, bool, bool, torch.dtype]


def _arguments(
    operation: str,
    input: Tensor,
    mean: Any,
    std: Any,
    scale: float | None,
    layout: str,
    out_layout: str,
    dtype: torch.dtype,
) -> _Arguments:
    inverse = operation == "denormalize"
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{operation}: dtype: expected a torch.dtype, got {type_text(dtype)}")
    if scale is None:
        scale = 1 / 255 if (dtype if inverse else input.dtype) is torch.uint8 else 1.0
    return (
        numbers(operation, "mean", mean),
        numbers(operation, "std", std),
        number(scale, operation, "scale"),
        inverse,
        is_channels_last(operation, "layout", layout),
        is_channels_last(operation, "out_layout", out_layout),
        dtype,
    )


def _kernel(input: Tensor, out: Tensor | None, arguments: _Arguments) -> Tensor:
    dtype = str(arguments[-1]).removeprefix("torch.")
    name = "denormalize" if arguments[3] else "normalize"
    result: Tensor = _core.image_normalize(name, input, out, *arguments[:-1], dtype)
    return result


def _backward_arguments(arguments: _Arguments, dtype: torch.dtype) -> _Arguments:
    """The gradient is the same without the mean, from the result's layout to the input's."""
    _, std, scale, inverse, last, out_last, _ = arguments
    return [0.0], std, scale, inverse, out_last, last, dtype


def _in_torch(input: Tensor, arguments: _Arguments) -> Tensor:
    """The same in torch's operations."""
    mean, std, scale, inverse, last, out_last, dtype = arguments
    if input.dim() not in (3, 4):
        raise ValueError(
            f"{'de' * inverse}normalize: x: expected 3 dimensions (one image) or 4, got shape "
            f"{tuple(input.shape)}"
        )
    if not all(std):
        raise ValueError(f"{'de' * inverse}normalize: std: expected numbers other than 0, got 0")
    x = input.double() if torch.float64 in (input.dtype, dtype) else input.float()
    means, stds = (
        torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *(() if last else (1, 1)))
        for values in (mean, std)
    )
    x = (x * stds + means) / scale if inverse else (x * scale - means) / stds
    if last != out_last:
        x = x.movedim(-1, -3) if last else x.movedim(-3, -1)
    if dtype is torch.uint8:
        x = x.nan_to_num(0.0).clamp(0, 255).round()
    return x.to(dtype).contiguous()


def _fake(
    input: Tensor,
    mean: list[float],
    std: list[float],
    scale: float,
    inverse: bool,
    channels_last: bool,
    out_channels_last: bool,
    dtype: torch.dtype,
) -> Tensor:
    *batch, first, second, third = input.shape
    shape = [first, second, third]
    if channels_last and not out_channels_last:
        shape = [third, first, second]
    elif out_channels_last and not channels_last:
        shape = [second, third, first]
    return input.new_empty([*batch, *shape], dtype=dtype)


def _save(ctx: Any, inputs: Any, output: Tensor) -> None:
    input, *arguments = inputs
    ctx.arguments, ctx.dtype = arguments, input.dtype


def _differentiate(ctx: Any, grad_output: Tensor) -> Any:
    arguments = _backward_arguments(tuple(ctx.arguments), ctx.dtype)
    return _NORMALIZE.operator(grad_output, *arguments), *([None] * 7)


_NORMALIZE = Operation(
    "image_normalize",
    "(Tensor input, float[] mean, float[] std, float scale, bool inverse, bool channels_last, "
    "bool out_channels_last, ScalarType dtype) -> Tensor",
    lambda input, *arguments: _kernel(input, None, arguments),
    _fake,
    lambda input, *arguments: _in_torch(input, arguments),
    autograd=(_save, _differentiate),
)


class _Affine(Function):
    """Linear: backward needs the numbers alone."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, arguments: _Arguments) -> Tensor:
        ctx.arguments, ctx.dtype = arguments, input.dtype
        return _kernel(input, None, arguments)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        arguments = _backward_arguments(ctx.arguments, ctx.dtype)
        if is_first_order(grad_output):
            return _kernel(grad_output.resolve_neg(), None, arguments), None
        if is_batched(grad_output):
            return _in_torch(grad_output, arguments), None
        return _NORMALIZE.operator(grad_output, *arguments), None


def _run(input: Tensor, out: Tensor | None, arguments: _Arguments) -> Tensor:
    if input.dtype not in _DTYPES:
        raise TypeError(
            f"{'de' * arguments[3]}normalize: x: expected uint8 or a floating dtype, got "
            f"{input.dtype}"
        )
    way = route(input, out, dtypes=_DTYPES)
    if arguments[-1] not in (_DTYPES if arguments[3] else _FLOATING):
        raise TypeError(
            f"{'de' * arguments[3]}normalize: dtype: expected a floating dtype"
            f"{' or uint8' if arguments[3] else ''}, got {arguments[-1]}"
        )
    differentiable = input.requires_grad and torch.is_grad_enabled()
    if out is not None:
        if differentiable:
            raise RuntimeError(
                "normalize(): functions with out=... arguments don't support automatic "
                "differentiation, but one of the arguments requires grad."
            )
        if way == KERNEL and not out.is_neg():
            return _kernel(input.resolve_neg(), out, arguments)
        return out.copy_(_run(input, None, arguments))
    if way == OPERATOR:
        output: Tensor = _NORMALIZE.operator(input, *arguments)
        return output
    if way != KERNEL:
        return _in_torch(input, arguments)
    if differentiable and arguments[-1].is_floating_point:
        output = _Affine.call(input, arguments)
        return output
    return _kernel(input.resolve_neg(), None, arguments)


def normalize(
    input: Tensor,
    mean: float | Sequence[float] | Tensor,
    std: float | Sequence[float] | Tensor,
    *,
    scale: float | None = None,
    layout: str = "HWC",
    out_layout: str = "CHW",
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``(input * scale - mean) / std`` per channel, in another layout and dtype, in one pass.

    Args:
        input: uint8 or floating, one image or a batch: 3 or 4 dimensions, any strides.
        mean: One number per channel, or one for all.
        std: One number per channel, or one for all; not 0.
        scale: What the input is multiplied by first: 1/255 for uint8 and 1 for floating dtypes if
            None.
        layout: Where the input has its channels: ``"HWC"`` or ``"CHW"``.
        out_layout: Where the result has them.
        dtype: The result's: that of `out` or of a floating input, else float32, if None.
        out: Where the result goes.

    Returns:
        A contiguous tensor (or ``out``), differentiable if the input is.

    Raises:
        TypeError: A dtype is none of these.
        ValueError: `std` is 0; shapes do not fit; a layout is unknown.

    Example:
        >>> import torch
        >>> image = torch.tensor([[[0, 128, 255]]], dtype=torch.uint8)
        >>> normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).shape
        torch.Size([3, 1, 1])
    """
    check_tensors("normalize", input=input, out=input if out is None else out)
    if dtype is None:
        floating = input.dtype if input.dtype.is_floating_point else torch.float32
        dtype = floating if out is None else out.dtype
    return _run(
        input,
        out,
        _arguments("normalize", input, mean, std, scale, layout, out_layout, dtype),
    )


def denormalize(
    input: Tensor,
    mean: float | Sequence[float] | Tensor,
    std: float | Sequence[float] | Tensor,
    *,
    scale: float | None = None,
    layout: str = "CHW",
    out_layout: str = "HWC",
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The inverse of `normalize`: ``(input * std + mean) / scale``, by default as uint8.

    Args:
        input: Floating, one image or a batch: 3 or 4 dimensions, any strides.
        mean: As `normalize` had it.
        std: As `normalize` had it.
        scale: As `normalize` had it; if None, 1/255 for a result of uint8, else 1.
        layout: Where the input has its channels: ``"HWC"`` or ``"CHW"``.
        out_layout: Where the result has them.
        dtype: The result's: uint8 if None and there is no `out`. To uint8, values are clamped to
            [0, 255] and rounded to the nearest, ties to even; NaN is 0.
        out: Where the result goes.

    Returns:
        A contiguous tensor (or ``out``), differentiable if it is floating and the input is.

    Raises:
        TypeError: A dtype is none of these.
        ValueError: As `normalize`.

    Example:
        >>> import torch
        >>> denormalize(torch.zeros(3, 1, 1), [0.5, 0.25, 1.0], 0.2).tolist()
        [[[128, 64, 255]]]
    """
    check_tensors("denormalize", input=input, out=input if out is None else out)
    if dtype is None:
        dtype = torch.uint8 if out is None else out.dtype
    return _run(
        input,
        out,
        _arguments("denormalize", input, mean, std, scale, layout, out_layout, dtype),
    )


# --- transforms


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor on the array's memory; on a copy, where torch takes no such array, or warns of its
    being read-only."""
    steps = zip(array.strides, array.shape, strict=True)
    fits = array.flags.writeable and array.dtype.isnative
    if not fits or any(step < 0 or step % array.itemsize for step, size in steps if size > 1):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


class _Transform(torch.nn.Module):
    """What the two transforms share.

    Args:
        mean: See the functions.
        std: See the functions.
        scale: See the functions.
        layout: See the functions.
        out_layout: See the functions.
        dtype: See the functions.
    """

    operation: str

    def __init__(
        self,
        mean: Any,
        std: Any,
        scale: float | None,
        layout: str,
        out_layout: str,
        dtype: torch.dtype,
    ) -> None:
        """See the class."""
        super().__init__()
        self.mean = numbers(self.operation, "mean", mean)
        self.std = numbers(self.operation, "std", std)
        self.scale, self.layout, self.out_layout, self.dtype = scale, layout, out_layout, dtype
        # Wrong numbers are complained of here rather than in a worker process.
        channels = max(len(self.mean), len(self.std))
        last = is_channels_last(self.operation, "layout", layout)
        shape = (1, 1, channels) if last else (channels, 1, 1)
        self(torch.zeros(shape, dtype=torch.float32, device="cpu"))

    def forward(self, image: Any) -> Tensor:
        """The image, normalized.

        Args:
            image: A tensor or whatever NumPy makes an array of, such as a PIL image; one without
                channels, ``(H, W)``, has one.
        """
        if type(image) is Proxy:
            return as_leaf(self, image)
        if not isinstance(image, Tensor):
            try:
                image = _from_numpy(np.asarray(image))
            except (TypeError, ValueError):
                raise TypeError(
                    f"{self.operation}: image: expected a tensor or an array of numbers, got "
                    f"{type_text(image)}"
                ) from None
        if image.dim() == 2:
            image = image.unsqueeze(-1 if self.layout == "HWC" else 0)
        arguments = _arguments(
            self.operation,
            image,
            self.mean,
            self.std,
            self.scale,
            self.layout,
            self.out_layout,
            self.dtype,
        )
        return _run(image, None, arguments)

    def extra_repr(self) -> str:
        """The arguments."""
        scale = "" if self.scale is None else f", scale={self.scale}"
        return (
            f"mean={self.mean}, std={self.std}{scale}, layout={self.layout!r}, "
            f"out_layout={self.out_layout!r}, dtype={self.dtype}"
        )


class Normalize(_Transform):
    """`normalize` as a transform: for a data set, in worker processes too, or inside a model.

    Args:
        mean: One number per channel, or one for all.
        std: One number per channel, or one for all; not 0.
        scale: See `normalize`.
        layout: Where images have their channels: ``"HWC"`` (as PIL and OpenCV have them) or
            ``"CHW"``.
        out_layout: Where the results have them.
        dtype: The results'.

    Example:
        >>> import numpy as np
        >>> transform = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        >>> transform(np.zeros((4, 5, 3), np.uint8)).shape
        torch.Size([3, 4, 5])
    """

    operation = "normalize"

    def __init__(
        self,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        *,
        scale: float | None = None,
        layout: str = "HWC",
        out_layout: str = "CHW",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """See the class."""
        super().__init__(mean, std, scale, layout, out_layout, dtype)


class Denormalize(_Transform):
    """`denormalize` as a transform: back to a picture.

    Args:
        mean: As `Normalize` had it.
        std: As `Normalize` had it.
        scale: See `denormalize`.
        layout: Where the inputs have their channels.
        out_layout: Where the results have them.
        dtype: The results'.

    Example:
        >>> import torch
        >>> Denormalize(0.5, 0.25)(torch.zeros(3, 1, 2)).tolist()
        [[[128, 128, 128], [128, 128, 128]]]
    """

    operation = "denormalize"

    def __init__(
        self,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        *,
        scale: float | None = None,
        layout: str = "CHW",
        out_layout: str = "HWC",
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        """See the class."""
        super().__init__(mean, std, scale, layout, out_layout, dtype)
