"""The other ways to ask about frames: the published one-sequence method, and Hugging Face LLaVA as it comes.

Both take pixels and text and give the text's logits. They are written to be fast: one matrix mask built by comparisons,
no logits that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache

from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel


def dense_mask(num_frames: int, frame_length: int, num_voco_tokens: int, text_length: int) -> Tensor:
    """Who sees whom when frames and text are one sequence, bool ``[1, 1, S, S]`` with S = F * L + T.

    A frame's tokens see earlier ones of their own frame. Text sees every frame's VoCo tokens and earlier text.

    Args:
        frame_length: L, the VoCo tokens at its end included.
    """
    place = torch.arange(num_frames * frame_length + text_length)
    is_text = place >= num_frames * frame_length
    frame = torch.where(is_text, num_frames, place // frame_length)
    is_seen_by_text = is_text | (place % frame_length >= frame_length - num_voco_tokens)
    same = frame[:, None] == frame[None]
    visible = same | (is_text[:, None] & is_seen_by_text[None])
    return (visible & (place[:, None] >= place[None]))[None, None]


def compact_position_ids(num_frames: int, frame_length: int, num_voco_tokens: int, text_length: int) -> Tensor:
    """Positions of the same sequence, int64 ``[1, S]``: frames overlap but for their VoCo tokens."""
    frames = torch.arange(num_frames)[:, None] * num_voco_tokens + torch.arange(frame_length)  # [F, L]
    text_start = frame_length - num_voco_tokens + num_frames * num_voco_tokens
    return torch.cat([frames.flatten(), text_start + torch.arange(text_length)])[None]


@torch.inference_mode()
def published_logits(model: VocoModel, pixels: Any, text_ids: Tensor, *, num_voco_tokens: int) -> Tensor:
    """VoCo-LLaMA as published: frames and text in one sequence under a dense mask, once for every question.

    Source: arXiv:2406.12275, section 3, with frames apart from each other. Its released code shows text the vision
    tokens of every frame but the first; the work is the same.

    Args:
        pixels: uint8 ``[F, H, W, 3]``.
        text_ids: ``[T]``.

    Returns:
        Logits ``[T, vocabulary]``.
    """
    device = model.backbone.device
    frames = model.frame_sequence(model.vision_tokens(pixels), num_voco_tokens)  # [F, L, D]
    num_frames, frame_length, _ = frames.shape
    sizes = num_frames, frame_length, num_voco_tokens, len(text_ids)
    hidden = model.backbone.decoder(
        inputs_embeds=torch.cat([frames.flatten(0, 1), model.backbone.embed(text_ids)])[None],
        attention_mask=dense_mask(*sizes).to(device),
        position_ids=compact_position_ids(*sizes).to(device),
        use_cache=False,
    ).last_hidden_state  # [1, S, D]
    return model.backbone.logits(hidden[0, -len(text_ids) :])


def llava_prompt(model: VocoModel, num_frames: int, text_ids: Tensor) -> Tensor:
    """Token ids ``[1, F * P + T]`` of frames and text, with the image token N times for each frame."""
    template, image = model.backbone.template, model.backbone.hf_model.config.image_token_id
    frame = [*template.frame_before_ids, *[image] * model.backbone.num_vision_tokens, *template.frame_after_ids]
    return torch.cat([torch.tensor(frame * num_frames, device=text_ids.device), text_ids])[None]


@torch.inference_mode()
def llava_logits(model: VocoModel, pixels: Any, text_ids: Tensor, *, cache: Any = None) -> Tensor:
    """Hugging Face LLaVA's own prefill: frames uncompressed, one causal sequence. Logits ``[T, vocabulary]``.

    Args:
        cache: filled with keys and values when given, for questions that follow.
    """
    output = model.backbone.hf_model(
        input_ids=llava_prompt(model, len(pixels), text_ids),
        pixel_values=model.backbone.pixel_values(pixels),
        use_cache=cache is not None,
        logits_to_keep=len(text_ids),
        **{CACHE_ARGUMENT: cache},
    )
    return output.logits[0]


@torch.inference_mode()
def llava_logits_after(model: VocoModel, cache: Any, num_cached: int, text_ids: Tensor) -> Tensor:
    """Text after frames that Hugging Face LLaVA has in its cache, which is cut back to them. ``[T, vocabulary]``."""
    cache.crop(num_cached - cache.get_seq_length())  # a negative number: how many to drop
    output = model.backbone.hf_model(
        input_ids=text_ids[None], use_cache=True, logits_to_keep=len(text_ids), **{CACHE_ARGUMENT: cache}
    )
    return output.logits[0]


@torch.inference_mode()
def uncompressed_logits(model: VocoModel, pixels: Any, text_ids: Tensor) -> Tensor:
    """What `llava_logits` has to give, from this package's parts: ``[T, vocabulary]``."""
    frames = model.frame_sequence(model.vision_tokens(pixels), 0)  # [F, P, D]
    sequence = torch.cat([frames.flatten(0, 1), model.backbone.embed(text_ids)])[None]
    hidden = model.backbone.decoder(inputs_embeds=sequence, use_cache=False).last_hidden_state
    return model.backbone.logits(hidden[0, -len(text_ids) :])


@torch.inference_mode()
def greedy_by_recomputing(
    model: VocoModel, pixels: Any, text_ids: Tensor, *, num_voco_tokens: int, num_tokens: int
) -> list[int]:
    """An answer token by token, the whole published sequence run again for each."""
    ids = text_ids
    for _ in range(num_tokens):
        best = published_logits(model, pixels, ids, num_voco_tokens=num_voco_tokens)[-1].argmax()
        ids = torch.cat([ids, best[None]])
    return ids[len(text_ids) :].tolist()


@torch.inference_mode()
def llava_generate(model: VocoModel, pixels: Any, text_ids: Sequence[int], *, num_tokens: int) -> list[int]:
    """Hugging Face LLaVA's own greedy generation from pixels."""
    ids = llava_prompt(model, len(pixels), torch.as_tensor(text_ids, device=model.backbone.device))
    output = model.backbone.hf_model.generate(
        ids,
        pixel_values=model.backbone.pixel_values(pixels),
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(max_new_tokens=num_tokens, do_sample=False, pad_token_id=0),  # no end token
    )
    return output[0, ids.shape[1] :].tolist()


@torch.inference_mode()
def llava_prefix(model: VocoModel, pixels: Any) -> Prefix:
    """Every vision token of the frames, run through Hugging Face LLaVA as one causal sequence, as a prefix for text."""
    cache = DynamicCache()
    ids = llava_prompt(model, len(pixels), torch.empty(0, dtype=torch.long, device=model.backbone.device))
    pixel_values = model.backbone.pixel_values(pixels)
    model.backbone.hf_model(
        input_ids=ids, pixel_values=pixel_values, use_cache=True, logits_to_keep=1, **{CACHE_ARGUMENT: cache}
    )
    layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    return Prefix(layers, ids.shape[1], torch.arange(ids.shape[1]).view(len(pixels), -1))
