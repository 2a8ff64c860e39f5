"""The trials of a search: configurations are built, trained and judged one after the other."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from tascnet.errors import CacheLimitError, SurgeryError, TascnetError, TrainingDiverged, first_line
from tascnet.measure import Clock, complexity
from tascnet.run.console import progress
from tascnet.run.events import TrialEvent, emit
from tascnet.run.records import EpochRecord, Trial, measured_once, score
from tascnet.tuning.cost import Cost
from tascnet.tuning.goal import least_to_win
from tascnet.tuning.problem import Builder
from tascnet.tuning.progression import Limits, next_depth
from tascnet.tuning.promotion import curves, is_promising, is_rung
from tascnet.tuning.sizes import Settings
from tascnet.tuning.space import FIRST_TRAINED
from tascnet.tuning.study import Proposal, Study
from tascnet.tuning.tails import Tails, join

# If this many first trials all fail, more trials will not help.
ALL_FAILED = 5
# Trials that a terminal shows.
SHOWN = 5

log = logging.getLogger("tascnet")


def run_search(study: Study, limits: Limits, run: Callable[[Proposal], Trial], *, initial_trials: int) -> str:
    """Run trials until the limits end the search, and return the reason.

    Raises:
        TascnetError: the first trials all failed.
    """
    total = limits.most_trials(study.space)
    with progress("search", total=total, done=len(study.trials)) as bar:
        while True:
            if study.best() is not None:
                bar.show(best_trials(study))
            if len(study.trials) >= ALL_FAILED and all(trial.status == "failed" for trial in study.trials):
                raise no_winner(study)
            advice = next_depth(study.trials, study.space, limits, study.goal, study.exhausted)
            if advice.depth is None:
                return advice.reason
            for proposal in study.ask(advice.depth, 1, initial_trials=initial_trials):
                try:
                    trial = run(proposal)
                except CacheLimitError as error:
                    if limits.every is None or study.best() is None:
                        raise
                    # The features at earlier cuts are even larger.
                    return f"the features before unit {proposal.config[FIRST_TRAINED]} do not fit ({error})"
                study.tell(trial)
                emit(TrialEvent(trial=trial))
                best = study.best()
                bar.advance(1, best=0.0 if best is None else best.value, depth=advice.depth)


def best_trials(study: Study) -> Table:
    """A table of the best trials so far, for a terminal."""
    metric = study.goal.metric
    table = Table(title=f"best of {len(study.trials)} trials", box=box.SIMPLE, title_justify="left")
    names = ("trial", "depth", f"val {metric.replace('_', ' ')}, %", "params, M", "MFLOPs", "seconds")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    done = [trial for trial in study.trials if trial.value is not None and trial.status == "ok"]
    for trial in sorted(done, key=lambda trial: -(trial.value or 0.0))[:SHOWN]:
        table.add_row(
            *(str(trial.trial), str(trial.depth), f"{100 * (score(trial, metric) or 0.0):.2f}"),
            *(f"{(trial.params or 0) / 1e6:.3g}", f"{(trial.flops or 0) / 1e6:.4g}", f"{trial.seconds:.0f}"),
        )
    return table


def run_trial(
    proposal: Proposal,
    study: Study,
    tails: Tails,
    build: Builder,
    clock: Clock,
    *,
    promote: bool,
    tolerance: float | None = None,
    max_seconds: float | None = None,
) -> Trial:
    """Build, train and judge one configuration; a failure is recorded as well.

    With `promote` it is trained on only while it may still change which trial wins, for which `tolerance`
    counts (see `promotion` and `Study.winner`). It is also stopped after the epoch in which all trials
    together have taken `max_seconds`; it still is `ok` where no other trial is, for a search hands over a
    network.

    Raises:
        CacheLimitError: the features would take more than the cache's limit.
    """
    started = time.perf_counter()
    try:
        spent = sum(trial.seconds for trial in study.trials)
        deadline = math.inf if max_seconds is None else started + max_seconds - spent
        found = _judged(proposal, study, tails, build, clock, promote, tolerance, deadline)
    except (SurgeryError, TrainingDiverged, RuntimeError, MemoryError, ValueError) as error:
        found = {"status": "failed", "reason": first_line(error)}
    if found["status"] == "failed" and tails.learner.device.type == "cuda":
        # Here the traceback, which held tensors, is gone.
        torch.cuda.empty_cache()
    trial = proposal.came(seconds=time.perf_counter() - started, **found)
    metric = study.goal.metric
    value = score(trial, metric)
    if value is None:
        log.warning("trial %d %s: %s", trial.trial, trial.status, trial.reason)
    else:
        log.info(
            "trial %d, depth %d%s: validation %s %.2f %%, %.3g M params, %.4g MFLOPs",
            *(trial.trial, trial.depth),
            f", stopped after {trial.epochs} epochs" if trial.reason else "",
            *(metric.replace("_", " "), 100 * value),
            *((trial.params or 0) / 1e6, (trial.flops or 0) / 1e6),
        )
    return trial


def measured_winner(
    study: Study,
    settings: Settings,
    tolerance: float | None,
    path: Callable[[str], Path],
) -> tuple[Trial | None, str | None]:
    """The winner whose measured latency keeps the bound, and what is to be said where none does.

    Where latencies are predicted, those that win are measured. If one is too slow, so are all trials whose
    predictions are off by as much; if no trial is left, the first winner stays.

    Args:
        study: the finished search.
        settings: of the images' sizes.
        tolerance: see `Study.winner`.
        path: gives the file of a name, in which a latency is kept.
    """
    clock, n_val = settings.native.clock, settings.native.learner.val_samples()
    first = found = study.winner(n_val, tolerance)
    bound, too_slow, missed = study.goal.max_latency_ms, set[int](), None
    while found is not None and bound is not None and clock.predicts:
        trial, predicted = found, found.latency_ms
        assert predicted is not None

        def measure(trial: Trial = trial) -> dict[str, float]:
            own = settings(trial.config)
            candidate = own.build(trial.config)
            network = own.learner.place(join(own.tails.chain[: candidate.cut], candidate.tail))
            return {"latency_ms": own.clock.exact(network)}

        took = measured_once(path(f"trial-{trial.trial}-latency.json"), measure)["latency_ms"]
        words = f"trial {trial.trial} takes {took:.3g} ms in {clock.name}"
        if took <= bound:
            log.info("%s: %.3g ms were predicted", words, predicted)
            return trial, None
        words += f", above the bound of {bound:.3g}"
        log.warning("%s: %.3g ms were predicted", words, predicted)
        missed = missed or words
        off = took / predicted
        too_slow |= {one.trial for one in study.trials if (one.latency_ms or 0.0) * off > bound}
        too_slow.add(trial.trial)
        found = study.winner(n_val, tolerance, without=too_slow)
    return (found, None) if found is not None else (first, missed)


def no_winner(study: Study) -> TascnetError:
    """The error of a search without a winner."""
    trials = study.trials
    slow = [trial.latency_ms for trial in trials if trial.status == "infeasible" and trial.latency_ms]
    if slow:
        bound = study.goal.max_latency_ms or 0.0
        return TascnetError(
            f"none of {len(trials)} networks keeps the latency bound of {bound:.3g} ms; the fastest of them "
            f"took {min(slow):.3g} ms",
            "raise the latency target or `max_trials`",
        )
    return TascnetError(
        f"the first {len(trials)} trials all failed, the last one because {trials[-1].reason}",
        f"{study.path} holds the reasons; correct the cause and start over with `fresh=true`",
    )


def _judged(
    proposal: Proposal,
    study: Study,
    tails: Tails,
    build: Builder,
    clock: Clock,
    promote: bool,
    tolerance: float | None,
    deadline: float,
) -> dict[str, Any]:
    """The fields of a trial, from its status on."""
    goal = study.goal
    candidate = build(proposal.config)
    network = join(tails.chain[: candidate.cut], candidate.tail)
    cost = complexity(network, tails.learner.samples.example)
    found: dict[str, Any] = {"status": "ok", "params": cost.params, "flops": cost.flops}
    if goal.max_latency_ms is not None:
        placed = tails.learner.place(network)
        found["latency_ms"] = took = clock.times({"": placed})[""]
        if goal.is_too_slow(took):
            reason = f"latency of {took:.3g} ms, above the bound of {goal.max_latency_ms:.3g}"
            return {**found, "status": "infeasible", "reason": reason}
    finished = curves(study.trials)
    network_cost = Cost(params=cost.params, flops=cost.flops)
    n_val = tails.learner.val_samples()
    needed = least_to_win(study.trials, goal, network_cost, n_val, tolerance)
    stopped = is_late = False

    def curve(epochs: Sequence[EpochRecord]) -> tuple[float, ...]:
        return tuple(score(epoch, goal.metric) or 0.0 for epoch in epochs)

    def ends(epochs: Sequence[EpochRecord]) -> bool:
        nonlocal stopped, is_late
        is_late = bool(epochs) and time.perf_counter() >= deadline
        is_judged = promote and is_rung(len(epochs))
        stopped = is_judged and not is_promising(curve(epochs), finished, needed)
        return stopped or is_late

    _, training = tails.train(candidate, f"trial {proposal.trial}", stop=ends)
    reached = score(training, goal.metric) or 0.0
    if stopped and reached >= needed:
        found["reason"] = "its weights from before the training are good enough, and no epoch was better"
    elif stopped:
        found |= {"status": "stopped", "reason": "it would hardly have become the winner"}
    elif is_late:
        status = "ok" if study.best() is None else "stopped"
        found |= {"status": status, "reason": "the seconds of the search (`max_seconds`) were used up"}
    return {
        **found,
        "value": goal.value(reached, training.val_loss or 0.0),
        "val_accuracy": training.val_accuracy,
        "val_balanced_accuracy": training.val_balanced_accuracy,
        "val_loss": training.val_loss,
        "curve": curve(training.epochs),
        "epochs": len(training.epochs),
    }
