"""Decoded pictures of any colours and pixel format to RGB, through FFmpeg's scaler and past what it refuses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_video.errors import VideoError

logger = logging.getLogger("voco_video")

# Matrix coefficients of ITU-T H.273 and their names there.
_RGB, _BT709, _UNSPECIFIED, _FCC, _BT470BG, _BT601, _SMPTE240M, _YCGCO, _BT2020 = 0, 1, 2, 4, 5, 6, 7, 8, 9
_SCALER_KNOWS = frozenset({_RGB, _BT709, _UNSPECIFIED, _FCC, _BT470BG, _BT601, _SMPTE240M, _BT2020})
# How much larger than RGB's the range of codes is, and how much of Co and Cg a colour takes: YCgCo, -Re and -Ro.
_YCGCO_SCALES = {_YCGCO: (1.0, 1.0), 16: (4.0, 0.5), 17: (2.0, 0.5)}
_NEAREST = {10: _BT2020, 11: _BT2020, 14: _BT2020, 15: _BT2020}
_DERIVED = frozenset({12, 13})  # from the primaries, whose own matrices are nearly these
_OF_PRIMARIES = {1: _BT709, 4: _FCC, 5: _BT709, 6: _SMPTE240M, 7: _SMPTE240M, 9: _BT2020, 11: _BT709, 12: _BT709}
_NAMES = {
    _BT709: "BT.709",
    _UNSPECIFIED: "the usual one (BT.601)",
    _FCC: "FCC",
    _SMPTE240M: "SMPTE 240M",
    _BT2020: "BT.2020",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "derived from the primaries",
    13: "derived from the primaries, with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
}
_KNOWN_RANGES = frozenset({0, 1, 2})  # unspecified, limited, full
_FULL_RANGE = 2
_CRASHING_FORMATS = frozenset({"yaf32le", "yaf32be"})  # the scaler of FFmpeg 8.1 ends the process on these


def knows_matrix(frame: Any) -> bool:
    """Whether FFmpeg's scaler can convert the colours of an `av.VideoFrame` as they are."""
    return frame.colorspace in _SCALER_KNOWS and frame.color_range in _KNOWN_RANGES


class RgbScaler:
    """Scales `av.VideoFrame`s and makes RGB of them. Not for use from two threads at once.

    Args:
        name: of the file, for what has to be said of it.
    """

    def __init__(self, name: str) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._name = name
        self._reformatter = VideoReformatter()
        self._bicubic = Interpolation.BICUBIC
        self._said: set[int] = set()

    def scale(self, frame: Any, height: int, width: int) -> Iterator[tuple[slice, npt.NDArray[np.uint8]]]:
        """Yield which channels, and those as [height, width, c], until all three have come.

        The yuv to rgb matrix and range are those that the frame carries, as in the ffmpeg program. A matrix that the
        scaler does not know gives way to the nearest that it does, and a warning says so once.

        Raises:
            VideoError: pixels that cannot be converted, or too many for memory.
        """
        import av

        if frame.format.name in _CRASHING_FORMATS:
            raise VideoError(f"{self._name}: its pixel format {frame.format.name} cannot be converted to RGB")
        matrix, pixel_range = frame.colorspace, frame.color_range
        try:
            if knows_matrix(frame):
                return _channels_of(self._planes(frame, height, width))
            if pixel_range not in _KNOWN_RANGES:
                frame.color_range = 0
            if matrix in _YCGCO_SCALES and _has_chroma(frame):
                return iter([(slice(0, 3), self._from_ycgco(frame, height, width, *_YCGCO_SCALES[matrix]))])
            frame.colorspace = self._nearest(frame)
            return _channels_of(self._planes(frame, height, width))
        except (av.error.FFmpegError, MemoryError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "out of memory"
            raise VideoError(
                f"{self._name}: its pictures ({frame.width}x{frame.height}, {frame.format.name}) cannot be brought "
                f"to {width}x{height} RGB pixels ({reason})"
            ) from error
        finally:
            frame.colorspace, frame.color_range = matrix, pixel_range

    def _planes(self, frame: Any, height: int, width: int) -> Any:
        # Planes, because the scaler's way to packed pixels has no vector code where chroma is kept whole, and halves
        # chroma where it is quick. Where nothing is to be scaled it has one of its own for packed pixels.
        pixel_format = "rgb24" if (frame.width, frame.height) == (width, height) else "gbrp"
        # Two scaler threads give the same pixels for the same work, and where every frame is wanted this thread
        # is the one that the decoder's threads wait for.
        return self._reformatter.reformat(
            frame, width=width, height=height, format=pixel_format, interpolation=self._bicubic, threads=2
        )

    def _from_ycgco(
        self, frame: Any, height: int, width: int, range_scale: float, chroma_scale: float
    ) -> npt.NDArray[np.uint8]:
        """H.273's equations for YCgCo, on codes of 16 bits so that nothing is lost: [height, width, 3]."""
        frame.colorspace = _BT601  # on both sides, so that nothing but the size and the range is changed
        scaled = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="yuv444p16le",
            interpolation=self._bicubic,
            dst_color_range=_FULL_RANGE,
            threads=2,
        )
        y, cg, co = (codes.view("<u2")[..., 0].astype(np.float32) for codes in _planes_of(scaled, 3, 2))
        cg, co = (cg - 32768) * chroma_scale, (co - 32768) * chroma_scale
        rgb = np.stack([y - cg + co, y + cg, y - cg - co], axis=-1) * (range_scale / 65535 * 255)
        return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)

    def _nearest(self, frame: Any) -> int:
        """The matrix to use for a frame whose own the scaler does not know."""
        matrix = frame.colorspace
        if matrix in _SCALER_KNOWS:
            return matrix
        nearest = _OF_PRIMARIES.get(frame.color_primaries) if matrix in _DERIVED else _NEAREST.get(matrix)
        nearest = _UNSPECIFIED if nearest is None else nearest
        if _has_chroma(frame) and matrix not in self._said:
            self._said.add(matrix)
            its_own = _NAMES.get(matrix, f"number {matrix}, which is reserved")
            logger.warning(
                "%s: the matrix of its colours (%s) cannot be undone; colours come from the nearest one, %s",
                self._name,
                its_own,
                _NAMES[nearest],
            )
        return nearest


def _has_chroma(frame: Any) -> bool:
    return len(frame.format.components) > 2 and not frame.format.is_rgb


def _channels_of(frame: Any) -> Iterator[tuple[slice, npt.NDArray[np.uint8]]]:
    """The pixels of an rgb24 or gbrp frame without a copy: which channels, and those as [h, w, c]."""
    if frame.format.name == "rgb24":
        return ((slice(0, 3), pixels) for pixels in _planes_of(frame, 1, 3))
    green, blue, red = slice(1, 2), slice(2, 3), slice(0, 1)
    return zip((green, blue, red), _planes_of(frame, 3, 1), strict=True)


def _planes_of(frame: Any, num_planes: int, depth: int) -> Iterator[npt.NDArray[np.uint8]]:
    """A frame's first planes as bytes [h, w, depth], without a copy."""
    for plane in frame.planes[:num_planes]:
        rows = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)  # may be padded
        yield rows[:, : frame.width * depth].reshape(frame.height, frame.width, depth)
