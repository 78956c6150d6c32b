"""Files of subtitles, and clips that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

Line = tuple[float, float, str]


def clock(seconds: float, mark: str = ",") -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{thousandths:03d}"


def srt(lines: Sequence[Line]) -> str:
    blocks = (f"{n}\n{clock(a)} --> {clock(b)}\n{text}\n" for n, (a, b, text) in enumerate(lines, start=1))
    return "\n".join(blocks)


def vtt(lines: Sequence[Line]) -> str:
    blocks = (f"{clock(a, '.')} --> {clock(b, '.')}\n{text}\n" for a, b, text in lines)
    return "WEBVTT\n\n" + "\n".join(blocks)


def write_subtitled(path: Path, lines: Sequence[Line], *, num_seconds: int = 6, start_seconds: float = 0.0) -> Path:
    """A clip of four frames a second whose container has a subtitle stream; the clock of all begins at a time."""
    source = path.with_suffix(".source.srt")
    source.write_text(srt(lines), encoding="utf-8")
    with av.open(str(source)) as texts, av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=4)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        said = out.add_stream_from_template(texts.streams.subtitles[0])
        for number in range(4 * num_seconds):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * number, np.uint8))
            frame.pts = number + round(4 * start_seconds)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        for packet in texts.demux(texts.streams.subtitles[0]):
            if packet.size:
                packet.stream = said
                packet.pts += round(1000 * start_seconds)
                packet.dts = packet.pts
                out.mux(packet)
    source.unlink()
    return path
