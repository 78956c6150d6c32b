"""What a training step costs in the two modes of the video stage, and how joint mode grows with frames.

    python -m benchmarks.speed.train_modes [--repeats 3] [--frames 4 8 16 32]

A LLaVA-shaped model with random weights and the shapes that count (336 x 336 pixels in patches of 14: N = 576 vision
tokens a frame) takes the same 16-frame samples through mode `joint` (pixels, vision tower, compressor, text; gradients
through all of the language model) and mode `cached` (VoCo tokens from memory-mapped segments of a frame cache, text;
a second set of weights to answer with). A step is forward, backward and optimizer. Joint mode is then run at 4, 8, 16
and 32 frames, each in a process of its own, for time and peak memory. Times are CPU seconds, which other programs on
the same machine change little, of one thread: two wait for each other, busily, where there are not two free cores.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.report import Benchmark, Report, option, table
from voco_video.cache import CacheKey, FrameCache
from voco_video.model.adapters import add_adapters
from voco_video.model.backbone import Backbone
from voco_video.model.families import ImageSettings, PromptTemplate
from voco_video.model.voco import VocoModel
from voco_video.stored_tokens import read_tokens
from voco_video.training.batches import TrainingBatch, Visibility
from voco_video.training.loss import TrainableVoco
from voco_video.video.scaling import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_FRAMES, TEXT_LENGTH, NUM_VOCO_TOKENS, SIZE = 16, 64, 2, 336


@dataclass(frozen=True)
class Settings:
    """How often, and on how many frames."""

    repeats: int = option(3, "steps of each measurement, after one that warms up")
    frames: tuple[int, ...] = option((4, 8, 16, 32), "frames of a sample in joint mode")
    cached_batch_size: int = option(16, "samples of a step in cached mode")


def make_model() -> VocoModel:
    """LLaVA's shape with few and narrow layers, weights from a fixed seed."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=999, vision_feature_layer=-1)
    images = ImageSettings(Fit(SIZE, SIZE, mode="stretch"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    backbone = Backbone(LlavaForConditionalGeneration(config), None, images, PromptTemplate((1,), (5,), (5,)))
    return VocoModel(backbone, torch.randn(NUM_VOCO_TOKENS, 256) * 0.02)


def make_batch(num_frames: int, *, batch_size: int = 1) -> TrainingBatch:
    """Random pixels and text."""
    rng = np.random.default_rng(0)
    input_ids = torch.from_numpy(rng.integers(3, 900, (batch_size, TEXT_LENGTH)))
    turn_ids = torch.full_like(input_ids, -1)
    turn_ids[:, TEXT_LENGTH // 2 :] = 0
    return TrainingBatch(
        num_frames=(num_frames,) * batch_size,
        input_ids=input_ids,
        labels=torch.where(turn_ids >= 0, input_ids, -100),
        text_lengths=(TEXT_LENGTH,) * batch_size,
        turn_ids=turn_ids,
        visibility=Visibility(NUM_VOCO_TOKENS),
        pixels=rng.integers(0, 256, (batch_size * num_frames, SIZE, SIZE, 3), dtype=np.uint8),
    )


def stepper(trainable: TrainableVoco) -> Callable[[TrainingBatch], None]:
    """One optimizer step on a batch."""
    optimizer = torch.optim.AdamW([p for p in trainable.parameters() if p.requires_grad], lr=1e-5)

    def step(batch: TrainingBatch) -> None:
        trainable(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def joint() -> TrainableVoco:
    """The joint mode: language model, projector and VoCo embeddings train."""
    model = make_model()
    model.backbone.hf_model.model.vision_tower.requires_grad_(False)
    return TrainableVoco(model).train()


def seconds_per_step(step: Callable[[], None], *, repeats: int) -> list[float]:
    """CPU seconds of each repeat, after one step that warms up."""
    step()
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return seconds


def measure_joint(num_frames: int, repeats: int) -> dict[str, Any]:
    """Seconds and peak memory of a joint step on one sample; meant for a process of its own."""
    torch.set_num_threads(1)
    step, batch = stepper(joint()), make_batch(num_frames)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = seconds_per_step(lambda: step(batch), repeats=repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "num_frames": num_frames,
        "seconds": seconds,
        "peak_bytes": peak * 1024,
        "step_bytes": (peak - before) * 1024,
    }


def measure_cached(repeats: int, batch_size: int) -> dict[str, Any]:
    """Seconds of a cached step: read a batch of samples from the frame cache, then text alone."""
    torch.set_num_threads(1)
    model = make_model().requires_grad_(False)
    batch = make_batch(NUM_FRAMES)
    assert batch.pixels is not None
    with torch.inference_mode():
        tokens = model.compress(model.vision_tokens(batch.pixels))
    with tempfile.TemporaryDirectory() as folder:
        cache = FrameCache(folder)
        key = CacheKey(video_digest="0" * 64, model_fingerprint="0" * 64, settings={"form": "kv", "dtype": "float32"})
        with cache.writer(key, facts={}) as writer:
            writer.append(tokens.tensors(), np.arange(NUM_FRAMES, dtype=np.float64))
            entry = writer.finish({})
        layers = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        add_adapters(model.backbone.decoder, rank=0, alpha=0, targets=layers)
        step, text = stepper(TrainableVoco(model).train()), make_batch(NUM_FRAMES, batch_size=batch_size)

        def run() -> None:
            step(replace(text, pixels=None, tokens=tuple(read_tokens(entry) for _ in range(batch_size))))

        return {"batch_size": batch_size, "seconds": seconds_per_step(run, repeats=repeats)}


def in_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run a measurement in a fresh process, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measure(settings: Settings) -> Report:
    """Seconds and memory of steps in both modes."""
    growth = [in_process(measure_joint, count, settings.repeats) for count in settings.frames]
    same = next((row for row in growth if row["num_frames"] == NUM_FRAMES), None)
    same = same or in_process(measure_joint, NUM_FRAMES, settings.repeats)
    cached = in_process(measure_cached, 5 * settings.repeats, settings.cached_batch_size)
    report: Report = {"growth": growth}
    for mode, seconds, size in (("joint", same["seconds"], 1), ("cached", cached["seconds"], cached["batch_size"])):
        median = float(np.median(seconds))
        report[mode] = {
            "batch_size": size,
            "seconds": seconds,
            "median_seconds": median,
            "samples_per_second": size / median,
        }
    report["speedup"] = report["cached"]["samples_per_second"] / report["joint"]["samples_per_second"]
    return report


def markdown(report: Report) -> str:
    """The report as tables."""
    modes = [
        (
            mode,
            report[mode]["batch_size"],
            f"{report[mode]['median_seconds']:.3f}",
            f"{report[mode]['samples_per_second']:.2f}",
            f"{report['speedup']:.0f}x" if mode == "cached" else "",
        )
        for mode in ("joint", "cached")
    ]
    growth = []
    for row in report["growth"]:
        seconds, size, count = float(np.median(row["seconds"])), row["step_bytes"] / 2**20, row["num_frames"]
        growth.append((count, f"{seconds:.2f}", f"{seconds / count:.3f}", f"{size:.0f} MiB", f"{size / count:.0f}"))
    return (
        "# Training modes\n\n"
        f"Samples of {NUM_FRAMES} frames, 576 vision and {NUM_VOCO_TOKENS} VoCo tokens each, and {TEXT_LENGTH} text "
        "tokens; random weights, fp32; one thread of the processor.\n\n"
        + table(["mode", "samples a step", "CPU s a step (median)", "samples a CPU s", ""], modes)
        + "\n\nJoint mode by frames:\n\n"
        + table(["frames", "CPU s a step", "CPU s a frame", "memory of a step", "MiB a frame"], growth)
    )


def draw(report: Report, figure: Figure) -> None:
    """Time and memory of joint mode against frames."""
    left, right = figure.subplots(1, 2)
    frames = [row["num_frames"] for row in report["growth"]]
    left.plot(frames, [np.median(row["seconds"]) for row in report["growth"]], marker="o")
    right.plot(frames, [row["step_bytes"] / 2**20 for row in report["growth"]], marker="o")
    left.set(xlabel="frames", ylabel="CPU seconds a step", title="joint mode: time", xlim=0, ylim=0)
    right.set(xlabel="frames", ylabel="MiB", title="joint mode: peak memory", xlim=0, ylim=0)


BENCHMARK = Benchmark(
    name="train_modes",
    about=__doc__ or "",
    default=Settings(),
    quick=Settings(repeats=1, frames=(4,), cached_batch_size=2),
    measure=measure,
    markdown=markdown,
    draw=draw,
    size=(9, 3.6),
)

if __name__ == "__main__":
    BENCHMARK.main()
