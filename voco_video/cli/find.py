"""``voco-video find``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.answers import file_of
from voco_video.cli.ask import end_with, open_compressed, with_subtitles
from voco_video.cli.compress import expand_paths, print_choices
from voco_video.cli.early import (
    check_cache,
    check_model,
    check_no_subtitles,
    check_searched,
    check_subtitles,
    check_video,
)
from voco_video.cli.entries import live_entries
from voco_video.cli.find_library import (
    FEWEST_VIDEOS,
    ManifestRows,
    entries_of,
    facts_of,
    library_facts,
    library_of,
    print_library,
    print_library_notes,
    search_entries,
    with_first_videos,
)
from voco_video.cli.help import DATA, OUTPUT
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
    from voco_video.api import VideoModel


_WHERE = "Videos, folders, patterns, URLs, cache entries, or a manifest; then what to look for."
Arguments = Annotated[list[str], typer.Argument(help=_WHERE, metavar="PATH... QUERY")]


@with_options
def find(
    arguments: Arguments,
    *,
    whole_cache: Annotated[
        bool, typer.Option("--all", help="Search every entry of the cache that this model made.", rich_help_panel=DATA)
    ] = False,
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate",
            help="Look at fewer frames of thousands of videos; a moment may be missed.",
            rich_help_panel=DATA,
        ),
    ] = False,
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

    Many videos are searched by an index in the cache's folder, which is made and kept up on the way. What it finds is
    what reading every entry would find.

    \b
    Examples:
      voco-video find holiday.mp4 "the red car"
      voco-video find recordings/ "where does the ball go?" --num-moments 10 --json
      voco-video find 'cam-*.mkv' "a person at the door" --out moments.png
      voco-video find 3f9a2c41 "the blue star" --start 3600
      voco-video find talks.parquet "the red star"
      voco-video find --all "the red star"
    """
    if num_moments < 1:
        raise UsageError(f"--num-moments {num_moments}: look for 1 moment at least")
    check_picture(out, option="--out")
    check_subtitles(subtitles)
    rows, query = library_of(arguments, sampling, whole_cache=whole_cache)
    names: list[str] = []
    entries: dict[str, str] = {}
    if rows is None:
        names, entries, query = names_and_query(arguments, sampling, cache_dir)
    else:
        check_no_subtitles(subtitles, "--all" if whole_cache else " ".join(arguments[:-1]))
        if whole_cache:
            check_cache(cache_dir)
    check_model(model, revision=load.revision, offline=load.offline)
    with loading(model, quiet=json):
        from voco_video.answer.generate import model_note
        from voco_video.api import load_model

        loaded = load_model(model, **asdict(load), cache_dir=cache_dir)
    how = _How(query, num_moments, approximate, json)
    if rows is not None:
        done = _find_in_library(loaded, how, rows, sampling, compression, whole_cache=whole_cache)
    else:
        done = _find_in_videos(loaded, how, names, entries, sampling, compression, subtitles)
    note = model_note(loaded.voco)
    show_moments(done.found, query, done.facts, note=note, json=json, library=done.library)
    if not json:
        print_notes(done.found, done.videos, done.facts, note=note)
    if out is not None:
        head = [run_line(list(done.facts.values()))] if done.facts else []
        failed = f"{done.num_failed} of {done.num_videos} videos could not be searched." if done.num_failed else ""
        notes = [one for one in (failed, note) if one]
        write_moments(done.found, query, names_apart(done.found, done.facts), out, [*head, *notes])
        if not json:
            print(f"moments in {out}", file=sys.stderr)
    end_with(done.num_failed, "videos failed", of=done.num_videos)


@dataclass(frozen=True)
class _How:
    """What is looked for, and how."""

    query: str
    num_moments: int
    approximate: bool
    quiet: bool


@dataclass
class _Done:
    """What a search came to.

    Attributes:
        num_videos: that were to be searched.
        videos: those that notes are about.
        facts: the `run_facts` of each, by its ``id``.
        library: what the search took, where it was by the index.
    """

    num_videos: int = 0
    num_failed: int = 0
    found: list[Found] = field(default_factory=list)
    videos: list[CompressedVideo] = field(default_factory=list)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    library: dict[str, Any] | None = None

    def count_failed(self, name: object, error: Exception) -> None:
        """Count a video that failed, and print why."""
        self.num_failed += 1
        print_error(str(with_name(error, name)))


def _find_in_library(
    model: VideoModel,
    how: _How,
    rows: ManifestRows,
    sampling: Sampling,
    compression: CompressOptions,
    *,
    whole_cache: bool,
) -> _Done:
    """Search the videos of manifests, or the whole cache."""
    done = _Done()
    entries = None
    if not whole_cache:
        entries = entries_of(model, rows, sampling, compression, on_failure=done.count_failed, quiet=how.quiet)
    result = search_entries(model, entries, on_failure=done.count_failed, **asdict(how))
    done.found = result.moments
    done.videos = list({id(one.video): one.video for one in done.found}.values())
    done.num_videos = result.num_videos + done.num_failed
    done.facts, done.library = facts_of(done.found, entries), library_facts(result)
    if not how.quiet:
        print_library(model, result, done.videos)
    return done


def _find_in_videos(
    model: VideoModel,
    how: _How,
    names: list[str],
    entries: dict[str, str],
    sampling: Sampling,
    compression: CompressOptions,
    subtitles: str,
) -> _Done:
    """Search videos that are named one by one; by the index where they are many and nothing else is searched."""
    from voco_video.video.subtitles import NO_SUBTITLES

    done = _Done(len(names))
    has_window = sampling.start_seconds is not None or sampling.end_seconds is not None
    is_here = not model.cache.is_remote  # the index is kept of entries in a folder
    by_index = len(names) >= FEWEST_VIDEOS and is_here and not has_window and subtitles == NO_SUBTITLES
    with ProgressBar(num_items=len(names), quiet=how.quiet) as bar:
        for name in names:
            try:
                video, facts = open_compressed(model, name, sampling, compression, bar, entry=entries.get(name))
                done.videos.append(with_subtitles(video, subtitles, facts))
                done.facts[id(done.videos[-1])] = facts
            except (VocoVideoError, *FILE_ERRORS) as error:
                if len(names) == 1 or (isinstance(error, ModelError) and not done.videos):  # no other will do better
                    raise
                done.count_failed(shown_name(name), error)
            else:
                if by_index:
                    video.parts[0].entry.close()  # or many entries would take all file descriptors
    facts_list = list(done.facts.values())
    if not how.quiet:
        print_choices(facts_list)
    print_line(facts_list, quiet=how.quiet)
    if by_index and done.videos:
        paths = {video.parts[0].entry.digest: done.facts[id(video)]["path"] for video in done.videos}
        result = search_entries(model, paths, on_failure=done.count_failed, **asdict(how))
        done.found, done.library = with_first_videos(result.moments, done.videos), library_facts(result)
        if not how.quiet:
            print_library_notes(result)
        return done
    with ProgressBar("searching", total=sum(video.num_frames for video in done.videos), quiet=how.quiet) as bar:
        from voco_video.api import find as find_moments

        done.found = find_moments(
            done.videos,
            how.query,
            num_moments=how.num_moments,
            on_progress=bar.advance,
            on_error=None
            if len(names) == 1
            else lambda video, error: done.count_failed(done.facts[id(video)]["path"], error),
        )
    return done


def names_and_query(
    arguments: list[str], sampling: Sampling, cache_dir: str | Path | None
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


def show_moments(
    found: list[Found],
    query: str,
    videos: dict[int, dict[str, Any]],
    *,
    note: str,
    json: bool,
    library: dict[str, Any] | None = None,
) -> None:
    """Print moments as a table or as JSON.

    Args:
        videos: the `run_facts` of each, by its ``id``.
        note: on the model.
        library: what the search took, where it was by the index.
    """
    if json:
        moments = [moment_facts(one, videos[id(one.video)]["path"]) for one in found]
        searched = {} if library is None else {"library": library}
        print_json({"query": query, "note": note, "videos": list(videos.values()), **searched, "moments": moments})
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
