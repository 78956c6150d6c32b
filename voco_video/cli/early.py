"""What commands refuse before a model is loaded, a video is decoded, or torch is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voco_video.cli.entries import check_entry, entry_of, is_there, similar_entry
from voco_video.cli.options import given_flags
from voco_video.data.registry import CONVERSATION_SUFFIXES
from voco_video.errors import CacheError, DataError, ModelError, UsageError, VideoError, used_wrongly
from voco_video.files.paths import expanded
from voco_video.files.urls import is_url, without_secrets
from voco_video.options.compression import CompressOptions
from voco_video.options.fields import did_you_mean
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.training.config import TrainConfig

_HOW_ENTRIES_ARE = "which is sampled and compressed already; leave that out, or name the video"


def check_asked(path: str, questions: Sequence[str], sampling: Sampling, cache_dir: str | Path | None) -> str | None:
    """Refuse to ask about what is no video, outside of its time, or with the words in the wrong order.

    Returns:
        The entry of the cache that is asked, where it is not a video that is compressed first; see `entry_of`.

    Raises:
        UsageError: a question where the video has to be, options that cannot apply to an entry of the cache, or a
            window in which the video has nothing.
        VideoError: there is no such file, or it cannot be read.
        CacheError: there is no such entry, or more than one.
    """
    entry = entry_of(path, cache_dir)
    other = next((question for question in questions if is_video_name(question)), None)
    if entry is not None:
        check_entry(entry, cache_dir)
        check_fits_entries([path])
    elif not is_url(path) and not is_there(path):
        if other is not None:
            raise UsageError(f"{path!r} is no file, but {other!r} is: the video comes first, then the questions")
        meant = similar_file(path) or similar_entry(path, cache_dir)
        raise used_wrongly(VideoError(f"{path}: no such file, and no entry of the cache has that name{meant}"))
    if other is not None:
        raise UsageError(f"{other!r} is a file, and no question; a command asks about one video, `find` searches many")
    for question in questions:
        check_is_no_name(question, "question")
    if entry is None:
        check_video(path, sampling)
    return entry


def check_is_no_name(text: str, what: str) -> None:
    """Refuse the name of a file that is not there, where words have to be: `ask clip.mp4 "who?" --show-frames why.png`.

    Raises:
        UsageError: the text is one word that ends as pictures or videos do.
    """
    name = re.fullmatch(r"\S+\.(png|jpe?g|gif|webp|pdf|svg|mp4|mkv|webm|avi|mov|ts|txt|jsonl?)", text, re.IGNORECASE)
    if name is not None:
        is_picture = name[1].lower() in ("png", "jpg", "jpeg", "gif", "webp", "pdf", "svg")
        way_out = "a picture's name stands behind --out" if is_picture else "there is no such file either"
        raise UsageError(f"{text!r} looks like a file's name, and is no {what}; {way_out}")


def joined_words(questions: Sequence[str]) -> list[str]:
    """Join questions of one word each to one: a question whose quotes were forgotten.

    >>> joined_words(["where", "is", "the", "star?"]), joined_words(["who?", "where?"])
    (['where is the star?'], ['who?', 'where?'])
    """
    are_words = len(questions) > 1 and all(len(question.split()) == 1 for question in questions)
    if are_words and not any(question.endswith(("?", ".", "!")) for question in questions[:-1]):
        return [" ".join(questions)]
    return list(questions)


def check_searched(
    paths: Sequence[str], query: str, sampling: Sampling, cache_dir: str | Path | None
) -> dict[str, str]:
    """Refuse to search what is no video, or with the words in the wrong order.

    Returns:
        Of those paths that stand for entries of the cache, the entries; see `entry_of`.

    Raises:
        UsageError: the query stands first, has no quotes, or options cannot apply to entries of the cache.
        VideoError, CacheError: a single video cannot be read, or a single entry is not there.
    """
    entries = {path: entry for path in paths if (entry := entry_of(path, cache_dir)) is not None}
    if not is_video_name(query):
        check_is_no_name(query, "query")
    if len(entries) == len(paths):
        if len(paths) == 1:
            check_entry(entries[paths[0]], cache_dir)
        check_fits_entries(paths)
        return entries
    lost = [path for path in paths if not (is_url(path) or path in entries or is_there(path))]
    if is_video_name(query) and lost == [paths[0]]:
        raise UsageError(f"{paths[0]!r} is no file, but {query!r} is: videos come first, then what to look for")
    words = [path for path in lost if re.fullmatch(r"[^\W\d_]+[,?!]?", path)]
    if words and words == list(paths[-len(words) :]) and len(words) < len(paths):
        whole = " ".join([*words, query])
        raise UsageError(
            f'{words[0]!r} is no video; if it belongs to what to look for, put quotes around it: "{whole}"'
        )
    return entries


def is_video_name(text: str) -> bool:
    """Tell whether a text is the name of a file, or a URL."""
    return is_url(text) or (len(text) < 4096 and is_there(text) and expanded(text).is_file())


def check_subtitles(subtitles: str) -> None:
    """Refuse what names no subtitles: a file that is not there, or of another kind.

    Raises:
        UsageError, DataError: it does.
    """
    from voco_video.video.subtitles import AUTO_SUBTITLES, NO_SUBTITLES, read_subtitles

    if subtitles not in (AUTO_SUBTITLES, NO_SUBTITLES):
        read_subtitles(expanded(subtitles))


def check_no_subtitles(subtitles: str, videos: str) -> None:
    """Refuse subtitles where many videos are searched or asked by a list, which reads frames alone.

    Raises:
        UsageError: they are asked for.
    """
    from voco_video.video.subtitles import NO_SUBTITLES

    if subtitles != NO_SUBTITLES:
        raise UsageError(
            f"--subtitles {subtitles}: {videos} is searched by its frames alone; name the videos one by one"
        )


def check_video(path: str, sampling: Sampling) -> None:
    """Refuse a folder, or a window in which a video has nothing; one that is elsewhere is not looked at.

    Raises:
        VideoError: it is not there, is a folder, or cannot be read.
        UsageError: the window lies before or behind it.
    """
    if is_url(path):
        return
    file = expanded(path)
    if not is_there(path):
        raise used_wrongly(VideoError(f"{path}: no such file{similar_file(path)}"))
    if file.is_dir():
        raise used_wrongly(VideoError(f"{path} is a folder; give the video files in it"))
    start, end = sampling.start_seconds, sampling.end_seconds
    if start is None and end is None:
        return
    from voco_video.video.reading import probe

    info = probe(file)
    runs = f"{path} runs from {info.first_pts_seconds:g} to {info.end_seconds:g} s"
    if start is not None and start >= info.end_seconds:
        raise UsageError(f"start_seconds={start} is beyond the end: {runs}")
    if end is not None and end <= info.first_pts_seconds:
        raise UsageError(f"end_seconds={end} is before the beginning: {runs}")


def check_fits_entries(entries: Sequence[str]) -> None:
    """Refuse options that say how frames are sampled and compressed, where all that is opened are entries of the cache.

    Raises:
        UsageError: one is given.
    """
    if flags := given_flags(Sampling, CompressOptions, but=("start_seconds", "end_seconds", "num_voco_tokens")):
        raise UsageError(
            f"{', '.join(flags)}: {entries[0]} is an entry of the cache, "
            + ("made while the file grows; leave that out" if is_there(entries[0]) else _HOW_ENTRIES_ARE)
        )


def check_drawing(show_frames: bool, strip: Path | None, *, chat: bool) -> None:
    """Refuse options of pictures where none will be drawn.

    Raises:
        UsageError: one is given.
    """
    if strip is not None and not show_frames:
        raise UsageError(f"--out {strip}: nothing is drawn without --show-frames")
    if chat and show_frames:
        raise UsageError("--show-frames: in a --chat nothing is drawn; leave out one of them")


def check_model(
    model: str, *, revision: str | None = None, offline: bool = False, num_voco_tokens: Iterable[int] = ()
) -> None:
    """Refuse a model that is not on this machine and has no name of a hub's either, or more VoCo tokens than it has.

    A name at a hub is left to the loading, unless VoCo tokens are asked for: then its small files are fetched first.

    Raises:
        ModelError: there is no such checkpoint.
        UsageError: it has fewer VoCo tokens, or none.
    """
    from voco_video.checkpoint.finding import ASSETS, find_checkpoint
    from voco_video.checkpoint.needed import CONFIG, PUBLISHED_TYPES, VOCO_CONFIG
    from voco_video.checkpoint.recommended import full_name
    from voco_video.files.settings import has_file, read_settings
    from voco_video.hub.names import HubName

    largest = max(num_voco_tokens, default=0)
    is_here = is_there(model) or (ASSETS / model).is_dir()
    if not largest and not is_here and HubName.parse(full_name(model), revision) is not None:
        return
    folder = find_checkpoint(model, revision=revision, offline=offline, weights=False)
    if has_file(folder, VOCO_CONFIG):
        most = read_settings(folder / VOCO_CONFIG).get("num_voco_tokens")
    else:  # in the published layouts the weights say whether there are any
        is_published = read_settings(folder / CONFIG).get("model_type") in PUBLISHED_TYPES
        most = None if is_published else 0
    if largest and most == 0:
        raise UsageError(
            f"num_voco_tokens={largest}: {model} has no VoCo tokens; choose how many vision tokens a frame keeps with "
            f"--compressor pool:{largest}, or train it"
        )
    if isinstance(most, int) and 0 < most < largest:
        raise UsageError(
            f"num_voco_tokens={largest}: this model has {most} VoCo tokens per frame, so choose 1 to {most}"
        )


def check_trained(config: TrainConfig) -> None:
    """Refuse a run whose model, data or folders are not there.

    Raises:
        ModelError: there is no such checkpoint.
        DataError: a file or a folder is missing.
    """
    if config.dataset.lower().endswith(CONVERSATION_SUFFIXES):
        check_files([Path(config.dataset)])
    for place in filter(None, (config.media_dir, config.annotations)):
        if not is_there(place):
            raise used_wrongly(DataError(f"{place}: no such folder{similar_file(place)}"))
    check_model(config.model)


def check_files(paths: Iterable[Path]) -> None:
    """Refuse files that are not there.

    Raises:
        DataError: one is missing, or is a folder.
    """
    for path in paths:
        if not is_there(str(path)):
            raise used_wrongly(DataError(f"{path}: no such file{similar_file(str(path))}"))
        if expanded(path).is_dir():
            raise used_wrongly(DataError(f"{path} is a folder; name the file in it"))


def check_folder(checkpoint: Path, *, why: str) -> None:
    """Refuse a checkpoint that is no folder here.

    Args:
        why: a folder is needed.

    Raises:
        ModelError: it is not.
    """
    if not is_there(str(checkpoint)):
        raise used_wrongly(
            ModelError(f"{checkpoint}: no such folder{similar_file(str(checkpoint)) or f'; {why}, so give one'}")
        )


def check_cache(cache_dir: str | Path | None) -> None:
    """Refuse to look into a cache that is not there; the default one may be empty as yet.

    Raises:
        CacheError: there is no such folder.
        UsageError: no cache can be at this URL.
    """
    from voco_video.cache.remote.location import store_url

    if store_url(cache_dir) is None and cache_dir is not None and not is_there(str(cache_dir)):
        raise used_wrongly(CacheError(f"--cache-dir {cache_dir}: no such folder, so there is no cache in it"))


def check_not_on_a_store(cache_dir: str | Path | None) -> None:
    """Refuse to follow a live source into a cache on a store.

    Raises:
        UsageError: the cache is on one.
    """
    from voco_video.cache.remote.location import following_refused, store_url

    url = store_url(cache_dir)
    if url is not None:
        raise UsageError(following_refused(without_secrets(url)))


def similar_file(path: str) -> str:
    """Return a question after a file of nearly this name in the same folder; empty where there is none."""
    folder = expanded(path).parent
    try:
        names = os.listdir(folder)
    except (OSError, ValueError):
        return ""
    return did_you_mean(expanded(path).name, names, within=folder)
