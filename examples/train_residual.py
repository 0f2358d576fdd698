"""Trains a small residual network on handwritten digits, with and without dlkernels, and compares.

Every batch norm is followed by a ReLU, and one has the residual added in between: in
`BatchNormAct2d` of `dlkernels.torch` that is one pass over the data forward and one backward. Plain
torch does the same step by step, from the same state dict and on the same batches. In float64 the
two loss curves must be one curve; in float32 the training enlarges every rounding until the losses
differ in the third digit, and both stay as close to float64 as each other. Run it with `make demo`,
or `python examples/train_residual.py` where dlkernels, torch, scikit-learn, rich, tqdm and
matplotlib are installed; it takes about half a minute and exits with 1 if a check fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import digits
import numpy as np
import torch
from torch import Tensor

import dlkernels.torch as dlt

WIDTH = 32
SGD_ARGUMENTS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
COMPARISON = digits.Comparison(
    network="A residual network",
    epochs=10,
    batch=128,
    least_accuracy=0.97,
    picture="residual_loss_curves.png",
)
# Seen: 2e-15 in float64, where another eps in the sixth digit moves a loss by 4e-8 and more; in
# float32 up to 7e-3 with dlkernels and 1.3e-2 without.
FLOAT64_TOLERANCE = 1e-10
FLOAT32_TOLERANCE = 0.05


class TorchNormAct(torch.nn.BatchNorm2d):
    """What `BatchNormAct2d` does, in torch's own operations."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalizes, adds, and cuts off below zero."""
        output = super().forward(input)
        return torch.relu(output if residual is None else output + residual)


def convolution(inputs: int, outputs: int, stride: int = 1) -> torch.nn.Module:
    """3x3, without the bias that the batch norm behind it would take away again."""
    return torch.nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class ResidualNetwork(torch.nn.Module):
    """A stem, one residual block, one step down, and the mean of what is left.

    Args:
        norm: Makes the batch norm with its activation for a number of channels.
    """

    def __init__(self, norm: Callable[[int], torch.nn.Module]) -> None:
        """See the class."""
        super().__init__()
        self.stem, self.stem_norm = convolution(1, WIDTH), norm(WIDTH)
        self.first, self.first_norm = convolution(WIDTH, WIDTH), norm(WIDTH)
        self.second, self.second_norm = convolution(WIDTH, WIDTH), norm(WIDTH)
        self.down, self.down_norm = convolution(WIDTH, 2 * WIDTH, stride=2), norm(2 * WIDTH)
        self.head = torch.nn.Linear(2 * WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images, (N, 1, 8, 8)."""
        x = self.stem_norm(self.stem(x))
        hidden = self.first_norm(self.first(x))
        x = self.second_norm(self.second(hidden), x)
        return self.head(self.down_norm(self.down(x)).mean((2, 3)))


class Learner:
    """The network with its loss and optimizer: torch's own, or the twins of dlkernels."""

    def __init__(
        self, norm: Any, nn: Any, optim: Any, state: dict[str, Tensor], dtype: torch.dtype
    ) -> None:
        """Starts from this state dict."""
        self.dtype = dtype
        self.model = ResidualNetwork(norm).to(dtype, memory_format=torch.channels_last)
        self.model.load_state_dict(state)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = optim.SGD(self.model.parameters(), **SGD_ARGUMENTS)

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """One update; returns the loss before it."""
        self.model.train()
        loss = self.criterion(self.model(self.images(x)), torch.from_numpy(y))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def predict(self, x: np.ndarray) -> np.ndarray:
        """The most likely digits, by the statistics that were kept while training."""
        self.model.eval()
        return self.model(self.images(x)).argmax(dim=1).numpy()

    def images(self, rows: np.ndarray) -> Tensor:
        """Rows of 64 pixels as a batch for convolutions."""
        return torch.from_numpy(rows).to(self.dtype).view(-1, 1, 8, 8)


def main() -> None:
    """Trains, prints, draws, checks."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    data, state = digits.load_data(rng), ResidualNetwork(TorchNormAct).state_dict()
    ours = dlt.nn.BatchNormAct2d, dlt.nn, dlt.optim, state
    plain = TorchNormAct, torch.nn, torch.optim, state
    runs = [
        digits.Run("dlkernels", Learner(*ours, torch.float32), FLOAT32_TOLERANCE),
        digits.Run("plain torch", Learner(*plain, torch.float32), FLOAT32_TOLERANCE),
        digits.Run("dlkernels, float64", Learner(*ours, torch.float64), FLOAT64_TOLERANCE),
        digits.Run("plain torch, float64", Learner(*plain, torch.float64)),
    ]
    COMPARISON.run(runs, data, rng)


if __name__ == "__main__":
    main()
