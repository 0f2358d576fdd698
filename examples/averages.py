"""Evaluating and saving the moving averages that an optimizer of dlkernels keeps (``ema_decay=``),
where another library has wrapped it: a callback for Lightning, one for transformers' ``Trainer``,
and a loop of accelerate's.

In each, what is trained, and what a checkpoint goes on from, stays the parameters' own values; the
averages are among the optimizer's states, so they are in every checkpoint already. Each part needs
its library only.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from dlkernels.torch.optim import AdamW


def lightning_callback() -> Any:
    """``Trainer(callbacks=[lightning_callback()])``: validation and tests see the averages, and a
    checkpoint has them as ``"averages"``, a state dict of the module."""
    from lightning.pytorch import Callback

    class Averages(Callback):
        """Of the first optimizer."""

        def __init__(self) -> None:
            self._shown = contextlib.ExitStack()

        def _show(self, trainer: Any, *_: Any) -> None:
            if trainer.optimizers:  # none within trainer.validate()
                self._shown.enter_context(AdamW.within(trainer.optimizers[0]).ema_weights())

        def _hide(self, *_: Any) -> None:
            self._shown.close()

        on_validation_start = on_test_start = _show
        on_validation_end = on_test_end = on_exception = _hide

        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
            self._hide()
            with AdamW.within(trainer.optimizers[0]).ema_weights():
                checkpoint["averages"] = _copied(pl_module)

    return Averages()


def transformers_callback() -> Any:
    """``Trainer(callbacks=[transformers_callback()])``: evaluations while training see the
    averages, and a checkpoint's folder has them as ``averages.pt``."""
    from transformers import TrainerCallback

    class Averages(TrainerCallback):
        """Of the trainer's optimizer."""

        def __init__(self) -> None:
            self._shown = contextlib.ExitStack()

        def _show(self, args: Any, state: Any, control: Any, optimizer: Any, **_: Any) -> None:
            if control.should_evaluate:
                self._shown.enter_context(AdamW.within(optimizer).ema_weights())

        on_step_end = on_epoch_end = _show

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._shown.close()

        def on_save(
            self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **_: Any
        ) -> None:
            with AdamW.within(optimizer).ema_weights():
                averages = _copied(model)
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            torch.save(averages, folder / "averages.pt")

    return Averages()


def accelerate_loop(
    accelerator: Any, model: torch.nn.Module, batches: list[Any], folder: Path
) -> tuple[list[float], float]:
    """Losses while training, and that of the averages on the last batch."""
    optimizer = AdamW(model.parameters(), lr=1e-2, ema_decay=0.9, max_grad_norm=1.0)
    model, wrapped = accelerator.prepare(model, optimizer)
    wrapped.param_groups[0]["max_grad_norm"] = 0.5  # arrives at once
    losses = []
    for inputs, targets in batches:
        wrapped.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        accelerator.backward(loss)
        wrapped.step()
        losses.append(loss.item())
    with AdamW.within(wrapped).ema_weights():
        inputs, targets = batches[-1]
        with torch.no_grad():
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
        torch.save(_copied(accelerator.unwrap_model(model)), folder / "averages.pt")
    accelerator.save_state(str(folder / "checkpoint"))
    return losses, loss.item()


def _copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
