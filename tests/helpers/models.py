"""Tiny random models, and the slow, obvious computation that the fast paths are held against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from voco_video.checkpoint.folder import load_voco_model
from voco_video.model.adapters import remove_adapters
from voco_video.model.backbone import Backbone
from voco_video.model.families import ImageSettings, PromptTemplate
from voco_video.model.voco import VocoModel
from voco_video.video.scaling import Fit

TEMPLATE = PromptTemplate(frame_before_ids=(1,), frame_after_ids=(5, 6), text_before_ids=(5,))


def tiny_voco(
    *, num_voco_tokens: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0, rope_scaling: dict | None = None
) -> VocoModel:
    """A random model with grouped-query heads; N = 16 vision tokens of 32 x 32 pixels."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,  # the default 0.02 leaves attention nearly uniform, and would hide a wrong mask
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0} | (rope_scaling or {}),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=96, vision_feature_layer=-1, tie_word_embeddings=False
    )
    model = LlavaForConditionalGeneration(config).to(dtype).eval()
    images = ImageSettings(Fit(height=32, width=32, mode="stretch"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    embeds = torch.randn(num_voco_tokens, 64) * 0.2
    return VocoModel(Backbone(model, None, images, TEMPLATE), embeds).eval()


def random_pixels(num_frames: int, *, size: int = 32, seed: int = 1):
    """uint8 ``[F, size, size, 3]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, size, size, 3), generator=generator, dtype=torch.uint8).numpy()


@torch.inference_mode()
def one_masked_pass(model: VocoModel, vision_tokens: Tensor, text_ids: Tensor, num_voco_tokens: int) -> Tensor:
    """Frames and text in one sequence under an explicit mask: the published method, for any number of frames.

    Frame tokens see their own frame, causally. Text sees the VoCo tokens of all frames and earlier text. Positions
    are those of the compact layout, written out one by one.

    Returns:
        Logits of the text, ``[T, vocabulary]``.
    """
    frames = model.frame_sequence(vision_tokens, num_voco_tokens)  # [F, P + k, D]
    num_frames, frame_length, _ = frames.shape
    text = model.backbone.embed(text_ids)  # [T, D]
    start = num_frames * frame_length
    total = start + len(text)
    mask = torch.zeros(total, total, dtype=torch.bool)
    positions = torch.zeros(total, dtype=torch.long)
    for f in range(num_frames):
        first = f * frame_length
        for i in range(frame_length):
            mask[first + i, first : first + i + 1] = True
            positions[first + i] = f * num_voco_tokens + i
        mask[start:, first + frame_length - num_voco_tokens : first + frame_length] = True
    for t in range(len(text)):
        mask[start + t, start : start + t + 1] = True
        positions[start + t] = frame_length - num_voco_tokens + num_frames * num_voco_tokens + t
    hidden = model.backbone.decoder(
        inputs_embeds=torch.cat([frames.flatten(0, 1), text])[None],
        attention_mask=mask[None, None],
        position_ids=positions[None],
        use_cache=False,
    ).last_hidden_state
    return model.backbone.logits(hidden)[0, start:]


def voco_tiny_in_kv(**options: Any) -> VocoModel:
    """voco-tiny without its answering weights, so that keys and values are what it keeps by default."""
    model = load_voco_model("voco-tiny", **options)
    remove_adapters(model.backbone.decoder)
    model.answering_form = model.default_form = None
    return model
