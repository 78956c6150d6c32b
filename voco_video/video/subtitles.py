"""Speech as text: subtitles beside a video, in its container, or in a file, as lines with their times.

    auto    FILE beside the video (talk.srt, talk.vtt, talk.en.srt), else the container's first subtitle stream of text
    FILE    .srt, .vtt, .ass, .ssa; or .json: LongVideoBench's rows, or the segments that Whisper's programs write
    none    nothing

Times of files begin with the video; those of streams are of its own clock.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av

from voco_video.errors import DataError, UsageError, used_wrongly

log = logging.getLogger(__name__)

AUTO_SUBTITLES, NO_SUBTITLES = "auto", "none"
SUBTITLE_SUFFIXES = (".srt", ".vtt", ".ass", ".ssa", ".json")
_BESIDE = (".srt", ".vtt")
_TEXT_CODECS = ("subrip", "srt", "webvtt", "mov_text", "ass", "ssa", "text")
_TAGS = re.compile(r"<[^<>]*>|\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Cue:
    """A line that is said, or shown, from a start to an end, in seconds of the video's own clock."""

    start_seconds: float
    end_seconds: float
    text: str


def subtitles_of(video: str | os.PathLike[str], choice: str | os.PathLike[str] = AUTO_SUBTITLES) -> tuple[Cue, ...]:
    """Read the subtitles of a video, in time order; none where there are none.

    Args:
        video: its file.
        choice: "auto", "none", or a file.

    Raises:
        DataError: a file cannot be read.
        UsageError: a file of another kind, or pysubs2 is not installed.

    >>> subtitles_of("talk.mkv")[0]                                   # doctest: +SKIP
    Cue(start_seconds=1.0, end_seconds=2.5, text='Hello there, friend.')
    """
    if choice == NO_SUBTITLES:
        return ()
    if choice != AUTO_SUBTITLES:
        return read_subtitles(choice, shift_seconds=_first_second(video))
    beside = find_beside(video)
    return read_subtitle_stream(video) if beside is None else read_subtitles(beside, shift_seconds=_first_second(video))


def find_beside(video: str | os.PathLike[str]) -> Path | None:
    """Find the file of subtitles beside a video: of its name, or of its name and a language, .srt before .vtt."""
    path = Path(video)
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return None
    for suffix in _BESIDE:
        fits = [name for name in names if name.lower().endswith(suffix) and name.startswith(f"{path.stem}.")]
        exact = [name for name in fits if name[: -len(suffix)] == path.stem]
        languages = [name for name in fits if re.fullmatch(r"[\w-]{2,12}", name[len(path.stem) + 1 : -len(suffix)])]
        english = [name for name in languages if name[len(path.stem) + 1 :].lower().startswith("en")]
        if found := [*exact, *english, *languages]:
            return path.with_name(found[0])
    return None


def read_subtitles(path: str | os.PathLike[str], *, shift_seconds: float = 0.0) -> tuple[Cue, ...]:
    """Read a file of subtitles, without markup, in time order.

    Args:
        path: see SUBTITLE_SUFFIXES.
        shift_seconds: added to all times.

    Raises:
        DataError: the file is not there, cannot be read, or has no line with a time.
        UsageError: a file of another kind, or pysubs2 is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUBTITLE_SUFFIXES:
        raise UsageError(
            f"subtitles {str(path)!r}: give auto, none, or a file that ends with {', '.join(SUBTITLE_SUFFIXES)}"
        )
    text = _decoded(path)
    cues = _json_cues(path, text) if suffix == ".json" else _parsed(path, text, suffix[1:])
    found = _tidied(cues, shift_seconds)
    if not found:
        raise DataError(f"{path}: has no subtitles (no line with its times was found); is the file whole?")
    return found


def read_subtitle_stream(video: str | os.PathLike[str]) -> tuple[Cue, ...]:
    """Read the first subtitle stream of text in a video's container; none where there is none, or it is of pictures."""
    try:
        with av.open(os.fspath(video)) as container:
            streams = [s for s in container.streams.subtitles if s.codec_context.name in _TEXT_CODECS]
            if not streams:
                if container.streams.subtitles:
                    log.warning("%s: its subtitles are pictures, not text, so they are not read", video)
                return ()
            return _tidied(_stream_cues(container, streams[0]))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{video}: its subtitles cannot be read ({error})") from error


def _stream_cues(container: Any, stream: Any) -> Iterator[Cue]:
    for packet in container.demux(stream):
        if not packet.size or packet.pts is None:
            continue
        start = float(packet.pts * packet.time_base)
        end = start + float((packet.duration or 0) * packet.time_base)
        for line in packet.decode():
            yield Cue(start, end, getattr(line, "dialogue", b"").decode("utf-8", "replace"))


def _first_second(video: str | os.PathLike[str]) -> float:
    """Return when a video begins by its own clock, which is where players begin to count."""
    try:
        with av.open(os.fspath(video)) as container:
            return (container.start_time or 0) / av.time_base
    except (av.FFmpegError, OSError, ValueError):
        return 0.0


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise used_wrongly(DataError(f"{path}: no such file")) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        log.warning("%s: is not UTF-8; it is read as Latin-1 (Windows-1252), so some letters may be wrong", path)
        return content.decode("cp1252", "replace")


def _parsed(path: Path, text: str, kind: str) -> Iterator[Cue]:
    try:
        import pysubs2
    except ImportError as error:
        raise UsageError("files of subtitles need pysubs2: pip install 'voco-video[subtitles]'") from error
    try:
        events = pysubs2.SSAFile.from_string(text, format_=kind).events
    except (pysubs2.exceptions.Pysubs2Error, ValueError) as error:
        raise DataError(f"{path}: not .{kind} subtitles ({error!s:.80})") from error
    yield from (Cue(e.start / 1000, e.end / 1000, e.plaintext) for e in events if not e.is_comment)


def _json_cues(path: Path, text: str) -> Iterator[Cue]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); is the file whole?") from error
    rows = content.get("segments") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f'{path}: has to hold a list of lines with their times, or "segments" with such a list')
    for number, row in enumerate(rows, start=1):
        try:
            start, end = row["timestamp"] if "timestamp" in row else (row["start"], row["end"])
            # LongVideoBench leaves out the end of some last lines.
            first = _seconds(start)
            yield Cue(first, first if end is None else _seconds(end), row["line"] if "line" in row else row["text"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, row {number}: is {row!r:.80}, but has to hold start, end and text") from error


def _seconds(value: object) -> float:
    """Read seconds, or "h:mm:ss.sss"."""
    if isinstance(value, str):
        hours, minutes, seconds = (["0", "0", *value.replace(",", ".").split(":")])[-3:]
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ValueError(value)


def _tidied(cues: Iterable[Cue], shift_seconds: float = 0.0) -> tuple[Cue, ...]:
    """Sort lines by time, without markup and empty lines; a line that is repeated at once is one line."""
    tidy: list[Cue] = []
    for cue in sorted(cues, key=lambda cue: (cue.start_seconds, cue.end_seconds)):
        text = " ".join(html.unescape(_TAGS.sub("", str(cue.text))).split())
        start, end = cue.start_seconds + shift_seconds, max(cue.start_seconds, cue.end_seconds) + shift_seconds
        if not text:
            continue
        if tidy and tidy[-1].text == text and start <= tidy[-1].end_seconds + 0.1:
            tidy[-1] = replace(tidy[-1], end_seconds=max(end, tidy[-1].end_seconds))
        else:
            tidy.append(Cue(start, end, text))
    return tuple(tidy)
