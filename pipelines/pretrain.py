"""Stage pretrain: train a network from random weights, and leave a file that `backbone.weights` takes.

What lies in the validation or test split of the data set that the network is to move to is left out.
"""

import logging
import re
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from tascnet import data
from tascnet.cli.compose import Tree
from tascnet.cli.rules import dataset_contradictions
from tascnet.errors import ConfigError, DataError
from tascnet.measure import size_bytes, versions
from tascnet.models.archive import load, save
from tascnet.options import PUBLISHED_IMAGES, PUBLISHED_TEXTS, TEXT_DATASETS, Config, ExcludeConfig
from tascnet.report import models_table, pretrain_report
from tascnet.run.console import output
from tascnet.run.files import read_json, write_json
from tascnet.run.folder import claim, finished, identity, stage_folder

from .datasets import check_samples, draw_split, load_data
from .pretraining import held_out_digest, pretrain_network, random_network, write_source
from .session import Session, backbone_preprocessing, check_data, check_input, open_session
from .steps import describe, fit_record, judge, measure, measured_anew, once

log = logging.getLogger("tascnet")

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """Session, folder, and the digests of the samples that the network must not see, if any."""

    session: Session
    folder: Path
    unseen: list[str]

    @property
    def digest(self) -> str | None:
        return held_out_digest(self.unseen) if self.unseen else None

    @property
    def origin(self) -> dict[str, Any]:
        """What a later run must know of the weights."""
        config, session = self.session.config, self.session
        rows = draw_split(config, session.dataset)
        own = data.sample_digests(session.dataset, (*rows.val, *rows.test))
        return {
            "dataset": config.dataset.name,
            "exclude": config.exclude,
            "held_out": self.digest,
            "fingerprint": session.dataset.fingerprint,
            "own_held_out": held_out_digest(own),
            "resize": getattr(session.preprocessing, "resize", None),
        }


def run(config: Config) -> None:
    """Run stage `pretrain`, or go on with it, or say that it is finished."""
    check_data(config)
    unseen = held_out(config)
    session = open_session(config, excluded=unseen)
    stage = _Stage(session=session, folder=stage_folder(config, "pretrain"), unseen=unseen)
    if config.exclude is not None:
        log.info(
            "%d samples of %s lie in the validation or test split of %s and are left out",
            session.excluded,
            session.dataset.name,
            config.exclude,
        )
    network = random_network(session)
    check_input(network, session)
    inputs = {
        "data": session.dataset.fingerprint,
        "excluded": stage.digest,
        # Of the random weights, and of vectors that a file gives.
        "weights": data.module_digest(network),
    }
    known = identity(config, "pretrain", inputs)
    with claim(stage.folder, known, fresh=config.fresh):
        if finished(stage.folder):
            log.info("pretrain is finished in %s; fresh=true starts it over", stage.folder)
            _write_missing(stage)
            _measure_anew(stage)
        else:
            _pretrain(stage, network)
        output().print(models_table(read_json(stage.folder / "metrics.json")["models"]))


def held_out(config: Config) -> list[str]:
    """Digests of the samples in the validation and test split of `exclude`; none without it.

    The split is that of the data set's own config, of `exclude_options` and of the run's seed.

    Raises:
        TascnetError: the data set is missing or unreadable.
    """
    if config.exclude is None:
        return []
    is_text = config.exclude in TEXT_DATASETS
    target = _target(config, config.exclude)
    try:
        _check(target)
        dataset = load_data(target, None if is_text else backbone_preprocessing(config.backbone))
        rows = draw_split(target, dataset)
    except (ConfigError, DataError) as error:
        raise _of_target(error, config.exclude) from error
    return data.sample_digests(dataset, (*rows.val, *rows.test))


def _target(config: Config, name: str) -> Config:
    """The config with the data set whose samples are left out; what may be downloaded, may be of both."""
    published = name in (*PUBLISHED_IMAGES, *PUBLISHED_TEXTS)
    own = Tree().compose([f"dataset={name}"]).dataset
    download = published and config.dataset.download
    given = {key: value for key, value in asdict(config.exclude_options).items() if value is not None}
    if "train_fraction" in given or "val_fraction" in given:
        own = replace(own, train_per_class=None, val_per_class=None)
    dataset = replace(own, root=config.exclude_root, download=download, **given)
    return replace(config, dataset=dataset)


def _check(target: Config) -> None:
    for wrong, message, hint in dataset_contradictions(target):
        if wrong:
            raise ConfigError(message, hint)
    check_samples(target)


def _of_target(error: ConfigError | DataError, name: str) -> ConfigError | DataError:
    """An error about the data set whose samples are left out, with the options that are its own."""
    hint = None if error.hint is None else _own_options(error.hint)
    return type(error)(f"exclude={name}: {_own_options(error.message)}", hint)


def _own_options(text: str) -> str:
    """`text` with the options of the excluded data set in place of those of `dataset`."""
    own = "|".join(entry.name for entry in fields(ExcludeConfig))
    text = text.replace("dataset.root", "exclude_root")
    return re.sub(rf"\bdataset\.({own})\b", r"exclude_options.\1", text)


def _pretrain(stage: _Stage, network: nn.Sequential) -> None:
    session, folder = stage.session, stage.folder
    info = session.model_info("random", "none")

    def train(state: Path) -> tuple[nn.Sequential, dict[str, Any]]:
        result = pretrain_network(session, network, checkpoint=state / "fit.pt", description="pretrain")
        return network, fit_record(result)

    trained, record = once(folder / "state" / "network", info, train, session.factory)
    save(folder / "model", trained, info)
    write_source(folder / WEIGHTS, trained, session, stage.origin)
    measuring = time.perf_counter()
    metrics = {
        "models": {"after": _figures(stage, session.place(trained))},
        "weights": WEIGHTS,
        "exclude": session.config.exclude,
        "excluded": stage.session.excluded,
        "best_epoch": record["best_epoch"],
        "epochs": record["epochs"],
        "seconds": record["seconds"] + time.perf_counter() - measuring,
        "seed": session.config.seed,
        "versions": versions(),
        **describe(session),
    }
    _write(stage, metrics)
    log.info("weights: backbone.weights=%s", folder / WEIGHTS)


def _figures(stage: _Stage, network: nn.Sequential) -> dict[str, Any]:
    """The contract's figures; the test split is read here and nowhere else."""
    (costs,) = measure(stage.session, {"after": network}).values()
    size = size_bytes(stage.folder / "model")
    return {**judge(stage.session, network), **costs, "size_bytes": size}


def _write_missing(stage: _Stage) -> None:
    """Write the weights of a finished stage again where their file is gone."""
    path = stage.folder / WEIGHTS
    if not path.exists():
        write_source(
            path, load(stage.folder / "model", factory=stage.session.factory), stage.session, stage.origin
        )
        log.info("written again from model/: backbone.weights=%s", path)


def _measure_anew(stage: _Stage) -> None:
    """Where other options of `measure` are given than those of a finished stage, measure latencies again."""
    metrics = read_json(stage.folder / "metrics.json")
    changed = measured_anew(stage.session, metrics, {"after": stage.folder / "model"})
    if changed is not None:
        _write(stage, changed)


def _write(stage: _Stage, metrics: dict[str, Any]) -> None:
    """The report, then the metrics, which say that the stage is finished."""
    pretrain_report(stage.folder / "report.html", metrics)
    write_json(stage.folder / "metrics.json", metrics)
