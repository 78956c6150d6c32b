"""Questions that join two moments of a video, answered from frames that were compressed each by itself.

    python -m benchmarks.quality.two_events [--quick] [--num-scenes 400]

"who appears first, the star or the cross?", "when does the red one disappear, before or after the blue one?":
MovingShapes' test scenes with two events, 8 frames each, guessing right half of the time. Per question the answer
counts when greedy decoding gives it word for word (`benchmarks.questions`); "of the two" says how often the right one
of the two possible answers is the likelier one, which asks nothing of how it is worded. Rows are all combinations of

    form       kv: frames meet in the text that reads them; embeds: later frames see earlier ones
    K          VoCo tokens a frame; `full` keeps all its vision tokens
    training   with: the answering weights, trained on time series of cached frames; without: answering with the
               weights that compress, which saw single frames and a few hundred steps of video
    order      frames in order, or shuffled: what is right then is right without having seen the order

Intervals are 95 % bootstrap over scenes; differences are paired, on the same questions, against all vision tokens of
the frames in order with training.

Joins: each scene encoded whole, and as two clips cut between its two events; the clips compressed one by one and joined
(`voco_video.concat`); and all scenes as one long video, asked about windows of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from benchmarks.quality.retention import shown
from benchmarks.questions import NUM_FRAMES, Case, is_right
from benchmarks.report import Benchmark, Report, option, table
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.several_videos import concat
from voco_video.api import VideoModel, load_model
from voco_video.data.samples import Turn
from voco_video.data.turns import encode_turns
from voco_video.model.adapters import adapters_off
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Form
from voco_video.scoring.bootstrap import Estimate, resample
from voco_video.shapes.questions import draw_questions
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.scene_view import QuestionAnswer
from voco_video.shapes.world import Scene, draw_scene, scene_rng, staggered_pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINING = ("with", "without")
ORDERS = ("in order", "shuffled")
REFERENCE = {"form": "full", "K": 0, "training": "with", "order": "in order"}
_SIZE = 64


@dataclass(frozen=True)
class Settings:
    """What is asked, of what."""

    model: str = option("voco-tiny", "checkpoint folder or embedded model")
    num_scenes: int = option(400, "test scenes; some hold no two events that can be told apart")
    budgets: tuple[int, ...] = option((1, 4, 8), "K: VoCo tokens a frame")
    num_joined_scenes: int = option(100, "scenes that are encoded, cut and joined")
    joined_budgets: tuple[int, ...] = option((8,), "K of joins")
    seed: int = option(0, "of the scenes")


QUICK = Settings(num_scenes=8, budgets=(1,), num_joined_scenes=4, joined_budgets=(1,))

Right = list[bool]


@dataclass
class Outcomes:
    """A variant's questions: answered word for word, and the likelier of the two answers right."""

    right: Right = field(default_factory=list)
    chosen: Right = field(default_factory=list)


def measure(settings: Settings) -> Report:
    """Variants on frames in memory, then joins of encoded clips."""
    cases = list(two_event_cases(settings.num_scenes, seed=settings.seed))
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(settings.model, dtype="float32", cache_dir=Path(folder) / "cache")
        variants = measure_variants(loaded.voco, cases, settings)
        joined_cases = [case for case in cases if case.scene_index < settings.num_joined_scenes]
        joins = measure_joins(loaded, joined_cases, Path(folder), settings)
    scenes, asked = clusters(cases), [q for case in cases for q in case.case.questions]
    reference = next(found for name, found in variants if name == REFERENCE)
    return {
        "num_questions": len(asked),
        "num_videos": len(cases),
        "chance": float(np.mean([q.chance for q in asked])),
        "rows": [
            name
            | {"accuracy": share(found.right, scenes), "of_two": share(found.chosen, scenes)}
            | {"difference": difference(found.right, reference.right, scenes)}
            for name, found in variants
        ],
        "joins": joins,
    }


@dataclass(frozen=True)
class TwoEvents:
    """A scene with two events, and what is asked about them."""

    scene_index: int
    case: Case


def two_event_cases(num_scenes: int, *, seed: int) -> Iterator[TwoEvents]:
    """Scenes in which one shape clearly comes and goes before another, with every question that joins the two."""
    for index in range(num_scenes):
        scene = draw_scene(seed, split="test", index=index)
        if len(staggered_pairs(scene)) != 1:
            continue
        rng = scene_rng(seed, split="test", index=index, purpose=6)
        drawn = draw_questions(scene, rng, num_questions=24, temporal_fraction=1.0, families=("who", "when"))
        asked = tuple(q for q in drawn if " first," in q.question or "before or after" in q.question)
        pts_seconds = (np.arange(NUM_FRAMES) + 0.5) / NUM_FRAMES * scene.duration_seconds
        if asked:
            yield TwoEvents(index, Case(scene, pts_seconds, asked, rng.permutation(NUM_FRAMES)))


# ---------------------------------------------------------------------- variants


def answered(model: VocoModel, training: str) -> AbstractContextManager[None]:
    """Answer with the answering weights, or with those that compress."""
    return adapters_off(model.backbone.decoder) if training == "without" else nullcontext()


def measure_variants(model: VocoModel, cases: list[TwoEvents], settings: Settings) -> list[tuple[Report, Outcomes]]:
    """Every combination on the same questions."""
    ways = [(form, k) for form in get_args(Form) for k in settings.budgets] + [("full", 0)]
    names = [
        {"form": form, "K": k, "training": training, "order": order}
        for form, k in ways
        for training in TRAINING
        for order in ORDERS
    ]
    found = [Outcomes() for _ in names]
    for one in cases:
        with torch.inference_mode():
            in_order = model.vision_tokens(one.case.pixels(model.backbone.images.fit.height))  # [F, N, D]
        for name, outcomes in zip(names, found, strict=True):
            seen = in_order[torch.from_numpy(one.case.shuffle)] if name["order"] == "shuffled" else in_order
            how: dict[str, Any] = {"num_voco_tokens": name["K"], "form": name["form"]}
            with answered(model, str(name["training"])):
                prefix = shown(model, seen, "full") if name["form"] == "full" else shown(model, seen, **how)
                outcomes.right += is_right(model, prefix, one.case.questions)
                outcomes.chosen += is_likelier(model, prefix, one.case.questions)
    return list(zip(names, found, strict=True))


@torch.inference_mode()
def is_likelier(model: VocoModel, prefix: Prefix, questions: Sequence[QuestionAnswer]) -> Right:
    """Whether the right one of each question's two answers has the greater probability per token."""
    pairs = [(q, answer) for q in questions for answer in q.candidates]
    encoded = [encode_turns(model.backbone, [Turn(q.question, answer)], max_length=512) for q, answer in pairs]
    input_ids = torch.zeros(len(encoded), max(len(ids) for ids, _ in encoded), dtype=torch.long)
    labelled = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, (ids, owners) in enumerate(encoded):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labelled[row, : len(ids)] = torch.tensor(owners) >= 0
    logs = model(input_ids, prefix=prefix)[0][:, :-1].float().log_softmax(-1)  # [B, T - 1, vocabulary]
    of_tokens = logs.gather(-1, input_ids[:, 1:, None])[..., 0] * labelled[:, 1:]
    scores = (of_tokens.sum(1) / labelled[:, 1:].sum(1)).view(len(questions), 2)
    picked = scores.argmax(1).tolist()
    return [q.candidates[i] == q.answer for q, i in zip(questions, picked, strict=True)]


# ---------------------------------------------------------------------- joins


def measure_joins(loaded: VideoModel, cases: list[TwoEvents], folder: Path, settings: Settings) -> list[Report]:
    """The same frames compressed as one, as two clips that are joined, and as windows of one long video."""
    ways = [(form, k) for form in get_args(Form) for k in settings.joined_budgets]
    found: dict[tuple[str, int], dict[str, Right]] = {way: {} for way in ways}
    scenes: list[int] = []
    begins = [0.0, *np.cumsum([one.case.scene.duration_seconds for one in cases]).tolist()]
    long = long_videos(loaded, cases, begins, folder)
    for number, one in enumerate(cases):
        for event, questions in by_event(one.case.questions).items():
            scenes += [number] * len(questions)
            for form in get_args(Form):
                videos = joined_videos(loaded, one.case, event, folder / f"{one.scene_index}-{event}", form)
                videos["window of a long video"] = long[form][begins[number] : begins[number + 1]]
                for name, video in videos.items():
                    for k in settings.joined_budgets:
                        prefix = video.prefix(num_voco_tokens=k)
                        right = is_right(loaded.voco, prefix, questions)
                        found[form, k].setdefault(name, []).extend(right)
    place = np.array(scenes)
    rows = []
    for (form, k), sides in found.items():
        whole = sides["one clip"]
        for name, right in sides.items():
            estimates = {"accuracy": share(right, place), "difference": difference(right, whole, place)}
            rows.append({"form": form, "K": k, "video": name, "num_questions": len(right), **estimates})
    return rows


def by_event(questions: tuple[QuestionAnswer, ...]) -> dict[str, list[QuestionAnswer]]:
    """Questions about coming, and about going: another cut parts those events."""
    going = [q for q in questions if "disappear" in q.question]
    coming = [q for q in questions if q not in going]
    return {event: asked for event, asked in (("appears", coming), ("disappears", going)) if asked}


def joined_videos(loaded: VideoModel, case: Case, event: str, stem: Path, form: Form) -> dict[str, CompressedVideo]:
    """A scene as one clip, and as two that were cut between the events."""
    scene, pts = case.scene, case.pts_seconds
    first, second = (getattr(thing, f"{event}_seconds") for thing in staggered_pairs(scene)[0])
    cut = round((first + second) / 2 * scene.fps) / scene.fps
    clips = {
        "whole": (scene, pts),
        "before": (replace(scene, duration_seconds=cut), pts[pts < cut]),
        "after": (shifted(scene, -cut), pts[pts >= cut] - cut),
    }
    parts = {}
    for name, (part, times) in clips.items():
        path = stem.with_name(f"{stem.name}-{name}.mp4")
        if not path.exists():
            write_clip(part, path, size=_SIZE)
        parts[name] = loaded.compress(path, timestamps=times.tolist(), form=form)
    joined = concat([parts["before"], parts["after"]])
    return {"one clip": parts["whole"], "two clips, joined": joined}


def shifted(scene: Scene, seconds: float) -> Scene:
    """A scene as it is that much later; what lies before zero is cut off."""
    objects = tuple(
        replace(o, appears_seconds=o.appears_seconds + seconds, disappears_seconds=o.disappears_seconds + seconds)
        for o in scene.objects
    )
    return replace(scene, objects=objects, duration_seconds=round(scene.duration_seconds + seconds, 6))


def long_videos(
    loaded: VideoModel, cases: list[TwoEvents], begins: list[float], folder: Path
) -> dict[Form, CompressedVideo]:
    """All scenes one after the other in one video, on one background, in each form."""
    scenes = [(shifted(one.case.scene, begin), one.case.pts_seconds + begin) for one, begin in zip(cases, begins)]
    first = cases[0].case.scene
    objects = tuple(o for scene, _ in scenes for o in scene.objects)
    path = write_clip(Scene(objects, begins[-1], first.fps, first.background_rgb), folder / "long.mp4", size=_SIZE)
    times = np.concatenate([pts for _, pts in scenes]).tolist()
    return {form: loaded.compress(path, timestamps=times, form=form) for form in get_args(Form)}


# ---------------------------------------------------------------------- figures


def clusters(cases: list[TwoEvents]) -> np.ndarray:
    """Each question's scene, counted from 0."""
    return np.repeat(np.arange(len(cases)), [len(one.case.questions) for one in cases])


def share(right: Right, scenes: np.ndarray) -> dict[str, float | None]:
    """Accuracy with its interval over scenes."""
    values = np.array(right, float)[:, None]
    return as_json(resample(values, np.ones_like(values), scenes).estimates()[0])


def difference(right: Right, other: Right, scenes: np.ndarray) -> dict[str, float | None]:
    """Accuracy minus another one on the same questions, with its paired interval over scenes."""
    values = (np.array(right, float) - np.array(other, float))[:, None]
    return as_json(resample(values, np.ones_like(values), scenes).estimates()[0])


def as_json(estimate: Estimate) -> dict[str, float | None]:
    """An estimate as plain values."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def cell(estimate: dict[str, Any], *, sign: bool = False) -> str:
    """Percent, with the interval."""
    value, low, high = (f"{100 * estimate[name]:{'+' if sign else ''}.1f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def ratios(report: Report) -> dict[str, float]:
    """The best variant over all vision tokens."""
    rows = [r for r in report["rows"] if r["order"] == "in order"]
    full = next(r for r in rows if all(r[name] == REFERENCE[name] for name in REFERENCE))
    best = max(r["accuracy"]["value"] for r in rows if r["form"] != "full")
    return {"accuracy: best compressed over uncompressed": best / full["accuracy"]["value"]}


def markdown(report: Report) -> str:
    """Variants, then joins."""
    seen = {(r["form"], r["K"], r["training"], r["order"]): r for r in report["rows"]}
    headings = [
        "frames as",
        "training",
        "in order",
        "minus uncompressed",
        "shuffled",
        "of the two, in order",
        "shuffled",
    ]
    rows = []
    for (form, k, training, order), r in seen.items():
        if order == "in order":
            what = "all vision tokens" if form == "full" else f"{form} K = {k}"
            shuffled = seen[form, k, training, "shuffled"]
            cells = [cell(r["accuracy"]), cell(r["difference"], sign=True), cell(shuffled["accuracy"])]
            rows.append([what, training, *cells, cell(r["of_two"]), cell(shuffled["of_two"])])
    joins = [
        [f"{r['form']} K = {r['K']}", r["video"], cell(r["accuracy"]), cell(r["difference"], sign=True)]
        for r in report["joins"]
    ]
    return "\n\n".join(
        [
            "# Questions that join two moments",
            f"Model `{report['settings']['model']}`, {report['num_questions']} questions on {report['num_videos']} "
            f"test scenes of {NUM_FRAMES} frames; percent right, 95 % intervals over scenes. Guessing: "
            f"{report['chance']:.0%}. Differences are paired, against all vision tokens in order, with training.",
            table(headings, rows),
            f"Joins, {report['joins'][0]['num_questions']} questions; differences against the same frames as one clip:",
            table(["frames as", "video", "right", "difference"], joins),
        ]
    )


def draw(report: Report, figure: Figure) -> None:
    """How often the right one of the two answers is likelier, in order and shuffled, with and without training."""
    panels = figure.subplots(1, len(TRAINING), sharey=True)
    for axes, training in zip(panels, TRAINING, strict=True):
        for order, colour in zip(ORDERS, ("#4878b0", "#c8c8c8"), strict=True):
            rows = [r for r in report["rows"] if (r["training"], r["order"]) == (training, order)]
            names = ["full" if r["form"] == "full" else f"{r['form']} K={r['K']}" for r in rows]
            values, lows, highs = (np.array([r["of_two"][n] for r in rows]) for n in ("value", "low", "high"))
            shift = -0.2 if order == "in order" else 0.2
            error = [values - lows, highs - values]
            axes.bar(np.arange(len(rows)) + shift, values, 0.4, yerr=error, color=colour, label=order, capsize=2)
            axes.set_xticks(range(len(rows)), names, rotation=45, fontsize=8)
        axes.axhline(report["chance"], color="black", linestyle=":", linewidth=1, label="guessing")
        axes.set(ylim=(0, 1), title=f"{training} temporal training")
    panels[0].set(ylabel="likelier of the two answers is right")
    panels[0].legend(fontsize=8)


BENCHMARK = Benchmark(
    name="two_events",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
    ratios=ratios,
    size=(10, 4),
)

if __name__ == "__main__":
    BENCHMARK.main()
