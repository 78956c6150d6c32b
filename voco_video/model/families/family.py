"""What a family of image-text models answers about itself: how frames become vision tokens, and where those stand.

Every frame is one picture of one fixed size, as each family reads the frames of a video: no tiles, no thumbnails.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from voco_video.errors import ModelError, UsageError
from voco_video.video.scaling import Fit


@dataclass(frozen=True)
class ImageSettings:
    """How a frame becomes the vision tower's input: fitted to a box, scaled to [0, 1], normalised per channel.

    Raises UsageError for a mean or a standard deviation that is not three numbers, those of the latter above 0.
    """

    fit: Fit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(_is_small(value) for value in values):
                raise UsageError(f"image_{name} has to be three numbers, of brightness from 0 to 1, not {values!r}")
        if min(self.std) <= 0:
            raise UsageError(f"image_std has to be three numbers above 0, not {self.std!r}")

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain JSON values, for a cache key and a checkpoint."""
        return asdict(self)

    @staticmethod
    def from_description(settings: dict[str, Any]) -> ImageSettings:
        """Undo `describe`, after a round trip through JSON."""
        fit = settings["fit"] | {"pad_rgb": tuple(settings["fit"]["pad_rgb"])}
        return ImageSettings(Fit(**fit), tuple(settings["mean"]), tuple(settings["std"]))


@dataclass(frozen=True)
class PromptTemplate:
    """The fixed token ids around a frame's vision tokens and before the text.

    A frame is read as ``[frame_before_ids] vision tokens [frame_after_ids] VoCo tokens``; after the last frame's VoCo
    tokens comes ``[text_before_ids]`` and then the conversation as the tokenizer's chat template writes it.
    """

    frame_before_ids: tuple[int, ...]
    frame_after_ids: tuple[int, ...]
    text_before_ids: tuple[int, ...] = ()


class Family(ABC):
    """One family; the defaults suit a model whose frames have one fixed size and whose positions are plain.

    A family keeps nothing: every method is given the Hugging Face model or its configuration.

    Attributes:
        title: its name, for people.
        positions: how its decoder counts positions, for people.
        frame_before, frame_after: what its processor writes around a picture's vision tokens.
        image_processor: the class that reads its ``preprocessor_config.json``.
        vision_tower, projector: names of these parts below the model's ``base_model``.
    """

    title: str
    positions = "1-D"
    frame_before = ""
    frame_after = ""
    image_processor = "CLIPImageProcessor"
    vision_tower = "vision_tower"
    projector = "multi_modal_projector"

    def image_settings(self, processor: Any, config: Any) -> ImageSettings:
        """How frames are prepared.

        Args:
            processor: what ``AutoImageProcessor.from_pretrained`` returns.

        Raises:
            ModelError: the processor asks for something that is not supported, named in the message.
        """
        return image_settings(processor)

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

    def template(self, config: Any, tokenizer: Any) -> PromptTemplate:
        """Read the token ids that the family's processor writes around a picture from its tokenizer.

        Without a tokenizer only the decoder's first token is known. Frames come before the conversation, whatever the
        processor has between a conversation's first words and its first picture.

        Raises:
            ModelError: the tokenizer and the configuration disagree about the image token.
        """
        if tokenizer is None:
            bos = config.get_text_config(decoder=True).bos_token_id
            return PromptTemplate(() if bos is None else (bos,), ())
        image = tokenizer.convert_ids_to_tokens(config.image_token_id)
        ids = tokenizer(f"{self.frame_before}{image}{self.frame_after}").input_ids if image else []
        if ids.count(config.image_token_id) != 1:
            raise ModelError(f"the tokenizer does not know image_token_id {config.image_token_id} of config.json")
        place = ids.index(config.image_token_id)
        return PromptTemplate(tuple(ids[:place]), tuple(ids[place + 1 :]))

    @abstractmethod
    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Return rows and columns that a frame's vision tokens stand in, row by row."""

    def num_vision_tokens(self, config: Any, fit: Fit) -> int:
        """Compute N from the configuration alone."""
        rows, columns = self.vision_grid(config, fit)
        return rows * columns

    def vision_tokens(self, model: Any, pixel_values: Tensor) -> Tensor:
        """Run vision tower and projector, ``[F, 3, H, W] -> [F, N, W]``.

        W is the hidden size D, or more where the decoder takes in vision features after its first layers too.
        """
        features = model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        return torch.stack(list(features))  # [F, N, D]

    def after_embeds(self, model: Any) -> Tensor | None:
        """Return learned embeddings that follow a frame's vision tokens and are no token's, ``[A, D]``, or None."""
        return None

    def vision_positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Return positions of vision tokens counted from the first, int64 ``[3, N]``; None where they are plain."""
        return None

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
