"""``voco-video compare``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_files
from voco_video.cli.output import print_json
from voco_video.cli.score import References, Root, Vocabulary, load_references
from voco_video.cli.tables import Column, print_table, print_wrapped
from voco_video.errors import UsageError

if TYPE_CHECKING:
    from voco_video.scoring.basis import Basis
    from voco_video.scoring.comparison import Comparison
    from voco_video.scoring.predictions import Prediction


def compare(
    predictions: Annotated[
        list[Path],
        typer.Argument(help="Two or more; the first is what the others are compared with.", metavar="A B..."),
    ],
    metric: Annotated[
        str | None,
        typer.Option(
            help="What to compare: exact_match, strict, token_f1, top1, top10, accuracy or accuracy_plain. [default: "
            "exact_match, of multiple choice accuracy]",
            metavar="NAME",
        ),
    ] = None,
    references: References = None,
    root: Root = None,
    split: opt.Split = None,
    annotations: opt.Annotations = None,
    vocabulary: Vocabulary = None,
    out: Annotated[
        Path | None,
        opt.out("Also write STEM.json, STEM.md and STEM.png; of a sweep of k, accuracy against k.", metavar="STEM"),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            help="Instead, lay open one question: its prompt, each run's answer, and a picture of the frames that were "
            "seen (explain-QUESTION.png, or STEM.png).",
            metavar="QUESTION",
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Compare predictions on the questions that all of them have: differences, and whether they may be chance.

    First comes what the runs rest on: in which of frames, pixels, sizes, prompts, weights, engine and judge they
    differ. `voco-video eval` writes that beside its predictions; of others' predictions it is told as far as known.

    \b
    Examples:
      voco-video compare runs/a/predictions-k8.jsonl runs/b/predictions-k8.jsonl
      voco-video compare runs/eval/predictions-k{1,2,4,8}.jsonl --out runs/sweep
      voco-video compare runs/k8.jsonl hqga.json --references msvd --root data/MSVD
      voco-video compare runs/a/predictions-k8.jsonl runs/b/predictions-k8.jsonl --explain 17
    """
    check_files(predictions)
    from voco_video.scoring.basis import read_basis
    from voco_video.scoring.comparison import compare as compare_runs
    from voco_video.scoring.predictions import read_predictions
    from voco_video.scoring.report import sweep_of, write_comparison

    data = load_references(references, root=root, annotations=annotations, split=split)
    names = short_names(predictions)
    runs = {
        name: read_predictions(path, references=data, vocabulary=vocabulary)
        for name, path in zip(names, predictions, strict=True)
    }
    bases = {name: read_basis(path) for name, path in zip(names, predictions, strict=True)}
    if explain is not None:
        explain_question(explain, runs, bases, out=out, json=json)
        return
    comparison = compare_runs(runs, metric=metric, bases=bases)
    files: tuple[Path, ...] = ()
    if out is not None:
        budgets = sweep_of([dict(basis.run) for basis in bases.values()])
        files = write_comparison(comparison, out, inputs=predictions, num_voco_tokens=budgets)
    if json:
        print_json({**comparison.as_dict(), "files": [str(path) for path in files]})
        return
    print_comparison(comparison)
    if files:
        print_wrapped(f"written: {', '.join(map(str, files))}")


def print_comparison(comparison: Comparison) -> None:
    """Print what the runs rest on, then their scores."""
    from voco_video.scoring.report import comparison_notes, comparison_table, traits_notes, traits_table

    columns, traits = traits_table(comparison)
    if traits:
        print_table(columns, traits)
    for note in traits_notes(comparison):
        print_wrapped(note)
    print()
    names, rows = comparison_table(comparison)
    spares = (4, 5, 0, 0, 1, 3, 2)  # all questions are the same, and exact tests are the weaker ones
    numbers = [
        Column(name, right=True, spare=spare, brackets="" if spare else "interval")
        for name, spare in zip(names[1:], spares, strict=True)
    ]
    print_table([names[0], *numbers], rows)
    for note in comparison_notes(comparison):
        print_wrapped(note)


def explain_question(
    question_id: str,
    runs: Mapping[str, Sequence[Prediction]],
    bases: Mapping[str, Basis],
    *,
    out: Path | None,
    json: bool,
) -> None:
    """Print one question with all runs' answers, and draw the frames that they saw.

    Raises:
        UsageError: a run does not have the question.
        DataError: the picture cannot be written.
    """
    from voco_video.cli.pictures import save_picture
    from voco_video.evaluate.explaining import explain, explained_lines, explained_picture

    explained = explain(question_id, runs, bases)
    plain_id = "".join(c if c.isalnum() or c in "-_" else "-" for c in question_id)
    place = Path(f"explain-{plain_id}.png") if out is None else out.with_name(f"{out.name}.png")
    save_picture(explained_picture(explained), place)
    if json:
        print_json({"question_id": question_id, "runs": [asdict(run) for run in explained], "picture": str(place)})
        return
    for line in explained_lines(explained):
        print(line)
    print_wrapped(f"frames: {place}")


def short_names(paths: Sequence[Path]) -> list[str]:
    """Shorten paths by the folders and the suffix that they have in common.

    Raises:
        UsageError: a path is there twice.

    >>> short_names([Path("runs/a/k8.jsonl"), Path("runs/b/k8.jsonl")])
    ['a/k8', 'b/k8']
    """
    given = [os.path.abspath(path) for path in paths]
    twice = next((path for path in given if given.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice: a run cannot be compared with itself")
    shared = os.path.commonpath([os.path.dirname(path) for path in given])
    names = [os.path.relpath(path, shared) for path in given]
    stems = [os.path.splitext(name)[0] for name in names]
    return stems if len(set(stems)) == len(stems) else names
