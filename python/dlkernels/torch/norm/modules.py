"""Batch normalization's modules for the batches of one process."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dlkernels.torch._tools import Proxy, as_leaf
from dlkernels.torch.norm.batch import batch_norm, check_activation

__all__ = [
    "Activated",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
]


def normalize(
    module: Any,
    input: Tensor,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Tensor | None = None,
) -> Tensor:
    """What torch's module does with its input, and the fused rest."""
    module._check_input_dim(input)
    training, momentum = statistics_of(module)
    mean, variance = running_statistics(module)
    parameters = module._parameters  # unless parametrized; asking the module takes longer
    weight = parameters["weight"] if "weight" in parameters else module.weight  # noqa: SIM401
    bias = parameters["bias"] if "bias" in parameters else module.bias  # noqa: SIM401
    return batch_norm(
        input,
        mean,
        variance,
        weight,
        bias,
        training,
        momentum,
        module.eps,
        activation=activation,
        residual=residual,
        negative_slope=negative_slope,
    )


def statistics_of(module: Any) -> tuple[bool, Any]:
    """Counts the batch, and returns whether its own statistics are used and the share by which the
    running ones move.
    """
    momentum = 0.0 if module.momentum is None else module.momentum
    if module.training and module.track_running_stats:
        counter = module._buffers["num_batches_tracked"]
        if counter is not None:
            counter.add_(1)
            if module.momentum is None:
                # Under the compiler the count is not known, and stays a tensor.
                compiling = torch.compiler.is_compiling()
                momentum = counter if compiling else 1.0 / float(counter)
    if module.training:
        return True, momentum
    return module.running_mean is None and module.running_var is None, momentum


def running_statistics(module: Any) -> tuple[Tensor | None, Tensor | None]:
    """The module's, but for a training that does not track them."""
    if module.training and not module.track_running_stats:
        return None, None
    buffers = module._buffers
    return buffers["running_mean"], buffers["running_var"]


class _Plain(torch.nn.modules.batchnorm._BatchNorm):
    """A module of torch's on our function."""

    def forward(self, input: Tensor) -> Tensor:
        """`functional.batch_norm` of `input`."""
        if type(input) is Proxy:
            return as_leaf(self, input)
        return normalize(self, input)


class BatchNorm1d(_Plain, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` on `functional.batch_norm`."""

    __module__ = "dlkernels.torch.nn"


class BatchNorm2d(_Plain, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` on `functional.batch_norm`."""

    __module__ = "dlkernels.torch.nn"


class BatchNorm3d(_Plain, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` on `functional.batch_norm`."""

    __module__ = "dlkernels.torch.nn"


#: Functions of torch's that put another module in the place of a batch norm, made from its numbers
#: alone, and what to do instead.
_REPLACERS = {
    torch.nn.SyncBatchNorm.convert_sync_batchnorm.__func__.__code__: (  # type: ignore[attr-defined]
        "torch.nn.SyncBatchNorm.convert_sync_batchnorm",
        "dlkernels.torch.nn.SyncBatchNorm.convert_sync_batchnorm keeps it",
    ),
    fuse_conv_bn_eval.__code__: (
        "torch.nn.utils.fusion.fuse_conv_bn_eval",
        "fuse it with a plain BatchNorm and apply the activation after it",
    ),
}


class Activated(torch.nn.modules.batchnorm._BatchNorm):
    """A batch norm and the activation behind it."""

    # For a module of torch's that became one of ours by its class.
    activation: str | None = None
    negative_slope: float = 0.01

    @property
    def eps(self) -> float:
        """As torch. Raises TypeError for functions of torch's that would drop the activation."""
        if self.activation is not None and not torch.compiler.is_compiling():
            replacer = _REPLACERS.get(sys._getframe(1).f_code)
            if replacer is not None:
                raise TypeError(
                    f"{replacer[0]}: would drop the activation {self.activation!r} of "
                    f"{type(self).__name__}; {replacer[1]}"
                )
        value: float = self.__dict__["eps"]
        return value

    @eps.setter
    def eps(self, value: float) -> None:
        self.__dict__["eps"] = value

    def set_activation(self, activation: str | None, negative_slope: float) -> None:
        """Raises ValueError if there is no such activation."""
        check_activation(activation)
        self.activation, self.negative_slope = activation, negative_slope

    def extra_repr(self) -> str:
        """torch's, and the activation."""
        text: str = super().extra_repr()
        if self.activation is not None:
            text += f", activation={self.activation!r}"
        if self.activation == "leaky_relu":
            text += f", negative_slope={self.negative_slope}"
        return text


class _Fused(Activated):
    activation: str | None = "relu"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = "relu",
        negative_slope: float = 0.01,
    ) -> None:
        """See the class."""
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self.set_activation(activation, negative_slope)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(batch_norm(input) + residual)``."""
        if type(input) is Proxy:
            return as_leaf(self, input, residual)
        return normalize(self, input, self.activation, self.negative_slope, residual)


_FUSED = """`torch.nn.{0}`, the residual and the activation in one pass forward and one backward.

State dicts are those of `torch.nn.{0}`.

Args:
    num_features: As torch.
    eps: As torch.
    momentum: As torch.
    affine: As torch.
    track_running_stats: As torch.
    device: As torch.
    dtype: As torch.
    bias: As torch.
    activation: ``"relu"``, ``"leaky_relu"``, ``"silu"`` or None.
    negative_slope: Of ``"leaky_relu"``.

Raises:
    ValueError: There is no such activation.
"""


class BatchNormAct1d(_Fused, torch.nn.BatchNorm1d):
    __doc__ = _FUSED.format("BatchNorm1d")
    __module__ = "dlkernels.torch.nn"


class BatchNormAct2d(_Fused, torch.nn.BatchNorm2d):
    __doc__ = _FUSED.format("BatchNorm2d")
    __module__ = "dlkernels.torch.nn"


class BatchNormAct3d(_Fused, torch.nn.BatchNorm3d):
    __doc__ = _FUSED.format("BatchNorm3d")
    __module__ = "dlkernels.torch.nn"
