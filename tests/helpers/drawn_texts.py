"""The texts of a picture as they were really drawn, with their places measured by the drawing library itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations

import matplotlib.figure
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image, ImageDraw

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Placed:
    """A text, the box around it in pixels, and how far it is turned."""

    text: str
    box: Box
    degrees: float = 0.0

    def turned_back(self) -> Box:
        """Compute its box in coordinates that are turned as the text is; not for turns of 45 degrees."""
        left, top, right, bottom = self.box
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        x, y = (left + right) / 2, (top + bottom) / 2
        x, y = x * cos + y * sin, y * cos - x * sin
        cos, sin = abs(cos), abs(sin)
        width = ((right - left) * cos - (bottom - top) * sin) / (cos**2 - sin**2)
        height = ((bottom - top) * cos - (right - left) * sin) / (cos**2 - sin**2)
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2


@dataclass
class DrawnTexts:
    """What was written, and what is wrong with where it stands.

    Attributes:
        texts: all texts, in the order in which they were drawn.
        faults: a sentence for each text that leaves its picture, and for each two that overlap.
        num_pictures: number of pictures with texts in them.
    """

    texts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    num_pictures: int = 0

    def add(self, placed: list[Placed], width: float, height: float) -> None:
        """Look at the texts of one picture."""
        self.num_pictures += 1
        self.texts += [one.text for one in placed]
        for one in placed:
            left, top, right, bottom = one.box
            if left < -0.5 or top < -0.5 or right > width + 0.5 or bottom > height + 0.5:
                place = f"{left:.0f}-{right:.0f} of {width:.0f}, {top:.0f}-{bottom:.0f} of {height:.0f}"
                self.faults.append(f"{one.text!r} leaves the picture: {place}")
        for one, other in combinations(placed, 2):
            turned = one.degrees == other.degrees and one.degrees % 90 != 0
            a, b = (one.turned_back(), other.turned_back()) if turned else (one.box, other.box)
            if min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 0.5:
                self.faults.append(f"{one.text!r} and {other.text!r} overlap")


@contextmanager
def drawn_by_pil() -> Iterator[DrawnTexts]:
    """Record the texts that are drawn by PIL. A picture that is pasted into another is looked at by itself."""
    found, boxes, sheets = DrawnTexts(), {}, []
    draw_text, paste = ImageDraw.ImageDraw.text, Image.Image.paste

    def record(self: ImageDraw.ImageDraw, xy, text, fill=None, font=None, anchor=None, **other) -> None:
        boxes.setdefault(id(self.im), []).append(Placed(text, self.textbbox(xy, text, font, anchor=anchor)))
        sheets.append((self.im, self.im.size))  # kept, so that no other picture gets its id
        draw_text(self, xy, text, fill, font, anchor, **other)

    def check(self: Image.Image, im, box=None, mask=None) -> None:
        if isinstance(im, Image.Image) and box is not None and not isinstance(im, str):
            left, top = box[:2]
            if left < 0 or top < 0 or left + im.width > self.width or top + im.height > self.height:
                found.faults.append(f"a part of {im.size} at {box[:2]} is cut off by a picture of {self.size}")
        paste(self, im, box, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", record)
        patch.setattr(Image.Image, "paste", check)
        yield found
    for core, size in dict.fromkeys(sheets):
        found.add(boxes[id(core)], *size)


@contextmanager
def drawn_by_matplotlib() -> Iterator[DrawnTexts]:
    """Record the texts of the figures that are saved."""
    found = DrawnTexts()
    save = matplotlib.figure.Figure.savefig

    def record(self: matplotlib.figure.Figure, *arguments, **options) -> None:
        save(self, *arguments, **options)
        self.set_dpi(options.get("dpi", self.dpi))  # that of the file, as places are computed anew
        FigureCanvasAgg(self).draw()
        found.add(texts_of(self), *self.bbox.size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matplotlib.figure.Figure, "savefig", record)
        yield found


def texts_of(figure: matplotlib.figure.Figure) -> list[Placed]:
    """Return the texts of a figure that was drawn."""
    hidden = {id(text) for axes in figure.axes if not axes.axison for text in axes.findobj(Text)}
    for axes in figure.axes:  # ticks beyond the limits of an axis exist, but are not drawn
        for axis in (axes.xaxis, axes.yaxis):
            drawn = {id(label) for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
            every = [label for tick in axis.get_major_ticks() + axis.get_minor_ticks() for label in tick.findobj(Text)]
            hidden |= {id(label) for label in every if id(label) not in drawn}
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in hidden]
    return [Placed(t.get_text(), tuple(t.get_window_extent().extents), t.get_rotation()) for t in dict.fromkeys(shown)]
