"""A server that runs: its socket, its log, and how it stops."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from voco_video.api import VideoModel
from voco_video.errors import UsageError
from voco_video.serve.app import create_app
from voco_video.serve.safety.addresses import IsAllowed, is_public
from voco_video.serve.settings import ServeOptions

_MAX_CONNECTIONS = 1000
_BACKLOG = 256


@contextlib.contextmanager
def bound_socket(settings: ServeOptions) -> Iterator[socket.socket]:
    """Take the address before minutes of loading; connections wait until the server runs.

    Raises:
        UsageError: it cannot be had.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"host={settings.host} port={settings.port}: cannot listen there ({reason})") from error
    with listening:
        yield listening


def run_server(
    model: VideoModel,
    settings: ServeOptions,
    listening: socket.socket,
    *,
    is_allowed: IsAllowed = is_public,
    on_start: Callable[[uvicorn.Server], None] = lambda server: None,
) -> None:
    """Serve until SIGINT or SIGTERM, or until ``should_exit`` of the server is set; then finish what runs.

    Args:
        on_start: gets the server before it runs.
    """
    app = create_app(model, settings, is_allowed=is_allowed)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
        ws="none",
        lifespan="on",
    )
    server = _Server(config)
    on_start(server)
    server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that says that it is not ready as soon as it is told to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self.config.app.state.service.is_stopping = True  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def log_to_standard_error() -> None:
    """Write the server's log, one line of JSON each, to standard error, and nothing else of it there."""
    logger = logging.getLogger("voco_video.serve")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
