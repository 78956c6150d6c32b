"""Speech to text with faster-whisper (extra ``transcribe``): nothing runs, or is fetched, unless it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from voco_video.errors import UsageError, VideoError
from voco_video.files.atomic_write import write_atomically
from voco_video.files.settings import first_line
from voco_video.video.subtitles import Cue

WHISPER_MODEL = "small"


def transcribe(
    video: str | os.PathLike[str],
    *,
    whisper_model: str = WHISPER_MODEL,
    language: str | None = None,
    device: str = "auto",
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Cue, ...]:
    """Write down what is said in a video; none where nothing is.

    Args:
        video: a file with sound.
        whisper_model: a size that faster-whisper knows ("tiny" to "large-v3"), a name on the hub, or a folder.
        language: as a code, such as "en"; None: it is detected.
        device: "cpu", "cuda", or "auto".
        on_progress: called with the seconds that are done, after every line.

    Raises:
        UsageError: faster-whisper is not installed, cannot load the model, or does not know the language.
        VideoError: the file has no sound, or cannot be read.

    >>> transcribe("talk.mp4")[0].text                                # doctest: +SKIP
    'Hello and welcome.'
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise UsageError("transcription needs faster-whisper: pip install 'voco-video[transcribe]'") from error
    _check_sound(video)
    try:
        whisper = WhisperModel(whisper_model, device=device)
    except (ValueError, OSError, RuntimeError) as error:  # no such size, no way to the hub, no model in the folder
        raise UsageError(f"whisper model {whisper_model!r} cannot be loaded: {first_line(error)}") from error
    try:
        segments, _ = whisper.transcribe(os.fspath(video), language=language, vad_filter=True)
    except ValueError as error:
        raise UsageError(f"language {language!r}: {first_line(error)}") from error
    cues = []
    for segment in segments:
        if text := " ".join(segment.text.split()):
            cues.append(Cue(float(segment.start), float(segment.end), text))
        if on_progress is not None:
            on_progress(float(segment.end))
    return tuple(cues)


def _check_sound(video: str | os.PathLike[str]) -> None:
    import av

    try:
        with av.open(os.fspath(video)) as container:
            has_sound = bool(container.streams.audio)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{video}: cannot be read ({error})") from error
    if not has_sound:
        raise VideoError(f"{video}: has no sound, so there is nothing to transcribe")


def write_vtt(path: str | os.PathLike[str], cues: Iterable[Cue]) -> Path:
    """Write lines as WebVTT, which `subtitles_of` and players read.

    >>> print(vtt_text([Cue(1, 2.5, "Hello.")]), end="")
    WEBVTT
    <BLANKLINE>
    00:00:01.000 --> 00:00:02.500
    Hello.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, vtt_text(cues))
    return path


def vtt_text(cues: Iterable[Cue]) -> str:
    """Write lines as the text of a WebVTT file."""
    blocks = (f"{_clock(cue.start_seconds)} --> {_clock(cue.end_seconds)}\n{_escaped(cue.text)}\n" for cue in cues)
    return "WEBVTT\n\n" + "\n".join(blocks)


def _clock(seconds: float) -> str:
    whole, thousandths = divmod(round(max(seconds, 0.0) * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{thousandths:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("-->", "--&gt;")
