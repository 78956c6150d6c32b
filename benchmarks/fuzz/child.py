"""One child process: works through seeds and prints a line of JSON for each; started by `benchmarks.fuzz.children`."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    """Run the cases that the one argument (JSON) names."""
    settings = json.loads(sys.argv[1])
    # Whatever else prints, prints to the other stream.
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)  # how a child that hangs is asked where
    with contextlib.suppress(ImportError):  # not on every system
        import resource

        num_bytes = int(settings["memory_gib"] * (1 << 30))
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    cases = importlib.import_module(settings["module"]).cases
    for outcome in cases(count=settings["count"], seed=settings["seed"], folder=Path(settings["folder"])):
        print(json.dumps(asdict(outcome)), file=report)


if __name__ == "__main__":
    main()
