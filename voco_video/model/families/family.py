"""What a family of image-text models answers about itself: how frames become vision tokens, and where those stand.

Every frame is one picture of one fixed size, as each family reads the frames of a video: no tiles, no thumbnails.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_video.errors import ModelError, UsageError
from voco_video.model.families.layout import FrameTimes, FrameWords, PromptTemplate, Variant
from voco_video.video.scaling import Fit


@dataclass(frozen=True)
class AnyShape:
    """Pictures keep their shape, within limits.

    Attributes:
        cell: pixels along each side of a vision token; both sides of a picture are multiples of it.
        least_pixels, most_pixels: limits on a picture's area.
    """

    cell: int
    least_pixels: int
    most_pixels: int

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Choose height and width for a picture: each to the nearest cell, or its shape scaled to the nearest limit.

        Source: Qwen2-VL (arXiv:2409.12191), as its image processor computes it.

        >>> AnyShape(28, 3136, 252 * 784).size_of(1080, 1920), AnyShape(28, 3136, 252 * 784).size_of(1920, 1080)
        ((308, 588), (588, 308))
        """
        rows, columns = (round(side / self.cell) for side in (height, width))  # 0 is less than any limit
        area = rows * columns * self.cell**2
        if area > self.most_pixels:
            shrink = math.sqrt(height * width / self.most_pixels)
            rows, columns = (max(1, math.floor(side / shrink / self.cell)) for side in (height, width))
        elif area < self.least_pixels:
            grow = math.sqrt(self.least_pixels / (height * width))
            rows, columns = (math.ceil(side * grow / self.cell) for side in (height, width))
        longest = max(1, self.most_pixels // self.cell**2)  # a picture so narrow that one cell is too much already
        return min(rows, longest) * self.cell, min(columns, longest) * self.cell


@dataclass(frozen=True)
class ImageSettings:
    """How a frame becomes the vision tower's input: brought to a size, scaled to [0, 1], normalised per channel.

    Attributes:
        fit: the size; with ``any_shape`` the largest one.
        mean, std: of each channel.
        any_shape: pictures keep their shape; None: all have the size of ``fit``.
        detour: a square of so many pixels that frames are enlarged to before they get their size, which blurs them a
            little; None but for `SmolVLM`, where the library does so.

    Raises UsageError for a mean or a standard deviation that is not three numbers, those of the latter above 0.
    """

    fit: Fit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    any_shape: AnyShape | None = None
    detour: int | None = None

    def fit_for(self, width: int, height: int) -> Fit:
        """Return the size for the frames of a video of this size, in pixels as displayed."""
        if self.any_shape is None:
            return self.fit
        rows, columns = self.any_shape.size_of(height, width)
        return Fit(height=rows, width=columns, mode="stretch")

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(_is_small(value) for value in values):
                raise UsageError(f"image_{name} has to be three numbers, of brightness from 0 to 1, not {values!r}")
        if min(self.std) <= 0:
            raise UsageError(f"image_std has to be three numbers above 0, not {self.std!r}")

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain JSON values, for a cache key and a checkpoint; unset ones are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @staticmethod
    def from_description(settings: dict[str, Any]) -> ImageSettings:
        """Undo `describe`, after a round trip through JSON."""
        fit = settings["fit"] | {"pad_rgb": tuple(settings["fit"]["pad_rgb"])}
        any_shape = AnyShape(**settings["any_shape"]) if settings.get("any_shape") else None
        mean, std = tuple(settings["mean"]), tuple(settings["std"])
        return ImageSettings(Fit(**fit), mean, std, any_shape, settings.get("detour"))


class Family(ABC):
    """One family; the defaults suit a model whose frames have one fixed size and whose positions are plain.

    A family keeps nothing: every method is given the Hugging Face model or its configuration.

    Attributes:
        title: its name, for people.
        positions: how its decoder counts positions, for people.
        frame_before, frame_after: what its processor writes right around a picture's vision tokens, always the same.
        takes_pictures: whether its chat template is given a video's frames as pictures, having no place for a video.
        shares_place: whether frames without words between them stand at the same rows and columns, and differ in time.
        image_processor: the class that reads its ``preprocessor_config.json``.
        vision_tower, projector: names of these parts below the model's ``base_model``.
        needs_embeds: why frames cannot be kept in form ``kv``, only as embeddings; empty where they can.
        sees_ahead: whether a frame's vision tokens see all of each other, and not only those before them.
    """

    title: str
    positions = "1-D"
    frame_before = ""
    frame_after = ""
    takes_pictures = False
    shares_place = False
    image_processor = "CLIPImageProcessor"
    vision_tower = "vision_tower"
    projector = "multi_modal_projector"
    needs_embeds = ""
    sees_ahead = False

    def image_settings(self, processor: Any, config: Any) -> ImageSettings:
        """How frames are prepared.

        Args:
            processor: what ``AutoImageProcessor.from_pretrained`` returns.

        Raises:
            ModelError: the processor asks for something that is not supported, named in the message.
        """
        return image_settings(processor)

    def for_videos(self, images: ImageSettings, settings: dict[str, Any]) -> ImageSettings:
        """Return the settings with what the video processor's say, where they differ for videos.

        Args:
            settings: ``video_preprocessor_config.json``, or the same inside ``processor_config.json``.

        Raises:
            UsageError: a mean or a standard deviation that is none.
        """
        mean, std = (settings.get(f"image_{name}") or getattr(images, name) for name in ("mean", "std"))
        return replace(images, mean=tuple(mean), std=tuple(std))

    def as_library(self, images: ImageSettings, processor: Any) -> ImageSettings:
        """Return the settings that follow the installed library where it differs from what the model was trained on."""
        return images

    def processor_settings(self, images: ImageSettings, config: Any) -> dict[str, Any]:
        """Undo `image_settings`: return what goes into a checkpoint's ``preprocessor_config.json``."""
        return {
            "image_processor_type": self.image_processor,
            "do_resize": True,
            "size": {"height": images.fit.height, "width": images.fit.width},
            "do_rescale": True,
            "do_normalize": True,
            "image_mean": list(images.mean),
            "image_std": list(images.std),
            "resample": 3,
        }

    # ------------------------------------------------------------------ words

    def template(self, config: Any) -> PromptTemplate:
        """Return the layout of a checkpoint that cannot write conversations: frames first, behind the first token."""
        bos = config.get_text_config(decoder=True).bos_token_id
        return PromptTemplate(() if bos is None else (bos,), ())

    def vision_token_id(self, config: Any) -> int:
        """Return the token id that stands for a frame's vision tokens in a prompt."""
        token_id: int = config.image_token_id
        return token_id

    def placeholder(self, config: Any, tokenizer: Any) -> str:
        """Return what the chat template writes for a video, or for a picture where `takes_pictures`."""
        return "<image>" if self.takes_pictures else "<video>"

    def video_chat_template(self) -> str | None:
        """Return the chat template that stands in for the checkpoint's where there is a video; None to keep that."""
        return None

    def cut(self, opening: str, closing: str, variant: Variant) -> tuple[str, str]:
        """Return the texts before and behind a video's placeholder, without what the processor takes away there."""
        return opening, closing

    def words(self, times: FrameTimes) -> FrameWords:
        """Return what the processor writes around the frames of a video, as the model was trained."""
        return FrameWords([""] * len(times))

    def pictures_per_frame(self, config: Any) -> int:
        """Return how many pictures of a video the tower merges into one frame of vision tokens."""
        return 1

    # ------------------------------------------------------------------ vision

    @abstractmethod
    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Return rows and columns that a frame's vision tokens stand in, row by row."""

    def num_vision_tokens(self, config: Any, fit: Fit) -> int:
        """Compute N from the configuration alone."""
        rows, columns = self.vision_grid(config, fit)
        return rows * columns

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """Run vision tower and projector, ``[F * P, 3, H, W] -> [F, N, W]``.

        W is the hidden size D, or more where the decoder takes in vision features after its first layers too.

        Args:
            pictures_per_frame: P; 1, or what `pictures_per_frame` says.
        """
        features = model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        return torch.stack(list(features))  # [F, N, D]

    def after_embeds(self, model: Any) -> Tensor | None:
        """Return learned embeddings that follow vision tokens and are no token's, ``[A, D]``, or None.

        As trained they follow the last frame of a video; with frames first, every frame.
        """
        return None

    # ------------------------------------------------------------------ positions

    def vision_positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Return positions of vision tokens counted from the first, int64 ``[3, N]``; None where they are plain."""
        return None

    def time_positions(self, seconds: npt.NDArray[np.float64], config: Any) -> npt.NDArray[np.int64] | None:
        """Return how far frames stand from the first of them along the axis of time, ``[F]``; None without that axis.

        Args:
            seconds: the time of each frame's first picture, ``[F]``.
        """
        return None

    def rotary_axes(self, config: Any) -> Tensor | None:
        """Return for each frequency of the rotary embedding which coordinate it turns by, int64 ``[R / 2]``, or None.

        0 is time, 1 the row, 2 the column. None where positions are plain.
        """
        return None

    def turns_neighbours(self, text_config: Any) -> bool:
        """Whether the rotary embedding turns two numbers of a key side by side, and not one of each half."""
        return False

    def decoder_inputs(self, sequence: Tensor, hidden_size: int) -> dict[str, Any]:
        """Return the decoder's arguments for input embeddings ``[B, T, W]``."""
        return {"inputs_embeds": sequence}


def _is_small(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -10 <= value <= 10  # NaN is not


def image_settings(processor: Any) -> ImageSettings:
    """Read an image processor's settings: cover and crop where it crops, stretch where it has a fixed size.

    Args:
        processor: what ``AutoImageProcessor.from_pretrained`` returns.

    Raises:
        ModelError: the processor asks for something that is not supported, named in the message.
    """
    size = dict(processor.size or {})
    crop = dict(processor.crop_size or {}) if getattr(processor, "do_center_crop", False) else {}
    if crop and size.get("shortest_edge", crop["height"]) == crop["height"] == crop["width"]:
        fit = Fit(height=crop["height"], width=crop["width"], mode="crop")
    elif size.get("height") and size.get("width") and not crop:
        fit = Fit(height=size["height"], width=size["width"], mode="stretch")
    else:
        raise ModelError(f"image size {size} with crop {crop or 'none'} is not a shape that frames can be fitted to")
    return settings_with(processor, fit)


def settings_with(processor: Any, fit: Fit) -> ImageSettings:
    """Combine a fit with the mean and standard deviation of an image processor."""
    return ImageSettings(fit=fit, mean=tuple(processor.image_mean), std=tuple(processor.image_std))


def one_size(size: int | list[int] | tuple[int, ...]) -> int:
    """Return the side of a square that a configuration gives as one number or as two.

    Raises:
        ModelError: two numbers that differ.
    """
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ModelError(f"patches and pictures have to be square, not {size}")
    return sides.pop()
