"""Ranking units by how little the next layers lose when their channels are folded into the others."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from tascnet.inherit.cholesky import factorised
from tascnet.inherit.filters import gram, input_positions, layer_weight, members_of
from tascnet.inherit.fold import RIDGE, fold_into
from tascnet.inherit.gradients import output_gradients
from tascnet.inherit.moments import ChannelMoments, Moments, correlations, input_moments
from tascnet.inherit.ranking import Ranking
from tascnet.surgery import WidthGroup

# Units removed between two updates, as a share of the group: one at a time would be exact, and slow for
# thousands of channels.
_CHUNK = 1 / 64
# Weights of each channel that are converted to float64 at a time, in outputs of a dense consumer.
_OUTPUTS = 256


def rank_all_by_reconstruction(
    model: nn.Module,
    inputs: Mapping[str, Mapping[str, Tensor]],
    moments: Moments,
    counts: Mapping[str, int],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> dict[str, Ranking]:
    """Rank `counts[group]` units of each group, with errors weighted by their effect on the loss.

    See `rank_by_reconstruction`. The model is set to eval mode; `batches`: inputs, labels on its device.
    """
    readers = sorted({name for group in counts for name in inputs[group]})
    weights = output_gradients(model.eval(), readers, batches)
    return {
        group: rank_by_reconstruction(model, inputs[group], moments[group], count, weights=weights)
        for group, count in counts.items()
    }


@torch.no_grad()
def rank_by_reconstruction(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    moments: Mapping[str, ChannelMoments],
    count: int,
    *,
    weights: Mapping[str, Tensor] | None = None,
    ridge: float = RIDGE,
) -> Ranking:
    """Backward elimination of the units whose channels the remaining ones replace best.

    With the channels' covariance `C` and a consumer's weights `w`, the expected squared error of its output
    is `|w_j|^2 / (C^-1)_jj` when channel `j` is removed and folded into the others (see `fold_into`); for the
    channels `J` of a unit it is `tr(w_J w_J^T ((C^-1)_JJ)^-1)`. The cheapest units (1/64 of the width at a
    time) are removed, weights and inverse updated, and so on.

    Args:
        count: units to rank, below the width.
        inputs: by consumer, the positions `n x v x r` from `input_positions`.
        moments: by consumer, those of its `n * v` channels.
        weights: by consumer, the cost of a squared error of each of its outputs, from `output_gradients`;
            None: the inverse of the consumer's output variance.
        ridge: added to the diagonal of the correlations, and raised where that leaves no solution.

    Returns:
        Units in the order of removal, and their costs, which never fall: the weighted error that a removal
        leaves, summed over outputs and consumers. With gradients as weights it is the second-order change of
        the loss, else a share of output variance. Both can be compared between groups.

    Source: the optimal brain surgeon (Hassibi and Stork 1993) for whole channels; the loss's curvature as the
        product of input moments and output gradients is that of Martens and Grosse 2015 (K-FAC), its output
        factor taken as diagonal.
    """
    consumers = [
        _Consumer(layer_weight(model, name), indices, moments[name], (weights or {}).get(name), ridge)
        for name, indices in inputs.items()
    ]
    # What no layer reads costs nothing.
    if not consumers:
        return Ranking(order=tuple(range(count)), costs=(0.0,) * count)
    width = len(next(iter(inputs.values())))
    left = torch.ones(width, dtype=torch.bool)
    chunk = max(1, int(width * _CHUNK))
    order: list[int] = []
    costs: list[float] = []
    while len(order) < count:
        each = torch.stack([consumer.costs(left) for consumer in consumers]).sum(0).where(left, torch.inf)
        cheapest = torch.sort(each, stable=True).indices[: min(chunk, count - len(order))]
        for at in cheapest.tolist():
            order.append(at)
            costs.append(max(float(each[at]), costs[-1] if costs else 0.0))
        left[cheapest] = False
        for consumer in consumers:
            consumer.remove(cheapest)
    return Ranking(order=tuple(order), costs=tuple(costs))


def hand_over(
    model: nn.Module,
    groups: Sequence[WidthGroup],
    widths: Mapping[str, int],
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    *,
    seed: int = 0,
) -> dict[str, list[int]]:
    """Choose the units to remove and fold their channels into the others, in place, before the cut.

    Args:
        model: the network or its tail; set to eval mode.
        widths: by group, units that are kept; fewer than there are.
        batches: gives inputs and labels on the network's device, the same ones at every call.
        seed: of the positions in feature maps that moments are taken from.

    Returns:
        By group, the kept units, sorted, for `narrow`.
    """
    model.eval()
    inputs = input_positions(model, groups)
    moments = input_moments(model, inputs, (samples for samples, _ in batches()), seed=seed)
    counts = {group.name: group.width - widths[group.name] for group in groups}
    rankings = rank_all_by_reconstruction(model, inputs, moments, counts, batches())
    keep = {}
    for group in groups:
        removed = rankings[group.name].order
        fold_into(model, inputs[group.name], moments[group.name], removed)
        keep[group.name] = sorted(set(range(group.width)) - set(removed))
    return keep


class _Consumer:
    """Products of a consumer's weights and inverse correlations of `n * v` channels; 0 for removed ones.

    `costs` are those of a squared error of each output; None: the inverse of their variance.
    """

    def __init__(
        self, weight: Tensor, positions: Tensor, moments: ChannelMoments, costs: Tensor | None, ridge: float
    ) -> None:
        self._size = positions.shape[1]
        indices = positions.flatten(0, 1)
        _, correlation, scale = correlations(moments)
        # Inner products of the channels' weights, in units of their standard deviations.
        self._weights = _products(weight, indices, costs).mul_(scale[:, None]).mul_(scale)
        variance = float(torch.vdot(self._weights.flatten(), correlation.flatten())) if costs is None else 1.0
        self._variance = variance if variance > 0 else 1.0
        factor = factorised(correlation, ridge)
        # With thousands of channels each such matrix takes as much memory as a layer.
        del correlation
        self._precision = torch.cholesky_inverse(factor)

    def costs(self, left: Tensor) -> Tensor:
        """`n` errors of removing each unit alone; meaningless for those that are not `left`."""
        if self._size == 1:
            return self._weights.diagonal() / self._precision.diagonal() / self._variance
        weights, precision = self._blocks(self._weights), self._blocks(self._precision)
        precision = precision.where(left[:, None, None], torch.eye(self._size, dtype=precision.dtype))
        solved = torch.cholesky_solve(weights, factorised(precision, 0.0))
        return solved.diagonal(dim1=1, dim2=2).sum(1) / self._variance

    def _blocks(self, matrix: Tensor) -> Tensor:
        """The parts `n x v x v` of a matrix that belong to one unit each."""
        parts = matrix.unflatten(1, (-1, self._size)).unflatten(0, (-1, self._size))
        return parts.diagonal(dim1=0, dim2=2).movedim(-1, 0)

    def remove(self, units: Tensor) -> None:
        """Fold the channels of units into the others."""
        channels = members_of(units.tolist(), self._size)
        across = self._precision[channels]
        solved = torch.cholesky_solve(across, factorised(across[:, channels], 0.0))
        self._precision.addmm_(across.T, solved, alpha=-1)
        # Kept channels take `f = -solved.T` of the removed ones. With `s = shared.T` and
        # `l = shared[:, channels]`, `s f.T + f s.T + f l f.T` is added in two halves.
        shared = self._weights[channels]
        half = shared[:, channels] @ solved / 2 - shared
        self._weights.addmm_(solved.T, half)
        self._weights.addmm_(half.T, solved)


def _products(weight: Tensor, indices: Tensor, costs: Tensor | None) -> Tensor:
    """Inner products `n x n` of a consumer's weights for each channel, outputs weighted by their costs."""
    places = indices.to(weight.device)
    size = max(1, _OUTPUTS // places.shape[1])
    scales = torch.ones(len(weight)) if costs is None else costs.sqrt()

    def rows() -> Iterator[Tensor]:
        for part, scale in zip(weight.split(size), scales.to(weight.device).split(size), strict=True):
            chosen = part[:, places].double()
            yield (chosen * scale.double().reshape(-1, *[1] * (chosen.dim() - 1))).transpose(0, 1).flatten(1)

    return gram(rows()).cpu()
