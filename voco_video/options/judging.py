"""The chat model that judges answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from voco_video.errors import UsageError
from voco_video.options.fields import Options, documented, option

DEFAULT_JUDGE = "Qwen/Qwen2.5-7B-Instruct@a09a35458c702b33eeacc393d103063234e8bc28"
"""An open model (Apache 2.0) by name and revision, as anybody can serve it. The judge of earlier papers is retired, and
those that only a company serves change, or go, without notice."""
_WITH_REVISION = re.compile(r"(.+)@([0-9a-f]{7,64})")


@documented
@dataclass(frozen=True)
class Judging(Options, panel="Judge"):
    """Which chat model judges answers, where it is, and how it is asked; without a model and an endpoint nobody judges.

    A model may be named with its revision, as NAME@REVISION: the endpoint then has to serve it under this very name
    (``vllm serve NAME --revision REVISION --served-model-name NAME@REVISION``), so that reports say which weights
    judged. With an endpoint alone the judge is `DEFAULT_JUDGE`. An endpoint other than OpenAI's may need no key. Before
    each retry the client waits as long as the endpoint's Retry-After says if that is at most a minute, and otherwise
    half a second, doubled with each retry up to 8 seconds.
    """

    judge_model: str | None = option(
        None,
        "Also ask this chat model whether answers are right; NAME@REVISION where it is served so.",
        unset=f"with --judge-base-url {DEFAULT_JUDGE.partition('@')[0]} in a fixed revision, else nobody judges",
    )
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
        if self.judge_model is None and self.judge_base_url is not None:
            object.__setattr__(self, "judge_model", DEFAULT_JUDGE)
        if self.judge_model is None and self.judge_prompt is not None:
            raise UsageError(
                f"judge_prompt={str(self.judge_prompt)!r} is for a judge: name one with judge_model=NAME, or an "
                "endpoint with judge_base_url=URL"
            )
        if (self.judge_price_per_million_in is None) != (self.judge_price_per_million_out is None):
            raise UsageError("a cost takes both prices, that of tokens in and that of tokens out")

    @property
    def judge_name(self) -> str:
        """The judge's name without its revision; "" where nobody judges."""
        return _named(self.judge_model or "")[0]

    @property
    def judge_revision(self) -> str | None:
        """The revision that the endpoint has to serve; None where none was named."""
        return _named(self.judge_model or "")[1]


def _named(model: str) -> tuple[str, str | None]:
    """Cut a model's name from its revision.

    >>> _named("some/model@0123abc"), _named("@some/model")
    (('some/model', '0123abc'), ('@some/model', None))
    """
    found = _WITH_REVISION.fullmatch(model)
    return (found[1], found[2]) if found else (model, None)
