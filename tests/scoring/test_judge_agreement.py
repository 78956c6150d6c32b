"""Judges beside people: the default judge by name and revision, agreement, and how public scorers read replies."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from voco_video.errors import DataError, UsageError
from voco_video.options.judging import DEFAULT_JUDGE, Judging
from voco_video.scoring.judge import UnparsableReplyError, parse_reply
from voco_video.scoring.judge.agreement import (
    Pair,
    agreement_of,
    drawn,
    judge_agreement,
    read_pairs,
    rule_agreements,
)

Run = Callable[..., tuple[int, str, str]]
EVOUNA = [
    {
        "question": "who got the first prize",
        "golden_answer": "Wilhelm Roentgen/Roentgen",
        "answer_fid": "Roentgen",
        "judge_fid": True,
        "answer_gpt4": "The first prize went to Wilhelm Roentgen in 1901.",
        "judge_gpt4": True,
        "answer_bing": "The first prize went to Marie Curie.",
        "judge_bing": False,
        "answer_chat": "As a language model I do not know.",
        "judge_chat": None,
        "improper": False,
    },
    {"question": "when is it", "golden_answer": "May", "answer_fid": "May", "judge_fid": True, "improper": True},
]


def pairs_of(said: str, verdicts: str) -> tuple[list[Pair], list[bool | None]]:
    """Pairs that people call right (y) or wrong (n), and a judge's verdicts, with - for none."""
    pairs = [Pair(f"question {number}?", ("dog",), "cat", letter == "y") for number, letter in enumerate(said)]
    return pairs, [None if letter == "-" else letter == "y" for letter in verdicts]


# --- the default judge


def test_an_endpoint_alone_is_judged_by_the_default_judge():
    judging = Judging(judge_base_url="http://localhost:8000/v1")
    assert judging.judge_model == DEFAULT_JUDGE == f"{judging.judge_name}@{judging.judge_revision}"
    assert judging.judge_name == "Qwen/Qwen2.5-7B-Instruct"
    assert len(judging.judge_revision or "") == 40
    assert Judging().judge_model is None, "nobody judges without being asked"


@pytest.mark.parametrize(
    ("model", "name", "revision"),
    [
        ("gpt-4o-mini", "gpt-4o-mini", None),
        ("some/model@0123abc", "some/model", "0123abc"),
        ("@cf/some/model", "@cf/some/model", None),
        ("some/model@latest", "some/model@latest", None),
        ("a@0123abc@4567def", "a@0123abc", "4567def"),
    ],
)
def test_a_revision_is_told_from_a_name(model, name, revision):
    judging = Judging(judge_model=model)
    assert (judging.judge_name, judging.judge_revision) == (name, revision)


def test_the_report_names_the_revision_and_a_missing_one_has_a_way_out(run: Run, tmp_path):
    pytest.importorskip("openai", reason="the judge's client library is not installed (extra judge)")
    from tests.helpers.judge_server import YES, fails, serve
    from voco_video.scoring.predictions import Prediction, write_predictions

    path = tmp_path / "k8.jsonl"
    write_predictions(path, [Prediction("clip", "who?", "dog", "1", "who", 0, "a dog")])
    with serve(lambda *_: YES) as server:
        code, out, err = run("score", path, "--judge-base-url", server.base_url, "--json")
        assert code == 0, err
        assert server.requests[0]["model"] == DEFAULT_JUDGE, "asked for by its revision"
        judge = json.loads(out)["judgement"]["judge"]
        assert f"{judge['model']}@{judge['revision']}" == DEFAULT_JUDGE
        said = " ".join(run("score", path, "--judge-base-url", server.base_url)[1].split())
        assert f"Judge: {judge['model']}, revision {judge['revision']}, at {server.base_url}" in said
    with serve(lambda *_: fails(404)) as server:
        code, _, err = run("score", path, "--judge-base-url", server.base_url)
    assert code == 1
    name, revision = DEFAULT_JUDGE.split("@")
    expected = (
        f"serve it with `vllm serve {name} --revision {revision} --served-model-name {name}@{revision}`, or name a"
    )
    assert f"{expected} model that is there with --judge-model NAME" in " ".join(err.split())


# --- agreement


def test_kappa_is_that_of_the_textbook():
    """20 both yes, 5 the judge alone, 10 people alone, 15 both no: kappa 0.4, agreement 0.7."""
    pairs, verdicts = pairs_of("y" * 20 + "n" * 5 + "y" * 10 + "n" * 15, "y" * 25 + "n" * 25)
    found = agreement_of("it", pairs, verdicts)
    assert found.agreement.value == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)
    assert (found.num_wrongly_right, found.num_wrongly_wrong, found.num_failures) == (5, 10, 0)
    assert found.agreement.low is not None
    assert found.agreement.low < 0.7 < found.agreement.high


def test_failures_count_in_no_figure():
    pairs, verdicts = pairs_of("ynyn", "yy--")
    found = agreement_of("it", pairs, verdicts)
    assert (found.agreement.value, found.num_judged, found.num_failures) == (0.5, 2, 2)
    nothing = agreement_of("it", *pairs_of("yn", "--"))
    assert math.isnan(nothing.agreement.value)
    assert math.isnan(nothing.kappa)
    assert math.isnan(agreement_of("it", *pairs_of("yy", "yy")).kappa), "chance alone gives that"


def test_evouna_is_read_as_published(tmp_path):
    path = tmp_path / "NQ.json"
    path.write_text(json.dumps(EVOUNA))
    pairs = read_pairs(path)
    assert [(p.prediction[:8], p.is_right) for p in pairs] == [
        ("Roentgen", True),
        ("The firs", True),
        ("The firs", False),
    ]
    assert pairs[0].references == ("Wilhelm Roentgen", "Roentgen")
    exact, f1, within = rule_agreements(pairs)
    assert (exact.num_wrongly_right, exact.num_wrongly_wrong) == (0, 1)
    assert (within.agreement.value, within.kappa) == (1, 1)
    assert f1.judge == "token F1 of 0.5 or more"


@pytest.mark.parametrize("said", ["yes", "Yes", "true", True, 1])
def test_rows_of_anybody_are_read(tmp_path, said):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"question": "who?", "answer": "dog", "pred": "a dog", "human": said}))
    assert read_pairs(path) == (Pair("who?", ("dog",), "a dog", True),)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "who?", "answer": "dog", "pred": "a dog", "human": "maybe"}], "human is 'maybe', but has to be"),
        ([{"question": "who?", "answer": "dog", "human": "yes"}], "has no 'prediction' or 'pred'"),
        ([{"question": "who?", "answer": "dog", "pred": "x"}], "has no 'human'"),
        ([EVOUNA[1]], "nobody judged any of its answers"),
    ],
)
def test_what_is_no_pair_is_named(tmp_path, rows, message):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(path)
    assert "pairs.json" in str(caught.value)


def test_some_pairs_are_drawn_alike():
    pairs, _ = pairs_of("y" * 50, "")
    assert drawn(pairs, None) == tuple(pairs) == drawn(pairs, 99)
    assert drawn(pairs, 5) == drawn(pairs, 5) != drawn(pairs, 5, seed=1)
    assert len(drawn(pairs, 5)) == 5
    with pytest.raises(UsageError, match="limit=0"):
        drawn(pairs, 0)


def test_a_judge_at_an_endpoint_is_measured(run: Run, tmp_path):
    """It calls right what has Roentgen in it, fails once, and is asked about several references at once."""
    pytest.importorskip("openai", reason="the judge's client library is not installed (extra judge)")
    from tests.helpers.judge_server import says, serve

    path = tmp_path / "NQ.json"
    more = {**EVOUNA[0], "answer_x": "unclear", "judge_x": False}
    path.write_text(json.dumps([more]))

    def answer(user: str, _: int) -> object:
        given = user.split("Predicted answer: ")[1]
        return says(
            "hm" if "unclear" in given else f"{{'pred': '{'yes' if 'Roentgen' in given else 'no'}', 'score': 3}}"
        )

    with serve(answer) as server:
        found, judgement = judge_agreement(
            read_pairs(path), Judging(judge_base_url=server.base_url, judge_model="it", judge_retries=0)
        )
        assert "Correct answer: Wilhelm Roentgen or Roentgen" in server.requests[0]["messages"][1]["content"]
        command = ("judge-agreement", path, "--judge-base-url", server.base_url, "--judge-model", "it")
        code, out, err = run(*command, "--judge-price-per-million-in", "1", "--judge-price-per-million-out", "2")
        assert code == 0, err
        facts = json.loads(run(*command, "--json")[1])
    assert (found.agreement.value, found.kappa, found.num_pairs, found.num_failures) == (1, 1, 4, 1)
    assert judgement.num_unparsable == 1
    row = next(line for line in out.splitlines() if line.startswith("it "))
    assert "100.00" in row
    assert "cost 0.00" in out
    assert [one["judge"] for one in facts["agreements"]][-1] == "it"
    assert facts["judgement"]["num_failures"] == 1
    code, out, _ = run("judge-agreement", path, "--limit", "2")
    assert code == 0
    assert "exact match" in out
    assert run("judge-agreement", path, "--limit", "0")[0] == 2
    assert run("judge-agreement", tmp_path / "none.json")[0] == 2


# --- the 26 replies of the field


def test_how_public_scorers_read_the_field_s_replies(shared: Path):
    """The table of docs/evaluation.md."""
    cases = json.loads((shared / "judge/reply_fixtures.json").read_text())["cases"]
    ours, theirs = {}, {"Video-ChatGPT": {}, "lmms-eval": {}}
    for case in cases:
        reply = case["reply"]
        try:
            verdict = parse_reply(reply)
            ours[reply] = ("yes" if verdict.is_right else "no", verdict.score)
        except UnparsableReplyError:
            pass
        public = case["video_chatgpt_and_video_llava"]
        if "verdict" in public:
            theirs["Video-ChatGPT"][reply] = (public["verdict"], public["score"])
        if case["lmms_eval_parse_score"]:
            theirs["lmms-eval"][reply] = tuple(case["lmms_eval_parse_score"])
    page = (Path(__file__).parent.parent.parent / "docs/evaluation.md").read_text()
    assert f"| `voco-video score` | {len(ours)} | {len(cases) - len(ours)} | 0 | 0 | 0 |" in page
    for name, read in theirs.items():
        both = [reply for reply in read if reply in ours]
        assert all(read[reply][0] == ours[reply][0] for reply in both), "where both give a verdict, it is the same"
        cut = sum(read[reply][1] != ours[reply][1] for reply in both)
        counts = (len(read), len(cases) - len(read), len(read) - len(both), len(ours) - len(both), cut)
        assert f"{name} | {' | '.join(map(str, counts))} |" in page, (name, counts)
