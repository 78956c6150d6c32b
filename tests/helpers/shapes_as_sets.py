"""MovingShapes in the layouts of other sets: true questions about its clips, written as those sets are published.

Each writer gets a folder with clips and the questions about them, and writes annotations beside them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.choice_sets import write_json
from tests.helpers.more_sets import write_lines
from voco_video.data.letters import LETTERS
from voco_video.data.registry import load_dataset
from voco_video.shapes.scene_view import time_word
from voco_video.shapes.world import draw_scene
from voco_video.shapes.write_dataset import write_dataset

NUM_VIDEOS = 12


@dataclass(frozen=True)
class Asked:
    """A question about a clip, with four options of which one is true."""

    video: str
    path: Path
    question: str
    options: tuple[str, ...]
    answer: int
    kind: str


@dataclass(frozen=True)
class Happening:
    """A shape that is there for a part of a clip."""

    video: str
    name: str
    window: tuple[float, float]
    duration: float


def write_clips(root: Path) -> Path:
    return write_dataset(root, layout="msvd", num_videos=NUM_VIDEOS, size=64)


def questions(root: Path) -> list[Asked]:
    """What, who and where questions of the train split, each with three answers that are true of other clips."""
    data = load_dataset("msvd", root, split="train")
    asked = [(s, turn) for s, turn in data.questions() if turn.question_type in ("what", "who", "where")]
    answers: dict[str, set[str]] = defaultdict(set)
    for _, turn in asked:
        answers[turn.question_type].add(turn.answer)
    rng, rows = random.Random(0), []
    for sample, turn in asked:
        others = sorted(answers[turn.question_type] - {turn.answer})
        if len(others) < 3:
            continue
        options = [turn.answer, *rng.sample(others, 3)]
        rng.shuffle(options)
        path = sample.media[0].path
        assert path is not None
        kind = turn.question_type
        rows.append(Asked(path.stem, path, turn.question, tuple(options), options.index(turn.answer), kind))
    return rows


def happenings(root: Path) -> list[Happening]:
    """Shapes of the train split's scenes that are there for less than the whole clip, one of their kind in it."""
    train = load_dataset("msvd", root, split="train")
    names = [sample.name for sample in train.samples]
    rows = []
    for index in range(len(names)):
        scene = draw_scene(0, split="train", index=index)
        for thing in scene.objects:
            word = time_word(scene, thing)
            window = (thing.appears_seconds, min(thing.disappears_seconds, scene.duration_seconds))
            if window[1] - window[0] < 0.75 * scene.duration_seconds:
                rows.append((index, thing.name, window, scene.duration_seconds, word))
    return [Happening(_name(names, index), name, window, length) for index, name, window, length, _ in rows]


def _name(names: Sequence[str], index: int) -> str:
    from voco_video.shapes.write_dataset import _youtube_id

    return next(name for name in names if name.startswith(_youtube_id(0, "train", index)))


def lettered(asked: Asked, form: str) -> str:
    lines = (form.replace("A", letter) + option for letter, option in zip(LETTERS, asked.options))
    return "\n".join([asked.question, *lines])


def as_lvbench(root: Path, rows: Sequence[Asked]) -> None:
    videos: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, row in enumerate(rows):
        qa = {"uid": str(number), "question": lettered(row, "(A) "), "answer": LETTERS[row.answer]}
        videos[row.video].append(qa | {"question_type": [row.kind, "reasoning"], "time_reference": "00:00-00:08"})
    write_lines(
        root / "video_info.meta.jsonl", [{"key": key, "type": "cartoon", "qa": qa} for key, qa in videos.items()]
    )


def as_longvideobench(root: Path, rows: Sequence[Asked]) -> None:
    write_json(
        root / "lvb_val.json",
        [
            {
                "id": f"{row.video}_{number}",
                "video_id": row.video,
                "video_path": f"{row.video}.mp4",
                "subtitle_path": f"{row.video}_en.json",
                "question": row.question,
                "candidates": list(row.options),
                "correct_choice": row.answer,
                "question_category": row.kind,
                "duration_group": 15,
                "starting_timestamp_for_subtitles": 0,
                "duration": 8.0,
            }
            for number, row in enumerate(rows)
        ],
    )


def as_mvbench(root: Path, rows: Sequence[Asked]) -> None:
    folder = root / "perception/videos"
    folder.mkdir(parents=True)
    for row in {row.video: row for row in rows}.values():
        (folder / row.path.name).symlink_to(row.path)
    content = [
        {
            "video": row.path.name,
            "question": row.question,
            "candidates": list(row.options),
            "answer": row.options[row.answer],
        }
        for row in rows
    ]
    write_json(root / "json/object_shuffle.json", content)


def as_tempcompass(root: Path, rows: Sequence[Asked]) -> None:
    forms: dict[str, dict[str, dict[str, list[dict[str, str]]]]] = {
        name: defaultdict(lambda: defaultdict(list))
        for name in ("multi-choice", "yes_no", "caption_matching", "captioning")
    }
    for row in rows:
        true, false = row.options[row.answer], row.options[row.answer - 1]
        answer = f"{LETTERS[row.answer]}. {true}"
        forms["multi-choice"][row.video]["action"].append({"question": lettered(row, "A. "), "answer": answer})
        if row.question.startswith("who is "):
            colour = row.question.removeprefix("who is ").removesuffix("?")
            for shape, is_there in ((true, "yes"), (false, "no")):
                asked = {"question": f"is the {shape} {colour}?", "answer": is_there}
                forms["yes_no"][row.video]["action"].append(asked)
        pair = f"{row.question}\nOption 1: {false}\nOption 2: {true}"
        forms["caption_matching"][row.video]["action"].append({"question": pair, "answer": f"Option 2: {true}"})
        forms["captioning"][row.video]["action"].append({"question": row.question, "answer": answer})
    for name, content in forms.items():
        write_json(root / f"questions/{name}.json", content)


def as_timescope(root: Path, rows: Sequence[Asked]) -> None:
    write_lines(
        root / "timescope.jsonl",
        [
            {
                "id": number,
                "video": f"videos/{row.video}.mp4",
                "length": 60,
                "type": "QA",
                "input": lettered(row, "A: "),
                "answer": LETTERS[row.answer],
            }
            for number, row in enumerate(rows)
        ],
    )


def as_charades_sta(root: Path, rows: Sequence[Happening]) -> None:
    lines = [f"{row.video} {row.window[0]:.1f} {row.window[1]:.1f}##{row.name}." for row in rows]
    write_lines(root / "charades_sta_test.txt", lines)


def as_activitynet_captions(root: Path, rows: Sequence[Happening]) -> None:
    videos: dict[str, dict[str, Any]] = {}
    for row in rows:
        video = videos.setdefault(f"v_{row.video}", {"duration": row.duration, "timestamps": [], "sentences": []})
        video["timestamps"].append(list(row.window))
        video["sentences"].append(f"{row.name}.")
    write_json(root / "captions/val_2.json", videos)


def as_qvhighlights(root: Path, rows: Sequence[Happening]) -> None:
    write_lines(
        root / "highlight_val_release.jsonl",
        [
            {
                "qid": n,
                "query": f"{row.name}.",
                "duration": row.duration,
                "vid": row.video,
                "relevant_windows": [list(row.window)],
            }
            for n, row in enumerate(rows)
        ],
    )


CHOICES: dict[str, Callable[[Path, Sequence[Asked]], None]] = {
    "lvbench": as_lvbench,
    "longvideobench": as_longvideobench,
    "mvbench": as_mvbench,
    "tempcompass-mc": as_tempcompass,
    "tempcompass-yes-no": as_tempcompass,
    "tempcompass-matching": as_tempcompass,
    "tempcompass-captioning": as_tempcompass,
    "timescope": as_timescope,
}
GROUNDING: dict[str, Callable[[Path, Sequence[Happening]], None]] = {
    "charades-sta": as_charades_sta,
    "activitynet-captions": as_activitynet_captions,
    "qvhighlights": as_qvhighlights,
}
