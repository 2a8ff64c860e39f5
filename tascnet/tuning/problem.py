"""What the options of a search mean for one network: its space, its builder and its goal."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tascnet.errors import ConfigError
from tascnet.measure import compare_latency, complexity, latency, size_bytes
from tascnet.models.grow import output_magnitude
from tascnet.models.head import head_start
from tascnet.models.text import TextPreprocessing
from tascnet.options import Autotune, Measure, Trainer, Tune, TuneBase
from tascnet.run.files import read_json, write_json
from tascnet.train import Learner
from tascnet.tuning.autotune import discover_autotune
from tascnet.tuning.build import Candidate, CandidateBuilder
from tascnet.tuning.build_autotune import AutotuneBuilder, AutotuneCost
from tascnet.tuning.choices import discover_units
from tascnet.tuning.cost import CostModel
from tascnet.tuning.goal import Goal, KnownCosts, Slim
from tascnet.tuning.progression import DEPTH
from tascnet.tuning.space import Configuration, Space
from tascnet.tuning.tails import Tails

# Bytes of a parameter in a file.
PARAM_BYTES = 4

Builder = Callable[[Configuration], Candidate]


def check_options(options: TuneBase, trainer: Trainer, network: nn.Sequential) -> None:
    """Refuse options that do not fit the network or the recipes.

    Raises:
        ConfigError: they do not.
    """
    epochs = trainer.recipe("trial").epochs
    if options.early_stop is not None and options.early_stop >= epochs:
        raise ConfigError(
            f"`early_stop={options.early_stop}` stops no trial of {epochs} epochs",
            "lower it, or raise the epochs of the recipe `trial`",
        )
    if isinstance(options, Autotune) and isinstance(network.preprocessing, TextPreprocessing):
        raise ConfigError(
            "the space `autotune` makes layers for images and has none for texts", "take the space `tascnet`"
        )
    over_time = any(isinstance(layer, nn.Conv1d) for layer in network.modules())
    if isinstance(options, Tune) and not over_time and any(kernel % 2 == 0 for kernel in options.kernels):
        raise ConfigError(f"`kernels` takes odd sizes for networks of images, not {list(options.kernels)}")


def may_widen(options: TuneBase, min_filters: int) -> bool:
    """Whether a search may give a network new layers of at least `min_filters` filters."""
    if isinstance(options, Autotune) and max(options.filters) >= min_filters:
        return True
    if isinstance(options, Tune) and options.head != "new":
        return True
    return max(options.hidden_layers) > 0 and max(options.neurons) >= min_filters


def discover(chain: nn.Sequential, example: torch.Tensor, options: TuneBase) -> Space:
    """All configurations that options describe.

    Args:
        chain: the network with its new softmax layer.
        example: `1 x c x h x w`.
        options: `Tune` or `Autotune`.

    Raises:
        SurgeryError: the chain does not take the example.
    """
    deepest = None if options.is_layerwise else (options.max_units or DEPTH)
    if isinstance(options, Autotune):
        return Space(discover_autotune(chain, example, options, deepest), nested=False)
    assert isinstance(options, Tune)
    return Space(discover_units(chain, example, options, deepest))


def builder_of(
    chain: nn.Sequential,
    space: Space,
    example: torch.Tensor,
    options: TuneBase,
    *,
    classifier: nn.Linear,
    magnitude: float | None,
    seed: int,
) -> Builder:
    """What makes the candidates of a space; see `CandidateBuilder` and `AutotuneBuilder`."""
    if isinstance(options, Autotune):
        return AutotuneBuilder(chain, space, example, options, seed=seed)
    assert isinstance(options, Tune)
    return CandidateBuilder(
        chain,
        space,
        example,
        importance=options.importance,
        classifier=classifier,
        magnitude=magnitude,
        seed=seed,
    )


def magnitude_of(classifier: nn.Linear, tails: Tails, path: Path) -> float:
    """Root-mean-square of a layer's outputs on the training features; measured once and kept in a file."""
    if not path.exists():
        train, _ = tails.features(head_start(tails.chain))
        batches = (train.batch(rows, None) for rows in torch.arange(len(train)).split(256))
        write_json(path, {"rms": output_magnitude(classifier, batches)})
    return float(read_json(path)["rms"])


class LatencyMeter:
    """Latencies as multiples of the original's, which is timed in turn with each network.

    Other work on the machine slows both, and the bound is on their ratio.

    Args:
        learner: the device and the example.
        chain: the original.
        measure: how latency is measured.
        path: keeps the original's latency, so that a resumed run has the same bound.
    """

    def __init__(self, learner: Learner, chain: nn.Sequential, measure: Measure, path: Path) -> None:
        self._learner, self._chain, self._measure, self._path = learner, chain, measure, path

    @property
    def original_ms(self) -> float:
        """Milliseconds of one sample, measured once."""
        if not self._path.exists():
            chain = self._learner.place(self._chain)
            timed = latency(chain, self._learner.samples.example, repeats=self._measure.repeats)
            write_json(self._path, {"original_ms": timed.median_ms})
        return float(read_json(self._path)["original_ms"])

    def __call__(self, network: nn.Sequential) -> float:
        """Milliseconds of one sample."""
        networks = {"original": self._chain, "network": self._learner.place(network)}
        timed = compare_latency(networks, self._learner.samples.example, repeats=self._measure.repeats)
        return timed["network"].median_ms / timed["original"].median_ms * self.original_ms


def goal_of(
    options: TuneBase,
    chain: nn.Sequential,
    space: Space,
    learner: Learner,
    *,
    classifier: nn.Linear,
    meter: LatencyMeter,
    baseline_accuracy: float,
    baseline: Path,
) -> Goal:
    """What trials are judged by, and the bounds on their networks.

    Args:
        options: objective and targets, which are shares of the pre-trained network's cost.
        chain: the pre-trained network with its trained softmax layer.
        space: the search space.
        learner: the samples.
        classifier: the pre-trained classification layer.
        meter: measures latency.
        baseline_accuracy: validation accuracy of the chain.
        baseline: folder of its archive.

    Raises:
        SurgeryError: the cost of a layer does not follow from its size, and bounds or objective need it.
    """
    objective, _, pareto_cost = options.objective.partition("_")
    whole = complexity(chain, learner.samples.example)
    params, latencies = [], []
    if options.params_target is not None:
        params.append(int(options.params_target * whole.params))
    if options.size_target is not None:
        params.append(int(whole.params - (1 - options.size_target) * size_bytes(baseline) / PARAM_BYTES))
    if options.latency_target is not None:
        latencies.append(options.latency_target * meter.original_ms)
    if options.latency_target_ms is not None:
        latencies.append(options.latency_target_ms)
    max_params = min(params, default=None)
    max_flops = None if options.flops_target is None else int(options.flops_target * whole.flops)
    slim = _slim(options, len(learner.samples.val))
    costs = None
    if pareto_cost or slim is not None or max_params is not None or max_flops is not None:
        costs = KnownCosts(_cost_model(options, chain, space, learner.samples.example, classifier))
    return Goal(
        objective=objective,  # type: ignore[arg-type]
        cost=costs,
        max_params=max_params,
        max_flops=max_flops,
        max_latency_ms=min(latencies, default=None),
        pareto_cost=pareto_cost or "flops",  # type: ignore[arg-type]
        # A front is worth what it adds to the network that there is before the search.
        reference=(baseline_accuracy, getattr(whole, pareto_cost)) if pareto_cost else None,
        slim=slim,
    )


def _slim(options: TuneBase, n_val: int) -> Slim | None:
    """Only a search that learns has turns to give, and only accuracies have a tolerance."""
    learns = options.algorithm == "bo" and options.objective == "accuracy"
    if not (isinstance(options, Tune) and options.slim_every and learns):
        return None
    return Slim(every=options.slim_every, n_val=n_val, tolerance=options.tolerance)


def _cost_model(
    options: TuneBase, chain: nn.Sequential, space: Space, example: torch.Tensor, classifier: nn.Linear
) -> CostModel | AutotuneCost:
    if isinstance(options, Autotune):
        return AutotuneCost(chain, space, example, options)
    return CostModel(chain, space, example, classifier=classifier)
