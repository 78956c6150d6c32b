"""The order of imports is held: `lint-imports` passes, and fails on an import that goes up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `lint-imports` on the package in a folder."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=folder,
        env={"PATH": "", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


def test_an_import_that_goes_up_is_noticed(tmp_path):
    shutil.copytree(
        ROOT / "voco_video", tmp_path / "voco_video", ignore=shutil.ignore_patterns("__pycache__", "assets")
    )
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    kept = lint(tmp_path)
    assert kept.returncode == 0, kept.stdout + kept.stderr
    module = tmp_path / "voco_video" / "model" / "positions.py"
    module.write_text(module.read_text() + "\nfrom voco_video.api import load_model\n")
    broken = lint(tmp_path)
    assert broken.returncode == 1
    assert "voco_video.model.positions -> voco_video.api" in broken.stdout


def test_a_new_folder_has_to_find_its_layer(tmp_path):
    shutil.copytree(
        ROOT / "voco_video", tmp_path / "voco_video", ignore=shutil.ignore_patterns("__pycache__", "assets")
    )
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    (tmp_path / "voco_video" / "utils").mkdir()
    (tmp_path / "voco_video" / "utils" / "__init__.py").write_text("")
    assert "utils" in lint(tmp_path).stdout
