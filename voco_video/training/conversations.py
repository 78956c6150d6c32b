"""Training samples from files: conversations and question sets, with frames decoded or read from the frame cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from voco_video.backbone import Backbone
from voco_video.cache import CacheEntry, FrameCache
from voco_video.compress import CompressOptions, compress_video, read_tokens
from voco_video.data.datasets import load_dataset
from voco_video.data.samples import Media, Sample
from voco_video.errors import FILE_ERRORS, DataError, VideoError, VocoVideoError
from voco_video.model import VocoModel, VocoTokens
from voco_video.sampling import Sampling
from voco_video.training.batches import Kept, TrainingSample
from voco_video.training.config import TrainConfig
from voco_video.video import read_frames

logger = logging.getLogger(__name__)


def read_rows(config: TrainConfig) -> tuple[Sample, ...]:
    """The rows of a configuration's dataset; a video's questions come ``num_turns`` to a conversation.

    Raises:
        UsageError: no dataset of that name.
        DataError: its annotations cannot be read, or are in another layout.
    """
    dataset = load_dataset(
        config.dataset, config.media_dir or None, split="train", annotations=config.annotations or None
    )
    rows: list[Sample] = []
    for sample in dataset.samples:
        turns = sample.turns
        is_list_of_questions = bool(turns[0].question_id)
        size = config.num_turns if is_list_of_questions else len(turns)
        rows += [replace(sample, turns=turns[i : i + size]) for i in range(0, len(turns), size)]
    return tuple(rows)


class _SkipsBadRows:
    """Rows by index; one whose file is missing or broken gives its place to the next good one, counted and reported."""

    def __init__(self, rows: Sequence[Sample], max_bad_samples: int) -> None:
        self.rows = rows
        self.num_samples = len(rows)
        self.max_bad_samples = max_bad_samples
        self.bad: dict[int, str] = {}

    def sample(self, index: int) -> TrainingSample:
        """Row ``index``, or the next whose file can be read.

        Raises:
            DataError: more rows than ``max_bad_samples`` are bad.
        """
        for tried in range(index, index + self.num_samples):
            number = tried % self.num_samples
            if number in self.bad:
                continue
            try:
                return self._read(self.rows[number])
            except (VocoVideoError, *FILE_ERRORS) as error:
                self.note_bad(number, error)
        raise DataError("no row has a file that can be read; `voco-video data check` lists what is missing")

    def note_bad(self, number: int, error: Exception) -> None:
        """Count a bad row and report it."""
        self.bad[number] = str(error)
        logger.warning("row %d is skipped (%d so far): %s", number, len(self.bad), error)
        if len(self.bad) > self.max_bad_samples:
            raise DataError(
                f"{len(self.bad)} rows have missing or broken files, more than max_bad_samples={self.max_bad_samples}; "
                f"the last: {error}. `voco-video data check` lists what is missing"
            )

    def _read(self, row: Sample) -> TrainingSample:
        raise NotImplementedError


def _existing(media: Media) -> Path:
    if media.path is None:
        raise VideoError(f"{media.name}: no such file")
    return media.path


class Conversations(_SkipsBadRows):
    """Rows with their frames decoded: one for an image, ``num_frames`` spread evenly for a video."""

    def __init__(self, rows: Sequence[Sample], config: TrainConfig, backbone: Backbone) -> None:
        super().__init__(rows, config.max_bad_samples)
        self.num_frames = config.num_frames
        self.fit = backbone.images.fit

    def _read(self, row: Sample) -> TrainingSample:
        frames = [np.zeros((0, self.fit.height, self.fit.width, 3), np.uint8)]
        for media in row.media:
            sampling = Sampling(num_frames=self.num_frames if media.kind == "video" else 1)
            frames.append(read_frames(_existing(media), sampling, fit=self.fit).pixels)
        return TrainingSample(turns=row.turns, frames=np.concatenate(frames))


class CachedConversations(_SkipsBadRows):
    """Rows about videos whose tokens are read from the frame cache; no video is opened.

    Args:
        entries: what the cache holds of each file.
    """

    def __init__(self, rows: Sequence[Sample], entries: dict[tuple[Path, Kept], CacheEntry], max_bad: int) -> None:
        super().__init__(rows, max_bad)
        self.entries = entries

    @classmethod
    def compress(cls, rows: Sequence[Sample], model: VocoModel, config: TrainConfig) -> CachedConversations:
        """Find every row's files in the frame cache, and compress those that are not there yet."""
        cache, fingerprint = FrameCache(config.cache_dir or None), model.fingerprint()
        dataset = cls(rows, {}, config.max_bad_samples)
        kinds: tuple[Kept, ...] = (*config.forms, *(("full",) if config.full_visibility_fraction else ()))
        for number, row in enumerate(rows):
            for media, kept in product(row.media, kinds):
                if (media.path, kept) in dataset.entries:
                    continue
                try:
                    dataset.entries[_existing(media), kept] = compress_video(
                        model,
                        _existing(media),
                        cache=cache,
                        sampling=Sampling(num_frames=config.num_frames if media.kind == "video" else 1),
                        options=options_for(kept),
                        fingerprint=fingerprint,
                    ).entry
                except FILE_ERRORS as error:
                    dataset.note_bad(number, error)
                    break
        return dataset

    def _read(self, row: Sample) -> TrainingSample:
        if not row.media:
            raise DataError("a row without a video cannot come from the frame cache")
        paths = tuple(map(_existing, row.media))
        return TrainingSample(turns=row.turns, read_tokens=partial(self._read_tokens, paths))

    def _read_tokens(self, paths: tuple[Path, ...], kept: Kept) -> VocoTokens:
        return VocoTokens.cat([read_tokens(self.entries[path, kept]) for path in paths])


def options_for(kept: Kept) -> CompressOptions:
    """How a video is compressed so that the cache holds what a run wants to read."""
    return CompressOptions(compressor="full", form="kv") if kept == "full" else CompressOptions(form=kept)
