"""Printing: tables, sizes, progress bars and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from voco_video.cli.tables import Column, print_table

if TYPE_CHECKING:
    from voco_video.compress import Progress

__all__ = ["Column", "ProgressBar", "format_bytes", "print_facts", "print_json", "print_table", "unless_none"]


def print_json(value: Any) -> None:
    """Print a value as indented JSON on standard output."""
    print(json.dumps(value, indent=2, default=_plain))


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print named values, one a line, nested ones indented."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, Mapping):
            print(f"{name}:")
            for inner, inner_value in value.items():
                print(f"  {inner}: {inner_value}")
        else:
            print(f"{name:<{width}}  {value}")
    print()


def unless_none(value: Any) -> str:
    """Format a value for a table; a question mark stands for an unknown one."""
    return "?" if value is None else str(value)


def format_bytes(size_bytes: float) -> str:
    """Format a size in the largest unit that keeps it above 1: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


class ProgressBar:
    """A bar on standard error with the rate and the time left; nothing where that is not a terminal.

    Args:
        name: stands before the bar.
        unit: what is counted.
        total: how many there are, where that is known at the start.
        keep: leave the finished bar on the screen.
    """

    def __init__(
        self, name: str, *, unit: str = "frame", total: int | None = None, quiet: bool, keep: bool = False
    ) -> None:
        from tqdm import tqdm

        disable = True if quiet else None
        self._bar = tqdm(desc=name, unit=unit, total=total, disable=disable, leave=keep, smoothing=0.1)
        self._name, self._quiet = name, quiet
        self._download: tqdm[Any] | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_download()
        self._bar.close()

    def show(self, done: int, total: int) -> None:
        """Show how many are done of how many; what was done before the first call does not count towards the rate."""
        if self._bar.total is None:
            self._bar.initial = self._bar.n = done
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def show_frames(self, progress: Progress) -> None:
        """Show how far a video is fetched, and then how far it is compressed."""
        if progress.num_bytes is not None:
            self.show_bytes(progress.num_bytes, progress.total_bytes)
            return
        self._end_download()
        if progress.waiting:
            self._bar.set_postfix_str("another process is compressing this video; waiting for it")
            return
        if self._bar.total is None:
            self._bar.set_postfix_str("")
        self.show(progress.num_frames, progress.total_frames)

    def show_bytes(self, num_bytes: int, total_bytes: int | None) -> None:
        """Show how far a URL's file is fetched, in a bar of its own."""
        from tqdm import tqdm

        if self._download is None:
            self._download = tqdm(
                desc=self._name, unit="B", unit_scale=True, unit_divisor=1024, disable=True if self._quiet else None,
                leave=False,
            )  # fmt: skip
        self._download.total = total_bytes
        self._download.update(num_bytes - self._download.n)

    def _end_download(self) -> None:
        if self._download is not None:
            self._download.close()
            self._download = None

    def advance(self, count: int) -> None:
        """Count so many more as done."""
        self._bar.update(count)


def _plain(value: Any) -> Any:
    """Convert NumPy values and paths for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
