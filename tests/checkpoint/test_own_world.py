"""Videos of something that a model was never trained on: noticed while compressing, or by stored tokens, and said."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import voco_video
from tests.helpers.clips import Clip
from tests.helpers.models import random_pixels, tiny_voco
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.foreign import MAX_FRAMES, counted, counted_by_tokens, foreign_note
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.world import (
    SHRINKAGE,
    VISION,
    Familiar,
    FrameCounts,
    World,
    stored_features,
    vision_features,
)
from voco_video.errors import ModelError
from voco_video.options.sampling import Sampling
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene
from voco_video.video.reading import read_frames

KEPT = [
    {"form": "kv"},
    {"form": "kv", "num_voco_tokens": 1},
    {"form": "kv", "storage": "int8"},
    {"form": "embeds"},
    {"form": "embeds", "num_voco_tokens": 1},
    {"form": "embeds", "storage": "int8"},
    {"compressor": "full"},
    {"compressor": "full", "form": "embeds"},
    {"compressor": "pool:4"},
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A test scene, and a video of black and white blocks."""
    folder = tmp_path_factory.mktemp("clips")
    own = write_clip(draw_scene(5, split="test", index=2), folder / "own.mp4", size=96)
    return own, Clip("other.mp4", num_frames=75).write(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> voco_video.VideoModel:
    return voco_video.load_model("voco-tiny", dtype="float32", cache_dir=tmp_path_factory.mktemp("cache"))


# ---------------------------------------------------------------------- the distance


def test_the_distance_is_mahalanobis_with_a_shrunk_correlation():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    rows, held_out, others = (torch.randn(n, 6, generator=generator) @ mixing + 3 for n in (500, 400, 20))
    familiar = Familiar.fit(rows, held_out, share=0.05)
    table = rows.double().numpy()
    scale = table.std(0, ddof=1)
    correlation = (1 - SHRINKAGE) * np.corrcoef(table.T) + SHRINKAGE * np.eye(6)
    inverse = np.linalg.inv(correlation * np.outer(scale, scale))
    offsets = others.double().numpy() - table.mean(0)
    expected = np.sqrt(np.einsum("fi,ij,fj->f", offsets, inverse, offsets) / 6)
    assert np.allclose(familiar.distances(others).numpy(), expected, rtol=0.01), "stored in 16 bits"
    beyond = (familiar.distances(held_out) > familiar.limit).float().mean()
    assert float(beyond) == pytest.approx(0.05, abs=0.005)


def test_a_feature_that_never_changes_takes_no_part_unless_it_does():
    rows = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 7.0
    familiar = Familiar.fit(rows, rows, share=0.0)
    assert torch.isfinite(familiar.distances(rows)).all()
    moved = rows[:1].clone()
    moved[0, 1] = 8.0
    assert float(familiar.distances(moved)) > familiar.limit


def test_frames_that_are_no_numbers_are_foreign():
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    world = World("dots", "0" * 64, {VISION: Familiar.fit(rows, rows, share=0.0)})
    rows[:10] = float("nan")
    assert world.count({VISION: rows}) == FrameCounts(50, 10)


@pytest.mark.parametrize(("counts", "is_foreign"), [((4, 2), False), ((4, 3), True), ((1, 1), True), ((9, 0), False)])
def test_most_frames_decide(counts, is_foreign):
    assert FrameCounts(*counts).is_foreign == is_foreign


@pytest.mark.parametrize(
    "fact", [None, 3, {}, {"num_frames": "4", "num_foreign": 2}, {"num_frames": 0, "num_foreign": 0}]
)
def test_a_fact_that_is_none_is_passed_over(fact):
    assert FrameCounts.of_fact(fact) is None


def test_the_first_token_of_keys_and_values_does_not_depend_on_how_many_follow():
    voco = tiny_voco()
    vision_tokens = voco.vision_tokens(random_pixels(3))
    one, four = (stored_features(voco.compress(vision_tokens, num_voco_tokens=k))["kv"] for k in (1, 4))
    assert torch.allclose(one, four, atol=1e-5)
    kinds = stored_features(voco.compress(vision_tokens, num_voco_tokens=3, form="embeds"))
    assert list(kinds) == ["embeds.2", "embeds.1"]


# ---------------------------------------------------------------------- the file


def test_a_saved_model_keeps_its_world_and_misses_it(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "copy")
    again = World.load(folder)
    assert "world.safetensors" in json.loads((folder / "voco_config.json").read_text())["files"]
    assert (again.about, again.model_fingerprint) == (model.world.about, model.fingerprint)
    for kind, one in model.world.familiar.items():
        assert torch.equal(one.whitening, again.familiar[kind].whitening)
        assert one.limit == again.familiar[kind].limit
    (folder / "world.safetensors").unlink()
    with pytest.raises(ModelError, match=r"world\.safetensors does not exist"):
        voco_video.load_model(folder)


@pytest.mark.parametrize("change", ["no vision", "shape", "metadata"])
def test_a_damaged_world_is_one_clear_error(change, tmp_path):
    folder = shutil.copytree(find_checkpoint("voco-tiny"), tmp_path / "copy")
    tensors, metadata = load_file(folder / "world.safetensors"), {"about": "x", "model_fingerprint": "y"}
    if change == "no vision":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("vision")}
    if change == "shape":
        tensors["kv.whitening"] = tensors["kv.whitening"][:5].contiguous()
    save_file(tensors, folder / "world.safetensors", metadata=None if change == "metadata" else metadata)
    with pytest.raises(ModelError, match=r"world\.safetensors does not say what the model was trained on"):
        voco_video.load_model(folder)


def test_weights_that_were_trained_further_do_not_claim_it(clips, tmp_path):
    model = voco_video.load_model("voco-tiny", dtype="float32", cache_dir=tmp_path / "cache")
    with torch.no_grad():
        model.voco.voco_embeds.mul_(1.01)
    video = model.compress(clips[1], num_frames=2)
    assert (model.world, video.foreign_note) == (None, "")
    assert "world" not in video.parts[0].entry.facts
    folder = model.save_pretrained(tmp_path / "trained")
    assert not (folder / "world.safetensors").exists()
    assert voco_video.load_model(folder).world is None


def test_sixteen_bits_see_the_same(clips, tmp_path):
    model = voco_video.load_model("voco-tiny", dtype="bfloat16", cache_dir=tmp_path)
    own, other = (model.compress(clip, fps=2).foreign_note for clip in clips)
    assert (own, other[:22]) == ("", "this model was trained")


# ---------------------------------------------------------------------- videos


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: " ".join(map(str, kept.values())))
def test_every_kind_of_entry_tells(model, clips, kept):
    own, other = (model.compress(clip, fps=2, **kept) for clip in clips)
    assert own.foreign_note == ""
    assert "6 of 6 frames" in other.foreign_note
    assert "smolvlm2-500m" in other.foreign_note
    opened = model.open(other.parts[0].entry.digest)
    assert opened.foreign_note == opened[1.0:].foreign_note == other.foreign_note


@pytest.mark.parametrize("kept", [*KEPT[:4], KEPT[5]], ids=lambda kept: " ".join(map(str, kept.values())))
def test_entries_of_earlier_versions_tell_by_their_tokens(model, clips, kept):
    for clip, is_foreign in zip(clips, (False, True), strict=True):
        entry = model.compress(clip, fps=2, **kept).parts[0].entry
        by_tokens = counted_by_tokens(model.world, entry)
        entry.facts.pop("world", None)
        assert counted(model.world, entry) == by_tokens
        assert by_tokens.is_foreign == is_foreign
        assert by_tokens.num_frames == min(entry.num_frames, MAX_FRAMES)


def test_nothing_is_said_of_frames_that_nobody_saw(model, clips):
    assert model.compress(clips[1], compressor="none").foreign_note == ""
    entry = model.compress(clips[1], fps=2, compressor="pool:4").parts[0].entry
    assert counted_by_tokens(model.world, entry) is None


def test_the_recorded_number_is_that_of_one_pass(model, clips):
    video = model.compress(clips[1], fps=3, batch_size=2, force=True)
    pixels = read_frames(clips[1], Sampling(fps=3), fit=model.voco.backbone.images.fit).pixels
    with torch.inference_mode():
        features = vision_features(model.voco.vision_tokens(pixels))
    expected = model.world.count({VISION: features})
    assert video.parts[0].entry.facts["world"] == expected.as_fact()


def test_videos_that_are_joined_say_how_many(model, clips):
    own, other = (model.compress(clip, fps=2) for clip in clips)
    assert "6 of 6 frames in 1 of 2 videos" in voco_video.concat([own, other]).foreign_note
    assert voco_video.concat([own, own]).foreign_note == ""
    assert foreign_note(model.world, []) == ""


def test_answers_and_streams_say_it_first(model, clips, caplog):
    own, other = (model.compress(clip, fps=2) for clip in clips)
    answer = other.ask("what is it?", max_new_tokens=1)
    assert answer.is_foreign
    assert answer.note.startswith(other.foreign_note)
    assert not own.ask("what is it?", max_new_tokens=1).is_foreign
    list(other.stream("what is it?", max_new_tokens=1))
    assert other.foreign_note in caplog.text


def test_a_followed_source_is_counted_over_all_runs(model, clips):
    counts = []
    for _ in range(2):
        with model.open_stream(clips[1], fps=1, name="blocks", idle_seconds=0.1, starts_over=False) as stream:
            list(stream)
        counts.append(FrameCounts.of_fact(stream.entry.facts["world"]))
        assert counts[-1].num_frames == stream.entry.num_frames
    assert counts[0] + counts[0] == counts[1]
    assert stream.video.foreign_note


def test_a_model_without_such_a_file_says_nothing(model, clips):
    plain = dataclasses.replace(model, trained_on=None)
    video = plain.compress(clips[1], num_frames=3)
    assert "world" not in video.parts[0].entry.facts
    assert video.foreign_note == ""
    assert CompressedVideo(model, video.parts).foreign_note, "its tokens tell"


def test_real_footage_is_noticed(model, shared):
    found = {}
    for path in sorted((shared / "clips").rglob("*")):
        if path.suffix in (".mp4", ".mkv", ".webm", ".mov") and "faults" not in path.parts:
            found[path.name] = bool(model.compress(path, num_frames=2).foreign_note)
    assert len(found) >= 16
    assert all(found.values()), found


# ---------------------------------------------------------------------- the command line


def test_ask_says_so_in_place_of_an_answer(run, clips):
    own, other = clips
    code, out, _ = run("ask", other, "what is it?", "who moves?")
    assert code == 1
    assert out.startswith("no answer: this model was trained on MovingShapes")
    assert f"voco-video ask {other} 'what is it?' 'who moves?' --model smolvlm2-500m" in out
    code, out, _ = run("ask", other, "what is it?", "--json")
    (answer,) = json.loads(out)["answers"]
    assert (code, answer["answer"], answer["confidence"], answer["is_foreign"]) == (1, None, None, True)
    code, out, _ = run("ask", other, "what is it?", "--anyway")
    assert code == 0
    assert out.startswith("this means nothing: this model was trained on")
    assert "confidence" not in out
    code, out, _ = run("ask", other, "what is it?", "--anyway", "--json")
    (answer,) = json.loads(out)["answers"]
    assert (code, answer["confidence"], answer["is_foreign"], bool(answer["answer"])) == (0, None, True, True)
    code, out, _ = run("ask", own, "who moves?", "--json")
    (answer,) = json.loads(out)["answers"]
    assert (code, answer["is_foreign"]) == (0, False)
    assert answer["confidence"] > 0


def test_chat_about_such_a_video_begins_with_it(run, clips):
    code, out, _ = run("ask", clips[1], "--chat")
    assert code == 1
    assert "no answer" in out
    assert out.rstrip().endswith("--chat --model smolvlm2-500m")


def test_find_shows_no_score_that_means_nothing(run, clips):
    code, out, err = run("find", *clips, "the red star", "--num-moments", "20")
    assert code == 0
    assert f"note: scores of {clips[1].name} mean nothing: this model was trained on" in " ".join(err.split())
    lines = [line for line in out.splitlines() if clips[1].name in line]
    assert lines
    assert all("–" in line and "likely" not in line for line in lines)
    assert all("likely" in line for line in out.splitlines() if clips[0].name in line)
    moments = json.loads(run("find", *clips, "the red star", "--json", "--num-moments", "20")[1])["moments"]
    assert {(Path(m["path"]).name, m["is_foreign"]) for m in moments} == {("own.mp4", False), ("other.mp4", True)}


def test_find_says_of_many_such_videos_once_that_scores_mean_nothing(run, clips, tmp_path):
    (tmp_path / "third.mp4").write_bytes(clips[1].read_bytes())
    code, _, err = run("find", *clips, tmp_path / "third.mp4", "the red star")
    assert code == 0
    assert err.count("mean nothing: this model was trained on") == 1
    assert "note: scores of 2 videos mean nothing: " in err


def test_the_demo_is_silent(run):
    code, out, _ = run("demo", "--json")
    facts = json.loads(out)
    assert (code, facts["compressed"]["is_foreign"]) == (0, False)
    assert not any(answer["is_foreign"] for answer in facts["answers"])
