"""``voco-video cache``: look at the frame cache, name its entries, check it, and make room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_cache
from voco_video.cli.entries import catalogue_of, is_there, labels_of
from voco_video.cli.help import Command
from voco_video.cli.inspect import entry_facts, print_entries
from voco_video.cli.output import format_bytes, print_facts, print_json
from voco_video.cli.tables import print_error, print_wrapped
from voco_video.errors import CacheError, UsageError
from voco_video.files.urls import shown_name
from voco_video.options.fields import did_you_mean
from voco_video.options.sizes import parse_age, parse_size

if TYPE_CHECKING:
    from voco_video.cache import CacheEntry, EntryLabel

app = typer.Typer(
    help="""Look at the frame cache, name its entries, check it, and make room.

    \b
    Examples:
      voco-video cache ls
      voco-video cache rm clips/flower.mp4
      voco-video cache prune --max-size 20G --dry-run
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)
SortKey = Literal["used", "size", "frames", "name", "video", "model"]
ENTRY_HELP = "Its name, the path of its video, or the beginning of its digest."
Entry = Annotated[str, typer.Argument(help=ENTRY_HELP, metavar="ENTRY")]
Video = Annotated[str | None, typer.Option(help="Only entries of this video: a path or a URL.", metavar="PATH")]
Sort = Annotated[str, typer.Option(help="used (latest first), size, frames (most first), name, video or model.")]


@app.command("ls", cls=Command)
def ls(
    sort: Sort = "used",
    model: Annotated[str | None, typer.Option(help="Only entries that this model made.", metavar="NAME")] = None,
    video: Video = None,
    older_than: Annotated[
        str | None, typer.Option(help="Only entries that were not used for so long: 12h, 30d.", metavar="TIME")
    ] = None,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """List compressed videos, most recently used first.

    The last use is noted once an hour at most.

    \b
    Examples:
      voco-video cache ls
      voco-video cache ls --sort size --older-than 30d
      voco-video cache ls --model voco-tiny --video clip.mp4 --json
    """
    if sort not in get_args(SortKey):
        known = get_args(SortKey)
        raise UsageError(f"--sort {sort} is not one of {', '.join(known)}{did_you_mean(sort, known)}")
    before = None if older_than is None else time.time() - _age(older_than)
    check_cache(cache_dir)
    digests = None if video is None else _digests_of(video, cache_dir)
    from voco_video.cache import FrameCache
    from voco_video.video.downloads import Downloads

    cache = FrameCache(cache_dir)
    names = cache.names.by_digest()
    entries = [
        entry
        for entry in cache.entries()
        if (digests is None or entry.digest in digests)
        and (model is None or _is_by(entry, model))
        and (before is None or entry.last_used.timestamp() < before)
    ]
    entries.sort(key=_sort_key(sort, names))
    is_whole = digests is None and model is None and before is None
    partial = cache.partial() if is_whole else []
    left = [e for e in entries if e.is_growing and not cache.is_being_written(e.digest)]
    if json:
        facts = {"num_unfinished": len(partial), "num_interrupted_streams": len(left)}
        print_json({"entries": [entry_facts(e, name=names.get(e.digest)) for e in entries], **facts})
        return
    print_entries(entries, names=names, video=None if video is None else shown_name(video))
    print_wrapped(f"{_count(len(entries))}, {format_bytes(sum(e.size_bytes for e in entries))} in {cache.location}")
    if is_whole and (downloads := Downloads.beside(cache.cache_dir).files()):
        print(f"{len(downloads)} downloads, {format_bytes(sum(map(_file_bytes, downloads)))}")
    if partial:
        print(f"{len(partial)} unfinished: give their compress command again to finish, or `cache prune` to drop them")
    if left:
        print(f"{len(left)} growing but written by no process: `compress --follow --name` or --resume continues them")


@app.command("info", cls=Command)
def info(entry: Entry, cache_dir: opt.CacheDir = None, json: opt.Json = False) -> None:
    """Show everything an entry says about itself.

    \b
    Examples:
      voco-video cache info 3f9a2c
      voco-video cache info door
      voco-video cache info clip.mp4
    """
    check_cache(cache_dir)
    label = _one(entry, cache_dir)
    from voco_video.cache import FrameCache

    found = FrameCache(cache_dir).open(label)
    facts = {
        **entry_facts(found, name=label.name or None),
        **({"path": shown_name(entry)} if is_there(entry) else {}),
        "directory": found.location,
        "facts": found.facts,
        "key": dict(found.key.settings),
    }
    if json:
        print_json(facts)
        return
    print_facts(facts)


@app.command("name", cls=Command)
def name(
    entry: Entry,
    new_name: Annotated[str | None, typer.Argument(help="The new name.", metavar="[NAME]")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the name away.")] = False,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Name an entry, or give it another name, by which every command finds it.

    A name stands for one entry, and an entry has one name. A file of that name comes first, then the name, then a
    digest that begins so. A live source that is followed under the new name goes on with its entry.

    \b
    Examples:
      voco-video cache name 3f9a2c flower
      voco-video cache name door front-door
      voco-video cache name door --remove
    """
    if (new_name is None) != remove:
        raise UsageError(
            "give a new name, or --remove" if new_name is None else "--remove takes the name away; give none"
        )
    check_cache(cache_dir)
    label = _one(entry, cache_dir)
    names = catalogue_of(cache_dir).names
    if new_name is None:
        names.drop(label.digest)
    else:
        with _said_here(f"name={new_name!r}", repr(new_name)):
            names.give(new_name, label.digest)
    if json:
        print_json({"digest": label.digest, "name": new_name, "earlier_name": label.name or None})
    else:
        print(f"{label.digest[:12]} is named {new_name}" if new_name else f"{label.digest[:12]} has no name")


@app.command("rm", cls=Command)
def rm(
    entries: Annotated[
        list[str],
        typer.Argument(help=f"{ENTRY_HELP} Of a path, all entries of the video go.", metavar="ENTRY..."),
    ],
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Remove entries, damaged and unfinished ones too. The videos themselves stay.

    \b
    Examples:
      voco-video cache rm 3f9a2c 81b04e
      voco-video cache rm flower
      voco-video cache rm clips/flower.mp4
    """
    check_cache(cache_dir)
    labels: dict[str, EntryLabel] = {}
    failed: list[CacheError] = []
    for given in entries:
        try:
            labels |= {label.digest: label for label in _removable(given, cache_dir)}
        except CacheError as error:  # the others are removed all the same
            failed.append(error)
    if len(entries) == 1 and failed:
        raise failed[0]
    from voco_video.cache import FrameCache

    cache, removed, freed_bytes = FrameCache(cache_dir), [], 0
    for digest, label in labels.items():
        size_bytes = cache.size_of(label)
        try:
            removed.append(cache.remove(digest))
        except CacheError as error:
            failed.append(error)
            continue
        freed_bytes += size_bytes
        if not json:
            print(f"removed {label}, {format_bytes(size_bytes)}")
    if json:
        print_json({"removed": removed, "freed_bytes": freed_bytes, "num_failed": len(failed)})
    if len(entries) == 1 and failed and not removed:
        raise failed[0]
    for other in failed:
        print_error(str(other))
    if failed:
        raise typer.Exit(1)


@app.command("prune", cls=Command)
def prune(
    max_size: Annotated[
        str | None,
        typer.Option(help="Keep at most this much: 500M, 20G. [default: the cache's own limit]", metavar="SIZE"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would be removed.")] = False,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Remove the entries that were unused longest until the rest fits, and what interrupted runs left behind.

    The files of URLs go too. What a process is using stays.

    \b
    Examples:
      voco-video cache prune
      voco-video cache prune --max-size 20G --dry-run
    """
    max_bytes = parse_max_size(max_size) if max_size is not None else None
    check_cache(cache_dir)
    from voco_video.cache import FrameCache
    from voco_video.video.downloads import Downloads

    cache = FrameCache(cache_dir)
    labels = {label.digest: (label, cache.size_of(label)) for label in cache.labels()}
    removed = cache.prune(max_bytes, partial=True, dry_run=dry_run)
    downloads = Downloads.beside(cache.cache_dir)
    sizes = {path: _file_bytes(path) for path in downloads.files()}
    num_downloads = len(sizes) if dry_run else downloads.prune(0)
    kept = set() if dry_run else set(downloads.files())
    freed_bytes = sum(size for path, size in sizes.items() if path not in kept)
    freed_bytes += sum(labels[digest][1] for digest in removed if digest in labels)
    if json:
        facts = {"removed": removed, "num_downloads": num_downloads, "freed_bytes": freed_bytes, "dry_run": dry_run}
        print_json(facts)
        return
    would = "would be " if dry_run else ""
    for label, size_bytes in (labels[digest] for digest in removed if digest in labels):
        print(f"{would}removed: {label}, {format_bytes(size_bytes)}")
    what = _count(len(removed)) + (f" and {num_downloads} downloads" if num_downloads else "")
    print(f"{would}removed: {what}, {format_bytes(freed_bytes)}")


def parse_max_size(text: str) -> int:
    """Read the size of ``--max-size`` in bytes.

    Raises:
        UsageError: not a size.
    """
    with _said_here("max_size=", "--max-size "):
        return parse_size(text, name="max_size")


def _age(text: str) -> float:
    with _said_here("older_than=", "--older-than "):
        return parse_age(text)


@contextmanager
def _said_here(in_python: str, on_the_command_line: str) -> Iterator[None]:
    """Write what an error names as it stands on the command line."""
    try:
        yield
    except UsageError as error:
        error.args = (str(error).replace(in_python, on_the_command_line),)
        raise


def _one(entry: str, cache_dir: str | Path | None) -> EntryLabel:
    """Find the one entry that a word stands for.

    Raises:
        CacheError: none, or several.
    """
    from voco_video.cache.lookup import one_entry

    return one_entry(catalogue_of(cache_dir), entry)


def _removable(given: str, cache_dir: str | Path | None) -> list[EntryLabel]:
    """List the entries that are meant by a word: all of a video, but only one of a digest's beginning.

    Raises:
        CacheError: none, or a beginning that several digests have.
    """
    labels = labels_of(given, cache_dir)
    is_of_videos = is_there(given) or any(label.is_of(given) for label in labels)
    return labels if is_of_videos else [_one(given, cache_dir)]


def _digests_of(video: str, cache_dir: str | Path | None) -> set[str]:
    """Return the digests of a video's entries.

    Raises:
        CacheError: there is no such file, and no entry of it either.
    """
    from voco_video.cache.lookup import candidates

    found = candidates(catalogue_of(cache_dir), video) if is_there(video) else labels_of(video, cache_dir)
    return {label.digest for label in found}


def _is_by(entry: CacheEntry, model: str) -> bool:
    """Tell whether a model of this name, or with a fingerprint that begins so, made an entry."""
    from voco_video.checkpoint.recommended import full_name

    recorded = str(entry.facts.get("model") or "")
    is_fingerprint = len(model) >= 4 and entry.key.model_fingerprint.startswith(model)
    return is_fingerprint or full_name(recorded).lower() == full_name(model).lower()


def _sort_key(sort: str, names: dict[str, str]) -> Callable[[CacheEntry], Any]:
    """Return the key that sorts entries; those without the name or the fact that they are sorted by come last."""
    texts: dict[str, Callable[[CacheEntry], str]] = {
        "name": lambda entry: names.get(entry.digest, ""),
        "video": lambda entry: Path(str(entry.facts.get("source") or "")).name,
        "model": lambda entry: str(entry.facts.get("model") or ""),
    }
    if sort in texts:
        return lambda entry: (not texts[sort](entry), texts[sort](entry).lower())
    numbers = {
        "size": lambda e: e.size_bytes,
        "frames": lambda e: e.num_frames,
        "used": lambda e: e.last_used.timestamp(),
    }
    return lambda entry: -numbers[sort](entry)


def _count(num_entries: int) -> str:
    return "1 entry" if num_entries == 1 else f"{num_entries} entries"


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # removed meanwhile
        return 0
