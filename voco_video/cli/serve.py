"""``voco-video serve``."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_model
from voco_video.cli.options import with_options
from voco_video.cli.progress import loading
from voco_video.errors import UsageError
from voco_video.options.engine import EngineOptions
from voco_video.options.loading import LoadOptions
from voco_video.serve.settings import SAFETY, SERVER, ServeOptions

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        help="A name by which clients may call this server; several times for several.",
        metavar="NAME",
        rich_help_panel=SERVER,
    ),
]
Live = Annotated[
    list[str] | None,
    typer.Option(
        "--live",
        help="A live source that clients may have followed (rtsp://, ...); several times for several.",
        metavar="URL",
        rich_help_panel=SAFETY,
    ),
]


@with_options
def serve(
    *,
    model: opt.Model = "voco-tiny",
    server: ServeOptions,
    allowed_host: Hosts = None,
    live: Live = None,
    load: LoadOptions,
    engine: EngineOptions,
    cache_dir: opt.CacheDir = None,
) -> None:
    """Serve a page, OpenAI's protocol and the library of videos, from one model and the frame cache.

    Only this machine can reach it unless --host says otherwise, and then clients need the key of --api-key-file or
    $VOCO_VIDEO_API_KEY. Clients can name no file and no URL unless --media-root and --allow-urls let them.

    \b
    Examples:
      voco-video serve
      voco-video serve --model smolvlm2-500m --media-root recordings/
      voco-video serve --engine-url http://gpu1:8000,http://gpu2:8000
      voco-video serve --host 0.0.0.0 --api-key-file key.txt --allowed-host videos.example.org
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UsageError(f"serving needs {', '.join(missing)}: pip install 'voco-video[serve]'")
    server = replace(server, allowed_hosts=tuple(allowed_host or ()), live_sources=tuple(live or ()))
    check_model(model, revision=load.revision, offline=load.offline)
    from voco_video.serve.run import bound_socket, log_to_standard_error, run_server

    with bound_socket(server) as listening:
        with loading(model, quiet=False):
            from voco_video.api import load_model

            loaded = load_model(model, **asdict(load), **asdict(engine), cache_dir=cache_dir)
        host = f"[{server.host}]" if ":" in server.host else server.host
        print(f"serving {loaded.name} on http://{host}:{listening.getsockname()[1]}/ (Ctrl-C stops)", file=sys.stderr)
        log_to_standard_error()
        run_server(loaded, server, listening)
