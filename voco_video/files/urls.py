"""Addresses of files that are elsewhere: telling them from paths, and showing them without what is secret in them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from voco_video.errors import UsageError

# "zip://a.mp4::https://..." is fsspec's way of naming a file inside another.
_WITH_SLASHES = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://", re.ASCII)
_WITHOUT_SLASHES = re.compile(r"(?:data|file):", re.IGNORECASE)
_SHOWN_DATA_CHARACTERS = 40
_MIN_SECRET_CHARACTERS = 4  # replacing shorter ones in a message would only garble it


def is_url(text: object) -> bool:
    """Tell whether this is a URL, and no file or folder of exactly this name is there.

    >>> [is_url(text) for text in ("https://host/a.mp4", "data:video/mp4;base64,AA==", "a:b.mp4", "C:/clip.mp4")]
    [True, True, False, False]
    """
    if not isinstance(text, str) or not (_WITH_SLASHES.match(text) or _WITHOUT_SLASHES.match(text)):
        return False
    return not _is_there(text)


def scheme_of(url: str) -> str:
    """The first scheme of a URL, in lower case.

    >>> scheme_of("HTTPS://host/a.mp4"), scheme_of("zip://a.mp4::s3://bucket/b.zip"), scheme_of("simplecache::s3://b/c")
    ('https', 'zip', 'simplecache')
    """
    return url.partition(":")[0].lower()


def without_secrets(url: str) -> str:
    """A URL as it may be shown and recorded: without user, password, query and fragment.

    >>> without_secrets("https://me:secret@host/a%20b.mp4?token=123#t=5")
    'https://host/a%20b.mp4?...'
    >>> without_secrets("data:video/mp4;base64,AAAAIGZ0eXA=")
    'data:video/mp4;base64,... (34 characters)'
    """
    if scheme_of(url) == "data":
        kind = url.partition(",")[0]
        kind = kind if len(kind) <= _SHOWN_DATA_CHARACTERS else kind[:_SHOWN_DATA_CHARACTERS]
        return f"{kind},... ({len(url)} characters)"
    return "::".join(_part_without_secrets(part) for part in url.split("::"))


def _part_without_secrets(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return url
    rest = rest.partition("#")[0]
    rest, has_query, _ = rest.partition("?")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{'?...' if has_query else ''}"


def scrubbed(message: str, url: str) -> str:
    """A message of another library about a URL, on one line and without the URL's secrets.

    >>> scrubbed("cannot open https://host/a.mp4?token=12345: 12345 has expired", "https://host/a.mp4?token=12345")
    'cannot open https://host/a.mp4?...: ... has expired'
    """
    message = " ".join(message.split()).replace(url, without_secrets(url))
    for part in url.split("::"):
        authority, _, query = part.partition("://")[2].partition("#")[0].partition("?")
        credentials = authority.partition("/")[0].rpartition("@")[0]
        values = [pair.partition("=")[2] or pair for pair in re.split("[&;]", query)]
        found = [credentials, *credentials.split(":", 1), query, *values]
        for secret in sorted({*found, *map(unquote, found)}, key=len, reverse=True):
            if len(secret) >= _MIN_SECRET_CHARACTERS:
                message = message.replace(secret, "...")
    return message


def shown_name(video: object) -> str:
    """How a path or a URL is named in full, without secrets.

    >>> shown_name(Path("clips/a.mp4")), shown_name("s3://bucket/a.mp4?versionId=7")
    ('clips/a.mp4', 's3://bucket/a.mp4?...')
    """
    return without_secrets(video) if isinstance(video, str) and is_url(video) else str(video)


def short_name(video: object) -> str:
    """The last part of a path's or a URL's name.

    >>> short_name("https://host/films/my%20clip.mp4?token=1"), short_name("https://host/"), short_name("a/b.mp4")
    ('my clip.mp4', 'host', 'b.mp4')
    """
    if not (isinstance(video, str) and is_url(video)):
        return Path(str(video)).name
    if scheme_of(video) == "data":
        return without_secrets(video)
    address = _part_without_secrets(video.split("::")[0]).removesuffix("?...")
    return unquote(address.rstrip("/").rpartition("/")[2]) or address


def checked_url(url: str) -> str:
    """A URL that is whole: it has a host and no character that no URL has.

    Raises:
        UsageError: it is not.
    """
    name = without_secrets(url)
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        raise UsageError(f"{name!r}: a URL has no control characters or line breaks in it")
    try:
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("it names no host")
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{name}: is not a whole URL ({scrubbed(str(error), url)})") from error
    return url


def _is_there(text: str) -> bool:
    try:
        return os.path.lexists(text)
    except ValueError:  # a zero character
        return False
