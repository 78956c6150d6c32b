"""Questions about frames: compressed once, against the published method and Hugging Face LLaVA's own prefill.

    python -m benchmarks.speed.compress_rivals [--quick]

From pixels to the logits of every question's text, no token generated. Four ways:

    voco-video       compress the frames once, then each question's text after the prefix
    published        frames and text in one sequence under a dense mask, run again for every question
    LLaVA            Hugging Face's own prefill of all vision tokens and text, run again for every question
    LLaVA, kept      the same, with the vision tokens' keys and values kept in memory for later questions

Voco-video and the published method have to give the same logits; LLaVA's have to be those of this package's parts run
without compression. Frames a second are those of the video over the time until all its questions are answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from benchmarks.report import Benchmark, Report, option, seconds_cell, table
from benchmarks.shapes import make_model, random_pixels, random_text
from benchmarks.speed import rivals
from benchmarks.speed.ceiling import is_fast
from benchmarks.speed.compress import NO_KERNELS, TOLERANCES
from benchmarks.timing import check_same, interleaved
from voco_video.model.voco import VocoModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS = "voco-video"


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    models: tuple[str, ...] = option(("mid",), "of benchmarks.shapes")
    dtypes: tuple[str, ...] = option(("float32", "bfloat16"), "of the weights")
    num_frames: tuple[int, ...] = option((1, 8), "frames of the video")
    num_questions: tuple[int, ...] = option((1, 4), "questions about it")
    text_length: int = option(24, "tokens of a question with what the template puts around it")
    num_voco_tokens: int = option(1, "K")
    device: str = option("cpu", "cpu or cuda")
    repeats: int = option(3, "rounds over all sides")
    max_seconds: float = option(90.0, "for a number of frames and questions no round begins after this long")


QUICK = Settings(models=("small",), num_frames=(4,), repeats=3, max_seconds=10.0)


@dataclass(frozen=True)
class Work:
    """A video in memory and the questions about it.

    Attributes:
        rival: the same weights with the library's own attention, for the other sides.
    """

    model: VocoModel
    rival: VocoModel
    pixels: Any
    questions: tuple[Tensor, ...]
    num_voco_tokens: int


def by_voco_video(work: Work) -> Tensor:
    """Compress once; logits of all questions, ``[Q, T, vocabulary]``."""
    with torch.inference_mode():
        tokens = work.model.compress(work.model.vision_tokens(work.pixels), num_voco_tokens=work.num_voco_tokens)
        prefix = work.model.prefix(tokens)
        return torch.cat([work.model(ids[None], prefix=prefix)[0] for ids in work.questions])


def by_published(work: Work) -> Tensor:
    """One sequence for each question."""
    k = work.num_voco_tokens
    logits = [rivals.published_logits(work.rival, work.pixels, ids, num_voco_tokens=k) for ids in work.questions]
    return torch.stack(logits)


def by_llava(work: Work) -> Tensor:
    """Hugging Face's prefill for each question."""
    return torch.stack([rivals.llava_logits(work.rival, work.pixels, ids) for ids in work.questions])


def by_llava_kept(work: Work) -> Tensor:
    """Hugging Face's prefill once, its cache cut back to the frames for each further question."""
    cache = DynamicCache()
    first, *others = work.questions
    logits = [rivals.llava_logits(work.rival, work.pixels, first, cache=cache)]
    num_cached = cache.get_seq_length() - len(first)
    logits += [rivals.llava_logits_after(work.rival, cache, num_cached, ids) for ids in others]
    return torch.stack(logits)


SIDES: dict[str, Callable[[Work], Tensor]] = {
    OURS: by_voco_video,
    "published": by_published,
    "LLaVA": by_llava,
    "LLaVA, kept": by_llava_kept,
}


def check_sides(work: Work, *, tolerance: float) -> dict[str, float]:
    """How far each side is from what it should give.

    Raises:
        MismatchError: by more than the tolerance.
    """
    compressed = {name: SIDES[name](work) for name in ("published", OURS)}
    whole = torch.stack([rivals.uncompressed_logits(work.rival, work.pixels, ids) for ids in work.questions])
    uncompressed = {"all vision tokens": whole} | {name: SIDES[name](work) for name in ("LLaVA", "LLaVA, kept")}
    return check_same(compressed, tolerance=tolerance) | check_same(uncompressed, tolerance=tolerance)


def measure(settings: Settings) -> Report:
    """A row for every model, type, number of frames and number of questions."""
    rows, not_run = [], {}
    for name in settings.models:
        for dtype in settings.dtypes:
            if not is_fast(dtype, device=settings.device):
                not_run[dtype] = NO_KERNELS
                continue
            model = make_model(name, dtype=dtype, device=settings.device)
            is_theirs = model.backbone.text_config._attn_implementation == "sdpa"
            rival = model if is_theirs else make_model(name, dtype=dtype, device=settings.device, attention="sdpa")
            for num_frames in settings.num_frames:
                for num_questions in settings.num_questions:
                    row = measure_row(model, rival, num_frames, num_questions, settings)
                    rows.append({"model": name, "dtype": dtype} | row)
    return {"rows": rows, "not_run": not_run}


def measure_row(model: VocoModel, rival: VocoModel, num_frames: int, num_questions: int, settings: Settings) -> Report:
    """All sides on one video and its questions."""
    questions = tuple(random_text(model, settings.text_length, seed=q) for q in range(num_questions))
    work = Work(model, rival, random_pixels(model, num_frames), questions, settings.num_voco_tokens)
    errors = check_sides(work, tolerance=TOLERANCES[str(model.backbone.dtype).removeprefix("torch.")])
    sides = {name: lambda side=side: side(work) for name, side in SIDES.items()}
    timings = interleaved(sides, repeats=settings.repeats, warm_ups=0, max_seconds=settings.max_seconds)
    ours = timings[OURS]
    return {
        "num_frames": num_frames,
        "num_questions": num_questions,
        "errors": errors,
        "sides": {
            name: timing.as_json()
            | {"frames_per_second": num_frames / timing.wall_seconds}
            | {"wall_ratio": timing.wall_seconds / ours.wall_seconds}
            | {"cpu_ratio": timing.cpu_seconds / ours.cpu_seconds}
            for name, timing in timings.items()
        },
    }


def ratios(report: Report) -> dict[str, float]:
    """Processor seconds of each other side over ours."""
    found = {}
    for row in report["rows"]:
        case = f"{row['model']} {row['dtype']}, {row['num_frames']} frames, {row['num_questions']} questions"
        others = {name: side for name, side in row["sides"].items() if name != OURS}
        found |= {f"{case}: {name} over ours": side["cpu_ratio"] for name, side in others.items()}
    return found


def markdown(report: Report) -> str:
    """Seconds, frames a second and how many times longer than ours."""
    headings = ["model", "frames", "questions", *SIDES]
    rows = []
    for row in report["rows"]:
        cells = []
        for name, side in row["sides"].items():
            ratio = "" if name == OURS else f", {side['wall_ratio']:.2f}x (CPU {side['cpu_ratio']:.2f}x)"
            cells.append(f"{seconds_cell(side)}, {side['frames_per_second']:.2f} frames/s{ratio}")
        rows.append([f"{row['model']} {row['dtype']}", row["num_frames"], row["num_questions"], *cells])
    not_run = [f"Not run: {dtype} ({reason})." for dtype, reason in report["not_run"].items()]
    title = "# Compressed once, against running the video for every question"
    return "\n\n".join([title, table(headings, rows), *not_run])


def draw(report: Report, figure: Figure) -> None:
    """Frames a second as bars."""
    axes = figure.subplots()
    for place, name in enumerate(SIDES):
        at = [i + (place - len(SIDES) / 2 + 0.5) * 0.8 / len(SIDES) for i in range(len(report["rows"]))]
        heights = [row["sides"][name]["frames_per_second"] for row in report["rows"]]
        axes.bar(at, heights, 0.8 / len(SIDES), label=name)
    labels = [
        f"{row['model']}\n{row['dtype']}\n{row['num_frames']} frames\n{row['num_questions']} qu."
        for row in report["rows"]
    ]
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylabel("frames a second")
    axes.legend(fontsize=8)


BENCHMARK = Benchmark(
    name="compress_rivals",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
    ratios=ratios,
)

if __name__ == "__main__":
    BENCHMARK.main()
