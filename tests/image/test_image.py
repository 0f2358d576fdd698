"""Image normalization, from NumPy and from torch: against plain NumPy and torchvision's steps."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import dlkernels
from dlkernels import image
from dlkernels.torch import image as torch_image
from support import (
    DTYPES,
    FMA_ISAS,
    ISAS,
    Foreign,
    assert_same_bits,
    bits,
    eps,
    guarded,
    isa_level,
    run_in_fork,
    run_python_json,
    shifted,
    ulp,
)

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LAYOUTS = ("HWC", "CHW")
DIRECTIONS = list(itertools.product(LAYOUTS, LAYOUTS))
#: rows x columns around vectors, blocks and lines.
SIZES = ((1, 1), (1, 15), (3, 16), (5, 17), (7, 33), (2, 513), (40, 224))


def picture(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    return rng.standard_normal(shape).astype(DTYPES[dtype])


def statistics(channels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(channels)
    return rng.uniform(0.3, 0.6, channels), rng.uniform(0.2, 0.3, channels)


def to_layout(x: np.ndarray, layout: str) -> np.ndarray:
    """Of an image with channels last."""
    return x if layout == "HWC" else np.ascontiguousarray(np.moveaxis(x, -1, -3))


def from_layout(x: np.ndarray, layout: str) -> np.ndarray:
    return x if layout == "HWC" else np.moveaxis(x, -3, -1)


def assert_normalized(
    y: np.ndarray, x: np.ndarray, mean: Any, std: Any, scale: float, label: str, isa: str
) -> None:
    """`y` is what x (both with channels last) becomes, within the bound the kernel states: more
    where there is no fused multiply-add."""
    name = y.dtype.name
    wide = np.longdouble if name == "float64" else np.float64
    scaled = x.astype(wide) * wide(scale)
    exact = (scaled - wide(1) * np.asarray(mean)) / np.asarray(std)
    sizes = np.abs(scaled / np.asarray(std)) + np.abs(np.asarray(mean) / np.asarray(std))
    bound = 1.0 if isa in FMA_ISAS else 1.5
    allowed = bound * eps("float64" if name == "float64" else "float32") * sizes
    if name in ("bfloat16", "float16"):
        allowed = allowed + 0.5 * ulp(np.abs(exact) + allowed, name)
    error = np.abs(y.astype(wide) - exact)
    assert (error <= allowed).all(), (label, float((error / allowed).max()))


# --- normalize


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16, 17, 300])
@pytest.mark.parametrize("dtype", ["uint8", *DTYPES])
def test_normalize(dtype: str, channels: int, isa: str) -> None:
    mean, std = statistics(channels)
    for size in SIZES if channels <= 5 else SIZES[:5:2]:
        x = picture((2, *size, channels), dtype)
        scale = 1 / 255 if dtype == "uint8" else 1.0
        for layout, out_layout in DIRECTIONS:
            for out_dtype in DTYPES if channels in (3, 17) else ("float32",):
                y = image.normalize(
                    to_layout(x, layout),
                    mean,
                    std,
                    layout=layout,
                    out_layout=out_layout,
                    dtype=out_dtype,
                )
                label = f"{dtype} {out_dtype} {size} {layout} {out_layout}"
                assert y.dtype == DTYPES[out_dtype]
                assert y.flags.c_contiguous
                y = from_layout(y, out_layout)
                assert y.shape == x.shape
                assert_normalized(y, x, mean, std, scale, label, isa)


def test_never_less_accurate_than_the_steps_of_torchvision() -> None:
    """to_dtype(scale=True), then normalize: three roundings of each element."""
    x = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    exact = (x / 255 - np.array(MEAN)) / np.array(STD)
    ours = image.normalize(x, MEAN, STD, out_layout="HWC")
    wide = torch.from_numpy(x).float() / 255
    theirs = ((wide - torch.tensor(MEAN)) / torch.tensor(STD)).numpy()
    assert np.abs(ours - exact).max() <= np.abs(theirs - exact).max()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_one_image_is_a_batch_of_one(dtype: str) -> None:
    x = picture((1, 20, 30, 3), dtype)
    for layout, out_layout in DIRECTIONS:
        batch = to_layout(x, layout)
        keywords: Any = {"layout": layout, "out_layout": out_layout}
        assert_same_bits(
            image.normalize(batch[0], MEAN, STD, **keywords),
            image.normalize(batch, MEAN, STD, **keywords)[0],
        )


def test_scale_and_numbers_for_all_channels() -> None:
    x = picture((4, 5, 3))
    y = image.normalize(x, 0.5, 0.25, scale=1 / 128, out_layout="HWC")
    np.testing.assert_allclose(y, (x / 128 - 0.5) / 0.25, atol=1e-6)
    assert image.normalize(x, 0, 1, scale=1, out_layout="HWC").tolist() == x.tolist()
    values = picture((4, 5, 3), "float32")
    np.testing.assert_allclose(
        image.normalize(values, 1, -2, scale=3, out_layout="HWC"), (values * 3 - 1) / -2, rtol=1e-5
    )
    for mean in (MEAN, tuple(MEAN), np.array(MEAN), np.array(MEAN, np.float16), torch.tensor(MEAN)):
        np.testing.assert_allclose(
            image.normalize(x, mean, STD), image.normalize(x, MEAN, STD), atol=2e-2
        )


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "crop": lambda x: np.pad(x, [(2, 3)] * x.ndim)[tuple(slice(2, -3) for _ in x.shape)],
    "flip": lambda x: np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :],
    "upside down": lambda x: np.ascontiguousarray(x[..., ::-1, :, :])[..., ::-1, :, :],
    "every other": lambda x: np.repeat(np.repeat(x, 2, -1), 2, -2)[..., ::2, ::2],
    "Fortran order": np.asfortranarray,
    "transposed": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, -3)), -3, -1),
    "unaligned": lambda x: shifted(x, 3),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_strides(view: str, dtype: str, isa: str) -> None:
    """Of the input and of `out`; a crop is read where it lies."""
    for layout, out_layout in DIRECTIONS:
        x = picture((2, 9, 21, 3) if layout == "HWC" else (2, 3, 9, 21), dtype)
        keywords: Any = {"layout": layout, "out_layout": out_layout}
        expected = image.normalize(x, MEAN, STD, **keywords)
        assert_same_bits(image.normalize(VIEWS[view](x), MEAN, STD, **keywords), expected)
        out = VIEWS[view](np.full(expected.shape, 77, np.float32))
        assert image.normalize(x, MEAN, STD, out=out, **keywords) is out
        assert_same_bits(out, expected)


def test_broadcast_channels(isa: str) -> None:
    """A gray picture as three channels, without a copy."""
    gray = picture((9, 21))
    for layout, spread in (
        ("CHW", np.broadcast_to(gray, (3, 9, 21))),
        ("HWC", np.broadcast_to(gray[..., None], (9, 21, 3))),
    ):
        for out_layout in LAYOUTS:
            y = image.normalize(spread, MEAN, STD, layout=layout, out_layout=out_layout)
            expected = image.normalize(
                spread.copy(), MEAN, STD, layout=layout, out_layout=out_layout
            )
            assert_same_bits(y, expected)


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_threads_and_levels(dtype: str) -> None:
    x = picture((3, 97, 301, 3), dtype)
    for layout, out_layout in DIRECTIONS:
        results = []
        for level in ISAS[1:] or ISAS:
            for threads in (1, 2, 7):
                with isa_level(level), dlkernels.num_threads(threads):
                    results.append(
                        image.normalize(
                            to_layout(x, layout), MEAN, STD, layout=layout, out_layout=out_layout
                        )
                    )
        for result in results[1:]:
            assert_same_bits(result, results[0], f"{layout} {out_layout}")


def test_nothing_outside_is_touched(isa: str) -> None:
    def run(note: Callable[[str], None]) -> None:
        for size, dtype, channels in itertools.product(SIZES[:5], ("uint8", "float16"), (1, 3, 4)):
            for (layout, out_layout), edge in itertools.product(DIRECTIONS, ("end", "start")):
                note(f"{size} {dtype} {channels} {layout} {out_layout} {edge}")
                x = to_layout(picture((*size, channels), dtype), layout)
                keywords: Any = {"layout": layout, "out_layout": out_layout}
                expected = image.normalize(x, 0.5, 0.3, dtype="float32", **keywords)
                out = guarded(np.zeros_like(expected), edge)
                image.normalize(guarded(x, edge), 0.5, 0.3, out=out, **keywords)
                assert_same_bits(out, expected)
                back = guarded(np.zeros(x.shape, np.uint8), edge)
                back_keywords: Any = {"layout": out_layout, "out_layout": layout}
                image.denormalize(out, 0.5, 0.3, out=back, **back_keywords)

    run_in_fork(run, timeout=120)


def test_stores_past_the_cache_write_the_same_bits() -> None:
    code = """
import itertools, json, zlib
import numpy as np
from dlkernels import image
from support import bits, shifted
sums = []
for shape, direction, offset, dtype in itertools.product(
    [(2, 9, 33, 3), (1, 40, 224, 3), (3, 7, 11, 4)],
    itertools.product(("HWC", "CHW"), repeat=2), (0, 1, 5), ("float32", "float16", "float64"),
):
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    keywords = {"layout": direction[0], "out_layout": direction[1], "dtype": dtype}
    x = x if direction[0] == "HWC" else np.moveaxis(x, -1, -3).copy()
    y = image.normalize(x, 0.5, 0.25, **keywords)
    out = shifted(np.zeros_like(y), offset)
    sums.append(zlib.crc32(bits(image.normalize(x, 0.5, 0.25, out=out, **keywords))))
print(json.dumps(sums))
"""
    plain = run_python_json(code, DLKERNELS_CACHE_BYTES="1G")
    assert run_python_json(code, DLKERNELS_CACHE_BYTES="1K") == plain


@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (2, 0, 5, 3), (2, 4, 0, 3)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.uint8)
    y = image.normalize(x, MEAN, STD)
    assert y.shape == (shape[0], 3, *shape[1:3])
    assert image.denormalize(y, MEAN, STD).shape == shape


def test_any_array() -> None:
    x = picture((4, 5, 3))
    result = image.normalize(Foreign(x), MEAN, STD)
    assert isinstance(result, Foreign)
    assert_same_bits(result.array, image.normalize(x, MEAN, STD))
    tensor = image.normalize(torch.from_numpy(x), MEAN, STD, dtype=torch.bfloat16)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype is torch.bfloat16
    assert_same_bits(image.normalize(x.tolist(), MEAN, STD), image.normalize(x / 1.0, MEAN, STD))


# --- denormalize


@pytest.mark.parametrize("dtype", DTYPES)
def test_denormalize_is_the_inverse(dtype: str, isa: str) -> None:
    """For half types the bytes come back within their rounding."""
    for channels in (1, 3, 4, 17):
        mean, std = statistics(channels)
        x = picture((2, 40, 33, channels))
        for layout, out_layout in DIRECTIONS:
            y = image.normalize(
                to_layout(x, layout),
                mean,
                std,
                layout=layout,
                out_layout=out_layout,
                dtype=dtype,
            )
            back = image.denormalize(y, mean, std, layout=out_layout, out_layout=layout)
            assert back.dtype == np.uint8
            distance = np.abs(from_layout(back, layout).astype(int) - x)
            assert distance.max() <= {"bfloat16": 2, "float16": 1}.get(dtype, 0)
            floating = image.denormalize(
                y, mean, std, layout=out_layout, out_layout=layout, dtype=dtype
            )
            assert floating.dtype == DTYPES[dtype]
            np.testing.assert_allclose(
                from_layout(floating, layout).astype(float), x / 255, atol=8 * eps(dtype)
            )


def test_bytes_are_clamped_and_rounded_to_even(isa: str) -> None:
    values = [-1e30, -np.inf, -0.6, 0.5, 1.5, 2.5, 254.5, 255.4, 256, 1e30, np.inf, np.nan]
    expected = [0, 0, 0, 0, 2, 2, 254, 255, 255, 255, 255, 0]
    for dtype, repeats in itertools.product(("float32", "float64"), (1, 5)):
        x = np.array(values * repeats, dtype).reshape(1, 1, -1)
        back = image.denormalize(x, 0, 1, scale=1)
        assert back.ravel().tolist() == expected * repeats


# --- refused


def test_what_is_refused() -> None:
    x = picture((4, 5, 3))
    good = np.full((3, 4, 5), 77, np.float32)
    locked = good.copy()
    locked.flags.writeable = False
    for keywords, error, message in [
        ({"std": [0.2, 0.0, 0.2]}, ValueError, "std: expected numbers other than 0, got 0"),
        ({"std": 0}, ValueError, "std: expected numbers other than 0"),
        ({"std": float("nan")}, ValueError, "std: expected finite numbers, got nan"),
        ({"mean": [0, 1]}, ValueError, "mean: expected one number or one for each of 3 channels"),
        ({"mean": [[0, 1, 2]]}, TypeError, "mean: expected a number, got list"),
        ({"mean": np.zeros((1, 3))}, ValueError, "mean: expected a number or one per channel"),
        ({"mean": "zero"}, TypeError, "mean: expected a number or one per channel, got str"),
        ({"mean": float("inf")}, ValueError, "mean: expected finite numbers"),
        ({"scale": 0}, ValueError, "scale: expected a finite number other than 0"),
        ({"layout": "NHWC"}, ValueError, "layout: expected 'HWC' or 'CHW', got 'NHWC'"),
        ({"out_layout": None}, ValueError, "out_layout: expected 'HWC' or 'CHW', got None"),
        ({"layout": "CHW"}, ValueError, "std: expected one number or one for each of 4 chan"),
        ({"dtype": "int32"}, TypeError, "dtype: expected float32, .* got int32"),
        ({"dtype": np.uint8}, TypeError, "dtype: expected a floating dtype, got uint8"),
        ({"x": x[0]}, ValueError, r"x: expected 3 dimensions .* or 4, got shape \(5, 3\)"),
        ({"x": x.astype(np.int32)}, TypeError, "x: expected uint8 or a floating dtype, got int32"),
        ({"x": x > 3}, TypeError, "x: expected uint8 or a floating dtype, got bool"),
        ({"x": np.zeros((1, 1, 5000))}, ValueError, "x: expected at most 4096 channels, got 5000"),
        ({"out": locked}, ValueError, "out: expected an array that can be written to"),
        ({"out": good[..., :-1]}, ValueError, r"out: expected shape \(3, 4, 5\), got"),
        ({"out": good, "dtype": "float64"}, TypeError, "out: expected dtype float64, got float32"),
        ({"out": good.astype(np.uint8)}, TypeError, "dtype: expected a floating dtype, got uint8"),
    ]:
        arguments = {"x": x, "mean": MEAN, "std": STD, **keywords}
        with pytest.raises(error, match=rf"^normalize: {message}"):
            image.normalize(**arguments)
    assert (good == 77).all()
    with pytest.raises(TypeError, match="denormalize: x: expected a floating dtype, got uint8"):
        image.denormalize(x, MEAN, STD, layout="HWC")


def test_in_place_where_each_element_keeps_its_place(isa: str) -> None:
    for layout in LAYOUTS:
        x = to_layout(picture((2, 30, 41, 3), "float32"), layout)
        expected = image.normalize(x, MEAN, STD, layout=layout, out_layout=layout)
        own = x.copy()
        keywords: Any = {"layout": layout, "out_layout": layout}
        assert image.normalize(own, MEAN, STD, out=own, **keywords) is own
        assert_same_bits(own, expected)
    room = picture((2 * 3 * 3 * 3,), "float32")
    x = room[:27].reshape(3, 3, 3)
    before = bits(room)
    with pytest.raises(ValueError, match="since the layout or dtype changes, got an overlap"):
        image.normalize(x, MEAN, STD, out=x)
    with pytest.raises(ValueError, match="partial overlap"):
        image.normalize(x, MEAN, STD, out=room[1:28].reshape(3, 3, 3))
    assert bits(room) == before


# --- torch


def torchvision_steps(x: torch.Tensor) -> torch.Tensor:
    """What torchvision.transforms.v2 does to a picture (H, W, C): to_image, to_dtype(float32,
    scale=True), normalize."""
    chw = x.movedim(-1, -3).to(torch.float32)
    if x.dtype is torch.uint8:
        chw = chw.div(255)
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (MEAN, STD))
    return chw.sub(mean).div_(std)


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 33, 17, 3)])
def test_torch_against_the_steps_of_torchvision(shape: tuple[int, ...]) -> None:
    x = torch.from_numpy(picture(shape))
    y = torch_image.normalize(x, MEAN, STD)
    torch.testing.assert_close(y, torchvision_steps(x), rtol=1e-6, atol=1e-6)
    assert y.is_contiguous()
    floats = torch.from_numpy(picture(shape, "float32"))
    torch.testing.assert_close(
        torch_image.normalize(floats, MEAN, STD), torchvision_steps(floats), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(torch_image.denormalize(y, MEAN, STD), x)
    out = torch.empty_like(y)
    assert torch_image.normalize(x, MEAN, STD, out=out) is out
    assert torch.equal(out, y)
    assert torch.equal(torch_image.normalize(x.flip(-2), MEAN, STD), y.flip(-1))


def test_torch_derivatives() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    keywords: Any = {"layout": "CHW", "out_layout": "HWC"}
    for function in (
        lambda x: torch_image.normalize(x, MEAN, STD, scale=0.3, **keywords),
        lambda x: torch_image.denormalize(x, MEAN, STD, dtype=torch.float64, scale=0.3),
    ):
        assert torch.autograd.gradcheck(function, x, check_batched_grad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, x, fast_mode=True)
    arguments = (MEAN, STD, 0.3, False, False, True, torch.float64)
    operator = torch.ops.dlkernels.image_normalize
    assert torch.autograd.gradcheck(lambda x: operator(x, *arguments), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: operator(x, *arguments), x, fast_mode=True)
    assert not torch_image.denormalize(x, MEAN, STD).requires_grad
    half = torch.randn(4, 5, 3).bfloat16().requires_grad_()
    (grad,) = torch.autograd.grad(torch_image.normalize(half, MEAN, STD).float().sum(), half)
    assert grad.dtype is torch.bfloat16
    with pytest.raises(RuntimeError, match=r"out=\.\.\. arguments don't support automatic diff"):
        torch_image.normalize(x, MEAN, STD, out=torch.empty(1), **keywords)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_operator() -> None:
    batch = torch.from_numpy(picture((2, 5, 7, 3)))
    operator = torch.ops.dlkernels.image_normalize
    for layout, out_layout in DIRECTIONS:
        x = batch if layout == "HWC" else batch.movedim(-1, 1)
        flags = (layout == "HWC", out_layout == "HWC")
        arguments = (MEAN, STD, 1 / 255, False, *flags, torch.float16)
        torch.library.opcheck(operator, (x if layout == out_layout else x[0], *arguments))
    torch._dynamo.reset()

    def step(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        y = torch_image.normalize(x, MEAN, STD) * scale
        return torch_image.denormalize(y, MEAN, STD, dtype=torch.float32).mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for function in (step, compiled):
        scale = torch.ones((), requires_grad=True)
        loss = function(batch, scale)
        (grad,) = torch.autograd.grad(loss, scale)
        torch.testing.assert_close(loss.item(), float(batch.float().mean() / 255))
        assert grad.item() != 0
    torch._dynamo.reset()


def test_torch_elsewhere() -> None:
    x = torch.from_numpy(picture((4, 5, 3)))
    assert torch_image.normalize(x.to("meta"), MEAN, STD).shape == (3, 4, 5)
    single = torch_image.normalize(x, MEAN, STD)
    inside = torch.func.vmap(lambda x: torch_image.normalize(x, MEAN, STD))(x[None])
    torch.testing.assert_close(inside[0], single, rtol=1e-5, atol=1e-6)
    negated = torch.complex(torch.randn(4, 5, 3), torch.randn(4, 5, 3)).conj().imag
    torch.testing.assert_close(
        torch_image.normalize(negated, MEAN, STD),
        torch_image.normalize(negated.resolve_neg(), MEAN, STD),
    )
    with pytest.raises(ValueError, match="normalize: std: expected numbers other than 0"):
        torch_image.normalize(x.to("meta"), MEAN, 0.0)
    with pytest.raises(TypeError, match="normalize: dtype: expected a floating dtype, got torch"):
        torch_image.normalize(x, MEAN, STD, dtype=torch.int32)
    with pytest.raises(TypeError, match="x: expected uint8 or a floating dtype"):
        torch_image.normalize(x.int(), MEAN, STD)


class Pictures(torch.utils.data.Dataset):
    """NumPy pictures, normalized where they are fetched."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        self.pictures = picture((9, 40, 50, 3))

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.pictures[index])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_transform_in_a_data_loader(workers: int, dtype: torch.dtype) -> None:
    """In forked workers, after this process has used its threads."""
    data = Pictures(torch_image.Normalize(MEAN, STD, dtype=dtype))
    expected = torch_image.normalize(torch.from_numpy(data.pictures), MEAN, STD, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
        loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=workers)
        batches = list(loader)
    assert torch.equal(torch.cat(batches), expected)


def test_transforms() -> None:
    x = picture((6, 7, 3))
    transform = torch_image.Normalize(MEAN, STD)
    expected = torchvision_steps(torch.from_numpy(x))
    locked = x.copy()
    locked.flags.writeable = False
    for value in (x, locked, torch.from_numpy(x), x.tolist()):
        value = np.asarray(value, np.uint8) if isinstance(value, list) else value
        torch.testing.assert_close(transform(value), expected, rtol=1e-6, atol=1e-6)
    for again in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert repr(again) == repr(transform)
        assert torch.equal(again(x), transform(x))
    assert repr(transform).startswith("Normalize(mean=[0.485, 0.456, 0.406], std=[0.229,")
    assert transform.state_dict() == {}
    both = torch.nn.Sequential(transform, torch_image.Denormalize(MEAN, STD))
    assert torch.equal(both(x), torch.from_numpy(x))
    gray = torch_image.Normalize(0.5, 0.25)
    assert gray(x[..., 0]).shape == (1, 6, 7)
    assert torch_image.Normalize(0.5, 0.25, layout="CHW")(x[..., 0]).shape == (1, 6, 7)
    assert gray(picture((6, 7, 1))).dtype is torch.float32
    halves = torch_image.Normalize(MEAN, STD, out_layout="HWC", dtype=torch.float16, scale=1)
    assert halves(x).dtype is torch.float16
    assert halves(x).shape == x.shape


@pytest.mark.parametrize("dtype", ["uint8", "float32", ">f4", "float16"])
def test_transforms_take_arrays_of_any_strides(dtype: str) -> None:
    """Backwards, cropped, between bytes, read-only, in another byte order: torch refuses them."""
    x = (picture((6, 7, 3)) / (1 if dtype == "uint8" else 255)).astype(dtype)
    between = np.zeros((6, 7, 3), [("pad", "u1"), ("value", dtype)])["value"]
    between[:] = x
    locked = x.copy()
    locked.flags.writeable = False
    transform = torch_image.Normalize(0.5, 0.25)
    for array in (x[..., ::-1], x[::-1, ::2], x.transpose(1, 0, 2), between, locked):
        kept = bits(array)
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        expected = transform(torch.from_numpy(native))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(transform(array), expected)
        assert bits(array) == kept


def test_transforms_take_pil_images() -> None:
    pillow = pytest.importorskip("PIL.Image")
    x = picture((6, 7, 3))
    transform = torch_image.Normalize(MEAN, STD)
    assert torch.equal(transform(pillow.fromarray(x)), transform(x))


def test_transforms_complain_when_they_are_made() -> None:
    for transform in (torch_image.Normalize, torch_image.Denormalize):
        with pytest.raises(ValueError, match="std: expected numbers other than 0"):
            transform(MEAN, [1.0, 0.0, 1.0])
        with pytest.raises(ValueError, match="expected one number or one for each of 3 channels"):
            transform(MEAN, [1.0, 1.0])
        with pytest.raises(ValueError, match="layout: expected 'HWC' or 'CHW', got 'NCHW'"):
            transform(MEAN, STD, out_layout="NCHW")
        with pytest.raises(TypeError, match="dtype: expected a floating dtype"):
            transform(MEAN, STD, dtype=torch.int64)
