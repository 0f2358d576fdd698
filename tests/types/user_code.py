"""Code as users write it, for type checkers: nobody runs it. Every public name stands here."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import assert_type

import dlkernels
import dlkernels.optim as numpy_optim
import dlkernels.torch as dlt
import dlkernels.torch.functional as F
from dlkernels.torch import nn, optim

Floats = npt.NDArray[np.float32]


def runtime() -> None:
    assert_type(dlkernels.__version__, str)
    assert_type(dlkernels.active_isa(), str)
    dlkernels.set_isa("avx2")
    dlkernels.set_num_threads(2)
    assert_type(dlkernels.get_num_threads(), int)
    with dlkernels.num_threads(1):
        pass
    assert_type(dlkernels.memory_stats()["limit_bytes"], int)
    dlkernels.empty_cache()
    assert_type(dlkernels.tune_malloc(), bool)


def numpy_activations(x: Floats, weight: Floats) -> list[Any]:
    out = np.empty_like(x)
    return [
        dlkernels.celu(x, 0.5, out=out),
        dlkernels.celu_backward(x, output=x, alpha=0.5),
        dlkernels.elu(x, alpha=0.5),
        dlkernels.elu_backward(x, x, 0.5),
        dlkernels.gelu(x, approximate="tanh"),
        dlkernels.gelu_backward(x, x, approximate="tanh"),
        dlkernels.glu(x, axis=0),
        dlkernels.glu_backward(x, x, axis=0),
        dlkernels.hardsigmoid(x),
        dlkernels.hardsigmoid_backward(x, x),
        dlkernels.hardswish(x),
        dlkernels.hardswish_backward(x, x),
        dlkernels.hardtanh(x, -2.0, max_val=2.0),
        dlkernels.hardtanh_backward(x, x, -2.0, 2.0),
        dlkernels.leaky_relu(x, negative_slope=0.1),
        dlkernels.leaky_relu_backward(x, x, 0.1),
        dlkernels.logsigmoid(x),
        dlkernels.logsigmoid_backward(x, x),
        dlkernels.maxout(x, 2, axis=-1),
        dlkernels.maxout_backward(x, x, pieces=2),
        dlkernels.mish(x),
        dlkernels.mish_backward(x, x),
        dlkernels.prelu(x, weight, out=out),
        *dlkernels.prelu_backward(x, x, weight),
        dlkernels.relu(x, out=x),
        dlkernels.relu6(x),
        dlkernels.relu6_backward(x, x),
        dlkernels.relu_backward(grad_output=x, x=x),
        dlkernels.selu(x),
        dlkernels.selu_backward(x, x),
        dlkernels.sigmoid(x),
        dlkernels.sigmoid_backward(x, x),
        dlkernels.silu(x),
        dlkernels.silu_backward(x, x),
        dlkernels.softplus(x, beta=2.0, threshold=10.0),
        dlkernels.softplus_backward(x, x, 2.0, 10.0),
        dlkernels.softsign(x),
        dlkernels.softsign_backward(x, x),
        dlkernels.swiglu(x, axis=0),
        dlkernels.swiglu_backward(x, x, x),
        dlkernels.tanh(x),
        dlkernels.tanh_backward(x, x),
        dlkernels.threshold(x, 0.1, value=20.0),
        dlkernels.threshold_backward(x, x, 0.1, 20.0),
    ]


def numpy_losses(x: Floats, target: npt.NDArray[np.int64]) -> None:
    dlkernels.cross_entropy(x, target, label_smoothing=0.1, softcap=30.0)
    assert_type(
        dlkernels.cross_entropy_with_grad(x, target, reduction="sum", out=x), tuple[Any, ...]
    )
    dlkernels.log_softmax(x, axis=0)
    dlkernels.log_softmax_backward(x, x, axis=0)
    dlkernels.nll_loss(x, target, ignore_index=0)
    dlkernels.nll_loss_backward(1.0, x, target)
    assert_type(dlkernels.nll_loss_with_grad(x, target), tuple[Any, Any])
    dlkernels.softmax(x, out=x)
    dlkernels.softmax_backward(x, x)

    dlkernels.binary_cross_entropy(x, x, weight=x)
    assert_type(dlkernels.binary_cross_entropy_with_grad(x, x), tuple[Any, ...])
    dlkernels.binary_cross_entropy_with_logits(x, x, pos_weight=x)
    dlkernels.binary_cross_entropy_with_logits_with_grad(x, x, wrt=["input", "target"])
    dlkernels.cross_entropy_of_distributions(x, x, axis=0, base=2.0)
    dlkernels.cross_entropy_of_distributions_with_grad(x, x)
    dlkernels.entropy(x, base=None)
    dlkernels.entropy_with_grad(x)
    dlkernels.gaussian_nll_loss(x, x, 0.5, full=True)
    dlkernels.gaussian_nll_loss_with_grad(x, x, x, eps=1e-3)
    dlkernels.huber_loss(x, x, delta=2.0)
    dlkernels.huber_loss_with_grad(x, x, out=x)
    dlkernels.kl_div(x, x, log_target=True, reduction="batchmean")
    dlkernels.kl_div_with_grad(x, x)
    dlkernels.kl_divergence(x, x)
    dlkernels.kl_divergence_with_grad(x, x)
    dlkernels.l1_loss(x, x)
    dlkernels.l1_loss_with_grad(x, x)
    dlkernels.mse_loss(x, x, weight=x, reduction="none")
    assert_type(dlkernels.mse_loss_with_grad(x, x), tuple[Any, ...])
    dlkernels.poisson_nll_loss(x, x, log_input=False)
    dlkernels.poisson_nll_loss_with_grad(x, x)
    dlkernels.sigmoid_focal_loss(x, x, alpha=-1, gamma=1.5)
    dlkernels.sigmoid_focal_loss_with_grad(x, x)
    dlkernels.smooth_l1_loss(x, x, beta=0.5)
    dlkernels.smooth_l1_loss_with_grad(x, x)


def numpy_norm_dropout_image(x: Floats, bias: Floats) -> None:
    dlkernels.batch_norm(x, training=True, activation="relu", residual=x)
    dlkernels.batch_norm_backward(x, x, training=True)
    dlkernels.alpha_dropout(x, 0.1, seed=1)
    dlkernels.alpha_dropout_backward(x, 0.1, seed=1)
    dlkernels.bias_act_dropout(x, bias, "gelu", approximate="tanh")
    dbias = dlkernels.bias_act_dropout_backward(x, x, bias, "relu", seed=1)[1]
    assert_type(dbias, Any)
    dlkernels.dropout(x, p=0.1, training=False, out=x)
    dlkernels.dropout_backward(x, p=0.1, seed=1)
    dlkernels.dropout1d(x)
    dlkernels.dropout1d_backward(x, seed=1)
    dlkernels.dropout2d(x)
    dlkernels.dropout2d_backward(x, seed=1)
    dlkernels.dropout3d(x)
    dlkernels.dropout3d_backward(x, seed=1)
    dlkernels.dropout_add(x, x, 0.1)
    dlkernels.dropout_add_backward(x, 0.1, seed=1)
    dlkernels.feature_alpha_dropout(x)
    dlkernels.feature_alpha_dropout_backward(x, seed=1)
    dlkernels.image.normalize(x, [0.5] * 3, [0.2] * 3, out_layout="CHW")
    dlkernels.image.denormalize(x, 0.5, 0.2, dtype="uint8")


def numpy_optimizers(x: Floats) -> None:
    for made in (
        numpy_optim.ASGD([x], t0=10.0),
        numpy_optim.Adadelta([x], rho=0.8),
        numpy_optim.Adagrad([x], initial_accumulator_value=0.1, state_dtype="bf16"),
        numpy_optim.Adam([x], amsgrad=True),
        numpy_optim.AdamW([{"params": [x], "lr": 0.1}], weight_decay=0.1, max_grad_norm=1.0),
        numpy_optim.Adamax([x]),
        numpy_optim.LAMB([x], betas=(0.9, 0.99)),
        numpy_optim.LARS([x], trust_coefficient=0.01),
        numpy_optim.Lion([x], state_dtype="8bit"),
        numpy_optim.NAdam([x], momentum_decay=0.1),
        numpy_optim.RAdam([x]),
        numpy_optim.RMSprop([x], centered=True),
        numpy_optim.Rprop([x], etas=(0.5, 1.5)),
        numpy_optim.SGD([x], 0.1, momentum=0.9, ema_decay=0.99),
    ):
        made.step([None], grad_scale=2.0)
    optimizer = dlkernels.optim.AdamW([x], master="split16")
    optimizer.add_param_group({"params": [x]})
    assert_type(optimizer.ema_parameters(), list[Any])
    with optimizer.ema_weights():
        pass
    state: dict[str, Any] = optimizer.state_dict()
    optimizer.load_state_dict(state)
    optimizer.float32_state_dict()
    optimizer.load_master_parameters(optimizer.master_parameters())


def activations(x: Tensor, weight: Tensor) -> None:
    assert_type(F.celu(x, 0.5, inplace=True), Tensor)
    assert_type(F.celu_(x, alpha=0.5), Tensor)
    assert_type(F.elu(x, alpha=0.5), Tensor)
    assert_type(F.elu_(x, 0.5), Tensor)
    assert_type(F.gelu(x, approximate="tanh"), Tensor)
    assert_type(F.glu(x, dim=0), Tensor)
    assert_type(F.hardsigmoid(x, inplace=False), Tensor)
    assert_type(F.hardswish(x), Tensor)
    assert_type(F.hardtanh(x, -2.0, max_val=2.0), Tensor)
    assert_type(F.hardtanh_(x, -2.0, 2.0), Tensor)
    assert_type(F.leaky_relu(x, negative_slope=0.1), Tensor)
    assert_type(F.leaky_relu_(x, 0.1), Tensor)
    assert_type(F.logsigmoid(x), Tensor)
    assert_type(F.maxout(x, 2, dim=-1), Tensor)
    assert_type(F.mish(x), Tensor)
    assert_type(F.prelu(x, weight), Tensor)
    assert_type(F.relu(input=x, inplace=True), Tensor)
    assert_type(F.relu_(x), Tensor)
    assert_type(F.relu6(x), Tensor)
    assert_type(F.selu(x), Tensor)
    assert_type(F.selu_(x), Tensor)
    assert_type(F.sigmoid(x), Tensor)
    assert_type(F.sigmoid_(x), Tensor)
    assert_type(F.silu(x), Tensor)
    assert_type(F.softplus(x, beta=2.0, threshold=10.0), Tensor)
    assert_type(F.softsign(x), Tensor)
    assert_type(F.swiglu(x, x, dim=0), Tensor)
    assert_type(F.tanh(x), Tensor)
    assert_type(F.tanh_(x), Tensor)
    assert_type(F.threshold(x, 0.1, value=20.0), Tensor)
    assert_type(F.threshold_(x, 0.1, 20.0), Tensor)


def losses(x: Tensor, target: Tensor) -> None:
    assert_type(F.cross_entropy(x, target, label_smoothing=0.1, z_loss=1e-4), Tensor)
    assert_type(F.log_softmax(x, -1, dtype=torch.float32), Tensor)
    assert_type(F.nll_loss(x, target, ignore_index=0), Tensor)
    assert_type(F.softmax(x, dim=-1), Tensor)
    assert_type(F.binary_cross_entropy(x, x, weight=x), Tensor)
    assert_type(F.binary_cross_entropy_with_logits(x, x, pos_weight=x), Tensor)
    assert_type(F.cross_entropy_of_distributions(x, x, base=2.0), Tensor)
    assert_type(F.entropy(x, dim=0), Tensor)
    assert_type(F.gaussian_nll_loss(x, x, 0.5, full=True), Tensor)
    assert_type(F.huber_loss(x, x, delta=2.0), Tensor)
    assert_type(F.kl_div(x, x, log_target=True, reduction="batchmean"), Tensor)
    assert_type(F.kl_divergence(x, x), Tensor)
    assert_type(F.l1_loss(x, x), Tensor)
    assert_type(F.mse_loss(x, x, reduction="sum", weight=None), Tensor)
    assert_type(F.poisson_nll_loss(x, x, log_input=False), Tensor)
    assert_type(F.sigmoid_focal_loss(x, x, alpha=-1, reduction="mean"), Tensor)
    assert_type(F.smooth_l1_loss(x, x, beta=0.5), Tensor)


def norm_dropout_image(x: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    assert_type(F.batch_norm(x, None, None, training=True, activation="silu"), Tensor)
    assert_type(F.alpha_dropout(x, 0.1, training=True), Tensor)
    assert_type(F.bias_act_dropout(x, bias, "leaky_relu", negative_slope=0.1), Tensor)
    assert_type(F.dropout(x, p=0.1, inplace=True, seed=3), Tensor)
    assert_type(F.dropout1d(x, generator=generator), Tensor)
    assert_type(F.dropout2d(x), Tensor)
    assert_type(F.dropout3d(x), Tensor)
    assert_type(F.dropout_add(x, x, 0.1), Tensor)
    assert_type(F.feature_alpha_dropout(x), Tensor)
    assert_type(dlt.image.normalize(x, [0.5] * 3, [0.2] * 3), Tensor)
    assert_type(dlt.image.denormalize(x, [0.5] * 3, [0.2] * 3), Tensor)
    assert_type(dlt.explain(F.relu, x), str)
    assert_type(len(dlt.decompositions()), int)


def modules(x: Tensor, generator: torch.Generator) -> torch.nn.Module:
    assert_type(nn.ReLU().forward(x), Tensor)
    assert_type(nn.CrossEntropyLoss(softcap=30.0).forward(x, target=x), Tensor)
    assert_type(nn.GaussianNLLLoss(full=True).forward(x, x, x), Tensor)
    assert_type(nn.BatchNormAct2d(3).forward(x, residual=x), Tensor)
    assert_type(nn.Softmax(1).dim, int | None)
    assert_type(nn.Maxout(2).pieces, int)
    assert_type(nn.ReLU().inplace, bool)
    assert_type(nn.BatchNormAct1d(3).activation, str | None)
    assert_type(nn.Dropout(0.5, seed=3).p, float)
    return torch.nn.Sequential(
        nn.AlphaDropout(0.1),
        nn.BCELoss(reduction="sum"),
        nn.BCEWithLogitsLoss(pos_weight=x),
        nn.BatchNorm1d(3, eps=1e-3),
        nn.BatchNorm2d(3, momentum=None),
        nn.BatchNorm3d(3, affine=False),
        nn.BatchNormAct1d(3, activation="silu"),
        nn.BatchNormAct2d(3, negative_slope=0.1),
        nn.BatchNormAct3d(3, device="cpu", dtype=torch.float64),
        nn.CELU(0.5),
        nn.CrossEntropyLoss(label_smoothing=0.1, inplace=True),
        nn.Dropout(inplace=True),
        nn.Dropout1d(generator=generator),
        nn.Dropout2d(0.1),
        nn.Dropout3d(0.1, seed=x),
        nn.ELU(inplace=True),
        nn.FeatureAlphaDropout(),
        nn.GELU(approximate="tanh"),
        nn.GLU(dim=0),
        nn.GaussianNLLLoss(eps=1e-3),
        nn.Hardsigmoid(inplace=True),
        nn.Hardswish(),
        nn.Hardtanh(-2.0, max_val=2.0),
        nn.HuberLoss(delta=2.0),
        nn.KLDivLoss(log_target=True),
        nn.L1Loss(reduction="none"),
        nn.LeakyReLU(0.1, inplace=True),
        nn.LogSigmoid(),
        nn.LogSoftmax(dim=-1),
        nn.MSELoss(),
        nn.Maxout(2, dim=-1),
        nn.Mish(),
        nn.NLLLoss(weight=x, ignore_index=0),
        nn.PReLU(3, init=0.1),
        nn.PoissonNLLLoss(full=True),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        nn.SELU(),
        nn.SiLU(),
        nn.Sigmoid(),
        nn.SmoothL1Loss(beta=0.5),
        nn.Softmax(dim=-1),
        nn.Softplus(beta=2.0),
        nn.Softsign(),
        nn.SwiGLU(dim=0),
        nn.SyncBatchNorm(3, process_group=None),
        nn.Tanh(),
        nn.Threshold(0.1, 20.0),
        dlt.image.Normalize([0.5] * 3, [0.2] * 3),
        dlt.image.Denormalize([0.5] * 3, [0.2] * 3),
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(3)),
    )


def optimizers(model: torch.nn.Module) -> None:
    parameters = list(model.parameters())
    for made in (
        optim.ASGD(parameters, t0=10.0),
        optim.Adadelta(parameters, rho=0.8),
        optim.Adagrad(parameters, lr_decay=0.1, state_dtype="bf16", seed=1),
        optim.Adam(model.parameters(), lr=torch.tensor(0.1), amsgrad=True),
        optim.AdamW([{"params": parameters, "lr": 0.1}], fused=True, state_dtype="8bit"),
        optim.Adamax(parameters, foreach=False),
        optim.LAMB(parameters, betas=(0.9, 0.99), bias_correction=False),
        optim.LARS(parameters, trust_coefficient=0.01),
        optim.Lion(model.named_parameters(), state_dtype="8bit", min_8bit_size=256),
        optim.NAdam(parameters, decoupled_weight_decay=True),
        optim.RAdam(parameters, master="split16"),
        optim.RMSprop(parameters, centered=True),
        optim.Rprop(parameters, step_sizes=(1e-6, 1.0)),
        optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, max_grad_norm=1.0),
    ):
        made.step()
        assert_type(made.grad_norm, Tensor | None)
    optimizer = optim.AdamW(parameters, ema_decay=0.99, zero_grads=True, scaler_in_step=True)
    assert_type(optim.AdamW.within(optimizer), optim.AdamW)
    assert_type(optimizer.ema_decay, float | None)
    assert_type(optimizer.ema_parameters(), list[Tensor])
    with optimizer.ema_weights():
        pass
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.load_state_dict(optimizer.float32_state_dict())
    optimizer.load_master_parameters(optimizer.master_parameters())
    is_torchs: torch.optim.AdamW = optimizer
    is_torchs.step(lambda: 0.5)
