"""Walks from entropy to batch normalization: losses, optimizers, backpropagation, activations,
dropout and normalization, each figure computed with dlkernels and checked.

What a figure is checked against was worked out by hand: a number from a textbook, or the formula
above it in plain Python. Everything runs from NumPy; torch appears where gradients flow through a
graph. The activation curves and their derivatives are drawn to one picture. Run it with
`make demo`, or `python examples/tour.py` where dlkernels, torch, rich and matplotlib are installed;
it takes a few seconds and exits with 1 if a figure is wrong.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import rich.box
import rich.console
import rich.padding
import rich.table
import torch

import dlkernels
import dlkernels.torch as dlt

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PICTURE = Path(__file__).resolve().parent / "out" / "activations.png"
FOUR_DIGITS = 5e-5  # of a figure that is given to four decimals
EXACT = 0.0
ROUNDING = 2e-6  # of float32, some operations long


@dataclass(frozen=True)
class Figure:
    """A number, or an array of them, and what it has to be.

    Attributes:
        what: The expression that made it.
        found: Its value.
        expected: What was worked out by hand.
        tolerance: The most it may be away, relative where a number is larger than 1.
    """

    what: str
    found: Any
    expected: Any
    tolerance: float = FOUR_DIGITS

    @property
    def is_right(self) -> bool:
        """Whether it is what it has to be."""
        found, expected = (np.asarray(v, np.float64) for v in (self.found, self.expected))
        allowed = self.tolerance * np.maximum(1, np.abs(expected))
        return found.shape == expected.shape and bool((np.abs(found - expected) <= allowed).all())


@dataclass(frozen=True)
class Chapter:
    """A part of the tour.

    Attributes:
        title: Its heading.
        formulas: What is computed, a line each.
        figures: Makes its figures.
    """

    title: str
    formulas: tuple[str, ...]
    figures: Callable[[], Iterator[Figure]]


CHAPTERS: list[Chapter] = []


def chapter(title: str, *formulas: str) -> Callable[[Any], Any]:
    """Makes a generator of figures the next chapter."""

    def enter(figures: Callable[[], Iterator[Figure]]) -> Callable[[], Iterator[Figure]]:
        CHAPTERS.append(Chapter(title, formulas, figures))
        return figures

    return enter


def floats(*values: Any) -> np.ndarray:
    """A float32 array."""
    return np.array(values, np.float32)


@chapter(
    "Entropy, cross-entropy, divergence",
    "H(p) = -Σ p log p",
    "H(p, q) = -Σ p log q = H(p) + KL(p ‖ q)",
)
def entropy() -> Iterator[Figure]:
    """How surprising a distribution is, and how much more so to one who believes in another."""
    coin, die = floats(0.5, 0.5), np.full(8, 1 / 8, np.float32)
    yield Figure("entropy(fair coin, base=2)", dlkernels.entropy(coin, base=2), 1, EXACT)
    yield Figure("entropy(die of 8 faces, base=2)", dlkernels.entropy(die, base=2), 3, EXACT)
    p = floats(1, 0, 0, 0, 0)
    yield Figure("entropy(p), p = [1, 0, 0, 0, 0]", dlkernels.entropy(p), 0, EXACT)
    for name, q, loss in (
        ("unsure", floats(0.4, 0.3, 0.05, 0.05, 0.2), 0.916),
        ("sure", floats(0.98, 0.01, 0, 0, 0.01), 0.02),
    ):
        found = dlkernels.cross_entropy_of_distributions(p, q)
        yield Figure(f"cross_entropy_of_distributions(p, {name} q)", found, loss, 5e-4)
    p, q = floats(0.5, 0.25, 0.25), floats(0.25, 0.25, 0.5)
    h, divergence = dlkernels.entropy(p, base=2), dlkernels.kl_divergence(p, q, base=2)
    yield Figure("entropy([½, ¼, ¼], base=2)", h, 1.5, EXACT)
    yield Figure("kl_divergence([½, ¼, ¼], [¼, ¼, ½], base=2)", divergence, 0.25, EXACT)
    cross = dlkernels.cross_entropy_of_distributions(p, q, base=2)
    yield Figure("their sum, the cross-entropy", cross, h + divergence, ROUNDING)
    loss = dlkernels.binary_cross_entropy(floats(0.9, 0.2), floats(1, 0), reduction="none")
    expected = [-math.log(0.9), -math.log(0.8)]
    yield Figure("binary_cross_entropy([.9, .2], [1, 0])", loss, expected, ROUNDING)


@chapter("Softmax", "softmax(x)ᵢ = exp xᵢ / Σ exp xⱼ, along any axis")
def softmax() -> Iterator[Figure]:
    """Scores into probabilities."""
    x = floats([3, 7, 4], [3, 5, 8])
    expected = [[0.0171, 0.9362, 0.0466], [0.0064, 0.0471, 0.9465]]
    yield Figure("softmax([[3, 7, 4], [3, 5, 8]])", dlkernels.softmax(x), expected)
    yield Figure("exp of log_softmax", np.exp(dlkernels.log_softmax(x)), expected)
    yield Figure(
        "softmax(x + 1000): a shift changes nothing", dlkernels.softmax(x + 1000), expected
    )


@chapter(
    "Softmax cross-entropy",
    "cross_entropy(logits, target) = nll_loss(log_softmax(logits), target)",
    "its gradient: (softmax(logits) - one_hot(target)) / rows",
)
def cross_entropy() -> Iterator[Figure]:
    """The loss of a classifier, from its logits."""
    log_p = floats(
        [-3.1498, -1.7311, -0.9935, -2.9399, -1.0303],
        [-2.4030, -1.2345, -1.9903, -1.0578, -2.0046],
        [-0.6991, -1.8396, -2.3656, -2.2445, -1.9366],
    )
    target = np.array([1, 0, 4])
    each = dlkernels.nll_loss(log_p, target, reduction="none")
    yield Figure("nll_loss(log_p, [1, 0, 4]), each", each, [1.7311, 2.4030, 1.9366])
    yield Figure("their mean", dlkernels.nll_loss(log_p, target), 2.0236)
    yield Figure("cross_entropy of the same", dlkernels.cross_entropy(log_p, target), 2.0236, 1e-4)
    _, grad = dlkernels.cross_entropy_with_grad(floats([3, 7, 4]), np.array([1]))
    yield Figure("gradient at [3, 7, 4], target 1", grad, [[0.0171, 0.9362 - 1, 0.0466]])
    logits = torch.tensor([[3.0, 7.0, 4.0]], requires_grad=True)
    dlt.functional.cross_entropy(logits, torch.tensor([1])).backward()
    yield Figure("the same by torch's autograd", logits.grad, grad, ROUNDING)


@chapter("Mean squared error", "(1 / n) Σ (x - y)², its gradient 2 (x - y) / n")
def mean_squared_error() -> Iterator[Figure]:
    """The loss of a regression."""
    loss, grad = dlkernels.mse_loss_with_grad(floats(1, 2, 4), floats(1, 4, 1))
    yield Figure("mse_loss([1, 2, 4], [1, 4, 1])", loss, (0 + 4 + 9) / 3, ROUNDING)
    yield Figure("its gradient", grad, [0, -4 / 3, 2], ROUNDING)


@chapter(
    "Backpropagation",
    "f = (x + y) z:   ∂f/∂x = z,   ∂f/∂y = z,   ∂f/∂z = x + y",
    "behind a loss L:   ∂L/∂x = ∂L/∂f · ∂f/∂x",
)
def backpropagation() -> Iterator[Figure]:
    """The chain rule, by hand and by torch's graph with a kernel in it."""
    x, y, z = (torch.tensor(v, requires_grad=True) for v in (-2.0, 5.0, -4.0))
    f = (x + y) * z
    f.backward(retain_graph=True)
    yield Figure("f at x = -2, y = 5, z = -4", f.detach(), -12, EXACT)
    yield Figure("∂f/∂x, ∂f/∂y, ∂f/∂z", [v.grad for v in (x, y, z)], [-4, -4, 3], EXACT)
    for v in (x, y, z):
        v.grad = None
    s = dlt.functional.sigmoid(f / 8)
    s.backward()
    sigma = 1 / (1 + math.exp(1.5))
    slope = sigma * (1 - sigma) / 8
    yield Figure("s = sigmoid(f / 8)", s.detach(), sigma, ROUNDING)
    found = [v.grad for v in (x, y, z)]
    yield Figure("∂s/∂x, ∂s/∂y, ∂s/∂z", found, [-4 * slope, -4 * slope, 3 * slope], ROUNDING)
    upstream = dlkernels.sigmoid_backward(floats(1), dlkernels.sigmoid(floats(-1.5)))
    yield Figure("the same link from NumPy, sigmoid_backward", upstream, [8 * slope], ROUNDING)


@dataclass
class Updates:
    """Updates of one weight, written out."""

    v: float = 0.0
    u: float = 0.0
    t: int = 0

    def sgd(self, g: float) -> float:
        """η g."""
        return 0.1 * g

    def momentum(self, g: float) -> float:
        """v, with the rate outside: while η stays the same, so does what comes out."""
        self.v = 0.9 * self.v + g
        return 0.1 * self.v

    def adagrad(self, g: float) -> float:
        """η g / (√Σg² + ε)."""
        self.v += g * g
        return 0.01 * g / (math.sqrt(self.v) + 1e-8)

    def rmsprop(self, g: float) -> float:
        """η g / (√E[g²] + ε)."""
        self.v = 0.9 * self.v + 0.1 * g * g
        return 0.01 * g / (math.sqrt(self.v) + 1e-8)

    def adadelta(self, g: float) -> float:
        """g √(E[Δ²] + ε) / √(E[g²] + ε)."""
        self.v = 0.9 * self.v + 0.1 * g * g
        step = g * math.sqrt(self.u + 1e-6) / math.sqrt(self.v + 1e-6)
        self.u = 0.9 * self.u + 0.1 * step * step
        return step

    def adam(self, g: float) -> float:
        """η m̂ / (√v̂ + ε), the moments corrected for their start at 0."""
        self.t += 1
        self.v = 0.9 * self.v + 0.1 * g
        self.u = 0.999 * self.u + 0.001 * g * g
        mean, square = self.v / (1 - 0.9**self.t), self.u / (1 - 0.999**self.t)
        return 0.1 * mean / (math.sqrt(square) + 1e-8)

    def adamax(self, g: float) -> float:
        """η m̂ / max(β₂ u, |g|)."""
        self.t += 1
        self.v = 0.9 * self.v + 0.1 * g
        self.u = max(0.999 * self.u, abs(g))
        return 0.1 * self.v / (1 - 0.9**self.t) / self.u


@chapter(
    "Optimizers",
    "SGD  w ← w - η g      momentum  v ← γ v + g,  w ← w - η v",
    "Adagrad  w ← w - η g / (√Σg² + ε)      RMSprop  E ← γ E + (1 - γ) g², under the root instead",
    "Adadelta  the root of past steps in place of η      Adam  both moments, bias-corrected",
    "Adamax  the largest |g| in place of the second moment",
)
def optimizers() -> Iterator[Figure]:
    """Ten steps down w², from 1."""
    optim, written_out = dlkernels.optim, Updates
    for name, make, rule in (
        ("SGD(lr=0.1)", lambda w: optim.SGD(w, lr=0.1), written_out.sgd),
        (
            "SGD(lr=0.1, momentum=0.9)",
            lambda w: optim.SGD(w, lr=0.1, momentum=0.9),
            written_out.momentum,
        ),
        (
            "Adagrad(lr=0.01, eps=1e-8)",
            lambda w: optim.Adagrad(w, lr=0.01, eps=1e-8),
            written_out.adagrad,
        ),
        (
            "RMSprop(lr=0.01, alpha=0.9)",
            lambda w: optim.RMSprop(w, lr=0.01, alpha=0.9),
            written_out.rmsprop,
        ),
        ("Adadelta(rho=0.9)", lambda w: optim.Adadelta(w, rho=0.9), written_out.adadelta),
        ("Adam(lr=0.1)", lambda w: optim.Adam(w, lr=0.1), written_out.adam),
        ("Adamax(lr=0.1)", lambda w: optim.Adamax(w, lr=0.1), written_out.adamax),
    ):
        w, expected, state = floats(1), 1.0, Updates()
        optimizer = make([w])
        for _ in range(10):
            _, gradient = dlkernels.mse_loss_with_grad(w, floats(0))
            optimizer.step([gradient])
            expected -= rule(state, 2 * expected)
        yield Figure(f"w after 10 steps of {name}", w, [expected], 1e-5)


@chapter(
    "Activations",
    "sigmoid′ = σ (1 - σ)      tanh′ = 1 - tanh² = 4 / (eˣ + e⁻ˣ)²      ReLU′ = 0 or 1",
    "leaky ReLU′ = 0.01 or 1, its slope learned by backpropagation in PReLU",
    "ELU = α (eˣ - 1) for x ≤ 0      maxout = the largest of k linear pieces",
)
def activations() -> Iterator[Figure]:
    """Functions and their derivatives; all of them are in the picture."""
    x, one = floats(-2, 0, 2), np.ones(3, np.float32)
    e = math.exp(2)
    low, high = 1 / (1 + e), e / (1 + e)
    y = dlkernels.sigmoid(x)
    yield Figure("sigmoid([-2, 0, 2])", y, [low, 0.5, high], ROUNDING)
    slope = dlkernels.sigmoid_backward(one, y)
    yield Figure("its derivative", slope, [low * high, 0.25, low * high], ROUNDING)
    y = dlkernels.tanh(x)
    yield Figure("tanh([-2, 0, 2])", y, [-math.tanh(2), 0, math.tanh(2)], ROUNDING)
    curve = 4 / (e + 1 / e) ** 2
    yield Figure("its derivative", dlkernels.tanh_backward(one, y), [curve, 1, curve], ROUNDING)
    yield Figure("relu([-2, 0, 2])", dlkernels.relu(x), [0, 0, 2], EXACT)
    yield Figure("its derivative", dlkernels.relu_backward(one, x), [0, 0, 1], EXACT)
    yield Figure("leaky_relu([-2, 0, 2])", dlkernels.leaky_relu(x), [-0.02, 0, 2], ROUNDING)
    slope = dlkernels.leaky_relu_backward(one, x)
    yield Figure("its derivative", slope, [0.01, 0.01, 1], ROUNDING)
    yield Figure("elu([-2, 0, 2])", dlkernels.elu(x), [1 / e - 1, 0, 2], ROUNDING)
    yield Figure("PReLU's slope, learned from data of slope 0.3", learned_slope(), [0.3], 1e-4)
    lines = floats([-2, 2], [0.5, -0.5])  # the pieces x and -x, of which the largest is |x|
    y, winner = dlkernels.maxout(lines, 2, return_index=True)
    yield Figure("maxout of x and -x at -2, 0.5", y, [[2], [0.5]], EXACT)
    grad = dlkernels.maxout_backward(floats([3], [5]), winner, 2)
    yield Figure("its gradient, of [3, 5]", grad, [[0, 3], [5, 0]], EXACT)


def learned_slope() -> np.ndarray:
    """Gradient descent on the slope of a PReLU."""
    x = np.linspace(-2, 2, 41, dtype=np.float32)
    wanted, slope = dlkernels.leaky_relu(x, 0.3), floats(0.01)
    optimizer = dlkernels.optim.SGD([slope], lr=0.2)
    for _ in range(100):
        _, grad_output = dlkernels.mse_loss_with_grad(dlkernels.prelu(x, slope), wanted)
        _, grad = dlkernels.prelu_backward(grad_output, x, slope)
        optimizer.step([grad])
    return slope


@chapter(
    "Dropout",
    "each element 0 with probability p, else x / (1 - p): the mean stays",
    "dropout2d, dropout3d drop whole channels; alpha_dropout keeps mean 0 and variance 1",
)
def dropout() -> Iterator[Figure]:
    """Chance, the same one from the same seed on every machine."""
    count, p = 1_000_000, 0.3
    x = np.ones(count, np.float32)
    y = dlkernels.dropout(x, p, seed=7)
    # Four standard deviations of a share of this many.
    chance = 4 * math.sqrt(p * (1 - p) / count)
    yield Figure("share dropped of 1 M, p = 0.3", (y == 0).mean(), p, chance)
    yield Figure("what the others become", np.unique(y[y > 0]), [1 / 0.7], ROUNDING)
    yield Figure("the mean", y.mean(dtype=np.float64), 1, chance / (1 - p))
    again = dlkernels.dropout_backward(x, p, seed=7)
    yield Figure("gradient differs from the mask at", (again != y).sum(), 0, EXACT)
    same = dlkernels.dropout(x, p, training=False)
    yield Figure("share dropped when not training", (same == 0).mean(), 0, EXACT)
    for function, shape in (
        (dlkernels.dropout2d, (8, 500, 6, 6)),
        (dlkernels.dropout3d, (8, 500, 2, 3, 4)),
    ):
        y = function(np.ones(shape, np.float32), p, seed=7).reshape(4000, -1)
        whole = (y == y[:, :1]).all(axis=1)
        name = function.__name__
        yield Figure(f"{name}: channels treated as a whole, of 4000", whole.sum(), 4000, EXACT)
        chance = 4 * math.sqrt(p * (1 - p) / 4000)
        yield Figure(f"{name}: share dropped", (y[:, 0] == 0).mean(), p, chance)
    x = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    y = dlkernels.alpha_dropout(x, p, seed=7).astype(np.float64)
    yield Figure("alpha_dropout of N(0, 1): mean, variance", [y.mean(), y.var()], [0, 1], 0.01)
    torch.manual_seed(0)
    first = dlt.functional.dropout(torch.ones(1000))
    torch.manual_seed(0)
    second = dlt.functional.dropout(torch.ones(1000))
    apart = (first != second).sum()
    yield Figure("two masks after torch.manual_seed(0) differ at", apart, 0, EXACT)


@chapter("Image normalization", "(x / 255 - mean) / std per channel, bytes in, float32 out")
def image_normalization() -> Iterator[Figure]:
    """One pass from a decoded picture to a network's input."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    image = np.array([[[0, 128, 255]]], np.uint8)  # one pixel
    y = dlkernels.image.normalize(image, mean, std)
    expected = [(v / 255 - m) / s for v, m, s in zip((0, 128, 255), mean, std, strict=True)]
    yield Figure("normalize of the pixel (0, 128, 255)", y.ravel(), expected, ROUNDING)
    back = dlkernels.image.denormalize(y, mean, std, dtype="uint8")
    yield Figure("denormalize of that", back.ravel(), [0, 128, 255], EXACT)


@chapter(
    "Batch normalization",
    "y = γ (x - mean) / √(variance + ε) + β, per channel over the batch",
    "running ← 0.9 running + 0.1 of the batch (variance unbiased), used in inference",
)
def batch_normalization() -> Iterator[Figure]:
    """Training and inference, and the gradient of the parameters."""
    x = floats([1, 10], [3, 10], [5, 40])
    mean, var = np.zeros(2, np.float32), np.ones(2, np.float32)
    gamma, beta = floats(2, 1), floats(1, 0)
    # Channel means 3 and 20, variances 8/3 and 200, unbiased 4 and 300.
    a, b = math.sqrt(1.5), math.sqrt(0.5)
    y = dlkernels.batch_norm(x, mean, var, gamma, beta, training=True)
    yield Figure(
        "training, γ = [2, 1], β = [1, 0]", y, [[1 - 2 * a, -b], [1, -b], [1 + 2 * a, 2 * b]], 2e-5
    )
    yield Figure("running mean afterwards", mean, [0.3, 2], ROUNDING)
    yield Figure("running variance afterwards", var, [0.9 + 0.4, 0.9 + 30], ROUNDING)
    expected = [[1 + 2 * (v - 0.3) / math.sqrt(1.3), (u - 2) / math.sqrt(30.9)] for v, u in x]
    y = dlkernels.batch_norm(x, mean, var, gamma, beta)
    yield Figure("inference, with these", y, expected, 1e-5)
    norm = dlt.nn.BatchNorm1d(2)
    norm(torch.from_numpy(x)).square().sum().backward()
    # dγ = Σ 2y·x̂ with y = x̂: twice the batch; dβ = Σ 2y = 0.
    yield Figure("torch: gradient of Σy² for γ", norm.weight.grad, [6, 6], 1e-4)
    yield Figure("torch: gradient of Σy² for β", norm.bias.grad, [0, 0], 1e-4)
    yield Figure("torch: running mean", norm.running_mean, [0.3, 2], ROUNDING)


def as_text(value: Any) -> str:
    """A figure, to four decimals at most."""
    array = np.asarray(value, np.float64)
    if array.ndim:
        return "[" + ", ".join(as_text(part) for part in array) + "]"
    number = float(array)
    return f"{number:.4f}".rstrip("0").rstrip(".")


def print_chapter(console: rich.console.Console, number: int, part: Chapter) -> list[str]:
    """A heading, the formulas and a table of figures; returns what is wrong."""
    console.rule(f"[bold]{number}. {part.title}", align="left", style="cyan")
    for formula in part.formulas:
        console.print(f"   {formula}", style="italic cyan", highlight=False)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("computed")
    table.add_column("dlkernels", style="bold")
    table.add_column("by hand", style="dim")
    table.add_column("")
    wrong = []
    for figure in part.figures():
        right = figure.is_right
        mark = "[green]✓" if right else "[bold red]✗"
        found, expected = (as_text(v).replace("[", "\\[") for v in (figure.found, figure.expected))
        table.add_row(figure.what.replace("[", "\\["), found, expected, mark)
        if not right:
            wrong.append(f"{part.title}: {figure.what}: {figure.found}, not {figure.expected}")
    console.print(rich.padding.Padding(table, (0, 0, 0, 3)))
    return wrong


def curves(x: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every activation of one array: its name, its values at x and its derivatives there."""
    one = np.ones_like(x)
    for name, row in dlkernels.activations.ACTIVATIONS.items():
        arguments = (-1.0, -1.0) if name == "threshold" else ()
        y = getattr(dlkernels, name)(x, *arguments)
        saved = y if row.saves == "output" else x
        yield name, y, getattr(dlkernels, f"{name}_backward")(one, saved, *arguments)
    slope = floats(0.25)
    yield "prelu", dlkernels.prelu(x, slope), dlkernels.prelu_backward(one, x, slope)[0]
    slopes, offsets = floats([-1], [0.2], [1]), floats([-1], [0], [-1])
    y, winner = dlkernels.maxout(slopes * x + offsets, 3, axis=0, return_index=True)
    grad = dlkernels.maxout_backward(one[None], winner, 3, axis=0)
    yield "maxout", y[0], (grad * slopes).sum(axis=0)


#: From the text's own to the rest of the family, as they are drawn.
DRAWN = (
    *("sigmoid", "tanh", "relu", "leaky_relu", "prelu"),
    *("elu", "selu", "celu", "maxout", "threshold"),
    *("gelu", "silu", "mish", "softplus", "logsigmoid"),
    *("hardsigmoid", "hardswish", "hardtanh", "relu6", "softsign"),
)
NOTES = {
    "prelu": "slope 0.25",
    "maxout": "three lines",
    "threshold": "below -1",
    "relu6": "flat from 6 on",
}
CURVE, DERIVATIVE = "#1b3a5c", "#d1495b"


def draw(path: Path = PICTURE) -> Path:
    """One panel per activation, all on the same axes; returns where."""
    x = np.linspace(-4, 4, 1601, dtype=np.float32)
    drawn = {name: (y, slope) for name, y, slope in curves(x)}
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, grid = plt.subplots(
            4, 5, figsize=(12, 9.6), sharex=True, sharey=True, layout="constrained"
        )
        figure.get_layout_engine().set(hspace=0.06, wspace=0.04)
        for axes, name in zip(grid.flat, DRAWN, strict=True):
            y, slope = drawn[name]
            axes.axhline(0, color="#b8bec8", linewidth=0.8)
            axes.axvline(0, color="#b8bec8", linewidth=0.8)
            axes.grid(color="#eceff3", linewidth=0.8)
            axes.set_axisbelow(True)
            # A step is no slope: where the derivative jumps, the line is broken.
            jumps = np.flatnonzero(np.abs(np.diff(slope)) > 0.05) + 1
            broken = np.insert(slope, jumps, np.nan), np.insert(x, jumps, np.nan)
            axes.plot(x, y, color=CURVE, linewidth=2.2, label="activation")
            axes.plot(
                *broken[::-1], color=DERIVATIVE, linewidth=1.5, linestyle=(0, (4, 1.5)),
                label="derivative",
            )  # fmt: skip
            note = f" ({NOTES[name]})" if name in NOTES else ""
            axes.set_title(name + note, loc="left", fontsize=10, fontweight="bold")
            axes.set(xlim=(-4, 4), ylim=(-2.2, 3.2), xticks=range(-4, 5, 2), yticks=range(-2, 4))
            axes.tick_params(length=0, colors="#5b6470")
            axes.spines[["left", "bottom"]].set_visible(False)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
        figure.suptitle("Activations and their derivatives", x=0.01, ha="left", fontweight="bold")
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=150)
        plt.close(figure)
    return path


def main() -> None:
    """Prints every chapter, draws the picture, and ends with 1 if a figure is wrong."""
    console = rich.console.Console(width=110)
    wrong = []
    for number, part in enumerate(CHAPTERS, start=1):
        wrong += print_chapter(console, number, part)
    print(f"Activation curves and their derivatives: {draw()}")
    if wrong:
        sys.exit("\n".join(["FAILED", *wrong]))
    print(f"Checked: all figures of {len(CHAPTERS)} chapters.")


if __name__ == "__main__":
    main()
