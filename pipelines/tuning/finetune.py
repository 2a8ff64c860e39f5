"""Fine-tuning from images: the winner of a search, and the network that it is compared with."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from tascnet.files import digest_json
from tascnet.train import freeze_before
from tascnet.tune import Trial

from ..session import recipe
from ..steps import fit_record
from .space import Search
from .stage import CHECKPOINT, TuneStage
from .trials import train_candidate

__all__ = ["conventional", "fine_tune"]


def fine_tune(search: Search, winner: Trial) -> tuple[nn.Sequential, int, str]:
    """A trial's network fine-tuned from images: network, first trained block, and from where."""
    stage = search.stage
    key = digest_json(winner.config)[:8]
    start, record = stage.once(f"winner-{key}", partial(_repeat_trial, search, winner))
    wanted = stage.config.tune.finetune_from
    firsts = {"prefix": int(record["first_trained"]), "all": 0}
    found = {}
    for name in firsts if wanted == "best" else [wanted]:
        work = partial(_fit_images, stage, start, firsts[name], description=f"fine-tune {name}")
        found[name] = stage.once(f"{name}-{key}", work)
    chosen = max(found, key=lambda name: found[name][1]["val_accuracy"])
    return found[chosen][0], firsts[chosen], chosen


def conventional(stage: TuneStage, chain: nn.Sequential, first_trained: int) -> tuple[nn.Sequential, Path]:
    """The network at its pre-trained widths, trained from the same block on; and where it lies."""
    name = f"conventional-{first_trained}"
    work = partial(_fit_images, stage, chain, first_trained, description="conventional")
    return stage.once(name, work)[0], stage.state(name)


def _repeat_trial(search: Search, winner: Trial, folder: Path) -> tuple[nn.Sequential, dict[str, Any]]:
    """A trial once more: trials leave no weights behind, and the same seed gives the same ones."""
    candidate = search.build(winner.config)
    network, result = train_candidate(
        search, candidate, f"trial {winner.trial}", checkpoint=folder / CHECKPOINT
    )
    return network, {"first_trained": candidate.cut, **fit_record(result)}


def _fit_images(
    stage: TuneStage, start: nn.Sequential, first_trained: int, folder: Path, *, description: str
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
