"""A server that speaks vLLM's protocol and really computes, with transformers, from an exported folder."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

MARK = "<prompt_embeds>"


class EngineServer:
    """One engine.

    Attributes:
        name: what it serves the model as.
        version: of vLLM, as it says.
        requests: bodies of the questions so far, without the probes of one token.
        dies_after: close the connection after that many tokens of a stream, and answer nothing more.
        statuses: of the next questions, in place of an answer; then it answers again.
        key: what it asks for, or None.
        edit: changes a reply before it is sent.
    """

    def __init__(
        self, folder: Path, *, name: str | None = None, version: str = "0.32.0", max_length: int = 4096
    ) -> None:
        self.model, self.tokenizer = _loaded(folder)
        self.name = name or json.loads((folder / "voco_export.json").read_text())["served_name"]
        self.version, self.max_length = version, max_length
        self.requests: list[dict[str, Any]] = []
        self.dies_after: int | None = None
        self.statuses: list[int] = []
        self.key: str | None = None
        self.edit = lambda reply: reply
        self.is_dead = False
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"engine": self}))
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    # ------------------------------------------------------------------ what it computes

    def prompt(self, body: dict[str, Any]) -> tuple[Tensor, list[int]]:
        """Input embeddings ``[T, D]`` and the token ids that are told of them."""
        if "messages" not in body:
            embeds = _decoded(body["prompt_embeds"])
            return embeds, [0] * len(embeds)
        (part,) = body["messages"][0]["content"]
        assert part["type"] == "prompt_embeds", part
        message = {"role": body["messages"][0]["role"], "content": MARK}
        text = self.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        before, after = (self.tokenizer(piece, add_special_tokens=False).input_ids for piece in text.split(MARK))
        embeds, embed = _decoded(part["data"]), self.model.get_input_embeddings()
        pieces = [embed(torch.tensor(before, dtype=torch.long)), embeds, embed(torch.tensor(after, dtype=torch.long))]
        return torch.cat(pieces), [*before, *[0] * len(embeds), *after]

    @torch.inference_mode()
    def tokens(self, body: dict[str, Any], embeds: Tensor) -> Iterator[tuple[int, float]]:
        """Generate without any cache, the slow and obvious way."""
        ends = set(body.get("stop_token_ids") or [])
        random = torch.Generator().manual_seed(body.get("seed", 0))
        for _ in range(body["max_tokens"]):
            with self._lock:
                logits = self.model(inputs_embeds=embeds[None]).logits[0, -1].float()
            if body.get("temperature"):
                token = int(torch.multinomial((logits / body["temperature"]).softmax(-1), 1, generator=random))
            else:
                token = int(logits.argmax())
            yield token, float(logits.log_softmax(-1)[token])
            if token in ends and not body.get("ignore_eos"):
                return
            embeds = torch.cat([embeds, self.model.get_input_embeddings()(torch.tensor([token]))])

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


@cache
def _loaded(folder: Path) -> tuple[Any, Any]:
    """What several engines of one folder share."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def _decoded(data: str) -> Tensor:
    embeds = torch.load(io.BytesIO(base64.b64decode(data, validate=True)), weights_only=True)
    assert embeds.ndim == 2, embeds.shape
    return embeds.float()


class _Handler(BaseHTTPRequestHandler):
    engine: EngineServer

    def log_message(self, *arguments: Any) -> None:
        """Stay quiet."""

    def _send(self, told: Any, status: int = 200, **headers: str) -> None:
        data = json.dumps(told).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **headers,
        }.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _is_refused(self) -> bool:
        if self.engine.is_dead:
            self.close_connection = True
            self.connection.close()
            return True
        if self.engine.key is not None and self.headers.get("Authorization") != f"Bearer {self.engine.key}":
            self._send({"error": "Unauthorized"}, 401)
            return True
        return False

    def do_GET(self) -> None:
        if self._is_refused():
            return
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()
        elif self.path == "/version":
            self._send({"version": self.engine.version})
        elif self.path == "/v1/models":
            card = {"id": self.engine.name, "object": "model", "created": 1, "owned_by": "vllm"}
            self._send({"object": "list", "data": [card | {"max_model_len": self.engine.max_length}]})
        else:
            self._send({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_refused():
            return
        if body["max_tokens"] > 1:
            self.engine.requests.append(body)
            if self.engine.statuses:
                status = self.engine.statuses.pop(0)
                self._send({"error": {"message": f"told to fail: {status}"}}, status, Retry_After="0.01")
                return
        if body["model"] != self.engine.name:
            self._send({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
            return
        with self.engine.counted(), suppress(BrokenPipeError, ConnectionResetError):
            (self._stream if body.get("stream") else self._whole)(body)

    def _whole(self, body: dict[str, Any]) -> None:
        embeds, ids = self.engine.prompt(body)
        made = list(self.engine.tokens(body, embeds))
        if self.engine.is_dead:
            self.connection.close()
            return
        choice, beside = self._told(body, made, is_last=True)
        if "messages" in body:
            choice["message"] = {"role": "assistant", "content": self.engine.tokenizer.decode([t for t, _ in made])}
        else:
            choice["text"] = self.engine.tokenizer.decode([t for t, _ in made])
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(made), "total_tokens": len(ids) + len(made)}
        self._send(self.engine.edit(self._with_prompt({"choices": [choice], "usage": usage, **beside}, body, ids)))

    def _stream(self, body: dict[str, Any]) -> None:
        embeds, ids = self.engine.prompt(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        made = self.engine.tokens(body, embeds)
        number, waiting = 0, next(made, None)
        while waiting is not None:
            if self.engine.dies_after is not None and number >= self.engine.dies_after:
                self.engine.is_dead = True
            if self.engine.is_dead:
                self.connection.close()
                return
            now, waiting = waiting, next(made, None)
            choice, beside = self._told(body, [now], is_last=waiting is None)
            choice["delta" if "messages" in body else "text"] = (
                {"content": "."} if "messages" in body else self.engine.tokenizer.decode([now[0]])
            )
            told = {"choices": [choice], **beside}
            told = self._with_prompt(told, body, ids) if not number else told
            self.wfile.write(f"data: {json.dumps(self.engine.edit(told))}\n\n".encode())
            number += 1
        self.wfile.write(b"data: [DONE]\n\n")

    def _told(
        self, body: dict[str, Any], made: list[tuple[int, float]], *, is_last: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        is_chat, ids = "messages" in body, [token for token, _ in made]
        ends = set(body.get("stop_token_ids") or [])
        reason = None if not is_last else "stop" if ids and ids[-1] in ends else "length"
        if is_chat:
            log_probs: dict[str, Any] = {
                "content": [{"token": "", "bytes": [], "logprob": lp, "top_logprobs": []} for _, lp in made]
            }
        else:
            log_probs = {"token_logprobs": [lp for _, lp in made], "tokens": [], "top_logprobs": []}
        choice = {"index": 0, "finish_reason": reason, "logprobs": log_probs, "token_ids": ids}
        kind = ("chat.completion" if is_chat else "text_completion") + (".chunk" if body.get("stream") else "")
        return choice, {"id": "1", "object": kind, "created": int(time.time()), "model": self.engine.name}

    def _with_prompt(self, told: dict[str, Any], body: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        (told if "messages" in body else told["choices"][0])["prompt_token_ids"] = ids
        return told
