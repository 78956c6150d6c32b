"""Pictures: a contact sheet of sampled frames, and the frames that an answer attended to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from voco_video.answer.generate import Answer
from voco_video.answer.moments import Moment, format_seconds
from voco_video.errors import VideoError
from voco_video.options.sampling import Sampling
from voco_video.video.frames import FrameBatch
from voco_video.video.reading import VideoInfo, probe, read_frames
from voco_video.video.scaling import Fit
from voco_video.video.sources import VideoLike, local_video

THUMBNAIL_HEIGHT, CAPTION_HEIGHT, GAP = 120, 18, 4
MAX_FRAMES = 60
_INK, _PAPER, _BAR = (30, 30, 30), (255, 255, 255), (226, 88, 34)
_BLOCKS = " ▁▂▃▄▅▆▇█"


def contact_sheet(frames: FrameBatch, *, num_columns: int = 6) -> Image.Image:
    """Draw frames in rows, each with its timestamp below.

    Args:
        frames: all are drawn, but more than `MAX_FRAMES` are hard to look at.
        num_columns: frames in a row.

    >>> frames = FrameBatch(pixels=np.zeros((2, 90, 160, 3), np.uint8), pts_seconds=np.array([0.0, 1.5]))
    >>> contact_sheet(frames).size[1] > 90
    True
    """
    thumbnails = [_thumbnail(pixels) for pixels in frames.pixels]
    return _grid(thumbnails, [format_seconds(t) for t in frames.pts_seconds], num_columns)


def attention_strip(answer: Answer, *, source: VideoLike | None = None, num_columns: int = 8) -> Image.Image:
    """Draw the frames that an answer could attend to, with a bar over each for its share of the attention.

    The frames are decoded again from ``source`` for the picture only; if that is gone, empty boxes replace them.
    Of more than `MAX_FRAMES` frames, those with the most attention are drawn, in time order.

    Raises:
        ValueError: the answer was made without ``with_attention``.
    """
    if answer.frame_attention is None:
        raise ValueError("ask with with_attention=True to draw where the answer looked")
    shown = np.sort(np.argsort(-answer.frame_attention, kind="stable")[:MAX_FRAMES])
    pts, shares = answer.frame_pts_seconds[shown], answer.frame_attention[shown]
    thumbnails = [_with_bar(t, share, shares.max()) for t, share in zip(_frames_at(source, pts), shares)]
    captions = [f"{format_seconds(t)}  {share:.0%}" for t, share in zip(pts, shares)]
    sheet = _grid(thumbnails, captions, num_columns)
    return _titled(sheet, f"{answer.question}   {answer.text or '(empty)'}")


def moment_strip(
    moments: Sequence[Moment], *, sources: Sequence[VideoLike | None], title: str, num_columns: int = 8
) -> Image.Image:
    """Draw the best frame of each moment, with its time and its weight.

    Args:
        sources: the video of each moment; if it is gone, an empty box replaces the frame.
    """
    tiles = [_frames_at(source, np.array([m.peak_seconds]))[0] for m, source in zip(moments, sources, strict=True)]
    captions = [f"{format_seconds(m.start_seconds)}  {m.weight:.0%}" for m in moments]
    return _titled(_grid(tiles, captions, num_columns), title)


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
    columns = np.array([part.sum() for part in np.array_split(shares, min(width, len(shares)))])
    heights = np.ceil(columns / columns.max() * (len(_BLOCKS) - 1)).astype(int)
    bars = "".join(_BLOCKS[h] for h in heights)
    top = np.argsort(-shares, kind="stable")[:5]
    most = ", ".join(f"{format_seconds(pts[i])} ({shares[i]:.0%})" for i in top)
    span = f"{format_seconds(pts[0])} |{bars}| {format_seconds(pts[-1])}"
    return f"{span}   {answer.video_attention:.0%} of the attention on the video\nmost on {most}"


def thumbnail_fit(info: VideoInfo) -> Fit:
    """Return a small size of the video's own shape, for the decoder to scale to."""
    return Fit(height=240, width=min(16384, max(1, round(240 * info.width / info.height))), mode="stretch")


def _frames_at(source: VideoLike | None, pts_seconds: np.ndarray) -> list[Image.Image]:
    empty = [Image.new("RGB", (THUMBNAIL_HEIGHT * 4 // 3, THUMBNAIL_HEIGHT), (225, 225, 225))] * len(pts_seconds)
    if source is None:
        return empty
    try:
        # Half a millisecond after each pts, since a time written and read as decimal may be slightly smaller.
        timestamps = tuple(float(t) + 5e-4 for t in pts_seconds)
        with local_video(source) as local:
            frames = read_frames(local, Sampling(timestamps=timestamps), fit=thumbnail_fit(probe(local)))
    except VideoError:
        return empty
    return [_thumbnail(pixels) for pixels in frames.pixels] if len(frames) == len(empty) else empty


def _thumbnail(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    width = max(1, round(image.width * THUMBNAIL_HEIGHT / image.height))
    return image.resize((width, THUMBNAIL_HEIGHT), Image.Resampling.BICUBIC)


def _with_bar(thumbnail: Image.Image, share: float, largest: float, *, bar_height: int = 40) -> Image.Image:
    tile = Image.new("RGB", (thumbnail.width, thumbnail.height + bar_height), _PAPER)
    tile.paste(thumbnail, (0, bar_height))
    height = round(bar_height * share / max(largest, 1e-30))
    if height:
        ImageDraw.Draw(tile).rectangle((0, bar_height - height, thumbnail.width - 1, bar_height - 1), fill=_BAR)
    return tile


def _grid(tiles: list[Image.Image], captions: list[str], num_columns: int) -> Image.Image:
    num_columns = min(num_columns, len(tiles))
    width, height = max(t.width for t in tiles) + GAP, max(t.height for t in tiles) + CAPTION_HEIGHT + GAP
    num_rows = -(-len(tiles) // num_columns)
    sheet = Image.new("RGB", (num_columns * width + GAP, num_rows * height + GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (tile, caption) in enumerate(zip(tiles, captions)):
        left, top = GAP + number % num_columns * width, GAP + number // num_columns * height
        sheet.paste(tile, (left, top))
        draw.text((left + 2, top + tile.height + 1), caption, fill=_INK, font=font)
    return sheet


def _titled(sheet: Image.Image, title: str) -> Image.Image:
    font = ImageFont.load_default(15)
    width = max(sheet.width, round(font.getlength(title)) + 4 * GAP)
    image = Image.new("RGB", (width, sheet.height + 26), _PAPER)
    ImageDraw.Draw(image).text((2 * GAP, 4), title, fill=_INK, font=font)
    image.paste(sheet, (0, 26))
    return image
