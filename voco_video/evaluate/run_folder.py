"""The folder of an evaluation: predictions are safe on disk as they come, and end up in one file in published order.

OUT/predictions-k8.jsonl       all predictions from budget k, in published order: written last, by one rename
OUT/predictions-k8.run.json    the run's settings: written first
OUT/predictions-k8.basis.json  what they rest on: the frames that each question saw, and prompts
OUT/parts/k8-0000.jsonl        during the run: the answers of one process, synced to disk after each video
OUT/parts/k8-0000.basis.jsonl  what these rest on, written before them
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from voco_video.data.files import Row, read_rows
from voco_video.errors import DataError, UsageError
from voco_video.files.atomic_write import fsync_directory
from voco_video.scoring.basis import (
    Asked,
    Basis,
    FramesSeen,
    basis_path,
    example_line,
    parse_basis,
    view_line,
    write_basis,
)
from voco_video.scoring.predictions import (
    STATUSES,
    Prediction,
    load_predictions,
    read_run_info,
    write_predictions,
    write_run_info,
)

# Of two predictions for a question the one whose status is further left counts: a missing video may be there by now.
_BEST_FIRST = ("answered", "undecodable", "missing")
assert set(_BEST_FIRST) == set(STATUSES)
_NUM_SHOWN = 3


@dataclass(frozen=True)
class RunFiles:
    """The files with the predictions of one compressor and budget.

    Attributes:
        folder: the evaluation's folder, OUT.
        compressor: see `voco_video.model.compressors`.
        num_voco_tokens: k of ``voco``; None for the others.
    """

    folder: Path
    compressor: str = "voco"
    num_voco_tokens: int | None = None

    @property
    def name(self) -> str:
        """The name in the files' names: ``"k8"``, ``"full"``, ``"pool-4"``."""
        return self.compressor.replace(":", "-") if self.num_voco_tokens is None else f"k{self.num_voco_tokens}"

    @property
    def predictions(self) -> Path:
        """The finished file."""
        return self.folder / f"predictions-{self.name}.jsonl"

    @property
    def is_published(self) -> bool:
        """Whether the finished file is there."""
        return self.predictions.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the finished file and its complete run info are there."""
        return self.is_published and bool((self.info() or {}).get("is_finished"))

    def published(self) -> tuple[Prediction, ...]:
        """Read the finished file's predictions; none if there is no such file yet."""
        return load_predictions(self.predictions).predictions if self.is_published else ()

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Begin a run, or make sure that the run in this folder has the same settings.

        Raises:
            UsageError: the folder's run has other settings.
            DataError: the folder cannot be written, or holds predictions without run info.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"cannot write to {self.folder}: {error.strerror}; choose another place with --out"
            ) from error
        begun_info = self.info()
        if begun_info is None:
            if self.is_published:
                raise DataError(f"{self.predictions} is there without its run info; choose another place with --out")
            write_run_info(self.predictions, {"settings": dict(settings), "is_finished": False})
            return
        begun, now = _flat(begun_info.get("settings", {})), _flat(settings)
        names = [name for name in {**begun, **now} if begun.get(name) != now.get(name)]
        if names:
            shown = ", ".join(f"{n} {begun.get(n)!r:.80} instead of {now.get(n)!r:.80}" for n in names[:_NUM_SHOWN])
            more = f" (and {len(names) - _NUM_SHOWN} more differences)" if len(names) > _NUM_SHOWN else ""
            raise UsageError(
                f"{self.predictions} belongs to a run with {shown}{more}; choose another place with --out, or remove it"
            )

    def info(self) -> dict[str, Any] | None:
        """Read the run info; None before the run has begun."""
        return read_run_info(self.predictions)

    def known(self) -> dict[str, Prediction]:
        """Read all predictions so far, by question id, those of interrupted runs included."""
        best: dict[str, Prediction] = {}
        unpublished = (prediction for path in sorted(self._rank_files()) for prediction in _read_rank_file(path))
        for prediction in (*self.published(), *unpublished):
            other = best.get(prediction.question_id)
            if other is None or _BEST_FIRST.index(prediction.status) <= _BEST_FIRST.index(other.status):
                best[prediction.question_id] = prediction
        return best

    @contextmanager
    def rank_file(self, rank: int) -> Iterator[RankFile]:
        """Open the file that the process of a rank appends to.

        Raises:
            UsageError: another process is appending to it.
        """
        self._parts.mkdir(exist_ok=True)
        path = self._parts / f"{self.name}-{rank:04d}.jsonl"
        with path.open("a+b") as file, basis_path(path).with_suffix(".jsonl").open("a+b") as basis:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"another process is evaluating into {self.folder}; wait for it, or choose another place with --out"
                ) from error
            for opened in (file, basis):
                opened.seek(0)
                opened.truncate(_length_of_whole_lines(opened.read()))
            yield RankFile(file, basis)

    def publish(self, predictions: Sequence[Prediction], info: dict[str, Any]) -> None:
        """Write the finished file, its basis and its run info, then remove the files of single processes."""
        self._publish_basis([prediction.question_id for prediction in predictions])
        write_predictions(self.predictions, predictions)
        write_run_info(self.predictions, info)
        with self.predictions.open("rb") as file:
            os.fsync(file.fileno())
        fsync_directory(self.folder)
        self.remove_rank_files()

    def remove_rank_files(self) -> None:
        """Remove the files of single processes, whose predictions are in the finished file."""
        for path in (*self._rank_files(), *self._rank_files(".basis")):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # other budgets may have files in it
            self._parts.rmdir()

    @property
    def _parts(self) -> Path:
        return self.folder / "parts"

    def _publish_basis(self, questions: Sequence[str]) -> None:
        place = basis_path(self.predictions)
        published = read_rows(place) if place.is_file() else ()
        in_parts = (row for path in sorted(self._rank_files(".basis")) for row in _read_basis_part(path))
        views, view_of, prompt_of, texts = parse_basis([*published, *in_parts])
        write_basis(place, questions, Basis(views, view_of, prompt_of), texts)

    def _rank_files(self, kind: str = "") -> list[Path]:
        pattern = re.compile(rf"{re.escape(self.name)}-\d{{4,}}{re.escape(kind)}\.jsonl")
        return [path for path in self._parts.glob("*.jsonl") if pattern.fullmatch(path.name)]


@dataclass(frozen=True)
class RankFile:
    """The files of one process's predictions and of what they rest on, open for appending."""

    file: IO[bytes]
    basis: IO[bytes]

    def note(self, views: Sequence[FramesSeen], asked: Sequence[Asked]) -> None:
        """Add what the next predictions rest on; it is on the disk when this returns."""
        lines = [*map(view_line, views), *map(example_line, asked)]
        self.basis.write(b"".join(f"{line}\n".encode() for line in lines))
        self.basis.flush()
        os.fsync(self.basis.fileno())

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Add predictions; they are on the disk when this returns."""
        self.file.write(b"".join(f"{prediction.json_line()}\n".encode() for prediction in predictions))
        self.file.flush()
        os.fsync(self.file.fileno())


def _read_rank_file(path: Path) -> list[Prediction]:
    content = path.read_bytes()
    lines = content[: _length_of_whole_lines(content)].split(b"\n")[:-1]  # splitlines would also split at U+2028
    try:
        return [Prediction.from_json_line(line.decode()) for line in lines]
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; remove the file, and its questions are asked again") from error


def _read_basis_part(path: Path) -> Iterator[Row]:
    content = path.read_bytes()
    for number, line in enumerate(content[: _length_of_whole_lines(content)].split(b"\n")[:-1], start=1):
        try:
            yield Row(path, number, dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, row {number}: not JSON ({error}); remove the file") from error


def _length_of_whole_lines(content: bytes) -> int:
    """Count the bytes up to the last line end; a killed process may have left an incomplete line after it."""
    return content.rfind(b"\n") + 1


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names; tuples become lists, as they are on disk.

    >>> _flat({"cache": {"form": "kv"}, "seed": 0})
    {'cache.form': 'kv', 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = list(value) if isinstance(value, tuple) else value
    return flat
