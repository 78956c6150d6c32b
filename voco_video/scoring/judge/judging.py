"""All predictions of a file before the judge: who is asked what, what came of it, what it cost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voco_video.errors import DataError, JudgeError, UsageError
from voco_video.options.fields import same_option
from voco_video.options.judging import Judging
from voco_video.scoring.bootstrap import NUM_RESAMPLES, Estimate, number_clusters, resample
from voco_video.scoring.judge.asking import AskOptions, Endpoint, NoReplyError
from voco_video.scoring.judge.cache import Reply, ReplyCache, reply_key
from voco_video.scoring.judge.prompt import PROMPT, JudgePrompt
from voco_video.scoring.judge.replies import UnparsableReplyError, Verdict, parse_reply
from voco_video.scoring.metrics import group_rows
from voco_video.scoring.predictions import Prediction

_LOCAL_KEY = "none"  # endpoints of one's own ask for no key, but the client wants one


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges, and how.

    Attributes:
        ask: model, endpoint, retries; see `AskOptions`.
        prompt: what is asked.
        api_key_env: the environment variable that holds the key. An endpoint given by `ask.base_url` may need none.
        concurrency: requests at a time.
        max_failures_in_a_row: after so many questions without a reply nobody is there, and judging stops.
        price_per_million_in, price_per_million_out: of tokens, in any currency; None: no cost is reported.
    """

    ask: AskOptions
    prompt: JudgePrompt = PROMPT
    api_key_env: str = same_option(Judging, "judge_api_key_env")
    concurrency: int = same_option(Judging, "judge_concurrency")
    max_failures_in_a_row: int = 20
    price_per_million_in: float | None = None
    price_per_million_out: float | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.max_failures_in_a_row < 1:
            raise UsageError(
                f"concurrency {self.concurrency} or max_failures_in_a_row {self.max_failures_in_a_row} is below 1"
            )
        if (self.price_per_million_in is None) != (self.price_per_million_out is None):
            raise UsageError("a cost takes both prices, that of tokens in and that of tokens out")

    @property
    def api_key(self) -> str:
        """The key from the environment.

        Raises:
            UsageError: there is none, and the endpoint is OpenAI's own.
        """
        key = os.environ.get(self.api_key_env)
        if not key and self.ask.base_url is None:
            raise UsageError(f"the judge needs a key: set {self.api_key_env}, or name another endpoint or variable")
        return key or _LOCAL_KEY


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one question; exactly one of verdict and failure is there, neither for an unanswered question.

    Attributes:
        question_id: which.
        verdict: the judge's.
        reply: as it came; None: there was none.
        failure: why there is no verdict; "" where there is one, or nothing to judge.
    """

    question_id: str
    verdict: Verdict | None
    reply: str | None
    failure: str = ""

    def to_json(self) -> str:
        """One line of JSON, without its end."""
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
    """The verdicts on a question type, on several together, or on all questions.

    Attributes:
        name: as in `voco_video.scoring.metrics.Scores`.
        num_questions: all of them.
        num_counted: those judged or unanswered; the others are failures.
        share_yes: of those counted; an unanswered question is a no.
        mean_score: of those counted, 0 to 5; an unanswered question has 0.
    """

    name: str
    num_questions: int
    num_counted: int
    share_yes: Estimate
    mean_score: Estimate


@dataclass(frozen=True)
class Judgement:
    """What a judge made of a set of predictions.

    Attributes:
        judge: its model, endpoint, prompt hash and settings.
        answered_as: what the judge called itself in its replies; a name without a version may change hands.
        groups: verdicts by group; "all" comes last.
        questions: each question's outcome, in the predictions' order.
        num_yes: predictions judged right.
        num_unanswered: questions without a prediction, which the judge is not asked about.
        num_unparsable: replies that were no verdict.
        num_no_reply: questions that got no reply.
        num_requests, num_retries: sent in this run, retries included; and how many of them were that.
        num_asked, num_from_cache: different questions that were sent in this run, and that had a reply on disk.
        prompt_tokens, completion_tokens: of all replies that count, those from disk included.
        num_without_usage: replies whose endpoint counts no tokens.
        cost: of these tokens at the prices given; None without prices, or where no endpoint counts.
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
        """Of all questions."""
        return self.groups[-1]

    @property
    def num_failures(self) -> int:
        """Questions that no score stands for."""
        return self.num_unparsable + self.num_no_reply

    @property
    def share_yes_bounds(self) -> tuple[float, float]:
        """What the share would be had all failures been a no, and had all been a yes."""
        return self.num_yes / len(self.questions), (self.num_yes + self.num_failures) / len(self.questions)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, without the single questions."""
        values = {name: value for name, value in asdict(self).items() if name != "questions"}
        return values | {"num_failures": self.num_failures, "share_yes_bounds": self.share_yes_bounds}


@dataclass(frozen=True)
class _Outcome:
    """A reply, or why there is none."""

    reply: Reply | None
    failure: str = ""


def judge(
    predictions: Sequence[Prediction],
    options: JudgeOptions,
    *,
    dataset: str = "",
    cache_dir: Path | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Have predictions judged.

    Equal questions with equal references and predictions are asked once. Whatever was replied is on disk when the next
    question is asked, so that a run that was stopped goes on there.

    Args:
        predictions: one for each question.
        options: who judges.
        dataset: as in `voco_video.scoring.metrics.score`.
        cache_dir: where replies are kept; None: nowhere.
        num_resamples, seed: of the intervals.
        progress: called with (questions done, questions to ask).

    Raises:
        DataError: there are no predictions, or the cache cannot be written.
        UsageError: no key, no client library, or a wrong address.
        JudgeError: the endpoint refuses this judge altogether, or nobody is there.
    """
    if not predictions:
        raise DataError("there are no predictions to judge")
    with closing(Endpoint(options.ask, api_key=options.api_key)) as endpoint, ReplyCache(cache_dir) as cache:
        keys = [_key(one, options, endpoint.base_url) for one in predictions]
        wanted = {key: one for key, one in zip(keys, predictions, strict=True) if key is not None}
        outcomes = {key: _Outcome(reply) for key in wanted if (reply := cache.get(key)) is not None}
        num_from_cache = len(outcomes)
        to_ask = {key: one for key, one in wanted.items() if key not in outcomes}
        with closing(_ask_all(to_ask, endpoint, options, progress)) as asked:
            for key, outcome in asked:
                outcomes[key] = outcome
                if outcome.reply is not None:
                    cache.put(key, outcome.reply)
    questions = tuple(
        _judged(one, outcomes[key]) if key is not None else Judged(one.question_id, None, None)
        for one, key in zip(predictions, keys, strict=True)
    )
    replies = [outcome.reply for outcome in outcomes.values() if outcome.reply is not None]
    counted = [reply for reply in replies if reply.prompt_tokens is not None]
    tokens = (
        sum(reply.prompt_tokens or 0 for reply in counted),
        sum(reply.completion_tokens or 0 for reply in counted),
    )
    return Judgement(
        judge=_identity(options, endpoint.base_url),
        answered_as=tuple(sorted({reply.model for reply in replies if reply.model})),
        groups=_groups(predictions, questions, dataset=dataset, num_resamples=num_resamples, seed=seed),
        questions=questions,
        num_yes=sum(one.verdict is not None and one.verdict.is_right for one in questions),
        num_unanswered=sum(key is None for key in keys),
        num_unparsable=sum(bool(one.failure) and one.reply is not None for one in questions),
        num_no_reply=sum(bool(one.failure) and one.reply is None for one in questions),
        num_requests=endpoint.num_requests,
        num_retries=endpoint.num_retries,
        num_asked=len(to_ask),
        num_from_cache=num_from_cache,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        num_without_usage=len(replies) - len(counted),
        cost=_cost(tokens, options) if counted else None,
    )


def _key(prediction: Prediction, options: JudgeOptions, base_url: str) -> str | None:
    """What the reply is kept under; None where there is nothing to judge."""
    if prediction.prediction is None:
        return None
    judge_id = (base_url, options.ask.model, options.ask.max_tokens, options.prompt.hash)
    return reply_key(*judge_id, prediction.question, prediction.answer, prediction.prediction)


def _identity(options: JudgeOptions, base_url: str) -> dict[str, Any]:
    return {
        "model": options.ask.model,
        "base_url": base_url,
        "prompt_hash": options.prompt.hash,
        "prompt": "voco-video" if options.prompt == PROMPT else "given",
        "temperature": 0,
        "max_tokens": options.ask.max_tokens,
    }


def _ask_all(
    to_ask: Mapping[str, Prediction],
    endpoint: Endpoint,
    options: JudgeOptions,
    progress: Callable[[int, int], None] | None,
) -> Generator[tuple[str, _Outcome], None, None]:
    """Ask several at a time; outcomes as they come."""
    pool = ThreadPoolExecutor(options.concurrency, thread_name_prefix="judge")
    num_failures_in_a_row = 0
    try:
        keys: dict[Future[_Outcome], str] = {
            pool.submit(_ask, endpoint, options.prompt, one): key for key, one in to_ask.items()
        }
        for num_done, future in enumerate(as_completed(keys), start=1):
            outcome = future.result()
            num_failures_in_a_row = 0 if outcome.reply is not None else num_failures_in_a_row + 1
            if num_failures_in_a_row == options.max_failures_in_a_row:
                raise JudgeError(
                    f"{endpoint.base_url}: {num_failures_in_a_row} questions in a row got no reply, the last one: "
                    f"{outcome.failure}. What was replied is kept: the same command goes on there"
                )
            yield keys[future], outcome
            if progress is not None:
                progress(num_done, len(to_ask))
    finally:
        endpoint.stop()
        pool.shutdown(cancel_futures=True)


def _ask(endpoint: Endpoint, prompt: JudgePrompt, one: Prediction) -> _Outcome:
    messages = prompt.messages(question=one.question, answer=one.answer, prediction=one.prediction or "")
    try:
        return _Outcome(endpoint.ask(messages))
    except NoReplyError as error:
        return _Outcome(None, f"no reply: {error}")


def _judged(prediction: Prediction, outcome: _Outcome) -> Judged:
    if outcome.reply is None:
        return Judged(prediction.question_id, None, None, outcome.failure)
    try:
        return Judged(prediction.question_id, parse_reply(outcome.reply.text), outcome.reply.text)
    except UnparsableReplyError as error:
        return Judged(prediction.question_id, None, outcome.reply.text, f"no verdict: {error}")


def _groups(
    predictions: Sequence[Prediction], questions: Sequence[Judged], *, dataset: str, num_resamples: int, seed: int
) -> tuple[GroupJudgement, ...]:
    rows = group_rows(predictions, dataset=dataset)
    members = np.stack(list(rows.values()), axis=1)  # [questions, groups]
    counts = members * np.array([[not one.failure] for one in questions])
    yes = np.array([[one.verdict is not None and one.verdict.is_right] for one in questions])
    points = np.array([[0.0 if one.verdict is None else one.verdict.score] for one in questions])
    found = resample(
        np.concatenate([counts * yes, counts * points], axis=1),
        np.concatenate([counts, counts], axis=1),
        number_clusters([one.video for one in predictions]),
        num_resamples=num_resamples,
        seed=seed,
    ).estimates()
    return tuple(
        GroupJudgement(name, int(members[:, place].sum()), int(counts[:, place].sum()), *found[place :: len(rows)])
        for place, name in enumerate(rows)
    )


def _cost(tokens: tuple[int, int], options: JudgeOptions) -> float | None:
    prices = (options.price_per_million_in, options.price_per_million_out)
    if prices[0] is None or prices[1] is None:
        return None
    return (tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6
