"""Before a cut: removed channels are folded into the kept ones, by activations, by weights, or as averages.

A consumer reads channels `x` with weights `w`. By activations each removed channel is predicted from the kept
ones by least squares, `x_r = sum_k b_kr x_k + a_r`, and its weights are added to theirs,
`w_k += sum_r b_kr w_r`; the constant goes to the consumer's bias, or, where it has none, is left to the
batch-norm after it, whose statistics are measured again. By weights each removed channel counts as a multiple
of one kept channel.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.inherit.cholesky import factorised
from tascnet.inherit.filters import layer_weight, members_of
from tascnet.inherit.moments import ChannelMoments, correlations
from tascnet.surgery import WidthGroup
from tascnet.surgery.layers import BATCH_NORMS

# Keeps the weights small where channels are nearly dependent or samples few.
RIDGE = 1e-3


@torch.no_grad()
def fold_into(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    moments: Mapping[str, ChannelMoments],
    removed: Sequence[int],
    *,
    ridge: float = RIDGE,
) -> None:
    """Fold the removed units of one group into all kept ones by activations, in place, before the cut.

    Every channel of a removed unit is predicted from those of all kept units.

    Args:
        inputs: by consumer, the positions `n x v x r` from `input_positions`.
        moments: by consumer, those of its `n * v` channels.
        removed: units.

    The ridge is added to the diagonal of the correlations between kept channels, and raised where that
    leaves no solution. A removed channel that does not vary becomes a constant.

    Source: the least-squares view of Kim et al., Neuron Merging, NeurIPS 2020, over all kept channels.
    """
    for name, positions in inputs.items():
        units, size, _ = positions.shape
        indices = positions.flatten(0, 1)
        wanted = members_of(removed, size)
        given = members_of(sorted(set(range(units)) - set(removed)), size)
        mean, correlation, scale = correlations(moments[name])
        scale = scale.where(scale > 0, 1.0)
        matrix = correlation[given][:, given]
        target = correlation[given][:, wanted]
        # A ridge makes the matrix definite; without one it may be singular.
        if ridge:
            scaled = torch.cholesky_solve(target, factorised(matrix, ridge))
        else:
            scaled = torch.linalg.lstsq(matrix, target, driver="gelsd").solution
        factors = scaled / scale[given, None] * scale[wanted]
        constants = mean[wanted] - mean[given] @ factors
        weight, bias = layer_weight(model, name), model.get_submodule(name).bias
        lost = weight[:, indices[wanted].to(weight.device)]
        weight[:, indices[given].to(weight.device)] += torch.einsum(
            "ors...,kr->oks...", lost, factors.to(weight)
        )
        if isinstance(bias, Tensor):
            bias += torch.einsum("ors...,r->o", lost, constants.to(weight))


@torch.no_grad()
def fold_pairs(model: nn.Module, group: WidthGroup, partners: Mapping[int, int]) -> None:
    """Fold each removed unit of a group into one kept unit by weights, in place, before the cut.

    The factor is that of least squares between the filters of both after batch-norm, with the offset, over
    all layers of the group; a grouped layer multiplies it by its own. Filters that point away from each other
    share nothing through a rectifier: their factor is 0.

    Args:
        partners: by removed unit, the kept one that it is folded into.

    Source: Kim et al. 2020, Neuron Merging, section 3, with one filter for each.
    """
    removed = torch.tensor(list(partners), dtype=torch.long)
    kept = torch.tensor(list(partners.values()), dtype=torch.long)
    stages, own_norms = _stages(model, group)
    for name, indices in group.inputs.items():
        weight, read = layer_weight(model, name), list(stages)
        # A consumer's own batch-norm may stand before it, behind a concatenation.
        before = group.members[max(group.members.index(name) - 1, 0)]
        norm, positions = model.get_submodule(before), group.passed.get(before)
        if (
            before not in own_norms
            and isinstance(norm, BATCH_NORMS)
            and norm.running_mean is not None
            and positions is not None
            and positions.shape[1] == read[-1].shape[1]
        ):
            read[-1] = _normalised(read[-1], *(value[positions] for value in _affine(norm)))
        factors = _factors(read, removed, kept)
        lost = weight[:, indices[removed].to(weight.device)]
        lost = lost * factors.to(weight).reshape((1, -1) + (1,) * (lost.dim() - 2))
        # Several removed channels may have one partner.
        weight.index_add_(1, indices[kept].to(weight.device).flatten(), lost.flatten(1, 2))


@torch.no_grad()
def nearest_kept(model: nn.Module, group: WidthGroup, removed: Sequence[int]) -> dict[int, int]:
    """For each removed unit the kept one whose filters have the most similar direction."""
    stages, _ = _stages(model, group)
    directions = nn.functional.normalize(stages[0].flatten(1), dim=1)
    channels = torch.tensor(list(removed), dtype=torch.long)
    similarity = directions[channels] @ directions.T
    similarity[:, channels] = -torch.inf
    return dict(zip(channels.tolist(), similarity.argmax(1).tolist(), strict=True))


def _stages(model: nn.Module, group: WidthGroup) -> tuple[list[Tensor], set[str]]:
    """Rows `n x s x d` of the coupled filters together, then of each grouped layer; offsets come last.

    They are taken behind the batch-norm that follows each layer; the names of these batch-norms come second.
    """
    coupled: list[Tensor] = []
    grouped: list[Tensor] = []
    norms: set[str] = set()
    for position, name in enumerate(group.members):
        if name not in group.filters:
            continue
        layer: Any = model.get_submodule(name)
        rows = layer_weight(model, name).flatten(1).double().cpu()
        offset = rows.new_zeros(len(rows), 1) if layer.bias is None else layer.bias.double().cpu()[:, None]
        places = group.outputs[name]
        rows = torch.cat([rows, offset], 1)[places]
        for following in group.members[position + 1 :]:
            if following in group.filters or following in group.consumers:
                break
            norm, at = model.get_submodule(following), group.passed.get(following)
            if isinstance(norm, BATCH_NORMS) and norm.running_mean is None:
                # Its scale is each batch's.
                break
            is_whole = isinstance(norm, BATCH_NORMS) and norm.num_features == len(offset)
            if is_whole and at is not None and torch.equal(at, places):
                norms.add(following)
                rows = _normalised(rows, *(value[at] for value in _affine(norm)))
                break
        (grouped if getattr(layer, "groups", 1) > 1 else coupled).append(rows)
    # Layers of a concatenation may have different numbers of channels in a unit.
    if len({rows.shape[1] for rows in coupled}) > 1:
        coupled = [rows.flatten(1)[:, None] for rows in coupled]
    return [torch.cat(coupled, 2), *grouped] if coupled else grouped, norms


def _normalised(rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Rows `n x s x d` behind a batch-norm with scale and shift `n x s`."""
    scaled = rows * scale[..., None]
    scaled[..., -1] += shift
    return scaled


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch-norm in eval mode."""
    scale = (norm.running_var.double() + float(norm.eps)).rsqrt().cpu()
    if norm.weight is not None:
        scale = scale * norm.weight.double().cpu()
    shift = -norm.running_mean.double().cpu() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double().cpu()


def _factors(stages: Sequence[Tensor], removed: Tensor, kept: Tensor) -> Tensor:
    """The multiple of each kept row that is nearest to the removed one, `m` numbers that are not negative."""
    factors = stages[0].new_ones(len(removed))
    for rows in stages:
        # A grouped layer sees its input that much larger; the offset, last in the row, does not change.
        seen, partners = rows[removed], rows[kept]
        seen[..., :-1] *= factors[:, None, None]
        squares = (partners * partners).sum((1, 2))
        factors = ((seen * partners).sum((1, 2)) / squares.where(squares > 0, 1.0)).clamp_min(0)
    return factors


@torch.no_grad()
def average_into(
    model: nn.Module, group: WidthGroup, kept: Sequence[int], removed: Sequence[int], l1: Tensor
) -> None:
    """Replace the filters of each kept unit by the weighted average of its pair, in place, before the cut.

    Biases, and what layers that pass the channels on hold for each of them (affine values and statistics of
    normalisation, scales), are averaged alike.

    Args:
        kept: one member of each pair.
        removed: the other member.
        l1: `n` norms of the units' filters, see `pair_weights`.
    """
    keeps, drops = torch.as_tensor(list(kept)), torch.as_tensor(list(removed))
    weights = pair_weights(l1[keeps], l1[drops])
    for name, positions in (*group.outputs.items(), *group.passed.items()):
        size = positions.shape[1]
        for value in _by_channel(model.get_submodule(name)):
            a, b = (
                weight.to(value).repeat_interleave(size).reshape((-1,) + (1,) * (value.dim() - 1))
                for weight in weights
            )
            at, other = (positions[units].flatten().to(value.device) for units in (keeps, drops))
            value[at] = a * value[at] + b * value[other]


def _by_channel(layer: nn.Module) -> Iterator[Tensor]:
    """What a layer holds for each of its channels, as views in which these come first."""
    for value in (*layer.parameters(), *layer.buffers()):
        if longer := [axis for axis, size in enumerate(value.shape) if size > 1]:
            yield value.movedim(longer[0], 0)


def pair_weights(l1_kept: Tensor, l1_removed: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the two members of each pair, `1 - l1 / (l1_a + l1_b)`; halves where both are zero.

    Source: Basha et al. 2022, TASCNet, weighted average of a pair.
    """
    total = l1_kept + l1_removed
    kept = torch.where(total > 0, 1 - l1_kept / total.where(total > 0, 1.0), 0.5)
    return kept, 1 - kept
