"""The prompt of a judge.

Accuracies in papers were judged with the prompt of Video-ChatGPT's scorer. Only figures of one prompt and one judge
can be compared, so this package's own prompt is for comparing runs with each other. To compare with a paper, give its
prompt as a file (`JudgePrompt.from_file`) and use its judge, in the same version.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from voco_video.errors import DataError, used_wrongly

_FIELDS = ("question", "answer", "prediction")
_PLACES = re.compile("{(" + "|".join(_FIELDS) + ")}")


@dataclass(frozen=True)
class JudgePrompt:
    """A system turn and a user turn.

    Attributes:
        system: the judge's role.
        user: the request, with the placeholders {question}, {answer} and {prediction}; other braces stay.
    """

    system: str
    user: str

    @property
    def hash(self) -> str:
        """64 hex digits that change with any character of the prompt."""
        return sha256(f"{self.system}\0{self.user}".encode()).hexdigest()

    def messages(self, *, question: str, answer: str, prediction: str) -> list[dict[str, str]]:
        """Return the turns of one request; placeholders inside the inserted texts are not replaced again."""
        values = {"question": question, "answer": answer, "prediction": prediction}
        user = _PLACES.sub(lambda place: values[place[1]], self.user)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> JudgePrompt:
        """Read a prompt from a text file: the system turn, a line "---", the user turn.

        Raises:
            DataError: the file cannot be read, or lacks the line or one of the placeholders.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            failed = DataError(f"{path}: cannot be read ({error})")
            raise (used_wrongly(failed) if isinstance(error, FileNotFoundError) else failed) from error
        parts = re.split(r"^---[ \t]*\n", text, maxsplit=1, flags=re.MULTILINE)
        if len(parts) != 2:
            raise DataError(f'{path}: has to hold the system turn, a line "---", and the user turn')
        missing = [name for name in _FIELDS if f"{{{name}}}" not in parts[1]]
        if missing:
            raise DataError(f"{path}: its user turn has no {{{missing[0]}}}, so the judge would not see it")
        return cls(*(part.strip() for part in parts))


PROMPT = JudgePrompt(
    system=(
        "You grade short answers to questions about videos. For each question you get the correct answer and a "
        "predicted answer. Decide whether the two mean the same as answers to that question. Synonyms, other word "
        "forms, rewording and more detail that does not contradict the correct answer are all right. You do not see "
        "the video: take the correct answer as true."
    ),
    user=(
        "Question: {question}\n"
        "Correct answer: {answer}\n"
        "Predicted answer: {prediction}\n\n"
        "Reply with one Python dictionary and nothing else. It has two keys: 'pred', which is 'yes' if the predicted "
        "answer is right and 'no' if it is not, and 'score', a whole number from 0 (nothing in common) to 5 (means "
        "the same). For example: {'pred': 'no', 'score': 1}"
    ),
)
"""This package's own prompt."""
