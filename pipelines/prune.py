"""Stage two: remove the filters that stayed redundant through the training history.

Each iteration records a history, pulls the most similar filters together, removes one of each pair,
measures batch-norm anew and retrains; the last network inside the tolerance is handed over.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tascnet.config import Config, PruneConfig
from tascnet.console import output
from tascnet.errors import ConfigError, RunFolderError
from tascnet.files import append_jsonl, digest_file, digest_json, read_json, read_jsonl, write_json
from tascnet.measure import compare_layers, complexity, measure_models, size_bytes, versions
from tascnet.models.archive import load, save
from tascnet.models.info import ModelInfo
from tascnet.models.surgery import WidthGroup, consumer_inputs, narrow, width_groups
from tascnet.prune import (
    INERT_RATIO,
    FilterHistory,
    IterationResult,
    PairRegulariser,
    Verdict,
    average_into,
    decide,
    fold_into,
    gradient_ratio,
    input_moments,
    most_similar_pairs,
    plan_iteration,
    split_members,
)
from tascnet.report import models_table, prune_report, widths_table
from tascnet.runs import budget, claim, finished, identity, stage_folder
from tascnet.train import Distillation, FitResult, evaluate, freeze_before, reestimate_batchnorm

from .estimate import print_iteration_estimate
from .session import Session, check_data, open_session, recipe, user_factory
from .steps import describe, fit_record, judge, once

__all__ = ["run"]

log = logging.getLogger("tascnet")

# Samples over which activations are compared when removed filters are folded.
FOLD_SAMPLES = 1024
# What every line of the journal holds.
ROW_KEYS = ("iteration", "val_accuracy", "params", "flops", "inside", "removed", "pending", "seconds")
# What decides which samples are test samples.
SPLIT_KEYS = (
    "seed",
    "input.data",
    "dataset.train_per_class",
    "dataset.val_per_class",
    "dataset.train_fraction",
    "dataset.val_fraction",
)


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """What the steps of this stage share."""

    session: Session
    folder: Path
    source: Path
    before: nn.Sequential
    info: ModelInfo

    @property
    def config(self) -> Config:
        return self.session.config

    def read(self, iteration: int) -> nn.Sequential:
        """The network of an iteration."""
        return load(self.network(iteration), factory=self.session.factory)

    def network(self, iteration: int) -> Path:
        """Where the network of an iteration is archived; iteration 0 is the unpruned one."""
        return self.source if iteration == 0 else self.folder / "state" / f"iteration-{iteration:03d}"


def run(config: Config) -> None:
    """Run stage `prune`, or go on with it, or say that it is finished."""
    check_data(config)
    source = _source_folder(config)
    before = load(source, factory=user_factory(config))
    info = cast(ModelInfo, before.info)
    session = open_session(config, info.preprocessing)
    _check_classes(session, info, source)
    folder = stage_folder(config, "prune")
    _check_source(config, session, source, folder)
    stage = _Stage(session=session, folder=folder, source=source, before=session.place(before), info=info)
    # Before the folder is claimed: a mistake must not cost what fresh=true would replace.
    _eligible(before, stage, refuse=True)
    inputs = {"data": session.dataset.fingerprint, "model": _digest(source)}
    with claim(folder, identity(config, "prune", inputs), fresh=config.fresh):
        if finished(folder, budget(config, "prune")):
            log.info("prune is finished in %s; fresh=true starts it over", folder)
        else:
            _prune(stage)
        metrics = read_json(folder / "metrics.json")
        output().print(widths_table(*_widths(metrics["widths"])))
        output().print(models_table(metrics["models"]))


def _prune(stage: _Stage) -> None:
    journal = stage.folder / "iterations.jsonl"
    print_iteration_estimate(stage.session, stage.before)
    rows = _read_rows(journal)
    if not rows:
        rows.append(_unpruned_row(stage))
        append_jsonl(journal, rows[0])
    rows, verdict = _replayed(rows, stage.config.prune)
    reason = verdict.reason
    while reason is None:
        row, reason = _iterate(stage, len(rows), rows[-1]["pending"])
        if row is None:
            break
        verdict = _verdict([*rows, row], stage.config.prune)
        row["inside"] = verdict.inside[-1]
        append_jsonl(journal, row)
        rows.append(row)
        reason = verdict.reason
    assert reason is not None, "the loop ends with a reason"
    log.info("pruning ended after %d iterations: %s", len(rows) - 1, reason)
    # Anew for all of them: the tolerance may have been raised since they were journalled.
    rows = [{**row, "inside": inside} for row, inside in zip(rows, verdict.inside, strict=True)]
    _hand_over(stage, rows, verdict.keep, reason)


def _read_rows(journal: Path) -> list[dict[str, Any]]:
    """One row for each iteration journalled so far, the first of the unpruned network."""
    rows = read_jsonl(journal, ROW_KEYS)
    if [row["iteration"] for row in rows] != list(range(len(rows))):
        raise RunFolderError(f"{journal} lacks lines in its middle", "start over with stage=prune fresh=true")
    return rows


def _replayed(rows: list[dict[str, Any]], options: PruneConfig) -> tuple[list[dict[str, Any]], Verdict]:
    """The journal as far as an uninterrupted run under these limits would have come."""
    for count in range(1, len(rows) + 1):
        verdict = _verdict(rows[:count], options)
        if verdict.stop:
            break
    return rows[:count], verdict


def _verdict(rows: list[dict[str, Any]], options: PruneConfig) -> Verdict:
    seconds = 0.0
    history = []
    for row in rows:
        seconds += row["seconds"]
        history.append(
            IterationResult(
                iteration=row["iteration"],
                val_accuracy=row["val_accuracy"],
                flops=row["flops"],
                params=row["params"],
                seconds=seconds,
            )
        )
    return decide(
        history,
        tolerance=options.tolerance,
        flops_target=options.flops_target,
        params_target=options.params_target,
        max_iterations=options.max_iterations,
        max_seconds=options.max_seconds,
    )


def _iterate(stage: _Stage, number: int, pending: dict[str, int]) -> tuple[dict[str, Any] | None, str | None]:
    """One iteration from the network of the one before; None and why when no group can give up filters."""
    started = time.perf_counter()
    options = stage.config.prune
    network = stage.read(number - 1)
    groups = _eligible(network, stage)
    plan = plan_iteration(
        {group.name: group.width for group in groups},
        pending,
        percent=options.percent,
        round_to=options.round_to,
        max_step=options.max_step,
    )
    if not plan.remove:
        return None, plan.reason
    log.info(
        "iteration %d takes %d filters of %d groups", number, sum(plan.remove.values()), len(plan.remove)
    )
    chosen = [group for group in groups if group.name in plan.remove]
    network, record = once(
        stage.network(number),
        stage.info,
        lambda folder: _cut_and_recover(stage, network, chosen, plan.remove, folder),
        stage.session.factory,
    )
    cost = complexity(network, stage.session.example)
    log.info(
        "iteration %d: validation accuracy %.2f %% (%.2f %% before retraining), %.4g MFLOPs, %.3g M params",
        number,
        100 * record["val_accuracy"],
        100 * record["val_accuracy_after_cut"],
        cost.flops / 1e6,
        cost.params / 1e6,
    )
    kept = (
        "val_accuracy",
        "val_loss",
        "val_accuracy_after_cut",
        "pairs_similarity_before",
        "pairs_similarity_after",
    )
    return {
        "iteration": number,
        **{key: record[key] for key in kept},
        "params": cost.params,
        "flops": cost.flops,
        "removed": plan.remove,
        "pending": plan.pending,
        "seconds": time.perf_counter() - started,
    }, None


def _cut_and_recover(
    stage: _Stage, network: nn.Sequential, groups: list[WidthGroup], removals: dict[str, int], folder: Path
) -> tuple[nn.Sequential, dict[str, Any]]:
    """History, pairs, optimisation phase, removal, retraining."""
    session, options = stage.session, stage.config.prune
    session.place(network)
    history = FilterHistory(groups)
    train = partial(_train, stage, network, folder)
    train("history", options.history_epochs, recorder=history, keep="last")
    pairs = {
        group.name: most_similar_pairs(history.similarity(group.name), removals[group.name])
        for group in groups
    }
    penalty = PairRegulariser(network, groups, pairs, options.regulariser, options.regulariser_weight)
    before = _mean(penalty.similarities())
    _report_strength(stage, network, penalty)
    train("optimise", options.optimise_epochs, penalty=penalty, keep="last")
    after = _mean(penalty.similarities())
    log.info("mean similarity of the pairs: %.4f before, %.4f after the optimisation phase", before, after)
    _remove(stage, network, groups, pairs, history)
    first = min(group.first_block for group in groups)
    reestimate_batchnorm(network, session.train, first_block=first, device=session.device)
    cut = evaluate(network, session.val, device=session.device)
    result = train("retrain", options.retrain_epochs, distillation=_distillation(stage))
    return network, {
        **fit_record(result),
        "val_accuracy_after_cut": cut.accuracy,
        "pairs_similarity_before": before,
        "pairs_similarity_after": after,
    }


def _report_strength(stage: _Stage, network: nn.Sequential, penalty: PairRegulariser) -> None:
    """Log the regulariser's value and gradient against the loss's, and warn when it moves nothing."""
    session = stage.session
    freeze_before(network, 0)
    network.eval()
    rows = torch.arange(min(len(session.train), stage.config.trainer.recover.batch_size))
    logits = network(session.train.batch(rows, None).to(session.device))
    loss = functional.cross_entropy(logits, session.train.labels[rows].to(session.device))
    value = penalty()
    ratio = gradient_ratio(value, loss, penalty.parameters())
    log.info("regulariser: value %.4g, its gradient is %.3g times the loss's", float(value.detach()), ratio)
    if ratio < INERT_RATIO:
        log.warning(
            "the regulariser is inert (%.1e of the loss's gradient): take prune.regulariser=per_group_mean",
            ratio,
        )


def _mean(similarities: dict[str, float]) -> float:
    return sum(similarities.values()) / len(similarities)


def _train(
    stage: _Stage, network: nn.Sequential, folder: Path, phase: str, epochs: int, **options: Any
) -> FitResult:
    """Train every layer by the recovery recipe; `options` are those of `tascnet.train.fit`."""
    freeze_before(network, 0)
    steps = recipe(stage.config.trainer.recover, epochs=epochs)
    if phase in ("history", "optimise"):
        steps = replace(steps, lr=steps.lr * stage.config.prune.phase_lr)
    return stage.session.fit(network, steps, checkpoint=folder / f"{phase}.pt", description=phase, **options)


def _distillation(stage: _Stage) -> Distillation | None:
    """The unpruned network as a teacher, where `prune.distill` asks for one."""
    options = stage.config.prune
    if not options.distill:
        return None
    return Distillation(teacher=stage.before, weight=options.distill, temperature=options.distill_temperature)


def _remove(
    stage: _Stage,
    network: nn.Sequential,
    groups: list[WidthGroup],
    pairs: dict[str, list[tuple[int, int]]],
    history: FilterHistory,
) -> None:
    """Cut of each pair the filter of the smaller L1 norm over the epochs out of the network."""
    session, merge = stage.session, stage.config.prune.merge
    members = {g.name: split_members(pairs[g.name], history.l1(g.name)) for g in groups}
    if merge == "fold":
        inputs = consumer_inputs(network, session.example, groups)
        moments = input_moments(network.eval(), inputs, _fold_batches(session), seed=stage.config.seed)
    for group in groups:
        kept, removed = members[group.name]
        if merge == "average":
            average_into(network, group, kept, removed, history.l1(group.name))
        elif merge == "fold":
            fold_into(network, inputs[group.name], moments[group.name], removed)
    keep = {g.name: sorted(set(range(g.width)) - set(members[g.name][1])) for g in groups}
    narrow(network, session.example, keep)
    session.place(network)


def _fold_batches(session: Session) -> Iterator[Tensor]:
    """Plain training samples, drawn by the seed and at most `FOLD_SAMPLES`."""
    generator = torch.Generator().manual_seed(session.config.seed)
    rows = torch.randperm(len(session.train), generator=generator)[:FOLD_SAMPLES]
    for part in rows.split(64):
        yield session.train.batch(part, None).to(session.device)


def _eligible(network: nn.Sequential, stage: _Stage, *, refuse: bool = False) -> list[WidthGroup]:
    """The groups wide enough to be pruned; with `refuse`, none is an error."""
    minimum = stage.config.prune.min_filters
    groups = width_groups(network, stage.session.example)
    eligible = [group for group in groups if group.width >= minimum]
    if refuse and not eligible:
        widest = max((group.width for group in groups), default=0)
        raise ConfigError(
            f"no group of layers has at least prune.min_filters={minimum} filters, the widest has {widest}",
            f"lower it, for example prune.min_filters={max(2, widest // 2)}",
        )
    return eligible


def _unpruned_row(stage: _Stage) -> dict[str, Any]:
    verdict = evaluate(stage.before, stage.session.val, device=stage.session.device)
    cost = complexity(stage.before, stage.session.example)
    return {
        "iteration": 0,
        "val_accuracy": verdict.accuracy,
        "val_loss": verdict.loss,
        "params": cost.params,
        "flops": cost.flops,
        "inside": True,
        "removed": {},
        "pending": {},
        "seconds": 0.0,
    }


def _hand_over(stage: _Stage, rows: list[dict[str, Any]], kept: int, reason: str) -> None:
    """Save and measure the kept network, and read the test split for it and for the unpruned one."""
    measuring = time.perf_counter()
    session, config = stage.session, stage.config
    after = _recovered(stage, kept, rows[kept]["val_accuracy"])
    # Without its metrics the stage counts as unfinished, whatever interrupts the lines below.
    (stage.folder / "metrics.json").unlink(missing_ok=True)
    save(stage.folder / "model", after, stage.info)
    networks = {"before": stage.before, "after": session.place(after)}
    costs = measure_models(
        networks,
        session.example,
        batch=config.measure.batch,
        repeats=config.measure.repeats,
        warmup=config.measure.warmup,
    )
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
        "seconds": sum(row["seconds"] for row in rows) + time.perf_counter() - measuring,
        "seed": config.seed,
        "versions": versions(),
        **describe(session),
    }
    prune_report(stage.folder / "report.html", metrics, rows, widths)
    write_json(stage.folder / "metrics.json", metrics)
    log.info("report: %s", stage.folder / "report.html")


def _recovered(stage: _Stage, kept: int, val_accuracy: float) -> nn.Sequential:
    """The kept network after a last, longer recovery, or as it is where that brings nothing."""
    epochs = stage.config.prune.final_epochs
    network = stage.read(kept)
    if not epochs or not kept:
        return network

    def work(folder: Path) -> tuple[nn.Sequential, dict[str, Any]]:
        stage.session.place(network)
        result = _train(stage, network, folder, "final", epochs, distillation=_distillation(stage))
        return network, fit_record(result)

    place = stage.folder / "state" / f"final-{kept:03d}"
    recovered, record = once(place, stage.info, work, stage.session.factory)
    log.info("after the last recovery: validation accuracy %.2f %%", 100 * record["val_accuracy"])
    return recovered if record["val_accuracy"] >= val_accuracy else stage.read(kept)


def _widths(rows: list[dict[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """Widths by layer, before and after."""
    before, after = ({row["layer"]: row[side] for row in rows} for side in ("before", "after"))
    return before, after


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


def _check_source(config: Config, session: Session, source: Path, folder: Path) -> None:
    """Refuse a source that this stage would overwrite, or that was trained on what is test data here."""
    if folder.resolve() in source.resolve().parents:
        raise ConfigError(
            f"prune.source={source} lies in the folder that this stage writes to",
            "choose another folder with name=..., or another model",
        )
    trained = source.parent / "identity.json"
    if not trained.exists():
        log.warning("nothing says which images the model in %s has seen: test accuracy may flatter", source)
        return
    known = read_json(trained)
    now = identity(config, "prune", {"data": session.dataset.fingerprint})
    differing = [key for key in SPLIT_KEYS if key in known and known[key] != now.get(key)]
    if differing:
        raise ConfigError(
            f"the model in {source} was trained on another split of the data ({', '.join(differing)} differ)"
            " and may know the test images",
            "give the options that it was tuned with",
        )


def _check_classes(session: Session, info: ModelInfo, source: Path) -> None:
    if info.class_names != session.dataset.class_names:
        raise ConfigError(
            f"the model in {source} knows {len(info.class_names)} classes and the data set has "
            f"{len(session.dataset.class_names)} that are not the same",
            "give the data set that the model was trained on",
        )


def _digest(folder: Path) -> str:
    return digest_json([digest_file(folder / name) for name in ("model.safetensors", "architecture.json")])
