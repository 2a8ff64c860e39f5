"""Pruning of whole groups of channels, of layers that share statistics, and of what is spared or stays."""

import logging
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from tascnet.errors import ConfigError
from tascnet.models.blocks import Residual
from tascnet.options import HistoryPrune, Prune, Trainer
from tascnet.pruning import check_options
from tascnet.pruning.check import eligible_groups
from tascnet.surgery import Trace
from tests.models.toys import conv
from tests.pruning.toy import SMALL, described, grouped, network
from tests.surgery.networks import graph

EXAMPLE = torch.zeros(1, 3, 8, 8)
UNITS = SMALL | {"min_filters": 2, "max_pruning_ratio": 0.25}


@pytest.mark.parametrize("merge", ["fold", "fold_weights", "refit", "none"])
def test_whole_units_are_removed_and_counted_in_filters(run, merge):
    result = run(Prune(**UNITS | {"merge": merge}), start=grouped(), name=None)
    # A quarter of eight units of four channels, and of 16 channels; the layer before the layer normalisation
    # is not exact, and as the others lose all that one step takes, it loses a quarter of its 12 too.
    assert result.iterations[1].removed == {"conv1": 3, "conv2": 8, "conv4": 4}
    widths = {row.layer: row.after for row in result.metrics.widths}
    assert widths == {"conv1": 9, "conv2": 24, "conv3": 24, "conv4": 12, "classifier": 2}
    assert result.network.conv3.groups == 6
    reach = result.metrics.reach
    assert reach.inexact == ("conv1",)
    assert [one.reason for one in reach.uncut] == ["feeds the output"]


def test_filters_whose_cut_is_not_exact_stay_while_others_can_go(run):
    options = Prune(**UNITS | {"pruning_ratio": 0.125, "scope": "global_filters"})
    result = run(options, start=grouped(), name=None)
    removed = result.iterations[1].removed
    # An eighth of 60 filters.
    assert 7 <= sum(removed.values()) <= 10
    assert "conv1" not in removed
    only = replace(options, ignore=("conv2", "conv4"))
    assert set(run(only, start=grouped(), name="only").iterations[1].removed) == {"conv1"}


def test_rounding_counts_filters_where_units_have_four(run):
    options = UNITS | {"round_to": 8, "pruning_ratio": 0.3, "max_pruning_ratio": 0.5}
    result = run(Prune(**options), start=grouped(), name=None)
    # 0.3 of eight units are two, eight filters; conv4 has to lose half at once, conv1 becomes 8 filters.
    assert result.iterations[1].removed == {"conv2": 8}
    assert result.iterations[1].pending["conv2"] == 0
    assert result.iterations[1].pending["conv4"] == 4


@pytest.mark.parametrize("history", ["restart", "continue"])
def test_pairs_of_units_by_their_history(run, history):
    options = HistoryPrune(
        **{**UNITS, "criterion": "history", "merge": "average", "epochs": 3, "max_iterations": 2},
        history=history,
    )
    result = run(options, start=grouped(), name=None)
    assert [one.removed["conv2"] for one in result.iterations[1:]] == [8, 4]
    assert result.network.conv3.groups == 5


@pytest.mark.parametrize("history", ["restart", "continue"])
def test_the_last_of_two_groups_of_a_convolution_has_a_history_of_its_own(run, history):
    start = grouped()
    start.conv3 = nn.Conv2d(32, 32, 3, padding=1, groups=2)
    options = HistoryPrune(
        **{**UNITS, "criterion": "history", "merge": "average", "epochs": 3, "max_iterations": 2},
        history=history,
    )
    options = replace(options, max_pruning_ratio=0.5, pruning_ratio=0.5)
    result = run(options, start=start, name=None)
    # Half of two groups of 16 channels; those that are left are no longer coupled to what they read.
    assert [one.removed["conv2"] for one in result.iterations[1:]] == [16, 8]
    assert result.iterations[2].removed["conv3"] == 8
    assert result.network.conv3.groups == 1


def test_groups_that_a_removed_block_has_divided_are_pruned_together_afterwards(run):
    block = graph(
        {"narrow": conv(16, 4, 1), "wide": conv(16, 12)},
        ["layer", "narrow", "%0"],
        ["layer", "wide", "%0"],
        ["cat", ["%1", "%2"], 1],
    )
    torch.nn.init.zeros_(block.narrow.weight)
    torch.nn.init.zeros_(block.wide.weight)
    start = network()
    start.block = Residual(block, nn.Identity(), nn.ReLU())
    groups = {group.name: group.channels for group in Trace(start, EXAMPLE).groups}
    assert groups == {"conv1": 4, "conv1:2": 12, "conv2": 20}
    options = HistoryPrune(
        **{**UNITS, "criterion": "history", "merge": "average", "epochs": 3, "max_iterations": 2},
        history="continue",
        blocks=True,
        # Without it the network ends where it does.
        ignore=("conv2",),
    )
    still = Trainer(batch_size=8, lr=1e-9)
    made = run(options, start=start, trainer=still, name=None).iterations
    assert (made[1].block, made[1].removed) == ("block", {})
    assert made[2].removed == {"conv1": 4}


def test_ignored_layers_and_blocks_stay_as_they_are(run):
    # The block writes into the stream that conv1 begins.
    result = run(Prune(**SMALL | {"ignore": ("block.body.*",)}), name=None)
    assert result.iterations[1].removed == {"conv2": 5}
    options = Prune(**SMALL | {"min_filters": 500, "blocks": True})
    check_options(options, network(), EXAMPLE, widens=False)
    with pytest.raises(ConfigError, match="no layer has `min_filters=500`"):
        check_options(replace(options, ignore=("block.body.bn", "conv2")), network(), EXAMPLE, widens=False)


def spares(options, chain):
    return [group.name for group in eligible_groups(options, chain.info, Trace(chain, EXAMPLE))]


def test_which_groups_are_spared():
    options = Prune(**UNITS)
    assert spares(options, grouped()) == ["conv1", "conv2", "conv4"]
    # A layer anywhere in the group spares it.
    assert spares(replace(options, ignore=("conv3",)), grouped()) == ["conv1", "conv4"]
    assert spares(replace(options, ignore=("conv[12]",)), grouped()) == ["conv4"]
    # Filters count, not units.
    assert spares(replace(options, min_filters=16), grouped()) == ["conv2", "conv4"]
    assert spares(replace(options, min_filters=32), grouped()) == ["conv2"]


def fixed(**layers):
    """Nothing but the classifier, which reads the pixels."""
    return described(OrderedDict(**layers, flatten=nn.Flatten(), classifier=nn.Linear(192, 2)))


@pytest.mark.parametrize(
    ("chain", "options", "says", "hint"),
    [
        (fixed(), {}, "no filters can be removed: feeds the output (classifier)", "take another network"),
        (
            network(),
            {"ignore": ("conv?", "block")},
            "no filters can be removed: spared by `ignore` (conv1 and 2 others); feeds the output",
            "spare fewer layers",
        ),
        (network(), {"ignore": ("conv3",)}, "`conv3`, which matches no layer", "did you mean `"),
        (grouped(), {"min_filters": 33}, "no layer has `min_filters=33` filters, the widest has 32", "=16"),
    ],
)
def test_nothing_to_remove_is_refused_with_the_reasons(chain, options, says, hint):
    with pytest.raises(ConfigError) as error:
        check_options(replace(Prune(**SMALL), **options), chain, EXAMPLE, widens=False)
    assert says in error.value.message
    assert hint in error.value.hint
    assert ("min_filters" in error.value.hint) == ("min_filters" in options)


def test_what_cannot_be_reached_is_logged_before_anything_is_trained(run, caplog):
    with caplog.at_level(logging.INFO, "tascnet"):
        result = run(Prune(**UNITS | {"ignore": ("conv2",)}), start=grouped(), name=None)
    (line,) = [text for text in caplog.messages if text.startswith("Removing filters can")]
    assert f"{100 * (1 - result.metrics.reach.flops_left):.1f} % of the FLOPs" in line
    # The group of conv2 stays: its layers, and what they read and give but for the channels of others.
    assert "Layers that keep filters: spared by `ignore` (conv2 and 1 other)." in caplog.messages
    assert any(text.startswith("Not exact, and therefore last") for text in caplog.messages)


def test_a_pattern_of_a_block_that_the_search_removed_is_a_warning(caplog):
    tuned = network(first_searched=1)
    options = replace(Prune(**SMALL), ignore=("block9*",))
    with caplog.at_level(logging.WARNING, "tascnet"):
        check_options(options, tuned, EXAMPLE, widens=False)
    assert "`block9*`, which matches no layer" in caplog.text
