"""A worker: a model, and what it does with one piece after the other. The same on every engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from voco_video.cluster.pieces import Job, Outcome, Piece
from voco_video.cluster.windows import UnfitWindowsError, check_unchanged, cut, join
from voco_video.errors import FILE_ERRORS, ModelError, VocoVideoError, with_name
from voco_video.files.urls import shown_name
from voco_video.library.manifest import VideoRow
from voco_video.options.sampling import Sampling
from voco_video.version import __version__

if TYPE_CHECKING:
    from voco_video.answer.compressed_video import CompressedVideo
    from voco_video.api import VideoModel
    from voco_video.cache import CacheEntry

log = logging.getLogger(__name__)


class Worker:
    """A model that compresses pieces; whatever goes wrong with one is its outcome.

    Args:
        device: that of the job when None.

    Raises:
        ModelError, UsageError: the model cannot be loaded.
    """

    def __init__(self, job: Job, *, device: str | None = None) -> None:
        import torch

        from voco_video.api import load_model

        torch.set_num_threads(job.num_threads)
        self._job = job
        load = asdict(job.load) | ({"device": device} if device else {})
        self._model: VideoModel = load_model(
            job.model, **load, cache_dir=job.cache_dir, max_cache_bytes=job.max_cache_bytes
        )
        _ = self._model.fingerprint  # a minute for a large model, which belongs to no video

    def run(self, piece: Piece) -> Outcome:
        """Do one piece."""
        try:
            return self._run(piece)
        except (VocoVideoError, *FILE_ERRORS) as error:
            return Outcome(
                error=with_name(error, shown_name(piece.row.uri)),
                may_pass=getattr(error, "may_pass", False),
                concerns_all=isinstance(error, ModelError),
            )
        except UnfitWindowsError:
            return Outcome(error=f"{shown_name(piece.row.uri)}: frames are missing, so its windows cannot be joined")
        except Exception as error:
            log.exception("%s", shown_name(piece.row.uri))
            return Outcome(error=f"{shown_name(piece.row.uri)}: {type(error).__name__}: {error}"[:1000])

    def _run(self, piece: Piece) -> Outcome:
        from voco_video.video.downloads import Downloads
        from voco_video.video.sources import local_video

        model, job = self._model, self._job
        if piece.cut is not None and piece.window is None:
            return self._joined(piece)
        sampling = _sampling_of(piece.row, job.sampling)
        with local_video(piece.row.uri, downloads=Downloads.beside(model.cache.cache_dir)) as local:
            if piece.cut is None and piece.may_cut:
                found = cut(model, local, sampling, job.options, job.window_seconds)
                if found is not None:
                    return Outcome(cut=found)
            if piece.cut is None:
                return Outcome(row=_row_of_video(piece, model.compress_with(local, sampling, job.options)))
            local = check_unchanged(local, piece.cut)
            video = model.compress_with(local, sampling, piece.cut.options, window=piece.window)
            return Outcome(stage_seconds=_stages(video))

    def _joined(self, piece: Piece) -> Outcome:
        assert piece.cut is not None
        started = time.perf_counter()
        entry, missing = join(self._model, piece.cut, _sampling_of(piece.row, self._job.sampling))
        if entry is None:
            return Outcome(missing=missing)
        seconds = time.perf_counter() - started
        row = replace(_row_of_entry(piece, entry), status="compressed", versions=_versions())
        return Outcome(row=replace(row, stage_seconds={"write": seconds, "total": seconds}))


def _sampling_of(row: VideoRow, sampling: Sampling) -> Sampling:
    """Return how frames of a row are sampled: a window of its own goes before that of all."""
    if row.start_seconds is None and row.end_seconds is None:
        return sampling
    return replace(sampling, start_seconds=row.start_seconds, end_seconds=row.end_seconds)


def _row_of_video(piece: Piece, video: CompressedVideo) -> VideoRow:
    row = _row_of_entry(piece, video.parts[0].entry)
    if video.from_cache:
        return replace(row, status="cached")
    return replace(row, status="compressed", versions=_versions(), stage_seconds=_stages(video))


def _row_of_entry(piece: Piece, entry: CacheEntry) -> VideoRow:
    facts: Mapping[str, Any] = entry.facts
    made_by = facts.get("voco_video_version")
    return replace(
        piece.row,
        entry=entry.digest,
        digest=entry.key.video_digest,
        num_frames=entry.num_frames,
        duration_seconds=facts.get("video", {}).get("duration_seconds"),
        size_bytes=entry.size_bytes,
        num_attempts=piece.num_attempts + 1,
        fingerprint=entry.key.model_fingerprint,
        versions=f"voco-video {made_by}" if made_by else "",
    )


def _stages(video: CompressedVideo) -> dict[str, float]:
    total = video.result.total_seconds if video.result else 0.0
    return {**asdict(video.stage_seconds), "total": total}


def _versions() -> str:
    """Return what computes here, as far as numbers depend on it."""
    return f"voco-video {__version__}, torch {version('torch')}, transformers {version('transformers')}"
