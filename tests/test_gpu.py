"""What a GPU does that a processor cannot show: `scripts/gpu_checks.sh` runs these, and the others marked ``gpu``."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from tests.helpers.models import random_pixels, tiny_voco
from voco_video import load_model
from voco_video.model.in_flight import fetched
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(draw_scene(0, split="test", index=0), tmp_path_factory.mktemp("clip") / "clip.mp4", size=240)


def test_entries_written_one_pass_late_are_those_written_at_once(clip, tmp_path, monkeypatch):
    entries = []
    for name in ("late", "at once"):
        if name == "at once":
            monkeypatch.setattr("voco_video.compress.fetched", lambda passes, device: passes)
        model = load_model("voco-tiny", device="cuda", cache_dir=tmp_path / name)
        video = model.compress(clip, fps=4, batch_size=2)
        assert min(asdict(video.stage_seconds).values()) > 0, "every stage says what it took"
        entries.append(video.result.entry.read())
    assert entries[0].keys() == entries[1].keys()
    for name, tensor in entries[0].items():
        assert torch.equal(tensor, entries[1][name])


def test_tokens_arrive_whole_though_later_passes_are_queued():
    model = tiny_voco().to("cuda")
    pixels = [random_pixels(16, seed=seed) for seed in range(8)]
    with torch.inference_mode():
        passes = [(None, model.compress(model.vision_tokens(p))) for p in pixels]
        late = list(fetched(iter(passes), model.backbone.device))
    for (_, tokens), (_, there) in zip(late, passes, strict=True):
        assert tokens.values.device.type == "cpu"
        assert torch.equal(tokens.values, there.values.cpu())


def test_a_pass_makes_the_host_wait_for_nothing():
    model, pixels = tiny_voco().to("cuda"), random_pixels(4)
    with torch.inference_mode():
        model.compress(model.vision_tokens(pixels))  # brings constants
        torch.cuda.set_sync_debug_mode("error")
        try:
            model.compress(model.vision_tokens(pixels))
        finally:
            torch.cuda.set_sync_debug_mode("default")
