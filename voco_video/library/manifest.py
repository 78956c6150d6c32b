"""Manifests: files that list videos, one row for each, before and after they are compressed.

A manifest is CSV, JSON lines or Parquet. Only ``uri`` has to be there; ``id``, ``start`` and ``end`` may be. What
``voco-video compress --manifest`` writes also says what came of each video. Columns of other names are passed over.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from voco_video.data.files import MANIFEST_SUFFIXES, Row, read_rows
from voco_video.errors import DataError, UsageError, used_wrongly
from voco_video.files.atomic_write import written_aside
from voco_video.files.paths import expanded
from voco_video.files.urls import is_url, without_secrets

Status = Literal["compressed", "cached", "failed"]
"""What came of a video: it was compressed, it was there already, or it failed."""

_COLUMNS = {"start_seconds": "start", "end_seconds": "end"}
"""Columns that are called otherwise than the fields of `VideoRow`; on reading both names will do."""
_STAGES = ("decode", "wait", "vision", "llm", "write", "total")


@dataclass(frozen=True)
class VideoRow:
    """One video of a manifest: which it is and, once it is compressed, what came of it.

    Attributes:
        uri: a path or a URL. Paths in a file count from its folder; `read_manifest` gives whole ones.
        id: what the video is called; its uri (and window) where the manifest says nothing.
        start_seconds, end_seconds: the window that is compressed, on the video's own clock; None for all of it.
        status: what came of it; None before.
        error: why it failed; empty where it did not.
        entry: 64 hex digits, the cache entry of its frames.
        digest: 64 hex digits, BLAKE3 of the video's bytes.
        num_frames: frames of the entry.
        duration_seconds: of the whole video.
        size_bytes: of the entry.
        num_attempts: how often it was begun.
        fingerprint: 64 hex digits over the weights that compressed it.
        versions: what computed it: ``voco-video 0.1.0, torch 2.13.0, ...``.
        stage_seconds: by stage, of the run that compressed it: decode, wait, vision, llm, write, total.
    """

    uri: str
    id: str = ""
    start_seconds: float | None = None
    end_seconds: float | None = None
    status: Status | None = None
    error: str = ""
    entry: str | None = None
    digest: str | None = None
    num_frames: int | None = None
    duration_seconds: float | None = None
    size_bytes: int | None = None
    num_attempts: int | None = None
    fingerprint: str | None = None
    versions: str = ""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.uri.strip():
            raise UsageError("a row of a manifest needs a uri: a path or a URL")
        for name, value in (("start", self.start_seconds), ("end", self.end_seconds)):
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{name} is {value}; give seconds")
        start, end = self.start_seconds, self.end_seconds
        if start is not None and end is not None and start >= end:
            raise UsageError(f"start {start:g} is not before end {end:g}: the window is empty")
        if not self.id:
            object.__setattr__(self, "id", without_secrets(self.uri) + self._window)

    @property
    def _window(self) -> str:
        """The window as a media fragment (W3C): ``#t=10,20``; empty for the whole video."""
        if self.start_seconds is None and self.end_seconds is None:
            return ""
        start, end = ("" if value is None else f"{value:g}" for value in (self.start_seconds, self.end_seconds))
        return f"#t={start},{end}" if end else f"#t={start}"

    @property
    def is_compressed(self) -> bool:
        """Whether there is an entry of its frames."""
        return self.entry is not None and self.status != "failed"

    def to_values(self) -> dict[str, Any]:
        """Return the row as a manifest has it, by column; a URL without its secrets."""
        values = {_COLUMNS.get(one.name, one.name): getattr(self, one.name) for one in fields(self)}
        stages = values.pop("stage_seconds")
        values["uri"] = without_secrets(self.uri) if is_url(self.uri) else self.uri
        return {**values, **{f"{stage}_seconds": stages.get(stage) for stage in _STAGES}}


def is_manifest(name: object) -> bool:
    """Tell whether this is called like a manifest; a URL may be one.

    >>> [is_manifest(name) for name in ("talks.parquet", "s3://bucket/talks.CSV", "talk.mp4", "talks.json")]
    [True, True, False, False]
    """
    if not isinstance(name, (str, os.PathLike)):
        return False
    text = os.fspath(name)
    if not isinstance(text, str):
        return False
    if is_url(text):
        text = text.partition("?")[0].partition("#")[0]
    return text.lower().endswith(MANIFEST_SUFFIXES)


def read_manifest(path: str | Path) -> list[VideoRow]:
    """Read the rows of a manifest, in order.

    Args:
        path: a .csv, .jsonl or .parquet file, or the URL of one. Paths of videos in it count from its folder.

    Raises:
        DataError: there is no such file, it is not what its suffix says, or a row cannot be right; the row is named.
        UsageError: the suffix is another one, or Parquet is read without pyarrow.
        VideoError: a URL cannot be fetched.
    """
    if not is_manifest(path):
        raise UsageError(f"{path}: a manifest is called {', '.join(MANIFEST_SUFFIXES[:-1])} or {MANIFEST_SUFFIXES[-1]}")
    if is_url(path):
        return _read_url(str(path))
    file = expanded(path)
    if file.is_dir():
        raise used_wrongly(DataError(f"{file} is a folder; name the manifest in it"))
    folder = file.absolute().parent
    return _checked(read_rows(file), lambda uri: uri if is_url(uri) else str(folder / expanded(uri)), str(path))


def write_manifest(rows: Iterable[VideoRow], path: str | Path) -> Path:
    """Write rows as CSV, JSON lines or Parquet, by the suffix; the file appears whole or not at all.

    Raises:
        UsageError: the suffix is another one, Parquet is written without pyarrow, or there is no such folder.
    """
    file = check_can_write(path)
    values = [row.to_values() for row in rows]
    writers = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    try:
        with written_aside(file, is_durable=True) as aside:
            writers[file.suffix.lower()](values, aside)
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror or error})") from error
    return file


def check_can_write(path: str | Path) -> Path:
    """Refuse a manifest that cannot be written, before there is anything to write.

    Raises:
        UsageError: the suffix is another one, Parquet is written without pyarrow, or there is no such folder.
    """
    if is_url(path):
        raise UsageError(f"{path}: a manifest is written to a file; copy it to where it belongs afterwards")
    file = expanded(path)
    if file.suffix.lower() not in MANIFEST_SUFFIXES:
        raise UsageError(f"{path}: a manifest is called {', '.join(MANIFEST_SUFFIXES[:-1])} or {MANIFEST_SUFFIXES[-1]}")
    if file.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no folder {file.absolute().parent}; make it first")
    if file.suffix.lower() == ".parquet":
        _pyarrow(str(path))
    return file


def _read_url(url: str) -> list[VideoRow]:
    """Fetch a manifest and read it; paths in it become URLs beside it."""
    from voco_video.video.sources import local_video

    name = without_secrets(url)
    folder = url.partition("?")[0].rpartition("/")[0]
    with local_video(url) as local:
        assert local.path is not None
        try:
            rows = read_rows(local.path)
            return _checked(rows, lambda uri: uri if is_url(uri) or uri.startswith("/") else f"{folder}/{uri}", name)
        except DataError as error:
            raise DataError(str(error).replace(str(local.path), name)) from error


def _checked(rows: Iterable[Row], resolve: Callable[[str], str], name: str) -> list[VideoRow]:
    """Make rows of the values of a file, each with a whole uri.

    Raises:
        DataError: a row cannot be right, or two rows have the same id.
    """
    found: list[VideoRow] = []
    numbers: dict[str, int] = {}
    for row in rows:
        if not row.has("uri"):
            raise row.error(
                f"has no 'uri'; a manifest has a column uri with the paths or URLs of videos, and this one has "
                f"{', '.join(row.values) or 'none'}"
            )
        video = _video_row(row, resolve)
        if "id" in row.values and row.values["id"] not in (None, ""):
            if video.id in numbers:
                raise row.error(f"the id {video.id!r} is that of row {numbers[video.id]} already; ids name one video")
            numbers[video.id] = row.number
        found.append(video)
    return found


def _video_row(row: Row, resolve: Callable[[str], str]) -> VideoRow:
    numbers = {stage: _number(row, f"{stage}_seconds") for stage in _STAGES}
    status = row.values.get("status")
    try:
        return VideoRow(
            uri=resolve(row.filled("uri")),
            id=_text(row, "id"),
            start_seconds=_number(row, "start", "start_seconds"),
            end_seconds=_number(row, "end", "end_seconds"),
            status=status if status in get_args(Status) else None,  # a list of others may use the word otherwise
            error=_text(row, "error"),
            entry=_digest(row, "entry"),
            digest=_digest(row, "digest"),
            num_frames=_whole(row, "num_frames"),
            duration_seconds=_number(row, "duration_seconds"),
            size_bytes=_whole(row, "size_bytes"),
            num_attempts=_whole(row, "num_attempts"),
            fingerprint=_digest(row, "fingerprint"),
            versions=_text(row, "versions"),
            stage_seconds={stage: value for stage, value in numbers.items() if value is not None},
        )
    except UsageError as error:
        raise row.error(str(error)) from error


def _text(row: Row, name: str) -> str:
    return "" if row.values.get(name) is None else row.text(name)


def _number(row: Row, *names: str) -> float | None:
    """Read the first of these fields that is filled, as seconds; None where none is."""
    for name in names:
        value = row.values.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        try:
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise ValueError
            number = float(value)
        except ValueError:
            raise row.error(f"{name!r} is {value!r:.80}, but has to be a number") from None
        if math.isnan(number):  # how data frames write that there is nothing
            continue
        if math.isinf(number):
            raise row.error(f"{name!r} is {value!r:.80}, but has to be finite")
        return number
    return None


def _whole(row: Row, name: str) -> int | None:
    number = _number(row, name)
    if number is not None and (number < 0 or number != int(number)):
        raise row.error(f"{name!r} is {row.values[name]!r:.80}, but has to be a whole number")
    return None if number is None else int(number)


def _digest(row: Row, name: str) -> str | None:
    text = _text(row, name)
    if text and not (len(text) == 64 and set(text) <= set("0123456789abcdef")):
        raise row.error(f"{name!r} is {text!r:.80}, but has to be 64 hex digits")
    return text or None


def _write_csv(values: Sequence[Mapping[str, Any]], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, _column_names())
    writer.writeheader()
    writer.writerows(values)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


def _write_jsonl(values: Sequence[Mapping[str, Any]], path: Path) -> None:
    lines = (json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in values)
    path.write_text("".join(lines), encoding="utf-8")


def _write_parquet(values: Sequence[Mapping[str, Any]], path: Path) -> None:
    pyarrow = _pyarrow(str(path))
    from pyarrow import parquet

    whole, text = pyarrow.int64(), pyarrow.string()
    kinds = {"num_frames": whole, "size_bytes": whole, "num_attempts": whole, "start": pyarrow.float64()}
    kinds |= {"end": pyarrow.float64()} | {n: pyarrow.float64() for n in _column_names() if n.endswith("_seconds")}
    schema = pyarrow.schema([(name, kinds.get(name, text)) for name in _column_names()])
    parquet.write_table(pyarrow.Table.from_pylist(list(values), schema), path)


def _column_names() -> list[str]:
    return list(VideoRow("x").to_values())


def _pyarrow(path: str) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise UsageError(
            f"{path}: a parquet file needs pyarrow: pip install 'voco-video[eval]'; .csv and .jsonl need nothing"
        ) from error
    return pyarrow


def without_result(row: VideoRow) -> VideoRow:
    """Return which video a row is, without what came of it."""
    return VideoRow(row.uri, row.id, row.start_seconds, row.end_seconds)


def with_error(row: VideoRow, error: str, *, num_attempts: int) -> VideoRow:
    """Return the row of a video that failed."""
    return replace(without_result(row), status="failed", error=error, num_attempts=num_attempts)
