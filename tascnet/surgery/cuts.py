"""What a cut does to each layer and step of a chain, and its trial on a chain without weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet.errors import SurgeryError, first_line
from tascnet.models.graph import Graph, Step
from tascnet.surgery.channels import Classes, follow, ghost_of
from tascnet.surgery.flows import Labels
from tascnet.surgery.notes import CONSTANT, Channels
from tascnet.surgery.slices import keep_channels
from tascnet.surgery.steps import rewritten

# Errors of a network that does not fit together.
MISFITS = (RuntimeError, ValueError, IndexError, AssertionError)

_ROLES = ("outputs", "inputs", "passed")


@dataclass(frozen=True)
class Cut:
    """The kept part of each layer that a cut touches.

    Args:
        layers: by name the kept indices of its `outputs`, `inputs` and of the channels `passed` on, of those
            of the three that change.
        steps: by block, the steps that count what is kept.
        lost: by class of channels, whether it is removed.
    """

    layers: Mapping[str, Mapping[str, Tensor]]
    steps: Mapping[str, tuple[Step, ...]]
    lost: NDArray[np.bool_]


def plan_cut(chain: nn.Module, found: Channels, classes: Classes, removed: Iterable[int]) -> Cut:
    """The cut that removes these classes of channels."""
    lost = np.zeros(len(classes.reasons), bool)
    lost[list(removed)] = True
    layers: dict[str, dict[str, Tensor]] = {}
    for slot in found.slots:
        kept = ~lost[classes.of[slot.labels]]
        if slot.role in _ROLES and not kept.all():
            layers.setdefault(slot.layer, {})[slot.role] = torch.from_numpy(np.flatnonzero(kept))
    steps: dict[str, list[Step]] = {}
    for site in found.sites:
        if any(lost[classes.of[count.labels]].any() for count in site.counts):
            graph = chain.get_submodule(site.graph)
            assert isinstance(graph, Graph)
            changed = steps.setdefault(site.graph, list(graph.steps))
            changed[site.step] = rewritten(
                changed[site.step], site.counts, lambda labels: ~lost[classes.of[labels]]
            )
    return Cut(layers, {name: tuple(own) for name, own in steps.items()}, lost)


def rehearse(chain: nn.Module, example: Tensor, found: Channels, classes: Classes, cut: Cut) -> None:
    """Follow the chain as it will be after a cut, and check what every layer reads there.

    Raises:
        SurgeryError: the chain does not run, gives another output, or a layer reads other channels than it
            has weights for.
    """
    ghosts = {}
    for name, kept in cut.layers.items():
        ghosts[name] = ghost_of(chain.get_submodule(name))
        keep_channels(ghosts[name], **kept)
    # The first label of each class stands for all of them.
    lowest = np.unique(classes.of, return_index=True)[1]

    def names(labels: Labels) -> Labels:
        numbers = classes.of[labels]
        kept: Labels = lowest[numbers[~cut.lost[numbers]]]
        return kept

    outputs = {slot.layer: names(slot.labels) for slot in found.slots if slot.role == "outputs"}
    try:
        after = follow(chain, example, ghosts=ghosts, steps=cut.steps, outputs=outputs)
    except MISFITS as error:
        raise SurgeryError(f"the network does not run after the cut ({first_line(error)})") from error
    if after.shape != found.shape:
        raise SurgeryError(
            f"the cut would change the output from {tuple(found.shape)} to {tuple(after.shape)}"
        )
    if after.mismatches:
        raise SurgeryError(f"coupled channels would meet others after the cut in '{after.mismatches[0]}'")
    # A grouped convolution of which one group is left is one without groups.
    read = {(slot.layer, slot.role.replace("grouped", "inputs")): slot.labels for slot in after.slots}
    for slot in found.slots:
        role, wanted = slot.role.replace("grouped", "inputs"), names(slot.labels)
        if role in _ROLES:
            given = read.get((slot.layer, role), np.empty(0, np.int64))
            # Constants are what is left of channels that no cut touches.
            if len(given) != len(wanted) or not bool(((given == wanted) | (given == CONSTANT)).all()):
                raise SurgeryError(f"'{slot.layer}' does not fit the channels that it gets after the cut")


def apply_cut(chain: nn.Module, cut: Cut) -> None:
    """Remove channels in place."""
    for name, kept in cut.layers.items():
        keep_channels(chain.get_submodule(name), **kept)
    for name, steps in cut.steps.items():
        graph = chain.get_submodule(name)
        assert isinstance(graph, Graph)
        graph.set_steps(steps)
