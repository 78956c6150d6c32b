"""``voco-video score``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.evaluate import DatasetChoice
from voco_video.cli.output import ProgressBar, print_json, print_table
from voco_video.errors import UsageError

if TYPE_CHECKING:
    from voco_video.data.samples import Dataset
    from voco_video.scoring.judge import JudgeOptions

References = Annotated[
    DatasetChoice | None,
    typer.Option(help="The set that is answered; not needed for what `voco-video eval` wrote.", metavar="DATASET"),
]
Root = Annotated[
    Path | None, typer.Option(help="The set's folder. [default: --annotations, or this one]", metavar="DIR")
]
Vocabulary = Annotated[
    Path | None,
    typer.Option(help="The words that HQGA's numbers stand for. [default: *ans_word.json beside the annotations]"),
]


def score(
    predictions: Annotated[
        Path, typer.Argument(help="What was answered: a .jsonl, .json or .csv file.", metavar="PREDICTIONS")
    ],
    references: References = None,
    root: Root = None,
    annotations: opt.Annotations = None,
    split: opt.Split = None,
    vocabulary: Vocabulary = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave unanswered questions out of the scores; else they are wrong.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write STEM.json, STEM.md and STEM.png. [default: PREDICTIONS.scores]", metavar="STEM"),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Also ask this chat model whether answers are right.")] = None,
    judge_base_url: Annotated[
        str | None,
        typer.Option(help="Its endpoint, any that speaks OpenAI's protocol. [default: OpenAI's]", metavar="URL"),
    ] = None,
    judge_api_key_env: Annotated[
        str, typer.Option(help="The environment variable with its key.", metavar="NAME")
    ] = "OPENAI_API_KEY",
    judge_prompt: Annotated[
        Path | None,
        typer.Option(
            help="Another prompt: the system turn, a line ---, the user turn with {question}, {answer}, {prediction}.",
            metavar="FILE",
        ),
    ] = None,
    judge_concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 8,
    judge_timeout: Annotated[float, typer.Option(help="Seconds to wait for a reply.")] = 60.0,
    judge_retries: Annotated[int, typer.Option(help="Tries after the first.")] = 5,
    judge_price_per_million_in: Annotated[
        float | None, typer.Option(help="Price of a million tokens in, for the cost in the report.")
    ] = None,
    judge_price_per_million_out: Annotated[float | None, typer.Option(help="Price of a million tokens out.")] = None,
    judge_cache_dir: Annotated[
        Path | None, typer.Option(help="Where its replies are kept. [default: judge in the frame cache's folder]")
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
      voco-video score runs/k8.jsonl --judge-model gpt-4o-mini-2024-07-18
      voco-video score runs/k8.jsonl --judge-model my-judge --judge-base-url http://localhost:8000/v1
    """
    from voco_video.scoring.report import default_stem, score_file, write_report

    options = None
    if judge_model is not None:
        options = judge_options(
            judge_model,
            base_url=judge_base_url,
            api_key_env=judge_api_key_env,
            prompt=judge_prompt,
            concurrency=judge_concurrency,
            timeout_seconds=judge_timeout,
            max_retries=judge_retries,
            prices=(judge_price_per_million_in, judge_price_per_million_out),
        )
        judge_cache_dir = judge_cache_dir or default_judge_cache_dir()
    elif judge_base_url is not None or judge_prompt is not None:
        raise UsageError("--judge-base-url and --judge-prompt are for a judge: name it with --judge-model")
    with ProgressBar("judging", unit="question", quiet=json or options is None) as bar:
        report = score_file(
            predictions,
            references=load_references(references, root=root, annotations=annotations, split=split),
            vocabulary=vocabulary,
            skip_missing=skip_missing,
            judge_options=options,
            judge_cache_dir=judge_cache_dir,
            facts={"command": shlex.join(["voco-video", *sys.argv[1:]])},
            progress=bar.show,
        )
    files = write_report(report, out or default_stem(predictions))
    if json:
        print_json({**report.as_dict(), "files": [str(path) for path in files]})
        return
    print_table(*report.table())
    for note in report.notes:
        print(note)
    print(f"written: {', '.join(map(str, files))}")


def load_references(
    dataset: DatasetChoice | None, *, root: Path | None, annotations: Path | None, split: opt.SplitChoice | None
) -> Dataset | None:
    """The questions that are answered; None where the predictions carry them.

    Raises:
        UsageError: a place without the set that is there.
        DataError: the annotations are missing or broken.
    """
    from voco_video.data.registry import load_dataset

    if dataset is None:
        if root is not None or annotations is not None:
            raise UsageError("--root and --annotations are for a set: name it with --references")
        return None
    if root is None and annotations is not None:
        root = annotations.parent if annotations.is_file() else annotations
    return load_dataset(dataset.value, root, split=split.value if split else None, annotations=annotations)


def judge_options(
    model: str,
    *,
    base_url: str | None,
    api_key_env: str,
    prompt: Path | None,
    concurrency: int,
    timeout_seconds: float,
    max_retries: int,
    prices: tuple[float | None, float | None],
) -> JudgeOptions:
    """The judge's options from the command line's."""
    from voco_video.scoring.judge import PROMPT, AskOptions, JudgeOptions, JudgePrompt

    return JudgeOptions(
        AskOptions(model, base_url, timeout_seconds=timeout_seconds, max_retries=max_retries),
        prompt=PROMPT if prompt is None else JudgePrompt.from_file(prompt),
        api_key_env=api_key_env,
        concurrency=concurrency,
        price_per_million_in=prices[0],
        price_per_million_out=prices[1],
    )


def default_judge_cache_dir() -> Path:
    """Beside the compressed videos, which take no notice of it."""
    from voco_video.cache import FrameCache

    return FrameCache().cache_dir / "judge"
