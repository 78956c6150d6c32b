"""Mistakes at the command line: one line each, the right exit code, and no torch where none is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from voco_video.cache.names import EntryNames
from voco_video.cache.paths import CachePaths
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene

# What is wrong, the exit code, and a part of the message. All of it is seen before torch is imported.
LIGHT = [
    ("ask none.mp4 what?", 2, "none.mp4: no such file"),
    ("ask clpi.mp4 what?", 2, "did you mean clip.mp4?"),
    ("ask . what?", 2, ". is a folder; give the video files in it"),
    ("ask what? clip.mp4", 2, "'what?' is no file, but 'clip.mp4' is: the video comes first"),
    ("ask clip.mp4 copy.mp4 what?", 2, "'copy.mp4' is a file, and no question"),
    ("ask clip.mp4", 2, "nothing to answer"),
    ("ask clip.mp4 what? --start 100", 2, "--start 100.0 is beyond the end: clip.mp4 runs from 0 to 8 s"),
    ("ask clip.mp4 what? --end 0", 2, "--end 0.0 is before the beginning"),
    ("ask clip.mp4 what? --start 5 --end 4", 2, "--start 5.0 is not before --end 4.0"),
    ("ask clip.mp4 what? --fps 0", 2, "--fps 0.0: has to be above 0"),
    ("ask clip.mp4 what? --num-voco-tokens 9", 2, "--num-voco-tokens 9: this model has 8"),
    ("ask clip.mp4 what? --num-voco-tokens 4 --compressor full", 2, "--num-voco-tokens 4 is for compressor 'voco'"),
    ("ask clip.mp4 what? --form embed", 2, "--form embed is not one of kv, embeds; did you mean embeds?"),
    ("ask clip.mp4 what? --compressor vcoo", 2, "did you mean voco?"),
    ("ask clip.mp4 what? --policy relevent", 2, "did you mean relevant?"),
    ("ask clip.mp4 what? --decoder pyva", 2, "did you mean pyav?"),
    ("ask clip.mp4 what? --model ./none", 2, "no checkpoint './none': no such folder"),
    ("ask clip.mp4 what? --model clip.mp4", 2, "clip.mp4 is no folder, so it is not a checkpoint folder"),
    ("ask clip.mp4 what? --out x.png", 2, "--out x.png: nothing is drawn without --show-frames"),
    ("ask clip.mp4 --chat --show-frames", 2, "--show-frames"),
    ("ask clip.mp4 --chat --json", 2, "--chat talks to a person"),
    ("ask 37987 what? --fps 9 --form kv", 2, "--fps, --form: 37987 is an entry of the cache"),
    ("ask flower what? --compressor full --batch-size 4", 2, "--compressor, --batch-size: flower is an entry"),
    ("ask 3f9a2c41 what?", 2, "starts with '3f9a2c41'"),
    ("ask flowr what?", 2, "flowr: no such file, and no entry of the cache has that name; did you mean flower?"),
    ("ask twins.mp4 what? --device cdua", 2, "--device cdua is no device"),
    ("ask clip.mp4 what? --device cuda:x", 2, "--device cuda:x is no device"),
    ("ask clip.mp4 what? --model voco-tny", 2, "Did you mean voco-tiny?"),
    ("ask clip.mp4 what? --model ./plain --num-voco-tokens 4", 2, "--num-voco-tokens 4: ./plain has no VoCo tokens"),
    ("find none.mp4 star", 2, "none.mp4: no such file"),
    ("find *.mpg star", 2, "'*.mpg' matches no file"),
    ("find plain star", 2, "plain: no video files in this folder"),
    ("find clip.mp4", 2, "give one video or more, and then what to look for"),
    ("find star clip.mp4", 2, "videos come first, then what to look for"),
    ("find clip.mp4 the red star", 2, 'put quotes around it: "the red star"'),
    ("find clip.mp4 star --start 100", 2, "--start 100.0 is beyond the end"),
    ("find clip.mp4 star --num-moments 0", 2, "--num-moments 0"),
    ("find flower a759 star --num-frames 4", 2, "--num-frames: flower is an entry of the cache"),
    ("find 81b04e77 star", 2, "starts with '81b04e77'"),
    ("find clip.mp4 star --model ./none", 2, "no checkpoint './none'"),
    ("compress none.mp4", 2, "none.mp4: no such file"),
    ("compress *.mpg", 2, "'*.mpg' matches no file"),
    ("compress clip.mp4 --start 100", 2, "--start 100.0 is beyond the end"),
    ("compress clip.mp4 --num-voco-tokens 9", 2, "--num-voco-tokens 9"),
    ("compress clip.mp4 --fps 1 --num-frames 2", 2, "choose one way"),
    ("compress clip.mp4 --compressor pool", 2, "--compressor pool: say how many tokens"),
    ("compress clip.mp4 --storage int4", 2, "did you mean int8?"),
    ("compress clip.mp4 --resume", 2, "--resume goes with --follow"),
    ("compress clip.mp4 --name flower", 2, "--name flower is the name of entry 3798762cdf4b already"),
    ("compress clip.mp4 --name a/b", 2, "--name a/b looks like a path"),
    ("compress clip.mp4 --name copy.mp4", 2, "--name copy.mp4 is a file here"),
    ("compress clip.mp4 copy.mp4 --name two", 2, "--name two: 2 videos cannot all have one name"),
    ("compress none.ts --follow", 2, "none.ts: no such file; start the recording first"),
    ("compress clpi.mp4 --follow", 2, "did you mean clip.mp4?"),
    ("compress . --follow", 2, ". is a folder"),
    ("compress clip.mp4 --model ./plain --num-voco-tokens 2", 2, "choose how many vision tokens a frame keeps with"),
    ("compress clip.mp4 --model voco-tny/", 2, "no checkpoint"),
    ("inspect none.mp4", 2, "none.mp4: no such file"),
    ("inspect . ", 2, ". is a folder"),
    ("ask clip.mp4 what? --show-frames --out x.txt", 2, "--out x.txt: the name of a picture ends with .png"),
    ("ask clip.mp4 what? --show-frames why.png", 2, "'why.png' looks like a file's name, and is no question"),
    ("ask clip.mp4 none.mp4 what?", 2, "'none.mp4' looks like a file's name"),
    ("find clip.mp4 star strip.png", 2, "a picture's name stands behind --out"),
    ("models smolvlm2-500", 2, "Did you mean smolvlm2-500m"),
    ("models ./none", 2, "no checkpoint './none'"),
    ("find clip.mp4 star --out moments", 2, "--out moments: the name of a picture ends with .png"),
    ("inspect clip.mp4 --out sheet.pdf", 2, "--out sheet.pdf: the name of a picture ends with .png"),
    ("inspect clip.mp4 --max-frames 5", 2, "--max-frames 5: nothing is drawn without --out FILE"),
    ("inspect clip.mp4 --max-frames 0", 2, "--max-frames 0"),
    ("inspect clip.mp4 --start 100", 2, "--start 100.0 is beyond the end"),
    ("inspect clip.mp4 --compressor voko", 2, "did you mean voco?"),
    ("cache ls --cache-dir none", 2, "--cache-dir none: no such folder"),
    ("cache info 3f9a2c41 --cache-dir none", 2, "--cache-dir none"),
    ("cache verify --cache-dir none", 2, "--cache-dir none"),
    ("cache rm 3f9a2c41 --cache-dir none", 2, "--cache-dir none"),
    ("cache prune --cache-dir none", 2, "--cache-dir none"),
    ("cache prune --max-size lots", 2, "--max-size 'lots'"),
    ("cache prune --max-size 5X --dry-run", 2, "--max-size '5X' is no size"),
    ("cache prune --max-size -1", 2, "--max-size"),
    ("cache ls --sort sise", 2, "did you mean size?"),
    ("cache ls --older-than 30", 2, "--older-than '30' is no length of time"),
    ("cache ls --video none.mp4", 2, "is of none.mp4"),
    ("cache info 81b04e77", 2, "starts with '81b04e77'"),
    ("cache info 379", 2, "give at least 4 digits"),
    ("cache info flowr", 2, "has the name 'flowr'; did you mean flower?"),
    ("cache info twins.mp4", 2, "2 cache entries are of twins.mp4; give the digest of one: "),
    ("cache verify 81b04e77", 2, "starts with '81b04e77'"),
    ("cache rm none.mp4", 2, "is of none.mp4"),
    ("cache rm https://host/none.mp4", 2, "is of https://host/none.mp4"),
    ("cache name 3798", 2, "give a new name, or --remove"),
    ("cache name 3798 rose --remove", 2, "--remove takes the name away"),
    ("cache name a759 flower", 2, "is the name of entry 3798762cdf4b already"),
    ("cache name a759 clip.mp4", 2, "is a file here"),
    ("cache name 81b04e77 rose", 2, "starts with '81b04e77'"),
    ("score none.jsonl", 2, "none.jsonl: no such file"),
    ("score none", 2, "none: no such file"),
    ("score .", 2, ". is a folder"),
    ("score predictions.jsonl --split val", 2, "name it with --references"),
    ("compare predictions.jsonl none.jsonl", 2, "none.jsonl: no such file"),
    ("eval msvd --root none", 2, "none: no such folder"),
    ("eval msdv --root .", 2, "did you mean msvd?"),
    ("eval msvd --root . --split tets", 2, "did you mean test?"),
    ("eval msvd --root .", 1, "no annotations of the test split"),
    ("eval msvd --root . --device warp", 2, "--device warp is no device"),
    ("eval msvd --root . --num-voco-tokens 1,99", 2, "--num-voco-tokens 99: this model has 8"),
    ("eval msvd --root . --model ./none", 2, "no checkpoint './none'"),
    ("eval msvd --root . --answer-by letters", 2, "did you mean letter?"),
    ("train no-such-recipe", 2, "no-such-recipe"),
    ("train --resume", 2, "name a recipe"),
    ("train onw-clips", 2, "did you mean own-clips?"),
    ("train own-clips --set num_frmaes=3", 2, "did you mean 'num_frames'?"),
    ("train own-clips --set stage=vidoe", 2, "did you mean video?"),
    ("train own-clips --set dataset=msdv", 2, "did you mean msvd?"),
    ("train own-clips --set dataset=none.json", 2, "none.json: no such file"),
    ("train own-clips --set dataset=predictions.json", 2, "did you mean predictions.jsonl?"),
    ("train own-clips --set dataset=msvd --set media_dir=none", 2, "none: no such folder"),
    ("train voco-tiny/image --set model=voco-tny", 2, "Did you mean voco-tiny?"),
    ("train voco-tiny/image --set num_frames", 2, "give key=value"),
    ("push none me/mine", 2, "none: no such folder; what is published is a checkpoint's folder"),
    ("push plain me/mine none.json", 2, "none.json: no such file"),
    ("card palin", 2, "palin: no such folder; did you mean plain?"),
    ("card none", 2, "none: no such folder"),
    ("convert none --out made", 2, "no checkpoint 'none'"),
]

# Runs each command in one process, which has imported no torch as yet, and tells what it printed.
_RUN_ALL = """
import contextlib, io, json, sys
from voco_video.cli import main
for line in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["voco-video", *line.split()]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue(), "torch" in sys.modules]), flush=True)
    if "torch" in sys.modules:
        break  # what comes after could not be told
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    clip = write_clip(demo_scene(), folder / "clip.mp4", size=96)
    (folder / "copy.mp4").write_bytes(clip.read_bytes())
    (folder / "predictions.jsonl").write_text('{"question_id": "1", "prediction": "a"}\n')
    (folder / "plain").mkdir()
    (folder / "plain" / "config.json").write_text('{"model_type": "llava"}')
    shutil.copytree(Path(__file__).parents[1] / "cache" / "written_before" / "cache", folder / "cache")
    names = EntryNames(CachePaths(folder / "cache"))
    names.give("flower", "3798762cdf4bf1f1315b95c4735070670a2cb0e922d175479a5ad2cc92e2a973")
    source = str(folder.resolve() / "twins.mp4")  # which is gone
    for number in "12":
        twin = folder / "cache" / (number * 2) / (number * 64)
        twin.mkdir(parents=True)
        its_key = {"video_digest": "ab" * 32, "model_fingerprint": number * 64, "settings": {}}
        (twin / "manifest.json").write_text(json.dumps({"key": its_key, "facts": {"source": source}}))
    return folder


@pytest.fixture(scope="module")
def printed(folder) -> dict[str, list]:
    """What every command of `LIGHT` printed, with its exit code, and whether torch was imported."""
    lines = [line for line, _, _ in LIGHT]
    ran = subprocess.run(
        [sys.executable, "-c", _RUN_ALL],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"VOCO_VIDEO_CACHE_DIR": str(folder / "cache")},
        check=True,
    )
    return dict(zip(lines, map(json.loads, ran.stdout.splitlines()), strict=False))


@pytest.mark.parametrize(("line", "code", "message"), LIGHT, ids=[line for line, _, _ in LIGHT])
def test_a_mistake_is_one_line_before_torch_is_imported(printed, line, code, message):
    assert line in printed, "an earlier command imported torch"
    got, out, err, has_torch = printed[line]
    assert (got, out, has_torch) == (code, "", False), err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err


def test_words_that_only_look_like_one_question_are_asked(run, folder):
    code, out, err = run("ask", folder / "clip.mp4", "who?", "where?", "--max-new-tokens", "1", "--json")
    assert code == 0, err
    assert [answer["question"] for answer in json.loads(out)["answers"]] == ["who?", "where?"]


def test_a_cache_that_is_not_there_yet_is_empty(run):
    code, out, _ = run("cache", "ls")
    assert code == 0
    assert "0 entries" in out
