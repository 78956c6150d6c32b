"""How much of what full vision tokens tell survives in K VoCo tokens: the paper's figure, on MovingShapes' test split.

    python -m benchmarks.quality.retention --model voco-tiny --out benchmarks/results/retention

Writes OUT.json, OUT.md and OUT.png. Per question the answer counts when greedy decoding gives it word for word; that is
measured without generating, as "every token of the true answer, its end included, is the likeliest one".

    retention rate = (score(VoCo) - score(none)) / (score(full) - score(none))          VoCo-LLaMA, section 4.2

Images show one frame, videos 8. `full` keeps every vision token of every frame, `pool` averages them in squares without
training, `none` shows the text alone. The interval is a 95 % bootstrap over scenes.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from benchmarks.questions import Outcome, by_family, draw_case, outcomes_of, retention
from voco_video.checkpoint.folder import load_voco_model
from voco_video.model.compressors import compress_frames, parse_compressor
from voco_video.model.tokens import Form, Prefix
from voco_video.model.voco import VocoModel

BUDGETS = (1, 2, 4, 8)
ORDERS = ("in order", "shuffled", "single frame")

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


def measure(
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


def markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    lines = [
        "# Retention on MovingShapes (test split)",
        "",
        f"Model `{report['model']}`, {report['num_scenes']} scenes per table with held-out combinations, seed "
        f"{report['seed']}. Accuracy: exact match of the greedy answer. Made by `benchmarks/quality/retention.py` in "
        f"{report['seconds']:.0f} s on {report['machine']}.",
    ]
    for name, table in report["tables"].items():
        families = list(next(iter(table["accuracy"].values())))
        header = f"| | {' | '.join(families)} | retention (95 %) |"
        lines += ["", f"## {name}", "", header, "|---|" + "---|" * (len(families) + 1)]
        chance = table["chance"]
        lines.append(f"| *guessing* | {' | '.join(f'{chance[f]:.1%}' for f in families)} | |")
        for row, scores in table["accuracy"].items():
            kept = table["retention"].get(row)
            shown = f"{kept['rate']:.1%} ({kept['low']:.1%} – {kept['high']:.1%})" if kept else ""
            lines.append(f"| {row} | {' | '.join(f'{scores[f]:.1%}' for f in families)} | {shown} |")
    return "\n".join(lines) + "\n"


def plot(report: dict[str, Any], path: Path) -> None:
    """Accuracy per condition as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(report["tables"]), 4.5), layout="constrained")
    for axes, (name, table) in zip(np.atleast_1d(figure.subplots(1, len(report["tables"]))), report["tables"].items()):
        rows = list(table["accuracy"])
        axes.bar(rows, [table["accuracy"][row]["all"] for row in rows], color="#4878b0")
        axes.axhline(table["chance"]["all"], color="black", linestyle=":", linewidth=1, label="guessing")
        axes.set(ylim=(0, 1), ylabel="accuracy", title=name)
        axes.tick_params(axis="x", rotation=90)
        axes.legend()
    figure.savefig(path, dpi=110)


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


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="voco-tiny")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/retention"))
    parser.add_argument("--num-scenes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--order-budgets", type=int, nargs="+", default=[1, 8], help="K of the table on frame order")
    arguments = parser.parse_args()
    started = time.perf_counter()
    model = load_voco_model(arguments.model, dtype="float32")
    shared = {"seed": arguments.seed, "num_scenes": arguments.num_scenes}
    orders = order_conditions(arguments.order_budgets)
    tables = {
        "Images": measure(model, conditions(), stage="image", temporal_fraction=0.0, **shared),
        "Videos": measure(model, conditions(), stage="video", temporal_fraction=0.5, **shared),
        "Questions about time": measure(model, orders, stage="video", temporal_fraction=1.0, **shared),
    }
    report = {
        "model": arguments.model,
        "num_scenes": arguments.num_scenes,
        "seed": arguments.seed,
        "seconds": time.perf_counter() - started,
        "machine": f"{platform.machine()} CPU, torch {torch.__version__}",
        "tables": {name: as_table(outcomes) for name, outcomes in tables.items()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(markdown(report))
    plot(report, arguments.out.with_suffix(".png"))
    print(markdown(report))


if __name__ == "__main__":
    main()
