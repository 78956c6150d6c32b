"""What a server allows, and where it listens."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, replace
from pathlib import Path

from voco_video.errors import UsageError
from voco_video.files.paths import expanded, read_text_file
from voco_video.options.fields import Options, documented, option
from voco_video.options.sizes import parse_size

KEY_VARIABLE = "VOCO_VIDEO_API_KEY"
MIN_KEY_CHARACTERS = 16
SERVER = "Server"
SAFETY = "What clients may do"


def _size(name: str):  # type: ignore[no-untyped-def]
    return lambda text: parse_size(text, name=name)


@documented
@dataclass(frozen=True)
class ServeOptions(Options, panel=SAFETY):
    """Where a server listens, who may use it, and how much it takes.

    Raises:
        UsageError: a value that cannot be right; an address that others reach, without an API key.
    """

    host: str = option("127.0.0.1", "Address to listen on; others than loopback need an API key.", panel=SERVER)
    port: int = option(8000, "Port to listen on; 0: any free one.", panel=SERVER, at_least=0, at_most=65535)
    api_key_file: Path | None = option(
        None, "File with the key that clients have to send.", panel=SERVER, unset=f"${KEY_VARIABLE}, or none"
    )  # fmt: skip
    shutdown_seconds: float = option(
        30.0, "When stopped, finish what runs for so long.", unit="seconds", panel=SERVER, at_least=0
    )
    log_questions: bool = option(False, "Write questions and answers into the log.", panel=SERVER)
    media_root: Path | None = option(
        None, "Folder whose videos clients may name as file:// URLs or add to the library.", unset="none"
    )
    allow_urls: bool = option(False, "Let clients name videos by http(s) URL; private addresses stay refused.")
    anyway: bool = option(
        False, "Answer even where the video is nothing that the model was trained on.", panel="Questions"
    )
    max_upload_bytes: int = option(
        4 * 10**9,
        "Largest video that is taken: bytes, or text such as 500M.",
        metavar="SIZE",
        parse=_size("max_upload_bytes"),
        at_least=1,
    )
    max_body_bytes: int = option(
        64 * 10**6,
        "Largest request other than an upload, with the data: URLs in it.",
        metavar="SIZE",
        parse=_size("max_body_bytes"),
        at_least=1024,
    )
    max_video_seconds: float = option(6 * 3600.0, "Longest video that is taken.", unit="seconds", above=0)
    max_pixels: int = option(8192 * 4320, "Largest picture of a video that is taken.", unit="pixels", at_least=1)
    max_video_frames: int = option(50_000, "Most frames that are compressed of one video.", unit="frames", at_least=1)
    max_answer_tokens: int = option(1024, "Longest answer that a client may ask for.", unit="tokens", at_least=1)
    max_waiting: int = option(64, "Questions that may wait; more are sent away with 429.", at_least=1)
    max_jobs: int = option(32, "Videos that may wait to be compressed; more are sent away with 429.", at_least=1)
    max_streams: int = option(4, "Live sources that are followed at once.", at_least=0)
    url_seconds: float = option(600.0, "Give up fetching a URL after so long.", unit="seconds", above=0)
    live_sources: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    api_key: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("media_root", "api_key_file"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, expanded(getattr(self, name)))
        if self.media_root is not None and not self.media_root.is_dir():
            raise UsageError(f"media_root={self.media_root}: is no folder")
        if self.api_key is None:
            object.__setattr__(self, "api_key", self._key())
        key = self.api_key
        if key is not None and (len(key) < MIN_KEY_CHARACTERS or not key.isascii() or not key.isprintable()):
            raise UsageError(
                f"the API key has {len(key)} characters: give {MIN_KEY_CHARACTERS} or more, of printable ASCII "
                "(python3 -c 'import secrets; print(secrets.token_urlsafe(32))' makes one)"
            )
        if not self.is_loopback and key is None:
            raise UsageError(
                f"host={self.host!r} can be reached from other machines, so clients need a key: set {KEY_VARIABLE}, or "
                "give api_key_file"
            )

    def _key(self) -> str | None:
        if self.api_key_file is not None:
            key = read_text_file(self.api_key_file).strip()
            if not key:
                raise UsageError(f"api_key_file={self.api_key_file}: is empty")
            return key
        return os.environ.get(KEY_VARIABLE, "").strip() or None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name, which may stand for anything
            return False

    def listening_on(self, port: int) -> ServeOptions:
        """Return these options with the port that the system chose."""
        return replace(self, port=port)
