"""The figures of finished networks, and where the figures come from."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from tascnet.measure import describe_device, measure_facts, measure_models, size_bytes, versions
from tascnet.options import Measure
from tascnet.run.events import ModelEvent, emit
from tascnet.run.records import ModelMetrics, StageMetrics, StepRecord, TrainingRecord
from tascnet.run.verdict import class_warnings
from tascnet.train.classes import class_metrics, confusion
from tascnet.train.learner import Learner

log = logging.getLogger("tascnet")

Metrics = TypeVar("Metrics", bound=StageMetrics)

# The figures that depend on the options of `Measure` and on the machine.
_LATENCIES = ("latencies", "batch", "threads")


def judge(
    learner: Learner,
    networks: Mapping[str, nn.Sequential],
    folders: Mapping[str, Path],
    measure: Measure,
    *,
    learners: Mapping[str, Learner] | None = None,
    known: Mapping[str, ModelMetrics] | None = None,
) -> dict[str, ModelMetrics]:
    """Accuracy and cost of networks, latencies side by side; the test samples are read here.

    Args:
        learner: the samples and the device.
        networks: by name, frozen as they were trained.
        folders: of each saved network.
        measure: how latency is measured.
        learners: of networks that take other samples than `learner` has.
        known: figures of networks that were judged before; only their latencies are measured.
    """
    own, known = dict.fromkeys(networks, learner) | dict(learners or {}), known or {}
    placed = {name: learner.place(network) for name, network in networks.items()}
    examples = {name: own[name].samples.example for name in networks}
    costs = measure_models(placed, examples, measure=measure, cache=learner.samples.cache)
    judged = {
        name: _with_latencies(known[name], costs[name])
        if name in known
        else ModelMetrics(
            **_accuracies(own[name], network), size_bytes=size_bytes(folders[name]), **costs[name]
        )
        for name, network in placed.items()
    }
    for name, metrics in judged.items():
        emit(ModelEvent(name=name, metrics=metrics))
    return judged


def _with_latencies(model: ModelMetrics, costs: Mapping[str, Any]) -> ModelMetrics:
    return replace(model, **{key: costs[key] for key in _LATENCIES})


def _accuracies(learner: Learner, network: nn.Sequential) -> dict[str, Any]:
    """The fields of `ModelMetrics` on validation and test samples."""
    val, test = learner.evaluate(network), learner.evaluate(network, learner.samples.test)
    labels = learner.samples.test.labels
    return {
        "val_accuracy": val.accuracy,
        "val_balanced_accuracy": val.balanced_accuracy,
        "test_accuracy": test.accuracy,
        "test_balanced_accuracy": test.balanced_accuracy,
        "test_top5_accuracy": test.top5_accuracy,
        "classes": class_metrics(learner.samples.class_names, labels, test.predictions),
        "confusion": confusion(labels, test.predictions),
        "predictions": tuple(test.predictions.tolist()),
    }


def warn_of_lost_classes(metrics: StageMetrics) -> None:
    """Log what the accuracy of the network `after` hides."""
    if lines := class_warnings(metrics):
        log.warning("%s", " ".join(lines))


def remeasured(
    metrics: Metrics,
    networks: Mapping[str, nn.Sequential],
    example: Tensor | Mapping[str, Tensor],
    measure: Measure,
    *,
    cache: Path | None = None,
) -> Metrics | None:
    """The metrics of a finished stage with latencies by `measure`; None if it measures nothing else.

    Args:
        metrics: of the stage; only latencies are measured again.
        networks: all of its models, on the device.
        example: one sample `1 x ...`; by model where they take different ones.
        measure: how latency is measured. With `runtimes=None` fewer of them than before are no
            reason to measure again.
        cache: folder that keeps files which are exported for timing; None: they are not kept.
    """
    device = next(next(iter(networks.values())).parameters()).device
    before, wanted = metrics.measure, measure_facts(measure, device)
    changed = {name for name in ("batch", "repeats", "runtimes") if before.get(name) != wanted[name]}
    has_all = measure.runtimes is None and set(wanted["runtimes"]) <= set(before.get("runtimes", ()))
    if not changed or (has_all and changed == {"runtimes"}):
        return None
    words = (
        f"`{name}` was {before.get(name)} and is now {value}"
        for name, value in wanted.items()
        if name in changed
    )
    log.info("latencies are measured again: %s", ", ".join(words))
    costs = measure_models(networks, example, measure=measure, cache=cache)
    models = {name: _with_latencies(model, costs[name]) for name, model in metrics.models.items()}
    return replace(metrics, models=models, machine=describe_device(device), measure=wanted)


def trainings_of(steps: Mapping[str, StepRecord]) -> dict[str, TrainingRecord]:
    """The trainings of steps by their names; that of a new head has the name `<step>: head`."""
    found = {}
    for name, step in steps.items():
        for key, training in ((f"{name}: head", step.head), (name, step.training)):
            if training is not None:
                found[key] = training
    return found


def stage_facts(learner: Learner, backbone: str, measure: Measure) -> dict[str, Any]:
    """The fields of `StageMetrics` on where figures come from: all but models, budget and seconds."""
    return {
        "dataset": learner.samples.dataset.name,
        "samples": learner.samples.counts(),
        "backbone": backbone,
        "machine": describe_device(learner.device),
        "measure": measure_facts(measure, learner.device),
        "seed": learner.seed,
        "metric": learner.metric,
        "class_weights": learner.trainer.class_weights,
        "versions": versions(),
    }
