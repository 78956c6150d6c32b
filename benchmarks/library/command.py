"""Flags of the commands here: one field of a dataclass is one flag, with its help, its kind and its check."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any

from voco_video.errors import UsageError

SCENARIO, ASSUMED, PUBLISHED, PRODUCT = "scenario", "assumption", "published", "as the product has it"


def given(
    default: Any, text: str, *, kind: str = ASSUMED, source: str = "", zero: bool = False, most: float = math.inf
) -> Any:
    """A field that users can set: its default, what it is, where the default comes from, and what it may be.

    Args:
        kind: `SCENARIO` (what is asked about), `ASSUMED`, `PUBLISHED` or `PRODUCT`.
        source: the page that a published default stands on, and of when.
        zero: whether 0 is a value; nothing below it ever is.
        most: the largest value.
    """
    return field(default=default, metadata={"help": text, "kind": kind, "source": source, "zero": zero, "most": most})


def input_rows(options: Any) -> list[dict[str, Any]]:
    """The fields of a dataclass as rows: flag, value, what it is, its kind and source."""
    return [
        {"flag": flag_of(one.name), "value": getattr(options, one.name)}
        | {key: one.metadata[key] for key in ("help", "kind", "source")}
        for one in fields(options)
    ]


def flag_of(name: str) -> str:
    """A field's flag."""
    return f"--{name.replace('_', '-')}"


def add_flags(parser: argparse.ArgumentParser, owner: type) -> None:
    """A flag for every field of a dataclass."""
    for one in fields(owner):
        shown = f"{one.default:,}" if isinstance(one.default, (int, float)) else one.default or "none"
        parser.add_argument(
            flag_of(one.name),
            type=_number(one.metadata, type(one.default)) if isinstance(one.default, (int, float)) else str,
            default=one.default,
            metavar="N" if isinstance(one.default, (int, float)) else "TEXT",
            help=f"{one.metadata['help']} ({one.metadata['kind']}; default {shown})".replace("%", "%%"),
        )


def options_from(parsed: argparse.Namespace, owner: type) -> Any:
    """The dataclass that the parsed flags give; other flags are left alone."""
    return owner(**{one.name: getattr(parsed, one.name) for one in fields(owner)})


def check_fields(options: Any) -> None:
    """Hold a dataclass's numbers to what its fields allow.

    Raises:
        UsageError: one is not a number, negative, 0 where that is no value, or too large.
    """
    for one in fields(options):
        value = getattr(options, one.name)
        if isinstance(value, (int, float)) and (wrong := _fault(value, one.metadata)):
            raise UsageError(f"{one.name} {wrong}, not {value:g}")


def _number(metadata: Any, kind: type) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text.replace("_", ""))
        except ValueError:
            whole = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {whole}, not {text!r}") from None
        if wrong := _fault(value, metadata):
            raise argparse.ArgumentTypeError(f"{wrong}, not {text}")
        return value

    return parse


def _fault(value: float, metadata: Any) -> str:
    if not math.isfinite(value):
        return "must be a finite number"
    if value < 0 or (value == 0 and not metadata["zero"]):
        return "must be 0 or more" if metadata["zero"] else "must be more than 0"
    return f"must be at most {metadata['most']:g}" if value > metadata["most"] else ""
