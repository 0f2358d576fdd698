"""What the functions of the NumPy front are given: any array as the kernels take it, with NumPy's
rules for numbers and sequences, and everything that is no array, each error with its operation and
argument.
"""

from __future__ import annotations

import operator
import sys
from typing import Any

import numpy as np
from numpy import ndarray

#: A NumPy array, or any array on the CPU with ``__dlpack__``; Python numbers and sequences of them,
#: and integers of NumPy, are float64, as NumPy has them.
Array = Any

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_FLOATING = ("float32", "float64", "bfloat16", "float16")
_NUMPY_2 = int(np.__version__.split(".")[0]) >= 2


# --- arrays


def as_array(value: Array, operation: str, argument: str, like: Array | None = None) -> Array:
    """An array of floats for a kernel, which refuses what is none.

    Args:
        value: An array passes, whatever its kind; integers and bools of NumPy become float64, as do
            Python numbers and sequences. Tables of pandas, polars or xarray are looked into, where
            that copies nothing.
        operation: For errors.
        argument: For errors.
        like: The array it goes with: Python numbers and sequences then take its dtype.

    Returns:
        An array.

    Raises:
        RuntimeError: It is a torch tensor whose graph would end here.
        TypeError: It holds no numbers, or a copy would be needed to read it.
        ValueError: Its rows have no common length, or a number is too large.

    Example:
        >>> as_array([1, 2], "relu", "x"), as_array(np.float32(3), "relu", "x").dtype
        (array([1., 2.]), dtype('float32'))
    """
    if type(value) is ndarray:
        dtype = value.dtype
        if dtype is _FLOAT32 or dtype is _FLOAT64:
            return value
    array = _as_any_array(value, operation, argument, like)
    return array.astype(np.float64) if _has_integers(array) else array


def as_optional(
    value: Array | None, operation: str, argument: str, like: Array | None = None
) -> Array | None:
    """`as_array`, or None."""
    return None if value is None else as_array(value, operation, argument, like)


def as_target(value: Array, operation: str, like: Array) -> Array:
    """Class indices, or probabilities: `as_array`, but integers stay what they are."""
    if type(value) is ndarray:
        return value
    return _as_any_array(value, operation, "target", like, integers=True)


def as_pixels(value: Array, operation: str) -> Array:
    """An image: `as_array`, but arrays of integers stay what they are."""
    return value if isinstance(value, ndarray) else as_array(value, operation, "x")


def as_output(value: Array | None, operation: str, argument: str = "out") -> Array | None:
    """Where a kernel will write, which it refuses where that is no array.

    torch counts the write, so that a backward that needs the old values raises its error.

    Raises:
        RuntimeError: It is a torch tensor that requires grad.
    """
    if value is None or type(value) is ndarray:
        return value
    if is_torch_tensor(value, operation, argument) and not value.is_inference():
        sys.modules["torch"].autograd.graph.increment_version(value)
    return value


def _has_integers(array: Array) -> bool:
    return isinstance(array, ndarray) and array.dtype.kind in "biu"


def _as_any_array(
    value: Array, operation: str, argument: str, like: Array | None, *, integers: bool = False
) -> Array:
    if isinstance(value, (ndarray, np.generic)):
        return value if isinstance(value, ndarray) else np.asarray(value)
    if isinstance(value, (int, float, complex, list, tuple)):
        array = _from_python(value, operation, argument)
        return array if integers and array.dtype.kind in "iu" else _cast_like(array, like)
    if is_torch_tensor(value, operation, argument) or hasattr(type(value), "__dlpack__"):
        return value
    if hasattr(type(value), "__array__"):
        return _from_table(value, operation, argument)
    return value


def _from_python(value: Any, operation: str, argument: str) -> Any:
    """NumPy's array of numbers or sequences."""
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O" and isinstance(value, int):
            array = np.asarray(number(value, operation, argument))
    except (TypeError, ValueError, RuntimeError) as error:
        if str(error).startswith(operation):
            raise
        raise ValueError(
            f"{operation}: {argument}: expected numbers, in rows of one length, got a "
            f"{type(value).__name__} of something else"
        ) from None
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{operation}: {argument}: expected real numbers, got a {type(value).__name__} of "
            f"dtype {array.dtype}"
        )
    return array


def _cast_like(array: Any, like: Array | None) -> Array:
    """Of the dtype of `like`, if that is a float's."""
    name = str(getattr(like, "dtype", "")).rpartition(".")[2]
    if name not in _FLOATING or name == array.dtype.name:
        return array
    if name == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    return array.astype(name)


def _from_table(value: Any, operation: str, argument: str) -> Array:
    """The memory of a table: of pandas, polars, xarray or whatever NumPy can view."""
    try:
        array = np.asarray(value, copy=False) if _NUMPY_2 else np.asarray(value)
    except Exception:  # whatever its library raises where it would have to copy
        array = None
    if array is not None and array.dtype.kind != "O":
        return array
    instead = "its .to_numpy()" if hasattr(value, "to_numpy") else "a NumPy array made of it"
    raise TypeError(
        f"{operation}: {argument}: expected an array, got {type_text(value)}, whose values lie in "
        f"memory otherwise; pass {instead}"
    )


def is_torch_tensor(value: Any, operation: str, argument: str) -> bool:
    """Whether it is one, of which a graph of autograd's may be left behind."""
    torch = sys.modules.get("torch")
    kind = getattr(torch, "Tensor", None)
    if torch is None or kind is None or not isinstance(value, kind):
        return False
    if value.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            f"{operation}: {argument}: expected an array that needs no gradient, got a torch "
            "tensor that requires grad, whose graph would end here; use dlkernels.torch, whose "
            "functions autograd knows, or detach() it, or call this under torch.no_grad()"
        )
    return True


# --- what is no array


def type_text(value: Any) -> str:
    """The type of something, for errors.

    Example:
        >>> type_text(np.float32(1)), type_text("a"), type_text(None)
        ('numpy.float32', 'str', 'None')
    """
    if value is None:
        return "None"
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def number(value: Any, operation: str, argument: str) -> float:
    """What float() takes, but for text.

    Raises:
        TypeError: It is no number.
        ValueError: It is an integer beyond float64.

    Example:
        >>> number(2, "elu", "alpha")
        2.0
    """
    if type(value) is float:
        return value
    try:
        if not isinstance(value, (str, bytes, bytearray)):
            return float(value)
    except OverflowError:
        raise ValueError(
            f"{operation}: {argument}: expected a number that float64 can hold, got a larger one"
        ) from None
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(f"{operation}: {argument}: expected a number, got {type_text(value)}")


def integer(value: Any, operation: str, argument: str) -> int:
    """What may be an index.

    Raises:
        TypeError: It is no integer.
    """
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{operation}: {argument}: expected an integer, got {type_text(value)}"
        ) from None


def flag(value: Any, operation: str, argument: str) -> bool:
    """A bool, of NumPy too, or an integer.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, (bool, int, np.bool_)):
        return bool(value)
    raise TypeError(f"{operation}: {argument}: expected a bool, got {type_text(value)}")
