"""The chat model that judges answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voco_video.errors import UsageError
from voco_video.options.fields import Options, documented, option


@documented
@dataclass(frozen=True)
class Judging(Options, panel="Judge"):
    """Which chat model judges answers, where it is, and how it is asked; without a model nothing is judged.

    An endpoint other than OpenAI's may need no key. Before each retry the client waits as long as the endpoint's
    Retry-After says if that is at most a minute, and otherwise half a second, doubled with each retry up to 8 seconds.
    """

    judge_model: str | None = option(None, "Also ask this chat model whether answers are right.")
    judge_base_url: str | None = option(
        None, "Its endpoint, any that speaks OpenAI's protocol.", metavar="URL", unset="OpenAI's"
    )
    judge_api_key_env: str = option("OPENAI_API_KEY", "The environment variable with its key.", metavar="NAME")
    judge_prompt: Path | None = option(
        None,
        "Another prompt: the system turn, a line ---, the user turn with {question}, {answer}, {prediction}.",
        metavar="FILE",
    )
    judge_concurrency: int = option(8, "Requests at a time.", unit="requests", at_least=1)
    judge_timeout: float = option(60.0, "How long to wait for a reply.", unit="seconds", above=0)
    judge_retries: int = option(5, "Tries after the first.", unit="tries", at_least=0)
    judge_price_per_million_in: float | None = option(None, "Price of a million tokens in, for the cost in the report.")
    judge_price_per_million_out: float | None = option(None, "Price of a million tokens out.")
    judge_cache_dir: Path | None = option(
        None, "Where its replies are kept.", unset="judge in the frame cache's folder"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge_model is None:
            for name in ("judge_base_url", "judge_prompt"):
                if (value := getattr(self, name)) is not None:
                    raise UsageError(f"{name}={str(value)!r} is for a judge: name one with judge_model=NAME")
        if (self.judge_price_per_million_in is None) != (self.judge_price_per_million_out is None):
            raise UsageError("a cost takes both prices, that of tokens in and that of tokens out")
