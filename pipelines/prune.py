"""Stage two: remove the filters that stayed redundant through the training history.

Each iteration records a history, pulls the most similar filters together, removes one of each pair,
measures batch-norm anew and retrains; the last network inside the tolerance is handed over.
"""

import copy
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tascnet.config import Config
from tascnet.console import output
from tascnet.errors import ConfigError, RunFolderError
from tascnet.files import append_jsonl, digest_file, digest_json, read_json, read_jsonl, write_json
from tascnet.measure import compare_layers, complexity, measure_models, size_bytes, versions
from tascnet.models.archive import load, save
from tascnet.models.surgery import WidthGroup, narrow, width_groups
from tascnet.prune import (
    FilterHistory,
    PairRegulariser,
    average_into,
    decide,
    most_similar_pairs,
    plan_step,
)
from tascnet.report import models_table, prune_report
from tascnet.runs import budget, claim, finished, identity, stage_folder
from tascnet.train import Distillation, FitResult, evaluate, fit, freeze_before, reestimate_batchnorm

from .session import Session, open_session, recipe
from .steps import fit_record, judge, once

__all__ = ["run"]

log = logging.getLogger("tascnet")


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """What the steps of this stage share."""

    session: Session
    folder: Path
    source: Path
    before: nn.Sequential
    info: Any

    @property
    def config(self) -> Config:
        return self.session.config

    def network(self, iteration: int) -> Path:
        """Where the network of an iteration is archived; iteration 0 is the unpruned one."""
        return self.source if iteration == 0 else self.folder / "state" / f"iteration-{iteration:03d}"


def run(config: Config) -> None:
    """Run stage `prune`, or go on with it, or say that it is finished."""
    started = time.perf_counter()
    source = _source_folder(config)
    before = load(source)
    if not isinstance(before, nn.Sequential):
        raise ConfigError(f"the model in {source} is no chain of blocks", "give a model that tascnet saved")
    session = open_session(config, before.preprocessing)
    _check_classes(session, before, source)
    folder = stage_folder(config, "prune")
    inputs = {"data": session.dataset.fingerprint, "model": _digest(source)}
    with claim(folder, identity(config, "prune", inputs), fresh=config.fresh):
        if finished(folder, budget(config, "prune")):
            log.info("prune is finished in %s; fresh=true starts it over", folder)
        else:
            stage = _Stage(session=session, folder=folder, source=source, before=before, info=before.info)
            _prune(stage, started)
        output().print(models_table(read_json(folder / "metrics.json")["models"]))


def _prune(stage: _Stage, started: float) -> None:
    journal = stage.folder / "iterations.jsonl"
    session, options = stage.session, stage.config.prune
    session.place(stage.before)
    _eligible(stage.before, stage, refuse=True)
    rows = read_jsonl(journal)
    if not rows:
        rows.append(_unpruned_row(stage))
        append_jsonl(journal, rows[0])
    while (verdict := decide(rows, _limits(options))).go_on:
        row = _iterate(stage, len(rows), rows[-1]["pending"])
        if row is None:
            verdict = replace(verdict, go_on=False, reason="no group can give up more filters")
            break
        row["inside"] = row["val_accuracy"] >= max(r["val_accuracy"] for r in rows) - options.tolerance
        append_jsonl(journal, row)
        rows.append(row)
    log.info("pruning ended after %d iterations: %s", len(rows) - 1, verdict.reason)
    _hand_over(stage, rows, verdict.keep, verdict.reason, started)


def _iterate(stage: _Stage, number: int, pending: dict[str, float]) -> dict[str, Any] | None:
    """One iteration from the network of the one before; None when no group can give up filters."""
    started = time.perf_counter()
    network = load(stage.network(number - 1))
    assert isinstance(network, nn.Sequential)
    groups = _eligible(network, stage)
    removals, pending = _plan(groups, pending, stage)
    if not removals:
        return None
    folder = stage.network(number)
    log.info("iteration %d takes %d filters of %d groups", number, sum(removals.values()), len(removals))
    chosen = [group for group in groups if group.name in removals]
    network, record = once(
        folder, stage.info, lambda path: _cut_and_recover(stage, network, chosen, removals, path.parent)
    )
    cost = complexity(network, stage.session.example)
    row = {
        "iteration": number, "val_accuracy": record["val_accuracy"], "val_loss": record["val_loss"],
        "val_accuracy_after_cut": record["after_cut"], "params": cost.params, "flops": cost.flops,
        "removed": removals, "pending": pending, "pairs_similarity_before": record["similarity_before"],
        "pairs_similarity_after": record["similarity_after"], "seconds": time.perf_counter() - started,
    }  # fmt: skip
    log.info(
        "iteration %d: validation accuracy %.2f %% (%.2f %% before retraining), %.4g MFLOPs, %.3g M params",
        number, 100 * row["val_accuracy"], 100 * row["val_accuracy_after_cut"], cost.flops / 1e6, cost.params / 1e6,
    )  # fmt: skip
    return row


def _cut_and_recover(
    stage: _Stage, network: nn.Sequential, groups: list[WidthGroup], removals: dict[str, int], folder: Path
) -> tuple[nn.Sequential, dict[str, Any]]:
    """History, pairs, optimisation phase, removal, retraining."""
    session, options = stage.session, stage.config.prune
    session.place(network)
    history = FilterHistory(groups)
    _train(stage, network, options.history_epochs, folder / "history.pt", "history", recorder=history, keep="last")
    pairs = {
        group.name: most_similar_pairs(history.similarity(group.name), removals[group.name]) for group in groups
    }
    penalty = PairRegulariser(network, groups, pairs, kind=options.regulariser, weight=options.regulariser_weight)
    before = penalty.mean_similarity()
    _report_strength(stage, network, penalty)
    _train(stage, network, options.optimise_epochs, folder / "optimise.pt", "optimise", penalty=penalty, keep="last")
    after = penalty.mean_similarity()
    log.info("similarity of the pairs: %.4f before, %.4f after the optimisation phase", before, after)
    keep = _remove(stage, network, groups, pairs, history)
    narrow(network, session.example.to(session.device), keep)
    session.place(network)
    first = min(group.first_block for group in groups)
    reestimate_batchnorm(network, session.train, first_block=first, device=session.device)
    cut = evaluate(network, session.val, device=session.device)
    result = _train(stage, network, options.retrain_epochs, folder / "retrain.pt", "retrain", distil=True)
    for name in ("history", "optimise", "retrain"):
        (folder / f"{name}.pt").unlink(missing_ok=True)
    record = {"after_cut": cut.accuracy, "similarity_before": before, "similarity_after": after}
    return network, {**fit_record(result), **record}


def _train(
    stage: _Stage,
    network: nn.Sequential,
    epochs: int,
    checkpoint: Path,
    description: str,
    *,
    distil: bool = False,
    keep: str = "best",
    **options: Any,
) -> FitResult:
    """Train every layer by the recovery recipe."""
    session, prune = stage.session, stage.config.prune
    freeze_before(network, 0)
    distillation = None
    if distil and prune.distill > 0:
        distillation = Distillation(
            teacher=stage.before, weight=prune.distill, temperature=prune.distill_temperature
        )
    return fit(
        network, session.train, session.val, replace(recipe(stage.config.trainer.recover), epochs=epochs),
        seed=stage.config.seed, device=session.device, class_weights=session.class_weights,
        distillation=distillation, checkpoint=checkpoint, description=description, keep=keep, **options,
    )  # fmt: skip


def _remove(
    stage: _Stage,
    network: nn.Sequential,
    groups: list[WidthGroup],
    pairs: dict[str, list[tuple[int, int]]],
    history: FilterHistory,
) -> dict[str, list[int]]:
    """The channels that stay: of each pair the filter of the larger L1 norm over the epochs."""
    keep = {}
    for group in groups:
        l1 = history.l1(group.name)
        losers = {b if l1[a] >= l1[b] else a: a if l1[a] >= l1[b] else b for a, b in pairs[group.name]}
        if stage.config.prune.merge == "average":
            average_into(network, group, losers, l1)
        keep[group.name] = [channel for channel in range(group.width) if channel not in losers]
    return keep


def _eligible(network: nn.Sequential, stage: _Stage, *, refuse: bool = False) -> list[WidthGroup]:
    """The groups wide enough to be pruned; with `refuse`, none is an error."""
    minimum = stage.config.prune.min_filters
    groups = width_groups(network, stage.session.example.to(stage.session.device))
    eligible = [group for group in groups if group.width >= minimum]
    if refuse and not eligible:
        widest = max((group.width for group in groups), default=0)
        raise ConfigError(
            f"no group of layers has at least prune.min_filters={minimum} filters, the widest has {widest}",
            f"lower it, for example prune.min_filters={max(2, widest // 2)}",
        )
    return eligible


def _plan(
    groups: list[WidthGroup], pending: dict[str, float], stage: _Stage
) -> tuple[dict[str, int], dict[str, float]]:
    """How many filters each group gives up: requests accumulate until some group reaches a multiple."""
    options = stage.config.prune
    pending = dict(pending)
    for _ in range(2 * options.round_to):
        removals = {}
        for group in groups:
            step = plan_step(
                group.width, pending.get(group.name, 0.0), percent=options.percent, round_to=options.round_to,
                max_step=options.max_step,
            )  # fmt: skip
            pending[group.name] = step.pending
            if step.remove:
                removals[group.name] = step.remove
        if removals:
            return removals, pending
    return {}, pending


def _unpruned_row(stage: _Stage) -> dict[str, Any]:
    verdict = evaluate(stage.before, stage.session.val, device=stage.session.device)
    cost = complexity(stage.before, stage.session.example)
    return {
        "iteration": 0, "val_accuracy": verdict.accuracy, "val_loss": verdict.loss, "params": cost.params,
        "flops": cost.flops, "inside": True, "removed": {}, "pending": {}, "seconds": 0.0,
    }  # fmt: skip


def _hand_over(stage: _Stage, rows: list[dict[str, Any]], kept: int, reason: str, started: float) -> None:
    """Save and measure the kept network, and read the test split for it and for the unpruned one."""
    session, config = stage.session, stage.config
    after = load(stage.network(kept))
    assert isinstance(after, nn.Sequential)
    save(stage.folder / "model", after, stage.info)
    networks = {"before": stage.before, "after": session.place(after)}
    costs = measure_models(
        networks, session.example, batch=config.measure.batch, repeats=config.measure.repeats,
        warmup=config.measure.warmup,
    )  # fmt: skip
    folders = {"before": stage.source, "after": stage.folder / "model"}
    widths = compare_layers(complexity(stage.before, session.example), complexity(after, session.example))
    metrics = {
        "models": {
            name: {**judge(session, network), **costs[name], "size_bytes": size_bytes(folders[name])}
            for name, network in networks.items()
        },
        "iterations": len(rows) - 1,
        "kept_iteration": kept,
        "stopped": reason,
        "tolerance": config.prune.tolerance,
        "widths": widths,
        "budget": budget(config, "prune"),
        "seconds": sum(row["seconds"] for row in rows) + time.perf_counter() - started,
        "seed": config.seed,
        "versions": versions(),
    }
    prune_report(stage.folder / "report.html", metrics, rows, widths)
    write_json(stage.folder / "metrics.json", metrics)
    log.info("report: %s", stage.folder / "report.html")


def _source_folder(config: Config) -> Path:
    """The saved model to prune: `prune.source`, or what stage `tune` left in the same run folder."""
    if config.prune.source is not None:
        return Path(config.prune.source)
    folder = stage_folder(config, "tune")
    if not finished(folder):
        raise RunFolderError(
            f"stage prune needs a tuned model, but there is none in {folder}",
            "run stage=tune with the same options first, or give prune.source=<folder of a saved model>",
        )
    return folder / "model"


def _check_classes(session: Session, model: Any, source: Path) -> None:
    if tuple(model.class_names) != session.dataset.class_names:
        raise ConfigError(
            f"the model in {source} knows {len(model.class_names)} classes and the data set has "
            f"{len(session.dataset.class_names)} that are not the same",
            "give the data set that the model was trained on",
        )


def _digest(folder: Path) -> str:
    return digest_json([digest_file(folder / name) for name in ("model.safetensors", "architecture.json")])
