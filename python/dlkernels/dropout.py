"""Dropout for NumPy arrays and anything with ``__dlpack__``, by a counter-based generator.

Whether an element is kept is a function of the seed and of the element's place in the array,
counted as if it were row-major: the same on every machine and instruction set, for any number of
threads, dtype and strides. So nothing has to be kept for the backward functions: they take the same
seed and draw the mask again.

Element ``e`` has the ``e % 8``-th number of 16 bits of block ``e // 8`` of Philox 4x32-10 (Salmon
et al., SC 2011) under the seed as key, and is kept where that number is less than
``(1 - p) * 65536``, rounded to a whole number: the fraction kept is ``1 - p`` to within 2^-17.

What is dropped becomes 0 (`alpha_dropout`: what stands for it) whatever it was, and so does its
gradient: infinity and NaN too, where torch multiplies by 0 and has NaN.
"""

from __future__ import annotations

import operator
from typing import Any

from dlkernels import _core
from dlkernels._arguments import (
    Array,
    as_array,
    as_optional,
    as_output,
    flag,
    number,
    type_text,
)
from dlkernels.activations import ACTIVATIONS, _choice

__all__ = [
    "alpha_dropout",
    "alpha_dropout_backward",
    "bias_act_dropout",
    "bias_act_dropout_backward",
    "dropout",
    "dropout1d",
    "dropout1d_backward",
    "dropout2d",
    "dropout2d_backward",
    "dropout3d",
    "dropout3d_backward",
    "dropout_add",
    "dropout_add_backward",
    "dropout_backward",
    "feature_alpha_dropout",
    "feature_alpha_dropout_backward",
]


def seed_bits(operation: str, seed: Any) -> int:
    """A seed as the kernels take it: 64 bits.

    Args:
        operation: For the error.
        seed: Any whole number in [-2^63, 2^64); a negative one counts from the end.

    Returns:
        A number in [0, 2^64).

    Raises:
        TypeError: It is no whole number.
        ValueError: It has more than 64 bits.

    Example:
        >>> seed_bits("dropout", -1) == 2**64 - 1
        True
    """
    try:
        value = operator.index(seed)
    except (TypeError, ValueError, RuntimeError):
        got = type_text(seed)
        raise TypeError(f"{operation}: seed: expected a whole number, got {got}") from None
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"{operation}: seed: expected a number of 64 bits, got {value}")
    return value % 2**64


def _checked_p(operation: str, p: float) -> float:
    value = number(p, operation, "p")
    if not 0 <= value <= 1:
        raise ValueError(f"{operation}: p: expected a probability in [0, 1], got {p}")
    return value


def _used_p(operation: str, p: float, training: bool) -> float:
    """The probability to drop, 0 where not training."""
    p = _checked_p(operation, p)
    return p if flag(training, operation, "training") else 0.0


def _run(
    operation: str,
    x: Array,
    out: Array | None,
    p: float,
    training: bool,
    seed: Any,
    *,
    alpha: bool = False,
    plane_dims: int = 0,
    ndim: int = 0,
    backward: bool = False,
) -> Any:
    """What every function here but the fused ones does."""
    p = _checked_p(operation, p)
    x = as_array(x, operation, "grad_output" if backward else "input")
    if not flag(training, operation, "training") or p == 0:
        if out is None:
            return x
        alpha, p, bits = False, 0.0, 0
    else:
        bits = seed_bits(operation, seed)
    return _core.dropout(
        operation,
        x,
        None,
        as_output(out, operation),
        bits,
        p,
        alpha,
        plane_dims,
        ndim,
        backward,
        None,
        False,
    )


_FORWARD = """{summary}

Args:
    x: {x}, floating.
    p: The probability to drop, in [0, 1]{at_one}.
    training: If false, `x` is the result, as it is where `p` is 0.
    seed: A number of 64 bits; wanted in training. The same one gives the same mask.
    out: Where the result goes, of x's shape and dtype; may be ``x`` itself.

Returns:
    An array like ``x`` (or ``out``); ``x`` itself where nothing is done.

Raises:
    TypeError: The dtype is not floating, or `seed` no whole number.
    ValueError: `p` is no probability{dimensions};
        `out` has another shape, is read-only or overlaps `x` in part.

Example:
    >>> import numpy as np
    >>> {name}({example}, seed=1){shown}.tolist()
    {y}
"""

_BACKWARD = """Gradient of `{name}`: {gradient}.

Args:
    grad_output: The gradient of the result.
    p: As `{name}` had it.
    training: As `{name}` had it.
    seed: As `{name}` had it.

Returns:
    An array like ``grad_output``; itself where `{name}` did nothing.

Raises:
    TypeError: The dtype is not floating, or `seed` no whole number.
    ValueError: `p` is no probability{dimensions}.

Example:
    >>> import numpy as np
    >>> {name}_backward({example}, seed=1){shown}.tolist()
    {dx}
"""


def _define(
    name: str,
    summary: str,
    *,
    gradient: str = "the same mask and factor on `grad_output`",
    x: str = "Any shape",
    dimensions: str = "",
    example: str = "np.ones(8)",
    shown: str = "",
    alpha: bool = False,
    plane_dims: int = 0,
    ndim: int = 0,
) -> tuple[Any, Any]:
    """Makes a dropout and its gradient: `alpha` and what follows is for the kernel, the rest for
    their docstrings.

    Args:
        name: Its name.
        summary: The first lines.
        gradient: What the gradient is.
        x: The input's shape.
        dimensions: The error of another one.
        example: An input.
        shown: What of the result is shown.
        alpha: Whether it is SELU's.
        plane_dims: Of whole planes: how many dimensions come before one.
        ndim: How many there must be.
    """
    backward_name = f"{name}_backward"

    def forward(
        x: Array,
        p: float = 0.5,
        training: bool = True,
        *,
        seed: int | None = None,
        out: Array | None = None,
    ) -> Any:
        return _run(name, x, out, p, training, seed, alpha=alpha, plane_dims=plane_dims, ndim=ndim)

    def backward(
        grad_output: Array, p: float = 0.5, training: bool = True, *, seed: int | None = None
    ) -> Any:
        return _run(
            backward_name, grad_output, None, p, training, seed,
            alpha=alpha, plane_dims=plane_dims, ndim=ndim, backward=True,
        )  # fmt: skip

    texts = {
        "name": name,
        "summary": summary,
        "gradient": gradient,
        "x": x,
        "dimensions": f"; {dimensions}" if dimensions else "",
        "at_one": "; where it is 1, ``x * 0`` is the result" if alpha else "",
        "example": example,
        "shown": shown,
        "y": [1.6656, -0.7792] * 2 if alpha else [2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 0.0, 0.0],
        "dx": [0.8864, 0.0] * 2 if alpha else [2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 0.0, 0.0],
    }
    forward.__name__ = forward.__qualname__ = name
    backward.__name__ = backward.__qualname__ = backward_name
    forward.__doc__ = _FORWARD.format(**texts)
    backward.__doc__ = _BACKWARD.format(**texts)
    return forward, backward


dropout, dropout_backward = _define(
    "dropout",
    "Sets elements to 0 with probability `p` and multiplies the others by ``1 / (1 - p)``\n"
    "(`torch.nn.functional.dropout`).",
)


def _define_channels(dimensions: int, letters: str) -> tuple[Any, Any]:
    """`dropout1d` and its like: planes of so many dimensions are kept or dropped as a whole."""
    name = f"dropout{dimensions}d"
    return _define(
        name,
        f"`dropout` of whole channels: `torch.nn.functional.{name}` of a batch.",
        x=f"``(N, C, {letters})``",
        dimensions="`x` has another number of dimensions",
        example=f"np.ones((1, 8{', 1' * dimensions}))",
        shown=f"[0, :{', 0' * dimensions}]",
        plane_dims=2,
        ndim=dimensions + 2,
    )


dropout1d, dropout1d_backward = _define_channels(1, "L")
dropout2d, dropout2d_backward = _define_channels(2, "H, W")
dropout3d, dropout3d_backward = _define_channels(3, "D, H, W")

alpha_dropout, alpha_dropout_backward = _define(
    "alpha_dropout",
    "Dropout that keeps the mean 0 and variance 1 that SELU makes: elements become SELU's lower\n"
    "limit, -1.7581, then all are scaled and shifted (`torch.nn.functional.alpha_dropout`, whose\n"
    "`training` is false unless said otherwise).",
    gradient="the scale where an element was kept, else 0",
    example="np.ones(4)",
    shown=".round(4)",
    alpha=True,
)

feature_alpha_dropout, feature_alpha_dropout_backward = _define(
    "feature_alpha_dropout",
    "`alpha_dropout` of whole channels (`torch.nn.functional.feature_alpha_dropout`).",
    gradient="the scale where a channel was kept, else 0",
    x="``(N, C, ...)``, at least two dimensions",
    dimensions="there are fewer than two dimensions",
    example="np.ones((1, 4, 3))",
    shown="[0, :, 2].round(4)",
    alpha=True,
    plane_dims=2,
)


def dropout_add(
    x: Array,
    residual: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    out: Array | None = None,
) -> Any:
    """``dropout(x) + residual`` in one pass, rounded once.

    Args:
        x: Any shape, floating.
        residual: Of x's shape and dtype.
        p: The probability to drop, in [0, 1].
        training: If false, ``x + residual`` is the result.
        seed: A number of 64 bits; wanted in training unless `p` is 0.
        out: Where the result goes, of x's shape and dtype; may be ``x`` or ``residual`` itself.

    Returns:
        An array like ``x`` (or ``out``).

    Raises:
        TypeError: A dtype is not floating or they differ, or `seed` is no whole number.
        ValueError: The shapes differ; as `dropout`.

    Example:
        >>> import numpy as np
        >>> dropout_add(np.ones(4), np.full(4, 0.25), 0.5, seed=1).tolist()
        [2.25, 0.25, 2.25, 0.25]
    """
    if residual is None:
        raise TypeError("dropout_add: residual: expected an array, got None")
    p = _used_p("dropout_add", p, training)
    bits = seed_bits("dropout_add", seed) if p else 0
    x = as_array(x, "dropout_add", "input")
    residual = as_array(residual, "dropout_add", "residual", x)
    out = as_output(out, "dropout_add")
    return _core.dropout("dropout_add", x, residual, out, bits, p, False, 0, 0, False, None, False)


def dropout_add_backward(
    grad_output: Array, p: float = 0.5, training: bool = True, *, seed: int | None = None
) -> tuple[Any, Any]:
    """Gradients of `dropout_add` for ``x`` and for ``residual``, which is `grad_output` itself.

    Args:
        grad_output: The gradient of the result.
        p: As `dropout_add` had it.
        training: As `dropout_add` had it.
        seed: As `dropout_add` had it.

    Returns:
        Two arrays like ``grad_output``.

    Raises:
        TypeError: The dtype is not floating, or `seed` no whole number.
        ValueError: `p` is no probability.

    Example:
        >>> import numpy as np
        >>> dx, dresidual = dropout_add_backward(np.ones(4), 0.5, seed=1)
        >>> dx.tolist(), dresidual.tolist()
        ([2.0, 0.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    """
    grad_output = as_array(grad_output, "dropout_add_backward", "grad_output")
    dx = _run("dropout_add_backward", grad_output, None, p, training, seed, backward=True)
    return dx, grad_output


def activation_numbers(activation: str, parameters: dict[str, Any]) -> tuple[int, float, float]:
    """An activation by its name and arguments as the kernels take it.

    Args:
        activation: Its name.
        parameters: Its arguments by name, defaults where they are missing.

    Returns:
        Its index and its two numbers.

    Raises:
        TypeError: It has no argument of a name, or needs one.
        ValueError: There is no such activation, or an argument is none of its choices.

    Example:
        >>> activation_numbers("relu", {})[1:]
        (0.0, 0.0)
    """
    row = ACTIVATIONS.get(activation) if isinstance(activation, str) else None
    if row is None:
        names = ", ".join(sorted(ACTIVATIONS))
        got = repr(activation) if isinstance(activation, str) else type_text(activation)
        raise ValueError(f"bias_act_dropout: activation: expected one of {names}; got {got}")
    unknown = parameters.keys() - {parameter.name for parameter in row.parameters}
    if unknown:
        raise TypeError(
            f"bias_act_dropout: {activation} has no argument {', '.join(sorted(unknown))}"
        )
    numbers = []
    for parameter in row.parameters:
        value = parameters.get(parameter.name, parameter.default)
        if value is parameter.argument.empty:
            raise TypeError(f"bias_act_dropout: {activation} needs its argument {parameter.name}")
        numbers.append(
            _choice(activation, parameter.name, parameter.choices, value)
            if parameter.choices
            else number(value, "bias_act_dropout", parameter.name)
        )
    first, second = [*numbers, 0.0, 0.0][:2]
    return row.index, first, second


def bias_act_dropout(
    x: Array,
    bias: Array | None,
    activation: str = "relu",
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    out: Array | None = None,
    **parameters: Any,
) -> Any:
    """``dropout(activation(x + bias))`` in one pass, rounded once.

    Args:
        x: ``(..., C)``, floating.
        bias: ``(C,)``, of x's dtype; None for none.
        activation: The name of an activation of this package.
        p: The probability to drop, in [0, 1].
        training: If false, nothing is dropped.
        seed: A number of 64 bits; wanted in training unless `p` is 0.
        out: Where the result goes, of x's shape and dtype; may be ``x`` itself.
        parameters: The activation's own arguments, by name.

    Returns:
        An array like ``x`` (or ``out``).

    Raises:
        TypeError: A dtype is not floating or they differ; `seed` is no whole number; an argument of
            the activation is missing or unknown.
        ValueError: The shapes do not fit; there is no such activation; as `dropout`.

    Example:
        >>> import numpy as np
        >>> x = np.array([[1.0, 2.0, 3.0, -4.0]])
        >>> bias_act_dropout(x, np.ones(4), "relu", 0.5, seed=1).tolist()
        [[4.0, 0.0, 8.0, 0.0]]
    """
    p = _used_p("bias_act_dropout", p, training)
    bits = seed_bits("bias_act_dropout", seed) if p else 0
    numbers = activation_numbers(activation, parameters)
    x = as_array(x, "bias_act_dropout", "input")
    bias = as_optional(bias, "bias_act_dropout", "bias", x)
    out = as_output(out, "bias_act_dropout")
    return _core.bias_act_dropout(x, bias, out, bits, p, *numbers)


def bias_act_dropout_backward(
    grad_output: Array,
    x: Array,
    bias: Array | None,
    activation: str = "relu",
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    **parameters: Any,
) -> tuple[Any, Any]:
    """Gradients of `bias_act_dropout` for ``x`` and for ``bias``.

    Args:
        grad_output: The gradient of the result, of its shape and dtype.
        x: As `bias_act_dropout` had it.
        bias: As `bias_act_dropout` had it.
        activation: As `bias_act_dropout` had it.
        p: As `bias_act_dropout` had it.
        training: As `bias_act_dropout` had it.
        seed: As `bias_act_dropout` had it.
        parameters: As `bias_act_dropout` had them.

    Returns:
        An array like ``x``, and one like ``bias`` (summed in float64) or None without a bias.

    Raises:
        TypeError: As `bias_act_dropout`.
        ValueError: As `bias_act_dropout`.

    Example:
        >>> import numpy as np
        >>> x = np.array([[1.0, 2.0, 3.0, -4.0]])
        >>> dx, dbias = bias_act_dropout_backward(np.ones((1, 4)), x, np.ones(4), seed=1)
        >>> dx.tolist(), dbias.tolist()
        ([[2.0, 0.0, 2.0, 0.0]], [2.0, 0.0, 2.0, 0.0])
    """
    operation = "bias_act_dropout_backward"
    p = _used_p(operation, p, training)
    bits = seed_bits(operation, seed) if p else 0
    numbers = activation_numbers(activation, parameters)
    x = as_array(x, operation, "input")
    bias = as_optional(bias, operation, "bias", x)
    grad_output = as_array(grad_output, operation, "grad_output", x)
    dx, dbias = _core.bias_act_dropout_backward(grad_output, x, bias, bits, p, *numbers)
    return dx, dbias
