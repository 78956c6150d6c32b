"""What each compressor costs and keeps, on the same encoded videos and the same questions.

    python -m benchmarks.quality.compressors [--num-scenes 40] [--form kv] [--storage int8]

MovingShapes test scenes are drawn and encoded as H.264, compressed into a fresh frame cache by every compressor in
turn, and asked about:

    bytes per frame     tensors in the cache
    frames/s            vision tower, language model and writing; decoding is the same for all and left out
    assemble            from the cache on disk to what the text attends to
    question            from there to 8 generated tokens, one question at a time
    accuracy            greedy answers that are right word for word, see `benchmarks.questions`

Times are medians over scenes after one that warms up.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.questions import NUM_FRAMES, Case, Outcome, accuracy, by_family, draw_case, outcomes_of, retention
from benchmarks.report import Benchmark, Report, option, table
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.generate import answer_questions
from voco_video.api import VideoModel, load_model
from voco_video.cli.output import format_bytes
from voco_video.options.answering import AnswerOptions
from voco_video.shapes.rendering import write_clip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Settings:
    """Which model, on how many scenes, in which rows."""

    model: str = option("voco-tiny", "checkpoint to measure")
    num_scenes: int = option(40, "encoded videos, after one that warms up")
    pools: tuple[int, ...] = option((1, 4, 16), "k of each pool:k")
    budgets: tuple[int, ...] = option((1, 2, 4, 8), "VoCo tokens of each voco row")
    form: str = option("kv", "kv or embeds")
    storage: str = option("native", "native or int8")
    size: int = option(240, "side of the encoded videos, pixels")
    temporal_fraction: float = option(0.5, "share of questions about time")
    seed: int = option(0, "of the scenes and questions")
    device: str = option("auto", "where the model runs")
    dtype: str = option("float32", "in which type")


@dataclass
class Row:
    """One line of the table, gathered scene by scene."""

    compressor: str
    num_voco_tokens: int | None = None
    tokens_per_frame: int = 0
    bytes_per_frame: int = 0
    compress_seconds_per_frame: list[float] = field(default_factory=list)
    assemble_seconds: list[float] = field(default_factory=list)
    question_seconds: list[float] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the row is called."""
        return self.compressor if self.num_voco_tokens is None else f"{self.compressor} K={self.num_voco_tokens}"


def measure_scene(model: VideoModel, clip: Path, case: Case, row: Row, *, scene: int, options: dict[str, Any]) -> None:
    """Compress a clip in a row's way, ask every question of its case, and add what that came to."""
    video = model.compress(
        clip,
        timestamps=case.pts_seconds.tolist(),
        compressor=row.compressor,
        num_voco_tokens=row.num_voco_tokens,
        **options,
    )
    assert not video.from_cache
    seconds = video.stage_seconds
    row.tokens_per_frame = video.num_voco_tokens
    row.bytes_per_frame = video.parts[0].entry.bytes_per_frame
    row.compress_seconds_per_frame.append((seconds.vision + seconds.llm + seconds.write) / video.num_frames)
    row.assemble_seconds.append(_seconds(video.prefix))
    row.question_seconds.append(statistics.median(_question_seconds(video, case)))
    row.outcomes += outcomes_of(model.voco, video.prefix(), case, scene=scene)


def _question_seconds(video: CompressedVideo, case: Case) -> Iterator[float]:
    answering = AnswerOptions(max_new_tokens=NUM_ANSWER_TOKENS, stop_at_end=False)
    for question in case.questions[:3]:
        yield _seconds(
            lambda asked=question.question: answer_questions(
                video.model.voco, video.prefix(), [asked], options=answering, frame_pts_seconds=video.pts_seconds
            )
        )


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def fill(model: VideoModel, rows: Sequence[Row], settings: Settings, folder: Path) -> None:
    """Measure all rows on all scenes; rows take turns on each, so that a busy minute falls on none alone."""
    options = {"form": settings.form, "storage": settings.storage}
    for index in range(-1, settings.num_scenes):  # the first warms up, and is forgotten
        scene = max(index, 0)
        case = draw_case(scene, seed=settings.seed, stage="video", temporal_fraction=settings.temporal_fraction)
        clip = write_clip(case.scene, folder / f"{index}.mp4", size=settings.size)
        for row in rows:
            kept = row if index >= 0 else Row(row.compressor, row.num_voco_tokens)
            measure_scene(model, clip, case, kept, scene=scene, options=options | {"force": True})


def report_of(rows: Sequence[Row], model: VideoModel) -> Report:
    """Everything that was measured, as plain values."""
    outcomes = {row.name: row.outcomes for row in rows}
    full = next(row for row in rows if row.compressor == "full")
    speed_of_full = 1 / statistics.median(full.compress_seconds_per_frame)
    lines = []
    for row in rows:
        sees_frames = row.tokens_per_frame > 0
        speed = 1 / statistics.median(row.compress_seconds_per_frame)
        lines.append(
            {
                "compressor": row.name,
                "tokens_per_frame": row.tokens_per_frame,
                "bytes_per_frame": row.bytes_per_frame,
                "compress_frames_per_second": speed if sees_frames else None,
                "speed_over_full": speed / speed_of_full if sees_frames else None,
                "assemble_seconds": statistics.median(row.assemble_seconds),
                "question_seconds": statistics.median(row.question_seconds),
                "accuracy": accuracy(row.outcomes),
                "accuracy_by_family": by_family(row.outcomes),
                "retention": retention(outcomes, row.name) if row.compressor != "none" else None,
            }
        )
    return {
        "num_questions": len(full.outcomes),
        "num_frames": NUM_FRAMES,
        "vision_tokens_per_frame": model.voco.backbone.num_vision_tokens,
        "dtype": str(model.voco.backbone.dtype).removeprefix("torch."),
        "device": str(model.voco.backbone.device),
        "rows": lines,
    }


def markdown(report: Report) -> str:
    """The report as a table."""
    settings = report["settings"]
    rows = []
    for row in report["rows"]:
        speed, ratio, kept = row["compress_frames_per_second"], row["speed_over_full"], row["retention"]
        rows.append(
            (
                row["compressor"],
                row["tokens_per_frame"],
                format_bytes(row["bytes_per_frame"]),
                f"{speed:.0f}" if speed else "",
                f"{ratio:.2f}" if ratio else "",
                f"{row['assemble_seconds'] * 1000:.1f} ms",
                f"{row['question_seconds'] * 1000:.0f} ms",
                f"{row['accuracy']:.1%}",
                f"{kept['rate']:.1%} ({kept['low']:.1%} – {kept['high']:.1%})" if kept else "",
            )
        )
    headings = ["compressor", "tokens a frame", "bytes a frame", "frames/s", "speed over full", "assemble", "question"]
    return (
        "# Compressors on MovingShapes (test split)\n\n"
        f"Model `{settings['model']}` ({report['dtype']}, {report['device']}), {settings['num_scenes']} encoded videos "
        f"of {report['num_frames']} frames with {report['vision_tokens_per_frame']} vision tokens each, "
        f"{report['num_questions']} questions, seed {settings['seed']}, form `{settings['form']}`, storage "
        f"`{settings['storage']}`.\n\n" + table([*headings, "accuracy", "retention (95 %)"], rows)
    )


def draw(report: Report, figure: Figure) -> None:
    """Accuracy over bytes per frame; the text alone as a line."""
    axes = figure.subplots()
    for row in report["rows"]:
        if not row["bytes_per_frame"]:
            axes.axhline(row["accuracy"], color="black", linestyle=":", linewidth=1, label=row["compressor"])
            continue
        color = "#d95f0e" if row["compressor"].startswith("voco") else "#4878b0"
        axes.plot(row["bytes_per_frame"], row["accuracy"], "o", color=color)
        axes.annotate(
            row["compressor"],
            (row["bytes_per_frame"], row["accuracy"]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
        )
    axes.set(xscale="log", ylim=(0, 1), xlabel="bytes a frame in the cache", ylabel="accuracy")
    axes.margins(x=0.1)
    axes.legend(loc="lower right")


def measure(settings: Settings) -> Report:
    """All rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(settings.model, device=settings.device, dtype=settings.dtype, cache_dir=f"{folder}/cache")
        budgets = [k for k in settings.budgets if k <= model.num_voco_tokens]
        pools = [Row(f"pool:{k}") for k in settings.pools]
        rows = [Row("none"), *pools, Row("full"), *(Row("voco", k) for k in budgets)]
        fill(model, rows, settings, Path(folder))
    return report_of(rows, model)


BENCHMARK = Benchmark(
    name="compressors",
    about=__doc__ or "",
    default=Settings(),
    quick=Settings(num_scenes=2),
    measure=measure,
    markdown=markdown,
    draw=draw,
    size=(6.5, 4.2),
)

if __name__ == "__main__":
    BENCHMARK.main()
