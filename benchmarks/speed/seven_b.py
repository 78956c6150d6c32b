"""What LLaVA-1.5-7B's exact shape costs here: compressing, bytes, questions over many cached frames, memory.

    python -m benchmarks.speed.seven_b                        a CPU with 24 GiB: minutes
    python -m benchmarks.speed.seven_b --full                 a GPU with 24 GiB or more
    python -m benchmarks.speed.seven_b --checkpoint FOLDER    weights stay in their files, so less memory has to be free

Weights are random and made on the device, which changes no time and no byte. Pixels in memory go through vision tower
and language model; then a question with a batch of 1 is asked over 1 to 256 cached frames: the prefix is assembled
from the cached keys and values, the question is read, answer tokens are generated, and all three are timed. Frames
beyond those that were compressed repeat them, each at its own place. A batch has to give what its frames give one by
one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.report import Benchmark, Report, option, seconds_cell, table
from benchmarks.shapes import llm_flops, make_model, random_pixels, random_text, vision_flops
from benchmarks.speed.compress import TOLERANCES, see
from benchmarks.timing import MemoryTrace, check_same, interleaved, resident_bytes
from voco_video.answer.generate import generate
from voco_video.checkpoint.folder import load_voco_model
from voco_video.cli.output import format_bytes
from voco_video.model.memory import largest_batch
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    model: str = option("7b", "of benchmarks.shapes")
    checkpoint: str = option("", "a checkpoint of LLaVA-1.5's kind to measure in place of random weights")
    dtype: str = option("bfloat16", "of the weights")
    device: str = option("cpu", "cpu or cuda")
    attention: str = option("sdpa", "attention of Hugging Face models, such as sdpa, flash_attention_2")
    num_voco_tokens: int = option(1, "K")
    batch_sizes: tuple[int, ...] = option((1, 2), "frames per forward pass")
    cached_frames: tuple[int, ...] = option((1, 16, 256), "frames that a question is asked over")
    question_tokens: int = option(32, "length of the question")
    answer_tokens: int = option(4, "length of the answer")
    repeats: int = option(3, "rounds over all sides")
    warm_ups: int = option(1, "rounds that are not counted")
    max_seconds: float = option(300.0, "no round begins after this long")


QUICK = Settings(model="tiny", dtype="float32", cached_frames=(1, 8), question_tokens=4, answer_tokens=2, repeats=2)
FULL = Settings(
    device="cuda",
    batch_sizes=(1, 4, 16, 64),
    cached_frames=(1, 4, 16, 64, 256),
    answer_tokens=16,
    repeats=9,
)


def measure(settings: Settings) -> Report:
    """Make the model, then measure each part of it."""
    report: Report = {}
    with MemoryTrace() as memory:
        started = time.perf_counter()
        model = load_or_make(settings)
        report["make_seconds"] = time.perf_counter() - started
        report["num_parameters"] = sum(p.numel() for p in model.parameters())
        report["model_bytes"] = sum(p.numel() * p.element_size() for p in model.parameters())
        report["num_vision_tokens"] = model.backbone.num_vision_tokens
        compressing, few = measure_compressing(model, settings)
        report |= compressing | measure_questions(model, few, settings)
    report["memory"] = peak_memory(memory, settings.device)
    return report


def load_or_make(settings: Settings) -> VocoModel:
    """The model to measure."""
    options = {"dtype": settings.dtype, "device": settings.device}
    if not settings.checkpoint:
        return make_model(settings.model, attention=settings.attention, **options)
    return load_voco_model(settings.checkpoint, attn_implementation=settings.attention, **options)


def measure_compressing(model: VocoModel, settings: Settings) -> tuple[Report, VocoTokens]:
    """Frames per second at every batch size that fits, and what is kept of the frames of the largest."""
    pixels = random_pixels(model, max(settings.batch_sizes))
    fits = max(settings.batch_sizes)
    if settings.device == "cuda":
        fits = largest_batch(lambda n: compress(model, random_pixels(model, n), settings), device=model.backbone.device)
    sizes = [size for size in settings.batch_sizes if size <= fits]
    sides: dict[str, Callable[[], Any]] = {}
    results: dict[str, VocoTokens] = {}
    for size in sizes:
        sides[f"vision {size}"] = lambda size=size: see(model, pixels[:size])
        sides[f"compress {size}"] = lambda size=size: results.update(
            {str(size): compress(model, pixels[:size], settings)}
        )
    timings = interleaved(sides, repeats=settings.repeats, warm_ups=settings.warm_ups, max_seconds=settings.max_seconds)
    # Every size holds the first frame; what a batch makes of it has to be what it is alone.
    first = {f"batch of {size}": _kept(tokens[0:1]) for size, tokens in results.items()}
    errors = check_same(first, tolerance=TOLERANCES[settings.dtype])
    flops = vision_flops(model) + llm_flops(model, settings.num_voco_tokens)
    rows = [
        {
            "batch_size": size,
            "vision": timings[f"vision {size}"].as_json(),
            "compress": timings[f"compress {size}"].as_json(),
            "frames_per_second": size / timings[f"compress {size}"].wall_seconds,
            "frames_per_cpu_second": size / timings[f"compress {size}"].cpu_seconds,
            "flops_per_second": size * flops / timings[f"compress {size}"].wall_seconds,
        }
        for size in sizes
    ]
    kept = bytes_of(results[str(sizes[0])]) // sizes[0]
    itemsize = getattr(torch, settings.dtype).itemsize
    report = {
        "largest_batch": fits if settings.device == "cuda" else None,
        "flops_per_frame": flops,
        "compress": rows,
        "bytes_per_frame": {
            "kv": kept,
            "embeds": settings.num_voco_tokens * model.backbone.hidden_size * itemsize,
        },
        "error": max(errors.values(), default=0.0),
    }
    return report, results[str(sizes[-1])]


def compress(model: VocoModel, pixels: Any, settings: Settings) -> VocoTokens:
    """Pixels to keys and values."""
    return model.compress(see(model, pixels), num_voco_tokens=settings.num_voco_tokens)


def bytes_of(tokens: VocoTokens) -> int:
    """What is kept of frames, without the positions of their keys."""
    return sum(t.numel() * t.element_size() for name, t in tokens.tensors().items() if name != "positions")


def _kept(tokens: VocoTokens) -> torch.Tensor:
    assert tokens.keys is not None
    assert tokens.values is not None
    return torch.stack([tokens.keys, tokens.values])


def measure_questions(model: VocoModel, few: VocoTokens, settings: Settings) -> Report:
    """Seconds from cached keys and values to an answer, by the number of frames; a few stand for all of them."""
    few = replace(few, **{name: tensor.cpu() for name, tensor in few.tensors().items()})  # as a cache gives them
    question = random_text(model, settings.question_tokens).tolist()
    sides: dict[str, Callable[[], Any]] = {}
    sizes: dict[int, int] = {}
    for count in settings.cached_frames:
        cached = VocoTokens.cat([few] * -(-count // few.num_frames))[0:count]
        sizes[count] = bytes_of(cached)
        sides[f"assemble {count}"] = lambda cached=cached: model.prefix(cached)
        for name, length in (("first token", 1), ("answer", settings.answer_tokens)):
            sides[f"{name} {count}"] = lambda cached=cached, length=length: ask(model, cached, question, length)
    timings = interleaved(sides, repeats=settings.repeats, warm_ups=settings.warm_ups, max_seconds=settings.max_seconds)
    return {
        "questions": [
            {
                "cached_frames": count,
                "cached_bytes": sizes[count],
                **{
                    name.replace(" ", "_"): timings[f"{name} {count}"].as_json()
                    for name in ("assemble", "first token", "answer")
                },
            }
            for count in settings.cached_frames
        ]
    }


def ask(model: VocoModel, cached: VocoTokens, question: list[int], num_tokens: int) -> list[int]:
    """Assemble, read the question, generate exactly so many tokens."""
    options = AnswerOptions(max_new_tokens=num_tokens, stop_at_end=False)
    return generate(model, model.prefix(cached), [question], options=options)[0][0]


def peak_memory(memory: MemoryTrace, device: str) -> Report:
    """The most that was taken: resident in this process, and on the GPU."""
    taken = {"resident_bytes": max(memory.peak_bytes, resident_bytes())}
    return taken | ({"gpu_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {})


def markdown(report: Report) -> str:
    """Two tables and what is the same for all of their rows."""
    settings, memory = report["settings"], report["memory"]
    kept = report["bytes_per_frame"]
    origin = "loaded from a checkpoint" if settings["checkpoint"] else "random weights made"
    where = f"{format_bytes(memory['gpu_bytes'])} on the GPU, " if "gpu_bytes" in memory else ""
    fits = report["largest_batch"]
    lines = [
        "# LLaVA-1.5-7B's shape" if settings["model"] == "7b" else f"# The shape {settings['model']!r}",
        f"{report['num_parameters'] / 1e9:.2f} G parameters, {format_bytes(report['model_bytes'])} as "
        f"{settings['dtype']} on {settings['device']} ({settings['attention']}), {origin} in "
        f"{report['make_seconds']:.0f} s; {report['num_vision_tokens']} vision tokens a frame, K = "
        f"{settings['num_voco_tokens']}. Kept of a frame: {format_bytes(kept['kv'])} (kv) or "
        f"{format_bytes(kept['embeds'])} (embeds). Peak memory: {where}{format_bytes(memory['resident_bytes'])} "
        "resident." + (f" Largest batch that fits: {fits}." if fits else ""),
        table(
            ["frames a pass", "frames/s", "frames per CPU s", "GFLOP/s", "vision", "vision + LLM"],
            [
                (
                    r["batch_size"],
                    f"{r['frames_per_second']:.3g}",
                    f"{r['frames_per_cpu_second']:.3g}",
                    f"{r['flops_per_second'] / 1e9:.0f}",
                    seconds_cell(r["vision"]),
                    seconds_cell(r["compress"]),
                )
                for r in report["compress"]
            ],
        ),
        f"One question of {settings['question_tokens']} tokens, {settings['answer_tokens']} tokens of answer, from "
        "cached keys and values in memory:",
        table(
            ["cached frames", "bytes", "assemble", "first token", "answer", "answer, CPU"],
            [
                (
                    r["cached_frames"],
                    format_bytes(r["cached_bytes"]),
                    seconds_cell(r["assemble"]),
                    seconds_cell(r["first_token"]),
                    seconds_cell(r["answer"]),
                    seconds_cell(r["answer"], cpu=True),
                )
                for r in report["questions"]
            ],
        ),
    ]
    return "\n\n".join(lines)


def draw(report: Report, figure: Figure) -> None:
    """Frames per second by batch, and seconds of a question by cached frames."""
    left, right = figure.subplots(1, 2)
    rows = report["compress"]
    left.plot([r["batch_size"] for r in rows], [r["frames_per_second"] for r in rows], "o-")
    left.set(xlabel="frames a pass", ylabel="frames/s", ylim=0)
    questions = report["questions"]
    counts = [r["cached_frames"] for r in questions]
    for name in ("assemble", "first_token", "answer"):
        right.plot(counts, [r[name]["wall_seconds"] for r in questions], "o-", label=name.replace("_", " "))
    right.set(xscale="log", xlabel="cached frames", ylabel="seconds", ylim=0)
    right.legend()


BENCHMARK = Benchmark(
    name="seven_b",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    full=FULL,
    measure=measure,
    markdown=markdown,
    draw=draw,
)

if __name__ == "__main__":
    BENCHMARK.main()
