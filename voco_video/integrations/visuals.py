"""Videos and images of evaluation harnesses, brought into the frame cache: an image is a video of one frame."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.generate import answer_questions
from voco_video.answer.several_videos import concat
from voco_video.api import VideoModel
from voco_video.auto_compressor import PlannedFrames, choose, planned_frames, settled
from voco_video.errors import FILE_ERRORS, DataError, VideoError
from voco_video.evaluate.answer_likelihood import Ranker
from voco_video.model.compressors import check_compressor
from voco_video.model.tokens import Prefix
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import AUTO, CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.video.reading import open_video

# What PIL raises for pictures that are damaged (SyntaxError for PNG) or absurdly large.
PICTURE_ERRORS = (*FILE_ERRORS, Image.DecompressionBombError, SyntaxError, struct.error)


@dataclass(frozen=True)
class Viewer:
    """A model with the options for what a harness shows it.

    Attributes:
        model: the model that compresses and answers.
        sampling: which frames of a video are seen.
        compression: how they are compressed.
        num_voco_tokens: budget k to answer from; all K when None.

    Raises:
        UsageError, ModelError: the model or the compressor has no k tokens.
    """

    model: VideoModel
    sampling: Sampling = Sampling()
    compression: CompressOptions = CompressOptions()
    num_voco_tokens: int | None = None

    def __post_init__(self) -> None:
        model = self.model.voco
        compressor = settled(model, self.compression.compressor, num_voco_tokens=self.num_voco_tokens)
        if compressor is not None:
            object.__setattr__(self, "compression", replace(self.compression, compressor=str(compressor)))
            form = model.form_of(compressor, self.compression.form)
            check_compressor(model, compressor, num_voco_tokens=self.num_voco_tokens, form=form)

    def look(self, visuals: Sequence[Any]) -> HarnessView:
        """Compress the videos and images that a question is about, or find them in the frame cache.

        Args:
            visuals: paths of videos or image files, and images as `PIL.Image.Image`, in the order they are seen in;
                none for a question that stands alone.

        Raises:
            DataError: something else among them, such as audio.
            VideoError: a file that is not there or cannot be decoded.
        """
        viewer = self if self.compression.compressor != AUTO or len(visuals) < 2 else self._for_all(visuals)
        return HarnessView(self, tuple(viewer.compressed(visual) for visual in visuals))

    def _for_all(self, visuals: Sequence[Any]) -> Viewer:
        """Choose one compressor with which all frames of all visuals fit, since they are joined."""
        each = [self._planned(visual) for visual in visuals]
        together = PlannedFrames(
            sum(one.num_frames for one in each),
            tuple({grid for one in each for grid in one.grids}),
            min(one.first_seconds for one in each),
            max(one.last_seconds for one in each),
        )
        compressor = choose(self.model.voco, self.compression, together).compressor
        return replace(self, compression=replace(self.compression, compressor=str(compressor)))

    def _planned(self, visual: Any) -> PlannedFrames:
        if not isinstance(visual, (str, Path)):
            fit = self.model.voco.backbone.images.fit_for(*visual.size)
            return PlannedFrames(1, (self.model.voco.backbone.grid_of(fit.height, fit.width),))
        with open_video(visual, backend=self.compression.decoder) as video:
            return planned_frames(self.model.voco, video, self.sampling, self.compression)

    def compressed(self, visual: Any) -> CompressedVideo:
        """Compress one video or image, or find it in the frame cache."""
        if isinstance(visual, Image.Image):
            return self._compressed_image(visual)
        if isinstance(visual, (str, Path)):
            return self._compressed_file(visual, self.sampling, self.compression)
        raise DataError(f"a {type(visual).__name__} cannot be shown: give videos as paths, images as PIL images")

    def _compressed_image(self, image: Image.Image) -> CompressedVideo:
        """Compress an image as one frame, with the decoder and scaler for videos; equal pixels share a cache entry.

        It is turned upright according to its EXIF data, as the decoder does with files.
        """
        try:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        except (*PICTURE_ERRORS, ValueError) as error:
            raise VideoError(f"{getattr(image, 'filename', '') or 'an image'}: cannot be read ({error})") from error
        with tempfile.TemporaryDirectory(prefix="voco-video-") as folder:
            path = Path(folder) / "image.png"
            # Only the pixels are saved: other data in an image, such as its resolution, would change the frame.
            Image.fromarray(np.asarray(upright)).save(path, compress_level=1)
            return self._compressed_file(path, Sampling(num_frames=1), replace(self.compression, decoder="pyav"))

    def _compressed_file(self, path: str | Path, sampling: Sampling, options: CompressOptions) -> CompressedVideo:
        return self.model.compress(path, fps=sampling.fps, num_frames=sampling.num_frames, **vars(options))


@dataclass(frozen=True)
class HarnessView:
    """Compressed videos and images that questions are about, one after the other.

    Attributes:
        viewer: the viewer that compressed them.
        parts: the videos and images; none for questions about neither.
    """

    viewer: Viewer
    parts: tuple[CompressedVideo, ...]

    @cached_property
    def prefix(self) -> Prefix:
        """The prefix that questions attend to, assembled once."""
        if not self.parts:
            return self.viewer.model.voco.empty_prefix()
        return concat(self.parts).prefix(num_voco_tokens=self.viewer.num_voco_tokens)

    def answers(self, questions: Sequence[str], *, options: AnswerOptions, batch_size: int) -> list[str]:
        """Answer questions, ``batch_size`` of them at a time, over one prefix.

        Raises:
            UsageError: an empty question.
        """
        texts = []
        for start in range(0, len(questions), batch_size):
            batch = questions[start : start + batch_size]
            answers = answer_questions(
                self.viewer.model.voco, self.prefix, batch, options=options, frame_pts_seconds=np.empty(0)
            )
            texts += [answer.text for answer in answers]
        return texts

    def losses(self, question: str, answers: Sequence[str]) -> list[tuple[float, bool]]:
        """Score each answer: its mean negative log-likelihood per token, and whether greedy decoding gives it.

        The end token counts as one of the answer's tokens.

        Raises:
            ModelError: the chat template does not write an answer unchanged after a question.
            UsageError: the attention implementation takes no masks.
        """
        losses, is_greedy = Ranker.of(self.viewer.model.voco, answers).losses(self.prefix, question)
        return list(zip(losses.tolist(), is_greedy.tolist(), strict=True))
