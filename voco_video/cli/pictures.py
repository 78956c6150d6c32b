"""Where commands write their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from voco_video.errors import DataError, UsageError
from voco_video.files.paths import expanded

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def check_picture(path: Path | None, *, option: str) -> None:
    """Refuse a place where no picture can be written, before anything is computed for it.

    Raises:
        UsageError: it is a folder, or its name does not say which kind of picture it is.
    """
    if path is None:
        return
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{option} {path}: the name of a picture ends with {', '.join(_SUFFIXES)}")
    if expanded(path).is_dir():
        raise UsageError(f"{option} {path} is a folder; name a file in it")


def save_picture(picture: Image, path: Path) -> None:
    """Write a picture; its folder is made if it is not there.

    Raises:
        DataError: the place cannot be written.
    """
    place = expanded(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        picture.save(place)
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be written: {error.strerror or error}") from error
