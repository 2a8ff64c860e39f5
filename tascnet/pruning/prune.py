"""The public function of stage two."""

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tascnet.data import module_digest
from tascnet.data.heldout import SPLITS
from tascnet.data.samples import Samples, open_samples
from tascnet.errors import ConfigError, RunFolderError, TascnetError, plural
from tascnet.execute import check_executor
from tascnet.execute.workers import Workers
from tascnet.measure import (
    Clock,
    check_runtimes,
    compare_layers,
    complexity,
    judged_in,
    latency,
    reach,
    target_of,
)
from tascnet.models.archive import save
from tascnet.models.conversion import convert
from tascnet.models.info import ModelInfo, info_of
from tascnet.models.tensors import check_weights
from tascnet.options import Data, HistoryPrune, Local, Measure, Prune, Trainer
from tascnet.presets import trainer_for
from tascnet.pruning.check import check_criterion, check_options, first_block, removable_blocks, spared
from tascnet.pruning.iteration import (
    Decision,
    again_of,
    apply_removal,
    costs_of,
    decide_removal,
    final_of,
    first_of,
    has_gained,
    record_removal,
    recover,
    retrain,
)
from tascnet.pruning.rounding import rounding
from tascnet.pruning.schedule import (
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
from tascnet.report import models_html, models_text, prune_report, reach_lines
from tascnet.report.card import CARD, write_card
from tascnet.report.mistakes import FILE as MISTAKES
from tascnet.report.mistakes import Mistakes, mistakes_once
from tascnet.run.events import IterationEvent, emit, running
from tascnet.run.folder import TARGET, budget, cache_folder, finished, identity, open_folder
from tascnet.run.records import (
    Iteration,
    ModelMetrics,
    PruneMetrics,
    Reach,
    StepRecord,
    TrainingRecord,
    append_record,
    read_record,
    read_records,
    score,
    write_record,
    write_records,
)
from tascnet.surgery import Trace
from tascnet.train import Archive, Learner, gentler
from tascnet.train.distillation import adapted
from tascnet.train.evaluate import check_metric
from tascnet.train.judge import judge, remeasured, stage_facts, trainings_of, warn_of_lost_classes
from tascnet.train.parallel import check_devices
from tascnet.train.setting import computing
from tascnet.train.steps import RECORD
from tascnet.train.transfer import outputs_of

log = logging.getLogger("tascnet")

JOURNAL, METRICS, MODEL, REPORT = "iterations.jsonl", "metrics.json", "model", "report.html"
# Name of the step that keeps the unpruned network.
UNPRUNED = "iteration-000"
# Samples and passes that are timed for the estimate. A training step costs about three forward passes.
BATCH, PASSES = 32, 3


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """What stage two found.

    Args:
        network: the pruned network, in eval mode, with the attributes that every network of tascnet has.
        metrics: of the networks `before` and `after`.
        iterations: all of them, the unpruned network first.
        mistakes: test samples that the pruned network gets wrong and the unpruned one does not.
        folder: of the run; None where nothing was kept.
    """

    network: nn.Sequential
    metrics: PruneMetrics
    iterations: tuple[Iteration, ...]
    mistakes: Mistakes
    folder: Path | None

    def report(self, path: str | Path) -> None:
        """Write the report, a page of HTML that stands alone."""
        prune_report(Path(path), self.metrics, self.iterations, self.mistakes)

    def __str__(self) -> str:
        return models_text(self.metrics.models)

    def _repr_html_(self) -> str:
        return models_html(self.metrics.models)


@running("prune")
def prune(
    network: nn.Sequential,
    data: Data,
    options: Prune = Prune(),
    *,
    trainer: Trainer | None = None,
    measure: Measure = Measure(),
    teacher: nn.Module | None = None,
    metric: str = "accuracy",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    executor: Local = Local(),
    cache: str | Path | None = None,
    cache_limit_gb: float | None = 20.0,
    run: str | Path | None = None,
    fresh: bool = False,
) -> PruneResult:
    """Make a network smaller that classifies the classes of a data set; the network itself stays as it is.

    Args:
        network: what `tascnet.tune`, `tascnet.pretrain` or `tascnet.load` gave.
        data: the data set, split as it was when the network was trained.
        options: what is removed, and when to stop.
        trainer: recipes, of which `recover` is used, and with `blocks` `head`; None: what suits the data.
        measure: how latency is measured.
        teacher: a network of the same classes that the pruned ones learn from; None: the unpruned network.
        metric: by which networks are compared, and of which the tolerance is: `accuracy`, or
            `balanced_accuracy`, the mean recall of the classes.
        seed: of splits, order of samples and augmentation.
        device: `cpu`, `cuda`, `cuda:<number>`, or `auto`.
        threads: CPU threads; None: as torch has them.
        executor: where candidates of `blocks` and the sensitivity are computed, as in `tascnet.tune`.
        cache: folder of decoded samples and features; None: `outputs/cache`.
        cache_limit_gb: gigabytes that decoded images, and as many that features may take; None: no limit.
        run: folder of the run, which is resumed, or read back where it is finished; None: nothing is kept.
        fresh: start over.

    Raises:
        ConfigError: the network does not fit the data or the options.
        DataError: the data set is missing or too small.
        RunFolderError: the folder was made with other options.
    """
    info = info_of(network)
    check_weights(network)
    trainer = trainer or trainer_for(data)
    check_metric(metric)
    check_criterion(options)
    with computing(device, threads) as where:
        check_executor(executor, where.type, trainer.devices)
        check_devices(trainer.devices, where)
        check_runtimes(measure, where)
        runtime = judged_in(measure, where)
        samples = open_samples(
            data,
            info.preprocessing,
            seed=seed,
            cache=cache_folder(cache),
            cache_limit_gb=cache_limit_gb,
        )
        _check_network("network", info, samples)
        own_teacher = None if teacher is None else _teaching(teacher, options, samples, where)
        learner = Learner(samples=samples, device=where, trainer=trainer, seed=seed, metric=metric)
        learner.check_memory(network, "recover", measure)
        first_block(options, info)
        check_options(options, copy.deepcopy(network).eval(), samples.example, widens=False)
        recipe = asdict(trainer.recipe("recover"))
        # The options say for how many epochs.
        del recipe["epochs"]
        trained: dict[str, Mapping[str, Any]] = {
            "trainer": trainer.facts,
            "trainer.recover": recipe,
        }
        if options.blocks:
            # An earlier end has a new head.
            trained["trainer.head"] = asdict(trainer.recipe("head")) | {"standardise": trainer.standardise}
        inputs = {"data": samples.fingerprint, "network": module_digest(network)}
        if teacher is not None:
            inputs["teacher"] = module_digest(teacher)
        own = identity(
            "prune",
            seed,
            inputs,
            {"dataset": data, "prune": options, **trained},
        ) | {"metric": metric}
        if depends_on_latency(options):
            own |= {TARGET: runtime}
        claimed = open_folder(run, own, cache=samples.cache, fresh=fresh)
        with claimed as folder, Workers(executor, data) as workers:
            samples.write_splits(folder / SPLITS)
            archive = Archive(folder=folder, info=info)
            # A resumed run does not depend on where the network came from.
            copied, _ = archive.once(UNPRUNED, lambda _: (network, StepRecord(seconds=0.0)))
            unpruned = learner.place(copied)
            taught_by = own_teacher or unpruned
            clock = Clock(measure, samples.example, unpruned, samples.cache, archive.path("latency.json"))
            if finished(folder, budget(options)) and _is_whole(archive):
                log.info("prune is finished in %s; `fresh=true` starts it over", folder)
                _add(learner, archive, options, measure, unpruned, workers)
            else:
                found = _iterate(learner, archive, options, unpruned, taught_by, clock, workers)
                _hand_over(learner, archive, options, measure, unpruned, taught_by, *found, workers)
            metrics = read_record(folder / METRICS, PruneMetrics)
            result = PruneResult(
                network=archive.read(folder / MODEL),
                metrics=metrics,
                iterations=tuple(replayed(read_records(folder / JOURNAL, Iteration), options, metric)[0]),
                mistakes=mistakes_once(
                    folder / MISTAKES,
                    ("unpruned", metrics.models["before"]),
                    ("pruned", metrics.models["after"]),
                    samples.test,
                ),
                folder=None if run is None else folder,
            )
            warn_of_lost_classes(result.metrics)
            is_new = not (folder / REPORT).exists()
            if run is not None and (is_new or not (folder / CARD).exists()):
                write_card(folder, result.network, result.metrics)
            if run is not None and is_new:
                result.report(folder / REPORT)
                log.info("report: %s", folder / REPORT)
            return result


def depends_on_latency(options: Prune) -> bool:
    """Whether what is removed, or when pruning ends, depends on latencies."""
    return options.has_latency_target or options.blocks or options.round_to == "auto"


def _check_network(name: str, info: ModelInfo, samples: Samples) -> None:
    """Refuse a network, or a teacher, of other classes, or one that may have seen test samples."""
    if info.class_names != samples.class_names:
        raise ConfigError(
            f"the {name}'s {len(info.class_names)} classes are not the data set's {samples.num_classes}",
            f"give the data set that the {name} was trained on",
        )
    if info.held_out is None:
        log.warning(
            "the %s does not say which samples it was trained on: test accuracy may be too high", name
        )
    elif not samples.is_data_of(info.held_out):
        raise ConfigError(
            f"the samples are not those that the {name} was trained on: some were changed, added or removed, "
            "or another data set is given",
            "restore them, or tune a network on the samples as they are",
        )
    elif info.held_out != samples.held_out:
        raise ConfigError(
            f"the {name} was trained on another split of the data and may have seen test samples",
            "give the sizes of its splits (`train`, `val`) and the seed that it was trained with",
        )


def _teaching(teacher: nn.Module, options: Prune, samples: Samples, device: torch.device) -> nn.Module:
    """A copy of a teacher on the device, as a chain that takes the samples.

    Raises:
        ConfigError: it cannot teach these classes, or may have seen test samples.
    """
    if not options.distill:
        raise ConfigError("`teacher` has no effect with `distill=0`", "leave it out, or raise `distill`")
    info = getattr(teacher, "info", None)
    if isinstance(info, ModelInfo):
        _check_network("teacher", info, samples)
    else:
        log.warning("it is unknown which samples the teacher was trained on: test accuracy may be too high")
    check_weights(teacher)
    if isinstance(teacher, nn.Sequential):
        chain: nn.Sequential = copy.deepcopy(teacher)
    else:
        outputs_of(teacher, samples.example)
        chain = convert(teacher, samples.example).chain
    # Its type is lost with `to`.
    chain.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    chain.eval()
    return adapted(chain, samples, device)


def _iterate(
    learner: Learner,
    archive: Archive,
    options: Prune,
    unpruned: nn.Sequential,
    teacher: nn.Module,
    clock: Clock,
    workers: Workers,
) -> tuple[list[Iteration], int, str]:
    """All iterations, the number of the kept one, and why pruning ended."""
    _log_estimate(learner, options, unpruned)
    if depends_on_latency(options):
        log.info("latency is judged in %s: %.3g ms for one sample", clock.name, clock.reference_ms)
    for line in reach_lines(_reach(archive, options, learner, unpruned)):
        log.info("%s", line)
    if options.sensitivity:
        sensitivity(learner, archive, options, unpruned, workers)
    journal, known = archive.folder / JOURNAL, read_records(archive.folder / JOURNAL, Iteration)
    replay, at = replayed(known, options, learner.metric) if known else ([], None)
    lacks_latency = options.has_latency_target and any(one.latency_ms is None for one in replay)
    if at is not None:
        # Which networks are read below.
        for number in range(len(replay)) if lacks_latency else [at.keep]:
            _repair(learner, archive, options, unpruned, teacher, clock, workers, known, number)
    cost = partial(costs_of, learner, archive, options, clock)
    if not known:
        found = learner.evaluate(unpruned)
        known = [
            Iteration(
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
                **cost(unpruned, UNPRUNED),
            )
        ]
        append_record(journal, known[0])
        emit(IterationEvent(iteration=known[0]))
    if lacks_latency:
        # These iterations were made without the target.
        made = known[: len(replay)]
        networks = (
            learner.place(archive.read(archive.path(one.state))) if one.iteration else unpruned
            for one in made
        )
        timed = [replace(one, **cost(net, one.state)) for one, net in zip(made, networks, strict=True)]
        known = [*timed, *known[len(replay) :]]
        write_records(journal, known)
    iterations, verdict = replayed(known, options, learner.metric)
    while clock.predicts and (found_ms := _disproved(learner, archive, options, clock, iterations)):
        # It was predicted where another target was asked for.
        known[len(iterations) - 1] = replace(iterations[-1], latency_ms=found_ms)
        write_records(journal, known)
        iterations, verdict = replayed(known, options, learner.metric)
    reason = verdict.reason
    if reason is None and iterations != known:
        write_records(journal, iterations)
    while reason is None:
        started = time.perf_counter()
        round_to = rounding(learner, archive, options, unpruned, clock)
        deadline = deadline_of(iterations, options, started)
        decision = decide_removal(learner, archive, options, iterations, verdict, round_to, clock, deadline)
        if isinstance(decision, str):
            reason = decision
            break
        network, step, again = _remove(
            *(learner, archive, options, teacher, decision, clock, deadline, workers), before=iterations
        )
        took = step.seconds + (again.seconds if again else 0.0)
        costs = cost(learner.place(network), decision.state, took)
        came = record_removal(options, iterations[0], decision, step, again, costs, learner.metric)
        # A step that is read back took its time before an interruption.
        came = replace(came, seconds=max(time.perf_counter() - started, took))
        verdict = decide([*iterations, came], options, learner.metric)
        iterations.append(replace(came, inside=verdict.inside[-1]))
        append_record(journal, iterations[-1])
        emit(IterationEvent(iteration=iterations[-1]))
        reason = verdict.reason
    kept = iterations[verdict.keep]
    if missed_targets(iterations[0], kept, options) and options.has_latency_target and clock.predicts:
        network = learner.place(archive.read(archive.path(kept.state))) if kept.iteration else unpruned
        kept = replace(kept, latency_ms=clock.exact(network))
    missed = missed_targets(iterations[0], kept, options)
    if missed is not None:
        reason = f"{reason}; no target is reached: {missed}"
    log.info("pruning ended after %s: %s", plural(len(iterations) - 1, "iteration"), reason)
    return iterations, verdict.keep, reason


def _remove(
    learner: Learner,
    archive: Archive,
    options: Prune,
    teacher: nn.Module,
    decision: Decision,
    clock: Clock,
    deadline: float,
    workers: Workers,
    *,
    before: Sequence[Iteration],
) -> tuple[nn.Sequential, StepRecord, StepRecord | None]:
    """The network of an iteration, its step, and the second retraining where the first lost too much."""
    own = (teacher, decision, clock, deadline, workers)
    work = partial(apply_removal, learner, archive.info, options, *own)
    network, step = archive.once(decision.state, work)
    if not is_retrained(score(step.training, learner.metric), before, options, learner.metric):
        return network, step, None
    log.info(
        "iteration %d is below the tolerance: it is retrained once more with a third of the learning rate",
        decision.number,
    )
    retrained, again = retrain(learner, archive, options, teacher, decision, network, step, deadline)
    if has_gained(again, step, learner.metric):
        return retrained, step, again
    log.info("that did not help")
    return archive.read(archive.path(decision.state)), step, again


def _disproved(
    learner: Learner, archive: Archive, options: Prune, clock: Clock, iterations: list[Iteration]
) -> float | None:
    """The measured latency of the last iteration where only a prediction of it reaches a target."""
    first, last = iterations[0], iterations[-1]
    if not options.has_latency_target or last.iteration == 0:
        return None
    assert first.latency_ms is not None
    assert last.latency_ms is not None
    if not (last.inside and reaches_latency(options, first.latency_ms, last.latency_ms)):
        return None
    network = learner.place(archive.read(archive.path(last.state)))
    found = clock.confirmed(network, lambda _: True)
    return None if reaches_latency(options, first.latency_ms, found) else found


def _hand_over(
    learner: Learner,
    archive: Archive,
    options: Prune,
    measure: Measure,
    unpruned: nn.Sequential,
    teacher: nn.Module,
    iterations: list[Iteration],
    kept: int,
    reason: str,
    workers: Workers,
) -> None:
    """Save the kept network, and measure it and the unpruned one on the test samples."""
    started, folder, example = time.perf_counter(), archive.folder, learner.samples.example
    deadline = deadline_of(iterations, options, started)
    pruned = _recovered(learner, archive, options, teacher, iterations[kept], deadline)
    # Without metrics the stage is unfinished, whatever interrupts the lines below.
    (folder / METRICS).unlink(missing_ok=True)
    save(pruned, folder / MODEL, archive.info)
    learner.place(pruned)
    folders = {"before": archive.path(UNPRUNED), "after": folder / MODEL}
    models = judge(learner, {"before": unpruned, "after": pruned}, folders, measure)
    widths = compare_layers(complexity(unpruned, example), complexity(pruned, example))
    seconds = sum(iteration.seconds for iteration in iterations) + time.perf_counter() - started
    found = None
    if options.sensitivity or archive.path(SENSITIVITY).exists():
        found = sensitivity(learner, archive, options, unpruned, workers)
    metrics = PruneMetrics(
        models=models,
        trainings=_trainings(archive, iterations, kept),
        iterations=len(iterations) - 1,
        kept_iteration=kept,
        # What another machine takes is not measured here.
        stopped=reason
        if measure.table
        else _with_measured(reason, models, options, target_of(measure, learner.device)),
        removable_blocks=0 if options.blocks else len(removable_blocks(options, archive.info, pruned)),
        tolerance=options.tolerance,
        widths=widths,
        reach=_reach(archive, options, learner, unpruned),
        budget=budget(options),
        seconds=seconds,
        sensitivity=found,
        **stage_facts(learner, archive.info.backbone, measure),
    )
    _finish(folder, metrics)


def _with_measured(reason: str, models: Mapping[str, ModelMetrics], options: Prune, runtime: str) -> str:
    """Why pruning ended, with the latency that was measured at the end where that misses the target."""
    before, after = (models[name].latency(runtime) for name in ("before", "after"))
    if not options.has_latency_target or before is None or after is None or "latency reached" not in reason:
        return reason
    missed = missed_latency(options, before.latency_ms, after.latency_ms)
    if missed is None:
        return reason
    log.warning("measured again at the end, %s", missed)
    return f"{reason}; measured again at the end, {missed}"


def _trainings(archive: Archive, iterations: list[Iteration], kept: int) -> dict[str, TrainingRecord]:
    """The trainings of all iterations, and those of the kept network's final rounds."""
    places = {}
    for one in iterations[1:]:
        first = first_of(one.state)
        places[f"iteration {one.iteration}"] = first
        if one.val_accuracy_first is not None:
            places[f"iteration {one.iteration}: once more"] = again_of(first)
    state, number = iterations[kept].state, 1
    while (final := final_of(state, number)) in archive.done:
        places[f"iteration {kept}: final round {number}"] = final
        number += 1
    steps = {}
    for name, place in places.items():
        # The networks of iterations that are not kept are not needed, and may be gone.
        try:
            steps[name] = read_record(archive.path(place) / RECORD, StepRecord)
        except TascnetError as error:
            log.warning("the training of %s is left out of the report: %s", name, error.message)
    return trainings_of(steps)


def _reach(archive: Archive, options: Prune, learner: Learner, unpruned: nn.Sequential) -> Reach:
    first = first_block(options, archive.info)
    return reach(unpruned, Trace(unpruned, learner.samples.example), partial(spared, options, first))


def _recovered(
    learner: Learner,
    archive: Archive,
    options: Prune,
    teacher: nn.Module,
    kept: Iteration,
    deadline: float,
) -> nn.Sequential:
    """The kept network after its final rounds of training, or before them where it was better.

    Each round starts from the best network so far, with a third of the learning rate of the one before. From
    the second on, a round that gains no more than the noise is the last one. They also end with the epoch in
    which `deadline` has passed.
    """
    best, value = kept.state, score(kept, learner.metric) or 0.0
    lr: float | None = None
    for number, epochs in enumerate(rounds(options.final_epochs) if kept.iteration else (), start=1):
        if number > 1 and time.perf_counter() >= deadline:
            break
        name = final_of(kept.state, number)
        own = partial(_final_round, learner, archive, options, teacher, best, epochs, lr, deadline)
        _, step = archive.once(name, own)
        assert step.training is not None
        now = score(step.training, learner.metric)
        assert now is not None
        words = learner.metric.replace("_", " "), 100 * now, 100 * value
        log.info("after final round %d: validation %s %.2f %%, %.2f %% before it", number, *words)
        pays = now > value + noise(value, learner.val_samples())
        if now >= value:
            best, value = name, now
        if not pays and number > 1:
            break
        lr = gentler(step.training)
    if best == kept.state and options.final_epochs and kept.iteration:
        log.info("the final epochs did not help: the network is handed over as it was before them")
    return archive.read(archive.path(best))


def _final_round(
    learner: Learner,
    archive: Archive,
    options: Prune,
    teacher: nn.Module,
    start: str,
    epochs: int,
    lr: float | None,
    deadline: float,
    folder: Path,
) -> tuple[nn.Sequential, StepRecord]:
    """Train the network of the step `start` for some epochs more."""
    started, network = time.perf_counter(), learner.place(archive.read(archive.path(start)))
    training = recover(learner, options, network, teacher, folder / "final.pt", epochs, deadline, lr=lr)
    return network, StepRecord(seconds=time.perf_counter() - started, training=training)


def _add(
    learner: Learner,
    archive: Archive,
    options: Prune,
    measure: Measure,
    unpruned: nn.Sequential,
    workers: Workers,
) -> None:
    """Add to a finished run latencies by other options, or the sensitivity."""
    folder = archive.folder
    known = read_record(folder / METRICS, PruneMetrics)
    networks = {"before": unpruned, "after": learner.place(archive.read(folder / MODEL))}
    samples = learner.samples
    metrics = remeasured(known, networks, samples.example, measure, cache=samples.cache) or known
    if options.sensitivity:
        metrics = replace(metrics, sensitivity=sensitivity(learner, archive, options, unpruned, workers))
    if metrics != known:
        _finish(folder, metrics)


def _finish(folder: Path, metrics: PruneMetrics) -> None:
    """Write the metrics, with which the run is finished; an earlier report is out of date."""
    (folder / REPORT).unlink(missing_ok=True)
    write_record(folder / METRICS, metrics)


def _is_whole(archive: Archive) -> bool:
    """Whether a finished stage still has all its iterations and its network; what is missing is reported."""
    journal = archive.folder / JOURNAL
    expected = read_record(archive.folder / METRICS, PruneMetrics).iterations
    # Number 0 is the unpruned network.
    found = len(read_records(journal, Iteration)) - 1
    if found < expected:
        log.warning("%s has %d iterations, expected %d: pruning resumes", journal, max(0, found), expected)
        return False
    return archive.holds(archive.folder / MODEL)


def _repair(
    learner: Learner,
    archive: Archive,
    options: Prune,
    unpruned: nn.Sequential,
    teacher: nn.Module,
    clock: Clock,
    workers: Workers,
    known: list[Iteration],
    number: int,
) -> None:
    """Make the network of an iteration again if it is damaged, from that of the one that it started from.

    Raises:
        RunFolderError: by the options as they are now another network would come of it.
    """
    before, last, started = known[:number], known[number], time.perf_counter()
    # The unpruned network has been checked.
    if number == 0 or archive.has(last.state):
        return
    _repair(learner, archive, options, unpruned, teacher, clock, workers, known, last.start)
    _, verdict = replayed(before, options, learner.metric)
    round_to = rounding(learner, archive, options, unpruned, clock)
    deadline = deadline_of(before, options, started)
    decision = decide_removal(learner, archive, options, before, verdict, round_to, clock, deadline)
    if isinstance(decision, str) or last.state not in (decision.state, again_of(decision.state)):
        raise RunFolderError(
            f"the network in {archive.path(last.state)} is missing or damaged, and these options would make "
            "another one",
            "give the options that it was made with, restore it, or start over with `fresh=true`",
        )
    _remove(learner, archive, options, teacher, decision, clock, deadline, workers, before=before)


def _log_estimate(learner: Learner, options: Prune, network: nn.Sequential) -> None:
    """Log how long an iteration takes, how many there are at most, and what each needs on disk."""
    timed = latency(network, learner.samples.example, batch=BATCH, repeats=PASSES, warmup=1)
    forward = timed.median_ms / 1000 / BATCH
    train, val = len(learner.samples.train), len(learner.samples.val)
    retrain = options.phases[2] if isinstance(options, HistoryPrune) else options.epochs
    teacher = (retrain + options.growing_epochs) * train if options.distill else 0
    epochs = options.epochs + options.growing_epochs
    seconds = (epochs * (3 * train + val) + teacher) * forward
    log.info(
        "estimate: %s an iteration, at most %d of them; %.1f GB of disk each",
        f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min",
        options.max_iterations,
        4 * sum(parameter.numel() for parameter in network.parameters()) / 1e9,
    )
