"""The optimizers: one step from given states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import dlkernels
from operation import Arrays, Call, Exact, Operation, Options, Shape


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


OPERATIONS = [SGD, *OPTIMIZERS]
