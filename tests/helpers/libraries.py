"""Libraries without videos: a tiny model with a trained-looking scorer, and entries of random tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import voco_video
from tests.helpers.models import tiny_voco
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.entry_frames import EntryFrames
from voco_video.answer.frame_scorer import FrameScorer, Retriever
from voco_video.cache import CacheEntry, CacheKey, FrameCache
from voco_video.checkpoint.world import World
from voco_video.model.voco import VocoModel

WIDTHS = {"embeds": 64, "kv": 32}  # of a token's features, by form
QUERIES = ("the red star", "a blue square that moves", "who?")


@dataclass(frozen=True)
class SearchingModel:
    """As much of a `VideoModel` as searching takes."""

    voco: VocoModel
    cache: FrameCache
    retriever: Retriever | None = None
    world: World | None = None
    name: str = "tiny"
    fingerprint: str = "cd" * 32
    made: dict[str, int] = field(default_factory=dict)


def searching_model(cache_dir: Path, *, forms: tuple[str, ...] = ("embeds", "kv"), seed: int = 0) -> SearchingModel:
    """A tiny random model that reads words, with random scorers whose scores spread as trained ones do."""
    voco = tiny_voco(seed=seed)
    words = lambda messages, **_: [5 + ord(letter) % 80 for letter in messages[0]["content"]]  # noqa: E731
    object.__setattr__(voco.backbone, "conversation_ids", words)  # it has no tokenizer
    torch.manual_seed(seed)
    scorers = {form: FrameScorer(64, WIDTHS[form]).eval().requires_grad_(False) for form in forms}
    for scorer in scorers.values():
        scorer.queries[2].weight *= 12
        scorer.keys.weight *= 5
    retriever = Retriever(scorers, SearchingModel.fingerprint) if forms else None
    return SearchingModel(voco, FrameCache(cache_dir), retriever)


def write_entry(
    model: SearchingModel,
    name: str,
    num_frames: int,
    *,
    num_voco_tokens: int = 4,
    form: str = "embeds",
    fingerprint: str | None = None,
    tokens: torch.Tensor | None = None,
    restart: bool = False,
    **settings: object,
) -> CacheEntry:
    """Write an entry of random tokens, the same for the same name, or of these ``[F, K, W]``."""
    generator = torch.Generator().manual_seed(int.from_bytes(name.encode()[:6], "big") % 2**31)
    width = WIDTHS[form]
    if tokens is None:
        tokens = torch.randn(num_frames, num_voco_tokens, width, generator=generator)
        tokens *= torch.rand(num_frames, num_voco_tokens, 1, generator=generator) * 3
    stored = {"embeds": tokens}
    if form == "kv":
        values = tokens.unflatten(2, (2, 16)).transpose(1, 2)[:, None].expand(-1, 3, -1, -1, -1).contiguous()
        stored = {
            "keys": torch.zeros_like(values),
            "values": values,
            "positions": torch.zeros(num_frames, tokens.shape[1]),
        }
        stored["positions"] = stored["positions"].int()
    settings = {"form": form, "num_voco_tokens": tokens.shape[1], "dtype": "float32", **settings}
    key = CacheKey(name.encode().hex().ljust(64, "0"), fingerprint or model.fingerprint, settings)
    with model.cache.writer(key, facts={"source": f"{name}.mp4"}, restart=restart) as writer:
        for start in range(0, num_frames, 16):
            part = {name: tensor[start : start + 16].contiguous() for name, tensor in stored.items()}
            writer.append(part, np.arange(start, min(start + 16, num_frames)).astype(float))
        return writer.finish()


def slow_way(model: SearchingModel, digests: list[str], query: str, num_moments: int) -> list[tuple]:
    """Search every entry."""
    videos = []
    for digest in digests:
        entry = model.cache.find(digest)
        videos.append(CompressedVideo(model, (EntryFrames(entry, 0, entry.num_frames),)))
    return shown(voco_video.find(videos, query, num_moments=num_moments))


def shown(found: list[voco_video.Found]) -> list[tuple]:
    """Moments as values that can be compared."""
    return [(one.video.parts[0].entry.digest, one.moment) for one in found]
