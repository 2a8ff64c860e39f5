import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

import tascnet
from tascnet.data import open_samples
from tascnet.models.head import HeadSpec, head_start, replace_head
from tascnet.models.info import info_of
from tascnet.options import Autotune, RecipeChanges, Trainer, Tune
from tascnet.run.records import EndPoint, TrainingRecord
from tascnet.surgery import Shortener
from tascnet.train import Archive, Learner
from tascnet.train.evaluate import evaluate_source
from tascnet.tuning.choices import discover_units
from tascnet.tuning.ends import Ends, cache_ends, depth_of, find_ends, starts
from tascnet.tuning.space import Space
from tascnet.tuning.tails import Tails
from tests.tuning.spaces import small_space
from tests.tuning.toy import own_data, own_network


def point(exit, accuracy, balanced=None):
    scores = {"val_accuracy": accuracy, "val_balanced_accuracy": balanced or accuracy}
    return EndPoint(exit=exit, block=9 - exit, params=1, flops=1, **scores)


def trained(accuracy):
    scores = {"val_accuracy": accuracy, "val_balanced_accuracy": accuracy, "val_loss": 1.0}
    return TrainingRecord(**scores, best_epoch=1, seconds=1.0, epochs=())


class Case:
    """The toy network, its units and what finding ends takes."""

    def __init__(self, tmp_path, network=None, **options):
        network = network or own_network()
        info = info_of(network)
        samples = open_samples(own_data(), info.preprocessing, seed=0, cache=tmp_path / "cache")
        trainer = Trainer(epochs=1, batch_size=8, head=RecipeChanges(epochs=3, lr=0.1))
        self.learner = Learner(samples=samples, device=torch.device("cpu"), trainer=trainer, seed=0)
        self.chain = replace_head(network, HeadSpec(), samples.num_classes, seed=0).eval()
        self.archive = Archive(folder=tmp_path / "run", info=info)
        self.options = Tune(**{"round_to": 2, "kernels": (3,)} | options)
        self.units = discover_units(self.chain, samples.example, self.options)

    def find(self, first=0.1, options=None):
        found = (options or self.options, self.archive, trained(first))
        return find_ends(self.learner, self.chain, self.units, *found)


def test_each_end_has_a_head_on_its_pooled_features(tmp_path):
    case = Case(tmp_path)
    ends = case.find()
    # conv1 relu1 conv2 relu2 pool flatten classifier: only conv2 with what follows may go.
    assert [(p.exit, p.block) for p in ends.points] == [(0, 6), (1, 2)]
    # 4 filters of 27 weights and a bias; 3 classes of 4 weights and a bias.
    assert ends.points[1].params == 4 * 28 + 3 * 5
    ended = Shortener(case.chain, case.learner.samples.example).network(2, ends.heads[1])
    judged = evaluate_source(ended, case.learner.samples.val, device="cpu")
    assert judged.accuracy == ends.points[1].val_accuracy > 0.5
    assert ends.exits == 1


def deep_network():
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in ((3, 4), (4, 6), (6, 8), (8, 5)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    own = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    return tascnet.backbone(own, size=8)


@pytest.mark.parametrize(
    ("target", "exits"),
    [
        # Of 1,157 parameters 801, 355 and 127 are left; the bounds are 925, 801 and 347.
        ({"params_target": 0.8}, 1),
        ({"params_target": 801 / 1157}, 1),
        ({"params_target": 0.3}, 3),
        ({"flops_target": 0.8}, 1),
        ({"flops_target": 0.4}, 2),
        ({"params_target": 0.8, "flops_target": 0.4}, 2),
        # What these cost at an end is not known, so all may be taken.
        ({"size_target": 0.9}, 3),
        ({"latency_target": 0.9}, 3),
    ],
)
def test_with_a_target_the_ends_up_to_the_first_that_keeps_it_are_searched(tmp_path, target, exits):
    case = Case(tmp_path, deep_network(), max_units=3, **target)
    # None is near this.
    ends = case.find(first=2.0)
    assert [point.params for point in ends.points] == [1157, 801, 355, 127]
    assert ends.exits == exits


def test_heads_of_several_ends_learn_from_one_pass_each_from_its_own_features(tmp_path):
    case = Case(tmp_path, deep_network(), max_units=3)
    ends = case.find()
    shortener = Shortener(case.chain, case.learner.samples.example)
    assert [point.exit for point in ends.points] == [0, 1, 2, 3]
    for point in ends.points[1:]:
        ended = shortener.network(case.units[point.exit].block, ends.heads[point.exit])
        judged = evaluate_source(ended, case.learner.samples.val, device="cpu")
        assert judged.accuracy == point.val_accuracy > 0.5


def test_the_head_and_the_ends_read_one_pass_of_the_network(tmp_path):
    case = Case(tmp_path)
    sizes = []
    case.chain[0].register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    cache_ends(case.learner, case.chain, case.options)
    samples = len(case.learner.samples.train) * len(case.learner.samples.views) + len(
        case.learner.samples.val
    )
    assert sum(size for size in sizes if size > 1) == samples
    sizes.clear()
    Tails(case.learner, case.chain).features(head_start(case.chain))
    case.find()
    assert all(size == 1 for size in sizes), "only costs are counted, on one sample"


@pytest.mark.parametrize(("limit_gb", "passes"), [(None, 1), (6e-5, 3)])
def test_the_cuts_of_a_search_are_cached_in_one_pass_if_they_fit(tmp_path, caplog, limit_gb, passes):
    caplog.set_level(logging.INFO, logger="tascnet")
    case = Case(tmp_path, deep_network(), max_units=3)
    samples = replace(case.learner.samples, cache_limit_gb=limit_gb)
    runs = []
    case.chain[0].register_forward_hook(lambda _, inputs, __: runs.append(len(inputs[0])))
    cuts = [unit.block for unit in case.units[1:]]
    tails = Tails(replace(case.learner, samples=samples), case.chain, cuts=cuts)
    for cut in cuts:
        tails.features(cut)
    images = len(samples.train) * len(samples.views) + len(samples.val)
    assert sum(size for size in runs if size > 1) == passes * images
    assert ("features are cached one cut at a time" in caplog.text) == (passes > 1)


def test_a_search_that_starts_again_finds_the_same_ends_without_training(tmp_path, monkeypatch):
    case = Case(tmp_path)
    ends = case.find()
    monkeypatch.setattr("tascnet.tuning.ends.fit_head", None)
    again = case.find()
    assert again.points == ends.points
    assert torch.equal(again.heads[1].weight, ends.heads[1].weight)


def test_an_end_far_below_the_best_is_shown_and_not_searched(tmp_path):
    far = Case(tmp_path).find(first=2.0)
    assert (len(far.points), far.exits) == (2, 0)
    # A target may need it; one that the whole network keeps does not.
    assert Case(tmp_path, flops_target=0.5).find(first=2.0).exits == 1
    assert Case(tmp_path, flops_target=1.0).find(first=2.0).exits == 0


@pytest.mark.parametrize(
    "options",
    [{"exit": False}, {"head": "grow"}, {"algorithm": "layerwise"}, {"ignore": ("conv2",)}],
)
def test_options_that_fix_the_end(tmp_path, options):
    assert Case(tmp_path, **options).find() == Ends()


def test_the_space_of_new_layers_has_no_exits(tmp_path):
    assert Case(tmp_path).find(options=Autotune()) == Ends()


def test_the_depth_reaches_units_before_the_deepest_end():
    assert [depth_of(Tune(), Ends(exits=e)) for e in (0, 1, 4)] == [3, 3, 6]
    assert depth_of(Tune(max_units=5), Ends(exits=4)) == 5


def starts_of(k, accuracies, exits=2, **changes):
    points = [point(exit, accuracy) for exit, accuracy in enumerate(accuracies)]
    given = {"fits": lambda _: True, "n_val": 100, "tolerance": None, **changes}
    return starts(small_space(exits), k, points, **given)


def test_a_search_starts_with_the_whole_network_and_the_earliest_end_near_the_best():
    space = small_space(2)
    # One standard error of 0.84 on 100 samples is 0.037.
    # At the earliest end, behind the deepest unit, the head alone is trained, which has no widths.
    expected = [space.neutral(2), space.neutral(2, 1), space.neutral(0, 2), space.narrowed(0.5, 2, 1)]
    assert starts_of(2, (0.84, 0.81, 0.79)) == expected
    assert starts_of(2, (0.84, 0.81, 0.81)) == [space.neutral(2), space.neutral(0, 2)]
    # At depth 1 an end without unit 2 is none yet.
    assert starts_of(1, (0.84, 0.81, 0.84)) == [space.neutral(1), space.neutral(0, 1)]
    expected = [space.neutral(0, 2), space.narrowed(0.5, 2)]
    assert starts_of(2, (0.84, 0.83, 0.83), tolerance=0.0)[1:] == expected


def test_where_the_end_near_the_best_breaks_a_bound_a_search_starts_with_the_latest_that_keeps_it():
    space = small_space(2)
    accuracies = (0.84, 0.84, 0.6)
    found = starts_of(2, accuracies, fits=lambda config: config["exit"] == 2)
    assert found == [space.neutral(2), space.neutral(0, 2)]
    assert starts_of(2, accuracies, fits=lambda _: False) == [space.neutral(2), space.narrowed(0.5, 2)]


def test_without_ends_a_search_starts_with_all_and_half_widths():
    space = small_space()
    found = starts(space, 2, (), fits=lambda _: True, n_val=100, tolerance=None)
    assert found == [space.neutral(2), space.narrowed(0.5, 2)]


def test_starts_go_by_the_metric():
    space = small_space(1)
    points = [point(0, 0.9, 0.9), point(1, 0.9, 0.5)]
    by = {
        metric: starts(space, 2, points, fits=lambda _: True, n_val=100, tolerance=0.01, metric=metric)[-1][
            "exit"
        ]
        for metric in ("accuracy", "balanced_accuracy")
    }
    assert by == {"accuracy": 1, "balanced_accuracy": 0}


def test_a_space_takes_the_ends(tmp_path):
    case = Case(tmp_path)
    ends = case.find()
    space = Space(case.units[: depth_of(case.options, ends) + 1], exits=ends.exits)
    assert space.neutral(0, 1)["exit"] == 1
    assert tascnet.Tune().searches_exit
