"""One call of every twin of `dlkernels.torch`, and one of every module: for tests that go over all
of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

import dlkernels.torch.nn as dnn
from dlkernels.activations import ACTIVATIONS
from dlkernels.elementwise_losses import LOSSES
from dlkernels.torch import dropout, functional
from dlkernels.torch.functional import _TWINS

CHANNELS = 6
DROPOUTS = {twin.function.__name__ for twin in dropout.TWINS}


@dataclass(frozen=True, eq=False)
class TwinCall:
    """One call.

    Attributes:
        name: Of the twin, and what is particular.
        function: The twin.
        theirs: torch's, which has no `seed`; None where torch has none.
        tensors: Makes the tensors by the names of their arguments, with values every dtype holds
            well enough; their dtype is to be that of `torch.get_default_dtype()`.
        options: The other arguments.
        written: Which tensors it writes to.
    """

    name: str
    function: Callable[..., Tensor]
    theirs: Callable[..., Tensor] | None
    tensors: Callable[[], dict[str, Tensor]]
    options: dict[str, Any]
    written: tuple[str, ...] = ()

    def arguments(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Its tensors in a dtype, the same every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = self.tensors()
        return {n: t.to(dtype) if t.dtype is torch.float32 else t for n, t in made.items()}


def _random(*shape: int) -> Tensor:
    return torch.randn(shape)


def _positive(*shape: int) -> Tensor:
    return torch.rand(shape) * 0.8 + 0.1


_SHAPE = (3, CHANNELS, 4)
_ROWS = (5, CHANNELS)


def _two(first: str, second: str, make: Any, make_second: Any) -> Any:
    return lambda: {first: make(*_ROWS), second: make_second(*_ROWS)}


def _classes(**others: Any) -> Any:
    return lambda: {
        "input": _random(*_ROWS),
        "target": torch.arange(5) % CHANNELS,
        **{name: make(CHANNELS) for name, make in others.items()},
    }


#: Of activations, those arguments that have no default.
_REQUIRED = {"threshold": {"threshold": 0.1, "value": -2.0}}

_CALLS: dict[str, list[tuple[str, Any, dict[str, Any]]]] = {
    "cross_entropy": [
        ("", _classes(weight=_positive), {"label_smoothing": 0.1}),
        ("none", _classes(), {"reduction": "none"}),
        ("probabilities", _two("input", "target", _random, _positive), {}),
    ],
    "nll_loss": [
        ("", _classes(weight=_positive), {}),
        ("none", _classes(), {"reduction": "none"}),
    ],
    "softmax": [("", lambda: {"input": _random(*_SHAPE)}, {"dim": 1})],
    "log_softmax": [("", lambda: {"input": _random(*_SHAPE)}, {"dim": 1})],
    "batch_norm": [
        (
            "train" if training else "eval",
            lambda: {
                "input": _random(*_SHAPE),
                "running_mean": _random(CHANNELS),
                "running_var": _positive(CHANNELS),
                "weight": _positive(CHANNELS),
                "bias": _random(CHANNELS),
            },
            {"training": training},
        )
        for training in (True, False)
    ],
    "prelu": [("", lambda: {"input": _random(*_SHAPE), "weight": _positive(CHANNELS)}, {})],
    "glu": [("", lambda: {"input": _random(*_SHAPE)}, {"dim": 1})],
    "swiglu": [
        ("", _two("gate", "up", _random, _random), {}),
        ("halves", lambda: {"gate": _random(*_ROWS)}, {}),
    ],
    "maxout": [("", lambda: {"input": _random(*_SHAPE)}, {"pieces": 2})],
    "dropout_add": [("", _two("input", "residual", _random, _random), {"p": 0.5, "seed": 1})],
    "bias_act_dropout": [
        (
            "",
            lambda: {"input": _random(*_ROWS), "bias": _random(CHANNELS)},
            {"activation": "gelu", "p": 0.5, "seed": 1},
        )
    ],
    "kl_div": [("", _two("input", "target", _random, _positive), {"reduction": "batchmean"})],
    "binary_cross_entropy": [
        ("", _two("input", "target", _positive, _positive), {}),
        (
            "weight",
            lambda: {k: _positive(*_ROWS) for k in ("input", "target", "weight")},
            {"reduction": "sum"},
        ),
    ],
    "binary_cross_entropy_with_logits": [
        ("", _two("input", "target", _random, _positive), {}),
        (
            "weights",
            lambda: {
                "input": _random(*_ROWS),
                "target": _positive(*_ROWS),
                "weight": _positive(*_ROWS),
                "pos_weight": _positive(CHANNELS),
            },
            {"reduction": "none"},
        ),
    ],
    "gaussian_nll_loss": [
        (
            "",
            lambda: {
                "input": _random(*_ROWS),
                "target": _random(*_ROWS),
                "var": _positive(*_ROWS),
            },
            {},
        )
    ],
    "poisson_nll_loss": [("", _two("input", "target", _random, _positive), {})],
    "sigmoid_focal_loss": [("", _two("inputs", "targets", _random, _positive), {})],
    "entropy": [("", lambda: {"p": _positive(*_ROWS)}, {"dim": 1})],
    "cross_entropy_of_distributions": [("", _two("p", "q", _positive, _positive), {"dim": 1})],
    "kl_divergence": [("", _two("p", "q", _positive, _positive), {"dim": 1})],
}
for _name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
    _CALLS[_name] = [
        ("", _two("input", "target", _random, _random), {}),
        ("none", _two("input", "target", _random, _random), {"reduction": "none"}),
    ]
    if _name != "smooth_l1_loss":
        _CALLS[_name].append(
            (
                "weight",
                lambda: {
                    "input": _random(*_ROWS),
                    "target": _random(*_ROWS),
                    "weight": _positive(*_ROWS),
                },
                {},
            )
        )
for _activation in ("relu", "leaky_relu", "silu"):
    _CALLS["batch_norm"].append(
        (
            _activation,
            lambda: {
                "input": _random(*_SHAPE),
                "running_mean": _random(CHANNELS),
                "running_var": _positive(CHANNELS),
                "weight": _positive(CHANNELS),
                "bias": _random(CHANNELS),
                "residual": _random(*_SHAPE),
            },
            {"training": True, "activation": _activation},
        )
    )
#: The twins' arguments that torch's functions do not have.
_OURS = ("activation", "residual")


#: torch has no such function.
_WITHOUT_TWIN = ("maxout", "swiglu")


def _twin_calls(function: Any) -> list[TwinCall]:
    name = function.__name__
    calls = _CALLS.get(name)
    if calls is None:  # an activation or a dropout: one tensor
        options = dict(_REQUIRED.get(name.removesuffix("_"), {}))
        if "dropout" in name:
            options = {"p": 0.5, "training": True, "seed": 1}
        shape = (*_SHAPE, *[2] * ["dropout1d", "dropout2d", "dropout3d"].index(name)) if (
            name in ("dropout1d", "dropout2d", "dropout3d")
        ) else _SHAPE  # fmt: skip
        calls = [("", lambda: {"input": _random(*shape)}, options)]
    theirs = getattr(TF, name, None) or getattr(torch, name, None)
    made = []
    for what, tensors, options in calls:
        known = not any(n in _OURS for n in (*options, *tensors()))
        written = ("input",) if name.endswith("_") else ()
        if options.get("training") and name == "batch_norm":
            written = ("running_mean", "running_var")
        own = theirs if known and name not in _WITHOUT_TWIN else None
        made.append(TwinCall(f"{name} {what}".strip(), function, own, tensors, options, written))
    return made


TWIN_CALLS = [call for function in _TWINS for call in _twin_calls(function)]


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """One module and what it is called with.

    Attributes:
        name: Its name in `dlkernels.torch.nn` (and `torch.nn`).
        arguments: Of its constructor.
        inputs: Makes what it is called with.
    """

    name: str
    arguments: dict[str, Any]
    inputs: Callable[[], tuple[Tensor, ...]]

    @property
    def ours(self) -> type[torch.nn.Module]:
        """Our class."""
        cls: type[torch.nn.Module] = getattr(dnn, self.name)
        return cls

    @property
    def theirs(self) -> type[torch.nn.Module] | None:
        """torch's class, if there is one."""
        return getattr(torch.nn, self.name, None)


def _normal_input(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (_random(*shape),)


_MODULES: dict[str, tuple[dict[str, Any], Any]] = {
    "Threshold": ({"threshold": 0.1, "value": -2.0}, _normal_input(*_SHAPE)),
    "Softmax": ({"dim": 1}, _normal_input(*_SHAPE)),
    "LogSoftmax": ({"dim": 1}, _normal_input(*_SHAPE)),
    "GLU": ({"dim": 1}, _normal_input(*_SHAPE)),
    "Maxout": ({"pieces": 2}, _normal_input(*_SHAPE)),
    "PReLU": ({"num_parameters": CHANNELS}, _normal_input(*_SHAPE)),
    "CrossEntropyLoss": ({}, lambda: (_random(*_ROWS), torch.arange(5) % CHANNELS)),
    "NLLLoss": ({}, lambda: (_random(*_ROWS), torch.arange(5) % CHANNELS)),
    "BCELoss": ({}, lambda: (_positive(*_ROWS), _positive(*_ROWS))),
    "KLDivLoss": ({"reduction": "batchmean"}, lambda: (_random(*_ROWS), _positive(*_ROWS))),
    "GaussianNLLLoss": (
        {},
        lambda: (_random(*_ROWS), _random(*_ROWS), _positive(*_ROWS)),
    ),
    "Dropout2d": ({}, _normal_input(*_SHAPE, 2)),
    "Dropout3d": ({}, _normal_input(*_SHAPE, 2, 2)),
    "SyncBatchNorm": ({"num_features": CHANNELS}, _normal_input(*_SHAPE)),
}
for _kind in ("BatchNorm", "BatchNormAct"):
    for _dims in (1, 2, 3):
        _MODULES[f"{_kind}{_dims}d"] = (
            {"num_features": CHANNELS},
            _normal_input(*_SHAPE, *[2] * (_dims - 1)),
        )


def _module_call(name: str) -> ModuleCall:
    if name not in _MODULES and name.endswith("Loss"):
        return ModuleCall(name, {}, lambda: (_random(*_ROWS), _positive(*_ROWS)))
    arguments, inputs = _MODULES.get(name, ({}, _normal_input(*_SHAPE)))
    return ModuleCall(name, arguments, inputs)


MODULE_CALLS = [_module_call(name) for name in sorted(set(dnn.__all__))]


#: Of those that are alike, the ones that the fast tests take.
_REPRESENTATIVES = (
    "relu", "relu_", "gelu", "tanh", "tanh_", "dropout", "dropout2d", "alpha_dropout",
    "mse_loss none", "mse_loss weight", "huber_loss", "kl_divergence",
)  # fmt: skip


def _is_representative(call: TwinCall) -> bool:
    name = call.function.__name__
    alike = name.removesuffix("_") in ACTIVATIONS or name in LOSSES or name in DROPOUTS
    particular = name in ("bias_act_dropout", "dropout_add", "gaussian_nll_loss")
    weighted = call.name.endswith(("weight", "weights")) and name.startswith("binary")
    return not alike or particular or weighted or call.name in _REPRESENTATIVES


#: Every call, those that are like another one slow.
SAMPLED_CALLS = [
    pytest.param(call, id=call.name, marks=[] if _is_representative(call) else pytest.mark.slow)
    for call in TWIN_CALLS
]


def tensors_of(result: Any) -> list[Tensor]:
    """The tensors of a result, one or several."""
    return [result] if isinstance(result, Tensor) else [t for t in result if t is not None]


assert {call.function for call in TWIN_CALLS} == set(_TWINS)
assert all(hasattr(functional, call.function.__name__) for call in TWIN_CALLS)
