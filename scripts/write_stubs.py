"""Writes the stubs of the modules that users import from, for type checkers and editors.

Most of what these modules offer is made when they are imported, from one row or record an
operation, and a checker sees nothing of it. So the stubs are written from the imported modules:
from the signatures, annotations and docstrings of their public names, not from their source.

    python scripts/write_stubs.py           writes them
    python scripts/write_stubs.py --check   compares them with those in the repository
"""

from __future__ import annotations

import argparse
import collections.abc
import difflib
import importlib
import inspect
import pathlib
import subprocess
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

FOLDER = pathlib.Path(__file__).parents[1] / "python"

#: The modules whose names are made; the other public ones (`image`) are written out and need none.
MODULES = (
    "dlkernels",
    "dlkernels.optim",
    "dlkernels.torch",
    "dlkernels.torch.functional",
    "dlkernels.torch.nn",
    "dlkernels.torch.optim",
)

#: Names under which annotations are written, and where a stub has them from.
IMPORTS = {
    "Any": "typing",
    "Callable": "collections.abc",
    "Iterable": "collections.abc",
    "Iterator": "collections.abc",
    "Literal": "typing",
    "ParamsT": "torch.optim.optimizer",
    "Self": "typing_extensions",
    "Sequence": "collections.abc",
    "Tensor": "torch",
    "contextmanager": "contextlib",
    "type_check_only": "typing",
}

#: What torch leaves without an annotation.
UNSAID = {
    "device": torch.device | str | int | None,
    "dtype": torch.dtype | None,
    "reduce": bool | None,
    "size_average": bool | None,
}


class Stub:
    """The text of one module's stub."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module
        #: What annotations mean here by names that are imported for checkers only, or `Any`.
        self.aliases: dict[str, Any] = {}
        if module.__name__.startswith("dlkernels.torch"):
            self.aliases = {"Array": torch.Tensor, "ParamsT": ParamsT, "Tensor": torch.Tensor}
        self.imports: set[str] = set()
        self.lines: list[str] = []
        self.written: dict[type, str] = {}

    def text(self) -> str:
        """The whole stub."""
        exported = {name: getattr(self.module, name) for name in sorted(self.module.__all__)}
        kinds = [value for value in exported.values() if inspect.isclass(value)]
        for name, value in exported.items():
            if inspect.ismodule(value):
                self.imports.add(f"from {self.module.__name__} import {name} as {name}")
            elif inspect.isclass(value):
                self.write_class(value, kinds)
            elif callable(value):
                self.lines += self.function(name, value)
            else:
                self.lines.append(f"{name}: {self.annotation(type(value))}")
        for name, annotation in inspect.get_annotations(self.module).items():
            if name not in exported and not name.startswith("_"):
                evaluated = self.evaluated(annotation, vars(self.module))
                self.lines.append(f"{name}: {self.annotation(evaluated)}")
        listed = ", ".join(repr(name) for name in exported)
        return "\n".join(
            [
                "# Written by scripts/write_stubs.py.",
                *sorted(self.imports),
                f"__all__ = [{listed}]",
                *self.lines,
            ]
        )

    # --- annotations

    def named(self, name: str) -> str:
        """A name of `IMPORTS`, imported."""
        self.imports.add(f"from {IMPORTS[name]} import {name}")
        return name

    def annotation(self, value: Any) -> str:
        """An annotation as source text."""
        if isinstance(value, str):  # could not be evaluated: names for type checkers only
            for name in IMPORTS:
                if name in value:
                    self.named(name)
            return value
        if value is None or value is type(None):
            return "None"
        if value is Ellipsis:
            return "..."
        if value is Any:
            return self.named("Any")
        if value == ParamsT:
            return self.named("ParamsT")
        origin, arguments = typing.get_origin(value), typing.get_args(value)
        if origin in (typing.Union, types.UnionType):
            # None last, as it is written by hand.
            ordered = sorted(arguments, key=lambda argument: argument is type(None))
            return " | ".join(map(self.annotation, ordered))
        if origin is typing.Literal:
            return f"{self.named('Literal')}[{', '.join(map(repr, arguments))}]"
        if origin is collections.abc.Callable:
            *taken, result = arguments
            listed = "..." if taken == [...] else f"[{', '.join(map(self.annotation, taken[0]))}]"
            return f"{self.named('Callable')}[{listed}, {self.annotation(result)}]"
        if origin is not None:
            listed = ", ".join(map(self.annotation, arguments))
            return f"{self.annotation(origin)}[{listed}]"
        return self.type_name(value)

    def evaluated(self, annotation: Any, namespace: dict[str, Any]) -> Any:
        """What an annotation stands for; the text itself where it names what only checkers see."""
        while isinstance(annotation, str):
            try:
                annotation = eval(annotation, namespace | self.aliases)
            except NameError:
                break
        return annotation

    def type_name(self, kind: type) -> str:
        """The name of a class, imported from where users have it."""
        name = kind.__name__
        if kind.__module__ == "builtins":
            return name
        if kind is torch.Tensor or IMPORTS.get(name) == kind.__module__:
            return self.named(name)
        for public in (torch, torch.nn, torch.optim):
            if getattr(public, name, None) is kind:
                self.imports.add("import torch")
                return f"{public.__name__}.{name}"
        self.imports.add(f"from {kind.__module__} import {name}")
        return name

    # --- functions

    def function(self, name: str, value: Any) -> list[str]:
        """A function or a method."""
        lines = []
        if isinstance(value, property):
            lines.append("@property")
            value = value.fget
        if isinstance(value, classmethod | staticmethod):
            lines.append(f"@{type(value).__name__}")
            value = value.__func__
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None and inspect.isgeneratorfunction(wrapped):
            lines.append(f"@{self.named('contextmanager')}")
        signature = inspect.signature(value)
        namespace = getattr(inspect.unwrap(value), "__globals__", {})
        lines.append(self.head(name, signature, namespace) + self.body(value))
        return lines

    def head(self, name: str, signature: inspect.Signature, namespace: dict[str, Any]) -> str:
        """The line with `def`."""
        parameters = []
        before = None
        for parameter in signature.parameters.values():
            kind = parameter.kind
            if kind is kind.KEYWORD_ONLY and before not in (kind.KEYWORD_ONLY, kind.VAR_POSITIONAL):
                parameters.append("*")
            stars = {kind.VAR_POSITIONAL: "*", kind.VAR_KEYWORD: "**"}.get(kind, "")
            parameters.append(stars + self.parameter(parameter, namespace))
            before = kind
        returned = signature.return_annotation
        if returned is inspect.Signature.empty:
            raise TypeError(f"{self.module.__name__}.{name}: has no annotation of its result")
        result = self.annotation(self.evaluated(returned, namespace))
        return f"def {name}({', '.join(parameters)}) -> {result}:"

    def parameter(self, parameter: inspect.Parameter, namespace: dict[str, Any]) -> str:
        """One parameter."""
        name, annotation = parameter.name, parameter.annotation
        if annotation is parameter.empty:
            if name in ("self", "cls"):
                return name
            annotation = UNSAID[name]
        text = f"{name}: {self.annotation(self.evaluated(annotation, namespace))}"
        if parameter.default is parameter.empty:
            return text
        default = parameter.default
        plain = (bool, int, float, str, tuple, type(None))
        return f"{text} = {default!r}" if isinstance(default, plain) else f"{text} = ..."

    def body(self, value: Any) -> str:
        """The first paragraph of the docstring."""
        return f"\n{_docstring(value)}" if _docstring(value) else " ..."

    # --- classes

    def write_class(self, kind: type, public: list[type]) -> str:
        """Writes a class, the private ones it shares with others before it, and returns its
        name."""
        if kind in self.written:
            return self.written[kind]
        is_public = kind in public
        # Private classes between this one and those that are written: their members become its own.
        merged: list[type] = []
        bases = [base for base in kind.__bases__ if base is not object]
        while any(self.is_merged(base, public) for base in bases):
            place = next(i for i, base in enumerate(bases) if self.is_merged(base, public))
            merged.append(bases[place])
            above = [base for base in bases[place].__bases__ if base is not object]
            bases[place : place + 1] = [base for base in above if base not in bases]
        bases = [
            base for base in bases if not any(b is not base and issubclass(b, base) for b in bases)
        ]
        names = [self.base_name(base, public) for base in bases]
        name = self.written[kind] = kind.__name__ if is_public else f"_{kind.__name__.lstrip('_')}"
        if not is_public and not hasattr(self.module, name):
            self.lines.append(f"@{self.named('type_check_only')}")
        listed = f"({', '.join(names)})" if names else ""
        body = [_docstring(kind)] if _docstring(kind) else []
        user = next(one for one in public if issubclass(one, kind))
        for line in self.members(user, kind, [kind, *merged], is_public):
            body.append("\n".join(f"    {part}" for part in line.split("\n")))
        self.lines += [f"class {name}{listed}:", *(body or ["    ..."])]
        return name

    def is_merged(self, base: type, public: list[type]) -> bool:
        """Whether a base is private, and either another private class derives from it for the same
        public ones, or there is but one public one, or none that has a member from it."""

        def users(kind: type) -> list[type]:
            return [one for one in public if kind in one.__mro__]

        if not base.__module__.startswith("dlkernels.") or base in public:
            return False
        own = users(base)
        below = [k for k in own[0].__mro__ if issubclass(k, base) and k is not base]
        return (
            len(own) == 1
            or any(users(kind) == own for kind in below if kind not in public)
            or not any(
                not name.startswith("_") and inspect.getattr_static(kind, name) is value
                for name, value in vars(base).items()
                for kind in own
            )
        )

    def base_name(self, base: type, public: list[type]) -> str:
        """A base class's name."""
        if base.__module__.startswith("dlkernels."):
            return self.write_class(base, public)
        return self.type_name(base)

    def members(self, user: type, kind: type, owners: list[type], is_public: bool) -> Iterator[str]:
        """The attributes and methods of a class that are in these owners' bodies.

        Args:
            user: A public class that is or has them.
            kind: The class.
            owners: It, and those that become part of it.
            is_public: Whether it is public itself.
        """
        signature = inspect.signature(user)
        namespace = _namespace(kind)
        attributes: set[str] = set()
        for owner in owners:
            own = {n: v for n, v in vars(owner).items() if inspect.getattr_static(kind, n) is v}
            annotated = inspect.get_annotations(owner)
            code = getattr(own.get("__init__"), "__code__", None)
            for name, parameter in signature.parameters.items():
                is_stored = code is not None and name in code.co_names
                if is_stored or hasattr(type(own.get(name)), "__set__"):
                    annotated.setdefault(name, parameter.annotation)
            for name, annotation in annotated.items():
                if not (name.startswith("_") or name in attributes or _is_torchs(kind, name)):
                    attributes.add(name)
                    yield f"{name}: {self.annotation(self.evaluated(annotation, namespace))}"
            if owner is kind and is_public:
                myself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
                others = [p for p in signature.parameters.values() if p.name != "self"]
                whole = signature.replace(parameters=[myself, *others], return_annotation=None)
                yield self.head("__init__", whole, namespace) + " ..."
            for name, value in own.items():
                if name.startswith("_") or not isinstance(value, _METHODS):
                    continue
                if not (isinstance(value, property) and _is_torchs(kind, name)):
                    yield "\n".join(self.function(name, value))


_METHODS = (types.FunctionType, property, classmethod, staticmethod)


def _is_torchs(kind: type, name: str) -> bool:
    """Whether torch says of a class above what attribute this is."""
    return any(
        name in inspect.get_annotations(base)
        for base in kind.__mro__
        if base.__module__.startswith("torch.")
    )


def _namespace(kind: type) -> dict[str, Any]:
    """Where annotations of a class, its constructor and those above are evaluated."""
    namespace: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        namespace |= vars(sys.modules[base.__module__])
        namespace |= getattr(vars(base).get("__init__"), "__globals__", {})
    return namespace


def _docstring(value: Any) -> str:
    """The first paragraph of a docstring, quoted and indented."""
    summary = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\\", "\\\\")
    if not summary:
        return ""
    if max(map(len, summary.split("\n"))) > 86:  # room for quotes and indent
        summary = textwrap.fill(summary, 86)
    return textwrap.indent(f'"""{summary}"""', "    ")


def stub_of(name: str) -> tuple[pathlib.Path, str]:
    """A module's stub: where it lies, and its text."""
    module = importlib.import_module(name)
    path = FOLDER.joinpath(*name.split("."))
    path = path / "__init__.pyi" if hasattr(module, "__path__") else path.with_suffix(".pyi")
    text = Stub(module).text()
    command = [sys.executable, "-m", "ruff"]
    for step in (["check", "--quiet", "--select=I,RUF022", "--fix"], ["format", "--quiet"]):
        text = subprocess.run(
            [*command, *step, f"--stdin-filename={path}", "-"],
            input=text, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    return path, text


def main() -> None:
    """Writes or compares every stub."""
    parser = argparse.ArgumentParser(description="Stubs of what is made when it is imported.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    stale = False
    for name in MODULES:
        path, text = stub_of(name)
        before = path.read_text() if path.exists() else ""
        if not arguments.check:
            path.write_text(text)
        elif text != before:
            stale = True
            shown = path.relative_to(FOLDER)
            sys.stdout.writelines(
                difflib.unified_diff(
                    before.splitlines(True), text.splitlines(True), f"{shown}", f"{shown} (anew)"
                )
            )
    if stale:
        sys.exit("stubs differ from the modules: run `python scripts/write_stubs.py`")


if __name__ == "__main__":
    main()
