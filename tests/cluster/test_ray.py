"""A Ray cluster of several node processes: what the benchmark of it measures, on few clips, and what is refused."""

from __future__ import annotations

import pytest

from voco_video import ClusterOptions, UsageError, compress_many

pytest.importorskip("ray", reason="the ray extra is not installed")


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_killed_worker_and_a_killed_node_cost_nothing_but_time(tmp_path):
    from benchmarks.library.cluster import faults

    found = faults(tmp_path, num_clips=8, seed=0)
    assert len(found["killed"]) == 2
    assert (found["exit_code"], found["exit_code_strict"]) == (0, 1)
    assert found["num_entries_equal_to_plain"] == found["num_entries_of_plain"] == 8
    assert (found["num_failed"], len(found["errors"])) == (4, 4)
    assert found["second_run"] == {"num_compressed": 0, "num_cached": 8, "num_failed": 4}


@pytest.mark.exhaustive
def test_an_address_without_a_cluster_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(UsageError, match="no Ray cluster can be joined"):
        compress_many(tmp_path, cluster=ClusterOptions(engine="ray", address="auto"), cache_dir=tmp_path / "cache")
