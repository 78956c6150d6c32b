"""Where a checkpoint is: a folder, an embedded model, or a name at a hub, whose files are fetched once."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from voco_video.checkpoint.needed import (
    CONFIG,
    VOCABULARIES,
    VOCO_CONFIG,
    VOCO_WEIGHTS,
    small_files,
    weight_names,
)
from voco_video.checkpoint.recommended import full_name, similar_names
from voco_video.errors import ModelError, UsageError, used_wrongly
from voco_video.files.paths import expanded
from voco_video.files.processor_files import PROCESSOR_SETTINGS
from voco_video.files.settings import has_file, is_there, read_settings
from voco_video.hub.download import Snapshot, cached_snapshot, download, list_files
from voco_video.hub.names import HubName, cache_folder, is_offline

ASSETS = Path(__file__).parents[1] / "assets"


def find_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    offline: bool = False,
    weights: bool = True,
    update: bool = False,
) -> Path:
    """Find the folder of a checkpoint; what has only a name at a hub is fetched into the local Hugging Face cache.

    A folder of this name comes first, then an embedded model. A name that was fetched before is not asked for again:
    it stands for the same commit until it is updated.

    Args:
        path: a folder, the name of an embedded model, a short name (`voco_video.checkpoint.recommended`), or a hub id,
            ``user/name`` or ``user/name@revision``.
        revision: of a hub id: a branch, a tag or a commit; the main branch by default.
        offline: no hub is asked, as with ``HF_HUB_OFFLINE=1``; what is in the cache is used.
        weights: whether the weights are needed too.
        update: ask the hub what the name stands for now.

    Raises:
        ModelError: there is none; the message says what to do.
        UsageError: ``revision`` is for something that is no hub id, or contradicts it.
    """
    offline = offline or is_offline()
    if update and offline:
        raise UsageError("update=True asks the hub, and offline=True or HF_HUB_OFFLINE forbids it; give one of them")
    folder = expanded(path)
    for candidate in (folder, ASSETS / str(path)):
        if any(has_file(candidate, name) for name in (CONFIG, VOCO_CONFIG)):
            if revision is not None:
                raise UsageError(f"revision={revision!r} is for names at a hub, and {path} is a folder; leave it out")
            return candidate
    if is_there(folder):
        lacks = f"holds no {CONFIG} (nor, as an adapter does, {VOCO_CONFIG})" if folder.is_dir() else "is no folder"
        raise used_wrongly(ModelError(f"{folder} {lacks}, so it is not a checkpoint folder"))
    name = HubName.parse(full_name(str(path)), revision)
    if name is None:
        embedded = sorted(p.name for p in ASSETS.iterdir() if p.is_dir()) if ASSETS.is_dir() else []
        meant = " or ".join([*get_close_matches(str(path).lower(), embedded, cutoff=0.7), *similar_names(str(path))])
        known = ", ".join(embedded) or "none"
        raise used_wrongly(
            ModelError(
                f"no checkpoint {str(path)!r}: no such folder, no embedded model ({known}), and no hub id such as "
                "user/name or user/name@revision" + (f". Did you mean {meant}?" if meant else "")
            )
        )
    if revision is not None and name.revision != revision:
        raise UsageError(f"revision={revision!r} contradicts {path}; give one of them")
    try:
        return _find_by_name(name, offline=offline, weights=weights, update=update)
    except ModelError as error:
        if meant := " or ".join(similar_names(str(path))):
            error.args = (f"{error}. Did you mean {meant}?",)
        raise


def _find_by_name(name: HubName, *, offline: bool, weights: bool, update: bool) -> Path:
    cached = cached_snapshot(name)
    if cached is not None and not update and _is_whole(cached, weights=weights, strict=not offline):
        return cached.folder
    if offline:
        state = "nothing of it is" if cached is None else "not all of it is"
        command = f"hf download {name.repo_id}" + (f" --revision {name.revision}" if name.revision else "")
        raise ModelError(
            f"no checkpoint {str(name)!r}: no such folder, and {state} in the local Hugging Face cache "
            f"{cache_folder()}. Run it once without --offline and HF_HUB_OFFLINE, or `{command}`"
        )
    try:
        listing = list_files(name)
    except ModelError as error:
        here = "" if cached is None else "; what was fetched before is not whole"
        error.args = (f"there is no folder {name} here, and {error}{here}",)
        raise
    small = small_files(listing.files)
    if not {CONFIG, VOCO_CONFIG} & set(small):
        raise ModelError(f"{name} holds no {CONFIG}, so it is not a checkpoint; it has {_some(listing.files)}")
    folder = download(name, listing, small)
    if further := [file for file in _named_files(folder) if file in listing.files and file not in small]:
        download(name, listing, further)
    if weights and not _is_adapter(folder):
        needed = weight_names(folder, listing.files.__contains__)
        if not needed or not set(needed) <= set(listing.files):
            lacks = f"lacks the file {min(set(needed) - set(listing.files))!r} of its" if needed else "holds no"
            raise ModelError(
                f"{name} {lacks} weights: neither model.safetensors nor pytorch_model.bin is whole; other formats are "
                f"not read, and it has {_some(listing.files)}"
            )
        download(name, listing, needed)
    return folder


def _some(names: Iterable[str]) -> str:
    """List a few names of files for a message."""
    first = sorted(names)
    return ", ".join(first[:5]) + (f" and {len(first) - 5} more" if len(first) > 5 else "") if first else "no files"


def left_at_hub(folder: Path) -> bool:
    """Tell whether a folder is a commit in the hub's cache whose weights were not fetched."""
    return folder.parent.name == "snapshots" and not _is_whole(Snapshot(folder, None), weights=True, strict=False)


def _is_whole(cached: Snapshot, *, weights: bool, strict: bool) -> bool:
    """Tell whether all files that are needed are in the cache.

    Args:
        strict: where another program has put files there, and nobody knows which there are at the hub, a tokenizer and
            an image processor have to be among them. Otherwise whatever is there is tried.
    """
    folder = cached.folder
    if not any(cached.has_all([name]) for name in (CONFIG, VOCO_CONFIG)):
        return False
    if cached.names is not None:
        if not cached.has_all(small_files(cached.names)):
            return False
        if not cached.has_all(_named_files(folder).intersection(cached.names)):
            return False
    elif strict and not (
        any(cached.has_all([name]) for name in PROCESSOR_SETTINGS)
        and any(cached.has_all([name]) for name in (*VOCABULARIES, "vocab.json"))
        and (cached.has_all([VOCO_WEIGHTS]) or not cached.has_all([VOCO_CONFIG]))
    ):
        return False
    if not weights or _is_adapter(folder):
        return True
    has = cached.names.__contains__ if cached.names is not None else lambda name: cached.has_all([name])
    needed = weight_names(folder, has)
    return bool(needed or cached.names is not None) and cached.has_all(needed)


def _named_files(folder: Path) -> set[str]:
    """Return the names of files that a voco_config.json says belong to it; what is wrong with it is found later."""
    if not has_file(folder, VOCO_CONFIG):
        return set()
    files = read_settings(folder / VOCO_CONFIG).get("files")
    return {name for name in files if isinstance(name, str)} if isinstance(files, list) else set()


def _is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds what was trained alone, and names where the rest is."""
    return has_file(folder, VOCO_CONFIG) and "base" in read_settings(folder / VOCO_CONFIG)
