r"""LVBench (Wang et al., arXiv:2406.08035): multiple choice on videos of an hour or two.

    video_info.meta.jsonl  a row a video: key, type, qa: [{uid, question, answer, question_type, time_reference}]; a
                           question has its options in its text ("...?\n(A) 1636\n(B) 1366"), and one type or several
    clips                  <key>.mp4, key being a YouTube id

Seen: THUDM/LVBench on GitHub (README.md, lvbench/metrics/compute_accuracy.py, scripts/) and rows of the file as others'
tests and comments quote them; the file itself could not be read. The prompt is that of lmms-eval's lvbench.yaml; the
authors publish none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from voco_video.data.choices import split_options
from voco_video.data.files import read_rows
from voco_video.data.samples import BETWEEN_TYPES, SplitSize, Turn
from voco_video.data.video_sets import (
    Origin,
    VideoQuestion,
    VideoSet,
    checked_letter,
    checked_options,
    named,
    rows_in,
)


def _read(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    place = 0
    for video in read_rows(paths[0]):
        key = video.filled("key")
        for row in rows_in(video, "qa"):
            question, options = split_options(row.filled("question"))
            answer = checked_letter(row, row.filled("answer"), checked_options(row, options))
            types = BETWEEN_TYPES.join(row.texts("question_type"))
            turn = Turn(question, answer, row.filled("uid"), types, place, options)
            yield VideoQuestion(key, turn, (key,))
            place += 1


SET = VideoSet(
    name="lvbench",
    kind="choice",
    sizes={"test": SplitSize(103, 1549)},
    files={"": named(r"video_info\.meta\.jsonl", "video_info.meta.jsonl")},
    read=_read,
    origin=Origin("https://huggingface.co/datasets/THUDM/LVBench", "https://github.com/THUDM/LVBench#download"),
    prompt="{question}\n{options:(A) }\nAnswer the question with the option letter",
)
