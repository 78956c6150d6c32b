"""Pictures and clips of a video's file: one frame as JPEG, and a stretch without encoding it again."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from voco_video.errors import VideoError
from voco_video.options.sampling import Sampling
from voco_video.video.media_files import as_video_errors
from voco_video.video.reading import open_video
from voco_video.video.sources import LocalVideo

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

MAX_CLIP_SECONDS = 3600.0
_IN_MP4 = frozenset({"h264", "hevc", "av1", "mpeg4", "vp9"})
_SOUND_IN_MP4 = frozenset({"aac", "mp3", "opus", "ac3"})


class Thumbnails:
    """Makes pictures of frames, and keeps the latest."""

    def __init__(self, *, max_kept: int = 512) -> None:
        self._kept: OrderedDict[tuple[str, float, int], bytes] = OrderedDict()
        self._max_kept, self._lock = max_kept, threading.Lock()

    def jpeg(self, local: LocalVideo, video_id: str, seconds: float, width: int) -> bytes:
        """Return the frame that is shown at a time, no wider than ``width``, as JPEG; the nearest where none is.

        Raises:
            VideoError: the file cannot be read.
        """
        key = video_id, round(seconds, 3), width
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with open_video(local) as video:
            first, end = video.info.first_pts_seconds, video.info.end_seconds
            at = min(max(seconds, first), max(first, end - 1e-3))
            pixels = video.read(Sampling(timestamps=(at,))).pixels[0]
        image = Image.fromarray(pixels)
        image.thumbnail((width, 4 * width))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=80)
        with self._lock:
            self._kept[key] = out.getvalue()
            while len(self._kept) > self._max_kept:
                self._kept.popitem(last=False)
        return out.getvalue()

    def forget(self, video_id: str) -> None:
        """Let go of a video's pictures."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == video_id]:
                del self._kept[key]


def write_clip(path: Path, name: str, start_seconds: float, end_seconds: float, out: Path) -> float:
    """Copy a stretch of a video's packets into a file, MP4 where its codec goes there, else Matroska.

    Nothing is decoded, so it begins at the keyframe at or before the start.

    Args:
        out: ends in ``.mp4`` or ``.mkv``, see `clip_suffix`.

    Returns:
        Where it really begins, in seconds.

    Raises:
        VideoError: the file cannot be read, or nothing of it lies in the stretch.
    """
    import av

    with (
        as_video_errors(name),
        _opened(path) as source,
        av.open(str(out), "w", format="mp4" if out.suffix == ".mp4" else "matroska") as target,
    ):
        video = source.streams.best("video")
        assert video is not None
        assert video.time_base is not None
        sound = source.streams.best("audio")
        if sound is not None and sound.codec_context.name not in _SOUND_IN_MP4:
            sound = None
        streams = {one.index: target.add_stream_from_template(one) for one in (video, sound) if one is not None}
        source.seek(int(_seek_seconds(path, start_seconds) / video.time_base), stream=video, backward=True)
        begins: float | None = None
        ends = float("-inf")
        for packet in _with_dts(source.demux(*[one for one in (video, sound) if one is not None])):
            if packet.dts is None or packet.pts is None or packet.time_base is None:
                continue
            is_video = packet.stream.index == video.index
            pts, dts = float(packet.pts * packet.time_base), float(packet.dts * packet.time_base)
            if begins is None:
                if not (is_video and packet.is_keyframe):
                    continue
                begins = pts
            if is_video and dts >= end_seconds:
                break
            if not begins <= pts < end_seconds:
                continue
            if is_video:
                ends = max(ends, pts + float((packet.duration or 0) * packet.time_base))
            shift = round(begins / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    if begins is None or ends <= start_seconds:
        raise VideoError(f"{name}: nothing of it lies from {start_seconds:g} to {end_seconds:g} s")
    return begins


def _seek_seconds(path: Path, start_seconds: float) -> float:
    """Return where to seek so that the first keyframe from there lies at or before a time, where there is one.

    Some containers (MPEG-TS) have no index: their readers guess, and may land behind the time. Then from further back.
    The file is opened anew for each try, since not every reader (Matroska's) gives all packets after a second seek.
    """
    back_seconds = 0.0
    while True:
        where = start_seconds - back_seconds
        with _opened(path) as source:
            video = source.streams.best("video")
            assert video is not None
            assert video.time_base is not None
            first = float((video.start_time or 0) * video.time_base)
            source.seek(int(where / video.time_base), stream=video, backward=True)
            found = next((p.pts for p in source.demux(video) if p.is_keyframe and p.pts is not None), None)
        if where < first - 4 or (found is not None and float(found * video.time_base) <= start_seconds + 1e-6):
            return where
        back_seconds = max(1.0, 2 * back_seconds)


def _with_dts(packets: Iterator[Packet[Any]]) -> Iterator[Packet[Any]]:
    """Give the first packets after a seek their decoding times, which Matroska's reader does not know."""
    held: dict[int, list[Packet[Any]]] = {}
    known: set[int] = set()
    for packet in packets:
        index = packet.stream.index
        if index in known or packet.pts is None:
            yield packet
        elif packet.dts is None:
            held.setdefault(index, []).append(packet)
        else:
            known.add(index)
            earlier = held.pop(index, [])
            for back, one in enumerate(reversed(earlier), 1):
                one.dts = packet.dts - back * max(1, packet.duration or 1)
            yield from earlier
            yield packet
    for earlier in held.values():  # the file ends before any is known
        for one in earlier:
            one.dts = one.pts
        yield from earlier


def _opened(path: Path) -> InputContainer:
    import av

    return av.open(f"file:{path}", metadata_errors="replace", options={"protocol_whitelist": "file"})


def clip_suffix(codec: str) -> str:
    """Return the ending of a clip's file for a codec of video."""
    return ".mp4" if codec in _IN_MP4 else ".mkv"
