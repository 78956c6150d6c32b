"""What a hub, the way to it or the disk failed with, as one error that says what to do."""

from __future__ import annotations

import errno
from typing import Any

from huggingface_hub import errors as hub_errors
from huggingface_hub import get_token

from voco_video.errors import ModelError, used_wrongly
from voco_video.files.settings import first_line
from voco_video.hub.names import HubName, cache_folder, endpoint

HTTPError: type[Exception] = hub_errors.HfHubHTTPError.__mro__[1]
"""The base of all errors of the library's HTTP client, whose package changed its name between versions."""

FAILURES = (HTTPError, OSError, ValueError, hub_errors.XetDownloadError)
"""What the library raises where files cannot be fetched or sent."""

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def explained(error: Exception, name: HubName, *, writes: bool = False) -> ModelError:
    """Say in one sentence why a model could not be fetched, or published, and what to do.

    Args:
        error: one of `FAILURES`.
        writes: it was to be published.
    """
    while isinstance(error, hub_errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the library first looked whether it can do without the hub
    what = f"{name} cannot be {'published' if writes else 'fetched'}"
    if isinstance(error, hub_errors.HfHubHTTPError):
        refused = ModelError(f"{what}: {_refusal(error, name, writes)}")
        is_gated = isinstance(error, hub_errors.GatedRepoError)
        is_absent = isinstance(error, (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError))
        return used_wrongly(refused) if is_absent and not is_gated else refused
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return ModelError(f"{what}: HF_HUB_OFFLINE is set, so no hub is asked; unset it")
    if isinstance(error, hub_errors.FileMetadataError):
        return ModelError(f"{what}: {_no_hub(first_line(error))}")
    if isinstance(error, HTTPError):
        return ModelError(
            f"{what}: {endpoint()} cannot be reached ({first_line(error)}); check the network, a proxy, and HF_ENDPOINT"
        )
    if isinstance(error, OSError):
        return ModelError(f"{what}: {_disk(error)}")
    if isinstance(error, hub_errors.XetDownloadError):
        return ModelError(f"{what}: {first_line(error)}; try again, or set HF_HUB_DISABLE_XET=1")
    return ModelError(f"{what}: {_no_hub(first_line(error))}")


def _refusal(error: Any, name: HubName, writes: bool) -> str:
    """Say what an answer of the hub means."""
    status, page, has_token = error.response.status_code, f"{endpoint()}/{name.repo_id}", bool(get_token())
    if isinstance(error, hub_errors.GatedRepoError):
        state = "it is gated, and your token has no access" if has_token else "it is gated"
        return f"{state}; ask for access at {page}, then {_LOG_IN}"
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return f"it has no revision {name.revision!r}; its branches, tags and commits are at {page}/commits"
    if isinstance(error, hub_errors.DisabledRepoError):
        return f"{endpoint()} has disabled it; use another model"
    if isinstance(error, hub_errors.RepositoryNotFoundError) or status in (401, 404):
        if status == 401 and has_token:
            return f"{endpoint()} has no such model, or does not accept your token; correct the name, or {_LOG_IN}"
        return f"{endpoint()} has no such model; correct the name, or, where it is private, {_LOG_IN}"
    if status == 403:
        may = "write there" if writes else "read it"
        return f"your token may not {may} ({first_line(error)}); use one with more rights"
    if status == 429:
        return f"{endpoint()} has had too many requests; wait some minutes" + ("" if has_token else f", or {_LOG_IN}")
    if status >= 500:
        return f"{endpoint()} failed ({status}); try again later"
    return f"{endpoint()} answered {status}: {error.server_message or first_line(error)}"


def _disk(error: OSError) -> str:
    elsewhere = f"{cache_folder()}; free some, or set HF_HOME to a folder elsewhere"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"there is no room left in {elsewhere}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename or cache_folder()} may not be written; set HF_HOME to a folder of yours"
    if error.errno is None:  # the library found that a file has not the size that was announced
        return f"{first_line(error)} Run it again"
    return f"{error.filename or cache_folder()}: {error.strerror}; set HF_HOME to a folder elsewhere"


def _no_hub(reason: str) -> str:
    return (
        f"{endpoint()} does not answer as a hub does ({reason}); check HF_ENDPOINT, and that no login page is between"
    )
