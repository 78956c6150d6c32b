"""Opening a file and listing its packets: one pass over the container, decoding up to the first picture only.

After this pass nothing about time is guessed: a frame is known by its presentation time in ticks, a place in the
file by its number in the packet list. A small file is opened and read once: its packets and the decoder that has
begun on them stay for the first reading of its frames.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_video.errors import VideoError
from voco_video.frames import Orientation
from voco_video.heif import is_tiled, whole_picture
from voco_video.media_files import check_readable
from voco_video.packet_headers import HevcLayers, shows_picture
from voco_video.picture_facts import AspectReader

Ticks = npt.NDArray[np.int64]

# FFmpeg "plays" text files as terminal art, and playlists would send it to other files or hosts.
_NOT_VIDEO_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf", "hls", "concat", "dash", "sdp", "rtsp"})
_MAX_PACKETS_TO_FIRST_PICTURE = 500
# Two frames in work per processor: one more than there are processors, which is FFmpeg's own choice, leaves some idle
# while others wait for references, skip, or are waited for by the scaler. Beyond 16, FFmpeg warns.
_MAX_THREADS = 16
# The packets of a file no larger than this are kept; opening a larger one again costs little beside decoding it.
KEPT_BYTES = 32 << 20
_PACKET_BYTES = 1 << 10  # what a packet takes beside its data, generously
_NO_TIME = -(1 << 62)


@dataclass(frozen=True)
class StreamIndex:
    """What the packets of a video stream say.

    M shown frames in time order, N packets in file order (some show nothing: cut away by an edit list, or VP8/VP9
    reference pictures that are never displayed).

    pts:                 [M] presentation times in ticks of `time_base` seconds, sorted
    is_keyframe:         [M]
    packet_of:           [M] file-order number of the packet that holds the frame
    entry_packets:       [E] file-order numbers of the packets at which decoding can start, ascending
    entry_pts:           [E] their times, ascending; frames at or after one decode exactly from its packet
    end_pts:             when the last frame ends
    is_counted:          times are missing or repeated in the file: the k-th picture decoded is frame k
    has_hidden:          some packets show nothing
    max_temporal_layer:  HEVC only; above 0, a "non-reference" picture may still serve a higher layer
    """

    time_base: Fraction
    pts: Ticks
    is_keyframe: npt.NDArray[np.bool_]
    packet_of: Ticks
    entry_packets: Ticks
    entry_pts: Ticks
    end_pts: int
    num_packets: int
    is_counted: bool
    has_hidden: bool
    max_temporal_layer: int

    @property
    def pts_seconds(self) -> npt.NDArray[np.float64]:
        """[M] presentation times in seconds."""
        return self.to_seconds(self.pts)

    @property
    def first_keyframe(self) -> int:
        """Index of the first frame that is one; 0 where the file marks none."""
        return 0 if self.is_counted else int(np.argmax(self.is_keyframe))

    def to_seconds(self, ticks: Ticks | int) -> Any:
        """Ticks to float64 seconds, one rounding only, so that 1 000 ticks of 1/1000 s are exactly 1.0."""
        return np.multiply(ticks, self.time_base.numerator) / np.float64(self.time_base.denominator)


@dataclass(frozen=True)
class StreamFacts:
    """What the container and the first decoded picture say; sizes in pixels as stored, before any turning."""

    container: str
    codec: str
    pixel_format: str
    stored_height: int
    stored_width: int
    sample_aspect_ratio: Fraction
    coded_aspect: Fraction | None
    orientation: Orientation
    num_video_streams: int


@dataclass(frozen=True)
class Begun:
    """Decoding from the first packet on, to go on with: `num_packets` went into the decoder, `frames` came out."""

    num_packets: int
    frames: Sequence[Any]


class Source:
    """One opened container with its video stream: the one FFmpeg calls best (default flag, then size and rate).

    num_threads:   decoder threads; None for as many as suit the machine, which also decode several frames at a time
    kept_packets:  after `scan` of a small file all its packets, else empty
    begun:         after `scan` of a small file what its decoder has done so far, until it is made to do something else

    Raises VideoError when the file cannot be opened or has no video in it.
    """

    kept_packets: Sequence[Any] = ()
    begun: Begun | None = None

    def __init__(self, path: str | os.PathLike[str], *, num_threads: int | None = None) -> None:
        self.path = Path(path)
        self.container = _open_container(self.path)
        try:
            self.stream = _best_video_stream(self.path, self.container)
            self.decoder = self.stream.codec_context
            _open_decoder(self.path, self.decoder, num_threads)
            self._hevc = HevcLayers(self.decoder) if self.decoder.codec.canonical_name == "hevc" else None
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of its packets. Safe to call twice."""
        self.kept_packets, self.begun = (), None
        self.container.close()

    def packets(self) -> Iterator[Any]:
        """Every packet of the video stream that holds data, from the present position on; a broken end ends it."""
        import av

        with contextlib.suppress(av.error.FFmpegError):
            for packet in self.container.demux(self.stream):
                # An empty packet would tell the decoder that the stream is over.
                if packet.size:
                    yield packet

    def temporal_layer(self, packet: Any) -> int:
        """HEVC's temporal sub-layer of a packet's picture; 0 for every other codec."""
        return self._hevc.layer(packet) if self._hevc else 0


def _open_container(path: Path) -> Any:
    import av

    check_readable(path)
    try:
        # "file:" keeps a name such as "a:b.mp4" from being read as a network protocol.
        container = av.open(f"file:{path}", metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path}: FFmpeg cannot open it as a video ({reason})") from error
    if set(container.format.name.split(",")) & _NOT_VIDEO_FORMATS:
        container.close()
        raise VideoError(f"{path}: is not a video file (FFmpeg takes it for {container.format.long_name!r})")
    if is_tiled(container):
        with container:
            return av.open(whole_picture(path, container), format="png_pipe")
    return container


def _best_video_stream(path: Path, container: Any) -> Any:
    from av.stream import Discard, Disposition

    stream = container.streams.best("video")
    if stream is not None and stream.disposition & Disposition.attached_pic:
        raise VideoError(f"{path}: holds no video, only a cover picture")
    if stream is None:
        kinds = sorted({other.type for other in container.streams})
        raise VideoError(f"{path}: holds no video stream (only {', '.join(kinds) or 'nothing'})")
    if stream.codec_context is None:
        raise VideoError(f"{path}: this build of FFmpeg has no decoder for its video stream")
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream


def num_processors() -> int:
    """Those that this process may run on, where the system says which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_decoder(path: Path, decoder: Any, num_threads: int | None) -> None:
    import av

    decoder.thread_count = num_threads or min(_MAX_THREADS, 2 * num_processors())
    decoder.thread_type = "SLICE" if num_threads == 1 else "AUTO"
    # Some decoders (dav1d) take what is to be skipped when they open, for good: open before it is ever set.
    try:
        decoder.open(strict=False)
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: its {decoder.codec.long_name} decoder does not open ({error.strerror})") from error


def scan(source: Source) -> tuple[StreamIndex, StreamFacts]:
    """List every packet of a freshly opened source. Raises VideoError when there is no packet at all.

    Takes the time of reading the file once; keeps about 20 bytes per frame, and in the source what it says there.
    """
    rows, start = _PacketRows(), _Start(source.decoder)
    kept: list[Any] = []
    room_bytes = KEPT_BYTES - source.path.stat().st_size  # for what packets take beside their data
    for packet in source.packets():
        shows = not packet.is_discard and shows_picture(source.decoder.codec.canonical_name, packet)
        rows.add(packet, shows=shows, layer=source.temporal_layer(packet))
        room_bytes -= _PACKET_BYTES
        if room_bytes >= 0:
            kept.append(packet)
        else:
            kept.clear()
        if not start.frames and rows.num_packets <= _MAX_PACKETS_TO_FIRST_PICTURE:
            start.decode(packet)
    if not rows.num_shown:
        raise VideoError(f"{source.path}: its video stream holds no frames")
    if not start.frames:
        start.drain()
    if kept:
        source.kept_packets, source.begun = kept, start.begun
    return rows.to_index(source.stream), _facts(source, start.frames[0] if start.frames else None)


class _Start:
    """Decodes packets from the first on until a picture comes, so that the first reading can go on from there."""

    def __init__(self, decoder: Any) -> None:
        self.frames: list[Any] = []
        self._decoder = decoder
        self._num_packets = 0
        self._can_go_on = True

    @property
    def begun(self) -> Begun | None:
        return Begun(self._num_packets, self.frames) if self._can_go_on else None

    def decode(self, packet: Any) -> None:
        import av

        self._num_packets += 1
        try:
            self.frames += self._decoder.decode(packet)
        except av.error.FFmpegError:
            self._can_go_on = False

    def drain(self) -> None:
        """Get what the decoder still holds; it has to be flushed before it decodes again."""
        import av

        self._can_go_on = False
        with contextlib.suppress(av.error.FFmpegError):
            self.frames += self._decoder.decode(None)


def decode_alone(decoder: Any, packet: Any) -> Any | None:
    """The picture that this packet gives by itself, or None."""
    import av

    frames: list[Any] = []
    with contextlib.suppress(av.error.FFmpegError):
        frames += decoder.decode(packet)
    with contextlib.suppress(av.error.FFmpegError):
        frames += decoder.decode(None)
    decoder.flush_buffers()
    return frames[0] if frames else None


def is_whole(frame: Any) -> bool:
    """Whether a decoded `av.VideoFrame` says that it builds on no other."""
    return bool(frame.key_frame or frame.pict_type == 1)


def _facts(source: Source, picture: Any | None) -> StreamFacts:
    from av.stream import Disposition

    stream, decoder = source.stream, source.decoder
    height, width = (picture.height, picture.width) if picture else (decoder.height, decoder.width)
    if not (height and width):
        raise VideoError(f"{source.path}: not one frame could be decoded ({decoder.codec.long_name})")
    return StreamFacts(
        container=source.container.format.name,
        codec=decoder.codec.canonical_name,
        pixel_format=picture.format.name if picture else decoder.pix_fmt or "unknown",
        stored_height=height,
        stored_width=width,
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        coded_aspect=AspectReader().read(picture) if picture else None,
        orientation=Orientation.of_frame(picture) if picture else Orientation(),
        num_video_streams=sum(
            not other.disposition & Disposition.attached_pic for other in source.container.streams.video
        ),
    )


class _PacketRows:
    """The demux pass's findings, one number per packet."""

    def __init__(self) -> None:
        self.num_packets = 0
        self.num_shown = 0
        self._pts, self._dts, self._is_key = array("q"), array("q"), array("b")
        self._hidden_packets = array("q")
        self._entry_packets, self._entry_pts = array("q"), array("q")
        self._max_layer = 0
        self._latest_pts, self._latest_duration, self._last_duration = _NO_TIME, 0, 0

    def add(self, packet: Any, *, shows: bool, layer: int) -> None:
        pts = _NO_TIME if packet.pts is None else packet.pts
        # A keyframe whose time goes backwards is passed over, so that both lists of entries ascend.
        if not self.num_packets or (packet.is_keyframe and pts > self._entry_pts[-1]):
            self._entry_packets.append(self.num_packets)
            self._entry_pts.append(pts)
        if shows:
            self._pts.append(pts)
            self._dts.append(_NO_TIME if packet.dts is None else packet.dts)
            self._is_key.append(packet.is_keyframe)
            self._last_duration = packet.duration or 0
            if pts >= self._latest_pts:
                self._latest_pts, self._latest_duration = pts, self._last_duration
            self.num_shown += 1
        else:
            self._hidden_packets.append(self.num_packets)
        self.num_packets += 1
        self._max_layer = max(self._max_layer, layer)

    def to_index(self, stream: Any) -> StreamIndex:
        pts, is_key = np.frombuffer(self._pts, np.int64), np.frombuffer(self._is_key, np.bool_)
        packet_of = np.delete(np.arange(self.num_packets, dtype=np.int64), self._hidden_packets)
        order = np.argsort(pts, kind="stable")
        in_order = pts[order]
        has_times = _NO_TIME not in pts and bool((in_order[1:] > in_order[:-1]).all())
        is_counted = not has_times or _guesses_times(stream)
        if is_counted:
            pts, last_duration = _replacement_times(np.frombuffer(self._dts, np.int64), stream), self._last_duration
        else:
            pts, packet_of, is_key, last_duration = in_order, packet_of[order], is_key[order], self._latest_duration
        return StreamIndex(
            time_base=stream.time_base,
            pts=pts,
            is_keyframe=is_key,
            packet_of=packet_of,
            entry_packets=np.array(self._entry_packets, np.int64),
            entry_pts=np.array(self._entry_pts, np.int64),
            end_pts=int(pts[-1]) + (last_duration if last_duration > 0 else _usual_step(pts, stream)),
            num_packets=self.num_packets,
            is_counted=is_counted,
            has_hidden=self.num_shown < self.num_packets,
            max_temporal_layer=self._max_layer,
        )


def _guesses_times(stream: Any) -> bool:
    """The container knows only the decoding order (AVI, bare streams) and the codec shows frames in another."""
    from av.format import Flags

    container_format = stream.container.format
    has_times = container_format.name != "avi" and not container_format.flags & Flags.no_timestamps.value
    return bool(stream.codec_context.has_b_frames) and not has_times


def _frame_ticks(stream: Any) -> int:
    """The length of one frame at the stream's average rate, at least one tick."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return max(1, round(1 / (rate * stream.time_base)))


def _replacement_times(dts: Ticks, stream: Any) -> Ticks:
    """Times for a file whose presentation times are unusable (AVI has none): the decoding times in their order,
    or evenly spaced ones where these are unusable too."""
    dts = np.sort(dts)
    if dts[0] != _NO_TIME and len(np.unique(dts)) == len(dts):
        return dts
    return np.arange(len(dts), dtype=np.int64) * _frame_ticks(stream)


def _usual_step(pts: Ticks, stream: Any) -> int:
    return max(1, int(np.median(np.diff(pts)))) if len(pts) > 1 else _frame_ticks(stream)
