"""A configuration's network: the tail of the chain, changed by surgery, with inherited weights."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.grow import grow_head
from tascnet.models.head import HeadSpec, head_start, replace_head, with_dropout
from tascnet.surgery import (
    WidthGroup,
    all_channel_scores,
    block_of,
    narrow,
    replace_layer,
    set_activation,
    set_kernel,
    width_groups,
    without_blocks,
)
from tascnet.surgery.rebuild import shape_after
from tascnet.tuning.discover import DROPOUT, GROWN, HIDDEN_LAYERS, NEURONS, NORM, TAIL_LR
from tascnet.tuning.space import FIRST_TRAINED, Choice, Configuration, Space

# What the coupled layers of a tail depend on: the cut, the blocks removed, and whether the head has grown.
_Start: TypeAlias = tuple[int, frozenset[str], bool]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The trained part of a configuration's network.

    Args:
        tail: the blocks from `cut` on, copied and changed, all trainable; the trunk is `chain[:cut]`.
        cut: index in the chain of the first trained block.
        first_changed: index in `tail` of the first block whose structure or input was changed: of a
            removed block the one after it, of a new head the first new one; None where the structure is
            the pre-trained one.
        lr_factor: multiple of the recipe's learning rate with which the tail learns.
        frozen: dotted names of layers in `tail` that keep their pre-trained weights, in eval mode.
    """

    tail: nn.Sequential
    cut: int
    first_changed: int | None
    lr_factor: float = 1.0
    frozen: tuple[str, ...] = ()


class HandOver(Protocol):
    """Chooses the channels that stay, and may let them speak for the others."""

    def __call__(
        self,
        tail: nn.Sequential,
        cut: int,
        example: Tensor,
        groups: Sequence[WidthGroup],
        widths: Mapping[str, int],
        first_changed: int | None,
    ) -> Mapping[str, list[int]]:
        """Change what reads the groups, in place, and give the channels that stay, by group.

        Args:
            tail: the blocks from `cut` on, with the configuration's blocks, kernels and activations.
            cut: index in the chain of the tail's first block.
            example: one sample as the tail takes it.
            groups: those that become narrower.
            widths: by group, channels that stay.
            first_changed: index in `tail` of the first block whose structure or input was changed so far.
        """


class CandidateBuilder:
    """Builds the candidates of one space, and remembers what they have in common.

    The shapes at the cuts, the coupled layers and the importance of their channels are found once for each
    structure that they depend on, so the chain and its weights must stay as they are.

    Args:
        chain: the pre-trained network with its trained softmax layer; left as it is.
        space: made of `discover_units(chain, ...)`.
        example: `1 x c x h x w`, one sample as the chain takes it.
        num_classes: outputs of the network.
        importance: criterion of the channels that stay, one of `tascnet.surgery.CRITERIA`.
        classifier: the pre-trained classification layer, where the head may grow on it; copied.
        magnitude: root-mean-square of that layer's outputs on the training data.
        seed: of the weights of new layers, and of random importance.
        hand_over: chooses the channels that stay, in place of `importance`, which is then not asked.
    """

    def __init__(
        self,
        chain: nn.Sequential,
        space: Space,
        example: Tensor,
        *,
        num_classes: int,
        importance: str = "magnitude",
        classifier: nn.Linear | None = None,
        magnitude: float | None = None,
        seed: int = 0,
        hand_over: HandOver | None = None,
    ) -> None:
        self._chain = chain
        self._space = space
        self._example = example
        self._num_classes = num_classes
        self._importance = importance
        self._classifier = classifier
        self._magnitude = magnitude
        self._seed = seed
        self._hand_over = hand_over
        self._probes: dict[int, Tensor] = {}
        self._groups: dict[_Start, dict[str, WidthGroup]] = {}
        self._scores: dict[_Start, dict[str, Tensor]] = {}

    def __call__(self, config: Mapping[str, Any]) -> Candidate:
        """Copy the tail that a configuration trains and give it the configuration's structure.

        Blocks that are not kept go whole, with the activation after their sum: what enters them has been
        through the one before. Narrower groups keep their most important channels, or those that `hand_over`
        gives, which sees the tail with its other changes made; larger kernels get zeros
        around their weights, smaller ones keep the centre, and without hidden layers the given softmax
        layer stays, with its weights.

        Args:
            config: a configuration of the space.

        Raises:
            SurgeryError: the structure is impossible.
        """
        config = self._space.canonical(config)
        changes = [c for c in self._space.active(config) if config[c.name] != c.neutral]
        cut = self._space.units[int(config[FIRST_TRAINED])].block
        removed = frozenset(choice.layers[0] for choice in changes if choice.what == "kept")
        tail, changed = without_blocks(self._chain[cut:], removed)
        tail = copy.deepcopy(tail).requires_grad_(True)
        head = head_start(tail)
        # A kept classification layer loses its inputs with the channels; a new layer is made for those left.
        if is_grown(config):
            tail = self._with_head(tail, config)
        start = (cut, removed, is_grown(config))
        if self._hand_over is not None:
            changed += _change_layers(tail, changes, removed, config)
        widths = [choice for choice in changes if choice.what == "width"]
        changed += self._narrow(tail, start, widths, config, min(changed, default=None))
        if self._hand_over is None:
            changed += _change_layers(tail, changes, removed, config)
        if not is_grown(config):
            tail = self._with_head(tail, config)
        if is_grown(config) or config[HIDDEN_LAYERS]:
            changed.append(head)
        _check_output(tail, self._probe(cut), self._num_classes)
        return Candidate(
            tail=tail.requires_grad_(True),
            cut=cut,
            first_changed=min(changed, default=None),
            lr_factor=float(config.get(TAIL_LR, 1.0)),
        )

    def _probe(self, cut: int) -> Tensor:
        """Zeros of the shape in which one sample reaches a tail."""
        if cut not in self._probes:
            features = shape_after(self._chain[:cut], self._example)
            self._probes[cut] = torch.zeros_like(features, device="cpu")
        return self._probes[cut]

    def _with_head(self, tail: nn.Sequential, config: Configuration) -> nn.Sequential:
        return with_head_of(
            tail,
            config,
            self._num_classes,
            classifier=self._classifier,
            magnitude=self._magnitude,
            seed=self._seed,
        )

    def _narrow(
        self,
        tail: nn.Sequential,
        start: _Start,
        choices: Sequence[Choice],
        config: Configuration,
        first_changed: int | None,
    ) -> list[int]:
        """Make groups narrower; gives the indices of their first blocks."""
        if not choices:
            return []
        features = self._probe(start[0])
        if start not in self._groups:
            self._groups[start] = {group.name: group for group in width_groups(tail, features)}
        wanted = {choice.layers[0]: int(config[choice.name]) for choice in choices}
        if missing := wanted.keys() - self._groups[start].keys():
            raise SurgeryError(
                f"the group '{min(missing)}' cannot be made narrower in the tail that is trained"
            )
        groups = [self._groups[start][name] for name in wanted]
        if self._hand_over is not None:
            keep = self._hand_over(tail, start[0], features, groups, wanted, first_changed)
        else:
            scores = self._scores_of(tail, start, groups)
            keep = {name: _most_important(scores[name], n) for name, n in wanted.items()}
        narrow(tail, features, keep)
        return [group.first_block for group in groups]

    def _scores_of(self, tail: nn.Sequential, start: _Start, groups: list[WidthGroup]) -> dict[str, Tensor]:
        known = self._scores.setdefault(start, {})
        new = [group for group in groups if group.name not in known]
        if new:
            known |= all_channel_scores(tail, self._probe(start[0]), new, self._importance, self._seed)
        return known


def build_candidate(
    chain: nn.Sequential,
    space: Space,
    config: Mapping[str, Any],
    example: Tensor,
    *,
    num_classes: int,
    importance: str = "magnitude",
    classifier: nn.Linear | None = None,
    magnitude: float | None = None,
    seed: int = 0,
) -> Candidate:
    """One configuration's candidate; see `CandidateBuilder`, which is faster for many.

    Raises:
        SurgeryError: the structure is impossible.
    """
    build = CandidateBuilder(
        chain,
        space,
        example,
        num_classes=num_classes,
        importance=importance,
        classifier=classifier,
        magnitude=magnitude,
        seed=seed,
    )
    return build(config)


def is_grown(config: Mapping[str, Any]) -> bool:
    """Whether a configuration's head grows on the pre-trained classification layer."""
    return bool(config.get(GROWN, 0))


def with_head_of(
    tail: nn.Sequential,
    config: Mapping[str, Any],
    num_classes: int,
    *,
    classifier: nn.Linear | None = None,
    magnitude: float | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """A tail with the same features and a configuration's head.

    Args:
        tail: ends in a softmax layer, which stays where the head has no hidden layers and does not grow.
        config: a configuration; its choices of the head count.
        num_classes: outputs of a new softmax layer.
        classifier: the pre-trained classification layer on the tail's features.
        magnitude: root-mean-square of its outputs.
        seed: of new weights.

    Raises:
        SurgeryError: the head is to grow, and the layer or its magnitude is not given.
    """
    dropout = float(config[DROPOUT])
    hidden = (int(config[NEURONS]),) * int(config[HIDDEN_LAYERS])
    spec = HeadSpec(hidden=hidden, dropout=dropout)
    if is_grown(config):
        if classifier is None or magnitude is None:
            raise SurgeryError(
                "a head is to grow on the pre-trained classification layer, which is not given",
                "give classifier and magnitude",
            )
        norm = str(config[NORM])
        return grow_head(tail, classifier, spec, norm, num_classes, magnitude=magnitude, seed=seed)
    return replace_head(tail, spec, num_classes, seed=seed) if hidden else with_dropout(tail, dropout)


def _most_important(scores: Tensor, count: int) -> list[int]:
    """The channels with the highest scores, in their own order."""
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())


def _change_layers(
    tail: nn.Sequential, changes: Sequence[Choice], removed: frozenset[str], config: Configuration
) -> Iterator[int]:
    """Give layers other kernels and activations; gives the indices of their blocks."""
    for choice in changes:
        present = [name for name in choice.layers if name.partition(".")[0] not in removed]
        for name in present:
            if choice.what == "kernel":
                conv = tail.get_submodule(name)
                assert isinstance(conv, nn.Conv1d | nn.Conv2d)
                replace_layer(tail, name, set_kernel(conv, int(config[choice.name])))
            elif choice.what == "activation":
                set_activation(tail, name, str(config[choice.name]))
            else:
                continue
            yield block_of(tail, name)


def _check_output(tail: nn.Sequential, features: Tensor, num_classes: int) -> None:
    shape = tuple(shape_after(tail, features).shape)
    if shape != (1, num_classes):
        raise SurgeryError(f"the network gives an output of shape {shape}, expected {(1, num_classes)}")
