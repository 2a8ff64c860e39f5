"""The public function on a tiny network and random images."""

import logging
import math
import random
import shutil
import time
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

import tascnet
from tascnet.data import open_samples
from tascnet.errors import ConfigError, RunFolderError
from tascnet.measure import Clock
from tascnet.models.info import with_info
from tascnet.options import HistoryPrune, Measure, Prune, RecipeChanges, Trainer
from tascnet.pruning import check_options, stage
from tascnet.pruning.iteration import apply_removal
from tascnet.run.records import StepRecord, read_record
from tascnet.train import Learner
from tascnet.train.evaluate import Evaluation
from tests.pruning.toy import CLASSES, DATA, QUICK, SMALL, are_equal, network, state, untimed
from tests.reading import read_json


def test_a_network_becomes_smaller_and_nothing_else_changes(run, cache):
    start = network()
    before = state(start)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    threads = torch.get_num_threads()
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    result = run(start=start, name=None, threads=threads + 1)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert torch.get_num_threads() == threads
    assert are_equal(before, state(start))
    assert result.folder is None
    assert not list(cache.glob("run-*"))
    small, first = result.metrics.models["after"], result.metrics.models["before"]
    assert small.params == sum(p.numel() for p in result.network.parameters()) < first.params
    assert first.params == sum(p.numel() for p in start.parameters())
    unpruned, made = result.iterations
    assert made.removed == {"conv1": 4, "conv2": 5}
    assert (made.params, made.flops) == (small.params, small.flops)
    assert (unpruned.params, unpruned.state) == (first.params, "iteration-000")
    assert result.network.class_names == CLASSES
    assert result.network(torch.zeros(1, 3, 8, 8)).shape == (1, 2)
    assert "after" in str(result)
    assert "<table" in result._repr_html_() or "after" in result._repr_html_()


def test_a_finished_folder_is_read_back_and_extended(run, tmp_path, caplog):
    once = run()
    assert once.folder == tmp_path / "run"
    names = {path.name for path in once.folder.iterdir()}
    expected = {"metrics.json", "model", "report.html", "iterations.jsonl", "splits.json", "state"}
    assert expected | {"mistakes.json"} <= names
    stamps = {path: path.stat().st_mtime_ns for path in once.folder.rglob("*") if path.suffix != ".txt"}
    with caplog.at_level(logging.INFO, logger="tascnet"):
        again = run()
    assert "prune is finished" in caplog.text
    changed = {path.name for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert changed <= {"splits.json", "run", ".lock"}
    assert again.metrics == once.metrics
    assert again.iterations == once.iterations
    assert again.mistakes == once.mistakes
    assert are_equal(state(again.network), state(once.network))
    longer = replace(Prune(**SMALL), max_iterations=2)
    extended, straight = run(longer), run(longer, name="straight")
    assert untimed(extended.iterations) == untimed(straight.iterations)
    assert extended.iterations[:2] == once.iterations
    assert extended.mistakes == straight.mistakes
    assert are_equal(state(extended.network), state(straight.network))
    with pytest.raises(RunFolderError, match=r"prune\.criterion was 'magnitude' and is now 'fpgm'"):
        run(replace(Prune(**SMALL), criterion="fpgm"))
    other = network()
    nn.init.zeros_(other.conv1.weight)
    with pytest.raises(RunFolderError, match="the network to start from differs"):
        run(start=other)
    assert len(run(replace(Prune(**SMALL), criterion="fpgm"), fresh=True).iterations) == 2


def test_a_run_that_was_interrupted_resumes(run, monkeypatch):
    options = replace(Prune(**SMALL), max_iterations=2)
    whole = run(options, name="whole")
    apply, calls = apply_removal, []

    def failing(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return apply(*arguments)

    monkeypatch.setattr(stage, "apply_removal", failing)
    with pytest.raises(KeyboardInterrupt):
        run(options)
    resumed = run(options)
    assert len(calls) == 3
    assert untimed(resumed.iterations) == untimed(whole.iterations)
    assert are_equal(state(resumed.network), state(whole.network))


def test_seconds_that_are_used_up_end_the_training_of_an_iteration(run, caplog):
    caplog.set_level(logging.INFO, logger="tascnet")
    endless = replace(Prune(**SMALL), max_iterations=2, epochs=100_000, final_epochs=100_000, max_seconds=0.5)
    started = time.monotonic()
    result = run(endless)
    assert time.monotonic() - started < 15
    assert result.metrics.stopped.startswith("0.5 seconds have passed")
    assert len(result.iterations) == 2
    said = [message for message in caplog.messages if "`max_seconds`" in message]
    assert len(said) == 2
    for message, name in zip(said, ("retrain", "final"), strict=True):
        assert message.startswith(f"{name} ended after ")
        assert message.endswith(" of 100000 epochs: the seconds of pruning (`max_seconds`) were used up")
    folder = result.folder / "state" / result.iterations[1].state
    epochs = read_record(folder / "record.json", StepRecord).training.epochs
    assert said[0].split()[3] == str(len(epochs))
    (result.folder / "metrics.json").unlink()
    assert run(endless).iterations == result.iterations
    more = run(replace(endless, max_seconds=result.metrics.seconds + 1))
    assert more.iterations[1] == result.iterations[1]
    assert len(more.iterations) == 3


def test_a_final_round_that_was_cut_short_is_trained_whole_with_more_seconds(run):
    options = replace(Prune(**SMALL), max_iterations=1, epochs=1, final_epochs=6)
    whole = run(options, name="whole").metrics
    rounds = {name: len(training.epochs) for name, training in whole.trainings.items() if "final" in name}
    short = run(replace(options, max_seconds=1e-3)).metrics
    assert [len(one.epochs) for name, one in short.trainings.items() if "final" in name] == [1]
    more = run(replace(options, max_seconds=1e3)).metrics
    assert {n: len(one.epochs) for n, one in more.trainings.items() if "final" in n} == rounds
    assert more.seconds > short.seconds
    assert more.models["after"].val_accuracy == whole.models["after"].val_accuracy


def test_final_rounds_that_were_trained_count_also_when_the_seconds_are_over(run, monkeypatch):
    options = replace(Prune(**SMALL), max_iterations=1, epochs=1, final_epochs=6, max_seconds=1e3)
    whole = run(options)
    rounds = [name for name in whole.metrics.trainings if "final" in name]
    assert len(rounds) == 2
    (whole.folder / "metrics.json").unlink()
    # As if the last round had ended late.
    module = import_module("tascnet.pruning.stage")
    monkeypatch.setattr(module, "deadline_of", lambda *_: -math.inf)
    resumed = run(options)
    assert [name for name in resumed.metrics.trainings if "final" in name] == rounds
    assert are_equal(state(resumed.network), state(whole.network))


def test_a_short_final_round_stays_where_hardly_more_seconds_are_left(run):
    options = replace(Prune(**SMALL), max_iterations=1, epochs=1, final_epochs=100_000, max_seconds=0.5)
    short = run(options)
    (short.folder / "metrics.json").unlink()
    resumed = run(options)
    assert resumed.metrics.trainings == short.metrics.trainings
    assert are_equal(state(resumed.network), state(short.network))


def test_epochs_before_an_interruption_use_up_seconds(run, interrupted, monkeypatch):
    fit = import_module("tascnet.train.fit")
    judged = fit._Run.judged
    monkeypatch.setattr(fit._Run, "judged", lambda *args: replace(judged(*args), seconds=100.0))
    options = replace(Prune(**SMALL), epochs=9, max_seconds=150.0)
    interrupted()
    with pytest.raises(KeyboardInterrupt):
        run(options)
    result = run(options)
    folder = result.folder / "state" / result.iterations[1].state
    # Two epochs were trained before.
    assert len(read_record(folder / "record.json", StepRecord).training.epochs) == 2


def test_what_a_penalty_has_changed_is_compared_at_one_scale(run, caplog):
    """A training with frozen batch-norms first moves their scales into the weights."""
    caplog.set_level(logging.INFO, logger="tascnet")
    start = network()
    for module in start.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.01)
    still = Trainer(batch_size=8, lr=1e-7, batchnorm="frozen")
    run(Prune(**SMALL, growing_epochs=1), start=start, trainer=still)
    assert "the filters to remove have 100.0 % of their norm left" in caplog.text


def test_an_endless_training_that_was_interrupted_ends_with_the_seconds(run, interrupted):
    options = replace(Prune(**SMALL), epochs=100_000, max_seconds=1.0)
    calls = interrupted()
    with pytest.raises(KeyboardInterrupt):
        run(options)
    result = run(options)
    folder = result.folder / "state" / result.iterations[1].state
    assert len(read_record(folder / "record.json", StepRecord).training.epochs) == len(calls) < 100_000


def test_other_tolerances_and_targets_lead_where_a_new_run_would(run):
    strict = replace(Prune(**SMALL), tolerance=0.0, retries=0, max_iterations=3)
    loose = replace(strict, tolerance=1.0, flops_target=0.6)
    first, changed, fresh = run(strict), run(loose), run(loose, name="fresh")
    assert first.metrics.budget["tolerance"] == 0.0
    assert untimed(changed.iterations) == untimed(fresh.iterations)
    assert are_equal(state(changed.network), state(fresh.network))
    assert fresh.metrics.stopped.startswith("FLOPs reached")
    back = run(strict)
    assert untimed(back.iterations) == untimed(first.iterations)
    assert back.metrics.kept_iteration == first.metrics.kept_iteration


def test_another_target_may_remove_another_block(run):
    """The last convolution has half of the FLOPs: too many for a target of 0.7, but not for 0.4."""
    near = replace(Prune(**SMALL), blocks=True, pruning_ratio=0.1, flops_target=0.7, max_iterations=1)
    far = replace(near, flops_target=0.4)
    first, changed, fresh = run(near), run(far), run(far, name="fresh")
    assert first.iterations[1].block is None
    assert fresh.iterations[1].block is not None
    assert untimed(changed.iterations) == untimed(fresh.iterations)


def test_latency_and_sensitivity_are_asked_of_a_finished_run(run):
    plain = run()
    assert plain.metrics.sensitivity is None
    assert plain.iterations[0].latency_ms is None
    measured = run(measure=Measure(batch=3, repeats=3)).metrics
    assert [model.batch for model in measured.models.values()] == [3, 3]
    for name, model in measured.models.items():
        known = plain.metrics.models[name]
        assert (model.val_accuracy, model.flops) == (known.val_accuracy, known.flops)
    found = run(replace(Prune(**SMALL), sensitivity=True)).metrics.sensitivity
    assert found.samples == 12
    for group in found.groups:
        saved = [share.flops_saved for share in group.shares]
        assert [share.share for share in group.shares] == [0.1, 0.25, 0.5]
        assert 0 < saved[0] < saved[1] < saved[2] < 1
    page = (plain.folder / "report.html").read_text(encoding="utf-8")
    assert found.groups[0].group in page
    timed = run(replace(Prune(**SMALL), latency_target=0.9999, max_iterations=2))
    assert all(iteration.latency_ms > 0 for iteration in timed.iterations)
    assert timed.metrics.sensitivity == found


def test_a_latency_is_a_target_as_a_share_or_in_milliseconds(run):
    share = run(replace(Prune(**SMALL), latency_target=1.0), name="share")
    assert "latency reached 100.0% of the unpruned network's" in share.metrics.stopped
    assert len(share.iterations) == 1
    slow = run(replace(Prune(**SMALL), latency_target_ms=1e6), name="slow")
    assert "ms for one sample" in slow.metrics.stopped


@pytest.mark.deployed
def test_latency_is_judged_in_the_target_runtime(run, caplog):
    """The latency that ends pruning is measured, and another runtime cannot continue."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    caplog.set_level("INFO", logger="tascnet")
    own = Measure(batch=2, repeats=3, runtimes=("eager", "onnxruntime"), target="onnxruntime")
    options = replace(Prune(**SMALL), latency_target_ms=1e6, latency_target=0.001)
    result = run(options, measure=own)
    assert "latency reached" in result.metrics.stopped
    assert "latency is judged in ONNX Runtime" in caplog.text
    kept = read_json(result.folder / "identity.json")
    assert kept["measure.target"] == "onnxruntime"
    eager = replace(own, target="eager", runtimes=("eager",))
    with pytest.raises(RunFolderError, match=r"measure\.target was 'onnxruntime' and is now 'eager'"):
        run(options, measure=eager)
    # Without anything that depends on latency it is a matter of the figures alone.
    assert run(measure=eager).metrics.iterations == 1


@pytest.fixture
def predicting(monkeypatch):
    """A clock that predicts by parameters; networks that are measured take so many times as long."""

    def stand_in(off):
        def params(network):
            return float(sum(parameter.numel() for parameter in network.parameters()))

        def exact(clock, network):
            return params(network) * (1.0 if network is clock._reference else off)

        monkeypatch.setattr(Clock, "predicts", True)
        monkeypatch.setattr(Clock, "reference_ms", property(lambda clock: params(clock._reference)))
        monkeypatch.setattr(
            Clock, "times", lambda _, networks: {n: params(one) for n, one in networks.items()}
        )
        monkeypatch.setattr(Clock, "exact", exact)
        monkeypatch.setattr(Clock, "_last", lambda _: {"seconds": math.inf})
        monkeypatch.setattr(Clock, "_keep", lambda *_: None)

    return stand_in


def test_a_prediction_alone_does_not_end_pruning(run, predicting):
    """A quarter of each group is removed, which leaves 3,323 of 5,726 parameters: 0.58 of the latency."""
    options = replace(Prune(**SMALL), latency_target=0.6, max_iterations=2)
    predicting(1.0)
    reached = run(options, name="reached")
    assert len(reached.iterations) == 2
    assert "latency reached" in reached.metrics.stopped
    predicting(1.2)
    late = run(options, name="late")
    first, last = (one.latency_ms / late.iterations[0].latency_ms for one in late.iterations[1:])
    shares = [one.params / late.iterations[0].params for one in late.iterations[1:]]
    assert [first, last] == pytest.approx([1.2 * share for share in shares])
    assert shares[0] == pytest.approx(3323 / 5726)
    assert first > 0.6 >= last
    # What was measured for this target is not measured again, however it comes out.
    (late.folder / "metrics.json").unlink()
    predicting(1.5)
    assert run(options, name="late").iterations == late.iterations
    # Where another target is asked for, what reaches it is measured again.
    predicting(2.0)
    more = run(replace(options, latency_target=0.59), name="late")
    assert "no target is reached: latency is" in more.metrics.stopped
    share = more.iterations[-1].params / more.iterations[0].params
    assert more.iterations[-1].latency_ms / more.iterations[0].latency_ms == pytest.approx(2 * share)


def test_a_network_that_does_not_fit_the_data_is_refused_before_its_folder_is_made(run, tmp_path, caplog):
    with pytest.raises(ConfigError, match="the network's 2 classes are not the data set's 2"):
        run(start=network(class_names=("light", "dark")))
    with pytest.raises(ConfigError, match="the samples are not those that the network was trained on"):
        run(start=network(held_out="0123"))
    here = open_samples(DATA, network().preprocessing, seed=0, cache=tmp_path / "cache").fingerprint
    with pytest.raises(ConfigError, match="trained on another split of the data and may have seen test"):
        run(start=network(held_out=f"{here}-of-other-rows"))
    with pytest.raises(ConfigError, match="does not say which inputs and classes"):
        run(start=nn.Sequential(nn.Linear(2, 2)))
    assert not (tmp_path / "run").exists()
    with caplog.at_level(logging.WARNING, logger="tascnet"):
        result = run()
    assert "which samples it was trained on" in caplog.text
    caplog.clear()
    samples = open_samples(DATA, network().preprocessing, seed=0, cache=result.folder.parent / "cache")
    with caplog.at_level(logging.WARNING, logger="tascnet"):
        run(start=network(held_out=samples.held_out), name="known")
    assert "which samples" not in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"criterion": "no_such_module.Thing"}, "could not be loaded"),
        ({"criterion": f"{__name__}.CLASSES"}, "cannot be called"),
        ({"min_filters": 64}, "no layer has `min_filters=64` filters, the widest has 20"),
        ({"where": "tail"}, "`where=tail` needs to know"),
    ],
)
def test_options_that_cannot_work_are_refused_before_the_folder_is_made(run, tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        run(replace(Prune(**SMALL), **options))
    assert not (tmp_path / "run").exists()


def test_options_are_checked_before_a_search():
    example = torch.zeros(1, 3, 8, 8)
    check_options(Prune(**SMALL), network(), example, widens=False)
    check_options(replace(Prune(**SMALL), where="tail"), network(), example, widens=False)
    wide = replace(Prune(**SMALL), min_filters=64)
    check_options(wide, network(), example, widens=True)
    check_options(replace(wide, blocks=True), network(), example, widens=False)
    with pytest.raises(ConfigError, match="min_filters=64"):
        check_options(wide, network(), example, widens=False)
    texts = torch.zeros(1, 8, dtype=torch.int64)
    with pytest.raises(ConfigError, match="no residual blocks"):
        check_options(replace(wide, blocks=True), network(), texts, widens=True)
    silent = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    options = replace(Prune(**SMALL), criterion="bn_scale")
    with pytest.raises(ConfigError, match="no scores for any group"):
        check_options(options, silent, torch.zeros(1, 4), widens=False)


def test_a_criterion_is_tried_on_the_same_noise_and_leaves_the_global_generator():
    options = replace(Prune(**SMALL), criterion="torch_pruning.pruner.importance.TaylorImportance")
    start, before = network(), torch.get_rng_state()
    check_options(options, start, torch.zeros(1, 3, 8, 8), widens=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_tail_alone_is_pruned(run):
    result = run(replace(Prune(**SMALL), where="tail"), start=network(first_searched=3), name=None)
    assert result.iterations[1].removed == {"conv2": 5}


@pytest.fixture
def scripted(monkeypatch):
    """Sets the validation accuracies of trainings, by their names; returns what rates and epochs they had."""
    fit, made = Learner.fit, {}

    def stand_in(accuracies):
        def scripted_fit(learner, network, recipe, *, epochs=None, **options):
            record = fit(learner, network, recipe, epochs=epochs, **options)
            chosen = learner.trainer.recipe(recipe) if isinstance(recipe, str) else recipe
            name = options["description"]
            made[name] = (chosen.lr, epochs)
            value = accuracies.get(name, 1.0)
            return replace(record, val_accuracy=value, val_balanced_accuracy=value)

        monkeypatch.setattr(Learner, "fit", scripted_fit)
        # The unpruned network has this accuracy, too.
        found = Evaluation(
            loss=1.0,
            accuracy=1.0,
            balanced_accuracy=1.0,
            top5_accuracy=None,
            samples=12,
            predictions=torch.zeros(12, dtype=torch.int64),
        )
        monkeypatch.setattr(Learner, "evaluate", lambda *_: found)
        return made

    return stand_in


TIGHT = Prune(**SMALL | {"tolerance": 0.1, "retries": 1, "max_iterations": 2})


@pytest.mark.parametrize(("again", "inside"), [(0.95, True), (0.85, False), (0.75, False)])
def test_an_iteration_below_the_tolerance_is_retrained_once_with_a_third_of_the_rate(
    run, scripted, again, inside
):
    made = scripted({"iteration-001: retrain": 0.8, "iteration-001-again: retrain": again})
    result = run(TIGHT)
    first = result.iterations[1]
    assert made["iteration-001: retrain"][0] == pytest.approx(1e-3)
    assert made["iteration-001-again: retrain"] == (pytest.approx(1e-3 / 3), 1)
    assert first.val_accuracy_first == 0.8
    # Where the second training is not better, the network of the first is kept.
    assert first.val_accuracy == max(0.8, again)
    assert first.state.endswith("-again") == (again > 0.8)
    assert first.inside == inside
    second = result.iterations[2]
    assert (second.start, second.step) == ((1, 1.0) if inside else (0, 0.5))
    assert second.val_accuracy_first is None
    assert list(result.metrics.trainings) == ["iteration 1", "iteration 1: once more", "iteration 2"]


def test_without_retries_nothing_is_retrained(run, scripted):
    made = scripted({"iteration-001: retrain": 0.8})
    result = run(replace(TIGHT, retries=0))
    assert "iteration-001-again: retrain" not in made
    assert result.metrics.kept_iteration == 0
    assert len(result.iterations) == 2


def test_another_tolerance_retrains_or_leaves_the_second_training_out(run, scripted):
    """0.8 is below 1.0 by more than 0.1 and by less than 0.3."""
    made = scripted({"iteration-001: retrain": 0.8, "iteration-001-again: retrain": 0.95})
    loose = replace(TIGHT, tolerance=0.3)
    wide, tight, back = run(loose), run(TIGHT), run(loose)
    assert [one.iterations[1].val_accuracy for one in (wide, tight, back)] == [0.8, 0.95, 0.8]
    assert "iteration-001-again: retrain" in made
    assert untimed(tight.iterations) == untimed(run(TIGHT, name="fresh").iterations)
    assert untimed(back.iterations) == untimed(wide.iterations)


def test_a_second_retraining_that_was_interrupted_resumes(run, monkeypatch, scripted):
    values = {"iteration-001: retrain": 0.8, "iteration-001-again: retrain": 0.95}
    scripted(values)
    whole = run(TIGHT, name="whole")
    retrain = stage.retrain

    def failing(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "retrain", failing)
    with pytest.raises(KeyboardInterrupt):
        run(TIGHT)
    monkeypatch.setattr(stage, "retrain", retrain)
    resumed = run(TIGHT)
    assert untimed(resumed.iterations) == untimed(whole.iterations)
    assert are_equal(state(resumed.network), state(whole.network))
    # A damaged network of the second training is made again, too.
    folder = resumed.folder / "state" / resumed.iterations[1].state
    (folder / "model.safetensors").unlink()
    (resumed.folder / "metrics.json").unlink()
    shutil.rmtree(resumed.folder / "model")
    again = run(TIGHT)
    assert untimed(again.iterations) == untimed(whole.iterations)
    assert are_equal(state(again.network), state(whole.network))


FINAL = Prune(**SMALL | {"final_epochs": 20})


def finals(made):
    return {name.split(":")[0][-1]: value for name, value in made.items() if "-final-" in name}


def test_final_rounds_continue_while_they_pay(run, scripted):
    """Half a standard error of 0.8 on 12 samples is 0.058; rounds have 20, 10 and 5 epochs."""
    made = scripted(
        {"iteration-001: retrain": 0.6, "iteration-001-final-1: final": 0.8}
        | {"iteration-001-final-2: final": 0.9, "iteration-001-final-3: final": 0.89}
    )
    result = run(FINAL)
    third, ninth = (pytest.approx(1e-3 / divisor) for divisor in (3, 9))
    # The third gains nothing and is the last; the best is handed over.
    assert finals(made) == {"1": (1e-3, 20), "2": (third, 10), "3": (ninth, 5)}
    (second,) = (result.folder / "state").glob("iteration-001-*-final-2")
    assert are_equal(state(result.network), state(tascnet.load(second)))
    expected = ["iteration 1", *(f"iteration 1: final round {number}" for number in (1, 2, 3))]
    assert list(result.metrics.trainings) == expected


def test_final_rounds_that_do_not_help_end_and_leave_the_network(run, scripted, caplog):
    caplog.set_level(logging.INFO, logger="tascnet")
    made = scripted({f"iteration-001-final-{number}: final": 0.7 for number in (1, 2)})
    result = run(FINAL)
    assert list(finals(made)) == ["1", "2"]
    assert "the final epochs did not help" in caplog.text
    kept = result.folder / "state" / result.iterations[1].state
    assert are_equal(state(result.network), state(tascnet.load(kept)))


def test_a_teacher_of_its_own_teaches(run, caplog):
    """The unpruned network as a teacher is what teaches by default."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain = network()

        def forward(self, x):
            return self.chain(x)

    def losses(result):
        return [one.train_loss for one in result.metrics.trainings["iteration 1"].epochs]

    options, other = replace(Prune(**SMALL), epochs=2), network()
    nn.init.eye_(other.classifier.weight)
    plain, same = run(options, name="plain"), run(options, name="same", teacher=network())
    assert losses(same) == losses(plain)
    assert are_equal(state(same.network), state(plain.network))
    assert losses(run(options, name="other", teacher=other)) != losses(plain)
    with pytest.raises(RunFolderError, match="the teacher differs"):
        run(options, name="other", teacher=network())
    assert losses(run(options, name=None, teacher=Own())) == losses(plain)
    assert "unknown which samples the teacher was trained on" in caplog.text


def test_the_recipe_of_new_heads_counts_where_the_network_may_end_earlier(run):
    """Only `blocks=true` removes an end, whose head is trained by the recipe `head`."""
    other = replace(QUICK["trainer"], head=RecipeChanges(epochs=2))
    options = Prune(**SMALL)
    assert run(options).iterations == run(options, trainer=other).iterations
    options = replace(options, blocks=True)
    run(options, name="blocks")
    with pytest.raises(RunFolderError, match=r"trainer\.head\.epochs was 10 and is now 2"):
        run(options, name="blocks", trainer=other)


def test_a_teacher_that_cannot_teach_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="the teacher's 2 classes are not the data set's"):
        run(teacher=network(class_names=("light", "dark")))
    with pytest.raises(ConfigError, match="not those that the teacher was trained on"):
        run(teacher=network(held_out="0123"))
    with pytest.raises(ConfigError, match="3 outputs"):
        run(teacher=nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    with pytest.raises(ConfigError, match="no effect with `distill=0`"):
        run(replace(Prune(**SMALL), distill=0.0), teacher=network())
    assert not (tmp_path / "run").exists()


def test_gradients_are_recorded_whatever_the_caller_has_switched_off(run):
    expected = run(name="one")
    with torch.inference_mode():
        result = run(name="two")
        assert not torch.is_grad_enabled()
    assert are_equal(state(result.network), state(expected.network))


class Unread(nn.Module):
    """Half of the first layer's channels are read by none."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.dense = nn.Linear(16, 2)

    def forward(self, x):
        x = torch.relu(self.one(x))[:, :16]
        return self.dense(torch.relu(self.two(x)).mean((2, 3)))


@pytest.mark.parametrize("merge", ["refit", "fold_weights"])
def test_channels_that_no_layer_reads_go_first(merge, run):
    start = with_info(tascnet.backbone(Unread(), size=8), replace(network().info, backbone="Unread"))
    result = run(
        Prune(min_filters=8, epochs=1, tolerance=1.0, max_iterations=1, round_to=1, merge=merge), start=start
    )
    widths = {p.shape[:2] for p in result.network.parameters() if p.dim() == 4}
    assert {(16, 16)} < widths, "of the filters that are read none has gone"
    assert result.metrics.models["after"].params < result.metrics.models["before"].params


def test_weights_fold_where_batch_norm_has_no_statistics(run):
    start = network()
    start.block.body.bn = nn.BatchNorm2d(16, track_running_stats=False)
    result = run(Prune(**SMALL | {"merge": "fold_weights"}), start=start)
    assert result.metrics.models["after"].params < result.metrics.models["before"].params


def test_a_history_without_filters_to_rank_is_not_read(run, scripted):
    scripted({"iteration-001: retrain": 0.1, "iteration-001-again: retrain": 0.8})
    options = HistoryPrune(
        **{"blocks": True, "history": "continue", "min_filters": 64, "epochs": 3, "history_epochs": 1},
        **{"optimise_epochs": 1, "tolerance": 0.0, "max_iterations": 1, "round_to": 1},
    )
    made = run(options).iterations[1]
    assert made.block == "block"
    assert made.val_accuracy_first is not None, "it was trained once more"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: network().double(), "is float64, expected float32"),
        (lambda: network().half(), "is float16, expected float32"),
        (lambda: "resnet20", "`teacher` is of type str, expected a network"),
        (lambda: Pair(nn.Identity()), "the teacher gives a tuple, expected one tensor"),
    ],
)
def test_what_is_no_teacher_is_one_sentence(change, says, run, tmp_path):
    with pytest.raises(ConfigError, match=says) as caught:
        run(teacher=change())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


class Pair(nn.Sequential):
    def forward(self, x):
        return x, x


def test_what_rounding_was_measured_is_kept(run):
    result = run(replace(Prune(**SMALL), round_to="auto"))
    chosen = read_json(result.folder / "state" / "round_to.json")
    gains = {int(key): gain for key, gain in chosen["saved_ms_per_gflop"].items()}
    best = max(gains.values())
    assert chosen["round_to"] == (1 if best <= 0 else min(m for m in gains if gains[m] >= 0.95 * best))
    left = {row.layer: row.after for row in result.metrics.widths}
    assert all(left[name] % chosen["round_to"] == 0 for name in result.iterations[1].removed)
