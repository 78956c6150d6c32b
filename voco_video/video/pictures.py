"""Pictures that are in memory, as a video: sampled, scaled and compressed as the frames of a file are."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from PIL import Image, ImageOps

from voco_video.errors import UsageError, VideoError
from voco_video.files.digest import hash_threads
from voco_video.video.container import StreamFacts
from voco_video.video.decode_plan import Indices
from voco_video.video.packet_index import StreamIndex
from voco_video.video.scaling import MAX_PIXELS, Orientation

# So that no digest of pictures is ever that of a file.
_DIGEST_CONTEXT = "voco-video 2026-11 pictures in memory: their times, then format, size and pixels of each"
_FULL_RANGE = 2
_ALONE_SECONDS = 1.0  # how long a single picture is shown
# What PIL raises for a file that is damaged (SyntaxError for PNG) or absurdly large, when its pixels are first read.
_PIL_ERRORS = (OSError, SyntaxError, ValueError, MemoryError, struct.error, Image.DecompressionBombError)


class Pictures:
    """Pictures with their times, to be given where a video is.

    Args:
        pictures: uint8 ``[F, H, W, 3]``, RGB, upright; or a sequence of PIL images or arrays ``[H, W, 3]``, which may
            differ in size. PIL images are turned upright by their EXIF data, and what shows through is left out. Must
            not change while they are in use.
        pts_seconds: ``[F]``, the time of each picture, ascending. The last is shown as long as the one before it.
        fps: pictures per second, in the place of times; the first one is then at 0.
        name: how they are called in messages, and in what the cache records.

    Raises:
        UsageError: not pictures, not one time for each, or times that do not ascend.

    >>> pictures = Pictures(np.zeros((50, 90, 160, 3), np.uint8), fps=25)
    >>> len(pictures), float(pictures.pts_seconds[-1]), pictures.end_seconds
    (50, 1.96, 2.0)
    """

    def __init__(
        self,
        pictures: npt.NDArray[np.uint8] | Sequence[Image.Image | npt.NDArray[np.uint8]],
        *,
        pts_seconds: npt.ArrayLike | None = None,
        fps: float | Fraction | None = None,
        name: str = "pictures",
    ) -> None:
        self.name = name
        self._pictures = _checked_pictures(pictures)
        self.pts_seconds, self.end_seconds = _times(len(self._pictures), pts_seconds, fps)

    def __len__(self) -> int:
        return len(self._pictures)

    def __repr__(self) -> str:
        span = f"{self.pts_seconds[0]:.2f}-{self.end_seconds:.2f} s"
        return f"Pictures({len(self)} of them, {span}, name={self.name!r})"

    def digest(self) -> str:
        """64 hex digits over the pixels as they are now, their sizes and the times; never those of a file."""
        hasher = blake3(max_threads=hash_threads(), derive_key_context=_DIGEST_CONTEXT)
        hasher.update(struct.pack("<Qd", len(self), self.end_seconds) + self.pts_seconds.astype("<f8").tobytes())
        for number in range(len(self)):
            pixel_format, pixels = self._read(number)
            hasher.update(f"{pixel_format} {pixels.shape[1]}x{pixels.shape[0]} ".encode())
            hasher.update(pixels.data.cast("B"))
        return hasher.hexdigest()

    def frame(self, number: int) -> Any:
        """One of them as an `av.VideoFrame`.

        Raises:
            VideoError: an image that PIL cannot read.
            UsageError: an image whose numbers are no colours.
        """
        import av

        pixel_format, pixels = self._read(number)
        frame = av.VideoFrame.from_ndarray(pixels, format=pixel_format)
        if pixel_format != "rgb24":
            frame.color_range = _FULL_RANGE
        return frame

    def _read(self, number: int) -> tuple[str, npt.NDArray[Any]]:
        """FFmpeg's name of the pixel format, and the pixels as one block of memory."""
        picture = self._pictures[number]
        if not isinstance(picture, Image.Image):
            return "rgb24", np.ascontiguousarray(picture)
        name = f"{self.name}: image {number}"
        if not 0 < picture.width * picture.height <= MAX_PIXELS:
            raise UsageError(f"{name} has {picture.width}x{picture.height} pixels")
        try:
            return _pixels_of(picture)
        except UsageError as error:
            raise UsageError(f"{name} {error}") from None
        except _PIL_ERRORS as error:
            raise VideoError(f"{name} cannot be read ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class PictureIndex(StreamIndex):
    """Where pictures in memory are: their numbers stand for ticks, and every one for a keyframe.

    Attributes:
        times: [F + 1] seconds, of each picture and of the end.
    """

    times: npt.NDArray[np.float64] = field(kw_only=True)

    def to_seconds(self, ticks: Any) -> Any:
        """Numbers of pictures to their times, exactly as given."""
        return self.times[ticks]


def picture_index(pictures: Pictures) -> PictureIndex:
    """List pictures as the frames of a file are listed."""
    numbers = np.arange(len(pictures))
    return PictureIndex(
        time_base=Fraction(1),
        pts=numbers,
        is_keyframe=np.ones(len(pictures), np.bool_),
        packet_of=numbers,
        entry_packets=numbers,
        entry_frames=numbers,
        seek_pts=numbers,
        end_pts=len(pictures),
        num_packets=len(pictures),
        has_hidden=False,
        max_temporal_layer=0,
        is_from_pictures=True,
        times=np.append(pictures.pts_seconds, pictures.end_seconds),
    )


def picture_facts(pictures: Pictures) -> StreamFacts:
    """Describe pictures as a file is described; sizes are those of the first one."""
    first = pictures.frame(0)
    return StreamFacts(
        container="pictures",
        codec="rawvideo",
        pixel_format=first.format.name,
        stored_height=first.height,
        stored_width=first.width,
        sample_aspect_ratio=Fraction(1),
        coded_aspect=None,
        orientation=Orientation(),
        has_known_matrix=True,
        num_video_streams=1,
    )


class PictureReader:
    """Reads pictures as `voco_video.video.pyav_reader.FrameReader` reads the frames of a file."""

    num_undecodable = 0

    def __init__(self, pictures: Pictures, stop: threading.Event) -> None:
        self._pictures = pictures
        self._stop = stop

    def read(self, plan: Indices, first_frame: int = 0, *, repeats: bool = False) -> Iterator[tuple[int, Any]]:
        """Yield (number, `av.VideoFrame`) for plan[first_frame:]."""
        for number in plan[first_frame:].tolist():
            if self._stop.is_set():
                return
            yield number, self._pictures.frame(number)


def _checked_pictures(pictures: Any) -> Sequence[Image.Image | npt.NDArray[np.uint8]]:
    if isinstance(pictures, Image.Image):
        raise UsageError("one image is not a sequence of them; give [image]")
    if not isinstance(pictures, (list, tuple)):
        pictures = _as_array(pictures)
        if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype != np.uint8:
            raise UsageError(_not_pixels("pictures", "[F, H, W, 3]", pictures))
    if not len(pictures):
        raise UsageError("pictures: there are none; give at least one")
    checked = []
    for number, picture in enumerate(pictures):
        if not isinstance(picture, Image.Image):
            picture = _as_array(picture)
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise UsageError(_not_pixels(f"picture {number}", "[H, W, 3], or a PIL image", picture))
            if not 0 < picture.shape[0] * picture.shape[1] <= MAX_PIXELS:
                raise UsageError(f"picture {number} has {picture.shape[1]}x{picture.shape[0]} pixels")
        checked.append(picture)
    return checked


def _as_array(value: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor that is on a GPU, or in a graph
        raise UsageError(f"a {type(value).__name__} cannot be read as pixels ({error})") from error


def _not_pixels(what: str, shape: str, array: npt.NDArray[Any]) -> str:
    hint = "; move the channels to the end" if array.ndim >= 3 and array.shape[-3] == 3 != array.shape[-1] else ""
    if array.dtype.kind == "f":
        hint += "; scale to 0 to 255 and round"
    return f"{what} must be uint8 {shape}, RGB, not {array.dtype} {list(array.shape)}{hint}"


def _times(
    num_pictures: int, pts_seconds: npt.ArrayLike | None, fps: float | Fraction | None
) -> tuple[npt.NDArray[np.float64], float]:
    """The time of each picture, and when the last one ends."""
    if (pts_seconds is None) == (fps is None):
        raise UsageError("pictures have no times of their own; give pts_seconds=[...], one for each, or fps=25")
    if fps is not None:
        if isinstance(fps, bool) or not isinstance(fps, (int, float, Fraction, np.number)) or not 0 < fps <= 1e6:
            raise UsageError(f"fps={fps!r}: give the pictures per second, above 0 and at most 1000000")
        rate = fps if isinstance(fps, Fraction) else Fraction(float(fps))
        times = np.arange(num_pictures + 1) * rate.denominator / np.float64(rate.numerator)
        return times[:-1], float(times[-1])
    try:
        times = np.array(pts_seconds, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"pts_seconds: give seconds as numbers ({error})") from error
    if times.shape != (num_pictures,):
        raise UsageError(f"pts_seconds: {num_pictures} pictures take {num_pictures} times, not {list(times.shape)}")
    if not np.isfinite(times).all():
        raise UsageError(f"pts_seconds: {times[~np.isfinite(times)][0]} is no time")
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if len(wrong):
        earlier, later = times[wrong[0] : wrong[0] + 2]
        raise UsageError(f"pts_seconds: every time must be later than the one before, but {later} follows {earlier}")
    step = times[-1] - times[-2] if num_pictures > 1 else _ALONE_SECONDS
    return times, float(times[-1] + step)


def _pixels_of(image: Image.Image) -> tuple[str, npt.NDArray[Any]]:
    """What FFmpeg makes of such an image in a PNG file, upright; palettes and two colours become RGB before scaling."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UsageError("has real numbers for pixels (mode F), which have no black and white; convert it to L or RGB")
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UsageError(f"has values from {pixels.min()} to {pixels.max()} (mode I), more than 16 bits hold")
        return "gray16le", np.ascontiguousarray(pixels, "<u2")
    if image.mode in ("L", "LA"):
        return "gray", np.ascontiguousarray(image.convert("L"))
    return "rgb24", np.ascontiguousarray(image.convert("RGB"))
