"""One iteration: what is removed is decided, applied (with training) and recorded."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tascnet.errors import plural
from tascnet.inherit import Ranking
from tascnet.measure import Clock, WidthCosts, complexity, size_bytes
from tascnet.models.info import ModelInfo
from tascnet.options import HistoryPrune, Prune
from tascnet.pruning.allocate import GroupSize, IterationPlan, allocate, landed, plan_iteration, share_of
from tascnet.pruning.blocks import cheaper_block
from tascnet.pruning.check import eligible_groups, first_block, removable_blocks, why_none
from tascnet.pruning.cut import cut, kept_outputs, settle, teacher_of
from tascnet.pruning.history import FilterHistory, write_history
from tascnet.pruning.ranks import Ranks, rank, sizes_of, train_all
from tascnet.pruning.regulariser import INERT_RATIO, PairRegulariser, gradient_ratio
from tascnet.pruning.schedule import (
    Verdict,
    fitted_targets,
    reaches_fitted,
    reaches_latency,
    size_without,
)
from tascnet.run.files import digest_json
from tascnet.run.records import Iteration, StepRecord, TrainingRecord, measured_once, score
from tascnet.surgery import Trace, without_blocks
from tascnet.train import Archive, Distillation, Learner

log = logging.getLogger("tascnet")

# How often a reverted step is halved at most until it removes something else.
HALVINGS = 12
# The block that is removed, or none: a resumed step does not measure times again.
CHOICE = "block.json"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What an iteration removes.

    Args:
        plan: in units of the groups of `ranks`.
        start: the iteration whose network is pruned.
        step: share of the full step.
        state: name of the archived step.
        blocks: names of the blocks of which one may be removed instead.
        reaches: whether so many parameters and FLOPs reach a fitted target.
    """

    number: int
    start: Iteration
    step: float
    state: str
    ranks: Ranks
    plan: IterationPlan
    blocks: tuple[str, ...]
    reaches: Callable[[int, int], bool]


def decide_removal(
    learner: Learner,
    archive: Archive,
    options: Prune,
    iterations: Sequence[Iteration],
    verdict: Verdict,
    round_to: int,
    deadline: float,
) -> Decision | str:
    """What the iteration after `iterations` removes, or why nothing can be removed.

    A history is recorded until `deadline`, a time of `time.perf_counter`.
    """
    number, start = len(iterations), iterations[verdict.keep]
    network = learner.place(archive.read(archive.path(start.state)))
    trace = Trace(network, learner.samples.example)
    groups = eligible_groups(options, archive.info, trace)
    tried = [iteration for iteration in iterations[1:] if iteration.start == start.iteration]
    failed_blocks = [iteration.block for iteration in tried if iteration.block]

    def reaches(params: int, flops: int) -> bool:
        costs = {"flops": flops, "params": params, "size_bytes": size_without(start, params)}
        return reaches_fitted(costs, iterations[0], options)

    # No history is recorded where no filter can be removed.
    sizes = sizes_of(groups)
    ratios = {"ratio": options.ratio, "group_ratio": options.group_ratio}
    plan = replace(plan_iteration(sizes, {}, round_to=round_to, **ratios), pending={})
    ranks = Ranks(network=network, trace=trace, rankings={})
    if plan.remove:
        ranks = rank(learner, archive, options, start, network, trace, groups, deadline)
        costs = WidthCosts(ranks.network, trace.example, ranks.groups)
        pending = {name: start.pending.get(name, 0) // size.bundle for name, size in sizes.items()}
        failed = [iteration.removed for iteration in tried if not iteration.block]
        for halvings in range(HALVINGS):
            ratio = options.ratio * verdict.step / 2**halvings
            plan = plan_removal(options, ranks, costs, pending, ratio, round_to, reaches)
            if filters_of(plan.remove, sizes) not in failed:
                break
        else:
            least = plural(sum(filters_of(plan.remove, sizes).values()), "filter")
            why = f"the smallest step, {least}, costs more than `tolerance` allows"
            plan = IterationPlan(remove={}, pending={}, reason=why)
    blocks = removable_blocks(options, archive.info, network) if options.blocks else []
    blocks = [name for name in blocks if name not in failed_blocks]
    removed = sum(filters_of(plan.remove, sizes).values())
    reason = plan.reason or "the criterion ranks no filter"
    if not groups:
        reason = why_none(options, first_block(options, archive.info), trace)
    if removed:
        counted = plural(removed, "filter"), plural(len(plan.remove), "group")
        log.info("iteration %d removes %s of %s", number, *counted)
    elif blocks:
        log.info("iteration %d removes a block: %s", number, reason)
    else:
        return reason
    # The name is that of this start and this cut alone.
    content: list[object] = [start.state, plan.remove, failed_blocks]
    if options.blocks:
        content.append(fitted_targets(options))
    return Decision(
        number=number,
        start=start,
        step=verdict.step,
        state=f"iteration-{number:03d}-{digest_json(content)[:8]}",
        ranks=ranks,
        plan=plan,
        blocks=tuple(blocks),
        reaches=reaches,
    )


def plan_removal(
    options: Prune,
    ranks: Ranks,
    costs: WidthCosts,
    pending: Mapping[str, int],
    ratio: float,
    round_to: int,
    reaches: Callable[[int, int], bool],
) -> IterationPlan:
    """Units to remove from each group, no more than the fitted targets need.

    Args:
        pending: by group, units asked for and not removed yet.
        ratio: share of the filters that is asked for.
        round_to: widths left are multiples of this.
        reaches: whether so many parameters and FLOPs reach a target.
    """
    sizes, worth, group_ratio = ranks.sizes, None, options.group_ratio
    if options.scope in ("global", "global_params"):
        at = 1 if options.scope == "global" else 0
        worth = {name: float(costs.saved(name)[at]) for name in sizes}

    def plan(ratio: float) -> IterationPlan:
        if options.scope == "group":
            return plan_iteration(sizes, pending, ratio=ratio, round_to=round_to, group_ratio=group_ratio)
        count = max(1, share_of(sum(size.filters for size in sizes.values()), ratio))
        remove = allocate(
            ranks.rankings, sizes, count, round_to=round_to, group_ratio=group_ratio, worth=worth
        )
        return IterationPlan(remove=remove, pending={})

    return landed(plan, ratio, lambda removed: reaches(*costs(removed)))


def filters_of(units: Mapping[str, int], sizes: Mapping[str, GroupSize]) -> dict[str, int]:
    """By group, the filters of so many units."""
    return {name: count * sizes[name].bundle for name, count in units.items()}


def apply_removal(
    learner: Learner,
    info: ModelInfo,
    options: Prune,
    unpruned: nn.Sequential,
    decision: Decision,
    clock: Clock,
    deadline: float,
    folder: Path,
) -> tuple[nn.Sequential, StepRecord]:
    """Optimisation phase, removal, retraining with the unpruned network as a teacher.

    The network of the decision is changed; the folder keeps checkpoints. Blocks are compared by the `clock`.
    Each training ends in the epoch in which `deadline` has passed.
    """
    started, merge, epochs = time.perf_counter(), options.merge, options.epochs
    ranks, counts = decision.ranks, decision.plan.remove
    network, history = ranks.network, ranks.history
    similarities: tuple[float | None, float | None] = (None, None)
    recorder: FilterHistory | None = None
    if isinstance(options, HistoryPrune) and history is not None:
        _, optimise, epochs = options.phases
        recorder = history if options.history == "continue" else None
        if counts:
            similarities = _optimise(learner, options, ranks, ranks.first(counts), folder, deadline, recorder)
        else:
            epochs += optimise
    block = None
    if options.blocks:

        def choose() -> dict[str, str | None]:
            filters = (cut(learner, ranks, counts, merge), kept_outputs(ranks, counts)) if counts else None

            def is_too_small(candidate: nn.Sequential) -> bool:
                cost = complexity(candidate, ranks.trace.example)
                return decision.reaches(cost.params, cost.flops)

            blocks = decision.blocks
            name = cheaper_block(learner, network, blocks, filters, merge, is_too_small, clock)
            return {"block": name}

        block = measured_once(folder / CHOICE, choose)["block"]
    if block is None:
        teacher = teacher_of(network, kept_outputs(ranks, counts), merge)
        cut(learner, ranks, counts, merge, in_place=True)
        settle(learner, network, teacher, first=min(g.first_block for g in ranks.groups if g.name in counts))
    else:
        log.info("block %s is removed in place of filters", block)
        teacher, at = teacher_of(network, {}, merge), list(network._modules).index(block)
        network = without_blocks(network, {block})[0]
        settle(learner, network, teacher, first=at)
    if recorder is not None:
        groups = eligible_groups(options, info, Trace(network, ranks.trace.example))
        # Groups that passed through a block, or of a convolution of which one group is left, are others.
        if block is not None or not recorder.fits(groups):
            recorder = FilterHistory(groups)
    after_cut = learner.evaluate(network)
    training = recover(learner, options, network, unpruned, folder / "retrain.pt", epochs, deadline, recorder)
    if recorder is not None:
        write_history(folder, recorder)
    return network, StepRecord(
        seconds=time.perf_counter() - started,
        training=training,
        val_accuracy_after_cut=after_cut.accuracy,
        val_balanced_accuracy_after_cut=after_cut.balanced_accuracy,
        pairs_similarity_before=similarities[0],
        pairs_similarity_after=similarities[1],
        block=block,
    )


def recover(
    learner: Learner,
    options: Prune,
    network: nn.Sequential,
    unpruned: nn.Sequential,
    checkpoint: Path,
    epochs: int,
    deadline: float,
    recorder: FilterHistory | None = None,
) -> TrainingRecord:
    """Train every layer of a pruned network, with the unpruned one as a teacher."""
    teacher = Distillation(teacher=unpruned, weight=options.distill) if options.distill else None
    return train_all(learner, network, checkpoint, epochs, deadline, distillation=teacher, recorder=recorder)


def _optimise(
    learner: Learner,
    options: HistoryPrune,
    ranks: Ranks,
    removed: Mapping[str, Ranking],
    folder: Path,
    deadline: float,
    recorder: FilterHistory | None,
) -> tuple[float, float]:
    """Make the members of each pair more similar; their mean similarity before and after."""
    network, pairs = ranks.network, {name: ranking.pairs() for name, ranking in removed.items()}
    penalty = PairRegulariser(network, ranks.groups, pairs, options.regulariser)

    def mean_similarity() -> float:
        values = penalty.similarities()
        return sum(values.values()) / len(values)

    before = after = mean_similarity()
    if options.phases[1]:
        network.requires_grad_(True).eval()
        samples = learner.samples.train
        rows = torch.arange(min(len(samples), learner.trainer.recipe("recover").batch_size))
        logits = network(samples.batch(rows, None).to(learner.device))
        loss = functional.cross_entropy(logits, samples.labels[rows].to(learner.device))
        value = penalty()
        ratio = gradient_ratio(value, loss, penalty.parameters())
        log.info("regulariser: %.4g, its gradient is %.3g times the loss's", float(value.detach()), ratio)
        if ratio < INERT_RATIO:
            log.warning(
                "the regulariser is inert (its gradient is %.1e times the loss's): take "
                "`regulariser=per_group_mean`",
                ratio,
            )
        own = {"penalty": penalty, "recorder": recorder, "keep": "last"}
        train_all(learner, network, folder / "optimise.pt", options.phases[1], deadline, **own)
        after = mean_similarity()
        log.info("mean similarity of the pairs: %.4f before optimisation, %.4f after", before, after)
    return before, after


def costs_of(
    learner: Learner,
    archive: Archive,
    options: Prune,
    clock: Clock,
    network: nn.Sequential,
    state: str,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """Costs of the network of a step as fields of `Iteration`; latency where there is a target for it.

    That a latency reaches its target is never taken from a prediction.

    Args:
        clock: its reference is the unpruned network.
        state: name of the step.
        seconds: that the step took.
    """
    cost, latency_ms = complexity(network, learner.samples.example), None
    if options.has_latency_target:
        is_enough = partial(reaches_latency, options, clock.reference_ms)
        latency_ms = clock.confirmed(network, is_enough, seconds)
    return {
        "params": cost.params,
        "flops": cost.flops,
        "size_bytes": size_bytes(archive.path(state)),
        "latency_ms": latency_ms,
    }


def record_removal(
    options: Prune,
    first: Iteration,
    decision: Decision,
    step: StepRecord,
    costs: Mapping[str, Any],
    metric: str,
) -> Iteration:
    """The journal's record of an iteration without `inside` and seconds; `first` is the unpruned network."""
    training, plan, start = step.training, decision.plan, decision.start
    assert training is not None
    assert training.val_accuracy is not None
    assert training.val_balanced_accuracy is not None
    assert training.val_loss is not None
    log.info(
        "iteration %d: validation %s %.2f %% (%.2f %% before retraining), %.4g MFLOPs, %.3g M params",
        decision.number,
        metric.replace("_", " "),
        100 * (score(training, metric) or 0.0),
        100 * (score(step, f"{metric}_after_cut") or 0.0),
        costs["flops"] / 1e6,
        costs["params"] / 1e6,
    )
    sizes = decision.ranks.sizes
    has_landed = plan.has_landed or reaches_fitted(costs, first, options)
    return Iteration(
        iteration=decision.number,
        start=start.iteration,
        step=decision.step,
        state=decision.state,
        landed=fitted_targets(options) if has_landed else None,
        val_accuracy=training.val_accuracy,
        val_balanced_accuracy=training.val_balanced_accuracy,
        val_loss=training.val_loss,
        inside=True,
        removed={} if step.block else filters_of(plan.remove, sizes),
        pending=start.pending if step.block else filters_of(plan.pending, sizes),
        seconds=0.0,
        val_accuracy_after_cut=step.val_accuracy_after_cut,
        val_balanced_accuracy_after_cut=step.val_balanced_accuracy_after_cut,
        pairs_similarity_before=step.pairs_similarity_before,
        pairs_similarity_after=step.pairs_similarity_after,
        block=step.block,
        **costs,
    )
