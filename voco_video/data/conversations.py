r"""Conversations about images and videos, in the layouts that instruction data is published in.

    LLaVA           {"id", "image" or "video", "conversations": [{"from": "human", "value": "<image>\n..."}, ...]}
    messages        {"messages": [{"role": "user", "content": "<video>..."}, ...], "images": [...], "videos": [...]}
    one question    {"video" or "image" or "video_id", "question" or "q", "answer" or "a"}

The file is a .json with a list of such rows, or a .jsonl with one row a line. Rows without media are text alone. Paths
are relative to the file's folder, or to playground/data in it, as in LLaVA's published mixture:

    llava_v1_5_mix665k.json
    coco/train2017  gqa/images  ocr_vqa/images  textvqa/train_images  vg/VG_100K  vg/VG_100K_2
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voco_video.data.files import MediaFinder, Row, read_rows
from voco_video.data.samples import Dataset, Media, Sample, SplitSize, Turn
from voco_video.errors import DataError, used_wrongly

MIX665K_NAME = "llava_v1_5_mix665k.json"
MIX665K_SIZE = SplitSize(665_298, None)
"""LLaVA-1.5's mixture: 624 610 conversations about images and 40 688 of text alone."""

_PUBLISHED_FOLDER = "playground/data"
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "bing"), "assistant"),
    "system": "system",
}


@dataclass(frozen=True)
class _ChatTurn:
    role: str
    text: str


def load_conversations(path: str | os.PathLike[str], *, media_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load the conversations of a file, one sample a row.

    Media come before all text, wherever their placeholders are. An answer before the first question, and a question
    after the last answer, cannot be learned from: they are left out and counted in `num_skipped_turns`.

    Args:
        path: a .json with a list of rows, or a .jsonl.
        media_dir: the folder that paths are relative to, or that has playground/data for them; None: the file's own.

    Raises:
        DataError: the file cannot be read, or a row is in none of the layouts, has turns out of order, or other
            numbers of media and placeholders.

    >>> load_conversations("playground/data/llava_v1_5_mix665k.json")  # doctest: +SKIP
    """
    path = Path(path)
    finder = MediaFinder(media_folders(path.parent if media_dir is None else _existing(Path(media_dir))))
    samples: list[Sample] = []
    num_skipped = num_rows = 0
    for row in read_rows(path):
        num_rows = row.number
        messages = _chat_turns(row)
        media, marks = _media(row, messages, finder)
        system, turns = _turns(row, messages, marks=marks)
        num_skipped += sum(message.role != "system" for message in messages) - 2 * len(turns)
        if turns:
            samples.append(Sample(_name(row), media, turns, system))
    return Dataset(path.name, "", (path,), tuple(samples), num_skipped, num_rows - len(samples))


def media_folders(folder: Path) -> tuple[Path, ...]:
    """Return the folders that paths may be relative to: the folder, and playground/data in it."""
    return folder, folder / _PUBLISHED_FOLDER


def find_mix665k(root: Path) -> Path:
    """Return where llava_v1_5_mix665k.json is below a folder, or where it should be."""
    paths = [folder / MIX665K_NAME for folder in media_folders(root)]
    return next((path for path in paths if path.is_file()), paths[0])


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise used_wrongly(DataError(f"{folder}: no such folder"))
    return folder


def _name(row: Row) -> str:
    return row.text("id") if row.has("id") else f"{row.path.stem}:{row.number}"


def _chat_turns(row: Row) -> list[_ChatTurn]:
    if row.has("question", "q"):
        return [_ChatTurn("user", row.filled("question", "q")), _ChatTurn("assistant", row.text("answer", "a"))]
    for field, role, text in (("conversations", "from", "value"), ("messages", "role", "content")):
        if row.has(field):
            return [_chat_turn(row, turn, role, text) for turn in _list(row, field)]
    raise row.error(
        'has neither "conversations", "messages" nor "question"; its fields are ' + (", ".join(row.values) or "none")
    )


def _chat_turn(row: Row, turn: Any, role_field: str, text_field: str) -> _ChatTurn:
    if not isinstance(turn, dict):
        raise row.error(f"a turn is {turn!r:.80}, but has to hold {role_field!r} and {text_field!r}")
    inner = Row(row.path, row.number, turn)
    role = inner.text(role_field)
    if role not in _ROLES:
        raise row.error(f"{role_field!r} is {role!r}, but has to be one of {', '.join(_ROLES)}")
    return _ChatTurn(_ROLES[role], inner.text(text_field))


def _list(row: Row, field: str) -> list[Any]:
    value = row.values[field]
    if not isinstance(value, list):
        raise row.error(f"{field!r} is {value!r:.80}, but has to be a list")
    return value


def _media(row: Row, messages: list[_ChatTurn], finder: MediaFinder) -> tuple[tuple[Media, ...], set[str]]:
    """Return the row's media in the order of their placeholders, and the kinds of these placeholders.

    Raises:
        DataError: the numbers of placeholders and media differ.
    """
    names = {"image": _names(row, "image", "images"), "video": _names(row, "video", "videos", "video_id", "video_name")}
    kinds = [kind for kind in names for _ in names[kind]]
    marks = re.findall("<(image|video)>", "".join(m.text for m in messages if m.role == "user"))
    # A mark of another kind than the media is text about HTML. But LLaVA-Video writes <image> for its videos.
    own = [mark for mark in marks if names[mark]]
    order = own
    if not own and names["video"]:
        own, order = marks, ["video"] * len(marks)
    if order and sorted(order) != sorted(kinds):
        raise row.error(f"has {len(kinds)} media ({', '.join(kinds)}), but {len(own)} placeholders for them")
    unused = {kind: iter(names[kind]) for kind in names}
    ordered = [(kind, next(unused[kind])) for kind in order or kinds]
    return tuple(Media(kind, name, finder.find(name, kind)) for kind, name in ordered), set(own)


def _names(row: Row, *fields: str) -> list[str]:
    """Read paths or ids from the first of these fields that is there: one, a list of them, or null for none."""
    for field in fields:
        value = row.values.get(field)
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            continue
        names = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) and name for name in names):
            raise row.error(f"{field!r} is {value!r:.80}, but has to be a path or a list of paths")
        return names
    return []


def _turns(row: Row, messages: list[_ChatTurn], *, marks: set[str]) -> tuple[str, tuple[Turn, ...]]:
    """Return the system message ("" for none) and the questions, without placeholders, with their answers."""
    system = ""
    turns: list[Turn] = []
    question: str | None = None
    for message in messages:
        if message.role == "system":
            system = message.text
        elif message.role == "user":
            if question is not None:
                raise row.error("has two questions without an answer between them")
            question = message.text
            for mark in marks:
                question = question.replace(f"<{mark}>", "").strip()
        elif question is not None:
            turns.append(Turn(question, message.text, row=row.number - 1))
            question = None
        elif turns:
            raise row.error("has two answers without a question between them")
    return system, tuple(turns)
