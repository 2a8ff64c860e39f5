"""In which order the filters of each group go, by the criterion of the config."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from tascnet.errors import ConfigError
from tascnet.inherit import (
    Moments,
    Ranking,
    input_moments,
    loss_gradients,
    rank_all_by_reconstruction,
    rank_pairs,
    rank_scores,
)
from tascnet.pruning import FilterHistory, Limits, find_importance
from tascnet.run.files import write_whole
from tascnet.surgery import CRITERIA, GRADIENTS, WidthGroup, all_channel_scores, consumer_inputs

from ..session import MEASURED
from ..steps import fit_record
from .journal import Row
from .stage import PruneStage, train

log = logging.getLogger("tascnet")

HISTORY = "history.safetensors"
# Samples whose gradients are squared one by one.
SINGLE_SAMPLES = 128

Inputs = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """What a criterion says of a network.

    Args:
        network: on the device; after the history phase, where there was one.
        groups: those that may give up filters and of which the criterion says something.
        rankings: by group.
        history: what was recorded; None for other criteria.
        measured: positions and moments of what consumers read, where the criterion has measured them.
    """

    network: nn.Sequential
    groups: list[WidthGroup]
    rankings: dict[str, Ranking]
    history: FilterHistory | None = None
    measured: tuple[Inputs, Moments] | None = None

    def first(self, counts: Mapping[str, int]) -> tuple[list[WidthGroup], dict[str, Ranking]]:
        """The groups that lose so many filters, and which ones."""
        groups = [group for group in self.groups if group.name in counts]
        return groups, {group.name: self.rankings[group.name].first(counts[group.name]) for group in groups}


def rank(stage: PruneStage, row: Row, network: nn.Sequential, groups: list[WidthGroup]) -> Ranks:
    """The order in which filters go from the network of a row of the journal.

    Args:
        stage: what the steps share.
        row: of the iteration that the next one starts from.
        network: its network.
        groups: those that may give up filters.

    Raises:
        ConfigError: the criterion says nothing of any group, or fails.
    """
    stage.session.place(network)
    if stage.config.prune.criterion != "history":
        return rank_without_history(stage, network, groups)
    network, history = _recorded(stage, row, network, groups)
    rankings = _by_history(stage, history, groups)
    return Ranks(network=network, groups=groups, rankings=rankings, history=history)


def rank_without_history(
    stage: PruneStage, network: nn.Sequential, groups: list[WidthGroup], *, most: float | None = None
) -> Ranks:
    """As `rank`, without training: likeness is that of the filters as they are.

    Args:
        stage: what the steps share.
        network: on the device.
        groups: those that may give up filters.
        most: share of each group that is ranked at least; None: `prune.max_step`.
    """
    criterion = stage.config.prune.criterion
    if criterion == "history":
        history = FilterHistory(groups)
        history.record(network)
        rankings = _by_history(stage, history, groups, most)
        return Ranks(network=network, groups=groups, rankings=rankings, history=history)
    if criterion == "reconstruction":
        inputs, moments = measured = measure_inputs(stage, network, groups)
        limits = _limits(stage, most)
        counts = {group.name: max(1, limits.most(group.width)) for group in groups}
        batches = stage.session.sample_batches()
        rankings = rank_all_by_reconstruction(network, inputs, moments, counts, batches)
        return Ranks(network=network, groups=groups, rankings=rankings, measured=measured)
    scores = _scores(stage, network, groups)
    silent = [group.name for group in groups if group.name not in scores]
    if silent:
        log.info("criterion %s says nothing of %d groups, such as %s", criterion, len(silent), silent[0])
    refuse_silent(criterion, scores)
    return Ranks(
        network=network,
        groups=[group for group in groups if group.name in scores],
        rankings={name: rank_scores(values) for name, values in scores.items()},
    )


def refuse_silent(criterion: str, scores: Mapping[str, Tensor]) -> None:
    """Refuse a criterion that gives no group of a network scores.

    Raises:
        ConfigError: it is one.
    """
    if not scores:
        raise ConfigError(
            f"prune.criterion={criterion} says nothing of any group of layers of this network",
            "take another criterion",
        )


def measure_inputs(
    stage: PruneStage, network: nn.Sequential, groups: list[WidthGroup]
) -> tuple[Inputs, Moments]:
    """Where each consumer reads the groups' channels, and the second moments of what it reads there."""
    inputs = consumer_inputs(network, stage.session.example, groups)
    batches = (images for images, _ in stage.session.sample_batches())
    return inputs, input_moments(network.eval(), inputs, batches, seed=stage.config.seed)


def _by_history(
    stage: PruneStage, history: FilterHistory, groups: list[WidthGroup], most: float | None = None
) -> dict[str, Ranking]:
    limits = _limits(stage, most)
    return {
        g.name: rank_pairs(history.similarity(g.name), history.l1(g.name), limits.most(g.width))
        for g in groups
    }


def _limits(stage: PruneStage, most: float | None) -> Limits:
    return Limits(max_step=most or stage.config.prune.max_step)


def _recorded(
    stage: PruneStage, row: Row, network: nn.Sequential, groups: list[WidthGroup]
) -> tuple[nn.Sequential, FilterHistory]:
    """The network after the history phase, and what was recorded; with `continue` in the iteration before."""
    history = FilterHistory(groups)
    earlier = stage.archive(row) / HISTORY
    if stage.config.prune.history == "continue" and row["iteration"] > 0:
        history.load_state_dict(_of_groups(safetensors.torch.load_file(earlier), groups))
        return network, history

    def work(folder: Path) -> tuple[nn.Sequential, dict[str, Any]]:
        epochs = stage.config.prune.history_epochs
        record: dict[str, Any] = {}
        if epochs:
            record = fit_record(
                train(stage, network, folder, "history", epochs, recorder=history, keep="last")
            )
        else:
            history.record(network)
        write_history(folder / HISTORY, history)
        return network, record

    name = f"{row['state']}-history"
    recorded, _ = stage.once(name, work)
    history.load_state_dict(safetensors.torch.load_file(stage.state(name) / HISTORY))
    return stage.session.place(recorded), history


def write_history(path: Path, history: FilterHistory) -> None:
    """Keep a recorded history beside a network."""
    state = {name: value.contiguous() for name, value in history.state_dict().items()}
    write_whole(path, lambda file: safetensors.torch.save_file(state, file))


def _of_groups(state: dict[str, Tensor], groups: list[WidthGroup]) -> dict[str, Tensor]:
    """The part of a recorded history that is these groups': others have become too narrow since."""
    names = {group.name for group in groups}
    return {key: value for key, value in state.items() if key == "epochs" or key.rpartition("/")[0] in names}


def _scores(stage: PruneStage, network: nn.Sequential, groups: list[WidthGroup]) -> dict[str, Tensor]:
    """Scores by torch-pruning's criteria or the user's, with gradients for those that read them."""
    criterion = stage.config.prune.criterion
    example, seed = stage.session.example, stage.config.seed
    network.eval()
    if criterion in CRITERIA and criterion not in GRADIENTS:
        return all_channel_scores(network, example, groups, criterion, seed)
    importance = criterion if criterion in CRITERIA else find_importance(criterion)
    squares = GRADIENTS.get(criterion) == "squares"
    batches = stage.session.sample_batches(SINGLE_SAMPLES if squares else MEASURED)
    with loss_gradients(network, batches, squares=squares):
        try:
            return all_channel_scores(network, example, groups, importance, seed)
        # A user's own criterion may fail in any way, and may end itself.
        except (Exception, SystemExit) as error:
            if criterion in CRITERIA:
                raise
            raise ConfigError(
                f"prune.criterion={criterion} failed with {type(error).__name__}: {error}",
                "correct it; debug=true shows where it fails",
            ) from error
