"""1, 10 and 60 minutes of video from file to answer: time, memory, bytes, and how well decoding and model overlap.

    python -m benchmarks.scaling [--quick]

A generated 720p H.264 clip, one frame a second, voco-tiny in fp32. Every duration is compressed in a process of its own
into an empty cache, so that its memory is its own; then a question is asked of the whole video at K = 1.

Overlap: the same clip is decoded without a model, its frames, in memory, are compressed and written without decoding,
and the video is compressed as users do it, in turns. On a machine whose processors do both, no overlap can beat all
processor seconds shared out over all processors; that bound is given beside max(decode alone, model alone). The
video's tokens have to be those of the frames in memory.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.clips import CLIPS, make_clip
from benchmarks.report import Benchmark, Report, option, seconds_cell, table
from benchmarks.timing import MemoryTrace, check_same, interleaved, resident_bytes, time_once
from voco_video.api import CompressedVideo, VideoModel, load_model
from voco_video.cache import CacheKey
from voco_video.frames import FrameBatch
from voco_video.model import VocoTokens
from voco_video.sampling import Sampling
from voco_video.video import open_video

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What moves to the left?"
STAGES = ("decode", "wait", "vision", "llm", "write")


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    unit_seconds: int = option(60, "seconds that are encoded; longer videos repeat them")
    durations: tuple[int, ...] = option((1, 10, 60), "of the videos, in that unit")
    overlap_duration: int = option(10, "of the video for the overlap, in that unit")
    fps: float = option(1.0, "frames a second that are compressed")
    model: str = option("voco-tiny", "what compresses")
    form: str = option("kv", "kv or embeds")
    repeats: int = option(3, "runs of a duration, and rounds of the overlap")
    max_seconds: float = option(90.0, "for a duration, and for the overlap, no round begins after this long")


QUICK = Settings(unit_seconds=10, durations=(1, 6), overlap_duration=2, repeats=1, max_seconds=10.0)


def measure(settings: Settings) -> Report:
    """A row for every duration, then the overlap."""
    clips = {n: make_clip(CLIPS, "h264", settings.unit_seconds, n) for n in settings.durations}
    runs: dict[int, list[Report]] = {n: [] for n in clips}
    for number in range(settings.repeats):
        for n, clip in clips.items():
            if number == 0 or sum(run["total"]["wall_seconds"] for run in runs[n]) < settings.max_seconds:
                runs[n].append(in_process(measure_video, clip, settings))
    rows = [{"seconds": n * settings.unit_seconds} | median_run(found) for n, found in runs.items()]
    overlapping = make_clip(CLIPS, "h264", settings.unit_seconds, settings.overlap_duration)
    return {"rows": rows, "overlap": measure_overlap(overlapping, settings)}


def in_process(function: Callable[..., Report], *arguments: Any) -> Report:
    """Run a measurement in a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure_video(clip: Path, settings: Settings) -> Report:
    """Compress a clip into an empty cache and ask about it."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(settings.model, dtype="float32", cache_dir=folder)
        model.fingerprint  # noqa: B018  # computed once for a model, whatever the video
        loaded, found = resident_bytes(), []
        with MemoryTrace() as trace:
            total = time_once(lambda: found.append(model.compress(clip, fps=settings.fps, form=settings.form)))
        video: CompressedVideo = found[0]
        assert not video.from_cache
        entry = video.parts[0].entry
        seconds = {stage: getattr(video.stage_seconds, stage) for stage in STAGES}
        return {
            "num_frames": video.num_frames,
            "total": total.as_json(),
            "stages": seconds,
            "loaded_bytes": loaded,
            "peak_bytes": trace.peak_bytes,
            "memory": trace.thinned(),
            "size_bytes": entry.size_bytes,
            "bytes_per_frame": entry.bytes_per_frame,
        } | question_seconds(video)


def question_seconds(video: CompressedVideo) -> Report:
    """Seconds to assemble the whole video at K = 1, and to answer with 8 tokens from there."""
    assemble = time_once(lambda: video.prefix(num_voco_tokens=1))
    asked = interleaved({"ask": lambda: video.ask(QUESTION, num_voco_tokens=1, max_new_tokens=8)}, repeats=5)["ask"]
    return {"assemble": assemble.as_json(), "question": asked.as_json()}


def median_run(runs: list[Report]) -> Report:
    """The run of median total time, after checking that all did the same work, with the range of totals."""
    assert len({(run["num_frames"], run["size_bytes"]) for run in runs}) == 1
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
    shared = sum(timings[name].cpu_seconds for name in ("decode", "model")) / (os.cpu_count() or 1)
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
    """Durations, then the overlap."""
    headings = ["video", "frames", "total", "ms a frame", *STAGES]
    headings += ["memory: loaded", "peak", "cache", "assemble", "question"]
    rows = []
    for r in report["rows"]:
        stages = [f"{r['stages'][stage]:.2f} s" for stage in STAGES]
        sizes = [f"{r[name] / 2**20:.0f} MiB" for name in ("loaded_bytes", "peak_bytes")]
        asked = [seconds_cell(r["assemble"]), seconds_cell(r["question"])]
        name = f"{r['seconds'] / 60:g} min" if r["seconds"] >= 60 else f"{r['seconds']} s"
        per_frame = f"{r['total']['wall_seconds'] / r['num_frames'] * 1000:.1f}"
        cells = [name, r["num_frames"], seconds_cell(r["total"]), per_frame, *stages, *sizes]
        rows.append([*cells, f"{r['size_bytes'] / 1e6:.2f} MB", *asked])
    o = report["overlap"]
    sides = [[name, seconds_cell(t), seconds_cell(t, cpu=True)] for name, t in o["sides"].items()]
    return "\n\n".join(
        [
            "# Longer videos",
            table(headings, rows),
            f"Overlap, {o['num_frames']} frames:",
            table(["", "wall", "CPU"], sides),
            f"Both take {o['over_slower_alone']:.2f}x the slower one alone, {o['over_bound']:.2f}x the bound on this "
            f"machine ({max(o['slower_alone_seconds'], o['shared_out_seconds']):.2f} s), and "
            f"{o['over_one_after_the_other']:.2f}x one after the other.",
        ]
    )


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
    stages.legend(fontsize=8)
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
