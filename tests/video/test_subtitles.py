"""Subtitles: every kind of file, the container's stream, which of them is taken, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.clips import Clip
from tests.helpers.subtitles import srt, vtt, write_subtitled
from voco_video.errors import DataError, UsageError
from voco_video.video.subtitles import Cue, find_beside, read_subtitle_stream, read_subtitles, subtitles_of

pytest.importorskip("pysubs2", reason="files of subtitles need pysubs2, which the extra `subtitles` brings")

LINES = [(1.0, 2.5, "Hello there,\nfriend."), (3.0, 4.0, "Second line")]
CUES = (Cue(1.0, 2.5, "Hello there, friend."), Cue(3.0, 4.0, "Second line"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.srt", srt(LINES)),
        ("a.SRT", srt(LINES).replace("\n", "\r\n")),
        ("a.srt", "\ufeff" + srt(LINES)),
        ("a.vtt", vtt(LINES)),
        # As Video-MME writes them, and as players' marks look.
        ("a.srt", srt([(1.0, 2.5, '<font color="white" size=".72c">Hello there,\nfriend.</font>'), LINES[1]])),
        ("a.srt", srt([(1.0, 2.5, "{\\an8}<i>Hello</i> there, friend."), LINES[1]])),
        ("a.vtt", vtt([(1.0, 2.5, "<v Bob>Hello <00:00:01.500><c>there</c>, friend."), LINES[1]])),
        ("a.json", json.dumps([{"start": "00:00:01.000", "end": "00:00:02.500", "line": "Hello there, friend."},
                               {"timestamp": [3.0, 4.0], "text": " Second line"}])),
        ("a.json", json.dumps({"segments": [{"start": 1.0, "end": 2.5, "text": "Hello there, friend."},
                                            {"start": 3, "end": 4, "text": "Second line"}]})),
        # In any order, with an empty line, and a line that is repeated at once.
        ("a.srt", srt([LINES[1], (1.0, 1.5, "Hello there, friend."), (1.5, 2.5, "Hello there, friend."), (5, 6, " ")])),
    ],
)  # fmt: skip
def test_files(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert read_subtitles(path) == CUES
    assert read_subtitles(path, shift_seconds=10)[0] == Cue(11.0, 12.5, CUES[0].text)


def test_other_encodings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes(srt([(1, 2, "Größe")]).encode("utf-16"))
    assert read_subtitles(path)[0].text == "Größe"
    path.write_bytes(srt([(1, 2, "Größe")]).encode("latin-1"))
    assert read_subtitles(path)[0].text == "Größe"
    assert "is not UTF-8" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.srt", "", r"a\.srt: has no subtitles"),
        ("a.srt", "just text\nand more\n", "has no subtitles"),
        ("a.vtt", "WEBVTT\n", "has no subtitles"),
        ("a.json", "[", "not JSON"),
        ("a.json", "{}", "has to hold a list of lines"),
        ("a.json", '[{"start": 1, "text": "x"}]', "row 1: is .* but has to hold start, end and text"),
        ("a.json", '[{"start": "x", "end": 2, "text": "x"}]', "row 1"),
    ],
)
def test_faults(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_subtitles(tmp_path / name)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_subtitles(tmp_path / "absent.srt")
    with pytest.raises(UsageError, match=r"give auto, none, or a file that ends with \.srt"):
        read_subtitles(tmp_path / "talk.docx")


def test_beside_a_video(tmp_path: Path) -> None:
    video = tmp_path / "talk.mp4"
    assert find_beside(video) is None
    for name in ("talks.srt", "talk.notes and more.srt", "other.srt"):
        (tmp_path / name).touch()
    assert find_beside(video) is None
    # Each of these goes before those above it.
    for name in ("talk.de.vtt", "talk.en.vtt", "talk.vtt", "talk.de.srt", "talk.en-GB.srt", "talk.srt"):
        (tmp_path / name).touch()
        assert find_beside(video) == tmp_path / name
    assert find_beside(tmp_path / "gone" / "talk.mp4") is None


def test_the_containers_stream(tmp_path: Path) -> None:
    video = write_subtitled(tmp_path / "talk.mkv", LINES)
    assert read_subtitle_stream(video) == CUES
    assert subtitles_of(video) == CUES
    assert subtitles_of(video, "none") == ()
    # A file beside it goes first; another one may be named.
    (tmp_path / "talk.vtt").write_text(vtt([(0, 1, "beside")]))
    assert [cue.text for cue in subtitles_of(video)] == ["beside"]
    (tmp_path / "named.srt").write_text(srt([(0, 1, "named")]))
    assert [cue.text for cue in subtitles_of(video, tmp_path / "named.srt")] == ["named"]


def test_a_clock_that_begins_late(tmp_path: Path) -> None:
    """A stream's times are of the video's own clock; a file's begin with the video, as players show it."""
    video = write_subtitled(tmp_path / "late.mkv", LINES, start_seconds=5)
    assert subtitles_of(video) == tuple(Cue(c.start_seconds + 5, c.end_seconds + 5, c.text) for c in CUES)
    (tmp_path / "late.srt").write_text(srt(LINES))
    assert subtitles_of(video) == tuple(Cue(c.start_seconds + 5, c.end_seconds + 5, c.text) for c in CUES)


def test_a_video_without_any(tmp_path: Path) -> None:
    assert subtitles_of(Clip("a.mkv", num_frames=4, rate=4).write(tmp_path)) == ()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="its subtitles cannot be read"):
        subtitles_of(tmp_path / "broken.mp4")
