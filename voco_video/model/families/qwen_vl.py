"""Qwen2.5-VL and Qwen3-VL: a tower for pictures of any size, and positions of three coordinates (M-RoPE).

A vision token stands at (time, row, column), text at three equal numbers that go on from the largest one before it.
VoCo tokens are text in this, so their keys move by the same rotation as everywhere.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_video.errors import ModelError
from voco_video.model.families.family import AnyShape, Family, ImageSettings, one_size, settings_with
from voco_video.model.families.layout import FrameTimes, FrameWords, PromptTemplate, Variant
from voco_video.video.scaling import Fit

FRAME_TOKENS = 252  # 12 rows of 21: a picture of 7:4, near the 16:9 of most videos
FRAME_SHAPE = (4, 7)  # its height to its width


class QwenVL(Family):
    """Two frames of a video are merged into one, and all stand at the same rows and columns, apart in time alone.

    A frame has the size that the library picks for a picture of its shape, of at most `FRAME_TOKENS` vision tokens
    where the checkpoint allows more; a saved model keeps its own limit.
    """

    title = "Qwen2.5-VL"
    positions = "M-RoPE"
    shares_place = True
    image_processor = "Qwen2VLImageProcessor"
    vision_tower = "visual"
    projector = "visual.merger"

    def image_settings(self, processor: Any, config: Any) -> ImageSettings:
        """Keep the shape of pictures, within the processor's limits and `FRAME_TOKENS`."""
        limits = dict(processor.size)
        cell = _cell(config.vision_config)
        least, largest = limits["shortest_edge"], limits["longest_edge"]
        most = max(least, min(largest, FRAME_TOKENS * cell**2), cell**2)
        num_tokens = most // cell**2
        rows = max(1, isqrt(num_tokens * FRAME_SHAPE[0] // FRAME_SHAPE[1]))
        fit = Fit(height=rows * cell, width=num_tokens // rows * cell, mode="stretch")
        return replace(settings_with(processor, fit), any_shape=AnyShape(cell, least, most))

    def processor_settings(self, images: ImageSettings, config: Any) -> dict[str, Any]:
        """Add the library's own limits on the number of pixels; both those of the box where frames have one size."""
        num_pixels = images.fit.height * images.fit.width
        limits = images.any_shape or AnyShape(_cell(config.vision_config), num_pixels, num_pixels)
        vision = config.vision_config
        return super().processor_settings(images, config) | {
            "size": {"shortest_edge": limits.least_pixels, "longest_edge": limits.most_pixels},
            "patch_size": one_size(vision.patch_size),
            "temporal_patch_size": one_size(vision.temporal_patch_size),
            "merge_size": vision.spatial_merge_size,
        }

    def template(self, config: Any) -> PromptTemplate:
        """Return the tokens of start and end of vision, which the configuration names."""
        return PromptTemplate((config.vision_start_token_id,), (config.vision_end_token_id,))

    def vision_token_id(self, config: Any) -> int:
        """Return the token id for videos."""
        token_id: int = config.video_token_id
        return token_id

    def placeholder(self, config: Any, tokenizer: Any) -> str:
        """Return the token for videos."""
        token: str = tokenizer.convert_ids_to_tokens(config.video_token_id)
        return token

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

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Merge ``spatial_merge_size`` patches along each side of a vision token.

        Raises:
            ModelError: the box is not a whole number of vision tokens.
        """
        cell = _cell(config.vision_config)
        if fit.height % cell or fit.width % cell:
            raise ModelError(f"frames of {fit.height} x {fit.width} pixels: both have to be multiples of {cell}")
        return fit.height // cell, fit.width // cell

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """``[F * P, 3, H, W] -> [F, N, D]``; the tower keeps frames apart."""
        return torch.stack(self._features(model, pixel_values, pictures_per_frame).pooler_output)

    def _features(self, model: Any, pixel_values: Tensor, pictures_per_frame: int) -> Any:
        vision = model.config.vision_config
        pictures = pixel_values.unflatten(0, (-1, pictures_per_frame))  # [F, P, 3, H, W]
        if pictures_per_frame == 1:  # stands still for as long as the tower's patches reach
            pictures = pictures.expand(-1, one_size(vision.temporal_patch_size), -1, -1, -1)
        patches = picture_patches(pictures, vision)  # [F, patches, features]
        sides = (side // one_size(vision.patch_size) for side in pixel_values.shape[2:])
        grid = torch.tensor([[1, *sides]], device=patches.device).expand(len(patches), -1)
        return model.get_image_features(pixel_values=patches.flatten(0, 1), image_grid_thw=grid, return_dict=True)

    def vision_positions(self, grid: tuple[int, int]) -> Tensor:
        """Return (time, row, column) of every vision token, int64 ``[3, N]``; time stands still within a picture."""
        rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
        return torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1)


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


def picture_patches(pixel_values: Tensor, vision: Any) -> Tensor:
    """Cut pictures as Qwen's image processor does, ``[F, P, 3, H, W] -> [F, patches, 3 * P * patch * patch]``.

    Patches that become one vision token stand together; each reaches over all P pictures of a frame.
    """
    patch, merge = one_size(vision.patch_size), vision.spatial_merge_size
    cells = pixel_values.unflatten(4, (-1, merge, patch)).unflatten(3, (-1, merge, patch))
    # [F, P, 3, rows, merge, patch, columns, merge, patch] -> [F, rows, columns, merge, merge, 3, P, patch, patch]
    return cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(5).flatten(1, 4)


def _cell(vision: Any) -> int:
    """Count the pixels along each side of a vision token."""
    return one_size(vision.patch_size) * int(vision.spatial_merge_size)
