"""How a decoded picture becomes upright RGB pixels of one size.

`Fit` says which size and how; `Layout` works out the geometry (pure); `FrameScaler` carries it out, one swscale pass
from the decoder's own pixels to RGB at the final scale and one copy into the batch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from voco_video.errors import UsageError, VideoError
from voco_video.video.colours import RgbScaler
from voco_video.video.picture_facts import AspectReader, display_matrix

# A picture of more pixels than this is taken for damage, not for a picture; that of an 8K video has 33 million.
MAX_PIXELS = 1 << 28
# What `opaque` of an `av.VideoFrame` is whose pixels another library gave: it says nothing of their shape itself.
# In a tuple of its own for each, since PyAV forgets what several have in common when the first of them is gone.
SHAPED_AS_FIRST = "shaped as the first picture"

FitMode = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True)
class Fit:
    """The size that every frame is brought to, and how the picture as displayed is made to fit it.

    Attributes:
        height, width: pixels.
        mode: "crop" scales to cover the box and cuts at the centre (CLIP's image processor); "pad" scales to lie inside
            the box, centred on `pad_rgb` (LLaVA-1.5); "stretch" scales to exactly the box.
        pad_rgb: three values from 0 to 255.

    Raises:
        UsageError: anything else.

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
class Orientation:
    """How the stored picture becomes upright: transpose, then mirror left-right, then mirror up-down.

    These eight cases are all that a container's display matrix, or EXIF, may ask for in right angles.
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

    @classmethod
    def of_frame(cls, frame: Any) -> Orientation:
        """Of a decoded `av.VideoFrame`, from its container's display matrix or its EXIF."""
        return cls.from_matrix(display_matrix(frame))

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
    if fit.mode == "crop":
        scale = max(fit.height / height, fit.width / width)
        rows, columns = max(fit.height, int(height * scale)), max(fit.width, int(width * scale))
        return Layout(
            fit.height,
            fit.width,
            rows,
            columns,
            crop_top=(rows - fit.height) // 2,
            crop_left=(columns - fit.width) // 2,
        )
    return _laid_inside(height, width, fit.height, fit.width)


def _laid_inside(height: Fraction, width: Fraction, box_height: int, box_width: int) -> Layout:
    scale = min(box_height / height, box_width / width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    return Layout(
        box_height,
        box_width,
        rows,
        columns,
        paste_top=(box_height - rows) // 2,
        paste_left=(box_width - columns) // 2,
    )


class FrameScaler:
    """Writes decoded pictures into a batch at their final size. Not for use from two threads at once.

    fit:                   the final size; None keeps the size at which the file's first picture is displayed
    stored_height, ...:    of the file's first picture, in pixels as stored
    sample_aspect_ratio:   width of a stored pixel over its height, as the container says
    orientation:           of every picture
    coded_aspect:          what the first picture itself says of its pixels' shape (`AspectReader.read`); a later one
                           that says something else is shown in that shape. None: all have that of the container
    name:                  of the file, for warnings and errors

    A picture whose size or shape differs from the first one's is fitted by itself, into the same final size; where
    `fit` is None it is scaled to lie inside, on black.

    Raises:
        VideoError: pictures would be larger than `MAX_PIXELS`.
    """

    def __init__(
        self,
        fit: Fit | None,
        *,
        stored_height: int,
        stored_width: int,
        sample_aspect_ratio: Fraction = Fraction(1),
        orientation: Orientation = Orientation(),
        coded_aspect: Fraction | None = None,
        name: str = "this video",
    ) -> None:
        self._fit = fit
        self._aspect_ratio = sample_aspect_ratio
        self._orientation = orientation
        self._coded_aspect = coded_aspect
        self._name = name
        self._pad_rgb = fit.pad_rgb if fit else (0, 0, 0)
        self._rgb = RgbScaler(name)
        self._aspects = AspectReader()
        self.layout = self._plan(stored_height, stored_width, sample_aspect_ratio, None)
        self._layouts = {(stored_height, stored_width, coded_aspect): self.layout}

    def new_batch(self, num_frames: int) -> npt.NDArray[np.uint8]:
        """An uninitialised [num_frames, H, W, 3], with its border painted where the fit leaves one.

        Raises:
            VideoError: it would not fit into this machine's memory.
        """
        shape = (num_frames, self.layout.height, self.layout.width, 3)
        size_bytes = num_frames * self.layout.height * self.layout.width * 3
        try:
            if size_bytes > _memory_bytes():
                raise MemoryError
            pixels = np.empty(shape, np.uint8)
        except MemoryError as error:
            raise VideoError(
                f"{self._name}: {num_frames} frames of {shape[2]}x{shape[1]} pixels take {size_bytes / 2**30:.1f} GiB, "
                "more than there is; read fewer at a time, or give a fit"
            ) from error
        if self.layout.has_border:
            pixels[:] = self._pad_rgb
        return pixels

    def write(self, frame: Any, out: npt.NDArray[np.uint8]) -> None:
        """Scale one `av.VideoFrame` into `out` [H, W, 3], a row of `new_batch`.

        Raises:
            VideoError: pixels that cannot be converted to RGB.
        """
        layout = self._layout_of(frame)
        rows, columns = layout.scaled_height, layout.scaled_width
        if self._orientation.transpose:
            rows, columns = columns, rows
        if layout is not self.layout and layout.has_border:
            out[:] = self._pad_rgb
        target = out[
            layout.paste_top : layout.paste_top + layout.kept_height,
            layout.paste_left : layout.paste_left + layout.kept_width,
        ]
        # Scaling comes before turning: the small picture is the cheap one to turn, and as a view it costs nothing.
        for channels, picture in self._rgb.scale(frame, rows, columns):
            target[..., channels] = self._orientation.upright(picture)[
                layout.crop_top : layout.crop_top + layout.kept_height,
                layout.crop_left : layout.crop_left + layout.kept_width,
            ]

    def _layout_of(self, frame: Any) -> Layout:
        coded = self._coded_aspect
        if coded is not None and frame.opaque != (SHAPED_AS_FIRST,):
            coded = self._aspects.read(frame) or coded
        layout = self._layouts.get(key := (frame.height, frame.width, coded))
        if layout is None:
            aspect_ratio = self._aspect_ratio if coded is None or coded == self._coded_aspect else coded
            layout = self._plan(frame.height, frame.width, aspect_ratio, self.layout)
            self._layouts = {**self._layouts, key: layout} if len(self._layouts) < 64 else {key: layout}
        return layout

    def _plan(self, stored_height: int, stored_width: int, sample_aspect_ratio: Fraction, box: Layout | None) -> Layout:
        height, width = display_size(stored_height, stored_width, sample_aspect_ratio, self._orientation)
        if box is not None and self._fit is None:
            layout = _laid_inside(height, width, box.height, box.width)
        else:
            layout = plan_layout(height, width, self._fit)
        if layout.scaled_height * layout.scaled_width > MAX_PIXELS:
            raise VideoError(
                f"{self._name}: its pictures ({stored_width}x{stored_height} stored, pixels {sample_aspect_ratio} as "
                f"wide as high) would be scaled to {layout.scaled_width}x{layout.scaled_height} pixels, more than "
                f"{MAX_PIXELS}; it is damaged, or no video"
            )
        return layout


def _memory_bytes() -> int:
    """Of this machine in all, where the system says so."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 62
