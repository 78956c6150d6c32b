"""Names of models at a hub, and what the environment says about reaching it; all of it is read when it is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from voco_video.version import __version__

LIBRARY = "voco-video"
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class HubName:
    """The name of a model at a hub: ``user/name``, or ``user/name@revision``.

    Attributes:
        repo_id: ``user/name``.
        revision: a branch, a tag or a commit; None for the main branch.
    """

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"

    @staticmethod
    def parse(text: str, revision: str | None = None) -> HubName | None:
        """Read a name, or the address of its page; None where the text cannot be one.

        Args:
            revision: used where the text has none.

        >>> HubName.parse("user/name@v1.0")
        HubName(repo_id='user/name', revision='v1.0')
        >>> HubName.parse("https://huggingface.co/user/name")
        HubName(repo_id='user/name', revision=None)
        >>> HubName.parse("./user/name"), HubName.parse("name")
        (None, None)
        """
        for start in (f"{endpoint()}/", "https://huggingface.co/", "hf://"):
            text = text.removeprefix(start)
        repo_id, mark, own = text.partition("@")
        revision = own if mark else revision
        try:
            validate_repo_id(repo_id)
        except HFValidationError:
            return None
        if repo_id.count("/") != 1 or (revision is not None and not _may_be_revision(revision)):
            return None
        return HubName(repo_id, revision)


def _may_be_revision(revision: str) -> bool:
    """Tell whether git allows this name; it becomes the path of a file in the cache."""
    parts = revision.split("/")
    return revision.isprintable() and " " not in revision and ".." not in revision and "" not in parts


def endpoint() -> str:
    """Return the address of the hub: ``HF_ENDPOINT``, or the public one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def is_offline() -> bool:
    """Tell whether ``HF_HUB_OFFLINE`` forbids any request, now or when the library was imported."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return constants.is_offline_mode() or any(value.upper() in constants.ENV_VARS_TRUE_VALUES for value in values)


def cache_folder() -> Path:
    """Return the folder that files are fetched into: ``HF_HUB_CACHE``, or ``hub`` in ``HF_HOME``."""
    return Path(constants.HF_HUB_CACHE).expanduser()


def api() -> HfApi:
    """Return the library's client of the hub, with the user's token."""
    return HfApi(endpoint=endpoint(), library_name=LIBRARY, library_version=__version__)
