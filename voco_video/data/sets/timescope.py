"""TimeScope (Zohar et al., 2025): short clips hidden in videos of a minute to eight hours, multiple choice.

    test-00000-of-00001.parquet  rows: id, video (a path), length (seconds), type ("QA", "OCR", "temporal"), input (the
                                 whole prompt: an instruction, "Question: ...", lines "A: ..."), answer (a letter)
    clips                        <video>

Seen: lmms-eval's tasks timescope and longtimescope, which name these fields and ask `input` as it is; the form of an
input as a blog post quotes one (simonwillison.net, 2025-07-23). The parquet itself could not be read, and no count of
its rows was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from voco_video.data.choices import split_options
from voco_video.data.files import read_rows
from voco_video.data.samples import SplitSize, Turn
from voco_video.data.video_sets import Origin, VideoQuestion, VideoSet, checked_letter, checked_options, named


def _read(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    for row in read_rows(paths[0]):
        question, options = split_options(row.filled("input"))
        answer = checked_letter(row, row.filled("answer"), checked_options(row, options))
        video, length = Path(row.filled("video")).stem, f"{row.filled('length')} s"
        turn = Turn(question, answer, row.filled("id"), row.filled("type"), row.number - 1, options, length)
        yield VideoQuestion(video, turn, (video,))


_ORIGIN = "https://huggingface.co/datasets/Apollo-LMMs/TimeScope"
SET = VideoSet(
    name="timescope",
    kind="choice",
    sizes={"test": SplitSize(None, None)},
    files={"": named(r"test-\d+-of-\d+\.parquet|timescope\.jsonl?", "test-00000-of-00001.parquet")},
    read=_read,
    origin=Origin(_ORIGIN, _ORIGIN),
    prompt="{question}\n{options:A: }",
)
