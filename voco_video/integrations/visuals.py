"""What evaluation harnesses show a model, brought into the frame cache: an image is a video of one frame."""

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

from voco_video.answer.generate import AnswerOptions, answer_questions
from voco_video.api import CompressedVideo, VideoModel, concat
from voco_video.compress import CompressOptions
from voco_video.errors import FILE_ERRORS, DataError, VideoError
from voco_video.evaluate.answer_likelihood import Ranker
from voco_video.model.compressors import check_compressor, parse_compressor
from voco_video.model.tokens import Prefix
from voco_video.video.sampling import Sampling

# What PIL raises for pictures that are damaged (SyntaxError for PNG) or absurdly large.
PICTURE_ERRORS = (*FILE_ERRORS, Image.DecompressionBombError, SyntaxError, struct.error)


@dataclass(frozen=True)
class Viewer:
    """A model with how it looks at what it is shown.

    Attributes:
        model: compresses and answers.
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
        check_compressor(
            self.model.voco,
            parse_compressor(self.compression.compressor),
            num_voco_tokens=self.num_voco_tokens,
            form=self.compression.form_for(self.model.voco),
        )

    def look(self, visuals: Sequence[Any]) -> View:
        """Compress what a question is about, or find it in the frame cache.

        Args:
            visuals: paths of videos or image files, and images as `PIL.Image.Image`, in the order they are seen in;
                none for a question that stands alone.

        Raises:
            DataError: something else among them, such as audio.
            VideoError: a file that is not there or cannot be decoded.
        """
        return View(self, tuple(self._compressed(visual) for visual in visuals))

    def _compressed(self, visual: Any) -> CompressedVideo:
        if isinstance(visual, Image.Image):
            return self._compressed_image(visual)
        if isinstance(visual, (str, Path)):
            return self._compressed_file(visual, self.sampling, self.compression)
        raise DataError(f"a {type(visual).__name__} cannot be looked at: videos come as paths, images as PIL images")

    def _compressed_image(self, image: Image.Image) -> CompressedVideo:
        """One frame, through the same decoder and scaler as a video's; equal pixels are one entry of the cache.

        Turned upright as its EXIF says, which is what the decoder does with files.
        """
        try:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        except (*PICTURE_ERRORS, ValueError) as error:
            raise VideoError(f"{getattr(image, 'filename', '') or 'an image'}: cannot be read ({error})") from error
        with tempfile.TemporaryDirectory(prefix="voco-video-") as folder:
            path = Path(folder) / "image.png"
            # Of the pixels alone: what else an image says of itself, such as its resolution, would change the frame.
            Image.fromarray(np.asarray(upright)).save(path, compress_level=1)
            return self._compressed_file(path, Sampling(num_frames=1), replace(self.compression, decoder="pyav"))

    def _compressed_file(self, path: str | Path, sampling: Sampling, options: CompressOptions) -> CompressedVideo:
        return self.model.compress(
            path,
            fps=sampling.fps,
            num_frames=sampling.num_frames,
            compressor=options.compressor,
            num_voco_tokens=options.num_voco_tokens,
            form=options.form,
            storage=options.storage,
            batch_size=options.batch_size,
            decoder=options.decoder,
        )


@dataclass(frozen=True)
class View:
    """Compressed videos and images that questions are about, one after the other.

    Attributes:
        viewer: what looked at them.
        parts: none where questions stand alone.
    """

    viewer: Viewer
    parts: tuple[CompressedVideo, ...]

    @cached_property
    def prefix(self) -> Prefix:
        """What questions attend to, assembled once."""
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
        """For each answer its mean negative log-likelihood per token, and whether it is what the model would say.

        The end of the answer counts as one of its tokens.

        Raises:
            ModelError: the chat template does not write an answer after a question as it stands.
            UsageError: the attention implementation takes no masks.
        """
        losses, is_greedy = Ranker.of(self.viewer.model.voco, answers).losses(self.prefix, question)
        return list(zip(losses.tolist(), is_greedy.tolist(), strict=True))
