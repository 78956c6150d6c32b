"""``voco-video eval``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from enum import Enum
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.output import print_json, print_table
from voco_video.errors import UsageError

if TYPE_CHECKING:
    from voco_video.api import VideoModel
    from voco_video.data.samples import Dataset
    from voco_video.evaluate import EvalOptions, EvalProgress, EvalResult
    from voco_video.evaluate.processes import Processes
    from voco_video.scoring.report import Report

_NUM_SHOWN = 3


class DatasetChoice(str, Enum):
    """The sets that can be evaluated on."""

    msvd = "msvd"
    msrvtt = "msrvtt"
    activitynet = "activitynet"
    egoschema = "egoschema"
    nextqa = "nextqa"
    videomme = "videomme"
    mlvu = "mlvu"


class AnswerByChoice(str, Enum):
    """How multiple choice is answered."""

    letter = "letter"
    likelihood = "likelihood"


def evaluate(
    dataset: Annotated[
        DatasetChoice,
        typer.Argument(
            help="msvd, msrvtt or activitynet; multiple choice: egoschema, nextqa, videomme or mlvu.", metavar="DATASET"
        ),
    ],
    root: Annotated[Path, typer.Option(help="The folder with the videos.", metavar="DIR")] = Path(),
    split: opt.Split = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Annotations that are elsewhere: a file, or a folder to look in. [default: --root]"),
    ] = None,
    model: opt.Model = "voco-tiny",
    out: Annotated[
        Path | None, typer.Option(help="Where predictions go. [default: runs/eval/DATASET-SPLIT-MODEL]", metavar="DIR")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask this many questions, drawn from the split by --seed. [default: all]")
    ] = None,
    seed: Annotated[int, typer.Option(help="For --limit.")] = 0,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing", help="Score without questions on missing or undecodable videos; else they are wrong."
        ),
    ] = False,
    fps: opt.Fps = None,
    num_frames: opt.NumFrames = None,
    compressor: opt.Compressor = "voco",
    num_voco_tokens: Annotated[
        str | None,
        typer.Option(
            help="VoCo tokens per frame to answer from; several give a sweep. [default: all]", metavar="K,K,..."
        ),
    ] = None,
    max_voco_tokens: opt.MaxVocoTokens = None,
    policy: opt.Policy = opt.PolicyChoice.uniform,
    neighbours: opt.Neighbours = 2,
    clock_every_seconds: opt.ClockEverySeconds = None,
    form: opt.Form = None,
    storage: opt.Storage = opt.StorageChoice.native,
    max_new_tokens: Annotated[int, typer.Option(help="Cut an answer after this many tokens.")] = 16,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What the model is asked, {question} being the question, {options} its options under letters. "
            "[default: the question; for letters also the options, and to answer with one]"
        ),
    ] = None,
    answer_by: Annotated[
        AnswerByChoice,
        typer.Option(help="Multiple choice: generate a letter, or take the option that is the likeliest answer."),
    ] = AnswerByChoice.letter,
    questions_per_batch: Annotated[int, typer.Option(help="Questions on one video per forward pass.")] = 32,
    rank_vocabulary: Annotated[
        int,
        typer.Option(help="Also rank this many of the training split's answers by likelihood; costs time. 0: do not."),
    ] = 0,
    num_workers: Annotated[
        int, typer.Option(help="Processes that share the videos; one GPU each, as far as there are.")
    ] = 1,
    batch_size: opt.BatchSize = "16",
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    weight_bits: opt.WeightBits = 16,
    attention: opt.Attention = "auto",
    decoder: opt.Decoder = opt.DecoderChoice.pyav,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    r"""Evaluate a model on a video question-answering or multiple-choice set.

    Each video is compressed once, or found in the cache, and all its questions are answered over the same frames. The
    same command goes on where an interrupted one stopped, and costs nothing where everything is done. The predictions
    are the same whatever the number of processes (--num-workers, or torchrun) while each has as many threads; with
    another OMP_NUM_THREADS, which torchrun sets to 1, answers stay and confidences move by less than 1e-5.

    \b
    Examples:
      voco-video eval msvd --root data/MSVD
      voco-video eval activitynet --root data/activitynet --split val --num-frames 32 --num-voco-tokens 1,2,4,8
      voco-video eval msrvtt --root data/MSRVTT --limit 1000 --rank-vocabulary 1000 --num-workers 4
      voco-video eval videomme --root data/Video-MME --answer-by likelihood
      torchrun --nproc-per-node 8 --no-python voco-video eval msvd --root data/MSVD --model ./my-checkpoint
    """
    check_for_matplotlib()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # every process would draw one over the other
    from voco_video.data.registry import load_dataset
    from voco_video.evaluate import EvalOptions
    from voco_video.evaluate import evaluate as run

    options = EvalOptions(
        fps=fps,
        num_frames=num_frames,
        compressor=compressor,
        num_voco_tokens=parse_budgets(num_voco_tokens),
        max_voco_tokens=max_voco_tokens,
        policy=policy.value,
        neighbours=neighbours,
        clock_every_seconds=clock_every_seconds,
        form=form.value if form else None,
        storage=storage.value,
        batch_size=opt.parse_batch_size(batch_size),
        decoder=decoder.value,
        max_new_tokens=max_new_tokens,
        prompt=prompt,
        answer_by=answer_by.value,
        questions_per_batch=questions_per_batch,
        limit=limit,
        seed=seed,
        skip_missing=skip_missing,
    )
    data = load_dataset(dataset.value, root, split=split.value if split else None, annotations=annotations)
    options = with_vocabulary(options, rank_vocabulary, data, root=root, annotations=annotations)
    folder = out or Path("runs/eval") / f"{data.name}-{data.split}-{Path(model).name}{suffix_of(options)}"
    load = partial(
        load_for_rank,
        path=model,
        device=device,
        dtype=dtype,
        attn_implementation=attention,
        device_map=device_map,
        weight_bits=weight_bits,
        cache_dir=cache_dir,
    )
    processes = processes_for(num_workers, load)
    loaded = load(int(os.environ.get("LOCAL_RANK", "0")) if num_workers == 1 else 0)
    facts = {"command": shlex.join(["voco-video", *sys.argv[1:]]), "model": model}
    try:
        with answers_bar(quiet=json or processes.rank > 0) as show:
            result = run(loaded, data, options=options, out=folder, processes=processes, facts=facts, on_progress=show)
    except KeyboardInterrupt:
        print(
            f"interrupted; what is answered is kept in {folder}, so the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if processes.rank == 0:
        reports = write_reports(result, skip_missing=skip_missing, facts=facts)
        print_result(result, reports, json=json)


def suffix_of(options: EvalOptions) -> str:
    """What keeps runs that answer otherwise apart where no folder is named."""
    return "" if options.answer_by == "letter" else f"-{options.answer_by}"


def parse_budgets(text: str | None) -> tuple[int, ...]:
    """``"1,2,4"`` to budgets.

    Raises:
        UsageError: something in it is no number above 0.
    """
    parts = [] if text is None else text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--num-voco-tokens {text!r}: give numbers with commas between them, as in 1,2,4")
    return tuple(int(part) for part in parts)


def with_vocabulary(
    options: EvalOptions, size: int, data: Dataset, *, root: Path, annotations: Path | None
) -> EvalOptions:
    """The options with the commonest answers of the training split, whose annotations lie beside the split's own.

    Raises:
        UsageError: a size below 0, or a multiple-choice set.
        DataError: the training split's annotations are not there.
    """
    if size == 0:
        return options
    if data.is_multiple_choice:
        raise UsageError(f"--rank-vocabulary {size}: {data.name} is multiple choice; use --answer-by likelihood")
    from voco_video.data.registry import load_dataset
    from voco_video.evaluate import answer_vocabulary

    place = annotations.parent if annotations is not None and annotations.is_file() else annotations
    train = load_dataset(data.name, root, split="train", annotations=place)
    return replace(options, vocabulary=answer_vocabulary(train, size))


def processes_for(num_workers: int, load: Callable[[int], VideoModel]) -> Processes:
    """Torchrun's processes, or those that --num-workers asks for.

    Raises:
        UsageError: both.
    """
    from voco_video.evaluate import Alone, Spawned, Torchrun

    torchrun = Torchrun.from_environment()
    if torchrun is not None and num_workers != 1:
        raise UsageError(f"--num-workers {num_workers}: torchrun has started the processes already; leave it out")
    return torchrun or (Alone() if num_workers == 1 else Spawned(num_workers, load))


def load_for_rank(rank: int, *, path: str, device: str, **options: Any) -> VideoModel:
    """The model of one process; at module level, so that processes can be handed it."""
    from voco_video.api import load_model
    from voco_video.evaluate.processes import device_of
    from voco_video.model.freed_memory import keep_freed_memory

    keep_freed_memory()
    is_spread = options.get("device_map") is not None
    return load_model(path, device=device if is_spread else device_of(device, rank), **options)


@contextmanager
def answers_bar(*, quiet: bool) -> Iterator[Callable[[EvalProgress], None]]:
    """A bar of answers with questions/s and time left, on standard error; silent where that is not a terminal."""
    from tqdm import tqdm

    with tqdm(desc="answering", unit="question", disable=True if quiet else None, smoothing=0.1) as bar:

        def show(progress: EvalProgress) -> None:
            if bar.total is None:
                bar.initial = bar.n = progress.num_resumed  # those do not count towards questions/s
            bar.total = progress.total_answers
            bar.update(progress.num_answers - bar.n)

        yield show


def check_for_matplotlib() -> None:
    """Refuse to begin what could not be reported in the end.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UsageError("the report's pictures need matplotlib: pip install 'voco-video[eval]'")


def write_reports(result: EvalResult, *, skip_missing: bool, facts: dict[str, Any]) -> dict[str, Report]:
    """Score each predictions file, and write its report beside it; of a sweep also what it comes to."""
    from voco_video.scoring.comparison import compare
    from voco_video.scoring.report import default_stem, score_file, sweep_of, write_comparison, write_report

    reports = {}
    for name, path in result.predictions.items():
        reports[name] = score_file(path, skip_missing=skip_missing, facts=facts)
        write_report(reports[name], default_stem(path))
    if len(reports) > 1:
        write_comparison(
            compare({name: report.loaded.predictions for name, report in reports.items()}),
            next(iter(result.predictions.values())).with_name("sweep"),
            inputs=list(result.predictions.values()),
            num_voco_tokens=sweep_of([report.run for report in reports.values()]),
        )
    return reports


def print_result(result: EvalResult, reports: dict[str, Report], *, json: bool) -> None:
    """The scores with what has to be known about them, and where everything is."""
    if json:
        scores = {name: report.as_dict()["scores"] for name, report in reports.items()}
        print_json({**asdict(result), "scores": scores})
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
