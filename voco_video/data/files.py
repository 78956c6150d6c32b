"""Reading annotation files and finding media, with errors that name the file and the row."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from voco_video.errors import DataError, UsageError, used_wrongly
from voco_video.files.urls import is_url

CLIP_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
"""Suffixes of videos in the public sets; if a video is there under several, the first counts."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
"""Suffixes that an image may have instead of the one in the annotations."""

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".parquet")
"""Suffixes of a list of videos, in a column ``uri``: `voco_video.library.manifest`."""

_ANNOTATION_SUFFIXES = (".json", ".jsonl", ".csv", ".txt", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of an annotation file; `number` counts from 1."""

    path: Path
    number: int
    values: dict[str, Any]

    def error(self, what: str) -> DataError:
        """Make an error that names the file and the row."""
        return DataError(f"{self.path}, row {self.number}: {what}")

    def has(self, *names: str) -> bool:
        """Check whether one of these fields is there."""
        return any(name in self.values for name in names)

    def text(self, *names: str) -> str:
        """Read the first of these fields that is there, as text without blanks around it; numbers become text.

        Raises:
            DataError: none is there, or it holds something else.
        """
        for name in names:
            if name not in self.values:
                continue
            value = self.values[name]
            if isinstance(value, str):
                return value.strip()
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise self.error(f"{name!r} is {value!r:.80}, but has to be text")
            return str(value)
        raise self.error(f"has no {' or '.join(map(repr, names))}; its fields are {', '.join(self.values) or 'none'}")

    def filled(self, *names: str) -> str:
        """Like `text`, but not empty.

        Raises:
            DataError: nothing is there, or it is empty.
        """
        text = self.text(*names)
        if not text:
            raise self.error(f"{next(n for n in names if n in self.values)!r} is empty")
        return text

    def number_of(self, name: str) -> float:
        """Read a field that holds a number.

        Raises:
            DataError: it holds something else.
        """
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(f"{name!r} is {value!r:.80}, but has to be a number")
        return float(value)

    def texts(self, name: str, *, may_be_empty: bool = False) -> tuple[str, ...]:
        """Read a field that holds a list of texts.

        Args:
            may_be_empty: whether a text may be empty.

        Raises:
            DataError: the field is not there, is not a list or is empty, or one of its values is not such a text.
        """
        values = self.values.get(name)
        if not isinstance(values, list) or not values:
            raise self.error(f"{name!r} is {values!r:.80}, but has to be a list of texts")
        row = Row(self.path, self.number, {f"{name}[{place}]": value for place, value in enumerate(values)})
        return tuple((row.text if may_be_empty else row.filled)(item) for item in row.values)


def read_rows(path: Path) -> Iterator[Row]:
    """Read the rows of a .csv, a .jsonl, a .parquet, or a .json file that holds a list; the first is number 1.

    Raises:
        DataError: the file cannot be read, has another format than its suffix says, or has no rows.
        UsageError: a .parquet file without pyarrow installed.
    """
    readers: dict[str, Callable[[Path], Iterable[Any]]] = {
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    try:
        number = 0
        for number, values in enumerate(readers.get(path.suffix.lower(), _read_json)(path), start=1):
            if not isinstance(values, dict):
                raise DataError(f"{path}, row {number}: is {values!r:.80}, but has to hold named fields")
            yield Row(path, number, values)
    except FileNotFoundError as error:
        raise used_wrongly(DataError(f"{path}: no such file")) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8 text") from error
    if number == 0:
        raise DataError(f"{path}: has no rows")


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, the empty ones left out.

    Raises:
        DataError: the file cannot be read, or has no text.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise used_wrongly(DataError(f"{path}: no such file")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not lines:
        raise DataError(f"{path}: has no rows")
    return lines


def _read_json(path: Path) -> Iterator[Any]:
    try:
        content = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{path}, {where}: not JSON ({error.msg}); is the file whole?") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: holds a {type(content).__name__}, but has to hold a list of rows")
    # Each row is freed once it is read: a mixture of one gigabyte takes several gigabytes when parsed.
    content.reverse()
    while content:
        yield content.pop()


def _read_jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {line_number}: not JSON ({error.msg}); is the file whole?") from error


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for values in reader:
                if None in values or None in values.values():
                    columns = len(reader.fieldnames or ())
                    raise DataError(f"{path}, line {reader.line_num}: has not {columns} cells, as the first line has")
                yield values
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.reader.line_num}: not CSV ({error})") from error


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{path}: a parquet file needs pyarrow: pip install 'voco-video[eval]'") from error
    try:
        yield from parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not parquet ({error!s:.80}); is the file whole?") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); is the file whole?") from error


def named_values(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, but has to hold named values")
    return content


@dataclass(frozen=True)
class Tree:
    """A folder with everything below it, listed once; hidden files and folders are ignored. Or a manifest of videos."""

    root: Path

    @cached_property
    def clips(self) -> dict[str, Path]:
        """Videos by their names without suffix; of several with one name, the suffix that is first in CLIP_SUFFIXES."""
        return _by_stem(path for path in self._files if path.suffix.lower() in CLIP_SUFFIXES)

    @cached_property
    def clips_by_folder(self) -> dict[str, dict[str, Path]]:
        """Videos by the name of their folder, then by their own name as in `clips`."""
        clips: dict[str, list[Path]] = {}
        for path in self._files:
            if path.suffix.lower() in CLIP_SUFFIXES:
                clips.setdefault(path.parent.name, []).append(path)
        return {folder: _by_stem(paths) for folder, paths in clips.items()}

    @cached_property
    def annotations(self) -> tuple[Path, ...]:
        """Text files that may be annotations, those nearest to the root first."""
        texts = (path for path in self._files if path.suffix.lower() in _ANNOTATION_SUFFIXES)
        return tuple(sorted(texts, key=lambda path: (self.depth(path), path)))

    def depth(self, path: Path) -> int:
        """Count the folders between the root and a file; of a manifest's, all above it."""
        return len(path.relative_to(self.root).parts if path.is_relative_to(self.root) else path.parts) - 1

    def clip(self, names: Sequence[str], *, folder: str = "") -> Path | None:
        """Find the video with one of these names, with or without "v_" before it.

        Args:
            names: without suffix, the better ones first; of one with folders in it ("perception/videos/video_1") the
                path has to end with all of it.
            folder: if there is a folder of this name with videos, only its videos are considered.
        """
        clips = self.clips_by_folder.get(folder, self.clips) if folder else self.clips
        for name in names:
            if "/" in name:
                if found := self._clip_by_path(name):
                    return found
                continue
            for stem in name_variants(name):
                if stem in clips:
                    return clips[stem]
        return None

    def file(self, end: str) -> Path | None:
        """Find the file whose path ends with some folders and a name, such as "subtitle/abc.srt"."""
        name = end.rpartition("/")[2]
        fits = [path for path in self._by_name.get(name, ()) if f"/{path.as_posix()}".endswith(f"/{end}")]
        return min(fits, key=lambda path: (self.depth(path), path), default=None)

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        names: dict[str, list[Path]] = {}
        for path in self._files:
            names.setdefault(path.name, []).append(path)
        return names

    def _clip_by_path(self, end: str) -> Path | None:
        """Find the video whose path, without suffix, ends with some folders and a name."""
        folders, _, stem = end.rpartition("/")
        fits = [
            clips[stem]
            for parent, clips in self._clips_by_parent.items()
            if stem in clips and f"/{parent.as_posix()}".endswith(f"/{folders}")
        ]
        return min(fits, key=lambda path: (self.depth(path), path), default=None)

    def _listed(self, row: Row) -> Path:
        """Return the path of a row of a manifest, which counts from the manifest's folder.

        Raises:
            DataError: it is a URL; annotations name files.
        """
        uri = row.filled("uri")
        if is_url(uri):
            raise row.error(f"{uri!r} is a URL, and evaluation reads files; list those on this machine")
        return self.root.parent / uri

    @cached_property
    def _clips_by_parent(self) -> dict[Path, dict[str, Path]]:
        clips: dict[Path, list[Path]] = {}
        for path in self._files:
            if path.suffix.lower() in CLIP_SUFFIXES:
                clips.setdefault(path.parent, []).append(path)
        return {parent: _by_stem(paths) for parent, paths in clips.items()}

    @cached_property
    def _files(self) -> list[Path]:
        if self.root.is_file() and self.root.suffix.lower() in MANIFEST_SUFFIXES:
            return [self._listed(row) for row in read_rows(self.root) if row.values.get("status") != "failed"]
        if not self.root.is_dir():
            raise used_wrongly(DataError(f"{self.root}: no such folder"))
        files: list[Path] = []
        seen: set[str] = set()
        for folder, subfolders, names in os.walk(self.root, followlinks=True):
            # A link to a parent folder would make the walk endless.
            real = os.path.realpath(folder)
            if real in seen:
                subfolders.clear()
                continue
            seen.add(real)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            files += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        return files


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    best: dict[str, Path] = {}
    for path in paths:
        other = best.get(path.stem)
        if other is None or _suffix_rank(path) < _suffix_rank(other):
            best[path.stem] = path
    return best


def _suffix_rank(path: Path) -> int:
    return CLIP_SUFFIXES.index(path.suffix.lower())


class MediaFinder:
    """A finder of the files that conversations name by path; it lists each folder only once.

    It also finds a file with another suffix than the annotations say (OCR-VQA's images are not all .jpg, though their
    rows say so), a video with or without "v_" before its name, and, for a name without a folder, a file in a direct
    subfolder.

    Args:
        folders: folders that the paths may be relative to; the first that has the file counts.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(map(str, folders))
        self._listings: dict[str, frozenset[str]] = {}
        self._found: dict[tuple[str, str], Path | None] = {}

    def find(self, name: str, kind: str) -> Path | None:
        """Find the file of this name; kind is "video" or "image"."""
        # Mixtures name an image in several rows, and a million operations on paths take a minute.
        if (name, kind) not in self._found:
            self._found[name, kind] = self._find(name, kind)
        return self._found[name, kind]

    def _find(self, name: str, kind: str) -> Path | None:
        for folder in self._folders:
            if found := self._find_in(*os.path.split(os.path.join(folder, name)), kind):
                return found
        return self._find_below(name, kind) if "/" not in name else None

    def _find_in(self, folder: str, name: str, kind: str) -> Path | None:
        listing = self._listing(folder)
        if name in listing:
            return Path(folder, name)
        stem = os.path.splitext(name)[0]
        is_video = kind == "video"
        stems = name_variants(stem) if is_video else [stem]
        suffixes = CLIP_SUFFIXES if is_video else IMAGE_SUFFIXES
        written = [spelling for suffix in suffixes for spelling in (suffix, suffix.upper())]
        candidates = (stem + suffix for stem in stems for suffix in written) if listing else ()
        return next((Path(folder, candidate) for candidate in candidates if candidate in listing), None)

    def _find_below(self, name: str, kind: str) -> Path | None:
        found = (self._find_in(folder, name, kind) for folder in self._subfolders)
        return next((path for path in found if path is not None), None)

    @cached_property
    def _subfolders(self) -> list[str]:
        """All direct subfolders, sorted within each folder."""
        below: list[str] = []
        for folder in filter(os.path.isdir, self._folders):
            with os.scandir(folder) as entries:
                below += sorted(entry.path for entry in entries if entry.is_dir())
        return below

    def _listing(self, folder: str) -> frozenset[str]:
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(os.listdir(folder))
            except OSError:
                self._listings[folder] = frozenset()
        return self._listings[folder]


def name_variants(name: str) -> list[str]:
    """Return a clip's name as given, with "v_" before it, and without: copies of a set differ in this.

    >>> name_variants("v_GqWH2IYPw6U")
    ['v_GqWH2IYPw6U', 'v_v_GqWH2IYPw6U', 'GqWH2IYPw6U']
    """
    return [name, f"v_{name}", name.removeprefix("v_")]
