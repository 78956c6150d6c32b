"""Any data set by its name, for training, evaluation and `voco-video data check`."""

from __future__ import annotations

import os
from pathlib import Path

from voco_video.data.instruct import find_mix665k, load_conversations
from voco_video.data.samples import Dataset
from voco_video.data.video_qa import load_video_qa
from voco_video.errors import UsageError

VIDEO_QA_SETS = ("msvd", "msrvtt", "activitynet")
MIX665K = "llava-mix665k"
CONVERSATION_SUFFIXES = (".json", ".jsonl")


def load_dataset(
    dataset: str,
    root: str | os.PathLike[str] | None = None,
    *,
    split: str = "test",
    annotations: str | os.PathLike[str] | None = None,
) -> Dataset:
    """A data set by its name, or a file of conversations.

    Args:
        dataset: "msvd", "msrvtt", "activitynet", "llava-mix665k", or the path of a .json or .jsonl file.
        root: the folder with the media; None: the current one, or the conversation file's.
        split: of the three video sets; conversations have none.
        annotations: where the annotations are, if not in root: a file, or for the video sets a folder.

    Raises:
        UsageError: an unknown data set or split, or annotations for a file that is its own.
        DataError: see `load_video_qa` and `load_conversations`.

    >>> load_dataset("msvd", "data/MSVD", split="train").num_questions  # doctest: +SKIP
    30933
    """
    check_dataset_name(dataset)
    if dataset in VIDEO_QA_SETS:
        return load_video_qa(dataset, root or ".", split=split, annotations=annotations)
    if dataset == MIX665K:
        root = Path(root or ".")
        return load_conversations(annotations or find_mix665k(root), media_dir=root)
    if annotations is not None:
        raise UsageError(f"annotations is {str(annotations)!r}, but {dataset} holds its own: leave one of them out")
    return load_conversations(dataset, media_dir=root)


def check_dataset_name(dataset: str) -> None:
    """Refuse what is neither a known data set nor named like a file of conversations.

    Raises:
        UsageError: with the names that there are.
    """
    if dataset not in (*VIDEO_QA_SETS, MIX665K) and not dataset.lower().endswith(CONVERSATION_SUFFIXES):
        known = ", ".join((*VIDEO_QA_SETS, MIX665K))
        raise UsageError(f"dataset is {dataset!r}, but has to be {known}, or a .json or .jsonl of conversations")
