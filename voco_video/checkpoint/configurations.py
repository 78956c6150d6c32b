"""A checkpoint's configuration and how its frames are prepared, with what the library leaves unchecked.

The library checks types, and the shapes of weights say whether sizes are right. Neither shows numbers that are out of
range, layers that are not there, token ids that no vocabulary holds, or frames that the tower cannot take.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from voco_video.checkpoint.files import read_config, read_image_processor
from voco_video.checkpoint.needed import CONFIG
from voco_video.errors import ModelError, VocoVideoError
from voco_video.files.checked_values import is_number, is_whole
from voco_video.files.processor_files import PROCESSOR_SETTINGS
from voco_video.files.settings import FETCH_AGAIN, first_line, has_file, read_settings, shown
from voco_video.model.families import ImageSettings, family_of

_SIZES = (
    *("hidden_size", "intermediate_size", "embed_dim", "head_dim", "out_hidden_size", "projection_dim", "vocab_size"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "num_heads", "depth", "num_channels"),
    *("in_channels", "image_size", "patch_size", "temporal_patch_size", "spatial_merge_size", "window_size"),
    *("num_position_embeddings", "max_position_embeddings", "scale_factor", "tokens_per_second", "image_seq_length"),
    *("mm_tokens_per_image", "linear_conv_kernel_dim", "linear_key_head_dim", "linear_value_head_dim"),
    *("linear_num_key_heads", "linear_num_value_heads"),
)
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "norm_eps")
VIDEO_PROCESSOR, JOINT_PROCESSOR = "video_preprocessor_config.json", "processor_config.json"
_FIXED_TOWERS = ("clip_vision_model", "siglip_vision_model")
_OF_PROCESSORS = ("size", "crop_size", "max_image_size", "image_mean", "image_std")


def checked_config(folder: Path) -> Any:
    """Read the configuration in a folder and check its family and the limits of its numbers.

    Raises:
        ModelError: it is missing, damaged, of another kind of model, or cannot be right.
    """
    config, path = read_config(folder), folder / CONFIG
    family_of(config)
    settings = read_settings(path)
    for key, flat in (("vision_config", ()), ("text_config", ("hidden_size", "num_hidden_layers"))):
        if not settings.get(key) and not (flat and all(name in settings for name in flat)):
            raise ModelError(f"{path}: {key} is missing, and nothing else says how large the model is; {FETCH_AGAIN}")
    check_config(config, path)
    return config


def check_config(config: Any, path: Path) -> None:
    """Refuse a configuration whose numbers cannot be right.

    Args:
        config: of a supported family.
        path: its file, for messages.

    Raises:
        ModelError: names the key and its value.
    """
    text, vision = config.get_text_config(decoder=True), config.vision_config
    for name, part in (("", config), ("text_config.", text), ("vision_config.", vision)):
        for key in _SIZES:
            for value in _numbers(getattr(part, key, None)):
                if not is_whole(value, least=1, most=2**62):
                    raise ModelError(f"{path}: {name}{key} has to be a whole number from 1 on, not {shown(value)}")
        for key in _EPSILONS:
            for value in _numbers(getattr(part, key, None)):
                if not (is_number(value) and 0 < value < 1):
                    raise ModelError(f"{path}: {name}{key} has to be a small number above 0, not {shown(value)}")
    _check_rotations(text, path)
    window = getattr(text, "sliding_window", None)
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()) and not is_whole(window, least=1, most=2**62):
        raise ModelError(f"{path}: text_config.sliding_window has to be a whole number from 1 on, not {shown(window)}")
    _check_heads(text, "text_config", path)
    _check_heads(vision, "vision_config", path)
    _check_feature_layers(config, path)
    ratio = getattr(config, "downsample_ratio", None)
    if ratio is not None and not (is_number(ratio) and 0 < ratio <= 1 and (1 / ratio).is_integer()):
        raise ModelError(f"{path}: downsample_ratio has to be 1, 1/2, 1/3, ..., not {shown(ratio)}")


def _numbers(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)


def _check_rotations(text: Any, path: Path) -> None:
    rope = getattr(text, "rope_parameters", None) or {}
    by_kind = {f"{kind}.": part for kind, part in rope.items() if isinstance(part, dict)}  # of layers, for some
    for name, part in ({"": rope} | by_kind).items():
        for key in ("rope_theta", "factor", "partial_rotary_factor"):
            value = part.get(key)
            if value is not None and not (is_number(value) and value > 0):
                raise ModelError(f"{path}: rope_parameters.{name}{key} has to be a number above 0, not {shown(value)}")
    sections = rope.get("mrope_section")
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    num_frequencies = int(head_dim * (rope.get("partial_rotary_factor") or 1)) // 2
    if sections is not None and (
        not isinstance(sections, (list, tuple))
        or len(sections) != 3
        or not all(is_whole(n) for n in sections)
        or sum(sections) != num_frequencies
    ):
        raise ModelError(
            f"{path}: rope_parameters.mrope_section has to be three whole numbers that add up to {num_frequencies}, "
            f"half of what is turned of a head, not {shown(sections)}"
        )


def _check_heads(part: Any, name: str, path: Path) -> None:
    heads = getattr(part, "num_attention_heads", None) or getattr(part, "num_heads", None)
    if heads is None:
        return
    if not getattr(part, "head_dim", None) and part.hidden_size % heads:
        raise ModelError(f"{path}: {name}: hidden_size {part.hidden_size} is no multiple of its {heads} heads")
    groups = getattr(part, "num_key_value_heads", None)
    if groups and heads % groups:
        raise ModelError(f"{path}: {name}: num_attention_heads {heads} is no multiple of num_key_value_heads {groups}")


def _check_feature_layers(config: Any, path: Path) -> None:
    vision = config.vision_config
    depth: int = getattr(vision, "num_hidden_layers", None) or getattr(vision, "depth", None) or 0
    for layer in _numbers(getattr(config, "vision_feature_layer", None)):
        if not is_whole(layer, least=-depth - 1, most=depth):
            raise ModelError(
                f"{path}: vision_feature_layer has to be a layer of the tower, from {-depth - 1} to {depth}, "
                f"not {shown(layer)}"
            )
    for key in ("deepstack_visual_indexes", "fullatt_block_indexes"):
        for layer in _numbers(getattr(vision, key, None)):
            if not is_whole(layer, most=depth - 1):
                raise ModelError(
                    f"{path}: vision_config.{key} has to name layers from 0 to {depth - 1}, not {shown(layer)}"
                )


# ---------------------------------------------------------------------- frames


def read_images(folder: Path, config: Any, *, as_library: bool = False) -> ImageSettings:
    """Read from a folder's image processor how frames are prepared.

    Args:
        as_library: follow the installed library where it differs from what the model was trained on.

    Raises:
        ModelError: there is none, it is damaged, or asks for something that is not supported.
    """
    family, processor = family_of(config), read_image_processor(folder)
    try:
        images = family.image_settings(processor, config)
        if settings := _video_settings(folder):
            images = family.for_videos(images, settings)
        return family.as_library(images, processor) if as_library else images
    except VocoVideoError as error:
        raise ModelError(
            f"the image processor in {folder} (preprocessor_config.json) cannot be used: {error}"
        ) from error
    except (TypeError, KeyError, ValueError, AttributeError, ArithmeticError) as error:
        found = {
            name: getattr(processor, name) for name in _OF_PROCESSORS if getattr(processor, name, None) is not None
        }
        raise ModelError(
            f"the image processor in {folder} cannot be used ({first_line(error)}): {shown(found)} is not what "
            f"{family.title} needs"
        ) from error


def _video_settings(folder: Path) -> dict[str, Any]:
    """Read a folder's settings for videos, which the library takes from its joint file first."""
    joint = read_settings(folder / JOINT_PROCESSOR) if has_file(folder, JOINT_PROCESSOR) else {}
    settings = joint.get("video_processor")
    if settings is None and has_file(folder, VIDEO_PROCESSOR):
        settings = read_settings(folder / VIDEO_PROCESSOR)
    return dict(settings or {})


def write_images(folder: Path, images: ImageSettings, config: Any) -> None:
    """Write how frames are prepared into a folder's image processor, unless the one that is there says the same."""
    names = [name for name in PROCESSOR_SETTINGS[:2] if has_file(folder, name)]
    try:
        if names and read_images(folder, config) == images:
            return
    except ModelError:  # of another family, or no image processor at all
        pass
    settings = family_of(config).processor_settings(images, config)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    if JOINT_PROCESSOR in names:
        path = folder / JOINT_PROCESSOR
        joint = read_settings(path)
        if "image_processor" in joint:  # the library reads this one first
            path.write_text(json.dumps(joint | {"image_processor": settings}, indent=2) + "\n")


def check_frames(images: ImageSettings, config: Any, path: Path) -> int:
    """Refuse frames that the tower cannot take.

    Args:
        path: the file that says how frames are prepared, for messages.

    Returns:
        N, the vision tokens of a frame.

    Raises:
        ModelError: names the two sizes that do not go together.
    """
    fit, vision = images.fit, config.vision_config
    height_and_width = {fit.height, fit.width}
    if vision.model_type in _FIXED_TOWERS and height_and_width != set(_numbers(vision.image_size)):
        raise ModelError(
            f"{path}: frames of {fit.height} x {fit.width} pixels; the vision tower in config.json takes "
            f"image_size {vision.image_size}"
        )
    try:
        count = family_of(config).num_vision_tokens(config, fit)
    except VocoVideoError as error:
        raise ModelError(f"{path}: {error}") from error
    if count < 1:
        raise ModelError(f"{path}: frames of {fit.height} x {fit.width} pixels are less than one vision token")
    return count


def check_token_ids(ids: Iterable[int], vocab_size: int, path: Path, key: str) -> None:
    """Refuse token ids that the model has no embedding for.

    Args:
        path, key: where they come from, for messages.

    Raises:
        ModelError: names the first such id.
    """
    for token in ids:
        if not 0 <= token < vocab_size:
            raise ModelError(f"{path}: {key}: token id {token} is not below the model's vocab_size {vocab_size}")
