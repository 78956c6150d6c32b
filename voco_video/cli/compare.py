"""``voco-video compare``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_files
from voco_video.cli.output import print_json, print_table
from voco_video.cli.score import References, Root, Vocabulary, load_references
from voco_video.errors import UsageError


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
    json: opt.Json = False,
) -> None:
    """Compare predictions on the questions that all of them have: differences, and whether they may be chance.

    \b
    Examples:
      voco-video compare runs/a/predictions-k8.jsonl runs/b/predictions-k8.jsonl
      voco-video compare runs/eval/predictions-k{1,2,4,8}.jsonl --out runs/sweep
      voco-video compare runs/k8.jsonl hqga.json --references msvd --root data/MSVD
    """
    check_files(predictions)
    from voco_video.scoring.comparison import compare as compare_runs
    from voco_video.scoring.predictions import read_predictions, read_run_info
    from voco_video.scoring.report import comparison_notes, comparison_table, sweep_of, write_comparison

    data = load_references(references, root=root, annotations=annotations, split=split)
    names = short_names(predictions)
    runs = {
        name: read_predictions(path, references=data, vocabulary=vocabulary)
        for name, path in zip(names, predictions, strict=True)
    }
    comparison = compare_runs(runs, metric=metric)
    files: tuple[Path, ...] = ()
    if out is not None:
        budgets = sweep_of([read_run_info(path) for path in predictions])
        files = write_comparison(comparison, out, inputs=predictions, num_voco_tokens=budgets)
    if json:
        print_json({**comparison.as_dict(), "files": [str(path) for path in files]})
        return
    print_table(*comparison_table(comparison))
    for note in comparison_notes(comparison):
        print(note)
    if files:
        print(f"written: {', '.join(map(str, files))}")


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
