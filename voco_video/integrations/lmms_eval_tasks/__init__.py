"""MSVD-QA, MSRVTT-QA and ActivityNet-QA as tasks of lmms-eval, from local files, scored as `voco-video score` does.

    export VOCO_VIDEO_MSVD_ROOT=data/MSVD
    lmms-eval --include_path "$(python -m voco_video.integrations.lmms_eval_tasks)" --tasks voco_msvd_qa ...

The folder of this module holds the task files; ``functions.py`` is what they name. Each set is there twice: with the
scores that need no judge, and as ``..._judged`` also with those of the judge that ``VOCO_VIDEO_JUDGE_BASE_URL`` and the
like name (an environment variable for each option of `Judging`).

A reply that is no verdict, and a question without a reply, are counted as failures and left out of the judge's figures.
Scores keep their decimals.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from voco_video.data.registry import load_video_set
from voco_video.errors import JudgeError, UsageError
from voco_video.options.judging import Judging
from voco_video.scoring.metrics import METRICS
from voco_video.scoring.predictions import Prediction

if TYPE_CHECKING:
    from voco_video.data.samples import Dataset
    from voco_video.scoring.judge import Judgement

FOLDER = Path(__file__).parent
SETS = ("msvd", "msrvtt", "activitynet")
_PREFIX = "VOCO_VIDEO_"
_PLAIN_METRICS = ("exact_match", "strict", "token_f1")
Document = Mapping[str, Any]

logger = logging.getLogger("voco_video")


def data_of(name: str, *, is_judged: bool = False) -> dict[str, Any]:
    """Return what the harness loads a set by: an empty row, in whose place `documents` puts the questions.

    Args:
        is_judged: whether a judge is needed.

    Raises:
        UsageError: nobody said where the set is, or who judges.
        DataError: its annotations are not there.
    """
    _load(name)
    if is_judged:
        judging_from_environment()
    return {"data_files": {"test": str(FOLDER / "placeholder.json")}}


@lru_cache(maxsize=len(SETS))
def _load(name: str) -> Dataset:
    variable = f"{_PREFIX}{name.upper()}_ROOT"
    root = os.environ.get(variable)
    if not root:
        raise UsageError(f"nobody said where {name} is: set {variable} to its folder (see `voco-video data check`)")
    return load_video_set(name, Path(root))


def judging_from_environment() -> Judging:
    """Read who judges: ``VOCO_VIDEO_JUDGE_MODEL`` for ``judge_model``, and so on.

    Raises:
        UsageError: nobody is named, or a value cannot be right.
    """
    given: dict[str, Any] = {}
    types = get_type_hints(Judging)
    for one in fields(Judging):
        variable = f"{_PREFIX}{one.name.upper()}"
        if text := os.environ.get(variable):
            kind = next((kind for kind in (int, float, Path) if str(kind.__name__) in str(types[one.name])), str)
            try:
                given[one.name] = kind(text)
            except ValueError as error:
                raise UsageError(f"{variable} is {text!r}, but has to be a number") from error
    judging = Judging(**given)
    if judging.judge_model is None:
        raise UsageError(f"nobody said who judges: set {_PREFIX}JUDGE_BASE_URL, or {_PREFIX}JUDGE_MODEL")
    return judging


def documents(name: str) -> Callable[[Any], Any]:
    """Make the function that gives the harness a set's questions, in the place of the rows that it has loaded."""

    def questions(_: Any) -> Any:
        from datasets import Dataset as Rows

        return Rows.from_list(
            [
                {
                    "question_id": turn.question_id,
                    "video": sample.name,
                    # One that is missing costs its own questions: the model cannot read it.
                    "path": str(sample.media[0].path or f"missing/{sample.name}"),
                    "question": turn.question,
                    "answer": turn.answer,
                    "question_type": turn.question_type,
                    "row": turn.row,
                }
                for sample, turn in _load(name).questions()
            ]
        )

    return questions


def video_of(doc: Document) -> list[str]:
    """Return what is shown: the video's path."""
    return [doc["path"]]


def prompt_of(doc: Document, lmms_eval_specific_kwargs: Mapping[str, str] | None = None) -> str:
    """Return what is asked: the question as published, between the task file's ``pre_prompt`` and ``post_prompt``."""
    around = lmms_eval_specific_kwargs or {}
    return f"{around.get('pre_prompt', '')}{doc['question']}{around.get('post_prompt', '')}"


def prediction_of(doc: Document, results: Sequence[str]) -> Prediction:
    """Put a question and the model's answer together."""
    names = ("video", "question", "answer", "question_id", "question_type", "row")
    return Prediction(**{name: doc[name] for name in names}, prediction=results[0])


def scored(doc: Document, results: Sequence[str]) -> dict[str, Any]:
    """Score one answer without a judge; ``empty_answers`` counts answers without a word, which are wrong.

    The question's id goes to the harness's log of samples (``--log_samples``), which `voco-video score` and `compare`
    read.
    """
    one = prediction_of(doc, results)
    scores: dict[str, Any] = {name: METRICS[name](one) for name in _PLAIN_METRICS}
    return scores | {"empty_answers": float(not results[0].strip()), "question_id": one.question_id}


def scored_and_judged(doc: Document, results: Sequence[str]) -> dict[str, Any]:
    """Score one answer, and hand it on to the judge, who is asked about all of them together."""
    line = prediction_of(doc, results).json_line()
    return {**scored(doc, results), "judged_yes": line, "judge_score": line, "judge_failures": line}


def total(items: Sequence[float]) -> int:
    """Add up counts."""
    return int(sum(items))


def judged_yes(items: Sequence[str]) -> float:
    """Return the share of answers that the judge calls right, of those that it judged."""
    judgement = _judged(items)
    return math.nan if judgement is None else judgement.overall.share_yes.value


def judge_score(items: Sequence[str]) -> float:
    """Return the judge's mean score, 0 to 5, decimals included, of the answers that it judged."""
    judgement = _judged(items)
    return math.nan if judgement is None else judgement.overall.mean_score.value


def judge_failures(items: Sequence[str]) -> int:
    """Count the answers that are not judged: the reply was no verdict, or there was none."""
    judgement = _judged(items)
    return len(items) if judgement is None else judgement.num_failures


def _judged(items: Sequence[str]) -> Judgement | None:
    return _judged_once(tuple(items))


@lru_cache(maxsize=len(SETS))
def _judged_once(items: tuple[str, ...]) -> Judgement | None:
    """Ask the judge about all answers of a task; None, with an error in the log, where it refuses altogether."""
    from voco_video.cache import FrameCache
    from voco_video.scoring.judge import judge

    predictions = [Prediction.from_json_line(item) for item in items]
    judging = judging_from_environment()
    folder = judging.judge_cache_dir or FrameCache().cache_dir / "judge"
    try:
        judgement = judge(predictions, judging, cache_dir=folder)
    except JudgeError as error:
        logger.error("nothing is judged: %s", error)
        return None
    logger.warning("judge: %s", json.dumps({**judgement.judge, **_counts(judgement)}))
    return judgement


def _counts(judgement: Judgement) -> dict[str, Any]:
    names = ("num_yes", "num_unparsable", "num_no_reply", "num_requests", "prompt_tokens", "completion_tokens", "cost")
    return {name: getattr(judgement, name) for name in names}
