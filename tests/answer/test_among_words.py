"""Everything that can be asked of frames among words: windows, budgets, clocks, search, int8, streams, ranking."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.tiny_families import FAMILIES, tiny_family
from voco_video.api import VideoModel, concat
from voco_video.cache import FrameCache
from voco_video.errors import UsageError
from voco_video.evaluate.answer_likelihood import Ranker
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene

QUESTION = "What moves?"
USUAL = ("smolvlm", "qwen2_5_vl", "qwen3_vl")
ALL = [name if name in USUAL else pytest.param(name, marks=pytest.mark.exhaustive) for name in FAMILIES]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(draw_scene(0, index=0), path, size=64)
    return path


@pytest.fixture(scope="module", params=ALL)
def model(request, tmp_path_factory) -> VideoModel:
    voco = tiny_family(request.param, as_trained=True)
    return VideoModel(voco, FrameCache(tmp_path_factory.mktemp("cache")))


KINDS = [("voco", "kv"), ("voco", "embeds"), ("full", "embeds"), ("full", "kv"), ("pool:1", "embeds")]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("compressor", "form"), KINDS, ids="-".join)
def test_frames_among_words_answer_all_kinds_of_questions(model, clip, compressor, form):
    video = model.compress(clip, num_frames=5, compressor=compressor, form=form)
    per_frame = model.voco.backbone.template.pictures_per_frame
    assert video.num_frames == -(-5 // per_frame)
    alone = [video.ask(q, max_new_tokens=4).token_ids for q in (QUESTION, "And then, where to?")]
    together = video.ask([QUESTION, "And then, where to?"], max_new_tokens=4, with_attention=True)
    assert [answer.token_ids for answer in together] == alone
    assert np.isclose(together[0].frame_attention.sum(), 1)
    assert "".join(video.stream(QUESTION, max_new_tokens=4)).strip() == together[0].text
    last = video.pts_seconds[-1]
    assert video[last:].num_frames == 1
    assert video[last:].ask(QUESTION, max_new_tokens=4).num_frames == 1
    few = video.ask(QUESTION, max_voco_tokens=video.num_voco_tokens, policy="relevant", max_new_tokens=2)
    assert few.num_frames == 1
    timed = video.prefix(options=_clock(2.0))
    assert timed.length > video.prefix().length
    assert len(video.find(QUESTION)) >= 1
    joined = concat([video, video])
    assert joined.ask(QUESTION, max_new_tokens=2).num_frames == 2 * video.num_frames
    ranked = Ranker.of(model.voco, ["a star", "a dog"]).log_likelihoods(video.prefix(), QUESTION)
    assert ranked.isfinite().all()


def _clock(seconds: float):
    from voco_video.options.answering import ViewOptions

    return ViewOptions(clock_every_seconds=seconds)


def test_entries_are_found_again_and_other_settings_are_others(model, clip):
    merged = model.compress(clip, num_frames=5)
    again = model.compress(clip, num_frames=5)
    assert again.from_cache
    assert np.array_equal(merged.pts_seconds, again.pts_seconds)
    single = model.compress(clip, num_frames=5, merge_pictures=False)
    assert single.num_frames == 5
    assert single.from_cache == (model.voco.backbone.template.pictures_per_frame == 1)
    small = model.compress(clip, num_frames=5, storage="int8") if model.voco.num_voco_tokens else merged
    assert small.num_frames == merged.num_frames
    with pytest.raises(UsageError):
        merged.ask(" ")


def test_a_live_source_gives_the_same_frames(model, clip):
    whole = model.compress(clip, fps=1)
    with model.open_stream(clip, fps=1, idle_seconds=0.2) as stream:
        for _ in stream:
            pass
        live = stream.video
        assert live.num_frames == whole.num_frames
        assert np.allclose(live.pts_seconds, whole.pts_seconds)
        ours, theirs = live.tokens().tensors(), whole.tokens().tensors()
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert np.allclose(tensor.float().numpy(), theirs[name].float().numpy(), atol=1e-4), name
