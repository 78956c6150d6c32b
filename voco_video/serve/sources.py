"""Videos and pictures that a request names, as what can be compressed: an upload, a file, a URL, bytes."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import tempfile
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from blake3 import blake3

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.files.urls import scheme_of, short_name, without_secrets
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.safety.addresses import IsAllowed, is_public
from voco_video.serve.safety.fetch import Limits, UntrustedFile
from voco_video.serve.safety.media import MAX_IMAGE_BYTES, check_media, read_image
from voco_video.serve.safety.paths import path_of_file_url
from voco_video.serve.settings import ServeOptions
from voco_video.serve.uploads import shown_file_name
from voco_video.serve.videos import VideoRow, Videos
from voco_video.video.downloads import Downloads
from voco_video.video.pictures import Pictures
from voco_video.video.sources import LocalVideo
from voco_video.video.transfers import Report

Opened = LocalVideo | Pictures
MAX_URL_CHARACTERS = 4096
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class Source:
    """Something that can be compressed.

    Attributes:
        key: equal for equal content.
        name: as it is shown.
        opened: yields it, for as long as it is read; gets what is told of a download.
        video: an entry that is there already; None where it has to be compressed or found.
    """

    key: Hashable
    name: str
    opened: Callable[[Report], contextlib.AbstractContextManager[Opened]]
    video: CompressedVideo | None = None


class Sources:
    """Reads what requests name, by the rules of a server."""

    def __init__(
        self, videos: Videos, settings: ServeOptions, downloads: Downloads, *, is_allowed: IsAllowed = is_public
    ) -> None:
        self._videos, self._settings, self._downloads, self._is_allowed = videos, settings, downloads, is_allowed

    def of_video_url(self, url: str) -> Source:
        """Return the source of a video part of a conversation.

        Raises:
            ApiError: this server does not take such a URL.
        """
        scheme = scheme_of(url) if _SCHEME.match(url) else ""
        if scheme == "data":
            return self._of_bytes(_bytes_of_data_url(url, "video"))
        if len(url) > MAX_URL_CHARACTERS:
            raise ApiError(400, f"a URL of {len(url)} characters is too long", param="video_url")
        if scheme == "voco":
            return self.of_entry(unquote(url.partition(":")[2].removeprefix("//")))
        if scheme == "file":
            return self.of_path(path_of_file_url(url, self._settings.media_root))
        if scheme in ("http", "https"):
            return self.of_web(url)
        raise ApiError(
            400,
            f"{url[:80]!r}: give a voco://, data:, file:// or http(s):// URL",
            param="video_url",
            code="bad_url",
        )

    def of_image_url(self, url: str) -> Source:
        """Return the source of a picture part of a conversation: a video of one frame.

        Raises:
            ApiError: it is no data: or http(s) URL, or URLs are not allowed.
        """
        scheme = scheme_of(url) if _SCHEME.match(url) else ""
        if scheme == "data":
            return self._of_picture(_bytes_of_data_url(url, "image"))
        if scheme not in ("http", "https") or len(url) > MAX_URL_CHARACTERS:
            raise ApiError(400, f"{url[:80]!r}: give a picture as a data: or http(s):// URL", param="image_url")
        remote = self.remote(url, MAX_IMAGE_BYTES)

        @contextlib.contextmanager
        def opened(report: Report) -> Iterator[Opened]:
            with self._downloads.opened(remote, report) as (path, _):
                yield Pictures([read_image(path.read_bytes(), self._settings)], pts_seconds=[0.0], name=remote.name)

        return Source(("image", url), short_name(url), opened)

    def of_entry(self, given: str) -> Source:
        """Return the source of what the library has: an entry, or an upload that is not compressed yet.

        Raises:
            ApiError: there is none of this id or name.
        """
        label = self._videos.label(given)
        if label is not None:
            video = self._videos.open(label)
            shown = label.name or shown_file_name(short_name(label.source))
            return Source(("entry", label.digest), shown, _never, video)
        return self.of_row(self._videos.row(given))

    def of_row(self, row: VideoRow) -> Source:
        """Return the source of a video of the library, to compress it again."""

        @contextlib.contextmanager
        def opened(report: Report) -> Iterator[Opened]:
            with self._videos.file_of(row) as local:
                yield local

        return Source(("content", row.id), row.name, opened)

    def of_path(self, path: Path) -> Source:
        """Return the source of a file below the media root."""

        @contextlib.contextmanager
        def opened(report: Report) -> Iterator[Opened]:
            self._videos.checked(path, path.name)
            yield LocalVideo(path, path, is_own_file=True)

        return Source(("path", str(path)), path.name, opened)

    def of_web(self, url: str) -> Source:
        """Return the source of a file of a web server.

        Raises:
            ApiError: this server fetches no URLs.
        """
        remote = self.remote(url, self._settings.max_upload_bytes)

        @contextlib.contextmanager
        def opened(report: Report) -> Iterator[Opened]:
            with self._downloads.opened(remote, report) as (path, digest):
                check_media(path, remote.name, self._settings)
                yield LocalVideo(remote.name, path, digest)

        return Source(("url", url), shown_file_name(short_name(url)), opened)

    def remote(self, url: str, max_bytes: int) -> UntrustedFile:
        """Return the file of a URL, to be fetched.

        Raises:
            ApiError: this server fetches no URLs.
        """
        if not self._settings.allow_urls:
            raise ApiError(
                403,
                f"{without_secrets(url)[:200]}: this server fetches no URLs; it was started without --allow-urls",
                code="urls_not_allowed",
            )
        return UntrustedFile(url, Limits(max_bytes, self._settings.url_seconds), self._is_allowed)

    def _of_bytes(self, data: bytes) -> Source:
        digest = blake3(data).hexdigest()

        @contextlib.contextmanager
        def opened(report: Report) -> Iterator[Opened]:
            with tempfile.TemporaryDirectory(prefix="voco-video-") as folder:
                path = Path(folder) / digest
                path.write_bytes(data)
                check_media(path, "the data: URL", self._settings)
                yield LocalVideo("a data: URL", path, digest)

        return Source(("content", digest), "a data: URL", opened)

    def _of_picture(self, data: bytes) -> Source:
        @contextlib.contextmanager
        def opened(report: Report) -> Iterator[Opened]:
            yield Pictures([read_image(data, self._settings)], pts_seconds=[0.0], name="a picture")

        return Source(("image", blake3(data).hexdigest()), "a picture", opened)


def _never(report: Report) -> contextlib.AbstractContextManager[Opened]:
    raise AssertionError("an entry is not compressed again")


def _bytes_of_data_url(url: str, kind: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma or not head.lower().startswith(f"data:{kind}/"):
        raise ApiError(400, f"{head[:60]!r}: write data:{kind}/...;base64,AAAA...", param=f"{kind}_url")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(data)
    try:
        return base64.b64decode("".join(unquote(data).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"the data: URL is not base64 ({error})", param=f"{kind}_url") from error
