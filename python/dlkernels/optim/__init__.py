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

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> SGD([w], lr=0.5).step([np.array([2.0, 0.0])])
        >>> w.tolist()
        [0.0, 2.0]
    """


class Adam(Optimizer, rule=adam.ADAM):
    """Adam (`torch.optim.Adam`; Kingma and Ba 2015), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Adam([w], lr=0.5, eps=0).step([np.array([2.0, -4.0])])
        >>> w.round(6).tolist()
        [0.5, 2.5]
    """


class AdamW(Adam, rule=adam.ADAMW):
    """AdamW (`torch.optim.AdamW`; Loshchilov and Hutter 2019), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> AdamW([w], lr=0.5, weight_decay=0.5).step([np.array([0.0])])
        >>> w.tolist()
        [0.75]
    """


class Adagrad(Optimizer, rule=adaptive.ADAGRAD):
    """Adagrad (`torch.optim.Adagrad`; Duchi et al. 2011), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Adagrad([w], lr=0.5, eps=0).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """


class RMSprop(Optimizer, rule=adaptive.RMSPROP):
    """RMSprop (`torch.optim.RMSprop`; Hinton's lecture 6e, Graves 2013), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> RMSprop([w], lr=0.5, alpha=0.0, eps=0).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """


class Adadelta(Optimizer, rule=adaptive.ADADELTA):
    """Adadelta (`torch.optim.Adadelta`; Zeiler 2012), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> Adadelta([w], rho=0.0, eps=1.0).step([np.array([0.0])])
        >>> w.tolist()
        [1.0]
    """


class Adamax(Optimizer, rule=adam.ADAMAX):
    """Adamax (`torch.optim.Adamax`; Kingma and Ba 2015), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Adamax([w], lr=0.5, eps=0).step([np.array([2.0, -4.0])])
        >>> w.round(6).tolist()
        [0.5, 2.5]
    """


class NAdam(Optimizer, rule=adam.NADAM):
    """NAdam (`torch.optim.NAdam`; Dozat 2016), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> NAdam([w], weight_decay=0.5, decoupled_weight_decay=True, lr=0.5).step([np.zeros(1)])
        >>> w.tolist()
        [0.75]
    """


class RAdam(Optimizer, rule=adam.RADAM):
    """RAdam (`torch.optim.RAdam`; Liu et al. 2020), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0])
        >>> RAdam([w], lr=0.5).step([np.array([2.0])])
        >>> w.round(6).tolist()
        [0.0]
    """


class ASGD(Optimizer, rule=sgd.ASGD):
    """Averaged SGD (`torch.optim.ASGD`; Polyak and Juditsky 1992), over NumPy arrays.

    ``eta`` and ``mu`` are Python's floats where torch keeps float32.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> ASGD([w], lr=0.5, lambd=0.0).step([np.array([2.0, 0.0])])
        >>> w.tolist()
        [0.0, 2.0]
    """


class Rprop(Optimizer, rule=sign.RPROP):
    """Rprop (`torch.optim.Rprop`; Riedmiller and Braun 1993), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Rprop([w], lr=0.5).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """


class Lion(Optimizer, rule=sign.LION):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([1.0, 2.0])
        >>> Lion([w], lr=0.5).step([np.array([3.0, -4.0])])
        >>> w.tolist()
        [0.5, 2.5]
    """


class LAMB(Optimizer, rule=layerwise.LAMB):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([3.0, 4.0])
        >>> LAMB([w], lr=0.2, eps=0).step([np.array([1.0, 0.0])])
        >>> w.round(6).tolist()
        [2.0, 4.0]
    """


class LARS(Optimizer, rule=layerwise.LARS):
    """LARS (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1), over NumPy arrays.

    Example:
        >>> import numpy as np
        >>> w = np.array([3.0, 4.0])
        >>> LARS([w], lr=1.0, trust_coefficient=0.1, eps=0).step([np.array([0.0, 20.0])])
        >>> w.round(6).tolist()
        [3.0, 3.5]
    """
