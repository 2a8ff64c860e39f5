"""Fine-tuning from images: the winner of a search, and the network that it is compared with."""

import copy
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.inherit import hand_over
from tascnet.options import TuneConfig
from tascnet.run.files import digest_json
from tascnet.surgery import WidthGroup
from tascnet.train import Distillation, freeze_before, reestimate_batchnorm
from tascnet.tuning import CandidateBuilder, Trial
from tascnet.tuning.build import is_grown
from tascnet.tuning.discover import HIDDEN_LAYERS
from tascnet.tuning.space import FIRST_TRAINED

from ..session import Session, recipe
from ..steps import CHECKPOINT, fit_record, join, train_head
from .space import Search
from .stage import TuneStage
from .trials import train_candidate


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """A trial's network, trained from images.

    Args:
        network: the network.
        first_trained: index of its first trained block.
        frozen: layers in that block that stayed as they were.
        origin: where training began: `conventional`, or at the trial with its own first trained block
            (`prefix`) or the first of all (`all`).
    """

    network: nn.Sequential
    first_trained: int
    frozen: tuple[str, ...]
    origin: str


def fine_tunings(options: TuneConfig) -> float:
    """How many trainings of the whole network from images the winner takes; a teacher adds a third of one."""
    if origin_of(options) == "conventional":
        return 2 + (1 / 3 if options.distill else 0)
    return 2 if origin_of(options) == "best" else 1


def fine_tune(search: Search, winner: Trial) -> FineTuned:
    """A trial's network fine-tuned from images, from where `tune.finetune_from` says."""
    wanted = origin_of(search.stage.config.tune, has_grown=is_grown(winner.config))
    if wanted == "conventional":
        return _from_conventional(search, winner)
    return _from_trial(search, winner, wanted)


def origin_of(options: TuneConfig, *, has_grown: bool = False) -> str:
    """Where fine-tuning begins: at the conventional network where the winner is a smaller one of its kind."""
    if options.finetune_from != "auto":
        return options.finetune_from
    return "conventional" if options.looks_for_narrower and not has_grown else "best"


def _from_conventional(search: Search, winner: Trial) -> FineTuned:
    """The conventionally fine-tuned network takes on the winner's structure, and teaches it."""
    stage = search.stage
    options = stage.config.tune
    usual = stage.session.place(conventional(stage, search.chain, 0)[0])
    key = _key(search, winner)
    start, _ = stage.once(f"narrowed-{key}", partial(_narrowed, search, winner, usual))
    teacher = None
    if options.distill:
        teacher = Distillation(teacher=usual, weight=options.distill, temperature=options.distill_temperature)
    description = "fine-tune from conventional"
    work = partial(_fit_images, stage, start, 0, (), description=description, distillation=teacher)
    network, _ = stage.once(f"taught-{key}", work)
    return FineTuned(network=network, first_trained=0, frozen=(), origin="conventional")


def _from_trial(search: Search, winner: Trial, wanted: str) -> FineTuned:
    stage = search.stage
    key = _key(search, winner)
    start, record = stage.once(f"winner-{key}", partial(_repeat_trial, search, winner))
    starts = {"prefix": (int(record["first_trained"]), tuple(record["frozen"])), "all": (0, ())}
    found = {}
    for name in starts if wanted == "best" else [wanted]:
        work = partial(_fit_images, stage, start, *starts[name], description=f"fine-tune {name}")
        found[name] = stage.once(f"{name}-{key}", work)
    chosen = max(found, key=lambda name: found[name][1]["val_accuracy"])
    first_trained, frozen = starts[chosen]
    return FineTuned(network=found[chosen][0], first_trained=first_trained, frozen=frozen, origin=chosen)


def _key(search: Search, winner: Trial) -> str:
    # Settings of deeper units may join the space later; they do not change this network.
    neutral = search.space.neutral(int(winner.config[FIRST_TRAINED]))
    own = {name: value for name, value in winner.config.items() if value != neutral[name]}
    return digest_json({**own, FIRST_TRAINED: winner.config[FIRST_TRAINED]})[:8]


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


def _narrowed(
    search: Search, winner: Trial, usual: nn.Sequential, folder: Path
) -> tuple[nn.Sequential, dict[str, Any]]:
    """A fine-tuned network with the winner's structure; channels that go hand over to those that stay."""
    session = search.stage.session
    started = time.perf_counter()

    def keep(
        tail: nn.Sequential,
        cut: int,
        example: Tensor,
        groups: Sequence[WidthGroup],
        widths: Mapping[str, int],
        first_changed: int | None,
    ) -> dict[str, list[int]]:
        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for inputs, labels in session.sample_batches():
                with torch.no_grad():
                    features = usual[:cut](inputs)
                yield features, labels

        if first_changed is not None:
            _measure_norms(session, join(usual[:cut], tail), cut + first_changed)
        return hand_over(tail, example, groups, widths, batches, seed=session.config.seed)

    candidate = CandidateBuilder(
        usual,
        search.space,
        session.example,
        num_classes=session.num_classes,
        seed=session.config.seed,
        hand_over=keep,
    )(winner.config)
    network = session.place(join(usual[: candidate.cut], candidate.tail))
    if candidate.first_changed is not None:
        _measure_norms(session, network, candidate.cut + candidate.first_changed)
    seconds = time.perf_counter() - started
    if not winner.config[HIDDEN_LAYERS]:
        return network, {"seconds": seconds}
    # Large gradients of a new head would spoil what is there. No other network has these features.
    features = folder / "features"
    try:
        network, head = train_head(session, network, features, folder, "head")
    finally:
        shutil.rmtree(features, ignore_errors=True)
    return network, {"head": head, "seconds": seconds + head["seconds"]}


def _measure_norms(session: Session, network: nn.Sequential, first_block: int) -> None:
    reestimate_batchnorm(network, session.train, first_block=first_block, device=session.device)


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
    distillation: Distillation | None = None,
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
        distillation=distillation,
    )
    return network, {"first_trained": first_trained, **fit_record(result)}
