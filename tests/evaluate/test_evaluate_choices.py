"""Multiple choice end to end: options scored by the definition, letters read, runs resumed, scored and compared."""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.choice_sets import NEXTQA_COLUMNS, UIDS, WRITERS, nextqa_rows, write_json, write_videomme
from tests.helpers.tiny_families import tiny_family
from voco_video.api import VideoModel, load_model
from voco_video.checkpoint.folder import save_voco_model
from voco_video.data.letters import LETTERS, read_letter
from voco_video.data.registry import load_dataset
from voco_video.errors import DataError, UsageError
from voco_video.evaluate import EvalOptions, evaluate
from voco_video.evaluate.answer_likelihood import answer_token_ids
from voco_video.evaluate.choices import score_options
from voco_video.evaluate.run_folder import RankFile
from voco_video.scoring.bootstrap import NUM_RESAMPLES
from voco_video.scoring.comparison import compare
from voco_video.scoring.metrics import score
from voco_video.scoring.predictions import Prediction, load_predictions, read_predictions, read_run_info
from voco_video.scoring.report import score_file, write_report
from voco_video.shapes.write_dataset import write_dataset

NUM_FRAMES = 3
OPTIONS = EvalOptions(num_frames=NUM_FRAMES, max_new_tokens=6)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return {name: write(folder / name) for name, write in WRITERS.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model whose tokenizer knows every printable character."""
    return save_voco_model(tiny_family("llava"), tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


@pytest.fixture(scope="module")
def model(checkpoint: Path, cache_dir: Path) -> VideoModel:
    return load_model(str(checkpoint), dtype="float32", cache_dir=cache_dir)


@pytest.fixture
def run(run: Run, monkeypatch, cache_dir) -> Run:
    """The program, with one frame cache for all tests of this file."""
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", str(cache_dir))
    return run


def split_of(dataset: str) -> str:
    return {"egoschema": "val", "nextqa": "val", "mlvu": "val", "videomme": "test"}[dataset]


def evaluated(model: VideoModel, dataset: str, root: Path, out: Path, **changes) -> tuple[Prediction, ...]:
    data = load_dataset(dataset, root, split=split_of(dataset))
    result = evaluate(model, data, options=replace(OPTIONS, **changes), out=out)
    return read_predictions(result.predictions["k4"])


# --- likelihood


@torch.inference_mode()
def by_definition(model: VideoModel, path: Path, prompt: str, option: str) -> tuple[float, int]:
    """An option in a pass of its own, after the whole prompt, with the end token; and its number of tokens."""
    voco = model.voco
    prefix = model.compress(path, num_frames=NUM_FRAMES).prefix()
    ids = voco.backbone.conversation_ids([{"role": "user", "content": prompt}])
    answer = answer_token_ids(voco.backbone, [option])[0]
    logits = voco(torch.tensor([[*ids, *answer]]), prefix=prefix)[0][0].log_softmax(-1)
    places = range(len(ids) - 1, len(ids) + len(answer) - 1)
    return sum(float(logits[place, token]) for place, token in zip(places, answer, strict=True)), len(answer)


@pytest.mark.parametrize("dataset", tuple(WRITERS))
def test_options_get_the_likelihood_of_the_definition(model, sets, dataset, tmp_path):
    predictions = evaluated(model, dataset, sets[dataset], tmp_path, answer_by="likelihood")
    data = load_dataset(dataset, sets[dataset], split=split_of(dataset))
    assert len(predictions) == data.num_questions
    for one, (sample, turn) in zip(predictions, data.questions(), strict=True):
        assert (one.question_id, one.options, one.duration_class) == (
            turn.question_id,
            turn.options,
            turn.duration_class,
        )
        expected = [by_definition(model, sample.media[0].path, turn.question, option) for option in turn.options]
        sums, counts = zip(*expected)
        assert one.option_log_likelihoods == pytest.approx(sums, abs=1e-3)
        assert one.option_num_tokens == counts
        means = [total / count for total, count in expected]
        assert one.prediction == LETTERS[means.index(max(means))]
        assert (one.status, one.confidence) == ("answered", None)


def test_the_two_rules_choose_differently_and_are_scored_apart(model, sets, tmp_path):
    """Video-MME's options differ in length, so sums prefer the shorter ones and means do not."""
    predictions = evaluated(model, "videomme", sets["videomme"], tmp_path, answer_by="likelihood")
    plain = [LETTERS[int(np.argmax(one.option_log_likelihoods))] for one in predictions]
    means = [
        LETTERS[int(np.argmax(np.divide(one.option_log_likelihoods, one.option_num_tokens)))] for one in predictions
    ]
    assert plain != means
    scores = score(predictions, dataset="videomme")
    assert scores.metrics == ("accuracy", "accuracy_plain")
    right = [[chosen == one.answer for chosen, one in zip(those, predictions)] for those in (means, plain)]
    assert [scores.overall[name].value for name in scores.metrics] == [np.mean(those) for those in right]


def test_equal_options_are_equally_likely(model, sets):
    video = model.compress(next(sets["nextqa"].rglob("*.mp4")), num_frames=NUM_FRAMES)
    scores, counts = score_options(model.voco, video.prefix(), "what?", ("go", "stay", "go"))
    assert scores[0] == scores[2] != scores[1]
    assert counts == (4, 6, 4)  # the tokenizer knows characters; a blank goes before them, the end token after them


# --- letters


def test_letters_are_read_from_what_asking_gives(model, sets, tmp_path, monkeypatch):
    root = sets["nextqa"]
    predictions = evaluated(model, "nextqa", root, tmp_path / "a")
    data = load_dataset("nextqa", root, split="val")
    for one, (sample, turn) in zip(predictions, data.questions(), strict=True):
        lines = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDE", turn.options))
        prompt = f"{turn.question}\n{lines}\nAnswer with the option's letter from the given choices directly."
        video = model.compress(sample.media[0].path, num_frames=NUM_FRAMES)
        assert one.prediction == video.ask(prompt, max_new_tokens=6).text
        assert one.option_log_likelihoods is None
    replies = iter(["A", "(C) approach", "The answer is E.", "a man runs", "tc answer 3", "B", "D"])
    answer = VideoModel.compress(model, next(root.rglob("*.mp4")), num_frames=NUM_FRAMES).ask("what?")
    monkeypatch.setattr(
        "voco_video.api.CompressedVideo.ask",
        lambda self, questions, **_: [replace(answer, text=next(replies)) for _ in questions],
    )
    predictions = evaluated(model, "nextqa", root, tmp_path / "b")
    said = {one.question_id: one.prediction for one in predictions}
    assert said["1000000001_1"] == "(C) approach"  # a video's questions are asked together
    read = {one.question_id: read_letter(one.prediction, one.options) for one in predictions}
    assert list(read.values()) == ["A", None, "C", None, "E", "B", "D"]
    scores = score(predictions, dataset="nextqa")
    assert scores.metrics == ("accuracy",)
    assert scores.overall["accuracy"].value == sum(read[one.question_id] == one.answer for one in predictions) / 7
    report = score_file(tmp_path / "b" / "predictions-k4.jsonl")
    assert "2 of 7 answers name none of the options and count as wrong." in report.notes
    assert "Guessing gets 20.00 % of all questions right." in report.notes


# --- runs


@pytest.mark.parametrize("answer_by", ["letter", "likelihood"])
def test_an_interrupted_run_ends_with_the_same_bytes(model, sets, answer_by, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    evaluated(model, "mlvu", sets["mlvu"], whole, answer_by=answer_by)
    append, left = RankFile.append, 2

    def fragile(self: RankFile, predictions: list[Prediction]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        append(self, predictions)

    monkeypatch.setattr(RankFile, "append", fragile)
    with pytest.raises(KeyboardInterrupt):
        evaluated(model, "mlvu", sets["mlvu"], tmp_path / "run", answer_by=answer_by)
    data = load_dataset("mlvu", sets["mlvu"])
    result = evaluate(model, data, options=replace(OPTIONS, answer_by=answer_by), out=tmp_path / "run")
    assert result.num_resumed == len(data.samples[0].turns)
    assert result.predictions["k4"].read_bytes() == (whole / "predictions-k4.jsonl").read_bytes()


def test_what_cannot_be_asked_is_refused_before_anything_is_written(model, sets, tmp_path):
    data = load_dataset("mlvu", sets["mlvu"])
    open_questions = load_dataset("msvd", write_dataset(tmp_path / "msvd", layout="msvd", num_videos=4, size=32))
    for dataset, changes, message in (
        (data, {"vocabulary": ("x",)}, "cannot be ranked on mlvu"),
        (data, {"prompt": "{question}"}, r"has no \{options\} in it"),
        (open_questions, {"answer_by": "likelihood"}, "for multiple choice, which msvd is not"),
        (open_questions, {"prompt": "{question}\n{options}"}, "the questions of msvd have none"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(model, dataset, options=replace(OPTIONS, **changes), out=tmp_path / "out")
    with pytest.raises(UsageError, match="answer_by='guess' is not one of letter, likelihood"):
        replace(OPTIONS, answer_by="guess")
    assert not (tmp_path / "out").exists()


def test_the_other_way_of_answering_is_another_run(model, sets, tmp_path):
    evaluated(model, "mlvu", sets["mlvu"], tmp_path)
    with pytest.raises(UsageError, match=r"answer_by 'letter' instead of 'likelihood'"):
        evaluated(model, "mlvu", sets["mlvu"], tmp_path, answer_by="likelihood")


# --- scores


def chosen(question_id: str, video: str, kind: str, *, right: bool, duration: str = "") -> Prediction:
    letter = "B" if right else "A"
    return Prediction(video, "what?", "B", question_id, kind, 0, letter, options=("x", "y"), duration_class=duration)


def test_types_unions_and_the_mean_of_tasks():
    """Tasks of 1, 2 and 4 questions: their mean is not that of the questions. Interval against a plain bootstrap."""
    outcomes = {"plotQA": (True,), "ego": (True, False), "count": (True, False, False, False)}
    predictions = [
        chosen(f"{kind}{place}", f"{kind}{place}", kind, right=right)
        for kind, those in outcomes.items()
        for place, right in enumerate(those)
    ]
    scores = score(predictions, dataset="mlvu")
    assert [group.name for group in scores.groups] == ["count", "ego", "plotQA", "mean of tasks", "all"]
    mean = scores["mean of tasks"]["accuracy"]
    assert mean.value == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)
    assert scores.overall["accuracy"].value == pytest.approx(3 / 7)
    rng, draws = np.random.default_rng(0), []
    for weights in rng.multinomial(7, np.full(7, 1 / 7), size=NUM_RESAMPLES):
        sums = defaultdict(lambda: np.zeros(2))
        for weight, one in zip(weights, predictions):
            sums[one.question_type] += weight * np.array([one.prediction == one.answer, 1])
        draws.append(np.mean([above / below for above, below in sums.values() if below]))
    assert (mean.low, mean.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=1e-12)
    assert "mean of tasks" not in {group.name for group in score(predictions, dataset="nextqa").groups}


def test_nextqa_types_count_together_as_its_own_script_counts_them():
    kinds = ("causal why", "causal how", "temporal order", "temporal when", "descriptive count", "descriptive other")
    predictions = [chosen(kind, kind, kind, right=place % 3 == 0) for place, kind in enumerate(kinds)]
    scores = score(predictions, dataset="nextqa")
    assert {group.name: group["accuracy"].value for group in scores.unions} == {
        "causal": 1 / 2,
        "temporal": 1 / 2,
        "descriptive": 0,
    }


def test_duration_classes_are_scored_beside_the_types():
    predictions = [
        chosen(f"{video}-{kind}", video, kind, right=kind == "Counting" or duration == "long", duration=duration)
        for video, duration in (("a", "short"), ("b", "long"), ("c", "long"), ("d", "medium"), ("e", "short"))
        for kind in ("Counting", "OCR")
    ]
    scores = score(predictions, dataset="videomme")
    assert [group.name for group in scores.types] == ["Counting", "OCR"]
    found = {g.name: (g.num_questions, g.num_videos, g["accuracy"].value) for g in scores.durations}
    assert found == {"short": (4, 2, 0.5), "medium": (2, 1, 0.5), "long": (4, 2, 1.0)}
    assert list(found) == ["short", "medium", "long"]
    assert (scores["long"]["accuracy"].low, scores["medium"]["accuracy"].low) == (1.0, None)


def test_questions_without_public_answer_are_handed_in_not_scored(model, sets, tmp_path):
    data = load_dataset("egoschema", sets["egoschema"], split="test")
    result = evaluate(model, data, options=replace(OPTIONS, answer_by="likelihood"), out=tmp_path)
    report = score_file(result.predictions["k4"])
    assert report.scores.overall.num_questions == 2
    assert any(note.startswith("1 of 3 questions have no public answer and are not scored.") for note in report.notes)
    write_report(report, tmp_path / "scores")
    handed_in = json.loads((tmp_path / "scores.submission.json").read_text())
    predictions = read_predictions(result.predictions["k4"])
    assert handed_in == {one.question_id: LETTERS.index(one.prediction) for one in predictions}
    assert list(handed_in) == list(UIDS)
    # What is handed in can be scored as anybody else's predictions.
    again = load_predictions(tmp_path / "scores.submission.json", references=data)
    assert again.layout == "places of options"
    assert [one.prediction for one in again.predictions] == [one.prediction for one in predictions]
    secret = replace(data, samples=data.samples[:1])
    evaluate(model, secret, options=OPTIONS, out=tmp_path / "secret")
    with pytest.raises(DataError, match="no predictions to score"):
        score_file(tmp_path / "secret" / "predictions-k4.jsonl")


def test_places_of_options_as_nextqas_own_script_reads_them(sets, tmp_path):
    rows = {f"{row[0]}_{row[6]}": row[5] for row in nextqa_rows()}
    wrong = "2000000002_0"
    content = {i: {"prediction": (place + (i == wrong)) % 5, "answer": place} for i, place in rows.items()}
    data = load_dataset("nextqa", sets["nextqa"], split="val")
    path = write_json(tmp_path / "HGA-val.json", content)
    loaded = load_predictions(path, references=data)
    assert score(loaded.predictions, dataset="nextqa").overall["accuracy"].value == pytest.approx(6 / 7)
    assert loaded.num_other_answers == 0
    write_json(path, {i: None if i == wrong else place for i, place in rows.items()})
    loaded = load_predictions(path, references=data)
    assert (loaded.num_unanswered, score(loaded.predictions).overall["accuracy"].value) == (1, pytest.approx(6 / 7))
    write_json(path, {i: {"prediction": 26, "answer": place} for i, place in rows.items()})
    with pytest.raises(DataError, match=r"1000000001_6 is .*, but has to be a place, counting from 0"):
        load_predictions(path, references=data)


def test_letters_of_other_people_are_matched_by_id(sets, tmp_path):
    data = load_dataset("videomme", sets["videomme"])
    rows = [{"question_id": turn.question_id, "pred": f"({turn.answer})"} for _, turn in data.questions()]
    path = write_json(tmp_path / "others.json", rows[1:])
    report = score_file(path, references=data)
    assert report.scores.overall["accuracy"].value == pytest.approx(8 / 9)
    assert [group.num_questions for group in report.scores.durations] == [3, 3, 3]


def test_runs_are_compared_by_accuracy(model, sets, tmp_path):
    letters = evaluated(model, "videomme", sets["videomme"], tmp_path / "a")
    likely = evaluated(model, "videomme", sets["videomme"], tmp_path / "b", answer_by="likelihood")
    right = [replace(one, prediction=f"{one.answer}.") for one in letters]
    comparison = compare({"letters": right, "likely": likely})
    assert (comparison.metric, comparison.num_questions) == ("accuracy", 9)
    assert comparison.runs[0].accuracy.value == 1
    assert comparison.runs[1].accuracy == replace(
        comparison.runs[1].accuracy, value=score(likely).overall["accuracy"].value
    )
    for metric in ("accuracy_plain", "exact_match", "top1"):
        with pytest.raises(DataError, match=f"letters has no values in {metric}: compare accuracy"):
            compare({"letters": right, "likely": likely}, metric=metric)
    plain = compare({"likely": likely, "again": likely}, metric="accuracy_plain")
    assert plain.runs[0].accuracy.value == score(likely).overall["accuracy_plain"].value


# --- the command line


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dataset", tuple(WRITERS))
def test_evaluate_from_the_command_line(run, sets, checkpoint, dataset):
    options = ["--split", "val"] if dataset == "nextqa" else []
    arguments = ["eval", dataset, "--root", sets[dataset], "--model", checkpoint, "--num-frames", NUM_FRAMES, *options]
    code, letters, err = run(*arguments, "--max-new-tokens", "6")
    assert code == 0, err
    code, likely, err = run(*arguments, "--answer-by", "likelihood", "--num-voco-tokens", "1,4")
    assert code == 0, err
    split = split_of(dataset)
    folder = Path("runs/eval") / f"{dataset}-{split}-tiny"
    other = folder.with_name(f"{folder.name}-likelihood")
    assert f"{dataset} {split}, k4" in letters
    assert "plain accuracy %" in likely
    assert "plain accuracy %" not in letters
    assert {path.suffix for path in other.glob("sweep.*")} == {".json", ".md", ".png"}
    settings = read_run_info(other / "predictions-k4.jsonl")["settings"]
    assert (settings["answer_by"], settings["prompt"]) == ("likelihood", "{question}")
    for expected in {"videomme": ["short", "medium", "long"], "mlvu": ["mean of tasks"], "nextqa": ["causal"]}.get(
        dataset, ["all"]
    ):
        assert f"\n{expected} " in likely
    markdown = (other / "predictions-k4.scores.md").read_text()
    assert (
        "by the mean logarithm of its tokens' probabilities (accuracy), and by their sum (plain accuracy)" in markdown
    )
    assert "Exact match" not in markdown
    code, compared, err = run("compare", folder / "predictions-k4.jsonl", other / "predictions-k4.jsonl")
    assert code == 0, err
    assert "accuracy %" in compared
    references = ["--references", dataset, "--root", sets[dataset], *options]
    code, rescored, err = run("score", folder / "predictions-k4.jsonl", *references, "--out", "again")
    assert code == 0, err
    assert rescored.splitlines()[:6] == letters.splitlines()[1:7]


def test_a_users_mistakes(run, sets, checkpoint, tmp_path):
    write_dataset(tmp_path / "msvd", layout="msvd", num_videos=4, size=32)
    cases = (
        (["mlvu", "--root", sets["mlvu"], "--split", "train"], 2, "mlvu has val and test"),
        (["mlvu", "--root", sets["mlvu"], "--split", "test"], 1, "(looked for test_mcq_gt.json)"),
        (["mlvu", "--root", sets["mlvu"], "--rank-vocabulary", "5"], 2, "mlvu is multiple choice; use --answer-by"),
        (["mlvu", "--root", sets["mlvu"], "--answer-by", "luck"], 2, "luck"),
        (["mlvu", "--root", tmp_path], 1, "no annotations of the val split"),
        (["msvd", "--root", tmp_path / "msvd", "--answer-by", "likelihood"], 2, "for multiple choice"),
    )
    for arguments, expected, message in cases:
        code, out, err = run("eval", *arguments, "--model", checkpoint)
        assert (code, message in err, "Traceback" in err, out) == (expected, True, False, ""), err


# --- a model that knows


def test_voco_tiny_chooses_what_it_would_say(tmp_path, cache_dir):
    """MovingShapes as NExT-QA: five options, four of them true of other scenes. Guessing gets a fifth."""
    shapes = load_dataset(
        "msvd", write_dataset(tmp_path / "shapes", layout="msvd", num_videos=12, size=64), split="train"
    )
    asked = [(sample, turn) for sample, turn in shapes.questions() if turn.question_type in ("what", "who", "where")]
    answers = defaultdict(set)
    for _, turn in asked:
        answers[turn.question_type].add(turn.answer)
    rng, rows = random.Random(0), []
    for number, (sample, turn) in enumerate(asked):
        others = sorted(answers[turn.question_type] - {turn.answer})
        if len(others) < 4:
            continue
        options = [turn.answer, *rng.sample(others, 4)]
        rng.shuffle(options)
        rows.append([sample.name, 8, 64, 64, turn.question, options.index(turn.answer), number, "DO", *options])
    with (tmp_path / "val.csv").open("w", newline="") as file:
        csv.writer(file).writerows([NEXTQA_COLUMNS, *rows])
    data = load_dataset("nextqa", tmp_path / "shapes", split="val", annotations=tmp_path / "val.csv")
    assert (data.missing, data.num_questions) == ((), len(rows))
    assert len(rows) >= 20
    model = load_model("voco-tiny", dtype="float32", cache_dir=cache_dir)
    options = EvalOptions(num_frames=8, answer_by="likelihood")
    result = evaluate(model, data, options=options, out=tmp_path / "out")
    scores = score(read_predictions(result.predictions["k8"]), dataset="nextqa")
    assert scores.overall["accuracy"].value > 0.9
    assert scores.overall["accuracy_plain"].value > 0.9
    blind = evaluate(model, data, options=replace(options, compressor="none"), out=tmp_path / "blind")
    guessed = score(read_predictions(blind.predictions["none"])).overall["accuracy"]
    assert guessed.value < 0.45
    assert math.isfinite(guessed.low)


def test_parquet_is_evaluated_like_its_rows(model, tmp_path):
    pytest.importorskip("pyarrow", reason="parquet files need pyarrow, which the extra `eval` brings")
    folders = [write_videomme(tmp_path / layout, layout=layout) for layout in ("parquet", "jsonl")]
    # Encoding the same pictures again does not always give the same bytes.
    shutil.rmtree(folders[1] / "data")
    shutil.copytree(folders[0] / "data", folders[1] / "data")
    runs = [evaluated(model, "videomme", folder, folder / "out", answer_by="likelihood") for folder in folders]
    assert runs[0] == runs[1]
