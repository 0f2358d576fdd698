"""The example that goes through the operations: every figure, on every level, and its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dlkernels

pytest.importorskip("torch")
import tour


@pytest.mark.parametrize("chapter", tour.CHAPTERS, ids=lambda chapter: chapter.title)
def test_figures(chapter: tour.Chapter, isa: str) -> None:
    for figure in chapter.figures():
        assert figure.is_right, figure


def test_the_picture_has_every_activation(tmp_path: Path) -> None:
    names = {*dlkernels.activations.ACTIVATIONS, "prelu", "maxout"}
    assert set(tour.DRAWN) == names
    x = np.linspace(-3, 3, 7, dtype=np.float32)
    assert {name for name, _, _ in tour.curves(x)} == names
    path = tour.draw(tmp_path / "out" / "activations.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("found", [1.01, [1.0, 1.0], np.nan])
def test_a_wrong_figure_ends_the_tour_with_an_error(
    found: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tour.Figure("x", found, 1.0)
    wrong = tour.Chapter("Wrong", (), lambda: iter([figure]))
    monkeypatch.setattr(tour, "CHAPTERS", [wrong])
    monkeypatch.setattr(tour, "draw", lambda: "nowhere")
    with pytest.raises(SystemExit, match="FAILED\nWrong: x"):
        tour.main()
    assert "✗" in capsys.readouterr().out
