"""The search space of a run, how its configurations become networks, and the goal of the search."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tascnet.config import TuneConfig
from tascnet.files import read_json, write_json
from tascnet.measure import complexity, latency
from tascnet.models.grow import output_magnitude
from tascnet.models.head import classifier_of, head_start
from tascnet.tune import (
    AutotuneCost,
    Candidate,
    CandidateBuilder,
    Configuration,
    Cost,
    CostModel,
    Goal,
    Limits,
    Space,
    build_autotune,
    discover_autotune,
    discover_units,
    layerwise_depths,
)

from .stage import TuneStage

__all__ = ["Builder", "Search", "limits", "measured_latency", "most_trials", "open_search"]

# Where the options leave the depth and the number of trials open.
DEPTH = 3
TRIALS = 24

Builder = Callable[[Configuration], Candidate]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What trials are made of.

    Args:
        stage: the stage.
        chain: the pre-trained network with its trained softmax layer.
        space: all configurations.
        build: the trained part of a configuration's network.
        goal: what a trial is judged by.
        limits: when to go deeper and when to end.
    """

    stage: TuneStage
    chain: nn.Sequential
    space: Space
    build: Builder
    goal: Goal
    limits: Limits


def open_search(stage: TuneStage, chain: nn.Sequential) -> Search:
    """The search that the options of `tune` describe.

    Raises:
        ConfigError: nothing is tunable as the options say, or no configuration keeps the bounds.
        SurgeryError: the chain does not take the input.
    """
    space = discover(stage, chain)
    build = _builder(stage, chain, space)
    return Search(
        stage=stage,
        chain=chain,
        space=space,
        build=build,
        goal=_goal(stage, chain, space),
        limits=limits(stage.config.tune),
    )


def discover(stage: TuneStage, chain: nn.Sequential) -> Space:
    """All configurations of the space that `tune.space` names."""
    options: Any = stage.config.tune
    example = stage.session.example
    deepest = None if options.freeze == "layerwise" else (options.max_units or DEPTH)
    if options.space == "autotune":
        units = discover_autotune(
            chain,
            example,
            skip=options.skip,
            dense=options.dense,
            max_units=deepest,
            filters=options.filters,
            filter_sizes=options.filter_sizes,
            activations=options.filter_activations,
            pool_sizes=options.pool_sizes,
            paddings=options.paddings,
            hidden_layers=options.hidden_layers,
            neurons=options.neurons,
            dropouts=options.dropouts,
        )
        return Space(units, nested=False)
    units = discover_units(
        chain,
        example,
        max_units=deepest,
        widths=options.widths,
        round_to=options.round_to,
        kernels=options.kernels,
        activations=options.activations,
        remove_blocks=options.remove_blocks,
        lr_factors=options.lr_factors,
        head=options.head,
        grow_norms=options.grow_norms,
        hidden_layers=options.hidden_layers,
        neurons=options.neurons,
        dropouts=options.dropouts,
    )
    return Space(units)


def limits(options: TuneConfig) -> Limits:
    """When the search goes deeper and when it ends; layerwise freezing goes through all depths once."""
    layerwise = options.freeze == "layerwise"
    return Limits(
        trials_per_depth=options.trials_per_depth,
        max_units=options.max_units or DEPTH,
        max_trials=options.max_trials or (None if layerwise else TRIALS),
        max_seconds=options.max_seconds,
        patience=options.patience,
        min_delta=options.min_delta,
        start_depth=options.start_depth,
        every=options.freeze_every if layerwise else None,
    )


def most_trials(search: Search) -> int:
    """The number of trials if nothing ends the search early."""
    known = search.limits
    if known.every is None:
        return known.max_trials or TRIALS
    depths = len(layerwise_depths(search.space.depth, known.every))
    return min(depths, known.max_trials or depths)


def _builder(stage: TuneStage, chain: nn.Sequential, space: Space) -> Builder:
    options: Any = stage.config.tune
    example = stage.session.example
    common: dict[str, Any] = {"num_classes": stage.session.num_classes, "seed": stage.config.seed}
    if options.space == "autotune":
        skip, dense = options.skip, options.dense
        return partial(build_autotune, chain, space, example=example, skip=skip, dense=dense, **common)
    return CandidateBuilder(
        chain,
        space,
        example,
        importance=options.importance,
        classifier=classifier_of(stage.source.chain),
        magnitude=None if options.head == "new" else _magnitude(stage, chain),
        **common,
    )


def _magnitude(stage: TuneStage, chain: nn.Sequential) -> float:
    """Root mean square of the pre-trained classification layer's outputs on the training samples."""
    path = stage.folder / "state" / "magnitude.json"
    if not path.exists():
        train, _ = stage.features(chain, head_start(chain))
        rows = torch.arange(len(train)).split(256)
        classifier = classifier_of(stage.source.chain).to(stage.session.device)
        value = output_magnitude(classifier, (train.batch(part, None) for part in rows))
        write_json(path, {"rms": value})
    return float(read_json(path)["rms"])


def _goal(stage: TuneStage, chain: nn.Sequential, space: Space) -> Goal:
    options: Any = stage.config.tune
    cost = _cost_model(stage, chain, space)
    whole = complexity(chain, stage.session.example)
    bounds = {
        "max_params": _share(options.max_params, whole.params),
        "max_flops": _share(options.max_flops, whole.flops),
    }
    return Goal(
        objective=options.objective,
        cost=cost,
        pareto_cost=options.pareto_cost,
        max_latency_ms=_latency_bound(stage, chain),
        **bounds,
    )


def _share(share: float | None, whole: int) -> int | None:
    return None if share is None else int(share * whole)


def _cost_model(stage: TuneStage, chain: nn.Sequential, space: Space) -> Callable[[Configuration], Cost]:
    """Exact params and FLOPs, known before anything is trained."""
    options: Any = stage.config.tune
    example = stage.session.example
    if options.space == "autotune":
        return AutotuneCost(chain, space, example, skip=options.skip, dense=options.dense)
    return CostModel(chain, space, example, classifier=classifier_of(stage.source.chain))


def _latency_bound(stage: TuneStage, chain: nn.Sequential) -> float | None:
    """The bound in milliseconds; the original is measured once, so that a resumed run has the same bound."""
    share = stage.config.tune.max_latency
    if share is None:
        return None
    path: Path = stage.folder / "state" / "latency.json"
    if not path.exists():
        write_json(path, {"original_ms": measured_latency(stage, chain)})
    return share * float(read_json(path)["original_ms"])


def measured_latency(stage: TuneStage, network: nn.Sequential) -> float:
    """Median milliseconds of one sample."""
    options = stage.config.measure
    stage.session.place(network)
    return latency(
        network, stage.session.example, batch=1, repeats=options.repeats, warmup=options.warmup
    ).median_ms
