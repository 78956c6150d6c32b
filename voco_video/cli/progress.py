"""One line on standard error that says how far a command is; nothing where that is not a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from voco_video.cli.encoding import shown
from voco_video.cli.tables import shortened, terminal_width
from voco_video.hub.watching import watched_by

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, Task, TaskID

    from voco_video.compress import Progress as CompressProgress
    from voco_video.training import TrainProgress

_LONGEST_BAR = 30
_SHORTEST_BAR = 8
_LONGEST_NAME = 24  # beside a bar
_SHORTEST_NAME = 12


def shows_progress(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal on which a line can be drawn again and again."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


class ProgressBar:
    """A line with a name, how many are done, the rate and the time left; it goes away when all is done.

    Several things in a row, as the videos of a folder, share one line: ``3 of 20 · clip.mp4 · 12.5 frames/s · 1:20
    left``. Each begins with `begin`.

    Args:
        name: stands at the beginning.
        unit: what is counted.
        total: how many there are, where that is known at the start.
        num_items: how many things come in a row.
        quiet: show nothing.
    """

    def __init__(
        self, name: str = "", *, unit: str = "frame", total: int | None = None, num_items: int = 1, quiet: bool
    ) -> None:
        self._line = _Line(name, unit, num_items)
        self._progress: Progress | None = None
        if not quiet and shows_progress(sys.stderr):
            self._progress = _progress(self._line)
            self._task: TaskID = self._progress.add_task("", total=total)
        self._is_resumed, self._is_renamed = total is None, False

    def __enter__(self) -> ProgressBar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def begin(self, name: str) -> None:
        """Go on to the next thing in the row."""
        self._line.begin(name)
        self.restart()

    def rename(self, name: str, *, unit: str) -> None:
        """Show other words at the beginning, and count things of this name."""
        shown_name = shown(name, sys.stderr)
        self._is_renamed |= shown_name != self._line.name
        self._line.name, self._line.unit = shown_name, unit

    def finish(self, *, is_free: bool = False) -> None:
        """Count the thing as done; one that took no work says nothing about how long the others will take."""
        self._line.finish(is_free=is_free)

    def show(self, done: int, total: int) -> None:
        """Show how many are done of how many; what was done before the first call does not count towards the rate."""
        if self._progress is None:
            return
        self._line.state, self._line.is_download = "", False
        if self._is_resumed:
            self._is_resumed = False
            self._progress.reset(self._task, total=total, completed=done)
        else:
            self._progress.update(self._task, total=total, completed=done)
        if self._is_renamed:  # words are read, so none is passed over between two moments of drawing
            self._progress.refresh()
            self._is_renamed = False

    def show_frames(self, progress: CompressProgress) -> None:
        """Show how far a video is fetched, and then how far it is compressed."""
        if progress.num_bytes is not None:
            self.show_bytes(progress.num_bytes, progress.total_bytes)
            return
        if self._line.is_download:
            self.restart()
        if progress.waiting:
            self._line.state = "another process is compressing this video; waiting for it"
        else:
            self.show(progress.num_frames, progress.total_frames)

    def show_bytes(self, num_bytes: int, total_bytes: int | None) -> None:
        """Show how far a file is fetched."""
        if self._progress is None:
            return
        if not self._line.is_download:
            self.restart()
            self._line.is_download = True
        self._progress.update(self._task, total=total_bytes, completed=num_bytes)

    def show_state(self, state: str) -> None:
        """Show these words in place of numbers."""
        self._line.state = state

    def advance(self, count: int) -> None:
        """Count so many more as done."""
        if self._progress is not None:
            self._progress.advance(self._task, count)

    def restart(self) -> None:
        """Begin anew, with nothing done."""
        self._line.is_download, self._line.state, self._is_resumed = False, "", True
        if self._progress is not None:
            for task in self._progress.tasks:  # where rich is given None, the total of before stays
                task.total = None
            self._progress.reset(self._task)


class _Line:
    """What is to be shown, in as many characters as there are."""

    def __init__(self, name: str, unit: str, num_items: int) -> None:
        self.unit, self.num_items = unit, num_items
        self._dot, self._ellipsis = shown(" · ", sys.stderr), shown("…", sys.stderr)
        self.name = shown(name, sys.stderr)
        self.state = ""
        self.is_download = False
        self._number = 0
        self._began = time.monotonic()
        self._seconds: list[float] = []  # of things that took work
        self._rate: float | None = None

    def begin(self, name: str) -> None:
        self._number += 1
        self._began = time.monotonic()
        self.name = shown(name, sys.stderr)

    def finish(self, *, is_free: bool) -> None:
        if not is_free:
            self._seconds.append(time.monotonic() - self._began)

    def draw(self, task: Task, width: int) -> tuple[str, int, str]:
        """Return what stands before the bar, the bar's length (0: none), and what stands behind it."""
        from rich.cells import cell_len

        if self.state:
            text = self._dot.join(filter(None, (self.name, self.state)))
            return shortened(text, width, cut="end", ellipsis=self._ellipsis), 0, ""
        count = f"{self._number} of {self.num_items}" if self.num_items > 1 and self._number else ""
        parts = self._parts(task)
        # What is less needed goes first where there is no room: how many are done, then the rate.
        for kept in (parts, parts[1:], parts[2:], []):
            rest = self._dot.join(filter(None, kept))
            room = width - sum(cell_len(text + self._dot) for text in (count, rest) if text)
            if room >= min(cell_len(self.name), _SHORTEST_NAME):
                break
        has_bar = not count and bool(task.total)
        name = shortened(self.name, min(room, _LONGEST_NAME if has_bar else room), ellipsis=self._ellipsis)
        first = self._dot.join(filter(None, (count, name)))
        bar = min(_LONGEST_BAR, width - cell_len(first) - cell_len(rest) - 2)
        if not has_bar or bar < _SHORTEST_BAR:
            return self._dot.join(filter(None, (first, rest))), 0, ""
        return f"{first} ", bar, f" {rest}"

    def _parts(self, task: Task) -> list[str]:
        """Return how many are done, the rate, and the time left."""
        if not task.completed and task.total is None:
            return ["", "", self._left(task) or (f"{task.elapsed:.0f} s" if (task.elapsed or 0) >= 1 else "")]
        speed = task.speed or (None if self.is_download else self._rate)
        if self.is_download:
            total = "" if task.total is None else f"/{task.total / 1e6:.1f}"
            rate = "" if speed is None else f"{speed / 1e6:.1f} MB/s"
            return [f"{task.completed / 1e6:.1f}{total} MB", rate, self._left(task)]
        self._rate = speed
        done = f"{task.completed:.0f}/{task.total:.0f} {self.unit}s" if task.total is not None else ""
        rate = "" if speed is None else f"{speed:.{0 if speed >= 100 else 1}f} {self.unit}s/s"
        return [done, rate, self._left(task)]

    def _left(self, task: Task) -> str:
        """Estimate the time left, for all things in the row where there are several."""
        left = task.time_remaining
        if self.num_items > 1:
            share = task.completed / task.total if task.total and not self.is_download else 0.0
            seconds = [*self._seconds, *([(time.monotonic() - self._began) / share] if share else [])]
            if not seconds:
                return ""
            left = sum(seconds) / len(seconds) * (self.num_items - self._number + 1 - share)
        if left is None:
            return ""
        minutes, rest = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"


def _progress(line: _Line) -> Progress:
    """Make rich draw a line on standard error, five times a second, below what is printed meanwhile."""
    from rich.console import Console, ConsoleDimensions
    from rich.progress import Progress
    from rich.progress_bar import ProgressBar as Bar
    from rich.table import Table
    from rich.text import Text

    class OneLine(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            width = (terminal_width(stream) or 80) - 1  # a cursor behind the last character would begin a line
            for task in self.tasks:
                first, bar, rest = line.draw(task, width)
                if not bar:
                    yield Text(first, no_wrap=True, overflow="crop")
                    continue
                grid = Table.grid()
                grid.add_row(Text(first), Bar(total=task.total, completed=task.completed, width=bar), Text(rest))
                yield grid

    class Lines(Console):
        """What is printed meanwhile stays as it is, and the cursor stays: a program that is killed would leave none."""

        @property  # type: ignore[misc]
        def size(self) -> ConsoleDimensions:
            return ConsoleDimensions(terminal_width(stream) or 80, 25)  # of this stream, and as it is now

        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*objects, **{**options, "soft_wrap": True})

        def show_cursor(self, show: bool = True) -> bool:
            return False

    stream = sys.stderr
    console = Lines(
        file=stream, force_terminal=True, color_system=None if os.environ.get("NO_COLOR") else "auto", markup=False,
        highlight=False, emoji=False,
    )  # fmt: skip
    return OneLine(console=console, refresh_per_second=5, transient=True, redirect_stdout=False)


@contextmanager
def loading(model: str, *, quiet: bool) -> Iterator[None]:
    """Show that a model is being loaded, and how far it is fetched where it has to be fetched first."""
    with ProgressBar(f"loading {model}", quiet=quiet) as bar, _fetching_in(bar):
        yield


@contextmanager
def training(model: str, *, quiet: bool) -> Iterator[Callable[[TrainProgress], None]]:
    """Show how far a run is: loading the model, then its steps with the loss, and the samples of each validation."""
    with ProgressBar(f"loading {model}", unit="step", quiet=quiet) as bar, _fetching_in(bar):
        was_validating = False

        def show(progress: TrainProgress) -> None:
            nonlocal was_validating
            is_validating = progress.num_to_validate > 0
            if is_validating != was_validating:
                bar.restart()  # samples of a validation come at another rate than steps
                was_validating = is_validating
            if is_validating:
                bar.rename(f"validating at step {progress.step}", unit="sample")
                bar.show(progress.num_validated, progress.num_to_validate)
            else:
                bar.rename("training" if progress.loss is None else f"training, loss {progress.loss:.4g}", unit="step")
                bar.show(progress.step, progress.num_steps)

        yield show


@contextmanager
def _fetching_in(bar: ProgressBar) -> Iterator[None]:
    """Let a bar that is shown already tell of what is fetched meanwhile."""

    @contextmanager
    def fetching() -> Iterator[Callable[[int, int], None]]:
        yield bar.show_bytes
        bar.restart()

    with watched_by(fetching):
        yield


@contextmanager
def fetching_files() -> Iterator[Callable[[int, int], None]]:
    """Show how far files of a hub have come, for `watched_by`."""
    with ProgressBar("fetching", quiet=False) as bar:
        yield bar.show_bytes


@contextmanager
def sending(name: str) -> Iterator[None]:
    """Show how much of what is published has gone to the hub."""

    @contextmanager
    def watching() -> Iterator[Callable[[int, int], None]]:
        with ProgressBar(name, quiet=False) as bar:
            yield bar.show_bytes

    with watched_by(watching):
        yield
