"""The official client against a real server on loopback; each answer is the one that Python gives."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the official client (extra judge)")
pytest.importorskip("fastapi", reason="the server (extra serve)")

import openai

from tests.helpers.serving import Serving, serving
from voco_video.answer.generate import Message

LONG = "Describe the video."
QUESTIONS = ["who moves?", "where is the star?", "what colour is the square?", "how many shapes are there?"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    with serving(tmp_path_factory.mktemp("served")) as running:
        running.upload(running.demo)
        yield running


@pytest.fixture(scope="module")
def client(server: Serving):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(server: Serving, question: str, *more: dict) -> list[dict]:
    """The messages of a question about the demo clip."""
    video = {"type": "video_url", "video_url": {"url": f"voco://{server.demo_id}"}}
    return [{"role": "user", "content": [video, {"type": "text", "text": question}]}, *more]


def test_whole_answers_are_those_of_python(server, client):
    truth = server.video()
    for question in QUESTIONS:
        said = client.chat.completions.create(
            model="voco-tiny", messages=asked(server, question), extra_body={"voco_video": {"with_attention": True}}
        )
        answer = truth.ask(question, max_new_tokens=256, with_attention=True)
        assert said.choices[0].message.content == answer.text
        assert said.choices[0].finish_reason == "stop"
        assert said.usage.completion_tokens == len(answer.token_ids)
        assert said.voco_video["confidence"] == pytest.approx(answer.confidence, rel=1e-4)
        assert said.voco_video["note"] == answer.note
        assert [m["peak_seconds"] for m in said.voco_video["evidence"]] == [m.peak_seconds for m in answer.evidence]


def test_streamed_answers_are_those_of_python(server, client):
    for options in ({}, {"temperature": 0.9, "seed": 5}):
        truth = server.video().ask(LONG, max_new_tokens=12, **options)
        chunks = list(
            client.chat.completions.create(
                model="voco-tiny",
                messages=asked(server, LONG),
                max_tokens=12,
                stream=True,
                stream_options={"include_usage": True},
                **options,
            )
        )
        pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(pieces) == truth.text
        assert chunks[-1].usage.completion_tokens == len(truth.token_ids)
        ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        assert ends == ["length" if truth.is_cut else "stop"]


def test_many_clients_get_their_own_answers(server, client):
    """Batched, with different histories and lengths, streamed or not: nobody gets another's answer."""
    truth = server.video()
    history = [Message("user", "who moves?"), Message("assistant", "square")]
    cases = [(q, length, past) for q in QUESTIONS for length in (1, 3, 40) for past in (False, True)]

    def ask(case: tuple[str, int, bool]) -> str:
        question, length, past = case
        messages = asked(server, question)
        if past:
            later = [{"role": "assistant", "content": "square"}, {"role": "user", "content": question}]
            messages = asked(server, "who moves?", *later)
        if length == 3:
            stream = client.chat.completions.create(
                model="voco-tiny", messages=messages, max_tokens=length, stream=True
            )
            return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
        said = client.chat.completions.create(model="voco-tiny", messages=messages, max_tokens=length)
        return said.choices[0].message.content

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, cases))
    expected = [
        truth.ask(question, max_new_tokens=length, history=history if past else ()).text
        for question, length, past in cases
    ]
    assert answers == expected
    assert server.metric("voco_video_batch_size_sum") > server.metric("voco_video_batch_size_count")  # some together


@pytest.mark.exhaustive
def test_a_stop_word_ends_the_answer(server, client):
    whole = server.video().ask(LONG, max_new_tokens=12).text
    word = whole.split()[2]
    for stream in (False, True):
        said = client.chat.completions.create(
            model="voco-tiny", messages=asked(server, LONG), max_tokens=12, stop=[word], stream=stream
        )
        if stream:
            chunks = list(said)
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            finish = chunks[-1].choices[0].finish_reason
        else:
            text, finish = said.choices[0].message.content, said.choices[0].finish_reason
        assert (text, finish) == (whole[: whole.index(word)], "stop")


@pytest.mark.exhaustive
def test_system_message_and_several_videos(server, client):
    """A system message stands before the first question; a video given as its bytes is the same video."""
    data = f"data:video/mp4;base64,{base64.b64encode(Path(server.demo).read_bytes()).decode()}"
    said = client.chat.completions.create(
        model="voco-tiny",
        messages=[
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "video_url", "video_url": {"url": f"voco://{server.demo_id}"}},
                    {"type": "text", "text": "who moves?"},
                    {"type": "video_url", "video_url": {"url": data}},
                ],
            },
        ],
        extra_body={"media_io_kwargs": {"video": {"fps": 1}}},
    )
    from voco_video import concat

    both = concat([server.video(), server.video()])
    assert said.choices[0].message.content == both.ask("Be brief.\n\nwho moves?", max_new_tokens=256).text
    assert [v["entry"] for v in said.voco_video["videos"]] == [server.video().parts[0].entry.digest] * 2


def test_models_are_listed_and_others_are_not_found(server, client):
    assert [model.id for model in client.models.list()] == ["voco-tiny"]
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        client.chat.completions.create(model="gpt-x", messages=asked(server, "?"))
