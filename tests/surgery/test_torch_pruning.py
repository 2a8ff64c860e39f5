"""On plain networks groups and scores are those of torch-pruning's own dependency graph."""

from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

from tascnet.surgery import WidthGroup, all_channel_scores, width_groups
from tests.models.toys import EXAMPLE, TOYS

_READS = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)


def torch_prunings_group(graph: Any, chain: nn.Module, group: WidthGroup) -> Any:
    layer = chain.get_submodule(group.name)
    linear = isinstance(layer, nn.Linear)
    function = tp.prune_linear_out_channels if linear else tp.prune_conv_out_channels
    return graph.get_pruning_group(layer, function, list(range(group.width)))


@pytest.mark.parametrize("name", ["plain", "residual", "dense", "depthwise"])
def test_groups_and_scores_are_those_of_torch_pruning(name: str) -> None:
    chain = TOYS[name]()
    groups = width_groups(chain, EXAMPLE)
    graph = tp.DependencyGraph().build_dependency(chain, EXAMPLE)
    names = {module: layer for layer, module in chain.named_modules()}
    scores = all_channel_scores(chain, EXAMPLE, groups, "magnitude")
    for group in groups:
        theirs = torch_prunings_group(graph, chain, group)
        read: dict[str, list[int]] = {}
        touched = set()
        for dep, indices in theirs:
            if dep.target.module in names:
                layer = names[dep.target.module]
                touched.add(layer)
                if dep.handler in _READS:
                    read.setdefault(layer, []).extend(indices)
        assert touched == set(group.members)
        assert read == {layer: positions.flatten().tolist() for layer, positions in group.inputs.items()}
        if name != "depthwise":
            # It passes over depthwise layers, which count here.
            importance = tp.importance.GroupMagnitudeImportance(p=2)
            torch.testing.assert_close(scores[group.name], importance(theirs))


def test_a_criterion_gets_a_group_as_torch_pruning_makes_it() -> None:
    chain = TOYS["plain"]()
    group = next(group for group in width_groups(chain, EXAMPLE) if group.name == "conv2")
    seen = []

    def criterion(coupled: Any) -> torch.Tensor:
        for item, (dep, indices) in zip(coupled.items, coupled, strict=True):
            seen.append((dep.layer, dep.pruning_fn, len(indices), item.root_idxs[-1]))
        return torch.zeros(len(coupled[0].idxs))

    assert all_channel_scores(chain, EXAMPLE, [group], criterion)["conv2"].shape == (12,)
    assert seen == [
        (chain.conv2, tp.prune_conv_out_channels, 12, 11),
        (chain.bn2, tp.prune_batchnorm_out_channels, 12, 11),
        (chain.fc, tp.prune_linear_in_channels, 12 * 16, 11),
    ]
