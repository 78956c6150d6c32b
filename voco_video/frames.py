"""Frames as the rest of the package sees them: upright RGB pixels of one size, each with its time.

`Fit` says which size and how; `Layout` works out the geometry once per video (pure); `FrameScaler` carries it out,
one swscale pass from the decoder's own pixels to RGB at the final scale and one copy into the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from voco_video.errors import UsageError

FitMode = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True)
class Fit:
    """The size that every frame is brought to, and how the picture as displayed is made to fit it.

    crop:     scaled to cover the box, then cut at the centre (CLIP's image processor)
    pad:      scaled to lie inside the box, centred on `pad_rgb` (LLaVA-1.5)
    stretch:  scaled to exactly the box

    height, width: pixels; pad_rgb: three values 0-255. Raises UsageError for anything else.

    >>> Fit(height=336, width=336).mode
    'crop'
    """

    height: int
    width: int
    mode: FitMode = "crop"
    pad_rgb: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= 16384:
                raise UsageError(f"Fit.{name} must be a whole number of pixels from 1 to 16384, not {value!r}")
        if self.mode not in get_args(FitMode):
            raise UsageError(f"Fit.mode must be one of {', '.join(get_args(FitMode))}, not {self.mode!r}")
        rgb = tuple(self.pad_rgb)
        if len(rgb) != 3 or not all(isinstance(v, (int, np.integer)) and 0 <= v <= 255 for v in rgb):
            raise UsageError(f"Fit.pad_rgb must be three whole numbers from 0 to 255, not {self.pad_rgb!r}")
        object.__setattr__(self, "pad_rgb", tuple(int(v) for v in rgb))


@dataclass(frozen=True)
class FrameBatch:
    """Frames with their times.

    pixels:       uint8 [F, H, W, 3], RGB, upright, square pixels
    pts_seconds:  float64 [F], the presentation time of each frame, never decreasing

    >>> batch = FrameBatch(np.zeros((3, 2, 2, 3), np.uint8), np.array([0.0, 0.5, 1.0]))
    >>> len(batch), batch[1:].pts_seconds
    (3, array([0.5, 1. ]))
    """

    pixels: npt.NDArray[np.uint8]
    pts_seconds: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[3] != 3 or self.pixels.dtype != np.uint8:
            raise UsageError(f"pixels must be uint8 [F, H, W, 3], not {self.pixels.dtype} {self.pixels.shape}")
        if self.pts_seconds.dtype != np.float64 or self.pts_seconds.shape != self.pixels.shape[:1]:
            raise UsageError(
                f"pts_seconds must be float64 [{len(self.pixels)}], one time per frame, not "
                f"{self.pts_seconds.dtype} {self.pts_seconds.shape}"
            )
        if np.any(np.diff(self.pts_seconds) < 0):
            raise UsageError(f"pts_seconds must not decrease, got {self.pts_seconds}")

    def __len__(self) -> int:
        return len(self.pts_seconds)

    def __getitem__(self, frames: slice) -> FrameBatch:
        if not isinstance(frames, slice):
            raise TypeError(f"a FrameBatch is sliced, as in batch[2:3]; got {frames!r}")
        return FrameBatch(self.pixels[frames], self.pts_seconds[frames])


@dataclass(frozen=True)
class Orientation:
    """How the stored picture becomes upright: transpose, then mirror left-right, then mirror up-down.

    These eight cases are all that a container's display matrix may ask for in right angles.
    """

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def from_matrix(cls, matrix: bytes | None) -> Orientation:
        """From the nine 32-bit numbers of a display matrix (ISO 14496-12: x' = a x + c y, y' = b x + d y)."""
        if matrix is None or len(matrix) < 36:
            return cls()
        a, b, _, c, d = np.frombuffer(matrix[:20], np.int32).tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(transpose=True, mirror_x=c < 0, mirror_y=b < 0)
        return cls(mirror_x=a < 0, mirror_y=d < 0)

    @property
    def rotation_degrees(self) -> int:
        """The clockwise turn in it: 0, 90, 180 or 270 (a mere mirror image counts as 0)."""
        if self.transpose:
            return 270 if self.mirror_y else 90
        return 180 if self.mirror_x and self.mirror_y else 0

    def upright(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A view of `picture` [h, w, 3] the right way up."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        step_y, step_x = (-1 if self.mirror_y else 1), (-1 if self.mirror_x else 1)
        return picture[::step_y, ::step_x]

    def stored(self, upright: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The inverse of `upright`: a view of an upright picture [h, w, 3] the way up it is stored."""
        step_y, step_x = (-1 if self.mirror_y else 1), (-1 if self.mirror_x else 1)
        picture = upright[::step_y, ::step_x]
        return picture.transpose(1, 0, 2) if self.transpose else picture

    @property
    def is_mirrored(self) -> bool:
        """True where turning alone does not make it upright."""
        return (self.transpose + self.mirror_x + self.mirror_y) % 2 == 1


@dataclass(frozen=True)
class Layout:
    """Where the pixels of a stored picture end up; everything in pixels.

    scaled_*: upright size after scaling; crop_*: corner of the part that is kept; paste_*: where that goes in the
    output of `height` x `width`; kept_*: its size.
    """

    height: int
    width: int
    scaled_height: int
    scaled_width: int
    crop_top: int = 0
    crop_left: int = 0
    paste_top: int = 0
    paste_left: int = 0

    @property
    def kept_height(self) -> int:
        """Rows of the result that show the picture."""
        return min(self.height, self.scaled_height)

    @property
    def kept_width(self) -> int:
        """Columns of the result that show the picture."""
        return min(self.width, self.scaled_width)

    @property
    def has_border(self) -> bool:
        """Whether some of the result shows no picture."""
        return (self.kept_height, self.kept_width) != (self.height, self.width)


def display_size(
    stored_height: int, stored_width: int, sample_aspect_ratio: Fraction, orientation: Orientation
) -> tuple[Fraction, Fraction]:
    """Height and width of the upright picture in square pixels. Exact: anamorphic widths need not be whole.

    >>> display_size(256, 340, Fraction(64, 51), Orientation())
    (Fraction(256, 1), Fraction(1280, 3))
    """
    height, width = Fraction(stored_height), stored_width * sample_aspect_ratio
    return (width, height) if orientation.transpose else (height, width)


def plan_layout(height: Fraction, width: Fraction, fit: Fit | None) -> Layout:
    """The geometry that brings a displayed picture of `height` x `width` square pixels to `fit`.

    Sizes and offsets round as in Hugging Face's CLIP processor, so its own resize and crop change nothing.

    >>> plan_layout(Fraction(360), Fraction(640), Fit(height=336, width=336))
    Layout(height=336, width=336, scaled_height=336, scaled_width=597, crop_top=0, crop_left=130, \
paste_top=0, paste_left=0)
    """
    if fit is None:
        rows, columns = max(1, round(height)), max(1, round(width))
        return Layout(rows, columns, rows, columns)
    if fit.mode == "stretch":
        return Layout(fit.height, fit.width, fit.height, fit.width)
    scales = Fraction(fit.height) / height, Fraction(fit.width) / width
    if fit.mode == "crop":
        scale = max(scales)
        rows, columns = max(fit.height, int(height * scale)), max(fit.width, int(width * scale))
        return Layout(
            fit.height,
            fit.width,
            rows,
            columns,
            crop_top=(rows - fit.height) // 2,
            crop_left=(columns - fit.width) // 2,
        )
    scale = min(scales)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    return Layout(
        fit.height,
        fit.width,
        rows,
        columns,
        paste_top=(fit.height - rows) // 2,
        paste_left=(fit.width - columns) // 2,
    )


class FrameScaler:
    """Writes decoded pictures into a batch at their final size. Not for use from two threads at once.

    `orientation` and `sample_aspect_ratio` describe the pictures that will come; one whose size changes in
    mid-stream is brought to the same output.
    """

    def __init__(self, fit: Fit | None, layout: Layout, orientation: Orientation) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self.layout = layout
        self._orientation = orientation
        self._pad_rgb = fit.pad_rgb if fit else (0, 0, 0)
        self._reformatter = VideoReformatter()
        self._bicubic = Interpolation.BICUBIC

    def new_batch(self, num_frames: int) -> npt.NDArray[np.uint8]:
        """An uninitialised [num_frames, H, W, 3], with its border painted where the fit leaves one."""
        pixels = np.empty((num_frames, self.layout.height, self.layout.width, 3), np.uint8)
        if self.layout.has_border:
            pixels[:] = self._pad_rgb
        return pixels

    def write(self, frame: Any, out: npt.NDArray[np.uint8]) -> None:
        """Scale one `av.VideoFrame` into `out` [H, W, 3], a row of `new_batch`.

        The yuv to rgb matrix and range are those the frame carries, as in the ffmpeg program.
        """
        layout = self.layout
        rows, columns = layout.scaled_height, layout.scaled_width
        if self._orientation.transpose:
            rows, columns = columns, rows
        # Planes, because the scaler's way to packed pixels has no vector code where chroma is kept whole, and halves
        # chroma where it is quick. Where nothing is to be scaled it has one of its own for packed pixels.
        pixel_format = "rgb24" if (frame.width, frame.height) == (columns, rows) else "gbrp"
        # Scaling comes before turning: the small picture is the cheap one to turn, and as a view it costs nothing.
        # Two scaler threads give the same pixels for the same work, and where every frame is wanted this thread
        # is the one that the decoder's threads wait for.
        scaled = self._reformatter.reformat(
            frame, width=columns, height=rows, format=pixel_format, interpolation=self._bicubic, threads=2
        )
        target = out[
            layout.paste_top : layout.paste_top + layout.kept_height,
            layout.paste_left : layout.paste_left + layout.kept_width,
        ]
        for channels, picture in _channel_views(scaled):
            target[..., channels] = self._orientation.upright(picture)[
                layout.crop_top : layout.crop_top + layout.kept_height,
                layout.crop_left : layout.crop_left + layout.kept_width,
            ]


def _channel_views(frame: Any) -> Iterator[tuple[slice, npt.NDArray[np.uint8]]]:
    """The pixels of an rgb24 or gbrp frame without a copy: which channels, and those as [h, w, c]."""
    everything, red, green, blue = slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3)
    of_planes = (everything,) if frame.format.name == "rgb24" else (green, blue, red)
    for channels, plane in zip(of_planes, frame.planes, strict=True):
        depth = channels.stop - channels.start
        rows = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)  # may be padded
        yield channels, rows[:, : frame.width * depth].reshape(frame.height, frame.width, depth)
