"""The library over HTTP: what comes back is what Python gives of the same file."""

from __future__ import annotations

import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server (extra serve)")

import httpx2
from PIL import Image

from tests.helpers.clips import Clip, read_number
from tests.helpers.serving import Serving, serving
from voco_video.serve.chapters import borders, find_chapters, frame_changes

NUMBERED = Clip("numbered.mp4", num_frames=60, rate=10, options={"g": "10", "sc_threshold": "0"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("library")
    (folder / "root").mkdir()
    NUMBERED.write(folder / "root")
    with serving(folder, media_root=folder / "root", allow_urls=True, anyway=True) as running:
        running.upload(running.demo)
        yield running


@pytest.fixture(scope="module")
def http(server: Serving):
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def numbered(server: Serving, http) -> str:
    """The id of a clip below the media root whose pictures carry their numbers."""
    reply = http.post("/api/videos/add", json={"path": "numbered.mp4", "name": "numbers"})
    assert reply.status_code == 202, reply.text
    job = server.wait(reply.json()["job"]["id"])
    assert job["state"] == "done", job
    return job["result"]["video"]


def test_a_video_is_listed_with_its_facts(server, http, numbered):
    rows = {row["id"]: row for row in http.get("/api/videos").json()["videos"]}
    assert rows.keys() == {server.demo_id, numbered}
    assert rows[server.demo_id]["name"] == "clip.mp4"
    assert rows[numbered]["name"] == "numbers"
    facts = http.get("/api/videos/numbers").json()
    truth = server.video()
    assert facts["id"] == numbered
    assert facts["has_media"]
    assert (facts["video"]["width"], facts["video"]["num_frames"]) == (160, 60)
    demo = http.get(f"/api/videos/{server.demo_id[:12]}").json()
    assert (demo["state"], demo["num_frames"], demo["entry"]) == ("ready", 8, truth.parts[0].entry.digest)


def test_find_gives_the_moments_of_python(server, http, numbered):
    query = "the square that moves"
    reply = http.post("/api/find", json={"query": query, "videos": [server.demo_id], "num_moments": 3}).json()
    truth = server.video().find(query, num_moments=3)
    assert [(m["start_seconds"], m["end_seconds"], m["is_likely"]) for m in reply["moments"]] == [
        (m.start_seconds, m.end_seconds, m.is_likely) for m in truth
    ]
    assert [m["score"] for m in reply["moments"]] == pytest.approx([m.score for m in truth], rel=1e-4)
    everywhere = http.post("/api/find", json={"query": query, "num_moments": 50}).json()
    assert everywhere["num_videos"] == 2
    assert {m["video"] for m in everywhere["moments"]} == {server.demo_id, numbered}
    assert http.get(reply["moments"][0]["thumbnail"]).headers["content-type"] == "image/jpeg"


def test_a_thumbnail_is_the_frame_that_is_shown_then(http, numbered):
    for seconds, number in ((0, 0), (2.05, 20), (5.9, 59), (100, 59), (-3, 0)):
        reply = http.get(f"/api/videos/{numbered}/thumbnail", params={"t": seconds, "width": 160})
        picture = np.asarray(Image.open(io.BytesIO(reply.content)))
        assert picture.shape == (96, 160, 3)
        assert read_number(picture) == number


def test_a_clip_holds_the_stretch_from_the_keyframe_before(http, numbered):
    reply = http.get(f"/api/videos/{numbered}/clip", params={"start": 2.3, "end": 4.0})
    assert reply.headers["x-clip-start-seconds"] == "2.000"
    with av.open(io.BytesIO(reply.content)) as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    assert [read_number(frame) for frame in frames] == list(range(20, 40))
    for start, end, status in ((50, 60, 400), (4, 4, 400), (5, 2, 400), (0, 1e6, 400)):
        assert http.get(f"/api/videos/{numbered}/clip", params={"start": start, "end": end}).status_code == status


def test_the_file_comes_whole_and_in_ranges(server, http, numbered):
    data = server.demo.read_bytes()
    assert http.get(f"/api/videos/{server.demo_id}/media").content == data
    part = http.get(f"/api/videos/{server.demo_id}/media", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, data[100:200])


def test_an_upload_goes_on_where_it_stopped(server, http, tmp_path):
    data = Clip("resumed.mp4", num_frames=20, first_number=7).write(tmp_path).read_bytes()
    begun = http.post("/api/uploads", json={"name": "resumed.mp4", "size_bytes": len(data)}).json()
    path = f"/api/uploads/{begun['upload']}"
    first = http.patch(path, content=data[:1000], headers={"Upload-Offset": "0"}).json()
    assert first["offset"] == http.get(path).json()["offset"] == 1000
    wrong = http.patch(path, content=data[900:], headers={"Upload-Offset": "900"})
    assert (wrong.status_code, wrong.headers["upload-offset"]) == (409, "1000")
    last = http.patch(path, content=data[1000:], headers={"Upload-Offset": "1000"}).json()
    assert server.wait(last["job"]["id"])["state"] == "done"
    video = last["video"]["id"]
    assert http.get(f"/api/videos/{video}/media").content == data
    assert http.delete(f"/api/videos/{video}").json()["num_entries"] == 1
    assert http.get(f"/api/videos/{video}").status_code == 404


def test_chapters_and_summary_are_answers_about_their_stretches(server, http):
    truth = server.video()
    reply = http.get(f"/api/videos/{server.demo_id}/summary", params={"most": 3}).json()
    assert reply["summary"] == truth.ask("Describe the video.", max_new_tokens=256).text
    expected = find_chapters(truth, max_chapters=3)
    assert [(c["start_seconds"], c["end_seconds"]) for c in reply["chapters"]] == [
        (c.start_seconds, c.end_seconds) for c in expected
    ]
    assert expected[0].start_seconds == 0
    assert expected[-1].end_seconds == 8
    for chapter in reply["chapters"]:
        stretch = truth[chapter["start_seconds"] : chapter["end_seconds"]]
        answer = stretch.ask("Describe the video in one short sentence.", max_new_tokens=48)
        assert chapter["title"] == answer.text


def test_borders_are_where_frames_change():
    """Three scenes of 20, 15 and 25 frames, each a direction of its own with some noise."""
    generator = np.random.default_rng(0)
    scenes = [generator.normal(size=32) for _ in range(3)]
    frames = np.concatenate([np.tile(s, (n, 1)) for s, n in zip(scenes, (20, 15, 25))])
    frames = frames + 0.1 * generator.normal(size=frames.shape)
    directions = frames / np.linalg.norm(frames, axis=1, keepdims=True)
    assert borders(frame_changes(directions.astype(np.float32)), max_borders=2) == [20, 35]
    assert borders(frame_changes(np.tile(directions[:1], (30, 1))), max_borders=5) == []


class _Hook(BaseHTTPRequestHandler):
    got: list[dict]

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(500 if len(self.got) == 1 else 204)  # the first try fails
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.exhaustive
def test_a_growing_file_is_followed_and_its_answers_reach_the_webhook(server, http, tmp_path):
    got: list[dict] = []
    hook = ThreadingHTTPServer(("127.0.0.1", 0), type("Hook", (_Hook,), {"got": got}))
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    clip = Clip("live.ts", num_frames=60, rate=10, options={"g": "5"}).write(tmp_path).read_bytes()
    path = Path(http.get("/api/folder").json() and server.demo.parent / "root" / "live.ts")
    path.write_bytes(clip[: len(clip) // 2])
    body = {
        "source": "live.ts", "name": "door", "idle_seconds": 1.5, "questions": ["who moves?"], "every_seconds": 2,
        "webhook": f"http://127.0.0.1:{hook.server_address[1]}/hook",
    }  # fmt: skip
    begun = http.post("/api/follow", json=body)
    assert begun.status_code == 201, begun.text
    time.sleep(0.2)
    with open(path, "ab") as file:
        file.write(clip[len(clip) // 2 :])
    with http.stream("GET", f"/api/follow/{begun.json()['id']}/events") as events:
        names = [line[7:] for line in events.iter_lines() if line.startswith("event: ")]
    assert names[-1] == "ended"
    facts = http.get(f"/api/follow/{begun.json()['id']}").json()
    answers = [event for event in facts["events"] if event["kind"] == "answer"]
    assert answers
    assert facts["num_published_frames"] == 6
    assert answers[-1]["end_seconds"] - answers[0]["start_seconds"] == pytest.approx(5)  # every frame was asked about
    truth = server.model.compress(path)
    for answer in answers:
        stretch = truth[answer["start_seconds"] - 0.01 : answer["end_seconds"] + 0.01]
        assert answer["answer"] == stretch.ask("who moves?", max_new_tokens=64).text
    assert [event["number"] for event in got[1:]] == [event["number"] for event in answers]
    assert got[0] == got[1]
    assert http.get("/api/videos/door").json()["state"] == "ready"
    for source in ("rtsp://127.0.0.1/1", "-", "../live.ts", "udp://@:1234"):
        assert http.post("/api/follow", json={"source": source, "name": "x"}).status_code == 403
    hook.shutdown()
