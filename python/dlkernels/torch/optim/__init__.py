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
    """`torch.optim.SGD` (Sutskever et al. 2013), bit-equal to its float32 loop on AVX2 and AVX-512.

    ``g = grad + weight_decay * p``; ``b = momentum * b + (1 - dampening) * g`` (``b = g`` at a
    parameter's first step); ``p -= lr * (g + momentum * b if nesterov else b)``; each sum with its
    product one fma. Parameters in bfloat16 and float16 are computed in float32 and rounded once.

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

    In this order, each sum with its product one fma: ``g = grad + weight_decay * p``;
    ``m += (1 - beta1) * (g - m)``; ``v = beta2 * v + (1 - beta2) * g * g``;
    ``d = sqrt(max over time of v if amsgrad else v) / sqrt(1 - beta2**t) + eps``;
    ``p += (-lr / (1 - beta1**t) * m) / d``, with square root and divisions correctly rounded.
    float32 and float64 moments are bit-equal to torch's loop on AVX2 and AVX-512, parameters within
    two units in the last place per step (three of what is added, where that is more).

    Tensors ``lr`` and ``betas`` are read at every step.
    """


class AdamW(Adam, torch.optim.AdamW, rule=adam.ADAMW):
    """`torch.optim.AdamW` (Loshchilov and Hutter 2019): `Adam` whose weight decay shrinks the
    parameter first, ``p *= 1 - lr * weight_decay``, and does not enter the moments.
    """


class Adagrad(KernelOptimizer, torch.optim.Adagrad, rule=adaptive.ADAGRAD):
    """`torch.optim.Adagrad` (Duchi et al. 2011).

    ``g = grad + weight_decay * p``; ``sum += g * g``;
    ``p += (-lr / (1 + (t - 1) * lr_decay) * g) / (sqrt(sum) + eps)``, with square root and division
    correctly rounded. Sparse gradients go to torch.
    float32 and float64 averages are bit-equal to torch's loop on AVX2 and AVX-512, parameters
    within two units in the last place per step
    (where what is added is the larger, a few units of that).
    """


class RMSprop(KernelOptimizer, torch.optim.RMSprop, rule=adaptive.RMSPROP):
    """`torch.optim.RMSprop` (Hinton's lecture 6e, Graves 2013).

    ``g = grad + weight_decay * p``; ``v = alpha * v + (1 - alpha) * g * g``; if centered
    ``a += (1 - alpha) * (g - a)``; ``d = sqrt(v - a * a if centered else v) + eps``;
    ``p += (-lr * g) / d``, or with momentum ``b = momentum * b + g / d``, ``p -= lr * b``; square
    root and division correctly rounded. float32 and float64 averages are bit-equal to torch's loop
    on AVX2 and AVX-512, parameters within two units in the last place per step
    (where what is added is the larger, a few units of that).
    """


class Adadelta(KernelOptimizer, torch.optim.Adadelta, rule=adaptive.ADADELTA):
    """`torch.optim.Adadelta` (Zeiler 2012).

    ``g = grad + weight_decay * p``; ``v = rho * v + (1 - rho) * g * g``;
    ``u = sqrt(w + eps) / sqrt(v + eps) * g``; ``w = rho * w + (1 - rho) * u * u``; ``p -= lr * u``,
    with square roots and division correctly rounded. ``v`` in float32 and float64 is bit-equal to
    torch's loop on AVX2 and AVX-512, parameters are within two units in the last place per step
    (where what is added is the larger, a few units of that).
    """


class Adamax(KernelOptimizer, torch.optim.Adamax, rule=adam.ADAMAX):
    """`torch.optim.Adamax` (Kingma and Ba 2015), bit-equal to its float32 loop on AVX2 and AVX-512.

    ``g = grad + weight_decay * p``; ``m += (1 - beta1) * (g - m)``;
    ``u = max(beta2 * u, abs(g) + eps)``; ``p += (-lr / (1 - beta1**t) * m) / u``.
    """


class NAdam(KernelOptimizer, torch.optim.NAdam, rule=adam.NADAM):
    """`torch.optim.NAdam` (Dozat 2016).

    ``m`` and ``v`` as `Adam`; with ``mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` and
    ``d = sqrt(v / (1 - beta2**t)) + eps``, ``p += (-lr * (1 - mu_t) / (1 - prod(mu)) * g) / d`` and
    ``p += (-lr * mu_(t+1) / (1 - prod(mu) * mu_(t+1)) * m) / d``; square root and divisions
    correctly rounded. float32 and float64 averages are bit-equal to torch's loop on AVX2 and
    AVX-512, parameters within two units in the last place per step
    (where what is added is the larger, a few units of that).
    """


class RAdam(KernelOptimizer, torch.optim.RAdam, rule=adam.RADAM):
    """`torch.optim.RAdam` (Liu et al. 2020).

    ``m`` and ``v`` as `Adam`; ``p -= m / (1 - beta1**t) * lr * a * r``, where rectification ``r``
    and ``a = 1 / (sqrt(v) + eps) * sqrt(1 - beta2**t)`` are left out while ``rho_t <= 5``; square
    root and divisions correctly rounded. float32 and float64 averages are bit-equal to torch's loop
    on AVX2 and AVX-512, parameters within two units in the last place per step
    (where what is added is the larger, a few units of that).
    """


class ASGD(KernelOptimizer, torch.optim.ASGD, rule=sgd.ASGD):
    """`torch.optim.ASGD` (Polyak and Juditsky 1992), bit-equal to its float32 loop.

    ``p = p * (1 - lambd * eta) - eta * (grad + weight_decay * p)``; ``ax += (p - ax) * mu``; then
    ``eta = lr / (1 + lambd * lr * t)**alpha`` and ``mu = 1 / max(1, t - t0)`` for the next step.
    """


class Rprop(KernelOptimizer, torch.optim.Rprop, rule=sign.RPROP):
    """`torch.optim.Rprop` (Riedmiller and Braun 1993), bit-equal to its float32 loop.

    Each element's step grows by ``etas[1]`` while its gradient keeps its sign; where it changes the
    step shrinks by ``etas[0]`` and the gradient counts as zero. ``p -= sign(g) * step``.
    """


class Lion(KernelOptimizer, loops.Lion, rule=sign.LION):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2).

    ``c = m + (1 - beta1) * (g - m)``; ``p = p * (1 - lr * weight_decay) - lr * sign(c)``;
    ``m += (1 - beta2) * (g - m)``; each sum with its product one fma. State: ``exp_avg``.

    """


class LAMB(KernelOptimizer, loops.LAMB, rule=layerwise.LAMB):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2).

    ``m`` and ``v`` as `Adam`;
    ``u = (m / (1 - beta1**t)) / (sqrt(v) / sqrt(1 - beta2**t) + eps) + weight_decay * p``, where
    0 / 0 counts as 0; ``p -= lr * (norm(p) / norm(u)) * u``. The ratio of the two norms, each of a
    whole parameter, is not clipped (the paper's phi is the identity), and 1 where one of them is 0.
    The norms are of float64 sums, whose bits do not depend on the number of threads; those of
    DTensors are torch's, over all processes. State: ``step``, ``exp_avg``, ``exp_avg_sq``.

    """


class LARS(MomentumFromFirstStep, KernelOptimizer, loops.LARS, rule=layerwise.LARS):
    """LARS (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1).

    ``r = trust_coefficient * norm(p) / (norm(grad) + weight_decay * norm(p) + eps)``, of a whole
    parameter, 1 where one of the two norms is 0; ``d = lr * r * (grad + weight_decay * p)``;
    ``b = momentum * b + (1 - dampening) * d`` (``b = d`` at a parameter's first step);
    ``p -= d + momentum * b if nesterov else b``. As in the paper the buffer holds steps with their
    learning rate, unlike that of `SGD`. Norms as `LAMB`. State: ``momentum_buffer``.

    """
