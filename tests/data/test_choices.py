"""Multiple choice as text: prompts, labels, and which option an answer names."""

from __future__ import annotations

import pytest

from voco_video.data.choices import LETTER_PROMPT, filled_prompt, likeliest, without_labels
from voco_video.data.letters import read_letter

OPTIONS = ("a dog", "to see the toy", "A cat.", "I", "e.g. this", "Bo {question}")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *((text, "B") for text in ("B", "b", " B.\n", "(b)", "**B**", "B)", '"B"')),
        *((text, "B") for text in ("B. to see", "B: to see", "(B) to see the toy", "**B**, for it does", "B\nbecause")),
        *((text, "B") for text in ("To see the toy.", "to  see the toy", "B to see the toy", "b to see the toy")),
        *((text, "B") for text in ("The best answer is B.", "Answer: B", "Option (B)", "the correct choice is **B**.")),
        *((text, "B") for text in ("The answer is option B", "I think (B) fits", "It is B: the answer is B")),
        ("a cat", "C"),
        ("I", "D"),  # there is no option I, but one that reads so
        ("e.g. this", "E"),
        ("D, because", "D"),
        ("a", "A"),
        *((text, None) for text in ("", "A man runs", "G", "A-frame", "C's", "the answer is a man", "(G)")),
        ("either (A) or (B)", None),
        ("the answer is A or the answer is B", None),
    ],
)
def test_which_option_an_answer_names(answer: str, letter: str | None) -> None:
    assert read_letter(answer, OPTIONS) == letter


def test_options_that_read_alike_are_told_apart_by_their_letters_alone() -> None:
    assert read_letter("go", ("go", "Go.", "stay")) is None
    assert read_letter("B. go", ("go", "Go.", "stay")) == "B"


def test_no_option_beyond_the_questions_own() -> None:
    assert [read_letter("D", OPTIONS[:number]) for number in (3, 4)] == [None, "D"]


def test_prompts_are_filled_once() -> None:
    assert filled_prompt(LETTER_PROMPT, "what {options}?", OPTIONS[-1:]) == (
        "what {options}?\nA. Bo {question}\nAnswer with the option's letter from the given choices directly."
    )
    assert filled_prompt("{question} Be brief. {x}", "what?") == "what? Be brief. {x}"


@pytest.mark.parametrize(
    ("options", "bare"),
    [
        (("A. one", "B. two"), ("one", "two")),
        (("(A) one", "(B) two"), ("one", "two")),
        (("A) one", "B: two"), ("one", "two")),
        (("A. one", "C. two"), ("A. one", "C. two")),
        (("A. one", "two"), ("A. one", "two")),
        (("A.", "B."), ("A.", "B.")),
        (("A. Lincoln", "B. Obama", "G. Bush"), ("A. Lincoln", "B. Obama", "G. Bush")),
    ],
)
def test_only_whole_rows_of_labels_are_taken_off(options: tuple[str, ...], bare: tuple[str, ...]) -> None:
    assert without_labels(options) == bare


def test_of_equally_likely_options_the_first() -> None:
    assert likeliest([-2.0, -1.0, -1.0]) == "B"
    assert likeliest([-2.0, -3.0, -6.0], [1, 2, 3]) == "B"
