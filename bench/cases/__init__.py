"""Every case: one module for each family of operations, found by its being here."""

import importlib
import pkgutil

from bench.case import Case

_FAMILIES = [
    importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
]
CASES: tuple[Case, ...] = tuple(
    sorted((case for family in _FAMILIES for case in family.CASES), key=lambda case: not case.first)
)
