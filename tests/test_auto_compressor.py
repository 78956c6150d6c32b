"""``--compressor auto``: what it chooses, against what fits, and one entry for it and for the name of what it chose."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.helpers.clips import Clip
from tests.helpers.models import tiny_voco
from voco_video import auto_compressor
from voco_video import compress as compress_module
from voco_video.api import VideoModel, load_model
from voco_video.auto_compressor import (
    LIVE_TOKENS,
    PlannedFrames,
    choose,
    context_budget,
    settled,
    tokens_per_frame,
    untrained_compressors,
)
from voco_video.cache import FrameCache
from voco_video.checkpoint.folder import without_voco_tokens
from voco_video.entry_keys import cache_key
from voco_video.errors import UsageError
from voco_video.evaluate.options import EvalOptions
from voco_video.model.compressors import compress_frames
from voco_video.options.answering import ViewOptions
from voco_video.options.compression import CompressOptions, Compressor, parse_compressor
from voco_video.options.sampling import Sampling
from voco_video.video.reading import open_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Clip("clip.mp4", num_frames=50).write(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def plain(tmp_path) -> VideoModel:
    """A model that was never trained to compress, with 16 vision tokens a frame and a context of 200."""
    voco = without_voco_tokens(tiny_voco().backbone)
    voco.backbone.text_config.max_position_embeddings = 200
    return VideoModel(voco, FrameCache(tmp_path / "cache"))


def frames(voco, num_frames: int) -> PlannedFrames:
    return PlannedFrames(num_frames, (voco.backbone.vision_grid,))


@pytest.mark.parametrize("form", ["kv", "embeds"])
@pytest.mark.parametrize("fps", [1, 4, 8, 16])
def test_all_frames_are_seen_and_the_next_larger_choice_would_lose_some(plain, clip, fps, form):
    chosen = plain.compress(clip, fps=fps, form=form)
    assert chosen.view().policy == "", "all frames are seen"
    larger = untrained_compressors(plain.voco)
    larger = larger[: larger.index(parse_compressor(chosen.compressor))]
    assert chosen.compressor == "full" if not larger else "pool" in chosen.compressor
    if larger:
        assert plain.compress(clip, fps=fps, form=form, compressor=str(larger[-1])).view().policy == "uniform"
        assert chosen.compressor in chosen.result.choice


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_tokens_are_counted_as_they_are_kept(form):
    voco = tiny_voco()
    with torch.inference_mode():
        vision_tokens = voco.vision_tokens(torch.zeros(2, 32, 32, 3, dtype=torch.uint8).numpy())
    for one in untrained_compressors(voco):
        kept = compress_frames(voco, vision_tokens, one, form=form).num_voco_tokens
        assert tokens_per_frame(voco, one, form=form, grid=voco.backbone.vision_grid) == kept


def test_more_frames_never_get_more_tokens(plain):
    order = untrained_compressors(plain.voco)
    assert order[0] == Compressor("full")
    numbers = [one.num_tokens for one in order[1:]]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == 1
    places = [
        order.index(choose(plain.voco, CompressOptions(), frames(plain.voco, n)).compressor) for n in range(1, 60)
    ]
    assert places == sorted(places)
    assert len(set(places)) > 5


def test_where_nothing_fits_the_smallest_is_taken_and_said(plain):
    choice = choose(plain.voco, CompressOptions(), frames(plain.voco, 10_000))
    assert choice.compressor == Compressor("pool", 1)
    assert "10000 frames do not fit" in choice.reason


def test_a_model_without_a_limit_keeps_everything(plain, monkeypatch):
    monkeypatch.setattr(type(plain.voco.backbone), "context_length", None)
    assert choose(plain.voco, CompressOptions(), frames(plain.voco, 10**9)).compressor == Compressor("full")


def test_a_live_source_gets_a_few_tokens_whatever_comes(plain, clip):
    assert choose(plain.voco, CompressOptions(), None).compressor.num_tokens <= LIVE_TOKENS
    with plain.open_stream(clip, idle_seconds=0.1) as stream:
        list(stream)
    assert stream.entry.key.settings["compressor"] in stream.choice
    assert "pool:" in stream.choice


def test_what_is_trained_is_chosen_and_what_is_not_is_not():
    voco = tiny_voco()
    assert settled(voco, "auto") == Compressor("voco")
    assert settled(voco, "pool:4") == Compressor("pool", 4)
    voco.trained = False
    assert settled(voco, "auto") is None
    assert settled(voco, "auto", num_voco_tokens=2) == Compressor("voco"), "they were asked for"


def test_auto_and_the_name_share_one_entry(plain, clip, tmp_path):
    learned = VideoModel(tiny_voco(), FrameCache(tmp_path / "learned"))
    for model in (plain, learned):
        first = model.compress(clip, fps=8)
        again = model.compress(clip, fps=8, compressor=first.compressor)
        assert again.from_cache
        assert again.parts[0].entry.digest == first.parts[0].entry.digest
        assert (bool(first.result.choice), again.result.choice) == (model is plain, "")


def test_an_entry_is_found_again_without_opening_the_video(plain, clip, monkeypatch):
    first = plain.compress(clip, fps=8)

    def never(*args, **kwargs):
        raise AssertionError("opened")

    for module in (compress_module, auto_compressor):
        monkeypatch.setattr(module, "open_video", never)
    again = plain.compress(clip, fps=8)
    assert again.from_cache
    assert (again.compressor, again.result.choice) == (first.compressor, first.result.choice)


def test_an_entry_of_another_compressor_is_passed_over(plain, clip):
    plain.compress(clip, fps=8, compressor="full")
    plain.compress(clip, fps=8, compressor="pool:1")
    assert plain.compress(clip, fps=8).compressor not in ("full", "pool:1")


def test_a_key_needs_the_number_of_frames(plain, clip):
    with pytest.raises(UsageError, match="compressor='auto' depends on the number of frames"):
        cache_key(plain.voco, clip, sampling=Sampling(), options=CompressOptions())


def test_evaluations_of_either_kind_of_model(plain):
    options = EvalOptions()
    assert options.budgets(tiny_voco()) == (4,)
    assert options.budgets(plain.voco) == (None,)
    assert dataclasses.replace(options, compressor="full").budgets(tiny_voco()) == (None,)


def test_a_question_sees_all_frames_of_the_choice(plain, clip):
    video = plain.compress(clip, fps=16)
    prefix = video.prefix(options=ViewOptions())
    assert len(prefix.frame_slots) == video.num_frames == 32


@pytest.mark.parametrize("name", ["SmolVLM2-500M-Video-Instruct", "Qwen3-VL-2B-Instruct", "InternVL3-1B-hf"])
def test_words_between_frames_take_their_room(shared, clip, tmp_path, name):
    """A model as it was trained reads labels or times before frames, and pairs of pictures as one frame."""
    model = load_model(shared / "golden" / "as_trained" / name, cache_dir=tmp_path)
    assert model.voco.backbone.template.as_trained is not None
    text = model.voco.backbone.text_config
    with open_video(clip) as video:
        planned = auto_compressor.planned_frames(model.voco, video, Sampling(fps=4.0), CompressOptions())
    (grid,) = planned.grids
    for share in (30, 3, 0.6):  # of one frame's vision tokens, how many there is room for
        # Where frames are small, most of the room is taken by the words between them.
        text.max_position_embeddings = int((400 if grid[0] * grid[1] > 16 else 112) + share * grid[0] * grid[1])
        chosen = model.compress(clip, fps=4)
        assert chosen.num_frames == planned.num_frames
        assert chosen.view().policy == "", "all frames are seen"
        larger = untrained_compressors(model.voco, planned.grids)
        larger = larger[: larger.index(parse_compressor(chosen.compressor))]
        room = context_budget(text.max_position_embeddings, frame_length=chosen._words.first_position)
        assert chosen.num_frames * (chosen.num_voco_tokens + chosen._words.words_per_frame) <= room
        if larger:
            more = model.compress(clip, fps=4, compressor=str(larger[-1]))
            assert more.num_frames * (more.num_voco_tokens + more._words.words_per_frame) > room
    assert larger, "not everything fits"
