"""Frames of the questions that a report shows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from voco_video.answer.moments import format_seconds
from voco_video.answer.pictures import frame_row, thumbnail_fit
from voco_video.data.samples import Dataset
from voco_video.errors import FILE_ERRORS, UsageError, with_name
from voco_video.evaluate.options import EvalOptions
from voco_video.options.sampling import Sampling
from voco_video.scoring.predictions import Prediction
from voco_video.scoring.report.samples import SampleFrames, sample_predictions
from voco_video.video.reading import open_video, read_frames

log = logging.getLogger(__name__)

NUM_FRAMES = 4
FOLDER = "frames"


def draw_sample_frames(
    dataset: Dataset, predictions: Sequence[Prediction], options: EvalOptions, out: Path
) -> dict[str, SampleFrames]:
    """Draw a few of the sampled frames of each question that a report shows.

    Args:
        predictions: all of the run.
        out: the folder of the run; pictures go to its folder ``frames``.

    Returns:
        By question id; a question whose video cannot be read has no entry.
    """
    media = {sample.name: sample.media[0] for sample in dataset.samples}
    frames = {}
    for one in sample_predictions(predictions):
        if one.video not in media or (path := media[one.video].path) is None or one.prediction is None:
            continue
        start, end = media[one.video].window or (None, None)
        sampling = replace(options.sampling, start_seconds=start, end_seconds=end)
        target = out / FOLDER / f"question-{one.row}.jpg"
        try:
            frames[one.question_id] = SampleFrames(f"{FOLDER}/{target.name}", _draw(path, sampling, options, target))
        except (*FILE_ERRORS, UsageError) as error:
            log.warning("no frames of %s in the report: %s", one.video, with_name(error, path))
    return frames


def _draw(path: Path, sampling: Sampling, options: EvalOptions, target: Path) -> str:
    """Draw frames of one video, and say which they are."""
    with open_video(path) as opened:
        pts = opened.plan(sampling)
        fit = thumbnail_fit(opened.info)
    shown = pts[np.linspace(0, len(pts) - 1, min(NUM_FRAMES, len(pts))).round().astype(int)]
    frames = read_frames(path, Sampling(timestamps=tuple(map(float, shown))), fit=fit, backend=options.decoder)
    target.parent.mkdir(parents=True, exist_ok=True)
    frame_row(frames, num_columns=NUM_FRAMES).save(target, quality=85)
    which = "all of its frames" if len(shown) == len(pts) else f"{len(shown)} of its {len(pts)} frames"
    return f"{which}: {', '.join(format_seconds(t) for t in shown)}"
