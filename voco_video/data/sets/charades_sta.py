"""Charades-STA (Gao et al., arXiv:1705.02101): when does a sentence happen in a video of half a minute.

    charades_sta_train.txt, charades_sta_test.txt   lines "3MSZA 24.3 30.4##person turn a light on."
    clips                                           <video>.mp4 (Charades_v1_480)

Seen: jiyanggao/TALL on GitHub (README.md), lines of the test file in many repositories. The sizes are those of papers.
The prompt is that of lmms-eval's charades.yaml, with one full stop after the sentence instead of two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from voco_video.data.files import Row, read_lines
from voco_video.data.samples import SplitSize, Turn
from voco_video.data.spans import ordered, spans_text
from voco_video.data.video_sets import Origin, VideoQuestion, VideoSet, named

_LINE = re.compile(r"(\S+)\s+(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s*##\s*(\S.*)")


def _read(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    for number, line in enumerate(read_lines(paths[0]), start=1):
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise Row(paths[0], number, {}).error(f'is {line!r:.80}, but has to be "VIDEO START END##SENTENCE"')
        video, start, end, sentence = found.groups()
        windows = (ordered([float(start), float(end)]),)
        turn = Turn(sentence, spans_text(windows), f"{video}_{number - 1}", row=number - 1, windows=windows)
        yield VideoQuestion(video, turn, (video,))


SET = VideoSet(
    name="charades-sta",
    kind="grounding",
    sizes={"test": SplitSize(1334, 3720), "train": SplitSize(5338, 12408)},
    files={"": named(r"charades_sta_{split}\.txt", "charades_sta_{split}.txt")},
    read=_read,
    origin=Origin(
        "https://github.com/jiyanggao/TALL#charades-sta-anno-download", "https://prior.allenai.org/projects/charades"
    ),
    prompt=(
        "Please find the visual event described by a sentence in the video, determining its starting and ending times. "
        "The format should be: 'The event happens in the start time - end time'. For example, The event 'person turn a "
        "light on' happens in the 24.3 - 30.4 seonds. Now I will give you the textual sentence: {question} Please "
        "return its start time and end time."
    ),
)
