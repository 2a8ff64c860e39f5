"""The trials of a search: build, train and judge one configuration after the other."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tascnet.errors import BudgetError, SurgeryError, TascnetError, TrainingDiverged
from tascnet.measure import complexity
from tascnet.run.console import progress
from tascnet.train import EpochRecord, FitResult, reestimate_batchnorm
from tascnet.tuning import Advice, Candidate, Configuration, Proposal, Study, Trial, median_stop, next_depth

from ..session import recipe
from ..steps import join
from .space import Search, measured_latency, most_trials

# A search whose first trials all fail has a cause that more trials do not mend.
ALL_FAILED = 5

log = logging.getLogger("tascnet")


def run_search(search: Search, study: Study) -> str:
    """Run trials until the progression says stop; returns why.

    Raises:
        TascnetError: the first trials all failed.
    """
    options = search.stage.config.tune
    with progress("search", total=most_trials(search)) as bar:
        bar.advance(len(study.trials))
        _refuse_if_all_failed(study)
        while (advice := _next(search, study)).depth is not None:
            proposals = study.ask(advice.depth, 1, initial_trials=options.initial_trials)
            if not proposals:
                continue
            try:
                study.tell(_run_trial(search, study, proposals[0]))
            except BudgetError as error:
                if options.freeze != "layerwise" or study.best() is None:
                    raise
                # Earlier cuts have larger features still.
                return f"the features before unit {proposals[0].config['first_trained']} do not fit ({error})"
            _refuse_if_all_failed(study)
            best = study.best()
            bar.advance(1, best=0.0 if best is None else best.value, depth=advice.depth)
    return advice.reason


def train_candidate(
    search: Search,
    candidate: Candidate,
    description: str,
    *,
    checkpoint: Path | None = None,
    **options: Any,
) -> tuple[nn.Sequential, FitResult]:
    """The whole network of a candidate, its tail trained on cached features.

    Args:
        search: the search.
        candidate: its tail is trained in place.
        description: of the progress bar.
        checkpoint: where an interrupted training goes on from.
        options: further ones of `Session.fit`.
    """
    stage = search.stage
    session = stage.session
    tail = session.place(candidate.tail)
    tail.requires_grad_(True)
    for name in candidate.frozen:
        tail.get_submodule(name).requires_grad_(False)
    features = stage.features(search.chain, candidate.cut)
    if candidate.first_changed is not None:
        reestimate_batchnorm(tail, features[0], first_block=candidate.first_changed, device=session.device)
    settings = recipe(stage.config.trainer.trial)
    result = session.fit(
        tail,
        replace(settings, lr=settings.lr * candidate.lr_factor),
        features=features,
        keep="lowest_loss" if search.goal.objective == "loss" else "best",
        checkpoint=checkpoint,
        description=description,
        **options,
    )
    return join(search.chain[: candidate.cut], tail), result


def no_winner(study: Study) -> TascnetError:
    """Why a search has no winner, and what to do."""
    trials = study.trials
    if not trials:
        return TascnetError("the search ended before its first trial", "raise tune.max_seconds")
    slow = [trial.latency_ms for trial in trials if trial.status == "infeasible" and trial.latency_ms]
    if slow:
        bound = study.goal.max_latency_ms or 0.0
        return TascnetError(
            f"none of {len(trials)} networks keeps the latency bound of {bound:.3g} ms; the fastest of them "
            f"took {min(slow):.3g} ms",
            "raise tune.max_latency or tune.max_trials",
        )
    return TascnetError(
        f"the first {len(trials)} trials all failed, the last one because {trials[-1].reason}",
        f"{study.path} has the reasons; correct the cause and start over with stage=tune fresh=true",
    )


def _next(search: Search, study: Study) -> Advice:
    return next_depth(study.trials, search.space, search.limits, search.goal, study.exhausted)


def _refuse_if_all_failed(study: Study) -> None:
    if len(study.trials) >= ALL_FAILED and all(trial.status == "failed" for trial in study.trials):
        raise no_winner(study)


def _run_trial(search: Search, study: Study, proposal: Proposal) -> Trial:
    """Build, train and judge one configuration; a failure is a result too."""
    started = time.perf_counter()
    failure: str | None = None
    try:
        found = _evaluate(search, study, proposal.config, proposal.trial)
    except BudgetError:
        raise
    except (SurgeryError, TrainingDiverged, RuntimeError, MemoryError, ValueError) as error:
        failure = (str(error).strip() or type(error).__name__).splitlines()[0]
    if failure is not None:
        found = {"status": "failed", "reason": failure}
        # Only now, without the traceback that held its tensors.
        if search.stage.session.device.type == "cuda":
            torch.cuda.empty_cache()
    trial = Trial(
        trial=proposal.trial,
        depth=proposal.depth,
        config=proposal.config,
        surrogate=proposal.surrogate,
        seconds=time.perf_counter() - started,
        **found,
    )
    _log(trial)
    return trial


def _evaluate(search: Search, study: Study, config: Configuration, number: int) -> dict[str, Any]:
    """What the journal says of a configuration, from its status on."""
    session, goal = search.stage.session, search.goal
    candidate = search.build(config)
    network = join(search.chain[: candidate.cut], candidate.tail)
    cost = complexity(network, session.example)
    found: dict[str, Any] = {"params": cost.params, "flops": cost.flops}
    if goal.max_latency_ms is not None:
        found["latency_ms"] = measured_latency(search, network)
        if found["latency_ms"] > goal.max_latency_ms:
            reason = f"latency of {found['latency_ms']:.3g} ms, above the bound of {goal.max_latency_ms:.3g}"
            return {**found, "status": "infeasible", "reason": reason}
    rule = _MedianRule(search, study)
    _, result = train_candidate(search, candidate, f"trial {number}", stop=rule if rule.is_on else None)
    if rule.has_stopped:
        found |= {"status": "stopped", "reason": "below the median of earlier trials at the same epoch"}
    return {
        "status": "ok",
        **found,
        "value": goal.value(result.best_val_accuracy or 0.0, result.best_val_loss or 0.0),
        "val_accuracy": result.best_val_accuracy,
        "val_loss": result.best_val_loss,
        "curve": rule.curve(result.epochs),
        "epochs": len(result.epochs),
    }


class _MedianRule:
    """Ends a trial whose validation accuracy is below the median of the complete ones at the same epoch."""

    def __init__(self, search: Search, study: Study) -> None:
        self._options = search.stage.config.tune
        self._others = study.curves()
        self.is_on = self._options.early_stop == "median"
        self.has_stopped = False

    def curve(self, epochs: Sequence[EpochRecord]) -> list[float]:
        """Validation accuracy after each epoch."""
        return [epoch.val_accuracy or 0.0 for epoch in epochs]

    def __call__(self, epochs: Sequence[EpochRecord]) -> bool:
        self.has_stopped = bool(epochs) and median_stop(
            self.curve(epochs),
            self._others,
            stop_epoch=self._options.stop_epoch,
            stop_trials=self._options.stop_trials,
        )
        return self.has_stopped


def _log(trial: Trial) -> None:
    if trial.val_accuracy is None:
        log.warning("trial %d %s: %s", trial.trial, trial.status, trial.reason)
        return
    log.info(
        "trial %d, depth %d%s: validation accuracy %.2f %%, %.3g M params, %.4g MFLOPs",
        trial.trial,
        trial.depth,
        f", stopped after {trial.epochs} epochs" if trial.status == "stopped" else "",
        100 * trial.val_accuracy,
        (trial.params or 0) / 1e6,
        (trial.flops or 0) / 1e6,
    )
