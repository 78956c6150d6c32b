"""Files of web servers: fetched once, again when changed, whole or with one clear error."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.file_server import LONG_AGO, serve_files
from voco_video.errors import UsageError, VideoError
from voco_video.files.urls import scrubbed
from voco_video.video import transfers, web_files
from voco_video.video.downloads import Downloads
from voco_video.video.sources import local_video

BODY = bytes(range(256)) * 20_000  # 5 MB: several blocks, and more than a socket holds
SECRET = "hunter2hunter2"


@pytest.fixture
def server():
    with serve_files() as files:
        yield files


@pytest.fixture
def downloads(tmp_path) -> Downloads:
    return Downloads(tmp_path / "downloads")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(transfers, "FIRST_WAIT_SECONDS", 0.001)


def fetched(url: str, downloads: Downloads) -> bytes:
    with local_video(url, downloads=downloads) as local:
        return local.path.read_bytes()


@pytest.mark.parametrize("versioned", [{"etag": '"1"'}, {"etag": 'W/"1"'}, {"changed": LONG_AGO}])
def test_what_has_not_changed_is_fetched_once(server, downloads, versioned):
    url = server.put("/clip.mp4", BODY, **versioned)
    for _ in range(3):
        assert fetched(url, downloads) == BODY
    assert server.statuses == [200, 304, 304]
    assert server.num_bytes == len(BODY)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"etag": '"1"'}, {"etag": '"2"'}),
        ({"changed": LONG_AGO}, {"changed": LONG_AGO + 50}),
        ({"etag": '"1"'}, {}),
        ({}, {}),
        ({"changed": time.time() + 1000}, {"changed": time.time() + 1000}),  # its clock says nothing of use
    ],
)
def test_what_may_have_changed_is_fetched_again(server, downloads, before, after):
    url = server.put("/clip.mp4", BODY, **before)
    assert fetched(url, downloads) == BODY
    server.put("/clip.mp4", BODY[::-1], **after)
    assert fetched(url, downloads) == BODY[::-1]
    assert fetched(url, downloads) == BODY[::-1]


def test_a_file_changed_within_the_second_of_its_last_change_is_not_taken_for_the_old_one(server, downloads):
    now = time.time()
    url = server.put("/clip.mp4", BODY, changed=now)
    assert fetched(url, downloads) == BODY
    server.put("/clip.mp4", BODY[::-1], changed=now)
    assert fetched(url, downloads) == BODY[::-1]


def test_a_server_that_knows_no_conditions_is_read_no_further_than_its_headers(server, downloads, monkeypatch):
    url = server.put("/clip.mp4", BODY, etag='"1"')
    fetched(url, downloads)
    monkeypatch.setattr("tests.helpers.file_server.is_known", lambda headers, validators: False)
    reports = []
    with local_video(url, downloads=downloads, on_download=lambda *report: reports.append(report)) as local:
        assert local.path.read_bytes() == BODY
    assert server.statuses == [200, 200]
    assert reports == [], "nothing of the body was read"


def test_a_kept_file_that_is_damaged_or_gone_is_fetched_again(server, downloads):
    url = server.put("/clip.mp4", BODY, etag='"1"')
    for damage in (lambda path: path.write_bytes(BODY[:-1] + b"\0"), Path.unlink, lambda path: os.truncate(path, 5)):
        fetched(url, downloads)
        (path,) = downloads.files()
        damage(path)
        assert fetched(url, downloads) == BODY
    (record,) = downloads.folder.glob("*.json")
    record.write_text('{"digest": ')
    assert fetched(url, downloads) == BODY


def test_a_connection_that_is_cut_is_taken_up_where_it_stopped(server, downloads):
    url = server.put("/clip.mp4", BODY, etag='"1"', cuts=[3_000_000, 1_000_000])
    reports: list[tuple[int, int | None]] = []
    with local_video(url, downloads=downloads, on_download=lambda *report: reports.append(report)) as local:
        assert local.path.read_bytes() == BODY
    assert server.statuses == [200, 206, 206]
    assert server.num_bytes == len(BODY), "nothing is sent twice"
    assert reports[-1] == (len(BODY), len(BODY))
    assert {total for _, total in reports} == {len(BODY)}


@pytest.mark.parametrize(
    "options", [{"has_ranges": False, "etag": '"1"'}, {"etag": 'W/"1"'}, {}], ids=["no ranges", "weak", "no version"]
)
def test_what_cannot_be_taken_up_starts_over(server, downloads, options):
    url = server.put("/clip.mp4", BODY, cuts=[3_000_000], **options)
    assert fetched(url, downloads) == BODY
    assert server.statuses == [200, 200]


def test_a_file_that_changes_while_it_is_fetched_is_never_put_together_of_two(server, downloads):
    url = server.put("/clip.mp4", BODY, etag='"1"', cuts=[3_000_000])
    server.files["/clip.mp4"].after_cut = type(server.files["/clip.mp4"])(BODY[::-1], etag='"2"')
    assert fetched(url, downloads) == BODY[::-1]


def test_a_server_that_always_cuts_is_given_up(server, downloads):
    url = server.put("/clip.mp4", BODY, etag='"1"', has_ranges=False, cuts=[3_000_000] * 50)
    with pytest.raises(VideoError, match=r"clip.mp4: cannot be fetched \(it ended after 3000000 of 5120000 bytes"):
        fetched(url, downloads)
    assert len(server.statuses) <= transfers.MAX_FAILURES + 1
    assert not list(downloads.folder.glob("*.part"))


def test_many_cuts_are_borne_as_long_as_it_gets_further(server, downloads, monkeypatch):
    monkeypatch.setattr(transfers, "BLOCK_BYTES", 1 << 16)
    url = server.put("/clip.mp4", BODY, etag='"1"', cuts=[300_000] * 16)
    assert fetched(url, downloads) == BODY
    assert len(server.statuses) == 17


def test_a_length_that_is_not_true_is_noticed(server, downloads):
    url = server.put("/clip.mp4", BODY, length=len(BODY) + 5)
    with pytest.raises(VideoError, match="it ended after 5120000 of 5120005 bytes"):
        fetched(url, downloads)


def test_without_a_length_the_end_is_the_end(server, downloads):
    url = server.put("/clip.mp4", BODY, has_length=False)
    assert fetched(url, downloads) == BODY


def test_pieces_of_which_some_are_missing_are_noticed(server, downloads):
    url = server.put("/clip.mp4", BODY, is_chunked=True, etag='"1"', cuts=[3_000_000])
    assert fetched(url, downloads) == BODY
    assert server.statuses == [200, 206]
    assert server.num_bytes == len(BODY)


def test_a_server_that_falls_silent_is_not_waited_for(server, downloads, monkeypatch):
    monkeypatch.setattr(web_files, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(transfers, "MAX_FAILURES", 2)
    url = server.put("/clip.mp4", BODY, stops=True)
    with pytest.raises(VideoError, match=r"cannot be fetched \(nothing came for 0.1 s"):
        fetched(url, downloads)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_pass_is_tried_again(server, downloads, status):
    url = server.put("/clip.mp4", BODY, statuses=[status, status])
    assert fetched(url, downloads) == BODY
    server.files["/clip.mp4"].statuses = [status] * 50
    with pytest.raises(VideoError, match=rf"the server answers {status}"):
        fetched(url, downloads)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the server refuses it"),
        (403, "the server refuses it.*expire"),
        (404, "no such file on the server"),
        (410, "no such file on the server"),
        (451, "the server will not give it"),
        (416, "the server will not give it|cannot be fetched"),
    ],
)
def test_what_will_not_pass_is_said(server, downloads, status, message):
    url = server.put("/clip.mp4", BODY, statuses=[status] * 50)
    with pytest.raises(VideoError, match=message) as caught:
        fetched(f"{url}?signature={SECRET}", downloads)
    assert f"{server.url}/clip.mp4?..." in str(caught.value)
    assert SECRET not in str(caught.value)


def test_redirects_are_followed_a_few_times(server, downloads):
    url = server.put("/clip.mp4", BODY)
    for number, status in enumerate((301, 302, 303, 307, 308)):
        url = server.put(
            f"/{number}", b"", redirect=url if number % 2 else url[len(server.url) :], redirect_status=status
        )
    assert fetched(url, downloads) == BODY
    circle = server.put("/circle", b"", redirect="/circle")
    with pytest.raises(VideoError, match="sends on in a circle"):
        fetched(circle, downloads)
    assert len(server.requests) < 30


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/clip.mp4", "data:video/mp4;base64,AAAA"])
def test_no_redirect_leads_out_of_the_web(server, downloads, target):
    url = server.put("/clip.mp4", b"", redirect=target)
    with pytest.raises(VideoError, match=r"out of the web|cannot be"):
        fetched(url, downloads)


def test_user_and_password_go_to_their_own_server_only_and_are_never_shown(server, downloads):
    host = server.url.removeprefix("http://")
    server.put("/clip.mp4", BODY, user=f"me:{SECRET}/ü", etag='"1"')
    url = f"http://me:{SECRET}%2F%C3%BC@{host}"
    with local_video(f"{url}/clip.mp4", downloads=downloads) as local:
        assert local.path.read_bytes() == BODY
        assert local.name == local.recorded_name == f"{server.url}/clip.mp4"
    server.put("/here", b"", redirect="/clip.mp4")
    assert fetched(f"{url}/here", downloads) == BODY
    with serve_files() as other:
        target = other.put("/clip.mp4", BODY)
        server.put("/there", b"", redirect=target)
        assert fetched(f"{url}/there", downloads) == BODY
        assert "authorization" not in other.requests[-1][1]
    with pytest.raises(VideoError) as caught:
        fetched(f"http://me:wrong-{SECRET}@{host}/clip.mp4", downloads)
    kept = "".join(path.read_text() for path in downloads.folder.glob("*.json"))
    for text in (str(caught.value), kept):
        assert SECRET not in text
        assert "me:" not in text


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Not here</title>", b"\n <!-- hi --><html><body>", b"<HTML>"])
def test_a_web_page_is_no_video(server, downloads, page):
    with pytest.raises(VideoError, match="is a web page, not a video"):
        fetched(server.put("/watch", page + BODY, content_type="text/html"), downloads)
    assert not downloads.files()


def test_a_body_that_is_packed_is_refused(server, downloads):
    with pytest.raises(VideoError, match=r"packed \(gzip\)"):
        fetched(server.put("/clip.mp4", BODY, encoding="gzip"), downloads)


def test_a_server_that_is_not_there_is_named_at_once(downloads, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("nothing is tried again"))
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(VideoError, match=rf"127.0.0.1:{port}/clip.mp4: cannot be reached"):
            fetched(f"http://127.0.0.1:{port}/clip.mp4", downloads)
    with pytest.raises(VideoError, match=r"no-such-host.invalid/clip.mp4: cannot be reached"):
        fetched("http://no-such-host.invalid/clip.mp4", downloads)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "https:///clip.mp4",
        "http://a..b/x.mp4",
        "http://\ud800/x.mp4",
        "http://host:99999/a.mp4",
        "http://host:port/a.mp4",
        "http://[::1/a.mp4",
        "http://ho st/a\n.mp4",
    ],
)
def test_a_url_that_is_not_whole_is_refused(url, downloads):
    with pytest.raises(UsageError) as caught:
        fetched(url, downloads)
    assert "\n" not in str(caught.value)


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(server, downloads, tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("making a certificate takes openssl")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("nothing is tried again"))
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    asked = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2 -subj /CN=localhost"
    subprocess.run([*asked.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    with serve_files(certificate=(certificate, key)) as secure:
        url = secure.put("/clip.mp4", BODY)
        with pytest.raises(VideoError, match=r"cannot be reached \(.*certificate verify failed"):
            fetched(url, downloads)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetched(url, downloads) == BODY


@pytest.mark.parametrize("scheme", ["rtsp", "udp", "rtmp"])
def test_a_live_source_is_sent_to_follow(scheme, downloads):
    with pytest.raises(UsageError, match="--follow"):
        fetched(f"{scheme}://127.0.0.1/1", downloads)


def test_names_that_are_not_ascii(server, downloads):
    server.put("/ein%20f%C3%BC%C3%9F.mp4", BODY)
    assert fetched(f"{server.url}/ein füß.mp4", downloads) == BODY
    assert fetched(f"{server.url}/ein%20f%C3%BC%C3%9F.mp4", downloads) == BODY


def test_secrets_are_taken_out_of_the_words_of_other_libraries():
    url = f"s3://key:{SECRET}@bucket/a.mp4?X-Sig=abc%2Fdef&v=1#part"
    said = f"403 for {url}: user key:{SECRET}, query X-Sig=abc%2Fdef&v=1, signature abc/def\n, {SECRET}"
    assert scrubbed(said, url) == "403 for s3://bucket/a.mp4?...: user ..., query ..., signature ... , ..."
