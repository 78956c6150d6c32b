"""Fixtures that several test files share."""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

# Read when transformers is first imported: a bar while weights load would stand in what tests compare.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# Read when huggingface_hub is first imported: no test asks the public hub. Tests of a hub start their own.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Read when torch is first imported. Test processes that run side by side leave each other the cores; and where others
# have them, threads that wait for one another spin for ten times as long as tiny models take to compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

pytest.register_assert_rewrite("tests.helpers.reading")  # it asserts for several test files

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("VOCO_VIDEO_SHARED", ROOT.parent / "shared"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: some tests wait for clocks and servers, and leave theirs idle."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all variants of a test but each n-th as exhaustive, where it is marked ``one_in(n)``."""
    num_seen = Counter[str]()
    for item in items:
        if (mark := item.get_closest_marker("one_in")) is not None:
            test = item.nodeid.partition("[")[0]
            if num_seen[test] % mark.args[0]:
                item.add_marker(pytest.mark.exhaustive)
            num_seen[test] += 1


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, annotations and golden outputs, which not every machine has."""
    if not SHARED.is_dir():
        pytest.skip(f"real clips and golden outputs are not here ({SHARED}); set VOCO_VIDEO_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())  # numbered folders of pytest's take longer each time


@pytest.fixture(autouse=True)
def _own_cache(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's own frame cache."""
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", str(next(_caches)))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the program in this process, as its entry point does; gives (exit code, stdout, stderr)."""
    from voco_video import cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["voco-video", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        return code, *capfd.readouterr()

    return call
