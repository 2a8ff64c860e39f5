"""Where fine-tuning of the winner starts, and who teaches it."""

from dataclasses import asdict

import torch

import tascnet
from tascnet.run.records import StepRecord, read_record


def states(folder):
    return tascnet.load(folder).state_dict()


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_where_fine_tuning_starts_changes_what_is_trained(search):
    """`best` takes from `prefix` and `all` the one of the higher validation accuracy."""
    found = {}
    for name in ("prefix", "all", "best"):
        result = search(finetune_from=name, name=name)
        found[name] = result.metrics
        before, after = states(result.folder / "state" / "baseline"), result.network.state_dict()
        was_whole = result.metrics.finetuned_from == "all"
        assert torch.equal(before["conv1.weight"], after["conv1.weight"]) is not was_whole
    rows = {name: metrics.models["after"] for name, metrics in found.items()}
    assert rows["all"].trainable_params == rows["all"].params == rows["prefix"].params
    assert rows["prefix"].trainable_params < rows["prefix"].params
    higher = max(("prefix", "all"), key=lambda name: rows[name].val_accuracy)
    assert [metrics.finetuned_from for metrics in found.values()] == ["prefix", "all", higher]
    same = ("val_accuracy", "test_accuracy", "params", "trainable_params")
    best, other = asdict(rows["best"]), asdict(rows[higher])
    assert {name: best[name] for name in same} == {name: other[name] for name in same}


def test_the_conventional_network_hands_over_and_teaches(search):
    """The default begins at it; without distillation another network of the same shape comes out."""
    narrow = {"widths": (0.5,), "kernels": (), "activations": ("relu",), "hidden_layers": (0,)}
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
    assert not are_equal(taught.network.state_dict(), alone.network.state_dict())


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
