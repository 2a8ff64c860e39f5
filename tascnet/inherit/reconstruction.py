"""Which channels the next layers miss least, once the others speak for them."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from tascnet.inherit.filters import gram
from tascnet.inherit.fold import RIDGE, correlations
from tascnet.inherit.gradients import output_gradients
from tascnet.inherit.ranking import Ranking

# Channels that go between two updates of the statistics, as a share of the group: one at a time is exact,
# and slow for thousands of channels.
_CHUNK = 1 / 64
# Outputs of a consumer whose weights are taken to float64 at a time.
_OUTPUTS = 256


def rank_all_by_reconstruction(
    model: nn.Module,
    inputs: Mapping[str, Mapping[str, Tensor]],
    moments: Mapping[str, Mapping[str, Tensor]],
    counts: Mapping[str, int],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> dict[str, Ranking]:
    """`rank_by_reconstruction` of several groups, errors weighed by what they cost the loss.

    Args:
        model: the network or its tail; set to eval mode.
        inputs: by group, what its consumers read, from `consumer_inputs`.
        moments: by group, from `input_moments`.
        counts: by group, channels to rank.
        batches: inputs and labels on the network's device.
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
    moments: Mapping[str, Tensor],
    count: int,
    *,
    weights: Mapping[str, Tensor] | None = None,
    ridge: float = RIDGE,
) -> Ranking:
    """Backward elimination of the channels whose loss the remaining ones can make up for best.

    With channels `x`, their covariance `C` and a consumer's weights `w`, the consumer's output changes by
    `|w_j|^2 / (C^-1)_jj` when channel `j` goes and least squares fold it into the others (see `fold_into`).
    The cheapest channel goes, weights and inverse are updated, and so on.

    Args:
        model: the network that holds the group.
        inputs: by consumer, `width x s` positions among its inputs.
        moments: by consumer, `(width + 1) x (width + 1)`, from `input_moments`.
        count: channels to rank, below the width.
        weights: by consumer, what a squared error of each of its outputs costs, from `output_gradients`;
            None: all cost the inverse of the consumer's output variance.
        ridge: added to the diagonal of the correlations.

    Returns:
        `count` channels; a removal costs the weighted error that it leaves, added up over outputs and
        consumers: with gradients as weights the second-order change of the loss, else shares of output
        variance. Both compare between groups.

    Source: the optimal brain surgeon (Hassibi and Stork 1993) for whole channels; the loss's curvature as the
        product of input moments and output gradients is that of Martens and Grosse 2015 (K-FAC), its output
        factor taken as diagonal.
    """
    states = [
        _State.of(
            model.get_submodule(name),
            inputs[name],
            moments[name],
            None if weights is None else weights[name],
            ridge,
        )
        for name in inputs
    ]
    width = len(next(iter(inputs.values())))
    stays = torch.ones(width, dtype=torch.bool)
    chunk = max(1, int(width * _CHUNK))
    order: list[int] = []
    costs: list[float] = []
    while len(order) < count:
        each = torch.stack([state.costs() for state in states]).sum(0).where(stays, torch.inf)
        cheapest = torch.sort(each, stable=True).indices[: min(chunk, count - len(order))]
        for at in cheapest.tolist():
            order.append(at)
            costs.append(max(float(each[at]), costs[-1] if costs else 0.0))
        stays[cheapest] = False
        for state in states:
            state.remove(cheapest)
    return Ranking(order=tuple(order), costs=tuple(costs))


class _State:
    """One consumer's view of `n` channels; the rows and columns of those that have gone are 0.

    Args:
        precision: `n x n` inverse of the ridged correlations.
        weights: `n x n` inner products of the channels' weights, in units of their standard deviations.
        variance: of the consumer's output; 1 where errors have weights.
    """

    def __init__(self, precision: Tensor, weights: Tensor, variance: float) -> None:
        self._precision = precision
        self._weights = weights
        self._variance = variance

    @classmethod
    def of(
        cls, layer: nn.Module, indices: Tensor, moment: Tensor, weights: Tensor | None, ridge: float
    ) -> "_State":
        _, correlation, scale = correlations(moment)
        products = _products(layer, indices, weights).mul_(scale[:, None]).mul_(scale)
        variance = float(torch.vdot(products.flatten(), correlation.flatten())) if weights is None else 1.0
        correlation.diagonal().add_(ridge)
        factor = torch.linalg.cholesky(correlation)
        del correlation
        return cls(torch.cholesky_inverse(factor), products, variance if variance > 0 else 1.0)

    def costs(self) -> Tensor:
        """`n` errors that go with each channel alone; of no meaning for those that have gone."""
        return self._weights.diagonal() / self._precision.diagonal() / self._variance

    def remove(self, gone: Tensor) -> None:
        """Fold channels into the others and forget them."""
        across = self._precision[gone]
        solved = torch.linalg.solve(across[:, gone], across)
        self._precision.addmm_(across.T, solved, alpha=-1)
        # A channel takes over `f = -solved.T` of those that go, which themselves give up all. With the
        # products `s` that it shares with them and `l` of them alone, `s f.T + f s.T + f l f.T` is added in
        # two halves.
        shared = self._weights[gone]
        half = shared[:, gone] @ solved / 2 - shared
        self._weights.addmm_(solved.T, half)
        self._weights.addmm_(half.T, solved)


def _products(layer: nn.Module, indices: Tensor, weights: Tensor | None) -> Tensor:
    """Inner products `n x n` of a consumer's weights for each channel, by parts of the outputs."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    places = indices.to(weight.device)
    size = max(1, _OUTPUTS // places.shape[1])
    scales = torch.ones(len(weight)) if weights is None else weights.sqrt()

    def rows() -> Iterator[Tensor]:
        for part, scale in zip(weight.split(size), scales.to(weight.device).split(size), strict=True):
            chosen = part[:, places].double()
            yield (chosen * scale.double().reshape(-1, *[1] * (chosen.dim() - 1))).transpose(0, 1).flatten(1)

    return gram(rows()).cpu()
