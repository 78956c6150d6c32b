"""Files that appear whole or not at all: written aside, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path, *, is_durable: bool = False) -> Iterator[Path]:
    """Yield a path to write to; after the block, what was written there replaces ``path`` in one step.

    When the block or the rename fails, the file that was written aside is removed and ``path`` stays as it was. A
    killed process may leave the file behind; `aside_files` finds it.

    Args:
        path: in a folder that exists.
        is_durable: also survive a power cut: wait until the disk has content and name.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "settings.json"
    >>> with written_aside(path) as aside:
    ...     _ = aside.write_text("{}")
    ...     path.exists()
    False
    >>> path.read_text()
    '{}'
    """
    aside = path.with_name(f".{os.getpid()}.{path.name}")  # the same suffix: some libraries choose the format by it
    try:
        yield aside
        if is_durable:
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            fsync_directory(path.parent)  # names of files that this one refers to must not appear later than it
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    if is_durable:
        fsync_directory(path.parent)


def write_atomically(path: Path, content: bytes | str, *, is_durable: bool = False) -> None:
    """Write a file's bytes, or its text in UTF-8, as `written_aside` does."""
    with written_aside(path, is_durable=is_durable) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


def aside_files(path: Path) -> list[Path]:
    """List files that killed processes left behind while they wrote ``path``."""
    return sorted(path.parent.glob(f".[0-9]*.{path.name}"))


def fsync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
