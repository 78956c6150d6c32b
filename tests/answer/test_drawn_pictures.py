"""Pictures of frames: no text leaves them or covers another, none is lost, and they look the same on any ground."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.helpers.clips import Clip
from tests.helpers.drawn_texts import drawn_by_pil
from voco_video.answer.generate import Answer
from voco_video.answer.moments import Moment
from voco_video.answer.page import PAGE_WIDTH
from voco_video.answer.pictures import ShownMoment, attention_bars, attention_strip, contact_sheet, moment_strip
from voco_video.video.frames import FrameBatch

LONG_NAME = "recording-of-the-northern-entrance-" * 3 + "2026-11-28.mkv"
TEXTS = {
    "short": "Who is there?",
    "words": "The person in the red coat opens the door, waits, and leaves again. " * 15,
    "one word": "x" * 1000,
    "lines": "first\nsecond\r\n\n\tthird",
    "accents": "Où est le garçon à l’étage – “là-haut”? Ångström, žluťoučký kůň, Привет, Ελλάδα",
    "Chinese": "这个人在视频里做什么？" * 12,
    "Hebrew": "מה עושה האיש בסרטון? " * 12,
    "Arabic": "ماذا يفعل الرجل في الفيديو؟ " * 12,
    "emoji": "a 👍🏽 and a 👩‍👩‍👧 in the 🏳️‍🌈, ☃",
    "control": "a\x00b\x1b[31mc\u202eevil\ud800\u200b",
    "formula": "cost $x_1$ of 100% {y} \\alpha <b>",
    "empty": "",
}
SHAPES = {"wide": (1200, 60), "tall": (40, 700), "usual": (160, 90), "point": (1, 1)}


def frames(count: int, shape: str = "usual") -> FrameBatch:
    width, height = SHAPES[shape]
    pixels = np.full((count, height, width, 3), 120, np.uint8)
    return FrameBatch(pixels=pixels, pts_seconds=np.arange(count) * 1234.5)


def an_answer(count: int, *, question: str = "Who?", text: str = "a man", **changed: object) -> Answer:
    shares = np.arange(1, count + 1, dtype=float)
    given = {"frame_attention": shares / max(shares.sum(), 1), "frame_pts_seconds": np.arange(float(count)) * 60}
    return Answer(question, text, (), 0.9, count, 1, 0.1, video_attention=0.25, **given | changed)


def moments(count: int, *, name: str = "clip.mp4", score: float | None = None, **changed: object) -> list[ShownMoment]:
    scores = [count / 2 - place if score is None else score for place in range(count)]
    return [
        ShownMoment(Moment(3600.0 * n, 3600.0 * n + 2, 3600.0 * n, s, is_likely=s > 0), name, **changed)
        for n, s in enumerate(scores)
    ]


def check(draw: Callable[[], Image.Image]) -> tuple[Image.Image, str]:
    """Draw a picture, hold it against the rules for all of them, and return it with all that is written in it."""
    with drawn_by_pil() as drawn:
        picture = draw()
    assert drawn.faults == []
    assert (picture.mode, picture.width) == ("RGB", PAGE_WIDTH)
    assert min(picture.getpixel((5, 5))) > 250, "the ground is light and its own"
    assert picture.getpixel((0, 0)) != picture.getpixel((5, 5)), "and ends with a border"
    return picture, " ".join(drawn.texts)


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_all_kinds_stay_in_the_picture(name):
    text = TEXTS[name]
    _, of_answer = check(
        lambda: attention_strip(an_answer(3, question=text, text=text, is_cut=True, note="n"), head=text)
    )
    _, of_moments = check(lambda: moment_strip(moments(3, name=f"{text[:120]}.mp4"), query=text, notes=[text]))
    _, of_sheet = check(lambda: contact_sheet(frames(2), title=text, note=text))
    for written in (of_answer, of_moments, of_sheet):
        if name in ("words", "one word", "accents", "formula", "Hebrew", "Arabic"):
            assert squeezed(text) in squeezed(written), "every word is there"
    if name == "empty":
        assert "(an empty answer)…" in of_answer


def test_what_no_font_has_is_said(monkeypatch):
    monkeypatch.setattr("voco_video.files.fonts._has", lambda font, one: one.isascii() or one in "□·…")
    _, written = check(lambda: attention_strip(an_answer(1, question="中文 한국", text="a 👍 b")))
    assert "□□ □□" in written
    assert squeezed("no font here has (CJK, Hangul)") in squeezed(written)
    assert "a [thumbs up sign] b" in written
    _, written = check(lambda: moment_strip(moments(1, name="视频.mp4"), query="plain"))
    assert squeezed("no font here has (CJK)") in squeezed(written), "what stands below frames counts as well"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [0, 1, 2, 64])
def test_any_number_of_frames_of_any_shape(count, shape):
    picture, written = check(lambda: contact_sheet(frames(count, shape), title="clip.mp4"))
    assert ("There are no frames." in written) == (count == 0)
    assert picture.height < 9000


def test_frames_are_whole_and_in_their_order():
    colours = [(200, 30, 30), (30, 160, 30), (30, 30, 200)]
    pixels = np.stack([np.full((90, 160, 3), colour, np.uint8) for colour in colours])
    batch = FrameBatch(pixels=pixels, pts_seconds=np.arange(3.0))
    picture, written = check(lambda: contact_sheet(batch))
    assert written.split() == ["0:00.00", "0:01.00", "0:02.00"]
    rows = np.asarray(picture)
    areas = [np.argwhere((rows == colour).all(axis=-1)) for colour in colours]
    assert len({len(area) for area in areas}) == 1
    assert [area[:, 1].min() for area in areas] == sorted(area[:, 1].min() for area in areas)


@pytest.mark.parametrize("count", [0, 1, 2, 64, 3000])
def test_the_strip_of_an_answer_says_which_frames_it_shows(count):
    _, written = check(lambda: attention_strip(an_answer(count)))
    expected = {0: "saw no frame", 1: "one frame", 2: "All 2 frames", 64: "60 of 64 frames", 3000: "60 of 3000 frames"}
    assert expected[count] in written
    assert ("share of the attention to the video, frame by frame" in written) == (count > 1)
    assert (count in (0, 1)) or "0:00.00" in written
    assert "25% of the attention on the video" in written


@pytest.mark.parametrize(
    "shares", [[0.0, 0.0], [math.nan, math.nan], [math.nan, 1.0], [0.5, 0.5], [1e-9, 1.0], [math.inf, 0.1]]
)
def test_attention_that_is_no_number_is_no_bar(shares):
    answer = an_answer(2, frame_attention=np.array(shares))
    _, written = check(lambda: attention_strip(answer))
    assert written.count("not a number") == sum(not math.isfinite(share) for share in shares)
    assert "nan" not in attention_bars(answer).partition("most on")[0]


def test_bars_have_one_scale(tmp_path):
    answer = an_answer(4, frame_attention=np.array([0.1, 0.4, 0.3, 0.2]))
    picture, written = check(lambda: attention_strip(answer))
    assert " 0% 40% " in written, "the ends of the axis"
    orange = (np.asarray(picture) == (226, 88, 34)).all(axis=-1)
    below_frames = orange[-50:, 16:784].any(axis=0)
    lengths = [part.sum() for part in np.array_split(below_frames, 5)[:4]]
    assert lengths == pytest.approx([max(lengths) * share for share in (0.25, 1.0, 0.75, 0.5)], abs=2)
    columns = np.flatnonzero(orange[:-60].any(axis=0))
    middles = columns[0] + (columns[-1] - columns[0]) * np.array([1, 3, 5, 7]) // 8
    heights = orange[:-60].sum(axis=0)[middles].tolist()
    assert heights == pytest.approx([max(heights) * share for share in (0.25, 1.0, 0.75, 0.5)], abs=2)


def test_confidence_of_what_means_nothing_is_not_shown():
    _, written = check(lambda: attention_strip(an_answer(2, is_foreign=True, note="nothing like it was learned")))
    assert "This means nothing: nothing like it was learned" in written
    assert "confidence" not in written
    assert "confidence 90%" in check(lambda: attention_strip(an_answer(2)))[1]


@pytest.mark.parametrize("count", [0, 1, 50])
def test_moments_have_names_times_and_scores(count):
    _, written = check(lambda: moment_strip(moments(count, name=LONG_NAME), query="a red door", notes=["voco-tiny"]))
    assert "a red door" in written
    assert ("Nothing was found." in written) == (count == 0)
    assert written.count("2026-11-28.mkv") == count, "the end of a long name stays"
    if count == 50:
        assert "1. recording" in written
        assert "50. recording" in written
        assert "score 25.00 · likely" in written
        assert "score -24.00 · unlikely" in written
        assert "49:00:00.00 - 49:00:02.00" in written


def test_scores_say_what_they_are_worth():
    assert check(lambda: moment_strip(moments(4, score=1.5), query="q"))[1].count("score 1.50 · likely") == 4
    assert "score is not a number" in check(lambda: moment_strip(moments(1, score=math.nan), query="q"))[1]
    foreign = check(lambda: moment_strip(moments(2, is_foreign=True), query="q"))[1]
    assert foreign.count("score means nothing") == 2
    assert "The scores mean nothing here." in foreign
    unlearned = [ShownMoment(Moment(0.0, 1.0, 0.0, 9.68), "a.mp4")]
    written = check(lambda: moment_strip(unlearned, query="q"))[1]
    assert "9.68" not in written
    assert "Only the order counts" in written
    mixed = check(lambda: moment_strip([*moments(1), *moments(1, is_foreign=True)], query="q"))[1]
    assert "means nothing where a video is unlike" in mixed


@pytest.mark.parametrize(("width", "height"), [(640, 48), (160, 640), (160, 96)])
def test_frames_come_from_the_video(tmp_path, width, height):
    path = Clip("shape.mp4", num_frames=3, rate=1, width=width, height=height).write(tmp_path)
    gone, _ = check(lambda: attention_strip(an_answer(3, frame_pts_seconds=np.arange(3.0))))
    shown, written = check(lambda: attention_strip(an_answer(3, frame_pts_seconds=np.arange(3.0)), source=path))
    assert "no frame" not in written
    assert shown.tobytes() != gone.tobytes()
    _, written = check(lambda: attention_strip(an_answer(3), source=tmp_path / "gone.mp4"))
    assert written.count("no frame") == 3
    assert "not there any more" in written
