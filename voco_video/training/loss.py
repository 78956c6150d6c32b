"""The training forward pass: frames and text in one packed row, loss on answers, accuracy per turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from voco_video.errors import UsageError
from voco_video.model.tokens import Prefix, VocoTokens
from voco_video.model.trained_prefix import placed_frames
from voco_video.model.voco import VocoModel
from voco_video.training.batches import IGNORED, LEARNED, TrainingBatch
from voco_video.training.interleaved import Interleaved, interleave
from voco_video.training.packed_attention import PACKED, PackedLayout, pad_prefix

_SUMMED = ("loss", "cross_entropy", "num_labels", "num_correct")


@dataclass(frozen=True)
class AnswerLogits:
    """A batch's predictions for its labelled tokens.

    Attributes:
        logits: ``[M, vocabulary]`` at the M positions that predict a labelled token.
        labels: ``[M]``.
        rows, turns: ``[M]``: sample and turn of each.
        untouched: a zero that depends on every trainable part that the batch does not use, for gradient reduction.
    """

    logits: Tensor
    labels: Tensor
    rows: Tensor
    turns: Tensor
    untouched: Tensor


class TrainableVoco(nn.Module):
    """A `VocoModel` with the loss that both stages train on.

    Args:
        model: weights of the trained parts have ``requires_grad``.
        distillation_weight: weight of the divergence from the model's own full-visibility answers; 0 for none.
            Source: VoCo-LLaMA (arXiv:2406.12275), equation 5.
    """

    def __init__(self, model: VocoModel, *, distillation_weight: float = 0.0) -> None:
        super().__init__()
        self.voco = model
        self.distillation_weight = distillation_weight
        # FSDP reads this attribute: the modules that it keeps in one shard.
        self._no_split_modules = model.backbone.hf_model._no_split_modules
        model.backbone.decoder.set_attn_implementation(PACKED)  # SDPA wherever no packed layout is given

    def forward(self, batch: TrainingBatch, *, num_items_in_batch: Tensor | int | None = None) -> dict[str, Tensor]:
        """Compute loss and accuracy of a batch.

        Args:
            num_items_in_batch: labelled tokens to divide by, if several batches make one step; default this batch's.

        Returns:
            ``loss``; ``cross_entropy``, ``num_labels`` and ``num_correct``, summed over labelled tokens; and for each
            of these tokens whether it is the likeliest (``correct``), its sample and its turn (``rows``, ``turns``),
            ``[M]``.
        """
        if batch.parts:  # frames of one size at a time
            outputs = [self(part, num_items_in_batch=num_items_in_batch or 1) for part in batch.parts]
            return _joined(outputs, batch.parts, divide=num_items_in_batch is None)
        vision_tokens = None if batch.pixels is None else self.voco.vision_tokens(batch.pixels)  # [ΣF, N, W]
        answers = self.answer_logits(batch, vision_tokens)
        cross_entropy = nn.functional.cross_entropy(answers.logits.float(), answers.labels, reduction="sum")
        loss = cross_entropy
        if self.distillation_weight and batch.visibility.num_voco_tokens is not None and vision_tokens is not None:
            loss = loss + self.distillation_weight * self._divergence(batch, vision_tokens.detach(), answers)
        num_labels = answers.labels.numel()
        correct = answers.logits.argmax(-1) == answers.labels
        return {
            "loss": loss / (num_labels if num_items_in_batch is None else num_items_in_batch) + answers.untouched,
            "cross_entropy": cross_entropy.detach(),
            "num_labels": torch.tensor(num_labels).to(loss.device, non_blocking=True),
            "num_correct": correct.sum(),
            "correct": correct,
            "rows": answers.rows,
            "turns": answers.turns,
        }

    def _divergence(self, batch: TrainingBatch, vision_tokens: Tensor, student: AnswerLogits) -> Tensor:
        """Compute KL(full visibility || VoCo tokens), summed over labelled tokens; the teacher gets no gradient."""
        with torch.no_grad():
            teacher = self._at_full_visibility(batch, vision_tokens)
        return nn.functional.kl_div(
            student.logits.float().log_softmax(-1),
            teacher.logits.float().log_softmax(-1),
            reduction="sum",
            log_target=True,
        )

    def answer_logits(self, batch: TrainingBatch, vision_tokens: Tensor | None) -> AnswerLogits:
        """Compute the logits at every position that predicts a labelled token.

        Args:
            vision_tokens: ``[ΣF, N, D]``, or None for a batch from a frame cache.
        """
        k = batch.visibility.num_voco_tokens
        if vision_tokens is None:
            return self._from_cache(batch)
        if k is None:
            return self._at_full_visibility(batch, vision_tokens)
        if batch.visibility.form == "embeds":
            return self._fed_back(batch, vision_tokens, num_voco_tokens=k)
        return self._packed(batch, vision_tokens, num_voco_tokens=k)

    def _at_full_visibility(self, batch: TrainingBatch, vision_tokens: Tensor) -> AnswerLogits:
        """Run one pass over all tokens of frames: each frame alone, or all in one sequence as the model was trained."""
        if self.voco.backbone.template.as_trained is None:
            return self._packed(batch, vision_tokens, num_voco_tokens=None)
        sequence = self.voco.frame_sequence(vision_tokens, 0)  # [ΣF, L, W]
        start = len(self.voco.backbone.template.context_ids)
        grid = _grid(self.voco, batch)
        positions = self.voco.backbone.frame_positions(sequence.shape[1], grid=grid)[:, start:].T - start  # [K, C]
        frames = sequence[:, start:]
        untouched = self._zero(None) + 0.0 * frames.sum()  # a spare frame belongs to no sample
        return self._after_embeds(batch, frames, untouched, positions=positions, is_vision=True)

    def _packed(self, batch: TrainingBatch, vision_tokens: Tensor, *, num_voco_tokens: int | None) -> AnswerLogits:
        """Run one pass over frames and text, for keys and values or, with frames first, full visibility."""
        self.voco.check_form("kv")
        frames = self._frame_sequence(vision_tokens, num_voco_tokens)  # [ΣF, L, D]
        layout = PackedLayout(
            num_frames=batch.num_frames,
            frame_length=frames.shape[1],
            kept=num_voco_tokens or frames.shape[1],
            text_lengths=batch.text_lengths,
            num_spare_frames=len(frames) - sum(batch.num_frames),
            frame_positions=self.voco.backbone.frame_positions(frames.shape[1], grid=_grid(self.voco, batch)),
            interleaved=self._interleaved(batch, span=num_voco_tokens or 0),
        )
        hidden = self._run(layout, frames, batch.input_ids)  # [ΣF*L + ΣT, D]
        untouched = self._zero(num_voco_tokens)
        if layout.num_spare_frames:
            untouched = untouched + 0.0 * hidden[: layout.frame_tokens].sum()
        return self._at_labels(batch, hidden[layout.frame_tokens :], untouched)

    def _run(self, layout: PackedLayout, frames: Tensor | None, input_ids: Tensor) -> Tensor:
        """Run the decoder over a packed row and return the last hidden states ``[ΣF*L + ΣT, D]``."""
        backbone = self.voco.backbone
        row = self._embed(input_ids.flatten()[layout.text_places()])  # [ΣT, D]
        if frames is not None:
            row = torch.cat([frames.flatten(0, 1), backbone.widened(row, frames.shape[2])])
        hidden: Tensor = backbone.decoder(
            **backbone.decoder_inputs(row[None]),
            attention_mask=layout.text_mask().to(row.device, non_blocking=True),
            position_ids=layout.position_ids().to(row.device, non_blocking=True),
            use_cache=False,
            packed=layout,
        ).last_hidden_state
        return hidden[0]

    def _fed_back(self, batch: TrainingBatch, vision_tokens: Tensor, *, num_voco_tokens: int) -> AnswerLogits:
        """Run one pass over frames, then one over the embeddings that it gave, followed by text."""
        sequence = self.voco.frame_sequence(vision_tokens, num_voco_tokens)  # [ΣF, L, D]
        grid = _grid(self.voco, batch)
        hidden = self.voco.backbone.decode_frames(sequence, grid=grid, use_cache=False).last_hidden_state
        embeds = hidden[:, -num_voco_tokens:]  # [ΣF, k, D]
        return self._after_embeds(batch, embeds, self._zero(num_voco_tokens) + 0.0 * embeds.sum())

    def _after_embeds(
        self,
        batch: TrainingBatch,
        frames: Tensor,
        untouched: Tensor,
        *,
        positions: Tensor | None = None,
        is_vision: bool = False,
    ) -> AnswerLogits:
        """Run frames as input embeddings and the text as one sequence for each sample.

        Args:
            frames: ``[ΣF, K, W]``, of all samples and perhaps spare ones behind.
            positions: of a frame's tokens from its first, ``[K, C]``; 0 to K - 1 when None.
            is_vision: they are vision tokens, and not VoCo tokens.
        """
        backbone, length = self.voco.backbone, frames.shape[1]
        positions = torch.arange(length)[:, None] if positions is None else positions
        places = self._interleaved(batch, span=int(positions.max()) + 1 if length else 0, is_vision=is_vision)
        words = backbone.widened(self._embed(batch.input_ids), frames.shape[2])  # [B, T, W]
        parts = frames[: sum(batch.num_frames)].to(words).split(list(batch.num_frames))
        before = backbone.widened(backbone.embed(backbone.template.frame_before_ids), frames.shape[2])
        vision = backbone.template.vision_slice(length) if is_vision else slice(0)
        rows, texts, at, frame_ids = [], [], [], []
        for sample, (own, text_length) in enumerate(zip(parts, batch.text_lengths, strict=True)):
            text = words[sample, :text_length]
            if places is None:
                # Without frames there is no BOS either, as in `VocoModel.empty_prefix`.
                start = torch.cat([before, own.flatten(0, 1)]) if len(own) else before[:0]
                rows.append(torch.cat([start, text]))
                texts.append(torch.arange(len(start), len(start) + text_length))
            else:
                in_frames, in_text = places[sample].order(length)
                row = torch.cat([own.flatten(0, 1), text])
                rows.append(row[torch.cat([in_frames, in_text]).argsort().to(row.device, non_blocking=True)])
                texts.append(in_text)
                at.append(_row_positions(places[sample], positions, in_frames, in_text))
                ids = torch.full((len(row),), -1)
                ids[in_frames.view(-1, length)[:, vision]] = torch.arange(len(own))[:, None]
                frame_ids.append(ids)
        longest = max(map(len, rows))
        padded_rows = torch.stack([nn.functional.pad(r, (0, 0, 0, longest - len(r))) for r in rows])
        padded_ids = [nn.functional.pad(ids, (0, longest - len(ids)), value=-1) for ids in frame_ids]
        inputs = backbone.decoder_inputs(padded_rows, torch.stack(padded_ids) if is_vision and padded_ids else None)
        if positions.shape[1] > 1:  # padding on the right is never attended to
            padded = torch.stack([nn.functional.pad(p, (0, longest - p.shape[1])) for p in at], dim=1)
            inputs["position_ids"] = padded.to(words.device, non_blocking=True)  # [C, B, S + T]
        hidden = backbone.decoder(**inputs, use_cache=False).last_hidden_state
        found = [row[text.to(row.device, non_blocking=True)] for row, text in zip(hidden, texts, strict=True)]
        return self._at_labels(batch, torch.cat(found), untouched)

    def _interleaved(
        self, batch: TrainingBatch, *, span: int, is_vision: bool = False
    ) -> tuple[Interleaved, ...] | None:
        """Place each sample's frames among its words; None for models that read frames first."""
        if not batch.lead_lengths:
            return None
        return tuple(
            interleave(self.voco.backbone, lengths, length, span=span, times=times if is_vision else None)
            for lengths, length, times in zip(batch.lead_lengths, batch.text_lengths, batch.times, strict=True)
        )

    def _embed(self, input_ids: Tensor) -> Tensor:
        """Embed token ids, and `LEARNED` as the embeddings that follow a video, ``[..., T] -> [..., T, D]``."""
        backbone = self.voco.backbone
        embeds = backbone.embed(input_ids.clamp_min(0))
        is_learned = (input_ids == LEARNED).to(embeds.device, non_blocking=True)
        learned = backbone.family.after_embeds(backbone.hf_model)
        if learned is None or not is_learned.any():
            return embeds
        count = int(is_learned.sum()) // len(learned)
        return embeds.masked_scatter(is_learned[..., None], learned.to(embeds).repeat(count, 1))

    def _from_cache(self, batch: TrainingBatch) -> AnswerLogits:
        """Run only the text, over frames from a cache."""
        tokens, untouched = batch.tokens, self._zero(None)
        if tokens[0].embeds is not None:
            frames = torch.cat([t.embeds for t in tokens if t.embeds is not None])
            positions = None if tokens[0].positions is None else tokens[0].positions[0].long()
            return self._after_embeds(
                batch, frames, untouched, positions=positions, is_vision=not tokens[0].can_truncate
            )
        kept = tokens[0].num_voco_tokens
        places = self._interleaved(batch, span=kept)
        if places is not None:
            layout = PackedLayout(
                num_frames=batch.num_frames,
                frame_length=kept,
                kept=kept,
                text_lengths=batch.text_lengths,
                prefix=self._placed(tokens, places),
                interleaved=places,
            )
            return self._at_labels(batch, self._run(layout, None, batch.input_ids), untouched)
        prefixes = [self.voco.prefix(t) for t in tokens]
        layout = PackedLayout(
            num_frames=batch.num_frames,
            frame_length=prefixes[0].text_start - kept * (batch.num_frames[0] - 1),
            kept=kept,
            text_lengths=batch.text_lengths,
            prefix=stack_prefixes(prefixes),
        )
        if any(layout.text_start(len(p.frame_slots)) != p.text_start for p in prefixes):
            raise UsageError("frames of one batch were compressed with frame templates of different lengths")
        return self._at_labels(batch, self._run(layout, None, batch.input_ids), untouched)

    def _placed(self, tokens: Sequence[VocoTokens], places: Sequence[Interleaved]) -> tuple[tuple[Tensor, Tensor], ...]:
        """Move each sample's VoCo tokens to their places; per layer, padded, ``[B, kv_heads, S, head_dim]``."""
        rows = []
        for sample, at in zip(tokens, places, strict=True):
            is_seen = torch.ones(sample.num_frames, sample.num_voco_tokens, dtype=torch.bool)
            target = at.frames[:, None] + torch.arange(sample.num_voco_tokens)
            rows.append(placed_frames(self.voco.backbone, sample, is_seen, target[..., None]))
        layers = range(len(rows[0][0]))
        # Copies made outside inference mode may be saved for the backward pass.
        return tuple(
            (pad_prefix([k[layer].clone() for k, _ in rows]), pad_prefix([v[layer].clone() for _, v in rows]))
            for layer in layers
        )

    def _frame_sequence(self, vision_tokens: Tensor, num_voco_tokens: int | None) -> Tensor:
        """Append k VoCo tokens to each frame, or none for None: ``[ΣF, N, D] -> [ΣF, L, D]``."""
        if num_voco_tokens is not None:
            return self.voco.frame_sequence(vision_tokens, num_voco_tokens)
        return self.voco.frame_sequence(vision_tokens, 1)[:, :-1]

    def _zero(self, num_voco_tokens: int | None) -> Tensor:
        """Make a zero with a gradient of zero for unused VoCo embeddings, since reducers wait for every gradient."""
        return 0.0 * self.voco.voco_embeds[num_voco_tokens or 0 :].sum()

    def _at_labels(self, batch: TrainingBatch, hidden: Tensor, untouched: Tensor) -> AnswerLogits:
        """Run the head only where a labelled token is predicted; hidden ``[ΣT, D]``."""
        is_labelled = batch.labels[:, 1:] != IGNORED  # [B, T - 1]
        rows, columns = is_labelled.nonzero(as_tuple=True)
        starts = torch.tensor([0, *batch.text_lengths[:-1]]).cumsum(0)  # [B]
        return AnswerLogits(
            logits=self.voco.backbone.logits(hidden[(starts[rows] + columns).to(hidden.device, non_blocking=True)]),
            labels=batch.labels[:, 1:][is_labelled].to(hidden.device, non_blocking=True),
            rows=rows,
            turns=batch.turn_ids[:, 1:][is_labelled],
            untouched=untouched,
        )


def stack_prefixes(prefixes: Sequence[Prefix]) -> tuple[tuple[Tensor, Tensor], ...]:
    """Stack several samples' prefixes: keys and values of each layer, padded, ``[B, kv_heads, S, head_dim]``."""

    def stacked(layer: int, which: int) -> Tensor:
        # Copies made outside inference mode may be saved for the backward pass.
        return pad_prefix([prefix.layers[layer][which][0].clone() for prefix in prefixes])

    return tuple((stacked(layer, 0), stacked(layer, 1)) for layer in range(len(prefixes[0].layers)))


def _grid(voco: VocoModel, batch: TrainingBatch) -> tuple[int, int] | None:
    """Return rows and columns of the vision tokens of a batch's frames."""
    return None if batch.pixels is None else voco.backbone.grid_of(*batch.pixels.shape[1:3])


def _row_positions(places: Interleaved, positions: Tensor, in_frames: Tensor, in_text: Tensor) -> Tensor:
    """Return the positions of one sample's row of frames and text, ``[C, S + T]``."""
    frames = positions[None] + places.frames[:, None, None]  # [F, K, C]
    frames[..., 0] += places.times[:, None]
    row = torch.empty(positions.shape[1], len(in_frames) + len(in_text), dtype=torch.long)
    row[:, in_frames] = frames.flatten(0, 1).T
    row[:, in_text] = places.text
    return row


def _joined(outputs: Sequence[dict[str, Tensor]], parts: Sequence[TrainingBatch], *, divide: bool) -> dict[str, Tensor]:
    """Join what the parts of a batch gave; their samples count on."""
    firsts = torch.tensor([0, *(len(part.num_frames) for part in parts[:-1])]).cumsum(0).tolist()
    joined = {name: torch.stack([out[name] for out in outputs]).sum() for name in _SUMMED}
    joined |= {name: torch.cat([out[name] for out in outputs]) for name in ("correct", "turns")}
    joined["rows"] = torch.cat([out["rows"] + first for out, first in zip(outputs, firsts, strict=True)])
    if divide:
        joined["loss"] = joined["loss"] / joined["num_labels"]
    return joined
