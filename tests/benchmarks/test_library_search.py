"""The benchmark of searching a library: its table, and a run of the smallest sizes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("matplotlib", reason="benchmarks draw plots")


@pytest.mark.exhaustive
def test_the_smallest_sizes(tmp_path):
    from benchmarks.library import search, search_table

    search.BENCHMARK.main(["--quick", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "search.json").read_text())
    assert [row["num_videos"] for row in report["rows"]] == [3, 6]
    for row in report["rows"]:
        assert row["recall"] > 0.9
        assert row["num_frames"] == 600 * row["num_videos"]
        assert len(row["warm"]["questions"]["exact"]) == len(search.QUERIES)
    assert len(search_table.rows_table(report).splitlines()) == 4
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
