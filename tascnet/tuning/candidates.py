"""Which network a search hands over: none that is worse than another one that is there already."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tascnet.execute.workers import Workers
from tascnet.measure import complexity
from tascnet.models.head import head_start
from tascnet.options import TuneBase
from tascnet.run.records import CandidateRecord, StepRecord, Trial, reaches
from tascnet.tuning.finetune import FineTuned, conventional, fine_tune, helped, metric_of, of_trial, slower
from tascnet.tuning.goal import near_margin
from tascnet.tuning.sizes import Setting, Settings
from tascnet.tuning.space import Space
from tascnet.tuning.study import Study

log = logging.getLogger("tascnet")

BASELINE, USUAL, WINNER, BEST, TUNED = "baseline", "conventional", "winner", "best trial", "tuned"


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The network that is handed over, and those that it was chosen from.

    Args:
        network: of the candidate `name`.
        setting: of the size of its images.
        usual: the conventional network.
        tuned: the fine-tuned winner.
        candidates: all of them.
        name: of the chosen one.
    """

    network: FineTuned
    setting: Setting
    usual: FineTuned
    tuned: FineTuned
    candidates: tuple[CandidateRecord, ...]
    name: str


def select(
    options: TuneBase,
    winner: Trial,
    study: Study,
    space: Space,
    settings: Settings,
    first: StepRecord,
    workers: Workers,
) -> Selected:
    """Fine-tune the winner, and choose from it and what there was before, by validation; see `choose`.

    A winner that ends too far below the others is fine-tuned once more, at a third of the learning rate. The
    decisions follow from archived steps and the journal, so a resumed stage decides the same.

    Args:
        options: of the search.
        winner: the trial to fine-tune.
        study: the finished search.
        space: the search space.
        settings: of the images' sizes; the baseline and the conventional network have the native one.
        first: the step of the baseline.
        workers: train what does not depend on each other.
    """
    native, own = settings.native, settings(winner.config)
    learner, goal, chain = native.learner, study.goal, native.tails.chain
    assert first.training is not None
    start = FineTuned(
        network=chain,
        training=first.training,
        first_trained=head_start(chain),
        origin=BASELINE,
        step=BASELINE,
    )
    tuned = fine_tune(options, winner, space, settings, workers)
    usual = conventional(learner, native.archive, chain, tuned.first_trained)
    example = learner.samples.example

    def record(name: str, made: FineTuned, fits: bool, *notes: str) -> CandidateRecord:
        sample = own.learner.samples.example if name == TUNED else example
        cost, training = complexity(made.network, sample), made.training
        assert training.val_accuracy is not None
        words = [*notes]
        if made.is_slower:
            words.append("at a third of the learning rate")
        if made.fit is not None and not helped(training):
            words.append("training did not help")
        return CandidateRecord(
            name=name,
            val_accuracy=training.val_accuracy,
            val_balanced_accuracy=training.val_balanced_accuracy,
            params=cost.params,
            flops=cost.flops,
            fits=fits,
            note=", ".join(words),
        )

    # What `pick` names is wanted even where another network is better.
    is_open = options.fallback and options.pick is None
    whole = complexity(chain, example)
    keeps = all(getattr(whole, name) <= bound for name, bound in goal.bounds.items())
    if keeps and goal.max_latency_ms is not None:
        keeps = not goal.is_too_slow(native.clock.reference_ms)
    known = [
        record(BASELINE, start, is_open and keeps),
        record(USUAL, usual, is_open and keeps),
        of_trial_record(WINNER, winner, fits=options.fallback),
    ]
    best = max(
        (trial for trial in study.trials if trial.status == "ok"),
        key=lambda trial: (metric_of(trial, goal.metric), -trial.trial),
    )
    if best.trial != winner.trial:
        # The predicted latency of a trial that did not win was not measured.
        is_timed = goal.max_latency_ms is None or not native.clock.predicts
        known.append(of_trial_record(BEST, best, fits=is_open and is_timed))
    n_val, tolerance = learner.val_samples(), options.tolerance

    def tuned_record() -> CandidateRecord:
        return record(TUNED, tuned, True, f"trial {winner.trial}", f"from {tuned.origin}")

    if options.fallback and not is_near(tuned_record(), known, n_val, tolerance, goal.metric):
        log.info("fine-tuning ended too far below what was there: once more at a third of the learning rate")
        tuned = slower(tuned, own.learner, own.archive)
    candidates = (*known, tuned_record())
    size = goal.pareto_cost if goal.objective == "pareto" else "params"
    chosen = choose(candidates, n_val, tolerance, size=size, metric=goal.metric).name
    made = {BASELINE: start, USUAL: usual, TUNED: tuned}.get(chosen)
    setting = own if chosen == TUNED else native
    if made is None:
        trial = winner if chosen == WINNER else best
        setting = settings(trial.config)
        made = of_trial(trial, space, setting, workers)
    return Selected(
        network=made, setting=setting, usual=usual, tuned=tuned, candidates=candidates, name=chosen
    )


def of_trial_record(name: str, trial: Trial, *, fits: bool) -> CandidateRecord:
    """A trial as the search trained it."""
    assert trial.params is not None
    assert trial.flops is not None
    assert trial.val_accuracy is not None
    return CandidateRecord(
        name=name,
        val_accuracy=trial.val_accuracy,
        val_balanced_accuracy=trial.val_balanced_accuracy,
        params=trial.params,
        flops=trial.flops,
        fits=fits,
        note=f"trial {trial.trial}",
    )


def is_near(
    one: CandidateRecord,
    others: Sequence[CandidateRecord],
    n_val: float,
    tolerance: float | None,
    metric: str = "accuracy",
) -> bool:
    """Whether a candidate is at most the tolerance below the best of it and others; see `near_margin`."""
    best = max(metric_of(other, metric) for other in (one, *others))
    return reaches(metric_of(one, metric), best - near_margin(best, n_val, tolerance))


def choose(
    candidates: Sequence[CandidateRecord],
    n_val: float,
    tolerance: float | None = None,
    *,
    size: str = "params",
    metric: str = "accuracy",
) -> CandidateRecord:
    """The network to hand over.

    It is the tuned one, if that is near the best. Else it is the smallest of those near the best that fit, of
    equally small ones the better; and where none is near, because targets forbid it, the best that fits.

    Args:
        candidates: in any order; at least the tuned one fits.
        n_val: validation samples, as many as count for a standard error; see `near_margin`.
        tolerance: in the metric; None: one standard error of the best.
        size: the cost by which candidates are compared, `params` or `flops`.
        metric: `accuracy` or `balanced_accuracy`.
    """
    fitting = [one for one in candidates if one.fits]
    near = [one for one in fitting if is_near(one, candidates, n_val, tolerance, metric)]
    for one in near:
        if one.name == TUNED:
            return one
    if near:
        return min(near, key=lambda one: (getattr(one, size), -metric_of(one, metric)))
    # Of equally good ones the tuned, which has been trained longest.
    return max(fitting, key=lambda one: (metric_of(one, metric), one.name == TUNED))
