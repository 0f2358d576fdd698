"""Turns measurements into tables: for a terminal, for docs/benchmarks.md and for README.md.

`python -m bench.report` prints the tables of an earlier run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.cases import CASES
from bench.peers.dlkernels import OURS
from bench.peers.torch import FUSED, TORCH, TUNE_MALLOC, TUNED
from bench.picture import draw_picture
from bench.rows import Row, Verdict, read_csv, verdicts

CSV_NAME, MACHINE_NAME, PICTURE_NAME = "results.csv", "machine.json", "roofline.png"
DEFAULT_FOLDER = Path(__file__).resolve().parent / "results"
DOCUMENT = DEFAULT_FOLDER.parent.parent / "docs" / "benchmarks.md"
BEGIN = "<!-- From here to the end mark `make bench` writes. -->"
END = "<!-- The end of what `make bench` writes. -->"


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

    for title in dict.fromkeys(row.table for row in rows):
        table = Table(title=title, title_justify="left", header_style="bold")
        table.add_column("case", min_width=24)
        table.add_column("peer", no_wrap=True)
        for name in ("median", "IQR", "n", "GB/s", "% of roof", "ours is", "faults", "peak"):
            table.add_column(name, justify="right", no_wrap=name != "median")
        table.add_column("promised")
        previous = ""
        for row in (row for row in rows if row.table == title):
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
                "" if row.peer == OURS else times(row.speedup),
                number(row.page_faults, ".0f"),
                number(row.peak, ".2f"),
                "\n".join(judged.get((row.case, row.peer), [])),
                style="bold cyan" if row.peer == OURS else None,
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
        before, after = medians.get(TORCH), medians.get(TUNE_MALLOC)
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
        *([f"Memory speed over the cases' own buffers, GB/s: {roofs}"] if roofs else []),
        f"Command: {machine['command']}; {machine['rounds']} rounds",
    ]
    if machine["quick"]:
        lines.append("A quick run: too few samples to quote.")
    lines += [
        f"{peer}: not found: {', '.join(names)}" for peer, names in machine["missing"].items()
    ]
    return [*lines, *machine["notes"]]


# ------------------------------------------------------------------------------------------------
# Markdown
# ------------------------------------------------------------------------------------------------


def write_document(rows: Sequence[Row], machine: Mapping[str, Any]) -> None:
    """Replaces the tables in docs/benchmarks.md; the prose around them stays."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise ValueError(f"{DOCUMENT} lacks the lines between which its tables go")
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{markdown(rows, machine)}\n\n{END}{after}")


def grid(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = "|---" + "|--:" * (len(header) - 1) + "|"
    return "\n".join(
        [f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]
    )


def cell(row: Row | None) -> str:
    """Ours in bold, others with how many times as fast ours is."""
    if row is None or row.median_ms is None:
        return ""
    if row.peer == OURS:
        return f"**{duration(row.median_ms)}**"
    return duration(row.median_ms) + (f" ({times(row.speedup)})" if row.speedup is not None else "")


def markdown(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """What was measured where, and a table for each set of cases, ours first."""
    parts = ["\n".join(f"- {line}" for line in describe(machine))]
    for table in dict.fromkeys(row.table for row in rows):
        found = {(row.case, row.peer): row for row in rows if row.table == table}
        names = list(dict.fromkeys(case for case, _ in found))
        peers = [
            peer
            for peer in dict.fromkeys(peer for case in CASES for peer in case.peers)
            if any(cell(found.get((name, peer))) for name in names)
        ]
        if OURS not in peers:
            continue
        lines = [[name, *(cell(found.get((name, peer))) for peer in peers)] for name in names]
        header = [table, *peers]
        shares = [
            number(row.percent_of_roof, ".0f") if (row := found.get((name, OURS))) else ""
            for name in names
        ]
        if any(shares):
            header.append("of the memory's speed")
            for line, share in zip(lines, shares, strict=True):
                line.append(share and f"{share} %")
        parts.append(grid(header, lines))
    effect = tune_malloc_effect(rows)
    if effect:
        header = ["torch's own", "default", "after `dlkernels.tune_malloc()`"]
        parts.append(
            grid(
                header,
                (
                    (name, duration(before), f"{duration(after)} ({times(before / after)} as fast)")
                    for name, before, after in effect
                ),
            )
        )
    return "\n\n".join(parts)


def readme_table(rows: Sequence[Row]) -> str:
    """The table of README.md: the most telling cases against torch as it comes, and at its best."""
    found = {(row.case, row.peer): row for row in rows}
    lines = [
        [case.name, *(cell(found.get((case.name, peer))) for peer in (OURS, TORCH)), cell(best)]
        for case in CASES
        if case.telling
        for best in [found.get((case.name, TUNED)) or found.get((case.name, FUSED))]
    ]
    return grid(["", OURS, TORCH, "torch tuned, or fused"], lines)


def main() -> None:
    """Shows an earlier run again."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=main.__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER)
    parser.add_argument("--document", action="store_true", help=f"write {DOCUMENT.name} again")
    parser.add_argument("--readme", action="store_true", help="print the table of README.md")
    parser.add_argument("--picture", action="store_true", help="draw the picture again")
    options = parser.parse_args()
    rows = read_csv(options.folder / CSV_NAME)
    machine = json.loads((options.folder / MACHINE_NAME).read_text())
    if options.picture:
        draw_picture(rows, machine, options.folder / PICTURE_NAME)
    if options.document:
        write_document(rows, machine)
    if options.readme:
        print(readme_table(rows))
    if not (options.picture or options.document or options.readme):
        print_tables(rows, machine)


if __name__ == "__main__":
    main()
