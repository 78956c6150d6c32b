"""QVHighlights (Lei et al., arXiv:2107.09609) as temporal grounding: when does a sentence happen, once or more often.

    highlight_val_release.jsonl, highlight_train_release.jsonl, highlight_test_with_gt.jsonl
              rows: qid, query, vid, duration, relevant_windows: [[start, end]]
    clips     <vid>.mp4, vid being "<YouTube id>_<start>_<end>"

The first window that an answer names counts against the window that it fits best, as in standalone_eval/eval.py. Seen:
jayleicn/moment_detr on GitHub, all four files whole, from which the sizes are counted. The prompt is that of
lmms-eval's timelens tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from voco_video.data.files import read_rows
from voco_video.data.samples import SplitSize, Turn
from voco_video.data.sets.activitynet_captions import WHEN_PROMPT
from voco_video.data.spans import spans_text
from voco_video.data.video_sets import Origin, VideoQuestion, VideoSet, named, window_of


def _read(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    for row in read_rows(paths[0]):
        found = row.values.get("relevant_windows")
        if not isinstance(found, list) or not found:
            raise row.error(f"'relevant_windows' is {found!r:.80}; the test split needs highlight_test_with_gt.jsonl")
        windows = tuple(window_of(row, window) for window in found)
        video = row.filled("vid")
        turn = Turn(row.filled("query"), spans_text(windows), row.filled("qid"), row=row.number - 1, windows=windows)
        yield VideoQuestion(video, turn, (video,))


SET = VideoSet(
    name="qvhighlights",
    kind="grounding",
    sizes={"val": SplitSize(1519, 1550), "test": SplitSize(1529, 1542), "train": SplitSize(7100, 7218)},
    files={
        "test": named(r"highlight_test_with_gt\.jsonl", "highlight_test_with_gt.jsonl"),
        "": named(r"highlight_{split}_release\.jsonl", "highlight_{split}_release.jsonl"),
    },
    read=_read,
    origin=Origin(
        "https://github.com/jayleicn/moment_detr/tree/main/data",
        "https://nlp.cs.unc.edu/data/jielei/qvh/qvhilights_videos.tar.gz",
    ),
    prompt=WHEN_PROMPT,
)
