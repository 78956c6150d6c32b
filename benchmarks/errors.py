"""What goes wrong in a benchmark."""


class MismatchError(Exception):
    """Sides that should do the same work gave different results, so their times mean nothing."""
