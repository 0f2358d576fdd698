"""The elementwise losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import dlkernels
from dlkernels.elementwise_losses import LOSSES as ROWS
from dlkernels.elementwise_losses import Loss
from operation import (
    Arrays,
    Call,
    Exact,
    Operation,
    Options,
    Shape,
    gradient_first,
    nonempty_row_shapes,
    reduced,
    row_shapes,
)
from scalar_functions import INF, NAN, sigmoid, softplus

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
    def row(self) -> Loss:
        """Its row in the library's table."""
        return ROWS[self.name]

    @property
    def default_reduction(self) -> str:
        """What it does if nothing is said."""
        return self.row.reduction or "axis"

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
        row = self.row
        extra = [o.name for o in row.operands if o.default is None or options.get(o.name)]
        return (*row.inputs, *extra)

    def exact(self, arrays: Arrays, options: Options) -> tuple[Exact, ...]:
        """The loss, and the gradient of its first operand, of the sum under ``"none"``."""
        named = ("reduction", "weight", "pos_weight", "axis")
        parameters = {k: v for k, v in options.items() if k not in named}
        first = self.row.inputs[0]
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
                Exact(reduced(value, {"reduction": reduction}, divisor),
                      reduced(scale, {"reduction": reduction}, divisor)),
                Exact(slope / divisor, slope_scale / divisor),
            )  # fmt: skip

    def operation(self) -> Operation:
        """Its forward and gradient as the generic tests take them."""
        function = getattr(dlkernels, self.name)
        with_grad = getattr(dlkernels, f"{self.name}_with_grad")
        first = self.row.inputs[0]

        def called(arrays: Arrays, options: Options, front: Any, **extra: Any) -> Any:
            return front(**self.keywords(arrays, options), **extra)

        return Operation(
            self.name,
            lambda rng, shape, dtype, options: self.arrays(rng, shape, dtype, options),
            shapes=nonempty_row_shapes if self.default_reduction != "axis" else row_shapes,
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
                    run=lambda a, o, out: gradient_first(called(a, o, with_grad, out=out)),
                    reference=lambda a, o: gradient_first(self.exact(a, o)),
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


def _bce_logits(a: Arrays) -> _Terms:
    x, t = a["input"], a["target"]
    return _own((1 - t) * softplus(x) + a.get("pos_weight", 1) * t * softplus(-x))


def _bce_logits_slope(a: Arrays) -> _Terms:
    x, t = a["input"], a["target"]
    up, down = (1 - t) * sigmoid(x), a.get("pos_weight", 1) * t * sigmoid(-x)
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
    miss = (1 - t) * sigmoid(x) + t * sigmoid(-x)
    balance = alpha * t + (1 - alpha) * (1 - t) if alpha >= 0 else np.ones_like(x)
    growth = 1 + gamma * np.abs(np.log(miss)) * (gamma not in (0, 2))
    return miss, balance * growth, balance, (1 - t) * softplus(x) + t * softplus(-x)


def _focal(a: Arrays, alpha: float = 0.25, gamma: float = 2) -> _Terms:
    miss, scale, balance, entropy = _focal_terms(a, alpha, gamma)
    return balance * miss**gamma * entropy, scale * miss**gamma * entropy


def _focal_slope(a: Arrays, alpha: float = 0.25, gamma: float = 2) -> _Terms:
    x, t = a["input"], a["target"]
    miss, scale, balance, entropy = _focal_terms(a, alpha, gamma)
    up, down = (1 - t) * sigmoid(x), t * sigmoid(-x)
    spread = gamma * miss ** (gamma - 1) * entropy * sigmoid(x) * sigmoid(-x)
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
            ({"input": NAN, "target": 1}, {}, NAN),
            ({"input": -INF, "target": 1}, {}, INF),
            ({"input": INF, "target": INF}, {}, NAN),
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
            ({"input": NAN, "target": 1}, {}, NAN),
            ({"input": -INF, "target": 1}, {}, INF),
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
            ({"input": NAN, "target": 1}, {}, NAN),
            ({"input": -INF, "target": 1}, {}, INF),
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
            ({"input": NAN, "target": 1}, {}, NAN),
            ({"input": -INF, "target": 1}, {}, INF),
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
            ({"input": -INF, "target": 0}, {}, NAN),
            ({"input": -INF, "target": 1}, {}, INF),
            ({"input": 0, "target": -1}, {}, NAN),
            ({"input": -1, "target": -INF}, {"log_target": True}, NAN),
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
            ({"input": INF, "target": 1}, {}, 0.0),
            ({"input": INF, "target": 0}, {}, INF),
            ({"input": INF, "target": 0.5}, {}, INF),
            ({"input": -INF, "target": 0}, {}, 0.0),
            ({"input": -INF, "target": 1}, {}, INF),
            ({"input": 1000, "target": 0}, {}, 1000.0),
            ({"input": -1000, "target": 1}, {}, 1000.0),
            ({"input": NAN, "target": 1}, {}, NAN),
            ({"input": NAN, "target": 0}, {}, NAN),
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
            ({"input": NAN, "target": 1, "var": 1}, {}, NAN),
            ({"input": 1, "target": 1, "var": NAN}, {}, NAN),
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
            ({"input": NAN, "target": 1}, {}, NAN),
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
            ({"input": INF, "target": 1}, {}, 0.0),
            ({"input": -INF, "target": 0}, {}, 0.0),
            ({"input": -INF, "target": 1}, {}, INF),
            ({"input": NAN, "target": 1}, {}, NAN),
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

OPERATIONS = [loss.operation() for loss in ELEMENTWISE_LOSSES]
