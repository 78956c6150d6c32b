"""A Hugging Face image-text model as the few things compression needs: vision tokens, a decoder, templates.

Nothing here knows about VoCo tokens, and nothing above this module knows which model it runs on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from voco_video.errors import ModelError, UsageError
from voco_video.model.computed_settings import changed_settings
from voco_video.model.conversation import ConversationWriter, FrameTimes, Messages, lead_texts
from voco_video.model.families import Family, ImageSettings, PromptTemplate, family_of, image_settings
from voco_video.model.frame_masks import masks_of_frames
from voco_video.model.inference import check_not_forked, num_forks, on_device, undisturbed
from voco_video.model.kv_layers import library_cache
from voco_video.model.positions import frame_positions, rotate_keys
from voco_video.model.same_weights import over_same_weights
from voco_video.model.typed_text import TypedText

CACHE_ARGUMENT = "cache" if "cache" in BaseModelOutputWithPast.__annotations__ else "past_key_values"
"""What the library calls the keys and values that a forward pass goes on from: its 5.24 renamed `past_key_values`."""

__all__ = ["Backbone", "ImageSettings", "PromptTemplate", "image_settings"]


@dataclass(frozen=True)
class Backbone:
    """One image-text model behind the interface that `VocoModel` uses.

    Attributes:
        hf_model: a Hugging Face model with ``get_image_features``, a decoder and a language-model head, in eval mode.
        tokenizer: its tokenizer, or None for a checkpoint that has none (then only token ids go in and out).
        images: how frames are prepared.
        template: token ids around frames and text.
        chat_template: Jinja chat template to use instead of the tokenizer's own.
    """

    hf_model: Any
    tokenizer: Any
    images: ImageSettings
    template: PromptTemplate
    chat_template: str | None = field(default=None, repr=False)
    _num_forks: int = field(default_factory=num_forks, init=False, repr=False, compare=False)

    @cached_property
    def family(self) -> Family:
        """What is particular to models of this ``model_type``."""
        return family_of(self.hf_model.config)

    @property
    def device(self) -> torch.device:
        """Where the decoder's input is expected."""
        return self.hf_model.get_input_embeddings().weight.device

    @property
    def layer_devices(self) -> list[torch.device]:
        """Where each of the decoder's layers runs; they differ where a device map spreads the model."""
        return [next(layer.parameters()).device for layer in self.decoder.layers]

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.hf_model.get_input_embeddings().weight.dtype

    @property
    def decoder(self) -> Any:
        """The language model without its head: ``inputs_embeds [B, T, D] -> last_hidden_state [B, T, D]``."""
        return self.hf_model.get_decoder()

    def decoder_by(self, attention: str) -> Any:
        """Make the decoder with another implementation of attention.

        It shares all weights with `decoder`, which stays as it is: other threads may be in the middle of a pass.
        """
        config = copy.deepcopy(self.text_config)
        recorded = getattr(self.decoder, "_can_record_outputs", None) or {}
        kinds = tuple(getattr(kind, "target_class", kind) for kind in recorded.values() if not isinstance(kind, list))
        decoder = over_same_weights(self.decoder, self.text_config, config, kinds)
        decoder.set_attn_implementation(attention)
        return decoder

    @property
    def text_config(self) -> Any:
        """The decoder's configuration."""
        return self.hf_model.config.get_text_config(decoder=True)

    @property
    def hidden_size(self) -> int:
        """D."""
        return self.text_config.hidden_size

    @property
    def context_length(self) -> int | None:
        """Positions that the decoder was trained on; None where its configuration does not say."""
        return getattr(self.text_config, "max_position_embeddings", None)

    @property
    def inv_freq(self) -> Tensor:
        """Inverse frequencies of the decoder's rotary embedding, ``[rotary_dim / 2]``.

        Raises:
            ModelError: the frequencies depend on the length of the sequence, so cached keys cannot be moved.
        """
        rope_type = (self.text_config.rope_parameters or {}).get("rope_type", "default")
        if rope_type in ("dynamic", "longrope"):
            raise ModelError(
                f"rotary embeddings of type {rope_type!r} change with the length of the sequence, so cached keys "
                "cannot be moved; use a checkpoint with rope_type 'default', 'linear', 'llama3' or 'yarn'"
            )
        return self.decoder.rotary_emb.inv_freq

    def moved_keys(self, keys: Tensor, *, source: Tensor, target: Tensor, axes: Tensor | None = None) -> Tensor:
        """Move keys from the places they were computed at to others; arguments as of `positions.rotate_keys`."""
        turns_neighbours = self.family.turns_neighbours(self.text_config)
        return rotate_keys(
            keys,
            source=source,
            target=target,
            inv_freq=self.inv_freq,
            axes=axes,
            turns_neighbours=turns_neighbours,
        )

    @property
    def computing_settings(self) -> str:
        """The settings that change what is computed though weights and their shapes stay the same, as JSON.

        Those that have their default value are left out, so that a new one in a later version of the library changes
        nothing.
        """
        config = self.hf_model.config
        parts = {"": config, "text": self.text_config, "vision": config.vision_config}
        return json.dumps({name: changed_settings(part) for name, part in parts.items()}, sort_keys=True)

    def pixel_values(self, pixels: np.ndarray) -> Tensor:
        """Turn decoded frames, uint8 ``[F, H, W, 3]``, into the vision tower's input ``[F, 3, H, W]`` on its device.

        Bytes cross to the device first: a quarter of the traffic of floats. To a GPU they go from pinned memory, which
        does not wait for the passes that it is busy with.
        """
        frames = torch.from_numpy(np.ascontiguousarray(pixels))
        if self.device.type == "cuda":
            frames = frames.pin_memory()
        frames = frames.to(self.device, non_blocking=True)
        values = frames.permute(0, 3, 1, 2)
        if self.images.detour is not None:
            values = _by_detour(values, self.images.detour)
        values = values.to(torch.float32)
        mean, std = (on_device(tuple(v), values.dtype, values.device) for v in (self.images.mean, self.images.std))
        mean, std = (v.view(1, 3, 1, 1) * 255 for v in (mean, std))
        return ((values - mean) / std).to(self.dtype)  # [F, 3, H, W]

    def vision_tokens(self, pixel_values: Tensor) -> Tensor:
        """Run vision tower and projector: ``[F * P, 3, H, W] -> [F, N, W]``, with `PromptTemplate.pictures_per_frame`.

        W is D; more where the decoder takes in vision features behind its first layers too (`Family.decoder_inputs`).
        """
        check_not_forked(self._num_forks)
        return self.family.vision_tokens(self.hf_model, pixel_values, self.template.pictures_per_frame)

    @cached_property
    def num_vision_tokens(self) -> int:
        """N, as the tower and the projector give it for one empty frame."""
        empty = np.zeros((self.template.pictures_per_frame, self.images.fit.height, self.images.fit.width, 3), np.uint8)
        with undisturbed():
            return self.vision_tokens(self.pixel_values(empty)).shape[1]

    @property
    def vision_grid(self) -> tuple[int, int]:
        """Rows and columns that a frame's vision tokens stand in, row by row; the largest where shapes differ."""
        return self.grid_of(self.images.fit.height, self.images.fit.width)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of the vision tokens of frames of a size, in pixels."""
        return self.family.vision_grid(self.hf_model.config, replace(self.images.fit, height=height, width=width))

    def frame_sequence(self, vision_tokens: Tensor, then: Tensor) -> Tensor:
        """Embed each frame's own sequence: the template's, the vision tokens', and what follows.

        Args:
            vision_tokens: ``[F, N, W]``.
            then: input embeddings ``[K, D]`` that end every frame's sequence.

        Returns:
            ``[F, P + K, W]``; channels beyond D are 0 but for vision tokens.
        """
        num_frames, _, width = vision_tokens.shape
        before = self.embed(self.template.frame_before_ids)
        after = [self.embed(self.template.frame_after_ids), then.to(before)]
        learned = self.family.after_embeds(self.hf_model)
        if learned is not None and self.learned_after_each(num_following=len(then)):
            after.insert(0, learned.to(before))
        first, last = (
            self.widened(rows, width).expand(num_frames, -1, -1) for rows in (before, torch.cat(after))
        )  # [F, ..., W] each
        return torch.cat([first, vision_tokens.to(before), last], dim=1)  # [F, P + K, W]

    def learned_after_each(self, *, num_following: int) -> bool:
        """Whether learned embeddings that end a video end a frame's own sequence too.

        As trained they do so where VoCo tokens follow, which then read a video of one frame.
        """
        return self.template.as_trained is None or num_following > 0

    @staticmethod
    def widened(embeds: Tensor, width: int) -> Tensor:
        """Widen embeddings to the channels of vision tokens, ``[..., D] -> [..., W]``: zeros in the others."""
        missing = width - embeds.shape[-1]
        return nn.functional.pad(embeds, (0, missing)) if missing else embeds

    def frame_positions(self, length: int, *, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the positions of a frame's first ``length`` tokens, int64 ``[C, length]``; C is 1 or 3.

        Args:
            grid: rows and columns of its vision tokens where they are not the tower's own.
        """
        vision = self.family.vision_positions(grid or self.vision_grid)  # [3, N], or None where all is plain
        if vision is None:
            return torch.arange(length)[None]
        return frame_positions(vision, before=len(self.template.frame_before_ids), length=length)

    @property
    def keeps_all_keys(self) -> bool:
        """Whether every layer of the decoder keeps the keys and values of all tokens, so that all see them."""
        return library_cache(self.text_config) is None

    def decoder_inputs(self, sequence: Tensor, frames: Tensor | None = None) -> dict[str, Any]:
        """Return the decoder's arguments for input embeddings ``[B, T, W]``.

        Args:
            frames: the frame that each vision token belongs to, int64 ``[B, T]``, -1 for other tokens. None without
                vision tokens. Models whose vision tokens see all of their frame need it.
        """
        inputs = self.family.decoder_inputs(sequence, self.hidden_size)
        if frames is not None and self.family.sees_ahead:
            frames = frames.to(sequence.device)
            inputs["attention_mask"] = masks_of_frames(self.text_config, frames, dtype=sequence.dtype)
        return inputs

    def decode_frames(self, sequence: Tensor, *, grid: tuple[int, int] | None = None, **options: Any) -> Any:
        """Run frame sequences ``[F, L, W]`` through the decoder, each token at its place.

        Args:
            grid: as in `frame_positions`.
            options: of the decoder, such as the cache (`CACHE_ARGUMENT`).

        Returns:
            The decoder's output: ``last_hidden_state`` ``[F, L, D]`` and what the options ask for.
        """
        rows, columns = grid or self.vision_grid
        first = len(self.template.frame_before_ids)
        frames = torch.full((1, sequence.shape[1]), -1)
        frames[:, first : first + rows * columns] = 0
        inputs = self.decoder_inputs(sequence, frames)
        positions = self.frame_positions(sequence.shape[1], grid=grid)
        if len(positions) > 1:  # the decoder counts plain positions by itself
            positions = positions.to(sequence.device, non_blocking=True)
            inputs["position_ids"] = positions[:, None].expand(-1, len(sequence), -1)  # [3, F, L]
        return self.decoder(**inputs, **options)

    def embed(self, input_ids: Tensor | Sequence[int]) -> Tensor:
        """Embed token ids, ``[..., T] -> [..., T, D]``."""
        check_not_forked(self._num_forks)
        if isinstance(input_ids, tuple):  # a template's, the same for every batch
            ids = on_device(input_ids, torch.long, self.device)
        else:
            ids = torch.as_tensor(input_ids, dtype=torch.long).to(self.device, non_blocking=True)
        return self.hf_model.get_input_embeddings()(ids)

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Turn last hidden states ``[..., D]`` into next-token logits ``[..., vocabulary]``."""
        return self.hf_model.get_output_embeddings()(hidden_states)

    # ------------------------------------------------------------------ conversations

    @cached_property
    def writer(self) -> ConversationWriter:
        """What turns conversations into text and token ids."""
        return ConversationWriter(self.family, self.hf_model.config, self.tokenizer, self.chat_template)

    def conversation_ids(self, messages: Messages, *, has_frames: bool = True) -> list[int]:
        """Make the token ids of a conversation that ends with a question, up to where the answer begins.

        Args:
            messages: see `Messages`.
            has_frames: whether it is about frames: then these are the ids behind the last of them. Else all of it.

        Raises:
            ModelError: the checkpoint has no tokenizer, or its chat template cannot write the conversation.
            UsageError: the conversation is longer than all that the model reads, or holds bytes that are no text.
        """
        ids = self.text_ids(self.conversation_text(messages, has_frames=has_frames), has_frames=has_frames)
        if self.context_length is not None and len(ids) >= self.context_length:
            raise UsageError(
                f"the question {messages[-1]['content']!r:.60} with what was said before it takes {len(ids)} tokens, "
                f"but the model reads {self.context_length}, frames and answer included; shorten it"
            )
        return ids

    def lead_ids(
        self,
        times: FrameTimes,
        *,
        system: str = "",
        marks: Mapping[int, str] | None = None,
        speech: Mapping[int, str] | None = None,
    ) -> list[list[int]]:
        """Make the token ids that stand before each frame, ``[F]``: before the first also what opens a conversation.

        One more list follows where words behind the last frame depend on the video (`FrameWords.last`).

        Args:
            system: its system message; "" for the chat template's own.
            marks, speech: text right before some of the frames, and before the words on them, by frame.

        Raises:
            ModelError: as for `conversation_ids`.
        """
        as_trained, marks, speech = self.template.as_trained, marks or {}, speech or {}
        if as_trained is None:
            if (marks or speech) and self.tokenizer is None:
                raise ModelError("this checkpoint has no tokenizer, so it cannot be told times or speech")
            return [self.token_ids(speech.get(f, "") + marks.get(f, "")) for f in range(len(times))]
        messages = [{"role": "user", "content": "?"}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        around = self.writer.around_frames(messages, as_trained.variant)
        words = self.family.words(times)
        texts = [text + marks.get(f, "") for f, text in enumerate(lead_texts(around, words, speech))]
        leads = self.writer.ids_before_frames(texts, joined=self.template.joins_text)
        return [*leads, self.writer.ids_after_frames(words.last)] if words.last else leads

    def conversation_text(
        self, messages: Messages, *, has_frames: bool = True, add_generation_prompt: bool = True
    ) -> str:
        """Write a conversation: what stands behind its frames, or all of it where it has none; errors as above.

        Special tokens in contents are `TypedText.broken`, so it is `text_ids` that gives its token ids.

        Args:
            messages: see `Messages`.
            has_frames: whether it is about frames.
            add_generation_prompt: end it where the next answer begins.
        """
        as_trained = self.template.as_trained
        if as_trained is None or not has_frames:
            return self.writer.text(messages, add_generation_prompt=add_generation_prompt)
        around = self.writer.around_frames(messages, as_trained.variant, add_generation_prompt=add_generation_prompt)
        return self._words_after + around.closing

    def text_ids(self, text: str, *, has_frames: bool = True) -> list[int]:
        """Turn what `conversation_text` wrote into token ids, with those that every conversation begins with."""
        if self.template.joins_text and has_frames:
            return self.writer.ids_after_frames(text)
        return [*self._ids_before(text, has_frames), *self.writer.token_ids(text)]

    def encoded(self, text: str, *, has_frames: bool = True) -> tuple[list[int], list[int]]:
        """Return the same token ids, and for each the place in the text behind its last character."""
        if self.template.joins_text and has_frames:
            return self.writer.encoded_after_frames(text)
        before = self._ids_before(text, has_frames)
        ids, ends = self.writer.encoded(text)
        return [*before, *ids], [0] * len(before) + ends

    def _ids_before(self, text: str, has_frames: bool) -> Sequence[int]:
        if self.template.as_trained is None:
            return self.template.text_before_ids
        return () if has_frames else self.writer.first_ids(text)

    @cached_property
    def _words_after(self) -> str:
        return self.family.words(FrameTimes.of(np.zeros(1))).after

    def token_ids(self, text: str) -> list[int]:
        """Turn text, its typed parts `TypedText.broken`, into token ids; nothing is added."""
        return self.writer.token_ids(text) if text else []

    @property
    def typed_text(self) -> TypedText:
        """How the tokenizer reads what people type."""
        return self.writer.typed_text

    def text(self, token_ids: Sequence[int]) -> str:
        """Turn token ids back into text, special tokens left out."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()


def _by_detour(frames: Tensor, side: int) -> Tensor:
    """Enlarge frames to a square and bring them back, uint8 ``[F, 3, H, W]``, as torchvision does on the processor."""
    size = frames.shape[2:]
    resized = nn.functional.interpolate(frames.cpu(), size=(side, side), mode="lanczos", antialias=True)
    return nn.functional.interpolate(resized, size=size, mode="lanczos", antialias=True).to(frames.device)
