"""Check of a data set: which files are there, which are missing, and where each can be downloaded."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from voco_video.data.conversations import MIX665K_NAME, MIX665K_SIZE, find_mix665k, media_folders
from voco_video.data.files import Tree
from voco_video.data.multiple_choice import nextqa_places
from voco_video.data.registry import (
    MIX665K,
    VIDEO_SETS,
    absent_annotations,
    check_dataset_name,
    check_split,
    default_split,
    load_dataset,
    published_size,
)
from voco_video.data.row_check import MAX_LENGTH, BadRow, bad_rows
from voco_video.data.samples import Dataset, Media, SplitSize
from voco_video.data.sources import SOURCES, clip_origin, msrvtt_urls, synthetic_origin
from voco_video.errors import FILE_ERRORS, DataError, used_wrongly, with_name
from voco_video.video.media_files import check_readable

THERE, MISSING, BROKEN = "there", "missing", "broken"


@dataclass(frozen=True)
class MediaStatus:
    """One video or image that the annotations name.

    Attributes:
        kind: "video" or "image".
        name: its name in the annotations.
        status: "there", "missing" or "broken".
        path: the file; None if it is missing.
        reason: why it is broken; "" otherwise.
        origin: where it was published, if its name says so; else "".
        num_questions: number of questions about it.
    """

    kind: str
    name: str
    status: str
    path: Path | None
    reason: str
    origin: str
    num_questions: int


@dataclass(frozen=True)
class MediaGroup:
    """Counts of the media that come from one place; `origin` is "" if it is unknown."""

    name: str
    num_there: int
    num_missing: int
    num_broken: int
    origin: str


@dataclass(frozen=True)
class CheckReport:
    """The result of `check_dataset`.

    Attributes:
        dataset, split, root: the set that was checked; split is "" for conversations.
        annotations: the files that were read; empty if there are none.
        annotations_origin: where they are published; "" for a user's own set.
        num_samples, num_questions: their numbers in these files.
        published: the published numbers; None for a user's own set.
        media: every file that the annotations name, each once.
        groups: counts of the media by the place that they come from.
        bad_rows: rows whose text training would skip.
        problems: problems other than those of single media, one sentence each.
    """

    dataset: str
    split: str
    root: Path
    annotations: tuple[Path, ...]
    annotations_origin: str
    num_samples: int
    num_questions: int
    published: SplitSize | None
    media: tuple[MediaStatus, ...]
    groups: tuple[MediaGroup, ...]
    bad_rows: tuple[BadRow, ...]
    problems: tuple[str, ...]

    def count(self, status: str) -> int:
        """Count the media with a status."""
        return sum(media.status == status for media in self.media)

    @property
    def is_complete(self) -> bool:
        """Whether all files are there and whole, the size is the published one, and all rows can be trained on."""
        return not self.problems and not self.bad_rows and self.count(THERE) == len(self.media)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        counts = {status: self.count(status) for status in (THERE, MISSING, BROKEN)}
        return {"is_complete": self.is_complete, "counts": counts, **asdict(self)}


def check_dataset(
    dataset: str,
    root: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    annotations: str | os.PathLike[str] | None = None,
    open_media: bool = False,
    model: str | None = None,
    max_length: int = MAX_LENGTH,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check that everything a data set needs is there.

    Args:
        dataset, root, split, annotations: see `load_dataset`.
        open_media: also read frames of every file, as training and evaluation do. Otherwise only files that are empty
            or not readable count as broken.
        model: the checkpoint to train: rows that are too long for it, or that its chat template refuses, are reported
            too. None: only rows that would be bad for every model.
        max_length: text tokens that a training sample may have.
        progress: called with (number of files checked, number of all files).

    Raises:
        UsageError: an unknown data set or split.
        DataError: the annotations are there, but cannot be read.
        ModelError: the checkpoint is not there, or has no tokenizer or chat template.

    >>> check_dataset("msvd", "data/MSVD", split="test").is_complete  # doctest: +SKIP
    True
    """
    check_dataset_name(dataset)
    place = Path(root) if root is not None else Path(dataset).parent if _is_file_of_conversations(dataset) else Path()
    if not place.is_dir():
        raise used_wrongly(DataError(f"{place}: no such folder"))
    split = split or default_split(dataset)
    published = _published(dataset, split, place)
    source = SOURCES.get(dataset)
    problems: list[str] = []
    if absent := _absent_annotations(dataset, place, split, annotations):
        loaded = Dataset(dataset, split if dataset in VIDEO_SETS else "", (), ())
        problems.append(
            f"{absent}; {'it comes' if dataset == MIX665K else 'they come'} from {SOURCES[dataset].annotations}"
        )
    else:
        loaded = load_dataset(dataset, root, split=split, annotations=annotations)
        problems += _wrong_sizes(loaded, published)
    media = _media(dataset, loaded, place, open_media=open_media, progress=progress)
    if dataset == MIX665K:
        problems += _empty_folders(place)
    return CheckReport(
        dataset=dataset,
        split=loaded.split,
        root=place,
        annotations=loaded.annotations,
        annotations_origin=source.annotations if source and published else "",
        num_samples=len(loaded.samples),
        num_questions=loaded.num_questions,
        published=published,
        media=media,
        groups=_groups(dataset, media, place),
        bad_rows=bad_rows(loaded, model=model, max_length=max_length),
        problems=tuple(problems),
    )


def _is_file_of_conversations(dataset: str) -> bool:
    return dataset not in (*VIDEO_SETS, MIX665K)


def _published(dataset: str, split: str, root: Path) -> SplitSize | None:
    if dataset == MIX665K:
        return MIX665K_SIZE
    if _is_file_of_conversations(dataset):
        return None
    check_split(dataset, split)
    return None if synthetic_origin(root) else published_size(dataset, split)


def _absent_annotations(dataset: str, root: Path, split: str, annotations: str | os.PathLike[str] | None) -> str:
    """Say which annotations are missing; "" if they are there."""
    place = Path(annotations) if annotations is not None else root
    if dataset == MIX665K and annotations is None and not find_mix665k(root).is_file():
        return f"{MIX665K_NAME} is neither in {' nor in '.join(map(str, media_folders(root)))}"
    return absent_annotations(dataset, place, split) if dataset in VIDEO_SETS else ""


def _wrong_sizes(dataset: Dataset, published: SplitSize | None) -> list[str]:
    if published is None:
        return []
    noun = "videos" if dataset.split else "conversations"
    pairs = [
        (noun, len(dataset.samples) + dataset.num_skipped_rows, published.num_samples),
        ("questions", dataset.num_questions, published.num_questions),
    ]
    return [
        f"the annotations hold {count} {what}, but {published_count} were published"
        for what, count, published_count in pairs
        if published_count is not None and count != published_count
    ]


def _empty_folders(root: Path) -> Iterable[str]:
    for folder, origin in SOURCES[MIX665K].folders.items():
        places = [place / folder for place in media_folders(root)]
        if not any(place.is_dir() and any(place.iterdir()) for place in places):
            yield f"{places[0]} is empty or not there; it comes from {origin}"


def _media(
    dataset: str,
    loaded: Dataset,
    root: Path,
    *,
    open_media: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[MediaStatus, ...]:
    named: dict[str, Media] = {}
    questions: Counter[str] = Counter()
    for sample in loaded.samples:
        for name, media in {media.name: media for media in sample.media}.items():
            named.setdefault(name, media)
            questions[name] += len(sample.turns)
    listed = {"msrvtt": msrvtt_urls, "nextqa": nextqa_places}.get(dataset)
    urls = listed(Tree(root)) if listed else {}
    origin_of = partial(clip_origin, dataset, urls=urls) if not synthetic_origin(root) else lambda _: ""
    statuses = []
    for number, media in enumerate(named.values(), start=1):
        reason = "" if media.path is None else why_broken(media.path, media.kind, open_media=open_media)
        status = MISSING if media.path is None else BROKEN if reason else THERE
        origin = origin_of(media.name)
        statuses.append(MediaStatus(media.kind, media.name, status, media.path, reason, origin, questions[media.name]))
        if progress is not None:
            progress(number, len(named))
    return tuple(statuses)


def why_broken(path: Path, kind: str, *, open_media: bool) -> str:
    """Say why a file cannot be used; "" if it can.

    Args:
        path: the file.
        kind: "video" or "image".
        open_media: also read frames of it, as training and evaluation do; otherwise only check that it is readable.
    """
    try:
        check_readable(path)
        if open_media:
            _read(path, kind)
    except (*FILE_ERRORS, SyntaxError, ValueError) as error:  # the last two are PIL's, of a damaged PNG
        return with_name(error, path).removeprefix(f"{path}: ")
    return ""


def _read(path: Path, kind: str) -> None:
    """Read the first and a later frame of a video, or an image, in a small size."""
    from voco_video.options.sampling import Sampling
    from voco_video.video.reading import read_frames
    from voco_video.video.scaling import Fit

    read_frames(path, Sampling(num_frames=2 if kind == "video" else 1), fit=Fit(64, 64, "stretch"))
    if kind == "image":
        _check_whole(path)


def _check_whole(path: Path) -> None:
    """Raise PIL's error for a truncated picture: FFmpeg silently fills the rest of a truncated JPEG with grey."""
    from PIL import Image

    with warnings.catch_warnings(), contextlib.suppress(Image.UnidentifiedImageError, Image.DecompressionBombError):
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            image.load()


def _groups(dataset: str, media: tuple[MediaStatus, ...], root: Path) -> tuple[MediaGroup, ...]:
    """Count media by folder for conversations, and all together for a set's clips."""
    source = SOURCES.get(dataset)
    counts: dict[str, Counter[str]] = {}
    for item in media:
        folder = f"{dataset} clips" if dataset in VIDEO_SETS else Path(item.name).parent.as_posix()
        counts.setdefault(folder, Counter())[item.status] += 1
    origin = synthetic_origin(root) or (source.media if source else "")
    folders = source.folders if source else {}
    return tuple(
        MediaGroup(name, of[THERE], of[MISSING], of[BROKEN], folders.get(name, origin)) for name, of in counts.items()
    )
