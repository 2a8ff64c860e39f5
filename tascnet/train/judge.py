"""The figures of finished networks, and where the figures come from."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from tascnet.data.samples import Samples
from tascnet.measure import describe_device, measure_models, size_bytes, versions
from tascnet.options import Measure
from tascnet.run.records import ModelMetrics, StageMetrics
from tascnet.train.learner import Learner

log = logging.getLogger("tascnet")

Metrics = TypeVar("Metrics", bound=StageMetrics)

# The figures that depend on the options of `Measure` and on the machine.
_LATENCIES = (
    *("latency_ms", "latency_ms_spread", "latency_ms_batch", "latency_ms_batch_spread"),
    *("batch", "threads", "device"),
)


def judge(
    learner: Learner, networks: Mapping[str, nn.Sequential], folders: Mapping[str, Path], measure: Measure
) -> dict[str, ModelMetrics]:
    """Accuracy and cost of networks, latencies side by side; the test samples are read here.

    Args:
        learner: the samples and the device.
        networks: by name, frozen as they were trained.
        folders: of each saved network.
        measure: how latency is measured.
    """
    placed = {name: learner.place(network) for name, network in networks.items()}
    costs = measure_models(placed, learner.samples.example, **asdict(measure))
    return {
        name: ModelMetrics(
            val_accuracy=learner.evaluate(network).accuracy,
            test_accuracy=learner.evaluate(network, learner.samples.test).accuracy,
            size_bytes=size_bytes(folders[name]),
            **costs[name],
        )
        for name, network in placed.items()
    }


def remeasured(
    metrics: Metrics, networks: Mapping[str, nn.Sequential], samples: Samples, measure: Measure
) -> Metrics | None:
    """The metrics of a finished stage with latencies by `measure`; None if they have the same options.

    Args:
        metrics: of the stage; only latencies are measured again.
        networks: all of its models, on the device.
        samples: of the stage.
        measure: how latency is measured.
    """
    wanted = asdict(measure)
    changed = [
        f"`{name}` was {metrics.measure.get(name)} and is now {value}"
        for name, value in wanted.items()
        if metrics.measure.get(name) != value
    ]
    if not changed:
        return None
    log.info("latencies are measured again: %s", ", ".join(changed))
    costs = measure_models(networks, samples.example, **wanted)
    models = {
        name: replace(model, **{key: costs[name][key] for key in _LATENCIES})
        for name, model in metrics.models.items()
    }
    device = next(next(iter(networks.values())).parameters()).device
    return replace(metrics, models=models, machine=describe_device(device), measure=wanted)


def stage_facts(learner: Learner, backbone: str, measure: Measure) -> dict[str, Any]:
    """The fields of `StageMetrics` on where figures come from: all but models, budget and seconds."""
    return {
        "dataset": learner.samples.dataset.name,
        "samples": learner.samples.counts(),
        "backbone": backbone,
        "machine": describe_device(learner.device),
        "measure": asdict(measure),
        "seed": learner.seed,
        "versions": versions(),
    }
