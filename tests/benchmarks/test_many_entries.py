"""The benchmark of a cache folder with many entries measures what it says, and looks at all of them."""

from __future__ import annotations

import json

import pytest

from benchmarks.errors import MismatchError
from benchmarks.speed import many_entries
from voco_video.cache import FrameCache


def test_it_runs_and_its_figures_are_those_of_its_rows(tmp_path, capsys):
    many_entries.BENCHMARK.main(["--quick", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "many_entries.json").read_text())
    assert [row["num_entries"] for row in report["rows"]] == [4, 16]
    for row in report["rows"]:
        assert row["steps"].keys() == set(many_entries.STEPS)
        for step in row["steps"].values():
            assert 0 < step["wall_seconds"] == pytest.approx(step["seconds_per_entry"] * row["num_entries"])
    assert (tmp_path / "many_entries.png").read_bytes().startswith(b"\x89PNG")
    assert "| 16 |" in capsys.readouterr().out


def test_what_is_timed_is_what_every_write_ends_with(tmp_path, monkeypatch):
    seen = []
    real = FrameCache._prune_after_write
    monkeypatch.setattr(FrameCache, "_prune_after_write", lambda self: seen.append("after") or real(self))
    many_entries._write(FrameCache(tmp_path), 0, 2)
    assert seen == ["after"]
    many_entries._write(many_entries._Filling(tmp_path), 1, 2)
    assert seen == ["after"]


def test_a_folder_that_lists_something_else_is_not_timed(tmp_path):
    cache = FrameCache(tmp_path)
    digests = [many_entries._write(cache, number, 2) for number in range(3)]
    cache.remove(digests[0])
    with pytest.raises(MismatchError, match="3 entries lists 2"):
        many_entries._measure_at(cache, digests, many_entries.QUICK)
