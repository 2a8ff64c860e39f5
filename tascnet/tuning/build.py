"""The network of a configuration: the tail of the chain, changed by surgery, with inherited weights."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.head import classifier_of, head_start
from tascnet.surgery import (
    Shortener,
    Trace,
    WidthGroup,
    all_channel_scores,
    block_of,
    narrow,
    replace_layer,
    set_activation,
    set_kernel,
    shape_after,
    without_blocks,
)
from tascnet.tuning.choices import Changes
from tascnet.tuning.head import TAIL_LR, SearchedHead
from tascnet.tuning.space import Space

# What the coupled layers of a tail depend on: cut, exit, removed blocks, and the head if it is grown.
_Start: TypeAlias = tuple[int, int, frozenset[str], SearchedHead | None]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The trained part of a configuration's network.

    Args:
        tail: the blocks from `cut` on, copied and changed; the trunk is `chain[:cut]`.
        cut: index in the chain of the first trained block, or of the first removed one where the head alone
            is trained at an exit.
        first_changed: index in `tail` of the first block whose structure or input was changed; None: the
            structure is the pre-trained one.
        lr_factor: by which the recipe's learning rate is multiplied.
        frozen: dotted names of layers in `tail` that keep their pre-trained weights, in eval mode.
        new_head: whether its head has layers that have never been trained.
    """

    tail: nn.Sequential
    cut: int
    first_changed: int | None
    lr_factor: float = 1.0
    frozen: tuple[str, ...] = ()
    new_head: bool = False


class Share(NamedTuple):
    """Units of a group that were in another one before blocks were removed, and that one's channels."""

    group: str
    units: int
    channels: int


class HandOver(Protocol):
    """Chooses the kept units of a tail's groups, and may fold the removed ones into them."""

    def __call__(
        self,
        tail: nn.Sequential,
        cut: int,
        groups: Sequence[WidthGroup],
        widths: Mapping[str, int],
        first_changed: int | None,
    ) -> Mapping[str, list[int]]:
        """Change the consumers of the groups in place, and return the kept units by group.

        The tail, which begins at block `cut` of the chain, has the configuration's blocks, kernels and
        activations; its `first_changed` is that so far. `widths` are numbers of kept units by group.
        """


class CandidateBuilder:
    """Builds the candidates of one space.

    Shapes at the cuts, coupled layers and the importance of channels are computed once for all candidates,
    so the chain and its weights must not change.

    Args:
        chain: the pre-trained network with its trained softmax layer; it is not changed.
        space: made of `discover_units(chain, ...)`.
        example: `1 x c x h x w`, one sample as the chain takes it.
        importance: criterion of the kept channels, one of `tascnet.surgery.CRITERIA`.
        classifier: the pre-trained classification layer, if the head may grow on it.
        magnitude: root-mean-square of that layer's outputs on the training data.
        seed: of the weights of new layers, and of random importance.
        hand_over: chooses what is kept in place of `importance`.
        heads: softmax layers of networks that end earlier, by exit; where one is missing it is new.
    """

    def __init__(
        self,
        chain: nn.Sequential,
        space: Space,
        example: Tensor,
        *,
        importance: str = "magnitude",
        classifier: nn.Linear | None = None,
        magnitude: float | None = None,
        seed: int = 0,
        hand_over: HandOver | None = None,
        heads: Mapping[int, nn.Linear] | None = None,
    ) -> None:
        self._chain, self._space, self._example = chain, space, example
        self._num_classes = classifier_of(chain).out_features
        self._importance = importance
        self._classifier, self._magnitude = classifier, magnitude
        self._seed, self._hand_over = seed, hand_over
        self._heads = heads or {}
        self._shortener: Shortener | None = None
        self._ended = {0: chain}
        self._probes: dict[int, Tensor] = {}
        self._traces: dict[_Start, Trace] = {}
        self._wholes: dict[int, tuple[WidthGroup, ...]] = {}
        self._scores: dict[_Start, dict[str, Tensor]] = {}

    def __call__(self, config: Mapping[str, Any]) -> Candidate:
        """Copy the tail that a configuration trains, and give it the configuration's structure.

        A block is removed with the activation after its sum: its input has passed the activation of the
        block before. Without hidden layers the trained softmax layer is kept, with its weights. At an exit
        the network's own pooling and the head follow the block before the first removed unit.

        Raises:
            SurgeryError: the structure is impossible.
        """
        config = self._space.canonical(config)
        changes = Changes.of(self._space.choices, config)
        searched = SearchedHead.of(config)
        cut, exit = self._space.cut(config), self._space.exit_of(config)
        chain, removed = self._ended_at(exit), frozenset(changes.removed)
        tail, changed = without_blocks(chain[cut:], removed)
        tail = copy.deepcopy(tail).requires_grad_(True)
        if exit:
            following = list(chain._modules)[self._space.units[exit].block]
            changed.append(list(tail._modules).index(following))
        head = head_start(tail)
        # A kept classification layer is cut with the features; a new layer is made for those that are left.
        if searched.is_grown:
            tail = self._with_head(tail, searched)
        if self._hand_over is not None:
            changed += _change_layers(tail, changes)
        start = (cut, exit, removed, searched if searched.is_grown else None)
        changed += self._narrow(tail, start, changes.widths, min(changed, default=None))
        if self._hand_over is None:
            changed += _change_layers(tail, changes)
        if not searched.is_grown:
            tail = self._with_head(tail, searched)
        if searched.is_new:
            changed.append(head)
        check_output(tail, self._probe(cut), self._num_classes)
        return Candidate(
            tail=tail.requires_grad_(True),
            cut=cut,
            first_changed=min(changed, default=None),
            lr_factor=float(config.get(TAIL_LR, 1.0)),
            new_head=searched.is_new or (exit > 0 and exit not in self._heads),
        )

    def _ended_at(self, exit: int) -> nn.Sequential:
        """The pre-trained network that ends at an exit."""
        if exit not in self._ended:
            self._shortener = self._shortener or Shortener(self._chain, self._example)
            block, head = self._space.units[exit].block, self._heads.get(exit)
            self._ended[exit] = self._shortener.network(block, head, seed=self._seed)
        return self._ended[exit]

    def _probe(self, cut: int) -> Tensor:
        """Zeros of the shape in which one sample reaches a tail."""
        if cut not in self._probes:
            features = shape_after(self._chain[:cut], self._example)
            self._probes[cut] = torch.zeros_like(features, device="cpu")
        return self._probes[cut]

    def _whole(self, cut: int) -> tuple[WidthGroup, ...]:
        """The groups of a tail with all its blocks."""
        if cut not in self._wholes:
            self._wholes[cut] = Trace(self._chain[cut:], self._probe(cut)).groups
        return self._wholes[cut]

    def _with_head(self, tail: nn.Sequential, searched: SearchedHead) -> nn.Sequential:
        return searched.on(
            tail,
            self._num_classes,
            classifier=self._classifier,
            magnitude=self._magnitude,
            seed=self._seed,
        )

    def _narrow(
        self, tail: nn.Sequential, start: _Start, widths: Mapping[str, int], first_changed: int | None
    ) -> list[int]:
        """Make groups narrower, and return the indices of their first blocks."""
        if not widths:
            return []
        if start not in self._traces:
            self._traces[start] = Trace(tail, self._probe(start[0]))
        trace = self._traces[start]
        whole = self._whole(start[0]) if start[1] or start[2] else trace.groups
        if missing := widths.keys() - {group.name for group in whole}:
            raise SurgeryError(f"the group '{min(missing)}' cannot be made narrower in the trained tail")
        units = kept_units(whole, trace.groups, widths)
        groups = [group for group in trace.groups if group.name in units]
        if self._hand_over is not None:
            keep = self._hand_over(tail, start[0], groups, units, first_changed)
        else:
            scores = self._scores.setdefault(start, {})
            if new := [group for group in groups if group.name not in scores]:
                scores |= all_channel_scores(tail, trace, new, self._importance, self._seed)
            ranked = {name: torch.argsort(scores[name], descending=True, stable=True) for name in units}
            keep = {name: sorted(ranked[name][:count].tolist()) for name, count in units.items()}
        narrow(tail, trace, keep)
        return [group.first_block for group in groups]


def kept_units(
    before: Iterable[WidthGroup], after: Iterable[WidthGroup], widths: Mapping[str, int]
) -> dict[str, int]:
    """Widths of the groups of a tail, as units of its groups after blocks were removed.

    Without a block fewer channels are coupled, and groups that differed only in it are one. A group that
    several have become keeps the sum of what they keep; each group that one has become keeps its share.

    Args:
        before: the groups of the tail.
        after: those without the removed blocks.
        widths: kept channels by group of `before`.

    Returns:
        Kept units by group of `after`, where any are removed.
    """
    after = list(after)
    shares = channel_shares((group for group in before if group.name in widths), after)
    lost = {group.name: lost_units(shares[group.name], widths) for group in after}
    return {group.name: group.width - lost[group.name] for group in after if lost[group.name]}


def channel_shares(before: Iterable[WidthGroup], after: Iterable[WidthGroup]) -> dict[str, tuple[Share, ...]]:
    """By group of `after`, the groups of `before` that its units belong to; see `kept_units`."""
    old_groups = list(before)
    found = {}
    for group in after:
        layer, positions = next(iter(group.outputs.items()))
        found[group.name] = tuple(
            Share(old.name, int(torch.isin(positions[:, 0], old.outputs[layer]).sum()), old.channels)
            for old in old_groups
            if layer in old.outputs
        )
    return found


def lost_units(shares: Iterable[Share], widths: Mapping[str, int]) -> int:
    """The units that a group loses where the groups of its shares keep `widths` channels."""
    return sum(s.units * (s.channels - widths[s.group]) // s.channels for s in shares if s.group in widths)


def check_output(tail: nn.Sequential, features: Tensor, num_classes: int) -> None:
    """Refuse a tail whose output is not one value for each class.

    Raises:
        SurgeryError: it is not.
    """
    shape = tuple(shape_after(tail, features).shape)
    if shape != (1, num_classes):
        raise SurgeryError(f"the output of the network has the shape {shape}, expected {(1, num_classes)}")


def _change_layers(tail: nn.Sequential, changes: Changes) -> list[int]:
    """Change kernels and activations outside removed blocks, and return the indices of their blocks."""
    kernels, activations = (
        [name for name in names if name.partition(".")[0] not in changes.removed]
        for names in (changes.kernels, changes.activations)
    )
    for name in kernels:
        conv = tail.get_submodule(name)
        assert isinstance(conv, nn.Conv1d | nn.Conv2d)
        replace_layer(tail, name, set_kernel(conv, changes.kernels[name]))
    for name in activations:
        set_activation(tail, name, changes.activations[name])
    return [block_of(tail, name) for name in (*kernels, *activations)]
