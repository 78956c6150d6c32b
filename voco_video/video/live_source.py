"""Frames of a source that is still being made, as they come: a growing file, a pipe, anything FFmpeg opens by URL.

    source -> bytes that wait for more -> packets -> frames with their times

`reading` reads a whole file's times before it decodes anything. Here nothing is known ahead, so every frame is decoded.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from voco_video.errors import UsageError, VideoError, used_wrongly
from voco_video.files.paths import expanded
from voco_video.video.container import CONCEALING_CODECS, num_processors
from voco_video.video.picture_facts import AspectReader
from voco_video.video.scaling import Fit, FrameScaler, Orientation

logger = logging.getLogger("voco_video")

SourceKind = Literal["file", "pipe", "url"]
LiveFrame = tuple[float | None, Any]
"""A frame's own time in seconds, None where it has none, and the `av.VideoFrame`."""
OPEN_TIMEOUT_SECONDS = 15.0
_POLL_SECONDS = 0.05
# Threads that decode whole frames each hold one back; as many as keep that under this much.
_MAX_DECODER_DELAY_SECONDS = 0.25
# Several threads conceal the same error differently from run to run; one keeps up with 1080p at 60 fps.
_MAX_PIXELS_PER_SECOND = 1920 * 1088 * 60
_MAX_PACKETS_HELD = 2000
_MAX_FRAMES_WITHOUT_TIME = 50
_NOT_VIDEO_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf", "concat"})
_PLAYLIST_FORMATS = frozenset({"hls", "dash", "sdp", "rtsp"})  # would send a file's reader to other files or hosts
_PLAYABLE = "record MPEG-TS, MKV or fragmented MP4 (-movflags frag_keyframe+empty_moov)"


@dataclass(frozen=True)
class LiveSource:
    """Where frames come from.

    Attributes:
        address: as it was given: "-", a path or a URL.
        kind: "file", "pipe" or "url".
        name: how it is shown and recorded: a file's whole path, a URL without its password.
    """

    address: str = field(repr=False)
    kind: SourceKind
    name: str


def parse_source(source: str | os.PathLike[str]) -> LiveSource:
    """Tell what a source is: "-" is standard input, what is on disk a file or a named pipe, the rest a URL.

    Raises:
        VideoError: a path that is not there, or a folder.
        UsageError: a standard input that is a keyboard.

    >>> parse_source("rtsp://user:secret@camera.local/1")
    LiveSource(kind='url', name='rtsp://user@camera.local/1')
    """
    address = os.fspath(source)
    if address == "-":
        if sys.stdin.isatty():
            raise UsageError("-: standard input is a keyboard; send a video through a pipe, or give a file or a URL")
        return LiveSource(address, "pipe", "standard input")
    path = expanded(address)
    if "://" in address and not path.exists():
        return LiveSource(address, "url", _without_password(address))
    if path.is_dir():
        raise used_wrongly(VideoError(f"{path} is a folder; give one video that is being recorded"))
    if not path.exists():
        raise used_wrongly(VideoError(f"{path}: no such file; start the recording first"))
    kind: SourceKind = "file" if stat.S_ISREG(path.stat().st_mode) else "pipe"
    return LiveSource(str(path), kind, str(path.resolve()))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=credentials.partition(":")[0] + at + host).geturl()


class LiveReader:
    """Reads one source from where it starts, or as far back as it still gives.

    Args:
        idle_seconds: a file or a URL that gives nothing new for so long has ended; a pipe ends when it is closed.
        end_marker: a file has also ended, at once, when this path exists and everything is read.
        stop: set by another thread to end soon; reading from a URL ends only with the next packet.

    Attributes:
        begins_seconds: time of the first packet, once `frames` has begun.
        end_seconds: when the last frame ends; None until the source has ended.
        facts: container, codec and size of the stored picture, once a frame has come.
        num_undecodable: packets that did not decode, and pictures with errors in them.
    """

    def __init__(
        self, source: LiveSource, *, idle_seconds: float, end_marker: Path | None, stop: threading.Event
    ) -> None:
        self.source = source
        self.begins_seconds: float | None = None
        self.end_seconds: float | None = None
        self.facts: dict[str, Any] = {}
        self.num_undecodable = 0
        self._idle_seconds = idle_seconds
        self._stop = stop
        self._bytes: _Tail | _Pipe | None = None
        if source.kind == "file":
            self._bytes = _Tail(source, idle_seconds, end_marker, stop)
        elif source.kind == "pipe":
            self._bytes = _Pipe(source, stop)

    def open(self) -> None:
        """Wait until the source has said what it is. Raises VideoError for what cannot be reached or is no video."""
        self._container = self._open_container()
        formats = set(self._container.format.name.split(","))
        if formats & _NOT_VIDEO_FORMATS or (self._bytes is not None and formats & _PLAYLIST_FORMATS):
            raise VideoError(f"{self.source.name}: is no video ({self._container.format.long_name})")
        self._stream = self._video_stream()
        self._decoder = self._stream.codec_context
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        self._decoder.thread_count = self._num_threads(rate)
        self._decoder.thread_type = "AUTO" if self._decoder.thread_count > 1 else "SLICE"
        self._frame_seconds = 1 / rate

    def _num_threads(self, rate: float) -> int:
        decoder = self._decoder
        is_small = decoder.width * decoder.height * rate <= _MAX_PIXELS_PER_SECOND
        if is_small and decoder.codec.canonical_name in CONCEALING_CODECS:
            return 1
        return max(1, min(num_processors(), int(rate * _MAX_DECODER_DELAY_SECONDS)))

    def close(self) -> None:
        """Let go of the source. Safe to call twice."""
        if hasattr(self, "_container"):
            self._container.close()
        if self._bytes is not None:
            self._bytes.close()

    def scaler(self, picture: Any, fit: Fit | None) -> FrameScaler:
        """What brings frames like this `av.VideoFrame` to their final size."""
        return FrameScaler(
            fit,
            stored_height=picture.height,
            stored_width=picture.width,
            sample_aspect_ratio=self._stream.sample_aspect_ratio or Fraction(1),
            orientation=Orientation.of_frame(picture),
            coded_aspect=AspectReader().read(picture),
            name=self.source.name,
        )

    def frames(self, *, after_seconds: float | None = None) -> Iterator[LiveFrame]:
        """Yield frames as they come, the way up they are stored, in the order in which they are shown.

        Args:
            after_seconds: nothing before this is wanted; little of it is decoded, and some of that may come.

        Raises:
            VideoError: a URL breaks off or frames carry no times.
        """
        import av

        packets, num_without_time, last = self._packets(), 0, None
        if after_seconds is not None:
            packets = self._packets_after(after_seconds, packets)
        for packet in _then_none(packets):
            if self._stop.is_set():
                return
            try:
                pictures = self._decoder.decode(packet)
            except av.error.FFmpegError:
                self.num_undecodable += 1
                continue
            for picture in pictures:
                self.num_undecodable += picture.is_corrupt
                pts = None if picture.pts is None else self._to_seconds(picture.pts)
                num_without_time += pts is None
                if pts is not None and last is not None and pts > last:
                    self._frame_seconds = pts - last
                if picture.duration:
                    self._frame_seconds = self._to_seconds(picture.duration)
                last = last if pts is None else pts
                self.facts = self.facts or {
                    "container": self._container.format.name,
                    "codec": self._decoder.codec.canonical_name,
                    "height": picture.height,
                    "width": picture.width,
                }
                yield pts, picture
            if last is None and num_without_time > _MAX_FRAMES_WITHOUT_TIME:
                raise VideoError(f"{self.source.name}: its frames carry no times; {_PLAYABLE}")
        if last is not None and not self._stop.is_set():
            self.end_seconds = last + self._frame_seconds

    def _packets(self) -> Iterator[Any]:
        import av

        packets, asked = self._container.demux(self._stream), time.monotonic()
        try:
            for packet in packets:
                if packet.size:  # an empty packet would tell the decoder that the stream is over
                    if self.begins_seconds is None and packet.pts is not None:
                        self.begins_seconds = self._to_seconds(packet.pts)
                    yield packet
                asked = time.monotonic()
        except av.error.FFmpegError as error:
            if self._bytes is None:
                # Given up after idle_seconds, a read fails in one way or another, depending on the protocol.
                if time.monotonic() - asked < 0.9 * self._idle_seconds:
                    raise VideoError(f"{self.source.name}: it broke off ({error.strerror})") from error
            elif self.begins_seconds is None:
                raise self._unreadable(error.strerror or str(error)) from error
            else:  # as for a whole file: a broken end ends it
                logger.warning("%s: reading it ends early (%s)", self.source.name, error.strerror)

    def _packets_after(self, after_seconds: float, packets: Iterator[Any]) -> Iterator[Any]:
        """Leave out packets that are needed for nothing after this time, but for one group of pictures."""
        held: list[Any] = []
        latest_keyframe = 0  # in `held`: what it starts may need the group before it, too
        for packet in packets:
            if packet.is_keyframe:
                held, latest_keyframe = held[latest_keyframe:], len(held) - latest_keyframe
            held.append(packet)
            if packet.pts is not None and self._to_seconds(packet.pts) > after_seconds:
                break
            if len(held) > _MAX_PACKETS_HELD:
                yield from held
                held, latest_keyframe = [], 0
        yield from held
        yield from packets

    def _to_seconds(self, ticks: int) -> float:
        time_base = self._stream.time_base
        return ticks * time_base.numerator / time_base.denominator

    def _open_container(self) -> Any:
        import av

        name = self.source.name
        try:
            if self._bytes is not None:
                return av.open(self._bytes, io_open=_open_nothing_else, metadata_errors="replace")
            options = {"rtsp_flags": "prefer_tcp"} if self.source.address.startswith("rtsp://") else {}
            timeout = (OPEN_TIMEOUT_SECONDS, self._idle_seconds)
            return av.open(self.source.address, timeout=timeout, options=options, metadata_errors="replace")
        except av.error.ExitError as error:
            raise VideoError(f"{name}: no answer within {OPEN_TIMEOUT_SECONDS:g} s") from error
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if self._bytes is None and isinstance(error, av.error.InvalidDataError):
                raise VideoError(f"{name}: what it gives is not video ({reason})") from error
            if self._bytes is None:
                raise VideoError(f"{name}: cannot be reached ({reason}); check the address and the server") from error
            if not self._bytes.num_bytes:
                raise VideoError(f"{name}: no data came") from error
            raise self._unreadable(reason) from error

    def _unreadable(self, reason: str) -> VideoError:
        return VideoError(f"{self.source.name}: cannot be read as video while it is written ({reason}); {_PLAYABLE}")

    def _video_stream(self) -> Any:
        from av.stream import Discard, Disposition

        stream = self._container.streams.best("video")
        if stream is None or stream.disposition & Disposition.attached_pic or stream.codec_context is None:
            kinds = ", ".join(sorted({other.type for other in self._container.streams})) or "nothing"
            raise VideoError(f"{self.source.name}: holds no video that can be decoded (only {kinds})")
        for other in self._container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        return stream


class _Tail:
    """Reads a file to its end and on as it grows, like `tail -f`. FFmpeg sees no seek, only bytes that come."""

    def __init__(self, source: LiveSource, idle_seconds: float, end_marker: Path | None, stop: threading.Event) -> None:
        self.num_bytes = 0
        self._source, self._idle_seconds, self._end_marker, self._stop = source, idle_seconds, end_marker, stop
        try:
            self._fd = os.open(source.address, os.O_RDONLY)
        except OSError as error:
            raise VideoError(f"{source.name}: cannot be opened ({error.strerror})") from error

    def read(self, size: int) -> bytes:
        """At least one byte and at most `size`; none when the file has ended."""
        started = time.monotonic()
        while not self._stop.is_set():
            is_marked = self._end_marker is not None and self._end_marker.exists()  # looked for before the last read
            data = os.read(self._fd, size)
            self.num_bytes += len(data)
            if data or is_marked or time.monotonic() - started > self._idle_seconds:
                return data
            if os.fstat(self._fd).st_size < self.num_bytes:
                raise VideoError(f"{self._source.name}: became shorter while it was followed; is it written anew?")
            self._stop.wait(_POLL_SECONDS)
        return b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Pipe:
    """Reads a pipe until its writer closes it."""

    def __init__(self, source: LiveSource, stop: threading.Event) -> None:
        self.num_bytes = 0
        self._stop = stop
        self._is_ours = source.address != "-"
        # Without O_NONBLOCK, opening a named pipe would wait for a writer and hear no Ctrl-C.
        self._fd = os.open(source.address, os.O_RDONLY | os.O_NONBLOCK) if self._is_ours else sys.stdin.fileno()

    def read(self, size: int) -> bytes:
        """At least one byte and at most `size`; none when the pipe is closed."""
        while not self._stop.is_set():
            if select.select([self._fd], [], [], _POLL_SECONDS)[0]:
                data = os.read(self._fd, size)
                self.num_bytes += len(data)
                return data
        return b""

    def close(self) -> None:
        if self._is_ours and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _then_none(packets: Iterator[Any]) -> Iterator[Any]:
    """The packets, and None after the last, which has a decoder give what it still holds."""
    yield from packets
    yield None


def _open_nothing_else(*args: Any) -> Any:
    raise PermissionError("a growing file or a pipe may not refer to other files")
