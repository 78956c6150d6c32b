"""EgoSchema, NExT-QA, Video-MME and MLVU from their published files: questions with options, one of them right.

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

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from voco_video.data.choices import without_labels
from voco_video.data.files import Row, Tree, named_values, read_rows
from voco_video.data.letters import LETTERS
from voco_video.data.samples import SplitSize, Turn
from voco_video.data.video_sets import (
    AnnotationFiles,
    VideoQuestion,
    checked_letter,
    checked_options,
    letter_at,
    with_question_mark,
)
from voco_video.errors import DataError

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
"""Numbers of videos with questions, and of questions, by set and split. EgoSchema's val has the questions with public
answers, its test all questions. MLVU's val is the split that it calls dev; in both its splits questions that ask for
free text are left out.

Sources: EgoSchema's subset_answers.json (500) and lmms-eval's task (5031). NExT-QA's author for videos (issue 16
of doc-doc/NExT-QA); others who read the files for questions: of val 4996, of test 8.56 and of train 34 thousand,
whose last digits no source was found for. Video-MME's README. Of MLVU only others who read the files; no count of its
videos could be checked."""

CHOICE_PROMPTS = {
    "videomme": (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        "letter (A, B, C, or D) of the correct option.\n{question}\n{options}\nThe best answer is:"
    )
}
"""What the sets' authors ask, where they say: Video-MME's README.md, without subtitles."""

PROMPTS_WITH_SUBTITLES = {
    name: prompt.replace("based on the video.", "based on the video and the subtitles.")
    for name, prompt in CHOICE_PROMPTS.items()
}
"""The same where the model is told what is said. The authors list all lines before the question; here each stands with
its frames."""

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


def read_choices(dataset: str, paths: tuple[Path, ...], split: str) -> list[VideoQuestion]:
    """Read the questions of one of the four sets. Those without a public answer (EgoSchema's test) have the answer "".

    Args:
        paths: the files, as `choice_files` finds them; of MLVU one task's alone will do.

    Raises:
        DataError: an invalid row, no question of the split, or two of one id.
    """
    questions = list(_READERS[dataset](paths, split))
    if not questions:
        raise DataError(f"{paths[0]}: has no question of this split")
    question_id, count = Counter(question.turn.question_id for question in questions).most_common(1)[0]
    if count > 1:
        raise DataError(f"{paths[0]}: question id {question_id} is there {count} times")
    return questions


def default_split(dataset: str) -> str:
    """Return the default split of a set.

    It is "test", but "val" for EgoSchema, whose test answers are not public, and for MLVU, for which most published
    figures are on val.
    """
    return _DEFAULT_SPLITS.get(dataset, "test")


def nextqa_places(tree: Tree) -> dict[str, str]:
    """Read where VidOR has NExT-QA's videos, by name, from map_vid_vidorID.json if it is with the clips.

    Raises:
        DataError: such a file is there, but has another content.
    """
    path = next((path for path in tree.annotations if path.name == NEXTQA_MAP_NAME), None)
    places = named_values(path) if path else {}
    return {name: f"VidOR video {place}" for name, place in places.items()}


# ------------------------------------------------------------------ sets


def _read_egoschema(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    if split == "val" and len(paths) == 1:
        raise DataError(f"{paths[0]}: {SUBSET_ANSWERS_NAME}, which says what the val split is, is not beside it")
    answers = named_values(paths[1]) if len(paths) > 1 else {}
    for row in read_rows(paths[0]):
        uid = row.filled("q_uid")
        if split == "val" and uid not in answers:
            continue
        names = [name for place in range(len(LETTERS)) if row.has(name := f"option {place}")]
        options = tuple(row.filled(name) for name in names)
        answer = letter_at(row, answers[uid], options) if uid in answers else ""
        turn = Turn(row.filled("question"), answer, uid, "", row.number - 1, checked_options(row, options))
        yield VideoQuestion(uid, turn, (uid,))


def _read_nextqa(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    for row in read_rows(paths[0]):
        if not row.has("a0"):
            raise row.error(
                f"has no options a0 to a4; its fields are {', '.join(row.values)}. Is it the open-ended set?"
            )
        options = checked_options(row, tuple(row.filled(f"a{place}") for place in range(5)))
        video, kind = row.filled("video"), row.filled("type")
        if kind not in NEXTQA_TYPES:
            raise row.error(f"type is {kind!r}, but has to be one of {', '.join(NEXTQA_TYPES)}")
        answer = letter_at(row, row.filled("answer"), options)
        question, question_id = with_question_mark(row.filled("question")), f"{video}_{row.filled('qid')}"
        turn = Turn(question, answer, question_id, NEXTQA_TYPES[kind], row.number - 1, options)
        yield VideoQuestion(video, turn, (video,))


def _read_videomme(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    for place, row in enumerate(_questions_of(read_rows(paths[0]))):
        options = checked_options(row, without_labels(row.texts("choices" if row.has("choices") else "options")))
        answer = checked_letter(row, row.filled("answer"), options)
        duration = row.filled("duration", "duration_category").lower()
        if duration not in DURATION_CLASSES:
            raise row.error(f"duration is {duration!r:.80}, but has to be one of {', '.join(DURATION_CLASSES)}")
        names = tuple(row.filled(name) for name in ("videoID", "video_id") if row.has(name))
        if not names:
            raise row.error(f"has no 'videoID' or 'video_id'; its fields are {', '.join(row.values)}")
        kind = row.filled("task_type")
        turn = Turn(row.filled("question"), answer, row.filled("question_id"), kind, place, options, duration)
        yield VideoQuestion(names[0], turn, names, subtitles=f"subtitle/{names[0]}.srt")


def _questions_of(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield one row a question; in the authors' own file one row holds all questions on a video."""
    for row in rows:
        questions = row.values.get("questions")
        if questions is None:
            yield row
            continue
        if not isinstance(questions, list) or not all(isinstance(question, dict) for question in questions):
            raise row.error(f"'questions' is {questions!r:.80}, but has to be a list of questions")
        video = {name: value for name, value in row.values.items() if name != "questions"}
        yield from (Row(row.path, row.number, {**video, **question}) for question in questions)


def _read_mlvu(paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    place = 0
    for path in paths:
        # Each task has a folder, and videos of two tasks may have one name; those of test are in one folder.
        folder = path.stem if split == "val" else ""
        for row in read_rows(path):
            options, letter = _mlvu_choice(row)
            video, kind = Path(row.filled("video")).stem, row.filled("question_type")
            # The rows of val have no ids, so their places in the published files serve as ids.
            question_id = row.filled("question_id") if row.has("question_id") else f"{path.stem}_{row.number - 1}"
            turn = Turn(row.filled("question"), letter, question_id, kind, place, options)
            yield VideoQuestion(f"{folder}/{video}" if folder else video, turn, (video,), folder)
            place += 1


def _mlvu_choice(row: Row) -> tuple[tuple[str, ...], str]:
    """Return the candidates, and the letter of the one that is equal to the answer.

    Empty candidates are left out. Of two equal ones the last is right, as in choice_bench.py.
    """
    if not row.has("candidates"):
        raise row.error("has no 'candidates': free text is not scored here, only multiple choice")
    if not (answer := row.text("answer")):
        raise row.error(f"'answer' is empty; {_MLVU_REPAIRED}")
    options = checked_options(row, tuple(text for text in row.texts("candidates", may_be_empty=True) if text))
    if answer not in options:
        listed = ", ".join(options)
        raise row.error(f"answer is {answer!r:.80}, but is none of the candidates {listed:.200}; {_MLVU_REPAIRED}")
    return options, LETTERS[len(options) - 1 - options[::-1].index(answer)]


_READERS: dict[str, Callable[[Sequence[Path], str], Iterator[VideoQuestion]]] = {
    "egoschema": _read_egoschema,
    "nextqa": _read_nextqa,
    "videomme": _read_videomme,
    "mlvu": _read_mlvu,
}


def _first_of(*patterns: str) -> Callable[[str, int, str], tuple[int, int] | None]:
    """Rank files by the first of some patterns that fits their name, then by their depth."""

    def rank(name: str, depth: int, split: str) -> tuple[int, int] | None:
        fits = (bool(re.fullmatch(pattern.replace("{split}", split), name)) for pattern in patterns)
        return next(((number, depth) for number, is_fit in enumerate(fits) if is_fit), None)

    return rank


_FILES = {  # by set, and by set and split where splits differ
    "egoschema": AnnotationFiles(
        _first_of(r"questions\.json"), f"questions.json with {SUBSET_ANSWERS_NAME}", beside=SUBSET_ANSWERS_NAME
    ),
    "nextqa": AnnotationFiles(_first_of(r"{split}\.csv", r"(.+[_-])?{split}(\..+)?\.csv"), "{split}.csv"),
    "videomme": AnnotationFiles(
        _first_of(
            r"test-\d+-of-\d+\.parquet",
            r"(?i:.*video[_-]?mme.*)\.(parquet|jsonl|json)",
            r"test\.(parquet|jsonl|json)",
        ),
        "test-00000-of-00001.parquet, and a .parquet, .jsonl or .json named videomme",
    ),
    "mlvu": AnnotationFiles(
        _first_of(rf"{_MLVU_TASKS}\.json"), "1_plotQA.json to 7_topic_reasoning.json", several=True
    ),
    "mlvu test": AnnotationFiles(_first_of(r"test_mcq_gt\.json"), "test_mcq_gt.json"),
}


def choice_files(dataset: str, split: str) -> AnnotationFiles:
    """Return the names of a set's annotation files."""
    return _FILES.get(f"{dataset} {split}") or _FILES[dataset]
