"""Folding by weights alone: each removed channel is taken for a multiple of one that stays."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.surgery import WidthGroup
from tascnet.surgery.layers import is_depthwise

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def fold_pairs(
    model: nn.Module, group: WidthGroup, inputs: Mapping[str, Tensor], partners: Mapping[int, int]
) -> None:
    """Add what consumers read of each removed channel to its partner's part, in place, before the cut.

    The factor is that of least squares between the two filters as the consumer's activation sees them,
    after batch-norm and with the offset, over all layers of the group; a depthwise layer multiplies it by
    its own. Filters that point away from each other share nothing through a rectifier: their factor is 0.

    Args:
        model: the network that holds the group.
        group: its layers.
        inputs: by consumer, `width x s` positions among its inputs.
        partners: by removed channel, the one that stays for it.

    Source: Kim et al. 2020, Neuron Merging, section 3, with one filter for each.
    """
    removed = torch.tensor(list(partners), dtype=torch.long)
    kept = torch.tensor(list(partners.values()), dtype=torch.long)
    stages, own = _stages(model, group)
    for name, indices in inputs.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        factors = _factors(_as_read(model, group, own, stages, name, indices), removed, kept)
        spoken = weight[:, indices[removed].to(weight.device)]
        shape = (1, -1) + (1,) * (spoken.dim() - 2)
        spoken = spoken * factors.to(weight).reshape(shape)
        # Several removed channels may have one partner.
        weight.index_add_(1, indices[kept].to(weight.device).flatten(), spoken.flatten(1, 2))


@torch.no_grad()
def nearest_kept(model: nn.Module, group: WidthGroup, removed: Sequence[int]) -> dict[int, int]:
    """For each removed channel the one that stays whose filter points most nearly where its own does."""
    stages, _ = _stages(model, group)
    directions = nn.functional.normalize(stages[0], dim=1)
    gone = torch.tensor(list(removed), dtype=torch.long)
    likeness = directions[gone] @ directions.T
    likeness[:, gone] = -torch.inf
    return dict(zip(gone.tolist(), likeness.argmax(1).tolist(), strict=True))


def _factors(stages: Sequence[Tensor], removed: Tensor, kept: Tensor) -> Tensor:
    """By how much each removed channel exceeds its partner, `m` numbers that are not negative."""
    factors = _least_squares(stages[0][removed], stages[0][kept])
    for rows in stages[1:]:
        # A depthwise kernel sees its input that much larger; the offset, last in the row, does not.
        seen = rows[removed]
        seen[:, :-1] *= factors[:, None]
        factors = _least_squares(seen, rows[kept])
    return factors


def _least_squares(removed: Tensor, kept: Tensor) -> Tensor:
    squares = (kept * kept).sum(1)
    safe = torch.where(squares > 0, squares, torch.ones_like(squares))
    return ((removed * kept).sum(1) / safe).clamp_min(0)


def _stages(model: nn.Module, group: WidthGroup) -> tuple[list[Tensor], set[str]]:
    """Rows `n x d` of the coupled filters together, then of each depthwise layer, each with its offset last.

    They are taken as they leave the batch-norm after each layer; the names of these are given too.
    """
    coupled: list[Tensor] = []
    depthwise: list[Tensor] = []
    own: set[str] = set()
    order = _in_order(model, group)
    for position, name in enumerate(order):
        if name not in group.filters:
            continue
        layer = model.get_submodule(name)
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        rows = weight.flatten(1).double().cpu()
        offset = torch.zeros(len(rows), 1, dtype=torch.float64)
        if isinstance(bias, Tensor):
            offset = bias.double().cpu()[:, None]
        rows = torch.cat([rows, offset], 1)
        norm = _norm_after(model, group, order[position + 1 :])
        if norm is not None:
            own.add(norm)
            rows = _normalised(rows, *_affine(model.get_submodule(norm)))
        (depthwise if is_depthwise(layer) else coupled).append(rows)
    return [torch.cat(coupled, 1), *depthwise], own


def _in_order(model: nn.Module, group: WidthGroup) -> list[str]:
    members = set(group.members)
    return [name for name, _ in model.named_modules() if name in members]


def _norm_after(model: nn.Module, group: WidthGroup, later: Sequence[str]) -> str | None:
    """The batch-norm of a filter layer: a member before the next filter layer and the next consumer."""
    for name in later:
        if name in group.filters or name in group.consumers:
            return None
        layer = model.get_submodule(name)
        if isinstance(layer, _NORMS) and layer.num_features == group.width:
            return name
    return None


def _as_read(
    model: nn.Module,
    group: WidthGroup,
    own: Collection[str],
    stages: Sequence[Tensor],
    consumer: str,
    indices: Tensor,
) -> list[Tensor]:
    """The stages as a consumer reads them, whose own batch-norm may stand before it (DenseNet)."""
    order = _in_order(model, group)
    before = order[order.index(consumer) - 1]
    norm = model.get_submodule(before)
    if before in own or not isinstance(norm, _NORMS):
        return list(stages)
    scale, shift = (value[indices[:, 0]] for value in _affine(norm))
    return [*stages[:-1], _normalised(stages[-1], scale, shift)]


def _normalised(rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Rows behind a batch-norm; the offset is the last entry of each."""
    scaled = rows * scale[:, None]
    scaled[:, -1] += shift
    return scaled


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch-norm in eval mode."""
    mean, var = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        raise TypeError("a batch-norm without running statistics has no fixed scale")
    scale = (var.double() + float(norm.eps)).rsqrt().cpu()
    if isinstance(norm.weight, Tensor):
        scale = scale * norm.weight.double().cpu()
    shift = -mean.double().cpu() * scale
    if isinstance(norm.bias, Tensor):
        shift = shift + norm.bias.double().cpu()
    return scale, shift
