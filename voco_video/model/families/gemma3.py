"""Gemma 3: a SigLIP tower, vision tokens of several patches each, and a decoder most of whose layers see a window.

A frame's vision tokens all see each other. Two kinds of layers turn keys by different angles.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

from voco_video.errors import ModelError
from voco_video.model.families.family import Family, ImageSettings, image_settings
from voco_video.model.families.layout import FrameTimes, FrameWords, PromptTemplate
from voco_video.video.scaling import Fit


class Gemma3(Family):
    """Frames are pictures to it, each between two empty lines; crops of long pictures are for still images."""

    title = "Gemma 3"
    frame_before = "<start_of_image>"
    frame_after = "<end_of_image>"
    takes_pictures = True
    image_processor = "Gemma3ImageProcessor"
    needs_embeds = (
        "most of its layers see only the last few tokens, and turn keys by other angles than the rest, so a frame's "
        "keys cannot be moved behind other frames"
    )
    sees_ahead = True

    def image_settings(self, processor: Any, config: Any) -> ImageSettings:
        """Stretch pictures to the processor's size.

        Raises:
            ModelError: text would see what is behind it, as in models for embeddings made of this one.
        """
        if config.get_text_config(decoder=True).use_bidirectional_attention:
            raise ModelError("use_bidirectional_attention in config.json: this model makes embeddings, not answers")
        return image_settings(processor)

    def template(self, config: Any) -> PromptTemplate:
        """Return the tokens of start and end of a picture, which the configuration names."""
        return PromptTemplate((config.boi_token_id,), (config.eoi_token_id,))

    def placeholder(self, config: Any, tokenizer: Any) -> str:
        """Return the start of a picture, which the chat template writes alone."""
        return self.frame_before

    def words(self, times: FrameTimes) -> FrameWords:
        """Write an empty line before and behind each frame."""
        return FrameWords(["\n\n\n\n" if f else "\n\n" for f in range(len(times))], "\n\n")

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Return the square of vision tokens that every picture is pooled to."""
        side = isqrt(config.mm_tokens_per_image)
        return side, side
