"""The kinds of choices of the space `tascnet`: where each is offered, its values, and what it changes.

A new kind is one more class here, listed in `KINDS`; one that changes something new has its own field in
`Changes`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from tascnet.models.head import head_start
from tascnet.options import Tune
from tascnet.surgery import (
    WidthGroup,
    activation_name,
    activations,
    holds_ignored,
    is_ignored,
    is_removable,
    spatial_convs,
    width_groups,
)
from tascnet.tuning.head import head_choices
from tascnet.tuning.space import Choice, Unit


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a configuration changes in the layers of a network.

    Args:
        removed: names of removed blocks.
        widths: numbers of kept channels, by group (outputs of its first layer).
        kernels: sides of kernels, by layer.
        activations: names of activations, by layer.
    """

    removed: set[str] = field(default_factory=set)
    widths: dict[str, int] = field(default_factory=dict)
    kernels: dict[str, int] = field(default_factory=dict)
    activations: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, choices: Iterable[Choice], config: Mapping[str, Any]) -> Self:
        """What a canonical configuration changes."""
        changes = cls()
        for choice in choices:
            if isinstance(choice, LayerChoice) and config[choice.name] != choice.neutral:
                choice.change(changes, config[choice.name])
        return changes


@dataclass(frozen=True, kw_only=True)
class Part:
    """The blocks of one unit.

    Args:
        chain: the network.
        blocks: indices of the unit's blocks; the first one names it.
        unit: the unit's index.
        groups: all width groups of the chain.
        options: values of the choices.
    """

    chain: nn.Sequential
    blocks: range
    unit: int
    groups: Sequence[WidthGroup]
    options: Tune

    @property
    def name(self) -> str:
        return list(self.chain._modules)[self.blocks.start]

    def layers(self, by_block: Mapping[int, Iterable[str]]) -> list[str]:
        """The layers of this part that are not spared, from those of all blocks."""
        names = (name for block in self.blocks for name in by_block.get(block, ()))
        return [name for name in names if not is_ignored(name, self.options.ignore)]


class LayerChoice(Choice):
    """A choice that changes the layers of a network."""

    @classmethod
    def found(cls, part: Part) -> Iterator[Self]:
        """The choices of this kind in a part of the chain."""
        raise NotImplementedError

    def touched(self, part: Part) -> tuple[str, ...]:
        """All layers that it acts on."""
        return self.layers

    def change(self, changes: Changes, value: Any) -> None:
        """Add to `changes` what the value changes."""
        raise NotImplementedError


class WidthChoice(LayerChoice):
    """How many channels a group of coupled layers keeps."""

    is_width: ClassVar[bool] = True

    @classmethod
    def found(cls, part: Part) -> Iterator[Self]:
        """One for each group whose first filter layer is in the part, those that are cut exactly first."""
        groups = [group for group in part.groups if group.first_block in part.blocks]
        for group in sorted(groups, key=lambda group: not group.is_exact):
            if any(is_ignored(name, part.options.ignore) for name in group.filters):
                continue
            multiple = math.lcm(part.options.round_to, group.bundle)
            if multiple >= group.channels > group.bundle > 1:
                multiple = group.bundle
            rounded = (int(share * group.channels / multiple + 0.5) for share in part.options.widths)
            counts = {max(count, 1) * multiple for count in rounded}
            if smaller := {count for count in counts if count < group.channels}:
                yield cls.ordinal(f"{group.name}.width", smaller, group.channels, part.unit, (group.name,))

    def touched(self, part: Part) -> tuple[str, ...]:
        return next(group.members for group in part.groups if group.name == self.layers[0])

    def change(self, changes: Changes, value: Any) -> None:
        changes.widths[self.layers[0]] = int(value)


class KernelChoice(LayerChoice):
    """The side of a kernel: a larger one gets zeros around the weights, a smaller one keeps their centre."""

    @classmethod
    def found(cls, part: Part) -> Iterator[Self]:
        """One for each convolution over time, and one for all others with the first one's kernel."""
        convs = {name: part.chain.get_submodule(name) for name in part.layers(spatial_convs(part.chain))}
        sizes = {name: int(conv.kernel_size[0]) for name, conv in convs.items()}  # type: ignore[index, arg-type]
        together = {name: (name,) for name, conv in convs.items() if isinstance(conv, nn.Conv1d)}
        if plain := [name for name in sizes if name not in together]:
            together[part.name] = tuple(name for name in plain if sizes[name] == sizes[plain[0]])  # type: ignore[assignment]
        for name, layers in together.items():
            size = sizes[layers[0]]
            # Between even and odd sizes the map would shift by half a pixel.
            alike = [kernel for kernel in part.options.kernels if (kernel - size) % 2 == 0]
            choice = cls.ordinal(f"{name}.kernel", alike, size, part.unit, layers)
            if len(choice.values) > 1:
                yield choice

    def change(self, changes: Changes, value: Any) -> None:
        changes.kernels.update(dict.fromkeys(self.layers, int(value)))


class ActivationChoice(LayerChoice):
    """The activation after layers."""

    @classmethod
    def found(cls, part: Part) -> Iterator[Self]:
        """One for all activations of the same kind as the first one."""
        layers = part.layers(activations(part.chain))
        kinds = {name: activation_name(part.chain.get_submodule(name)) for name in layers}
        neutral = next(iter(kinds.values()), None)
        values = tuple(dict.fromkeys([neutral or "", *part.options.activations]))
        if neutral is not None and len(values) > 1:
            yield cls(
                name=f"{part.name}.activation",
                values=values,
                neutral=neutral,
                kind="categorical",
                unit=part.unit,
                layers=tuple(name for name, kind in kinds.items() if kind == neutral),
            )

    def change(self, changes: Changes, value: Any) -> None:
        changes.activations.update(dict.fromkeys(self.layers, str(value)))


class BlockChoice(LayerChoice):
    """Whether a residual block with an identity shortcut is kept (1) or removed (0)."""

    removes_unit: ClassVar[bool] = True

    @classmethod
    def found(cls, part: Part) -> Iterator[Self]:
        """One if the part begins with such a block."""
        may_be_removed = part.options.remove_blocks and is_removable(part.chain[part.blocks.start])
        if may_be_removed and not holds_ignored(part.chain, part.name, part.options.ignore):
            yield cls.ordinal(f"{part.name}.kept", (0,), 1, part.unit, (part.name,))

    def change(self, changes: Changes, value: Any) -> None:
        changes.removed.add(self.layers[0])


# In the order of the space.
KINDS: tuple[type[LayerChoice], ...] = (WidthChoice, KernelChoice, ActivationChoice)


def discover_units(
    chain: nn.Sequential, example: Tensor, options: Tune, max_units: int | None = None
) -> tuple[Unit, ...]:
    """Unit 0, the dense head, and the tunable units before it.

    A unit is a block that holds convolutions or linear layers, with the plain layers that follow it
    (normalisation, activation, pooling). Its choices are the widths of all groups whose first filter layer
    it holds, so that all layers of a group are in the tail when the unit is trained; one kernel size for its
    spatial convolutions, or one for each convolution over time; one activation; and whether a residual block
    with an identity shortcut is kept, on which the choices inside the block depend. The pre-trained setting
    is always among the values. A block without choices is no unit.

    Args:
        chain: the network with its new softmax layer.
        example: `1 x c x h x w`.
        options: the values of the choices.
        max_units: units beside the head; None: all.

    Raises:
        SurgeryError: the chain does not take the example.
    """
    units = [Unit(index=0, block=head_start(chain), choices=head_choices(chain, options))]
    groups, end = width_groups(chain, example), head_start(chain)
    for start in reversed(range(end)):
        if max_units is not None and len(units) > max_units:
            break
        if any(isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) for layer in chain[start].modules()):
            blocks, end = range(start, end), start
            part = Part(chain=chain, blocks=blocks, unit=len(units), groups=groups, options=options)
            if found := _choices(part):
                units.append(Unit(index=part.unit, block=start, choices=found))
    return tuple(units)


def _choices(part: Part) -> tuple[Choice, ...]:
    """The choices of a unit; those inside a removable block depend on whether it is kept."""
    found: list[LayerChoice] = [choice for kind in KINDS for choice in kind.found(part)]
    for kept in BlockChoice.found(part):
        inside = f"{part.name}."
        for i, choice in enumerate(found):
            if all(layer.startswith(inside) for layer in choice.touched(part)):
                found[i] = replace(choice, only_if=kept.name)
        found.insert(0, kept)
    return tuple(found)
