"""Work that is done once: its model is archived with a record, and read back afterwards."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from tascnet import data
from tascnet.data import Dataset
from tascnet.measure import describe_device, measure_models
from tascnet.models.archive import load, save
from tascnet.models.head import head_start
from tascnet.models.info import ModelInfo
from tascnet.run.files import read_json, write_json
from tascnet.train import FitResult, evaluate

from .session import Session, recipe

log = logging.getLogger("tascnet")

# What an interrupted training goes on from, in the folder of its step.
CHECKPOINT = "fit.pt"
# What the options of `measure` can change in a model's figures.
LATENCIES = (
    "latency_ms",
    "latency_ms_spread",
    "latency_ms_batch",
    "latency_ms_batch_spread",
    "batch",
    "threads",
    "device",
)


def once(
    folder: Path,
    info: ModelInfo,
    work: Callable[[Path], tuple[nn.Sequential, dict[str, Any]]],
    factory: Callable[..., nn.Sequential] | None = None,
) -> tuple[nn.Sequential, dict[str, Any]]:
    """Do `work` unless its result lies in `folder`, and give back the model, in eval mode, and its record.

    Args:
        folder: where the result is archived.
        info: what is saved beside the model.
        work: takes the folder, in which it may keep checkpoints (`*.pt`), gives the model and a JSON record.
        factory: makes chains with blocks of a user's own class.
    """
    record_path = folder / "record.json"
    if not record_path.exists():
        model, record = work(folder)
        save(folder, model, info)
        write_json(record_path, record)
    for checkpoint in folder.glob("*.pt"):
        checkpoint.unlink()
    return load(folder, factory=factory), read_json(record_path)


def fit_record(result: FitResult) -> dict[str, Any]:
    """A training run as a JSON record: its best epoch and all epochs."""
    return {
        "val_accuracy": result.best_val_accuracy,
        "val_loss": result.best_val_loss,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
        "epochs": [asdict(record) for record in result.epochs],
    }


def join(trunk: nn.Sequential, tail: nn.Sequential) -> nn.Sequential:
    """One chain of the blocks of two, under their names."""
    return nn.Sequential(OrderedDict([*trunk.named_children(), *tail.named_children()]))


def train_head(
    session: Session, network: nn.Sequential, features: Path, folder: Path, description: str
) -> tuple[nn.Sequential, dict[str, Any]]:
    """Train a network's head alone, on the cached features of the rest.

    Args:
        session: data, device and options; `trainer.head` is the recipe.
        network: on the device.
        features: folder of the cached features.
        folder: where an interrupted training goes on from.
        description: of the progress bar.

    Returns:
        The network, and the training as a record.
    """
    cut = head_start(network)
    trunk, head = network[:cut].eval(), network[cut:].requires_grad_(True)
    options: dict[str, Any] = {
        "folder": features,
        "trunk_digest": data.module_digest(trunk),
        "dtype": session.config.tune.cache_dtype,
        "limit_gb": session.config.cache_limit_gb,
        "device": session.device,
    }
    train = data.cached_features(trunk, session.train, views=session.views, **options)
    val = data.cached_features(trunk, session.val, beside=(train,), **options)
    result = session.fit(
        head,
        recipe(session.config.trainer.head),
        features=(train, val),
        checkpoint=folder / CHECKPOINT,
        description=description,
    )
    return join(trunk, head), fit_record(result)


def judge(session: Session, model: nn.Module) -> dict[str, float]:
    """Validation and test accuracy of a model about which everything is fixed."""
    val = evaluate(model, session.val, device=session.device)
    test = evaluate(model, session.test, device=session.device)
    return {"val_accuracy": val.accuracy, "test_accuracy": test.accuracy}


def measure(session: Session, networks: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """What networks on the device cost, latencies side by side; see `tascnet.measure.measure_models`."""
    return measure_models(networks, session.example, **asdict(session.config.measure))


def measured_anew(
    session: Session, metrics: Mapping[str, Any], archives: Mapping[str, Path]
) -> dict[str, Any] | None:
    """The metrics of a finished stage with the latencies that the options of `measure` ask for now.

    Nothing is trained, no accuracy judged again.

    Args:
        session: the device and the options.
        metrics: content of `metrics.json`.
        archives: where each of its models is archived.

    Returns:
        New metrics; None where these were measured by the same options.
    """
    known, wanted = metrics.get("measure", {}), asdict(session.config.measure)
    changed = [key for key in wanted if known.get(key) != wanted[key]]
    if not changed:
        return None
    told = ", ".join(f"measure.{key} was {known.get(key)} and is now {wanted[key]}" for key in changed)
    log.info("latencies are measured anew: %s", told)
    networks = {name: session.place(load(path, factory=session.factory)) for name, path in archives.items()}
    costs = measure(session, networks)
    models = {
        name: {**row, **{key: costs[name][key] for key in LATENCIES}}
        for name, row in metrics["models"].items()
    }
    return {**metrics, "models": models, **describe(session)}


def describe(session: Session) -> dict[str, Any]:
    """What a report says of where its figures come from."""
    return {
        "dataset": session.dataset.name,
        "samples": _samples(session),
        "backbone": session.config.backbone.name,
        "machine": describe_device(session.device),
        "measure": asdict(session.config.measure),
    }


def _samples(session: Session) -> dict[str, Any]:
    """How many there are, where they come from, and on what terms."""
    dataset = session.dataset
    return {
        "classes": session.num_classes,
        "train": len(session.train),
        "val": len(session.val),
        "test": len(session.test),
        "skipped": len(dataset.skipped) if isinstance(dataset, Dataset) else 0,
        "source": dataset.source,
        "licence": dataset.licence,
    }
