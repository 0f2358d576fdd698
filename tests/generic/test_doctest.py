"""The examples in docstrings, and that every public function has one."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil

import pytest

import dlkernels

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(dlkernels.__path__, "dlkernels.", onerror=lambda name: None)
    if not module.name.startswith(("dlkernels.torch", "dlkernels._core"))
)
if importlib.util.find_spec("torch"):
    folder = next(iter(dlkernels.__path__)) + "/torch"
    MODULES += ["dlkernels.torch"]
    MODULES += [f"dlkernels.torch.{module.name}" for module in pkgutil.iter_modules([folder])]


@pytest.mark.parametrize("name", ["dlkernels", *MODULES])
def test_examples(name: str) -> None:
    result = doctest.testmod(
        importlib.import_module(name),
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert result.failed == 0


def test_everything_public_is_documented() -> None:
    for name in dlkernels.__all__:
        value = getattr(dlkernels, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert inspect.getdoc(value), name


def test_operations_have_examples() -> None:
    for module in (
        "activations",
        "class_losses",
        "dropout",
        "elementwise_losses",
        "image",
        "norm",
        "optim",
    ):
        for name in importlib.import_module(f"dlkernels.{module}").__all__:
            value = getattr(importlib.import_module(f"dlkernels.{module}"), name)
            if not name.endswith("softmax_backward"):
                assert ">>>" in inspect.getdoc(value), name
