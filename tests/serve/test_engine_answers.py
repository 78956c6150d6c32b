"""The server with an engine behind it: the same answers, and errors while the engine is gone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the official client (extra engine)")
pytest.importorskip("fastapi", reason="the server (extra serve)")

import openai

from tests.helpers.engine_server import EngineServer
from tests.helpers.serving import serving
from voco_video.api import load_model
from voco_video.engine.export import export_checkpoint

QUESTIONS = ["who moves?", "where is the star?", "what colour is the square?", "what happens?"]


@pytest.mark.exhaustive
def test_answers_come_from_the_engine(tmp_path: Path) -> None:
    engine = EngineServer(export_checkpoint("voco-tiny", tmp_path / "llm", dtype="float32").folder)
    with (
        serving(tmp_path, engine_url=engine.url) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        server.upload(server.demo)
        video = {"type": "video_url", "video_url": {"url": f"voco://{server.demo_id}"}}

        def ask(question: str, **options: object) -> object:
            messages = [{"role": "user", "content": [video, {"type": "text", "text": question}]}]
            return client.chat.completions.create(model="voco-tiny", messages=messages, max_tokens=8, **options)

        truth = load_model("voco-tiny", cache_dir=tmp_path / "cache").compress(server.demo)
        ours = [truth.ask(question, max_new_tokens=8) for question in QUESTIONS]
        with ThreadPoolExecutor() as pool:
            theirs = list(pool.map(ask, QUESTIONS))
        assert [reply.choices[0].message.content for reply in theirs] == [answer.text for answer in ours]
        assert [reply.voco_video["confidence"] for reply in theirs] == pytest.approx(
            [answer.confidence for answer in ours], rel=1e-3
        )
        assert len(engine.requests) == len(QUESTIONS)
        streamed = [chunk.choices[0].delta.content or "" for chunk in ask(QUESTIONS[3], stream=True) if chunk.choices]
        assert "".join(streamed) == ours[3].text

        engine.is_dead = True
        with pytest.raises(openai.InternalServerError, match="the engine does not answer") as refused:
            ask("who?")
        assert refused.value.status_code == 503
        assert engine.url not in str(refused.value)
        with pytest.raises(openai.BadRequestError, match="where an answer of this model looked cannot be measured"):
            ask("who?", extra_body={"voco_video": {"with_attention": True}})
        engine.is_dead = False
        assert ask(QUESTIONS[0]).choices[0].message.content == ours[0].text
    engine.close()
