"""Questions per second on cached videos: batched over one prefix, against asking one by one.

    python -m benchmarks.speed.answering [--num-videos 2] [--num-questions 32] [--num-frames 16] [--num-repeats 3]

Videos are compressed before anything is timed. Per video the same questions are
answered in four ways, and every way has to give the same answers:

    batched          all questions over one prefix, read from the cache: what `voco-video eval` does
    one by one       over one prefix, a question at a time
    prefix each time a question at a time, its prefix read from the cache and assembled anew
    frames each time a question at a time, the frames put through the model again: no cache. Their pixels are decoded
                     and in memory, which favours this side

Ways take turns on every video, and the figure is the median over repeats, so a busy minute falls on all of them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.errors import MismatchError
from benchmarks.report import Benchmark, Report, option, table
from voco_video import VideoModel, load_model, read_frames
from voco_video.answer.generate import answer_questions
from voco_video.options.answering import AnswerOptions
from voco_video.options.sampling import Sampling
from voco_video.shapes.questions import draw_questions
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene, scene_rng

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class Settings:
    """What is asked of how much."""

    model: str = option("voco-tiny", "checkpoint to ask")
    num_videos: int = option(2, "clips of the test split")
    num_questions: int = option(32, "questions on each")
    num_frames: int = option(16, "frames of each")
    num_repeats: int = option(3, "rounds, after one that warms up")


@dataclass(frozen=True)
class Clip:
    """A compressed clip, its decoded frames uint8 ``[F, H, W, 3]``, and its questions."""

    path: Path
    pixels: np.ndarray
    questions: tuple[str, ...]


Way = Callable[[VideoModel, Clip], list[str]]


def batched(model: VideoModel, clip: Clip) -> list[str]:
    """As `voco-video eval` asks."""
    video = model.compress(clip.path, num_frames=len(clip.pixels))
    return [answer.text for answer in video.ask(clip.questions, max_new_tokens=MAX_NEW_TOKENS)]


def one_by_one(model: VideoModel, clip: Clip) -> list[str]:
    """One question at a time over the same prefix."""
    video = model.compress(clip.path, num_frames=len(clip.pixels))
    return [video.ask(question, max_new_tokens=MAX_NEW_TOKENS).text for question in clip.questions]


def prefix_each_time(model: VideoModel, clip: Clip) -> list[str]:
    """One question at a time, each from the cache on disk."""
    return [
        model.compress(clip.path, num_frames=len(clip.pixels)).ask(question, max_new_tokens=MAX_NEW_TOKENS).text
        for question in clip.questions
    ]


def frames_each_time(model: VideoModel, clip: Clip) -> list[str]:
    """One question at a time, each after another pass of vision tower and language model over the frames."""
    answers = []
    for question in clip.questions:
        with torch.inference_mode():
            vision_tokens = model.voco.vision_tokens(clip.pixels)
            tokens = model.voco.compress(vision_tokens, form=model.voco.default_form or "kv")
        answers += answer_questions(
            model.voco,
            model.voco.prefix(tokens),
            [question],
            options=AnswerOptions(MAX_NEW_TOKENS),
            frame_pts_seconds=np.empty(0),
        )
    return [answer.text for answer in answers]


WAYS: dict[str, Way] = {
    "batched": batched,
    "one by one": one_by_one,
    "prefix each time": prefix_each_time,
    "frames each time": frames_each_time,
}


def make_clip(model: VideoModel, folder: Path, index: int, *, num_questions: int, num_frames: int) -> Clip:
    """A MovingShapes clip of the test split, compressed."""
    scene = draw_scene(0, split="test", index=index)
    questions = draw_questions(scene, scene_rng(0, split="test", index=index, purpose=7), num_questions=num_questions)
    path = write_clip(scene, folder / f"{index}.mp4", size=240)
    pixels = read_frames(path, Sampling(num_frames=num_frames), fit=model.voco.backbone.images.fit).pixels
    model.compress(path, num_frames=num_frames)
    return Clip(path, pixels, tuple(one.question for one in questions))


def seconds_of(model: VideoModel, clips: Sequence[Clip], *, num_repeats: int) -> dict[str, list[float]]:
    """Seconds that each way takes for all clips, per repeat.

    Raises:
        MismatchError: two ways do not give the same answers.
    """
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(num_repeats + 1):  # the first is a warm-up
        totals = dict.fromkeys(WAYS, 0.0)
        for clip in clips:
            answers = {}
            for name, way in WAYS.items():
                started = time.perf_counter()
                answers[name] = way(model, clip)
                totals[name] += time.perf_counter() - started
            different = [name for name in WAYS if answers[name] != answers["batched"]]
            if different:
                raise MismatchError(f"{clip.path.name}: {', '.join(different)} answered otherwise than batched")
        for name, total in totals.items():
            seconds[name].append(total)
    return {name: values[1:] for name, values in seconds.items()}


def measure(settings: Settings) -> Report:
    """Questions per second of every way."""
    sizes = {"num_questions": settings.num_questions, "num_frames": settings.num_frames}
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(settings.model, cache_dir=Path(folder) / "cache")
        clips = [make_clip(model, Path(folder), index, **sizes) for index in range(settings.num_videos)]
        seconds = seconds_of(model, clips, num_repeats=settings.num_repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "ways": {
            name: {
                "questions_per_second": settings.num_videos * settings.num_questions / median,
                "times_slower": median / medians["batched"],
                "seconds": seconds[name],
            }
            for name, median in medians.items()
        },
    }


def markdown(report: Report) -> str:
    """The report as a table."""
    settings = report["settings"]
    rows = [
        (name, f"{way['questions_per_second']:.1f}", f"{way['times_slower']:.1f}×")
        for name, way in report["ways"].items()
    ]
    return (
        "# Questions per second on cached videos\n\n"
        f"Model `{settings['model']}`, {settings['num_videos']} videos of {settings['num_frames']} frames, "
        f"{settings['num_questions']} questions on each. All ways gave the same answers.\n\n"
        + table(["asked", "questions/s", "batched is faster by"], rows)
    )


def draw(report: Report, figure: Figure) -> None:
    """Questions per second as bars."""
    axes = figure.subplots()
    names = list(report["ways"])[::-1]
    bars = axes.barh(names, [report["ways"][name]["questions_per_second"] for name in names], color="#4878b0")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set(xlabel="questions per second", title="Asking about cached videos")
    axes.margins(x=0.12)


BENCHMARK = Benchmark(
    name="answering",
    about=__doc__ or "",
    default=Settings(),
    quick=Settings(num_videos=1, num_questions=4, num_frames=4, num_repeats=1),
    measure=measure,
    markdown=markdown,
    draw=draw,
    size=(6, 2.6),
)

if __name__ == "__main__":
    BENCHMARK.main()
