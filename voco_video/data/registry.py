"""Data sets by name, for training, evaluation and `voco-video data check`."""

from __future__ import annotations

import os
from pathlib import Path

from voco_video.data.conversations import find_mix665k, load_conversations
from voco_video.data.multiple_choice import CHOICE_SIZES, choice_files, default_split, load_multiple_choice
from voco_video.data.samples import Dataset, SplitSize
from voco_video.data.video_qa import PUBLISHED_SIZES, QA_FILES, load_video_qa
from voco_video.data.video_sets import check_set
from voco_video.errors import UsageError

VIDEO_QA_SETS = tuple(dict.fromkeys(name for name, _ in PUBLISHED_SIZES))
CHOICE_SETS = tuple(dict.fromkeys(name for name, _ in CHOICE_SIZES))
VIDEO_SETS = (*VIDEO_QA_SETS, *CHOICE_SETS)
MIX665K = "llava-mix665k"
CONVERSATION_SUFFIXES = (".json", ".jsonl")


def load_dataset(
    dataset: str,
    root: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    annotations: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load a data set by its name, or a file of conversations.

    Args:
        dataset: a name of VIDEO_SETS, "llava-mix665k", or the path of a .json or .jsonl file.
        root: the folder with the media; None: the current one, or the conversation file's.
        split: split of a video set; conversations have none. None: "test", but "val" for egoschema and mlvu.
        annotations: the annotations if they are not in root: a file, or for the video sets a folder.

    Raises:
        UsageError: an unknown data set or split, or annotations given for a conversation file, which holds its own.
        DataError: see `load_video_qa`, `load_multiple_choice` and `load_conversations`.

    >>> load_dataset("msvd", "data/MSVD", split="train").num_questions  # doctest: +SKIP
    30933
    """
    check_dataset_name(dataset)
    if dataset in VIDEO_QA_SETS:
        return load_video_qa(dataset, root or ".", split=split or default_split(dataset), annotations=annotations)
    if dataset in CHOICE_SETS:
        return load_multiple_choice(dataset, root or ".", split=split, annotations=annotations)
    if dataset == MIX665K:
        root = Path(root or ".")
        return load_conversations(annotations or find_mix665k(root), media_dir=root)
    if annotations is not None:
        raise UsageError(f"annotations is {str(annotations)!r}, but {dataset} holds its own: leave one of them out")
    return load_conversations(dataset, media_dir=root)


def load_video_set(
    dataset: str, root: str | os.PathLike[str] | None, *, split: str | None, annotations: str | os.PathLike[str] | None
) -> Dataset:
    """Load a split of a video set, as `load_dataset`.

    Raises:
        UsageError: another data set, or an unknown split.
        DataError: as `load_dataset`.
    """
    check_split(dataset, split or default_split(dataset))
    return load_dataset(dataset, root, split=split, annotations=annotations)


def check_dataset_name(dataset: str) -> None:
    """Refuse a name that is neither a known data set nor a .json or .jsonl file.

    Raises:
        UsageError: with the names that there are.
    """
    if dataset not in (*VIDEO_SETS, MIX665K) and not dataset.lower().endswith(CONVERSATION_SUFFIXES):
        known = ", ".join((*VIDEO_SETS, MIX665K))
        raise UsageError(f"dataset is {dataset!r}, but has to be {known}, or a .json or .jsonl of conversations")


def published_size(dataset: str, split: str) -> SplitSize | None:
    """Return the published size of a video set's split; None if there is no such split."""
    return PUBLISHED_SIZES.get((dataset, split)) or CHOICE_SIZES.get((dataset, split))


def check_split(dataset: str, split: str) -> None:
    """Refuse a split that a video set does not have.

    Raises:
        UsageError: always with the names that there are.
    """
    check_set(dataset, split, PUBLISHED_SIZES | CHOICE_SIZES)


def absent_annotations(dataset: str, place: str | os.PathLike[str], split: str) -> str:
    """Say that a video set's annotations are not in a place; "" if they are.

    Raises:
        DataError: no such place, or two files that fit equally well.
    """
    files = choice_files(dataset, split) if dataset in CHOICE_SETS else QA_FILES
    return "" if files.find(place, split) else files.absent(place, split)
