"""The folder of wheels for a machine without network: collect it, list it, and tell what a machine lacks.

    python benchmarks/gpu/wheels.py collect wheels --python 3.12    on a machine with network
    python benchmarks/gpu/wheels.py list wheels                     name, version and size of each
    python benchmarks/gpu/wheels.py missing wheels                  files that have to be installed here

Needs Python and pip alone, since it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name, parse_wheel_filename
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name, parse_wheel_filename

MAX_BYTES = 60_000_000
OPTIONAL = ("transformers", "huggingface_hub")
"""Where the folder has no newer ones, the machine's own are used together, and the results say so."""
TO_MEASURE = ("peft>=0.18", "pytest>=8", "pytest-timeout>=2.3.1")
BARE = frozenset(
    (
        *("torch", "numpy", "packaging", "pyyaml", "regex", "tqdm", "filelock", "fsspec", "typing-extensions"),
        *("sympy", "networkx", "jinja2", "markupsafe", "mpmath", "setuptools"),
        *("transformers", "huggingface-hub", "tokenizers", "safetensors"),
    )
)
"""What a machine with a CUDA build of torch and a transformers has; the folder is collected without it."""
_PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@dataclass(frozen=True)
class Wheel:
    """A file of the folder."""

    path: Path
    name: str
    version: str

    @staticmethod
    def of(path: Path) -> Wheel:
        """What the file's name says."""
        name, version, *_ = parse_wheel_filename(path.name)
        return Wheel(path, name, str(version))

    @property
    def requirements(self) -> list[Requirement]:
        """What it needs, without extras."""
        with zipfile.ZipFile(self.path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            headers = HeaderParser().parsestr(archive.read(name).decode())
        return [Requirement(line) for line in headers.get_all("Requires-Dist", [])]


def wheels_in(folder: Path) -> list[Wheel]:
    """All wheels of a folder, by name."""
    return sorted((Wheel.of(path) for path in folder.glob("*.whl")), key=lambda wheel: wheel.name)


def declared() -> list[Requirement]:
    """What the package asks for, and what measuring takes."""
    block = re.search(r"^dependencies = \[(.*?)^\]", _PYPROJECT.read_text(), re.DOTALL | re.MULTILINE)
    assert block, "pyproject.toml has a list of dependencies"
    return [Requirement(text) for text in (*re.findall(r'"([^"]+)"', block[1]), *TO_MEASURE)]


def installed_version(name: str) -> str | None:
    """The version of a package here."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def closure(
    roots: Iterable[Requirement], wheels: Iterable[Wheel], version_of: Callable[[str], str | None] = installed_version
) -> tuple[list[Wheel], list[Requirement]]:
    """The wheels that are needed beside what is installed, and the requirements that nothing meets.

    Args:
        version_of: of an installed package.
    """
    by_name = {wheel.name: wheel for wheel in wheels}
    chosen: dict[str, Wheel] = {}
    unmet: dict[str, Requirement] = {}
    waiting = list(roots)
    while waiting:
        asked = waiting.pop()
        if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
            continue
        name, here = str(canonicalize_name(asked.name)), version_of(asked.name)
        if name in chosen or (here is not None and asked.specifier.contains(here, prereleases=True)):
            continue
        wheel = by_name.get(name)
        if wheel is None or not asked.specifier.contains(wheel.version, prereleases=True):
            unmet[name] = asked
            continue
        chosen[name] = wheel
        waiting += wheel.requirements
    return list(chosen.values()), list(unmet.values())


def collect(folder: Path, python: str) -> None:
    """Download what the package needs beside `BARE`, for one version of Python on Linux with an x86-64 processor."""
    folder.mkdir(parents=True, exist_ok=True)
    roots = [asked for asked in declared() if canonicalize_name(asked.name) not in BARE]
    while True:
        _, unmet = closure(roots, wheels_in(folder), lambda name: None)
        lacking = [asked for asked in unmet if canonicalize_name(asked.name) not in BARE]
        if not lacking:
            return
        platforms = [f"--platform=manylinux{kind}_x86_64" for kind in ("_2_28", "_2_17", "2014")]
        options = ["--only-binary=:all:", "--no-deps", f"--python-version={python}", *platforms]
        for asked in lacking:
            wanted = f"{asked.name}{asked.specifier}"
            pip = [sys.executable, "-m", "pip"]
            download = [*pip, "download", "-q", *options, "-d", folder, wanted]
            if subprocess.run(download, stderr=subprocess.PIPE).returncode:
                # Published as source alone, which for pure Python makes a wheel for every machine.
                subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, wanted], check=True)


def listing(folder: Path) -> str:
    """Name, version and size of every wheel, and of all together."""
    wheels = wheels_in(folder)
    sizes = [wheel.path.stat().st_size for wheel in wheels]
    rows = [f"{w.name:24} {w.version:14} {size / 1e6:7.2f} MB" for w, size in zip(wheels, sizes, strict=True)]
    return "\n".join([*rows, f"{len(wheels)} wheels{'':31} {sum(sizes) / 1e6:7.2f} MB"])


def total_bytes(folder: Path) -> int:
    """Of all wheels."""
    return sum(wheel.path.stat().st_size for wheel in wheels_in(folder))


def missing(folder: Path) -> int:
    """Print the files to install here; what is lacking goes to stderr, and makes the exit code 1."""
    chosen, unmet = closure(declared(), wheels_in(folder) if folder.is_dir() else [])
    optional = [asked for asked in unmet if asked.name in OPTIONAL and installed_version(asked.name)]
    for asked in optional:
        print(
            f"note: {asked.name} {installed_version(asked.name)} is older than {asked.specifier}, which this version "
            "is tested with, and the folder of wheels has no newer one; going on with it",
            file=sys.stderr,
        )
    lacking = [asked for asked in unmet if asked not in optional]
    for asked in lacking:
        print(f"error: {asked.name}{asked.specifier} is neither installed nor in {folder}", file=sys.stderr)
    print("\n".join(str(wheel.path) for wheel in chosen))
    return 1 if lacking else 0


def main(arguments: list[str] | None = None) -> int:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("collect", "list", "missing"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path(tempfile.gettempdir()) / "voco-video-wheels")
    parser.add_argument("--python", default=".".join(map(str, sys.version_info[:2])), help="version on that machine")
    given = parser.parse_args(arguments)
    if given.what == "missing":
        return missing(given.folder)
    if given.what == "collect":
        collect(given.folder, given.python)
    print(listing(given.folder))
    if total_bytes(given.folder) > MAX_BYTES:
        print(f"error: more than {MAX_BYTES / 1e6:.0f} MB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
