"""Does a model notice that a video is nothing that it was trained on, and leave its own world in peace?

    python -m benchmarks.quality.own_world [--quick] [--num-clips 300] [--footage FOLDER]

Three kinds of videos, all through `compress` as users run it, at four samplings:

    MovingShapes   held-out scenes in many codecs, qualities and sizes, turned, long (`benchmarks.shape_clips`)
    real footage   every video below --footage; without that folder these rows are left out
    other worlds   test patterns, plain colours, noise, drawings, screens with text (`benchmarks.other_worlds`)

A second table does without what `compress` records, and looks at the stored tokens alone, as for entries of earlier
versions. Clips and cache entries are kept in the temporary folder, so a run that was stopped goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.clips import CLIPS
from benchmarks.other_worlds import make_others
from benchmarks.report import Benchmark, Report, option, table
from benchmarks.shape_clips import make_clips
from voco_video.answer.foreign import counted_by_tokens
from voco_video.api import CompressedVideo, VideoModel, load_model
from voco_video.cache import FrameCache
from voco_video.checkpoint.world import VISION
from voco_video.errors import ModelError, VideoError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHAPES, FOOTAGE, OTHERS = "MovingShapes", "real footage", "other worlds"
SAMPLINGS: dict[str, dict[str, Any]] = {
    "1 frame a second": {"fps": 1.0},
    "4 frames": {"num_frames": 4},
    "1 frame": {"num_frames": 1},
    "keyframes": {"keyframes": True},
}
STORED: dict[str, dict[str, Any]] = {
    **{f"kv, K = {k}": {"form": "kv", "num_voco_tokens": k} for k in (1, 8)},
    "kv, K = 8, int8": {"form": "kv", "storage": "int8"},
    **{f"embeds, K = {k}": {"form": "embeds", "num_voco_tokens": k} for k in (1, 2, 4, 8)},
    "embeds, K = 8, int8": {"form": "embeds", "storage": "int8"},
}
SUFFIXES = {".avi", ".mkv", ".mov", ".mp4", ".webm"}


@dataclass(frozen=True)
class Settings:
    """What is looked at."""

    model: str = option("voco-tiny", "checkpoint folder or embedded model that says what it was trained on")
    num_clips: int = option(300, "MovingShapes clips")
    num_stored: int = option(60, "of them, those of the second table")
    num_others: int = option(100, "videos of other worlds, at most")
    seed: int = option(11, "of the MovingShapes clips")
    footage: str = option(os.environ.get("VOCO_VIDEO_SHARED", ""), "folder of real videos, at any depth")


QUICK = Settings(num_clips=2, num_stored=1, num_others=3, footage="")


def measure(settings: Settings) -> Report:
    """Count the videos that are taken for foreign, for every kind of videos and way of looking."""
    loaded = load_model(settings.model, dtype="float32")
    if loaded.world is None:
        raise SystemExit(f"own_world: {settings.model} does not say what it was trained on; see scripts/fit_world.py")
    videos = {
        SHAPES: make_clips(CLIPS / "shape-clips", split="test", num_clips=settings.num_clips, seed=settings.seed),
        FOOTAGE: _footage(settings.footage),
        OTHERS: make_others(CLIPS / "other-worlds", most=settings.num_others),
    }
    rows: list[Report] = []
    for kind, paths in videos.items():
        for name, sampling in SAMPLINGS.items():
            rows.append(_row(kind, name, "recorded", paths, _by_record(_with_cache(loaded, kind, name), sampling)))
    for kind, paths in videos.items():
        for name, kept in STORED.items():
            some = paths[: settings.num_stored]
            rows.append(_row(kind, name, "stored", some, _by_tokens(_with_cache(loaded, kind, name), kept)))
    return {"rows": [row for row in rows if row["num_videos"]]}


def _with_cache(loaded: VideoModel, kind: str, name: str) -> VideoModel:
    """A cache for each row, as every write looks through all entries of its cache; a new one for another limit."""
    assert loaded.world is not None
    limit = f"{loaded.world.familiar[VISION].limit:.4f}"  # by which entries record how many frames are foreign
    return replace(loaded, cache=FrameCache(CLIPS / "own-world-cache" / limit / f"{kind} {name}".replace(" ", "-")))


def _footage(folder: str) -> list[Path]:
    """The videos below a folder, without those that were made to be damaged."""
    found = Path(folder).rglob("*") if folder else ()
    return sorted(p for p in found if p.suffix in SUFFIXES and not {"faults", "golden"} & set(p.parts))


def _by_record(loaded: VideoModel, sampling: dict[str, Any]) -> Callable[[Path], bool]:
    return lambda path: bool(loaded.compress(path, **sampling).foreign_note)


def _by_tokens(loaded: VideoModel, kept: dict[str, Any]) -> Callable[[Path], bool]:
    def is_foreign(path: Path) -> bool:
        video: CompressedVideo = loaded.compress(path, fps=1.0, **kept)
        assert loaded.world is not None
        counts = counted_by_tokens(loaded.world, video.parts[0].entry)
        return counts is not None and counts.is_foreign

    return is_foreign


def _row(kind: str, name: str, how: str, paths: Sequence[Path], is_foreign: Callable[[Path], bool]) -> Report:
    found = dict(_judged(paths, is_foreign))
    wrong = [path.stem for path, foreign in found.items() if foreign == (kind == SHAPES)]
    row = {"kind": kind, "name": name, "how": how, "num_videos": len(found), "wrong": wrong}
    if found:
        row |= {"foreign": sum(found.values()) / len(found), "interval": wilson(sum(found.values()), len(found))}
    return row


def wilson(successes: int, trials: int) -> list[float]:
    """The 95 % interval of a share, which means something also where it is 0 or 1 (Wilson 1927)."""
    z, share = 1.96, successes / trials
    middle, spread = share + z * z / (2 * trials), z * sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    low, high = ((middle + side * spread) / (1 + z * z / trials) for side in (-1, 1))
    return [max(0.0, low), min(1.0, high)]


def _judged(paths: Sequence[Path], is_foreign: Callable[[Path], bool]) -> Iterator[tuple[Path, bool]]:
    for path in paths:
        try:
            yield path, is_foreign(path)
        except (VideoError, ModelError) as error:  # it cannot be read, or int8 is refused for it: nobody is misled
            print(f"left out: {path.name}: {error}")


def ratios(report: Report) -> dict[str, float]:
    """Share of videos that are told rightly."""
    recorded = [row for row in report["rows"] if row["how"] == "recorded"]
    return {f"{r['kind']}, {r['name']}": 1 - len(r["wrong"]) / r["num_videos"] for r in recorded}


def markdown(report: Report) -> str:
    """Two tables, and what was told wrongly."""
    parts = ["# Its own world", f"Model `{report['settings']['model']}`. Shares of videos that are taken for foreign."]
    for how, title in (("recorded", "As recorded while compressing"), ("stored", "By stored tokens alone")):
        rows = [row for row in report["rows"] if row["how"] == how]
        kinds = list(dict.fromkeys(row["kind"] for row in rows))
        cells = []
        for name in dict.fromkeys(row["name"] for row in rows):
            by_kind = {row["kind"]: row for row in rows if row["name"] == name}
            cells.append([name, *(_share(by_kind.get(kind)) for kind in kinds)])
        parts += [f"## {title}", table(["frames" if how == "recorded" else "kept", *kinds], cells)]
    others = [row for row in report["rows"] if row["kind"] == OTHERS and row["how"] == "recorded"]
    missed = ", ".join(sorted({name for row in others for name in row["wrong"]})) or "none"
    return "\n\n".join([*parts, f"Other worlds that were not noticed at one sampling or more: {missed}."])


def _share(row: Report | None) -> str:
    if row is None:
        return ""
    low, high = row["interval"]
    return f"{row['foreign']:.1%} ({low:.1%} – {high:.1%}) of {row['num_videos']}"


def draw(report: Report, figure: Figure) -> None:
    """Shares as bars."""
    rows = [row for row in report["rows"] if row["how"] == "recorded"]
    axes = figure.subplots()
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for place, kind in enumerate(kinds):
        mine = [row for row in rows if row["kind"] == kind]
        axes.bar([n + 0.25 * place for n in range(len(mine))], [row["foreign"] for row in mine], 0.22, label=kind)
    axes.set_xticks([n + 0.25 for n in range(len(SAMPLINGS))], list(SAMPLINGS))
    axes.set(ylabel="taken for foreign", ylim=(0, 1.05))
    axes.legend()


BENCHMARK = Benchmark(
    name="own_world",
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
