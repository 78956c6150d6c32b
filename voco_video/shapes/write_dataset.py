"""Write MovingShapes to disk in the public sets' layouts, so that their own loaders and scorers read it.

    msvd         YouTubeClips/<name>.avi, {train,val,test}_qa.json, youtube_mapping.txt (CRLF)
    msrvtt       TrainValVideo/video<n>.mp4, TestVideo/video<n>.mp4, {train,val,test}_qa.json
    activitynet  videos/v_<name>.mp4, {train,val,test}_q.json, {train,val,test}_a.json
    llava        videos/<id>.mp4 or images/<id>.png, {train,val,test}.json (conversations)

Everything is written to "<out_dir>.partial", which is renamed at the end. A run that was stopped resumes there:
complete clips are kept, since a clip depends only on its name and the settings in moving_shapes.json.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from voco_video.errors import UsageError
from voco_video.files.atomic_write import written_aside
from voco_video.shapes.questions import draw_questions
from voco_video.shapes.rendering import render, write_clip
from voco_video.shapes.samples import draw_turns
from voco_video.shapes.scene_view import FAMILIES, QuestionAnswer
from voco_video.shapes.world import SPLITS, Scene, draw_scene, scene_rng

LAYOUTS = ("msvd", "msrvtt", "activitynet", "llava")
SETTINGS_NAME = "moving_shapes.json"

# Increase it when the same seed gives other scenes, questions or files than before.
_WORLD_VERSION = 1
# About the shares of MSVD-QA's videos (1200, 250 and 520 of 1970).
_SPLIT_SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}
# ActivityNet-QA's answer types; 6 (location) and 8 (other) do not occur here.
_ACTIVITYNET_TYPES = {"motion": 0, "place": 1, "time": 2, "yes/no": 3, "colour": 4, "shape": 5, "number": 7}
_ANIMATION_CATEGORY = 8  # MSR-VTT's category id


@dataclass(frozen=True)
class _Settings:
    """The settings that determine every byte of a data set."""

    layout: str
    num_videos: int
    seed: int
    questions_per_video: int
    size: tuple[int, int]
    media: str
    version: int = _WORLD_VERSION


@dataclass(frozen=True)
class _Item:
    """One video (or image) with its questions; `number` counts over all splits, `file` is relative."""

    split: str
    index: int
    number: int
    name: str
    file: str
    scene: Scene
    at_seconds: float | None
    questions: tuple[QuestionAnswer, ...]


def write_dataset(
    out_dir: str | os.PathLike[str],
    *,
    layout: str,
    num_videos: int,
    seed: int = 0,
    questions_per_video: int = 10,
    size: int | tuple[int, int] = 240,
    media: str = "video",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a MovingShapes data set: three fifths train, the rest val and test (with held-out combinations).

    The same arguments give the same bytes (on one build of x264). A set that is already there is left alone.

    Args:
        out_dir: where it goes; must not exist, be empty, or hold the same set.
        layout: one of LAYOUTS.
        num_videos: clips of all splits together, 3 or more.
        seed: the world's seed.
        questions_per_video: how many of each clip (with "llava" turns, lists among them).
        size: side of the clips in pixels, or (height, width); even numbers.
        media: "video" or, with "llava" only, "image".
        progress: called with (clips done, clips in all) after each clip.

    Returns:
        out_dir as a Path.

    Raises:
        UsageError: an invalid argument, or out_dir has other contents.

    >>> write_dataset("shapes", layout="msvd", num_videos=100, seed=0)  # doctest: +SKIP
    PosixPath('shapes')
    """
    height, width = (size, size) if isinstance(size, int) else size
    settings = _Settings(layout, num_videos, seed, questions_per_video, (height, width), media)
    _check(settings)
    out_dir = Path(out_dir)
    if _is_done(out_dir, settings):
        return out_dir
    partial = out_dir.with_name(out_dir.name + ".partial")
    _open_partial(partial, settings)
    items = _items(settings)
    for done, item in enumerate(items, start=1):
        _write_media(partial / item.file, item, settings)
        if progress is not None:
            progress(done, len(items))
    _ANNOTATORS[layout](partial, items)
    _publish(partial, out_dir, settings)
    return out_dir


def _check(settings: _Settings) -> None:
    if settings.layout not in LAYOUTS:
        raise UsageError(f"layout is {settings.layout!r}, but has to be one of {', '.join(LAYOUTS)}")
    if settings.num_videos < 3:
        raise UsageError(f"num_videos is {settings.num_videos}, but train, val and test take at least 3")
    if settings.questions_per_video < 1 or settings.seed < 0:
        counts = f"{settings.questions_per_video} questions_per_video and seed {settings.seed}"
        raise UsageError(f"{counts} are not valid: ask 1 or more questions, and take a seed of 0 or more")
    if settings.media not in ("video", "image") or (settings.media == "image" and settings.layout != "llava"):
        raise UsageError(f'media is {settings.media!r}, but has to be "video" (or "image", with layout "llava")')


def _recorded(directory: Path) -> dict[str, Any] | None:
    """Read the settings that a directory was made with; None if it has none that can be read."""
    try:
        recorded: dict[str, Any] = json.loads((directory / SETTINGS_NAME).read_text())
    except (OSError, ValueError):
        return None
    return recorded


def _as_json(settings: _Settings) -> dict[str, Any]:
    return {**asdict(settings), "size": list(settings.size)}


def _is_done(out_dir: Path, settings: _Settings) -> bool:
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return False
    if out_dir.is_dir() and _recorded(out_dir) == _as_json(settings):
        return True
    raise UsageError(f"{out_dir} is there already and is not this data set: remove it or choose another place")


def _open_partial(partial: Path, settings: _Settings) -> None:
    if partial.exists() and any(partial.iterdir()) and _recorded(partial) != _as_json(settings):
        raise UsageError(f"{partial} was left by a run with other settings: remove it or repeat that run")
    partial.mkdir(parents=True, exist_ok=True)
    with written_aside(partial / SETTINGS_NAME) as aside:
        _write_json(aside, _as_json(settings))


def _publish(partial: Path, out_dir: Path, settings: _Settings) -> None:
    try:
        os.replace(partial, out_dir)
    except OSError:
        # Another process may have published the same set in the meantime.
        if not _is_done(out_dir, settings):
            raise


def _split_sizes(num_videos: int) -> dict[str, int]:
    """Split a number of videos, with at least one for each split; train gets the rest after rounding.

    >>> _split_sizes(100)
    {'train': 60, 'val': 15, 'test': 25}
    """
    sizes = {split: max(1, round(share * num_videos)) for split, share in _SPLIT_SHARES.items()}
    return sizes | {"train": num_videos - sizes["val"] - sizes["test"]}


def _items(settings: _Settings) -> list[_Item]:
    items: list[_Item] = []
    for split, size in _split_sizes(settings.num_videos).items():
        drawn = [_item(settings, split, index) for index in range(size)]
        # MSVD numbers its videos in the order of their names.
        drawn.sort(key=lambda item: item.name)
        items += [_numbered(settings.layout, item, len(items) + place) for place, item in enumerate(drawn)]
    return items


def _item(settings: _Settings, split: str, index: int) -> _Item:
    is_image = settings.media == "image"
    scene = draw_scene(settings.seed, split=split, index=index, always_visible=is_image)
    rng = scene_rng(settings.seed, split=split, index=index, purpose=2)
    at_seconds = float(rng.random()) * scene.duration_seconds if is_image else None
    num_questions = settings.questions_per_video
    if settings.layout == "llava":
        questions = draw_turns(scene, rng, num_turns=num_questions, at_seconds=at_seconds)
        name = f"{split}_{index:06d}"
        file = f"images/{name}.png" if is_image else f"videos/{name}.mp4"
    else:
        # MSVD-QA and MSRVTT-QA know five families; yes/no questions are ActivityNet-QA's.
        families = FAMILIES if settings.layout == "activitynet" else tuple(f for f in FAMILIES if f != "yes/no")
        questions = tuple(draw_questions(scene, rng, num_questions=num_questions, families=families))
        name = _youtube_id(settings.seed, split, index)
        file = f"videos/v_{name}.mp4"
        if settings.layout == "msvd":
            name = f"{name}_0_{scene.duration_seconds:.0f}"
            file = f"YouTubeClips/{name}.avi"
    return _Item(split, index, 0, name, file, scene, at_seconds, questions)


def _numbered(layout: str, item: _Item, number: int) -> _Item:
    if layout != "msrvtt":
        return replace(item, number=number)
    folder = "TestVideo" if item.split == "test" else "TrainValVideo"
    return replace(item, number=number, name=f"video{number}", file=f"{folder}/video{number}.mp4")


def _youtube_id(seed: int, split: str, index: int) -> str:
    """Make eleven characters like a YouTube id; some begin with "-" or "_", as real ids do."""
    digest = hashlib.blake2b(f"MovingShapes {seed} {split} {index}".encode(), digest_size=9).digest()
    return base64.urlsafe_b64encode(digest).decode()[:11]


def _write_media(path: Path, item: _Item, settings: _Settings) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if item.at_seconds is None:
        write_clip(item.scene, path, size=settings.size)
        return
    pixels = render(item.scene, np.array([item.at_seconds], np.float32), size=settings.size)[0]
    with written_aside(path) as aside:
        Image.fromarray(pixels).save(aside)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _by_split(items: Sequence[_Item]) -> dict[str, list[_Item]]:
    return {split: [item for item in items if item.split == split] for split in SPLITS}


def _annotate_msvd(directory: Path, items: Sequence[_Item]) -> None:
    _write_qa(directory, items, first_video_id=1, extra={})
    mapping = "\r\n".join(f"{item.name} vid{item.number + 1}" for item in items)
    (directory / "youtube_mapping.txt").write_bytes(mapping.encode())


def _annotate_msrvtt(directory: Path, items: Sequence[_Item]) -> None:
    _write_qa(directory, items, first_video_id=0, extra={"category_id": _ANIMATION_CATEGORY})


def _write_qa(directory: Path, items: Sequence[_Item], *, first_video_id: int, extra: dict[str, int]) -> None:
    """Write {train,val,test}_qa.json; as in the originals keys are sorted and ids continue over the splits."""
    next_id = 0
    for split, split_items in _by_split(items).items():
        rows = []
        for item in split_items:
            for turn in item.questions:
                row = {
                    "answer": turn.answer,
                    "id": next_id,
                    "question": turn.question,
                    "video_id": item.number + first_video_id,
                }
                rows.append(dict(sorted((row | extra).items())))
                next_id += 1
        _write_json(directory / f"{split}_qa.json", rows)


def _annotate_activitynet(directory: Path, items: Sequence[_Item]) -> None:
    """Write questions and answers to two files in the same order; questions without "?", ids counting from 1."""
    for split, split_items in _by_split(items).items():
        questions, answers = [], []
        for item in split_items:
            for number, turn in enumerate(item.questions, start=1):
                question_id = f"v_{item.name}_{number}"
                text = turn.question.removesuffix("?")
                questions.append({"video_name": item.name, "question": text, "question_id": question_id})
                kind = _ACTIVITYNET_TYPES[turn.about]
                answers.append({"answer": turn.answer, "type": kind, "question_id": question_id})
        _write_json(directory / f"{split}_q.json", questions)
        _write_json(directory / f"{split}_a.json", answers)


def _annotate_llava(directory: Path, items: Sequence[_Item]) -> None:
    for split, split_items in _by_split(items).items():
        _write_json(directory / f"{split}.json", [_conversation(item) for item in split_items])


def _conversation(item: _Item) -> dict[str, Any]:
    media = "video" if item.at_seconds is None else "image"
    turns = []
    for number, turn in enumerate(item.questions):
        value = f"<{media}>\n{turn.question}" if number == 0 else turn.question
        turns += [{"from": "human", "value": value}, {"from": "gpt", "value": turn.answer}]
    return {"id": item.name, media: item.file, "conversations": turns}


_ANNOTATORS: dict[str, Callable[[Path, Sequence[_Item]], None]] = {
    "msvd": _annotate_msvd,
    "msrvtt": _annotate_msrvtt,
    "activitynet": _annotate_activitynet,
    "llava": _annotate_llava,
}
