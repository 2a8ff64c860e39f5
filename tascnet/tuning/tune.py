"""The public function of stage one."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tascnet.data import module_digest, open_samples
from tascnet.data.heldout import SPLITS
from tascnet.errors import ConfigError
from tascnet.execute import check_executor
from tascnet.execute.workers import Workers
from tascnet.measure import check_runtimes, judged_in
from tascnet.models.info import info_of
from tascnet.models.tensors import check_weights
from tascnet.options import TUNING, Data, Local, Measure, Trainer, Tune, TuneBase
from tascnet.presets import trainer_for
from tascnet.report import models_html, models_text, tune_report
from tascnet.report.card import write_pages
from tascnet.run.events import running
from tascnet.run.files import digest_json
from tascnet.run.folder import (
    METRICS,
    MODEL,
    TARGET,
    budget,
    cache_folder,
    claim,
    finished,
    identity,
    open_folder,
)
from tascnet.run.records import Trial, TuneMetrics, read_record, read_trials, to_json
from tascnet.train import Archive, Learner, check_trainer
from tascnet.train.evaluate import check_metric
from tascnet.train.judge import warn_of_lost_classes
from tascnet.train.setting import computing
from tascnet.train.transfer import warn_of_overlap, with_words
from tascnet.tuning.problem import check_options
from tascnet.tuning.sizes import check_sizes
from tascnet.tuning.stage import TuneStage, is_whole
from tascnet.tuning.warm import JOURNAL, digest_of, earlier_trials

log = logging.getLogger("tascnet")


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
        check_trainer(trainer, where, TUNING)
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
                **{f"trainer.{name}": trainer.recipe(name) for name in TUNING},
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
            stage = TuneStage(
                learner=learner,
                data=data,
                archive=archive,
                output=output,
                options=options,
                measure=measure,
                workers=workers,
            )
            if finished(output, budget(options)) and is_whole(archive, output):
                log.info("tune is finished in %s; `fresh=true` starts it over", output)
                stage.complete()
            else:
                stage.run(network, searches)
            result = TuneResult(
                network=archive.read(output / MODEL),
                metrics=read_record(output / METRICS, TuneMetrics),
                trials=tuple(read_trials(search / JOURNAL)),
                folder=None if run is None else output,
            )
            warn_of_lost_classes(result.metrics)
            if run is not None:
                write_pages(output, result.network, result.metrics, result.report)
            return result


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
