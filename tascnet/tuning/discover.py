"""The tunable units of a chain, from the output backwards."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from tascnet.errors import ConfigError
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.grow import NORMS
from tascnet.models.head import head_start
from tascnet.surgery import (
    WidthGroup,
    activation_name,
    is_removable,
    spatial_convs,
    width_groups,
)
from tascnet.surgery import activations as activation_layers
from tascnet.tuning.space import Choice, Unit, Value

HIDDEN_LAYERS = "head.hidden_layers"
NEURONS = "head.neurons"
DROPOUT = "head.dropout"
GROWN = "head.grown"
NORM = "head.norm"
TAIL_LR = "tail.lr"

Head = Literal["new", "grow", "search"]


def discover_units(
    chain: nn.Sequential,
    example: Tensor,
    *,
    max_units: int | None = None,
    widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    round_to: int = 8,
    kernels: Sequence[int] = (3, 5),
    activations: Sequence[str] = ("relu", "elu"),
    remove_blocks: bool = True,
    lr_factors: Sequence[float] = (1.0,),
    head: Head = "new",
    grow_norms: Sequence[str] = NORMS,
    hidden_layers: Sequence[int] = (0, 1),
    neurons: Sequence[int] = (128, 256, 512),
    dropouts: Sequence[float] = (0.0, 0.2, 0.4),
) -> tuple[Unit, ...]:
    """Unit 0, the dense head, and the tunable units before it.

    A unit is a block that holds convolutions or linear layers together with the plain layers that follow
    it (normalisation, activation, pooling). It carries the widths of all groups whose first filter layer
    it holds, so that all layers of a group lie in the tail when the unit is trained; one kernel size for
    its spatial convolutions, or one for each that goes over time; one activation; and, where the block is a
    residual one with an identity shortcut, whether it is kept, on which all depends that lies wholly inside
    it. The pre-trained setting is always among the values. What has nothing tunable is passed over.

    Args:
        chain: the network with its new softmax layer.
        example: `1 x c x h x w`.
        max_units: units beside the head; None: all.
        widths: shares of the pre-trained width.
        round_to: widths are rounded to multiples of this.
        kernels: odd kernel sizes; of convolutions over time any, of which each takes those as even or odd
            as its own. A larger one keeps the function (zeros around the weights), a smaller one, down to 1,
            approximates it by the weights' centre.
        activations: names in `tascnet.models.activations.ACTIVATIONS`.
        remove_blocks: whether residual blocks with an identity shortcut may be removed.
        lr_factors: multiples of a trial's learning rate.
        head: `new` layers on the features, `grow` on the pre-trained classification layer, or `search`
            either.
        grow_norms: normalisations after that layer, some of `tascnet.models.grow.NORMS`.
        hidden_layers: numbers of dense layers before the softmax layer.
        neurons: of each of them.
        dropouts: probabilities before the dense layers.

    Raises:
        ConfigError: a value outside its bounds.
        SurgeryError: the chain does not take the example.
    """
    _check("widths", widths, all(0 < share <= 1 for share in widths), "shares above 0, up to 1")
    over_time = any(isinstance(layer, nn.Conv1d) for layer in chain.modules())
    is_right = all(k > 0 and (over_time or k % 2) for k in kernels)
    _check("kernels", kernels, is_right, "sizes above 0" if over_time else "odd sizes")
    known = set(activations) <= set(ACTIVATIONS)
    _check("activations", activations, known, "some of " + ", ".join(ACTIVATIONS))
    first = _head_choices(chain, hidden_layers, neurons, dropouts)
    first += (*grown_choices(head, grow_norms), *_lr_choices(lr_factors))
    units = [Unit(index=0, block=head_start(chain), choices=first)]
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
        if remove_blocks and is_removable(chain[blocks.start]):
            found = _with_kept(found, _block_name(chain, blocks), groups, unit)
        if found:
            units.append(Unit(index=unit, block=blocks.start, choices=tuple(found)))
    return tuple(units)


def grown_choices(head: Head, norms: Sequence[str]) -> tuple[Choice, ...]:
    """Whether the head grows on the pre-trained classification layer, and the normalisation after it.

    Args:
        head: `new` offers nothing, `grow` only to grow, `search` both.
        norms: some of `tascnet.models.grow.NORMS`; the first one is the neutral setting.

    Raises:
        ConfigError: a value outside its bounds.
    """
    _check("head", [head], head in ("new", "grow", "search"), "new, grow or search")
    if head == "new":
        return ()
    known = bool(norms) and set(norms) <= set(NORMS)
    _check("grow_norms", norms, known, "some of " + ", ".join(NORMS))
    values: tuple[Value, ...] = (1,) if head == "grow" else (0, 1)
    distinct = tuple(dict.fromkeys(norms))
    return (
        Choice(name=GROWN, values=values, neutral=values[0], kind="ordinal", unit=0),
        Choice(name=NORM, values=distinct, neutral=distinct[0], kind="categorical", unit=0, only_if=GROWN),
    )


def _check(name: str, values: Any, is_right: bool, expected: str) -> None:
    if not is_right:
        raise ConfigError(f"{name} is {list(values)}, expected {expected}")


def _segments(chain: nn.Sequential) -> Iterator[range]:
    """Ranges of block indices from the head backwards, each begun by a block that holds filters."""
    end = head_start(chain)
    for start in reversed(range(end)):
        if any(isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) for layer in chain[start].modules()):
            yield range(start, end)
            end = start


def _head_choices(
    chain: nn.Sequential, hidden_layers: Sequence[int], neurons: Sequence[int], dropouts: Sequence[float]
) -> tuple[Choice, ...]:
    _check("hidden_layers", hidden_layers, all(n >= 0 for n in hidden_layers), "counts")
    _check("neurons", neurons, bool(neurons) and min(neurons) > 0, "at least one positive count")
    _check("dropouts", dropouts, all(0 <= p < 1 for p in dropouts), "probabilities below 1")
    present = [block.p for block in chain[head_start(chain) :] if isinstance(block, nn.Dropout)]
    dropout = float(present[-1]) if present else 0.0
    sizes = tuple(sorted(set(neurons)))
    return (
        _ordinal(HIDDEN_LAYERS, hidden_layers, 0, 0),
        Choice(name=NEURONS, values=sizes, neutral=sizes[0], kind="ordinal", unit=0, only_if=HIDDEN_LAYERS),
        _ordinal(DROPOUT, map(float, dropouts), dropout, 0),
    )


def _lr_choices(factors: Sequence[float]) -> Iterator[Choice]:
    _check("lr_factors", factors, all(factor > 0 for factor in factors), "factors above 0")
    choice = _ordinal(TAIL_LR, map(float, factors), 1.0, 0)
    yield from [choice] if len(choice.values) > 1 else []


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
    """One choice for the spatial convolutions that have the first one's kernel, and each one over time."""
    by_block = spatial_convs(chain)
    sizes = {name: _kernel(chain, name) for block in blocks for name in by_block.get(block, ())}
    over_time = [name for name in sizes if isinstance(chain.get_submodule(name), nn.Conv1d)]
    choices = [
        _ordinal(f"{name}.kernel", _alike(kernels, sizes[name]), sizes[name], unit, name)
        for name in over_time
    ]
    plain = {name: size for name, size in sizes.items() if name not in over_time}
    if plain:
        neutral = next(iter(plain.values()))
        layers = [name for name, size in plain.items() if size == neutral]
        odd = _alike(kernels, neutral)
        choices.append(_ordinal(f"{_block_name(chain, blocks)}.kernel", odd, neutral, unit, *layers))
    yield from (choice for choice in choices if len(choice.values) > 1)


def _alike(kernels: Iterable[int], size: int) -> list[int]:
    """Even sizes for an even one, odd ones for an odd one: the others would move the map."""
    return [kernel for kernel in kernels if (kernel - size) % 2 == 0]


def _with_kept(choices: list[Choice], block: str, groups: Iterable[WidthGroup], unit: int) -> list[Choice]:
    """The choices of a unit and whether its block is kept; what lies wholly in the block depends on it."""
    kept = Choice(name=f"{block}.kept", values=(0, 1), neutral=1, kind="ordinal", unit=unit, layers=(block,))
    touched = {group.name: group.members for group in groups}

    def is_inside(choice: Choice) -> bool:
        layers = touched[choice.layers[0]] if choice.what == "width" else choice.layers
        return all(layer.startswith(f"{block}.") for layer in layers)

    return [kept, *(replace(c, only_if=kept.name) if is_inside(c) else c for c in choices)]


def _kernel(chain: nn.Sequential, name: str) -> int:
    layer = chain.get_submodule(name)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
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
