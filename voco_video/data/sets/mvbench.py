"""MVBench (Li et al., arXiv:2311.17005): twenty tasks of multiple choice on short clips.

    json/<task>.json  rows: video, question, candidates, answer (one of the candidates' text); start and end in seconds
                      where the question is about a part of the video
    clips             in a folder a task, as the zip files of the data set unpack ("perception/videos/video_1.mp4");
                      several folders hold the same names. The clips of start and end may also lie there already cut
                      (star/Charades_segment, sta/sta_video_segment, tvqa/video_fps3_hq_segment)

Seen: OpenGVLab/Ask-Anything on GitHub (video_chat2/mvbench.ipynb), lmms-eval's task with the folders of the branch
"video", VLMEvalKit's vlmeval/dataset/mvbench.py; the names of the json files on the data set's page. The prompt is the
notebook's, without the "Best option:(" that it puts into the model's mouth. The frames of TVQA as pictures
(tvqa/frames_fps3_hq) are not read: take the branch with videos.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from voco_video.data.files import Row, read_rows
from voco_video.data.samples import SplitSize, Turn
from voco_video.data.spans import Span
from voco_video.data.video_sets import (
    Origin,
    VideoQuestion,
    VideoSet,
    checked_options,
    letter_of,
    named,
    window_of,
)

_CLEVRER, _PERCEPTION = ("clevrer/video_validation",), ("perception/videos",)
_STAR = ("star/Charades_segment", "star/Charades_v1_480")
TASKS = {
    "action_sequence": _STAR,
    "action_prediction": _STAR,
    "action_antonym": ("ssv2_video_mp4", "ssv2_video"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "unexpected_action": ("FunQA_test/test",),
    "object_existence": _CLEVRER,
    "object_interaction": _STAR,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": ("sta/sta_video_segment", "sta/sta_video"),
    "scene_transition": ("scene_qa/video",),
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": ("nturgbd_convert", "nturgbd"),
    "character_order": _PERCEPTION,
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/video_fps3_hq_segment",),
    "counterfactual_inference": _CLEVRER,
}
"""Folders of each task's videos, the better ones first."""

_CUT = "_segment"  # ends the folders whose clips are cut to start and end already


def _read(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    place = 0
    for path in paths:
        task = path.stem
        for row in read_rows(path):
            options = checked_options(row, row.texts("candidates"))
            answer = letter_of(row, row.filled("answer"), options)
            name = PurePosixPath(row.filled("video")).with_suffix("").as_posix()
            turn = Turn(
                row.filled("question"), answer, f"{task}_{row.number - 1}", task.replace("_", " "), place, options
            )
            yield _about(task, name, _window(row), turn)
            place += 1


def _about(task: str, name: str, window: Span | None, turn: Turn) -> VideoQuestion:
    """Say which video a question is about: the whole clip, or a part of it where it lies there uncut."""
    folders = TASKS[task]
    video = f"{folders[-1]}/{name}" if window is None else f"{folders[-1]}/{name} {window[0]:g}-{window[1]:g} s"
    return VideoQuestion(video, turn, tuple(f"{folder}/{name}" for folder in folders), window=window, cut_in=_CUT)


def _window(row: Row) -> Span | None:
    if not row.has("start") or row.values["start"] is None:
        return None
    return window_of(row, [row.values["start"], row.values.get("end")])


_ORIGIN = "https://huggingface.co/datasets/OpenGVLab/MVBench"
SET = VideoSet(
    name="mvbench",
    kind="choice",
    sizes={"test": SplitSize(None, 4000)},
    files={"": named(rf"({'|'.join(TASKS)})\.json", "json/action_sequence.json and 19 more", several=True)},
    read=_read,
    origin=Origin(_ORIGIN, f"{_ORIGIN}/tree/video"),
    prompt=(
        "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
        "objects, and the action and pose of persons. Based on your observations, select the best option that "
        "accurately addresses the question.\nQuestion: {question}\nOptions:\n{options:(A) }\nOnly give the best option."
    ),
)
