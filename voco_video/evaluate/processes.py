"""Work shared among processes: this one alone, processes that it starts, or those that torchrun started.

Work is a function of a model, jobs, the process's rank and a callback. Jobs are dealt in turn, so the list of jobs and
the number of processes determine which process does which job.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Protocol

from voco_video.errors import UsageError, VocoVideoError
from voco_video.video.container import num_processors

if TYPE_CHECKING:
    from voco_video.api import VideoModel

OnDone = Callable[[Any], None]
Work = Callable[["VideoModel", Sequence[Any], int, OnDone], None]
"""``work(model, jobs, rank, on_done)``; it calls ``on_done`` with what it has done since the last call."""

log = logging.getLogger(__name__)

_FINISHED = "finished"
_LONG_ENOUGH = timedelta(days=30)  # a process that is done waits for the slowest


class Processes(Protocol):
    """The processes that share the work.

    Attributes:
        rank: this process's number; process 0 plans the work and merges the results.
        num_processes: the number of processes.
    """

    @property
    def rank(self) -> int:
        """This process's number."""

    @property
    def num_processes(self) -> int:
        """The number of processes."""

    def agree(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """Return the jobs of process 0, in every process."""

    def visible(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """Return the jobs whose progress this process reports."""

    def run(self, work: Work, model: VideoModel, jobs: Sequence[Any], on_done: OnDone) -> None:
        """Do the jobs; return when every process has finished."""

    def wait(self) -> None:
        """Wait until every process has called this."""


class _OnePlanner:
    """Processes of which only this one plans and reports, so that the others need not agree on jobs."""

    def agree(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """Return the jobs unchanged."""
        return jobs

    def visible(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """Return all jobs: this process reports on every one."""
        return jobs

    def wait(self) -> None:
        """Return at once: `run` waited for the others."""


@dataclass(frozen=True)
class Alone(_OnePlanner):
    """This process does everything."""

    rank: int = 0
    num_processes: int = 1

    def run(self, work: Work, model: VideoModel, jobs: Sequence[Any], on_done: OnDone) -> None:
        """Do all jobs here."""
        if jobs:
            work(model, jobs, self.rank, on_done)


@dataclass(frozen=True)
class Spawned(_OnePlanner):
    """This process and others that it starts, each with a model of its own.

    Attributes:
        num_processes: number of processes, this one included.
        load: loads the model of a rank; has to be picklable.
    """

    num_processes: int
    load: Callable[[int], VideoModel]
    rank: int = 0

    def __post_init__(self) -> None:
        if self.num_processes < 1:
            raise UsageError(f"num_workers={self.num_processes}: it takes at least 1 process")

    def run(self, work: Work, model: VideoModel, jobs: Sequence[Any], on_done: OnDone) -> None:
        """Start the other processes, share the jobs among all, and wait for the last."""
        _warn_of_crowding(model, self.num_processes)
        shares = [jobs[rank :: self.num_processes] for rank in range(self.num_processes)]
        with _children(self.load, work, {r: share for r, share in enumerate(shares) if share and r}) as children:

            def done(what: Any) -> None:
                on_done(what)
                children.listen(on_done, timeout_seconds=0)

            if shares[0]:
                work(model, shares[0], 0, done)
            while children.connections:
                children.listen(on_done, timeout_seconds=None)


@dataclass(frozen=True)
class Torchrun:
    """The processes of a torchrun command, also on several machines that share the folders."""

    rank: int
    num_processes: int

    @staticmethod
    def from_environment() -> Torchrun | None:
        """Read this process's rank from torchrun's environment; None if torchrun did not start it."""
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
            return None
        return Torchrun(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    def agree(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """Send the jobs of process 0 to every process."""
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=_LONG_ENOUGH)
        box = [list(jobs)]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def visible(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """Return this process's own share."""
        return jobs[self.rank :: self.num_processes]

    def run(self, work: Work, model: VideoModel, jobs: Sequence[Any], on_done: OnDone) -> None:
        """Do this process's share, and wait for the others."""
        if mine := self.visible(jobs):
            work(model, mine, self.rank, on_done)
        self._meet()

    def wait(self) -> None:
        """Wait for all processes, then leave the group."""
        import torch.distributed as dist

        self._meet()
        dist.destroy_process_group()

    def _meet(self) -> None:
        import torch.distributed as dist

        dist.barrier()


def device_of(device: str, rank: int) -> str:
    """Choose the device of one of several processes on a machine: they take its GPUs in turn.

    Args:
        device: as for `load_model`; a device other than "auto" or "cuda" stays as it is.
        rank: of the process on its machine.

    >>> device_of("cpu", 3)
    'cpu'
    """
    import torch

    if device not in ("auto", "cuda") or torch.cuda.device_count() < 2:
        return device
    return f"cuda:{rank % torch.cuda.device_count()}"


def _warn_of_crowding(model: VideoModel, num_processes: int) -> None:
    """Warn of more threads than cores.

    Their number is not changed: it moves the last digits of results, so it must not depend on that of processes.
    """
    import torch

    threads, cores = torch.get_num_threads(), num_processors()
    is_crowded = threads > 1 and num_processes > 1 and num_processes * threads > cores
    if is_crowded and model.voco.backbone.device.type == "cpu":
        log.warning(
            "%d processes of %d threads share %d cores; OMP_NUM_THREADS=%d may be faster (use it for all runs "
            "that have to give the same bytes)",
            *(num_processes, threads, cores, max(1, cores // num_processes)),
        )


@dataclass(frozen=True)
class _Children:
    """Running processes, by our end of the connection to each."""

    connections: dict[Connection, tuple[int, BaseProcess]]

    def listen(self, on_done: OnDone, *, timeout_seconds: float | None) -> None:
        """Report what children have done since the last call.

        Raises:
            VocoVideoError: one of them failed.
        """
        for connection in wait(list(self.connections), timeout_seconds):
            assert isinstance(connection, Connection)
            try:
                message = connection.recv()
            except EOFError:
                rank, process = self.connections[connection]
                process.join()
                raise VocoVideoError(
                    f"process {rank} ended with exit code {process.exitcode}; its results so far are kept, and the "
                    "same command resumes"
                ) from None
            if isinstance(message, VocoVideoError):
                raise message
            if message == _FINISHED:
                _, process = self.connections.pop(connection)
                process.join()
            else:
                on_done(message)


@contextmanager
def _children(load: Callable[[int], VideoModel], work: Work, shares: dict[int, Sequence[Any]]) -> Iterator[_Children]:
    """Start a process for each share, and terminate those that still run at the end of the block."""
    context = multiprocessing.get_context("spawn")
    children: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        with ctrl_c_stays_here():
            for rank, jobs in shares.items():
                ours, theirs = context.Pipe()
                process: BaseProcess = context.Process(target=_work, args=(theirs, load, work, jobs, rank), daemon=True)
                process.start()
                theirs.close()
                children[ours] = (rank, process)
        yield _Children(children)
    finally:
        for _, process in children.values():
            process.terminate()
            process.join()


@contextmanager
def ctrl_c_stays_here() -> Iterator[None]:
    """Make processes that are started in this block ignore Ctrl-C from the start: this process ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    chosen = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, chosen)


def _work(
    connection: Connection, load: Callable[[int], VideoModel], work: Work, jobs: Sequence[Any], rank: int
) -> None:
    """Do a started process's share, and send progress and errors to its parent."""
    end_with_parent()
    try:
        work(load(rank), jobs, rank, connection.send)
        connection.send(_FINISHED)
    except VocoVideoError as error:
        connection.send(error)


def end_with_parent() -> None:
    """Have this process end when its parent ends, for whatever reason: nobody would take what it does."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="voco-video parent watch", daemon=True).start()
