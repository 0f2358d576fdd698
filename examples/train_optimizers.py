"""Trains the same small network on handwritten digits with every optimizer of dlkernels.

All start from the same weights and see the same batches; each has a learning rate of its own, found
by trying a few. The loss curves are drawn side by side, each in front of all the others. Run it
with `make demo`, or `python examples/train_optimizers.py` where dlkernels, torch, scikit-learn,
rich, tqdm and matplotlib are installed; it takes a few seconds and exits with 1 if one of them does
not learn.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import digits
import numpy as np
import rich
import rich.table
import torch
import tqdm
from matplotlib import pyplot as plt

import dlkernels.torch as dlt

EPOCHS, BATCH = 8, 64
LEAST_ACCURACY = 0.90
#: Rprop's steps follow signs that have to be those of all images, not of a batch.
WHOLE = {"Rprop"}
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9},
    "Adagrad": {"lr": 0.03},
    "RMSprop": {"lr": 2e-3, "momentum": 0.5, "centered": True},
    "Adadelta": {"lr": 1.0},
    "Adam": {"lr": 3e-3},
    "AdamW": {"lr": 3e-3, "weight_decay": 0.1},
    "Adamax": {"lr": 6e-3},
    "NAdam": {"lr": 3e-3},
    "RAdam": {"lr": 0.02},
    "ASGD": {"lr": 0.3},
    "Rprop": {"lr": 1e-3},
    "Lion": {"lr": 2e-3, "weight_decay": 0.1},
    "LAMB": {"lr": 0.02},
    "LARS": {"lr": 5.0},
}


class Run:
    """One optimizer's training.

    Args:
        name: Of a class of `dlkernels.torch.optim`.
        start: The network it starts from.
    """

    def __init__(self, name: str, start: torch.nn.Module) -> None:
        """See the class."""
        self.name, self.model = name, copy.deepcopy(start)
        self.optimizer = getattr(dlt.optim, name)(self.model.parameters(), **OPTIONS[name])
        self.criterion = dlt.nn.CrossEntropyLoss()
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.accuracy = 0.0

    def step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """One update; keeps the loss before it."""
        self.optimizer.zero_grad()
        loss = self.criterion(self.model(x), y)
        loss.backward()
        start = time.perf_counter()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(float(loss.detach()))

    def smooth_losses(self) -> np.ndarray:
        """Means of a few steps, which can be told apart by eye."""
        width = 10
        return np.convolve(self.losses, np.ones(width) / width, mode="valid")


def train(runs: Sequence[Run], data: digits.Data, rng: np.random.Generator) -> None:
    """Trains them all on the same batches."""
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    steps = len(x) // BATCH
    with tqdm.tqdm(total=EPOCHS * steps * len(runs), unit="step", desc="training") as bar:
        for _ in range(EPOCHS):
            order = torch.from_numpy(rng.permutation(len(x)))[: steps * BATCH].view(steps, BATCH)
            for run in runs:
                for batch in order:
                    own = slice(None) if run.name in WHOLE else batch
                    run.step(x[own], y[own])
                bar.update(steps)
    with torch.no_grad():
        for run in runs:
            found = run.model(torch.from_numpy(data.test_x)).argmax(dim=1).numpy()
            run.accuracy = float((found == data.test_y).mean())


def print_table(runs: Sequence[Run]) -> None:
    """One line per optimizer."""
    table = rich.table.Table(
        title=f"A small network on 8x8 digits, {len(runs[0].losses)} steps of {BATCH} images"
    )
    table.add_column("")
    for title in ("options", "final loss", "test accuracy", "time per step()"):
        table.add_column(title, justify="left" if title == "options" else "right")
    for run in runs:
        table.add_row(
            run.name,
            ", ".join(f"{key}={value}" for key, value in OPTIONS[run.name].items()),
            f"{run.smooth_losses()[-1]:.4f}",
            f"{run.accuracy:.2%}",
            f"{np.median(run.seconds) * 1e6:.0f} µs",
        )
    table.caption = f"final loss: mean of the last ten steps; {', '.join(WHOLE)}: all images a step"
    rich.print(table)


def draw(runs: Sequence[Run]) -> Path:
    """A panel for each curve, with all the others behind it; returns where."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    columns = 5
    rows = -(-len(runs) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(12, 2.5 * rows), sharex=True, sharey=True, layout="constrained"
    )
    curves = [run.smooth_losses() for run in runs]
    steps = np.arange(1, len(curves[0]) + 1)
    for panel, run, own in zip(panels.flat, runs, curves, strict=False):
        for curve in curves:
            panel.semilogy(steps, curve, color="#d5d9df", linewidth=0.8)
        panel.semilogy(steps, own, color="#d1495b", linewidth=1.8)
        panel.set_title(run.name + "*" * (run.name in WHOLE), loc="left", fontweight="bold")
        panel.set_title(f"{run.accuracy:.1%}", loc="right", color="#d1495b")
    panels[0, 0].set_ylim(7e-3, 4)  # Rprop's falls out of it: all images are no noise
    for panel in panels.flat[len(runs) :]:
        panel.set_axis_off()
    # the last row may be short: the axis goes where a column ends
    for column in range(columns):
        last = (len(runs) - 1 - column) // columns
        panels[last, column].tick_params(labelbottom=True)
        panels[last, column].set_xlabel("step")
    figure.supylabel("cross-entropy, mean of ten steps")
    figure.suptitle(
        "The same network from the same weights, by every optimizer "
        "(right: test accuracy; *: all images a step)",
        fontweight="bold",
    )
    digits.FOLDER.mkdir(exist_ok=True)
    path = digits.FOLDER / "optimizers.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def main() -> None:
    """Trains, prints, draws, checks."""
    assert set(OPTIONS) == set(dlt.optim.__all__)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    data = digits.load_data(rng)
    start = torch.nn.Sequential(
        torch.nn.Linear(64, 48), dlt.nn.Tanh(), torch.nn.Linear(48, 32), dlt.nn.Tanh(),
        torch.nn.Linear(32, 10),
    )  # fmt: skip
    runs = [Run(name, start) for name in OPTIONS]
    train(runs, data, rng)
    print_table(runs)
    print(f"Loss curves: {draw(runs)}")
    if worse := [run.name for run in runs if run.accuracy < LEAST_ACCURACY]:
        sys.exit(f"FAILED: test accuracy below {LEAST_ACCURACY:.0%}: {', '.join(worse)}")
    print(f"Checked: test accuracy at least {LEAST_ACCURACY:.0%} for all.")


if __name__ == "__main__":
    main()
