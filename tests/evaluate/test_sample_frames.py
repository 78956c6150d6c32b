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
from voco_video.scoring.basis import Basis, FramesSeen
from voco_video.scoring.predictions import Prediction
from voco_video.scoring.report.samples import SampleFrames


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
        Dataset("msvd", "test", (), samples), predictions, EvalOptions(**options), tmp_path / "out", basis=Basis()
    )
    assert list(frames) == ["good"]
    assert frames["good"].picture.startswith("frames/question-0-")
    assert frames["good"].text.startswith(said)
    assert [f"frames/{path.name}" for path in (tmp_path / "out/frames").iterdir()] == [frames["good"].picture]
    with Image.open(tmp_path / "out" / frames["good"].picture) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[1] == 4 * 160 + 3 * 4
    parts = [pixels[:, 164 * n : 164 * n + 160].std() > 10 for n in range(4)]
    assert sum(parts) == frames["good"].text.count("0:0"), "a frame for each time that is named"


def test_the_frames_that_a_question_saw_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Clip("good.mp4", num_frames=50, rate=10).write(tmp_path)
    turn = Turn("who?", "dog", "7", "who", 3)
    data = Dataset("msvd", "test", (), (Sample("good", (Media("video", "good", path),), (turn,)),))
    predictions = [replace(Prediction.unanswered("good", turn, status="answered"), prediction="dog")]

    def drawn(*times: float) -> SampleFrames:
        seen = FramesSeen("good", str(path), "ab" * 32, times, None, None, None, 8, "voco")
        basis = Basis({seen.view: seen}, {"7": seen.view})
        return draw_sample_frames(data, predictions, EvalOptions(num_frames=4), tmp_path, basis=basis)["7"]

    first = drawn(1.0, 2.0)
    assert first.text == "all of its frames: 0:01.00, 0:02.00"
    picture = tmp_path / first.picture
    before = picture.read_bytes()
    other = drawn(1.0, 3.0)
    assert other.picture != first.picture, "other frames have a picture of their own"
    for name in ("open_video", "probe", "read_frames"):
        monkeypatch.setattr(f"voco_video.evaluate.sample_frames.{name}", None)
    assert drawn(1.0, 2.0) == first
    assert picture.read_bytes() == before
