"""A Ray cluster of several nodes on this machine compresses a library while workers and a node are killed.

    python -m benchmarks.library.cluster                    all three parts; minutes
    python -m benchmarks.library.cluster --parts faults --num-clips 56 --json
    python -m benchmarks.library.cluster --parts overhead scaling

    faults     clips of mixed lengths, 4 broken ones among them; a worker and then a whole node are ended by SIGKILL.
               Every entry is compared byte for byte with that of a plain run.
    overhead   many tiny clips that the cache has already, on the cluster and in a plain loop: what the engine adds.
    scaling    the same clips with 1 worker and with 2, each with one processor.

Nodes are processes of `ray.cluster_utils.Cluster`; the command line that users type runs against them. Needs the ray
extra.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report import machine
from voco_video.cache import CacheEntry, FrameCache
from voco_video.library.manifest import read_manifest

PARTS = ("faults", "overhead", "scaling")
NUM_NODES = 3
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as each worker has; their number could move last digits


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--num-clips", type=int, default=56, help="good clips of part faults")
    parser.add_argument("--num-tiny", type=int, default=200, help="clips of part overhead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    given = parser.parse_args(arguments)
    results: dict[str, Any] = {"machine": machine(), "num_nodes": NUM_NODES}
    with tempfile.TemporaryDirectory(prefix="voco-video-cluster-") as name:
        folder = Path(name)
        if "faults" in given.parts:
            results["faults"] = faults(folder / "faults", given.num_clips, given.seed)
        if "overhead" in given.parts:
            results["overhead"] = overhead(folder / "overhead", given.num_tiny)
        if "scaling" in given.parts:
            results["scaling"] = scaling(folder / "scaling", given.seed)
    text = json.dumps(results, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


def faults(folder: Path, num_clips: int, seed: int) -> dict[str, Any]:
    """Compress a library while a worker and a node are killed, and compare with a plain run."""
    clips = make_clips(folder / "clips", [8 + 3 * (number % 12) for number in range(num_clips - 2)] + [150, 240], seed)
    make_broken(folder / "clips", clips[0])
    plain_cache, cache = folder / "plain", folder / "cache"
    plain = voco_video("compress", folder / "clips", "--fps", 5, "--cache-dir", plain_cache, "--json", env=_ONE_THREAD)
    with cluster(NUM_NODES) as nodes:
        manifest = folder / "library.parquet"
        command = [
            *("compress", folder / "clips", "--fps", 5, "--cache-dir", cache, "--manifest", manifest),
            *("--engine", "ray", "--address", nodes.address, "--window-seconds", 10, "--json"),
        ]
        killed: list[str] = []

        def kill_some() -> None:
            """Kill a worker after a quarter of the clips, and a node with its worker after half of them."""
            num_done = sum(1 for _ in cache.glob("*/*/manifest.json"))
            if not killed and num_done >= num_clips // 4:
                worker = workers()[0]
                os.kill(worker, signal.SIGKILL)
                killed.append(f"worker {worker} after {num_done} entries")
            elif len(killed) == 1 and num_done >= num_clips // 2:
                nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
                killed.append(f"a node after {num_done} entries")

        first = voco_video(*command, meanwhile=kill_some)
        again = voco_video(*command)
        strict = voco_video(*command, "--strict")
    rows = read_manifest(manifest)
    ours, theirs = FrameCache(cache), FrameCache(plain_cache)
    of_plain = {Path(row["path"]).name: row["digest"] for row in json.loads(plain.out)}
    same = [
        row.uri
        for row in rows
        if row.entry and bytes_of(ours.find(row.entry)) == bytes_of(theirs.find(of_plain[Path(row.uri).name]))
    ]
    said = json.loads(first.out)
    return {
        "killed": killed,
        "exit_code": first.code,
        "exit_code_strict": strict.code,
        "num_compressed": said["num_compressed"],
        "num_failed": said["num_failed"],
        "num_entries_equal_to_plain": len(same),
        "num_entries_of_plain": len(of_plain),
        "num_done_more_than_once": sum((row["num_attempts"] or 1) > 1 for row in said["videos"]),
        "second_run": {name: json.loads(again.out)[name] for name in ("num_compressed", "num_cached", "num_failed")},
        "errors": [row.error.replace(str(folder), "") for row in rows if row.error],
        "seconds": said["seconds"],
        "seconds_plain": plain.seconds,
    }


def overhead(folder: Path, num_clips: int) -> dict[str, Any]:
    """Measure what the engine adds to each video: clips that are in the cache, on the cluster and in a plain loop."""
    from voco_video import ClusterOptions, compress_many, load_model
    from voco_video.cluster.run import ClusterProgress

    clips = make_clips(folder / "clips", [4] * num_clips, seed=1)
    model = load_model(cache_dir=folder / "cache")
    for _ in range(2):
        started = time.perf_counter()
        list(model.compress_many(clips, fps=1))
        plain = time.perf_counter() - started
    measured = {}
    for engine in ("processes", "ray"):
        times: list[float] = []  # when the first worker is ready, and when the last video is done

        def note(progress: ClusterProgress, times: list[float] = times) -> None:
            is_next = progress.num_workers if not times else progress.num_done == num_clips and len(times) == 1
            if is_next:
                times.append(time.perf_counter())

        with cluster(NUM_NODES) as nodes:
            address = nodes.address if engine == "ray" else None
            options = ClusterOptions(engine=engine, concurrency=(1,), address=address)
            started = time.perf_counter()
            result = compress_many(clips, cluster=options, cache_dir=folder / "cache", on_progress=note)
        assert result.num_of == {"cached": num_clips}
        measured[engine] = {
            "seconds_until_ready": times[0] - started,
            "seconds_to_end": started + result.seconds - times[1],
            "milliseconds_per_video": 1000 * (times[1] - times[0]) / num_clips,
            "milliseconds_of_engine_per_video": 1000 * (times[1] - times[0] - plain) / num_clips,
        }
    return {"num_videos": num_clips, "milliseconds_per_video_plain": 1000 * plain / num_clips, **measured}


def scaling(folder: Path, seed: int) -> dict[str, Any]:
    """Compress the same clips with one worker and with two, and measure from when all of them are ready."""
    from voco_video import ClusterOptions, Sampling, compress_many
    from voco_video.cluster.run import ClusterProgress

    clips = make_clips(folder / "clips", [100] * 24, seed)
    seconds = {}
    with cluster(NUM_NODES) as nodes:
        for count in (1, 2):
            ready: list[tuple[float, int]] = []

            def note(progress: ClusterProgress, count: int = count, ready: list[tuple[float, int]] = ready) -> None:
                if progress.num_workers == count and not ready:
                    ready.append((time.perf_counter(), progress.num_done))

            options = ClusterOptions(engine="ray", concurrency=(count,), address=nodes.address)
            compress_many(
                clips, cluster=options, sampling=Sampling(fps=10), cache_dir=folder / f"cache-{count}", on_progress=note
            )
            began, num_done = ready[0]
            seconds[count] = (time.perf_counter() - began) / (len(clips) - num_done)
        waits = {count: waiting(nodes.address, count) for count in (1, 2)}
    return {
        "num_videos": len(clips),
        "seconds_per_video": seconds,
        "times_as_fast": seconds[1] / seconds[2],
        "num_processors": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "seconds_per_wait_of_half_a_second": waits,
        "times_as_fast_where_work_is_waiting": waits[1] / waits[2],
    }


def waiting(address: str, num_workers: int, num_pieces: int = 40) -> float:
    """Measure the seconds for each piece of work that takes no processor: half a second of waiting."""
    from voco_video import ClusterOptions, CompressOptions, LoadOptions, Sampling, VideoRow
    from voco_video.cluster.pieces import Job, Outcome, Piece
    from voco_video.cluster.pool import drive
    from voco_video.cluster.ray_pool import RayActor, RayPool
    from voco_video.cluster.schedule import Schedule

    class WaitingActor(RayActor):
        def load(self, job: Job) -> None:
            pass

        def run(self, piece: Piece) -> Outcome:
            time.sleep(0.5)
            return Outcome(row=piece.row)

    job = Job("none", LoadOptions(device="cpu"), Sampling(), CompressOptions(), None)
    done: list[float] = []
    rows = [VideoRow(f"/{number}.mp4") for number in range(num_pieces)]
    schedule = Schedule(rows, retries=0, on_row=lambda number, row: done.append(time.perf_counter()))
    with RayPool(job, ClusterOptions(engine="ray", address=address), actor=WaitingActor) as pool:
        drive(pool, schedule, fewest=num_workers, most=num_workers)
    skipped = 2 * num_workers  # until all workers are there
    return (done[-1] - done[skipped - 1]) / (num_pieces - skipped)


def make_clips(folder: Path, num_frames: Sequence[int], seed: int) -> list[Path]:
    """Write clips of one colour and a moving square, at 5 frames a second, a keyframe every two seconds."""
    import av
    import numpy as np

    folder.mkdir(parents=True)
    rng = random.Random(seed)
    paths = []
    for number, count in enumerate(num_frames):
        path = folder / f"clip-{number:04}.mp4"
        colour, square = ([rng.randrange(256) for _ in range(3)] for _ in range(2))
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=5, options={"g": "10", "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
            for frame in range(count):
                picture = np.full((96, 160, 3), colour, np.uint8)
                left = (7 * frame + number) % 120
                picture[30:60, left : left + 30] = square
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        paths.append(path)
    return paths


def make_broken(folder: Path, good: Path) -> None:
    """Write what looks like videos and is none: text, zeros, nothing, and a file that was cut before its index."""
    (folder / "broken-text.mp4").write_text("this is no video\n" * 100)
    (folder / "broken-zeros.mkv").write_bytes(bytes(10_000))
    (folder / "broken-empty.mp4").touch()
    (folder / "broken-cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def bytes_of(entry: CacheEntry) -> dict[str, bytes]:
    """Every file of an entry; of its manifest all but the time when it was written, and the checksum over that."""
    files = {path.name: path.read_bytes() for path in sorted(entry.directory.iterdir())}
    manifest = json.loads(files.pop("manifest.json"))
    for name in ("created_unix_seconds", "checksum", "blake3"):
        manifest.pop(name, None)
    return {**files, "manifest": json.dumps(manifest, sort_keys=True).encode()}


@contextmanager
def cluster(num_nodes: int) -> Iterator[Any]:
    """Start a cluster of node processes, each with one processor."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray ends workers where the whole machine's memory is nearly full, and here others use it, too.
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(num_nodes - 1):
            nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        yield nodes
    finally:
        nodes.shutdown()


def workers() -> list[int]:
    """List the processes of our workers: descendants of this process alone."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])

    def is_ours(pid: int) -> bool:
        while pid in parents:
            if pid == os.getpid():
                return True
            pid = parents[pid]
        return False

    return sorted(pid for pid, name in names.items() if name.startswith("ray::RayActor") and is_ours(pid))


class Ended:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str, seconds: float) -> None:
        self.code, self.out, self.err, self.seconds = code, out, err, seconds


def voco_video(
    *arguments: object, env: dict[str, str] | None = None, meanwhile: Callable[[], None] | None = None
) -> Ended:
    """Run the command line in a process of its own."""
    code = "from voco_video.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **(env or {})})
        while process.poll() is None:
            if meanwhile is not None:
                meanwhile()
            time.sleep(0.1)
        out.seek(0)
        err.seek(0)
        ended = Ended(process.returncode, out.read(), err.read(), time.perf_counter() - started)
    if ended.code not in (0, 1) or not ended.out.startswith(("{", "[")):
        raise SystemExit(f"exit code {ended.code}: {ended.out} {ended.err}")
    return ended


if __name__ == "__main__":
    main()
