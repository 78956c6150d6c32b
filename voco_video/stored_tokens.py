"""Tokens of frames as a cache entry holds them: reading them back, and what an entry says about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from blake3 import blake3

from voco_video.cache import CacheEntry, FrameCache
from voco_video.cache.int8 import dequantize, quantize
from voco_video.errors import CacheError, ModelError, UsageError
from voco_video.model.inference import undisturbed
from voco_video.model.memory import Frames
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Compressor, Form, parse_compressor

Storage = Literal["native", "int8"]
INT8_MAX_LOGIT_ERROR = 0.1
"""int8 is refused where it moves the logits after a probe by more than this share of their standard deviation."""
_QUANTIZED = ("keys", "values", "embeds")
_PIXELS, _PIXELS_BYTES = "pixels_blake3", 16


def stored_tensors(tokens: VocoTokens, storage: Storage) -> dict[str, torch.Tensor]:
    """Turn tokens into what a frame cache stores, ``[F, ...]`` by name; `read_tokens` is the inverse."""
    tensors = {name: tensor.cpu() for name, tensor in tokens.tensors().items()}
    return quantize(tensors, names=_QUANTIZED) if storage == "int8" else tensors


def stored_frames(
    tokens: VocoTokens, frames: Frames, storage: Storage, *, earlier: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Turn frames into what a frame cache stores: `stored_tensors` of their tokens, and a digest of the pixels of each.

    Args:
        earlier: tensors of the entry so far, by name: one that was begun without digests goes on without them.
    """
    tensors = stored_tensors(tokens, storage)
    if frames.pixels.size and (not earlier or _PIXELS in earlier):
        digests = [blake3(np.ascontiguousarray(one).data).digest(_PIXELS_BYTES) for one in frames.pixels]
        # One row: the cache can then read the digests alone, without the tokens.
        tensors[_PIXELS] = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(len(digests), 1, -1)
    return tensors


def pixel_digests(entry: CacheEntry, start: int = 0, stop: int | None = None) -> list[bytes] | None:
    """Read the digests of the pixels that frames ``start:stop`` were made of, 16 bytes each.

    None where the entry has none: it was made before there were digests, or of no pixels.

    Raises:
        CacheError: the entry is damaged.
    """
    if _PIXELS not in entry.tensors:
        return None
    return [bytes(row.tolist()) for row in entry.read_row([_PIXELS], 0, start, stop)[_PIXELS]]


@undisturbed()
def checked_int8_error(model: VocoModel, tokens: VocoTokens) -> float:
    """Measure how far int8 moves the next-token logits after a probe, as a share of their standard deviation.

    Raises:
        ModelError: further than `INT8_MAX_LOGIT_ERROR`.
    """
    tensors = dequantize(stored_tensors(tokens, "int8"), dtype=model.backbone.dtype)
    restored = VocoTokens(tokens.form, can_truncate=tokens.can_truncate, **tensors)
    ids = (*model.backbone.template.frame_before_ids, *model.backbone.template.text_before_ids)
    probe = torch.tensor([ids or (0,)], device=model.backbone.device)
    exact, moved = (model(probe, prefix=model.prefix(t))[0].float() for t in (tokens, restored))
    error = float((exact - moved).abs().max() / exact.std())
    if error > INT8_MAX_LOGIT_ERROR:
        raise ModelError(
            f"storage='int8' moves the logits by {error:.3f} of their spread (limit {INT8_MAX_LOGIT_ERROR}); "
            "use storage='native' for this model"
        )
    return error


def compressor_of(entry: CacheEntry) -> Compressor:
    """Return the compressor that made an entry.

    Raises:
        CacheError: this version does not know it.
    """
    name = entry.key.settings.get("compressor", "voco")
    try:
        return parse_compressor(str(name))
    except UsageError as error:
        raise _unreadable(entry, f"was made by compressor {name!r}") from error


def form_of(entry: CacheEntry) -> Form:
    """Tell by an entry's tensors what it keeps of each token.

    Raises:
        CacheError: they are of neither form.
    """
    names = {name.partition(".")[0] for name in entry.tensors} - {"seconds", _PIXELS}
    if names not in ({"positions", "keys", "values"}, {"embeds"}, {"positions", "embeds"}):
        raise _unreadable(entry, f"holds {', '.join(sorted(names))}")
    return "embeds" if "embeds" in names else "kv"


def dtype_of(entry: CacheEntry) -> torch.dtype:
    """Tell the type that an entry's tokens have once they are read.

    Raises:
        CacheError: neither settings nor tensors tell.
    """
    dtype = getattr(torch, str(entry.key.settings.get("dtype")), None)
    if dtype is None:  # settings are optional; tensors that are not int8 have the type themselves
        dtype = next((entry.tensors[name].dtype for name in ("values", "embeds") if name in entry.tensors), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise _unreadable(entry, f"does not tell the type of its tokens (dtype is {entry.key.settings.get('dtype')!r})")
    return dtype


def tokens_per_frame(entry: CacheEntry) -> int:
    """Return K: tokens that an entry holds of each frame, VoCo tokens or others.

    Raises:
        CacheError: it holds no tokens.
    """
    name = "embeds" if form_of(entry) == "embeds" else "keys"
    shape = entry.tensors[name if name in entry.tensors else f"{name}.int8"].shape
    if len(shape) < 2:
        raise _unreadable(entry, f"holds {name} of shape {list(shape)} for a frame")
    return shape[-2]


def read_tokens(entry: CacheEntry, start: int = 0, stop: int | None = None) -> VocoTokens:
    """Read the tokens of frames ``start:stop`` of an entry; only the segments that overlap are read.

    Raises:
        CacheError: the entry is damaged, or holds something else than tokens.
    """
    form, dtype, can_truncate = form_of(entry), dtype_of(entry), compressor_of(entry).name == "voco"
    tensors = {name: tensor for name, tensor in entry.read(start, stop).items() if name != _PIXELS}
    return VocoTokens(form, can_truncate=can_truncate, **dequantize(tensors, dtype=dtype))


def videos_with_frames_first(model: VocoModel, cache: FrameCache) -> frozenset[str]:
    """Find the videos that a model's family compressed with frames before all words, though it was trained otherwise.

    Returns:
        Their digests; those of no video for a model that still reads frames first.
    """
    template, config = model.backbone.template, model.backbone.text_config
    if template.as_trained is None:
        return frozenset()
    own = list(template.frame_before_ids[len(template.context_ids) :])
    found = set()
    for entry in cache.entries():
        old = entry.key.settings.get("template")
        if not isinstance(old, dict) or "as_trained" in old or not _has_size(entry, config):
            continue
        before = old.get("frame_before_ids") or []
        if before[len(before) - len(own) :] == own or before == [config.bos_token_id]:
            found.add(entry.key.video_digest)
    return frozenset(found)


def _has_size(entry: CacheEntry, config: Any) -> bool:
    """Tell whether an entry's tokens could be those of a decoder."""
    shapes = {name.partition(".")[0]: spec.shape for name, spec in entry.tensors.items()}
    if "embeds" in shapes:
        return bool(shapes["embeds"][-1] == config.hidden_size)
    return "keys" in shapes and bool(shapes["keys"][0] == config.num_hidden_layers)


def _unreadable(entry: CacheEntry, what: str) -> CacheError:
    return CacheError(
        f"cache entry {entry.digest[:12]} {what}, which this voco-video cannot read; compress the video again with "
        f"--force, or delete the entry with `voco-video cache rm {entry.digest[:12]}`"
    )
