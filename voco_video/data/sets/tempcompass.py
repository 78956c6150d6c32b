r"""TempCompass (Liu et al., arXiv:2403.00476): the same facts about time, asked in four forms.

    questions/multi-choice.json, yes_no.json, caption_matching.json, captioning.json
                 {video: {dimension: [{question, answer}]}}; the options are in the question's text
    clips        <video>.mp4

    multi-choice      "...?\nA. ...\nB. ..."                                   answer "A. ..."
    yes_no            "Is ...?"                                                 answer "yes" or "no"
    caption_matching  "Which ...?\nOption 1: ...\nOption 2: ..." (or Sentence A, Caption A); answer "Option 2: ..."
    captioning        "... Information A: {...} ... Generated Caption:"          answer "B. ..."

Yes or no, and matching, are multiple choice with options that the prompt writes in another way. A caption is free text,
which the authors have a language model compare: score it with a judge.

Seen: llyx97/TempCompass on GitHub, all four question files whole, from which the sizes are counted, and its prompts
(run_video_llava/inference_dataset.py) and rules (eval_*.py), which `read_letter` follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from voco_video.data.choices import split_options
from voco_video.data.files import Row, named_values
from voco_video.data.letters import LETTERS, own_labels
from voco_video.data.samples import SplitSize, Turn
from voco_video.data.video_sets import (
    Origin,
    VideoQuestion,
    VideoSet,
    checked_letter,
    checked_options,
    letter_of,
    named,
    rows_in,
)

_Asked = tuple[str, str, tuple[str, ...]]  # question, answer, options


def _multi_choice(row: Row) -> _Asked:
    question, options = split_options(row.filled("question"))
    return question, checked_letter(row, row.filled("answer")[:1], checked_options(row, options)), options


def _yes_no(row: Row) -> _Asked:
    options = ("yes", "no")
    return row.filled("question"), letter_of(row, row.filled("answer").lower(), options), options


def _matching(row: Row) -> _Asked:
    question, *lines = row.filled("question").splitlines()
    options = checked_options(row, tuple(line.strip() for line in lines if line.strip()))
    if not own_labels(options):
        raise row.error(f"its options {options!r:.120} have no labels such as 'Option 1: '")
    return question, letter_of(row, row.filled("answer"), options), options


def _captioning(row: Row) -> _Asked:
    label, _, answer = row.filled("answer").partition(". ")
    if label not in LETTERS or not answer:
        raise row.error(f"answer is {row.filled('answer')!r:.80}, but has to be a letter and an option's text")
    return row.filled("question"), answer, ()


def _read(asked: Callable[[Row], _Asked], paths: Sequence[Path], split: str) -> Iterator[VideoQuestion]:
    place = 0
    for number, (video, dimensions) in enumerate(named_values(paths[0]).items(), start=1):
        if not isinstance(dimensions, dict):
            raise Row(paths[0], number, {}).error(f"{video} is {dimensions!r:.80}, but has to hold named dimensions")
        for dimension in dimensions:
            for n, row in enumerate(rows_in(Row(paths[0], number, dimensions), dimension)):
                question, answer, options = asked(row)
                kind = dimension.replace("_", " ")
                yield VideoQuestion(
                    video, Turn(question, answer, f"{video}_{dimension}_{n}", kind, place, options), (video,)
                )
                place += 1


def _form(name: str, file: str, num_questions: int, asked: Callable[[Row], _Asked], prompt: str) -> VideoSet:
    return VideoSet(
        name=f"tempcompass-{name}",
        kind="open" if asked is _captioning else "choice",
        sizes={"test": SplitSize(410, num_questions)},
        files={"": named(rf"{file}\.json", f"{file}.json")},
        read=partial(_read, asked),
        origin=Origin(
            "https://github.com/llyx97/TempCompass/tree/main/questions",
            "https://huggingface.co/datasets/lmms-lab/TempCompass",
        ),
        prompt=prompt,
    )


_BEST = "Please directly give the best option:"
SETS = (
    _form("mc", "multi-choice", 1580, _multi_choice, f"{{question}}\n{{options}}\n{_BEST}"),
    _form("yes-no", "yes_no", 2453, _yes_no, "{question}\nPlease answer yes or no:"),
    _form("matching", "caption_matching", 1503, _matching, f"{{question}}\n{{options:}}\n{_BEST}"),
    _form("captioning", "captioning", 2004, _captioning, "{question}"),
)
