"""URLs on the command line: shown without their secrets, one bad one costs itself, and pictures are drawn from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.clips import Clip
from tests.helpers.file_server import serve_files
from voco_video.video import transfers

SECRET = "hunter2hunter2"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return Clip("clip.mp4", num_frames=40, options={"g": "10"}).write(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def server(clip, monkeypatch):
    monkeypatch.setattr(transfers, "FIRST_WAIT_SECONDS", 0.001)
    with serve_files() as files:
        files.put("/films/my%20clip.mp4", clip.read_bytes(), etag='"1"')
        yield files


@pytest.fixture
def url(server) -> str:
    return f"{server.url}/films/my%20clip.mp4?token={SECRET}"


def test_ask_a_url_and_ask_again_without_fetching_it(run, server, url, tmp_path):
    code, out, _ = run("ask", url, "who moves?", "--anyway", "--json")
    assert code == 0
    code, again, err = run("ask", url, "who moves?", "--anyway", "--show-frames")
    assert code == 0
    assert "· cached" in err
    assert json.loads(out)["answers"][0]["answer"] in again
    assert server.statuses == [200, 304]
    strip = np.asarray(Image.open(tmp_path / "my clip-frames.png"))
    assert len(np.unique(strip.reshape(-1, 3), axis=0)) > 100, "the frames are drawn from the download"
    server.files.clear()
    entry = json.loads(out)["entry"]
    assert run("ask", entry[:12], "who moves?", "--anyway")[0] == 0, "an entry needs no server"


def test_a_bad_url_costs_itself(run, server, url, clip):
    bad = f"http://me:{SECRET}@{server.url.removeprefix('http://')}/gone.mp4?token={SECRET}"
    page = server.put("/page", b"<!doctype html><title>hi</title>")
    code, out, err = run("compress", bad, url, "foo://bar/a.mp4", page, clip, "--json")
    assert code == 1
    shown = f"{server.url}/films/my%20clip.mp4?..."
    assert [row["path"] for row in json.loads(out)] == [shown, str(clip)]
    assert [row["from_cache"] for row in json.loads(out)] == [False, True]
    assert f"error: {server.url}/gone.mp4?...: no such file on the server" in err
    assert "error: foo://bar/a.mp4: no file has this name" in err
    assert f"error: {server.url}/page: is a web page" in err
    assert "3 of 5 files failed" in err
    code, out, err = run("find", bad, url, "the circle", "--json", "--out", "found.png")
    assert code == 1
    assert "1 of 2 videos failed" in err
    assert {moment["path"] for moment in json.loads(out)["moments"]} == {shown}
    assert SECRET not in out + err
    run("compress", clip)
    _, out, _ = run("find", url, "the circle", "--json", "--start", "0.5")
    assert {moment["path"] for moment in json.loads(out)["moments"]} == {shown}, "as it was given, also in a window"


def test_the_table_names_the_clip(run, url, clip):
    code, out, err = run("compress", url, clip.as_uri())
    assert code == 0
    assert "my clip.mp4" in out
    assert "clip.mp4  " in out
    assert SECRET not in out + err
    code, out, _ = run("cache", "ls")
    assert "my clip.mp4" in out
    assert "1 downloads" in out
    assert SECRET not in out
    code, out, _ = run("cache", "prune")
    assert "removed 0 entries and 1 downloads" in out


def test_inspect_a_url(run, server, url, tmp_path):
    run("compress", url)
    code, out, _ = run("inspect", url, "--json", "--out", "my sheet.png")
    assert code == 0
    facts = json.loads(out)
    assert facts["video"]["path"] == f"{server.url}/films/my%20clip.mp4?..."
    assert facts["video"]["num_frames"] == 40
    assert len(facts["entries"]) == 1
    assert (tmp_path / "my sheet.png").exists()
    assert facts["contact_sheet"] == "my sheet.png"


@pytest.mark.parametrize("command", ["ask", "find", "inspect"])
def test_every_command_says_what_is_wrong(run, command):
    code, _, err = run(command, "foo://host/a.mp4", *({"inspect": []}.get(command, ["who?"])))
    assert code == 2
    assert "error: foo://host/a.mp4: no file has this name" in err


@pytest.mark.parametrize(
    ("video", "code", "message"),
    [
        ("foo://host/a.mp4", 2, "foo://host/a.mp4: no file has this name"),
        ("rtsp://host/1", 2, "--follow"),
        ("data:video/mp4;base64,A", 2, "not base64"),
        ("file:///no/such/file.mp4", 1, "file:///no/such/file.mp4: no such file"),
        ("http:/host/a.mp4", 1, "http:/host/a.mp4: no such file"),
    ],
)
def test_one_error_a_video(run, video, code, message):
    got, _, err = run("compress", video)
    assert got == code
    assert message in err
    assert "Traceback" not in err
