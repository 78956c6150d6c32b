"""Values of settings files, given out once they are what they have to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from voco_video.errors import ModelError
from voco_video.files.settings import FETCH_AGAIN, shown


class Checked:
    """A JSON object of a file, whose values are given out once they are what they have to be.

    Args:
        settings: the object.
        path: its file, for messages.
        within: the key that the object itself stands under.
    """

    def __init__(self, settings: Mapping[str, Any], path: Path, within: str = "") -> None:
        self._settings, self._path, self._within = settings, path, within

    def __contains__(self, name: str) -> bool:
        return name in self._settings

    def get(self, name: str, what: str, is_right: Callable[[Any], bool], *default: Any) -> Any:
        """Return the value of a key.

        Args:
            what: what the value has to be, for the message.
            is_right: whether a value is that.
            default: what a missing key stands for; none where it may not be missing.

        Raises:
            ModelError: the key is missing, or its value is something else.
        """
        if name not in self._settings and default:
            return default[0]
        key = f"{self._within}{name}"
        if name not in self._settings:
            raise ModelError(f"{self._path}: {key} is missing, and has to be {what}; {FETCH_AGAIN}")
        value = self._settings[name]
        if not is_right(value):
            raise ModelError(f"{self._path}: {key} has to be {what}, not {shown(value)}; {FETCH_AGAIN}")
        return value

    def below(self, name: str, *default: Any) -> Checked:
        """Return the object below a key."""
        found = self.get(name, "an object {...}", lambda value: isinstance(value, dict), *default)
        return Checked(found, self._path, f"{self._within}{name}.")


def is_whole(value: Any, *, least: int = 0, most: int = 2**31) -> bool:
    """Tell whether a value is a whole number within limits."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_text(value: Any) -> bool:
    """Tell whether a value is text."""
    return isinstance(value, str)


def is_one_of(*values: Any) -> Callable[[Any], bool]:
    """Tell whether a value is one of these, and of the same type."""
    return lambda value: any(type(value) is type(known) and value == known for known in values)


def is_list_of(is_right: Callable[[Any], bool], *, length: int | None = None) -> Callable[[Any], bool]:
    """Tell whether a value is a list of such values."""
    return lambda value: (
        isinstance(value, list) and length in (None, len(value)) and all(is_right(item) for item in value)
    )
