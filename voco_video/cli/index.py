"""``voco-video index``: the index by which `find` searches many videos."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_cache, check_model
from voco_video.cli.help import Command
from voco_video.cli.options import with_options
from voco_video.cli.output import format_bytes, print_json
from voco_video.cli.progress import ProgressBar, loading
from voco_video.cli.tables import Column, print_error, print_table, print_wrapped
from voco_video.errors import with_name
from voco_video.options.loading import LoadOptions

if TYPE_CHECKING:
    from voco_video.api import VideoModel
    from voco_video.library.index import Upkeep

app = typer.Typer(
    help="""Look at the index by which `find` searches many videos, or make it before the first search.

    `find` makes it by itself. All that it holds comes from the entries of the cache, so nothing is lost with it.

    \b
    Examples:
      voco-video index status
      voco-video index build --model smolvlm2-500m
      voco-video index rebuild
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)
_ENTRIES = "entries of the cache"


@app.command("status", cls=Command)
@with_options
def status(
    *, model: opt.Model = "voco-tiny", load: LoadOptions, cache_dir: opt.CacheDir = None, json: opt.Json = False
) -> None:
    """Say what the index of a model's entries holds, and what it lacks; nothing is changed.

    \b
    Examples:
      voco-video index status
      voco-video index status --cache-dir /data/cache --json
    """
    loaded = _load(model, load, cache_dir, quiet=json)
    library = loaded.library()
    kinds = library.index.status()
    if json:
        print_json({"folder": str(library.index.folder), "kinds": [asdict(kind) for kind in kinds]})
        return
    if not kinds:
        print_wrapped("no index yet; `voco-video find --all` makes one, and so does `voco-video index build`")
        return
    rows = [
        [f"{k.form} K={k.num_voco_tokens}", f"{k.num_entries:,}", f"{k.num_frames:,}", format_bytes(k.size_bytes)]
        for k in kinds
    ]
    print_table(
        ["frames as", Column("entries", right=True), Column("frames", right=True), Column("size", right=True)], rows
    )


@app.command("build", cls=Command)
@with_options
def build(
    *, model: opt.Model = "voco-tiny", load: LoadOptions, cache_dir: opt.CacheDir = None, json: opt.Json = False
) -> None:
    """Read into the index what it lacks of a model's entries, as the next `find --all` would.

    \b
    Examples:
      voco-video index build
      voco-video index build --model ./my-checkpoint --cache-dir /data/cache
    """
    _refresh(_load(model, load, cache_dir, quiet=json), json=json)


@app.command("rebuild", cls=Command)
@with_options
def rebuild(
    *, model: opt.Model = "voco-tiny", load: LoadOptions, cache_dir: opt.CacheDir = None, json: opt.Json = False
) -> None:
    """Delete the index of a model's entries, and make it again from them.

    \b
    Examples:
      voco-video index rebuild
    """
    loaded = _load(model, load, cache_dir, quiet=json)
    loaded.library().index.remove()
    _refresh(loaded, json=json)


def _load(model: str, load: LoadOptions, cache_dir: str | Path | None, *, quiet: bool) -> VideoModel:
    check_cache(cache_dir)
    check_model(model, revision=load.revision, offline=load.offline)
    with loading(model, quiet=quiet):
        from voco_video.api import load_model

        return load_model(model, **asdict(load), cache_dir=cache_dir)


def _refresh(model: VideoModel, *, json: bool) -> None:
    """Bring the index up to date, and say what came of it; exit code 1 where an entry cannot be read."""
    with ProgressBar("indexing", unit="video", quiet=json) as bar:
        upkeep = model.library().index.refresh(on_progress=bar.show)
    for number, error in upkeep.failed.items():
        print_error(str(with_name(error, upkeep.digests[number][:12])))
    facts = _upkeep_facts(upkeep)
    if json:
        print_json(facts)
    else:
        print_wrapped(f"{facts['num_indexed']:,} {_ENTRIES} are in the index, {facts['num_added']:,} of them new")
        for reason, count in facts["unindexed"].items():
            print_wrapped(f"note: {count:,} are not, and are read one by one: {reason}", file=sys.stderr)
    if upkeep.failed:
        raise typer.Exit(1)


def _upkeep_facts(upkeep: Upkeep) -> dict[str, Any]:
    return {
        "num_indexed": sum(len(covered.rows) for covered in upkeep.covered),
        "num_added": upkeep.num_added,
        "unindexed": upkeep.reasons,
        "failed": {upkeep.digests[number]: str(error) for number, error in upkeep.failed.items()},
    }
