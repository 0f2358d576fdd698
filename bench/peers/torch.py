"""torch: as its users run it, with its allocator tuned, and compiled."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from bench.peers import Peer
from bench.workload import Front, Workload, normal

if TYPE_CHECKING:
    from bench.case import Case

TORCH = "torch"
TUNED = "torch tuned"
TUNE_MALLOC = "torch + tune_malloc()"
COMPILED = "torch.compile tuned"
FOREACH = "torch foreach"
FUSED = "torch fused"
IN_PLACE = "torch tuned, in place"
EMPTY = "empty Function"

# glibc keeps what it is given: no page faults in steady state. Set before the process starts.
TUNED_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}


def eager(in_place: bool = False, **optimizer_options: Any) -> Front:
    """torch as it comes."""
    import torch

    return Front(
        torch.nn.functional,
        torch.nn,
        torch.optim,
        in_place=in_place,
        optimizer_options=optimizer_options,
    )


class _Compiled:
    """``torch.nn.functional``, each function compiled on its own, for fixed shapes."""

    def __getattr__(self, name: str) -> Any:
        import torch

        return compiled(getattr(torch.nn.functional, name))


def compiled(function: Any) -> Any:
    """torch.compile, for fixed shapes."""
    import torch

    return torch.compile(function, dynamic=False)


def build_eager(case: Case, **options: Any) -> Workload:
    """torch, eager."""
    return case.build(case, eager(**options))


def build_compiled(case: Case) -> Workload:
    """torch.compile."""
    import torch

    return case.build(case, Front(_Compiled(), torch.nn, torch.optim, wrap=compiled))


def build_after_tune_malloc(case: Case) -> Workload:
    """torch, eager, after our one call that keeps glibc from handing memory back."""
    import dlkernels

    if not dlkernels.tune_malloc(True):
        raise RuntimeError("tune_malloc() does nothing with this C library")
    return build_eager(case)


def build_empty(case: Case) -> Workload:
    """An autograd.Function of one tensor that does nothing; the answer is torch's."""
    import torch

    class Empty(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return torch.empty_like(x)

        @staticmethod
        def backward(ctx: Any, grad_output: Any) -> Any:
            return grad_output

    x = normal(case, seed=0).requires_grad_()
    upstream = normal(case, seed=2)
    answer = build_eager(case)

    def run() -> object:
        y = Empty.apply(x)  # type: ignore[no-untyped-call]
        y.backward(upstream)
        return y

    return Workload(run, lambda _: answer.fingerprint(answer.run()), leaves=(x,))


PEERS = (
    Peer(TORCH, build_eager, colour="#9aa0a6"),
    Peer(EMPTY, build_empty),
    Peer(FOREACH, functools.partial(build_eager, foreach=True), marker="v"),
    Peer(FUSED, functools.partial(build_eager, fused=True), colour="#2e6f95", marker="X"),
    Peer(TUNED, build_eager, child=True, environment=TUNED_ALLOCATOR, marker="s"),
    Peer(
        IN_PLACE,
        functools.partial(build_eager, in_place=True),
        child=True,
        environment=TUNED_ALLOCATOR,
        marker="<",
    ),
    Peer(TUNE_MALLOC, build_after_tune_malloc, ("torch", "dlkernels"), child=True, marker="P"),
    Peer(
        COMPILED,
        build_compiled,
        child=True,
        # One compiling thread: a pool of compile workers would outlive the compilation.
        environment={**TUNED_ALLOCATOR, "TORCHINDUCTOR_COMPILE_THREADS": "1"},
        colour="#2e6f95",
        marker="^",
    ),
)
