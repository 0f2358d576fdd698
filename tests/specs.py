"""Every operation of every family: what the generic tests run over.

Each folder beside this file that has a `specs.py` is a family, whose `OPERATIONS` are taken from
there: a new one edits nothing here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from operation import Call, Operation

FAMILIES = sorted(path.parent.name for path in Path(__file__).parent.glob("*/specs.py"))

OPERATIONS: list[Operation] = [
    operation
    for family in FAMILIES
    for operation in importlib.import_module(f"{family}.specs").OPERATIONS
]


def cases() -> Iterator[tuple[Operation, Call]]:
    """Every call of every operation."""
    for operation in OPERATIONS:
        for call in operation.calls:
            yield operation, call
