"""Fine-tuning from images: the winner of a search, and the network that it is compared with."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from tascnet.files import digest_json
from tascnet.train import freeze_before
from tascnet.tune import Trial
from tascnet.tune.space import FIRST_TRAINED

from ..session import recipe
from ..steps import fit_record
from .space import Search
from .stage import CHECKPOINT, TuneStage
from .trials import train_candidate

__all__ = ["FineTuned", "conventional", "fine_tune", "freeze"]


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """A trial's network, trained from images.

    Args:
        network: the network.
        first_trained: index of its first trained block.
        frozen: layers in that block that stayed as they were.
        origin: where training began: `prefix` (the trial's own first trained block) or `all`.
    """

    network: nn.Sequential
    first_trained: int
    frozen: tuple[str, ...]
    origin: str


def fine_tune(search: Search, winner: Trial) -> FineTuned:
    """A trial's network fine-tuned from images, from where `tune.finetune_from` says."""
    stage = search.stage
    # Settings of deeper units may join the space later; they do not change this network.
    neutral = search.space.neutral(int(winner.config[FIRST_TRAINED]))
    own = {name: value for name, value in winner.config.items() if value != neutral[name]}
    key = digest_json({**own, FIRST_TRAINED: winner.config[FIRST_TRAINED]})[:8]
    start, record = stage.once(f"winner-{key}", partial(_repeat_trial, search, winner))
    wanted = stage.config.tune.finetune_from
    starts = {"prefix": (int(record["first_trained"]), tuple(record["frozen"])), "all": (0, ())}
    found = {}
    for name in starts if wanted == "best" else [wanted]:
        work = partial(_fit_images, stage, start, *starts[name], description=f"fine-tune {name}")
        found[name] = stage.once(f"{name}-{key}", work)
    chosen = max(found, key=lambda name: found[name][1]["val_accuracy"])
    first_trained, frozen = starts[chosen]
    return FineTuned(network=found[chosen][0], first_trained=first_trained, frozen=frozen, origin=chosen)


def conventional(stage: TuneStage, chain: nn.Sequential, first_trained: int) -> tuple[nn.Sequential, Path]:
    """The network at its pre-trained widths, trained from the same block on; and where it lies."""
    name = f"conventional-{first_trained}"
    work = partial(_fit_images, stage, chain, first_trained, (), description="conventional")
    return stage.once(name, work)[0], stage.state(name)


def freeze(network: nn.Sequential, first_trained: int, frozen: Sequence[str] = ()) -> None:
    """Make the blocks from `first_trained` on trainable, but for the layers `frozen`, and nothing else."""
    freeze_before(network, first_trained)
    for name in frozen:
        network.get_submodule(name).requires_grad_(False)


def _repeat_trial(search: Search, winner: Trial, folder: Path) -> tuple[nn.Sequential, dict[str, Any]]:
    """A trial once more: trials leave no weights behind, and the same seed gives the same ones."""
    candidate = search.build(winner.config)
    network, result = train_candidate(
        search, candidate, f"trial {winner.trial}", checkpoint=folder / CHECKPOINT
    )
    own = {"first_trained": candidate.cut, "frozen": list(candidate.frozen)}
    return network, {**own, **fit_record(result)}


def _fit_images(
    stage: TuneStage,
    start: nn.Sequential,
    first_trained: int,
    frozen: Sequence[str],
    folder: Path,
    *,
    description: str,
) -> tuple[nn.Sequential, dict[str, Any]]:
    """A copy of `start` trained from images, from block `first_trained` on but for the layers `frozen`."""
    session = stage.session
    network = session.place(copy.deepcopy(start))
    freeze(network, first_trained, frozen)
    result = session.fit(
        network,
        recipe(stage.config.trainer.finetune),
        first_trained=first_trained,
        checkpoint=folder / CHECKPOINT,
        description=description,
    )
    return network, {"first_trained": first_trained, **fit_record(result)}
