"""A real HTTP server that speaks as much of a hub's protocol as huggingface_hub uses, and misbehaves on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_of_the_tests"
_LARGE = (".safetensors", ".bin", ".model", ".onnx", ".h5", ".gguf")  # by Git LFS, as a hub's .gitattributes has it


@dataclass
class Repository:
    """One model: its commits, and what branches and tags stand for.

    Attributes:
        gated, private: only TOKEN may read it.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    disabled: bool = False

    def commit(self, files: Mapping[str, bytes], *, ref: str = "main") -> str:
        """Add a commit to a branch, and return its name."""
        content = json.dumps([ref, sorted((name, _sha256(data)) for name, data in files.items()), len(self.commits)])
        name = hashlib.sha1(content.encode()).hexdigest()
        self.commits[name] = dict(files)
        self.refs[ref] = name
        return name


class HubServer:
    """A hub: what it has, what was asked of it, and how it misbehaves.

    Attributes:
        requests: method and path of each request.
        tokens: what came as authorization, to the hub and to where large files are.
        fails: status of requests whose path matches a pattern.
        answers: what is sent for paths, in place of what a hub says.
        cuts: file name to how many bytes of each answer come before the connection is cut; the first value is used
            once, the last for ever.
        instead: file name to what is sent in place of it, under the digest of the true content.
        announces: file name to a size that is announced in place of the true one.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        self.user_agents: set[str] = set()
        self.tokens: dict[str, set[str | None]] = {}
        self.fails: dict[str, int] = {}
        self.answers: dict[str, bytes] = {}
        self.cuts: dict[str, list[int | None]] = {}
        self.instead: dict[str, bytes] = {}
        self.announces: dict[str, int] = {}
        self.lfs: dict[str, bytes] = {}
        self.url = ""
        self.cdn = ""
        self.lock = threading.Lock()

    def add(self, repo_id: str, files: Mapping[str, bytes] | Path, **kind: Any) -> str:
        """Add a commit to a model's main branch and return its name; ``kind`` as of `Repository`."""
        repository = self.repositories.setdefault(repo_id, Repository(**kind))
        return repository.commit(read_folder(files) if isinstance(files, Path) else files)

    @property
    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, in order."""
        found = (re.match(r"/(?:[^/]+/[^/]+/resolve/[^/]+|cdn/[^/]+)/(.+)", p) for m, p in self.requests if m == "GET")
        return [one[1] for one in found if one]


def read_folder(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _is_large(name: str) -> bool:
    return name.endswith(_LARGE)


class _RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            super().handle()

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            self.hub.user_agents.add(self.headers.get("user-agent") or "")
            host = "cdn" if path.startswith("/cdn/") else "hub"
            self.hub.tokens.setdefault(host, set()).add(self.headers.get("authorization"))
            if self.headers.get("range"):
                self.hub.ranges.append(self.headers["range"])
        try:
            for pattern, status in self.hub.fails.items():
                if re.search(pattern, path):
                    raise _RefusalError(status, "", "on demand")
            if path in self.hub.answers:
                self._send(self.hub.answers[path])
            else:
                self._route(path, body)
        except _RefusalError as refused:
            headers = {"x-error-code": refused.code, "x-error-message": refused.message}
            self._send(b"", status=refused.status, headers={n: v for n, v in headers.items() if v})

    def _route(self, path: str, body: bytes) -> None:
        is_api = path.startswith("/api/")
        if self.command in ("POST", "PUT"):
            if self.headers.get("authorization") != f"Bearer {TOKEN}" and not path.startswith("/lfs/"):
                raise _RefusalError(401, "", "Invalid credentials in Authorization header")
            return self._write(path, body)
        if is_api and (found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)):
            repo_id, what, revision = found.groups()
            repository, commit = self._find(repo_id, revision or "main")
            listed = self._listed(repository.commits[commit])
            if what == "tree":
                return self._send_json([{"type": "file", "path": name, **one} for name, one in listed.items()])
            siblings = [
                {"rfilename": n, "size": one["size"], "blobId": one["oid"]}
                | (
                    {"lfs": {"sha256": one["lfs"]["oid"], "size": one["size"], "pointerSize": 130}}
                    if "lfs" in one
                    else {}
                )
                for n, one in listed.items()
            ]
            facts = {"_id": "1", "id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings}
            return self._send_json(facts | {"private": repository.private, "gated": repository.gated, "tags": []})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo_id, revision, name = found.groups()
            repository, commit = self._find(repo_id, revision)
            files = repository.commits[commit]
            authorization = self.headers.get("authorization")
            if repository.gated and authorization != f"Bearer {TOKEN}":  # its files are, its listing is not
                raise _RefusalError(403 if authorization else 401, "GatedRepo", f"Access to {repo_id} is restricted.")
            if name not in files:
                raise _RefusalError(404, "EntryNotFound", "Entry not found")
            return self._send_file(name, files[name], commit)
        if found := re.fullmatch(r"/cdn/([0-9a-f]{64})/(.+)", path):
            digest, name = found.groups()
            all_files = (f for r in self.hub.repositories.values() for c in r.commits.values() for f in c.items())
            return self._send_content(
                name, next(data for n, data in all_files if n == name and _sha256(data) == digest)
            )
        raise _RefusalError(404, "", f"no such address: {path}")

    def _find(self, repo_id: str, revision: str) -> tuple[Repository, str]:
        repository = self.hub.repositories.get(repo_id)
        allowed = self.headers.get("authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not allowed):
            raise _RefusalError(404 if allowed else 401, "RepoNotFound", "Repository not found")
        if repository.disabled:
            raise _RefusalError(403, "", "Access to this resource is disabled.")
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def _listed(self, files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
        listed: dict[str, dict[str, Any]] = {}
        for name, data in files.items():
            size = self.hub.announces.get(name, len(data))
            listed[name] = {"size": size, "oid": _git_sha1(data)}
            if _is_large(name):
                listed[name]["lfs"] = {"oid": _sha256(data), "size": size, "pointerSize": 130}
        return listed

    def _send_file(self, name: str, data: bytes, commit: str) -> None:
        headers = {"x-repo-commit": commit, "accept-ranges": "bytes", "etag": f'"{_git_sha1(data)}"'}
        if not _is_large(name):
            return self._send_content(name, data, headers=headers)
        size = str(self.hub.announces.get(name, len(data)))
        linked = {"x-linked-etag": f'"{_sha256(data)}"', "x-linked-size": size, "etag": '"of-the-pointer"'}
        location = {"location": f"{self.hub.cdn}/cdn/{_sha256(data)}/{name}"}
        self._send(b"", status=302, headers=headers | linked | location)

    def _send_content(self, name: str, data: bytes, *, headers: Mapping[str, str] = {}) -> None:
        data = self.hub.instead.get(name, data)
        headers, status = dict(headers), 200
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or ""):
            start = int(found[1])
            headers["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        cut = None
        if self.command == "GET" and (cuts := self.hub.cuts.get(name)):
            cut = cuts.pop(0) if len(cuts) > 1 else cuts[0]
        self._send(data, status=status, headers=headers, cut=cut)

    def _send_json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status=status, headers={"content-type": "application/json"})

    def _send(self, body: bytes, *, status: int = 200, headers: Mapping[str, str] = {}, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), "connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = True  # a server that has stopped answers nothing

    # ------------------------------------------------------------------ what is published

    def _write(self, path: str, body: bytes) -> None:
        hub = self.hub
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo_id = f"{asked.get('organization') or 'tester'}/{asked['name']}"
            if repo_id in hub.repositories:
                return self._send_json(
                    {"error": "You already created this model repo", "url": f"{hub.url}/{repo_id}"}, 409
                )
            repository = hub.repositories[repo_id] = Repository(private=asked.get("visibility") == "private")
            repository.commit({".gitattributes": b""})
            return self._send_json({"url": f"{hub.url}/{repo_id}", "name": repo_id, "id": "1"})
        if path == "/api/validate-yaml":
            return self._send_json({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            assert _sha256(body) == found[1]
            hub.lfs[found[1]] = body
            return self._send(b"", headers={"etag": f'"{found[1]}"'})
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            return self._send_json({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|branch|commit)/(.+)", path)
        if found is None:
            raise _RefusalError(404, "", f"no such address: {path}")
        repo_id, what, revision = found.groups()
        repository = hub.repositories[repo_id]
        if what == "branch":
            if revision in repository.refs:
                raise _RefusalError(409, "", "Reference already exists")
            repository.refs[revision] = repository.refs["main"]
            return self._send_json({})
        if what == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "lfs" if _is_large(f["path"]) else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._send_json({"files": files})
        files = dict(repository.commits[repository.refs[revision]])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files, ref=revision)
        return self._send_json({"commitUrl": f"{hub.url}/{repo_id}/commit/{commit}", "commitOid": commit})


@contextmanager
def serve_hub() -> Iterator[HubServer]:
    """The server, for as long as the block runs."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.cdn = f"http://localhost:{server.server_port}"  # large files come from another host than the hub's
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def reachable_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubServer]:
    """A hub that this process asks, with a cache of its own on this side, and nobody logged in.

    The library reads the environment when it is imported, so what it has read is changed here too. Large files are sent
    as such a server takes them, not as chunks to another one (Xet).
    """
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(cache.parent / "no-token"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
