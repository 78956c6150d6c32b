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
from voco_video.files.atomic_write import written_aside
from voco_video.options.sampling import Sampling
from voco_video.scoring.basis import Basis, digest_of
from voco_video.scoring.predictions import Prediction
from voco_video.scoring.report.samples import SampleFrames, sample_predictions
from voco_video.video.reading import open_video, probe, read_frames

log = logging.getLogger(__name__)

NUM_FRAMES = 4
FOLDER = "frames"


def draw_sample_frames(
    dataset: Dataset, predictions: Sequence[Prediction], options: EvalOptions, out: Path, *, basis: Basis
) -> dict[str, SampleFrames]:
    """Draw a few of the frames of each question that a report shows.

    A picture that is there already is kept: its name tells the frames. So nothing is decoded for a report that is
    written again.

    Args:
        predictions: all of the run.
        out: the folder of the run; pictures go to its folder ``frames``.
        basis: of the predictions; where it does not know a question's frames, the sampled ones are drawn.

    Returns:
        By question id; a question whose video cannot be read has no entry.
    """
    media = {sample.name: sample.media[0] for sample in dataset.samples}
    frames = {}
    for one in sample_predictions(predictions):
        if one.video not in media or (path := media[one.video].path) is None or one.prediction is None:
            continue
        seen = basis.seen_by(one.question_id)
        start, end = media[one.video].window or (None, None)
        sampling = replace(options.sampling, start_seconds=start, end_seconds=end)
        try:
            times = np.array(seen.times) if seen is not None and seen.times else _planned(path, sampling)
            shown = times[np.linspace(0, len(times) - 1, min(NUM_FRAMES, len(times))).round().astype(int)]
            name = digest_of([digest_of(str(path)) if seen is None else seen.file, shown.tolist()])
            target = out / FOLDER / f"question-{one.row}-{name[:8]}.jpg"
            if not target.is_file():
                _draw(path, shown, options, target)
            frames[one.question_id] = SampleFrames(f"{FOLDER}/{target.name}", _said(times, shown))
        except (*FILE_ERRORS, UsageError) as error:
            log.warning("no frames of %s in the report: %s", one.video, with_name(error, path))
    return frames


def _planned(path: Path, sampling: Sampling) -> np.ndarray:
    """Return the times of the frames that a sampling takes of a video, float64 ``[F]``."""
    with open_video(path) as opened:
        return opened.plan(sampling)


def _draw(path: Path, pts_seconds: np.ndarray, options: EvalOptions, target: Path) -> None:
    """Draw frames of one video."""
    sampling = Sampling(timestamps=tuple(map(float, pts_seconds)))
    frames = read_frames(path, sampling, fit=thumbnail_fit(probe(path)), backend=options.decoder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(target) as aside:
        frame_row(frames, num_columns=NUM_FRAMES).save(aside, quality=85)


def _said(times: np.ndarray, shown: np.ndarray) -> str:
    """Say which frames are drawn."""
    which = "all of its frames" if len(shown) == len(times) else f"{len(shown)} of its {len(times)} frames"
    return f"{which}: {', '.join(format_seconds(float(t)) for t in shown)}"
