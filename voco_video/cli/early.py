"""What commands refuse before a model is loaded, a video is decoded, or torch is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from voco_video.cli.options import given_flags
from voco_video.errors import CacheError, DataError, ModelError, UsageError, VideoError
from voco_video.files.paths import expanded
from voco_video.files.urls import is_url
from voco_video.options.compression import CompressOptions
from voco_video.options.fields import did_you_mean
from voco_video.options.sampling import Sampling

_ENTRY_DIGEST = re.compile(r"[0-9a-f]{6,64}")


def is_entry(path: str) -> bool:
    """Tell whether this is no file but the beginning of an entry's digest."""
    return bool(_ENTRY_DIGEST.fullmatch(path)) and not is_there(path)


def is_there(name: str) -> bool:
    """Tell whether a file or folder has this name, of any length and of any characters."""
    try:
        return os.path.exists(expanded(name))
    except ValueError:  # a zero character
        return False


def check_asked(path: str, questions: Sequence[str], sampling: Sampling) -> None:
    """Refuse to ask about what is no video, outside of its time, or with the words in the wrong order.

    Raises:
        UsageError: a question where the video has to be, words without quotes, options that cannot apply to an entry of
            the cache, or a window in which the video has nothing.
        VideoError: there is no such file, or it cannot be read.
    """
    other = next((question for question in questions if is_video_name(question)), None)
    if is_entry(path):
        check_fits_entries([path])
    elif not is_url(path) and not is_there(path):
        if other is not None:
            raise UsageError(f"{path!r} is no file, but {other!r} is: the video comes first, then the questions")
        raise VideoError(f"{path}: no such file{similar_file(path)}")
    if other is not None:
        raise UsageError(f"{other!r} is a file, and no question; a command asks about one video, `find` searches many")
    check_quotes(questions)
    check_video(path, sampling)


def check_quotes(questions: Sequence[str]) -> None:
    """Refuse what looks like one question whose words are not kept together.

    Raises:
        UsageError: several questions of one word each, of which only the last may end with a question mark.
    """
    are_words = len(questions) > 1 and all(len(question.split()) == 1 for question in questions)
    if are_words and not any(question.endswith(("?", ".", "!")) for question in questions[:-1]):
        raise UsageError(
            f"{' '.join(questions)!r} came as {len(questions)} questions of one word; put quotes around it: "
            f'"{" ".join(questions)}" (or end each with a question mark, if you mean so)'
        )


def check_searched(paths: Sequence[str], query: str, sampling: Sampling) -> None:
    """Refuse to search what is no video, or with the words in the wrong order.

    Raises:
        UsageError: the query stands first, has no quotes, or options cannot apply to entries of the cache.
        VideoError: a single video cannot be read.
    """
    if all(map(is_entry, paths)):
        check_fits_entries(paths)
        return
    lost = [path for path in paths if not (is_url(path) or is_entry(path) or is_there(path))]
    if is_video_name(query) and lost == [paths[0]]:
        raise UsageError(f"{paths[0]!r} is no file, but {query!r} is: videos come first, then what to look for")
    words = [path for path in lost if re.fullmatch(r"[^\W\d_]+[,?!]?", path)]
    if words and words == list(paths[-len(words) :]) and len(words) < len(paths):
        whole = " ".join([*words, query])
        raise UsageError(
            f'{words[0]!r} is no video; if it belongs to what to look for, put quotes around it: "{whole}"'
        )
    if len(paths) == 1 and os.path.isfile(expanded(paths[0])):  # else a folder or a pattern, looked into later
        check_video(paths[0], sampling)


def is_video_name(text: str) -> bool:
    """Tell whether a text is the name of a file, or a URL."""
    return is_url(text) or (len(text) < 4096 and is_there(text) and expanded(text).is_file())


def check_video(path: str, sampling: Sampling) -> None:
    """Refuse a folder, or a window in which a video has nothing; one that is elsewhere is not looked at.

    Raises:
        VideoError: it is not there, is a folder, or cannot be read.
        UsageError: the window lies before or behind it.
    """
    if is_url(path) or is_entry(path):
        return
    file = expanded(path)
    if not is_there(path):
        raise VideoError(f"{path}: no such file{similar_file(path)}")
    if file.is_dir():
        raise VideoError(f"{path} is a folder; give the video files in it")
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
            f"{', '.join(flags)}: {entries[0]} is an entry of the cache, which is sampled and compressed already; "
            "leave that out, or name the video"
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


def check_model(model: str, *, revision: str | None = None, num_voco_tokens: Iterable[int] = ()) -> None:
    """Refuse a model that is not on this machine and has no name of a hub's either, or more VoCo tokens than it has.

    A name at a hub is left to the loading.

    Raises:
        ModelError: there is no such checkpoint.
        UsageError: it has fewer VoCo tokens.
    """
    from voco_video.checkpoint.finding import ASSETS, find_checkpoint
    from voco_video.checkpoint.needed import VOCO_CONFIG
    from voco_video.checkpoint.recommended import full_name
    from voco_video.files.settings import has_file, read_settings
    from voco_video.hub.names import HubName

    is_here = is_there(model) or (ASSETS / model).is_dir()
    if not is_here and HubName.parse(full_name(model), revision) is not None:
        return
    folder = find_checkpoint(model, revision=revision, weights=False)
    most = read_settings(folder / VOCO_CONFIG).get("num_voco_tokens") if has_file(folder, VOCO_CONFIG) else None
    largest = max(num_voco_tokens, default=0)
    if isinstance(most, int) and 0 < most < largest:
        raise UsageError(
            f"num_voco_tokens={largest}: this model has {most} VoCo tokens per frame, so choose 1 to {most}"
        )


def check_files(paths: Iterable[Path]) -> None:
    """Refuse files that are not there.

    Raises:
        DataError: one is missing, or is a folder.
    """
    for path in paths:
        if not is_there(str(path)):
            raise DataError(f"{path}: no such file{similar_file(str(path))}")
        if expanded(path).is_dir():
            raise DataError(f"{path} is a folder; name the file in it")


def check_folder(checkpoint: Path) -> None:
    """Refuse a checkpoint that is no folder here.

    Raises:
        ModelError: it is not.
    """
    if not is_there(str(checkpoint)):
        raise ModelError(f"{checkpoint}: no such folder; a card is written into a checkpoint's own folder, so give one")


def check_cache(cache_dir: Path | None) -> None:
    """Refuse to look into a cache that is not there; the default one may be empty as yet.

    Raises:
        CacheError: there is no such folder.
    """
    if cache_dir is not None and not is_there(str(cache_dir)):
        raise CacheError(f"--cache-dir {cache_dir}: no such folder, so there is no cache in it")


def similar_file(path: str) -> str:
    """Return a question after a file of nearly this name in the same folder; empty where there is none."""
    folder = expanded(path).parent
    try:
        names = os.listdir(folder)
    except (OSError, ValueError):
        return ""
    return did_you_mean(expanded(path).name, names, within=folder)
