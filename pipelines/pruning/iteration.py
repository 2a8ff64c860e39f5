"""One iteration of stage `prune`: what goes, optimisation phase, removal, retraining."""

import copy
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tascnet.errors import plural
from tascnet.inherit import Ranking
from tascnet.measure import complexity, latency, size_bytes
from tascnet.pruning import INERT_RATIO, FilterHistory, IterationPlan, PairRegulariser, gradient_ratio
from tascnet.run.files import read_json, write_json
from tascnet.surgery import WidthGroup, without_blocks
from tascnet.train import evaluate, freeze_before

from ..steps import fit_record
from .amounts import cost_model, may_remove, plan_amounts, reaches_goal
from .blocks import Candidate, cheaper_block, removable_blocks
from .cut import cut, kept_outputs, settle, teacher_of
from .journal import Row, land_on, lands, state_name
from .ranks import HISTORY, Ranks, rank, write_history
from .rounding import rounding
from .stage import PruneStage, eligible_groups, train

log = logging.getLogger("tascnet")

# A step that was taken back is halved this often, until it is another one.
HALVINGS = 12
NOTHING = "the criterion gives up no filter"
# Which block goes, or that none does: a resumed step does not ask the clock again.
CHOICE = "block.json"
# What the journal takes over of an iteration's record.
RECORDED = (
    "val_accuracy",
    "val_loss",
    "val_accuracy_after_cut",
    "pairs_similarity_before",
    "pairs_similarity_after",
    "block",
)


def unpruned_row(stage: PruneStage) -> Row:
    """The journal's first row."""
    verdict = evaluate(stage.before, stage.session.val, device=stage.session.device)
    return {
        "iteration": 0,
        "from": 0,
        "step": 1.0,
        "state": "iteration-000",
        "landed": None,
        "val_accuracy": verdict.accuracy,
        "val_loss": verdict.loss,
        **_costs(stage, stage.before, stage.source),
        "inside": True,
        "removed": {},
        "pending": {},
        "seconds": 0.0,
    }


def iterate(stage: PruneStage, rows: list[Row], start: int, step: float) -> tuple[Row | None, str | None]:
    """One iteration from the network of an earlier one.

    Args:
        stage: what the steps share.
        rows: of the journal so far.
        start: the row whose network is pruned.
        step: share of the full percent.

    Returns:
        The journal's row without `inside`; or None and why, when no group can give up filters.
    """
    started = time.perf_counter()
    network = stage.session.place(stage.read(rows[start]))
    excluded = [row["block"] for row in rows[1:] if row["from"] == start and row.get("block")]
    ranks, plan = _what_goes(stage, network, rows, start, step)
    if not plan.remove and not (
        stage.config.prune.blocks and set(removable_blocks(stage, network)) - set(excluded)
    ):
        return None, plan.reason or NOTHING
    number, name = len(rows), state_name(rows, start, plan.remove, excluded, stage.config.prune)
    work = partial(_cut_and_recover, stage, ranks, plan, excluded, partial(_reaches, stage, rows, start))
    taken, where = sum(plan.remove.values()), len(plan.remove)
    if taken:
        log.info("iteration %d takes %s of %s", number, plural(taken, "filter"), plural(where, "group"))
    else:
        log.info("iteration %d takes a block: %s", number, plan.reason or NOTHING)
    network, record = stage.once(name, work)
    costs = _costs(stage, stage.session.place(network), stage.state(name))
    _tell(number, record, costs)
    has_landed = plan.has_landed or lands(costs, rows[0], stage.config.prune)
    return {
        "iteration": number,
        "from": start,
        "step": step,
        "state": name,
        "landed": land_on(stage.config.prune) if has_landed else None,
        **{key: record[key] for key in RECORDED if key in record},
        **costs,
        "removed": {} if record.get("block") else plan.remove,
        "pending": rows[start]["pending"] if record.get("block") else plan.pending,
        "seconds": time.perf_counter() - started,
    }, None


def _what_goes(
    stage: PruneStage, network: nn.Sequential, rows: list[Row], start: int, step: float
) -> tuple[Ranks, IterationPlan]:
    """In which order filters go and how many; with a reason where none can."""
    groups, round_to = eligible_groups(stage, network), rounding(stage)
    stuck = may_remove(stage, {group.name: group.width for group in groups}, round_to)
    if stuck is not None:
        nothing = Ranks(network=network, groups=[], rankings={})
        return nothing, IterationPlan(remove={}, pending={}, reason=stuck)
    ranks = rank(stage, rows[start], network, groups)
    return ranks, _new_plan(stage, ranks, rows, start, step, round_to)


def _reaches(stage: PruneStage, rows: list[Row], start: int, network: nn.Sequential) -> bool:
    """Whether a network cut from that of a row reaches a goal that filters can land on."""
    cost = complexity(network, stage.session.example)
    return reaches_goal(stage, rows[0], rows[start], cost.params, cost.flops)


def _new_plan(
    stage: PruneStage, ranks: Ranks, rows: list[Row], start: int, step: float, round_to: int
) -> IterationPlan:
    """The plan of this step, or a smaller one where it has been tried from this network and taken back."""
    failed = [row["removed"] for row in rows[1:] if row["from"] == start and not row.get("block")]
    costs = cost_model(stage, ranks)
    for halvings in range(HALVINGS):
        plan = plan_amounts(stage, ranks, costs, rows, start, step / 2**halvings, round_to)
        if plan.remove not in failed:
            return plan
    least = plural(sum(plan.remove.values()), "filter")
    reason = f"the smallest step, {least}, costs more than prune.tolerance allows"
    return IterationPlan(remove={}, pending={}, reason=reason)


def _costs(stage: PruneStage, network: nn.Sequential, archive: Path) -> dict[str, Any]:
    """What goals are judged by; latency where there is a goal for it."""
    cost = complexity(network, stage.session.example)
    known = {"params": cost.params, "flops": cost.flops, "size_bytes": size_bytes(archive)}
    return {**known, **latency_of(stage, network)}


def latency_of(stage: PruneStage, network: nn.Sequential) -> dict[str, float]:
    """`latency_ms` for one sample, where there is a goal for it."""
    if stage.config.prune.target_latency_ms is None:
        return {}
    measure = stage.config.measure
    timed = latency(network, stage.session.example, repeats=measure.repeats, warmup=measure.warmup)
    return {"latency_ms": timed.median_ms}


def _tell(number: int, record: Mapping[str, Any], costs: Mapping[str, Any]) -> None:
    log.info(
        "iteration %d: validation accuracy %.2f %% (%.2f %% before retraining), %.4g MFLOPs, %.3g M params",
        number,
        100 * record["val_accuracy"],
        100 * record["val_accuracy_after_cut"],
        costs["flops"] / 1e6,
        costs["params"] / 1e6,
    )


def _cut_and_recover(
    stage: PruneStage,
    ranks: Ranks,
    plan: IterationPlan,
    excluded: list[str],
    is_too_small: Callable[[nn.Sequential], bool],
    folder: Path,
) -> tuple[nn.Sequential, dict[str, Any]]:
    """Optimisation phase, removal, retraining."""
    options, device = stage.config.prune, stage.session.device
    network, history = ranks.network, ranks.history
    groups, chosen = ranks.first(plan.remove)
    goes_on = history if options.history == "continue" else None
    facts: dict[str, Any] = {}
    # Phases that a criterion does not have are added to retraining.
    epochs = options.retrain_epochs + (0 if history is not None else options.history_epochs)
    if history is not None and chosen:
        facts = _optimise(stage, ranks, chosen, folder, goes_on)
    else:
        epochs += options.optimise_epochs
    block = _chosen_block(stage, ranks, plan, excluded, is_too_small, folder) if options.blocks else None
    if block is None:
        _without_filters(stage, ranks, groups, chosen)
    else:
        log.info("the block %s goes, and no filters", block)
        network, facts["block"] = _without_block(stage, network, block), block
        if goes_on is not None:
            # Groups that reach through the block are others now: recording begins anew.
            goes_on = FilterHistory(eligible_groups(stage, network))
    after_cut = evaluate(network, stage.session.val, device=device)
    result = train(
        stage, network, folder, "retrain", epochs, distillation=stage.distillation, recorder=goes_on
    )
    if goes_on is not None:
        write_history(folder / HISTORY, goes_on)
    return network, {**fit_record(result), "val_accuracy_after_cut": after_cut.accuracy, **facts}


def _without_filters(
    stage: PruneStage, ranks: Ranks, groups: list[WidthGroup], chosen: Mapping[str, Ranking]
) -> None:
    network = ranks.network
    teacher = teacher_of(stage, network, kept_outputs(groups, chosen))
    cut(stage, network, groups, chosen, history=ranks.history, measured=ranks.measured)
    settle(stage, network, teacher, first=min(group.first_block for group in groups))


def _without_block(stage: PruneStage, network: nn.Sequential, block: str) -> nn.Sequential:
    teacher, first = teacher_of(stage, network, {}), list(network._modules).index(block)
    shorter = without_blocks(network, {block})[0]
    settle(stage, shorter, teacher, first=first)
    return shorter


def _chosen_block(
    stage: PruneStage,
    ranks: Ranks,
    plan: IterationPlan,
    excluded: list[str],
    is_too_small: Callable[[nn.Sequential], bool],
    folder: Path,
) -> str | None:
    """The block that goes in place of the plan's filters, if one does; chosen once for a folder."""
    known = folder / CHOICE
    if not known.exists():
        filters: Candidate | None = None
        if plan.remove:
            narrower, history = copy.deepcopy(ranks.network), copy.deepcopy(ranks.history)
            groups, chosen = ranks.first(plan.remove)
            cut(stage, narrower, groups, chosen, history=history, measured=ranks.measured)
            filters = narrower, kept_outputs(groups, chosen)
        write_json(known, cheaper_block(stage, ranks.network, filters, excluded, is_too_small))
    block: str | None = read_json(known)
    return block


def _optimise(
    stage: PruneStage,
    ranks: Ranks,
    chosen: Mapping[str, Ranking],
    folder: Path,
    recorder: FilterHistory | None,
) -> dict[str, float]:
    """Pull the members of each pair together; gives their mean similarity before and after."""
    options, network = stage.config.prune, ranks.network
    pairs = {name: ranking.pairs() for name, ranking in chosen.items()}
    penalty = PairRegulariser(network, ranks.groups, pairs, options.regulariser, options.regulariser_weight)
    before = after = _mean(penalty.similarities())
    if options.optimise_epochs:
        _report_strength(stage, network, penalty)
        train(
            stage,
            network,
            folder,
            "optimise",
            options.optimise_epochs,
            penalty=penalty,
            recorder=recorder,
            keep="last",
        )
        after = _mean(penalty.similarities())
        log.info(
            "mean similarity of the pairs: %.4f before, %.4f after the optimisation phase", before, after
        )
    return {"pairs_similarity_before": before, "pairs_similarity_after": after}


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
