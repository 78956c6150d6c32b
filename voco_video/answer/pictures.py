"""Pictures: a contact sheet of sampled frames, the frames that an answer attended to, and moments that were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from voco_video.answer.generate import Answer
from voco_video.answer.moments import Moment, format_seconds
from voco_video.answer.page import BODY, INK, PAPER, TITLE, WARNING_INK, Bars, Grid, Paragraph, Tile, page, percent
from voco_video.errors import VideoError
from voco_video.options.sampling import Sampling
from voco_video.video.frames import FrameBatch
from voco_video.video.reading import VideoInfo, probe, read_frames
from voco_video.video.scaling import Fit
from voco_video.video.sources import VideoLike, local_video

MAX_FRAMES = 60
_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class ShownMoment:
    """A moment that was found, as it is drawn.

    Attributes:
        moment: its best frame is drawn.
        name: the name of its video.
        source: the video; None if it is gone.
        is_foreign: whether the model was never trained on such a video, so that the score means nothing.
    """

    moment: Moment
    name: str
    source: VideoLike | None = None
    is_foreign: bool = False


def contact_sheet(frames: FrameBatch, *, title: str = "", note: str = "") -> Image.Image:
    """Draw frames in rows, each with its timestamp below.

    Args:
        frames: all are drawn, but more than `MAX_FRAMES` are hard to look at.
        title: what is written above them, such as the name of the video.
        note: a further line, such as how the frames were sampled.

    >>> frames = FrameBatch(pixels=np.zeros((2, 90, 160, 3), np.uint8), pts_seconds=np.array([0.0, 1.5]))
    >>> contact_sheet(frames).size[1] > 90
    True
    """
    images = [Image.fromarray(pixels) for pixels in frames.pixels]
    tiles = [Tile(image, lines=(format_seconds(t),)) for image, t in zip(images, frames.pts_seconds)]
    nothing = "" if tiles else "There are no frames."
    return page([_title(title), Paragraph(note), Paragraph(nothing, BODY), Grid(tiles, tile_height=110)])


def frame_row(frames: FrameBatch, *, num_columns: int) -> Image.Image:
    """Draw frames side by side without any text, for a place that is narrower than a page.

    Args:
        num_columns: frames have the same size in every row of so many, which may be more than there are.
    """
    width, gap = 160, 4
    boxes = [ImageOps.contain(Image.fromarray(pixels), (width, width)) for pixels in frames.pixels]
    height = max((box.height for box in boxes), default=1)
    row = Image.new("RGB", (num_columns * (width + gap) - gap, height), PAPER)
    for number, box in enumerate(boxes):
        row.paste(box, (number * (width + gap) + (width - box.width) // 2, (height - box.height) // 2))
    return row


def attention_strip(answer: Answer, *, source: VideoLike | None = None, head: str = "") -> Image.Image:
    """Draw which of the frames that an answer could see it attended to: a bar for each frame, and the frames.

    The frames are decoded again from ``source`` for the picture only; if that is gone, empty boxes replace them.
    Of more than `MAX_FRAMES` frames, those with the most attention are drawn, in their order.

    Args:
        head: a line on what the answer was made with.

    Raises:
        ValueError: the answer was made without ``with_attention``.
    """
    if answer.frame_attention is None:
        raise ValueError("ask with with_attention=True to draw where the answer looked")
    shares = np.nan_to_num(answer.frame_attention, posinf=0.0, neginf=0.0)
    is_shown = np.zeros(len(shares), bool)
    is_shown[np.argsort(-shares, kind="stable")[:MAX_FRAMES]] = True
    pts = answer.frame_pts_seconds[is_shown]
    frames = frames_at(source, pts)
    largest = float(shares.max(initial=0.0))
    tiles = [
        Tile(frame, lines=(f"{format_seconds(t)} · {percent(share)}",), share=drawn / largest if largest else 0.0)
        for frame, t, share, drawn in zip(frames, pts, answer.frame_attention[is_shown], shares[is_shown])
    ]
    clocks = [format_seconds(t) for t in answer.frame_pts_seconds[[0, -1]]] if len(shares) > 1 else []
    text = answer.text.strip() or "(an empty answer)"
    return page(
        [
            _title(answer.question),
            Paragraph(f"{text}…" if answer.is_cut else text, BODY, ink=INK),
            Paragraph(f"This means nothing: {answer.note}" if answer.is_foreign else "", ink=WARNING_INK),
            Paragraph(" · ".join(filter(None, [head, _worth_of(answer)]))),
            Paragraph(_choice_of(len(frames), len(shares), is_gone=None in frames)),
            *(
                [Bars("share of the attention to the video, frame by frame", shares, is_shown, *clocks)]
                if largest and clocks
                else []
            ),
            Grid(tiles, tile_height=110),
        ]
    )


def moment_strip(moments: Sequence[ShownMoment], *, query: str, notes: Sequence[str] = ()) -> Image.Image:
    """Draw the best frame of each moment, with the name of its video, its time, and what its score is worth.

    Args:
        moments: the best first.
        notes: what a reader has to know, such as what the model was trained on.
    """
    frames = [frames_at(one.source, np.array([one.moment.peak_seconds]))[0] for one in moments]
    tiles = [
        Tile(frame, f"{number}. {one.name}", lines=(_span(one.moment), _score_of(one)))
        for number, (frame, one) in enumerate(zip(frames, moments), start=1)
    ]
    return page(
        [
            _title(query),
            Paragraph(_about(moments), BODY, ink=INK),
            *(Paragraph(note) for note in notes),
            Paragraph("A video of an empty box is not there any more." if None in frames else ""),
            Grid(tiles, tile_height=150),
        ]
    )


def _title(text: str) -> Paragraph:
    return Paragraph(text.strip(), TITLE if len(text) <= 200 else BODY, is_bold=True, ink=INK)


def _worth_of(answer: Answer) -> str:
    """Say how sure an answer is, and how much of its attention the frames got."""
    to_video = answer.video_attention
    return " · ".join(
        [
            *(
                []
                if answer.is_foreign or not np.isfinite(answer.confidence)
                else [f"confidence {percent(answer.confidence)}"]
            ),
            *([] if to_video is None else [f"{percent(to_video)} of the attention on the video"]),
        ]
    )


def _choice_of(num_shown: int, num_frames: int, *, is_gone: bool) -> str:
    """Say which frames are drawn, and what the bars below them mean."""
    if num_frames == 0:
        return "The answer saw no frame."
    gone = " The video is not there any more, so the frames themselves are missing." if is_gone else ""
    if num_frames == 1:
        return f"The one frame that the answer could see.{gone.replace('frames themselves are', 'frame itself is')}"
    if num_shown == num_frames:
        which = f"All {num_frames} frames that the answer could see, in their order."
    else:
        which = f"The {num_shown} of {num_frames} frames with the most attention, in their order."
    return f"{which} Below each: its share of the attention to the video; the longest bar is the largest share.{gone}"


def _about(moments: Sequence[ShownMoment]) -> str:
    """Say how moments are sorted, and what their scores mean."""
    if not moments:
        return "Nothing was found."
    one = "The best moment" if len(moments) == 1 else f"The {len(moments)} best moments, the best first"
    if all(shown.is_foreign for shown in moments):
        return f"{one}. The scores mean nothing here."
    if any(shown.is_foreign for shown in moments):
        one += ". A score means nothing where a video is unlike what the model was trained on"
    if any(shown.moment.is_likely is None for shown in moments):
        return f"{one}. Only the order counts: this model has not learned to find frames."
    return f"{one}. A score above 0: it shows what was asked for, more likely than not."


def _span(moment: Moment) -> str:
    return f"{format_seconds(moment.start_seconds)} - {format_seconds(moment.end_seconds)}"


def _score_of(shown: ShownMoment) -> str:
    if shown.is_foreign:
        return "score means nothing"
    if shown.moment.is_likely is None:
        return ""
    if not np.isfinite(shown.moment.score):
        return "score is not a number"
    return f"score {shown.moment.score:.2f} · {'likely' if shown.moment.is_likely else 'unlikely'}"


def attention_bars(answer: Answer, *, width: int = 60) -> str:
    """Write shares of attention for a terminal: one block a frame (or several), and the frames with the most.

    >>> answer = Answer("q", "a", (), 1.0, 2, 1, 0.0, frame_pts_seconds=np.array([0.0, 1.0]),
    ...                 frame_attention=np.array([0.75, 0.25]), video_attention=0.5)
    >>> print(attention_bars(answer))
    0:00.00 |█▃| 0:01.00   50% of the attention on the video
    most on 0:00.00 (75%), 0:01.00 (25%)
    """
    shares, pts = answer.frame_attention, answer.frame_pts_seconds
    if shares is None or not len(shares):
        return "(no frames to look at)"
    finite = np.nan_to_num(shares, posinf=0.0, neginf=0.0)
    columns = np.array([part.sum() for part in np.array_split(finite, min(width, len(shares)))])
    heights = np.ceil(columns / max(columns.max(), 1e-30) * (len(_BLOCKS) - 1)).astype(int)
    bars = "".join(_BLOCKS[h] for h in heights)
    top = np.argsort(-shares, kind="stable")[:5]
    most = ", ".join(f"{format_seconds(pts[i])} ({shares[i]:.0%})" for i in top)
    span = f"{format_seconds(pts[0])} |{bars}| {format_seconds(pts[-1])}"
    return f"{span}   {answer.video_attention:.0%} of the attention on the video\nmost on {most}"


def thumbnail_fit(info: VideoInfo) -> Fit:
    """Return a small size of the video's own shape, for the decoder to scale to."""
    return Fit(height=240, width=min(16384, max(1, round(240 * info.width / info.height))), mode="stretch")


def frames_at(source: VideoLike | None, pts_seconds: np.ndarray) -> list[Image.Image | None]:
    """Decode the small frames at these times; None for each if the video is gone or has others."""
    nothing: list[Image.Image | None] = [None] * len(pts_seconds)
    if source is None or not nothing:
        return nothing
    try:
        # Half a millisecond after each pts, since a time written and read as decimal may be slightly smaller.
        timestamps = tuple(float(t) + 5e-4 for t in pts_seconds)
        with local_video(source) as local:
            frames = read_frames(local, Sampling(timestamps=timestamps), fit=thumbnail_fit(probe(local)))
    except VideoError:
        return nothing
    return [Image.fromarray(pixels) for pixels in frames.pixels] if len(frames) == len(nothing) else nothing
