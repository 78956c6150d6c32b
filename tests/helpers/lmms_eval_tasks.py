"""Tasks of local files for lmms-eval, one of each kind: the YAML, the functions that it names, rows and media."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from voco_video.shapes.questions import draw_questions
from voco_video.shapes.rendering import render, write_clip
from voco_video.shapes.world import draw_scene, scene_rng

Rows = list[dict[str, Any]]

_YAML = """
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: {output_type}
doc_to_visual: !function functions.{visual}
doc_to_text: {text}
doc_to_target: answer
{more}
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""
_GENERATION = """
generation_kwargs:
  max_new_tokens: 12
  temperature: 0
  do_sample: false
"""
_FUNCTIONS = """
from PIL import Image


def video(doc):
    return [doc["video"]]


def image(doc):
    return [Image.open(doc["image"])]


def both(doc):
    return [doc["video"], Image.open(doc["image"])]


def nothing(doc):
    return []


def rounds(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None, previous_round_info=None):
    if round_idx is None:
        return doc["questions"][0]
    if round_idx == len(doc["questions"]):
        return None, None, True, previous_output, None
    return [doc["video"]], doc["questions"][round_idx], False, previous_output, None


def share_right(doc, results):
    return {"share_right": sum(map(str.__eq__, results[0], doc["answers"])) / len(doc["answers"])}
"""


def write_tasks(folder: Path, *, num_scenes: int = 3) -> dict[str, Rows]:
    """Write everything; gives each task's rows."""
    clips = [_clip_row(folder, index) for index in range(num_scenes)]
    images = [row for index in range(num_scenes) for row in _image_rows(folder, index)]
    # The questions of one video apart from each other, as in many sets.
    videos = [
        {"video": clip["video"], "question": clip["questions"][n], "answer": clip["answers"][n]}
        for n in range(4)
        for clip in clips
    ]
    choices = sorted({row["answer"] for row in images})
    rows = {
        "shapes_video": videos,
        "shapes_image": images,
        "shapes_both": [{**one, "image": other["image"]} for one, other in zip(videos[:2], images, strict=False)],
        "shapes_alone": [{"question": "what is it?", "answer": "circle"}],
        "shapes_choice": [{**row, "choices": choices} for row in images[:4]],
        "shapes_rounds": [{"answer": "", **clip} for clip in clips],
    }
    (folder / "functions.py").write_text(_FUNCTIONS)
    for task, documents in rows.items():
        path = folder / f"{task}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in documents))
        settings = {"output_type": "generate_until", "text": "question", "metric": "exact_match", "more": _GENERATION}
        if task == "shapes_choice":
            settings |= {"output_type": "multiple_choice", "metric": "acc", "more": "doc_to_choice: choices"}
        if task == "shapes_rounds":
            more = "process_results: !function functions.share_right" + _GENERATION
            settings |= {"output_type": "generate_until_multi_round", "metric": "share_right", "more": more}
            settings |= {"text": "!function functions.rounds"}
        visual = {"shapes_alone": "nothing", "shapes_both": "both", "shapes_video": "video", "shapes_rounds": "video"}
        yaml = _YAML.format(task=task, rows=path, visual=visual.get(task, "image"), **settings)
        (folder / f"{task}.yaml").write_text(yaml)
    return rows


def _clip_row(folder: Path, index: int) -> dict[str, Any]:
    scene = draw_scene(0, split="test", index=index)
    asked = draw_questions(scene, scene_rng(0, split="test", index=index, purpose=9), num_questions=4)
    clip = write_clip(scene, folder / f"{index}.mp4", size=64)
    return {"video": str(clip), "questions": [q.question for q in asked], "answers": [q.answer for q in asked]}


def _image_rows(folder: Path, index: int) -> Rows:
    scene = draw_scene(0, split="test", index=index, always_visible=True)
    rng = scene_rng(0, split="test", index=index, purpose=9)
    path = folder / f"{index}.png"
    Image.fromarray(render(scene, [0.5], size=64)[0]).save(path)
    asked = draw_questions(scene, rng, num_questions=4, at_seconds=0.5)
    return [{"image": str(path), "question": q.question, "answer": q.answer} for q in asked]
