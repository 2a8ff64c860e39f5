"""One iteration of stage `prune`: history, pairs, optimisation phase, removal, retraining."""

import logging
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tascnet.measure import Complexity, complexity
from tascnet.models.surgery import WidthGroup, consumer_inputs, narrow
from tascnet.prune import (
    INERT_RATIO,
    FilterHistory,
    PairRegulariser,
    average_into,
    fold_into,
    gradient_ratio,
    input_moments,
    most_similar_pairs,
    plan_iteration,
    split_members,
)
from tascnet.train import evaluate, freeze_before, reestimate_batchnorm

from ..session import Session
from ..steps import fit_record
from .journal import Row
from .stage import PruneStage, eligible_groups, train

__all__ = ["iterate", "unpruned_row"]

log = logging.getLogger("tascnet")

# Samples over which activations are compared when removed filters are folded.
FOLD_SAMPLES = 1024
# What the journal takes over of an iteration's record.
RECORDED = (
    "val_accuracy",
    "val_loss",
    "val_accuracy_after_cut",
    "pairs_similarity_before",
    "pairs_similarity_after",
)

Pairs = Mapping[str, list[tuple[int, int]]]


def unpruned_row(stage: PruneStage) -> Row:
    """The journal's first row."""
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


def iterate(stage: PruneStage, number: int, pending: dict[str, int]) -> tuple[Row | None, str | None]:
    """One iteration from the network of the one before.

    Args:
        stage: what the steps share.
        number: of the iteration, from 1.
        pending: filters of each group that the iterations before could not take for rounding.

    Returns:
        The journal's row without `inside`; or None and why, when no group can give up filters.
    """
    started = time.perf_counter()
    options = stage.config.prune
    network = stage.read(number - 1)
    groups = eligible_groups(stage, network)
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
    work = partial(_cut_and_recover, stage, network, chosen, plan.remove)
    network, record = stage.iteration(number, work)
    cost = complexity(network, stage.session.example)
    _tell(number, record, cost)
    return {
        "iteration": number,
        **{key: record[key] for key in RECORDED},
        "params": cost.params,
        "flops": cost.flops,
        "removed": plan.remove,
        "pending": plan.pending,
        "seconds": time.perf_counter() - started,
    }, None


def _tell(number: int, record: Mapping[str, Any], cost: Complexity) -> None:
    log.info(
        "iteration %d: validation accuracy %.2f %% (%.2f %% before retraining), %.4g MFLOPs, %.3g M params",
        number,
        100 * record["val_accuracy"],
        100 * record["val_accuracy_after_cut"],
        cost.flops / 1e6,
        cost.params / 1e6,
    )


def _cut_and_recover(
    stage: PruneStage,
    network: nn.Sequential,
    groups: list[WidthGroup],
    removals: Mapping[str, int],
    folder: Path,
) -> tuple[nn.Sequential, dict[str, Any]]:
    """History, pairs, optimisation phase, removal, retraining."""
    session, options = stage.session, stage.config.prune
    session.place(network)
    history = FilterHistory(groups)
    fit = partial(train, stage, network, folder)
    fit("history", options.history_epochs, recorder=history, keep="last")
    pairs = {
        group.name: most_similar_pairs(history.similarity(group.name), removals[group.name])
        for group in groups
    }
    penalty = PairRegulariser(network, groups, pairs, options.regulariser, options.regulariser_weight)
    before = _mean(penalty.similarities())
    _report_strength(stage, network, penalty)
    fit("optimise", options.optimise_epochs, penalty=penalty, keep="last")
    after = _mean(penalty.similarities())
    log.info("mean similarity of the pairs: %.4f before, %.4f after the optimisation phase", before, after)
    _remove(stage, network, groups, pairs, history)
    first = min(group.first_block for group in groups)
    reestimate_batchnorm(network, session.train, first_block=first, device=session.device)
    cut = evaluate(network, session.val, device=session.device)
    result = fit("retrain", options.retrain_epochs, distillation=stage.distillation)
    return network, {
        **fit_record(result),
        "val_accuracy_after_cut": cut.accuracy,
        "pairs_similarity_before": before,
        "pairs_similarity_after": after,
    }


def _report_strength(stage: PruneStage, network: nn.Sequential, penalty: PairRegulariser) -> None:
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


def _remove(
    stage: PruneStage,
    network: nn.Sequential,
    groups: list[WidthGroup],
    pairs: Pairs,
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
