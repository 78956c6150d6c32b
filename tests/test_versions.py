"""The lowest versions that .ci/run installs are those that pyproject.toml states."""

from __future__ import annotations

import ast
import re
import sys

import pytest

pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")

from scripts.lowest_versions import PYPROJECT, lowest_versions
from tests.helpers.pages import ROOT


def test_lowest_versions_are_those_of_pyproject():
    lines = lowest_versions(["train", "eval", "judge"])
    text = PYPROJECT.read_text(encoding="utf-8").partition("\ntest = [")[0]
    stated = dict(re.findall(r'"([\w-]+)>=([\d.]+)', text))
    assert [line.split("==") for line in lines] == [
        [name, stated[name]]
        for name in sorted(stated)
        if name
        in {
            *(
                "torch",
                "transformers",
                "huggingface_hub",
                "safetensors",
                "accelerate",
                "av",
                "num2words",
                "numpy",
                "pillow",
                "jinja2",
            ),
            *(
                "tqdm",
                "typer",
                "rich",
                "blake3",
                "peft",
                "tensorboard",
                "matplotlib",
                "pyyaml",
                "pandas",
                "pyarrow",
                "openai",
            ),
        }
    ]
    assert {line.split("==")[0] for line in lowest_versions([])} < {line.split("==")[0] for line in lines}


def test_extras_within_extras_count_and_markers_hold(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text(
        '[project]\nname = "one"\ndependencies = ["a>=1.5,<2"]\n[project.optional-dependencies]\n'
        'x = ["b>=2; sys_platform == \'nowhere\'", "c>=3"]\ny = ["one[x]", "d>=4", "a>=1.6"]\nz = ["e<5"]\n'
    )
    assert lowest_versions([], path) == ["a==1.5"]
    assert lowest_versions(["y"], path) == ["a==1.6", "c==3", "d==4"]
    with pytest.raises(SystemExit, match="e<5"):
        lowest_versions(["z"], path)


def test_what_is_imported_is_declared():
    """What another library happens to bring along may be gone in its next version."""
    declared = {name.lower() for name in re.findall(r'"([\w-]+)[>=<]', PYPROJECT.read_text(encoding="utf-8"))}
    modules: set[str] = set()
    for path in (ROOT / "voco_video").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(str(node.module))
    names = {"PIL": "pillow", "yaml": "pyyaml", "python_multipart": "python-multipart"}
    names |= {"prometheus_client": "prometheus-client", "faster_whisper": "faster-whisper"}
    packages = {names.get(name, name) for name in (module.split(".")[0] for module in modules)}
    assert packages - {*sys.stdlib_module_names, "voco_video", "lmms_eval"} <= declared
