"""Files of the filesystems that fsspec knows: ``s3://``, ``hf://``, ``gs://``, ``memory://`` and others."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import IO, Any

from voco_video.errors import UsageError, VideoError, passing, used_wrongly
from voco_video.files.urls import scheme_of, scrubbed, without_secrets
from voco_video.video.transfers import BLOCK_BYTES, CutError, Report, Tries, Version, check_room, empty, write_block

# Facts of fsspec's filesystems that change with a file's content, in small letters and without marks.
_TELLING_FACTS = frozenset({
    "etag", "mtime", "modify", "modified", "lastmodified", "lastwritetime", "modificationtime", "created", "updated",
    "generation", "versionid", "md5", "md5hash", "contentmd5", "sha", "sha256", "blobid", "oid", "checksum", "crc",
    "crc32", "crc32c",
})  # fmt: skip


@dataclass(frozen=True)
class FilesystemFile:
    """A file of a filesystem that fsspec knows: ``s3://``, ``hf://``, ``gs://``, ``memory://`` and others."""

    url: str

    @property
    def name(self) -> str:
        """The URL without its secrets."""
        return without_secrets(self.url)

    def fetch(self, out: IO[bytes], known: Version, report: Report) -> Version | None:
        """See `RemoteFile.fetch`."""
        filesystem, path = self.opened()
        version, size = self._version(filesystem, path)
        if version and version == known:
            return None
        check_room(self.name, out, size)
        tries = Tries(self.name)
        while True:
            try:
                self._copy(filesystem, path, out, size, report)
                return version
            except CutError as error:
                tries.failed(error, out)
                before, (version, size) = version, self._version(filesystem, path)
                if not version or version != before:
                    empty(out)  # two versions of the file could be mixed

    def opened(self) -> tuple[Any, str]:
        """Return the filesystem and the path in it; raises what `fetch` raises."""
        try:
            import fsspec
        except ImportError as error:
            raise UsageError(
                f"{self.name}: reading {scheme_of(self.url)}:// takes fsspec; run: pip install 'voco-video[sources]'"
            ) from error
        try:
            filesystem, path = fsspec.core.url_to_fs(self.url)
        except ImportError as error:  # of the package for this kind
            said = scrubbed(str(error), self.url)
            raise UsageError(
                f"{self.name}: reading {scheme_of(self.url)}:// takes a package that is not installed: {said}"
            ) from None
        except (ValueError, TypeError, AttributeError) as error:  # fsspec's own, of names that it cannot take
            raise UsageError(
                f"{self.name}: no file has this name, and as a URL it cannot be opened ({self._in_words(error)}); "
                "http, https, file, data and the filesystems of fsspec can be"
            ) from None
        except Exception as error:  # filesystems have errors of their own
            raise passing(VideoError(f"{self.name}: cannot be reached ({self._in_words(error)})")) from None
        return filesystem, path

    def _version(self, filesystem: Any, path: str) -> tuple[Version, int | None]:
        try:
            filesystem.invalidate_cache()  # of listings
            info = filesystem.info(path)
        except FileNotFoundError:
            raise used_wrongly(VideoError(f"{self.name}: no such file")) from None
        except PermissionError as error:
            raise VideoError(f"{self.name}: no permission to read it ({self._in_words(error)})") from None
        except Exception as error:  # filesystems have errors of their own
            raise passing(VideoError(f"{self.name}: cannot be reached ({self._in_words(error)})")) from None
        if info.get("type") == "directory":
            raise used_wrongly(VideoError(f"{self.name}: is a folder; give the video files in it"))
        size = info.get("size")
        version = {k: str(v) for k, v in info.items() if re.sub("[^a-z0-9]", "", k.lower()) in _TELLING_FACTS and v}
        return version and {**version, "size": str(size)}, size if isinstance(size, int) else None

    def _copy(self, filesystem: Any, path: str, out: IO[bytes], size: int | None, report: Report) -> None:
        with contextlib.ExitStack() as closing:
            try:
                file = closing.enter_context(filesystem.open(path, "rb"))
                if start := out.tell():
                    file.seek(start)
            except Exception as error:
                raise CutError(self._in_words(error)) from None
            while True:
                try:
                    block = file.read(BLOCK_BYTES)
                except Exception as error:
                    raise CutError(self._in_words(error)) from None
                if not block:
                    break
                write_block(self.name, out, block)
                report(out.tell(), size)
        if size is not None and out.tell() != size:
            raise CutError(f"it ended after {out.tell()} of {size} bytes", starts_over=out.tell() > size)

    def _in_words(self, error: Exception) -> str:
        return scrubbed(f"{type(error).__name__}: {error}", self.url)[:300]
