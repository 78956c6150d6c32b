"""How much of what full vision tokens tell survives in K VoCo tokens: the paper's figure, on MovingShapes' test split.

    python -m benchmarks.retention --model voco-tiny --out benchmarks/results/retention

Writes OUT.json, OUT.md and OUT.png. Per question the answer counts when greedy decoding gives it word for word; that is
measured without generating, as "every token of the true answer, its end included, is the likeliest one".

    retention rate = (score(VoCo) - score(none)) / (score(full) - score(none))          VoCo-LLaMA, section 4.2

Images show one frame, videos 8. `full` keeps every vision token of every frame, `pool` averages them in squares without
training, `none` shows the text alone. The interval is a 95 % bootstrap over scenes.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voco_video.checkpoint import load_voco_model
from voco_video.data.moving_shapes import draw_scene, scene_rng
from voco_video.data.moving_shapes_qa import QuestionAnswer, draw_questions
from voco_video.data.rendering import render
from voco_video.model import Form, Prefix, VocoModel, VocoTokens
from voco_video.training.batches import Turn, encode_turns

NUM_FRAMES = 8
BUDGETS = (1, 2, 4, 8)
ORDERS = ("in order", "shuffled", "single frame")


@dataclass(frozen=True)
class Case:
    """One test scene: its frames and its questions."""

    pixels: np.ndarray
    questions: tuple[QuestionAnswer, ...]
    shuffle: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """One question of one scene under one condition."""

    scene: int
    family: str
    is_right: bool
    chance: float


def draw_case(index: int, *, seed: int, stage: str, size: int, temporal_fraction: float) -> Case:
    """Test scene ``index``, the same on every call."""
    is_image = stage == "image"
    scene = draw_scene(seed, split="test", index=index, always_visible=is_image)
    rng = scene_rng(seed, split="test", index=index, purpose=5)
    count = 1 if is_image else NUM_FRAMES
    phase = rng.random() if is_image else 0.5
    pts_seconds = (np.arange(count) + phase) / count * scene.duration_seconds
    at_seconds = float(pts_seconds[0]) if is_image else None
    questions = draw_questions(scene, rng, num_questions=6, at_seconds=at_seconds, temporal_fraction=temporal_fraction)
    return Case(render(scene, pts_seconds, size=size), tuple(questions), rng.permutation(count))


def family(question: QuestionAnswer) -> str:
    """Family of a question; those that need the order of frames stand apart."""
    if question.needs_order:
        return {"motion": "direction", "time": "order"}.get(question.about, f"{question.question_type} (order)")
    return f"{question.question_type} (time)" if question.is_temporal else question.question_type


# ---------------------------------------------------------------------- what text may see


@torch.inference_mode()
def full_tokens(model: VocoModel, vision_tokens: Tensor) -> VocoTokens:
    """Keys and values of every token of every frame, ``[F, N, D]``: no compression, through the same prefix code."""
    frames = model.frame_sequence(vision_tokens, 1)[:, :-1]  # [F, P, D]
    layers = model.backbone.decoder(inputs_embeds=frames, use_cache=True).past_key_values.layers
    positions = torch.arange(frames.shape[1], dtype=torch.int32).repeat(len(frames), 1)
    keys, values = (torch.stack([getattr(layer, n) for layer in layers], dim=1) for n in ("keys", "values"))
    return VocoTokens("kv", positions=positions, keys=keys, values=values)


def pooled(vision_tokens: Tensor, num_tokens: int) -> Tensor:
    """Vision tokens averaged over squares, ``[F, N, D] -> [F, num_tokens, D]``."""
    side = math.isqrt(vision_tokens.shape[1])
    grid = vision_tokens.transpose(1, 2).unflatten(2, (side, side))  # [F, D, side, side]
    return torch.nn.functional.adaptive_avg_pool2d(grid, math.isqrt(num_tokens)).flatten(2).transpose(1, 2)


Condition = Callable[[VocoModel, Tensor], Prefix]


def conditions() -> dict[str, Condition]:
    """Every row of the first table, from vision tokens ``[F, N, D]`` to what the text sees."""
    rows: dict[str, Condition] = {
        "none": lambda model, _: model.empty_prefix(),
        "full": lambda model, tokens: model.prefix(full_tokens(model, tokens)),
    }
    for k in (1, 4):
        rows[f"pool {k}"] = lambda model, tokens, k=k: model.prefix(full_tokens(model, pooled(tokens, k)))  # type: ignore[misc]
    for k in BUDGETS:
        rows[f"VoCo K={k}"] = lambda model, tokens, k=k: voco(model, tokens, k, "kv")  # type: ignore[misc]
    return rows


def voco(model: VocoModel, vision_tokens: Tensor, num_voco_tokens: int, form: Form) -> Prefix:
    """Frames compressed and assembled as `compress` and `ask` do."""
    return model.prefix(model.compress(vision_tokens, num_voco_tokens=num_voco_tokens, form=form))


# ---------------------------------------------------------------------- measuring


@torch.inference_mode()
def is_right(model: VocoModel, prefix: Prefix, questions: Sequence[QuestionAnswer]) -> list[bool]:
    """Whether greedy decoding answers each question word for word."""
    encoded = [encode_turns(model.backbone, [Turn(q.question, q.answer)], max_length=512) for q in questions]
    longest = max(len(ids) for ids, _ in encoded)
    input_ids = torch.zeros(len(encoded), longest, dtype=torch.long)
    labelled = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, (ids, owners) in enumerate(encoded):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labelled[row, : len(ids)] = torch.tensor(owners) >= 0
    predicted = model(input_ids, prefix=prefix)[0][:, :-1].argmax(-1).cpu()  # [B, T - 1]
    wrong = (predicted != input_ids[:, 1:]) & labelled[:, 1:]
    return [not row for row in wrong.any(1).tolist()]


def measure(
    model: VocoModel, rows: dict[str, Condition], *, seed: int, stage: str, num_scenes: int, temporal_fraction: float
) -> dict[str, list[Outcome]]:
    """Outcomes of every condition on the same scenes and questions."""
    size = model.backbone.images.fit.height
    outcomes: dict[str, list[Outcome]] = {name: [] for name in rows}
    for index in range(num_scenes):
        case = draw_case(index, seed=seed, stage=stage, size=size, temporal_fraction=temporal_fraction)
        with torch.inference_mode():
            tokens = model.vision_tokens(case.pixels)  # [F, N, D]
        for name, condition in rows.items():
            shown = tokens
            if name.endswith("shuffled"):
                shown = tokens[torch.from_numpy(case.shuffle)]
            elif name.endswith("single frame"):
                shown = tokens[[len(tokens) // 2]]
            right = is_right(model, condition(model, shown), case.questions)
            outcomes[name] += [
                Outcome(index, family(q), r, q.chance) for q, r in zip(case.questions, right, strict=True)
            ]
    return outcomes


def accuracy(outcomes: Sequence[Outcome]) -> float:
    """Share of right answers."""
    return float(np.mean([o.is_right for o in outcomes])) if outcomes else float("nan")


def by_family(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Accuracy per question family, and over all."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.family].append(outcome)
    return {"all": accuracy(outcomes)} | {name: accuracy(groups[name]) for name in sorted(groups)}


def retention(table: dict[str, list[Outcome]], name: str, *, num_resamples: int = 2000) -> dict[str, float]:
    """Retention rate of a condition with its 95 % bootstrap interval over scenes."""
    scenes = sorted({o.scene for o in table["full"]})
    place = {scene: i for i, scene in enumerate(scenes)}
    sums = {n: np.zeros(len(scenes)) for n in ("none", "full", name)}
    for key, values in sums.items():
        for outcome in table[key]:
            values[place[outcome.scene]] += outcome.is_right
    draws = np.random.default_rng(0).integers(len(scenes), size=(num_resamples, len(scenes)))

    def rate(picked: np.ndarray) -> np.ndarray:
        none, full, this = (sums[n][picked].sum(-1) for n in ("none", "full", name))
        return (this - none) / np.maximum(full - none, 1e-9)

    low, high = np.percentile(rate(draws), [2.5, 97.5])
    return {"rate": float(rate(np.arange(len(scenes)))), "low": float(low), "high": float(high)}


# ---------------------------------------------------------------------- report


def order_conditions(forms: Sequence[Form], num_voco_tokens: int) -> dict[str, Condition]:
    """Rows of the second table: forms times orders of frames."""

    def row(form: Form) -> Condition:
        return lambda model, tokens: voco(model, tokens, num_voco_tokens, form)

    rows = {f"{form} K={num_voco_tokens}, {order}": row(form) for form in forms for order in ORDERS}
    full: Condition = lambda model, tokens: model.prefix(full_tokens(model, tokens))  # noqa: E731
    return rows | {f"full, {order}": full for order in ORDERS}


def markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    lines = [
        "# Retention on MovingShapes (test split)",
        "",
        f"Model `{report['model']}`, {report['num_scenes']} scenes per table with held-out combinations, seed "
        f"{report['seed']}. Accuracy: exact match of the greedy answer. Made by `benchmarks/retention.py` in "
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

    figure = Figure(figsize=(6 * len(report["tables"]), 4.5), layout="constrained")
    for axes, (name, table) in zip(np.atleast_1d(figure.subplots(1, len(report["tables"]))), report["tables"].items()):
        rows = list(table["accuracy"])
        axes.bar(rows, [table["accuracy"][row]["all"] for row in rows], color="#4878b0")
        axes.axhline(table["chance"]["all"], color="black", linestyle=":", linewidth=1, label="guessing")
        axes.set(ylim=(0, 1), ylabel="accuracy", title=name)
        axes.tick_params(axis="x", rotation=60)
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
    parser.add_argument("--order-budget", type=int, default=1, help="K of the table on frame order")
    arguments = parser.parse_args()
    started = time.perf_counter()
    model = load_voco_model(arguments.model, dtype="float32")
    shared = {"seed": arguments.seed, "num_scenes": arguments.num_scenes}
    orders = order_conditions(("kv", "embeds"), arguments.order_budget)
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
