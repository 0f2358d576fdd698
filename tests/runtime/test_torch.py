"""The torch front and the process: threads, OpenMP, forks, DLPack tensors."""

import os
import threading
import warnings

import numpy as np
import pytest
import torch

import dlkernels
from dlkernels import _core
from dlkernels.torch._route import is_plain
from dlkernels.torch.functional import cross_entropy, relu, relu_, softmax
from dlkernels.torch.optim import SGD
from support import run_in_fork, run_python, run_python_json


@pytest.fixture(autouse=True)
def _torch_threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def train_a_little(seed=0):
    """Every kernel of the torch front, on enough data for more than one thread."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, 1000, generator=generator).requires_grad_()
    target = torch.randint(0, 1000, (300,), generator=generator)
    optimizer = SGD([x], lr=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        loss = cross_entropy(relu(x), target) + softmax(x, 1).square().sum()
        loss.backward()
        optimizer.step()
    return x.detach()


# --- threads


def test_torch_set_num_threads_is_followed():
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert dlkernels.get_num_threads() == count
    torch.set_num_threads(3)
    with dlkernels.num_threads(2):
        assert dlkernels.get_num_threads() == 2
        assert torch.get_num_threads() == 3
    assert dlkernels.get_num_threads() == 3


def test_threads_do_not_change_a_bit_of_training():
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(train_a_little())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_eight_python_threads_through_autograd():
    expected = [train_a_little(seed) for seed in range(8)]
    results = [None] * 8
    start = threading.Barrier(8)

    def work(seed):
        start.wait()
        for _ in range(3):
            results[seed] = train_a_little(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    for result, right in zip(results, expected, strict=True):
        assert torch.equal(result, right)


# --- one OpenMP runtime

REPORT = """
import json, os, re
import numpy as np
with open("/proc/self/maps") as maps:
    paths = {line.split()[-1] for line in maps if re.search(r"lib[gi]?omp", line)}
torch.set_num_threads(1)
print(json.dumps({"paths": sorted(paths), "threads": dlkernels.get_num_threads()}))
"""

WORK = """
x = torch.randn(400, 1000, requires_grad=True)
torch.mm(x, x.t())
dlkernels.torch.functional.relu(x).sum().backward()
x.exp()
"""


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "imports",
    [
        "import torch, dlkernels.torch",
        "import dlkernels; import torch; import dlkernels.torch",
        "import numpy; import dlkernels; dlkernels.relu(numpy.ones(1 << 20)); "
        "import torch, dlkernels.torch",
    ],
    ids=["torch first", "dlkernels first", "dlkernels used first"],
)
def test_there_is_one_openmp_whichever_is_imported_first(imports):
    report = run_python_json(imports + WORK + REPORT)
    assert len(report["paths"]) == 1, report
    assert report["threads"] == 1


def test_the_compiler_is_not_imported():
    """torch._dynamo takes longer to import than all of the rest."""
    run_python("import sys, dlkernels.torch\nassert 'torch._dynamo' not in sys.modules")


def test_without_a_system_openmp_torchs_copy_is_taken():
    """The first look-up, by bare name, fails as it does where the system has no libgomp."""
    report = run_python_json(
        """
import ctypes
real = ctypes.CDLL
def without_the_systems(name, *args, **kwargs):
    if name == "libgomp.so.1":
        raise OSError("libgomp.so.1: cannot open shared object file")
    return real(name, *args, **kwargs)
ctypes.CDLL = without_the_systems
import dlkernels, sys
assert "torch" not in sys.modules
ctypes.CDLL = real
import torch, dlkernels.torch
"""
        + WORK
        + REPORT
    )
    (path,) = report["paths"]
    assert os.path.realpath(path).startswith(os.path.dirname(os.path.realpath(torch.__file__)))


# --- forks


@pytest.mark.parametrize("warm_up", ["ours", "torch's", "both"])
def test_os_fork_after_parallel_work(warm_up):
    """Our kernels enter no parallel region in the child, whatever torch's number of threads."""
    x = torch.randn(300, 1000)
    target = torch.arange(300)

    def train():
        """Nothing of torch's that would be parallel: its own regions do not survive a fork."""
        leaf = torch.from_numpy(x.numpy().copy()).requires_grad_()
        optimizer = SGD([leaf], lr=0.5, momentum=0.9)
        (leaf.grad,) = torch.autograd.grad(cross_entropy(relu(leaf), target), leaf)
        optimizer.step()
        (leaf.grad,) = torch.autograd.grad(softmax(leaf, 1), leaf, x)
        optimizer.step()
        return relu_(leaf.detach())

    torch.set_num_threads(1)
    expected = train()
    torch.set_num_threads(2)
    if warm_up != "ours":
        torch.randn(1 << 20).exp().sum()
        torch.randn(300, 1000).requires_grad_().exp().sum().backward()
    if warm_up != "torch's":
        train()

    def child(note):
        assert torch.get_num_threads() == 2
        assert dlkernels.get_num_threads() == 1
        note("train")
        result = train()
        note("compare")
        assert result.numpy().tobytes() == expected.numpy().tobytes()

    run_in_fork(child, timeout=120)


class Rows(torch.utils.data.Dataset):
    """Items made with our kernels, in the worker."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        x = torch.linspace(-1, 1, 300_000).reshape(300, 1000) + index
        loss = cross_entropy(relu(x), torch.arange(300) % 1000)
        return relu(x[0, :5]), loss


def test_forked_processes_and_dataloader_workers():
    """In a child interpreter, so that a hang is killed."""
    run_python(
        """
import multiprocessing, warnings
warnings.simplefilter("ignore")
import torch
from runtime.test_torch import Rows, train_a_little
expected = train_a_little()

def child(queue):
    torch.set_num_threads(1)
    queue.put(train_a_little().numpy().tobytes())

context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
children = [context.Process(target=child, args=(queue,)) for _ in range(2)]
for process in children:
    process.start()
results = [queue.get() for _ in children]
for process in children:
    process.join(120)
assert all(process.exitcode == 0 for process in children)
assert all(result == expected.numpy().tobytes() for result in results)

torch.randn(1 << 20).exp()
rows = Rows()
expected = [rows[i] for i in range(8)]
loader = torch.utils.data.DataLoader(
    rows, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=120)
for batch, (x, loss) in enumerate(loader):
    for i in range(2):
        assert torch.equal(x[i], expected[2 * batch + i][0])
        assert torch.equal(loss[i], expected[2 * batch + i][1])
train_a_little()
""",
        timeout=120,
    )


# --- tensors that came through DLPack


def test_our_results_are_ordinary_tensors():
    x = torch.randn(600, 1000)
    result = relu(x)
    assert type(result) is torch.Tensor
    assert result.is_contiguous()
    assert not result.is_inference()
    assert result._version == 0
    assert result.untyped_storage().nbytes() == result.numel() * 4
    assert torch.equal(result.clone(), torch.relu(x))
    assert result.view(-1)[10:20].storage_offset() == 10
    result.add_(1)
    assert result._version == 1
    assert torch.equal(result, torch.relu(x) + 1)
    assert np.shares_memory(result.numpy(), result[:3].numpy())
    copy = torch.empty(3)
    copy.set_(result.untyped_storage(), 0, (3,))
    assert copy.data_ptr() == result.data_ptr()
    result.requires_grad_().sum().backward()
    assert (result.grad == 1).all()


def test_a_result_grows_past_its_memory_as_torchs_do():
    result = relu(torch.ones(600, 1000))
    assert (result.resize_(700, 1000)[:600] == 1).all()
    assert (result.resize_(600, 500) == 1).all()


def test_memory_goes_back_to_the_pool_when_the_last_owner_is_dropped():
    x = torch.randn(600, 1000)
    dlkernels.empty_cache()
    before = _core.memory_stats()["in_use_bytes"]
    result = relu(x)
    view, array = result[5:], result.numpy()
    size = _core.memory_stats()["in_use_bytes"] - before
    assert size >= result.numel() * 4
    del result
    assert _core.memory_stats()["in_use_bytes"] == before + size
    del view
    assert (array >= 0).all()
    del array
    stats = _core.memory_stats()
    assert stats["in_use_bytes"] == before
    assert stats["idle_bytes"] >= size
    hits = stats["hits"]
    again = relu(x)
    assert _core.memory_stats()["hits"] == hits + 1
    assert torch.equal(again, torch.relu(x))


def test_results_cross_threads_and_move_to_shared_memory():
    result = relu(torch.randn(600, 1000))
    before = result.clone()
    seen = []
    thread = threading.Thread(target=lambda r=result: seen.append(r.clone()))
    thread.start()
    thread.join()
    assert torch.equal(seen[0], before)
    assert result.share_memory_().is_shared()
    assert torch.equal(result, before)


def test_unaligned_and_tiny_storages():
    """Tensors that start anywhere."""
    base = torch.randn(4100)
    for offset in range(1, 9):
        x = base[offset : offset + 4000]
        assert torch.equal(relu(x), torch.relu(x))
        rows = x.view(40, 100)
        target = torch.arange(40)
        torch.testing.assert_close(
            cross_entropy(rows, target), torch.nn.functional.cross_entropy(rows, target)
        )
    assert relu(torch.tensor(-1.0)).item() == 0.0


def test_jax_arrays():
    jax = pytest.importorskip("jax")
    x = jax.numpy.linspace(-1, 1, 12).reshape(3, 4)
    result = dlkernels.relu(x)
    assert isinstance(result, jax.Array)
    assert np.array_equal(np.asarray(result), np.maximum(np.asarray(x), 0))
    target = jax.numpy.asarray([0, 1, 2])
    expected = -jax.nn.log_softmax(x)[jax.numpy.arange(3), target].mean()
    assert float(dlkernels.cross_entropy(x, target)) == pytest.approx(float(expected), rel=1e-6)


def test_what_is_plain():
    """The quick look says no wherever torch has something around the call."""
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Function(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    class Subclass(torch.Tensor):
        pass

    x = torch.ones(3)
    assert is_plain(x)
    assert is_plain(torch.nn.Parameter(x))
    assert not is_plain(x.as_subclass(Subclass))
    assert not is_plain([1.0])
    assert not is_plain(None)
    for mode in (Function, Dispatch):
        with mode():
            assert not is_plain(x)
        assert is_plain(x)
    with torch.autograd.forward_ad.dual_level():
        assert not is_plain(x)
    for state in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with state:
            assert is_plain(x)
    with torch._subclasses.FakeTensorMode():
        assert not is_plain(x)

    seen = []

    def look(x):
        seen.append(is_plain(x))
        return x * 2

    torch.func.vmap(look)(torch.ones(2, 3))
    torch.func.grad(lambda x: look(x).sum())(x)
    torch.func.functionalize(look)(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(look, x, check_trace=False)
    assert seen == [False] * 4
    assert is_plain(x)
    other = []
    thread = threading.Thread(target=lambda: other.append(is_plain(x)))
    with Dispatch():
        thread.start()
        thread.join()
    assert other == [True]
