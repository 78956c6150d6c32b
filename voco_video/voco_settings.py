"""voco_config.json: what a checkpoint has beside an image-text model, every value checked as it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from voco_video.backbones import ImageSettings, PromptTemplate
from voco_video.checkpoint_files import VOCO_CONFIG, VOCO_WEIGHTS, read_small_weights
from voco_video.errors import ModelError, UsageError
from voco_video.settings_files import FETCH_AGAIN, has_file, read_settings, shown

FORMAT = 1
"""The format that this version writes and reads."""


class Checked:
    """A JSON object of a file, whose values are given out once they are what they have to be.

    Args:
        settings: the object.
        path: its file, for messages.
        within: the key that the object itself stands under.
    """

    def __init__(self, settings: Mapping[str, Any], path: Path, within: str = "") -> None:
        self._settings, self._path, self._within = settings, path, within

    def __contains__(self, name: str) -> bool:
        return name in self._settings

    def get(self, name: str, what: str, is_right: Callable[[Any], bool], *default: Any) -> Any:
        """The value of a key.

        Args:
            what: what the value has to be, for the message.
            is_right: whether a value is that.
            default: what a missing key stands for; none where it may not be missing.

        Raises:
            ModelError: the key is missing, or its value is something else.
        """
        if name not in self._settings and default:
            return default[0]
        key = f"{self._within}{name}"
        if name not in self._settings:
            raise ModelError(f"{self._path}: {key} is missing, and has to be {what}; {FETCH_AGAIN}")
        value = self._settings[name]
        if not is_right(value):
            raise ModelError(f"{self._path}: {key} has to be {what}, not {shown(value)}; {FETCH_AGAIN}")
        return value

    def below(self, name: str, *default: Any) -> Checked:
        """The object below a key."""
        found = self.get(name, "an object {...}", lambda value: isinstance(value, dict), *default)
        return Checked(found, self._path, f"{self._within}{name}.")


def is_whole(value: Any, *, least: int = 0, most: int = 2**31) -> bool:
    """Whether a value is a whole number within limits."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_text(value: Any) -> bool:
    """Whether a value is text."""
    return isinstance(value, str)


def is_one_of(*values: Any) -> Callable[[Any], bool]:
    """Whether a value is one of these, and of the same type."""
    return lambda value: any(type(value) is type(known) and value == known for known in values)


def is_list_of(is_right: Callable[[Any], bool], *, length: int | None = None) -> Callable[[Any], bool]:
    """Whether a value is a list of such values."""
    return lambda value: (
        isinstance(value, list) and length in (None, len(value)) and all(is_right(item) for item in value)
    )


@dataclass(frozen=True)
class Base:
    """The checkpoint that an adapter is for.

    Attributes:
        name: as `load_voco_model` takes it; a hub id with the commit it was.
        digest: 64 hex digits over its weights, see `voco_video.adapter_folder.stored_digest`.
    """

    name: str
    digest: str


@dataclass(frozen=True)
class VocoSettings:
    """The content of a voco_config.json.

    Attributes:
        num_voco_tokens: K; 0 for a model without VoCo tokens.
        trained: whether they have learned anything.
        about: one sentence on what the weights know.
        default_form: the form that frames are kept in where nobody asks for one; None for ``"kv"``.
        template: token ids around frames and text.
        images: how frames are prepared.
        chat_template: to use in place of the tokenizer's own.
        base: the checkpoint that holds the image-text model, where the folder does not.
        files: other files that belong to the checkpoint, below its folder. Old checkpoints do not list them.
    """

    num_voco_tokens: int
    trained: bool
    about: str
    default_form: Literal["kv", "embeds"] | None
    template: PromptTemplate
    images: ImageSettings
    chat_template: str | None
    base: Base | None
    files: tuple[str, ...]


def read_voco_settings(folder: Path) -> VocoSettings | None:
    """What a folder's voco_config.json says; None where there is none.

    Raises:
        ModelError: it is damaged or of another format, or one of the files that belong to it is missing.
    """
    path = folder / VOCO_CONFIG
    if not has_file(folder, VOCO_CONFIG):
        if has_file(folder, VOCO_WEIGHTS):
            raise ModelError(f"{folder} holds {VOCO_WEIGHTS} without {VOCO_CONFIG}: {FETCH_AGAIN}")
        return None
    settings = Checked(read_settings(path), path)
    number = settings.get("format", "the number of a format", is_whole)
    if number != FORMAT:
        raise ModelError(f"{path}: format {number}; this version reads {FORMAT}: use the version that wrote it")
    found = VocoSettings(
        num_voco_tokens=settings.get("num_voco_tokens", "a whole number from 0 on", is_whole),
        trained=settings.get("trained", "true or false", is_one_of(True, False)),
        about=settings.get("about", "text", is_text, ""),
        default_form=settings.get("default_form", '"kv", "embeds" or null', is_one_of("kv", "embeds", None), None),
        template=_template(settings),
        images=_images(settings, path),
        chat_template=settings.get("chat_template", "text or null", lambda v: v is None or is_text(v), None),
        base=_base(settings),
        files=tuple(settings.get("files", "a list of file names", is_list_of(_is_file_below), [])),
    )
    for name in found.files:
        if not has_file((folder / name).parent, Path(name).name):
            raise ModelError(f"{folder / name} does not exist, and {path} says that it belongs to it; {FETCH_AGAIN}")
    return found


def read_voco_embeds(folder: Path, settings: VocoSettings, *, hidden_size: int | None = None) -> Tensor:
    """The embeddings of a checkpoint's VoCo tokens, ``[K, D]``.

    Args:
        hidden_size: D of the model that they are for; None leaves that unchecked.

    Raises:
        ModelError: their file is damaged, or they are not as many or as wide as they have to be.
    """
    path = folder / VOCO_WEIGHTS
    weights = read_small_weights(path)
    if weights.keys() != {"voco_embeds"}:
        raise ModelError(
            f"{path} has to hold voco_embeds and nothing else, not {shown(sorted(weights))}; {FETCH_AGAIN}"
        )
    embeds = weights["voco_embeds"]
    if embeds.ndim != 2 or len(embeds) != settings.num_voco_tokens:
        raise ModelError(
            f"{path}: voco_embeds are {tuple(embeds.shape)}, and num_voco_tokens in {folder / VOCO_CONFIG} is "
            f"{settings.num_voco_tokens}; the two files do not belong together: {FETCH_AGAIN}"
        )
    if hidden_size is not None and embeds.shape[1] != hidden_size:
        raise ModelError(f"{path}: voco_embeds are {tuple(embeds.shape)}, and the model's hidden size is {hidden_size}")
    return embeds


def _template(settings: Checked) -> PromptTemplate:
    names = ("frame_before_ids", "frame_after_ids", "text_before_ids")
    return PromptTemplate(*(tuple(settings.get(n, "a list of token ids", is_list_of(is_whole))) for n in names))


def _images(settings: Checked, path: Path) -> ImageSettings:
    images = settings.below("images")
    fit = images.below("fit")
    described = {
        "fit": {
            "height": fit.get("height", "a number of pixels", is_whole),
            "width": fit.get("width", "a number of pixels", is_whole),
            "mode": fit.get("mode", '"crop", "pad" or "stretch"', is_text),
            "pad_rgb": fit.get("pad_rgb", "three numbers from 0 to 255", is_list_of(is_whole, length=3)),
        },
        "mean": images.get("mean", "three numbers", is_list_of(is_number, length=3)),
        "std": images.get("std", "three numbers above 0", is_list_of(is_number, length=3)),
    }
    try:
        return ImageSettings.from_description(described)
    except UsageError as error:
        raise ModelError(f"{path}: images: {error}") from error


def _base(settings: Checked) -> Base | None:
    if settings.get("base", "an object or null", lambda v: v is None or isinstance(v, dict), None) is None:
        return None
    base = settings.below("base")
    name = base.get("name", "a folder or a hub id", lambda v: is_text(v) and v)
    return Base(name, base.get("digest", "64 hex digits", lambda v: is_text(v) and len(v) == 64))


def _is_file_below(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not Path(value).is_absolute() and ".." not in Path(value).parts
