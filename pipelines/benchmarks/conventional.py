"""Conventional fine-tuning: the pre-trained network with a new softmax layer, all layers trained."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tascnet.measure import complexity
from tascnet.options import Config
from tascnet.run.folder import run_folder
from tascnet.train import freeze_before

from ..backbone import load_source, softmax_network
from ..session import open_session, recipe
from ..steps import CHECKPOINT, fit_record, judge, once, train_head


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

    def train_softmax(place: Path) -> tuple[nn.Sequential, dict[str, Any]]:
        return train_head(session, chain, session.cache / "features", place, "softmax layer")

    baseline, first = once(folder / "baseline", info, train_softmax, session.factory)
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
