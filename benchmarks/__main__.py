"""All benchmarks, or some, one after the other; each in a process of its own.

    python -m benchmarks [NAME ...] [--quick | --full] [--out FOLDER]

Figures mean something on a machine that does nothing else. `python -m benchmarks.speed.decode --help` lists
the options of one.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import module_of

NAMES = ("ceiling", "decode", "attention", "compress", "compress_rivals", "answer")
NAMES += ("cache", "many_entries", "scaling", "live", "steady", "needle", "two_events", "how_often", "own_world")
NAMES += ("retention", "compressors", "answering", "train_modes", "families", "serve")
ON_REQUEST = ("seven_b",)  # takes 16 GiB of memory


def command(name: str, *, quick: bool, full: bool, out: Path | None) -> list[str]:
    """How a benchmark is run."""
    start = [sys.executable, "-m", module_of(name)]
    flags = ["--quick"] * quick + ["--full"] * full
    return [*start, *flags, *(["--out", str(out)] if out else [])]


def about(name: str) -> str:
    """The first line of a benchmark's docstring, read without importing it."""
    source = Path(__file__).parents[1].joinpath(*module_of(name).split(".")).with_suffix(".py")
    return (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 where one failed, after all had their turn."""
    listed = "\n".join(f"    {name:<16}{about(name)}" for name in [*NAMES, *ON_REQUEST, "guard"])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    all_but = ", ".join(ON_REQUEST)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which; all but {all_but} and guard when left out")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="the smallest sizes, to see that they work")
    sizes.add_argument("--full", action="store_true", help="the whole tables, however long they take")
    parser.add_argument("--out", type=Path, help="folder for the results")
    parsed = parser.parse_args(arguments)
    if unknown := [name for name in parsed.names if name not in [*NAMES, *ON_REQUEST]]:
        parser.error(f"no benchmark {', '.join(unknown)}; choose from {', '.join([*NAMES, *ON_REQUEST])}")
    failed = []
    for name in parsed.names or NAMES:
        print(f"\n== {name}: {about(name)}", flush=True)
        if subprocess.run(command(name, quick=parsed.quick, full=parsed.full, out=parsed.out)).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
