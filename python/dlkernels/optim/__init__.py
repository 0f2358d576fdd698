"""Optimizers over lists of NumPy arrays, updated in place: one parallel region a step, any number
of arrays. `dlkernels.torch.optim` has the same steps as `torch.optim.Optimizer` subclasses.

``max_grad_norm``, ``write_back``, ``ema_decay`` and ``zero_grads`` of every class are done in the
same pass over the arrays, each alone and all together equal to doing them one after another. They
are attributes too, which may be changed between steps.
"""

from __future__ import annotations

from dlkernels.optim import adam, adaptive, layerwise, sgd, sign
from dlkernels.optim.base import Optimizer

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


class SGD(Optimizer, rule=sgd.SGD):
    """Stochastic gradient descent with momentum (`torch.optim.SGD`; Sutskever et al. 2013), over
    NumPy arrays.

    ``g = grad + weight_decay * p``; ``b = momentum * b + (1 - dampening) * g`` (``b = g`` at an
    array's first step); ``p -= lr * (g + momentum * b if nesterov else b)``. As in torch the
    learning rate stays outside ``b``: after a change of ``lr`` the whole past moves at the new
    rate. float32 and float64 results are bit-equal to torch's on AVX2 and AVX-512.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> SGD([w], lr=0.5).step([np.array([2.0, 0.0])])
        >>> w.tolist()
        [0.0, 2.0]
    """


class Adam(Optimizer, rule=adam.ADAM):
    """Adam (`torch.optim.Adam`; Kingma and Ba 2015), over NumPy arrays.

    In this order, each line correctly rounded: ``g = grad + weight_decay * p``;
    ``m += (1 - beta1) * (g - m)``; ``v = beta2 * v + (1 - beta2) * g * g``;
    ``d = sqrt(max over time of v if amsgrad else v) / sqrt(1 - beta2**t) + eps``;
    ``p += (-lr / (1 - beta1**t) * m) / d``. float32 and float64 moments are bit-equal to torch's on
    AVX2 and AVX-512, parameters within two units in the last place per step
    (where what is added is the larger, a few units of that).

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Adam([w], lr=0.5, eps=0).step([np.array([2.0, -4.0])])
        >>> w.round(6).tolist()
        [0.5, 2.5]
    """


class AdamW(Adam, rule=adam.ADAMW):
    """AdamW (`torch.optim.AdamW`; Loshchilov and Hutter 2019), over NumPy arrays.

    `Adam` whose weight decay shrinks the parameter first, ``p *= 1 - lr * weight_decay``, and does
    not enter the averages.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> AdamW([w], lr=0.5, weight_decay=0.5).step([np.array([0.0])])
        >>> w.tolist()
        [0.75]
    """


class Adagrad(Optimizer, rule=adaptive.ADAGRAD):
    """Adagrad (`torch.optim.Adagrad`; Duchi et al. 2011), over NumPy arrays.

    ``g = grad + weight_decay * p``; ``sum += g * g``;
    ``p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum) + eps)``.
    float32 and float64 averages are bit-equal to torch's on AVX2 and AVX-512, parameters within two
    units in the last place per step.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Adagrad([w], lr=0.5, eps=0).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """


class RMSprop(Optimizer, rule=adaptive.RMSPROP):
    """RMSprop (`torch.optim.RMSprop`; Hinton's lecture 6e, Graves 2013), over NumPy arrays.

    ``g = grad + weight_decay * p``; ``v = alpha * v + (1 - alpha) * g * g``; if centered
    ``a += (1 - alpha) * (g - a)``; ``d = sqrt(v - a * a if centered else v) + eps``;
    ``p -= lr * g / d``, or with momentum ``b = momentum * b + g / d``, ``p -= lr * b``.
    float32 and float64 averages are bit-equal to torch's on AVX2 and AVX-512, parameters within two
    units in the last place per step.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> RMSprop([w], lr=0.5, alpha=0.0, eps=0).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """


class Adadelta(Optimizer, rule=adaptive.ADADELTA):
    """Adadelta (`torch.optim.Adadelta`; Zeiler 2012), over NumPy arrays.

    ``g = grad + weight_decay * p``; ``v = rho * v + (1 - rho) * g * g``;
    ``u = sqrt(w + eps) / sqrt(v + eps) * g``; ``w = rho * w + (1 - rho) * u * u``; ``p -= lr * u``.
    ``v`` in float32 and float64 is bit-equal to torch's on AVX2 and AVX-512, parameters are within
    two units in the last place per step
    (where what is added is the larger, a few units of that).

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> Adadelta([w], rho=0.0, eps=1.0).step([np.array([0.0])])
        >>> w.tolist()
        [1.0]
    """


class Adamax(Optimizer, rule=adam.ADAMAX):
    """Adamax (`torch.optim.Adamax`; Kingma and Ba 2015), over NumPy arrays.

    ``g = grad + weight_decay * p``; ``m += (1 - beta1) * (g - m)``;
    ``u = max(beta2 * u, abs(g) + eps)``; ``p -= lr / (1 - beta1**t) * m / u``.
    float32 and float64 results are bit-equal to torch's on AVX2 and AVX-512.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Adamax([w], lr=0.5, eps=0).step([np.array([2.0, -4.0])])
        >>> w.round(6).tolist()
        [0.5, 2.5]
    """


class NAdam(Optimizer, rule=adam.NADAM):
    """NAdam (`torch.optim.NAdam`; Dozat 2016), over NumPy arrays.

    `Adam` with Nesterov's momentum: with ``mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2)``
    and ``d = sqrt(v / (1 - beta2**t)) + eps``, ``p -= lr * (1 - mu_t) / (1 - prod(mu)) * g / d``
    and ``p -= lr * mu_(t+1) / (1 - prod(mu) * mu_(t+1)) * m / d``. float32 and float64 averages are
    bit-equal to torch's on AVX2 and AVX-512, parameters within two units in the last place per
    step
    (where what is added is the larger, a few units of that).

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> NAdam([w], weight_decay=0.5, decoupled_weight_decay=True, lr=0.5).step([np.zeros(1)])
        >>> w.tolist()
        [0.75]
    """


class RAdam(Optimizer, rule=adam.RADAM):
    """RAdam (`torch.optim.RAdam`; Liu et al. 2020), over NumPy arrays.

    `Adam` whose first steps, while the variance of its second average is not tractable
    (``rho_t <= 5``), are ``p -= lr * m / (1 - beta1**t)``, and whose later ones are rectified.
    float32 and float64 averages are bit-equal to torch's on AVX2 and AVX-512, parameters within two
    units in the last place per step.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> RAdam([w], lr=0.5).step([np.array([2.0])])
        >>> w.round(6).tolist()
        [0.0]
    """


class ASGD(Optimizer, rule=sgd.ASGD):
    """Averaged SGD (`torch.optim.ASGD`; Polyak and Juditsky 1992), over NumPy arrays.

    ``p = p * (1 - lambd * eta) - eta * (grad + weight_decay * p)``; ``ax += (p - ax) * mu``; then
    ``eta = lr / (1 + lambd * lr * t)**alpha`` and ``mu = 1 / max(1, t - t0)`` for the next step.
    float32 and float64 results follow torch's formulas bit by bit on AVX2 and AVX-512; ``eta`` and
    ``mu`` are Python's floats where torch keeps float32.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> ASGD([w], lr=0.5, lambd=0.0).step([np.array([2.0, 0.0])])
        >>> w.tolist()
        [0.0, 2.0]
    """


class Rprop(Optimizer, rule=sign.RPROP):
    """Rprop (`torch.optim.Rprop`; Riedmiller and Braun 1993), over NumPy arrays.

    Each element's step grows by ``etas[1]`` while its gradient keeps its sign; where it changes the
    step shrinks by ``etas[0]`` and the gradient counts as zero. ``p -= sign(g) * step``.
    float32 and float64 results are bit-equal to torch's.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Rprop([w], lr=0.5).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """


class Lion(Optimizer, rule=sign.LION):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2), over NumPy arrays.

    ``c = m + (1 - beta1) * (g - m)``; ``p = p * (1 - lr * weight_decay) - lr * sign(c)``;
    ``m += (1 - beta2) * (g - m)``; the sign of zero and of NaN is 0.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Lion([w], lr=0.5).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """


class LAMB(Optimizer, rule=layerwise.LAMB):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), over NumPy arrays.

    ``m`` and ``v`` as `Adam`;
    ``u = (m / (1 - beta1**t)) / (sqrt(v) / sqrt(1 - beta2**t) + eps) + weight_decay * p``, where
    0 / 0 counts as 0; ``p -= lr * (norm(p) / norm(u)) * u``. The ratio of the two norms, each of a
    whole array, is not clipped (the paper's phi is the identity), and 1 where one of them is 0. The
    norms are of float64 sums, whose bits do not depend on the number of threads.

    Example:
        >>> import numpy as np
        >>> w = np.array([3.0, 4.0])
        >>> LAMB([w], lr=0.2, eps=0).step([np.array([1.0, 0.0])])
        >>> w.round(6).tolist()
        [2.0, 4.0]
    """


class LARS(Optimizer, rule=layerwise.LARS):
    """LARS (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1), over NumPy arrays.

    ``r = trust_coefficient * norm(p) / (norm(grad) + weight_decay * norm(p) + eps)``, of a whole
    array, 1 where one of the two norms is 0; ``d = lr * r * (grad + weight_decay * p)``;
    ``b = momentum * b + (1 - dampening) * d`` (``b = d`` at an array's first step);
    ``p -= d + momentum * b if nesterov else b``. As in the paper the buffer holds steps with their
    learning rate, unlike that of `SGD`. Norms as `LAMB`.

    Example:
        >>> import numpy as np
        >>> w = np.array([3.0, 4.0])
        >>> LARS([w], lr=1.0, trust_coefficient=0.1, eps=0).step([np.array([0.0, 20.0])])
        >>> w.round(6).tolist()
        [3.0, 3.5]
    """
