"""LongVideoBench (Wu et al., arXiv:2407.15754): multiple choice on videos with their subtitles.

    lvb_val.json, lvb_test_wo_gt.json   rows: id, video_path, subtitle_path, question, candidates, correct_choice (a
                                        place; not in test), duration_group, question_category,
                                        starting_timestamp_for_subtitles
    validation-*.parquet, test-*.parquet  the same with option0 to option4, "N/A" where there are fewer
    clips                               <video_path>, below videos/; subtitles below subtitles/

Seen: longvideobench/LongVideoBench on GitHub (README.md, longvideobench_dataset.py), the fields and sizes in the card
of the data set LongVideoBench-Meta, a row of lvb_val.json as others quote it, lmms-eval's task. The prompt is that of
longvideobench_dataset.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from voco_video.data.files import Row, read_rows
from voco_video.data.samples import SplitSize, Turn
from voco_video.data.video_sets import Origin, VideoQuestion, VideoSet, checked_options, letter_at, named


def _read(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    for row in read_rows(paths[0]):
        options = checked_options(row, _options(row))
        # The test split's answers are not public; its parquet says -1.
        answer = letter_at(row, row.text("correct_choice"), options) if split == "val" else ""
        video = Path(row.filled("video_path")).stem
        length = f"up to {row.filled('duration_group')} s"
        kind = row.filled("question_category")
        turn = Turn(row.filled("question"), answer, row.filled("id"), kind, row.number - 1, options, length)
        said, start = f"subtitles/{row.filled('subtitle_path')}", row.number_of("starting_timestamp_for_subtitles")
        yield VideoQuestion(video, turn, (video,), subtitles=said, subtitles_start_seconds=start)


def _options(row: Row) -> tuple[str, ...]:
    if row.has("candidates"):
        return row.texts("candidates")
    found = (row.filled(f"option{place}") for place in range(5))
    return tuple(option for option in found if option != "N/A")


_ORIGIN = "https://huggingface.co/datasets/longvideobench/LongVideoBench"
SET = VideoSet(
    name="longvideobench",
    kind="choice",
    sizes={"val": SplitSize(None, 1337), "test": SplitSize(None, 5341)},
    files={
        "val": named(r"lvb_val\.json|validation-\d+-of-\d+\.parquet", "lvb_val.json, validation-*.parquet"),
        "test": named(r"lvb_test_wo_gt\.json|test-\d+-of-\d+\.parquet", "lvb_test_wo_gt.json"),
    },
    read=_read,
    origin=Origin(_ORIGIN, _ORIGIN),
    prompt="Question: {question}\n{options}\nAnswer with the option's letter from the given choices directly.",
)
