"""VocoModel: the language model itself writes a frame's vision tokens into a few VoCo tokens, and answers from those.

The published mask, under which text may look at VoCo tokens but not at vision tokens, is two ordinary causal passes:

    compress   [BOS] V_1 ... V_N [newline] VoCo_1 ... VoCo_K       a batch of frames; keep what stands at VoCo positions
    answer     (VoCo tokens of all frames as a prefix)  text       causal, no frame in sight

Source: VoCo-LLaMA (arXiv:2406.12275), section 3; the two passes agree with its one masked pass to rounding error.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, get_args

import torch
from blake3 import blake3
from torch import Tensor, nn
from transformers.cache_utils import Cache

from voco_video.errors import ModelError, UsageError
from voco_video.files.processor_files import ProcessorFiles
from voco_video.files.weights import FileState, add_to_digest
from voco_video.model.adapters import adapters_off, base_parameters
from voco_video.model.backbone import CACHE_ARGUMENT, Backbone
from voco_video.model.families import FrameTimes
from voco_video.model.inference import undisturbed
from voco_video.model.kv_layers import LastTailLayer, PassIsOver, TailLayer, library_cache
from voco_video.model.positions import compact_positions
from voco_video.model.tokens import Prefix, VocoTokens
from voco_video.model.trained_prefix import read_row, trained_prefix, usual_times
from voco_video.options.compression import Compressor, Form, Forms

NO_VOCO_TOKENS = (
    "this checkpoint has no trained VoCo tokens; compress with 'pool:4', another 'pool:k' or 'full' (--compressor), or "
    "teach it to compress with `voco-video train`"
)


class VocoModel(nn.Module):
    """Compresses frames to VoCo tokens and answers from them.

    Args:
        backbone: the image-text model.
        voco_embeds: ``[K, D]`` learnable input embeddings of the VoCo tokens; K = 0 for a checkpoint without any.
        trained: False marks weights that have learned nothing yet; answers then say so.
        about: one sentence on what the weights know, shown to users.
        answering_form: what answering adapters were trained on; with the other form they stay off. None without such.
        default_form: the form that VoCo tokens are kept in by default; None for ``"kv"`` where the model can.

    Attributes:
        sources: the files that all weights came from, as they were then; empty where they came from elsewhere.
        processor_files: what the library's own processor reads, as it came with them.
    """

    sources: tuple[FileState, ...] = ()
    processor_files: ProcessorFiles = ProcessorFiles()

    def __init__(
        self,
        backbone: Backbone,
        voco_embeds: Tensor,
        *,
        trained: bool = True,
        about: str = "",
        answering_form: Forms | None = None,
        default_form: Form | None = None,
    ) -> None:
        super().__init__()
        if voco_embeds.ndim != 2 or voco_embeds.shape[1] != backbone.hidden_size:
            raise ModelError(f"voco_embeds {tuple(voco_embeds.shape)} do not fit hidden size {backbone.hidden_size}")
        self.backbone = backbone
        self.language_and_vision = backbone.hf_model
        self.voco_embeds = nn.Parameter(voco_embeds.to(backbone.device, backbone.dtype))
        self.trained = trained
        self.about = about
        self.answering_form = answering_form
        self.default_form = default_form

    @property
    def num_voco_tokens(self) -> int:
        """K: VoCo tokens per frame that this model has embeddings for."""
        return self.voco_embeds.shape[0]

    # ------------------------------------------------------------------ compress

    def vision_tokens(self, pixels: Any) -> Tensor:
        """Turn decoded pictures, uint8 ``[F * P, H, W, 3]``, into vision tokens ``[F, N, W]`` of frames.

        P is 1 but for models whose tower merges pictures (`voco_video.model.families.PromptTemplate`).
        """
        return self.backbone.vision_tokens(self.backbone.pixel_values(pixels))

    def frame_sequence(self, vision_tokens: Tensor, num_voco_tokens: int | None = None) -> Tensor:
        """Embed each frame's own sequence, ``[F, N, D] -> [F, P + K, D]``; K = 0 for the frame alone."""
        num_voco_tokens = num_voco_tokens if num_voco_tokens == 0 else self.checked_budget(num_voco_tokens)
        return self.backbone.frame_sequence(vision_tokens, then=self.voco_embeds[:num_voco_tokens])  # [F, P + K, D]

    def form_of(self, compressor: Compressor, form: Form | None = None) -> Form:
        """Return the form that a compressor's tokens are kept in, which is up to the model where none is asked for.

        VoCo tokens are kept as they were trained. Vision tokens are kept as embeddings where the model then answers as
        it was trained; with frames first it was never trained on any, and their keys and values serve more models.
        """
        if form is not None:
            return form
        if self.backbone.family.needs_embeds:
            return "embeds"
        if compressor.name == "voco":
            return self.default_form or "kv"
        return "embeds" if self.backbone.template.as_trained else "kv"

    def check_form(self, form: Form) -> None:
        """Refuse a form that the model's frames cannot be kept in.

        Raises:
            UsageError: its layers keep no keys and values that could be moved.
        """
        reason = self.backbone.family.needs_embeds
        if form == "kv" and reason:
            raise UsageError(f"form 'kv' cannot be had from {self.backbone.family.title}: {reason}; use form 'embeds'")

    @undisturbed()
    def compress(
        self,
        vision_tokens: Tensor,
        *,
        num_voco_tokens: int | None = None,
        form: Form = "kv",
        grid: tuple[int, int] | None = None,
    ) -> VocoTokens:
        """Run a batch of frames through the decoder and keep what stands at the VoCo positions.

        Args:
            vision_tokens: ``[F, N, D]``.
            num_voco_tokens: k, at most the model's K (the default).
            form: what to keep.
            grid: rows and columns of the vision tokens; the largest that the model's frames have when None.

        Raises:
            UsageError: k or the form is not one this model has.
            ModelError: the checkpoint has no VoCo tokens.
        """
        if form not in get_args(Form):
            raise UsageError(f"form {form!r} is not one of {', '.join(get_args(Form))}")
        with adapters_off(self.backbone.decoder):  # those are for answering alone
            return self._compress(vision_tokens, self.checked_budget(num_voco_tokens), form, grid)

    def _compress(
        self, vision_tokens: Tensor, num_voco_tokens: int, form: Form, grid: tuple[int, int] | None
    ) -> VocoTokens:
        sequence = self.frame_sequence(vision_tokens, num_voco_tokens)  # [F, P + K, D]
        if form == "embeds":
            hidden = self.backbone.decode_frames(sequence, grid=grid, use_cache=False).last_hidden_state
            return VocoTokens("embeds", embeds=hidden[:, -num_voco_tokens:].clone())  # [F, K, D]
        return self.keys_and_values(sequence, num_kept=num_voco_tokens, grid=grid)

    @undisturbed()
    def keys_and_values(self, sequence: Tensor, *, num_kept: int, grid: tuple[int, int] | None = None) -> VocoTokens:
        """Run frame sequences through the decoder and keep the keys and values of their last positions.

        Args:
            sequence: ``[F, L, D]``, as `frame_sequence` gives it.
            num_kept: how many positions, at most L.
            grid: rows and columns of the vision tokens in it where they are not the tower's own.

        Raises:
            UsageError: see `check_form`.
        """
        self.check_form("kv")
        tails = [TailLayer(num_kept) for _ in range(self.backbone.text_config.num_hidden_layers - 1)]
        tails.append(LastTailLayer(num_kept))
        with adapters_off(self.backbone.decoder), suppress(PassIsOver):  # adapters are for answering alone
            cache = Cache(layers=list(tails))
            self.backbone.decode_frames(sequence, grid=grid, use_cache=True, **{CACHE_ARGUMENT: cache})
        num_frames, length, _ = sequence.shape
        # VoCo tokens stand at one number; a vision token of several coordinates moves with the largest of them.
        positions = self.backbone.frame_positions(length, grid=grid).amax(0)[length - num_kept :].int()
        return VocoTokens(
            "kv",
            positions=positions.repeat(num_frames, 1),
            keys=self._stacked([tail.keys for tail in tails]),  # [F, layers, kv_heads, K, head_dim]
            values=self._stacked([tail.values for tail in tails]),
        )

    def _stacked(self, layers: Sequence[Tensor]) -> Tensor:
        """Stack ``[F, ...]`` of every layer, on whatever device it runs, to ``[F, layers, ...]`` on one."""
        return torch.stack([layer.to(self.backbone.device) for layer in layers], dim=1)

    # ------------------------------------------------------------------ assemble

    @undisturbed()
    def prefix(
        self,
        tokens: VocoTokens,
        *,
        num_voco_tokens: int | None = None,
        times: FrameTimes | None = None,
        reads: bool = True,
    ) -> Prefix:
        """Assemble frames into what the text attends to: as the model was trained (`trained_prefix`), or frames first.

        ``kv``: every key is rotated once, from where it was computed to its frame's place in the compact layout.
        ``embeds``: one causal prefill over ``[BOS] embeds``, in which later frames see earlier ones.

        Args:
            tokens: VoCo tokens of F frames, on any device.
            num_voco_tokens: budget k per frame, at most what was compressed.
            times: of the frames, for models that are told them; one frame a second where left out.
            reads: run the decoder over it; False keeps ``inputs`` for another engine, in form ``embeds`` alone.
        """
        tokens = tokens.first(num_voco_tokens) if num_voco_tokens is not None else tokens
        if tokens.num_frames == 0 or tokens.num_voco_tokens == 0:
            return self.empty_prefix()
        if self.backbone.template.as_trained:
            times = times or usual_times(tokens)
            counts = torch.full((tokens.num_frames,), tokens.num_voco_tokens)
            leads = self.backbone.lead_ids(times)
            return trained_prefix(
                self.backbone, self.answering, tokens, counts=counts, times=times, leads=leads, reads=reads
            )
        assert reads or tokens.form == "embeds"
        return self._prefix_from_kv(tokens) if tokens.form == "kv" else self._prefix_from_embeds(tokens, reads=reads)

    def _prefix_from_kv(self, tokens: VocoTokens) -> Prefix:
        assert tokens.positions is not None
        assert tokens.keys is not None
        assert tokens.values is not None
        places, text_start = compact_positions(tokens.positions)
        keys = self.backbone.moved_keys(
            self._by_layer(tokens.keys), source=tokens.positions.flatten(), target=places
        )  # [layers, kv_heads, F * k, head_dim]
        values = self._by_layer(tokens.values)
        slots = torch.arange(tokens.num_frames * tokens.num_voco_tokens).view(tokens.num_frames, -1)
        devices = self.backbone.layer_devices
        layers = tuple((k[None].to(device), v[None].to(device)) for k, v, device in zip(keys, values, devices))
        return Prefix(layers, text_start, slots)

    def _by_layer(self, tensor: Tensor) -> Tensor:
        """Turn ``[F, layers, kv_heads, k, head_dim]`` into ``[layers, kv_heads, F * k, head_dim]`` on the device."""
        moved = tensor.to(self.backbone.device, self.backbone.dtype, non_blocking=True)
        return moved.permute(1, 2, 0, 3, 4).flatten(2, 3).contiguous()

    def _prefix_from_embeds(self, tokens: VocoTokens, *, reads: bool) -> Prefix:
        assert tokens.embeds is not None
        before = self.backbone.embed(self.backbone.template.frame_before_ids)  # [1, D]
        embeds = tokens.embeds.to(before.device, before.dtype, non_blocking=True).flatten(0, 1)  # [F * k, D]
        sequence = torch.cat([before, embeds])[None]  # [1, 1 + F * k, D]
        slots = torch.arange(before.shape[0], sequence.shape[1]).view(tokens.num_frames, -1)
        inputs = {"inputs_embeds": sequence}
        return read_row(self.backbone, self.answering, inputs, sequence.shape[1], slots, reads=reads)

    def empty_prefix(self) -> Prefix:
        """Return a prefix without frames: text only."""
        state = library_cache(self.backbone.text_config)
        return Prefix((), 0, torch.empty(0, 0, dtype=torch.long), state=state)

    # ------------------------------------------------------------------ answer

    def answering(self, form: Form) -> AbstractContextManager[None]:
        """Run the decoder as it answers from frames of that form: with adapters, unless they are for the other one."""
        if self.answering_form in (None, "both", form):
            return nullcontext()
        return adapters_off(self.backbone.decoder)

    def forward(
        self, input_ids: Tensor, *, prefix: Prefix, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Run text after a prefix: logits, and the loss where labels are given.

        Args:
            input_ids: ``[B, T]`` text tokens; every row sees the same prefix.
            labels: ``[B, T]``, -100 where no loss is wanted; shifted here.

        Returns:
            Logits ``[B, T, vocabulary]`` and the mean cross-entropy or None.
        """
        batch_size, length = input_ids.shape
        positions = torch.arange(prefix.text_start, prefix.text_start + length, device=self.backbone.device)
        with self.answering(prefix.form):
            hidden = self.backbone.decoder(
                inputs_embeds=self.backbone.embed(input_ids),
                position_ids=positions[None].expand(batch_size, -1),
                use_cache=True,
                **{CACHE_ARGUMENT: prefix.to_cache(batch_size)},
            ).last_hidden_state
        logits = self.backbone.logits(hidden)  # [B, T, vocabulary]
        if labels is None:
            return logits, None
        loss = nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(logits.device), ignore_index=-100
        )
        return logits, loss

    # ------------------------------------------------------------------ identity

    @undisturbed()
    def fingerprint(self) -> str:
        """Digest every weight and setting that changes VoCo tokens, and nothing else, as 64 hex digits.

        The head is left out, so training it (or an adapter used only while answering) keeps caches valid.
        """
        digest = blake3(f"{self.backbone.template} {self.backbone.computing_settings}".encode())
        head = {id(p) for p in self.backbone.hf_model.get_output_embeddings().parameters()}
        head -= {id(p) for p in self.backbone.hf_model.get_input_embeddings().parameters()}  # tied weights compress too
        for name, parameter in sorted(base_parameters(self)):
            if id(parameter) not in head:
                add_to_digest(digest, name, parameter)
        return digest.hexdigest()

    def checked_budget(self, num_voco_tokens: int | None) -> int:
        """Check a budget k and return it; the model's K when None.

        Raises:
            UsageError: k is not 1 to K.
            ModelError: the checkpoint has no VoCo tokens.
        """
        if self.num_voco_tokens == 0:
            raise ModelError(NO_VOCO_TOKENS)
        if num_voco_tokens is None:
            return self.num_voco_tokens
        if not 1 <= num_voco_tokens <= self.num_voco_tokens:
            raise UsageError(
                f"num_voco_tokens={num_voco_tokens}: this model has {self.num_voco_tokens} VoCo tokens per frame, "
                f"so choose 1 to {self.num_voco_tokens}"
            )
        return num_voco_tokens
