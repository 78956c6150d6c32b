"""``voco-video cache``: look at the frame cache, check it, and make room."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_cache
from voco_video.cli.help import Command
from voco_video.cli.inspect import entry_facts, print_entries
from voco_video.cli.output import format_bytes, print_facts, print_json
from voco_video.errors import CacheError, UsageError

app = typer.Typer(
    help="""Look at the frame cache, check it, and make room.

    \b
    Examples:
      voco-video cache ls
      voco-video cache prune --max-size 20G
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)
Digest = Annotated[str, typer.Argument(help="The beginning of an entry's digest.", metavar="ENTRY")]
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@app.command("ls", cls=Command)
def ls(cache_dir: opt.CacheDir = None, json: opt.Json = False) -> None:
    """List compressed videos, most recently used first.

    \b
    Examples:
      voco-video cache ls
      voco-video cache ls --json
    """
    check_cache(cache_dir)
    from voco_video.cache import FrameCache
    from voco_video.video.downloads import Downloads

    cache = FrameCache(cache_dir)
    entries = cache.entries()
    partial = cache.partial()
    left = [e for e in entries if e.is_growing and not cache.is_being_written(e.digest)]
    if json:
        facts = {"num_unfinished": len(partial), "num_interrupted_streams": len(left)}
        print_json({"entries": [entry_facts(e) for e in entries], **facts})
        return
    print_entries(entries)
    print(f"{len(entries)} entries, {format_bytes(sum(e.size_bytes for e in entries))} in {cache.cache_dir}")
    if downloads := Downloads.beside(cache.cache_dir).files():
        print(f"{len(downloads)} downloads, {format_bytes(sum(path.stat().st_size for path in downloads))}")
    if partial:
        print(f"{len(partial)} unfinished: give their compress command again to finish, or `cache prune` to drop them")
    if left:
        print(f"{len(left)} growing but written by no process: `compress --follow --name` or --resume continues them")


@app.command("info", cls=Command)
def info(entry: Digest, cache_dir: opt.CacheDir = None, json: opt.Json = False) -> None:
    """Show everything an entry says about itself.

    \b
    Examples:
      voco-video cache info 3f9a2c
    """
    check_cache(cache_dir)
    from voco_video.cache import FrameCache

    found = FrameCache(cache_dir).find(entry)
    facts = {
        **entry_facts(found),
        "directory": str(found.directory),
        "facts": found.facts,
        "key": dict(found.key.settings),
    }
    if json:
        print_json(facts)
        return
    print_facts(facts)


@app.command("verify", cls=Command)
def verify(
    entry: Annotated[str | None, typer.Argument(help="One entry; all of them when left out.", metavar="ENTRY")] = None,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Read everything and compare it with its digests; exit code 1 where something is damaged.

    \b
    Examples:
      voco-video cache verify
      voco-video cache verify 3f9a2c
    """
    check_cache(cache_dir)
    from voco_video.cache import FrameCache

    results = FrameCache(cache_dir).verify(entry)
    if json:
        print_json([{"digest": r.digest, "path": str(r.path), "status": r.status, "reason": r.reason} for r in results])
    else:
        for result in results:
            if result.status != "ok":
                print(f"{result.status} {result.digest[:12]}: {result.reason}")
        counts = Counter(result.status for result in results)
        print(", ".join(f"{counts[status]} {status}" for status in ("ok", "damaged", "partial", "stale")))
    if not all(result.ok for result in results):
        raise typer.Exit(1)


@app.command("rm", cls=Command)
def rm(
    entries: Annotated[list[str], typer.Argument(help="The beginnings of their digests.", metavar="ENTRY...")],
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Remove entries by the beginning of their digests; damaged ones too.

    \b
    Examples:
      voco-video cache rm 3f9a2c 81b04e
    """
    check_cache(cache_dir)
    from voco_video.cache import FrameCache

    cache = FrameCache(cache_dir)
    removed, failed = [], []
    for prefix in entries:
        try:
            removed.append(cache.remove(prefix))
        except CacheError as error:  # the others are removed all the same
            failed.append(error)
        else:
            if not json:
                print(f"removed {removed[-1]}")
    if json:
        print_json({"removed": removed, "num_failed": len(failed)})
    for other in failed[1:]:
        print(f"error: {other}", file=sys.stderr)
    if failed:
        raise failed[0]


@app.command("prune", cls=Command)
def prune(
    max_size: Annotated[
        str | None,
        typer.Option(help="Keep at most this much: 500M, 20G. [default: the cache's own limit]", metavar="SIZE"),
    ] = None,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Remove the entries that were unused longest until the rest fits, and what interrupted runs left behind.

    The files of URLs go too. What a process is using stays.

    \b
    Examples:
      voco-video cache prune
      voco-video cache prune --max-size 20G
    """
    max_bytes = parse_size(max_size) if max_size else None
    check_cache(cache_dir)
    from voco_video.cache import FrameCache
    from voco_video.video.downloads import Downloads

    cache = FrameCache(cache_dir)
    removed = cache.prune(max_bytes, partial=True)
    num_downloads = Downloads.beside(cache.cache_dir).prune(0)
    if json:
        print_json({"removed": list(removed), "num_downloads": num_downloads})
        return
    print(f"removed {len(removed)} entries" + (f" and {num_downloads} downloads" if num_downloads else ""))


def parse_size(text: str) -> int:
    """Read a size such as ``"20G"`` in bytes.

    Raises:
        UsageError: not a size.
    """
    number, unit = text.upper().removesuffix("B").removesuffix("I"), ""
    if number and number[-1] in _UNITS:
        number, unit = number[:-1], number[-1]
    try:
        size_bytes = float(number) * _UNITS[unit]
    except ValueError as error:
        raise UsageError(f"--max-size {text!r}: give a number with K, M, G or T after it, as in 20G") from error
    if not 0 <= size_bytes < 2**63:
        raise UsageError(f"--max-size {text!r}: give a size of 0 or more")
    return int(size_bytes)
