"""Damage by seed: what the package makes of mutated clips, cache entries and checkpoint folders.

    python -m benchmarks.fuzz [clips|cache|checkpoints ...] [--count N] [--seed S] [--seeds S ...] [--jobs J]

Cases run in child processes, so that a crash or a hang is one outcome more. Anything but a right result, a partial one
that is said, or one clear error is a finding: it is listed with its seed, and the command exits with 1.
`--seeds S ...` repeats some, and writes nothing. Counts go to results/fuzz.json, where other kinds' counts stay.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.fuzz.children import Children
from benchmarks.fuzz.outcome import OUTCOMES, Outcome
from benchmarks.report import RESULTS

COUNTS = {"clips": 2000, "cache": 2000, "checkpoints": 300}


def report_of(outcomes: Iterable[Outcome], *, seed: int, seconds: float) -> dict[str, Any]:
    """Counts per outcome, in all and by mutation, and every finding."""
    outcomes = sorted(outcomes, key=lambda outcome: outcome.seed)
    mutations: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        mutations.setdefault(outcome.mutation, Counter())[outcome.outcome] += 1
    counts = Counter(outcome.outcome for outcome in outcomes)
    return {
        "count": len(outcomes),
        "first_seed": seed,
        "seconds": round(seconds, 1),
        "outcomes": {name: counts[name] for name in OUTCOMES},
        "mutations": {name: dict(mutations[name]) for name in sorted(mutations)},
        "findings": [asdict(outcome) for outcome in outcomes if outcome.is_finding],
    }


def merge(report: dict[str, Any], kind: str, path: Path) -> None:
    """Write one kind's counts beside those of the others."""
    kinds = json.loads(path.read_text()) if path.exists() else {}
    kinds[kind] = report
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(kinds.items())), indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 where there was a finding."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [kind for kind in COUNTS if importlib.util.find_spec(f"benchmarks.fuzz.{kind}")]
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"which of {', '.join(known)}; all when left out")
    parser.add_argument("--count", type=int, help=f"cases of each kind (default: {COUNTS})")
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next has the next one")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these cases; their counts are not written")
    parser.add_argument("--jobs", type=int, default=2, help="child processes at a time")
    parser.add_argument("--limit-seconds", type=float, default=300, help="a case that takes longer hangs")
    parser.add_argument("--memory-gib", type=float, default=12, help="what a child process may map")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json", help="where counts go")
    parsed = parser.parse_args(arguments)
    if unknown := [kind for kind in parsed.kinds if kind not in known]:
        parser.error(f"no kind {', '.join(unknown)}; choose from {', '.join(known)}")
    if min(parsed.count or 1, parsed.jobs) < 1:
        parser.error("--count and --jobs are at least 1")
    num_findings = 0
    for kind in parsed.kinds or known:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="voco-video-fuzz-") as folder:
            children = Children(
                f"benchmarks.fuzz.{kind}", Path(folder), parsed.jobs, parsed.limit_seconds, parsed.memory_gib
            )
            outcomes = children.run(parsed.seeds or range(parsed.seed, parsed.seed + (parsed.count or COUNTS[kind])))
        report = report_of(outcomes, seed=parsed.seed, seconds=time.monotonic() - started)
        if not parsed.seeds:
            merge(report, kind, parsed.out)
        num_findings += len(report["findings"])
        print(f"{kind}: " + ", ".join(f"{count} {name}" for name, count in report["outcomes"].items() if count))
        for finding in report["findings"]:
            print(f"  seed {finding['seed']}: {finding['outcome']} ({finding['mutation']}): {finding['detail']}")
    return 1 if num_findings else 0


if __name__ == "__main__":
    sys.exit(main())
