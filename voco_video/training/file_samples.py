"""Training samples from files: conversations and question sets, with frames decoded or read from the frame cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np

from voco_video.cache import CacheEntry, FrameCache
from voco_video.compress import compress_video
from voco_video.data.registry import load_dataset
from voco_video.data.samples import Media, Sample
from voco_video.data.turns import check_turns, encode_turns
from voco_video.errors import FILE_ERRORS, DataError, UsageError, VideoError, VocoVideoError
from voco_video.model.backbone import Backbone
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.stored_tokens import read_tokens
from voco_video.training.batches import TokenKind, TrainingSample
from voco_video.training.config import TrainConfig
from voco_video.video.reading import open_video

logger = logging.getLogger(__name__)


def read_rows(config: TrainConfig) -> tuple[Sample, ...]:
    """Read the rows of a configuration's dataset; a set's questions on a video are split into ``num_turns`` a row.

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
    """Rows by index; a bad row is logged, counted, and replaced by the next good one.

    A row is bad if its file is missing or broken, if it has too many tokens, or if the chat template refuses it. What
    can be found without opening files is found at the start; the rest when the row is read.
    """

    def __init__(self, rows: Sequence[Sample], config: TrainConfig, backbone: Backbone) -> None:
        self.rows = rows
        self.num_samples = len(rows)
        self.max_bad_samples = config.max_bad_samples
        self.max_length = config.max_length
        self.backbone = backbone
        self.bad: dict[int, str] = {}
        for number, row in enumerate(rows):
            if reason := self._why_bad(row):
                self._note(number, reason)

    def _why_bad(self, row: Sample) -> str:
        """Say what is wrong with a row, without opening its files; "" if nothing is."""
        try:
            for media in row.media:
                _existing(media)
            has_frames = bool(row.media)
            check_turns(self.backbone, row.turns, max_length=self.max_length, system=row.system, has_frames=has_frames)
        except VocoVideoError as error:
            return str(error)
        return ""

    def sample(self, index: int) -> TrainingSample:
        """Read row ``index``, or the next that is not bad.

        Raises:
            DataError: more rows than ``max_bad_samples`` are bad.
        """
        self.check_limit()
        for candidate in range(index, index + self.num_samples):
            number = candidate % self.num_samples
            if number in self.bad:
                continue
            row = self.rows[number]
            try:
                encoded = encode_turns(
                    self.backbone,
                    row.turns,
                    max_length=self.max_length,
                    system=row.system,
                    has_frames=bool(row.media),
                )
                return replace(self._read(row), system=row.system, encoded=encoded)
            except (VocoVideoError, *FILE_ERRORS) as error:
                self.note_bad(number, error)
        raise DataError(
            f"all {self.num_samples} rows are bad; the last: {list(self.bad.values())[-1]}. `voco-video data check` "
            "lists what is wrong"
        )

    def note_bad(self, number: int, error: Exception) -> None:
        """Count a bad row, and log it.

        Raises:
            DataError: there are too many.
        """
        # The message of an unexpected error may say little, so its type is named too.
        is_known = isinstance(error, (VocoVideoError, OSError))
        self._note(number, str(error) if is_known else f"{type(error).__name__}: {error}")
        self.check_limit()

    def _note(self, number: int, reason: str) -> None:
        self.bad[number] = f"row {self._place(number)}: {reason}"
        if len(self.bad) <= self.max_bad_samples:
            logger.warning("%s; it is skipped (%d so far)", self.bad[number], len(self.bad))

    def _place(self, number: int) -> str:
        """Name a row by its place in the annotations, from 1, and its name."""
        row = self.rows[number]
        return f"{row.turns[0].row + 1} ({row.name})"

    def check_limit(self) -> None:
        """Stop if more rows are bad than ``max_bad_samples``.

        Raises:
            DataError: there are too many.
        """
        if len(self.bad) > self.max_bad_samples:
            raise DataError(
                f"{len(self.bad)} of {self.num_samples} rows are bad, more than max_bad_samples="
                f"{self.max_bad_samples}; the last: {list(self.bad.values())[-1]}. `voco-video data check` lists them"
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
        super().__init__(rows, config, backbone)
        self.num_frames = config.num_frames
        self.images = backbone.images

    def _read(self, row: Sample) -> TrainingSample:
        fit, batches, seconds = None, [], 0.0
        for media in row.media:
            sampling = Sampling(num_frames=self.num_frames if media.kind == "video" else 1)
            with open_video(_existing(media)) as video:
                fit = fit or self.images.fit_for(video.info.width, video.info.height)  # one size for all of a row
                batches.append(video.read(sampling, fit=fit))
                seconds = max(seconds, video.info.duration_seconds)
        fit = fit or self.images.fit
        return TrainingSample(
            turns=row.turns,
            frames=np.concatenate([np.zeros((0, fit.height, fit.width, 3), np.uint8), *(b.pixels for b in batches)]),
            pts_seconds=np.concatenate([np.empty(0), *(b.pts_seconds for b in batches)]),
            duration_seconds=seconds if batches else None,
        )


class CachedConversations(_SkipsBadRows):
    """Rows about videos whose tokens are read from the frame cache; no video is opened.

    Args:
        entries: the cache's entries, by file and kind of tokens.
    """

    def __init__(
        self,
        rows: Sequence[Sample],
        config: TrainConfig,
        backbone: Backbone,
        entries: dict[tuple[Path, TokenKind], CacheEntry],
    ) -> None:
        super().__init__(rows, config, backbone)
        self.entries = entries

    @classmethod
    def compress(cls, rows: Sequence[Sample], model: VocoModel, config: TrainConfig) -> CachedConversations:
        """Find every row's files in the frame cache, and compress those that are not in it."""
        cache, fingerprint = FrameCache(config.cache_dir or None), model.fingerprint()
        dataset = cls(rows, config, model.backbone, {})
        dataset.check_limit()
        kinds: tuple[TokenKind, ...] = (*config.forms, *(("full",) if config.full_visibility_fraction else ()))
        broken: dict[Path, Exception] = {}
        for number, row in enumerate(rows):
            if number in dataset.bad:
                continue
            for media, kind in product(row.media, kinds):
                path = _existing(media)
                if path not in broken and (path, kind) not in dataset.entries:
                    try:
                        dataset.entries[path, kind] = compress_video(
                            model,
                            path,
                            cache=cache,
                            sampling=Sampling(num_frames=config.num_frames if media.kind == "video" else 1),
                            options=options_for(kind),
                            fingerprint=fingerprint,
                        ).entry
                    except (*FILE_ERRORS, UsageError) as error:
                        broken[path] = error
                if path in broken:
                    dataset.note_bad(number, broken[path])
                    break
        return dataset

    def _why_bad(self, row: Sample) -> str:
        return super()._why_bad(row) if row.media else "a row without a video cannot come from the frame cache"

    def _read(self, row: Sample) -> TrainingSample:
        paths = tuple(map(_existing, row.media))
        kinds = get_args(TokenKind)  # an entry of any kind has the times of the frames
        entries = [next(self.entries[path, k] for k in kinds if (path, k) in self.entries) for path in paths]
        ends = [entry.facts.get("video", {}).get("duration_seconds") for entry in entries]
        return TrainingSample(
            turns=row.turns,
            read_tokens=partial(self._read_tokens, paths),
            pts_seconds=np.concatenate([entry.pts_seconds for entry in entries]),
            duration_seconds=max(ends) if all(isinstance(end, (int, float)) for end in ends) else None,
        )

    def _read_tokens(self, paths: tuple[Path, ...], kind: TokenKind) -> VocoTokens:
        return VocoTokens.cat([read_tokens(self.entries[path, kind]) for path in paths])


def options_for(kind: TokenKind) -> CompressOptions:
    """Return the options for compressing a video to a kind of tokens."""
    return CompressOptions(compressor="full") if kind == "full" else CompressOptions(compressor="voco", form=kind)
