"""The training forward pass: frames and text in one packed row, loss on answers, accuracy per turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from voco_video.errors import UsageError
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.training.batches import IGNORED, TrainingBatch
from voco_video.training.packed_attention import PACKED, PackedLayout, pad_prefix


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
        vision_tokens = None if batch.pixels is None else self.voco.vision_tokens(batch.pixels)  # [ΣF, N, D]
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
            "num_labels": torch.tensor(num_labels, device=loss.device),
            "num_correct": correct.sum(),
            "correct": correct,
            "rows": answers.rows,
            "turns": answers.turns,
        }

    def _divergence(self, batch: TrainingBatch, vision_tokens: Tensor, student: AnswerLogits) -> Tensor:
        """Compute KL(full visibility || VoCo tokens), summed over labelled tokens; the teacher gets no gradient."""
        with torch.no_grad():
            teacher = self._packed(batch, vision_tokens, num_voco_tokens=None)
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
        if k is not None and batch.visibility.form == "embeds":
            return self._fed_back(batch, vision_tokens, num_voco_tokens=k)
        return self._packed(batch, vision_tokens, num_voco_tokens=k)

    def _packed(self, batch: TrainingBatch, vision_tokens: Tensor, *, num_voco_tokens: int | None) -> AnswerLogits:
        """Run one pass over frames and text, for keys and values or full visibility."""
        frames = self._frame_sequence(vision_tokens, num_voco_tokens)  # [ΣF, L, D]
        layout = PackedLayout(
            num_frames=batch.num_frames,
            frame_length=frames.shape[1],
            kept=num_voco_tokens or frames.shape[1],
            text_lengths=batch.text_lengths,
            num_spare_frames=len(frames) - sum(batch.num_frames),
            frame_positions=self.voco.backbone.frame_positions(frames.shape[1]),
        )
        hidden = self._run(layout, frames, batch.input_ids)  # [ΣF*L + ΣT, D]
        untouched = self._zero(num_voco_tokens)
        if layout.num_spare_frames:
            untouched = untouched + 0.0 * hidden[: layout.frame_tokens].sum()
        return self._at_labels(batch, hidden[layout.frame_tokens :], untouched)

    def _run(self, layout: PackedLayout, frames: Tensor | None, input_ids: Tensor) -> Tensor:
        """Run the decoder over a packed row and return the last hidden states ``[ΣF*L + ΣT, D]``."""
        backbone = self.voco.backbone
        row = backbone.embed(input_ids.flatten()[layout.text_places()])  # [ΣT, D]
        if frames is not None:
            row = torch.cat([frames.flatten(0, 1), backbone.widened(row, frames.shape[2])])
        hidden: Tensor = backbone.decoder(
            **backbone.decoder_inputs(row[None]),
            attention_mask=layout.text_mask().to(row.device),
            position_ids=layout.position_ids().to(row.device),
            use_cache=False,
            packed=layout,
        ).last_hidden_state
        return hidden[0]

    def _fed_back(self, batch: TrainingBatch, vision_tokens: Tensor, *, num_voco_tokens: int) -> AnswerLogits:
        """Run one pass over frames, then one over the embeddings that it gave, followed by text."""
        sequence = self.voco.frame_sequence(vision_tokens, num_voco_tokens)  # [ΣF, L, D]
        hidden = self.voco.backbone.decode_frames(sequence, use_cache=False).last_hidden_state
        embeds = hidden[:, -num_voco_tokens:]  # [ΣF, k, D]
        parts = embeds[: sum(batch.num_frames)].split(list(batch.num_frames))
        return self._after_embeds(batch, parts, self._zero(num_voco_tokens) + 0.0 * embeds.sum())

    def _after_embeds(self, batch: TrainingBatch, embeds: Sequence[Tensor], untouched: Tensor) -> AnswerLogits:
        """Run ``[BOS] VoCo embeddings text`` as one causal sequence for each sample; embeds ``[F, k, D]`` each."""
        backbone = self.voco.backbone
        before = backbone.embed(backbone.template.frame_before_ids)
        text = backbone.embed(batch.input_ids)  # [B, T, D]
        # Without frames there is no BOS either, as in `VocoModel.empty_prefix`.
        starts = [torch.cat([before, e.to(text).flatten(0, 1)]) if len(e) else before[:0] for e in embeds]
        longest = max(len(start) for start in starts)
        rows = [
            nn.functional.pad(torch.cat([start, words]), (0, 0, 0, longest - len(start)))
            for start, words in zip(starts, text, strict=True)
        ]  # [B, S + T, D]; padding on the right is never attended to
        hidden = backbone.decoder(inputs_embeds=torch.stack(rows), use_cache=False).last_hidden_state
        pairs = zip(hidden, starts, batch.text_lengths, strict=True)
        texts = [row[len(start) : len(start) + length] for row, start, length in pairs]
        return self._at_labels(batch, torch.cat(texts), untouched)

    def _from_cache(self, batch: TrainingBatch) -> AnswerLogits:
        """Run only the text, over frames from a cache."""
        if batch.visibility.token_kind == "embeds":
            return self._after_embeds(batch, [t.embeds for t in batch.tokens if t.embeds is not None], self._zero(None))
        prefixes = [self.voco.prefix(tokens) for tokens in batch.tokens]
        kept = batch.tokens[0].num_voco_tokens
        layout = PackedLayout(
            num_frames=batch.num_frames,
            frame_length=prefixes[0].text_start - kept * (batch.num_frames[0] - 1),
            kept=kept,
            text_lengths=batch.text_lengths,
            prefix=stack_prefixes(prefixes),
        )
        if any(layout.text_start(len(p.frame_slots)) != p.text_start for p in prefixes):
            raise UsageError("frames of one batch were compressed with frame templates of different lengths")
        return self._at_labels(batch, self._run(layout, None, batch.input_ids), self._zero(None))

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
            logits=self.voco.backbone.logits(hidden[(starts[rows] + columns).to(hidden.device)]),
            labels=batch.labels[:, 1:][is_labelled].to(hidden.device),
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
