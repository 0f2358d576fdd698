"""The picture of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.peers import PEERS
from bench.peers.dlkernels import OURS
from bench.rows import ROOF, Row


def draw_picture(rows: Sequence[Row], machine: Mapping[str, Any], path: Path) -> None:
    """Draws achieved GB/s against the roofs: one line per case, one point per peer.

    Cases without a roof are left out, such as those whose bytes fit the last-level cache.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import patheffects, pyplot

    roofs = {row.case: row.gb_per_s for row in rows if row.peer == ROOF and row.gb_per_s}
    chosen = [row for row in rows if row.gb_per_s is not None and row.case in roofs]
    names = list(dict.fromkeys(row.case for row in chosen))
    if not names:
        return

    figure, axes = pyplot.subplots(figsize=(11, 2.6 + 0.5 * len(names)), layout="constrained")
    height = {name: len(names) - 1 - index for index, name in enumerate(names)}
    for level in height.values():
        axes.axhspan(level - 0.5, level + 0.5, color="#f4f4f2" if level % 2 else "white", zorder=0)

    # Peers first, ours on top with its share of the case's own roof.
    for peer in PEERS.values():
        points = [row for row in chosen if row.peer == peer.name]
        if points and peer.name != OURS:
            axes.scatter(
                [row.gb_per_s or 0 for row in points],
                [height[row.case] for row in points],
                s=46,
                c=peer.colour,
                marker=peer.marker,
                label=peer.name,
                zorder=3,
            )
    axes.scatter(
        [roofs[name] for name in names],
        [height[name] for name in names],
        s=300,
        c="#444444",
        marker="|",
        label="the memory, moving the same bytes",
        zorder=4,
    )
    colour = PEERS[OURS].colour
    for index, row in enumerate(row for row in chosen if row.peer == OURS):
        level, speed = height[row.case], row.gb_per_s or 0
        axes.hlines(level, 0, speed, color=colour, linewidth=5, alpha=0.22, zorder=2)
        axes.scatter(
            [speed],
            [level],
            s=120,
            c=colour,
            edgecolors="white",
            label=OURS if index == 0 else None,
            zorder=5,
        )
        axes.annotate(
            f"{row.percent_of_roof or 0:.0f} %",
            (speed, level),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
            weight="bold",
            path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
            zorder=6,
        )

    axes.set_yticks([height[name] for name in names], names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.5, len(names) - 0.5)
    axes.set_xlim(0, 1.06 * max(row.gb_per_s or 0 for row in chosen))
    axes.set_xlabel(
        "GB/s of the bytes that cannot be avoided (each input read once, each output written once)"
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: labels[index] != OURS)
    figure.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        loc="outside lower center",
        ncols=min(len(labels), 5),
        frameon=False,
    )
    figure.suptitle(
        "Achieved memory speed, and that of a pass over the same memory (GB/s)\n"
        f"{machine['processor']}, {machine['threads']} threads",
        fontsize=12,
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
