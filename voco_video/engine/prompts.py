"""What an engine is sent: everything that a question sees, as one row of input embeddings."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from voco_video.answer.choosing import end_token_ids
from voco_video.checkpoint.generation import settings_in_force
from voco_video.errors import UsageError
from voco_video.model.adapters import adapted_layers
from voco_video.model.inference import undisturbed
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import Form

VERBATIM_ROLE = "prompt"
"""The role of a message that an exported chat template writes as it is: it holds the whole prompt."""
_VERBATIM = (
    "{% if messages[0]['role'] == '" + VERBATIM_ROLE + "' %}{% if messages[0]['content'] is string %}"
    "{{ messages[0]['content'] }}{% else %}{{ messages[0]['content'][0]['text'] }}{% endif %}{% else %}"
)
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_NEUTRAL_AT_1 = ("repetition_penalty", "encoder_repetition_penalty", "typical_p", "renormalize_logits")


@dataclass(frozen=True, eq=False)
class Asked:
    """One question to an engine.

    Attributes:
        embeds: what stands before the answer, ``[T, D]``.
        settings: of the request: how tokens are chosen, and what ends the answer.
        max_new_tokens: the most tokens that are wanted.
    """

    embeds: Tensor
    settings: Mapping[str, Any]
    max_new_tokens: int

    @cached_property
    def payload(self) -> str:
        """The embeddings as they are sent."""
        return as_base64(self.embeds)

    def going_on(self, embeds: Tensor) -> Asked:
        """Return what is left to ask, where a part of the answer is there already.

        Args:
            embeds: of the tokens of that part, ``[A, D]``.
        """
        if not len(embeds):
            return self
        left = self.max_new_tokens - len(embeds)
        return replace(self, embeds=torch.cat([self.embeds, embeds.to(self.embeds)]), max_new_tokens=left)


def as_base64(embeds: Tensor) -> str:
    """Write embeddings as vLLM reads them: base64 of what ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(embeds.detach().cpu().contiguous().clone(), buffer)  # a view would take all of its storage along
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def check_form(model: VocoModel, form: Form, *, has_frames: bool = True) -> None:
    """Refuse frames that an engine cannot be sent.

    Raises:
        UsageError: they are kept in form ``kv``; or there are none, and the model answers with other weights then.
    """
    if has_frames and form == "kv":
        raise UsageError(
            "form='kv' cannot be sent to an engine: it keeps keys and values of every layer, and vLLM takes input "
            "embeddings alone (prompt_embeds); compress with form='embeds', or leave out engine_url"
        )
    if not has_frames and adapted_layers(model.backbone.decoder) and model.answering_form not in (None, "both"):
        raise UsageError(
            "without frames this model answers with other weights than those of the engine; leave out engine_url"
        )


@undisturbed()
def asked(model: VocoModel, prefix: Prefix, prompt: Sequence[int], options: AnswerOptions) -> Asked:
    """Make a question for an engine.

    Args:
        prefix: with its ``inputs``, or without frames.
        prompt: token ids of the text behind it.

    Raises:
        UsageError: frames, their places or the settings cannot be had from an engine.
    """
    backbone, has_frames = model.backbone, len(prefix.frame_slots) > 0
    check_form(model, prefix.form, has_frames=has_frames)
    text = backbone.embed(prompt)  # [T, D]
    embeds = text
    if has_frames:
        assert prefix.inputs is not None
        if set(prefix.inputs) != {"inputs_embeds"} or prefix.text_start != prefix.length:
            raise UsageError(
                f"these frames of {backbone.family.title} take more than one row of embeddings at positions 0, 1, 2, "
                "...: other positions, features for deeper layers, or a mask; an engine takes nothing else, so "
                "compress to VoCo tokens, or leave out engine_url"
            )
        embeds = torch.cat([prefix.inputs["inputs_embeds"][0], text])
    return Asked(embeds, request_settings(model, options), options.max_new_tokens)


def request_settings(model: VocoModel, options: AnswerOptions) -> dict[str, Any]:
    """Return how tokens are chosen, in vLLM's words.

    Raises:
        UsageError: a setting that counts what the prompt says, which an engine does not know of embeddings.
    """
    names = ("temperature", "top_p", "top_k", "repetition_penalty")
    given = {name: getattr(options, name) for name in names}
    in_force = settings_in_force(model.backbone.hf_model.generation_config, given)
    for name, value in in_force.items():
        changes = value and not (value == 1 and name in _NEUTRAL_AT_1)
        if changes and name not in _SAMPLING:
            how = "; give repetition_penalty=1" if name == "repetition_penalty" else ", which the checkpoint sets"
            raise UsageError(
                f"{name}={value!r}{how}, or leave out engine_url: an engine cannot choose tokens by it as this process "
                "does, since it reads embeddings and does not know the prompt's words"
            )
    ends = sorted(end_token_ids(model)) if options.stop_at_end else []
    settings: dict[str, Any] = {
        "temperature": float(in_force.get("temperature") or 0.0),
        "seed": options.seed,
        "stop_token_ids": ends,
        "ignore_eos": not options.stop_at_end,
        "repetition_penalty": 1.0,
        "skip_special_tokens": False,
    }
    if options.temperature:
        settings |= {name: in_force[name] for name in ("top_p", "top_k", "min_p") if in_force.get(name) is not None}
    return settings


def export_template(model: VocoModel) -> str | None:
    """Return the chat template of an exported model: its own, but for a message of `VERBATIM_ROLE`.

    Over chat, too, an engine is sent the whole prompt: its chat template could not put frames where they belong.
    """
    backbone = model.backbone
    own: str | None = backbone.chat_template or getattr(backbone.tokenizer, "chat_template", None)
    return None if own is None else f"{_VERBATIM}{own}{{% endif %}}"
