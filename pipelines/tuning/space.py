"""The search space of a run, how its configurations become networks, and the goal of the search."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from tascnet.measure import compare_latency, complexity, latency
from tascnet.models.grow import output_magnitude
from tascnet.models.head import classifier_of, head_start
from tascnet.options import TuneConfig
from tascnet.run.files import read_json, write_json
from tascnet.tuning import (
    AutotuneCost,
    Candidate,
    CandidateBuilder,
    Configuration,
    Cost,
    CostModel,
    Goal,
    Limits,
    Slim,
    Space,
    build_autotune,
    discover_autotune,
    discover_units,
    layerwise_depths,
)

from .stage import TuneStage

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
    has_budget = layerwise or options.max_seconds is not None
    return Limits(
        trials_per_depth=options.trials_per_depth,
        max_units=options.max_units or DEPTH,
        max_trials=options.max_trials or (None if has_budget else TRIALS),
        max_seconds=options.max_seconds,
        patience=options.patience,
        min_delta=options.min_delta,
        start_depth=options.start_depth,
        every=options.freeze_every if layerwise else None,
    )


def most_trials(search: Search) -> int | None:
    """The number of trials if nothing ends the search early; None where seconds alone end it."""
    known = search.limits
    if known.is_timed:
        return None
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
    is_bounded = options.max_params is not None or options.max_flops is not None
    slim, is_pareto = _slim(stage), options.objective == "pareto"
    needed = is_pareto or is_bounded or slim is not None
    cost = _cost_model(stage, chain, space) if needed else None
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
        # A front is worth what it adds to the network that is there before the search.
        reference=(_baseline_accuracy(stage), getattr(whole, options.pareto_cost)) if is_pareto else None,
        slim=slim,
        **bounds,
    )


def _slim(stage: TuneStage) -> Slim | None:
    """Only a search that learns has turns to give, and only accuracies have a tolerance."""
    options = stage.config.tune
    learns = options.algorithm == "bo" and options.freeze == "search"
    if not (options.slim_every and learns and options.objective in ("accuracy", "constrained")):
        return None
    return Slim(every=options.slim_every, n_val=len(stage.session.val), tolerance=options.tolerance)


def _baseline_accuracy(stage: TuneStage) -> float:
    """Validation accuracy of the pre-trained network with its new softmax layer."""
    return float(read_json(stage.state("baseline") / "record.json")["val_accuracy"])


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
    """The bound in milliseconds, of what the original took once: a resumed run has the same bound."""
    share = stage.config.tune.max_latency
    return None if share is None else share * _original_latency(stage, chain)


def _original_latency(stage: TuneStage, chain: nn.Sequential) -> float:
    path = stage.folder / "state" / "latency.json"
    if not path.exists():
        options = stage.config.measure
        timed = latency(
            stage.session.place(chain),
            stage.session.example,
            repeats=options.repeats,
            warmup=options.warmup,
        )
        write_json(path, {"original_ms": timed.median_ms})
    return float(read_json(path)["original_ms"])


def measured_latency(search: Search, network: nn.Sequential) -> float:
    """Milliseconds of one sample, as a multiple of the original's, which is timed in turn with it.

    What else the machine does then slows both, and the bound is on their ratio.
    """
    stage, options = search.stage, search.stage.config.measure
    models = {"original": search.chain, "network": stage.session.place(network)}
    timed = compare_latency(models, stage.session.example, repeats=options.repeats, warmup=options.warmup)
    ratio = timed["network"].median_ms / timed["original"].median_ms
    return ratio * _original_latency(stage, search.chain)
