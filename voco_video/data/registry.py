"""Data sets by name, for training, evaluation and `voco-video data check`."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from voco_video.data.conversations import find_mix665k, load_conversations
from voco_video.data.files import Tree
from voco_video.data.multiple_choice import (
    CHOICE_PROMPTS,
    CHOICE_SIZES,
    PROMPTS_WITH_SUBTITLES,
    choice_files,
    read_choices,
)
from voco_video.data.multiple_choice import default_split as default_choice_split
from voco_video.data.samples import Dataset, SplitSize
from voco_video.data.sets import SETS
from voco_video.data.video_qa import PUBLISHED_SIZES, QA_FILES, read_video_qa
from voco_video.data.video_sets import AnnotationFiles, VideoQuestion, samples_of
from voco_video.errors import DataError, UsageError
from voco_video.options.fields import did_you_mean

QA_SETS = tuple(dict.fromkeys(name for name, _ in PUBLISHED_SIZES))


def _of_kind(kind: str) -> tuple[str, ...]:
    return tuple(name for name, one in SETS.items() if one.kind == kind)


VIDEO_QA_SETS = (*QA_SETS, *_of_kind("open"))
CHOICE_SETS = (*dict.fromkeys(name for name, _ in CHOICE_SIZES), *_of_kind("choice"))
GROUNDING_SETS = _of_kind("grounding")
VIDEO_SETS = (*VIDEO_QA_SETS, *CHOICE_SETS, *GROUNDING_SETS)
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
        split: split of a video set; conversations have none. None: `default_split`.
        annotations: the annotations if they are not in root: a file, or for the video sets a folder.

    Raises:
        UsageError: an unknown data set or split, or annotations given for a conversation file, which holds its own.
        DataError: see `load_video_set` and `load_conversations`.

    >>> load_dataset("msvd", "data/MSVD", split="train").num_questions  # doctest: +SKIP
    30933
    """
    check_dataset_name(dataset)
    if dataset in VIDEO_SETS:
        return load_video_set(dataset, root, split=split, annotations=annotations)
    if dataset == MIX665K:
        root = Path(root or ".")
        return load_conversations(annotations or find_mix665k(root), media_dir=root)
    if annotations is not None:
        raise UsageError(f"annotations is {str(annotations)!r}, but {dataset} holds its own: leave one of them out")
    return load_conversations(dataset, media_dir=root)


def load_video_set(
    dataset: str,
    root: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    annotations: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load a split of a video set: one sample a video, with all its questions.

    Videos without a file are kept, with no path.

    Args:
        dataset: a name of VIDEO_SETS.
        root: the folder with the clips, at any depth, and with the annotations unless they are given; None: the
            current one.
        split: one of the set's; None: `default_split`.
        annotations: a file (of a pair the one with the questions; of MLVU that of one task) or a folder to look in.

    Raises:
        UsageError: an unknown set or split.
        DataError: no annotations, more than one file that could be meant, or an invalid row.

    >>> load_video_set("nextqa", "data/NExT-QA", split="val").num_questions  # doctest: +SKIP
    4996
    """
    split = split or default_split(dataset)
    check_split(dataset, split)
    files, place, tree = _annotation_files(dataset, split), annotations or root or ".", Tree(Path(root or "."))
    paths = files.find(place, split)
    if not paths:
        raise DataError(files.absent(place, split))
    prompt = CHOICE_PROMPTS.get(dataset, "")
    if dataset in SETS:
        questions, prompt = _read_set(dataset, paths, split), SETS[dataset].prompt
    elif dataset in QA_SETS:
        paths, questions = read_video_qa(dataset, paths, tree)
    else:
        questions = read_choices(dataset, paths, split)
    said = PROMPTS_WITH_SUBTITLES.get(dataset, "")
    return Dataset(dataset, split, paths, samples_of(questions, tree), prompt=prompt, prompt_with_subtitles=said)


def _read_set(dataset: str, paths: tuple[Path, ...], split: str) -> list[VideoQuestion]:
    questions = list(SETS[dataset].read(paths, split))
    if not questions:
        raise DataError(f"{paths[0]}: has no question of this split")
    question_id, count = Counter(question.turn.question_id for question in questions).most_common(1)[0]
    if count > 1:
        raise DataError(f"{paths[0]}: question id {question_id} is there {count} times")
    return questions


def default_split(dataset: str) -> str:
    """Return the default split of a set: the one that most published figures are on."""
    return next(iter(SETS[dataset].sizes)) if dataset in SETS else default_choice_split(dataset)


def _annotation_files(dataset: str, split: str) -> AnnotationFiles:
    if dataset in SETS:
        return SETS[dataset].files_of(split)
    return choice_files(dataset, split) if dataset in CHOICE_SETS else QA_FILES


def check_dataset_name(dataset: str, *, made: tuple[str, ...] = ()) -> None:
    """Refuse a name that is neither a known data set nor a .json or .jsonl file.

    Args:
        made: names of sets that are made, not read.

    Raises:
        UsageError: with the names that there are.
    """
    known = (*made, *VIDEO_SETS, MIX665K)
    if dataset not in known and not dataset.lower().endswith(CONVERSATION_SUFFIXES):
        raise UsageError(
            f"dataset is {dataset!r}, but has to be {', '.join(known)}, or a .json or .jsonl of conversations"
            f"{did_you_mean(dataset, known)}"
        )


def published_size(dataset: str, split: str) -> SplitSize | None:
    """Return the published size of a video set's split; None if there is no such split."""
    if dataset in SETS:
        return SETS[dataset].sizes.get(split)
    return PUBLISHED_SIZES.get((dataset, split)) or CHOICE_SIZES.get((dataset, split))


def check_split(dataset: str, split: str) -> None:
    """Refuse a name that is no video set, and a split that the set does not have.

    Raises:
        UsageError: always with the names that there are.
    """
    splits = [known for name, known in (*PUBLISHED_SIZES, *CHOICE_SIZES) if name == dataset]
    splits += SETS[dataset].sizes if dataset in SETS else ()
    if not splits:
        meant = did_you_mean(dataset, VIDEO_SETS)
        raise UsageError(f"dataset is {dataset!r}, but has to be one of {', '.join(VIDEO_SETS)}{meant}")
    if split not in splits:
        meant = did_you_mean(split, splits)
        raise UsageError(f"split is {split!r}, but {dataset} has {' and '.join(splits)}{meant}")


def absent_annotations(dataset: str, place: str | os.PathLike[str], split: str) -> str:
    """Say that a video set's annotations are not in a place; "" if they are.

    Raises:
        DataError: no such place, or two files that fit equally well.
    """
    files = _annotation_files(dataset, split)
    return "" if files.find(place, split) else files.absent(place, split)
