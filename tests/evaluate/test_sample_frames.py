"""Frames of the questions that a report shows come from their videos; one that cannot be read costs itself alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.clips import Clip
from voco_video.data.samples import Dataset, Media, Sample, Turn
from voco_video.evaluate.options import EvalOptions
from voco_video.evaluate.sample_frames import draw_sample_frames
from voco_video.scoring.predictions import Prediction


@pytest.mark.parametrize(("options", "said"), [({"num_frames": 3}, "all of its frames: "), ({}, "4 of its 5 frames: ")])
def test_frames_are_those_that_were_sampled(tmp_path: Path, options: dict, said: str) -> None:
    good = Clip("good.mp4", num_frames=50, rate=10).write(tmp_path)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    paths = {"good": good, "bad": bad, "missing": None, "unanswered": good}
    turns = {name: Turn("who?", "dog", name, "who", row) for row, name in enumerate(paths)}
    samples = tuple(Sample(name, (Media("video", name, path),), (turns[name],)) for name, path in paths.items())
    predictions = [replace(Prediction.unanswered(name, turn, status="missing")) for name, turn in turns.items()]
    predictions = [
        p if p.video == "unanswered" else replace(p, prediction="dog", status="answered") for p in predictions
    ]
    frames = draw_sample_frames(
        Dataset("msvd", "test", (), samples), predictions, EvalOptions(**options), tmp_path / "out"
    )
    assert list(frames) == ["good"]
    assert frames["good"].picture == "frames/question-0.jpg"
    assert frames["good"].text.startswith(said)
    assert [path.name for path in (tmp_path / "out/frames").iterdir()] == ["question-0.jpg"]
    with Image.open(tmp_path / "out" / frames["good"].picture) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[1] == 4 * 160 + 3 * 4
    parts = [pixels[:, 164 * n : 164 * n + 160].std() > 10 for n in range(4)]
    assert sum(parts) == frames["good"].text.count("0:0"), "a frame for each time that is named"
