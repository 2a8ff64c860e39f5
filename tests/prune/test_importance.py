"""torch-pruning's own pruner removes just the filters that the history chose."""

import pytest
import torch
import torch_pruning as tp

from tascnet.models.surgery import layer_widths, narrow, width_groups
from tascnet.prune import CRITERIA, HistoryImportance
from tests.models.toys import EXAMPLE, TOYS


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("plain", {"conv2": [0, 5, 11], "fc": [9]}),
        ("residual", {"stem": [1, 2], "b0.body.conv2": [0, 3, 8], "b1.body.conv1": [7]}),
        ("depthwise", {"i0.conv1": [3], "i1.body.conv1": [0, 11]}),
        ("dense", {"d0.body.conv2": [1], "transition.conv": [2, 4]}),
    ],
)
def test_the_stock_pruner_removes_the_choice(name: str, removed: dict[str, list[int]]) -> None:
    ours, theirs = TOYS[name](), TOYS[name]()
    groups = width_groups(ours, EXAMPLE)
    widths = {group.name: group.width for group in groups}
    keep = {key: sorted(set(range(widths[key])) - set(gone)) for key, gone in removed.items()}
    narrow(ours, EXAMPLE, keep)
    ratios = {theirs.get_submodule(key): len(gone) / widths[key] for key, gone in removed.items()}
    pruner = tp.pruner.BasePruner(
        theirs,
        EXAMPLE,
        importance=HistoryImportance(theirs, groups, removed),
        pruning_ratio=0.0,
        pruning_ratio_dict=ratios,
        ignored_layers=[theirs.classifier],
    )
    pruner.step()
    assert layer_widths(theirs) == layer_widths(ours)
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key


def test_groups_without_a_choice_are_skipped() -> None:
    chain = TOYS["plain"]()
    groups = width_groups(chain, EXAMPLE)
    criterion = HistoryImportance(chain, groups, {"conv2": [1], "fc": []})
    graph = tp.DependencyGraph().build_dependency(chain, EXAMPLE)
    conv1, conv2 = (
        graph.get_pruning_group(layer, tp.prune_conv_out_channels, range(layer.out_channels))
        for layer in (chain.conv1, chain.conv2)
    )
    fc = graph.get_pruning_group(chain.fc, tp.prune_linear_out_channels, range(10))
    assert criterion(conv1) is None
    assert criterion(fc) is None
    scores = criterion(conv2)
    assert scores is not None
    assert scores.tolist() == [1.0, 0.0] + [1.0] * 10


def test_stock_criteria_are_at_hand() -> None:
    assert set(CRITERIA) == {"magnitude", "fpgm", "lamp", "random"}
