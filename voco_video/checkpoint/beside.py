"""What a checkpoint has beside its image-text model's weights: small files, all read before gigabytes are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError

from voco_video.checkpoint.adapter_folder import read_changes
from voco_video.checkpoint.configurations import check_frames, check_token_ids, read_images
from voco_video.checkpoint.files import RETRIEVAL_WEIGHTS, read_tokenizer
from voco_video.checkpoint.needed import CONFIG, VOCO_CONFIG
from voco_video.checkpoint.voco_settings import VocoSettings, read_voco_embeds, read_voco_settings
from voco_video.errors import ModelError, UsageError
from voco_video.files.settings import FETCH_AGAIN, first_line, has_file
from voco_video.files.weights import read_small_weights
from voco_video.model.adapters import read_adapters
from voco_video.model.conversation import ConversationWriter
from voco_video.model.families import ImageSettings, PromptTemplate, Variant, family_of


@dataclass(frozen=True)
class Beside:
    """What a checkpoint has beside its image-text model's weights, every file of it read and checked.

    Attributes:
        settings: its voco_config.json; None where it has none.
        tokenizer, images, template, chat_template: as in `Backbone`.
    """

    settings: VocoSettings | None
    tokenizer: Any
    images: ImageSettings
    template: PromptTemplate
    chat_template: str | None


def read_beside(folder: Path, config: Any, variant: Variant | None = None) -> Beside:
    """Read the small files of a checkpoint, before gigabytes are read.

    Args:
        config: the image-text model's configuration.
        variant: `LoadOptions.layout`.

    Raises:
        ModelError: one of them is damaged, or does not go with the configuration.
    """
    tokenizer = read_tokenizer(folder)
    _check_vocabulary(tokenizer, config, folder)
    settings = read_voco_settings(folder)
    if settings is not None:
        _check_chat_template(tokenizer, settings.chat_template, folder)
        if variant is not None:
            raise UsageError(
                f"layout={variant!r}: {folder} keeps the layout that its {VOCO_CONFIG} says it was trained with; leave "
                "the option out"
            )
        return with_voco_settings(folder, settings, config, tokenizer)
    _check_chat_template(tokenizer, None, folder)
    images = read_images(folder, config, as_library=variant == "library")
    check_frames(images, config, folder / "preprocessor_config.json")
    try:
        template = prompt_template(config, tokenizer, variant or "released")
    except Exception as error:  # a tokenizer that cannot take its own image token; the library raises anything
        raise ModelError(f"the tokenizer in {folder} does not go with its {CONFIG}: {first_line(error)}") from error
    _check_template(template, config, folder / CONFIG)
    return Beside(None, tokenizer, images, template, None)


def prompt_template(config: Any, tokenizer: Any, variant: Variant = "released") -> PromptTemplate:
    """Return the layout that a checkpoint without a voco_config.json was trained with.

    Raises:
        ModelError: its chat template has no place for a video, or its tokenizer does not know the token for one.
    """
    family = family_of(config)
    writer = ConversationWriter(family, config, tokenizer)
    return writer.template(variant) if writer.has_template else family.template(config)


def with_voco_settings(folder: Path, settings: VocoSettings, config: Any, tokenizer: Any) -> Beside:
    """Check what a voco_config.json says against the configuration of the model that it is for."""
    check_frames(settings.images, config, folder / VOCO_CONFIG)
    _check_template(settings.template, config, folder / VOCO_CONFIG)
    read_voco_embeds(folder, settings, hidden_size=config.get_text_config(decoder=True).hidden_size)
    return Beside(settings, tokenizer, settings.images, settings.template, settings.chat_template)


def _check_chat_template(tokenizer: Any, own: str | None, folder: Path) -> None:
    """Refuse a template that is no template; one that takes no such conversation may still take others."""
    if tokenizer is None or not (own or tokenizer.chat_template):
        return
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], chat_template=own, tokenize=False)
    except TemplateSyntaxError as error:
        where = VOCO_CONFIG if own else "chat_template.jinja or tokenizer_config.json"
        raise ModelError(f"{folder}: its chat template in {where}, line {error.lineno}: {first_line(error)}") from error
    except Exception:  # a template is a program, and raises anything
        return


def read_beside_weights(folder: Path) -> None:
    """Read the small weights of a checkpoint, for what is wrong with them alone.

    Raises:
        ModelError: one of the files is damaged.
    """
    if (settings := read_voco_settings(folder)) is not None:
        read_voco_embeds(folder, settings)
    read_adapters(folder)
    read_changes(folder)
    if has_file(folder, RETRIEVAL_WEIGHTS):
        read_small_weights(folder / RETRIEVAL_WEIGHTS)


def _check_template(template: PromptTemplate, config: Any, path: Path) -> None:
    vocab_size = config.get_text_config(decoder=True).vocab_size
    for name in ("frame_before_ids", "frame_after_ids", "text_before_ids"):
        check_token_ids(getattr(template, name), vocab_size, path, name)


def _check_vocabulary(tokenizer: Any, config: Any, folder: Path) -> None:
    """Check that the model has a row for every token of the vocabulary; only added tokens may lack one."""
    if tokenizer is None:
        return
    vocabulary, added = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    ordinary = [token_id for token, token_id in vocabulary.items() if token not in added]
    check_token_ids(
        [max(ordinary, default=0)], config.get_text_config(decoder=True).vocab_size, folder, "its tokenizer"
    )
    if len(set(ordinary)) != len(ordinary):
        twice = Counter(ordinary).most_common(1)[0][0]
        raise ModelError(f"{folder}: its tokenizer.json gives several tokens the id {twice}; {FETCH_AGAIN}")
