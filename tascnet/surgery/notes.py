"""What is found out about the channels of a chain while it is followed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tascnet.surgery.flows import Flow, Labels, filled, first, joined, varying, with_dimensions

# Labels that are no channels of a layer: of constants, weights and embeddings, and of the network's input.
CONSTANT, INPUT = 0, 1


@dataclass(frozen=True)
class Slot:
    """The labels `n` of one side of a layer, in order.

    Args:
        layer: its name.
        role: `outputs` of convolutions and linear layers, `inputs` of those without groups, `grouped` inputs
            of those with groups; `passed` on by a layer with weights for each channel, or `taken` by one
            without weights; `mixed` by an operation with statistics over the channels; `part` of a step that
            splits channels.
        labels: of the positions.
    """

    layer: str
    role: str
    labels: Labels


@dataclass(frozen=True)
class Count:
    """A whole number in a step that counts channels: those of `labels` along their dimension `dim`.

    Args:
        place: of the number in the step's argument of sizes, or of the slice in its index.
        field: of the slice: `start` or `stop`; or `index`, of a single channel; or empty.
    """

    place: int
    labels: Labels
    dim: int
    field: str = ""


@dataclass(frozen=True)
class Site:
    """A step of the block `graph` whose arguments count channels."""

    graph: str
    step: int
    counts: tuple[Count, ...]


@dataclass
class Channels:
    """What a walk along a chain found.

    Attributes:
        shape: of the output.
        count: labels that were given out.
        slots: in the order in which the layers run.
        unions: pairs of arrays of labels that belong together position by position.
        fixes: labels of channels that cannot be removed, with the reason.
        grids: labels that can be removed only if they differ along one dimension at most, with the reason.
        mixed: by name of an operation, the labels over which it computes statistics, and its dimension.
        sites: steps whose arguments count channels.
        computed: labels that a step counts by whole numbers that are computed, with the reason.
        mismatches: where labels met others than they belong to, in a walk with given labels.
    """

    shape: torch.Size = field(default_factory=torch.Size)
    count: int = INPUT + 1
    slots: list[Slot] = field(default_factory=list)
    unions: list[tuple[Labels, Labels]] = field(default_factory=list)
    fixes: list[tuple[Labels, str]] = field(default_factory=list)
    grids: list[tuple[Labels, str]] = field(default_factory=list)
    mixed: list[tuple[str, Labels, int]] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    computed: list[tuple[Labels, str]] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)


_FROM_INPUT = "coupled to the network's input"


class Notes:
    """Takes notes, and does to labels what operations do to channels.

    Args:
        outputs: labels that the layers write; None: new ones.

    Attributes:
        found: so far.
        block: the block that is being followed.
    """

    def __init__(self, outputs: Mapping[str, Labels] | None) -> None:
        self.found = Channels()
        self.block = ""
        self._outputs = outputs
        # Of labels that stand for many positions.
        self._reasons = {INPUT: _FROM_INPUT}
        # Layers and steps may run more than once.
        self._slots: dict[tuple[str, str], Labels] = {}
        self._sites: dict[tuple[str, int], Site] = {}

    def fix(self, labels: Labels, reason: str) -> None:
        self.found.fixes.append((labels, reason))

    def unite(self, a: Labels, b: Labels) -> None:
        """Labels of the same shape, or of one that broadcasts, position by position."""
        a, b = np.broadcast_arrays(a, b)
        self.meet(a, b)
        differs = (np.minimum(a, b) > INPUT) & (a != b)
        if not differs.any():
            return
        if self._outputs is None:
            self.found.unions.append((a[differs], b[differs]))
        else:
            self.found.mismatches.append(self.block)

    def meet(self, a: Labels, b: Labels) -> None:
        """Channels that are combined with what has none cannot be removed."""
        a, b = np.broadcast_arrays(a, b)
        for fixed, reason in (
            (CONSTANT, f"meets weights or constants in block '{self.block}'"),
            (INPUT, _FROM_INPUT),
        ):
            for one, other in ((a, b), (b, a)):
                if len(met := other[(one == fixed) & (other != fixed)]):
                    self.fix(met, reason)

    def slot(self, layer: str, role: str, labels: Labels) -> None:
        """Note `n` labels of a layer; a layer that ran before reads the same channels again."""
        before = self._slots.get((layer, role))
        if before is None:
            self._slots[layer, role] = labels
            self.found.slots.append(Slot(layer, role, labels))
        elif len(before) == len(labels):
            self.unite(before, labels)
        else:
            self.fix(np.concatenate([before, labels]), f"'{layer}' runs more than once")

    def site(self, site: Site) -> None:
        """Note a step that counts channels; one that ran before counts the same ones again."""
        before = self._sites.setdefault((site.graph, site.step), site)
        if before is site:
            self.found.sites.append(site)
            return
        for old, new in zip(before.counts, site.counts, strict=True):
            self.unite(old.labels, new.labels)

    def new(self, layer: str, count: int) -> Labels:
        """The labels that a layer writes."""
        if (layer, "outputs") in self._slots:
            return self._slots[layer, "outputs"]
        if self._outputs is not None:
            labels = self._outputs[layer]
        else:
            labels = np.arange(self.found.count, self.found.count + count)
            self.found.count += count
        self.slot(layer, "outputs", labels)
        return labels

    def along(self, flow: Flow, dim: int) -> Labels:
        """The labels at all positions of one dimension; what differs along others becomes one."""
        labels = flow.labels
        for other in varying(labels):
            if other != dim % labels.ndim:
                self.unite(first(labels, other), labels)
                labels = first(labels, other)
        return filled(labels, dim % labels.ndim, flow.value.shape[dim]).ravel()

    def mix(self, name: str, labels: Labels, dim: int) -> None:
        if labels.shape[dim] > 1:
            self.found.mixed.append((name, labels, dim))

    def grid(self, labels: Labels, operation: str) -> Labels:
        if len(varying(labels)) > 1:
            reason = f"channels are shuffled by {operation} in block '{self.block}'"
            self.found.grids.append((labels, reason))
        return labels

    def blocked(self, given: Iterable[Labels], count: int, reason: str) -> Labels:
        """The labels of a result of `count` dimensions without channels; no given channel can be removed."""
        reason = f"{reason} in block '{self.block}'"
        for labels in given:
            self.fix(labels, reason)
        label = CONSTANT
        if self._outputs is None:
            label, self.found.count = self.found.count, self.found.count + 1
            self._reasons[label] = reason
            self.fix(np.array([label]), reason)
        return np.full((1,) * count, label)

    def combine(self, flows: Sequence[Flow]) -> Labels:
        """The labels of a sum, a product and the like, with broadcasting."""
        count = max(flow.value.ndim for flow in flows)
        labels, *others = (with_dimensions(flow.labels, count) for flow in flows)
        shape, *shapes = ((1,) * (count - f.value.ndim) + tuple(f.value.shape) for f in flows)
        for other, other_shape in zip(others, shapes, strict=True):
            sides = ((labels, shape, other), (other, other_shape, labels))
            narrower = []
            for own, own_shape, against in sides:
                stretched = [d for d in range(count) if own.shape[d] == 1 < against.shape[d]]
                narrower.append(bool(stretched))
                if any(own_shape[d] > 1 for d in stretched):
                    # As many positions as channels, but without labels.
                    self.meet(own, against)
                    default = f"channels meet pixels in block '{self.block}'"
                    self.fix(own, default)
                    self.fix(against, self._reasons.get(int(own.flat[0]), default))
                elif stretched:
                    self.fix(own, f"is broadcast over channels in block '{self.block}'")
            if all(narrower):
                labels = self.blocked([labels, other], count, "channels of two kinds meet")
            elif narrower[0]:
                labels = other
            elif not narrower[1]:
                self.unite(labels, other)
                labels = np.where(labels > INPUT, labels, other)
            shape = tuple(max(pair) for pair in zip(shape, other_shape, strict=True))
        return labels

    def concatenation(self, flows: Sequence[Flow], dim: int) -> Flow:
        value = torch.cat([flow.value for flow in flows], dim)
        sizes = [flow.value.shape[dim] for flow in flows]
        return Flow(value, joined([flow.labels for flow in flows], sizes, dim % value.ndim))

    def reduced(self, flow: Flow, dims: Sequence[int], keepdim: bool, word: str) -> Labels:
        """The labels of a mean and the like over some dimensions."""
        labels, dims = flow.labels, [dim % flow.labels.ndim for dim in dims]
        lost = [dim for dim in varying(labels) if dim in dims]
        if lost and len(lost) == len(varying(labels)):
            labels = self.blocked([labels], labels.ndim, f"{word} over the channels")
        else:
            # Several channels become one, as in a sum of several maps.
            for dim in lost:
                self.unite(first(labels, dim), labels)
                labels = first(labels, dim)
        return labels if keepdim else np.squeeze(labels, tuple(dims))
