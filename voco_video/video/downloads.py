"""A folder with the files of URLs: each is fetched once, again when it has changed, and kept as long as there is room.

<folder>/<digest>-<name>   a file's bytes; its BLAKE3 is in its name, and is computed anew at every use
         <url>.json        what is known of one URL, by the BLAKE3 of it: digest and version; locked while it is asked
         <url>.part        a file that is being fetched

Who reads a file holds a shared lock on it; pruning leaves those alone. The whole folder may be deleted at any time that
nobody uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from blake3 import blake3

from voco_video.errors import CacheError, VideoError
from voco_video.files.digest import digest_file
from voco_video.files.paths import default_cache_dir
from voco_video.files.urls import short_name
from voco_video.options.sizes import size_of_environment
from voco_video.video.transfers import RemoteFile, Report

DEFAULT_MAX_BYTES = 10 * 10**9
_CONTENT = re.compile(r"[0-9a-f]{64}-.+", re.DOTALL)
_MAX_NAME_CHARACTERS = 80


class Downloads:
    """Files of URLs on this machine, shared by any number of processes. Needs a POSIX system with flock.

    Args:
        folder: made by the first download; the folder ``downloads`` of the default cache when None.
        max_bytes: beyond this the files go that were unused longest, but never the one used last.
            ``$VOCO_VIDEO_DOWNLOADS_MAX_BYTES`` or 10 GB when None.

    Raises:
        UsageError: the variable is no size.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int | None = None) -> None:
        self.folder = (folder or default_cache_dir() / "downloads").absolute()
        self.max_bytes = (
            size_of_environment("VOCO_VIDEO_DOWNLOADS_MAX_BYTES", DEFAULT_MAX_BYTES) if max_bytes is None else max_bytes
        )

    @classmethod
    def beside(cls, cache_dir: Path) -> Downloads:
        """Those that belong to a frame cache."""
        return cls(cache_dir / "downloads")

    @contextlib.contextmanager
    def opened(self, remote: RemoteFile, report: Report) -> Iterator[tuple[Path, str]]:
        """Yield the file of a URL as it is on its server now, and its digest; it stays until the block ends.

        Its server is asked every time, but sends nothing where it says that the file has not changed.

        Raises:
            VideoError: it cannot be fetched, or cannot be kept here.
        """
        try:
            with contextlib.ExitStack() as closing:
                with self._os_errors(remote):
                    self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    path, digest = self._fetched(remote, report, closing)
                    os.utime(path)
                yield path, digest
        finally:
            with contextlib.suppress(OSError):
                self.prune()

    def find(self, digest: str) -> Path | None:
        """The file with this BLAKE3, 64 hex digits, where it is still here."""
        return next(iter(sorted(self.folder.glob(f"{digest}-*"))), None)

    def files(self) -> list[Path]:
        """The kept files, the one unused longest first."""
        times = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if _CONTENT.fullmatch(path.name):
                    with contextlib.suppress(FileNotFoundError):
                        times[path] = path.stat().st_mtime_ns
        return sorted(times, key=lambda path: (times[path], path.name))

    def prune(self, max_bytes: int | None = None) -> int:
        """Remove files until the rest fits, and what stopped downloads left behind; return how many files.

        Args:
            max_bytes: the folder's own limit when None, which leaves the file used last; a number given leaves none.
        """
        files = self.files()
        sizes = {path: _size(path) for path in files}
        total, limit = sum(sizes.values()), self.max_bytes if max_bytes is None else max_bytes
        num_removed = 0
        for path in files[:-1] if max_bytes is None else files:
            if total <= limit:
                break
            with _locked(path, wait=False) as file:
                if file is not None:
                    path.unlink(missing_ok=True)
                    total -= sizes[path]
                    num_removed += 1
        if num_removed or max_bytes is not None:
            self._prune_records()
        return num_removed

    def _prune_records(self) -> None:
        """Remove what is known of URLs whose files are gone."""
        kept = {path.name[:64] for path in self.files()}
        for record in sorted(self.folder.glob("*.json")):
            with _locked(record, wait=False) as file:
                if file is not None and _read(file).get("digest") not in kept:
                    record.with_suffix(".part").unlink(missing_ok=True)
                    record.unlink(missing_ok=True)

    def _fetched(self, remote: RemoteFile, report: Report, holding: contextlib.ExitStack) -> tuple[Path, str]:
        record_path = self.folder / f"{blake3(remote.url.encode(errors='surrogatepass')).hexdigest()[:32]}.json"
        with _locked(record_path) as record:
            assert record is not None
            facts = _read(record)
            digest, path = facts.get("digest"), self.find(str(facts.get("digest")))
            is_here = path is not None and self._hold(path, holding) and digest_file(path) == digest
            part = record_path.with_suffix(".part")
            try:
                with open(part, "w+b") as out:
                    version = remote.fetch(out, facts.get("version") or {} if is_here else {}, report)
                    out.flush()
                    os.fsync(out.fileno())
                if version is None:
                    assert path is not None
                    return path, str(digest)
                digest = digest_file(part)
                path = self.find(digest)
                if path is None or not self._hold(path, holding) or digest_file(path) != digest:
                    path = self.folder / f"{digest}-{_safe_name(remote.url)}"
                    os.replace(part, path)
                    self._hold(path, holding)
            finally:
                part.unlink(missing_ok=True)
            _write(record, {"url": remote.name, "digest": digest, "version": dict(version)})
            return path, digest

    def _hold(self, path: Path, holding: contextlib.ExitStack) -> bool:
        """Keep others from removing a file until the stack is closed; False where it is gone."""
        with contextlib.suppress(FileNotFoundError):
            file = holding.enter_context(open(path, "rb"))  # noqa: SIM115
            fcntl.flock(file, fcntl.LOCK_SH)
            holding.callback(fcntl.flock, file, fcntl.LOCK_UN)
            return _is_still(file, path)
        return False

    @contextlib.contextmanager
    def _os_errors(self, remote: RemoteFile) -> Iterator[None]:
        try:
            yield
        except (OSError, CacheError) as error:
            reason = getattr(error, "strerror", None) or error
            raise VideoError(
                f"{remote.name}: cannot be kept in {self.folder} ({reason}); have the cache elsewhere "
                "with --cache-dir or VOCO_VIDEO_CACHE_DIR"
            ) from error


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[IO[bytes] | None]:
    """Open a file, made where it is missing if that is waited for, with a lock that nobody shares; None without one."""
    while True:
        try:
            file = open(path, "a+b" if wait else "r+b")  # noqa: SIM115
        except FileNotFoundError:
            if wait:
                raise
            yield None
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            try:
                if _is_still(file, path):
                    yield file
                    return
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing it does not, where a forked process has it open too


def _is_still(file: IO[bytes], path: Path) -> bool:
    """Whether an open file has its name still: another process may have removed it while this one waited."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _read(record: IO[bytes]) -> dict[str, Any]:
    """What a record says; nothing where its writing was broken off."""
    record.seek(0)
    try:
        facts = json.loads(record.read())
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _write(record: IO[bytes], facts: dict[str, Any]) -> None:
    record.seek(0)
    record.truncate()
    record.write(json.dumps(facts).encode())
    record.flush()


def _safe_name(url: str) -> str:
    """A file's name for a URL, with the ending that tells some readers its format."""
    name = re.sub(r"[^\w.-]+", "_", short_name(url))[-_MAX_NAME_CHARACTERS:]
    return name.encode()[-200:].decode(errors="ignore") or "video"


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
