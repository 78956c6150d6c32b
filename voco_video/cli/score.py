"""``voco-video score``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_files
from voco_video.cli.help import DATA, QUESTIONS
from voco_video.cli.options import with_options
from voco_video.cli.output import ProgressBar, print_json, print_table
from voco_video.errors import UsageError
from voco_video.options.judging import Judging

if TYPE_CHECKING:
    from voco_video.data.samples import Dataset

References = Annotated[
    str | None,
    typer.Option(
        help="The set that is answered; not needed for what `voco-video eval` wrote.",
        metavar="DATASET",
        rich_help_panel=DATA,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(help="The set's folder. [default: --annotations, or this one]", metavar="DIR", rich_help_panel=DATA),
]
Vocabulary = Annotated[
    Path | None,
    typer.Option(
        help="The words that HQGA's numbers stand for. [default: *ans_word.json beside the annotations]",
        metavar="FILE",
        rich_help_panel=DATA,
    ),
]


@with_options
def score(
    predictions: Annotated[
        Path, typer.Argument(help="What was answered: a .jsonl, .json or .csv file.", metavar="PREDICTIONS")
    ],
    *,
    references: References = None,
    root: Root = None,
    split: opt.Split = None,
    annotations: opt.Annotations = None,
    vocabulary: Vocabulary = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing",
            help="Leave unanswered questions out of the scores; else they are wrong.",
            rich_help_panel=QUESTIONS,
        ),
    ] = False,
    judging: Judging,
    out: Annotated[
        Path | None,
        opt.out("Also write the report: STEM.json, STEM.md and STEM.png.", metavar="STEM"),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Score predictions: exact match, token F1, ranks where they are there, and a judge if you name one.

    Everything comes overall and by question type, with 95 % intervals over videos. Unanswered questions are wrong.
    Predictions of other people are read in their layouts: rows with an id and a prediction (.json, .jsonl, .csv), one
    {id: prediction} object, HQGA's numbers.

    \b
    Examples:
      voco-video score runs/eval/msvd-test-voco-tiny/predictions-k8.jsonl
      voco-video score pred_val_example.json --references activitynet --split val --annotations data/activitynet-qa
      voco-video score runs/k8.jsonl --out runs/k8.scores
      voco-video score runs/k8.jsonl --judge-model gpt-4o-mini-2024-07-18
      voco-video score runs/k8.jsonl --judge-model my-judge --judge-base-url http://localhost:8000/v1
    """
    check_files([predictions])
    from voco_video.scoring.report import score_file, write_report

    is_judged = judging.judge_model is not None
    with ProgressBar("judging", unit="question", quiet=json or not is_judged) as bar:
        report = score_file(
            predictions,
            references=load_references(references, root=root, annotations=annotations, split=split),
            vocabulary=vocabulary,
            skip_missing=skip_missing,
            judging=judging,
            judge_cache_dir=judging.judge_cache_dir or (default_judge_cache_dir() if is_judged else None),
            facts={"command": shlex.join(["voco-video", *sys.argv[1:]])},
            progress=bar.show,
        )
    files = () if out is None else write_report(report, out)
    if json:
        print_json({**report.as_dict(), "files": [str(path) for path in files]})
        return
    print_table(*report.table())
    for note in report.notes:
        print(note)
    print(
        f"written: {', '.join(map(str, files))}" if files else "--out STEM writes the report, with pictures and samples"
    )


def load_references(
    dataset: str | None, *, root: Path | None, annotations: Path | None, split: str | None
) -> Dataset | None:
    """Load the questions that are answered; None where the predictions hold them.

    Raises:
        UsageError: a folder is given and no set is named.
        DataError: the annotations are missing or broken.
    """
    from voco_video.data.registry import load_video_set

    if dataset is None:
        if root is not None or annotations is not None or split is not None:
            raise UsageError("--root, --annotations and --split are for a set: name it with --references")
        return None
    if root is None and annotations is not None:
        root = annotations.parent if annotations.is_file() else annotations
    return load_video_set(dataset, root, split=split, annotations=annotations)


def default_judge_cache_dir() -> Path:
    """Return the folder of kept replies: beside the compressed videos, which it does not affect."""
    from voco_video.cache import FrameCache

    return FrameCache().cache_dir / "judge"
