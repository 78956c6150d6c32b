"""What a score rests on, as evaluation writes it down: the frames, their pixels, and the words that the model read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3

from tests.helpers.tiny_families import tiny_family
from voco_video import stored_tokens
from voco_video.api import VideoModel, load_model
from voco_video.data.registry import load_dataset
from voco_video.data.samples import Dataset
from voco_video.evaluate import EvalOptions, evaluate
from voco_video.evaluate.plan import VideoQuestions
from voco_video.evaluate.seen import FRAMES, bases_of, frames_seen, words_read
from voco_video.model.tokens import VocoTokens
from voco_video.options.answering import ViewOptions
from voco_video.options.sampling import Sampling
from voco_video.scoring.basis import Basis, basis_path, digest_of, read_basis
from voco_video.shapes.write_dataset import write_dataset
from voco_video.video.frames import FrameGroups
from voco_video.video.reading import read_frames


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = write_dataset(
        tmp_path_factory.mktemp("sets") / "shapes", layout="msvd", num_videos=8, questions_per_video=3, size=64
    )
    return load_dataset("msvd", root, split="train")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    return load_model("voco-tiny", dtype="float32", cache_dir=tmp_path_factory.mktemp("frames"))


def basis_of(model: VideoModel, data: Dataset, out: Path, **options: object) -> Basis:
    result = evaluate(model, data, options=EvalOptions(num_frames=3, max_new_tokens=4, **options), out=out)
    return read_basis(next(iter(result.predictions.values())))


def digest_of_pixels(model: VideoModel, path: Path, num_frames: int, frames: list[int]) -> str:
    """The slow, obvious way: read the frames again, and hash them one by one."""
    fit = model.voco.backbone.images.fit
    pixels = read_frames(path, Sampling(num_frames=num_frames), fit=fit).pixels
    whole = b"".join(blake3(pixels[frame].tobytes()).digest(16) for frame in frames)
    return blake3(whole).hexdigest(length=16)


def test_every_question_has_its_frames_pixels_and_prompt(model, data, tmp_path):
    basis = basis_of(model, data, tmp_path, prompt="{question} Say it.", num_voco_tokens=(4,))
    assert sorted(basis.view_of) == sorted(turn.question_id for _, turn in data.questions())
    for sample, turn in data.questions():
        seen, path = basis.seen_by(turn.question_id), sample.media[0].path
        assert seen is not None
        expected = read_frames(path, Sampling(num_frames=3)).pts_seconds.tolist()
        assert (seen.video, seen.source, seen.times) == (sample.name, str(path), tuple(expected))
        assert seen.file == blake3(path.read_bytes()).hexdigest()
        assert seen.pixels == digest_of_pixels(model, path, 3, [0, 1, 2])
        assert (seen.frame_size, seen.vision_tokens, seen.seen_tokens) == ((64, 64), 64, 3 * 4)
        assert basis.prompt_of[turn.question_id] == digest_of(f"{turn.question} Say it.")
    assert len(basis.views) == len(data.samples), "once for equal frames"
    assert set(basis.examples) == {turn.question_type for _, turn in data.questions()}, "once for each type"
    first = next(turn for _, turn in data.questions())
    example = basis.examples[first.question_type]
    assert example.asked == f"{first.question} Say it."
    assert example.told == f"{FRAMES}USER: {example.asked} ASSISTANT:"


def test_only_the_frames_that_a_question_saw_count(model, data):
    path = data.samples[0].media[0].path
    video = model.compress(path, num_frames=5)
    selection = video.view("which?", num_voco_tokens=8, options=ViewOptions(max_voco_tokens=16, policy="recent"))
    seen = frames_seen(video, selection, name="it")
    assert seen.times == tuple(video.pts_seconds[3:])
    assert seen.pixels == digest_of_pixels(model, path, 5, [3, 4]) != digest_of_pixels(model, path, 5, [2, 3])
    assert frames_seen(video[video.pts_seconds[3] :], video[video.pts_seconds[3] :].view(), name="it") == seen


@pytest.mark.one_in(3)
@pytest.mark.parametrize("changes", [{"storage": "int8"}, {"form": "kv"}, {"compressor": "pool:4"}])
def test_pixels_do_not_depend_on_what_is_kept_of_them(model, data, changes):
    video = model.compress(data.samples[0].media[0].path, num_frames=3, **changes)
    seen = frames_seen(video, video.view("what?"), name="it")
    assert seen.pixels == digest_of_pixels(model, data.samples[0].media[0].path, 3, [0, 1, 2])
    assert video.ask("what is it?", max_new_tokens=2).text


def test_a_search_sees_all_frames_and_reads_no_prompt(model, data):
    sample = data.samples[0]
    video = model.compress(sample.media[0].path, num_frames=5)
    questions = VideoQuestions(sample.name, sample.media[0].path, sample.turns)
    options = EvalOptions(answer_by="find", max_voco_tokens=16, prompt="when: {question}")
    (seen,), asked = bases_of(video, None, questions, options)
    assert seen.times == tuple(video.pts_seconds)
    assert seen.seen_tokens == 5 * 8
    assert [(one.asked, one.told) for one in asked] == [(turn.question, "") for turn in sample.turns]


@pytest.mark.exhaustive
def test_answers_without_frames_rest_on_none(model, data, tmp_path):
    basis = basis_of(model, data, tmp_path, compressor="none")
    assert {(s.times, s.pixels, s.frame_size, s.seen_tokens) for s in basis.views.values()} == {((), None, None, 0)}
    assert all(FRAMES not in one.told and one.asked in one.told for one in basis.examples.values())


def test_entries_from_before_there_were_digests_are_not_known(model, data, tmp_path, monkeypatch):
    """They answer as before; an interrupted one goes on without digests."""
    old = load_model("voco-tiny", dtype="float32", cache_dir=tmp_path / "old")
    with monkeypatch.context() as patch:
        patch.setattr(stored_tokens, "stored_frames", None)
        patch.setattr(
            "voco_video.compress.stored_frames", lambda t, _, storage, earlier: stored_tokens.stored_tensors(t, storage)
        )
        basis = basis_of(old, data, tmp_path / "run")
    assert {seen.pixels for seen in basis.views.values()} == {None}
    again = basis_of(old, data, tmp_path / "again")
    assert again.views == basis.views
    known = basis_of(model, data, tmp_path / "known")
    without = [replace(seen, pixels=None) for seen in known.views.values()]
    assert without == list(basis.views.values())
    entry = old.compress(data.samples[0].media[0].path, num_frames=3).parts[0].entry
    tokens = stored_tokens.read_tokens(entry)
    frames = read_frames(data.samples[0].media[0].path, Sampling(num_frames=3), fit=old.voco.backbone.images.fit)
    goes_on = stored_tokens.stored_frames(tokens, frames, "native", earlier=entry.tensors)
    assert set(goes_on) == set(entry.tensors)
    assert set(stored_tokens.stored_frames(tokens, frames, "native", earlier={})) - set(goes_on) == {"pixels_blake3"}


def test_merged_pictures_are_digested_together():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 6, 3), np.uint8)
    groups = FrameGroups(pixels, np.arange(6.0).reshape(3, 2))
    tokens = VocoTokens("embeds", embeds=torch.zeros(3, 1, 8))
    stored = stored_tokens.stored_frames(tokens, groups, "native", earlier={})["pixels_blake3"]
    assert stored.shape == (3, 1, 16)
    assert [bytes(row[0].tolist()) for row in stored] == [blake3(group.tobytes()).digest(16) for group in pixels]


def test_words_of_a_model_whose_frames_stand_among_words():
    told = words_read(tiny_family("internvl", as_trained=True).backbone, " Who runs?", has_frames=True)
    assert told == f"user: {FRAMES}\nWho runs?\nassistant:"


@pytest.mark.exhaustive
def test_the_file_is_a_list_that_any_program_reads(model, data, tmp_path):
    basis_of(model, data, tmp_path)
    rows = json.loads(basis_path(tmp_path / "predictions-k8.jsonl").read_text())
    views = {row["view"] for row in rows if "times" in row}
    assert {row["view"] for row in rows if "prompt" in row} == views
