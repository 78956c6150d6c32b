"""LLaVA-OneVision: a SigLIP tower and Qwen2, and for videos half as many vision tokens along each side."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from voco_video.model.families.family import Family, one_size
from voco_video.video.scaling import Fit


class LlavaOnevision(Family):
    """A frame has 14 x 14 vision tokens of 27 x 27, and behind the last of a video stands a newline.

    The newline is a learned embedding, not a token. Pictures that are cut into tiles are what still images get there;
    frames of a video never do.
    """

    title = "LLaVA-OneVision"
    image_processor = "LlavaOnevisionImageProcessor"

    def vision_token_id(self, config: Any) -> int:
        """Return the token id for videos, which are not read as pictures are."""
        token_id: int = config.video_token_id
        return token_id

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Return half of the tower's patches along each side, rounded up."""
        side = math.ceil(one_size(config.vision_config.image_size) // one_size(config.vision_config.patch_size) / 2)
        return side, side

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """Take every frame as a video of its own, ``[F, 3, H, W] -> [F, N, D]``."""
        videos = pixel_values[:, None]  # [F, 1, 3, H, W]
        features: Tensor = model.get_video_features(pixel_values_videos=videos, return_dict=True).pooler_output
        return features[:, :-1]  # the last is the newline, which `after_embeds` gives

    def after_embeds(self, model: Any) -> Tensor:
        """Return the learned newline, ``[1, D]``."""
        newline: Tensor = model.base_model.image_newline
        return newline[None]
