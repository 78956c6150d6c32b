"""voco_config.json: what a checkpoint has beside an image-text model, every value checked as it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from voco_video.checkpoint.needed import VOCO_CONFIG, VOCO_WEIGHTS
from voco_video.errors import ModelError, UsageError
from voco_video.files.checked_values import Checked, is_list_of, is_number, is_one_of, is_text, is_whole
from voco_video.files.settings import FETCH_AGAIN, has_file, read_settings, shown
from voco_video.files.weights import read_small_weights
from voco_video.model.families import AsTrained, ImageSettings, PromptTemplate, Variant

FORMAT = 1
"""The format that this version writes and reads."""


@dataclass(frozen=True)
class Base:
    """The checkpoint that an adapter is for.

    Attributes:
        name: as `load_voco_model` takes it; a hub id with the commit it was.
        digest: 64 hex digits over its weights, see `voco_video.checkpoint.adapter_folder.stored_digest`.
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
        default_form: the form that frames are kept in by default; None for ``"kv"``.
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
    """Read a folder's voco_config.json; None where there is none.

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
    """Read the embeddings of a checkpoint's VoCo tokens, ``[K, D]``.

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
    before, after, text_before = (
        tuple(settings.get(name, "a list of token ids", is_list_of(is_whole)))
        for name in ("frame_before_ids", "frame_after_ids", "text_before_ids")
    )
    joins = settings.get("text_joins", "true, false or null", lambda v: v is None or isinstance(v, bool), None)
    if settings.get("as_trained", "an object or null", lambda v: v is None or isinstance(v, dict), None) is None:
        return PromptTemplate(before, after, text_before, None, joins)
    layout, most = settings.below("as_trained"), len(before)
    as_trained = AsTrained(
        layout.get("num_context_ids", f"a whole number, at most {most}", lambda v: is_whole(v, most=most)),
        layout.get("pictures_per_frame", "a whole number from 1 on", lambda v: is_whole(v, least=1)),
        layout.get("variant", '"released" or "library"', is_one_of(*get_args(Variant))),
    )
    return PromptTemplate(before, after, text_before, as_trained, joins)


def _images(settings: Checked, path: Path) -> ImageSettings:
    images = settings.below("images")
    fit = images.below("fit")
    described: dict[str, Any] = {
        "fit": {
            "height": fit.get("height", "a number of pixels", is_whole),
            "width": fit.get("width", "a number of pixels", is_whole),
            "mode": fit.get("mode", '"crop", "pad" or "stretch"', is_text),
            "pad_rgb": fit.get("pad_rgb", "three numbers from 0 to 255", is_list_of(is_whole, length=3)),
        },
        "mean": images.get("mean", "three numbers", is_list_of(is_number, length=3)),
        "std": images.get("std", "three numbers above 0", is_list_of(is_number, length=3)),
        "detour": images.get("detour", "a number of pixels or null", lambda v: v is None or is_whole(v, least=1), None),
    }
    if images.get("any_shape", "an object or null", lambda v: v is None or isinstance(v, dict), None) is not None:
        limits = images.below("any_shape")
        names = ("cell", "least_pixels", "most_pixels")
        described["any_shape"] = {n: limits.get(n, "a number of pixels", lambda v: is_whole(v, least=1)) for n in names}
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
