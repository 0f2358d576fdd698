"""Runs the benchmark: `python -m bench` from the root of the repository.

For each case: build and warm up every peer, compare their answers, then go round and round, one
sample each, so that whatever the machine does in between (other tenants, clock changes) falls on
all of them; so does the case's roof, the same bytes moved over our own buffers. What was measured
is written even if a peer fails; only ours must not. A full run also writes the tables of
docs/benchmarks.md and prints the one of README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import against, report, rows
from bench.case import Case
from bench.cases import CASES
from bench.peers import PEERS
from bench.peers.dlkernels import OURS
from bench.peers.numpy import NUMPY
from bench.peers.torch import TORCH, TUNE_MALLOC
from bench.picture import draw_picture
from bench.roofline import Roof
from bench.rows import Row
from bench.runner import ROOT, LocalRunner, Runner, first_line, peak_memory, start, use_threads
from bench.workload import Sample

# Not quotable, so not beside the real results: quick and partial runs go here unless told.
SCRATCH_FOLDER = ROOT / "build" / "bench"

# How far a peer's answer may be from the reference's: rounding, not a wrong kernel.
AGREEMENT = {"float32": 1e-4, "bfloat16": 1e-2}

# Something else was running: its share of the processors is in every number.
BUSY_LOAD = 0.5
BUSY_NOTE = "The machine was busy when the run began: repeat it before quoting a number."


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks dlkernels.")
    parser.add_argument("--quick", action="store_true", help="small cases, three rounds")
    parser.add_argument(
        "--case", default="", metavar="SUBSTRING", help="only cases with it in their table or name"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--rounds", type=int, help="samples per peer and case (15; quick: 3; --against: 31)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results are written")
    parser.add_argument(
        "--peers-only", action="store_true", help="leave dlkernels out, to study the peers alone"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="only compare with the dlkernels in another directory (small cases, or --case)",
    )
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 31 if options.against else 3 if options.quick else 15
    if options.out is None:
        partial = options.quick or options.case or options.peers_only
        options.out = SCRATCH_FOLDER if partial else report.DEFAULT_FOLDER
    return options


def measure_case(
    case: Case, names: Sequence[str], rounds: int, warmup_limit: int, roof: Roof | None
) -> list[Row]:
    """Interleaves the peers, and the roof on our buffers, on one case. A peer that fails gets a row
    with its error."""
    runners: dict[str, Runner] = {}
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    roof_seconds: list[float] = []
    errors: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                runners[name] = start(case, name, warmup_limit)
                stack.callback(runners[name].close)
            except Exception as error:
                errors[name] = first_line(error)
        errors |= disagreements(case, runners)
        for _ in range(rounds):
            for name, runner in runners.items():
                if name in errors:
                    continue
                try:
                    samples[name].append(runner.sample())
                    if roof is not None and name == OURS and isinstance(runner, LocalRunner):
                        roof_seconds.append(runner.sample_roof(roof))
                except Exception as error:
                    errors[name] = first_line(error)
    result = []
    for name in names:
        # Half a series beside whole ones would not be comparable.
        kept = [] if name in errors else samples[name]
        seconds = [sample.seconds for sample in kept]
        faults = [sample.faults for sample in kept]
        result.append(rows.make_row(case, name, seconds, faults, errors.get(name, "")))
    if roof_seconds and OURS not in errors:
        result.append(rows.make_row(case, rows.ROOF, roof_seconds))
    return result


def disagreements(case: Case, runners: Mapping[str, Runner]) -> dict[str, str]:
    """Who answers otherwise than the reference: torch, or NumPy where torch does not take part."""
    reference = runners.get(TORCH) or runners.get(NUMPY)
    if reference is None:
        return {}
    right = reference.fingerprint
    return {
        name: f"wrong result: {runner.fingerprint:.8g} instead of {right:.8g}"
        for name, runner in runners.items()
        if not abs(runner.fingerprint - right) <= AGREEMENT[case.dtype] * abs(right)
    }


def add_peaks(case: Case, case_rows: Sequence[Row]) -> None:
    """Measures the peak memory of a step, ours and torch's."""
    for row in case_rows:
        if row.peer in (OURS, TORCH) and not row.error:
            try:
                row.peak = peak_memory(case, row.peer)
            except Exception as error:
                row.error = f"peak memory: {first_line(error)}"


def find_missing(chosen: Sequence[Case]) -> dict[str, list[str]]:
    """The peers this machine cannot run, and which module each of them lacks."""
    wanted = dict.fromkeys(name for case in chosen for name in case.peers)
    found = {name: PEERS[name].missing() for name in wanted}
    return {name: modules for name, modules in found.items() if modules}


def processor() -> dict[str, Any]:
    """The processor's name, its cores, and its caches; nothing that identifies the machine."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    caches: dict[str, str] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (index / name).read_text().strip() for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            caches[f"L{level}"] = size
    largest = caches[max(caches)] if caches else "0K"
    cores = len(os.sched_getaffinity(0))
    return {
        "processor": model,
        "cores": cores,
        "caches": ", ".join(f"{level} {size}" for level, size in caches.items()),
        # what the cores at hand can count on of a cache that a whole package shares
        "last_level_cache_bytes": min(int(largest.rstrip("K")) * 1024, cores * 16 * 2**20),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
    }


def peer_versions() -> dict[str, str]:
    """Of everything that takes part beside dlkernels."""
    result = {"Python": platform.python_version()}
    for package in ("numpy", "torch", "jax", "deepspeed"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            result[package] = importlib.metadata.version(package)
    compiler = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True)
    result["g++ (roofs, torch.compile)"] = compiler.stdout.strip()
    return result


def choose_cases(options: argparse.Namespace) -> list[Case]:
    """What the command line asks for; of the comparison with another tree, the small cases."""

    def is_chosen(case: Case) -> bool:
        if options.against is not None and OURS not in case.peers:
            return False
        if options.case:
            return options.case in f"{case.table}: {case.name}"
        if options.against is not None:
            return case.elements <= against.MOST_ELEMENTS
        return case.quick or not options.quick

    return [case for case in CASES if is_chosen(case)]


def main() -> int:
    """Runs everything and writes the results."""
    options = parse_options()
    chosen = choose_cases(options)
    if not chosen:
        print(f"no case has '{options.case}' in its name:", *(c.name for c in CASES), sep="\n  ")
        return 2

    # Before torch or any other OpenMP user is loaded; children inherit both.
    load = os.getloadavg()[0]
    os.environ["OMP_NUM_THREADS"] = os.environ["DLKERNELS_NUM_THREADS"] = str(options.threads)
    if options.against is not None:
        return against.compare(chosen, options.against, options.rounds)
    machine = processor()
    use_threads(options.threads)
    version, isa = "left out", "none"
    if not options.peers_only:
        import dlkernels  # missing, it ends the benchmark: there is nothing to measure

        version, isa = dlkernels.__version__, dlkernels.active_isa()
    gc.disable()

    missing = find_missing(chosen)
    left_out = {*missing, *((OURS, TUNE_MALLOC) if options.peers_only else ())}
    measured: list[Row] = []
    roof = Roof()
    for index, case in enumerate(chosen, start=1):
        print(f"[{index}/{len(chosen)}] {case.name}", file=sys.stderr, flush=True)
        names = [name for name in case.peers if name not in left_out]
        # What fits the last-level cache has no roof: memory does not bound it.
        beyond_cache = (case.bytes_moved or 0) > machine["last_level_cache_bytes"]
        case_rows = measure_case(
            case, names, options.rounds, 3 if options.quick else 20, roof if beyond_cache else None
        )
        if case.peak:
            add_peaks(case, case_rows)
        measured += case_rows
        gc.collect()

    rows.complete(measured)
    speeds = [row.gb_per_s for row in measured if row.peer == rows.ROOF and row.gb_per_s]
    machine |= {
        "threads": options.threads,
        "rounds": options.rounds,
        "quick": options.quick,
        "command": " ".join(("python -m bench", *sys.argv[1:])),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": {"dlkernels": version, **peer_versions()},
        "active_isa": isa,
        "roofs_gb_per_s": {"least": min(speeds), "most": max(speeds)} if speeds else {},
        "missing": missing,
        "load_average_at_start": round(load, 2),
        "notes": [BUSY_NOTE] if load > BUSY_LOAD else [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    rows.write_csv(measured, options.out / report.CSV_NAME)
    (options.out / report.MACHINE_NAME).write_text(json.dumps(machine, indent=2) + "\n")
    draw_picture(measured, machine, options.out / report.PICTURE_NAME)
    report.print_tables(measured, machine)
    if options.out == report.DEFAULT_FOLDER:
        report.write_document(measured, machine)
        print(f"Written: {report.DOCUMENT}. The table of README.md:", "", sep="\n")
        print(report.readme_table(measured))
    failed = [row for row in measured if row.peer == OURS and row.error]
    for row in failed:
        print(f"dlkernels failed at {row.case}: {row.error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
