"""Compares this dlkernels with another one, interleaved: is anything slower than before?

Both run in child processes that take turns, so that whatever else the machine does falls on both.
On a busy machine the fastest sample says more than the median.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.case import Case
from bench.peers.dlkernels import OURS
from bench.report import duration
from bench.runner import ROOT, ChildRunner

# What is compared unless told otherwise: calls whose time is more than that of memory.
MOST_ELEMENTS = 16384
WARMUP_LIMIT = 5


def location(environment: Mapping[str, str]) -> Path:
    """Where a child with this environment finds the package."""
    code = "import dlkernels; print(dlkernels.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(found.stdout.strip()).parent


def sample_in_turns(
    case: Case, environments: Sequence[Mapping[str, str]], rounds: int
) -> list[list[float]]:
    """Seconds per call in each environment; who goes first alternates."""
    with contextlib.ExitStack() as stack:
        runners = []
        for environment in environments:
            runner = ChildRunner(case, OURS, WARMUP_LIMIT, environment=environment)
            stack.callback(runner.close)
            runners.append(runner)
        samples: list[list[float]] = [[] for _ in runners]
        for turn in range(rounds):
            order = range(len(runners))
            for index in order if turn % 2 == 0 else reversed(order):
                samples[index].append(runners[index].sample().seconds)
    return samples


def compare(chosen: Sequence[Case], other: Path, rounds: int) -> int:
    """Prints a line for each case, and the middle of all ratios; 0 unless a package is missing.

    Args:
        chosen: The cases.
        other: The directory that holds the other package, such as ``python`` of a checkout.
        rounds: Samples of each.
    """
    environments: list[dict[str, str]] = [{"PYTHONPATH": str(other.resolve())}, {}]
    before, now = map(location, environments)
    if before.parent != other.resolve():
        print(f"expected {other} to hold dlkernels, found it in {before.parent}", file=sys.stderr)
        return 2
    print(f"before: {before}\nnow:    {now}\n")
    print(f"{'case':<56}{'before':>10}{'now':>10}{'median':>9}{'fastest':>9}")
    ratios = []
    for case in chosen:
        old, new = sample_in_turns(case, environments, rounds)
        medians = [statistics.median(samples) for samples in (old, new)]
        ratio, fastest = medians[1] / medians[0], min(new) / min(old)
        ratios.append((ratio, fastest))
        old_text, new_text = (duration(seconds * 1e3) for seconds in medians)
        print(
            f"{case.name:<56}{old_text:>10}{new_text:>10}{ratio:>9.3f}{fastest:>9.3f}", flush=True
        )
    middle = [statistics.median(column) for column in zip(*ratios, strict=True)]
    print(f"{'now / before, middle of all cases':<76}{middle[0]:>9.3f}{middle[1]:>9.3f}")
    return 0
