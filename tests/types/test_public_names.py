"""What Python's own tools say of every public name: `inspect`, `help`, `pickle` and `dir`."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pathlib
import pickle
import pydoc
import sys
from typing import Any

import numpy as np
import pytest

import dlkernels

torch = pytest.importorskip("torch")

import dlkernels.torch  # noqa: E402

#: The modules that users import from. A name belongs to the last of them that lists it.
FRONTS = (
    "dlkernels",
    "dlkernels.image",
    "dlkernels.optim",
    "dlkernels.torch",
    "dlkernels.torch.functional",
    "dlkernels.torch.image",
    "dlkernels.torch.nn",
    "dlkernels.torch.optim",
)

NAMES = {
    f"{front}.{name}": getattr(sys.modules[front], name)
    for front in FRONTS
    for name in sys.modules[front].__all__
    if not inspect.ismodule(getattr(sys.modules[front], name))
}
CALLABLES = {name: value for name, value in NAMES.items() if callable(value)}
CLASSES = {name: value for name, value in CALLABLES.items() if inspect.isclass(value)}


@pytest.mark.parametrize("front", FRONTS)
def test_dir_shows_public_names_only(front: str) -> None:
    module = importlib.import_module(front)
    assert len(set(module.__all__)) == len(module.__all__)
    shown = {name for name in dir(module) if not name.startswith("_")}
    assert shown == {name for name in module.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("name", CALLABLES)
def test_inspect_help_and_pickle(name: str) -> None:
    value = CALLABLES[name]

    front = value.__module__
    assert front in FRONTS
    assert value.__name__ in sys.modules[front].__all__
    assert getattr(sys.modules[front], value.__name__) is value
    assert value.__qualname__ == value.__name__

    # Python looks for a class's source in the file of its `__module__`: its methods have theirs.
    methods = [value]
    if inspect.isclass(value):
        methods = [value.__init__, value.step if "optim" in front else value.forward]
    for method in methods:
        assert "def " in inspect.getsource(method)

    signature = inspect.signature(value)
    assert not {"self", "args", "kwargs"} & set(signature.parameters) or name.endswith(".explain")
    unsaid = {p.name for p in signature.parameters.values() if p.annotation is p.empty}
    assert unsaid <= {"size_average", "reduce", "device", "dtype"}  # torch's own lack them too
    inspect.signature(methods[0], eval_str=True)  # annotations that can be evaluated

    text = pydoc.plain(pydoc.render_doc(value))
    assert f"{value.__name__}(" in text
    assert inspect.getdoc(value).splitlines()[0] in text

    assert pickle.loads(pickle.dumps(value)) is value
    assert copy.deepcopy(value) is value


#: What a module cannot be made without.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Threshold": (0.5, 2.0),
    "Maxout": (2,),
    "Normalize": ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2)),
    "Denormalize": ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2)),
}


def _instance(name: str) -> Any:
    kind = CLASSES[name]
    if name.startswith("dlkernels.optim."):
        numpy_optimizer = kind([np.ones(3, np.float32), np.ones((2, 2))], lr=0.25)
        numpy_optimizer.step([np.full(3, 0.5, np.float32), None])
        return numpy_optimizer
    if name.startswith("dlkernels.torch.optim."):
        parameters = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]
        optimizer = kind(parameters, lr=0.25)
        parameters[0].grad = torch.full((3,), 0.5)
        optimizer.step()
        return optimizer
    arguments = (3,) if "BatchNorm" in name else ARGUMENTS.get(kind.__name__, ())
    return kind(*arguments)


def _text(value: Any) -> str:
    return repr(value.state_dict()) if hasattr(value, "state_dict") else ""


@pytest.mark.parametrize("name", CLASSES)
def test_instances_are_pickled(name: str) -> None:
    value = _instance(name)
    for loaded in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
        assert type(loaded) is type(value)
        assert repr(loaded) == repr(value)
        assert _text(loaded) == _text(value)


def test_user_code_has_every_name() -> None:
    code = ast.parse((pathlib.Path(__file__).parent / "user_code.py").read_text())
    aliases = {
        alias.asname or alias.name: f"{getattr(node, 'module', '')}.{alias.name}".strip(".")
        for node in ast.walk(code)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    used = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            used.add(f"{aliases.get(first)}.{rest}")
    assert NAMES.keys() <= used


def test_everything_of_the_extension_is_documented() -> None:
    core = dlkernels._core
    for name, value in vars(core).items():
        if inspect.isroutine(value):
            text = inspect.getdoc(value)
            assert text, name
            # pybind11's own functions have the signature in the first line.
            assert value.__text_signature__ or text.startswith(f"{name}("), name
