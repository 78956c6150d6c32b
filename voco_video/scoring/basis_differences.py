"""On what runs rest that are compared: in what they differ, in what they agree, and what nobody wrote down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voco_video.scoring.basis import Basis, FramesSeen, digest_of

_JUDGE, _PIXELS = "judge", "pixels of the same frames"
_TIMES, _SIZE = "times of the frames", "size of the frames"
_SHOWN_DIGITS = 12
_SHOWN_PROMPT = 120

Values = Sequence[Any]
"""One value for each question in common, or one for all; None: not known."""


@dataclass(frozen=True)
class Trait:
    """One thing that scores rest on, in each run.

    Attributes:
        name: what it is.
        values: of each run, for people; None: nobody wrote it down.
        state: "same", "differs", or "not known" where too few runs know it to tell.
        num_differing: questions on which some runs differ; None for what is the same for all questions of a run.
        num_compared: questions of which at least two runs know it; None as above.
    """

    name: str
    values: tuple[str | None, ...]
    state: str
    num_differing: int | None = None
    num_compared: int | None = None


def traits_of(bases: Mapping[str, Basis], question_ids: Sequence[str]) -> tuple[Trait, ...]:
    """Compare what runs rest on, on the questions that all of them have.

    Args:
        bases: by the runs' names.
        question_ids: of the questions in common.

    >>> one, other = Basis(run={"settings": {"num_voco_tokens": 1}}), Basis(run={"settings": {"num_voco_tokens": 8}})
    >>> next(t for t in traits_of({"k1": one, "k8": other}, ["7"]) if t.state == "differs")
    Trait(name='tokens kept of a frame (k)', values=('1', '8'), state='differs', num_differing=None, num_compared=None)
    """
    runs = list(bases.values())
    traits = [_of_run(name, runs, get) for name, get in _OF_RUNS[:1]]
    traits += [_of_questions(name, runs, question_ids, get, show) for name, get, show in _OF_FRAMES]
    traits += [_pixels(runs, question_ids)]
    traits += [_of_run(name, runs, get) for name, get in _OF_RUNS[1:]]
    traits += [_prompts(runs, question_ids)]
    return tuple(sorted(traits, key=lambda trait: trait.state != "differs"))


# ---------------------------------------------------------------------- of a whole run


def _setting(*names: str) -> Callable[[Basis], Any]:
    """Make a function that returns settings by their names, with dots where they are nested; None without settings."""

    def get(basis: Basis) -> Any:
        found = {name: _nested(basis.settings, name) for name in names}
        if all(value is None for value in found.values()):
            return None
        return found[names[0]] if len(names) == 1 else {n: v for n, v in found.items() if v is not None}

    return get


def _nested(values: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None  # type: ignore[assignment]
    return values


def _set(basis: Basis) -> Any:
    names = [basis.settings.get(name) for name in ("dataset", "split")]
    return " ".join(filter(None, names)) or None


def _budget(basis: Basis) -> Any:
    return (basis.settings["num_voco_tokens"] or "all") if "num_voco_tokens" in basis.settings else None


def _compressor(basis: Basis) -> Any:
    used = {seen.compressor for seen in basis.views.values()}
    learned = "voco" if _nested(basis.settings, "cache.num_voco_tokens") else None
    return ", ".join(sorted(used)) or _nested(basis.settings, "cache.compressor") or learned


def _weights(basis: Basis) -> Any:
    prints = {n: basis.settings.get(f"{n}_fingerprint") for n in ("model", "answering")}
    if None in prints.values():
        return None
    name = basis.run.get("model")
    shown = digest_of(list(prints.values()))[:_SHOWN_DIGITS]
    return f"{name} {shown}" if isinstance(name, str) else shown


def _weights_alone(basis: Basis) -> Any:
    return [basis.settings.get("model_fingerprint"), basis.settings.get("answering_fingerprint")]


def _engine(basis: Basis) -> Any:
    """Say what computed the answers: the program and its versions, the device, the attention."""
    engine = basis.run.get("engine") or basis.settings.get("engine")
    found = {"engine": engine} if engine else {}
    found |= {name: basis.settings.get(name) for name in ("device", "attention")}
    versions = basis.run.get("versions")
    if isinstance(versions, dict):
        found |= {name: versions.get(name) for name in ("voco_video", "torch", "transformers")}
    found |= {name: basis.run.get(name) for name in ("machine", "num_threads")}
    return {name: value for name, value in found.items() if value is not None} or None


def _words_around(basis: Basis) -> Any:
    """Return what the model read around its prompts; one text, as every prompt of a run stands in the same words."""
    around = {one.told.replace(one.asked.strip(), "{prompt}") for one in basis.examples.values() if one.told}
    return " | ".join(sorted(around)) or None


def _judge(basis: Basis) -> Any:
    if not basis.judge:
        return None
    names = ("model", "revision", "base_url", "prompt", "prompt_hash", "temperature", "max_tokens")
    found = {name: basis.judge.get(name) for name in names if basis.judge.get(name) is not None}
    return {**found, "prompt_hash": str(found["prompt_hash"])[:_SHOWN_DIGITS]} if "prompt_hash" in found else found


_OF_RUNS: tuple[tuple[str, Callable[[Basis], Any]], ...] = (
    ("data set", _set),
    ("frames sampled", _setting("cache.sampling")),
    ("pictures fitted to the model", _setting("cache.images")),
    ("decoder", _setting("cache.decoder")),
    ("compressor", _compressor),
    ("tokens kept of a frame (k)", _budget),
    ("form, type and storage", _setting("cache.form", "cache.dtype", "cache.storage", "cache.merge_pictures")),
    (
        "frames chosen for a question",
        _setting("policy", "max_voco_tokens", "neighbours", "clock_every_seconds"),
    ),
    ("words around the prompt", _words_around),
    ("answering", _setting("answer_by", "max_new_tokens", "questions_per_batch")),
    ("weights", _weights),
    ("engine", _engine),
    (_JUDGE, _judge),
)


def _of_run(name: str, runs: Sequence[Basis], get: Callable[[Basis], Any]) -> Trait:
    values = [get(run) for run in runs]
    compared = [
        _weights_alone(run) if get is _weights and value is not None else value for run, value in zip(runs, values)
    ]
    known = [digest_of(value) for value in compared if value is not None]
    state = "differs" if len(set(known)) > 1 else "same" if len(known) == len(runs) else "not known"
    if name == _JUDGE and state == "not known" and known:
        state = "differs"  # a judged run and one that nobody judged
    changing = _changing(values) if state == "differs" else None
    return Trait(name, tuple(None if v is None else _shown(v, changing) for v in values), state)


def _changing(values: Values) -> set[str] | None:
    """Return the parts in which named values differ, so that only these are shown; None for other values."""
    named = [value for value in values if isinstance(value, Mapping)]
    if len(named) < 2:
        return None
    flat = [_flat(value) for value in named]
    return {n for one in flat for n in one if len({digest_of(other.get(n)) for other in flat}) > 1}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return flat


def _shown(value: Any, only: set[str] | None = None) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    parts = {n: v for n, v in _flat(value).items() if (n in only if only is not None else v is not None)}
    return ", ".join(f"{name.rpartition('.')[2]} {'not set' if part is None else part}" for name, part in parts.items())


# ---------------------------------------------------------------------- question by question


def _numbers(values: Sequence[int], unit: str) -> str:
    low, high = min(values), max(values)
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _sizes(values: Values) -> str:
    counts = Counter("none" if size is None else f"{size[1]} x {size[0]}" for size in values)
    return ", ".join(name for name, _ in counts.most_common(3)) + (" and others" if len(counts) > 3 else "")


def _times_shown(values: Values) -> str:
    first = next((times for times in values if times), ())
    some = ", ".join(f"{time:.2f}" for time in first[:3])
    return _numbers([len(times) for times in values], "frames") + (f" (such as {some}, … s)" if some else "")


_OF_FRAMES: tuple[tuple[str, Callable[[FramesSeen], Any], Callable[[Values], str]], ...] = (
    ("video files", lambda seen: seen.file, lambda values: f"{len(set(values))} files, {digest_of(values)[:8]}"),
    (_TIMES, lambda seen: seen.times, _times_shown),
    (_SIZE, lambda seen: seen.frame_size, _sizes),
    (
        "vision tokens of a frame",
        lambda seen: seen.vision_tokens,
        lambda values: _numbers([value or 0 for value in values], "tokens"),
    ),
    ("tokens that a question saw", lambda seen: seen.seen_tokens, lambda values: _numbers(values, "tokens")),
)


def _of_questions(
    name: str,
    runs: Sequence[Basis],
    question_ids: Sequence[str],
    get: Callable[[FramesSeen], Any],
    show: Callable[[Values], str],
) -> Trait:
    seen = [{q: get(one) for q in question_ids if (one := run.seen_by(q)) is not None} for run in runs]
    return _by_question(name, seen, question_ids, [show(list(one.values())) if one else None for one in seen])


def _by_question(
    name: str, known: Sequence[Mapping[str, Any]], question_ids: Sequence[str], shown: Sequence[str | None]
) -> Trait:
    num_compared = num_differing = 0
    for question_id in question_ids:
        values = [one[question_id] for one in known if question_id in one]
        num_compared += len(values) > 1
        num_differing += any(value != values[0] for value in values[1:])
    state = "differs" if num_differing else "same" if all(known) and num_compared else "not known"
    return Trait(name, tuple(shown), state, num_differing, num_compared)


def _pixels(runs: Sequence[Basis], question_ids: Sequence[str]) -> Trait:
    """Compare pixels where files may differ but times and sizes are the same: otherwise they differ anyway."""
    known: list[dict[str, str]] = [{} for _ in runs]
    for question_id in question_ids:
        seen = [run.seen_by(question_id) for run in runs]
        shapes = {(one.times, one.frame_size) for one in seen if one is not None}
        for place, one in enumerate(seen):
            if len(shapes) == 1 and one is not None and one.pixels is not None:
                known[place][question_id] = one.pixels
    shown = [digest_of(list(one.values()))[:_SHOWN_DIGITS] if one else None for one in known]
    return _by_question(_PIXELS, known, question_ids, shown)


def _prompts(runs: Sequence[Basis], question_ids: Sequence[str]) -> Trait:
    known = [{q: run.prompt_of[q] for q in question_ids if q in run.prompt_of} for run in runs]
    shown = [_prompt_shown(run) if one else None for run, one in zip(runs, known)]
    return _by_question("prompt", known, question_ids, shown)


def _prompt_shown(run: Basis) -> str:
    template = run.settings.get("prompt")
    text = template if isinstance(template, str) else next((one.asked for one in run.examples.values()), "written down")
    plain = " ".join(text.split())
    return plain if len(plain) <= _SHOWN_PROMPT else f"{plain[:_SHOWN_PROMPT]}…"


# ---------------------------------------------------------------------- for people


def trait_rows(traits: Sequence[Trait]) -> list[list[str]]:
    """Return a row for each thing in which runs differ: what it is, and each run's value."""
    rows = []
    for trait in traits:
        if trait.state == "differs":
            count = "" if trait.num_differing is None else f" ({trait.num_differing} of {trait.num_compared} questions)"
            rows.append([f"{trait.name}{count}", *(_or_unknown(trait, value) for value in trait.values)])
    return rows


def _or_unknown(trait: Trait, value: str | None) -> str:
    return value if value is not None else "nobody" if trait.name == _JUDGE else "not known"


def trait_notes(traits: Sequence[Trait], names: Sequence[str]) -> list[str]:
    """Return sentences on what runs agree in, and on what nobody wrote down."""
    notes = []
    if same := [trait.name for trait in traits if trait.state == "same"]:
        notes.append(f"The same in all runs: {', '.join(same)}.")
    written = [trait for trait in traits if trait.name != _JUDGE]
    for place, name in enumerate(names):
        if all(trait.values[place] is None for trait in written):
            notes.append(f"Nobody wrote down what {name} rests on.")
        elif missing := [t.name for t in written if t.values[place] is None and not _is_of_other_frames(t, traits)]:
            notes.append(f"Not known of {name}: {', '.join(missing)}.")
    if all(trait.values == (None,) * len(names) for trait in traits if trait.name == _JUDGE):
        notes.append("No run has a report with a judge beside it.")
    return notes


def _is_of_other_frames(trait: Trait, traits: Sequence[Trait]) -> bool:
    """Tell whether pixels were not compared because runs saw other frames, which is said already."""
    return trait.name == _PIXELS and any(t.state == "differs" for t in traits if t.name in (_TIMES, _SIZE))
