"""VideoLLaMA3: a SigLIP tower for pictures of any size, vision tokens of 2 x 2 patches, and Qwen2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from voco_video.model.families.family import ImageSettings, one_size
from voco_video.model.families.layout import FrameTimes, FrameWords
from voco_video.model.families.shaped import ShapedFamily, picture_patches


class VideoLlama3(ShapedFamily):
    """Each frame stands behind its time. All its vision tokens are kept.

    The library may leave out those that hardly differ from the frame before, which depends on which frame that is; its
    ``use_token_compression=False`` keeps them all too.
    """

    title = "VideoLLaMA3"
    image_processor = "VideoLlama3ImageProcessor"
    vision_tower = "vision_model"
    projector = "projector"

    def merge_size(self, vision: Any) -> int:
        """Return the library's number for videos, which no configuration has; single patches are for still images."""
        return 2

    def processor_settings(self, images: ImageSettings, config: Any) -> dict[str, Any]:
        """Return settings for still images, which have a vision token for each patch."""
        return super().processor_settings(images, config) | {"merge_size": 1}

    def words(self, times: FrameTimes) -> FrameWords:
        """Write the time of each frame."""
        return FrameWords([f"{',' if f else ''}Time {seconds:.1f}s:" for f, seconds in enumerate(times.starts)])

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """``[F, 3, H, W] -> [F, N, D]``; the tower keeps frames apart."""
        vision = model.config.vision_config
        patch, merge = one_size(vision.patch_size), self.merge_size(vision)
        patches = picture_patches(pixel_values[:, None], patch, merge)  # [F, patches, features]
        sides = (side // patch for side in pixel_values.shape[2:])
        grid = torch.tensor([[1, *sides]], device=patches.device).expand(len(patches), -1)
        features = model.get_image_features(
            pixel_values=patches.flatten(0, 1),
            image_grid_thw=grid,
            image_merge_sizes=torch.full((len(patches),), merge, device=patches.device),
            return_dict=True,
        )
        return torch.stack(list(features.pooler_output))
