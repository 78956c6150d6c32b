"""A model card holds what a checkpoint is and what was measured with these weights, and nothing else."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from huggingface_hub import ModelCard

from voco_video import cli
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.errors import DataError, UsageError
from voco_video.publish.model_card import write_model_card


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A copy of voco-tiny and a real evaluation of it from 1 and 8 VoCo tokens a frame."""
    folder = tmp_path_factory.mktemp("card")
    shutil.copytree(find_checkpoint("voco-tiny"), folder / "mine")
    (folder / "mine" / "README.md").unlink(missing_ok=True)
    run("data", "synth", "--out", folder / "shapes", "--format", "msvd", "--num-videos", "8", "--size", "64")
    evaluation = ("eval", "msvd", "--root", folder / "shapes", "--model", folder / "mine", "--num-frames", "2")
    run(*evaluation, "--limit", "10", "--num-voco-tokens", "1,8", "--out", folder / "runs", "--batch-size", "auto")
    return folder


def run(*arguments) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["voco-video", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as exit_:
            return exit_.code or 0
    return 0


def test_a_card_from_an_evaluation(evaluated, capsys):
    reports = sorted((evaluated / "runs").glob("predictions-k*.scores.json"))
    assert run("card", evaluated / "mine", *reports) == 0
    assert capsys.readouterr().out.strip() == str(evaluated / "mine" / "README.md")
    text = (evaluated / "mine" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: voco-video\npipeline_tag: video-text-to-text\n")
    assert "8 VoCo tokens a frame, trained" in text
    results = {(one.metric_args["kept of a frame"], one.metric_type): one for one in ModelCard(text).data.eval_results}
    for report in reports:
        measured = json.loads(report.read_text())["scores"]["overall"]["metrics"]["exact_match"]["value"]
        k = report.name.split("-k")[1].partition(".")[0]
        (row,) = (line for line in text.splitlines() if line.startswith(f"| msvd test | {k} VoCo (embeds) |"))
        assert f"| num_frames 2 | native | 10 | {100 * measured:.1f}" in row
        result = results[f"{k} VoCo (embeds)", "exact_match"]
        assert (result.dataset_type, result.dataset_split) == ("msvd", "test")
        assert result.metric_value == round(100 * measured, 1)
    assert "voco-video eval msvd" in text
    assert load_voco_model(evaluated / "mine").num_voco_tokens == 8, "a card is no part of the model"


def test_a_card_is_written_again_but_not_over_anothers(evaluated):
    card = write_model_card(evaluated / "mine", [])
    assert "Nothing yet" in card.read_text()
    write_model_card(evaluated / "mine", [])
    card.write_text("# Mine\n\nBy hand.\n")
    with pytest.raises(UsageError, match="was written by somebody"):
        write_model_card(evaluated / "mine", [])
    card.unlink()


def test_an_evaluation_of_other_weights_is_refused(evaluated, tmp_path):
    model = load_voco_model(evaluated / "mine")
    with torch.no_grad():
        model.voco_embeds.mul_(1.01)
    save_voco_model(model, tmp_path / "other")
    report = evaluated / "runs" / "predictions-k1.scores.json"
    with pytest.raises(DataError, match="is of a model with fingerprint 2b9f87b6264e, not of"):
        write_model_card(tmp_path / "other", [report])
    assert not (tmp_path / "other" / "README.md").exists()


def test_files_that_are_no_reports(evaluated, tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    for path in (tmp_path / "scores.json", tmp_path / "none.json"):
        with pytest.raises(DataError, match="is no report of an evaluation"):
            write_model_card(evaluated / "mine", [path])
    with pytest.raises(UsageError, match="a card is written into a checkpoint's own folder"):
        write_model_card("voco-tiny", [])
