"""Layers whose channels are coupled, from what was found out about the channels of a chain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tascnet.surgery.channels import Classes
from tascnet.surgery.notes import Channels, Slot

Numbers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class WidthGroup:
    """Layers whose channels are coupled: removed from one, they are removed from all.

    A *unit* is the smallest set of channels that can be removed: one channel of each layer, or a whole group
    of a grouped convolution or a GroupNorm.

    Args:
        name: the first of `filters`; of further groups of its channels with `:2`, `:3` and so on after it.
        width: number of units.
        channels: output channels of the first filter layer that belong to the group, `width * bundle`.
        bundle: those in one unit.
        filters: convolutions and linear layers whose output channels these are, grouped and depthwise ones
            included, in the order in which they run.
        members: all layers that a cut touches, in that order.
        consumers: convolutions without groups and linear layers whose input channels these are (or a part of
            them), filters of the same group included.
        mixers: layers and operations that compute statistics over the channels.
        first_block: index of the block that holds the first filter layer.
        last_block: index of the last block touched.
        outputs: by filter layer the positions `width x s` of each unit among its output channels.
        passed: the same among the channels of layers that pass channels on, such as batch-norm and pooling.
        inputs: the same among the input channels of the consumers.
    """

    name: str
    width: int
    channels: int
    bundle: int
    filters: tuple[str, ...]
    members: tuple[str, ...]
    consumers: tuple[str, ...]
    mixers: tuple[str, ...] = ()
    first_block: int
    last_block: int
    outputs: Mapping[str, Tensor] = field(compare=False, repr=False)
    passed: Mapping[str, Tensor] = field(compare=False, repr=False)
    inputs: Mapping[str, Tensor] = field(compare=False, repr=False)

    @property
    def is_exact(self) -> bool:
        """Whether removing units that nothing reads leaves the network's function as it is."""
        return not self.mixers


@dataclass(frozen=True, kw_only=True)
class Uncut:
    """A convolution or linear layer with output channels that cannot be removed, and why."""

    layer: str
    reason: str


@dataclass(frozen=True)
class Coupling:
    """A width group with the classes of its units, `width` numbers in order."""

    group: WidthGroup
    units: Numbers


def couplings(found: Channels, classes: Classes, blocks: Mapping[str, int]) -> tuple[Coupling, ...]:
    """The groups of which each unit can be removed alone, in chain order.

    Args:
        blocks: by name of a block its index.
    """
    slots = [*found.slots, *_mixed(found, classes)]
    members = _units(slots, classes)
    # By class its number of a group and its place in it.
    group_of, place_of = np.full((2, len(classes.reasons)), -1)
    for number, units in enumerate(members):
        group_of[units], place_of[units] = number, np.arange(len(units))
    touched: list[list[tuple[Slot, Tensor]]] = [[] for _ in members]
    for slot in slots:
        for number, positions in _positions(slot, classes, group_of, place_of, members):
            touched[number].append((slot, positions))
    groups: list[Coupling] = []
    parts: dict[str, int] = {}
    for units, of_units in zip(members, touched, strict=True):
        layer = next(slot.layer for slot, _ in of_units if slot.role == "outputs")
        parts[layer] = parts.get(layer, 0) + 1
        name = layer if parts[layer] == 1 else f"{layer}:{parts[layer]}"
        groups.append(Coupling(_group(name, of_units, blocks), units))
    # Counted before, so that a group keeps its name when another one becomes too narrow.
    return tuple(coupling for coupling in groups if coupling.group.width > 1)


def uncut(found: Channels, classes: Classes, groups: Iterable[Coupling]) -> tuple[Uncut, ...]:
    """The layers with filters that are in no group, in the order in which they run."""
    grouped = np.zeros(len(classes.reasons), bool)
    for coupling in groups:
        grouped[coupling.units] = True
    layers = []
    for slot in found.slots:
        numbers = classes.of[slot.labels]
        if slot.role == "outputs" and not grouped[numbers].all():
            first = int(numbers[~grouped[numbers]][0])
            layers.append(Uncut(layer=slot.layer, reason=classes.reasons[first] or _why_alone(slot)))
    return tuple(layers)


def _why_alone(slot: Slot) -> str:
    return "it has one channel" if len(slot.labels) == 1 else "its channels can only be removed together"


def _mixed(found: Channels, classes: Classes) -> list[Slot]:
    """What operations compute statistics over, where they see more than one unit."""
    slots = []
    for name, labels, dim in found.mixed:
        numbers = classes.of[labels]
        if bool((numbers != numbers.take([0], dim)).any()):
            slots.append(Slot(name, "mixed", labels.ravel()))
    return slots


def _units(slots: Sequence[Slot], classes: Classes) -> list[Numbers]:
    """By group the classes of its units: those that are in the same slots, as often as one another.

    Groups are in the order of their first filter layers and then of the other slots, the one that is there
    more often first, which no cut changes; units in that of the first filter layer.
    """
    numbers = np.concatenate([np.empty(0, np.int64), *(classes.of[slot.labels] for slot in slots)])
    sources = np.repeat(np.arange(len(slots)), [len(slot.labels) for slot in slots])
    is_free = classes.free[numbers]
    if not is_free.any():
        return []
    # In the order of the classes: by pair of a class and a slot, how often it is there.
    pairs, counts = np.unique(numbers[is_free] * len(slots) + sources[is_free], return_counts=True)
    owners, places = np.divmod(pairs, len(slots))
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    keys = np.stack([places, counts], 1)
    signatures: dict[bytes, list[int]] = {}
    for start, end in zip(starts, [*starts[1:], len(owners)], strict=True):
        signatures.setdefault(keys[start:end].tobytes(), []).append(int(start))
    found: list[tuple[tuple[int, ...], Numbers]] = []
    for key, begins in signatures.items():
        signature = np.frombuffer(key, keys.dtype).reshape(-1, 2)
        at = next((int(s) for s in signature[:, 0] if slots[s].role == "outputs"), None)
        if at is not None:
            order, lowest = np.unique(classes.of[slots[at].labels], return_index=True)
            units = owners[begins]
            units = units[np.argsort(lowest[np.searchsorted(order, units)])]
            rank = (number for place, count in signature.tolist() for number in (place, -count))
            found.append(((at, *rank), units))
    return [units for _, units in sorted(found, key=lambda item: item[0])]


def _positions(
    slot: Slot,
    classes: Classes,
    group_of: Numbers,
    place_of: Numbers,
    members: Sequence[Numbers],
) -> list[tuple[int, Tensor]]:
    """By number of a group, the positions `width x s` of its units in a slot."""
    numbers = classes.of[slot.labels]
    groups, places = group_of[numbers], place_of[numbers]
    order = np.lexsort((places, groups))
    order = order[groups[order] >= 0]
    if not len(order):
        return []
    begins = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return [
        (number := int(groups[part[0]]), torch.from_numpy(part.reshape(len(members[number]), -1)))
        for part in np.split(order, begins[1:])
    ]


def _group(name: str, touched: Sequence[tuple[Slot, Tensor]], blocks: Mapping[str, int]) -> WidthGroup:
    def of(*roles: str) -> dict[str, Tensor]:
        return {slot.layer: positions for slot, positions in touched if slot.role in roles}

    outputs, inputs = of("outputs"), of("inputs")
    members = tuple(of("outputs", "inputs", "grouped", "passed"))
    own = [blocks[layer.partition(".")[0]] for layer in members]
    width, bundle = next(iter(outputs.values())).shape
    return WidthGroup(
        name=name,
        width=width,
        channels=width * bundle,
        bundle=bundle,
        filters=tuple(outputs),
        members=members,
        consumers=tuple(inputs),
        mixers=tuple(of("mixed")),
        first_block=own[members.index(next(iter(outputs)))],
        last_block=max(own),
        outputs=outputs,
        passed=of("passed", "taken"),
        inputs=inputs,
    )
