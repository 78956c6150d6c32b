"""The page's files: all are served and packed, they load nothing from elsewhere, and the policy of the page holds."""

from __future__ import annotations

import glob
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server (extra serve)")

from fastapi import FastAPI
from starlette.testclient import TestClient

from voco_video.api import load_model
from voco_video.serve import app as app_module
from voco_video.serve.app import PAGE, create_app
from voco_video.serve.safety.guard import POLICY, Guard
from voco_video.serve.settings import ServeOptions
from voco_video.shapes.questions import demo_questions

FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
KINDS = {".js": ("text/javascript", "application/javascript"), ".css": ("text/css",), ".svg": ("image/svg+xml",),
         ".html": ("text/html",)}  # fmt: skip


@pytest.fixture(scope="module")
def client():
    """The page behind the guard, without a model."""
    app = FastAPI()
    app_module._add_page(app)
    app.add_middleware(Guard, settings=ServeOptions(port=0, api_key="k" * 20), is_upload=lambda method, path: False)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


class Tags(HTMLParser):
    """The tags of a page, and the text of those that browsers run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside, self._tag = "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        if self._tag in ("script", "style"):
            self.inside += data


def test_every_file_is_served_without_a_key_under_the_policy(client):
    assert len(SCRIPTS) > 8
    for path in [*FILES, None]:
        reply = client.get(f"/page/{path.relative_to(PAGE)}" if path else "/")
        assert reply.status_code == 200, path
        assert reply.content == (path or PAGE / "index.html").read_bytes()
        assert reply.headers["content-type"].split(";")[0] in KINDS[path.suffix if path else ".html"]
        assert reply.headers["content-security-policy"] == POLICY
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert client.get("/api/about").status_code == 401


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/page/none.js"])
def test_nothing_else_is_served(client, path):
    assert client.get(path).status_code in (401, 404)


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere():
    rules = dict(rule.strip().split(" ", 1) for rule in POLICY.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert not {"unsafe", "http", "*", "data:"} & set(re.split(r"[\s';:-]+", POLICY))


def test_the_document_holds_to_the_policy():
    tags = Tags((PAGE / "index.html").read_text("utf-8"))
    assert tags.inside.strip() == ""
    for tag, attributes in tags.found:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or (PAGE / value.removeprefix("/page/")).is_file(), value


def test_scripts_import_what_is_there_and_use_all_of_it():
    imported = {PAGE / "app.js"}
    for path in SCRIPTS:
        for names, other in re.findall(r"import \{([^}]*)\} from \"\./([\w.]+)\"", path.read_text("utf-8")):
            text = (PAGE / other).read_text("utf-8")
            imported.add(PAGE / other)
            for name in filter(None, map(str.strip, names.split(","))):
                assert re.search(
                    rf"^export (async )?(function\*?|class|const) {name}\b|^export async function\* {name}\b",
                    text,
                    re.M,
                ), (path, name)
                assert len(re.findall(rf"\b{name}\b", path.read_text("utf-8"))) > 1, (path.name, name, "is not used")
    assert imported == set(SCRIPTS)


def test_text_of_users_is_never_read_as_markup():
    never = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "createContextualFragment",
             "eval(", "new Function", "srcdoc", 'setAttribute("style"', "cssText")  # fmt: skip
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        assert not [word for word in never if word in text], path.name
        assert not re.search(r"https?://(?!…)", text), (path.name, "loads from elsewhere")
    for path in PAGE.glob("*.css"):
        assert not re.search(r"@import|url\(", path.read_text("utf-8")), path.name


def test_a_wheel_has_every_file():
    settings = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    listed = re.search(r"^voco_video = \[(.*?)\]$", settings, re.M | re.S)
    assert listed is not None
    patterns = re.findall(r'"([^"]+)"', listed[1])
    packed = {Path(one) for p in patterns for one in glob.glob(str(PAGE.parents[1] / p), recursive=True)}
    assert set(FILES) <= packed


def test_what_the_page_asks_first(tmp_path):
    model = load_model("voco-tiny", cache_dir=tmp_path / "cache")
    settings = ServeOptions(port=0, media_root=tmp_path, max_upload_bytes=12345)
    with TestClient(create_app(model, settings), base_url="http://127.0.0.1") as client:
        about = client.get("/api/about").json()
        clips = [client.get("/api/demo-clip") for _ in range(2)]
    assert (about["model"], about["max_upload_bytes"]) == ("voco-tiny", 12345)
    assert (about["has_media_root"], about["takes_urls"], about["measures_attention"]) == (True, False, True)
    assert about["questions"] == [one.question for one in demo_questions()]
    assert "MovingShapes" in about["note"]
    assert clips[0].headers["content-type"] == "video/mp4"
    assert clips[0].content == clips[1].content != b""
