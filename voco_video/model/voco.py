"""VocoModel: the language model itself writes a frame's vision tokens into a few VoCo tokens, and answers from those.

The published mask, under which text may look at VoCo tokens but not at vision tokens, is two ordinary causal passes:

    compress   [BOS] V_1 ... V_N [newline] VoCo_1 ... VoCo_K       a batch of frames; keep what stands at VoCo positions
    answer     (VoCo tokens of all frames as a prefix)  text       causal, no frame in sight

Source: VoCo-LLaMA (arXiv:2406.12275), section 3; the two passes agree with its one masked pass to rounding error.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from blake3 import blake3
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from voco_video.errors import ModelError, UsageError
from voco_video.files.weights import FileState
from voco_video.model.adapters import adapters_off, base_parameters
from voco_video.model.backbone import CACHE_ARGUMENT, Backbone
from voco_video.model.inference import undisturbed
from voco_video.model.kv_layers import GrowingLayer, LastTailLayer, PassIsOver, TailLayer
from voco_video.model.positions import compact_positions, rotate_keys
from voco_video.options.compression import Form, Forms

NO_VOCO_TOKENS = (
    "this checkpoint has no trained VoCo tokens; compress with 'pool:4', another 'pool:k' or 'full' (--compressor), or "
    "teach it to compress with `voco-video train`"
)


@dataclass(frozen=True)
class VocoTokens:
    """The VoCo tokens of F frames, in time order, or what another compressor keeps in their place.

    Attributes:
        form: ``"kv"`` or ``"embeds"``.
        positions: int32 ``[F, K]`` for ``kv``: the positions that the keys are rotated for.
        keys, values: ``[F, layers, kv_heads, K, head_dim]`` for ``kv``.
        embeds: ``[F, K, D]`` for ``embeds``.
        elastic: whether the first k of a frame's K tokens can stand for it, as VoCo tokens can.
    """

    form: Form
    positions: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    embeds: Tensor | None = None
    elastic: bool = True

    def __post_init__(self) -> None:
        wanted = {"kv": ["positions", "keys", "values"], "embeds": ["embeds"]}[self.form]
        if list(self.tensors()) != wanted:
            raise ValueError(f"form {self.form!r} holds {wanted}, not {list(self.tensors())}")

    @property
    def num_frames(self) -> int:
        """F."""
        return next(iter(self.tensors().values())).shape[0]

    @property
    def num_voco_tokens(self) -> int:
        """K."""
        return next(reversed(self.tensors().values())).shape[-2]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, axis 0 being frames: what a frame cache stores."""
        names = ("positions", "keys", "values", "embeds")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}

    def first(self, num_voco_tokens: int) -> VocoTokens:
        """The first k VoCo tokens of every frame: exactly what compressing with k tokens gives, being causal.

        Raises:
            UsageError: there are no k tokens, or the first k of them mean nothing without the others.
        """
        if not self.elastic and num_voco_tokens != self.num_voco_tokens:
            raise UsageError(
                f"num_voco_tokens={num_voco_tokens}: these frames hold {self.num_voco_tokens} tokens each of another "
                "compressor, and only VoCo tokens can be cut to their first few; leave it out"
            )
        if not self.elastic:
            return self
        if not 1 <= num_voco_tokens <= self.num_voco_tokens:
            raise UsageError(
                f"num_voco_tokens={num_voco_tokens}: these frames were compressed to {self.num_voco_tokens} VoCo "
                f"tokens, so choose 1 to {self.num_voco_tokens}"
            )
        kept = slice(num_voco_tokens)
        cut = {n: t[:, kept] if n == "positions" else t[..., kept, :] for n, t in self.tensors().items()}
        return self._with(cut)

    def __getitem__(self, frames: slice) -> VocoTokens:
        """A range of frames."""
        return self._with({n: t[frames] for n, t in self.tensors().items()})

    @staticmethod
    def cat(parts: Sequence[VocoTokens]) -> VocoTokens:
        """Frames of several parts, one after the other."""
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
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    text_start: int
    frame_slots: Tensor
    form: Form = "kv"

    @property
    def length(self) -> int:
        """S: slots that every text token attends to."""
        return self.layers[0][0].shape[-2] if self.layers else 0

    def to_cache(self, batch_size: int = 1) -> DynamicCache:
        """A fresh cache for `transformers` that begins with this prefix, shared (not copied) until it grows."""
        cache = DynamicCache()
        for keys, values in self.layers:
            cache.layers.append(GrowingLayer(*(t.expand(batch_size, -1, -1, -1) for t in (keys, values))))
        return cache


class VocoModel(nn.Module):
    """Compresses frames to VoCo tokens and answers from them.

    Args:
        backbone: the image-text model.
        voco_embeds: ``[K, D]`` learnable input embeddings of the VoCo tokens; K = 0 for a checkpoint without any.
        trained: False marks weights that have learned nothing yet; answers then say so.
        about: one sentence on what the weights know, shown to users.
        answering_form: what answering adapters were trained on; with the other form they stay off. None without such.
        default_form: the form that frames are kept in where nobody asks for one; None for ``"kv"``.

    Attributes:
        sources: the files that all weights came from, as they were then; empty where they came from elsewhere.
    """

    sources: tuple[FileState, ...] = ()

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
        self.language_and_vision = backbone.model
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
        """Decoded frames, uint8 ``[F, H, W, 3]``, to vision tokens ``[F, N, D]``."""
        return self.backbone.vision_tokens(self.backbone.pixel_values(pixels))

    def frame_sequence(self, vision_tokens: Tensor, num_voco_tokens: int | None = None) -> Tensor:
        """Input embeddings of each frame's own sequence, ``[F, N, D] -> [F, P + K, D]``; K = 0 for the frame alone."""
        num_voco_tokens = num_voco_tokens if num_voco_tokens == 0 else self.checked_budget(num_voco_tokens)
        return self.backbone.frame_sequence(vision_tokens, then=self.voco_embeds[:num_voco_tokens])  # [F, P + K, D]

    @undisturbed()
    def compress(self, vision_tokens: Tensor, *, num_voco_tokens: int | None = None, form: Form = "kv") -> VocoTokens:
        """Run a batch of frames through the decoder and keep what stands at the VoCo positions.

        Args:
            vision_tokens: ``[F, N, D]``.
            num_voco_tokens: k, at most the model's K (the default).
            form: what to keep.

        Raises:
            UsageError: k or the form is not one this model has.
            ModelError: the checkpoint has no VoCo tokens.
        """
        if form not in get_args(Form):
            raise UsageError(f"form {form!r} is not one of {', '.join(get_args(Form))}")
        with adapters_off(self.backbone.decoder):  # those are for answering alone
            return self._compress(vision_tokens, self.checked_budget(num_voco_tokens), form)

    def _compress(self, vision_tokens: Tensor, num_voco_tokens: int, form: Form) -> VocoTokens:
        sequence = self.frame_sequence(vision_tokens, num_voco_tokens)  # [F, P + K, D]
        if form == "embeds":
            hidden = self.backbone.decode_frames(sequence, use_cache=False).last_hidden_state
            return VocoTokens("embeds", embeds=hidden[:, -num_voco_tokens:].clone())  # [F, K, D]
        return self.keys_and_values(sequence, num_kept=num_voco_tokens)

    @undisturbed()
    def keys_and_values(self, sequence: Tensor, *, num_kept: int, grid: tuple[int, int] | None = None) -> VocoTokens:
        """Run frame sequences through the decoder and keep the keys and values of their last positions.

        Args:
            sequence: ``[F, L, D]``, as `frame_sequence` gives it.
            num_kept: how many positions, at most L.
            grid: rows and columns of the vision tokens in it where they are not the tower's own.
        """
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
        """``[F, ...]`` of every layer, on whatever device it runs, to ``[F, layers, ...]`` on one."""
        return torch.stack([layer.to(self.backbone.device) for layer in layers], dim=1)

    # ------------------------------------------------------------------ assemble

    @undisturbed()
    def prefix(self, tokens: VocoTokens, *, num_voco_tokens: int | None = None) -> Prefix:
        """Assemble frames into what the text attends to.

        ``kv``: every key is rotated once, from where it was computed to its frame's place in the compact layout.
        ``embeds``: one causal prefill over ``[BOS] embeds``, in which later frames see earlier ones.

        Args:
            tokens: VoCo tokens of F frames, on any device.
            num_voco_tokens: budget k per frame, at most what was compressed.
        """
        tokens = tokens.first(num_voco_tokens) if num_voco_tokens is not None else tokens
        if tokens.num_frames == 0 or tokens.num_voco_tokens == 0:
            return self.empty_prefix()
        return self._prefix_from_kv(tokens) if tokens.form == "kv" else self._prefix_from_embeds(tokens)

    def _prefix_from_kv(self, tokens: VocoTokens) -> Prefix:
        assert tokens.positions is not None
        assert tokens.keys is not None
        assert tokens.values is not None
        places, text_start = compact_positions(tokens.positions)
        keys = rotate_keys(
            self._by_layer(tokens.keys),
            source=tokens.positions.flatten(),
            target=places,
            inv_freq=self.backbone.inv_freq,
        )  # [layers, kv_heads, F * k, head_dim]
        values = self._by_layer(tokens.values)
        slots = torch.arange(tokens.num_frames * tokens.num_voco_tokens).view(tokens.num_frames, -1)
        devices = self.backbone.layer_devices
        layers = tuple((k[None].to(device), v[None].to(device)) for k, v, device in zip(keys, values, devices))
        return Prefix(layers, text_start, slots)

    def _by_layer(self, tensor: Tensor) -> Tensor:
        """``[F, layers, kv_heads, k, head_dim] -> [layers, kv_heads, F * k, head_dim]``, contiguous, on the device."""
        moved = tensor.to(self.backbone.device, self.backbone.dtype)
        return moved.permute(1, 2, 0, 3, 4).flatten(2, 3).contiguous()

    def _prefix_from_embeds(self, tokens: VocoTokens) -> Prefix:
        assert tokens.embeds is not None
        before = self.backbone.embed(self.backbone.template.frame_before_ids)  # [1, D]
        embeds = tokens.embeds.to(before.device, before.dtype).flatten(0, 1)  # [F * k, D]
        sequence = torch.cat([before, embeds])[None]  # [1, 1 + F * k, D]
        layers = [TailLayer(sequence.shape[1]) for _ in range(self.backbone.text_config.num_hidden_layers)]
        with self.answering("embeds"):
            cache = {CACHE_ARGUMENT: Cache(layers=list(layers))}
            self.backbone.decoder(inputs_embeds=sequence, use_cache=True, **cache)
        slots = torch.arange(before.shape[0], sequence.shape[1]).view(tokens.num_frames, -1)
        return Prefix(tuple((layer.keys, layer.values) for layer in layers), sequence.shape[1], slots, "embeds")

    def empty_prefix(self) -> Prefix:
        """A prefix without frames: text only."""
        return Prefix((), 0, torch.empty(0, 0, dtype=torch.long))

    # ------------------------------------------------------------------ answer

    def answering(self, form: Form) -> AbstractContextManager[None]:
        """Run the decoder as it answers from frames of that form: with adapters, unless they are for the other one."""
        if self.answering_form in (None, "both", form):
            return nullcontext()
        return adapters_off(self.backbone.decoder)

    def forward(
        self, input_ids: Tensor, *, prefix: Prefix, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Text after a prefix: logits, and the loss where labels are given.

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
        """64 hex digits over every weight and setting that changes VoCo tokens, and over nothing else.

        The head is left out, so training it (or an adapter used only while answering) keeps caches valid.
        """
        digest = blake3(f"{self.backbone.template} {self.backbone.computing_settings}".encode())
        head = {id(p) for p in self.backbone.model.get_output_embeddings().parameters()}
        head -= {id(p) for p in self.backbone.model.get_input_embeddings().parameters()}  # tied weights compress too
        for name, parameter in sorted(base_parameters(self)):
            if id(parameter) not in head:
                data = parameter.detach().cpu().contiguous()
                digest.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
                digest.update(data.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def checked_budget(self, num_voco_tokens: int | None) -> int:
        """K for what a caller asks for: all K when None.

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
