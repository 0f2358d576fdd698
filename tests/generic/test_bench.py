"""The benchmark: peers agree, a roof moves the bytes its case declares, tables are made."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bench import report, rows  # noqa: E402
from bench.__main__ import AGREEMENT  # noqa: E402
from bench.case import Case  # noqa: E402
from bench.cases import CASES  # noqa: E402
from bench.peers import PEERS  # noqa: E402
from bench.peers.dlkernels import OURS  # noqa: E402
from bench.peers.numpy import NUMPY  # noqa: E402
from bench.peers.torch import COMPILED, TORCH, TUNE_MALLOC, TUNED  # noqa: E402
from bench.roofline import Roof, bytes_moved, reads, updates, writes  # noqa: E402
from bench.runner import ChildRunner  # noqa: E402

# Compiling takes long; the other changes the allocator of the whole process.
LEFT_OUT = {COMPILED, TUNE_MALLOC}
MOST_ELEMENTS = 2**15


def tiny(case: Case) -> Case:
    """The same with few elements, but enough for what a dropout keeps to be about its share, and
    for an optimizer's states to be in eight bits."""
    shape = list(case.shape)
    while math.prod(shape) > MOST_ELEMENTS:
        largest = max(range(len(shape)), key=shape.__getitem__)
        shape[largest] //= 2
    return dataclasses.replace(case, shape=tuple(shape))


def kinds() -> list[Any]:
    """One case of those that differ only in size."""
    found = {
        (case.table, case.title, case.dtype, case.layout, case.bytes_per_element): case
        for case in CASES
    }
    return [pytest.param(tiny(case), id=case.name) for case in found.values()]


@pytest.mark.parametrize("case", kinds())
def test_peers_agree_and_the_roof_has_the_declared_bytes(case: Case) -> None:
    names = [name for name in case.peers if not PEERS[name].missing() and name not in LEFT_OUT]
    answers = {}
    for name in names:
        work = PEERS[name].workload(case)
        with work.context():
            work.reset()
            result = work.run()
            answers[name] = work.fingerprint(result)
            passes = work.passes(result)
        if name == OURS and case.bytes_per_element is not None:
            declared = case.bytes_per_element * case.elements
            assert bytes_moved(passes) == pytest.approx(declared, abs=8)  # a loss is one number
        work.release()
        assert all(leaf.grad is None for leaf in work.leaves)
    right = answers.get(TORCH, answers.get(NUMPY))
    assert answers == pytest.approx(dict.fromkeys(names, right), rel=AGREEMENT[case.dtype])


def test_names_are_unique_and_ten_cases_stand_in_the_readme() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(case.telling for case in CASES) == 10
    assert {name for case in CASES for name in case.peers} == set(PEERS)


@pytest.fixture(scope="module")
def roof() -> Roof:
    return Roof()


@pytest.mark.parametrize("offset", [0, 4, 60])
@pytest.mark.parametrize("size", [0, 3, 1000, 300_000])
def test_roof_moves_exactly_its_stretches(roof: Roof, size: int, offset: int) -> None:
    def stretch(itemsize: int) -> tuple[Any, Any]:
        """A part of a larger array, which is not all that long."""
        whole = np.random.default_rng(0).integers(1, 255, 4 * 300_000 + 256, dtype=np.uint8)
        return whole, whole[64 + offset : 64 + offset + itemsize * size]

    (read_all, read), (update_all, update), (write_all, write) = map(stretch, (1, 2, 4))
    before = [array.copy() for array in (read_all, update_all, write_all)]
    assert bytes_moved([[*reads(read), *updates(update), *writes(write)]]) == 9 * size
    assert roof.seconds([[*reads(read), *updates(update), *writes(write)]]) > 0
    np.testing.assert_array_equal(read_all, before[0])
    np.testing.assert_array_equal(update_all, before[1])
    changed = np.flatnonzero(write_all != before[2])
    begin = 64 + offset
    if len(changed):
        assert begin <= changed[0]
        assert changed[-1] < begin + 4 * size
    # All but what is left of a line at either end and of a block of the shortest stretch.
    assert len(changed) >= 4 * size - 4 * (64 + 256)


def test_child_answers() -> None:
    case = next(case for case in CASES if case.name == "relu forward, no grad 16384")
    runner = ChildRunner(case, TUNED, 1, environment={"OMP_NUM_THREADS": "1"})
    try:
        assert runner.fingerprint == pytest.approx(
            PEERS[TORCH].workload(case).fingerprint(PEERS[TORCH].workload(case).run())
        )
        assert runner.sample().seconds > 0
    finally:
        runner.close()


def fake_rows() -> list[rows.Row]:
    """Of a run in which every peer takes as long as it stands far from ours."""
    result = []
    for case in CASES:
        for index, name in enumerate(case.peers):
            result.append(rows.make_row(case, name, [(index + 1) * 1e-3] * 3, [0.0]))
        if case.bytes_per_element is not None and OURS in case.peers:
            result.append(rows.make_row(case, rows.ROOF, [0.8e-3] * 3))
    rows.complete(result)
    return result


def test_share_of_the_roof_is_that_of_the_times() -> None:
    ours = [row for row in fake_rows() if row.peer == OURS and row.percent_of_roof is not None]
    assert [row.percent_of_roof for row in ours] == pytest.approx([80.0] * len(ours))
    assert {row.case for row in ours} == {
        case.name for case in CASES if case.bytes_per_element is not None
    }


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    rows.write_csv(fake_rows(), tmp_path / "results.csv")
    again = rows.read_csv(tmp_path / "results.csv")
    assert len(again) == len(fake_rows())
    assert again[0].peer == fake_rows()[0].peer


def test_document_keeps_its_prose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text(f"before\n{report.BEGIN}\nstale\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "DOCUMENT", path)
    machine = {
        **dict.fromkeys(("processor", "cores", "caches", "threads", "active_isa", "date"), "x"),
        **{"versions": {"torch": "2"}, "roofs_gb_per_s": {"least": 1.0}, "command": "make bench"},
        **{"rounds": 3, "minutes": 1, "quick": False, "missing": {}, "notes": []},
    }
    report.write_document(fake_rows(), machine)
    text = path.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "stale" not in text
    assert "| relu fwd+bwd 32M | **1 ms** | 2 ms (2x) |" in text
    path.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the lines"):
        report.write_document(fake_rows(), machine)


def test_readme_table_has_ten_lines() -> None:
    table = report.readme_table(fake_rows()).splitlines()
    assert len(table) == 12
    assert "| AdamW step 1x50M | **1 ms** | 2 ms (2x) | 4 ms (4x) |" in table
    assert "| relu fwd+bwd 32M | **1 ms** | 2 ms (2x) | 3 ms (3x) |" in table


def test_documents_have_their_marks() -> None:
    text = report.DOCUMENT.read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1
