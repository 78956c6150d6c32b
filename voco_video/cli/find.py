"""``voco-video find``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.ask import end_with, file_of, open_compressed, with_subtitles
from voco_video.cli.compress import expand_paths, print_choices
from voco_video.cli.early import check_model, check_searched, check_subtitles, check_video
from voco_video.cli.entries import live_entries
from voco_video.cli.help import OUTPUT
from voco_video.cli.options import with_options, without
from voco_video.cli.output import print_json
from voco_video.cli.pictures import check_picture, save_picture
from voco_video.cli.progress import ProgressBar, loading
from voco_video.cli.run_line import print_line, run_line
from voco_video.cli.tables import Column, print_error, print_table, print_wrapped
from voco_video.errors import FILE_ERRORS, ModelError, UsageError, VideoError, VocoVideoError, with_name
from voco_video.files.urls import short_name, shown_name
from voco_video.options.compression import CompressOptions
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.answer.compressed_video import CompressedVideo
    from voco_video.answer.several_videos import Found


_WHERE = "Videos, folders, patterns, URLs, or cache entries; then what to look for."
Arguments = Annotated[list[str], typer.Argument(help=_WHERE, metavar="PATH... QUERY")]


@with_options
def find(
    arguments: Arguments,
    *,
    num_moments: Annotated[int, typer.Option(help="Show this many moments.", metavar="N", rich_help_panel=OUTPUT)] = 5,
    out: Annotated[Path | None, opt.out("Draw a frame of each moment into this PNG.", metavar="FILE")] = None,
    model: opt.Model = "voco-tiny",
    sampling: Sampling,
    compression: Annotated[CompressOptions, without("num_voco_tokens", "force")],
    subtitles: opt.Subtitles = "none",
    load: LoadOptions,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Find the moments of videos that have most to do with a query; nothing is generated, and no pixel is read.

    Videos that the cache does not have are compressed first. One that cannot be read is named, and the others are
    searched. A model that has learned to find frames, as voco-tiny has, also gives scores: above 0 the moment more
    likely than not shows what was asked for, else it is called unlikely. With others only the order counts, and
    nothing does where a video is nothing that the model was trained on; a note says so.

    \b
    Examples:
      voco-video find holiday.mp4 "the red car"
      voco-video find recordings/ "where does the ball go?" --num-moments 10 --json
      voco-video find 'cam-*.mkv' "a person at the door" --out moments.png
      voco-video find 3f9a2c41 "the blue star" --start 3600
    """
    if num_moments < 1:
        raise UsageError(f"--num-moments {num_moments}: look for 1 moment at least")
    check_picture(out, option="--out")
    check_subtitles(subtitles)
    names, entries, query = names_and_query(arguments, sampling, cache_dir)
    check_model(model, revision=load.revision, offline=load.offline)
    with loading(model, quiet=json):
        from voco_video.answer.generate import model_note
        from voco_video.api import find as find_moments
        from voco_video.api import load_model

        loaded = load_model(model, **asdict(load), cache_dir=cache_dir)
    videos: list[CompressedVideo] = []
    asked: dict[int, dict[str, Any]] = {}  # the run_facts of each
    num_failed = 0

    def count_failed(name: object, error: Exception) -> None:
        nonlocal num_failed
        num_failed += 1
        print_error(str(with_name(error, name)))

    with ProgressBar(num_items=len(names), quiet=json) as bar:
        for name in names:
            try:
                video, facts = open_compressed(loaded, name, sampling, compression, bar, entry=entries.get(name))
                videos.append(with_subtitles(video, subtitles, facts))
                asked[id(videos[-1])] = facts
            except (VocoVideoError, *FILE_ERRORS) as error:
                if len(names) == 1 or (isinstance(error, ModelError) and not videos):  # then no other will do better
                    raise
                count_failed(shown_name(name), error)
    if not json:
        print_choices(list(asked.values()))
    print_line(list(asked.values()), quiet=json)
    with ProgressBar("searching", total=sum(video.num_frames for video in videos), quiet=json) as bar:
        found = find_moments(
            videos,
            query,
            num_moments=num_moments,
            on_progress=bar.advance,
            on_error=None if len(names) == 1 else lambda video, error: count_failed(asked[id(video)]["path"], error),
        )
    show_moments(found, query, asked, note=model_note(loaded.voco), json=json)
    if not json:
        print_notes(found, videos, asked, note=model_note(loaded.voco))
    if out is not None:
        head = [run_line(list(asked.values()))] if asked else []
        failed = f"{num_failed} of {len(names)} videos could not be searched." if num_failed else ""
        notes = [note for note in (failed, model_note(loaded.voco)) if note]
        write_moments(found, query, names_apart(found, asked), out, [*head, *notes])
        if not json:
            print(f"moments in {out}", file=sys.stderr)
    end_with(num_failed, "videos failed", of=len(names))


def names_and_query(
    arguments: list[str], sampling: Sampling, cache_dir: Path | None
) -> tuple[list[str], dict[str, str], str]:
    """Split what stands on the command line into videos, with folders and patterns resolved, and the query.

    Returns:
        The videos, the entries of the cache that some of them stand for, and the query.

    Raises:
        UsageError: one of them is missing, or what stands there cannot be searched.
        VideoError: no video is there.
    """
    if len(arguments) < 2:
        raise UsageError("give one video or more, and then what to look for")
    *paths, query = arguments
    if not query.strip():
        raise UsageError("the query is empty; say what to look for")
    entries = check_searched(paths, query, sampling, cache_dir)
    names = _names(paths, entries)
    if len(names) == 1 and not entries:
        check_video(names[0], sampling)
    for live in live_entries(cache_dir):  # of files in folders
        entries |= {name: live.digest for name in names if name not in entries and live.is_of(name)}
    return names, entries, query


def _names(given: list[str], known: Collection[str]) -> list[str]:
    """List the cache entries as they are, then paths and patterns as the videos that they stand for."""
    entries = [name for name in given if name in known]
    paths = [name for name in given if name not in entries]
    try:
        return [*dict.fromkeys(entries), *map(str, expand_paths(paths) if paths else ())]
    except VideoError:  # none of the files is there; beside entries each fails by itself
        if not entries:
            raise
        return [*dict.fromkeys(entries), *paths]


def show_moments(found: list[Found], query: str, videos: dict[int, dict[str, Any]], *, note: str, json: bool) -> None:
    """Print moments as a table or as JSON.

    Args:
        videos: the `run_facts` of each, by its ``id``.
        note: on the model.
    """
    if json:
        moments = [moment_facts(one, videos[id(one.video)]["path"]) for one in found]
        print_json({"query": query, "note": note, "videos": list(videos.values()), "moments": moments})
    else:
        print_moments(found, [short_name(videos[id(one.video)]["path"]) for one in found])


def print_notes(
    found: list[Found], videos: list[CompressedVideo], facts: dict[int, dict[str, Any]], *, note: str
) -> None:
    """Say on standard error what the scores are worth, and what the model knows."""
    if foreign := [video for video in videos if video.foreign_note]:
        from voco_video.answer.foreign import foreign_note

        world = foreign[0].model.world
        assert world is not None
        which = short_name(facts[id(foreign[0])]["path"]) if len(foreign) == 1 else f"{len(foreign)} videos"
        why = foreign_note(world, [count for video in foreign for count in video.world_counts])
        print_wrapped(f"note: scores of {which} mean nothing: {why}", file=sys.stderr)
    seen = [one for one in found if not hasattr(one.moment, "text")]
    likely = [one.moment.is_likely for one in seen if not one.video.foreign_note]
    if likely and None in likely:
        print_wrapped("note: only the order counts: this model has not learned to find frames", file=sys.stderr)
    elif likely and not any(likely):
        print_wrapped("note: what was asked for is probably not there: no moment is likelier than not", file=sys.stderr)
    if note:
        print_wrapped(f"note: {note}", file=sys.stderr)


def moment_facts(one: Found, path: str) -> dict[str, Any]:
    """Return a moment of the video that is shown as ``path`` as plain values."""
    where = {"path": path, "entry": one.video.parts[0].entry.digest}
    moment = asdict(one.moment)
    del moment["share"]  # of an answer's attention, and there is no answer
    return {**where, **moment, "is_foreign": bool(one.video.foreign_note)}


def print_moments(found: list[Found], names: list[str]) -> None:
    """Print a table of moments, best first, each with the name of its video."""
    from voco_video.answer.moments import format_seconds

    rows = [
        [
            name,
            format_seconds(one.moment.start_seconds),
            format_seconds(one.moment.end_seconds),
            *worth(one),
        ]
        for one, name in zip(found, names, strict=True)
    ]
    numbers = [Column("from", right=True), Column("to", right=True, spare=1), Column("score", right=True)]
    print_table(["video", *numbers, "shows it"], rows)


def worth(one: Found) -> tuple[str, str]:
    """Return a moment's score and what it is worth; dashes where it means nothing."""
    if text := getattr(one.moment, "text", ""):
        return "–", f"says: {text}"
    if one.moment.is_likely is None:
        return "–", "–"
    return f"{one.moment.score:.2f}", "likely" if one.moment.is_likely else "unlikely"


def names_apart(found: list[Found], videos: dict[int, dict[str, Any]]) -> list[str]:
    """Return the name of each moment's video, and its whole path where several videos have that name."""
    paths = {facts["path"] for facts in videos.values()}
    num_of_name = Counter(map(short_name, paths))
    found_in = [videos[id(one.video)]["path"] for one in found]
    return [short_name(path) if num_of_name[short_name(path)] == 1 else path for path in found_in]


def write_moments(found: list[Found], query: str, names: list[str], path: Path, notes: list[str]) -> None:
    """Write one PNG with the best frame of each moment, and the names of their videos; it says so if there is none."""
    from voco_video.answer.pictures import ShownMoment, moment_strip

    shown = [
        ShownMoment(one.moment, name, source=file_of(one.video), is_foreign=bool(one.video.foreign_note))
        for one, name in zip(found, names, strict=True)
    ]
    save_picture(moment_strip(shown, query=query, notes=notes), path)
