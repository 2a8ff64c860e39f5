"""What the options of pruning change, on a tiny network."""

import logging
from collections import OrderedDict
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import nn

import tascnet
from tascnet.data import evenly
from tascnet.errors import TascnetError
from tascnet.options import CRITERIA, HistoryPrune, Prune, StepChanges, Trainer
from tascnet.pruning.blocks import last_end, without
from tascnet.run.records import StepRecord, read_record
from tests.pruning.toy import SMALL, are_equal, network, state, untimed

# Nothing is trained: what is removed alone changes the network.
STILL = Trainer(batch_size=8, recover=StepChanges(lr=0.0))
HISTORY = {**SMALL, "criterion": "history", "epochs": 3}


def small(**changes):
    return Prune(**SMALL | changes)


def removed(result, iteration=1):
    return result.iterations[iteration].removed


class LastFirst(tp.importance.Importance):
    """The higher a channel's number, the less it matters."""

    def __call__(self, group):
        width = len(group[0].idxs)
        return torch.arange(width, 0, -1)


class Broken(tp.importance.Importance):
    def __call__(self, group):
        raise RuntimeError("no idea")


class Leaves(tp.importance.Importance):
    def __call__(self, group):
        raise SystemExit(0)


class Undecided(tp.importance.Importance):
    def __call__(self, group):
        return torch.full((len(group[0].idxs),), torch.nan)


def test_every_criterion_prunes_and_no_two_alike(run):
    networks = {}
    for criterion in CRITERIA:
        options = HistoryPrune(**HISTORY) if criterion == "history" else small(criterion=criterion)
        # Scales of batch-norm are equal before training.
        start = network()
        torch.manual_seed(1)
        nn.init.uniform_(start.block.body.bn.weight, 0.5, 1.5)
        networks[criterion] = state(run(options, start=start, name=None).network)
    # Within a group the shares of what is kept (lamp) put filters in the order of their magnitudes.
    networks.pop("lamp")
    names = list(networks)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            assert not are_equal(networks[one], networks[other]), (one, other)


def test_over_all_groups_lamp_removes_others_than_magnitude(run):
    common = {"scope": "global_filters", "pruning_ratio": 0.55, "max_pruning_ratio": 0.9}
    counts = [removed(run(small(criterion=name, **common), name=None)) for name in ("lamp", "magnitude")]
    assert counts[0] != counts[1]


def test_a_criterion_of_your_own_decides_what_is_removed(run):
    start = network()
    options = small(criterion=f"{__name__}.LastFirst", merge="none")
    pruned = run(options, start=start, trainer=STILL, name=None).network
    kept = len(pruned.conv2.weight)
    assert kept < 20
    width = len(pruned.conv1.weight)
    assert torch.equal(pruned.conv2.weight, start.conv2.weight[:kept, :width])


@pytest.mark.parametrize(
    ("criterion", "says"),
    [
        ("Broken", r"raised RuntimeError: no idea \(.*test_options.py, line \d+\)"),
        ("Leaves", r"raised SystemExit: 0 \(.*test_options.py"),
        ("Undecided", "no finite numbers"),
        ("Missing", "could not be loaded"),
    ],
)
def test_a_criterion_that_cannot_be_used_is_named(run, tmp_path, criterion, says):
    with pytest.raises(TascnetError, match=says):
        run(small(criterion=f"{__name__}.{criterion}"))
    assert not (tmp_path / "run" / "metrics.json").exists()


def trainings(result):
    """Epochs of each training, by the name of its step."""
    records = {
        path.parent.name: read_record(path, StepRecord)
        for path in (result.folder / "state").glob("*/record.json")
    }
    return {name: len(step.training.epochs) for name, step in records.items() if step.training}


def test_epochs_are_shared_by_the_phases_of_history_and_all_retrain_with_other_criteria(run):
    options = HistoryPrune(**HISTORY | {"epochs": 4}, history_epochs=2, optimise_epochs=1)
    result = run(options)
    assert trainings(result) == {"iteration-000-history": 2, result.iterations[1].state: 1}
    made = result.iterations[1]
    assert made.pairs_similarity_after > made.pairs_similarity_before
    other = run(small(epochs=4), name="other")
    assert trainings(other) == {other.iterations[1].state: 4}


def test_phases_without_a_learning_rate_move_no_filter(run):
    made = run(HistoryPrune(**HISTORY), trainer=STILL, name=None).iterations[1]
    assert made.pairs_similarity_after == pytest.approx(made.pairs_similarity_before, abs=1e-6)


def test_recording_restarts_or_continues(run):
    networks = []
    for how in ("restart", "continue"):
        options = HistoryPrune(**HISTORY | {"max_iterations": 2, "pruning_ratio": 0.12}, history=how)
        result = run(options, name=how)
        steps, first = {path.name for path in (result.folder / "state").iterdir()}, result.iterations[1].state
        assert {"iteration-000-history", first} <= steps
        assert (f"{first}-history" in steps) is (how == "restart")
        assert (result.folder / "state" / first / "history.safetensors").exists() is (how == "continue")
        networks.append(state(result.network))
    assert not are_equal(*networks)


def test_each_merge_gives_another_network_of_the_same_widths(run):
    networks = {}
    for merge in ("none", "average", "fold", "fold_weights", "refit"):
        options = HistoryPrune(**HISTORY | {"merge": merge})
        networks[merge] = state(run(options, trainer=STILL, name=None).network)
    names = list(networks)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            assert {k: v.shape for k, v in networks[one].items()} == {
                k: v.shape for k, v in networks[other].items()
            }
            assert not are_equal(networks[one], networks[other]), (one, other)


def test_scopes_differ_in_what_they_weigh_filters_against(run):
    common = {"pruning_ratio": 0.4, "max_pruning_ratio": 0.9}
    counts = [
        removed(run(small(scope=scope, **common), name=None))
        for scope in ("group", "global_filters", "global", "global_params")
    ]
    assert counts[0] != counts[1] != counts[2] != counts[0]
    assert sum(counts[1].values()) == sum(counts[2].values()) == sum(counts[3].values())


@pytest.mark.parametrize("target", ["flops", "params"])
@pytest.mark.parametrize("scope", ["group", "global"])
def test_the_last_step_lands_on_the_target(run, target, scope):
    options = small(
        **{"scope": scope, "pruning_ratio": 0.4, "max_pruning_ratio": 0.5, f"{target}_target": 0.8},
        max_iterations=5,
    )
    unpruned, made = run(options, name=None).iterations
    # A filter of 36 has about 3 % of the FLOPs; the groups' shares fall together.
    assert (0.7 if scope == "group" else 0.75) < getattr(made, target) / getattr(unpruned, target) <= 0.8
    assert made.landed[target] == 0.8


def test_a_size_ends_the_loop(run):
    found = run(small(size_target=0.9, max_iterations=5), name=None).metrics
    assert "saved bytes reached" in found.stopped
    assert found.models["after"].size_bytes <= 0.9 * found.models["before"].size_bytes


REVERTED = {
    "criterion": "random",
    "merge": "none",
    "tolerance": 0.0,
    "max_pruning_ratio": 0.75,
    "max_iterations": 9,
}


@pytest.fixture
def falling(monkeypatch):
    """Each network but the unpruned one is evaluated as worse."""
    evaluate = tascnet.train.Learner.evaluate

    def worse(self, chain, source=None):
        found = evaluate(self, chain, source)
        whole = sum(parameter.numel() for parameter in chain.parameters()) == UNPRUNED
        return found if whole else replace(found, accuracy=0.0)

    monkeypatch.setattr(tascnet.train.Learner, "evaluate", worse)
    fit = tascnet.train.Learner.fit
    monkeypatch.setattr(tascnet.train.Learner, "fit", lambda *a, **k: replace(fit(*a, **k), val_accuracy=0.0))


UNPRUNED = sum(parameter.numel() for parameter in network().parameters())


def test_a_step_that_breaks_the_tolerance_is_reverted_and_halved(run, falling):
    options = small(**REVERTED, pruning_ratio=0.5)
    result = run(options)
    made = result.iterations
    assert [one.start for one in made] == [0, 0, 0, 0]
    assert [one.step for one in made] == [1.0, 1.0, 0.5, 0.25]
    counts = [sum(one.removed.values()) for one in made[1:]]
    assert counts[0] > counts[1] > counts[2]
    assert result.metrics.kept_iteration == 0
    assert "in each of 3 steps" in result.metrics.stopped
    assert are_equal(state(result.network), state(network()))
    # With a tolerance that keeps the first step it continues from it; the journal forgets the others.
    again = run(replace(options, tolerance=1.0, max_iterations=2)).iterations
    assert [one.start for one in again] == [0, 0, 1]
    assert again[1].removed == made[1].removed


@pytest.mark.parametrize("own", [{"flops_target": 0.6}, {"max_pruning_ratio": 0.25}])
def test_a_step_cut_short_by_a_target_or_a_bound_is_still_tried_smaller(run, falling, own):
    """Half of 95 % asks for no less than the target or the bound allows: it is halved until it does."""
    made = run(small(**REVERTED | {"pruning_ratio": 0.95} | own), name=None).iterations
    counts = [sum(one.removed.values()) for one in made[1:]]
    assert [one.start for one in made[1:]] == [0, 0, 0]
    assert counts[0] > counts[1] > counts[2]


def test_a_step_that_rounding_makes_no_smaller_ends_the_loop(run, falling):
    """Of 1 % of 16 to 20 filters, and of half that, each group loses its next multiple of four."""
    found = run(small(**REVERTED, pruning_ratio=0.01, round_to=4), name=None).metrics
    assert "the smallest step" in found.stopped
    assert (found.iterations, found.kept_iteration) == (1, 0)


def test_another_target_leads_where_a_new_run_would(run):
    options = small(criterion="random", scope="global", pruning_ratio=0.12, max_iterations=2)
    # The first target cuts the second step short, and would let the second run resume from it.
    run(replace(options, flops_target=0.7))
    changed, fresh = (run(replace(options, flops_target=0.3), name=name) for name in ("run", "fresh"))
    assert untimed(changed.iterations) == untimed(fresh.iterations)
    assert are_equal(state(changed.network), state(fresh.network))
    back = run(replace(options, flops_target=0.7)).iterations
    assert 0.6 < back[-1].flops / back[0].flops <= 0.7


def test_a_target_out_of_reach_ends_with_the_last_good_network(run):
    options = small(pruning_ratio=0.5, max_pruning_ratio=0.5, flops_target=0.01, max_iterations=20)
    result = run(options, name=None)
    found = result.metrics
    assert found.stopped.startswith("no layer has `min_filters=8` filters, the widest has 5;")
    assert "no target is reached: FLOPs are" in found.stopped
    assert found.stopped.endswith("not 1.00%")
    assert found.kept_iteration == found.iterations == len(result.iterations) - 1 > 0
    assert found.models["after"].flops == result.iterations[-1].flops


def with_idle_block():
    """The network, whose block adds nothing."""
    start = network()
    nn.init.zeros_(start.block.body.bn.weight)
    return start


def test_a_block_that_adds_nothing_is_removed_before_any_filter(run):
    options = {"merge": "none", "blocks": True, "pruning_ratio": 0.5, "max_pruning_ratio": 0.5}
    result = run(small(**options), start=with_idle_block(), trainer=STILL, name=None)
    made = result.iterations[1]
    assert (made.block, made.removed) == ("block", {})
    assert "block" not in dict(result.network.named_children())
    assert made.flops == result.metrics.models["after"].flops < result.iterations[0].flops
    assert result.metrics.removable_blocks == 0
    filters = run(small(**options | {"blocks": False}), start=with_idle_block(), name=None)
    assert filters.iterations[1].block is None
    assert filters.metrics.removable_blocks == 1
    # Filters land on the target, where the block would go beyond it.
    flops = result.iterations[1].flops / result.iterations[0].flops
    near = small(**options, flops_target=(1 + flops) / 2, max_iterations=2)
    landed = run(near, start=with_idle_block(), trainer=STILL, name=None).iterations[1]
    assert landed.block is None
    assert landed.landed is not None


def test_a_reverted_block_is_not_tried_again_but_filters_are(run, falling):
    options = small(merge="none", blocks=True, tolerance=0.0, max_iterations=2, ignore=("conv2",))
    made = run(options, start=with_idle_block(), trainer=STILL, name=None).iterations
    assert [one.block for one in made[1:]] == ["block", None]
    assert [(one.start, one.step) for one in made[1:]] == [(0, 1), (0, 1)]
    assert made[2].removed


def test_blocks_are_removed_where_no_filter_can_be_and_where_pairs_are_averaged(run):
    alone = small(min_filters=500, blocks=True, flops_target=0.9, sensitivity=True)
    result = run(alone, start=with_idle_block())
    assert result.iterations[1].block == "block"
    assert result.metrics.sensitivity.groups == ()
    # It has reached the target, and counts when the run is read back.
    assert run(alone, start=with_idle_block()).iterations == result.iterations
    pairs = HistoryPrune(**HISTORY | {"merge": "average"}, blocks=True, history="continue")
    assert run(pairs, start=with_idle_block(), trainer=STILL, name=None).iterations[1].block == "block"


def test_workers_adapt_candidates_and_measure_sensitivity_as_this_process_does(run):
    pytest.importorskip("ray", reason="Ray is not installed")
    options = small(merge="refit", blocks=True, max_iterations=1, sensitivity=True, epochs=1)
    found = {}
    for name, executor in {"here": tascnet.Local(), "there": tascnet.Ray(workers=2)}.items():
        made = run(options, start=with_idle_block(), trainer=STILL, name=None, threads=1, executor=executor)
        found[name] = made.metrics.sensitivity, [(one.block, one.val_loss) for one in made.iterations]
    assert found["there"] == found["here"]
    assert found["here"][0].groups


def test_the_end_of_a_network_is_what_its_last_filters_begin():
    example = torch.zeros(1, 3, 8, 8)
    assert last_end(network(), example) == "end from conv2"
    # Block 2 is the residual one, and block 3 the last convolution.
    assert last_end(network(), example, first=3) == "end from conv2"
    assert last_end(network(), example, first=4) is None
    assert last_end(network(), example, ignore=("conv2",)) is None
    shorter, at = without(network(), "end from conv2", example, seed=0)
    assert at == 3
    names = ["conv1", "relu1", "block", "pool", "flatten", "classifier"]
    assert [name for name, _ in shorter.named_children()] == names
    assert last_end(shorter, example) == "end from block"
    # One layer with filters is left at least.
    assert last_end(without(shorter, "end from block", example, seed=0)[0], example) is None


# Nothing but the end may be removed.
SHORTEN = {"blocks": True, "min_filters": 500, "ignore": ("block",), "max_iterations": 2, "epochs": 2}


def test_a_network_is_shortened_and_its_new_head_is_trained_first(run, monkeypatch):
    result = run(small(**SHORTEN), name="whole")
    made = result.iterations[1]
    assert (made.block, made.removed) == ("end from conv2", {})
    # 448 of conv1, 2,336 of the block, and 2 x 16 + 2 of the new head.
    assert made.params == 2818 == result.metrics.models["after"].params
    assert result.metrics.stopped.startswith("no filters can be removed: spared by `ignore`")
    untrained = without(network(), "end from conv2", torch.zeros(1, 3, 8, 8), seed=0)[0]
    assert made.val_accuracy_after_cut > 0.5
    module, recovered = import_module("tascnet.pruning.iteration"), []
    recover = module.recover

    def failing(learner, options, chain, *others, **own):
        recovered.append(state(chain))
        if len(recovered) == 1:
            raise KeyboardInterrupt
        return recover(learner, options, chain, *others, **own)

    monkeypatch.setattr(module, "recover", failing)
    with pytest.raises(KeyboardInterrupt):
        run(small(**SHORTEN))
    resumed = run(small(**SHORTEN))
    assert are_equal(*recovered)
    kept = {key: value for key, value in state(network()).items() if key in recovered[0]}
    changed = [key for key, value in kept.items() if not torch.equal(value, recovered[0][key])]
    assert changed == ["classifier.weight", "classifier.bias"] or changed == ["classifier.bias"]
    assert not torch.equal(recovered[0]["classifier.weight"], untrained.classifier.weight)
    assert untimed(resumed.iterations) == untimed(result.iterations)
    assert are_equal(state(resumed.network), state(result.network))


def test_filters_shrink_under_a_growing_penalty_before_they_are_removed(run, interrupted, caplog):
    caplog.set_level(logging.INFO, logger="tascnet")
    options = small(growing_epochs=3, merge="refit", max_iterations=2)
    trainer = Trainer(batch_size=8, lr=1e-2)
    whole = run(options, name="whole", trainer=trainer)
    said = [text.split() for text in caplog.messages if text.startswith("growing penalty")]
    assert len(said) == 2
    assert all(0 < float(words[words.index("%") - 1]) < 90 for words in said)
    interrupted()
    with pytest.raises(KeyboardInterrupt):
        run(options, trainer=trainer)
    resumed = run(options, trainer=trainer)
    assert untimed(resumed.iterations) == untimed(whole.iterations)
    assert are_equal(state(resumed.network), state(whole.network))


def test_the_published_sum_is_inert_with_many_pairs(run, caplog):
    """Of 256 filters 64 pairs: exp(-sum) of similarities around one half is below 1e-10."""
    torch.manual_seed(0)
    chain = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 256, 3, stride=4, padding=1),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(256, 2),
        )
    )
    start = tascnet.models.info.with_info(chain.eval(), network().info)
    for kind, inert in (("sum", True), ("per_group_mean", False)):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="tascnet"):
            run(HistoryPrune(**HISTORY, regulariser=kind), start=start, name=None)
        assert "iteration 1 removes 64 filters of 1 group" in caplog.text
        assert ("the regulariser is inert" in caplog.text) is inert


def test_sensitivities_are_measured_on_all_classes():
    classes = np.arange(101).repeat(5)
    assert set(classes[evenly(505, 256)]) == set(range(101))
