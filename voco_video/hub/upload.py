"""A folder that is published as a model at a hub."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import CommitOperationAdd, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from voco_video.errors import ModelError, UsageError
from voco_video.hub.failures import FAILURES, explained
from voco_video.hub.names import HubName, api, is_offline
from voco_video.hub.watching import watcher


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
        with _counted(folder) as files:
            done = hub.create_commit(full_id, files, commit_message=message, revision=revision)
        return str(done.commit_url)
    except (*FAILURES, RuntimeError) as error:  # the library wraps what a single file failed with
        cause = error.__cause__
        error = cause if isinstance(error, RuntimeError) and isinstance(cause, Exception) else error
        raise explained(error, name, writes=True) from error


@contextmanager
def _counted(folder: Path) -> Iterator[list[CommitOperationAdd]]:
    """Yield the files of a folder as a commit adds them; who watches is told how much of them has been sent."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [_SentFile(path.relative_to(folder).as_posix(), str(path)) for path in paths]
    if (watch := watcher()) is None:
        yield list(files)
        return
    total = sum(path.stat().st_size for path in paths)
    with watch() as on_bytes:
        for file in files:
            file.on_read = lambda: on_bytes(sum(one.num_sent for one in files), total)
        yield list(files)
        on_bytes(total, total)


class _SentFile(CommitOperationAdd):
    """A file of a commit that knows how many of its bytes have been sent.

    Where the library sends large files natively, by hf_xet, nothing is known of them until they are there.
    """

    num_sent = 0
    on_read: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        if not with_tqdm:  # which is how the library asks for a file that it is about to send
            with super().as_file() as file:
                yield file
            return
        with _CountingReader(str(self.path_or_fileobj), self._note) as file:
            yield file

    def b64content(self) -> bytes:
        """Return the content of a small file, which is sent with the commit itself."""
        self.num_sent = self.upload_info.size
        return super().b64content()

    def _note(self, position: int) -> None:
        self.num_sent = max(self.num_sent, position)
        self.on_read()


class _CountingReader(io.BufferedReader):
    """A file that says how far it has been read."""

    def __init__(self, path: str, on_position: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path))
        self._on_position = on_position

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._on_position(self.tell())
        return data
