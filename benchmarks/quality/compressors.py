"""What each compressor costs and keeps, on the same encoded videos and the same questions.

    python -m benchmarks.quality.compressors --num-scenes 40 --out benchmarks/results/compressors

MovingShapes test scenes are drawn and encoded as H.264, compressed into a fresh frame cache by every compressor in
turn, and asked about. Writes OUT.json, OUT.md and OUT.png:

    bytes per frame     tensors in the cache
    frames/s            vision tower, language model and writing; decoding is the same for all and left out
    assemble            from the cache on disk to what the text attends to
    question            from there to 8 generated tokens, one question at a time
    accuracy            greedy answers that are right word for word, see `benchmarks.questions`

Times are medians over scenes after one that warms up.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.questions import NUM_FRAMES, Case, Outcome, accuracy, by_family, draw_case, outcomes_of, retention
from voco_video.answer.generate import AnswerOptions, answer_questions
from voco_video.api import CompressedVideo, VideoModel, load_model
from voco_video.cli.output import format_bytes
from voco_video.shapes.rendering import write_clip

NUM_ANSWER_TOKENS = 8


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


def measure(model: VideoModel, rows: Sequence[Row], arguments: argparse.Namespace, folder: Path) -> None:
    """All rows on all scenes; rows take turns on each scene, so that a busy minute does not fall on one alone."""
    options = {"form": arguments.form, "storage": arguments.storage}
    for index in range(-1, arguments.num_scenes):  # the first warms up, and is forgotten
        scene = max(index, 0)
        case = draw_case(scene, seed=arguments.seed, stage="video", temporal_fraction=arguments.temporal_fraction)
        clip = write_clip(case.scene, folder / f"{index}.mp4", size=arguments.size)
        for row in rows:
            kept = row if index >= 0 else Row(row.compressor, row.num_voco_tokens)
            measure_scene(model, clip, case, kept, scene=scene, options=options | {"force": True})


def report_of(rows: Sequence[Row], model: VideoModel, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as plain values."""
    table = {row.name: row.outcomes for row in rows}
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
                "retention": retention(table, row.name) if row.compressor != "none" else None,
            }
        )
    return {
        "model": arguments.model,
        "num_scenes": arguments.num_scenes,
        "num_questions": len(full.outcomes),
        "num_frames": NUM_FRAMES,
        "vision_tokens_per_frame": model.voco.backbone.num_vision_tokens,
        "seed": arguments.seed,
        "form": arguments.form,
        "storage": arguments.storage,
        "dtype": str(model.voco.backbone.dtype).removeprefix("torch."),
        "device": str(model.voco.backbone.device),
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads",
        "rows": lines,
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        "# Compressors on MovingShapes (test split)",
        "",
        f"Model `{report['model']}` ({report['dtype']}, {report['device']}), {report['num_scenes']} encoded videos of "
        f"{report['num_frames']} frames with {report['vision_tokens_per_frame']} vision tokens each, "
        f"{report['num_questions']} questions, seed {report['seed']}, form `{report['form']}`, storage "
        f"`{report['storage']}`. Made by `benchmarks/quality/compressors.py` on {report['machine']}.",
        "",
        "| compressor | tokens a frame | bytes a frame | frames/s | speed over full | assemble | question | accuracy | "
        "retention (95 %) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        speed, ratio, kept = row["compress_frames_per_second"], row["speed_over_full"], row["retention"]
        cells = [
            row["compressor"],
            str(row["tokens_per_frame"]),
            format_bytes(row["bytes_per_frame"]),
            f"{speed:.0f}" if speed else "",
            f"{ratio:.2f}" if ratio else "",
            f"{row['assemble_seconds'] * 1000:.1f} ms",
            f"{row['question_seconds'] * 1000:.0f} ms",
            f"{row['accuracy']:.1%}",
            f"{kept['rate']:.1%} ({kept['low']:.1%} – {kept['high']:.1%})" if kept else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(report: dict[str, Any], path: Path) -> None:
    """Accuracy over bytes per frame; the text alone as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
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
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="voco-tiny")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/compressors"))
    parser.add_argument("--num-scenes", type=int, default=40)
    parser.add_argument("--pools", type=int, nargs="*", default=[1, 4, 16], help="k of each pool:k")
    parser.add_argument("--budgets", type=int, nargs="*", default=[1, 2, 4, 8], help="VoCo tokens of each voco row")
    parser.add_argument("--form", choices=["kv", "embeds"], default="kv")
    parser.add_argument("--storage", choices=["native", "int8"], default="native")
    parser.add_argument("--size", type=int, default=240, help="side of the encoded videos, pixels")
    parser.add_argument("--temporal-fraction", type=float, default=0.5, help="share of questions about time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(arguments.model, device=arguments.device, dtype=arguments.dtype, cache_dir=f"{folder}/cache")
        budgets = [k for k in arguments.budgets if k <= model.num_voco_tokens]
        pools = [Row(f"pool:{k}") for k in arguments.pools]
        rows = [Row("none"), *pools, Row("full"), *(Row("voco", k) for k in budgets)]
        measure(model, rows, arguments, Path(folder))
    report = report_of(rows, model, arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(markdown(report))
    plot(report, arguments.out.with_suffix(".png"))
    print(markdown(report))


if __name__ == "__main__":
    main()
