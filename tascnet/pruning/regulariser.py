"""Penalties before a cut: one makes the members of pairs more similar, one the removed filters small."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.inherit.filters import filter_matrices
from tascnet.surgery import WidthGroup

# Below this share of the loss's gradient the penalty moves nothing within an epoch.
INERT_RATIO = 1e-6
# Largest weight of the growing penalty, as published.
CEILING = 1.0
# Squared norm below which a filter counts as dead.
_DEAD = 1e-16


def pair_similarities(matrices: Sequence[Tensor], pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Cosine similarity of the filters of each of `p` pairs, float32, 0 where a filter is zero.

    Args:
        matrices: one `n x d_layer` matrix for each layer; a filter is its rows one after another.
        pairs: `p` pairs of rows.
    """
    device = matrices[0].device
    first, second = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2).unbind(1)
    sums = [
        torch.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)])
        for a, b in ((matrix[first].float(), matrix[second].float()) for matrix in matrices)
    ]
    dot, square_a, square_b = torch.stack(sums).sum(0)
    # A dead filter has no direction: its pair counts as 0 and gets no gradient, which would be infinite.
    alive = (square_a > _DEAD) & (square_b > _DEAD)
    one = torch.ones_like(dot)
    norms = torch.where(alive, square_a, one).sqrt() * torch.where(alive, square_b, one).sqrt()
    return torch.where(alive, dot, torch.zeros_like(dot)) / norms


def pair_penalty(similarities: Mapping[str, Tensor], kind: str) -> Tensor:
    """The penalty, a scalar, for the similarities of each group's pairs; lower is more similar.

    Args:
        similarities: by group, the cosine similarities of its pairs; groups without pairs do not count.
        kind: `per_group_mean`: the sum over groups of exp(-mean similarity of its pairs);
            `sum`: exp(-sum of all similarities), as published, which vanishes with many pairs.

    Source: Basha et al. 2022, TASCNet, regulariser of the optimisation phase (`sum`).
    """
    groups = [values for values in similarities.values() if len(values)]
    if not groups:
        return torch.zeros(())
    if kind == "sum":
        return torch.exp(-torch.cat(groups).sum())
    return torch.stack([torch.exp(-values.mean()) for values in groups]).sum()


class PairRegulariser:
    """The penalty of a network's pairs (by group name); `kind` is that of `pair_penalty`."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[WidthGroup],
        pairs: Mapping[str, Sequence[tuple[int, int]]],
        kind: str = "per_group_mean",
    ) -> None:
        self._model = model
        self._groups = {group.name: group for group in groups if pairs.get(group.name)}
        self._pairs = {name: list(pairs[name]) for name in self._groups}
        self._kind = kind

    def _values(self) -> dict[str, Tensor]:
        return {
            name: pair_similarities(filter_matrices(self._model, group.outputs), self._pairs[name])
            for name, group in self._groups.items()
        }

    def __call__(self) -> Tensor:
        """The penalty of the network as it is now."""
        return pair_penalty(self._values(), self._kind)

    def parameters(self) -> list[nn.Parameter]:
        """The weights that the penalty moves."""
        layers = (self._model.get_submodule(name) for g in self._groups.values() for name in g.filters)
        return [weight for layer in layers if isinstance(weight := layer.weight, nn.Parameter)]

    def similarities(self) -> dict[str, float]:
        """By group, the mean cosine similarity of its pairs now."""
        with torch.no_grad():
            return {name: float(values.mean()) for name, values in self._values().items()}


def gradient_ratio(penalty: Tensor, loss: Tensor, parameters: Iterable[nn.Parameter]) -> float:
    """Euclidean norm of the penalty's gradient against the loss's; infinite where only the loss's is zero.

    Frozen parameters are left out. Below `INERT_RATIO` the penalty is inert.
    """
    moving = [parameter for parameter in parameters if parameter.requires_grad]
    norms = []
    for value in (penalty, loss):
        squares = []
        if value.requires_grad and moving:
            gradients = torch.autograd.grad(value, moving, retain_graph=True, allow_unused=True)
            squares = [g.double().square().sum() for g in gradients if g is not None]
        norms.append(float(torch.stack(squares).sum().sqrt()) if squares else 0.0)
    above, below = norms
    if below == 0:
        return float("inf") if above > 0 else 0.0
    return above / below


class GrowingPenalty:
    """L2 penalty of the units that are going to be removed, whose weight grows with every epoch.

    It covers all that makes the channels of a unit: filters and biases, and the scale and shift of
    normalisation. It is a `Recorder`, too, so that a checkpoint holds how far it has grown.

    Args:
        model: the network, which keeps its layers.
        groups: its width groups.
        removed: by group name, units.
        epochs: after which the penalty of a parameter `w` would be `CEILING w^2 / 2`.

    Source: Wang et al. 2021, Neural pruning via growing regularization (GReg-1), section 3.2; here the
    penalty grows once an epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[WidthGroup],
        removed: Mapping[str, Sequence[int]],
        epochs: int,
    ) -> None:
        self._epochs, self._grown = epochs, 0
        device = next(model.parameters()).device
        self._parts: list[tuple[nn.Parameter, Tensor]] = []
        for group in groups:
            units = list(removed.get(group.name, ()))
            for name, positions in {**group.outputs, **group.passed}.items() if units else ():
                rows = positions[units].flatten().unique().to(device)
                own = model.get_submodule(name).named_parameters(recurse=False)
                self._parts += [(value, rows) for key, value in own if key in ("weight", "bias")]

    @property
    def strength(self) -> float:
        """The weight of the penalty in this epoch."""
        return CEILING * min(self._grown + 1, self._epochs) / self._epochs

    def __call__(self) -> Tensor:
        """The penalty of the network as it is now, a scalar."""
        return 0.5 * self.strength * self._squares()

    def norm(self) -> float:
        """Euclidean norm of all that is penalised."""
        with torch.no_grad():
            return float(self._squares().sqrt())

    def record(self, model: nn.Module) -> None:
        """Grow after an epoch."""
        self._grown += 1

    def state_dict(self) -> dict[str, Any]:
        return {"grown": self._grown}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._grown = int(state["grown"])

    def _squares(self) -> Tensor:
        return torch.stack([value[rows].float().square().sum() for value, rows in self._parts]).sum()
