"""Every operation once: what it computes (in wide NumPy), how it is called, how far off it may be.

The generic tests (accuracy, invariance, memory, inputs) run over these tables; a new operation adds
an entry here and gets all of them. References are plain NumPy on float64 (long double for float64),
on the very values the kernel is given.

An operation is a list of *calls*: usually its forward and its backward. A call takes a dictionary
of arrays made by the sampler and returns a tuple of results; its reference takes the same
dictionary, widened, and returns for each result the exact values and the scale that its error is
measured against.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import dlkernels
from dlkernels.activations import ACTIVATIONS as ROWS
from dlkernels.activations import Activation
from support import HALF, compute_dtype, eps, smallest_normal, ulp, wide_dtype

Arrays = Mapping[str, Any]
Options = Mapping[str, Any]
Shape = tuple[int, ...]


# --- functions of one number, as csrc/simd/math.h states them


@dataclass(frozen=True, eq=False)
class MathFunction:
    """A function of csrc/simd/math.h.

    Attributes:
        name: What `_core.math_function` calls it.
        reference: The same in NumPy, for float64 and long double.
        ulp: Largest error in units in the last place on AVX2 and AVX-512, by dtype: the header's
            numbers.
        baseline_ulp: The same without a fused multiply-add.
        domain: Where its bound holds, by dtype; None: everywhere.
        ranges: Where the interesting values are, by dtype: sampled evenly, beside all bit patterns.
        special: Pairs of argument and exact result.
    """

    name: str
    reference: Callable[[np.ndarray], np.ndarray]
    ulp: Mapping[str, float]
    baseline_ulp: Mapping[str, float]
    ranges: Mapping[str, Sequence[tuple[float, float]]]
    special: Sequence[tuple[float, float]]
    domain: Mapping[str, tuple[float, float]] | None = None

    def within(self, x: np.ndarray) -> np.ndarray:
        """The arguments that lie in the domain, and every NaN."""
        if self.domain is None:
            return x
        low, high = self.domain[x.dtype.name]
        return x[~((x < low) | (x > high))]


_INF, _NAN = float("inf"), float("nan")

MATH_FUNCTIONS = [
    MathFunction(
        "exp",
        np.exp,
        ulp={"float32": 1, "float64": 1},
        baseline_ulp={"float32": 1, "float64": 1},
        ranges={"float32": [(-104, 89), (-1, 1)], "float64": [(-746, 710), (-1, 1)]},
        special=[(0.0, 1.0), (-0.0, 1.0), (_INF, _INF), (-_INF, 0.0), (_NAN, _NAN), (1e-45, 1.0)],
    ),
    MathFunction(
        "exp_nonpositive",
        np.exp,
        ulp={"float32": 1, "float64": 1},
        baseline_ulp={"float32": 1, "float64": 1},
        ranges={"float32": [(-104, 1), (-1, 1)], "float64": [(-746, 1), (-1, 1)]},
        special=[(0.0, 1.0), (-0.0, 1.0), (-_INF, 0.0), (_NAN, _NAN), (-1e-45, 1.0)],
        domain={"float32": (-np.inf, 1.0), "float64": (-np.inf, 1.0)},
    ),
    MathFunction(
        "exp_bounded",
        np.exp,
        # 1 + 0.22 |x| for float32, 1 + 0.13 |x| for float64: log2(e) is rounded
        ulp={"float32": 20.2, "float64": 93},
        baseline_ulp={"float32": 1.25, "float64": 1.25},
        ranges={"float32": [(-87, 80), (-1, 1)], "float64": [(-708, 80), (-1, 1)]},
        special=[(0.0, 1.0), (-0.0, 1.0), (-_INF, 0.0), (-2e3, 0.0), (_NAN, _NAN)],
        domain={"float32": (-87.0, 80.0), "float64": (-708.0, 80.0)},
    ),
    MathFunction(
        "log",
        np.log,
        ulp={"float32": 1, "float64": 1},
        baseline_ulp={"float32": 1, "float64": 1},
        ranges={"float32": [(0.5, 2), (0, 1e4)], "float64": [(0.5, 2), (0, 1e4)]},
        special=[
            (1.0, 0.0),
            (0.0, -_INF),
            (-0.0, -_INF),
            (_INF, _INF),
            (-_INF, _NAN),
            (-1.0, _NAN),
            (-1e-45, _NAN),
            (_NAN, _NAN),
        ],
    ),
    MathFunction(
        "tanh",
        np.tanh,
        ulp={"float32": 4, "float64": 4},
        baseline_ulp={"float32": 4, "float64": 4},
        ranges={"float32": [(-10, 10), (-0.5, 0.5)], "float64": [(-21, 21), (-0.5, 0.5)]},
        special=[
            (0.0, 0.0),
            (-0.0, -0.0),
            (_INF, 1.0),
            (-_INF, -1.0),
            (_NAN, _NAN),
            (1e-45, 1e-45),
            (-1e-45, -1e-45),
        ],
    ),
]


# --- operations


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
    """

    name: str
    sample: Callable[[np.random.Generator, Shape, np.dtype, Options], dict[str, Any]]
    shapes: Callable[[int], Sequence[Shape]]
    calls: Sequence[Call]
    options: Sequence[Options] = field(default_factory=lambda: ({},))
    elementwise: bool = False

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


# --- activations


def _exact(result: np.ndarray | Exact) -> Exact:
    return result if isinstance(result, Exact) else Exact(result)


@dataclass(frozen=True, eq=False)
class ActivationSpec:
    """An activation: what every test of it, on both fronts, is made from.

    Attributes:
        name: Its name in `dlkernels` and `torch.nn.functional`.
        function: `function(x, **options)` in NumPy: an array, or an Exact where its terms cancel.
        gradient: `gradient(grad_output, saved, **options)`, likewise; `saved` is what the kernel's
            backward takes, the input or the output.
        special: Triples of argument, exact result and derivative, with the first of `options`; None
            for a derivative that is not stated.
        eps: Largest error of the function and of the gradient, in the computing dtype's eps.
        options: Sets of arguments to test, the defaults first.
        kinks: Arguments around which the derivative jumps.
        edges: Arguments that samples hold beside random ones.
    """

    name: str
    function: Callable[..., np.ndarray | Exact]
    gradient: Callable[..., np.ndarray | Exact]
    special: Sequence[tuple[float, float, float | None]]
    eps: tuple[float, float] = (0, 0)
    options: Sequence[Options] = ({},)
    kinks: Sequence[float] = (0.0,)
    edges: Sequence[float] = (0.0,)

    @property
    def row(self) -> Activation:
        """Its row in the library's table."""
        return ROWS[self.name]

    def numbers(self, options: Options) -> tuple[float, float]:
        """The two numbers that the kernel takes for these options."""
        numbers = []
        for parameter in self.row.parameters:
            value = options.get(parameter.name, parameter.default)
            numbers.append(float(parameter.choices.index(value) if parameter.choices else value))
        first, second = [*numbers, 0.0, 0.0][:2]
        return first, second

    def smooth_points(self) -> np.ndarray:
        """Arguments in float64 away from the kinks, for finite differences."""
        x = np.linspace(-3.3, 4.1, 20).reshape(4, 5)
        near = np.abs(x[..., None] - np.asarray(self.kinks)).min(axis=-1, initial=1) < 0.02
        return np.where(near, x + 0.05, x)

    def operation(self) -> Operation:
        """Its forward and backward as the generic tests take them."""
        saved = "output" if self.row.saves == "output" else "x"
        backward = getattr(dlkernels, f"{self.name}_backward")

        def sample(
            rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
        ) -> dict[str, Any]:
            x = (2 * rng.standard_normal(shape)).astype(dtype)
            if x.size > 4:
                places = x.reshape(-1)[:: max(5, x.size // 7)]
                places[...] = np.resize(np.asarray(self.edges), places.shape)
            arrays = {"x": x, "grad_output": rng.standard_normal(shape).astype(dtype)}
            if saved == "output":
                exact = _exact(self.function(x.astype(np.float64), **options))
                arrays["output"] = exact.value.astype(dtype)
            return arrays

        return Operation(
            self.name,
            sample,
            shapes=lambda size: [(size,)],
            calls=[
                Call(
                    self.name,
                    run=lambda a, o, out: (getattr(dlkernels, self.name)(a["x"], out=out, **o),),
                    reference=lambda a, o: (_exact(self.function(a["x"], **o)),),
                    eps=self.eps[:1],
                    out=0,
                    in_place=("x",),
                    bytes_per_element=8,
                    torch_twin=f"functional.{self.name}",
                ),
                Call(
                    f"{self.name}_backward",
                    run=lambda a, o, out: (backward(a["grad_output"], a[saved], **o),),
                    reference=lambda a, o: (
                        _exact(self.gradient(a["grad_output"], a[saved], **o)),
                    ),
                    eps=self.eps[1:],
                    bytes_per_element=12,
                ),
            ],
            options=self.options,
            elementwise=True,
        )


ACTIVATIONS = [
    ActivationSpec(
        "relu",
        lambda x: np.maximum(x, 0),
        lambda g, x: np.where((x > 0) | np.isnan(x), g, 0),
        special=[
            (_NAN, _NAN, 1),
            (_INF, _INF, 1),
            (-_INF, 0.0, 0),
            (-0.0, -0.0, 0),
            (0.0, 0.0, 0),
            (1e-45, 1e-45, 1),
            (-1e-45, 0.0, 0),
        ],
    ),
]


# --- softmax, log_softmax


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    if x.shape[axis] == 0:
        return x
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _row_shapes(size: int) -> list[Shape]:
    """Classes side by side, as many as `size`; then positions side by side."""
    return [(3, size), (2, 3, size)]


def _axis(options: Options) -> int:
    return options.get("axis", 1)


def _softmax_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    axis = _axis(options)
    x = (2 * rng.standard_normal(shape)).astype(dtype)
    log_output = _log_softmax(x.astype(np.float64), axis)
    return {
        "x": x,
        "grad_output": rng.standard_normal(shape).astype(dtype),
        "output": np.exp(log_output).astype(dtype),
        "log_output": log_output.astype(dtype),
    }


def _distance(x: np.ndarray, axis: int) -> np.ndarray:
    """How far below its row's largest each element is. Its exponential's error grows by half an eps
    for each 1, because the argument is rounded, and by a tenth, because log2(e) is."""
    return x.max(axis=axis, keepdims=True, initial=-np.inf) - x if x.size else x


def _softmax_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    axis = _axis(options)
    value = np.exp(_log_softmax(a["x"], axis))
    return (Exact(value, value * (1 + 0.07 * _distance(a["x"], axis)), underflow=1.0),)


def _log_softmax_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    value = _log_softmax(a["x"], _axis(options))
    return (Exact(value, 1 + np.abs(value)),)


def _softmax_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    y, g, axis = a["output"], a["grad_output"], _axis(options)
    total, size = ((part).sum(axis=axis, keepdims=True) for part in (g * y, np.abs(g * y)))
    return (Exact(y * (g - total), y * (np.abs(g) + size)),)


def _log_softmax_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    y, g, axis = np.exp(a["log_output"]), a["grad_output"], _axis(options)
    total, size = ((part).sum(axis=axis, keepdims=True) for part in (g, np.abs(g)))
    return (Exact(g - y * total, np.abs(g) + y * size),)


SOFTMAX = Operation(
    "softmax",
    _softmax_sample,
    shapes=_row_shapes,
    options=({}, {"axis": -1}, {"axis": 0}),
    calls=[
        Call(
            "softmax",
            run=lambda a, o, out: (dlkernels.softmax(a["x"], _axis(o), out=out),),
            reference=_softmax_reference,
            eps=(9,),
            out=0,
            in_place=("x",),
            bytes_per_element=8,
            torch_twin="functional.softmax",
        ),
        Call(
            "softmax_backward",
            run=lambda a, o, out: (
                dlkernels.softmax_backward(a["grad_output"], a["output"], _axis(o), out=out),
            ),
            reference=_softmax_backward_reference,
            eps=(8,),
            out=0,
            in_place=("grad_output", "output"),
            bytes_per_element=12,
        ),
    ],
)

LOG_SOFTMAX = Operation(
    "log_softmax",
    _softmax_sample,
    shapes=_row_shapes,
    options=({}, {"axis": -1}, {"axis": 0}),
    calls=[
        Call(
            "log_softmax",
            run=lambda a, o, out: (dlkernels.log_softmax(a["x"], _axis(o), out=out),),
            reference=_log_softmax_reference,
            eps=(4,),
            out=0,
            in_place=("x",),
            bytes_per_element=8,
            torch_twin="functional.log_softmax",
        ),
        Call(
            "log_softmax_backward",
            run=lambda a, o, out: (
                dlkernels.log_softmax_backward(
                    a["grad_output"], a["log_output"], _axis(o), out=out
                ),
            ),
            reference=_log_softmax_backward_reference,
            eps=(8,),
            out=0,
            in_place=("grad_output", "log_output"),
            bytes_per_element=12,
        ),
    ],
)


# --- losses over classes

_LOSS_KEYWORDS = ("ignore_index", "reduction", "label_smoothing", "z_loss", "softcap")


def _loss_shapes(size: int) -> list[Shape]:
    # No classes at all cannot have targets: size 0 is then an empty batch.
    return [(3, size) if size else (0, 5), (2, 3, size)]


def _loss_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    classes = shape[1]
    rows = (shape[0], *shape[2:])
    logits = (2 * rng.standard_normal(shape)).astype(dtype)
    arrays: dict[str, Any] = {"logits": logits}
    if options.get("probabilities"):
        arrays["target"] = np.exp(_log_softmax(2 * rng.standard_normal(shape), 1)).astype(dtype)
    else:
        target = rng.integers(0, classes, rows)
        ignore_index = options.get("ignore_index", -100)
        if ignore_index != -100 and target.size:
            target.reshape(-1)[:: 1 + target.size // 2] = ignore_index
        arrays["target"] = target
    if options.get("weight"):
        arrays["weight"] = rng.uniform(0.25, 2, classes).astype(dtype)
    return arrays


def loss_keywords(arrays: Arrays, options: Options) -> dict[str, Any]:
    """The keyword arguments of a loss's front for a sample."""
    keywords = {name: options[name] for name in _LOSS_KEYWORDS if name in options}
    if "weight" in arrays:
        keywords["weight"] = arrays["weight"]
    return keywords


class _Rows(NamedTuple):
    """Class losses broadcast to the logits' shape, (rows as shape, classes at axis 1)."""

    soft: np.ndarray  # q: what every class's log-probability is multiplied by, negated
    counted: np.ndarray  # 1 where the row is not ignored
    divisor: Any  # of a mean


def _loss_rows(a: Arrays, options: Options, name: str) -> _Rows:
    x, target = a[name], a["target"]
    classes = x.shape[1]
    one = x.dtype.type(1)
    weight = a.get("weight", np.ones(classes, x.dtype)).reshape(1, -1, *[1] * (x.ndim - 2))
    smoothing = x.dtype.type(options.get("label_smoothing", 0.0))
    if options.get("probabilities"):
        counted = np.ones((x.shape[0], 1, *x.shape[2:]), x.dtype)
        soft = weight * (target * (one - smoothing) + smoothing / classes)
        return _Rows(soft, counted, x.dtype.type(counted.size))
    target = np.expand_dims(target, 1)
    counted = (target != options.get("ignore_index", -100)).astype(x.dtype)
    index = np.arange(classes).reshape(1, -1, *[1] * (x.ndim - 2))
    one_hot = (index == target).astype(x.dtype)
    soft = counted * weight * (one_hot * (one - smoothing) + smoothing / max(classes, 1))
    return _Rows(soft, counted, (counted * weight * one_hot).sum())


def _reduced(rows: np.ndarray, options: Options, divisor: Any) -> np.ndarray:
    reduction = options.get("reduction", "mean")
    if reduction == "none":
        return rows
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(rows.sum() / divisor if reduction == "mean" else rows.sum())


def _cross_entropy_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    """Loss, gradient and log-sum-exp."""
    x = a["logits"]
    soft, counted, divisor = _loss_rows(a, options, "logits")
    softcap, z_loss = options.get("softcap"), options.get("z_loss", 0.0)
    capped = softcap * np.tanh(x / softcap) if softcap else x
    slope = 1 - np.tanh(x / softcap) ** 2 if softcap else np.ones_like(x)
    top = capped.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(capped - top).sum(axis=1, keepdims=True))
    lse = top + log_sum
    logp = (capped - top) - log_sum
    is_mean = options.get("reduction", "mean") == "mean"
    row_scale = 1 / divisor if is_mean and divisor else 1
    z_scale = z_loss * (1 / counted.sum() if is_mean and counted.sum() else 1)

    ce = -(soft * logp).sum(axis=1)
    # The cap is a rounded tanh: its errors grow with what it returns.
    noise = np.abs(capped).max(axis=1) if softcap else 0
    ce_scale = (soft * (1 + np.abs(logp))).sum(axis=1) * (1 + noise)
    z = counted[:, 0] * z_loss * lse[:, 0] ** 2
    z_noise = np.abs(z) + counted[:, 0] * z_loss * np.abs(lse[:, 0]) * (1 + noise)
    if is_mean:
        z, z_noise = (part * (divisor / max(counted.sum(), 1)) for part in (z, z_noise))
    loss = Exact(_reduced(ce + z, options, divisor), _reduced(ce_scale + z_noise, options, divisor))

    p = np.exp(logp)
    mass = soft.sum(axis=1, keepdims=True)
    factor = row_scale * mass + 2 * z_scale * counted * lse
    grad = (p * factor - row_scale * soft) * slope
    factor_scale = row_scale * mass + 2 * z_scale * counted * (1 + np.abs(lse))
    distance = 1 + (top - capped) / 8 + (np.abs(capped) + np.abs(top) if softcap else 0)
    grad_scale = p * factor_scale * distance + row_scale * soft
    if softcap:  # 1 - tanh^2 cancels
        grad_scale = grad_scale * (slope + np.tanh(x / softcap) ** 2)
    lse_scale = (1 + np.abs(lse[:, 0])) * (1 + noise)
    underflow = np.abs(factor)  # what a weight is multiplied by
    return loss, Exact(grad, grad_scale, underflow), Exact(lse[:, 0], lse_scale)


def _cross_entropy_with_grad(a: Arrays, options: Options, out: Any) -> tuple[Any, ...]:
    return dlkernels.cross_entropy_with_grad(
        a["logits"], a["target"], out=out, return_lse=True, **loss_keywords(a, options)
    )


CROSS_ENTROPY_OPTIONS: tuple[Options, ...] = (
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight": True},
    {"ignore_index": 0},
    {"label_smoothing": 0.1},
    {"z_loss": 0.01},
    {"softcap": 5.0},
    {"probabilities": True},
    {"probabilities": True, "weight": True, "label_smoothing": 0.2, "reduction": "none"},
    {"weight": True, "ignore_index": -1, "label_smoothing": 0.3, "reduction": "sum"},
    {"weight": True, "ignore_index": 0, "label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 10.0},
)

CROSS_ENTROPY = Operation(
    "cross_entropy",
    _loss_sample,
    shapes=_loss_shapes,
    options=CROSS_ENTROPY_OPTIONS,
    calls=[
        Call(
            "cross_entropy",
            run=lambda a, options, out: (
                dlkernels.cross_entropy(a["logits"], a["target"], **loss_keywords(a, options)),
            ),
            reference=lambda a, options: _cross_entropy_reference(a, options)[:1],
            eps=(4,),
            bytes_per_element=4,
            torch_twin="functional.cross_entropy",
        ),
        Call(
            "cross_entropy_with_grad",
            run=lambda a, options, out: _swap(_cross_entropy_with_grad(a, options, out)),
            reference=lambda a, options: _swap(_cross_entropy_reference(a, options)),
            eps=(8, 4, 4),
            out=0,
            in_place=("logits",),
            bytes_per_element=8,
        ),
    ],
)


def _swap(results: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradient first."""
    return (results[1], results[0], *results[2:])


def _nll_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    arrays = _loss_sample(rng, shape, dtype, options)
    logits = arrays.pop("logits")
    arrays["log_probabilities"] = _log_softmax(logits.astype(np.float64), 1).astype(dtype)
    if options.get("reduction") == "none":
        arrays["grad_output"] = rng.standard_normal((shape[0], *shape[2:])).astype(dtype)
    return arrays


def _nll_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    soft, _, divisor = _loss_rows(a, options, "log_probabilities")
    rows = -(soft * a["log_probabilities"]).sum(axis=1)
    scale = _reduced(np.abs(rows), options, divisor)
    return (Exact(_reduced(rows, options, divisor), scale),)


def _nll_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    soft, _, divisor = _loss_rows(a, options, "log_probabilities")
    reduction = options.get("reduction", "mean")
    grad_output = np.expand_dims(a["grad_output"], 1) if reduction == "none" else 1.0
    scale = 1 / divisor if reduction == "mean" and divisor else 1
    return (Exact(-soft * grad_output * scale),)


NLL_LOSS = Operation(
    "nll_loss",
    _nll_sample,
    shapes=_loss_shapes,
    options=(
        {},
        {"reduction": "sum"},
        {"reduction": "none"},
        {"weight": True, "ignore_index": 1},
        {"weight": True, "ignore_index": 0, "reduction": "none"},
    ),
    calls=[
        Call(
            "nll_loss",
            run=lambda a, o, out: (
                dlkernels.nll_loss(a["log_probabilities"], a["target"], **loss_keywords(a, o)),
            ),
            reference=_nll_reference,
            eps=(3,),
            bytes_per_element=4,
            torch_twin="functional.nll_loss",
        ),
        Call(
            "nll_loss_backward",
            run=lambda a, o, out: (
                dlkernels.nll_loss_backward(
                    a.get("grad_output", 1.0),
                    a["log_probabilities"],
                    a["target"],
                    **loss_keywords(a, o),
                ),
            ),
            reference=_nll_backward_reference,
            eps=(3,),
            bytes_per_element=4,
        ),
    ],
)


# --- optimizers


def _sgd_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    arrays = {
        "param": rng.standard_normal(shape).astype(dtype),
        "grad": rng.standard_normal(shape).astype(dtype),
    }
    if options.get("momentum"):
        arrays["momentum_buffer"] = rng.standard_normal(shape).astype(dtype)
    return arrays


def _sgd(a: Arrays, options: Options, out: Any) -> tuple[Any, ...]:
    keywords = {key: value for key, value in options.items() if key != "first_step"}
    optimizer = dlkernels.optim.SGD([a["param"]], **keywords)
    if "momentum_buffer" in a and not options.get("first_step"):
        optimizer.state[0]["momentum_buffer"] = a["momentum_buffer"]
    optimizer.step([a["grad"]])
    if "momentum_buffer" not in a:
        return (a["param"],)
    return a["param"], optimizer.state[0]["momentum_buffer"]


def _sgd_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    lr, momentum = options["lr"], options.get("momentum", 0.0)
    sign = -1 if options.get("maximize") else 1
    decay = options.get("weight_decay", 0.0)
    param = a["param"]
    grad = sign * a["grad"] + decay * param
    grad_scale = np.abs(a["grad"]) + np.abs(decay * param)
    if not momentum:
        return (Exact(param - lr * grad, np.abs(param) + lr * grad_scale),)
    buffer, buffer_scale = grad, grad_scale
    if not options.get("first_step"):
        keep = 1 - options.get("dampening", 0.0)
        buffer = momentum * a["momentum_buffer"] + keep * grad
        buffer_scale = np.abs(momentum * a["momentum_buffer"]) + keep * grad_scale
    step, step_scale = buffer, buffer_scale
    if options.get("nesterov"):
        step, step_scale = grad + momentum * buffer, grad_scale + momentum * buffer_scale
    return (
        Exact(param - lr * step, np.abs(param) + lr * step_scale),
        Exact(buffer, buffer_scale),
    )


SGD = Operation(
    "sgd",
    _sgd_sample,
    shapes=lambda size: [(size,)],
    options=(
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.01, "maximize": True},
        {"lr": 0.05, "momentum": 0.9, "first_step": True},
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    ),
    calls=[
        Call(
            "sgd",
            run=_sgd,
            reference=_sgd_reference,
            eps=(2, 2),
            updates=("param", "momentum_buffer"),
            bytes_per_element=20,
            torch_twin="optim.SGD",
        ),
    ],
    elementwise=True,
)


# Each takes the arrays (param p, gradient g, the states) and the options with torch's defaults
# filled in, and returns the results. It is step T.


def _gradient(a: Arrays, o: Options) -> tuple[np.ndarray, np.ndarray]:
    """The gradient with its sign and coupled weight decay, and its scale."""
    sign = -1 if o.get("maximize") else 1
    decay = 0 if o.get("decoupled_weight_decay") else o.get("weight_decay", 0)
    return sign * a["grad"] + decay * a["param"], np.abs(a["grad"]) + np.abs(decay * a["param"])


def _average(
    old: np.ndarray, new: np.ndarray, beta: float, scale: np.ndarray | None = None
) -> Exact:
    return Exact(
        beta * old + (1 - beta) * new, np.abs(old) + (np.abs(new) if scale is None else scale)
    )


def _moved(p: np.ndarray, *steps: tuple[np.ndarray, np.ndarray]) -> Exact:
    """p minus steps, each with its scale."""
    return Exact(
        p - sum(step for step, _ in steps), np.abs(p) + sum(np.abs(scale) for _, scale in steps)
    )


def _same(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x, x


def _adam_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    (g, size), (beta1, beta2) = _gradient(a, o), o["betas"]
    p = a["param"] * (1 - (o["lr"] * o["weight_decay"] if o.get("decoupled_weight_decay") else 0))
    m = _average(a["exp_avg"], g, beta1, size)
    v = _average(a["exp_avg_sq"], g * g, beta2, size * size)
    second = np.maximum(a["max_exp_avg_sq"], v.value) if o["amsgrad"] else v.value
    d = np.sqrt(second / (1 - beta2**T)) + o["eps"]
    rate = o["lr"] / (1 - beta1**T) / d
    states = (m, v, Exact(second, v.scale)) if o["amsgrad"] else (m, v)
    return _moved(p, (rate * m.value, rate * m.scale)), *states


def _adagrad_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    g, size = _gradient(a, o)
    total = a["sum"] + g * g
    rate = o["lr"] / (1 + (T - 1) * o["lr_decay"]) / (np.sqrt(total) + o["eps"])
    return _moved(a["param"], (rate * g, rate * size)), Exact(total, a["sum"] + size * size)


def _rmsprop_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    g, size = _gradient(a, o)
    v = _average(a["square_avg"], g * g, o["alpha"], size * size)
    variance, states = v.value, [v]
    if o["centered"]:
        average = _average(a["grad_avg"], g, o["alpha"], size)
        variance = variance - average.value**2
    d = np.sqrt(variance) + o["eps"]
    step, scale = g / d, size / d
    if o["momentum"]:
        step = o["momentum"] * a["momentum_buffer"] + step
        scale = np.abs(o["momentum"] * a["momentum_buffer"]) + scale
        states.append(Exact(step, scale))
    if o["centered"]:
        states.append(average)
    return _moved(a["param"], (o["lr"] * step, o["lr"] * scale)), *states


def _adadelta_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    g, size = _gradient(a, o)
    v = _average(a["square_avg"], g * g, o["rho"], size * size)
    rate = np.sqrt(a["acc_delta"] + o["eps"]) / np.sqrt(v.value + o["eps"])
    u = rate * g
    return (
        _moved(a["param"], (o["lr"] * u, o["lr"] * rate * size)),
        v,
        _average(a["acc_delta"], u * u, o["rho"], (rate * size) ** 2),
    )


def _adamax_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    (g, size), (beta1, beta2) = _gradient(a, o), o["betas"]
    m = _average(a["exp_avg"], g, beta1, size)
    u = np.maximum(beta2 * a["exp_inf"], np.abs(g) + o["eps"])
    rate = o["lr"] / (1 - beta1**T) / u
    return _moved(a["param"], (rate * m.value, rate * m.scale)), m, Exact(u, a["exp_inf"] + size)


def _nadam_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    (g, size), (beta1, beta2) = _gradient(a, o), o["betas"]
    p = a["param"] * (1 - (o["lr"] * o["weight_decay"] if o["decoupled_weight_decay"] else 0))
    m = _average(a["exp_avg"], g, beta1, size)
    v = _average(a["exp_avg_sq"], g * g, beta2, size * size)
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (t * o["momentum_decay"])) for t in (T, T + 1))
    product = MU_PRODUCT * mu
    d = np.sqrt(v.value / (1 - beta2**T)) + o["eps"]
    first = o["lr"] * (1 - mu) / (1 - product) / d
    second = o["lr"] * mu_next / (1 - product * mu_next) / d
    return _moved(p, (first * g, first * size), (second * m.value, second * m.scale)), m, v


def _radam_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    (g, size), (beta1, beta2) = _gradient(a, o), o["betas"]
    p = a["param"] * (1 - (o["lr"] * o["weight_decay"] if o["decoupled_weight_decay"] else 0))
    m = _average(a["exp_avg"], g, beta1, size)
    v = _average(a["exp_avg_sq"], g * g, beta2, size * size)
    infinite = 2 / (1 - beta2) - 1
    rho = infinite - 2 * T * beta2**T / (1 - beta2**T)
    rate = o["lr"] / (1 - beta1**T)
    if rho > 5:
        squared = (rho - 4) * (rho - 2) * infinite / ((infinite - 4) * (infinite - 2) * rho)
        rate = rate * np.sqrt(squared * (1 - beta2**T)) / (np.sqrt(v.value) + o["eps"])
    return _moved(p, (rate * m.value, rate * m.scale)), m, v


def _asgd_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    g, size = _gradient(a, o)
    p = _moved(a["param"] * (1 - o["lambd"] * ETA), (ETA * g, ETA * size))
    if o["t0"] > T:
        return p, p
    return p, Exact(a["ax"] + (p.value - a["ax"]) * 0.5, np.abs(a["ax"]) + p.scale)


def _rprop_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    g, _ = _gradient(a, o)
    sign = np.sign(g * a["prev"])
    factor = np.where(sign > 0, o["etas"][1], np.where(sign < 0, o["etas"][0], 1.0))
    step = np.clip(a["step_size"] * factor, *o["step_sizes"])
    g = np.where(sign < 0, 0, g)
    return _moved(a["param"], _same(np.sign(g) * step)), Exact(g), Exact(step)


def _lion_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    (g, size), (beta1, beta2) = _gradient({**a, "param": 0}, o), o["betas"]
    sign = np.sign(beta1 * a["exp_avg"] + (1 - beta1) * g)
    p = a["param"] * (1 - o["lr"] * o["weight_decay"])
    return _moved(p, _same(o["lr"] * sign)), _average(a["exp_avg"], g, beta2, size)


T, MU_PRODUCT, ETA = 7, 0.3, 0.05
_PREVIOUS_SCALARS = {"step": T - 1.0, "mu_product": MU_PRODUCT, "eta": ETA}
_SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf"}


def _optimizer(
    name: str,
    reference: Callable[[Arrays, Options], tuple[Exact, ...]],
    slots: tuple[str, ...],
    options: tuple[Options, ...],
    bytes_per_element: int,
) -> Operation:
    """A class of `dlkernels.optim`; `slots` with conditions, as "grad_avg if centered"."""
    optimizer_class = getattr(dlkernels.optim, name)

    def kept(o: Options) -> list[str]:
        pairs = [slot.partition(" if ") for slot in slots]
        return [slot for slot, _, condition in pairs if not condition or o.get(condition)]

    def sample(
        rng: np.random.Generator, shape: Shape, dtype: np.dtype, o: Options
    ) -> dict[str, Any]:
        grad = rng.standard_normal(shape)
        arrays = {"param": rng.standard_normal(shape), "grad": grad}
        for slot in kept(o):
            if slot in _SQUARES:
                arrays[slot] = rng.uniform(0.5, 2.0, shape)
            elif slot == "step_size":
                arrays[slot] = rng.uniform(0.01, 0.1, shape)
            elif name == "Lion":  # away from the jump of the sign
                arrays[slot] = np.copysign(rng.uniform(0.1, 1, shape), grad)
            else:
                arrays[slot] = rng.standard_normal(shape) * (0.1 if slot == "grad_avg" else 1)
        if name == "Lion" and o.get("maximize"):
            arrays["exp_avg"] = -arrays["exp_avg"]
        return {key: np.asarray(value).astype(dtype) for key, value in arrays.items()}

    def run(a: Arrays, o: Options, out: Any) -> tuple[Any, ...]:
        optimizer = optimizer_class([a["param"]], **o)
        (group,) = optimizer.param_groups
        scalars = {n: _PREVIOUS_SCALARS[n] for n in optimizer._rule.scalars if n != "mu"}
        if "mu" in optimizer._rule.scalars:
            scalars["mu"] = 1.0 if group["t0"] > T else 0.5
        optimizer.state = [scalars | {slot: a[slot] for slot in kept(o)}]
        optimizer.step([a["grad"]])
        return a["param"], *(optimizer.state[0][slot] for slot in kept(o))

    def exact(a: Arrays, o: Options) -> tuple[Exact, ...]:
        return reference(a, {**optimizer_class([np.zeros(1)], **o).param_groups[0]})

    call = Call(
        name,
        run=run,
        reference=exact,
        eps=(8,) * (1 + len(slots)),
        updates=("param", *(slot.partition(" if ")[0] for slot in slots)),
        bytes_per_element=bytes_per_element,
        torch_twin=f"optim.{name}",
    )
    return Operation(
        name.lower(),
        sample,
        shapes=lambda size: [(size,)],
        options=options,
        calls=[call],
        elementwise=True,
    )


_DECAY = {"lr": 0.1, "weight_decay": 0.1, "maximize": True}
_MOMENTS = ("exp_avg", "exp_avg_sq")
OPTIMIZERS = [
    _optimizer(
        "Adam",
        _adam_reference,
        (*_MOMENTS, "max_exp_avg_sq if amsgrad"),
        ({}, _DECAY, {"lr": 0.1, "amsgrad": True, "betas": (0.3, 0.8)}),
        28,
    ),
    _optimizer("AdamW", _adam_reference, _MOMENTS, ({}, _DECAY), 28),
    _optimizer("Adagrad", _adagrad_reference, ("sum",), ({}, {**_DECAY, "lr_decay": 0.2}), 20),
    _optimizer(
        "RMSprop",
        _rmsprop_reference,
        ("square_avg", "momentum_buffer if momentum", "grad_avg if centered"),
        ({}, _DECAY, {"momentum": 0.9}, {"centered": True}, {"momentum": 0.9, "centered": True}),
        20,
    ),
    _optimizer("Adadelta", _adadelta_reference, ("square_avg", "acc_delta"), ({}, _DECAY), 28),
    _optimizer("Adamax", _adamax_reference, ("exp_avg", "exp_inf"), ({}, _DECAY), 28),
    _optimizer(
        "NAdam",
        _nadam_reference,
        _MOMENTS,
        ({}, _DECAY, {**_DECAY, "decoupled_weight_decay": True}),
        28,
    ),
    _optimizer(
        "RAdam",
        _radam_reference,
        _MOMENTS,
        ({"betas": (0.9, 0.5)}, _DECAY, {**_DECAY, "decoupled_weight_decay": True}),
        28,
    ),
    _optimizer("ASGD", _asgd_reference, ("ax",), ({}, {**_DECAY, "t0": 1, "lambd": 0.1}), 20),
    _optimizer("Rprop", _rprop_reference, ("prev", "step_size"), ({}, {"maximize": True}), 28),
    _optimizer("Lion", _lion_reference, ("exp_avg",), ({}, _DECAY), 20),
]


OPERATIONS = [
    *(activation.operation() for activation in ACTIVATIONS),
    SOFTMAX,
    LOG_SOFTMAX,
    NLL_LOSS,
    CROSS_ENTROPY,
    SGD,
    *OPTIMIZERS,
]


def cases() -> Iterator[tuple[Operation, Call]]:
    """Every call of every operation."""
    for operation in OPERATIONS:
        for call in operation.calls:
            yield operation, call
