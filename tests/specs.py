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
from dlkernels.elementwise_losses import LOSSES as LOSS_ROWS
from support import HALF, compute_dtype, dropout_mask, eps, smallest_normal, ulp, wide_dtype

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


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """The normal distribution up to x, to all its digits in both tails."""
    size = np.minimum(np.abs(x), x.dtype.type(120))
    density = np.exp(-size * size / 2) / np.sqrt(x.dtype.type(2 * _PI))
    inner = np.minimum(size, x.dtype.type(2.2))
    term = total = inner
    for k in range(1, 60):
        term = term * inner * inner / (2 * k + 1)
        total = total + term
    outer = np.maximum(size, x.dtype.type(2.2))
    fraction = outer
    for k in range(120, 0, -1):  # Laplace's continued fraction
        fraction = outer + k / fraction
    tail = np.where(size < 2.2, 0.5 - density * total, density / fraction)
    return np.where(x < 0, tail, 1 - tail)


_PI = np.longdouble("3.14159265358979323846264338327950288")
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
        ulp={"float32": 3.5, "float64": 3.5},
        baseline_ulp={"float32": 3.5, "float64": 3.5},
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
    MathFunction(
        "expm1_nonpositive",
        np.expm1,
        ulp={"float32": 2, "float64": 2},
        baseline_ulp={"float32": 2, "float64": 2},
        ranges={"float32": [(-20, 1), (-1, 1)], "float64": [(-40, 1), (-1, 1)]},
        special=[
            (0.0, 0.0),
            (-0.0, -0.0),
            (-_INF, -1.0),
            (-1e3, -1.0),
            (_NAN, _NAN),
            (1e-45, 1e-45),
            (-1e-45, -1e-45),
        ],
        domain={"float32": (-np.inf, 1.0), "float64": (-np.inf, 1.0)},
    ),
    MathFunction(
        "log1p_unit",
        np.log1p,
        ulp={"float32": 1.5, "float64": 1.5},
        baseline_ulp={"float32": 1.5, "float64": 1.5},
        ranges={"float32": [(0, 1), (0.4, 0.43)], "float64": [(0, 1), (0.4, 0.43)]},
        special=[(0.0, 0.0), (_NAN, _NAN), (1e-45, 1e-45)],
        domain={"float32": (0.0, 1.0), "float64": (0.0, 1.0)},
    ),
    MathFunction(
        "sigmoid",
        _sigmoid,
        ulp={"float32": 3, "float64": 3},
        baseline_ulp={"float32": 3, "float64": 3},
        ranges={"float32": [(-104, 20), (-3, 3)], "float64": [(-746, 40), (-3, 3)]},
        special=[(0.0, 0.5), (-0.0, 0.5), (_INF, 1.0), (-_INF, 0.0), (_NAN, _NAN), (1e-45, 0.5)],
    ),
    MathFunction(
        "softplus",
        _softplus,
        ulp={"float32": 2, "float64": 2},
        baseline_ulp={"float32": 3, "float64": 3},
        ranges={"float32": [(-104, 20), (-3, 3)], "float64": [(-746, 40), (-3, 3)]},
        special=[(_INF, _INF), (-_INF, 0.0), (_NAN, _NAN)],
    ),
    MathFunction(
        "gauss",
        lambda x: np.exp(-x * x / 2),
        ulp={"float32": 2, "float64": 2},
        baseline_ulp={"float32": 2, "float64": 2},
        ranges={"float32": [(-14.6, 14.6), (-1, 1)], "float64": [(-39, 39), (-1, 1)]},
        special=[(0.0, 1.0), (-0.0, 1.0), (_NAN, _NAN), (1e-45, 1.0)],
        domain={"float32": (-14.6, 14.6), "float64": (-39.0, 39.0)},
    ),
    MathFunction(
        "normal_cdf",
        normal_cdf,
        ulp={"float32": 6.3, "float64": 8},
        baseline_ulp={"float32": 8, "float64": 11},
        ranges={"float32": [(-12.8, 7), (-5, 1)], "float64": [(-37.4, 9), (-5, 1)]},
        special=[(0.0, 0.5), (-0.0, 0.5), (_NAN, _NAN), (1e-45, 0.5), (14.5, 1.0)],
        domain={"float32": (-12.8, 14.6), "float64": (-37.4, 39.0)},
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
        limits: Infinities where the result is the limit; torch's is NaN.
        torch_float64: How far torch's own float64 result may be off: more than rounding where its
            constants are rounded to float32.
    """

    name: str
    function: Callable[..., np.ndarray | Exact]
    gradient: Callable[..., np.ndarray | Exact]
    special: Sequence[tuple[float, float, float | None]]
    eps: tuple[float, float] = (0, 0)
    options: Sequence[Options] = ({},)
    kinks: Sequence[float] = (0.0,)
    edges: Sequence[float] = (0.0,)
    limits: Sequence[float] = ()
    torch_float64: float = 1e-14

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


def _terms(g: np.ndarray, *terms: np.ndarray) -> Exact:
    """g times a sum whose terms may cancel."""
    return Exact(g * sum(terms), np.abs(g) * sum(map(np.abs, terms)))


def _exponential_unit(x: np.ndarray, a: Any, b: Any, c: Any) -> np.ndarray:
    return np.where(x > 0, a * x, b * np.expm1(np.minimum(x, 0) / c))


def _exponential_unit_gradient(g: np.ndarray, y: np.ndarray, a: Any, b: Any, c: Any) -> Exact:
    below = y <= 0
    scale = np.where(below, (b + np.abs(y)) / c, a)
    return Exact(g * np.where(below, (y + b) / c, a), np.abs(g) * scale)


_SELU_SCALE = np.longdouble("1.0507009873554804934193349852946")
_SELU_ALPHA = np.longdouble("1.6732632423543772848170429916717")


def _softplus_of(x: np.ndarray, beta: float = 1.0, threshold: float = 20.0) -> Exact:
    value = np.where(x * beta > threshold, x, _softplus(x * beta) / beta)
    return Exact(value, value * (1 + np.abs(x * beta) / 4 * (beta % 1 > 0)))


def _softplus_gradient(
    g: np.ndarray, x: np.ndarray, beta: float = 1.0, threshold: float = 20.0
) -> Exact:
    value = g * np.where(x * beta > threshold, 1, _sigmoid(x * beta))
    return Exact(value, np.abs(value) * (1 + np.abs(x * beta) / 4 * (beta % 1 > 0)))


def _twice_u(x: np.ndarray) -> np.ndarray:
    return np.sqrt(x.dtype.type(8 / _PI)) * (x + x**3 * x.dtype.type("0.044715"))


def _gelu(x: np.ndarray, approximate: str = "none") -> Exact:
    if approximate == "none":
        return Exact(x * normal_cdf(x))
    value = x * _sigmoid(_twice_u(x))
    return Exact(value, np.abs(value) * (1 + np.abs(_twice_u(x)) / 4))


def _gelu_gradient(g: np.ndarray, x: np.ndarray, approximate: str = "none") -> Exact:
    if approximate == "none":
        density = np.exp(-x * x / 2) / np.sqrt(x.dtype.type(2 * _PI))
        return _terms(g, normal_cdf(x), x * density)
    v = _twice_u(x)
    slope = np.sqrt(x.dtype.type(8 / _PI)) * (1 + 3 * x**2 * x.dtype.type("0.044715"))
    exact = _terms(g, _sigmoid(v), x * slope * _sigmoid(v) * _sigmoid(-v))
    return Exact(exact.value, exact.scale * (1 + np.abs(v) / 4))


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
    ActivationSpec(
        "relu6",
        lambda x: np.clip(x, 0, 6),
        lambda g, x: np.where((x > 0) & (x < 6), g, 0),
        special=[
            (_NAN, _NAN, 0),
            (_INF, 6, 0),
            (-_INF, 0.0, 0),
            (-0.0, -0.0, 0),
            (0.0, 0.0, 0),
            (6, 6, 0),
            (1e-45, 1e-45, 1),
        ],
        kinks=(0.0, 6.0),
        edges=(0.0, 6.0, 7.0),
    ),
    ActivationSpec(
        "hardtanh",
        lambda x, min_val=-1.0, max_val=1.0: np.clip(x, min_val, max_val),
        lambda g, x, min_val=-1.0, max_val=1.0: np.where((x > min_val) & (x < max_val), g, 0),
        special=[
            (_NAN, _NAN, 0),
            (_INF, 1, 0),
            (-_INF, -1, 0),
            (-0.0, -0.0, 1),
            (-1, -1, 0),
            (1, 1, 0),
        ],
        options=({}, {"min_val": -2.0, "max_val": 0.5}),
        kinks=(-2.0, -1.0, 0.5, 1.0),
        edges=(-2.0, -1.0, 0.5, 1.0),
    ),
    ActivationSpec(
        "threshold",
        lambda x, threshold, value: np.where(x <= threshold, value, x),
        lambda g, x, threshold, value: np.where(x <= threshold, 0, g),
        special=[
            (_NAN, _NAN, 1),
            (_INF, _INF, 1),
            (-_INF, 7, 0),
            (0.5, 7, 0),
            (0.75, 0.75, 1),
        ],
        options=({"threshold": 0.5, "value": 7.0}, {"threshold": -1.0, "value": 0.25}),
        kinks=(-1.0, 0.5),
        edges=(-1.0, 0.5),
    ),
    ActivationSpec(
        "leaky_relu",
        lambda x, negative_slope=0.01: np.where(x > 0, x, negative_slope * x),
        lambda g, x, negative_slope=0.01: np.where(x > 0, g, negative_slope * g),
        special=[
            (_NAN, _NAN, 0.01),
            (_INF, _INF, 1),
            (-_INF, -_INF, 0.01),
            (-0.0, -0.0, 0.01),
            (0.0, 0.0, 0.01),
            (-3, -0.03, 0.01),
        ],
        eps=(1.5, 1.5),
        options=({}, {"negative_slope": 0.25}, {"negative_slope": 1.5}),
    ),
    ActivationSpec(
        "hardsigmoid",
        lambda x: Exact(
            np.clip(x + 3, 0, 6) / 6, np.where(np.abs(x) < 3, (np.abs(x) + 3) / 6, x >= 3)
        ),
        lambda g, x: np.where((x > -3) & (x < 3), g / 6, 0),
        special=[(_NAN, _NAN, 0), (_INF, 1, 0), (-_INF, 0, 0), (-3, 0, 0), (3, 1, 0)],
        eps=(1, 1.5),
        kinks=(-3.0, 3.0),
        edges=(-3.0, 3.0),
        torch_float64=1e-7,  # 1 / 6
    ),
    ActivationSpec(
        "hardswish",
        lambda x: Exact(x * np.clip(x + 3, 0, 6) / 6, np.abs(x)),
        lambda g, x: Exact(
            g * np.where(x <= -3, 0, np.where(x < 3, x / 3 + 0.5, 1)), np.abs(g) * (1 + np.abs(x))
        ),
        special=[
            (_NAN, _NAN, _NAN),
            (_INF, _INF, 1),
            (-_INF, -0.0, 0),
            (-0.0, -0.0, 0.5),
            (-3, -0.0, 0),
            (3, 3, 1),
        ],
        eps=(2, 2),
        kinks=(-3.0, 3.0),
        edges=(-3.0, 3.0),
        limits=(-_INF,),
    ),
    ActivationSpec(
        "softsign",
        lambda x: x / (1 + np.abs(x)),
        lambda g, y: g * (1 - np.abs(y)) ** 2,
        special=[
            (_NAN, _NAN, _NAN),
            (_INF, 1, 0),
            (-_INF, -1, 0),
            (-0.0, -0.0, 1),
            (1e-45, 1e-45, 1),
        ],
        eps=(1, 3),
        limits=(-_INF, _INF),
    ),
    ActivationSpec(
        "sigmoid",
        _sigmoid,
        lambda g, y: g * y * (1 - y),
        special=[
            (_NAN, _NAN, _NAN),
            (_INF, 1, 0),
            (-_INF, 0.0, 0),
            (0.0, 0.5, 0.25),
            (-0.0, 0.5, 0.25),
        ],
        eps=(3, 2),
        kinks=(),
    ),
    ActivationSpec(
        "tanh",
        np.tanh,
        lambda g, y: g * (1 - y) * (1 + y),
        special=[
            (_NAN, _NAN, _NAN),
            (_INF, 1, 0),
            (-_INF, -1, 0),
            (-0.0, -0.0, 1),
            (1e-45, 1e-45, 1),
        ],
        eps=(3.5, 2),
        kinks=(),
    ),
    ActivationSpec(
        "logsigmoid",
        lambda x: -_softplus(-x),
        lambda g, y: -g * np.expm1(y),
        special=[(_NAN, _NAN, _NAN), (_INF, 0.0, 0), (-_INF, -_INF, 1)],
        eps=(2, 3),
        kinks=(),
    ),
    ActivationSpec(
        "elu",
        lambda x, alpha=1.0: _exponential_unit(x, 1, alpha, 1),
        lambda g, y, alpha=1.0: _exponential_unit_gradient(g, y, 1, alpha, 1),
        special=[
            (_NAN, _NAN, _NAN),
            (_INF, _INF, 1),
            (-_INF, -1, 0),
            (-0.0, -0.0, 1),
            (0.0, 0.0, 1),
            (-1e-45, -1e-45, 1),
        ],
        eps=(3, 2),
        options=({}, {"alpha": 2.0}, {"alpha": 0.25}, {"alpha": 0.0}),
    ),
    ActivationSpec(
        "celu",
        lambda x, alpha=1.0: _exponential_unit(x, 1, alpha, alpha),
        lambda g, y, alpha=1.0: _exponential_unit_gradient(g, y, 1, alpha, alpha),
        special=[
            (_NAN, _NAN, _NAN),
            (_INF, _INF, 1),
            (-_INF, -1, 0),
            (-0.0, -0.0, 1),
            (0.0, 0.0, 1),
        ],
        eps=(4, 3),
        options=({}, {"alpha": 2.0}, {"alpha": 0.3}),
        torch_float64=1e-6,  # 1 / alpha
    ),
    ActivationSpec(
        "selu",
        lambda x: _exponential_unit(x, _SELU_SCALE, _SELU_SCALE * _SELU_ALPHA, 1),
        lambda g, y: _exponential_unit_gradient(g, y, _SELU_SCALE, _SELU_SCALE * _SELU_ALPHA, 1),
        special=[
            (_NAN, _NAN, _NAN),
            (_INF, _INF, None),
            (-_INF, -float(_SELU_SCALE) * float(_SELU_ALPHA), 0),
            (-0.0, -0.0, None),
        ],
        eps=(3, 2),
    ),
    ActivationSpec(
        "softplus",
        _softplus_of,
        _softplus_gradient,
        special=[(_NAN, _NAN, _NAN), (_INF, _INF, 1), (-_INF, 0.0, 0), (21, 21, 1)],
        eps=(3, 3),
        options=({}, {"beta": 2.0, "threshold": 5.0}, {"beta": 0.7}),
        kinks=(2.5,),
        edges=(0.0, 2.5, 20.0, 21.0),
    ),
    ActivationSpec(
        "silu",
        lambda x: x * _sigmoid(x),
        lambda g, x: _terms(g, _sigmoid(x), x * _sigmoid(x) * _sigmoid(-x)),
        special=[
            (_NAN, _NAN, _NAN),
            (_INF, _INF, 1),
            (-_INF, -0.0, 0),
            (0.0, 0.0, 0.5),
            (-0.0, -0.0, 0.5),
        ],
        eps=(3, 4),
        kinks=(),
        limits=(-_INF,),
    ),
    ActivationSpec(
        "mish",
        lambda x: x * np.tanh(_softplus(x)),
        lambda g, x: _terms(g, np.tanh(_softplus(x)), x * _sigmoid(x) / np.cosh(_softplus(x)) ** 2),
        special=[
            (_NAN, _NAN, _NAN),
            (_INF, _INF, 1),
            (-_INF, -0.0, 0),
            (0.0, 0.0, None),
            (-0.0, -0.0, None),
        ],
        eps=(5, 8),
        kinks=(),
        limits=(-_INF,),
    ),
    ActivationSpec(
        "gelu",
        _gelu,
        _gelu_gradient,
        special=[
            (_NAN, _NAN, _NAN),
            (_INF, _INF, 1),
            (-_INF, -0.0, 0),
            (0.0, 0.0, 0.5),
            (-0.0, -0.0, 0.5),
        ],
        eps=(9, 10),
        options=({}, {"approximate": "tanh"}),
        kinks=(),
        limits=(-_INF, _INF),
    ),
]


# --- prelu, glu, swiglu, maxout


def _channel_shapes(size: int) -> list[Shape]:
    """Channels side by side; short rows of each; long ones."""
    return [(3, size), (2, 3, size), (2, size, 3)]


def _slopes(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight if weight.size == 1 else weight.reshape(1, -1, *[1] * (x.ndim - 2))


def _prelu_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    x = (2 * rng.standard_normal(shape)).astype(dtype)
    x.reshape(-1)[::7] = 0
    count = 1 if options.get("shared") or len(shape) < 2 else shape[1]
    return {
        "x": x,
        "grad_output": rng.standard_normal(shape).astype(dtype),
        "weight": rng.uniform(-0.5, 1, count).astype(dtype),
    }


def _prelu_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    x = a["x"]
    return (Exact(np.where(x > 0, x, x * _slopes(x, a["weight"]))),)


def _prelu_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    x, g, weight = a["x"], a["grad_output"], a["weight"]
    dx = np.where(x > 0, g, g * _slopes(x, weight))
    terms = np.where(x > 0, 0, g * x)
    axes = tuple(range(x.ndim)) if weight.size == 1 else (0, *range(2, x.ndim))
    value, size = (part.sum(axis=axes).reshape(weight.shape) for part in (terms, np.abs(terms)))
    return Exact(dx), Exact(value, size)


PRELU = Operation(
    "prelu",
    _prelu_sample,
    shapes=_channel_shapes,
    options=({}, {"shared": True}),
    calls=[
        Call(
            "prelu",
            run=lambda a, o, out: (dlkernels.prelu(a["x"], a["weight"], out=out),),
            reference=_prelu_reference,
            eps=(0.5,),
            out=0,
            in_place=("x",),
            bytes_per_element=8,
            torch_twin="functional.prelu",
        ),
        Call(
            "prelu_backward",
            run=lambda a, o, out: dlkernels.prelu_backward(a["grad_output"], a["x"], a["weight"]),
            reference=_prelu_backward_reference,
            eps=(0.5, 6),
            bytes_per_element=12,
        ),
    ],
)


def _gated_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    names = ("gate", "up", "grad_output")
    return {name: (2 * rng.standard_normal(shape)).astype(dtype) for name in names}


def _glu_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    a = _gated_sample(rng, shape, dtype, options)
    return {
        "x": np.concatenate([a["up"], a["gate"]], axis=1),
        "grad_output": a["grad_output"],
    }


def _gated_exact(value: Any, gate: Any, g: Any, silu: bool) -> tuple[Exact, Exact, Exact]:
    """The result, and the gradients of value and gate."""
    s, rest = _sigmoid(gate), _sigmoid(-gate)
    if not silu:
        return Exact(value * s), Exact(g * s), Exact(g * value * s * rest)
    slope = _terms(g * value, s, gate * s * rest)
    return Exact(value * gate * s), Exact(g * gate * s), slope


def _glu_exact(a: Arrays) -> tuple[Exact, ...]:
    value, gate = np.split(a["x"], 2, axis=1)
    y, *grads = _gated_exact(value, gate, a["grad_output"], False)
    return y, Exact(np.concatenate([part.value for part in grads], axis=1))


def _swiglu_exact(a: Arrays) -> tuple[Exact, ...]:
    y, d_up, d_gate = _gated_exact(a["up"], a["gate"], a["grad_output"], True)
    return y, d_gate, d_up


GLU = Operation(
    "glu",
    _glu_sample,
    shapes=lambda size: [(3, size)],
    calls=[
        Call(
            "glu",
            run=lambda a, o, out: (dlkernels.glu(a["x"], axis=1),),
            reference=lambda a, o: _glu_exact(a)[:1],
            eps=(4,),
            bytes_per_element=12,
            torch_twin="functional.glu",
        ),
        Call(
            "glu_backward",
            run=lambda a, o, out: (dlkernels.glu_backward(a["grad_output"], a["x"], axis=1),),
            reference=lambda a, o: _glu_exact(a)[1:],
            eps=(6,),
            bytes_per_element=20,
        ),
    ],
)

SWIGLU = Operation(
    "swiglu",
    _gated_sample,
    shapes=lambda size: [(size,)],
    elementwise=True,
    calls=[
        Call(
            "swiglu",
            run=lambda a, o, out: (dlkernels.swiglu(a["gate"], a["up"]),),
            reference=lambda a, o: _swiglu_exact(a)[:1],
            eps=(5,),
            bytes_per_element=12,
            torch_twin="functional.swiglu",
        ),
        Call(
            "swiglu_backward",
            run=lambda a, o, out: dlkernels.swiglu_backward(a["grad_output"], a["gate"], a["up"]),
            reference=lambda a, o: _swiglu_exact(a)[1:],
            eps=(6, 5),
            bytes_per_element=20,
        ),
    ],
)


def _maxout_shape(shape: Shape, pieces: int) -> Shape:
    return (shape[0], pieces * shape[1], *shape[2:])


def _maxout_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    pieces = options["pieces"]
    # Small whole numbers: many are equal.
    x = rng.integers(-2, 3, _maxout_shape(shape, pieces)).astype(dtype)
    _, index = dlkernels.maxout(x, pieces, return_index=True)
    return {"x": x, "grad_output": rng.standard_normal(shape).astype(dtype), "index": index}


def _pieces(x: np.ndarray, pieces: int) -> np.ndarray:
    """Their axis behind axis 1."""
    return x.reshape(x.shape[0], x.shape[1] // pieces, pieces, *x.shape[2:])


def _maxout_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    return (Exact(_pieces(a["x"], options["pieces"]).max(axis=2)),)


def _maxout_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    parts = _pieces(a["x"], options["pieces"])
    winner = np.expand_dims(parts.argmax(axis=2), 2)
    dx = np.zeros_like(parts)
    np.put_along_axis(dx, winner, np.expand_dims(a["grad_output"], 2), axis=2)
    return (Exact(dx.reshape(a["x"].shape)),)


MAXOUT = Operation(
    "maxout",
    _maxout_sample,
    shapes=lambda size: [(3, size), (2, 3, size)],
    options=({"pieces": 2}, {"pieces": 3}, {"pieces": 5}, {"pieces": 1}),
    calls=[
        Call(
            "maxout",
            run=lambda a, o, out: (dlkernels.maxout(a["x"], o["pieces"]),),
            reference=_maxout_reference,
            eps=(0,),
            bytes_per_element=12,
            torch_twin="functional.maxout",
        ),
        Call(
            "maxout_backward",
            run=lambda a, o, out: (
                dlkernels.maxout_backward(a["grad_output"], a["index"], o["pieces"]),
            ),
            reference=_maxout_backward_reference,
            eps=(0,),
            bytes_per_element=12,
        ),
    ],
)


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


# --- batch normalization


def _norm_shapes(size: int) -> list[Shape]:
    """Channels side by side, as many as `size`; then positions side by side."""
    return [(3, size) if size else (0, 5), (2, 3, size)]


def _norm_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    channels = shape[1]
    arrays = {
        "x": (2 * rng.standard_normal(shape) + 1).astype(dtype),
        "grad_output": rng.standard_normal(shape).astype(dtype),
    }
    if options.get("affine", True):
        arrays["weight"] = rng.uniform(0.5, 1.5, channels).astype(dtype)
        arrays["bias"] = rng.standard_normal(channels).astype(dtype)
    if options.get("residual"):
        arrays["residual"] = rng.standard_normal(shape).astype(dtype)
    if not options.get("training"):
        arrays["running_mean"] = rng.standard_normal(channels).astype(dtype)
        arrays["running_var"] = rng.uniform(0.5, 2, channels).astype(dtype)
    return arrays


_NORM_ARRAYS = ("weight", "bias", "residual", "running_mean", "running_var")
_NORM_OPTIONS = ("training", "activation", "negative_slope", "eps")


def norm_keywords(arrays: Arrays, options: Options) -> dict[str, Any]:
    """The keyword arguments of a batch normalization for a sample."""
    return {
        **{name: arrays[name] for name in _NORM_ARRAYS if name in arrays},
        **{name: options[name] for name in _NORM_OPTIONS if name in options},
    }


class _Norm(NamedTuple):
    """A batch normalization before its activation, and the magnitudes of its terms."""

    centred: np.ndarray  # (x - mean) / std
    magnitude: np.ndarray  # (|x| + |mean|, or the mean of |x|) / std
    factor: np.ndarray  # weight / std
    z: np.ndarray
    z_scale: np.ndarray


def _norm(a: Arrays, options: Options) -> _Norm:
    x = a["x"]
    axes = (0, *range(2, x.ndim))

    def spread(vector: np.ndarray) -> np.ndarray:
        return vector.reshape(1, -1, *[1] * (x.ndim - 2))

    if options.get("training"):
        mean = x.mean(axis=axes, keepdims=True) if x.size else spread(np.zeros(x.shape[1]))
        var = ((x - mean) ** 2).mean(axis=axes, keepdims=True) if x.size else mean
        mean_scale = np.abs(x).mean(axis=axes, keepdims=True) if x.size else mean
    else:
        mean, var = spread(a["running_mean"]), spread(a["running_var"])
        mean_scale = np.abs(mean)
    invstd = 1 / np.sqrt(var + x.dtype.type(options.get("eps", 1e-5)))
    weight, bias = (
        spread(a.get("weight", np.ones(x.shape[1]))),
        spread(a.get("bias", np.zeros(x.shape[1]))),
    )
    residual = a.get("residual", np.zeros_like(x))
    centred, magnitude = (x - mean) * invstd, (np.abs(x) + mean_scale) * invstd
    z = centred * weight + bias + residual
    z_scale = magnitude * np.abs(weight) + np.abs(bias) + np.abs(residual)
    return _Norm(centred, magnitude, weight * invstd, z, z_scale)


def _norm_activation(z: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """The activation and its derivative."""
    name = options.get("activation")
    if name is None:
        return z, np.ones_like(z)
    if name == "silu":
        s = 1 / (1 + np.exp(-z))
        return z * s, s * (1 + z * (1 - s))
    slope = 0.0 if name == "relu" else z.dtype.type(options.get("negative_slope", 0.01))
    return np.where(z > 0, z, slope * z), np.where(z > 0, 1, slope + 0 * z)


def _batch_norm_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    norm = _norm(a, options)
    y, _ = _norm_activation(norm.z, options)
    return (Exact(y, norm.z_scale + np.abs(y)),)


def _batch_norm_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    norm, g = _norm(a, options), a["grad_output"]
    dy = g * _norm_activation(norm.z, options)[1]
    curved = norm.z_scale if options.get("activation") == "silu" else 0
    dy_scale = np.abs(g) * (1 + curved)
    dx, dx_scale = dy, dy_scale
    if options.get("training") and g.size:
        axes = (0, *range(2, g.ndim))
        mean, projection = (part.mean(axis=axes, keepdims=True) for part in (dy, dy * norm.centred))
        mean_scale, projection_scale = (
            part.mean(axis=axes, keepdims=True) for part in (dy_scale, dy_scale * norm.magnitude)
        )
        dx = dy - mean - norm.centred * projection
        dx_scale = dy_scale + mean_scale + norm.magnitude * projection_scale
    results = [Exact(dx * norm.factor, dx_scale * np.abs(norm.factor))]
    if "residual" in a:
        results.append(Exact(dy, dy_scale))
    return tuple(results)


def _batch_norm_backward(a: Arrays, options: Options) -> tuple[Any, ...]:
    grads = dlkernels.batch_norm_backward(a["grad_output"], a["x"], **norm_keywords(a, options))
    return (grads.input,) if grads.residual is None else (grads.input, grads.residual)


BATCH_NORM = Operation(
    "batch_norm",
    _norm_sample,
    shapes=_norm_shapes,
    options=(
        {"training": True, "residual": True, "activation": "relu"},
        {},
        {"training": True},
        {"training": True, "activation": "leaky_relu", "negative_slope": 0.2, "affine": False},
        {"training": True, "residual": True, "activation": "silu", "eps": 0.01},
        {"residual": True, "activation": "silu"},
    ),
    calls=[
        Call(
            "batch_norm",
            run=lambda a, o, out: (dlkernels.batch_norm(a["x"], out=out, **norm_keywords(a, o)),),
            reference=_batch_norm_reference,
            # 2 for float32; float64's statistics are sums of as many float64s, no wider
            eps=(8,),
            out=0,
            in_place=("x",),
            bytes_per_element=8,
        ),
        Call(
            "batch_norm_backward",
            run=lambda a, o, out: _batch_norm_backward(a, o),
            reference=_batch_norm_backward_reference,
            eps=(8, 4),
            bytes_per_element=12,
        ),
    ],
)
# --- elementwise losses

_Terms = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class LossSpec:
    """An elementwise loss: what every test of it, on both fronts, is made from.

    Attributes:
        name: Its name in `dlkernels`.
        function: `function(operands, **parameters)` in NumPy -> each loss, and the magnitude that
            its error is in proportion to; `operands` holds the arrays of `sample` by their names.
        gradients: For each operand that has one, its derivative and that one's magnitude, likewise.
        sample: `sample(rng, shape)` -> the operands, in float64.
        special: Triples of operands (by name, numbers), parameters and exact loss.
        options: Sets of parameters to test, the defaults first; `reduction`, `weight` and
            `pos_weight` (True: there is one) among them.
        eps: Largest error of the loss and of a gradient, in the computing dtype's eps.
        torch_name: Its twin in `torch.nn.functional`; None: there is none.
    """

    name: str
    function: Callable[..., _Terms]
    gradients: Mapping[str, Callable[..., _Terms]]
    sample: Callable[[np.random.Generator, Shape], dict[str, np.ndarray]]
    special: Sequence[tuple[Mapping[str, float], Options, float]] = ()
    options: Sequence[Options] = ({}, {"reduction": "sum"}, {"reduction": "none"})
    eps: tuple[float, float] = (4, 4)
    torch_name: str | None = None

    @property
    def default_reduction(self) -> str:
        """What it does if nothing is said."""
        return LOSS_ROWS[self.name].reduction or "axis"

    def arrays(
        self, rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
    ) -> dict[str, np.ndarray]:
        """Operands for a set of options."""
        arrays = self.sample(rng, shape)
        for name in ("weight", "pos_weight"):
            if options.get(name):
                arrays[name] = rng.uniform(0.25, 2, shape)
        return {name: value.astype(dtype) for name, value in arrays.items()}

    def keywords(self, arrays: Arrays, options: Options) -> dict[str, Any]:
        """The arguments of the front for a sample."""
        keywords = {k: v for k, v in options.items() if k not in ("weight", "pos_weight")}
        return {**{name: arrays[name] for name in self.names(options)}, **keywords}

    def names(self, options: Options) -> tuple[str, ...]:
        """The operands of a set of options."""
        row = LOSS_ROWS[self.name]
        extra = [o.name for o in row.operands if o.default is None or options.get(o.name)]
        return (*row.inputs, *extra)

    def exact(self, arrays: Arrays, options: Options) -> tuple[Exact, ...]:
        """The loss, and the gradient of its first operand, of the sum under ``"none"``."""
        named = ("reduction", "weight", "pos_weight", "axis")
        parameters = {k: v for k, v in options.items() if k not in named}
        first = LOSS_ROWS[self.name].inputs[0]
        with np.errstate(all="ignore"):
            value, scale = self.function(arrays, **parameters)
            slope, slope_scale = self.gradients[first](arrays, **parameters)
        weight = arrays.get("weight", np.ones((), value.dtype))
        value, scale, slope, slope_scale = (
            part * weight for part in (value, scale, slope, slope_scale)
        )
        reduction = options.get("reduction", self.default_reduction)
        if reduction == "axis":
            axis = options.get("axis", -1)
            return Exact(value.sum(axis=axis), scale.sum(axis=axis)), Exact(slope, slope_scale)
        divisor = np.asarray(1, value.dtype)
        if reduction == "mean":
            weighted = "weight" in arrays and self.name in ("mse_loss", "l1_loss")
            divisor = weight.sum() if weighted else np.asarray(value.size, value.dtype)
        with np.errstate(all="ignore"):
            return (
                Exact(_reduced(value, {"reduction": reduction}, divisor),
                      _reduced(scale, {"reduction": reduction}, divisor)),
                Exact(slope / divisor, slope_scale / divisor),
            )  # fmt: skip

    def operation(self) -> Operation:
        """Its forward and gradient as the generic tests take them."""
        function = getattr(dlkernels, self.name)
        with_grad = getattr(dlkernels, f"{self.name}_with_grad")
        first = LOSS_ROWS[self.name].inputs[0]

        def called(arrays: Arrays, options: Options, front: Any, **extra: Any) -> Any:
            return front(**self.keywords(arrays, options), **extra)

        return Operation(
            self.name,
            lambda rng, shape, dtype, options: self.arrays(rng, shape, dtype, options),
            shapes=_loss_shapes if self.default_reduction != "axis" else _row_shapes,
            options=self.options,
            calls=[
                Call(
                    self.name,
                    run=lambda a, o, out: (called(a, o, function),),
                    reference=lambda a, o: self.exact(a, o)[:1],
                    eps=self.eps[:1],
                    bytes_per_element=8,
                    torch_twin=f"functional.{self.name}",
                ),
                Call(
                    f"{self.name}_with_grad",
                    run=lambda a, o, out: _swap(called(a, o, with_grad, out=out)),
                    reference=lambda a, o: _swap(self.exact(a, o)),
                    eps=self.eps[::-1],
                    out=0,
                    in_place=(first,),
                    bytes_per_element=12,
                ),
            ],
            broadcasts=True,
        )


def _two_normal(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    return {"input": rng.standard_normal(shape), "target": rng.standard_normal(shape)}


def _logits_and_targets(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    target = np.where(rng.random(shape) < 0.5, rng.random(shape), rng.random(shape) < 0.5)
    return {"input": 3 * rng.standard_normal(shape), "target": target}


def _probabilities_and_targets(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    u, end = rng.random(shape), rng.integers(0, 3, shape)
    probability = np.where(end == 0, u * u * u, np.where(end == 1, 1 - u * u * u, u))
    # Nearer to the ends float16 has no room for the gradient.
    return {**_logits_and_targets(rng, shape), "input": 1e-3 + 0.998 * probability}


def _log_probabilities(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    target = rng.random(shape) * (rng.random(shape) < 0.9)
    u = rng.uniform(0.1, 1.6, shape)
    return {"input": -u * u, "target": target}


def _with_variance(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    return {**_two_normal(rng, shape), "var": rng.uniform(0.02, 3, shape)}


def _rates(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    return {"input": rng.uniform(0.01, 3, shape), "target": rng.integers(0, 9, shape).astype(float)}


def _two_distributions(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    p = rng.random(shape) * (rng.random(shape) < 0.9)
    near = p * rng.uniform(0.9, 1.1, shape) + 1e-3
    return {"p": p, "q": np.where(rng.random(shape) < 0.5, near, rng.uniform(0.01, 1, shape))}


def _own(value: np.ndarray) -> _Terms:
    return value, np.abs(value)


def _difference(a: Arrays) -> np.ndarray:
    return a["input"] - a["target"]


def _huber(a: Arrays, delta: float = 1.0) -> _Terms:
    d = np.abs(_difference(a))
    return _own(np.where(d <= delta, d * d / 2, delta * (d - delta / 2)))


def _smooth_l1(a: Arrays, beta: float = 1.0) -> _Terms:
    d = np.abs(_difference(a))
    return _own(np.where(d < beta, d * d / (2 * beta or 1), d - beta / 2))


def _smooth_l1_slope(a: Arrays, beta: float = 1.0) -> _Terms:
    d = _difference(a)
    return _own(np.where(np.abs(d) < beta, d / (beta or 1), np.sign(d)))


def _xlogy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(x == 0, 0, x * np.log(np.where(x == 0, 1, y)))


def _kl_div(a: Arrays, log_target: bool = False) -> _Terms:
    x, t = a["input"], a["target"]
    if log_target:
        return _own(np.exp(t) * (t - x))
    return _xlogy(t, t) - t * x, np.abs(_xlogy(t, t)) + np.abs(t * x)


def _bce(a: Arrays) -> _Terms:
    x, t = a["input"], a["target"]
    return _own(-t * np.maximum(np.log(x), -100) - (1 - t) * np.maximum(np.log1p(-x), -100))


def _bce_slope(a: Arrays) -> _Terms:
    x, t = a["input"], a["target"]
    return _own((x - t) / np.maximum((1 - x) * x, 1e-12))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-_softplus(-x))


def _bce_logits(a: Arrays) -> _Terms:
    x, t = a["input"], a["target"]
    return _own((1 - t) * _softplus(x) + a.get("pos_weight", 1) * t * _softplus(-x))


def _bce_logits_slope(a: Arrays) -> _Terms:
    x, t = a["input"], a["target"]
    up, down = (1 - t) * _sigmoid(x), a.get("pos_weight", 1) * t * _sigmoid(-x)
    return up - down, up + down


def _gaussian(a: Arrays, full: bool = False, eps: float = 1e-6) -> _Terms:
    variance = np.maximum(a["var"], eps)
    square, constant = _difference(a) ** 2 / variance, np.log(2 * np.pi) if full else 0
    return (np.log(variance) + square + constant) / 2, (
        1 + np.abs(np.log(variance)) + square + constant
    ) / 2


def _stirling(t: np.ndarray) -> _Terms:
    t = np.where(t > 1, t, 1)
    terms = [t * np.log(t), -t, np.log(2 * np.pi * t) / 2]
    return tuple(  # type: ignore[return-value]
        np.where(t > 1, part, 0) for part in (sum(terms), sum(map(np.abs, terms)))
    )


def _poisson(a: Arrays, log_input: bool = True, full: bool = False, eps: float = 1e-8) -> _Terms:
    x, t = a["input"], a["target"]
    if log_input:
        value, scale = np.exp(x) - t * x, np.exp(x) + np.abs(t * x)
    else:
        value, scale = x - t * np.log(x + eps), x + t * (1 + np.abs(np.log(x + eps)))
    extra, extra_scale = _stirling(t) if full else (0, 0)
    return value + extra, scale + extra_scale


def _poisson_slope(
    a: Arrays, log_input: bool = True, full: bool = False, eps: float = 1e-8
) -> _Terms:
    x, t = a["input"], a["target"]
    first, second = (np.exp(x), t) if log_input else (np.ones_like(x), t / (x + eps))
    return first - second, first + second


def _focal_terms(a: Arrays, alpha: float, gamma: float) -> tuple[np.ndarray, ...]:
    x, t = a["input"], a["target"]
    miss = (1 - t) * _sigmoid(x) + t * _sigmoid(-x)
    balance = alpha * t + (1 - alpha) * (1 - t) if alpha >= 0 else np.ones_like(x)
    growth = 1 + gamma * np.abs(np.log(miss)) * (gamma not in (0, 2))
    return miss, balance * growth, balance, (1 - t) * _softplus(x) + t * _softplus(-x)


def _focal(a: Arrays, alpha: float = 0.25, gamma: float = 2) -> _Terms:
    miss, scale, balance, entropy = _focal_terms(a, alpha, gamma)
    return balance * miss**gamma * entropy, scale * miss**gamma * entropy


def _focal_slope(a: Arrays, alpha: float = 0.25, gamma: float = 2) -> _Terms:
    x, t = a["input"], a["target"]
    miss, scale, balance, entropy = _focal_terms(a, alpha, gamma)
    up, down = (1 - t) * _sigmoid(x), t * _sigmoid(-x)
    spread = gamma * miss ** (gamma - 1) * entropy * _sigmoid(x) * _sigmoid(-x)
    return balance * (miss**gamma * (up - down) + spread * (1 - 2 * t)), scale * (
        miss**gamma * (up + down) + spread
    )


def _unit(base: float | None) -> float:
    return 1 if base is None else 1 / np.log(base)


def _of_axis(function: Callable[[Arrays], _Terms]) -> Callable[..., _Terms]:
    """With a base of the logarithm."""

    def scaled(a: Arrays, base: float | None = None) -> _Terms:
        value, scale = function(a)
        return value * _unit(base), scale * _unit(base)

    return scaled


_AXIS_OPTIONS: tuple[Options, ...] = ({"axis": 1}, {"axis": -1, "base": 2}, {"axis": 0})

ELEMENTWISE_LOSSES = [
    LossSpec(
        "mse_loss",
        lambda a: _own(_difference(a) ** 2),
        {"input": lambda a: _own(2 * _difference(a))},
        _two_normal,
        special=[
            ({"input": _NAN, "target": 1}, {}, _NAN),
            ({"input": -_INF, "target": 1}, {}, _INF),
            ({"input": _INF, "target": _INF}, {}, _NAN),
        ],
        options=(
            {},
            {"reduction": "sum"},
            {"reduction": "none"},
            {"weight": True},
            {"weight": True, "reduction": "none"},
        ),
        torch_name="mse_loss",
    ),
    LossSpec(
        "l1_loss",
        lambda a: _own(np.abs(_difference(a))),
        {"input": lambda a: _own(np.sign(_difference(a)))},
        _two_normal,
        special=[
            ({"input": _NAN, "target": 1}, {}, _NAN),
            ({"input": -_INF, "target": 1}, {}, _INF),
        ],
        options=({}, {"reduction": "sum"}, {"reduction": "none"}, {"weight": True}),
        torch_name="l1_loss",
    ),
    LossSpec(
        "smooth_l1_loss",
        _smooth_l1,
        {"input": _smooth_l1_slope},
        _two_normal,
        special=[
            ({"input": _NAN, "target": 1}, {}, _NAN),
            ({"input": -_INF, "target": 1}, {}, _INF),
            ({"input": 3, "target": 1}, {"beta": 0.0}, 2.0),
        ],
        options=({}, {"beta": 0.5, "reduction": "sum"}, {"beta": 0.0}, {"reduction": "none"}),
        torch_name="smooth_l1_loss",
    ),
    LossSpec(
        "huber_loss",
        _huber,
        {"input": lambda a, delta=1.0: _own(np.clip(_difference(a), -delta, delta))},
        _two_normal,
        special=[
            ({"input": _NAN, "target": 1}, {}, _NAN),
            ({"input": -_INF, "target": 1}, {}, _INF),
        ],
        options=(
            {},
            {"delta": 0.5, "reduction": "sum"},
            {"weight": True, "delta": 2.0},
            {"reduction": "none"},
        ),
        torch_name="huber_loss",
    ),
    LossSpec(
        "kl_div",
        _kl_div,
        {
            "input": lambda a, log_target=False: _own(
                -np.exp(a["target"]) if log_target else -a["target"]
            )
        },
        _log_probabilities,
        special=[
            ({"input": -2, "target": 0}, {}, 0.0),
            ({"input": -_INF, "target": 0}, {}, _NAN),
            ({"input": -_INF, "target": 1}, {}, _INF),
            ({"input": 0, "target": -1}, {}, _NAN),
            ({"input": -1, "target": -_INF}, {"log_target": True}, _NAN),
        ],
        options=(
            {},
            {"log_target": True, "reduction": "sum"},
            {"reduction": "none"},
        ),
        torch_name="kl_div",
    ),
    LossSpec(
        "binary_cross_entropy",
        _bce,
        {"input": _bce_slope},
        _probabilities_and_targets,
        special=[
            ({"input": 0, "target": 1}, {}, 100.0),
            ({"input": 1, "target": 0}, {}, 100.0),
            ({"input": 1, "target": 1}, {}, 0.0),
            ({"input": 0, "target": 0}, {}, 0.0),
        ],
        options=(
            {},
            {"reduction": "sum"},
            {"weight": True, "reduction": "none"},
            {"weight": True},
        ),
        torch_name="binary_cross_entropy",
    ),
    LossSpec(
        "binary_cross_entropy_with_logits",
        _bce_logits,
        {"input": _bce_logits_slope},
        _logits_and_targets,
        special=[
            ({"input": _INF, "target": 1}, {}, 0.0),
            ({"input": _INF, "target": 0}, {}, _INF),
            ({"input": _INF, "target": 0.5}, {}, _INF),
            ({"input": -_INF, "target": 0}, {}, 0.0),
            ({"input": -_INF, "target": 1}, {}, _INF),
            ({"input": 1000, "target": 0}, {}, 1000.0),
            ({"input": -1000, "target": 1}, {}, 1000.0),
            ({"input": _NAN, "target": 1}, {}, _NAN),
            ({"input": _NAN, "target": 0}, {}, _NAN),
        ],
        options=(
            {},
            {"reduction": "sum"},
            {"reduction": "none"},
            {"pos_weight": True},
            {"weight": True, "pos_weight": True, "reduction": "none"},
        ),
        torch_name="binary_cross_entropy_with_logits",
    ),
    LossSpec(
        "gaussian_nll_loss",
        _gaussian,
        {"input": lambda a, full=False, eps=1e-6: _own(_difference(a) / np.maximum(a["var"], eps))},
        _with_variance,
        special=[
            ({"input": _NAN, "target": 1, "var": 1}, {}, _NAN),
            ({"input": 1, "target": 1, "var": _NAN}, {}, _NAN),
            ({"input": 2, "target": 1, "var": 1}, {}, 0.5),
            ({"input": 3, "target": 1, "var": 0}, {"eps": 1.0}, 2.0),
        ],
        options=(
            {},
            {"full": True, "eps": 0.1, "reduction": "sum"},
            {"reduction": "none"},
        ),
        torch_name="gaussian_nll_loss",
    ),
    LossSpec(
        "poisson_nll_loss",
        _poisson,
        {"input": _poisson_slope},
        _rates,
        special=[
            ({"input": _NAN, "target": 1}, {}, _NAN),
            ({"input": 0, "target": 3}, {}, 1.0),
            ({"input": 0, "target": 0}, {"log_input": False}, 0.0),
            ({"input": 0, "target": 1}, {"full": True}, 1.0),
        ],
        options=(
            {},
            {"reduction": "sum"},
            {"full": True},
            {"log_input": False, "full": True},
            {"log_input": False, "eps": 0.25, "reduction": "none"},
        ),
        torch_name="poisson_nll_loss",
    ),
    LossSpec(
        "sigmoid_focal_loss",
        _focal,
        {"input": _focal_slope},
        _logits_and_targets,
        special=[
            ({"input": _INF, "target": 1}, {}, 0.0),
            ({"input": -_INF, "target": 0}, {}, 0.0),
            ({"input": -_INF, "target": 1}, {}, _INF),
            ({"input": _NAN, "target": 1}, {}, _NAN),
            ({"input": 0, "target": 1}, {"gamma": 0, "alpha": -1}, float(np.log(2))),
        ],
        options=(
            {"reduction": "mean"},
            {"alpha": -1, "gamma": 0, "reduction": "sum"},
            {},
            {"alpha": 0.5, "gamma": 1.5},
            {"gamma": 3, "reduction": "mean"},
        ),
        eps=(8, 12),
    ),
    LossSpec(
        "entropy",
        _of_axis(lambda a: _own(-_xlogy(a["p"], a["p"]))),
        {"p": _of_axis(lambda a: (-np.log(a["p"]) - 1, 1 + np.abs(np.log(a["p"]))))},
        lambda rng, shape: {"p": rng.uniform(0.001, 1, shape)},
        options=_AXIS_OPTIONS,
    ),
    LossSpec(
        "cross_entropy_of_distributions",
        _of_axis(lambda a: _own(-_xlogy(a["p"], a["q"]))),
        {"p": _of_axis(lambda a: _own(-np.log(a["q"])))},
        _two_distributions,
        options=_AXIS_OPTIONS,
    ),
    LossSpec(
        "kl_divergence",
        _of_axis(
            lambda a: (
                _xlogy(a["p"], a["p"]) - _xlogy(a["p"], a["q"]),
                a["p"] * (1 + np.abs(np.log(np.where(a["p"] == 0, 1, a["p"])) - np.log(a["q"]))),
            )
        ),
        {
            "p": _of_axis(
                lambda a: (
                    np.log(a["p"]) - np.log(a["q"]) + 1,
                    2 + np.abs(np.log(a["p"])) + np.abs(np.log(a["q"])),
                )
            )
        },
        lambda rng, shape: {
            name: value + 1e-3 for name, value in _two_distributions(rng, shape).items()
        },
        options=_AXIS_OPTIONS,
    ),
]


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


def _length(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).sum())


def _lamb_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    (g, size), (beta1, beta2) = _gradient({**a, "param": 0 * a["param"]}, o), o["betas"]
    m = _average(a["exp_avg"], g, beta1, size)
    v = _average(a["exp_avg_sq"], g * g, beta2, size * size)
    corrections = [1 - beta**T if o["bias_correction"] else 1 for beta in (beta1, beta2)]
    d = np.sqrt(v.value / corrections[1]) + o["eps"]
    decayed = o["weight_decay"] * a["param"]
    u = m.value / corrections[0] / d + decayed
    scale = m.scale / corrections[0] / d + np.abs(decayed)
    norms = _length(a["param"]), _length(u)
    rate = o["lr"] * (norms[0] / norms[1] if norms[0] and norms[1] else 1)
    return _moved(a["param"], (rate * u, rate * scale)), m, v


def _lars_reference(a: Arrays, o: Options) -> tuple[Exact, ...]:
    g, size = _gradient(a, o)
    norms = _length(a["param"]), _length(a["grad"])
    below = norms[1] + o["weight_decay"] * norms[0] + o["eps"]
    ratio = o["trust_coefficient"] * norms[0] / below if norms[0] and norms[1] else 1
    d, scale = o["lr"] * ratio * g, o["lr"] * ratio * size
    if not o["momentum"]:
        return (_moved(a["param"], (d, scale)),)
    keep, old = 1 - o["dampening"], o["momentum"] * a["momentum_buffer"]
    b, b_scale = old + keep * d, np.abs(old) + keep * scale
    step, step_scale = b, b_scale
    if o["nesterov"]:
        step, step_scale = d + o["momentum"] * b, scale + o["momentum"] * b_scale
    return _moved(a["param"], (step, step_scale)), Exact(b, b_scale)


T, MU_PRODUCT, ETA = 7, 0.3, 0.05
_PREVIOUS_SCALARS = {"step": T - 1.0, "mu_product": MU_PRODUCT, "eta": ETA}
_SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf"}


def _optimizer(
    name: str,
    reference: Callable[[Arrays, Options], tuple[Exact, ...]],
    slots: tuple[str, ...],
    options: tuple[Options, ...],
    bytes_per_element: int,
    elementwise: bool = True,
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
        elementwise=elementwise,
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
    _optimizer(
        "LAMB",
        _lamb_reference,
        _MOMENTS,
        ({}, _DECAY, {"lr": 0.1, "bias_correction": False, "betas": (0.3, 0.8)}),
        40,
        elementwise=False,
    ),
    _optimizer(
        "LARS",
        _lars_reference,
        ("momentum_buffer if momentum",),
        (
            {"momentum": 0.0, "weight_decay": 0.1},
            {**_DECAY, "momentum": 0.9, "trust_coefficient": 0.5},
            {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
            {"momentum": 0.9, "nesterov": True, "trust_coefficient": 0.5},
        ),
        28,
        elementwise=False,
    ),
]


# --- dropout


def _any_shapes(size: int) -> list[Shape]:
    return [(size,), (3, size)]


def _dropout_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    return {
        name: rng.standard_normal(shape).astype(dtype) for name in ("x", "residual", "grad_output")
    }


def _kept(x: np.ndarray, options: Options, plane_dims: int) -> np.ndarray:
    """Which elements are kept, of planes in an array (N, C, ...) if `plane_dims` is 2."""
    shape = x.shape[:plane_dims] if plane_dims else x.shape
    mask = dropout_mask(options["seed"], options["p"], shape)
    return mask.reshape(*shape, *[1] * (x.ndim - len(shape)))


def _dropout_factor(x: np.ndarray, options: Options, plane_dims: int = 0) -> np.ndarray:
    keep = 1 - options["p"]
    return _kept(x, options, plane_dims) * (1 / keep if keep else 0.0)


def _alpha_factors(
    x: np.ndarray, options: Options, plane_dims: int
) -> tuple[np.ndarray, np.ndarray | float]:
    """What is multiplied and what is added."""
    p, dropped = options["p"], -1.7580993408473766
    kept = _kept(x, options, plane_dims)
    if p == 1:
        return kept * 0.0, 0.0
    a = 1 / np.sqrt((dropped**2 * p + 1) * (1 - p))
    return kept * a, np.where(kept, 0, dropped * a) - dropped * a * p


def _dropout_operation(name: str, *, alpha: bool = False, plane_dims: int = 0) -> Operation:
    forward, backward = (getattr(dlkernels, name + suffix) for suffix in ("", "_backward"))

    def factors(x: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray | float]:
        if alpha:
            return _alpha_factors(x, options, plane_dims)
        return _dropout_factor(x, options, plane_dims), 0.0

    def reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
        factor, shift = factors(a["x"], options)
        product = a["x"] * factor
        return (Exact(product + shift, np.abs(product) + np.abs(shift)),)

    return Operation(
        name,
        _dropout_sample,
        shapes=_row_shapes if plane_dims else _any_shapes,
        options=(
            {"p": 0.5, "seed": 1},
            {"p": 0.1, "seed": 2**63 + 5},
            {"p": 0.97, "seed": 2**32},
            {"p": 1.0, "seed": 3},
        ),
        calls=[
            Call(
                name,
                run=lambda a, o, out: (forward(a["x"], out=out, **o),),
                reference=reference,
                eps=(1.5,),
                out=0,
                in_place=("x",),
                torch_twin=f"functional.{name}",
            ),
            Call(
                f"{name}_backward",
                run=lambda a, o, out: (backward(a["grad_output"], **o),),
                reference=lambda a, o: (Exact(a["grad_output"] * factors(a["grad_output"], o)[0]),),
                eps=(1.5,),
            ),
        ],
    )


def _dropout_add_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    product = a["x"] * _dropout_factor(a["x"], options)
    return (Exact(product + a["residual"], np.abs(product) + np.abs(a["residual"])),)


DROPOUT_ADD = Operation(
    "dropout_add",
    _dropout_sample,
    shapes=_any_shapes,
    options=({"p": 0.5, "seed": 1}, {"p": 0.1, "seed": 7}, {"p": 0.0}),
    calls=[
        Call(
            "dropout_add",
            run=lambda a, o, out: (dlkernels.dropout_add(a["x"], a["residual"], out=out, **o),),
            reference=lambda a, o: _dropout_add_reference(a, {"seed": 0, **o}),
            eps=(1.5,),
            out=0,
            in_place=("x", "residual"),
            bytes_per_element=12,
            torch_twin="functional.dropout_add",
        ),
    ],
)


def _bias_act_sample(
    rng: np.random.Generator, shape: Shape, dtype: np.dtype, options: Options
) -> dict[str, Any]:
    names = ("x", "grad_output")
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name in names}
    return {**arrays, "bias": rng.standard_normal(shape[-1:]).astype(dtype)}


def _rounded_sum(a: Arrays) -> np.ndarray:
    """x + bias as the kernel has it: rounded, but for float64, to float32."""
    total = a["x"] + a["bias"]
    return total if total.dtype == np.longdouble else total.astype(np.float32).astype(np.float64)


def _bias_act_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    hidden = _rounded_sum(a)
    return (Exact(np.maximum(hidden, 0) * _dropout_factor(hidden, {"seed": 0, **options})),)


def _bias_act_backward_reference(a: Arrays, options: Options) -> tuple[Exact, ...]:
    hidden = _rounded_sum(a)
    grad = a["grad_output"] * (hidden > 0) * _dropout_factor(hidden, {"seed": 0, **options})
    rows = tuple(range(grad.ndim - 1))
    return Exact(grad), Exact(grad.sum(axis=rows), np.abs(grad).sum(axis=rows))


BIAS_ACT_DROPOUT = Operation(
    "bias_act_dropout",
    _bias_act_sample,
    shapes=_any_shapes,
    options=({"p": 0.5, "seed": 1}, {"p": 0.1, "seed": 7}, {"p": 0.0}),
    calls=[
        Call(
            "bias_act_dropout",
            run=lambda a, o, out: (
                dlkernels.bias_act_dropout(a["x"], a["bias"], "relu", out=out, **o),
            ),
            reference=_bias_act_reference,
            eps=(1.5,),
            out=0,
            in_place=("x",),
            torch_twin="functional.bias_act_dropout",
        ),
        Call(
            "bias_act_dropout_backward",
            run=lambda a, o, out: dlkernels.bias_act_dropout_backward(
                a["grad_output"], a["x"], a["bias"], "relu", **o
            ),
            reference=_bias_act_backward_reference,
            eps=(1.5, 1.5),
            bytes_per_element=12,
        ),
    ],
    free_rows=("x",),
)

OPERATIONS = [
    *(activation.operation() for activation in ACTIVATIONS),
    PRELU,
    GLU,
    SWIGLU,
    MAXOUT,
    SOFTMAX,
    LOG_SOFTMAX,
    NLL_LOSS,
    *(loss.operation() for loss in ELEMENTWISE_LOSSES),
    CROSS_ENTROPY,
    BATCH_NORM,
    SGD,
    *OPTIMIZERS,
    _dropout_operation("dropout"),
    _dropout_operation("alpha_dropout", alpha=True),
    _dropout_operation("feature_alpha_dropout", alpha=True, plane_dims=2),
    DROPOUT_ADD,
    BIAS_ACT_DROPOUT,
]


def cases() -> Iterator[tuple[Operation, Call]]:
    """Every call of every operation."""
    for operation in OPERATIONS:
        for call in operation.calls:
            yield operation, call
