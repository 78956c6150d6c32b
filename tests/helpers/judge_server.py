"""A real HTTP server that speaks the chat-completions protocol, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "judge-2024-01"


@dataclass(frozen=True)
class Response:
    """What goes back: headers promise `length` bytes (by default those that come), after a while."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    after_seconds: float = 0.0


def completion(text: str | None, *, usage: bool = True, **changes: Any) -> bytes:
    """A chat completion as the protocol has it."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    made = {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    if usage:
        made["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return json.dumps({**made, **changes}).encode()


def says(text: str | None, **options: Any) -> Response:
    """A reply."""
    return Response(completion(text, **options))


def fails(status: int, **options: Any) -> Response:
    """An error as endpoints report it."""
    return Response(json.dumps({"error": {"message": f"error {status}", "code": None}}).encode(), status, **options)


YES = says("{'pred': 'yes', 'score': 5}")


class JudgeServer:
    """What was asked, and how it is answered.

    Args:
        answer: from the user's turn, and how often it was asked before, to the response.
    """

    def __init__(self, answer: Callable[[str, int], Response]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.tries: Counter[str] = Counter()
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self.base_url = ""

    def respond(self, request: dict[str, Any], key: str | None) -> Response:
        user = request["messages"][-1]["content"]
        with self._lock:
            self.requests.append(request)
            self.keys.append(key)
            num_before = self.tries[user]
            self.tries[user] += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        response = self.answer(user, num_before)
        time.sleep(response.after_seconds)
        with self._lock:
            self._now -= 1
        return response


@contextmanager
def serve(answer: Callable[[str, int], Response]) -> Iterator[JudgeServer]:
    """The server, for as long as the block runs."""
    judge = JudgeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            response = judge.respond(request, self.headers["authorization"])
            self.send_response(response.status)
            self.send_header("content-type", "application/json")
            length = len(response.body) if response.length is None else response.length
            for name, value in {"content-length": str(length), **response.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(response.body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # a client that would not wait
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    judge.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
