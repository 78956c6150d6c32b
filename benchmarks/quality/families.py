"""Whether each family is asked as it was trained: its library's prompt, logits and answers, and what is kept otherwise.

    python -m benchmarks.quality.families [--num-cases 12] [--seeds 0 1] [--families gemma3 --merge]

Tiny random models of every family are asked about random pictures: 1 to 8 of them, several shapes, 0.1 to 8 a second,
one turn or more, with a system message or without. A row holds the largest difference over all cases:

    prompt              whether all token ids are those of its processor, as the tests write them by hand
    logits              compressor `full` in form `embeds` against the library's own forward pass
    greedy              answers of 8 tokens that are equal
    voco kv, embeds     VoCo tokens among words against one masked pass, written out
    pool                `pool:1` in both forms against the same
    train               loss of the training pass on two answers against one from the library's logits
    kv against embeds   not an error: how far `full` in form `kv` is from the model as trained, for in that form frames
                        do not see each other, nor the words before them. Largest difference of logits, and beside it
                        the standard deviation of the logits

Families whose frames have no keys of their own have no form `kv`: null.

With random weights every logit hangs on every token; trained models differ by less.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.report import Benchmark, Report, option, table
from tests.helpers.as_trained import (
    QUESTION,
    REFERENCES,
    SEVERAL_TURNS,
    WITH_SYSTEM,
    Shown,
    Turns,
    compressed,
    last_logits,
    library_answer,
    system_of,
    text_ids,
    training_losses,
)
from tests.helpers.masked_pass import one_pass
from tests.helpers.tiny_families import EMBEDS_ONLY, tiny_family
from voco_video.answer.generate import generate
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import Form

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 1e-4
LARGEST = ("logits", "voco_kv", "voco_embeds", "pool", "train")
OF_KV = ("voco_kv", "kv_against_embeds")
NUM_ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Settings:
    """How many random models and questions."""

    num_cases: int = option(12, "videos and conversations of each model")
    seeds: tuple[int, ...] = option((0, 1), "of the random weights")
    seed: int = option(0, "of the videos and conversations")
    families: tuple[str, ...] = option(tuple(REFERENCES), "to measure")


def draw_cases(name: str, settings: Settings) -> Iterator[tuple[Shown, Turns]]:
    """Random videos and conversations for one family."""
    rng = random.Random(settings.seed)
    for number in range(settings.num_cases):
        size = rng.choice(REFERENCES[name].sizes)
        shown = Shown.random(rng.randint(1, 8), size, fps=rng.choice([0.1, 0.3, 0.5, 1, 2, 3, 8]), seed=number)
        yield shown, rng.choice([QUESTION, SEVERAL_TURNS, WITH_SYSTEM])


def measure_family(name: str, settings: Settings) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"family": name, "num_cases": 0, "num_equal_prompts": 0, "num_equal_answers": 0}
    row |= dict.fromkeys((*LARGEST, *OF_KV, "standard_deviation"), 0.0)
    if name in EMBEDS_ONLY:
        row |= dict.fromkeys(OF_KV)
    for seed in settings.seeds:
        template = REFERENCES[name].chat_template
        model = tiny_family(name, as_trained=True, variant="library", chat_template=template, seed=seed)
        hf_model = copy.deepcopy(model.backbone.hf_model)  # some keep positions from call to call
        row["title"] = model.backbone.family.title
        for shown, turns in draw_cases(name, settings):
            measure_case(row, name, model, hf_model, shown, turns)
    return row


def measure_case(row: dict[str, Any], name: str, model: VocoModel, hf_model: Any, shown: Shown, turns: Turns) -> None:
    """Add one conversation to a family's row."""

    def ours(compressor: str, form: Form) -> torch.Tensor:
        return last_logits(model, compressed(model, shown, compressor, form).prefix(system_of(turns)), turns)

    def is_at_least(what: str, left: torch.Tensor, right: torch.Tensor) -> None:
        row[what] = max(row[what], float((left - right).abs().max()))

    ids, expected, answer = library_answer(hf_model, model, name, shown, turns, num_tokens=NUM_ANSWER_TOKENS)
    video = compressed(model, shown)
    prefix = video.prefix(system_of(turns))
    options = AnswerOptions(max_new_tokens=NUM_ANSWER_TOKENS, stop_at_end=False)
    full = last_logits(model, prefix, turns)
    row["num_cases"] += 1
    row["num_equal_prompts"] += video.whole_ids(turns) == ids[0].tolist()
    row["num_equal_answers"] += generate(model, prefix, [text_ids(model, turns)], options=options)[0][0] == answer
    is_at_least("logits", full, expected)
    if name not in EMBEDS_ONLY:
        is_at_least("kv_against_embeds", full, ours("full", "kv"))
    row["standard_deviation"] = max(row["standard_deviation"], float(expected.std()))
    losses = training_losses(hf_model, model, name, shown)
    row["train"] = max(row["train"], abs(losses[0] - losses[1]))
    forms: tuple[Form, ...] = ("embeds",) if name in EMBEDS_ONLY else ("kv", "embeds")
    for form in forms:
        is_at_least(f"voco_{form}", ours("voco", form), one_pass(model, shown, turns, "voco", form))
        is_at_least("pool", ours("pool:1", form), one_pass(model, shown, turns, "pool:1", form))


def measure(settings: Settings) -> Report:
    """All families."""
    return {"tolerance": TOLERANCE, "rows": [measure_family(name, settings) for name in settings.families]}


def merge(before: Report, now: Report) -> Report:
    """Replace the rows of families that were measured again, and add those of new ones."""
    rows = {row["family"]: row for report in (before, now) for row in report["rows"]}
    names = [name for name in REFERENCES if name in rows]
    return now | {"settings": now["settings"] | {"families": names}, "rows": [rows[name] for name in names]}


NO_KV = "none"
HEADINGS = ["family", "prompt", "logits", "greedy", "voco kv", "voco embeds", "pool", "train", "kv against embeds"]


def family_table(report: Report) -> str:
    """The table, as it stands in docs too."""
    rows = []
    for row in report["rows"]:
        count = row["num_cases"]
        rows.append(
            (
                f"`{row['family']}`",
                f"{row['num_equal_prompts']} of {count}",
                f"{row['logits']:.0e}",
                f"{row['num_equal_answers']} of {count}",
                *(NO_KV if row[what] is None else f"{row[what]:.0e}" for what in LARGEST[1:]),
                NO_KV
                if row["kv_against_embeds"] is None
                else f"{row['kv_against_embeds']:.2f} (of {row['standard_deviation']:.2f})",
            )
        )
    return table(HEADINGS, rows)


def markdown(report: Report) -> str:
    """The report as a table."""
    return (
        "# Families as they were trained\n\n"
        f"Tiny random models in float32, {report['rows'][0]['num_cases']} conversations each; equal means a difference "
        f"of at most {report['tolerance']:.0e}.\n\n" + family_table(report)
    )


def draw(report: Report, figure: Figure) -> None:
    """What equals the library beside what cannot, on one scale."""
    axes = figure.subplots()
    rows = report["rows"]
    places = range(len(rows))
    for what, marker in (*((name, "o") for name in LARGEST), ("kv_against_embeds", "x")):
        found = [(place, max(row[what], 1e-8)) for place, row in zip(places, rows) if row[what] is not None]
        axes.plot(*zip(*found), marker, label=what.replace("_", " "))
    axes.axhline(report["tolerance"], color="black", linestyle=":", linewidth=1, label="equal")
    axes.set(yscale="log", ylabel="largest difference of logits")
    axes.set_xticks(list(places), [row["family"] for row in rows], rotation=30, ha="right")
    axes.legend(fontsize="small", ncols=2)


BENCHMARK = Benchmark(
    name="families",
    about=__doc__ or "",
    default=Settings(),
    quick=Settings(num_cases=2, seeds=(0,)),
    measure=measure,
    markdown=markdown,
    draw=draw,
    merge=merge,
    size=(7.5, 4.4),
)

if __name__ == "__main__":
    BENCHMARK.main()
