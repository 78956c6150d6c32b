"""A two-second event in minutes to hours of video: is it found, is the question answered, and what does that cost?

    python -m benchmarks.needle [--quick] [--model voco-tiny] [--minutes 1 10 60 120]

MovingShapes haystacks (`benchmarks.haystacks`), one frame a second, really encoded, compressed once and reused. Every
question sees the same budget of --num-frames-seen frames, K tokens each, chosen by each policy:

    uniform    spread evenly: what most systems do
    relevant   those that have most to do with the question, found in the cache, with their neighbours

"found" says whether a frame of the event was among those seen, "right" whether the answer was, word for word. Two-event
questions name two needles and ask which came first. `full` sees all frames uncompressed, where the context holds them.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.clips import CLIPS
from benchmarks.haystacks import NEEDLE_SECONDS, Haystack, Needle, make_haystacks, num_places
from benchmarks.report import Benchmark, Report, option, table
from benchmarks.timing import MemoryTrace, time_once
from voco_video.api import CompressedVideo, VideoModel, load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Settings:
    """What is looked for in what."""

    model: str = option("voco-tiny", "checkpoint folder or embedded model")
    minutes: tuple[float, ...] = option((1.0, 10.0, 60.0, 120.0), "lengths of the haystacks")
    depths: tuple[float, ...] = option((0.1, 0.3, 0.5, 0.7, 0.9), "where in them events are, as a share")
    needles_per_depth: int = option(4, "questions per length and depth; two-event questions are half as many")
    forms: tuple[str, ...] = option(("embeds", "kv"), "forms of the cache")
    budgets: tuple[int, ...] = option((1, 4), "K: tokens of a frame that answers see")
    policies: tuple[str, ...] = option(("uniform", "relevant"), "how frames are chosen")
    num_frames_seen: int = option(8, "frames that a question sees; the budget in tokens is K times this")
    neighbours: int = option(1, "frames on each side of a relevant one that are seen with it")
    seed: int = option(0, "of the haystacks")


QUICK = Settings(minutes=(1.0, 2.0), depths=(0.3, 0.7), needles_per_depth=1, forms=("embeds",), budgets=(1,))


@dataclass(frozen=True)
class Asked:
    """One question and what came of it."""

    depth: float
    is_right: bool
    is_found: bool
    wall_seconds: float
    cpu_seconds: float


def measure(settings: Settings) -> Report:
    """All lengths, shortest first, so that what memory a longer one takes is its own."""
    cache_dir = CLIPS / "needle-cache"
    loaded = load_model(settings.model, dtype="float32", cache_dir=cache_dir)
    rows: list[Report] = []
    for minutes in sorted(settings.minutes):
        haystacks = make_haystacks(
            CLIPS,
            num_seconds=round(minutes * 60),
            depths=settings.depths,
            needles_per_depth=settings.needles_per_depth,
            seed=settings.seed,
        )
        for form in settings.forms:
            videos = [loaded.compress(h.path, fps=1, form=form) for h in haystacks]
            for k in settings.budgets:
                for policy in settings.policies:
                    seen = {"num_voco_tokens": k, "policy": policy, "max_voco_tokens": k * settings.num_frames_seen}
                    seen["neighbours"] = settings.neighbours
                    name = {"form": form, "K": k, "policy": policy}
                    rows.append(_row(minutes, name, haystacks, videos, seen))
        rows += _uncompressed(loaded, minutes, haystacks)
    return {"rows": rows, "chance": 1 / num_places(), "learned": loaded.retriever is not None}


def _uncompressed(loaded: VideoModel, minutes: float, haystacks: list[Haystack]) -> list[Report]:
    """All vision tokens of all frames, where the context length holds them."""
    backbone = loaded.voco.backbone
    tokens = haystacks[0].num_seconds * (backbone.num_vision_tokens + 2)
    if backbone.context_length is not None and tokens > backbone.context_length - 128:
        return []
    videos = [loaded.compress(h.path, fps=1, compressor="full", form="kv") for h in haystacks]
    seen = {"max_voco_tokens": 2 * tokens}
    return [_row(minutes, {"form": "full", "K": videos[0].num_voco_tokens, "policy": "all"}, haystacks, videos, seen)]


def _row(
    minutes: float, name: Report, haystacks: list[Haystack], videos: list[CompressedVideo], seen: dict[str, Any]
) -> Report:
    """One length under one condition."""
    single: list[Asked] = []
    double: list[Asked] = []
    with MemoryTrace() as memory:
        for haystack, video in zip(haystacks, videos, strict=True):
            video.ask("who is there?", max_new_tokens=1, **seen)  # segments are checked at their first read
            single += [_ask(video, n.question, n.place, [n], seen) for n in haystack.needles]
            double += [_ask(video, *pair, seen) for pair in _pairs(haystack)]
    by_depth: dict[float, list[Asked]] = defaultdict(list)
    for asked in single:
        by_depth[asked.depth].append(asked)
    return {
        **name,
        "minutes": minutes,
        "num_frames": videos[0].num_frames,
        "num_questions": len(single),
        "num_pairs": len(double),
        "right": {f"{depth:g}": _share([a.is_right for a in group]) for depth, group in sorted(by_depth.items())},
        "found": {f"{depth:g}": _share([a.is_found for a in group]) for depth, group in sorted(by_depth.items())},
        "pairs_right": _share([a.is_right for a in double]),
        "pairs_found": _share([a.is_found for a in double]),
        "wall_seconds": statistics.median(a.wall_seconds for a in single),
        "cpu_seconds": statistics.median(a.cpu_seconds for a in single),
        "size_bytes": videos[0].parts[0].entry.size_bytes,
        "peak_bytes": memory.peak_bytes,
    }


def _pairs(haystack: Haystack) -> list[tuple[str, str, list[Needle]]]:
    """Questions which of two needles came first, half of them with the later one named first."""
    needles, asked = haystack.needles, []
    for i in range(len(needles) // 2):
        first, second = needles[i], needles[i + (len(needles) + 1) // 2]
        one, other = (first, second) if i % 2 else (second, first)
        asked.append((f"who appears first, the {one.name} or the {other.name}?", first.name, [first, second]))
    return asked


def _ask(video: CompressedVideo, question: str, truth: str, needles: list[Needle], seen: dict[str, Any]) -> Asked:
    """Ask as a user would, with nothing kept from the question before."""
    fresh = CompressedVideo(video.model, video.parts)
    answers: list[Any] = []
    timing = time_once(lambda: answers.append(fresh.ask(question, max_new_tokens=8, **seen)))
    times = answers[0].frame_pts_seconds
    found = [((times >= n.start_seconds) & (times < n.start_seconds + NEEDLE_SECONDS)).any() for n in needles]
    is_right = answers[0].text.strip(" .").lower() == truth
    return Asked(needles[0].depth, is_right, all(found), timing.wall_seconds, timing.cpu_seconds)


def _share(values: list[bool]) -> float | None:
    return float(np.mean(values)) if values else None


# ---------------------------------------------------------------------- report


def ratios(report: Report) -> dict[str, float]:
    """How little longer a question takes on the longest video, where frames are chosen by it."""
    rows = [r for r in report["rows"] if r["policy"] == "relevant"]
    shortest, longest = (
        [r["cpu_seconds"] for r in rows if r["minutes"] == pick(r["minutes"] for r in rows)] for pick in (min, max)
    )
    return {"CPU seconds of a question: shortest over longest video": float(np.mean(shortest) / np.mean(longest))}


def markdown(report: Report) -> str:
    """One table: a row a length and a condition."""
    depths = list(report["rows"][0]["right"])
    headings = ["video", "form", "K", "policy", *(f"at {float(depth):.0%}" for depth in depths), "right", "found"]
    headings += ["two events right", "found", "question", "CPU", "cache", "peak memory"]
    rows = []
    for r in report["rows"]:
        right = [_percent(r["right"][depth]) for depth in depths]
        means = [_percent(_mean(r[kind])) for kind in ("right", "found")]
        pairs = [_percent(r["pairs_right"]), _percent(r["pairs_found"])]
        times = [f"{r[kind] * 1000:.0f} ms" for kind in ("wall_seconds", "cpu_seconds")]
        sizes = [f"{r['size_bytes'] / 1e6:.1f} MB", f"{r['peak_bytes'] / 2**20:.0f} MiB"]
        rows.append([f"{r['minutes']:g} min", r["form"], r["K"], r["policy"], *right, *means, *pairs, *times, *sizes])
    settings, first = report["settings"], report["rows"][0]
    how = "what it has learned about finding frames" if report["learned"] else "the attention of the question"
    return "\n\n".join(
        [
            "# Needles in haystacks",
            f"Model `{settings['model']}`, {first['num_questions']} questions a row and {first['num_pairs']} about "
            f"two events; each sees {settings['num_frames_seen']} frames (`full`: all). Guessing a place is right "
            f"{report['chance']:.0%} of the time, guessing who came first half of it. `relevant` chooses by {how}. "
            "Memory counts mapped pages of the cache that were read.",
            table(headings, rows),
        ]
    )


def _mean(by_depth: dict[str, float]) -> float:
    return float(np.mean(list(by_depth.values())))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def draw(report: Report, figure: Figure) -> None:
    """Heat maps of length against depth: a row of panels for each form and K, a column for each policy."""
    settings = report["settings"]
    lines = [(form, k) for form in settings["forms"] for k in settings["budgets"]]
    panels = figure.subplots(len(lines), len(settings["policies"]), squeeze=False)
    image = None
    for across, (form, k) in zip(panels, lines, strict=True):
        for axes, policy in zip(across, settings["policies"], strict=True):
            rows = [r for r in report["rows"] if (r["form"], r["K"], r["policy"]) == (form, k, policy)]
            heat = np.array([list(r["right"].values()) for r in rows])
            image = axes.imshow(heat.T, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
            axes.set_xticks(range(len(rows)), [f"{r['minutes']:g} min" for r in rows], fontsize=8)
            axes.set_yticks(range(heat.shape[1]), [f"{float(d):.0%}" for d in rows[0]["right"]], fontsize=8)
            axes.set_title(f"{policy}, {form}, K = {k}", fontsize=9)
            axes.set_ylabel("depth", fontsize=8)
            for x, y in np.ndindex(*heat.shape):
                axes.text(x, y, f"{heat[x, y]:.0%}", ha="center", va="center", fontsize=7)
    figure.colorbar(image, ax=panels, label="right answers")


BENCHMARK = Benchmark(
    name="needle",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
    ratios=ratios,
    size=(9, 9),
)

if __name__ == "__main__":
    BENCHMARK.main()
