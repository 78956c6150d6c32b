"""The recipes for real models, end to end on tiny twins: three stages, evaluated, published, loaded back by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.hub_server import TOKEN, reachable_hub
from tests.helpers.tiny_families import tiny_family
from voco_video.api import load_model
from voco_video.checkpoint.folder import save_voco_model
from voco_video.data.registry import load_dataset
from voco_video.evaluate.options import EvalOptions
from voco_video.evaluate.run import evaluate
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene
from voco_video.shapes.write_dataset import write_dataset
from voco_video.training import train
from voco_video.training.recipes import load_config

TWINS = {"smolvlm2-500m": "smolvlm", "qwen2.5-vl-3b": "qwen2_5_vl"}
SMALL = ("precision=float32", "num_workers=0", "global_batch_size=2", "per_device_batch_size=2", "save_steps=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two pictures and two clips, wide and tall, with a conversation about each."""
    folder = tmp_path_factory.mktemp("data")
    rows: dict[str, list[dict]] = {"image": [], "video": []}
    for number in range(2):
        height, width = [(40, 72), (72, 40)][number]
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        write_clip(draw_scene(0, index=number), folder / f"{number}.mp4", size=64)
        for kind, name in (("image", f"{number}.png"), ("video", f"{number}.mp4")):
            turns = [("human", f"<{kind}>\nwhat moves?"), ("gpt", "a star"), ("human", "where?"), ("gpt", "left")]
            said = [{"from": who, "value": text} for who, text in turns]
            rows[kind].append({"id": name, kind: name, "conversations": said})
    for kind in rows:
        (folder / f"{kind}s.json").write_text(json.dumps(rows[kind]))
    return folder


@pytest.mark.one_in(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_the_three_stages_of_a_real_model(name, data, tmp_path, monkeypatch):
    twin = tiny_family(TWINS[name], as_trained=True)
    twin.backbone.tokenizer.chat_template = twin.backbone.tokenizer.chat_template.replace(
        "assistant:", "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    model = save_voco_model(twin, tmp_path / "twin")
    for file in ("voco_config.json", "voco.safetensors"):
        (model / file).unlink()  # an ordinary checkpoint of the library
    for stage, dataset in (("image", "images"), ("video", "videos"), ("answers", "videos")):
        overrides = (
            f"model={model}",
            f"output_dir={tmp_path / stage}",
            f"dataset={data / dataset}.json",
            f"media_dir={data}",
            f"cache_dir={tmp_path / 'cache'}",
            "num_frames=3",
            *SMALL,
        )
        before = model
        model = train(load_config(f"{name}/{stage}", overrides)).last
        assert model != before
        settings = json.loads((model / "voco_config.json").read_text())
        assert settings["as_trained"] == twin.backbone.template.describe()["as_trained"]
    trained = load_model(model, dtype="float32", cache_dir=tmp_path / "cache")
    shapes = write_dataset(tmp_path / "shapes", layout="msvd", num_videos=4, size=64, questions_per_video=2)
    options = EvalOptions(num_frames=3, num_voco_tokens=(1, 4), max_new_tokens=2)
    result = evaluate(trained, load_dataset("msvd", shapes), options=options, out=tmp_path / "eval")
    assert result.num_questions == 2
    assert result.missing == result.undecodable == ()
    with reachable_hub(monkeypatch, tmp_path / "hub"):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        trained.push_to_hub(f"me/{name}")
        again = load_model(f"me/{name}", dtype="float32", cache_dir=tmp_path / "other cache")
    videos = [m.compress(data / "0.mp4", num_frames=3) for m in (trained, again)]
    assert not videos[1].from_cache
    answers = [video.ask("what moves?", max_new_tokens=8) for video in videos]
    assert answers[0].token_ids == answers[1].token_ids
    assert torch.equal(*(video.tokens().values for video in videos))
