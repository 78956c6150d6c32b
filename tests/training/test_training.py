"""Training runs end to end on tiny models: lower loss, exact resume, modes, and errors that name the option."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.data import turns
from voco_video.data.samples import Turn
from voco_video.data.turns import encode_turns
from voco_video.errors import UsageError
from voco_video.training import TrainConfig, TrainingError, checks, engine, load_config, train
from voco_video.training.batches import make_batch
from voco_video.training.curves import draw_curves
from voco_video.training.recipes import config_from
from voco_video.training.samples import MovingShapesStream, RunOrder, open_dataset, visibility_at
from voco_video.training.trainable import choose_trainable, export_model
from voco_video.training.validation import validate


def tiny_run(tmp_path, **changes) -> TrainConfig:
    options = {
        "output_dir": str(tmp_path / "run"),
        "stage": "image",
        "max_steps": 6,
        "global_batch_size": 4,
        "per_device_batch_size": 2,
        "num_turns": 2,
        "learning_rate": 1e-3,
        "num_voco_token_choices": (1, 4),
        "full_visibility_fraction": 0.3,
        "save_steps": 3,
        "log_steps": 1,
        "report_to": (),
    }
    return TrainConfig(**options | changes)


def losses(config: TrainConfig) -> list[float]:
    log = json.loads((Path(config.output_dir) / "log.json").read_text())
    return [line["loss"] for line in log if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors") | load_file(folder / "voco.safetensors")


# ---------------------------------------------------------------------- runs


def test_twenty_steps_lower_the_loss_and_write_what_a_run_promises(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "draw_curves", draw_curves)
    untrained = load_voco_model("voco-tiny")
    torch.manual_seed(0)
    for parameter in untrained.backbone.decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    start = str(save_voco_model(untrained, tmp_path / "untrained"))
    config = tiny_run(
        tmp_path, model=start, max_steps=20, learning_rate=3e-3, eval_steps=10, eval_samples=4, save_steps=10
    )
    result = train(replace(config, report_to=("tensorboard",)))
    seen = losses(config)
    assert sum(seen[-3:]) < 0.8 * sum(seen[:3])
    assert set(result.accuracy) == {"full", "k=1", "k=4"}
    folder = Path(config.output_dir)
    assert (folder / "curves.png").stat().st_size > 5000
    assert list(folder.rglob("events.out.tfevents*"))
    for name in ("last", "best"):
        model = load_voco_model(folder / name)
        assert model.trained
        assert not model.about, "what its base says of itself is not true of it"
        assert model.fingerprint() != load_voco_model(start).fingerprint()


def test_progress_is_told_and_lines_go_to_the_log(tmp_path, caplog, capsys):
    seen = []
    with caplog.at_level("INFO", logger="voco_video.training"):
        config = tiny_run(tmp_path, max_steps=2, eval_steps=1, eval_samples=3, per_device_batch_size=2, save_steps=2)
        train(config, on_progress=seen.append)
    assert [p.step for p in seen if not p.num_to_validate] == sorted(p.step for p in seen if not p.num_to_validate)
    assert (seen[0].step, seen[-1].step, {p.num_steps for p in seen}) == (0, 2, {2})
    assert seen[-1].loss == losses(config)[-1]
    passes = [(p.num_validated, p.num_to_validate) for p in seen if p.step == 1 and p.num_to_validate]
    assert passes == [(2, 9), (3, 9), (5, 9), (6, 9), (8, 9)], "three passes over three samples, in batches of two"
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 1 of 2", "step 2 of 2"]
    assert f"loss {losses(config)[0]:.4g}" in lines[0]
    assert capsys.readouterr().out == "", "a library prints nothing"


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.exhaustive)])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, monkeypatch, optimizer):
    whole = tiny_run(tmp_path / "whole", optimizer=optimizer)
    train(whole)

    config = tiny_run(tmp_path / "parts", optimizer=optimizer)
    step = engine.VocoTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 4:  # one step after the checkpoint
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(engine.VocoTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    torch.manual_seed(123)  # what the process did in between must not matter
    train(config, resume=True)

    expected, got = (weights(Path(c.output_dir) / "last") for c in (whole, config))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert losses(config) == losses(whole)


def test_a_folder_with_a_run_is_not_overwritten_and_not_mixed_up(tmp_path):
    config = tiny_run(tmp_path, max_steps=3)
    train(config)
    with pytest.raises(UsageError, match="give --resume"):
        train(config)
    with pytest.raises(UsageError, match=r"learning_rate was 0\.001 and is 0\.1"):
        train(replace(config, learning_rate=0.1), resume=True)


def test_accumulation_gives_the_same_weights_as_one_large_batch(tmp_path):
    runs = [tiny_run(tmp_path / str(size), per_device_batch_size=size, max_steps=3) for size in (1, 4)]
    for run in runs:
        train(run)
    small, large = (weights(Path(run.output_dir) / "last") for run in runs)
    for name in small:
        assert torch.allclose(small[name], large[name], atol=2e-5), name


@pytest.mark.parametrize("form", [pytest.param("kv", marks=pytest.mark.exhaustive), "embeds"])
def test_video_stage_with_images_mixed_in(tmp_path, form):
    config = tiny_run(tmp_path, stage="video", form=form, num_frames=3, image_fraction=0.4, max_steps=2)
    assert np.isfinite(train(replace(config, gradient_checkpointing=True, precision="bfloat16")).loss)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_knob(tmp_path, monkeypatch):
    monkeypatch.setattr(
        engine.TrainableVoco,
        "forward",
        lambda self, batch, **_: {
            "loss": self.voco.voco_embeds.sum() * float("nan"),
            **{key: torch.zeros(()) for key in ("cross_entropy", "num_labels", "num_correct")},
        },
    )
    with pytest.raises(TrainingError, match=r"loss is nan at step 1.*learning_rate \(now 0.001\)"):
        train(tiny_run(tmp_path))


def test_running_out_of_memory_says_what_to_change(tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.TrainableVoco, "forward", full)
    with pytest.raises(TrainingError, match=r"halve per_device_batch_size \(now 2.*gradient_checkpointing: true"):
        train(tiny_run(tmp_path))


# ---------------------------------------------------------------------- parts


def test_only_what_is_chosen_trains(tmp_path):
    model = load_voco_model("voco-tiny")
    choose_trainable(model, tiny_run(tmp_path, train_projector=False, train_llm=False))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["voco_embeds"]
    choose_trainable(model, tiny_run(tmp_path, train_vision_tower=True, train_llm=False))
    trained = {n.split(".")[2] for n, p in model.named_parameters() if p.requires_grad and "." in n}
    assert trained == {"vision_tower", "multi_modal_projector"}


def test_adapters_are_merged_into_the_model_that_is_written(tmp_path):
    config = tiny_run(tmp_path, lora_rank=4, max_steps=4, learning_rate=1e-2, save_steps=2)
    result = train(config)
    model = load_voco_model("voco-tiny", dtype="float32")
    choose_trainable(model, config)
    trained = load_file(Path(config.output_dir) / "checkpoint-4" / "trained.safetensors")
    assert any("lora_A" in name for name in trained)
    model.load_state_dict({n.removeprefix("voco."): t for n, t in trained.items()}, strict=False)
    text = torch.tensor([[5, 11, 42, 7, 60]])
    with torch.inference_mode():
        logits = model(text, prefix=model.empty_prefix())[0]
        merged = load_voco_model(result.last, dtype="float32")
        assert torch.allclose(merged(text, prefix=merged.empty_prefix())[0], logits, atol=1e-4)


# ---------------------------------------------------------------------- samples and order


def test_turns_become_the_tokens_that_are_asked_and_only_answers_are_learned():
    backbone = load_voco_model("voco-tiny").backbone
    turns = [Turn("where is the star?", "top left"), Turn("how many shapes are there?", "two")]
    ids, owners = encode_turns(backbone, turns, max_length=100)
    asked = backbone.conversation_ids([{"role": "user", "content": "where is the star?"}])
    assert ids[: len(asked)] == asked
    assert owners[: len(asked)] == [-1] * len(asked)
    answers = [backbone.text([i for i, o in zip(ids, owners, strict=True) if o == turn]) for turn in (0, 1)]
    assert answers == ["top left", "two"]
    end = backbone.tokenizer.eos_token_id
    assert [o for i, o in zip(ids, owners, strict=True) if i == end] == [0, 1], "the end of each answer is learned"


def test_turns_that_do_not_fit_are_left_out_whole():
    backbone = load_voco_model("voco-tiny").backbone
    turns = [Turn("where is the star?", "top left"), Turn("how many shapes are there?", "two")]
    ids, _ = encode_turns(backbone, turns, max_length=100)
    first, owners = encode_turns(backbone, turns, max_length=len(ids) - 1)
    assert max(owners) == 0
    assert first == ids[: len(first)]
    with pytest.raises(UsageError, match="max_length=5"):
        encode_turns(backbone, turns, max_length=5)


TEMPLATES = {
    "plain": "{% for m in messages %}{{ m.role }}: {{ m.content }} {% if m.role == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    "trims": "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    "tells otherwise": "{% for m in messages %}{{ m.role }} - {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    "numbers turns": "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ messages | length + 1 }} assistant: {% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_joined_from_turns_are_what_the_template_writes(name):
    backbone = replace(load_voco_model("voco-tiny").backbone, chat_template=TEMPLATES[name])
    conversation = [Turn(" who is red? ", "star"), Turn("what moves?", "the cross"), Turn("where?", "left")]
    rendered = turns._rendered(backbone, conversation)
    assert turns._joined(backbone, conversation) == (None if name == "numbers turns" else rendered)
    answers = [rendered[0][first:last].replace(" </s>", "</s>") for first, last in rendered[1]]
    assert answers == ["star</s>", "the cross</s>", "left</s>"]
    ids, owners = encode_turns(backbone, conversation, max_length=999)
    assert len(ids) == len(owners)
    assert set(owners) == {-1, 0, 1, 2}


def test_the_order_of_a_run_depends_on_position_alone(tmp_path):
    class Ten:
        num_samples = 10

        def sample(self, index):
            return index

    order = RunOrder(Ten(), num_steps=10, global_batch_size=4, seed=0)
    first, second = ([order.index_at(p) for p in range(start, start + 10)] for start in (0, 10))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert len(order) == 40
    assert order[9].step == 2


def test_visibility_is_mixed_and_the_same_on_every_device(tmp_path):
    config = tiny_run(tmp_path, full_visibility_fraction=0.5, num_voco_token_choices=(1, 4))
    names = [visibility_at(step, config, num_voco_tokens=8).name for step in range(200)]
    assert names == [visibility_at(step, config, num_voco_tokens=8).name for step in range(200)]
    assert set(names) == {"full", "k=1", "k=4"}
    assert 70 < names.count("full") < 130


def test_validation_counts_what_greedy_generation_answers(tmp_path):
    """An answer is right when each token is the likeliest; one wrong token makes it wrong."""
    config = tiny_run(tmp_path, eval_steps=1)
    model = load_voco_model("voco-tiny", dtype="float32")
    trainable = engine.TrainableVoco(model)
    stream = open_dataset(config, model)
    assert isinstance(stream, MovingShapesStream)
    limited = replace(stream, num_samples=6)
    scores = validate(trainable, model.backbone, limited, config, num_voco_tokens=8)
    assert {name: sum(s.total.values()) for name, s in scores.items()} == {"full": 12, "k=1": 12, "k=4": 12}
    samples = [stream.sample(i) for i in range(2)]
    batch = make_batch(model.backbone, samples, visibility_at(0, config, num_voco_tokens=8))
    answers = trainable.answer_logits(batch, model.vision_tokens(batch.pixels))
    assert len(answers.labels) == int((batch.labels != -100).sum())


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lerning_rate: 1e-3", "'lerning_rate' is no option; did you mean 'learning_rate'"),
        ("stage: movie", "stage='movie' is not one of image, video"),
        ("learning_rate: fast", "learning_rate='fast' has to be a number"),
        ("max_steps: 1.5", "max_steps=1.5 has to be a whole number"),
        ("gradient_checkpointing: 3", "gradient_checkpointing=3 has to be true or false"),
        ("num_voco_token_choices: [a]", "has to be a list of whole numbers"),
        ("full_visibility_fraction: 2", "has to lie between 0 and 1"),
        ("mode: cached", "cannot train the compressor; set train_projector, train_voco_embeds to false"),
        ("- a list", "has to hold 'key: value' lines"),
    ],
)
def test_options_that_cannot_be_right_are_refused_with_their_value(tmp_path, line, message):
    path = tmp_path / "run.yaml"
    path.write_text(
        line
        if line.startswith("-")
        else f"output_dir: run\nstage: video\n{line}\n".replace("stage: video\nstage", "stage")
    )
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        load_config(path)


def test_options_may_be_set_from_the_command_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("output_dir: run\nlearning_rate: 2e-5\n")
    config = load_config(path, ["learning_rate=1e-3", "num_voco_token_choices=[1, 2]", "train_llm=false"])
    assert (config.learning_rate, config.num_voco_token_choices, config.train_llm) == (1e-3, (1, 2), False)
    with pytest.raises(UsageError, match="give key=value"):
        load_config(path, ["learning_rate"])
    with pytest.raises(UsageError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="output_dir is missing"):
        config_from({})


def test_the_global_batch_decides_accumulation():
    config = TrainConfig(output_dir="run", global_batch_size=128, per_device_batch_size=4)
    assert [checks.accumulation_steps(config, num_devices=n) for n in (1, 8, 32)] == [32, 4, 1]
    with pytest.raises(UsageError, match="global_batch_size=128 is not a multiple of per_device_batch_size=4 times 3"):
        checks.accumulation_steps(config, num_devices=3)


def test_an_endless_dataset_needs_a_number_of_steps(tmp_path):
    with pytest.raises(UsageError, match="it has no end; set max_steps"):
        train(tiny_run(tmp_path, max_steps=0))


def test_export_of_an_untouched_model_is_the_model(tmp_path):
    model = load_voco_model("voco-tiny")
    assert load_voco_model(export_model(model, tmp_path, tiny_run(tmp_path))).fingerprint() == model.fingerprint()
