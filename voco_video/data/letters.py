"""Reading which option of a multiple-choice question an answer names."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

LETTERS = string.ascii_uppercase

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>|^.*</think(?:ing)?>|<think(?:ing)?>.*$", re.I | re.S)
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.I | re.S)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_DRESS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}|</?\w+/?>|\\[()\[\]]|[*_`$]+")

_ALONE = re.compile(r"(?<![A-Za-z0-9-])(?<!\w['’])([A-Za-z])(?![A-Za-z0-9])(?!['’]\w)(?!-\w)(?!\.[A-Za-z]\b)")
_PUNCTUATION = re.compile(r"\s*(?:$|\n|[^\w\s])")
_OPENING = re.compile(r"\s+[\"'“‘(\[{]")
_WORD = re.compile(r"\s+([A-Za-z]+)(?![\w-])")

# Words that may follow a letter, but neither the article "a" nor the pronoun "I".
_AFTER_I = frozenset(["is", "seems", "appears", "fits", "matches", "because"])
_AFTER_A = _AFTER_I | frozenset(["was", "are", "were", "since", "as", "and", "or", "but", "instead"])
_AFTER_ANY = _AFTER_A | frozenset(["would", "must", "should", "rather", "not", "due", "given", "for", "by", "which"])
_AFTER_ANY |= frozenset(["over", "correct", "looks", "best"])

_NOUN = r"(?:answers?|ans|choices?|options?|selection|solution|letter)\b"
_HEDGE = r"(?:(?:most\s+)?likely|probably|clearly|definitely|therefore|thus|simply|indeed|still|just)"
_VERB = r"(?:is|was|be|seems(?:\s+to\s+be)?|appears\s+to\s+be)"
_SAYS = re.compile(
    rf"(?:{_NOUN}(?:[^.!?\n]{{0,60}}?\b{_VERB}(?![\w'’]))?(?:\s+(?:{_HEDGE}|(?:the\s+)?{_NOUN}))*\s*\.?"
    r"|\b(?:choose|chose|select|pick|go(?:ing)?\s+with|opt\s+for|say|guess|so|therefore|thus|hence|it\s+is|it['’]s"
    r"|it\s+(?:should|must|would|has\s+to)\s+be)\b"
    rf"(?:\s+(?:{_HEDGE}|(?:the\s+)?{_NOUN}))*|not\s+[A-Z]\W+but|(?:答案|选项|选择?|应?选)\s*(?:是|为)?)"
    r"[\s:=→>–-]*[\"'“‘(\[{]*\s*$",
    re.I,
)
_IS_RIGHT = re.compile(
    r"[\"'”’)\]}.]*\s*(?:is|was|would\s+be|must\s+be|has\s+to\s+be|seems|appears|looks)\s+"
    rf"(?:{_HEDGE}\s+|the\s+|a\s+|to\s+be\s+|most\s+|only\s+|single\s+|my\s+)*"
    r"(?:correct|right|best|true|answer|accurate|appropriate|likely|plausible|suitable|choice)\b",
    re.I,
)
_IS_WRONG = re.compile(
    r"[\"'”’)\]}.]*\s*(?:(?:is|are|was|seems|looks)\s+(?:also\s+|clearly\s+|just\s+)*)?"
    r"(?:wrong|incorrect|false|impossible|unlikely|eliminated|excluded|ruled|not\b|isn['’]t|aren['’]t|can(?:no|['’])t"
    r"|does\s?n['’o]t|won['’]t)",
    re.I,
)
_UNLIKE = re.compile(
    r"(?:\b(?:not|than|instead\s+of|neither|nor|except|unlike|exclude|eliminate|reject|rule\s+out|over)|n['’]t(?:\s+be)?)"
    rf"\s+(?:{_NOUN}\s+)?[\"'“‘(\[]*$",
    re.I,
)
_LISTED = re.compile(
    r"[\"'”’)\]}.\s]*(?:[,;/&+|–-]|\b(?:and|or|und|oder)\b)(?:\s*(?:,|and|or|also|maybe|possibly|perhaps|even|option|answer))*"
    r"\s*[\"'“‘(\[{]*",
    re.I,
)
_AFTER_LETTER = re.compile(rf"(?<![A-Za-z0-9'’-])[A-Z](?i:{_LISTED.pattern})$")
_ARE_WRONG = re.compile(
    rf"(?:{_LISTED.pattern}[A-Z]\b)+[\"'”’)\]\s]*(?:are|were)\s+(?:all\s+|both\s+|clearly\s+)*"
    r"(?:wrong|incorrect|false|impossible|unlikely|eliminated|excluded|ruled|not\b)",
    re.I,
)
_ITEM = re.compile(r"[.):]")
_OWN_LABEL = re.compile(r"((?:Option|Sentence|Caption) ([A-Z]|\d)): ")
_FIRST_WORD = re.compile(r"\W*(yes\b|no\b|[AB]$)", re.I)
_SIGHT = 200  # characters that are examined before and after a letter


def read_letter(text: str, options: Sequence[str]) -> str | None:
    r"""Read the option that an answer names; None if it names none, or more than one.

    Text in <think> is not part of the answer; if there is an <answer> or a ``\\boxed{}``, only its text is. Full-width
    and bold letters are letters. Then the first of these rules that finds a letter decides:

    1. the answer is one letter and nothing else: "B", "(b)", "B.";
    2. it is an option's text, capitals and the full stop aside;
    3. it says which is right, wherever: "the answer is B because A is wrong", "answer = B", "option B", "I choose B",
       "B is correct", or a line with nothing but "B";
    4. it begins with a letter: "B. to see", "B - to see", "B, for", "B because", or with a letter and that option's
       text: "B to see the toy";
    5. there is one letter in brackets: "I think (B) fits".

    A letter that is called wrong ("A is wrong", "not A", "rather than A") is not named. Letters in a row ("A, B",
    "A and B", "A or B") are named together, so none of them counts; no more does the first of a list of options. "A"
    before a word is the article and "I" the pronoun ("A cat is shown", "I think"), unless that word follows neither
    ("A is", "A because"). Letters beyond the question's options are no letters.

    Of the options "yes" and "no" the answer's first word is taken. Options with labels of their own ("Option 1: ...",
    see `own_labels`) are named by these, or by their sentence, as in TempCompass.

    >>> read_letter("The best answer is B, for A is wrong.", ["a dog", "a cat"])
    'B'
    >>> read_letter("A cat is shown", ["a dog", "a cat"]) is read_letter("A or B", ["a dog", "a cat"]) is None
    True
    """
    text = _THOUGHT.sub(" ", unicodedata.normalize("NFKC", text)).strip()
    if tagged := _TAGGED.findall(text):
        return read_letter(tagged[-1], options)
    if boxed := _BOXED.findall(text):
        return _only({read_letter(inner, options) for inner in boxed})
    bare = _DRESS.sub(lambda match: match[1] or "", text).strip()
    if labels := own_labels(options):
        return _labelled(bare, options, labels)
    if [option.lower() for option in options] == ["yes", "no"]:
        first = _FIRST_WORD.match(bare)
        return {"yes": "A", "no": "B", "a": "A", "b": "B"}.get(first[1].lower()) if first else None
    letters = re.findall(r"[A-Za-z0-9]+", bare) if not re.search(r"[^\W\dA-Za-z]", bare) else []
    if letters and all(len(letter) == 1 and letter.upper() in LETTERS[: len(options)] for letter in letters):
        return _only({letter.upper() for letter in letters})
    as_text = {letter for letter, option in zip(LETTERS, options) if _plain(option) in (_plain(text), _plain(bare))}
    if as_text:
        return _only(as_text)
    mentions = list(_mentions(bare, options))
    for named in (
        [m for m in mentions if m.is_said],
        [m for m in mentions if m.is_first],
        [m for m in mentions if m.is_bracketed],
    ):
        if named:
            return _only({letter for m in named for letter in {m.letter, *_beside(m, mentions, bare)}})
    return None


def own_labels(options: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of options that have labels in their text, as TempCompass' have; () unless all of them have.

    >>> own_labels(["Sentence A: A dog runs.", "Sentence B: A cat runs."])
    ('Sentence A', 'Sentence B')
    """
    found = [_OWN_LABEL.match(option) for option in options]
    labels = tuple(match[1] for match in found if match)
    return labels if len(set(labels)) == len(options) else ()


def _labelled(text: str, options: Sequence[str], labels: Sequence[str]) -> str | None:
    """Read which of some options with labels of their own an answer names."""
    sentences = [option[len(label) + 2 :] for option, label in zip(options, labels)]
    marks = [label.split()[1] for label in labels]
    forms = zip(LETTERS, options, sentences, labels, marks)
    if exact := {letter for letter, *names in forms if _plain(text) in map(_plain, names)}:
        return _only(exact)
    if len(text) == 1 and text in LETTERS[: len(options)]:  # where options were scored by likelihood
        return text
    for patterns in (
        [rf"^\W*{label}\b" for label in labels],
        [re.escape(_plain(option)) for option in options],
        [rf"\b{label}\b" for label in labels],
        [rf"^\W*{mark}(?:[.):,]|\s*$)" for mark in marks],
        [re.escape(_plain(sentence)) for sentence in sentences],
    ):
        plain = _plain(text)
        if named := {letter for letter, pattern in zip(LETTERS, patterns) if re.search(pattern, plain, re.I)}:
            return _only(named)
    return None


@dataclass(frozen=True)
class _Mention:
    """A letter in a text that means an option, and is not called wrong.

    Attributes:
        letter: as a capital.
        start, end: its place in the text.
        is_said: it is called right.
        is_first: the answer begins with it.
        is_bracketed: it is in round brackets.
    """

    letter: str
    start: int
    end: int
    is_said: bool
    is_first: bool
    is_bracketed: bool


def _mentions(text: str, options: Sequence[str]) -> Iterator[_Mention]:
    first = re.search(r"\w", text)
    for match in _ALONE.finditer(text):
        letter, (start, end) = match[1].upper(), match.span()
        before, after = text[max(0, start - _SIGHT) : start], text[end : end + _SIGHT]
        is_wrong = _IS_WRONG.match(after) or _ARE_WRONG.match(after) or _UNLIKE.search(before)
        if letter not in LETTERS[: len(options)] or is_wrong:
            continue
        is_said = bool(_SAYS.search(before) or _IS_RIGHT.match(after)) or _is_a_line(before, after)
        # After such a letter any word may follow.
        is_free = (is_said or _AFTER_LETTER.search(before)) and match[1].isupper() and letter not in "AI"
        if is_free or _is_no_word(match[1], after, options[LETTERS.index(letter)]):
            is_first = first is not None and first.start() == start
            is_bracketed = before.endswith("(") and after.startswith(")")
            yield _Mention(letter, start, end, is_said, is_first, is_bracketed)


def _is_no_word(letter: str, after: str, option: str) -> bool:
    """Check by the following text that a letter is neither an article nor a pronoun, nor the beginning of a name."""
    if _plain(option)[: _SIGHT // 2] and _plain(after.lstrip(" \t-–:.,()[]")).startswith(_plain(option)[: _SIGHT // 2]):
        return True
    if letter.upper() in "AI" and _OPENING.match(after):
        return False
    if _PUNCTUATION.match(after):
        return True
    word = _WORD.match(after)
    known = {"A": _AFTER_A, "I": _AFTER_I}.get(letter.upper(), _AFTER_ANY)
    return word is not None and word[1].lower() in known


def _is_a_line(before: str, after: str) -> bool:
    """Check whether a letter is alone on its line, in a text of several lines."""
    line = before.rpartition("\n")[2] + after.partition("\n")[0]
    return not re.search(r"\w", line) and "\n" in before + after


def _beside(mention: _Mention, mentions: Sequence[_Mention], text: str) -> set[str]:
    """Return the letters that are listed together with this one, or that follow in a list that it begins."""
    named = {mention.letter}
    for left, right in pairwise(mentions):
        between = text[left.end : right.start]
        # "between A and C, B is right": that comma ends a clause.
        is_clause = between.strip() == "," and _IS_RIGHT.match(text[right.end :])
        if named & {left.letter, right.letter} and _LISTED.fullmatch(between) and not is_clause:
            named |= {left.letter, right.letter}
    if not mention.is_said and _ITEM.match(text[mention.end :]):
        named |= {m.letter for m in mentions if _ITEM.match(text[m.end :])}
    return named


def _only(letters: set[str | None] | set[str]) -> str | None:
    return letters.pop() if len(letters) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.lower().strip().rstrip(".").split())
