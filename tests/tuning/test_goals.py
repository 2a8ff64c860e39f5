"""The goals, algorithms and early ends of the search, on a tiny network."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import tascnet
from tascnet.errors import RunFolderError, SurgeryError, TascnetError
from tascnet.measure import Clock
from tascnet.measure.table import UnknownLayer
from tascnet.options import Measure, RecipeChanges, Trainer, Tune
from tascnet.run.records import Trial, read_records
from tascnet.tuning import CandidateBuilder

# Two trials from the surrogate.
LEARNT = {"max_trials": 4, "trials_per_depth": 4, "max_units": 2}


def journal(result):
    return read_records(result.folder / "trials.jsonl", Trial)


@pytest.mark.parametrize("cost", ["flops", "params"])
def test_no_network_exceeds_the_bound(search, cost):
    found = search(**{f"{cost}_target": 0.8}, max_trials=4)
    limit = found.metrics.bounds[cost]
    assert limit == int(0.8 * getattr(found.metrics.models["baseline"], cost))
    assert len(found.trials) == 4
    assert all(getattr(trial, cost) <= limit for trial in found.trials)
    assert getattr(found.metrics.models["after"], cost) <= limit
    # Without the bound the first trial is the pre-trained network itself.
    assert getattr(search(name="free").trials[0], cost) > limit


def test_a_bound_that_nothing_keeps_is_refused(search):
    with pytest.raises(TascnetError, match="params"):
        search(params_target=0.001)


@pytest.fixture
def latencies(monkeypatch):
    """Lets a function of the network stand in for its latency; the original takes 10 ms."""

    def stand_in(measured):
        monkeypatch.setattr(Clock, "reference_ms", 10.0)
        monkeypatch.setattr(
            Clock, "times", lambda _, networks: {n: measured(one) for n, one in networks.items()}
        )

    return stand_in


def test_a_network_above_the_latency_bound_is_not_trained(search, latencies):
    # conv1 3 x 4 x 9 + 4, conv2 4 x 8 x 9 + 8, classifier 8 x 3 + 3.
    latencies(lambda network: 10.0 * sum(p.numel() for p in network.parameters()) / 435)
    found = search(latency_target=0.8, max_trials=8, trials_per_depth=8, initial_trials=8)
    assert found.metrics.bounds == {"latency_ms": 8.0}
    assert {trial.status for trial in found.trials} == {"ok", "infeasible"}
    for trial in found.trials:
        assert (trial.latency_ms > 8.0) is (trial.status == "infeasible")
        assert (trial.value is None) is (trial.status == "infeasible")
    assert found.metrics.models["after"].params <= 0.8 * 435


def test_a_network_that_the_table_of_another_machine_does_not_know_has_failed(search, latencies):
    def measured(network):
        if any(getattr(layer, "kernel_size", None) == (5, 5) for layer in network.modules()):
            raise UnknownLayer("`table=board.json` has no time for a layer")
        return 1.0

    latencies(measured)
    found = search(latency_target=0.8, kernels=(3, 5), max_trials=8, trials_per_depth=8, initial_trials=8)
    assert {trial.status for trial in found.trials} == {"ok", "failed"}
    failed = {trial.reason for trial in found.trials if trial.status == "failed"}
    assert failed == {"`table=board.json` has no time for a layer"}


def test_a_search_continues_until_a_network_is_fast_enough(search, latencies):
    measured = iter([1e9] * 6 + [1e-9] * 2)
    latencies(lambda _: next(measured))
    found = search(latency_target=0.5, initial_trials=6, max_trials=8, trials_per_depth=8)
    assert [trial.status for trial in found.trials] == ["infeasible"] * 6 + ["ok"] * 2


def test_a_latency_that_no_network_keeps_is_reported(search, latencies):
    latencies(lambda _: 12.5)
    says = "none of 2 networks keeps the latency bound of 5 ms; the fastest of them took 12.5 ms"
    with pytest.raises(TascnetError, match=says):
        search(latency_target=0.5)


def test_a_deeper_space_does_not_train_the_same_winner_again(search):
    first = search(tolerance=0.0)
    state = {path.name for path in (first.folder / "state").iterdir()}
    best = max(trial.value for trial in first.trials)
    again = search(tolerance=0.0, max_units=2, max_trials=3)
    if again.metrics.winner == first.metrics.winner:
        assert {path.name for path in (again.folder / "state").iterdir()} == state
    else:
        assert max(trial.value for trial in again.trials) > best


def test_a_front_holds_what_no_other_trial_beats_and_any_trial_can_be_picked(search):
    own = {"objective": "pareto_flops", "max_trials": 4, "trials_per_depth": 4}
    found = search(**own)
    for point in found.metrics.front:
        assert not [r for r in found.trials if r.value > point.value and r.flops <= point.flops]
        assert not [r for r in found.trials if r.value >= point.value and r.flops < point.flops]
    other = next(trial for trial in found.trials if trial.trial != found.metrics.winner)
    before = (found.folder / "metrics.json").read_bytes()
    picked = search(**own, pick=other.trial)
    assert picked.folder.name == f"run-pick{other.trial}"
    assert (picked.metrics.winner, picked.metrics.best_config) == (other.trial, other.config)
    assert picked.metrics.models["after"].flops == other.flops
    assert (found.folder / "metrics.json").read_bytes() == before


@pytest.fixture
def predicted(monkeypatch, latencies):
    """Lets parameters stand in for predicted latencies; what is measured takes so many times as long."""

    def stand_in(off):
        def by_params(network):
            return 10.0 * sum(p.numel() for p in network.parameters()) / 435

        latencies(by_params)
        monkeypatch.setattr(Clock, "predicts", True)
        monkeypatch.setattr(Clock, "exact", lambda _, network: off * by_params(network))

    return stand_in


MANY = {"latency_target": 0.8, "exit": False, "max_trials": 8, "trials_per_depth": 8, "initial_trials": 8}


def test_a_winner_that_is_measured_too_slow_does_not_win(search, predicted):
    predicted(1.0)
    free = search(**MANY, name="free").metrics
    fastest = min(trial.latency_ms for trial in search(**MANY, name="free").trials if trial.status == "ok")
    won = next(trial for trial in search(**MANY, name="free").trials if trial.trial == free.winner)
    assert won.latency_ms > fastest
    # Of what is measured now the winner is too slow, and the fastest just is not.
    predicted(8.0 / fastest)
    found = search(**MANY)
    assert found.metrics.winner != free.winner
    assert "above the bound" not in found.metrics.stopped
    again = search(**MANY)
    assert again.metrics.winner == found.metrics.winner


def test_where_no_network_is_measured_fast_enough_the_result_says_so(search, predicted):
    predicted(100.0)
    found = search(**MANY)
    assert f"trial {found.metrics.winner} takes" in found.metrics.stopped
    assert "above the bound of 8" in found.metrics.stopped


@pytest.mark.deployed
def test_a_latency_bound_is_kept_in_the_target_runtime(search, cache, tmp_path):
    """On the digits, with a bound that any network keeps."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    measure = Measure(repeats=3, batch=2, runtimes=("eager", "onnxruntime"))
    own = {
        "trainer": Trainer(epochs=1, batch_size=8),
        "device": "cpu",
        "threads": 1,
        "cache": cache,
        "run": tmp_path / "run",
    }
    network, data = tascnet.backbone("digits_cnn", weights="random"), tascnet.digits(train=8, val=8)
    options = Tune(max_trials=1, initial_trials=1, trials_per_depth=1, latency_target_ms=1e3)
    found = tascnet.tune(network, data, options, measure=measure, **own)
    assert all(0 < trial.latency_ms <= 1e3 for trial in found.trials)
    assert found.metrics.models["after"].latency("onnxruntime").latency_ms > 0
    with pytest.raises(RunFolderError, match=r"measure\.target was 'onnxruntime' and is now 'eager'"):
        tascnet.tune(network, data, options, measure=replace(measure, target="eager"), **own)


def test_the_lowest_loss_is_another_goal(search):
    for trial in search(objective="loss").trials:
        assert trial.value == pytest.approx(-trial.val_loss)


def test_layerwise_goes_through_the_depths_with_the_network_as_it_is(search):
    found = search(Tune(algorithm="layerwise", layerwise_every=2)).metrics
    # The head alone, and both convolutions.
    assert [row.first_trained for row in found.layerwise] == [0, 2]
    best = max(found.layerwise, key=lambda row: row.val_accuracy)
    assert found.winner == best.trial
    neutral = {key: value for key, value in found.neutral_config.items() if key != "first_trained"}
    for trial in search(Tune(algorithm="layerwise", layerwise_every=2)).trials:
        assert {key: value for key, value in trial.config.items() if key != "first_trained"} == neutral


def test_the_pretrained_classification_layer_stays_in_a_grown_head(search):
    found = search(head="grow", grow_norms=("l2",), hidden_layers=(0,), fallback=False)
    assert [name for name, _ in found.network.named_children()][-1] == "classifier"
    # The network comes with seven classes, the data have three.
    assert [block.out_features for block in found.network if isinstance(block, nn.Linear)] == [7, 3]
    assert all(trial.config["head.grown"] == 1 for trial in found.trials)
    assert all(trial.config["head.norm"] == "l2" for trial in found.trials)


def test_whether_the_head_is_grown_can_be_searched(search):
    found = search(head="search", algorithm="random", max_trials=6, trials_per_depth=6)
    assert {trial.config["head.grown"] for trial in found.trials} == {0, 1}
    # A grown head is fine-tuned from its trial: the conventional network has none.
    has_grown = bool(found.metrics.best_config["head.grown"])
    assert (found.metrics.finetuned_from == "conventional") is not has_grown


@pytest.mark.parametrize("skip", ["keep", "drop"])
def test_autotune_searches_new_layers(search, cache, skip):
    """Of the network with shortcuts."""
    network = tascnet.backbone("digits_cnn", weights="random")
    few = {"max_trials": 4, "trials_per_depth": 2, "initial_trials": 2, "patience": 3}
    options = tascnet.preset("tune", "autotune", skip=skip, neurons=(16, 32), filters=(16, 32), **few)
    found = search(options, network=network, data=tascnet.digits(train=8, val=8))
    assert [trial.depth for trial in found.trials] == [0, 0, 1, 1]
    assert all(trial.config["first_trained"] == trial.depth for trial in found.trials)
    assert all(trial.status == "ok" for trial in found.trials), [trial.reason for trial in found.trials]
    assert all(trial.value == pytest.approx(-trial.val_loss) for trial in found.trials)


def test_the_algorithms_differ_from_the_first_learnt_trial_on(search):
    proposed = {
        algorithm: [trial.config for trial in search(algorithm=algorithm, name=algorithm, **LEARNT).trials]
        for algorithm in ("bo", "random", "sobol")
    }
    assert proposed["bo"] != proposed["sobol"] != proposed["random"] != proposed["bo"]


def test_slim_proposals_change_the_search_on_their_turns(search):
    """Trial 3 is the first of its turn that the surrogate proposes; every trial before is the same."""
    own = {**LEARNT, "max_trials": 6, "trials_per_depth": 6}
    usual = [trial.config for trial in search(slim_every=0, **own).trials]
    slim = [trial.config for trial in search(slim_every=2, name="slim", **own).trials]
    assert slim[:3] == usual[:3]
    assert slim[3:] != usual[3:]


def test_a_hopeless_trial_is_stopped_early(search):
    own = {"max_trials": 9, "trials_per_depth": 9, "initial_trials": 9, "hidden_layers": (0,)}
    rows = search(**own, tolerance=0.0, epochs=5).trials
    stopped = [row for row in rows if row.status == "stopped"]
    assert stopped
    # Three trials were trained to their end before.
    assert min(row.trial for row in stopped) >= 3
    for row in stopped:
        assert row.epochs == len(row.curve) == 3
        assert row.value == max(row.curve)
    whole = search(**own, promote=False, epochs=5, name="whole").trials
    assert {row.status for row in whole} == {"ok"}
    assert sum(row.epochs for row in rows) < sum(row.epochs for row in whole)


def test_what_the_surrogate_learnt_is_kept(search):
    found = search(max_trials=8, trials_per_depth=8)
    learnt = found.metrics.surrogate
    assert {row.trial: row.observed for row in learnt.predictions} == {
        trial.trial: trial.val_accuracy for trial in found.trials
    }
    found.report(found.folder / "page.html")
    assert len(learnt.predictions) == 8
    assert learnt.sentence


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SurgeryError("no such width", "take another"), "no such width: take another"),
        (RuntimeError("CUDA out of memory\nand more lines"), "CUDA out of memory"),
        (RuntimeError(), "RuntimeError"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_failing_trial_is_journalled_and_the_search_continues(search, monkeypatch, error, reason):
    build, calls = CandidateBuilder.__call__, []

    def failing(self, config):
        calls.append(None)
        if len(calls) == 2:
            raise error
        return build(self, config)

    monkeypatch.setattr(CandidateBuilder, "__call__", failing)
    found = search(finetune_from="prefix", max_trials=3, trials_per_depth=3)
    rows = journal(found)
    assert [row.status for row in rows] == ["ok", "failed", "ok"]
    assert (rows[1].reason, rows[1].value) == (reason, None)
    assert rows[1].config not in (rows[0].config, rows[2].config)
    assert found.metrics.winner in (0, 2)


def test_a_search_whose_first_trials_all_fail_ends(search, tmp_path):
    """Also when it is started again, and when the budget ends before."""
    diverging = Trainer(
        epochs=1, batch_size=8, trial=RecipeChanges(lr=100, weight_decay=10, optimizer="sgd", epochs=9)
    )
    for budget, failed in ((2, 2), (8, 5), (9, 5)):
        with pytest.raises(TascnetError, match=f"the first {failed} trials all failed"):
            search(max_trials=budget, trials_per_depth=9, initial_trials=9, trainer=diverging)
        rows = read_records(tmp_path / "run" / "trials.jsonl", Trial)
        assert [row.status for row in rows] == ["failed"] * failed


def test_class_weights_change_what_is_learnt_from_unequal_classes(search):
    generator = torch.Generator().manual_seed(0)

    def samples(count, light):
        labels = torch.tensor([1] * light + [0] * (count - light))
        return torch.utils.data.TensorDataset(torch.randn(count, 3, 8, 8, generator=generator), labels)

    data = tascnet.datasets(samples(24, 6), samples(12, 6), samples(12, 6), class_names=("dark", "light"))
    found = {
        weights: search(
            data=data,
            name=weights,
            max_trials=1,
            trainer=Trainer(epochs=1, batch_size=8, class_weights=weights),
        )
        for weights in ("none", "balanced")
    }
    one, other = (result.metrics.trainings["baseline: head"].epochs[0] for result in found.values())
    assert one.train_loss != other.train_loss
