"""The command line as a user meets it: output, exit codes, errors in one line, machine-readable JSON."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers.drawn_texts import drawn_by_pil
from voco_video import cli
from voco_video.cli.compress import expand_paths
from voco_video.errors import UsageError
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(demo_scene(), tmp_path_factory.mktemp("clips") / "clip.mp4", size=96)


@pytest.fixture
def run(run, monkeypatch):
    """The program, and somebody who types lines into it."""

    def call(*arguments, stdin: str | None = None):
        if stdin is not None:
            lines = iter(stdin.splitlines())

            def typed(prompt=""):
                print(prompt, end="")
                try:
                    return next(lines)
                except StopIteration:
                    raise EOFError from None

            monkeypatch.setattr("builtins.input", typed)
        return run(*arguments)

    return call


def test_compress_prints_a_table_and_the_second_run_is_a_hit(run, clip):
    code, out, _ = run("compress", clip, "--fps", "2")
    assert code == 0
    header, row = (line for line in out.splitlines() if "clip" in line or "ratio" in line)
    for column in ("frames", "tokens → kept", "ratio", "size", "seconds"):
        assert column in header
    assert "16" in row
    assert "1024 → 128" in row
    assert "cached" not in row
    code, out, _ = run("compress", clip, "--fps", "2")
    assert code == 0
    assert "decode" not in out
    assert out.splitlines()[-2].endswith("cached")
    out = run("compress", clip, "--fps", "2", "--force", "--verbose")[1]
    assert "decode  wait  vision   llm  write  total" in out


def test_compress_json_is_the_whole_truth(run, clip):
    code, out, err = run("compress", clip, "--num-frames", "4", "--num-voco-tokens", "2", "--json")
    (row,) = json.loads(out)
    assert (code, err) == (0, "")
    assert (row["num_frames"], row["kept_tokens"], row["vision_tokens"], row["ratio"]) == (4, 8, 256, 32)
    assert row["from_cache"] is False
    assert len(row["digest"]) == 64
    assert set(row["seconds"]) >= {"decode", "vision", "llm", "write", "total"}
    assert row["first_pts_seconds"] == 1.0


def test_folders_and_patterns(run, clip, tmp_path):
    folder = tmp_path / "videos" / "deep"
    folder.mkdir(parents=True)
    (folder / "one.mp4").write_bytes(clip.read_bytes())
    write_clip(demo_scene(), tmp_path / "videos" / "two.MKV".lower(), size=64)
    (folder / "notes.txt").write_text("no video")
    names = [p.name for p in expand_paths([str(tmp_path / "videos")])]
    assert sorted(names) == ["one.mp4", "two.mkv"]
    assert [p.name for p in expand_paths([str(tmp_path / "videos" / "*.mkv")])] == ["two.mkv"]
    assert len(expand_paths([str(folder), str(folder / "one.mp4")])) == 1, "a file named twice is compressed once"
    for wrong in (str(tmp_path / "*.mpg"), str(tmp_path / "videos" / "deep" / "empty")):
        Path(tmp_path / "videos" / "deep" / "empty").mkdir(exist_ok=True)
        with pytest.raises(UsageError):
            expand_paths([wrong])


def test_one_bad_file_among_many_is_reported_and_the_rest_is_done(run, clip, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("not a video")
    code, out, err = run("compress", bad, clip, "--json")
    assert code == 1
    assert [row["path"] for row in json.loads(out)] == [str(clip)]
    assert "bad.mp4" in err
    assert "1 of 2 files failed" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compress", "none.mp4"], 2, "none.mp4: no such file"),
        (["compress", "{clip}", "--fps", "0"], 2, "--fps 0.0: has to be above 0"),
        (["compress", "{clip}", "--fps", "1", "--num-frames", "3"], 2, "--fps 1.0 and --num-frames 3: choose one way"),
        (["compress", "{clip}", "--start", "5", "--end", "3"], 2, "--start 5.0 is not before --end 3.0"),
        (["compress", "{clip}", "--start", "500"], 2, "500"),
        (["compress", "{clip}", "--timestamps", "1,x"], 2, "--timestamps 1,x: give seconds"),
        (["compress", "{clip}", "--num-voco-tokens", "99"], 2, "--num-voco-tokens 99"),
        (["compress", "{clip}", "--form", "pixels"], 2, "--form pixels is not one of kv, embeds"),
        (["compress", "{clip}", "--model", "nobody/nothing"], 1, "nobody/nothing"),
        (["compress", "{clip}", "--device", "warp"], 2, "--device warp"),
        (["compress", "{clip}", "--batch-size", "0"], 2, "--batch-size 0"),
        (["compress", "{clip}", "--no-such-option"], 2, "--no-such-option"),
        (["compress"], 2, "PATH..."),
        (["compress", "{clip}", "--cache-dir", "{clip}"], 2, "not a file"),
        (["ask", "{clip}"], 2, "nothing to answer"),
        (["ask", "{clip}", ""], 2, "empty"),
        (["ask", "{clip}", "what?", "--chat", "--json"], 2, "--chat"),
        (["ask", "{clip}", "--questions", "none.txt"], 2, "none.txt"),
        (["ask", "{clip}", "what?", "--start", "300"], 2, "--start 300.0 is beyond the end"),
        (["ask", "{clip}", "what?", "--num-voco-tokens", "9"], 2, "--num-voco-tokens 9"),
        (["ask", "abcdef", "what?"], 2, "abcdef"),
        (["inspect", "none.mp4"], 2, "none.mp4"),
        (["inspect", "{clip}", "--max-frames", "0"], 2, "--max-frames 0"),
        (["cache", "info", "abcdef"], 2, "abcdef"),
        (["cache", "rm", "abcdef"], 2, "abcdef"),
        (["cache", "prune", "--max-size", "lots"], 2, "--max-size 'lots'"),
    ],
)
def test_a_users_mistake_is_one_clear_line(run, clip, arguments, code, message):
    got, out, err = run(*(a.format(clip=clip) for a in arguments))
    assert (got, message in err, "Traceback" in err, out) == (code, True, False, ""), err


def test_ask_several_questions_in_a_window(run, clip, tmp_path):
    (tmp_path / "questions.txt").write_text("how many shapes are there?\n\nwhere is the star?\n")
    arguments = ["ask", clip, "what moves?", "--questions", "questions.txt", "--start", "2", "--end", "5"]
    code, out, err = run(*arguments, "--num-voco-tokens", "1", "--max-new-tokens", "4", "--json")
    assert code == 0, err
    answers = json.loads(out)["answers"]
    assert json.loads(out)["generation"] == {"temperature": 0.0, "differs_from_checkpoint": ""}
    assert [a["question"] for a in answers] == ["what moves?", "how many shapes are there?", "where is the star?"]
    assert {(a["num_frames"], a["num_voco_tokens"]) for a in answers} == {(3, 1)}
    code, out, err = run(*arguments, "--max-new-tokens", "4")
    assert out.count("> ") == 3
    assert err.startswith("voco-tiny · voco K=8 embeds · 8 frames at 1 fps · cached\n")


def test_a_question_that_is_too_long_is_named_and_the_others_are_asked(run, clip, tmp_path):
    long = "what moves " * 20000
    code, out, err = run("ask", clip, long)
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert "the question 'what moves what" in err
    assert "but the model reads" in err
    (tmp_path / "questions.txt").write_text(f"what moves?\n{long}\nwhere is the star?\n", encoding="utf-8-sig")
    code, out, err = run("ask", clip, "--questions", "questions.txt", "--max-new-tokens", "4", "--json")
    assert code == 1
    assert [a["question"] for a in json.loads(out)["answers"]] == ["what moves?", "where is the star?"]
    assert "1 of 3 questions were not asked" in err
    code, _, err = run("ask", clip, long, long + "x")
    assert code == 2
    assert "none of the 2 questions" in err


def test_show_frames_prints_a_strip_and_writes_a_picture(run, clip, tmp_path):
    from PIL import Image

    code, out, err = run("ask", clip, "where is the star?", "--show-frames", "--max-new-tokens", "4")
    assert code == 0, err
    assert "0:00.00 |" in out
    assert "of the attention on the video" in out
    picture = Image.open(tmp_path / "clip-frames.png")
    assert picture.width > 300
    assert len(picture.getcolors(1 << 24)) > 50, "the frames themselves are in the picture"
    code, out, err = run("ask", clip, "a?", "b?", "--show-frames", "--out", "x.png", "--max-new-tokens", "2", "--json")
    assert sorted(p.name for p in tmp_path.glob("x-*.png")) == ["x-1.png", "x-2.png"]
    shares = [frame["attention"] for frame in json.loads(out)["answers"][0]["frames"]]
    assert sum(shares) == pytest.approx(1)
    pictures = set(tmp_path.glob("*.png"))
    assert run("ask", clip, "a?", "--show-frames", "--max-new-tokens", "2", "--json")[0] == 0
    assert set(tmp_path.glob("*.png")) == pictures, "a program that asks for facts gets no picture"


def test_show_frames_without_the_file_still_draws(run, clip, tmp_path):
    copy = tmp_path / "gone.mp4"
    copy.write_bytes(clip.read_bytes() + b"\0")
    _, out, _ = run("compress", copy, "--json")
    digest = json.loads(out)[0]["digest"]
    copy.unlink()
    code, _, err = run("ask", digest[:12], "what moves?", "--show-frames", "--max-new-tokens", "2")
    assert code == 0, err
    assert (tmp_path / "gone-frames.png").stat().st_size > 500


def test_chat_keeps_the_conversation(run, clip):
    code, out, err = run("ask", clip, "what moves?", "--chat", "--max-new-tokens", "3", stdin="and where to?\n\n")
    assert code == 0, err
    assert out.count("> ") == 3
    assert "> what moves?" in out


def test_inspect_draws_a_contact_sheet(run, clip, tmp_path):
    from PIL import Image

    run("compress", clip)
    code, out, err = run("inspect", clip, "--num-frames", "5")
    assert code == 0, err
    assert "h264" in out
    assert out.endswith("\n5 frames sampled\n")
    assert list(tmp_path.glob("*.png")) == [], "facts alone were asked for"
    code, out, err = run("inspect", clip, "--num-frames", "5", "-o", "pictures/clip-sheet.png")
    assert (code, err) == (0, "")
    assert out.endswith("5 frames sampled: pictures/clip-sheet.png\n")
    assert "voco K=8 embeds" in out, "the entry's facts are there"
    assert Image.open(tmp_path / "pictures/clip-sheet.png").width > 400
    code, out, _ = run("inspect", clip, "--json", "-o", "sheet.png", "--max-frames", "3")
    facts = json.loads(out)
    assert (facts["num_sampled_frames"], facts["contact_sheet"]) == (8, "sheet.png")
    assert json.loads(run("inspect", clip, "--json")[1])["contact_sheet"] is None
    assert len(facts["entries"]) == 1


def test_cache_commands(run, clip):
    assert "0 entries" in run("cache", "ls")[1]
    digest = json.loads(run("compress", clip, "--json")[1])[0]["digest"]
    assert digest[:8] in run("cache", "ls")[1]
    assert json.loads(run("cache", "ls", "--json")[1])["entries"][0]["digest"] == digest
    info = json.loads(run("cache", "info", digest[:8], "--json")[1])
    assert info["facts"]["source"] == str(clip)
    assert "1 ok, 0 damaged" in run("cache", "verify")[1]
    segment = next(Path(info["directory"]).glob("*.safetensors"))
    segment.write_bytes(segment.read_bytes()[:-1])
    code, out, _ = run("cache", "verify")
    assert (code, "damaged" in out) == (1, True)
    code, _, err = run("compress", clip)
    assert (code, "--force" in err) == (1, True)
    assert run("compress", clip, "--force")[0] == 0
    assert run("cache", "rm", digest[:8])[1].startswith(f"removed {digest[:12]} (clip.mp4, voco-tiny, voco K=8 ")
    run("compress", clip)
    assert "removed: 1 entry" in run("cache", "prune", "--max-size", "0")[1]
    assert "0 entries" in run("cache", "ls")[1]


def test_demo_twice(run):
    with drawn_by_pil() as drawn:
        code, out, err = run("demo")
    assert code == 0, err
    said = " ".join(drawn.texts)
    assert "clip.mp4 · voco-tiny · voco K=8 embeds · 8 frames at 1 fps" in said, "the strip says what it is of"
    assert "cached" not in out
    code, out, _ = run("demo")
    assert "cached" in out
    assert Path("voco-video-demo/where-it-looked.png").is_file()
    facts = json.loads(run("demo", "--json")[1])
    assert len(facts["answers"]) == 8


def test_every_command_has_help_with_examples():
    runner = CliRunner()
    commands = [
        ["compress"],
        ["ask"],
        ["inspect"],
        ["demo"],
        ["train"],
        ["eval"],
        ["score"],
        ["compare"],
        ["models"],
        ["convert"],
        *(["cache", c] for c in ("ls", "info", "name", "verify", "rm", "prune")),
        *(["data", c] for c in ("synth", "check")),
    ]
    for command in commands:
        shown = runner.invoke(cli.app, [*command, "--help"])
        assert shown.exit_code == 0
        assert f"voco-video {' '.join(command)}" in shown.output.split("Examples:")[1], command


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['voco-video', '--help']\n"
        "from voco_video.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'av', 'PIL', 'blake3'} & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr.strip() == "[]"


@pytest.mark.slow
def test_ctrl_c_keeps_whole_batches_and_says_how_to_go_on(clip, tmp_path, monkeypatch, run):
    """In a real terminal: progress bar, Ctrl-C in the middle, message, resume."""
    command = [sys.executable, "-c", _SLOW_COMPRESS, "compress", str(clip), "--fps", "10", "--batch-size", "2"]
    environment = os.environ | {"VOCO_VIDEO_CACHE_DIR": str(tmp_path / "cache")}
    master, slave = pty.openpty()
    # tqdm draws nothing on a terminal without a width: 24 rows of 100 columns.
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    # A test run started in the background ignores SIGINT, and would hand that down.
    child = subprocess.Popen(
        command,
        stdout=slave,
        stderr=slave,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(slave)
    seen = b""
    while b" 4/80 " not in seen:
        seen += os.read(master, 4096)
    child.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(master, 4096):
            seen += chunk
            if b" 40/80 " in chunk:  # Python loses an interrupt that comes while an object is let go of: press again
                child.send_signal(signal.SIGINT)
    except OSError:  # the terminal closes with the program
        pass
    assert child.wait(60) == 130
    assert b"the same command goes on from there" in seen
    assert b"Traceback" not in seen
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", environment["VOCO_VIDEO_CACHE_DIR"])
    code, out, err = run(*command[3:], "--json")
    assert code == 0, err
    row = json.loads(out)[0]
    assert 0 < row["num_resumed_frames"] < row["num_frames"] == 80


_SLOW_COMPRESS = """
import time
from voco_video.model.voco import VocoModel
compress = VocoModel.compress
VocoModel.compress = lambda *args, **kwargs: time.sleep(0.2) or compress(*args, **kwargs)
from voco_video.cli import main
main()
"""
