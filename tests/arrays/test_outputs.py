"""What may be written to, who is notified of the write, and what results can do."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import dlkernels
import dlkernels.torch as dlt
from dlkernels import _core
from support import Foreign, bits, run_python

F = dlt.functional
as_strided = np.lib.stride_tricks.as_strided


# --- arrays that overlap themselves


def _overlaps(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether two elements have one offset, by looking at all."""
    offsets = [
        sum(i * s for i, s in zip(index, strides, strict=True))
        for index in itertools.product(*map(range, shape))
    ]
    return len(set(offsets)) < len(offsets)


def test_arrays_that_overlap_themselves_are_known(rng: np.random.Generator) -> None:
    """Exactly, for strides that are nested, and for those that are not and miss each other."""
    found = 0
    for _ in range(3000):
        ndim = int(rng.integers(1, 5))
        shape = tuple(int(n) for n in rng.integers(1, 5, ndim))
        strides = tuple(int(n) for n in rng.integers(-12, 13, ndim))
        expected = _overlaps(shape, strides)
        found += expected
        assert _core.overlaps_itself(shape, strides) == expected, (shape, strides)
    assert 500 < found < 2500
    assert not _core.overlaps_itself((0, 5), (0, 0))
    assert not _core.overlaps_itself((2, 3), (3, 2))  # 0 2 4 3 5 7
    assert _core.overlaps_itself((6, 5), (4, 4))


#: Strides of (6, 5), in elements.
SHARED = {"sliding window": (4, 1), "equal strides": (4, 4), "expanded": (0, 1)}


@pytest.mark.parametrize("strides", SHARED.values(), ids=SHARED)
def test_out_that_overlaps_itself_is_refused(strides: tuple[int, int]) -> None:
    room = np.full(40, 77, np.float32)
    out = as_strided(room, (6, 5), tuple(4 * s for s in strides))
    x = np.ones((6, 5), np.float32)
    for name, run in {
        "gelu": lambda: dlkernels.gelu(x, out=out),
        "softmax": lambda: dlkernels.softmax(x, out=out),
        "dropout": lambda: dlkernels.dropout(x, seed=1, out=out),
        "cross_entropy": lambda: dlkernels.cross_entropy_with_grad(x, np.zeros(6, int), out=out),
        "mse_loss": lambda: dlkernels.mse_loss_with_grad(x, x, out=out),
        "batch_norm": lambda: dlkernels.batch_norm(x, training=True, out=out),
        "SGD: params": lambda: dlkernels.optim.SGD([out], lr=1.0).step([x]),
    }.items():
        with pytest.raises(ValueError, match=rf"{name}.*overlaps itself"):
            run()
        assert (room == 77).all()
    with pytest.raises(ValueError, match="running_mean: expected each element in a place"):
        dlkernels.batch_norm(x, as_strided(room, (5,), (0,)), np.ones(5, "f4"), training=True)
    assert (room == 77).all()


IN_PLACE: dict[str, Callable[[torch.Tensor], Any]] = {
    "relu_": F.relu_,
    "elu_": F.elu_,
    "threshold_": lambda x: F.threshold_(x, 0.0, 1.0),
    "silu": lambda x: F.silu(x, inplace=True),
    "hardtanh": lambda x: F.hardtanh(x, inplace=True),
    "dropout": lambda x: F.dropout(x, 0.5, True, True),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, True, True),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.5, True, True, seed=1),
}


@pytest.mark.parametrize("strides", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_on_what_overlaps_itself_is_refused(name: str, strides: tuple[int, int]) -> None:
    """torch refuses strides of 0 alone; what it makes of a window depends on the threads."""
    room = torch.linspace(-1, 1, 40)
    kept = room.clone()
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        IN_PLACE[name](room.as_strided((6, 5), strides))
    assert torch.equal(room, kept)


def test_logits_that_overlap_themselves_are_not_overwritten() -> None:
    room = torch.randn(30, requires_grad=True)
    whole = room * 1.0
    logits = whole.as_strided((6, 5), (4, 1))
    kept = whole.detach().clone()
    with pytest.raises((RuntimeError, ValueError)):
        F.cross_entropy(logits, torch.zeros(6, dtype=torch.long), inplace=True).backward()
    assert torch.equal(whole, kept)


# --- what its library says


class Flagged(Foreign):
    """Versioned DLPack, with the flags that are wanted."""

    def __init__(self, array: np.ndarray, flags: int) -> None:
        super().__init__(array)
        self.flags = flags

    def __dlpack__(self, **keywords: Any) -> Any:
        capsule = self.array.__dlpack__(max_version=(1, 0))
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        address = pointer(capsule, b"dltensor_versioned")
        ctypes.c_uint64.from_address(address + 24).value = self.flags
        return capsule


needs_dlpack_1 = pytest.mark.skipif(
    int(np.__version__.split(".")[0]) < 2, reason="NumPy's DLPack has no version"
)


def _writes(make: Callable[[np.ndarray], Any]) -> list[Callable[[np.ndarray], Any]]:
    """Ways to write to what `make` makes of an array."""
    one = np.ones(3, np.float32)
    return [
        lambda p: dlkernels.gelu(one, out=make(p)),
        lambda p: dlkernels.softmax(one, out=make(p)),
        lambda p: dlkernels.optim.SGD([make(p)], lr=1.0).step([one]),
    ]


@needs_dlpack_1
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Flagged(p, 1), "got a read-only one"),
        (lambda p: Flagged(p, 2), "Flagged, which lends a copy of itself"),
        (lambda p: Foreign(p, old=True), "Foreign, which does not say that it can be"),
    ],
    ids=["read-only", "a copy", "without a version"],
)
def test_what_may_not_be_written_is_refused(make: Any, message: str) -> None:
    for write in _writes(make):
        p = np.zeros(3, np.float32)
        with pytest.raises(ValueError, match=message):
            write(p)
        assert not p.any()
    assert np.asarray(dlkernels.relu(make(np.ones(3, np.float32))).array).tolist() == [1, 1, 1]


@needs_dlpack_1
def test_what_its_library_lets_write_is_written() -> None:
    for write in _writes(lambda p: Flagged(p, 0)):
        p = np.zeros(3, np.float32)
        write(p)
        assert p.all()


def test_arrays_of_jax_are_never_written() -> None:
    jnp = pytest.importorskip("jax.numpy")
    p, one = jnp.zeros(3), jnp.ones(3)
    for write in (
        lambda: dlkernels.optim.SGD([p], lr=1.0),
        lambda: dlkernels.gelu(one, out=p),
        lambda: dlkernels.gelu(p, out=p),
        lambda: dlkernels.batch_norm(jnp.ones((4, 3)), p, jnp.zeros(3), training=True),
    ):
        with pytest.raises(ValueError, match="ArrayImpl, which does not say that it can be"):
            write()
        assert p.tolist() == [0, 0, 0]
    assert dlkernels.relu(one).tolist() == [1, 1, 1]
    assert type(dlkernels.softmax(one)) is type(one)


def test_a_malformed_device_is_reported() -> None:
    for device in (None, 1, (1,), (1, 2, 3), ("cpu", 0), (2**80, 0)):

        class Malformed(Foreign):
            def __dlpack_device__(self, device: Any = device) -> Any:
                return device

        message = r"^relu: input: expected an array, got .*Malformed, whose __dlpack_device__ gives"
        with pytest.raises(TypeError, match=message):
            dlkernels.relu(Malformed(np.ones(3, np.float32)))


# --- torch tensors in the NumPy front


def test_a_write_is_told_to_autograd() -> None:
    """A backward that needs what was there says so, rather than taking what is there now."""
    saved = torch.ones(3)
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * saved).sum()
    dlkernels.relu(torch.full((3,), 5.0), out=saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- results of torch can be resized


def _results() -> dict[str, torch.Tensor]:
    return {
        "small": F.relu(torch.randn(4, 5)),
        "large": F.gelu(torch.randn(600, 1000)),
        "empty": F.relu(torch.randn(0, 3)),
        "of the NumPy front": dlkernels.relu(torch.randn(7)),
        "loss": F.mse_loss(torch.randn(3), torch.randn(3)),
        "gradient": torch.autograd.grad(F.silu(x := torch.randn(3, requires_grad=True)).sum(), x)[
            0
        ],
    }


@pytest.mark.parametrize("name", list(_results()))
def test_results_are_resized_as_torchs_are(name: str) -> None:
    """FSDP frees storages with `resize_(0)`; `out=` takes other shapes."""
    result = _results()[name]
    expected = result.clone()
    storage = result.untyped_storage()
    assert storage.resizable()
    with pytest.warns(UserWarning, match="resize") if result.numel() else _nothing():
        torch.add(torch.ones(700, 1000), 1.0, out=result)
    assert result.shape == (700, 1000)
    assert (result == 2).all()

    result = _results()[name].copy_(expected)
    result.resize_(expected.numel() + 5)
    assert torch.equal(result[: expected.numel()], expected.reshape(-1))
    size = result.untyped_storage().nbytes()
    result.untyped_storage().resize_(0)
    assert result.untyped_storage().nbytes() == 0
    result.untyped_storage().resize_(size)
    assert result.fill_(3).sum() == 3 * result.numel()


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: Any) -> None: ...


def test_the_memory_of_a_resized_result_goes_back_to_the_pool() -> None:
    result = F.relu(torch.randn(2000, 1000))
    before = dlkernels.memory_stats()["in_use_bytes"]
    result.untyped_storage().resize_(0)
    assert dlkernels.memory_stats()["in_use_bytes"] < before


def test_results_before_the_torch_front_is_imported() -> None:
    code = """
import numpy, torch, dlkernels
y = dlkernels.relu(torch.ones(3))
y.resize_(400)
assert y[:3].tolist() == [1, 1, 1]
"""
    run_python(code)


def test_strides_survive(rng: np.random.Generator) -> None:
    """Nothing but the storage's flag differs from before: strides, versions, sharing."""
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    y = F.relu(x)
    assert y.stride() == x.stride()
    assert y._version == 0
    assert y.view(-1) is not y if y.is_contiguous() else True
    z = y.detach()
    y.mul_(2)
    assert z._version == y._version == 1
    assert bits(z.numpy()) == bits(y.numpy())
