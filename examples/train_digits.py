"""Trains one small network on handwritten digits three times over, and compares.

NumPy with the kernels of `dlkernels`, torch with the twins of `dlkernels.torch`, and plain torch
all start from the same weights and see the same batches, so their loss curves must be one curve.
The data are the 1797 8x8 images that come with scikit-learn: nothing is downloaded. Run it with
`make demo`, or `python examples/train_digits.py` where dlkernels, torch, scikit-learn, rich, tqdm
and matplotlib are installed; it takes some seconds and exits with 1 if a check fails.
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import rich.table
import sklearn.datasets
import threadpoolctl
import torch
import tqdm

import dlkernels
import dlkernels.torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LAYERS = (64, 128, 128, 10)
BATCH, EPOCHS = 128, 30
SGD_ARGUMENTS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
TEST_IMAGES = 360

# The three may add up their matrix products in different orders, which has been seen to move a loss
# by 3e-7. A momentum of 0.899 instead of 0.9 moves one by 2e-3.
LOSS_TOLERANCE = 1e-4
LEAST_ACCURACY = 0.95

LEAST_SHOWN = 1e-9  # a logarithmic axis has no zero
PICTURE = Path(__file__).resolve().parent / "out" / "loss_curves.png"

Weights = list[tuple[np.ndarray, np.ndarray]]


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


def initial_weights(rng: np.random.Generator) -> Weights:
    """One (weight, bias) per layer, the weight as (outputs, inputs), after He et al. 2015."""
    return [
        (
            rng.normal(0, np.sqrt(2 / inputs), (outputs, inputs)).astype(np.float32),
            np.zeros(outputs, np.float32),
        )
        for inputs, outputs in itertools.pairwise(LAYERS)
    ]


class NumpyNetwork:
    """NumPy for the matrix products, dlkernels for everything else; no autograd."""

    def __init__(self, initial: Weights) -> None:
        params = [array.copy() for layer in initial for array in layer]
        self.layers = list(zip(params[::2], params[1::2], strict=True))
        self.optimizer = dlkernels.optim.SGD(params, **SGD_ARGUMENTS)

    def forward(self, x: np.ndarray) -> list[np.ndarray]:
        """The input of every layer, and at the end the logits."""
        values = [x]
        for weight, bias in self.layers[:-1]:
            hidden = values[-1] @ weight.T + bias
            values.append(dlkernels.relu(hidden, out=hidden))
        weight, bias = self.layers[-1]
        return [*values, values[-1] @ weight.T + bias]

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """One update; returns the loss before it."""
        *inputs, logits = self.forward(x)
        loss, grad = dlkernels.cross_entropy_with_grad(logits, y, out=logits)
        grads = []
        for (weight, _), layer_input in zip(self.layers[::-1], inputs[::-1], strict=True):
            grads += [grad.sum(axis=0), grad.T @ layer_input]
            if layer_input is not x:
                grad = dlkernels.relu_backward(grad @ weight, layer_input)
        self.optimizer.step(grads[::-1])
        return float(loss)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The most likely digits."""
        return self.forward(x)[-1].argmax(axis=1)


class TorchNetwork:
    """torch's Linear and autograd; `nn` and `optim` are torch's own, or the twins of dlkernels."""

    def __init__(self, initial: Weights, nn: Any, optim: Any) -> None:
        modules: list[torch.nn.Module] = []
        for weight, bias in initial:
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(weight))
                linear.bias.copy_(torch.from_numpy(bias))
            modules += [linear, nn.ReLU()]
        self.model = torch.nn.Sequential(*modules[:-1])
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = optim.SGD(self.model.parameters(), **SGD_ARGUMENTS)

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """One update; returns the loss before it."""
        loss = self.criterion(self.model(torch.from_numpy(x)), torch.from_numpy(y))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def predict(self, x: np.ndarray) -> np.ndarray:
        """The most likely digits."""
        return self.model(torch.from_numpy(x)).argmax(dim=1).numpy()


@dataclass
class Run:
    """One training and what came of it."""

    name: str
    network: NumpyNetwork | TorchNetwork
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    accuracy: float = 0.0

    def apart_from(self, other: Run) -> np.ndarray:
        """How far the two loss curves are apart, step by step."""
        return np.abs(np.subtract(self.losses, other.losses))


def train(runs: list[Run], data: Data, rng: np.random.Generator) -> None:
    """Trains them all on the same batches, in turns of an epoch, so that what else the machine does
    falls on all of them.
    """
    count = len(data.train_x)
    steps = count // BATCH  # the odd rest of an epoch is left out
    with tqdm.tqdm(total=EPOCHS * steps * len(runs), unit="step", desc="training") as bar:
        for _ in range(EPOCHS):
            batches = rng.permutation(count)[: steps * BATCH].reshape(steps, BATCH)
            for run in runs:
                for batch in batches:
                    x, y = data.train_x[batch], data.train_y[batch]
                    start = time.perf_counter()
                    run.losses.append(run.network.step(x, y))
                    run.seconds.append(time.perf_counter() - start)
                bar.update(steps)
            bar.set_postfix(loss=f"{np.mean(run.losses[-steps:]):.4f}")
    for run in runs:
        run.accuracy = float((run.network.predict(data.test_x) == data.test_y).mean())


def print_table(runs: list[Run], reference: Run) -> None:
    """One line per training."""
    table = rich.table.Table(
        title=f"{'-'.join(map(str, LAYERS))} network on 8x8 digits, "
        f"{len(reference.losses)} steps of {BATCH} images, one thread",
    )
    table.add_column("")
    for title in ("test accuracy", "final loss", "time per step", "loss apart"):
        table.add_column(title, justify="right")
    last_epoch = len(reference.losses) // EPOCHS
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
        "loss apart: the most a step's loss is away from plain torch's"
    )
    rich.print(table)


def draw(runs: list[Run], reference: Run) -> None:
    """The curves on top of each other, and below what is left when plain torch is taken away."""
    styles = {
        reference.name: {"color": "#c9ced6", "linewidth": 5.0},
        runs[1].name: {"color": "#d1495b", "linewidth": 1.8},
        runs[0].name: {"color": "#1b3a5c", "linewidth": 1.4, "linestyle": (0, (1, 2.5))},
    }
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(8, 6.4), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    steps = np.arange(1, len(reference.losses) + 1)
    for run in (reference, runs[1], runs[0]):  # the widest first, so that each is seen
        upper.semilogy(steps, run.losses, label=run.name, **styles[run.name])
    upper.set_ylabel("cross-entropy of the batch")
    upper.set_title("Three trainings, one curve", loc="left", fontweight="bold")
    upper.legend(frameon=False)
    for run, marker in zip(runs[:2], "ox", strict=True):
        apart = np.maximum(run.apart_from(reference), LEAST_SHOWN)
        color = styles[run.name]["color"]
        lower.semilogy(steps, apart, marker, color=color, markersize=3, label=run.name)
    lower.axhline(LOSS_TOLERANCE, color="black", linewidth=1, linestyle="--")
    lower.annotate(
        "allowed", (steps[-1], LOSS_TOLERANCE), (0, 4), textcoords="offset points", ha="right"
    )
    lower.set_ylim(LEAST_SHOWN / 2, LOSS_TOLERANCE * 10)
    lower.set_xlim(0, steps[-1])
    lower.set_ylabel(f"away from plain torch\n(least shown: {LEAST_SHOWN:g})")
    lower.set_xlabel("step")
    lower.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.62), ncols=2)
    for axes in (upper, lower):
        axes.grid(axis="y", color="#eceff3")
        axes.set_axisbelow(True)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    plt.close(figure)


def failures(runs: list[Run], reference: Run) -> list[str]:
    """What is not as it should be."""
    found = []
    for run in runs:
        apart = run.apart_from(reference).max()
        if not apart <= LOSS_TOLERANCE:
            found.append(f"{run.name}: loss differs from plain torch by {apart:.2e}")
        if not run.accuracy >= LEAST_ACCURACY:
            found.append(f"{run.name}: test accuracy {run.accuracy:.2%} < {LEAST_ACCURACY:.0%}")
    return found


def main() -> None:
    """Trains, prints, draws, checks."""
    rng = np.random.default_rng(0)
    data, initial = load_data(rng), initial_weights(rng)
    runs = [
        Run("dlkernels, NumPy", NumpyNetwork(initial)),
        Run("dlkernels, torch", TorchNetwork(initial, dlkernels.torch.nn, dlkernels.torch.optim)),
        Run("plain torch", TorchNetwork(initial, torch.nn, torch.optim)),
    ]
    # A network this small is not worth a second thread, least of all on a busy machine.
    torch.set_num_threads(1)
    with threadpoolctl.threadpool_limits(1):
        train(runs, data, rng)
    reference = runs[-1]
    print_table(runs, reference)
    draw(runs, reference)
    print(f"Loss curves: {PICTURE}")
    if found := failures(runs, reference):
        sys.exit("\n".join(["FAILED", *found]))
    print(
        f"Checked: losses agree within {LOSS_TOLERANCE:g} at every step, "
        f"test accuracy is at least {LEAST_ACCURACY:.0%}."
    )


if __name__ == "__main__":
    main()
