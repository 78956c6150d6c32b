"""Every prediction of a file judged by a chat model: what is asked, what was replied, what it cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voco_video.errors import DataError, JudgeError
from voco_video.options.judging import Judging
from voco_video.scoring.bootstrap import NUM_RESAMPLES, Estimate, number_clusters, resample
from voco_video.scoring.judge.asking import MAX_REPLY_TOKENS, Endpoint, NoReplyError
from voco_video.scoring.judge.cache import Reply, ReplyCache, reply_key
from voco_video.scoring.judge.prompt import PROMPT, JudgePrompt
from voco_video.scoring.judge.replies import UnparsableReplyError, Verdict, parse_reply
from voco_video.scoring.metrics import group_rows
from voco_video.scoring.predictions import Prediction

MAX_FAILURES_IN_A_ROW = 20  # after so many questions without a reply judging stops


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one question; exactly one of verdict and failure is there, neither for an unanswered question.

    Attributes:
        question_id: the prediction's.
        verdict: the judge's.
        reply: the judge's text, unchanged; None: there was no reply.
        failure: why there is no verdict; "" where there is one, or nothing to judge.
    """

    question_id: str
    verdict: Verdict | None
    reply: str | None
    failure: str = ""

    def json_line(self) -> str:
        """Write the outcome as one line of JSON, without a line end."""
        verdict = self.verdict
        values = {
            "question_id": self.question_id,
            "pred": None if verdict is None else "yes" if verdict.is_right else "no",
            "score": None if verdict is None else verdict.score,
            "reply": self.reply,
            "failure": self.failure,
        }
        return json.dumps(values, ensure_ascii=False)


@dataclass(frozen=True)
class GroupJudgement:
    """The verdicts on one question type, on a union of types, or on all questions.

    Attributes:
        name: as in `voco_video.scoring.metrics.Scores`.
        num_questions: all of them.
        num_counted: questions that were judged or are unanswered; the others are failures.
        share_yes: share of the counted questions that the judge calls right; an unanswered question is a no.
        mean_score: mean of the counted questions' scores, 0 to 5; an unanswered question has 0.
    """

    name: str
    num_questions: int
    num_counted: int
    share_yes: Estimate
    mean_score: Estimate


@dataclass(frozen=True)
class Judgement:
    """A judge's verdicts on a set of predictions.

    Attributes:
        judge: its model, endpoint, prompt hash and settings.
        answered_as: the model names in the replies; a name without a version may stand for another model later.
        groups: verdicts by group; "all" comes last.
        questions: each question's outcome, in the predictions' order.
        num_yes: predictions judged right.
        num_unanswered: questions without a prediction, which the judge is not asked about.
        num_unparsable: replies that were no verdict.
        num_no_reply: questions that got no reply.
        num_requests, num_retries: requests sent in this run, retries included, and how many of them were retries.
        num_asked, num_from_cache: different questions that were sent in this run, and that had a reply on disk.
        prompt_tokens, completion_tokens: tokens of all replies with a token count, those from disk included.
        num_without_usage: replies without a token count.
        cost: what these tokens cost; None without prices, or where no reply has a token count.
    """

    judge: dict[str, Any]
    answered_as: tuple[str, ...]
    groups: tuple[GroupJudgement, ...]
    questions: tuple[Judged, ...]
    num_yes: int
    num_unanswered: int
    num_unparsable: int
    num_no_reply: int
    num_requests: int
    num_retries: int
    num_asked: int
    num_from_cache: int
    prompt_tokens: int
    completion_tokens: int
    num_without_usage: int
    cost: float | None

    @property
    def overall(self) -> GroupJudgement:
        """The verdicts on all questions."""
        return self.groups[-1]

    @property
    def num_failures(self) -> int:
        """Number of questions without a score."""
        return self.num_unparsable + self.num_no_reply

    @property
    def share_yes_bounds(self) -> tuple[float, float]:
        """The share of yes if every failure were a no, and if every failure were a yes."""
        return self.num_yes / len(self.questions), (self.num_yes + self.num_failures) / len(self.questions)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the single questions as JSON values."""
        values = {name: value for name, value in asdict(self).items() if name != "questions"}
        return values | {"num_failures": self.num_failures, "share_yes_bounds": self.share_yes_bounds}


@dataclass(frozen=True)
class _Outcome:
    """The reply to a question, or why there is none; neither for an unanswered question."""

    reply: Reply | None
    failure: str = ""


def judge(
    predictions: Sequence[Prediction],
    options: Judging,
    *,
    dataset: str = "",
    cache_dir: Path | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Have predictions judged.

    Equal questions with equal references and predictions are asked once. Each reply is on disk before the next one is
    taken, so the same call resumes a run that was stopped.

    Args:
        predictions: one for each question.
        options: who judges, with a ``judge_model``.
        dataset: as in `voco_video.scoring.metrics.score`.
        cache_dir: where replies are kept; None: nowhere.
        num_resamples, seed: of the intervals.
        progress: called with (questions done, questions to ask).

    Raises:
        DataError: there are no predictions, the prompt cannot be used, or the cache cannot be written.
        UsageError: no key, no client library, or a wrong address.
        JudgeError: the endpoint refuses this judge altogether, or does not reply.
    """
    if not predictions:
        raise DataError("there are no predictions to judge")
    prompt = PROMPT if options.judge_prompt is None else JudgePrompt.from_file(options.judge_prompt)
    with closing(Endpoint(options)) as endpoint, ReplyCache(cache_dir) as cache:
        judge_id = (endpoint.base_url, options.judge_model, MAX_REPLY_TOKENS, prompt.hash)
        keys = [_key(prediction, judge_id) for prediction in predictions]
        to_judge = {key: prediction for key, prediction in zip(keys, predictions, strict=True) if key is not None}
        outcomes = {key: _Outcome(reply) for key in to_judge if (reply := cache.get(key)) is not None}
        num_from_cache = len(outcomes)
        to_ask = {key: prediction for key, prediction in to_judge.items() if key not in outcomes}
        with closing(_ask_all(to_ask, endpoint, prompt, options.judge_concurrency, progress)) as asked:
            for key, outcome in asked:
                outcomes[key] = outcome
                if outcome.reply is not None:
                    cache.put(key, outcome.reply)
    questions = tuple(
        _judged(prediction.question_id, _Outcome(None) if key is None else outcomes[key])
        for prediction, key in zip(predictions, keys, strict=True)
    )
    return Judgement(
        judge=_identity(prompt, options, endpoint.base_url),
        groups=_groups(predictions, questions, dataset=dataset, num_resamples=num_resamples, seed=seed),
        questions=questions,
        num_unanswered=keys.count(None),
        num_requests=endpoint.num_requests,
        num_retries=endpoint.num_retries,
        num_asked=len(to_ask),
        num_from_cache=num_from_cache,
        **_outcome_counts(questions),
        **_usage([outcome.reply for outcome in outcomes.values() if outcome.reply is not None], options),
    )


def _outcome_counts(questions: Sequence[Judged]) -> dict[str, Any]:
    """Count verdicts and failures, by the names of `Judgement`'s fields."""
    failures = [question for question in questions if question.failure]
    num_no_reply = sum(question.reply is None for question in failures)
    return {
        "num_yes": sum(question.verdict is not None and question.verdict.is_right for question in questions),
        "num_unparsable": len(failures) - num_no_reply,
        "num_no_reply": num_no_reply,
    }


def _usage(replies: Sequence[Reply], options: Judging) -> dict[str, Any]:
    """Sum up tokens and their cost, by the names of `Judgement`'s fields."""
    counted = [reply for reply in replies if reply.prompt_tokens is not None]
    tokens_in = sum(reply.prompt_tokens or 0 for reply in counted)
    tokens_out = sum(reply.completion_tokens or 0 for reply in counted)
    price_in, price_out = options.judge_price_per_million_in, options.judge_price_per_million_out
    cost = None
    if counted and price_in is not None and price_out is not None:
        cost = (tokens_in * price_in + tokens_out * price_out) / 1e6
    return {
        "answered_as": tuple(sorted({reply.model for reply in replies if reply.model})),
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "num_without_usage": len(replies) - len(counted),
        "cost": cost,
    }


def _key(prediction: Prediction, judge_id: tuple[object, ...]) -> str | None:
    """Return the key of a prediction's reply in the cache; None where there is nothing to judge."""
    if prediction.prediction is None:
        return None
    return reply_key(*judge_id, prediction.question, prediction.answer, prediction.prediction)


def _identity(prompt: JudgePrompt, options: Judging, base_url: str) -> dict[str, Any]:
    return {
        "model": options.judge_name,
        "revision": options.judge_revision,
        "base_url": base_url,
        "prompt_hash": prompt.hash,
        "prompt": "voco-video" if prompt == PROMPT else "given",
        "temperature": 0,
        "max_tokens": MAX_REPLY_TOKENS,
    }


def _ask_all(
    to_ask: Mapping[str, Prediction],
    endpoint: Endpoint,
    prompt: JudgePrompt,
    concurrency: int,
    progress: Callable[[int, int], None] | None,
) -> Generator[tuple[str, _Outcome], None, None]:
    """Ask several questions at a time and yield the outcomes as they come."""
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="judge")
    num_failures_in_a_row = 0
    try:
        keys: dict[Future[_Outcome], str] = {
            pool.submit(_ask, endpoint, prompt, prediction): key for key, prediction in to_ask.items()
        }
        for num_done, future in enumerate(as_completed(keys), start=1):
            outcome = future.result()
            num_failures_in_a_row = 0 if outcome.reply is not None else num_failures_in_a_row + 1
            if num_failures_in_a_row == MAX_FAILURES_IN_A_ROW:
                raise JudgeError(
                    f"{endpoint.base_url}: {num_failures_in_a_row} questions in a row got no reply, the last one: "
                    f"{outcome.failure}. The replies so far are kept: the same command resumes"
                )
            yield keys[future], outcome
            if progress is not None:
                progress(num_done, len(to_ask))
    finally:
        endpoint.stop()
        pool.shutdown(cancel_futures=True)


def _ask(endpoint: Endpoint, prompt: JudgePrompt, prediction: Prediction) -> _Outcome:
    messages = prompt.messages(
        question=prediction.question, answer=prediction.answer, prediction=prediction.prediction or ""
    )
    try:
        return _Outcome(endpoint.ask(messages))
    except NoReplyError as error:
        return _Outcome(None, f"no reply: {error}")


def _judged(question_id: str, outcome: _Outcome) -> Judged:
    if outcome.reply is None:
        return Judged(question_id, None, None, outcome.failure)
    try:
        return Judged(question_id, parse_reply(outcome.reply.text), outcome.reply.text)
    except UnparsableReplyError as error:
        return Judged(question_id, None, outcome.reply.text, f"no verdict: {error}")


def _groups(
    predictions: Sequence[Prediction], questions: Sequence[Judged], *, dataset: str, num_resamples: int, seed: int
) -> tuple[GroupJudgement, ...]:
    rows = group_rows(predictions, dataset=dataset)
    members = np.stack(list(rows.values()), axis=1)  # [questions, groups]
    counts = members * np.array([[not question.failure] for question in questions])
    verdicts = [question.verdict for question in questions]
    yes = np.array([[verdict is not None and verdict.is_right] for verdict in verdicts])
    points = np.array([[0.0 if verdict is None else verdict.score] for verdict in verdicts])
    estimates = resample(
        np.concatenate([counts * yes, counts * points], axis=1),
        np.concatenate([counts, counts], axis=1),
        number_clusters([prediction.video for prediction in predictions]),
        num_resamples=num_resamples,
        seed=seed,
    ).estimates()
    return tuple(
        GroupJudgement(name, int(members[:, place].sum()), int(counts[:, place].sum()), *estimates[place :: len(rows)])
        for place, name in enumerate(rows)
    )
