"""Recipes: the YAML files of training runs that come with the package, and how one becomes a `TrainConfig`."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from voco_video.errors import UsageError
from voco_video.files.paths import expanded
from voco_video.options.fields import did_you_mean, option_of, options_of
from voco_video.training.config import TrainConfig

RECIPES = Path(__file__).parents[1] / "configs"
"""The folder of the shipped recipes: `configs/` of the repository, by a link in it and as a copy in a wheel."""

logger = logging.getLogger(__name__)


def recipes() -> dict[str, Path]:
    """List the shipped recipes: their files by their names, such as ``own-clips`` and ``voco-tiny/image``."""
    files = sorted(RECIPES.rglob("*.yaml"), key=lambda path: (len(path.relative_to(RECIPES).parts), path))
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in files}


def recipe_sentence(path: Path) -> str:
    """Return what a recipe is for: the first sentence of the comment that its file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    text = " ".join(line.lstrip("# ").strip() for line in lines[:comment])
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def find_recipe(name: str | Path) -> Path:
    """Find a recipe by its path, or by the name of a shipped one; a file takes precedence over a name.

    Raises:
        UsageError: neither; the known names are listed.
    """
    path, shipped = expanded(name), recipes()
    if path.is_file():
        if str(name) in shipped:
            logger.warning("%s is a file here and a recipe of voco-video; the file is taken", name)
        return path
    if str(name) not in shipped:
        meant = did_you_mean(str(name), shipped)
        raise UsageError(f"{name}: no such configuration file, and no recipe; recipes are {', '.join(shipped)}{meant}")
    return shipped[str(name)]


def find_deepspeed(name: str) -> Path:
    """Find a DeepSpeed configuration by its path, or one that comes with the recipes, such as ``deepspeed/zero3.json``.

    Raises:
        UsageError: there is none.
    """
    shipped = RECIPES / name.removeprefix("configs/")
    path = next((one for one in (expanded(name), shipped) if one.is_file()), None)
    if path is None:
        known = ", ".join(f"deepspeed/{one.name}" for one in sorted((RECIPES / "deepspeed").glob("*.json")))
        meant = did_you_mean(name, known.split(", "))
        raise UsageError(f"deepspeed={name!r}: no such file; there are {known}{meant}")
    return path


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a run's YAML file.

    Args:
        path: the file, or the name of a recipe that comes with the package.
        overrides: ``key=value`` that replace what the file says; values are YAML.

    Raises:
        UsageError: no such file, a key that is no option, a value of another type, or options that cannot go together.
    """
    import yaml

    path = find_recipe(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: has to hold 'key: value' lines, not a {type(values).__name__}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UsageError(f"--set {override!r}: give key=value")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {override!r}: the value is not YAML") from error
    return config_from(values, source=str(path))


def config_from(values: Mapping[str, Any], *, source: str = "the configuration") -> TrainConfig:
    """Make a `TrainConfig` from plain values.

    Raises:
        UsageError: a key that is no option, a missing one, or a value that cannot be right.
    """
    known = {one.name: one for one in options_of(TrainConfig)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]!r}?" if near else "docs/options.md lists them"
            raise UsageError(f"{source}: {key!r} is no option; {meant}")
    for name, one in known.items():
        if one.default is MISSING and name not in values:
            raise UsageError(f"{source}: {name} is missing: {one.details.help}")
    try:
        return TrainConfig(**{key: _read(key, value) for key, value in values.items()})
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error


def _read(name: str, value: Any) -> Any:
    """Convert a YAML value for its option: ``2e-5`` is text in YAML, and one value may stand for a list of one."""
    wanted = option_of(TrainConfig, name).type
    if wanted is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if "tuple" in str(wanted):
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return value
