"""The tunable units of a chain, from the output backwards."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from tascnet.errors import ConfigError
from tascnet.models.head import head_start
from tascnet.models.surgery import (
    ACTIVATIONS,
    WidthGroup,
    activation_name,
    spatial_convs,
    width_groups,
)
from tascnet.models.surgery import activations as activation_layers
from tascnet.tune.space import Choice, Unit

__all__ = ["DROPOUT", "HIDDEN_LAYERS", "NEURONS", "discover_units"]

HIDDEN_LAYERS = "head.hidden_layers"
NEURONS = "head.neurons"
DROPOUT = "head.dropout"


def discover_units(
    chain: nn.Sequential,
    example: Tensor,
    *,
    max_units: int | None = None,
    widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    round_to: int = 8,
    kernels: Sequence[int] = (3, 5),
    activations: Sequence[str] = ("relu", "elu"),
    hidden_layers: Sequence[int] = (0, 1),
    neurons: Sequence[int] = (128, 256, 512),
    dropouts: Sequence[float] = (0.0, 0.2, 0.4),
) -> tuple[Unit, ...]:
    """Unit 0, the dense head, and the tunable units before it.

    A unit is a block that holds convolutions or linear layers together with the plain layers that follow
    it (normalisation, activation, pooling). It carries the widths of all groups whose first filter layer
    it holds, so that all layers of a group lie in the tail when the unit is trained; one kernel size for
    its spatial convolutions; one activation. The pre-trained setting is always among the values. What
    has nothing tunable is passed over.

    Args:
        chain: the network with its new softmax layer.
        example: `1 x c x h x w`.
        max_units: units beside the head; None: all.
        widths: shares of the pre-trained width.
        round_to: widths are rounded to multiples of this.
        kernels: odd kernel sizes.
        activations: names in `tascnet.models.surgery.ACTIVATIONS`.
        hidden_layers: numbers of dense layers before the softmax layer.
        neurons: of each of them.
        dropouts: probabilities before the dense layers.

    Raises:
        ConfigError: a value outside its bounds.
        SurgeryError: the chain does not take the example.
    """
    _check("widths", widths, all(0 < share <= 1 for share in widths), "shares above 0, up to 1")
    _check("kernels", kernels, all(k > 0 and k % 2 for k in kernels), "odd sizes")
    _check(
        "activations", activations, set(activations) <= set(ACTIVATIONS), "some of " + ", ".join(ACTIVATIONS)
    )
    _check("hidden_layers", hidden_layers, all(n >= 0 for n in hidden_layers), "counts")
    _check("neurons", neurons, bool(neurons) and min(neurons) > 0, "at least one positive count")
    _check("dropouts", dropouts, all(0 <= p < 1 for p in dropouts), "probabilities below 1")
    units = [_head(chain, hidden_layers, neurons, dropouts)]
    groups = width_groups(chain, example)
    for blocks in _segments(chain):
        if max_units is not None and len(units) > max_units:
            break
        unit = len(units)
        found = [
            *_width_choices(groups, blocks, unit, widths, round_to),
            *_kernel_choices(chain, blocks, unit, kernels),
            *_activation_choices(chain, blocks, unit, activations),
        ]
        if found:
            units.append(Unit(index=unit, block=blocks.start, choices=tuple(found)))
    return tuple(units)


def _check(name: str, values: Any, is_right: bool, expected: str) -> None:
    if not is_right:
        raise ConfigError(f"{name} is {list(values)}, expected {expected}")


def _segments(chain: nn.Sequential) -> Iterator[range]:
    """Ranges of block indices from the head backwards, each begun by a block that holds filters."""
    end = head_start(chain)
    for start in reversed(range(end)):
        if any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in chain[start].modules()):
            yield range(start, end)
            end = start


def _head(
    chain: nn.Sequential, hidden_layers: Iterable[int], neurons: Iterable[int], dropouts: Iterable[float]
) -> Unit:
    start = head_start(chain)
    present = [block.p for block in chain[start:] if isinstance(block, nn.Dropout)]
    dropout = float(present[-1]) if present else 0.0
    sizes = tuple(sorted(set(neurons)))
    choices = (
        _ordinal(HIDDEN_LAYERS, hidden_layers, 0, 0),
        Choice(name=NEURONS, values=sizes, neutral=sizes[0], kind="ordinal", unit=0, only_if=HIDDEN_LAYERS),
        _ordinal(DROPOUT, map(float, dropouts), dropout, 0),
    )
    return Unit(index=0, block=start, choices=choices)


def _ordinal(name: str, values: Iterable[float], neutral: float, unit: int, *layers: str) -> Choice:
    ascending = tuple(sorted({*values, neutral}))
    return Choice(name=name, values=ascending, neutral=neutral, kind="ordinal", unit=unit, layers=layers)


def _width_choices(
    groups: Iterable[WidthGroup], blocks: range, unit: int, shares: Iterable[float], round_to: int
) -> Iterator[Choice]:
    for group in groups:
        if group.first_block not in blocks:
            continue
        multiples = (max(int(share * group.width / round_to + 0.5), 1) * round_to for share in shares)
        counts = {count for count in multiples if count < group.width}
        if counts:
            yield _ordinal(f"{group.name}.width", counts, group.width, unit, group.name)


def _kernel_choices(
    chain: nn.Sequential, blocks: range, unit: int, kernels: Iterable[int]
) -> Iterator[Choice]:
    """One choice for the spatial convolutions that have the first one's kernel."""
    by_block = spatial_convs(chain)
    sizes = {name: _kernel(chain, name) for block in blocks for name in by_block.get(block, ())}
    if sizes:
        neutral = next(iter(sizes.values()))
        layers = [name for name, size in sizes.items() if size == neutral]
        choice = _ordinal(f"{_block_name(chain, blocks)}.kernel", kernels, neutral, unit, *layers)
        yield from [choice] if len(choice.values) > 1 else []


def _kernel(chain: nn.Sequential, name: str) -> int:
    layer = chain.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    return int(layer.kernel_size[0])


def _activation_choices(
    chain: nn.Sequential, blocks: range, unit: int, names: Iterable[str]
) -> Iterator[Choice]:
    """One choice for the activations of the first one's kind."""
    by_block = activation_layers(chain)
    layers = [name for block in blocks for name in by_block.get(block, ())]
    kinds = {name: activation_name(chain.get_submodule(name)) for name in layers}
    neutral = next(iter(kinds.values()), None)
    values = tuple(dict.fromkeys([neutral or "", *names]))
    if neutral is not None and len(values) > 1:
        yield Choice(
            name=f"{_block_name(chain, blocks)}.activation",
            values=values,
            neutral=neutral,
            kind="categorical",
            unit=unit,
            layers=tuple(name for name, kind in kinds.items() if kind == neutral),
        )


def _block_name(chain: nn.Sequential, blocks: range) -> str:
    return list(chain._modules)[blocks.start]
