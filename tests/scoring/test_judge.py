"""The judge: strict reading of replies, and asking a server that misbehaves."""

from __future__ import annotations

import email.utils
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the judge's client library is not installed (extra judge)")

from tests.helpers.judge_server import MODEL, YES, Response, completion, fails, says, serve
from voco_video.errors import DataError, JudgeError, UsageError
from voco_video.options.judging import Judging
from voco_video.scoring.judge import (
    PROMPT,
    Judgement,
    JudgePrompt,
    UnparsableReplyError,
    Verdict,
    judge,
    judging,
    parse_reply,
)
from voco_video.scoring.judge.cache import Reply, ReplyCache
from voco_video.scoring.predictions import Prediction

YES_5, NO_0 = Verdict(True, 5.0), Verdict(False, 0.0)


def asked(number: int, prediction: str | None = "a dog", **changes: object) -> Prediction:
    one = Prediction(
        video=f"clip{number // 2}",
        question=f"what is number {number}?",
        answer="dog",
        question_id=str(number),
        question_type="what" if number % 3 else "who",
        row=number,
        prediction=prediction,
        status="missing" if prediction is None else "answered",
    )
    return replace(one, **changes)


def run(base_url: str, predictions: list[Prediction], *, cache_dir: Path | None = None, **changes: object) -> Judgement:
    options = {"judge_model": "judge", "judge_base_url": base_url, "judge_timeout": 5, "judge_retries": 3}
    options |= {f"judge_{name}": value for name, value in changes.items()}
    return judge(predictions, Judging(**options), cache_dir=cache_dir, num_resamples=50)


def number_of(user: str) -> int:
    return int(user.split("what is number ")[1].split("?")[0])


# --- replies


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("{'pred': 'yes', 'score': 5}", YES_5),
        ("{'pred': 'no', 'score': 0}", NO_0),
        ('{"pred": "yes", "score": 4.8}', Verdict(True, 4.8)),
        ("{'score': '4', 'pred': ' YES '}", Verdict(True, 4.0)),
        ("Sure!\n```python\n{'pred': 'no',\n 'score': 2}\n```\nBecause it differs.", Verdict(False, 2.0)),
        ("{'pred': 'yes', 'score': 5,}.", YES_5),
    ],
)
def test_a_verdict_is_read(reply: str, verdict: Verdict) -> None:
    assert parse_reply(reply) == verdict


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "  \n",
        "yes, 5",
        "yes",
        "{'pred': 'unknown', 'score': 2}",
        "{'pred': 'not yes', 'score': 1}",
        "{'pred': 'partially', 'score': 3}",
        "{'pred': '', 'score': 3}",
        "{'pred': True, 'score': 5}",
        "{'pred': yes, 'score': 5}",
        "{'pred': ['yes'], 'score': 5}",
        "{'pred': 'yes'}",
        "{'score': 3}",
        "{'pred': 'yes', 'Score': 5}",
        "{'pred': 'yes', 'score': 5, 'pred': 'no'}",
        '{"pred": "yes", "score": 5, "score": 1}',
        "{'pred': 'yes', 'score': 5, 'reason': 'equal'}",
        "{'pred': 'yes', 'score': 7}",
        "{'pred': 'no', 'score': -1}",
        "{'pred': 'no', 'score': True}",
        "{'pred': 'no', 'score': None}",
        "{'pred': 'no', 'score': 'five'}",
        '{"pred": "no", "score": NaN}',
        '{"pred": "no", "score": Infinity}',
        "{'pred': 'no', 'score': 'nan'}",
        f"{{'pred': 'no', 'score': {10**400}}}",
        "{'pred': 'yes', 'score': 4.9} {'pred': 'no', 'score': 1}",
        "[{'pred': 'yes', 'score': 5}]",
        "{'pred', 'score'}",
        "{'pred': 'yes', 'score': 5",
        "{'pred': 'yes', 'sco",
        "{'pred': __import__('os').getcwd(), 'score': 5}",
        "{" * 5000,
        "{'pred': 'yes', 'score': " + "-" * 3000 + "5}",
    ],
)
def test_anything_else_is_a_failure_and_never_a_score(reply: str) -> None:
    with pytest.raises(UnparsableReplyError):
        parse_reply(reply)


def test_replies_of_the_field_are_read_strictly(shared: Path) -> None:
    """Each of them, as it stands in the shared list, and what public scorers make of it."""
    cases = {case["reply"]: case for case in json.loads((shared / "judge/reply_fixtures.json").read_text())["cases"]}
    assert len(cases) == 26
    verdicts, failures = {}, []
    for reply in cases:
        try:
            verdicts[reply] = parse_reply(reply)
        except UnparsableReplyError:
            failures.append(reply)
    assert verdicts == {
        "{'pred': 'yes', 'score': 4.8}": Verdict(True, 4.8),
        "{'pred': 'no', 'score': 0}": NO_0,
        '{"pred": "yes", "score": 5}': YES_5,
        "{'pred': 'yes', 'score': '4'}": Verdict(True, 4.0),
        "{'pred': 'Yes', 'score': 4}": Verdict(True, 4.0),
        "{'pred': 'yes', 'score': 4}.": Verdict(True, 4.0),
        "```python\n{'pred': 'no', 'score': 2}\n```": Verdict(False, 2.0),
        "Sure! {'pred': 'yes', 'score': 5}": YES_5,
        "{'pred': 'yes',\n 'score': 5}": YES_5,
        " {'pred': 'yes', 'score': 5}": YES_5,
    }
    assert len(failures) == 16
    # Where a public scorer gives a score too, it is the same but for the decimals that it drops, and its yes or no.
    for reply, verdict in verdicts.items():
        word, points = cases[reply]["lmms_eval_parse_score"]
        assert (word == "yes", points) == (verdict.is_right, int(verdict.score))
    # These count as "no" or "yes" there.
    assert {"{'pred': 'unknown', 'score': 2}", "{'pred': 'not yes', 'score': 1}"} <= set(failures)


# --- prompt


def test_the_prompt_says_all_and_looks_at_nothing_twice(tmp_path: Path) -> None:
    system, user = PROMPT.messages(question="{answer}?", answer="{prediction}", prediction="a {question} b{")
    assert (system["role"], user["role"]) == ("system", "user")
    assert "Question: {answer}?\n" in user["content"]
    assert "Correct answer: {prediction}\n" in user["content"]
    assert "Predicted answer: a {question} b{\n" in user["content"]
    assert "{'pred': 'no', 'score': 1}" in user["content"]


def test_a_prompt_from_a_file_is_another_judge(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("You grade.\n---\n{question} {answer} {prediction} {'pred': 'yes'}\n")
    prompt = JudgePrompt.from_file(path)
    assert (prompt.system, prompt.user) == ("You grade.", "{question} {answer} {prediction} {'pred': 'yes'}")
    assert len({PROMPT.hash, prompt.hash, JudgePrompt("You grade", prompt.user).hash}) == 3
    path.write_text("You grade.\n---\n{question} {prediction}")
    with pytest.raises(DataError, match=r"no \{answer\}"):
        JudgePrompt.from_file(path)
    path.write_text("{question} {answer} {prediction}")
    with pytest.raises(DataError, match="---"):
        JudgePrompt.from_file(path)


# --- asking


def test_what_is_asked_and_what_comes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    replies = ["{'pred': 'yes', 'score': 4.5}", "{'pred': 'no', 'score': 1}", "{'pred': 'unknown', 'score': 2}"]
    predictions = [*(asked(number) for number in range(3)), asked(3, None), asked(4, "")]
    with serve(lambda user, _: says(replies[min(number_of(user), 1 if number_of(user) == 4 else 2)])) as server:
        judged = run(
            server.base_url, predictions, api_key_env="A_KEY", price_per_million_in=1.0, price_per_million_out=10.0
        )
    assert [one.verdict for one in judged.questions] == [Verdict(True, 4.5), Verdict(False, 1.0), None, None, NO_1]
    assert "unknown" in judged.questions[2].failure
    assert (judged.questions[3].failure, judged.questions[3].reply) == ("", None)
    assert (judged.num_yes, judged.num_unanswered, judged.num_unparsable, judged.num_no_reply) == (1, 1, 1, 0)
    # Of the four that count (one of them unanswered) one is right; the failure is neither.
    assert judged.overall.num_counted == 4
    assert judged.overall.share_yes.value == pytest.approx(1 / 4)
    assert judged.overall.mean_score.value == pytest.approx((4.5 + 1 + 0 + 1) / 4)
    assert judged.share_yes_bounds == pytest.approx((1 / 5, 2 / 5))
    groups = {group.name: (group.num_questions, group.num_counted) for group in judged.groups}
    assert groups == {"what": (3, 2), "who": (2, 2), "all": (5, 4)}
    assert (judged.prompt_tokens, judged.completion_tokens) == (400, 40)
    assert judged.cost == pytest.approx((400 * 1 + 40 * 10) / 1e6)
    assert (judged.num_requests, judged.num_retries, judged.answered_as) == (4, 0, (MODEL,))
    request = server.requests[0]
    assert (request["model"], request["temperature"]) == ("judge", 0)
    assert request["messages"][0]["content"] == PROMPT.system
    assert set(server.keys) == {"Bearer secret"}
    assert judged.judge["prompt_hash"] == PROMPT.hash
    assert "secret" not in json.dumps(judged.as_dict())


NO_1 = Verdict(False, 1.0)


@pytest.mark.parametrize(
    "first",
    [
        fails(429, headers={"retry-after": "0.2"}),
        fails(429, headers={"retry-after": email.utils.formatdate(time.time() + 86400, usegmt=True)}),
        fails(429, headers={"retry-after": "3600"}),
        fails(500),
        fails(503),
        fails(408),
        Response(b"<html>busy</html>", 502),
        Response(completion("{'pred': 'yes', 'score': 5}")[:60]),
        Response(completion("{'pred': 'yes', 'score': 5}")[:60], length=5000),
        Response(b""),
        Response(b'"busy"'),
        Response(json.dumps({"error": {"message": "busy"}}).encode()),
        Response(completion("", choices=[])),
        replace(YES, after_seconds=1.5),
    ],
    ids=[
        *("429-seconds", "429-date", "429-too-long", "500", "503", "408", "502-html", "truncated", "cut-off", "empty"),
        *("text", "error-with-200", "no-choices", "timeout"),
    ],
)
def test_what_may_pass_is_tried_again(first: Response) -> None:
    with serve(lambda _, tries: first if tries == 0 else YES) as server:
        begun = time.monotonic()
        judged = run(server.base_url, [asked(0)], timeout=0.7 if first.after_seconds else 5)
        took = time.monotonic() - begun
    assert judged.questions[0].verdict == YES_5
    assert (judged.num_requests, judged.num_retries, judged.num_failures) == (2, 1, 0)
    asked_to_wait = "retry-after" in first.headers
    assert took < 60  # nobody waits an hour
    assert took >= 0.2 or not asked_to_wait


@pytest.mark.parametrize(
    ("response", "num_requests", "why"),
    [
        (fails(500, headers={"retry-after-ms": "10"}), 4, "status 500"),
        (fails(429, headers={"retry-after-ms": "10"}), 4, "status 429"),
        (Response(completion("")[:40]), 4, "4 tries"),
        (replace(YES, after_seconds=1.2), 4, "no reply within 0.5 s"),
        (fails(400), 1, "status 400"),
        (fails(422), 1, "status 422"),
    ],
)
def test_what_gets_no_reply_is_a_counted_failure(response: Response, num_requests: int, why: str) -> None:
    with serve(lambda user, _: response if number_of(user) == 0 else YES) as server:
        timeout = 0.5 if response.after_seconds else 5
        judged = run(server.base_url, [asked(0), asked(1), asked(2)], timeout=timeout)
    assert why in judged.questions[0].failure
    assert (judged.num_no_reply, judged.num_unparsable, judged.num_yes) == (1, 0, 2)
    assert judged.num_requests == num_requests + 2
    assert judged.overall.share_yes.value == 1  # the failure is no "no"
    assert judged.share_yes_bounds == pytest.approx((2 / 3, 1))


@pytest.mark.parametrize(("text", "why"), [(None, "empty"), ("", "empty"), ("{'pred': 'yes', 'sc", "one dictionary")])
def test_a_reply_without_a_verdict_is_counted_and_not_asked_for_again(
    tmp_path: Path, text: str | None, why: str
) -> None:
    with serve(lambda *_: says(text, usage=False)) as server:
        for _ in range(2):
            judged = run(
                server.base_url, [asked(0)], cache_dir=tmp_path, price_per_million_in=1, price_per_million_out=1
            )
            assert why in judged.questions[0].failure
            assert (judged.num_unparsable, judged.num_no_reply) == (1, 0)
            assert judged.overall.share_yes.text(100) == "–"
            assert (judged.num_without_usage, judged.prompt_tokens, judged.cost) == (1, 0, None)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_judge_that_cannot_be_asked_stops_everything(status: int) -> None:
    with (
        serve(lambda *_: fails(status)) as server,
        pytest.raises(JudgeError, match=f"will not judge with judge: status {status}"),
    ):
        run(server.base_url, [asked(number) for number in range(200)], concurrency=2)
    assert len(server.requests) < 20


def test_no_credit_left_is_not_waited_for() -> None:
    body = json.dumps({"error": {"message": "no credit", "code": "insufficient_quota"}}).encode()
    with serve(lambda *_: Response(body, 429)) as server, pytest.raises(JudgeError, match="no credit"):
        run(server.base_url, [asked(0)])
    assert len(server.requests) == 1


def test_a_server_that_died_stops_everything_and_keeps_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "MAX_FAILURES_IN_A_ROW", 5)
    predictions = [asked(number) for number in range(60)]
    is_dead = False
    with serve(lambda user, _: fails(500) if is_dead or number_of(user) >= 10 else YES) as server:
        with pytest.raises(JudgeError, match="5 questions in a row got no reply"):
            run(server.base_url, predictions, cache_dir=tmp_path, retries=1, concurrency=2)
        num_asked = len(server.tries)
        assert 10 < num_asked < 30
        server.answer = lambda *_: YES
        server.requests.clear()
        judged = run(server.base_url, predictions, cache_dir=tmp_path)
    assert judged.num_yes == 60
    assert judged.num_from_cache == 10
    assert len(server.requests) == 50


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "MAX_FAILURES_IN_A_ROW", 1)
    with serve(lambda *_: YES) as server:
        pass
    with pytest.raises(JudgeError, match="1 questions in a row"):
        run(server.base_url, [asked(0)], retries=0)


def test_no_more_requests_at_once_than_allowed() -> None:
    with serve(lambda *_: replace(YES, after_seconds=0.02)) as server:
        judged = run(server.base_url, [asked(number) for number in range(30)], concurrency=3)
    assert judged.num_yes == 30
    assert 2 <= server.most_at_once <= 3


# --- replies on disk


def test_nobody_is_asked_twice(tmp_path: Path) -> None:
    predictions = [asked(0), asked(1), asked(0, question_id="7", video="other")]
    with serve(lambda *_: YES) as server:
        first = run(server.base_url, predictions, cache_dir=tmp_path)
        assert (len(server.requests), first.num_asked, first.num_from_cache) == (2, 2, 0)
        again = run(server.base_url, predictions, cache_dir=tmp_path)
        assert (len(server.requests), again.num_asked, again.num_from_cache) == (2, 0, 2)
        assert (again.num_requests, again.questions, again.groups) == (0, first.questions, first.groups)
        assert again.prompt_tokens == first.prompt_tokens == 200
        (tmp_path / "prompt.txt").write_text(f"Grade.\n---\n{PROMPT.user}", encoding="utf-8")
        for changes in ({"model": "other"}, {"prompt": tmp_path / "prompt.txt"}):
            assert run(server.base_url, predictions, cache_dir=tmp_path, **changes).num_from_cache == 0
        for changes in ({"prediction": "cat"}, {"answer": "cat"}, {"question": "what is number 9?"}):
            other = [replace(asked(0), **changes)]
            assert run(server.base_url, other, cache_dir=tmp_path).num_from_cache == 0
        assert run(server.base_url, predictions).num_from_cache == 0


def test_a_torn_line_costs_one_reply_and_no_other(tmp_path: Path) -> None:
    with ReplyCache(tmp_path) as cache:
        for number in range(3):
            cache.put(f"key{number}", Reply(f"reply {number}\u2028\n", MODEL, 1, 2))
    path = tmp_path / "replies.jsonl"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with ReplyCache(tmp_path) as cache:
            assert len(cache) in (whole[:length].count(b"\n"), whole[:length].count(b"\n") + 1)
            cache.put("new", Reply("new"))
        with ReplyCache(tmp_path) as cache:
            assert cache.get("new") == Reply("new")
            for number in range(whole[:length].count(b"\n")):
                assert cache.get(f"key{number}") == Reply(f"reply {number}\u2028\n", MODEL, 1, 2)


def _judge_in_a_process(base_url: str, num_questions: int, cache_dir: Path) -> None:
    run(base_url, [asked(number) for number in range(num_questions)], cache_dir=cache_dir, concurrency=2)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    predictions = [asked(number) for number in range(40)]
    with serve(lambda *_: replace(YES, after_seconds=0.02)) as server:
        process = multiprocessing.get_context("spawn").Process(
            target=_judge_in_a_process, args=(server.base_url, 40, tmp_path)
        )
        process.start()
        deadline = time.monotonic() + 30
        while len(server.requests) < 12 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        before = len(server.requests)
        judged = run(server.base_url, predictions, cache_dir=tmp_path)
        assert judged.num_yes == 40
        # At most the requests under way when it died, and a reply not yet taken note of, are asked for again.
        assert 5 <= judged.num_from_cache <= before
        assert len(server.requests) - before == 40 - judged.num_from_cache
        assert judged.questions == run(server.base_url, predictions, cache_dir=tmp_path).questions


def test_processes_share_a_file(tmp_path: Path) -> None:
    with serve(lambda *_: replace(YES, after_seconds=0.02)) as server:
        process = multiprocessing.get_context("spawn").Process(
            target=_judge_in_a_process, args=(server.base_url, 60, tmp_path)
        )
        process.start()
        deadline = time.monotonic() + 60
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.005)
        run(server.base_url, [asked(number) for number in range(30, 90)], cache_dir=tmp_path, concurrency=2)
        process.join()
        assert process.exitcode == 0
        num_requests = len(server.requests)
        judged = run(server.base_url, [asked(number) for number in range(90)], cache_dir=tmp_path)
        assert judged.num_from_cache == 90
        assert len(server.requests) == num_requests


# --- options


def test_options_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UsageError, match="set OPENAI_API_KEY"):
        judge([asked(0)], Judging(judge_model="judge"))
    with pytest.raises(UsageError, match="http://"):
        run("localhost:8000/v1", [asked(0)])
    with pytest.raises(UsageError, match="both prices"):
        Judging(judge_model="judge", judge_price_per_million_in=1.0)
    with pytest.raises(UsageError, match="concurrency=0"):
        Judging(judge_model="judge", judge_concurrency=0)
    with pytest.raises(UsageError, match="timeout"):
        Judging(judge_model="judge", judge_timeout=0)
    with pytest.raises(DataError, match="no predictions"):
        run("http://127.0.0.1:1/v1", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another directory"):
        run("http://127.0.0.1:1/v1", [asked(0)], cache_dir=tmp_path / "file")
