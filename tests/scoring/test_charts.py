"""Pictures of scores: no text leaves them or covers another, whatever things are called and however many there are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.drawn_texts import drawn_by_matplotlib
from voco_video.scoring.bootstrap import Estimate
from voco_video.scoring.report import draw_by_group, draw_runs, draw_sweep
from voco_video.training.curves import draw_curves

SOME, NONE, ALONE = Estimate(0.4, 0.35, 0.45), Estimate(math.nan, None, None), Estimate(1.0, None, None)
NAMES = {
    "short": ["a", "b"],
    "long": [f"runs/msvd-test-my-long-checkpoint-name-{n}-" + "x" * 80 + f"/predictions-k{n}" for n in range(6)],
    "words": ["a run with a name of many words " * 2 + str(n) for n in range(3)],
    "one": ["alone"],
    "fifty": [f"run {n}" for n in range(50)],
    "scripts": ["视频/运行", "الفيديو", "סרטון", "vidéo 👍", "Привет"],
    "formula": ["cost $x_1$", "_hidden", "a\nb", "", "100 % {y}"],
}


def check(draw: Callable[[Path], Path], path: Path) -> str:
    """Draw a picture, hold it against the rules for all of them, and return all that is written in it."""
    with drawn_by_matplotlib() as drawn:
        draw(path)
    assert drawn.num_pictures == 1
    assert drawn.faults == []
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGBA"))
    assert pixels.shape[1] == 800
    assert (pixels[..., 3] == 255).all(), "the ground is its own"
    assert (pixels[0, 0, :3] == 255).all(), "and light"
    return "\n".join(drawn.texts)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", NAMES)
def test_names_of_all_kinds_can_be_read(kind, tmp_path):
    names = NAMES[kind]
    by_run = check(lambda path: draw_runs(dict.fromkeys(names, SOME), path), tmp_path / "runs.png")
    series = {metric: dict.fromkeys(names, SOME) for metric in ("exact match", "judged yes")}
    by_group = check(lambda path: draw_by_group(series, path, title=" ".join(names)[:900]), tmp_path / "groups.png")
    for written in (by_run, by_group):
        if kind not in ("long", "scripts", "formula"):
            assert all("".join(name.split()) in "".join(written.split()) for name in names)
    if kind == "long":
        assert all(f"predictions-k{n}" in by_run for n in range(6)), "the end of a long name stays"
    if kind == "formula":
        assert "cost $x_1$" in by_run
        assert "_hidden" in by_group
        assert "(no name)" in by_run
    assert by_run.count("40.0 [35.0, 45.0]") == len(names)
    assert by_group.count("40.0 [35.0, 45.0]") == 2 * len(names)


def test_values_that_are_missing_are_said(tmp_path):
    written = check(lambda path: draw_runs({"a": SOME, "b": NONE, "c": ALONE}, path), tmp_path / "a.png")
    assert "no value" in written
    assert "\n100.0\n" in f"{written}\n"
    assert "95 % intervals over videos" in written
    written = check(lambda path: draw_runs({"a": NONE}, path), tmp_path / "b.png")
    assert "no value" in written
    assert "without intervals: they need two videos" in written
    groups = {"exact match": {"who": NONE, "all": ALONE}}
    assert "no value" in check(lambda path: draw_by_group(groups, path, title="t"), tmp_path / "c.png")
    written = check(lambda path: draw_sweep({1: NONE, 2: NONE}, path), tmp_path / "d.png")
    assert "no question has a value" in written


@pytest.mark.parametrize("budgets", [[8], [1, 2, 4, 8], range(1, 65), [31, 32, 33], [1, 1024]])
def test_a_sweep_of_any_budgets(budgets, tmp_path):
    written = check(lambda path: draw_sweep(dict.fromkeys(budgets, SOME), path), tmp_path / "sweep.png").split("\n")
    assert str(max(budgets)) in written
    assert len(budgets) > 10 or all(str(k) in written for k in budgets if k != 32)


def test_a_run_stands_where_its_value_is(tmp_path):
    """Drawn as a picture: the points of three runs lie on a line through their values, from the top down."""
    values = {"low": Estimate(0.2, None, None), "middle": Estimate(0.5, None, None), "high": Estimate(0.8, None, None)}
    check(lambda path: draw_runs(values, path), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        blue = np.argwhere((np.asarray(picture.convert("RGB")) == (31, 111, 180)).all(axis=-1))
    rows = np.array_split(blue[np.argsort(blue[:, 0], kind="stable")], 3)
    (y1, x1), (y2, x2), (y3, x3) = (row.mean(axis=0) for row in rows)
    assert x1 < x2 < x3
    assert y1 < y2 < y3
    assert x2 - x1 == pytest.approx(x3 - x2, abs=2)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=2)


HISTORY = [
    {
        "step": step,
        "loss": 1 / step,
        "loss_k=8, embeds": 2 / step,
        "token_accuracy_k=8, embeds": 0.5,
        "learning_rate": 1.0,
    }
    | ({"eval_accuracy": 0.4, "eval_accuracy_k=8, embeds": 0.4} if step % 5 == 0 else {})
    for step in range(1, 21)
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "history",
    [
        HISTORY,
        HISTORY[:1],
        [],
        [{"step": 1, "loss": math.nan}],
        [{"step": 1, "loss": 0.0, "eval_accuracy": 0.0}],
        [{"step": 1, "loss": 1e-9, "accuracy": 1.0}, {"step": 2, "loss": 1e3, "accuracy": 1.0}],
        [
            {"step": s, **{f"eval_accuracy_k={k}, {form}": s / 9 for k in range(1, 9) for form in ("kv", "embeds")}}
            for s in (1, 2)
        ],
    ],
)
def test_curves(history, tmp_path):
    written = check(lambda path: draw_curves(history, path), tmp_path / "curves.png")
    finite = [name for line in history for name, value in line.items() if math.isfinite(value)]
    expected = sum(not any(kind in name for name in finite) for kind in ("loss", "accuracy"))
    assert written.count("nothing was logged") == expected
    assert "$" not in written
    for name in set(finite) - {"step", "learning_rate"}:
        assert name.removeprefix("eval_") in written
    assert "learning_rate" not in written
