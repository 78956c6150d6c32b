"""The tools through the official client: in this process, and over standard input and output of the real program."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the tools for agents need mcp: pip install 'voco-video[mcp]'")

import anyio
from mcp import Client, StdioServerParameters

from tests.helpers.file_server import serve_files
from voco_video.api import VideoModel, load_model
from voco_video.mcp.server import create_server
from voco_video.mcp.tools import Tools
from voco_video.serve.settings import ServeOptions
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene

ARGUMENTS = {
    "ask": {"video": "clip.mp4", "question": "who moves?"},
    "compress": {"video": "clip.mp4"},
    "find": {"query": "a star"},
    "list": {},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mcp") / "root"
    (root / "inside").mkdir(parents=True)
    write_clip(demo_scene(), root / "clip.mp4", size=64)
    write_clip(demo_scene(), root.parent / "secret.mp4", size=64)
    (root / "inside" / "out.mp4").symlink_to(root.parent / "secret.mp4")
    (root / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{root.parent / 'secret.mp4'}\n")
    (root / "notes.txt").write_text("not a video")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    return load_model("voco-tiny", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def video_id(model: VideoModel, root: Path) -> str:
    """The video, compressed to a few frames: most tests ask about that."""
    video = model.compress(root / "clip.mp4", num_frames=4, name="demo")
    return video.parts[0].entry.key.video_digest


@pytest.fixture
def call(model: VideoModel, root: Path, video_id: str) -> Callable[..., tuple[bool, Any]]:
    """Call one tool through the official client; gives whether it failed, and its result or the message."""

    def call(name: str, *, settings: ServeOptions | None = None, **arguments: Any) -> tuple[bool, Any]:
        server = create_server(Tools(model, settings or ServeOptions(media_root=root)))

        async def run() -> tuple[bool, Any]:
            async with Client(server) as client:
                return read(await client.call_tool(name, arguments))

        return anyio.run(run)

    return call


def read(result: Any) -> tuple[bool, Any]:
    text = result.content[0].text if result.content else ""
    return bool(result.is_error), text if result.is_error else (result.structured_content or json.loads(text))


def test_tools_do_what_python_does(call: Any, model: VideoModel, video_id: str) -> None:
    video = model.open("demo")
    failed, answer = call("ask", video="demo", question="who moves?", max_new_tokens=12)
    ours = video.ask("who moves?", max_new_tokens=12)
    assert not failed
    assert (answer["answer"], answer["confidence"], answer["video"]) == (ours.text, round(ours.confidence, 4), video_id)
    history = [{"role": "user", "content": "who moves?"}, {"role": "assistant", "content": "a star"}]
    _, later = call("ask", video=video_id, question="where?", history=history, start_seconds=0, end_seconds=4)
    assert later["num_frames"] == len(video[0.0:4.0]) < 4
    _, found = call("find", query="the star", num_moments=2)
    assert [m["peak_seconds"] for m in found["moments"]] == [
        m.peak_seconds for m in video.find("the star", num_moments=2)
    ]
    assert {m["video"] for m in found["moments"]} == {video_id}
    _, listed = call("list")
    assert [(v["id"], v["name"], v["state"]) for v in listed["videos"]] == [(video_id, "demo", "ready")]
    assert listed["model"] == "voco-tiny"


def test_a_path_below_the_root_is_compressed(call: Any, root: Path, video_id: str) -> None:
    for given in ("clip.mp4", str(root / "clip.mp4"), f"file://{root}/clip.mp4"):
        failed, made = call("compress", video=given, num_frames=2)
        assert not failed, made
        assert (made["video"], made["num_frames"]) == (video_id, 2)
    assert made["from_cache"]


@pytest.mark.parametrize(
    "video",
    [
        "../secret.mp4",
        "inside/out.mp4",
        "inside/../../secret.mp4",
        "file:///etc/passwd",
        "/etc/passwd",
        "list.m3u8",
        "notes.txt",
        "inside",
        "",
        "x" * 5000,
        "clip.mp4\0",
        "file://host/clip.mp4",
        "http://127.0.0.1:1/clip.mp4",
        "https://example.org/clip.mp4",
        "ftp://example.org/clip.mp4",
        "concat:clip.mp4|clip.mp4",
        "rtsp://127.0.0.1/x",
        "data:video/mp4;base64,AAAA",
        "voco://nothing",
    ],
)
@pytest.mark.parametrize("tool", ["ask", pytest.param("compress", marks=pytest.mark.exhaustive)])
def test_what_may_not_be_named_is_refused(tool: str, video: str, call: Any, root: Path) -> None:
    arguments = {**ARGUMENTS[tool], "video": video}
    failed, message = call(tool, **arguments)
    assert failed, message
    assert "secret.mp4" not in message.replace(video, "")
    assert str(root.parent) not in message.replace(video, "")
    assert "Traceback" not in message


def test_without_a_root_no_file_is_opened(call: Any) -> None:
    failed, message = call("ask", settings=ServeOptions(), **ARGUMENTS["ask"])
    assert failed
    assert "no files may be opened" in message


def test_urls_are_fetched_where_they_are_allowed(model: VideoModel, root: Path, video_id: str) -> None:
    with serve_files() as server:
        url = server.put("/clip.mp4", (root / "clip.mp4").read_bytes())
        settings = ServeOptions(allow_urls=True)
        tools = Tools(model, settings, is_allowed=lambda address: True)
        assert tools.compress(url, num_frames=2)["video"] == video_id
        with pytest.raises(Exception, match="private network"):  # loopback is one
            Tools(model, settings).compress(url, num_frames=3)


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("ask", {"video": "demo", "question": "  "}, "the question has 2 characters"),
        ("ask", {"video": "demo", "question": "who?", "max_new_tokens": 10**6}, "give 1 to 1024"),
        (
            "ask",
            {"video": "demo", "question": "who?", "history": [{"role": "system", "content": "x"}]},
            "history: each",
        ),
        ("ask", {"video": "demo", "question": "who?", "start_seconds": 500}, "no frame from 500 s on"),
        ("compress", {"video": "demo", "fps": 2}, "is compressed already"),
        ("compress", {"video": "clip.mp4", "fps": 2, "num_frames": 3}, "fps"),
        ("find", {"query": "star", "videos": ["nothing"]}, "there is no video 'nothing' here"),
        ("find", {"query": "star", "num_moments": 0}, "greater than or equal to 1"),
        ("find", {}, "query"),
    ],
)
def test_mistakes_are_said(tool: str, arguments: dict[str, Any], message: str, call: Any) -> None:
    failed, said = call(tool, **arguments)
    assert failed
    assert message in said


def test_limits(call: Any, root: Path) -> None:
    short = ServeOptions(media_root=root, max_video_seconds=1.0)
    failed, message = call("compress", settings=short, video="clip.mp4", num_frames=3)
    assert (failed, "at most 1 s are taken here" in message) == (True, True)
    few = ServeOptions(media_root=root, max_video_frames=2)
    failed, message = call("compress", settings=few, video="clip.mp4", num_frames=5)
    assert (failed, "at most 2 are taken" in message) == (True, True)


def test_a_foreign_video_gets_no_answer(call: Any, root: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    (tmp_path / "root").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "root" / "noise.gif")
    settings = ServeOptions(media_root=tmp_path / "root")
    failed, message = call("ask", settings=settings, video="noise.gif", question="who?")
    assert failed
    assert "no answer: this model was trained on" in message
    anyway = ServeOptions(media_root=tmp_path / "root", anyway=True)
    failed, answer = call("ask", settings=anyway, video="noise.gif", question="who?", max_new_tokens=4)
    assert (failed, answer["confidence"]) == (False, None)


def test_what_is_no_fault_of_the_agent_is_not_told(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Tools) -> None:
        raise RuntimeError("password=1234")

    monkeypatch.setattr(Tools, "list", fail)
    failed, message = call("list")
    assert failed
    assert "password" not in message
    assert "its log says more" in message


def test_every_tool_is_described(model: VideoModel) -> None:
    async def tools() -> list[Any]:
        async with Client(create_server(Tools(model, ServeOptions()))) as client:
            return (await client.list_tools()).tools

    found = {tool.name: tool for tool in anyio.run(tools)}
    assert set(found) == set(ARGUMENTS)
    assert all(tool.description for tool in found.values())
    assert {name for name, tool in found.items() if tool.annotations.read_only_hint} == {"list", "find"}
    assert set(found["ask"].input_schema["required"]) == {"video", "question"}


def over_stdio(work: Callable[[Client], Awaitable[Any]], *options: str) -> Any:
    """Start the real program and talk to it."""
    program = StdioServerParameters(
        command=sys.executable,
        args=["-c", "from voco_video.cli import main; main()", "mcp", *options],
        env={name: os.environ[name] for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE") if name in os.environ},
    )

    async def run() -> Any:
        async with Client(program) as client:
            return await work(client)

    return anyio.run(run)


@pytest.mark.exhaustive
def test_over_standard_input_and_output(root: Path, tmp_path: Path) -> None:
    seen: list[tuple[float, float | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total))

    async def work(client: Client) -> Any:
        made = await client.call_tool("compress", {"video": "clip.mp4", "name": "demo"}, progress_callback=note)
        answer = await client.call_tool("ask", {"video": "demo", "question": "what colour is the square?"})
        listed = await client.call_tool("list", {})
        refused = await client.call_tool("ask", {"video": "../secret.mp4", "question": "who?"})
        return [read(result) for result in (made, answer, listed, refused)]

    made, answer, listed, refused = over_stdio(work, "--media-root", str(root), "--cache-dir", str(tmp_path / "cache"))
    assert made[1]["num_frames"] == 8
    assert seen[-1] == (8.0, 8.0)
    model = load_model("voco-tiny", cache_dir=tmp_path / "own")
    assert answer[1]["answer"] == model.compress(root / "clip.mp4").ask("what colour is the square?").text
    assert [video["name"] for video in listed[1]["videos"]] == ["demo"]
    assert refused[0]
    assert "is no file below" in refused[1]
