"""Qwen2.5-VL and Qwen3-VL: a tower for pictures of any size, and positions of three coordinates (M-RoPE).

A vision token stands at (time, row, column), text at three equal numbers that go on from the largest one before it.
VoCo tokens are text in this, so their keys move by the same rotation as everywhere.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor

from voco_video.errors import ModelError
from voco_video.model.families.family import Family, ImageSettings, PromptTemplate, one_size, settings_with
from voco_video.video.scaling import Fit

FRAME_TOKENS = 252  # 12 rows of 21: a picture of 7:4, near the 16:9 of most videos
FRAME_SHAPE = (4, 7)  # its height to its width


class QwenVL(Family):
    """Every frame is padded into one box, so that all frames of all videos have the same number of vision tokens.

    The library picks a size for each picture from its own shape, within limits of the image processor. Here the box is
    7:4 and as large as `FRAME_TOKENS` vision tokens fill, or the nearest size within those limits; a saved model keeps
    its own. Frames are read as still pictures, which the tower takes as two equal frames: two frames of a video are
    never merged into one, so that each can be cached alone. The times that Qwen3-VL writes before frames are left out.
    """

    title = "Qwen2.5-VL"
    positions = "M-RoPE"
    image_processor = "Qwen2VLImageProcessor"
    vision_tower = "visual"
    projector = "visual.merger"

    def image_settings(self, processor: Any, config: Any) -> ImageSettings:
        """Make a box within the processor's least and largest number of pixels."""
        limits = dict(processor.size)
        cell = _cell(config.vision_config)
        least, largest = limits["shortest_edge"] // cell**2, limits["longest_edge"] // cell**2
        num_tokens = max(1, min(max(FRAME_TOKENS, least), largest))
        rows = max(1, isqrt(num_tokens * FRAME_SHAPE[0] // FRAME_SHAPE[1]))
        return settings_with(processor, Fit(height=rows * cell, width=num_tokens // rows * cell, mode="pad"))

    def processor_settings(self, images: ImageSettings, config: Any) -> dict[str, Any]:
        """Add the library's own limits on the number of pixels, both equal to those of the box."""
        num_pixels = images.fit.height * images.fit.width
        vision = config.vision_config
        return super().processor_settings(images, config) | {
            "size": {"shortest_edge": num_pixels, "longest_edge": num_pixels},
            "patch_size": one_size(vision.patch_size),
            "temporal_patch_size": one_size(vision.temporal_patch_size),
            "merge_size": vision.spatial_merge_size,
        }

    def template(self, config: Any, tokenizer: Any) -> PromptTemplate:
        """Return the tokens of start and end of vision, which the configuration names."""
        return PromptTemplate((config.vision_start_token_id,), (config.vision_end_token_id,))

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Merge ``spatial_merge_size`` patches along each side of a vision token.

        Raises:
            ModelError: the box is not a whole number of vision tokens.
        """
        cell = _cell(config.vision_config)
        if fit.height % cell or fit.width % cell:
            raise ModelError(f"frames of {fit.height} x {fit.width} pixels: both have to be multiples of {cell}")
        return fit.height // cell, fit.width // cell

    def vision_tokens(self, model: Any, pixel_values: Tensor) -> Tensor:
        """``[F, 3, H, W] -> [F, N, D]``; the tower keeps pictures apart."""
        return torch.stack(self._features(model, pixel_values).pooler_output)

    def _features(self, model: Any, pixel_values: Tensor) -> Any:
        vision = model.config.vision_config
        patches = picture_patches(pixel_values, vision)  # [F, patches, features]
        sides = (side // one_size(vision.patch_size) for side in pixel_values.shape[2:])
        grid = torch.tensor([[1, *sides]], device=patches.device).expand(len(patches), -1)
        return model.get_image_features(pixel_values=patches.flatten(0, 1), image_grid_thw=grid, return_dict=True)

    def vision_positions(self, grid: tuple[int, int]) -> Tensor:
        """Return (time, row, column) of every vision token, int64 ``[3, N]``; time stands still within a picture."""
        rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
        return torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1)


class Qwen3VL(QwenVL):
    """Qwen3-VL also adds features of earlier layers of the tower to vision tokens behind its first decoder layers.

    They travel beside the vision tokens, as more channels: W = (1 + S) * D for S such layers, 0 for every other token.
    Source: DeepStack (arXiv:2406.04334).
    """

    title = "Qwen3-VL"

    def vision_tokens(self, model: Any, pixel_values: Tensor) -> Tensor:
        """``[F, 3, H, W] -> [F, N, (1 + S) * D]``."""
        features = self._features(model, pixel_values)
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
    """Cut pictures as Qwen's image processor does, ``[F, 3, H, W] -> [F, patches, 3 * times * patch * patch]``.

    Patches that become one vision token stand together, and each is repeated in time.
    """
    patch, merge = one_size(vision.patch_size), vision.spatial_merge_size
    cells = pixel_values.unflatten(3, (-1, merge, patch)).unflatten(2, (-1, merge, patch))
    cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [F, rows, columns, merge, merge, 3, patch, patch]
    cells = cells.unsqueeze(6).repeat_interleave(one_size(vision.temporal_patch_size), dim=6)
    return cells.flatten(5).flatten(1, 4)


def _cell(vision: Any) -> int:
    """Count the pixels along each side of a vision token."""
    return one_size(vision.patch_size) * int(vision.spatial_merge_size)
