"""export-llm, and ask and eval with an engine, as a user types them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.engine_server import EngineServer
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def exported(run: Run, tmp_path: Path) -> tuple[Path, str]:
    code, out, _ = run("export-llm", "voco-tiny", "llm", "--dtype", "float32")
    assert code == 0
    return tmp_path / "llm", out


@pytest.fixture
def engine(exported: tuple[Path, str]) -> Iterator[EngineServer]:
    server = EngineServer(exported[0])
    yield server
    server.close()


@pytest.mark.exhaustive
def test_ask_with_an_engine(run: Run, exported: tuple[Path, str], engine: EngineServer, tmp_path: Path) -> None:
    start = next(line for line in exported[1].splitlines() if line.startswith("  vllm serve"))
    assert shlex.split(start)[-1] == engine.name  # the printed command serves it under the name that is checked
    write_clip(demo_scene(), tmp_path / "clip.mp4", size=64)
    asked = ("ask", "clip.mp4", "who moves?", "where is the star?", "--num-frames", 4, "--max-new-tokens", 6, "--json")
    there = ("--engine-url", engine.url)
    answers = [json.loads(run(*asked, *more)[1])["answers"] for more in ((), there)]
    texts = [[answer["answer"] for answer in each] for each in answers]
    assert texts[0] == texts[1]
    assert len(engine.requests) == 2
    code, _, err = run(*asked, *there, "--form", "kv")
    assert (code, "--form kv cannot be sent to an engine" in err, "leave out --engine-url" in err) == (2, True, True)
    engine.is_dead = True
    code, _, err = run(*asked, *there)
    assert (code, "the engine does not answer" in err, "leave out --engine-url" in err) == (1, True, True)


@pytest.mark.exhaustive
def test_mistakes(run: Run, exported: tuple[Path, str], tmp_path: Path) -> None:
    lines: list[tuple[Any, ...]] = [
        (2, "is there already", "export-llm", "voco-tiny", "llm"),
        (2, "--out is missing", "export-llm", "voco-tiny"),
        (2, "give the folder to write once", "export-llm", "voco-tiny", "a", "--out", "b"),
        (2, "no checkpoint 'none'", "export-llm", "none", "made"),
        (2, "is no address of HTTP", "ask", "clip.mp4", "who?", "--engine-url", "localhost:8000"),
        (
            2,
            "--answer-by likelihood takes",
            "eval",
            "videomme",
            "--answer-by",
            "likelihood",
            "--engine-url",
            "http://h:1",
        ),
        (
            2,
            "--rank-vocabulary takes likelihoods",
            "eval",
            "msvd",
            "--rank-vocabulary",
            5,
            "--engine-url",
            "http://h:1",
        ),
    ]
    write_clip(demo_scene(), tmp_path / "clip.mp4", size=64)
    for expected, message, *line in lines:
        code, _, err = run(*line)
        assert (code, message in err) == (expected, True), (line, err)
    assert not (tmp_path / "made").exists()
    facts = json.loads(run("export-llm", "voco-tiny", "--out", "again", "--json")[1])
    assert (facts["dtype"], facts["architecture"]) == ("bfloat16", "LlamaForCausalLM")  # as it is stored


@pytest.mark.exhaustive
def test_eval_with_an_engine(run: Run, engine: EngineServer, tmp_path: Path) -> None:
    assert run("data", "synth", "--out", "data", "--format", "msvd", "--num-videos", 6)[0] == 0
    asked = ("eval", "msvd", "--root", "data", "--num-frames", 2, "--limit", 6, "--json")
    for out, more in (("here", ()), ("there", ("--engine-url", engine.url))):
        code, _, err = run(*asked, "--out", out, *more)
        assert code == 0, err
    rows = [
        [json.loads(line)["prediction"] for line in (tmp_path / out / "predictions-k8.jsonl").read_text().splitlines()]
        for out in ("here", "there")
    ]
    assert rows[0] == rows[1]
    assert len(engine.requests) == len(rows[0]) > 0
    for out, more in (
        ("there", ()),
        ("here", ("--engine-url", engine.url)),
    ):  # neither goes on with the other's answers
        code, _, err = run(*asked, "--out", out, *more)
        assert code != 0, out
        assert "engine" in err
