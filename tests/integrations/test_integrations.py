"""What evaluation harnesses show and ask, without any harness: images as videos of one frame, settings, losses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import voco_video
from tests.helpers.clips import Clip
from voco_video.auto_compressor import PlannedFrames, choose
from voco_video.cache import FrameCache
from voco_video.checkpoint.folder import without_voco_tokens
from voco_video.errors import DataError, UsageError, VideoError
from voco_video.integrations.generation import Generation
from voco_video.integrations.visuals import Viewer
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import CompressOptions, Compressor
from voco_video.options.sampling import Sampling

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = ["what is it?", "where is the circle?", "how many shapes are there?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> voco_video.VideoModel:
    return voco_video.load_model("voco-tiny", dtype="float32", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def viewer(model: voco_video.VideoModel) -> Viewer:
    return Viewer(model, Sampling(num_frames=3))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Clip("clip.mp4").write(tmp_path_factory.mktemp("clips"))


def random_image(model: voco_video.VideoModel, seed: int) -> Image.Image:
    """Of the size that the model looks at, so that its pixels are not scaled."""
    fit = model.voco.backbone.images.fit
    pixels = np.random.default_rng(seed).integers(0, 256, (fit.height, fit.width, 3), np.uint8)
    return Image.fromarray(pixels)


def test_an_image_is_a_video_of_one_frame(model, viewer):
    image = random_image(model, 0)
    (part,) = viewer.look([image]).parts
    with torch.inference_mode():
        expected = model.voco.compress(
            model.voco.vision_tokens(np.array(image)[None]), form=model.voco.form_of(Compressor("voco"))
        )
    assert part.num_frames == 1
    for name, tensor in expected.tensors().items():
        assert torch.equal(part.tokens().tensors()[name], tensor)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_equal_pixels_are_compressed_once(model, viewer, tmp_path, monkeypatch, mode):
    image = random_image(model, 1).convert(mode)
    shown = image.convert("RGB")
    first = viewer.look([shown]).parts[0]
    monkeypatch.setattr("voco_video.compress.open_video", None)
    image.info["dpi"] = (72, 300)
    image.save(tmp_path / "image.png", dpi=(72, 300))
    for same in (image, Image.open(tmp_path / "image.png")):
        (part,) = viewer.look([same]).parts
        assert part.from_cache
        assert part.parts[0].entry.digest == first.parts[0].entry.digest


def test_visuals_are_seen_one_after_the_other(model, viewer, clip, tmp_path):
    images = [random_image(model, seed) for seed in (2, 3)]
    images[1].save(tmp_path / "image.png")
    view = viewer.look([images[0], str(clip), tmp_path / "image.png"])
    assert [part.num_frames for part in view.parts] == [1, 3, 1]
    video = model.compress(clip, num_frames=3)
    single = [viewer.look([image]).parts[0] for image in images]
    joined = voco_video.concat([single[0], video, single[1]])
    expected = [joined.ask(question, max_new_tokens=6).text for question in QUESTIONS]
    assert view.answers(QUESTIONS, options=AnswerOptions(max_new_tokens=6), batch_size=1) == expected
    assert len(set(expected)) > 1, "answers that were all alike would prove nothing"


def test_batches_are_answered_in_order(viewer, clip):
    view = viewer.look([clip])
    singly, together = (view.answers(QUESTIONS, options=AnswerOptions(6), batch_size=size) for size in (1, 2))
    assert together == singly


def test_questions_that_stand_alone(model, viewer):
    view = viewer.look([])
    prompt = model.voco.backbone.conversation_ids([{"role": "user", "content": QUESTIONS[0]}])
    with torch.inference_mode():
        logits = model.voco(torch.tensor([prompt]), prefix=model.voco.empty_prefix())[0]
    (text,) = view.answers(QUESTIONS[:1], options=AnswerOptions(1), batch_size=8)
    assert text == model.voco.backbone.text([int(logits[0, -1].argmax())])


def test_losses_are_those_of_single_passes(model, viewer, clip):
    view = viewer.look([clip])
    said = view.answers([QUESTIONS[0]], options=AnswerOptions(6), batch_size=1)[0]
    found = view.losses(QUESTIONS[0], [said, "top left", "circle"])
    assert [is_greedy for _, is_greedy in found] == [True, said == "top left", said == "circle"]
    assert min(loss for loss, _ in found) == found[0][0]
    backbone, end = model.voco.backbone, model.voco.backbone.hf_model.generation_config.eos_token_id
    prompt = backbone.conversation_ids([{"role": "user", "content": QUESTIONS[0]}])
    answer = [*backbone.tokenizer(" top left", add_special_tokens=False).input_ids, end]
    with torch.inference_mode():
        logits = model.voco(torch.tensor([[*prompt, *answer]]), prefix=view.prefix)[0][0].log_softmax(-1)
    places = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
    expected = -logits[places, torch.tensor(answer)].mean()
    assert found[1][0] == pytest.approx(float(expected), abs=1e-4)


def test_budgets_and_compressors(model, clip):
    few = Viewer(model, Sampling(num_frames=3), num_voco_tokens=2).look([clip])
    assert few.prefix.frame_slots.shape == (3, 2)
    pooled = Viewer(model, Sampling(num_frames=3), CompressOptions(compressor="pool:4")).look([clip])
    assert pooled.prefix.frame_slots.shape[0] == 3
    with pytest.raises(UsageError, match="99"):
        Viewer(model, num_voco_tokens=99)


def test_visuals_that_are_joined_get_one_compressor(model, clip, tmp_path):
    voco = without_voco_tokens(model.voco.backbone)
    plain = voco_video.VideoModel(voco, FrameCache(tmp_path))
    together = 3 + 1
    voco.backbone.text_config.max_position_embeddings, before = 200, voco.backbone.context_length
    try:
        view = Viewer(plain, Sampling(num_frames=3)).look([clip, random_image(model, 0)])
        expected = choose(voco, CompressOptions(), PlannedFrames(together, (voco.backbone.vision_grid,))).compressor
    finally:
        voco.backbone.text_config.max_position_embeddings = before
    assert {part.compressor for part in view.parts} == {str(expected)}
    assert expected.name == "pool"
    assert view.prefix.frame_slots.shape[0] == together


def test_what_cannot_be_looked_at(viewer, tmp_path):
    with pytest.raises(DataError, match="dict"):
        viewer.look([{"array": np.zeros(16), "sampling_rate": 16000}])
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        viewer.look([tmp_path / "gone.mp4"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, AnswerOptions(16)),
        ({"max_new_tokens": 5, "temperature": 0, "do_sample": False, "num_beams": 1, "top_p": None}, AnswerOptions(5)),
        ({"temperature": 0.7}, AnswerOptions(16, 0.7)),
        ({"temperature": 0.7, "do_sample": True, "seed": 3}, AnswerOptions(16, 0.7, seed=3)),
        ({"temperature": 0.7, "do_sample": False}, AnswerOptions(16)),
        ({"do_sample": True}, AnswerOptions(16, 1.0)),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 20}, AnswerOptions(16, 0.5, top_p=0.9, top_k=20)),
        ({"temperature": 0, "top_p": 0.9, "repetition_penalty": 1.1}, AnswerOptions(16, repetition_penalty=1.1)),
    ],
)
def test_settings_of_a_request(settings, expected, caplog):
    assert Generation.of(settings, max_new_tokens=16).options == expected
    assert not caplog.records


def test_settings_that_do_not_exist_are_warned_of(caplog):
    Generation.of({"num_beams": 4, "top_p": 0.9}, max_new_tokens=16)
    assert [record.getMessage()[:11] for record in caplog.records] == ["num_beams=4"]
    with pytest.raises(UsageError, match=r"top_p=1\.5"):
        Generation.of({"temperature": 1, "top_p": 1.5}, max_new_tokens=16)
    with pytest.raises(UsageError, match="warm"):
        Generation.of({"temperature": "warm"}, max_new_tokens=16)


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (None, "a\n\nb. c"),
        (["\n\n"], "a\n\nb. c"),
        ("b", "a\n\n"),
        (["c", "b"], "a\n\n"),
        (["\n\n", "."], "a\n\nb"),
        (["none of it", ""], "a\n\nb. c"),
    ],
)
def test_an_answer_ends_before_the_first_stop(until, expected):
    assert Generation.of({"until": until}, max_new_tokens=16).cut("a\n\nb. c") == expected


def test_the_entry_point_exists_and_imports_nothing_heavy():
    """A harness loads it at every start, whatever model it is about to run."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    (value,) = re.findall(r'^voco-video = "(voco_video\.integrations:\w+)"$', pyproject, re.MULTILINE)
    module, _, name = value.partition(":")
    code = f"import sys, {module} as m; m.{name}; print(sorted({{'torch', 'transformers', 'av'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
