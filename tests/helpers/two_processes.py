"""Two processes as torchrun starts them, forked from one that has imported everything: torchrun itself imports torch
three times, which takes longer than a tiny run.

    python two_processes.py COMMAND [ARGUMENTS]    # `voco-video` on both; the exit code is 1 if one of them fails
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable

import transformers.models.clip.modeling_clip
import transformers.models.llama.modeling_llama
import transformers.models.llava.modeling_llava  # noqa: F401  # imported once, before the fork, as is all below

import voco_video.checkpoint.folder
import voco_video.evaluate.run  # noqa: F401
from voco_video.cli import main


def command(*arguments: str) -> None:
    """Run `voco-video` in this process; SystemExit where it fails."""
    sys.argv = ["voco-video", *arguments]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise


def on_two_processes(step: Callable[..., None], *arguments: str) -> None:
    """Do something on two processes that find each other in the environment; SystemExit if one of them fails."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    children = [_forked(rank, port, step, arguments) for rank in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        sys.exit(f"exit codes {codes}")


def _forked(rank: int, port: int, step: Callable[..., None], arguments: tuple[str, ...]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in ranks.items()}, MASTER_ADDR="localhost")
        step(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # torch's threads of gloo may abort while an interpreter ends; that is not what is tested
    raise AssertionError("not reached")


if __name__ == "__main__":
    on_two_processes(command, *sys.argv[1:])
