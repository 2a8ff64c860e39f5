"""Training a network from random weights, for a file of weights."""

import copy
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from tascnet.data.cache import module_digest
from tascnet.data.heldout import SPLITS, HeldOut, read_splits
from tascnet.data.samples import Samples, open_samples
from tascnet.measure import check_runtimes
from tascnet.models.archive import save
from tascnet.models.build import build, write_backbone
from tascnet.models.head import HeadSpec, classifier_of, replace_head
from tascnet.models.info import info_of, with_info
from tascnet.models.tensors import check_weights
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.models.weights import is_whole
from tascnet.options import Backbone, Data, Measure, Trainer
from tascnet.presets import trainer_for
from tascnet.run.events import running
from tascnet.run.folder import METRICS, MODEL, cache_folder, finished, identity, open_folder
from tascnet.run.records import PretrainMetrics, StepRecord, read_record, write_record
from tascnet.train.evaluate import check_metric
from tascnet.train.judge import judge, remeasured, stage_facts, trainings_of, warn_of_lost_classes
from tascnet.train.learner import Learner, check_trainer
from tascnet.train.setting import computing
from tascnet.train.steps import CHECKPOINT, Archive
from tascnet.train.transfer import PRETRAINED_ON, check_network, held_out_digest, with_words

log = logging.getLogger("tascnet")

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """The result of pre-training.

    Args:
        network: the trained network, in eval mode.
        metrics: of the network, as the model `after`.
        weights: the file for `tascnet.backbone(..., weights=)`; None without a run folder.
    """

    network: nn.Sequential
    metrics: PretrainMetrics
    weights: Path | None

    def __str__(self) -> str:
        after = self.metrics.models["after"]
        return (
            f"validation accuracy {100 * after.val_accuracy:.1f} %, test accuracy "
            f"{100 * after.test_accuracy:.1f} %, {after.params:,} parameters, {after.flops:,} FLOPs"
        )


@running("pretrain")
def pretrain(
    network: nn.Sequential,
    data: Data,
    *,
    exclude: str | Path | None = None,
    trainer: Trainer | None = None,
    measure: Measure = Measure(),
    metric: str = "accuracy",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    cache: str | Path | None = None,
    cache_limit_gb: float | None = 20.0,
    run: str | Path | None = None,
    fresh: bool = False,
) -> PretrainResult:
    """Train a network from random weights; `network` is not changed.

    Args:
        network: from `tascnet.backbone`: another one with its options is drawn by the seed, for the classes
            and words of the data. A network of your own starts from the weights that it has.
        data: the data set.
        exclude: the `splits.json` of another run, or its folder: its validation and test samples are left
            out, so that the network may be tuned and tested on them.
        trainer: recipes, of which `pretrain` is used; None: `tascnet.presets.trainer_for(data)`.
        measure: how latency is measured.
        metric: by which the best epoch is chosen: `accuracy`, or `balanced_accuracy`, the mean recall of the
            classes.
        seed: of weights, splits, order of samples and augmentation.
        device: `cpu`, `cuda`, `cuda:<number>`, or `auto`.
        threads: CPU threads; None: as torch has them.
        cache: folder of decoded samples; None: `outputs/cache`.
        cache_limit_gb: gigabytes that decoded images may take in it; None: no limit.
        run: folder of the run, which is resumed, or read back if it is finished; None: nothing is kept.
        fresh: start over.

    Raises:
        ConfigError: the network does not take the samples.
        DataError: the data set is missing or too small.
        RunFolderError: the folder belongs to other options.
    """
    trainer = trainer or trainer_for(data)
    check_metric(metric)
    preprocessing = info_of(network).preprocessing
    if isinstance(preprocessing, TextPreprocessing):
        preprocessing = replace(preprocessing, vocabulary=SPECIAL)
    unseen = None if exclude is None else read_splits(exclude, preprocessing)
    with computing(device, threads) as where:
        check_trainer(trainer, where, ("pretrain",))
        check_runtimes(measure, where)
        samples = open_samples(
            data,
            preprocessing,
            seed=seed,
            cache=cache_folder(cache),
            cache_limit_gb=cache_limit_gb,
            grow_vocabulary=True,
            exclude=unseen.digests if unseen else (),
        )
        if unseen:
            log.info(
                "%d samples of %s are validation or test samples of %s and are left out",
                *(samples.excluded, samples.dataset.name, unseen.dataset),
            )
        untrained = _untrained(network, samples, seed)
        learner = Learner(samples=samples, device=where, trainer=trainer, seed=seed, metric=metric)
        learner.check_memory(untrained, "pretrain", measure)
        check_weights(untrained)
        check_network(untrained, samples)
        own = identity(
            "pretrain",
            seed,
            {
                "data": samples.fingerprint,
                "excluded": held_out_digest(unseen.digests) if unseen else None,
                "network": module_digest(untrained),
            },
            {
                "dataset": data,
                "trainer": trainer.facts,
                "trainer.pretrain": trainer.recipe("pretrain"),
            },
        ) | {"metric": metric}
        with open_folder(run, own, cache=samples.cache, fresh=fresh) as folder:
            samples.write_splits(folder / SPLITS)
            info = replace(
                info_of(untrained),
                preprocessing=samples.preprocessing,
                class_names=samples.class_names,
                held_out=samples.held_out,
            )
            archive = Archive(folder=folder, info=info)
            is_finished = finished(folder) and archive.holds(folder / MODEL)
            work = _read_back if is_finished else _pretrain
            metrics = work(learner, archive, untrained, measure, unseen)
            warn_of_lost_classes(metrics)
            weights = None if run is None else folder / WEIGHTS
            return PretrainResult(network=archive.read(folder / MODEL), metrics=metrics, weights=weights)


def _untrained(network: nn.Sequential, samples: Samples, seed: int) -> nn.Sequential:
    """A network with the same options for the classes and words of the samples."""
    origin: Backbone | None = getattr(network, "origin", None)
    own = copy.deepcopy(network)
    if origin is not None:
        drawn = build(replace(origin, weights="random"), num_classes=samples.num_classes, seed=seed)
        own = with_words(drawn, samples, seed)
    if classifier_of(own).out_features == samples.num_classes:
        return own
    headed = replace_head(own, HeadSpec(), samples.num_classes, seed=seed)
    return with_info(headed, info_of(network), origin=origin)


def _pretrain(
    learner: Learner, archive: Archive, untrained: nn.Sequential, measure: Measure, unseen: HeldOut | None
) -> PretrainMetrics:
    """Train, save the network and its weights, and measure."""
    folder, samples = archive.folder, learner.samples

    def train(state: Path) -> tuple[nn.Sequential, StepRecord]:
        network = learner.place(untrained).requires_grad_(True)
        training = learner.fit(network, "pretrain", checkpoint=state / CHECKPOINT, description="pretrain")
        return network, StepRecord(seconds=training.seconds, training=training)

    trained, step = archive.once("network", train)
    training = step.training
    assert training is not None
    save(trained, folder / MODEL, archive.info)
    _write_weights(folder / WEIGHTS, trained, samples, unseen)
    started = time.perf_counter()
    metrics = PretrainMetrics(
        models=judge(learner, {"after": trained}, {"after": folder / MODEL}, measure),
        trainings=trainings_of({"after": step}),
        budget={},
        seconds=step.seconds + time.perf_counter() - started,
        weights=WEIGHTS,
        exclude=unseen.dataset if unseen else None,
        excluded=samples.excluded,
        best_epoch=training.best_epoch,
        epochs=training.epochs,
        **stage_facts(learner, archive.info.backbone, measure),
    )
    write_record(folder / METRICS, metrics)
    return metrics


def _read_back(
    learner: Learner, archive: Archive, _: nn.Sequential, measure: Measure, unseen: HeldOut | None
) -> PretrainMetrics:
    """The metrics of a finished run, with latencies by `measure`; missing weights are written again."""
    folder = archive.folder
    log.info("pretrain is finished in %s; `fresh=true` starts it over", folder)
    trained = archive.read(folder / MODEL)
    if not is_whole(folder / WEIGHTS):
        _write_weights(folder / WEIGHTS, trained, learner.samples, unseen)
    metrics = read_record(folder / METRICS, PretrainMetrics)
    networks, samples = {"after": learner.place(trained)}, learner.samples
    again = remeasured(metrics, networks, samples.example, measure, cache=samples.cache)
    if again is not None:
        write_record(folder / METRICS, again)
    return again or metrics


def _write_weights(path: Path, network: nn.Sequential, samples: Samples, unseen: HeldOut | None) -> None:
    """Write the weights, and on which samples they were trained."""
    seen = {
        "dataset": samples.dataset.name,
        "fingerprint": samples.fingerprint,
        "held_out": samples.held_out,
        "excluded": unseen and {"fingerprint": unseen.fingerprint, "digest": held_out_digest(unseen.digests)},
    }
    write_backbone(path, network, {PRETRAINED_ON: seen})
    log.info("weights: %s", path)
