"""Printing: facts, sizes and JSON; tables are in `voco_video.cli.tables`, progress in `voco_video.cli.progress`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from voco_video.cli.progress import ProgressBar
from voco_video.cli.tables import Column, print_table, print_wrapped

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
                print_wrapped(f"  {inner}: {inner_value}", indent=4)
        else:
            print_wrapped(f"{name:<{width}}  {value}", indent=width + 2)
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


def _plain(value: Any) -> Any:
    """Convert NumPy values and paths for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
