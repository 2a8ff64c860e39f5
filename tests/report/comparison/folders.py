"""Run folders by hand: the figures of each network are what a test says, the rest is filled in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tascnet.run.records import write_record
from tests.report.records import MACHINE, model, prune_metrics, tune_metrics


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
    metric: str = "accuracy",
) -> Path:
    """A run folder with a finished stage tune and, where `prune` is given, a pruning.

    Args:
        outputs: above the data set's folder.
        tune: what differs from `model()` of baseline, conventional and after.
        prune: the same of before and after.
        preset: folder of the pruning.
        options: of tune's identity.
        budget: of tune.
        data: digest of the samples.
        machine: what differs from `MACHINE`.
        metric: of both stages.
    """
    folder = outputs / dataset / backbone / f"{name}-seed{seed}"
    owner = {
        "seed": seed,
        "dataset": dataset,
        "backbone": backbone,
        "metric": metric,
        "machine": replace(MACHINE, **(machine or {})),
    }

    def write(stage: str, place: str, metrics: Any, identity: dict[str, Any]) -> None:
        (folder / place).mkdir(parents=True, exist_ok=True)
        identity = {"stage": stage, "seed": seed, **identity, "input.data": data}
        write_record(folder / place / "identity.json", identity)
        write_record(folder / place / "metrics.json", metrics)

    tuned = {key: model(**(tune or {}).get(key, {})) for key in ("baseline", "conventional", "after")}
    write("tune", "tune", tune_metrics(models=tuned, budget=budget or {}, **owner), options or {})
    if prune is not None:
        pruned = {key: model(**prune.get(key, {})) for key in ("before", "after")}
        write("prune", preset, prune_metrics(models=pruned, **owner), {})
    return folder
