"""What was measured, as rows of a CSV, and what came of the promises."""

from __future__ import annotations

import csv
import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.case import Case, Target
from bench.cases import CASES
from bench.peers.dlkernels import OURS

#: The peer that only moves a case's bytes.
ROOF = "memory"


@dataclass
class Row:
    """One peer on one case: a line of the CSV. None stands for "does not apply".

    Attributes:
        table: The one it belongs to.
        case: The case's name.
        dtype: Its type.
        shape: Its shape, as text.
        peer: Who ran it.
        median_ms: The median over the samples, per call.
        iqr_ms: Their interquartile range.
        n: The number of samples.
        gb_per_s: The bytes that cannot be avoided, over the time.
        percent_of_roof: Of ours: the time of `ROOF`, which moves the same bytes in the same buffers
            in the same rounds, over our own. Not of what fits the last-level cache.
        speedup: This peer's median over ours: how many times as fast ours is.
        page_faults: Minor page faults per call, steady state, median.
        peak: Memory a step needs above its inputs, in units of the input's size.
        target: What was promised about this row.
        met: "met" or "missed", one word per promise.
        error: The first line of what went wrong.
    """

    table: str
    case: str
    dtype: str
    shape: str
    peer: str
    median_ms: float | None = None
    iqr_ms: float | None = None
    n: int = 0
    gb_per_s: float | None = None
    percent_of_roof: float | None = None
    speedup: float | None = None
    page_faults: float | None = None
    peak: float | None = None
    target: str = ""
    met: str = ""
    error: str = ""


@dataclass(frozen=True)
class Verdict:
    """One promise and what came of it; `value` is None where nothing was measured."""

    case: str
    target: Target
    value: float | None
    peer: str

    @property
    def word(self) -> str:
        """One word for tables."""
        if self.value is None:
            return "not measured"
        return "met" if self.target.met_by(self.value) else "missed"


def spread(samples: Sequence[float]) -> float:
    """The interquartile range."""
    if len(samples) < 2:
        return 0.0
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    return third - first


def make_row(
    case: Case,
    peer: str,
    seconds: Sequence[float],
    faults: Sequence[float] = (),
    error: str = "",
) -> Row:
    """A row of what stands without looking at other rows."""
    row = Row(case.table, case.name, case.dtype, case.shape_text, peer, error=error)
    if seconds:
        median = statistics.median(seconds)
        row.median_ms, row.iqr_ms, row.n = median * 1e3, spread(seconds) * 1e3, len(seconds)
        row.page_faults = statistics.median(faults) if faults else None
        if case.bytes_moved is not None:
            row.gb_per_s = case.bytes_moved / median / 1e9
    return row


def complete(rows: Sequence[Row]) -> None:
    """Fills in what depends on other rows: the roof's share, the ratio to ours, the verdicts."""
    medians = {(row.case, row.peer): row.median_ms for row in rows}
    for row in rows:
        if row.median_ms is None or row.peer == ROOF:
            continue
        roof, ours = medians.get((row.case, ROOF)), medians.get((row.case, OURS))
        if roof is not None and row.peer == OURS:
            row.percent_of_roof = 100 * roof / row.median_ms
        if ours is not None:
            row.speedup = row.median_ms / ours
    for verdict in verdicts(rows):
        for row in rows:
            if row.case == verdict.case and row.peer == verdict.peer:
                row.target = "; ".join(filter(None, (row.target, verdict.target.text)))
                row.met = "; ".join(filter(None, (row.met, verdict.word)))


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every promise about the cases that were run."""
    result = []
    for case in CASES:
        measured = {row.peer: row for row in rows if row.case == case.name}
        if OURS not in measured:
            continue
        for target in case.targets:
            value, peer = judge(target, measured)
            result.append(Verdict(case.name, target, value, peer))
    return result


def judge(target: Target, measured: Mapping[str, Row]) -> tuple[float | None, str]:
    """What one promise is compared with, and the peer on whose row the verdict belongs."""
    ours = measured[OURS]
    match target.metric:
        case "speedup":
            ratios = {
                peer: ratio
                for peer in target.peers
                if peer in measured and (ratio := measured[peer].speedup) is not None
            }
            if not ratios:
                return None, target.peers[0]
            fastest = min(ratios, key=ratios.__getitem__)
            return ratios[fastest], fastest
        case "percent of roof":
            return ours.percent_of_roof, ours.peer
        case "microseconds":
            return None if ours.median_ms is None else ours.median_ms * 1e3, ours.peer
        case "page faults":
            return ours.page_faults, ours.peer
        case "peak":
            return ours.peak, ours.peer


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Writes the rows, numbers to five digits."""
    names = [entry.name for entry in dataclasses.fields(Row)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            values = (getattr(row, name) for name in names)
            writer.writerow(
                f"{value:.5g}" if isinstance(value, float) else value for value in values
            )


def read_csv(path: Path) -> list[Row]:
    """Reads what `write_csv` wrote."""
    texts = ("table", "case", "dtype", "shape", "peer", "target", "met", "error")
    rows = []
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            values: dict[str, Any] = {
                name: text if name in texts else float(text) if text else None
                for name, text in line.items()
            }
            rows.append(Row(**{**values, "n": int(values["n"] or 0)}))
    return rows
