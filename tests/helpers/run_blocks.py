"""Run blocks of code in this one process: [[language, code], ...] as JSON on standard input.

What a block prints comes after a form feed.
"""

from __future__ import annotations

import json
import shlex
import sys

from voco_video.cli import main


def run_commands(code: str) -> None:
    """Run lines of `voco-video ...` as a shell would; SystemExit where one fails."""
    for line in code.replace("\\\n", " ").splitlines():
        sys.argv = shlex.split(line)
        assert sys.argv[0] == "voco-video", line
        try:
            main()
        except SystemExit as error:
            if error.code:
                raise
        finally:
            sys.stdout.flush()


if __name__ == "__main__":
    for language, code in json.load(sys.stdin):
        print("\f", end="", flush=True)
        if language == "bash":
            run_commands(code)
        else:
            exec(code, {"__name__": "__main__"})
            sys.stdout.flush()
