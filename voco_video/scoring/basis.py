"""What a score rests on, question by question: the frames that were seen, and what the model was asked.

    PREDICTIONS.basis.json      a list, one item a line:
        {"view": id, "video", "file", "source", "times", ...}    once for equal frames
        {"question_id", "kind": type, "asked", "told", "view"}   one question of each type, with all words
        {"question_id", "view": id, "prompt": digest}            for each answered question

Settings, weights and versions stand in the run info; the judge stands in the report beside the predictions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from blake3 import blake3

from voco_video.data.files import Row, named_values, read_rows
from voco_video.errors import DataError
from voco_video.files.atomic_write import write_atomically
from voco_video.scoring.prediction_layouts import ID_FIELDS
from voco_video.scoring.predictions import read_run_info

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class FramesSeen:
    """The frames that a question saw.

    Attributes:
        video: the video's name in the set.
        source: its file, as it was given.
        file: digest of the file's bytes.
        times: seconds, one for each frame.
        pixels: digest of the frames' pixels as the model got them; None: not known, or no pixels.
        frame_size: height and width of these pixels; None: not known, or no pixels.
        vision_tokens: tokens that the vision tower made of each frame; None: not known.
        seen_tokens: tokens of all frames that the question saw.
        compressor: what made these of the vision tokens.
    """

    video: str
    source: str
    file: str
    times: tuple[float, ...]
    pixels: str | None
    frame_size: tuple[int, int] | None
    vision_tokens: int | None
    seen_tokens: int
    compressor: str

    @property
    def view(self) -> str:
        """32 hex digits that are equal for equal frames, wherever the file lies."""
        return digest_of([value for name, value in asdict(self).items() if name != "source"])


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question's answer rests on.

    Attributes:
        question_id: unique in its split.
        kind: its type.
        asked: the prompt, with the question in it.
        told: all words that the model read, the prompt among them; "" where nobody wrote them down.
        view: of `FramesSeen`; "" where nobody wrote them down.
    """

    question_id: str
    kind: str
    asked: str
    told: str = ""
    view: str = ""

    @property
    def prompt(self) -> str:
        """32 hex digits that are equal for equal prompts."""
        return digest_of(self.asked)


@dataclass(frozen=True)
class Basis:
    """What the scores of a predictions file rest on, as far as it was written down.

    Attributes:
        views: the frames that questions saw, by `FramesSeen.view`.
        view_of, prompt_of: by question id: the view, and the prompt's digest.
        examples: a question of each type, by type, with its whole prompt.
        run: the run info; empty where there is none.
        judge: who judged the answers, from the report beside the predictions; empty where nobody did.
    """

    views: Mapping[str, FramesSeen] = field(default_factory=dict)
    view_of: Mapping[str, str] = field(default_factory=dict)
    prompt_of: Mapping[str, str] = field(default_factory=dict)
    examples: Mapping[str, Asked] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the run; empty where nobody wrote them down."""
        settings = self.run.get("settings")
        return settings if isinstance(settings, dict) else {}

    def seen_by(self, question_id: str) -> FramesSeen | None:
        """Return the frames that a question saw; None where nobody wrote them down."""
        return self.views.get(self.view_of.get(question_id, ""))


def digest_of(value: Any) -> str:
    """Digest a JSON value, to 32 hex digits."""
    return blake3(json.dumps(value, ensure_ascii=False).encode()).hexdigest(length=_DIGEST_BYTES)


def basis_path(predictions: str | os.PathLike[str]) -> Path:
    """Return where the basis of a predictions file stands.

    >>> basis_path("out/k8.jsonl").as_posix()
    'out/k8.basis.json'
    """
    return Path(predictions).with_suffix(".basis.json")


def default_stem(predictions: Path) -> Path:
    """Return a report's default place: ``runs/k8.jsonl`` gives ``runs/k8.scores``."""
    return predictions.with_name(f"{predictions.stem}.scores")


def view_line(seen: FramesSeen) -> str:
    """Write frames that were seen as one line of JSON, without a line end."""
    return json.dumps({"view": seen.view, **asdict(seen)}, ensure_ascii=False)


def example_line(one: Asked) -> str:
    """Write a question's prompt as one line of JSON, without a line end."""
    return json.dumps(asdict(one), ensure_ascii=False)


def write_basis(path: Path, questions: Sequence[str], basis: Basis, texts: Mapping[str, Asked]) -> None:
    """Write the basis of a run, in one step.

    Args:
        path: see `basis_path`; nothing is written where nothing was asked.
        questions: ids, in published order; those that were not asked are left out.
        basis: its views, and what each question saw and was.
        texts: prompts by question id, of the first question of each type at least.
    """
    asked = [question_id for question_id in questions if question_id in basis.view_of]
    examples: dict[str, Asked] = {}
    for question_id in asked:
        if one := texts.get(question_id):
            examples.setdefault(one.kind, one)
    lines = [view_line(basis.views[view]) for view in dict.fromkeys(basis.view_of[one] for one in asked)]
    lines += [example_line(one) for one in examples.values()]
    lines += [
        json.dumps({"question_id": one, "view": basis.view_of[one], "prompt": basis.prompt_of[one]}) for one in asked
    ]
    if lines:
        write_atomically(path, "[\n" + ",\n".join(lines) + "\n]\n")


def read_basis(predictions: str | os.PathLike[str]) -> Basis:
    """Read all that is known of how a predictions file came about.

    Raises:
        DataError: a file beside it is there, but cannot be read.
    """
    path, place = Path(predictions), basis_path(predictions)
    if not place.is_file() and (logged := _prompts_of_harness(path)):
        prompts = {one.question_id: one.prompt for one in logged}
        return Basis(prompt_of=prompts, examples={"": logged[0]}, run=_harness(path), judge=_judge_of(path))
    views, view_of, prompt_of, texts = parse_basis(read_rows(place) if place.is_file() else ())
    examples = {one.kind: one for one in texts.values()}
    return Basis(views, view_of, prompt_of, examples, read_run_info(path) or {}, _judge_of(path))


def _prompts_of_harness(path: Path) -> list[Asked]:
    """Read the prompts in lmms-eval's log of samples, which has ids where its task logs them; none in other files."""
    if path.suffix.lower() != ".jsonl":
        return []
    rows = [row for row in read_rows(path) if row.has("filtered_resps") and row.has("input") and row.has(*ID_FIELDS)]
    return [
        Asked(row.text(*ID_FIELDS), "", row.values["input"]) for row in rows if isinstance(row.values["input"], str)
    ]


def _harness(path: Path) -> dict[str, Any]:
    """Read which model lmms-eval ran, from its results beside the log of samples; empty where there are none."""
    began, found, _ = path.name.partition("_samples_")
    results = path.with_name(f"{began}_results.json")
    if not found or not results.is_file():
        return {}
    config = named_values(results).get("config")
    if not isinstance(config, dict):
        return {}
    return {"engine": f"lmms-eval, model {config.get('model')} ({config.get('model_args')})"}


def parse_basis(
    rows: Iterable[Row],
) -> tuple[dict[str, FramesSeen], dict[str, str], dict[str, str], dict[str, Asked]]:
    """Read views, what each question saw, its prompt's digest, and prompts by question id; later rows count.

    Raises:
        DataError: a row is something else.
    """
    views: dict[str, FramesSeen] = {}
    view_of: dict[str, str] = {}
    prompt_of: dict[str, str] = {}
    texts: dict[str, Asked] = {}
    for row in rows:
        if "times" in row.values:
            seen = frames_seen(row)
            views[seen.view] = seen
        elif "asked" in row.values:
            one = asked_of(row)
            texts[one.question_id] = one
            view_of[one.question_id], prompt_of[one.question_id] = one.view, one.prompt
        else:
            question_id = row.text("question_id")
            view_of[question_id], prompt_of[question_id] = row.text("view"), row.text("prompt")
    return views, view_of, prompt_of, texts


def frames_seen(row: Row) -> FramesSeen:
    """Read what `view_line` wrote.

    Raises:
        DataError: it is something else.
    """
    values = {one.name: row.values.get(one.name) for one in fields(FramesSeen)}
    size, times = values["frame_size"], values["times"]
    if not isinstance(times, list) or not all(isinstance(time, (int, float)) for time in times):
        raise row.error(f"times is {times!r:.80}, but has to be a list of seconds")
    if size is not None and not (isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)):
        raise row.error(f"frame_size is {size!r:.80}, but has to be height and width")
    return FramesSeen(**values | {"times": tuple(times), "frame_size": None if size is None else (size[0], size[1])})


def asked_of(row: Row) -> Asked:
    """Read a question's prompt; texts are taken as they are, blanks around them included.

    Raises:
        DataError: a field is missing, or no text.
    """
    values = {one.name: row.values.get(one.name, "") for one in fields(Asked)}
    wrong = next((name for name, value in values.items() if not isinstance(value, str)), None)
    if wrong is not None or not values["question_id"]:
        raise row.error(f"{wrong or 'question_id'} is {values[wrong or 'question_id']!r:.80}, but has to be text")
    return Asked(**values)


def _judge_of(predictions: Path) -> Mapping[str, Any]:
    """Read who judged, from the report in its default place; empty where there is no such report."""
    place = default_stem(predictions)
    report = place.with_name(f"{place.name}.json")
    if not report.is_file():
        return {}
    try:
        judgement = named_values(report).get("judgement")
    except DataError as error:
        raise DataError(f"{error}; it says who judged {predictions.name}: score it again, or remove it") from error
    judge = judgement.get("judge") if isinstance(judgement, dict) else None
    return judge if isinstance(judge, dict) else {}
