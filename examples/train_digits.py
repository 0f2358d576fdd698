"""Trains one small network on handwritten digits three times over, and compares.

NumPy with the kernels of `dlkernels`, torch with the twins of `dlkernels.torch`, and plain torch
all start from the same weights and see the same batches, so their loss curves must be one curve.
Run it with `make demo`, or `python examples/train_digits.py` where dlkernels, torch, scikit-learn,
rich, tqdm and matplotlib are installed; it takes some seconds and exits with 1 if a check fails.
"""

from __future__ import annotations

import itertools
from typing import Any

import digits
import numpy as np
import torch

import dlkernels
import dlkernels.torch

LAYERS = (64, 128, 128, 10)
SGD_ARGUMENTS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
COMPARISON = digits.Comparison(
    network=f"{'-'.join(map(str, LAYERS))} network",
    epochs=30,
    batch=128,
    least_accuracy=0.95,
    picture="loss_curves.png",
)

# The three may add up their matrix products in different orders, which has been seen to move a loss
# by 3e-7. A momentum of 0.899 instead of 0.9 moves one by 2e-3.
LOSS_TOLERANCE = 1e-4

Weights = list[tuple[np.ndarray, np.ndarray]]


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


def main() -> None:
    """Trains, prints, draws, checks."""
    rng = np.random.default_rng(0)
    data, initial = digits.load_data(rng), initial_weights(rng)
    runs = [
        digits.Run("dlkernels, NumPy", NumpyNetwork(initial), LOSS_TOLERANCE),
        digits.Run(
            "dlkernels, torch",
            TorchNetwork(initial, dlkernels.torch.nn, dlkernels.torch.optim),
            LOSS_TOLERANCE,
        ),
        digits.Run("plain torch", TorchNetwork(initial, torch.nn, torch.optim)),
    ]
    COMPARISON.run(runs, data, rng)


if __name__ == "__main__":
    main()
