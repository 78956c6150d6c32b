"""What an agent may do: ask, find, compress, list. It names videos by the rules of `voco_video.serve.safety`.

Nothing here knows the protocol; `voco_video.mcp.server` speaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.generate import Message
from voco_video.answer.moments import Moment
from voco_video.answer.several_videos import find
from voco_video.api import VideoModel
from voco_video.compress import Progress
from voco_video.errors import UsageError, VideoError, VocoVideoError
from voco_video.files.urls import is_url
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.safety.addresses import IsAllowed, is_public
from voco_video.serve.safety.paths import below
from voco_video.serve.settings import ServeOptions
from voco_video.serve.sources import Source, Sources
from voco_video.serve.uploads import Uploads
from voco_video.serve.videos import Videos
from voco_video.video.downloads import Downloads

Report = Callable[[int, int], None]
"""Told how many frames are done, and of how many."""
MAX_QUESTION_CHARACTERS = 20_000
MAX_MOMENTS = 100


class Tools:
    """The tools of one model and its cache. Calls are made one after the other.

    Args:
        settings: what may be named, and how large it may be.
        is_allowed: tells which addresses URLs may lead to; tests let loopback pass.
    """

    def __init__(self, model: VideoModel, settings: ServeOptions, *, is_allowed: IsAllowed = is_public) -> None:
        self._model, self._settings = model, settings
        cache_dir = model.cache.cache_dir
        self._videos = Videos(model, Uploads(cache_dir / "serve", settings), settings)
        self._sources = Sources(self._videos, settings, Downloads.beside(cache_dir), is_allowed=is_allowed)

    def list(self) -> dict[str, Any]:
        """List the videos of the cache: id, name, state, length in seconds."""
        rows = [row.facts() for row in self._videos.rows()]
        kept = ("id", "name", "state")
        videos = [
            {**{name: row[name] for name in kept}, "duration_seconds": row["video"].get("duration_seconds")}
            for row in rows
        ]
        return {"model": self._model.name, "about": self._model.voco.about, "videos": videos}

    def compress(
        self,
        video: str,
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        name: str | None = None,
        report: Report | None = None,
    ) -> dict[str, Any]:
        """Compress a video, or find it in the cache.

        Raises:
            VocoVideoError, ApiError: it may not be read, or cannot be.
        """
        source = self._source(video)
        if source.video is not None:
            if fps is not None or num_frames is not None or name is not None:
                raise UsageError(f"{video}: is compressed already; leave out fps, num_frames and name")
            return _compressed_facts(source.video)
        return _compressed_facts(self._compressed(source, Sampling(fps=fps, num_frames=num_frames), name, report))

    def ask(
        self,
        video: str,
        question: str,
        *,
        history: Sequence[Mapping[str, str]] = (),
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        max_new_tokens: int = 64,
        report: Report | None = None,
    ) -> dict[str, Any]:
        """Answer a question about a video, which is compressed at one frame a second where that has not been done.

        Args:
            history: earlier turns, each with ``role`` and ``content``.

        Raises:
            VocoVideoError, ApiError: the video may not be read, the question cannot be asked, or the video is nothing
                that the model was trained on.
        """
        _check_text(question, "question")
        if not 1 <= max_new_tokens <= self._settings.max_answer_tokens:
            raise UsageError(f"max_new_tokens={max_new_tokens}: give 1 to {self._settings.max_answer_tokens}")
        turns = _messages(history)
        source = self._source(video)
        seen = source.video or self._compressed(source, Sampling(), None, report)
        if seen.foreign_note and not self._settings.anyway:
            raise VideoError(f"no answer: {seen.foreign_note}")
        window = seen if start_seconds is None and end_seconds is None else seen[start_seconds:end_seconds]
        answer = window.ask(question, history=turns, max_new_tokens=max_new_tokens)
        return {
            "answer": answer.text,
            "confidence": None if answer.is_foreign else round(answer.confidence, 4),
            "is_cut": answer.is_cut,
            "note": answer.note,
            "evidence": [_moment_facts(moment) for moment in answer.evidence],
            "video": _id_of(seen),
            "num_frames": answer.num_frames,
        }

    def find(self, query: str, *, videos: Sequence[str] | None = None, num_moments: int = 5) -> dict[str, Any]:
        """Find the moments that have most to do with a query, best first, in some videos of the cache or in all.

        A video that cannot be searched is listed under ``failed``.

        Raises:
            VocoVideoError, ApiError: there is no such video, or nothing to look for.
        """
        _check_text(query, "query")
        if not 1 <= num_moments <= MAX_MOMENTS:
            raise UsageError(f"num_moments={num_moments}: give 1 to {MAX_MOMENTS}")
        rows = self._videos.rows() if videos is None else [self._row(given) for given in videos]
        opened, names, failed = [], {}, []
        for row in {row.id: row for row in rows}.values():
            label = row.best_label()
            if label is None:
                if videos is not None:
                    failed.append({"video": row.id, "error": f"{row.name} is not compressed yet"})
                continue
            try:
                opened.append(self._videos.open(label))
                names[row.id] = row.name
            except VocoVideoError as error:
                failed.append({"video": row.id, "error": str(error)})

        def note_failure(video: CompressedVideo, error: Exception) -> None:
            failed.append({"video": _id_of(video), "error": str(error)})

        found = find(opened, query, num_moments=num_moments, on_error=note_failure)
        moments = [
            {
                "video": _id_of(one.video),
                "name": names[_id_of(one.video)],
                **_moment_facts(one.moment),
                "is_foreign": bool(one.video.foreign_note),
            }
            for one in found
        ]
        return {"moments": moments, "num_videos": len(opened), "failed": failed}

    # ------------------------------------------------------------------ videos

    def _source(self, given: str) -> Source:
        """Return what a word stands for: a URL, a video of the cache, or else a path below the media root."""
        if not given or len(given) > 4096 or "\0" in given:
            raise UsageError("name a video: its id or name, a path below the media root, or a URL")
        if is_url(given):
            return self._sources.of_video_url(given)
        try:
            return self._sources.of_entry(given)
        except ApiError as error:
            if error.status != 404:
                raise
        if self._settings.media_root is None:
            raise VideoError(f"there is no video {given!r:.80} here; `list` shows all, and no files may be opened")
        return self._sources.of_path(below(given, self._settings.media_root))

    def _row(self, given: str) -> Any:
        try:
            return self._videos.row(given)
        except ApiError as error:
            if error.status != 404:
                raise
            raise VideoError(f"there is no video {given!r:.80} here; `list` shows all") from None

    def _compressed(
        self, source: Source, sampling: Sampling, name: str | None, report: Report | None
    ) -> CompressedVideo:
        most = self._settings.max_video_frames

        def on_progress(progress: Progress) -> None:
            if progress.total_frames > most:
                raise VideoError(
                    f"{source.name}: {progress.total_frames} frames would be compressed; at most {most} are taken "
                    "here, so sample fewer"
                )
            if report is not None:
                report(progress.num_frames, progress.total_frames)

        with source.opened(lambda done, total: None) as opened:
            return self._model.compress_with(opened, sampling, CompressOptions(), on_progress, name=name)


def _check_text(text: str, what: str) -> None:
    if not text.strip() or len(text) > MAX_QUESTION_CHARACTERS:
        raise UsageError(f"the {what} has {len(text)} characters: give 1 to {MAX_QUESTION_CHARACTERS}")


def _messages(history: Sequence[Mapping[str, str]]) -> list[Message]:
    for turn in history:
        if turn.get("role") not in ("user", "assistant") or not isinstance(turn.get("content"), str):
            raise UsageError("history: each turn is {role: 'user' or 'assistant', content: text}")
    return [Message(turn["role"], turn["content"]) for turn in history]


def _id_of(video: CompressedVideo) -> str:
    return str(video.parts[0].entry.key.video_digest)


def _compressed_facts(video: CompressedVideo) -> dict[str, Any]:
    return {
        "video": _id_of(video),
        "entry": video.parts[0].entry.digest,
        "num_frames": video.num_frames,
        "from_cache": video.from_cache,
        "note": video.foreign_note,
    }


def _moment_facts(moment: Moment) -> dict[str, Any]:
    return {name: value for name, value in asdict(moment).items() if name != "share"}
