"""The errors a caller may want to catch. Each message shows the value at fault and says what to do about it."""


class VocoVideoError(Exception):
    """Base of every error that voco-video raises on purpose; the command line exits with 1."""


class UsageError(VocoVideoError):
    """An option or argument that cannot be right, whatever the files hold; the command line exits with 2."""


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


FILE_ERRORS = (VideoError, OSError, MemoryError, UnicodeError)
"""What one file of many may fail with, so that it costs itself alone; anything else concerns them all."""


def with_name(error: Exception, path: object) -> str:
    """An error's message on one line, with the file's name in front where it does not hold it yet.

    >>> with_name(MemoryError(), "clip.mp4"), with_name(VideoError("clip.mp4: the file is empty"), "clip.mp4")
    ('clip.mp4: MemoryError', 'clip.mp4: the file is empty')
    """
    message = str(error) or type(error).__name__
    return message if str(path) in message else f"{path}: {message}"
