"""What a decoded picture says of itself beyond its pixels: which way up it is, and the shape of its pixels.

PyAV's `av.VideoFrame` tells neither for every file, but FFmpeg's filters can be asked.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

# FFmpeg numbers its kinds of side data; this is above all of them, with room for those to come.
_MAX_SIDE_DATA_TYPES = 64
_ASPECT_STEPS = 4096


def display_matrix(picture: Any) -> bytes | None:
    """The nine 32-bit numbers that turn an `av.VideoFrame` upright, or None.

    FFmpeg makes the matrix of what the container says, and of EXIF in JPEG, PNG, WebP, TIFF, AVIF and MJPEG.
    """
    import av

    with contextlib.suppress(av.error.FFmpegError, MemoryError):
        for side_data in _named_side_data(picture):
            if side_data.type.name == "DISPLAYMATRIX":
                return bytes(side_data)
    return None


def _named_side_data(picture: Any) -> Any:
    """A picture's side data without the kinds (such as EXIF) that PyAV has no name for, on which it gives up."""
    from av.sidedata.sidedata import Type

    with contextlib.suppress(ValueError):
        return picture.side_data
    named: set[object] = {known.value for known in Type}
    nameless = [number for number in range(_MAX_SIDE_DATA_TYPES) if number not in named]
    graph, end = _graph_for(picture)
    for number in nameless:
        end = _linked(graph, end, "sidedata", f"mode=delete:type={number}")
    _linked(graph, end, "buffersink")
    graph.configure()
    graph.push(picture)
    return graph.pull().side_data


class AspectReader:
    """Reads what `av.VideoFrame` does not tell: how wide a picture says that its pixels are, over their height."""

    def __init__(self) -> None:
        self._graph: Any = None
        self._kind: tuple[Any, ...] = ()

    def read(self, picture: Any) -> Fraction | None:
        """A picture's own sample aspect ratio, to four digits (1 where it claims none); None where it cannot be had.

        It takes about 30 microseconds: the picture is scaled to one row that is as long as its pixels are wide.
        """
        import av

        try:
            if self._kind != (kind := (picture.width, picture.height, picture.format.name)):
                self._graph, end = _graph_for(picture)
                row = f"w=clip({_ASPECT_STEPS}*sar\\,1\\,{4 * _ASPECT_STEPS}):h=1:flags=neighbor:eval=frame"
                _linked(self._graph, _linked(self._graph, end, "scale", row), "buffersink")
                self._graph.configure()
                self._kind = kind
            self._graph.push(picture)
            return Fraction(self._graph.pull().width, _ASPECT_STEPS).limit_denominator(300)
        except (av.error.FFmpegError, MemoryError):  # pixels that the scaler cannot read
            self._kind = ()
            return None


class PictureCopier:
    """Copies pictures into memory of their own, so that a decoder has its buffers back."""

    def __init__(self) -> None:
        self._graph: Any = None
        self._kind: tuple[Any, ...] = ()

    def copy(self, picture: Any) -> Any:
        """A copy of an `av.VideoFrame`, or the frame itself where FFmpeg's filters cannot take it."""
        import av

        try:
            if self._kind != (kind := (picture.width, picture.height, picture.format.name)):
                self._graph, end = _graph_for(picture)
                _linked(self._graph, _linked(self._graph, end, "copy"), "buffersink")
                self._graph.configure()
                self._kind = kind
            self._graph.push(picture)
            return self._graph.pull()
        except (av.error.FFmpegError, MemoryError):
            self._kind = ()
            return picture


def _graph_for(picture: Any) -> tuple[Any, Any]:
    """A filter graph and the node where pictures like this one enter it."""
    import av.filter

    graph = av.filter.Graph()
    graph.threads = 1
    size, name, time_base = (picture.width, picture.height), picture.format.name, picture.time_base or Fraction(1, 25)
    return graph, graph.add_buffer(width=size[0], height=size[1], format=name, time_base=time_base)


def _linked(graph: Any, end: Any, name: str, options: str | None = None) -> Any:
    node = graph.add(name, options)
    end.link_to(node)
    return node
