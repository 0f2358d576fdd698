"""Functions made from source text."""

from __future__ import annotations

import linecache
from typing import Any

__all__ = ["define"]


def define(
    name: str,
    arguments: str,
    body: str,
    namespace: dict[str, Any],
    *,
    owner: str = "",
    **constants: Any,
) -> Any:
    """Makes a function from source text, so that it has a true signature and costs what a written
    one does.

    Args:
        name: Its name.
        arguments: Its arguments and result, as in source.
        body: The expression it returns.
        namespace: Its globals.
        owner: The name of the class it is a method of.
        constants: What else the body may name.

    Returns:
        The function.
    """
    source = f"""
def make({", ".join(constants)}):
    def {name}{arguments}:
        return {body}
    return {name}
"""
    made: dict[str, Any] = {}
    qualname = f"{owner}.{name}" if owner else name
    filename = f"<dlkernels {namespace['__name__']}.{qualname}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    code = compile(source, filename, "exec", dont_inherit=True)
    exec(code, namespace, made)
    function = made["make"](**constants)
    function.__qualname__ = qualname
    function.__module__ = namespace["__name__"]
    return function
