"""Optimizers over two processes: ZeroRedundancyOptimizer, FSDP2 and distributed checkpoints."""

import os
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict as checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import dlkernels.torch.optim as ours
from torch_support import run_processes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's module uses what torch deprecates
    from torch.distributed.optim import ZeroRedundancyOptimizer

#: Options that make every state there is.
OPTIONS = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}


FORMATS = {
    "8bit": {"state_dtype": "8bit", "min_8bit_size": 4},
    "8bit-split16": {"state_dtype": "8bit", "min_8bit_size": 4, "master": "split16"},
    "bf16": {"state_dtype": "bf16", "seed": 5},
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
        x = x.to(next(model.parameters()).dtype)
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
        first_bits, second_bits = (whole(x).flatten().view(torch.uint8) for x in (a, b))
        assert torch.equal(first_bits, second_bits), what


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


def sharded(mesh, seed=0, dtype=torch.float32):
    model = network(seed).to(dtype)
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


def checkpoints(name, mesh, folder, dtype=torch.float32, **more):
    """Saved by two processes and loaded into another model, it goes on as if nothing had been."""
    model = sharded(mesh, dtype=dtype)
    optimizer = make(name, model.parameters(), lr=0.01, **more)
    train(model, optimizer, 2)
    model_state, optimizer_state = checkpoint.get_state_dict(model, optimizer)
    dcp.save(
        {"model": model_state, "optim": optimizer_state},
        checkpoint_id=folder,
        no_dist=False,
    )
    other = sharded(mesh, seed=1, dtype=dtype)
    with torch.no_grad():
        for param in other.parameters():
            param.to_local().view(-1)[:1] = -0.0
    kept = [param.detach().clone() for param in other.parameters()]
    loaded = make(name, other.parameters(), lr=0.5, **more)
    # makes the states with a step, of zeros at lr=0
    model_state, optimizer_state = checkpoint.get_state_dict(other, loaded)
    assert_equal_bits(other.parameters(), kept, (name, "lr=0"))
    dcp.load({"model": model_state, "optim": optimizer_state}, checkpoint_id=folder)
    checkpoint.set_state_dict(
        other, loaded, model_state_dict=model_state, optim_state_dict=optimizer_state
    )
    assert loaded.param_groups[0]["lr"] == 0.01
    for given, stepped in ((optimizer, model), (loaded, other)):
        train(stepped, given, 2, start=2)
    assert_equal_bits(other.parameters(), model.parameters(), (name, "after loading"))
    if "ema_decay" in more:
        assert_equal_bits(loaded.ema_parameters(), optimizer.ema_parameters(), (name, "averages"))
    for param, twin in zip(model.parameters(), other.parameters(), strict=True):
        assert set(optimizer.state[param]) == set(loaded.state[twin])


def formats_of_parts(name, format, mesh):
    """The states of each process's part, bit-equal to those of a parameter that is this part."""
    dtype = torch.bfloat16 if "split16" in format else torch.float32
    model = sharded(mesh, dtype=dtype)
    optimizer = make(name, model.parameters(), **FORMATS[format])
    parts = [torch.nn.Parameter(p.to_local().detach().clone()) for p in model.parameters()]
    options = {**FORMATS[format]}
    if "8bit" in format:  # the bound is for whole parameters, the smallest of which has one
        options["min_8bit_size"] = 0
    groups = [
        {"params": [part], "min_8bit_size": 0 if param.numel() >= 4 else 10**9}
        for part, param in zip(parts, model.parameters(), strict=True)
    ]
    reference = make(name, groups if "8bit" in format else parts, **options)
    for step in range(3):
        train(model, optimizer, 1, start=step)
        for part, param in zip(parts, model.parameters(), strict=True):
            part.grad = param.grad.to_local()
        reference.step()
    for part, param in zip(parts, model.parameters(), strict=True):
        assert torch.equal(part, param.to_local()), (name, format)
        assert set(reference.state[part]) == set(optimizer.state[param])
        for key, value in reference.state[part].items():
            own = optimizer.state[param][key]
            if isinstance(own, DTensor):
                own = own.to_local()
            if key.endswith("_absmax"):
                own = own.view(-1)[: value.numel()]
            assert torch.equal(torch.as_tensor(own), torch.as_tensor(value)), (name, format, key)
    wide = zip(optimizer.master_parameters(), reference.master_parameters(), strict=True)
    assert all(torch.equal(a.to_local(), b) for a, b in wide)


def other_numbers_of_processes(mesh, folder):
    """Codes of two processes' parts fit no other parts; float32 fits all."""
    model, alone = sharded(mesh), network(1)
    optimizer = make("Adam", model.parameters(), **FORMATS["8bit"])
    loaded = make("Adam", alone.parameters(), **FORMATS["8bit"])
    train(model, optimizer, 2)
    state = checkpoint.get_optimizer_state_dict(model, optimizer)
    dcp.save({"optim": state, "float32": optimizer.float32_state_dict()}, checkpoint_id=folder)
    state = checkpoint.get_optimizer_state_dict(alone, loaded)
    with pytest.raises((ValueError, dcp.api.CheckpointException), match="absmax"):
        dcp.load({"optim": state}, checkpoint_id=folder, no_dist=True)
    whole_state = {"float32": loaded.float32_state_dict()}
    dcp.load(whole_state, checkpoint_id=folder, no_dist=True)
    loaded.load_state_dict(whole_state["float32"])
    pairs = zip(
        optimizer.float32_state_dict()["state"].values(), whole_state["float32"]["state"].values(),
        strict=True,
    )  # fmt: skip
    for given, taken in pairs:
        assert all(torch.equal(whole(given[key]), taken[key]) for key in given)
    full = checkpoint.get_optimizer_state_dict(
        model, optimizer, options=checkpoint.StateDictOptions(full_state_dict=True)
    )
    with pytest.raises(ValueError, match="float32_state_dict"):
        checkpoint.set_optimizer_state_dict(alone, loaded, full)


def layouts_of_parts():
    """What parts cannot have states in eight bits is said when they are seen."""
    mesh = init_device_mesh("cpu", (2, 1))
    value = distribute_tensor(torch.ones(64, 64), mesh, [Shard(0), Shard(1)])
    with pytest.raises(ValueError, match="AdamW: state_dtype: expected '8bit' for"):
        ours.AdamW([torch.nn.Parameter(value)], state_dtype="8bit")
    for placements in (
        [Shard(1), Replicate()],
        [Replicate(), Replicate()],
        [Replicate(), Shard(0)],
    ):
        param = torch.nn.Parameter(distribute_tensor(torch.ones(63, 65), mesh, placements))
        optimizer = ours.AdamW([param], state_dtype="8bit", min_8bit_size=0)
        param.grad = distribute_tensor(torch.ones(63, 65), mesh, placements)
        optimizer.step()
        part = torch.nn.Parameter(torch.ones_like(param.to_local()))
        reference = ours.AdamW([part], state_dtype="8bit", min_8bit_size=0)
        part.grad = torch.ones_like(part)
        reference.step()
        assert torch.equal(param.to_local(), part)


def every_check(rank, folder):
    """The whole program of a process of two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for index, name in enumerate(ours.__all__):
        if name not in LAYERWISE:
            getattr(ours, name)._step_in_torch = no_step_in_torch
        zero_redundancy(name, as_bucket_view=index % 2 == 0)
        fully_sharded(name, mesh)
        fully_sharded_extras(name, mesh)
        checkpoints(name, mesh, f"{folder}/{name}")
    for name, format in (("SGD", "8bit"), ("Adam", "8bit-split16"), ("Lion", "bf16")):
        formats_of_parts(name, format, mesh)
    for name, format, dtype in (
        ("SGD", "8bit", torch.float32),
        ("Adagrad", "8bit-split16", torch.bfloat16),
    ):
        more = {"ema_decay": 0.5, "max_grad_norm": 0.1, **FORMATS[format]}
        checkpoints(name, mesh, f"{folder}/{name}-{format}", dtype=dtype, **more)
    other_numbers_of_processes(mesh, f"{folder}/other")
    layouts_of_parts()
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
    run_processes(every_check, 2, str(tmp_path))
    assert all((tmp_path / f"passed_{rank}").exists() for rank in range(2))
