"""LLaVA-NeXT-Video: a CLIP tower, vision tokens of several patches each, and Vicuna or another decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from voco_video.model.families.family import one_size
from voco_video.model.families.llava import Llava
from voco_video.video.scaling import Fit


class LlavaNextVideo(Llava):
    """Frames of a video are pooled and follow one another; pictures that are cut into tiles are for still images."""

    title = "LLaVA-NeXT-Video"
    takes_pictures = False
    image_processor = "LlavaNextImageProcessor"

    def vision_token_id(self, config: Any) -> int:
        """Return the token id for videos."""
        token_id: int = config.video_token_id
        return token_id

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Pool ``spatial_pool_stride`` patches along each side of a vision token."""
        patch = one_size(config.vision_config.patch_size)
        return fit.height // patch // config.spatial_pool_stride, fit.width // patch // config.spatial_pool_stride

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """Take every frame as a video of its own, ``[F, 3, H, W] -> [F, N, D]``."""
        videos = pixel_values[:, None]  # [F, 1, 3, H, W]
        features: Tensor = model.get_video_features(pixel_values_videos=videos, return_dict=True).pooler_output
        return features
