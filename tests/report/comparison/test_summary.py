"""Means, deviations and changes, by hand."""

import logging
import math
from typing import Any

import pytest

from tascnet.errors import RunFolderError
from tascnet.report.comparison import Place, Statistic, compare, find_runs, summarise
from tascnet.run.records import read_record, write_record
from tests.report.comparison.folders import write_run
from tests.report.records import timed


def rows_of(path):
    runs, unfit = find_runs(path)
    rows, doubles = summarise(runs)
    assert unfit == doubles == []
    return rows


def row_of(path, model):
    (row,) = [row for row in rows_of(path) if row.model == model]
    return row


def test_mean_deviation_and_change_over_two_seeds(tmp_path):
    """Of 300 and 500 the mean is 400, the deviation 141; from 1000 and 2000 these are -70 % and -75 %."""
    for seed, before, after in ((0, 1000, 300), (7, 2000, 500)):
        tune = {"conventional": {"params": before, "test_accuracy": 0.7}, "after": {"params": after}}
        write_run(tmp_path, seed, tune=tune)
    row = row_of(tmp_path, "tuned")
    assert row.seeds == (0, 7)
    assert row.figures["params"] == Statistic(mean=400, deviation=pytest.approx(100 * math.sqrt(2)), n=2)
    change = row.changes["conventional"]["params"]
    assert (change.mean, change.n) == (pytest.approx(-0.725), 2)
    assert change.deviation == pytest.approx(0.05 / math.sqrt(2))
    # Of accuracies a difference.
    assert row.changes["conventional"]["test_accuracy"].mean == pytest.approx(0.05)
    assert row.changes["conventional"]["test_accuracy"].deviation == pytest.approx(0.0)
    assert list(row.changes) == ["conventional"]


def test_a_change_is_that_of_each_seed_not_of_the_means(tmp_path):
    """10 of 100 and 900 of 1000 are -90 % and -10 %, in the mean -50 %; of the means it would be -17 %."""
    for seed, before, after in ((0, 100, 10), (1, 1000, 900)):
        write_run(tmp_path, seed, tune={"conventional": {"flops": before}, "after": {"flops": after}})
    assert row_of(tmp_path, "tuned").changes["conventional"]["flops"].mean == pytest.approx(-0.5)


def test_one_seed_has_no_deviation(tmp_path):
    write_run(tmp_path)
    assert row_of(tmp_path, "baseline").figures["params"] == Statistic(mean=1000, deviation=None, n=1)


def test_a_pruned_network_is_compared_with_the_conventional_and_the_unpruned_one(tmp_path):
    tune = {"conventional": {"flops": 8000}, "after": {"flops": 4000}}
    write_run(tmp_path, tune=tune, prune={"before": {"flops": 4000}, "after": {"flops": 1000}})
    row = row_of(tmp_path, "pruned: reconstruction")
    changes = {reference: of["flops"].mean for reference, of in row.changes.items()}
    assert changes == {"conventional": pytest.approx(-0.875), "unpruned": pytest.approx(-0.75)}


def test_what_was_pruned_from_another_network_is_not_compared_with_the_conventional_one(tmp_path):
    write_run(tmp_path, tune={"after": {"params": 900}}, prune={"before": {"params": 800}})
    assert list(row_of(tmp_path, "pruned: reconstruction").changes) == ["unpruned"]


def test_each_preset_and_each_picked_trial_has_a_row(tmp_path):
    write_run(tmp_path, prune={}, preset="prune-tascnet")
    folder = write_run(tmp_path, prune={})
    (folder / "prune").rename(folder / "prune-pick3")
    write_run(tmp_path, prune={})
    write_run(tmp_path / "elsewhere", tune={"conventional": {"params": 500}, "after": {"params": 250}})
    (tmp_path / "elsewhere/digits/cnn/run-seed0/tune").rename(folder / "tune-pick3")
    (tmp_path / "elsewhere/digits/cnn/run-seed0").rmdir()
    rows = {row.model: row for row in rows_of(tmp_path)}
    assert list(rows) == [
        *("baseline", "conventional", "tuned", "tuned: trial 3"),
        *("pruned: reconstruction", "pruned: reconstruction, trial 3", "pruned: tascnet"),
    ]
    # Half of the 500 of its own conventional network, not a quarter of the search's 1000.
    assert rows["tuned: trial 3"].changes["conventional"]["params"].mean == pytest.approx(-0.5)
    # Of 1000 parameters, it was not pruned from trial 3, which has 250.
    assert list(rows["pruned: reconstruction, trial 3"].changes) == ["unpruned"]


def test_data_sets_backbones_and_names_stay_apart(tmp_path):
    for place in ({}, {"dataset": "birds"}, {"backbone": "vgg"}, {"name": "other"}):
        write_run(tmp_path, **place)
    settings = dict.fromkeys((row.dataset, row.backbone, row.name) for row in rows_of(tmp_path))
    assert list(settings) == [
        *(
            ("birds", "cnn", "run"),
            ("digits", "cnn", "other"),
            ("digits", "cnn", "run"),
            ("digits", "vgg", "run"),
        ),
    ]


def test_runs_of_one_name_with_other_options_are_not_averaged(tmp_path):
    """Neither where an option differs nor where a budget does; what differs is named."""
    write_run(tmp_path, 0, options={"tune.round_to": 4}, budget={"max_trials": 9})
    write_run(tmp_path, 1, options={"tune.round_to": 4}, budget={"max_trials": 9})
    write_run(tmp_path, 2, options={"tune.round_to": 8}, budget={"max_trials": None})
    named = {row.name: row.seeds for row in rows_of(tmp_path)}
    assert named == {
        "run (tune.max_trials=9, tune.round_to=4)": (0, 1),
        "run (tune.max_trials=null, tune.round_to=8)": (2,),
    }


def test_runs_by_another_metric_are_not_averaged(tmp_path):
    write_run(tmp_path, 0)
    write_run(tmp_path, 1, metric="balanced_accuracy")
    assert {row.name: row.seeds for row in rows_of(tmp_path)} == {
        "run (metric=accuracy)": (0,),
        "run (metric=balanced_accuracy)": (1,),
    }


def test_prunings_of_one_preset_with_other_options_are_not_averaged(tmp_path):
    for seed, share in ((0, 0.5), (1, 0.25)):
        folder = write_run(tmp_path, seed, prune={})
        identity = folder / "prune" / "identity.json"
        write_record(identity, {**read_record(identity, dict[str, Any]), "prune.pruning_ratio": share})
    rows = {row.model: row.seeds for row in rows_of(tmp_path)}
    assert rows["tuned"] == (0, 1)
    assert rows["pruned: reconstruction (prune.pruning_ratio=0.5)"] == (0,)
    assert rows["pruned: reconstruction (prune.pruning_ratio=0.25)"] == (1,)


def test_latencies_of_different_places_have_no_mean(tmp_path):
    """Changes are those of each seed, which measured both networks in one place."""
    write_run(tmp_path, 0, tune={"after": {"latency_ms": 1.0}})
    slow = {"latency_ms": 1.5, "threads": 1}
    tune = {"baseline": {"threads": 1}, "conventional": {"threads": 1}, "after": slow}
    write_run(tmp_path, 1, tune=tune)
    row = row_of(tmp_path, "tuned")
    assert row.figures["latency_ms"] is row.figures["latency_ms_batch"] is None
    assert row.figures["params"].n == 2
    assert row.places == (
        Place(machine="Chip", device="cpu", threads=1),
        Place(machine="Chip", device="cpu", threads=2),
    )
    # 1 of 2 ms and 1.5 of 2 ms.
    assert row.changes["conventional"]["latency_ms"].mean == pytest.approx(-0.375)


def test_latencies_of_another_machine_or_batch_have_no_mean_either(tmp_path):
    write_run(tmp_path / "machine", 0)
    write_run(tmp_path / "machine", 1, machine={"name": "Other"})
    row = row_of(tmp_path / "machine", "baseline")
    assert row.figures["latency_ms"] is row.figures["latency_ms_batch"] is None
    write_run(tmp_path / "batch", 0)
    write_run(tmp_path / "batch", 1, tune={"baseline": {"batch": 4}})
    row = row_of(tmp_path / "batch", "baseline")
    assert row.figures["latency_ms"].n == 2
    assert row.figures["latency_ms_batch"] is None
    assert row.batches == (4, 16)


def test_a_latency_is_not_compared_with_one_of_another_place(tmp_path):
    """Pruned on one thread, tuned on two."""
    here = {"threads": 1, "latency_ms": 1.0}
    write_run(tmp_path, prune={"before": {"threads": 1, "latency_ms": 4.0}, "after": here})
    changes = row_of(tmp_path, "pruned: reconstruction").changes
    assert changes["conventional"]["latency_ms"] is None
    assert changes["conventional"]["params"].mean == 0
    assert changes["unpruned"]["latency_ms"].mean == pytest.approx(-0.75)


def in_runtimes(eager, single, openvino):
    """The latencies of a network in eager PyTorch, ONNX Runtime and OpenVINO; it is fastest in int8."""
    times = {"eager": eager, "onnxruntime": single, "openvino": openvino, "onnxruntime_int8": 0.5}
    return {"latencies": tuple(timed(runtime, ms) for runtime, ms in times.items() if ms is not None)}


def test_the_deployed_form_is_that_of_the_fastest_runtime_in_the_mean(tmp_path):
    """3 and 3 ms in ONNX Runtime, 1 and 4 in OpenVINO: that, with 2.5 ms; the conventional one has 5 and 8.

    int8 is faster still, but of other outputs than the accuracy beside it.
    """
    for seed, (openvino, before) in enumerate(((1.0, 5.0), (4.0, 8.0))):
        tune = {"conventional": in_runtimes(9.0, before, 10.0), "after": in_runtimes(6.0, 3.0, openvino)}
        write_run(tmp_path, seed, tune=tune)
    row = row_of(tmp_path, "tuned")
    assert (row.runtime, row.figures["deployed_ms"].mean) == ("openvino", 2.5)
    # 1 of 5 and 4 of 8.
    assert row.changes["conventional"]["deployed_ms"].mean == pytest.approx(-0.65)
    assert row.changes["conventional"]["latency_ms"].mean == pytest.approx(-1 / 3)
    baseline = row_of(tmp_path, "baseline")
    assert (baseline.runtime, baseline.figures["deployed_ms"]) == (None, None)


def test_a_deployed_form_that_a_seed_lacks_does_not_count(tmp_path):
    write_run(tmp_path, 0, tune={"after": in_runtimes(6.0, 3.0, 1.0)})
    write_run(tmp_path, 1, tune={"after": in_runtimes(6.0, 4.0, None)})
    row = row_of(tmp_path, "tuned")
    assert (row.runtime, row.figures["deployed_ms"].mean) == ("onnxruntime", 3.5)
    write_run(tmp_path, 2, machine={"name": "Other"}, tune={"after": in_runtimes(6.0, 4.0, None)})
    assert row_of(tmp_path, "tuned").figures["deployed_ms"] is None


def test_other_samples_among_the_seeds_are_seen(tmp_path):
    write_run(tmp_path, 0)
    write_run(tmp_path, 1)
    assert all(row.same_samples for row in rows_of(tmp_path))
    write_run(tmp_path, 2, data="other")
    assert not any(row.same_samples for row in rows_of(tmp_path))


def test_a_setting_and_seed_counts_once(tmp_path):
    first, second = (write_run(tmp_path / place) for place in ("a", "b"))
    runs, _ = find_runs(tmp_path)
    rows, doubles = summarise(runs)
    assert {row.seeds for row in rows} == {(0,)}
    (double,) = doubles
    assert double.folder == str(second)
    assert str(first) in double.reason


def test_compare_gives_rows_the_runs_behind_them_and_what_is_aside(tmp_path, caplog):
    first = write_run(tmp_path / "a")
    (write_run(tmp_path / "a", 1) / "tune" / "metrics.json").unlink()
    double = write_run(tmp_path / "b")
    with caplog.at_level(logging.WARNING, logger="tascnet"):
        comparison = compare(tmp_path)
    assert comparison.runs == (str(first),)
    assert {row.model for row in comparison.rows} == {"baseline", "conventional", "tuned"}
    assert [aside.folder for aside in comparison.asides] == [str(first.with_name("run-seed1")), str(double)]
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith(
        f"not in the table: {first.with_name('run-seed1')}: tune: unfinished"
    )


def test_nothing_to_compare(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run: run stage tune first"):
        compare(tmp_path)
    (write_run(tmp_path) / "tune" / "metrics.json").unlink()
    with pytest.raises(RunFolderError, match="holds no finished run, but 1 that cannot be compared"):
        compare(tmp_path)
