"""The queue: bounded, batched, fair, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server (extra serve)")

import httpx2

from tests.helpers.serving import Serving, demo_clip, serving
from voco_video.answer.generate import Message
from voco_video.api import load_model
from voco_video.options.answering import AnswerOptions, ViewOptions
from voco_video.serve.answering import Ask, CancelledAskError
from voco_video.serve.queue import AnswerQueue, QueueFullError, StoppingError, Task

LONG = AnswerOptions(max_new_tokens=50, stop_at_end=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return load_model("voco-tiny", cache_dir=tmp_path_factory.mktemp("queue") / "cache")


@pytest.fixture(scope="module")
def video(model, tmp_path_factory: pytest.TempPathFactory):
    return model.compress(demo_clip(tmp_path_factory.mktemp("clips")))


class Held:
    """A queue whose thread is busy until the block ends."""

    def __init__(self, model, **options) -> None:
        self.batches: list[int] = []
        self.queue = AnswerQueue(
            model.voco, on_batch=lambda size, seconds: self.batches.append(size), **{"max_waiting": 64, **options}
        )
        self._go, begun = threading.Event(), threading.Event()
        self.queue.submit(Task(lambda: (begun.set(), self._go.wait(30))))
        begun.wait(30)

    def __enter__(self) -> AnswerQueue:
        return self.queue

    def __exit__(self, *args: object) -> None:
        self._go.set()


def test_what_sees_the_same_frames_is_one_batch_and_the_rest_takes_turns(model, video):
    questions = ["who moves?", "where is the star?", "how many shapes are there?"]
    history = (Message("user", "who moves?"), Message("assistant", "square"))
    asks = [Ask(video, q, past, options=AnswerOptions(n)) for q in questions for past in ((), history) for n in (1, 9)]
    early = video[0.0:4.0]
    others = [Ask(early, questions[0]), Ask(None, questions[0]), Ask(video, questions[0], num_voco_tokens=2)]
    sampled = [Ask(video, q, options=AnswerOptions(9, temperature=0.8, seed=s)) for q in questions for s in (1, 2)]
    held = Held(model)
    with held as queue:
        for ask in [*asks, *others, *sampled]:
            queue.submit(ask)
    for ask in asks:
        truth = video.ask(ask.question, history=ask.history, max_new_tokens=ask.options.max_new_tokens)
        assert ask.future.result(60).answer.text == truth.text
        assert ask.future.result().answer.token_ids == truth.token_ids
    assert others[0].future.result(60).answer.text == early.ask(questions[0]).text
    assert others[1].future.result(60).answer.note.startswith("answered from the question alone")
    assert others[2].future.result(60).answer.text == video.ask(questions[0], num_voco_tokens=2).text
    for ask in sampled:
        truth = video.ask(ask.question, max_new_tokens=9, temperature=0.8, seed=ask.options.seed)
        assert ask.future.result(60).answer.token_ids == truth.token_ids
    queue.stop(within_seconds=5)
    assert held.batches == [0, len(asks), 1, 1, 1, 3, 3]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("policy", ["relevant", "elastic", "recent"])
def test_policies_see_what_they_see_alone(model, video, policy):
    questions = ["where is the star?", "who moves?", "what colour is the square?"]
    view = ViewOptions(max_voco_tokens=24, policy=policy)
    asks = [Ask(video, question, view=view) for question in questions]
    with Held(model) as queue:
        for ask in asks:
            queue.submit(ask)
    for ask in asks:
        truth = video.ask(ask.question, max_voco_tokens=24, policy=policy)
        found = ask.future.result(60).answer
        assert (found.text, found.note, found.evidence) == (truth.text, truth.note, truth.evidence)
    queue.stop(within_seconds=5)


def test_an_error_costs_its_own_question_alone(model, video):
    asks = [Ask(video, "who moves?"), Ask(video, " "), Ask(video, "x " * 20_000), Ask(video, "who moves?")]
    with Held(model) as queue:
        for ask in asks:
            queue.submit(ask)
    truth = video.ask("who moves?").text
    assert [asks[0].future.result(60).answer.text, asks[3].future.result(60).answer.text] == [truth, truth]
    for ask in asks[1:3]:
        assert "question" in str(ask.future.exception(60))
    queue.stop(within_seconds=5)


def test_who_is_too_many_is_told_when_to_come_again(model, video):
    with Held(model, max_waiting=3) as queue:
        for _ in range(3):
            queue.submit(Ask(video, "who moves?"))
        with pytest.raises(QueueFullError) as error:
            queue.submit(Ask(video, "who moves?"))
        assert 1 <= error.value.retry_seconds <= 60
    queue.stop(within_seconds=10)


def test_a_cancelled_question_stops_before_its_next_token(model, video):
    pieces: list[str] = []
    ask = Ask(video, "Describe the video.", options=LONG, on_piece=pieces.append)
    ask.on_piece = lambda piece: (pieces.append(piece), ask.cancel())
    other = Ask(video, "where is the star?", options=LONG)
    with Held(model) as queue:
        queue.submit(ask)
        queue.submit(other)
        never = Ask(video, "never answered")
        never.cancel()
        queue.submit(never)
    assert isinstance(ask.future.exception(60), CancelledAskError)
    assert isinstance(never.future.exception(60), CancelledAskError)
    assert len(pieces) == 1
    assert len(other.future.result(60).answer.token_ids) == 50  # it goes on without its neighbour
    queue.stop(within_seconds=5)


def test_stopping_finishes_what_can_be_and_hands_back_the_rest(model, video):
    with Held(model) as queue:
        asks = [Ask(video, "who moves?"), Ask(video[0.0:3.0], "who moves?")]
        for ask in asks:
            queue.submit(ask)
    assert queue.stop(within_seconds=60) == 0
    assert all(ask.future.result(1) for ask in asks)
    with pytest.raises(StoppingError):
        queue.submit(Ask(video, "who moves?"))
    held = Held(model)
    late = Ask(video, "who moves?")
    held.queue.submit(late)
    threading.Timer(0.3, held.__exit__).start()
    assert held.queue.stop(within_seconds=0.1) == 1
    assert isinstance(late.future.exception(1), StoppingError)


# ---------------------------------------------------------------------- over HTTP


def body_of(server: Serving, question: str, **more) -> dict:
    video = {"type": "video_url", "video_url": {"url": f"voco://{server.demo_id}"}}
    content = [video, {"type": "text", "text": question}]
    return {"model": "voco-tiny", "messages": [{"role": "user", "content": content}], **more}


@pytest.mark.exhaustive
def test_a_flood_is_answered_or_sent_away_and_a_client_that_leaves_is_forgotten(tmp_path: Path):
    with serving(tmp_path, max_waiting=2) as server, httpx2.Client(base_url=server.url, timeout=60) as http:
        server.upload(server.demo)
        truth = server.video().ask("who moves?", max_new_tokens=256).text

        def ask(number: int) -> tuple[int, str]:
            reply = http.post("/v1/chat/completions", json=body_of(server, "who moves?"))
            if reply.status_code == 429:
                return 429, reply.headers["retry-after"]
            return reply.status_code, reply.json()["choices"][0]["message"]["content"]

        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(ask, range(30)))
        assert {text for status, text in replies if status == 200} == {truth}
        assert {status for status, _ in replies} == {200, 429}
        assert all(1 <= int(text) <= 60 for status, text in replies if status == 429)
        with http.stream("POST", "/v1/chat/completions", json=body_of(server, "who moves?", stream=True)) as reply:
            next(reply.iter_lines())  # and away
        deadline = time.monotonic() + 30
        while server.metric("voco_video_queue_waiting") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ask(0) == (200, truth)
        assert server.metric('voco_video_refused_total{why="queue_full"}') == sum(s == 429 for s, _ in replies)


@pytest.mark.exhaustive
def test_compressing_lets_questions_pass(tmp_path: Path):
    """Questions are answered while a video is compressed, and the video is finished all the same."""
    from voco_video.shapes.rendering import write_clip
    from voco_video.shapes.world import demo_scene

    with serving(tmp_path) as server, httpx2.Client(base_url=server.url, timeout=60) as http:
        server.upload(server.demo)
        other = tmp_path / "other.mp4"
        write_clip(demo_scene(), other)
        other.write_bytes(other.read_bytes() + b"\0\0\0\x08free")  # another file, with the same pictures
        begun = http.post("/api/videos?compress=false", files={"file": ("other.mp4", other.read_bytes())}).json()
        video = begun["video"]["id"]
        job = http.post(f"/api/videos/{video}/compress", json={"fps": 4}).json()["job"]["id"]
        during = 0
        while http.get(f"/api/jobs/{job}").json()["state"] in ("waiting", "running"):
            assert http.post("/v1/chat/completions", json=body_of(server, "who moves?")).status_code == 200
            during += 1
        assert during
        assert http.get(f"/api/jobs/{job}").json()["result"]["num_frames"] == 32
        truth = server.model.compress(other, fps=4)
        assert http.get(f"/api/videos/{video}").json()["entry"] == truth.parts[0].entry.digest
