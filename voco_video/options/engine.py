"""The engine that generates answers in place of this process."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from voco_video.errors import UsageError
from voco_video.files.urls import shown_name
from voco_video.options.fields import Options, documented, option

ENGINE = "Engine"
"""The group of options on what generates answers."""
EngineApi = Literal["completions", "chat"]


@documented
@dataclass(frozen=True)
class EngineOptions(Options, panel=ENGINE):
    """Which vLLM servers generate answers, and how they are asked; without a URL this process does.

    Videos are compressed and searched here all the same: what a question sees goes to the engine as input embeddings.
    """

    engine_url: str | None = option(
        None,
        "vLLM servers of the model that `export-llm` wrote, which generate the answers; commas between several.",
        metavar="URL[,URL]",
        unset="this process",
    )
    engine_api: EngineApi = option(
        "completions", "How an engine is asked; chat is for gateways that pass on nothing else."
    )
    engine_timeout: float = option(
        120.0, "How long an engine may be silent before another one is asked.", unit="seconds", above=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine_url is not None and find_spec("openai") is None:
            raise UsageError("an engine needs the client library: pip install 'voco-video[engine]'")
        urls = self.urls
        if self.engine_url is not None and not urls:
            raise UsageError(f"engine_url={self.engine_url!r} names no engine; give http://HOST:PORT")
        for url in urls:
            if not url.startswith(("http://", "https://")) or not url.partition("://")[2].strip("/"):
                raise UsageError(f"engine_url='{shown_name(url)}' is no address of HTTP; give http://HOST:PORT")
        if len(set(urls)) < len(urls):
            raise UsageError(f"engine_url='{','.join(map(shown_name, urls))}' names an engine twice")

    @property
    def urls(self) -> tuple[str, ...]:
        """The address of each engine, without ``/v1`` and the last slash."""
        parts = (part.strip().rstrip("/") for part in (self.engine_url or "").split(","))
        return tuple(part.removesuffix("/v1").rstrip("/") for part in parts if part)


IN_PROCESS = EngineOptions()
"""No engine: this process generates the answers."""
