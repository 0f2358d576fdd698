"""Functions of one number in NumPy, to all digits of the dtype they are given; and those of
csrc/simd/math.h: what each promises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PI = np.longdouble("3.14159265358979323846264338327950288")
INF, NAN = float("inf"), float("nan")


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """The normal distribution up to x, to all its digits in both tails."""
    size = np.minimum(np.abs(x), x.dtype.type(120))
    density = np.exp(-size * size / 2) / np.sqrt(x.dtype.type(2 * PI))
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


MATH_FUNCTIONS = [
    MathFunction(
        "exp",
        np.exp,
        ulp={"float32": 1, "float64": 1},
        baseline_ulp={"float32": 1, "float64": 1},
        ranges={"float32": [(-104, 89), (-1, 1)], "float64": [(-746, 710), (-1, 1)]},
        special=[(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (NAN, NAN), (1e-45, 1.0)],
    ),
    MathFunction(
        "exp_nonpositive",
        np.exp,
        ulp={"float32": 1, "float64": 1},
        baseline_ulp={"float32": 1, "float64": 1},
        ranges={"float32": [(-104, 1), (-1, 1)], "float64": [(-746, 1), (-1, 1)]},
        special=[(0.0, 1.0), (-0.0, 1.0), (-INF, 0.0), (NAN, NAN), (-1e-45, 1.0)],
        domain={"float32": (-np.inf, 1.0), "float64": (-np.inf, 1.0)},
    ),
    MathFunction(
        "exp_bounded",
        np.exp,
        # 1 + 0.22 |x| for float32, 1 + 0.13 |x| for float64: log2(e) is rounded
        ulp={"float32": 20.2, "float64": 93},
        baseline_ulp={"float32": 1.25, "float64": 1.25},
        ranges={"float32": [(-87, 80), (-1, 1)], "float64": [(-708, 80), (-1, 1)]},
        special=[(0.0, 1.0), (-0.0, 1.0), (-INF, 0.0), (-2e3, 0.0), (NAN, NAN)],
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
            (0.0, -INF),
            (-0.0, -INF),
            (INF, INF),
            (-INF, NAN),
            (-1.0, NAN),
            (-1e-45, NAN),
            (NAN, NAN),
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
            (INF, 1.0),
            (-INF, -1.0),
            (NAN, NAN),
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
            (-INF, -1.0),
            (-1e3, -1.0),
            (NAN, NAN),
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
        special=[(0.0, 0.0), (NAN, NAN), (1e-45, 1e-45)],
        domain={"float32": (0.0, 1.0), "float64": (0.0, 1.0)},
    ),
    MathFunction(
        "sigmoid",
        sigmoid,
        ulp={"float32": 3, "float64": 3},
        baseline_ulp={"float32": 3, "float64": 3},
        ranges={"float32": [(-104, 20), (-3, 3)], "float64": [(-746, 40), (-3, 3)]},
        special=[(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (NAN, NAN), (1e-45, 0.5)],
    ),
    MathFunction(
        "softplus",
        softplus,
        ulp={"float32": 2, "float64": 2},
        baseline_ulp={"float32": 3, "float64": 3},
        ranges={"float32": [(-104, 20), (-3, 3)], "float64": [(-746, 40), (-3, 3)]},
        special=[(INF, INF), (-INF, 0.0), (NAN, NAN)],
    ),
    MathFunction(
        "gauss",
        lambda x: np.exp(-x * x / 2),
        ulp={"float32": 2, "float64": 2},
        baseline_ulp={"float32": 2, "float64": 2},
        ranges={"float32": [(-14.6, 14.6), (-1, 1)], "float64": [(-39, 39), (-1, 1)]},
        special=[(0.0, 1.0), (-0.0, 1.0), (NAN, NAN), (1e-45, 1.0)],
        domain={"float32": (-14.6, 14.6), "float64": (-39.0, 39.0)},
    ),
    MathFunction(
        "normal_cdf",
        normal_cdf,
        ulp={"float32": 6.3, "float64": 8},
        baseline_ulp={"float32": 8, "float64": 11},
        ranges={"float32": [(-12.8, 7), (-5, 1)], "float64": [(-37.4, 9), (-5, 1)]},
        special=[(0.0, 0.5), (-0.0, 0.5), (NAN, NAN), (1e-45, 0.5), (14.5, 1.0)],
        domain={"float32": (-12.8, 14.6), "float64": (-37.4, 39.0)},
    ),
]
