"""``python -m dlkernels [--json]``: what runs here, and why. Made for bug reports."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
from pathlib import Path

from . import __version__, _core

_OPENMP_LIBRARY = re.compile(r"lib(gomp|omp|iomp5)\b[^/]*\.so[^/]*$")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _loaded_openmp_libraries() -> list[str]:
    """The OpenMP libraries this process has mapped; more than one is worth a look."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    # Address, permissions, offset, device, inode, path: the path may have spaces in it.
    paths = {fields[5] for line in lines if len(fields := line.split(None, 5)) == 6}
    return sorted(path for path in paths if _OPENMP_LIBRARY.search(path))


def _torch_openmp_library() -> str | None:
    """The libgomp inside torch, which is found without importing torch."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = os.path.join(folder, "lib", "libgomp.so.1")
        if os.path.exists(path):
            return path
    return None


def report() -> dict[str, object]:
    """Everything there is to say, ready for JSON."""
    build = _core.build_info()
    return {
        "dlkernels": __version__,
        "compiler": build["compiler"],
        "build": build,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "isa_active": _core.active_isa(),
        "isa_reason": _core.isa_reason(),
        "isa_compiled": _core.compiled_isas(),
        "isa_supported": _core.supported_isas(),
        "openmp_loaded": _loaded_openmp_libraries(),
        "threads": _core.thread_count(),
        "threads_limit": _core.num_threads_limit(),
        "cpus": len(os.sched_getaffinity(0)),
        "forked_child": _core.in_forked_child(),
        "pool_limit_bytes": _core.memory_stats()["limit_bytes"],
        "last_level_cache_bytes": _core.last_level_cache_bytes(),
        "numpy": _version("numpy"),
        "ml_dtypes": _version("ml_dtypes"),
        "torch": _version("torch"),
        "torch_openmp": _torch_openmp_library(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("DLKERNELS_", "OMP_", "GOMP_", "KMP_", "MALLOC_"))
        },
    }


def _size_text(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _text(found: dict[str, object]) -> str:
    pool, cache = found["pool_limit_bytes"], found["last_level_cache_bytes"]
    loaded, environment = found["openmp_loaded"], found["environment"]
    compiled, supported = found["isa_compiled"], found["isa_supported"]
    assert isinstance(pool, int)
    assert isinstance(cache, int)
    assert isinstance(loaded, list)
    assert isinstance(environment, dict)
    assert isinstance(compiled, list)
    assert isinstance(supported, list)
    limit = found["threads_limit"] or "none"
    rows = [
        ("dlkernels", f"{found['dlkernels']}, built with {found['compiler']}"),
        ("Python", f"{found['python']} on {found['machine']}"),
        ("instruction set", f"{found['isa_active']} ({found['isa_reason']})"),
        ("  compiled in", ", ".join(compiled)),
        ("  supported here", ", ".join(supported)),
        ("OpenMP in use", ", ".join(loaded) or "unknown"),
        ("threads", f"{found['threads']} (limit: {limit}; processors: {found['cpus']})"),
        ("pool limit", _size_text(pool)),
        ("last-level cache", _size_text(cache)),
        ("NumPy", str(found["numpy"])),
        ("ml_dtypes", str(found["ml_dtypes"] or "not installed")),
        ("torch", str(found["torch"] or "not installed")),
        ("  its OpenMP", str(found["torch_openmp"] or "none")),
    ]
    rows += [(f"${name}", value) for name, value in environment.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def main(arguments: list[str] | None = None) -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(prog="python -m dlkernels", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    found = report()
    print(json.dumps(found, indent=2) if parser.parse_args(arguments).json else _text(found))


if __name__ == "__main__":
    main()
