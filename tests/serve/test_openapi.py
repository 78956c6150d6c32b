"""The description of the interface: complete, with examples, and no request that it allows makes the server fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server (extra serve)")

from voco_video.api import load_model
from voco_video.serve.app import create_app
from voco_video.serve.settings import ServeOptions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("described")
    (folder / "root").mkdir()
    model = load_model("voco-tiny", cache_dir=folder / "cache")
    return create_app(model, ServeOptions(shutdown_seconds=0.5, media_root=folder / "root"))


def test_every_route_is_described_here_and_in_the_documentation(app):
    described = app.openapi()
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    for path, methods in described["paths"].items():
        shown = path.replace("{token}", "TOKEN").replace("/{name}", "")
        for name in ("{video}", "{job}", "{follow}"):
            shown = shown.replace(name, "ID")
        assert shown in page, path
        for method in methods.values():
            assert method["summary"].endswith(".") or method["summary"].endswith("?")
            assert method["tags"]
    for name, schema in described["components"]["schemas"].items():
        if name.endswith("Request") and name != "SessionRequest":
            assert schema["example"], name


@pytest.mark.exhaustive
@pytest.mark.slow
def test_no_request_makes_the_server_fail(tmp_path):
    pytest.importorskip("schemathesis", reason="made requests (pip install schemathesis)")
    from tests.helpers.serving import serving

    (tmp_path / "root").mkdir()
    with serving(tmp_path, media_root=tmp_path / "root", allow_urls=True, is_allowed=lambda address: False) as server:
        server.upload(server.demo)
        command = [Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}/openapi.json"]
        options = ["--checks", "not_a_server_error", "--max-examples", "15", "--phases", "examples,coverage,fuzzing"]
        ran = subprocess.run([*command, *options, "--no-color"], cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout[-4000:]
        assert "passed" in ran.stdout
