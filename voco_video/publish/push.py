"""A checkpoint that is published at a hub: its files, and a model card where it has none."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.needed import small_files, weight_names
from voco_video.checkpoint.voco_settings import read_voco_settings
from voco_video.errors import ModelError, UsageError
from voco_video.hub.upload import check_can_publish, publish
from voco_video.publish.model_card import CARD, card_of

_BESIDE = (CARD, "LICENSE", "LICENSE.txt", "NOTICE")


def push_checkpoint(
    checkpoint: str | Path,
    repo_id: str,
    *,
    reports: Sequence[str | Path] = (),
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Publish a checkpoint at a hub: what it needs, and a model card where its folder has no README.md.

    Args:
        checkpoint: a folder, or what else `find_checkpoint` takes.
        repo_id: ``user/name``; made where it is not there yet.
        reports: evaluations for the card, ``predictions*.scores.json``.
        private: whether a repository that is made is private; None leaves it to the hub.
        revision: the branch, main by default.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        UsageError: the name cannot be one; the checkpoint is an adapter for a folder that nobody else has; or it has a
            README.md, which would not tell of the reports.
        ModelError: it is not whole, nobody is logged in, or the hub refuses it or cannot be reached.
        DataError: a report cannot be read, or is of another model.
    """
    check_can_publish(repo_id)
    folder = find_checkpoint(checkpoint)
    settings = read_voco_settings(folder)
    is_adapter = settings is not None and settings.base is not None
    if settings is not None and settings.base is not None and Path(settings.base.name).is_absolute():
        raise UsageError(
            f"{folder} is an adapter for {settings.base.name}, a folder that others do not have; publish that first "
            "and name it as `base` in voco_config.json, or publish the whole model: load it and push_to_hub"
        )
    if reports and (folder / CARD).exists():
        raise UsageError(f"{folder / CARD} is published as it is; for a card with reports, `voco-video card` writes it")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    weights = [] if is_adapter else weight_names(folder, names.__contains__)
    if lost := [name for name in weights if name not in names] or ([] if weights or is_adapter else ["weights"]):
        raise ModelError(f"{folder} lacks {lost[0]}, so it is not published; fetch or save it again")
    with TemporaryDirectory() as staged:
        for name in {*small_files(names), *weights, *(name for name in _BESIDE if name in names)}:
            target = Path(staged, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            _put(folder / name, target)
        if CARD not in names:
            Path(staged, CARD).write_text(card_of(folder, reports, name=repo_id), encoding="utf-8")
        return publish(Path(staged), repo_id, private=private, revision=revision, message=message)


def _put(source: Path, target: Path) -> None:
    """Link a file, which may be gigabytes, or copy it where there are no links."""
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copy(source, target)
