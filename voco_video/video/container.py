"""An opened video file: its container, its packets, each with its number, and a decoder for them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from voco_video.errors import VideoError
from voco_video.video.colours import knows_matrix
from voco_video.video.heif import is_tiled, whole_picture
from voco_video.video.media_files import check_readable
from voco_video.video.packet_headers import HevcLayers, vp9_may_show_again
from voco_video.video.picture_facts import AspectReader
from voco_video.video.scaling import Orientation

logger = logging.getLogger("voco_video")

# FFmpeg "plays" text files as terminal art, and playlists would send it to other files or hosts.
_NOT_VIDEO_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf", "hls", "concat", "dash", "sdp", "rtsp"})
MAX_PACKETS_TO_FIRST_PICTURE = 500
# Two frames in work per processor: one more than there are processors, which is FFmpeg's own choice, leaves some idle
# while others wait for references, skip, or are waited for by the scaler. Beyond 16, FFmpeg warns.
_MAX_THREADS = 16
# Decoders that make up what is damaged from the pictures around it. What others give of damaged data is whatever was in
# memory before; where they can report it they are always told to refuse it.
CONCEALING_CODECS = frozenset({
    "h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "h263", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "flv1",
    "wmv1", "wmv2", "wmv3", "vc1", "rv10", "rv20", "rv30", "rv40", "svq1", "svq3", "vp8", "vp9", "av1", "theora",
})  # fmt: skip
# Decoders that report damaged data, and in time. With any other, several threads would give other pictures of it from
# run to run. (MPEG-4's, with several, hands pictures out before it marks them.)
REPORTING_CODECS = frozenset({
    "h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "vp8", "vp9", "av1", "theora", "mjpeg", "prores", "png", "apng",
    "gif", "dnxhd",
})  # fmt: skip
# Decoders that report damage with one thread, and pass over some of it with several.
_REPORTING_ALONE = frozenset({"mpeg1video", "mpeg2video"})


class DamagedError(Exception):
    """Reading met something that a sound stream does not have."""


class MisplacedError(DamagedError):
    """A picture came at another place than the stream's packets told."""


@dataclass(frozen=True)
class StreamFacts:
    """What the container and the first decoded picture say; sizes in pixels as stored, before any turning.

    Attributes:
        coded_aspect: what the picture itself says of its pixels' shape.
        has_known_matrix: whether FFmpeg's scaler knows the matrix of its colours.
    """

    container: str
    codec: str
    pixel_format: str
    stored_height: int
    stored_width: int
    sample_aspect_ratio: Fraction
    coded_aspect: Fraction | None
    orientation: Orientation
    has_known_matrix: bool
    num_video_streams: int


@dataclass(frozen=True)
class Begun:
    """Decoding from the first packet on, to go on with: `num_packets` went into the decoder, `frames` came out."""

    num_packets: int
    frames: Sequence[Any]


class Source:
    """One opened container with its video stream: the one FFmpeg calls best (default flag, then size and rate).

    The decoder hands the number that `name` gave a packet on to the picture it becomes (`packet_number`).

    Args:
        num_threads: decoder threads; None for as many as suit the machine, which also decode several frames at a time.
        lenient: decode past errors, concealing them as FFmpeg does, with one thread: several would conceal the same
            error differently from run to run. Otherwise the first error is raised, in every run at the same place, and
            all pictures before it are right.

    Attributes:
        kept_packets: after `scan` of a small file all its packets, else empty.
        tiled_as: names of container and codec of a picture in tiles, which is read as the PNG file it was made into.
        begun: after `scan` of a small file what its decoder has done so far, until it is made to do something else.

    Raises:
        VideoError: the file cannot be opened or has no video in it.
    """

    kept_packets: Sequence[Any] = ()
    begun: Begun | None = None

    def __init__(self, path: str | os.PathLike[str], *, num_threads: int | None = None, lenient: bool = False) -> None:
        import av

        self.path = Path(path)
        self.container = _open_container(self.path)
        self.tiled_as: tuple[str, str] | None = None
        if is_tiled(self.container):
            with self.container as tiles:
                self.container = av.open(whole_picture(self.path, tiles), format="png_pipe")
                self.tiled_as = _names(tiles, tiles.streams.video[0])
        try:
            self.stream = _best_video_stream(self.path, self.container)
            self.decoder = self.stream.codec_context
            _open_decoder(self.path, self.decoder, 1 if lenient else num_threads, lenient=lenient)
            codec = self.decoder.codec.canonical_name
            # A picture that VP9 shows again has the name of the packet in which it first came, and a time of its own.
            self._shows_again = codec == "vp9"
            self._shown_again_by: dict[int, int] = {}
            self._hevc = HevcLayers(self.decoder) if codec == "hevc" else None
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
        # Freeing a decoder holds Python's lock; a worker of it that lets go of a named packet asks for that lock.
        self.decoder.flush_buffers()
        self.container.close()

    def __del__(self) -> None:
        if hasattr(self, "decoder"):  # opening got that far
            self.close()

    def packets(self) -> Iterator[Any]:
        """Every packet of the video stream that holds data, from the present position on; a broken end ends it."""
        import av

        try:
            for packet in self.container.demux(self.stream):
                # An empty packet would tell the decoder that the stream is over.
                if packet.size:
                    yield packet
        except av.error.FFmpegError as error:
            logger.info("%s: reading it ends early (%s)", self.path, error.strerror)
        except IndexError:
            pass  # at the end of a file in which a stream has appeared that PyAV did not see when it was opened

    def name(self, packet: Any, number: int) -> None:
        """Have the picture that a packet becomes say that it comes from packet `number`."""
        if self._shows_again and packet.dts is not None and vp9_may_show_again(packet):
            self._shown_again_by[packet.dts] = number
        # A tuple of its own for each packet: PyAV keeps the object under its id, and forgets it for all packets that
        # share it as soon as one of them is gone. Small whole numbers are shared.
        packet.opaque = (number, self._shown_again_by)

    def temporal_layer(self, packet: Any) -> int:
        """HEVC's temporal sub-layer of a packet's picture; 0 for every other codec."""
        return self._hevc.layer(packet) if self._hevc else 0


def packet_number(picture: Any) -> int:
    """The number of the packet that shows a picture; -1 where the decoder has lost it."""
    if not picture.opaque:
        return -1
    number, shown_again_by = picture.opaque
    return shown_again_by.get(picture.dts, number)


def decode_on(source: Source) -> Iterator[Any]:
    """Decode every picture of a freshly opened lenient source, whatever errors lie between.

    Pictures come in the order in which they are shown.
    """
    import av

    for number, packet in enumerate(source.packets()):
        source.name(packet, number)
        with contextlib.suppress(av.error.FFmpegError):
            yield from _let_go(source.decoder.decode(packet))
    with contextlib.suppress(av.error.FFmpegError):
        yield from _let_go(source.decoder.decode(None))


def _let_go(pictures: list[Any]) -> Iterator[Any]:
    """Hand pictures on without keeping them: what a decoder makes of damage may depend on which buffers are free."""
    while pictures:
        yield pictures.pop(0)


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


def stream_facts(source: Source, picture: Any | None) -> StreamFacts:
    """What is known of a scanned source; `picture` is its first one, None where the decoder gave none.

    Raises:
        VideoError: neither the container nor a picture tells a size.
    """
    from av.stream import Disposition

    if picture is None:
        with Source(source.path, lenient=True) as lenient:
            pictures = decode_on(lenient)
            picture = next(pictures, None)
    stream, decoder = source.stream, source.decoder
    height, width = (picture.height, picture.width) if picture else (decoder.height, decoder.width)
    if not (height and width):
        raise VideoError(f"{source.path}: not one frame could be decoded ({decoder.codec.long_name})")
    container, codec = source.tiled_as or _names(source.container, stream)
    return StreamFacts(
        container=container,
        codec=codec,
        pixel_format=picture.format.name if picture else decoder.pix_fmt or "unknown",
        stored_height=height,
        stored_width=width,
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        coded_aspect=AspectReader().read(picture) if picture else None,
        orientation=Orientation.of_frame(picture) if picture else Orientation(),
        has_known_matrix=picture is None or knows_matrix(picture),
        num_video_streams=sum(
            not other.disposition & Disposition.attached_pic for other in source.container.streams.video
        ),
    )


def num_processors() -> int:
    """Those that this process may run on, where the system says which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    return container


def _names(container: Any, stream: Any) -> tuple[str, str]:
    """Of the container and of the codec."""
    return container.format.name, stream.codec_context.codec.canonical_name


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


def _open_decoder(path: Path, decoder: Any, num_threads: int | None, *, lenient: bool) -> None:
    import av
    from av.codec.context import Flags

    codec = decoder.codec.canonical_name
    is_alone = num_threads == 1 or codec not in REPORTING_CODECS - _REPORTING_ALONE
    decoder.thread_count = 1 if is_alone else num_threads or min(_MAX_THREADS, 2 * num_processors())
    decoder.thread_type = "SLICE" if is_alone else "AUTO"
    decoder.flags |= Flags.copy_opaque
    if not lenient or codec in REPORTING_CODECS - CONCEALING_CODECS:
        decoder.options = {"err_detect": "crccheck+explode"}
    # Some decoders (dav1d) take what is to be skipped when they open, for good: open before it is ever set.
    try:
        decoder.open(strict=False)
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: its {decoder.codec.long_name} decoder does not open ({error.strerror})") from error
