"""Constructors and docstrings of optimizers, made from the arguments of their rules."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dlkernels._define import define
from dlkernels.optim.rule import Argument, Rule

__all__ = ["argument_texts", "document", "make_init", "state_text"]


def make_init(
    owner: str,
    params: str,
    arguments: Iterable[Argument],
    construct: Callable[[Any, Any, dict[str, Any]], None],
    **types: Any,
) -> Any:
    """An ``__init__`` with a signature of its own.

    Args:
        owner: The class's public name, with its module's.
        params: The type of its first argument, the parameters, as in source.
        arguments: The others.
        construct: What it calls, with the object, the parameters and the others by name.
        types: What the types in source name.

    Returns:
        The function.
    """
    shown = [argument for argument in arguments if argument.shown]
    keyword = [argument.source for argument in shown if argument.keyword]
    signature = [
        "self",
        f"params: {params}",
        *(argument.source for argument in shown if not argument.keyword),
        *(["*", *keyword] if keyword else []),
    ]
    values = [f"{argument.name!r}: {argument.name}" for argument in shown]
    listed = "".join(f"\n        {argument}," for argument in signature)
    module, _, name = owner.rpartition(".")
    init = define(
        "__init__",
        f"({listed}\n    ) -> None",
        f"construct(self, params, {{{', '.join(values)}}})",
        {"__name__": module, **types},
        owner=name,
        construct=construct,
    )
    init.__doc__ = "See the class."
    return init


def document(text: str, rule: Rule, sections: Mapping[str, Mapping[str, str]]) -> str:
    """A class's docstring: after its first lines the rule's formula, before its example sections.

    Args:
        text: The docstring as it stands in the source.
        rule: The rule.
        sections: By title, what is said of each name.
    """
    before, example, after = inspect.cleandoc(text).partition("\n\nExample:")
    summary, *remarks = before.split("\n\n")
    accuracy = textwrap.wrap(rule.accuracy, width=96)
    blocks = ["\n".join([inspect.cleandoc(rule.formula), *accuracy]), *remarks]
    for title, entries in sections.items():
        lines = [f"{title}:"]
        for name, said in entries.items():
            lines += textwrap.wrap(
                f"{name}: {said}",
                width=96,
                initial_indent="    ",
                subsequent_indent="        ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        blocks.append("\n".join(lines))
    return "\n\n".join([summary, *blocks]) + example + after + "\n"


def state_text(rule: Rule) -> str:
    """The names of a rule's states, for docstrings."""
    names = [f'``"{name}"``' for name in rule.scalars]
    for name in rule.slots:
        condition = f" (with ``{rule.when[name]}``)" if name in rule.when else ""
        names.append(f'``"{name}"``{condition}')
    return ", ".join(names)


def argument_texts(params: str, arguments: Iterable[Argument]) -> dict[str, str]:
    """What a docstring says of the arguments.

    Args:
        params: What it says of the first one.
        arguments: The others.
    """
    texts = {
        argument.name: f"{argument.text} Default: {argument.default!r}."
        for argument in arguments
        if argument.shown
    }
    return {"params": params, **texts}
