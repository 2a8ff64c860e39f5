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
from tascnet.execute.workers import Workers
from tascnet.inherit import Ranking
from tascnet.measure import Clock, WidthCosts, complexity, size_bytes
from tascnet.models.info import ModelInfo
from tascnet.options import HistoryPrune, Prune
from tascnet.pruning.allocate import GroupSize, IterationPlan, allocate, landed, plan_iteration, share_of
from tascnet.pruning.blocks import END, cheaper_block, last_end, without
from tascnet.pruning.check import eligible_groups, first_block, removable_blocks, why_none
from tascnet.pruning.cut import cut, kept_outputs, settle, teacher_of
from tascnet.pruning.history import FilterHistory, read_history, write_history
from tascnet.pruning.latency_plan import latency_removal
from tascnet.pruning.ranks import Ranks, rank, sizes_of, train_all
from tascnet.pruning.regulariser import INERT_RATIO, GrowingPenalty, PairRegulariser, gradient_ratio
from tascnet.pruning.schedule import (
    Verdict,
    fitted_targets,
    latency_targets,
    reaches_fitted,
    reaches_latency,
    size_without,
)
from tascnet.run.files import digest_json
from tascnet.run.records import Iteration, StepRecord, TrainingRecord, measured_once, score
from tascnet.surgery import Trace
from tascnet.train import Archive, Distillation, Learner, fit_new_head, gentler, set_training_mode
from tascnet.train.folded import rescale

log = logging.getLogger("tascnet")

# How often a reverted step is halved at most until it removes something else.
HALVINGS = 12
# The block that is removed, or none: a resumed step does not measure times again.
CHOICE = "block.json"
AGAIN = "-again"


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
    clock: Clock,
    deadline: float,
) -> Decision | str:
    """What the iteration after `iterations` removes, or why nothing can be removed.

    A history is recorded until `deadline`, a time of `time.perf_counter`. The `clock` plans by latency.
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
            if options.spends_latency:
                # A resumed run does not measure times again.
                key = digest_json([start.state, ratio, latency_targets(options), round_to])[:8]
                file = archive.path(f"plan-{number:03d}-{key}.json")
                plan = latency_removal(options, ranks, costs, clock, file, ratio, round_to)
            else:
                plan = plan_removal(options, ranks, costs, pending, ratio, round_to, reaches)
            if filters_of(plan.remove, sizes) not in failed:
                break
        else:
            least = plural(sum(filters_of(plan.remove, sizes).values()), "filter")
            why = f"the smallest step, {least}, costs more than `tolerance` allows"
            plan = IterationPlan(remove={}, pending={}, reason=why)
    blocks = removable_blocks(options, archive.info, network) if options.blocks else []
    if options.blocks:
        end = last_end(network, trace.example, first_block(options, archive.info), options.ignore)
        blocks += [] if end is None else [end]
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
    kinds = ranks.kinds() if options.scope == "isomorphic" else [list(sizes)]

    def plan(ratio: float) -> IterationPlan:
        if options.scope == "group":
            return plan_iteration(sizes, pending, ratio=ratio, round_to=round_to, group_ratio=group_ratio)
        remove: dict[str, int] = {}
        for names in kinds:
            own = {name: sizes[name] for name in names}
            count = max(1, share_of(sum(size.filters for size in own.values()), ratio))
            remove |= allocate(
                *({name: ranks.rankings[name] for name in own}, own, count),
                round_to=round_to,
                group_ratio=group_ratio,
                worth=worth,
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
    teacher: nn.Module,
    decision: Decision,
    clock: Clock,
    deadline: float,
    workers: Workers,
    folder: Path,
) -> tuple[nn.Sequential, StepRecord]:
    """Optimisation phase, removal, retraining with a teacher.

    The network of the decision is changed; the folder keeps checkpoints. Blocks are compared by the `clock`.
    Each training ends in the epoch in which `deadline` has passed. `workers` adapt blocks' candidates.
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
    chosen = partial(_cheaper_block, learner, options, teacher, decision, clock, workers)
    block = measured_once(folder / CHOICE, lambda: {"block": chosen()})["block"] if options.blocks else None
    if block is None:
        if options.growing_epochs:
            ranks = _grow(learner, options, teacher, ranks, counts, folder, deadline)
        before = teacher_of(network, kept_outputs(ranks, counts), merge)
        cut(learner, ranks, counts, merge, in_place=True)
        settle(learner, network, before, first=min(g.first_block for g in ranks.groups if g.name in counts))
    else:
        log.info(
            "%s is removed in place of filters", f"the {block}" if block.startswith(END) else f"block {block}"
        )
        before = teacher_of(network, {}, merge)
        network, at = without(network, block, ranks.trace.example, learner.seed)
        if block.startswith(END):
            _train_end(learner, options, network, teacher, folder)
        else:
            settle(learner, network, before, first=at)
    if recorder is not None:
        groups = eligible_groups(options, info, Trace(network, ranks.trace.example))
        # Groups that passed through a block, or of a convolution of which one group is left, are others.
        if block is not None or not recorder.fits(groups):
            recorder = FilterHistory(groups)
    after_cut = learner.evaluate(network)
    prepared = time.perf_counter() - started
    training = recover(
        *(learner, options, network, teacher, folder / "retrain.pt", epochs, deadline), recorder=recorder
    )
    if recorder is not None:
        write_history(folder, recorder)
    return network, StepRecord(
        # Epochs before an interruption count.
        seconds=prepared + training.seconds,
        training=training,
        val_accuracy_after_cut=after_cut.accuracy,
        val_balanced_accuracy_after_cut=after_cut.balanced_accuracy,
        pairs_similarity_before=similarities[0],
        pairs_similarity_after=similarities[1],
        block=block,
    )


def retrain(
    learner: Learner,
    archive: Archive,
    options: Prune,
    teacher: nn.Module,
    decision: Decision,
    network: nn.Sequential,
    step: StepRecord,
    deadline: float,
) -> tuple[nn.Sequential, StepRecord]:
    """Train the network of an iteration, which `step` made, once more with a smaller learning rate."""

    assert step.training is not None
    lr = gentler(step.training)

    def work(folder: Path) -> tuple[nn.Sequential, StepRecord]:
        recorder = None
        learner.place(network)
        epochs = options.phases[2] if isinstance(options, HistoryPrune) else options.epochs
        # Without a filter to rank nothing was recorded.
        has_history = decision.ranks.history is not None
        if isinstance(options, HistoryPrune) and options.history == "continue" and has_history:
            groups = eligible_groups(options, archive.info, Trace(network, learner.samples.example))
            recorder = read_history(archive.path(decision.state), groups)
        training = recover(
            *(learner, options, network, teacher, folder / "retrain.pt", epochs, deadline),
            lr=lr,
            recorder=recorder,
        )
        if recorder is not None:
            write_history(folder, recorder)
        return network, replace(step, seconds=training.seconds, training=training, files={})

    return archive.once(again_of(decision.state), work)


def again_of(state: str) -> str:
    """Name of the step that trains the network of a step once more."""
    return f"{state}{AGAIN}"


def first_of(state: str) -> str:
    """Name of the step of the removal, for the step whose network was kept."""
    return state.removesuffix(AGAIN)


def final_of(state: str, number: int) -> str:
    """Name of a final round of training, from 1, of the network of a step."""
    return f"{state}-final-{number}"


def recover(
    learner: Learner,
    options: Prune,
    network: nn.Sequential,
    teacher: nn.Module,
    checkpoint: Path,
    epochs: int,
    deadline: float,
    *,
    lr: float | None = None,
    schedule: str | None = None,
    **fit_options: Any,
) -> TrainingRecord:
    """Train every layer of a pruned network with a teacher.

    Args:
        lr: the peak learning rate; None: the recipe's.
        schedule: of it; None: the recipe's.
        fit_options: further ones of `tascnet.train.fit`.
    """
    recipe = learner.trainer.recipe("recover")
    if lr is not None:
        recipe = recipe.at(lr)
    if schedule is not None:
        recipe = replace(recipe, schedule=schedule, min_lr=0.0)
    taught = None
    if options.distill:
        taught = Distillation.of(
            *(teacher, network, learner.samples),
            weight=options.distill,
            features=options.distill_features,
            device=learner.device,
        )
    own = {"recipe": recipe, "distillation": taught, **fit_options}
    return train_all(learner, network, checkpoint, epochs, deadline, **own)


def _cheaper_block(
    learner: Learner,
    options: Prune,
    teacher: nn.Module,
    decision: Decision,
    clock: Clock,
    workers: Workers,
) -> str | None:
    """The block that is removed in place of filters."""
    ranks, counts, merge = decision.ranks, decision.plan.remove, options.merge
    filters = (cut(learner, ranks, counts, merge), kept_outputs(ranks, counts)) if counts else None

    def is_too_small(candidate: nn.Sequential) -> bool:
        cost = complexity(candidate, ranks.trace.example)
        return decision.reaches(cost.params, cost.flops)

    candidates, taught = (ranks.network, decision.blocks, filters), (teacher, options.distill)
    return cheaper_block(learner, *candidates, merge, is_too_small, clock, taught, workers)


def _train_end(
    learner: Learner, options: Prune, network: nn.Sequential, teacher: nn.Module, folder: Path
) -> None:
    """Train the head of a network with a new end."""
    checkpoint = folder / "end.pt"
    fit_new_head(learner, network, teacher, options.distill, checkpoint=checkpoint, description="new end")


def _grow(
    learner: Learner,
    options: Prune,
    teacher: nn.Module,
    ranks: Ranks,
    counts: Mapping[str, int],
    folder: Path,
    deadline: float,
) -> Ranks:
    """Train the network of `ranks` with a growing penalty on the units that are going to be removed."""
    removed = {name: ranking.order for name, ranking in ranks.first(counts).items()}
    _scale_as_trained(learner, ranks.network)
    penalty = GrowingPenalty(ranks.network, ranks.groups, removed, options.growing_epochs)
    before = penalty.norm()
    own: dict[str, Any] = {"penalty": penalty, "recorder": penalty, "keep": "last"}
    checkpoint, epochs = folder / "growing.pt", options.growing_epochs
    recover(
        learner, options, ranks.network, teacher, checkpoint, epochs, deadline, schedule="constant", **own
    )
    left = penalty.norm() / before if before else 0.0
    log.info("growing penalty: the filters to remove have %.1f %% of their norm left", 100 * left)
    # What the layers read is no longer what was read for the ranking.
    return replace(ranks, readings=None)


def _scale_as_trained(learner: Learner, network: nn.Sequential) -> None:
    """Give the weights the scales that a training gives them (`rescale`), so that both ends compare."""
    recipe = learner.trainer.recipe("recover")
    network.requires_grad_(True)
    if recipe.optimizer == "adamw":
        set_training_mode(network, 0, recipe.batchnorm)
        rescale(network)
        network.eval()


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
    if options.phases[1]:
        _scale_as_trained(learner, network)
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
        own: dict[str, Any] = {"penalty": penalty, "recorder": recorder, "keep": "last"}
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
        if clock.predicts and not clock.is_foreign and is_enough(latency_ms):
            # A resumed run would measure it again, and another figure could reopen the pruning.
            found = {"latency_ms": latency_ms}
            latency_ms = measured_once(latency_file(archive, options, state), lambda: found)["latency_ms"]
    return {
        "params": cost.params,
        "flops": cost.flops,
        "size_bytes": size_bytes(archive.path(state)),
        "latency_ms": latency_ms,
    }


def latency_file(archive: Archive, options: Prune, state: str) -> Path:
    """Where the latency of a step's network is kept that was measured for the targets of some options."""
    targets = [options.latency_target, options.latency_target_ms]
    return archive.path(state) / f"latency-{digest_json(targets)[:8]}.json"


def record_removal(
    options: Prune,
    first: Iteration,
    decision: Decision,
    step: StepRecord,
    again: StepRecord | None,
    costs: Mapping[str, Any],
    metric: str,
) -> Iteration:
    """The journal's record of an iteration without `inside` and seconds.

    Args:
        first: the unpruned network.
        step: the removal.
        again: the second retraining; None: there was none.
        costs: of the network, by field of `Iteration`.
    """
    trained, plan, start = step.training, decision.plan, decision.start
    assert trained is not None
    training, state = trained, decision.state
    if again is not None and has_gained(again, step, metric):
        assert again.training is not None
        training, state = again.training, again_of(state)
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
        state=state,
        # Which blocks may be removed depends on the targets, wherever the iteration ends.
        landed=fitted_targets(options) if has_landed or options.blocks else None,
        val_accuracy=training.val_accuracy,
        val_balanced_accuracy=training.val_balanced_accuracy,
        val_loss=training.val_loss,
        inside=True,
        removed={} if step.block else filters_of(plan.remove, sizes),
        pending=start.pending if step.block else filters_of(plan.pending, sizes),
        seconds=0.0,
        val_accuracy_after_cut=step.val_accuracy_after_cut,
        val_balanced_accuracy_after_cut=step.val_balanced_accuracy_after_cut,
        val_accuracy_first=None if again is None else trained.val_accuracy,
        val_balanced_accuracy_first=None if again is None else trained.val_balanced_accuracy,
        pairs_similarity_before=step.pairs_similarity_before,
        pairs_similarity_after=step.pairs_similarity_after,
        block=step.block,
        **costs,
    )


def has_gained(again: StepRecord, step: StepRecord, metric: str) -> bool:
    """Whether the network of a second training is better than that of the first."""
    now, before = score(again.training, metric), score(step.training, metric)
    return now is not None and before is not None and now > before
