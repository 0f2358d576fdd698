"""Optimizers of `dlkernels.torch.optim` within what other libraries make of them: options of the
step are seen and set through every wrapper, and averages are evaluated and saved."""

import contextlib

import averages
import pytest
import torch

import dlkernels.torch.optim as ours


class Forwarding:
    """A subclass of the optimizer's class that asks it for what it does not find."""

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self.__class__ = type("F", (self.__class__, type(optimizer)), {})

    def step(self, closure=None):
        return self._optimizer.step(closure)

    def __getattr__(self, name):
        return getattr(self._optimizer, name)


class Copying:
    """The same, with the optimizer's attributes as they were."""

    def __init__(self, optimizer):
        self.__dict__ = {k: v for k, v in vars(optimizer).items() if k != "step"}
        self._optimizer = optimizer
        self.__class__ = type("C", (self.__class__, type(optimizer)), {})

    def step(self, closure=None):
        return self._optimizer.step(closure)


class OnlyGroups(torch.optim.Optimizer):
    """Passes on no more than torch's optimizers have."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)
    defaults = property(lambda self: self.optimizer.defaults)

    def step(self, closure=None):
        return self.optimizer.step(closure)


def lightning(optimizer):
    core = pytest.importorskip("lightning.pytorch.core.optimizer")
    return core.LightningOptimizer(optimizer)


def fabric(optimizer):
    return pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu").setup_optimizers(
        optimizer
    )  # fmt: skip


def accelerate(optimizer):
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
    return accelerator.prepare_optimizer(optimizer)


OPTIONS = {"max_grad_norm": 0.5, "ema_decay": 0.5, "write_back": True, "zero_grads": True}


def parameter():
    return torch.nn.Parameter(torch.arange(5.0))


def step(optimizer, param, value):
    param.grad = torch.full((5,), value)
    optimizer.step()


@pytest.mark.parametrize("wrap", [Forwarding, Copying, lightning, fabric])
def test_wrappers_that_pass_attributes_on(wrap):
    param = parameter()
    optimizer = ours.SGD([param], lr=0.5, **OPTIONS)
    wrapped = wrap(optimizer)
    for name, value in OPTIONS.items():
        assert getattr(wrapped, name) == value
    assert wrapped.grad_norm is None
    step(optimizer, param, 1.0)
    assert wrapped.grad_norm == optimizer.grad_norm == pytest.approx(5**0.5)
    wrapped.max_grad_norm = 3.0
    assert optimizer.max_grad_norm == 3.0
    optimizer.max_grad_norm = None
    assert wrapped.max_grad_norm is None
    before = param.detach().clone()
    step(optimizer, param, 2.0)
    assert torch.equal(param, before - 1)
    (average,) = wrapped.ema_parameters()
    with wrapped.ema_weights():
        assert torch.equal(param, average)
        assert not torch.equal(param, before - 1)
        with pytest.raises(RuntimeError, match="within ema_weights"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="twice"), optimizer.ema_weights():
            pass
    assert torch.equal(param, before - 1)
    assert ours.SGD.within(wrapped) is optimizer


@pytest.mark.parametrize("wrap", [Forwarding, Copying, OnlyGroups, lightning, fabric, accelerate])
def test_every_wrapper_has_the_groups(wrap):
    param = parameter()
    optimizer = ours.SGD([param], lr=0.5, max_grad_norm=1.0)
    wrapped = wrap(optimizer)
    assert wrapped.param_groups[0]["max_grad_norm"] == 1.0
    wrapped.param_groups[0]["max_grad_norm"] = None
    wrapped.param_groups[0]["ema_decay"] = 0.75
    before = param.detach().clone()
    for _ in range(2):
        step(optimizer, param, 2.0)
    assert torch.equal(param, before - 2)
    inner = ours.SGD.within(wrapped)
    assert inner is optimizer
    with inner.ema_weights():
        assert torch.equal(param, before - 1.25)


def test_what_is_within():
    optimizer = ours.SGD([parameter()])
    assert ours.SGD.within(OnlyGroups(Forwarding(optimizer))) is optimizer
    with pytest.raises(TypeError, match="AdamW: within: expected a wrapper of one, got SGD"):
        ours.AdamW.within(OnlyGroups(optimizer))
    with pytest.raises(TypeError, match=r"SGD: within: .* got Linear"):
        ours.SGD.within(torch.nn.Linear(1, 1))


def test_options_of_groups():
    a, b, c = parameter(), parameter(), parameter()
    optimizer = ours.SGD([{"params": [a]}, {"params": [b], "lr": 0.1}], max_grad_norm=0.5)
    assert [group["max_grad_norm"] for group in optimizer.param_groups] == [0.5, 0.5]
    optimizer.ema_decay = 0.5
    assert [group["ema_decay"] for group in optimizer.param_groups] == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"SGD: max_grad_norm: expected that of the first group"):
        optimizer.add_param_group({"params": [c], "max_grad_norm": 2.0})
    assert len(optimizer.param_groups) == 2
    optimizer.add_param_group({"params": [c]})
    assert optimizer.param_groups[2]["ema_decay"] == 0.5
    optimizer.param_groups[0]["max_grad_norm"] = -1.0
    before = a.detach().clone()
    with pytest.raises(ValueError, match="max_grad_norm"):
        step(optimizer, a, 1.0)
    assert torch.equal(a, before)
    with pytest.raises(ValueError, match="ema_decay"):
        ours.SGD([{"params": [a], "ema_decay": 2.0}])
    assert "ema_steps" not in ours.SGD([a]).param_groups[0]


def test_groups_of_another_optimizer_start_anew():
    params = [parameter()]
    first = ours.SGD(params, lr=0.5, ema_decay=0.5)
    step(first, params[0], 1.0)
    second = ours.SGD(first.param_groups)
    step(second, params[0], 1.0)
    assert torch.equal(second.ema_parameters()[0], params[0])


# --- examples/averages.py


def batches_of(count):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(8, 3, generator=generator) for _ in range(count)]
    return [(x, x.sum(1, keepdim=True)) for x in inputs]


@pytest.mark.filterwarnings("ignore")  # theirs
def test_lightning_callback(tmp_path):
    lightning = pytest.importorskip("lightning")
    seen = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch):
            return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

        def validation_step(self, batch):
            seen.append(self.layer.weight.detach().clone())

        def configure_optimizers(self):
            return ours.AdamW(self.parameters(), lr=0.1, ema_decay=0.5)

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, callbacks=[averages.lightning_callback()],
        default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(batches_of(4), batch_size=None)
    trainer.fit(module, loader, loader)
    weight, _ = trainer.optimizers[0].ema_parameters()
    assert torch.equal(seen[-1], weight)
    assert not torch.equal(module.layer.weight, weight)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(saved["averages"]["layer.weight"], weight)
    assert torch.equal(saved["state_dict"]["layer.weight"], module.layer.weight)
    assert torch.equal(saved["optimizer_states"][0]["state"][0]["ema"], weight)


@pytest.mark.filterwarnings("ignore")
def test_transformers_callback(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    seen = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x, labels):
            if not self.training:
                seen.append(self.layer.weight.detach().clone())
            y = self.layer(x)
            return {"loss": torch.nn.functional.mse_loss(y, labels), "logits": y}

    model = Model()
    data = [{"x": x[0], "labels": y[0]} for x, y in batches_of(8)]
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path), num_train_epochs=2, per_device_train_batch_size=2, report_to=[],
            eval_strategy="epoch", save_strategy="epoch", use_cpu=True, max_grad_norm=0.0,
            disable_tqdm=True,
        ),
        train_dataset=data,
        eval_dataset=data,
        optimizers=(ours.AdamW(model.parameters(), lr=0.1, ema_decay=0.5, max_grad_norm=1.0), None),
        callbacks=[averages.transformers_callback()],
    )  # fmt: skip
    trainer.train()
    weight, _ = ours.AdamW.within(trainer.optimizer).ema_parameters()
    assert torch.equal(seen[-1], weight)
    assert not torch.equal(model.layer.weight, weight)
    folder = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert torch.equal(torch.load(folder / "averages.pt")["layer.weight"], weight)


def test_accelerate_loop(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = torch.nn.Linear(3, 1)
    accelerator = accelerate.Accelerator(cpu=True)
    with contextlib.chdir(tmp_path) if hasattr(contextlib, "chdir") else contextlib.nullcontext():
        losses, last = averages.accelerate_loop(accelerator, model, batches_of(100), tmp_path)
    assert last < losses[0] / 2
    saved = torch.load(tmp_path / "averages.pt")
    state = torch.load(tmp_path / "checkpoint" / "optimizer.bin")
    assert torch.equal(saved["weight"], state["state"][0]["ema"])
    assert state["param_groups"][0]["max_grad_norm"] == 0.5
