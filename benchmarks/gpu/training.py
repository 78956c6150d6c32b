"""Step e: one optimizer step, from pixels and from cached frames, with LoRA; gradient checkpointing on and off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch

from benchmarks.gpu.arithmetic import FLOPS_PER_SECOND, frame_length, training_bytes, training_flops
from benchmarks.gpu.plan import Bench, Figures, Part
from benchmarks.shapes import random_pixels
from benchmarks.speed.compress import see
from benchmarks.timing import time_once
from voco_video.model.adapters import add_adapters
from voco_video.training.batches import TrainingBatch, Visibility
from voco_video.training.loss import TrainableVoco

K = 1
RANK = 64
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def parts(bench: Bench) -> Iterator[Part]:
    """Joint with and without checkpointing, then cached."""
    plan, shape = bench.plan, bench.shape
    lacks = "" if find_spec("peft") else "peft is not installed"
    joint = plan.training_frames * frame_length(shape) + plan.training_text
    for has_checkpoints in (True, False):
        flops = training_flops(shape, plan, has_checkpoints=has_checkpoints)
        yield Part(
            f"joint, {plan.training_frames} frames, checkpointing {'on' if has_checkpoints else 'off'}",
            lambda on=has_checkpoints: _step(bench, is_cached=False, has_checkpoints=on),  # type: ignore[misc]
            training_bytes(shape, joint, has_checkpoints=has_checkpoints),
            lacks,
            {"flops": flops, "seconds_at_peak": flops / FLOPS_PER_SECOND},
        )
    needed = training_bytes(shape, plan.training_text + plan.training_frames * K, has_checkpoints=False)
    yield Part("cached", lambda: _step(bench, is_cached=True, has_checkpoints=False), needed, lacks)


def _step(bench: Bench, *, is_cached: bool, has_checkpoints: bool) -> Figures:
    trainable = _trainable(bench)
    decoder = trainable.voco.backbone.decoder
    if has_checkpoints:  # before transformers 5.23 the method has its older name alone
        enable = getattr(decoder, "activation_checkpointing_enable", None) or decoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    try:
        batch = _batch(bench, is_cached=is_cached)
        trained = [p for p in trainable.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5)
        losses = []

        def step() -> None:
            loss = trainable(batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))

        time_once(step)
        timing = [time_once(step).wall_seconds for _ in range(bench.plan.repeats)]
    finally:
        if has_checkpoints:
            disable = getattr(decoder, "activation_checkpointing_disable", None)
            (disable or decoder.gradient_checkpointing_disable)()
    if not all(np.isfinite(losses)):
        raise ArithmeticError(f"losses {losses}")
    return {
        "step_seconds": float(np.median(timing)),
        "losses": losses,
        "num_trained": sum(p.numel() for p in trained),
    }


def _trainable(bench: Bench) -> TrainableVoco:
    """The shared model with LoRA, made once; the tower's weights stay."""
    if "trainable" not in bench.__dict__:
        model = bench.model
        model.requires_grad_(False)
        add_adapters(model.backbone.decoder, rank=RANK if bench.is_gpu else 2, alpha=128, targets=LAYERS)
        model.voco_embeds.requires_grad_(True)
        bench.__dict__["trainable"] = TrainableVoco(model).train()
    trainable: TrainableVoco = bench.__dict__["trainable"]
    return trainable


def _batch(bench: Bench, *, is_cached: bool) -> TrainingBatch:
    model, plan = bench.model, bench.plan
    vocabulary = model.backbone.text_config.vocab_size
    input_ids = torch.from_numpy(np.random.default_rng(0).integers(8, vocabulary - 1, (1, plan.training_text)))
    turn_ids = torch.full_like(input_ids, -1)
    turn_ids[:, plan.training_text // 2 :] = 0
    batch = TrainingBatch(
        num_frames=(plan.training_frames,),
        input_ids=input_ids,
        labels=torch.where(turn_ids >= 0, input_ids, -100),
        text_lengths=(plan.training_text,),
        turn_ids=turn_ids,
        visibility=Visibility(K),
        pixels=random_pixels(model, plan.training_frames),
    )
    if not is_cached:
        return batch
    tokens = model.compress(see(model, batch.pixels), num_voco_tokens=K)
    tokens = replace(tokens, **{name: tensor.cpu().clone() for name, tensor in tokens.tensors().items()})
    return replace(batch, pixels=None, tokens=(tokens,))
