"""The filters of a width group as matrices."""

from collections.abc import Iterable

from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.surgery import WidthGroup

# Rows of inner products that are computed at a time, up to the diagonal alone.
_ROWS = 256


def layer_weight(model: nn.Module, name: str) -> Tensor:
    """The weight of a convolution or linear layer, output channels first."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def filter_matrices(model: nn.Module, group: WidthGroup, width: int | None = None) -> list[Tensor]:
    """The weights of each filter layer of a group, `n x d_layer`; gradients flow through them.

    Raises:
        SurgeryError: a layer has not `width` filters; None: those of the group.
    """
    expected = group.width if width is None else width
    matrices = [layer_weight(model, name).flatten(1) for name in group.filters]
    for name, matrix in zip(group.filters, matrices, strict=True):
        if len(matrix) != expected:
            raise SurgeryError(f"'{name}' has {len(matrix)} filters, expected {expected}")
    return matrices


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
