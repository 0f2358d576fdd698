# Written by scripts/write_stubs.py.
from typing import Any, type_check_only

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "AlphaDropout",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "GaussianNLLLoss",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "Maxout",
    "Mish",
    "NLLLoss",
    "PReLU",
    "PoissonNLLLoss",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "Softsign",
    "SwiGLU",
    "SyncBatchNorm",
    "Tanh",
    "Threshold",
]

class AlphaDropout(torch.nn.AlphaDropout):
    """`torch.nn.AlphaDropout` on `functional.alpha_dropout`."""

    seed: int | Tensor | None
    generator: torch.Generator | None
    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """Our function of `input`."""

class BCELoss(torch.nn.BCELoss):
    """`torch.nn.BCELoss` on `functional.binary_cross_entropy`."""
    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """`functional.binary_cross_entropy` of the arguments."""

class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss` on `functional.binary_cross_entropy_with_logits`."""
    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """`functional.binary_cross_entropy_with_logits` of the arguments."""

@type_check_only
class _Plain(_BatchNorm):
    """A module of torch's on our function."""
    def forward(self, input: Tensor) -> Tensor:
        """`functional.batch_norm` of `input`."""

class BatchNorm1d(_Plain, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` on `functional.batch_norm`."""
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None: ...

class BatchNorm2d(_Plain, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` on `functional.batch_norm`."""
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None: ...

class BatchNorm3d(_Plain, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` on `functional.batch_norm`."""
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None: ...

@type_check_only
class _Activated(_BatchNorm):
    """A batch norm and the activation behind it."""

    activation: str | None
    negative_slope: float
    def set_activation(self, activation: str | None, negative_slope: float) -> None:
        """Raises ValueError if there is no such activation."""
    def extra_repr(self) -> str:
        """torch's, and the activation."""

@type_check_only
class _Fused(_Activated):
    """A batch norm and the activation behind it."""

    activation: str | None
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(batch_norm(input) + residual)``."""

class BatchNormAct1d(_Fused, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, the residual and the activation in one pass forward and one
    backward."""
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = "relu",
        negative_slope: float = 0.01,
    ) -> None: ...

class BatchNormAct2d(_Fused, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, the residual and the activation in one pass forward and one
    backward."""
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = "relu",
        negative_slope: float = 0.01,
    ) -> None: ...

class BatchNormAct3d(_Fused, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, the residual and the activation in one pass forward and one
    backward."""
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = "relu",
        negative_slope: float = 0.01,
    ) -> None: ...

class CELU(torch.nn.CELU):
    """`torch.nn.CELU` on `functional.celu`."""
    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.celu` of `input`."""

class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` on `functional.cross_entropy`."""

    z_loss: float
    softcap: float | None
    inplace: bool
    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        softcap: float | None = None,
        inplace: bool = False,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of `input` (logits) against `target`."""

class Dropout(torch.nn.Dropout):
    """`torch.nn.Dropout` on `functional.dropout`."""

    seed: int | Tensor | None
    generator: torch.Generator | None
    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """Our function of `input`."""

class Dropout1d(torch.nn.Dropout1d):
    """`torch.nn.Dropout1d` on `functional.dropout1d`."""

    seed: int | Tensor | None
    generator: torch.Generator | None
    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """Our function of `input`."""

class Dropout2d(torch.nn.Dropout2d):
    """`torch.nn.Dropout2d` on `functional.dropout2d`."""

    seed: int | Tensor | None
    generator: torch.Generator | None
    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """Our function of `input`."""

class Dropout3d(torch.nn.Dropout3d):
    """`torch.nn.Dropout3d` on `functional.dropout3d`."""

    seed: int | Tensor | None
    generator: torch.Generator | None
    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """Our function of `input`."""

class ELU(torch.nn.ELU):
    """`torch.nn.ELU` on `functional.elu`."""
    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.elu` of `input`."""

class FeatureAlphaDropout(torch.nn.FeatureAlphaDropout):
    """`torch.nn.FeatureAlphaDropout` on `functional.feature_alpha_dropout`."""

    seed: int | Tensor | None
    generator: torch.Generator | None
    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """Our function of `input`."""

class GELU(torch.nn.GELU):
    """`torch.nn.GELU` on `functional.gelu`."""
    def __init__(self, approximate: str = "none") -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.gelu` of `input`."""

class GLU(torch.nn.GLU):
    """`torch.nn.GLU` on `functional.glu`."""
    def __init__(self, dim: int = -1) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.glu` of `input`."""

class GaussianNLLLoss(torch.nn.GaussianNLLLoss):
    """`torch.nn.GaussianNLLLoss` on `functional.gaussian_nll_loss`."""
    def __init__(
        self, *, full: bool = False, eps: float = 1e-06, reduction: str = "mean"
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        """`functional.gaussian_nll_loss` of the arguments."""

class Hardsigmoid(torch.nn.Hardsigmoid):
    """`torch.nn.Hardsigmoid` on `functional.hardsigmoid`."""
    def __init__(self, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.hardsigmoid` of `input`."""

class Hardswish(torch.nn.Hardswish):
    """`torch.nn.Hardswish` on `functional.hardswish`."""
    def __init__(self, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.hardswish` of `input`."""

class Hardtanh(torch.nn.Hardtanh):
    """`torch.nn.Hardtanh` on `functional.hardtanh`."""
    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.hardtanh` of `input`."""

class HuberLoss(torch.nn.HuberLoss):
    """`torch.nn.HuberLoss` on `functional.huber_loss`."""
    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """`functional.huber_loss` of the arguments."""

class KLDivLoss(torch.nn.KLDivLoss):
    """`torch.nn.KLDivLoss` on `functional.kl_div`."""
    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """`functional.kl_div` of the arguments."""

class L1Loss(torch.nn.L1Loss):
    """`torch.nn.L1Loss` on `functional.l1_loss`."""
    def __init__(
        self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """`functional.l1_loss` of the arguments."""

class LeakyReLU(torch.nn.LeakyReLU):
    """`torch.nn.LeakyReLU` on `functional.leaky_relu`."""
    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.leaky_relu` of `input`."""

class LogSigmoid(torch.nn.LogSigmoid):
    """`torch.nn.LogSigmoid` on `functional.logsigmoid`."""
    def __init__(self) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.logsigmoid` of `input`."""

class LogSoftmax(torch.nn.LogSoftmax):
    """`torch.nn.LogSoftmax` on `functional.log_softmax`."""
    def __init__(self, dim: int | None = None) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """log_softmax of `input` along ``self.dim``."""

class MSELoss(torch.nn.MSELoss):
    """`torch.nn.MSELoss` on `functional.mse_loss`."""
    def __init__(
        self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """`functional.mse_loss` of the arguments."""

class Maxout(torch.nn.Module):
    """`functional.maxout` as a module."""

    pieces: int
    dim: int
    def __init__(self, pieces: int, dim: int = 1) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.maxout` of `input`."""
    def extra_repr(self) -> str:
        """The arguments."""

class Mish(torch.nn.Mish):
    """`torch.nn.Mish` on `functional.mish`."""
    def __init__(self, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.mish` of `input`."""

class NLLLoss(torch.nn.NLLLoss):
    """`torch.nn.NLLLoss` on `functional.nll_loss`."""
    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """`functional.nll_loss` of the arguments."""

class PReLU(torch.nn.PReLU):
    """`torch.nn.PReLU` on `functional.prelu`."""
    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.prelu` of `input`."""

class PoissonNLLLoss(torch.nn.PoissonNLLLoss):
    """`torch.nn.PoissonNLLLoss` on `functional.poisson_nll_loss`."""
    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: bool | None = None,
        eps: float = 1e-08,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None: ...
    def forward(self, log_input: Tensor, target: Tensor) -> Tensor:
        """`functional.poisson_nll_loss` of the arguments."""

class ReLU(torch.nn.ReLU):
    """`torch.nn.ReLU` on `functional.relu`."""
    def __init__(self, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.relu` of `input`."""

class ReLU6(torch.nn.ReLU6):
    """`torch.nn.ReLU6` on `functional.relu6`."""
    def __init__(self, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.relu6` of `input`."""

class SELU(torch.nn.SELU):
    """`torch.nn.SELU` on `functional.selu`."""
    def __init__(self, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.selu` of `input`."""

class SiLU(torch.nn.SiLU):
    """`torch.nn.SiLU` on `functional.silu`."""
    def __init__(self, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.silu` of `input`."""

class Sigmoid(torch.nn.Sigmoid):
    """`torch.nn.Sigmoid` on `functional.sigmoid`."""
    def __init__(self) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.sigmoid` of `input`."""

class SmoothL1Loss(torch.nn.SmoothL1Loss):
    """`torch.nn.SmoothL1Loss` on `functional.smooth_l1_loss`."""
    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        beta: float = 1.0,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """`functional.smooth_l1_loss` of the arguments."""

class Softmax(torch.nn.Softmax):
    """`torch.nn.Softmax` on `functional.softmax`."""
    def __init__(self, dim: int | None = None) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """softmax of `input` along ``self.dim``."""

class Softplus(torch.nn.Softplus):
    """`torch.nn.Softplus` on `functional.softplus`."""
    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.softplus` of `input`."""

class Softsign(torch.nn.Softsign):
    """`torch.nn.Softsign` on `functional.softsign`."""
    def __init__(self) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.softsign` of `input`."""

class SwiGLU(torch.nn.Module):
    """`functional.swiglu` as a module."""

    dim: int
    def __init__(self, dim: int = -1) -> None: ...
    def forward(self, gate: Tensor, up: Tensor | None = None) -> Tensor:
        """`functional.swiglu` of `gate` and `up`."""
    def extra_repr(self) -> str:
        """The argument."""

class SyncBatchNorm(_Activated):
    """`torch.nn.SyncBatchNorm` for CPU tensors, which torch's own refuses."""

    process_group: Any | None
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        negative_slope: float = 0.01,
    ) -> None: ...
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(batch_norm(input) + residual)`` over the batches of the group."""
    @classmethod
    def convert_sync_batchnorm(cls, module: Any, process_group: Any | None = None) -> Any:
        """Puts this module in the place of every batch norm, torch's or ours, within `module`."""

class Tanh(torch.nn.Tanh):
    """`torch.nn.Tanh` on `functional.tanh`."""
    def __init__(self) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.tanh` of `input`."""

class Threshold(torch.nn.Threshold):
    """`torch.nn.Threshold` on `functional.threshold`."""
    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor:
        """`functional.threshold` of `input`."""

TWINS: dict[type[torch.nn.Module], type[torch.nn.Module]]
