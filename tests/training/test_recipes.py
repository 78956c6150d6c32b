"""Recipes: those that come with the package, by name and by path, in a checkout and in a wheel; and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from voco_video.errors import UsageError
from voco_video.options.fields import options_of
from voco_video.training import TrainConfig, engine, load_config
from voco_video.training.config import GROUPS
from voco_video.training.recipes import RECIPES, find_deepspeed, find_recipe, recipe_sentence, recipes

ROOT = Path(__file__).parents[2]


def test_every_file_in_configs_is_a_recipe():
    files = {str(path.relative_to(ROOT / "configs").with_suffix("")) for path in (ROOT / "configs").rglob("*.yaml")}
    assert set(recipes()) == files
    assert {"own-clips", "llava-7b-image", "voco-tiny/image"} <= files


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_valid_and_says_what_it_is_for(name):
    config = load_config(name)
    assert config.global_batch_size % config.per_device_batch_size == 0
    assert recipe_sentence(recipes()[name]).endswith(".")
    if config.deepspeed:
        assert find_deepspeed(config.deepspeed).is_file()


def test_the_groups_hold_every_option_once():
    names = [one.name for group in GROUPS for one in options_of(group)]
    assert names == [one.name for one in options_of(TrainConfig)]
    assert len(names) == len(set(names)) == 56


def test_the_keys_of_a_file_are_flat_as_they_always_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(recipes()["llava-7b-video"].read_text()) | {"deepspeed": "configs/deepspeed/zero3.json"}
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(values))
    config = load_config(path, ["learning_rate=3e-5", "num_voco_token_choices=[1]"])
    assert config.describe().items() >= (values | {"learning_rate": 3e-5, "num_voco_token_choices": [1]}).items()
    assert find_deepspeed(config.deepspeed) == RECIPES / "deepspeed" / "zero3.json"
    with pytest.raises(UsageError, match=r"deepspeed='zero9.json': no such file; there are deepspeed/zero2.json"):
        find_deepspeed("zero9.json")


def test_without_a_recipe_they_are_listed(run):
    code, out, err = run("train")
    assert (code, err) == (0, "")
    assert "own-clips  " in out
    assert "Your own clips and a file of questions about them." in out
    listed = json.loads(run("train", "--json")[1])
    assert listed["voco-tiny/image"]["path"].endswith("configs/voco-tiny/image.yaml")
    code, _, err = run("train", "--resume")
    assert (code, "name a recipe" in err) == (2, True)


def test_a_recipe_is_taken_by_name_and_a_file_goes_before_it(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("own-clips") == RECIPES / "own-clips.yaml"
    Path("own-clips").write_text("output_dir: mine\n")
    assert load_config("own-clips").output_dir == "mine"
    assert "own-clips is a file here and a recipe of voco-video; the file is taken" in caplog.text
    with pytest.raises(UsageError, match=r"own-clip: no such configuration file, and no recipe; .*own-clips, "):
        find_recipe("own-clip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("num_voco_tokens=2 num_voco_token_choices=[1,4]", "num_voco_token_choices=[1, 4] and num_voco_tokens=2: 4 is"),
        ("num_voco_token_choices=[1,99]", "num_voco_token_choices=[1, 99] and num_voco_tokens=8: 99 is not"),
        ("num_voco_token_choices=[0]", "num_voco_token_choices=[0] and num_voco_tokens=8: 0 is not"),
        ("dataset=clips.json eval_steps=10", "eval_steps=10 and dataset='clips.json': only moving-shapes has"),
        ("max_steps=0", "dataset='moving-shapes' and max_steps=0: it has no end"),
        ("max_steps=0 num_epochs=0", "max_steps=0 and num_epochs=0: one has to be above 0"),
        ("global_batch_size=6 per_device_batch_size=4", "global_batch_size=6 is not a multiple of per_device_batch"),
        ("question_families=[what,why]", "question_families=['what', 'why']: 'why' is not one of what, who"),
        ("mode=cached", "mode='cached' cannot train the compressor; set train_projector, train_voco_embeds to false"),
        ("optimizer=muon deepspeed=deepspeed/zero2.json", "optimizer='muon' needs whole matrices, and deepspeed="),
        ("optimizer=muon fsdp=true", "optimizer='muon' needs whole matrices, and fsdp=True shards them"),
        ("fsdp=true deepspeed=deepspeed/zero2.json", "deepspeed='deepspeed/zero2.json' and fsdp=True both shard"),
        ("deepspeed=zero9.json", "deepspeed='zero9.json': no such file"),
        ("export=adapter", "export='adapter' needs lora_rank above 0"),
        ("dataset=nowhere", "dataset is 'nowhere', but has to be moving-shapes, msvd"),
        ("save_steps=0", "save_steps=0: has to be 1 or more"),
        ("num_workers=-1", "num_workers=-1: has to be 0 or more"),
        ("learning_rate=nan", "learning_rate=nan: has to be 0 or more"),
    ],
)
def test_options_that_cannot_go_together_are_refused_before_a_model_is_loaded(
    run, tmp_path, monkeypatch, options, message
):
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(engine, "load_voco_model", load)
    monkeypatch.setattr("torch.cuda.is_available", lambda: "fsdp" in options)
    Path("run.yaml").write_text(
        "output_dir: run\nstage: video\nmax_steps: 4\nglobal_batch_size: 4\nper_device_batch_size: 2\nreport_to: []\n"
    )
    code, out, err = run("train", "run.yaml", *(part for option in options.split() for part in ("--set", option)))
    assert (code, out) == (2, ""), err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_run_on_too_many_processes_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "load_voco_model", None)
    monkeypatch.setenv("WORLD_SIZE", "3")
    config = TrainConfig(output_dir=str(tmp_path), max_steps=1, report_to=())
    with pytest.raises(UsageError, match="per_device_batch_size=16 times 3 devices"):
        engine.train(config)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("through_sdist", [False, True])
def test_a_wheel_that_is_installed_elsewhere_has_the_recipes(tmp_path, through_sdist):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("configs", "voco_video"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    if through_sdist:
        build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path / 'sdist')!r})"
        subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
        (archive,) = (tmp_path / "sdist").iterdir()
        shutil.unpack_archive(archive, tmp_path / "unpacked")
        (source,) = (tmp_path / "unpacked").iterdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True)
    code = (
        "import voco_video\nfrom voco_video.training.recipes import RECIPES, find_deepspeed, load_config, recipes\n"
        "assert load_config('own-clips').dataset == 'clips/questions.json'\n"
        "print(RECIPES, find_deepspeed('deepspeed/zero3.json'), *recipes(), sep='\\n')"
    )
    environment = {"PYTHONPATH": str(site), "PATH": ""}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True, capture_output=True, check=True
    )
    folder, deepspeed, *names = shown.stdout.splitlines()
    assert folder == str(site / "voco_video" / "configs")
    assert deepspeed == f"{folder}/deepspeed/zero3.json"
    assert names == list(recipes())
