"""Mistakes that type checkers must find: one that they do not is an ignored error too many."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import numpy as np
import torch

import dlkernels
import dlkernels.torch as dlt
import dlkernels.torch.functional as F
from dlkernels import optim as numpy_optim
from dlkernels.torch import optim

x = torch.ones(3)
array = np.ones(3)

# Names
dlkernels.reluu(array)  # type: ignore[attr-defined]
F.reluu(x)  # type: ignore[attr-defined]
dlt.nn.Droput(0.5)  # type: ignore[attr-defined]
print(dlt.functional.torch)  # type: ignore[attr-defined]
optim.Adamw([])  # type: ignore[attr-defined]
numpy_optim.Adamw([])  # type: ignore[attr-defined]

# Arguments that are too many, missing, or of another function
F.relu(x, 1, 2, foo=3)  # type: ignore[call-arg, arg-type]
F.relu()  # type: ignore[call-arg]
F.mse_loss(x)  # type: ignore[call-arg]
dlt.nn.ReLU(0.5, 1)  # type: ignore[call-arg, arg-type]
dlt.nn.Sigmoid(1)  # type: ignore[call-arg]
dlt.nn.CrossEntropyLoss(z_los=1e-4)  # type: ignore[call-arg]
dlt.nn.BatchNorm2d()  # type: ignore[call-arg]
dlkernels.relu(array, 0.5)  # type: ignore[call-arg]
dlkernels.leaky_relu(array, slope=0.1)  # type: ignore[call-arg]
dlkernels.mse_loss(array, array, "sum")  # type: ignore[call-arg]
numpy_optim.SGD([array], beta=0.9)  # type: ignore[call-arg]
optim.AdamW([x], max_norm=1.0)  # type: ignore[call-arg]

# Types
F.relu("x")  # type: ignore[arg-type]
F.softmax(x, dim="last")  # type: ignore[arg-type]
F.dropout(x, p="half")  # type: ignore[arg-type]
dlt.nn.Dropout("half")  # type: ignore[arg-type]
dlt.nn.ReLU().forward(3)  # type: ignore[arg-type]
dlkernels.elu(array, alpha="x")  # type: ignore[arg-type]
dlkernels.softmax(array, axis="last")  # type: ignore[arg-type]
dlkernels.set_num_threads("two")  # type: ignore[arg-type]
optim.AdamW([], lr="x")  # type: ignore[arg-type]
numpy_optim.AdamW([], lr="x")  # type: ignore[arg-type]
numpy_optim.AdamW([array]).step(0.1)  # type: ignore[arg-type]
