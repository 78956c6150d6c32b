"""A Hugging Face image-text model as the few things compression needs: vision tokens, a decoder, templates.

Nothing here knows about VoCo tokens, and nothing above this module knows which model it runs on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voco_video.errors import ModelError
from voco_video.frames import Fit


@dataclass(frozen=True)
class ImageSettings:
    """How a frame becomes the vision tower's input: fitted to a box, scaled to [0, 1], normalised per channel."""

    fit: Fit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def describe(self) -> dict[str, Any]:
        """The settings as plain JSON values, for a cache key and a checkpoint."""
        return asdict(self)

    @staticmethod
    def from_description(settings: dict[str, Any]) -> ImageSettings:
        """The inverse of `describe`, after a round trip through JSON."""
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


@dataclass(frozen=True)
class Backbone:
    """One image-text model behind the interface that `VocoModel` uses.

    Attributes:
        model: a Hugging Face model with ``get_image_features``, a decoder and a language-model head, in eval mode.
        tokenizer: its tokenizer, or None for a checkpoint that has none (then only token ids go in and out).
        images: how frames are prepared.
        template: token ids around frames and text.
        chat_template: Jinja chat template to use instead of the tokenizer's own.
    """

    model: Any
    tokenizer: Any
    images: ImageSettings
    template: PromptTemplate
    chat_template: str | None = field(default=None, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the decoder's input is expected."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    def decoder(self) -> Any:
        """The language model without its head: ``inputs_embeds [B, T, D] -> last_hidden_state [B, T, D]``."""
        return self.model.get_decoder()

    @property
    def text_config(self) -> Any:
        """The decoder's configuration."""
        return self.model.config.get_text_config(decoder=True)

    @property
    def hidden_size(self) -> int:
        """D."""
        return self.text_config.hidden_size

    @property
    def inv_freq(self) -> Tensor:
        """Inverse frequencies of the decoder's rotary embedding, ``[rotary_dim / 2]``.

        Raises:
            ModelError: the frequencies depend on the length of the sequence, so cached keys cannot be moved.
        """
        rope_type = (self.text_config.rope_parameters or {}).get("rope_type", "default")
        if rope_type in ("dynamic", "longrope"):
            raise ModelError(
                f"rotary embeddings of type {rope_type!r} change with the length of the sequence, so cached keys "
                "cannot be moved; use a checkpoint with rope_type 'default', 'linear', 'llama3' or 'yarn'"
            )
        return self.decoder.rotary_emb.inv_freq

    def pixel_values(self, pixels: np.ndarray) -> Tensor:
        """Frames as decoded, uint8 ``[F, H, W, 3]``, to the vision tower's input ``[F, 3, H, W]`` on its device.

        Bytes cross to the device first: a quarter of the traffic of floats.
        """
        frames = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device, non_blocking=True)
        values = frames.permute(0, 3, 1, 2).to(torch.float32)
        mean = torch.tensor(self.images.mean, device=values.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.images.std, device=values.device).view(1, 3, 1, 1) * 255
        return ((values - mean) / std).to(self.dtype)  # [F, 3, H, W]

    def vision_tokens(self, pixel_values: Tensor) -> Tensor:
        """Vision tower and projector: ``[F, 3, H, W] -> [F, N, D]``."""
        features = self.model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        return torch.stack(list(features))  # [F, N, D]

    @cached_property
    def num_vision_tokens(self) -> int:
        """N, as the tower and the projector give it for one empty frame."""
        empty = np.zeros((1, self.images.fit.height, self.images.fit.width, 3), np.uint8)
        with torch.inference_mode():
            return self.vision_tokens(self.pixel_values(empty)).shape[1]

    def embed(self, input_ids: Tensor | Sequence[int]) -> Tensor:
        """Token ids ``[..., T]`` to input embeddings ``[..., T, D]``."""
        return self.model.get_input_embeddings()(torch.as_tensor(input_ids, dtype=torch.long, device=self.device))

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Last hidden states ``[..., D]`` to next-token logits ``[..., vocabulary]``."""
        return self.model.get_output_embeddings()(hidden_states)

    def conversation_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a conversation that ends with a question, up to where the answer begins.

        Args:
            messages: ``{"role": "user" | "assistant", "content": text}`` in order.

        Raises:
            ModelError: the checkpoint has no tokenizer or no chat template.
        """
        if self.tokenizer is None:
            raise ModelError("this checkpoint has no tokenizer; ask with token ids (VocoModel.generate) instead")
        if not (self.chat_template or getattr(self.tokenizer, "chat_template", None)):
            raise ModelError("this checkpoint's tokenizer has no chat template; add chat_template.jinja beside it")
        text = self.tokenizer.apply_chat_template(
            list(messages), chat_template=self.chat_template, add_generation_prompt=True, tokenize=False
        )
        return [*self.template.text_before_ids, *self.tokenizer(text, add_special_tokens=False).input_ids]

    def text(self, token_ids: Sequence[int]) -> str:
        """Token ids back to text, special tokens left out."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()


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
    elif "height" in size and "width" in size and not crop:
        fit = Fit(height=size["height"], width=size["width"], mode="stretch")
    else:
        raise ModelError(f"image size {size} with crop {crop or 'none'} is not a shape that frames can be fitted to")
    return ImageSettings(fit=fit, mean=tuple(processor.image_mean), std=tuple(processor.image_std))
