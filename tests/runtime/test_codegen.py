"""What the compiler made of the kernels: no level's code leaks into another's, and each uses the
vectors of its level. Looks at the object files that a build leaves under build/."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dlkernels import _core
from support import ROOT

LEVELS = pytest.mark.parametrize("level", _core.compiled_isas())
SOURCES = ROOT / "csrc" / "kernels"
#: Every kernel file, as "optim/rules/sgd".
KERNELS = sorted(
    path.relative_to(SOURCES).with_suffix("").as_posix() for path in SOURCES.glob("**/*.cpp")
)

pytestmark = [
    pytest.mark.skipif(
        shutil.which("nm") is None or shutil.which("objdump") is None,
        reason="needs nm and objdump (binutils)",
    )
]

#: What a kernel may need from outside its level: the compiler's memory functions, and those of the
#: runtime that share work out.
ALLOWED_OUTSIDE = re.compile(
    r"^(mem(cpy|set|move|cmp)|_GLOBAL_OFFSET_TABLE_|__stack_chk_fail|dlk::runtime::\w+\(.*)$"
)
LIBM = re.compile(
    r"^_?_?(exp|exp2|expm1|log|log2|log10|log1p|tanh|sinh|cosh|pow|erf|erfc|sqrt|fma|fmax|fmin|ldexp|frexp"
    r"|floor|ceil|round|rint|nearbyint|trunc|fabs|copysign)[fl]?(_finite)?$"
)


def _kernel_of(path: Path) -> str:
    return path.as_posix().split("csrc/kernels/")[1].split(".cpp.")[0]


def _objects(level: str) -> list[Path]:
    """The object files of the newest build, but for those whose source has moved since."""
    folders = (ROOT / "build").glob(f"**/CMakeFiles/dlk_{level}.dir")
    builds = [
        [path for path in sorted(folder.glob("**/*.o")) if _kernel_of(path) in KERNELS]
        for folder in folders
    ]
    builds = [objects for objects in builds if objects]
    if not builds:
        pytest.skip(f"no object files of dlk_{level} under build/: `make test` builds them there")
    return max(builds, key=lambda objects: max(path.stat().st_mtime for path in objects))


@functools.cache
def _symbols(path: Path) -> list[tuple[str, str]]:
    """(kind, name) of every symbol."""
    text = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout
    found = [re.match(r"[0-9a-f]* *(\w) (.*)", line) for line in text.splitlines()]
    return [(match[1], match[2]) for match in found if match]


@functools.cache
def _code(path: Path) -> str:
    return subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout


def _object_of(level: str, kernel: str) -> Path:
    (path,) = (path for path in _objects(level) if _kernel_of(path) == kernel)
    return path


@LEVELS
def test_every_kernel_is_compiled(level: str) -> None:
    assert sorted(map(_kernel_of, _objects(level))) == KERNELS


@LEVELS
def test_nothing_that_the_linker_could_merge(level: str) -> None:
    """An inline function of two levels under one name would be merged, perhaps into the copy that
    an older processor cannot run."""
    for path in _objects(level):
        for kind, name in _symbols(path):
            if kind in "VvWwuC":
                assert f"dlk::{level}::" in name, f"{path.name}: weak symbol {name}"
            if kind in "TDBR":
                assert f"dlk::{level}::" in name, f"{path.name}: global symbol {name}"


@LEVELS
def test_nothing_from_outside(level: str) -> None:
    """No exceptions, no C++ library, no mathematical functions: a kernel brings its own."""
    for path in _objects(level):
        for kind, name in _symbols(path):
            if kind != "U":
                continue
            assert not LIBM.match(name), f"{path.name} calls {name}"
            assert "__cxa" not in name, f"{path.name} needs {name}"
            assert "operator new" not in name, f"{path.name} allocates"
            assert ALLOWED_OUTSIDE.match(name) or f"dlk::{level}::" in name, f"{path.name}: {name}"


def test_the_pattern_for_libm_finds_it() -> None:
    for name in ("exp", "expf", "log", "logl", "tanh", "fmaf", "__expf_finite"):
        assert LIBM.match(name)
    for name in ("memcpy", "dlk::avx2::exp", "exponent"):
        assert not LIBM.match(name)


_VECTOR_KERNELS = (
    *("class_losses/cross_entropy", "class_losses/cross_entropy_planes", "class_losses/softmax"),
    *("activations/activation", "activations/activation_backward", "activations/prelu"),
    *("activations/gated", "activations/maxout", "dropout/dropout"),
    *("norm/batch_norm_planes", "norm/batch_norm_rows"),
    *("norm/batch_norm_backward_planes", "norm/batch_norm_backward_rows"),
    "optim/rules/sgd",
)


@LEVELS
@pytest.mark.parametrize("kernel", _VECTOR_KERNELS)
def test_vectors(level: str, kernel: str) -> None:
    """Each level's own registers, and no larger ones."""
    if level not in ("baseline", "avx2", "avx512") or "avx2" not in _core.compiled_isas():
        pytest.skip("not x86-64")
    code = _code(_object_of(level, kernel))
    zmm, ymm, xmm = (len(re.findall(rf"%{name}\d", code)) for name in ("zmm", "ymm", "xmm"))
    if level == "avx512":
        assert zmm > 100
        assert zmm > ymm
    elif level == "avx2":
        assert zmm == 0
        assert ymm > 100
    else:
        assert zmm == ymm == 0
        assert xmm > 100
    fused = re.findall(r"\bvfn?m(?:add|sub)\w+", code)
    if level == "baseline":
        assert not fused
    elif kernel not in (
        "activations/prelu",
        "activations/maxout",
    ):  # these only multiply, or do not
        assert len(fused) > 20


@LEVELS
def test_the_control_register_is_never_written(level: str) -> None:
    """Rounding mode and flush-to-zero belong to the process."""
    for path in _objects(level):
        assert not re.search(r"\bv?ldmxcsr\b", _code(path)), path.name


@LEVELS
def test_large_outputs_are_streamed(level: str) -> None:
    streaming = (
        *("class_losses/cross_entropy", "class_losses/softmax"),
        *("activations/activation", "activations/activation_backward", "activations/prelu"),
        *("activations/gated", "activations/maxout", "dropout/dropout", "image/image_affine"),
        *("norm/batch_norm_planes", "norm/batch_norm_rows"),
    )
    for kernel in streaming:
        code = _code(_object_of(level, kernel))
        assert re.search(r"\bv?movntp[sd]\b|\bv?movntdq\b", code), kernel
        assert "sfence" in code, kernel
