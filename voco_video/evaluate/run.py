"""A model answers every question of a split.

    Dataset -> chosen questions -> jobs, one a video -> predictions as they come -> one file in published order

The same questions give the same bytes, whatever the number of processes and however often the run was interrupted. Only
the number of threads of a process matters: it changes the order of sums, which moves confidences by less than 1e-5.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from voco_video.answer.generate import model_note
from voco_video.api import VideoModel
from voco_video.data.samples import Dataset
from voco_video.evaluate.answering import answer_jobs
from voco_video.evaluate.options import EvalOptions
from voco_video.evaluate.plan import Job, JobDone, VideoQuestions, choose_questions, open_jobs
from voco_video.evaluate.processes import Alone, Processes
from voco_video.evaluate.run_folder import RunFiles
from voco_video.evaluate.run_identity import environment_info, run_settings
from voco_video.scoring.predictions import Prediction
from voco_video.video.other_readers import check_backend


@dataclass(frozen=True)
class EvalProgress:
    """The progress of a run, in answers: one for every question and budget.

    Attributes:
        num_answers: answers so far.
        total_answers: answers at the end of the run.
        num_resumed: answers that were there already, from an earlier run.
    """

    num_answers: int
    total_answers: int
    num_resumed: int


@dataclass(frozen=True)
class EvalResult:
    """The result of a run.

    Attributes:
        predictions: the finished files, by names such as ``"k8"``, or ``"full"`` for another compressor.
        num_questions: questions per budget, those about missing videos included.
        num_resumed: answers that were there already, from an earlier run, over all budgets.
        missing, undecodable: names of the videos that are not there, and that cannot be decoded.
        seconds: time that this call took.
        num_frames, num_compressed, num_cached: frames of the videos that this call answered from, how many of these
            videos it compressed, and how many were in the cache; of torchrun's processes, each knows its own.
    """

    predictions: dict[str, Path]
    num_questions: int
    num_resumed: int
    missing: tuple[str, ...]
    undecodable: tuple[str, ...]
    seconds: float
    num_frames: int = 0
    num_compressed: int = 0
    num_cached: int = 0


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
    """Answer a split's questions, resuming an earlier call that was interrupted.

    Videos that are missing or cannot be decoded get predictions that say so; a later call tries only them again. If
    all answers are there already, nothing is decoded, compressed or asked.

    Args:
        dataset: a split of questions about single videos, from `load_dataset`.
        options: which questions are asked, and how; `EvalOptions()` when None.
        out: the folder that gets ``predictions-k<k>.jsonl`` and their run info.
        processes: who shares the work: `Spawned`, `Torchrun`, or this process alone when None.
        facts: JSON values for the run info, such as the command line.
        on_progress: called at the start and after every video.

    Raises:
        UsageError: an option that does not fit the model, or a folder that holds a run with other settings.
        DataError: a sample that is not about one video, or a folder that cannot be written.
        CacheError: the frame cache cannot be written, or an entry is damaged.

    >>> result = evaluate(model, load_dataset("msvd", "data/MSVD"), out="runs/msvd")            # doctest: +SKIP
    >>> result.predictions["k8"]                                                                # doctest: +SKIP
    PosixPath('runs/msvd/predictions-k8.jsonl')
    """
    started = time.perf_counter()
    options, processes = options or EvalOptions(), processes or Alone()
    check_backend(options.decoder)
    questions = choose_questions(dataset, options)
    options = options.with_prompt_of(dataset)
    runs = {k: RunFiles(Path(out), options.compressor, k) for k in options.budgets(model.voco)}
    jobs = processes.agree(_plan(model, dataset, questions, options, runs) if processes.rank == 0 else ())
    num_questions = sum(len(video.turns) for video in questions)
    num_resumed = len(runs) * num_questions - sum(job.num_answers for job in jobs)
    count = _counter(on_progress, processes.visible(jobs), num_resumed)
    seen: list[JobDone] = []

    def on_done(job: JobDone) -> None:
        seen.append(job)
        count(job.num_answers)

    processes.run(partial(answer_jobs, options=options, runs=runs), model, jobs, on_done)
    if processes.rank == 0:
        run_info = {
            **(facts or {}),
            "seed": options.seed,
            "num_processes": processes.num_processes,
            "num_resumed": num_resumed,
            "model_note": model_note(model.voco),
            "seconds": time.perf_counter() - started,
            **environment_info(),
        }
        for run in runs.values():
            publish(run, questions, run_info)
    processes.wait()
    predictions = next(iter(runs.values())).known().values()
    return EvalResult(
        predictions={run.name: run.predictions for run in runs.values()},
        num_questions=num_questions,
        num_resumed=num_resumed,
        missing=tuple(_videos_with("missing", predictions)),
        undecodable=tuple(_videos_with("undecodable", predictions)),
        seconds=time.perf_counter() - started,
        num_frames=sum(job.num_frames for job in seen),
        num_compressed=sum(job.num_frames > 0 and not job.from_cache for job in seen),
        num_cached=sum(job.from_cache for job in seen),
    )


def _plan(
    model: VideoModel,
    dataset: Dataset,
    questions: Sequence[VideoQuestions],
    options: EvalOptions,
    runs: Mapping[int | None, RunFiles],
) -> list[Job]:
    """Begin or resume every budget's run, and list what is left to answer."""
    settings = run_settings(model, dataset, questions, options)
    for k, run in runs.items():
        run.claim({"num_voco_tokens": k, **settings})
    return open_jobs(questions, {k: run.known() for k, run in runs.items()})


def publish(run: RunFiles, questions: Sequence[VideoQuestions], run_info: Mapping[str, Any]) -> None:
    """Write the predictions of all processes into one file in published order, and the run info beside it."""
    known = run.known()
    predictions = sorted((known[turn.question_id] for video in questions for turn in video.turns), key=lambda p: p.row)
    if run.is_finished and run.published() == tuple(predictions):  # then its run info is still true
        run.remove_rank_files()
        return
    videos = {p.video: p.status for p in predictions}
    info = {
        "settings": (run.info() or {})["settings"],
        "is_finished": True,
        **run_info,
        "num_questions": {"all": len(predictions), **Counter(p.status for p in predictions)},
        "num_videos": {"all": len(videos), **Counter(videos.values())},
        "missing": _videos_with("missing", predictions),
        "undecodable": _videos_with("undecodable", predictions),
    }
    run.publish(predictions, info)


def _videos_with(status: str, predictions: Iterable[Prediction]) -> list[str]:
    return list(dict.fromkeys(p.video for p in predictions if p.status == status))


def _counter(
    on_progress: Callable[[EvalProgress], None] | None, jobs: Sequence[Job], num_resumed: int
) -> Callable[[int], None]:
    """Make a callback that sums up answers and reports progress, which it also does once at the start."""
    total, done = num_resumed + sum(job.num_answers for job in jobs), num_resumed

    def count(num_answers: int) -> None:
        nonlocal done
        done += num_answers
        if on_progress is not None:
            on_progress(EvalProgress(done, total, num_resumed))

    count(0)
    return count
