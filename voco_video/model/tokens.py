"""What frames become: tokens that a cache can hold, and the prefix that text attends to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from voco_video.errors import UsageError
from voco_video.model.kv_layers import GrowingLayer, copied_cache
from voco_video.options.compression import Form


@dataclass(frozen=True)
class VocoTokens:
    """The VoCo tokens of F frames, in time order, or what another compressor keeps in their place.

    Attributes:
        form: ``"kv"`` or ``"embeds"``.
        positions: int32 ``[F, K]`` for ``kv``: the positions that the keys are rotated for. For ``embeds`` int32
            ``[F, K, C]``, counted from the frame's first token, where vision tokens have C coordinates; else None.
        keys, values: ``[F, layers, kv_heads, K, head_dim]`` for ``kv``.
        embeds: ``[F, K, D]`` for ``embeds``.
        can_truncate: whether the first k of a frame's K tokens can stand for it, as VoCo tokens can.
        seconds: float64 ``[F, P]``, the times of the P pictures of each frame; None where it is one picture.
    """

    form: Form
    positions: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    embeds: Tensor | None = None
    can_truncate: bool = True
    seconds: Tensor | None = None

    def __post_init__(self) -> None:
        expected = {"kv": ["positions", "keys", "values"], "embeds": ["embeds"]}[self.form]
        optional = {"seconds"} if self.form == "kv" else {"seconds", "positions"}
        if [name for name in self.tensors() if name not in optional] != expected:
            raise ValueError(f"form {self.form!r} holds {expected}, not {list(self.tensors())}")

    @property
    def num_frames(self) -> int:
        """F."""
        return next(iter(self.tensors().values())).shape[0]

    @property
    def num_voco_tokens(self) -> int:
        """K."""
        return next(reversed(self.tensors().values())).shape[-2]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, axis 0 being frames: what a frame cache stores."""
        names = ("seconds", "positions", "keys", "values", "embeds")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}

    def pin_memory(self) -> VocoTokens:
        """Return the tokens in pinned memory, from which a GPU copies without making the host wait."""
        return self._with({name: tensor.pin_memory() for name, tensor in self.tensors().items()})

    def first(self, num_voco_tokens: int) -> VocoTokens:
        """Keep the first k VoCo tokens of every frame: exactly what compressing with k tokens gives, being causal.

        Raises:
            UsageError: there are no k tokens, or the first k of them mean nothing without the others.
        """
        if not self.can_truncate and num_voco_tokens != self.num_voco_tokens:
            raise UsageError(
                f"num_voco_tokens={num_voco_tokens}: these frames hold {self.num_voco_tokens} tokens each of another "
                "compressor, and only VoCo tokens can be cut to their first few; leave it out"
            )
        if not self.can_truncate:
            return self
        if not 1 <= num_voco_tokens <= self.num_voco_tokens:
            raise UsageError(
                f"num_voco_tokens={num_voco_tokens}: these frames were compressed to {self.num_voco_tokens} VoCo "
                f"tokens, so choose 1 to {self.num_voco_tokens}"
            )
        first = slice(num_voco_tokens)
        cut = {n: t[:, first] if n == "positions" else t[..., first, :] for n, t in self.tensors().items()}
        if self.seconds is not None:
            cut["seconds"] = self.seconds
        return self._with(cut)

    def __getitem__(self, frames: slice) -> VocoTokens:
        """Return a range of frames."""
        return self._with({n: t[frames] for n, t in self.tensors().items()})

    @staticmethod
    def cat(parts: Sequence[VocoTokens]) -> VocoTokens:
        """Join the frames of several parts, one after the other."""
        names = parts[0].tensors()
        return parts[0]._with({n: torch.cat([p.tensors()[n] for p in parts]) for n in names})

    def _with(self, tensors: dict[str, Tensor]) -> VocoTokens:
        return replace(self, **tensors)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Prefix:
    """What the text attends to: the frames' keys and values per layer, assembled once for any number of questions.

    Attributes:
        layers: per layer ``(keys, values)``, each ``[1, kv_heads, S, head_dim]`` and contiguous.
        text_start: position of the first text token.
        frame_slots: cache slot of each VoCo token, ``[F, k]``; ``layers[l][0][0, :, frame_slots[f]]`` is frame f.
            -1 where a frame is seen with fewer than k.
        form: what it was assembled from.
        prompt_ids: tokens that stand here before the text, placeholders of frames included, where a checkpoint's
            penalty for repetition has to know them; empty where only the text counts.
        state: in place of ``layers``, the library's own cache of one row, for decoders whose layers keep something else
            than all keys and values; it is never written to.
        inputs: in place of both, the decoder's arguments that would have filled them, ``inputs_embeds`` ``[1, S, D]``
            among them: for an engine outside this process, which reads them itself.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    text_start: int
    frame_slots: Tensor
    form: Form = "kv"
    prompt_ids: tuple[int, ...] = ()
    state: Cache | None = None
    inputs: Mapping[str, Any] | None = None

    @property
    def length(self) -> int:
        """S: slots that every text token attends to; with a ``state``, the tokens that went into it."""
        if self.state is not None:
            return self.state.get_seq_length()
        if self.inputs is not None:
            return int(self.inputs["inputs_embeds"].shape[1])
        return self.layers[0][0].shape[-2] if self.layers else 0

    def to_cache(self, batch_size: int = 1) -> Cache:
        """Make a fresh cache for `transformers` that begins with this prefix, shared (not copied) until it grows.

        A ``state`` is copied: passes write into it.
        """
        assert self.inputs is None, "the decoder has not read this prefix"
        if self.state is not None:
            return copied_cache(self.state, batch_size)
        cache = DynamicCache()
        for keys, values in self.layers:
            cache.layers.append(GrowingLayer(*(t.expand(batch_size, -1, -1, -1) for t in (keys, values))))
        return cache
