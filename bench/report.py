"""Turns measurements into a CSV, tables, and a picture.

`python -m bench.report` prints the tables of an earlier run again, `--markdown` as
docs/benchmarks.md has them, `--picture` draws the picture again.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import cases
from bench.cases import Case, Target

CSV_NAME, MACHINE_NAME, PICTURE_NAME = "results.csv", "machine.json", "roofline.png"
DEFAULT_FOLDER = Path(__file__).resolve().parent / "results"


# ------------------------------------------------------------------------------------------------
# Rows
# ------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One peer on one case: a line of the CSV. None stands for "does not apply".

    Attributes:
        family: The table it belongs to.
        case: The case's name.
        dtype: Its type.
        shape: Its shape, as text.
        peer: Who ran it.
        median_ms: The median over the samples, per call.
        iqr_ms: Their interquartile range.
        n: The number of samples.
        gb_per_s: The bytes that cannot be avoided, over the time.
        percent_of_roof: The same over the memory speed measured in this run.
        speedup: This peer's median over ours: how many times as fast ours is.
        page_faults: Minor page faults per call, steady state, median.
        peak: Memory a step needs above its inputs, in units of the input's size.
        target: What was promised about this row.
        met: "met" or "missed", one word per promise.
        error: The first line of what went wrong.
    """

    family: str
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
    case: Case, peer: str, seconds: Sequence[float], faults: Sequence[float], error: str
) -> Row:
    """A row of what stands without looking at other rows."""
    row = Row(case.family, case.name, case.dtype, case.shape_text, peer, error=error)
    if seconds:
        median = statistics.median(seconds)
        row.median_ms, row.iqr_ms, row.n = median * 1e3, spread(seconds) * 1e3, len(seconds)
        row.page_faults = statistics.median(faults)
        if case.bytes_moved is not None:
            row.gb_per_s = case.bytes_moved / median / 1e9
    return row


def complete(rows: Iterable[Row], roofs: Mapping[str, float], cache_bytes: int) -> None:
    """Fills in what depends on other rows: the roof's share, the ratio to ours, the verdicts.

    What fits the last-level cache gets no share of the roof: memory does not bound it.
    """
    rows = list(rows)
    by_name = {case.name: case for case in cases.CASES}
    ours = {row.case: row for row in rows if row.peer == cases.OURS}
    for row in rows:
        roof, moved = by_name[row.case].roof, by_name[row.case].bytes_moved
        beyond_cache = moved is not None and moved > cache_bytes
        if row.gb_per_s is not None and roof is not None and beyond_cache:
            row.percent_of_roof = 100 * row.gb_per_s / roofs[roof]
        our_row = ours.get(row.case)
        if row.median_ms is not None and our_row is not None and our_row.median_ms is not None:
            row.speedup = row.median_ms / our_row.median_ms
    for verdict in verdicts(rows):
        for row in rows:
            if row.case == verdict.case and row.peer == verdict.peer:
                row.target = "; ".join(filter(None, (row.target, verdict.target.text)))
                row.met = "; ".join(filter(None, (row.met, verdict.word)))


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every promise about the cases that were run."""
    result = []
    for case in cases.CASES:
        measured = {row.peer: row for row in rows if row.case == case.name}
        if cases.OURS not in measured:
            continue
        for target in case.targets:
            value, peer = judge(target, measured)
            result.append(Verdict(case.name, target, value, peer))
    return result


def judge(target: Target, measured: Mapping[str, Row]) -> tuple[float | None, str]:
    """What one promise is compared with, and the peer on whose row the verdict belongs."""
    ours = measured[cases.OURS]
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


# ------------------------------------------------------------------------------------------------
# Files
# ------------------------------------------------------------------------------------------------


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
    texts = ("family", "case", "dtype", "shape", "peer", "target", "met", "error")
    rows = []
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            values: dict[str, Any] = {
                name: text if name in texts else float(text) if text else None
                for name, text in line.items()
            }
            rows.append(Row(**{**values, "n": int(values["n"] or 0)}))
    return rows


# ------------------------------------------------------------------------------------------------
# Tables
# ------------------------------------------------------------------------------------------------


def duration(milliseconds: float | None) -> str:
    """Three digits and the unit that suits them."""
    if milliseconds is None:
        return ""
    if milliseconds < 0.1:
        return f"{milliseconds * 1e3:.3g} µs"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def number(value: float | None, form: str = ".1f") -> str:
    """A number, or nothing."""
    return "" if value is None else format(value, form)


def times(value: float | None) -> str:
    """A ratio."""
    return "" if value is None else f"{value:.0f}x" if value >= 100 else f"{value:.3g}x"


def measured_text(verdict: Verdict) -> str:
    """What was measured, in the unit of the promise."""
    if verdict.value is None:
        return ""
    match verdict.target.metric:
        case "speedup":
            named = f" ({verdict.peer})" if len(verdict.target.peers) > 1 else ""
            return times(verdict.value) + named
        case "percent of roof":
            return f"{verdict.value:.1f} %"
        case "microseconds":
            return f"{verdict.value:.2f} µs"
        case "page faults":
            return f"{verdict.value:.0f}"
        case "peak":
            return f"{verdict.value:.3f}"


def print_tables(rows: Sequence[Row], machine: Mapping[str, Any]) -> None:
    """Prints everything, for people at a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # a log file has room; 80 columns would break every cell
    for line in describe(machine):
        console.print(line, markup=False)
    colours = {"met": "green", "missed": "red", "not measured": "yellow"}

    judged: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts(rows):
        text = f"[{colours[verdict.word]}]{verdict.target.short}: {verdict.word}[/]"
        judged.setdefault((verdict.case, verdict.peer), []).append(text)

    for family in dict.fromkeys(row.family for row in rows):
        table = Table(title=family, title_justify="left", header_style="bold")
        table.add_column("case", min_width=24)
        table.add_column("peer", no_wrap=True)
        for name in ("median", "IQR", "n", "GB/s", "% of roof", "ours is", "faults", "peak"):
            table.add_column(name, justify="right", no_wrap=name != "median")
        table.add_column("promised")
        previous = ""
        for row in (row for row in rows if row.family == family):
            if previous and row.case != previous:
                table.add_section()
            table.add_row(
                "" if row.case == previous else row.case,
                row.peer,
                f"[red]{escape(row.error)}" if row.error else duration(row.median_ms),
                duration(row.iqr_ms),
                str(row.n or ""),
                number(row.gb_per_s),
                number(row.percent_of_roof, ".0f"),
                "" if row.peer == cases.OURS else times(row.speedup),
                number(row.page_faults, ".0f"),
                number(row.peak, ".2f"),
                "\n".join(judged.get((row.case, row.peer), [])),
                style="bold cyan" if row.peer == cases.OURS else None,
            )
            previous = row.case
        console.print(table)

    effect = Table(title="torch after dlkernels.tune_malloc()", title_justify="left")
    for name in ("torch's own operation", "default", "after the call", "faster by"):
        effect.add_column(name)
    for case_name, before, after in tune_malloc_effect(rows):
        effect.add_row(case_name, duration(before), duration(after), times(before / after))
    if effect.row_count:
        console.print(effect)

    summary = Table(title="Targets", title_justify="left")
    for name in ("case", "promised", "measured", ""):
        summary.add_column(name)
    for verdict in verdicts(rows):
        summary.add_row(
            verdict.case,
            verdict.target.text,
            measured_text(verdict),
            f"[{colours[verdict.word]}]{verdict.word}",
        )
    if summary.row_count:
        console.print(summary)


def tune_malloc_effect(rows: Sequence[Row]) -> list[tuple[str, float, float]]:
    """(case, torch's default ms, its ms after tune_malloc) where both were measured."""
    result = []
    for case_name in dict.fromkeys(row.case for row in rows):
        medians = {row.peer: row.median_ms for row in rows if row.case == case_name}
        before, after = medians.get(cases.TORCH), medians.get(cases.TUNE_MALLOC)
        if before is not None and after is not None:
            result.append((case_name, before, after))
    return result


def describe(machine: Mapping[str, Any]) -> list[str]:
    """The machine and the conditions, in a few lines."""
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
    roofs = ", ".join(f"{name} {value:.1f}" for name, value in machine["roofs_gb_per_s"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, caches {machine['caches']}; "
        f"{machine['threads']} threads; ISA level {machine['active_isa']}; {machine['date']}",
        versions,
        f"Memory roofs of this run, GB/s: {roofs}",
    ]
    if machine["quick"]:
        lines.append("A quick run: too few samples to quote.")
    lines += [
        f"{peer}: not found: {', '.join(names)}" for peer, names in machine["missing"].items()
    ]
    lines += machine["notes"]
    return lines


def markdown(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """The tables of docs/benchmarks.md: one per family, a column per peer, ours first."""
    lines = []
    for family in dict.fromkeys(row.family for row in rows):
        chosen = [row for row in rows if row.family == family]
        names = list(dict.fromkeys(row.case for row in chosen))
        if cases.OURS not in {row.peer for row in chosen}:
            continue
        peers = [
            peer
            for peer in dict.fromkeys(peer for case in cases.CASES for peer in case.peers)
            if peer in {row.peer for row in chosen if row.median_ms is not None}
        ]
        with_roof = any(row.percent_of_roof is not None for row in chosen)
        header = [family, *peers, *(["of the roof"] if with_roof else [])]
        lines.append("| " + " | ".join(header) + " |")
        lines.append("|---" + "|--:" * (len(header) - 1) + "|")
        for name in names:
            row_of = {row.peer: row for row in chosen if row.case == name}
            cells = [name]
            for peer in peers:
                row = row_of.get(peer)
                if row is None or row.median_ms is None:
                    cells.append("")
                elif peer == cases.OURS:
                    cells.append(f"**{duration(row.median_ms)}**")
                else:
                    ratio = f" ({times(row.speedup)})" if row.speedup is not None else ""
                    cells.append(duration(row.median_ms) + ratio)
            if with_roof:
                ours = row_of.get(cases.OURS)
                share = ours.percent_of_roof if ours is not None else None
                cells.append("" if share is None else f"{share:.0f} %")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    effect = tune_malloc_effect(rows)
    if effect:
        lines += ["| torch's own | default | after `dlkernels.tune_malloc()` |", "|---|--:|--:|"]
        lines += [
            f"| {name} | {duration(before)} | {duration(after)} ({times(before / after)} as fast) |"
            for name, before, after in effect
        ]
        lines.append("")
    lines.append(
        "In brackets: how many times as fast dlkernels is. "
        + " ".join(line.rstrip(".") + "." for line in describe(machine))
    )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------
# The picture
# ------------------------------------------------------------------------------------------------

OUR_COLOUR = "#d1495b"
# Colour and marker of the peers: grey for eager torch, blue for compilers; the markers differ too,
# for readers and printers without colour.
PEER_STYLE = {
    cases.TORCH: ("#9aa0a6", "o"),
    cases.TUNED: ("#5f6368", "s"),
    cases.TUNE_MALLOC: ("#5f6368", "P"),
    cases.COMPILED: ("#2e6f95", "^"),
    cases.JAX: ("#7cb0d1", "D"),
    cases.FOREACH: ("#5f6368", "v"),
    cases.FUSED: ("#2e6f95", "X"),
    cases.DEEPSPEED: ("#7a4fa3", "p"),
    cases.NUMPY: ("#b08968", "*"),
    cases.IN_PLACE: ("#5f6368", "<"),
    cases.ONEDNN: ("#4f772d", "h"),
}
ROOF_STYLE = {"read": ":", "in place": "-.", "copy": "--", "nt copy": "-"}
ROOF_LABEL = {"read": "read", "in place": "in place", "copy": "copy", "nt copy": "streaming copy"}


def draw_picture(rows: Sequence[Row], machine: Mapping[str, Any], path: Path) -> None:
    """Draws achieved GB/s against the roofs: one line per case, one point per peer.

    Cases whose bytes fit the last-level cache are left out: memory is no roof for them.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import patheffects, pyplot

    cases_by_name = {case.name: case for case in cases.CASES}
    cache_bytes = machine["last_level_cache_bytes"]
    chosen = [
        row
        for row in rows
        if row.gb_per_s is not None and (cases_by_name[row.case].bytes_moved or 0) > cache_bytes
    ]
    names = list(dict.fromkeys(row.case for row in chosen))
    if not names:
        return
    roofs: Mapping[str, float] = machine["roofs_gb_per_s"]

    figure, axes = pyplot.subplots(figsize=(11, 2.6 + 0.5 * len(names)), layout="constrained")
    height = {name: len(names) - 1 - index for index, name in enumerate(names)}
    for level in height.values():
        axes.axhspan(level - 0.5, level + 0.5, color="#f4f4f2" if level % 2 else "white", zorder=0)

    # The roofs, labelled above the frame; labels that would collide step upwards.
    right = 1.06 * max(*roofs.values(), *(row.gb_per_s or 0 for row in chosen))
    shelf, last = 0, -1.0
    for kind, speed in sorted(roofs.items(), key=lambda item: item[1]):
        shelf = (shelf + 1) % 3 if speed - last < 0.16 * right else 0
        last = speed
        axes.axvline(speed, color="#444444", linestyle=ROOF_STYLE[kind], linewidth=1.1, zorder=1)
        axes.annotate(
            f"{ROOF_LABEL[kind]} {speed:.0f}",
            (speed, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 5 + 13 * shelf),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color="#444444",
        )

    # Peers first, ours on top with its share of the case's own roof.
    for peer, (colour, marker) in PEER_STYLE.items():
        points = [row for row in chosen if row.peer == peer]
        if points:
            axes.scatter(
                [row.gb_per_s or 0 for row in points],
                [height[row.case] for row in points],
                s=46,
                c=colour,
                marker=marker,
                label=peer,
                zorder=3,
            )
    for index, row in enumerate(row for row in chosen if row.peer == cases.OURS):
        level, speed = height[row.case], row.gb_per_s or 0
        axes.hlines(level, 0, speed, color=OUR_COLOUR, linewidth=5, alpha=0.22, zorder=2)
        label = cases.OURS if index == 0 else None
        axes.scatter(
            [speed], [level], s=120, c=OUR_COLOUR, edgecolors="white", label=label, zorder=5
        )
        roof = cases_by_name[row.case].roof or ""
        axes.annotate(
            f"{row.percent_of_roof or 0:.0f} % of {ROOF_LABEL[roof]}",
            (speed, level),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=OUR_COLOUR,
            weight="bold",
            path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
            zorder=6,
        )

    axes.set_yticks([height[name] for name in names], names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.5, len(names) - 0.5)
    axes.set_xlim(0, right)
    axes.set_xlabel(
        "GB/s of the bytes that cannot be avoided (each input read once, each output written once)"
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: labels[index] != cases.OURS)
    figure.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        loc="outside lower center",
        ncols=min(len(labels), 5),
        frameon=False,
    )
    figure.suptitle(
        "Achieved memory speed against the measured roofs (lines, GB/s)\n"
        f"{machine['processor']}, {machine['threads']} threads",
        fontsize=12,
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main() -> None:
    """Shows an earlier run again."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=main.__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER)
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables of docs/benchmarks.md"
    )
    parser.add_argument("--picture", action="store_true", help="draw the picture again")
    options = parser.parse_args()
    rows = read_csv(options.folder / CSV_NAME)
    machine = json.loads((options.folder / MACHINE_NAME).read_text())
    if options.picture:
        draw_picture(rows, machine, options.folder / PICTURE_NAME)
    if options.markdown:
        print(markdown(rows, machine))
    elif not options.picture:
        print_tables(rows, machine)


if __name__ == "__main__":
    main()
