"""Which library decodes: PyAV (built in, and the quickest here) or, by name, decord or torchcodec.

Which frames come never depends on it. The frames to read are chosen from the demuxed times; another library is asked
for them by number, what it says about their times is compared, and where it is known or found to give other frames
than those (see `_reason_not_to_use`), PyAV reads them instead and a warning says why.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt

from voco_video.errors import UsageError
from voco_video.options.compression import Decoder
from voco_video.video.container import Source, StreamFacts
from voco_video.video.decode_plan import Indices, keyframes_start_anew
from voco_video.video.packet_index import StreamIndex
from voco_video.video.picture_facts import AspectReader
from voco_video.video.pyav_reader import FrameReader
from voco_video.video.scaling import SHAPED_AS_FIRST

logger = logging.getLogger("voco_video")

BACKENDS = get_args(Decoder)
_CHUNK_FRAMES = 16


class Reader(Protocol):
    """What `Video` needs of a backend; `voco_video.video.pyav_reader.FrameReader` documents it."""

    @property
    def num_undecodable(self) -> int:
        """Planned frames of the latest `read` that did not decode."""

    def read(self, plan: Indices, first_frame: int = 0, *, repeats: bool = False) -> Iterator[tuple[int, Any]]:
        """Yield (time in ticks, `av.VideoFrame` the way up it is stored) for plan[first_frame:]."""


def check_backend(name: str) -> None:
    """Raise UsageError for a backend that does not exist or cannot be imported."""
    if name not in BACKENDS:
        raise UsageError(f"unknown video backend {name!r}; choose one of {', '.join(BACKENDS)}")
    if name == "pyav":
        return
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"the video backend {name!r} is not installed; run: pip install 'voco-video[{name}]'"
        ) from error
    except (OSError, RuntimeError) as error:  # torchcodec, where it finds no FFmpeg libraries that fit
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"the video backend {name!r} is installed but does not load ({reason}); use backend='pyav'"
        ) from error


def open_reader(
    name: str, path: Path, index: StreamIndex, facts: StreamFacts, stop: threading.Event, source: Source | None
) -> Reader:
    """A reader of the frames of `path` by the backend of that name; setting `stop` ends its reading early.

    `source` is one that has been scanned and not read since, for PyAV to use up.
    """
    pyav = FrameReader(path, index, stop, source)
    if name == "pyav":
        return pyav
    open_library = {"decord": _open_decord, "torchcodec": _open_torchcodec}[name]
    return _ForeignReader(name, open_library, pyav, path, index, facts, stop)


class _UntrustedError(Exception):
    """The library did not give, or is known not to give, the frame that was asked for."""


# Takes frame numbers and gives pixels [F, H, W, 3], upright, and the times in seconds that belong to them.
_Fetch = Callable[[list[int]], tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]]


class _ForeignReader:
    """Reads through another library as long as it gives the frames asked for, and through PyAV from there on."""

    def __init__(
        self,
        name: str,
        open_library: Callable[[Path, StreamIndex], _Fetch],
        pyav: FrameReader,
        path: Path,
        index: StreamIndex,
        facts: StreamFacts,
        stop: threading.Event,
    ) -> None:
        self._name = name
        self._open_library = open_library
        self._pyav = pyav
        self._path = path
        self._index = index
        self._facts = facts
        self._stop = stop
        self._aspects = AspectReader()

    @property
    def num_undecodable(self) -> int:
        """As `FrameReader.num_undecodable`."""
        return self._pyav.num_undecodable

    def read(self, plan: Indices, first_frame: int = 0, *, repeats: bool = False) -> Iterator[tuple[int, Any]]:
        """As `FrameReader.read`."""
        position = first_frame
        try:
            for frame_index, frame in self._read_foreign(plan[first_frame:]):
                yield int(self._index.pts[frame_index]), frame
                position += 1
        except _UntrustedError as reason:
            logger.warning("%s: PyAV decodes it instead of %s: %s", self._path, self._name, reason)
            yield from self._pyav.read(plan, position, repeats=repeats)

    def _read_foreign(self, plan: Indices) -> Iterator[tuple[int, Any]]:
        import av

        reason = _reason_not_to_use(self._name, self._index, self._facts)
        if not reason and not keyframes_start_anew(self._path, self._index, plan, self._stop, self._is_as_first):
            reason = "not every keyframe of it can be decoded from, or they differ in size"
        if not reason and self._name == "decord" and _marks_other_keyframes(self._path):
            reason = "it marks as keyframes what are none"
        if reason:
            raise _UntrustedError(reason)
        fetch = _guarded(self._open_library, self._path, self._index)
        for start in range(0, len(plan), _CHUNK_FRAMES):
            if self._stop.is_set():
                return
            wanted = plan[start : start + _CHUNK_FRAMES]
            pixels, times = _guarded(fetch, wanted.tolist())
            for frame_index, picture, time in zip(wanted.tolist(), pixels, times, strict=True):
                expected = self._index.to_seconds(self._index.pts[frame_index])
                if abs(time - expected) > _tolerance_seconds(self._index):
                    raise _UntrustedError(f"asked for the frame at {expected:.6f} s it gave the one at {time:.6f} s")
                stored = self._facts.orientation.stored(picture)
                if stored.shape[:2] != (self._facts.stored_height, self._facts.stored_width):
                    raise _UntrustedError(f"its pictures are {picture.shape[1]}x{picture.shape[0]} pixels")
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
                frame.opaque = (SHAPED_AS_FIRST,)
                yield frame_index, frame

    def _is_as_first(self, picture: Any) -> bool:
        """Whether a picture has the size and shape of the first one, to which the libraries bring all others."""
        first = (self._facts.stored_height, self._facts.stored_width, self._facts.coded_aspect)
        return (picture.height, picture.width, self._aspects.read(picture)) == first


def _guarded(call: Callable[..., Any], *arguments: Any) -> Any:
    """Run a call into a library whose errors have no base class of their own."""
    try:
        return call(*arguments)
    except _UntrustedError:
        raise
    except Exception as error:
        first_line = (str(error).strip() or repr(error)).splitlines()[0]
        raise _UntrustedError(f"it fails ({first_line[:200]})") from error


def _tolerance_seconds(index: StreamIndex) -> float:
    """A quarter of the smallest step between frames: decord's times are float32."""
    return 0.25 * float(index.to_seconds(int(np.diff(index.pts).min()))) if len(index.pts) > 1 else 1.0


def _reason_not_to_use(name: str, index: StreamIndex, facts: StreamFacts) -> str | None:
    """Why this library would give other frames of such a file without a word, or None. Each case was seen to."""
    if index.is_from_pictures:
        return "its packets do not tell when its frames are shown"
    if facts.orientation.is_mirrored:
        return "it is stored as a mirror image"
    if not facts.has_known_matrix:
        return "its colours are in a matrix that few know"
    if name == "torchcodec":
        return None
    if index.has_hidden:
        return "it holds packets that are not shown"
    if index.max_temporal_layer:
        return "it has temporal layers"
    if not {"mp4", "matroska"} & set(facts.container.split(",")):
        return f"the container is {facts.container}"
    # Frames shown before the keyframe that they follow in the file.
    entries = np.searchsorted(index.entry_packets, index.packet_of, side="right") - 1
    if np.any(np.arange(len(index.pts)) < index.entry_frames[np.maximum(entries, 0)]):
        return "frames refer across its keyframes (open groups of pictures)"
    return None


def _marks_other_keyframes(path: Path) -> bool:
    """Whether the container marks packets as keyframes that FFmpeg, having looked into them, does not take for such."""
    keyframe_times = set()
    with Source(path, num_threads=1) as source:
        for packet in source.packets():
            if packet.is_keyframe:
                keyframe_times |= {packet.pts, packet.dts}
        entries = source.stream.index_entries
        return not all(entry.timestamp in keyframe_times for entry in entries if entry.is_keyframe)


def _open_decord(path: Path, index: StreamIndex) -> _Fetch:
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0))
    if len(reader) != len(index.pts):
        raise _UntrustedError(f"it counts {len(reader)} frames where there are {len(index.pts)}")
    # Its times start at 0 whatever the file says.
    times = reader.get_frame_timestamp(list(range(len(reader))))[:, 0].astype(np.float64)
    times += float(index.pts_seconds[0]) - times[0]

    def fetch(frames: list[int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
        return reader.get_batch(frames).asnumpy(), times[frames]

    return fetch


def _open_torchcodec(path: Path, index: StreamIndex) -> _Fetch:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", seek_mode="exact")
    if len(decoder) != len(index.pts):
        raise _UntrustedError(f"it counts {len(decoder)} frames where there are {len(index.pts)}")

    def fetch(frames: list[int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
        batch = decoder.get_frames_at(frames)
        return batch.data.numpy(), batch.pts_seconds.numpy()

    return fetch
