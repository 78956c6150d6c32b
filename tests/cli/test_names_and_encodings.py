"""Paths with a tilde, no home directory, names that are no text, and outputs that lack letters for what is printed."""

from __future__ import annotations

import io
import os
import pwd
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from voco_video.answer.clock import clock_text
from voco_video.answer.moments import format_seconds
from voco_video.cache import CacheKey, FrameCache
from voco_video.cli.ask import gather_questions
from voco_video.cli.encoding import print_whatever_the_encoding
from voco_video.errors import UsageError
from voco_video.files.paths import expanded, read_text_file


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has neither HOME nor an account, as containers run them."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "VOCO_VIDEO_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_home_folders_and_names_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert expanded("~/clip.mp4") == tmp_path / "home" / "clip.mp4"
    assert expanded("clip.mp4") == Path("clip.mp4")
    assert expanded("~clip.mp4") == Path("~clip.mp4"), "no user has this name, and none is asked for"
    assert expanded("~root") == Path(pwd.getpwnam("root").pw_dir)
    Path("~root").mkdir()
    assert expanded("~root") == Path("~root"), "what is there comes first"
    with pytest.raises(UsageError, match=r"no user 'nobody-there'; write \./~nobody-there/x"):
        expanded("~nobody-there/x")
    with pytest.raises(UsageError, match="nobody-there"):
        FrameCache("~nobody-there/x")


def test_without_a_home_directory(no_home: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no home directory is known.*--cache-dir"):
        FrameCache()
    with pytest.raises(UsageError, match="~/frames: no home directory is known; set HOME"):
        FrameCache("~/frames")
    assert FrameCache(tmp_path).cache_dir == tmp_path
    assert expanded("~clip.mp4") == Path("~clip.mp4")


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.exhaustive),
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.exhaustive),
        pytest.param({"LC_ALL": "C", "LANG": "C"}, marks=pytest.mark.exhaustive),
        {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "latin-1", "C", "C without UTF-8"],
)
def test_names_that_are_no_text_are_kept_and_printed(tmp_path: Path, environment: dict[str, str]) -> None:
    name = b"caf\xe9.mp4"
    facts = {"source": os.fsdecode(b"/videos/" + name), "sampling": "1 fps \u2192 all"}
    key = CacheKey("ab" * 32, "cd" * 32, {"form": "embeds"})
    with FrameCache(tmp_path / "cache").writer(key, facts=facts) as writer:
        writer.append({"embeds": torch.zeros(1, 2, 4)}, np.zeros(1))
        writer.finish()
    done = subprocess.run(
        [Path(sys.executable).parent / "voco-video", "cache", "ls", "--cache-dir", tmp_path / "cache"],
        env=os.environ | environment,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert name in done.stdout
    assert b"1 entry, " in done.stdout


def test_what_an_encoding_lacks_gets_a_plainer_look(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    print_whatever_the_encoding()
    print("── 1 → 2 … ▂▅█ ж\udce9", flush=True)
    assert written.getvalue() == b"-- 1 -> 2 ... _-# \\u0436\xe9\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_question_files_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    path = tmp_path / "questions.txt"
    path.write_bytes(f"{mark}who moves?\r\n\r\nwas ist grün?\r\n".encode(encoding))
    assert gather_questions(None, path, chat=False, json=False) == ["who moves?", "was ist grün?"]


def test_question_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    with pytest.raises(UsageError, match=r"questions\.txt: No such file"):
        read_text_file(path)
    path.write_bytes("grün".encode("latin-1"))
    with pytest.raises(UsageError, match=r"questions\.txt is not text in UTF-8 \(.* at byte 2\)"):
        read_text_file(path)
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(UsageError, match="not text"):
        read_text_file(path)


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [
        (0.0, "0:00.00"),
        (-0.001, "0:00.00"),
        (59.994, "0:59.99"),
        (59.996, "1:00.00"),
        (3599.996, "1:00:00.00"),
        (-0.5, "-0:00.50"),
        (-59.996, "-1:00.00"),
        (-3661.25, "-1:01:01.25"),
        (360000.0, "100:00:00.00"),
    ],
)
def test_times_print_right(seconds: float, clock: str) -> None:
    assert format_seconds(seconds) == clock


def test_the_clock_that_a_model_is_told_counts_whole_seconds() -> None:
    assert [clock_text(t) for t in (0.0, 59.996, 3723.5, -0.5, -60.0)] == [
        "[0:00:00]",
        "[0:00:59]",
        "[1:02:03]",
        "[-0:00:01]",
        "[-0:01:00]",
    ]


@pytest.mark.parametrize("command", [("inspect",), ("compress",), ("ask", "{}", "who?"), ("find", "{}", "who?")])
def test_errors_cannot_move_the_cursor(run, tmp_path: Path, command: tuple[str, ...]) -> None:
    name = "été\x1b[2J\r\u202egnp 1.mp4"
    (tmp_path / name).write_text("no video")
    parts = command if "{}" in command else (*command, "{}")
    code, _, err = run(*(part.format(name) for part in parts))
    assert code, err
    assert r"été\x1b[2J\r\u202egnp 1.mp4" in err, "what is not dangerous is as it was, on one line, to be copied"
    assert not set(err) & {"\x1b", "\r", "\u202e"}
