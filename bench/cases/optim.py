"""Optimizers' steps, in place: all but the gradient is read and written, once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.case import Case, Target, faster
from bench.peers.deepspeed import DEEPSPEED
from bench.peers.dlkernels import OURS
from bench.peers.torch import FOREACH, FUSED, TORCH
from bench.roofline import Pass, reads, updates, writes
from bench.workload import Front, Workload, magnitude


@dataclass(frozen=True)
class Optimizer:
    """One optimizer, and what is promised of it on one array of 50 M elements.

    Attributes:
        name: Of torch's class.
        nbytes: Per element, by ours.
        options: Arguments of the class.
        others: Who has it beside torch's loop and foreach.
        times: How many times as fast as the best of them.
        roof_percent: Of the memory's speed.
        own_options: Arguments that our class alone has.
        own_dtype: Of our parameters and gradients.
        overwritten: A state that is written without being read.
    """

    name: str
    nbytes: float
    options: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    times: float = 1.0
    roof_percent: float | None = None
    own_options: dict[str, str] = field(default_factory=dict)
    own_dtype: str = "float32"
    overwritten: str = ""

    def make(self, front: Front, parameters: list[Any]) -> Any:
        """The optimizer as a peer has it."""
        more = self.own_options if front.is_ours else front.optimizer_options
        return getattr(front.optim, self.name)(parameters, **self.options, **more)

    def case(self, title: str, shape: tuple[int, ...], *targets: Target, **more: Any) -> Case:
        """One step over some arrays."""
        build = functools.partial(step, rule=self)
        peers = (OURS, TORCH, FOREACH, *self.others)
        return Case("optimizers", f"{title} step", shape, peers, build, targets=targets, **more)


def step(case: Case, front: Front, rule: Optimizer) -> Workload:
    """One step over all arrays, gradients present."""
    import torch

    arrays, length = case.shape
    shapes = GPT2_SHAPES if case.shape == GPT2 else ((length,),) * arrays
    dtype = getattr(torch, rule.own_dtype if front.is_ours else "float32")
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for shape in shapes:
        parameter = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        parameter.grad = torch.randn(shape, generator=generator).to(dtype)
        parameters.append(parameter)
    optimizer = rule.make(front, parameters)

    def passes(_: Any) -> Sequence[Pass]:
        return [
            [
                *updates(parameter.detach(), *states_of(optimizer, parameter, rule.overwritten)),
                *reads(parameter.grad),
                *writes(
                    *([optimizer.state[parameter][rule.overwritten]] if rule.overwritten else ())
                ),
            ]
            for parameter in parameters
        ]

    return Workload(optimizer.step, lambda _: sum(map(magnitude, parameters)), passes=passes)


def states_of(optimizer: Any, parameter: Any, but: str = "") -> list[Any]:
    """The states of the parameter's size; a block's scales, a 64th of it, are left out."""
    return [
        state
        for name, state in optimizer.state[parameter].items()
        if name != but and state.numel() == parameter.numel()
    ]


def whole_step(case: Case, front: Front) -> Workload:
    """All that follows backward; the gradient it leaves zero comes back outside the timer."""
    import torch

    generator = torch.Generator().manual_seed(0)
    parameter: Any = torch.randn(case.shape, generator=generator).requires_grad_()
    gradient = torch.randn(case.shape, generator=generator)
    parameter.grad = gradient.clone()
    if front.is_ours:
        optimizer = front.optim.AdamW(
            [parameter], max_grad_norm=1.0, ema_decay=0.999, zero_grads=True
        )
        run = optimizer.step
    else:
        optimizer = front.optim.AdamW([parameter], **front.optimizer_options)
        run = in_torch(optimizer, parameter)

    def passes(_: Any) -> Sequence[Pass]:
        states = states_of(optimizer, parameter)
        return reads(parameter.grad), updates(parameter.detach(), parameter.grad, *states)

    return Workload(
        run,
        lambda _: magnitude(parameter),
        reset=lambda: parameter.grad.copy_(gradient),
        passes=passes,
    )


def in_torch(optimizer: Any, parameter: Any) -> Callable[[], None]:
    """What one writes in torch."""
    import torch
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    average = get_ema_multi_avg_fn(0.999)  # type: ignore[no-untyped-call]
    averages = [parameter.detach().clone()]

    def run() -> None:
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()
        average(averages, [parameter.detach()], 1)
        optimizer.zero_grad(set_to_none=False)

    return run


_SGD = Optimizer("SGD", 20, {"lr": 1e-3, "momentum": 0.9}, (FUSED,), roof_percent=90)
_ADAMW = Optimizer("AdamW", 28, {}, (FUSED, DEEPSPEED), roof_percent=90)
OPTIMIZERS = {
    "SGD momentum": _SGD,
    "AdamW": _ADAMW,
    "Adagrad": Optimizer("Adagrad", 20, {}, (FUSED, DEEPSPEED), roof_percent=90),
    # Two states of a byte; torch's are float32.
    "AdamW 8-bit": Optimizer(
        "AdamW", 16, {}, (FUSED,), times=1.3, own_options={"state_dtype": "8bit"}
    ),
    # Parameters of two halves, gradients of one; torch's are float32.
    "AdamW split16": Optimizer(
        "AdamW",
        26,
        others=(FUSED,),
        times=1.05,
        own_options={"master": "split16"},
        own_dtype="bfloat16",
    ),
    **{
        title: Optimizer(title.split()[0], nbytes, options, times=3.5, roof_percent=85)
        for title, nbytes, options in (
            ("RMSprop", 20, {}),
            ("RMSprop momentum", 28, {"momentum": 0.9}),
            ("RMSprop centered", 28, {"centered": True}),
            ("RMSprop momentum centered", 36, {"momentum": 0.9, "centered": True}),
            ("Adamax", 28, {}),
            ("Adadelta", 28, {}),
            ("NAdam", 28, {}),
            ("RAdam", 28, {}),
            ("Rprop", 28, {}),
        )
    },
    # Before averaging sets in, after a million steps, the average is the parameter: not read.
    "ASGD": Optimizer("ASGD", 16, times=2, roof_percent=85, overwritten="ax"),
}

# GPT-2 small: two embeddings, the last norm, and twelve times two norms, attention and MLP.
_NORM = (768,), (768,)
_GPT2_BLOCK = (
    *_NORM,
    *((768, 2304), (2304,), (768, 768), (768,)),
    *_NORM,
    *((768, 3072), (3072,), (3072, 768), (768,)),
)
GPT2_SHAPES: tuple[tuple[int, ...], ...] = (
    (50257, 768),
    (1024, 768),
    *_GPT2_BLOCK * 12,
    *_NORM,
)
GPT2 = (len(GPT2_SHAPES), sum(math.prod(shape) for shape in GPT2_SHAPES))
LARGE, MANY = (1, 50_000_000), (5000, 64)

CASES = (
    _SGD.case("SGD momentum", MANY, faster(10, FUSED), batch=3, quick=True, first=True),
    _ADAMW.case(
        "AdamW",
        MANY,
        faster(25, FUSED),
        faster(15, DEEPSPEED),
        batch=3,
        quick=True,
        telling=True,
        first=True,
    ),
    *(
        rule.case(
            title,
            LARGE,
            faster(rule.times, TORCH, FOREACH, *rule.others),
            *([Target("percent of roof", rule.roof_percent)] if rule.roof_percent else []),
            bytes_per_element=rule.nbytes,
            telling=title == "AdamW",
        )
        for title, rule in OPTIMIZERS.items()
    ),
    _ADAMW.case("AdamW", GPT2, faster(1, FUSED), faster(4.5, TORCH)),
    # The norm's pass over the gradients, then the step, which also reads and writes the averages
    # and zeroes the gradients.
    Case(
        "optimizers",
        "clip + AdamW + EMA + zero_grad step",
        LARGE,
        (OURS, TORCH, FUSED),
        whole_step,
        bytes_per_element=44,
        targets=(faster(1.3, FUSED), faster(3.5, TORCH)),
    ),
)
