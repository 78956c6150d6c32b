"""The frame cache on a real S3 server process, behind a proxy that counts requests and breaks what it is told to."""

from __future__ import annotations

import logging
import lzma
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'voco-video[s3]')")
if find_spec("moto") is None or find_spec("flask") is None:
    pytest.skip("moto's server is not installed (pip install 'moto[server]')", allow_module_level=True)

from tests.helpers.object_server import ObjectServer, object_server
from tests.helpers.stored_entries import key_of, same_frames, write_entry
from voco_video.cache import FrameCache
from voco_video.errors import CacheError

URL = "s3://bucket/frames"


@pytest.fixture(scope="module")
def running() -> Iterator[ObjectServer]:
    with object_server() as server:
        yield server


@pytest.fixture
def server(running: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """The server with nothing counted and nothing broken yet."""
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # one that an earlier test made may have another endpoint
    running.forget()
    return running


def forget_here() -> None:
    """Delete what this machine keeps of stores."""
    shutil.rmtree(os.environ["VOCO_VIDEO_CACHE_DIR"], ignore_errors=True)


def test_a_minute_of_an_hour_reads_a_minute_of_bytes(server: ObjectServer, request: pytest.FixtureRequest) -> None:
    """Counted at the server: all bytes that it sends, those of the manifest, too."""
    cache = FrameCache(f"{URL}/hour")
    write_entry(cache, 1, 3600, width=256)  # of 2 KiB a frame, as voco-tiny's eight tokens take
    forget_here()
    server.forget()
    entry = FrameCache(f"{URL}/hour").get(key_of(1))
    assert entry is not None
    needed = 60 * entry.bytes_per_frame
    assert same_frames(entry, 1, 1_000, 1_060, width=256)
    assert needed < server.sent_bytes <= 1.2 * needed
    assert server.counts("GET") == len(server.requests) <= 5  # a manifest, digests, three segments

    server.forget()
    assert same_frames(entry, 1, 1_000, 1_060, width=256)
    assert not server.requests  # it is in the tier


@pytest.mark.parametrize("form", ["embeds", "kv"])
def test_commands_of_the_hot_path_list_nothing(server: ObjectServer, form: str) -> None:
    cache = FrameCache(f"{URL}/hot-{form}")
    write_entry(cache, 1, 64, form=form)
    puts = [one.path.rpartition("/")[2] for one in server.requests if one.method == "PUT"]
    assert puts[-1] == f"{key_of(1).digest}.json.xz"
    assert len(puts) == 4  # two segments, the digests of frames, the manifest
    forget_here()
    entry = FrameCache(f"{URL}/hot-{form}").get(key_of(1))
    assert same_frames(entry, 1, 3, 60)  # type: ignore[arg-type]
    assert not [one for one in server.requests if "list-type" in one.path]
    kinds = Counter(one.method for one in server.requests)
    assert set(kinds) == {"GET", "PUT"}


def _write(url: str, numbers: list[int], folder: str) -> None:
    os.environ["VOCO_VIDEO_CACHE_DIR"] = folder
    logging.disable(logging.CRITICAL)
    cache = FrameCache(url)
    for number in numbers:
        write_entry(cache, number, 40)


def _read(url: str, numbers: list[int], folder: str, wrong: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    os.environ["VOCO_VIDEO_CACHE_DIR"] = folder
    cache = FrameCache(url)
    found = 0
    waiting = set(numbers)
    while waiting:
        time.sleep(0.5)
        for number in sorted(waiting):
            entry = cache.get(key_of(number))
            if entry is None:
                break
            waiting.discard(number)
            found += same_frames(entry, number, 5, 37) and same_frames(entry, number)
    wrong.put(len(numbers) - found)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_hundred_entries_by_four_writers_and_four_readers(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry is written by two processes on machines of their own, and read by all while others are written."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.direct)
    url, everything = f"{URL}/many", list(range(100))
    context = multiprocessing.get_context("spawn")
    wrong = context.Queue()
    shares = [everything[part::2] for part in (0, 1, 0, 1)]
    writers = [
        context.Process(target=_write, args=(url, share, str(tmp_path / f"writer-{number}")), daemon=True)
        for number, share in enumerate(shares)
    ]
    readers = [
        context.Process(target=_read, args=(url, everything, str(tmp_path / f"reader-{number}"), wrong), daemon=True)
        for number in range(4)
    ]
    for process in writers + readers:
        process.start()
    assert [wrong.get(timeout=800) for _ in readers] == [0, 0, 0, 0]
    for process in writers + readers:
        process.join()
        assert process.exitcode == 0
    cache = FrameCache(url)
    assert {entry.digest for entry in cache.entries()} == {key_of(number).digest for number in everything}
    results = cache.verify()
    assert Counter(result.status for result in results)["ok"] == 100
    assert all(result.ok for result in results)


class Faults:
    """Breaks each request for some of the first times that it comes."""

    def __init__(self, kinds: list[str], method: str | None = None) -> None:
        self.kinds, self.method = kinds, method
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, method: str, path: str) -> str | None:
        with self.lock:
            number = self.seen[method + path]
            self.seen[method + path] += 1
        return self.kinds[number] if number < len(self.kinds) and self.method in (None, method) else None


@pytest.mark.parametrize(
    "kinds",
    [
        ["slow"],
        pytest.param(["error"], marks=pytest.mark.exhaustive),
        pytest.param(["reset"], marks=pytest.mark.exhaustive),
        pytest.param(["slow", "error", "reset", "slow"], marks=pytest.mark.exhaustive),
    ],
)
def test_faults_that_pass_are_waited_for(server: ObjectServer, kinds: list[str]) -> None:
    url = f"{URL}/faults-{'-'.join(kinds)}"
    server.faults = Faults(kinds)
    assert same_frames(write_entry(FrameCache(url), 1, 40), 1)
    forget_here()
    server.faults = Faults(kinds)
    assert same_frames(FrameCache(url).get(key_of(1)), 1, 3, 38)  # type: ignore[arg-type]
    assert {503, 500, 0} & {one.status for one in server.requests}
    server.forget()
    assert [result.status for result in FrameCache(url).verify()] == ["ok"]


def test_an_answer_that_is_cut_is_fetched_again(server: ObjectServer) -> None:
    write_entry(FrameCache(f"{URL}/cut"), 1, 40)
    counts = []
    for kinds in ([], ["cut"]):
        forget_here()
        server.forget()
        server.faults = Faults(kinds, "GET")
        assert same_frames(FrameCache(f"{URL}/cut").get(key_of(1)), 1, 3, 38)  # type: ignore[arg-type]
        counts.append(len(server.requests))
    assert counts == [4, 8]


def test_a_store_that_stays_broken_is_one_clear_error(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 2)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # earlier ones try more often
    write_entry(FrameCache(f"{URL}/broken"), 1, 8)
    server.faults = lambda method, path: "error" if method == "PUT" else None
    with pytest.raises(CacheError, match=r"cannot write .*; try again later; its frames are safe in") as caught:
        write_entry(FrameCache(f"{URL}/broken"), 2, 8)
    assert "secret" not in str(caught.value)
    server.faults = lambda method, path: "error"
    with pytest.raises(CacheError, match=r"s3://bucket/frames/broken: cannot read .*internal error.*try again later"):
        FrameCache(f"{URL}/broken").get(key_of(1))
    server.forget()
    assert FrameCache(f"{URL}/broken").get(key_of(2)) is None
    assert same_frames(write_entry(FrameCache(f"{URL}/broken"), 2, 8), 2)


def test_no_object_holds_credentials(server: ObjectServer, caplog: pytest.LogCaptureFixture) -> None:
    import s3fs

    with caplog.at_level(logging.INFO):
        write_entry(FrameCache(f"{URL}/secrets"), 1, 8)
        FrameCache(f"{URL}/secrets").give_name(key_of(1).digest, "door")
        FrameCache(f"{URL}/secrets").verify()
    files = s3fs.S3FileSystem()
    everything = b"".join(files.cat(files.find("bucket/frames/secrets")).values())
    manifest = lzma.decompress(files.cat_file(files.glob("bucket/frames/secrets/manifests/*/*")[0]))
    for secret in ("an-access-key-id", "a-secret-access-key"):
        assert secret.encode() not in everything + manifest
        assert secret not in caplog.text


def test_wrong_buckets_and_forbidden_ones(server: ObjectServer) -> None:
    for use in (
        lambda cache: cache.get(key_of(1)),
        lambda cache: write_entry(cache, 1, 8),
        lambda cache: cache.entries(),
    ):
        with pytest.raises(CacheError, match="s3://no-such-bucket/p: there is no such bucket"):
            use(FrameCache("s3://no-such-bucket/p"))
