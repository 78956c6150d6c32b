"""``voco-video mcp``."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import Annotated

from voco_video.cli import options as opt
from voco_video.cli.early import check_model
from voco_video.cli.options import only, with_options
from voco_video.cli.progress import loading
from voco_video.errors import UsageError
from voco_video.options.engine import EngineOptions
from voco_video.options.loading import LoadOptions
from voco_video.serve.settings import ServeOptions

_NEEDED = ("mcp", "fastapi")
_ALLOWED = (
    *("media_root", "allow_urls", "anyway", "max_upload_bytes", "max_video_seconds", "max_pixels"),
    *("max_video_frames", "max_answer_tokens", "url_seconds"),
)


@with_options
def mcp(
    *,
    model: opt.Model = "voco-tiny",
    server: Annotated[ServeOptions, only(*_ALLOWED)],
    load: LoadOptions,
    engine: EngineOptions,
    cache_dir: opt.CacheDir = None,
) -> None:
    """Give an agent the tools ask, find, compress and list, over standard input and output.

    The agent's program starts this one (Model Context Protocol). It can name what is in the cache; files only below
    --media-root, URLs only with --allow-urls.

    \b
    Examples:
      voco-video mcp --media-root recordings/
      voco-video mcp --model smolvlm2-500m --media-root recordings/
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UsageError(f"an agent's tools need {', '.join(missing)}: pip install 'voco-video[mcp]'")
    check_model(model, revision=load.revision, offline=load.offline)
    with loading(model, quiet=True):  # standard output belongs to the protocol, and agents show standard error
        from voco_video.api import load_model
        from voco_video.mcp.server import create_server
        from voco_video.mcp.tools import Tools

        loaded = load_model(model, **asdict(load), **asdict(engine), cache_dir=cache_dir)
    create_server(Tools(loaded, server)).run()
