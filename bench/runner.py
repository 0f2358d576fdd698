"""Runs one peer on one case: here, or in a child process that waits on a pipe between samples."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from bench.case import Case
from bench.cases import CASES
from bench.peers import PEERS
from bench.roofline import Roof
from bench.workload import Sample, Workload, sample_roof, take_sample, warm_up

ROOT = Path(__file__).resolve().parent.parent
# A sample takes under two seconds; what takes long is the first compilation of a peer's kernels.
CHILD_TIMEOUT_SECONDS = 300


class Runner(Protocol):
    """Something that has built and warmed up one case and can be sampled."""

    fingerprint: float

    def sample(self) -> Sample:
        """One batch of calls."""

    def close(self) -> None:
        """Lets go of the memory."""


class LocalRunner:
    """A peer in the benchmark's own process."""

    def __init__(self, case: Case, peer: str, warmup_limit: int) -> None:
        """Builds and warms up."""
        self._case = case
        self._work: Workload | None = PEERS[peer].workload(case)
        self.fingerprint = warm_up(case, self._work, warmup_limit)

    def sample(self) -> Sample:
        """One batch of calls."""
        assert self._work is not None
        return take_sample(self._case, self._work)

    def sample_roof(self, roof: Roof) -> float:
        """Seconds that the memory takes for one call's bytes, on this peer's buffers."""
        assert self._work is not None
        return sample_roof(self._work, roof)

    def close(self) -> None:
        """Lets go of the memory."""
        self._work = None
        gc.collect()


class ChildRunner:
    """A peer in a process of its own, which waits on a pipe while others are measured."""

    def __init__(
        self,
        case: Case,
        peer: str,
        warmup_limit: int,
        command: str = "samples",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts the child, in the peer's environment and the given one, and waits until it is
        warm."""
        # A file, not a pipe: nobody reads it while the child runs, and a full pipe would block it.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.runner", command, case.name, peer, str(warmup_limit)],
            cwd=ROOT,
            env={**os.environ, **PEERS[peer].environment, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self.fingerprint = float(self._answer()["value"])
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        """The child's next line; its error is raised here as ours."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], CHILD_TIMEOUT_SECONDS)
        if not ready:
            raise TimeoutError(f"no answer within {CHILD_TIMEOUT_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(last[0] if last else f"ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def sample(self) -> Sample:
        """Lets the child run one batch of calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"sample\n")
        self._process.stdin.flush()
        return Sample(**self._answer())

    def close(self) -> None:
        """Ends the child: politely by closing its input, and if it does not listen, by force."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def start(case: Case, peer: str, warmup_limit: int) -> Runner:
    """Builds and warms up one peer for one case, here or in a child."""
    kind = ChildRunner if PEERS[peer].child else LocalRunner
    return kind(case, peer, warmup_limit)


def peak_memory(case: Case, peer: str) -> float:
    """The most memory three steps need beyond their inputs, in units of the logits' size.

    Measured in a child of its own, because a high-water mark remembers everything before it.
    """
    runner = ChildRunner(case, peer, warmup_limit=1, command="peak")
    runner.close()
    return runner.fingerprint


def first_line(error: BaseException) -> str:
    """What went wrong, short enough for a table."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


# ------------------------------------------------------------------------------------------------
# The child's side
# ------------------------------------------------------------------------------------------------


def use_threads(threads: int) -> None:
    """Holds this process to a number of threads, and to as many processors.

    The processors count too: XLA sizes its pool by them and has no other switch.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)


def resident_bytes(field_name: str) -> int:
    """VmRSS (now) or VmHWM (the high-water mark) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field_name}")


def measure_peak(case: Case, peer: str) -> float:
    """The child's side of `peak_memory`.

    ru_maxrss would not do: a child inherits its parent's. The kernel's own mark can be reset.
    """
    import torch

    # A small case first, so that code pages, thread stacks and caches are not counted. It must not
    # be the case itself: a pool would keep the block, and the steps would seem to need nothing.
    small = dataclasses.replace(case, shape=(64, 1000))
    warm_up(small, PEERS[peer].workload(small), 1)
    gc.collect()
    work = PEERS[peer].workload(case)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    for _ in range(3):
        work.reset()
        work.run()
        work.release()
    item_bytes = torch.empty((), dtype=getattr(torch, case.dtype)).element_size()
    return (resident_bytes("VmHWM") - before) / (case.elements * item_bytes)


def serve(arguments: list[str]) -> None:
    """Builds and warms up a case, then takes one sample per line of input until it ends."""
    # Libraries print; the answers go where they cannot write.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(values: Mapping[str, object]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        command, case_name, peer, warmup_limit = arguments
        case = next(case for case in CASES if case.name == case_name)
        use_threads(int(os.environ["OMP_NUM_THREADS"]))
        gc.disable()
        if command == "peak":
            answer({"value": measure_peak(case, peer)})
            return
        work = PEERS[peer].workload(case)
        answer({"value": warm_up(case, work, int(warmup_limit))})
        for _ in sys.stdin:
            answer(dataclasses.asdict(take_sample(case, work)))
    except Exception as error:
        answer({"error": first_line(error)})


if __name__ == "__main__":
    serve(sys.argv[1:])
