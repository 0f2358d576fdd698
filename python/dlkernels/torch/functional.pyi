# Written by scripts/write_stubs.py.
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "alpha_dropout",
    "batch_norm",
    "bias_act_dropout",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "celu_",
    "cross_entropy",
    "cross_entropy_of_distributions",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "elu",
    "elu_",
    "entropy",
    "feature_alpha_dropout",
    "gaussian_nll_loss",
    "gelu",
    "glu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "huber_loss",
    "kl_div",
    "kl_divergence",
    "l1_loss",
    "leaky_relu",
    "leaky_relu_",
    "log_softmax",
    "logsigmoid",
    "maxout",
    "mish",
    "mse_loss",
    "nll_loss",
    "poisson_nll_loss",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "selu",
    "selu_",
    "sigmoid",
    "sigmoid_",
    "sigmoid_focal_loss",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "softsign",
    "swiglu",
    "tanh",
    "tanh_",
    "threshold",
    "threshold_",
]

def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`torch.nn.functional.alpha_dropout`, which keeps the mean 0 and variance 1 that SELU
    makes."""

def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-05,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, with the residual and activation that follow it."""

def bias_act_dropout(
    input: Tensor,
    bias: Tensor | None,
    activation: str = "relu",
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    **parameters: Any,
) -> Tensor:
    """``dropout(activation(input + bias))`` in one pass, rounded once; backward reads the
    input alone."""

def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``-target * log(input) - (1 - target) * log(1 - input)``, each logarithm at least -100
    (`torch.nn.functional.binary_cross_entropy`). Both operands must lie in [0, 1]."""

def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """`binary_cross_entropy` of ``sigmoid(input)``, without the detour
    (`torch.nn.functional.binary_cross_entropy_with_logits`). An infinite logit gives the
    limit: no loss where the target agrees, else an infinite one (torch mostly gives NaN)."""

def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` where ``x > 0``, else ``alpha * (exp(x / alpha) - 1)``
    (`torch.nn.functional.celu`), to 4 ULP."""

def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`celu` over its input."""

def cross_entropy(
    input: Tensor,
    target: Tensor,
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
) -> Tensor:
    """`torch.nn.functional.cross_entropy`, its gradient made in the same pass over the
    logits."""

def cross_entropy_of_distributions(
    p: Tensor, q: Tensor, dim: int = -1, *, base: float | None = None
) -> Tensor:
    """``-sum(p * log(q))`` along an axis, with ``0 log 0 = 0``: `entropy` of p plus
    `kl_divergence` of p from q."""

def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`torch.nn.functional.dropout`: elements become 0 with probability `p`, the others are
    multiplied by ``1 / (1 - p)``. What is dropped is 0 and has a gradient of 0 even if it
    is infinite or NaN, where torch has NaN."""

def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`torch.nn.functional.dropout1d`: `dropout` of whole channels."""

def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`torch.nn.functional.dropout2d`: `dropout` of whole channels."""

def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`torch.nn.functional.dropout3d`: `dropout` of whole channels."""

def dropout_add(
    input: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``dropout(input) + residual`` in one pass, rounded once."""

def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` where ``x > 0``, else ``alpha * (exp(x) - 1)``
    (`torch.nn.functional.elu`), to 3 ULP."""

def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`elu` over its input."""

def entropy(p: Tensor, dim: int = -1, *, base: float | None = None) -> Tensor:
    """``-sum(p * log(p))`` along an axis, with ``0 log 0 = 0``: the information of a draw."""

def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`torch.nn.functional.feature_alpha_dropout`: `alpha_dropout` of whole channels."""

def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-06,
    reduction: str = "mean",
) -> Tensor:
    """``(log(v) + (input - target)**2 / v) / 2`` with ``v = max(var, eps)``
    (`torch.nn.functional.gaussian_nll_loss`)."""

def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """``x * erfc(-x / sqrt(2)) / 2`` (`torch.nn.functional.gelu`), to 6 ULP for
    ``x >= -5``, 7 down to the smallest results (float64: 9). With
    ``approximate="tanh"``, ``x / 2 * (1 + tanh(u))``, ``u = sqrt(2 / pi) * (x + 0.044715
    * x**3)``, to ``4 + |2 u|`` ULP. Infinities give their limits, where torch has NaN."""

def glu(input: Tensor, dim: int = -1) -> Tensor:
    """`torch.nn.functional.glu`: ``a * sigmoid(b)`` for the halves of ``input`` along
    ``dim``."""

def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """``min(max(x + 3, 0), 6) / 6`` (`torch.nn.functional.hardsigmoid`); NaN stays
    NaN."""

def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * min(max(x + 3, 0), 6) / 6`` (`torch.nn.functional.hardswish`); -inf
    gives its limit, -0, where torch has NaN."""

def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """``min(max(x, min_val), max_val)`` (`torch.nn.functional.hardtanh`); NaN stays
    NaN. Exact."""

def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`hardtanh` over its input."""

def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """``d**2 / 2`` where ``d = abs(input - target)`` is at most ``delta``, else
    ``delta * (d - delta / 2)`` (`torch.nn.functional.huber_loss`)."""

def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """``target * (log(target) - input)`` with ``0 log 0 = 0``: the input is a logarithm
    (`torch.nn.functional.kl_div`; `kl_divergence` takes two distributions)."""

def kl_divergence(p: Tensor, q: Tensor, dim: int = -1, *, base: float | None = None) -> Tensor:
    """``sum(p * log(p / q))`` along an axis, with ``0 log 0 = 0`` (`scipy.stats.entropy` of
    two arguments; `kl_div` takes a logarithm)."""

def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """``abs(input - target)`` (`torch.nn.functional.l1_loss`); its derivative is 0 at 0."""

def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """``x`` where ``x > 0``, else ``negative_slope * x``
    (`torch.nn.functional.leaky_relu`); one rounding."""

def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`leaky_relu` over its input."""

def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """`torch.nn.functional.log_softmax`: ``input - log(sum(exp(input)))`` along `dim`."""

def logsigmoid(input: Tensor) -> Tensor:
    """``log(1 / (1 + exp(-x)))`` (`torch.nn.functional.logsigmoid`), to 2 ULP in
    both tails."""

def maxout(input: Tensor, pieces: int, dim: int = 1) -> Tensor:
    """The largest of every ``pieces`` neighbours along a dimension (Goodfellow et al.,
    2013)."""

def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * tanh(log(1 + exp(x)))`` (`torch.nn.functional.mish`), to 5 ULP; -inf
    gives its limit, -0, where torch has NaN."""

def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """``(input - target)**2`` (`torch.nn.functional.mse_loss`)."""

def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`torch.nn.functional.nll_loss`; sums and divisors in float64 for every dtype."""

def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-08,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``exp(input) - target * input``, or ``input - target * log(input + eps)`` where the
    input is no logarithm (`torch.nn.functional.poisson_nll_loss`)."""

def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """`torch.nn.functional.prelu`; the gradient of ``weight`` in the same pass as the
    input's."""

def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(x, 0)`` (`torch.relu`); NaN stays NaN and -0.0 stays -0.0. Exact."""

def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """``min(max(x, 0), 6)`` (`torch.nn.functional.relu6`); NaN stays NaN. Exact."""

def relu_(input: Tensor) -> Tensor:
    """`relu` over its input."""

def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """`elu` with alpha 1.67326..., times 1.05070... (`torch.nn.functional.selu`), to
    3 ULP."""

def selu_(input: Tensor) -> Tensor:
    """`selu` over its input."""

def sigmoid(input: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))`` (`torch.sigmoid`), to 3 ULP."""

def sigmoid_(input: Tensor) -> Tensor:
    """`sigmoid` over its input."""

def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """Binary cross-entropy of ``sigmoid(input)`` times ``(1 - p)**gamma``, p the probability
    given to the target, and a balance of the two targets (Lin et al., 2017;
    `torchvision.ops.sigmoid_focal_loss`)."""

def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``x / (1 + exp(-x))`` (`torch.nn.functional.silu`), to 3 ULP; -inf gives its
    limit, -0, where torch has NaN."""

def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """``d**2 / (2 * beta)`` where ``d = abs(input - target)`` is below ``beta``, else
    ``d - beta / 2`` (`torch.nn.functional.smooth_l1_loss`)."""

def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """`torch.nn.functional.softmax`: ``exp(input) / sum(exp(input))`` along `dim`."""

def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(beta * x)) / beta``, and ``x`` where ``beta * x > threshold``
    (`torch.nn.functional.softplus`), to 3 ULP if ``beta`` is a power of two, in
    both tails."""

def softsign(input: Tensor) -> Tensor:
    """``x / (1 + |x|)`` (`torch.nn.functional.softsign`), to 1 ULP; infinities give
    their limits, 1 and -1, where torch has NaN."""

def swiglu(gate: Tensor, up: Tensor | None = None, dim: int = -1) -> Tensor:
    """``silu(gate) * up`` in one pass, and both gradients in one (torch has no name for it)."""

def tanh(input: Tensor) -> Tensor:
    """``tanh(x)`` (`torch.tanh`), to 3.5 ULP; keeps -0.0."""

def tanh_(input: Tensor) -> Tensor:
    """`tanh` over its input."""

def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """``x`` where ``x > threshold`` (or is NaN), else ``value``
    (`torch.nn.functional.threshold`). Exact."""

def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """`threshold` over its input."""

TWINS: dict[Callable[..., Any], Callable[..., Tensor]]
