"""The client against servers that speak vLLM's protocol and really compute: equal tokens, and every way to fail."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.engine_server import EngineServer
from tests.helpers.tiny_families import prompt_of
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.generate import Message, answer_questions, generate
from voco_video.api import VideoModel, load_model
from voco_video.engine import engines as engines_module
from voco_video.engine.engines import Engines
from voco_video.engine.export import export_checkpoint
from voco_video.errors import EngineError, UsageError
from voco_video.options.answering import AnswerOptions
from voco_video.options.engine import EngineOptions
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene

QUESTIONS = ["what colour is the square?", "who moves?", "how many circles are there?", "where is the star?", "hello"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_checkpoint("voco-tiny", tmp_path_factory.mktemp("export") / "llm", dtype="float32").folder


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    return load_model("voco-tiny", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(draw_scene(5), path)


@pytest.fixture(scope="module")
def video(local: VideoModel, clip: Path) -> CompressedVideo:
    return local.compress(clip, num_frames=4)


@pytest.fixture
def started(exported: Path) -> Iterator[Callable[..., list[EngineServer]]]:
    """Start engines of the export; they end with the test."""
    running: list[EngineServer] = []

    def start(number: int = 1, folder: Path | None = None, **options: Any) -> list[EngineServer]:
        servers = [EngineServer(folder or exported, **options) for _ in range(number)]
        running.extend(servers)
        return servers

    yield start
    for server in running:
        server.close()


def by(video: CompressedVideo, *servers: EngineServer, **options: Any) -> CompressedVideo:
    """The same frames, answered by engines."""
    urls = ",".join(server.url for server in servers)
    voco = video.model.voco
    engine = Engines(voco, EngineOptions(engine_url=urls, **options), name="voco-tiny")
    return replace(video, model=replace(video.model, engine=engine))


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_answers_are_those_of_this_process(api: Any, video: CompressedVideo, started: Any) -> None:
    (server,) = started()
    there = by(video, server, engine_api=api)
    ours, theirs = (v.ask(QUESTIONS, max_new_tokens=6) for v in (video, there))
    assert [a.token_ids for a in theirs] == [a.token_ids for a in ours]
    assert [(a.text, a.note, a.is_cut, a.num_frames) for a in theirs] == [
        (a.text, a.note, a.is_cut, a.num_frames) for a in ours
    ]
    assert [a.confidence for a in theirs] == pytest.approx([a.confidence for a in ours], abs=1e-4)
    streamed = ["".join(there.stream(question, max_new_tokens=6)) for question in QUESTIONS]
    assert streamed == [a.text for a in ours]
    assert len(server.requests) == 2 * len(QUESTIONS)
    assert all(("messages" in body) == (api == "chat") for body in server.requests)


@pytest.mark.exhaustive
def test_other_views_and_conversations(video: CompressedVideo, started: Any) -> None:
    there = by(video, *started())
    history = [Message("user", "who moves?"), Message("assistant", "the star")]
    for settings in (
        {"num_voco_tokens": 1, "history": history},
        {"max_voco_tokens": 16, "policy": "relevant"},
        {"clock_every_seconds": 1.0},
    ):
        ours, theirs = (v.ask("where is it?", max_new_tokens=6, **settings) for v in (video, there))
        assert (theirs.token_ids, theirs.evidence) == (ours.token_ids, ours.evidence), settings
    window = by(video[0.0:2.0], *started())
    assert window.ask("who?", max_new_tokens=6).token_ids == video[0.0:2.0].ask("who?", max_new_tokens=6).token_ids


@pytest.mark.exhaustive
def test_without_an_end_all_tokens_come(video: CompressedVideo, started: Any) -> None:
    voco, options = video.model.voco, AnswerOptions(max_new_tokens=9, stop_at_end=False)
    engine = by(video, *started()).model.engine
    tokens, pts = video.tokens(), video.pts_seconds
    theirs = answer_questions(
        voco, voco.prefix(tokens, reads=False), ["who?"], options=options, frame_pts_seconds=pts, engine=engine
    )
    ours = answer_questions(voco, voco.prefix(tokens), ["who?"], options=options, frame_pts_seconds=pts)
    assert len(theirs[0].token_ids) == 9
    assert theirs[0].token_ids == ours[0].token_ids


@pytest.mark.exhaustive
def test_a_seed_samples_the_same_again(video: CompressedVideo, started: Any) -> None:
    (server,) = started()
    there = by(video, server)
    texts = [there.ask("who?", temperature=9.0, seed=seed, max_new_tokens=12).text for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len({*texts}) > 1
    sent = server.requests[0]
    assert (sent["temperature"], sent["seed"], sent["top_k"]) == (9.0, 1, 50)  # the library's own default of top_k


def test_engines_take_turns(video: CompressedVideo, started: Any) -> None:
    servers = started(3)
    by(video, *servers).ask(QUESTIONS + QUESTIONS[:1], max_new_tokens=2)
    assert [len(server.requests) for server in servers] == [2, 2, 2]


@pytest.mark.exhaustive
def test_questions_are_asked_at_once(video: CompressedVideo, started: Any) -> None:
    (server,) = started()
    by(video, server).ask(QUESTIONS * 3, max_new_tokens=8)
    assert server.most_at_once > 1


def test_another_engine_answers_where_one_is_gone(
    video: CompressedVideo, started: Any, caplog: pytest.LogCaptureFixture
) -> None:
    servers = started(2)
    there = by(video, *servers)
    servers[0].is_dead = True
    ours = video.ask(QUESTIONS, max_new_tokens=6)
    assert [a.token_ids for a in there.ask(QUESTIONS, max_new_tokens=6)] == [a.token_ids for a in ours]
    assert there.model.engine.num_engines == 1
    assert f"left out until it does: {servers[0].url}" in caplog.text


@pytest.mark.one_in(4)
@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("num_tokens", [3, 0])
def test_an_answer_that_breaks_off_goes_on_elsewhere(
    api: Any, num_tokens: int, video: CompressedVideo, started: Any
) -> None:
    servers = started(2)
    engine, voco = by(video, *servers, engine_api=api).model.engine, video.model.voco
    options, prompt = AnswerOptions(max_new_tokens=9, stop_at_end=False), prompt_of(voco)
    ours = generate(voco, voco.prefix(video.tokens()), [prompt], options=options)[0][0]
    assert len(ours) == 9
    servers[0].dies_after = num_tokens
    for _ in servers:  # one of them asks the one that dies first
        prefix = voco.prefix(video.tokens(), reads=False)
        assert [token for token, _ in engine.stream(voco, prefix, prompt, options=options)] == ours
    assert servers[0].is_dead


@pytest.mark.exhaustive
def test_an_engine_that_comes_back_is_asked_again(
    video: CompressedVideo, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = started(2)
    there = by(video, *servers)
    servers[0].is_dead = True
    there.ask(QUESTIONS, max_new_tokens=2)
    servers[0].is_dead = False
    there.ask(QUESTIONS, max_new_tokens=2)
    assert not servers[0].requests  # not yet
    monkeypatch.setattr(engines_module, "RECHECK_SECONDS", 0.0)
    there.ask(QUESTIONS, max_new_tokens=2)
    assert servers[0].requests


def test_when_all_are_gone_the_error_says_so(video: CompressedVideo, started: Any) -> None:
    servers = started(2)
    there = by(video, *servers)
    for server in servers:
        server.is_dead = True
    with pytest.raises(EngineError, match=r"none of 2 engines answers \(http://127.*; http://127.*\); start one"):
        there.ask(QUESTIONS, max_new_tokens=2)
    with pytest.raises(EngineError, match="none of 2 engines answers"):
        list(there.stream(QUESTIONS[0]))
    servers[1].is_dead = False  # the next question finds it, though it is not due yet
    assert there.ask("who?", max_new_tokens=2).token_ids == video.ask("who?", max_new_tokens=2).token_ids


def test_nobody_there(local: VideoModel) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineError, match=r"the engine does not answer \(.*[Cc]onnect.*\); start one, or leave out"):
        Engines(local.voco, EngineOptions(engine_url=url))


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("0.23.1", r"is vLLM 0.23.1: .*CVE-2026-55514.*; install 0.24.0 or later"),
        ("0.9", "is vLLM 0.9: "),
        ("dev", "does not say which vLLM it is .*'dev'"),
        (None, "does not say which vLLM it is"),
    ],
)
def test_old_engines_are_refused(version: Any, message: str, video: CompressedVideo, started: Any) -> None:
    servers = started(version=version)
    with pytest.raises(EngineError, match=message):
        by(video, *servers)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("version", ["0.24.0", "0.24.0rc1", "1.0.0", "0.100.0+cpu"])
def test_new_engines_are_not(version: str, video: CompressedVideo, started: Any) -> None:
    assert by(video, *started(version=version)).model.engine.num_engines == 1


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["voco-tiny", "/models/llm", "voco-tiny-0123456789ab", ""])
def test_another_model_is_refused(name: str, video: CompressedVideo, started: Any) -> None:
    servers = started(name=name or "x")
    with pytest.raises(
        EngineError, match=r"serves '.*'.*start the engine with --served-model-name voco-tiny-[0-9a-f]{12}"
    ):
        by(video, *servers)


def test_other_weights_under_the_right_name_are_refused(
    video: CompressedVideo, exported: Path, started: Any, tmp_path: Path
) -> None:
    """A name is no proof: base weights, as `save_pretrained` of a decoder without its adapters would write them."""
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(exported, other)
    weights = load_file(other / "model.safetensors")
    weights = {n: t.roll(1, 0) if n.endswith("down_proj.weight") else t for n, t in weights.items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    servers = started(folder=other)
    with pytest.raises(EngineError, match=r"computes something else than this model, under its name .*log-probability"):
        by(video, *servers)


@pytest.mark.exhaustive
def test_another_chat_template_is_refused(video: CompressedVideo, exported: Path, started: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    (other / "chat_template.jinja").write_text("{% for m in messages %}HUMAN: {{ m.content }} BOT:{% endfor %}")
    servers = started(folder=other)
    by(video, *servers)  # completions take no template
    with pytest.raises(EngineError, match=r"read another prompt than it was sent .*chat template is not the exported"):
        by(video, *servers, engine_api="chat")


def test_an_engine_that_was_replaced_is_noticed(video: CompressedVideo, started: Any) -> None:
    (server,) = started()
    there = by(video, server)
    server.name = "something-else"
    with pytest.raises(EngineError, match=r"does not serve 'voco-tiny-.*' any more: .*does not exist"):
        there.ask("who?")


def test_form_kv_is_refused(local: VideoModel, clip: Path, started: Any) -> None:
    there = by(local.compress(clip, num_frames=2, form="kv"), *started())
    with pytest.raises(UsageError, match=r"form='kv' cannot be sent to an engine: .*compress with form='embeds'"):
        there.ask("who?")
    with pytest.raises(UsageError, match=r"form='kv' cannot be sent"):
        list(there.stream("who?"))


def test_what_an_engine_cannot_do_is_refused(video: CompressedVideo, started: Any) -> None:
    (server,) = started()
    there = by(video, server)
    with pytest.raises(UsageError, match=r"repetition_penalty=1.2; give repetition_penalty=1, or leave out engine_url"):
        there.ask("who?", repetition_penalty=1.2)
    with pytest.raises(UsageError, match=r"with_attention .*an engine does not tell where its answers look"):
        there.ask("who?", with_attention=True)
    assert not server.requests


def test_without_frames(local: VideoModel, clip: Path, started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = local.compress(clip, num_frames=2, compressor="none")
    there, ours = by(blind, *started()), blind.ask("who?", max_new_tokens=6)
    assert there.ask("who?", max_new_tokens=6).token_ids == ours.token_ids
    monkeypatch.setattr(local.voco, "answering_form", "embeds")  # then text alone is answered without the adapters
    with pytest.raises(UsageError, match="without frames this model answers with other weights"):
        there.ask("who?")


def test_settings_of_the_checkpoint_that_an_engine_cannot_keep(
    video: CompressedVideo, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, config = by(video, *started()), video.model.voco.backbone.hf_model.generation_config
    monkeypatch.setattr(config, "no_repeat_ngram_size", 3)
    with pytest.raises(UsageError, match="no_repeat_ngram_size=3, which the checkpoint sets, or leave out engine_url"):
        there.ask("who?")
    monkeypatch.setattr(config, "no_repeat_ngram_size", 0)
    monkeypatch.setattr(config, "repetition_penalty", 1.0)
    assert there.ask("who?", max_new_tokens=3).token_ids == video.ask("who?", max_new_tokens=3).token_ids


@pytest.mark.exhaustive
def test_what_is_too_long_is_refused(video: CompressedVideo, started: Any) -> None:
    there = by(video, *started(max_length=64))
    with pytest.raises(
        UsageError, match=r"takes 64 tokens of prompt and answer, and this question has \d+ and up to 50"
    ):
        there.ask("who?", max_new_tokens=50)


@pytest.mark.exhaustive
def test_keys(video: CompressedVideo, started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (server,) = started()
    server.key = "secret"
    with pytest.raises(EngineError, match=r"refuses the key \(status 401\); set VLLM_API_KEY"):
        by(video, server)
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert by(video, server).ask("who?", max_new_tokens=2).text


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "refuses the question: .*told to fail: 400"),
        (403, r"refuses the key \(status 403\)"),
        (500, "the engine does not answer .*told to fail: 500"),
        (503, "the engine does not answer .*told to fail: 503"),
    ],
)
def test_errors_of_the_engine(status: int, message: str, video: CompressedVideo, started: Any) -> None:
    (server,) = started()
    there = by(video, server)
    for ask in (lambda: there.ask("who?"), lambda: list(there.stream("who?"))):
        server.statuses = [status]
        with pytest.raises(EngineError, match=message):
            ask()
    server.statuses = []
    assert there.ask("who?", max_new_tokens=3).token_ids == video.ask("who?", max_new_tokens=3).token_ids


@pytest.mark.exhaustive
def test_a_busy_engine_is_waited_for(video: CompressedVideo, started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (server,) = started()
    there = by(video, server)
    server.statuses = [429, 429]
    assert there.ask("who?", max_new_tokens=3).token_ids == video.ask("who?", max_new_tokens=3).token_ids
    monkeypatch.setattr(engines_module, "_MAX_WAITS", 2)
    server.statuses = [429] * 3
    with pytest.raises(EngineError, match=r"the engines are busy: .*told to fail: 429"):
        there.ask("who?")


def _without(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def edit(reply: dict[str, Any]) -> dict[str, Any]:
        choice = {name: value for name, value in reply["choices"][0].items() if name not in names}
        return {**reply, "choices": [choice]}

    return edit


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_without("prompt_token_ids"), "does not say which prompt it read"),
        (_without("token_ids"), "does not answer .*0 tokens came with 1 probabilities"),
        (_without("logprobs"), "does not answer .*1 tokens came with 0 probabilities"),
        (_without("logprobs", "token_ids"), "does not answer .*the reply holds no whole answer"),
        (lambda reply: {**reply, "choices": []}, "does not say which prompt it read"),
        (
            lambda reply: {**reply, "choices": [{**reply["choices"][0], "token_ids": ["a"]}]},
            "does not answer .*the reply has no token ids",
        ),
        (
            lambda reply: {**reply, "choices": [{**reply["choices"][0], "token_ids": [10**9]}]},
            "does not tell tokens and their probabilities",
        ),
    ],
)
def test_replies_that_are_not_vllms(edit: Any, message: str, video: CompressedVideo, started: Any) -> None:
    (server,) = started()
    server.edit = edit
    with pytest.raises(EngineError, match=message):
        by(video, server)


def test_a_reply_that_turns_bad_later(video: CompressedVideo, started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (server,) = started()
    there = by(video, server)
    server.edit = _without("token_ids", "finish_reason")
    with pytest.raises(EngineError):
        there.ask("who?", max_new_tokens=4)
    with pytest.raises(EngineError):
        list(there.stream("who?", max_new_tokens=4))


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ("ftp://host", "is no address of HTTP"),
        ("host:8000", "is no address of HTTP"),
        ("http://", "is no address of HTTP"),
        ("", "names no engine"),
        (" , ", "names no engine"),
        ("http://a,http://a/v1/", "names an engine twice"),
    ],
)
def test_addresses_that_are_none(urls: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EngineOptions(engine_url=urls)


def test_addresses() -> None:
    options = EngineOptions(engine_url=" http://a:1/v1/ ,https://b/llm/v1")
    assert options.urls == ("http://a:1", "https://b/llm")
    assert EngineOptions().urls == ()


@pytest.mark.exhaustive
def test_load_model_connects(clip: Path, exported: Path, started: Any, video: CompressedVideo) -> None:
    (server,) = started()
    model = load_model("voco-tiny", engine_url=f"{server.url}/v1")
    there = model.compress(clip, num_frames=4)
    assert [a.token_ids for a in there.ask(QUESTIONS)] == [a.token_ids for a in video.ask(QUESTIONS)]
    assert there.find("star")[0] == video.find("star")[0]  # searched here
