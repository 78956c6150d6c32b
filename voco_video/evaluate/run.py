"""A model answers every question of a split.

    Dataset -> chosen questions -> jobs, one a video -> predictions as they come -> one file in published order

The same questions give the same bytes whatever the number of processes and however often the run was interrupted, while
every process has as many threads: sums in another order have other last digits, so confidences move by less than 1e-5.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from voco_video.answer.generate import model_note
from voco_video.api import VideoModel
from voco_video.data.samples import Dataset
from voco_video.evaluate.answering import answer_jobs
from voco_video.evaluate.options import EvalOptions
from voco_video.evaluate.plan import Asked, Job, choose_questions, open_jobs
from voco_video.evaluate.processes import Alone, OnDone, Processes
from voco_video.evaluate.run_folder import RunFiles
from voco_video.evaluate.run_identity import run_settings, surroundings
from voco_video.video.other_readers import check_backend


@dataclass(frozen=True)
class EvalProgress:
    """How far a run has come, in answers: one for every question and budget.

    Attributes:
        num_answers: answered by now.
        total_answers: wanted in the end.
        num_resumed: of the answered, those that earlier runs had left.
    """

    num_answers: int
    total_answers: int
    num_resumed: int


@dataclass(frozen=True)
class EvalResult:
    """What a run came to.

    Attributes:
        predictions: the finished files, by names such as ``"k8"``, or ``"full"`` for another compressor.
        num_questions: asked, per budget; whatever their video.
        num_resumed: answers that earlier runs had left, over all budgets.
        missing, undecodable: names of the videos that are not there, and that cannot be decoded.
        seconds: this call's; next to nothing where everything was there.
    """

    predictions: dict[str, Path]
    num_questions: int
    num_resumed: int
    missing: tuple[str, ...]
    undecodable: tuple[str, ...]
    seconds: float


def evaluate(
    model: VideoModel,
    dataset: Dataset,
    *,
    options: EvalOptions | None = None,
    out: str | os.PathLike[str],
    processes: Processes | None = None,
    facts: Mapping[str, Any] | None = None,
    on_progress: Callable[[EvalProgress], None] | None = None,
) -> EvalResult:
    """Answer a split's questions, going on from wherever an earlier call was interrupted.

    Videos that are missing or cannot be decoded get predictions that say so; a later call tries them again, and
    nothing else. Where everything is there already nothing is decoded, compressed or asked.

    Args:
        dataset: a split of questions about single videos, from `load_dataset`.
        options: what is asked and how; `EvalOptions()` when None.
        out: the folder that gets ``predictions-k<k>.jsonl`` and their run info.
        processes: who shares the work: `Spawned`, `Torchrun`, or this process alone when None.
        facts: JSON values for the run info, such as the command line.
        on_progress: called at the start and after every video.

    Raises:
        UsageError: an option that does not fit the model, or a folder that holds a run with other settings.
        DataError: questions about something else than one video, or a folder that cannot be written.
        CacheError: the frame cache cannot be written, or an entry is damaged.

    >>> result = evaluate(model, load_dataset("msvd", "data/MSVD"), out="runs/msvd")            # doctest: +SKIP
    >>> result.predictions["k8"]                                                                # doctest: +SKIP
    PosixPath('runs/msvd/predictions-k8.jsonl')
    """
    started = time.perf_counter()
    options, processes = options or EvalOptions(), processes or Alone()
    check_backend(options.decoder)
    asked = choose_questions(dataset, options)
    runs = {k: RunFiles(Path(out), options.compressor, k) for k in options.budgets(model.voco)}
    jobs: Sequence[Job] = ()
    if processes.rank == 0:
        settings = run_settings(model, dataset, asked, options)
        for k, run in runs.items():
            run.claim({"num_voco_tokens": k, **settings})
        jobs = open_jobs(asked, {k: run.known() for k, run in runs.items()})
    jobs = processes.agree(jobs)
    num_resumed = len(runs) * sum(len(one.turns) for one in asked) - sum(job.num_answers for job in jobs)
    count = _counter(on_progress, processes.visible(jobs), num_resumed)
    processes.run(partial(answer_jobs, options=options, runs=runs), model, jobs, count)
    if processes.rank == 0:
        how: dict[str, Any] = {
            "seed": options.seed,
            "num_processes": processes.num_processes,
            "num_resumed": num_resumed,
        }
        how |= {"model_note": model_note(model.voco), "seconds": time.perf_counter() - started, **surroundings()}
        for run in runs.values():
            publish(run, asked, {**(facts or {}), **how})
    processes.wait()
    unanswered = {p.video: p.status for p in next(iter(runs.values())).known().values() if p.status != "answered"}
    return EvalResult(
        predictions={run.name: run.predictions for run in runs.values()},
        num_questions=sum(len(one.turns) for one in asked),
        num_resumed=num_resumed,
        missing=tuple(video for video, status in unanswered.items() if status == "missing"),
        undecodable=tuple(video for video, status in unanswered.items() if status == "undecodable"),
        seconds=time.perf_counter() - started,
    )


def publish(run: RunFiles, asked: Sequence[Asked], how: Mapping[str, Any]) -> None:
    """Put the predictions of all processes together in published order, and say how they came about."""
    known = run.known()
    predictions = sorted((known[turn.question_id] for one in asked for turn in one.turns), key=lambda p: p.row)
    if run.is_finished and run.published() == tuple(predictions):  # then what is said about it is still true
        run.drop_parts()
        return
    videos = {p.video: p.status for p in predictions}
    of_questions, of_videos = (Counter(p.status for p in predictions), Counter(videos.values()))
    info = {
        "settings": (run.info() or {})["settings"],
        "is_finished": True,
        **how,
        "num_questions": {"all": len(predictions), **of_questions},
        "num_videos": {"all": len(videos), **of_videos},
        "missing": [video for video, status in videos.items() if status == "missing"],
        "undecodable": [video for video, status in videos.items() if status == "undecodable"],
    }
    run.publish(predictions, info)


def _counter(on_progress: Callable[[EvalProgress], None] | None, jobs: Sequence[Job], num_resumed: int) -> OnDone:
    """Sum up what is done, and report it; once at the start."""
    total, done = num_resumed + sum(job.num_answers for job in jobs), num_resumed

    def count(num_answers: int) -> None:
        nonlocal done
        done += num_answers
        if on_progress is not None:
            on_progress(EvalProgress(done, total, num_resumed))

    count(0)
    return count
