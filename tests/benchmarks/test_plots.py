"""The plots of recorded results: no text leaves them, and no two texts overlap."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.drawn_texts import drawn_by_matplotlib

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.one_in(5)
@pytest.mark.parametrize("name", sorted(path.stem for path in RESULTS.glob("*.png")))
def test_texts_of_a_plot_can_be_read(name, tmp_path):
    module_of = importlib.import_module("benchmarks.report").module_of
    benchmark = importlib.import_module(module_of(name)).BENCHMARK
    report = json.loads((RESULTS / f"{name}.json").read_text())
    with drawn_by_matplotlib() as drawn:
        benchmark.plot(report, tmp_path / "plot.png")
    assert drawn.faults == []
    assert len(drawn.texts) > 5
    assert Image.open(tmp_path / "plot.png").width <= 800
    assert Image.open(RESULTS / f"{name}.png").width <= 800, "draw it again from its JSON"
