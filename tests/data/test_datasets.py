"""Loaders: the genuine files count as published, what we write is what we read, and faults are named."""

from __future__ import annotations

import csv
import itertools
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from voco_video.data.conversations import load_conversations
from voco_video.data.registry import load_dataset, load_video_set
from voco_video.data.samples import Dataset, Media, Sample, Turn
from voco_video.data.video_qa import ACTIVITYNET_TYPES, PUBLISHED_SIZES, read_mapping
from voco_video.errors import DataError, UsageError
from voco_video.shapes.samples import draw_turns
from voco_video.shapes.world import SPLITS, draw_scene, scene_rng
from voco_video.shapes.write_dataset import write_dataset

MSVD_ROW = {"answer": "man", "id": 7, "question": "who runs?", "video_id": 1}


def write(path: Path, content: Any) -> Path:
    """Rows as JSON, text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for who, text in zip(itertools.cycle(("human", "gpt")), texts)]


def asked(dataset: Dataset) -> list[tuple[str, str, str]]:
    return [(sample.name, turn.question, turn.answer) for sample, turn in dataset.questions()]


# --- the genuine files


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("dataset", "split"), [key for key in PUBLISHED_SIZES if key != ("msrvtt", "train")])
def test_genuine_splits_have_the_published_sizes(shared: Path, dataset: str, split: str) -> None:
    loaded = load_video_set(dataset, shared / f"annotations/{dataset}-qa", split=split)
    size = PUBLISHED_SIZES[dataset, split]
    assert (len(loaded.samples), loaded.num_questions) == (size.num_samples, size.num_questions)
    assert len(loaded.missing) == size.num_samples
    turns = [turn for _, turn in loaded.questions()]
    assert [turn.row for turn in turns] == list(range(len(turns)))
    assert len({turn.question_id for turn in turns}) == len(turns)
    assert all(turn.question.endswith(("?", ".")) and turn.answer for turn in turns)


def test_genuine_question_types(shared: Path) -> None:
    msvd = load_video_set("msvd", shared / "annotations/msvd-qa")
    # As published: what 8149, who 4552, how 370, when 58, where 28.
    types = Counter(turn.question_type for _, turn in msvd.questions())
    assert types == {"what": 8149, "who": 4552, "how": 370, "when": 58, "where": 28}
    activitynet = load_video_set("activitynet", shared / "annotations/activitynet-qa")
    types = Counter(turn.question_type for _, turn in activitynet.questions())
    assert [types[name] for name in ACTIVITYNET_TYPES] == [800, 800, 800, 2094, 697, 318, 386, 606, 1499]


def test_every_msvd_layout_says_the_same(shared: Path) -> None:
    folder = shared / "annotations/msvd-qa"
    hqga, pair, single = (
        load_video_set("msvd", folder, annotations=folder / name)
        for name in ("hqga_test.csv", "videollava_test_q.rebuilt.json", "chatunivi_msvd_qa.json")
    )
    assert [path.name for path in pair.annotations] == [
        "videollava_test_q.rebuilt.json",
        "videollava_test_a.rebuilt.json",
    ]
    assert asked(pair) == asked(single)
    assert [turn.question_id for _, turn in pair.questions()] == [turn.question_id for _, turn in single.questions()]
    # The CSV has lost hyphens and apostrophes in 19 questions, nothing else.
    assert [(name, answer) for name, _, answer in asked(hqga)] == [(name, answer) for name, _, answer in asked(pair)]
    assert sum(one != other for one, other in zip(asked(hqga), asked(pair))) == 19


def test_both_msrvtt_layouts_say_the_same(shared: Path) -> None:
    folder = shared / "annotations/msrvtt-qa"
    original, hqga = (
        load_video_set("msrvtt", folder, split="val", annotations=folder / name)
        for name in ("val_qa.rebuilt_from_igvlm.json", "hqga_val.csv")
    )
    assert original.samples == hqga.samples
    assert original.samples[0].name == "video6513"


def test_real_clip_is_found_under_its_mapped_name(shared: Path) -> None:
    loaded = load_video_set("msvd", shared / "clips", split="train", annotations=shared / "annotations/msvd-qa")
    (sample,) = (sample for sample in loaded.samples if sample.has_all_media)
    assert sample.media == (Media("video", "QzulzuWr0Zw_20_45", shared / "clips/msvd/QzulzuWr0Zw_20_45.mp4"),)
    assert Turn("how many kids are rowing on a makeshift raft?", "four", "22409", "how", 22409) in sample.turns


def test_genuine_mapping(shared: Path) -> None:
    names = read_mapping(shared / "annotations/msvd-qa/youtube_mapping.txt")
    assert len(names) == len(set(names.values())) == 1970
    assert (names["vid1"], names["vid1970"]) == ("-4wsuPCjDBc_5_15", "zzit5b_-ukg_5_20")


def test_genuine_instruction_rows(shared: Path, tmp_path: Path) -> None:
    rows = json.loads((shared / "annotations/instruct/quoted_rows.json").read_text())
    llava, video_instruct = rows["llava_mix665k_row1"]["row"], rows["videoinstruct100k_row"]["row"]
    bus = touch(tmp_path / "playground/data/coco/train2017/000000033471.jpg")
    violin = touch(tmp_path / "Test_Videos/v_GqWH2IYPw6U.mkv")
    first, second = load_conversations(write(tmp_path / "rows.json", [llava, video_instruct])).samples
    assert (first.name, first.media) == ("000000033471", (Media("image", llava["image"], bus),))
    assert first.turns[0].question == "What are the colors of the bus in the image?"
    assert len(first.turns) == 3
    assert second.media == (Media("video", "v_GqWH2IYPw6U", violin),)
    assert second.turns[0].question == video_instruct["q"]
    for name, kind, num_media in (("mllm_demo", "image", [2, 1, 1] * 2), ("mllm_video_demo", "video", [1, 1, 1])):
        loaded = load_conversations(shared / f"annotations/instruct/llamafactory_{name}.json")
        assert [len(sample.media) for sample in loaded.samples] == num_media
        assert {media.kind for sample in loaded.samples for media in sample.media} == {kind}
        assert not any("<" in turn.question for _, turn in loaded.questions())
        assert loaded.missing[0].startswith("mllm_demo_data/1.")


# --- what we write is what we read


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    layouts = ("msvd", "msrvtt", "activitynet", "llava")
    return {name: write_dataset(folder / name, layout=name, num_videos=6, seed=3, size=32) for name in layouts}


@pytest.mark.parametrize("dataset", ["msvd", "msrvtt", "activitynet"])
def test_written_sets_are_read_back(sets: dict[str, Path], dataset: str) -> None:
    videos: set[Path] = set()
    for split in SPLITS:
        loaded = load_dataset(dataset, sets[dataset], split=split)
        assert loaded.missing == ()
        videos |= {sample.media[0].path for sample in loaded.samples if sample.media[0].path}
        name = "q" if dataset == "activitynet" else "qa"
        rows = json.loads((sets[dataset] / f"{split}_{name}.json").read_text())
        turns = [turn for _, turn in loaded.questions()]
        assert [turn.question.removesuffix("?") for turn in turns] == [r["question"].removesuffix("?") for r in rows]
        if dataset != "activitynet":
            assert [turn.answer for turn in turns] == [row["answer"] for row in rows]
            assert {turn.question_type for turn in turns} <= {"what", "who", "how", "where", "when"}
    assert videos == {path for path in sets[dataset].rglob("*") if path.suffix in (".avi", ".mp4")}


def test_written_conversations_are_the_drawn_ones(sets: dict[str, Path]) -> None:
    for split in SPLITS:
        for sample in load_dataset(str(sets["llava"] / f"{split}.json")).samples:
            index = int(sample.name.removeprefix(f"{split}_"))
            drawn = draw_turns(
                draw_scene(3, split=split, index=index),
                scene_rng(3, split=split, index=index, purpose=2),
                num_turns=10,
            )
            assert [(t.question, t.answer) for t in sample.turns] == [(d.question, d.answer) for d in drawn]
            assert sample.media == (
                Media("video", f"videos/{sample.name}.mp4", sets["llava"] / f"videos/{sample.name}.mp4"),
            )


# --- finding videos


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".mov", ".MP4"])
@pytest.mark.parametrize("name", ["-7KMZQEsJW4", "_ucD-3rUWWE", "v_abcdefghi"])
@pytest.mark.parametrize("prefix", ["", "v_"])
def test_clips_are_found_whatever_their_suffix(tmp_path: Path, name: str, prefix: str, suffix: str) -> None:
    write(tmp_path / "test_q.json", [{"video_name": name, "question": "is it", "question_id": "1"}])
    write(tmp_path / "test_a.json", [{"answer": "yes", "type": 3, "question_id": "1"}])
    clip = touch(tmp_path / f"all/videos/{prefix}{name}{suffix}")
    touch(clip.with_name(f".{clip.name}"))
    (sample,) = load_video_set("activitynet", tmp_path).samples
    assert sample == Sample(name, (Media("video", name, clip),), (Turn("is it?", "yes", "1", "yes/no", 0),))


@pytest.mark.parametrize("file", ["-4wsuPCjDBc_5_15.avi", "vid1.mp4", "v_-4wsuPCjDBc_5_15.mp4"])
@pytest.mark.parametrize("video", [1, "1", "vid1", "-4wsuPCjDBc_5_15"])
def test_msvd_clips_are_found_by_name_or_number(tmp_path: Path, file: str, video: str | int) -> None:
    write(tmp_path / "MSVD-QA/test_qa.json", [MSVD_ROW | {"video_id": video}])
    write(tmp_path / "MSVD-QA/youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1\r\n-7KMZQEsJW4_205_208 vid2")
    clip = touch(tmp_path / "YouTubeClips" / file)
    (sample,) = load_video_set("msvd", tmp_path).samples
    assert (sample.name, sample.media[0].path) == ("-4wsuPCjDBc_5_15", clip)


def test_without_mapping_videos_keep_their_numbers(tmp_path: Path) -> None:
    write(tmp_path / "test_qa.json", [MSVD_ROW, MSVD_ROW | {"id": 8, "video_id": 2}])
    clip = touch(tmp_path / "vid2.avi")
    samples = load_video_set("msvd", tmp_path).samples
    assert [(sample.name, sample.media[0].path) for sample in samples] == [("vid1", None), ("vid2", clip)]


def test_of_several_suffixes_the_first_is_taken_and_links_in_circles_end(tmp_path: Path) -> None:
    write(tmp_path / "test_qa.json", [MSVD_ROW])
    touch(tmp_path / "a/video1.webm")
    clip = touch(tmp_path / "b/video1.mp4")
    (tmp_path / "b/again").symlink_to(tmp_path, target_is_directory=True)
    (sample,) = load_video_set("msrvtt", tmp_path).samples
    assert sample.media[0].path == clip


# --- which annotations


def test_published_name_near_the_root_goes_first(tmp_path: Path) -> None:
    for name in ("hqga_test.csv", "old/test_qa.json", "test_q.json", "test.csv", "test_qa.json"):
        text = "video,question,answer,qid\n1,who runs,man,7\n"
        path = write(tmp_path / name, text if name.endswith("csv") else [MSVD_ROW])
        loaded = load_video_set("msvd", tmp_path)
        assert loaded.annotations == (path,)
        assert asked(loaded) == [("vid1", "who runs?", "man")]


def test_two_files_of_equal_right_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder / "test_qa.json", [MSVD_ROW])
    with pytest.raises(DataError, match=r"one/test_qa\.json and .*two/test_qa\.json could both"):
        load_video_set("msvd", tmp_path)
    assert load_video_set("msvd", tmp_path, annotations=tmp_path / "two").num_questions == 1


def test_answers_are_joined_by_id(shared: Path, tmp_path: Path) -> None:
    folder = shared / "annotations/activitynet-qa"
    answers = json.loads((folder / "test_a.json").read_text())
    random.Random(0).shuffle(answers)
    write(tmp_path / "test_a.json", answers)
    (tmp_path / "test_q.json").write_bytes((folder / "test_q.json").read_bytes())
    assert load_video_set("activitynet", tmp_path).samples == load_video_set("activitynet", folder).samples


Q = {"video_name": "a", "question": "is it", "question_id": "a_1"}
A = {"answer": "yes", "type": 3, "question_id": "a_1"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no annotations of the test split"),
        ({"test_q.json": [Q]}, r"test_q.json, row 1: has no question with an answer.*test_a.json is not beside it"),
        ({"test_q.json": [Q, Q], "test_a.json": [A]}, r"test_q.json, row 2: question id a_1 was there before"),
        ({"test_q.json": [Q], "test_a.json": [A, A]}, r"test_a.json, row 2: question id a_1 .* in row 1"),
        (
            {"test_q.json": [Q | {"question_id": "b"}], "test_a.json": [A]},
            r"row 1: .*test_a.json has no answer to .* b",
        ),
        ({"test_q.json": [Q], "test_a.json": [A | {"type": 9}]}, r"test_a.json, row 1: type is 9"),
        ({"test_q.json": [Q], "test_a.json": [A | {"answer": None}]}, r"test_a.json, row 1: 'answer' is None"),
        ({"test_q.json": [Q | {"question": " "}], "test_a.json": [A]}, r"test_q.json, row 1: 'question' is empty"),
        ({"test_q.json": [Q, ["x"]], "test_a.json": [A]}, r"test_q.json, row 2: is \['x'\]"),
        ({"test_q.json": [{"answer": "yes"}]}, r"row 1: has no 'video_name' or 'video_id' or 'video'"),
        ({"test_qa.json": "[{"}, r"test_qa.json, line 1, column 3: not JSON"),
        ({"test_qa.json": "{}"}, r"test_qa.json: holds a dict"),
        ({"test_qa.json": "[]"}, r"test_qa.json: has no rows"),
        ({"test.csv": "video,question,answer,qid\n1,who,man,1\n2,who\n"}, r"test.csv, line 3: has not 4 cells"),
        ({"test.csv": 'video,question,answer,qid\n1,"who,man,1\n'}, r"test.csv, line 2: not CSV"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value) or "nothing",
)
def test_one_clear_error(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        load_video_set("activitynet", tmp_path)


@pytest.mark.parametrize("line", ["name", "name 7", "other vid1", "a name vid2"])
def test_broken_mapping_is_named(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "youtube_mapping.txt", f"name vid1\r\n\r\n{line}\r\n")
    with pytest.raises(DataError, match=r"youtube_mapping\.txt, line 3"):
        read_mapping(path)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"msvd, msrvtt, activitynet, .*egoschema, nextqa, .*llava-mix665k"):
        load_dataset("tgif", tmp_path)
    with pytest.raises(UsageError, match="msvd has train and val and test"):
        load_dataset("msvd", tmp_path, split="dev")
    with pytest.raises(DataError, match="no such folder"):
        load_dataset("msvd", tmp_path / "nowhere")


def test_csv_cells_are_text_even_where_they_look_like_nothing(tmp_path: Path) -> None:
    # pandas would read "null" and "NA" as missing values.
    with (tmp_path / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["video", "question", "answer", "qid"], ["1", 'who says "NA", who', "null", "5"]])
    assert asked(load_video_set("msvd", tmp_path)) == [("vid1", 'who says "NA", who?', "null")]


# --- conversations


def test_placeholders_in_every_published_way(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "image": "a.jpg", "conversations": talk("<image>\nWhat?", "This.", "And?", "That.")},
        {"id": 2, "video": "a.mp4", "conversations": talk("What?\n<video>", "This.")},
        {"id": 3, "video": "a.mp4", "conversations": talk("<image>\nWhat?", "This.")},
        {"id": 4, "image": "a.jpg", "conversations": talk("What?", "This.")},
        {"id": 5, "conversations": talk("What is <video> in HTML?", "A tag.")},
        {"id": 6, "image": "a.jpg", "conversations": talk("<image>\nIs that a <video> tag?", "Yes.")},
        {"id": 7, "images": ["a.jpg"], "videos": ["a.mp4"], "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "This."},
            {"role": "user", "content": "And <image>?"}, {"role": "assistant", "content": "That."},
        ]},
        {"id": 8, "image": None, "conversations": talk("Hello?", "Hello.")},
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    samples = load_conversations(path).samples
    questions = [[turn.question for turn in sample.turns] for sample in samples]
    assert questions[:4] == [["What?", "And?"], ["What?"], ["What?"], ["What?"]]
    assert questions[4:] == [["What is <video> in HTML?"], ["Is that a <video> tag?"], ["What?", "And ?"], ["Hello?"]]
    kinds = ["".join(media.kind[0] for media in sample.media) for sample in samples]
    assert kinds == ["i", "v", "v", "i", "", "i", "vi", ""]
    assert [sample.system for sample in samples if sample.system] == ["Be brief."]


def test_media_are_found_beside_the_file_or_in_playground(tmp_path: Path) -> None:
    images = ["ocr_vqa/images/1.jpg", "coco/train2017/2.jpg", "vg/VG_100K/3.jpg", "4.jpg"]
    rows = [{"id": name, "image": name, "conversations": talk("<image>\nWhat?", "This.")} for name in images]
    touch(tmp_path / "ocr_vqa/images/1.png")
    touch(tmp_path / "playground/data/coco/train2017/2.jpg")
    touch(tmp_path / "pictures/4.JPG")
    path = write(tmp_path / "llava_v1_5_mix665k.json", rows)
    for loaded in (load_conversations(path), load_dataset("llava-mix665k", tmp_path)):
        found = [sample.media[0].path and sample.media[0].path.name for sample in loaded.samples]
        assert found == ["1.png", "2.jpg", None, "4.JPG"]
        assert loaded.missing == ("vg/VG_100K/3.jpg",)
    elsewhere = load_conversations(path, media_dir=tmp_path / "playground/data")
    assert len(elsewhere.missing) == 3


def test_turns_that_teach_nothing_are_counted(tmp_path: Path) -> None:
    rows = [talk("What?", "This.", "And?"), [{"from": "gpt", "value": "Hello."}, *talk("Who?", "Me.")], talk("What?")]
    loaded = load_conversations(write(tmp_path / "rows.json", [{"conversations": turns} for turns in rows]))
    assert [sample.name for sample in loaded.samples] == ["rows:1", "rows:2"]
    assert [(turn.question, turn.row) for _, turn in loaded.questions()] == [("What?", 0), ("Who?", 1)]
    assert (loaded.num_skipped_turns, loaded.num_skipped_rows) == (3, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.jpg", "conversations": talk("<image><image>What?", "This.")}, r"has 1 media \(image\), but 2"),
        ({"videos": ["a", "b"], "conversations": talk("<image>What?", "This.")}, "has 2 media .* but 1 placeholders"),
        ({"image": 7, "conversations": talk("What?", "This.")}, "'image' is 7"),
        ({"conversations": talk("What?") * 2}, "two questions without an answer"),
        ({"conversations": talk("What?", "This.") + talk("x", "That.")[1:]}, "two answers without a question"),
        ({"conversations": "What?"}, "'conversations' is 'What\\?', but has to be a list"),
        ({"conversations": ["What?"]}, "a turn is 'What\\?'"),
        ({"conversations": [{"from": "tool", "value": ""}]}, "'from' is 'tool'"),
        ({"conversations": [{"from": "human"}]}, "has no 'value'"),
        ({"video": "a.mp4", "question": "What?"}, "has no 'answer' or 'a'"),
        ({"video": "a.mp4"}, 'has neither "conversations"'),
    ],
)
def test_broken_conversations_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    whole = {"conversations": talk("What?", "This.")}
    path = write(tmp_path / "rows.json", [whole, row])
    with pytest.raises(DataError, match=rf"rows\.json, row 2: .*{message}"):
        load_conversations(path)


def test_nothing_here_needs_torch() -> None:
    code = "import sys, voco_video.data.check, voco_video.cli.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("nothing", ["", " ", None, []])
@pytest.mark.parametrize("field", ["image", "images", "video", "video_id"])
def test_a_row_whose_picture_is_nothing_is_text_alone(tmp_path: Path, field: str, nothing: Any) -> None:
    turns = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"id": "a", field: nothing, "conversations": turns}]))
    (sample,) = load_conversations(path).samples
    assert sample.media == ()
    assert [(turn.question, turn.answer) for turn in sample.turns] == [("2 + 2?", "4")]
