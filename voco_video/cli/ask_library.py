"""What `voco-video ask` does with a manifest: the same questions to each of its videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voco_video.cli.early import check_fits_entries, check_model
from voco_video.cli.output import print_json
from voco_video.cli.progress import ProgressBar, loading
from voco_video.cli.run_line import run_facts, run_line
from voco_video.cli.tables import print_error, print_wrapped
from voco_video.errors import FILE_ERRORS, CacheError, ModelError, UsageError, VideoError, VocoVideoError, with_name
from voco_video.files.urls import short_name, shown_name
from voco_video.library.manifest import VideoRow, read_manifest
from voco_video.options.compression import CompressOptions
from voco_video.options.engine import EngineOptions
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.answer.compressed_video import CompressedVideo
    from voco_video.answer.generate import Answer
    from voco_video.api import VideoModel


def ask_library(
    manifest: str,
    questions: Sequence[str],
    *,
    model: str,
    sampling: Sampling,
    compression: CompressOptions,
    load: LoadOptions,
    engine: EngineOptions,
    cache_dir: str | Path | None,
    generation: dict[str, Any],
    anyway: bool,
    json: bool,
    fitting: Callable[[VideoModel, list[str]], list[str]],
    show: Callable[[list[Answer]], None],
    facts_of: Callable[[Answer], dict[str, Any]],
) -> int:
    """Ask each video of a manifest, and print the answers; one that cannot be asked is named, and the others are asked.

    Args:
        sampling: of videos without an entry and without a window of their own; its window is cut out of each video.
        generation: how answers are generated, for `CompressedVideo.ask`.
        fitting: returns the questions that fit the model.
        show: prints answers for a person.
        facts_of: an answer as plain values.

    Returns:
        How many videos and questions were not answered.
    """
    rows = read_manifest(manifest)
    if any(row.entry for row in rows):
        check_fits_entries([f"a video of {manifest}"])
    check_model(model, revision=load.revision, offline=load.offline)
    with loading(model, quiet=json):
        from voco_video.api import load_model

        loaded = load_model(model, **asdict(load), **asdict(engine), cache_dir=cache_dir)
    asked = fitting(loaded, list(questions))
    num_failed = len(questions) - len(asked)
    reports: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        try:
            video = open_row(loaded, row, sampling, compression, place=(number + 1, len(rows)), quiet=json)
            if video.foreign_note and not anyway:
                raise VideoError(f"no answer: {video.foreign_note}; --anyway answers all the same")
            answers = video.ask(asked, **generation)
        except (VocoVideoError, *FILE_ERRORS) as error:
            if isinstance(error, ModelError) and not reports:  # then no other video will do better
                raise
            num_failed += 1
            print_error(with_name(error, row.id))
            reports.append({"id": row.id, "path": shown_name(row.uri), "error": str(error), "answers": []})
            continue
        facts = run_facts(video, shown_name(row.uri))
        reports.append({"id": row.id, **facts, "error": "", "answers": [facts_of(answer) for answer in answers]})
        if not json:
            print_wrapped(f"{'' if not number else chr(10)}{row.id} · {run_line([facts])}")
            show(answers)
    if json:
        print_json({"manifest": manifest, "videos": reports})
    return num_failed


def open_row(
    model: VideoModel,
    row: VideoRow,
    sampling: Sampling,
    compression: CompressOptions,
    *,
    place: tuple[int, int] = (1, 1),
    quiet: bool = True,
) -> CompressedVideo:
    """Open the entry of a row, or compress its video where the row or the cache has none; the window is cut out of it.

    Raises:
        VideoError: the row says that it failed, or its video cannot be read.
        CacheError, ModelError: the entry is damaged, or another model made it.
    """
    if row.status == "failed":
        raise VideoError(row.error or f"{row.id}: it could not be compressed")
    window = (sampling.start_seconds, sampling.end_seconds)
    video: CompressedVideo | None = None
    if row.entry is not None:
        try:
            video = model.open(row.entry)
        except CacheError:
            if model.cache.candidates(row.entry):
                raise
            if row.uri.endswith("?..."):
                raise UsageError(
                    f"{row.id}: its entry is not in {model.cache.cache_dir}, and of its address the secret part is not "
                    "kept; compress it again from the list that it came from"
                ) from None
    if video is None:
        start, end = row.start_seconds, row.end_seconds
        if sampling.timestamps is not None and (start is not None or end is not None):
            raise UsageError(f"{row.id}: timestamps name their own times, and the row has a window")
        own = sampling if sampling.timestamps else replace(sampling, start_seconds=start, end_seconds=end)
        with ProgressBar(num_items=place[1], quiet=quiet) as bar:
            bar.begin(short_name(row.uri))
            video = model.compress(row.uri, **asdict(own), **asdict(compression), on_progress=bar.show_frames)
    return video if window == (None, None) else video[window[0] : window[1]]
