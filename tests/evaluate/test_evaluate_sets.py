"""voco-tiny answers MovingShapes written as other sets are published, from the annotation files to the scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.choice_sets import write_json
from tests.helpers.shapes_as_sets import CHOICES, GROUNDING, Asked, Happening, happenings, questions, write_clips
from voco_video.api import VideoModel, load_model
from voco_video.data.registry import load_video_set
from voco_video.errors import UsageError
from voco_video.evaluate import EvalOptions, evaluate
from voco_video.evaluate.answering import compress
from voco_video.scoring.metrics import Scores, score
from voco_video.scoring.predictions import Prediction, read_predictions, read_run_info

NUM_QUESTIONS = 10


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("shapes") / "clips")


@pytest.fixture(scope="module")
def asked(clips: Path) -> list[Asked]:
    return questions(clips)[:NUM_QUESTIONS]


@pytest.fixture(scope="module")
def happened(clips: Path) -> list[Happening]:
    return happenings(clips)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    return load_model("voco-tiny", dtype="float32", cache_dir=tmp_path_factory.mktemp("frames"))


def run(
    model: VideoModel, dataset: str, clips: Path, annotations: Path, out: Path, **options
) -> tuple[tuple[Prediction, ...], Scores]:
    root = annotations if dataset == "mvbench" else clips  # whose clips are in a folder of their own
    data = load_video_set(dataset, root, annotations=annotations)
    assert data.missing == ()
    result = evaluate(model, data, options=EvalOptions(num_frames=8, **options), out=out)
    predictions = read_predictions(result.predictions["k8"])
    assert [p.question_id for p in predictions] == [turn.question_id for _, turn in data.questions()]
    return predictions, score(predictions, dataset=dataset)


def exhaustive_but(*names: str, of: dict) -> list:
    return [name if name in names else pytest.param(name, marks=pytest.mark.exhaustive) for name in of]


LIKELIHOOD = {name: write for name, write in CHOICES.items() if name not in ("tempcompass-captioning",)}


@pytest.mark.parametrize("dataset", exhaustive_but("lvbench", of=LIKELIHOOD))
def test_choices_by_likelihood(model, dataset, clips, asked, tmp_path):
    CHOICES[dataset](tmp_path, asked)
    _, scores = run(model, dataset, clips, tmp_path, tmp_path / "out", answer_by="likelihood")
    # The labels of matching, "Option 1: ", are no words that voco-tiny knows.
    assert scores.overall["accuracy"].value >= (0.3 if dataset == "tempcompass-matching" else 0.8)
    if dataset == "lvbench":
        assert scores["reasoning"].num_questions == NUM_QUESTIONS


@pytest.mark.parametrize("dataset", exhaustive_but("charades-sta", of=GROUNDING))
def test_when_something_happens_by_search(model, dataset, clips, happened, tmp_path):
    """A shape is there for half of a clip or less: chance is far below."""
    GROUNDING[dataset](tmp_path, happened)
    predictions, scores = run(model, dataset, clips, tmp_path, tmp_path / "out", answer_by="find")
    assert len(predictions) == len(happened) >= 6
    assert scores.overall["miou"].value > 0.45
    assert scores.overall["r1_iou_0.3"].value > 0.7
    settings = read_run_info(tmp_path / "out/predictions-k8.jsonl")["settings"]
    assert settings["answer_by"] == "find"


def test_what_the_authors_ask_is_asked_and_recorded(model, clips, happened, asked, tmp_path):
    GROUNDING["charades-sta"](tmp_path / "when", happened[:2])
    _, scores = run(model, "charades-sta", clips, tmp_path / "when", tmp_path / "when/out", max_new_tokens=4)
    settings = read_run_info(tmp_path / "when/out/predictions-k8.jsonl")["settings"]
    assert settings["prompt"].startswith("Please find the visual event described by a sentence in the video")
    assert scores.overall["miou"].value == 0  # voco-tiny was never taught to tell times
    CHOICES["tempcompass-yes-no"](tmp_path / "yes", asked)
    told = {"prompt": "{question}", "max_new_tokens": 4}
    chosen, _ = run(model, "tempcompass-yes-no", clips, tmp_path / "yes", tmp_path / "yes/out", **told)
    assert {p.prediction for p in chosen} <= {"yes", "no"}
    assert score(chosen).overall["accuracy"].value > 0.7


def test_ways_of_answering_that_do_not_fit(model, clips, happened, asked, tmp_path):
    GROUNDING["charades-sta"](tmp_path, happened)
    CHOICES["lvbench"](tmp_path, asked)
    for dataset, way, message in (
        ("charades-sta", "likelihood", "is for multiple choice, which charades-sta is not"),
        ("lvbench", "find", "is for questions of when something happens, unlike those of lvbench"),
    ):
        with pytest.raises(UsageError, match=message):
            run(model, dataset, clips, tmp_path, tmp_path / "out", answer_by=way)


def test_what_is_said_is_told_and_recorded(model, clips, asked, tmp_path):
    """LongVideoBench's own subtitles: other likelihoods, other settings, the same frames."""
    pytest.importorskip("pysubs2", reason="files of subtitles need pysubs2, which the extra `subtitles` brings")
    CHOICES["longvideobench"](tmp_path, asked[:3])
    for row in asked[:3]:
        said = [{"timestamp": [1.0, 5.0], "text": "a star is born"}]
        write_json(tmp_path / f"subtitles/{row.video}_en.json", said)
    runs = {}
    for way in ("none", "auto"):
        data = load_video_set("longvideobench", clips, annotations=tmp_path / "lvb_val.json")
        samples = tuple(
            replace(s, media=(replace(s.media[0], subtitles=tmp_path / f"subtitles/{s.name}_en.json"),))
            for s in data.samples
        )
        options = EvalOptions(num_frames=8, answer_by="likelihood", subtitles=way)
        result = evaluate(model, replace(data, samples=samples), options=options, out=tmp_path / way)
        runs[way] = read_predictions(result.predictions["k8"])
        assert read_run_info(result.predictions["k8"])["settings"].get("subtitles", "none") == way
    assert [p.question_id for p in runs["none"]] == [p.question_id for p in runs["auto"]]
    assert all(
        a.option_log_likelihoods != b.option_log_likelihoods for a, b in zip(runs["none"], runs["auto"], strict=True)
    )


@pytest.mark.exhaustive
def test_a_window_of_a_video_is_compressed_alone(model, clips, asked, tmp_path):
    """MVBench's start and end: other frames are seen, so another entry is made, whose frames lie in the window."""
    CHOICES["mvbench"](tmp_path, asked[:1])
    path = tmp_path / "json/object_shuffle.json"
    rows = [row | {"start": 2.0, "end": 4.0} for row in json.loads(path.read_text())]
    path.write_text(json.dumps(rows))
    data = load_video_set("mvbench", tmp_path)
    media = data.samples[0].media[0]
    video = compress(model, media.path, EvalOptions(num_frames=8), media.window)
    assert media.window == (2.0, 4.0)
    assert 2 <= video.pts_seconds.min() <= video.pts_seconds.max() < 4
    run(model, "mvbench", clips, tmp_path, tmp_path / "out", answer_by="likelihood")
