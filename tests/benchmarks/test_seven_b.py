"""LLaVA-1.5-7B's exact shape, from shards on a disk to an answer, on a machine with 24 GiB of memory and no GPU.

It writes 14 GB and takes minutes, so it runs only where it is asked for:

    VOCO_VIDEO_TEST_7B=1 pytest tests/benchmarks/test_seven_b.py -n 1 -rP
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from tests.helpers.clips import Clip
from tests.helpers.tiny_families import IDS, PLAIN_TEMPLATE, tiny_tokenizer
from voco_video.checkpoint.folder import write_voco_files
from voco_video.model.families import ImageSettings, PromptTemplate
from voco_video.video.scaling import Fit

SHARD_BYTES = 2 << 30
MAX_RESIDENT_BYTES = 20 << 30

CHILD = """
import json, sys, time
from pathlib import Path
import voco_video

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))

def stage(name, started):
    taken, resident = time.perf_counter() - started, status('VmRSS') / 2**30
    print(f"{name} {taken:.1f} s, {resident:.2f} GiB", file=sys.stderr, flush=True)
    return taken

checkpoint, clip, cache = sys.argv[1:]
started = time.perf_counter()
model = voco_video.load_model(checkpoint, device="cpu", dtype="bfloat16", cache_dir=cache)
seconds = {"load": stage("loaded", started)}
loaded = status("VmHWM")
started = time.perf_counter()
model.fingerprint
seconds["fingerprint"] = stage("fingerprint", started)
started = time.perf_counter()
video = model.compress(clip, num_frames=2, num_voco_tokens=2)
seconds["compress"] = stage("compressed", started)
started = time.perf_counter()
answer = video.ask("what?", max_new_tokens=4)
seconds["ask"] = stage("answered", started)
print(json.dumps({
    "num_parameters": sum(p.numel() for p in model.voco.parameters()),
    "num_frames": video.num_frames, "bytes_per_frame": video.parts[0].entry.bytes_per_frame,
    "kept_is_finite": bool(all(t.isfinite().all() for t in video.tokens().tensors().values())),
    "num_answer_tokens": len(answer.token_ids), "confidence": answer.confidence,
    "peak_after_loading": loaded, "peak": status("VmHWM"), "seconds": seconds,
}))
"""


def config_7b() -> LlavaConfig:
    """What llava-hf/llava-1.5-7b-hf declares."""
    tower = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(vocab_size=32064, max_position_embeddings=4096, rms_norm_eps=1e-5, eos_token_id=IDS["</s>"])
    return LlavaConfig(vision_config=tower, text_config=text, image_token_index=IDS["<image>"], vision_feature_layer=-2)


def write_checkpoint(folder: Path) -> int:
    """Random bfloat16 weights in shards, one of them in memory at a time; their bytes."""
    config = config_7b()
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in LlavaForConditionalGeneration(config).named_parameters()}
    block = (torch.randn(10_000_019, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    weight_map: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    total = num_shards = 0

    def flush() -> None:
        nonlocal num_shards
        num_shards += 1
        name = f"model-{num_shards:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, shape in shapes.items():
        if sum(2 * t.numel() for t in shard.values()) + 2 * shape.numel() > SHARD_BYTES:
            flush()
        if len(shape) > 1:
            repeats = -(-shape.numel() // len(block))
            shard[name] = block.repeat(repeats)[: shape.numel()].view(shape).clone()
        else:
            shard[name] = torch.full(shape, float(name.endswith("weight")), dtype=torch.bfloat16)
        total += 2 * shape.numel()
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    tiny_tokenizer(chat_template=PLAIN_TEMPLATE, adds_bos=True).save_pretrained(folder)
    write_voco_files(
        folder,
        config=config,
        voco_embeds=0.02 * torch.randn(2, 4096).bfloat16(),
        images=ImageSettings(Fit(336, 336, "crop"), (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)),
        template=PromptTemplate((IDS["<s>"],), (5,)),
        chat_template=None,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(folder)
    return total


@pytest.fixture
def checkpoint(tmp_path_factory):
    if shutil.disk_usage(tmp_path_factory.getbasetemp()).free < 20 << 30:
        pytest.skip("needs 20 GiB of disk")
    folder = tmp_path_factory.mktemp("seven_b")
    try:
        yield folder, write_checkpoint(folder)
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get("VOCO_VIDEO_TEST_7B"), reason="writes 14 GB; set VOCO_VIDEO_TEST_7B=1 to run it")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to measure memory with")
def test_7b_loads_compresses_and_answers_within_20_gib(checkpoint, tmp_path):
    folder, size = checkpoint
    clip = Clip("clip.mp4", num_frames=50).write(tmp_path)
    command = [sys.executable, "-c", CHILD, str(folder), str(clip), str(tmp_path / "cache")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found | {"checkpoint_bytes": size, "num_shards": len(list(folder.glob("model-*")))}, indent=1))
    assert size > 14e9
    assert found["num_parameters"] == size // 2 + 2 * 4096
    assert found["num_frames"] == 2
    assert found["bytes_per_frame"] == pytest.approx(2 * 2 * 32 * 32 * 128 * 2, rel=1e-3)
    assert found["kept_is_finite"]
    assert 0 < found["num_answer_tokens"] <= 4
    assert 0 < found["confidence"] <= 1
    assert found["peak"] < MAX_RESIDENT_BYTES
