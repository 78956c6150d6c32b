"""EgoSchema, NExT-QA, Video-MME and MLVU from their genuine files: questions with options, one of them right.

    egoschema  questions.json (q_uid, question, "option 0" to "option 4") + subset_answers.json {q_uid: place};
               clips <q_uid>.mp4
    nextqa     {split}.csv (video, question, answer, qid, type, a0 to a4; answer is a place); clips <video>.mp4, which
               VidOR keeps in folders that map_vid_vidorID.json names
    videomme   a .parquet, .jsonl or .json (videoID, question_id, duration, task_type, question, options, answer), or
               the authors' .json with a video's questions together (video_id, duration or duration_category,
               options or choices); clips <videoID>.mp4
    mlvu       val: json/1_plotQA.json to json/7_topic_reasoning.json (video, question, candidates, answer,
               question_type); clips <video> in a folder named as the file is. 8_sub_scene.json and 9_summary.json ask
               for free text and are not read
               test: test-ground-truth/test_mcq_gt.json, with a question_id and six candidates; clips <video>

The answer of a question is its option's letter. Options lose the letters that Video-MME writes before them.

Checked against these, on GitHub unless they are data sets of huggingface.co:

    egoschema  egoschema/EgoSchema: questions.json (an early one), subset_answers.json, download.py, validate.py
    nextqa     doc-doc/NExT-QA: dataset/nextqa/val.csv, test.csv and map_vid_vidorID.json, eval_mc.py
    videomme   data set lmms-lab/Video-MME: the fields in its README.md; EvolvingLMMs-Lab/lmms-eval:
               lmms_eval/tasks/videomme/utils.py; open-compass/VLMEvalKit: vlmeval/dataset/videomme.py;
               BradyFU/Video-MME: README.md, evaluation/output_test_template.json (example replies to 3 or 5 of the
               900 videos, with commas that JSON forbids, and so not looked for)
    mlvu       FlagOpen/FlagEmbedding and its fork H-UMBLE/flagembedding: MLVU/data,
               MLVU/evaluation/multiple_choice_evaluation/choice_bench.py; JUNJIE99/MLVU: evaluation_test;
               VLMEvalKit: vlmeval/dataset/mlvu.py for the folders. test_mcq_gt.json itself could not be read, only
               loaders of it

Of long files only parts were read.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from voco_video.data.choices import LETTERS, without_labels
from voco_video.data.files import Row, Tree, read_rows
from voco_video.data.samples import Dataset, Media, Sample, SplitSize, Turn
from voco_video.data.video_qa import with_question_mark
from voco_video.errors import DataError, UsageError

CHOICE_SIZES = {
    ("egoschema", "val"): SplitSize(500, 500),
    ("egoschema", "test"): SplitSize(5031, 5031),
    ("nextqa", "train"): SplitSize(3870, 34132),
    ("nextqa", "val"): SplitSize(570, 4996),
    ("nextqa", "test"): SplitSize(1000, 8564),
    ("videomme", "test"): SplitSize(900, 2700),
    ("mlvu", "val"): SplitSize(None, 2174),
    ("mlvu", "test"): SplitSize(None, 502),
}
"""Videos with questions, and questions, by set and split. EgoSchema's val are the questions whose answers are public,
its test all of them. MLVU's val is what it calls dev; of both its splits the questions that ask for free text are left
out.

Who says so: EgoSchema's subset_answers.json (500) and lmms-eval's task (5031). NExT-QA's author for videos (issue 16
of doc-doc/NExT-QA); others who read the files for questions: of val 4996, of test 8.56 and of train 34 thousand,
whose last digits no source was found for. Video-MME's README. Of MLVU only others who read the files; no count of its
videos could be checked."""

NEXTQA_TYPES = {
    "CW": "causal why",
    "CH": "causal how",
    "TN": "temporal order",
    "TP": "temporal order",
    "TC": "temporal when",
    "DC": "descriptive count",
    "DL": "descriptive location",
    "DO": "descriptive other",
}
"""By NExT-QA's codes. Its own script counts questions about what comes next and what came before together."""

DURATION_CLASSES = ("short", "medium", "long")
"""Video-MME's, by rising length: up to 2 minutes, 4 to 15, 30 to 60."""

_MLVU_REPAIRED = "MLVU repaired such rows in 2024: take a newer copy of the file"

SUBSET_ANSWERS_NAME = "subset_answers.json"
NEXTQA_MAP_NAME = "map_vid_vidorID.json"
_DEFAULT_SPLITS = {"egoschema": "val", "mlvu": "val"}
_MLVU_TASKS = "[1-7]_(plotQA|needle|ego|count|order|anomaly_reco|topic_reasoning)"


@dataclass(frozen=True)
class _ChoiceQuestion:
    """A question on a video that goes by `video`; the file is one of `folders`' (any, if none) with one of `names`."""

    video: str
    turn: Turn
    names: tuple[str, ...]
    folder: str = ""


@dataclass(frozen=True)
class _SetFiles:
    """How a set lies on disk.

    Attributes:
        files: patterns of its annotation files, the better ones first; {split} is filled in.
        read: rows of those files to questions.
        looked_for: the same in words.
        several: whether all files of the best kind belong together.
        beside: a further file that belongs to them, where it is there.
    """

    files: tuple[str, ...]
    read: Callable[[Sequence[Path], str], Iterator[_ChoiceQuestion]]
    looked_for: str
    several: bool = False
    beside: str = ""


def load_multiple_choice(
    dataset: str,
    root: str | os.PathLike[str],
    *,
    split: str | None = None,
    annotations: str | os.PathLike[str] | None = None,
) -> Dataset:
    """A split of one of the four sets: one sample a video, with all its questions.

    Videos without a file keep their place, with no path. Questions without a public answer (EgoSchema's test) have the
    answer "".

    Args:
        dataset: "egoschema", "nextqa", "videomme" or "mlvu".
        root: the folder with the clips, at any depth, and with the annotations unless they are given.
        split: one of the set's, see CHOICE_SIZES; None: `default_split`.
        annotations: a file (of MLVU any one task's, which then is read alone) or a folder to look in instead.

    Raises:
        UsageError: an unknown set or split.
        DataError: no annotations, more than one file that could be meant, or a row that cannot be right.

    >>> load_multiple_choice("nextqa", "data/NExT-QA", split="val").num_questions  # doctest: +SKIP
    4996
    """
    split = split or default_split(dataset)
    check_choice_names(dataset, split)
    tree = Tree(Path(root))
    paths = find_choice_annotations(dataset, annotations or root, split)
    if not paths:
        looked = choices_looked_for(dataset, split)
        raise DataError(f"{annotations or root}: no annotations of the {split} split in it ({looked})")
    asked = list(_files_of(dataset, split).read(paths, split))
    _check_unique(asked, paths[0])
    return Dataset(dataset, split, tuple(paths), _samples(asked, tree))


def default_split(dataset: str) -> str:
    """Give the split that is meant where none is named.

    That is "test", but "val" of EgoSchema, whose test answers are not public, and of MLVU, whose published figures are
    mostly of that.
    """
    return _DEFAULT_SPLITS.get(dataset, "test")


def check_choice_names(dataset: str, split: str) -> None:
    """Refuse a set or split that does not exist.

    Raises:
        UsageError: always with the names that there are.
    """
    splits = [known for name, known in CHOICE_SIZES if name == dataset]
    if not splits:
        known = ", ".join(dict.fromkeys(name for name, _ in CHOICE_SIZES))
        raise UsageError(f"dataset is {dataset!r}, but has to be one of {known}")
    if split not in splits:
        raise UsageError(f"split is {split!r}, but {dataset} has {' and '.join(splits)}")


def find_choice_annotations(dataset: str, place: str | os.PathLike[str], split: str) -> tuple[Path, ...]:
    """A set's annotation files: the place itself if it is a file, else the best match below it; empty: none.

    A better name goes before a worse one, then one nearer to the root.

    Raises:
        DataError: no such place, or two files with equal right.
    """
    layout = _files_of(dataset, split)
    if Path(place).is_file():
        return _with_beside(layout, [Path(place)])
    tree = Tree(Path(place))
    patterns = [pattern.replace("{split}", split) for pattern in layout.files]
    ranked = [
        ((rank, tree.depth(path)), path)
        for path in tree.annotations
        for rank, pattern in enumerate(patterns)
        if re.fullmatch(pattern, path.name)
    ]
    best = min((rank for rank, _ in ranked), default=None)
    paths = [path for rank, path in ranked if rank == best]
    if layout.several:
        return tuple(path for path in paths if path.parent == paths[0].parent)
    if len(paths) > 1:
        raise DataError(f"{paths[0]} and {paths[1]} could both be the {split} split's annotations: say which")
    return _with_beside(layout, paths)


def _with_beside(layout: _SetFiles, paths: Sequence[Path]) -> tuple[Path, ...]:
    more = [path.with_name(layout.beside) for path in paths if layout.beside]
    return (*paths, *(path for path in more if path.is_file()))


def choices_looked_for(dataset: str, split: str) -> str:
    """The names that a set's annotations have, in words."""
    return f"looked for {_files_of(dataset, split).looked_for.replace('{split}', split)}"


def nextqa_places(tree: Tree) -> dict[str, str]:
    """Where VidOR keeps NExT-QA's videos, by name, from map_vid_vidorID.json where it lies with the clips.

    Raises:
        DataError: such a file is there, but is something else.
    """
    path = next((path for path in tree.annotations if path.name == NEXTQA_MAP_NAME), None)
    places = _read_object(path) if path else {}
    return {name: f"VidOR video {place}" for name, place in places.items()}


# ------------------------------------------------------------------ sets


def _read_egoschema(paths: Sequence[Path], split: str) -> Iterator[_ChoiceQuestion]:
    if split == "val" and len(paths) == 1:
        raise DataError(f"{paths[0]}: {SUBSET_ANSWERS_NAME}, which says what the val split is, is not beside it")
    answers = _read_object(paths[1]) if len(paths) > 1 else {}
    for row in read_rows(paths[0]):
        uid = row.filled("q_uid")
        if split == "val" and uid not in answers:
            continue
        names = [name for place in range(len(LETTERS)) if row.has(name := f"option {place}")]
        options = tuple(row.filled(name) for name in names)
        answer = _letter_at(row, answers[uid], options) if uid in answers else ""
        turn = Turn(row.filled("question"), answer, uid, "", row.number - 1, _checked(row, options))
        yield _ChoiceQuestion(uid, turn, (uid,))


def _read_nextqa(paths: Sequence[Path], split: str) -> Iterator[_ChoiceQuestion]:
    for row in read_rows(paths[0]):
        if not row.has("a0"):
            raise row.error(
                f"has no options a0 to a4; its fields are {', '.join(row.values)}. Is it the open-ended set?"
            )
        options = _checked(row, tuple(row.filled(f"a{place}") for place in range(5)))
        video, kind = row.filled("video"), row.filled("type")
        if kind not in NEXTQA_TYPES:
            raise row.error(f"type is {kind!r}, but has to be one of {', '.join(NEXTQA_TYPES)}")
        answer = _letter_at(row, row.filled("answer"), options)
        question, question_id = with_question_mark(row.filled("question")), f"{video}_{row.filled('qid')}"
        turn = Turn(question, answer, question_id, NEXTQA_TYPES[kind], row.number - 1, options)
        yield _ChoiceQuestion(video, turn, (video,))


def _read_videomme(paths: Sequence[Path], split: str) -> Iterator[_ChoiceQuestion]:
    for place, row in enumerate(_questions_of(read_rows(paths[0]))):
        options = _checked(row, without_labels(row.texts("choices" if row.has("choices") else "options")))
        answer, duration = row.filled("answer").upper(), row.filled("duration", "duration_category").lower()
        if answer not in LETTERS[: len(options)]:
            raise row.error(f"answer is {answer!r:.80}, but has to be one of {', '.join(LETTERS[: len(options)])}")
        if duration not in DURATION_CLASSES:
            raise row.error(f"duration is {duration!r:.80}, but has to be one of {', '.join(DURATION_CLASSES)}")
        names = tuple(row.filled(name) for name in ("videoID", "video_id") if row.has(name))
        if not names:
            raise row.error(f"has no 'videoID' or 'video_id'; its fields are {', '.join(row.values)}")
        kind = row.filled("task_type")
        turn = Turn(row.filled("question"), answer, row.filled("question_id"), kind, place, options, duration)
        yield _ChoiceQuestion(names[0], turn, names)


def _questions_of(rows: Iterable[Row]) -> Iterator[Row]:
    """One row a question; the authors' own file keeps a video's questions together in one."""
    for row in rows:
        questions = row.values.get("questions")
        if questions is None:
            yield row
            continue
        if not isinstance(questions, list) or not all(isinstance(one, dict) for one in questions):
            raise row.error(f"'questions' is {questions!r:.80}, but has to be a list of questions")
        video = {name: value for name, value in row.values.items() if name != "questions"}
        yield from (Row(row.path, row.number, {**video, **one}) for one in questions)


def _read_mlvu(paths: Sequence[Path], split: str) -> Iterator[_ChoiceQuestion]:
    place = 0
    for path in paths:
        # Tasks have folders, in which videos of the same name may lie; test's lie together.
        folder = path.stem if split == "val" else ""
        for row in read_rows(path):
            options, letter = _mlvu_choice(row)
            video, kind = Path(row.filled("video")).stem, row.filled("question_type")
            # The rows of val have no ids; their places in the published files are what is left.
            question_id = row.filled("question_id") if row.has("question_id") else f"{path.stem}_{row.number - 1}"
            turn = Turn(row.filled("question"), letter, question_id, kind, place, options)
            yield _ChoiceQuestion(f"{folder}/{video}" if folder else video, turn, (video,), folder)
            place += 1


def _mlvu_choice(row: Row) -> tuple[tuple[str, ...], str]:
    """The candidates, and the letter of the one that the answer repeats.

    Some candidates are empty; they are no options. Of two equal ones the last is right, as in choice_bench.py.
    """
    if not row.has("candidates"):
        raise row.error("has no 'candidates': free text is not scored here, only multiple choice")
    if not (answer := row.text("answer")):
        raise row.error(f"'answer' is empty; {_MLVU_REPAIRED}")
    options = _checked(row, tuple(text for text in row.texts("candidates", may_be_empty=True) if text))
    if answer not in options:
        listed = ", ".join(options)
        raise row.error(f"answer is {answer!r:.80}, but is none of the candidates {listed:.200}; {_MLVU_REPAIRED}")
    return options, LETTERS[len(options) - 1 - options[::-1].index(answer)]


_FILES = {  # by set, and by set and split where splits differ
    "egoschema": _SetFiles(
        (r"questions\.json",),
        _read_egoschema,
        f"questions.json with {SUBSET_ANSWERS_NAME}",
        beside=SUBSET_ANSWERS_NAME,
    ),
    "nextqa": _SetFiles((r"{split}\.csv", r"(.+[_-])?{split}(\..+)?\.csv"), _read_nextqa, "{split}.csv"),
    "videomme": _SetFiles(
        (
            r"test-\d+-of-\d+\.parquet",
            r"(?i:.*video[_-]?mme.*)\.(parquet|jsonl|json)",
            r"test\.(parquet|jsonl|json)",
        ),
        _read_videomme,
        "test-00000-of-00001.parquet, and a .parquet, .jsonl or .json named videomme",
    ),
    "mlvu": _SetFiles((rf"{_MLVU_TASKS}\.json",), _read_mlvu, "1_plotQA.json to 7_topic_reasoning.json", several=True),
    "mlvu test": _SetFiles((r"test_mcq_gt\.json",), _read_mlvu, "test_mcq_gt.json"),
}


def _files_of(dataset: str, split: str) -> _SetFiles:
    return _FILES.get(f"{dataset} {split}") or _FILES[dataset]


# ------------------------------------------------------------------ parts


def _checked(row: Row, options: tuple[str, ...]) -> tuple[str, ...]:
    if not 2 <= len(options) <= len(LETTERS):
        raise row.error(f"has {len(options)} options, but has to have 2 to {len(LETTERS)}")
    return options


def _letter_at(row: Row, place: object, options: Sequence[str]) -> str:
    """The letter of an option given by its place, counting from 0."""
    text = str(place)
    if not (text.isascii() and text.isdigit()) or int(text) >= len(options):
        raise row.error(f"answer is {text!r:.80}, but has to be a place from 0 to {len(options) - 1}")
    return LETTERS[int(text)]


def _read_object(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); is the file whole?") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, but has to hold named values")
    return content


def _check_unique(asked: Sequence[_ChoiceQuestion], path: Path) -> None:
    if not asked:
        raise DataError(f"{path}: has no question of this split")
    question_id, count = Counter(one.turn.question_id for one in asked).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: question id {question_id} is there {count} times")


def _samples(asked: Sequence[_ChoiceQuestion], tree: Tree) -> tuple[Sample, ...]:
    turns: dict[str, list[Turn]] = {}
    first: dict[str, _ChoiceQuestion] = {}
    for one in asked:
        turns.setdefault(one.video, []).append(one.turn)
        first.setdefault(one.video, one)
    # Where some of the folders are there, a video of another one is missing, though its name may be in them.
    folders = {one.folder for one in asked} & tree.clips_by_folder.keys()
    paths = {
        video: tree.clip(one.names, folder=one.folder) if not folders or one.folder in folders else None
        for video, one in first.items()
    }
    return tuple(Sample(video, (Media("video", video, paths[video]),), tuple(those)) for video, those in turns.items())
