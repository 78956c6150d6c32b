"""``voco-video eval``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
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
from voco_video.cli.output import print_json
from voco_video.cli.progress import ProgressBar, loading
from voco_video.cli.score import print_scores
from voco_video.cli.tables import print_wrapped
from voco_video.data.registry import CHOICE_SETS, GROUNDING_SETS, VIDEO_QA_SETS, load_video_set
from voco_video.errors import UsageError
from voco_video.evaluate.options import EvalOptions
from voco_video.files.urls import shown_name
from voco_video.options.engine import IN_PROCESS, EngineOptions
from voco_video.options.loading import MODEL, LoadOptions

if TYPE_CHECKING:
    from voco_video.api import VideoModel
    from voco_video.data.samples import Dataset
    from voco_video.evaluate import EvalResult
    from voco_video.evaluate.processes import Processes
    from voco_video.options.compression import Compressor
    from voco_video.scoring.report import Report
    from voco_video.scoring.report.samples import SampleFrames

_NUM_SHOWN = 3
Root = Annotated[
    Path, typer.Option(help="The folder with the videos, or a manifest of them.", metavar="PATH", rich_help_panel=DATA)
]
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
        help="Processes with a model each that share the videos; one GPU each, as far as there are.",
        metavar="N",
        rich_help_panel=MODEL,
    ),
]


@with_options
def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(VIDEO_QA_SETS)}; multiple choice: {', '.join(CHOICE_SETS)}; when something happens: "
            f"{', '.join(GROUNDING_SETS)}.",
            metavar="DATASET",
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
    engine: EngineOptions,
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
      voco-video eval charades-sta --root data/Charades --answer-by find
      voco-video eval msvd --root data/MSVD --engine-url http://node1:8000,http://node2:8000
      torchrun --nproc-per-node 8 --no-python voco-video eval msvd --root data/MSVD --model ./my-checkpoint
    """
    check_for_matplotlib()
    check_engine(engine, options, rank_vocabulary)
    check_model(model, revision=load.revision, offline=load.offline, num_voco_tokens=options.num_voco_tokens)
    data = load_video_set(dataset, root, split=split, annotations=annotations)
    from voco_video.evaluate import evaluate as run

    options = with_vocabulary(options, rank_vocabulary, data, root=root, annotations=annotations)
    folder = out or Path("runs/eval") / f"{data.name}-{data.split}-{Path(model).name}{suffix_of(options)}"
    load_model = partial(load_for_rank, path=model, options=load, cache_dir=cache_dir, engine=engine)
    processes = processes_for(num_workers, load_model)
    is_quiet = json or processes.rank > 0
    with loading(model, quiet=is_quiet):
        loaded = load_model(int(os.environ.get("LOCAL_RANK", "0")) if num_workers == 1 else 0)
    facts = {"command": shlex.join(["voco-video", *sys.argv[1:]]), "model": model}
    if engine.urls:
        facts["engine"] = f"{engine.engine_api} of {', '.join(map(shown_name, engine.urls))}"
    about = evaluated_facts(loaded, data, options) if processes.rank == 0 else {}
    if not is_quiet:
        print_wrapped(evaluated_line(about), file=sys.stderr)
    try:
        with ProgressBar("answering", unit="question", quiet=is_quiet) as bar:
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
        print(f"interrupted; {folder} keeps what is answered: the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
    if processes.rank == 0:
        reports = write_reports(result, data, options, facts=facts)
        print_result(result, reports, about, json=json)


def evaluated_facts(model: VideoModel, data: Dataset, options: EvalOptions) -> dict[str, Any]:
    """Return which model answers from what, as plain values; None for what each video has for itself."""
    from voco_video.auto_compressor import settled
    from voco_video.evaluate.plan import choose_questions

    compressor = settled(model.voco, options.compressor, num_voco_tokens=min(options.num_voco_tokens, default=None))
    videos = choose_questions(data, options)
    paths = [video.path for video in videos if video.path is not None]
    return {
        "model": model.name,
        "dataset": data.name,
        "split": data.split,
        "compressor": None if compressor is None else str(compressor),
        "num_voco_tokens": [k for k in options.budgets(model.voco) if k is not None],
        "form": None if compressor is None else model.voco.form_of(compressor, options.form),
        "sampling": str(options.sampling),
        "num_videos": len(videos),
        "num_asked": sum(len(video.turns) for video in videos),
        "num_cached_videos": None if compressor is None else num_cached(model, paths, options, compressor),
    }


def num_cached(model: VideoModel, paths: Sequence[Path], options: EvalOptions, compressor: Compressor) -> int:
    """Count the files that entries of the cache were made from with this model and these options.

    Files are told by their paths: telling them by their bytes would read all of them. On a store they are not counted:
    that would take a request for every entry.
    """
    if model.cache.is_remote:
        return 0
    from voco_video.entry_keys import entry_key

    chosen = replace(options.compression, compressor=str(compressor))
    key = entry_key(model.voco, "0" * 64, sampling=options.sampling, options=chosen, fingerprint=model.fingerprint)
    sources = {
        label.source
        for label in model.cache.labels()
        if label.state == "whole" and (label.model_fingerprint, label.settings) == (key.model_fingerprint, key.settings)
    }
    return sum(os.path.realpath(path) in sources for path in paths)


def evaluated_line(about: dict[str, Any]) -> str:
    """Write `evaluated_facts` as one line.

    >>> about = {"model": "voco-tiny", "compressor": "voco", "num_voco_tokens": [1, 8], "form": "embeds"}
    >>> about |= {"num_asked": 9, "num_videos": 3, "dataset": "msvd", "split": "test", "sampling": "8 frames"}
    >>> about |= {"num_cached_videos": 2}
    >>> evaluated_line(about)
    'voco-tiny · voco K=1,8 embeds · 9 questions on 3 videos of msvd test · 8 frames · 2 cached'
    """
    budgets = ",".join(map(str, about["num_voco_tokens"]))
    form = about["form"] or ""
    what = f"voco K={budgets} {form}" if budgets else f"{about['compressor'] or 'a compressor for each video'} {form}"
    asked = f"{about['num_asked']} questions on {about['num_videos']} videos of {about['dataset']} {about['split']}"
    cached = [] if about["num_cached_videos"] is None else [f"{about['num_cached_videos']} cached"]
    return " · ".join([about["model"], what.rstrip(), asked, about["sampling"], *cached])


def closing_line(result: EvalResult, *, is_torchrun: bool = False) -> str:
    """Say what answering took; nothing where all was answered already.

    >>> from voco_video.evaluate import EvalResult
    >>> facts = dict(num_questions=9, num_resumed=3, missing=(), undecodable=("x",), seconds=2.5)
    >>> closing_line(EvalResult({}, **facts, num_frames=48, num_compressed=2, num_cached=1))
    '48 frames of 3 videos, 2 compressed, 1 cached · 3 answers were there already · 2.5 s'
    >>> closing_line(EvalResult({}, **facts))
    ''
    """
    num_videos = result.num_compressed + result.num_cached
    if not num_videos:
        return ""
    where = "in this process " if is_torchrun else ""
    videos = f"{num_videos} video{'' if num_videos == 1 else 's'}"
    counts = [(result.num_compressed, "compressed"), (result.num_cached, "cached")]
    how = ", ".join(f"{count} {what}" for count, what in counts if count)
    resumed = f"{result.num_resumed} answers were there already" if result.num_resumed else ""
    parts = (f"{where}{result.num_frames} frames of {videos}, {how}", resumed, f"{result.seconds:.1f} s")
    return " · ".join(filter(None, parts))


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


def check_engine(engine: EngineOptions, options: EvalOptions, rank_vocabulary: int) -> None:
    """Refuse an engine where likelihoods are asked for.

    Raises:
        UsageError: they are.
    """
    asks = "--answer-by likelihood" if options.answer_by == "likelihood" else "--rank-vocabulary"
    if engine.urls and (options.answer_by == "likelihood" or rank_vocabulary):
        raise UsageError(f"{asks} takes likelihoods, which are computed in this process; leave out --engine-url")


def load_for_rank(
    rank: int, *, path: str, options: LoadOptions, cache_dir: str | Path | None, engine: EngineOptions = IN_PROCESS
) -> VideoModel:
    """Load the model of one process; at module level, so that it can be handed to processes."""
    from voco_video.api import load_model
    from voco_video.evaluate.processes import device_of
    from voco_video.model.freed_memory import keep_freed_memory

    keep_freed_memory()
    if options.device_map is None:
        options = replace(options, device=device_of(options.device, rank))
    return load_model(path, **asdict(options), **asdict(engine), cache_dir=cache_dir)


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
    from voco_video.scoring.basis import read_basis
    from voco_video.scoring.comparison import compare
    from voco_video.scoring.report import default_stem, score_file, sweep_of, write_comparison, write_report

    reports: dict[str, Report] = {}
    frames: dict[str, SampleFrames] = {}  # the same for all budgets, which answer the same questions
    for name, path in result.predictions.items():
        reports[name] = score_file(path, skip_missing=options.skip_missing, facts=facts)
        basis = read_basis(path)
        frames = frames or draw_sample_frames(data, reports[name].loaded.predictions, options, path.parent, basis=basis)
        write_report(reports[name], default_stem(path), frames=frames)
    if len(reports) > 1:
        write_comparison(
            compare(
                {name: report.loaded.predictions for name, report in reports.items()},
                bases={name: read_basis(path) for name, path in result.predictions.items()},
            ),
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
        print_scores(report)
        for note in report.notes:
            print_wrapped(note)
        print_wrapped(f"predictions: {report.predictions}, report: {default_stem(report.predictions)}.md")
    if closing := closing_line(result, is_torchrun="RANK" in os.environ):
        print_wrapped(closing, file=sys.stderr)
    for what, videos in (("missing", result.missing), ("undecodable", result.undecodable)):
        if videos:
            shown = f"{', '.join(videos[:_NUM_SHOWN])}{', ...' if len(videos) > _NUM_SHOWN else ''}"
            print_wrapped(f"{what} videos: {len(videos)} ({shown}); `voco-video data check` says where they come from")
