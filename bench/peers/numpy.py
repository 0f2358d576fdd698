"""NumPy: what one writes without us, as careful with overflow as it must be and no cleverer.

Each case says what that is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from bench.peers import Peer
from bench.roofline import reads, writes
from bench.workload import Workload

NUMPY = "NumPy"


def call(function: Callable[..., Any], *inputs: Any) -> Workload:
    """A function of arrays; its result is a number, an array, or a tuple that ends with one."""
    import numpy as np

    def parts(result: Any) -> tuple[Any, ...]:
        return result if isinstance(result, tuple) else (result,)

    return Workload(
        functools.partial(function, *inputs),
        lambda result: sum(float(np.abs(part).sum(dtype=np.float64)) for part in parts(result)),
        passes=lambda result: ([*reads(inputs[0]), *writes(parts(result)[-1])],),
    )


PEERS = (Peer(NUMPY, None, colour="#b08968", marker="*"),)
