"""Pages: pictures of one width that hold texts, bars, and frames in a grid, one below the other.

A page has a light ground of its own and a border, so it looks the same where what surrounds it is dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from voco_video.files.fonts import Font, Writing, note_on_missing, shortened, wrapped, writing

PAGE_WIDTH = 800
MARGIN, GAP = 16, 8
INK, FAINT_INK, WARNING_INK = (31, 35, 40), (87, 96, 106), (154, 52, 18)
PAPER, BORDER, NO_FRAME = (255, 255, 255), (208, 215, 222), (234, 238, 242)
BAR, PALE_BAR = (226, 88, 34), (246, 194, 174)
TITLE, BODY, SMALL = 17, 15, 13  # pixels
MAX_LINES = 40
_INNER_WIDTH = PAGE_WIDTH - 2 * MARGIN
_LEAST_TILE_HEIGHT, _MOST_TILE_HEIGHT = 60, 190
_NOTHING_HEIGHT, _BARS_HEIGHT = 28, 64


@dataclass(frozen=True)
class Paragraph:
    """A text of a page, with its size in pixels."""

    text: str
    size: int = SMALL
    is_bold: bool = False
    ink: tuple[int, int, int] = FAINT_INK

    def texts(self) -> list[str]:
        """Return its text."""
        return [self.text]

    def draw(self) -> Image.Image:
        """Draw it; of very many lines the first."""
        shown = writing(self.text)
        font = shown.font(self.size, is_bold=self.is_bold)
        lines = wrapped(shown.text, font, _INNER_WIDTH - 2)
        if len(lines) > MAX_LINES:
            lines = [*lines[: MAX_LINES - 1], f"… ({len(lines) - MAX_LINES + 1} more lines are left out)"]
        return _lines(lines, font, _INNER_WIDTH, self.ink)


@dataclass(frozen=True)
class Tile:
    """A frame with lines below it.

    Attributes:
        frame: None if it cannot be shown.
        name: a line that is shortened in its middle where it is long, such as the name of a file; "" for none.
        lines: further lines.
        share: length of the bar below the frame, 0 to 1; None for no bar.
    """

    frame: Image.Image | None
    name: str = ""
    lines: tuple[str, ...] = ()
    share: float | None = None


@dataclass(frozen=True)
class Grid:
    """Tiles in rows; all have boxes of one size, into which frames are fitted whole.

    Attributes:
        tile_height: about how high a frame is; the number of columns comes from that and from the frames' shape.
    """

    tiles: Sequence[Tile]
    tile_height: int

    def texts(self) -> list[str]:
        """Return what is written below its frames."""
        return [text for tile in self.tiles for text in (tile.name, *tile.lines)]

    def draw(self) -> Image.Image:
        """Draw it."""
        shapes = [tile.frame.width / tile.frame.height for tile in self.tiles if tile.frame is not None]
        shape = float(np.clip(np.median(shapes), 9 / 16, 3)) if shapes else 4 / 3
        num_columns = int(np.clip(round((_INNER_WIDTH + GAP) / (self.tile_height * shape + GAP)), 2, 6))
        width = (_INNER_WIDTH - (num_columns - 1) * GAP) // num_columns
        height = (
            int(np.clip(round(width / shape), _LEAST_TILE_HEIGHT, _MOST_TILE_HEIGHT)) if shapes else _NOTHING_HEIGHT
        )
        drawn = [_tile(tile, width, height) for tile in self.tiles]
        rows = [drawn[start : start + num_columns] for start in range(0, len(drawn), num_columns)]
        return _stacked([_side_by_side(row) for row in rows], gap=GAP)


@dataclass(frozen=True)
class Bars:
    """One bar for each share over an axis from 0 to the largest, which is labelled.

    Attributes:
        title: what the axis counts.
        shares: ``[F]``, none below 0.
        is_shown: bool ``[F]``; the others' bars are pale.
        first, last: labels below the first and the last bar.
    """

    title: str
    shares: np.ndarray
    is_shown: np.ndarray
    first: str
    last: str

    def texts(self) -> list[str]:
        """Return its labels."""
        return [self.title, self.first, self.last]

    def draw(self) -> Image.Image:
        """Draw it."""
        largest = float(self.shares.max())
        font = writing("0").font(SMALL)
        line_height = _line_height(font)
        left = round(max(font.getlength(percent(share)) for share in (0.0, largest))) + GAP
        right, top = _INNER_WIDTH - 1, line_height + line_height // 2
        bottom = top + _BARS_HEIGHT
        sheet = Image.new("RGB", (_INNER_WIDTH, bottom + line_height + 6), PAPER)
        draw = ImageDraw.Draw(sheet)
        draw.text((left, 0), self.title, fill=FAINT_INK, font=font)
        for share, middle in {0.0: bottom, largest: top}.items():
            draw.text((left - GAP, middle), percent(share), fill=FAINT_INK, font=font, anchor="rm")
            draw.line((left, middle, right, middle), fill=BORDER)
        edges = np.linspace(left, right, len(self.shares) + 1)
        for number in np.lexsort((self.shares, self.is_shown)):  # where several share a column, the highest is on top
            start, end = int(edges[number]), int(edges[number + 1])
            end = max(start, end - (2 if end - start > 3 else 1))
            bar_top = bottom - round(_BARS_HEIGHT * float(self.shares[number]) / max(largest, 1e-30))
            if bar_top < bottom:
                draw.rectangle((start, bar_top, end, bottom), fill=BAR if self.is_shown[number] else PALE_BAR)
        draw.text((left, bottom + 6), self.first, fill=FAINT_INK, font=font)
        if len(self.shares) > 1:
            draw.text((right, bottom + 6), self.last, fill=FAINT_INK, font=font, anchor="ra")
        return sheet


def page(blocks: Sequence[Paragraph | Grid | Bars]) -> Image.Image:
    """Put blocks one below the other, without empty paragraphs and grids; what fonts lack is said at the end."""
    kept = [block for block in blocks if block.texts() and block.texts() != [""]]
    lacking = note_on_missing([writing(text) for block in kept for text in block.texts()])
    inner = _stacked([block.draw() for block in [*kept, *([Paragraph(lacking)] if lacking else [])]], gap=GAP)
    sheet = ImageOps.expand(inner, MARGIN, PAPER)
    ImageDraw.Draw(sheet).rectangle((0, 0, sheet.width - 1, sheet.height - 1), outline=BORDER)
    return sheet


def _stacked(pictures: Sequence[Image.Image], *, gap: int) -> Image.Image:
    height = sum(picture.height + gap for picture in pictures) - gap
    sheet, top = Image.new("RGB", (max(picture.width for picture in pictures), height), PAPER), 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + gap
    return sheet


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    height, step = max(picture.height for picture in pictures), pictures[0].width + GAP
    sheet = Image.new("RGB", (_INNER_WIDTH, height), PAPER)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number * step, 0))
    return sheet


def percent(share: float) -> str:
    """Write a share; small ones keep a digit that is not 0.

    >>> percent(0.256), percent(0.004), percent(0.00067), percent(1e-9), percent(0.0), percent(float("nan"))
    ('26%', '0.4%', '0.067%', '< 0.001%', '0%', 'not a number')
    """
    if not np.isfinite(share):
        return "not a number"
    if share == 0 or share >= 0.095:
        return f"{share:.0%}"
    if share >= 0.001:
        return f"{share:.1%}"
    return f"{share:.3%}" if share >= 0.00001 else "< 0.001%"


def _lines(lines: Sequence[str], font: Font, width: int, ink: tuple[int, int, int]) -> Image.Image:
    height = _line_height(font)
    sheet = Image.new("RGB", (width, height * len(lines)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        if line:
            draw.text((1, number * height), line, fill=ink, font=font)
    return sheet


def _line_height(font: Font) -> int:
    """Return the height of the font's highest and lowest letters, stacked marks included."""
    return round(font.getbbox("ÅÂgjpq|")[3]) + 3


def _tile(tile: Tile, width: int, height: int) -> Image.Image:
    box = Image.new("RGB", (width, height), NO_FRAME)
    if tile.frame is None:
        shown = writing("no frame")
        font = shown.font(SMALL)
        ImageDraw.Draw(box).text((width / 2, height / 2), shown.text, fill=FAINT_INK, font=font, anchor="mm")
    else:
        frame = ImageOps.contain(tile.frame, (width, height), Image.Resampling.BICUBIC)
        box.paste(frame, ((width - frame.width) // 2, (height - frame.height) // 2))
    parts = [box]
    if tile.share is not None:
        bar = Image.new("RGB", (width, 8), NO_FRAME)
        if (length := round(width * tile.share)) > 0:
            ImageDraw.Draw(bar).rectangle((0, 0, length - 1, 7), fill=BAR)
        parts.append(bar)
    parts += [_caption(writing(tile.name), width, INK, num_lines=3)] if tile.name else []
    parts += [_caption(writing(line), width, FAINT_INK) for line in tile.lines if line]
    return _stacked(parts, gap=2)


def _caption(shown: Writing, width: int, ink: tuple[int, int, int], *, num_lines: int | None = None) -> Image.Image:
    font = shown.font(SMALL)
    text, limit = shown.text.replace("\n", " "), width - 2
    lines = wrapped(text, font, limit) if num_lines is None else shortened(text, font, limit, num_lines=num_lines)
    return _lines(lines, font, width, ink)
