"""Fixtures of all tests of training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from voco_video.training import engine


@pytest.fixture(scope="module", autouse=True)
def _no_picture() -> Iterator[None]:
    """Leave out the picture of a run, which takes longer than a tiny run itself; one test puts it back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "draw_curves", lambda history, path: path)
        yield
