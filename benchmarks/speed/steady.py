"""Memory and open files of one process over thousands of questions and hundreds of compressions.

    python -m benchmarks.speed.steady [--num-compressions 500] [--num-asks 2000]

Small clips are compressed again and again, each time from another moment on, so that every one is a new entry of the
cache, and are read back; then questions are asked about them, about entries that are opened anew as well as open ones.
Resident memory and open files are read all along. What matters is whether they grow once all has been used once: the
figure is the median of the last quarter of the readings less that of the second. Open files must not grow.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.errors import MismatchError
from benchmarks.report import Benchmark, Report, option, table
from benchmarks.timing import resident_bytes
from voco_video import VideoModel, load_model
from voco_video.cli.output import format_bytes
from voco_video.shapes.questions import draw_questions
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene, scene_rng

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_READINGS = 40


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    model: str = option("voco-tiny", "checkpoint")
    num_compressions: int = option(500, "new cache entries")
    num_asks: int = option(2000, "questions")
    num_clips: int = option(10, "different clips")
    num_frames: int = option(4, "frames of an entry")


QUICK = Settings(num_compressions=24, num_asks=24, num_clips=2, num_frames=2)


@dataclass(frozen=True)
class Reading:
    """What a process holds after some of the work."""

    done: int
    resident_bytes: int
    num_open_files: int


def read_along(work: Callable[[int], None], count: int) -> list[Reading]:
    """Do work 0, 1, ... count - 1, and read what the process holds now and then."""
    every = max(1, count // _NUM_READINGS)
    readings = []
    for number in range(count):
        work(number)
        if (number + 1) % every == 0 or number + 1 == count:
            gc.collect()
            readings.append(Reading(number + 1, resident_bytes(), len(os.listdir("/proc/self/fd"))))
    return readings


def growth(readings: list[Reading]) -> dict[str, float]:
    """What the last quarter of the readings has more than the second."""
    quarter = max(1, len(readings) // 4)
    early, late = readings[quarter : 2 * quarter], readings[-quarter:]
    return {
        name: statistics.median(getattr(r, name) for r in late) - statistics.median(getattr(r, name) for r in early)
        for name in ("resident_bytes", "num_open_files")
    }


def measure(settings: Settings) -> Report:
    """Compress, then ask."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(settings.model, cache_dir=Path(folder) / "cache")
        scenes = [draw_scene(0, split="test", index=index) for index in range(settings.num_clips)]
        clips = [write_clip(scene, Path(folder) / f"{i}.mp4", size=64) for i, scene in enumerate(scenes)]
        rng = scene_rng(0, split="test", index=0, purpose=7)
        questions = [q.question for q in draw_questions(scenes[0], rng, num_questions=8)]
        videos = [model.compress(clip, num_frames=settings.num_frames) for clip in clips]

        def compress(number: int) -> None:
            _compress(model, clips[number % len(clips)], number, settings)

        def ask(number: int) -> None:
            place = number % len(clips)
            is_new = number % 2
            video = model.compress(clips[place], num_frames=settings.num_frames) if is_new else videos[place]
            video.ask(questions[number % len(questions)], max_new_tokens=8)

        parts = {"compressing": read_along(compress, settings.num_compressions)}
        parts["asking"] = read_along(ask, settings.num_asks)
    found = {name: growth(readings) for name, readings in parts.items()}
    if any(grown["num_open_files"] > 0 for grown in found.values()):
        raise MismatchError(f"open files grow: {found}")
    return {
        "parts": [
            {
                "name": name,
                "count": readings[-1].done,
                "first_bytes": readings[0].resident_bytes,
                "last_bytes": readings[-1].resident_bytes,
                "grown_bytes": found[name]["resident_bytes"],
                "open_files": readings[-1].num_open_files,
                "readings": [vars(reading) for reading in readings],
            }
            for name, readings in parts.items()
        ]
    }


def _compress(model: VideoModel, clip: Path, number: int, settings: Settings) -> None:
    video = model.compress(clip, num_frames=settings.num_frames, start_seconds=0.001 * (number + 1))
    if video.prefix("what moves?").length == 0:
        raise MismatchError(f"{clip}: nothing was kept")


def markdown(report: Report) -> str:
    """A row for compressing and one for asking."""
    rows = [
        (
            part["name"],
            str(part["count"]),
            format_bytes(part["first_bytes"]),
            format_bytes(part["last_bytes"]),
            f"{part['grown_bytes'] / 2**20:+.1f} MiB",
            str(part["open_files"]),
        )
        for part in report["parts"]
    ]
    headings = ("", "times", "at first", "at last", "last quarter against the second", "open files")
    return f"# Memory and open files over time\n\nResident memory of one process.\n\n{table(headings, rows)}"


def draw(report: Report, figure: Figure) -> None:
    """Resident memory along the work."""
    axes = figure.subplots(1, len(report["parts"]), squeeze=False)[0]
    for part, place in zip(report["parts"], axes, strict=True):
        done = [reading["done"] for reading in part["readings"]]
        place.plot(done, [reading["resident_bytes"] / 2**20 for reading in part["readings"]])
        place.set(title=part["name"], xlabel="times", ylabel="resident MiB", ylim=0)


BENCHMARK = Benchmark(
    name="steady",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
)

if __name__ == "__main__":
    BENCHMARK.main()
