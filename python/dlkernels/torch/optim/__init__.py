"""Twins of ``torch.optim`` optimizers: subclasses of torch's own, so arguments, groups, hooks and
state dicts are the same, whose step updates every parameter of every group in one parallel region.

Every class takes any mixture of float32, float64, bfloat16 and float16 for a parameter, its
gradient and its states, in any strides; float64 where one of them is, else float32 is computed in,
and every result rounded once. ``foreach``, ``fused`` and ``capturable`` are accepted and change
nothing. With ``differentiable=True``, or where a tensor is sparse, complex, a subclass or on
another device, the step is torch's own. Of a DTensor (FSDP2's ``fully_shard``, with parameters on
the CPU) each process updates its own part. States keep their dtypes in ``load_state_dict``.
The step with which `torch.distributed.checkpoint` makes the states of a fresh optimizer (of zeros
at a rate of 0) makes them and does nothing else: the next step is the first.

Where parameters, states or gradients lie in one another's memory, the step is torch's loop, one
parameter after the other. That is found when tensors are first seen (later where others come in
their place), not at every step. A number of the step that is finite but not in float32
(``lr=1e39``) is a RuntimeError for parameters that are computed in float32; what float32 rounds to
zero (``eps=1e-320``) is zero, as in torch.

Besides torch's arguments every class has some of its own, by keyword, that do in the step what else
goes over the parameters; each alone and all together equal to doing them one after another. They
may be changed between steps: they are attributes, and where one is not as torch's optimizers are it
is a key of every group, of which the first counts. So they are in state dicts, and a resumed
optimizer goes on averaging without being told to; and they work through wrappers:
``wrapper.param_groups[0]["max_grad_norm"] = 1.0`` through any, attributes and methods through
Lightning's, and ``AdamW.within(wrapper)`` is what accelerate, or another, has wrapped.
``examples/averages.py`` has callbacks for Lightning, transformers and accelerate that evaluate and
save averages.

``max_grad_norm``
    Clips the norm of all gradients together, as `torch.nn.utils.clip_grad_norm_`; ``grad_norm`` is
    then what that returns (in float32 also for half gradients). The gradients stay as they are. The
    norm is that of the parameters which this optimizer has, and of DTensors over all processes;
    each process of a ZeroRedundancyOptimizer has some of them only.
``scaler_in_step``
    Has a `torch.amp.GradScaler` leave the unscaling to the step; where a gradient is not finite,
    the step does nothing. (Lightning refuses to clip gradients by itself with such an optimizer.)
``ema_decay``
    Keeps moving averages of the parameters, ``ema = ema_decay * ema + (1 - ema_decay) * p``, as
    `torch.optim.swa_utils.get_ema_multi_avg_fn` does, the first step a copy; state ``"ema"``, in
    the dtype of parameter or state, whichever is wider. See ``ema_parameters`` and ``ema_weights``.
``zero_grads``
    Leaves the gradients zero, as ``zero_grad(set_to_none=False)`` after the step.
``write_back``
    Leaves the gradients unscaled and clipped.

SGD, Adam, AdamW, Adagrad, RMSprop (not centered) and Lion keep their states in other formats with
``state_dtype=``, whatever the parameter's dtype; every class takes ``master=``. Both are
keyword-only, and may differ by group:

- ``state_dtype="8bit"``: codes of the dynamic map with a scale for each 256 elements, as
  bitsandbytes has them: state ``exp_avg_8bit`` is uint8, ``exp_avg_absmax`` float32. Parameters of
  less than ``min_8bit_size=4096`` elements keep states in float32. A block of 256 that holds a NaN
  or an infinity becomes NaN; one whose numbers are all below the smallest normal float32 becomes 0.
  Of a DTensor each process has blocks of its own part, so a distributed checkpoint fits the number
  of processes that saved it; a DTensor cut along two axes of its mesh is refused.
- ``state_dtype="bf16"``: bfloat16, rounded at random, so that the mean of many roundings is the
  number. The random numbers are a function of ``seed=`` (`torch.initial_seed()` by default), of the
  group's number of steps, of the parameter's number and the element's, and the same for any number
  of threads.
- ``master="split16"``: of a bfloat16 parameter the lower half of the float32 that it stands for is
  kept (``master_low``, int16), and its states in float32: what is trained is bit by bit a float32
  parameter, of which the bfloat16 one is the nearest, at the middle the one away from zero. Writing
  to a parameter keeps its low half. Parameters in float32 and float64 are left alone.

`state_dict` holds all of it, and going on from one is going on bit by bit, also through distributed
checkpoints, which load what the optimizer has that they are loaded into: make it with the same
arguments. The state dict of an optimizer with ``state_dtype="8bit"`` is not for torch's class: it
loads there, but the first step is an error, for want of ``exp_avg`` or as SGD's
``momentum_buffer`` is no tensor. `float32_state_dict()` and `master_parameters()` are what torch's
class would have, and what loads on another number of processes.
"""

from __future__ import annotations

from typing import Any

import torch

from dlkernels.optim import adam, adaptive, layerwise, sgd, sign
from dlkernels.optim import state_formats as formats
from dlkernels.torch.optim import loops
from dlkernels.torch.optim.base import KernelOptimizer
from dlkernels.torch.optim.states import MomentumFromFirstStep

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
]


def __dir__() -> list[str]:
    return __all__


class SGD(MomentumFromFirstStep, KernelOptimizer, torch.optim.SGD, rule=sgd.SGD):
    """`torch.optim.SGD` (Sutskever et al. 2013).

    Parameters in bfloat16 and float16 are computed in float32 and rounded once.

    Tensors ``lr`` and ``weight_decay`` are read at every step.
    """

    def _format_state(
        self, group: dict[str, Any], param: torch.Tensor, state: dict[str, Any]
    ) -> None:
        super()._format_state(group, param, state)
        if formats.codes_name("momentum_buffer") in state:
            # torch's takes a missing buffer for a first step, of any tensor it might read too much.
            state["momentum_buffer"] = 0


class Adam(KernelOptimizer, torch.optim.Adam, rule=adam.ADAM):
    """`torch.optim.Adam` (Kingma and Ba 2015).

    Tensors ``lr`` and ``betas`` are read at every step.
    """


class AdamW(Adam, torch.optim.AdamW, rule=adam.ADAMW):
    """`torch.optim.AdamW` (Loshchilov and Hutter 2019)."""


class Adagrad(KernelOptimizer, torch.optim.Adagrad, rule=adaptive.ADAGRAD):
    """`torch.optim.Adagrad` (Duchi et al. 2011).

    Sparse gradients go to torch.
    """


class RMSprop(KernelOptimizer, torch.optim.RMSprop, rule=adaptive.RMSPROP):
    """`torch.optim.RMSprop` (Hinton's lecture 6e, Graves 2013)."""


class Adadelta(KernelOptimizer, torch.optim.Adadelta, rule=adaptive.ADADELTA):
    """`torch.optim.Adadelta` (Zeiler 2012)."""


class Adamax(KernelOptimizer, torch.optim.Adamax, rule=adam.ADAMAX):
    """`torch.optim.Adamax` (Kingma and Ba 2015)."""


class NAdam(KernelOptimizer, torch.optim.NAdam, rule=adam.NADAM):
    """`torch.optim.NAdam` (Dozat 2016)."""


class RAdam(KernelOptimizer, torch.optim.RAdam, rule=adam.RADAM):
    """`torch.optim.RAdam` (Liu et al. 2020)."""


class ASGD(KernelOptimizer, torch.optim.ASGD, rule=sgd.ASGD):
    """`torch.optim.ASGD` (Polyak and Juditsky 1992)."""


class Rprop(KernelOptimizer, torch.optim.Rprop, rule=sign.RPROP):
    """`torch.optim.Rprop` (Riedmiller and Braun 1993)."""


class Lion(KernelOptimizer, loops.Lion, rule=sign.LION):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2).

    Sparse gradients are refused.
    """


class LAMB(KernelOptimizer, loops.LAMB, rule=layerwise.LAMB):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2).

    Norms of DTensors are those of torch, over all processes. Sparse gradients are refused.
    """


class LARS(MomentumFromFirstStep, KernelOptimizer, loops.LARS, rule=layerwise.LARS):
    """LARS (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1).

    Sparse gradients are refused.
    """
