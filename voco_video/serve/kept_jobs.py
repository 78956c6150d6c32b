"""Jobs that outlive their server: each is a small file until it is over, and the next server takes it up.

<cache>/serve/jobs/<id>.json        which video, and how it is compressed
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from voco_video.files.atomic_write import write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Again:
    """A compress job as it can be begun again.

    Attributes:
        kind: what `where` is: the id of a video, a path below the media root, or a URL.
        fps, num_frames, compressor, name: as they were asked for.
    """

    kind: Literal["video", "path", "url"]
    where: str
    fps: float | None = None
    num_frames: int | None = None
    compressor: str | None = None
    name: str | None = None


class KeptJobs:
    """The files of jobs that are not over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, job_id: str, again: Again) -> None:
        """Write a job down; where that fails it is done all the same, but a crash forgets it."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._folder / f"{job_id}.json", json.dumps(asdict(again)))

    def drop(self, job_id: str) -> None:
        """Forget a job that is over."""
        with contextlib.suppress(OSError):
            (self._folder / f"{job_id}.json").unlink(missing_ok=True)

    def left(self) -> Iterator[Again]:
        """Yield the jobs that an earlier server left, the oldest first, and forget them."""
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
                try:
                    yield Again(**json.loads(path.read_bytes()))
                except (OSError, ValueError, TypeError) as error:
                    log.warning("%s: cannot be taken up (%s)", path.name, error)
                path.unlink(missing_ok=True)
