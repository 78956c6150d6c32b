"""The digest that names a file's content."""

from __future__ import annotations

import os
from pathlib import Path

from blake3 import blake3

from voco_video.errors import CacheError

_READ_BYTES = 4 << 20
_MULTITHREAD_FROM_BYTES = 1 << 20  # below this, starting threads costs more than they save


_IMPORTED_IN = os.getpid()


def hash_threads() -> int:
    """How many threads blake3 may use; one in a forked process, which would wait for those of its parent for ever."""
    return int(blake3.AUTO) if os.getpid() == _IMPORTED_IN else 1


def digest_file(path: Path | str) -> str:
    """Compute the BLAKE3 of a file's bytes, as 64 hex digits; on all cores when the file is large, in constant memory.

    Raises:
        CacheError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     digest_file(file.name)[:16]
        'af1349b9f5f9a1a6'
    """
    try:
        size_bytes = os.stat(path).st_size
        digest = blake3(max_threads=hash_threads() if size_bytes >= _MULTITHREAD_FROM_BYTES else 1)
        # Not mapped: pages of a mapped file count as this process's memory for as long as they are mapped.
        with open(path, "rb", buffering=0) as file:
            buffer = memoryview(bytearray(min(size_bytes or _READ_BYTES, _READ_BYTES)))
            while size := file.readinto(buffer):
                digest.update(buffer[:size])
        return digest.hexdigest()
    except OSError as error:
        raise CacheError(f"cannot read {str(path)!r} to compute its digest: {error.strerror}") from error
