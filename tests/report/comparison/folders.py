"""Run folders by hand: the figures of each network are what a test says, the rest is filled in."""

import json
from pathlib import Path
from typing import Any

MACHINE = {"name": "Chip", "cpu": "Chip", "device": "cpu", "threads": 2, "torch": "2"}
# A network of round figures.
PLAIN = {
    "val_accuracy": 0.8,
    "test_accuracy": 0.75,
    "params": 1000,
    "trainable_params": 10,
    "flops": 4000,
    "flops_counted": "all",
    "size_bytes": 5000,
    "latency_ms": 2.0,
    "latency_ms_batch": 10.0,
    "batch": 16,
    "threads": 2,
    "device": "cpu",
}


def write_run(
    outputs: Path,
    seed: int = 0,
    *,
    dataset: str = "digits",
    backbone: str = "cnn",
    name: str = "run",
    tune: dict[str, dict[str, Any]] | None = None,
    prune: dict[str, dict[str, Any]] | None = None,
    preset: str = "prune",
    options: dict[str, Any] | None = None,
    budget: dict[str, Any] | None = None,
    data: str = "d",
    machine: dict[str, Any] | None = None,
) -> Path:
    """A run folder with a finished stage tune and, where `prune` is given, a pruning.

    Args:
        outputs: above the data set's folder.
        tune: what differs from `PLAIN` of baseline, conventional and after.
        prune: the same of before and after.
        preset: folder of the pruning.
        options: of tune's identity.
        budget: of tune.
        data: digest of the samples.
        machine: what differs from `MACHINE`.
    """
    folder = outputs / dataset / backbone / f"{name}-seed{seed}"
    owner = {"seed": seed, "dataset.name": dataset, "backbone.name": backbone, "input.data": data}
    stages = [
        ("tune", "tune", ("baseline", "conventional", "after"), tune or {}, options or {}, budget or {})
    ]
    if prune is not None:
        stages.append(("prune", preset, ("before", "after"), prune, {}, {}))
    for stage, place, names, changed, own, limits in stages:
        (folder / place).mkdir(parents=True, exist_ok=True)
        metrics = {
            "models": {name: {**PLAIN, **changed.get(name, {})} for name in names},
            "seed": seed,
            "budget": limits,
            "machine": {**MACHINE, **(machine or {})},
            "dataset": dataset,
            "backbone": backbone,
        }
        (folder / place / "identity.json").write_text(json.dumps({"stage": stage, **owner, **own}))
        (folder / place / "metrics.json").write_text(json.dumps(metrics))
    return folder
