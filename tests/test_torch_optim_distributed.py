"""Optimizers over two processes: ZeroRedundancyOptimizer, FSDP2 and distributed checkpoints."""

import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
from torch.distributed.checkpoint import state_dict as checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

import dlkernels.torch.optim as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's module uses what torch deprecates
    from torch.distributed.optim import ZeroRedundancyOptimizer

#: Options that make every state there is.
OPTIONS = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}


#: Their norms are of whole parameters: torch's loop takes them over all processes.
LAYERWISE = [name for name in ours.__all__ if not getattr(ours, name)._rule.elementwise]


def network(seed=0):
    """Its last layer has fewer rows than there are processes: one has an empty part."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))


def train(model, optimizer, steps, start=0):
    """The same batches for everyone, so that a mean over the processes is what each has."""
    for step in range(start, start + steps):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x[:, :1]).square().mean().backward()
        optimizer.step()


def whole(tensor):
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_equal_bits(first, second, what):
    for a, b in zip(first, second, strict=True):
        if what[0] in LAYERWISE and what[-1] != "lr=0":
            torch.testing.assert_close(whole(a), whole(b), rtol=1e-5, atol=1e-6)
            continue
        assert np.array_equal(whole(a).numpy().view(np.int32), whole(b).numpy().view(np.int32)), (
            what
        )


def make(name, params, **more):
    return getattr(ours, name)(params, **OPTIONS.get(name, {}), **more)


# --- what both processes do; both call all of it in the same order


def zero_redundancy(name, as_bucket_view):
    """Each process steps a part of the parameters: with a bucket, slices of a large buffer."""
    model, alone = network(), network()
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(),
        optimizer_class=getattr(ours, name),
        parameters_as_bucket_view=as_bucket_view,
        **OPTIONS.get(name, {}),
    )
    reference = make(name, alone.parameters())
    train(model, optimizer, 3)
    train(alone, reference, 3)
    assert_equal_bits(model.parameters(), alone.parameters(), (name,))
    assert isinstance(optimizer.optim, getattr(ours, name))
    assert optimizer.optim._table is not None
    optimizer.consolidate_state_dict(0)
    if dist.get_rank() == 0:
        for saved, expected in zip(
            optimizer.state_dict()["state"].values(),
            reference.state_dict()["state"].values(),
            strict=True,
        ):
            assert saved.keys() == expected.keys()
            for key, value in expected.items():
                assert torch.equal(torch.as_tensor(saved[key]), torch.as_tensor(value)), (name, key)


def sharded(mesh, seed=0):
    model = network(seed)
    policy = CPUOffloadPolicy(pin_memory=False)
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    return model


def fully_sharded(name, mesh):
    """Every process's kernel updates its part, bit-equal to one process with everything."""
    model, alone = sharded(mesh), network()
    optimizer, reference = make(name, model.parameters()), make(name, alone.parameters())
    train(model, optimizer, 1)
    versions = [
        (value, value._version)
        for param in model.parameters()
        for value in (param, *optimizer.state[param].values())
    ]
    train(model, optimizer, 2, start=1)
    train(alone, reference, 3)
    assert all(value._version > version for value, version in versions), name
    for (key, param), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert isinstance(param, DTensor)
        assert param.to_local().numel() < expected.numel() or dist.get_rank() == 0
        assert_equal_bits([param], [expected], (name, key))
        state = optimizer.state[param]
        assert list(state) == list(reference.state[expected])
        for slot, value in state.items():
            assert isinstance(value, DTensor) is (value.shape == param.shape), (name, slot)
            assert_equal_bits([value], [reference.state[expected][slot]], (name, slot))
    assert (
        any(param.to_local().numel() == 0 for param in model.parameters()) or dist.get_rank() == 0
    )


def fully_sharded_extras(name, mesh):
    """Clipping by the norm over all processes, averages, zeroing and a scaler's work."""
    extras = {"max_grad_norm": 0.1, "ema_decay": 0.5, "scaler_in_step": True}
    model, alone = sharded(mesh), network()
    optimizer = make(name, model.parameters(), zero_grads=True, **extras)
    reference = make(name, alone.parameters(), **extras)
    for step in range(4):
        bad = step == 2
        for given, stepped in ((optimizer, model), (reference, alone)):
            given.grad_scale = 4.0
            x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
            (4 * (stepped(x) - x[:, :1]).square().mean()).backward()
            if bad:  # found by one of the processes
                grad = next(stepped.parameters()).grad
                grad = grad.to_local() if isinstance(grad, DTensor) else grad
                if stepped is alone or dist.get_rank() == 0:
                    grad.view(-1)[0] = float("inf")
            given.step()
        reference.zero_grad()
        if not bad:
            torch.testing.assert_close(optimizer.grad_norm, reference.grad_norm)
        for group in (
            zip(model.parameters(), alone.parameters(), strict=True),
            zip(optimizer.ema_parameters(), reference.ema_parameters(), strict=True),
        ):
            for actual, expected in group:
                torch.testing.assert_close(whole(actual), whole(expected), msg=name)
        assert all((param.grad.to_local() == 0).all() for param in model.parameters())


def checkpoints(name, mesh, folder):
    """Saved by two processes and loaded into another model, it goes on as if nothing had been."""
    model = sharded(mesh)
    optimizer = make(name, model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    model_state, optimizer_state = checkpoint.get_state_dict(model, optimizer)
    dcp.save(
        {"model": model_state, "optim": optimizer_state},
        checkpoint_id=f"{folder}/{name}",
        no_dist=False,
    )
    other = sharded(mesh, seed=1)
    with torch.no_grad():
        for param in other.parameters():
            param.to_local().view(-1)[:1] = -0.0
    kept = [param.detach().clone() for param in other.parameters()]
    loaded = make(name, other.parameters(), lr=0.5)
    # makes the states with a step, of zeros at lr=0
    model_state, optimizer_state = checkpoint.get_state_dict(other, loaded)
    assert_equal_bits(other.parameters(), kept, (name, "lr=0"))
    dcp.load({"model": model_state, "optim": optimizer_state}, checkpoint_id=f"{folder}/{name}")
    checkpoint.set_state_dict(
        other, loaded, model_state_dict=model_state, optim_state_dict=optimizer_state
    )
    assert loaded.param_groups[0]["lr"] == 0.01
    for given, stepped in ((optimizer, model), (loaded, other)):
        train(stepped, given, 2, start=2)
    assert_equal_bits(other.parameters(), model.parameters(), (name, "after loading"))


def every_check(rank, folder):
    """The whole program of a process of two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for name in ours.__all__:
        if name not in LAYERWISE:
            getattr(ours, name)._step_in_torch = no_step_in_torch
        for as_bucket_view in (False, True):
            zero_redundancy(name, as_bucket_view)
        fully_sharded(name, mesh)
        fully_sharded_extras(name, mesh)
        checkpoints(name, mesh, folder)
    leave(rank, folder)


def leave(rank, folder):
    """Ends a process that has passed, once both have. The end of the interpreter, or of the group,
    now and then aborts it: torch's own threads are not joined by then (2 of some 80 runs)."""
    dist.barrier()
    marks = [Path(folder, f"passed_{number}") for number in range(2)]
    marks[rank].touch()
    while not all(mark.exists() for mark in marks):
        time.sleep(0.01)
    os._exit(0)


def no_step_in_torch(optimizer):
    raise AssertionError(f"{type(optimizer).__name__} was stepped by torch")


def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(every_check, (str(tmp_path),), nprocs=2)
    assert all((tmp_path / f"passed_{rank}").exists() for rank in range(2))
