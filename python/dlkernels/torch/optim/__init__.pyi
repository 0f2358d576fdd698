# Written by scripts/write_stubs.py.
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, type_check_only

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Self

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
class _KernelOptimizer(torch.optim.Optimizer):
    """Comes before torch's class among the bases of a twin, and replaces its step."""

    max_grad_norm: float | None
    write_back: bool
    ema_decay: float | None
    zero_grads: bool
    scaler_in_step: bool
    @classmethod
    def within(cls, wrapped: Any) -> Self:
        """The optimizer of this class that another library has wrapped: Lightning and Fabric,
        which pass attributes on, accelerate, whose wrapper (also that of transformers'
        ``Trainer``) shows no more than the groups, or a ZeroRedundancyOptimizer."""
    @property
    def grad_norm(self) -> Tensor | None:
        """With ``max_grad_norm``, what `torch.nn.utils.clip_grad_norm_` would have returned at
        the last step."""
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; a group may have `state_dtype`, `master`, `seed` and `min_8bit_size` of
        its own."""
    def state_dict(self) -> dict[str, Any]:
        """As torch's."""
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but states keep the dtypes they were saved with: torch casts them to their
        parameter's, so float32 moments of a bfloat16 parameter would lose what they are kept
        for."""
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step."""
    param_groups: list[dict[str, Any]]
    def float32_state_dict(self) -> dict[str, Any]:
        """`state_dict` as it would be without `state_dtype` and `master`: states in float32. It
        loads into this class in any format and on any number of processes; that of
        `dlkernels.torch.optim` into torch's class too. (`master_parameters` has the
        parameters.)"""
    def master_parameters(self) -> list[Tensor]:
        """Every parameter in float32, in the order of the groups: with ``master="split16"`` what
        its bfloat16 is the rounded half of. float64 parameters stay float64."""
    def load_master_parameters(self, values: Sequence[Tensor]) -> None:
        """Sets every parameter to these numbers, and with ``master="split16"`` its low half too."""
    def ema_parameters(self) -> list[Tensor]:
        """The moving averages, in the order of the parameters over all groups; before its first
        gradient, the parameter itself."""
    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """A context in which the parameters have the values of their averages; they have their
        own again afterwards, also after an exception. Autograd counts both writes."""

class ASGD(_KernelOptimizer, torch.optim.ASGD):
    """`torch.optim.ASGD` (Polyak and Juditsky 1992)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        lambd: float = 0.0001,
        alpha: float = 0.75,
        t0: float = 1000000.0,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class Adadelta(_KernelOptimizer, torch.optim.Adadelta):
    """`torch.optim.Adadelta` (Zeiler 2012)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-06,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class Adagrad(_KernelOptimizer, torch.optim.Adagrad):
    """`torch.optim.Adagrad` (Duchi et al. 2011)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class Adam(_KernelOptimizer, torch.optim.Adam):
    """`torch.optim.Adam` (Kingma and Ba 2015)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class AdamW(Adam, torch.optim.AdamW):
    """`torch.optim.AdamW` (Loshchilov and Hutter 2019)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class Adamax(_KernelOptimizer, torch.optim.Adamax):
    """`torch.optim.Adamax` (Kingma and Ba 2015)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class LAMB(_KernelOptimizer):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        bias_correction: bool = True,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class LARS(_KernelOptimizer):
    """LARS (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 0.001,
        eps: float = 1e-08,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...
    param_groups: list[dict[str, Any]]
    def float32_state_dict(self) -> dict[str, Any]:
        """`state_dict` as it would be without `state_dtype` and `master`: states in float32. It
        loads into this class in any format and on any number of processes; that of
        `dlkernels.torch.optim` into torch's class too. (`master_parameters` has the
        parameters.)"""
    def master_parameters(self) -> list[Tensor]:
        """Every parameter in float32, in the order of the groups: with ``master="split16"`` what
        its bfloat16 is the rounded half of. float64 parameters stay float64."""
    def load_master_parameters(self, values: Sequence[Tensor]) -> None:
        """Sets every parameter to these numbers, and with ``master="split16"`` its low half too."""
    def ema_parameters(self) -> list[Tensor]:
        """The moving averages, in the order of the parameters over all groups; before its first
        gradient, the parameter itself."""
    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """A context in which the parameters have the values of their averages; they have their
        own again afterwards, also after an exception. Autograd counts both writes."""

class Lion(_KernelOptimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class NAdam(_KernelOptimizer, torch.optim.NAdam):
    """`torch.optim.NAdam` (Dozat 2016)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        momentum_decay: float = 0.004,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class RAdam(_KernelOptimizer, torch.optim.RAdam):
    """`torch.optim.RAdam` (Liu et al. 2020)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class RMSprop(_KernelOptimizer, torch.optim.RMSprop):
    """`torch.optim.RMSprop` (Hinton's lecture 6e, Graves 2013)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-08,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class Rprop(_KernelOptimizer, torch.optim.Rprop):
    """`torch.optim.Rprop` (Riedmiller and Braun 1993)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-06, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...

class SGD(_KernelOptimizer, torch.optim.SGD):
    """`torch.optim.SGD` (Sutskever et al. 2013)."""
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        max_grad_norm: float | None = None,
        write_back: bool = False,
        ema_decay: float | None = None,
        zero_grads: bool = False,
        scaler_in_step: bool = False,
        state_dtype: str | None = None,
        master: str | None = None,
        seed: int | None = None,
        min_8bit_size: int = 4096,
    ) -> None: ...
    param_groups: list[dict[str, Any]]
    def float32_state_dict(self) -> dict[str, Any]:
        """`state_dict` as it would be without `state_dtype` and `master`: states in float32. It
        loads into this class in any format and on any number of processes; that of
        `dlkernels.torch.optim` into torch's class too. (`master_parameters` has the
        parameters.)"""
    def master_parameters(self) -> list[Tensor]:
        """Every parameter in float32, in the order of the groups: with ``master="split16"`` what
        its bfloat16 is the rounded half of. float64 parameters stay float64."""
    def load_master_parameters(self, values: Sequence[Tensor]) -> None:
        """Sets every parameter to these numbers, and with ``master="split16"`` its low half too."""
    def ema_parameters(self) -> list[Tensor]:
        """The moving averages, in the order of the parameters over all groups; before its first
        gradient, the parameter itself."""
    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """A context in which the parameters have the values of their averages; they have their
        own again afterwards, also after an exception. Autograd counts both writes."""
