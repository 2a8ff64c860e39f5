"""The search as one function: what it gives, keeps, resumes and leaves as it was."""

import copy
import errno
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tascnet
from tascnet.errors import BudgetError, CacheLimitError, ConfigError
from tascnet.options import Measure, Tune
from tascnet.run.records import Trial, TuneMetrics, read_record, read_records, write_records
from tascnet.tuning import may_widen, stage
from tascnet.tuning.study import Study
from tascnet.tuning.tails import Tails
from tests.tuning.toy import CLASSES, OPTIONS, own_data, own_network


def trainer():
    return tascnet.Trainer(epochs=1, batch_size=8)


def tuned(tmp_path, options=None, **changes):
    keywords = {"trainer": trainer(), "measure": Measure(repeats=3, batch=2), "device": "cpu", **changes}
    return tascnet.tune(
        own_network(), own_data(), options or Tune(**OPTIONS), cache=tmp_path / "cache", **keywords
    )


def test_without_a_folder_it_gives_all_and_leaves_the_cache_alone(tmp_path):
    network = own_network()
    before = copy.deepcopy(network.state_dict())
    result = tascnet.tune(
        network,
        own_data(),
        Tune(**OPTIONS),
        trainer=trainer(),
        measure=Measure(repeats=3, batch=2),
        cache=tmp_path / "cache",
    )
    assert result.folder is None
    assert [trial.trial for trial in result.trials] == [0, 1]
    assert set(result.metrics.models) == {"baseline", "conventional", "after"}
    assert result.network.class_names == CLASSES
    assert result.network.info.held_out is not None
    models, widths = result.metrics.models, result.metrics.widths
    for name, figure in (("conventional", "before"), ("after", "after")):
        assert sum(getattr(row, f"params_{figure}") or 0 for row in widths) <= models[name].params
        assert {row.after for row in widths if row.layer == "classifier"} == {3}
    assert result.network(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]
    assert not list((tmp_path / "cache").glob("run-*"))
    # The user's own network is as it was.
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert "baseline" in str(result)
    assert "<table" in result._repr_html_()
    result.report(tmp_path / "page.html")
    assert "<html" in (tmp_path / "page.html").read_text()


def test_a_folder_is_resumed_read_back_and_extended(tmp_path, monkeypatch):
    run = tmp_path / "run"
    whole = tuned(tmp_path, run=tmp_path / "whole")

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "select", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tuned(tmp_path, run=run)
    assert len(read_records(run / "trials.jsonl", Trial)) == 2
    assert not (run / "metrics.json").exists()
    resumed = tuned(tmp_path, run=run)
    assert {entry.name for entry in run.iterdir()} >= {"model", "metrics.json", "report.html", "splits.json"}
    assert [(t.config, t.value) for t in resumed.trials] == [(t.config, t.value) for t in whole.trials]
    for name, model in whole.metrics.models.items():
        other = resumed.metrics.models[name]
        assert (model.val_accuracy, model.params, model.flops) == (
            other.val_accuracy,
            other.params,
            other.flops,
        )
    with monkeypatch.context() as patch:
        patch.setattr(stage, "run_search", interrupted)
        again = tuned(tmp_path, run=run)
    assert again.metrics == resumed.metrics == read_record(run / "metrics.json", TuneMetrics)
    assert again.trials == resumed.trials
    states = again.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    longer = tuned(tmp_path, Tune(**{**OPTIONS, "max_trials": 3}), run=run)
    assert longer.trials[:2] == resumed.trials
    assert len(longer.trials) == 3
    with pytest.raises(tascnet.errors.RunFolderError, match="another configuration"):
        tuned(tmp_path, Tune(**{**OPTIONS, "tolerance": 0.0}), run=run)


def test_trials_that_the_seconds_cut_short_are_trained_to_their_end_when_there_are_more(tmp_path):
    recipe = tascnet.Trainer(epochs=1, batch_size=8, trial=tascnet.RecipeChanges(epochs=3))

    def run(seconds, name):
        options = Tune(**{**OPTIONS, "max_seconds": seconds})
        return tuned(tmp_path, options, trainer=recipe, run=tmp_path / name)

    (short,) = run(1e-6, "extended").trials
    assert (short.status, short.epochs) == ("ok", 1)
    extended, whole = run(1e4, "extended"), run(1e4, "whole")
    assert [(t.config, t.epochs, t.value) for t in extended.trials] == [
        (t.config, t.epochs, t.value) for t in whole.trials
    ]
    assert extended.trials[0].epochs == 3
    assert extended.metrics.models["after"].val_accuracy == whole.metrics.models["after"].val_accuracy
    assert run(1e4, "extended").trials == extended.trials


def test_other_latencies_are_measured_again_and_nothing_else(tmp_path):
    run = tmp_path / "run"
    first = tuned(tmp_path, run=run)
    second = tuned(tmp_path, run=run, measure=Measure(repeats=4, batch=2))
    assert second.metrics.measure == {"batch": 2, "repeats": 4, "runtimes": ["eager"], "target": "eager"}
    for name, model in first.metrics.models.items():
        assert model.test_accuracy == second.metrics.models[name].test_accuracy
    assert second.metrics.seconds == first.metrics.seconds


def test_another_trial_of_a_finished_search_is_picked(tmp_path):
    run = tmp_path / "run"
    options = {**OPTIONS, "finetune_from": "prefix"}
    with pytest.raises(ConfigError, match="`pick=1` takes a trial of a finished search"):
        tuned(tmp_path, Tune(**options, pick=1), run=run)
    with pytest.raises(ConfigError, match="no folder is given"):
        tuned(tmp_path, Tune(**options, pick=1))
    tuned(tmp_path, Tune(**options), run=run)
    with pytest.raises(ConfigError, match="choose one of 0, 1"):
        tuned(tmp_path, Tune(**options, pick=7), run=run)
    picked = tuned(tmp_path, Tune(**options, pick=1), run=run)
    assert picked.metrics.winner == 1
    assert picked.folder == tmp_path / "run-pick1"
    assert json.loads((picked.folder / "identity.json").read_text())["tune.pick"] == 1


def test_threads_and_random_state_are_as_before(tmp_path):
    threads = torch.get_num_threads()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    tuned(tmp_path, threads=2 if threads == 1 else 1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


@pytest.mark.parametrize(
    ("options", "bounds"),
    [
        # conv1 3 x 4 x 9 + 4, conv2 4 x 8 x 9 + 8, classifier 8 x 3 + 3: 435 parameters.
        ({"params_target": 0.8}, {"params": 348}),
        ({"params_target": 1.0, "size_target": 1.0}, {"params": 435}),
    ],
)
def test_targets_bound_the_search(tmp_path, options, bounds):
    result = tuned(tmp_path, Tune(**{**OPTIONS, **options}))
    assert result.metrics.bounds == bounds
    assert all(trial.params <= bounds["params"] for trial in result.trials)


def test_a_file_of_which_little_is_weights_may_shrink_too(tmp_path, monkeypatch):
    monkeypatch.setattr("tascnet.tuning.problem.size_bytes", lambda _: 10_000)
    assert tuned(tmp_path, Tune(**OPTIONS, size_target=0.5)).metrics.bounds == {"params": 217}


def test_the_tighter_of_two_latency_targets_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("tascnet.measure.Clock.times", lambda clock, networks: dict.fromkeys(networks, 1e-6))
    result = tuned(tmp_path, Tune(**OPTIONS, latency_target=1.0, latency_target_ms=1e6))
    assert result.metrics.bounds["latency_ms"] < 1e6
    result = tuned(tmp_path, Tune(**OPTIONS, latency_target_ms=1e6))
    assert result.metrics.bounds == {"latency_ms": 1e6}
    assert all(trial.latency_ms is not None for trial in result.trials)


def test_what_cannot_be_made_narrower_is_recorded_and_ignored_layers_stay(tmp_path):
    options = Tune(**OPTIONS | {"max_units": 2, "ignore": ("conv2",), "widths": (0.5,)})
    found = tuned(tmp_path, options)
    reach = found.metrics.reach
    assert {one.reason: one.layers for one in reach.uncut} == {
        "feeds the output": ("classifier",),
        "spared by `ignore`": ("conv2",),
    }
    assert 0 < reach.flops_left < 1
    assert not {"conv2.width", "conv2.kernel"} & found.metrics.best_config.keys()
    assert "conv1.width" in found.metrics.best_config


def test_a_pattern_that_matches_no_layer_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"`ignore` has `conv9`.*did you mean `conv\d`"):
        tuned(tmp_path, Tune(**OPTIONS, ignore=("conv9",)))


@pytest.mark.parametrize("objective", ["pareto_flops", "pareto_params"])
def test_a_front_against_a_cost(tmp_path, objective):
    result = tuned(tmp_path, Tune(**OPTIONS, objective=objective))
    assert result.metrics.objective == objective
    assert 1 <= len(result.metrics.front) <= 2
    assert result.metrics.winner in [point.trial for point in result.metrics.front]


def test_layerwise_goes_through_the_blocks(tmp_path):
    result = tuned(tmp_path, Tune(algorithm="layerwise"))
    assert [row.name for row in result.metrics.layerwise] == ["head", "conv2", "conv1"]
    assert result.metrics.surrogate is None


def test_layerwise_ends_where_the_features_exceed_the_limit_of_the_cache(tmp_path, monkeypatch):
    features = Tails.features

    def limited(tails, cut):
        if cut < 4:
            raise CacheLimitError("the features would take 30 GB", "raise the limit")
        return features(tails, cut)

    monkeypatch.setattr(Tails, "features", limited)
    metrics = tuned(tmp_path, Tune(algorithm="layerwise")).metrics
    assert metrics.trials == 1
    assert metrics.stopped.startswith("the features before unit 1 do not fit (the features would take 30 GB")


@pytest.mark.parametrize("place", ["trials.jsonl", "features"])
def test_layerwise_does_not_end_with_a_full_disk(place, tmp_path, monkeypatch):
    """What is written with the second trial finds the disk full; the same command then resumes."""
    with monkeypatch.context() as patch:
        if place == "features":
            features = Tails.features

            def full(tails, cut):
                if cut < 4:
                    raise BudgetError("the disk is full")
                return features(tails, cut)

            patch.setattr(Tails, "features", full)
        else:
            tell = Study.tell

            def torn(study, trial):
                if trial.trial == 1:
                    raise BudgetError("the disk is full") from OSError(errno.ENOSPC, "no space left")
                tell(study, trial)

            patch.setattr(Study, "tell", torn)
        with pytest.raises(BudgetError, match="the disk is full"):
            tuned(tmp_path, Tune(algorithm="layerwise"), run=tmp_path / "run")
    assert tuned(tmp_path, Tune(algorithm="layerwise"), run=tmp_path / "run").metrics.trials == 3


def test_autotune_makes_new_layers(tmp_path):
    options = tascnet.Autotune(max_trials=2, max_units=1, filters=(4, 6), filter_sizes=(3,))
    result = tuned(tmp_path, options)
    assert len(result.trials) == 2
    assert result.metrics.finetuned_from in ("prefix", "all")


def test_a_search_without_a_network_within_its_bounds_says_so(tmp_path):
    # The head alone keeps the bound, new layers do not.
    options = tascnet.Autotune(max_units=1, filters=(256,), filter_sizes=(5,), params_target=1.0)
    with pytest.raises(tascnet.TascnetError, match="no network at the depths that are searched keeps"):
        tuned(tmp_path, options, run=tmp_path / "run")


def test_an_earlier_search_of_other_choices_is_refused_before_anything_is_trained(tmp_path):
    tuned(tmp_path, Tune(**OPTIONS | {"kernels": (3, 5)}), run=tmp_path / "one")
    options = Tune(**OPTIONS, warm_start=(str(tmp_path / "one"),))
    with pytest.raises(ConfigError, match="has another space than this one"):
        tuned(tmp_path, options, run=tmp_path / "two")
    assert not (tmp_path / "two" / "state").exists()


def test_an_earlier_search_of_which_nothing_can_be_tried_is_reported(tmp_path, caplog):
    before = tuned(tmp_path).trials
    for name, trial in zip(("whole", "ends_early"), before, strict=True):
        write_records(tmp_path / f"{name}.jsonl", [replace(trial, trial=0)])
        options = Tune(**OPTIONS, warm_start=(str(tmp_path / f"{name}.jsonl"),), params_target=0.9)
        caplog.clear()
        tuned(tmp_path, options)
        assert ("`warm_start` has no effect" in caplog.text) == (name == "whole")


def test_features_that_a_killed_process_left_go_with_the_end_of_the_stage(tmp_path):
    left = tmp_path / "run" / "state" / "narrowed-of-another-winner" / "features"
    tuned(tmp_path, run=tmp_path / "run")
    left.mkdir(parents=True)
    (left / "x.npy").touch()
    tuned(tmp_path, Tune(**OPTIONS | {"max_trials": 3}), run=tmp_path / "run")
    assert not left.exists()


def test_a_network_that_says_nothing_of_itself_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"take it through tascnet\.backbone"):
        tascnet.tune(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), own_data(), cache=tmp_path)


def test_whether_a_search_may_give_new_wide_layers():
    assert may_widen(tascnet.Autotune(filters=(128,)), 128)
    assert not may_widen(tascnet.Autotune(filters=(64,), hidden_layers=(0,)), 128)
    assert may_widen(Tune(), 512)
    assert not may_widen(Tune(), 513)
    assert not may_widen(Tune(hidden_layers=(0,)), 16)
    assert may_widen(Tune(head="grow"), 10_000)


def test_a_missing_table_is_found_before_anything_is_trained(tmp_path):
    measure = Measure(target="eager", table=str(tmp_path / "missing.json"))
    with pytest.raises(ConfigError, match="is no table of layers"):
        tascnet.tune(own_network(), own_data(), Tune(**OPTIONS), measure=measure, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
