"""The benchmark of checks: every function that it names is timed wherever it is used, and once."""

import time

import numpy as np
import pytest

import tascnet
from benchmarks import checks
from benchmarks.checks import CHECKS, WRITTEN, Stopwatch
from tascnet.data import arrays
from tascnet.run import files, records
from tests.reading import read_json


def test_seconds_of_a_function_within_another_count_once():
    stopwatch = Stopwatch()
    inner = stopwatch.timed("inner", lambda: time.sleep(0.02))
    outer = stopwatch.timed("outer", inner)
    outer()
    assert set(stopwatch.seconds) == {"outer"}
    assert 0.02 <= stopwatch.seconds["outer"] < 0.5
    inner()
    assert stopwatch.seconds["inner"] >= 0.02


def test_all_checks_are_there_and_are_timed_where_they_are_imported(tmp_path):
    stopwatch, before = Stopwatch(), records.digest_json
    with stopwatch.on_all():
        assert records.digest_json is files.digest_json is not before
        array = arrays.write_array(
            tmp_path / "a.npy", (3,), "float32", lambda _: [np.ones((4, 3), np.float32)]
        )
        assert array is not None
        assert (array[1:3] == 1).all()
    assert records.digest_json is files.digest_json is before
    assert stopwatch.seconds.keys() == {WRITTEN, "arrays", "records"}


def test_each_stage_of_each_run_is_a_row(bench, tmp_path, shown, monkeypatch):
    """The stages take a second or so each; here they do nothing but a check."""
    called = []

    def stage(network, data, options, **place):
        called.append((type(options).__name__, place["run"].name))
        files.digest_json({"some": "content"})

    monkeypatch.setattr(tascnet, "tune", stage)
    monkeypatch.setattr(tascnet, "prune", stage)
    monkeypatch.setattr(tascnet, "load", lambda folder: folder)
    monkeypatch.setattr(checks.Setup, "network", lambda setup: None)
    assert bench("checks", "--cache", tmp_path / "cache") == 0
    assert called == [("Tune", "tune"), ("Prune", "prune")] * 2
    rows = read_json(tmp_path / "checks" / "metrics.json")["rows"]
    assert [(row["run"], row["stage"]) for row in rows] == [
        (1, "tune"),
        (1, "prune"),
        (2, "tune"),
        (2, "prune"),
    ]
    for row in rows:
        assert row["checks"] == pytest.approx(sum(row["by_check"].values()))
        assert row["share"] == pytest.approx(row["checks"] / row["seconds"])
        assert set(row["by_check"]) <= {*CHECKS, WRITTEN}
    assert "records" in shown.export_text()


def test_an_unknown_stage_is_refused(bench, capsys):
    assert bench("checks", "--stages", "tuning") == 2
    assert "there is no stage 'tuning'" in capsys.readouterr().err
