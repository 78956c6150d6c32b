"""Evaluation: the answers that asking gives, each question once, the same bytes however they come about."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from voco_video.api import VideoModel, load_model
from voco_video.compress import compress_video
from voco_video.data.registry import load_dataset
from voco_video.data.samples import Dataset, Media
from voco_video.errors import CacheError, DataError, UsageError
from voco_video.evaluate import EvalOptions, EvalProgress, answer_vocabulary, evaluate
from voco_video.evaluate.answer_likelihood import Ranker
from voco_video.evaluate.answering import compress
from voco_video.evaluate.plan import choose_questions
from voco_video.evaluate.run_folder import RankFile, RunFiles
from voco_video.scoring.basis import basis_path
from voco_video.scoring.predictions import Prediction, read_predictions, read_run_info, write_run_info
from voco_video.shapes.write_dataset import write_dataset

NUM_FRAMES = 3


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MovingShapes in MSVD-QA's layout: 8 clips to train, 2 to validate, 3 to test; questions in mixed order."""
    root = write_dataset(
        tmp_path_factory.mktemp("sets") / "shapes", layout="msvd", num_videos=13, questions_per_video=5, size=64
    )
    for path in root.glob("*_qa.json"):  # the published sets do not keep a video's questions together either
        rows = json.loads(path.read_text())
        random.Random(0).shuffle(rows)
        path.write_text(json.dumps(rows))
    return root


@pytest.fixture
def data(shapes: Path) -> Dataset:
    return load_dataset("msvd", shapes, split="train")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    """voco-tiny with a cache that the tests of this module fill together."""
    return load_model("voco-tiny", dtype="float32", cache_dir=tmp_path_factory.mktemp("frames"))


@pytest.fixture
def options() -> EvalOptions:
    return EvalOptions(num_frames=NUM_FRAMES, max_new_tokens=6)


@pytest.fixture
def whole(model: VideoModel, data: Dataset, options: EvalOptions, tmp_path: Path) -> bytes:
    """What a run gives that nothing disturbs."""
    return evaluate(model, data, options=options, out=tmp_path / "whole").predictions["k8"].read_bytes()


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this was done before")

    for name in names:
        monkeypatch.setattr(name, refuse)


def basis_bytes(folder: Path) -> bytes:
    return basis_path(folder / "predictions-k8.jsonl").read_bytes()


def by_id(path: Path) -> dict[str, Prediction]:
    return {prediction.question_id: prediction for prediction in read_predictions(path)}


# --- answers


def test_answers_are_those_that_asking_gives_in_published_order(model, data, options, tmp_path):
    options = replace(options, questions_per_batch=2)
    result = evaluate(model, data, options=options, out=tmp_path)
    predictions = read_predictions(result.predictions["k8"])
    assert [(p.question_id, p.row) for p in predictions] == [(t.question_id, t.row) for _, t in data.questions()]
    assert [p.video for p in predictions] != sorted(p.video for p in predictions)
    found = by_id(result.predictions["k8"])
    for sample in data.samples:
        video = model.compress(sample.media[0].path, num_frames=NUM_FRAMES)
        for start in range(0, len(sample.turns), 2):
            turns = sample.turns[start : start + 2]
            for turn, answer in zip(turns, video.ask([t.question for t in turns], max_new_tokens=6), strict=True):
                expected = Prediction(
                    video=sample.name,
                    question=turn.question,
                    answer=turn.answer,
                    question_id=turn.question_id,
                    question_type=turn.question_type,
                    row=turn.row,
                    prediction=answer.text,
                    confidence=round(answer.confidence, 6),
                )
                assert found[turn.question_id] == expected
    assert len({p.prediction for p in predictions}) > 5


def test_batches_move_digits_but_no_answers(model, data, options, tmp_path):
    """Why a video's questions always go in the same batches."""
    files = [
        evaluate(model, data, options=replace(options, questions_per_batch=n), out=tmp_path / str(n)).predictions["k8"]
        for n in (1, 32)
    ]
    alone, together = map(read_predictions, files)
    assert [p.prediction for p in alone] == [p.prediction for p in together]
    assert [p.confidence for p in alone] == pytest.approx([p.confidence for p in together], abs=1e-4)


def test_the_prompt_is_what_is_asked(model, data, options, tmp_path, monkeypatch):
    asked = []
    ask = model.compress(data.samples[0].media[0].path, num_frames=NUM_FRAMES).__class__.ask
    monkeypatch.setattr(
        "voco_video.api.CompressedVideo.ask", lambda self, q, **kw: asked.extend(q) or ask(self, q, **kw)
    )
    prompt = "{question} Answer in a word."
    result = evaluate(model, data, options=replace(options, prompt=prompt), out=tmp_path)
    questions = [turn.question for sample in data.samples for turn in sample.turns]
    assert asked == [f"{question} Answer in a word." for question in questions]
    assert sorted(p.question for p in read_predictions(result.predictions["k8"])) == sorted(questions)


def test_a_sweep_answers_from_one_cache_what_single_runs_answer(model, data, options, tmp_path):
    num_entries = len(model.cache.entries())
    fewer = replace(options, num_frames=2)
    result = evaluate(model, data, options=replace(fewer, num_voco_tokens=(1, 8, 2)), out=tmp_path / "sweep")
    assert len(model.cache.entries()) == num_entries + len(data.samples)
    assert list(result.predictions) == ["k1", "k8", "k2"]
    single = evaluate(model, data, options=replace(fewer, num_voco_tokens=(2,)), out=tmp_path / "single")
    assert result.predictions["k2"].read_bytes() == single.predictions["k2"].read_bytes()
    assert result.predictions["k1"].read_bytes() != single.predictions["k2"].read_bytes()
    assert len(model.cache.entries()) == num_entries + len(data.samples)


@pytest.mark.parametrize(("compressor", "name"), [("none", "none"), ("pool:4", "pool-4"), ("full", "full")])
def test_other_compressors_have_files_of_their_own(model, data, options, tmp_path, compressor, name):
    result = evaluate(model, data, options=replace(options, compressor=compressor, limit=3), out=tmp_path)
    assert result.predictions == {name: tmp_path / f"predictions-{name}.jsonl"}
    assert len(read_predictions(tmp_path / f"predictions-{name}.jsonl")) == 3


def test_ranks_are_those_of_the_ranker(model, shapes, data, options, tmp_path):
    vocabulary = answer_vocabulary(load_dataset("msvd", shapes, split="val"), 12)
    result = evaluate(model, data, options=replace(options, vocabulary=vocabulary, limit=12), out=tmp_path)
    ranker = Ranker.of(model.voco, vocabulary)
    predictions = read_predictions(result.predictions["k8"])
    path_of = {sample.name: sample.media[0].path for sample in data.samples}
    for one in predictions:
        prefix = model.compress(path_of[one.video], num_frames=NUM_FRAMES).prefix()
        assert one.in_vocabulary == (one.answer in vocabulary)
        assert one.vocabulary_rank == ranker.rank(prefix, one.question, one.answer)
    assert {one.in_vocabulary for one in predictions} == {True, False}


# --- doing things once


def test_a_second_run_does_nothing(model, data, options, tmp_path, monkeypatch):
    first = evaluate(model, data, options=options, out=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 3
    forbid(monkeypatch, "voco_video.compress.open_video", "voco_video.model.voco.VocoModel.vision_tokens")
    forbid(monkeypatch, "voco_video.answer.generate.generate", "voco_video.evaluate.answering.compress")
    second = evaluate(model, data, options=options, out=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert (first.num_resumed, second.num_resumed) == (0, data.num_questions)


def test_killed_while_publishing(model, data, options, whole, tmp_path, monkeypatch):
    """Before the predictions, between them and their run info, and before the parts are gone."""
    for step in ("write_predictions", "write_run_info", "fsync_directory"):
        with monkeypatch.context() as patch:
            patch.setattr(f"voco_video.evaluate.run_folder.{step}", interrupt_unless_begun)
            with pytest.raises(KeyboardInterrupt):
                evaluate(model, data, options=options, out=tmp_path / step)
        result = evaluate(model, data, options=options, out=tmp_path / step)
        assert result.predictions["k8"].read_bytes() == whole
        assert result.num_resumed == data.num_questions
        assert read_run_info(result.predictions["k8"])["is_finished"] is True
        assert sorted(p.name for p in (tmp_path / step).iterdir()) == [
            "predictions-k8.basis.json",
            "predictions-k8.jsonl",
            "predictions-k8.run.json",
        ]
        assert basis_bytes(tmp_path / step) == basis_bytes(tmp_path / "whole")


def interrupt_unless_begun(path: Path, value: Any = None) -> None:
    """The run info is written once at the beginning too."""
    if isinstance(value, dict) and not value["is_finished"]:
        write_run_info(path, value)
        return
    raise KeyboardInterrupt


def test_with_a_full_cache_nothing_is_decoded_or_compressed(model, data, options, whole, tmp_path, monkeypatch):
    forbid(monkeypatch, "voco_video.compress.open_video", "voco_video.model.voco.VocoModel.vision_tokens")
    forbid(monkeypatch, "voco_video.model.voco.VocoModel.compress")
    again = evaluate(model, data, options=options, out=tmp_path / "again")
    assert again.predictions["k8"].read_bytes() == whole
    assert basis_bytes(tmp_path / "again") == basis_bytes(tmp_path / "whole")


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(model, data, options, whole, tmp_path, monkeypatch):
    """Stopped at every video in turn, before, inside and after the write."""
    append = RankFile.append
    countdown = 0

    def fragile(self: RankFile, predictions: list[Prediction]) -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            self.file.write(predictions[0].json_line().encode() + b"\n" + predictions[1].json_line().encode()[:70])
            self.file.flush()
            raise KeyboardInterrupt
        append(self, predictions)

    monkeypatch.setattr(RankFile, "append", fragile)
    reports: list[EvalProgress] = []
    for stop in (1, 3, 2, 1):
        countdown = stop
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, data, options=options, out=tmp_path / "run", on_progress=reports.append)
        assert not (tmp_path / "run" / "predictions-k8.jsonl").exists()
        assert not RunFiles(tmp_path / "run", num_voco_tokens=8).is_finished
    result = evaluate(model, data, options=options, out=tmp_path / "run", on_progress=reports.append)
    assert result.predictions["k8"].read_bytes() == whole
    assert basis_bytes(tmp_path / "run") == basis_bytes(tmp_path / "whole")
    assert result.num_resumed == 3 * 5, "0 + 2 + 1 + 0 videos of 5 questions were whole"
    assert not (tmp_path / "run" / "parts").exists()
    assert next(report.num_answers for report in reports if report.num_resumed == 15) == 15
    assert reports[-1].num_answers == reports[-1].total_answers == data.num_questions


def test_the_result_says_what_was_compressed_and_what_was_cached(model, data, options, tmp_path):
    some = replace(options, limit=3)
    one = evaluate(model, data, options=some, out=tmp_path / "one")
    two = evaluate(model, data, options=some, out=tmp_path / "two")
    paths = [video.path for video in choose_questions(data, some)]
    frames = sum(compress(model, path, some).num_frames for path in paths)
    assert one.num_frames == two.num_frames == frames > 0
    assert one.num_compressed + one.num_cached == len(paths)
    assert (two.num_compressed, two.num_cached) == (0, len(paths))
    again = evaluate(model, data, options=some, out=tmp_path / "two")
    assert (again.num_frames, again.num_compressed, again.num_cached) == (0, 0, 0), "all was answered already"


def test_a_run_in_parts_of_other_processes_goes_on(model, data, options, whole, tmp_path):
    """What three processes left, one finishes; a video that two of them answered counts once."""
    lines = whole.splitlines(keepends=True)
    (tmp_path / "run").mkdir()
    evaluate(model, data, options=options, out=tmp_path / "run")
    (tmp_path / "run" / "predictions-k8.jsonl").unlink()
    parts = tmp_path / "run" / "parts"
    parts.mkdir()
    (parts / "k8-0001.jsonl").write_bytes(b"".join(lines[:11]) + lines[11][:40])
    (parts / "k8-0002.jsonl").write_bytes(b"".join(lines[5:20]))
    (parts / "k8-0000.jsonl").write_bytes(lines[30][:30])
    result = evaluate(model, data, options=options, out=tmp_path / "run")
    assert result.predictions["k8"].read_bytes() == whole


def test_a_run_with_other_settings_is_refused(model, shapes, data, options, tmp_path):
    evaluate(model, data, options=options, out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for changed, message in (
        ({"num_frames": 4}, r"cache.sampling.num_frames 3 instead of 4"),
        ({"max_new_tokens": 7}, "max_new_tokens 6 instead of 7"),
        ({"limit": 4}, "limit None instead of 4"),
        ({"form": "kv"}, "cache.form 'embeds' instead of 'kv'"),
        ({"vocabulary": ("red",)}, "rank_vocabulary 0 instead of 1"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(model, data, options=replace(options, **changed), out=tmp_path)
    with pytest.raises(UsageError, match="split 'train' instead of 'val'"):
        evaluate(model, load_dataset("msvd", shapes, split="val"), options=options, out=tmp_path)
    other = load_model("voco-tiny", dtype="float32", cache_dir=model.cache.cache_dir)
    head = other.voco.backbone.hf_model.get_output_embeddings()
    head.weight.data *= 1.5  # compresses as before, and answers otherwise
    with pytest.raises(UsageError, match="answering_fingerprint"):
        evaluate(other, data, options=options, out=tmp_path)
    (tmp_path / "predictions-k8.run.json").unlink()
    with pytest.raises(DataError, match="without its run info"):
        evaluate(model, data, options=options, out=tmp_path)
    before.pop("predictions-k8.run.json")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_two_runs_into_one_folder_at_once_are_refused(model, data, options, tmp_path):
    run = RunFiles(tmp_path, num_voco_tokens=8)
    with run.rank_file(0), pytest.raises(UsageError, match="another process is evaluating"):
        evaluate(model, data, options=options, out=tmp_path)
    evaluate(model, data, options=options, out=tmp_path)


def test_a_damaged_part_is_named(model, data, options, tmp_path):
    evaluate(model, data, options=options, out=tmp_path)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "k8-0000.jsonl").write_text('{"video": 1}\n')
    with pytest.raises(DataError, match=r"k8-0000.jsonl.*remove the file"):
        evaluate(model, data, options=options, out=tmp_path)


# --- which questions


def test_limit_draws_the_same_questions_every_time(model, data, options, tmp_path):
    def drawn(out: str, **changes: Any) -> list[str]:
        few = replace(options, limit=7, **changes)
        return [
            p.question_id
            for p in read_predictions(evaluate(model, data, options=few, out=tmp_path / out).predictions["k8"])
        ]

    first = drawn("a")
    assert first == drawn("b")
    assert first != drawn("c", seed=1)
    order = [turn.question_id for _, turn in data.questions()]
    assert len(first) == 7
    assert first == sorted(first, key=order.index)
    assert first != order[:7]
    assert drawn("d", num_voco_tokens=(8,)) == first


def broken(data: Dataset, tmp_path: Path, *, missing: int = 0, undecodable: int = 1) -> Dataset:
    """The same questions; one video is gone, another is no video."""
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"no video at all")
    samples = list(data.samples)
    for place, path in ((missing, None), (undecodable, bad)):
        samples[place] = replace(samples[place], media=(Media("video", samples[place].name, path),))
    return replace(data, samples=tuple(samples))


def test_missing_and_undecodable_videos_are_listed_and_counted(model, data, options, whole, tmp_path, caplog):
    result = evaluate(model, broken(data, tmp_path), options=options, out=tmp_path / "run")
    gone, bad = (sample.name for sample in data.samples[:2])
    assert (result.missing, result.undecodable, result.num_questions) == ((gone,), (bad,), data.num_questions)
    assert f"{bad}: " in caplog.text
    info = read_run_info(result.predictions["k8"])
    assert (info["missing"], info["undecodable"]) == ([gone], [bad])
    assert info["num_questions"] == {"all": 40, "answered": 30, "missing": 5, "undecodable": 5}
    assert info["num_videos"] == {"all": 8, "answered": 6, "missing": 1, "undecodable": 1}
    found = read_predictions(result.predictions["k8"])
    assert len(found) == data.num_questions
    assert {p.status for p in found if p.video == gone} == {"missing"}
    assert {(p.status, p.prediction) for p in found if p.video == bad} == {("undecodable", None)}
    # Given again, what is there stays as it is, what was said about it too.
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    evaluate(model, broken(data, tmp_path), options=options, out=tmp_path / "run", facts={"command": "another"})
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    # Once they are there, they are asked about, and nothing else is.
    done = evaluate(model, data, options=options, out=tmp_path / "run")
    assert (done.num_resumed, done.missing, done.undecodable) == (30, (), ())
    assert done.predictions["k8"].read_bytes() == whole
    assert basis_bytes(tmp_path / "run") == basis_bytes(tmp_path / "whole")


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_a_question_that_is_too_long_counts_as_wrong_and_the_others_are_answered(
    model, data, options, whole, tmp_path, caplog, batch
):
    first = data.samples[0]
    long = replace(first.turns[1], question="what moves " * 20000)
    samples = (replace(first, turns=(first.turns[0], long, *first.turns[2:])), *data.samples[1:])
    result = evaluate(
        model, replace(data, samples=samples), options=replace(options, questions_per_batch=batch), out=tmp_path / "run"
    )
    found = by_id(result.predictions["k8"])
    assert len(found) == data.num_questions
    assert found[long.question_id].prediction == ""
    assert "but the model reads" in caplog.text
    expected = by_id(tmp_path / "whole" / result.predictions["k8"].name)
    assert {i: p.prediction for i, p in found.items() if i != long.question_id} == {
        i: p.prediction for i, p in expected.items() if i != long.question_id
    }


def test_skip_missing_draws_from_what_is_there(model, data, options, tmp_path):
    few = replace(options, limit=20)
    incomplete = broken(data, tmp_path)
    all_of_them = evaluate(model, incomplete, options=few, out=tmp_path / "all")
    present = evaluate(model, incomplete, options=replace(few, skip_missing=True), out=tmp_path / "present")
    assert all_of_them.missing == (data.samples[0].name,)
    assert present.missing == ()
    assert len(read_predictions(present.predictions["k8"])) == 20
    nothing = replace(incomplete, samples=incomplete.samples[:1])
    with pytest.raises(DataError, match="no question about a video that is there"):
        evaluate(model, nothing, options=replace(few, skip_missing=True), out=tmp_path / "none")


def test_faults_that_are_not_the_videos_stop_the_run(model, data, options, tmp_path, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise CacheError("no space left")

    monkeypatch.setattr("voco_video.api.compress_video", full)
    with pytest.raises(CacheError, match="no space left"):
        evaluate(model, data, options=options, out=tmp_path)
    monkeypatch.setattr("voco_video.api.compress_video", compress_video)
    evaluate(model, data, options=options, out=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 0}, "limit=0"),
        ({"questions_per_batch": 33}, "questions_per_batch=33"),
        ({"prompt": "what?"}, "prompt='what\\?'"),
        ({"num_voco_tokens": (1, 1)}, "twice"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"num_frames": 0}, "num_frames"),
        ({"fps": 1.0}, "fps"),
        ({"compressor": "zip"}, "compressor='zip'"),
    ],
)
def test_options_that_cannot_be(options, changes, message):
    with pytest.raises(UsageError, match=message):
        replace(options, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_voco_tokens": (9,)}, "num_voco_tokens=9"), ({"num_voco_tokens": (1,), "compressor": "full"}, "is for")],
)
def test_budgets_that_the_model_does_not_have(model, data, options, changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        evaluate(model, data, options=replace(options, **changes), out=tmp_path)


def test_only_questions_about_one_video(model, data, options, tmp_path):
    sample = replace(data.samples[0], media=data.samples[0].media * 2)
    with pytest.raises(DataError, match="not about one video"):
        evaluate(model, replace(data, samples=(sample,)), options=options, out=tmp_path)
