"""How filters moved through training, in memory that does not grow with the epochs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.inherit.filters import filter_matrices, gram
from tascnet.run.files import write_whole
from tascnet.surgery import WidthGroup

# The file of a recorded history, beside a network.
HISTORY = "history.safetensors"
# Columns of a filter matrix that are taken to float64 at a time: bounds the memory of wide linear layers.
_COLUMNS = 4096


class FilterHistory:
    """Inner products and L1 norms of the trajectories of units, each with filters of all layers of its group.

    The inner product of two trajectories is the sum over epochs `e` and the group's filter layers `l` of
    `<w_eli, w_elj>`, so that one `n x n` matrix a group holds all that cosine similarity needs. It is kept in
    float64: near-duplicate filters differ in the last digits of a float32 cosine.

    Earlier epochs keep a filter's weights for inputs that were removed since.
    """

    def __init__(self, groups: Sequence[WidthGroup]) -> None:
        # By group and layer, where the units' filters are now.
        self._outputs = {group.name: dict(group.outputs) for group in groups}
        self._gram = {g.name: torch.zeros(g.width, g.width, dtype=torch.float64) for g in groups}
        self._l1 = {g.name: torch.zeros(g.width, dtype=torch.float64) for g in groups}
        self.epochs = 0

    @torch.no_grad()
    def record(self, model: nn.Module) -> None:
        """Add the filters as they are now.

        Raises:
            SurgeryError: a layer has fewer filters than the history.
        """
        matrices = {name: filter_matrices(model, outputs) for name, outputs in self._outputs.items()}
        for name, layers in matrices.items():
            for matrix in layers:
                self._gram[name] += gram(matrix.split(_COLUMNS, dim=1)).cpu()
                self._l1[name] += matrix.abs().sum(1, dtype=torch.float64).cpu()
        self.epochs += 1

    def fits(self, groups: Iterable[WidthGroup]) -> bool:
        """Whether it records the units of all these groups."""

        def is_recorded(group: WidthGroup) -> bool:
            outputs = self._outputs.get(group.name, {})
            return outputs.keys() == group.outputs.keys() and all(
                torch.equal(positions, group.outputs[layer]) for layer, positions in outputs.items()
            )

        return all(is_recorded(group) for group in groups)

    def similarity(self, name: str) -> Tensor:
        """`n x n` cosine similarities of the trajectories of a group; 0 between a zero filter and others."""
        gram = self._gram[name]
        norms = gram.diagonal().clamp_min(0).sqrt()
        scale = norms[:, None] * norms[None, :]
        cosine = torch.where(scale > 0, gram / scale.where(scale > 0, torch.ones(())), 0.0)
        return cosine.clamp(-1, 1).fill_diagonal_(1.0)

    def l1(self, name: str) -> Tensor:
        """`n` L1 norms of a group's filters, summed over the epochs."""
        return self._l1[name].clone()

    def keep(self, kept: Mapping[str, Sequence[int]]) -> None:
        """Forget all units but the `kept` ones of these groups, which are cut together."""
        removed: dict[str, list[Tensor]] = {}
        for name, indices in kept.items():
            at = torch.as_tensor(list(indices), dtype=torch.long)
            gone = torch.ones(len(self._l1[name]), dtype=torch.bool)
            gone[at] = False
            for layer, positions in self._outputs[name].items():
                removed.setdefault(layer, []).append(positions[gone].flatten())
                self._outputs[name][layer] = positions[at]
            self._gram[name] = self._gram[name][at][:, at]
            self._l1[name] = self._l1[name][at]
        below = {layer: torch.cat(parts).sort().values for layer, parts in removed.items()}
        for outputs in self._outputs.values():
            for layer in outputs.keys() & below.keys():
                outputs[layer] = outputs[layer] - torch.searchsorted(below[layer], outputs[layer])

    def state_dict(self) -> dict[str, Tensor]:
        """A copy for `load_state_dict`."""
        state = {"epochs": torch.tensor(self.epochs)}
        for name in self._gram:
            state[f"{name}/gram"] = self._gram[name].clone()
            state[f"{name}/l1"] = self._l1[name].clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state`.

        Raises:
            SurgeryError: the state is not one of these groups.
        """
        if set(state) != set(self.state_dict()):
            raise SurgeryError("the recorded history belongs to other groups than the network's")
        for name in self._gram:
            gram, l1, width = state[f"{name}/gram"], state[f"{name}/l1"], len(self._l1[name])
            if gram.shape != (width, width) or l1.shape != (width,):
                raise SurgeryError(
                    f"the recorded history of '{name}' has {len(l1)} filters, expected {width}"
                )
        for name in self._gram:
            # A checkpoint is loaded on the device of the training.
            self._gram[name] = state[f"{name}/gram"].to("cpu", copy=True)
            self._l1[name] = state[f"{name}/l1"].to("cpu", copy=True)
        self.epochs = int(state["epochs"])


def write_history(folder: Path, history: FilterHistory) -> None:
    """Save a recorded history beside a network."""
    state = {name: value.contiguous() for name, value in history.state_dict().items()}
    write_whole(folder / HISTORY, lambda file: safetensors.torch.save_file(state, file))


def read_history(folder: Path, groups: Sequence[WidthGroup]) -> FilterHistory:
    """The recorded history of these groups; others may have become too narrow since."""
    history, stored = FilterHistory(groups), safetensors.torch.load_file(folder / HISTORY)
    names = {"epochs", *history.state_dict()}
    history.load_state_dict({name: value for name, value in stored.items() if name in names})
    return history
