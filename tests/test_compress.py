"""video -> cache: hits, resume, kill -9, several processes, and that no setting is ever confused with another."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.models import voco_tiny_in_kv
from voco_video.api import VideoModel, load_model
from voco_video.cache import FrameCache
from voco_video.compress import Progress, compress_video
from voco_video.entry_keys import cache_key
from voco_video.errors import CacheError, ModelError, UsageError, VideoError
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene
from voco_video.stored_tokens import read_tokens
from voco_video.video.reading import open_video, read_frames


@pytest.fixture(scope="module")
def voco():
    return voco_tiny_in_kv()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    scene = dataclasses.replace(draw_scene(7), fps=24)
    return write_clip(scene, tmp_path_factory.mktemp("clips") / "clip.mp4", size=96)


@pytest.fixture
def cache(tmp_path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


def test_compressing_equals_model_on_decoded_frames(voco, clip, cache):
    result = compress_video(voco, clip, cache=cache, sampling=Sampling(fps=4), options=CompressOptions(batch_size=5))
    frames = read_frames(clip, Sampling(fps=4), fit=voco.backbone.images.fit)
    with torch.inference_mode():
        expected = voco.compress(voco.vision_tokens(frames.pixels))
    stored = read_tokens(result.entry)
    assert np.array_equal(result.entry.pts_seconds, frames.pts_seconds)
    for name, tensor in expected.tensors().items():
        assert torch.allclose(stored.tensors()[name].float(), tensor.float(), atol=1e-5), name


def test_a_second_run_is_a_hit_and_neither_decodes_nor_compresses(voco, clip, cache, monkeypatch):
    first = compress_video(voco, clip, cache=cache)

    def never(*args, **kwargs):
        raise AssertionError("touched again")

    monkeypatch.setattr("voco_video.compress.open_video", never)
    monkeypatch.setattr(type(voco), "compress", never)
    second = compress_video(voco, clip, cache=cache)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.entry.digest == first.entry.digest


def test_a_copy_under_another_name_is_the_same_video(voco, clip, cache, tmp_path):
    compress_video(voco, clip, cache=cache)
    copy = tmp_path / "renamed.mp4"
    copy.write_bytes(clip.read_bytes())
    assert compress_video(voco, copy, cache=cache).from_cache


def test_every_setting_that_changes_the_result_changes_the_key(voco, clip, tmp_path):
    def key(sampling=Sampling(), fingerprint=None, path=clip, model=voco, **options):
        options = CompressOptions(**options)
        return cache_key(model, path, sampling=sampling, options=options, fingerprint=fingerprint).digest

    other = tmp_path / "other.mp4"
    other.write_bytes(clip.read_bytes() + b"\0")
    digests = [
        key(),
        key(Sampling(fps=2)),
        key(Sampling(num_frames=4)),
        key(Sampling(keyframes=True)),
        key(Sampling(timestamps=(1.0,))),
        key(Sampling(start_seconds=1.0)),
        key(Sampling(end_seconds=1.0)),
        key(num_voco_tokens=1),
        key(form="embeds"),
        key(storage="int8"),
        key(decoder="decord"),
        key(fingerprint="0" * 64),
        key(path=other),
        key(model=voco_tiny_in_kv(dtype="bfloat16")),
    ]
    assert len(set(digests)) == len(digests)
    assert key(batch_size=3) == key(force=True) == key(num_voco_tokens=8) == digests[0], "these change nothing"


@pytest.mark.parametrize("form", ["kv", "embeds"])
@pytest.mark.parametrize("storage", ["native", "int8"])
def test_forms_and_storage(voco, clip, cache, form, storage):
    options = CompressOptions(form=form, storage=storage)
    entry = compress_video(voco, clip, cache=cache, options=options).entry
    exact = compress_video(voco, clip, cache=cache, options=CompressOptions(form=form)).entry
    config = voco.backbone.text_config
    numbers = 2 * config.num_hidden_layers * config.hidden_size if form == "kv" else config.hidden_size
    assert exact.bytes_per_frame >= 8 * numbers * 4
    if storage == "int8":
        assert entry.bytes_per_frame < 0.32 * exact.bytes_per_frame
        assert 0 < entry.facts["int8_logit_error"] < 0.1
    prompt = torch.tensor([[5, 11, 42]])
    logits = [voco(prompt, prefix=voco.prefix(read_tokens(e)))[0] for e in (entry, exact)]
    assert (logits[0] - logits[1]).abs().max() < (1e-6 if storage == "native" else 0.1 * logits[1].std())


def test_int8_that_would_move_the_logits_too_far_is_refused(voco, clip, cache, monkeypatch):
    monkeypatch.setattr("voco_video.stored_tokens.INT8_MAX_LOGIT_ERROR", 1e-9)
    with pytest.raises(ModelError, match="use storage='native'"):
        compress_video(voco, clip, cache=cache, options=CompressOptions(storage="int8"))
    assert cache.entries() == []


def test_progress_counts_frames_and_resumed_ones(voco, clip, cache):
    seen: list[Progress] = []

    def stop_after_two(progress):
        seen.append(progress)
        if progress.num_frames == 8:
            raise KeyboardInterrupt

    options = CompressOptions(batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        compress_video(voco, clip, cache=cache, sampling=Sampling(fps=4), options=options, on_progress=stop_after_two)
    assert [p.num_frames for p in seen] == [0, 4, 8]
    seen.clear()
    result = compress_video(voco, clip, cache=cache, sampling=Sampling(fps=4), options=options, on_progress=seen.append)
    assert seen[0].num_frames == result.num_resumed_frames == 8
    assert seen[-1].num_frames == seen[-1].total_frames == result.entry.num_frames


def test_an_interrupted_run_resumes_to_the_same_tokens(voco, clip, cache, tmp_path):
    sampling, options = Sampling(fps=8), CompressOptions(batch_size=4)
    undisturbed = compress_video(voco, clip, cache=FrameCache(tmp_path / "other"), sampling=sampling, options=options)
    for stop_at in (4, 20, 36):

        def stop(progress, stop_at=stop_at):
            if progress.num_frames >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compress_video(voco, clip, cache=cache, sampling=sampling, options=options, on_progress=stop)
    resumed = compress_video(voco, clip, cache=cache, sampling=sampling, options=options)
    assert resumed.num_resumed_frames >= 36
    assert_same_tokens(resumed.entry, undisturbed.entry)


@pytest.mark.parametrize("storage", ["native", "int8"])
def test_what_an_entry_records_does_not_tell_of_an_interruption(clip, tmp_path, storage):
    model = load_model(cache_dir=tmp_path / "whole")
    whole = model.compress(clip, fps=24, storage=storage, batch_size=16).parts[0].entry
    assert "world" in whole.facts
    again = dataclasses.replace(model, cache=FrameCache(tmp_path / "again"))

    def stop(progress):
        if progress.num_frames >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again.compress(clip, fps=24, storage=storage, batch_size=16, on_progress=stop)
    resumed = again.compress(clip, fps=24, storage=storage, batch_size=16)
    assert resumed.result.num_resumed_frames == 32
    assert resumed.parts[0].entry.facts == whole.facts


def test_a_damaged_file_resumes_without_repeating_or_losing_frames(voco, cache, tmp_path, caplog):
    """Zeros in the middle: fewer frames come than planned, so an interrupted run must go on by time, not by count."""
    scene = dataclasses.replace(draw_scene(3), fps=24)
    broken = write_clip(scene, tmp_path / "broken.mp4", size=128)
    data = bytearray(broken.read_bytes())
    data[len(data) // 4 : len(data) // 4 + len(data) // 5] = bytes(len(data) // 5)
    broken.write_bytes(data)
    sampling, options = Sampling(fps=12), CompressOptions(batch_size=4)
    undisturbed = compress_video(voco, broken, cache=FrameCache(tmp_path / "o"), sampling=sampling, options=options)
    assert undisturbed.entry.facts["num_undecodable_frames"] > 4
    for stop_at in range(8, undisturbed.entry.num_frames, 8):

        def stop(progress, stop_at=stop_at):
            if progress.num_frames >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compress_video(voco, broken, cache=cache, sampling=sampling, options=options, on_progress=stop)
    resumed = compress_video(voco, broken, cache=cache, sampling=sampling, options=options)
    assert np.array_equal(resumed.entry.pts_seconds, undisturbed.entry.pts_seconds)


def test_everything_done_but_the_manifest_still_resumes(voco, clip, cache):
    """The run was stopped after the last frame: nothing is left to decode, and the entry must still be whole."""

    def stop(progress):
        if progress.num_frames == progress.total_frames:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_video(voco, clip, cache=cache, on_progress=stop)
    entry = compress_video(voco, clip, cache=cache).entry
    assert entry.facts["num_vision_tokens"] == 64
    assert voco.prefix(read_tokens(entry)).length == 8 * entry.num_frames


def test_force_compresses_again_and_keeps_open_videos_valid(voco, clip, cache):
    first = compress_video(voco, clip, cache=cache)
    before = read_tokens(first.entry)
    again = compress_video(voco, clip, cache=cache, options=CompressOptions(force=True))
    assert not again.from_cache
    assert torch.equal(before.keys, read_tokens(again.entry).keys)


def test_a_damaged_entry_is_an_error_and_force_repairs_it(voco, clip, cache):
    entry = compress_video(voco, clip, cache=cache).entry
    segment = next(entry.directory.glob("*.safetensors"))
    entry.close()
    data = bytearray(segment.read_bytes())
    data[-5] ^= 1
    segment.write_bytes(data)
    with pytest.raises(CacheError, match="--force"):
        read_tokens(FrameCache(cache.cache_dir).get(entry.key))
    compress_video(voco, clip, cache=cache, options=CompressOptions(force=True))
    assert all(r.status == "ok" for r in cache.verify())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "pixels"}, "form='pixels'"),
        ({"storage": "int2"}, "storage='int2'"),
        ({"decoder": "vlc"}, "decoder='vlc'"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_options_that_cannot_be_right(options, message):
    with pytest.raises(UsageError, match=message):
        CompressOptions(**options)


def test_too_many_voco_tokens(voco, clip, cache):
    with pytest.raises(UsageError, match="1 to 8"):
        compress_video(voco, clip, cache=cache, options=CompressOptions(num_voco_tokens=9))


def test_paths_that_are_no_videos(voco, cache, tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        compress_video(voco, tmp_path / "none.mp4", cache=cache)
    with pytest.raises(VideoError, match="is a folder"):
        compress_video(voco, tmp_path, cache=cache)
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        compress_video(voco, text, cache=cache)
    assert cache.verify() == []


def test_real_clips_compress_with_true_timestamps(voco, shared, cache, caplog):
    clips = sorted(p for p in (shared / "clips").rglob("*") if p.suffix in (".mp4", ".mov", ".mkv", ".webm"))
    clips = [path for path in clips if path.parent.name != "faults"]
    assert len(clips) >= 18
    for path in clips:
        entry = compress_video(voco, path, cache=cache, sampling=Sampling(fps=2)).entry
        with open_video(path) as video:
            planned = video.plan(Sampling(fps=2))
            assert np.isin(entry.pts_seconds, video.pts_seconds).all()
        if path.name == "corrupted.mp4":
            assert entry.num_frames > 0
        else:
            assert np.array_equal(entry.pts_seconds, planned), path.name
            assert entry.facts["num_undecodable_frames"] == 0


# ---------------------------------------------------------------------- kill -9 and several processes


def assert_same_tokens(left, right):
    assert np.array_equal(left.pts_seconds, right.pts_seconds)
    for name, tensor in read_tokens(left).tensors().items():
        assert torch.equal(tensor, read_tokens(right).tensors()[name]), name


def _compress_in_child(clip: str, frames: int, told) -> None:
    """Load the model, wait to be told the cache directory, then say "started" and a word for every batch."""
    torch.set_num_threads(1)
    voco = voco_tiny_in_kv()
    cache_dir = told.recv()

    def report(progress: Progress) -> None:
        told.send("batch")
        time.sleep(0.01)  # a slower run gives the kill more places to hit

    told.send("started")
    compress_video(
        voco,
        clip,
        cache=FrameCache(cache_dir),
        sampling=Sampling(num_frames=frames),
        options=CompressOptions(batch_size=4),
        on_progress=report,
    )


@pytest.fixture(scope="module")
def processes():
    """Children that fork from a server which has imported everything, so that one costs a second, not five."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["voco_video.api", "transformers.models.llava.modeling_llava", "test_compress"])
    return context


def _start_child(processes, clip: Path, num_frames: int):
    here, there = processes.Pipe()
    child = processes.Process(target=_compress_in_child, args=(str(clip), num_frames, there))
    child.start()
    there.close()
    return child, here


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [16, pytest.param(50, marks=pytest.mark.exhaustive)])
def test_kill_9_at_many_moments(voco, clip, tmp_path, processes, num_kills):
    num_frames, rng = 160, random.Random(0)
    undisturbed = compress_video(
        voco,
        clip,
        cache=FrameCache(tmp_path / "undisturbed"),
        sampling=Sampling(num_frames=num_frames),
        options=CompressOptions(batch_size=4),
    )
    killed, completed, resumed_from = 0, 0, set()
    cache_dir = tmp_path / "cache-0"
    waiting = [_start_child(processes, clip, num_frames) for _ in range(2)]
    while killed < num_kills:
        waiting.append(_start_child(processes, clip, num_frames))  # loads its model while another is killed
        child, tell = waiting.pop(0)
        tell.send(str(cache_dir))
        assert tell.recv() == "started"
        # A place in the work first, so that kills also hit the middle where a busy machine takes long to get there.
        with contextlib.suppress(EOFError):  # the run was through before
            for _ in range(rng.randrange(20)):
                tell.recv()
        child.join(rng.uniform(0.0, 0.05))
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        cache = FrameCache(cache_dir)
        assert [r for r in cache.verify() if r.status == "damaged"] == []
        resumed_from |= {p.num_frames for p in cache.partial()}
        if cache.entries():
            completed += 1
            assert_same_tokens(cache.entries()[0], undisturbed.entry)
            cache_dir = tmp_path / f"cache-{completed}"
    for child, _ in waiting:
        child.kill()
    final = compress_video(
        voco,
        clip,
        cache=FrameCache(cache_dir),
        sampling=Sampling(num_frames=num_frames),
        options=CompressOptions(batch_size=4),
    )
    print(f"{killed} kills, {completed} runs finished on the way, resumed from frames {sorted(resumed_from)}")
    assert_same_tokens(final.entry, undisturbed.entry)
    assert all(r.status == "ok" for r in FrameCache(cache_dir).verify())
    assert len(resumed_from) > 2, "the kills hardly ever hit a run in the middle"


@pytest.mark.slow
def test_three_processes_compress_one_video_once(clip, tmp_path, processes):
    cache_dir = tmp_path / "cache"
    children = [_start_child(processes, clip, 32) for _ in range(3)]
    for _, tell in children:
        tell.send(str(cache_dir))
    for child, _ in children:
        child.join(120)
    assert [child.exitcode for child, _ in children] == [0, 0, 0]
    assert [r.status for r in FrameCache(cache_dir).verify()] == ["ok"]


# ---------------------------------------------------------------------- the Python front door


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> VideoModel:
    return VideoModel(voco_tiny_in_kv(), FrameCache(tmp_path_factory.mktemp("api-cache")))


@pytest.fixture(scope="module")
def video(model, clip):
    return model.compress(clip, fps=4)


def test_slices_are_in_seconds_and_answer_like_compressing_the_window(model, clip, video):
    part = video[1.0:2.5]
    assert part.pts_seconds.tolist() == [t for t in video.pts_seconds if 1.0 <= t < 2.5]
    alone = model.compress(clip, fps=4, start_seconds=1.0, end_seconds=2.5)
    assert np.array_equal(alone.pts_seconds, part.pts_seconds)
    left, right = part.ask("what is there?"), alone.ask("what is there?")
    assert (left.token_ids, left.confidence) == (right.token_ids, pytest.approx(right.confidence, abs=1e-5))
    assert len(video[:2.0]) + len(video[2.0:]) == len(video)
    assert len(video[1.0:3.0][2.0:2.5]) == 2


def test_slices_that_cannot_be_right(video):
    with pytest.raises(UsageError, match="no frame from 90 s on and before 95 s"):
        video[90.0:95.0]
    for wrong in (3, slice(0, 4, 2)):
        with pytest.raises(UsageError, match="slice a video in seconds"):
            video[wrong]


def test_concat_keeps_every_part_and_its_times(model, clip, video):
    import voco_video

    both = voco_video.concat([video[0.0:1.0], video[2.0:3.0]])
    assert both.pts_seconds.tolist() == [t for t in video.pts_seconds if t < 1 or 2 <= t < 3]
    assert both.prefix().length == 8 * 8
    with pytest.raises(UsageError, match="compressed alike"):
        voco_video.concat([video, model.compress(clip, form="embeds")])
    with pytest.raises(UsageError, match="at least one"):
        voco_video.concat([])


def test_several_questions_share_one_prefix(video, monkeypatch):
    calls = []
    original = type(video.model.voco).prefix
    monkeypatch.setattr(
        type(video.model.voco), "prefix", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    )
    fresh = video[0.0:]
    questions = ["what is there?", "where is the circle?", "how many shapes are there?"]
    together = fresh.ask(questions)
    assert len(calls) == 1
    assert [a.text for a in together] == [fresh.ask(q).text for q in questions]
    assert len(calls) == 1, "the assembled prefix is kept"
    assert [a.question for a in together] == questions


def test_budgets_change_the_answer_path_and_nothing_on_disk(video):
    answer = video.ask("what is there?", num_voco_tokens=2)
    assert answer.num_voco_tokens == 2
    with pytest.raises(UsageError, match="num_voco_tokens=9"):
        video.ask("what is there?", num_voco_tokens=9)


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_attention_shares_sum_to_one(model, clip, form):
    answer = model.compress(clip, fps=2, form=form).ask("what is there?", with_attention=True, max_new_tokens=5)
    assert answer.frame_attention.shape == answer.frame_pts_seconds.shape
    assert answer.frame_attention.sum() == pytest.approx(1.0)
    assert 0 < answer.video_attention < 1
    assert model.voco.backbone.text_config._attn_implementation == "sdpa", "eager attention was left on"


def test_streaming_gives_the_same_text(video):
    question = "where is the circle?"
    pieces = list(video.stream(question, max_new_tokens=12))
    assert "".join(pieces).rstrip() == video.ask(question, max_new_tokens=12).text
    assert pieces
    assert all(pieces), "a piece is some text"


def test_history_changes_the_prompt(video):
    from voco_video import Message

    turns = [Message("user", "what is there?"), Message("assistant", "a red circle")]
    with_history, without = (video.ask("where is it?", history=h, max_new_tokens=1) for h in (turns, ()))
    assert with_history.confidence != without.confidence


def test_questions_that_cannot_be_right(video):
    with pytest.raises(UsageError, match="empty"):
        video.ask("  ")
    with pytest.raises(UsageError, match="max_new_tokens=0"):
        video.ask("what?", max_new_tokens=0)
    with pytest.raises(UsageError, match="temperature"):
        video.ask("what?", temperature=-1.0)


def test_sampling_is_seeded(video):
    answers = [video.ask("what is there?", temperature=2.0, seed=s, max_new_tokens=8).token_ids for s in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_an_untrained_model_says_so(video):
    answer = video.ask("what is there?", max_new_tokens=2)
    assert ("untrained" in answer.note) == (not video.model.voco.trained)


def test_open_by_digest_refuses_another_models_entry(model, video, tmp_path):
    digest = video.parts[0].entry.digest
    assert np.array_equal(model.open(digest[:10]).pts_seconds, video.pts_seconds)
    other = VideoModel(voco_tiny_in_kv(dtype="bfloat16"), model.cache)
    with pytest.raises(ModelError, match="was compressed by another model"):
        other.open(digest[:10])
