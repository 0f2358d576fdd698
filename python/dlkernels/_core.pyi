from typing import Any, Literal, TypedDict, type_check_only

from .runtime import MemoryStats

@type_check_only
class BuildInfo(TypedDict):
    version: str
    compiler: str
    cxx_standard: int
    openmp: int
    assertions: bool
    pybind11: str

class Exporter:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: Any = None,
        copy: Any = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

def active_isa() -> str: ...
def isa_reason() -> str: ...
def compiled_isas() -> list[str]: ...
def supported_isas() -> list[str]: ...
def set_isa(level: str) -> None: ...
def set_num_threads(count: int, new_threads_too: bool = True) -> None: ...
def num_threads_limit() -> int: ...
def thread_count() -> int: ...
def in_forked_child() -> bool: ...
def empty_cache() -> None: ...
def memory_stats() -> MemoryStats: ...
def set_pool_limit(bytes: int) -> None: ...
def tune_malloc(enable: bool) -> bool: ...
def last_level_cache_bytes() -> int: ...
def build_info() -> BuildInfo: ...
def overlaps_itself(shape: tuple[int, ...], strides: tuple[int, ...], /) -> bool: ...

# The operations take any array (hence Any) by position, and give back the kind that came in.

def number_of(array: Any, /) -> Any: ...  # an int of int64, else a float
def cross_entropy(
    input: Any,
    target: Any,
    weight: Any,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
    with_grad: bool,
    out: Any,
    return_lse: bool,
    return_argmax: bool,
    grad_output: Any,
    /,
) -> Any: ...
def softmax(input: Any, axis: int, logarithm: bool, out: Any, /) -> Any: ...
def softmax_backward(
    grad_output: Any, output: Any, axis: int, logarithm: bool, out: Any, /
) -> Any: ...
def nll_loss(input: Any, target: Any, weight: Any, ignore_index: int, reduction: str, /) -> Any: ...
def nll_loss_backward(
    grad_output: Any,
    input: Any,
    target: Any,
    weight: Any,
    ignore_index: int,
    reduction: str,
    /,
) -> Any: ...
def elementwise_loss_index(key: str, /) -> int: ...
def elementwise_loss(
    index: int,
    a: float,
    b: float,
    input: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    reduction: str,
    axis: int | None,
    wrt: int,
    out: Any,
    grad_output: Any,
    /,
) -> Any: ...
def activation_index(name: str, /) -> int: ...
def activation_saves(index: int, /) -> Literal["input", "output", "mask"]: ...
def activation(
    index: int,
    input: Any,
    out: Any,
    with_mask: bool,
    first: float,
    second: float,
    /,
) -> Any: ...
def activation_backward(
    index: int,
    grad_output: Any,
    saved: Any,
    mask: Any,
    first: float,
    second: float,
    /,
) -> Any: ...
def prelu(input: Any, weight: Any, out: Any = None, /) -> Any: ...
def prelu_backward(grad_output: Any, input: Any, weight: Any, /) -> Any: ...
def gated_halves(input: Any, axis: int, silu: bool, /) -> Any: ...
def gated_halves_backward(grad_output: Any, input: Any, axis: int, silu: bool, /) -> Any: ...
def swiglu(gate: Any, up: Any, /) -> Any: ...
def swiglu_backward(grad_output: Any, gate: Any, up: Any, /) -> Any: ...
def maxout(input: Any, pieces: int, axis: int, return_index: bool, /) -> Any: ...
def maxout_backward(grad_output: Any, index: Any, pieces: int, axis: int, /) -> Any: ...
def math_function(name: str, x: Any, /) -> Any: ...
def optimizer_step(
    kernel: str,
    operation: str,
    slots: list[str],
    has_average: bool,
    params: list[Any],
    grads: list[Any],
    states: list[Any],
    setting_of: list[int],
    settings: list[Any],
    signed_slots: list[bool],
    rounding: list[Any],
    extras: StepExtras,
    /,
) -> None: ...

# Refuses what `optimizer_step` would refuse of parameters.
def check_parameters(operation: str, params: list[Any], /) -> None: ...

# What a step does besides its rule; `is_skipped`, `norm` and `norm_is_double` also tell what came
# of it.
class StepExtras:
    unscale: float
    max_norm: float
    average_weight: float
    average_copies: bool
    write_back: bool
    zero_grads: bool
    skips_nonfinite: bool
    is_skipped: bool
    def __init__(self) -> None: ...
    @property
    def norm(self) -> float: ...
    @property
    def norm_is_double(self) -> bool: ...

# Batch normalization. The channels are axis 1. `activation` is None, "relu", "leaky_relu" or
# "silu"; parameters and statistics are float32 or of the input's dtype, all alike. `mask` is uint8,
# (elements + 15) // 16 * 2 bytes: a bit per element in the memory order of an output that lies like
# the input. Backward takes the statistics again where training is set and save_mean is None.

def batch_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    negative_slope: float,
    residual: Any,
    save: bool,
    out: Any,
    /,
) -> tuple[Any, Any, Any, Any]: ...
def batch_norm_backward(
    grad_output: Any,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    save_mean: Any,
    save_invstd: Any,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
    residual: Any,
    mask: Any,
    want: tuple[bool, bool, bool, bool],
    /,
) -> tuple[Any, Any, Any, Any]: ...
def batch_norm_stats(input: Any, /) -> tuple[Any, Any]: ...
def batch_norm_elemt(
    input: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    invstd: Any,
    activation: str | None,
    negative_slope: float,
    residual: Any,
    save: bool,
    /,
) -> tuple[Any, Any]: ...
def batch_norm_backward_reduce(
    grad_output: Any,
    input: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    invstd: Any,
    activation: str | None,
    negative_slope: float,
    residual: Any,
    mask: Any,
    /,
) -> tuple[Any, Any]: ...
def batch_norm_backward_elemt(
    grad_output: Any,
    input: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    invstd: Any,
    sum_dy: Any,
    sum_dy_xmu: Any,
    count: float,
    activation: str | None,
    negative_slope: float,
    residual: Any,
    mask: Any,
    want_input: bool,
    want_residual: bool,
    /,
) -> tuple[Any, Any]: ...
def dropout(
    operation: str,
    input: Any,
    residual: Any,
    out: Any,
    seed: int,
    p: float,
    alpha: bool,
    plane_dims: int,
    ndim: int,
    backward: bool,
    kept: Any,
    with_kept: bool,
    /,
) -> Any: ...
def bias_act_dropout(
    input: Any,
    bias: Any,
    out: Any,
    seed: int,
    p: float,
    activation: int,
    the_activations_first_argument: float,
    its_second_argument: float,
    /,
) -> Any: ...
def bias_act_dropout_backward(
    grad_output: Any,
    input: Any,
    bias: Any,
    seed: int,
    p: float,
    activation: int,
    the_activations_first_argument: float,
    its_second_argument: float,
    /,
) -> tuple[Any, Any]: ...
def philox(
    key: int, first: int, second: int, third: int, fourth: int, /
) -> tuple[int, int, int, int]: ...
def image_normalize(
    operation: str,
    x: Any,
    out: Any,
    mean: list[float],
    std: list[float],
    scale: float | None,
    inverse: bool,
    layout: bool,
    out_layout: bool,
    dtype: str,
    /,
) -> Any: ...
def torch_handles_available() -> bool: ...
def watch_torch(tensor: type, parameter: type, /) -> bool: ...
def accept_torch_state() -> None: ...
def is_plain(tensor: Any, /, *others: Any) -> bool: ...

class ParameterTable:
    def __init__(
        self,
        operation: str,
        kernel: str,
        slots: list[str],
        has_average: bool,
        scalars: list[str],
        groups: list[Any],
        used: list[Any],
        state: dict[Any, Any],
        fresh: list[Any],
        uses_handles: bool,
        signed_slots: list[bool],
        rounds: list[bool],
        /,
    ) -> None: ...
    def expected(
        self, groups: list[Any], used: list[Any], state: dict[Any, Any], /
    ) -> list[tuple[int, tuple[float, ...], bool, int]]: ...
    def step(
        self,
        groups: list[Any],
        used: list[Any],
        state: dict[Any, Any],
        settings: list[tuple[Any, ...]],
        extras: StepExtras,
        /,
    ) -> bool | list[tuple[int, tuple[float, ...], bool, int]]: ...
