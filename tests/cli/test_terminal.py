"""Commands on a real (pseudo) terminal: nothing is wider, one line goes on, and nothing of it is left in the end."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers.terminals import PROGRAM, Seen, Terminal, read_screen, run_in_process, run_program
from voco_video.cli.progress import ProgressBar
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene
from voco_video.shapes.write_dataset import write_dataset

NAMES = [
    "clip.mp4",
    "日本語の長い名前のビデオファイル.mp4",
    "🎬 film.mp4",
    "a-very-long-name-" * 6 + "0001.mp4",
    "two words.mp4",
]
WIDTHS = (80, 40)
FOREIGN_BARS = re.compile(r"%\||it/s\]|Loading weights|Fetching \d")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five clips, of different bytes, in ``clips`` and a data set in ``set``."""
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "clips").mkdir()
    clip = write_clip(demo_scene(), folder / "one.mp4", size=64).read_bytes()
    for number, name in enumerate(NAMES):
        free_box = (9).to_bytes(4, "big") + b"free" + bytes([number])
        (folder / "clips" / name).write_bytes(clip + free_box)
    write_dataset(folder / "set", layout="msvd", num_videos=4, seed=0, questions_per_video=3, size=64)
    return folder


@pytest.fixture
def on_terminal(work: Path, monkeypatch: pytest.MonkeyPatch):
    """The program in a terminal, with what the tests of this file have cached."""
    monkeypatch.chdir(work)
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", str(work / "cache"))

    def call(columns: int, *arguments: object) -> Seen:
        seen = run_in_process(monkeypatch, columns, *arguments)
        assert seen.code == 0, seen.raw
        assert seen.widest <= columns, [line for line in seen.drawn if len(line) > columns]
        assert not FOREIGN_BARS.search(seen.raw)
        assert "\x1b[?25l" not in seen.raw, "a program that is killed would leave the terminal without a cursor"
        return seen

    return call


def rows_of(seen: Seen) -> list[str]:
    """The lines below the rule of the first table."""
    rule = next(n for n, line in enumerate(seen.screen) if re.fullmatch("─{10,}", line))
    return seen.screen[rule + 1 : seen.screen.index("", rule)]


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_folder_has_one_line_of_progress_and_one_line_a_video(on_terminal, columns):
    seen = on_terminal(columns, "compress", "clips", "--force")
    for number in range(1, 6):
        assert any(line.startswith(f"{number} of 5 · ") for line in seen.drawn), number
    assert any(re.fullmatch(r"[2-5] of 5 · .*\d+:\d\d left", line) for line in seen.drawn)
    assert any(line.startswith("loading voco-tiny") for line in seen.drawn)
    assert seen.screen[0].startswith("voco-tiny · voco K=8 embeds"), "the progress is gone"
    rows = rows_of(seen)
    assert len([row for row in rows if "KiB" in row]) == len(NAMES)
    assert rows[0].startswith("a-very"), "what can be cut is cut in its middle"
    assert "0001.mp4" in rows[0] or columns == 40
    found = on_terminal(columns, "find", "clips", "the star")
    assert found.screen[0].startswith("voco-tiny · voco K=8 embeds"), "no line for each video"
    assert not any("of 5" in line for line in found.screen)
    assert len(rows_of(found)) == 5


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    "command",
    [
        "models",
        "models voco-tiny",
        "cache ls",
        "inspect clips/clip.mp4",
        "ask clips/clip.mp4 'who is green?' 'where is it, and what is the colour of the square?' --show-frames",
        "compress clips/clip.mp4 --verbose",
        "compress clips/clip.mp4 --follow",
        "data check msvd --root set --list",
        "demo",
        "train",
    ],
)
def test_no_command_is_wider_than_its_terminal(on_terminal, command, columns):
    words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", command)]
    seen = on_terminal(columns, *words)
    assert any(seen.screen)


def test_evaluations_scores_and_comparisons(on_terminal):
    for columns in WIDTHS:
        out = f"eval-{columns}"
        how = "--root", "set", "--out", out, "--num-voco-tokens", "1,8"
        answered = on_terminal(columns, "eval", "msvd", *how)
        assert any("answering" in line for line in answered.drawn)
        assert not any("answering" in line for line in answered.screen)
        score = on_terminal(columns, "score", f"{out}/predictions-k8.jsonl")
        assert [row.split()[0] for row in rows_of(score)][:1] == [rows_of(answered)[0].split()[0]]
        assert any("all " in row for row in rows_of(score))
        compared = on_terminal(columns, "compare", f"{out}/predictions-k1.jsonl", f"{out}/predictions-k8.jsonl")
        assert len(rows_of(compared)) >= 2


def test_json_is_the_same_on_a_terminal(on_terminal, run):
    seen = on_terminal(40, "cache", "ls", "--json")
    assert "\x1b" not in seen.raw
    assert json.loads("\n".join(seen.screen)) == json.loads(run("cache", "ls", "--json")[1])


def plain_run(*arguments: str, cache: Path, folder: Path, **environment: str) -> bytes:
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    env |= {"VOCO_VIDEO_CACHE_DIR": str(cache), **environment}
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, env=env, cwd=folder, check=True)
    return done.stdout + done.stderr


def test_pipes_get_plain_text_and_nothing_is_cut(work, tmp_path):
    how = {"cache": tmp_path / "cache", "folder": work}
    printed = plain_run("compress", "clips", TERM="xterm-256color", COLUMNS="40", FORCE_COLOR="1", **how)
    text = printed.decode()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text), "no control characters, and no bars"
    assert all(sum(name in line for line in text.splitlines()) == 1 for name in NAMES)
    assert "…" not in text
    assert "left out" not in text
    assert all(column in text for column in ("entry", "frames", "tokens → kept", "ratio", "size", "seconds"))
    listed = plain_run("cache", "ls", **how)
    assert listed == plain_run("cache", "ls", TERM="dumb", NO_COLOR="1", LINES="9", COLUMNS="20", **how)


@pytest.mark.parametrize(
    ("environment", "encoding"),
    [
        ({"NO_COLOR": "1"}, "utf-8"),
        ({"TERM": "dumb"}, "utf-8"),
        ({"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
        ({"LC_ALL": "C", "LANG": "C"}, "utf-8"),
    ],
    ids=["NO_COLOR", "dumb", "ascii", "C"],
)
def test_plainer_terminals(environment, encoding):
    seen = run_program(80, "models", environment=environment, encoding=encoding)
    assert seen.code == 0
    assert seen.widest <= 80
    if encoding == "ascii":
        seen.raw.encode("ascii")
        assert "-----" in seen.raw
    else:
        assert "─────" in seen.raw
    assert ("\x1b" in seen.raw) == (not {"NO_COLOR", "TERM"} & set(environment))


@pytest.fixture
def stderr_of(monkeypatch: pytest.MonkeyPatch):
    """Standard error on a terminal; what was seen there is given when it is closed."""

    def opened(columns: int, encoding: str = "utf-8", **environment: str):
        terminal = Terminal(columns)
        for name in ("COLUMNS", "NO_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in ({"TERM": "xterm"} | environment).items():
            monkeypatch.setenv(name, value)
        stream = open(os.dup(terminal.slave), "w", encoding=encoding, errors="voco-video")  # noqa: SIM115
        monkeypatch.setattr("sys.stderr", stream)

        def seen() -> Seen:
            stream.close()
            return read_screen(0, terminal.close(), encoding)

        return terminal, seen

    return opened


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_bar_is_as_wide_as_there_is_room(stderr_of, columns, name):
    _, seen = stderr_of(columns)
    with ProgressBar(name, quiet=False) as bar:
        for done in (0, 10, 10_000):
            bar.show(done, 10_000)
            bar._progress.refresh()
        bar.show_state("another process is compressing this video; waiting for it")
        bar._progress.refresh()
    line = seen()
    assert line.widest < columns
    assert any("10000/10000" in one for one in line.drawn) == (columns >= 80)
    assert line.screen == ["", ""] or not any(line.screen)


def test_a_bar_follows_a_terminal_that_is_resized(stderr_of):
    terminal, seen = stderr_of(100)
    with ProgressBar("a-very-long-name-" * 6, quiet=False) as bar:
        bar.show_state("x" * 200)
        bar._progress.refresh()
        terminal.resize(30)
        bar._progress.refresh()
    widths = {len(line) for line in seen().drawn if line}
    assert 99 in widths
    assert min(widths) == 29


def test_bars_in_other_terminals(stderr_of):
    for environment in ({"TERM": "dumb"}, {"TERM": "unknown"}):
        _, seen = stderr_of(80, **environment)
        with ProgressBar("clip.mp4", quiet=False) as bar:
            bar.show(1, 2)
        assert seen().raw == ""
    _, seen = stderr_of(80, encoding="ascii", NO_COLOR="1")
    with ProgressBar("日本語 · clip.mp4", num_items=3, quiet=False) as bar:
        bar.begin("日本語 · clip.mp4")
        bar.show(1, 2)
        bar._progress.refresh()
    raw = seen().raw
    assert "1 of 3 | \\u65e5" in raw
    assert not re.search(r"\x1b\[[0-9;]*m", raw), "no colours"


def test_what_is_printed_beside_a_bar_stands_above_it_whole(stderr_of, capsys):
    import sys

    _, seen = stderr_of(40)
    path = "/a/folder/with a long name/" + "x" * 60 + ".mp4"
    with ProgressBar(num_items=2, quiet=False) as bar:
        bar.begin("clip.mp4")
        print(f"error: {path}: no such file", file=sys.stderr)
        bar._progress.refresh()
        bar.begin("next.mp4")
    screen = seen().screen
    assert screen[0] == f"error: {path}: no such file"
    assert not any(screen[1:])


def test_time_left_counts_what_took_work(stderr_of, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("voco_video.cli.progress.time.monotonic", lambda: now[0])
    _, seen = stderr_of(80)
    with ProgressBar(num_items=5, quiet=False) as bar:
        for number, (seconds, is_free) in enumerate([(0.0, True), (10.0, False), (20.0, False)]):
            bar.begin(f"{number}.mp4")
            now[0] += seconds
            bar.finish(is_free=is_free)
        bar.begin("3.mp4")
        bar._progress.refresh()
    assert "4 of 5 · 3.mp4 · 0:30 left" in seen().drawn
