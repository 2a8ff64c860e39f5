"""What the options of a search mean for one network: its space, its builder and its goal."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tascnet.errors import ConfigError, SurgeryError
from tascnet.measure import Clock, complexity, reach, size_bytes
from tascnet.models.grow import output_magnitude
from tascnet.models.head import head_start
from tascnet.models.text import TextPreprocessing
from tascnet.options import Autotune, Tune, TuneBase
from tascnet.run.records import Reach, TrainingRecord, made_once
from tascnet.surgery import Trace, WidthGroup, check_ignored, is_ignored
from tascnet.train import Archive, Learner
from tascnet.tuning.autotune import AutotuneBuilder, AutotuneCost, discover_autotune
from tascnet.tuning.build import Candidate, CandidateBuilder
from tascnet.tuning.choices import discover_units
from tascnet.tuning.cost import Cost, CostModel
from tascnet.tuning.ends import Ends, depth_of, find_ends
from tascnet.tuning.goal import Goal, KnownCosts, Slim
from tascnet.tuning.progression import DEPTH
from tascnet.tuning.sizes import SIZE, sample_of, with_sizes
from tascnet.tuning.space import Configuration, Space
from tascnet.tuning.tails import Tails

log = logging.getLogger("tascnet")

# Bytes of a parameter in a file.
PARAM_BYTES = 4

Builder = Callable[[Configuration], Candidate]


class _SizedCosts:
    """The cost of each configuration's network, for images of the size that it has; see `CostModel`."""

    def __init__(self, learner: Learner, chain: nn.Sequential, space: Space, classifier: nn.Linear) -> None:
        self._learner, self._chain, self._space, self._classifier = learner, chain, space, classifier
        self._models: dict[Any, CostModel] = {}
        # What cannot be counted is found before the search.
        self._model({})

    def __call__(self, config: Mapping[str, Any]) -> Cost:
        """The cost of a canonical configuration."""
        return self._model(config)(config)

    def _model(self, config: Mapping[str, Any]) -> CostModel:
        size = config.get(SIZE)
        if size not in self._models:
            example = sample_of(self._learner, config)
            made = CostModel(self._chain, self._space, example, classifier=self._classifier)
            self._models[size] = made
        return self._models[size]


def check_options(options: TuneBase, network: nn.Sequential) -> None:
    """Check that options fit the network.

    Raises:
        ConfigError: they do not.
    """
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
    """The search space of a network that ends where it does, for samples like `example`, `1 x c x h x w`.

    Raises:
        SurgeryError: the chain does not take the example.
    """
    deepest = None if options.is_layerwise else (options.max_units or DEPTH)
    if isinstance(options, Autotune):
        return Space(discover_autotune(chain, example, options, deepest), nested=False)
    assert isinstance(options, Tune)
    return Space(discover_units(chain, example, options, deepest))


def widest_space(chain: nn.Sequential, learner: Learner, options: TuneBase) -> Space:
    """The search space of a network with all its units, before it is known where it may end.

    Raises:
        SurgeryError: the chain does not take the samples.
    """
    example = learner.samples.example
    if not isinstance(options, Tune):
        return discover(chain, example, options)
    return Space(with_sizes(tuple(discover_units(chain, example, options, None)), learner, options))


def discover_all(
    chain: nn.Sequential, learner: Learner, options: TuneBase, archive: Archive, first: TrainingRecord
) -> tuple[Space, Ends]:
    """The search space of a network with its new softmax layer, and where the network may end.

    Args:
        chain: the network.
        learner: samples, device and recipes.
        options: of the search.
        archive: of the heads of earlier ends.
        first: training of the softmax layer.

    Raises:
        SurgeryError: the chain does not take the samples.
    """
    example = learner.samples.example
    if not isinstance(options, Tune):
        return discover(chain, example, options), Ends()
    if not options.searches_exit:
        return Space(with_sizes(discover(chain, example, options).units, learner, options)), Ends()
    units = tuple(discover_units(chain, example, options, None))
    ends = find_ends(learner, chain, units, options, archive, first)
    units = units[: depth_of(options, ends) + 1]
    return Space(with_sizes(units, learner, options), exits=min(ends.exits, len(units) - 1)), ends


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


def builder_of(
    options: TuneBase,
    space: Space,
    tails: Tails,
    classifier: nn.Linear,
    path: Path,
    heads: Mapping[int, nn.Linear],
) -> Builder:
    """The builder of a space's candidates; see `CandidateBuilder` and `AutotuneBuilder`.

    Args:
        options: of the search.
        space: the search space.
        tails: of the network with its trained softmax layer.
        classifier: the pre-trained classification layer.
        path: of the magnitude of that layer's outputs, which is measured once if the head may grow on it.
        heads: softmax layers of earlier ends, by exit.
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
        heads=heads,
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
        share = options.size_target
        bound = int(whole.params - (1 - share) * size_bytes(folder) / PARAM_BYTES)
        # What a file holds beside weights counts as fixed, unless it would take more than there may be: it
        # shrinks with the layers, too.
        params.append(bound if bound > 0 else max(1, int(share * whole.params)))
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
    costs: _SizedCosts | AutotuneCost | None = None
    if pareto_cost or slim is not None or max_params is not None or max_flops is not None:
        if isinstance(options, Autotune):
            costs = AutotuneCost(chain, space, example, options)
        else:
            costs = _SizedCosts(tails.learner, chain, space, classifier)
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
