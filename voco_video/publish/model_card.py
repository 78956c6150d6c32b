"""A model card, the README.md of a checkpoint's folder: what it is, what was measured, and how to ask it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from voco_video.checkpoint.describe import CheckpointFacts, describe_checkpoint
from voco_video.checkpoint.folder import load_voco_model
from voco_video.errors import DataError, UsageError
from voco_video.files.paths import expanded
from voco_video.scoring.report.writing import NAMES, table_lines

CARD = "README.md"
_TASK = "video-text-to-text"
_MARK = "<!-- made by voco-video card -->"
_DTYPES = ("float32", "bfloat16", "float16")


def write_model_card(checkpoint: str | Path, reports: Sequence[str | Path]) -> Path:
    """Write a checkpoint's README.md from its files and from evaluations of it.

    Args:
        checkpoint: a folder.
        reports: ``predictions*.scores.json`` as ``voco-video eval`` writes them, in the order of the table.

    Returns:
        The card.

    Raises:
        ModelError: there is no checkpoint.
        UsageError: the folder has a README.md that was not written by this function.
        DataError: a report cannot be read, or is of another model.

    >>> write_model_card("runs/mine/last", ["runs/eval/predictions-k1.scores.json"])      # doctest: +SKIP
    PosixPath('runs/mine/last/README.md')
    """
    card = expanded(checkpoint) / CARD
    if not card.parent.is_dir():
        raise UsageError(f"{checkpoint}: a card is written into a checkpoint's own folder, so give one")
    if card.exists() and _MARK not in card.read_text(encoding="utf-8"):
        raise UsageError(f"{card} was written by somebody; move it away first")
    card.write_text(card_of(checkpoint, reports), encoding="utf-8")
    return card


def card_of(checkpoint: str | Path, reports: Sequence[str | Path], *, name: str | None = None) -> str:
    """Make the text of a checkpoint's card; errors as of `write_model_card`.

    Args:
        checkpoint: as `load_voco_model` takes it.
        reports: as of `write_model_card`.
        name: of the model; that of its folder by default.
    """
    facts = describe_checkpoint(checkpoint)
    evaluations = {Path(report): _read(Path(report)) for report in reports}
    _check_model(checkpoint, evaluations)
    return model_card(facts, list(evaluations.values()), name=name)


def model_card(facts: CheckpointFacts, reports: Sequence[Mapping[str, Any]], *, name: str | None = None) -> str:
    """Write the card's text.

    Args:
        facts: description of the checkpoint.
        reports: `Report.as_dict` of evaluations of it.
        name: of the model; that of its folder by default.
    """
    name = name or Path(facts.path).name
    base = facts.base.partition("@")[0]
    metadata = ModelCardData(
        library_name="voco-video",
        pipeline_tag=_TASK,
        base_model=base if base and not Path(base).is_absolute() else None,
        tags=["video-question-answering", "token-compression"],
        model_name=name,
        eval_results=[result for report in reports for result in _results(report)] or None,
    )
    lines = ["---", metadata.to_yaml(), "---", _MARK, "", f"# {name}", ""]
    if facts.about:
        lines += [facts.about, ""]
    lines += [*_described(facts), "", "## Measured", "", *_measured(reports), "", "## Use", ""]
    return "\n".join([*lines, "```bash", f'voco-video ask clip.mp4 "What happens?" --model {name}', "```", ""])


def _described(facts: CheckpointFacts) -> list[str]:
    voco = "no VoCo tokens: for `pool:k`, `full`, and training"
    if facts.num_voco_tokens:
        voco = f"{facts.num_voco_tokens} VoCo tokens a frame, {'trained' if facts.trained else 'untrained'}"
    kept = ", ".join(f"{size:,} bytes ({form})" for form, size in facts.bytes_per_frame.items())
    lines = [
        f"- {facts.title}: {facts.tower}, {facts.decoder}; {facts.num_parameters:,} parameters, {facts.dtype}",
        f"- frames of {facts.frame_size}, {facts.num_vision_tokens} vision tokens each",
        f"- {voco}; one kept token of a frame takes {kept}",
    ]
    return [*lines, f"- a small adapter for `{facts.base}`, which stays as it is"] if facts.base else lines


def _measured(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    if not reports:
        return ["Nothing yet: `voco-video eval`, then `voco-video card`."]
    metrics = list(dict.fromkeys(name for r in reports for name in r["scores"]["overall"]["metrics"]))
    columns = ["set", "kept of a frame", "frames", "storage", "questions", *(f"{NAMES[m]} %" for m in metrics)]
    rows = [_row(report, metrics) for report in reports]
    ranges = "In brackets 95 % bootstrap intervals over videos. Made by"
    commands = list(dict.fromkeys(f"`{r['run']['command']}`" for r in reports if r["run"].get("command")))
    notes = list(dict.fromkeys(note for report in reports for note in report["notes"]))
    return [*table_lines(columns, rows), "", f"{ranges} {', '.join(commands)}.", *notes]


def _results(report: Mapping[str, Any]) -> list[EvalResult]:
    """Put an evaluation into the form that a hub shows beside a model."""
    cells = dict(zip(("kept of a frame", "frames", "storage"), _row(report, [])[1:4]))
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type=report["dataset"],
            dataset_name=report["dataset"],
            dataset_split=report["split"],
            metric_type=metric,
            metric_name=f"{NAMES[metric]}, in percent",
            metric_value=round(100 * measured["value"], 1),
            metric_args=cells,
        )
        for metric, measured in report["scores"]["overall"]["metrics"].items()
        if measured is not None and measured["value"] is not None
    ]


def _row(report: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    settings, overall = report["run"]["settings"], report["scores"]["overall"]
    cache = settings["cache"]
    k = settings["num_voco_tokens"]
    kept = cache.get("compressor", f"{k} VoCo")
    sampling = {n: v for n, v in cache["sampling"].items() if v is not None and n != "policy"}
    cells = [_percent(overall["metrics"].get(name)) for name in metrics]
    frames = ", ".join(f"{name} {value:g}" for name, value in sampling.items())
    where = f"{report['dataset']} {report['split']}"
    return [where, f"{kept} ({cache['form']})", frames, cache["storage"], str(overall["num_questions"]), *cells]


def _percent(metric: Mapping[str, float | None] | None) -> str:
    if metric is None or metric["value"] is None:
        return "–"
    value, low, high = (None if metric[name] is None else 100 * metric[name] for name in ("value", "low", "high"))  # type: ignore[operator]
    return f"{value:.1f}" if low is None or high is None else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _read(path: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = report["run"]["settings"]["model_fingerprint"], report["scores"]["overall"]["metrics"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no report of an evaluation with its run beside it; give predictions*.scores.json as "
            "`voco-video eval` writes them"
        ) from error
    return report


def _check_model(checkpoint: str | Path, reports: Mapping[Path, Mapping[str, Any]]) -> None:
    """Check that reports are of this checkpoint: their fingerprints have to be those of its weights."""
    fingerprints: dict[str, str] = {}
    for path, report in reports.items():
        settings = report["run"]["settings"]
        dtype = settings["cache"]["dtype"]
        if dtype not in _DTYPES:
            raise DataError(f"{path} was made with weights as {dtype!r}, which is none of {', '.join(_DTYPES)}")
        if dtype not in fingerprints:
            fingerprints[dtype] = load_voco_model(checkpoint, device="cpu", dtype=dtype).fingerprint()
        if settings["model_fingerprint"] != fingerprints[dtype]:
            raise DataError(
                f"{path} is of a model with fingerprint {settings['model_fingerprint'][:12]}, not of {checkpoint} "
                f"({fingerprints[dtype][:12]})"
            )
