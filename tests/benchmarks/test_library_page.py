"""docs/scale.md shows what its code makes, and the command of the simulation says what it did."""

from __future__ import annotations

import json

import pytest

from benchmarks.library import page, stragglers
from benchmarks.library.arithmetic import Arithmetic
from benchmarks.library.inputs import Inputs
from tests.helpers.drawn_texts import drawn_by_matplotlib
from voco_video.errors import DataError, UsageError

QUICK = ["--videos", "300", "--hours", "30", "--nodes", "2", "--workers-per-node", "4"]


@pytest.fixture(scope="module")
def recorded():
    return json.loads(stragglers.RECORDED.read_text(encoding="utf-8"))["scenarios"]


def test_the_tables_of_the_page_are_those_that_the_code_makes():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text, "run python -m benchmarks.library.page"


def test_a_page_with_other_numbers_is_noticed_and_put_right(tmp_path, monkeypatch, capsys):
    text = page.PAGE.read_text(encoding="utf-8")
    changed = tmp_path / "scale.md"
    monkeypatch.setattr(page, "PAGE", changed)
    changed.write_text(text.replace("LLaVA-1.5-7B | 51.1", "LLaVA-1.5-7B | 61.1"), encoding="utf-8")
    assert page.main(["--check"]) == 1
    assert "has other tables" in capsys.readouterr().out
    assert page.main([]) == 0
    assert changed.read_text(encoding="utf-8") == text
    assert page.main(["--check"]) == 0
    changed.write_text(text.replace("<!-- table: bill -->", "<!-- table: bull -->"), encoding="utf-8")
    assert page.main([]) == 1
    assert "the page has the tables" in capsys.readouterr().err


def assert_as_recorded(found, recorded):
    """The same options and, for every run that was made again, the same outcome."""
    advice = (
        "inputs changed: run python -m benchmarks.library.stragglers --record, then python -m benchmarks.library.page"
    )
    assert found["options"] == recorded["options"], advice
    assert found["cluster"] == pytest.approx(recorded["cluster"], rel=1e-6), advice
    assert found["lengths"] == pytest.approx(recorded["lengths"], rel=1e-6)
    for one in found["runs"]:
        (same,) = [
            r for r in recorded["runs"] if all(r[key] == one[key] for key in ("window_seconds", "order", "seed"))
        ]
        for key, value in one.items():
            assert value == (pytest.approx(same[key], rel=1e-6) if isinstance(value, float) else same[key]), key


@pytest.mark.parametrize("name", ["batch", "spot"])
def test_simulating_again_gives_what_is_recorded(name, recorded):
    options, _, orders = stragglers.SCENARIOS[name]
    found = stragglers.run(options, (None, 600.0), orders, busy=name == "batch")
    assert_as_recorded(found, recorded[name])


def test_all_that_the_page_names_is_recorded(recorded):
    assert recorded.keys() == stragglers.SCENARIOS.keys()
    for name, (options, windows, orders) in stragglers.SCENARIOS.items():
        seeds = stragglers.SEEDS if name in ("batch", "spot") else 1
        assert len(recorded[name]["runs"]) == len(windows) * len(orders) * seeds
        assert recorded[name]["cluster"]["speed"] == pytest.approx(options.speed or stragglers.default_speed())


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["batch", "spot", "library, 64 GPUs"])  # a minute of processor time for all
def test_simulating_everything_again_gives_what_is_recorded(name, recorded):
    found = stragglers.recorded_scenario(name)
    assert len(found["runs"]) == len(recorded[name]["runs"])
    assert_as_recorded(found, recorded[name])


def test_workers_are_as_fast_as_the_arithmetic_has_it():
    assert stragglers.Options().cluster().speed == Arithmetic(Inputs()).worker["rate"]
    assert stragglers.Options(speed=7.0).cluster().speed == 7.0
    assert stragglers.Options(fetch_seconds=0.0).cluster().start_seconds == stragglers.per_video_figure().value


def test_texts_of_the_plot_can_be_read(recorded, tmp_path):
    with drawn_by_matplotlib() as drawn:
        stragglers._save(
            lambda figure: stragglers.draw({"scenarios": recorded}, figure), tmp_path / "plot.png", (12, 3.8)
        )
    assert drawn.faults == []
    assert "whole videos" in drawn.texts


# ---------------------------------------------------------------------- the command


def test_json_and_plot(tmp_path, capsys):
    plot = tmp_path / "plot.png"
    flags = ["--json", "--windows", "none", "600", "--orders", "arrival", "longest-first", "--num-seeds", "2"]
    assert stragglers.main([*QUICK, *flags, "--plot", str(plot)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["runs"]) == 8
    assert [one["seed"] for one in report["runs"]] == [0] * 4 + [1] * 4
    assert {one["finished"] + one["failed"] for one in report["runs"]} == {300}
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert stragglers.main([*QUICK, *flags]) == 0
    assert json.loads(capsys.readouterr().out) == report


def test_the_table_has_medians_and_ranges_over_seeds(capsys):
    assert stragglers.main([*QUICK, "--windows", "none", "--num-seeds", "3", "--json"]) == 0
    over = sorted(one["over_ideal"] for one in json.loads(capsys.readouterr().out)["runs"])
    assert stragglers.main([*QUICK, "--windows", "none", "--num-seeds", "3"]) == 0
    text = capsys.readouterr().out
    number = stragglers.number
    assert f"| **{number(over[1])}** ({number(over[0])} – {number(over[2])}) |" in text
    assert text.startswith("300 videos, 28.8 hours, the longest")


def test_lengths_of_ones_own(tmp_path, capsys):
    path = tmp_path / "lengths.txt"
    path.write_text("100\n200\n300\n")
    calm = [
        "--slow-share",
        "0",
        "--worker-hours",
        "0",
        "--node-hours",
        "0",
        "--error-share",
        "0",
        "--broken-share",
        "0",
    ]
    calm += ["--nodes", "1", "--workers-per-node", "1", "--speed", "2", "--windows", "none", "--json"]
    assert stragglers.main(["--lengths", str(path), *calm]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["lengths"] == {"hours": pytest.approx(1 / 6), "longest_seconds": 300.0, "videos": 3}
    start = report["cluster"]["start_seconds"]
    assert report["runs"][0]["makespan_seconds"] == pytest.approx(300 + 3 * start)
    assert stragglers.main(["--lengths", str(tmp_path / "none.txt")]) == 1
    assert "none.txt cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--windows", "0"], "must be seconds above 0, or none"),
        (["--windows", "nan"], "must be seconds above 0"),
        (["--windows", "1e-9"], "windows of 1e-09 s make"),
        (["--videos", "1e3"], "must be a whole number"),
        (["--videos", "10000000000"], "must be at most 5e+06"),
        (["--num-seeds", "0"], "must be a whole number above 0"),
        (["--orders", "random"], "invalid choice"),
        (["--slow-factor", "0.5"], "slow_factor must be at least 1, not 0.5"),
        (["--nodes", "0"], "must be more than 0"),
        (["--hours", "1e9"], "give fewer hours"),
        (["--node-hours", "0.0001", "--videos", "20", "--hours", "1"], "do not live long enough"),
    ],
)
def test_what_cannot_be_is_refused(flags, message, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.library.simulation.MAX_ATTEMPTS_PER_PIECE", 5)
    try:
        code = stragglers.main(flags)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_plot_that_cannot_be_written_is_an_error(tmp_path, capsys):
    assert stragglers.main([*QUICK, "--windows", "600", "--plot", str(tmp_path / "no" / "plot.png")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_help_has_examples(capsys):
    for command in (stragglers, page):
        with pytest.raises(SystemExit):
            command.main(["--help"])
        assert f"python -m {command.__name__} --" in capsys.readouterr().out


def test_an_option_that_cannot_be_is_refused_in_python():
    for values in ({"slow_share": 1.5}, {"seed": -1}, {"slow_factor": 0.0}):
        with pytest.raises(UsageError, match="must be"):
            stragglers.Options(**values)


def test_without_a_recorded_simulation_the_page_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr(stragglers, "RECORDED", tmp_path / "none.json")
    with pytest.raises(DataError, match="make it with --record"):
        page.tables()
