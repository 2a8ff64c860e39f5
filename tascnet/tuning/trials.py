"""The trials of a search: configurations are proposed, built, trained and judged."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from rich import box
from rich.table import Table

from tascnet.errors import (
    CacheLimitError,
    CompileError,
    SurgeryError,
    TascnetError,
    TrainingDiverged,
    first_line,
)
from tascnet.measure import Clock, complexity
from tascnet.measure.table import UnknownLayer
from tascnet.run.console import progress
from tascnet.run.events import TrialEvent, emit
from tascnet.run.records import NO_SECONDS, EpochRecord, Trial, measured_once, score
from tascnet.tuning.build import Candidate
from tascnet.tuning.cost import Cost
from tascnet.tuning.goal import least_to_win
from tascnet.tuning.problem import Builder
from tascnet.tuning.progression import Advice, Limits, next_depth
from tascnet.tuning.promotion import curves, is_promising, is_rung
from tascnet.tuning.proposal import Proposal
from tascnet.tuning.sizes import Settings
from tascnet.tuning.space import FIRST_TRAINED
from tascnet.tuning.study import Study
from tascnet.tuning.tails import Tails, join

# If this many first trials all fail, more trials will not help.
ALL_FAILED = 5
# Trials that a terminal shows.
SHOWN = 5

# What ends a trial by itself; the surrogate learns from it.
ERRORS = (CompileError, SurgeryError, TrainingDiverged, RuntimeError, MemoryError, ValueError)

log = logging.getLogger("tascnet")


class TrialRunner(Protocol):
    """What trains the trials of a search."""

    def has_room(self) -> bool:
        """Whether one more is worth starting."""

    def start(self, proposal: Proposal) -> None:
        """Let the trial of a proposal be trained."""

    @property
    def running(self) -> int:
        """How many trials have been started and have not come."""

    def next(self) -> Trial:
        """The trial that ends next.

        Raises:
            CacheLimitError: its features would take more than the cache's limit.
        """


def run_search(study: Study, limits: Limits, trainer: TrialRunner, *, initial_trials: int) -> str:
    """Run trials until the limits end the search, and return the reason.

    As soon as there is room one more point is proposed; it takes into account those that are being trained.
    Proposals that an interrupted search left without a trial come first.

    Raises:
        TascnetError: the first trials all failed.
    """
    total = limits.most_trials(study.space)
    reason = ""
    with progress("search", total=total, done=len(study.trials)) as bar:
        while True:
            if study.best() is not None:
                bar.show(best_trials(study))
            # Of trials side by side those that fail end first.
            has_begun = [trial.trial for trial in study.trials[:ALL_FAILED]] == list(range(ALL_FAILED))
            if has_begun and all(trial.status in ("failed", "lost") for trial in study.trials):
                raise no_winner(study)
            while trainer.has_room() and not reason:
                advice = Advice(depth=0)
                if not study.left:
                    pending = tuple(study.pending.values())
                    advice = next_depth(
                        *(study.trials, study.space, limits, study.goal, study.exhausted), pending=pending
                    )
                if advice.depth is None:
                    reason = advice.reason
                    break
                for proposal in study.ask(advice.depth, 1, initial_trials=initial_trials):
                    trainer.start(proposal)
            if not trainer.running:
                return reason
            try:
                trial = trainer.next()
            except CacheLimitError as error:
                if limits.every is None or study.best() is None:
                    raise
                # The features at earlier cuts are even larger.
                reason = str(error)
                continue
            study.tell(trial)
            emit(TrialEvent(trial=trial))
            best = study.best()
            bar.advance(1, best=0.0 if best is None else best.value, depth=trial.depth)


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


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When a trial ends before its last epoch, by the journal as it was when the trial was proposed.

    Args:
        metric: of the curves.
        needed: what it has to reach to change which trial wins; see `least_to_win`.
        finished: curves of the trials that were trained to their end; None: it is not judged by them.
        seconds: that are left to the search; infinite: no limit.
    """

    metric: str
    needed: float
    finished: tuple[tuple[float, ...], ...] | None
    seconds: float = math.inf


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """A trial that is ready to be trained, in any process: what comes of it follows from this and the data.

    Args:
        number: of the trial.
        unit: that is trained first.
        candidate: its network.
        stopping: when it ends early.
        found: what is known of the trial already.
    """

    number: int
    unit: int
    candidate: Candidate
    stopping: Stopping
    found: dict[str, Any]


def prepare(
    proposal: Proposal,
    study: Study,
    tails: Tails,
    build: Builder,
    clock: Clock,
    *,
    promote: bool,
    tolerance: float | None = None,
    max_seconds: float | None = None,
) -> TrialTask | dict[str, Any]:
    """Build the network of a proposal and count its cost; the fields of its trial where it is not trained.

    With `promote` it is trained on only while it may still change which trial wins, for which `tolerance`
    counts (see `promotion` and `Study.winner`). It is also stopped after the epoch in which all trials
    together have taken `max_seconds`.
    """
    goal = study.goal
    try:
        candidate = build(proposal.config)
        network = join(tails.chain[: candidate.cut], candidate.tail)
        cost = complexity(network, tails.learner.samples.example)
        found: dict[str, Any] = {"params": cost.params, "flops": cost.flops}
        if goal.max_latency_ms is not None:
            found["latency_ms"] = took = clock.times({"": tails.learner.place(network)})[""]
            if goal.is_too_slow(took):
                reason = f"latency of {took:.3g} ms, above the bound of {goal.max_latency_ms:.3g}"
                return {**found, "status": "infeasible", "reason": reason}
    except (*ERRORS, UnknownLayer) as error:
        return {"status": "failed", "reason": first_line(error)}
    trials, n_val = study.seen_by(proposal), tails.learner.val_samples()
    own = Cost(params=cost.params, flops=cost.flops)
    spent = sum(trial.seconds for trial in trials)
    stopping = Stopping(
        metric=goal.metric,
        needed=least_to_win(trials, goal, own, n_val, tolerance),
        finished=tuple(curves(trials)) if promote else None,
        seconds=math.inf if max_seconds is None else max_seconds - spent,
    )
    unit = int(proposal.config[FIRST_TRAINED])
    return TrialTask(number=proposal.trial, unit=unit, candidate=candidate, stopping=stopping, found=found)


def train(task: TrialTask, tails: Tails) -> dict[str, Any]:
    """Train the network of a trial: the fields of the trial but its value.

    Raises:
        CacheLimitError: the features would take more than the cache's limit.
    """
    started, rule = time.perf_counter(), task.stopping
    # Why the training ended before its last epoch.
    ended: Literal["hopeless", "late"] | None = None

    def curve(epochs: Sequence[EpochRecord]) -> tuple[float, ...]:
        return tuple(score(epoch, rule.metric) or 0.0 for epoch in epochs)

    def ends(epochs: Sequence[EpochRecord]) -> bool:
        nonlocal ended
        if rule.finished is not None and is_rung(len(epochs)):
            ended = None if is_promising(curve(epochs), rule.finished, rule.needed) else "hopeless"
        if ended is None and epochs and time.perf_counter() - started >= rule.seconds:
            ended = "late"
        return ended is not None

    try:
        _, training = tails.train(task.candidate, f"trial {task.number}", stop=ends)
    except CacheLimitError as error:
        raise CacheLimitError(
            f"the features before unit {task.unit} do not fit ({error.message})", error.hint
        ) from error
    except ERRORS as error:
        return {"status": "failed", "reason": first_line(error)}
    finally:
        if tails.learner.device.type == "cuda":
            torch.cuda.empty_cache()
    found = {"status": "ok", **task.found}
    reached = score(training, rule.metric) or 0.0
    if ended == "hopeless" and reached >= rule.needed:
        found["reason"] = "its weights from before the training are good enough, and no epoch was better"
    elif ended == "hopeless":
        found |= {"status": "stopped", "reason": "it would hardly have become the winner"}
    elif ended == "late":
        found |= {"status": "stopped", "reason": NO_SECONDS}
    return {
        **found,
        "val_accuracy": training.val_accuracy,
        "val_balanced_accuracy": training.val_balanced_accuracy,
        "val_loss": training.val_loss,
        "curve": curve(training.epochs),
        "epochs": len(training.epochs),
    }


def finished(proposal: Proposal, study: Study, found: dict[str, Any], seconds: float) -> Trial:
    """The trial of a proposal, which is logged.

    One that the seconds of the search ended is `ok` where no other trial is, for a search hands over a
    network.
    """
    goal = study.goal
    if "val_loss" in found:
        reached = found[f"val_{goal.metric}"] or 0.0
        found = {**found, "value": goal.value(reached, found["val_loss"] or 0.0)}
        if found.get("reason") == NO_SECONDS and study.best() is None:
            found["status"] = "ok"
    trial = proposal.came(seconds=seconds, **found)
    value = score(trial, goal.metric)
    if value is None:
        log.warning("trial %d %s: %s", trial.trial, trial.status, trial.reason)
    else:
        log.info(
            "trial %d, depth %d%s: validation %s %.2f %%, %.3g M params, %.4g MFLOPs",
            *(trial.trial, trial.depth),
            f", stopped after {trial.epochs} epochs" if trial.reason else "",
            *(goal.metric.replace("_", " "), 100 * value),
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
    if not trials:
        return TascnetError(
            "no network at the depths that are searched keeps the bounds",
            "raise the targets, or widen the space",
        )
    slow = [trial.latency_ms for trial in trials if trial.status == "infeasible" and trial.latency_ms]
    if slow:
        bound = study.goal.max_latency_ms or 0.0
        return TascnetError(
            f"none of {len(trials)} networks keeps the latency bound of {bound:.3g} ms; the fastest of them "
            f"took {min(slow):.3g} ms",
            "raise the latency target or `max_trials`",
        )
    lost = [trial for trial in trials if trial.status == "lost"]
    if lost:
        return TascnetError(
            f"the cluster lost or failed the first {len(trials)} trials: {lost[-1].reason}",
            "see what is wrong with it, and run the same command again: it resumes",
        )
    return TascnetError(
        f"the first {len(trials)} trials all failed, the last one because {trials[-1].reason}",
        f"{study.path} holds the reasons; correct the cause and start over with `fresh=true`",
    )
