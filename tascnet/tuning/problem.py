"""What the options of a search mean for one network: its space, its builder and its goal."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tascnet.errors import ConfigError, SurgeryError
from tascnet.measure import Clock, complexity, reach, size_bytes
from tascnet.models.grow import output_magnitude
from tascnet.models.head import head_start
from tascnet.models.text import TextPreprocessing
from tascnet.options import Autotune, Trainer, Tune, TuneBase
from tascnet.run.records import Reach, made_once
from tascnet.surgery import Trace, WidthGroup, check_ignored, is_ignored
from tascnet.tuning.autotune import AutotuneBuilder, AutotuneCost, discover_autotune
from tascnet.tuning.build import Candidate, CandidateBuilder
from tascnet.tuning.choices import discover_units
from tascnet.tuning.cost import CostModel
from tascnet.tuning.goal import Goal, KnownCosts, Slim
from tascnet.tuning.progression import DEPTH
from tascnet.tuning.space import Configuration, Space
from tascnet.tuning.tails import Tails

log = logging.getLogger("tascnet")

# Bytes of a parameter in a file.
PARAM_BYTES = 4

Builder = Callable[[Configuration], Candidate]


def check_options(options: TuneBase, trainer: Trainer, network: nn.Sequential) -> None:
    """Check that options fit the network and the recipes.

    Raises:
        ConfigError: they do not.
    """
    epochs = trainer.recipe("trial").epochs
    if options.early_stop is not None and options.early_stop >= epochs:
        raise ConfigError(
            f"`early_stop={options.early_stop}` stops no trial of {epochs} epochs",
            "lower it, or raise the epochs of the recipe `trial`",
        )
    if isinstance(options, Tune):
        check_ignored(network, options.ignore)
    if isinstance(options, Autotune) and isinstance(network.preprocessing, TextPreprocessing):
        raise ConfigError(
            "the space `autotune` makes layers for images and has none for texts", "take the space `tascnet`"
        )
    is_text = any(isinstance(layer, nn.Conv1d) for layer in network.modules())
    if isinstance(options, Tune) and not is_text and any(kernel % 2 == 0 for kernel in options.kernels):
        raise ConfigError(f"`kernels` takes odd sizes for networks of images, not {list(options.kernels)}")


def may_widen(options: TuneBase, min_filters: int) -> bool:
    """Whether a search may add layers of at least `min_filters` filters to a network."""
    if isinstance(options, Autotune) and max(options.filters) >= min_filters:
        return True
    if isinstance(options, Tune) and options.head != "new":
        return True
    return max(options.hidden_layers) > 0 and max(options.neurons) >= min_filters


def discover(chain: nn.Sequential, example: torch.Tensor, options: TuneBase) -> Space:
    """The search space of a network with its new softmax layer, for samples like `example`, `1 x c x h x w`.

    Raises:
        SurgeryError: the chain does not take the example.
    """
    deepest = None if options.is_layerwise else (options.max_units or DEPTH)
    if isinstance(options, Autotune):
        return Space(discover_autotune(chain, example, options, deepest), nested=False)
    assert isinstance(options, Tune)
    return Space(discover_units(chain, example, options, deepest))


def reach_of(chain: nn.Sequential, example: torch.Tensor, options: TuneBase) -> Reach | None:
    """How far narrower layers can go; None where no widths are searched, or costs do not follow from them."""
    if not isinstance(options, Tune) or options.is_layerwise:
        return None

    def spared(group: WidthGroup) -> str | None:
        ignored = any(is_ignored(name, options.ignore) for name in group.filters)
        return "spared by `ignore`" if ignored else None

    try:
        return reach(chain, Trace(chain, example), spared)
    except SurgeryError:
        return None


def builder_of(options: TuneBase, space: Space, tails: Tails, classifier: nn.Linear, path: Path) -> Builder:
    """The builder of a space's candidates; see `CandidateBuilder` and `AutotuneBuilder`.

    Args:
        options: of the search.
        space: the search space.
        tails: of the network with its trained softmax layer.
        classifier: the pre-trained classification layer.
        path: of the magnitude of that layer's outputs, which is measured once if the head may grow on it.
    """
    chain, learner = tails.chain, tails.learner
    if isinstance(options, Autotune):
        return AutotuneBuilder(chain, space, learner.samples.example, options, seed=learner.seed)
    assert isinstance(options, Tune)
    magnitude = None
    if options.head != "new":

        def measure() -> dict[str, float]:
            train, _ = tails.features(head_start(chain))
            batches = (train.batch(rows, None) for rows in torch.arange(len(train)).split(256))
            return {"rms": output_magnitude(classifier, batches)}

        magnitude = made_once(path, dict[str, float], measure)["rms"]
    return CandidateBuilder(
        chain,
        space,
        learner.samples.example,
        importance=options.importance,
        classifier=classifier,
        magnitude=magnitude,
        seed=learner.seed,
    )


def goal_of(
    options: TuneBase,
    space: Space,
    tails: Tails,
    classifier: nn.Linear,
    clock: Clock,
    *,
    before: float,
    folder: Path,
) -> Goal:
    """The objective of a search, and the bounds on its networks.

    Args:
        options: objective and targets, which are shares of the pre-trained network's cost.
        space: the search space.
        tails: of the network with its trained softmax layer.
        classifier: the pre-trained classification layer.
        clock: how long networks take; its reference is the network of `tails`.
        before: the metric of the network of `tails` on the validation samples.
        folder: where that network is saved.

    Raises:
        SurgeryError: the cost of a layer does not follow from its size, and bounds or objective need it.
    """
    chain, example = tails.chain, tails.learner.samples.example
    objective, _, pareto_cost = options.objective.partition("_")
    whole = complexity(chain, example)
    params, latencies = [], []
    if options.params_target is not None:
        params.append(int(options.params_target * whole.params))
    if options.size_target is not None:
        params.append(int(whole.params - (1 - options.size_target) * size_bytes(folder) / PARAM_BYTES))
    if options.latency_target is not None:
        latencies.append(options.latency_target * clock.reference_ms)
    if options.latency_target_ms is not None:
        latencies.append(options.latency_target_ms)
    if latencies:
        log.info("latency is judged in %s: %.3g ms for one sample", clock.name, clock.reference_ms)
    max_params = min(params, default=None)
    max_flops = None if options.flops_target is None else int(options.flops_target * whole.flops)
    slim = None
    # Slim proposals need a surrogate, and their tolerance is in accuracy.
    learns_accuracy = options.algorithm == "bo" and objective == "accuracy"
    if isinstance(options, Tune) and options.slim_every and learns_accuracy:
        n_val = tails.learner.val_samples()
        slim = Slim(every=options.slim_every, n_val=n_val, tolerance=options.tolerance)
    costs: CostModel | AutotuneCost | None = None
    if pareto_cost or slim is not None or max_params is not None or max_flops is not None:
        if isinstance(options, Autotune):
            costs = AutotuneCost(chain, space, example, options)
        else:
            costs = CostModel(chain, space, example, classifier=classifier)
    return Goal(
        objective=objective,  # type: ignore[arg-type]
        metric=tails.learner.metric,
        cost=None if costs is None else KnownCosts(costs),
        max_params=max_params,
        max_flops=max_flops,
        max_latency_ms=min(latencies, default=None),
        pareto_cost=pareto_cost or "flops",  # type: ignore[arg-type]
        # Only what is better than the network before the search enlarges a front.
        reference=(before, getattr(whole, pareto_cost)) if pareto_cost else None,
        slim=slim,
    )
