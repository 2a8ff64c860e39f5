"""The steps of stage two: iterations, the final rounds of training, and what is handed over."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from tascnet.errors import RunFolderError, TascnetError, plural
from tascnet.execute.workers import Workers
from tascnet.measure import Clock, compare_layers, complexity, latency, reach, target_of
from tascnet.models.archive import save
from tascnet.options import HistoryPrune, Measure, Prune
from tascnet.pruning.check import first_block, removable_blocks, spared
from tascnet.pruning.iteration import (
    Decision,
    again_of,
    apply_removal,
    costs_of,
    decide_removal,
    final_of,
    first_of,
    has_gained,
    latency_file,
    record_removal,
    recover,
    retrain,
)
from tascnet.pruning.rounding import rounding
from tascnet.pruning.schedule import (
    Verdict,
    deadline_of,
    decide,
    is_retrained,
    missed_latency,
    missed_targets,
    noise,
    reaches_latency,
    replayed,
    rounds,
)
from tascnet.pruning.sensitivity import FILE as SENSITIVITY
from tascnet.pruning.sensitivity import sensitivity
from tascnet.report import reach_lines
from tascnet.run.events import IterationEvent, emit
from tascnet.run.folder import METRICS, MODEL, REPORT, budget
from tascnet.run.records import (
    Iteration,
    ModelMetrics,
    PruneMetrics,
    Reach,
    Sensitivity,
    StepRecord,
    TrainingRecord,
    append_record,
    measured_once,
    read_record,
    read_records,
    score,
    write_record,
    write_records,
)
from tascnet.surgery import Trace
from tascnet.train import Archive, Learner, gentler
from tascnet.train.judge import judge, remeasured, stage_facts, trainings_of
from tascnet.train.steps import RECORD

log = logging.getLogger("tascnet")

JOURNAL = "iterations.jsonl"
# Name of the step that keeps the unpruned network.
UNPRUNED = "iteration-000"
# Between why pruning ended and the latency at the end.
AT_THE_END = "; measured again at the end, "
# Samples and passes that are timed for the estimate. A training step costs about three forward passes.
BATCH, PASSES = 32, 3


@dataclass(frozen=True, kw_only=True)
class PruneStage:
    """Stage two in one folder.

    Args:
        learner: trains and judges networks.
        archive: of the folder; what is finished is read back from there.
        options: what is removed, and when to stop.
        measure: how latency is measured at the end.
        unpruned: the network to start from, on the device.
        teacher: what pruned networks learn from.
        clock: by which latencies are judged in between.
        workers: adapt candidates and measure the sensitivity side by side.
    """

    learner: Learner
    archive: Archive
    options: Prune
    measure: Measure
    unpruned: nn.Sequential
    teacher: nn.Module
    clock: Clock
    workers: Workers

    @property
    def _journal(self) -> Path:
        """The file of the iterations."""
        return self.archive.folder / JOURNAL

    def run(self) -> None:
        """All steps, from the first iteration to the metrics."""
        self._hand_over(*self._iterate())

    def _iterate(self) -> tuple[list[Iteration], int, str]:
        """All iterations, the number of the kept one, and why pruning ended."""
        self._log_estimate()
        if depends_on_latency(self.options):
            log.info(
                "latency is judged in %s: %.3g ms for one sample", self.clock.name, self.clock.reference_ms
            )
        for line in reach_lines(self._reach):
            log.info("%s", line)
        if self.options.sensitivity:
            self._sensitivity()
        iterations, verdict = self._resumed()
        reason = verdict.reason
        while reason is None:
            started = time.perf_counter()
            deadline = deadline_of(iterations, self.options, started)
            decision = self._decide(iterations, verdict, deadline)
            if isinstance(decision, str):
                reason = decision
                break
            network, step, again = self._remove(decision, deadline, iterations)
            took = step.seconds + (again.seconds if again else 0.0)
            costs = self._costs(self.learner.place(network), decision.state, took)
            first, metric = iterations[0], self.learner.metric
            came = record_removal(self.options, first, decision, step, again, costs, metric)
            # A step that is read back took its time before an interruption.
            came = replace(came, seconds=max(time.perf_counter() - started, took))
            verdict = decide([*iterations, came], self.options, self.learner.metric)
            iterations.append(replace(came, inside=verdict.inside[-1]))
            append_record(self._journal, iterations[-1])
            emit(IterationEvent(iteration=iterations[-1]))
            reason = verdict.reason
        kept = iterations[verdict.keep]
        missed = missed_targets(iterations[0], kept, self.options)
        if missed and self.options.has_latency_target and self.clock.predicts:
            kept = replace(kept, latency_ms=self.clock.exact(self._network(kept)))
            missed = missed_targets(iterations[0], kept, self.options)
        if missed is not None:
            reason = f"{reason}; no target is reached: {missed}"
        log.info("pruning ended after %s: %s", plural(len(iterations) - 1, "iteration"), reason)
        return iterations, verdict.keep, reason

    def _resumed(self) -> tuple[list[Iteration], Verdict]:
        """The journal's iterations, as far as they hold by the options, and the verdict on them.

        Damaged networks are made again, and latencies are measured for a target without which iterations were
        made.
        """
        journal = self._journal
        known = read_records(journal, Iteration)
        if not known:
            known = [self._first()]
            append_record(journal, known[0])
            emit(IterationEvent(iteration=known[0]))
        iterations, verdict = self._replayed(known)
        lacks_latency = self.options.has_latency_target and any(one.latency_ms is None for one in iterations)
        # Which networks are read below.
        for number in range(len(iterations)) if lacks_latency else [verdict.keep]:
            self._repair(known, number)
        if lacks_latency:
            for number, one in enumerate(known[: len(iterations)]):
                known[number] = replace(one, **self._costs(self._network(one), one.state))
            write_records(journal, known)
            iterations, verdict = self._replayed(known)
        while self.clock.predicts and (found_ms := self._disproved(iterations)):
            # It was predicted where another target was asked for.
            known[len(iterations) - 1] = replace(iterations[-1], latency_ms=found_ms)
            write_records(journal, known)
            iterations, verdict = self._replayed(known)
        if verdict.reason is None and iterations != known:
            write_records(journal, iterations)
        return iterations, verdict

    def _first(self) -> Iteration:
        """The iteration of the unpruned network."""
        found = self.learner.evaluate(self.unpruned)
        return Iteration(
            iteration=0,
            start=0,
            step=1.0,
            state=UNPRUNED,
            landed=None,
            val_accuracy=found.accuracy,
            val_balanced_accuracy=found.balanced_accuracy,
            val_loss=found.loss,
            inside=True,
            removed={},
            pending={},
            seconds=0.0,
            **self._costs(self.unpruned, UNPRUNED),
        )

    def _replayed(self, known: Sequence[Iteration]) -> tuple[list[Iteration], Verdict]:
        """See `replayed`."""
        return replayed(known, self.options, self.learner.metric)

    def _network(self, iteration: Iteration) -> nn.Sequential:
        """The network of an iteration, on the device."""
        if not iteration.iteration:
            return self.unpruned
        return self.learner.place(self.archive.read(self.archive.path(iteration.state)))

    def _costs(self, network: nn.Sequential, state: str, seconds: float = 0.0) -> dict[str, Any]:
        """See `costs_of`."""
        return costs_of(self.learner, self.archive, self.options, self.clock, network, state, seconds)

    def _sensitivity(self) -> Sensitivity:
        """See `sensitivity`."""
        return sensitivity(self.learner, self.archive, self.options, self.unpruned, self.workers)

    def _decide(self, iterations: Sequence[Iteration], verdict: Verdict, deadline: float) -> Decision | str:
        """What the next iteration removes, or why nothing can be removed."""
        round_to = rounding(self.learner, self.archive, self.options, self.unpruned, self.clock)
        return decide_removal(
            self.learner, self.archive, self.options, iterations, verdict, round_to, self.clock, deadline
        )

    def _remove(
        self, decision: Decision, deadline: float, before: Sequence[Iteration]
    ) -> tuple[nn.Sequential, StepRecord, StepRecord | None]:
        """The network of an iteration, its step, and the second retraining where the first lost too much."""
        learner, archive, options, metric = self.learner, self.archive, self.options, self.learner.metric
        own = (self.teacher, decision, self.clock, deadline, self.workers)
        work = partial(apply_removal, learner, archive.info, options, *own)
        network, step = archive.once(decision.state, work)
        if not is_retrained(score(step.training, metric), before, options, metric):
            return network, step, None
        log.info(
            "iteration %d is below the tolerance: it is retrained once more with a third of the "
            "learning rate",
            decision.number,
        )
        retrained, again = retrain(learner, archive, options, self.teacher, decision, network, step, deadline)
        if has_gained(again, step, metric):
            return retrained, step, again
        log.info("that did not help")
        return archive.read(archive.path(decision.state)), step, again

    def _disproved(self, iterations: Sequence[Iteration]) -> float | None:
        """The measured latency of the last iteration where only a prediction of it reaches a target."""
        first, last = iterations[0], iterations[-1]
        if not self.options.has_latency_target or last.iteration == 0:
            return None
        assert first.latency_ms is not None
        assert last.latency_ms is not None
        if not (last.inside and reaches_latency(self.options, first.latency_ms, last.latency_ms)):
            return None

        def measure() -> dict[str, float]:
            return {"latency_ms": self.clock.confirmed(self._network(last), lambda _: True)}

        found = measured_once(latency_file(self.archive, self.options, last.state), measure)["latency_ms"]
        return None if reaches_latency(self.options, first.latency_ms, found) else found

    def _hand_over(self, iterations: Sequence[Iteration], kept: int, reason: str) -> None:
        """Save the kept network, and measure it and the unpruned one on the test samples."""
        started, learner, archive = time.perf_counter(), self.learner, self.archive
        options, measure = self.options, self.measure
        folder, example = archive.folder, learner.samples.example
        earlier = sum(step.seconds for step in self._final_rounds(iterations[kept]))
        deadline = deadline_of(iterations, options, started) - earlier
        pruned = self._recovered(iterations[kept], deadline)
        # Without metrics the stage is unfinished, whatever interrupts the lines below.
        (folder / METRICS).unlink(missing_ok=True)
        save(pruned, folder / MODEL, archive.info)
        learner.place(pruned)
        folders = {"before": archive.path(UNPRUNED), "after": folder / MODEL}
        models = judge(learner, {"before": self.unpruned, "after": pruned}, folders, measure)
        widths = compare_layers(complexity(self.unpruned, example), complexity(pruned, example))
        seconds = sum(iteration.seconds for iteration in iterations) + earlier
        seconds += time.perf_counter() - started
        found = None
        if options.sensitivity or archive.path(SENSITIVITY).exists():
            found = self._sensitivity()
        trainings = self._trainings(iterations, kept)
        # What another machine takes is not measured here.
        if not measure.table:
            reason = _with_measured(reason, models, options, target_of(measure, learner.device))
        metrics = PruneMetrics(
            models=models,
            trainings=trainings,
            iterations=len(iterations) - 1,
            kept_iteration=kept,
            stopped=reason,
            removable_blocks=0 if options.blocks else len(removable_blocks(options, archive.info, pruned)),
            tolerance=options.tolerance,
            widths=widths,
            reach=self._reach,
            budget=budget(options),
            seconds=seconds,
            sensitivity=found,
            **stage_facts(learner, archive.info.backbone, measure),
        )
        _finish(folder, metrics)

    def _trainings(self, iterations: Sequence[Iteration], kept: int) -> dict[str, TrainingRecord]:
        """The trainings of all iterations, and those of the kept network's final rounds."""
        places = {}
        for one in iterations[1:]:
            first = first_of(one.state)
            places[f"iteration {one.iteration}"] = first
            if one.val_accuracy_first is not None:
                places[f"iteration {one.iteration}: once more"] = again_of(first)
        state, number = iterations[kept].state, 1
        while (final := final_of(state, number)) in self.archive.done:
            places[f"iteration {kept}: final round {number}"] = final
            number += 1
        steps = {}
        for name, place in places.items():
            # The networks of iterations that are not kept are not needed, and may be gone.
            try:
                steps[name] = read_record(self.archive.path(place) / RECORD, StepRecord)
            except TascnetError as error:
                log.warning("the training of %s is left out of the report: %s", name, error.message)
        return trainings_of(steps)

    @cached_property
    def _reach(self) -> Reach:
        """How much of the unpruned network can be removed."""
        is_spared = partial(spared, self.options, first_block(self.options, self.archive.info))
        return reach(self.unpruned, Trace(self.unpruned, self.learner.samples.example), is_spared)

    def _recovered(self, kept: Iteration, deadline: float) -> nn.Sequential:
        """The kept network after its final rounds of training, or before them where it was better.

        Each round starts from the best network so far, with a third of the learning rate of the one before.
        From the second on, a round that gains no more than the noise is the last one. They also end with the
        epoch in which `deadline` has passed; a round that an earlier deadline cut short is trained again
        where at least as many seconds are left as it took.
        """
        known = self._final_rounds(kept)
        short = next(
            (n for n, step in enumerate(known, 1) if step.training and step.training.cut_short), None
        )
        if short is not None and time.perf_counter() + known[short - 1].seconds < deadline:
            for number in range(short, len(known) + 1):
                (self.archive.path(final_of(kept.state, number)) / RECORD).unlink()
        best, value = kept.state, score(kept, self.learner.metric) or 0.0
        lr: float | None = None
        for number, epochs in enumerate(rounds(self.options.final_epochs) if kept.iteration else (), start=1):
            name = final_of(kept.state, number)
            if number > 1 and time.perf_counter() >= deadline and not self.archive.has(name):
                break
            own = partial(self._final_round, best, epochs, lr, deadline)
            _, step = self.archive.once(name, own)
            assert step.training is not None
            now = score(step.training, self.learner.metric)
            assert now is not None
            words = self.learner.metric.replace("_", " "), 100 * now, 100 * value
            log.info("after final round %d: validation %s %.2f %%, %.2f %% before it", number, *words)
            pays = now > value + noise(value, self.learner.val_samples())
            if now >= value:
                best, value = name, now
            if step.training.cut_short or (not pays and number > 1):
                break
            lr = gentler(step.training)
        if best == kept.state and self.options.final_epochs and kept.iteration:
            log.info("the final epochs did not help: the network is handed over as it was before them")
        return self.archive.read(self.archive.path(best))

    def _final_rounds(self, kept: Iteration) -> list[StepRecord]:
        """Records of the final rounds that the kept network has had."""
        known: list[StepRecord] = []
        while self.archive.has(name := final_of(kept.state, len(known) + 1)):
            known.append(read_record(self.archive.path(name) / RECORD, StepRecord))
        return known

    def _final_round(
        self, start: str, epochs: int, lr: float | None, deadline: float, folder: Path
    ) -> tuple[nn.Sequential, StepRecord]:
        """Train the network of the step `start` for some epochs more."""
        checkpoint = folder / "final.pt"
        network = self.learner.place(self.archive.read(self.archive.path(start)))
        training = recover(
            self.learner, self.options, network, self.teacher, checkpoint, epochs, deadline, lr=lr
        )
        return network, StepRecord(seconds=training.seconds, training=training)

    def complete(self) -> None:
        """Add to a finished run latencies by other options, or the sensitivity."""
        folder = self.archive.folder
        known = read_record(folder / METRICS, PruneMetrics)
        networks = {"before": self.unpruned, "after": self.learner.place(self.archive.read(folder / MODEL))}
        samples = self.learner.samples
        metrics = remeasured(known, networks, samples.example, self.measure, cache=samples.cache) or known
        if self.options.sensitivity:
            metrics = replace(metrics, sensitivity=self._sensitivity())
        if metrics != known:
            if not self.measure.table:
                runtime = target_of(self.measure, self.learner.device)
                reason = known.stopped.partition(AT_THE_END)[0]
                reason = _with_measured(reason, metrics.models, self.options, runtime)
                metrics = replace(metrics, stopped=reason)
            _finish(folder, metrics)

    def _repair(self, known: Sequence[Iteration], number: int) -> None:
        """Make the network of an iteration again if it is damaged, from that of the one that it started from.

        Raises:
            RunFolderError: by the options as they are now another network would come of it.
        """
        before, last, started = known[:number], known[number], time.perf_counter()
        # The unpruned network has been checked.
        if number == 0 or self.archive.has(last.state):
            return
        self._repair(known, last.start)
        _, verdict = self._replayed(before)
        deadline = deadline_of(before, self.options, started)
        decision = self._decide(before, verdict, deadline)
        if isinstance(decision, str) or last.state not in (decision.state, again_of(decision.state)):
            raise RunFolderError(
                f"the network in {self.archive.path(last.state)} is missing or damaged, and these options "
                "would make another one",
                "give the options that it was made with, restore it, or start over with `fresh=true`",
            )
        self._remove(decision, deadline, before)

    def _log_estimate(self) -> None:
        """Log how long an iteration takes, how many there are at most, and what each needs on disk."""
        timed = latency(self.unpruned, self.learner.samples.example, batch=BATCH, repeats=PASSES, warmup=1)
        forward = timed.median_ms / 1000 / BATCH
        train, val = len(self.learner.samples.train), len(self.learner.samples.val)
        retrain = self.options.phases[2] if isinstance(self.options, HistoryPrune) else self.options.epochs
        teacher = (retrain + self.options.growing_epochs) * train if self.options.distill else 0
        epochs = self.options.epochs + self.options.growing_epochs
        seconds = (epochs * (3 * train + val) + teacher) * forward
        log.info(
            "estimate: %s an iteration, at most %d of them; %.1f GB of disk each",
            f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min",
            self.options.max_iterations,
            4 * sum(parameter.numel() for parameter in self.unpruned.parameters()) / 1e9,
        )


def depends_on_latency(options: Prune) -> bool:
    """Whether what is removed, or when pruning ends, depends on latencies."""
    return options.has_latency_target or options.blocks or options.round_to == "auto"


def _with_measured(reason: str, models: Mapping[str, ModelMetrics], options: Prune, runtime: str) -> str:
    """Why pruning ended, with the latency that was measured at the end where that misses the target."""
    before, after = (models[name].latency(runtime) for name in ("before", "after"))
    if not options.has_latency_target or before is None or after is None or "latency reached" not in reason:
        return reason
    missed = missed_latency(options, before.latency_ms, after.latency_ms)
    if missed is None:
        return reason
    log.warning("measured again at the end, %s", missed)
    return f"{reason}{AT_THE_END}{missed}"


def _finish(folder: Path, metrics: PruneMetrics) -> None:
    """Write the metrics, with which the run is finished; an earlier report is out of date."""
    (folder / REPORT).unlink(missing_ok=True)
    write_record(folder / METRICS, metrics)


def is_whole(archive: Archive) -> bool:
    """Whether a finished stage still has all its iterations and its network; what is missing is reported."""
    journal = archive.folder / JOURNAL
    expected = read_record(archive.folder / METRICS, PruneMetrics).iterations
    # Number 0 is the unpruned network.
    found = len(read_records(journal, Iteration)) - 1
    if found < expected:
        log.warning("%s has %d iterations, expected %d: pruning resumes", journal, max(0, found), expected)
        return False
    return archive.holds(archive.folder / MODEL)
