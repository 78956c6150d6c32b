"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: a tower for pictures of any size, and positions of three coordinates (M-RoPE).

A vision token stands at (time, row, column), text at three equal numbers that go on from the largest one before it.
VoCo tokens are text in this, so their keys move by the same rotation as everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_video.model.families.family import one_size
from voco_video.model.families.layout import FrameTimes, FrameWords, PromptTemplate, Variant
from voco_video.model.families.shaped import ShapedFamily, picture_patches


class QwenVL(ShapedFamily):
    """Two frames of a video are merged into one, and all stand at the same rows and columns, apart in time alone."""

    title = "Qwen2.5-VL"
    positions = "M-RoPE"
    shares_place = True
    vision_tower = "visual"
    projector = "visual.merger"

    def template(self, config: Any) -> PromptTemplate:
        """Return the tokens of start and end of vision, which the configuration names."""
        return PromptTemplate((config.vision_start_token_id,), (config.vision_end_token_id,))

    def pictures_per_frame(self, config: Any) -> int:
        """Return the pictures that one patch of the tower reaches over in time."""
        return one_size(config.vision_config.temporal_patch_size)

    def time_positions(self, seconds: npt.NDArray[np.float64], config: Any) -> npt.NDArray[np.int64] | None:
        """Count ``tokens_per_second`` from the first frame on; without that, frames."""
        per_second = getattr(config.vision_config, "tokens_per_second", None)
        if per_second is None or len(seconds) < 2:
            return np.arange(len(seconds))
        # The library multiplies a number of frames by an interval; differences of times miss that by rounding errors.
        return np.floor((seconds - seconds[0]) * per_second + 1e-6).astype(np.int64)

    def rotary_axes(self, config: Any) -> Tensor:
        """Return the axis of each frequency: some for time, then some for rows, then some for columns."""
        sections = config.get_text_config(decoder=True).rope_parameters["mrope_section"]
        return torch.arange(3).repeat_interleave(torch.tensor(sections))

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """``[F * P, 3, H, W] -> [F, N, D]``; the tower keeps frames apart."""
        return torch.stack(self._features(model, pixel_values, pictures_per_frame).pooler_output)

    def _features(self, model: Any, pixel_values: Tensor, pictures_per_frame: int) -> Any:
        vision = model.config.vision_config
        pictures = pixel_values.unflatten(0, (-1, pictures_per_frame))  # [F, P, 3, H, W]
        if pictures_per_frame == 1:  # stands still for as long as the tower's patches reach
            pictures = pictures.expand(-1, one_size(vision.temporal_patch_size), -1, -1, -1)
        patch = one_size(vision.patch_size)
        patches = picture_patches(pictures, patch, self.merge_size(vision))  # [F, patches, features]
        sides = (side // patch for side in pixel_values.shape[2:])
        grid = torch.tensor([[1, *sides]], device=patches.device).expand(len(patches), -1)
        return model.get_image_features(pixel_values=patches.flatten(0, 1), image_grid_thw=grid, return_dict=True)

    def vision_positions(self, grid: tuple[int, int]) -> Tensor:
        """Return (time, row, column) of every vision token, int64 ``[3, N]``; time stands still within a picture."""
        rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
        return torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1)


class Qwen2VL(QwenVL):
    """As Qwen2.5-VL, but the axis of time counts frames."""

    title = "Qwen2-VL"


class Qwen3VL(QwenVL):
    """Qwen3-VL writes times before frames, and reads features of earlier layers of its tower as well.

    These are added to vision tokens behind its first decoder layers. They travel beside the vision tokens, as more
    channels: W = (1 + S) * D for S such layers, 0 for every other token.
    Source: DeepStack (arXiv:2406.04334).
    """

    title = "Qwen3-VL"
    frame_before = "<|vision_start|>"
    frame_after = "<|vision_end|>"
    shares_place = False
    counts_all_pictures = True

    def cut(self, opening: str, closing: str, variant: Variant) -> tuple[str, str]:
        """Take away the pair around the placeholder, as the processor did that the model was released with.

        transformers 5 keeps it around all frames, beside the pair around each.
        """
        if variant == "library":
            return opening, closing
        return opening.removesuffix(self.frame_before), closing.removeprefix(self.frame_after)

    def words(self, times: FrameTimes) -> FrameWords:
        """Write the middle of each frame's pictures in time."""
        return FrameWords([f"<{seconds:.1f} seconds>" for seconds in times.middles])

    def time_positions(self, seconds: npt.NDArray[np.float64], config: Any) -> None:
        """Return None: time is told in words alone."""

    def rotary_axes(self, config: Any) -> Tensor:
        """Return the axis of each frequency: all three in turn as long as there are some, then time."""
        text = config.get_text_config(decoder=True)
        sections = text.rope_parameters["mrope_section"]
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        axes = torch.zeros(head_dim // 2, dtype=torch.long)
        for axis in (1, 2):
            axes[axis : sections[axis] * 3 : 3] = axis
        return axes

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """``[F * P, 3, H, W] -> [F, N, (1 + S) * D]``."""
        features = self._features(model, pixel_values, pictures_per_frame)
        layers = [features.pooler_output, *features.deepstack_features]
        return torch.cat([torch.stack(list(layer)) for layer in layers], dim=-1)

    def decoder_inputs(self, sequence: Tensor, hidden_size: int) -> dict[str, Any]:
        """Channels beyond D go in behind the first layers; they are added to every token, to most of them as 0."""
        embeds, *deeper = sequence.split(hidden_size, dim=-1)
        if not deeper:
            return {"inputs_embeds": embeds}
        everywhere = torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
        return {
            "inputs_embeds": embeds,
            "visual_pos_masks": everywhere,
            "deepstack_visual_embeds": [layer.flatten(0, 1) for layer in deeper],  # S times [B * T, D]
        }


class Qwen3VLMoe(Qwen3VL):
    """As Qwen3-VL, with a decoder of many experts."""

    title = "Qwen3-VL-MoE"
