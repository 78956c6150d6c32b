"""Scores of a predictions file, with what they depend on: as JSON, as Markdown, and as a picture."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voco_video.data.letters import LETTERS, read_letter
from voco_video.data.registry import published_size
from voco_video.data.samples import Dataset
from voco_video.data.spans import read_span
from voco_video.options.judging import Judging
from voco_video.scoring.bootstrap import Estimate
from voco_video.scoring.metrics import MEANS, Scores, official_free, score, with_answers
from voco_video.scoring.predictions import LoadedPredictions, Prediction, load_predictions, read_run_info
from voco_video.scoring.report.charts import draw_by_group
from voco_video.scoring.report.samples import SampleFrames, sample_lines
from voco_video.scoring.report.writing import (
    NAMES,
    bullet_lines,
    fact_lines,
    folded_lines,
    json_text,
    table_lines,
    write_files,
)
from voco_video.version import __version__

if TYPE_CHECKING:
    from voco_video.scoring.judge import Judgement

_NORMALISATION = (
    "Exact match and token F1 compare normalised texts: lower case, no punctuation, no articles, the words zero to "
    "twenty as digits. Strict match compares characters, as the sets' published scripts do."
)
_CHOICE = "An answer counts as the option whose letter or text it names; one that names none is wrong."
_LIKELIHOOD = (
    "Nothing was generated: the chosen option is the one whose text is the likeliest answer, by the mean logarithm of "
    "its tokens' probabilities (accuracy), and by their sum (plain accuracy), the end token included."
)
_GROUNDING = (
    "IoU is intersection over union in time, of the first stretch that an answer names and the reference that it fits "
    "best; R@1 at IoU 0.3, 0.5 and 0.7 is the share of questions where it is that large. An answer that names no two "
    "times has an IoU of 0."
)
_INTERVALS = (
    "Intervals are 95 % percentiles of {count} resamples of videos, seed {seed}: a video's questions stay together."
)


@dataclass(frozen=True)
class Report:
    """The scores of a predictions file, with everything that they depend on.

    Attributes:
        predictions: the file.
        dataset, split: the questions' set and split; "" if unknown.
        references: the annotation files with the answers; empty: the predictions file holds them.
        loaded: the predictions that are scored, with counts of the file's rows.
        scores: scores without a judge.
        judgement: the judge's verdicts; None without a judge.
        run: run info of the predictions; None if there is none.
        scored_with: versions, and facts from the caller, such as the command.
        notes: what a reader has to know to understand the figures.
        num_skipped: number of unanswered questions that were left out on request.
    """

    predictions: Path
    dataset: str
    split: str
    references: tuple[Path, ...]
    loaded: LoadedPredictions
    scores: Scores
    judgement: Judgement | None
    run: dict[str, Any] | None
    scored_with: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    num_skipped: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Counts of the file's rows, by name."""
        return {**self.loaded.counts, "num_skipped": self.num_skipped}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "predictions": str(self.predictions),
            "dataset": self.dataset,
            "split": self.split,
            "references": [str(path) for path in self.references],
            "layout": self.loaded.layout,
            "counts": self.counts,
            "notes": list(self.notes),
            "scores": self.scores.as_dict(),
            "judgement": self.judgement.as_dict() if self.judgement else None,
            "run": self.run,
            "scored_with": self.scored_with,
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the scores' columns and rows, in percent with intervals; the judge's score is from 0 to 5."""
        columns = ["questions about", "questions", "videos", "unanswered"]
        columns += [f"{NAMES[name]} %" for name in self.scores.metrics]
        rows = []
        for group in self.scores.groups:
            counts = (group.num_questions, group.num_videos, group.num_unanswered)
            rows.append([group.name, *map(str, counts), *(estimate.text(100) for estimate in group.metrics.values())])
        if self.judgement is not None:
            columns += ["judged yes %", "judge's score"]
            judged = {group.name: group for group in self.judgement.groups}
            for row in rows:
                by_judge = judged.get(row[0])
                row += [by_judge.share_yes.text(100), by_judge.mean_score.text()] if by_judge else ["–", "–"]
        return columns, rows


def score_file(
    path: str | os.PathLike[str],
    *,
    references: Dataset | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
    skip_missing: bool = False,
    judging: Judging | None = None,
    judge_cache_dir: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score a predictions file, in this package's layout or a public one.

    Args:
        path: the predictions.
        references: the questions with their answers; None: the predictions file holds them.
        vocabulary: see `voco_video.scoring.predictions.load_predictions`.
        skip_missing: leave out unanswered questions instead of counting them as wrong.
        judging: who judges, for verdicts as well; None, or without a model: nobody.
        judge_cache_dir: where the judge's replies are kept; None: nowhere.
        facts: further facts for the report, such as the command.
        progress: called with (questions judged, questions to judge).

    Raises:
        DataError: see `load_predictions`.
        UsageError, JudgeError: see `voco_video.scoring.judge.judge`.

    >>> score_file("k8.jsonl").scores.overall["exact_match"].text(100)  # doctest: +SKIP
    '41.15 [39.26, 43.06]'
    """
    all_loaded = load_predictions(path, references=references, vocabulary=vocabulary)
    loaded = _answered_only(all_loaded) if skip_missing else all_loaded
    run = read_run_info(path)
    dataset, split = (references.name, references.split) if references else _set_of(run)
    judgement = None
    if judging is not None and judging.judge_model is not None:
        from voco_video.scoring.judge import judge

        judgement = judge(loaded.predictions, judging, dataset=dataset, cache_dir=judge_cache_dir, progress=progress)
    return Report(
        Path(path),
        dataset,
        split,
        references.annotations if references else (),
        loaded,
        score(loaded.predictions, dataset=dataset),
        judgement,
        run,
        scored_with={"versions": versions(), **(facts or {})},
        notes=(
            *_notes_on_model(run),
            *_note_on_skipped(all_loaded, loaded),
            *_notes(loaded, dataset, split, judgement),
        ),
        num_skipped=all_loaded.num_unanswered - loaded.num_unanswered,
    )


def _answered_only(loaded: LoadedPredictions) -> LoadedPredictions:
    return replace(loaded, predictions=tuple(p for p in loaded.predictions if p.prediction is not None))


def _notes_on_model(run: dict[str, Any] | None) -> list[str]:
    note = (run or {}).get("model_note")
    return [f"The model: {note}"] if note else []


def _note_on_skipped(all_loaded: LoadedPredictions, scored: LoadedPredictions) -> list[str]:
    num_skipped, total = all_loaded.num_unanswered - scored.num_unanswered, len(all_loaded.predictions)
    if num_skipped == 0:
        return []
    return [
        f"{num_skipped} of {total} questions are unanswered and left out, as asked for: these figures cannot be "
        "compared with those of the whole split."
    ]


def versions() -> dict[str, str]:
    """Return the versions of everything that scores depend on."""
    import numpy

    return {"voco_video": __version__, "numpy": numpy.__version__, "python": platform.python_version()}


def _set_of(run: dict[str, Any] | None) -> tuple[str, str]:
    settings = (run or {}).get("settings", {})
    return settings.get("dataset", ""), settings.get("split", "")


def _notes(loaded: LoadedPredictions, dataset: str, split: str, judgement: Judgement | None) -> list[str]:
    total, counts = len(loaded.predictions), loaded.counts
    notes = []
    published = published_size(dataset, split)
    if published is not None and published.num_questions != total:
        notes.append(f"These are {total} questions; {dataset} {split} as published has {published.num_questions}.")
    if num_unanswered := counts["num_unanswered"]:
        undecodable = sum(p.status == "undecodable" for p in loaded.predictions)
        notes.append(
            f"{num_unanswered} of {total} questions are unanswered and count as wrong"
            + (f", {undecodable} of them because their video cannot be decoded." if undecodable else ".")
        )
    notes += _notes_on_choices(loaded)
    answers = [p.prediction for p in loaded.predictions if p.windows and p.prediction is not None]
    if num_timeless := sum(read_span(answer) is None for answer in answers):
        notes.append(f"{num_timeless} of {len(answers)} answers name no two times and count as wrong.")
    for name, what in (
        ("num_unknown", "match no question of the references and are left out"),
        ("num_duplicates", "repeat a question; the first prediction counts"),
        ("num_other_questions", "have another wording of the question than the references"),
        ("num_other_answers", "have another reference answer; the references' counts"),
    ):
        if counts[name]:
            notes.append(f"{counts[name]} of {counts['num_rows']} rows {what}.")
    if dataset == "activitynet" and published is not None and published.num_questions == total:
        notes.append(_note_on_free(loaded))
    if judgement is not None:
        notes += judge_notes(judgement)
    return notes


def _notes_on_choices(loaded: LoadedPredictions) -> list[str]:
    notes, total = [], len(loaded.predictions)
    if num_secret := total - len(with_answers(loaded.predictions)):
        notes.append(
            f"{num_secret} of {total} questions have no public answer and are not scored. The report's "
            ".submission.json has the place of each chosen option, from 0, by question id, as EgoSchema takes it."
        )
    answered = [p for p in loaded.predictions if p.options and p.prediction is not None]
    if num_unread := len(answered) - len(chosen_places(answered)):
        notes.append(f"{num_unread} of {len(answered)} answers name none of the options and count as wrong.")
    if choices := [1 / len(p.options) for p in with_answers(loaded.predictions) if p.options]:
        notes.append(f"Guessing gets {100 * sum(choices) / len(choices):.2f} % of all questions right.")
    return notes


def chosen_places(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Return the place of each option that an answer names, from 0, by question id."""
    letters = {p.question_id: read_letter(p.prediction or "", p.options) for p in predictions}
    return {question_id: LETTERS.index(letter) for question_id, letter in letters.items() if letter}


def _note_on_free(loaded: LoadedPredictions) -> str:
    """Explain why ActivityNet-QA's own script prints another "Free"."""
    free = official_free(loaded.predictions)
    printed, right = free.num_right / free.official_denominator, free.num_right / free.num_questions
    return (
        f"Free, by strict match, is {free.num_right} right of {free.num_questions} = {right:.4f}. ActivityNet-QA's "
        f"evaluation/eval.py prints {printed:.4f}: it takes the counts of all but the first three types for the free "
        "ones, but in the order in which the annotation file first names them. So it leaves out "
        f"{', '.join(free.left_out)} in place of motion, spatial and temporal, and divides by "
        f"{free.official_denominator}."
    )


def judge_notes(judgement: Judgement) -> list[str]:
    """Return who judged, what that took, and what was not judged."""
    name, shown = judgement.judge["model"], ", ".join(judgement.answered_as) or "no name"
    revision = judgement.judge.get("revision")
    which = f"revision {revision}" if revision else "of no named revision: its name may mean other weights later"
    notes = [
        f"Judge: {name}, {which}, at {judgement.judge['base_url']} (it calls itself {shown}), temperature 0, prompt "
        f"{judgement.judge['prompt_hash'][:16]}. Figures of another judge or prompt cannot be compared with these.",
        f"Requests {judgement.num_requests}, {judgement.num_retries} of them retries; {judgement.num_from_cache} "
        f"replies from disk; tokens {judgement.prompt_tokens} in, {judgement.completion_tokens} out"
        + (f"; cost {judgement.cost:.4f}." if judgement.cost is not None else "."),
    ]
    if judgement.num_without_usage:
        notes.append(f"{judgement.num_without_usage} replies came without a count of tokens.")
    if judgement.num_failures:
        low, high = (f"{100 * bound:.2f}" for bound in judgement.share_yes_bounds)
        notes.append(
            f"{judgement.num_failures} predictions are not judged ({judgement.num_unparsable} replies were no verdict, "
            f"{judgement.num_no_reply} questions got no reply) and left out of the judge's figures: with all of them "
            f"wrong, or right, the share would be {low} or {high} %."
        )
    return notes


# ---------------------------------------------------------------------- files


def write_report(report: Report, stem: Path, *, frames: Mapping[str, SampleFrames] | None = None) -> tuple[Path, ...]:
    """Write STEM.json, STEM.md and STEM.png.

    With a judge, STEM.verdicts.jsonl is written too, and STEM.submission.json if questions have no public answer.

    Args:
        frames: frames of the videos of the questions that are shown, by question id.

    Raises:
        UsageError: one of these files is the predictions file.
        DataError: the place cannot be written.
    """
    files = {
        ".json": json_text(report.as_dict()),
        ".md": to_markdown(report, picture=f"{stem.name}.png", frames=frames),
    }
    if report.judgement is not None:
        files[".verdicts.jsonl"] = "".join(f"{question.json_line()}\n" for question in report.judgement.questions)
    predictions = report.loaded.predictions
    if len(with_answers(predictions)) < len(predictions):
        files[".submission.json"] = json.dumps(chosen_places(predictions)) + "\n"
    first = report.scores.metrics[0]
    series = {NAMES[first]: {group.name: group[first] for group in report.scores.groups}}
    if report.judgement is not None:
        judged = {group.name: group.share_yes for group in report.judgement.groups}
        series["judged yes"] = {name: judged.get(name, Estimate(math.nan, None, None)) for name in series[NAMES[first]]}
    return write_files(
        files, stem, lambda path: draw_by_group(series, path, title=_title(report)), inputs=[report.predictions]
    )


def to_markdown(report: Report, *, picture: str | None = None, frames: Mapping[str, SampleFrames] | None = None) -> str:
    """Write the report as Markdown: scores, some questions with their answers, and, folded away, all settings."""
    lines = [f"# {_title(report)}", "", _headline(report), ""]
    if picture is not None:
        lines += [f"![accuracy by question type]({picture})", ""]
    lines += [*table_lines(*report.table()), "", *bullet_lines(report.notes)]
    lines += sample_lines(report.loaded.predictions, frames or {})
    draws = {"count": report.scores.num_resamples, "seed": report.scores.seed}
    how = [*_notes_on_metrics(report.scores), _INTERVALS.format(**draws), *_note_on_ranks(report.scores)]
    scored = {
        "predictions": str(report.predictions),
        "layout": report.loaded.layout,
        "references": ", ".join(map(str, report.references)) or "in the predictions",
        **report.counts,
        **report.scored_with,
    }
    lines += folded_lines("How it was measured", [*bullet_lines(how), *fact_lines(scored)])
    if report.run:
        lines += folded_lines("The run", fact_lines(report.run))
    else:
        lines += ["Nobody wrote down how these predictions came about."]
    return "\n".join(lines).rstrip() + "\n"


def _headline(report: Report) -> str:
    """Write the main figure in one line, with what it is of."""
    overall, name = report.scores.overall, report.scores.metrics[0]
    settings = (report.run or {}).get("settings", {})
    budget = settings.get("num_voco_tokens")
    of_what = " · ".join(filter(None, [str((report.run or {}).get("model") or ""), f"k={budget}" if budget else ""]))
    figure = f"**{overall[name].text(100)} % {NAMES[name]}**"
    return f"{figure} on {overall.num_questions} questions about {overall.num_videos} videos" + (
        f" ({of_what})" if of_what else ""
    )


def _title(report: Report) -> str:
    return f"{report.dataset} {report.split}".strip() or report.predictions.name


def _notes_on_metrics(scores: Scores) -> list[str]:
    if "miou" in scores.metrics:
        return [_GROUNDING]
    if "accuracy" not in scores.metrics:
        return [_NORMALISATION]
    groups = {group.name for group in scores.groups}
    means = [f"The {name} gives each question type the same weight." for name in MEANS.values() if name in groups]
    return [_LIKELIHOOD if "accuracy_plain" in scores.metrics else _CHOICE, *means]


def _note_on_ranks(scores: Scores) -> list[str]:
    if scores.num_ranked is None:
        return []
    ranked = f"the true answer of {scores.num_ranked} of {scores.overall.num_questions} questions was ranked"
    return [f"Top-1 and top-10: {ranked}; the others are misses."]
