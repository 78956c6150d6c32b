"""Clips compressed and asked about as trained: the whole way from a file to an answer, and pairs of pictures."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.as_trained import QUESTION, REFERENCES, Shown, library_answer
from tests.helpers.clips import Clip
from tests.helpers.edits import spoil_packets
from tests.helpers.tiny_families import EACH_OF_ALL, tiny_family
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.api import VideoModel
from voco_video.cache import CacheEntry, FrameCache
from voco_video.compress import compress_video
from voco_video.model.families.family import AnyShape
from voco_video.model.voco import VocoModel
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.stored_tokens import read_tokens
from voco_video.video.reading import read_frames
from voco_video.video.scaling import Fit

QWENS = ("qwen2_5_vl", "qwen3_vl")
OPTIONS = {"g": "6", "bf": "0", "preset": "ultrafast"}


def as_trained(name: str) -> VocoModel:
    model = tiny_family(name, as_trained=True, variant="library", chat_template=REFERENCES[name].chat_template)
    if name in QWENS:
        shape = AnyShape(8, 64, 28 * 64)
        images = replace(model.backbone.images, fit=Fit(32, 56, "stretch"), any_shape=shape)
        backbone = replace(model.backbone, images=images)
        return VocoModel(backbone, model.voco_embeds.detach()).eval()
    return model


@pytest.fixture(scope="module", params=EACH_OF_ALL)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name, tmp_path_factory) -> VideoModel:
    return VideoModel(as_trained(name), FrameCache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module", params=QWENS)
def qwen(request) -> VocoModel:
    return as_trained(request.param)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    """Seven seconds of five pictures each, lying and standing."""
    folder = tmp_path_factory.mktemp("clips")
    shapes = {"wide": (96, 160), "tall": (160, 96)}
    return {
        shape: Clip(f"{shape}.ts", num_frames=35, rate=5, options=OPTIONS, height=height, width=width).write(folder)
        for shape, (height, width) in shapes.items()
    }


@pytest.mark.one_in(2)
@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_a_clip_is_asked_about_as_the_library_would_be(model, name, clips, shape):
    voco = model.voco
    video = model.compress(clips[shape], num_frames=7, compressor="full")
    assert video.form == "embeds"
    fit = voco.backbone.images.fit_for(*((160, 96) if shape == "wide" else (96, 160)))
    if name in QWENS:
        assert (fit.height, fit.width) == ((32, 48) if shape == "wide" else (48, 32))
    frames = read_frames(clips[shape], Sampling(num_frames=7), fit=fit)
    shown = Shown(frames.pixels, frames.pts_seconds, 7.0)
    hf_model = copy.deepcopy(voco.backbone.hf_model)
    expected = library_answer(hf_model, voco, name, shown, QUESTION)[2]
    answer = video.ask(QUESTION[0][1], max_new_tokens=8)
    ends = voco.backbone.hf_model.generation_config.eos_token_id
    until = next((i for i, token in enumerate(expected) if token == ends), len(expected))
    assert list(answer.token_ids) == expected[:until]
    assert until > 0
    assert list(video.pts_seconds) == list(frames.pts_seconds[:: voco.backbone.template.pictures_per_frame])


def stored_bytes(entry: CacheEntry) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in read_tokens(entry).tensors().items()}


def interrupted(model: VocoModel, path: Path, cache: FrameCache, sampling: Sampling, options: CompressOptions):
    """Compress, stopped again and again, and once more to the end."""
    for stop_at in (2, 4, 6):

        def stop(progress, stop_at=stop_at):
            if progress.num_frames >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compress_video(model, path, cache=cache, sampling=sampling, options=options, on_progress=stop)
    resumed = compress_video(model, path, cache=cache, sampling=sampling, options=options)
    assert resumed.num_resumed_frames >= 6
    return resumed.entry


@pytest.mark.parametrize(
    ("merge_pictures", "batch_size"),
    [(True, 2), *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in [(True, 1), (True, 3), (False, 2)])],
)
def test_an_interrupted_run_of_pairs_resumes_to_the_same_bytes(qwen, clips, tmp_path, merge_pictures, batch_size):
    options = CompressOptions(compressor="full", batch_size=batch_size, merge_pictures=merge_pictures)
    sampling = Sampling(num_frames=17)
    whole = compress_video(qwen, clips["wide"], cache=FrameCache(tmp_path / "o"), sampling=sampling, options=options)
    cache = FrameCache(tmp_path / "c")
    assert stored_bytes(interrupted(qwen, clips["wide"], cache, sampling, options)) == stored_bytes(whole.entry)
    num_pictures = len(read_frames(clips["wide"], sampling, fit=Fit(32, 48)).pts_seconds)
    assert num_pictures % 2 == 1
    seconds = read_tokens(whole.entry).tensors()["seconds"]
    assert len(seconds) == ((num_pictures + 1) // 2 if merge_pictures else num_pictures)
    assert float(seconds[-1, 0]) == float(seconds[-1, 1])


@pytest.mark.parametrize("is_given", [False, True], ids=["by rate", "by timestamps"])
def test_a_damaged_clip_of_pairs_resumes_without_repeating_or_losing_pictures(qwen, tmp_path, is_given):
    """Some planned pictures do not come, so frames fall elsewhere than the plan says."""
    whole_clip = Clip("whole.mp4", num_frames=35, rate=5, options=OPTIONS).write(tmp_path)
    broken = spoil_packets(whole_clip, tmp_path / "broken.mp4", {7, 8, 9, 10, 11, 20, 21, 22, 23})
    options, sampling = CompressOptions(compressor="full", batch_size=2), Sampling(fps=5)
    if is_given:  # then another picture stands in for each that does not come
        sampling = Sampling(timestamps=tuple(np.arange(35) / 5))
    whole = compress_video(qwen, broken, cache=FrameCache(tmp_path / "o"), sampling=sampling, options=options)
    assert whole.entry.facts["num_undecodable_frames"] > 4
    pictures = read_tokens(whole.entry).tensors()["seconds"].numpy().flatten()
    frames = read_frames(broken, sampling, fit=Fit(32, 48))
    assert list(pictures) == [*frames.pts_seconds, *frames.pts_seconds[-1:].repeat(len(frames) % 2)]
    entry = interrupted(qwen, broken, FrameCache(tmp_path / "c"), sampling, options)
    assert (
        stored_bytes(entry)["seconds"] == stored_bytes(whole.entry)["seconds"]
    )  # pixels hang on where a decoder began


def test_pictures_alone_are_frames_that_stand_still(qwen, clips, tmp_path):
    """`merge_pictures=False`: every picture is a pair of itself, as the library makes of an odd last one."""
    model = VideoModel(qwen, FrameCache(tmp_path))
    video = model.compress(clips["wide"], num_frames=3, compressor="full", merge_pictures=False)
    assert video.num_frames == 3
    name = qwen.backbone.hf_model.config.model_type
    frames = read_frames(clips["wide"], Sampling(num_frames=3), fit=Fit(32, 48, "stretch"))
    singles = [
        Shown(frames.pixels[f : f + 1], frames.pts_seconds[f : f + 1], 7.0) for f in range(3)
    ]  # the library repeats a single picture
    for f, (part, shown) in enumerate(zip(windows(video), singles, strict=True)):
        expected = library_answer(copy.deepcopy(qwen.backbone.hf_model), qwen, name, shown, QUESTION)[2]
        answer = part.ask(QUESTION[0][1], max_new_tokens=8)
        ends = qwen.backbone.hf_model.generation_config.eos_token_id
        until = next((i for i, token in enumerate(expected) if token == ends), len(expected))
        assert list(answer.token_ids) == expected[:until], f


def windows(video: CompressedVideo) -> list[CompressedVideo]:
    """Each frame as a video of its own."""
    return [video[float(pts) : float(pts) + 0.01] for pts in video.pts_seconds]


@pytest.mark.parametrize("merge_pictures", [True, False], ids=["pairs", "single"])
def test_a_stream_of_pairs_gives_the_frames_that_compressing_gives(qwen, clips, tmp_path, merge_pictures):
    model = VideoModel(qwen, FrameCache(tmp_path))
    whole = model.compress(clips["wide"], fps=2.5, compressor="full", merge_pictures=merge_pictures)
    source = tmp_path / "growing.ts"
    source.write_bytes(clips["wide"].read_bytes())
    with model.open_stream(
        source, fps=2.5, compressor="full", merge_pictures=merge_pictures, idle_seconds=0.1
    ) as stream:
        for _ in stream:
            pass
        followed = stream.video
    assert np.array_equal(followed.pts_seconds, whole.pts_seconds)
    for name, tensor in whole.tokens().tensors().items():
        assert torch.allclose(followed.tokens().tensors()[name].float(), tensor.float(), rtol=0, atol=1e-5), name
    assert followed.ask("What?", max_new_tokens=4).token_ids == whole.ask("What?", max_new_tokens=4).token_ids
