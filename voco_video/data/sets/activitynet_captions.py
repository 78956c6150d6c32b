"""ActivityNet Captions (Krishna et al., arXiv:1705.00754) as temporal grounding: when does a sentence happen.

    train.json, val_1.json, val_2.json   {"v_<id>": {duration, timestamps: [[start, end]], sentences}}
    clips                                v_<id>.mp4, .mkv or .webm

The splits are those of grounding papers since 2D-TAN (Zhang et al., arXiv:1912.03590): val is val_1, test is val_2.
They also give the sizes. Seen: those names and fields in many loaders; the files themselves could not be read. The
prompt is that of lmms-eval's timelens tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from voco_video.data.files import Row, named_values
from voco_video.data.samples import SplitSize, Turn
from voco_video.data.spans import spans_text
from voco_video.data.video_sets import Origin, VideoQuestion, VideoSet, named, window_of

WHEN_PROMPT = (
    "Please find the visual event described by the sentence '{question}', determining its starting and ending times. "
    "The format should be: 'The event happens in <start time> - <end time> seconds'."
)


def _read(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    place = 0
    for number, (name, values) in enumerate(named_values(paths[0]).items(), start=1):
        row = Row(paths[0], number, values if isinstance(values, dict) else {})
        video, sentences, times = name.removeprefix("v_"), row.texts("sentences"), row.values.get("timestamps")
        if not isinstance(times, list) or len(times) != len(sentences):
            raise row.error(f"{name} has {len(sentences)} sentences, but 'timestamps' is {times!r:.80}")
        for n, (sentence, time) in enumerate(zip(sentences, times, strict=True)):
            windows = (window_of(row, time),)
            turn = Turn(sentence, spans_text(windows), f"{name}_{n}", row=place, windows=windows)
            yield VideoQuestion(video, turn, (video,))
            place += 1


SET = VideoSet(
    name="activitynet-captions",
    kind="grounding",
    sizes={"test": SplitSize(4885, 17031), "val": SplitSize(4917, 17505), "train": SplitSize(10009, 37421)},
    files={
        "test": named(r"val_2\.json", "val_2.json"),
        "val": named(r"val_1\.json", "val_1.json"),
        "train": named(r"train\.json", "train.json"),
    },
    read=_read,
    origin=Origin("https://cs.stanford.edu/people/ranjaykrishna/densevid/", "http://activity-net.org/download.html"),
    prompt=WHEN_PROMPT,
)
