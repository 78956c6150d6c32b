"""The videos of a server: entries of the cache and uploads, found by id, name or digest, never by a path."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.entry_frames import EntryFrames
from voco_video.api import VideoModel
from voco_video.cache.key import is_digest
from voco_video.cache.lookup import EntryLabel, is_prefix
from voco_video.files.digest import digest_file
from voco_video.files.urls import short_name
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.safety.media import check_media
from voco_video.serve.settings import ServeOptions
from voco_video.serve.uploads import Upload, Uploads, shown_file_name
from voco_video.video.downloads import Downloads
from voco_video.video.sources import LocalVideo

_MAX_WORD = 200
_MAX_RECENT = 256
_BELIEVED_SECONDS = 1.0
_FIT = re.compile(r"[^\x00-\x1f\x7f/\\]+")


@dataclass
class VideoRow:
    """One video: an upload, the entries that this model made of it, or both.

    Attributes:
        id: the BLAKE3 of its bytes; for a live source that of its name.
        is_followed: whether an entry of it is being made of a live source now.
    """

    id: str
    upload: Upload | None = None
    labels: list[EntryLabel] = field(default_factory=list)
    is_followed: bool = False

    @property
    def name(self) -> str:
        """What it is called where it is shown."""
        named = next((label.name for label in self.labels if label.name), "")
        stream = next((label.stream for label in self.labels if label.stream), "")
        source = next((label.source for label in self.labels if label.source), "")
        return named or (self.upload.name if self.upload else "") or stream or shown_file_name(short_name(source))

    @property
    def state(self) -> str:
        """Say "ready", "live" (it grows), "unfinished", or "uploaded" (not compressed yet)."""
        if self.is_followed:
            return "live"
        states = {label.state for label in self.labels}
        return "ready" if states & {"growing", "whole"} else "unfinished" if states else "uploaded"

    @property
    def video_facts(self) -> dict[str, Any]:
        """What is known of the file: container, codec, width, height, duration_seconds, ..."""
        found: dict[str, Any] = dict(self.upload.facts) if self.upload else {}
        for label in self.labels:
            found = found or dict(label.facts.get("video") or {})
        return {key: value for key, value in found.items() if key != "path"}

    def best_label(self) -> EntryLabel | None:
        """Return the entry that answers for the video: of one frame a second where there is such, else the first."""
        readable = [label for label in self.labels if label.state != "unfinished"]
        usual = [label for label in readable if dict(label.settings.get("sampling") or {}).get("fps") == 1.0]
        return next(iter([*usual, *readable]), None)

    def facts(self) -> dict[str, Any]:
        """Return it as plain values."""
        best = self.best_label()
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "entry": best.digest if best else None,
            "entries": [
                {
                    "digest": label.digest,
                    "name": label.name,
                    "state": label.state,
                    "sampling": str(label.facts.get("sampling") or ""),
                    "compressor": str(label.settings.get("compressor") or "voco"),
                }
                for label in self.labels
            ],
            "is_upload": self.upload is not None,
            "size_bytes": self.upload.size_bytes if self.upload else None,
            "created_unix_seconds": self.upload.created_unix_seconds if self.upload else None,
            "video": self.video_facts,
        }


class Videos:
    """The library of a server."""

    def __init__(self, model: VideoModel, uploads: Uploads, settings: ServeOptions) -> None:
        self._model, self.uploads, self._settings = model, uploads, settings
        self._downloads = Downloads.beside(model.cache.cache_dir)
        self._recent: dict[str, tuple[EntryLabel, float]] = {}

    def labels(self) -> list[EntryLabel]:
        """List the entries of this model."""
        own = self._model.fingerprint
        return [label for label in self._model.cache.labels() if label.model_fingerprint == own]

    def rows(self) -> list[VideoRow]:
        """List all videos, the latest upload first, then the others by name."""
        rows = {upload.id: VideoRow(upload.id, upload) for upload in self.uploads.all()}
        others: dict[str, VideoRow] = {}
        for label in self.labels():
            row = rows.get(label.video_digest) or others.setdefault(label.video_digest, VideoRow(label.video_digest))
            row.labels.append(label)
            if label.state == "growing" and self._model.cache.is_being_written(label.digest):
                row.is_followed = True
        return [*rows.values(), *sorted(others.values(), key=lambda row: (row.name, row.id))]

    def row(self, given: str) -> VideoRow:
        """Find a video by its id, the name or digest of an entry of it, or the beginning of either.

        Raises:
            ApiError: none or several are meant.
        """
        if given and len(given) <= _MAX_WORD and _FIT.fullmatch(given):
            rows = self.rows()
            held = self._model.cache.names.digest_of(given)
            tests: list[Callable[[VideoRow], bool]] = [
                lambda row: row.id == given,
                lambda row: any(label.digest in (given, held) for label in row.labels),
                lambda row: any(label.stream == given for label in row.labels),
                lambda row: (
                    is_prefix(given)
                    and (row.id.startswith(given) or any(label.digest.startswith(given) for label in row.labels))
                ),
            ]
            for test in tests:
                found = [row for row in rows if test(row)]
                if len(found) == 1:
                    return found[0]
                if found:
                    raise ApiError(400, f"{given!r} stands for {len(found)} videos; give more digits", code="ambiguous")
        raise ApiError(404, f"there is no video {given!r:.80} here; GET /api/videos lists them", code="no_such_video")

    def label(self, given: str) -> EntryLabel | None:
        """Find the entry that a word stands for: one that it names, else the best of the video; None if there is none.

        What was found is believed for a moment, so that many questions do not each read the whole cache.

        Raises:
            ApiError: as for `row`.
        """
        now = time.monotonic()
        found, at = self._recent.get(given, (None, 0.0))
        if found is None or now - at > _BELIEVED_SECONDS:
            found = self._find_label(given)
            if found is not None and found.state == "whole":
                self._recent[given] = found, now
            for old in list(self._recent)[:-_MAX_RECENT]:
                self._recent.pop(old, None)
        return found

    def _find_label(self, given: str) -> EntryLabel | None:
        row = self.row(given)
        held = self._model.cache.names.digest_of(given)
        exact = [label for label in row.labels if label.digest in (given, held)]
        begun = [label for label in row.labels if is_prefix(given) and label.digest.startswith(given)]
        return next(iter([*exact, *(begun if len(begun) == 1 else [])]), None) or row.best_label()

    def open(self, label: EntryLabel) -> CompressedVideo:
        """Open an entry.

        Raises:
            CacheError: it is unfinished or damaged.
        """
        entry = self._model.cache.open(label)
        return CompressedVideo(self._model, (EntryFrames(entry, 0, entry.num_frames),))

    @contextlib.contextmanager
    def file_of(self, row: VideoRow) -> Iterator[LocalVideo]:
        """Yield a video's file, where this server may read it: an upload, a download, or a file below the media root.

        Raises:
            ApiError: it is not here (any more).
        """
        path = self.path_of(row)
        if path is None:
            raise ApiError(
                404,
                f"the file of {row.name!r} is not here: uploads, downloads and files below the media root are read",
                code="no_media",
            )
        yield LocalVideo(row.name, path, row.id)

    def path_of(self, row: VideoRow) -> Path | None:
        """Return the path of a video's file, or None where this server may not read it, or it has changed."""
        found = self.uploads.path(row.id) or (self._downloads.find(row.id) if is_digest(row.id) else None)
        root = self._settings.media_root
        if found is not None or root is None:
            return found
        real_root = os.path.realpath(root).rstrip("/") + "/"
        for source in dict.fromkeys(label.source for label in row.labels if os.path.isabs(label.source)):
            real = os.path.realpath(source)
            if real.startswith(real_root) and os.path.isfile(real) and self._digest(Path(real)) == row.id:
                return Path(real)
        return None

    def _digest(self, path: Path) -> str:
        status = path.stat()
        return _digest_of(str(path), status.st_ino, status.st_size, status.st_mtime_ns)

    def checked(self, path: Path, name: str) -> None:
        """Check a file below the media root as an upload is checked, once for each state of it."""
        status = path.stat()
        _checked(str(path), status.st_ino, status.st_size, status.st_mtime_ns, name, self._settings)

    def delete(self, row: VideoRow) -> int:
        """Delete an upload and all entries of a video; returns how many entries.

        Raises:
            CacheError: one is being written.
        """
        self._recent.clear()
        for label in row.labels:
            self._model.cache.remove(label.digest)
        self.uploads.delete(row.id)
        return len(row.labels)


@lru_cache(maxsize=1024)
def _digest_of(path: str, inode: int, size: int, changed: int) -> str:
    return digest_file(path)


@lru_cache(maxsize=1024)
def _checked(path: str, inode: int, size: int, changed: int, name: str, settings: ServeOptions) -> None:
    check_media(Path(path), name, settings)
