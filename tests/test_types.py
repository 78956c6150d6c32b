"""Types as users see them: of an editable install, outside the repository, with `mypy --strict`."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.helpers.pages import PAGES, ROOT, blocks

_BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_editable(sys.argv.pop()))"

# mypy reads the whole package for them, which takes it a while.
pytestmark = pytest.mark.exhaustive


def newest_setuptools() -> str:
    """The folder of the newest setuptools there is: a virtual environment may have an old one of its own in front."""
    there = {tuple(map(int, one.version.split(".")[:2])): one for one in distributions(name="setuptools")}
    assert there, "comes with the extra test"
    return str(there[max(there)].locate_file(""))


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A Python in which the package is installed as `pip install -e .` does it, without any flag."""
    folder = tmp_path_factory.mktemp("types")
    project, wheels = folder / "project", folder / "wheels"
    wheels.mkdir()
    project.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    (project / "voco_video").symlink_to(ROOT / "voco_video")
    # In a folder of its own, because building writes beside pyproject.toml.
    built = subprocess.run(
        [sys.executable, "-c", _BUILD, str(wheels)],
        cwd=project,
        env=os.environ | {"PYTHONPATH": newest_setuptools()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        paths = [name for name in wheel.namelist() if name.endswith(".pth")]
        wheel.extractall(packages)
    assert [(packages / path).read_text().strip() for path in paths] == [str(project)], "no hook, which mypy cannot run"
    # NumPy's types stand in signatures. torch's do in a few as well, but following those would take minutes.
    numpy = importlib.import_module("numpy")
    (packages / "numpy").symlink_to(Path(numpy.__file__ or "").parent)
    return folder / "venv" / "bin" / "python"


def check(python: Path, folder: Path, *files: Path) -> tuple[int, str]:
    """What mypy says about files, run in a folder that is not the repository's."""
    pytest.importorskip("mypy", reason="comes with the extra test")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python)]
    environment = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    ran = subprocess.run(
        [*command, "--cache-dir", str(python.parents[2] / "mypy"), *map(str, files)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_an_editable_install_has_its_types(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import voco_video\n"
        "video = voco_video.load_model().compress('a.mp4')\n"
        "reveal_type(video.ask('x').confidence)\n"
        "reveal_type(video.find('x')[0].is_likely)\n"
        "reveal_type(voco_video.TrainConfig(output_dir='x').learning_rate)\n"
        "for item in voco_video.load_model().compress_many(['a.mp4']):\n"
        "    reveal_type(item.video)\n"
        "    reveal_type(item.error)\n"
        "video.ask('x', polcy='recent')\n"
        "voco_video.Sampling(fps='2')\n"
    )
    code, said = check(python, tmp_path, script)
    assert code == 1
    assert re.findall(r'Revealed type is "(.*)"', said) == [
        "float",
        "bool | None",
        "float",
        "voco_video.answer.compressed_video.CompressedVideo | None",
        "Exception | None",
    ]
    errors = dict.fromkeys(re.findall(r":(\d+): error: .*\[([\w-]+)\]", said))
    assert [*errors] == [("9", "call-overload"), ("10", "arg-type")], said


def test_the_snippets_of_the_documentation_pass_strict(python, tmp_path):
    files = []
    for page in PAGES:
        for number, block in enumerate(blocks(page)):
            if block.language == "python" and block.is_run:
                files.append(tmp_path / f"{page.stem.replace('-', '_')}_{number}.py")
                files[-1].write_text(block.code, encoding="utf-8")
    assert len(files) >= 8
    code, said = check(python, tmp_path, *files)
    assert code == 0, said
