"""1 minute to hours of video from file to answer: time, memory, bytes, a killed run, how decoding and model overlap.

    python -m benchmarks.speed.scaling [--quick] [--pictures small]

A generated 720p H.264 clip, one frame a second, voco-tiny in fp32. Every duration is compressed in a process of its own
into an empty cache, so that its memory is its own; then a question is asked of the whole video at K = 1. What a process
pays once, with its first frames, is paid before on the same file's beginning and shown apart ("first frames"). "Each
more" is what a frame costs beyond the next shorter video: what is paid once for a video falls out of it.

Killed: the longest video is compressed anew, the process kills itself with SIGKILL at half of the frames, and another
one goes on. The entry has to verify, and its tokens have to be those of the unbroken run, to the last bit.

Overlap: the same clip is decoded without a model, its frames, in memory, are compressed and written without decoding,
and the video is compressed as users do it, in turns. On a machine whose processors do both, no overlap can beat all
processor seconds shared out over all processors; that bound is given beside max(decode alone, model alone). The
video's tokens have to be those of the frames in memory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from blake3 import blake3

from benchmarks.clips import CLIPS, make_clip
from benchmarks.errors import MismatchError
from benchmarks.haystacks import make_haystacks
from benchmarks.report import Benchmark, Report, option, seconds_cell, table
from benchmarks.speed.cache import hour_bytes, hour_table
from benchmarks.timing import MemoryTrace, check_same, interleaved, resident_bytes, time_once
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.api import VideoModel, load_model
from voco_video.cache import CacheEntry, CacheKey
from voco_video.compress import Progress
from voco_video.model.tokens import VocoTokens
from voco_video.options.sampling import Sampling
from voco_video.stored_tokens import read_tokens
from voco_video.video.container import num_processors
from voco_video.video.frames import FrameBatch
from voco_video.video.reading import open_video

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What moves to the left?"
STAGES = ("decode", "wait", "vision", "llm", "write")
WARM_UP_SECONDS = 2.0
_CHUNK = 256


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    unit_seconds: int = option(60, "seconds that are encoded; longer videos repeat them")
    durations: tuple[int, ...] = option((1, 10, 60, 120), "of the videos, in that unit")
    overlap_duration: int = option(10, "of the video for the overlap, in that unit")
    pictures: str = option("720p", "720p, or small for MovingShapes of 64 x 64 that are stored at 1 fps")
    fps: float = option(1.0, "frames a second that are compressed")
    model: str = option("voco-tiny", "what compresses")
    form: str = option("kv", "kv or embeds")
    repeats: int = option(3, "runs of a duration, and rounds of the overlap")
    max_seconds: float = option(90.0, "for a duration, and for the overlap, no round begins after this long")


QUICK = Settings(unit_seconds=10, durations=(1, 6), overlap_duration=2, repeats=1, max_seconds=10.0)


def measure(settings: Settings) -> Report:
    """A row for every duration, then the killed run, then the overlap."""
    clips = {n: clip_of(n, settings) for n in settings.durations}
    runs: dict[int, list[Report]] = {n: [] for n in clips}
    for number in range(settings.repeats):
        for n, clip in clips.items():
            if number == 0 or sum(run["total"]["wall_seconds"] for run in runs[n]) < settings.max_seconds:
                runs[n].append(in_process(measure_video, clip, settings))
    rows = [{"seconds": n * settings.unit_seconds} | median_run(found) for n, found in runs.items()]
    longest = max(clips)
    return {
        "rows": with_slopes(rows),
        "killed": measure_killed(clips[longest], settings, runs[longest][0]["tokens_digest"]),
        "overlap": measure_overlap(clip_of(settings.overlap_duration, settings), settings),
        "hour_bytes": hour_bytes(settings.fps),
    }


def clip_of(duration: int, settings: Settings) -> Path:
    """A video so many units long."""
    if settings.pictures == "small":
        options = {"depths": (0.1, 0.3, 0.5, 0.7, 0.9), "needles_per_depth": 4, "seed": 0}  # as in quality/needle.py
        return make_haystacks(CLIPS, num_seconds=duration * settings.unit_seconds, **options)[0].path
    return make_clip(CLIPS, "h264", settings.unit_seconds, duration)


def with_slopes(rows: list[Report]) -> list[Report]:
    """Rows with what each frame costs beyond those of the next shorter video; None for the shortest."""
    slopes: list[float | None] = [None]
    for shorter, longer in pairwise(rows):
        seconds = longer["total"]["cpu_seconds"] - shorter["total"]["cpu_seconds"]
        slopes.append(seconds / (longer["num_frames"] - shorter["num_frames"]))
    return [row | {"cpu_seconds_each_more": slope} for row, slope in zip(rows, slopes, strict=True)]


def in_process(function: Callable[..., Report], *arguments: Any) -> Report:
    """Run a measurement in a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure_video(clip: Path, settings: Settings) -> Report:
    """Compress a clip into an empty cache and ask about it."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(settings.model, dtype="float32", cache_dir=folder)
        model.fingerprint  # noqa: B018  # computed once for a model, whatever the video
        few = {"fps": 16 / WARM_UP_SECONDS, "end_seconds": WARM_UP_SECONDS, "form": settings.form}
        warm_up = time_once(lambda: model.compress(clip, **few))  # a batch, in an entry of its own
        loaded, found = resident_bytes(), []
        with MemoryTrace() as trace:
            total = time_once(lambda: found.append(model.compress(clip, fps=settings.fps, form=settings.form)))
        video: CompressedVideo = found[0]
        assert not video.from_cache
        entry = video.parts[0].entry
        seconds = {stage: getattr(video.stage_seconds, stage) for stage in STAGES}
        return (
            {
                "num_frames": video.num_frames,
                "first_frames": warm_up.as_json(),
                "total": total.as_json(),
                "stages": seconds,
                "loaded_bytes": loaded,
                "peak_bytes": trace.peak_bytes,
                "memory": trace.thinned(),
                "size_bytes": entry.size_bytes,
                "bytes_per_frame": entry.bytes_per_frame,
            }
            | question_seconds(video)
            | {"tokens_digest": tokens_digest(entry)}
        )


def question_seconds(video: CompressedVideo) -> Report:
    """Seconds to assemble the whole video at K = 1, and to answer with 8 tokens from there."""
    assemble = time_once(lambda: video.prefix(num_voco_tokens=1))
    asked = interleaved({"ask": lambda: video.ask(QUESTION, num_voco_tokens=1, max_new_tokens=8)}, repeats=5)["ask"]
    return {"assemble": assemble.as_json(), "question": asked.as_json()}


def median_run(runs: list[Report]) -> Report:
    """The run of median total time, after checking that all did the same work, with the range of totals."""
    assert len({(run["num_frames"], run["size_bytes"], run["tokens_digest"]) for run in runs}) == 1
    ordered = sorted(runs, key=lambda run: run["total"]["wall_seconds"])
    chosen, walls = ordered[(len(runs) - 1) // 2], [run["total"]["wall_seconds"] for run in runs]
    cpus = [run["total"]["cpu_seconds"] for run in runs]
    total = {
        "wall_seconds": statistics.median(walls),
        "wall_range": [min(walls), max(walls)],
        "cpu_seconds": statistics.median(cpus),
        "cpu_range": [min(cpus), max(cpus)],
        "num_runs": len(runs),
    }
    return chosen | {"total": total}


# ---------------------------------------------------------------------- killed


def measure_killed(clip: Path, settings: Settings, tokens_digest: str) -> Report:
    """Compress a clip, killed at half; go on in another process.

    Args:
        tokens_digest: of an unbroken run.

    Raises:
        MismatchError: the entry that comes of it is damaged, or holds other tokens.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (clip, folder, settings)
        child = multiprocessing.get_context("spawn").Process(target=compress_until_killed, args=arguments)
        child.start()
        child.join()
        if child.exitcode != -signal.SIGKILL:
            raise MismatchError(f"the run that should kill itself ended with {child.exitcode}")
        resumed = in_process(resume, *arguments)
    if not resumed["is_sound"] or resumed["tokens_digest"] != tokens_digest:
        raise MismatchError("a killed and resumed run gives another entry than an unbroken one")
    return resumed


def compress_until_killed(clip: Path, cache_dir: str, settings: Settings) -> None:
    """Compress a clip and end by SIGKILL, which nothing can clean up after, once half of its frames are compressed."""

    def kill_at_half(progress: Progress) -> None:
        if 2 * progress.num_frames >= progress.total_frames:
            os.kill(os.getpid(), signal.SIGKILL)

    model = load_model(settings.model, dtype="float32", cache_dir=cache_dir)
    model.compress(clip, fps=settings.fps, form=settings.form, on_progress=kill_at_half)


def resume(clip: Path, cache_dir: str, settings: Settings) -> Report:
    """Go on with what another process left, and look at what comes of it."""
    model = load_model(settings.model, dtype="float32", cache_dir=cache_dir)
    model.fingerprint  # noqa: B018  # computed once for a model
    found = []
    total = time_once(lambda: found.append(model.compress(clip, fps=settings.fps, form=settings.form)))
    video: CompressedVideo = found[0]
    assert video.result is not None
    return {
        "num_frames": video.num_frames,
        "num_resumed_frames": video.result.num_resumed_frames,
        "total": total.as_json(),
        "is_sound": all(checked.ok for checked in model.cache.verify()),
        "tokens_digest": tokens_digest(video.parts[0].entry),
    }


def tokens_digest(entry: CacheEntry) -> str:
    """BLAKE3 over all tensors of all frames, some frames at a time."""
    digest = blake3()
    for start in range(0, entry.num_frames, _CHUNK):
        for tensor in read_tokens(entry, start, min(start + _CHUNK, entry.num_frames)).tensors().values():
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ---------------------------------------------------------------------- overlap


def measure_overlap(clip: Path, settings: Settings) -> Report:
    """Decoding alone, the model alone, and both as users run them, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(settings.model, dtype="float32", cache_dir=folder)
        model.fingerprint  # noqa: B018  # computed once for a model
        frames = decode(model, clip, settings.fps)
        sides = {
            "decode": lambda: decode(model, clip, settings.fps),
            "model": lambda: compress_in_memory(model, frames, settings.form),
            "both": lambda: model.compress(clip, fps=settings.fps, form=settings.form, force=True),
        }
        in_memory = compress_in_memory(model, frames, settings.form)
        tokens = model.compress(clip, fps=settings.fps, form=settings.form).tokens()
        check_same({"frames in memory": _flat(in_memory), "video": _flat(tokens)}, tolerance=1e-4)
        timings = interleaved(sides, repeats=settings.repeats, warm_ups=0, max_seconds=settings.max_seconds)
    alone = max(timings[name].wall_seconds for name in ("decode", "model"))
    shared = sum(timings[name].cpu_seconds for name in ("decode", "model")) / num_processors()
    both = timings["both"].wall_seconds
    return {
        "num_frames": tokens.num_frames,
        "sides": {name: timing.as_json() for name, timing in timings.items()},
        "slower_alone_seconds": alone,
        "shared_out_seconds": shared,
        "over_slower_alone": both / alone,
        "over_bound": both / max(alone, shared),
        "over_one_after_the_other": both / sum(timings[name].wall_seconds for name in ("decode", "model")),
    }


def decode(model: VideoModel, clip: Path, fps: float) -> list[FrameBatch]:
    """All frames that compressing would see."""
    with open_video(clip) as video:
        return list(video.batches(Sampling(fps=fps), fit=model.voco.backbone.images.fit))


def compress_in_memory(model: VideoModel, frames: list[FrameBatch], form: Any) -> VocoTokens:
    """Decoded frames through the model and into the cache."""
    key, parts = CacheKey("0" * 64, model.fingerprint, {}), []
    with model.cache.writer(key, facts={}, restart=True) as writer:
        for batch in frames:
            with torch.inference_mode():
                parts.append(model.voco.compress(model.voco.vision_tokens(batch.pixels), form=form))
            writer.append(parts[-1].tensors(), batch.pts_seconds)
        writer.finish({})
    return VocoTokens.cat(parts)


def _flat(tokens: VocoTokens) -> torch.Tensor:
    return torch.cat([tensor.float().flatten() for tensor in tokens.tensors().values()])


# ---------------------------------------------------------------------- report


def ratios(report: Report) -> dict[str, float]:
    """How little longer videos cost a frame, in time and memory, and how well stages overlap."""
    first, last = report["rows"][0], report["rows"][-1]
    overlap = report["overlap"]
    per_frame = [row["total"]["cpu_seconds"] / row["num_frames"] for row in (first, last)]
    return {
        "CPU seconds a frame: shortest over longest video": per_frame[0] / per_frame[1],
        "peak memory: shortest over longest video": first["peak_bytes"] / last["peak_bytes"],
        "overlap: bound over measured": 1 / overlap["over_bound"],
    }


def markdown(report: Report) -> str:
    """Durations, then the killed run, the overlap, and bytes of an hour."""
    headings = ["video", "frames", "first frames", "total", "CPU a frame", "each more", *STAGES]
    headings += ["memory: loaded", "peak", "cache", "assemble", "question"]
    rows = []
    for r in report["rows"]:
        stages = [f"{r['stages'][stage]:.2f} s" for stage in STAGES]
        sizes = [f"{r[name] / 2**20:.0f} MiB" for name in ("loaded_bytes", "peak_bytes")]
        asked = [seconds_cell(r["assemble"]), seconds_cell(r["question"])]
        name = f"{r['seconds'] / 60:g} min" if r["seconds"] >= 60 else f"{r['seconds']} s"
        once, each_more = seconds_cell(r["first_frames"], cpu=True), r["cpu_seconds_each_more"]
        per_frame = [r["total"]["cpu_seconds"] / r["num_frames"], each_more]
        shown = ["–" if seconds is None else f"{seconds * 1000:.2f} ms" for seconds in per_frame]
        cells = [name, r["num_frames"], once, seconds_cell(r["total"]), *shown, *stages, *sizes]
        rows.append([*cells, f"{r['size_bytes'] / 1e6:.2f} MB", *asked])
    o, k = report["overlap"], report["killed"]
    sides = [[name, seconds_cell(t), seconds_cell(t, cpu=True)] for name, t in o["sides"].items()]
    return "\n\n".join(
        [
            "# Longer videos",
            "Total and stages on the clock, first frames and what a frame costs in seconds of the processor.",
            table(headings, rows),
            f"The longest video against each shorter one: peak memory {compared(report, 'peak_bytes')}; CPU a frame "
            f"{compared(report, 'cpu_seconds')}.",
            f"Killed with SIGKILL at half of {k['num_frames']} frames; the next run found {k['num_resumed_frames']} "
            f"and took {seconds_cell(k['total'])} ({seconds_cell(k['total'], cpu=True)} CPU) for the others. The entry "
            "verifies, and its tokens are those of the unbroken run, to the last bit.",
            f"Overlap, {o['num_frames']} frames:",
            table(["", "wall", "CPU"], sides),
            f"Both take {o['over_slower_alone']:.2f}x the slower one alone, {o['over_bound']:.2f}x the bound on this "
            f"machine ({max(o['slower_alone_seconds'], o['shared_out_seconds']):.2f} s), and "
            f"{o['over_one_after_the_other']:.2f}x one after the other.",
            f"An hour at {report['settings']['fps']:g} fps in 16 bit, from the shapes alone:",
            hour_table(report["hour_bytes"]),
        ]
    )


def compared(report: Report, what: str) -> str:
    """A figure of the longest video over that of every shorter one; processor seconds by the frame."""
    values = [r[what] if what in r else r["total"][what] / r["num_frames"] for r in report["rows"]]
    return ", ".join(f"x {values[-1] / value:.3f}" for value in values[:-1])


def draw(report: Report, figure: Figure) -> None:
    """Seconds a frame by stage, and memory over time."""
    stages, memory = figure.subplots(1, 2)
    names = [f"{row['seconds']} s" for row in report["rows"]]
    left = np.zeros(len(names))
    for stage in ("wait", "vision", "llm", "write"):
        widths = np.array([row["stages"][stage] / row["num_frames"] * 1000 for row in report["rows"]])
        stages.barh(names, widths, left=left, label=stage, height=0.5)
        left += widths
    decode_ms = [row["stages"]["decode"] / row["num_frames"] * 1000 for row in report["rows"]]
    stages.plot(decode_ms, range(len(names)), "k|", markersize=25, label="decode (own thread)")
    stages.set(xlabel="milliseconds a frame")
    stages.legend(
        fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, markerscale=0.3
    )  # above, where no bar is
    for row in report["rows"]:
        seconds, size = zip(*row["memory"], strict=True)
        share = np.array(seconds) / max(seconds[-1], 1e-9)
        memory.plot(share, np.array(size) / 2**20, label=f"{row['seconds']} s of video")
    memory.set(xlabel="share of the run", ylabel="resident MiB", ylim=0)
    memory.legend(fontsize=8)


BENCHMARK = Benchmark(
    name="scaling",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
    ratios=ratios,
    size=(11, 3.8),
)

if __name__ == "__main__":
    BENCHMARK.main()
