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

# The operations take any array (hence Any) by position, and give back the kind that came in.

def cross_entropy(
    logits: Any,
    target: Any,
    weight: Any,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
    with_grad: bool,
    out: Any,
    with_lse: bool,
    with_argmax: bool,
    grad_output: Any,
    /,
) -> Any: ...
def softmax(x: Any, axis: int, logarithm: bool, out: Any, /) -> Any: ...
def softmax_backward(
    grad_output: Any, output: Any, axis: int, logarithm: bool, out: Any, /
) -> Any: ...
def nll_loss(
    log_probabilities: Any, target: Any, weight: Any, ignore_index: int, reduction: str, /
) -> Any: ...
def nll_loss_backward(
    grad_output: Any,
    log_probabilities: Any,
    target: Any,
    weight: Any,
    ignore_index: int,
    reduction: str,
    /,
) -> Any: ...
def activation_index(name: str, /) -> int: ...
def activation_saves(index: int, /) -> Literal["input", "output", "mask"]: ...
def activation(
    index: int,
    x: Any,
    out: Any,
    with_mask: bool,
    first_parameter: float,
    second_parameter: float,
    /,
) -> Any: ...
def activation_backward(
    index: int,
    grad_output: Any,
    saved: Any,
    mask: Any,
    first_parameter: float,
    second_parameter: float,
    /,
) -> Any: ...
def math_function(name: str, x: Any, /) -> Any: ...
def dropout(
    operation: str,
    x: Any,
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
    x: Any,
    bias: Any,
    out: Any,
    seed: int,
    p: float,
    activation: int,
    first_parameter: float,
    second_parameter: float,
    /,
) -> Any: ...
def bias_act_dropout_backward(
    grad_output: Any,
    x: Any,
    bias: Any,
    seed: int,
    p: float,
    activation: int,
    first_parameter: float,
    second_parameter: float,
    /,
) -> tuple[Any, Any]: ...
def philox(
    key: int, first: int, second: int, third: int, fourth: int, /
) -> tuple[int, int, int, int]: ...
def image_normalize(
    operation: str,
    x: Any,
    out: Any,
    means: list[float],
    stds: list[float],
    scale: float | None,
    inverse: bool,
    channels_last: bool,
    out_channels_last: bool,
    dtype: str,
    /,
) -> Any: ...
def gather(params: list[Any], state: dict[Any, Any], key: str, /) -> tuple[Any, ...]: ...
def sgd(groups: list[Any], /) -> None: ...
def torch_handles_available() -> bool: ...

class ParameterTable:
    def __init__(
        self, groups: list[Any], state_names: list[Any], state: dict[Any, Any], /
    ) -> None: ...

def sgd_table(
    table: ParameterTable,
    groups: list[Any],
    state_names: list[Any],
    state: dict[Any, Any],
    numbers: list[Any],
    /,
) -> bool: ...
