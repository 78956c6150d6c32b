"""A folder that is published as a model at a hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from voco_video.errors import ModelError, UsageError
from voco_video.hub.failures import FAILURES, explained
from voco_video.hub.names import HubName, api, is_offline


def check_can_publish(repo_id: str) -> None:
    """Refuse what could not be published, before anything is written.

    Raises:
        UsageError: the name cannot be one.
        ModelError: nobody is logged in, or HF_HUB_OFFLINE is set.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"{repo_id!r} is no name for a model at a hub; give one such as user/name") from error
    if is_offline():
        raise ModelError(f"{repo_id} cannot be published: HF_HUB_OFFLINE is set; unset it")
    if not get_token():
        raise ModelError(f"{repo_id} cannot be published: log in with `hf auth login`, or set HF_TOKEN")


def publish(
    folder: Path, repo_id: str, *, private: bool | None = None, revision: str | None = None, message: str | None = None
) -> str:
    """Publish a folder; the repository is made where it is not there yet.

    Args:
        repo_id: ``user/name``.
        private: whether a repository that is made is private; None leaves it to the hub.
        revision: the branch; made where it is not there yet, main by default.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        UsageError, ModelError: as of `check_can_publish`; or the hub refuses it, or cannot be reached.
    """
    check_can_publish(repo_id)
    hub, name = api(), HubName(repo_id, revision)
    try:
        full_id = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            hub.create_branch(full_id, branch=revision, exist_ok=True)
        message = message or "Upload a model of voco-video"
        done = hub.upload_folder(repo_id=full_id, folder_path=folder, commit_message=message, revision=revision)
        return str(done.commit_url)
    except (*FAILURES, RuntimeError) as error:  # the library wraps what a single file failed with
        cause = error.__cause__
        error = cause if isinstance(error, RuntimeError) and isinstance(cause, Exception) else error
        raise explained(error, name, writes=True) from error
