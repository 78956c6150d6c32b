"""The table of `benchmarks.library.search`, which docs/scale.md has too."""

from __future__ import annotations

import json
from statistics import median

from benchmarks.report import RESULTS, Report, table
from voco_video.errors import DataError

RECORDED = RESULTS / "search.json"


def recorded_table() -> str:
    """The table as it was measured last.

    Raises:
        DataError: nothing was recorded.
    """
    try:
        return rows_table(json.loads(RECORDED.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{RECORDED} cannot be read ({error}); run python -m benchmarks.library.search") from None


def rows_table(report: Report) -> str:
    """Time, memory and bytes of every library."""
    rows = []
    for row in report["rows"]:
        exact, fast = row["warm"]["questions"]["exact"], row["warm"]["questions"]["approximate"]
        rows.append(
            [
                f"{row['num_videos']:,}",
                row["num_voco_tokens"],
                _bytes(row["index_bytes"]),
                shown_seconds(row["warm"]["opening"]),
                shown_seconds(exact[0]),
                shown_seconds(row["cold"]["questions"]["exact"][0]),
                _later(exact),
                f"{median([one['narrowed'] for one in exact]) / row['num_frames']:.1%}",
                f"{median([one['opened'] for one in exact]):.0f}",
                _later(fast),
                f"{row['recall']:.0%}",
                _bytes(row["warm"]["memory"]["own_bytes"]),
            ]
        )
    headings = ["videos", "K", "index", "opening", "first question", "first, cold", "later ones", "frames read finely"]
    headings += ["entries opened", "approximate", "its recall", "memory"]
    return table(headings, rows)


def shown_seconds(timing: Report) -> str:
    """Seconds on the clock, and processor seconds in parentheses."""
    return f"{timing['wall_seconds']:.2f} s ({timing['cpu_seconds']:.2f})"


def _later(asked: list[Report]) -> str:
    later = asked[1:]
    return shown_seconds(
        {name: float(median([one[name] for one in later])) for name in ("wall_seconds", "cpu_seconds")}
    )


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
