"""Which prediction answers which question: by id, or by the question's place among those on its video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from voco_video.data.samples import Dataset, Turn
from voco_video.errors import DataError
from voco_video.scoring.prediction_layouts import Entry


@dataclass(frozen=True)
class Matching:
    """Entries by the published id of the question they answer, with counts of the others.

    Attributes:
        entries: for each question that has an entry.
        num_unknown: entries to no question of the references.
        num_duplicates: entries to a question that an earlier one answers; the first one counts.
        num_other_questions: entries whose question has another wording than the reference.
        num_other_answers: entries whose reference answer is another one.
    """

    entries: dict[str, Entry]
    num_unknown: int
    num_duplicates: int
    num_other_questions: int
    num_other_answers: int


def match_entries(path: Path, entries: Sequence[Entry], references: Dataset) -> Matching:
    """Find the question that each entry answers.

    An id may be the published one, or "v_<video>_<k>" (the question's place among those on its video, from 0), as in
    files of Video-ChatGPT and Video-LLaVA. A file uses one kind: the one of which more of its ids are known.

    Raises:
        DataError: no id is known, or most questions or answers are others than the references'.
    """
    turn_of = max(
        _published_ids(references), _places(references), key=lambda ids: sum(e.question_id in ids for e in entries)
    )
    known = [(turn_of[entry.question_id], entry) for entry in entries if entry.question_id in turn_of]
    if not known:
        split = f"{references.name} {references.split}".strip()
        example = next(iter(_published_ids(references)))
        first = entries[0].question_id
        raise DataError(f"{path}: none of its ids (such as {first}) is one of {split} (such as {example})")
    matched: dict[str, Entry] = {}
    for turn, entry in known:
        matched.setdefault(turn.question_id, entry)
    return Matching(
        matched,
        num_unknown=len(entries) - len(known),
        num_duplicates=len(known) - len(matched),
        num_other_questions=_differing(
            path, known, "question", lambda text: " ".join(text.lower().strip(" ?").split())
        ),
        num_other_answers=_differing(path, known, "answer", str.lower),
    )


def _published_ids(references: Dataset) -> dict[str, Turn]:
    return {turn.question_id: turn for _, turn in references.questions()}


def _places(references: Dataset) -> dict[str, Turn]:
    return {
        f"v_{sample.name}_{place}": turn for sample in references.samples for place, turn in enumerate(sample.turns)
    }


def _differing(path: Path, known: Sequence[tuple[Turn, Entry]], name: str, plain: Callable[[str], str]) -> int:
    """Count entries whose text in a field differs from the reference; more than half of them is an error."""
    pairs = [(getattr(entry, name), getattr(turn, name), entry) for turn, entry in known if getattr(entry, name)]
    others = [(said, meant, entry) for said, meant, entry in pairs if plain(said) != plain(meant)]
    if 2 * len(others) > len(pairs):
        said, meant, entry = others[0]
        raise DataError(
            f"{path}: {len(others)} of {len(pairs)} {name}s are not the references'; {entry.question_id} has "
            f"{said!r:.80} for {meant!r:.80}. Is it another split, or another list of words?"
        )
    return len(others)
