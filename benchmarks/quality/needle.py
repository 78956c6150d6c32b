"""A two-second event in minutes to hours of video: is it found, is the question answered, and what does that cost?

    python -m benchmarks.quality.needle [--quick] [--model voco-tiny] [--minutes 1 10 60 120]
    python -m benchmarks.quality.needle --minutes 120 --forms kv --merge    one piece, added to what was there

MovingShapes haystacks (`benchmarks.haystacks`), one frame a second, really encoded, compressed once and reused; the
same needles in the same scenes at the same depths in every length, so that lengths are compared on the same questions.
The first time takes 6 ms of processor time a frame, 15 minutes in all, and 6 GB. Every question sees the same budget
of --num-frames-seen frames, K tokens each, chosen by each policy:

    uniform    spread evenly: what most systems do
    relevant   those that have most to do with the question, found in the cache, with their neighbours; fewer where no
               others have to do with it

"found" says whether a frame of the event was among those seen, "right" whether the answer was, word for word. Two-event
questions name two needles and ask which came first. Seconds are those of a question to a video that was asked before
("first": that was not, with the checksums of its files checked already). `full` sees all frames uncompressed, where
the context holds them.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.clips import CLIPS
from benchmarks.errors import MismatchError
from benchmarks.haystacks import NEEDLE_SECONDS, Haystack, Needle, make_haystacks, num_places
from benchmarks.report import Benchmark, Report, option, table
from benchmarks.timing import MemoryTrace, Timing, time_once
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.api import VideoModel, load_model
from voco_video.scoring.bootstrap import NUM_RESAMPLES, Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Settings:
    """What is looked for in what."""

    model: str = option("voco-tiny", "checkpoint folder or embedded model")
    minutes: tuple[float, ...] = option((1.0, 10.0, 60.0, 120.0), "lengths of the haystacks")
    depths: tuple[float, ...] = option((0.1, 0.3, 0.5, 0.7, 0.9), "where in them events are, as a share")
    needles_per_depth: int = option(40, "questions per length and depth; two-event questions are twice as many in all")
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

    group: int
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
    first: list[Timing] = []
    with MemoryTrace() as memory:
        for haystack, video in zip(haystacks, videos, strict=True):
            fresh = CompressedVideo(video.model, video.parts)
            fresh.ask("who is there?", max_new_tokens=1, **seen)  # segments are checked at their first read
            fresh = CompressedVideo(video.model, video.parts)
            first.append(time_once(lambda: fresh.ask("who is there?", max_new_tokens=8, **seen)))  # noqa: B023
            single += [_ask(fresh, n.question, n.place, [n], seen) for n in haystack.needles]
            double += [_ask(fresh, *pair, seen) for pair in _pairs(haystack)]
    by_depth: dict[str, list[Asked]] = defaultdict(list)
    for asked in sorted(single, key=lambda a: (a.depth, a.group)):
        by_depth[f"{asked.depth:g}"].append(asked)
    double.sort(key=lambda a: (a.depth, a.group))
    return {
        **name,
        "minutes": minutes,
        "num_frames": videos[0].num_frames,
        "num_videos": len(videos),
        "num_questions": len(single),
        "num_pairs": len(double),
        "right": {depth: _bits(a.is_right for a in group) for depth, group in by_depth.items()},
        "found": {depth: _bits(a.is_found for a in group) for depth, group in by_depth.items()},
        "pairs_right": _bits(a.is_right for a in double),
        "pairs_found": _bits(a.is_found for a in double),
        "wall_seconds": statistics.median(a.wall_seconds for a in single),
        "cpu_seconds": statistics.median(a.cpu_seconds for a in single),
        "first_cpu_seconds": statistics.median(t.cpu_seconds for t in first),
        "size_bytes": videos[0].parts[0].entry.size_bytes,
        "peak_bytes": memory.peak_bytes,
    }


def _pairs(haystack: Haystack) -> list[tuple[str, str, list[Needle]]]:
    """Questions which of two needles of a group came first, half of them with the later one named first."""
    groups: dict[int, list[Needle]] = defaultdict(list)
    for needle in haystack.needles:
        groups[needle.group].append(needle)
    asked = []
    for group, needles in groups.items():
        in_order = sorted(needles, key=lambda n: n.start_seconds)
        for i in range(len(in_order) // 2):
            first, second = in_order[i], in_order[i + (len(in_order) + 1) // 2]
            one, other = (first, second) if (group + i) % 2 else (second, first)
            asked.append((f"who appears first, the {one.name} or the {other.name}?", first.name, [first, second]))
    return asked


def _ask(video: CompressedVideo, question: str, truth: str, needles: list[Needle], seen: dict[str, Any]) -> Asked:
    """Ask as a user would, one question after another; none comes twice."""
    answers: list[Any] = []
    timing = time_once(lambda: answers.append(video.ask(question, max_new_tokens=8, **seen)))
    times = answers[0].frame_pts_seconds
    found = [bool(((times >= n.start_seconds) & (times < n.start_seconds + NEEDLE_SECONDS)).any()) for n in needles]
    is_right = answers[0].text.strip(" .").lower() == truth
    first = needles[0]
    return Asked(first.group, first.depth, is_right, all(found), timing.wall_seconds, timing.cpu_seconds)


def merged(before: Report, new: Report) -> Report:
    """A report with the rows of both; those measured again replace the older ones.

    Raises:
        MismatchError: they ask different questions.
    """
    pieces = ("minutes", "forms", "budgets", "policies")
    same = [{n: v for n, v in json.loads(json.dumps(r["settings"])).items() if n not in pieces} for r in (before, new)]
    if same[0] != same[1]:
        raise MismatchError(f"only runs with the same settings can be joined, not {same[0]} and {same[1]}")
    names = ("minutes", "form", "K", "policy")
    rows = {tuple(row[n] for n in names): row for row in (*before["rows"], *new["rows"])}
    settings = dict(new["settings"])
    for name in pieces:
        settings[name] = list(dict.fromkeys([*before["settings"][name], *new["settings"][name]]))
    settings["minutes"] = sorted(settings["minutes"])
    forms = [*settings["forms"], "full"]
    order = sorted(rows.values(), key=lambda r: (r["minutes"], forms.index(r["form"]), r["K"], r["policy"]))
    return new | {"rows": order, "settings": settings}


# ---------------------------------------------------------------------- report


def ratios(report: Report) -> dict[str, float]:
    """How little longer a question takes on the longest video, where frames are chosen by it."""
    rows = [r for r in report["rows"] if r["policy"] == "relevant"]
    shortest, longest = (
        [r["cpu_seconds"] for r in rows if r["minutes"] == pick(r["minutes"] for r in rows)] for pick in (min, max)
    )
    return {"CPU seconds of a question: shortest over longest video": float(np.mean(shortest) / np.mean(longest))}


def markdown(report: Report) -> str:
    """A row a length and a condition, and what the longest videos cost in points against the shortest."""
    depths = list(report["rows"][0]["right"])
    headings = ["video", "form", "K", "policy", *(f"at {float(depth):.0%}" for depth in depths), "right", "found"]
    headings += ["two events right", "found", "question", "CPU", "first, CPU", "cache", "peak memory"]
    rows = []
    for r in report["rows"]:
        right = [_percent(r["right"][depth]) for depth in depths]
        totals = [_with_interval(_by_group(r["right"])), _percent("".join(r["found"].values()))]
        pairs = [_with_interval(_column(r["pairs_right"])), _percent(r["pairs_found"])] if r["num_pairs"] else "--"
        times = [f"{r[kind] * 1000:.0f} ms" for kind in ("wall_seconds", "cpu_seconds", "first_cpu_seconds")]
        sizes = [f"{r['size_bytes'] / 1e6:.1f} MB", f"{r['peak_bytes'] / 2**20:.0f} MiB"]
        name = [f"{r['minutes']:g} min", r["form"], r["K"], r["policy"]]
        rows.append([*name, *right, *totals, *pairs, *times, *sizes])
    settings, first = report["settings"], report["rows"][0]
    how = "what it has learned about finding frames" if report["learned"] else "the attention of the question"
    return "\n\n".join(
        [
            "# Needles in haystacks",
            f"Model `{settings['model']}`, {first['num_questions']} questions a row and {first['num_pairs']} about "
            f"two events, the same in all lengths; each sees {settings['num_frames_seen']} frames at most (`full`: "
            f"all). Guessing a place is right {report['chance']:.0%} of the time, guessing who came first half of it. "
            f"`relevant` chooses by {how}. In brackets 95 % bootstrap intervals. Memory counts mapped pages of the "
            "cache that were read.",
            table(headings, rows),
            *_differences(report, depths),
        ]
    )


def _differences(report: Report, depths: list[str]) -> list[str]:
    """The longest videos against the shortest, question by question, in points."""
    lengths = sorted({r["minutes"] for r in report["rows"]})
    rows = []
    for long in (r for r in report["rows"] if r["minutes"] == lengths[-1] and r["policy"] == "relevant"):
        condition = [long[n] for n in ("form", "K", "policy")]
        short = next(
            (r for r in report["rows"] if [r["minutes"], r["form"], r["K"], r["policy"]] == [lengths[0], *condition]),
            None,
        )
        if short is None or len(lengths) < 2:
            continue
        cells = [_points(_column(long["right"][d]) - _column(short["right"][d])) for d in depths]
        cells.append(_points(_by_group(long["right"]) - _by_group(short["right"])))
        if long["num_pairs"]:
            cells.append(_points(_column(long["pairs_right"]) - _column(short["pairs_right"])))
        times = f"{long['cpu_seconds'] / short['cpu_seconds']:.1f}"
        rows.append([*condition[:2], *cells, times])
    if not rows:
        return []
    headings = ["form", "K", *(f"at {float(depth):.0%}" for depth in depths), "all", "two events", "CPU, times"]
    text = (
        f"{lengths[-1]:g} minutes minus {lengths[0]:g}, policy `relevant`, the same questions: points with 95 % "
        "bootstrap intervals of the paired difference."
    )
    return [text, table([h for h in headings if h != "two events" or report["rows"][0]["num_pairs"]], rows)]


def _bits(values: Iterable[bool]) -> str:
    """A report's way to say of each question in turn whether it is so: "1101"."""
    return "".join(str(int(value)) for value in values)


def _column(bits: str) -> Floats:
    return np.array(list(bits), float)[:, None]


def _by_group(by_depth: dict[str, str]) -> Floats:
    """Needles of a group were in one video: ``[groups, depths]``, drawn together."""
    return np.concatenate([_column(bits) for bits in by_depth.values()], axis=1)


def _interval(values: Floats) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap interval over rows."""
    draws = np.random.default_rng(0).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    low, high = np.percentile(values.mean(1)[draws].mean(1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def _with_interval(values: Floats) -> str:
    mean, low, high = _interval(values)
    return f"{mean:.0%} [{low:.0%}, {high:.0%}]"


def _points(values: Floats) -> str:
    mean, low, high = (100 * v + 0.0 for v in _interval(values))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _percent(bits: str) -> str:
    return f"{_column(bits).mean():.0%}"


def draw(report: Report, figure: Figure) -> None:
    """Heat maps of length against depth: a row of panels for each form and K, a column for each policy."""
    settings = report["settings"]
    lines = [(form, k) for form in settings["forms"] for k in settings["budgets"]]
    panels = figure.subplots(len(lines), len(settings["policies"]), squeeze=False)
    image = None
    for across, (form, k) in zip(panels, lines, strict=True):
        for axes, policy in zip(across, settings["policies"], strict=True):
            rows = [r for r in report["rows"] if (r["form"], r["K"], r["policy"]) == (form, k, policy)]
            heat = np.array([[_column(right).mean() for right in r["right"].values()] for r in rows])
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
    merge=merged,
    size=(9, 9),
)

if __name__ == "__main__":
    BENCHMARK.main()
