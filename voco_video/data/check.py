"""What is there of a data set, what is missing, and where each file comes from."""

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
from voco_video.data.multiple_choice import default_split, nextqa_places
from voco_video.data.registry import (
    MIX665K,
    VIDEO_SETS,
    absent_annotations,
    check_dataset_name,
    check_split,
    load_dataset,
    published_size,
)
from voco_video.data.row_check import MAX_LENGTH, BadRow, bad_rows
from voco_video.data.samples import Dataset, Media, SplitSize
from voco_video.data.sources import SOURCES, clip_origin, msrvtt_urls, synthetic_origin
from voco_video.errors import FILE_ERRORS, DataError, with_name
from voco_video.video.media_files import check_readable

THERE, MISSING, BROKEN = "there", "missing", "broken"


@dataclass(frozen=True)
class MediaStatus:
    """One video or image that the annotations name.

    Attributes:
        kind: "video" or "image".
        name: what the annotations call it.
        status: "there", "missing" or "broken".
        path: the file; None where it is missing.
        reason: why it is broken; "" otherwise.
        origin: where it was published, as far as its name says; else "".
        num_questions: how many questions wait for it.
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
    """How many of the media that come from one place are there; `origin` is "" where nobody knows it."""

    name: str
    num_there: int
    num_missing: int
    num_broken: int
    origin: str


@dataclass(frozen=True)
class CheckReport:
    """What `check_dataset` found.

    Attributes:
        dataset, split, root: what was asked for; split is "" for conversations.
        annotations: the files that were read; empty where there are none.
        annotations_origin: where they are published; "" for a set of one's own.
        num_samples, num_questions: what they hold.
        published: what they should hold; None for a set of one's own.
        media: every file that they name, each once.
        groups: the same by where they come from.
        bad_rows: rows whose text training would skip.
        problems: what is wrong beyond single media, one sentence each.
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
        """How many media have that status."""
        return sum(one.status == status for one in self.media)

    @property
    def is_complete(self) -> bool:
        """Whether everything is there, whole, of the published size, and can be trained on."""
        return not self.problems and not self.bad_rows and self.count(THERE) == len(self.media)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
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
    """Look for everything that a data set needs.

    Args:
        dataset, root, split, annotations: see `load_dataset`.
        open_media: also read frames of every file, as training and evaluation do. Without it only what is empty, or
            may not be read, counts as broken.
        model: the checkpoint to be trained: rows that are too long for it, or that its chat template refuses, are
            found, too. Without it only what would be so for any.
        max_length: text tokens that a training sample may have.
        progress: called with (files looked at, files in all).

    Raises:
        UsageError: an unknown data set or split.
        DataError: annotations that are there, but cannot be read.
        ModelError: the checkpoint is not there, or cannot write conversations.

    >>> check_dataset("msvd", "data/MSVD", split="test").is_complete  # doctest: +SKIP
    True
    """
    check_dataset_name(dataset)
    place = Path(root) if root is not None else Path(dataset).parent if _is_file_of_conversations(dataset) else Path()
    if not place.is_dir():
        raise DataError(f"{place}: no such folder")
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
    """What is missing, in words; "" where annotations are there."""
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
        f"the annotations hold {found} {what}, but {wanted} were published"
        for what, found, wanted in pairs
        if wanted is not None and found != wanted
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
        for one in {media.name: media for media in sample.media}.values():
            named.setdefault(one.name, one)
            questions[one.name] += len(sample.turns)
    listed = {"msrvtt": msrvtt_urls, "nextqa": nextqa_places}.get(dataset)
    urls = listed(Tree(root)) if listed else {}
    origin_of = partial(clip_origin, dataset, urls=urls) if not synthetic_origin(root) else lambda _: ""
    found = []
    for number, one in enumerate(named.values(), start=1):
        reason = "" if one.path is None else why_broken(one.path, one.kind, open_media=open_media)
        status = MISSING if one.path is None else BROKEN if reason else THERE
        found.append(
            MediaStatus(one.kind, one.name, status, one.path, reason, origin_of(one.name), questions[one.name])
        )
        if progress is not None:
            progress(number, len(named))
    return tuple(found)


def why_broken(path: Path, kind: str, *, open_media: bool) -> str:
    """Why a file is no video or image, or "".

    Args:
        path: the file.
        kind: "video" or "image".
        open_media: also read frames of it, as training and evaluation do; otherwise only look whether it can be read.
    """
    try:
        check_readable(path)
        if open_media:
            _read(path, kind)
    except (*FILE_ERRORS, SyntaxError, ValueError) as error:  # the last two are PIL's, of a damaged PNG
        return with_name(error, path).removeprefix(f"{path}: ")
    return ""


def _read(path: Path, kind: str) -> None:
    """The first and a later frame of a video, or an image, small."""
    from voco_video.options.sampling import Sampling
    from voco_video.video.frames import Fit
    from voco_video.video.reading import read_frames

    read_frames(path, Sampling(num_frames=2 if kind == "video" else 1), fit=Fit(64, 64, "stretch"))
    if kind == "image":
        _check_whole(path)


def _check_whole(path: Path) -> None:
    """Raise what PIL does for a picture that is cut off: of a JPEG, FFmpeg shows the rest in grey without a word."""
    from PIL import Image

    with warnings.catch_warnings(), contextlib.suppress(Image.UnidentifiedImageError, Image.DecompressionBombError):
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            image.load()


def _groups(dataset: str, media: tuple[MediaStatus, ...], root: Path) -> tuple[MediaGroup, ...]:
    """By folder for conversations, all of them together for a set's clips."""
    source = SOURCES.get(dataset)
    counts: dict[str, Counter[str]] = {}
    for one in media:
        folder = f"{dataset} clips" if dataset in VIDEO_SETS else Path(one.name).parent.as_posix()
        counts.setdefault(folder, Counter())[one.status] += 1
    origin = synthetic_origin(root) or (source.media if source else "")
    folders = source.folders if source else {}
    return tuple(
        MediaGroup(name, of[THERE], of[MISSING], of[BROKEN], folders.get(name, origin)) for name, of in counts.items()
    )
