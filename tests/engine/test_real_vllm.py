"""The real engine, where it is installed: here, or in the environment whose Python $VOCO_VIDEO_VLLM_PYTHON names.

VOCO_VIDEO_VLLM_PYTHON=/path/to/env/bin/python pytest -m slow -n 0 tests/engine/test_real_vllm.py
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.tiny_families import ALL_FAMILIES, prompt_of, random_voco_tokens, tiny_family
from voco_video.answer.generate import generate
from voco_video.engine.engines import Engines
from voco_video.engine.export import ExportResult, export_model
from voco_video.options.answering import AnswerOptions
from voco_video.options.engine import EngineOptions

PYTHON = os.environ.get("VOCO_VIDEO_VLLM_PYTHON") or (sys.executable if find_spec("vllm") else "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,  # minutes to start each
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON, reason="vLLM is not installed; VOCO_VIDEO_VLLM_PYTHON names the Python that has it"),
]
QUESTIONS = ["what is there?", "who?", "how many circles are there in the picture?"]
OPTIONS = AnswerOptions(max_new_tokens=12, stop_at_end=False)
START_SECONDS = 600


@contextmanager
def vllm(export: ExportResult, log: Path) -> Iterator[str]:
    """Run a vLLM server of an export; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(export.folder)]
    command += ["--enable-prompt-embeds", "--enforce-eager", "--dtype", "float32", "--max-model-len", "2048"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", export.served_name]
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **settings}, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, log.read_text(encoding="utf-8")[-3000:]
            assert time.monotonic() < deadline, "it does not start"
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_equal_tokens(name: str, tmp_path: Path) -> None:
    model = tiny_family(name, as_trained=True, wide_heads=True)
    export = export_model(model, tmp_path / "llm", name=name)
    tokens, prompts = random_voco_tokens(model), [prompt_of(model, question) for question in QUESTIONS]
    ours = [ids for ids, _ in generate(model, model.prefix(tokens), prompts, options=OPTIONS)]
    prefix = model.prefix(tokens, reads=False)
    with vllm(export, tmp_path / "log") as url:
        for api in ("completions", "chat"):
            engine = Engines(model, EngineOptions(engine_url=url, engine_api=api), name=name)
            assert [ids for ids, _ in engine.generate(model, prefix, prompts, options=OPTIONS)] == ours
            for prompt, expected in zip(prompts, ours):
                streamed = engine.stream(model, prefix, prompt, options=OPTIONS)
                assert [token for token, _ in streamed] == expected
            # Prompts of one length and other frames: what the engine keeps of one must not answer the other.
            other = model.prefix(random_voco_tokens(model, seed=4), reads=False)
            theirs = engine.generate(model, other, prompts, options=OPTIONS)
            truth = generate(model, model.prefix(random_voco_tokens(model, seed=4)), prompts, options=OPTIONS)
            assert [ids for ids, _ in theirs] == [ids for ids, _ in truth] != ours
