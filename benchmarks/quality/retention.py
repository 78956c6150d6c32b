"""How much of what full vision tokens tell survives in K VoCo tokens: the paper's figure, on MovingShapes' test split.

    python -m benchmarks.quality.retention [--model voco-tiny] [--num-scenes 300]

Per question the answer counts when greedy decoding gives it word for word; that is
measured without generating, as "every token of the true answer, its end included, is the likeliest one".

    retention rate = (score(VoCo) - score(none)) / (score(full) - score(none))          VoCo-LLaMA, section 4.2

Images show one frame, videos 8. `full` keeps every vision token of every frame, `pool` averages them in squares without
training, `none` shows the text alone. The interval is a 95 % bootstrap over scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch import Tensor

from benchmarks.questions import Outcome, by_family, draw_case, outcomes_of, retention
from benchmarks.report import Benchmark, Report, option, table
from voco_video.checkpoint.folder import load_voco_model
from voco_video.model.compressors import compress_frames
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Form, parse_compressor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BUDGETS = (1, 2, 4, 8)
ORDERS = ("in order", "shuffled", "single frame")


@dataclass(frozen=True)
class Settings:
    """Which model, on how many scenes."""

    model: str = option("voco-tiny", "checkpoint to measure")
    num_scenes: int = option(300, "scenes of each table")
    seed: int = option(0, "of the scenes and questions")
    order_budgets: tuple[int, ...] = option((1, 8), "K of the table on frame order")


# ---------------------------------------------------------------------- what text may see


Condition = Callable[[VocoModel, Tensor], Prefix]


def conditions() -> dict[str, Condition]:
    """Every row of the first table, from vision tokens ``[F, N, D]`` to what the text sees."""

    def row(k: int, form: Form) -> Condition:
        return lambda model, tokens: shown(model, tokens, num_voco_tokens=k, form=form)

    names = ("none", "full", "pool:1", "pool:4")
    rows = {name: compressed_by(name) for name in names}
    return rows | {f"VoCo K={k}, {form}": row(k, form) for form in get_args(Form) for k in BUDGETS}


def compressed_by(name: str) -> Condition:
    """A row of what another compressor shows."""
    return lambda model, tokens: shown(model, tokens, name)


def shown(
    model: VocoModel,
    vision_tokens: Tensor,
    compressor: str = "voco",
    *,
    num_voco_tokens: int | None = None,
    form: Form = "kv",
) -> Prefix:
    """Frames compressed and assembled as `compress` and `ask` do."""
    chosen = parse_compressor(compressor)
    return model.prefix(compress_frames(model, vision_tokens, chosen, num_voco_tokens=num_voco_tokens, form=form))


# ---------------------------------------------------------------------- measuring


def outcomes_by_row(
    model: VocoModel, rows: dict[str, Condition], *, seed: int, stage: str, num_scenes: int, temporal_fraction: float
) -> dict[str, list[Outcome]]:
    """Outcomes of every condition on the same scenes and questions."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in rows}
    for index in range(num_scenes):
        case = draw_case(index, seed=seed, stage=stage, temporal_fraction=temporal_fraction)
        with torch.inference_mode():
            tokens = model.vision_tokens(case.pixels(model.backbone.images.fit.height))  # [F, N, D]
        for name, condition in rows.items():
            seen = tokens
            if name.endswith("shuffled"):
                seen = tokens[torch.from_numpy(case.shuffle)]
            elif name.endswith("single frame"):
                seen = tokens[[len(tokens) // 2]]
            outcomes[name] += outcomes_of(model, condition(model, seen), case, scene=index)
    return outcomes


# ---------------------------------------------------------------------- report


def order_conditions(budgets: Sequence[int]) -> dict[str, Condition]:
    """Rows of the last table: forms and budgets times orders of frames."""

    def row(k: int, form: Form) -> Condition:
        return lambda model, tokens: shown(model, tokens, num_voco_tokens=k, form=form)

    rows = {f"{form} K={k}, {order}": row(k, form) for form in get_args(Form) for k in budgets for order in ORDERS}
    return rows | {f"full, {order}": compressed_by("full") for order in ORDERS}


def as_table(outcomes: dict[str, list[Outcome]]) -> dict[str, Any]:
    """Accuracies, chance and retention rates of one table."""
    first = next(iter(outcomes.values()))
    guesses = {"all": float(np.mean([o.chance for o in first]))}
    for name in by_family(first):
        if name != "all":
            guesses[name] = float(np.mean([o.chance for o in first if o.family == name]))
    kept = (
        {}
        if "none" not in outcomes
        else {name: retention(outcomes, name) for name in outcomes if name not in ("none", "full")}
    )
    counts = {name: sum(o.family == name for o in first) for name in by_family(first)} | {"all": len(first)}
    return {
        "num_questions": counts,
        "accuracy": {name: by_family(rows) for name, rows in outcomes.items()},
        "chance": guesses,
        "retention": kept,
    }


def measure(settings: Settings) -> Report:
    """Accuracy and retention of every row of every table."""
    model = load_voco_model(settings.model, dtype="float32")
    shared = {"seed": settings.seed, "num_scenes": settings.num_scenes}
    orders = order_conditions(settings.order_budgets)
    tables = {
        "Images": outcomes_by_row(model, conditions(), stage="image", temporal_fraction=0.0, **shared),
        "Videos": outcomes_by_row(model, conditions(), stage="video", temporal_fraction=0.5, **shared),
        "Questions about time": outcomes_by_row(model, orders, stage="video", temporal_fraction=1.0, **shared),
    }
    return {"tables": {name: as_table(outcomes) for name, outcomes in tables.items()}}


def markdown(report: Report) -> str:
    """The report as tables."""
    settings = report["settings"]
    parts = [
        "# Retention on MovingShapes (test split)",
        f"Model `{settings['model']}`, {settings['num_scenes']} scenes per table with held-out combinations, seed "
        f"{settings['seed']}. Accuracy: exact match of the greedy answer.",
    ]
    for name, shown_table in report["tables"].items():
        families = list(next(iter(shown_table["accuracy"].values())))
        rows = [("*guessing*", *(f"{shown_table['chance'][f]:.1%}" for f in families), "")]
        for row, scores in shown_table["accuracy"].items():
            kept = shown_table["retention"].get(row)
            rate = f"{kept['rate']:.1%} ({kept['low']:.1%} – {kept['high']:.1%})" if kept else ""
            rows.append((row, *(f"{scores[f]:.1%}" for f in families), rate))
        parts += [f"## {name}", table(["", *families, "retention (95 %)"], rows)]
    return "\n\n".join(parts)


def draw(report: Report, figure: Figure) -> None:
    """Accuracy per condition as bars, one table below the other."""
    heights = [len(drawn["accuracy"]) for drawn in report["tables"].values()]
    places = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights).flat
    for axes, (name, drawn) in zip(places, report["tables"].items(), strict=True):
        rows = list(drawn["accuracy"])
        axes.barh(rows, [drawn["accuracy"][row]["all"] for row in rows], color="#4878b0")
        axes.axvline(drawn["chance"]["all"], color="black", linestyle=":", linewidth=1)
        axes.set(xlim=(0, 1), title=f"{name}: accuracy (dotted line: guessing)")
        axes.invert_yaxis()


BENCHMARK = Benchmark(
    name="retention",
    about=__doc__ or "",
    default=Settings(),
    quick=Settings(num_scenes=2),
    measure=measure,
    markdown=markdown,
    draw=draw,
    size=(8, 12),
)

if __name__ == "__main__":
    BENCHMARK.main()
