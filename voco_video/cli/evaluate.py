"""``voco-video eval``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_model
from voco_video.cli.help import DATA, QUESTIONS
from voco_video.cli.options import with_options
from voco_video.cli.output import ProgressBar, print_json, print_table
from voco_video.data.registry import CHOICE_SETS, VIDEO_QA_SETS, load_video_set
from voco_video.errors import UsageError
from voco_video.evaluate.options import EvalOptions
from voco_video.options.loading import MODEL, LoadOptions

if TYPE_CHECKING:
    from voco_video.api import VideoModel
    from voco_video.data.samples import Dataset
    from voco_video.evaluate import EvalResult
    from voco_video.evaluate.processes import Processes
    from voco_video.scoring.report import Report
    from voco_video.scoring.report.samples import SampleFrames

_NUM_SHOWN = 3
Root = Annotated[Path, typer.Option(help="The folder with the videos.", metavar="DIR", rich_help_panel=DATA)]
RankVocabulary = Annotated[
    int,
    typer.Option(
        help="Also rank this many of the training split's answers by likelihood; costs time. 0: do not.",
        metavar="N",
        rich_help_panel=QUESTIONS,
    ),
]
NumWorkers = Annotated[
    int,
    typer.Option(
        help="Processes that share the videos; one GPU each, as far as there are.",
        metavar="N",
        rich_help_panel=MODEL,
    ),
]


@with_options
def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(VIDEO_QA_SETS)}; multiple choice: {', '.join(CHOICE_SETS)}.", metavar="DATASET"
        ),
    ],
    *,
    root: Root = Path(),
    split: opt.Split = None,
    annotations: opt.Annotations = None,
    model: opt.Model = "voco-tiny",
    options: EvalOptions,
    rank_vocabulary: RankVocabulary = 0,
    num_workers: NumWorkers = 1,
    load: LoadOptions,
    cache_dir: opt.CacheDir = None,
    out: Annotated[
        Path | None, opt.out("Where predictions go. [default: runs/eval/DATASET-SPLIT-MODEL]", metavar="DIR")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Evaluate a model on a video question-answering or multiple-choice set.

    Each video is compressed once, or found in the cache, and all its questions are answered over the same frames. The
    same command continues where an interrupted one stopped, and costs nothing where everything is done. Predictions do
    not depend on the number of processes (--num-workers, or torchrun) as long as each has as many threads; with another
    OMP_NUM_THREADS, which torchrun sets to 1, answers stay the same and confidences move by less than 1e-5.

    \b
    Examples:
      voco-video eval msvd --root data/MSVD
      voco-video eval activitynet --root data/activitynet --split val --num-frames 32 --num-voco-tokens 1,2,4,8
      voco-video eval msrvtt --root data/MSRVTT --limit 1000 --rank-vocabulary 1000 --num-workers 4
      voco-video eval videomme --root data/Video-MME --answer-by likelihood
      torchrun --nproc-per-node 8 --no-python voco-video eval msvd --root data/MSVD --model ./my-checkpoint
    """
    check_for_matplotlib()
    check_model(model, revision=load.revision, num_voco_tokens=options.num_voco_tokens)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # every process would draw one over the other
    data = load_video_set(dataset, root, split=split, annotations=annotations)
    from voco_video.evaluate import evaluate as run

    options = with_vocabulary(options, rank_vocabulary, data, root=root, annotations=annotations)
    folder = out or Path("runs/eval") / f"{data.name}-{data.split}-{Path(model).name}{suffix_of(options)}"
    load_model = partial(load_for_rank, path=model, options=load, cache_dir=cache_dir)
    processes = processes_for(num_workers, load_model)
    loaded = load_model(int(os.environ.get("LOCAL_RANK", "0")) if num_workers == 1 else 0)
    facts = {"command": shlex.join(["voco-video", *sys.argv[1:]]), "model": model}
    is_quiet = json or processes.rank > 0
    about = evaluated_facts(loaded, data, options)
    if not is_quiet:
        print(evaluated_line(about), file=sys.stderr)
    try:
        with ProgressBar("answering", unit="question", quiet=is_quiet, keep=True) as bar:
            result = run(
                loaded,
                data,
                options=options,
                out=folder,
                processes=processes,
                facts=facts,
                on_progress=lambda progress: bar.show(progress.num_answers, progress.total_answers),
            )
    except KeyboardInterrupt:
        print(
            f"interrupted; what is answered is kept in {folder}, so the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if processes.rank == 0:
        reports = write_reports(result, data, options, facts=facts)
        print_result(result, reports, about, json=json)


def evaluated_facts(model: VideoModel, data: Dataset, options: EvalOptions) -> dict[str, Any]:
    """Return which model answers from what, as plain values; None for what each video has for itself."""
    from voco_video.auto_compressor import settled

    compressor = settled(model.voco, options.compressor, num_voco_tokens=min(options.num_voco_tokens, default=None))
    return {
        "model": model.name,
        "dataset": data.name,
        "split": data.split,
        "compressor": None if compressor is None else str(compressor),
        "num_voco_tokens": [k for k in options.budgets(model.voco) if k is not None],
        "form": None if compressor is None else model.voco.form_of(compressor, options.form),
        "sampling": str(options.sampling),
    }


def evaluated_line(about: dict[str, Any]) -> str:
    """Write `evaluated_facts` as one line: ``voco-tiny · voco K=1,8 embeds · msvd test · 1 fps``."""
    budgets = ",".join(map(str, about["num_voco_tokens"]))
    form = about["form"] or ""
    what = f"voco K={budgets} {form}" if budgets else f"{about['compressor'] or 'a compressor for each video'} {form}"
    return " · ".join([about["model"], what.rstrip(), f"{about['dataset']} {about['split']}", about["sampling"]])


def suffix_of(options: EvalOptions) -> str:
    """Return the end of a default folder's name, which keeps runs that answer in another way apart."""
    return "" if options.answer_by == "letter" else f"-{options.answer_by}"


def with_vocabulary(
    options: EvalOptions, size: int, data: Dataset, *, root: Path, annotations: Path | None
) -> EvalOptions:
    """Add the commonest answers of the training split, whose annotations lie beside those of the evaluated split.

    Raises:
        UsageError: a size below 0, or a multiple-choice set.
        DataError: the training split's annotations are not there.
    """
    if size == 0:
        return options
    if data.is_multiple_choice:
        raise UsageError(f"--rank-vocabulary {size}: {data.name} is multiple choice; use --answer-by likelihood")
    from voco_video.evaluate import answer_vocabulary

    place = annotations.parent if annotations is not None and annotations.is_file() else annotations
    train = load_video_set(data.name, root, split="train", annotations=place)
    return replace(options, vocabulary=answer_vocabulary(train, size))


def processes_for(num_workers: int, load: Callable[[int], VideoModel]) -> Processes:
    """Return torchrun's processes, or those that --num-workers asks for.

    Raises:
        UsageError: both.
    """
    from voco_video.evaluate import Alone, Spawned, Torchrun

    torchrun = Torchrun.from_environment()
    if torchrun is not None and num_workers != 1:
        raise UsageError(f"--num-workers {num_workers}: torchrun has started the processes already; leave it out")
    return torchrun or (Alone() if num_workers == 1 else Spawned(num_workers, load))


def load_for_rank(rank: int, *, path: str, options: LoadOptions, cache_dir: Path | None) -> VideoModel:
    """Load the model of one process; at module level, so that it can be handed to processes."""
    from voco_video.api import load_model
    from voco_video.evaluate.processes import device_of
    from voco_video.model.freed_memory import keep_freed_memory

    keep_freed_memory()
    if options.device_map is None:
        options = replace(options, device=device_of(options.device, rank))
    return load_model(path, **asdict(options), cache_dir=cache_dir)


def check_for_matplotlib() -> None:
    """Refuse to begin an evaluation whose report could not be drawn.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UsageError("the report's pictures need matplotlib: pip install 'voco-video[eval]'")


def write_reports(
    result: EvalResult, data: Dataset, options: EvalOptions, *, facts: dict[str, Any]
) -> dict[str, Report]:
    """Score each predictions file and write its report beside it; for a sweep also write the comparison."""
    from voco_video.evaluate.sample_frames import draw_sample_frames
    from voco_video.scoring.comparison import compare
    from voco_video.scoring.report import default_stem, score_file, sweep_of, write_comparison, write_report

    reports: dict[str, Report] = {}
    frames: dict[str, SampleFrames] = {}  # the same for all budgets, which answer the same questions
    for name, path in result.predictions.items():
        reports[name] = score_file(path, skip_missing=options.skip_missing, facts=facts)
        frames = frames or draw_sample_frames(data, reports[name].loaded.predictions, options, path.parent)
        write_report(reports[name], default_stem(path), frames=frames)
    if len(reports) > 1:
        write_comparison(
            compare({name: report.loaded.predictions for name, report in reports.items()}),
            next(iter(result.predictions.values())).with_name("sweep"),
            inputs=list(result.predictions.values()),
            num_voco_tokens=sweep_of([report.run for report in reports.values()]),
        )
    return reports


def print_result(result: EvalResult, reports: dict[str, Report], about: dict[str, Any], *, json: bool) -> None:
    """Print the scores, notes about them, and where the files are."""
    if json:
        scores = {name: report.as_dict()["scores"] for name, report in reports.items()}
        print_json({**about, **asdict(result), "scores": scores})
        return
    from voco_video.scoring.report import default_stem

    for name, report in reports.items():
        print(f"{report.dataset} {report.split}, {name}")
        print_table(*report.table())
        for note in report.notes:
            print(note)
        print(f"predictions: {report.predictions}, report: {default_stem(report.predictions)}.md")
    for what, videos in (("missing", result.missing), ("undecodable", result.undecodable)):
        if videos:
            shown = f"{', '.join(videos[:_NUM_SHOWN])}{', ...' if len(videos) > _NUM_SHOWN else ''}"
            print(f"{what} videos: {len(videos)} ({shown}); `voco-video data check` says where they come from")
