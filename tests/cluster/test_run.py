"""`compress_many` on this machine: real processes, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.cluster.test_windows import bytes_of
from tests.helpers.clips import Clip
from voco_video import (
    ClusterOptions,
    CompressOptions,
    FrameCache,
    ModelError,
    Sampling,
    UsageError,
    VideoRow,
    compress_many,
    load_model,
    read_manifest,
)
from voco_video.cluster import run as run_module
from voco_video.cluster.process_pool import ProcessPool
from voco_video.cluster.run import ClusterProgress, InterruptedRunError
from voco_video.cluster.shares import Share

SAMPLING = Sampling(fps=5)
SHARES = ClusterOptions(engine="shares")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        Clip(f"{number}.mp4", num_frames=20 + 10 * number, first_number=100 * number).write(folder)
    Clip("long.mp4", num_frames=250, options={"g": "25"}).write(folder)
    (folder / "broken.mp4").write_bytes(b"\0" * 5000)
    return folder


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """The bytes of every entry as a plain run makes them, by path."""
    model = load_model(cache_dir=tmp_path_factory.mktemp("plain"))
    items = model.compress_many(sorted(folder.glob("*.mp4")), fps=5)
    return {str(item.given): bytes_of(item.video.parts[0].entry) for item in items if item.video}


def as_bytes(result, cache_dir: Path) -> dict[str, dict[str, bytes]]:
    cache = FrameCache(cache_dir)
    return {row.uri: bytes_of(cache.find(row.entry)) for row in result.rows if row.is_compressed}


@pytest.mark.exhaustive
def test_a_killed_worker_costs_nothing_but_time(folder, plain, tmp_path, monkeypatch):
    pools: list[ProcessPool] = []
    enter = ProcessPool.__enter__
    monkeypatch.setattr(ProcessPool, "__enter__", lambda self: (pools.append(self), enter(self))[1])
    killed: list[int] = []

    def kill_one(progress: ClusterProgress) -> None:
        if progress.num_done and not killed:
            killed.append(next(iter(pools[0]._processes)))
            os.kill(killed[0], signal.SIGKILL)

    options = ClusterOptions(concurrency=(2,), window_seconds=4)
    manifest = tmp_path / "list.csv"
    arguments = {"sampling": SAMPLING, "cluster": options, "cache_dir": tmp_path / "cache", "manifest": manifest}
    result = compress_many(folder, **arguments, on_progress=kill_one)
    assert killed
    assert result.num_of == {"compressed": 5, "failed": 1}
    assert as_bytes(result, tmp_path / "cache") == plain
    assert read_manifest(manifest) == list(result.rows)
    (broken,) = [row for row in result.rows if row.status == "failed"]
    assert "broken.mp4: FFmpeg cannot open it as a video" in broken.error
    assert broken.num_attempts == 1


def test_shares_together_are_the_whole_and_a_second_run_does_nothing(folder, plain, tmp_path, monkeypatch):
    arguments = {"sampling": SAMPLING, "cluster": SHARES, "cache_dir": tmp_path / "cache"}
    manifest = tmp_path / "list.jsonl"
    monkeypatch.setenv("WORLD_SIZE", "2")
    results = []
    for rank in ("1", "0"):
        assert not manifest.exists()
        monkeypatch.setenv("RANK", rank)
        results.append(compress_many(folder, **arguments, manifest=manifest))
    assert [result.num_missing_shares for result in results] == [1, 0]
    assert [result.manifest for result in results] == [None, manifest]
    rows = read_manifest(manifest)
    assert [row.uri for row in rows] == sorted(str(path) for path in folder.glob("*.mp4"))
    assert {row.uri for result in results for row in result.rows} == {row.uri for row in rows}
    done = [row for row in rows if row.is_compressed]
    assert {row.uri: bytes_of(FrameCache(tmp_path / "cache").find(row.entry)) for row in done} == plain
    assert all(row.num_frames and row.duration_seconds and row.size_bytes and row.fingerprint for row in done)
    assert all("torch" in row.versions and row.stage_seconds["total"] > 0 for row in done)

    again = compress_many(manifest, **arguments)
    assert again.num_of == {"cached": 2, "failed": 1}
    other = compress_many(manifest, **arguments | {"compression": CompressOptions(num_voco_tokens=2)})
    assert other.num_of == {"compressed": 2, "failed": 1}, "changed settings are another entry"
    assert not {row.entry for row in other.rows if row.entry} & {row.entry for row in again.rows}


def test_rows_have_windows_of_their_own(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    path = str(folder / "long.mp4")
    rows = [VideoRow(path, "a", 1.0, 3.0), VideoRow(path, "b", 8.0), VideoRow(path, "c", 20.0, 30.0)]
    result = compress_many(rows, sampling=SAMPLING, cluster=SHARES, cache_dir=tmp_path / "cache")
    assert [row.num_frames for row in result.rows] == [10, 10, None]
    assert "holds nothing of this video" in result.rows[2].error
    entry = FrameCache(tmp_path / "cache").find(result.rows[0].entry)
    assert (entry.pts_seconds[0], entry.pts_seconds[-1]) == (1.0, 2.8)
    timed = Sampling(timestamps=(1.0,))
    result = compress_many(rows[:1], sampling=timed, cluster=SHARES, cache_dir=tmp_path / "cache")
    assert "timestamps name their own times" in result.rows[0].error


def test_what_cannot_work_is_refused_before_anything_starts(folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="give one source or more"):
        compress_many([])
    with pytest.raises(UsageError, match="a manifest is called"):
        compress_many(folder, manifest=tmp_path / "list.txt")
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="neither torchrun nor Slurm says which share"):
        compress_many(folder, cluster=SHARES)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(UsageError, match="neither torchrun nor Slurm"):  # not srun: it would do a quarter of the work
        Share.from_environment()
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="share 2 of 2"):
        compress_many(folder, cluster=SHARES)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UsageError, match="RANK='first'"):
        compress_many(folder, cluster=SHARES)


def test_an_interrupted_run_lists_what_is_done_and_what_is_not(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "_run_processes", lambda job, plan, _, book: run_module._run_alone(job, plan, book))

    def stop(progress: ClusterProgress) -> None:
        if progress.num_done == 2:
            raise KeyboardInterrupt

    manifest = tmp_path / "list.jsonl"
    with pytest.raises(InterruptedRunError) as interrupted:
        compress_many(folder, sampling=SAMPLING, cache_dir=tmp_path / "cache", manifest=manifest, on_progress=stop)
    assert len(interrupted.value.result.rows) == 2
    assert [row.status for row in read_manifest(manifest)] == ["compressed", "compressed", None, None, None, None]


@pytest.mark.exhaustive
def test_a_model_that_is_not_there_ends_the_run(folder, tmp_path):
    with pytest.raises(ModelError, match="no-such-model"):
        compress_many(folder, model=tmp_path / "no-such-model", cache_dir=tmp_path / "cache")


@pytest.mark.exhaustive
def test_more_shares_than_videos(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    for rank in range(8):
        monkeypatch.setenv("RANK", str(rank))
        result = compress_many(
            folder, sampling=SAMPLING, cluster=SHARES, cache_dir=tmp_path / "cache", manifest=tmp_path / "list.csv"
        )
    assert result.num_missing_shares == 0
    assert len(read_manifest(tmp_path / "list.csv")) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": (0,)}, "concurrency=0"),
        ({"concurrency": (3, 2)}, "concurrency=3,2"),
        ({"concurrency": ()}, "concurrency="),
        ({"address": "auto"}, "goes with engine='ray'"),
        ({"num_gpus": 1}, "goes with engine='ray'"),
        ({"engine": "spark"}, "is not one of processes, ray, shares"),
        ({"engine": "shares", "concurrency": (2,)}, "the job says how many"),
        ({"window_seconds": 0}, "window_seconds=0"),
        ({"retries": -1}, "retries=-1"),
    ],
)
def test_options_that_cannot_be_right(options, message):
    with pytest.raises(UsageError, match=message):
        ClusterOptions(**options)


def test_the_command_prints_and_lists(run, folder, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    manifest = tmp_path / "list.csv"
    command = ["compress", folder / "0.mp4", folder / "broken.mp4", "--fps", "5", "--engine", "shares"]
    code, out, err = run(*command, "--manifest", manifest)
    assert code == 0
    assert "2 videos: 1 compressed, 1 failed" in out
    assert "broken.mp4: FFmpeg cannot open it" in err
    assert [row.status for row in read_manifest(manifest)] == ["compressed", "failed"]
    code, out, err = run(*command, "--manifest", manifest, "--strict", "--json")
    facts = json.loads(out)
    assert (code, "1 of 2 videos failed" in err) == (1, True)
    assert (facts["num_cached"], facts["num_failed"], len(facts["videos"])) == (1, 1, 2)
    assert run("compress", folder / "broken.mp4", *command[3:], "--manifest", manifest)[0] == 1, "none succeeded"
    assert run(*command)[0] == 0
    assert len(read_manifest("library.parquet")) == 2, "the default"
    for wrong, message in [
        ([*command, "--manifest", "none/list.csv"], "there is no folder"),
        (["compress", folder, "--strict"], "go with --engine"),
        (["compress", folder, "--concurrency", "2"], "go with --engine"),
        (["compress", manifest], "is a manifest, a list of videos; compress those with --engine processes"),
        ([*command, "--manifest", manifest, "--name", "x"], "leave out --follow and --name"),
        ([*command, "--manifest", manifest, "--concurrency", "many"], "--concurrency many"),
    ]:
        code, _, err = run(*wrong)
        assert (code, message in " ".join(err.split())) == (2, True), err
