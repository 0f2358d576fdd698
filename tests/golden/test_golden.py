"""Every operation's bytes are those of `hashes.json`, at every level, on three threads."""

from __future__ import annotations

import json

import pytest

import dlkernels
import golden
from support import ISAS

HASHES = json.loads(golden.PATH.read_text())
ENTRIES = dict(golden.entries())


def test_every_hash_is_here() -> None:
    assert sorted(ENTRIES) == sorted(HASHES)


@pytest.mark.parametrize("name", ENTRIES)
def test_bytes_are_as_ever(name: str) -> None:
    """(One that is meant to change is written anew by `python tests/golden/golden.py`.)"""
    with dlkernels.num_threads(3):
        for level in ISAS:
            found = golden.compute(level, ENTRIES[name])
            assert found == HASHES[name][golden.COLUMNS[level]], level
