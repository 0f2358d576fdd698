"""What `dlkernels.torch.optim` remembers between steps must never be out of date: whatever is done
to parameters, gradients, states or groups in between, the next step is torch's."""

import gc
import threading
import weakref

import pytest
import torch

from dlkernels.torch.optim import SGD
from optim.problems import set_grads

SHAPES = [(64,), (), (1,), (0,), (3, 4), (2, 3, 4, 5), (20000,), (16,), (5, 7)]


def make(optimizer_class, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01} | options
    return optimizer_class(params, **options), params


def buffer_of(optimizer, param):
    return optimizer.state[param]["momentum_buffer"]


def first_buffer(optimizer, params):
    return optimizer.state[params[0]]["momentum_buffer"]


# --- what a user may do between two steps; each takes (optimizer, params)


def other_memory(optimizer, params):
    for param in params:
        param.data = param.data * 2


def other_strides(optimizer, params):
    params[4].data = params[4].data.t().contiguous().t()
    params[5].data = params[5].data.to(memory_format=torch.channels_last)


def other_dtype(optimizer, params):
    params[0].data = params[0].data.double()
    params[0].grad = params[0].grad.double()
    optimizer.state[params[0]].clear()


def other_shape(optimizer, params):
    params[7].data = params[7].data.view(4, 4)
    optimizer.state[params[7]].clear()


def transposed_in_place(optimizer, params):
    params[8].requires_grad_(False).t_().requires_grad_()
    optimizer.state[params[8]].clear()


def swapped(optimizer, params):
    params[0].grad = params[7].grad = None
    other = torch.nn.Parameter(torch.full((16,), 3.0))
    params[7].data, other.data = other.data, params[7].data


def other_buffer(optimizer, params):
    optimizer.state[params[0]]["momentum_buffer"] = buffer_of(optimizer, params[0]) * 2


def other_memory_of_a_buffer(optimizer, params):
    buffer = buffer_of(optimizer, params[6])
    buffer.data = buffer.data * 2


def a_buffer_with_other_strides(optimizer, params):
    buffer = buffer_of(optimizer, params[4])
    buffer.set_(buffer.t().contiguous().t())


def no_buffer(optimizer, params):
    del optimizer.state[params[0]]["momentum_buffer"]
    optimizer.state[params[1]]["momentum_buffer"] = None


def no_state(optimizer, params):
    optimizer.state.clear()


def other_state(optimizer, params):
    optimizer.state[params[0]] = {"momentum_buffer": torch.ones(64)}


def reloaded(optimizer, params):
    optimizer.load_state_dict(optimizer.state_dict())


def other_options(optimizer, params):
    optimizer.param_groups[0].update(lr=0.2, momentum=0.5, weight_decay=0.0, maximize=True)


def no_momentum(optimizer, params):
    optimizer.param_groups[0]["momentum"] = 0.0


def another_group(optimizer, params):
    params.append(torch.nn.Parameter(torch.ones(33)))
    optimizer.add_param_group({"params": [params[-1]], "lr": 0.3, "momentum": 0.0})


def fewer_parameters(optimizer, params):
    del optimizer.param_groups[0]["params"][3:6]


def other_order(optimizer, params):
    optimizer.param_groups[0]["params"].reverse()


DISTURBANCES = [
    other_memory, other_strides, other_dtype, other_shape, transposed_in_place, swapped,
    other_buffer, other_memory_of_a_buffer, a_buffer_with_other_strides, no_buffer, no_state,
    other_state, reloaded, other_options, no_momentum, another_group, fewer_parameters, other_order,
]  # fmt: skip


@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda f: f.__name__)
def test_the_next_step_is_torchs_whatever_was_done(disturb):
    results = []
    for optimizer_class in (SGD, torch.optim.SGD):
        options = {} if optimizer_class is SGD else {"foreach": False}
        optimizer, params = make(optimizer_class, **options)
        for step in range(3):
            set_grads(params, step)
            optimizer.step()
        disturb(optimizer, params)
        for step in range(3, 6):
            set_grads(params, step)
            optimizer.step()
        buffers = [
            optimizer.state.get(param, {}).get("momentum_buffer", torch.zeros(()))
            for param in params
        ]
        results.append([param.detach() for param in params] + buffers)
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype is theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradients_that_come_and_go(momentum):
    results = []
    for optimizer_class in (SGD, torch.optim.SGD):
        options = {} if optimizer_class is SGD else {"foreach": False}
        optimizer, params = make(optimizer_class, momentum=momentum, **options)
        for step in range(8):
            set_grads(params, step)
            for i, param in enumerate(params):
                if (step * 5 + i) % 3 == 0 or (i == 6 and step < 4):
                    param.grad = None
            optimizer.step()
        results.append([param.detach() for param in params])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_only_the_first_step_starts_from_nothing(momentum, monkeypatch):
    optimizer, params = make(SGD, momentum=momentum)
    set_grads(params, 0)
    optimizer.step()
    monkeypatch.setattr(SGD, "_step_anew", lambda self: pytest.fail("the table was not used"))
    for step in range(1, 4):
        optimizer.zero_grad()
        set_grads(params, step)
        before = [param.detach().clone() for param in params]
        optimizer.step()
        for old, param in zip(before, params, strict=True):
            assert not param.numel() or not torch.equal(old, param)


def test_a_gradient_of_another_shape_is_refused_and_nothing_is_written():
    optimizer, params = make(SGD)
    for step in range(3):
        set_grads(params, step)
        optimizer.step()
    params[8].data = params[8].data.t().contiguous()  # its gradient is that of the old shape
    before = [param.detach().clone() for param in params]
    with pytest.raises(ValueError, match=r"grads\[8\]: expected shape \(7, 5\), got \(5, 7\)"):
        optimizer.step()
    for old, param in zip(before, params, strict=True):
        assert torch.equal(old, param)


@pytest.mark.parametrize("size", [64, 2_000_000])
def test_gradients_and_parameters_are_not_kept_alive(size):
    param = torch.nn.Parameter(torch.randn(size))
    optimizer = SGD([param], lr=0.1, momentum=0.9)
    for _ in range(3):
        param.grad = torch.randn(size)
        optimizer.step()
    grad = weakref.ref(param.grad.untyped_storage())
    storage = weakref.ref(param.untyped_storage())
    data_of_grad = param.grad
    optimizer.zero_grad()
    assert torch._C._storage_Use_Count(data_of_grad.untyped_storage()._cdata) == 2
    del data_of_grad
    del param, optimizer
    gc.collect()
    assert grad() is None
    assert storage() is None


def test_versions_are_counted_for_parameters_and_buffers():
    optimizer, params = make(SGD)
    for step in range(4):
        set_grads(params, step)
        params[2].grad = None
        versions = [param._version for param in params]
        buffer_version = first_buffer(optimizer, params)._version if step else 0
        optimizer.step()
        for i, (param, version) in enumerate(zip(params, versions, strict=True)):
            assert (param._version > version) is (i != 2)
        assert not step or first_buffer(optimizer, params)._version > buffer_version
    loss = (params[0] * params[0]).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_tensors():
    with torch.inference_mode():
        param = torch.ones(100)
        param.grad = torch.ones(100)
        optimizer = SGD([param], lr=0.5)
        for _ in range(3):
            optimizer.step()
    assert (param == -0.5).all()
    optimizer.step()
    assert (param == -1.0).all()


def test_gradients_dropped_by_another_thread_meanwhile():
    """A large step lets other threads run: the memory it reads must be its own to the end."""
    size = 4_000_000
    param = torch.nn.Parameter(torch.zeros(size))
    optimizer = SGD([param], lr=1.0, momentum=0.0)
    stop = threading.Event()

    def drop():
        while not stop.is_set():
            param.grad = None
            torch.full((size,), 7.0)

    param.grad = torch.ones(size)
    optimizer.step()
    thread = threading.Thread(target=drop)
    thread.start()
    for _ in range(30):
        param.grad = torch.ones(size)
        optimizer.step()
    stop.set()
    thread.join()
    assert (param == param[0]).all()
    assert param[0] == param[0].round()
