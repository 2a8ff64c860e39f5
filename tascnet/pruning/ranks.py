"""In which order the units of each group are removed, by the criterion of the options."""

import importlib
import inspect
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tascnet.errors import ConfigError, TascnetError, in_words, plural
from tascnet.inherit import (
    Moments,
    Ranking,
    input_moments,
    input_positions,
    loss_gradients,
    rank_all_by_reconstruction,
    rank_pairs,
    rank_scores,
)
from tascnet.options import HistoryPrune, Prune, Recipe
from tascnet.pruning.allocate import GroupSize, share_of
from tascnet.pruning.history import FilterHistory, read_history, write_history
from tascnet.run.records import EpochRecord, Iteration, StepRecord, TrainingRecord
from tascnet.surgery import (
    CRITERIA,
    GRADIENTS,
    Importance,
    Trace,
    WidthGroup,
    all_channel_scores,
)
from tascnet.train import MEASURED, Archive, Learner

log = logging.getLogger("tascnet")

# Samples whose gradients are squared one by one.
SINGLE_SAMPLES = 128


@dataclass(frozen=True, kw_only=True)
class Readings:
    """By group and consumer, where and what it reads; see `tascnet.inherit`."""

    inputs: Mapping[str, Mapping[str, Tensor]]
    moments: Moments


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """In which order a criterion removes the units of a network's groups.

    Args:
        network: on the device; after the history phase, where there was one.
        groups: those that the criterion ranks.
        history: what was recorded; None for other criteria.
        readings: of these groups, where the criterion needs them.
    """

    network: nn.Sequential
    trace: Trace
    groups: Sequence[WidthGroup] = ()
    rankings: Mapping[str, Ranking]
    history: FilterHistory | None = None
    readings: Readings | None = None

    @property
    def sizes(self) -> dict[str, GroupSize]:
        """By group, its size now."""
        return sizes_of(self.groups)

    def kinds(self) -> list[list[str]]:
        """The names of groups whose layers are of the same kinds, coupled in the same way.

        Source: Fang et al. 2024, Isomorphic Pruning for Vision Models.
        """
        found: dict[tuple[object, ...], list[str]] = {}
        for group in self.groups:
            kind = [
                (role, type(self.network.get_submodule(name)).__name__)
                for role, names in (
                    ("writes", group.outputs),
                    ("passes", group.passed),
                    ("reads", group.inputs),
                )
                for name in names
            ]
            found.setdefault(tuple(sorted(kind)), []).append(group.name)
        return list(found.values())

    def first(self, counts: Mapping[str, int]) -> dict[str, Ranking]:
        """By group, the rankings of the units to remove, in the order of the groups."""
        return {g.name: self.rankings[g.name].first(counts[g.name]) for g in self.groups if g.name in counts}

    def kept(self, counts: Mapping[str, int]) -> dict[str, list[int]]:
        """By group, the other units."""
        widths = {group.name: group.width for group in self.groups}
        first = self.first(counts)
        return {name: sorted(set(range(widths[name])) - set(one.order)) for name, one in first.items()}


def sizes_of(groups: Sequence[WidthGroup]) -> dict[str, GroupSize]:
    """The sizes of groups by name."""
    return {group.name: GroupSize.of(group) for group in groups}


def read_inputs(learner: Learner, network: nn.Sequential, groups: Sequence[WidthGroup]) -> Readings:
    """What the consumers of groups read of plain training samples; the network is set to eval mode."""
    inputs = input_positions(network, groups)
    batches = (samples for samples, _ in learner.batches())
    moments = input_moments(network.eval(), inputs, batches, seed=learner.seed)
    return Readings(inputs=inputs, moments=moments)


def train_all(
    learner: Learner,
    network: nn.Sequential,
    checkpoint: Path,
    epochs: int,
    deadline: float,
    *,
    recipe: str | Recipe = "recover",
    **options: Any,
) -> TrainingRecord:
    """Train every layer, until the epoch in which `deadline` has passed.

    Args:
        deadline: on the clock of `time.perf_counter`; one epoch is trained in any case.
        recipe: one of the trainer's by name, or any other.
        options: those of `tascnet.train.fit`.
    """
    is_late, earlier = False, -1.0

    def ends(records: Sequence[EpochRecord]) -> bool:
        nonlocal is_late, earlier
        if earlier < 0:
            # Of the epochs before an interruption, of which the deadline does not know.
            earlier = sum(record.seconds for record in records)
        is_late = bool(records) and time.perf_counter() + earlier >= deadline
        return is_late

    # Iterations train under names of their own; the digest of a cut says nothing to a reader.
    step = re.sub(r"-[0-9a-f]{8}(?=-|$)", "", checkpoint.parent.name)
    training = learner.fit(
        network.requires_grad_(True),
        recipe,
        epochs=epochs,
        checkpoint=checkpoint,
        stop=ends,
        may_diverge=True,
        description=f"{step}: {checkpoint.stem}",
        **options,
    )
    if is_late:
        log.warning(
            "%s ended after %d of %d epochs: the seconds of pruning (`max_seconds`) were used up",
            *(checkpoint.stem, len(training.epochs), epochs),
        )
    return replace(training, cut_short=is_late and len(training.epochs) < epochs)


def rank(
    learner: Learner,
    archive: Archive,
    options: Prune,
    start: Iteration,
    network: nn.Sequential,
    trace: Trace,
    groups: Sequence[WidthGroup],
    deadline: float,
) -> Ranks:
    """The order in which units of groups are removed from the network of the iteration `start`.

    Where it is found by training, that ends in the epoch in which `deadline` has passed.

    Raises:
        ConfigError: the criterion ranks no group, or fails.
    """
    if not isinstance(options, HistoryPrune):
        return rank_untrained(learner, options, network, trace, groups)
    ratio, epochs = options.group_ratio, options.phases[0]
    if options.history == "continue" and start.iteration > 0:
        history = read_history(archive.path(start.state), groups)
        return _by_history(history, network, trace, groups, ratio)

    def work(folder: Path) -> tuple[nn.Sequential, StepRecord]:
        started, history, training = time.perf_counter(), FilterHistory(groups), None
        if epochs:
            training = train_all(
                learner, network, folder / "history.pt", epochs, deadline, recorder=history, keep="last"
            )
        else:
            history.record(network)
        write_history(folder, history)
        return network, StepRecord(seconds=time.perf_counter() - started, training=training)

    name = f"{start.state}-history"
    recorded, _ = archive.once(name, work)
    history = read_history(archive.path(name), groups)
    return _by_history(history, learner.place(recorded), trace, groups, ratio)


def rank_untrained(
    learner: Learner,
    options: Prune,
    network: nn.Sequential,
    trace: Trace,
    groups: Sequence[WidthGroup],
    ratio: float | None = None,
) -> Ranks:
    """As `rank`, without training: a history is that of the filters as they are.

    The share `ratio` of each group is ranked; None: the largest of one iteration.
    """
    ratio, criterion = ratio or options.group_ratio, options.criterion
    if criterion == "history":
        history = FilterHistory(groups)
        history.record(network)
        return _by_history(history, network, trace, groups, ratio)
    if criterion == "reconstruction":
        readings = read_inputs(learner, network, groups)
        counts = {group.name: max(1, share_of(group.width, ratio)) for group in groups}
        rankings = rank_all_by_reconstruction(
            network, readings.inputs, readings.moments, counts, learner.batches()
        )
        return Ranks(network=network, trace=trace, groups=groups, rankings=rankings, readings=readings)
    scores = _scores(learner, criterion, network, trace, groups)
    if silent := [group.name for group in groups if group.name not in scores]:
        missing = plural(len(silent), "group")
        log.info("criterion %s has no scores for %s, such as %s", criterion, missing, silent[0])
    refuse_silent(criterion, scores)
    return Ranks(
        network=network,
        trace=trace,
        groups=[group for group in groups if group.name in scores],
        rankings={name: rank_scores(values) for name, values in scores.items()},
    )


def refuse_silent(criterion: str, scores: Mapping[str, Tensor]) -> None:
    """Refuse a criterion that has no scores for any group."""
    if not scores:
        raise ConfigError(
            f"`criterion={criterion}` has no scores for any group of layers of this network",
            "take another criterion",
        )


def find_importance(path: str) -> Importance:
    """The importance at `package.module.name`; a class is called without arguments.

    Raises:
        ConfigError: it could not be loaded or cannot be called.
    """
    hint = "give the path of a torch_pruning.importance.Importance: a class without arguments, or an object"
    module_name, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
        importance = found() if inspect.isclass(found) else found
    # A user's module may fail in any way, and may exit.
    except (Exception, SystemExit) as error:
        raise ConfigError(f"`criterion={path}` could not be loaded ({in_words(error)})", hint) from error
    if not callable(importance):
        raise ConfigError(f"`criterion={path}` is {type(importance).__name__}, which cannot be called", hint)
    return importance  # type: ignore[no-any-return]


def _by_history(
    history: FilterHistory, network: nn.Sequential, trace: Trace, groups: Sequence[WidthGroup], ratio: float
) -> Ranks:
    rankings = {
        g.name: rank_pairs(history.similarity(g.name), history.l1(g.name), share_of(g.width, ratio))
        for g in groups
    }
    return Ranks(network=network, trace=trace, groups=groups, rankings=rankings, history=history)


def _scores(
    learner: Learner, criterion: str, network: nn.Sequential, trace: Trace, groups: Sequence[WidthGroup]
) -> dict[str, Tensor]:
    """Scores by torch-pruning's criteria or the user's, with gradients for those that read them."""
    network.eval()
    if criterion in CRITERIA and criterion not in GRADIENTS:
        return all_channel_scores(network, trace, groups, criterion, learner.seed)
    squares = GRADIENTS.get(criterion) == "squares"
    with loss_gradients(network, learner.batches(SINGLE_SAMPLES if squares else MEASURED), squares=squares):
        if criterion in CRITERIA:
            return all_channel_scores(network, trace, groups, criterion, learner.seed)
        return own_scores(criterion, network, trace, groups, learner.seed)


def own_scores(
    path: str, network: nn.Sequential, trace: Trace, groups: Sequence[WidthGroup], seed: int = 0
) -> dict[str, Tensor]:
    """Scores by the importance at a dotted path, for which the parameters have gradients.

    Raises:
        ConfigError: it fails, or its scores cannot be used.
    """
    importance = find_importance(path)
    try:
        return all_channel_scores(network, trace, groups, importance, seed)
    # A user's own criterion may fail in any way, and may exit.
    except (Exception, SystemExit) as error:
        what = error.message if isinstance(error, TascnetError) else f"it raised {in_words(error)}"
        raise ConfigError(
            f"`criterion={path}` cannot be used: {what}", "correct it; `debug=true` shows where it fails"
        ) from error
