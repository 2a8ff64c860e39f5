"""What is read from run folders."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What every model's record in `metrics.json` holds, and the table shows.
FIGURES = (
    *("val_accuracy", "test_accuracy", "params", "flops", "size_bytes"),
    *("latency_ms", "latency_ms_batch"),
)
LATENCIES = ("latency_ms", "latency_ms_batch")


@dataclass(frozen=True, kw_only=True)
class Aside:
    """A folder that does not take part, or a part of it, and why."""

    folder: str
    reason: str


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """Where latency was measured.

    Args:
        machine: name of the processor or the accelerator.
        device: such as `cpu` or `cuda:0`.
        threads: CPU threads.
    """

    machine: str
    device: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Model:
    """One network of one run.

    Args:
        figures: the values of `FIGURES`.
        place: where its latency was measured.
        batch: samples in a pass of `latency_ms_batch`.
    """

    figures: Mapping[str, float]
    place: Place
    batch: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A finished stage of a run.

    Args:
        stage: tune or prune.
        preset: of a pruning, else None.
        pick: number of the trial that was picked, or None for the search's own winner.
        models: by their names in `metrics.json`.
        options: what can change its numbers, but for the seed and digests of what it reads.
        data: digest of the samples, or None.
    """

    stage: str
    preset: str | None
    pick: int | None
    models: Mapping[str, Model]
    options: Mapping[str, Any]
    data: str | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, with one or more finished stages.

    Args:
        folder: where it lies.
        dataset: name of the data set.
        backbone: name of the network.
        name: its folder's name without the seed.
        seed: of the run.
        stages: those that are finished, by the names of their folders.
    """

    folder: str
    dataset: str
    backbone: str
    name: str
    seed: int
    stages: Mapping[str, Stage] = field(default_factory=dict)
