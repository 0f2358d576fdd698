"""A hash of the bytes of every operation's results: a change that changes bits is seen.

The inputs are made from the words of Philox by integer arithmetic and by sums and products that
every machine rounds alike: no generator of NumPy's, no function of the C library. What a backward
reads of its forward comes from our own kernels. The operations and their options are those of
`specs`.

`python tests/golden/golden.py` computes all hashes, writes them to `hashes.json` and prints which
are new, changed or gone. A change of a hash belongs in the CHANGELOG.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dlkernels
import specs
from dlkernels import optim
from operation import Call, Operation, Options
from support import DTYPES, FMA_ISAS, ISAS, isa_level, philox

PATH = Path(__file__).with_name("hashes.json")

#: The columns of a hash: AVX2 and AVX-512 share one.
COLUMNS = {level: "fma" if level in FMA_ISAS else level for level in ISAS}

Results = Callable[[], tuple[Any, ...]]


# --- inputs


def _words(count: int) -> np.ndarray:
    """32-bit numbers, the same everywhere."""
    block = np.arange(-(-count // 4), dtype=np.uint64)
    zero = np.zeros_like(block)
    return np.stack(philox(0x5EED, (block, zero, zero, zero)), axis=-1).reshape(-1)[:count]


_WORDS = _words(1 << 19)
#: In (0, 1), of 17 bits.
_UNIFORM = (_WORDS >> np.uint64(16)).astype(np.float64) * 2.0**-16 + 2.0**-17
_BYTES = [(_WORDS >> np.uint64(shift)) & np.uint64(255) for shift in (0, 8, 16, 24)]
#: Sums of four uniform numbers: of mean 0 and variance 1.02.
_NORMAL = (sum(_BYTES).astype(np.float64) - 510.0) * (1.75 / 256)


class ExactRandom:
    """What samples ask of a `np.random.Generator`: stretches of three tables.

    Their numbers have few bits, so that the products and sums of a sample are rounded once, or not
    at all.
    """

    def __init__(self, key: str) -> None:
        self._next = zlib.crc32(key.encode())

    def _take(self, table: np.ndarray, shape: Any) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64))
        start = self._next % (table.size - size)
        self._next += size + 1
        return table[start : start + size].reshape(shape)

    def random(self, shape: Any) -> np.ndarray:
        return self._take(_UNIFORM, shape)

    def uniform(self, low: float, high: float, shape: Any) -> np.ndarray:
        return low + (high - low) * self.random(shape)

    def standard_normal(self, shape: Any) -> np.ndarray:
        return self._take(_NORMAL, shape)

    def integers(self, low: int, high: int, shape: Any) -> np.ndarray:
        return low + (self._take(_WORDS, shape) % np.uint64(max(high - low, 1))).astype(np.int64)


#: Put where an elementwise operation takes anything.
_SPECIALS = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 6e-8, 88.5, -87.5, -91.0, 700.0)


# --- operations

#: More than two chunks of a vector and a tail; rows longer and shorter than a block, and planes.
_VECTORS, _ROWS, _MANY_ROWS = (2 * 16384 + 4099, 67), (4099, 13), (301, 13)


def _shapes(operation: Operation) -> list[tuple[int, ...]]:
    if all(len(shape) == 1 for shape in operation.shapes(1)):
        return [shape for size in _VECTORS for shape in operation.shapes(size)]
    return [shape for size in _ROWS for shape in operation.shapes(size)] + [_MANY_ROWS]


def _inputs(
    operation: Operation, shape: tuple[int, ...], dtype: np.dtype, options: Options
) -> dict[str, Any]:
    key = repr((operation.name, shape, dtype.name, sorted(options.items())))
    arrays = operation.sample(ExactRandom(key), shape, dtype, options)
    if operation.elementwise and "x" in arrays and shape == (_VECTORS[1],):
        arrays["x"][: len(_SPECIALS)] = _SPECIALS
    # What a sample takes from the exponential of the C library comes from ours instead.
    if operation.name in ("softmax", "log_softmax"):
        axis = options.get("axis", 1)
        arrays["output"] = dlkernels.softmax(arrays["x"], axis)
        arrays["log_output"] = dlkernels.log_softmax(arrays["x"], axis)
    elif "output" in arrays:
        arrays["output"] = getattr(dlkernels, operation.name)(arrays["x"], **options)
    elif "log_probabilities" in arrays:
        logits = ExactRandom(key).standard_normal(shape).astype(dtype)
        arrays["log_probabilities"] = dlkernels.log_softmax(logits, 1)
    elif options.get("probabilities"):
        logits = ExactRandom(key).standard_normal(shape).astype(dtype)
        arrays["target"] = dlkernels.softmax(logits, 1)
    return arrays


def _call(operation: Operation, call: Call, dtype: np.dtype) -> Results:
    def run() -> tuple[Any, ...]:
        results: list[Any] = []
        for shape in _shapes(operation):
            for options in operation.options:
                results += call.run(_inputs(operation, shape, dtype, options), options, None)
        return tuple(results)

    return run


def _image(function: Callable[..., Any], dtype: np.dtype, layout: str) -> Results:
    shape = (3, 61, 67, 3) if layout == "HWC" else (3, 3, 61, 67)

    def run() -> tuple[Any, ...]:
        values = ExactRandom(layout).integers(0, 256, shape).astype(dtype)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return tuple(
            function(values, mean, std, layout=layout, out_layout=out) for out in ("HWC", "CHW")
        )

    return run


# --- optimizers: three steps, every format of states, clipping and averages

_MOMENTUM = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
_FORMATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16 states": {"state_dtype": "bf16"},
    "8bit": {"state_dtype": "8bit"},
    "split16": {"master": "split16"},
    "all of a step": {
        "max_grad_norm": 1.0, "ema_decay": 0.75, "zero_grads": True, "write_back": True,
    },
}  # fmt: skip


def _optimizer(kind: Any, options: dict[str, Any], dtype: np.dtype) -> Results:
    def run() -> tuple[Any, ...]:
        random = ExactRandom(kind.__name__)
        sizes = (1, 257, 4097, 16384 + 67)
        params = [random.standard_normal(size).astype(dtype) for size in sizes]
        optimizer = kind(params, **options)
        results: list[Any] = []
        for _ in range(3):
            grads = [random.standard_normal(size).astype(dtype) for size in sizes]
            optimizer.step(grads)
            results += grads
        for state in optimizer.state:
            results += [state[name] for name in sorted(state) if hasattr(state[name], "dtype")]
        return (*params, *results)

    return run


def _optimizers() -> Iterator[tuple[str, Results]]:
    for name in optim.__all__:
        kind = getattr(optim, name)
        if not isinstance(kind, type):
            continue
        options = _MOMENTUM if name in ("SGD", "LARS", "RMSprop") else {}
        for format, more in _FORMATS.items():
            for dtype in DTYPES if format == "plain" else ("bfloat16", "float32"):
                if format == "split16" and dtype != "bfloat16":
                    continue
                try:
                    kind([np.zeros(5000, DTYPES[dtype])], **options, **more)
                except (TypeError, ValueError):  # a rule without this format
                    continue
                yield f"{name}, {format}, {dtype}", _optimizer(kind, options | more, DTYPES[dtype])


def entries() -> Iterator[tuple[str, Results]]:
    """Every hash's name and what computes the results it is of."""
    for operation, call in specs.cases():
        if operation.name not in {name.lower() for name in optim.__all__}:
            for name, dtype in DTYPES.items():
                yield f"{call.name}, {name}", _call(operation, call, dtype)
    for function in (dlkernels.image.normalize, dlkernels.image.denormalize):
        for dtype in ("uint8", *DTYPES):
            for layout in ("HWC", "CHW"):
                if dtype != "uint8" or function is dlkernels.image.normalize:
                    yield (
                        f"image.{function.__name__}, {dtype}, {layout}",
                        _image(function, DTYPES.get(dtype, np.dtype(np.uint8)), layout),
                    )
    yield from _optimizers()


# --- hashes


def digest(results: tuple[Any, ...]) -> str:
    """Of shapes, dtypes and bytes. All NaN count as one: payload and sign are not promised."""
    sha = hashlib.sha256()
    for result in results:
        array = np.array(result, order="C")
        if array.dtype.kind not in "iu" and np.isnan(array).any():
            array[np.isnan(array)] = np.nan
        sha.update(f"{array.shape} {array.dtype.name}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def compute(level: str, results: Results) -> str:
    with isa_level(level), np.errstate(all="ignore"):
        return digest(results())


def main() -> None:
    """Writes `hashes.json` anew and prints what became of every hash that is not as before."""
    if set(COLUMNS.values()) != {"fma", "baseline"}:
        sys.exit("golden: this processor has no AVX2, so that one column cannot be computed")
    before: dict[str, dict[str, str]] = json.loads(PATH.read_text()) if PATH.exists() else {}
    after: dict[str, dict[str, str]] = {}
    for name, results in entries():
        hashes = after[name] = {}
        for level, column in COLUMNS.items():
            found = compute(level, results)
            if hashes.setdefault(column, found) != found:
                sys.exit(f"golden: {name}: levels differ that must not, one is {level}")
        if hashes != before.get(name):
            print("changed" if name in before else "new", name)
    for name in before.keys() - after.keys():
        print("gone", name)
    PATH.write_text(json.dumps(after, indent=0) + "\n")


if __name__ == "__main__":
    main()
