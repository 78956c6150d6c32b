"""A disk that is completely full: an ext4 in a file where this machine lets us mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

IMAGE_BYTES = 8 << 20


@contextmanager
def small_ext4(folder: Path) -> Iterator[Path]:
    """A file system of `IMAGE_BYTES`; skips the test, with the reason, where none can be mounted."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("mounting a small ext4 takes root and mkfs.ext4")
    image, place = folder / "disk.img", folder / "disk"
    image.write_bytes(b"")
    os.truncate(image, IMAGE_BYTES)
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file as a disk here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def fill(disk: Path) -> None:
    """Write until not one byte and not one new directory fits."""
    with open(disk / "filling", "wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                size //= 2
    with pytest.raises(OSError, match="No space"):
        (disk / "directory").mkdir()
