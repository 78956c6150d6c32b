"""What a question costs: against frames and VoCo tokens in the cache, and against the video uncompressed.

    python -m benchmarks.speed.answer [--quick]

Three tables, greedy decoding, fp32 unless asked otherwise:

    cached        first token and tokens a second with F frames of K VoCo tokens before the question; assembling the
                  prefix from tokens in memory is given beside it
    uncompressed  the same with every vision token before the question (Hugging Face LLaVA, one causal sequence), for
                  as many frames as fit: from pixels, and with their keys and values kept in memory
    many          all of 1 to 100 questions about one video: compressed once, against LLaVA running it for each

Before timing, answers from VoCo tokens have to be those of the published one-sequence method run again for every token,
and answers from vision tokens those of Hugging Face's own generation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.report import Benchmark, Report, option, table
from benchmarks.shapes import make_model, random_pixels, random_text
from benchmarks.speed import rivals
from benchmarks.timing import Timing, check_same, cpu_seconds, interleaved, time_once
from voco_video.answer.generate import generate, generate_steps
from voco_video.model.tokens import Prefix, VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.answering import MAX_QUESTIONS_PER_BATCH, AnswerOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_VIDEO = "no video"


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    model: str = option("mid", "of benchmarks.shapes")
    dtype: str = option("float32", "of the weights; the check of answers is in float32 all the same")
    device: str = option("cpu", "cpu or cuda")
    num_frames: tuple[int, ...] = option((1, 16, 64, 256, 1024), "frames in the cache")
    budgets: tuple[int, ...] = option((1, 4, 8), "VoCo tokens of each frame")
    uncompressed_frames: tuple[int, ...] = option((1, 8, 64), "frames with all their vision tokens")
    text_length: int = option(24, "tokens of a question with what the template puts around it")
    num_tokens: int = option(16, "tokens generated for each question")
    video_frames: int = option(8, "frames of the video that many questions are asked about")
    num_questions: tuple[int, ...] = option((1, 10, 100), "how many")
    repeats: int = option(5, "rounds over all sides")
    max_seconds: float = option(90.0, "for a table no round begins after this long")


QUICK = Settings(
    model="small",
    num_frames=(1, 64, 256),
    budgets=(1, 8),
    uncompressed_frames=(1, 64),
    num_tokens=8,
    video_frames=4,
    num_questions=(1, 10),
    repeats=3,
    max_seconds=15.0,
)


@dataclass
class Asking:
    """One question asked again and again of one prefix, with what each round took."""

    model: VocoModel
    prefix: Prefix
    text_ids: list[int]
    num_tokens: int
    first_seconds: list[float] = field(default_factory=list)
    first_cpu_seconds: list[float] = field(default_factory=list)
    token_seconds: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        """Ask once."""
        options = AnswerOptions(self.num_tokens, stop_at_end=False)
        moments, cpu_moments = [], []
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in generate_steps(self.model, self.prefix, [self.text_ids], options=options):
            moments.append(time.perf_counter())
            cpu_moments.append(time.process_time())
        self.first_seconds.append(moments[0] - started)
        self.first_cpu_seconds.append(cpu_moments[0] - cpu_started)
        self.token_seconds += [later - earlier for earlier, later in pairwise(moments)]

    def as_json(self, timing: Timing) -> Report:
        """Medians of the counted rounds, the warm-up left out."""
        first, gaps = self.first_seconds[1:], self.token_seconds[self.num_tokens - 1 :]
        return {
            "first_token_seconds": statistics.median(first),
            "first_token_range": [min(first), max(first)],
            "first_token_cpu_seconds": statistics.median(self.first_cpu_seconds[1:]),
            "tokens_per_second": 1 / statistics.median(gaps) if gaps else None,
            "answer": timing.as_json(),
        }


def asking(model: VocoModel, prefix: Prefix, settings: Settings) -> Asking:
    """The same question for every prefix."""
    text_ids = random_text(model, settings.text_length).tolist()
    return Asking(model, prefix, text_ids, settings.num_tokens)


def check_answers(model: VocoModel, settings: Settings) -> None:
    """Two frames, every budget: generation from the cache, against the slow and obvious way.

    Raises:
        MismatchError: a token differs.
    """
    pixels, text_ids = random_pixels(model, 2), random_text(model, settings.text_length)
    tokens = model.compress(model.vision_tokens(pixels))
    for k in settings.budgets:
        slow = rivals.greedy_by_recomputing(model, pixels, text_ids, num_voco_tokens=k, num_tokens=4)
        fast = _answer(model, model.prefix(tokens, num_voco_tokens=k), text_ids)
        check_same({f"recomputing, K={k}": torch.tensor(slow), "from the cache": torch.tensor(fast)}, tolerance=0)
    theirs = rivals.llava_generate(model, pixels, text_ids.tolist(), num_tokens=4)
    kept = _answer(model, rivals.llava_prefix(model, pixels), text_ids)
    check_same({"LLaVA": torch.tensor(theirs), "LLaVA's prefix": torch.tensor(kept)}, tolerance=0)


def _answer(model: VocoModel, prefix: Prefix, text_ids: Tensor, *, num_tokens: int = 4) -> list[int]:
    options = AnswerOptions(num_tokens, stop_at_end=False)
    return generate(model, prefix, [text_ids.tolist()], options=options)[0][0]


def tokens_like_cached(model: VocoModel, num_frames: int) -> VocoTokens:
    """VoCo tokens of so many frames: two compressed ones over and over, which costs the text the same."""
    with torch.inference_mode():
        two = model.compress(model.vision_tokens(random_pixels(model, 2)))
    repeats = -(-num_frames // 2)
    return VocoTokens.cat([two] * repeats)[:num_frames]


def measure(settings: Settings) -> Report:
    """All three tables."""
    check_answers(make_model(settings.model, device=settings.device), settings)
    model = make_model(settings.model, dtype=settings.dtype, device=settings.device)
    with torch.inference_mode():
        return {
            "cached": measure_cached(model, settings),
            "uncompressed": measure_uncompressed(model, settings),
            "many": measure_many(model, settings),
        }


def measure_cached(model: VocoModel, settings: Settings) -> list[Report]:
    """No video, then every number of frames at every budget, in turns."""
    tokens = {f: tokens_like_cached(model, f) for f in settings.num_frames}
    cells = [(f, k) for k in settings.budgets for f in settings.num_frames]
    prefixes = {(f, k): model.prefix(tokens[f], num_voco_tokens=k) for f, k in cells}
    askings = {cell: asking(model, prefix, settings) for cell, prefix in prefixes.items()}
    askings[0, 0] = asking(model, model.empty_prefix(), settings)
    sides: dict[str, Any] = {f"ask {cell}": asked for cell, asked in askings.items()}
    sides |= {f"assemble {(f, k)}": lambda f=f, k=k: model.prefix(tokens[f], num_voco_tokens=k) for f, k in cells}
    timings = interleaved(sides, repeats=settings.repeats, max_seconds=settings.max_seconds)
    rows = []
    for f, k in [(0, 0), *cells]:
        assemble = timings[f"assemble {(f, k)}"].as_json() if f else None
        row = {"num_frames": f, "num_voco_tokens": k, "assemble": assemble}
        rows.append(row | askings[f, k].as_json(timings[f"ask {(f, k)}"]))
    return rows


def measure_uncompressed(model: VocoModel, settings: Settings) -> list[Report]:
    """All vision tokens before the question: prefilled once from pixels, then kept."""
    rows = []
    for num_frames in settings.uncompressed_frames:
        pixels, kept = random_pixels(model, num_frames), []
        prefill = time_once(lambda pixels=pixels, kept=kept: kept.append(rivals.llava_prefix(model, pixels)))
        compress = time_once(lambda pixels=pixels: compress_in_batches(model, pixels))
        asked = asking(model, kept[0], settings)
        share = settings.max_seconds / len(settings.uncompressed_frames)
        timing = interleaved({"kept": asked}, repeats=settings.repeats, max_seconds=share)["kept"]
        size_bytes = sum(t.numel() * t.element_size() for layer in kept[0].layers for t in layer)
        row = {"num_frames": num_frames, "prefill": prefill.as_json(), "compress": compress.as_json()}
        rows.append(row | {"prefix_bytes": size_bytes} | asked.as_json(timing))
    return rows


def compress_in_batches(model: VocoModel, pixels: Any, *, batch_size: int = 16) -> Prefix:
    """Pixels to an assembled prefix of one VoCo token a frame."""
    batches = [pixels[start : start + batch_size] for start in range(0, len(pixels), batch_size)]
    parts = [model.compress(model.vision_tokens(batch), num_voco_tokens=1) for batch in batches]
    return model.prefix(VocoTokens.cat(parts))


def measure_many(model: VocoModel, settings: Settings) -> Report:
    """Seconds from pixels until 1, 10, ... questions are answered, in three ways.

    The way that runs the video for each question is measured for three of them, and the sum worked out.
    """
    most = max(settings.num_questions)
    questions = [random_text(model, settings.text_length, seed=seed).tolist() for seed in range(most)]
    pixels = random_pixels(model, settings.video_frames)
    one_by_one = _cumulated(model, pixels, questions, settings, batch_size=1)
    together = _cumulated(model, pixels, questions, settings, batch_size=MAX_QUESTIONS_PER_BATCH)

    def rerun() -> None:
        rivals.llava_generate(model, pixels, questions[0], num_tokens=settings.num_tokens)

    again = interleaved({"rerun": rerun}, repeats=3, max_seconds=settings.max_seconds / 3)["rerun"]
    rows = [
        {
            "num_questions": count,
            "one_by_one": one_by_one[count],
            "together": together[count],
            "rerun": {"wall_seconds": count * again.wall_seconds, "cpu_seconds": count * again.cpu_seconds},
        }
        for count in settings.num_questions
    ]
    return {"num_frames": settings.video_frames, "rerun_once": again.as_json(), "rows": rows}


def _cumulated(
    model: VocoModel, pixels: Any, questions: Sequence[list[int]], settings: Settings, *, batch_size: int
) -> dict[int, Report]:
    """Seconds from pixels until each number of questions is answered; batches end at those numbers."""
    options = AnswerOptions(settings.num_tokens, stop_at_end=False)
    wall, cpu, done, found = time.perf_counter(), cpu_seconds(), 0, {}
    prefix = compress_in_batches(model, pixels)
    for count in sorted(settings.num_questions):
        while done < count:
            batch = questions[done : min(done + batch_size, count)]
            generate(model, prefix, batch, options=options)
            done += len(batch)
        found[count] = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": cpu_seconds() - cpu}
    return found


def ratios(report: Report) -> dict[str, float]:
    """In processor seconds: no video over cached frames, uncompressed over cached, re-running over compressing once."""
    first = _first_tokens(report, cpu=True)
    found = {
        f"first token: no video over {f} frames, K={k}": first[0, 0] / seconds for (f, k), seconds in first.items() if f
    }
    gains = _uncompressed_over_cached(report, cpu=True)
    found |= {f"first token: {f} frames uncompressed over cached, K=1": gain for f, gain in gains.items()}
    for row in report["many"]["rows"]:
        seconds = row["one_by_one"]["cpu_seconds"]
        found[f"{row['num_questions']} questions: LLaVA for each over compressed once"] = (
            row["rerun"]["cpu_seconds"] / seconds
        )
    return found


def _first_tokens(report: Report, *, cpu: bool = False) -> dict[tuple[int, int], float]:
    """Seconds to the first token by frames and K, (0, 0) being no video."""
    key = "first_token_cpu_seconds" if cpu else "first_token_seconds"
    return {(r["num_frames"], r["num_voco_tokens"]): r[key] for r in report["cached"]}


def _uncompressed_over_cached(report: Report, *, cpu: bool = False) -> dict[int, float]:
    """By frames: pixels to first token uncompressed, over first token from the cache at K = 1."""
    kind, first = "cpu" if cpu else "wall", _first_tokens(report, cpu=cpu)
    key = "first_token_cpu_seconds" if cpu else "first_token_seconds"
    return {
        row["num_frames"]: (row["prefill"][f"{kind}_seconds"] + row[key]) / first[row["num_frames"], 1]
        for row in report["uncompressed"]
        if (row["num_frames"], 1) in first
    }


def markdown(report: Report) -> str:
    """The three tables."""
    return "\n\n".join(
        [
            "# What a question costs",
            "Frames in the cache, their prefix assembled:",
            _cached_table(report),
            "Every vision token of the frames before the question (Hugging Face LLaVA):",
            _uncompressed_table(report),
            f"All questions about one video of {report['many']['num_frames']} frames, from its pixels "
            f"({report['settings']['num_tokens']} tokens each):",
            _many_table(report),
        ]
    )


def _cached_table(report: Report) -> str:
    wall, cpu = _first_tokens(report), _first_tokens(report, cpu=True)
    rows = []
    for r in report["cached"]:
        assemble = _ms(r["assemble"]["wall_seconds"]) if r["assemble"] else ""
        low, high = r["first_token_range"]
        first = f"{_ms(r['first_token_seconds'])} ({low * 1000:.1f}–{high * 1000:.1f})"
        cells = [r["num_frames"] or NO_VIDEO, r["num_voco_tokens"] or "", assemble, first]
        cell = r["num_frames"], r["num_voco_tokens"]
        over = f"{wall[cell] / wall[0, 0]:.2f}x (CPU {cpu[cell] / cpu[0, 0]:.2f}x)"
        rows.append([*cells, over, _rate(r)])
    return table(["frames", "K", "assemble", "first token", "over no video", "tokens/s"], rows)


def _uncompressed_table(report: Report) -> str:
    headings = ["frames", "prefix", "pixels to prefix", "first token, kept", "tokens/s", "pixels to VoCo prefix"]
    headings += ["pixels to first token over cached, K=1"]
    wall, cpu = _uncompressed_over_cached(report), _uncompressed_over_cached(report, cpu=True)
    rows = []
    for r in report["uncompressed"]:
        f = r["num_frames"]
        cells = [r["num_frames"], f"{r['prefix_bytes'] / 1e6:.0f} MB", f"{r['prefill']['wall_seconds']:.2f} s"]
        cells += [_ms(r["first_token_seconds"]), _rate(r), f"{r['compress']['wall_seconds']:.2f} s"]
        rows.append([*cells, f"{wall[f]:.0f}x (CPU {cpu[f]:.0f}x)" if f in wall else ""])
    return table(headings, rows)


def _many_table(report: Report) -> str:
    rows = []
    for r in report["many"]["rows"]:
        ours, together, again = (r[way]["wall_seconds"] for way in ("one_by_one", "together", "rerun"))
        cells = [f"{ours:.2f} s", f"{together:.2f} s", f"{again:.2f} s"]
        rows.append([r["num_questions"], *cells, f"{again / ours:.1f}x, {again / together:.1f}x"])
    ways = ["compressed once, one by one", "compressed once, together", "LLaVA for each"]
    return table(["questions", *ways, "LLaVA over ours"], rows)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _rate(row: Report) -> str:
    return f"{row['tokens_per_second']:.1f}" if row["tokens_per_second"] else ""


def draw(report: Report, figure: Figure) -> None:
    """First token and speed over frames; total time over questions."""
    first, speed, many = figure.subplots(1, 3)
    for k in report["settings"]["budgets"]:
        rows = [r for r in report["cached"] if r["num_voco_tokens"] == k]
        frames = [r["num_frames"] for r in rows]
        first.plot(frames, [r["first_token_seconds"] for r in rows], "o-", label=f"K={k}")
        speed.plot(frames, [r["tokens_per_second"] for r in rows], "o-", label=f"K={k}")
    rows = report["uncompressed"]
    frames = [r["num_frames"] for r in rows]
    prefilled = [r["prefill"]["wall_seconds"] + r["first_token_seconds"] for r in rows]
    first.plot(frames, prefilled, "s--", color="black", label="uncompressed, from pixels")
    first.plot(frames, [r["first_token_seconds"] for r in rows], "s:", color="grey", label="uncompressed, kept")
    speed.plot(frames, [r["tokens_per_second"] for r in rows], "s:", color="grey", label="uncompressed, kept")
    first.axhline(report["cached"][0]["first_token_seconds"], color="black", linewidth=1, linestyle=":")
    first.set(xscale="log", yscale="log", xlabel="frames", ylabel="seconds", title="first token")
    speed.set(xscale="log", xlabel="frames", title="tokens a second", ylim=0)
    counts = [r["num_questions"] for r in report["many"]["rows"]]
    for way, label in (("one_by_one", "one by one"), ("together", "together"), ("rerun", "LLaVA for each")):
        seconds = [r[way]["wall_seconds"] for r in report["many"]["rows"]]
        many.plot(counts, seconds, "o-", label=label)
    many.set(xscale="log", yscale="log", xlabel="questions", ylabel="seconds", title="from pixels to all answers")
    for axes in (first, speed, many):
        axes.legend(fontsize=8)


BENCHMARK = Benchmark(
    name="answer",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
    ratios=ratios,
    size=(13, 4),
)

if __name__ == "__main__":
    BENCHMARK.main()
