"""Scores and comparisons: each formula against the slow, obvious way, and published figures."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from voco_video.data.registry import load_dataset
from voco_video.errors import DataError, UsageError
from voco_video.scoring.bootstrap import Estimate, mcnemar_exact, number_clusters, paired_p_value, resample
from voco_video.scoring.comparison import compare
from voco_video.scoring.metrics import METRICS, normalize_answer, official_free, score, token_f1
from voco_video.scoring.predictions import Prediction, read_predictions


def predicted(number: int, prediction: str | None, answer: str = "dog", **changes: object) -> Prediction:
    one = Prediction(
        video=f"clip{number // 3}",
        question=f"what is number {number}?",
        answer=answer,
        question_id=str(number),
        question_type=("what", "who", "where")[number % 3],
        row=number,
        prediction=prediction,
        status="missing" if prediction is None else "answered",
    )
    return replace(one, **changes)


def drawn(num_videos: int, share: float, seed: int) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    return [predicted(number, "dog" if rng.random() < share else "cat") for number in range(3 * num_videos)]


# --- texts


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Dog", "dog"),
        ("  a  dog. ", "dog"),
        ("The dog's", "dogs"),
        ("dog\u2019s", "dogs"),
        ("t-shirt", "t shirt"),
        ("\u201cdog\u201d!", "dog"),
        ("two", "2"),
        ("Twenty one", "20 1"),
        ("none", "none"),
        ("8.23 meters.", "8.23 meters"),
        (".5", "5"),
        ("1,000", "1000"),
        ("1,2", "1 2"),
        ("an a", "an a"),
        ("A", "a"),
        ("another", "another"),
        ("x_y", "x y"),
        ("\uff24\uff4f\uff47", "dog"),
        ("?", ""),
        ("yes", "yes"),
    ],
)
def test_normalised_text(text: str, plain: str) -> None:
    assert normalize_answer(text) == plain
    assert normalize_answer(plain) == plain


def test_words_in_common() -> None:
    assert token_f1("a black dog", "the dog") == pytest.approx(2 / 3)
    assert token_f1("dog dog", "dog") == pytest.approx(2 * (1 / 2) * 1 / (1 / 2 + 1))
    assert token_f1("cat", "dog") == 0
    assert token_f1("", "dog") == token_f1("dog", "") == 0
    assert token_f1("two", "2") == token_f1("", "?") == 1


def test_a_question_counts_as_its_metric_says() -> None:
    right, rephrased, wrong, none = (
        predicted(number, text) for number, text in enumerate(("dog", "The Dog.", "dog house", None))
    )
    values = {name: [METRICS[name](one) for one in (right, rephrased, wrong, none)] for name in METRICS}
    assert values["exact_match"] == [1, 1, 0, 0]
    assert values["strict"] == [1, 0, 0, 0]
    assert values["token_f1"] == [1, 1, pytest.approx(2 / 3), 0]
    ranked = [replace(right, vocabulary_rank=rank) for rank in (1, 2, 10, 11, None)]
    assert [METRICS["top1"](one) for one in ranked] == [1, 0, 0, 0, 0]
    assert [METRICS["top10"](one) for one in ranked] == [1, 1, 1, 0, 0]


# --- intervals


def test_intervals_are_those_of_videos_drawn_one_by_one() -> None:
    rng = np.random.default_rng(3)
    clusters = rng.permutation(np.repeat(np.arange(7), rng.integers(1, 6, 7)))
    counted = (rng.random((len(clusters), 2)) < 0.7).astype(float)
    values = rng.random((len(clusters), 2)) * counted
    fast = resample(values, counted, clusters, num_resamples=300, seed=5)
    # The draws are multinomial counts; here they are spelt out as videos, and these as questions.
    weights = np.random.default_rng(5).multinomial(7, np.full(7, 1 / 7), size=300)
    for draw, counts in enumerate(weights):
        videos = [video for video, count in enumerate(counts) for _ in range(count)]
        rows = [row for video in videos for row in range(len(clusters)) if clusters[row] == video]
        for column in range(2):
            of = sum(counted[row, column] for row in rows)
            expected = sum(values[row, column] for row in rows) / of if of else math.nan
            assert fast.draws[draw, column] == pytest.approx(expected, nan_ok=True)
    for column, estimate in enumerate(fast.estimates()):
        assert estimate.value == pytest.approx(values[:, column].sum() / counted[:, column].sum())
        drawn_values = fast.draws[:, column][~np.isnan(fast.draws[:, column])]
        assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(drawn_values, [2.5, 97.5])))


def test_intervals_are_as_wide_as_theory_says_and_wider_where_videos_agree() -> None:
    rng = np.random.default_rng(0)
    num_videos, per_video = 400, 5
    clusters = np.repeat(np.arange(num_videos), per_video)
    alike = np.repeat(rng.random(num_videos) < 0.4, per_video).astype(float)[:, None]
    shuffled = rng.permutation(alike)
    widths = []
    for values, independent in ((alike, num_videos), (shuffled, num_videos * per_video)):
        (estimate,) = resample(values, np.ones_like(values), clusters, num_resamples=4000).estimates()
        assert estimate.low is not None
        assert estimate.high is not None
        widths.append(estimate.high - estimate.low)
        expected = 2 * 1.96 * math.sqrt(estimate.value * (1 - estimate.value) / independent)
        assert widths[-1] == pytest.approx(expected, rel=0.12)
    assert widths[0] > 2 * widths[1]


def test_draws_depend_on_the_seed_alone() -> None:
    values, clusters = np.random.default_rng(1).random((900, 1)), np.arange(900)
    runs = [resample(values, np.ones_like(values), clusters, num_resamples=700, seed=seed) for seed in (1, 1, 2)]
    assert (runs[0].draws == runs[1].draws).all()
    assert not (runs[0].draws == runs[2].draws).any()


def test_one_video_has_no_interval_and_no_question_no_value() -> None:
    scores = score([predicted(number, "dog") for number in range(3)], num_resamples=20)
    assert scores.overall["exact_match"] == Estimate(1.0, None, None)
    assert scores.overall["exact_match"].text(100) == "100.00"
    zeros = np.zeros((2, 1))
    (nothing,) = resample(zeros, zeros, np.arange(2), num_resamples=20).estimates()
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high, nothing.text()) == (None, None, "–")


def test_clusters_are_numbered_as_they_come() -> None:
    assert number_clusters(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]


# --- scores


def test_scores_by_type_are_those_of_the_types_alone() -> None:
    predictions = [*drawn(20, 0.5, seed=0), predicted(61, None), predicted(63, "The dog", video="-x")]
    scores = score(predictions, num_resamples=50)
    assert [group.name for group in scores.groups] == ["what", "who", "where", "all"]
    for group in scores.types:
        those = [one for one in predictions if one.question_type == group.name]
        alone = score(those, num_resamples=50).overall
        counts = (group.num_questions, group.num_videos, group.num_unanswered)
        assert counts == (alone.num_questions, alone.num_videos, alone.num_unanswered)
        for name in scores.metrics:
            assert group[name].value == pytest.approx(sum(map(METRICS[name], those)) / len(those))
    assert (scores.overall.num_questions, scores.overall.num_videos, scores.overall.num_unanswered) == (62, 22, 1)
    assert scores["who"].num_unanswered == 1
    assert scores.metrics == ("exact_match", "strict", "token_f1")
    assert scores.as_dict()["overall"]["metrics"]["strict"]["value"] == scores.overall["strict"].value
    frame = scores.to_frame()
    assert list(frame.index) == ["what", "who", "where", "all"]
    assert frame.loc["who", "strict_high"] == scores["who"]["strict"].high


def test_ranks_count_all_questions() -> None:
    predictions = [predicted(number, "dog", vocabulary_rank=rank) for number, rank in enumerate((1, 10, 11, None))]
    scores = score(predictions, num_resamples=20)
    assert scores.num_ranked == 3
    assert (scores.overall["top1"].value, scores.overall["top10"].value) == (1 / 4, 2 / 4)


def test_scores_do_not_depend_on_the_order() -> None:
    predictions = drawn(30, 0.5, seed=2)
    forward, backward = score(predictions, num_resamples=500), score(predictions[::-1], num_resamples=500)
    assert forward.overall["exact_match"].value == backward.overall["exact_match"].value
    assert forward["who"]["strict"].value == backward["who"]["strict"].value


def test_no_predictions_are_no_scores() -> None:
    with pytest.raises(DataError, match="no predictions"):
        score([])


def test_free_questions_and_what_the_official_script_prints() -> None:
    names = ("yes/no", "number", "motion", "spatial", "temporal", "colour")
    sizes = (7, 5, 3, 3, 3, 2)
    kinds = [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]
    predictions = [
        predicted(number, "dog" if number % 2 else "Dog", question_type=kind) for number, kind in enumerate(kinds)
    ]
    scores = score(predictions, dataset="activitynet", num_resamples=20)
    free = [one for one in predictions if one.question_type in ("yes/no", "number", "colour")]
    right = sum(one.prediction == one.answer for one in free)
    assert [group.name for group in scores.unions] == ["free"]
    assert scores["free"].num_questions == 14
    assert scores["free"]["strict"].value == pytest.approx(right / 14)
    assert "free" not in [group.name for group in score(predictions, num_resamples=20).groups]
    official = official_free(predictions[::-1])
    assert (official.num_right, official.num_questions, official.official_denominator) == (right, 14, 3 + 3 + 2)
    assert official.left_out == ("yes/no", "number", "motion")


# --- comparing


def test_p_value_of_the_exact_test_is_that_of_all_coins() -> None:
    for first, second in itertools.product(range(7), repeat=2):
        total = first + second
        ways = sum(math.comb(total, k) for k in range(min(first, second) + 1))
        expected = min(Fraction(1), 2 * Fraction(ways, 2**total))
        assert mcnemar_exact(first, second) == pytest.approx(float(expected))
    assert mcnemar_exact(0, 40_000) == 0
    assert mcnemar_exact(20_000, 20_100) == pytest.approx(0.6211, abs=0.001)


def test_p_value_of_draws() -> None:
    draws = np.array([0.1] * 97 + [-0.1] * 2)
    assert paired_p_value(draws) == pytest.approx(2 * 3 / 100)
    assert paired_p_value(-draws) == paired_p_value(draws)
    assert paired_p_value(np.zeros(10)) == 1


def test_a_difference_is_found_and_chance_is_not() -> None:
    base = drawn(300, 0.5, seed=0)
    better = [replace(one, prediction="dog") if one.row % 10 == 0 else one for one in base]
    other = drawn(300, 0.5, seed=1)
    found = compare({"base": base, "better": better, "same": base, "other": other}, num_resamples=2000)
    assert (found.num_questions, found.num_videos) == (900, 300)
    assert [run.name for run in found.runs] == ["base", "better", "same", "other"]
    first, *others = found.runs
    for run, difference in zip(others, found.differences, strict=True):
        assert difference.difference.value == pytest.approx(run.accuracy.value - first.accuracy.value)
    clear, none, chance = found.differences
    assert clear.difference.low is not None
    assert clear.difference.low > 0
    assert clear.p_value == pytest.approx(2 / 2001)
    assert clear.num_only_first == 0
    assert clear.num_only_this == round(900 * clear.difference.value)
    assert clear.mcnemar_p == pytest.approx(2 * 0.5**clear.num_only_this)
    assert (none.p_value, none.mcnemar_p, none.difference) == (1.0, 1.0, Estimate(0.0, 0.0, 0.0))
    assert chance.p_value > 0.05
    # Paired, an interval is much narrower than two intervals of their own would say.
    assert clear.difference.high is not None
    assert first.accuracy.high is not None
    assert first.accuracy.low is not None
    assert clear.difference.high - clear.difference.low < 0.7 * (first.accuracy.high - first.accuracy.low)


def test_chance_alone_gives_small_p_values_seldom() -> None:
    p_values = [
        compare({"a": drawn(40, 0.5, 2 * n), "b": drawn(40, 0.5, 2 * n + 1)}, num_resamples=200).differences[0].p_value
        for n in range(100)
    ]
    assert 0 < sum(p <= 0.05 for p in p_values) <= 13  # more than 13 of 100 at 5 %: about one in a thousand
    assert 0.3 < np.mean(p_values) < 0.7


def test_only_questions_in_common_count() -> None:
    first, second = drawn(20, 0.5, 0), drawn(20, 0.7, 1)
    found = compare({"a": first[:40], "b": second[20:][::-1]}, num_resamples=100)
    assert found.num_questions == 20
    same = compare({"a": first[20:40], "b": second[20:40]}, num_resamples=100)
    assert found.differences == same.differences
    assert [run.num_questions for run in found.runs] == [40, 40]


def test_half_right_questions_have_no_exact_test() -> None:
    first, second = drawn(20, 0.5, 0), [replace(one, prediction="dog house") for one in drawn(20, 0.5, 1)]
    (difference,) = compare({"a": first, "b": second}, metric="token_f1", num_resamples=100).differences
    assert difference.mcnemar_p is None


def test_other_questions_are_not_compared() -> None:
    first = drawn(5, 0.5, 0)
    with pytest.raises(DataError, match=r"no question id in common \(a has 0, b has x0\)"):
        compare({"a": first, "b": [replace(one, question_id=f"x{one.question_id}") for one in first]})
    with pytest.raises(DataError, match=r"b is on other questions: under id 0 it has 'what is number 0\? \(cat\)'"):
        compare({"a": first, "b": [replace(one, answer="cat") for one in first]})
    with pytest.raises(DataError, match="under id 0 it has 'who"):
        compare({"a": first, "b": [replace(one, question="who is it?") for one in first]})
    wording = [replace(one, question=one.question.upper().rstrip("?")) for one in first]
    assert compare({"a": first, "b": wording}, num_resamples=10).num_questions == 15
    with pytest.raises(UsageError, match="two or more"):
        compare({"a": first})
    with pytest.raises(UsageError, match="metric is 'wups'"):
        compare({"a": first, "b": first}, metric="wups")
    with pytest.raises(DataError, match="a has no ranks for top1"):
        compare({"a": first, "b": first}, metric="top1")


# --- published figures


def test_hqga_on_msvd_scores_as_published(shared: Path) -> None:
    folder = shared / "annotations/msvd-qa"
    dataset = load_dataset("msvd", folder, split="test", annotations=folder / "hqga_test.csv")
    predictions = read_predictions(shared / "predictions/hqga/msvd_HQGA_test.json", references=dataset)
    scores = score(predictions, dataset="msvd")
    for metric in ("exact_match", "strict"):
        estimate = scores.overall[metric]
        assert estimate.value == 5414 / 13157
        assert f"{100 * estimate.value:.3f}" == "41.149"
        assert estimate.low is not None
        assert estimate.high is not None
        assert 0.38 < estimate.low < estimate.value < estimate.high < 0.44
    assert (scores.overall.num_videos, scores.unions) == (504, ())
    assert {group.name: group.num_questions for group in scores.types} == {
        "what": 8149,
        "who": 4552,
        "how": 370,
        "when": 58,
        "where": 28,
    }


def test_the_example_on_activitynet_scores_as_published_but_for_free(shared: Path) -> None:
    dataset = load_dataset("activitynet", shared / "annotations/activitynet-qa", split="val")
    predictions = read_predictions(shared / "predictions/activitynet/pred_val_example.json", references=dataset)
    scores = score(predictions, dataset="activitynet")
    printed = (shared / "predictions/activitynet/official_eval_output.txt").read_text()
    official = dict(line.strip().split(": ") for line in printed.splitlines() if line.startswith("\t"))
    named = {
        "motion": "Motion",
        "spatial": "Spatial Relation",
        "temporal": "Temporal Relation",
        "yes/no": "Yes/No",
        "colour": "Color",
        "object": "Object",
        "location": "Location",
        "number": "Number",
        "other": "Other",
        "all": "All",
    }
    assert {name: f"{scores[name]['strict'].value:.4f}" for name in named} == {
        name: official[theirs] for name, theirs in named.items()
    }
    assert f"{scores['free']['strict'].value:.4f}" == "0.5055"
    free = official_free(predictions)
    assert (free.num_right, free.num_questions) == (6369, 12600)
    assert f"{free.num_right / free.official_denominator:.4f}" == official["Free"] == "0.7583"
    assert free.left_out == ("yes/no", "other", "number")
