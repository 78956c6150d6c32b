"""Rows that cannot be trained on: named by `data check` and at the start of a run, skipped, counted, and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers.clips import Clip
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.cli.data import app
from voco_video.data.check import check_dataset
from voco_video.data.row_check import prompts_of
from voco_video.errors import DataError, UsageError
from voco_video.training import TrainConfig, train
from voco_video.training.file_samples import Conversations, read_rows

GOOD = {"video": "clip.mp4", "question": "what moves?", "answer": "the square"}
WORDS = "where does the square go " * 30  # 150 words, and more than 150 tokens of voco-tiny
NUM_WORDS = 150


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    Clip("clip.mp4", num_frames=6).write(folder)
    bad = [
        {"id": "long", "video": "clip.mp4", "question": WORDS, "answer": "left"},
        {"id": "silent", "video": "clip.mp4", "question": "what moves?", "answer": ""},
        {"id": "gone", "video": "gone.mp4", "question": "what moves?", "answer": "the square"},
    ]
    path = folder / "rows.json"
    path.write_text(json.dumps([GOOD, *bad, GOOD]))
    return path


def config_of(rows: Path, tmp_path: Path, **changes) -> TrainConfig:
    options = {
        "output_dir": str(tmp_path / "run"),
        "dataset": str(rows),
        "stage": "video",
        "num_frames": 2,
        "max_length": 128,
        "max_steps": 3,
        "global_batch_size": 2,
        "per_device_batch_size": 2,
        "report_to": (),
    }
    return TrainConfig(**options | changes)


def test_a_check_names_them_without_a_model_as_far_as_words_tell(rows: Path) -> None:
    report = check_dataset(str(rows), max_length=NUM_WORDS)
    assert [(one.row, one.name) for one in report.bad_rows] == [(2, "long"), (3, "silent")]
    assert "151 words, so more than max_length=150" in report.bad_rows[0].reason
    assert "no answer" in report.bad_rows[1].reason
    assert not report.is_complete
    assert [one.name for one in check_dataset(str(rows), max_length=NUM_WORDS + 1).bad_rows] == ["silent"]
    with pytest.raises(UsageError, match="max_length=0"):
        check_dataset(str(rows), max_length=0)


def test_a_check_with_the_model_names_what_training_skips(rows: Path, tmp_path: Path) -> None:
    report = check_dataset(str(rows), model="voco-tiny", max_length=128)
    config = config_of(rows, tmp_path)
    dataset = Conversations(read_rows(config), config, load_voco_model("voco-tiny").backbone)
    missing = {number for number, row in enumerate(dataset.rows) if not row.has_all_media}
    assert {one.row - 1 for one in report.bad_rows} | missing == set(dataset.bad) == {1, 2, 3}
    for one in report.bad_rows:
        assert one.reason in dataset.bad[one.row - 1]
    done = CliRunner().invoke(app, ["check", str(rows), "--model", "voco-tiny", "--max-length", "128"])
    assert done.exit_code == 1
    assert "row 2 (long) cannot be trained on: max_length=128: the first turn alone has more tokens" in done.output
    assert "row 3 (silent) cannot be trained on" in done.output


def test_a_run_names_them_at_its_start_and_goes_on_without_them(rows: Path, tmp_path: Path, caplog) -> None:
    train(config_of(rows, tmp_path))
    named = [record.getMessage() for record in caplog.records if "it is skipped" in record.getMessage()]
    assert len(named) == 3
    for row, name in ((2, "long"), (3, "silent"), (4, "gone")):
        assert any(f"row {row} ({name}): " in line for line in named), named
    with pytest.raises(DataError, match=r"3 of 5 rows are bad, more than max_bad_samples=2.*data check"):
        train(config_of(rows, tmp_path, output_dir=str(tmp_path / "other"), max_bad_samples=2))


def test_rows_that_the_template_refuses_are_bad_and_others_are_not(tmp_path: Path) -> None:
    """A checkpoint whose template takes no system message, and a file with such rows and others."""
    Clip("clip.mp4", num_frames=6).write(tmp_path)
    system = {"role": "system", "content": "Be brief."}
    talk = [{"role": "user", "content": "what moves?"}, {"role": "assistant", "content": "the square"}]
    rows = [{"id": "with", "video": "clip.mp4", "messages": [system, *talk]}, {"video": "clip.mp4", "messages": talk}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    model = load_voco_model("voco-tiny")
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template = refuses + model.backbone.tokenizer.chat_template
    model.backbone = replace(model.backbone, chat_template=template)
    checkpoint = save_voco_model(model, tmp_path / "refuses")
    assert prompts_of(str(checkpoint)).chat_template == template
    report = check_dataset(str(tmp_path / "rows.json"), model=str(checkpoint))
    assert [(one.row, one.name) for one in report.bad_rows] == [(1, "with")]
    assert "System role not supported" in report.bad_rows[0].reason
    config = config_of(tmp_path / "rows.json", tmp_path, model=str(checkpoint), max_steps=1)
    train(config)
    assert not check_dataset(str(tmp_path / "rows.json"), model="voco-tiny").bad_rows, "this one takes both"


@pytest.mark.parametrize("name", ["llava-1.5-7b-hf", "SmolVLM2-500M-Video-Instruct", "Qwen3-VL-2B-Instruct"])
def test_prompts_without_weights_are_those_of_the_model(shared: Path, name: str) -> None:
    folder = str(shared / "golden" / "as_trained" / name)
    model, prompts = load_voco_model(folder).backbone, prompts_of(folder)
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what moves?"}]
    assert prompts.conversation_ids(talk) == model.conversation_ids(talk)
    assert prompts.hf_model.generation_config.eos_token_id == model.hf_model.generation_config.eos_token_id
    assert all(parameter.is_meta for parameter in prompts.hf_model.parameters())
