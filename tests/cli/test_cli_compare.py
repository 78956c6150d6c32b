"""`voco-video compare` says what runs rest on before it shows points: two that differ in one setting are told apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.drawn_texts import drawn_by_pil
from tests.helpers.tiny_families import tiny_family
from voco_video.api import VideoModel, load_model
from voco_video.cache import FrameCache
from voco_video.data.registry import load_dataset
from voco_video.data.samples import Dataset
from voco_video.evaluate import EvalOptions, evaluate
from voco_video.model.families.family import AnyShape
from voco_video.scoring.predictions import read_predictions, run_info_path, write_predictions
from voco_video.shapes.write_dataset import write_dataset

Run = Callable[..., tuple[int, str, str]]
BASE = EvalOptions(num_frames=3, max_new_tokens=4, num_voco_tokens=(4,), limit=6)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(
        tmp_path_factory.mktemp("sets") / "shapes", layout="msvd", num_videos=8, questions_per_video=2, size=64
    )


@pytest.fixture(scope="module")
def data(root: Path) -> Dataset:
    return load_dataset("msvd", root, split="train")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    return load_model("voco-tiny", dtype="float32", cache_dir=tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def first(model: VideoModel, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answered(model, data, tmp_path_factory.mktemp("run") / "first", BASE)


def answered(model: VideoModel, data: Dataset, out: Path, options: EvalOptions) -> Path:
    result = evaluate(model, data, options=options, out=out, facts={"model": "voco-tiny"})
    return next(iter(result.predictions.values()))


def differing(run: Run, *paths: Path) -> dict[str, list[str]]:
    """What the command says that runs differ in, with each run's value."""
    code, out, err = run("compare", *paths, "--json")
    assert code == 0, err
    return {t["name"]: t["values"] for t in json.loads(out)["traits"] if t["state"] == "differs"}


# --- one setting each


def test_equal_runs_differ_in_nothing(run, model, data, first, tmp_path):
    assert differing(run, first, answered(model, data, tmp_path / "other", BASE)) == {}
    code, out, _ = run("compare", first, tmp_path / "other/predictions-k4.jsonl")
    assert code == 0
    assert "The runs differ in nothing that was written down of them all." in out
    assert "No run has a report with a judge beside it." in out


def test_frames(run, model, data, first, tmp_path):
    other = answered(model, data, tmp_path / "other", replace(BASE, num_frames=2))
    found = differing(run, first, other)
    assert set(found) == {"frames sampled", "times of the frames", "tokens that a question saw"}
    assert [value.split(" (")[0] for value in found["times of the frames"]] == ["3 frames", "2 frames"]
    assert found["tokens that a question saw"] == ["12 tokens", "8 tokens"]
    code, out, _ = run("compare", first, other)
    assert code == 0
    assert out.index("times of the frames (6 of 6 questions)") < out.index("exact match %"), "before the points"
    assert "Not known" not in out, "pixels of other frames are none of the same frames"


def test_size_of_the_frames(run, data, tmp_path):
    """A model that takes pictures of any shape, with two limits on their area."""
    files = []
    for most_pixels in (2048, 1024):
        voco = tiny_family("qwen2_5_vl", as_trained=True)
        images = replace(voco.backbone.images, any_shape=AnyShape(8, 64, most_pixels))
        voco.backbone = replace(voco.backbone, images=images)
        sized = VideoModel(voco, FrameCache(tmp_path / "cache"))
        options = replace(BASE, num_voco_tokens=(), compressor="pool:4", limit=2, max_new_tokens=2)
        files.append(answered(sized, data, tmp_path / str(most_pixels), options))
    found = differing(run, *files)
    assert found["size of the frames"] == ["40 x 40", "32 x 32"]
    assert found["vision tokens of a frame"] == ["25 tokens", "16 tokens"]
    assert found["pictures fitted to the model"] == ["most_pixels 2048", "most_pixels 1024"]
    assert set(found) <= {"size of the frames", "vision tokens of a frame", "pictures fitted to the model", "weights"}


def test_prompt(run, model, data, first, tmp_path):
    other = answered(model, data, tmp_path / "other", replace(BASE, prompt="{question} Say it in a word."))
    assert differing(run, first, other) == {"prompt": ["{question}", "{question} Say it in a word."]}
    assert "prompt (6 of 6 questions)" in run("compare", first, other)[1]


def test_tokens_of_a_frame(run, model, data, first, tmp_path):
    other = answered(model, data, tmp_path / "other", replace(BASE, num_voco_tokens=(2,)))
    assert differing(run, first, other) == {
        "tokens kept of a frame (k)": ["4", "2"],
        "tokens that a question saw": ["12 tokens", "6 tokens"],
    }


@pytest.mark.exhaustive
def test_compressor_and_form(run, model, data, first, tmp_path):
    other = answered(model, data, tmp_path / "pool", replace(BASE, compressor="pool:4", num_voco_tokens=()))
    found = differing(run, first, other)
    assert found["compressor"] == ["voco", "pool:4"]
    kv = answered(model, data, tmp_path / "kv", replace(BASE, form="kv"))
    assert differing(run, first, kv) == {"form, type and storage": ["form embeds", "form kv"]}


@pytest.mark.exhaustive
def test_weights(run, model, data, first, tmp_path):
    other = load_model("voco-tiny", dtype="float32", cache_dir=model.cache.cache_dir)
    other.voco.backbone.hf_model.get_output_embeddings().weight.data *= 1.5
    found = differing(run, first, answered(other, data, tmp_path / "other", BASE))
    assert list(found) == ["weights"]
    assert found["weights"][0] != found["weights"][1]


@pytest.mark.exhaustive
def test_frames_chosen_for_a_question(run, model, data, first, tmp_path):
    other = answered(model, data, tmp_path / "other", replace(BASE, max_voco_tokens=8, policy="recent"))
    found = differing(run, first, other)
    assert set(found) == {"frames chosen for a question", "times of the frames", "tokens that a question saw"}
    assert found["frames chosen for a question"][1] == "policy recent, max_voco_tokens 8"


@pytest.mark.exhaustive
def test_pixels_of_another_file(run, model, data, first, root, tmp_path):
    """The same clips, encoded anew: the same times and sizes, other pixels."""
    again = write_dataset(tmp_path / "shapes", layout="msvd", num_videos=8, questions_per_video=2, size=32)
    found = differing(run, first, answered(model, load_dataset("msvd", again, split="train"), tmp_path / "o", BASE))
    assert set(found) == {"video files", "pixels of the same frames"}


@pytest.mark.exhaustive
def test_engine(run, model, data, first, tmp_path):
    other = answered(model, data, tmp_path / "other", BASE)
    info = json.loads(run_info_path(other).read_text())
    info["versions"]["torch"], info["engine"] = "9.9", "vllm 0.32 at http://localhost:8000"
    run_info_path(other).write_text(json.dumps(info))
    found = differing(run, first, other)
    assert list(found) == ["engine"]
    assert "torch 9.9" in found["engine"][1]
    assert "vllm 0.32" in found["engine"][1]
    assert "machine" not in found["engine"][0], "only what differs"


def test_judge(run, model, data, first, tmp_path):
    pytest.importorskip("openai", reason="the judge's client library is not installed (extra judge)")
    from tests.helpers.judge_server import YES, serve

    other = answered(model, data, tmp_path / "other", BASE)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Grade.\n---\n{question}|{answer}|{prediction}")
    with serve(lambda *_: YES) as server:
        for path, judge, more in ((first, "one", ()), (other, "two", ("--judge-prompt", prompt))):
            stem = path.with_name(f"{path.stem}.scores")
            command = ("score", path, "--judge-model", judge, "--judge-base-url", server.base_url, "--out", stem, *more)
            assert run(*command)[0] == 0
            if path == first:
                (judged,) = differing(run, first, other).values()
                assert judged[1] is None
                assert "nobody" in run("compare", first, other)[1]
    (judges,) = differing(run, first, other).values()
    assert judges[0].startswith("model one, prompt voco-video, prompt_hash ")
    assert judges[1].startswith("model two, prompt given, prompt_hash ")
    for suffix in ("json", "md", "png", "verdicts.jsonl"):
        first.with_name(f"{first.stem}.scores.{suffix}").unlink()


# --- others' predictions


def test_another_harness_s_predictions_are_compared_on_what_they_have(run, model, data, first, root, tmp_path):
    rows = read_predictions(first)
    theirs = tmp_path / "theirs.json"
    theirs.write_text(json.dumps({one.question_id: "red" for one in rows}))
    references = ("--references", "msvd", "--root", root, "--split", "train")
    code, out, err = run("compare", first, theirs, *references)
    assert code == 0, err
    assert f"Nobody wrote down what {tmp_path.name}/theirs rests on." in out
    assert "exact match %" in out
    code, out, err = run("compare", first, theirs, *references, "--json")
    assert {t["state"] for t in json.loads(out)["traits"]} == {"not known"}


@pytest.mark.exhaustive
def test_runs_from_before_there_was_a_basis(run, model, data, first, tmp_path):
    """Their settings are known, their frames are not."""
    old = tmp_path / "old.jsonl"
    write_predictions(old, read_predictions(first))
    run_info_path(old).write_text(run_info_path(first).read_text())
    code, out, _ = run("compare", first, old)
    assert code == 0
    assert (
        "Not known of test_runs_from_before_there_wa0/old: video files, times of the frames, size of the frames"
        in " ".join(out.split())
    )
    assert "The same in all runs: data set, frames sampled" in " ".join(out.split())


@pytest.mark.exhaustive
def test_a_damaged_basis_is_named(run, model, data, first, tmp_path):
    other = answered(model, data, tmp_path / "other", BASE)
    basis = other.with_suffix(".basis.json")
    good = json.loads(basis.read_text())
    for wrong in ([{**good[0], "times": "all"}], [{**good[0], "frame_size": 3}], [{"asked": 3}], ["x"], {"a": 1}):
        basis.write_text(json.dumps(wrong))
        code, _, err = run("compare", first, other)
        assert code == 1
        assert str(basis) in err
        assert "Traceback" not in err
    basis.write_text('[{"times')
    assert run("compare", first, other)[0] == 1


# --- one question laid open


def test_explain_prints_the_prompt_and_both_answers_and_draws_the_frames(run, model, data, first, tmp_path):
    prompted = replace(BASE, prompt="{question} Say it.", num_frames=2)
    other = answered(model, data, tmp_path / "other", prompted)
    for one, two in list(zip(read_predictions(first), read_predictions(other), strict=True))[::3]:
        code, out, err = run("compare", first, other, "--explain", one.question_id)
        assert code == 0, err
        assert f"<frames>USER: {one.question} ASSISTANT:" in out
        assert f"<frames>USER: {one.question} Say it. ASSISTANT:" in out
        assert f"reference answer: {one.answer}" in out
        for answer in (one, two):
            verdict = "right" if answer.prediction == answer.answer else "wrong"
            assert f": {answer.prediction} ({verdict}, confidence {answer.confidence:.0%})" in out
        assert "frames: 3 of 64 x 64 pixels, 12 tokens, at " in out
        with Image.open(tmp_path / f"explain-{one.question_id}.png") as picture:
            assert picture.width == 800
    code, out, err = run("compare", first, other, "--explain", one.question_id, "--out", tmp_path / "a/sheet", "--json")
    explained: dict[str, Any] = json.loads(out)
    assert explained["picture"] == str(tmp_path / "a/sheet.png")
    assert [run_["asked"] for run_ in explained["runs"]] == [one.question, f"{one.question} Say it."]


def test_explain_without_a_basis_and_without_the_video(run, model, data, first, root, tmp_path):
    from voco_video.evaluate.explaining import explain, explained_picture
    from voco_video.scoring.basis import Basis, read_basis

    one = read_predictions(first)[0]
    basis = read_basis(first)
    seen = basis.views[basis.view_of[one.question_id]]
    gone = replace(seen, source=str(tmp_path / "gone.avi"))
    changed = replace(seen, source=str(first))
    for other, note in ((gone, "is not there any more"), (changed, "is another file by now")):
        found = replace(basis, views={basis.view_of[one.question_id]: other})
        with drawn_by_pil() as drawn:
            explained_picture(explain(one.question_id, {"run": [one]}, {"run": found}))
        assert note in " ".join(drawn.texts)
        assert not drawn.faults
    (bare,) = explain(one.question_id, {"theirs": [one]}, {"theirs": Basis()})
    assert (bare.asked, bare.told, bare.seen) == (None, None, None)
    code, out, err = run("compare", first, first.with_name("x.jsonl"), "--explain", "nobody")
    assert code == 2
    theirs = tmp_path / "theirs.jsonl"
    write_predictions(theirs, read_predictions(first))
    code, out, err = run("compare", first, theirs, "--explain", one.question_id)
    assert code == 0, err
    assert "frames: nobody wrote down which" in out
    assert "(nobody wrote it down)" in out
    code, _, err = run("compare", first, theirs, "--explain", "nobody")
    assert code == 2
    assert "has no question 'nobody'" in err


def test_a_prompt_that_does_not_have_its_digest_is_not_shown(first):
    from voco_video.evaluate.explaining import prompt_of
    from voco_video.scoring.basis import read_basis

    basis = read_basis(first)
    shown = {one.question_id for one in basis.examples.values()}
    other = next(p for p in read_predictions(first) if p.question_id not in shown)
    assert prompt_of(other, basis)[0] == other.question
    changed = replace(basis, prompt_of={**basis.prompt_of, other.question_id: "0" * 32})
    assert prompt_of(other, changed) == (None, None)
