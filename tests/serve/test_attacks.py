"""What must be refused: each attack gets an error, reads nothing, calls nobody, and the server goes on."""

from __future__ import annotations

import base64
import io
import socket
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server (extra serve)")

from PIL import Image
from starlette.testclient import TestClient

from tests.helpers.clips import Clip
from tests.helpers.file_server import FileServer, serve_files
from voco_video.api import load_model
from voco_video.errors import UsageError
from voco_video.serve.app import create_app
from voco_video.serve.safety.addresses import is_public
from voco_video.serve.settings import ServeOptions

KEY = "correct-horse-battery-staple"
SECRET = b"root:x:0:0:the secret that no client may read"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a media root, a secret beside it, and links that lead out."""
    folder = tmp_path_factory.mktemp("attacked")
    root = folder / "root"
    (root / "sub").mkdir(parents=True)
    (folder / "secret.mp4").write_bytes(SECRET)
    (folder / "root-of-another").mkdir()
    (folder / "root-of-another" / "clip.mp4").write_bytes(SECRET)
    (root / "link.mp4").symlink_to(folder / "secret.mp4")
    (root / "way-out").symlink_to(folder)
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    Clip("clip.mp4", num_frames=5).write(root)
    return folder


@pytest.fixture(scope="module")
def model(place: Path):
    return load_model("voco-tiny", cache_dir=place / "cache")


def client_of(model, **options) -> TestClient:
    """A client of an application without a server; it is stopped with the test."""
    is_allowed = options.pop("is_allowed", is_public)
    app = create_app(model, ServeOptions(shutdown_seconds=0.1, **options), is_allowed=is_allowed)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(model, place: Path):
    with client_of(model, media_root=place / "root", allow_urls=True, max_body_bytes=300_000) as client:
        yield client


@pytest.fixture(scope="module")
def closed(model):
    """Without media root, URLs or key."""
    with client_of(model) as client:
        yield client


@pytest.fixture(scope="module")
def locked(model):
    with client_of(model, api_key=KEY) as client:
        yield client


@pytest.fixture(scope="module")
def web():
    with serve_files() as server:
        yield server


def ask(client: TestClient, url: str, kind: str = "video", **more):
    """Ask about a video or picture of this URL."""
    part = {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
    content = [part, {"type": "text", "text": "who moves?"}]
    body = {"model": "voco-tiny", "messages": [{"role": "user", "content": content}], **more}
    return client.post("/v1/chat/completions", json=body)


def is_refused(reply, *statuses: int) -> None:
    """It is an error in our form that gives nothing away."""
    assert reply.status_code in (statuses or (400, 403, 404)), reply.text
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert SECRET.decode() not in reply.text
    assert "Traceback" not in reply.text


# ---------------------------------------------------------------------- paths

OUTSIDE = [
    "../secret.mp4", "sub/../../secret.mp4", "/etc/passwd", "//etc/passwd", "link.mp4", "way-out/secret.mp4",
    "loop.mp4",
    "..\\secret.mp4", "%2e%2e/secret.mp4", "....//secret.mp4", "../root-of-another/clip.mp4", "clip.mp4\x00.txt",
    "/proc/self/environ", "~/secret", "", ".", "sub", "/dev/zero", "\u2025/secret.mp4", "/dev/fd/0",
]  # fmt: skip


@pytest.mark.parametrize("path", ["..", "way-out", "/etc", "sub/../..", "clip.mp4", "\x00", "nowhere", "link.mp4"])
def test_no_folder_outside_is_listed(client, path):
    is_refused(client.get("/api/folder", params={"path": path}))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_the_media_root(client, place, path):
    is_refused(client.post("/api/videos/add", json={"path": path}))
    whole = path if path.startswith("/") else f"{place}/root/{path}"
    is_refused(ask(client, f"file://{whole}".replace("\x00", "%00")))


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "url",
    [
        "file://{}/secret.mp4", "file://localhost{}/secret.mp4", "FILE://{}/secret.mp4", "file:{}/secret.mp4",
        "file://evil.example{}/secret.mp4", "file://{}/root/%2e%2e/secret.mp4", "file://{}/root/clip.mp4?x=1",
        "file:///etc/passwd", "local://{}/secret.mp4", "simplecache::file://{}/secret.mp4", "concat:{}/secret.mp4",
        "subfile,,start,0,end,0,,:{}/secret.mp4", "pipe:0", "fd:0", "crypto:{}/secret.mp4", "memory://x",
        "{}/secret.mp4",
        "zip://x::file://{}/secret.mp4", "rtsp://127.0.0.1/x", "s3://bucket/x", "ftp://127.0.0.1/x",
        "javascript:alert(1)",
        "", " ", "voco://", "voco:///etc/passwd", "voco://../../secret.mp4", "voco://setup.cfg", "voco://%2e%2e%2fx",
        "voco://0000", "voco://\u202egnp.exe", "data:text/html,<script>", "data:video/mp4;base64,@@@",
        "data:video/mp4,",
        "hls+http://127.0.0.1/x", "http:/x", "http://", "https://[", "http://a b/", "http://x\r\nHost: y/",
    ],
)  # fmt: skip
def test_no_url_opens_what_it_should_not(client, place, url):
    is_refused(ask(client, url.format(place)))


def test_without_a_media_root_and_urls_nothing_is_opened(closed, place):
    is_refused(ask(closed, f"file://{place}/root/clip.mp4"), 403)
    is_refused(ask(closed, "http://example.org/x.mp4"), 403)
    is_refused(ask(closed, "http://example.org/x.png", "image"), 403)
    is_refused(closed.post("/api/videos/add", json={"path": "clip.mp4"}), 403)
    is_refused(closed.get("/api/folder"), 403)


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "x" * 3000, "%ff", "*", "deadbeef"])
def test_no_video_is_found_by_a_path(client, name):
    for path in ("", "/media", "/thumbnail", "/clip?start=0&end=1"):
        assert client.get(f"/api/videos/{name}{path}").status_code in (404, 431)
    assert client.delete(f"/api/videos/{name}").status_code == 404
    assert client.get(f"/page/{name}").status_code == 404


# ---------------------------------------------------------------------- addresses

PRIVATE = [
    "127.0.0.1", "127.1", "0", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[ff02::1]", "224.0.0.1", "255.255.255.255", "localhost", "localhost.", "LOCALHOST",
    "2130706433",
    "0x7f.1", "017700000001", "198.18.0.1", "192.0.2.1", "[::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2001:db8::1]",
]  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize("host", PRIVATE)
def test_no_private_address_is_asked(client, host, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"connected to {args}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for kind in ("video", "image"):
        reply = ask(client, f"http://{host}:9/x", kind)
        is_refused(reply, 400)
        assert "connected" not in reply.text


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_addresses_are_public(address):
    assert is_public(address)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest", "http://[::1]:9/", "http://0.0.0.0:9/", "file:///etc/passwd",
    "gopher://127.0.0.1/",
     "ftp://127.0.0.1/", "//10.0.0.1/x", "data:video/mp4,x", ""],
)  # fmt: skip
@pytest.mark.parametrize("status", [301, 307, 308])
def test_no_redirect_leads_inside(model, web: FileServer, target, status):
    url = web.put("/away.mp4", b"", redirect=target, redirect_status=status)
    with client_of(model, allow_urls=True, is_allowed=lambda address: address == "127.0.0.1") as client:
        is_refused(ask(client, url), 400)


def test_a_circle_of_redirects_ends(model, web: FileServer):
    url = web.put("/circle.mp4", b"", redirect="/circle.mp4")
    before = len(web.requests)
    with client_of(model, allow_urls=True, is_allowed=lambda address: True) as client:
        is_refused(ask(client, url), 400)
    assert len(web.requests) - before <= 8


@pytest.mark.parametrize("answers", [["93.184.216.34", "127.0.0.1"], ["127.0.0.1", "93.184.216.34"], []])
def test_a_name_with_a_private_address_is_refused(client, monkeypatch, answers):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in answers]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    monkeypatch.setattr(socket, "create_connection", lambda *args: pytest.fail("connected"))
    is_refused(ask(client, "http://rebinding.example/x.mp4"), 400)


def test_the_checked_address_is_the_one_connected_to(client, monkeypatch):
    """A name that stands for another address the second time gains nothing: it is resolved once."""
    answers = iter(["93.184.216.34", "127.0.0.1"])
    connected = []

    def connect(address, *args, **kwargs):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *a, **k: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 80))]
    )
    monkeypatch.setattr(socket, "create_connection", connect)
    is_refused(ask(client, "http://rebinding.example/x.mp4"), 400)
    assert connected == [("93.184.216.34", 80)]


def test_what_is_too_large_or_no_video_is_not_kept(model, web: FileServer, place):
    served = {
        "/long.mp4": {"body": b"x" * 2000},
        "/lying.mp4": {"body": b"x" * 2000, "has_length": False},
        "/chunked.mp4": {"body": b"x" * 2000, "is_chunked": True},
        "/page.mp4": {"body": b"<html>hello</html>"},
        "/packed.mp4": {"body": b"x", "encoding": "gzip"},
        "/missing.mp4": {"body": b"x", "statuses": [500]},
    }
    with client_of(model, allow_urls=True, is_allowed=lambda address: True, max_upload_bytes=1000) as client:
        for path, options in served.items():
            is_refused(ask(client, web.put(path, options.pop("body"), **options)), 400)


# ---------------------------------------------------------------------- files


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, with hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def far_apart(seconds: int) -> bytes:
    """A video of two frames with so many seconds between them."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for pts in (0, seconds):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def hostile_files(canary: str, secret: Path) -> dict[str, bytes]:
    """Files that would have a reader open others, or that are no videos."""
    return {
        "hls": f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\n{canary}\n#EXT-X-ENDLIST\n".encode(),
        "hls of a file": f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode(),
        "hls with a key": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{canary}"\n#EXTINF:1,\nx.ts\n'.encode(),
        "hls of hls": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{canary}\n".encode(),
        "hls in bytes": b"\xef\xbb\xbf" + f"#EXTM3U\n#EXTINF:1,\n{canary}\n".encode(),
        "concat": f"ffconcat version 1.0\nfile '{secret}'\n".encode(),
        "concat of a url": f"ffconcat version 1.0\nfile '{canary}'\n".encode(),
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{canary}</BaseURL></MPD>'
        "".encode(),
        "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n"
        b"a=rtpmap:96 H264/90000\r\n",
        "asx": f'<asx version="3.0"><entry><ref href="{canary}"/></entry></asx>'.encode(),
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{canary}"/></svg>'.encode(),
        "xml with entities": f'<!DOCTYPE x [<!ENTITY y SYSTEM "{canary}">]><x>&y;</x>'.encode(),
        "html": b"<html><script>alert(1)</script></html>",
        "zip": b"PK\x03\x04" + bytes(200),
        "gzip": b"\x1f\x8b\x08" + bytes(200),
        "elf": b"\x7fELF" + bytes(200),
        "text": b"hello\n" * 100,
        "zeros": bytes(1000),
        "one byte": b"\0",
        "subtitles": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
        "ffmetadata": b";FFMETADATA1\ntitle=x\n",
    }  # fmt: skip


def upload(client: TestClient, data: bytes, name: str = "clip.mp4"):
    return client.post("/api/videos", files={"file": (name, data)})


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", list(hostile_files("", Path())))
def test_no_file_has_others_opened(client, web: FileServer, place, kind):
    canary = web.put("/canary.ts", b"x")
    before = len(web.requests)
    data = hostile_files(canary, place / "secret.mp4")[kind]
    for name in ("clip.mp4", "list.m3u8", "%03d.png"):
        is_refused(upload(client, data, name), 400)
    is_refused(ask(client, f"data:video/mp4;base64,{base64.b64encode(data).decode()}"), 400)
    (place / "root" / "hostile.mp4").write_bytes(data)
    is_refused(ask(client, f"file://{place}/root/hostile.mp4"), 400)
    assert len(web.requests) == before
    assert client.get("/api/videos").json()["total"] == 0
    assert not list((place / "cache" / "serve").glob("*/*"))


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (20_000, 20_000)])
def test_no_picture_takes_all_memory(client, size):
    data = png_header(*size)
    is_refused(ask(client, f"data:image/png;base64,{base64.b64encode(data).decode()}", "image"), 400)
    is_refused(upload(client, data), 400)


def test_pixels_seconds_and_frames_are_bounded(model, place):
    with client_of(model, max_pixels=96 * 100, max_video_seconds=20.0, max_video_frames=3) as client:
        large = Clip("large.mp4", num_frames=3).write(place)  # 96 x 160
        is_refused(upload(client, large.read_bytes()), 400)
        is_refused(upload(client, far_apart(21)), 400)
        small = Clip("small.mp4", num_frames=10, height=64, width=128).write(place)
        video = upload(client, small.read_bytes()).json()["video"]["id"]
        job = client.post(f"/api/videos/{video}/compress", json={"fps": 25}).json()["job"]["id"]
        with client.stream("GET", f"/api/jobs/{job}/events") as events:
            assert "event: failed" in events.read().decode()
        assert "10 frames would be compressed" in client.get(f"/api/jobs/{job}").json()["error"]["message"]
        is_refused(client.post(f"/api/videos/{video}/compress", json={"num_frames": 4}), 400)
        is_refused(ask(client, "voco://x", voco_video={"num_frames": 4}), 400)
        assert client.delete(f"/api/videos/{video}").status_code == 200


@pytest.mark.parametrize("seconds", [10**5, 2**31, 2**40])
def test_no_video_lasts_for_years(client, seconds):
    is_refused(upload(client, far_apart(seconds)), 400)


# ---------------------------------------------------------------------- keys, hosts, origins, headers


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY[:-1]}"}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY.upper()}"}, {"X-API-Key": "x"}, {"Cookie": f"voco_video_session={KEY}"},
        {"Cookie": "voco_video_session="}, {"Authorization": "Bearer \xff\xfe"}, {"X-Forwarded-For": "127.0.0.1"},
        {"X-Original-URL": "/health"}, {"Cookie": "voco_video_session=None; ;;;="}, {"Authorization": "Bearer null"},
    ],
)  # fmt: skip
def test_no_request_gets_in_without_the_key(locked, headers):
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    for path in (
        "/v1/models",
        "/api/videos",
        "/metrics",
        "/openapi.json",
        "/api/jobs",
        "/health/",
        "/page",
    ):
        reply = locked.get(path, headers=raw)
        assert reply.status_code in (401, 404), path
        assert reply.status_code == 404 or reply.json()["error"]["code"] == "invalid_api_key"


def test_the_key_and_the_page_s_cookie_open(locked):
    assert locked.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert locked.get("/v1/models", headers={"X-API-Key": KEY}).status_code == 200
    is_refused(locked.post("/api/session", json={"key": "wrong"}), 401)
    reply = locked.post("/api/session", json={"key": KEY})
    cookie = reply.headers["set-cookie"]
    assert KEY not in cookie
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert locked.get("/v1/models").status_code == 200  # by the cookie
    locked.cookies.clear()
    assert locked.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "a@b", "x y"]
)
def test_other_names_of_this_server_are_refused(closed, host):
    is_refused(closed.get("/v1/models", headers={"Host": host}), 403)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1.evil.example",
    "http://127.0.0.1:81", "x"]
)  # fmt: skip
def test_pages_of_other_sites_are_refused(closed, origin):
    headers = {"Origin": origin}
    if origin != "https://127.0.0.1":  # the same host behind TLS may be this server behind a proxy
        is_refused(closed.post("/api/videos", headers=headers, files={"file": b"x"}), 403)
        is_refused(closed.post("/v1/chat/completions", headers=headers, content=b"{}"), 403)
    is_refused(closed.delete("/api/videos/x", headers={"Sec-Fetch-Site": "cross-site"}), 403)


def test_headers_that_lie_or_are_too_large_are_refused(closed):
    is_refused(closed.get("/v1/models", headers={"X-Long": "x" * 20_000}), 431)
    is_refused(closed.get("/v1/models", headers=[(f"X-{n}", "y" * 100) for n in range(300)]), 431)
    is_refused(closed.post("/api/find", content=b"{}", headers={"Content-Length": "-1"}), 400)
    is_refused(closed.post("/api/find", content=b"{}", headers={"Content-Length": "1" * 30}), 413)
    is_refused(closed.get("/v1/models", headers=[("Host", "127.0.0.1"), ("Host", "evil.example")]), 400)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.10", "example.org", "10.0.0.1"])
def test_other_addresses_need_a_key(host, monkeypatch):
    monkeypatch.delenv("VOCO_VIDEO_API_KEY", raising=False)
    with pytest.raises(UsageError, match="clients need a key"):
        ServeOptions(host=host)
    with pytest.raises(UsageError, match="characters"):
        ServeOptions(host=host, api_key="short")
    assert ServeOptions(host=host, api_key=KEY).api_key == KEY


# ---------------------------------------------------------------------- bodies


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"null", b"[]", b'"x"', b"9" * 10_000,
        b'{"model": "voco-tiny", "messages": NaN}', b'{"model": "voco-tiny", "messages": [], "seed": 1e400}',
        b'{"model": "voco-tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "voco-tiny", "messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}',
        b'{"model": "voco-tiny", "messages": [{"role": "tool", "content": "x"}]}',
        b'{"model": "voco-tiny", "messages": [{"role": "user", "content": null}]}',
        b'{"model": "voco-tiny", "messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}',
        b'{"model": {"$ne": 1}, "messages": []}', b'{"model": "../../etc", "messages": []}',
    ],
)  # fmt: skip
def test_broken_bodies_are_refused(client, body):
    for path in ("/v1/chat/completions", "/api/find", "/api/uploads", "/api/videos/add"):
        reply = client.post(path, content=body, headers={"Content-Type": "application/json"})
        is_refused(reply, 400, 404)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2}, {"logprobs": True}, {"top_logprobs": 3}, {"tools": [{"type": "function"}]},
        {"logit_bias": {"1": 5}},
        {"response_format": {"type": "json_object"}}, {"presence_penalty": 1}, {"frequency_penalty": -1},
        {"max_tokens": 0},
        {"max_tokens": 10**9}, {"temperature": -1}, {"temperature": float("inf")}, {"top_p": 0}, {"top_p": 0.5},
        {"stop": [""]},
        {"stop": ["a"] * 5}, {"stop": "x" * 1000}, {"modalities": ["audio"]}, {"unheard_of": 1}, {"seed": 2**70},
        {"media_io_kwargs": {"audio": {}}}, {"media_io_kwargs": {"video": {"fps": 1e9}}},
        {"mm_processor_kwargs": {"x": 1}},
        {"voco_video": {"policy": "all"}}, {"voco_video": {"fps": 1, "num_frames": 2}},
        {"voco_video": {"compressor": "rm -rf"}},
        {"media_io_kwargs": {"video": {"fps": 1}}, "mm_processor_kwargs": {"fps": 2}}, {"max_tokens": 1,
        "max_completion_tokens": 2},
        {"stream_options": {"include_usage": True}}, {"voco_video": {"max_voco_tokens": 0}},
        {"repetition_penalty": 0},
        {"voco_video": {"start_seconds": "NaN"}}, {"top_k": -5}, {"reasoning_effort": "high"}, {"stream": "perhaps"},
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(client, place, fields):
    import json

    content = [
        {"type": "video_url", "video_url": {"url": f"file://{place}/root/clip.mp4"}},
        {"type": "text", "text": "who moves?"},
    ]
    body = {"model": "voco-tiny", "messages": [{"role": "user", "content": content}], **fields}
    is_refused(client.post("/v1/chat/completions", content=json.dumps(body)), 400)


def test_a_body_above_the_limit_is_refused_before_it_is_read(client):
    reply = client.post("/v1/chat/completions", content=b"x" * 300_001)
    is_refused(reply, 413)

    def pieces():  # without Content-Length
        for _ in range(40):
            yield b"x" * 10_000

    is_refused(client.post("/v1/chat/completions", content=pieces()), 413)


# ---------------------------------------------------------------------- uploads


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"), ("C:\\x\\evil.mp4", "evil.mp4"), ("a\u202egpj.mp4", "agpj.mp4"), ("..",
        "video"),
        ("<script>alert(1)</script>", "script>"), ("x" * 350, "x" * 120), ("clip\t.mp4", "clip.mp4"),
        ("<img src=x onerror=alert(1)>.mp4", "<img src=x onerror=alert(1)>.mp4"),
    ],
)  # fmt: skip
def test_no_name_of_an_upload_is_a_path(client, place, name, shown):
    data = (place / "root" / "clip.mp4").read_bytes()
    reply = client.post("/api/uploads", json={"name": name, "size_bytes": len(data)})
    assert reply.json()["name"] == shown
    token = reply.json()["upload"]
    reply = client.patch(f"/api/uploads/{token}?compress=false", content=data, headers={"Upload-Offset": "0"})
    video = reply.json()["video"]["id"]
    assert len(video) == 64
    listed = client.get("/api/videos")
    assert listed.headers["content-type"] == "application/json"  # so no browser runs what a name holds
    assert listed.headers["x-content-type-options"] == "nosniff"
    media = client.get(f"/api/videos/{video}/media")
    assert media.headers["content-type"] == "video/mp4"
    assert "script-src 'self'" in media.headers["content-security-policy"]
    files = [path.relative_to(place / "cache" / "serve") for path in (place / "cache" / "serve").rglob("*.json")]
    assert [str(path) for path in files] == [f"uploads/{video}.json"]
    assert client.delete(f"/api/videos/{video}").status_code == 200


def test_uploads_take_no_more_than_was_said(client):
    for size in (0, -1, 10**13, 2**70, "x", None):
        is_refused(client.post("/api/uploads", json={"name": "a", "size_bytes": size}), 400, 413)
    token = client.post("/api/uploads", json={"name": "a", "size_bytes": 10}).json()["upload"]
    path = f"/api/uploads/{token}"
    is_refused(client.patch(path, content=b"x" * 11, headers={"Upload-Offset": "0"}), 413)
    is_refused(client.patch(path, content=b"x", headers={"Upload-Offset": "5"}), 409)
    is_refused(client.patch(path, content=b"x", headers={"Upload-Offset": "-1"}), 400)
    is_refused(client.patch(path, content=b"x"), 400)
    assert client.get(path).json()["offset"] == 0
    is_refused(client.patch(path, content=b"x" * 10, headers={"Upload-Offset": "0"}), 400)  # no video
    is_refused(client.get(path), 404)
    for other in ("..%2f..%2fx", "x", "%00", token + "x"):
        assert client.get(f"/api/uploads/{other}").status_code == 404


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"), ("multipart/form-data", b"x"), ("multipart/form-data; boundary=", b"x"),
        ("multipart/form-data; boundary=x", b""), ("multipart/form-data; boundary=x", b"--x--\r\n"),
        ("multipart/form-data; boundary=x", b"garbage without any boundary"),
        ("multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n'),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nabc'),
        ("multipart/form-data; boundary=x", b"--x\r\nX: " + b"y" * 5000 + b"\r\n\r\nabc\r\n--x--\r\n"),
        ("multipart/form-data; boundary=" + "y" * 500, b"x"),
        ("multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nabc\r\n' * 2 + b"--x--"),
        ("multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\n\r\n--x--\r\n'),
    ],
)  # fmt: skip
def test_broken_forms_leave_nothing(client, place, kind, body):
    is_refused(client.post("/api/videos", content=body, headers={"Content-Type": kind}), 400, 413)
    assert not list((place / "cache" / "serve").glob("partial/*"))


def test_every_answer_tells_browsers_to_be_strict(closed):
    for path in ("/", "/health", "/v1/models", "/nowhere", "/openapi.json"):
        headers = closed.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    for method in ("TRACE", "CONNECT", "OPTIONS", "PUT"):
        assert closed.request(method, "/v1/models").status_code == 405


def test_pictures_of_strange_kinds_are_refused(client):
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "TIFF")
    for data in (out.getvalue(), b"%!PS-Adobe EPS", b"<svg/>", b"\x89PNG\r\n\x1a\n", b""):
        is_refused(ask(client, f"data:image/png;base64,{base64.b64encode(data).decode()}", "image"), 400)
