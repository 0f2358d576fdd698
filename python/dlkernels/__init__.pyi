# Written by scripts/write_stubs.py.
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dlkernels import image as image
from dlkernels import optim as optim
from dlkernels.norm import BatchNormGradients
from dlkernels.runtime import MemoryStats

__all__ = [
    "__version__",
    "active_isa",
    "alpha_dropout",
    "alpha_dropout_backward",
    "batch_norm",
    "batch_norm_backward",
    "bias_act_dropout",
    "bias_act_dropout_backward",
    "binary_cross_entropy",
    "binary_cross_entropy_with_grad",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_with_grad",
    "celu",
    "celu_backward",
    "cross_entropy",
    "cross_entropy_of_distributions",
    "cross_entropy_of_distributions_with_grad",
    "cross_entropy_with_grad",
    "dropout",
    "dropout1d",
    "dropout1d_backward",
    "dropout2d",
    "dropout2d_backward",
    "dropout3d",
    "dropout3d_backward",
    "dropout_add",
    "dropout_add_backward",
    "dropout_backward",
    "elu",
    "elu_backward",
    "empty_cache",
    "entropy",
    "entropy_with_grad",
    "feature_alpha_dropout",
    "feature_alpha_dropout_backward",
    "gaussian_nll_loss",
    "gaussian_nll_loss_with_grad",
    "gelu",
    "gelu_backward",
    "get_num_threads",
    "glu",
    "glu_backward",
    "hardsigmoid",
    "hardsigmoid_backward",
    "hardswish",
    "hardswish_backward",
    "hardtanh",
    "hardtanh_backward",
    "huber_loss",
    "huber_loss_with_grad",
    "image",
    "kl_div",
    "kl_div_with_grad",
    "kl_divergence",
    "kl_divergence_with_grad",
    "l1_loss",
    "l1_loss_with_grad",
    "leaky_relu",
    "leaky_relu_backward",
    "log_softmax",
    "log_softmax_backward",
    "logsigmoid",
    "logsigmoid_backward",
    "maxout",
    "maxout_backward",
    "memory_stats",
    "mish",
    "mish_backward",
    "mse_loss",
    "mse_loss_with_grad",
    "nll_loss",
    "nll_loss_backward",
    "nll_loss_with_grad",
    "num_threads",
    "optim",
    "poisson_nll_loss",
    "poisson_nll_loss_with_grad",
    "prelu",
    "prelu_backward",
    "relu",
    "relu6",
    "relu6_backward",
    "relu_backward",
    "selu",
    "selu_backward",
    "set_isa",
    "set_num_threads",
    "sigmoid",
    "sigmoid_backward",
    "sigmoid_focal_loss",
    "sigmoid_focal_loss_with_grad",
    "silu",
    "silu_backward",
    "smooth_l1_loss",
    "smooth_l1_loss_with_grad",
    "softmax",
    "softmax_backward",
    "softplus",
    "softplus_backward",
    "softsign",
    "softsign_backward",
    "swiglu",
    "swiglu_backward",
    "tanh",
    "tanh_backward",
    "threshold",
    "threshold_backward",
    "tune_malloc",
]
__version__: str

def active_isa() -> str:
    """Returns the instruction set in use."""

def alpha_dropout(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    out: Any | None = None,
) -> Any:
    """Dropout that keeps the mean 0 and variance 1 that SELU makes: elements become SELU's
    lower limit, -1.7581, then all are scaled and shifted
    (`torch.nn.functional.alpha_dropout`, whose `training` is false unless said
    otherwise)."""

def alpha_dropout_backward(
    grad_output: Any, p: float = 0.5, training: bool = True, *, seed: int | None = None
) -> Any:
    """Gradient of `alpha_dropout`: the scale where an element was kept, else 0."""

def batch_norm(
    input: Any,
    running_mean: Any | None = None,
    running_var: Any | None = None,
    weight: Any | None = None,
    bias: Any | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-05,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Any | None = None,
    out: Any | None = None,
) -> Any:
    """Batch normalization (`torch.nn.functional.batch_norm`), with what follows it in one
    pass."""

def batch_norm_backward(
    grad_output: Any,
    input: Any,
    running_mean: Any | None = None,
    running_var: Any | None = None,
    weight: Any | None = None,
    bias: Any | None = None,
    training: bool = False,
    eps: float = 1e-05,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Any | None = None,
) -> BatchNormGradients:
    """Gradients of `batch_norm`, given what it was given."""

def bias_act_dropout(
    x: Any,
    bias: Any | None,
    activation: str = "relu",
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    out: Any | None = None,
    **parameters: Any,
) -> Any:
    """``dropout(activation(x + bias))`` in one pass, rounded once."""

def bias_act_dropout_backward(
    grad_output: Any,
    x: Any,
    bias: Any | None,
    activation: str = "relu",
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    **parameters: Any,
) -> tuple[Any, Any]:
    """Gradients of `bias_act_dropout` for ``x`` and for ``bias``."""

def binary_cross_entropy(
    input: Any, target: Any, *, weight: Any | None = None, reduction: str = "mean"
) -> Any:
    """``-target * log(input) - (1 - target) * log(1 - input)``, each logarithm at least -100
    (`torch.nn.functional.binary_cross_entropy`). Both operands must lie in [0, 1]."""

def binary_cross_entropy_with_grad(
    input: Any,
    target: Any,
    *,
    weight: Any | None = None,
    reduction: str = "mean",
    wrt: Sequence[str] = ("input",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`binary_cross_entropy` and its gradients, in one pass."""

def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    *,
    weight: Any | None = None,
    pos_weight: Any | None = None,
    reduction: str = "mean",
) -> Any:
    """`binary_cross_entropy` of ``sigmoid(input)``, without the detour
    (`torch.nn.functional.binary_cross_entropy_with_logits`). An infinite logit gives the
    limit: no loss where the target agrees, else an infinite one (torch mostly gives NaN)."""

def binary_cross_entropy_with_logits_with_grad(
    input: Any,
    target: Any,
    *,
    weight: Any | None = None,
    pos_weight: Any | None = None,
    reduction: str = "mean",
    wrt: Sequence[str] = ("input",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`binary_cross_entropy_with_logits` and its gradients, in one pass."""

def celu(x: Any, alpha: float = 1.0, *, out: Any | None = None) -> Any:
    """``x`` where ``x > 0``, else ``alpha * (exp(x / alpha) - 1)``
    (`torch.nn.functional.celu`), to 4 ULP."""

def celu_backward(grad_output: Any, output: Any, alpha: float = 1.0) -> Any:
    """Gradient of `celu`, ``grad_output`` where ``y > 0``, else ``grad_output * (y /
    alpha + 1)``, from its result ``y``; see `elu_backward`."""

def cross_entropy(
    logits: Any,
    target: Any,
    *,
    weight: Any | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    return_lse: bool = False,
    return_argmax: bool = False,
) -> Any:
    """Softmax cross-entropy between logits and class targets."""

def cross_entropy_of_distributions(
    p: Any, q: Any, axis: int = -1, *, base: float | None = None
) -> Any:
    """``-sum(p * log(q))`` along an axis, with ``0 log 0 = 0``: `entropy` of p plus
    `kl_divergence` of p from q."""

def cross_entropy_of_distributions_with_grad(
    p: Any,
    q: Any,
    axis: int = -1,
    *,
    base: float | None = None,
    wrt: Sequence[str] = ("p",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`cross_entropy_of_distributions` and its gradients, in one pass."""

def cross_entropy_with_grad(
    logits: Any,
    target: Any,
    *,
    weight: Any | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    out: Any | None = None,
    return_lse: bool = False,
    return_argmax: bool = False,
) -> tuple[Any, ...]:
    """`cross_entropy` and its gradient with respect to the logits, in one pass over the
    logits."""

def dropout(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    out: Any | None = None,
) -> Any:
    """Sets elements to 0 with probability `p` and multiplies the others by ``1 / (1 - p)``
    (`torch.nn.functional.dropout`)."""

def dropout1d(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    out: Any | None = None,
) -> Any:
    """`dropout` of whole channels: `torch.nn.functional.dropout1d` of a batch."""

def dropout1d_backward(
    grad_output: Any, p: float = 0.5, training: bool = True, *, seed: int | None = None
) -> Any:
    """Gradient of `dropout1d`: the same mask and factor on `grad_output`."""

def dropout2d(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    out: Any | None = None,
) -> Any:
    """`dropout` of whole channels: `torch.nn.functional.dropout2d` of a batch."""

def dropout2d_backward(
    grad_output: Any, p: float = 0.5, training: bool = True, *, seed: int | None = None
) -> Any:
    """Gradient of `dropout2d`: the same mask and factor on `grad_output`."""

def dropout3d(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    out: Any | None = None,
) -> Any:
    """`dropout` of whole channels: `torch.nn.functional.dropout3d` of a batch."""

def dropout3d_backward(
    grad_output: Any, p: float = 0.5, training: bool = True, *, seed: int | None = None
) -> Any:
    """Gradient of `dropout3d`: the same mask and factor on `grad_output`."""

def dropout_add(
    x: Any,
    residual: Any,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    out: Any | None = None,
) -> Any:
    """``dropout(x) + residual`` in one pass, rounded once."""

def dropout_add_backward(
    grad_output: Any, p: float = 0.5, training: bool = True, *, seed: int | None = None
) -> tuple[Any, Any]:
    """Gradients of `dropout_add` for ``x`` and for ``residual``, which is `grad_output`
    itself."""

def dropout_backward(
    grad_output: Any, p: float = 0.5, training: bool = True, *, seed: int | None = None
) -> Any:
    """Gradient of `dropout`: the same mask and factor on `grad_output`."""

def elu(x: Any, alpha: float = 1.0, *, out: Any | None = None) -> Any:
    """``x`` where ``x > 0``, else ``alpha * (exp(x) - 1)``
    (`torch.nn.functional.elu`), to 3 ULP."""

def elu_backward(grad_output: Any, output: Any, alpha: float = 1.0) -> Any:
    """Gradient of `elu`, ``grad_output`` where ``y > 0``, else ``grad_output * (y +
    alpha)``, from its result ``y``, which is all that is kept: the derivative is
    off by half an ULP of ``alpha``, not of itself."""

def empty_cache() -> None:
    """Gives the memory that is kept for reuse back to the system."""

def entropy(p: Any, axis: int = -1, *, base: float | None = None) -> Any:
    """``-sum(p * log(p))`` along an axis, with ``0 log 0 = 0``: the information of a draw."""

def entropy_with_grad(
    p: Any,
    axis: int = -1,
    *,
    base: float | None = None,
    wrt: Sequence[str] = ("p",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`entropy` and its gradients, in one pass."""

def feature_alpha_dropout(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    out: Any | None = None,
) -> Any:
    """`alpha_dropout` of whole channels (`torch.nn.functional.feature_alpha_dropout`)."""

def feature_alpha_dropout_backward(
    grad_output: Any, p: float = 0.5, training: bool = True, *, seed: int | None = None
) -> Any:
    """Gradient of `feature_alpha_dropout`: the scale where a channel was kept, else 0."""

def gaussian_nll_loss(
    input: Any,
    target: Any,
    var: Any | float,
    *,
    full: bool = False,
    eps: float = 1e-06,
    reduction: str = "mean",
) -> Any:
    """``(log(v) + (input - target)**2 / v) / 2`` with ``v = max(var, eps)``
    (`torch.nn.functional.gaussian_nll_loss`)."""

def gaussian_nll_loss_with_grad(
    input: Any,
    target: Any,
    var: Any | float,
    *,
    full: bool = False,
    eps: float = 1e-06,
    reduction: str = "mean",
    wrt: Sequence[str] = ("input",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`gaussian_nll_loss` and its gradients, in one pass."""

def gelu(x: Any, *, approximate: str = "none", out: Any | None = None) -> Any:
    """``x * erfc(-x / sqrt(2)) / 2`` (`torch.nn.functional.gelu`), to 6 ULP for
    ``x >= -5``, 7 down to the smallest results (float64: 9). With
    ``approximate="tanh"``, ``x / 2 * (1 + tanh(u))``, ``u = sqrt(2 / pi) * (x + 0.044715
    * x**3)``, to ``4 + |2 u|`` ULP. Infinities give their limits, where torch has NaN."""

def gelu_backward(grad_output: Any, x: Any, *, approximate: str = "none") -> Any:
    """Gradient of `gelu`; 0 and 1 at the infinities, where torch has NaN."""

def get_num_threads() -> int:
    """Returns how many threads an operation called here may use."""

def glu(x: Any, axis: int = -1) -> Any:
    """``a * sigmoid(b)`` for the halves ``a, b`` of ``x`` (`torch.nn.functional.glu`)."""

def glu_backward(grad_output: Any, x: Any, axis: int = -1) -> Any:
    """Gradient of `glu`."""

def hardsigmoid(x: Any, *, out: Any | None = None) -> Any:
    """``min(max(x + 3, 0), 6) / 6`` (`torch.nn.functional.hardsigmoid`); NaN stays
    NaN."""

def hardsigmoid_backward(grad_output: Any, x: Any) -> Any:
    """Gradient of `hardsigmoid`: ``grad_output / 6`` where ``-3 < x < 3``, else 0
    (at NaN too)."""

def hardswish(x: Any, *, out: Any | None = None) -> Any:
    """``x * min(max(x + 3, 0), 6) / 6`` (`torch.nn.functional.hardswish`); -inf
    gives its limit, -0, where torch has NaN."""

def hardswish_backward(grad_output: Any, x: Any) -> Any:
    """Gradient of `hardswish`: ``grad_output`` times 0 below -3, 1 above 3, ``x / 3
    + 1 / 2`` between."""

def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0, *, out: Any | None = None) -> Any:
    """``min(max(x, min_val), max_val)`` (`torch.nn.functional.hardtanh`); NaN stays
    NaN. Exact."""

def hardtanh_backward(grad_output: Any, x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """Gradient of `hardtanh`: ``grad_output`` where ``min_val < x < max_val``, else
    0 (at NaN too)."""

def huber_loss(
    input: Any,
    target: Any,
    *,
    weight: Any | None = None,
    delta: float = 1.0,
    reduction: str = "mean",
) -> Any:
    """``d**2 / 2`` where ``d = abs(input - target)`` is at most ``delta``, else
    ``delta * (d - delta / 2)`` (`torch.nn.functional.huber_loss`)."""

def huber_loss_with_grad(
    input: Any,
    target: Any,
    *,
    weight: Any | None = None,
    delta: float = 1.0,
    reduction: str = "mean",
    wrt: Sequence[str] = ("input",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`huber_loss` and its gradients, in one pass."""

def kl_div(input: Any, target: Any, *, log_target: bool = False, reduction: str = "mean") -> Any:
    """``target * (log(target) - input)`` with ``0 log 0 = 0``: the input is a logarithm
    (`torch.nn.functional.kl_div`; `kl_divergence` takes two distributions)."""

def kl_div_with_grad(
    input: Any,
    target: Any,
    *,
    log_target: bool = False,
    reduction: str = "mean",
    wrt: Sequence[str] = ("input",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`kl_div` and its gradients, in one pass."""

def kl_divergence(p: Any, q: Any, axis: int = -1, *, base: float | None = None) -> Any:
    """``sum(p * log(p / q))`` along an axis, with ``0 log 0 = 0`` (`scipy.stats.entropy` of
    two arguments; `kl_div` takes a logarithm)."""

def kl_divergence_with_grad(
    p: Any,
    q: Any,
    axis: int = -1,
    *,
    base: float | None = None,
    wrt: Sequence[str] = ("p",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`kl_divergence` and its gradients, in one pass."""

def l1_loss(input: Any, target: Any, *, weight: Any | None = None, reduction: str = "mean") -> Any:
    """``abs(input - target)`` (`torch.nn.functional.l1_loss`); its derivative is 0 at 0."""

def l1_loss_with_grad(
    input: Any,
    target: Any,
    *,
    weight: Any | None = None,
    reduction: str = "mean",
    wrt: Sequence[str] = ("input",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`l1_loss` and its gradients, in one pass."""

def leaky_relu(x: Any, negative_slope: float = 0.01, *, out: Any | None = None) -> Any:
    """``x`` where ``x > 0``, else ``negative_slope * x``
    (`torch.nn.functional.leaky_relu`); one rounding."""

def leaky_relu_backward(grad_output: Any, x: Any, negative_slope: float = 0.01) -> Any:
    """Gradient of `leaky_relu`: ``grad_output`` where ``x > 0``, else times
    ``negative_slope``."""

def log_softmax(x: Any, axis: int = -1, *, out: Any | None = None) -> Any:
    """``x - log(sum(exp(x)))`` along one axis (`torch.log_softmax`)."""

def log_softmax_backward(
    grad_output: Any, output: Any, axis: int = -1, *, out: Any | None = None
) -> Any:
    """Gradient of `log_softmax`: ``grad_output - exp(output) * sum(grad_output)``."""

def logsigmoid(x: Any, *, out: Any | None = None) -> Any:
    """``log(1 / (1 + exp(-x)))`` (`torch.nn.functional.logsigmoid`), to 2 ULP in
    both tails."""

def logsigmoid_backward(grad_output: Any, output: Any) -> Any:
    """Gradient of `logsigmoid`, ``grad_output * (1 - exp(y))``, from its result
    ``y``."""

def maxout(x: Any, pieces: int, axis: int = 1, *, return_index: bool = False) -> Any:
    """The largest of every ``pieces`` neighbours along an axis (Goodfellow et al., 2013).
    Exact."""

def maxout_backward(grad_output: Any, index: Any, pieces: int, axis: int = 1) -> Any:
    """Gradient of `maxout`: ``grad_output`` in the winner's place, 0 in the others'."""

def memory_stats() -> MemoryStats:
    """Returns what the pool of result memory holds and did, as a dictionary."""

def mish(x: Any, *, out: Any | None = None) -> Any:
    """``x * tanh(log(1 + exp(x)))`` (`torch.nn.functional.mish`), to 5 ULP; -inf
    gives its limit, -0, where torch has NaN."""

def mish_backward(grad_output: Any, x: Any) -> Any:
    """Gradient of `mish`; 0 and 1 at the infinities, where torch has NaN."""

def mse_loss(input: Any, target: Any, *, weight: Any | None = None, reduction: str = "mean") -> Any:
    """``(input - target)**2`` (`torch.nn.functional.mse_loss`)."""

def mse_loss_with_grad(
    input: Any,
    target: Any,
    *,
    weight: Any | None = None,
    reduction: str = "mean",
    wrt: Sequence[str] = ("input",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`mse_loss` and its gradients, in one pass."""

def nll_loss(
    log_probabilities: Any,
    target: Any,
    *,
    weight: Any | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """Negative log-likelihood of class targets (`torch.nn.functional.nll_loss`)."""

def nll_loss_backward(
    grad_output: Any | float,
    log_probabilities: Any,
    target: Any,
    *,
    weight: Any | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """Gradient of `nll_loss` with respect to its input."""

def nll_loss_with_grad(
    log_probabilities: Any,
    target: Any,
    *,
    weight: Any | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Any, Any]:
    """`nll_loss` and its gradient: the targets' elements are read, the gradient is written."""

@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Limits the threads of the operations in a ``with`` block, for the calling thread."""

def poisson_nll_loss(
    input: Any,
    target: Any,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-08,
    reduction: str = "mean",
) -> Any:
    """``exp(input) - target * input``, or ``input - target * log(input + eps)`` where the
    input is no logarithm (`torch.nn.functional.poisson_nll_loss`)."""

def poisson_nll_loss_with_grad(
    input: Any,
    target: Any,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-08,
    reduction: str = "mean",
    wrt: Sequence[str] = ("input",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`poisson_nll_loss` and its gradients, in one pass."""

def prelu(x: Any, weight: Any, *, out: Any | None = None) -> Any:
    """``x`` where ``x > 0``, else ``weight * x`` (`torch.nn.functional.prelu`); one
    rounding."""

def prelu_backward(grad_output: Any, x: Any, weight: Any) -> tuple[Any, Any]:
    """Gradients of `prelu` for its input and its weight, both in one pass over the data."""

def relu(x: Any, *, out: Any | None = None) -> Any:
    """``max(x, 0)`` (`torch.relu`); NaN stays NaN and -0.0 stays -0.0. Exact."""

def relu6(x: Any, *, out: Any | None = None) -> Any:
    """``min(max(x, 0), 6)`` (`torch.nn.functional.relu6`); NaN stays NaN. Exact."""

def relu6_backward(grad_output: Any, x: Any) -> Any:
    """Gradient of `relu6`: ``grad_output`` where ``0 < x < 6``, else 0 (at NaN too,
    as in torch)."""

def relu_backward(grad_output: Any, x: Any) -> Any:
    """Gradient of `relu`: ``grad_output`` where ``x > 0`` (or is NaN), else 0.
    ``x`` may be the result of `relu` as well."""

def selu(x: Any, *, out: Any | None = None) -> Any:
    """`elu` with alpha 1.67326..., times 1.05070... (`torch.nn.functional.selu`), to
    3 ULP."""

def selu_backward(grad_output: Any, output: Any) -> Any:
    """Gradient of `selu` from its result; see `elu_backward`."""

def set_isa(level: str) -> None:
    """Chooses the instruction set for the whole process; for tests and comparisons."""

def set_num_threads(count: int) -> None:
    """Limits how many threads an operation uses; results do not depend on it."""

def sigmoid(x: Any, *, out: Any | None = None) -> Any:
    """``1 / (1 + exp(-x))`` (`torch.sigmoid`), to 3 ULP."""

def sigmoid_backward(grad_output: Any, output: Any) -> Any:
    """Gradient of `sigmoid`, ``grad_output * y * (1 - y)``, from its result ``y``."""

def sigmoid_focal_loss(
    input: Any, target: Any, *, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Any:
    """Binary cross-entropy of ``sigmoid(input)`` times ``(1 - p)**gamma``, p the probability
    given to the target, and a balance of the two targets (Lin et al., 2017;
    `torchvision.ops.sigmoid_focal_loss`)."""

def sigmoid_focal_loss_with_grad(
    input: Any,
    target: Any,
    *,
    alpha: float = 0.25,
    gamma: float = 2,
    reduction: str = "none",
    wrt: Sequence[str] = ("input",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`sigmoid_focal_loss` and its gradients, in one pass."""

def silu(x: Any, *, out: Any | None = None) -> Any:
    """``x / (1 + exp(-x))`` (`torch.nn.functional.silu`), to 3 ULP; -inf gives its
    limit, -0, where torch has NaN."""

def silu_backward(grad_output: Any, x: Any) -> Any:
    """Gradient of `silu`; 0 and 1 at the infinities, where torch has NaN."""

def smooth_l1_loss(input: Any, target: Any, *, beta: float = 1.0, reduction: str = "mean") -> Any:
    """``d**2 / (2 * beta)`` where ``d = abs(input - target)`` is below ``beta``, else
    ``d - beta / 2`` (`torch.nn.functional.smooth_l1_loss`)."""

def smooth_l1_loss_with_grad(
    input: Any,
    target: Any,
    *,
    beta: float = 1.0,
    reduction: str = "mean",
    wrt: Sequence[str] = ("input",),
    out: Any | None = None,
) -> tuple[Any, ...]:
    """`smooth_l1_loss` and its gradients, in one pass."""

def softmax(x: Any, axis: int = -1, *, out: Any | None = None) -> Any:
    """``exp(x) / sum(exp(x))`` along one axis (`torch.softmax`)."""

def softmax_backward(
    grad_output: Any, output: Any, axis: int = -1, *, out: Any | None = None
) -> Any:
    """Gradient of `softmax`: ``output * (grad_output - sum(grad_output * output))``."""

def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0, *, out: Any | None = None) -> Any:
    """``log(1 + exp(beta * x)) / beta``, and ``x`` where ``beta * x > threshold``
    (`torch.nn.functional.softplus`), to 3 ULP if ``beta`` is a power of two, in
    both tails."""

def softplus_backward(grad_output: Any, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Gradient of `softplus`, ``grad_output / (1 + exp(-beta * x))``;
    ``grad_output`` above ``threshold``."""

def softsign(x: Any, *, out: Any | None = None) -> Any:
    """``x / (1 + |x|)`` (`torch.nn.functional.softsign`), to 1 ULP; infinities give
    their limits, 1 and -1, where torch has NaN."""

def softsign_backward(grad_output: Any, output: Any) -> Any:
    """Gradient of `softsign`, ``grad_output * (1 - |y|)**2``, from its result ``y``,
    which is all that is kept: the derivative is off by 2 eps of 1, not of itself."""

def swiglu(gate: Any, up: Any | None = None, *, axis: int = -1) -> Any:
    """``silu(gate) * up`` in one pass, with ``silu(x) = x * sigmoid(x)`` (Shazeer, 2020)."""

def swiglu_backward(grad_output: Any, gate: Any, up: Any | None = None, *, axis: int = -1) -> Any:
    """Gradients of `swiglu`, in one pass."""

def tanh(x: Any, *, out: Any | None = None) -> Any:
    """``tanh(x)`` (`torch.tanh`), to 3.5 ULP; keeps -0.0."""

def tanh_backward(grad_output: Any, output: Any) -> Any:
    """Gradient of `tanh`, ``grad_output * (1 - y**2)``, from its result ``y``."""

def threshold(x: Any, threshold: float, value: float, *, out: Any | None = None) -> Any:
    """``x`` where ``x > threshold`` (or is NaN), else ``value``
    (`torch.nn.functional.threshold`). Exact."""

def threshold_backward(grad_output: Any, x: Any, threshold: float, value: float) -> Any:
    """Gradient of `threshold`: ``grad_output`` where ``x > threshold`` (or is NaN),
    else 0."""

def tune_malloc(enable: bool = True) -> bool:
    """Keeps the C library from handing memory back to the system at every free."""
