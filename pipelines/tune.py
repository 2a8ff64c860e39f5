"""Stage one: learn the configuration of the deeper layers, then fine-tune the winner.

Baseline, search, fine-tuning, conventional fine-tuning, measurement, report: in this order, each
done once and read back when the stage is started again.
"""

import copy
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tascnet import data
from tascnet.config import Config
from tascnet.console import output, progress
from tascnet.errors import SurgeryError, TascnetError, TrainingDiverged
from tascnet.files import digest_json, read_json, write_json
from tascnet.measure import complexity, measure_models, size_bytes, versions
from tascnet.models.archive import save
from tascnet.models.head import HeadSpec, head_start, replace_head
from tascnet.models.info import ModelInfo
from tascnet.report import models_table, tune_report
from tascnet.runs import budget, claim, finished, identity, stage_folder
from tascnet.train import FitResult, freeze_before, reestimate_batchnorm
from tascnet.tune import (
    Configuration,
    Limits,
    Proposal,
    Space,
    Study,
    Trial,
    build_candidate,
    discover_units,
    next_depth,
)

from .backbone import Source, load_source
from .estimate import print_estimate
from .session import Session, check_data, open_session, recipe
from .steps import describe, fit_record, join, judge, once

__all__ = ["run"]

# A search whose first trials all fail has a cause that more trials do not mend.
ALL_FAILED = 5
CHECKPOINT = "fit.pt"

# Of the training and of the validation samples.
Features = tuple[data.FeatureSource, data.FeatureSource]

log = logging.getLogger("tascnet")


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """What the steps of this stage share."""

    session: Session
    source: Source
    folder: Path
    features: dict[tuple[str, int], tuple[data.FeatureSource, data.FeatureSource]] = field(
        default_factory=dict
    )

    @property
    def config(self) -> Config:
        return self.session.config

    def step(self, name: str) -> Path:
        return self.folder / "state" / name

    @property
    def info(self) -> ModelInfo:
        return self.session.model_info(self.source.weights, self.source.licence)


def run(config: Config) -> None:
    """Run stage `tune`, or go on with it, or say that it is finished."""
    check_data(config)
    source = load_source(config)
    session = open_session(config)
    folder = stage_folder(config, "tune")
    inputs = {"data": session.dataset.fingerprint, "weights": source.digest}
    with claim(folder, identity(config, "tune", inputs), fresh=config.fresh):
        if finished(folder, budget(config, "tune")):
            log.info("tune is finished in %s; fresh=true starts it over", folder)
        else:
            _tune(_Stage(session=session, source=source, folder=folder))
        output().print(models_table(read_json(folder / "metrics.json")["models"]))


def _tune(stage: _Stage) -> None:
    session, config = stage.session, stage.config
    head = HeadSpec(hidden=(), dropout=0.0)
    chain = session.place(replace_head(stage.source.chain, head, session.num_classes, seed=config.seed))
    space = _discover(stage, chain)
    print_estimate(session, chain, space)
    chain, _ = once(
        stage.step("baseline"),
        stage.info,
        lambda folder: _train_baseline(stage, chain, folder),
        session.factory,
    )
    session.place(chain)
    study = Study(stage.folder / "trials.jsonl", space, seed=config.seed)
    stopped = _search(stage, chain, space, study)
    winner = study.winner(len(session.val), config.tune.tolerance)
    if winner is None:
        raise _no_winner(study)
    log.info("the search ended (%s); trial %d wins", stopped, winner.trial)
    after, first_trained, chosen = _fine_tune(stage, chain, space, winner)
    conventional = stage.step(f"conventional-{first_trained}")
    usual, _ = once(
        conventional,
        stage.info,
        partial(_fit_images, stage, chain, first_trained, description="conventional"),
        session.factory,
    )
    # Without its metrics the stage counts as unfinished, whatever interrupts the lines below.
    (stage.folder / "metrics.json").unlink(missing_ok=True)
    save(stage.folder / "model", after, stage.info)
    measuring = time.perf_counter()
    models = {
        "baseline": (chain, head_start(chain), stage.step("baseline")),
        "conventional": (usual, first_trained, conventional),
        "after": (after, first_trained, stage.folder / "model"),
    }
    metrics = {
        "models": _measure(stage, models),
        "best_config": winner.config,
        "neutral_config": space.neutral(int(winner.config["first_trained"])),
        "winner": winner.trial,
        "finetuned_from": chosen,
        "trials": len(study.trials),
        "stopped": stopped,
        "budget": budget(config, "tune"),
        "seconds": _spent(stage, study) + time.perf_counter() - measuring,
        "seed": config.seed,
        "versions": versions(),
        **describe(session),
    }
    tune_report(stage.folder / "report.html", metrics, [trial.row() for trial in study.trials])
    write_json(stage.folder / "metrics.json", metrics)
    log.info("report: %s", stage.folder / "report.html")


def _train_baseline(
    stage: _Stage, chain: nn.Sequential, folder: Path
) -> tuple[nn.Sequential, dict[str, Any]]:
    """Train the new softmax layer on the frozen pre-trained network."""
    session = stage.session
    cut = head_start(chain)
    tail = chain[cut:]
    tail.requires_grad_(True)
    result = session.fit(
        tail,
        recipe(stage.config.trainer.head),
        features=_features(stage, chain, cut),
        checkpoint=folder / CHECKPOINT,
        description="softmax layer",
    )
    return join(chain[:cut], tail), {"first_trained": cut, **fit_record(result)}


def _features(stage: _Stage, chain: nn.Sequential, cut: int) -> Features:
    """Cached activations before block `cut`: training samples in all views, validation samples plain."""
    session, config = stage.session, stage.config
    trunk = chain[:cut].eval()
    digest = data.module_digest(trunk)

    if (digest, cut) in stage.features:
        return stage.features[digest, cut]

    def cached(source: data.ImageSource, views: tuple[str, ...]) -> data.FeatureSource:
        features = data.cached_features(
            trunk,
            source,
            views=views,
            folder=session.cache / "features",
            trunk_digest=digest,
            dtype=config.tune.cache_dtype,
            limit_gb=config.cache_limit_gb,
            device=session.device,
        )
        return features.resident(session.device)

    # One pair at a time: on a device these take memory.
    stage.features.clear()
    stage.features[digest, cut] = cached(session.train, session.views), cached(session.val, ("plain",))
    return stage.features[digest, cut]


def _discover(stage: _Stage, chain: nn.Sequential) -> Space:
    options = stage.config.tune
    units = discover_units(
        chain,
        stage.session.example,
        max_units=options.max_units,
        widths=options.widths,
        round_to=options.round_to,
        kernels=options.kernels,
        activations=options.activations,
        hidden_layers=options.hidden_layers,
        neurons=options.neurons,
        dropouts=options.dropouts,
    )
    return Space(units)


def _search(stage: _Stage, chain: nn.Sequential, space: Space, study: Study) -> str:
    """Run trials until the progression says stop; returns why."""
    options = stage.config.tune
    limits = Limits(
        trials_per_depth=options.trials_per_depth,
        max_units=options.max_units,
        max_trials=options.max_trials,
        max_seconds=options.max_seconds,
        patience=options.patience,
        min_delta=options.min_delta,
    )
    with progress("search", total=options.max_trials) as bar:
        bar.advance(len(study.trials))
        _refuse_if_all_failed(study)
        while (advice := next_depth(study.trials, space, limits)).depth is not None:
            proposals = study.ask(advice.depth, 1, initial_trials=options.initial_trials)
            if not proposals:
                return f"every configuration of depth {advice.depth} was tried"
            study.tell(_run_trial(stage, chain, space, proposals[0]))
            _refuse_if_all_failed(study)
            best = study.best()
            bar.advance(1, best=0.0 if best is None else best.value, depth=advice.depth)
    return advice.reason


def _run_trial(stage: _Stage, chain: nn.Sequential, space: Space, proposal: Proposal) -> Trial:
    """Build, train and judge one configuration; a failure is a result too."""
    started = time.perf_counter()
    known: dict[str, Any] = {"trial": proposal.trial, "depth": proposal.depth, "config": proposal.config}
    failure: str | None = None
    try:
        network, result = _train_candidate(stage, chain, space, proposal.config, proposal.trial, None)
        cost = complexity(network, stage.session.example)
    except (SurgeryError, TrainingDiverged, RuntimeError, MemoryError, ValueError) as error:
        failure = (str(error).strip() or type(error).__name__).splitlines()[0]
    if failure is not None:
        log.warning("trial %d failed: %s", proposal.trial, failure)
        # Only now, without the traceback that held its tensors.
        if stage.session.device.type == "cuda":
            torch.cuda.empty_cache()
        return Trial(**known, status="failed", reason=failure, seconds=time.perf_counter() - started)
    log.info(
        "trial %d, depth %d: validation accuracy %.2f %%, %.3g M params, %.4g MFLOPs",
        proposal.trial,
        proposal.depth,
        100 * (result.best_val_accuracy or 0.0),
        cost.params / 1e6,
        cost.flops / 1e6,
    )
    return Trial(
        **known,
        status="ok",
        value=result.best_val_accuracy,
        val_loss=result.best_val_loss,
        params=cost.params,
        flops=cost.flops,
        epochs=len(result.epochs),
        seconds=time.perf_counter() - started,
    )


def _train_candidate(
    stage: _Stage,
    chain: nn.Sequential,
    space: Space,
    config: Configuration,
    trial: int,
    checkpoint: Path | None,
) -> tuple[nn.Sequential, FitResult]:
    """The whole network of a configuration, its tail trained on cached features."""
    session = stage.session
    candidate = build_candidate(
        chain,
        space,
        config,
        session.example,
        num_classes=session.num_classes,
        importance=stage.config.tune.importance,
        seed=stage.config.seed,
    )
    tail = session.place(candidate.tail)
    tail.requires_grad_(True)
    features = _features(stage, chain, candidate.cut)
    if candidate.first_changed is not None:
        reestimate_batchnorm(tail, features[0], first_block=candidate.first_changed, device=session.device)
    result = session.fit(
        tail,
        recipe(stage.config.trainer.trial),
        features=features,
        checkpoint=checkpoint,
        description=f"trial {trial}",
    )
    return join(chain[: candidate.cut], tail), result


def _refuse_if_all_failed(study: Study) -> None:
    trials = study.trials
    if len(trials) >= ALL_FAILED and study.best() is None:
        raise _no_winner(study)


def _no_winner(study: Study) -> TascnetError:
    trials = study.trials
    if not trials:
        return TascnetError("the search ended before its first trial", "raise tune.max_seconds")
    return TascnetError(
        f"the first {len(trials)} trials all failed, the last one because {trials[-1].reason}",
        f"{study.path} has the reasons; correct the cause and start over with stage=tune fresh=true",
    )


def _fine_tune(
    stage: _Stage, chain: nn.Sequential, space: Space, winner: Trial
) -> tuple[nn.Sequential, int, str]:
    """The winner fine-tuned from images: network, first trained block, and from where."""
    key = digest_json(winner.config)[:8]
    start, record = once(
        stage.step(f"winner-{key}"),
        stage.info,
        lambda folder: _repeat_trial(stage, chain, space, winner, folder),
        stage.session.factory,
    )
    wanted = stage.config.tune.finetune_from
    firsts = {"prefix": int(record["first_trained"]), "all": 0}
    found = {}
    for name in firsts if wanted == "best" else [wanted]:
        work = partial(_fit_images, stage, start, firsts[name], description=f"fine-tune {name}")
        found[name] = once(stage.step(f"{name}-{key}"), stage.info, work, stage.session.factory)
    chosen = max(found, key=lambda name: found[name][1]["val_accuracy"])
    return found[chosen][0], firsts[chosen], chosen


def _repeat_trial(
    stage: _Stage, chain: nn.Sequential, space: Space, winner: Trial, folder: Path
) -> tuple[nn.Sequential, dict[str, Any]]:
    """The winning trial once more: trials leave no weights behind, and the same seed gives the same ones."""
    network, result = _train_candidate(stage, chain, space, winner.config, winner.trial, folder / CHECKPOINT)
    first_trained = space.units[int(winner.config["first_trained"])].block
    return network, {"first_trained": first_trained, **fit_record(result)}


def _fit_images(
    stage: _Stage, start: nn.Sequential, first_trained: int, folder: Path, *, description: str
) -> tuple[nn.Sequential, dict[str, Any]]:
    """A copy of `start` trained from images, from block `first_trained` on."""
    session = stage.session
    network = session.place(copy.deepcopy(start))
    freeze_before(network, first_trained)
    result = session.fit(
        network,
        recipe(stage.config.trainer.finetune),
        first_trained=first_trained,
        checkpoint=folder / CHECKPOINT,
        description=description,
    )
    return network, {"first_trained": first_trained, **fit_record(result)}


def _spent(stage: _Stage, study: Study) -> float:
    """Seconds of all trials and trainings, whichever process did them."""
    records = (stage.folder / "state").glob("*/record.json")
    return sum(trial.seconds for trial in study.trials) + sum(read_json(path)["seconds"] for path in records)


def _measure(stage: _Stage, models: dict[str, tuple[nn.Sequential, int, Path]]) -> dict[str, dict[str, Any]]:
    """The contract's figures of each model; the test split is read here and nowhere else."""
    session, options = stage.session, stage.config.measure
    for network, first_trained, _ in models.values():
        freeze_before(session.place(network), first_trained)
    costs = measure_models(
        {name: network for name, (network, _, _) in models.items()},
        session.example,
        batch=options.batch,
        repeats=options.repeats,
        warmup=options.warmup,
    )
    return {
        name: {**judge(session, network), **costs[name], "size_bytes": size_bytes(folder)}
        for name, (network, _, folder) in models.items()
    }
