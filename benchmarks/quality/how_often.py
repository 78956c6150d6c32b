"""How many times does something appear in ten minutes or an hour: counted by searching, and asked of the model.

    python -m benchmarks.quality.how_often [--quick] [--model voco-tiny] [--minutes 10 60]

MovingShapes haystacks (`benchmarks.haystacks.make_repeats`) in which shapes appear one to four times for two seconds.

    search      the moments of `find` whose frames likelier than not show it (a score above 0), counted
    certain     those whose score is at least `search.SURE_LOG_ODDS`, what policy `relevant` shows in any case
    relevant    the model's own answer to "how many times does ... appear?", from the frames that the question is about
    uniform     the same from frames spread evenly
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.clips import CLIPS
from benchmarks.haystacks import Haystack, make_repeats
from benchmarks.report import Benchmark, Report, option, table
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.search import SURE_LOG_ODDS
from voco_video.api import load_model
from voco_video.scoring.bootstrap import Estimate, resample
from voco_video.shapes.scene_view import NUMBERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (1, 2, 3, 4)
MOST_MOMENTS = 50
WAYS = ("search", "certain", "relevant", "uniform")
LEAST_SCORES = {"search": 0.0, "certain": SURE_LOG_ODDS}


@dataclass(frozen=True)
class Settings:
    """What is counted in what."""

    model: str = option("voco-tiny", "checkpoint folder or embedded model")
    minutes: tuple[float, ...] = option((10.0, 60.0), "lengths of the haystacks")
    num_videos: int = option(8, "haystacks of each length")
    num_names: int = option(2, "shapes for each number of times in a haystack")
    forms: tuple[str, ...] = option(("embeds", "kv"), "forms of the cache")
    num_voco_tokens: int = option(4, "K that the model's answers see of a frame")
    num_frames_seen: int = option(32, "frames that the model's answers see")


QUICK = Settings(minutes=(3.0,), num_videos=1, num_names=1, forms=("embeds",))


def measure(settings: Settings) -> Report:
    """A row for every length, form and way."""
    loaded = load_model(settings.model, dtype="float32", cache_dir=CLIPS / "needle-cache")
    if loaded.retriever is None:
        raise SystemExit(
            f"how_often: {settings.model} has not learned to find frames, so nothing says how many to count"
        )
    rows: list[Report] = []
    for minutes in settings.minutes:
        size = {"num_seconds": round(minutes * 60), "times": TIMES, "num_names": settings.num_names}
        haystacks = [make_repeats(CLIPS, **size, seed=seed) for seed in range(settings.num_videos)]
        for form in settings.forms:
            videos = [loaded.compress(h.path, fps=1, form=form) for h in haystacks]
            for way in WAYS:
                found = [counted(h, v, way, settings) for h, v in zip(haystacks, videos, strict=True)]
                rows.append({"minutes": minutes, "form": form, "way": way} | summary(found))
    return {"rows": rows}


def counted(haystack: Haystack, video: CompressedVideo, way: str, settings: Settings) -> list[tuple[int, int | None]]:
    """For every name how many times it appears, and how many times the way says; None where it gives no number."""
    pairs: list[tuple[int, int | None]] = []
    for group in sorted({n.group for n in haystack.needles}):
        names = [n.name for n in haystack.needles if n.group == group]
        least = LEAST_SCORES.get(way)
        said = asked(video, names[0], way, settings) if least is None else by_search(video, names[0], least)
        pairs.append((len(names), said))
    return pairs


def by_search(video: CompressedVideo, name: str, least: float) -> int:
    """Moments whose best frame has at least that score, a logarithm of odds."""
    return sum(moment.score >= least for moment in video.find(f"the {name}", num_moments=MOST_MOMENTS))


def asked(video: CompressedVideo, name: str, policy: Any, settings: Settings) -> int | None:
    """The number word that the model says."""
    answer = video.ask(
        f"how many times does the {name} appear?",
        num_voco_tokens=settings.num_voco_tokens,
        max_voco_tokens=settings.num_voco_tokens * settings.num_frames_seen,
        policy=policy,
        max_new_tokens=4,
    )
    word = answer.text.strip(" .").lower()
    return NUMBERS.index(word) if word in NUMBERS else None


def summary(found: list[list[tuple[int, int | None]]]) -> Report:
    """Shares over all names, with intervals over videos."""
    every = [pair for pairs in found for pair in pairs]
    right = np.array([[said == truth] for truth, said in every], float)
    videos = np.repeat(np.arange(len(found)), [len(pairs) for pairs in found])
    estimate = resample(right, np.ones_like(right), videos).estimates()[0]
    by_times = {str(n): float(np.mean([said == n for truth, said in every if truth == n])) for n in TIMES}
    return {
        "num_questions": len(every),
        "right": estimate.value,
        "interval": [estimate.low, estimate.high],
        "by_times": by_times,
        "mean_said": {str(n): mean_number([said for truth, said in every if truth == n]) for n in TIMES},
    }


def mean_number(said: list[int | None]) -> float | None:
    """Of those that are numbers."""
    numbers = [number for number in said if number is not None]
    return float(np.mean(numbers)) if numbers else None


def ratios(report: Report) -> dict[str, float]:
    """Share of counts by search that are right."""
    return {f"{r['minutes']:g} min, {r['form']}": r["right"] for r in report["rows"] if r["way"] == "search"}


def markdown(report: Report) -> str:
    """One table."""
    headings = ["video", "form", "way", "right, %", *(f"{n} times" for n in TIMES), "said for 1, 2, 3, 4"]
    cells = []
    for r in report["rows"]:
        right = Estimate(r["right"], *r["interval"]).text(100)
        said = ", ".join("–" if (m := r["mean_said"][str(n)]) is None else f"{m:.1f}" for n in TIMES)
        shares = [f"{r['by_times'][str(n)]:.0%}" for n in TIMES]
        cells.append([f"{r['minutes']:g} min", r["form"], r["way"], right, *shares, said])
    first, settings = report["rows"][0], report["settings"]
    about = (
        f"Model `{settings['model']}`, {first['num_questions']} questions a row, exact counts; guessing: "
        f"{1 / len(TIMES):.0%}. Answers see {settings['num_frames_seen']} frames; the model was never taught to count "
        "appearances (– where it says no number). 95 % intervals over videos."
    )
    return "\n\n".join(["# How many times", about, table(headings, cells)])


def draw(report: Report, figure: Figure) -> None:
    """What is said over how many times it was."""
    axes = figure.subplots()
    for r in report["rows"]:
        label = f"{r['minutes']:g} min, {r['form']}, {r['way']}"
        axes.plot(
            TIMES,
            [r["mean_said"][str(n)] or float("nan") for n in TIMES],
            "o-" if r["way"] in LEAST_SCORES else "x:",
            label=label,
        )
    axes.plot(TIMES, TIMES, color="black", linewidth=1)
    axes.set(xlabel="times that it appears", ylabel="mean of what is said", xticks=TIMES)
    axes.legend(fontsize=7)


BENCHMARK = Benchmark(
    name="how_often",
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
