"""Families whose pictures keep their shape, within limits: a vision token stands for a square cell of the picture."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any

from torch import Tensor

from voco_video.errors import ModelError
from voco_video.model.families.family import AnyShape, Family, ImageSettings, one_size, settings_with
from voco_video.video.scaling import Fit

FRAME_TOKENS = 252  # 12 rows of 21: a picture of 7:4, near the 16:9 of most videos
FRAME_SHAPE = (4, 7)  # its height to its width


class ShapedFamily(Family):
    """A frame has the size that the library picks for a picture of its shape, of at most `FRAME_TOKENS` vision tokens.

    That is where the checkpoint allows more; a saved model keeps its own limit.
    """

    image_processor = "Qwen2VLImageProcessor"
    pictures_in_limits = 1  # how many pictures' pixels the image processor's limits count together
    counts_all_pictures = False  # whether the video processor's limits are on all pictures of a video together

    def merge_size(self, vision: Any) -> int:
        """Return the patches along each side of a vision token."""
        return int(vision.spatial_merge_size)

    def cell(self, vision: Any) -> int:
        """Count the pixels along each side of a vision token."""
        return one_size(vision.patch_size) * self.merge_size(vision)

    def image_settings(self, processor: Any, config: Any) -> ImageSettings:
        """Keep the shape of pictures, within the processor's limits and `FRAME_TOKENS`."""
        limits = dict(processor.size)
        cell = self.cell(config.vision_config)
        least, largest = (limits[edge] // self.pictures_in_limits for edge in ("shortest_edge", "longest_edge"))
        most = max(least, min(largest, FRAME_TOKENS * cell**2), cell**2)
        num_tokens = most // cell**2
        rows = max(1, isqrt(num_tokens * FRAME_SHAPE[0] // FRAME_SHAPE[1]))
        fit = Fit(height=rows * cell, width=num_tokens // rows * cell, mode="stretch")
        return replace(settings_with(processor, fit), any_shape=AnyShape(cell, least, most))

    def for_videos(self, images: ImageSettings, settings: dict[str, Any]) -> ImageSettings:
        """Take the limits for videos: those of each picture, or one vision token where they are on all together."""
        images, size = super().for_videos(images, settings), settings.get("size") or {}
        limits = images.any_shape
        if limits is None:
            return images
        if self.counts_all_pictures:
            return replace(images, any_shape=replace(limits, least_pixels=limits.cell**2))
        least = settings.get("min_pixels") or size.get("shortest_edge")
        most = settings.get("max_pixels") or size.get("longest_edge")
        if least is None or most is None:
            return images
        most = max(least, min(limits.most_pixels, most))
        return replace(images, any_shape=replace(limits, least_pixels=least, most_pixels=most))

    def processor_settings(self, images: ImageSettings, config: Any) -> dict[str, Any]:
        """Add the library's own limits on the number of pixels; both those of the box where frames have one size."""
        num_pixels = images.fit.height * images.fit.width
        limits = images.any_shape or AnyShape(self.cell(config.vision_config), num_pixels, num_pixels)
        vision = config.vision_config
        return super().processor_settings(images, config) | {
            "size": {
                "shortest_edge": limits.least_pixels * self.pictures_in_limits,
                "longest_edge": limits.most_pixels * self.pictures_in_limits,
            },
            "patch_size": one_size(vision.patch_size),
            "temporal_patch_size": one_size(getattr(vision, "temporal_patch_size", 1)),
            "merge_size": self.merge_size(vision),
        }

    def vision_token_id(self, config: Any) -> int:
        """Return the token id for videos."""
        token_id: int = config.video_token_id
        return token_id

    def placeholder(self, config: Any, tokenizer: Any) -> str:
        """Return the token for videos."""
        token: str = tokenizer.convert_ids_to_tokens(config.video_token_id)
        return token

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Count the cells of the picture.

        Raises:
            ModelError: the box is not a whole number of vision tokens.
        """
        cell = self.cell(config.vision_config)
        if fit.height % cell or fit.width % cell:
            raise ModelError(f"frames of {fit.height} x {fit.width} pixels: both have to be multiples of {cell}")
        return fit.height // cell, fit.width // cell


def picture_patches(pixel_values: Tensor, patch: int, merge: int) -> Tensor:
    """Cut pictures as Qwen's image processor does, ``[F, P, 3, H, W] -> [F, patches, 3 * P * patch * patch]``.

    Patches that become one vision token stand together; each reaches over all P pictures of a frame.
    """
    cells = pixel_values.unflatten(4, (-1, merge, patch)).unflatten(3, (-1, merge, patch))
    # [F, P, 3, rows, merge, patch, columns, merge, patch] -> [F, rows, columns, merge, merge, 3, P, patch, patch]
    return cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(5).flatten(1, 4)
