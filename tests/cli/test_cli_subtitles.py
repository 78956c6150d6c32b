"""``--subtitles`` of ask and find, and ``transcribe``, from the command line."""

from __future__ import annotations

import json
import wave
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.clips import Clip
from tests.helpers.subtitles import srt, write_subtitled
from voco_video.errors import UsageError, VideoError
from voco_video.video.subtitles import Cue, read_subtitles
from voco_video.video.transcribing import transcribe, write_vtt

pytest.importorskip("pysubs2", reason="files of subtitles need pysubs2, which the extra `subtitles` brings")
LINES = [(0.5, 1.5, "Now we cut the onions."), (2.0, 4.0, "Then the garlic.")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subtitled(tmp_path_factory.mktemp("clips") / "talk.mkv", LINES)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "subtitles-cache"))


def test_find_shows_what_is_said(run, clip, tmp_path):
    code, out, err = run("find", clip, "garlic", "--subtitles", "auto")
    assert code == 0, err
    assert "says: Then the garlic." in out.splitlines()[1] + out.splitlines()[2]
    code, out, _ = run("find", clip, "garlic", "--json")
    assert all("text" not in moment for moment in json.loads(out)["moments"])
    (tmp_path / "other.srt").write_text(srt([(3, 4, "No garlic here.")]))
    code, out, _ = run("find", clip, "garlic", "--subtitles", tmp_path / "other.srt", "--json")
    first = json.loads(out)["moments"][0]
    assert (first["text"], first["start_seconds"], first["score"]) == ("No garlic here.", 3.0, 1.0)


def test_ask_is_told(run, clip):
    code, out, err = run("ask", clip, "who is there?", "--subtitles", "auto", "--anyway", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["num_spoken_lines"] == 2
    code, out, _ = run("ask", clip, "who is there?", "--anyway", "--json")
    assert "num_spoken_lines" not in json.loads(out)


def test_a_video_without_speech_says_so(run, tmp_path):
    silent = Clip("silent.mp4", num_frames=8, rate=4).write(tmp_path)
    code, _, err = run("ask", silent, "who?", "--subtitles", "auto", "--anyway")
    assert (code, "silent.mp4 has no subtitles, beside it or in it" in " ".join(err.split())) == (0, True)


def test_mistakes(run, clip, tmp_path):
    (tmp_path / "empty.srt").touch()
    for command, words in (("ask", "who?"), ("find", "star")):
        for named, expected, message in (
            ("gone.srt", 2, "gone.srt: no such file"),
            ("talk.docx", 2, "give auto, none, or a file"),
            (tmp_path / "empty.srt", 1, "has no subtitles"),
        ):
            code, out, err = run(command, clip, words, "--subtitles", named)
            assert (code, message in " ".join(err.split()), "Traceback" in err, out) == (expected, True, False, ""), err


def test_transcribe_asks_for_its_extra(run, clip, tmp_path):
    if find_spec("faster_whisper"):
        pytest.skip("faster-whisper is installed")
    code, _, err = run("transcribe", clip)
    assert (code, "pip install 'voco-video[transcribe]'" in " ".join(err.split())) == (2, True)


def test_transcribe_refuses(run, clip, tmp_path):
    named = clip.with_suffix(".vtt")
    named.write_text("mine")
    code, _, err = run("transcribe", clip)
    assert (code, "is there already" in " ".join(err.split()), named.read_text()) == (2, True, "mine")
    named.unlink()
    code, _, err = run("transcribe", tmp_path / "gone.mp4")
    assert (code, "no such file" in err) == (2, True)
    code, _, err = run("transcribe", clip, "--out", "talk.txt")
    assert (code, "ends with .vtt" in " ".join(err.split())) == (2, True)


def test_transcribe_names_what_it_cannot_do(clip, tmp_path):
    pytest.importorskip("faster_whisper", reason="transcription needs faster-whisper (extra `transcribe`)")
    with pytest.raises(VideoError, match="has no sound"):
        transcribe(clip)
    sounding = tmp_path / "loud.wav"
    with wave.open(str(sounding), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes(bytes(32000))
    for name in ("nosuchsize", str(tmp_path / "nowhere")):
        with pytest.raises(UsageError, match="cannot be loaded"):
            transcribe(sounding, whisper_model=name)


def test_what_is_written_down_is_read(tmp_path):
    cues = (Cue(1.0, 2.5, "Tom & <b>Jerry</b> --> run"), Cue(3661.0, 3662.25, "late"))
    assert read_subtitles(write_vtt(tmp_path / "a.vtt", cues)) == cues
