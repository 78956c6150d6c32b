"""``voco-video cache push``, ``pull``, ``sync`` and ``verify``: a cache in a folder, and one on a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.cache import ENTRY_HELP, app
from voco_video.cli.early import check_cache
from voco_video.cli.entries import labels_of
from voco_video.cli.help import Command
from voco_video.cli.output import format_bytes, print_json
from voco_video.errors import CacheError, UsageError

if TYPE_CHECKING:
    from voco_video.cache import FrameCache, VerifyResult
    from voco_video.cache.copying import Compared, Copied
    from voco_video.cache.remote.cache import RemoteCache

__all__ = ["app"]  # of `voco_video.cli.cache`, with the commands that are added here

Store = Annotated[str, typer.Argument(help="URL of the store, such as s3://bucket/prefix.", metavar="STORE")]
Entries = Annotated[
    list[str] | None, typer.Argument(help=f"{ENTRY_HELP} All of them when left out.", metavar="[ENTRY]...")
]
Force = Annotated[
    bool, typer.Option("--force", help="Also replace a different result for the same video, model and settings.")
]


@app.command("push", cls=Command)
def push(
    store: Store, entries: Entries = None, force: Force = False, cache_dir: opt.CacheDir = None, json: opt.Json = False
) -> None:
    """Copy entries of the local cache to a store, with their names.

    What the store has already is not copied again. Credentials come from the environment or a profile.

    \b
    Examples:
      voco-video cache push s3://bucket/frames
      voco-video cache push s3://bucket/frames flower 3f9a2c
    """
    check_cache(cache_dir)
    local, remote = _sides(store, cache_dir)
    from voco_video.cache.copying import push as push_entries

    _report(push_entries(local, remote, entries or (), force=force, on_entry=None if json else _say), json=json)


@app.command("pull", cls=Command)
def pull(
    store: Store, entries: Entries = None, force: Force = False, cache_dir: opt.CacheDir = None, json: opt.Json = False
) -> None:
    """Copy entries of a store to the local cache, with their names.

    What is here already is not copied again. The local cache keeps to its limit.

    \b
    Examples:
      voco-video cache pull s3://bucket/frames flower
      voco-video cache pull s3://bucket/frames --cache-dir /data/frames
    """
    local, remote = _sides(store, cache_dir)
    from voco_video.cache.copying import pull as pull_entries

    _report(pull_entries(remote, local, entries or (), force=force, on_entry=None if json else _say), json=json)


@app.command("sync", cls=Command)
def sync(store: Store, cache_dir: opt.CacheDir = None, json: opt.Json = False) -> None:
    """Copy what only one of the local cache and a store has to the other one. Nothing is deleted or replaced.

    \b
    Examples:
      voco-video cache sync s3://bucket/frames
    """
    local, remote = _sides(store, cache_dir)
    from voco_video.cache.copying import sync as sync_entries

    _report(sync_entries(local, remote, on_entry=None if json else _say), json=json)


@app.command("verify", cls=Command)
def verify(
    entry: Annotated[
        str | None, typer.Argument(help=f"{ENTRY_HELP} All of them when left out.", metavar="[ENTRY]")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Also check the store at this URL, and compare both.", metavar="STORE")
    ] = None,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Read everything and compare it with its digests; exit code 1 where something is damaged.

    \b
    Examples:
      voco-video cache verify
      voco-video cache verify 3f9a2c
      voco-video cache verify clip.mp4
      voco-video cache verify --against s3://bucket/frames
    """
    check_cache(cache_dir)
    if against is not None:
        _verify_both(entry, against, cache_dir, json=json)
        return
    if entry is not None:
        labels_of(entry, cache_dir)
    from voco_video.cache import FrameCache

    results = FrameCache(cache_dir).verify(entry)
    if json:
        print_json(_as_json(results))
    else:
        _print_verified(results)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _verify_both(entry: str | None, store: str, cache_dir: str | None, *, json: bool) -> None:
    """Check both sides and compare them; exit code 1 where one is damaged or they differ."""
    local, remote = _sides(store, cache_dir)
    from voco_video.cache.copying import compare

    compared = compare(local, remote, entry)
    sides = {"here": local, "there": remote}
    results: dict[str, list[VerifyResult]] = {}
    for name, side in sides.items():
        digests = [one.digest for one in compared if one.status != f"only {'there' if name == 'here' else 'here'}"]
        results[name] = side.verify() if entry is None else [one for d in digests for one in side.verify(d)]
    if json:
        facts: dict[str, Any] = {name: _as_json(found) for name, found in results.items()}
        print_json({**facts, "compared": [vars(one) for one in compared]})
    else:
        for name, side in sides.items():
            print(f"{side.location}: ", end="")
            _print_verified(results[name])
        _print_compared(compared)
    if not all(one.ok for one in (*results["here"], *results["there"])) or not all(one.ok for one in compared):
        raise typer.Exit(1)


def _print_verified(results: Sequence[VerifyResult]) -> None:
    counts = Counter(result.status for result in results)
    print(", ".join(f"{counts[status]} {status}" for status in ("ok", "damaged", "partial", "stale")))
    for result in results:
        if result.status != "ok":
            print(f"{result.status} {result.digest[:12]}: {result.reason}")


def _print_compared(compared: Sequence[Compared]) -> None:
    for one in compared:
        if one.reason:
            print(f"{one.status} {one.digest[:12]}: {one.reason}")
    counts = Counter(one.status for one in compared)
    print(", ".join(f"{counts[status]} {status}" for status in ("same", "differs", "only here", "only there")))


def _as_json(results: Sequence[VerifyResult]) -> list[dict[str, str]]:
    return [{"digest": r.digest, "path": str(r.path), "status": r.status, "reason": r.reason} for r in results]


def _sides(store: str, cache_dir: str | None) -> tuple[FrameCache, RemoteCache]:
    """Open the local cache and the one on the store.

    Raises:
        UsageError: one of them is on the wrong side.
    """
    from voco_video.cache.remote.location import store_url

    if store_url(store) is None:
        raise UsageError(f"{store}: is no URL of a store; give one such as s3://bucket/prefix")
    if store_url(cache_dir) is not None:
        raise UsageError(f"entries are copied between a folder and {store}; give the folder with --cache-dir")
    from voco_video.cache import FrameCache
    from voco_video.cache.remote.cache import RemoteCache

    return FrameCache(cache_dir), RemoteCache(store)


def _say(one: Copied) -> None:
    if one.status == "copied":
        print(f"copied to the store: {one.digest[:12]}" if one.to == "store" else f"copied here: {one.digest[:12]}")
    elif one.reason:
        print(f"{one.status} {one.digest[:12]}: {one.reason}")


def _report(results: Sequence[Copied], *, json: bool) -> None:
    """Print what became of all; exit code 1 where some could not be copied."""
    copied = [one for one in results if one.status == "copied"]
    num_bytes = sum(one.size_bytes for one in copied)
    if json:
        print_json({"entries": [vars(one) for one in results], "copied_bytes": num_bytes})
    else:
        counts = Counter[str](one.status for one in results)
        others = [f"{counts[kind]} {said}" for kind, said in _SAID.items() if counts[kind]]
        print(", ".join([f"{len(copied)} copied, {format_bytes(num_bytes)}", *others]))
    failed = [one for one in results if one.status in ("failed", "differs")]
    if failed and len(results) == 1:
        raise CacheError(f"{failed[0].digest[:12]}: {failed[0].reason}")
    if failed:
        raise typer.Exit(1)


_SAID = {
    "same": "there already",
    "differs": "different there",
    "growing": "still growing",
    "failed": "failed",
}
