# Written by scripts/write_stubs.py.
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, type_check_only

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

@type_check_only
class _Optimizer:
    """An optimizer over NumPy arrays. A class with a `rule` gets its constructor and the
    rest of its docstring from that."""

    param_groups: list[dict[str, Any]]
    state: list[dict[str, Any]]
    defaults: dict[str, Any]
    grad_norm: float | None
    found_inf: bool
    max_grad_norm: float | None
    write_back: bool
    ema_decay: float | None
    zero_grads: bool
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters: a dict with ``"params"`` and that group's own values of the
        arguments."""
    def step(self, grads: Sequence[Any | None], *, grad_scale: float | None = None) -> None:
        """Updates every parameter in place."""
    def state_dict(self) -> dict[str, Any]:
        """The groups' numbers and copies of the states, enough to go on from."""
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave. States keep their dtypes."""
    def float32_state_dict(self) -> dict[str, Any]:
        """`state_dict` as it would be without `state_dtype` and `master`: states in float32. It
        loads into this class in any format and on any number of processes; that of
        `dlkernels.torch.optim` into torch's class too. (`master_parameters` has the
        parameters.)"""
    def master_parameters(self) -> list[Any]:
        """Every parameter in float32, in the order of the groups: with ``master="split16"`` what
        its bfloat16 is the rounded half of. float64 parameters stay float64."""
    def load_master_parameters(self, values: Sequence[Any]) -> None:
        """Sets every parameter to these numbers, and with ``master="split16"`` its low half too."""
    def ema_parameters(self) -> list[Any]:
        """The moving averages, in the order of the parameters over all groups; before its first
        gradient, the parameter itself."""
    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """A context in which the parameters have the values of their averages; they have their
        own again afterwards, also after an exception. Autograd counts both writes."""

class ASGD(_Optimizer):
    """Averaged SGD (`torch.optim.ASGD`; Polyak and Juditsky 1992), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.01,
        lambd: float = 0.0001,
        alpha: float = 0.75,
        t0: float = 1000000.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class Adadelta(_Optimizer):
    """Adadelta (`torch.optim.Adadelta`; Zeiler 2012), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class Adagrad(_Optimizer):
    """Adagrad (`torch.optim.Adagrad`; Duchi et al. 2011), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class Adam(_Optimizer):
    """Adam (`torch.optim.Adam`; Kingma and Ba 2015), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class AdamW(Adam):
    """AdamW (`torch.optim.AdamW`; Loshchilov and Hutter 2019), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class Adamax(_Optimizer):
    """Adamax (`torch.optim.Adamax`; Kingma and Ba 2015), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class LAMB(_Optimizer):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        bias_correction: bool = True,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class LARS(_Optimizer):
    """LARS (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1), over NumPy
    arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.1,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 0.001,
        eps: float = 1e-08,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class Lion(_Optimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class NAdam(_Optimizer):
    """NAdam (`torch.optim.NAdam`; Dozat 2016), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        momentum_decay: float = 0.004,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class RAdam(_Optimizer):
    """RAdam (`torch.optim.RAdam`; Liu et al. 2020), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class RMSprop(_Optimizer):
    """RMSprop (`torch.optim.RMSprop`; Hinton's lecture 6e, Graves 2013), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class Rprop(_Optimizer):
    """Rprop (`torch.optim.Rprop`; Riedmiller and Braun 1993), over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.01,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-06, 50),
        *,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...

class SGD(_Optimizer):
    """Stochastic gradient descent with momentum (`torch.optim.SGD`; Sutskever et al. 2013),
    over NumPy arrays."""
    def __init__(
        self,
        params: Iterable[Any] | Iterable[dict[str, Any]],
        lr: float = 0.001,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int = 0,
        min_8bit_size: int = 4096,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
    ) -> None: ...
