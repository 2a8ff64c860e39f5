"""Before a cut: removed channels are folded into the kept ones, by activations, by weights, or as averages.

A consumer reads channels `x` with weights `w`. By activations each removed channel is predicted from the kept
ones by least squares, `x_r = sum_k b_kr x_k + a_r`, and its weights are added to theirs in these proportions,
`w_k += sum_r b_kr w_r`; the constant goes to the consumer's bias, or, where it has none, is left to the
batch-norm after it, whose statistics are measured again. Where channels are linearly dependent the network's
function stays as it is. By weights each removed channel counts as a multiple of one kept channel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.inherit.filters import layer_weight
from tascnet.inherit.moments import correlations
from tascnet.surgery import WidthGroup, is_depthwise
from tascnet.surgery.layers import BATCH_NORMS

# Added to the diagonal of the correlations: keeps the weights small where channels are nearly dependent
# or samples few.
RIDGE = 1e-3


@torch.no_grad()
def fold_into(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    removed: Sequence[int],
    *,
    ridge: float = RIDGE,
) -> None:
    """Fold the removed channels of one group into all kept ones by activations, in place, before the cut.

    Args:
        model: the network that holds the group.
        inputs: by consumer, `width x s` positions among its inputs.
        moments: by consumer, from `input_moments`.
        removed: channels that are about to be removed.
        ridge: added to the diagonal of the correlations between kept channels.

    Source: the least-squares view of Kim et al., Neuron Merging, NeurIPS 2020, over all kept channels.
    """
    dropped = set(removed)
    for name, indices in inputs.items():
        kept = [channel for channel in range(len(indices)) if channel not in dropped]
        weight, bias = layer_weight(model, name), model.get_submodule(name).bias
        factors, constants = (part.to(weight) for part in _prediction(moments[name], kept, removed, ridge))
        lost = weight[:, indices[list(removed)].to(weight.device)]
        weight[:, indices[kept].to(weight.device)] += torch.einsum("ors...,kr->oks...", lost, factors)
        if isinstance(bias, Tensor):
            bias += torch.einsum("ors...,r->o", lost, constants)


def _prediction(
    moment: Tensor, kept: Sequence[int], removed: Sequence[int], ridge: float
) -> tuple[Tensor, Tensor]:
    """Factors `kept x removed` and constants `removed` of the least-squares prediction."""
    mean, correlation, scale = correlations(moment)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    given, wanted = torch.tensor(list(kept)), torch.tensor(list(removed))
    matrix = correlation[given][:, given] + ridge * torch.eye(len(kept), dtype=moment.dtype)
    target = correlation[given][:, wanted]
    # A ridge makes the matrix definite; without one it may be singular.
    if ridge:
        scaled = torch.linalg.solve(matrix, target)
    else:
        scaled = torch.linalg.lstsq(matrix, target, driver="gelsd").solution
    factors = scaled / scale[given, None] * scale[wanted]
    return factors, mean[wanted] - mean[given] @ factors


@torch.no_grad()
def fold_pairs(
    model: nn.Module, group: WidthGroup, inputs: Mapping[str, Tensor], partners: Mapping[int, int]
) -> None:
    """Fold each removed channel of a group into one kept channel by weights, in place, before the cut.

    The factor is that of least squares between the two filters as the consumer's activation sees them,
    after batch-norm and with the offset, over all layers of the group; a depthwise layer multiplies it by
    its own. Filters that point away from each other share nothing through a rectifier: their factor is 0.

    Args:
        model: the network that holds the group.
        group: its layers.
        inputs: by consumer, `width x s` positions among its inputs.
        partners: by removed channel, the kept one that it is folded into.

    Source: Kim et al. 2020, Neuron Merging, section 3, with one filter for each.
    """
    removed = torch.tensor(list(partners), dtype=torch.long)
    kept = torch.tensor(list(partners.values()), dtype=torch.long)
    stages, own_norms = _stages(model, group)
    for name, indices in inputs.items():
        weight, read = layer_weight(model, name), list(stages)
        # A consumer's own batch-norm may stand before it (DenseNet).
        before = group.members[group.members.index(name) - 1]
        norm = model.get_submodule(before)
        if before not in own_norms and isinstance(norm, BATCH_NORMS):
            read[-1] = _normalised(read[-1], *(value[indices[:, 0]] for value in _affine(norm)))
        factors = _factors(read, removed, kept)
        lost = weight[:, indices[removed].to(weight.device)]
        lost = lost * factors.to(weight).reshape((1, -1) + (1,) * (lost.dim() - 2))
        # Several removed channels may have one partner.
        weight.index_add_(1, indices[kept].to(weight.device).flatten(), lost.flatten(1, 2))


@torch.no_grad()
def nearest_kept(model: nn.Module, group: WidthGroup, removed: Sequence[int]) -> dict[int, int]:
    """For each removed channel the kept one whose filter has the most similar direction."""
    stages, _ = _stages(model, group)
    directions = nn.functional.normalize(stages[0], dim=1)
    channels = torch.tensor(list(removed), dtype=torch.long)
    similarity = directions[channels] @ directions.T
    similarity[:, channels] = -torch.inf
    return dict(zip(channels.tolist(), similarity.argmax(1).tolist(), strict=True))


def _stages(model: nn.Module, group: WidthGroup) -> tuple[list[Tensor], set[str]]:
    """Rows `n x d` of the coupled filters together, then of each depthwise layer, each with its offset last.

    They are taken as they leave the batch-norm after each layer; the names of these are given too.
    """
    coupled: list[Tensor] = []
    depthwise: list[Tensor] = []
    norms: set[str] = set()
    for position, name in enumerate(group.members):
        if name not in group.filters:
            continue
        layer: Any = model.get_submodule(name)
        rows = layer.weight.flatten(1).double().cpu()
        offset = rows.new_zeros(len(rows), 1) if layer.bias is None else layer.bias.double().cpu()[:, None]
        rows = torch.cat([rows, offset], 1)
        norm = _norm_after(model, group, position)
        if norm is not None:
            norms.add(norm)
            rows = _normalised(rows, *_affine(model.get_submodule(norm)))
        (depthwise if is_depthwise(layer) else coupled).append(rows)
    return [torch.cat(coupled, 1), *depthwise], norms


def _norm_after(model: nn.Module, group: WidthGroup, position: int) -> str | None:
    """The batch-norm of a filter layer: a member before the next filter layer and the next consumer."""
    for name in group.members[position + 1 :]:
        if name in group.filters or name in group.consumers:
            return None
        layer = model.get_submodule(name)
        if isinstance(layer, BATCH_NORMS) and layer.num_features == group.width:
            return name
    return None


def _normalised(rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Rows behind a batch-norm; the offset is the last entry of each."""
    scaled = rows * scale[:, None]
    scaled[:, -1] += shift
    return scaled


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch-norm in eval mode."""
    if norm.running_mean is None:
        raise TypeError("a batch-norm without running statistics has no fixed scale")
    scale = (norm.running_var.double() + float(norm.eps)).rsqrt().cpu()
    if norm.weight is not None:
        scale = scale * norm.weight.double().cpu()
    shift = -norm.running_mean.double().cpu() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double().cpu()


def _factors(stages: Sequence[Tensor], removed: Tensor, kept: Tensor) -> Tensor:
    """By how much each removed channel exceeds its partner, `m` numbers that are not negative."""
    factors = _multiple(stages[0][removed], stages[0][kept])
    for rows in stages[1:]:
        # A depthwise kernel sees its input that much larger; the offset, last in the row, does not.
        seen = rows[removed]
        seen[:, :-1] *= factors[:, None]
        factors = _multiple(seen, rows[kept])
    return factors


def _multiple(removed: Tensor, kept: Tensor) -> Tensor:
    """The factor at which each kept row is nearest to the removed one."""
    squares = (kept * kept).sum(1)
    safe = torch.where(squares > 0, squares, torch.ones_like(squares))
    return ((removed * kept).sum(1) / safe).clamp_min(0)


@torch.no_grad()
def average_into(
    model: nn.Module, group: WidthGroup, kept: Sequence[int], removed: Sequence[int], l1: Tensor
) -> None:
    """Replace each kept filter by the weighted average of its pair, in place, before the cut.

    Filters, biases, and the affine values and statistics of normalisation layers are averaged alike.

    Args:
        model: the network that holds the group.
        group: its layers.
        kept: the member of each pair that is kept.
        removed: the other member.
        l1: `n` norms of the group's filters; the weight of each member is 1 - l1 / (sum of both).
    """
    keeps, drops = torch.as_tensor(list(kept)), torch.as_tensor(list(removed))
    weights = pair_weights(l1[keeps], l1[drops])
    for name in group.members:
        layer: Any = model.get_submodule(name)
        if name in group.filters:
            values = [value for value in (layer.weight, layer.bias) if value is not None]
        elif name not in group.consumers:
            # A normalisation that reads a concatenation has more channels than the group: it stays as it is.
            values = [v for v in (*layer.parameters(), *layer.buffers()) if v.shape[:1] == (group.width,)]
        else:
            continue
        for value in values:
            a, b = (weight.to(value).reshape((-1,) + (1,) * (value.dim() - 1)) for weight in weights)
            at, other = keeps.to(value.device), drops.to(value.device)
            value[at] = a * value[at] + b * value[other]


def pair_weights(l1_kept: Tensor, l1_removed: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the two members of each pair, `1 - l1 / (l1_a + l1_b)`; halves where both are zero.

    Source: Basha et al. 2022, TASCNet, weighted average of a pair.
    """
    total = l1_kept + l1_removed
    safe = total.where(total > 0, torch.ones_like(total))
    kept = torch.where(total > 0, 1 - l1_kept / safe, 0.5)
    return kept, 1 - kept
