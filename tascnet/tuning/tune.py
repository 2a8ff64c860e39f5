"""The public function of stage one.

Baseline, search, fine-tuning of the winner and conventional fine-tuning are done once, and read back when the
stage is resumed.
"""

import copy
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from tascnet.data import module_digest, open_samples
from tascnet.data.heldout import SPLITS
from tascnet.errors import ConfigError
from tascnet.execute import check_executor
from tascnet.execute.workers import Workers
from tascnet.measure import (
    Clock,
    check_runtimes,
    compare_layers,
    complexity,
    describe_device,
    judged_in,
    measure_facts,
)
from tascnet.models.archive import save
from tascnet.models.head import classifier_of, head_start
from tascnet.models.info import info_of
from tascnet.models.tensors import check_weights
from tascnet.options import Data, Local, Measure, Trainer, Tune, TuneBase
from tascnet.presets import trainer_for
from tascnet.report import handover_lines, models_html, models_text, reach_lines, tune_report
from tascnet.report.card import CARD, write_card
from tascnet.run.events import running
from tascnet.run.files import digest_json
from tascnet.run.folder import TARGET, budget, cache_folder, claim, finished, identity, open_folder
from tascnet.run.records import (
    StepRecord,
    TrainingRecord,
    Trial,
    TuneMetrics,
    read_record,
    read_trials,
    score,
    to_json,
    write_record,
)
from tascnet.train import Archive, Learner
from tascnet.train.evaluate import check_metric
from tascnet.train.judge import judge, remeasured, stage_facts, trainings_of, warn_of_lost_classes
from tascnet.train.parallel import check_devices
from tascnet.train.setting import computing
from tascnet.train.steps import RECORD
from tascnet.train.transfer import check_network, warn_of_overlap, with_words
from tascnet.tuning.candidates import TUNED, Selected, select
from tascnet.tuning.ends import BEYOND, Ends, cache_ends, starts
from tascnet.tuning.estimate import log_estimate
from tascnet.tuning.explain import findings
from tascnet.tuning.finetune import SLOWER_STEP, baseline, freeze, origin_for, usual_ahead
from tascnet.tuning.problem import builder_of, check_options, discover_all, goal_of, reach_of
from tascnet.tuning.progression import Limits
from tascnet.tuning.remote import RemoteTails, TrialTrainer
from tascnet.tuning.rivals import (
    examples_of,
    fine_tune_rivals,
    learner_for,
    load_rivals,
    rival_key,
    steps_of,
    trainings_of_rivals,
)
from tascnet.tuning.sizes import Setting, Settings, check_sizes, learners_of, size_of
from tascnet.tuning.space import FIRST_TRAINED, Space
from tascnet.tuning.study import Study
from tascnet.tuning.tails import Tails
from tascnet.tuning.trials import measured_winner, no_winner, run_search
from tascnet.tuning.warm import JOURNAL, digest_of, earlier_trials, transferred

log = logging.getLogger("tascnet")

METRICS, MODEL, REPORT = "metrics.json", "model", "report.html"


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """The result of stage one.

    Args:
        network: the tuned network, in eval mode, with the attributes that every network of tascnet has.
        metrics: of the networks `baseline`, `conventional`, rivals and `after`.
        trials: all trials of the search.
        folder: of the tuned network; None without a run folder.
    """

    network: nn.Sequential
    metrics: TuneMetrics
    trials: tuple[Trial, ...]
    folder: Path | None

    def report(self, path: str | Path) -> None:
        """Write the report, a page of HTML that stands alone."""
        tune_report(Path(path), self.metrics, self.trials)

    def __str__(self) -> str:
        return models_text(self.metrics.models)

    def _repr_html_(self) -> str:
        return models_html(self.metrics.models)


@running("tune")
def tune(
    network: nn.Sequential,
    data: Data,
    options: TuneBase = Tune(),
    *,
    trainer: Trainer | None = None,
    measure: Measure = Measure(),
    metric: str = "accuracy",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    executor: Local = Local(),
    cache: str | Path | None = None,
    cache_limit_gb: float | None = 20.0,
    run: str | Path | None = None,
    fresh: bool = False,
) -> TuneResult:
    """Learn the configuration of a network's deeper layers from data; `network` is not changed.

    Args:
        network: a pre-trained network from `tascnet.backbone`.
        data: the data set.
        options: `Tune` or `Autotune`: the search space, its budget, the fine-tuning of the winner, and its
            rivals.
        trainer: recipes, of which `head`, `trial` and `finetune` are used; None:
            `tascnet.presets.trainer_for(data)`.
        measure: how latency is measured.
        metric: by which the best epoch, trial and network are chosen: `accuracy`, or `balanced_accuracy`, the
            mean recall of the classes.
        seed: of splits, proposals, new weights, order of samples and augmentation.
        device: `cpu`, `cuda`, `cuda:<number>`, or `auto`.
        threads: CPU threads; None: as torch has them.
        executor: where trials run: `Local()` one after the other here, or `Ray(workers=8)`.
        cache: folder of decoded samples and features; None: `outputs/cache`.
        cache_limit_gb: gigabytes that decoded images, and as many that features may take; None: no limit.
        run: folder of the run, which is resumed, or read back if it is finished; None: nothing is kept.
            With `pick` the network is saved in the folder `<run>-pick<number>` beside it.
        fresh: start over.

    Raises:
        ConfigError: the options do not fit the network, the recipes or the finished search.
        DataError: the data set is missing or too small.
        RunFolderError: the folder belongs to other options.
        TascnetError: the search has no winner.
    """
    info = info_of(network)
    check_weights(network)
    trainer = trainer or trainer_for(data)
    check_metric(metric)
    check_options(options, network)
    check_sizes(network, options)
    _check_pick(options, run)
    with computing(device, threads) as where:
        check_executor(executor, where.type, trainer.devices)
        check_devices(trainer.devices, where)
        check_runtimes(measure, where)
        runtime = judged_in(measure, where)
        searches = earlier_trials(options.warm_start)
        samples = open_samples(
            data,
            info.preprocessing,
            seed=seed,
            cache=cache_folder(cache),
            cache_limit_gb=cache_limit_gb,
            grow_vocabulary=True,
        )
        network = with_words(network, samples, seed)
        warn_of_overlap(network, samples)
        learner = Learner(samples=samples, device=where, trainer=trainer, seed=seed, metric=metric)
        # The words of a vocabulary follow from the samples and the network.
        expected = {k: v for k, v in samples.preprocessing.to_dict().items() if k != "vocabulary"}
        own = identity(
            "tune",
            seed,
            {"data": samples.fingerprint, "network": module_digest(network)},
            {
                "dataset": data,
                "preprocessing": expected,
                "tune": options,
                "trainer": trainer.facts | {"standardise": trainer.standardise},
                **{f"trainer.{name}": trainer.recipe(name) for name in ("head", "trial", "finetune")},
            },
        ) | {"metric": metric}
        # The number of threads changes the last bits.
        own |= {"executor.cpus": executor.cpus} if executor.cpus else {}
        if options.warm_start:
            own |= {"input.warm_start": digest_of(searches)}
        if options.has_latency_target:
            own |= {TARGET: runtime}
        folders = _folders(run, own, options.pick, cache=samples.cache, fresh=fresh)
        with folders as (search, output), Workers(executor, data) as workers:
            samples.write_splits(output / SPLITS)
            archive = Archive(
                folder=search,
                info=replace(
                    info,
                    preprocessing=samples.preprocessing,
                    class_names=samples.class_names,
                    held_out=samples.held_out,
                    first_searched=None,
                ),
            )
            if finished(output, budget(options)) and _is_whole(archive, output):
                log.info("tune is finished in %s; `fresh=true` starts it over", output)
                _add(learner, data, archive, output, options, measure, workers)
            else:
                _run(network, learner, data, archive, output, options, measure, searches, workers)
            result = TuneResult(
                network=archive.read(output / MODEL),
                metrics=read_record(output / METRICS, TuneMetrics),
                trials=tuple(read_trials(search / JOURNAL)),
                folder=None if run is None else output,
            )
            warn_of_lost_classes(result.metrics)
            is_new = not (output / REPORT).exists()
            if run is not None and (is_new or not (output / CARD).exists()):
                write_card(output, result.network, result.metrics)
            if run is not None and is_new:
                result.report(output / REPORT)
                log.info("report: %s", output / REPORT)
            return result


def _is_whole(archive: Archive, output: Path) -> bool:
    """Whether a finished stage still has all its trials and measured networks; damage is logged."""
    metrics = read_record(output / METRICS, TuneMetrics)
    journal = archive.folder / JOURNAL
    found = len(read_trials(journal))
    if found < metrics.trials:
        log.warning("%s has %d trials, expected %d: the search resumes", journal, found, metrics.trials)
        return False
    places = metrics.archives.values()
    return all(map(archive.holds, [output / MODEL, *(archive.folder / place for place in places)]))


def _check_pick(options: TuneBase, run: str | Path | None) -> None:
    """Refuse `pick` without a finished search that has this trial."""
    pick = options.pick
    if pick is None:
        return
    if run is None or not finished(Path(run), budget(options)):
        raise ConfigError(
            f"`pick={pick}` takes a trial of a finished search, but "
            + ("no folder is given" if run is None else f"{run} holds none with these options"),
            "run the search without `pick` first",
        )
    done = [trial.trial for trial in read_trials(Path(run) / JOURNAL) if trial.status == "ok"]
    if pick not in done:
        raise ConfigError(
            f"`pick={pick}` is no finished trial of this search", f"choose one of {', '.join(map(str, done))}"
        )


@contextmanager
def _folders(
    run: str | Path | None, own: Mapping[str, Any], pick: int | None, *, cache: Path, fresh: bool
) -> Iterator[tuple[Path, Path]]:
    """The folder of the search and that of the tuned network; with `pick` these differ."""
    if pick is None:
        with open_folder(run, own, cache=cache, fresh=fresh) as folder:
            yield folder, folder
        return
    assert run is not None
    search = Path(run)
    output = search.with_name(f"{search.name}-pick{pick}")
    picked = [to_json(trial) for trial in read_trials(search / JOURNAL) if trial.trial == pick]
    with (
        claim(search, own),
        claim(output, {**own, "tune.pick": pick, "input.trial": digest_json(picked)}, fresh=fresh),
    ):
        yield search, output


def _add(
    learner: Learner,
    data: Data,
    archive: Archive,
    output: Path,
    options: TuneBase,
    measure: Measure,
    workers: Workers,
) -> None:
    """Add the rivals that a finished stage lacks; measure latencies again if they or `measure` are new."""
    before = read_record(output / METRICS, TuneMetrics)
    keys = {record.key for record in before.rivals}
    size = getattr(learner.samples.preprocessing, "size", 0)
    lacking = [name for name in options.rival_names if rival_key(name, size) not in keys]
    rivals = fine_tune_rivals(load_rivals(lacking, learner, measure), learner, archive, workers)
    # Of a rival with other weights than before the old row goes.
    kept = [record for record in before.rivals if record.row not in {name.row for name in lacking}]
    rows = ["baseline", "conventional", *(record.row for record in kept)]
    folders = {row: archive.folder / before.archives[row] for row in rows}
    folders |= {rival.record.row: rival.folder for rival in rivals} | {"after": output / MODEL}
    networks = {row: learner.place(archive.read(folder)) for row, folder in folders.items()}
    metrics: TuneMetrics | None
    if rivals:
        prepared = ("after", *(record.row for record in kept))
        learners = {row: learner_for(networks[row], learner, data) for row in prepared}
        learners |= {rival.record.row: rival.learner for rival in rivals}
        networks |= {rival.record.row: rival.network for rival in rivals}
        known = {row: before.models[row] for row in (*rows, "after")}
        metrics = replace(
            before,
            models=judge(learner, networks, folders, measure, learners=learners, known=known),
            archives=_places(folders, archive),
            rivals=(*kept, *(rival.record for rival in rivals)),
            machine=describe_device(learner.device),
            measure=measure_facts(measure, learner.device),
            trainings=before.trainings | trainings_of_rivals(rivals),
            seconds=before.seconds + sum(rival.record.seconds for rival in rivals),
        )
    else:
        examples = examples_of(networks, learner.samples.example)
        metrics = remeasured(before, networks, examples, measure, cache=learner.samples.cache)
    if metrics is not None:
        (output / REPORT).unlink(missing_ok=True)
        write_record(output / METRICS, metrics)


def _places(folders: Mapping[str, Path], archive: Archive) -> dict[str, str]:
    """Where the networks beside the tuned one are, below the folder of the search."""
    return {
        name: str(folder.relative_to(archive.folder)) for name, folder in folders.items() if name != "after"
    }


def _run(
    network: nn.Sequential,
    learner: Learner,
    data: Data,
    archive: Archive,
    output: Path,
    options: TuneBase,
    measure: Measure,
    searches: Sequence[Sequence[Trial]],
    workers: Workers,
) -> None:
    """All steps, from the baseline to the metrics; `searches` are the trials of `warm_start`."""
    blocks = nn.Sequential(OrderedDict(network.named_children()))
    pretrained = learner.place(copy.deepcopy(blocks).eval().requires_grad_(True))
    learner.check_memory(pretrained, "finetune", measure)
    check_network(pretrained, learner.samples)
    learners = learners_of(learner, data, options)
    for other in learners.values():
        other.check_memory(pretrained, "finetune", measure)
    rivals = load_rivals(options.rival_names, learner, measure)
    # Trials have so many threads too, and leave room for each other.
    spread = partial(workers.spread, learner, threads=workers.trial_threads) if workers.is_remote else None
    if not archive.has("baseline"):
        cache_ends(learner, pretrained, options, spread)
    chain, first = baseline(pretrained, learner, archive)
    assert first.training is not None
    before = score(first.training, learner.metric)
    assert before is not None
    folders = {"baseline": archive.path("baseline"), "after": output / MODEL}
    classifier = classifier_of(pretrained)
    space, ends = discover_all(chain, learner, options, archive, first.training)
    found_reach = reach_of(chain, learner.samples.example, options)
    setting = partial(_setting, chain, space, classifier, ends, options, measure)
    settings = Settings(setting(learner, archive), lambda size: setting(learners[size], archive, size))
    tails, clock = settings.native.tails, settings.native.clock
    goal = goal_of(options, space, tails, classifier, clock, before=before, folder=folders["baseline"])
    limits = Limits.of(options, space)
    journal = archive.folder / JOURNAL
    first_ones = partial(
        starts,
        space,
        points=ends.points,
        fits=goal.is_feasible,
        n_val=learner.val_samples(),
        tolerance=options.tolerance,
        metric=learner.metric,
    )
    study = Study(
        journal,
        space,
        learner.seed,
        goal,
        options.algorithm,
        limits.every or 1,
        starts=first_ones,
        earlier=transferred(searches, space, options.warm_start),
    )
    if options.pick is None:
        for line in reach_lines(found_reach) if found_reach else ():
            log.info("%s", line)
        log_estimate(learner, chain, options, space, limits.most_trials(space), limits.deepest(space))
        if spread is not None and not study.trials:
            # Before one worker does it while all others wait.
            tails.fill(spread)
        trainer = TrialTrainer(
            workers.executor,
            study,
            settings,
            _remote(settings, learners, options, workers) if workers.is_remote else settings.tails,
            promote=options.promotes,
            tolerance=options.tolerance,
            max_seconds=options.max_seconds,
        )
        stopped = run_search(study, limits, trainer, initial_trials=options.initial_trials)
        winner, missed = measured_winner(study, settings, options.tolerance, archive.path)
        if winner is None:
            raise no_winner(study)
        stopped = f"{stopped}; {missed}" if missed else stopped
        log.info("the search ended (%s); trial %d wins", stopped, winner.trial)
    else:
        stopped = read_record(archive.folder / METRICS, TuneMetrics).stopped
        winner = next(trial for trial in study.trials if trial.trial == options.pick)
    ahead = steps_of(rivals, learner, archive, workers)
    if origin_for(options, winner, space) == "conventional":
        ahead.insert(0, usual_ahead(learner, archive, chain))
    workers.ahead(ahead)
    found = select(options, winner, study, space, settings, first, workers)
    made, usual = found.network, found.usual
    folders["conventional"] = archive.path(usual.step)
    others = fine_tune_rivals(rivals, learner, archive, workers)
    # Without metrics the stage is unfinished, whatever interrupts the lines below.
    (output / METRICS).unlink(missing_ok=True)
    (output / REPORT).unlink(missing_ok=True)
    first_searched = space.cut(winner.config)
    info = replace(found.setting.archive.info, first_searched=first_searched)
    save(made.network, output / MODEL, info)
    freeze(chain, head_start(chain))
    freeze(usual.network, usual.first_trained)
    freeze(made.network, made.first_trained, made.frozen)
    started = time.perf_counter()
    networks = {"baseline": chain, "conventional": usual.network}
    networks |= {rival.record.row: rival.network for rival in others} | {"after": made.network}
    folders |= {rival.record.row: rival.folder for rival in others}
    judging = {rival.record.row: rival.learner for rival in others} | {"after": found.setting.learner}
    models = judge(learner, networks, folders, measure, learners=judging)
    learnt = findings(options, study, chain, settings.native.build)
    steps = {name: read_record(archive.path(name) / RECORD, StepRecord) for name in archive.done}
    counted = [
        complexity(usual.network, learner.samples.example),
        complexity(made.network, found.setting.learner.samples.example),
    ]
    work = [
        *(trial.seconds for trial in study.trials),
        *(step.seconds for step in steps.values()),
        *(rival.record.seconds for rival in others),
    ]
    metrics = TuneMetrics(
        models=models,
        trainings=_trainings(steps, found) | trainings_of_rivals(others),
        widths=compare_layers(*counted),
        best_config=winner.config,
        neutral_config=space.neutral(int(winner.config[FIRST_TRAINED])),
        winner=winner.trial,
        finetuned_from=found.tuned.origin,
        candidates=found.candidates,
        handed_over=found.name,
        ends=ends.points,
        first_searched_block=first_searched,
        stopped=stopped,
        archives=_places(folders, archive),
        trials=len(study.trials),
        reach=found_reach,
        rivals=tuple(rival.record for rival in others),
        budget=budget(options),
        seconds=sum(work) + time.perf_counter() - started,
        **learnt,
        **stage_facts(learner, archive.info.backbone, measure),
    )
    for line in handover_lines(metrics):
        log.info("%s", line)
    write_record(output / METRICS, metrics)


def _setting(
    chain: nn.Sequential,
    space: Space,
    classifier: nn.Linear,
    ends: Ends,
    options: TuneBase,
    measure: Measure,
    learner: Learner,
    archive: Archive,
    size: int | None = None,
) -> Setting:
    """What the search needs for the images of a learner; those of the native `size` have None."""
    # With ends, trials read activations before most of these units from the start.
    searches_ends = space.exits and options.pick is None
    near = space.units[: space.exits + BEYOND + 1] if searches_ends else ()
    tails = Tails(learner, chain, options.objective, [unit.block for unit in near])
    place = archive.folder / "state" if size is None else archive.path(f"size-{size}")
    place.mkdir(parents=True, exist_ok=True)
    samples = learner.samples
    clock = Clock(measure, samples.example, chain, samples.cache, place / "latency.json")
    magnitude = archive.path("magnitude.json")
    return Setting(
        tails=tails,
        build=builder_of(options, space, tails, classifier, magnitude, ends.heads),
        clock=clock,
        archive=archive.with_info(replace(archive.info, preprocessing=samples.preprocessing)),
    )


def _remote(
    settings: Settings, learners: Mapping[int, Learner], options: TuneBase, workers: Workers
) -> RemoteTails:
    """What workers make their tails from."""
    native = settings.native
    of_size: dict[int | None, Learner] = dict(learners.items())
    of_size |= {None: native.learner, size_of(native.learner): native.learner}
    return RemoteTails(
        chain=copy.deepcopy(native.tails.chain).cpu(),
        learners={size: workers.described(learner) for size, learner in of_size.items()},
        objective=options.objective,
        cuts=native.tails.cuts,
    )


def _trainings(steps: Mapping[str, StepRecord], found: Selected) -> dict[str, TrainingRecord]:
    """The trainings of the networks that could be handed over, by the names of these.

    Args:
        steps: by their names in the archive, which end in what the step depends on.
        found: what was chosen.
    """
    tuned = "after" if found.name == TUNED else TUNED
    names = {"baseline": "baseline: head", "narrowed": tuned, "taught": tuned}
    for start in ("prefix", "all"):
        names[start] = tuned if start == found.tuned.origin else f"{tuned}: from {start}"
    kept = {found.usual.step, found.tuned.step}
    trainings: dict[str, TrainingRecord] = {}
    for step, record in steps.items():
        kind = step.partition("-")[0]
        # Heads of earlier ends, which have a curve of their own.
        if kind == "end":
            continue
        name = names.get(kind, kind.replace("_", " "))
        if step.endswith(SLOWER_STEP) and step not in kept:
            name += ": a third of the learning rate"
        elif f"{step}{SLOWER_STEP}" in kept:
            name += ": the whole learning rate"
        trainings |= trainings_of({name: record})
    return trainings
