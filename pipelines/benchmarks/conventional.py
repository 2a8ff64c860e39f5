"""Conventional fine-tuning: the pre-trained network with a new softmax layer, all layers trained."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tascnet import data
from tascnet.config import Config
from tascnet.measure import complexity
from tascnet.models.head import head_start
from tascnet.runs import run_folder
from tascnet.train import freeze_before

from ..backbone import load_source, softmax_network
from ..session import Session, open_session, recipe
from ..steps import fit_record, join, judge, once

__all__ = ["fine_tune_all"]

CHECKPOINT = "fit.pt"


def fine_tune_all(config: Config, epochs: int | None = None) -> dict[str, Any]:
    """Train the new softmax layer, then all layers from images, and judge the network.

    Interrupted trainings go on from their checkpoints in the run folder.

    Args:
        config: its `trainer.head` and `trainer.finetune` are the recipes.
        epochs: of fine-tuning; None: those of the recipe.

    Returns:
        Accuracies, `params`, `flops`, `epochs`, and the seconds of both trainings, apart and together.
    """
    source, session = load_source(config), open_session(config)
    info = session.model_info(source.weights, source.licence)
    chain = softmax_network(source, session)
    settings = recipe(config.trainer.finetune)
    settings = replace(settings, epochs=epochs or settings.epochs)
    folder = run_folder(config)

    def train_all(place: Path) -> tuple[nn.Sequential, dict[str, Any]]:
        network = session.place(copy.deepcopy(baseline))
        freeze_before(network, 0)
        result = session.fit(
            network, settings, checkpoint=place / CHECKPOINT, description="conventional fine-tuning"
        )
        return network, fit_record(result)

    def train_head(place: Path) -> tuple[nn.Sequential, dict[str, Any]]:
        return _train_head(session, chain, place)

    baseline, first = once(folder / "baseline", info, train_head, session.factory)
    network, second = once(folder / f"all-{settings.epochs}", info, train_all, session.factory)
    cost = complexity(network, session.example)
    return {
        **judge(session, session.place(network)),
        "params": cost.params,
        "flops": cost.flops,
        "epochs": settings.epochs,
        "baseline_seconds": first["seconds"],
        "finetune_seconds": second["seconds"],
        "seconds": first["seconds"] + second["seconds"],
    }


def _train_head(session: Session, chain: nn.Sequential, folder: Path) -> tuple[nn.Sequential, dict[str, Any]]:
    """Train the softmax layer alone, on cached features."""
    cut = head_start(chain)
    trunk, tail = chain[:cut].eval(), chain[cut:].requires_grad_(True)
    options: dict[str, Any] = {
        "folder": session.cache / "features",
        "trunk_digest": data.module_digest(trunk),
        "dtype": session.config.tune.cache_dtype,
        "limit_gb": session.config.cache_limit_gb,
        "device": session.device,
    }
    features = (
        data.cached_features(trunk, session.train, views=session.views, **options),
        data.cached_features(trunk, session.val, **options),
    )
    result = session.fit(
        tail,
        recipe(session.config.trainer.head),
        features=features,
        checkpoint=folder / CHECKPOINT,
        description="softmax layer",
    )
    return join(chain[:cut], tail), fit_record(result)
