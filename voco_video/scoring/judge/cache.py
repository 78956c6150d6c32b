"""Replies on disk, so that no question is paid for twice and a killed run resumes where it stopped."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from voco_video.errors import DataError


@dataclass(frozen=True, slots=True)
class Reply:
    """An endpoint's reply.

    Attributes:
        text: unchanged; "" for an empty reply. It is parsed again in each run, so new parsing rules cost no requests.
        model: the model name in the reply, which may be more exact than the one in the request.
        prompt_tokens, completion_tokens: as the endpoint counts them; None where it gives no count.
    """

    text: str
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def reply_key(*parts: Any) -> str:
    """Hash everything that a reply depends on to 64 hex digits."""
    return sha256(json.dumps(parts).encode()).hexdigest()


class ReplyCache:
    """Replies by key, in a file that is only appended to.

    Each line is appended by one write, so several processes may share the file. A line that a killed process left
    incomplete is skipped when the file is read. Without a directory replies are kept in memory only.
    """

    def __init__(self, directory: Path | None) -> None:
        self._replies: dict[str, Reply] = {}
        self._file: int | None = None
        if directory is None:
            return
        self._path = directory / "replies.jsonl"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self._read(self._path.read_bytes())
        except OSError as error:
            raise self._error(error) from error

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """Return the reply to this key, if there is one."""
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; if the key has one already, that one stays."""
        if key in self._replies:
            return
        self._replies[key] = reply
        if self._file is not None:
            self._write(json.dumps({"key": key, **asdict(reply)}).encode() + b"\n")

    def close(self) -> None:
        """Make sure that all replies are on the disk."""
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
            self._file = None

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, content: bytes) -> None:
        for line in content.splitlines():
            try:
                values = json.loads(line)
                self._replies.setdefault(values.pop("key"), Reply(**values))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
        if content and not content.endswith(b"\n"):
            self._write(b"\n")  # end a line that a killed process left incomplete

    def _write(self, line: bytes) -> None:
        try:
            if self._file is not None and os.write(self._file, line) < len(line):
                raise OSError("only a part of a line could be written")
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> DataError:
        return DataError(f"{self._path}: {error.strerror or error}; choose another directory for the judge's replies")
