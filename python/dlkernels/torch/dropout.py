"""The dropouts' twins: functions for `functional`, modules for `nn`, operators for compiled graphs.

A call draws one number from torch's default generator (or from ``generator=``), or takes ``seed=``,
and that number makes the mask: see `dlkernels.dropout`. So masks follow `torch.manual_seed` and are
drawn again by activation checkpointing; they are not those that torch draws from the same seed. For
backward a bit per element is kept, in compiled graphs the number alone.

What is dropped becomes 0 whatever it was, and so does its gradient: infinity and NaN too, where
torch multiplies by 0 and has NaN. (Tensors that go to torch's own function get what that gives.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import increment_version

from dlkernels import _core
from dlkernels._arguments import flag, number
from dlkernels.dropout import activation_numbers, seed_bits
from dlkernels.torch import _layout as layout
from dlkernels.torch import activations
from dlkernels.torch._differentiate import differentiate_chosen
from dlkernels.torch._eager import Function, is_first_order
from dlkernels.torch._operator import REFUSED, Operation, Twin, operands
from dlkernels.torch._route import (
    KERNEL,
    OPERATOR,
    TORCH,
    check_in_place,
    check_tensors,
    is_batched,
    is_plain,
    route,
)
from dlkernels.torch._tools import Proxy, as_leaf

__all__ = ["TWINS"]

#: What a draw is below; every draw takes one number from the generator.
_SEEDS = 2**63 - 1

_CPU = torch.device("cpu")

# --- seeds


def _draw(generator: torch.Generator | None) -> Tensor:
    """One number of the generator's, or of the default one's."""
    if generator is None:
        return torch.randint(_SEEDS, (), dtype=torch.int64, device=_CPU)
    device = generator.device
    return torch.randint(_SEEDS, (), generator=generator, dtype=torch.int64, device=device)


def _seed_number(seed: Any, generator: torch.Generator | None) -> int:
    """The seed of a call, as the kernels take it."""
    if seed is None:
        drawn = _draw(generator)
        # A generator may be another device's.
        return _core.number_of(drawn) if generator is None else int(drawn.item())
    if isinstance(seed, Tensor):
        return _number_of(seed)
    return seed_bits("dropout", seed)


def _number_of(seed: Tensor) -> int:
    return int(seed.item()) % 2**64


def _seed_tensor(seed: Any, generator: torch.Generator | None) -> Tensor:
    """The same for a compiled graph, which has it as a tensor."""
    if seed is None:
        return _draw(generator)
    if isinstance(seed, Tensor):
        return seed
    if not isinstance(seed, int):
        raise TypeError(f"dropout: seed: expected a whole number, got {seed!r}")
    number = seed if seed <= _SEEDS else seed - 2**64
    return torch.full((), number, dtype=torch.int64, device="cpu")


def _check(p: float, seed: Any, generator: torch.Generator | None) -> None:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if seed is not None and generator is not None:
        raise ValueError("dropout: seed and generator: expected one of them, got both")


# --- dropout and its relatives: `kind` is (alpha, plane_dims), as the kernel takes them


def _kernel(input: Tensor, out: Tensor | None, arguments: Any, backward: bool) -> Tensor:
    seed, p, alpha, plane_dims = arguments
    result: Tensor = _core.dropout(
        "dropout", input, None, out, seed, p, alpha, plane_dims, 0, backward, None, False
    )
    return result


def _factors(input: Tensor, arguments: Any) -> tuple[Tensor, Tensor | None]:
    """What the kernel multiplies an input like this by, and what it adds, as tensors."""
    seed, p, alpha, plane_dims = arguments
    shape = tuple(input.shape[:plane_dims] if plane_dims else input.shape)
    spread = (*shape, *[1] * (input.dim() - len(shape)))
    dtype = input.dtype
    # Made by NumPy: inside a transform a new tensor of torch's may be no plain one.
    made = np.float64 if dtype is torch.float64 else np.float32

    def as_input(values: Any, backward: bool) -> Tensor:
        result = _core.dropout(
            "dropout", values, None, None, seed, p, alpha, 0, 0, backward, None, False
        )
        return (
            torch.from_numpy(np.asarray(result)).view(spread).to(device=input.device, dtype=dtype)
        )

    factor = as_input(np.ones(shape, made), True)
    return factor, as_input(np.zeros(shape, made), False) if alpha else None


def _scaled(values: Tensor, factor: Tensor) -> Tensor:
    """The product; 0 where the factor is, whatever is dropped."""
    return torch.where(factor != 0, values * factor, 0.0)


def _in_torch(input: Tensor, arguments: Any, inplace: bool) -> Tensor:
    """The same in torch's operations, for tensors that no kernel takes."""
    factor, shift = _factors(input, arguments)
    if inplace:
        output = input.mul_(factor).masked_fill_(factor == 0, 0.0)
    else:
        output = _scaled(input, factor)
    if shift is None:
        return output
    return output.add_(shift) if inplace else output + shift


class _Dropout(Function):
    """Saves one bit per element."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, inplace: bool, arguments: Any) -> Tensor:
        out = input if inplace else None
        seed, p, alpha, plane_dims = arguments
        # The bits of what was kept, too: reading them is faster than drawing again. None for
        # planes, whose few bits are drawn at once.
        output: Tensor
        output, kept = _core.dropout(
            "dropout", input, None, out, seed, p, alpha, plane_dims, 0, False, None, True
        )
        if inplace:
            ctx.mark_dirty(input)
            output = input
        ctx.arguments = arguments
        ctx.save_for_backward(kept)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        seed, p, alpha, plane_dims = arguments = ctx.arguments
        (kept,) = ctx.saved_tensors
        if not is_first_order(grad_output):
            return _recorded_gradient(grad_output, arguments), None, None
        grad = _core.dropout(
            "dropout", grad_output.resolve_neg(), None, None, seed, p, alpha, plane_dims, 0, True,
            kept, False,
        )  # fmt: skip
        return grad, None, None


def _recorded_gradient(grad_output: Tensor, arguments: Any) -> Tensor:
    """The gradient where it is differentiated again, or for a batch of them."""
    if is_batched(grad_output):
        return _scaled(grad_output, _factors(grad_output, arguments)[0])
    seed, *others = arguments
    gradient: Tensor = _GRADIENT.operator(grad_output, _seed_tensor(seed, None), *others)
    return gradient


def _run(
    theirs: Callable[..., Tensor],
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    seed: Any,
    generator: torch.Generator | None,
    alpha: bool = False,
    plane_dims: int = 0,
) -> Tensor:
    """What every twin does; `theirs` is torch's function."""
    if p < 0.0 or p > 1.0 or generator is not None:
        _check(p, seed, generator)
    if type(training) is not bool:
        return theirs(input, p, training, inplace)  # its error
    way = KERNEL if is_plain(input) else route(input)
    if p != p or not isinstance(input, Tensor) or not input.dtype.is_floating_point:
        return theirs(input, p, training, inplace)  # its errors
    if way == TORCH and seed is None and generator is None:
        return theirs(input, p, training, inplace)
    if not training or p == 0 or input.numel() == 0:
        return input
    if input.dim() < plane_dims:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    if way == OPERATOR:
        number = _seed_tensor(seed, generator)
        output: Tensor = _DROPOUT.operator(input, number, p, alpha, plane_dims)
        return input.copy_(output) if inplace else output
    arguments = (_seed_number(seed, generator), p, alpha, plane_dims)
    if way == KERNEL and inplace and not activations.may_overwrite(input):
        check_in_place(input)
        way = TORCH
    if way == TORCH:
        return _in_torch(input, arguments, inplace)
    try:
        if input.requires_grad and torch.is_grad_enabled():
            output = _Dropout.call(input, inplace, arguments)
            return output
        output = _kernel(input, input if inplace else None, arguments, False)
    except REFUSED:
        return _in_torch(input, arguments, inplace)
    if not inplace:
        return output
    if not input.is_inference():
        increment_version(input)
    return input


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`torch.nn.functional.dropout`: elements become 0 with probability `p`, the others are
    multiplied by ``1 / (1 - p)``. What is dropped is 0 and has a gradient of 0 even if it is
    infinite or NaN, where torch has NaN.

    The mask is a function of a seed and of the element's place, whatever the memory format, dtype
    or number of threads; it is not the one that torch makes from the same `torch.manual_seed`.
    torch.compile draws its seeds in its own way; there, ``seed=`` may be a tensor and there is no
    ``generator=``.

    Args:
        input: Any shape, in any memory format.
        p: The probability to drop, in [0, 1].
        training: If false, `input` is the result, as it is where `p` is 0.
        inplace: Write the result over ``input``.
        seed: A number of 64 bits (or a tensor of one) that decides the mask; if None, one is drawn.
        generator: Where it is drawn from, instead of torch's default generator.

    Returns:
        A tensor like ``input``; ``input`` itself where nothing is done.

    Raises:
        ValueError: `p` is no probability, or both `seed` and `generator` are given.

    Example:
        >>> import torch
        >>> dropout(torch.ones(8), 0.5, seed=1).tolist()
        [2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    """
    return _run(F.dropout, input, p, training, inplace, seed, generator)


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`torch.nn.functional.alpha_dropout`, which keeps the mean 0 and variance 1 that SELU makes.

    Args:
        input: Any shape, in any memory format.
        p: The probability to drop, in [0, 1].
        training: If false, `input` is the result, as it is where `p` is 0.
        inplace: Write the result over ``input``.
        seed: As in `dropout`.
        generator: As in `dropout`.

    Returns:
        A tensor like ``input``; ``input`` itself where nothing is done.

    Raises:
        ValueError: As `dropout`.

    Example:
        >>> import torch
        >>> alpha_dropout(torch.ones(3), 0.5, True, seed=1).tolist()
        [1.6655..., -0.7791..., 1.6655...]
    """
    return _run(F.alpha_dropout, input, p, training, inplace, seed, generator, alpha=True)


def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`torch.nn.functional.feature_alpha_dropout`: `alpha_dropout` of whole channels.

    Args:
        input: ``(N, C, ...)``, in any memory format.
        p: The probability to drop, in [0, 1].
        training: If false, `input` is the result, as it is where `p` is 0.
        inplace: Write the result over ``input``.
        seed: As in `dropout`.
        generator: As in `dropout`.

    Returns:
        A tensor like ``input``; ``input`` itself where nothing is done.

    Raises:
        RuntimeError: There are fewer than two dimensions.
        ValueError: As `dropout`.

    Example:
        >>> import torch
        >>> feature_alpha_dropout(torch.ones(1, 2, 2), 0.5, True, seed=1)[0, :, 0].tolist()
        [1.6655..., -0.7791...]
    """
    return _run(
        F.feature_alpha_dropout, input, p, training, inplace, seed, generator, True, plane_dims=2
    )


_FEATURES = """`torch.nn.functional.{name}`: `dropout` of whole channels.

Args:
    input: ``{shape}``, in any memory format.
    p: The probability to drop, in [0, 1].
    training: If false, `input` is the result, as it is where `p` is 0.
    inplace: Write the result over ``input``.
    seed: As in `dropout`.
    generator: As in `dropout`.

Returns:
    A tensor like ``input``; ``input`` itself where nothing is done.

Raises:
    RuntimeError: As torch.
    ValueError: As `dropout`.

Example:
    >>> import torch
    >>> {name}(torch.ones({sizes}), seed=1)[{at}].tolist()
    [2.0, 0.0, 2.0, 0.0]
"""


def _feature_dropout(dimensions: int, shape: str, usual: tuple[int, ...], batched: Any) -> Any:
    """`dropout1d` and its like: `usual` numbers of dimensions need none of torch's warnings;
    `batched` of them start with the batch.
    """
    name = f"dropout{dimensions}d"
    theirs = getattr(F, name)

    def function(
        input: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        plane_dims = 2
        if isinstance(input, Tensor):
            ndim = input.dim()
            if ndim not in usual:
                theirs(input, p, False)  # its warnings and errors
            plane_dims = 2 if batched(ndim) else 1
        return _run(theirs, input, p, training, inplace, seed, generator, plane_dims=plane_dims)

    function.__name__ = function.__qualname__ = name
    ones = ["1"] * dimensions
    function.__doc__ = _FEATURES.format(
        name=name,
        shape=shape,
        sizes=", ".join(["1", "4", *ones]),
        at=", ".join(["0", ":", *["0"] * dimensions]),
    )
    return function


dropout1d = _feature_dropout(1, "(N, C, L) or (C, L)", (2, 3), lambda ndim: ndim == 3)
dropout2d = _feature_dropout(2, "(N, C, H, W)", (4,), lambda ndim: True)
dropout3d = _feature_dropout(3, "(N, C, D, H, W) or (C, D, H, W)", (4, 5), lambda ndim: ndim == 5)

# --- dropout_add


def dropout_add(
    input: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``dropout(input) + residual`` in one pass, rounded once.

    Args:
        input: Any shape, in any memory format.
        residual: Of the input's shape and dtype.
        p: The probability to drop, in [0, 1].
        training: If false, nothing is dropped.
        seed: As in `dropout`.
        generator: As in `dropout`.

    Returns:
        A tensor like ``input``.

    Raises:
        ValueError: The shapes differ; as `dropout`.

    Example:
        >>> import torch
        >>> dropout_add(torch.ones(4), torch.full((4,), 0.25), 0.5, seed=1).tolist()
        [2.25, 0.25, 2.25, 0.25]
    """
    way = KERNEL
    plain = residual is not None and is_plain(input, residual)
    if not (plain and type(p) is float and type(training) is bool):
        check_tensors("dropout_add", input=input, residual=residual)
        p, training = number(p, "dropout_add", "p"), flag(training, "dropout_add", "training")
        way = route(input, residual)
    _check(p, seed, generator)
    if input.shape != residual.shape:
        raise ValueError(
            f"dropout_add: residual: expected shape {tuple(input.shape)}, got "
            f"{tuple(residual.shape)}"
        )
    if not training or p == 0:
        p, seed, generator = 0.0, 0, None
    if residual.dtype is not input.dtype:
        way = TORCH
    if way == OPERATOR:
        drawn = _seed_tensor(seed, generator)
        output: Tensor = _ADD.operator(input, residual, drawn, p)
        return output
    arguments = (_seed_number(seed, generator), p, False, 0)
    if way == KERNEL:
        try:
            if torch.is_grad_enabled() and (input.requires_grad or residual.requires_grad):
                output = _DropoutAdd.call(input, residual, arguments)
                return output
            return _add_kernel(input, residual, arguments)
        except REFUSED:
            pass
    return _in_torch(input, arguments, False) + residual


def _add_kernel(input: Tensor, residual: Tensor, arguments: Any) -> Tensor:
    seed, p, _, _ = arguments
    output: Tensor = _core.dropout(
        "dropout_add", input, residual, None, seed, p, False, 0, 0, False, None, False
    )
    return output


class _DropoutAdd(Function):
    """Saves one bit per element."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, residual: Tensor, arguments: Any) -> Tensor:
        seed, p, *_ = ctx.arguments = arguments
        output: Tensor
        output, kept = _core.dropout(
            "dropout_add", input, residual, None, seed, p, False, 0, 0, False, None, True
        )
        ctx.save_for_backward(kept)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        wanted, residual_wanted, _ = ctx.needs_input_grad
        grad = _Dropout.backward(ctx, grad_output)[0] if wanted else None
        return grad, grad_output if residual_wanted else None, None


# --- bias_act_dropout: `numbers` are the activation's index and its two numbers


def bias_act_dropout(
    input: Tensor,
    bias: Tensor | None,
    activation: str = "relu",
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    **parameters: Any,
) -> Tensor:
    """``dropout(activation(input + bias))`` in one pass, rounded once; backward reads the input
    alone.

    Args:
        input: ``(..., C)``, such as a linear layer's result without its bias.
        bias: ``(C,)``, of the input's dtype; None for none.
        activation: The name of an activation of `functional`.
        p: The probability to drop, in [0, 1].
        training: If false, nothing is dropped.
        seed: As in `dropout`.
        generator: As in `dropout`.
        parameters: The activation's own arguments, by name.

    Returns:
        A tensor like ``input``.

    Raises:
        TypeError: An argument of the activation is missing or unknown.
        ValueError: There is no such activation, the shapes do not fit; as `dropout`.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 2.0, 3.0, -4.0]])
        >>> bias_act_dropout(x, torch.ones(4), "relu", 0.5, seed=1).tolist()
        [[4.0, 0.0, 8.0, 0.0]]
    """
    numbers = activation_numbers(activation, parameters)
    way = KERNEL
    if not (is_plain(input, bias) and type(p) is float and type(training) is bool):
        check_tensors("bias_act_dropout", input=input, bias=input if bias is None else bias)
        p = number(p, "bias_act_dropout", "p")
        training = flag(training, "bias_act_dropout", "training")
        way = route(input, bias)
    _check(p, seed, generator)
    if bias is not None and bias.shape != input.shape[-1:]:
        raise ValueError(
            f"bias_act_dropout: bias: expected shape {tuple(input.shape[-1:])}, got "
            f"{tuple(bias.shape)}"
        )
    if not training or p == 0:
        p, seed, generator = 0.0, 0, None
    if input.dim() == 0 or (bias is not None and bias.dtype is not input.dtype):
        way = TORCH
    if way == OPERATOR:
        drawn = _seed_tensor(seed, generator)
        output: Tensor = _BIAS_ACT.operator(input, bias, drawn, p, *numbers)
        return output
    arguments = (_seed_number(seed, generator), p, *numbers)
    if way == KERNEL:
        try:
            wants = input.requires_grad or (bias is not None and bias.requires_grad)
            if wants and torch.is_grad_enabled():
                output = _BiasActDropout.call(input, bias, arguments)
                return output
            return _bias_act_kernel(input, bias, arguments)
        except REFUSED:
            pass
    return _bias_act_in_torch(input, bias, numbers, _bias_act_factor(input, arguments))


def _bias_act_factor(input: Tensor, arguments: Any) -> Tensor:
    seed, p, *_ = arguments
    return _factors(input, (seed, p, False, 0))[0]


def _bias_act_kernel(input: Tensor, bias: Tensor | None, arguments: Any) -> Tensor:
    output: Tensor = _core.bias_act_dropout(input, bias, None, *arguments)
    return output


def _bias_act_in_torch(input: Tensor, bias: Tensor | None, numbers: Any, factor: Tensor) -> Tensor:
    """The same in torch's operations, differentiable any number of times."""
    # What is dropped has no gradient, even where the activation's is NaN.
    at = torch.where(factor != 0, input if bias is None else input + bias, 0.0)
    return _scaled(activations.in_torch(at, *numbers), factor)


class _BiasActDropout(Function):
    """Saves the input and the bias: the sum and the mask are made again."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, bias: Tensor | None, arguments: Any) -> Tensor:
        ctx.arguments = arguments
        ctx.save_for_backward(input, bias)
        return _bias_act_kernel(input, bias, arguments)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, bias = ctx.saved_tensors
        if not is_first_order(grad_output):
            numbers, factor = ctx.arguments[2:], _bias_act_factor(input, ctx.arguments)
            return *_bias_act_gradients(grad_output, input, bias, numbers, factor), None
        grad, grad_bias = _core.bias_act_dropout_backward(
            grad_output.resolve_neg(), input, bias, *ctx.arguments
        )
        return grad, grad_bias, None


def _bias_act_gradients(
    grad_output: Tensor, input: Tensor, bias: Tensor | None, numbers: Any, factor: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The gradients through torch's operations."""
    grads: Any = differentiate_chosen(
        lambda x, b: _bias_act_in_torch(x, b, numbers, factor),
        (input, bias),
        (0,) if bias is None else (0, 1),
        grad_output,
    )
    return tuple(grads)


# --- in torch's operations, with the seed as a tensor


def _numbers(seed: Tensor, shape: Any) -> Tensor:
    """The numbers of 16 bits that decide on elements, as in csrc/kernels/dropout/keep_mask.h.

    Philox 4x32-10 in int64: of a word the low 32 bits count.
    """
    low = 0xFFFFFFFF

    def products(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
        product = word * factor  # modulo 2^64
        return product.bitwise_right_shift(32).bitwise_and(low), product.bitwise_and(low)

    size = math.prod(shape)
    block = torch.arange((size + 7) // 8, dtype=torch.int64, device=seed.device)
    a, b = block.bitwise_and(low), block.bitwise_right_shift(32)
    c, d = torch.zeros_like(a), torch.zeros_like(a)
    low_key = seed.bitwise_and(low)
    high_key = seed.bitwise_right_shift(32).bitwise_and(low)
    for step in range(10):
        first_high, first_low = products(a, 0xD2511F53)
        second_high, second_low = products(c, 0xCD9E8D57)
        a = second_high ^ b ^ (low_key + step * 0x9E3779B9).bitwise_and(low)
        c = first_high ^ d ^ (high_key + step * 0xBB67AE85).bitwise_and(low)
        b, d = second_low, first_low
    words = torch.stack((a, b, c, d), 1)
    halves = torch.stack((words.bitwise_and(0xFFFF), words.bitwise_right_shift(16)), 2)
    return halves.view(-1)[:size].view(shape)


def _kept(input: Tensor, seed: Tensor, p: float, plane_dims: int = 0) -> Tensor:
    """Which elements are kept, or planes."""
    shape = tuple(input.shape[:plane_dims] if plane_dims else input.shape)
    kept = _numbers(seed, shape) < round((1 - p) * 65536)
    return kept.view((*shape, *[1] * (input.dim() - len(shape))))


def _drawn(
    input: Tensor, seed: Tensor, p: float, alpha: bool, plane_dims: int, backward: bool
) -> Tensor:
    """`dropout` or its gradient in torch's operations, in float32 or float64."""
    x = input if input.dtype is torch.float64 else input.float()
    if p == 1:
        return torch.zeros_like(x)
    kept = _kept(input, seed, p, plane_dims)
    if not alpha:
        return torch.where(kept, x * (1 / (1 - p)), 0.0)
    # -scale * alpha of SELU; see csrc/kernels/dropout/dropout.cpp.
    dropped = -1.7580993408473766
    factor = ((dropped**2 * p + 1) * (1 - p)) ** -0.5
    if backward:
        return torch.where(kept, x * factor, 0.0)
    shift = -factor * dropped * p
    return torch.where(kept, x * factor + shift, shift + factor * dropped)


def _dropout_in_torch(
    input: Tensor, seed: Tensor, p: float, alpha: bool, plane_dims: int, backward: bool = False
) -> Tensor:
    return _drawn(input, seed, p, alpha, plane_dims, backward).to(input.dtype)


def _add_in_torch(input: Tensor, residual: Tensor, seed: Tensor, p: float) -> Tensor:
    return (_drawn(input, seed, p, False, 0, False) + residual).to(input.dtype)


def _bias_act_factor_of(input: Tensor, seed: Tensor, p: float) -> Tensor:
    return _dropout_in_torch(torch.ones_like(input), seed, p, False, 0)


def _bias_act_drawn(
    input: Tensor, bias: Tensor | None, seed: Tensor, p: float, *numbers: Any
) -> Tensor:
    return _bias_act_in_torch(input, bias, numbers, _bias_act_factor_of(input, seed, p))


def _bias_act_gradients_drawn(
    grad_output: Tensor, input: Tensor, bias: Tensor | None, seed: Tensor, p: float, *numbers: Any
) -> tuple[Tensor, Tensor]:
    factor = _bias_act_factor_of(input, seed, p)
    grad, grad_bias = _bias_act_gradients(grad_output, input, bias, numbers, factor)
    return grad, _or_nothing(input, grad_bias)


def _or_nothing(input: Tensor, grad_bias: Tensor | None) -> Tensor:
    """Operators have no optional results."""
    return input.new_empty([0]) if grad_bias is None else grad_bias


# --- operators: they have the seed as a tensor


def _like_first(first: Tensor, *others: Any) -> Tensor:
    return layout.empty_like(first)


def _bias_act_gradients_fake(
    grad_output: Tensor, input: Tensor, bias: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor]:
    grad_bias = None if bias is None else bias.new_empty(bias.shape)
    return layout.empty_like(input), _or_nothing(input, grad_bias)


def _bias_act_gradients_kernel(
    grad_output: Tensor, input: Tensor, bias: Tensor | None, seed: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    grad, grad_bias = _core.bias_act_dropout_backward(
        grad_output, input, bias, _number_of(seed), *arguments
    )
    return grad, _or_nothing(input, grad_bias)


def _save_seed(inputs: Any, results: Any) -> Any:
    return inputs[1:2]


_GRADIENT = Operation(
    "dropout_backward",
    "(Tensor grad_output, Tensor seed, float p, bool alpha, int plane_dims) -> Tensor",
    lambda grad, seed, *others: _kernel(grad, None, (_number_of(seed), *others), True),
    _like_first,
    partial(_dropout_in_torch, backward=True),
    is_own_transpose=True,
)
_DROPOUT = Operation(
    "dropout",
    "(Tensor input, Tensor seed, float p, bool alpha, int plane_dims) -> Tensor",
    lambda input, seed, *others: _kernel(input, None, (_number_of(seed), *others), False),
    _like_first,
    _dropout_in_torch,
    saves=_save_seed,
    backward=_GRADIENT,
)


def _save_add(ctx: Any, inputs: Any, output: Tensor) -> None:
    _, _, seed, ctx.p = inputs
    ctx.save_for_backward(seed)


def _differentiate_add(ctx: Any, grad_output: Tensor) -> Any:
    grad = _GRADIENT.operator(grad_output, *ctx.saved_tensors, ctx.p, False, 0)
    return grad, grad_output, None, None


_ADD = Operation(
    "dropout_add",
    "(Tensor input, Tensor residual, Tensor seed, float p) -> Tensor",
    lambda input, residual, seed, p: _add_kernel(input, residual, (_number_of(seed), p, False, 0)),
    _like_first,
    _add_in_torch,
    autograd=(_save_add, _differentiate_add),
)

_BIAS_ACT_ARGUMENTS = (
    "Tensor input, Tensor? bias, Tensor seed, float p, int index, float a, float b"
)
_BIAS_ACT = Operation(
    "bias_act_dropout",
    f"({_BIAS_ACT_ARGUMENTS}) -> Tensor",
    lambda input, bias, seed, *others: _bias_act_kernel(input, bias, (_number_of(seed), *others)),
    _like_first,
    _bias_act_drawn,
    backward=Operation(
        "bias_act_dropout_backward",
        f"(Tensor grad_output, {_BIAS_ACT_ARGUMENTS}) -> (Tensor, Tensor)",
        _bias_act_gradients_kernel,
        _bias_act_gradients_fake,
        _bias_act_gradients_drawn,
    ),
)

# --- modules


def _module(theirs: type[torch.nn.Module], function: Callable[..., Tensor]) -> Any:
    """A subclass of torch's module whose forward calls our function."""

    class Module(theirs):  # type: ignore[misc, valid-type]
        # For a module of torch's that became one of ours by its class.
        seed: int | Tensor | None = None
        generator: torch.Generator | None = None

        def __init__(
            self,
            p: float = 0.5,
            inplace: bool = False,
            *,
            seed: int | Tensor | None = None,
            generator: torch.Generator | None = None,
        ) -> None:
            """See the class."""
            super().__init__(p, inplace)
            self.seed, self.generator = seed, generator

        def forward(self, input: Tensor) -> Tensor:
            """Our function of `input`."""
            if type(input) is Proxy:
                return as_leaf(self, input)
            return function(
                input,
                self.p,
                self.training,
                self.inplace,
                seed=self.seed,
                generator=self.generator,
            )

    name = theirs.__name__
    Module.__name__ = Module.__qualname__ = name
    Module.__module__ = "dlkernels.torch.nn"
    Module.__doc__ = f"""`torch.nn.{name}` on `functional.{function.__name__}`.

    Args:
        p: The probability to drop.
        inplace: Write the result over the input.
        seed: If given, what is dropped is the same in every call.
        generator: Where seeds are drawn from, instead of torch's default generator.
    """
    return Module


#: Every twin of the family.
TWINS = (
    *(
        Twin(function, operands("input"), (_module(theirs, function),))
        for theirs, function in (
            (torch.nn.AlphaDropout, alpha_dropout),
            (torch.nn.Dropout, dropout),
            (torch.nn.Dropout1d, dropout1d),
            (torch.nn.Dropout2d, dropout2d),
            (torch.nn.Dropout3d, dropout3d),
            (torch.nn.FeatureAlphaDropout, feature_alpha_dropout),
        )
    ),
    Twin(bias_act_dropout, operands("input")),
    Twin(dropout_add, operands("input")),
)
