"""The errors a caller may want to catch. Each message shows the value at fault and says what to do about it."""

from typing import TypeVar


class VocoVideoError(Exception):
    """Base of every error that voco-video raises on purpose.

    Attributes:
        exit_code: of the command line: 2 where it was used wrongly, 1 where the work failed.
        may_pass: the same may succeed later: a network or a server failed, not the file.
    """

    exit_code = 1
    may_pass = False


class UsageError(VocoVideoError):
    """An option or argument that cannot be right, whatever the files hold."""

    exit_code = 2


class VideoError(VocoVideoError):
    """A file that cannot be read as a video."""


class CacheError(VocoVideoError):
    """A frame cache that is damaged, locked away, full or not what was asked for."""


class ModelError(VocoVideoError):
    """A checkpoint that cannot be loaded, or that cannot do what was asked."""


class DataError(VocoVideoError):
    """Annotations or media that are missing, broken, or not in the layout that they have to be in."""


class JudgeError(VocoVideoError):
    """A judge's endpoint that will not answer: wrong key, unknown model, no credit, nobody there."""


class EngineError(VocoVideoError):
    """An engine outside this process that will not answer: not there, another model, too old, out of room."""


AnyError = TypeVar("AnyError", bound=VocoVideoError)


def used_wrongly(error: AnyError) -> AnyError:
    """Mark an error of any kind as the user's: what was named is not there, or is no such thing.

    >>> used_wrongly(VideoError("none.mp4: no such file")).exit_code
    2
    """
    error.exit_code = 2
    return error


def passing(error: AnyError) -> AnyError:
    """Mark an error as one that may pass: trying again later is worth it.

    >>> passing(VideoError("https://host/a.mp4: the server answers 503")).may_pass
    True
    """
    error.may_pass = True
    return error


FILE_ERRORS = (VideoError, OSError, MemoryError, UnicodeError)
"""What one file of many may fail with, so that it costs itself alone; anything else concerns them all."""


def with_name(error: Exception, path: object) -> str:
    """An error's message on one line, with the file's name in front where it does not hold it yet.

    >>> with_name(MemoryError(), "clip.mp4"), with_name(VideoError("clip.mp4: the file is empty"), "clip.mp4")
    ('clip.mp4: MemoryError', 'clip.mp4: the file is empty')
    """
    message = str(error) or type(error).__name__
    return message if str(path) in message else f"{path}: {message}"
