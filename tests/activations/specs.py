"""The activations, prelu, the gated units and maxout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import dlkernels
from dlkernels.activations import ACTIVATIONS as ROWS
from dlkernels.activations import Activation
from operation import Arrays, Call, Exact, Operation, Options, Shape, exact_of
from scalar_functions import INF, NAN, PI, normal_cdf, sigmoid, softplus


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
                exact = exact_of(self.function(x.astype(np.float64), **options))
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
                    reference=lambda a, o: (exact_of(self.function(a["x"], **o)),),
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
                        exact_of(self.gradient(a["grad_output"], a[saved], **o)),
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
    value = np.where(x * beta > threshold, x, softplus(x * beta) / beta)
    return Exact(value, value * (1 + np.abs(x * beta) / 4 * (beta % 1 > 0)))


def _softplus_gradient(
    g: np.ndarray, x: np.ndarray, beta: float = 1.0, threshold: float = 20.0
) -> Exact:
    value = g * np.where(x * beta > threshold, 1, sigmoid(x * beta))
    return Exact(value, np.abs(value) * (1 + np.abs(x * beta) / 4 * (beta % 1 > 0)))


def _twice_u(x: np.ndarray) -> np.ndarray:
    return np.sqrt(x.dtype.type(8 / PI)) * (x + x**3 * x.dtype.type("0.044715"))


def _gelu(x: np.ndarray, approximate: str = "none") -> Exact:
    if approximate == "none":
        return Exact(x * normal_cdf(x))
    value = x * sigmoid(_twice_u(x))
    return Exact(value, np.abs(value) * (1 + np.abs(_twice_u(x)) / 4))


def _gelu_gradient(g: np.ndarray, x: np.ndarray, approximate: str = "none") -> Exact:
    if approximate == "none":
        density = np.exp(-x * x / 2) / np.sqrt(x.dtype.type(2 * PI))
        return _terms(g, normal_cdf(x), x * density)
    v = _twice_u(x)
    slope = np.sqrt(x.dtype.type(8 / PI)) * (1 + 3 * x**2 * x.dtype.type("0.044715"))
    exact = _terms(g, sigmoid(v), x * slope * sigmoid(v) * sigmoid(-v))
    return Exact(exact.value, exact.scale * (1 + np.abs(v) / 4))


ACTIVATIONS = [
    ActivationSpec(
        "relu",
        lambda x: np.maximum(x, 0),
        lambda g, x: np.where((x > 0) | np.isnan(x), g, 0),
        special=[
            (NAN, NAN, 1),
            (INF, INF, 1),
            (-INF, 0.0, 0),
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
            (NAN, NAN, 0),
            (INF, 6, 0),
            (-INF, 0.0, 0),
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
            (NAN, NAN, 0),
            (INF, 1, 0),
            (-INF, -1, 0),
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
            (NAN, NAN, 1),
            (INF, INF, 1),
            (-INF, 7, 0),
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
            (NAN, NAN, 0.01),
            (INF, INF, 1),
            (-INF, -INF, 0.01),
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
        special=[(NAN, NAN, 0), (INF, 1, 0), (-INF, 0, 0), (-3, 0, 0), (3, 1, 0)],
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
            (NAN, NAN, NAN),
            (INF, INF, 1),
            (-INF, -0.0, 0),
            (-0.0, -0.0, 0.5),
            (-3, -0.0, 0),
            (3, 3, 1),
        ],
        eps=(2, 2),
        kinks=(-3.0, 3.0),
        edges=(-3.0, 3.0),
        limits=(-INF,),
    ),
    ActivationSpec(
        "softsign",
        lambda x: x / (1 + np.abs(x)),
        lambda g, y: g * (1 - np.abs(y)) ** 2,
        special=[
            (NAN, NAN, NAN),
            (INF, 1, 0),
            (-INF, -1, 0),
            (-0.0, -0.0, 1),
            (1e-45, 1e-45, 1),
        ],
        eps=(1, 3),
        limits=(-INF, INF),
    ),
    ActivationSpec(
        "sigmoid",
        sigmoid,
        lambda g, y: g * y * (1 - y),
        special=[
            (NAN, NAN, NAN),
            (INF, 1, 0),
            (-INF, 0.0, 0),
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
            (NAN, NAN, NAN),
            (INF, 1, 0),
            (-INF, -1, 0),
            (-0.0, -0.0, 1),
            (1e-45, 1e-45, 1),
        ],
        eps=(3.5, 2),
        kinks=(),
    ),
    ActivationSpec(
        "logsigmoid",
        lambda x: -softplus(-x),
        lambda g, y: -g * np.expm1(y),
        special=[(NAN, NAN, NAN), (INF, 0.0, 0), (-INF, -INF, 1)],
        eps=(2, 3),
        kinks=(),
    ),
    ActivationSpec(
        "elu",
        lambda x, alpha=1.0: _exponential_unit(x, 1, alpha, 1),
        lambda g, y, alpha=1.0: _exponential_unit_gradient(g, y, 1, alpha, 1),
        special=[
            (NAN, NAN, NAN),
            (INF, INF, 1),
            (-INF, -1, 0),
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
            (NAN, NAN, NAN),
            (INF, INF, 1),
            (-INF, -1, 0),
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
            (NAN, NAN, NAN),
            (INF, INF, None),
            (-INF, -float(_SELU_SCALE) * float(_SELU_ALPHA), 0),
            (-0.0, -0.0, None),
        ],
        eps=(3, 2),
    ),
    ActivationSpec(
        "softplus",
        _softplus_of,
        _softplus_gradient,
        special=[(NAN, NAN, NAN), (INF, INF, 1), (-INF, 0.0, 0), (21, 21, 1)],
        eps=(3, 3),
        options=({}, {"beta": 2.0, "threshold": 5.0}, {"beta": 0.7}),
        kinks=(2.5,),
        edges=(0.0, 2.5, 20.0, 21.0),
    ),
    ActivationSpec(
        "silu",
        lambda x: x * sigmoid(x),
        lambda g, x: _terms(g, sigmoid(x), x * sigmoid(x) * sigmoid(-x)),
        special=[
            (NAN, NAN, NAN),
            (INF, INF, 1),
            (-INF, -0.0, 0),
            (0.0, 0.0, 0.5),
            (-0.0, -0.0, 0.5),
        ],
        eps=(3, 4),
        kinks=(),
        limits=(-INF,),
    ),
    ActivationSpec(
        "mish",
        lambda x: x * np.tanh(softplus(x)),
        lambda g, x: _terms(g, np.tanh(softplus(x)), x * sigmoid(x) / np.cosh(softplus(x)) ** 2),
        special=[
            (NAN, NAN, NAN),
            (INF, INF, 1),
            (-INF, -0.0, 0),
            (0.0, 0.0, None),
            (-0.0, -0.0, None),
        ],
        eps=(5, 8),
        kinks=(),
        limits=(-INF,),
    ),
    ActivationSpec(
        "gelu",
        _gelu,
        _gelu_gradient,
        special=[
            (NAN, NAN, NAN),
            (INF, INF, 1),
            (-INF, -0.0, 0),
            (0.0, 0.0, 0.5),
            (-0.0, -0.0, 0.5),
        ],
        eps=(9, 10),
        options=({}, {"approximate": "tanh"}),
        kinks=(),
        limits=(-INF, INF),
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
    s, rest = sigmoid(gate), sigmoid(-gate)
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


OPERATIONS = [*(activation.operation() for activation in ACTIVATIONS), PRELU, GLU, SWIGLU, MAXOUT]
