"""GLM-4.1V, GLM-4.5V and GLM-4.6V: a tower for pictures of any size, and times behind frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_video.errors import UsageError
from voco_video.model.families.layout import FrameTimes, FrameWords, PromptTemplate
from voco_video.model.families.qwen_vl import QwenVL


class Glm4V(QwenVL):
    """Two pictures of a video are merged into one frame, and the second of the first stands behind it."""

    title = "GLM-4.1V"
    frame_before = "<|begin_of_image|>"
    frame_after = "<|end_of_image|>"
    shares_place = False
    image_processor = "Glm4vImageProcessor"
    pictures_in_limits = 2
    counts_all_pictures = True

    def template(self, config: Any) -> PromptTemplate:
        """Return the tokens of start and end of a picture, which the configuration names."""
        return PromptTemplate((config.image_start_token_id,), (config.image_end_token_id,))

    def vision_token_id(self, config: Any) -> int:
        """Return the token id for pictures, which frames of a video are to it."""
        token_id: int = config.image_token_id
        return token_id

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """``[F * P, 3, H, W] -> [F, N, D]``; the tower keeps frames apart.

        Raises:
            UsageError: torch's default type is another than float32; the library's tower makes tensors of it.
        """
        if torch.get_default_dtype() != torch.float32:
            raise UsageError(
                f"the tower of {self.title} computes in torch's default type, which is {torch.get_default_dtype()}; "
                "call torch.set_default_dtype(torch.float32)"
            )
        return super().vision_tokens(model, pixel_values, pictures_per_frame)

    def words(self, times: FrameTimes) -> FrameWords:
        """Write the time of each frame behind it."""
        told = [self.told(seconds) for seconds in times.starts.clip(0)]
        return FrameWords(["", *told][: len(told)], last=told[-1] if told else "")

    def told(self, seconds: float) -> str:
        """Write one time."""
        return str(int(seconds))

    def time_positions(self, seconds: npt.NDArray[np.float64], config: Any) -> None:
        """Return None: time is told in words alone."""

    def rotary_axes(self, config: Any) -> Tensor:
        """Return the axis of each frequency: sections of time, rows and columns in turn."""
        sections = config.get_text_config(decoder=True).rope_parameters.get("mrope_section", [8, 12, 12])
        return (torch.arange(len(sections)) % 3).repeat_interleave(torch.tensor(sections))

    def turns_neighbours(self, text_config: Any) -> bool:
        """Tell the decoder of GLM-4.1V from that of many experts."""
        return bool(text_config.model_type == "glm4v_text")


class Glm4VMoe(Glm4V):
    """As GLM-4.1V, with a decoder of many experts."""

    title = "GLM-4.5V"


class Glm46V(Glm4V):
    """Times have a decimal and a unit; its decoder is that of GLM-4.1V or of GLM-4.5V."""

    title = "GLM-4.6V"
    image_processor = "Glm46VImageProcessor"

    def told(self, seconds: float) -> str:
        """Write one time."""
        return f"{seconds:.1f} seconds"
