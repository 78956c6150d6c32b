"""A thread that reads a source which is still being made, ahead of whoever takes its frames.

LiveReader -> Timeline -> frames_on_grid -> pixels -> FrameQueue
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voco_video.errors import VideoError
from voco_video.options.sampling import Sampling
from voco_video.video.live_source import LiveFrame, LiveReader, LiveSource
from voco_video.video.pacing import FrameQueue, frames_on_grid
from voco_video.video.scaling import Fit
from voco_video.video.timeline import Timeline

_SAME_TIME_SECONDS = 1e-6
_USUAL_FPS = 25  # of a source, until its frames have told


@dataclass(frozen=True)
class EarlierRuns:
    """What an entry had when this run began: its digest, its facts, and the times of its first and last frame."""

    digest: str
    facts: Mapping[str, Any]
    first_pts_seconds: float | None
    last_pts_seconds: float | None

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """One for each run, the first first."""
        return list(self.facts.get("sessions", ()))


class SourceThread:
    """A thread that reads the source and queues the pixels of frames on the grid, and what it learned meanwhile.

    Args:
        earlier: what the entry had before.
        fps: frames per second to take.
        fit: how frames become pixels.
        batch_size: how many frames the queue holds.
        starts_over: the source gives again what it gave to earlier runs.
        thins: a full queue drops frames instead of having the source wait.
        idle_seconds, end_marker: as for `LiveReader`.

    Attributes:
        queue: of frames that the model has yet to compress.
        decode_seconds: that the thread worked, without those that it waited.
    """

    def __init__(
        self,
        source: LiveSource,
        *,
        earlier: EarlierRuns,
        fps: float,
        fit_for: Callable[[int, int], Fit],
        batch_size: int,
        starts_over: bool,
        thins: bool,
        idle_seconds: float,
        end_marker: Path | None,
    ) -> None:
        self.source, self.earlier = source, earlier
        self._fps, self._fit_for, self._starts_over = fps, fit_for, starts_over
        self.queue = FrameQueue(batch_size, thins=thins)
        self.decode_seconds = 0.0
        self._stop = threading.Event()
        self._reader = LiveReader(source, idle_seconds=idle_seconds, end_marker=end_marker, stop=self._stop)
        self._timeline: Timeline[float] = Timeline(1 / _USUAL_FPS, eager=True, place_first=self._place_first)
        self._session: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="voco-video-follow", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self.queue.close()
        self._thread.join(timeout=1.0)  # one that waits for a URL's next packet ends with that, or with the process

    def facts(self, *, first_seconds: float) -> dict[str, Any]:
        """Collect what the entry records of its source, once this run has its first frame."""
        earlier, last = self.earlier, self.earlier.last_pts_seconds
        gaps = list(earlier.facts.get("gaps", ()))
        if last is not None and not self._starts_over and first_seconds - last > 1.5 / self._fps:
            gaps.append({"start_seconds": last, "end_seconds": first_seconds})
        return {
            "source": self.source.name,
            "sampling": str(Sampling(fps=self._fps)),
            "video": self._reader.facts,
            "sessions": [*earlier.sessions, self._session],
            "gaps": gaps,
            **self.counts(),
        }

    def counts(self) -> dict[str, int]:
        """Count the frames that were lost, with those of earlier runs."""
        counts = {
            "num_dropped_frames": self.queue.num_dropped,
            "num_undecodable_frames": self._reader.num_undecodable,
            "num_clock_jumps": self._timeline.num_set_back,
        }
        return {name: count + self.earlier.facts.get(name, 0) for name, count in counts.items()}

    def _run(self) -> None:
        try:
            self._reader.open()
            self._queue_frames()
            self.queue.close()
        except BaseException as error:  # whatever it is, it belongs to the thread that waits for frames
            self.queue.close(error)
        finally:
            self._reader.close()

    def _queue_frames(self) -> None:
        started = time.thread_time()
        last, scaler = self.earlier.last_pts_seconds, None
        can_skip = self._starts_over and not self.earlier.facts.get("num_clock_jumps")
        frames = self._reader.frames(after_seconds=last if can_skip else None)
        taken = frames_on_grid(
            self._timeline.placed(self._of_same_recording(frames)),
            fps=self._fps,
            first_seconds=self.earlier.first_pts_seconds if self._starts_over else None,
            end_seconds=self._end_seconds,
        )
        for pts, picture in taken:
            if last is not None and pts <= last:
                continue
            if scaler is None:
                shown = self._reader.scaler(picture, None).layout
                scaler = self._reader.scaler(picture, self._fit_for(shown.width, shown.height))
            pixels = scaler.new_batch(1)[0]
            scaler.write(picture, pixels)
            self.decode_seconds = time.thread_time() - started
            self.queue.put(pts, pixels)

    def _of_same_recording(self, frames: Iterator[LiveFrame]) -> Iterator[LiveFrame]:
        """Pass frames on; VideoError where a source that is read anew begins otherwise than the entry's recording."""
        sessions = self.earlier.sessions if self._starts_over else []
        for frame in frames:
            begins = self._reader.begins_seconds
            if sessions and begins is not None:
                expected = sessions[0].get("source_begins_seconds")  # entries of other versions may lack it
                if expected is not None and abs(begins - expected) > _SAME_TIME_SECONDS:
                    raise VideoError(
                        f"{self.source.name}: begins at {begins:.3f} s, and the recording that entry "
                        f"{self.earlier.digest[:12]} is of began at {expected:.3f} s; give another name, or force"
                    )
            yield frame

    def _place_first(self, pts_seconds: float) -> float:
        """Place this run's first frame on the entry's clock: later by the time that went by since the last run."""
        now, last, place = time.time(), self.earlier.last_pts_seconds, pts_seconds
        if last is not None and not self._starts_over:
            place = last + 1 / self._fps
            first = (self.earlier.sessions or [{}])[0]
            if {"first_pts_seconds", "started_unix_seconds"} <= first.keys():  # entries of other versions may lack them
                place = max(place, first["first_pts_seconds"] + now - first["started_unix_seconds"])
        self._session = {
            "source": self.source.name,
            "started_unix_seconds": now,
            "first_pts_seconds": place,
            "source_begins_seconds": self._reader.begins_seconds,
        }
        return place

    def _end_seconds(self) -> float | None:
        end = self._reader.end_seconds
        return None if end is None else end + self._timeline.offset
