"""Where fine-tuning of the winner starts, and who teaches it."""

import logging
from dataclasses import asdict

import pytest
import torch

import tascnet
from tascnet.options import RecipeChanges, Trainer
from tascnet.report import handover_lines
from tascnet.run.records import CandidateRecord, StepRecord, read_record
from tests.report.records import tune_metrics


def states(folder):
    return tascnet.load(folder).state_dict()


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_where_fine_tuning_starts_changes_what_is_trained(search):
    """`best` takes from `prefix` and `all` the one of the higher validation accuracy."""
    found = {}
    for name in ("prefix", "all", "best"):
        result = search(finetune_from=name, name=name, fallback=False)
        found[name] = result.metrics
        before, after = states(result.folder / "state" / "baseline"), result.network.state_dict()
        has_helped = result.metrics.trainings["after"].best_epoch > 0
        was_whole = result.metrics.finetuned_from == "all" and has_helped
        assert torch.equal(before["conv1.weight"], after["conv1.weight"]) is not was_whole
    rows = {name: metrics.models["after"] for name, metrics in found.items()}
    assert rows["all"].trainable_params == rows["all"].params == rows["prefix"].params
    assert rows["prefix"].trainable_params < rows["prefix"].params
    higher = max(("prefix", "all"), key=lambda name: rows[name].val_accuracy)
    assert [metrics.finetuned_from for metrics in found.values()] == ["prefix", "all", higher]
    assert all(metrics.handed_over == "tuned" for metrics in found.values())
    same = ("val_accuracy", "test_accuracy", "params", "trainable_params")
    best, other = asdict(rows["best"]), asdict(rows[higher])
    assert {name: best[name] for name in same} == {name: other[name] for name in same}


def test_the_conventional_network_hands_over_and_teaches(search):
    """The default begins at it; without distillation the training takes another course."""
    narrow = {"widths": (0.5,), "kernels": (), "activations": ("relu",), "hidden_layers": (0,), "exit": False}
    taught = search(**narrow, tolerance=1.0)
    assert taught.metrics.finetuned_from == "conventional"
    models = taught.metrics.models
    assert models["after"].params < models["conventional"].params
    assert models["conventional"].trainable_params == models["conventional"].params
    (start,) = (taught.folder / "state").glob("narrowed-*")
    usual = states(taught.folder / "state" / "conventional-0")
    # With one unit the first convolution is none of the searched layers.
    assert torch.equal(states(start)["conv1.weight"], usual["conv1.weight"])
    alone = search(**narrow, tolerance=1.0, distill=0.0, name="alone")
    (other,) = (alone.folder / "state").glob("narrowed-*")
    assert are_equal(states(start), states(other))
    losses = [result.metrics.trainings["after"].epochs[0].train_loss for result in (taught, alone)]
    assert losses[0] != losses[1]
    # A taught network learns for twice the epochs of the recipe.
    epochs = [len(result.metrics.trainings["after"].epochs) for result in (taught, alone)]
    assert epochs[0] == 2 * epochs[1] == 2 * len(taught.metrics.trainings["conventional"].epochs)


def test_a_new_head_learns_before_the_rest_does(search):
    own = {"neurons": (16,), "algorithm": "random", "max_trials": 4, "trials_per_depth": 4}
    found = search(**own)
    heads = {trial.config["head.hidden_layers"]: trial.trial for trial in found.trials}
    assert heads.keys() == {0, 1}
    for trial in heads.values():
        assert search(**own, pick=trial).metrics.finetuned_from == "conventional"
    records = (found.folder / "state").glob("narrowed-*/record.json")
    learnt = [read_record(record, StepRecord) for record in records]
    # A plain head is the conventional network's.
    assert {step.head is None for step in learnt} == {True, False}
    for step in learnt:
        if step.head is not None:
            assert step.head.val_accuracy == max(epoch.val_accuracy for epoch in step.head.epochs)
            assert step.seconds > step.head.seconds > 0
    assert not list((found.folder / "state").glob("narrowed-*/features"))


# Whatever this trains is ruined.
RUINOUS = Trainer(
    epochs=1, batch_size=8, lr=3e-3, trial=RecipeChanges(epochs=2), finetune=RecipeChanges(lr=100.0)
)


def test_training_that_hurts_is_not_handed_over(search, caplog):
    with caplog.at_level(logging.INFO, "tascnet"):
        result = search(trainer=RUINOUS, tolerance=0.0)
    metrics = result.metrics
    rows = {one.name: one for one in metrics.candidates}
    assert {"baseline", "conventional", "winner", "tuned"} <= rows.keys()
    best = max(one.val_accuracy for one in rows.values())
    after = metrics.models["after"]
    assert after.val_accuracy == best == rows[metrics.handed_over].val_accuracy
    assert after.params == rows[metrics.handed_over].params
    assert "training did not help" in rows["conventional"].note
    assert "training did not help" in caplog.text
    # Each was tried once more, at a third of the learning rate; what was there before is kept.
    assert metrics.trainings["conventional: a third of the learning rate"].lr == pytest.approx(100 / 3)
    assert metrics.trainings["conventional"].lr == 100
    usual, baseline = (metrics.models[name] for name in ("conventional", "baseline"))
    assert usual.val_accuracy == baseline.val_accuracy
    (line, *_) = handover_lines(metrics)
    assert line.startswith("Handed over: ")
    assert line in caplog.text
    # A finished stage is read back.
    assert search(trainer=RUINOUS, tolerance=0.0).metrics == metrics


def test_without_fallback_the_fine_tuned_winner_is_handed_over(search):
    metrics = search(trainer=RUINOUS, tolerance=0.0, fallback=False, finetune_from="all").metrics
    assert metrics.handed_over == "tuned"
    assert [one.name for one in metrics.candidates if one.fits] == ["tuned"]


def test_a_target_may_force_a_loss_which_is_said(search):
    metrics = search(trainer=RUINOUS, tolerance=0.0, params_target=0.7, widths=(0.25, 0.5)).metrics
    assert metrics.models["after"].params <= metrics.bounds["params"]
    rows = {one.name: one for one in metrics.candidates}
    assert not rows["baseline"].fits
    assert rows[metrics.handed_over].fits


def test_an_interrupted_choice_is_the_same(search, monkeypatch):
    """Interrupted while it trains once more; the journal and the steps decide."""
    whole = search(trainer=RUINOUS, tolerance=0.0, name="whole").metrics
    with monkeypatch.context() as patch:
        patch.setattr("tascnet.tuning.finetune.slower", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(trainer=RUINOUS, tolerance=0.0)
    again = search(trainer=RUINOUS, tolerance=0.0).metrics
    assert again.handed_over == whole.handed_over
    assert again.candidates == whole.candidates


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "tuned",
            [
                "Handed over: the fine-tuned winner (trial 3), 84.0 % on validation, 2.0 points below the "
                "best, the conventional network (86.0 %)."
            ],
        ),
        (
            "baseline",
            [
                "Handed over: the baseline, 80.0 % on validation, 6.0 points below the best, the "
                "conventional network (86.0 %).",
                "Fine-tuning did not help: it ended at 84.0 % (trial 3).",
            ],
        ),
        ("conventional", ["Handed over: the conventional network, 86.0 % on validation."]),
    ],
)
def test_what_is_handed_over_in_a_sentence(name, expected):
    rows = (("baseline", 0.8, ""), ("conventional", 0.86, ""), ("tuned", 0.84, "trial 3"))
    figures = {"val_balanced_accuracy": None, "params": 1, "flops": 1}
    candidates = tuple(
        CandidateRecord(name=name, val_accuracy=value, note=note, **figures) for name, value, note in rows
    )
    metrics = tune_metrics(candidates=candidates, handed_over=name)
    assert handover_lines(metrics)[: len(expected)] == expected


def test_a_winner_that_ends_earlier_gets_a_head_of_its_own(search):
    """Of the search with one exit a trial is picked that ends there: its head learns before the rest does."""
    own = {"algorithm": "sobol", "max_trials": 6, "max_units": 2, "slim_every": 0, "widths": ()}
    found = search(**own)
    ended = [trial for trial in found.trials if trial.config["exit"] == 1 and trial.status == "ok"]
    metrics = search(**own, pick=ended[0].trial).metrics
    # conv1 3 x 4 x 9 + 4 and a head of 4 x 3 + 3 are left, with a hidden layer more.
    points = {end.exit: end for end in found.metrics.ends}
    assert (points[1].block, points[1].params) == (2, 127)
    assert points[0].params == found.metrics.models["baseline"].params == 435
    assert points[0].val_accuracy == found.metrics.trainings["baseline: head"].val_accuracy
    assert metrics.models["after"].params == ended[0].params
    assert metrics.finetuned_from == "conventional"
    name = "after: head" if metrics.handed_over == "tuned" else "tuned: head"
    assert metrics.trainings[name].epochs
    network = tascnet.load(found.folder.with_name(f"run-pick{ended[0].trial}") / "model")
    assert "conv2" not in dict(network.named_children())
    assert network.info.first_searched == (2 if ended[0].config["first_trained"] == 0 else 0)
