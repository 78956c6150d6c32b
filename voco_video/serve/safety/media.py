"""Untrusted files: whether they are videos or pictures of bounded size, found out without opening anything else."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

from voco_video.errors import UsageError, VideoError
from voco_video.serve.settings import ServeOptions
from voco_video.video.media_files import check_readable
from voco_video.video.reading import VideoInfo, probe

# Containers whose readers read one file, and refer to no other. Everything else (hls, dash, concat, image2, sdp, ...)
# is refused by FFmpeg before it reads a header.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "live_flv", "asf", "ogg",
    "gif", "h264", "hevc", "ivf", "av1", "obu", "mjpeg", "m4v", "mxf", "nut", "rm", "wtv", "apng",
    "png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "yuv4mpegpipe", "dv",
)  # fmt: skip
MAX_IMAGE_BYTES = 32 << 20
_IMAGE_KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_MEDIA_TYPES = {"mp4": "video/mp4", "webm": "video/webm", "matroska": "video/x-matroska", "gif": "image/gif"}


def check_media(path: Path, name: str, settings: ServeOptions) -> VideoInfo:
    """Refuse a file that is no video, refers to other files, or is beyond a limit; return its facts.

    Args:
        path: of a file that nobody changes any more.
        name: how it is called in messages.

    Raises:
        VideoError: it is refused.
    """
    check_readable(path)
    try:
        _check_format(path)
        info = probe(path)
    except VideoError as error:
        raise VideoError(str(error).replace(str(path), name)) from error
    if info.width * info.height > settings.max_pixels:
        raise VideoError(f"{name}: has {info.width}x{info.height} pixels; at most {settings.max_pixels} are taken here")
    if not 0 <= info.duration_seconds <= settings.max_video_seconds:
        raise VideoError(
            f"{name}: lasts {info.duration_seconds:.0f} s; at most {settings.max_video_seconds:g} s are taken here"
        )
    return info


def _check_format(path: Path) -> None:
    import av

    def nothing_else(*args: Any) -> Any:
        raise PermissionError("a video may not refer to other files")

    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS)}
    try:
        with open(path, "rb") as file, av.open(file, options=options, io_open=nothing_else) as container:
            names = container.format.name
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path}: is no video that is taken here ({reason})") from error
    if names not in FORMATS:
        raise VideoError(f"{path}: is no video that is taken here (FFmpeg takes it for {names!r})")


def media_type(container: str) -> str:
    """Return the type that a browser is told for a container: never one that it would run.

    >>> media_type("mov,mp4,m4a,3gp,3g2,mj2"), media_type("mpegts")
    ('video/mp4', 'application/octet-stream')
    """
    kinds = container.split(",")
    if "webm" in kinds and "matroska" in kinds:
        return "video/webm"
    return next((_MEDIA_TYPES[kind] for kind in kinds if kind in _MEDIA_TYPES), "application/octet-stream")


def read_image(data: bytes, settings: ServeOptions) -> Image.Image:
    """Decode an untrusted picture.

    Raises:
        UsageError: it is no picture, or larger than the limits.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise UsageError(f"the picture has {len(data)} bytes; at most {MAX_IMAGE_BYTES} are taken")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_IMAGE_KINDS)
            if image.width * image.height > settings.max_pixels:
                raise UsageError(f"the picture has {image.width}x{image.height} pixels; at most {settings.max_pixels}")
            return image.convert("RGB")
    except UsageError:
        raise
    except Exception as error:  # PIL raises anything for damaged files
        raise UsageError(f"the picture cannot be read ({type(error).__name__}); give PNG, JPEG, WebP or GIF") from error
