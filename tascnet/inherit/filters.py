"""The filters of a width group as matrices, and where the layers after it read its channels."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.surgery import WidthGroup
from tascnet.surgery.layers import CONVS

_ON_MAPS = (*CONVS, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
# Rows of inner products that are computed at a time, up to the diagonal alone.
_ROWS = 256


def layer_weight(model: nn.Module, name: str) -> Tensor:
    """The weight of a convolution or linear layer, output channels first."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def filter_matrices(model: nn.Module, outputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The weights of each filter layer of a group, `n x d_layer`; gradients flow through them.

    Args:
        outputs: by layer, the positions `n x s` of each unit among its outputs.

    Raises:
        SurgeryError: a layer has fewer filters.
    """
    matrices = []
    for name, positions in outputs.items():
        weight = layer_weight(model, name)
        if (expected := int(positions.max()) + 1) > len(weight):
            raise SurgeryError(f"'{name}' has {len(weight)} filters, expected at least {expected}")
        matrices.append(weight[positions.to(weight.device)].flatten(1))
    return matrices


def input_positions(model: nn.Module, groups: Iterable[WidthGroup]) -> dict[str, dict[str, Tensor]]:
    """By group and consumer, the positions `n x v x r` of its channels among the consumer's inputs.

    Each unit has `v` channels there, and each of them `r` pixels where a map was flattened before a linear
    layer, else one.
    """
    return {
        group.name: {
            name: positions.reshape(group.width, -1, _pixels(model, group, name))
            for name, positions in group.inputs.items()
        }
        for group in groups
    }


def _pixels(model: nn.Module, group: WidthGroup, consumer: str) -> int:
    """Pixels of each channel that a linear layer reads as inputs of its own."""
    positions = group.inputs[consumer]
    if not isinstance(model.get_submodule(consumer), nn.Linear):
        return 1
    # Layers on maps show how many channels a unit has there.
    of_maps = [
        given.shape[1]
        for name, given in (*group.outputs.items(), *group.passed.items())
        if isinstance(model.get_submodule(name), _ON_MAPS)
    ]
    pixels = positions.shape[1] // max(of_maps, default=positions.shape[1])
    if pixels < 2 or positions.shape[1] % pixels:
        return 1
    runs = positions.reshape(group.width, -1, pixels)
    return pixels if bool((runs.diff(dim=2) == 1).all()) else 1


def members_of(units: Sequence[int], size: int) -> Tensor:
    """Indices of all channels of some units, each of which has `size`."""
    return (torch.tensor(list(units), dtype=torch.long)[:, None] * size + torch.arange(size)).flatten()


def gram(parts: Iterable[Tensor]) -> Tensor:
    """Inner products `n x n` in float64 of the rows of a matrix, whose columns come in parts `n x d_part`."""
    total: Tensor | None = None
    for part in parts:
        columns = part.double()
        if total is None:
            total = columns.new_zeros(len(columns), len(columns))
        for start in range(0, len(columns), _ROWS):
            stop = start + _ROWS
            total[start:stop, :stop].addmm_(columns[start:stop], columns[:stop].T)
    assert total is not None, "a matrix has columns"
    # Above the diagonal only parts are filled.
    total.tril_()
    return total.add_(total.tril(-1).T)
