"""What the examples share: the digits, the trainings side by side, and how they are compared.

The data are the 1797 8x8 images that come with scikit-learn: nothing is downloaded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import matplotlib
import numpy as np
import rich.table
import sklearn.datasets
import threadpoolctl
import torch
import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TEST_IMAGES = 360
LEAST_SHOWN = 1e-16  # a logarithmic axis has no zero
FOLDER = Path(__file__).resolve().parent / "out"
#: From the reference, which is drawn first and widest, so that each curve is seen.
STYLES = (
    {"color": "#c9ced6", "linewidth": 5.0},
    {"color": "#d1495b", "linewidth": 1.8},
    {"color": "#1b3a5c", "linewidth": 1.4, "linestyle": (0, (1, 2.5))},
    {"color": "#e09f3e", "linewidth": 1.0, "linestyle": (0, (5, 3))},
)
MARKERS = "xo+"


@dataclass
class Data:
    """Images as rows of 64 standardised pixels, and their digits."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def load_data(rng: np.random.Generator) -> Data:
    """The digits in a fixed random split, scaled by the training images alone."""
    images, digits = sklearn.datasets.load_digits(return_X_y=True)
    order = rng.permutation(len(images))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    mean, deviation = images[train].mean(axis=0), images[train].std(axis=0)
    deviation[deviation == 0] = 1  # corners that are always white
    x = ((images - mean) / deviation).astype(np.float32)
    y = digits.astype(np.int64)
    return Data(x[train], y[train], x[test], y[test])


class Network(Protocol):
    """Something that learns digits."""

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """One update; returns the loss before it."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The most likely digits."""


@dataclass
class Run:
    """One training and what came of it.

    Attributes:
        name: What it is called.
        network: What is trained.
        tolerance: The most a loss may be away from the reference's, at any step.
        losses: One per step.
        seconds: One per step.
        accuracy: On the test images.
    """

    name: str
    network: Network
    tolerance: float = 0.0
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    accuracy: float = 0.0

    def apart_from(self, other: Run) -> np.ndarray:
        """How far the two loss curves are apart, step by step."""
        return np.abs(np.subtract(self.losses, other.losses))


@dataclass(frozen=True)
class Comparison:
    """Trainings that must come to the same.

    Attributes:
        network: What is trained, in words.
        epochs: How often every image is seen.
        batch: Images per step.
        least_accuracy: Of each training, on the test images.
        picture: The name of the picture's file.
    """

    network: str
    epochs: int
    batch: int
    least_accuracy: float
    picture: str

    def run(self, runs: Sequence[Run], data: Data, rng: np.random.Generator) -> None:
        """Trains, prints, draws, checks; the last of `runs` is the reference. Ends the program with
        1 if a check fails.
        """
        # Networks this small are not worth a second thread, least of all on a busy machine.
        torch.set_num_threads(1)
        with threadpoolctl.threadpool_limits(1):
            self.train(runs, data, rng)
        self.print_table(runs)
        print(f"Loss curves: {self.draw(runs)}")
        if found := self.failures(runs):
            sys.exit("\n".join(["FAILED", *found]))
        for run in runs[:-1]:
            print(f"Checked: losses of {run.name} within {run.tolerance:g} at every step.")
        print(f"Checked: test accuracy at least {self.least_accuracy:.0%} for all.")

    def train(self, runs: Sequence[Run], data: Data, rng: np.random.Generator) -> None:
        """Trains them all on the same batches, in turns of an epoch, so that other work of the
        machine slows all of them alike.
        """
        count = len(data.train_x)
        steps = count // self.batch  # the odd rest of an epoch is left out
        with tqdm.tqdm(total=self.epochs * steps * len(runs), unit="step", desc="training") as bar:
            for _ in range(self.epochs):
                order = rng.permutation(count)[: steps * self.batch]
                for run in runs:
                    for batch in order.reshape(steps, self.batch):
                        x, y = data.train_x[batch], data.train_y[batch]
                        start = time.perf_counter()
                        run.losses.append(run.network.step(x, y))
                        run.seconds.append(time.perf_counter() - start)
                    bar.update(steps)
                bar.set_postfix(loss=f"{np.mean(run.losses[-steps:]):.4f}")
        for run in runs:
            run.accuracy = float((run.network.predict(data.test_x) == data.test_y).mean())

    def print_table(self, runs: Sequence[Run]) -> None:
        """One line per training."""
        reference = runs[-1]
        table = rich.table.Table(
            title=f"{self.network} on 8x8 digits, {len(reference.losses)} steps of {self.batch} "
            "images, one thread",
        )
        table.add_column("")
        for title in ("test accuracy", "final loss", "time per step", "loss apart"):
            table.add_column(title, justify="right")
        last_epoch = len(reference.losses) // self.epochs
        for run in runs:
            table.add_row(
                run.name,
                f"{run.accuracy:.2%}",
                f"{np.mean(run.losses[-last_epoch:]):.6f}",
                f"{np.median(run.seconds) * 1e6:.0f} µs",
                "" if run is reference else f"{run.apart_from(reference).max():.1e}",
            )
        table.caption = (
            "final loss: mean of the last epoch; time per step: median;\n"
            f"loss apart: the most a step's loss is away from that of {reference.name}"
        )
        rich.print(table)

    def draw(self, runs: Sequence[Run]) -> Path:
        """The curves on top of each other, and below what is left when the reference is taken away;
        returns where.
        """
        *others, reference = runs
        plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
        figure, (upper, lower) = plt.subplots(
            2, 1, figsize=(8, 6.4), sharex=True, height_ratios=(3, 2), layout="constrained"
        )
        steps = np.arange(1, len(reference.losses) + 1)
        for run, style in zip((reference, *others[::-1]), STYLES, strict=False):
            upper.semilogy(steps, run.losses, label=run.name, **style)
        upper.set_ylabel("cross-entropy of the batch")
        upper.set_title(f"{len(runs)} trainings, one curve", loc="left", fontweight="bold")
        upper.legend(frameon=False)
        for run, style, marker in zip(others[::-1], STYLES[1:], MARKERS, strict=False):
            apart = np.maximum(run.apart_from(reference), LEAST_SHOWN)
            lower.semilogy(steps, apart, marker, color=style["color"], markersize=3, label=run.name)
        for tolerance in {run.tolerance for run in others}:
            lower.axhline(tolerance, color="black", linewidth=1, linestyle="--")
            lower.annotate(
                "allowed", (steps[-1], tolerance), (0, 4), textcoords="offset points", ha="right"
            )
        lower.set_ylim(LEAST_SHOWN / 2, max(run.tolerance for run in others) * 10)
        lower.set_xlim(0, steps[-1] * 1.01)
        lower.set_ylabel(f"away from {reference.name}\n(least shown: {LEAST_SHOWN:g})")
        lower.set_xlabel("step")
        lower.legend(
            frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0
        )
        for axes in (upper, lower):
            axes.grid(axis="y", color="#eceff3")
            axes.set_axisbelow(True)
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / self.picture
        figure.savefig(path, dpi=150)
        plt.close(figure)
        return path

    def failures(self, runs: Sequence[Run]) -> list[str]:
        """What is not as it should be."""
        reference = runs[-1]
        found = []
        for run in runs:
            apart = run.apart_from(reference).max()
            if not apart <= run.tolerance:
                found.append(f"{run.name}: loss differs from {reference.name} by {apart:.2e}")
            if not run.accuracy >= self.least_accuracy:
                found.append(
                    f"{run.name}: test accuracy {run.accuracy:.2%} < {self.least_accuracy:.0%}"
                )
        return found
