"""Print the lowest versions that pyproject.toml allows, as constraints for pip: ``transformers==5.18``.

    python -m scripts.lowest_versions train eval > lowest.txt
    pip install -c lowest.txt '.[train,eval]'

So pyproject.toml is the one place that states them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib  # Python 3.11 and later
from packaging.requirements import Requirement
from packaging.version import Version

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest_versions(extras: list[str], pyproject: Path = PYPROJECT) -> list[str]:
    """List ``name==version`` for what the package and these extras need on this machine, extras within extras included.

    Raises:
        SystemExit: something has no lower bound, or several.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    waiting, groups = list(project["dependencies"]), {*extras}
    found: dict[str, Version] = {}
    while waiting or groups:
        if not waiting:
            waiting += project["optional-dependencies"][groups.pop()]
        one = Requirement(waiting.pop())
        if one.name == project["name"]:
            groups |= one.extras
        elif one.marker is None or one.marker.evaluate():
            found[one.name] = max(found.get(one.name, Version("0")), _lowest(one))
    return sorted(f"{name}=={version}" for name, version in found.items())


def _lowest(one: Requirement) -> Version:
    bounds = [Version(part.version) for part in one.specifier if part.operator == ">="]
    if len(bounds) != 1:
        raise SystemExit(f"{one} in pyproject.toml has to have one lower bound")
    return bounds[0]


if __name__ == "__main__":
    print("\n".join(lowest_versions(sys.argv[1:])))
