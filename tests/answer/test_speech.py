"""Speech told with frames: where lines stand, what the model reads, the budget, and searching what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.subtitles import srt, write_subtitled
from tests.helpers.tiny_families import tiny_family
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.moments import Moment
from voco_video.answer.several_videos import concat, find
from voco_video.answer.speech import SpokenMoment, fitting, lines_by_frame, order_of, search_speech
from voco_video.api import VideoModel, load_model
from voco_video.checkpoint.folder import save_voco_model
from voco_video.model.voco import VocoModel
from voco_video.options.answering import ViewOptions
from voco_video.video.subtitles import Cue

LINES = [(0.5, 1.5, "Now we cut the onions."), (2.0, 4.0, "Then the garlic."), (4.2, 5.9, "It smells good.")]
CUES = tuple(Cue(*line) for line in LINES)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subtitled(tmp_path_factory.mktemp("clips") / "talk.mkv", LINES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    """voco-tiny: all frames before the first word, so what is said stands between frames."""
    return load_model("voco-tiny", dtype="float32", cache_dir=tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def video(model: VideoModel, clip: Path) -> CompressedVideo:
    return model.compress(clip, fps=1)


# --- which lines stand where


def interleaved(cues, pts):
    """LongVideoBench's insert_subtitles_into_frames, written out: numbers of frames, and lines."""
    items, current = [], 0
    for cue in cues:
        middle = (cue.start_seconds + cue.end_seconds) / 2
        while current < len(pts) and pts[current] <= middle:
            items.append(current)
            current += 1
        start, end = cue.start_seconds, cue.end_seconds
        if end - start < 1:
            start, end = middle - 0.5, middle + 0.5
        if any(start < t < end for t in pts):
            items.append(cue.text)
    return items + list(range(current, len(pts)))


def test_lines_stand_where_longvideobench_puts_them():
    rng = np.random.default_rng(0)
    for _ in range(200):
        pts = np.sort(rng.uniform(0, 20, rng.integers(1, 12))).round(2)
        starts = np.sort(rng.uniform(0, 20, rng.integers(1, 8)))
        cues = [Cue(float(s), float(s + rng.uniform(0.1, 4)), f"line {n}") for n, s in enumerate(starts)]
        cues.sort(key=lambda cue: cue.start_seconds + cue.end_seconds)  # the reference never goes back
        expected = interleaved(cues, pts)
        found = lines_by_frame(cues, pts)
        ours = [item for f in range(len(pts)) for item in (*(cue.text for cue in found.get(f, ())), f)]
        last = len(pts) - 1
        # What the reference puts behind the last frame stands right before it here.
        behind = expected[expected.index(last) + 1 :]
        place = expected.index(last)
        assert ours == [*expected[:place], *behind, last]


def test_lines_that_do_not_fit_are_left_out_evenly():
    assert fitting(list(range(10)), lambda line: 3, room=30) == list(range(10))
    assert fitting(list(range(10)), lambda line: 3, room=29) == [0, 2, 4, 6, 8]
    assert fitting(list(range(10)), lambda line: 3, room=2) == []
    assert fitting([5, 1, 1], lambda line: line, room=None) == [5, 1, 1]


# --- what the model reads


def by_hand(model: VocoModel, video: CompressedVideo, before: dict[int, str]):
    """The prefix with text written before some frames, assembled directly."""
    from voco_video.model.mixed_prefix import assemble

    tokens = video.tokens()
    counts = torch.full((tokens.num_frames,), tokens.num_voco_tokens)
    backbone = model.backbone
    leads = backbone.lead_ids(video._words.times(np.arange(tokens.num_frames)), speech=before)
    return assemble(model, tokens, counts=counts, texts=dict(enumerate(leads)))


def test_the_model_reads_what_is_said_before_its_frame(model, video):
    told = video.with_subtitles(CUES)
    expected = by_hand(
        model.voco, video, {2: "Now we cut the onions.\n", 4: "Then the garlic.\n", 5: "It smells good.\n"}
    )
    prefix = told.prefix()
    assert prefix.length == expected.length > video.prefix().length
    for (keys, values), (k, v) in zip(prefix.layers, expected.layers, strict=True):
        torch.testing.assert_close(keys, k)
        torch.testing.assert_close(values, v)


def test_the_clock_goes_with_speech(model, video):
    options = ViewOptions(clock_every_seconds=2)
    both = video.with_subtitles(CUES).prefix(options=options).length
    clock, speech, plain = video.prefix(options=options), video.with_subtitles(CUES).prefix(), video.prefix()
    assert both == clock.length + speech.length - plain.length


@pytest.mark.parametrize("family", ["llava_onevision", pytest.param("smolvlm", marks=pytest.mark.exhaustive)])
def test_as_trained_it_stands_between_the_words_on_frames(family, clip, tmp_path):
    folder = save_voco_model(tiny_family(family), tmp_path / "model")
    model = load_model(str(folder), dtype="float32", cache_dir=tmp_path / "cache")
    video = model.compress(clip, num_frames=3)
    told = video.with_subtitles([Cue(1.0, 5.0, "hello <image> there")])
    more = told.prefix().length - video.prefix().length
    # A special token that is typed in a subtitle is plain letters, so there is no frame more.
    assert more == told._words.num_spoken_tokens(told.parts[0].cues[0])
    assert len(told.prefix().frame_slots) == len(video.prefix().frame_slots)


def test_other_words_change_the_answers_probability(video):
    asked = "who is there?"
    alone, told = video.ask(asked), video.with_subtitles(CUES).ask(asked)
    assert alone.confidence != told.confidence
    for nothing in ("none", ()):
        silent = video.with_subtitles(nothing).ask(asked)
        assert (silent.text, silent.confidence) == (alone.text, alone.confidence)


# --- budget


def test_speech_is_part_of_the_budget(video):
    per_frame = video.num_voco_tokens
    told = video.with_subtitles(CUES)
    num_spoken = told._words.num_speech_tokens
    whole = video.num_frames * per_frame + num_spoken
    assert told.view(options=ViewOptions(max_voco_tokens=whole)).num_tokens == video.num_frames * per_frame
    tight = ViewOptions(max_voco_tokens=4 * per_frame)
    selection = told.view(options=tight)
    assert selection.num_tokens <= 4 * per_frame - min(num_spoken, 2 * per_frame)
    lines = told._words.told(selection, tight)
    spent = sum(told._words.num_spoken_tokens(cue) for cues in lines.lines.values() for cue in cues)
    assert selection.num_tokens + spent <= 4 * per_frame
    assert video.view(options=tight).num_tokens == 4 * per_frame
    # One frame is seen even where speech wants all there is.
    assert len(told.view(options=ViewOptions(max_voco_tokens=per_frame)).frames) == 1


def test_the_answer_says_how_much_speech_was_left_out(video):
    told = video.with_subtitles([Cue(t / 4, t / 4 + 1, f"line number {t} is said here") for t in range(20)])
    note = told.ask("who is there?", max_voco_tokens=6 * video.num_voco_tokens).note
    assert "lines of speech" in note
    assert "lines of speech" not in told.ask("who is there?").note


def test_windows_and_joined_videos_keep_their_own_speech(model, video, clip):
    told = video.with_subtitles(CUES)
    window = told[0:3]
    assert [cue.text for cue in window.parts[0].cues] == [cue.text for cue in CUES]
    assert window._words.num_speech_tokens < told._words.num_speech_tokens
    both = concat([told, replace(video).with_subtitles([Cue(1.0, 5.0, "other")])])
    lines = both._words.told(both.view(), ViewOptions()).lines
    assert {f: [cue.text for cue in cues] for f, cues in lines.items()} == {
        2: ["Now we cut the onions."],
        4: ["Then the garlic."],
        5: ["It smells good."],
        10: ["other"],
    }


# --- search


def test_search_of_speech():
    def found(query):
        return [(m.start_seconds, m.end_seconds, m.score) for m in search_speech(CUES, query, num_moments=5)]

    assert found("the garlic") == [(2.0, 4.0, 1.0)]
    assert found("GARLIC?") == [(2.0, 4.0, 1.0)]
    assert found("does he cut an onion") == [(0.5, 1.5, 1.0)]
    assert found("onions and garlic") == [(0.5, 4.0, 1.0)]  # over two lines that follow each other
    assert found("a red star") == found("what is it about?") == []
    assert search_speech((), "garlic", num_moments=5) == []
    (partial,) = search_speech(CUES, "onions, garlic and a xylophone", num_moments=5)
    assert 0.5 <= partial.score < 1
    assert search_speech(CUES, "garlic, a xylophone and a harp", num_moments=5) == []


def test_find_returns_what_is_said_and_what_is_seen(video):
    told = video.with_subtitles(CUES)
    first, *others = told.find("garlic", num_moments=3)
    assert isinstance(first, SpokenMoment)
    assert (first.start_seconds, first.end_seconds, first.text) == (2.0, 4.0, "Then the garlic.")
    assert others == video.find("garlic", num_moments=3)[:2]
    assert told.find("the red star", num_moments=3) == video.find("the red star", num_moments=3)
    assert find([video, told], "garlic", num_moments=1)[0].video is told


def test_order_of_moments():
    said = [SpokenMoment(0, 1, 0, score=score, text="x") for score in (1.0, 0.6)]
    seen = [Moment(0, 1, 0, score=score, is_likely=score > 0) for score in (5.0, -2.0)]
    assert sorted([*seen, *said], key=order_of) == [said[0], seen[0], said[1], seen[1]]


# --- where lines come from


def test_subtitles_come_from_the_container_or_a_file(video, clip, tmp_path):
    pytest.importorskip("pysubs2", reason="files of subtitles need pysubs2, which the extra `subtitles` brings")
    assert video.with_subtitles().parts[0].cues == CUES  # the stream of the file that the entry was made from
    path = tmp_path / "other.srt"
    path.write_text(srt([(0, 1, "named")]))
    assert [cue.text for cue in video.with_subtitles(path).parts[0].cues] == ["named"]
    assert not video.has_speech
