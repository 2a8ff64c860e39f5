"""The filters of a width group as matrices."""

from collections.abc import Iterable

from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.surgery import WidthGroup

# Rows of a matrix of inner products that are computed together: only blocks up to the diagonal are.
_ROWS = 256


def layer_weight(model: nn.Module, name: str) -> Tensor:
    """The weight of a convolution or linear layer, output channels first."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def filter_matrices(model: nn.Module, group: WidthGroup, width: int | None = None) -> list[Tensor]:
    """The weights of each filter layer of a group, one row a filter; gradients flow through them.

    Args:
        model: the network that holds the group.
        group: its layers.
        width: number of filters expected; None: the group's.

    Returns:
        One `n x d_layer` matrix for each filter layer.

    Raises:
        SurgeryError: a layer has another number of filters.
    """
    expected = group.width if width is None else width
    weights = {name: layer_weight(model, name) for name in group.filters}
    for name, weight in weights.items():
        if weight.shape[0] != expected:
            raise SurgeryError(f"'{name}' has {weight.shape[0]} filters, expected {expected}")
    return [weight.flatten(1) for weight in weights.values()]


def gram(parts: Iterable[Tensor]) -> Tensor:
    """Inner products of the rows of a matrix that comes in parts.

    Args:
        parts: the matrix's columns, `n x d_part` each, of any float type.

    Returns:
        `n x n`, float64, on the device of the parts.
    """
    total: Tensor | None = None
    for part in parts:
        columns = part.double()
        if total is None:
            total = columns.new_zeros(len(columns), len(columns))
        for start in range(0, len(columns), _ROWS):
            stop = start + _ROWS
            total[start:stop, :stop].addmm_(columns[start:stop], columns[:stop].T)
    assert total is not None, "a matrix has columns"
    # Written over what the blocks on the diagonal have above it.
    total.tril_()
    return total.add_(total.tril(-1).T)
