"""Small multiple-choice sets in the layouts in which the real ones are published, with really encoded clips."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.clips import Clip

UIDS = tuple(f"0{number}c0ffee-0000-4000-8000-00000000000{number}" for number in range(3))
NEXTQA_COLUMNS = [
    "video",
    "frame_count",
    "width",
    "height",
    "question",
    "answer",
    "qid",
    "type",
    *(f"a{n}" for n in range(5)),
]


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def encode(path: Path, number: int) -> Path:
    """A second or two of video; another number, another clip."""
    return Clip(path.name, num_frames=4 + number, rate=4).write(path.parent)


def write_egoschema(root: Path) -> Path:
    """Three questions, two of them with a public answer."""
    rows = [
        {"q_uid": uid, "google_drive_id": f"drive{number}", "question": f"What was C's goal in video {number}?"}
        | {f"option {place}": f"C did thing {place} of {number}" for place in range(5)}
        for number, uid in enumerate(UIDS)
    ]
    write_json(root / "questions.json", rows)
    write_json(root / "subset_answers.json", {UIDS[1]: 3, UIDS[2]: 0})
    for number, uid in enumerate(UIDS):
        encode(root / "videos" / f"{uid}.mp4", number)
    return root


def nextqa_rows() -> list[list[Any]]:
    """Rows of val.csv as published, on two videos in turn; they have no ids but within a video."""
    sizes = {"1000000001": (369, 640, 480), "2000000002": (2697, 640, 480)}
    asked = [
        ("1000000001", "how do the two men cross the stream", 0, 6, "CH"),
        ("2000000002", "why did the boy open the box", 2, 1, "CW"),
        ("1000000001", "what did the man do after sitting down", 1, 1, "TN"),
        ("2000000002", "what did the boy do before sitting down", 4, 7, "TP"),
        ("1000000001", "what is the man doing as he sits", 3, 2, "TC"),
        ("2000000002", "how many boys are there", 2, 0, "DC"),
        ("2000000002", "where is this", 0, 4, "DL"),
    ]
    return [
        [video, *sizes[video], question, answer, qid, kind, *(f"{kind.lower()} answer {place}" for place in range(5))]
        for video, question, answer, qid, kind in asked
    ]


def write_nextqa(root: Path, *, split: str = "val") -> Path:
    """Seven questions on two videos, which lie in VidOR's folders."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([NEXTQA_COLUMNS, *nextqa_rows()])
    places = {"1000000001": "1164/1000000001", "2000000002": "0032/2000000002"}
    write_json(root / "map_vid_vidorID.json", places)
    for number, place in enumerate(places.values()):
        encode(root / "NExTVideo" / f"{place}.mp4", number)
    return root


def videomme_rows() -> list[dict[str, Any]]:
    """Rows of the published parquet: three questions on each of three videos, one of every duration class."""
    videos = (("001", "abcdefghijk", "short"), ("301", "-N1cdUjctpG", "medium"), ("601", "_26dzf-vc5g", "long"))
    kinds = ("Counting Problem", "Object Recognition", "Temporal Reasoning")
    return [
        {
            "video_id": video_id,
            "duration": duration,
            "domain": "Knowledge",
            "sub_category": "Humanity & History",
            "url": f"https://www.youtube.com/watch?v={name}",
            "videoID": name,
            "question_id": f"{video_id}-{place}",
            "task_type": kind,
            "question": f"Which of these is right about number {place} of {video_id}:",
            "options": ["A. Apples.", "B. Candles and more.", "C. Berries.", "D. None."],
            "answer": "ABCD"[(place + int(video_id)) % 4],
        }
        for video_id, name, duration in videos
        for place, kind in enumerate(kinds, start=1)
    ]


def write_videomme(root: Path, *, layout: str = "jsonl") -> Path:
    """Nine questions: as the published parquet, as its rows in JSON lines, or as the authors' own file has them, a
    video's together, with the names of today ("nested") or of its first publication ("first").
    """
    rows = videomme_rows()
    root.mkdir(parents=True, exist_ok=True)
    if layout == "parquet":
        from pyarrow import Table, parquet

        (root / "videomme").mkdir()
        parquet.write_table(Table.from_pylist(rows), root / "videomme" / "test-00000-of-00001.parquet")
    elif layout == "jsonl":
        (root / "videomme.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        first = {"duration": "duration_category", "domain": "video_category", "sub_category": "video_sub_category"}
        renamed = first | {"options": "choices"} if layout == "first" else {}
        of_video = ("video_id", "duration", "domain", "sub_category", "url")
        of_question = ("question_id", "task_type", "question", "options", "answer")
        videos: dict[str, dict[str, Any]] = {}
        for row in rows:
            video = {renamed.get(name, name): row[name] for name in of_video} | {"questions": []}
            questions = videos.setdefault(row["video_id"], video)["questions"]
            questions.append({renamed.get(name, name): row[name] for name in of_question})
        write_json(root / "Video-MME.json", list(videos.values()))
    named = {row["video_id"] if layout in ("nested", "first") else row["videoID"] for row in rows}
    for number, name in enumerate(sorted(named)):
        encode(root / "data" / f"{name}.mp4", number)
    return root


def write_mlvu(root: Path) -> Path:
    """Six questions of three tasks, with tasks that ask for free text beside them; two videos have the same name."""
    files = {
        "1_plotQA": ("plotQA", ("movie101_66.mp4", "en_tv_10.mp4")),
        "2_needle": ("findNeedle", ("needle_32.mp4",)),
        "7_topic_reasoning": ("topic_reasoning", ("movie101_66.mp4",)),
    }
    number = 0
    for file, (kind, videos) in files.items():
        rows = []
        for place, video in enumerate((*videos, videos[0])):
            candidates = [f"{kind} {letter}{place}" for letter in "wxyz"]
            rows.append(
                {
                    "video": video,
                    "duration": 408.63,
                    "question": f"What is thing {place} of the video?",
                    "candidates": candidates,
                    "answer": candidates[(place + 1) % 4],
                    "question_type": kind,
                }
            )
        write_json(root / "json" / f"{file}.json", rows)
        for video in videos:
            number += 1
            encode(root / "video" / file / video, number)
    free = {
        "video": "a.mp4",
        "duration": 500.0,
        "question": "What happens?",
        "answer": "So.",
        "question_type": "summary",
    }
    write_json(root / "json" / "9_summary.json", [free])
    encode(root / "video" / "9_summary" / "needle_32.mp4", 9)
    return root


def mlvu_test_rows() -> list[dict[str, Any]]:
    """Rows of test_mcq_gt.json: six candidates, and an id that names the task."""
    asked = (("test_film_1.mp4", "plotQA", "PQA_0"), ("test_film_1.mp4", "needleQA", "NQA_0"))
    asked += (("test_game_2.mp4", "sportsQA", "SQA_0"),)
    return [
        {
            "video": video,
            "duration": 431.2,
            "question": f"What is thing {place} of the video?",
            "candidates": [f"{kind} {number}" for number in range(6)],
            "answer": f"{kind} {5 - place}",
            "question_type": kind,
            "question_id": question_id,
        }
        for place, (video, kind, question_id) in enumerate(asked)
    ]


def write_mlvu_test(root: Path) -> Path:
    """Three questions on two videos, which lie together; beside them the questions without answers."""
    rows = mlvu_test_rows()
    write_json(root / "test-ground-truth" / "test_mcq_gt.json", rows)
    secret = [{name: value for name, value in row.items() if name != "answer"} for row in rows]
    write_json(root / "test_multi_choice_tasks.json", secret)
    for number, video in enumerate(("test_film_1.mp4", "test_game_2.mp4")):
        encode(root / "MLVU_Test" / "video" / video, number)
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "egoschema": write_egoschema,
    "nextqa": write_nextqa,
    "videomme": write_videomme,
    "mlvu": write_mlvu,
}
