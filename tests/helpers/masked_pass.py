"""Words and frames as trained, in one pass written out: what the assembled prefix has to agree with.

Form ``kv``: every frame stands in the row behind its own copy of what opens a conversation, and sees nothing else.
Words see what is kept of the frames before them. Form ``embeds``: one causal row of words and of what is kept; with
Gemma 3, a frame's vision tokens see each other, and some layers no further than a window.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.helpers.as_trained import Shown, Turns, compressed, system_of, text_ids
from voco_video.model.compressors import average_pooled, checked_pooled_shape
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Form, parse_compressor


@dataclass
class _Row:
    """A row of tokens: embeddings ``[W]`` each, positions ``[C]``, the frame of each (-1 for words), if it is kept.

    ``vision`` are the places of the vision tokens of each frame.
    """

    embeds: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    vision: list[range] = field(default_factory=list)

    def add(self, embeds: Tensor, positions: Tensor, frame: int, kept: list[bool]) -> None:
        self.embeds += list(embeds)
        self.positions += list(positions.T)
        self.frames += [frame] * len(embeds)
        self.kept += kept

    def mask(self) -> Tensor:
        """What each token sees, additive ``[T, T]``: a frame itself alone, words what is kept before them."""
        size = len(self.frames)
        frames, kept = torch.tensor(self.frames), torch.tensor(self.kept)
        seen = torch.where(frames[:, None] < 0, kept[None], frames[:, None] == frames[None])
        seen &= torch.ones(size, size, dtype=torch.bool).tril()
        return torch.zeros(size, size).masked_fill(~seen, float("-inf"))

    def gemma_masks(self, window: int) -> dict[str, Tensor]:
        """What each token sees by kind of layer, additive ``[1, 1, T, T]``."""
        size = len(self.frames)
        masks = {kind: torch.full((size, size), float("-inf")) for kind in ("full_attention", "sliding_attention")}
        for row in range(size):
            ahead = next((places.stop for places in self.vision if row in places), row + 1)
            masks["full_attention"][row, :ahead] = 0
            masks["sliding_attention"][row, max(0, row - window + 1) : ahead] = 0
        return {kind: mask[None, None] for kind, mask in masks.items()}


@torch.inference_mode()
def one_pass(model: VocoModel, shown: Shown, turns: Turns, compressor: str, form: Form) -> Tensor:
    """Last logits ``[vocabulary]`` behind a conversation about a video."""
    backbone, video = model.backbone, compressed(model, shown, compressor, form)
    template, leads = backbone.template, video.leads(system_of(turns))
    vision, grid = _vision_tokens(model, shown, compressor)
    is_voco = compressor == "voco"
    sequence = model.frame_sequence(vision, None if is_voco else 0)  # [F, L, W]
    places = backbone.frame_positions(sequence.shape[1], grid=grid)  # [C, L]
    first = sequence.shape[1] - model.num_voco_tokens if is_voco else len(template.context_ids)
    span = int(places[:, first:].max() - places[:, first:].min()) + 1
    offsets = None if is_voco else backbone.family.time_positions(video.times.starts, backbone.hf_model.config)
    shares_place = backbone.family.shares_place and offsets is not None
    row, end, begun, first_time = _Row(), 0, 0, 0

    def add_words(embeds: Tensor) -> None:
        nonlocal end
        at = torch.arange(end, end + len(embeds)).expand(len(places), -1)
        row.add(backbone.widened(embeds, sequence.shape[2]), at, -1, [True] * len(embeds))
        end += len(embeds)

    for f, lead in enumerate(leads[: video.tokens.num_frames]):
        begins = not shares_place or bool(lead) or f == 0
        if lead:
            add_words(backbone.embed(lead))
        if begins:
            begun, first_time = end, int(offsets[f]) if offsets is not None else 0
        at = places + (begun - int(places[:, first:].min()))
        if shares_place:
            assert offsets is not None
            at[0] += int(offsets[f]) - first_time
        if form == "kv":
            row.add(sequence[f], at, f, [i >= first for i in range(sequence.shape[1])])
        else:
            assert video.tokens.embeds is not None
            kept = backbone.widened(video.tokens.embeds[f], sequence.shape[2])
            if not is_voco:
                begins_at = len(row.frames) + len(template.frame_before_ids) - len(template.context_ids)
                row.vision.append(range(begins_at, begins_at + vision.shape[1]))
            row.add(kept, at[:, first:], -1, [True] * len(kept))
        goes_on = int(at[:, first:].max()) + 1 if backbone.template.as_trained.variant == "released" else begun + span
        end = max(end, goes_on)
    for lead in leads[video.tokens.num_frames :]:
        add_words(backbone.embed(lead))
    learned = backbone.family.after_embeds(backbone.hf_model)
    if learned is not None:
        add_words(learned)
    text = text_ids(model, turns)
    add_words(backbone.embed(text))
    return _last_logits(model, row)


def _last_logits(model: VocoModel, row: _Row) -> Tensor:
    backbone = model.backbone
    inputs = backbone.decoder_inputs(torch.stack(row.embeds)[None])
    positions = torch.stack(row.positions, dim=1)[:, None]  # [C, 1, T]
    is_gemma = backbone.hf_model.config.model_type == "gemma3"
    hidden = backbone.decoder(
        **inputs,
        attention_mask=row.gemma_masks(backbone.text_config.sliding_window) if is_gemma else row.mask()[None, None],
        position_ids=positions if len(positions) > 1 else positions[0],
        use_cache=False,
    ).last_hidden_state
    logits: Tensor = backbone.logits(hidden)[0, -1]
    return logits


def _vision_tokens(model: VocoModel, shown: Shown, compressor: str) -> tuple[Tensor, tuple[int, int]]:
    pixels, size = shown.pixels, model.backbone.template.pictures_per_frame
    missing = -len(pixels) % size
    pictures = torch.from_numpy(pixels)
    pictures = torch.cat([pictures, pictures[-1:].expand(missing, -1, -1, -1)])
    tokens, grid = model.vision_tokens(pictures.numpy()), model.backbone.grid_of(*pixels.shape[1:3])
    num_tokens = parse_compressor(compressor).num_tokens
    if num_tokens is None:
        return tokens, grid
    shape = checked_pooled_shape(grid, num_tokens)
    return average_pooled(tokens, grid, shape), shape
