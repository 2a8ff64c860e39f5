"""The steps of stage one: baseline, search, fine-tuning, and what is handed over.

Each is done once, and read back when the stage is resumed.
"""

import copy
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from tascnet.execute.workers import Workers
from tascnet.measure import Clock, compare_layers, complexity, describe_device, measure_facts
from tascnet.models.archive import save
from tascnet.models.head import classifier_of, head_start
from tascnet.options import Data, Measure, TuneBase
from tascnet.report import handover_lines, reach_lines
from tascnet.run.folder import METRICS, MODEL, REPORT, budget
from tascnet.run.records import (
    Reach,
    StepRecord,
    TrainingRecord,
    Trial,
    TuneMetrics,
    read_record,
    read_trials,
    score,
    write_record,
)
from tascnet.train import Archive, Learner
from tascnet.train.judge import judge, remeasured, stage_facts, trainings_of
from tascnet.train.steps import RECORD
from tascnet.train.transfer import check_network
from tascnet.tuning.candidates import TUNED, Selected, select
from tascnet.tuning.ends import BEYOND, Ends, cache_ends, starts
from tascnet.tuning.estimate import log_estimate
from tascnet.tuning.explain import findings
from tascnet.tuning.finetune import SLOWER_STEP, baseline, freeze, origin_for, usual_ahead
from tascnet.tuning.problem import builder_of, discover_all, goal_of, reach_of, widest_space
from tascnet.tuning.progression import Limits
from tascnet.tuning.remote import RemoteTails, TrialTrainer
from tascnet.tuning.rivals import (
    FineTunedRival,
    examples_of,
    fine_tune_rivals,
    learner_for,
    load_rivals,
    rival_key,
    steps_of,
    trainings_of_rivals,
)
from tascnet.tuning.sizes import Setting, Settings, learners_of, size_of
from tascnet.tuning.space import FIRST_TRAINED, Space
from tascnet.tuning.study import Study
from tascnet.tuning.tails import Tails
from tascnet.tuning.trials import measured_winner, no_winner, run_search
from tascnet.tuning.warm import JOURNAL, transferred

log = logging.getLogger("tascnet")


@dataclass(frozen=True, kw_only=True)
class PreparedSearch:
    """A search that can begin, or go on.

    Args:
        chain: the network with its new softmax layer, trained.
        first: record of the step `baseline`, in which it was trained.
        space: the configurations.
        ends: earlier ends of the network.
        reach: how much narrower layers can save; None where that is unknown.
        settings: by the size of the images.
        study: the trials so far.
        limits: when the search goes deeper and when it ends.
    """

    chain: nn.Sequential
    first: StepRecord
    space: Space
    ends: Ends
    reach: Reach | None
    settings: Settings
    study: Study
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class TuneStage:
    """Stage one in its folders.

    Args:
        learner: trains and judges networks.
        data: the data set of its samples.
        archive: of the folder of the search; what is finished is read back from there.
        output: the folder of the tuned network, another one with `pick`.
        options: of the search.
        measure: how latency is measured.
        workers: train independent steps side by side.
    """

    learner: Learner
    data: Data
    archive: Archive
    output: Path
    options: TuneBase
    measure: Measure
    workers: Workers

    def run(self, network: nn.Sequential, searches: Sequence[Sequence[Trial]]) -> None:
        """All steps, from the baseline to the metrics; `searches` are the trials of `warm_start`."""
        learner, archive, options = self.learner, self.archive, self.options
        blocks = nn.Sequential(OrderedDict(network.named_children()))
        pretrained = learner.place(copy.deepcopy(blocks).eval().requires_grad_(True))
        learner.check_memory(pretrained, "finetune", self.measure)
        check_network(pretrained, learner.samples)
        learners = learners_of(learner, self.data, options)
        for other in learners.values():
            other.check_memory(pretrained, "finetune", self.measure)
        rivals = load_rivals(options.rival_names, learner, self.measure)
        if self.workers.is_remote and options.pick is None:
            # A cluster that cannot take part is refused before anything is trained.
            _ = self.workers.executor
        search = self._prepared(pretrained, learners, searches)
        if options.pick is None:
            winner, stopped = self._searched(search, learners)
        else:
            stopped = read_record(archive.folder / METRICS, TuneMetrics).stopped
            winner = next(trial for trial in search.study.trials if trial.trial == options.pick)
        ahead = steps_of(rivals, learner, archive, self.workers)
        if origin_for(options, winner, search.space) == "conventional":
            ahead.insert(0, usual_ahead(learner, archive, search.chain))
        self.workers.ahead(ahead)
        found = select(
            options, winner, search.study, search.space, search.settings, search.first, self.workers
        )
        others = fine_tune_rivals(rivals, learner, archive, self.workers)
        self._hand_over(search, winner, stopped, found, others)

    def _prepared(
        self,
        pretrained: nn.Sequential,
        learners: Mapping[int, Learner],
        searches: Sequence[Sequence[Trial]],
    ) -> PreparedSearch:
        """The baseline, what can be searched, and the study as far as it got."""
        learner, archive, options = self.learner, self.archive, self.options
        if searches and not archive.has("baseline"):
            # Another space is refused before anything is trained.
            transferred(searches, widest_space(pretrained, learner, options), options.warm_start)
        if not archive.has("baseline"):
            cache_ends(learner, pretrained, options, self._spread)
        chain, first = baseline(pretrained, learner, archive)
        assert first.training is not None
        before = score(first.training, learner.metric)
        assert before is not None
        classifier = classifier_of(pretrained)
        space, ends = discover_all(chain, learner, options, archive, first.training)
        found_reach = reach_of(chain, learner.samples.example, options)
        setting = partial(self._setting, chain, space, classifier, ends)
        settings = Settings(setting(learner), lambda size: setting(learners[size], size))
        tails, clock = settings.native.tails, settings.native.clock
        place = archive.path("baseline")
        goal = goal_of(options, space, tails, classifier, clock, before=before, folder=place)
        limits = Limits.of(options, space)
        earlier = transferred(searches, space, options.warm_start)
        if searches and not any(map(goal.is_feasible, earlier)):
            log.warning(
                "`warm_start` has no effect: this search has no place for the best networks of the earlier "
                "ones (units, ends or targets)"
            )
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
            archive.folder / JOURNAL,
            space,
            learner.seed,
            goal,
            options.algorithm,
            limits.every or 1,
            starts=first_ones,
            earlier=earlier,
            max_seconds=limits.max_seconds,
        )
        return PreparedSearch(
            chain=chain,
            first=first,
            space=space,
            ends=ends,
            reach=found_reach,
            settings=settings,
            study=study,
            limits=limits,
        )

    @property
    def _spread(self) -> Callable[..., Any] | None:
        """What spreads the computation of features over workers; None: they are computed here."""
        if not self.workers.is_remote:
            return None
        # Trials have so many threads too, and leave room for each other.
        return partial(self.workers.spread, self.learner, threads=self.workers.trial_threads)

    def _setting(
        self,
        chain: nn.Sequential,
        space: Space,
        classifier: nn.Linear,
        ends: Ends,
        learner: Learner,
        size: int | None = None,
    ) -> Setting:
        """What the search needs for the images of a learner; those of the native `size` have None."""
        archive, options, samples = self.archive, self.options, learner.samples
        # With ends, trials read activations before most of these units from the start.
        searches_ends = space.exits and options.pick is None
        near = space.units[: space.exits + BEYOND + 1] if searches_ends else ()
        tails = Tails(learner, chain, options.objective, [unit.block for unit in near])
        place = archive.folder / "state" if size is None else archive.path(f"size-{size}")
        place.mkdir(parents=True, exist_ok=True)
        clock = Clock(self.measure, samples.example, chain, samples.cache, place / "latency.json")
        magnitude = archive.path("magnitude.json")
        return Setting(
            tails=tails,
            build=builder_of(options, space, tails, classifier, magnitude, ends.heads),
            clock=clock,
            archive=archive.with_info(replace(archive.info, preprocessing=samples.preprocessing)),
        )

    def _searched(self, search: PreparedSearch, learners: Mapping[int, Learner]) -> tuple[Trial, str]:
        """The winner of the search, and why the search ended."""
        options, workers, limits, space = self.options, self.workers, search.limits, search.space
        study, settings = search.study, search.settings
        for line in reach_lines(search.reach) if search.reach else ():
            log.info("%s", line)
        most, deepest = limits.most_trials(space), limits.deepest(space)
        log_estimate(self.learner, search.chain, options, space, most, deepest)
        if self._spread is not None and not study.trials:
            # Before one worker does it while all others wait.
            settings.native.tails.fill(self._spread)
        trainer = TrialTrainer(
            workers.executor,
            study,
            settings,
            self._remote(settings, learners) if workers.is_remote else settings.tails,
            promote=options.promotes,
            tolerance=options.tolerance,
            max_seconds=options.max_seconds,
        )
        stopped = run_search(study, limits, trainer, initial_trials=options.initial_trials)
        winner, missed = measured_winner(study, settings, options.tolerance, self.archive.path)
        if winner is None:
            raise no_winner(study)
        stopped = f"{stopped}; {missed}" if missed else stopped
        log.info("the search ended (%s); trial %d wins", stopped, winner.trial)
        return winner, stopped

    def _remote(self, settings: Settings, learners: Mapping[int, Learner]) -> RemoteTails:
        """What workers make their tails from."""
        native = settings.native
        of_size: dict[int | None, Learner] = dict(learners.items())
        of_size |= {None: native.learner, size_of(native.learner): native.learner}
        return RemoteTails(
            chain=copy.deepcopy(native.tails.chain).cpu(),
            learners={size: self.workers.described(learner) for size, learner in of_size.items()},
            objective=self.options.objective,
            cuts=native.tails.cuts,
        )

    def _hand_over(
        self,
        search: PreparedSearch,
        winner: Trial,
        stopped: str,
        found: Selected,
        rivals: Sequence[FineTunedRival],
    ) -> None:
        """Save the chosen network, and measure it, the baseline, the conventional network and the rivals."""
        learner, archive, output = self.learner, self.archive, self.output
        chain, space, study = search.chain, search.space, search.study
        made, usual = found.network, found.usual
        # Without metrics the stage is unfinished, whatever interrupts the lines below.
        (output / METRICS).unlink(missing_ok=True)
        (output / REPORT).unlink(missing_ok=True)
        first_searched = space.cut(winner.config)
        save(
            made.network,
            output / MODEL,
            replace(found.setting.archive.info, first_searched=first_searched),
        )
        freeze(chain, head_start(chain))
        freeze(usual.network, usual.first_trained)
        freeze(made.network, made.first_trained, made.frozen)
        started = time.perf_counter()
        networks = {"baseline": chain, "conventional": usual.network}
        folders = {"baseline": archive.path("baseline"), "conventional": archive.path(usual.step)}
        networks |= {rival.record.row: rival.network for rival in rivals} | {"after": made.network}
        folders |= {rival.record.row: rival.folder for rival in rivals} | {"after": output / MODEL}
        judging = {rival.record.row: rival.learner for rival in rivals} | {"after": found.setting.learner}
        models = judge(learner, networks, folders, self.measure, learners=judging)
        learnt = findings(self.options, study, chain, search.settings.native.build)
        steps = {name: read_record(archive.path(name) / RECORD, StepRecord) for name in archive.done}
        counted = [
            complexity(usual.network, learner.samples.example),
            complexity(made.network, found.setting.learner.samples.example),
        ]
        work = [
            *(trial.seconds for trial in study.trials),
            *(step.seconds for step in steps.values()),
            *(rival.record.seconds for rival in rivals),
        ]
        metrics = TuneMetrics(
            models=models,
            trainings=_trainings(steps, found) | trainings_of_rivals(rivals),
            widths=compare_layers(*counted),
            best_config=winner.config,
            neutral_config=space.neutral(int(winner.config[FIRST_TRAINED])),
            winner=winner.trial,
            finetuned_from=found.tuned.origin,
            candidates=found.candidates,
            handed_over=found.name,
            ends=search.ends.points,
            first_searched_block=first_searched,
            stopped=stopped,
            archives=_places(folders, archive),
            trials=len(study.trials),
            reach=search.reach,
            rivals=tuple(rival.record for rival in rivals),
            budget=budget(self.options),
            seconds=sum(work) + time.perf_counter() - started,
            **learnt,
            **stage_facts(learner, archive.info.backbone, self.measure),
        )
        for line in handover_lines(metrics):
            log.info("%s", line)
        archive.drop_features()
        write_record(output / METRICS, metrics)

    def complete(self) -> None:
        """Add rivals that a finished stage lacks; measure latencies again if they or `measure` are new."""
        learner, archive, output, measure = self.learner, self.archive, self.output, self.measure
        before = read_record(output / METRICS, TuneMetrics)
        keys = {record.key for record in before.rivals}
        size = getattr(learner.samples.preprocessing, "size", 0)
        lacking = [name for name in self.options.rival_names if rival_key(name, size) not in keys]
        rivals = fine_tune_rivals(load_rivals(lacking, learner, measure), learner, archive, self.workers)
        # Of a rival with other weights than before the old row goes.
        kept = [record for record in before.rivals if record.row not in {name.row for name in lacking}]
        rows = ["baseline", "conventional", *(record.row for record in kept)]
        folders = {row: archive.folder / before.archives[row] for row in rows}
        folders |= {rival.record.row: rival.folder for rival in rivals} | {"after": output / MODEL}
        networks = {row: learner.place(archive.read(folder)) for row, folder in folders.items()}
        metrics: TuneMetrics | None
        if rivals:
            prepared = ("after", *(record.row for record in kept))
            learners = {row: learner_for(networks[row], learner, self.data) for row in prepared}
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


def is_whole(archive: Archive, output: Path) -> bool:
    """Whether a finished stage still has all its trials and measured networks; damage is logged."""
    metrics = read_record(output / METRICS, TuneMetrics)
    journal = archive.folder / JOURNAL
    found = len(read_trials(journal))
    if found < metrics.trials:
        log.warning("%s has %d trials, expected %d: the search resumes", journal, found, metrics.trials)
        return False
    places = metrics.archives.values()
    return all(map(archive.holds, [output / MODEL, *(archive.folder / place for place in places)]))


def _places(folders: Mapping[str, Path], archive: Archive) -> dict[str, str]:
    """Where the networks beside the tuned one are, below the folder of the search."""
    return {
        name: str(folder.relative_to(archive.folder)) for name, folder in folders.items() if name != "after"
    }


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
