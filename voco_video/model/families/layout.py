"""Where frames and words stand in a conversation: as a model was trained, or frames before all words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Variant = Literal["released", "library"]


@dataclass(frozen=True)
class AsTrained:
    """What a layout as trained fixes for all conversations.

    Attributes:
        num_context_ids: how many of `PromptTemplate.frame_before_ids` open the conversation. A frame is compressed
            behind these, and they are read once in front of all frames.
        pictures_per_frame: pictures of a video that become one frame of vision tokens: 2 where the tower merges pairs.
        variant: ``"released"`` as the model was trained; ``"library"`` as the installed library writes it, where the
            two differ (`Family.variants`).
    """

    num_context_ids: int
    pictures_per_frame: int = 1
    variant: Variant = "released"


@dataclass(frozen=True, repr=False)
class PromptTemplate:
    """The fixed token ids around a frame's vision tokens and before the text.

    A frame is compressed as ``[frame_before_ids] vision tokens [frame_after_ids] VoCo tokens``.

    Attributes:
        frame_before_ids, frame_after_ids: see above.
        text_before_ids: with frames first, what stands between the last frame and the conversation.
        as_trained: frames stand inside the first question, as the model's chat template and processor have it. None:
            frames first, then the whole conversation; so are models that were trained with that.
        text_joins: whether text is tokenized as it stands behind a frame, or by itself, where many tokenizers begin
            with a blank. None: behind a frame if ``as_trained``.
    """

    frame_before_ids: tuple[int, ...]
    frame_after_ids: tuple[int, ...]
    text_before_ids: tuple[int, ...] = ()
    as_trained: AsTrained | None = None
    text_joins: bool | None = None

    @property
    def joins_text(self) -> bool:
        """Whether text is tokenized as it stands behind a frame."""
        return self.as_trained is not None if self.text_joins is None else self.text_joins

    @property
    def context_ids(self) -> tuple[int, ...]:
        """The token ids before a frame that open the conversation; none with frames first."""
        return self.frame_before_ids[: self.as_trained.num_context_ids] if self.as_trained else ()

    @property
    def pictures_per_frame(self) -> int:
        """Pictures of a video that become one frame of vision tokens."""
        return self.as_trained.pictures_per_frame if self.as_trained else 1

    def vision_slice(self, num_kept: int) -> slice:
        """Return where the vision tokens stand in what is kept of a frame with the tokens right around them."""
        return slice(len(self.frame_before_ids) - len(self.context_ids), num_kept - len(self.frame_after_ids))

    def describe(self) -> dict[str, Any]:
        """Return it as plain JSON values; what is None is left out, as in old files and keys."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __repr__(self) -> str:
        # Part of fingerprints, so a layout with frames first has to look as it always did.
        return f"PromptTemplate({', '.join(f'{name}={value!r}' for name, value in self._shown())})"

    def _shown(self) -> list[tuple[str, Any]]:
        shown = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return [(name, value) for name, value in shown if value is not None]


@dataclass(frozen=True)
class FrameTimes:
    """When the frames of a video are seen.

    Attributes:
        pictures: float64 ``[F, P]``, seconds: the times of the P pictures that each frame was made of.
        duration_seconds: of the video that they come from.

    >>> FrameTimes.of(np.array([0.0, 2.0, 4.0])).duration_seconds
    6.0
    """

    pictures: npt.NDArray[np.float64]
    duration_seconds: float

    @staticmethod
    def of(seconds: npt.NDArray[np.floating], duration_seconds: float | None = None) -> FrameTimes:
        """Make them of ``[F]`` or ``[F, P]`` times; without a duration the last picture stays as long as the others."""
        pictures = np.asarray(seconds, np.float64)
        pictures = pictures[:, None] if pictures.ndim == 1 else pictures
        if duration_seconds is None:
            each = np.unique(pictures)
            usual = float(np.median(np.diff(each))) if len(each) > 1 else 1.0
            duration_seconds = float(each[-1]) + usual if len(each) else 0.0
        return FrameTimes(pictures, duration_seconds)

    @property
    def starts(self) -> npt.NDArray[np.float64]:
        """The time of each frame's first picture, ``[F]``."""
        return self.pictures[:, 0]

    @property
    def middles(self) -> npt.NDArray[np.float64]:
        """The time in the middle between each frame's first picture and its last, ``[F]``."""
        return (self.pictures[:, 0] + self.pictures[:, -1]) / 2

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True)
class FrameWords:
    """What a processor writes in place of a video's placeholder, but for the frames.

    Attributes:
        before: the text before each frame, and behind the one before it, ``[F]``.
        after: the text behind the last frame, the same for all videos.
        last: text before that which is not, and ends where a special token begins.
    """

    before: list[str]
    after: str = ""
    last: str = ""
