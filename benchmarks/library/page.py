"""The tables of docs/scale.md, made by the code that they come from.

    python -m benchmarks.library.page            write them into the page
    python -m benchmarks.library.page --check    exit 1 where the page has others

Between `<!-- table: NAME -->` and `<!-- end of table -->` stands what is made; the text around it is written by hand.
Tables of arithmetic are made anew from benchmarks/results/*.json; those of the simulation from
benchmarks/results/library/stragglers.json, which `python -m benchmarks.library.stragglers --record` writes, and that of
searching from benchmarks/results/search.json (`python -m benchmarks.library.search`).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.library import cost, search_table, stragglers
from benchmarks.library.arithmetic import Arithmetic
from benchmarks.library.inputs import Inputs
from voco_video.errors import DataError, VocoVideoError

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
_TABLE = re.compile(r"(?<=<!-- table: )(?P<name>[\w ]+) -->\n.*?(?=<!-- end of table -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """Every table of the page by name."""
    report = Arithmetic(Inputs()).report()
    try:
        simulated = json.loads(stragglers.RECORDED.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{stragglers.RECORDED} cannot be read ({error}); make it with --record") from None
    found = {name: draw(report) for name, (_, draw) in cost.TABLES.items()}
    for name in ("batch", "spot"):
        scenario = simulated["scenarios"][name]
        found[name] = f"{stragglers.facts_line(scenario)}.\n\n{stragglers.runs_table(scenario)}"
    return found | {"library": stragglers.library_table(simulated), "search": search_table.recorded_table()}


def filled(text: str) -> str:
    """A page's text with its tables made anew.

    Raises:
        DataError: it asks for a table that there is not, or leaves one out.
    """
    made = tables()
    named = [match["name"] for match in _TABLE.finditer(text)]
    if sorted(named) != sorted(made):
        raise DataError(f"the page has the tables {', '.join(named)}; there are {', '.join(made)}")
    return _TABLE.sub(lambda match: f"{match['name']} -->\n{made[match['name']]}\n", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or say whether the page has them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.library.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page has other tables")
    parsed = parser.parse_args(arguments)
    try:
        before = PAGE.read_text(encoding="utf-8")
        after = filled(before)
        if parsed.check:
            print(f"{PAGE} {'is as it should be' if before == after else 'has other tables'}")
            return int(before != after)
        PAGE.write_text(after, encoding="utf-8")
    except (VocoVideoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
