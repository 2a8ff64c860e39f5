"""The public function of stage two."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tascnet.data import module_digest
from tascnet.data.heldout import SPLITS
from tascnet.data.samples import Samples, open_samples
from tascnet.errors import ConfigError
from tascnet.execute import check_executor
from tascnet.execute.workers import Workers
from tascnet.measure import Clock, check_runtimes, judged_in
from tascnet.models.conversion import convert
from tascnet.models.info import ModelInfo, info_of
from tascnet.models.tensors import check_weights
from tascnet.options import Data, Local, Measure, Prune, Trainer
from tascnet.presets import trainer_for
from tascnet.pruning.check import check_criterion, check_options, first_block
from tascnet.pruning.schedule import replayed
from tascnet.pruning.stage import (
    JOURNAL,
    UNPRUNED,
    PruneStage,
    depends_on_latency,
    is_whole,
)
from tascnet.report import models_html, models_text, prune_report
from tascnet.report.card import write_pages
from tascnet.report.mistakes import FILE as MISTAKES
from tascnet.report.mistakes import Mistakes, mistakes_once
from tascnet.run.events import running
from tascnet.run.folder import METRICS, MODEL, TARGET, budget, cache_folder, finished, identity, open_folder
from tascnet.run.records import Iteration, PruneMetrics, StepRecord, read_record, read_records
from tascnet.train import Archive, Learner, check_trainer
from tascnet.train.distillation import adapted, check_answers
from tascnet.train.evaluate import check_metric
from tascnet.train.judge import warn_of_lost_classes
from tascnet.train.setting import computing
from tascnet.train.transfer import outputs_of

log = logging.getLogger("tascnet")


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
        check_trainer(trainer, where, ("recover", "head") if options.blocks else ("recover",))
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
            stage = PruneStage(
                learner=learner,
                archive=archive,
                options=options,
                measure=measure,
                unpruned=unpruned,
                teacher=own_teacher or unpruned,
                clock=Clock(measure, samples.example, unpruned, samples.cache, archive.path("latency.json")),
                workers=workers,
            )
            if finished(folder, budget(options)) and is_whole(archive):
                log.info("prune is finished in %s; `fresh=true` starts it over", folder)
                stage.complete()
            else:
                stage.run()
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
            if run is not None:
                write_pages(folder, result.network, result.metrics, result.report)
            return result


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
    if not isinstance(teacher, nn.Module):
        raise ConfigError(
            f"`teacher` is of type {type(teacher).__name__}, expected a network",
            "give a torch.nn.Module, such as one of `tascnet.load`",
        )
    info = getattr(teacher, "info", None)
    if isinstance(info, ModelInfo):
        _check_network("teacher", info, samples)
    else:
        log.warning("it is unknown which samples the teacher was trained on: test accuracy may be too high")
    check_weights(teacher)
    # A subclass may compute anything else.
    if type(teacher) is nn.Sequential:
        chain: nn.Sequential = copy.deepcopy(teacher)
    else:
        check_answers(outputs_of(teacher, samples.example), samples.num_classes)
        chain = convert(teacher, samples.example).chain
    # Its type is lost with `to`.
    chain.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    chain.eval()
    return adapted(chain, samples, device)
