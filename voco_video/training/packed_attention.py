"""Packed attention: one pass over frames, as a batch of short causal sequences, and over text that sees some of them.

Training needs gradients through the compressor, and gradient checkpointing drops ``past_key_values``; so frames and
text go through the decoder together, as one row of tokens:

    [ frame 0 | frame 1 | ... | frame ΣF-1 | text of sample 0 | ... | text of sample B-1 ]        [1, ΣF*L + ΣT]

Everything but attention treats tokens alike. Attention, given a `PackedLayout`, runs the ΣF frames as a causal batch
and every text over the last ``kept`` tokens of its own frames and its own earlier tokens: cost grows linearly with
frames. It is registered through the library's public interface under `PACKED`, and is ordinary SDPA without a layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from voco_video.errors import ModelError
from voco_video.model.positions import CompactLayout
from voco_video.training.interleaved import Interleaved

PACKED = "voco_packed"


@dataclass(frozen=True)
class PackedLayout:
    """Which tokens of a packed row are frames, which are text, and what each text sees.

    Attributes:
        num_frames: frames of each sample, ``[B]``.
        frame_length: L: tokens of every frame's sequence.
        kept: how many of a frame's last tokens the text sees: k VoCo tokens, or all L for full visibility.
        text_lengths: tokens of each text, ``[B]``; only attention pads them, to T, the longest.
        num_spare_frames: frames at the end of the frame batch that belong to no sample.
        prefix: in place of frames in the row, per layer the keys and values ``[B, kv_heads, S, head_dim]`` that text
            sees, already rotated to their places.
        frame_positions: positions of a frame's sequence from its start, int64 ``[C, L]``; 0 to L - 1 when None.
        interleaved: where each sample's frames and text stand, where there is text between frames.
    """

    num_frames: tuple[int, ...]
    frame_length: int
    kept: int
    text_lengths: tuple[int, ...]
    num_spare_frames: int = 0
    prefix: tuple[tuple[Tensor, Tensor], ...] | None = None
    frame_positions: Tensor | None = None
    interleaved: tuple[Interleaved, ...] | None = None
    _on_device: dict[tuple[str, torch.device], Tensor] = field(default_factory=dict, init=False, repr=False)

    def index_on(self, device: torch.device, name: Literal["text_places", "text_index", "slot_index"]) -> Tensor:
        """Return one of these on a device, brought there once: every layer takes it."""
        key = name, device
        if key not in self._on_device:
            self._on_device[key] = getattr(self, name)().to(device, non_blocking=True)
        return self._on_device[key]

    @property
    def total_frames(self) -> int:
        """ΣF: frames in the row."""
        return 0 if self.prefix is not None else sum(self.num_frames) + self.num_spare_frames

    @property
    def frame_tokens(self) -> int:
        """ΣF * L: where the text begins in the row."""
        return self.total_frames * self.frame_length

    @property
    def prefix_length(self) -> int:
        """S: slots before the text, those of the sample with the most frames."""
        return max(self.num_frames) * self.kept

    @property
    def longest_text(self) -> int:
        """T: tokens of the longest text."""
        return max(self.text_lengths)

    @property
    def has_padding(self) -> bool:
        """Whether texts differ in length."""
        return len(set(self.text_lengths)) > 1

    @property
    def is_ragged(self) -> bool:
        """Whether samples differ in their number of frames."""
        return len(set(self.num_frames)) > 1

    def text_start(self, num_frames: int) -> int:
        """Return the position of the first text token after that many frames."""
        if num_frames == 0:
            return 0
        return self._compact(num_frames).text_start

    def _within(self) -> Tensor:
        """Return the positions of a frame's sequence from its start, ``[C, L]``."""
        return torch.arange(self.frame_length)[None] if self.frame_positions is None else self.frame_positions

    def _compact(self, num_frames: int) -> CompactLayout:
        """Return the layout of frames that take as many positions as their kept tokens span."""
        kept = self._within()[:, self.frame_length - self.kept :].amax(0)  # [kept]
        first = int(kept.min())
        return CompactLayout(first, int(kept.max()) - first + 1, num_frames)

    def position_ids(self) -> Tensor:
        """Compute the row's compact positions, int64 ``[1, ΣF*L + ΣT]``, or with three coordinates ``[3, 1, ...]``."""
        within = self._within()
        if self.interleaved is not None:
            return self._interleaved_ids(within)
        counts = (*self.num_frames, self.num_spare_frames) if self.prefix is None else ()
        step = self._compact(1).num_voco_tokens if self.total_frames else 0
        frames = [f * step + within for count in counts for f in range(count)]
        pairs = zip(self.num_frames, self.text_lengths, strict=True)
        texts = [(self.text_start(count) + torch.arange(length)).expand(len(within), -1) for count, length in pairs]
        row = torch.cat([*frames, *texts], dim=1)  # [C, ΣF*L + ΣT]
        return row if len(row) == 1 else row[:, None]

    def _interleaved_ids(self, within: Tensor) -> Tensor:
        """Compute the positions of a row whose texts stand among its frames.

        A frame's sequence is moved so that its kept tokens stand at their places. What is before them then stands below
        0 at times, which no token sees but those of the same frame.
        """
        assert self.interleaved is not None
        kept = within - within.amax(0)[self.frame_length - self.kept :].min() if self.total_frames else within
        starts = torch.cat([sample.frames for sample in self.interleaved]) if self.total_frames else torch.zeros(0)
        frames = [kept + int(start) for start in starts] + [within] * (
            self.num_spare_frames if self.total_frames else 0
        )
        texts = [sample.text.expand(len(within), -1) for sample in self.interleaved]
        row = torch.cat([*frames, *texts], dim=1)  # [C, ΣF*L + ΣT]
        return row if len(row) == 1 else row[:, None]

    def text_mask(self) -> Tensor:
        """Build the mask of texts, bool ``[B, 1, T, S + T]``: a token sees its sample's slots and text up to itself.

        Where text stands among frames, it sees the slots of frames before it.
        """
        longest, num_texts = self.longest_text, len(self.num_frames)
        num_seen = torch.tensor(self.num_frames)[:, None].repeat(1, longest)  # [B, T], frames that a token sees
        for row, sample in enumerate(self.interleaved or ()):
            num_seen[row, : len(sample.text)] = sample.frames_before
        slots = torch.arange(self.prefix_length) < num_seen[..., None] * self.kept  # [B, T, S]
        earlier = torch.ones(longest, longest, dtype=torch.bool).tril()
        return torch.cat([slots, earlier.expand(num_texts, -1, -1)], dim=-1)[:, None]

    def text_index(self) -> Tensor:
        """Return the token at each place of the padded texts (any token at padding), ``[B * T]``."""
        starts = torch.tensor([0, *self.text_lengths[:-1]]).cumsum(0)  # [B]
        within = torch.arange(self.longest_text).expand(len(starts), -1)
        return (starts[:, None] + within.minimum(torch.tensor(self.text_lengths)[:, None] - 1)).flatten()

    def text_places(self) -> Tensor:
        """Return each text token's place in the padded texts, ``[ΣT]``."""
        within = torch.arange(self.longest_text).expand(len(self.text_lengths), -1)
        return (within < torch.tensor(self.text_lengths)[:, None]).flatten().nonzero()[:, 0]

    def slot_index(self) -> Tensor:
        """Return the kept token for each slot before each text (any token for empty slots), ``[B * S]``."""
        starts = [0, *torch.tensor(self.num_frames).cumsum(0).tolist()]
        rows = [
            start * self.kept + torch.arange(self.prefix_length).clamp_max(max(count * self.kept - 1, 0))
            for start, count in zip(starts, self.num_frames, strict=False)
        ]
        last = self.total_frames * self.kept - 1  # a last sample without frames would point past the end
        return torch.cat(rows).clamp_max(max(last, 0))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    packed: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute one layer's attention over a packed row; plain SDPA without a layout.

    Args:
        query: ``[1, heads, ΣF*L + ΣT, head_dim]``; key and value with ``kv_heads``.
        attention_mask: `PackedLayout.text_mask`.

    Returns:
        ``[1, ΣF*L + ΣT, heads, head_dim]`` and None, as the library's interface asks.
    """
    if packed is None:
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    if kwargs.get("sliding_window"):
        raise ModelError("a decoder with sliding-window attention cannot be trained on packed frames")
    groups = query.shape[1] // key.shape[1]
    frames = [_frame_batch(tensor, packed) for tensor in (query, key, value)]  # [ΣF, heads, L, head_dim]
    texts = [_text_batch(tensor, packed) for tensor in (query, key, value)]  # [B, heads, T, head_dim]
    if packed.prefix_length:
        if packed.prefix is not None:
            seen = packed.prefix[module.layer_idx]  # type: ignore[index]
        else:
            seen = (_kept_slots(frames[1], packed), _kept_slots(frames[2], packed))
        texts[1:] = [torch.cat([s, t], dim=2) for s, t in zip(seen, texts[1:], strict=True)]
    text_keys, text_values = (tensor.repeat_interleave(groups, dim=1) for tensor in texts[1:])
    answered = nn.functional.scaled_dot_product_attention(
        texts[0], text_keys, text_values, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )  # [B, heads, T, head_dim]
    rows = [answered.transpose(1, 2).flatten(0, 1)]  # [B * T, heads, head_dim]
    if packed.has_padding:
        rows[0] = rows[0][packed.index_on(query.device, "text_places")]  # [ΣT, heads, head_dim]
    if packed.total_frames:
        frame_keys, frame_values = (tensor.repeat_interleave(groups, dim=1) for tensor in frames[1:])
        compressed = nn.functional.scaled_dot_product_attention(
            frames[0], frame_keys, frame_values, dropout_p=dropout, scale=scaling, is_causal=True
        )  # [ΣF, heads, L, head_dim]
        rows.insert(0, compressed.transpose(1, 2).flatten(0, 1))
    return torch.cat(rows)[None], None


def _frame_batch(tensor: Tensor, packed: PackedLayout) -> Tensor:
    """Cut the frames out of a row: ``[1, heads, ΣF*L + ΣT, head_dim] -> [ΣF, heads, L, head_dim]``."""
    rows = tensor[0, :, : packed.frame_tokens]
    return rows.unflatten(1, (packed.total_frames, packed.frame_length)).transpose(0, 1)


def _text_batch(tensor: Tensor, packed: PackedLayout) -> Tensor:
    """Cut the texts out of a row and pad them: ``[1, heads, ΣF*L + ΣT, head_dim] -> [B, heads, T, head_dim]``."""
    rows = tensor[0, :, packed.frame_tokens :].transpose(0, 1)  # [ΣT, heads, head_dim]
    if packed.has_padding:
        rows = rows[packed.index_on(rows.device, "text_index")]  # [B * T, heads, head_dim]
    return rows.unflatten(0, (len(packed.num_frames), packed.longest_text)).transpose(1, 2)


def _kept_slots(frames: Tensor, packed: PackedLayout) -> Tensor:
    """Gather what text sees of the frames: ``[ΣF, heads, L, head_dim] -> [B, heads, S, head_dim]``."""
    kept = frames[:, :, packed.frame_length - packed.kept :].transpose(1, 2).flatten(0, 1)  # [ΣF * kept, heads, d]
    if packed.is_ragged:
        kept = kept[packed.index_on(kept.device, "slot_index")]
    else:
        kept = kept[: len(packed.num_frames) * packed.prefix_length]
    return kept.unflatten(0, (len(packed.num_frames), packed.prefix_length)).transpose(1, 2)


def pad_prefix(rows: Sequence[Tensor]) -> Tensor:
    """Pad samples' keys or values of a layer, ``[kv_heads, S_b, head_dim]``, to ``[B, kv_heads, S, head_dim]``."""
    longest = max(row.shape[1] for row in rows)
    return torch.stack([nn.functional.pad(row, (0, 0, 0, longest - row.shape[1])) for row in rows])


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
