"""Cache entries that say less than those written today, or other things: listed, shown and read all the same."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from voco_video.cache import CacheEntry, CacheKey, FrameCache
from voco_video.cli import app
from voco_video.cli.compress import print_summary, summary
from voco_video.errors import CacheError
from voco_video.stored_tokens import dtype_of, form_of, read_tokens, tokens_per_frame

KV = {
    "positions": torch.arange(6, dtype=torch.int32).view(2, 3),
    "keys": torch.randn(2, 1, 2, 3, 4),
    "values": torch.randn(2, 1, 2, 3, 4),
}


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


def write(
    cache: FrameCache, tensors: dict[str, torch.Tensor], facts: dict[str, Any] | None = None, **settings: Any
) -> CacheEntry:
    with cache.writer(CacheKey("ab" * 32, "cd" * 32, settings), facts=facts or {}) as writer:
        writer.append(tensors, np.arange(2.0))
        return writer.finish()


def run(cache: FrameCache, *command: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        app(["cache", *command, "--cache-dir", str(cache.cache_dir)], standalone_mode=False)
    return output.getvalue()


@pytest.mark.parametrize(
    ("tensors", "form", "num_voco_tokens"),
    [(KV, "kv", 3), ({"embeds": torch.randn(2, 5, 8).half()}, "embeds", 5)],
)
def test_settings_are_optional(
    cache: FrameCache, tensors: dict[str, torch.Tensor], form: str, num_voco_tokens: int
) -> None:
    entry = write(cache, tensors)
    assert (form_of(entry), tokens_per_frame(entry)) == (form, num_voco_tokens)
    assert dtype_of(entry) == list(tensors.values())[-1].dtype
    for name, tensor in read_tokens(entry).tensors().items():
        assert torch.equal(tensor, tensors[name])
    listed = json.loads(run(cache, "ls", "--json"))["entries"]
    assert [(one["digest"], one["form"], one["num_voco_tokens"]) for one in listed] == [
        (entry.digest, None, num_voco_tokens)
    ]
    assert entry.digest[:8] in run(cache, "ls")
    assert entry.digest in run(cache, "info", entry.digest[:8])


@pytest.mark.parametrize("odd", [None, 5, [], {"x": 1}, "something new", float(2**60), True, ""])
def test_whatever_settings_and_facts_hold_they_can_be_shown(cache: FrameCache, odd: Any) -> None:
    names = ("form", "storage", "dtype", "compressor", "stream", "num_voco_tokens")
    entry = write(
        cache, KV, dict.fromkeys(("source", "sampling", "num_vision_tokens"), odd), **dict.fromkeys(names, odd)
    )
    assert entry.digest[:8] in run(cache, "ls")
    assert json.loads(run(cache, "ls", "--json"))["entries"][0]["digest"] == entry.digest
    assert entry.digest in run(cache, "info", entry.digest)
    with contextlib.suppress(CacheError):
        assert torch.equal(read_tokens(entry).tensors()["keys"], KV["keys"])


def test_what_holds_no_tokens_is_shown_but_not_read(cache: FrameCache) -> None:
    entry = write(cache, {"something": torch.zeros(2)})
    assert "?" in run(cache, "ls")
    with pytest.raises(CacheError, match=rf"{entry.digest[:12]} holds something, .*--force"):
        read_tokens(entry)
    with pytest.raises(CacheError, match="something"):
        tokens_per_frame(entry)


def test_int8_needs_the_type_that_it_was_of(cache: FrameCache) -> None:
    stored = {"embeds.int8": torch.ones(2, 3, 4, dtype=torch.int8), "embeds.scale": torch.ones(2, 3)}
    with pytest.raises(CacheError, match="does not tell the type of its tokens"):
        read_tokens(write(cache, stored))
    tokens = read_tokens(write(cache, stored, dtype="float16"))
    assert tokens.embeds is not None
    assert tokens.embeds.dtype == torch.float16


def test_a_summary_leaves_out_what_an_entry_does_not_say(cache: FrameCache, capsys: pytest.CaptureFixture[str]) -> None:
    from voco_video.answer.compressed_video import CompressedVideo
    from voco_video.answer.entry_frames import EntryFrames

    entry = write(cache, KV)
    template = SimpleNamespace(pictures_per_frame=1)
    voco = SimpleNamespace(backbone=SimpleNamespace(template=template))
    model = SimpleNamespace(world=None, name="mine", voco=voco)
    video = CompressedVideo(model, (EntryFrames(entry, 0, 2),))  # type: ignore[arg-type]
    row = summary(Path("clip.mp4"), video)
    assert (row["vision_tokens"], row["ratio"], row["kept_tokens"]) == (None, None, 6)
    print_summary([row], json=False)
    assert "? → 6" in capsys.readouterr().out
