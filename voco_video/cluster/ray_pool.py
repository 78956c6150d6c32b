"""Workers that are actors of a Ray cluster.

Actors that we give pieces, rather than Ray Data's pipelines: the next piece goes to whoever is free, so a slow node or
a long video holds up nobody; a piece whose worker ended is given to another, a few times and not for ever; an error is
a row; and a video that turns out to be long becomes windows while the run goes on. Through Ray's object store go rows.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any

from voco_video.cluster.pieces import Job, Outcome, Piece
from voco_video.cluster.pool import Event
from voco_video.errors import UsageError, VocoVideoError
from voco_video.options.cluster import ClusterOptions

log = logging.getLogger(__name__)


class RayActor:
    """A worker in a process of its own on some node."""

    def __init__(self) -> None:
        self._worker: Any = None

    def load(self, job: Job) -> None:
        """Load the model; raises what that raises, where the driver sees it, which an actor's constructor does not."""
        from voco_video.cluster.worker import Worker
        from voco_video.model.freed_memory import keep_freed_memory

        keep_freed_memory()
        self._worker = Worker(job)

    def run(self, piece: Piece) -> Outcome:
        """Do one piece."""
        outcome = self._worker.run(piece)
        assert isinstance(outcome, Outcome)
        return outcome


class RayPool:
    """Actors of a cluster; as a context manager it ends them, and leaves a cluster that it joined.

    Args:
        actor: what each of them does.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, job: Job, options: ClusterOptions, *, actor: type[RayActor] = RayActor) -> None:
        self._ray = _ray()
        self._job = job
        self._has_joined = not self._ray.is_initialized()
        if self._has_joined:
            _join(self._ray, options.address)
        try:
            self.num_gpus = self._gpus_per_worker(options.num_gpus)
            self._num_cpus = options.cpus_per_worker
            self._warn_of_missing()
        except BaseException:
            self._leave()
            raise
        # A worker that ends is replaced by a new one: then it is known which piece it had.
        self._actor_class = self._ray.remote(
            num_cpus=self._num_cpus, num_gpus=self.num_gpus, max_restarts=0, max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(actor)  # fmt: skip
        self._actors: dict[Any, Any] = {}
        self._running: dict[Any, tuple[Hashable, bool]] = {}  # by Ray's reference to the result; True while it loads

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._leave()

    @property
    def num_places(self) -> int:
        """How many workers the nodes have processors and GPUs for, now; at least 1."""
        nodes = self._nodes()
        cpus = sum(int(node.get("CPU", 0) // self._num_cpus) for node in nodes)
        if self.num_gpus:
            per_node = (
                min(node.get("CPU", 0) // self._num_cpus, node.get("GPU", 0) // self.num_gpus) for node in nodes
            )
            return max(1, int(sum(per_node)))
        return max(1, cpus)

    def start(self) -> Hashable:
        """Ask for an actor; it starts once a node has room. See `Pool.start`."""
        actor = self._actor_class.remote()
        worker: Hashable = actor._actor_id
        self._actors[worker] = actor
        self._running[actor.load.remote(self._job)] = (worker, True)
        return worker

    def give(self, worker: Hashable, piece: Piece) -> None:
        """See `Pool.give`."""
        self._running[self._actors[worker].run.remote(piece)] = (worker, False)

    def wait(self, timeout_seconds: float) -> list[Event]:
        """See `Pool.wait`."""
        running = list(self._running)
        if not running:
            import time

            time.sleep(timeout_seconds)
            return []
        done, _ = self._ray.wait(running, num_returns=1, timeout=timeout_seconds)
        more, _ = self._ray.wait(running, num_returns=len(running), timeout=0) if done else ([], [])
        return [self._event(result, *self._running.pop(result)) for result in dict.fromkeys([*done, *more])]

    def _event(self, result: Any, worker: Hashable, is_loading: bool) -> Event:
        from ray.exceptions import RayError, RayTaskError

        try:
            value = self._ray.get(result)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, VocoVideoError):
                raise cause from None
            if is_loading:
                raise VocoVideoError(f"a worker cannot load its model: {type(cause).__name__}: {cause}") from error
            self._end(worker)
            return Event(worker, lost=f"{type(cause).__name__}: {cause}")
        except RayError as error:  # the actor, its process or its node is no more, or cannot be reached
            self._end(worker)
            return Event(worker, lost=" ".join(str(error).split())[:300] or type(error).__name__)
        return Event(worker, outcome=None if is_loading else value)

    def _end(self, worker: Hashable) -> None:
        self._ray.kill(self._actors.pop(worker))  # one that cannot be reached may be alive

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _gpus_per_worker(self, asked: float | None) -> float:
        if asked is not None:
            return asked
        wants = self._job.load.device not in ("cpu", "meta")
        return 1.0 if wants and any(node.get("GPU", 0) for node in self._nodes()) else 0.0

    def _warn_of_missing(self) -> None:
        """Say so where no node can take a worker: it may be that one is still to come."""
        nodes = self._nodes()
        fits = (node.get("CPU", 0) >= self._num_cpus and node.get("GPU", 0) >= self.num_gpus for node in nodes)
        if not any(fits):
            log.warning(
                "no node of the cluster has %d processors and %g GPUs for a worker; waiting for one that has",
                *(self._num_cpus, self.num_gpus),
            )

    def _leave(self) -> None:
        if self._has_joined:
            self._ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError("engine='ray' needs Ray: pip install 'voco-video[ray]'") from error
    return ray


def _join(ray: Any, address: str | None) -> None:
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"address={address!r}" if address else "no address"
        raise UsageError(
            f"{where}: no Ray cluster can be joined ({' '.join(str(error).split())[:300]}); `ray start --head` starts "
            "one"
        ) from error
