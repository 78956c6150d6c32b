"""Workers that are processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Hashable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from voco_video.cluster.pieces import Job, Outcome, Piece
from voco_video.cluster.pool import Event
from voco_video.errors import VocoVideoError
from voco_video.evaluate.processes import ctrl_c_stays_here, device_of, end_with_parent

_READY = "ready"
_ENDING_SECONDS = 10.0


class ProcessPool:
    """Spawned processes, each with a pipe to this one; as a context manager it ends them.

    Their models take the GPUs of this machine in turn.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._num_started = 0
        self._processes: dict[Hashable, tuple[BaseProcess, Connection]] = {}
        self._loading: set[Hashable] = set()

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for worker, (process, connection) in self._processes.items():
            connection.close()  # one that waits for a piece then ends by itself
            if worker in self._loading:  # it has done nothing yet, and nothing is left for it
                process.terminate()
        ends = time.monotonic() + (_ENDING_SECONDS if kind is None else 0.0)
        for process, _connection in self._processes.values():
            process.join(max(0.0, ends - time.monotonic()))
            process.terminate()
        for process, _connection in self._processes.values():
            process.join()

    def start(self) -> int:
        """Start a process; see `Pool.start`."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process: BaseProcess = context.Process(
            target=_work, args=(theirs, self._job, self._num_started), daemon=True, name="voco-video worker"
        )
        with ctrl_c_stays_here():
            process.start()
        theirs.close()
        self._num_started += 1
        assert process.pid is not None
        self._processes[process.pid] = (process, ours)
        self._loading.add(process.pid)
        return process.pid

    def give(self, worker: Hashable, piece: Piece) -> None:
        """Send a piece; see `Pool.give`."""
        try:
            self._processes[worker][1].send(piece)
        except OSError:  # it has ended, which `wait` reports
            return

    def wait(self, timeout_seconds: float) -> list[Event]:
        """See `Pool.wait`."""
        by_connection = {connection: worker for worker, (_, connection) in self._processes.items()}
        events = []
        for connection in wait(list(by_connection), timeout_seconds):
            assert isinstance(connection, Connection)
            worker = by_connection[connection]
            self._loading.discard(worker)
            try:
                message = connection.recv()
            except (EOFError, OSError):
                process, _ = self._processes.pop(worker)
                process.join()
                connection.close()
                events.append(Event(worker, lost=_how_ended(process.exitcode)))
                continue
            if isinstance(message, VocoVideoError):
                raise message
            events.append(Event(worker, outcome=message if isinstance(message, Outcome) else None))
        return events


def _how_ended(code: int | None) -> str:
    """Say how a process ended, from its exit code.

    >>> _how_ended(-9), _how_ended(1)
    ('a worker was ended by SIGKILL, as the system does where memory runs out', 'a worker ended with exit code 1')
    """
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = ", as the system does where memory runs out" if name == "SIGKILL" else ""
        return f"a worker was ended by {name}{hint}"
    return f"a worker ended with exit code {code}"


def _work(connection: Connection, job: Job, number: int) -> None:
    """Load a model and do pieces until nobody gives more."""
    end_with_parent()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    from voco_video.cluster.worker import Worker
    from voco_video.model.freed_memory import keep_freed_memory

    keep_freed_memory()
    try:
        worker = Worker(job, device=device_of(job.load.device, number))
    except VocoVideoError as error:
        _send(connection, error)
        return
    is_heard = _send(connection, _READY)
    while is_heard:
        try:
            piece = connection.recv()
        except (EOFError, OSError):
            return
        is_heard = _send(connection, worker.run(piece))


def _send(connection: Connection, message: object) -> bool:
    """Send a message; False where the pool has closed its end, which is not a failure."""
    try:
        connection.send(message)
    except OSError:
        return False
    return True
