"""Commands on a real (pseudo) terminal: nothing is wider, one line goes on, and nothing of it is left in the end."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.terminals import Seen, Terminal, read_screen, run_in_process, run_program
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


def test_a_folder_has_one_line_of_progress_and_one_line_a_video(on_terminal):
    seen = on_terminal(80, "compress", "clips")
    for number in range(1, 6):
        assert any(line.startswith(f"{number} of 5 · ") for line in seen.drawn), number
    assert any(re.fullmatch(r"[2-5] of 5 · .*\d+:\d\d left", line) for line in seen.drawn)
    assert any(line.startswith("loading voco-tiny") for line in seen.drawn)
    assert seen.screen[0].startswith("voco-tiny · voco K=8 embeds"), "the progress is gone"
    rows = rows_of(seen)
    assert len([row for row in rows if "KiB" in row]) == len(NAMES)
    assert rows[0].startswith("a-very-")
    assert "0001.mp4  " in rows[0], "what can be cut is cut in its middle"
    narrow = on_terminal(40, "compress", "clips")
    assert len([row for row in rows_of(narrow) if row.endswith("cached")]) == len(NAMES)
    for columns in WIDTHS:
        found = on_terminal(columns, "find", "clips", "the star")
        assert found.screen[0].startswith("voco-tiny · voco K=8 embeds"), "no line for each video"
        assert not any("of 5" in line for line in found.screen)
        assert len([row for row in rows_of(found) if "0:0" in row]) == 5


@pytest.mark.parametrize(
    ("command", "widths"),
    [
        ("models", WIDTHS),
        ("models voco-tiny", WIDTHS),
        ("train", WIDTHS),
        ("data check msvd --root set --list", WIDTHS),
        ("inspect clips/clip.mp4", WIDTHS),
        ("cache ls", (80,)),
        ("ask clips/clip.mp4 'who is green?' 'where is it, and what colour is the square?' --show-frames", WIDTHS),
        ("compress clips/clip.mp4 --verbose", (40,)),
        ("compress clips/clip.mp4 --follow --idle-seconds 0.2", (40,)),
        ("demo", (40,)),
    ],
    ids=lambda value: value.partition(" '")[0] if isinstance(value, str) else "",
)
def test_no_command_is_wider_than_its_terminal(on_terminal, command, widths):
    for columns in widths:
        assert any(on_terminal(columns, *shlex.split(command)).screen)


def test_evaluations_scores_and_comparisons(on_terminal):
    for columns in WIDTHS:
        answered = on_terminal(columns, "eval", "msvd", "--root", "set", "--out", "eval", "--num-voco-tokens", "1,8")
        assert any("answering" in line for line in answered.drawn)
        assert not any("answering" in line for line in answered.screen)
        score = on_terminal(columns, "score", "eval/predictions-k8.jsonl")
        assert any(row.startswith("all ") for row in rows_of(score))
        compared = on_terminal(columns, "compare", "eval/predictions-k1.jsonl", "eval/predictions-k8.jsonl")
        assert len(rows_of(compared)) >= 2


def test_training_has_one_line_too(on_terminal, tmp_path, caplog):
    values = {
        "model": "voco-tiny",
        "max_steps": 4,
        "global_batch_size": 2,
        "per_device_batch_size": 2,
        "num_turns": 1,
        "log_steps": 2,
        "eval_steps": 2,
        "eval_samples": 4,
        "report_to": [],
    }
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    seen = on_terminal(80, "train", "voco-tiny/image", *sets, "--out", tmp_path / "run")
    assert any(re.match(r"training, loss [\d.]+ .* [1-4]/4 steps", line) for line in seen.drawn), seen.drawn
    assert any(re.match(r"validating at step 2 .* \d+/\d+ samples", line) for line in seen.drawn), seen.drawn
    assert not any("{'" in line for line in seen.drawn), "the library's own lines"
    notes = [
        record.getMessage() for record in caplog.records if re.match(r"step [24] of 4: loss ", record.getMessage())
    ]
    assert len(notes) == 2, "which are printed above the line; here pytest takes them"
    assert not any(line.startswith(("training,", "validating at")) for line in seen.screen), "the line is gone"


def test_json_is_the_same_on_a_terminal(work, monkeypatch, run):
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", str(work / "cache"))
    for command in (["cache", "ls", "--json"], ["compress", work / "clips", "--json"]):
        seen = run_in_process(monkeypatch, 40, *command)
        expected = json.loads(run(*command)[1])
        assert "\x1b" not in seen.raw
        printed = json.loads("\n".join(seen.screen))
        if command[0] == "compress":
            assert [sorted(row) for row in printed] == [sorted(row) for row in expected]
        else:
            assert printed == expected


def test_pipes_get_plain_text_and_nothing_is_cut(work, monkeypatch, run):
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", str(work / "cache"))
    printed = []
    for environment in ({"TERM": "xterm-256color", "COLUMNS": "40", "FORCE_COLOR": "1"}, {"TERM": "dumb"}):
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            _, out, err = run("compress", work / "clips")
        _, again, _ = run("cache", "ls")
        printed.append((out.partition("\n")[2], again))  # the first line has seconds
        assert err == ""
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out + again), "no control characters, and no bars"
        assert all(sum(name in line for line in out.splitlines()) == 1 for name in NAMES)
        assert "…" not in out
        assert "left out" not in out
        assert all(column in out for column in ("entry", "frames", "tokens → kept", "ratio", "size", "seconds"))
    assert len(set(printed)) <= 2, "only the time that compressing took may differ"


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["plain", "NO_COLOR", "dumb"])
def test_styles_are_left_to_terminals_that_want_them(monkeypatch, environment):
    seen = run_in_process(monkeypatch, 80, "models", environment=environment)
    assert seen.code == 0
    assert seen.widest <= 80
    assert "─────" in seen.raw
    assert ("\x1b" in seen.raw) == (not environment)


def test_other_libraries_say_nothing_into_pipes():
    code = (
        "import sys; from voco_video.cli import main; sys.argv = ['voco-video', '--version']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "from tqdm import tqdm; list(tqdm(range(3)))\n"
        "from transformers.utils import logging; logging.get_logger('transformers.a').warning('install a kernel')"
    )
    unset = ("TQDM_DISABLE", "TRANSFORMERS_VERBOSITY")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept)
    assert done.stdout.startswith("voco-video ")
    assert done.stderr == ""


@pytest.mark.exhaustive
def test_terminals_without_unicode():
    environment = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    seen = run_program(80, "models", environment=environment, encoding="ascii")
    assert (seen.code, seen.widest <= 80, "-----" in seen.raw) == (0, True, True)
    seen.raw.encode("ascii")


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


def test_a_bar_that_begins_anew_forgets_the_total_of_before(stderr_of):
    _, seen = stderr_of(80)
    with ProgressBar(num_items=3, quiet=False) as bar:
        bar.begin("one.mp4")
        bar.show_bytes(5_000_000, 5_000_000)
        bar.show(12, 12)
        bar._progress.refresh()
        bar.begin("two.mp4")
        bar._progress.refresh()
        bar.show_bytes(1_000_000, None)  # of a server that does not say how long it will be
        bar._progress.refresh()
    drawn = seen().drawn
    for wanted in ("12 frames", "1.0 MB"):
        assert [line for line in drawn if wanted in line]
    assert not [line for line in drawn if " 0/" in line or "1.0/" in line]


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


def test_what_is_printed_beside_a_bar_stands_above_it_whole(stderr_of):
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
