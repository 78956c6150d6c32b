"""Printing: tables, sizes, progress bars and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voco_video.compress import Progress


def print_json(value: Any) -> None:
    """Print a value as indented JSON on standard output."""
    print(json.dumps(value, indent=2, default=_plain))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns; the first column is text, the others align right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # A file or a pipe has no width to fit: never wrap there, so that lines stay whole for grep.
    Console(width=None if sys.stdout.isatty() else 1000, highlight=False).print(table)


def format_bytes(size_bytes: float) -> str:
    """A size in the largest unit that keeps it above 1: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


@contextmanager
def progress_bar(name: str, *, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar of frames with frames/s and time left, on standard error; silent where that is not a terminal."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="frame", disable=True if quiet else None, leave=False, smoothing=0.1) as bar:

        def show(progress: Progress) -> None:
            if progress.waiting:
                bar.set_postfix_str("another process is compressing this video; waiting for it")
                return
            if bar.total is None:
                bar.initial = bar.n = progress.num_frames  # resumed frames do not count towards frames/s
                bar.set_postfix_str("")
            bar.total = progress.total_frames
            bar.update(progress.num_frames - bar.n)

        yield show


def _plain(value: Any) -> Any:
    """NumPy values and paths as JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
