# Written by scripts/write_stubs.py.
from collections.abc import Callable
from typing import Any

from dlkernels.torch import functional as functional
from dlkernels.torch import image as image
from dlkernels.torch import nn as nn
from dlkernels.torch import optim as optim

__all__ = ["decompositions", "explain", "functional", "image", "nn", "optim"]

def decompositions() -> dict[Any, Callable[..., Any]]:
    """What takes operators of ours apart into torch's, beside torch's own table."""

def explain(function: Any, *args: Any, **kwargs: Any) -> str:
    """Says which way a call of a twin with these arguments would go, and why; nothing is
    computed."""
